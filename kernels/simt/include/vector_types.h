/* vector_types.h: the short vectors of CUDA, as far as kernels/cuda uses them. C and C++. */
#ifndef SIMT_VECTOR_TYPES_H
#define SIMT_VECTOR_TYPES_H

#define SIMT_VECTOR2(type, name)                                                                   \
    typedef struct __attribute__((aligned(2 * sizeof(type)))) name {                               \
        type x, y;                                                                                 \
    } name;                                                                                        \
    static inline name make_##name(type x, type y)                                                 \
    {                                                                                              \
        name v = {x, y};                                                                           \
        return v;                                                                                  \
    }
#define SIMT_VECTOR4(type, name)                                                                   \
    typedef struct __attribute__((aligned(4 * sizeof(type)))) name {                               \
        type x, y, z, w;                                                                           \
    } name;                                                                                        \
    static inline name make_##name(type x, type y, type z, type w)                                 \
    {                                                                                              \
        name v = {x, y, z, w};                                                                     \
        return v;                                                                                  \
    }

SIMT_VECTOR2(signed char, char2)
SIMT_VECTOR2(unsigned char, uchar2)
SIMT_VECTOR2(short, short2)
SIMT_VECTOR2(unsigned short, ushort2)
SIMT_VECTOR2(int, int2)
SIMT_VECTOR2(unsigned int, uint2)
SIMT_VECTOR2(float, float2)
SIMT_VECTOR4(signed char, char4)
SIMT_VECTOR4(unsigned char, uchar4)
SIMT_VECTOR4(short, short4)
SIMT_VECTOR4(unsigned short, ushort4)
SIMT_VECTOR4(int, int4)
SIMT_VECTOR4(unsigned int, uint4)
SIMT_VECTOR4(float, float4)
#undef SIMT_VECTOR2
#undef SIMT_VECTOR4

typedef struct uint3 {
    unsigned int x, y, z;
} uint3;

typedef struct dim3 {
    unsigned int x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned int vx = 1, unsigned int vy = 1, unsigned int vz = 1)
        : x(vx), y(vy), z(vz)
    {
    }
#endif
} dim3;

#endif
