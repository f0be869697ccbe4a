/* quant_pack.c: weights from a file's blocks into panels of 8 outputs. No number changes: scales
 * and small integers are only put elsewhere. The blocks' layouts are described in base/quant.c. */
#include "quant.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- reading a block */

/* 32 values of one output. Formats with an f16 scale a block have d and m; those with small scales
 * have them in `small` (two of them: of each 16), minima in `min`, and d and m of the 256. */
typedef struct values {
    uint8_t q[32]; /* numbers, without what the kernels subtract; signed bytes for Q8_0 */
    uint16_t d, m;
    uint8_t small[2], min[2];
} values;

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void read_nibbles(const uint8_t *qs, values *v)
{
    for (int i = 0; i < 16; i++) {
        v->q[i] = qs[i] & 15;
        v->q[i + 16] = qs[i] >> 4;
    }
}

static void read_fifth(const uint8_t *high, values *v)
{
    for (int i = 0; i < 32; i++) v->q[i] |= (uint8_t)((high[i / 8] >> (i % 8) & 1) << 4);
}

/* Scale and minimum of part j of Q4_K and Q5_K. */
static void read_k4_scales(const uint8_t *s, int j, values *v)
{
    v->small[0] = s[j] & 63;
    v->min[0] = s[(j + 4) % 12] & 63;
    if (j >= 4) {
        v->small[0] = (uint8_t)((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        v->min[0] = (uint8_t)(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
}

static uint8_t q3_scale(const uint8_t *s, int part)
{
    const int low = part < 8 ? s[part] & 15 : s[part - 8] >> 4;
    return (uint8_t)((low | (s[8 + part % 4] >> (part / 4 * 2) & 3) << 4) - 32);
}

/* Values 32 part .. of a block of 256. */
static void read_k(an_dtype format, const uint8_t *b, int part, values *v)
{
    const int half = part / 4;
    switch (format) {
    case AN_Q2_K:
        v->d = u16_at(b + 80), v->m = u16_at(b + 82);
        for (int i = 0; i < 32; i++) v->q[i] = b[16 + half * 32 + i] >> (part % 4 * 2) & 3;
        for (int i = 0; i < 2; i++) {
            v->small[i] = b[2 * part + i] & 15;
            v->min[i] = b[2 * part + i] >> 4;
        }
        break;
    case AN_Q3_K:
        v->d = u16_at(b + 108);
        for (int i = 0; i < 32; i++)
            v->q[i] =
                (uint8_t)((b[32 + half * 32 + i] >> (part % 4 * 2) & 3) | (b[i] >> part & 1) << 2);
        for (int i = 0; i < 2; i++) v->small[i] = q3_scale(b + 96, 2 * part + i);
        break;
    case AN_Q4_K:
    case AN_Q5_K: {
        const uint8_t *qs = b + (format == AN_Q5_K ? 48 : 16) + part / 2 * 32;
        v->d = u16_at(b), v->m = u16_at(b + 2);
        read_k4_scales(b + 4, part, v);
        for (int i = 0; i < 32; i++) {
            v->q[i] = qs[i] >> (part % 2 * 4) & 15;
            if (format == AN_Q5_K) v->q[i] |= (uint8_t)((b[16 + i] >> part & 1) << 4);
        }
        break;
    }
    case AN_Q6_K:
        v->d = u16_at(b + 208);
        for (int i = 0; i < 32; i++) {
            const int k = part % 4 * 32 + i;
            v->q[i] = (uint8_t)((b[half * 64 + k % 64] >> (k / 64 * 4) & 15) |
                                (b[128 + half * 32 + i] >> (part % 4 * 2) & 3) << 4);
        }
        for (int i = 0; i < 2; i++) v->small[i] = b[192 + 2 * part + i];
        break;
    default: /* IQ4_XS */
        v->d = u16_at(b);
        v->small[0] = (uint8_t)((b[4 + part / 2] >> (part % 2 * 4) & 15) |
                                (u16_at(b + 2) >> (2 * part) & 3) << 4);
        v->small[0] = (uint8_t)(v->small[0] - 32);
        read_nibbles(b + 8 + part * 16, v);
        break;
    }
}

/* Values 32 block .. of a row. */
static void read_values(an_dtype format, const uint8_t *row, int64_t block, values *v)
{
    const int64_t size = (int64_t)an_dtype_block_bytes(format);
    memset(v, 0, sizeof *v);
    if (an_dtype_block(format) == 256) {
        read_k(format, row + block / 8 * size, (int)(block % 8), v);
        return;
    }
    const uint8_t *b = row + block * size;
    v->d = u16_at(b);
    b += 2;
    if (format == AN_Q4_1 || format == AN_Q5_1) {
        v->m = u16_at(b);
        b += 2;
    }
    if (format == AN_Q8_0) {
        memcpy(v->q, b, 32);
        return;
    }
    const bool five = format == AN_Q5_0 || format == AN_Q5_1;
    read_nibbles(b + (five ? 4 : 0), v);
    if (five) read_fifth(b, v);
}

/* ---------------------------------------------------------------- writing a panel */

/* Value k of output r as the low or high bits of a byte. */
static void put_nibbles(uint8_t *to, const values *v)
{
    for (int r = 0; r < 8; r++)
        for (int k = 0; k < 16; k++)
            to[k / 4 * 32 + 4 * r + k % 4] =
                (uint8_t)((v[r].q[k] & 15) | (v[r].q[k + 16] & 15) << 4);
}

static void put_bits(uint8_t *to, const values *v, int bit)
{
    for (int r = 0; r < 8; r++)
        for (int k = 0; k < 32; k++)
            to[4 * r + k % 4] |= (uint8_t)((v[r].q[k] >> bit & 1) << (k / 4));
}

static void put_pairs(uint8_t *to, const values *v, int bit)
{
    for (int r = 0; r < 8; r++)
        for (int k = 0; k < 32; k++)
            to[k / 16 * 32 + 4 * r + k % 4] |= (uint8_t)((v[r].q[k] >> bit & 3) << (k / 4 % 4 * 2));
}

static void put_body(an_dtype format, uint8_t *to, const values *v)
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

static void put_halves(uint8_t *to, const values *v, bool m)
{
    for (int r = 0; r < 8; r++) {
        const uint16_t h = m ? v[r].m : v[r].d;
        memcpy(to + 2 * r, &h, 2);
    }
}

static void put_head(an_dtype format, uint8_t *to, const values *v)
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
    values v[8];
    for (int64_t b = 0; b < k / 32; b++) {
        for (int64_t r = 0; r < 8; r++) {
            const int64_t n = panel * 8 + r;
            if (n < p->part->n)
                read_values(format, (const uint8_t *)p->w->data + n * row, b, &v[r]);
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
        an_status s = an_gemm_pack(plain, pool, 1, &w, NULL, &part->plain, err);
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
