/* GEMM on the CPU: ragged shapes, activations, residuals, storage dtypes; every case against the
 * reference, for every instruction set here, and batch invariance on bytes (see harness.h). */
#include "harness.h"
#include "kernels/cpu/gemm.h"

typedef struct gemm_case {
    int64_t m, n, k; /* m rows of each row of the batch */
    an_act act;
    an_dtype dtype, y_dtype;
    bool bias, residual, residual_is_y;
} gemm_case;

static void run(h_run *h, const void *cfg)
{
    const gemm_case *c = cfg;
    const bool gated = an_act_gated(c->act);
    const int64_t width = gated ? c->n / 2 : c->n;
    an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->m, c->k}, 1, 1, 0);
    an_tensor y = h_rows(h, c->y_dtype, 3, (int64_t[]){h->n, c->m, width}, 2, 1, 0);
    an_tensor r = h_rows(h, c->y_dtype, 3, (int64_t[]){h->n, c->m, width}, 3, 1, 0);
    an_gemm_args a = {
        .x = x, .w = h_weight(h, c->dtype, c->n, c->k, 0, 0, c->bias, 4), .act = c->act, .y = y};
    if (c->residual) a.residual = c->residual_is_y ? &y : &r;
    an_gemm(h->l, &a);
    h_output(h, y);
}

static void check(const gemm_case *c)
{
    char name[96];
    snprintf(name, sizeof name, "gemm %lldx%lldx%lld act %d %s->%s", (long long)c->m,
             (long long)c->n, (long long)c->k, (int)c->act, an_dtype_name(c->dtype),
             an_dtype_name(c->y_dtype));
    h_all(name, run, c, 3e-5);
}

TEST(odd_shapes)
{
    static const int64_t ms[] = {1, 2, 5, 17, 64, 257}, ns[] = {1, 3, 4, 33, 96, 320},
                         ks[] = {1, 7, 27, 64, 96, 320, 2880};
    int i = 0;
    for (size_t m = 0; m < 6; m++)
        for (size_t n = 0; n < 6; n++)
            for (size_t k = 0; k < 7; k++, i++) {
                if (ms[m] * ns[n] * ks[k] > 200000 && i % 9) continue;
                if (ms[m] * ns[n] * ks[k] > 3000000) continue;
                an_dtype t = i % 2 ? AN_F32 : AN_BF16;
                gemm_case c = {.m = ms[m], .n = ns[n], .k = ks[k], .dtype = t};
                c.y_dtype = i % 3 == 2 ? AN_F32 : t;
                c.bias = i % 4 < 2, c.residual = i % 5 == 0, c.residual_is_y = i % 10 == 0;
                check(&c);
            }
}

/* Alone, rows take a GPU's small tiles here, and in the largest batch its large ones. */
TEST(large_tiles)
{
    const gemm_case c = {
        .m = 1000, .n = 512, .k = 64, .dtype = AN_BF16, .y_dtype = AN_BF16, .bias = true};
    check(&c);
}

TEST(activations)
{
    /* halves that begin at a panel and that do not, and more columns than one task holds */
    static const int64_t ns[] = {2, 6, 34, 96, 320, 1300};
    for (an_act act = AN_ACT_NONE; act <= AN_ACT_SWIGLU; act++)
        for (size_t n = 0; n < 6; n++) {
            check(&(gemm_case){9, ns[n], 40, act, AN_F32, AN_F32, true, n % 2, false});
            check(&(gemm_case){9, ns[n], 40, act, AN_BF16, AN_BF16, true, true, n % 2});
        }
    check(&(gemm_case){9, 34, 40, AN_ACT_GEGLU, AN_BF16, AN_F32, true, true, true});
}

/* Stacked parts, with biases for some of them, are the parts one after the other. */
TEST(stacked_parts)
{
    enum { M = 7, K = 20, N = 3 + 18 + 1 };
    static const int64_t parts[3] = {3, 18, 1};
    an_device *d = h_device(h_tested(), "auto", 2);
    an_lane *l;
    REQUIRE(d && an_lane_open(d, 1 << 22, &l, NULL) == AN_OK);
    float w[N * K], b[N], x[M * K], y[M * N], part[M * N];
    h_values(w, N * K, 1, 1, 0), h_values(b, N, 2, 1, 0), h_values(x, M * K, 3, 1, 0);
    an_tensor tw[3], tb[3];
    const an_tensor *pw[3] = {tw, tw + 1, tw + 2}, *pb[3] = {tb, NULL, tb + 2};
    for (int64_t i = 0, n = 0; i < 3; n += parts[i++]) {
        tw[i] = an_tensor_2d(w + n * K, AN_F32, parts[i], K);
        tb[i] = an_tensor_1d(b + n, AN_F32, parts[i]);
    }
    an_weight *all = NULL;
    REQUIRE(an_weight_linear(d, AN_F32, 3, pw, pb, &all, NULL) == AN_OK);
    CHECK(all->n == N && all->k == K && all->bytes >= N * K * 4);
    an_gemm_args a = {.x = h_there(l, an_tensor_2d(x, AN_F32, M, K)), .w = all};
    a.y = an_lane_tensor(l, AN_F32, M, N);
    an_gemm(l, &a);
    h_back(l, y, a.y);
    for (int64_t i = 0, n = 0; i < 3; n += parts[i++]) {
        an_weight *one = NULL;
        REQUIRE(an_weight_linear(d, AN_F32, 1, pw + i, pb + i, &one, NULL) == AN_OK);
        a.w = one, a.y = an_lane_tensor(l, AN_F32, M, parts[i]);
        an_gemm(l, &a);
        h_back(l, part, a.y);
        for (int64_t m = 0; m < M; m++)
            CHECK(!memcmp(part + m * parts[i], y + m * N + n, (size_t)parts[i] * sizeof *y));
        an_weight_free(one);
    }
    CHECK(an_lane_status(l, NULL) == AN_OK);
    an_weight_free(all);
    an_lane_close(l);
    an_device_close(d);
}

/* Weights come in any floating dtype; what is packed is the value rounded to the device's. */
TEST(weight_dtypes)
{
    enum { N = 5, K = 9 };
    float w[N * K], x[K], want[N], got[N];
    uint16_t h[N * K], b[N * K];
    double f64[N * K];
    for (int i = 0; i < N * K; i++) { /* exact in every dtype */
        w[i] = (float)(i % 13 - 6) * 0.25f;
        h[i] = an_f32_to_f16(w[i]), b[i] = an_f32_to_bf16(w[i]), f64[i] = (double)w[i];
    }
    for (int i = 0; i < K; i++) x[i] = (float)(i - 3);
    for (int i = 0; i < N; i++) {
        want[i] = 0;
        for (int k = 0; k < K; k++) want[i] += w[i * K + k] * x[k];
    }
    an_device *d = h_device(h_tested(), "auto", 1);
    an_lane *l;
    REQUIRE(d && an_lane_open(d, 1 << 22, &l, NULL) == AN_OK);
    const an_tensor as[] = {an_tensor_2d(w, AN_F32, N, K), an_tensor_2d(h, AN_F16, N, K),
                            an_tensor_2d(b, AN_BF16, N, K), an_tensor_2d(f64, AN_F64, N, K)};
    for (int i = 0; i < 8; i++) {
        const an_tensor *pw = &as[i / 2];
        an_weight *weight = NULL;
        REQUIRE(an_weight_linear(d, i % 2 ? AN_BF16 : AN_F32, 1, &pw, NULL, &weight, NULL) ==
                AN_OK);
        an_gemm_args a = {.x = h_there(l, an_tensor_2d(x, AN_F32, 1, K)), .w = weight};
        a.y = an_lane_tensor(l, AN_F32, 1, N);
        an_gemm(l, &a);
        h_back(l, got, a.y);
        CHECK(an_lane_status(l, NULL) == AN_OK);
        for (int k = 0; k < N; k++) CHECK_MSG(got[k] == want[k], "dtype %d column %d", i, k);
        an_weight_free(weight);
    }
    an_lane_close(l);
    an_device_close(d);
}

/* The other filling, where this build has it. */
TEST(onednn)
{
    H_CPU_ONLY;
#ifdef AN_ONEDNN
    static const int64_t ms[] = {1, 5, 64, 100};
    h_gemm = "onednn";
    for (size_t m = 0; m < 4; m++) {
        check(&(gemm_case){ms[m], 96, 64, AN_ACT_SILU, AN_F32, AN_F32, true, true, m % 2});
        check(&(gemm_case){ms[m], 33, 27, AN_ACT_NONE, AN_F32, AN_F32, false, false, false});
        check(&(gemm_case){ms[m], 50, 70, AN_ACT_GEGLU, AN_BF16, AN_BF16, true, true, false});
    }
    h_gemm = "auto";
#else
    SKIP("built without oneDNN");
#endif
}

TEST(self_test)
{
    H_CPU_ONLY;
    an_device *d = h_device("cpu", "auto", 1);
    REQUIRE(d);
    for (an_isa isa = AN_ISA_GENERIC; isa <= d->isa; isa++) CHECK(an_cpu_self_test(isa));
    an_device_close(d);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
