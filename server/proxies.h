/* proxies.h: whom a request comes from that a proxy of ours passes on. X-Forwarded-For is a list to
 * which each proxy adds the address it was asked by; whatever stands before is the client's own
 * words. So it is read from its end, as far as addresses are those of --trusted-proxy. */
#ifndef ANNEAL_PROXIES_H
#define ANNEAL_PROXIES_H

#include "anneal/base.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* The address of a connection's other end, of IPv4 mapped (::ffff:10.0.0.2), so that it is the same
 * at a socket of both kinds. False if it is of neither; from may be NULL. */
bool an_address_of(const struct sockaddr *from, struct in6_addr *out);

typedef struct an_proxies an_proxies;

/* list: addresses (10.0.0.2, fd00::2) and networks (10.0.0.0/8). AN_INVALID names the one that is
 * neither. */
an_status an_proxies_new(char *const *list, int n, an_proxies **out, an_error *err);
void an_proxies_free(an_proxies *p);
/* Is the connection's other end one of them? p may be NULL, as in all of these: there are none. */
bool an_proxies_trust(const an_proxies *p, const struct sockaddr *from);
/* The address, without its port, of the client that the n lines of X-Forwarded-For tell of, in the
 * order they came; the connection's own where its other end is not trusted, or they tell nothing
 * that can be read. size: INET6_ADDRSTRLEN. */
void an_proxies_client(const an_proxies *p, const struct sockaddr *from, const char *const *lines,
                       int n, char *name, size_t size);

#endif
