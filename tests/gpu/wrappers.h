/* wrappers.h: the border between wrappers.c, plain C, and wrappers.cu, which is compiled for the
 * emulator and, where nvcc is, for the GPU: the instructions behind kernels/cuda/gpu.cuh and the
 * functions of CUDA that kernels use, one small kernel each. All data are 32-bit words, each
 * thread's side by side: in[thread * words in + i]. */
#ifndef ANNEAL_TESTS_WRAPPERS_H
#define ANNEAL_TESTS_WRAPPERS_H

#include <stddef.h>
#include <stdint.h>

/* X(name, threads, words in, words out), the words of one thread */
#define WRAPPERS(X)                                                                                \
    X(ldmatrix_x4, 32, 6, 4)                                                                       \
    X(ldmatrix_x4_trans, 32, 6, 4)                                                                 \
    X(ldmatrix_x2, 32, 6, 2)                                                                       \
    X(ldmatrix_x2_trans, 32, 6, 2)                                                                 \
    X(ldmatrix_x4_n, 32, 6, 8)                                                                     \
    X(ldmatrix_x4_trans_n, 32, 6, 8)                                                               \
    X(mma_bf16, 32, 10, 4)                                                                         \
    X(mma_f16, 32, 10, 4)                                                                          \
    X(mma_s8, 32, 10, 4)                                                                           \
    X(mma_bf16_tile, 32, 38, 24)                                                                   \
    X(mma_s8_tile, 32, 38, 24)                                                                     \
    X(cp_async, 64, 13, 12)                                                                        \
    X(named_barrier, 96, 1, 1)                                                                     \
    X(dp4a, 32, 3, 1)                                                                              \
    X(pack_bf16, 64, 8, 4)                                                                         \
    X(unpack_bf16, 64, 1, 2)                                                                       \
    X(e4m3_bf16, 64, 1, 2)                                                                         \
    X(to_half, 64, 4, 4)                                                                           \
    X(from_half, 64, 1, 2)                                                                         \
    X(fast_exp2, 64, 4, 4)                                                                         \
    X(shuffles, 32, 2, 10)                                                                         \
    X(votes, 32, 1, 8)                                                                             \
    X(integers, 64, 3, 7)                                                                          \
    X(floats, 64, 3, 10)                                                                           \
    X(approximate, 64, 1, 6)                                                                       \
    X(atomics, 64, 2, 5)

/* Those of kernels/cuda/hopper.cuh, for compute capability 9.0 alone: wrappers_hopper.cu. */
#define HOPPER_WRAPPERS(X)                                                                         \
    X(mbarrier, 128, 5, 5)                                                                         \
    X(tma_tile, 128, 30, 32)                                                                       \
    X(wgmma_64, 128, 64, 32)                                                                       \
    X(wgmma_128, 128, 112, 64)                                                                     \
    X(proxy_fence, 128, 32, 32)

#define X(name, threads, in, out) WRAP_##name,
enum { WRAPPERS(X) HOPPER_WRAPPERS(X) N_WRAPPERS };
#undef X

#ifdef __cplusplus
extern "C" {
#endif

/* Runs one of WRAPPERS: host arrays, done at return. 0, or 1 and what failed, in words. */
typedef int wrapper_fn(int which, const uint32_t *in, uint32_t *out, char *error, size_t size);
wrapper_fn an_simt_wrapper, an_cuda_wrapper;
/* What computes, in one line: device, capability, versions of driver and runtime. The same errors.
 */
typedef int wrapper_describe_fn(char *text, size_t size);
wrapper_describe_fn an_simt_wrapper_describe, an_cuda_wrapper_describe;
/* Whether HOPPER_WRAPPERS run there: always where they are emulated. */
typedef int wrapper_has_hopper_fn(void);
wrapper_has_hopper_fn an_simt_wrapper_has_hopper, an_cuda_wrapper_has_hopper;
/* wrappers_hopper.cu: device pointers; a cudaError_t. */
int an_simt_wrapper_hopper(int which, const uint32_t *in, uint32_t *out);
int an_cuda_wrapper_hopper(int which, const uint32_t *in, uint32_t *out);

#ifdef __cplusplus
}
#endif

#endif
