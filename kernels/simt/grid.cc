/* grid.cc: all blocks of a launch. Blocks are independent, so several threads of the machine may
 * take them in any order; each has its own state, stacks and shared memory. Threads that wait for
 * work are made on first use and stay. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "hopper.h"
#include "runtime.h"
#include "sanitize.h"

namespace simt
{

enum { MAX_WORKERS = 16, SHARED_MOST = 227 << 10, CANARY = 1024 };

/* One launch, shared by all who work on it. */
struct Job {
    const Launch *launch;
    const void *args;
    uint64_t blocks, stride, start; /* block number i is (i * stride + start) % blocks */
    uint64_t next, failed;          /* atomic */
    uint64_t conflicts;             /* atomic */
    pthread_mutex_t lock;           /* of error */
    char *error;
    size_t error_size;
};

/* ---------------------------------------------------------------- one machine thread's part */

/* A machine thread that ran blocks ends: its stacks and memory go with it. */
static void state_free(void *)
{
    State &s = state;
    fibers_free();
    for (int i = 0; s.threads && i < MAX_THREADS; i++) {
        free(s.threads[i].copies);
        free(s.threads[i].wgmma);
    }
    hopper_free();
    free(s.threads);
    if (s.dyn_base) SIMT_UNPOISON(s.dyn_base, SHARED_MOST + CANARY);
    free(s.dyn_base);
    s.threads = nullptr;
    s.dyn_base = nullptr;
}

static pthread_key_t ending;
static void ending_make(void)
{
    pthread_key_create(&ending, state_free);
}

static bool prepare_state(const Launch *l)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    State &s = state;
    pthread_once(&once, ending_make);
    pthread_setspecific(ending, &s);
    if (!s.threads) s.threads = (Thread *)calloc(MAX_THREADS, sizeof *s.threads);
    if (!s.dyn_base) s.dyn_base = (unsigned char *)aligned_alloc(1024, SHARED_MOST + CANARY);
    if (!s.threads || !s.dyn_base) return false;
    SIMT_UNPOISON(s.dyn_base, SHARED_MOST + CANARY);
    SIMT_POISON(s.dyn_base + l->dyn_bytes, SHARED_MOST + CANARY - l->dyn_bytes);
    s.dyn = s.dyn_base;
    s.dyn_bytes = l->dyn_bytes;
    s.grid_dim = {l->grid.x, l->grid.y, l->grid.z};
    s.block_dim = {l->block.x, l->block.y, l->block.z};
    s.n_threads = l->block.x * l->block.y * l->block.z;
    s.failed = false;
    s.error[0] = 0;
    s.body = l->body;
    return true;
}

/* Bytes behind the dynamic shared memory: a kernel that changes them wrote out of bounds. */
#ifdef SIMT_ASAN
static void canary_set(void) {}
static void canary_check(void) {}
#else
static void canary_set(void)
{
    memset(state.dyn_base + state.dyn_bytes, 0xa5, CANARY);
}
static void canary_check(void)
{
    State &s = state;
    for (size_t i = 0; i < CANARY && !s.failed; i++)
        if (s.dyn_base[s.dyn_bytes + i] != 0xa5)
            fail(
                "block (%u,%u,%u) wrote past its %zu bytes of dynamic shared memory, at byte %zu\n",
                s.block_index.x, s.block_index.y, s.block_index.z, s.dyn_bytes, s.dyn_bytes + i);
}
#endif

static void work_on(Job *job)
{
    State &s = state;
    const Launch *l = job->launch;
    if (!prepare_state(l)) {
        s.failed = false;
        s.error[0] = 0;
        fail("no memory for the threads of a block\n");
    }
    s.args = job->args;
    s.rng = (options.seed + 1) * 0x9E3779B97F4A7C15ull | 1;
    canary_set();
    s.conflicts = 0;
    while (!s.failed && !__atomic_load_n(&job->failed, __ATOMIC_RELAXED)) {
        const uint64_t i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (i >= job->blocks) break;
        const uint64_t b = (i * job->stride + job->start) % job->blocks;
        s.block_index = {(uint32_t)(b % l->grid.x), (uint32_t)(b / l->grid.x % l->grid.y),
                         (uint32_t)(b / l->grid.x / l->grid.y)};
        run_block();
        canary_check();
    }
    __atomic_fetch_add(&job->conflicts, s.conflicts, __ATOMIC_RELAXED);
    if (s.failed) {
        pthread_mutex_lock(&job->lock);
        if (!job->error[0]) snprintf(job->error, job->error_size, "%s", s.error);
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&job->lock);
    }
}

/* ---------------------------------------------------------------- the workers */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    Job *job;
    uint64_t round; /* of job */
    int started, wanted, busy;
} pool = {PTHREAD_MUTEX_INITIALIZER,
          PTHREAD_COND_INITIALIZER,
          PTHREAD_COND_INITIALIZER,
          nullptr,
          0,
          0,
          0,
          0};

static void *worker(void *number)
{
    const int self = (int)(intptr_t)number;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (pool.round == seen || self >= pool.wanted || !pool.job)
            pthread_cond_wait(&pool.begin, &pool.lock);
        seen = pool.round;
        Job *job = pool.job;
        pool.busy++;
        pthread_mutex_unlock(&pool.lock);
        work_on(job);
        pthread_mutex_lock(&pool.lock);
        if (--pool.busy == 0) pthread_cond_signal(&pool.end);
    }
    return nullptr;
}

/* Up to n threads of the pool take blocks of the job, beside the caller. */
static void share(Job *job, int n)
{
    pthread_mutex_lock(&pool.lock);
    while (pool.started < n) {
        pthread_t id;
        if (pthread_create(&id, nullptr, worker, (void *)(intptr_t)pool.started)) break;
        pthread_detach(id);
        pool.started++;
    }
    pool.wanted = n;
    pool.job = job;
    pool.round++;
    pthread_cond_broadcast(&pool.begin);
    pthread_mutex_unlock(&pool.lock);
    work_on(job);
    pthread_mutex_lock(&pool.lock);
    pool.job = nullptr; /* who has not woken up yet need not */
    while (pool.busy) pthread_cond_wait(&pool.end, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    return b ? common_divisor(b, a % b) : a;
}

static int n_workers(uint64_t blocks)
{
#if defined(SIMT_TSAN) || defined(SIMT_ASAN)
    (void)blocks;
    return 1;
#else
    long n = options.threads ? options.threads : sysconf(_SC_NPROCESSORS_ONLN);
    if (n > MAX_WORKERS) n = MAX_WORKERS;
    if ((uint64_t)n > blocks) n = (long)blocks;
    return n < 1 ? 1 : (int)n;
#endif
}

bool run_grid(const Launch *l, const void *args, char *error, size_t error_size)
{
    error[0] = 0;
    const uint64_t blocks = (uint64_t)l->grid.x * l->grid.y * l->grid.z;
    Job job = {l, args, blocks, 1, 0, 0, 0, 0, PTHREAD_MUTEX_INITIALIZER, error, error_size};
    if (options.order == ORDER_REV) {
        job.stride = blocks - 1; /* -i + blocks - 1 */
        job.start = blocks - 1;
    } else if (options.order == ORDER_RAND) {
        job.stride = options.seed * 2654435761u % blocks + 1;
        while (common_divisor(job.stride, blocks) != 1) job.stride++;
        job.start = options.seed * 40503 % blocks;
    }
    const int n = n_workers(blocks);
    if (n > 1)
        share(&job, n - 1);
    else
        work_on(&job);
    ledger_add(l, 0, job.conflicts);
    return !error[0];
}

} // namespace simt
