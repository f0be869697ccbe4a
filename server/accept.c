/* accept.c: connections from their beginning. One thread accepts and deals them out to the HTTP
 * threads in turn: left to themselves, the thread that wakes first takes a whole burst of clients,
 * and its core serves them while the others look on. And whoever takes too long to say what he
 * wants is cut off, however busily he trickles: libmicrohttpd's own time-out starts again with
 * every byte. */
#include "server_private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_MS                                                                                   \
    100 /* when there are no more files or no memory: connections wait in the backlog */

#define AT_ONCE   64   /* accepted between two looks at whether the server stops */
#define LAST_ONES 1024 /* and when it does */

typedef struct peer {
    int fd;
    _Atomic int64_t until_ms; /* cut off then; 0 = owes nothing */
    bool heard;               /* its first request was answered; its HTTP thread's own */
    struct peer *prev, *next;
} peer;

/* What is said to who finds no place. */
typedef struct refusal {
    char why[128], text[512];
    size_t len;
} refusal;

struct an_accept {
    an_server *server;
    pthread_t thread;
    int listener, wake;
    bool runs;
    uint64_t tick;
    double complained;
    pthread_mutex_t lock; /* of the ring: once at a connection's beginning and end */
    peer all;
    refusal refusals[PLACE_NONE_FOR_ADDRESS + 1]; /* by what was not to be had */
};

/* ---------------------------------------------------------------- slow clients */

static int64_t now_ms(void)
{
    return (int64_t)(an_now_s() * 1e3);
}

void peer_opened(an_accept *a, struct MHD_Connection *c, void **slot)
{
    peer *p = calloc(1, sizeof *p);
    *slot = p;
    if (!p) return; /* then the idle time-out alone looks after it */
    p->fd = connection_fd(c);
    atomic_init(&p->until_ms, now_ms() + (int64_t)(a->server->options.header_timeout_s * 1e3));
    pthread_mutex_lock(&a->lock);
    p->next = a->all.next;
    p->prev = &a->all;
    p->next->prev = a->all.next = p;
    pthread_mutex_unlock(&a->lock);
}

void peer_closed(an_accept *a, void **slot)
{
    peer *p = *slot;
    *slot = NULL;
    if (!p || !p->heard) atomic_fetch_sub(&a->server->unheard, 1);
    if (!p) return;
    pthread_mutex_lock(&a->lock);
    p->prev->next = p->next;
    p->next->prev = p->prev;
    pthread_mutex_unlock(&a->lock);
    free(p);
}

void peer_owes(an_server *s, struct MHD_Connection *c, peer_debt what)
{
    const an_options *o = &s->options;
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    peer *p = i ? i->socket_context : NULL;
    double within = 0;
    if (!p) return;
    if (what == PEER_OWES_HEADERS && !p->heard) {
        p->heard = true;
        atomic_fetch_sub(&s->unheard, 1);
    }
    if (what == PEER_OWES_BODY) within = o->body_timeout_s;
    /* between requests a connection may be idle first; when its next begins nobody tells us */
    if (what == PEER_OWES_HEADERS) within = o->idle_timeout_s + o->header_timeout_s;
    atomic_store_explicit(&p->until_ms, within > 0 ? now_ms() + (int64_t)(within * 1e3) : 0,
                          memory_order_relaxed);
}

/* Once a second, by the watch thread. A shut socket is what libmicrohttpd notices; it closes. */
static void cut_off_slow(void *arg)
{
    an_accept *a = arg;
    int64_t now = now_ms();
    uint64_t n = 0;
    pthread_mutex_lock(&a->lock);
    for (peer *p = a->all.next; p != &a->all; p = p->next) {
        int64_t until = atomic_load_explicit(&p->until_ms, memory_order_relaxed);
        if (!until || now < until) continue;
        atomic_store_explicit(&p->until_ms, 0, memory_order_relaxed);
        atomic_fetch_add(&a->server->cut_off, 1); /* before anybody can see the end */
        shutdown(p->fd, SHUT_RDWR);
        n++;
    }
    pthread_mutex_unlock(&a->lock);
    if (n) an_log(AN_LOG_DEBUG, "http: %llu slow clients cut off", (unsigned long long)n);
}

/* ---------------------------------------------------------------- accepting */

/* Not every few milliseconds when a crowd knocks. */
static bool may_complain(an_accept *a)
{
    double now = an_now_s();
    if (a->complained > 0 && now - a->complained < 10) return false;
    a->complained = now;
    return true;
}

/* In words, as far as it can be: the client gets to read it unless it goes on sending meanwhile. */
static void turn_away(an_accept *a, int fd, const refusal *r)
{
    atomic_fetch_add(&a->server->turned_away, 1);
    if (may_complain(a)) an_log(AN_LOG_WARN, "%s: more are turned away", r->why);
    char drop[4096];
    if (recv(fd, drop, sizeof drop, MSG_DONTWAIT) < 0) errno = 0; /* unread bytes make it a reset */
    bool words = !a->server->gate->tls; /* nobody reads them where a handshake is expected */
    if (words && send(fd, r->text, r->len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) errno = 0;
    close(fd);
}

/* False when nobody is waiting any more. */
static bool accept_one(an_accept *a)
{
    an_server *s = a->server;
    struct sockaddr_storage from = {0};
    socklen_t len = sizeof from;
    int fd = accept4(a->listener, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        place_taken place = places_take(s, (const struct sockaddr *)&from);
        if (place != PLACE_TAKEN) {
            turn_away(a, fd, &a->refusals[place]);
            return true;
        }
        atomic_fetch_add(&s->unheard, 1);
        loops_hand(s->loops, fd, &from, len);
        return true;
    }
    if (errno == EINTR || errno == ECONNABORTED) return true;
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        if (may_complain(a))
            an_log(AN_LOG_WARN, "connections must wait: %s; --max-connections is %d",
                   strerror(errno), s->options.max_connections);
        struct pollfd stop = {.fd = a->wake, .events = POLLIN};
        poll(&stop, 1, PAUSE_MS);
    }
    return false;
}

static void *accept_thread(void *arg)
{
    an_accept *a = arg;
    struct pollfd p[2] = {{.fd = a->wake, .events = POLLIN}, {.fd = a->listener, .events = POLLIN}};
    for (;;) {
        if (poll(p, 2, -1) < 0 && errno != EINTR) break;
        if (p[0].revents) break;
        /* not until nobody waits: under a flood that is never, and the end would not be heard of */
        for (int n = 0; n < AT_ONCE && accept_one(a); n++) continue;
    }
    /* who waits already gets an answer: closing the listener would reset them */
    for (int n = 0; n < LAST_ONES && accept_one(a); n++) continue;
    return NULL;
}

/* ---------------------------------------------------------------- life */

/* r->why is there already. */
static void write_refusal(refusal *r, const char *status, const char *type)
{
    char body[256];
    int n = snprintf(body, sizeof body,
                     "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,"
                     "\"code\":\"no_connection\"}}",
                     r->why, type);
    n = snprintf(r->text, sizeof r->text,
                 "HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
                 "Content-Length: %d\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s",
                 status, n, body);
    r->len = (size_t)n;
}

static void write_refusals(an_accept *a)
{
    const an_options *o = &a->server->options;
    refusal *all = &a->refusals[PLACE_NONE], *own = &a->refusals[PLACE_NONE_FOR_ADDRESS];
    snprintf(all->why, sizeof all->why, "all %d connections are taken (--max-connections)",
             o->max_connections);
    snprintf(own->why, sizeof own->why,
             "all %d connections of one address are taken (--max-connections-per-ip)",
             o->max_connections_per_ip);
    write_refusal(all, "503 Service Unavailable", "server_error");
    write_refusal(own, "429 Too Many Requests", "rate_limit_error");
}

an_accept *accept_new(an_server *s, int fd)
{
    an_accept *a = calloc(1, sizeof *a);
    if (!a) {
        close(fd);
        return NULL;
    }
    a->server = s;
    a->listener = fd;
    a->all.next = a->all.prev = &a->all;
    pthread_mutex_init(&a->lock, NULL);
    write_refusals(a);
    a->wake = eventfd(0, EFD_CLOEXEC);
    a->tick = watch_add(s->watch, -1, NULL, cut_off_slow, a);
    if (a->wake >= 0 && a->tick) return a;
    accept_free(a);
    return NULL;
}

bool accept_start(an_accept *a)
{
    return a->runs = pthread_create(&a->thread, NULL, accept_thread, a) == 0;
}

void accept_quiesce(an_accept *a)
{
    uint64_t one = 1;
    if (a->runs) {
        if (write(a->wake, &one, sizeof one) < 0)
            an_log(AN_LOG_WARN, "accept: %s", strerror(errno));
        pthread_join(a->thread, NULL);
    }
    a->runs = false;
    if (a->listener >= 0) close(a->listener);
    a->listener = -1;
}

void accept_free(an_accept *a)
{
    if (!a) return;
    accept_quiesce(a);
    watch_remove(a->server->watch, a->tick);
    if (a->wake >= 0) close(a->wake);
    pthread_mutex_destroy(&a->lock);
    free(a);
}
