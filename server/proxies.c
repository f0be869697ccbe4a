/* proxies.c: see proxies.h. All addresses are IPv6's; those of IPv4 are mapped. */
#include "proxies.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct network {
    struct in6_addr at;
    int bits; /* that count */
} network;

struct an_proxies {
    int n;
    network list[];
};

/* ---------------------------------------------------------------- addresses */

static struct in6_addr mapped(struct in_addr v4)
{
    struct in6_addr a = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
    memcpy(a.s6_addr + 12, &v4, 4);
    return a;
}

/* n bytes. */
static bool parse(const char *from, size_t n, struct in6_addr *out)
{
    char text[INET6_ADDRSTRLEN];
    struct in_addr v4;
    if (n >= sizeof text) return false;
    memcpy(text, from, n);
    text[n] = '\0';
    if (inet_pton(AF_INET6, text, out) == 1) return true;
    if (inet_pton(AF_INET, text, &v4) != 1) return false;
    *out = mapped(v4);
    return true;
}

/* An address as proxies write it, n bytes, not 0: also 10.0.0.2:4711, [fd00::2], [fd00::2]:4711. */
static bool parse_hop(const char *from, size_t n, struct in6_addr *out)
{
    const char *end = from + n, *colon = memchr(from, ':', n), *close = memchr(from, ']', n);
    if (*from == '[') {
        if (!close || (close + 1 < end && close[1] != ':') || !colon || colon > close) return false;
        return parse(from + 1, (size_t)(close - from) - 1, out);
    }
    if (colon && !memchr(colon + 1, ':', (size_t)(end - colon) - 1)) end = colon;
    return parse(from, (size_t)(end - from), out);
}

bool an_address_of(const struct sockaddr *from, struct in6_addr *out)
{
    const void *at = from;
    if (!from || (from->sa_family != AF_INET && from->sa_family != AF_INET6)) return false;
    *out = from->sa_family == AF_INET6 ? ((const struct sockaddr_in6 *)at)->sin6_addr
                                       : mapped(((const struct sockaddr_in *)at)->sin_addr);
    return true;
}

static void print(const struct in6_addr *a, char *name, size_t size)
{
    bool v4 = IN6_IS_ADDR_V4MAPPED(a);
    inet_ntop(v4 ? AF_INET : AF_INET6, a->s6_addr + (v4 ? 12 : 0), name, (socklen_t)size);
}

/* ---------------------------------------------------------------- networks */

static bool parse_network(const char *text, network *out)
{
    const size_t n = strcspn(text, "/");
    if (!parse(text, n, &out->at)) return false;
    const int all = memchr(text, ':', n) ? 128 : 32;
    int bits = all;
    if (text[n]) {
        const char *digits = text + n + 1;
        size_t len = strspn(digits, "0123456789");
        if (!len || len > 3 || digits[len]) return false;
        bits = atoi(digits);
    }
    out->bits = bits + 128 - all;
    /* ::ffff:10.0.0.0/8 would be everybody: its 8 bits are those before the ones that are meant */
    return bits <= all && (out->bits >= 96 || !IN6_IS_ADDR_V4MAPPED(&out->at));
}

static bool holds(const network *n, const struct in6_addr *a)
{
    const int whole = n->bits / 8, rest = n->bits % 8;
    if (memcmp(n->at.s6_addr, a->s6_addr, (size_t)whole) != 0) return false;
    return !rest || !((n->at.s6_addr[whole] ^ a->s6_addr[whole]) >> (8 - rest));
}

static bool trusted(const an_proxies *p, const struct in6_addr *a)
{
    for (int i = 0; p && i < p->n; i++)
        if (holds(&p->list[i], a)) return true;
    return false;
}

/* ---------------------------------------------------------------- the list */

an_status an_proxies_new(char *const *list, int n, an_proxies **out, an_error *err)
{
    an_proxies *p = calloc(1, sizeof *p + (size_t)n * sizeof *p->list);
    *out = NULL;
    if (!p) return an_fail(err, AN_NO_MEMORY, "out of memory");
    for (; p->n < n; p->n++)
        if (!parse_network(list[p->n], &p->list[p->n])) {
            an_fail(err, AN_INVALID,
                    "--trusted-proxy: '%s' is neither an address (10.0.0.2, fd00::2) nor a network "
                    "(10.0.0.0/8, fd00::/8)",
                    list[p->n]);
            free(p);
            return AN_INVALID;
        }
    *out = p;
    return AN_OK;
}

void an_proxies_free(an_proxies *p)
{
    free(p);
}

bool an_proxies_trust(const an_proxies *p, const struct sockaddr *from)
{
    struct in6_addr a;
    return an_address_of(from, &a) && trusted(p, &a);
}

/* From the end of one line towards its beginning, while *at is a proxy's; false when it is not, or
 * what stands before it cannot be read. */
static bool walk_back(const an_proxies *p, const char *line, struct in6_addr *at)
{
    static const char blank[] = " \t";
    size_t end = strlen(line);
    for (;;) {
        while (end && strchr(blank, line[end - 1])) end--;
        size_t begin = end;
        while (begin && line[begin - 1] != ',') begin--;
        size_t skip = begin + strspn(line + begin, blank);
        if (skip < end) { /* empty ones are no hops (RFC 9110, 5.6.1) */
            struct in6_addr hop;
            if (!parse_hop(line + skip, end - skip, &hop)) return false;
            *at = hop;
            if (!trusted(p, at)) return false;
        }
        if (!begin) return true;
        end = begin - 1;
    }
}

void an_proxies_client(const an_proxies *p, const struct sockaddr *from, const char *const *lines,
                       int n, char *name, size_t size)
{
    struct in6_addr at;
    snprintf(name, size, "unknown");
    if (!an_address_of(from, &at)) return;
    if (trusted(p, &at))
        while (n > 0 && walk_back(p, lines[--n], &at)) continue;
    print(&at, name, size);
}
