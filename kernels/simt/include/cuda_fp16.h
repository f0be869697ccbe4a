/* cuda_fp16.h: half precision as storage. Arithmetic is done in float. */
#ifndef SIMT_CUDA_FP16_H
#define SIMT_CUDA_FP16_H

#include <string.h>
#include "vector_types.h"

struct __half {
    unsigned short bits;
};
struct __attribute__((aligned(4))) __half2 {
    __half x, y;
};
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half h)
{
    const unsigned int sign = (unsigned int)(h.bits & 0x8000) << 16;
    const unsigned int exponent = h.bits >> 10 & 31, fraction = h.bits & 0x3ff;
    unsigned int u;
    float f;
    if (exponent == 0) { /* zero or denormal: fraction * 2^-24 */
        f = (float)fraction * 5.9604644775390625e-8f;
        memcpy(&u, &f, 4);
        u |= sign;
    } else if (exponent == 31) {
        u = sign | 0x7f800000 | fraction << 13;
    } else {
        u = sign | (exponent + 112) << 23 | fraction << 13;
    }
    memcpy(&f, &u, 4);
    return f;
}

/* To nearest, ties to even; too large is infinity, NaN stays NaN (0x7fff). */
static inline __half __float2half(float f)
{
    unsigned int u;
    memcpy(&u, &f, 4);
    const unsigned int sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) return __half{0x7fff};
    if (u >= 0x477ff000) return __half{(unsigned short)(sign | 0x7c00)};
    if (u >= 0x38800000) /* normal: the carry of rounding may run into the exponent, rightly */
        return __half{
            (unsigned short)(sign |
                             ((u + 0xfff + (u >> 13 & 1) - ((unsigned int)112 << 23)) >> 13))};
    float magnitude; /* denormal: adding 0.5 lets the FPU round at 2^-24 */
    memcpy(&magnitude, &u, 4);
    magnitude += 0.5f;
    memcpy(&u, &magnitude, 4);
    return __half{(unsigned short)(sign | (u - 0x3f000000))};
}

static inline __half __float2half_rn(float f)
{
    return __float2half(f);
}

static inline __half2 __floats2half2_rn(float x, float y)
{
    return __half2{__float2half(x), __float2half(y)};
}

static inline float2 __half22float2(__half2 v)
{
    return make_float2(__half2float(v.x), __half2float(v.y));
}

static inline unsigned short __half_as_ushort(__half v)
{
    return v.bits;
}
static inline __half __ushort_as_half(unsigned short u)
{
    return __half{u};
}

#endif
