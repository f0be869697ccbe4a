/* daemon.c: libmicrohttpd's life: the listening socket, an epoll loop a thread, stopping. */
#include "api/image_ask.h"
#include "server_private.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG   1024
#define LAST_WORD 5 /* seconds for slow readers to take their answers when the server stops */

/* ---------------------------------------------------------------- the listening socket */

static int bind_socket(const struct addrinfo *a)
{
    const int on = 1, off = 0;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    /* Only REUSEADDR: with REUSEPORT, which libmicrohttpd's own option means, a second server on
     * the same port would start without a word and take half of the requests. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
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
    for (const struct addrinfo *a = found; a && *fd < 0; a = a->ai_next) *fd = bind_socket(a);
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

static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
    char line[512];
    (void)cls;
    vsnprintf(line, sizeof line, fmt, ap);
    size_t n = strlen(line);
    if (n && line[n - 1] == '\n') line[n - 1] = '\0';
    an_log(AN_LOG_DEBUG, "http: %s", line);
}

static void on_connection(void *cls, struct MHD_Connection *c, void **socket_context,
                          enum MHD_ConnectionNotificationCode what)
{
    an_server *s = cls;
    (void)c;
    (void)socket_context;
    atomic_fetch_add(&s->connections, what == MHD_CONNECTION_NOTIFY_STARTED ? 1 : -1);
}

static an_status start_daemon(an_server *s, int fd, an_error *err)
{
    const an_options *o = &s->options;
    unsigned flags =
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | MHD_USE_ITC;
    struct MHD_OptionItem more[] = {
        {MHD_OPTION_THREAD_POOL_SIZE, o->http_threads > 1 ? o->http_threads : 0, NULL},
        {MHD_OPTION_END, 0, NULL}};
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, http_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, http_completed, NULL,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)o->max_connections, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
        (unsigned)o->max_connections_per_ip, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)o->idle_timeout_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT, o->max_header_bytes,
        MHD_OPTION_ARRAY, more, MHD_OPTION_END);
    return s->daemon ? AN_OK : an_fail(err, AN_IO, "the HTTP threads could not be started");
}

static void expire_links(void *arg)
{
    links_expire(arg);
}

an_status an_server_start(const an_options *o, int fd, an_engine *e, an_server **out, an_error *err)
{
    an_server *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s) {
        close(fd);
        return an_fail(err, AN_NO_MEMORY, "out of memory");
    }
    s->options = *o;
    s->engine = e;
    s->started = an_unix_s();
    s->port = bound_port(fd);
    if (getrandom(&s->salt, sizeof s->salt, 0) != (ssize_t)sizeof s->salt)
        s->salt = (uint64_t)(an_now_s() * 1e9);
    s->workers = workers_new(o->encode_threads);
    s->watch = watch_new();
    s->links_tick = s->watch ? watch_add(s->watch, -1, NULL, expire_links, s) : 0;
    an_status st;
    if (s->workers && s->links_tick) {
        st = start_daemon(s, fd, err); /* which takes the socket, also when it fails */
    } else {
        close(fd);
        st = an_fail(err, AN_NO_MEMORY, "the server's threads could not be started");
    }
    if (st != AN_OK) {
        an_server_stop(s);
        return st;
    }
    *out = s;
    return AN_OK;
}

/* ---------------------------------------------------------------- stop */

void an_server_quiesce(an_server *s)
{
    int fd = MHD_quiesce_daemon(s->daemon);
    if (fd >= 0) close(fd);
}

void an_server_stop(an_server *s)
{
    if (!s) return;
    atomic_store(&s->stopping, true);
    /* Every job has ended, so each sleeper is being answered by an encoder thread. */
    while (atomic_load(&s->asleep)) usleep(2000);
    double until = an_now_s() + LAST_WORD;
    while (atomic_load(&s->unsent) && an_now_s() < until) usleep(2000);
    if (s->daemon) MHD_stop_daemon(s->daemon);
    workers_free(s->workers);
    if (s->watch) watch_remove(s->watch, s->links_tick);
    watch_free(s->watch);
    free(s);
}

/* ---------------------------------------------------------------- sleep and memory */

bool server_sleep(an_server *s)
{
    /* counted before the question, so that an_server_stop misses nobody who was let through */
    atomic_fetch_add(&s->asleep, 1);
    if (!atomic_load(&s->stopping)) return true;
    atomic_fetch_sub(&s->asleep, 1);
    return false;
}

void server_wake(an_server *s, struct MHD_Connection *c)
{
    MHD_resume_connection(c);
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
    for (int i = 0; i < 6; i++) out->requests[i] = atomic_load(&s->requests[i]);
    out->connections = atomic_load(&s->connections);
    out->streams = atomic_load(&s->streams);
    out->waiting = atomic_load(&s->waiting);
    out->body_bytes_in = atomic_load(&s->body_bytes_in);
    out->bytes_out = atomic_load(&s->bytes_out);
    out->bytes_held = atomic_load(&s->held);
}
