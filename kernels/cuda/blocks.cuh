/* blocks.cuh: one value of a block of GGUF's formats, to the bit that of base/quant.c, where the
 * layouts are explained. For where few values are wanted (rows of an embedding table); products
 * read blocks in their own ways. */
#ifndef ANNEAL_BLOCKS_CUH
#define ANNEAL_BLOCKS_CUH

#include "gpu.cuh"

/* Products and sums as they are written: contracted to an FMA they would be other numbers. */
#ifdef __CUDACC__
#define BLOCK_MUL(a, b) __fmul_rn(a, b)
#define BLOCK_ADD(a, b) __fadd_rn(a, b)
#else
#define BLOCK_MUL(a, b) ((a) * (b))
#define BLOCK_ADD(a, b) ((a) + (b))
#endif

PRIM float half_at(const uint8_t *p)
{
    const uint16_t h = (uint16_t)(p[0] | p[1] << 8);
    __half v;
    memcpy((void *)&v, &h, sizeof h);
    return __half2float(v);
}

/* Bit i of the 32 at p. */
PRIM int bit_at(const uint8_t *p, int i)
{
    return p[i / 8] >> (i % 8) & 1;
}

/* Number i of 32 in halves of 16 bytes. */
PRIM int nibble_at(const uint8_t *qs, int i)
{
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}

/* Blocks of 32: Q4_0 Q4_1 Q5_0 Q5_1 Q8_0. */
PRIM float value32(int format, const uint8_t *b, int i)
{
    const float d = half_at(b);
    switch (format) {
    case GPU_Q4_0:
        return BLOCK_MUL((float)(nibble_at(b + 2, i) - 8), d);
    case GPU_Q4_1:
        return BLOCK_ADD(BLOCK_MUL((float)nibble_at(b + 4, i), d), half_at(b + 2));
    case GPU_Q5_0:
        return BLOCK_MUL((float)((nibble_at(b + 6, i) | bit_at(b + 2, i) << 4) - 16), d);
    case GPU_Q5_1:
        return BLOCK_ADD(BLOCK_MUL((float)(nibble_at(b + 8, i) | bit_at(b + 4, i) << 4), d),
                         half_at(b + 2));
    default:
        return BLOCK_MUL((float)(int8_t)b[2 + i], d);
    }
}

/* The levels of IQ4, as unsigned bytes so that no table in memory is needed. */
PRIM float level_of(int q)
{
    const uint32_t word[4] = {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
    return (float)(int8_t)(word[q >> 2] >> (q & 3) * 8);
}

PRIM float value_q2_k(const uint8_t *b, int i)
{
    const int scales = b[i / 16], q = b[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
    const float dl = BLOCK_MUL(half_at(b + 80), (float)(scales & 15));
    return BLOCK_ADD(BLOCK_MUL(dl, (float)q), -BLOCK_MUL(half_at(b + 82), (float)(scales >> 4)));
}

PRIM float value_q3_k(const uint8_t *b, int i)
{
    const uint8_t *s = b + 96;
    const int part = i / 16, low = part < 8 ? s[part] & 15 : s[part - 8] >> 4;
    const int scale = (low | (s[8 + part % 4] >> (part / 4 * 2) & 3) << 4) - 32;
    int q = b[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
    if (!(b[i % 32] >> (i / 32) & 1)) q -= 4;
    return BLOCK_MUL(BLOCK_MUL(half_at(b + 108), (float)scale), (float)q);
}

/* Q4_K, and Q5_K with `fifth` bits. */
PRIM float value_q45_k(const uint8_t *b, int i, const uint8_t *fifth, const uint8_t *qs)
{
    const uint8_t *s = b + 4;
    const int j = i / 32;
    int scale = s[j] & 63, least = s[(j + 4) % 12] & 63;
    if (j >= 4) {
        scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        least = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
    int q = qs[j / 2 * 32 + i % 32] >> (j % 2 * 4) & 15;
    if (fifth) q |= (fifth[i % 32] >> j & 1) << 4;
    const float dl = BLOCK_MUL(half_at(b), (float)scale);
    return BLOCK_ADD(BLOCK_MUL(dl, (float)q), -BLOCK_MUL(half_at(b + 2), (float)least));
}

PRIM float value_q6_k(const uint8_t *b, int i)
{
    const int half = i / 128, k = i % 128;
    const int low = b[half * 64 + k % 64] >> (k / 64 * 4) & 15;
    const int high = b[128 + half * 32 + k % 32] >> (k / 32 * 2) & 3;
    const float dl = BLOCK_MUL(half_at(b + 208), (float)(int8_t)b[192 + i / 16]);
    return BLOCK_MUL(dl, (float)((low | high << 4) - 32));
}

PRIM float value_iq4_xs(const uint8_t *b, int i)
{
    const int part = i / 32, high = b[2] | b[3] << 8;
    const int scale = (b[4 + part / 2] >> (part % 2 * 4) & 15) | (high >> (2 * part) & 3) << 4;
    const float dl = BLOCK_MUL(half_at(b), (float)(scale - 32));
    return BLOCK_MUL(dl, level_of(nibble_at(b + 8 + part * 16, i % 32)));
}

/* Elements of a block, and its bytes. */
static inline __host__ __device__ int block_elements(int format)
{
    return format <= GPU_Q8_0 || format == GPU_IQ4_NL ? 32 : 256;
}
static inline __host__ __device__ int block_bytes(int format)
{
    switch (format) {
    case GPU_Q4_0:
    case GPU_IQ4_NL:
        return 18;
    case GPU_Q4_1:
        return 20;
    case GPU_Q5_0:
        return 22;
    case GPU_Q5_1:
        return 24;
    case GPU_Q8_0:
        return 34;
    case GPU_Q2_K:
        return 84;
    case GPU_Q3_K:
        return 110;
    case GPU_Q4_K:
        return 144;
    case GPU_Q5_K:
        return 176;
    case GPU_Q6_K:
        return 210;
    default: /* IQ4_XS */
        return 136;
    }
}

/* Value i of a row of blocks. */
PRIM float block_value(int format, const uint8_t *row, int64_t i)
{
    const int n = block_elements(format), k = (int)(i % n);
    const uint8_t *b = row + i / n * block_bytes(format);
    switch (format) {
    case GPU_Q2_K:
        return value_q2_k(b, k);
    case GPU_Q3_K:
        return value_q3_k(b, k);
    case GPU_Q4_K:
        return value_q45_k(b, k, nullptr, b + 16);
    case GPU_Q5_K:
        return value_q45_k(b, k, b + 16, b + 48);
    case GPU_Q6_K:
        return value_q6_k(b, k);
    case GPU_IQ4_NL:
        return BLOCK_MUL(half_at(b), level_of(nibble_at(b + 2, k)));
    case GPU_IQ4_XS:
        return value_iq4_xs(b, k);
    default:
        return value32(format, b, k);
    }
}

#endif
