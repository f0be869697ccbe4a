/* bench.c: the ops of some models against the machine's peaks. */
#include "anneal/bench.h"
#include "../backend.h"
#include "peak.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- peaks */

typedef struct peak_job {
    an_peak_fn *fn;
    int64_t rounds;
    _Atomic int64_t flops;
    char *from, *to;
    size_t bytes;
} peak_job;

static void peak_task(void *ctx, int64_t task, int worker)
{
    (void)task, (void)worker;
    peak_job *j = ctx;
    j->flops += (int64_t)j->fn(j->rounds);
}

/* FLOP/s of all threads: the best of a few runs of about 20 ms. */
static double peak_flops(an_device *d, an_peak_fn *fn)
{
    const int threads = an_pool_threads(d->pool);
    peak_job j = {.fn = fn, .rounds = 1000};
    double best = 0;
    for (int i = 0; i < 30; i++) {
        j.flops = 0;
        double t = an_now_s();
        an_pool_run(d->pool, threads, peak_task, &j);
        t = an_now_s() - t;
        if (t < 0.02 && j.rounds < (int64_t)1 << 40) {
            j.rounds *= 2;
        } else if ((double)j.flops / t > best) {
            best = (double)j.flops / t;
        }
    }
    return best;
}

#define COPY_BYTES ((size_t)64 << 20) /* more than the last cache of most machines */
#define COPY_PARTS 64

static void copy_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const peak_job *j = ctx;
    size_t part = j->bytes / COPY_PARTS;
    memcpy(j->to + (size_t)task * part, j->from + (size_t)task * part, part);
}

/* Bytes a second, read and written, of a copy by all threads. */
static double peak_bytes(an_device *d)
{
    peak_job j = {.bytes = COPY_BYTES, .from = malloc(COPY_BYTES), .to = malloc(COPY_BYTES)};
    double best = 0;
    if (j.from && j.to) {
        memset(j.from, 1, COPY_BYTES);
        memset(j.to, 2, COPY_BYTES);
        for (int i = 0; i < 5; i++) {
            double t = an_now_s();
            an_pool_run(d->pool, COPY_PARTS, copy_task, &j);
            t = an_now_s() - t;
            if (2.0 * (double)COPY_BYTES / t > best) best = 2.0 * (double)COPY_BYTES / t;
        }
    }
    free(j.from);
    free(j.to);
    return best;
}

/* ---------------------------------------------------------------- cases */

typedef enum { GEMM, CONV, ATTENTION, PAGED, GROUP_NORM, LAYER_NORM, ADD, READ } op_kind;

/* GEMM: a rows, b outputs, c inputs. CONV: a size (square), b outputs, c channels, filter, stride,
 * up. ATTENTION: a queries, b keys, c heads, filter head_dim. PAGED: the
 * same, the queries being the last of the keys, stride kv heads. Norms, ADD: a tokens, c channels.
 * READ: a x c bytes of the host's memory, by its threads.
 */
typedef struct bench_case {
    op_kind op;
    int64_t a, b, c;
    int filter, stride, up;
    an_act act;
    an_dtype format; /* GEMM: a block format of the weight; else it is like the activations */
} bench_case;

static const bench_case cases[] = {
    /* Stable Diffusion 1.5 at 512 x 512: UNet, then the VAE's decoder */
    {.op = CONV, .a = 64, .b = 320, .c = 4, .filter = 3, .stride = 1},
    {.op = CONV, .a = 64, .b = 320, .c = 320, .filter = 3, .stride = 1},
    {.op = CONV, .a = 64, .b = 320, .c = 320, .filter = 3, .stride = 2},
    {.op = CONV, .a = 64, .b = 320, .c = 640, .filter = 1, .stride = 1},
    {.op = CONV, .a = 32, .b = 640, .c = 640, .filter = 3, .stride = 1},
    {.op = CONV, .a = 16, .b = 1280, .c = 1280, .filter = 3, .stride = 1},
    {.op = CONV, .a = 16, .b = 1280, .c = 1280, .filter = 3, .stride = 1, .up = 2},
    {.op = CONV, .a = 8, .b = 1280, .c = 1280, .filter = 3, .stride = 1},
    {.op = CONV, .a = 64, .b = 4, .c = 320, .filter = 3, .stride = 1},
    {.op = CONV, .a = 128, .b = 512, .c = 512, .filter = 3, .stride = 1},
    {.op = CONV, .a = 256, .b = 256, .c = 256, .filter = 3, .stride = 1},
    {.op = GEMM, .a = 1, .b = 1280, .c = 1280, .act = AN_ACT_SILU},
    {.op = GEMM, .a = 77, .b = 3072, .c = 768, .act = AN_ACT_QUICK_GELU},
    {.op = GEMM, .a = 4096, .b = 960, .c = 320},
    {.op = GEMM, .a = 4096, .b = 2560, .c = 320, .act = AN_ACT_GEGLU},
    {.op = GEMM, .a = 4096, .b = 320, .c = 1280},
    {.op = GEMM, .a = 1024, .b = 640, .c = 640},
    {.op = GEMM, .a = 256, .b = 10240, .c = 1280, .act = AN_ACT_GEGLU},
    {.op = GEMM, .a = 256, .b = 1280, .c = 1280},
    {.op = ATTENTION, .a = 4096, .b = 4096, .c = 8, .filter = 40},
    {.op = ATTENTION, .a = 4096, .b = 77, .c = 8, .filter = 40},
    {.op = ATTENTION, .a = 1024, .b = 1024, .c = 8, .filter = 80},
    {.op = ATTENTION, .a = 256, .b = 256, .c = 8, .filter = 160},
    {.op = GROUP_NORM, .a = 4096, .c = 320},
    {.op = LAYER_NORM, .a = 4096, .c = 320},
    {.op = ADD, .a = 4096, .c = 320},
    /* the demo model, one picture */
    {.op = CONV, .a = 16, .b = 96, .c = 96, .filter = 3, .stride = 1},
    {.op = CONV, .a = 8, .b = 128, .c = 128, .filter = 3, .stride = 1},
    {.op = CONV, .a = 4, .b = 160, .c = 160, .filter = 3, .stride = 1},
    {.op = CONV, .a = 64, .b = 64, .c = 64, .filter = 3, .stride = 1},
    {.op = CONV, .a = 128, .b = 32, .c = 32, .filter = 3, .stride = 1},
    {.op = CONV, .a = 128, .b = 3, .c = 32, .filter = 3, .stride = 1},
    {.op = GEMM, .a = 256, .b = 288, .c = 96},
    {.op = GEMM, .a = 256, .b = 768, .c = 96, .act = AN_ACT_GEGLU},
    {.op = ATTENTION, .a = 256, .b = 256, .c = 4, .filter = 24},
    {.op = GROUP_NORM, .a = 256, .c = 96},
    /* SmolLM2 135M in Q4_1: a stream, 16 streams, a prompt; then the head */
    {.op = GEMM, .a = 1, .b = 960, .c = 576, .format = AN_Q4_1},
    {.op = GEMM, .a = 1, .b = 3072, .c = 576, .act = AN_ACT_SWIGLU, .format = AN_Q4_1},
    {.op = GEMM, .a = 1, .b = 576, .c = 1536, .format = AN_Q4_1},
    {.op = GEMM, .a = 16, .b = 3072, .c = 576, .act = AN_ACT_SWIGLU, .format = AN_Q4_1},
    {.op = GEMM, .a = 512, .b = 960, .c = 576, .format = AN_Q4_1},
    {.op = GEMM, .a = 512, .b = 3072, .c = 576, .act = AN_ACT_SWIGLU, .format = AN_Q4_1},
    {.op = GEMM, .a = 512, .b = 576, .c = 1536, .format = AN_Q4_1},
    {.op = GEMM, .a = 1, .b = 49152, .c = 576, .format = AN_Q8_0},
    {.op = GEMM, .a = 16, .b = 49152, .c = 576, .format = AN_Q8_0},
    /* Llama 8B, one layer's matrices: a stream and a prompt in several formats */
    {.op = GEMM, .a = 1, .b = 28672, .c = 4096, .act = AN_ACT_SWIGLU, .format = AN_Q4_K},
    {.op = GEMM, .a = 1, .b = 4096, .c = 14336, .format = AN_Q6_K},
    {.op = GEMM, .a = 16, .b = 28672, .c = 4096, .act = AN_ACT_SWIGLU, .format = AN_Q4_K},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096, .format = AN_Q4_0},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096, .format = AN_Q4_1},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096, .format = AN_Q4_K},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096, .format = AN_Q5_K},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096, .format = AN_Q6_K},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096, .format = AN_Q8_0},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096, .format = AN_Q2_K},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096, .format = AN_Q3_K},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096, .format = AN_IQ4_XS},
    {.op = GEMM, .a = 256, .b = 4096, .c = 4096},
    {.op = GEMM, .a = 1, .b = 4096, .c = 4096},
    /* a stream of a model that no cache holds, beside what reading memory gives: --only x8192 */
    {.op = READ, .a = 65536, .c = 8192},
    {.op = GEMM, .a = 1, .b = 65536, .c = 8192, .format = AN_Q4_0},
    {.op = GEMM, .a = 1, .b = 65536, .c = 8192, .format = AN_Q4_K},
    {.op = GEMM, .a = 1, .b = 65536, .c = 8192, .format = AN_Q8_0},
    /* attention of both: a stream after 2048 tokens, a prompt */
    {.op = PAGED, .a = 1, .b = 2048, .c = 9, .filter = 64, .stride = 3},
    {.op = PAGED, .a = 512, .b = 512, .c = 9, .filter = 64, .stride = 3},
    {.op = PAGED, .a = 1, .b = 8192, .c = 32, .filter = 128, .stride = 8},
    {.op = PAGED, .a = 256, .b = 2048, .c = 32, .filter = 128, .stride = 8},
};

static void describe(const bench_case *c, char *name, size_t size)
{
    static const char *const acts[] = {
        "",       " +silu",  " +gelu",       " +gelu_tanh", " +quick_gelu",
        " +relu", " +geglu", " +geglu_tanh", " +swiglu"};
    const long long a = c->a, b = c->b, d = c->c;
    switch (c->op) {
    case GEMM:
        snprintf(name, size, "gemm %lldx%lldx%lld%s%s%s", a, b, d, acts[c->act],
                 c->format ? " " : "", c->format ? an_dtype_name(c->format) : "");
        break;
    case CONV:
        snprintf(name, size, "conv%dx%d%s%s %lldx%lld %lld->%lld", c->filter, c->filter,
                 c->stride == 2 ? " /2" : "", c->up ? " up" : "", a, a, d, b);
        break;
    case ATTENTION:
        snprintf(name, size, "attention %lldx%lld %lld heads of %d", a, b, d, c->filter);
        break;
    case PAGED:
        snprintf(name, size, "paged attention %lldx%lld %lld/%d heads of %d", a, b, d, c->stride,
                 c->filter);
        break;
    case GROUP_NORM:
        snprintf(name, size, "group_norm+silu %lldx%lld", a, d);
        break;
    case LAYER_NORM:
        snprintf(name, size, "layer_norm %lldx%lld", a, d);
        break;
    case ADD:
        snprintf(name, size, "add %lldx%lld", a, d);
        break;
    case READ:
        snprintf(name, size, "read %lldx%lld bytes", a, d);
        break;
    }
}

/* ---------------------------------------------------------------- running a case */

typedef struct bench {
    an_device *d;
    an_lane *l;
    an_dtype dtype;
    double bytes; /* operands of one run */
    an_weight *w;
} bench;

/* Random numbers in (-1, 1). */
static void fill(void *p, an_dtype dtype, int64_t count)
{
    uint32_t s = 1;
    for (int64_t i = 0; i < count; i++) {
        s = s * 1664525u + 1013904223u;
        float f = (float)(s >> 8) / 8388608.0f - 1.0f;
        if (dtype == AN_BF16)
            ((uint16_t *)p)[i] = an_f32_to_bf16(f);
        else
            ((float *)p)[i] = f;
    }
}

static an_tensor operand(bench *b, an_dtype dtype, int ndim, const int64_t *dim)
{
    an_tensor t = an_lane_alloc(b->l, dtype, ndim, dim);
    b->bytes += (double)an_tensor_bytes(&t);
    if (t.data && !an_lane_counting(b->l)) fill(t.data, dtype, an_tensor_count(&t));
    return t;
}
#define OPERAND(b, t, ...)                                                                         \
    operand((b), (t), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                   \
            (const int64_t[]){__VA_ARGS__})

/* A matrix in blocks: random bytes, but every 16 bits of them a small number where they are a
 * scale.
 */
static an_status weight_in_blocks(bench *b, const bench_case *c, an_error *err)
{
    an_tensor m = an_tensor_2d(NULL, c->format, c->b, c->c);
    const size_t bytes = an_tensor_bytes(&m);
    uint16_t *v = malloc(bytes + 2);
    if (!v) return an_fail(err, AN_NO_MEMORY, "no memory for a weight to measure");
    uint32_t s = 1;
    for (size_t i = 0; i < bytes / 2; i++) {
        s = s * 1664525u + 1013904223u;
        v[i] = (uint16_t)(s >> 16 & 0xafff);
    }
    m.data = v;
    const an_tensor *pm = &m;
    an_status status = an_weight_linear(b->d, b->dtype, 1, &pm, NULL, &b->w, err);
    free(v);
    b->bytes += (double)bytes;
    return status;
}

static an_status weight(bench *b, const bench_case *c, an_error *err)
{
    if (c->format) return weight_in_blocks(b, c, err);
    const int64_t taps = c->op == CONV ? c->filter * c->filter : 1;
    const int64_t count = c->b * c->c * taps;
    float *v = malloc((size_t)count * sizeof *v);
    if (!v) return an_fail(err, AN_NO_MEMORY, "no memory for a weight to measure");
    fill(v, AN_F32, count);
    an_tensor m = an_tensor_2d(v, AN_F32, c->b, c->c);
    an_tensor f = an_tensor_4d(v, AN_F32, c->b, c->c, c->filter, c->filter);
    const an_tensor *pm = &m;
    an_status s = c->op == CONV ? an_weight_conv(b->d, b->dtype, &f, NULL, &b->w, err)
                                : an_weight_linear(b->d, b->dtype, 1, &pm, NULL, &b->w, err);
    free(v);
    b->bytes += (double)count * (double)an_dtype_size(b->dtype);
    return s;
}

/* Calls once and then again until the time is up (0: once); returns the fastest call's seconds. */
#define REPEAT(seconds, call)                                                                      \
    do {                                                                                           \
        double begun_ = an_now_s();                                                                \
        do {                                                                                       \
            double t_ = an_now_s();                                                                \
            call;                                                                                  \
            t_ = an_now_s() - t_;                                                                  \
            if (t_ < best) best = t_;                                                              \
        } while (an_now_s() - begun_ < (seconds));                                                 \
    } while (0)

static double run_gemm(bench *b, const bench_case *c, double seconds)
{
    double best = 1e30;
    an_gemm_args a = {.w = b->w, .act = c->act};
    a.x = OPERAND(b, b->dtype, c->a, c->c);
    a.y = OPERAND(b, b->dtype, c->a, an_act_gated(c->act) ? c->b / 2 : c->b);
    REPEAT(seconds, an_gemm(b->l, &a));
    return best;
}

static double run_conv(bench *b, const bench_case *c, double seconds)
{
    double best = 1e30;
    const int pad = c->filter / 2;
    const int64_t size = c->up ? c->a * c->up : c->a, out = size / c->stride;
    an_conv_args a = {.w = b->w, .stride = c->stride, .pad_top = pad, .pad_left = pad};
    a.pad_bottom = a.pad_right = c->stride == 2 ? 0 : pad;
    if (c->up) a.up_h = a.up_w = size;
    a.x = OPERAND(b, b->dtype, 1, c->a, c->a, c->c);
    a.y = OPERAND(b, b->dtype, 1, out, out, c->b);
    REPEAT(seconds, an_conv2d(b->l, &a));
    return best;
}

static double run_attention(bench *b, const bench_case *c, double seconds)
{
    double best = 1e30;
    const int64_t width = c->c * c->filter;
    an_attention_args a = {.rows = 1,
                           .heads = (int)c->c,
                           .head_dim = c->filter,
                           .dtype = b->dtype,
                           .q_stride = width,
                           .k_stride = width,
                           .v_stride = width,
                           .q_len = c->a,
                           .kv_len = c->b,
                           .scale = 0.1f};
    a.q = OPERAND(b, b->dtype, c->a, width).data;
    a.k = OPERAND(b, b->dtype, c->b, width).data;
    a.v = OPERAND(b, b->dtype, c->b, width).data;
    a.y = OPERAND(b, b->dtype, 1, c->a, width);
    REPEAT(seconds, an_attention(b->l, &a));
    return best;
}

static double run_paged(bench *b, const bench_case *c, double seconds)
{
    double best = 1e30;
    const int64_t width = c->c * c->filter, blocks = (c->b + AN_KV_BLOCK - 1) / AN_KV_BLOCK;
    int32_t *places = malloc((size_t)blocks * sizeof *places);
    if (!places) {
        an_lane_fail(b->l, AN_NO_MEMORY, "no memory for %lld blocks", (long long)blocks);
        return best;
    }
    for (int64_t i = 0; i < blocks; i++) places[i] = (int32_t)i;
    an_kv_pool pool = {
        .dtype = b->dtype, .blocks = blocks, .kv_heads = c->stride, .head_dim = c->filter};
    pool.k = OPERAND(b, b->dtype, blocks, AN_KV_BLOCK, c->stride * c->filter).data;
    pool.v = OPERAND(b, b->dtype, blocks, AN_KV_BLOCK, c->stride * c->filter).data;
    const an_kv_row row = {.q_len = c->a, .pos = c->b - c->a, .blocks = places};
    an_paged_args a = {.pool = &pool,
                       .rows = &row,
                       .n = 1,
                       .heads = (int)c->c,
                       .head_dim = c->filter,
                       .dtype = b->dtype,
                       .q_stride = width,
                       .scale = 0.1f};
    a.q = OPERAND(b, b->dtype, c->a, width).data;
    a.y = OPERAND(b, b->dtype, c->a, width);
    REPEAT(seconds, an_attention_paged(b->l, &a));
    free(places);
    return best;
}

static void read_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    peak_job *j = ctx;
    const size_t part = j->bytes / COPY_PARTS;
    const uint64_t *p = (const uint64_t *)(const void *)(j->from + (size_t)task * part);
    uint64_t sum = 0;
    for (size_t i = 0; i + 8 <= part / sizeof *p; i += 8) {
        __builtin_prefetch(p + i + 256); /* as the products do: more than the hardware guesses */
        for (size_t k = 0; k < 8; k++) sum += p[i + k];
    }
    j->flops += (int64_t)(sum & 1); /* so that it is not left out */
}

static double run_read(bench *b, const bench_case *c, double seconds)
{
    double best = 1e30;
    peak_job j = {.bytes = (size_t)(c->a * c->c)};
    if (an_lane_counting(b->l)) return best;
    j.from = malloc(j.bytes);
    if (!j.from) {
        an_lane_fail(b->l, AN_NO_MEMORY, "no memory for %zu bytes to read", j.bytes);
        return best;
    }
    memset(j.from, 1, j.bytes);
    b->bytes = (double)j.bytes;
    REPEAT(seconds, an_pool_run(b->d->pool, COPY_PARTS, read_task, &j));
    free(j.from);
    return best;
}

static double run_small(bench *b, const bench_case *c, double seconds)
{
    double best = 1e30;
    an_tensor gamma = OPERAND(b, AN_F32, c->c), beta = OPERAND(b, AN_F32, c->c);
    an_tensor x = OPERAND(b, b->dtype, 1, c->a, c->c), y = OPERAND(b, b->dtype, 1, c->a, c->c);
    if (c->op == GROUP_NORM) {
        REPEAT(seconds, an_group_norm(b->l, x, &gamma, &beta, 32, 1e-5f, true, y));
    } else if (c->op == LAYER_NORM) {
        REPEAT(seconds, an_layer_norm(b->l, x, &gamma, &beta, 1e-5f, y));
    } else {
        an_tensor z = OPERAND(b, b->dtype, 1, c->a, c->c);
        REPEAT(seconds, an_add(b->l, x, z, y));
    }
    return best;
}

static double run_case(bench *b, const bench_case *c, double seconds)
{
    switch (c->op) {
    case GEMM:
        return run_gemm(b, c, seconds);
    case CONV:
        return run_conv(b, c, seconds);
    case ATTENTION:
        return run_attention(b, c, seconds);
    case PAGED:
        return run_paged(b, c, seconds);
    case READ:
        return run_read(b, c, seconds);
    default:
        return run_small(b, c, seconds);
    }
}

/* Counts what the case needs, runs it in a lane of that size, and writes its line. */
static an_status measure(an_device *d, const bench_case *c, const char *name, double seconds,
                         an_dtype dtype, const double *peak, FILE *out, an_error *err)
{
    bench b = {.d = d, .dtype = dtype};
    double flops = 0, best = 0;
    an_status s = AN_OK;
    if (c->op == GEMM || c->op == CONV) s = weight(&b, c, err);
    const double weight_bytes = b.bytes;
    if (!s) s = an_lane_open_counting(d, &b.l, err);
    if (!s) {
        run_case(&b, c, 0);
        s = an_lane_status(b.l, err);
        size_t bytes = an_lane_peak(b.l);
        flops = an_lane_flops(b.l);
        an_lane_close(b.l);
        b.l = NULL;
        b.bytes = weight_bytes;
        if (!s) s = an_lane_open(d, bytes, &b.l, err);
    }
    if (!s) {
        best = run_case(&b, c, seconds);
        s = an_lane_status(b.l, err);
    }
    if (!s)
        fprintf(out, "%-34s %10.3f ms %8.3f TFLOP/s %5.1f %% %8.1f GB/s %6.1f %%\n", name,
                best * 1e3, flops / best / 1e12, 100 * flops / best / peak[0], b.bytes / best / 1e9,
                100 * b.bytes / best / peak[1]);
    if (b.l) an_lane_close(b.l);
    an_weight_free(b.w);
    return s;
}

an_status an_bench_peaks(an_device *d, an_dtype dtype, double *flops, double *bytes, an_error *err)
{
    an_peak_fn *const fns[] = {an_peak_generic, an_peak_avx2, an_peak_avx512, an_peak_bf16,
                               an_peak_amx};
    an_isa isa = d->isa;
    if (isa > AN_ISA_AVX512 && dtype != AN_BF16) isa = AN_ISA_AVX512;
    *flops = peak_flops(d, fns[isa]);
    *bytes = peak_bytes(d);
    if (*flops <= 0 || *bytes <= 0)
        return an_fail(err, AN_INTERNAL, "the peaks of this machine could not be measured");
    return AN_OK;
}

an_status an_bench_ops(an_device *d, const an_bench_options *o, FILE *out, an_error *err)
{
    double peak[2];
    an_status s = an_bench_peaks(d, o->dtype, &peak[0], &peak[1], err);
    if (s) return s;
    fprintf(out,
            "%s\nactivations %s; peaks: %.3f TFLOP/s from registers, %.1f GB/s copying memory\n",
            d->description, an_dtype_name(o->dtype), peak[0] / 1e12, peak[1] / 1e9);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[80];
        describe(&cases[i], name, sizeof name);
        if (o->only && !strstr(name, o->only)) continue;
        s = measure(d, &cases[i], name, o->seconds > 0 ? o->seconds : 0.3, o->dtype, peak, out,
                    err);
        if (s) return an_fail_prefix(err, s, "%s", name);
        fflush(out);
    }
    return AN_OK;
}
