/* quant_generic.c: a panel against a few rows in plain C, for machines without anything better, and
 * what the other kernels are checked against when a device opens. */
#include "quant.h"
#include "../block.h"

static void round_row(const void *x, an_dtype dtype, int64_t k, int rows, int r, void *tile)
{
    char *to = tile;
    for (int64_t i = 0; i < k; i += AN_Q8_BLOCK, to += AN_QUANT_X * rows) {
        float v[AN_Q8_BLOCK];
        int8_t q[AN_Q8_BLOCK];
        an_convert(v, AN_F32, (const char *)x + (size_t)i * an_dtype_size(dtype), dtype,
                   AN_Q8_BLOCK);
        const float scale = an_q8_round(v, q);
        int16_t half[2] = {0, 0};
        for (int e = 0; e < AN_Q8_BLOCK; e++) half[e / 16] = (int16_t)(half[e / 16] + q[e]);
        const float sum = scale * (float)(half[0] + half[1]);
        memcpy(to + 32 * r, q, 32);
        memcpy(to + 32 * rows + 4 * r, &scale, 4);
        memcpy(to + 36 * rows + 4 * r, &sum, 4);
        memcpy(to + 40 * rows + 4 * r, half, 4);
    }
}

/* What 32 values of k of a panel are: (number - offset) * (small[half] if there) * d - minima. */
typedef struct block {
    int16_t q[8][32];
    float d[8]; /* scale of the integer sum */
    float m[8]; /* factor of scale_x * sum of x, or of scale_x * the sum of min * half sums */
    int small[8][2], min[8][2];
} block;

static float f16_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return an_f16_to_f32(h);
}

static int pair_at(const uint8_t *body, int r, int k)
{
    return body[k / 16 * 32 + 4 * r + k % 4] >> (k / 4 % 4 * 2) & 3;
}
static int bit_at(const uint8_t *body, int r, int k)
{
    return body[4 * r + k % 4] >> (k / 4) & 1;
}

static int number_at(an_dtype format, const uint8_t *body, int r, int k)
{
    const int low = body[k % 16 / 4 * 32 + 4 * r + k % 4] >> (k / 16 * 4) & 15;
    switch (format) {
    case AN_Q8_0:
        return (int8_t)body[k / 4 * 32 + 4 * r + k % 4];
    case AN_Q2_K:
        return pair_at(body, r, k);
    case AN_Q3_K:
        return (pair_at(body, r, k) | bit_at(body + 64, r, k) << 2) - 4;
    case AN_Q6_K:
        return (low | pair_at(body + 128, r, k) << 4) - 32;
    case AN_Q5_0:
    case AN_Q5_1:
    case AN_Q5_K:
        return low | bit_at(body + 128, r, k) << 4;
    case AN_IQ4_NL:
    case AN_IQ4_XS:
        return an_block_levels[low];
    default:
        return low;
    }
}

static void read_scales(an_dtype format, const uint8_t *super, const uint8_t *head, block *b)
{
    const bool pairs = format == AN_Q2_K || format == AN_Q3_K || format == AN_Q6_K;
    for (int r = 0; r < 8; r++) {
        const uint8_t *scales = super ? super : head;
        b->d[r] = f16_at(scales + 2 * r);
        b->m[r] = 0;
        for (int i = 0; i < 2; i++) {
            b->small[r][i] = pairs ? (int8_t)head[2 * r + i] : 1;
            b->min[r][i] = format == AN_Q2_K ? (int8_t)head[16 + 2 * r + i] : 0;
        }
        if (format == AN_Q4_0) b->m[r] = b->d[r] * -8.0f;
        if (format == AN_Q5_0) b->m[r] = b->d[r] * -16.0f;
        if (format == AN_Q4_1 || format == AN_Q5_1) b->m[r] = f16_at(head + 16 + 2 * r);
        if (format == AN_Q4_K || format == AN_Q5_K) {
            b->d[r] *= (float)head[r];
            b->m[r] = -f16_at(super + 16 + 2 * r) * (float)head[8 + r];
        }
        if (format == AN_IQ4_XS) b->d[r] *= (float)(int8_t)head[r];
        if (format == AN_Q2_K) b->m[r] = -f16_at(super + 16 + 2 * r);
    }
}

/* acc += one block, for one output and row. */
static float add_block(an_dtype format, const block *b, int r, const char *x, int rows, int m,
                       float acc)
{
    const int8_t *q = (const int8_t *)x + 32 * m;
    float scale, sum;
    int16_t half[2];
    memcpy(&scale, x + 32 * rows + 4 * m, 4);
    memcpy(&sum, x + 36 * rows + 4 * m, 4);
    memcpy(half, x + 40 * rows + 4 * m, 4);
    int part[2] = {0, 0};
    for (int k = 0; k < 32; k++) part[k / 16] += b->q[r][k] * q[k];
    const int total = part[0] * b->small[r][0] + part[1] * b->small[r][1];
    acc += b->d[r] * scale * (float)total;
    if (format == AN_Q2_K)
        acc += b->m[r] * scale * (float)(b->min[r][0] * half[0] + b->min[r][1] * half[1]);
    else if (format != AN_Q8_0 && format != AN_Q3_K && format != AN_Q6_K && format != AN_IQ4_NL &&
             format != AN_IQ4_XS)
        acc += b->m[r] * sum;
    return acc;
}

static void run_panel(an_dtype format, int rows, const void *panel, int64_t stride, int64_t blocks,
                      const void *tile, float *out)
{
    (void)stride;
    const an_quant_layout l = an_quant_layout_of(format);
    const uint8_t *p = panel, *super = NULL;
    const char *x = tile;
    memset(out, 0, (size_t)rows * 8 * sizeof *out);
    for (int64_t i = 0; i < blocks; i++, x += AN_QUANT_X * rows) {
        if (l.super && i % 8 == 0) {
            super = p;
            p += l.super;
        }
        block b;
        read_scales(format, super, p, &b);
        for (int r = 0; r < 8; r++)
            for (int k = 0; k < 32; k++) b.q[r][k] = (int16_t)number_at(format, p + l.head, r, k);
        for (int m = 0; m < rows; m++)
            for (int r = 0; r < 8; r++)
                out[m * 8 + r] = add_block(format, &b, r, x, rows, m, out[m * 8 + r]);
        p += l.head + l.body;
    }
}

const an_quant_kernel an_quant_generic = {"generic", 1, round_row, run_panel, NULL};
