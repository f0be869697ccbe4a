/* quant_512.h: weights in blocks as vectors of 512 bits: unpacking, scales and the sum over blocks,
 * for quant_vnni.c and quant_amx.c. Two panels are taken at a time, the lower half of a vector from
 * the first. AN_VNNI_EMULATE builds the same from plain C vectors, so that its logic is tested on
 * machines without these instructions. */
#ifndef ANNEAL_CPU_QUANT_512_H
#define ANNEAL_CPU_QUANT_512_H

#include "quant.h"

typedef uint8_t vbytes __attribute__((vector_size(64), may_alias));
typedef uint16_t vwords __attribute__((vector_size(64), may_alias));
typedef int32_t vints __attribute__((vector_size(64), may_alias));
typedef float vfloats __attribute__((vector_size(64), may_alias));

#define INLINE static inline __attribute__((always_inline))

#ifdef AN_VNNI_EMULATE
#include <math.h>

/* Only functions of this file pass these vectors to each other, all inlined. */
#pragma GCC diagnostic ignored "-Wpsabi"

/* Calls, or the compiler has a hundred thousand scalar operations to arrange. */
#define PIECE static __attribute__((noinline))

/* sum[i] + the four products of bytes 4 i .. of w with those of x4 */
PIECE void dot4(vints *sum, const vbytes *w, int32_t x4)
{
    int8_t x[4];
    memcpy(x, &x4, 4);
    for (int i = 0; i < 64; i++) (*sum)[i / 4] += (*w)[i] * x[i % 4];
}
INLINE vfloats fused(vfloats a, vfloats b, vfloats c)
{
    for (int i = 0; i < 16; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}
INLINE vbytes both(const uint8_t *p, const uint8_t *q)
{
    vbytes v;
    memcpy(&v, p, 32);
    memcpy((char *)&v + 32, q, 32);
    return v;
}
INLINE vfloats halves(const uint8_t *p, const uint8_t *q)
{
    vfloats f;
    for (int i = 0; i < 16; i++) {
        uint16_t h;
        memcpy(&h, i < 8 ? p + 2 * i : q + 2 * (i - 8), 2);
        f[i] = an_f16_to_f32(h);
    }
    return f;
}
INLINE vbytes look_up(const int8_t *table, vbytes at)
{
    for (int i = 0; i < 64; i++) at[i] = (uint8_t)table[at[i] & 15];
    return at;
}
INLINE vints small_ints(const uint8_t *p, const uint8_t *q, bool sign)
{
    vints v;
    for (int i = 0; i < 16; i++) {
        const uint8_t b = i < 8 ? p[i] : q[i - 8];
        v[i] = sign ? (int8_t)b : b;
    }
    return v;
}
INLINE vints pair_ints(const uint8_t *p, const uint8_t *q, const int which)
{
    vints v;
    for (int i = 0; i < 16; i++) v[i] = (int8_t)(i < 8 ? p : q - 16)[2 * i + which];
    return v;
}
#else
#include <immintrin.h>
#define PIECE INLINE

INLINE void dot4(vints *sum, const vbytes *w, int32_t x4)
{
    *sum = (vints)_mm512_dpbusd_epi32((__m512i)*sum, (__m512i)*w, _mm512_set1_epi32(x4));
}
INLINE vfloats fused(vfloats a, vfloats b, vfloats c)
{
    return (vfloats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
INLINE vbytes both(const uint8_t *p, const uint8_t *q)
{
    const __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)p);
    const __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)q);
    return (vbytes)_mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}
INLINE vfloats halves(const uint8_t *p, const uint8_t *q)
{
    const __m128i a = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i b = _mm_loadu_si128((const __m128i *)(const void *)q);
    return (vfloats)_mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1));
}
INLINE vbytes look_up(const int8_t *table, vbytes at)
{
    const __m128i t = _mm_loadu_si128((const __m128i *)(const void *)table);
    return (vbytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), (__m512i)at);
}
/* A byte of each of 8 outputs from p, then from q. */
INLINE vints small_ints(const uint8_t *p, const uint8_t *q, bool sign)
{
    const __m128i a = _mm_loadl_epi64((const __m128i *)(const void *)p);
    const __m128i b = _mm_loadl_epi64((const __m128i *)(const void *)q);
    const __m128i all = _mm_unpacklo_epi64(a, b);
    return (vints)(sign ? _mm512_cvtepi8_epi32(all) : _mm512_cvtepu8_epi32(all));
}
/* The same from pairs of signed bytes: the first or the second of each. */
INLINE vints pair_ints(const uint8_t *p, const uint8_t *q, const int which)
{
    const __m128i a = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i b = _mm_loadu_si128((const __m128i *)(const void *)q);
    const __m256i all = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
    return (vints)_mm512_cvtepi16_epi32(all) << (which ? 16 : 24) >> 24;
}
#endif

INLINE vfloats to_floats(vints v)
{
    return __builtin_convertvector(v, vfloats);
}
INLINE vfloats all_floats(float v)
{
    return v - (vfloats){0};
}

/* ---------------------------------------------------------------- numbers */

/* Bits `mask` of the bytes, moved up by `by` (down if negative). */
INLINE vbytes moved(vbytes v, int mask, int by)
{
    v &= (uint8_t)mask;
    return by > 0 ? (vbytes)((vwords)v << by) : by < 0 ? (vbytes)((vwords)v >> -by) : v;
}
INLINE vbytes nibbles(const uint8_t *p, const uint8_t *q, int g)
{
    const vbytes v = both(p + g % 4 * 32, q + g % 4 * 32);
    return (g < 4 ? v : (vbytes)((vwords)v >> 4)) & 15;
}
INLINE vbytes pairs(const uint8_t *p, const uint8_t *q, int g)
{
    const vbytes v = both(p + g / 4 * 32, q + g / 4 * 32);
    return (vbytes)((vwords)v >> (g % 4 * 2)) & 3;
}
INLINE vbytes bit(const uint8_t *p, const uint8_t *q, int g, int at)
{
    return moved(both(p, q), 1 << g, at - g);
}

INLINE bool raised(an_dtype f) /* by 128 */
{
    return f == AN_Q8_0 || f == AN_IQ4_NL || f == AN_IQ4_XS;
}
INLINE bool of_16(an_dtype f)
{
    return f == AN_Q2_K || f == AN_Q3_K || f == AN_Q6_K;
}

/* Group g of both bodies. */
INLINE vbytes numbers(const an_dtype f, const uint8_t *p, const uint8_t *q, const int g)
{
    static const int8_t levels[16] = {1,    24,   45,   63,  79,  93,  106, 118,
                                      -127, -115, -103, -90, -75, -59, -39, -15};
    switch (f) {
    case AN_Q8_0:
        return both(p + 32 * g, q + 32 * g) ^ 0x80;
    case AN_Q2_K:
        return pairs(p, q, g);
    case AN_Q3_K:
        return pairs(p, q, g) | bit(p + 64, q + 64, g, 2);
    case AN_Q6_K:
        return nibbles(p, q, g) | moved(both(p + 128 + g / 4 * 32, q + 128 + g / 4 * 32),
                                        3 << (g % 4 * 2), 4 - g % 4 * 2);
    case AN_Q5_0:
    case AN_Q5_1:
    case AN_Q5_K:
        return nibbles(p, q, g) | bit(p + 128, q + 128, g, 4);
    case AN_IQ4_NL:
    case AN_IQ4_XS:
        return look_up(levels, nibbles(p, q, g));
    default:
        return nibbles(p, q, g);
    }
}

/* ---------------------------------------------------------------- scales */

typedef struct scales {
    vfloats d, m;
    vints small[2], min[2]; /* of each half of 32 */
} scales;

/* The scales of eight blocks, which lie at p and `stride` on; what comes after them. */
INLINE const uint8_t *super_of(const an_quant_layout l, const uint8_t *p, int64_t stride,
                               vfloats *d, vfloats *m)
{
    *d = halves(p, p + stride);
    if (l.super > 16) *m = halves(p + 16, p + stride + 16) * -1.0f;
    return p + l.super;
}

PIECE void scales_of(const an_dtype f, const vfloats *super_d, const vfloats *super_m,
                     const uint8_t *p, const uint8_t *q, scales *to)
{
    scales s = {.d = *super_d, .m = *super_m};
    if (!an_quant_layout_of(f).super) s.d = halves(p, q);
    if (f == AN_Q4_1 || f == AN_Q5_1) s.m = halves(p + 16, q + 16);
    if (f == AN_Q4_0) s.m = s.d * -8.0f;
    if (f == AN_Q5_0) s.m = s.d * -16.0f;
    if (f == AN_Q4_K || f == AN_Q5_K) {
        s.d = *super_d * to_floats(small_ints(p, q, false));
        s.m = *super_m * to_floats(small_ints(p + 8, q + 8, false));
    }
    if (f == AN_IQ4_XS) s.d = *super_d * to_floats(small_ints(p, q, true));
    if (of_16(f)) {
        s.small[0] = pair_ints(p, q, 0);
        s.small[1] = pair_ints(p, q, 1);
    }
    if (f == AN_Q2_K) {
        s.min[0] = pair_ints(p + 16, q + 16, 0);
        s.min[1] = pair_ints(p + 16, q + 16, 1);
    }
    *to = s;
}

/* ---------------------------------------------------------------- panels */

#define EACH_FORMAT(X)                                                                             \
    X(Q4_0)                                                                                        \
    X(Q4_1)                                                                                        \
    X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL) X(IQ4_XS)

#define ROWS(X)   X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define GROUPS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

INLINE int32_t int_at(const char *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}
INLINE vfloats splat(const char *p)
{
    float v;
    memcpy(&v, p, 4);
    return all_floats(v);
}

/* acc += a block: the integer sums of its halves, and row m's scales in the tile of M rows at x. */
PIECE void add_block(const an_dtype f, const int M, int m, const scales *s, const vints *low,
                     const vints *high, const char *x, vfloats *acc)
{
    const vfloats scale = splat(x + 32 * M + 4 * m);
    const int32_t sums = int_at(x + 40 * M + 4 * m);
    const int first = (int16_t)(sums & 0xffff), second = sums >> 16;
    vints sum = *low + *high;
    if (of_16(f)) {
        const int off = f == AN_Q6_K ? 32 : f == AN_Q3_K ? 4 : 0;
        sum = s->small[0] * (*low - off * first) + s->small[1] * (*high - off * second);
    }
    if (raised(f)) sum -= 128 * (first + second);
    *acc = fused(s->d * scale, to_floats(sum), *acc);
    if (f == AN_Q2_K)
        *acc = fused(s->m * scale, to_floats(s->min[0] * first + s->min[1] * second), *acc);
    else if (!of_16(f) && !raised(f))
        *acc = fused(s->m, splat(x + 36 * M + 4 * m), *acc);
}

#endif
