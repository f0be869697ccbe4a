/* attention_math.h: what attention's kernels share: 2^x, and loads, stores and transposition of
 * four elements of four tokens. */
#ifndef ANNEAL_CPU_ATTENTION_MATH_H
#define ANNEAL_CPU_ATTENTION_MATH_H

#include "attention.h"
#include "vmath.h"

#include <math.h>

/* 2^x for x <= 0: exactly 1 at 0, exactly 0 from -127 down, NaN for NaN. The polynomials are the
 * minimax ones for 2^f, f in [-1/2, 1/2], among those with 2^0 = 1: of degree 5, with which the
 * relative error stays under 1.6e-7 above -126, or of degree 3 and 1.1e-4 (coarse), a twentieth
 * of half a unit of bf16. */
V_INLINE an_vf exp2_of(an_vf x, const bool coarse)
{
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the integer in the low bits */
    x = v_max(v_set(-127.0f), x);
    const an_vf r = x + round, f = x - (r - round);
    an_vf p;
    if (coarse) {
        p = v_fma(v_set(0.0550089329f), f, v_set(0.242210954f));
        p = v_fma(p, f, v_set(0.693282902f));
    } else {
        p = v_fma(v_set(0.00132647273f), f, v_set(0.00967151299f));
        p = v_fma(p, f, v_set(0.0555073358f));
        p = v_fma(p, f, v_set(0.240222424f));
        p = v_fma(p, f, v_set(0.693147004f));
    }
    p = v_fma(p, f, v_set(1.0f));
    return (an_vf)((an_vu)p + ((an_vu)r << 23));
}

/* ---------------------------------------------------------------- four by four */

typedef float f4 __attribute__((vector_size(16), may_alias, aligned(4)));
typedef uint32_t u4 __attribute__((vector_size(16), may_alias, aligned(4)));
typedef uint16_t h4 __attribute__((vector_size(8), may_alias, aligned(2)));

/* n of 4 elements at p, the others zero. */
V_INLINE f4 load4(const char *p, bool bf16, int64_t n)
{
    char whole[16] = {0};
    if (n < 4) p = memcpy(whole, p, (size_t)n * (bf16 ? 2 : 4));
    if (!bf16) return *(const f4 *)(const void *)p;
    return (f4)(__builtin_convertvector(*(const h4 *)(const void *)p, u4) << 16);
}

/* Rounds to nearest even as an_f32_to_bf16 does; NaN stays NaN. */
V_INLINE h4 to_bf16(f4 x)
{
    const u4 u = (u4)x, number = (u4)(x == x);
    const u4 rounded = (u + 0x7fff + ((u >> 16) & 1)) & number, nan = (u | 0x400000) & ~number;
    return __builtin_convertvector((rounded | nan) >> 16, h4);
}

V_INLINE void store4(char *p, f4 x, bool bf16, int64_t n)
{
    if (!bf16) {
        if (n >= 4)
            *(f4 *)(void *)p = x;
        else
            memcpy(p, &x, (size_t)n * 4);
    } else {
        const h4 h = to_bf16(x);
        if (n >= 4)
            *(h4 *)(void *)p = h;
        else
            memcpy(p, &h, (size_t)n * 2);
    }
}

typedef struct f44 {
    f4 a, b, c, d;
} f44;

/* Elements e.. of tokens t.., zeros beyond n tokens and d elements. */
V_INLINE f44 load44(const char *x, int64_t stride, int64_t t, int64_t n, int64_t e, int64_t d,
                    bool bf16)
{
    const int64_t size = bf16 ? 2 : 4, step = stride * size, have = d - e;
    f44 m = {{0}, {0}, {0}, {0}};
    if (t >= n || e >= d) return m;
    const char *p = x + t * step + e * size;
    if (t + 4 <= n && have >= 4)
        return (f44){load4(p, bf16, 4), load4(p + step, bf16, 4), load4(p + 2 * step, bf16, 4),
                     load4(p + 3 * step, bf16, 4)};
    m.a = load4(p, bf16, have);
    if (t + 1 < n) m.b = load4(p + step, bf16, have);
    if (t + 2 < n) m.c = load4(p + 2 * step, bf16, have);
    if (t + 3 < n) m.d = load4(p + 3 * step, bf16, have);
    return m;
}

V_INLINE f44 transpose44(f44 m)
{
    const f4 a = __builtin_shufflevector(m.a, m.b, 0, 4, 1, 5);
    const f4 b = __builtin_shufflevector(m.c, m.d, 0, 4, 1, 5);
    const f4 c = __builtin_shufflevector(m.a, m.b, 2, 6, 3, 7);
    const f4 d = __builtin_shufflevector(m.c, m.d, 2, 6, 3, 7);
    return (f44){
        __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
        __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
}

/* ---------------------------------------------------------------- eight of bf16 */

typedef uint16_t h8 __attribute__((vector_size(16), may_alias, aligned(2)));

V_INLINE int64_t bounded(int64_t n, int64_t most)
{
    return n < 0 ? 0 : n < most ? n : most;
}

/* n of 8 elements, the others zero. */
V_INLINE h8 load8(const uint16_t *p, int64_t n)
{
    if (n >= 8) return *(const h8 *)p;
    uint16_t x[8] = {0};
    for (int64_t i = 0; i < n; i++) x[i] = p[i];
    return *(const h8 *)x;
}

/* Elements e.. of token t, or zeros from the edges on: n tokens, d elements. */
V_INLINE h8 token8(const uint16_t *x, int64_t stride, int64_t t, int64_t n, int64_t e, int64_t d)
{
    return load8(t < n && e < d ? x + t * stride + e : x, t < n ? bounded(d - e, 8) : 0);
}

/* The same of four tokens: 32-bit pairs, for transpose44. */
V_INLINE f44 tokens8(const uint16_t *x, int64_t stride, int64_t t, int64_t n, int64_t e, int64_t d)
{
    return (f44){(f4)token8(x, stride, t, n, e, d), (f4)token8(x, stride, t + 1, n, e, d),
                 (f4)token8(x, stride, t + 2, n, e, d), (f4)token8(x, stride, t + 3, n, e, d)};
}

/* 16 elements: of a and b in turn. */
V_INLINE void put_pairs(void *to, h8 a, h8 b)
{
    ((h8 *)to)[0] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    ((h8 *)to)[1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

V_INLINE int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

#endif
