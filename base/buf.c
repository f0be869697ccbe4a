/* buf.c: the bounded buffer, small strings and whole files. */
#include "anneal/base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

void an_buf_init(an_buf *b, size_t max)
{
    *b = (an_buf){.max = max};
}

void an_buf_free(an_buf *b)
{
    free(b->data);
    an_buf_init(b, b->max);
}

void an_buf_drop(an_buf *b, size_t n)
{
    if (n >= b->len) {
        free(b->data);
        b->data = NULL;
        b->len = b->cap = 0;
        return;
    }
    b->len -= n;
    memmove(b->data, b->data + n, b->len + 1);
    char *fit = realloc(b->data, b->len + 1);
    if (!fit) return; /* it stays larger */
    b->data = fit;
    b->cap = b->len + 1;
}

static bool reserve(an_buf *b, size_t more)
{
    size_t need;
    if (b->failed || !an_add_size(b->len, more, &need) || need > b->max || need == SIZE_MAX) {
        b->failed = true;
        return false;
    }
    if (need + 1 <= b->cap) return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need + 1) cap = cap > SIZE_MAX / 2 ? need + 1 : cap * 2;
    char *p = realloc(b->data, cap);
    if (!p) {
        b->failed = true;
        return false;
    }
    b->data = p;
    b->cap = cap;
    return true;
}

bool an_buf_add(an_buf *b, const void *data, size_t len)
{
    if (!reserve(b, len)) return false;
    if (len) memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
    return true;
}

bool an_buf_str(an_buf *b, const char *s)
{
    return an_buf_add(b, s, strlen(s));
}

bool an_buf_printf(an_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && reserve(b, (size_t)n);
    if (ok) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return ok;
}

char *an_buf_take(an_buf *b)
{
    char *p = b->data;
    an_buf_init(b, b->max);
    return p;
}

char *an_strdup(const char *s)
{
    return s ? strdup(s) : NULL;
}

char *an_asprintf(const char *fmt, ...)
{
    va_list ap;
    char *out = NULL;
    va_start(ap, fmt);
    int n = vasprintf(&out, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : out;
}

bool an_ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

size_t an_utf8_char(const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s;
    if (len == 0) return 0;
    if (*p < 0x80) return 1;
    const size_t more = *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : 1;
    if (*p < 0xc2 || *p > 0xf4 || len <= more) return 0;
    uint32_t cp = *p & (uint32_t)(0x3f >> more);
    for (size_t i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        cp = cp << 6 | (p[i] & 0x3fu);
    }
    if ((more == 2 && (cp < 0x800 || (cp >= 0xd800 && cp < 0xe000))) ||
        (more == 3 && (cp < 0x10000 || cp > 0x10ffff)))
        return 0;
    return more + 1;
}

bool an_utf8_valid(const char *s, size_t len)
{
    for (size_t n; len > 0; s += n, len -= n)
        if ((n = an_utf8_char(s, len)) == 0) return false;
    return true;
}

void an_utf8_mend(char *s)
{
    for (size_t len = strlen(s); len > 0;) {
        size_t n = an_utf8_char(s, len);
        if (n == 0) *s = '?', n = 1;
        s += n, len -= n;
    }
}

void an_utf8_copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
    an_utf8_mend(to);
}

an_status an_read_file(const char *path, size_t max, char **out, size_t *len, an_error *err)
{
    *out = NULL;
    if (len) *len = 0;
    FILE *f = fopen(path, "rb");
    if (!f)
        return an_fail(err, errno == ENOENT ? AN_NOT_FOUND : AN_IO, "%s: %s", path,
                       strerror(errno));
    an_buf b;
    an_buf_init(&b, max);
    char chunk[16384];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0 && an_buf_add(&b, chunk, n)) {
    }
    bool broken = ferror(f) != 0;
    fclose(f);
    if (broken || b.failed) {
        an_buf_free(&b);
        if (broken) return an_fail(err, AN_IO, "%s: read error", path);
        return an_fail(err, AN_TOO_LARGE, "%s: larger than the limit of %zu bytes", path, max);
    }
    if (!b.data && !an_buf_add(&b, "", 0))
        return an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    if (len) *len = b.len;
    *out = an_buf_take(&b);
    return AN_OK;
}

bool an_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool an_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}
