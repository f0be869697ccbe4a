/* rows.c: single rows out of a packed matrix, for embeddings that are the head too: what
 * quant_pack.c and gemm_pack.c did, read backwards. Bytes are those of the unpacked tensor: the
 * order of the products is an_dequantize's. */
#include "quant.h"
#include "../block.h"

/* ---------------------------------------------------------------- panels of blocks */

/* Output r of a panel: its numbers in 32 values of k (quant.h has the places). */
static void take_nibbles(const uint8_t *from, int r, uint8_t *q)
{
    for (int k = 0; k < 16; k++) {
        const uint8_t b = from[k / 4 * 32 + 4 * r + k % 4];
        q[k] = b & 15;
        q[k + 16] = b >> 4;
    }
}

static void take_bits(const uint8_t *from, int r, int bit, uint8_t *q)
{
    for (int k = 0; k < 32; k++) q[k] |= (uint8_t)((from[4 * r + k % 4] >> (k / 4) & 1) << bit);
}

static void take_pairs(const uint8_t *from, int r, int bit, uint8_t *q)
{
    for (int k = 0; k < 32; k++)
        q[k] |= (uint8_t)((from[k / 16 * 32 + 4 * r + k % 4] >> (k / 4 % 4 * 2) & 3) << bit);
}

static void take_body(an_dtype format, const uint8_t *from, int r, uint8_t *q)
{
    memset(q, 0, 32);
    switch (format) {
    case AN_Q8_0:
        for (int k = 0; k < 32; k++) q[k] = from[k / 4 * 32 + 4 * r + k % 4];
        return;
    case AN_Q2_K:
        take_pairs(from, r, 0, q);
        return;
    case AN_Q3_K:
        take_pairs(from, r, 0, q);
        take_bits(from + 64, r, 2, q);
        return;
    default:
        take_nibbles(from, r, q);
        break;
    }
    if (format == AN_Q6_K) take_pairs(from + 128, r, 4, q);
    if (format == AN_Q5_0 || format == AN_Q5_1 || format == AN_Q5_K) take_bits(from + 128, r, 4, q);
}

static float half_at(const uint8_t *p)
{
    return an_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

/* Scale and minimum of each 16 of 32 values. super: of the 256, where the format has such. */
static void take_scales(an_dtype format, const uint8_t *super, const uint8_t *head, int r,
                        float scale[2], float min[2])
{
    const an_quant_layout l = an_quant_layout_of(format);
    const bool pairs = format == AN_Q2_K || format == AN_Q3_K || format == AN_Q6_K;
    const bool minima = format == AN_Q2_K || format == AN_Q4_K || format == AN_Q5_K;
    const int each = pairs ? 2 : 1;
    for (int i = 0; i < 2; i++) {
        if (!l.super) {
            scale[i] = half_at(head + 2 * r);
            min[i] = l.head > 16 ? half_at(head + 16 + 2 * r) : 0;
            continue;
        }
        const uint8_t small = head[each * r + i % each];
        scale[i] = half_at(super + 2 * r) * (minima ? (float)small : (float)(int8_t)small);
        min[i] =
            minima ? half_at(super + 16 + 2 * r) * (float)head[8 * each + each * r + i % each] : 0;
    }
}

/* Value of number q, without scale. */
static float number_of(an_dtype format, uint8_t q)
{
    switch (format) {
    case AN_Q8_0:
        return (float)(int8_t)q;
    case AN_Q4_0:
        return (float)(q - 8);
    case AN_Q5_0:
        return (float)(q - 16);
    case AN_Q3_K:
        return (float)(q - 4);
    case AN_Q6_K:
        return (float)(q - 32);
    case AN_IQ4_NL:
    case AN_IQ4_XS:
        return (float)an_block_levels[q & 15];
    default:
        return (float)q;
    }
}

/* Values 32 block .. of row n. */
static void take_block(const an_quant_part *p, int64_t n, int64_t block, float out[32])
{
    const an_quant_layout l = an_quant_layout_of(p->format);
    const int64_t each = l.head + l.body;
    const uint8_t *super = p->data + n / 8 * p->stride + block / 8 * (8 * each + l.super);
    const uint8_t *head =
        l.super ? super + l.super + block % 8 * each : p->data + n / 8 * p->stride + block * each;
    const bool adds = p->format == AN_Q4_1 || p->format == AN_Q5_1;
    const bool takes = p->format == AN_Q2_K || p->format == AN_Q4_K || p->format == AN_Q5_K;
    const int r = (int)(n % 8);
    uint8_t q[32];
    float scale[2], min[2];
    take_body(p->format, head + l.head, r, q);
    take_scales(p->format, super, head, r, scale, min);
    for (int i = 0; i < 32; i++) {
        out[i] = scale[i / 16] * number_of(p->format, q[i]);
        if (adds) out[i] += min[i / 16];
        if (takes) out[i] -= min[i / 16];
    }
}

/* ---------------------------------------------------------------- panels of numbers */

/* k0 .. k0 + n of a row of a floating matrix. */
static void take_plain(const an_gemm_weight *w, int64_t row, int64_t k0, int64_t n, float *out)
{
    const int64_t nr = w->kernel->nr, pair = w->kernel->pair;
    const int64_t from = row / nr * w->panel + row % nr * pair;
    for (int64_t i = 0; i < n; i++) {
        const int64_t k = k0 + i, at = from + k / pair * nr * pair + k % pair;
        out[i] = w->kernel->dtype == AN_BF16 ? an_bf16_to_f32(((const uint16_t *)w->data)[at])
                                             : ((const float *)w->data)[at];
    }
}

/* ---------------------------------------------------------------- the op */

typedef struct taking {
    const an_gemm_weight *w;
    const int32_t *id;
    const an_tensor *y;
} taking;

static void take_row(void *ctx, int64_t token, int worker)
{
    (void)worker;
    const taking *t = ctx;
    const int64_t width = t->w->k;
    float part[32];
    for (int64_t k = 0; k < width; k += 32) {
        const int64_t n = width - k < 32 ? width - k : 32;
        if (t->w->quant)
            take_block(&t->w->quant->part[0], t->id[token], k / 32, part);
        else
            take_plain(t->w, t->id[token], k, n, part);
        char *to = (char *)t->y->data + (size_t)(token * width + k) * an_dtype_size(t->y->dtype);
        an_convert(to, t->y->dtype, part, AN_F32, n);
    }
}

an_status an_cpu_weight_rows(an_lane *l, const an_weight *w, const an_tensor *ids,
                             const an_tensor *y)
{
    if (l->counting) return AN_OK;
    const taking t = {w->impl, ids->data, y};
    for (int64_t i = 0; i < ids->dim[0]; i++) {
        if (t.id[i] >= 0 && t.id[i] < w->n) continue;
        an_lane_fail(l, AN_INVALID, "weight_rows: token id %d at %lld, the table has %lld", t.id[i],
                     (long long)i, (long long)w->n);
        return AN_INVALID;
    }
    an_pool_run(l->device->pool, ids->dim[0], take_row, (void *)(uintptr_t)&t);
    return AN_OK;
}
