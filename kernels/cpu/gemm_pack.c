/* gemm_pack.c: weights from a checkpoint into panels, once at load. */
#include "quant.h"

#include <stdlib.h>

typedef struct packing {
    an_gemm_weight *out;
    int n_parts;
    const an_tensor *const *w;
    const float *const *scale; /* of FP8 parts' rows; NULL, or NULLs in it: none */
    int64_t c, taps;           /* k = taps * c in the panel; [c][taps] in the checkpoint */
} packing;

/* The part and the row in it that column n of the stacked matrix is. */
static int part_of(const packing *p, int64_t *n)
{
    int i = 0;
    while (i < p->n_parts - 1 && *n >= p->w[i]->dim[0]) *n -= p->w[i++]->dim[0];
    return i;
}

#define CHUNK 4096 /* floats on the stack; a filter of at most 64 x 64 fits */

/* Channels c0..c0+n of column j of a panel: line holds them as [n][taps]. */
static void scatter(const packing *p, int64_t panel, int64_t j, int64_t c0, int64_t n,
                    const float *line)
{
    const an_gemm_weight *w = p->out;
    const int64_t nr = w->kernel->nr, pair = w->kernel->pair;
    const bool bf16 = w->kernel->dtype == AN_BF16;
    for (int64_t tap = 0; tap < p->taps; tap++) {
        for (int64_t c = 0; c < n; c++) {
            int64_t k = tap * p->c + c0 + c;
            int64_t at = panel * w->panel + (k / pair * nr + j) * pair + k % pair;
            float v = line[c * p->taps + tap];
            if (bf16)
                ((uint16_t *)w->data)[at] = an_f32_to_bf16(v);
            else
                ((float *)w->data)[at] = v;
        }
    }
}

/* A few channels of all columns at a time, so that the lines they share stay in the cache. */
static void pack_panel(void *ctx, int64_t panel, int worker)
{
    (void)worker;
    const packing *p = ctx;
    const int64_t nr = p->out->kernel->nr, step = p->taps > 16 ? 1 : 256 / p->taps;
    float line[CHUNK];
    for (int64_t c = 0; c < p->c; c += step) {
        int64_t n = p->c - c < step ? p->c - c : step;
        for (int64_t j = 0; j < nr && panel * nr + j < p->out->n; j++) {
            int64_t row = panel * nr + j;
            const int part = part_of(p, &row);
            const an_tensor *t = p->w[part];
            size_t at = (size_t)((row * p->c + c) * p->taps) * an_dtype_size(t->dtype);
            an_convert(line, AN_F32, (const char *)t->data + at, t->dtype, n * p->taps);
            if (p->scale && p->scale[part])
                for (int64_t i = 0; i < n * p->taps; i++) line[i] *= p->scale[part][row];
            scatter(p, panel, j, c, n, line);
        }
    }
}

static an_status allocate(an_gemm_weight *w, an_error *err)
{
    const size_t nr = (size_t)w->kernel->nr, step = (size_t)w->kernel->kstep;
    size_t k = ((size_t)w->k + step - 1) / step * step, n = ((size_t)w->n + nr - 1) / nr * nr;
    size_t count, bytes;
    if (!an_mul_size(k, n, &count) ||
        !an_mul_size(count, an_dtype_size(w->kernel->dtype), &bytes) ||
        !an_add_size(bytes, 63 + n * sizeof(float), &w->bytes) || w->bytes > INT64_MAX)
        return an_fail(err, AN_TOO_LARGE, "a weight of %lld x %lld does not fit in memory",
                       (long long)w->n, (long long)w->k);
    w->panel = (int64_t)(k * nr);
    bytes = (bytes + 63) / 64 * 64;
    w->bytes = bytes + n * sizeof(float);
    w->data = aligned_alloc(64, (w->bytes + 63) / 64 * 64);
    if (!w->data)
        return an_fail(err, AN_NO_MEMORY, "no memory for a weight of %lld x %lld (%zu bytes)",
                       (long long)w->n, (long long)w->k, w->bytes);
    memset(w->data, 0, w->bytes);
    w->bias = (float *)((char *)w->data + bytes);
    return AN_OK;
}

an_status an_gemm_pack(const an_gemm_kernel *kernel, an_pool *pool, int n_parts,
                       const an_tensor *const *w, const float *const *scale,
                       const an_tensor *const *bias, an_gemm_weight **out, an_error *err)
{
    *out = NULL;
    an_gemm_weight *g = calloc(1, sizeof *g);
    if (!g) return an_fail(err, AN_NO_MEMORY, "no memory for a weight");
    packing p = {
        .out = g, .n_parts = n_parts, .w = w, .scale = scale, .c = w[0]->dim[1], .taps = 1};
    if (w[0]->ndim == 4) p.taps = w[0]->dim[2] * w[0]->dim[3];
    g->kernel = kernel;
    g->k = p.c * p.taps;
    for (int i = 0; i < n_parts; i++) g->n += w[i]->dim[0];
    an_status s = allocate(g, err);
    if (s) {
        free(g);
        return s;
    }
    int64_t panels = (g->n + kernel->nr - 1) / kernel->nr;
    if (pool)
        an_pool_run(pool, panels, pack_panel, &p);
    else
        for (int64_t i = 0; i < panels; i++) pack_panel(&p, i, 0);
    for (int64_t i = 0, n = 0; i < n_parts; n += w[i++]->dim[0]) {
        if (!bias || !bias[i]) continue;
        an_convert(g->bias + n, AN_F32, bias[i]->data, bias[i]->dtype, w[i]->dim[0]);
    }
    *out = g;
    return AN_OK;
}

void an_gemm_weight_free(an_gemm_weight *w)
{
    if (!w) return;
    an_quant_weight_free(w->quant);
    free(w->data);
    free(w);
}
