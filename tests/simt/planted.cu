/* planted.cu: tests of the tester: each planted bug is found, in every order, and nothing is found
 * where nothing is. The same file is built plain, with AddressSanitizer and with ThreadSanitizer
 * (clang): what each must find is in the table. A case runs in a process of its own, since a
 * sanitizer ends the process. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "planted.cuh"
#include "planted_hopper.cuh"

/* What a case comes to. */
enum Verdict { RIGHT, WRONG, ERROR, REPORT };
static const char *const verdicts[] = {"right", "wrong result", "launch error", "sanitizer report"};

enum { N = 128, COUNT = 64 * 64, K = 256, K_SHORT = 16 };

struct Data {
    float *x, *y;      /* device: x[i] = i + 1, y zeros; COUNT elements */
    float want[COUNT]; /* of y */
};

#define RUN(kernel, bytes) KLAUNCH(kernel, 1, N, bytes, nullptr)

static void expect(Data *d, float (*of)(int))
{
    for (int i = 0; i < N; i++) d->want[i] = of(i);
}
static float one(int)
{
    return 1;
}

/* ---------------------------------------------------------------- cases */

static void c_right_sum(Data *d)
{
    RUN(right_sum, 512)(d->x, d->y, 512);
    d->want[0] = 513 * 256;
}
static void c_right_template(Data *d)
{
    RUN(right_template<N>, 0)(d->y);
    expect(d, [](int i) { return (float)(N - 1 - i); });
}
static void c_right_early_exit(Data *d)
{
    RUN(right_early_exit, 0)(d->y);
    expect(d, [](int i) { return i < 64 ? 32.0f : 0.0f; });
}
static void c_right_named_barriers(Data *d)
{
    RUN(right_named_barriers, 0)(d->y);
    expect(d, [](int i) { return (float)(i ^ 63); });
}
static void c_read_before_barrier(Data *d)
{
    RUN(read_before_barrier, 0)(d->x, d->y);
    expect(d, [](int i) { return (float)(((i + 1) & 127) + 1); });
}
static void c_write_before_barrier(Data *d)
{
    RUN(write_before_barrier, 0)(d->x, d->y);
    expect(d, [](int i) { return (float)(6 * (((i + 37) & 127) + 1)); });
}
static void c_no_syncwarp(Data *d)
{
    RUN(no_syncwarp, 0)(d->y);
    expect(d, [](int i) { return (float)(i ^ 1); });
}
static void c_global_race(Data *d)
{
    RUN(global_race, 0)(d->y);
    d->want[0] = N;
}
static void c_past_dynamic(Data *d)
{
    RUN(past_dynamic, 512)(d->y);
    expect(d, [](int i) { return (float)(i - 1); });
}
static void c_past_static(Data *d)
{
    RUN(past_static, 0)(d->y);
    expect(d, [](int i) { return (float)(i - 1); });
}
static void c_past_global(Data *)
{
    float *z;
    cudaMalloc((void **)&z, N * sizeof *z);
    RUN(past_global, 0)(z);
}
static void c_uninitialised(Data *d)
{
    RUN(uninitialised, 0)(d->y);
    expect(d, one);
}
static void c_uninitialised_branch(Data *d)
{
    RUN(uninitialised_branch, 0)(d->y);
    expect(d, one);
}
static void c_misaligned(Data *d)
{
    RUN(misaligned, 4096)(d->x, d->y);
}
static void c_copy_not_waited_for(Data *d)
{
    RUN(copy_not_waited_for, 2048)(d->x, d->y);
    expect(d, [](int i) { return (float)(i + 1); });
}
static void c_copy_left_behind(Data *d)
{
    RUN(copy_left_behind, 2048)(d->x, d->y);
}
static void c_divergent(Data *d)
{
    RUN(divergent, 0)(d->y);
}
static void c_exit_before_barrier(Data *d)
{
    RUN(exit_before_barrier, 0)(d->y, 100);
}
static void c_lanes_apart(Data *d)
{
    RUN(lanes_apart, 0)(d->y);
}
static void c_lane_not_there(Data *d)
{
    RUN(lane_not_there, 0)(d->y);
}
static void c_deadlock(Data *d)
{
    RUN(deadlock, 0)(d->y);
}
static void c_barrier_of_too_many(Data *d)
{
    RUN(barrier_of_too_many, 0)(d->y);
}
static void c_shared_not_asked_for(Data *d)
{
    RUN(past_dynamic, 49 << 10)(d->y);
}
static void c_block_too_large(Data *d)
{
    KLAUNCH(global_race, 1, 2048, 0, nullptr)(d->y);
}

/* Small integers: every sum is exact. */
template <int BUG> static void c_pipeline(Data *d, int k)
{
    static bf16 x[64 * K], w[16 * K];
    for (int i = 0; i < 64 * k; i++) x[i] = __float2bfloat16((float)(i * 7 % 11 - 5));
    for (int i = 0; i < 16 * k; i++) w[i] = __float2bfloat16((float)(i * 5 % 7 - 3));
    for (int r = 0; r < 64; r++)
        for (int c = 0; c < 16; c++)
            for (int i = 0; i < k; i++)
                d->want[r * 16 + c] +=
                    __bfloat162float(x[r * k + i]) * __bfloat162float(w[c * k + i]);
    bf16 *dx, *dw;
    cudaMalloc((void **)&dx, sizeof x);
    cudaMalloc((void **)&dw, sizeof w);
    cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice);
    cudaMemcpy(dw, w, sizeof w, cudaMemcpyHostToDevice);
    RUN(pipeline<BUG>, 2 * 80 * 32)(dx, dw, d->y, k);
}
static void c_pipeline_right(Data *d)
{
    c_pipeline<NOTHING>(d, K);
}
static void c_pipeline_short(Data *d)
{
    c_pipeline<NOTHING>(d, K_SHORT);
}
static void c_pipeline_barrier(Data *d)
{
    c_pipeline<BARRIER_AFTER_WAIT>(d, K);
}
static void c_pipeline_group(Data *d)
{
    c_pipeline<ONE_GROUP>(d, K);
}
static void c_pipeline_end(Data *d)
{
    c_pipeline<BARRIER_AT_END>(d, K);
}

/* x [64,k] and w [64,k] of small integers on the device, and what y [64,64] will be. */
static void hopper_data(Data *d, int k, bf16 **dx, bf16 **dw)
{
    static bf16 x[64 * K], w[64 * K];
    for (int i = 0; i < 64 * k; i++) {
        x[i] = __float2bfloat16((float)(i * 7 % 11 - 5));
        w[i] = __float2bfloat16((float)(i * 5 % 7 - 3));
    }
    for (int i = 0; i < 64 * 64; i++)
        for (int e = 0; e < k; e++)
            d->want[i] += __bfloat162float(x[i / 64 * k + e]) * __bfloat162float(w[i % 64 * k + e]);
    cudaMalloc((void **)dx, sizeof x);
    cudaMalloc((void **)dw, sizeof w);
    cudaMemcpy(*dx, x, sizeof x, cudaMemcpyHostToDevice);
    cudaMemcpy(*dw, w, sizeof w, cudaMemcpyHostToDevice);
}

template <int BUG> static void c_hopper(Data *d)
{
    bf16 *x, *w;
    CUtensorMap mx, mw;
    hopper_data(d, K, &x, &w);
    if (tensor_map_of(&mx, x, 64, K, K, 64) || tensor_map_of(&mw, w, 64, K, K, 64)) return;
    KLAUNCH(hopper<BUG>, 1, H_THREADS, H_SHARED, nullptr)(mx, mw, d->y, K);
}

template <int BUG> static void c_proxies(Data *d)
{
    bf16 *x, *w;
    hopper_data(d, 64, &x, &w);
    KLAUNCH(proxies<BUG>, 1, 128, 16384, nullptr)(x, w, d->y);
}

struct Case {
    const char *name;
    void (*run)(Data *d);
    Verdict plain, asan, tsan;
    const char *text; /* in the message of a launch error */
};

/* Of a race that only ThreadSanitizer sees (global_race): fibers do not interrupt each other, so
 * the plain result is right. Of memory that only AddressSanitizer sees (past_global): nobody else
 * lives there. */
static const Case cases[] = {
    {"right_sum", c_right_sum, RIGHT, RIGHT, RIGHT, nullptr},
    {"right_template", c_right_template, RIGHT, RIGHT, RIGHT, nullptr},
    {"right_early_exit", c_right_early_exit, RIGHT, RIGHT, RIGHT, nullptr},
    {"right_named_barriers", c_right_named_barriers, RIGHT, RIGHT, RIGHT, nullptr},
    {"pipeline_right", c_pipeline_right, RIGHT, RIGHT, RIGHT, nullptr},
    {"pipeline_short", c_pipeline_short, RIGHT, RIGHT, RIGHT, nullptr},
    {"read_before_barrier", c_read_before_barrier, WRONG, WRONG, REPORT, nullptr},
    {"write_before_barrier", c_write_before_barrier, WRONG, WRONG, REPORT, nullptr},
    {"no_syncwarp", c_no_syncwarp, WRONG, WRONG, REPORT, nullptr},
    {"global_race", c_global_race, RIGHT, RIGHT, REPORT, nullptr},
    {"past_dynamic", c_past_dynamic, ERROR, REPORT, ERROR, "wrote past its 512 bytes"},
    {"past_static", c_past_static, WRONG, REPORT, WRONG, nullptr},
    {"past_global", c_past_global, RIGHT, REPORT, RIGHT, nullptr},
    {"uninitialised", c_uninitialised, WRONG, WRONG, WRONG, nullptr},
    {"uninitialised_branch", c_uninitialised_branch, WRONG, WRONG, WRONG, nullptr},
    {"misaligned", c_misaligned, ERROR, ERROR, ERROR, "address not 16-byte aligned, thread ("},
    {"copy_not_waited_for", c_copy_not_waited_for, WRONG, WRONG, REPORT, nullptr},
    {"copy_left_behind", c_copy_left_behind, ERROR, ERROR, ERROR, "not waited for"},
    {"divergent", c_divergent, ERROR, ERROR, ERROR, "divergent barrier: thread"},
    {"exit_before_barrier", c_exit_before_barrier, ERROR, ERROR, ERROR, "divergent barrier"},
    {"lanes_apart", c_lanes_apart, ERROR, ERROR, ERROR, "diverged at a collective"},
    {"lane_not_there", c_lane_not_there, ERROR, ERROR, ERROR, "is not in mask 0000ffff"},
    {"deadlock", c_deadlock, ERROR, ERROR, ERROR, nullptr},
    {"barrier_of_too_many", c_barrier_of_too_many, ERROR, ERROR, ERROR, "the block has 128"},
    {"shared_not_asked_for", c_shared_not_asked_for, ERROR, ERROR, ERROR, "invalid argument"},
    {"block_too_large", c_block_too_large, ERROR, ERROR, ERROR, "invalid configuration"},
    {"pipeline_barrier", c_pipeline_barrier, WRONG, WRONG, REPORT, nullptr},
    {"pipeline_group", c_pipeline_group, WRONG, WRONG, WRONG, nullptr},
    {"pipeline_end", c_pipeline_end, WRONG, WRONG, REPORT, nullptr},
    {"hopper_right", c_hopper<HOPPER_RIGHT>, RIGHT, RIGHT, RIGHT, nullptr},
    {"no_empty_wait", c_hopper<NO_EMPTY_WAIT>, ERROR, ERROR, ERROR, "more than its 1 arrivals"},
    {"no_full_wait", c_hopper<NO_FULL_WAIT>, ERROR, ERROR, REPORT, "copies of tiles on their way"},
    {"tx_too_few", c_hopper<TX_TOO_FEW>, ERROR, ERROR, ERROR, "wait at a mbarrier"},
    {"tx_too_many", c_hopper<TX_TOO_MANY>, ERROR, ERROR, ERROR, "wait at a mbarrier"},
    {"wrong_parity", c_hopper<WRONG_PARITY>, ERROR, ERROR, ERROR, "wait at a mbarrier"},
    {"no_init", c_hopper<NO_INIT>, ERROR, ERROR, ERROR, "before mbarrier.init"},
    {"no_init_fence", c_hopper<NO_INIT_FENCE>, ERROR, ERROR, ERROR, "no fence.mbarrier_init"},
    {"one_does_not_arrive", c_hopper<ONE_DOES_NOT_ARRIVE>, ERROR, ERROR, ERROR,
     "wait at a mbarrier"},
    {"tile_misaligned", c_hopper<TILE_MISALIGNED>, ERROR, ERROR, ERROR, "not 1024-byte aligned"},
    {"descriptor_misaligned", c_hopper<DESCRIPTOR_MISALIGNED>, ERROR, ERROR, ERROR,
     "descriptor's tile not 1024-byte aligned"},
    {"operands_apart", c_hopper<OPERANDS_APART>, ERROR, ERROR, ERROR, "gives other operands"},
    {"no_wgmma_fence", c_hopper<NO_WGMMA_FENCE>, ERROR, ERROR, ERROR, "without wgmma.fence"},
    {"reads_before_wait", c_hopper<READS_BEFORE_WAIT>, WRONG, WRONG, WRONG, nullptr},
    {"frees_before_wait", c_hopper<FREES_BEFORE_WAIT>, WRONG, WRONG, REPORT, nullptr},
    {"waits_for_too_few", c_hopper<WAITS_FOR_TOO_FEW>, WRONG, WRONG, REPORT, nullptr},
    {"exits_before_wait", c_hopper<EXITS_BEFORE_WAIT>, ERROR, ERROR, ERROR, "wgmma not waited for"},
    {"leaves_copies", c_hopper<LEAVES_COPIES>, ERROR, ERROR, ERROR, "copies of tiles on their way"},
    {"proxies_right", c_proxies<PASSED>, RIGHT, RIGHT, RIGHT, nullptr},
    {"copies_not_passed", c_proxies<COPIES_NOT_PASSED>, ERROR, ERROR, ERROR, "fence.proxy.async"},
    {"stores_not_passed", c_proxies<STORES_NOT_PASSED>, ERROR, ERROR, ERROR, "fence.proxy.async"},
    {"passed_too_early", c_proxies<PASSED_TOO_EARLY>, ERROR, ERROR, ERROR, "fence.proxy.async"},
};

/* ---------------------------------------------------------------- running them */

static Verdict run_case(const Case *c)
{
    static Data d;
    static float x[COUNT], y[COUNT];
    for (int i = 0; i < COUNT; i++) x[i] = (float)(i + 1);
    cudaMalloc((void **)&d.x, sizeof x);
    cudaMalloc((void **)&d.y, sizeof y);
    cudaMemcpy(d.x, x, sizeof x, cudaMemcpyHostToDevice);
    cudaMemset(d.y, 0, sizeof y);
    c->run(&d);
    cudaError_t e = cudaGetLastError();
    if (!e) e = cudaDeviceSynchronize();
    if (e) {
        const char *text = cudaGetErrorString(e);
        if (!c->text || strstr(text, c->text)) return ERROR;
        printf("  the message lacks '%s': %s\n", c->text, text);
        return RIGHT;
    }
    cudaMemcpy(y, d.y, sizeof y, cudaMemcpyDeviceToHost);
    for (int i = 0; i < COUNT; i++)
        if (!(y[i] == d.want[i])) return WRONG;
    return RIGHT;
}

static Verdict run_apart(const Case *c, const char *options)
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (!simt_configure(options)) _exit(99);
        if (!getenv("AN_TEST_VERBOSE")) fclose(stderr); /* reports are expected */
        const Verdict v = run_case(c);
        fflush(stdout);
        _exit(v);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child) return REPORT;
    return WIFEXITED(status) && WEXITSTATUS(status) <= ERROR ? (Verdict)WEXITSTATUS(status)
                                                             : REPORT;
}

int main(int argc, char **argv)
{
    static const char *const orders[] = {
        "order=seq",         "order=rev",         "order=rand,seed=1", "order=rand,seed=2",
        "order=rand,seed=3", "order=rand,seed=4", "order=rand,seed=5"};
    int bad = 0, runs = 0;
    for (const Case &c : cases) {
        if (argc > 1 && !strstr(c.name, argv[1])) continue;
#ifdef SIMT_TSAN
        const Verdict want = c.tsan;
#elif defined(SIMT_ASAN)
        const Verdict want = c.asan;
#else
        const Verdict want = c.plain;
#endif
        for (const char *order : orders) {
            const Verdict got = run_apart(&c, order);
            runs++;
            if (got == want) continue;
            bad++;
            printf("FAIL %s, %s: %s, not %s\n", c.name, order, verdicts[got], verdicts[want]);
        }
    }
    printf("%d runs, %d not as planted\n", runs, bad);
    return bad || !runs;
}

/* Reports end the process at the first, with a status of their own. */
extern "C" {
const char *__tsan_default_options(void)
{
    return "halt_on_error=1:exitcode=66:atexit_sleep_ms=0:symbolize=0";
}
const char *__asan_default_options(void)
{
    return "exitcode=66:detect_leaks=0:symbolize=0";
}
const char *__ubsan_default_options(void)
{
    return "exitcode=66:symbolize=0";
}
}
