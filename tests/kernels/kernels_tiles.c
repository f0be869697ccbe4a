/* The GPU's products under every tile they have: a tile changes the speed and no bit, so bytes must
 * not tell which one was taken, nor how many rows there were, which of them are asked for (range,
 * index), or which thread went first. Correctness against the reference is the other suites'
 * matter. Launchers are called as matrix.c does, on the emulated GPU; a build with CUDA makes a
 * second program of this for a real one. */
#include "gpu_products.h"
#include "quant_cases.h"

#define SET_UP(f)                                                                                  \
    fixture f;                                                                                     \
    if (!open_fixture(&f)) SKIP("no device " GPU_TESTED " here")

static an_tensor values(fixture *f, an_dtype dtype, int64_t rows, int64_t cols, uint64_t seed)
{
    h_run h = {.d = f->d, .l = f->l, .n = 1, .id = (int[]){0}};
    return h_param(&h, dtype, 2, (int64_t[]){rows, cols}, seed, 1, 0);
}

static an_weight *weight(fixture *f, an_dtype format, an_dtype dtype, int64_t n, int64_t k, int kh,
                         int kw)
{
    an_error err = {0};
    an_weight *w = NULL;
    float *b = malloc((size_t)n * sizeof *b);
    h_values(b, n, 8, 1, 0);
    const bool fp8 = format == AN_F8_E4M3;
    an_tensor t = qc_matrix(fp8 ? AN_F32 : format, n, k * (kh ? kh * kw : 1), 9);
    if (fp8) { /* in place: a code never lies behind the number it is made of */
        uint8_t *code = t.data;
        const float *v = t.data;
        for (int64_t i = 0; i < n * k; i++) {
            const float now = v[i];
            code[i] = an_f32_to_e4m3(now);
        }
        t.dtype = format;
    }
    const an_tensor tb = an_tensor_1d(b, AN_F32, n), *pw = &t, *pb = &tb;
    const float *scale = fp8 ? b : NULL; /* as good as any */
    if (kh) t = an_tensor_4d(t.data, format, n, k, kh, kw);
    an_status s = kh ? an_weight_conv(f->d, dtype, pw, pb, &w, &err)
                     : an_weight_scaled(f->d, dtype, 1, &pw, &scale, &pb, &w, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    free(t.data);
    free(b);
    return w;
}

/* ---------------------------------------------------------------- products */

/* More than stages + 2 steps of the deepest ring, ragged everywhere. */
#define M 130
#define K 600

/* dtype: of activations; format: of the weight, F32 or F8_E4M3. */
static void check_gemm(fixture *f, an_dtype format, an_dtype dtype, int64_t n, int64_t k,
                       an_act act, an_dtype out)
{
    const bool gated = an_act_gated(act);
    an_weight *w = weight(f, format, dtype, n, k, 0, 0);
    an_tensor x = values(f, dtype, M, k, 1), r = values(f, out, M, gated ? n / 2 : n, 2);
    an_tensor y = values(f, out, M, gated ? n / 2 : n, 3);
    gpu_gemm g = {.w = ((gpu_weight *)w->impl)->part[0].plain,
                  .x = x.data,
                  .x_dtype = dtype == AN_BF16 ? GPU_BF16 : GPU_F32,
                  .rows = M,
                  .k = (int)k,
                  .out = out_of(w, &y, &r, act)};
    const size_t row = an_tensor_bytes(&y) / M;
    char *want = NULL;
    static const int tiles[] = {GPU_TILE_64x64, GPU_TILE_64x32, GPU_TILE_128x128, GPU_TILE_16x32};
    for (int i = 0; i < (dtype == AN_F32 ? 2 : 4); i++) {
        g.tile = tiles[i];
        CHECK(emulated(orders[i]));
        wipe(f, &y);
        CHECK(GPU(gemm)(&g, GPU(stream)(f->l)) == 0);
        if (!want) want = bytes_of(f, &y);
        CHECK_MSG(same_from(f, &y, want, 0), "n %d tile %d", (int)n, tiles[i]);
    }
    static const int few[] = {1, 3, 17};
    g.tile = GPU_TILE_AUTO;
    for (int i = 0; i < 3; i++) { /* the last rows, alone */
        const int64_t at = M - few[i];
        g.rows = few[i];
        g.x = (char *)x.data + (size_t)(at * k) * an_dtype_size(dtype);
        g.out.y = (char *)y.data + (size_t)at * row;
        g.out.residual = (char *)r.data + (size_t)at * row;
        wipe(f, &y);
        CHECK(GPU(gemm)(&g, GPU(stream)(f->l)) == 0);
        CHECK_MSG(same_from(f, &y, want, (size_t)at * row), "n %d: %d rows alone", (int)n, few[i]);
    }
    free(want);
    an_weight_free(w);
}

TEST(tiles_of_products)
{
    SET_UP(f);
    const size_t mark = an_lane_mark(f.l);
    check_gemm(&f, AN_F32, AN_BF16, 70, K, AN_ACT_NONE, AN_BF16);
    check_gemm(&f, AN_F32, AN_BF16, 131, 47, AN_ACT_SILU,
               AN_F32); /* rows that lie on no 16 bytes */
    check_gemm(&f, AN_F32, AN_BF16, 76, K, AN_ACT_GEGLU, AN_BF16);
    check_gemm(&f, AN_F32, AN_BF16, 64, 128, AN_ACT_SWIGLU, AN_F32);
    check_gemm(&f, AN_F32, AN_BF16, 33, 64, AN_ACT_GELU_TANH, AN_BF16);
    an_lane_release(f.l, mark);
    check_gemm(&f, AN_F32, AN_F32, 70, 300, AN_ACT_GEGLU_TANH, AN_F32);
    check_gemm(&f, AN_F32, AN_F32, 45, 61, AN_ACT_QUICK_GELU, AN_F32);
    close_fixture(&f, "order=seq");
}

TEST(tiles_of_products_with_fp8)
{
    SET_UP(f);
    const size_t mark = an_lane_mark(f.l);
    check_gemm(&f, AN_F8_E4M3, AN_BF16, 70, K, AN_ACT_NONE, AN_BF16);
    check_gemm(&f, AN_F8_E4M3, AN_BF16, 131, 47, AN_ACT_SILU, AN_F32);
    an_lane_release(f.l, mark);
    check_gemm(&f, AN_F8_E4M3, AN_BF16, 76, K, AN_ACT_GEGLU, AN_BF16);
    check_gemm(&f, AN_F8_E4M3, AN_BF16, 33, 64, AN_ACT_GELU_TANH, AN_BF16);
    close_fixture(&f, "order=seq");
}

TEST(ranges_and_indices)
{
    enum { N = 40 };
    static const int tiles[] = {GPU_TILE_16x32, GPU_TILE_16x32 + 1, GPU_TILE_16x32 + 2,
                                GPU_TILE_16x32 + 3};
    SET_UP(f);
    an_weight *w = weight(&f, AN_BF16, AN_BF16, N, K, 0, 0);
    an_tensor x = values(&f, AN_BF16, M, K, 1), y = values(&f, AN_F32, M, N, 2);
    an_tensor z = values(&f, AN_F32, M, N, 3);
    check_ranges(&f, GPU(gemm), w, &x, &y, &z, 5, 23, tiles);
    an_weight_free(w);
    close_fixture(&f, "order=seq");
}

/* ---------------------------------------------------------------- convolution */

typedef struct conv_case {
    an_dtype dtype;
    int c, n, kernel, stride, h, w, up_h, up_w;
} conv_case;

static void check_conv(fixture *f, const conv_case *c)
{
    enum { PICTURES = 3 };
    an_weight *w = weight(f, AN_F32, c->dtype, c->n, c->c, c->kernel, c->kernel);
    const int oh = (c->up_h + 1 - c->kernel) / c->stride + 1; /* padded below and right alone */
    const int ow = (c->up_w + 1 - c->kernel) / c->stride + 1;
    an_tensor x = values(f, c->dtype, PICTURES * c->h * c->w, c->c, 1);
    an_tensor y = values(f, c->dtype, PICTURES * oh * ow, c->n, 2);
    an_tensor r = values(f, c->dtype, PICTURES * oh * ow, c->n, 3);
    an_tensor rb = values(f, AN_F32, PICTURES, c->n, 4);
    gpu_conv g = {.w = ((gpu_weight *)w->impl)->part[0].plain,
                  .x = x.data,
                  .x_dtype = c->dtype == AN_BF16 ? GPU_BF16 : GPU_F32,
                  .pictures = PICTURES,
                  .h = c->h,
                  .width = c->w,
                  .c = c->c,
                  .up_h = c->up_h,
                  .up_w = c->up_w,
                  .oh = oh,
                  .ow = ow,
                  .kh = c->kernel,
                  .kw = c->kernel,
                  .stride = c->stride,
                  .out = out_of(w, &y, &r, AN_ACT_SILU)};
    g.out.row_bias = rb.data;
    g.out.row_bias_dtype = GPU_F32;
    g.out.row_bias_ld = c->n;
    g.out.row_pixels = oh * ow;
    char *want = NULL;
    static const int tiles[] = {GPU_TILE_64x64, GPU_TILE_64x32, GPU_TILE_128x128, GPU_TILE_16x32};
    for (int i = 0; i < (c->dtype == AN_F32 ? 2 : 4); i++) {
        g.tile = tiles[i];
        CHECK(emulated(orders[i]));
        wipe(f, &y);
        CHECK(GPU(conv)(&g, GPU(stream)(f->l)) == 0);
        if (!want) want = bytes_of(f, &y);
        CHECK_MSG(same_from(f, &y, want, 0), "%d -> %d tile %d", c->c, c->n, tiles[i]);
    }
    /* the last picture alone */
    const size_t picture = an_tensor_bytes(&y) / PICTURES;
    g.tile = GPU_TILE_AUTO, g.pictures = 1;
    g.x = (char *)x.data + an_tensor_bytes(&x) / PICTURES * (PICTURES - 1);
    g.out.y = (char *)y.data + picture * (PICTURES - 1);
    g.out.residual = (char *)r.data + picture * (PICTURES - 1);
    g.out.row_bias = (float *)rb.data + c->n * (PICTURES - 1);
    wipe(f, &y);
    CHECK(GPU(conv)(&g, GPU(stream)(f->l)) == 0);
    CHECK_MSG(same_from(f, &y, want, picture * (PICTURES - 1)), "%d -> %d: a picture alone", c->c,
              c->n);
    free(want);
    an_weight_free(w);
}

TEST(tiles_of_convolutions)
{
    SET_UP(f);
    const conv_case cases[] = {
        {AN_BF16, 64, 70, 3, 1, 7, 6, 7, 6},  {AN_BF16, 72, 33, 3, 2, 9, 8, 9, 8},
        {AN_BF16, 4, 64, 3, 1, 8, 8, 8, 8},   {AN_BF16, 24, 130, 1, 1, 7, 7, 7, 7},
        {AN_BF16, 40, 40, 3, 1, 4, 5, 8, 10}, {AN_BF16, 16, 16, 5, 1, 4, 5, 7, 11},
        {AN_F32, 36, 37, 3, 1, 5, 5, 5, 5},   {AN_F32, 3, 8, 3, 2, 6, 6, 12, 12},
    };
    for (int i = 0; i < 8; i++) check_conv(&f, &cases[i]);
    close_fixture(&f, "order=seq");
}

/* ---------------------------------------------------------------- blocks */

/* Few rows and many: one warp a part of k, and one warp all parts in turn. */
TEST(tiles_of_blocks)
{
    enum { N = 70, DEEP = 1280 };
    SET_UP(f);
    an_tensor x = values(&f, AN_BF16, M, DEEP, 1), y = values(&f, AN_F32, M, N, 2);
    const size_t row = an_tensor_bytes(&y) / M;
    gpu_record *x8 = an_lane_scratch(f.l, (size_t)M * DEEP / 128 * sizeof *x8);
    for (int i = 0; i < QC_FORMATS; i++) {
        /* 4 parts of 3, 3, 3 and 1 groups; 2, 2, 2 and a half, the last not whole; 1 and 0 */
        const int64_t k = i % 3 == 0 || an_dtype_block(qc_formats[i]) > 32 ? DEEP
                          : i % 3 == 1                                     ? 800
                                                                           : 96;
        an_weight *w = weight(&f, qc_formats[i], AN_BF16, N, k, 0, 0);
        CHECK(GPU(round)(x.data, GPU_BF16, M, (int)k, x8, GPU(stream)(f.l)) == 0);
        gpu_quant q = {.w = ((gpu_weight *)w->impl)->part[0].quant,
                       .x = x8,
                       .rows = M,
                       .out = out_of(w, &y, NULL, AN_ACT_NONE),
                       .tile = GPU_TILE_64x64};
        CHECK(emulated(orders[i % 4]));
        CHECK(GPU(quant)(&q, GPU(stream)(f.l)) == 0);
        void *want = bytes_of(&f, &y);
        static const int few[] = {M, 1, 3, 17, 60};
        for (int j = 0; j < 5; j++) { /* all by the other tile, then the last ones alone */
            const int at = M - few[j];
            q.rows = few[j];
            q.x = x8 + at * ((k + 127) / 128);
            q.out.y = (char *)y.data + (size_t)at * row;
            q.tile = j ? GPU_TILE_AUTO : GPU_TILE_16x32;
            wipe(&f, &y);
            CHECK(GPU(quant)(&q, GPU(stream)(f.l)) == 0);
            CHECK_MSG(same_from(&f, &y, want, (size_t)at * row), "%s: %d rows",
                      an_dtype_name(qc_formats[i]), few[j]);
        }
        free(want);
        an_weight_free(w);
    }
    close_fixture(&f, "order=seq");
}

/* Activations in 8 bits are those of an_q8_round, to the bit, with the sums beside them; what is
 * past k is zero. */
TEST(rounded_activations)
{
    enum { ROWS = 6, N = 160, GROUPS = 2 };
    SET_UP(f);
    float x[ROWS * N];
    h_values(x, ROWS * N, 5, 3, 0);
    for (int i = 0; i < N; i++) {
        x[N + i] *= 1e-31f;                         /* too small to divide by */
        x[2 * N + i] = i % 40 ? 0 : -0.0f;          /* nothing at all */
        x[4 * N + i] = (float)(i % 32 - 16) + 0.5f; /* halves: to even */
        x[5 * N + i] *= i % 2 ? 1e30f : 1e-30f;
    }
    x[3 * N + 1] = NAN, x[3 * N + 40] = INFINITY, x[3 * N + 100] = -INFINITY;
    float *there = an_lane_scratch(f.l, sizeof x);
    gpu_record *to = an_lane_scratch(f.l, ROWS * GROUPS * sizeof *to), got[ROWS * GROUPS];
    an_upload(f.l, there, x, sizeof x);
    CHECK(GPU(round)(there, GPU_F32, ROWS, N, to, GPU(stream)(f.l)) == 0);
    an_download(f.l, got, to, sizeof got);
    for (int row = 0; row < ROWS; row++)
        for (int b = 0; b < GROUPS * 4; b++) {
            const gpu_record *r = &got[row * GROUPS + b / 4];
            float values[AN_Q8_BLOCK] = {0};
            int8_t q[AN_Q8_BLOCK];
            int sum[2] = {0, 0};
            if (b * AN_Q8_BLOCK < N) memcpy(values, x + row * N + b * AN_Q8_BLOCK, sizeof values);
            const float scale = an_q8_round(values, q);
            for (int i = 0; i < AN_Q8_BLOCK; i++) sum[i / 16] += q[i];
            const float had = r->scale[b % 4];
            CHECK_MSG(scale == had || (scale != scale && had != had), "row %d block %d: %g, not %g",
                      row, b, (double)had, (double)scale);
            CHECK(!memcmp(r->q + b % 4 * AN_Q8_BLOCK, q, sizeof q));
            CHECK(r->sum[b % 4][0] == sum[0] && r->sum[b % 4][1] == sum[1]);
        }
    close_fixture(&f, "order=seq");
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
