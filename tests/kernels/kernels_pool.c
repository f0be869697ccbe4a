/* The thread pool: every task once, no worker number out of range, runs back to back, pools that
 * die young. ThreadSanitizer reads along in the tsan preset. */
#include "kernels/pool.h"
#include "test.h"

#include <stdatomic.h>
#include <unistd.h>

typedef struct count_ctx {
    int threads;
    int64_t tasks;
    _Atomic int *seen; /* per task */
    _Atomic int bad;
    int64_t *plain; /* written by the one task that owns it, read after the run */
} count_ctx;

static void count_task(void *ctx, int64_t task, int worker)
{
    count_ctx *c = ctx;
    if (worker < 0 || worker >= c->threads || task < 0 || task >= c->tasks) {
        c->bad++;
        return;
    }
    c->seen[task]++;
    c->plain[task] += task;
}

TEST(every_task_runs_once)
{
    enum { MOST = 300 };
    static _Atomic int seen[MOST];
    static int64_t plain[MOST];
    for (int threads = 1; threads <= 5; threads++) {
        an_pool *p = NULL;
        an_error err = {0};
        REQUIRE(an_pool_new(threads, &p, &err) == AN_OK);
        CHECK(an_pool_threads(p) == threads);
        int64_t runs = 0, wrong = 0;
        for (int round = 0; round < 2000; round++) {
            int64_t tasks = round % 7 == 0 ? 0 : (round * 31) % MOST;
            for (int i = 0; i < MOST; i++) {
                seen[i] = 0;
                plain[i] = 1;
            }
            count_ctx c = {threads, tasks, seen, 0, plain};
            an_pool_run(p, tasks, count_task, &c);
            for (int64_t i = 0; i < MOST; i++)
                wrong += seen[i] != (i < tasks) || plain[i] != 1 + (i < tasks ? i : 0);
            wrong += c.bad;
            runs++;
            if (round % 500 == 0) usleep(2000); /* let the workers fall asleep */
        }
        CHECK_MSG(wrong == 0, "%lld wrong in %lld runs of %d threads", (long long)wrong,
                  (long long)runs, threads);
        an_pool_free(p);
    }
}

TEST(pools_come_and_go)
{
    for (int i = 0; i < 200; i++) {
        an_pool *p = NULL;
        REQUIRE(an_pool_new(1 + i % 4, &p, NULL) == AN_OK);
        _Atomic int seen[8] = {0};
        int64_t plain[8] = {0};
        count_ctx c = {1 + i % 4, 8, seen, 0, plain};
        if (i % 3) an_pool_run(p, 8, count_task, &c);
        an_pool_free(p);
        CHECK(seen[7] == (i % 3 ? 1 : 0) && c.bad == 0);
    }
}

static void inline_task(void *ctx, int64_t task, int worker)
{
    (void)task;
    *(int *)ctx += worker == 0 ? 1 : 1000;
}

TEST(one_task_runs_in_the_caller)
{
    an_pool *p = NULL;
    REQUIRE(an_pool_new(3, &p, NULL) == AN_OK);
    int n = 0;
    for (int i = 0; i < 100; i++) an_pool_run(p, 1, inline_task, &n);
    CHECK(n == 100);
    an_pool_free(p);
}

TEST(a_pool_needs_a_thread)
{
    an_pool *p = NULL;
    an_error err = {0};
    CHECK(an_pool_new(0, &p, &err) == AN_INVALID && !p);
}

static void short_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    ((int64_t *)ctx)[task * 16]++;
}

/* Not a check, since the machine may be busy: a figure for the log. */
TEST(dispatch_cost)
{
    an_pool *p = NULL;
    REQUIRE(an_pool_new(2, &p, NULL) == AN_OK);
    int64_t count[8 * 16] = {0};
    double t0 = an_now_s();
    enum { RUNS = 2000 };
    for (int i = 0; i < RUNS; i++) an_pool_run(p, 8, short_task, count);
    printf("  %.2f us a run of 8 empty tasks on 2 threads\n", (an_now_s() - t0) / RUNS * 1e6);
    CHECK(count[0] == RUNS && count[7 * 16] == RUNS);
    an_pool_free(p);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
