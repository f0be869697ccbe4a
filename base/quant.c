/* quant.c: the values of GGUF's block formats, in f32. This is the oracle of every quantised kernel
 * and must agree with ggml's dequantize_row_* to the last bit, so the order of the products is
 * theirs: (scale of the block * scale of the part) * number.
 *
 * The layouts are those of ggml-common.h (https://github.com/ggml-org/ggml); all multi-byte fields
 * are little-endian. In the "legacy" formats 32 elements share one f16 scale; number i lies in the
 * low half of byte i, number i + 16 in its high half. In the "K" formats 256 elements share an f16
 * scale of scales, and parts of 16 or 32 have small integer scales of their own. */
#include "anneal/tensor.h"

typedef unsigned char u8;

static float half_at(const u8 *p)
{
    return an_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static uint32_t word_at(const u8 *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* ---------------------------------------------------------------- blocks of 32 */

/* d f16, 16 bytes of halves: d * (q - 8) */
static void q4_0(const u8 *b, float *out)
{
    float d = half_at(b);
    const u8 *qs = b + 2;
    for (int i = 0; i < 16; i++) {
        out[i] = (float)((qs[i] & 15) - 8) * d;
        out[i + 16] = (float)((qs[i] >> 4) - 8) * d;
    }
}

/* d f16, m f16, 16 bytes of halves: d * q + m */
static void q4_1(const u8 *b, float *out)
{
    float d = half_at(b), m = half_at(b + 2);
    const u8 *qs = b + 4;
    for (int i = 0; i < 16; i++) {
        out[i] = (float)(qs[i] & 15) * d + m;
        out[i + 16] = (float)(qs[i] >> 4) * d + m;
    }
}

/* d f16, 32 fifth bits, 16 bytes of halves: d * (q - 16) */
static void q5_0(const u8 *b, float *out)
{
    float d = half_at(b);
    uint32_t high = word_at(b + 2);
    const u8 *qs = b + 6;
    for (int i = 0; i < 16; i++) {
        int lo = (qs[i] & 15) | (int)(high >> i & 1) << 4;
        int hi = (qs[i] >> 4) | (int)(high >> (i + 16) & 1) << 4;
        out[i] = (float)(lo - 16) * d;
        out[i + 16] = (float)(hi - 16) * d;
    }
}

/* d f16, m f16, 32 fifth bits, 16 bytes of halves: d * q + m */
static void q5_1(const u8 *b, float *out)
{
    float d = half_at(b), m = half_at(b + 2);
    uint32_t high = word_at(b + 4);
    const u8 *qs = b + 8;
    for (int i = 0; i < 16; i++) {
        int lo = (qs[i] & 15) | (int)(high >> i & 1) << 4;
        int hi = (qs[i] >> 4) | (int)(high >> (i + 16) & 1) << 4;
        out[i] = (float)lo * d + m;
        out[i + 16] = (float)hi * d + m;
    }
}

/* d f16, 32 signed bytes */
static void q8_0(const u8 *b, float *out)
{
    float d = half_at(b);
    for (int i = 0; i < 32; i++) out[i] = (float)(int8_t)b[2 + i] * d;
}

/* The 16 levels of the non-linear formats: quantiles of a typical weight, times 127. */
static const int8_t nl_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

/* d f16, 16 bytes of halves that index the levels */
static void iq4_nl(const u8 *b, float *out)
{
    float d = half_at(b);
    const u8 *qs = b + 2;
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)nl_levels[qs[i] & 15];
        out[i + 16] = d * (float)nl_levels[qs[i] >> 4];
    }
}

/* ---------------------------------------------------------------- blocks of 256 */

/* scales u8[16] (low half: scale, high half: minimum), qs u8[64], d f16, dmin f16. Of each 32 bytes
 * of qs the lowest two bits of all come first, then the next two bits of all... */
static void q2_k(const u8 *b, float *out)
{
    const u8 *scales = b, *qs = b + 16;
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int i = 0; i < 256; i++) {
        int part = i / 16, shift = i / 32 % 4 * 2;
        float dl = d * (float)(scales[part] & 15), ml = dmin * (float)(scales[part] >> 4);
        int q = qs[i / 128 * 32 + i % 32] >> shift & 3;
        out[i] = dl * (float)q - ml;
    }
}

/* The 16 six-bit scales of Q3_K: four low bits in bytes 0..7 (two a byte), two high bits in bytes
 * 8..11 (four a byte). */
static int q3_scale(const u8 *s, int part)
{
    int low = part < 8 ? s[part] & 15 : s[part - 8] >> 4;
    int high = s[8 + part % 4] >> (part / 4 * 2) & 3;
    return (low | high << 4) - 32;
}

/* hmask u8[32], qs u8[64], scales u8[12], d f16. The third bit is stored inverted: a clear bit
 * takes 4 away. */
static void q3_k(const u8 *b, float *out)
{
    const u8 *hmask = b, *qs = b + 32, *scales = b + 96;
    float d = half_at(b + 108);
    for (int i = 0; i < 256; i++) {
        int shift = i / 32 % 4 * 2;
        float dl = d * (float)q3_scale(scales, i / 16);
        int q = qs[i / 128 * 32 + i % 32] >> shift & 3;
        if (!(hmask[i % 32] >> (i / 32) & 1)) q -= 4;
        out[i] = dl * (float)q;
    }
}

/* Scale and minimum j (0..7) of Q4_K and Q5_K, six bits each in 12 bytes: the first four whole, the
 * last four with their upper bits in the spare bits of the first. */
static void k4_scale_min(const u8 *s, int j, float *scale, float *min)
{
    int sc = s[j] & 63, m = s[(j + 4) % 12] & 63;
    if (j >= 4) {
        sc = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        m = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
    *scale = (float)sc;
    *min = (float)m;
}

/* d f16, dmin f16, scales u8[12], qs u8[128]: parts of 32, two of them in 32 bytes of halves */
static void q4_k(const u8 *b, float *out)
{
    float d = half_at(b), dmin = half_at(b + 2), scale, min;
    const u8 *scales = b + 4, *qs = b + 16;
    for (int part = 0; part < 8; part++) {
        k4_scale_min(scales, part, &scale, &min);
        float dl = d * scale, ml = dmin * min;
        for (int i = 0; i < 32; i++) {
            int q = qs[part / 2 * 32 + i] >> (part % 2 * 4) & 15;
            out[part * 32 + i] = dl * (float)q - ml;
        }
    }
}

/* As Q4_K with fifth bits in qh u8[32] before qs: bit `part` of byte i */
static void q5_k(const u8 *b, float *out)
{
    float d = half_at(b), dmin = half_at(b + 2), scale, min;
    const u8 *scales = b + 4, *qh = b + 16, *qs = b + 48;
    for (int part = 0; part < 8; part++) {
        k4_scale_min(scales, part, &scale, &min);
        float dl = d * scale, ml = dmin * min;
        for (int i = 0; i < 32; i++) {
            int q = qs[part / 2 * 32 + i] >> (part % 2 * 4) & 15;
            q |= (qh[i] >> part & 1) << 4;
            out[part * 32 + i] = dl * (float)q - ml;
        }
    }
}

/* ql u8[128], qh u8[64], scales i8[16], d f16: d * scale * (q - 32). Each half of 128 elements has
 * 64 bytes of low halves (elements 0..63 low, 64..127 high) and 32 bytes of upper bit pairs. */
static void q6_k(const u8 *b, float *out)
{
    const u8 *ql = b, *qh = b + 128;
    float d = half_at(b + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, k = i % 128;
        int low = ql[half * 64 + k % 64] >> (k / 64 * 4) & 15;
        int high = qh[half * 32 + k % 32] >> (k / 32 * 2) & 3;
        float dl = d * (float)(int8_t)b[192 + i / 16];
        out[i] = dl * (float)((low | high << 4) - 32);
    }
}

/* d f16, scales_h u16, scales_l u8[4], qs u8[128]: parts of 32 laid out as IQ4_NL, each with a
 * six-bit scale */
static void iq4_xs(const u8 *b, float *out)
{
    float d = half_at(b);
    int high = b[2] | b[3] << 8;
    const u8 *low = b + 4, *qs = b + 8;
    for (int part = 0; part < 8; part++) {
        int ls = (low[part / 2] >> (part % 2 * 4) & 15) | (high >> (2 * part) & 3) << 4;
        float dl = d * (float)(ls - 32);
        for (int i = 0; i < 16; i++) {
            out[part * 32 + i] = dl * (float)nl_levels[qs[part * 16 + i] & 15];
            out[part * 32 + i + 16] = dl * (float)nl_levels[qs[part * 16 + i] >> 4];
        }
    }
}

/* ---------------------------------------------------------------- all of them */

bool an_dequantize(an_dtype d, const void *blocks, int64_t count, float *out)
{
    static void (*const decode[AN_DTYPE_COUNT])(const u8 *, float *) = {
        [AN_Q4_0] = q4_0, [AN_Q4_1] = q4_1, [AN_Q5_0] = q5_0,     [AN_Q5_1] = q5_1,
        [AN_Q8_0] = q8_0, [AN_Q2_K] = q2_k, [AN_Q3_K] = q3_k,     [AN_Q4_K] = q4_k,
        [AN_Q5_K] = q5_k, [AN_Q6_K] = q6_k, [AN_IQ4_NL] = iq4_nl, [AN_IQ4_XS] = iq4_xs};
    if (!an_dtype_is_quant(d) || !decode[d]) return false;
    const u8 *b = blocks;
    const int n = an_dtype_block(d);
    for (int64_t i = 0; i + n <= count; i += n, b += an_dtype_block_bytes(d)) decode[d](b, out + i);
    return true;
}
