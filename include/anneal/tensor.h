/* tensor.h: a typed view of memory. It owns nothing: the arena, the weights file or the device
 * buffer behind it does. Always contiguous, row-major; pictures are NHWC, so that [n, h, w, c] is
 * also [n, tokens, c] and attention needs no permutation. */
#ifndef ANNEAL_TENSOR_H
#define ANNEAL_TENSOR_H

#include "anneal/base.h"

#define AN_MAX_DIMS 5

typedef enum an_dtype {
    AN_F32 = 0,
    AN_BF16,
    AN_F16,
    AN_F64,
    AN_I8,
    AN_U8,
    AN_I16,
    AN_I32,
    AN_I64,
    AN_BOOL,
    AN_F8_E4M3,
    AN_F8_E5M2,
    /* GGUF's block formats: an_dtype_block elements share scales; rows are whole blocks */
    AN_Q4_0,
    AN_Q4_1,
    AN_Q5_0,
    AN_Q5_1,
    AN_Q8_0,
    AN_Q2_K,
    AN_Q3_K,
    AN_Q4_K,
    AN_Q5_K,
    AN_Q6_K,
    AN_IQ4_NL,
    AN_IQ4_XS,
    AN_DTYPE_COUNT
} an_dtype;

typedef struct an_tensor {
    void *data;
    an_dtype dtype;
    int ndim;
    int64_t dim[AN_MAX_DIMS];
} an_tensor;

size_t an_dtype_size(an_dtype d); /* bytes of one element; 0 for the block formats */
int an_dtype_block(an_dtype d);          /* elements of a block: 32 or 256; 1 for plain dtypes */
size_t an_dtype_block_bytes(an_dtype d); /* bytes of a block; of an element for plain dtypes */
static inline bool an_dtype_is_quant(an_dtype d)
{
    return d >= AN_Q4_0 && d < AN_DTYPE_COUNT;
}
const char *an_dtype_name(an_dtype d); /* "F32", "BF16", ... as safetensors writes them */
bool an_dtype_parse(const char *name, an_dtype *out);

int64_t an_tensor_count(const an_tensor *t); /* number of elements */
size_t an_tensor_bytes(const an_tensor *t);
bool an_tensor_same_shape(const an_tensor *a, const an_tensor *b);
/* Values of `count` elements (whole blocks) of a block format, in f32, as ggml's dequantize_row_*
 * computes them. This is the reference of every quantised kernel. False if d is not one. */
bool an_dequantize(an_dtype d, const void *blocks, int64_t count, float *out);
/* "[2,64,64,320]" into buf; returns buf. */
char *an_shape_str(int ndim, const int64_t *dim, char *buf, size_t size);

/* A view over data; dims past ndim are 1. */
static inline an_tensor an_tensor_1d(void *p, an_dtype d, int64_t a)
{
    return (an_tensor){p, d, 1, {a, 1, 1, 1, 1}};
}
static inline an_tensor an_tensor_2d(void *p, an_dtype d, int64_t a, int64_t b)
{
    return (an_tensor){p, d, 2, {a, b, 1, 1, 1}};
}
static inline an_tensor an_tensor_3d(void *p, an_dtype d, int64_t a, int64_t b, int64_t c)
{
    return (an_tensor){p, d, 3, {a, b, c, 1, 1}};
}
static inline an_tensor an_tensor_4d(void *p, an_dtype d, int64_t a, int64_t b, int64_t c,
                                     int64_t e)
{
    return (an_tensor){p, d, 4, {a, b, c, e, 1}};
}

#endif
