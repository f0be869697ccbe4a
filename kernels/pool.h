/* pool.h: a fixed team of threads that run numbered tasks. Not OpenMP: ThreadSanitizer sees it, idle
 * threads sleep, and the order in which tasks are taken never changes a result. */
#ifndef ANNEAL_POOL_H
#define ANNEAL_POOL_H

#include "anneal/base.h"

typedef struct an_pool an_pool;

/* threads >= 1, the caller included: 1 starts none. */
an_status an_pool_new(int threads, an_pool **out, an_error *err);
void an_pool_free(an_pool *p);
int an_pool_threads(const an_pool *p);
/* Runs fn(ctx, task, worker) for task = 0..tasks-1, worker = 0..threads-1 (for per-thread scratch),
 * and returns when all are done. One caller at a time (a device belongs to one thread). */
void an_pool_run(an_pool *p, int64_t tasks, void (*fn)(void *ctx, int64_t task, int worker), void *ctx);

#endif
