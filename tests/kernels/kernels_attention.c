/* Attention: against the reference on odd shapes, views and ragged rows; the same bytes for a row
 * wherever it is; f32 accuracy; scores beyond any range; every instruction set's kernel directly.
 */
#include "attention_cases.h"
#include "kernels/cpu/cpuid.h"

/* ---------------------------------------------------------------- the op */

typedef struct op_case {
    int64_t q, kv;
    int heads, head_dim;
    an_dtype dtype;
    bool fused;  /* q, k, v are views into one buffer */
    bool ragged; /* rows have kv, kv / 2 + 1, ... keys, by what the row is */
    bool causal;
} op_case;

static int64_t keys_of(const op_case *c, int id)
{
    return c->ragged && id % 3 ? c->kv / (1 + id % 3) + 1 : c->kv;
}

/* Keys and values of all rows one after the other, and where each begins. */
static an_tensor ragged_keys(h_run *h, const op_case *c, uint64_t seed, int64_t *start,
                             int64_t *lens)
{
    const int64_t width = (int64_t)c->heads * c->head_dim;
    int64_t total = 0;
    for (int i = 0; i < h->n; i++) {
        start[i] = total;
        total += lens[i] = keys_of(c, h->id[i]);
    }
    an_tensor t = an_lane_tensor(h->l, c->dtype, total, width);
    float *v = malloc((size_t)(c->kv * width) * sizeof *v);
    for (int i = 0; i < h->n; i++) {
        h_values(v, lens[i] * width, seed * 1000 + (uint64_t)h->id[i], 1, 0);
        h_put(h, t, start[i] * width, v, lens[i] * width);
    }
    free(v);
    return t;
}

static void run(h_run *h, const void *cfg)
{
    const op_case *c = cfg;
    const int64_t n = h->n, width = (int64_t)c->heads * c->head_dim;
    const size_t size = an_dtype_size(c->dtype);
    int64_t start[8], lens[8];
    an_attention_args a = {.rows = n,
                           .heads = c->heads,
                           .head_dim = c->head_dim,
                           .dtype = c->dtype,
                           .q_len = c->q,
                           .kv_len = c->kv,
                           .causal = c->causal,
                           .q_stride = width,
                           .k_stride = width,
                           .v_stride = width,
                           .scale = 1.0f / sqrtf((float)c->head_dim)};
    if (c->fused) {
        an_tensor qkv = h_rows(h, c->dtype, 3, (int64_t[]){n, c->q, 3 * width}, 1, 1, 0);
        a.q_stride = a.k_stride = a.v_stride = 3 * width;
        a.q = qkv.data;
        a.k = qkv.data ? (char *)qkv.data + (size_t)width * size : NULL;
        a.v = qkv.data ? (char *)qkv.data + 2 * (size_t)width * size : NULL;
    } else {
        a.q = h_rows(h, c->dtype, 3, (int64_t[]){n, c->q, width}, 1, 1, 0).data;
        a.k = ragged_keys(h, c, 2, start, lens).data;
        a.v = ragged_keys(h, c, 3, start, lens).data;
        if (c->ragged) {
            a.kv_start = start;
            a.kv_lens = lens;
        }
    }
    a.y = an_lane_tensor(h->l, c->dtype, n, c->q, width);
    an_attention(h->l, &a);
    h_output(h, a.y);
}

/* Against the reference the tolerance is on the scale of the outputs, which are averages of many
 * values and so smaller than these: see accuracy below for the sharp bound. */
static void all(op_case c)
{
    char name[96];
    snprintf(name, sizeof name, "attention %lldx%lldx%dx%d %s%s%s%s", (long long)c.q,
             (long long)c.kv, c.heads, c.head_dim, an_dtype_name(c.dtype), c.fused ? " fused" : "",
             c.ragged ? " ragged" : "", c.causal ? " causal" : "");
    /* Tensor cores, AMX and AVX512_BF16 take probabilities as bf16. */
    h_all(name, run, &c, c.dtype == AN_F32 ? 5e-6 : h_on("cpu") ? 8e-3 : 6e-3);
}

TEST(plain)
{
    all((op_case){1, 1, 3, 8, AN_F32, false, false, false});
    all((op_case){2, 5, 2, 24, AN_F32, false, false, false});
    all((op_case){7, 100, 1, 33, AN_F32, false, false, false});
    all((op_case){33, 77, 2, 40, AN_F32, false, false, false});
    all((op_case){64, 64, 2, 64, AN_F32, true, false, false});
    all((op_case){257, 300, 1, 80, AN_F32, false, false, false});
    all((op_case){33, 100, 2, 160, AN_F32, false, false, false});
    all((op_case){64, 64, 1, 512, AN_F32, true, false, false});
}

TEST(bf16)
{
    all((op_case){1, 5, 2, 40, AN_BF16, false, false, false});
    all((op_case){33, 77, 2, 33, AN_BF16, false, false, false});
    all((op_case){64, 64, 4, 24, AN_BF16, true, false, false});
    all((op_case){7, 300, 1, 160, AN_BF16, false, true, false});
    all((op_case){33, 33, 1, 512, AN_BF16, true, false, false});
}

TEST(ragged)
{
    all((op_case){64, 300, 2, 40, AN_F32, false, true, false});
    all((op_case){1, 300, 1, 24, AN_F32, false, true, false});
    all((op_case){33, 5, 2, 80, AN_F32, false, true, false});
}

TEST(causal)
{
    all((op_case){77, 77, 2, 64, AN_F32, true, false, true});
    all((op_case){257, 257, 1, 8, AN_F32, true, false, true});
    all((op_case){77, 77, 2, 16, AN_BF16, true, false, true});
    all((op_case){1, 1, 1, 40, AN_F32, false, false, true});
}

/* Every width of a tile, with more steps of keys than are under way at once, and ragged ends of
 * queries, keys and heads. */
TEST(tiles)
{
    if (h_on("cpu")) return;
    static const int dims[] = {8, 32, 48, 64, 72, 96, 128, 160, 256, 193, 512, 511};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        const int d = dims[i];
        const int64_t keys = d > 160 ? 100 : 200; /* steps are of 32, or of 64 */
        all((op_case){d > 160 ? 3 : 18, keys + 5, 1, d, AN_BF16, false, i % 2, false});
        if (d <= 64) all((op_case){keys, keys, 1, d, AN_BF16, true, false, true});
    }
    all((op_case){130, 66, 2, 40, AN_BF16, false, true, false});
    all((op_case){5, 130, 3, 30, AN_F32, false, true, false});
    all((op_case){20, 99, 1, 200, AN_F32, false, false, false});
}

/* ---------------------------------------------------------------- beyond any range, any device */

enum { FAR_T = 20, FAR_D = 24 };

static void attend_far(an_device *d, an_dtype t, const float *q, const float *k, const float *v,
                       bool causal, float *y)
{
    const int64_t n = FAR_T * FAR_D;
    const size_t bytes = (size_t)n * an_dtype_size(t);
    const float *from[3] = {q, k, v};
    char host[FAR_T * FAR_D * 4];
    an_tensor in[4];
    an_lane *l;
    an_error err = {0};
    REQUIRE(an_lane_open(d, 1 << 20, &l, NULL) == AN_OK);
    for (int i = 0; i < 4; i++) {
        in[i] = an_lane_tensor(l, t, 1, FAR_T, FAR_D);
        if (i == 3) break;
        an_convert(host, t, from[i], AN_F32, n);
        an_upload(l, in[i].data, host, bytes);
    }
    an_attention(l, &(an_attention_args){.rows = 1,
                                         .heads = 1,
                                         .head_dim = FAR_D,
                                         .dtype = t,
                                         .q = in[0].data,
                                         .k = in[1].data,
                                         .v = in[2].data,
                                         .q_stride = FAR_D,
                                         .k_stride = FAR_D,
                                         .v_stride = FAR_D,
                                         .q_len = FAR_T,
                                         .kv_len = FAR_T,
                                         .scale = 1,
                                         .causal = causal,
                                         .y = in[3]});
    an_download(l, host, in[3].data, bytes);
    CHECK_MSG(an_lane_status(l, &err) == AN_OK, "%s", err.message);
    an_convert(y, AN_F32, host, t, n);
    an_lane_close(l);
}

/* One key far above the others, equal scores however large, and where a NaN goes. */
TEST(extremes_of_the_op)
{
    enum { N = FAR_T * FAR_D };
    float q[N], k[N], v[N], y[N];
    an_device *d = h_device(h_tested(), "auto", 1);
    REQUIRE(d);
    for (int dtype = 0; dtype < 2; dtype++) {
        const an_dtype t = dtype ? AN_BF16 : AN_F32;
        for (int i = 0; i < N; i++) {
            q[i] = i % FAR_D ? 0.0f : 1e15f;
            k[i] = i % FAR_D ? 0.0f : 1e15f * (i / FAR_D == 7 ? 1.5f : 1);
            v[i] = (float)(i % 250);
        }
        attend_far(d, t, q, k, v, false, y);
        for (int i = 0; i < N; i++) CHECK(y[i] == v[7 * FAR_D + i % FAR_D]);
        for (int i = 0; i < N; i++) k[i] = 1e15f, v[i] = i / FAR_D % 2 ? 1.0f : 3.0f;
        attend_far(d, t, q, k, v, false, y);
        for (int i = 0; i < N; i++) CHECK_NEAR(y[i], 2, 1e-6);
        for (int i = 0; i < N; i++) q[i] = k[i] = v[i] = (float)(i % 7);
        q[5 * FAR_D + 3] = NAN;
        attend_far(d, t, q, k, v, false, y);
        for (int i = 0; i < N; i++) CHECK((y[i] != y[i]) == (i / FAR_D == 5));
        q[5 * FAR_D + 3] = 1;
        k[13 * FAR_D] = NAN;
        attend_far(d, t, q, k, v, true, y);
        for (int i = 0; i < N; i++) CHECK((y[i] != y[i]) == (i / FAR_D >= 13));
    }
    an_device_close(d);
}

/* ---------------------------------------------------------------- kernels */

static const an_attention_kernel *kernels[] = {&an_attention_generic, &an_attention_avx2,
                                               &an_attention_avx512, &an_attention_bf16,
                                               &an_attention_amx};

/* Kernels this machine runs. */
static bool runs(int i)
{
    return (int)an_cpu_detect() >= i && kernels[i]->run;
}

/* Calls without threads, which a race detector slows down a lot for nothing. */
#ifdef AN_SANITIZE_thread
#define WITHOUT_THREADS SKIP("no threads in it")
#else
#define WITHOUT_THREADS (void)0
#endif

TEST(kernel_edges)
{
    H_CPU_ONLY;
    WITHOUT_THREADS;
    for (int i = 0; i < 3; i++) {
        if (!runs(i)) continue;
        case_check_all(kernels[i], false, 4e-6);
        case_check_all(kernels[i], true, 4e-6);
    }
    for (int i = 3; i < 5; i++)
        if (runs(i)) case_check_all(kernels[i], true, 1e-2);
}

TEST(self_test)
{
    H_CPU_ONLY;
    for (an_isa isa = AN_ISA_GENERIC; isa <= an_cpu_detect(); isa++)
        CHECK(an_cpu_attention_self_test(isa));
}

/* The f32 path is within 2e-6 of the largest output: here that is near 0.1. */
TEST(accuracy)
{
    H_CPU_ONLY;
    WITHOUT_THREADS;
    static const attention_case cases[] = {
        {24, 4096, 0, 40, false, 1}, {24, 1024, 0, 80, false, 1}, {24, 2048, 0, 512, false, 1}};
    for (int i = 0; i < 3; i++)
        for (size_t j = 0; runs(i) && j < sizeof cases / sizeof *cases; j++)
            case_check(kernels[i], &cases[j], false, 2e-7);
}

/* ---------------------------------------------------------------- beyond any range */

enum { T = 40, D = 24 };

static void attend(const an_attention_kernel *k, const float *q, const float *key, const float *v,
                   int64_t keys, bool causal, float *y)
{
    an_attention_task t = {.q = (const char *)q,
                           .k = (const char *)key,
                           .v = (const char *)v,
                           .y = (char *)y,
                           .q_stride = D,
                           .k_stride = D,
                           .v_stride = D,
                           .y_stride = D,
                           .queries = T,
                           .keys = keys,
                           .head_dim = D,
                           .scale = 1,
                           .causal = causal};
    void *scratch = aligned_alloc(64, (k->scratch(D, T) + 63) & ~(size_t)63);
    k->run(&t, scratch);
    free(scratch);
}

TEST(extremes)
{
    H_CPU_ONLY;
    WITHOUT_THREADS;
    float q[T * D], k[T * D], v[T * D], y[T * D];
    for (int isa = 0; isa < 3; isa++) {
        if (!runs(isa)) continue;
        const an_attention_kernel *kernel = kernels[isa];
        /* One key scores +-1e30, the others less: its value is the answer. */
        for (float sign = -1; sign <= 1; sign += 2) {
            for (int i = 0; i < T * D; i++) {
                q[i] = i % D ? 0.0f : 1e15f;
                k[i] = i % D ? 0.0f : sign * 1e15f * (i / D == 7 ? 1.0f + sign * 0.5f : 1);
                v[i] = (float)i;
            }
            attend(kernel, q, k, v, T, false, y);
            for (int i = 0; i < T * D; i++) CHECK(y[i] == v[7 * D + i % D]);
        }
        /* Equal scores, however large: the mean. */
        for (int i = 0; i < T * D; i++) k[i] = 1e15f, v[i] = i / D % 2 ? 1.0f : 3.0f;
        attend(kernel, q, k, v, T, false, y);
        for (int i = 0; i < T * D; i++) CHECK_NEAR(y[i], 2, 1e-6);
        /* No keys: zeros. */
        attend(kernel, q, k, v, 0, false, y);
        for (int i = 0; i < T * D; i++) CHECK(y[i] == 0);
        /* A NaN in one query stays there; in a key it reaches those that see it. */
        for (int i = 0; i < T * D; i++) q[i] = 1, k[i] = 1;
        q[5 * D + 3] = NAN;
        attend(kernel, q, k, v, T, false, y);
        for (int i = 0; i < T * D; i++) CHECK((y[i] != y[i]) == (i / D == 5));
        q[5 * D + 3] = 1;
        k[30 * D] = NAN;
        attend(kernel, q, k, v, T, true, y);
        for (int i = 0; i < T * D; i++) CHECK((y[i] != y[i]) == (i / D >= 30));
    }
}

/* ---------------------------------------------------------------- memory */

/* Scratch does not grow with lengths, and is what attention.h promises. */
TEST(bounded_scratch)
{
    H_CPU_ONLY;
    an_device *d = h_device("cpu", "auto", 1);
    REQUIRE(d);
    static const int dims[] = {1, 8, 40, 64, 80, 96, 128, 160, 256, 512};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        an_error err = {0};
        an_lane *l;
        REQUIRE(an_lane_open_counting(d, &l, &err) == AN_OK);
        for (int64_t len = 1; len <= 16384; len *= 4) {
            an_attention_args a = {.rows = 1,
                                   .heads = 1,
                                   .head_dim = dims[i],
                                   .q_stride = dims[i],
                                   .k_stride = dims[i],
                                   .v_stride = dims[i],
                                   .q_len = len,
                                   .kv_len = len,
                                   .scale = 1,
                                   .y = an_tensor_3d(NULL, AN_F32, 1, len, dims[i])};
            an_attention(l, &a);
            CHECK_MSG(an_lane_peak(l) <= 3 << 20, "head_dim %d: %zu bytes", dims[i],
                      an_lane_peak(l));
        }
        CHECK(an_lane_status(l, &err) == AN_OK);
        an_lane_close(l);
    }
    an_device_close(d);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
