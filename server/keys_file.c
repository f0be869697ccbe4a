/* keys_file.c: the lines of a key file, read and written, and the hash of a secret. */
#include "keys.h"

#include <gnutls/crypto.h>
#include <stdio.h>

#define MAX_LIMIT 1000000
#define SCHEME    "sha256:"

bool an_key_name_valid(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return n > 0 && n < AN_KEY_NAME && !name[n];
}

void an_key_hash(const char *secret, size_t len, unsigned char hash[AN_KEY_HASH])
{
    /* cannot fail for SHA-256; if it did, a hash of nothing must fit no key's */
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, secret, len, hash) != 0) memset(hash, 0, AN_KEY_HASH);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool read_hash(const char *word, unsigned char hash[AN_KEY_HASH])
{
    if (strncmp(word, SCHEME, strlen(SCHEME)) != 0) return false;
    word += strlen(SCHEME);
    if (strlen(word) != (size_t)2 * AN_KEY_HASH) return false;
    for (int i = 0; i < AN_KEY_HASH; i++) {
        int high = hex_digit(word[2 * i]), low = hex_digit(word[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        hash[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

static bool read_limit(const char *digits, int *out)
{
    int v = 0;
    if (!*digits) return false;
    for (; *digits; digits++) {
        if (*digits < '0' || *digits > '9') return false;
        v = 10 * v + (*digits - '0');
        if (v > MAX_LIMIT) return false;
    }
    *out = v;
    return true;
}

/* One word after name and hash; *why says what is wrong. */
static bool read_word(const char *word, an_key_line *line, const char **why)
{
    int *limit = strncmp(word, "rpm=", 4) == 0    ? &line->per_minute
                 : strncmp(word, "jobs=", 5) == 0 ? &line->jobs
                                                  : NULL;
    *why = "is not rpm=N or jobs=N";
    if (!limit) return false;
    *why = "comes twice";
    if (*limit >= 0) return false;
    *why = "is not a number from 0 to 1000000";
    return read_limit(strchr(word, '=') + 1, limit);
}

/* A line, NUL-terminated, in words. AN_NOT_FOUND: it is empty. Secrets may stand where hashes
 * should, so messages quote names and limits only. */
static an_status read_line(char *text, an_key_line *line, an_error *err)
{
    char *rest = text, *word;
    const char *why;
    int words = 0;
    *line = (an_key_line){.per_minute = -1, .jobs = -1};
    while ((word = strsep(&rest, " \t\r")) != NULL) {
        if (!*word) continue;
        if (words == 0 && !an_key_name_valid(word))
            return an_fail(err, AN_INVALID, "a name has 1 to %d letters, digits, '.', '_' or '-'",
                           AN_KEY_NAME - 1);
        if (words == 0)
            snprintf(line->name, sizeof line->name, "%s", word);
        else if (words == 1 && !read_hash(word, line->hash))
            return an_fail(err, AN_INVALID,
                           "after the name '%s' comes sha256: and 64 hexadecimal digits; `anneal "
                           "key %s` makes a key and its line",
                           line->name, line->name);
        else if (words > 1 && !read_word(word, line, &why))
            return an_fail(err, AN_INVALID, "'%.40s' %s", word, why);
        words++;
    }
    if (words == 0) return AN_NOT_FOUND;
    return words > 1 ? AN_OK
                     : an_fail(err, AN_INVALID, "there is no hash after the name '%s'", line->name);
}

static an_status check_new(const an_key_line *lines, int n, an_error *err)
{
    const an_key_line *line = &lines[n];
    for (int i = 0; i < n; i++) {
        if (strcmp(lines[i].name, line->name) == 0)
            return an_fail(err, AN_INVALID, "the name '%s' comes twice", line->name);
        if (memcmp(lines[i].hash, line->hash, AN_KEY_HASH) == 0)
            return an_fail(err, AN_INVALID, "'%s' and '%s' have the same secret", lines[i].name,
                           line->name);
    }
    return AN_OK;
}

an_status an_keys_parse(const char *text, size_t len, const char *file, an_key_line *lines,
                        int *n_lines, an_error *err)
{
    char buf[512];
    const char *end = text + len;
    for (int number = 1; text < end; number++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((stop ? stop : end) - text);
        const char *comment = memchr(text, '#', n);
        size_t used = comment ? (size_t)(comment - text) : n;
        an_key_line line;
        an_status s = AN_OK;
        if (used >= sizeof buf || memchr(text, '\0', used)) {
            s = an_fail(err, AN_INVALID, "this is no line of a key: it %s",
                        used >= sizeof buf ? "is too long" : "holds a zero byte");
        } else {
            memcpy(buf, text, used);
            buf[used] = '\0';
            s = read_line(buf, &line, err);
        }
        if (s == AN_OK && *n_lines == AN_MAX_KEYS)
            s = an_fail(err, AN_INVALID, "there are more than %d keys", AN_MAX_KEYS);
        if (s == AN_OK) {
            lines[*n_lines] = line;
            s = check_new(lines, *n_lines, err);
            *n_lines += s == AN_OK;
        }
        if (s != AN_OK && s != AN_NOT_FOUND)
            return an_fail_prefix(err, s, "%s line %d", file, number);
        text = stop ? stop + 1 : end;
    }
    return AN_OK;
}

void an_key_format(const an_key_line *line, char *text, size_t size)
{
    char hex[2 * AN_KEY_HASH + 1], rpm[24] = "", jobs[24] = "";
    for (int i = 0; i < AN_KEY_HASH; i++) snprintf(hex + 2 * i, 3, "%02x", line->hash[i]);
    if (line->per_minute >= 0) snprintf(rpm, sizeof rpm, " rpm=%d", line->per_minute);
    if (line->jobs >= 0) snprintf(jobs, sizeof jobs, " jobs=%d", line->jobs);
    snprintf(text, size, "%s %s%s%s%s", line->name, SCHEME, hex, rpm, jobs);
}
