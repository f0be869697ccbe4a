/* The products of compute capability 9.0, by wgmma: whichever way their tiles are filled, the bytes
 * are the same, and on whole numbers those of mma.sync; a device whose wgmma is wrong says so and
 * goes on without. Launchers are called as matrix.c does, on the emulated GPU; a build with CUDA
 * makes a second program of this for a real one. */
#include "gpu_products.h"

enum { M = 150 };

static bool set_up(fixture *f)
{
    if (!emulated("cc=90") || !open_fixture(f)) return false;
    const gpu_device *g = f->d->gpu;
    if (g->capability == 90) CHECK_MSG(g->wgmma, "%s", an_device_description(f->d));
    if (g->wgmma) return true;
    close_fixture(f, "cc=80,order=seq");
    return false;
}

static void tear_down(fixture *f)
{
    close_fixture(f, "cc=80,order=seq");
}

#define SET_UP(f)                                                                                  \
    fixture f;                                                                                     \
    if (!set_up(&f)) SKIP("no device " GPU_TESTED " of compute capability 9.0 here")

/* Any values, or whole numbers whose sums are exact. */
static void make(float *v, int64_t n, uint64_t seed, bool whole)
{
    h_values(v, n, seed, whole ? 4 : 1, 0);
    for (int64_t i = 0; whole && i < n; i++) v[i] = rintf(v[i]);
}

static an_tensor values(fixture *f, an_dtype dtype, int64_t rows, int64_t cols, uint64_t seed,
                        bool whole)
{
    an_tensor t = an_lane_tensor(f->l, dtype, rows, cols);
    float *v = malloc((size_t)(rows * cols) * sizeof *v);
    make(v, rows * cols, seed, whole);
    h_run h = {.l = f->l};
    h_put(&h, t, 0, v, rows * cols);
    free(v);
    return t;
}

static an_weight *weight(fixture *f, int64_t n, int64_t k, int side, bool whole)
{
    an_error err = {0};
    an_weight *w = NULL;
    const int64_t count = n * k * (side ? side * side : 1);
    float *v = malloc((size_t)count * sizeof *v), *b = malloc((size_t)n * sizeof *b);
    make(v, count, 9, whole);
    make(b, n, 8, whole);
    an_tensor t = side ? an_tensor_4d(v, AN_F32, n, k, side, side) : an_tensor_2d(v, AN_F32, n, k);
    const an_tensor tb = an_tensor_1d(b, AN_F32, n), *pw = &t, *pb = &tb;
    an_status s = side ? an_weight_conv(f->d, AN_BF16, pw, pb, &w, &err)
                       : an_weight_linear(f->d, AN_BF16, 1, &pw, &pb, &w, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    free(v);
    free(b);
    return w;
}

/* y is written from byte `at` on, and the launch went well. */
static bool gives(fixture *f, const an_tensor *y, int error, const char *want, size_t at)
{
    return !error && same_from(f, y, want, at);
}

/* ---------------------------------------------------------------- products */

typedef struct product {
    int n, k;
    an_act act;
    an_dtype x, y;
    bool whole;
} product;

static void check_product(fixture *f, const product *c)
{
    const int width = an_act_gated(c->act) ? c->n / 2 : c->n;
    const size_t mark = an_lane_mark(f->l), row = (size_t)width * an_dtype_size(c->y);
    an_weight *w = weight(f, c->n, c->k, 0, c->whole);
    an_tensor x = values(f, c->x, M, c->k, 1, c->whole), r = values(f, c->y, M, width, 2, c->whole);
    an_tensor y = values(f, c->y, M, width, 3, false);
    int32_t identity[M];
    for (int i = 0; i < M; i++) identity[i] = i;
    void *index = an_lane_scratch(f->l, sizeof identity);
    an_upload(f->l, index, identity, sizeof identity);
    const gpu_gemm whole = {.w = ((gpu_weight *)w->impl)->part[0].plain,
                            .x = x.data,
                            .x_dtype = c->x == AN_BF16 ? GPU_BF16 : GPU_F32,
                            .rows = M,
                            .k = c->k,
                            .out = {.bias = ((gpu_weight *)w->impl)->bias,
                                    .residual = r.data,
                                    .y = y.data,
                                    .y_dtype = c->y == AN_BF16 ? GPU_BF16 : GPU_F32,
                                    .ld = width,
                                    .act = (int)c->act}};
    gpu_gemm g = whole;
    CHECK(GPU(gemm90)(&g, GPU(stream)(f->l)) == 0);
    char *want = bytes_of(f, &y);
    if (c->whole) {
        wipe(f, &y);
        CHECK_MSG(gives(f, &y, GPU(gemm)(&g, GPU(stream)(f->l)), want, 0), "n %d k %d: mma.sync",
                  c->n, c->k);
    }
    for (int i = 0; i < 4; i++) { /* tiles by TMA and by threads, one warpgroup and two */
        CHECK(emulated(orders[i]));
        g.index = i % 2 ? index : NULL;
        g.tile = i / 2 ? GPU_TILE_64x64 : GPU_TILE_128x128;
        wipe(f, &y);
        CHECK_MSG(gives(f, &y, GPU(gemm90)(&g, GPU(stream)(f->l)), want, 0), "n %d k %d way %d",
                  c->n, c->k, i);
    }
    static const int few[] = {1, 64, 65};
    for (int i = 0; i < 3; i++) { /* the last rows, alone */
        const int at = M - few[i];
        g = whole;
        g.rows = few[i];
        g.x = (char *)x.data + (size_t)(at * c->k) * an_dtype_size(c->x);
        g.out.y = (char *)y.data + (size_t)at * row;
        g.out.residual = (char *)r.data + (size_t)at * row;
        wipe(f, &y);
        CHECK_MSG(gives(f, &y, GPU(gemm90)(&g, GPU(stream)(f->l)), want, (size_t)at * row),
                  "n %d: %d rows alone", c->n, few[i]);
    }
    free(want);
    an_weight_free(w);
    an_lane_release(f->l, mark);
}

TEST(products)
{
    SET_UP(f);
    const product cases[] = {
        {128, 520, AN_ACT_NONE, AN_BF16, AN_BF16, true}, /* more steps than stages */
        {70, 136, AN_ACT_NONE, AN_BF16, AN_F32, true},
        {33, 47, AN_ACT_RELU, AN_BF16, AN_BF16, true}, /* rows that lie on no 16 bytes */
        {64, 64, AN_ACT_NONE, AN_F32, AN_BF16, true},  /* converted on the way */
        {256, 328, AN_ACT_SWIGLU, AN_BF16, AN_BF16, false},
        {76, 200, AN_ACT_GEGLU, AN_BF16, AN_F32, false},
        {2, 8, AN_ACT_GEGLU_TANH, AN_BF16, AN_F32, false},
        {515, 72, AN_ACT_GELU, AN_BF16, AN_BF16, false},
    };
    for (int i = 0; i < 8; i++) check_product(&f, &cases[i]);
    tear_down(&f);
}

TEST(ranges_and_indices)
{
    enum { N = 40, K = 136 };
    static const int tiles[] = {GPU_TILE_128x128, GPU_TILE_64x64, GPU_TILE_128x128, GPU_TILE_64x64};
    SET_UP(f);
    an_weight *w = weight(&f, N, K, 0, false);
    an_tensor x = values(&f, AN_BF16, M, K, 1, false), y = values(&f, AN_F32, M, N, 2, false);
    an_tensor z = values(&f, AN_F32, M, N, 3, false);
    check_ranges(&f, GPU(gemm90), w, &x, &y, &z, 5, 83, tiles);
    an_weight_free(w);
    tear_down(&f);
}

/* ---------------------------------------------------------------- convolution */

typedef struct picture {
    int c, n, side, stride, h, w, up_h, up_w;
    bool whole;
} picture;

static void check_picture(fixture *f, const picture *c)
{
    enum { PICTURES = 3 };
    const size_t mark = an_lane_mark(f->l);
    an_weight *w = weight(f, c->n, c->c, c->side, c->whole);
    const int oh = (c->up_h + 1 - c->side) / c->stride + 1;
    const int ow = (c->up_w + 1 - c->side) / c->stride + 1;
    an_tensor x = values(f, AN_BF16, PICTURES * c->h * c->w, c->c, 1, c->whole);
    an_tensor y = values(f, AN_F32, PICTURES * oh * ow, c->n, 2, false);
    gpu_conv g = {.w = ((gpu_weight *)w->impl)->part[0].plain,
                  .x = x.data,
                  .x_dtype = GPU_BF16,
                  .pictures = PICTURES,
                  .h = c->h,
                  .width = c->w,
                  .c = c->c,
                  .up_h = c->up_h,
                  .up_w = c->up_w,
                  .oh = oh,
                  .ow = ow,
                  .kh = c->side,
                  .kw = c->side,
                  .stride = c->stride,
                  .out = {.bias = ((gpu_weight *)w->impl)->bias, .y = y.data, .ld = c->n}};
    CHECK(GPU(conv90)(&g, GPU(stream)(f->l)) == 0);
    char *want = bytes_of(f, &y);
    wipe(f, &y);
    if (c->whole)
        CHECK_MSG(gives(f, &y, GPU(conv)(&g, GPU(stream)(f->l)), want, 0), "%d -> %d: mma.sync",
                  c->c, c->n);
    for (int i = 0; i < 4; i++) {
        CHECK(emulated(orders[i]));
        g.tile = i % 2 ? GPU_TILE_64x64 : GPU_TILE_128x128;
        wipe(f, &y);
        CHECK_MSG(gives(f, &y, GPU(conv90)(&g, GPU(stream)(f->l)), want, 0), "%d -> %d way %d",
                  c->c, c->n, i);
    }
    const size_t one = an_tensor_bytes(&y) / PICTURES; /* the last picture alone */
    g.tile = GPU_TILE_AUTO, g.pictures = 1;
    g.x = (char *)x.data + an_tensor_bytes(&x) / PICTURES * (PICTURES - 1);
    g.out.y = (char *)y.data + one * (PICTURES - 1);
    wipe(f, &y);
    CHECK_MSG(gives(f, &y, GPU(conv90)(&g, GPU(stream)(f->l)), want, one * (PICTURES - 1)),
              "%d -> %d: a picture alone", c->c, c->n);
    free(want);
    an_weight_free(w);
    an_lane_release(f->l, mark);
}

TEST(convolutions)
{
    SET_UP(f);
    const picture cases[] = {
        {64, 128, 3, 1, 7, 6, 7, 6, true}, {72, 33, 3, 2, 9, 8, 9, 8, true},
        {4, 64, 3, 1, 8, 8, 8, 8, true},   {24, 130, 1, 1, 7, 7, 7, 7, true},
        {40, 40, 3, 1, 4, 5, 8, 10, true}, {16, 16, 5, 1, 4, 5, 7, 11, false},
    };
    for (int i = 0; i < 6; i++) check_picture(&f, &cases[i]);
    tear_down(&f);
}

/* ---------------------------------------------------------------- choosing */

/* A product as models ask for it. */
static void ask(an_device *d, char *bytes, size_t size)
{
    fixture f = {.d = d};
    an_error err = {0};
    CHECK(an_lane_open(d, (size_t)8 << 20, &f.l, &err) == AN_OK);
    an_weight *w = weight(&f, 96, 136, 0, true);
    an_tensor x = values(&f, AN_BF16, 70, 136, 1, true), y = an_lane_tensor(f.l, AN_F32, 70, 96);
    an_gemm_args a = {.x = x, .w = w, .y = y};
    an_gemm(f.l, &a);
    an_download(f.l, bytes, y.data, size);
    CHECK_MSG(an_lane_status(f.l, &err) == AN_OK, "%s", err.message);
    an_weight_free(w);
    an_lane_close(f.l);
}

/* On the emulated GPU: which products it takes, what it says, and that they are right. */
TEST(choosing)
{
    static const struct {
        const char *options, *says;
        bool wgmma;
    } cases[] = {
        {"cc=80", "for tests", false},
        {"cc=90", "; products by wgmma", true},
        {"faulty=1",
         "; products by mma.sync, since wgmma failed its test: 7 of 7 products differ from "
         "mma.sync's",
         false},
    };
    enum { SIZE = 70 * 96 * 4 };
    if (strcmp(GPU_TESTED, "simt")) SKIP("chosen on the emulated GPU");
    char *want = malloc(SIZE), *got = malloc(SIZE);
    for (int i = 0; i < 3; i++) {
        an_error err = {0};
        an_device *d = NULL;
        REQUIRE(simt_configure(cases[i].options));
        REQUIRE(an_device_open(&(an_device_options){.device = "simt", .threads = 1}, &d, &err) ==
                AN_OK);
        const char *text = an_device_description(d);
        CHECK_MSG(strlen(text) > strlen(cases[i].says) &&
                      !strcmp(text + strlen(text) - strlen(cases[i].says), cases[i].says),
                  "%s: %s", cases[i].options, text);
        CHECK(((gpu_device *)d->gpu)->wgmma == cases[i].wgmma);
        ask(d, i ? got : want, SIZE);
        if (i) CHECK_MSG(!memcmp(got, want, SIZE), "%s", cases[i].options);
        an_device_close(d);
    }
    CHECK(simt_configure("cc=80,faulty=0"));
    free(want);
    free(got);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
