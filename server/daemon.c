/* daemon.c: the server's life: the listening socket, starting, stopping. */
#include "api/image_ask.h"
#include "server_private.h"

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 4096 /* or what the system allows (net.core.somaxconn) */
#define FIRST_WORD                                                                                 \
    1.0 /* seconds for a connection that was just accepted to ask, when the server stops */
#define LAST_WORD 5 /* seconds for slow readers to take their answers when the server stops */

/* ---------------------------------------------------------------- the listening socket */

/* A client whose machine or network is gone says no farewell: after idle_timeout without a word the
 * system asks for a sign of life, and gives up three questions later, or when what was sent has not
 * arrived for as long. Accepted sockets inherit it. Without these a stream to nobody would live,
 * and its job run, for hours. */
static void notice_the_dead(int fd, double idle_timeout_s)
{
    const int on = 1, idle = (int)idle_timeout_s, every = idle < 30 ? (idle + 2) / 3 : 10,
              probes = 3;
    const unsigned unheard_ms = (unsigned)(idle_timeout_s * 1e3);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unheard_ms, sizeof unheard_ms);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static int bind_socket(const struct addrinfo *a, double idle_timeout_s)
{
    const int on = 1, off = 0;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    /* Only REUSEADDR: with REUSEPORT, which libmicrohttpd's own option means, a second server on
     * the same port would start without a word and take half of the requests. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    notice_the_dead(fd, idle_timeout_s);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

an_status an_server_listen(const an_options *o, int *fd, an_error *err)
{
    char port[16];
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    *fd = -1;
    snprintf(port, sizeof port, "%d", o->port);
    int rc = getaddrinfo(o->host, port, &hint, &found);
    if (rc != 0) return an_fail(err, AN_INVALID, "--host %s: %s", o->host, gai_strerror(rc));
    errno = EADDRNOTAVAIL;
    for (const struct addrinfo *a = found; a && *fd < 0; a = a->ai_next)
        *fd = bind_socket(a, o->idle_timeout_s);
    int why = errno;
    freeaddrinfo(found);
    if (*fd >= 0) return AN_OK;
    return an_fail(err, AN_IO, "cannot listen on %s port %d: %s%s", o->host, o->port, strerror(why),
                   why == EADDRINUSE ? "; --port chooses another, 0 picks a free one" : "");
}

static int bound_port(int fd)
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0) return 0;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&a)->sin6_port
                                         : ((struct sockaddr_in *)(void *)&a)->sin_port);
}

/* ---------------------------------------------------------------- start */

static void expire_links(void *arg)
{
    links_expire(arg);
}

static void look_at_gate(void *arg)
{
    an_gate_tick(arg);
}

an_status an_server_start(const an_options *o, int fd, an_gate *gate, an_engine *e, an_server **out,
                          an_error *err)
{
    an_server *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s) {
        close(fd);
        return an_fail(err, AN_NO_MEMORY, "out of memory");
    }
    s->options = *o;
    s->gate = gate;
    s->engine = e;
    s->started = an_unix_s();
    s->port = bound_port(fd);
    if (getrandom(&s->salt, sizeof s->salt, 0) != (ssize_t)sizeof s->salt)
        s->salt = (uint64_t)(an_now_s() * 1e9);
    s->workers = workers_new(o->encode_threads);
    s->watch = watch_new();
    cached_init(s->cached);
    pthread_mutex_init(&s->places.lock, NULL);
    s->links_tick = s->watch ? watch_add(s->watch, -1, NULL, expire_links, s) : 0;
    s->gate_tick = s->watch ? watch_add(s->watch, -1, NULL, look_at_gate, gate) : 0;
    if (s->links_tick && s->gate_tick)
        s->accept = accept_new(s, fd);
    else
        close(fd);
    if (s->workers && s->accept) s->loops = loops_new(s);
    if (!s->loops || !accept_start(s->accept)) {
        an_server_stop(s);
        return an_fail(err, AN_NO_MEMORY, "the server's threads could not be started");
    }
    *out = s;
    return AN_OK;
}

/* ---------------------------------------------------------------- stop */

void an_server_quiesce(an_server *s)
{
    accept_quiesce(s->accept);
}

static void wait_for_none(const _Atomic int *n, double until)
{
    while (atomic_load(n) && an_now_s() < until) usleep(2000);
}

void an_server_stop(an_server *s)
{
    if (!s) return;
    atomic_store(&s->stopping, true);
    /* Every job has ended, so each sleeper is being answered by an encoder thread. A stream whose
     * reader is behind sleeps now and then until it has told all: it has the last word's time. */
    wait_for_none(&s->waiting, INFINITY);
    const double until = an_now_s() + LAST_WORD;
    wait_for_none(&s->unsent, until);
    atomic_store(&s->sleepless, true);
    wait_for_none(&s->asleep, INFINITY);
    wait_for_none(&s->unsent, until); /* of those just woken */
    if (s->accept) accept_quiesce(s->accept);
    /* A proxy that has just connected sends its request at once, and may not send it elsewhere when
     * it is reset: it gets to hear 503. */
    wait_for_none(&s->unheard, an_now_s() + FIRST_WORD);
    loops_free(s->loops);
    accept_free(s->accept);
    workers_free(s->workers);
    if (s->watch) {
        watch_remove(s->watch, s->links_tick);
        watch_remove(s->watch, s->gate_tick);
    }
    watch_free(s->watch);
    cached_free(s->cached);
    pthread_mutex_destroy(&s->places.lock);
    free(s);
}

/* ---------------------------------------------------------------- sleep and memory */

bool server_sleep(an_server *s)
{
    /* counted before the question, so that an_server_stop misses nobody who was let through */
    atomic_fetch_add(&s->asleep, 1);
    if (!atomic_load(&s->sleepless)) return true;
    atomic_fetch_sub(&s->asleep, 1);
    return false;
}

void server_wake(an_server *s, struct MHD_Connection *c)
{
    loops_resume(s->loops, c);
    atomic_fetch_sub(&s->asleep, 1);
}

bool server_hold(an_server *s, size_t n)
{
    /* half is left to answers: bodies that never end must not keep others from theirs */
    if (atomic_fetch_add(&s->held, n) + n <= s->options.max_held_bytes / 2) return true;
    atomic_fetch_sub(&s->held, n);
    return false;
}

void server_release(an_server *s, size_t n)
{
    atomic_fetch_sub(&s->held, n);
}

bool server_crowded(const an_server *s)
{
    return atomic_load(&s->held) > s->options.max_held_bytes;
}

/* ---------------------------------------------------------------- what others may know */

int an_server_port(const an_server *s)
{
    return s->port;
}
an_engine *an_server_engine(const an_server *s)
{
    return s->engine;
}
const an_options *an_server_options(const an_server *s)
{
    return &s->options;
}
double an_server_started(const an_server *s)
{
    return s->started;
}

void an_server_stats(an_server *s, an_http_stats *out)
{
    for (int i = 0; i < AN_HTTP_CODES; i++) out->requests[i] = atomic_load(&s->requests[i]);
    out->connections = atomic_load(&s->connections);
    out->streams = atomic_load(&s->streams);
    out->waiting = atomic_load(&s->waiting);
    out->body_bytes_in = atomic_load(&s->body_bytes_in);
    out->bytes_out = atomic_load(&s->bytes_out);
    out->bytes_held = atomic_load(&s->held);
    out->turned_away = atomic_load(&s->turned_away);
    out->cut_off = atomic_load(&s->cut_off);
}
