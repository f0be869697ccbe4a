/* gpu.cuh: the one include of every .cu. NVIDIA's toolkit under nvcc, kernels/simt elsewhere; then
 * the machine's instructions that CUDA has no function for, each a wrapper, and all inline PTX.
 *
 *   KLAUNCH(kernel, grid, block, shared_bytes, stream)(arguments...)
 *   DYN_SHARED(name);            unsigned char name[], 1024-byte aligned, the launch's shared_bytes
 *   PRIM                         a device function of a line or two
 *
 * The tiles (ldmatrix_x4_n, mma_bf16_tile, ...) are the same instructions in a loop under nvcc. The
 * emulator does them in one go: 32 changes of stack instead of 32 an instruction, so prefer them.
 */
#ifndef ANNEAL_GPU_CUH
#define ANNEAL_GPU_CUH

#include <pthread.h>
#include <stdint.h>
#include <string.h>
#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#define DYN_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#define KLAUNCH(kernel, grid, block, bytes, stream)                                                \
    GPU(launched)++, kernel<<<grid, block, bytes, stream>>>
#define PRIM static __device__ __forceinline__
#else
#ifndef SIMT_LAUNCHED
#define SIMT_LAUNCHED GPU(launched)++,
#endif
#include <cuda_runtime.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include "../simt/hopper.h"
#include "../simt/matrix.h"
#define PRIM static inline
#endif
#include "gpu.h"

typedef __nv_bfloat16 bf16;
typedef __nv_bfloat162 bf162;

#define WHOLE_WARP 0xffffffffu /* the lanes of a shuffle or vote */

/* What a kernel was allowed of dynamic shared memory so far, by device: a static variable of
 * whoever launches it, one a kernel. */
struct shared_limit {
    int most[32];
};

/* Lets a kernel have `bytes` of dynamic shared memory on this thread's device, if more than before:
 * the driver is asked once, and a limit is never lowered, whichever threads launch. The kernel has
 * no static shared memory: the 48 KB that need no asking are for both kinds together, and the
 * emulator does not see the static kind (tests/simt/check_shared.py looks). */
template <class Kernel>
static cudaError_t shared_allow(shared_limit &limit, Kernel *kernel, int bytes)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int device = 0;
    if (bytes <= 48 * 1024) return cudaSuccess; /* which every kernel has */
    cudaError_t e = cudaGetDevice(&device);
    if (e != cudaSuccess) return e;
    const bool known = device >= 0 && device < 32;
    if (known && __atomic_load_n(&limit.most[device], __ATOMIC_ACQUIRE) >= bytes)
        return cudaSuccess;
    pthread_mutex_lock(&lock);
    if (!known || limit.most[device] < bytes) {
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
        if (known && e == cudaSuccess)
            __atomic_store_n(&limit.most[device], bytes, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
    return e;
}

#ifdef __CUDACC__

/* The address within shared memory, as instructions take it. */
PRIM uint32_t smem_u32(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Four 8x8 matrices of 16-bit elements from shared memory. Lane i's `row` is the address of row
 * i % 8 of matrix i / 8, 16-byte aligned; lane i gets elements [i / 4][i % 4 * 2 ...] of each. */
PRIM void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_u32(row))
                 : "memory");
}

/* The same, each matrix transposed. */
PRIM void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_u32(row))
                 : "memory");
}

PRIM void ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(smem_u32(row))
                 : "memory");
}

PRIM void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(smem_u32(row))
                 : "memory");
}

template <int N> PRIM void ldmatrix_x4_n(uint32_t (&r)[N][4], const void *const (&row)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) ldmatrix_x4(r[i], row[i]);
}

template <int N> PRIM void ldmatrix_x4_trans_n(uint32_t (&r)[N][4], const void *const (&row)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) ldmatrix_x4_trans(r[i], row[i]);
}

/* d [16,8] += a [16,16] * b [16,8], f32 += bf16 * bf16. b is given column by column, as ldmatrix
 * reads rows of [n,k]. With g = lane / 4 and t = lane % 4: d[0..1] lie at row g, columns 2t..,
 * d[2..3] at row g + 8. */
PRIM void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

PRIM void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* d [16,8] += a [16,32] * b [32,8], s32 += s8 * s8, exact. A register holds four values of k:
 * a[0] row g, k 4t..; a[1] row g + 8; a[2], a[3] the same at k + 16; b0 column g, k 4t..; b1 at
 * k + 16. ldmatrix loads it as if it were half as many 16-bit elements. */
PRIM void mma_s8_16832(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int M, int N>
PRIM void mma_bf16_tile(float (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2])
{
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < N; j++) mma_bf16_16816(d[i][j], a[i], b[j][0], b[j][1]);
}

template <int M, int N>
PRIM void mma_s8_tile(int (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2])
{
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < N; j++) mma_s8_16832(d[i][j], a[i], b[j][0], b[j][1]);
}

/* 16 bytes from global to shared memory, zeros if not valid (src is not read then, but must be an
 * address all the same); both 16-byte aligned. There once cp_async_wait said so, for this thread;
 * for others after a barrier. */
PRIM void cp_async16(void *dst, const void *src, bool valid = true)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_u32(dst)), "l"(src),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

PRIM void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most the N newest groups of this thread are not there yet. */
template <int N> PRIM void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* An ordinary store of 16 bytes of a tile: the emulator wants to know of those that wgmma reads
 * (hopper.cuh). */
PRIM void store_piece(void *to, uint4 v)
{
    *(uint4 *)to = v;
}

/* A barrier of some of a block's warps: `threads` of them, a multiple of 32; id 1..15. */
PRIM void named_barrier(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

PRIM float fast_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Of `blocks` blocks of a launch, each of which calls this once in one thread, behind a barrier:
 * true in the last that comes. Its threads, behind another barrier, see what all blocks wrote
 * before. The counter is zero again then. */
PRIM bool arrive_last(unsigned *count, unsigned blocks)
{
    __threadfence();
    const bool last = atomicInc(count, blocks - 1) == blocks - 1;
    __threadfence();
    return last;
}

#else

PRIM void ldmatrix_x4(uint32_t (&r)[4], const void *row, SIMT_WHERE)
{
    simt::ldmatrix_x4(r, &row, 1, false, SIMT_AT);
}
PRIM void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, SIMT_WHERE)
{
    simt::ldmatrix_x4(r, &row, 1, true, SIMT_AT);
}
PRIM void ldmatrix_x2(uint32_t (&r)[2], const void *row, SIMT_WHERE)
{
    simt::ldmatrix_x2(r, row, false, SIMT_AT);
}
PRIM void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row, SIMT_WHERE)
{
    simt::ldmatrix_x2(r, row, true, SIMT_AT);
}
template <int N>
PRIM void ldmatrix_x4_n(uint32_t (&r)[N][4], const void *const (&row)[N], SIMT_WHERE)
{
    simt::ldmatrix_x4(&r[0][0], row, N, false, SIMT_AT);
}
template <int N>
PRIM void ldmatrix_x4_trans_n(uint32_t (&r)[N][4], const void *const (&row)[N], SIMT_WHERE)
{
    simt::ldmatrix_x4(&r[0][0], row, N, true, SIMT_AT);
}
PRIM void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         SIMT_WHERE)
{
    const uint32_t b[2] = {b0, b1};
    simt::mma_bf16(d, a, b, 1, 1, SIMT_AT);
}
PRIM void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_WHERE)
{
    const uint32_t b[2] = {b0, b1};
    simt::mma_f16(d, a, b, 1, 1, SIMT_AT);
}
PRIM void mma_s8_16832(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_WHERE)
{
    const uint32_t b[2] = {b0, b1};
    simt::mma_s8(d, a, b, 1, 1, SIMT_AT);
}
template <int M, int N>
PRIM void mma_bf16_tile(float (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2],
                        SIMT_WHERE)
{
    simt::mma_bf16(&d[0][0][0], &a[0][0], &b[0][0], M, N, SIMT_AT);
}
template <int M, int N>
PRIM void mma_s8_tile(int (&d)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2],
                      SIMT_WHERE)
{
    simt::mma_s8(&d[0][0][0], &a[0][0], &b[0][0], M, N, SIMT_AT);
}
PRIM void cp_async16(void *dst, const void *src, bool valid = true, SIMT_WHERE)
{
    simt::cp_async(dst, src, 16, valid ? 16 : 0, SIMT_AT);
}
PRIM void cp_async_commit()
{
    simt::cp_async_commit();
}
template <int N> PRIM void cp_async_wait()
{
    simt::cp_async_wait(N);
}
PRIM void store_piece(void *to, uint4 v)
{
    *(uint4 *)to = v;
    simt::shared_wrote(to, sizeof v);
}
PRIM void named_barrier(int id, int threads, SIMT_WHERE)
{
    simt::barrier(id, (uint32_t)threads, SIMT_AT);
}
PRIM float fast_exp2(float x)
{
    return exp2f(x);
}
PRIM bool arrive_last(unsigned *count, unsigned blocks)
{
    unsigned old = __atomic_load_n(count, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(count, &old, old + 1 == blocks ? 0 : old + 1, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    }
    return old + 1 == blocks;
}

#endif

/* c + the dot product of four signed bytes each. */
PRIM int dp4a(int a, int b, int c)
{
    return __dp4a(a, b, c);
}

/* Four numbers of e4m3 as bf16, exactly: bytes 1 and 3 of `codes` in r[0], 0 and 2 in r[1], the
 * lower byte low. The codes of NaN come out as 480 and -480.
 * A code's exponent and fraction moved to bf16's places are 2^-120 of its worth, numbers without
 * the leading one included. (sm_89 has cvt.rn.f16x2.e4m3x2, but from f16 to bf16 the way is longer
 * than this.) */
PRIM void e4m3_bf16(uint32_t (&r)[2], uint32_t codes)
{
    const uint32_t even = codes << 8;
    const uint32_t small[2] = {(codes & 0x80008000u) | (codes >> 4 & 0x07f007f0u),
                               (even & 0x80008000u) | (even >> 4 & 0x07f007f0u)};
    const uint32_t factor = 0x7b807b80u; /* 2^120 */
    bf162 f;
    memcpy(&f, &factor, 4);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        bf162 v;
        memcpy(&v, &small[i], 4);
        v = __hmul2(v, f);
        memcpy(&r[i], &v, 4);
    }
}

PRIM uint32_t pack_bf16(float low, float high)
{
    const bf162 v = __floats2bfloat162_rn(low, high);
    uint32_t u;
    memcpy(&u, &v, 4);
    return u;
}

#endif
