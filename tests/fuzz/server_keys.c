/* Bytes as a key file. What is taken must be well-formed, and say the same when written and read.
 */
#include "keys.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static an_key_line lines[AN_MAX_KEYS], again[AN_MAX_KEYS];
    an_error err = {0};
    int n = 0;
    an_status s = an_keys_parse((const char *)data, size, "keys", lines, &n, &err);
    if (n < 0 || n > AN_MAX_KEYS || (s != AN_OK && !*err.message)) abort();
    for (int i = 0; i < n; i++) {
        char text[192];
        int one = 0;
        if (!an_key_name_valid(lines[i].name)) abort();
        an_key_format(&lines[i], text, sizeof text);
        if (an_keys_parse(text, strlen(text), "again", again, &one, NULL) != AN_OK || one != 1)
            abort();
        if (memcmp(&again[0], &lines[i], sizeof lines[i]) != 0) abort();
    }
    return 0;
}
