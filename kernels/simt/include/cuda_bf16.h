/* cuda_bf16.h: bfloat16 as storage. Arithmetic is done in float: the kernels accumulate there. */
#ifndef SIMT_CUDA_BF16_H
#define SIMT_CUDA_BF16_H

#include <string.h>
#include "vector_types.h"

struct __nv_bfloat16 {
    unsigned short bits;
};
struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 v)
{
    const unsigned int u = (unsigned int)v.bits << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* To nearest, ties to even; NaN stays NaN (0x7fff, as the hardware answers). */
static inline __nv_bfloat16 __float2bfloat16(float f)
{
    unsigned int u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return __nv_bfloat16{0x7fff};
    return __nv_bfloat16{(unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return __float2bfloat16(f);
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return __nv_bfloat162{__float2bfloat16(x), __float2bfloat16(y)};
}

static inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b)
{
    return __nv_bfloat162{__float2bfloat16(__bfloat162float(a.x) * __bfloat162float(b.x)),
                          __float2bfloat16(__bfloat162float(a.y) * __bfloat162float(b.y))};
}

static inline float2 __bfloat1622float2(__nv_bfloat162 v)
{
    return make_float2(__bfloat162float(v.x), __bfloat162float(v.y));
}

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v)
{
    return v.bits;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u)
{
    return __nv_bfloat16{u};
}

#endif
