/* gpu_products.h: what the suites share that call the launchers of products as matrix.c does, on
 * the emulated GPU or a real one: a device with a lane, results as bytes, and what asking for some
 * rows of a product must not change. */
#ifndef ANNEAL_TESTS_GPU_PRODUCTS_H
#define ANNEAL_TESTS_GPU_PRODUCTS_H

#ifndef AN_GPU_PREFIX
#define AN_GPU_PREFIX an_simt_
#define GPU_TESTED    "simt"
#endif
#include "cuda/matrix.h"
#include "harness.h"

typedef struct fixture {
    an_device *d;
    an_lane *l;
} fixture;

/* Options of the emulator; a real GPU has its own order of threads. */
static inline bool emulated(const char *options)
{
    return strcmp(GPU_TESTED, "simt") || simt_configure(options);
}

/* The order that the emulator's threads run in. */
static const char *const orders[] = {"order=seq", "order=rev", "order=rand,seed=1",
                                     "order=rand,seed=2"};

static inline bool open_fixture(fixture *f)
{
    an_error err = {0};
    an_device_options o = {.device = GPU_TESTED, .threads = 1};
    *f = (fixture){0};
    if (an_device_open(&o, &f->d, &err)) return false;
    CHECK(an_lane_open(f->d, (size_t)48 << 20, &f->l, &err) == AN_OK);
    return f->l != NULL;
}

/* options: what the emulator is left with. */
static inline void close_fixture(fixture *f, const char *options)
{
    an_error err = {0};
    CHECK_MSG(an_lane_status(f->l, &err) == AN_OK, "%s", err.message);
    an_lane_close(f->l);
    an_device_close(f->d);
    CHECK(emulated(options));
}

/* The bytes of y; free. */
static inline char *bytes_of(fixture *f, const an_tensor *y)
{
    char *p = malloc(an_tensor_bytes(y));
    an_download(f->l, p, y->data, an_tensor_bytes(y));
    an_lane_sync(f->l);
    return p;
}

/* Nothing of an earlier product is left in y. */
static inline void wipe(fixture *f, const an_tensor *y)
{
    char *p = malloc(an_tensor_bytes(y));
    memset(p, 0xa5, an_tensor_bytes(y));
    an_upload(f->l, y->data, p, an_tensor_bytes(y));
    free(p);
}

/* Whether a wiped y was written from byte `at` on, with what `want` has there, and nowhere else. */
static inline bool same_from(fixture *f, const an_tensor *y, const char *want, size_t at)
{
    char *got = bytes_of(f, y);
    const size_t bytes = an_tensor_bytes(y);
    bool same = !memcmp(got + at, want + at, bytes - at);
    for (size_t i = 0; i < at; i++) same &= (uint8_t)got[i] == 0xa5;
    free(got);
    return same;
}

static inline gpu_out out_of(const an_weight *w, const an_tensor *y, const an_tensor *residual,
                             an_act act)
{
    return (gpu_out){.bias = ((gpu_weight *)w->impl)->bias,
                     .residual = residual ? residual->data : NULL,
                     .y = y->data,
                     .y_dtype = y->dtype == AN_BF16 ? GPU_BF16 : GPU_F32,
                     .ld = (int)y->dim[1],
                     .act = (int)act};
}

/* Rows first .. end - 1 of x w^T by `launch`, of rows of x found through an index, as a mixture of
 * experts asks for them: they are those of the rows in order, and no other row is written. x [m, k]
 * BF16; y and z [m, n] F32, any values; one way of tiling after the other. */
static inline void check_ranges(fixture *f, int (*launch)(const gpu_gemm *, gpu_stream),
                                const an_weight *w, const an_tensor *x, const an_tensor *y,
                                const an_tensor *z, int first, int end, const int tiles[4])
{
    enum { MOST = 256 };
    const int rows = (int)x->dim[0];
    const size_t row = an_tensor_bytes(y) / (size_t)rows;
    int32_t index[MOST];
    const int32_t range[2] = {first, end};
    REQUIRE(rows <= MOST);
    for (int i = 0; i < rows; i++) index[i] = i * 37 % rows;
    void *there = an_lane_scratch(f->l, sizeof index), *span = an_lane_scratch(f->l, sizeof range);
    an_upload(f->l, there, index, sizeof index);
    an_upload(f->l, span, range, sizeof range);
    gpu_gemm g = {.w = ((gpu_weight *)w->impl)->part[0].plain,
                  .x = x->data,
                  .x_dtype = GPU_BF16,
                  .rows = rows,
                  .k = (int)x->dim[1],
                  .out = out_of(w, y, NULL, AN_ACT_NONE)};
    CHECK(launch(&g, GPU(stream)(f->l)) == 0);
    char *want = bytes_of(f, y), *before = bytes_of(f, z);
    g.out.y = z->data, g.index = there, g.range = span;
    for (int i = 0; i < 4; i++) {
        CHECK(emulated(orders[i]));
        g.tile = tiles[i];
        an_upload(f->l, z->data, before, an_tensor_bytes(z));
        CHECK(launch(&g, GPU(stream)(f->l)) == 0);
        char *got = bytes_of(f, z);
        for (int m = 0; m < rows; m++) {
            const size_t at = (size_t)m * row;
            const char *due = m >= first && m < end ? want + (size_t)index[m] * row : before + at;
            CHECK_MSG(!memcmp(got + at, due, row), "tile %d row %d", tiles[i], m);
        }
        free(got);
    }
    free(want);
    free(before);
}

#endif
