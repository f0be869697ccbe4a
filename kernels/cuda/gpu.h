/* gpu.h: the border between C and the GPU's kernels: one launcher a kernel family, plain C.
 *
 * Everything in kernels/cuda is compiled twice: by nvcc for the device "cuda" (if the build has it),
 * and by the C++ compiler against kernels/simt for the device "simt", where CUDA threads are fibers
 * on the CPU. GPU(x) keeps the two apart: an_cuda_x and an_simt_x.
 *
 * A launcher takes device pointers and plain numbers, puts kernels on the stream and returns at once
 * with a cudaError_t (0 = launched). It reads no host memory after it returned, allocates nothing and
 * never waits. Its tiles, splits and orders of summation follow from the layer (n, k, head_dim, c),
 * never from the number of rows. */
#ifndef ANNEAL_GPU_H
#define ANNEAL_GPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef AN_GPU_PREFIX
#error "kernels/cuda is compiled with AN_GPU_PREFIX=an_cuda_ or an_simt_"
#endif
#define GPU_JOIN2(a, b) a##b
#define GPU_JOIN(a, b) GPU_JOIN2(a, b)
#define GPU(name) GPU_JOIN(AN_GPU_PREFIX, name)

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gpu_stream; /* cudaStream_t */

/* Element types of activations, numbered as an_dtype. */
enum { GPU_F32 = 0, GPU_BF16 = 1 };

#ifdef __cplusplus
}
#endif
#endif
