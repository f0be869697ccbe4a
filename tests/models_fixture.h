/* models_fixture.h: opens the golden models and their stage tensors, and builds rows for them.
 * Goldens are NCHW as PyTorch has them, ours NHWC. */
#ifndef ANNEAL_TESTS_MODELS_FIXTURE_H
#define ANNEAL_TESTS_MODELS_FIXTURE_H

#include "models/family.h"
#include "models_open.h"

typedef struct fixture {
    FIXTURE;
    void *memory[4096]; /* of rows; host and device are one on the machines that test */
    int n_memory;
} fixture;

/* name: "sd1", ... or "emoji" for the demo model, which has no goldens. */
static inline bool fixture_open(fixture *f, const char *name, const char *device, an_dtype dtype,
                                size_t arena)
{
    char path[512];
    memset(f, 0, sizeof *f);
    snprintf(f->name, sizeof f->name, "%s on %s in %s", name, device, an_dtype_name(dtype));
    bool demo = strcmp(name, "emoji") == 0;
    snprintf(path, sizeof path, demo ? "%s/emoji" : "%s/%s/model", demo ? AN_DEMO : AN_GOLDEN,
             name);
    if (!opened_model(&f->open, path, device, dtype, arena)) return false;
    if (demo) return true;
    snprintf(path, sizeof path, "%s/%s/stages.safetensors", AN_GOLDEN, name);
    return opened_golden(&f->open, path);
}

static inline void fixture_close(fixture *f)
{
    for (int i = 0; i < f->n_memory; i++) an_device_free(f->device, f->memory[i]);
    opened_close(&f->open);
}

/* Row r of NCHW src as HWC. */
static inline void to_hwc(const an_tensor *src, int64_t r, float *dst)
{
    int64_t c = src->dim[1], hw = src->dim[2] * src->dim[3];
    const float *s = (const float *)src->data + r * c * hw;
    for (int64_t p = 0; p < hw; p++)
        for (int64_t i = 0; i < c; i++) dst[p * c + i] = s[i * hw + p];
}

/* max |a - b| / max |b| */
static inline double relative_error(const float *a, const float *b, int64_t n)
{
    double err = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= err)) err = d; /* NaN stays */
        if (fabs((double)b[i]) > top) top = fabs((double)b[i]);
    }
    return top > 0 ? err / top : err;
}

/* The same against row r of an NCHW golden. */
static inline double relative_error_hwc(const float *a, const an_tensor *want, int64_t r)
{
    int64_t n = want->dim[1] * want->dim[2] * want->dim[3];
    float *b = malloc((size_t)n * sizeof *b);
    to_hwc(want, r, b);
    double e = relative_error(a, b, n);
    free(b);
    return e;
}

/* ---------------------------------------------------------------- rows */

/* Zeroed memory until fixture_close. */
static inline void *fixture_alloc(fixture *f, size_t bytes)
{
    void *p = NULL;
    if (f->n_memory == (int)(sizeof f->memory / sizeof *f->memory) ||
        an_device_alloc(f->device, bytes, &p, &f->err)) {
        printf("  out of memory for test rows\n");
        exit(1);
    }
    memset(p, 0, bytes);
    return f->memory[f->n_memory++] = p;
}

/* The same numbers for the same seed, in [-1.7, 1.7], variance near 1. */
static inline float noise(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return ((float)(*state >> 8) / 16777216.0f - 0.5f) * 3.4f;
}

static inline an_named tensor_of(fixture *f, const char *name, an_dtype dtype, int ndim,
                                 const int64_t *dim)
{
    an_named t = {name, {NULL, dtype, ndim, {1, 1, 1, 1, 1}}};
    for (int i = 0; i < ndim; i++) t.t.dim[i] = dim[i];
    t.t.data = fixture_alloc(f, an_tensor_bytes(&t.t));
    return t;
}
#define TENSOR(f, name, dtype, ...)                                                                \
    tensor_of((f), (name), (dtype), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),     \
              (const int64_t[]){__VA_ARGS__})

static inline an_named noise_of(fixture *f, an_named t, uint32_t *state)
{
    int64_t n = an_tensor_count(&t.t);
    for (int64_t i = 0; i < n; i++) {
        float x = noise(state);
        if (t.t.dtype == AN_F32) ((float *)t.t.data)[i] = x;
        if (t.t.dtype == AN_BF16) ((uint16_t *)t.t.data)[i] = an_f32_to_bf16(x);
        if (t.t.dtype == AN_U8) ((uint8_t *)t.t.data)[i] = (uint8_t)(x * 70 + 128);
    }
    (void)f;
    return t;
}

static inline an_named number(fixture *f, const char *name, float x)
{
    an_named t = TENSOR(f, name, AN_F32, 1);
    *(float *)t.t.data = x;
    return t;
}

static inline void text_row(fixture *f, an_row *r, an_named *in, an_named *out, uint32_t *s,
                            int64_t chunks)
{
    const an_model_info *i = &f->model->info;
    const char *names[] = {"ids", "ids2"};
    int64_t len = i->chunk_len;
    for (int e = 0; e < i->text_encoders; e++) {
        an_named t = in[r->n_in++] = TENSOR(f, names[e], AN_I32, chunks, len);
        for (int64_t k = 0; k < chunks * len; k++) {
            *s = *s * 1664525u + 1013904223u;
            /* BOS, a few words, EOS and padding: 2528 and 2529 in all test models */
            int64_t at = k % len, end = 3 + (int64_t)(*s >> 28);
            ((int32_t *)t.t.data)[k] = at == 0     ? 2528
                                       : at >= end ? 2529
                                                   : (int32_t)((*s >> 8) % 2528);
        }
    }
    out[r->n_out++] = TENSOR(f, "context", f->model->dtype, chunks * len, i->context_dim);
    if (i->pooled_dim) out[r->n_out++] = TENSOR(f, "pooled", AN_F32, i->pooled_dim);
}

static inline void denoise_row(fixture *f, an_row *r, an_named *in, an_named *out, uint32_t *s,
                               int64_t h, int64_t w, int64_t tokens)
{
    const an_model_info *i = &f->model->info;
    int64_t c = i->latent_channels;
    float u = (float)(*s % 997);
    in[r->n_in++] = noise_of(f, TENSOR(f, "latent", AN_F32, h, w, c), s);
    in[r->n_in++] = number(f, "scale", 1 - u / 3000);
    in[r->n_in++] = number(f, "timestep", u);
    in[r->n_in++] = noise_of(f, TENSOR(f, "context", f->model->dtype, tokens, i->context_dim), s);
    if (i->pooled_dim) in[r->n_in++] = noise_of(f, TENSOR(f, "pooled", AN_F32, i->pooled_dim), s);
    if (i->uses_time_ids) {
        an_named t = in[r->n_in++] = TENSOR(f, "time_ids", AN_F32, 6);
        for (int k = 0; k < 6; k++) ((float *)t.t.data)[k] = (float)(64 + k) + u;
    }
    if (i->guidance_embed) in[r->n_in++] = number(f, "guidance", 1 + u / 100);
    out[r->n_out++] = TENSOR(f, "prediction", AN_F32, h, w, c);
}

/* A row of a stage, its content decided by seed alone. tokens: of its context, or chunks. */
static inline an_row row_of(fixture *f, an_stage stage, uint32_t seed, int64_t h, int64_t w,
                            int64_t tokens)
{
    an_named *in = fixture_alloc(f, 16 * sizeof *in), *out = fixture_alloc(f, 4 * sizeof *out);
    an_row r = {in, 0, out, 0};
    uint32_t s = seed * 2654435761u + 12345;
    int64_t c = f->model->info.latent_channels, k = f->model->info.factor;
    if (stage == AN_STAGE_TEXT) text_row(f, &r, in, out, &s, tokens);
    if (stage == AN_STAGE_DENOISE) denoise_row(f, &r, in, out, &s, h, w, tokens);
    if (stage == AN_STAGE_DECODE) {
        in[r.n_in++] = noise_of(f, TENSOR(f, "latent", AN_F32, h, w, c), &s);
        out[r.n_out++] = TENSOR(f, "image", AN_U8, h * k, w * k, 3);
    }
    if (stage == AN_STAGE_ENCODE) {
        in[r.n_in++] = noise_of(f, TENSOR(f, "image", AN_U8, h * k, w * k, 3), &s);
        out[r.n_out++] = TENSOR(f, "mean", AN_F32, h, w, c);
        out[r.n_out++] = TENSOR(f, "logvar", AN_F32, h, w, c);
    }
    return r;
}

#endif
