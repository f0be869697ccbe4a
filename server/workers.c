/* workers.c: encoder threads. PNG encoding and formatting of events happen here, so that neither
 * the device thread nor the socket threads wait for them. */
#include "server_private.h"

#include <stdlib.h>

typedef struct task {
    void (*fn)(void *arg);
    void *arg;
    struct task *next;
} task;

struct an_workers {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    task *first, **last;
    bool stop;
    int n;
    pthread_t threads[];
};

static void *worker(void *p)
{
    an_workers *w = p;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->first && !w->stop) pthread_cond_wait(&w->wake, &w->lock);
        task *t = w->first;
        if (!t) break;
        w->first = t->next;
        if (!w->first) w->last = &w->first;
        pthread_mutex_unlock(&w->lock);
        t->fn(t->arg);
        free(t);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

an_workers *workers_new(int threads)
{
    an_workers *w = calloc(1, sizeof *w + (size_t)threads * sizeof(pthread_t));
    if (!w) return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    w->last = &w->first;
    while (w->n < threads && pthread_create(&w->threads[w->n], NULL, worker, w) == 0) w->n++;
    if (w->n) return w;
    workers_free(w);
    return NULL;
}

bool workers_submit(an_workers *w, void (*fn)(void *arg), void *arg)
{
    task *t = malloc(sizeof *t);
    if (!t) return false;
    *t = (task){fn, arg, NULL};
    pthread_mutex_lock(&w->lock);
    *w->last = t;
    w->last = &t->next;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    return true;
}

void workers_free(an_workers *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->n; i++) pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
