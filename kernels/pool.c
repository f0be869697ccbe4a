/* pool.c: the team of threads. A run publishes a job under the mutex; workers that notice it while
 * it is open join, take task numbers from one atomic counter and leave. The caller works too, then
 * closes the job and waits only for those who joined: a worker that wakes late finds the door shut
 * and costs nothing. Workers spin for some microseconds between jobs, since the ops of a network
 * follow each other closely, and then sleep. */
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SPINS 2000 /* about 20 to 80 us of pause instructions */

typedef struct worker {
    an_pool *pool;
    pthread_t thread;
    int id;
} worker;

struct an_pool {
    int threads;
    worker *workers; /* threads - 1 of them */
    int started;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    _Atomic uint64_t generation; /* written under the lock, read by spinners without */
    _Atomic int active;          /* workers inside the job; changes under the lock */
    bool open, stop;
    int sleepers;
    /* the job; stable while it is open or a worker is active */
    void (*fn)(void *ctx, int64_t task, int worker);
    void *ctx;
    int64_t tasks;
    _Atomic int64_t next;
};

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void take_tasks(an_pool *p, int id)
{
    for (;;) {
        int64_t task = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (task >= p->tasks) return;
        p->fn(p->ctx, task, id);
    }
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    an_pool *p = w->pool;
    uint64_t seen = 0;
    for (;;) {
        for (int i = 0; i < SPINS; i++) {
            if (atomic_load_explicit(&p->generation, memory_order_relaxed) != seen) break;
            pause_cpu();
        }
        pthread_mutex_lock(&p->lock);
        while (p->generation == seen && !p->stop) {
            p->sleepers++;
            pthread_cond_wait(&p->wake, &p->lock);
            p->sleepers--;
        }
        if (p->stop) break;
        seen = p->generation;
        if (p->open) {
            p->active++;
            pthread_mutex_unlock(&p->lock);
            take_tasks(p, w->id);
            pthread_mutex_lock(&p->lock);
            if (--p->active == 0) pthread_cond_signal(&p->done);
        }
        pthread_mutex_unlock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

an_status an_pool_new(int threads, an_pool **out, an_error *err)
{
    *out = NULL;
    if (threads < 1) return an_fail(err, AN_INVALID, "a pool of %d threads: at least 1", threads);
    an_pool *p = calloc(1, sizeof *p);
    worker *ws = calloc((size_t)threads, sizeof *ws);
    if (!p || !ws) {
        free(p);
        free(ws);
        return an_fail(err, AN_NO_MEMORY, "no memory for a pool of %d threads", threads);
    }
    p->threads = threads;
    p->workers = ws;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    /* Signals belong to the threads that handle them, never to a worker in a kernel; but for those
     * of a fault of its own, which end the process if they are blocked: weights are packed straight
     * from mapped files, and one that is truncated meanwhile is a SIGBUS (weights/map.c). */
    sigset_t all, old;
    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    for (int i = 0; i < threads - 1 && rc == 0; i++) {
        ws[i] = (worker){.pool = p, .id = i + 1};
        rc = pthread_create(&ws[i].thread, NULL, worker_main, &ws[i]);
        if (rc == 0) p->started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        int got = p->started + 1;
        an_pool_free(p);
        return an_fail(err, AN_DEVICE, "only %d of %d threads could be started: %s", got, threads,
                       strerror(rc));
    }
    *out = p;
    return AN_OK;
}

void an_pool_free(an_pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    p->generation++;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

int an_pool_threads(const an_pool *p)
{
    return p->threads;
}

void an_pool_run(an_pool *p, int64_t tasks, void (*fn)(void *ctx, int64_t task, int worker),
                 void *ctx)
{
    if (tasks <= 1 || p->threads == 1) {
        for (int64_t i = 0; i < tasks; i++) fn(ctx, i, 0);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->fn = fn;
    p->ctx = ctx;
    p->tasks = tasks;
    p->next = 0;
    p->open = true;
    p->generation++;
    /* Fewer tasks than threads: wake only as many as can find one. */
    if (p->sleepers && tasks == 2)
        pthread_cond_signal(&p->wake);
    else if (p->sleepers)
        pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);

    take_tasks(p, 0);
    for (int i = 0; i < SPINS && atomic_load_explicit(&p->active, memory_order_relaxed); i++)
        pause_cpu();

    pthread_mutex_lock(&p->lock);
    p->open = false;
    while (p->active) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
