/* Weights in FP8 (e4m3) with a scale a row: products against the reference, for every instruction
 * set here and, as kernels_fp8_simt, on the GPU's kernels, which keep the codes and scale the sums;
 * how much they occupy; what is refused; NaN. */
#include "harness.h"

typedef struct fp8_case {
    int64_t m, n, k;
    an_act act;
    an_dtype dtype;
    bool exact;   /* scales are powers of two: nothing is lost where a weight becomes bf16 */
    bool stacked; /* rows of other kinds before and behind */
} fp8_case;

/* n x k codes of all exponents, none NaN. */
static uint8_t *codes(int64_t count, uint64_t seed)
{
    uint8_t *c = malloc((size_t)count);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        const int code = (int)(seed >> 56);
        c[i] = (uint8_t)((code & 0x7f) == 0x7f ? 0 : code);
    }
    return c;
}

static float *scales(int64_t n, bool exact, uint64_t seed)
{
    float *s = malloc((size_t)n * sizeof *s);
    h_values(s, n, seed, 1, 0);
    for (int64_t i = 0; i < n; i++)
        s[i] = exact ? ldexpf(1, (int)(i % 5) - 10) : (0.1f + fabsf(s[i])) * 0.001f;
    return s;
}

/* FP8 with scales; stacked: two rows of F32 before, three of FP8 without scales behind. */
static an_weight *fp8_weight(h_run *h, const fp8_case *c)
{
    const int64_t first = c->stacked ? 2 : 0, last = c->stacked ? 3 : 0, n = c->n - first - last;
    uint8_t *q = codes(n * c->k, 7), *plain = codes(3 * c->k, 8);
    float *s = scales(n, c->exact, 9), *f = malloc((size_t)(2 * c->k) * sizeof *f);
    float *b = malloc((size_t)c->n * sizeof *b);
    h_values(f, 2 * c->k, 10, 0.1f, 0), h_values(b, c->n, 11, 0.5f, 0);
    for (int64_t i = 0; i < 3 * c->k; i++) plain[i] &= 0xbf; /* small ones */
    const an_tensor w[] = {an_tensor_2d(q, AN_F8_E4M3, n, c->k), an_tensor_2d(f, AN_F32, 2, c->k),
                           an_tensor_2d(plain, AN_F8_E4M3, 3, c->k)};
    const an_tensor tb[] = {an_tensor_1d(b, AN_F32, n), an_tensor_1d(b, AN_F32, 2)};
    const an_tensor *const all[] = {&w[1], &w[0], &w[2]}, *const one[] = {&w[0]};
    const an_tensor *const all_b[] = {&tb[1], &tb[0], NULL}, *const one_b[] = {&tb[0]};
    const float *const all_s[] = {NULL, s, NULL}, *const one_s[] = {s};
    an_error err = {0};
    an_weight *out = NULL;
    an_status status =
        an_weight_scaled(h->d, c->dtype, c->stacked ? 3 : 1, c->stacked ? all : one,
                         c->stacked ? all_s : one_s, c->stacked ? all_b : one_b, &out, &err);
    CHECK_MSG(status == AN_OK, "%s", err.message);
    free(q), free(plain), free(s), free(f), free(b);
    if (out && h->weights < H_MAX_WEIGHTS) h->weight[h->weights++] = out;
    return out;
}

static void run(h_run *h, const void *cfg)
{
    const fp8_case *c = cfg;
    const int64_t width = an_act_gated(c->act) ? c->n / 2 : c->n;
    an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->m, c->k}, 1, 1, 0);
    an_tensor y = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->m, width}, 2, 1, 0);
    an_gemm(h->l,
            &(an_gemm_args){.x = x, .w = fp8_weight(h, c), .residual = &y, .act = c->act, .y = y});
    h_output(h, y);
}

static void check(const fp8_case *c)
{
    char name[96];
    snprintf(name, sizeof name, "fp8 %lldx%lldx%lld act %d %s", (long long)c->m, (long long)c->n,
             (long long)c->k, (int)c->act, an_dtype_name(c->dtype));
    /* a weight times its scale is rounded once more where it becomes bf16 */
    const bool rounded = !c->exact && c->dtype == AN_BF16 && h_on("cpu");
    h_all(name, run, c, rounded ? 1e-2 : 5e-5);
}

TEST(products)
{
    static const int64_t ms[] = {1, 7, 20, 70}, ns[] = {1, 17, 64, 130}, ks[] = {16, 63, 64, 200};
    for (int m = 0; m < 4; m++)
        for (int n = 0; n < 4; n++) {
            const int64_t k = ks[(m + n) % 4];
            check(&(fp8_case){ms[m], ns[n], k, AN_ACT_NONE, AN_BF16, (m ^ n) & 1, false});
            if (m < 2) check(&(fp8_case){ms[m], ns[n], k, AN_ACT_NONE, AN_F32, false, false});
        }
}

TEST(activations)
{
    for (an_act act = AN_ACT_NONE; act <= AN_ACT_SWIGLU; act++)
        check(&(fp8_case){9, 36, 72, act, AN_BF16, true, false});
}

/* Parts of different kinds; a gate whose value is of another part. */
TEST(stacked)
{
    check(&(fp8_case){5, 30, 40, AN_ACT_NONE, AN_BF16, true, true});
    check(&(fp8_case){5, 30, 40, AN_ACT_SWIGLU, AN_BF16, true, true});
    check(&(fp8_case){40, 30, 40, AN_ACT_GEGLU, AN_F32, false, true});
}

/* A GPU keeps a byte a number and a scale a row; the others what `dtype` takes. */
TEST(what_a_weight_occupies)
{
    enum { N = 256, K = 512 };
    for (int i = 0; i < 2; i++) {
        an_device *d = h_device(h_tested(), "auto", 1);
        REQUIRE(d);
        h_run h = {.d = d};
        const fp8_case c = {1, N, K, AN_ACT_NONE, i ? AN_BF16 : AN_F32, false, false};
        const an_weight *w = fp8_weight(&h, &c);
        const size_t least = h_on("cpu") || !i ? (size_t)N * K * (i ? 2 : 4) : (size_t)N * K;
        if (w) CHECK_MSG(w->bytes >= least && w->bytes < least + 16384, "%zu bytes", w->bytes);
        CHECK(h_on("cpu") || !i || !w->rows);
        h_free(&h);
        an_device_close(d);
    }
}

TEST(what_is_refused)
{
    an_device *d = h_device(h_tested(), "auto", 1);
    REQUIRE(d);
    float v[32] = {0}, s[1] = {1};
    uint8_t q[64] = {0};
    const an_tensor f32 = an_tensor_2d(v, AN_F32, 1, 32), fp8 = an_tensor_2d(q, AN_F8_E4M3, 1, 32),
                    block = an_tensor_2d(q, AN_Q8_0, 1, 32);
    const an_tensor *const plain[] = {&f32}, *const mixed[] = {&fp8, &block};
    const float *const one[] = {s};
    an_weight *w = NULL;
    an_error err = {0};
    CHECK(an_weight_scaled(d, AN_BF16, 1, plain, one, NULL, &w, &err) == AN_INVALID && !w);
    CHECK_MSG(strstr(err.message, "is F32, but only F8_E4M3 has scales"), "%s", err.message);
    CHECK(an_weight_scaled(d, AN_BF16, 2, mixed, NULL, NULL, &w, &err) == AN_INVALID && !w);
    CHECK_MSG(strstr(err.message, "mixes F8_E4M3 and block formats"), "%s", err.message);
    an_device_close(d);
}

/* A code of NaN makes its row's outputs NaN, and no other's. */
TEST(nan_codes)
{
    enum { N = 20, K = 48 };
    for (int dtype = AN_F32; dtype <= AN_BF16; dtype++) {
        an_device *d = h_device(h_tested(), "auto", 1);
        an_lane *l;
        REQUIRE(d && an_lane_open(d, 1 << 20, &l, NULL) == AN_OK);
        uint8_t *q = codes(N * K, 3);
        q[3 * K + 5] = 0x7f, q[17 * K] = 0xff;
        float x[K], y[N];
        h_values(x, K, 1, 1, 0);
        an_tensor tx = an_tensor_2d(x, AN_F32, 1, K), t = an_tensor_2d(q, AN_F8_E4M3, N, K);
        const an_tensor *pw = &t;
        an_weight *w = NULL;
        REQUIRE(an_weight_linear(d, (an_dtype)dtype, 1, &pw, NULL, &w, NULL) == AN_OK);
        an_tensor out = an_lane_tensor(l, AN_F32, 1, N);
        an_gemm(l, &(an_gemm_args){.x = h_there(l, tx), .w = w, .y = out});
        h_back(l, y, out);
        for (int j = 0; j < N; j++)
            CHECK_MSG((y[j] != y[j]) == (j == 3 || j == 17), "output %d is %g", j, (double)y[j]);
        CHECK(an_lane_status(l, NULL) == AN_OK);
        free(q);
        an_weight_free(w);
        an_lane_close(l);
        an_device_close(d);
    }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
