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

/* What kernels of a lane have to tell the host: read at an_lane_sync. */
#define GPU_NAN_SLOTS 64
#define GPU_NO_ID     UINT64_MAX
typedef struct gpu_flags {
    uint64_t bad_id;             /* first token id out of range: place << 32 | id; or GPU_NO_ID */
    uint64_t nan[GPU_NAN_SLOTS]; /* NaN met by image_out, a slot a call */
} gpu_flags;

/* ---------------------------------------------------------------- small ops
 * elementwise.cu, small.cu, image.cu, norm.cu, step.cu; host side: small.c, norm.c, diffusion.c.
 * Types are GPU_F32 or GPU_BF16 where nothing else is said; counts are in elements. */

/* One value to one: the activations above (not the gated ones), and these. y may be x. */
enum { GPU_MAP_SCALE = 16, GPU_MAP_SOFTCAP };
int GPU(map)(int op, float factor, const void *x, int tx, void *y, int ty, int64_t n, gpu_stream s);
int GPU(add)(const void *a, const void *b, void *y, int type, int64_t n, gpu_stream s);

#ifdef __cplusplus
}
#endif
#endif
