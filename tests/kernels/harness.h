/* harness.h: how an op is tested. A case is one function that makes its inputs, runs the op and
 * hands over its output:
 *
 *     typedef struct { int64_t m, n, k; an_dtype dtype; } gemm_case;
 *     static void run(h_run *h, const void *cfg)
 *     {
 *         const gemm_case *c = cfg;
 *         an_tensor x = h_rows(h, c->dtype, 3, (int64_t[]){h->n, c->m, c->k}, 1, 1, 0);
 *         an_tensor y = an_lane_tensor(h->l, c->dtype, h->n, c->m, c->n);
 *         ...                                      (weights: h_weight, h_param, from fixed seeds)
 *         an_gemm(h->l, &args);
 *         h_output(h, y);
 *     }
 *     TEST(gemm) { h_all("gemm", run, &(gemm_case){...}, 1e-5); }
 *
 * h->n rows are in the batch; row i of an input made by h_rows depends on h->id[i] alone. h_all
 * then checks, for every instruction set this machine has and for 1, 2 and 3 threads:
 *   - against the reference: |y - ref| <= tol * (|ref| + rms(ref)), and a rounding of y's dtype;
 *   - same bytes for every thread count;
 *   - same bytes for a row alone, in another batch and at another place;
 *   - that a lane with exactly the bytes that a counting lane counted is enough, and is used up.
 *
 * The same suites test other devices: AN_TEST_DEVICE=simt (or cuda) in the environment, and h_all
 * runs every case there instead, in several orders of threads where they are emulated. A test that
 * looks into device memory or at what only the CPU has begins with H_CPU_ONLY. */
#ifndef ANNEAL_KERNELS_HARNESS_H
#define ANNEAL_KERNELS_HARNESS_H

#include "anneal/ops.h"
#include "kernels/backend.h"
#include "test.h"

#define H_MAX_WEIGHTS 16

typedef struct h_run {
    an_device *d;
    an_lane *l;
    int n;         /* rows of this batch */
    const int *id; /* what each row is */
    /* output, by h_output */
    an_dtype dtype;
    int64_t count;
    void *out; /* the bytes, host */
    /* freed by the harness after the run */
    an_weight *weight[H_MAX_WEIGHTS];
    int weights;
} h_run;

typedef void (*h_fn)(h_run *h, const void *cfg);

/* The device under test: "cpu", "simt", "cuda". */
static inline const char *h_tested(void)
{
    return test_device();
}
static inline bool h_on(const char *name)
{
    return strcmp(h_tested(), name) == 0;
}
#define H_CPU_ONLY                                                                                 \
    do {                                                                                           \
        if (!h_on("cpu")) return;                                                                  \
    } while (0)

/* kernels/simt's, when that is the device; see its cuda_runtime_api.h. */
int simt_configure(const char *options);

/* "auto" unless a test sets it: which GEMM the CPU devices of h_all use. */
static const char *h_gemm = "auto";
/* Set by a test that was built with the loops of an instruction set that this machine may lack,
 * from plain C: the only set that h_all then runs. */
static an_isa h_emulated = AN_ISA_GENERIC;

/* ---------------------------------------------------------------- inputs */

/* Roughly normal, from a seed: the same on every machine. */
static inline float h_random(uint64_t *s)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        *s = *s * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(*s >> 40) * (1.0f / 16777216.0f);
    }
    return (sum - 2.0f) * 1.7320508f;
}

static inline void h_values(float *to, int64_t n, uint64_t seed, float scale, float offset)
{
    uint64_t s = seed * 0x9e3779b97f4a7c15u + 12345;
    for (int64_t i = 0; i < n; i++) to[i] = h_random(&s) * scale + offset;
}

/* n host values as dtype into a device tensor, from element `at` on. */
static inline void h_put(h_run *h, an_tensor t, int64_t at, const float *v, int64_t n)
{
    size_t size = an_dtype_size(t.dtype);
    void *b = malloc((size_t)n * size + 1);
    an_convert(b, t.dtype, v, AN_F32, n);
    an_upload(h->l, t.data ? (char *)t.data + (size_t)at * size : NULL, b, (size_t)n * size);
    free(b);
}

/* A host tensor's copy in the lane's scratch, and the way back. */
static inline an_tensor h_there(an_lane *l, an_tensor host)
{
    an_tensor t = an_lane_alloc(l, host.dtype, host.ndim, host.dim);
    an_upload(l, t.data, host.data, an_tensor_bytes(&host));
    return t;
}
static inline void h_back(an_lane *l, void *host, an_tensor t)
{
    an_download(l, host, t.data, an_tensor_bytes(&t));
}

/* A scratch tensor [n, ...] whose row i is made of h->id[i] and the seed. */
static inline an_tensor h_rows(h_run *h, an_dtype dtype, int ndim, const int64_t *dim,
                               uint64_t seed, float scale, float offset)
{
    an_tensor t = an_lane_alloc(h->l, dtype, ndim, dim);
    if (!t.data) return t; /* counting */
    int64_t row = an_tensor_count(&t) / h->n;
    float *v = malloc((size_t)row * sizeof *v + 1);
    for (int i = 0; i < h->n; i++) {
        h_values(v, row, seed * 1000 + (uint64_t)h->id[i], scale, offset);
        h_put(h, t, i * row, v, row);
    }
    free(v);
    return t;
}

/* A parameter: the same whatever the batch. */
static inline an_tensor h_param(h_run *h, an_dtype dtype, int ndim, const int64_t *dim,
                                uint64_t seed, float scale, float offset)
{
    an_tensor t = an_lane_alloc(h->l, dtype, ndim, dim);
    if (!t.data) return t;
    int64_t count = an_tensor_count(&t);
    float *v = malloc((size_t)count * sizeof *v + 1);
    h_values(v, count, seed, scale, offset);
    h_put(h, t, 0, v, count);
    free(v);
    return t;
}

/* A packed weight: a matrix [n,k] (kh == 0) or a convolution [n,k,kh,kw]; scaled by 1/sqrt(inputs).
 */
static inline an_weight *h_weight(h_run *h, an_dtype dtype, int64_t n, int64_t k, int kh, int kw,
                                  bool bias, uint64_t seed)
{
    int64_t taps = kh ? (int64_t)kh * kw : 1;
    float *w = malloc((size_t)(n * k * taps) * sizeof *w), *b = malloc((size_t)n * sizeof *b);
    h_values(w, n * k * taps, seed, 1.0f / sqrtf((float)(k * taps)), 0);
    h_values(b, n, seed + 1, 0.5f, 0);
    an_tensor tw = kh ? an_tensor_4d(w, AN_F32, n, k, kh, kw) : an_tensor_2d(w, AN_F32, n, k);
    an_tensor tb = an_tensor_1d(b, AN_F32, n);
    const an_tensor *pw = &tw, *pb = bias ? &tb : NULL;
    an_error err = {0};
    an_weight *out = NULL;
    an_status s = kh ? an_weight_conv(h->d, dtype, pw, pb, &out, &err)
                     : an_weight_linear(h->d, dtype, 1, &pw, &pb, &out, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    free(w);
    free(b);
    if (out && h->weights < H_MAX_WEIGHTS) h->weight[h->weights++] = out;
    return out;
}

/* The result; its first dim is the batch. */
static inline void h_output(h_run *h, an_tensor y)
{
    h->dtype = y.dtype;
    h->count = an_tensor_count(&y);
    free(h->out);
    h->out = calloc(1, an_tensor_bytes(&y) + 1);
    an_download(h->l, h->out, y.data, an_tensor_bytes(&y));
}

/* ---------------------------------------------------------------- running */

static inline an_device *h_device(const char *device, const char *isa, int threads)
{
    an_error err = {0};
    an_device *d = NULL;
    an_device_options o = {.device = device, .isa = isa, .gemm = h_gemm, .threads = threads};
    an_status s = an_device_open(&o, &d, &err);
    CHECK_MSG(s == AN_OK, "device %s %s: %s", device, isa, err.message);
    return d;
}

static inline void h_free_weights(h_run *h)
{
    for (int i = 0; i < h->weights; i++) an_weight_free(h->weight[i]);
    h->weights = 0;
}

static inline void h_free(h_run *h)
{
    h_free_weights(h);
    free(h->out);
    *h = (h_run){0};
}

/* Counts, then runs in a lane of exactly that size. */
static inline h_run h_do(an_device *d, h_fn fn, const void *cfg, int n, const int *id)
{
    an_error err = {0};
    h_run c = {.d = d, .n = n, .id = id}, h = c;
    CHECK(an_lane_open_counting(d, &c.l, &err) == AN_OK);
    fn(&c, cfg);
    an_status s = an_lane_status(c.l, &err);
    CHECK_MSG(s == AN_OK, "counting: %s", err.message);
    size_t peak = an_lane_peak(c.l);
    double flops = an_lane_flops(c.l);
    an_lane_close(c.l);
    h_free(&c);

    CHECK(an_lane_open(d, peak, &h.l, &err) == AN_OK);
    fn(&h, cfg);
    s = an_lane_status(h.l, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    CHECK_MSG(an_lane_peak(h.l) == peak, "counted %zu, used %zu", peak, an_lane_peak(h.l));
    CHECK(an_lane_flops(h.l) == flops);
    an_lane_close(h.l);
    h.l = NULL;
    h_free_weights(&h); /* the outcome outlives the device */
    return h;
}

static inline float h_at(const h_run *h, int64_t i)
{
    if (h->dtype == AN_BF16) return an_bf16_to_f32(((const uint16_t *)h->out)[i]);
    if (h->dtype == AN_U8) return ((const uint8_t *)h->out)[i];
    return ((const float *)h->out)[i];
}

static inline void h_compare(const char *name, const char *what, const h_run *y, const h_run *ref,
                             double tol)
{
    CHECK_MSG(y->count == ref->count && y->count > 0, "%s %s: sizes", name, what);
    if (y->count != ref->count || !y->out || !ref->out) return;
    double square = 0, worst = 0;
    int64_t at = -1, finite = 0;
    for (int64_t i = 0; i < ref->count; i++) {
        double v = h_at(ref, i);
        if (!isfinite(v)) continue;
        square += v * v;
        finite++;
    }
    double rms = finite ? sqrt(square / (double)finite) : 0;
    double rounding = ref->dtype == AN_BF16 ? 1.0 / 128 : 0;
    for (int64_t i = 0; i < ref->count; i++) {
        double a = h_at(y, i), b = h_at(ref, i);
        if (a == b || (a != a && b != b)) continue;
        double allowed = tol * (fabs(b) + rms) + rounding * fabs(b) + 1e-30;
        double e = fabs(a - b) / allowed;
        if (e > worst || e != e) {
            worst = e == e ? e : INFINITY;
            at = i;
        }
    }
    CHECK_MSG(worst <= 1, "%s %s: element %lld of %lld: %.9g, reference %.9g, %.2f x the tolerance",
              name, what, (long long)at, (long long)ref->count, (double)h_at(y, at < 0 ? 0 : at),
              (double)h_at(ref, at < 0 ? 0 : at), worst);
}

/* Row i of a holds the same bytes as row j of b. */
static inline void h_same_row(const char *name, const char *what, const h_run *a, int i, int na,
                              const h_run *b, int j, int nb)
{
    if (!a->out || !b->out) return;
    size_t size = an_dtype_size(a->dtype), row = (size_t)(a->count / na) * size;
    CHECK_MSG(b->count / nb == a->count / na && memcmp((char *)a->out + (size_t)i * row,
                                                       (char *)b->out + (size_t)j * row, row) == 0,
              "%s %s: row %d of %d and row %d of %d differ", name, what, i, na, j, nb);
}

/* Batches that row 2 is in; the first is the one compared with the reference. */
static const int h_batch0[] = {0, 1, 2}, h_batch1[] = {2}, h_batch2[] = {3, 2},
                 h_batch3[] = {2, 5, 6, 7, 1, 8, 2};

static inline an_device *h_isa_device(const char *isa, int threads)
{
    if (!h_emulated) return h_device("cpu", isa, threads);
    an_device *d = h_device("cpu", "generic", threads);
    if (d) d->isa = h_emulated;
    return d;
}

static inline void h_on_isa(const char *name, h_fn fn, const void *cfg, double tol, const char *isa,
                            const h_run *ref)
{
    h_run first = {0};
    for (int threads = 1; threads <= 3; threads++) {
        an_device *d = h_isa_device(isa, threads);
        if (!d) return;
        char what[64];
        snprintf(what, sizeof what, "%s x%d", isa, threads);
        h_run y = h_do(d, fn, cfg, 3, h_batch0);
        h_compare(name, what, &y, ref, tol);
        if (threads > 1)
            for (int i = 0; i < 3; i++) h_same_row(name, what, &first, i, 3, &y, i, 3);
        h_run b1 = h_do(d, fn, cfg, 1, h_batch1), b2 = h_do(d, fn, cfg, 2, h_batch2),
              b3 = h_do(d, fn, cfg, 7, h_batch3);
        h_same_row(name, what, &y, 2, 3, &b1, 0, 1);
        h_same_row(name, what, &y, 2, 3, &b2, 1, 2);
        h_same_row(name, what, &y, 2, 3, &b3, 0, 7);
        h_same_row(name, what, &y, 2, 3, &b3, 6, 7);
        h_same_row(name, what, &y, 1, 3, &b3, 4, 7);
        h_free(&b1);
        h_free(&b2);
        h_free(&b3);
        if (threads == 1)
            first = y;
        else
            h_free(&y);
        an_device_close(d);
    }
    h_free(&first);
}

/* More than this a batch, and the emulator takes seconds: left to a GPU. */
#define H_SIMT_FLOPS 6e7

static inline double h_flops(an_device *d, h_fn fn, const void *cfg)
{
    h_run c = {.d = d, .n = 3, .id = h_batch0};
    CHECK(an_lane_open_counting(d, &c.l, NULL) == AN_OK);
    fn(&c, cfg);
    double flops = an_lane_flops(c.l);
    an_lane_close(c.l);
    h_free(&c);
    return flops;
}

/* The same bytes whichever thread of a block, and whichever block, goes first. */
static inline void h_orders(an_device *d, const char *name, h_fn fn, const void *cfg,
                            const h_run *y)
{
    static unsigned cases;
    char random[64];
    snprintf(random, sizeof random, "order=rand,seed=%u", 1 + cases++ % 5);
    const char *const orders[] = {"order=rev", random};
    for (int i = 0; i < 2; i++) {
        CHECK(simt_configure(orders[i]));
        h_run other = h_do(d, fn, cfg, 3, h_batch0);
        for (int r = 0; r < 3; r++) h_same_row(name, orders[i], y, r, 3, &other, r, 3);
        h_free(&other);
    }
    CHECK(simt_configure("order=seq"));
}

static inline void h_on_tested(const char *name, h_fn fn, const void *cfg, double tol,
                               const h_run *ref)
{
    an_device *d = h_device(h_tested(), "auto", 1);
    if (!d) return;
    const bool simt = h_on("simt");
    if (simt && h_flops(d, fn, cfg) > H_SIMT_FLOPS) {
        printf("  left to a GPU: %s\n", name);
        an_device_close(d);
        return;
    }
    h_run y = h_do(d, fn, cfg, 3, h_batch0), b1 = h_do(d, fn, cfg, 1, h_batch1),
          b3 = h_do(d, fn, cfg, 7, h_batch3);
    h_compare(name, h_tested(), &y, ref, tol);
    h_same_row(name, h_tested(), &y, 2, 3, &b1, 0, 1);
    h_same_row(name, h_tested(), &y, 2, 3, &b3, 0, 7);
    h_same_row(name, h_tested(), &y, 2, 3, &b3, 6, 7);
    h_same_row(name, h_tested(), &y, 1, 3, &b3, 4, 7);
    if (simt) h_orders(d, name, fn, cfg, &y);
    h_free(&y);
    h_free(&b1);
    h_free(&b3);
    an_device_close(d);
}

static inline void h_all(const char *name, h_fn fn, const void *cfg, double tol)
{
    static bool told;
    an_device *r = h_device("ref", "auto", 1);
    if (!r) return;
    h_run ref = h_do(r, fn, cfg, 3, h_batch0);
    if (!h_on("cpu")) h_on_tested(name, fn, cfg, tol, &ref);
    static const char *const isas[] = {"generic", "avx2", "avx512", "avx512_bf16", "amx"};
    if (h_emulated) h_on_isa(name, fn, cfg, tol, "emulated", &ref);
    for (int i = 0; i < 5 && !h_emulated && h_on("cpu"); i++) {
        an_device *d = h_device("cpu", isas[i], 1);
        if (!d) continue;
        bool have = (int)d->isa >= i;
        an_device_close(d);
        if (!have) {
            if (!told) printf("  SKIP this machine has no %s: not tested\n", isas[i]);
            continue;
        }
        h_on_isa(name, fn, cfg, tol, isas[i], &ref);
    }
    told = true;
    h_free(&ref);
    an_device_close(r);
}

#endif
