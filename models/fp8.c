/* fp8.c: matrices in FP8 on their way to the device: the scales that files have beside them, and
 * numbers rounded to FP8 where the server was asked to.
 *
 * A matrix "x.weight" of F8_E4M3 is worth its numbers times "x.weight_scale" (compressed-tensors,
 * fbgemm) or "x.weight_scale_inv" (DeepSeek, which multiplies all the same): one number, one a row,
 * or one a block of 128 x 128. A file without any such tensor is a plain cast: scales of one. */
#include "fp8.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCK = 128 };

/* ---------------------------------------------------------------- scales of a file */

static const char *const suffix[] = {"_scale", "_scale_inv"};

/* The tensor of scales beside "x.weight": false if there is none. */
static bool find_scales(const an_loader *ld, const char *weight, char *name, an_tensor *out)
{
    for (int i = 0; i < 2; i++) {
        snprintf(name, AN_NAME_MAX + 16, "%s%s", weight, suffix[i]);
        if (an_weights_find(ld->set, name, out)) return true;
    }
    return false;
}

static bool names_scales(const char *name)
{
    static const char *const endings[] = {".weight_scale", ".weight_scale_inv", ".scale_weight"};
    const size_t len = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t n = strlen(endings[i]);
        if (len > n && strcmp(name + len - n, endings[i]) == 0) return true;
    }
    return false;
}

/* A tensor of scales in the set, also one that is not read here; NULL: it has none. */
static const char *scales_in_set(an_loader *ld)
{
    if (ld->looked_through == ld->set) return ld->scales;
    ld->looked_through = ld->set;
    ld->scales = NULL;
    for (int i = 0, n = an_weights_count(ld->set); i < n && !ld->scales; i++)
        if (names_scales(an_weights_name(ld->set, i))) ld->scales = an_weights_name(ld->set, i);
    return ld->scales;
}

static bool is(const json_t *o, const char *key, const char *text)
{
    const char *v = json_string_value(json_object_get(o, key));
    return v && strcmp(v, text) == 0;
}

void an_fp8_config(an_config *c)
{
    const char *const key = "quantization_config";
    if (!an_config_has(c, key)) return;
    const json_t *q = json_object_get(c->json, key), *b = json_object_get(q, "weight_block_size");
    const bool block =
        !b || json_is_null(b) ||
        (json_array_size(b) == 2 && json_integer_value(json_array_get(b, 0)) == BLOCK &&
         json_integer_value(json_array_get(b, 1)) == BLOCK);
    if (is(q, "quant_method", "fbgemm_fp8") || (is(q, "quant_method", "fp8") && block) ||
        (is(q, "quant_method", "compressed-tensors") && is(q, "format", "float-quantized")))
        return;
    an_config_refuse(c, key,
                     "only null and FP8 are supported (quant_method fp8 with blocks of 128 x 128 "
                     "or none, fbgemm_fp8, compressed-tensors in the format float-quantized)");
}

bool an_fp8_scaled(const an_loader *ld, const char *weight)
{
    char name[AN_NAME_MAX + 16];
    an_tensor t;
    return !ld->status && find_scales(ld, weight, name, &t);
}

static void *room(an_loader *ld, size_t count, size_t size)
{
    size_t bytes;
    void *p = an_mul_size(count, size, &bytes) ? malloc(bytes) : NULL;
    if (!p) ld->status = an_fail(ld->err, AN_NO_MEMORY, "no memory for a matrix in FP8");
    return p;
}

/* A matrix with scales by blocks becomes F32. */
static void spread_blocks(an_loader *ld, an_fp8 *m, const float *s)
{
    const int64_t n = m->w.dim[0], k = m->w.dim[1], across = (k + BLOCK - 1) / BLOCK;
    float *v = room(ld, (size_t)n, (size_t)k * sizeof *v);
    const uint8_t *code = m->w.data;
    for (int64_t j = 0; v && j < n; j++)
        for (int64_t i = 0; i < k; i++)
            v[j * k + i] = an_e4m3_to_f32(code[j * k + i]) * s[j / BLOCK * across + i / BLOCK];
    m->made = v;
    m->w = an_tensor_2d(v, AN_F32, n, k);
}

/* m->scale (or m->w without it) from the file's tensor `t`, called `name`. */
static void read_scales(an_loader *ld, an_fp8 *m, const char *name, const an_tensor *t)
{
    const int64_t n = m->w.dim[0], k = m->w.dim[1], count = an_tensor_count(t);
    const int64_t blocks[2] = {(n + BLOCK - 1) / BLOCK, (k + BLOCK - 1) / BLOCK};
    const bool one = count == 1, rows = count == n && (t->ndim == 0 || t->dim[0] == n);
    const bool grid = t->ndim == 2 && t->dim[0] == blocks[0] && t->dim[1] == blocks[1];
    char have[128];
    if (!one && !rows && !grid) {
        ld->status = an_fail(ld->err, AN_INVALID,
                             "%s: shape %s, expected one number, [%lld,1] or [%lld,%lld]", name,
                             an_shape_str(t->ndim, t->dim, have, sizeof have), (long long)n,
                             (long long)blocks[0], (long long)blocks[1]);
        return;
    }
    float *s = room(ld, (size_t)(count > n ? count : n), sizeof *s);
    if (s) ld->status = an_tensor_to_f32(t, s, ld->err);
    for (int64_t j = 1; !ld->status && one && j < n; j++) s[j] = s[0];
    m->scale = s;
    if (ld->status || one || rows) return;
    spread_blocks(ld, m, s);
    free(m->scale);
    m->scale = NULL;
}

/* ---------------------------------------------------------------- rounding */

typedef struct rounding {
    const an_tensor *from;
    uint8_t *code;
    float *scale;
    float *line; /* [workers][k] */
} rounding;

/* Task: a row. Its scale takes its largest to the largest of e4m3; where that is too small to
 * divide by, the row is zeros. A row with what is not finite becomes NaN, as its products are. */
static void round_row(void *ctx, int64_t row, int worker)
{
    const rounding *r = ctx;
    const int64_t k = r->from->dim[1];
    const an_tensor line =
        an_tensor_1d((char *)r->from->data + (size_t)(row * k) * an_dtype_size(r->from->dtype),
                     r->from->dtype, k);
    float *v = r->line + worker * k, most = 0;
    bool finite = an_tensor_to_f32(&line, v, NULL) == AN_OK;
    for (int64_t i = 0; i < k; i++) {
        finite &= isfinite(v[i]) != 0;
        if (fabsf(v[i]) > most) most = fabsf(v[i]);
    }
    float scale = most / AN_E4M3_MAX;
    if (scale < 0x1p-126f) scale = 1;
    r->scale[row] = finite ? scale : NAN;
    for (int64_t i = 0; i < k; i++)
        r->code[row * k + i] = finite ? an_f32_to_e4m3(v[i] / scale) : 0;
}

static void round_matrix(an_loader *ld, an_fp8 *m)
{
    an_device *d = ld->bag->device;
    const int64_t n = m->w.dim[0], k = m->w.dim[1];
    an_tensor from = m->w;
    void *before = m->made;
    rounding r = {.from = &from,
                  .code = room(ld, (size_t)n, (size_t)k),
                  .scale = room(ld, (size_t)n, sizeof(float)),
                  .line = room(ld, (size_t)an_device_threads(d), (size_t)k * sizeof(float))};
    if (!ld->status) an_device_parallel(d, n, round_row, &r);
    m->made = r.code;
    m->scale = r.scale;
    m->w = an_tensor_2d(r.code, AN_F8_E4M3, n, k);
    free(r.line);
    free(before);
}

/* ---------------------------------------------------------------- a matrix */

void an_fp8_make(an_loader *ld, const char *weight, an_tensor w, bool keep, an_fp8 *m)
{
    char name[AN_NAME_MAX + 16];
    an_tensor scales;
    *m = (an_fp8){.w = w};
    if (ld->status || an_dtype_is_quant(w.dtype)) return;
    if (w.dtype == AN_F8_E4M3 && weight) {
        if (find_scales(ld, weight, name, &scales))
            read_scales(ld, m, name, &scales);
        else if (scales_in_set(ld))
            ld->status = an_fail(ld->err, AN_INVALID,
                                 "%s: F8_E4M3 without %s_scale or %s_scale_inv beside it, where "
                                 "the file has %s",
                                 weight, weight, weight, ld->scales);
    }
    if (!ld->status && !keep && ld->fp8 && m->w.dtype != AN_F8_E4M3) round_matrix(ld, m);
}

void an_fp8_free(an_fp8 *m)
{
    free(m->made);
    free(m->scale);
    *m = (an_fp8){0};
}
