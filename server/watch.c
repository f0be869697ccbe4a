/* watch.c: a suspended connection does not notice that its client hung up, and a silent event
 * stream must say something now and then. One thread, one epoll set of its own, looks after both,
 * however many connections sleep. */
#include "server_private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct entry {
    uint64_t id;
    int fd;
    void (*hangup)(void *arg), (*tick)(void *arg);
    void *arg;
    struct entry *next, *prev, *chain; /* all entries; hash chain */
} entry;

#define BUCKETS 1024

struct an_watch {
    pthread_mutex_t lock;
    pthread_cond_t idle; /* `running` has ended */
    pthread_t thread;
    int epoll, wake;
    bool stop;
    uint64_t next_id;
    uint64_t running; /* id whose callback runs now, 0 = none */
    entry all;        /* ring */
    entry *bucket[BUCKETS];
};

static entry **find(an_watch *w, uint64_t id)
{
    entry **p = &w->bucket[id % BUCKETS];
    while (*p && (*p)->id != id) p = &(*p)->chain;
    return p;
}

/* Runs a callback without the lock; watch_remove of the same id waits for it. */
static void call(an_watch *w, entry *e, void (*fn)(void *arg))
{
    void *arg = e->arg;
    w->running = e->id;
    pthread_mutex_unlock(&w->lock);
    fn(arg);
    pthread_mutex_lock(&w->lock);
    w->running = 0;
    pthread_cond_broadcast(&w->idle);
}

/* Entries may go while a callback runs unlocked, so the walk goes by ids taken beforehand. */
static void tick_all(an_watch *w)
{
    size_t n = 0, cap = 0;
    for (entry *e = w->all.next; e != &w->all; e = e->next) cap += e->tick != NULL;
    uint64_t *ids = malloc((cap + 1) * sizeof *ids);
    if (!ids) return;
    for (entry *e = w->all.next; e != &w->all; e = e->next)
        if (e->tick) ids[n++] = e->id;
    for (size_t i = 0; i < n; i++) {
        entry *e = *find(w, ids[i]);
        if (e) call(w, e, e->tick);
    }
    free(ids);
}

static void *watch_thread(void *p)
{
    an_watch *w = p;
    struct epoll_event events[64];
    double last_tick = an_now_s();
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        pthread_mutex_unlock(&w->lock);
        int n = epoll_wait(w->epoll, events, 64, 1000);
        pthread_mutex_lock(&w->lock);
        for (int i = 0; i < n && !w->stop; i++) {
            entry *e = events[i].data.u64 ? *find(w, events[i].data.u64) : NULL;
            if (e) call(w, e, e->hangup);
        }
        if (!w->stop && an_now_s() - last_tick >= 1) {
            last_tick = an_now_s();
            tick_all(w);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

an_watch *watch_new(void)
{
    an_watch *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->idle, NULL);
    w->all.next = w->all.prev = &w->all;
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    w->wake = eventfd(0, EFD_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 0};
    if (w->epoll >= 0 && w->wake >= 0 && epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->wake, &ev) == 0 &&
        pthread_create(&w->thread, NULL, watch_thread, w) == 0)
        return w;
    if (w->epoll >= 0) close(w->epoll);
    if (w->wake >= 0) close(w->wake);
    free(w);
    return NULL;
}

void watch_free(an_watch *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_mutex_unlock(&w->lock);
    uint64_t one = 1;
    if (write(w->wake, &one, sizeof one) < 0) an_log(AN_LOG_WARN, "watch: %s", strerror(errno));
    pthread_join(w->thread, NULL);
    while (w->all.next != &w->all) watch_remove(w, w->all.next->id);
    close(w->epoll);
    close(w->wake);
    pthread_cond_destroy(&w->idle);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

uint64_t watch_add(an_watch *w, int fd, void (*hangup)(void *arg), void (*tick)(void *arg),
                   void *arg)
{
    entry *e = calloc(1, sizeof *e);
    if (!e) return 0;
    pthread_mutex_lock(&w->lock);
    *e = (entry){.id = ++w->next_id, .fd = fd, .hangup = hangup, .tick = tick, .arg = arg};
    entry **slot = find(w, e->id);
    *slot = e;
    e->next = w->all.next;
    e->prev = &w->all;
    e->next->prev = w->all.next = e;
    uint64_t id = e->id;
    pthread_mutex_unlock(&w->lock);
    if (fd < 0) return id;
    /* only hang-ups: the socket's data belongs to libmicrohttpd */
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = id};
    if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &ev) != 0)
        an_log(AN_LOG_WARN, "watch: %s", strerror(errno));
    return id;
}

void watch_remove(an_watch *w, uint64_t id)
{
    if (!id) return;
    pthread_mutex_lock(&w->lock);
    while (w->running == id && !pthread_equal(pthread_self(), w->thread))
        pthread_cond_wait(&w->idle, &w->lock);
    entry **slot = find(w, id), *e = *slot;
    if (e) {
        epoll_ctl(w->epoll, EPOLL_CTL_DEL, e->fd, NULL);
        *slot = e->chain;
        e->next->prev = e->prev;
        e->prev->next = e->next;
        free(e);
    }
    pthread_mutex_unlock(&w->lock);
}
