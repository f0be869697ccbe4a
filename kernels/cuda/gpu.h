/* gpu.h: the border between C and the GPU's kernels: one launcher a kernel family, plain C.
 *
 * Everything in kernels/cuda is compiled twice: by nvcc for the device "cuda" (if the build has
 * it), and by the C++ compiler against kernels/simt for the device "simt", where CUDA threads are
 * fibers on the CPU. GPU(x) keeps the two apart: an_cuda_x and an_simt_x.
 *
 * A launcher takes device pointers and plain numbers, puts kernels on the stream and returns at
 * once with a cudaError_t (0 = launched). It reads no host memory after it returned, allocates
 * nothing and never waits. Its tiles, splits and orders of summation follow from the layer (n, k,
 * head_dim, c), never from the number of rows. */
#ifndef ANNEAL_GPU_H
#define ANNEAL_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef AN_GPU_PREFIX
#error "kernels/cuda is compiled with AN_GPU_PREFIX=an_cuda_ or an_simt_"
#endif
#define GPU_JOIN2(a, b) a##b
#define GPU_JOIN(a, b)  GPU_JOIN2(a, b)
#define GPU(name)       GPU_JOIN(AN_GPU_PREFIX, name)

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gpu_stream; /* cudaStream_t */

/* Element types of activations, numbered as an_dtype. */
enum { GPU_F32 = 0, GPU_BF16 = 1 };

/* Activations, numbered as an_act. */
enum {
    GPU_ACT_NONE = 0,
    GPU_ACT_SILU,
    GPU_ACT_GELU,
    GPU_ACT_GELU_TANH,
    GPU_ACT_QUICK_GELU,
    GPU_ACT_RELU,
    GPU_ACT_GEGLU,
    GPU_ACT_GEGLU_TANH,
    GPU_ACT_SWIGLU
};

/* What kernels of a lane have to tell the host: read at an_lane_sync, all zero before. */
#define GPU_NAN_SLOTS 64
typedef struct gpu_flags {
    unsigned long long bad_id; /* ~(place << 32 | id) of the first token id out of range */
    unsigned long long nan[GPU_NAN_SLOTS]; /* NaN met by image_out, a slot a call */
} gpu_flags;

/* ---------------------------------------------------------------- small ops
 * elementwise.cu, small.cu, image.cu, norm.cu, step.cu; host side: small.c, norm.c, diffusion.c.
 * Types are GPU_F32 or GPU_BF16 where nothing else is said; counts are in elements. */

/* One value to one: the activations above (not the gated ones), and these. y may be x. */
enum { GPU_MAP_SCALE = 16, GPU_MAP_SOFTCAP };
int GPU(map)(int op, float factor, const void *x, int tx, void *y, int ty, int64_t n, gpu_stream s);
int GPU(add)(const void *a, const void *b, void *y, int type, int64_t n, gpu_stream s);

/* ---------------------------------------------------------------- gemm.cu, conv.cu: products */

/* A packed weight, [n][pitch] elements of dtype, pitch a multiple of 128 bytes. A row of a matrix
 * has its k values, then zeros; a row of a convolution has (ky, kx, channel), channels padded with
 * zeros to 16 bytes. */
typedef struct gpu_matrix {
    const void *w;
    int dtype; /* GPU_F32: plain FMA; GPU_BF16: tensor cores */
    int n;
    int pitch; /* elements */
} gpu_matrix;

/* What becomes of the sums, y[m, j] = act(sum + bias[j] + row_bias[m / row_pixels, j]) +
 * residual[m, j]. For the gated activations y has n/2 columns, j and n/2 + j of the weight. */
typedef struct gpu_out {
    const float *bias;    /* [n], zeros for none */
    const void *row_bias; /* [., n] or NULL */
    int row_bias_dtype, row_pixels;
    const void *residual; /* as y, or NULL; may be y */
    void *y;
    int y_dtype;
    int ld;  /* elements between rows of y and of residual */
    int act; /* an_act */
} gpu_out;

/* Which tile a launcher takes; 0: it chooses. A tile changes no bit, only the speed: tests force
 * each. F32 has the two in the middle. */
enum { GPU_TILE_AUTO, GPU_TILE_16x32, GPU_TILE_64x32, GPU_TILE_64x64, GPU_TILE_128x128 };

/* Rows of x times a matrix. With `range` (device, two ints) only rows range[0] .. range[1] - 1 are
 * there; `rows` is then the most there can be. With `index` (device) row m of the product is row
 * index[m] of x, else row m. */
typedef struct gpu_gemm {
    gpu_matrix w;
    const void *x; /* [., k] */
    int x_dtype;   /* another than the weight's is converted on the way, slowly */
    int rows, k;
    const int32_t *range, *index;
    gpu_out out;
    int tile;
} gpu_gemm;
int GPU(gemm)(const gpu_gemm *a, gpu_stream stream);

/* NHWC pictures x [pictures, h, w, c], resized to up_h x up_w first (nearest; h and w if not), with
 * a kh x kw filter. Output pixels are the rows of the product. */
typedef struct gpu_conv {
    gpu_matrix w;
    const void *x;
    int x_dtype;
    int pictures, h, width, c, up_h, up_w, oh, ow;
    int kh, kw, stride, pad_top, pad_left;
    gpu_out out;
    int tile;
} gpu_conv;
int GPU(conv)(const gpu_conv *a, gpu_stream stream);

#ifdef __cplusplus
}
#endif
#endif
