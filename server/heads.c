/* heads.c: see heads.h. */
#include "heads.h"

#include "anneal/base.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/random.h>

/* ---------------------------------------------------------------- walking */

static void take(const char *name, const char *value, const char *wanted, const char **out,
                 int *count)
{
    if (strcasecmp(name, wanted) != 0) return;
    if (!*out) *out = value; /* the first counts */
    if (count) ++*count;
}

/* What came before the last ones is further from us, and the client's more than the proxies'. */
static void keep_forwarded(heads *h, const char *value)
{
    if (h->n_forwarded == HEADS_FORWARDED)
        memmove(h->forwarded, h->forwarded + 1, (size_t)--h->n_forwarded * sizeof *h->forwarded);
    h->forwarded[h->n_forwarded++] = value;
}

static enum MHD_Result visit(void *cls, enum MHD_ValueKind kind, const char *name,
                             const char *value)
{
    heads *h = cls;
    (void)kind;
    value = value ? value : "";
    for (const unsigned char *p = (const unsigned char *)name; *p; p++)
        h->odd_name |= *p <= 0x20 || *p >= 0x7f;
    h->odd_name |= !*name;
    switch (name[0] | 0x20) {
    case 'a':
        take(name, value, "Authorization", &h->authorization, NULL);
        break;
    case 'c':
        take(name, value, "Content-Length", &h->length, &h->lengths);
        take(name, value, "Content-Type", &h->type, NULL);
        take(name, value, "Content-Encoding", &h->encoding, NULL);
        break;
    case 'e':
        take(name, value, "Expect", &h->expect, NULL);
        break;
    case 'h':
        take(name, value, "Host", &h->host, &h->hosts);
        break;
    case 'o':
        take(name, value, "Origin", &h->origin, NULL);
        break;
    case 's':
        take(name, value, "Sec-Fetch-Site", &h->fetch_site, NULL);
        break;
    case 't':
        take(name, value, "Transfer-Encoding", &h->coding, &h->codings);
        break;
    case 'x':
        take(name, value, "X-Api-Key", &h->api_key, NULL);
        take(name, value, "X-Request-Id", &h->id, NULL);
        take(name, value, "X-Forwarded-Proto", &h->proto, NULL);
        if (strcasecmp(name, "X-Forwarded-For") == 0) keep_forwarded(h, value);
        break;
    }
    return MHD_YES;
}

void heads_read(struct MHD_Connection *c, heads *out)
{
    *out = (heads){0};
    MHD_get_connection_values(c, MHD_HEADER_KIND, visit, out);
}

/* ---------------------------------------------------------------- bodies */

const char *heads_fault(const heads *h, const char *version, int *status)
{
    bool old = strcmp(version, "HTTP/1.0") == 0;
    *status = 400;
    if (h->odd_name) return "a header's name holds what no name may";
    if (h->hosts > 1) return "there is more than one Host header";
    if (!h->hosts && !old) return "there is no Host header";
    if (h->lengths > 1) return "there is more than one Content-Length header";
    if (h->lengths && h->length[strspn(h->length, "0123456789")])
        return "Content-Length is not a number";
    if (h->codings && h->lengths) return "there is both a Content-Length and a Transfer-Encoding";
    if (h->codings && old) return "HTTP/1.0 knows no Transfer-Encoding";
    *status = 501;
    if (h->codings > 1 || (h->codings && strcasecmp(h->coding, "chunked") != 0))
        return "the only Transfer-Encoding known here is chunked";
    return NULL;
}

bool heads_body(const heads *h)
{
    return h->codings || (h->lengths && strtoull(h->length, NULL, 10) > 0);
}

bool heads_json(const heads *h, const char **why)
{
    const char *type = h->type;
    *why = "the body must be JSON: send `Content-Type: application/json`";
    if (type) {
        size_t n = strcspn(type, "; \t");
        bool json = n == 16 && strncasecmp(type, "application/json", n) == 0;
        bool suffix = n > 17 && strncasecmp(type, "application/", 12) == 0 &&
                      strncasecmp(type + n - 5, "+json", 5) == 0;
        if (!json && !suffix) return false;
    }
    *why = "compressed bodies are not read: leave out Content-Encoding";
    return !h->encoding || strcasecmp(h->encoding, "identity") == 0;
}

/* ---------------------------------------------------------------- ids */

/* SplitMix64 (Steele, Lea, Flood 2014) from a random start in each thread: an id is a name to look
 * for, not a secret. */
static uint64_t random64(void)
{
    static _Thread_local uint64_t state;
    static _Thread_local bool begun;
    if (!begun) {
        begun = true;
        if (getrandom(&state, sizeof state, 0) != (ssize_t)sizeof state)
            state = (uint64_t)(uintptr_t)&state ^ (uint64_t)(an_now_s() * 1e9);
    }
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void request_id(const heads *h, char id[REQUEST_ID])
{
    static const char digits[] = "0123456789abcdef";
    size_t n = 0;
    if (h->id)
        while (n < REQUEST_ID && h->id[n] &&
               (isalnum((unsigned char)h->id[n]) || strchr("._-", h->id[n])))
            n++;
    if (n && n < REQUEST_ID && !h->id[n]) {
        memcpy(id, h->id, n + 1);
        return;
    }
    uint64_t r[2] = {random64(), random64()};
    for (int i = 0; i < 32; i++) id[i] = digits[r[i / 16] >> 4 * (i % 16) & 15];
    id[32] = '\0';
}

/* ---------------------------------------------------------------- escapes */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool unescape(const char *from, size_t n, char *to, size_t size)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        int c = (unsigned char)from[i];
        if (c == '%') {
            int high = i + 2 < n ? hex_digit(from[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(from[i + 2]) : -1;
            if (low < 0) return false;
            c = high << 4 | low;
            i += 2;
        }
        if (c == 0 || at + 1 >= size) return false;
        to[at++] = (char)c;
    }
    to[at] = '\0';
    return true;
}
