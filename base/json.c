/* json.c: jansson with the limits that hostile input needs. jansson itself refuses bad UTF-8, NUL
 * characters and numbers out of range; depth and duplicate keys are ours to ask for. */
#include "anneal/base.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* jansson recurses up to 2048 deep; a scan before parsing keeps the stack small and known. */
static bool depth_ok(const char *s, size_t len)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        if (in_string) {
            if (c == '\\') i++;
            else if (c == '"') in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > AN_JSON_MAX_DEPTH) return false;
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return true;
}

an_status an_json_parse(const char *text, size_t len, json_t **out, an_error *err)
{
    *out = NULL;
    if (!depth_ok(text, len))
        return an_fail(err, AN_INVALID, "JSON nested deeper than %d levels", AN_JSON_MAX_DEPTH);
    json_error_t je;
    *out = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (*out) return AN_OK;
    return an_fail(err, AN_INVALID, "not valid JSON: line %d column %d: %s", je.line, je.column,
                   je.text);
}

/* Bytes of the number, without its sign, that begins at s; 0 if none does. */
static size_t number_len(const char *s, size_t len)
{
    size_t n = 0;
    if (len == 0 || s[0] < '0' || s[0] > '9') return 0;
    while (n < len && s[n] && strchr("0123456789.eE+-", s[n])) n++;
    return n;
}

/* Integers past 64 bits: transformers writes int(1e30) for "no limit known". */
static bool is_huge_integer(const char *s, size_t n)
{
    static const char max[] = "9223372036854775807";
    if (n < sizeof max - 1 || memchr(s, '.', n) || memchr(s, 'e', n) || memchr(s, 'E', n))
        return false;
    return n > sizeof max - 1 || memcmp(s, max, n) > 0;
}

/* Python writes Infinity, -Infinity and NaN as bare words; copy them as what JSON can say. An
 * integer too large for jansson is copied as a real. */
static bool copy_replacing_literals(const char *s, size_t len, an_buf *b)
{
    static const struct {
        const char *word, *json;
    } literal[] = {{"-Infinity", "-1.7976931348623157e308"},
                   {"Infinity", "1.7976931348623157e308"},
                   {"NaN", "null"}};
    bool in_string = false;
    size_t i = 0;
    while (i < len) {
        size_t n = 1, k = 0;
        if (in_string) {
            if (s[i] == '\\' && i + 1 < len) n = 2;
            else if (s[i] == '"') in_string = false;
        } else if (s[i] == '"') {
            in_string = true;
        } else {
            for (k = 0; k < 3; k++) {
                n = strlen(literal[k].word);
                if (len - i >= n && memcmp(s + i, literal[k].word, n) == 0) break;
            }
            if (k < 3) {
                an_buf_str(b, literal[k].json);
                i += n;
                continue;
            }
            n = number_len(s + i, len - i);
            if (is_huge_integer(s + i, n)) {
                an_buf_add(b, s + i, n);
                an_buf_str(b, ".0");
                i += n;
                continue;
            }
            if (n == 0) n = 1;
        }
        an_buf_add(b, s + i, n);
        i += n;
    }
    return !b->failed;
}

an_status an_json_parse_lenient(const char *text, size_t len, json_t **out, an_error *err)
{
    an_buf b;
    size_t max;
    *out = NULL;
    if (!an_mul_size(len + 16, 4, &max)) return an_fail(err, AN_TOO_LARGE, "JSON too large");
    an_buf_init(&b, max);
    if (!copy_replacing_literals(text, len, &b)) {
        an_buf_free(&b);
        return an_fail(err, AN_NO_MEMORY, "out of memory reading JSON");
    }
    an_status s = an_json_parse(b.data ? b.data : "", b.len, out, err);
    an_buf_free(&b);
    return s;
}

an_status an_json_read_file(const char *path, size_t max, json_t **out, an_error *err)
{
    char *text;
    size_t len;
    *out = NULL;
    an_status s = an_read_file(path, max, &text, &len, err);
    if (s != AN_OK) return s;
    s = an_json_parse_lenient(text, len, out, err);
    free(text);
    if (s != AN_OK) return an_fail_prefix(err, s, "%s", path);
    return AN_OK;
}
