/* convert.c: arrays of one floating dtype, or of a block format, as another floating dtype. */
#include "backend.h"

static float load(const void *src, an_dtype from, int64_t i)
{
    switch (from) {
    case AN_BF16:
        return an_bf16_to_f32(((const uint16_t *)src)[i]);
    case AN_F16:
        return an_f16_to_f32(((const uint16_t *)src)[i]);
    case AN_F64:
        return (float)((const double *)src)[i];
    case AN_F8_E4M3:
        return an_e4m3_to_f32(((const uint8_t *)src)[i]);
    default:
        return ((const float *)src)[i];
    }
}

/* A block at a time through f32. */
static void from_blocks(void *dst, an_dtype to, const void *src, an_dtype from, int64_t count)
{
    const char *block = src;
    float values[256];
    const int64_t n = an_dtype_block(from);
    for (int64_t i = 0; i + n <= count; i += n, block += an_dtype_block_bytes(from)) {
        an_dequantize(from, block, n, values);
        an_convert((char *)dst + (size_t)i * an_dtype_size(to), to, values, AN_F32, n);
    }
}

void an_convert(void *dst, an_dtype to, const void *src, an_dtype from, int64_t count)
{
    if (to == from) {
        memmove(dst, src, (size_t)count / (size_t)an_dtype_block(to) * an_dtype_block_bytes(to));
        return;
    }
    if (an_dtype_is_quant(from)) {
        from_blocks(dst, to, src, from, count);
        return;
    }
    /* the two that activations use, as loops a compiler can vectorise */
    if (to == AN_BF16 && from == AN_F32) {
        const float *s = src;
        uint16_t *d = dst;
        for (int64_t i = 0; i < count; i++) d[i] = an_f32_to_bf16(s[i]);
        return;
    }
    if (to == AN_F32 && from == AN_BF16) {
        const uint16_t *s = src;
        float *d = dst;
        for (int64_t i = 0; i < count; i++) d[i] = an_bf16_to_f32(s[i]);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        float v = load(src, from, i);
        if (to == AN_BF16)
            ((uint16_t *)dst)[i] = an_f32_to_bf16(v);
        else
            ((float *)dst)[i] = v;
    }
}
