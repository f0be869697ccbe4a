/* Bytes as an uploaded picture of any kind: pixels, metadata, and the infotext in it. The same
 * bytes are read as base64 text and as infotext as well. */
#include "api/image_ask.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void infotext(const char *text)
{
    json_t *j = infotext_parse(text);
    if (!json_is_object(j)) abort();
    json_decref(j);
}

static void base64(const char *text, size_t size)
{
    an_buf out, again, back;
    if (an_base64_decode(text, size, size, &out, NULL) != AN_OK) return;
    an_buf_init(&again, 2 * size + 8);
    if (!an_base64_encode(out.data, out.len, &again)) abort();
    if (an_base64_decode(again.data, again.len, size, &back, NULL) != AN_OK) abort();
    if (back.len != out.len || (out.len && memcmp(back.data, out.data, out.len) != 0)) abort();
    an_buf_free(&out);
    an_buf_free(&again);
    an_buf_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    an_picture picture;
    an_error err;
    char *text = NULL;
    if (an_image_decode(data, size, 1 << 16, &picture, &err) == AN_OK) {
        if (!picture.pixels || (int64_t)picture.w * picture.h > 1 << 16) abort();
        free(picture.pixels);
    }
    if (an_image_text(data, size, "parameters", &text, &err) == AN_OK && text) {
        if (!an_utf8_valid(text, strlen(text))) abort();
        infotext(text);
    }
    free(text);
    char *copy = malloc(size + 1);
    if (!copy) return 0;
    if (size) memcpy(copy, data, size);
    copy[size] = '\0';
    base64(copy, size);
    infotext(copy);
    free(copy);
    return 0;
}
