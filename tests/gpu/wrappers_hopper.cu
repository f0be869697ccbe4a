/* wrappers_hopper.cu: a kernel for every wrapper of kernels/cuda/hopper.cuh. Blocks of 128 threads;
 * inputs are matrices of bf16 one after the other, then each thread's own words. */
#include "cuda/hopper.cuh"
#include "wrappers.h"

#define T ((int)threadIdx.x)

/* Dynamic shared memory: tiles of 64 and of 64 or 128 rows, then an mbarrier. */
enum { TILE = 64 * 128, BAR = 3 * TILE, SHARED = BAR + 64 };

/* Two mbarriers' phases, five rounds: warp 0 writes a slot of two, warps 1 to 3 read it. */
__global__ void k_mbarrier(const uint32_t *in, uint32_t *out)
{
    DYN_SHARED(shared);
    uint32_t *const slots = (uint32_t *)shared;
    uint64_t *const full = (uint64_t *)(shared + BAR), *const empty = full + 2;
    if (T == 0) {
        for (int i = 0; i < 2; i++) {
            mbar_init(&full[i], 32);
            mbar_init(&empty[i], 96);
        }
        mbar_fence_init();
    }
    __syncthreads();
    for (int r = 0; r < 5; r++) {
        const uint32_t s = r & 1, phase = (uint32_t)r >> 1 & 1;
        if (T < 32) {
            mbar_wait(&empty[s], phase ^ 1);
            slots[s * 32 + T] = in[T * 5 + r];
            mbar_arrive(&full[s]);
            out[T * 5 + r] = in[T * 5 + r] + 1;
        } else {
            mbar_wait(&full[s], phase);
            out[T * 5 + r] = slots[s * 32 + (T * 7 + r) % 32] ^ in[T * 5 + r];
            mbar_arrive(&empty[s]);
        }
    }
}

PRIM uint64_t *one_barrier(unsigned char *shared)
{
    uint64_t *const bar = (uint64_t *)(shared + BAR);
    if (T == 0) {
        mbar_init(bar, 1);
        mbar_fence_init();
    }
    __syncthreads();
    return bar;
}

/* Two tiles that reach over the matrix's edges, as they lie in shared memory. */
__global__ void k_tma_tile(const __grid_constant__ CUtensorMap m, uint32_t *out)
{
    DYN_SHARED(shared);
    uint64_t *const bar = one_barrier(shared);
    if (T == 0) {
        mbar_arrive_tx(bar, 2 * TILE);
        tma_load_2d(shared, &m, 70, -5, bar);
        tma_load_2d(shared + TILE, &m, -7, 20, bar);
    }
    mbar_wait(bar, 0);
    for (int i = 0; i < 32; i++) out[T * 32 + i] = ((const uint32_t *)shared)[T * 32 + i];
}

/* d += a [64, 64] b [N, 64]^T, both brought by TMA: four wgmma in two groups. */
template <int N>
__global__ void k_wgmma(const __grid_constant__ CUtensorMap a,
                        const __grid_constant__ CUtensorMap b, const uint32_t *in, uint32_t *out)
{
    DYN_SHARED(shared);
    uint64_t *const bar = one_barrier(shared);
    float d[N / 2];
    if (T == 0) {
        mbar_arrive_tx(bar, TILE + N * 128);
        tma_load_2d(shared, &a, 0, 0, bar);
        tma_load_2d(shared + TILE, &b, 0, 0, bar);
    }
#pragma unroll
    for (int i = 0; i < N / 2; i++) d[i] = __uint_as_float(in[T * (N / 2) + i]);
    mbar_wait(bar, 0);
    const uint64_t da = wgmma_tile(shared), db = wgmma_tile(shared + TILE);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        wgmma_bf16(d, da + wgmma_step(i), db + wgmma_step(i), true);
        if (i == 1) wgmma_commit();
    }
    wgmma_commit();
    wgmma_wait<1>(d);
    wgmma_wait<0>(d);
#pragma unroll
    for (int i = 0; i < N / 2; i++) out[T * (N / 2) + i] = __float_as_uint(d[i]);
}

/* The same, d beginning at nothing; tiles written by threads: a by cp.async, b by stores. */
__global__ void k_proxy_fence(const uint32_t *in, uint32_t *out)
{
    DYN_SHARED(shared);
    float d[32];
    for (int i = T; i < 512; i += 128) { /* 16 bytes each */
        const int row = i / 8, at = row * 128 + ((i % 8 ^ (row & 7)) << 4);
        cp_async16(shared + at, in + i * 4);
        store_piece(shared + TILE + at, *(const uint4 *)(in + 2048 + i * 4));
    }
    cp_async_commit();
    cp_async_wait<0>();
    proxy_fence();
    __syncthreads();
    const uint64_t da = wgmma_tile(shared), db = wgmma_tile(shared + TILE);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; i++) wgmma_bf16(d, da + wgmma_step(i), db + wgmma_step(i), i > 0);
    wgmma_commit();
    wgmma_wait<0>(d);
#pragma unroll
    for (int i = 0; i < 32; i++) out[T * 32 + i] = __float_as_uint(d[i]);
}

/* ---------------------------------------------------------------- running */

template <int N> static cudaError_t run_wgmma(const uint32_t *in, uint32_t *out)
{
    CUtensorMap a, b;
    cudaError_t e = tensor_map_of(&a, in, 64, 64, 64, 64);
    if (!e) e = tensor_map_of(&b, in + 2048, N, 64, 64, N);
    if (e) return e;
    KLAUNCH(k_wgmma<N>, 1, 128, SHARED, 0)(a, b, in + 2048 + N * 32, out);
    return cudaGetLastError();
}

static cudaError_t run_tma_tile(const uint32_t *in, uint32_t *out)
{
    CUtensorMap m;
    const cudaError_t e = tensor_map_of(&m, in, 60, 100, 128, 64);
    if (e) return e;
    KLAUNCH(k_tma_tile, 1, 128, SHARED, 0)(m, out);
    return cudaGetLastError();
}

/* Device pointers. A cudaError_t. */
extern "C" int GPU(wrapper_hopper)(int which, const uint32_t *in, uint32_t *out)
{
    switch (which) {
    case WRAP_mbarrier:
        KLAUNCH(k_mbarrier, 1, 128, SHARED, 0)(in, out);
        return (int)cudaGetLastError();
    case WRAP_tma_tile:
        return (int)run_tma_tile(in, out);
    case WRAP_wgmma_64:
        return (int)run_wgmma<64>(in, out);
    case WRAP_wgmma_128:
        return (int)run_wgmma<128>(in, out);
    case WRAP_proxy_fence:
        KLAUNCH(k_proxy_fence, 1, 128, SHARED, 0)(in, out);
        return (int)cudaGetLastError();
    }
    return (int)cudaErrorInvalidValue;
}
