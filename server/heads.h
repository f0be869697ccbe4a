/* heads.h: a request's headers, walked through once: those that something is decided by, and what
 * makes a request's end uncertain. Where a proxy and a server disagree on that, one client's bytes
 * become another's request (RFC 9112, 11.2), so nothing of the kind is read. */
#ifndef ANNEAL_HEADS_H
#define ANNEAL_HEADS_H

#include <microhttpd.h>
#include <stdbool.h>

#define HEADS_FORWARDED 8

typedef struct heads {
    /* values, NULL if absent; they live as long as the request */
    const char *host, *length, *coding, *expect, *type, *encoding, *authorization, *api_key;
    const char *origin, *fetch_site, *id, *proto;
    const char *forwarded[HEADS_FORWARDED]; /* X-Forwarded-For, in the order they came */
    int n_forwarded;                        /* more than there is room for: the last ones */
    int hosts, lengths, codings;            /* how often */
    bool odd_name;                          /* a name that is no token: "Content-Length " */
} heads;

void heads_read(struct MHD_Connection *c, heads *out);
/* NULL, or what is wrong with a request that has this version ("HTTP/1.1"); *status is 400, or 501
 * for a transfer coding that nobody here knows. The connection cannot be used again. */
const char *heads_fault(const heads *h, const char *version, int *status);
/* Is there a body? */
bool heads_body(const heads *h);
/* Can the body be JSON? If not, *why says so. A request without Content-Type may be: programs that
 * send none mean it, and pages of other sites are told by other headers. */
bool heads_json(const heads *h, const char **why);

#define REQUEST_ID 65
/* The client's X-Request-Id if it is 1 to 64 letters, digits, '.', '_', '-', else a random one. */
void request_id(const heads *h, char id[REQUEST_ID]);

/* Decodes %XX of [from, from + n) into to; false if it does not fit, holds %00, or a % that begins
 * no such thing. */
bool unescape(const char *from, size_t n, char *to, size_t size);

#endif
