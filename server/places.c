/* places.c: places for connections: --max-connections in all, --max-connections-per-ip for an
 * address. One is taken before libmicrohttpd gets the socket and given back when the connection
 * ends. Counting in its notification, on an HTTP thread, let a burst through before any of it was
 * counted, and its own limits know of one thread each. */
#include "server_private.h"

#include <search.h>
#include <stdlib.h>

/* An address with connections, in the tree while it has any. */
typedef struct address {
    unsigned char ip[16]; /* of IPv6 the network's half: its host has 2^64 */
    int connections;
} address;

static int by_ip(const void *a, const void *b)
{
    return memcmp(((const address *)a)->ip, ((const address *)b)->ip,
                  sizeof((const address *)a)->ip);
}

static address address_of(const struct sockaddr *from)
{
    address a = {.connections = 0};
    struct in6_addr at;
    if (an_address_of(from, &at)) memcpy(a.ip, &at, IN6_IS_ADDR_V4MAPPED(&at) ? 16 : 8);
    return a;
}

/* Lock held. NULL = no memory. */
static address *known(an_places *p, const address *key)
{
    address **found = tfind(key, &p->addresses, by_ip);
    if (found) return *found;
    address *a = malloc(sizeof *a);
    if (!a) return NULL;
    *a = *key;
    if (tsearch(a, &p->addresses, by_ip)) return a;
    free(a);
    return NULL;
}

/* Lock held. */
static void leave(an_places *p, address *a)
{
    if (--a->connections > 0) return;
    tdelete(a, &p->addresses, by_ip);
    free(a);
}

place_taken places_take(an_server *s, const struct sockaddr *from)
{
    an_places *p = &s->places;
    const int limit = s->options.max_connections_per_ip;
    if (atomic_fetch_add(&s->connections, 1) >= s->options.max_connections) {
        atomic_fetch_sub(&s->connections, 1);
        return PLACE_NONE;
    }
    if (!limit || an_proxies_trust(s->gate->proxies, from)) return PLACE_TAKEN;
    const address key = address_of(from);
    pthread_mutex_lock(&p->lock);
    address *a = known(p, &key);
    bool room = a && a->connections < limit;
    if (room) a->connections++;
    pthread_mutex_unlock(&p->lock);
    if (room) return PLACE_TAKEN;
    atomic_fetch_sub(&s->connections, 1);
    return PLACE_NONE_FOR_ADDRESS;
}

void places_give(an_server *s, const struct sockaddr *from)
{
    an_places *p = &s->places;
    atomic_fetch_sub(&s->connections, 1);
    if (!s->options.max_connections_per_ip || an_proxies_trust(s->gate->proxies, from)) return;
    const address key = address_of(from);
    pthread_mutex_lock(&p->lock);
    address **found = tfind(&key, &p->addresses, by_ip);
    if (found) leave(p, *found);
    pthread_mutex_unlock(&p->lock);
}
