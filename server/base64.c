/* base64.c: RFC 4648, tolerant of white space and a data: URL prefix on the way in. */
#include "image.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool an_base64_encode(const void *data, size_t len, an_buf *out)
{
    const uint8_t *p = data;
    char quad[4 * 256];
    size_t n = 0;
    for (size_t i = 0; i < len; i += 3) {
        size_t left = len - i;
        uint32_t v = (uint32_t)p[i] << 16;
        if (left > 1) v |= (uint32_t)p[i + 1] << 8;
        if (left > 2) v |= p[i + 2];
        quad[n++] = alphabet[v >> 18];
        quad[n++] = alphabet[(v >> 12) & 63];
        quad[n++] = left > 1 ? alphabet[(v >> 6) & 63] : '=';
        quad[n++] = left > 2 ? alphabet[v & 63] : '=';
        if (n == sizeof quad) {
            if (!an_buf_add(out, quad, n)) return false;
            n = 0;
        }
    }
    return an_buf_add(out, quad, n);
}

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+' || c == '-') return 62; /* URL-safe alphabet too */
    if (c == '/' || c == '_') return 63;
    return -1;
}

an_status an_base64_decode(const char *text, size_t len, size_t max, an_buf *out, an_error *err)
{
    if (len >= 5 && memcmp(text, "data:", 5) == 0) {
        const char *comma = memchr(text, ',', len);
        if (!comma) return an_fail(err, AN_INVALID, "data: URL without a comma");
        len -= (size_t)(comma + 1 - text);
        text = comma + 1;
    }
    an_buf_init(out, max);
    uint32_t v = 0;
    int bits = 0, pad = 0;
    size_t digits = 0, n = 0;
    char block[768];
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == ' ' || c == '\n' || c == '\r' || c == '\t') continue;
        int d = digit(c);
        if (c == '=') {
            pad++;
            continue;
        }
        if (d < 0 || pad) {
            an_buf_free(out);
            return an_fail(err, AN_INVALID, "not base64: byte %zu is 0x%02x", i, (unsigned char)c);
        }
        v = v << 6 | (uint32_t)d;
        bits += 6;
        digits++;
        if (bits < 8) continue;
        bits -= 8;
        block[n++] = (char)(v >> bits & 255u);
        if (n == sizeof block) {
            an_buf_add(out, block, n); /* a failure stays: it is asked for below */
            n = 0;
        }
    }
    if (!an_buf_add(out, block, n)) {
        an_buf_free(out);
        return an_fail(err, AN_TOO_LARGE, "base64 holds more than %zu bytes", max);
    }
    if (digits % 4 == 1 || pad > 2) {
        an_buf_free(out);
        return an_fail(err, AN_INVALID, "base64 ends in the middle of a byte");
    }
    return AN_OK;
}
