/* tensor.c: dtypes, shapes and 16-bit floats. */
#include "anneal/tensor.h"

#include <stdio.h>

static const struct {
    const char *name;
    size_t size; /* of an element, or of a block */
    int block; /* elements of a block, 1 for plain dtypes */
} dtypes[AN_DTYPE_COUNT] = {[AN_F32] = {"F32", 4, 1},
                            [AN_BF16] = {"BF16", 2, 1},
                            [AN_F16] = {"F16", 2, 1},
                            [AN_F64] = {"F64", 8, 1},
                            [AN_I8] = {"I8", 1, 1},
                            [AN_U8] = {"U8", 1, 1},
                            [AN_I16] = {"I16", 2, 1},
                            [AN_I32] = {"I32", 4, 1},
                            [AN_I64] = {"I64", 8, 1},
                            [AN_BOOL] = {"BOOL", 1, 1},
                            [AN_F8_E4M3] = {"F8_E4M3", 1, 1},
                            [AN_F8_E5M2] = {"F8_E5M2", 1, 1},
                            [AN_Q4_0] = {"Q4_0", 18, 32},
                            [AN_Q4_1] = {"Q4_1", 20, 32},
                            [AN_Q5_0] = {"Q5_0", 22, 32},
                            [AN_Q5_1] = {"Q5_1", 24, 32},
                            [AN_Q8_0] = {"Q8_0", 34, 32},
                            [AN_Q2_K] = {"Q2_K", 84, 256},
                            [AN_Q3_K] = {"Q3_K", 110, 256},
                            [AN_Q4_K] = {"Q4_K", 144, 256},
                            [AN_Q5_K] = {"Q5_K", 176, 256},
                            [AN_Q6_K] = {"Q6_K", 210, 256},
                            [AN_IQ4_NL] = {"IQ4_NL", 18, 32},
                            [AN_IQ4_XS] = {"IQ4_XS", 136, 256}};

size_t an_dtype_size(an_dtype d)
{
    return (unsigned)d < AN_DTYPE_COUNT && dtypes[d].block == 1 ? dtypes[d].size : 0;
}

int an_dtype_block(an_dtype d)
{
    return (unsigned)d < AN_DTYPE_COUNT ? dtypes[d].block : 1;
}

size_t an_dtype_block_bytes(an_dtype d)
{
    return (unsigned)d < AN_DTYPE_COUNT ? dtypes[d].size : 0;
}

const char *an_dtype_name(an_dtype d)
{
    return (unsigned)d < AN_DTYPE_COUNT ? dtypes[d].name : "?";
}

bool an_dtype_parse(const char *name, an_dtype *out)
{
    for (int i = 0; i < AN_DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            *out = (an_dtype)i;
            return true;
        }
    }
    return false;
}

int64_t an_tensor_count(const an_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->dim[i];
    return n;
}

size_t an_tensor_bytes(const an_tensor *t)
{
    return (size_t)an_tensor_count(t) / (size_t)an_dtype_block(t->dtype) *
           an_dtype_block_bytes(t->dtype);
}

bool an_tensor_same_shape(const an_tensor *a, const an_tensor *b)
{
    if (a->ndim != b->ndim) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

char *an_shape_str(int ndim, const int64_t *dim, char *buf, size_t size)
{
    size_t n = 0;
    if (size) buf[0] = '\0';
    for (int i = 0; i < ndim && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%lld", i ? "," : "[", (long long)dim[i]);
    if (n < size) snprintf(buf + n, size - n, ndim ? "]" : "[]");
    return buf;
}

float an_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 1023u, u;
    if (exp == 31) {
        u = sign | 0x7f800000u | man << 13;
    } else if (exp) {
        u = sign | (exp + 112) << 23 | man << 13;
    } else if (man) { /* subnormal: value = man * 2^-24, exact in f32 */
        float f = (float)man * 5.9604644775390625e-8f;
        memcpy(&u, &f, 4);
        u |= sign;
    } else {
        u = sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t an_f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to infinity */
    if (u < 0x38800000u) {                                   /* subnormal: add the magic 0.5 */
        float magic = 0.5f, x;
        memcpy(&x, &u, 4);
        x += magic;
        memcpy(&u, &x, 4);
        return (uint16_t)(sign | (u - 0x3f000000u));
    }
    u += 0xfffu + ((u >> 13) & 1u);
    return (uint16_t)(sign | ((u - 0x38000000u) >> 13));
}
