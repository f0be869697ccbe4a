/* loops.c: the HTTP threads. Each drives a libmicrohttpd of its own, with an epoll set of its own,
 * and waits for it outside of it. Its own threads (0.9.75) wait for more when a look at their
 * sockets finds exactly 128 with something to do, MAX_EVENTS in its daemon.c: the 128 are served
 * when something else happens on that thread, or never. Asked from outside (MHD_run) it does not
 * wait.
 */
#include "server_private.h"
#include "tls.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define LEAVING 64 /* connections a thread still counts after it said that they ended */

/* An accepted connection on its way to its thread. */
typedef struct handed {
    struct handed *next;
    int fd;
    socklen_t len;
    struct sockaddr_storage from;
} handed;

typedef struct loop {
    an_server *server;
    struct MHD_Daemon *daemon;
    pthread_t thread;
    bool runs;
    int ready;  /* epoll: a connection has something to do; libmicrohttpd's own */
    int wake;   /* eventfd: handed over, resumed or stopped */
    bool begun; /* the connection being added; its thread's own */
    _Atomic bool stop;
    pthread_mutex_t lock; /* of the list */
    handed *first, **last;
} loop;

struct an_loops {
    int n;
    unsigned turn; /* the accepting thread's */
    loop loops[];
};

/* ---------------------------------------------------------------- one thread */

static void rouse(loop *l)
{
    uint64_t one = 1;
    if (write(l->wake, &one, sizeof one) < 0) errno = 0; /* full: it is awake */
}

/* One that never began, and is closed: libmicrohttpd will not tell of its end. */
static void count_out(an_server *s, const struct sockaddr *from)
{
    atomic_fetch_sub(&s->unheard, 1);
    places_give(s, from);
}

/* The connection is libmicrohttpd's, or closed and forgotten. What fails late (no more epoll
 * watches) was said to begin and to end, and is counted out by that. */
static void add(loop *l, const handed *h)
{
    const struct sockaddr *from = (const struct sockaddr *)&h->from;
    l->begun = false;
    if (MHD_add_connection(l->daemon, h->fd, from, h->len) != MHD_YES && !l->begun)
        count_out(l->server, from);
}

static void take_handed(loop *l)
{
    pthread_mutex_lock(&l->lock);
    handed *h = l->first;
    l->first = NULL;
    l->last = &l->first;
    pthread_mutex_unlock(&l->lock);
    while (h) {
        handed *next = h->next;
        add(l, h);
        free(h);
        h = next;
    }
}

/* Milliseconds until it must run whatever happens (an idle connection's end); -1 = never. */
static int patience_ms(const loop *l)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(l->daemon, &ms) != MHD_YES) return -1;
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

static void *loop_thread(void *arg)
{
    loop *l = arg;
    struct pollfd p[2] = {{.fd = l->ready, .events = POLLIN}, {.fd = l->wake, .events = POLLIN}};
    while (!atomic_load(&l->stop)) {
        if (poll(p, 2, patience_ms(l)) < 0) p[1].revents = 0;
        uint64_t n;
        if (p[1].revents && read(l->wake, &n, sizeof n) > 0) take_handed(l);
        MHD_run(l->daemon);
    }
    take_handed(l);
    return NULL;
}

/* ---------------------------------------------------------------- handing over */

void loops_hand(an_loops *a, int fd, const struct sockaddr_storage *from, socklen_t len)
{
    handed *h = malloc(sizeof *h);
    if (!h) {
        close(fd);
        count_out(a->loops->server, (const struct sockaddr *)from);
        return;
    }
    *h = (handed){.fd = fd, .len = len, .from = *from};
    loop *l = &a->loops[a->turn++ % (unsigned)a->n]; /* in turn */
    pthread_mutex_lock(&l->lock);
    *l->last = h;
    l->last = &h->next;
    pthread_mutex_unlock(&l->lock);
    rouse(l);
}

/* Nobody but us rouses the thread: driven from outside, libmicrohttpd only takes a note. */
void loops_resume(an_loops *a, struct MHD_Connection *c)
{
    const struct MHD_Daemon *d = MHD_get_connection_info(c, MHD_CONNECTION_INFO_DAEMON)->daemon;
    MHD_resume_connection(c); /* may be gone now */
    for (int i = 0; i < a->n; i++)
        if (a->loops[i].daemon == d) rouse(&a->loops[i]);
}

/* ---------------------------------------------------------------- life */

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
    loop *l = cls;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        l->begun = true;
        peer_opened(l->server->accept, c, socket_context);
        return;
    }
    peer_closed(l->server->accept, socket_context);
    places_give(l->server,
                MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
}

/* Routes are matched as the client wrote them, and a decoded NUL would end a path early. */
static size_t keep_escapes(void *cls, struct MHD_Connection *c, char *s)
{
    (void)cls;
    (void)c;
    return strlen(s);
}

/* Each has room for all that places.c lets in. */
static struct MHD_Daemon *daemon_new(loop *l)
{
    an_server *s = l->server;
    const an_options *o = &s->options;
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
                     MHD_USE_NO_LISTEN_SOCKET; /* accept.c listens */
    const struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_CERT_CALLBACK, 0, tls_certificate_callback()},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)AN_TLS_PRIORITIES},
        {MHD_OPTION_END, 0, NULL}};
    const struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    if (s->gate->tls) flags |= MHD_USE_TLS;
    return MHD_start_daemon(
        flags, 0, NULL, NULL, http_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL,
        MHD_OPTION_NOTIFY_COMPLETED, http_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        l, MHD_OPTION_CONNECTION_LIMIT, (unsigned)o->max_connections + LEAVING,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->idle_timeout_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, o->max_header_bytes, MHD_OPTION_UNESCAPE_CALLBACK,
        keep_escapes, NULL, MHD_OPTION_ARRAY, s->gate->tls ? tls : none, MHD_OPTION_END);
}

static bool loop_start(loop *l, an_server *s)
{
    l->server = s;
    l->last = &l->first;
    pthread_mutex_init(&l->lock, NULL);
    l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->daemon = l->wake >= 0 ? daemon_new(l) : NULL;
    if (!l->daemon) return false;
    l->ready = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    return l->runs = pthread_create(&l->thread, NULL, loop_thread, l) == 0;
}

/* More than cores only take turns: 2 threads on 2 cores answer a tenth more than 4. */
int an_server_threads(const an_options *o)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (o->http_threads) return o->http_threads;
    return cores < 2 ? 2 : cores > 8 ? 8 : (int)cores;
}

an_loops *loops_new(an_server *s)
{
    int n = an_server_threads(&s->options);
    an_loops *a = calloc(1, sizeof *a + (size_t)n * sizeof *a->loops);
    while (a && a->n < n)
        if (!loop_start(&a->loops[a->n++], s)) {
            loops_free(a);
            return NULL;
        }
    return a;
}

void loops_free(an_loops *a)
{
    for (int i = 0; a && i < a->n; i++) {
        loop *l = &a->loops[i];
        atomic_store(&l->stop, true);
        if (l->runs) {
            rouse(l);
            pthread_join(l->thread, NULL);
        }
        if (l->daemon) MHD_stop_daemon(l->daemon);
        if (l->wake >= 0) close(l->wake);
        pthread_mutex_destroy(&l->lock);
    }
    free(a);
}
