/* vmath.h: vectors of floats of any width, and the mathematics of activations on them. The
 * including file may define AN_VW, the width in bytes (16, 32 or 64); else the widest that its
 * compiler flags allow is taken (wider ones work too, from narrower instructions). Plain GCC/clang
 * vector extensions, with an intrinsic where these are clumsy.
 *
 * Every function here is element-wise: an element's result depends on its value alone, not on its
 * lane, so tails can be done in a padded vector. NaN goes through. */
#ifndef ANNEAL_CPU_VMATH_H
#define ANNEAL_CPU_VMATH_H

#include "anneal/ops.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef AN_VW
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define AN_VW 64
#elif defined(__AVX2__)
#define AN_VW 32
#else
#define AN_VW 16
#endif
#endif
#define AN_VL (AN_VW / 4) /* floats in a vector */

typedef float an_vf __attribute__((vector_size(AN_VW)));
typedef int32_t an_vi __attribute__((vector_size(AN_VW)));
typedef uint32_t an_vu __attribute__((vector_size(AN_VW)));
typedef uint16_t an_vh __attribute__((vector_size(AN_VW / 2))); /* as many bf16 */

#define V_INLINE static inline __attribute__((always_inline, unused))

/* ---------------------------------------------------------------- load and store */

V_INLINE an_vf v_set(float f)
{
    return f - (an_vf){0}; /* not +: -0.0f + 0 is +0 */
}
V_INLINE an_vf v_load(const float *p)
{
    an_vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
V_INLINE void v_store(float *p, an_vf v)
{
    memcpy(p, &v, sizeof v);
}
/* The first n < AN_VL elements; the others are zero. */
V_INLINE an_vf v_load_n(const float *p, int64_t n)
{
    float t[AN_VL] = {0};
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    return v_load(t);
}
V_INLINE void v_store_n(float *p, an_vf v, int64_t n)
{
    float t[AN_VL];
    v_store(t, v);
    for (int64_t i = 0; i < n; i++) p[i] = t[i];
}

/* bf16 is the upper half of an f32; storing rounds to nearest even; NaN becomes the quiet one. */
V_INLINE an_vf v_from_bf16(an_vh h)
{
#if AN_VW == 64 && defined(__AVX512F__)
    __m512i u = _mm512_cvtepu16_epi32((__m256i)h);
    return (an_vf)_mm512_slli_epi32(u, 16);
#elif AN_VW == 32 && defined(__AVX2__)
    __m256i u = _mm256_cvtepu16_epi32((__m128i)h);
    return (an_vf)_mm256_slli_epi32(u, 16);
#else
    return (an_vf)(__builtin_convertvector(h, an_vu) << 16);
#endif
}
V_INLINE an_vh v_to_bf16(an_vf v)
{
    an_vu u = (an_vu)v;
    an_vu r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
#if AN_VW == 64 && defined(__AVX512F__)
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    __m512i w = _mm512_mask_mov_epi32((__m512i)r, nan, _mm512_set1_epi32(0x7fc0));
    return (an_vh)_mm512_cvtepi32_epi16(w);
#elif AN_VW == 32 && defined(__AVX2__)
    __m256 nan = _mm256_cmp_ps((__m256)v, (__m256)v, _CMP_UNORD_Q);
    __m256i w = _mm256_blendv_epi8((__m256i)r, _mm256_set1_epi32(0x7fc0), (__m256i)nan);
    w = _mm256_packus_epi32(w, w);
    return (an_vh)_mm256_castsi256_si128(_mm256_permute4x64_epi64(w, 0x08));
#else
    an_vu nan = (an_vu)(v != v);
    return __builtin_convertvector((nan & 0x7fc0u) | (~nan & r), an_vh);
#endif
}
V_INLINE an_vf v_load_bf16(const uint16_t *p)
{
    an_vh h;
    memcpy(&h, p, sizeof h);
    return v_from_bf16(h);
}
V_INLINE void v_store_bf16(uint16_t *p, an_vf v)
{
    an_vh h = v_to_bf16(v);
    memcpy(p, &h, sizeof h);
}
V_INLINE an_vf v_load_bf16_n(const uint16_t *p, int64_t n)
{
    uint16_t t[AN_VL] = {0};
    for (int64_t i = 0; i < n; i++) t[i] = p[i];
    return v_load_bf16(t);
}
V_INLINE void v_store_bf16_n(uint16_t *p, an_vf v, int64_t n)
{
    uint16_t t[AN_VL];
    v_store_bf16(t, v);
    for (int64_t i = 0; i < n; i++) p[i] = t[i];
}

/* ---------------------------------------------------------------- arithmetic */

/* a * b + c: fused where the instruction set fuses, so not the same bits on every set. */
V_INLINE an_vf v_fma(an_vf a, an_vf b, an_vf c)
{
#if AN_VW == 64 && defined(__AVX512F__)
    return (an_vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif AN_VW == 32 && defined(__FMA__)
    return (an_vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
/* a > b ? a : b and a < b ? a : b, so b where either is NaN: put what may be NaN second. */
V_INLINE an_vf v_max(an_vf a, an_vf b)
{
#if AN_VW == 64 && defined(__AVX512F__)
    return (an_vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif AN_VW == 32 && defined(__AVX__)
    return (an_vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif AN_VW == 16 && defined(__SSE__)
    return (an_vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    an_vi m = a > b;
    return (an_vf)((m & (an_vi)a) | (~m & (an_vi)b));
#endif
}
V_INLINE an_vf v_min(an_vf a, an_vf b)
{
#if AN_VW == 64 && defined(__AVX512F__)
    return (an_vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif AN_VW == 32 && defined(__AVX__)
    return (an_vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif AN_VW == 16 && defined(__SSE__)
    return (an_vf)_mm_min_ps((__m128)a, (__m128)b);
#else
    an_vi m = a < b;
    return (an_vf)((m & (an_vi)a) | (~m & (an_vi)b));
#endif
}
V_INLINE an_vf v_abs(an_vf v)
{
    return (an_vf)((an_vu)v & 0x7fffffffu);
}
/* The lanes added in a fixed tree: halves onto each other. */
V_INLINE float v_sum(an_vf v)
{
    float t[AN_VL];
    v_store(t, v);
    for (int half = AN_VL / 2; half; half /= 2)
        for (int i = 0; i < half; i++) t[i] += t[i + half];
    return t[0];
}

/* ---------------------------------------------------------------- functions */

/* x = n ln 2 + r: returns e^r to 1 ulp or so, and n in the low bits of *n. (Cody and Waite 1980;
 * the polynomial is the one of the Cephes library.) */
V_INLINE an_vf v_exp_reduced(an_vf x, an_vi *n)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    an_vf t = v_fma(x, v_set(1.44269504088896341f), v_set(magic));
    *n = (an_vi)t;
    t -= magic;
    an_vf r = v_fma(t, v_set(-0.693359375f), x);
    r = v_fma(t, v_set(2.12194440e-4f), r);
    an_vf p = v_set(1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    return v_fma(p, r * r, r) + 1.0f;
}

/* e^x for every x: with denormals, infinities and NaN. 2^n is applied in two factors, so that
 * neither leaves the range. */
V_INLINE an_vf v_exp(an_vf x)
{
    an_vi n;
    an_vf p = v_exp_reduced(v_min(v_set(89.0f), v_max(v_set(-104.0f), x)), &n);
    n -= 0x4b400000;
    an_vi half = n >> 1, rest = n - half;
    return p * (an_vf)((half + 127) << 23) * (an_vf)((rest + 127) << 23);
}

/* e^x for -87 <= x <= 88 only, where the result is a normal number: 2^n is added to the exponent.
 * Of NaN it makes anything. */
V_INLINE an_vf v_exp_normal(an_vf x)
{
    an_vi n;
    an_vf p = v_exp_reduced(x, &n);
    return (an_vf)((an_vu)p + ((an_vu)n << 23));
}

/* x / (1 + e^k): x sigmoid(-k). NaN in x goes through. */
V_INLINE an_vf v_gate(an_vf x, an_vf k)
{
    return x / (v_exp_normal(v_min(v_set(88.0f), v_max(v_set(-87.0f), k))) + 1.0f);
}
V_INLINE an_vf v_silu(an_vf x)
{
    return v_gate(x, -x);
}

/* tanh: a polynomial where it is small (both of the Cephes library), else by e^2x. NaN goes
 * through.
 */
V_INLINE an_vf v_tanh(an_vf x)
{
    const an_vf t = v_min(v_set(10.0f), v_abs(x)), z = t * t;
    an_vf p = v_set(-5.70498872745e-3f);
    p = v_fma(p, z, v_set(2.06390887954e-2f));
    p = v_fma(p, z, v_set(-5.37397155531e-2f));
    p = v_fma(p, z, v_set(1.33314422036e-1f));
    p = v_fma(p, z, v_set(-3.33332819422e-1f));
    const an_vf small = v_fma(p * z, t, t), large = 1.0f - 2.0f / (v_exp_normal(t + t) + 1.0f);
    const an_vu near = (an_vu)(t < 0.625f), sign = (an_vu)x & 0x80000000u;
    const an_vu nan = (an_vu)(x != x);
    const an_vu y = (((an_vu)small & near) | ((an_vu)large & ~near)) | sign;
    return (an_vf)((y & ~nan) | ((an_vu)x & nan));
}

/* x Phi(x), the GELU of erf. For t = |x| the tail is Phi(-t) = exp(-t^2 / 2) R(u), u = (t-3)/(t+3),
 * R a Chebyshev fit of degree 9 over t = 0..14 (relative error 2.4e-8); so nothing cancels on
 * either side of zero, and one division and one exp do for all x. Past 13 the tail is nothing. */
V_INLINE an_vf v_gelu(an_vf x)
{
    an_vf t = v_min(v_set(13.0f), v_abs(x));
    an_vf u = (t - 3.0f) / (t + 3.0f);
    static const float c[10] = {
        5.409386007e-5f, 0.0001162079292f, -0.0003395564635f, -0.0009842763833f, 0.00290442839f,
        0.00613219251f,  -0.04621324747f,  0.1232250217f,     -0.2064026221f,    0.1215139477f};
    an_vf p = v_set(c[0]);
    for (int i = 1; i < 10; i++) p = v_fma(p, u, v_set(c[i]));
    an_vf h = t * v_exp_normal(t * t * -0.5f) * p;
    an_vu negative = (an_vu)(x < 0.0f);
    return (an_vf)(((an_vu)x & ~negative)) - h;
}

/* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid of twice the argument of tanh. */
V_INLINE an_vf v_gelu_tanh(an_vf x)
{
    an_vf x2 = x * x;
    an_vf k =
        v_fma(x2, v_set(-2 * 0.79788456080286536f * 0.044715f), v_set(-2 * 0.79788456080286536f));
    return v_gate(x, x * k);
}

/* Any activation that is not gated. */
V_INLINE an_vf v_act(an_act act, an_vf x)
{
    switch (act) {
    case AN_ACT_SILU:
        return v_silu(x);
    case AN_ACT_GELU:
        return v_gelu(x);
    case AN_ACT_GELU_TANH:
        return v_gelu_tanh(x);
    case AN_ACT_QUICK_GELU:
        return v_gate(x, x * -1.702f);
    case AN_ACT_RELU:
        return v_max(v_set(0), x);
    default:
        return x;
    }
}

#endif
