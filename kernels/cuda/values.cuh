/* values.cuh: elements of activations, f32 or bf16, one at a time or eight. Elements past the end
 * of what is asked for are neither read nor written, and read as zeros. */
#ifndef ANNEAL_VALUES_CUH
#define ANNEAL_VALUES_CUH

#include "gpu.cuh"

PRIM float value_of(float v)
{
    return v;
}
PRIM float value_of(bf16 v)
{
    return __bfloat162float(v);
}
PRIM void put(float *p, float v)
{
    *p = v;
}
PRIM void put(bf16 *p, float v)
{
    *p = __float2bfloat16_rn(v);
}

/* Whether eights of elements of x lie on 16 bytes: the launch's matter, the values are the same. */
static inline bool aligned16(const void *x)
{
    return ((uintptr_t)x & 15) == 0;
}

PRIM void load_whole(float (&v)[8], const float *p)
{
    const float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
PRIM void load_whole(float (&v)[8], const bf16 *p)
{
    const uint4 a = *(const uint4 *)p;
    const uint32_t w[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(w[i] << 16);
        v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}
PRIM void store_whole(float *p, const float (&v)[8])
{
    ((float4 *)p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
PRIM void store_whole(bf16 *p, const float (&v)[8])
{
    *(uint4 *)p = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                             pack_bf16(v[6], v[7]));
}

/* `count` elements, eight at most; whole: eight on 16 bytes. */
template <class T> PRIM void load8(float (&v)[8], const T *p, int64_t count, bool whole)
{
    if (whole && count >= 8) {
        load_whole(v, p);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = i < count ? value_of(p[i]) : 0.0f;
}
template <class T> PRIM void store8(T *p, const float (&v)[8], int64_t count, bool whole)
{
    if (whole && count >= 8) {
        store_whole(p, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < count) put(p + i, v[i]);
}

#endif
