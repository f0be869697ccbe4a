/* quant_pack.c: weights from a file's blocks into panels of 8 outputs. No number changes: scales
 * and small integers are only put elsewhere. */
#include "quant.h"
#include "../block.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- writing a panel */

/* Value k of output r as the low or high bits of a byte. */
static void put_nibbles(uint8_t *to, const an_block *v)
{
    for (int r = 0; r < 8; r++)
        for (int k = 0; k < 16; k++)
            to[k / 4 * 32 + 4 * r + k % 4] =
                (uint8_t)((v[r].q[k] & 15) | (v[r].q[k + 16] & 15) << 4);
}

static void put_bits(uint8_t *to, const an_block *v, int bit)
{
    for (int r = 0; r < 8; r++)
        for (int k = 0; k < 32; k++)
            to[4 * r + k % 4] |= (uint8_t)((v[r].q[k] >> bit & 1) << (k / 4));
}

static void put_pairs(uint8_t *to, const an_block *v, int bit)
{
    for (int r = 0; r < 8; r++)
        for (int k = 0; k < 32; k++)
            to[k / 16 * 32 + 4 * r + k % 4] |= (uint8_t)((v[r].q[k] >> bit & 3) << (k / 4 % 4 * 2));
}

static void put_body(an_dtype format, uint8_t *to, const an_block *v)
{
    switch (format) {
    case AN_Q8_0:
        for (int r = 0; r < 8; r++)
            for (int k = 0; k < 32; k++) to[k / 4 * 32 + 4 * r + k % 4] = v[r].q[k];
        break;
    case AN_Q2_K:
        put_pairs(to, v, 0);
        break;
    case AN_Q3_K:
        put_pairs(to, v, 0);
        put_bits(to + 64, v, 2);
        break;
    case AN_Q6_K:
        put_nibbles(to, v);
        put_pairs(to + 128, v, 4);
        break;
    case AN_Q5_0:
    case AN_Q5_1:
    case AN_Q5_K:
        put_nibbles(to, v);
        put_bits(to + 128, v, 4);
        break;
    default:
        put_nibbles(to, v);
        break;
    }
}

static void put_halves(uint8_t *to, const an_block *v, bool m)
{
    for (int r = 0; r < 8; r++) {
        const uint16_t h = m ? v[r].m : v[r].d;
        memcpy(to + 2 * r, &h, 2);
    }
}

static void put_head(an_dtype format, uint8_t *to, const an_block *v)
{
    const an_quant_layout l = an_quant_layout_of(format);
    if (!l.super) {
        put_halves(to, v, false);
        if (l.head > 16) put_halves(to + 16, v, true);
        return;
    }
    const bool pairs = format == AN_Q2_K || format == AN_Q3_K || format == AN_Q6_K;
    const int each = pairs ? 2 : 1;
    for (int r = 0; r < 8; r++)
        for (int i = 0; i < each; i++) {
            to[each * r + i] = v[r].small[i];
            if (l.head > 8 * each) to[8 * each + each * r + i] = v[r].min[i];
        }
}

typedef struct packing {
    an_quant_part *part;
    const an_tensor *w;
} packing;

/* Outputs past the last are zeros: numbers, scales and all. */
static void pack_panel(void *ctx, int64_t panel, int worker)
{
    (void)worker;
    const packing *p = ctx;
    const an_dtype format = p->part->format;
    const an_quant_layout l = an_quant_layout_of(format);
    const int64_t k = p->w->dim[1];
    const int64_t row = k / an_dtype_block(format) * (int64_t)an_dtype_block_bytes(format);
    uint8_t *to = p->part->data + panel * p->part->stride;
    an_block v[8];
    for (int64_t b = 0; b < k / 32; b++) {
        for (int64_t r = 0; r < 8; r++) {
            const int64_t n = panel * 8 + r;
            if (n < p->part->n)
                an_block_read(format, (const uint8_t *)p->w->data + n * row, b, &v[r]);
            else
                memset(&v[r], 0, sizeof v[r]);
        }
        if (l.super && b % 8 == 0) {
            put_halves(to, v, false);
            if (l.super > 16) put_halves(to + 16, v, true);
            to += l.super;
        }
        put_head(format, to, v);
        put_body(format, to + l.head, v);
        to += l.head + l.body;
    }
}

/* ---------------------------------------------------------------- a weight */

#define SLACK 64 /* the last panel is read past its end, up to a vector */

static an_status pack_part(const an_gemm_kernel *plain, an_pool *pool, const an_tensor *w,
                           an_gemm_weight *g, int i, an_error *err)
{
    an_quant_part *part = &g->quant->part[i];
    if (!an_dtype_is_quant(w->dtype)) {
        an_status s = an_gemm_pack(plain, pool, 1, &w, NULL, NULL, &part->plain, err);
        if (!s) g->bytes += part->plain->bytes;
        return s;
    }
    const size_t panels = (size_t)((part->n + 7) / 8);
    size_t bytes;
    part->stride = an_quant_panel_bytes(part->format, g->k);
    if (!an_mul_size(panels, (size_t)part->stride, &bytes) || bytes > PTRDIFF_MAX / 2)
        return an_fail(err, AN_TOO_LARGE, "a weight of %lld x %lld does not fit in memory",
                       (long long)part->n, (long long)g->k);
    bytes = (bytes + SLACK + 63) / 64 * 64;
    part->data = aligned_alloc(64, bytes);
    if (!part->data)
        return an_fail(err, AN_NO_MEMORY, "no memory for a weight of %lld x %lld (%zu bytes)",
                       (long long)part->n, (long long)g->k, bytes);
    memset(part->data, 0, bytes);
    g->bytes += bytes;
    packing p = {part, w};
    if (pool)
        an_pool_run(pool, (int64_t)panels, pack_panel, &p);
    else
        for (size_t t = 0; t < panels; t++) pack_panel(&p, (int64_t)t, 0);
    return AN_OK;
}

an_status an_quant_pack(const an_gemm_kernel *plain, const an_quant_kernel *kernel, an_pool *pool,
                        int n_parts, const an_tensor *const *w, const an_tensor *const *bias,
                        an_gemm_weight **out, an_error *err)
{
    *out = NULL;
    an_gemm_weight *g = calloc(1, sizeof *g);
    an_quant_weight *q = calloc(1, sizeof *q + (size_t)n_parts * sizeof q->part[0]);
    if (!g || !q) {
        free(g);
        free(q);
        return an_fail(err, AN_NO_MEMORY, "no memory for a weight");
    }
    g->kernel = plain;
    g->quant = q;
    g->k = w[0]->dim[1];
    q->kernel = kernel;
    q->parts = n_parts;
    for (int i = 0; i < n_parts; i++) {
        q->part[i] = (an_quant_part){.format = w[i]->dtype, .first = g->n, .n = w[i]->dim[0]};
        g->n += w[i]->dim[0];
        if (an_dtype_is_quant(w[i]->dtype)) continue;
        q->part[i].plain_at = q->plain_columns;
        q->plain_columns += w[i]->dim[0];
    }
    an_status s = AN_OK;
    g->bias = calloc((size_t)(g->n + plain->nr), sizeof *g->bias);
    g->data = g->bias; /* what an_gemm_weight_free frees */
    g->bytes = (size_t)(g->n + plain->nr) * sizeof *g->bias;
    if (!g->bias) s = an_fail(err, AN_NO_MEMORY, "no memory for a weight");
    for (int i = 0; i < n_parts && !s; i++) {
        if (bias && bias[i])
            an_convert(g->bias + q->part[i].first, AN_F32, bias[i]->data, bias[i]->dtype,
                       q->part[i].n);
        s = pack_part(plain, pool, w[i], g, i, err);
    }
    if (s) {
        an_gemm_weight_free(g);
        return s;
    }
    *out = g;
    return AN_OK;
}

void an_quant_weight_free(an_quant_weight *w)
{
    if (!w) return;
    for (int i = 0; i < w->parts; i++) {
        free(w->part[i].data);
        an_gemm_weight_free(w->part[i].plain);
    }
    free(w);
}
