/* models_fixture.h: opens the golden models and their stage tensors, and builds rows for them.
 * Goldens are NCHW as PyTorch has them, ours NHWC. */
#ifndef ANNEAL_TESTS_MODELS_FIXTURE_H
#define ANNEAL_TESTS_MODELS_FIXTURE_H

#include "anneal/model.h"
#include "test.h"

typedef struct fixture {
    an_device *device;
    an_checkpoint *checkpoint;
    an_model *model;
    an_lane *lane;
    an_weights *golden; /* stages.safetensors, NULL for the demo */
    an_error err;
    char name[128];
} fixture;

static inline bool fixture_ok(fixture *f, an_status s, const char *what)
{
    CHECK_MSG(s == AN_OK, "%s: %s: %s", f->name, what, f->err.message);
    return s == AN_OK;
}

/* name: "sd1", ... or "emoji" for the demo model; gemm: see an_device_options. */
static inline bool fixture_open(fixture *f, const char *name, const char *device, an_dtype dtype,
                                size_t arena)
{
    char path[512];
    memset(f, 0, sizeof *f);
    snprintf(f->name, sizeof f->name, "%s on %s in %s", name, device, an_dtype_name(dtype));
    bool demo = strcmp(name, "emoji") == 0;
    snprintf(path, sizeof path, demo ? "%s/emoji" : "%s/%s/model", demo ? AN_DEMO : AN_GOLDEN,
             name);
    an_device_options o = {.device = device, .threads = 2};
    if (!fixture_ok(f, an_device_open(&o, &f->device, &f->err), "device")) return false;
    if (!fixture_ok(f, an_checkpoint_open(path, &f->checkpoint, &f->err), "open")) return false;
    if (!fixture_ok(f,
                    an_model_load(f->device, f->checkpoint, dtype, NULL, NULL, &f->model, &f->err),
                    "load"))
        return false;
    if (!fixture_ok(f, an_lane_open(f->device, arena, &f->lane, &f->err), "lane")) return false;
    if (demo) return true;
    snprintf(path, sizeof path, "%s/%s/stages.safetensors", AN_GOLDEN, name);
    return fixture_ok(f, an_weights_open(path, &f->golden, &f->err), "golden");
}

static inline void fixture_close(fixture *f)
{
    an_lane_close(f->lane);
    an_model_free(f->model);
    an_checkpoint_close(f->checkpoint);
    an_weights_close(f->golden);
    size_t left = f->device ? an_device_bytes_live(f->device) : 0;
    CHECK_MSG(left == 0, "%s: %zu bytes of the device are still in use", f->name, left);
    an_device_close(f->device);
}

/* A golden tensor; false (and a failed check) if it is missing. */
static inline bool golden(fixture *f, const char *name, an_tensor *out)
{
    bool there = an_weights_find(f->golden, name, out);
    CHECK_MSG(there, "%s: no %s", f->name, name);
    return there;
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

#endif
