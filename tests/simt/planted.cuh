/* planted.cuh: kernels with one bug each, and a few without. Blocks of 128 threads. */
#define SIMT_LAUNCHED /* nobody counts launches here */
#include "gpu.cuh"

#define EVERY 0xffffffffu

/* ---------------------------------------------------------------- right */

/* A sum over the block, through everything that is there: dynamic and static shared memory, both
 * kinds of barrier, shuffles, an atomic. */
__global__ void right_sum(const float *x, float *y, int n)
{
    __shared__ float part[32];
    DYN_SHARED(dyn);
    float *all = (float *)dyn;
    float v = 0;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) v += x[i];
    all[threadIdx.x] = v;
    __syncthreads();
    v = all[blockDim.x - 1 - threadIdx.x];
    for (int d = 16; d; d >>= 1) v += __shfl_down_sync(EVERY, v, d);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        v = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.0f;
        for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(EVERY, v, d);
        if (threadIdx.x == 0) atomicAdd(y, v);
    }
}

template <int N> __global__ void right_template(float *y)
{
    __shared__ float s[N];
    s[threadIdx.x] = (float)threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s[N - 1 - threadIdx.x];
}

/* Half of the threads leave early, and nobody waits for them. */
__global__ void right_early_exit(float *y)
{
    if (threadIdx.x >= 64) return;
    y[threadIdx.x] = (float)__reduce_add_sync(EVERY, 1);
}

__global__ void right_named_barriers(float *y)
{
    __shared__ float s[128];
    const int side = (int)threadIdx.x >> 6;
    s[threadIdx.x] = (float)threadIdx.x;
    named_barrier(1 + side, 64);
    y[threadIdx.x] = s[threadIdx.x ^ 63];
}

/* ---------------------------------------------------------------- barriers left out */

__global__ void read_before_barrier(const float *x, float *y)
{
    __shared__ float s[128];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[(threadIdx.x + 1) & 127];
}

/* The next round writes what others still read. */
__global__ void write_before_barrier(const float *x, float *y)
{
    __shared__ float s[128];
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        s[threadIdx.x] = x[threadIdx.x] * (float)i;
        __syncthreads();
        sum += s[(threadIdx.x + 37) & 127];
    }
    y[threadIdx.x] = sum;
}

__global__ void no_syncwarp(float *y)
{
    __shared__ float s[128];
    s[threadIdx.x] = (float)threadIdx.x;
    y[threadIdx.x] = s[threadIdx.x ^ 1];
}

__global__ void global_race(float *y)
{
    y[0] = y[0] + 1;
}

/* ---------------------------------------------------------------- memory */

__global__ void past_dynamic(float *y)
{
    DYN_SHARED(dyn);
    float *s = (float *)dyn;
    s[threadIdx.x + 1] = (float)threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}

__global__ void past_static(float *y)
{
    __shared__ float s[128];
    s[threadIdx.x + 1] = (float)threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}

__global__ void past_global(float *y)
{
    y[threadIdx.x + 1] = 1.0f;
}

__global__ void uninitialised(float *y)
{
    __shared__ float s[128];
    if (threadIdx.x & 1) s[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}

__global__ void uninitialised_branch(float *y)
{
    __shared__ int s[128];
    if (threadIdx.x != 77) s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x] > 0 ? 1.0f : 2.0f;
}

__global__ void misaligned(const float *x, float *y)
{
    DYN_SHARED(dyn);
    cp_async16(dyn + threadIdx.x * 20, x + threadIdx.x * 4);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[threadIdx.x] = ((float *)dyn)[threadIdx.x];
}

__global__ void copy_not_waited_for(const float *x, float *y)
{
    DYN_SHARED(dyn);
    cp_async16(dyn + threadIdx.x * 16, x + threadIdx.x * 4);
    cp_async_commit();
    __syncthreads();
    y[threadIdx.x] = ((float *)dyn)[threadIdx.x];
    cp_async_wait<0>();
}

__global__ void copy_left_behind(const float *x, float *)
{
    DYN_SHARED(dyn);
    cp_async16(dyn + threadIdx.x * 16, x + threadIdx.x * 4);
    cp_async_commit();
}

/* ---------------------------------------------------------------- divergence */

__global__ void divergent(float *y)
{
    __shared__ float s[128];
    if (threadIdx.x < 64) {
        s[threadIdx.x] = 1;
        __syncthreads();
    } else {
        s[threadIdx.x] = 2;
        __syncthreads();
    }
    y[threadIdx.x] = s[127 - threadIdx.x];
}

__global__ void exit_before_barrier(float *y, int n)
{
    __shared__ float s[128];
    if ((int)threadIdx.x >= n) return;
    s[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = s[0];
}

__global__ void lanes_apart(float *y)
{
    float v = (float)threadIdx.x;
    if ((threadIdx.x & 31) < 16) v = __shfl_xor_sync(EVERY, v, 1);
    __syncwarp();
    y[threadIdx.x] = v;
}

__global__ void lane_not_there(float *y)
{
    float v = (float)threadIdx.x;
    if ((threadIdx.x & 31) < 16) v = __shfl_xor_sync(0x0000ffffu, v, 16);
    y[threadIdx.x] = v;
}

__global__ void deadlock(float *y)
{
    if (threadIdx.x == 0)
        __syncwarp();
    else
        __syncthreads();
    y[threadIdx.x] = 1;
}

__global__ void barrier_of_too_many(float *y)
{
    named_barrier(3, 256);
    y[threadIdx.x] = 1;
}

/* ---------------------------------------------------------------- a pipeline */

/* y [64,16] = x [64,k] * w [16,k]^T, 16 of k a step, two buffers; a warp has 16 rows. What can be
 * left out of it: */
enum Planted {
    NOTHING,
    BARRIER_AFTER_WAIT,
    ONE_GROUP, /* waits for one group too few */
    BARRIER_AT_END,
};

PRIM bf16 *chunk_of(bf16 *tile, int row, int chunk)
{
    return tile + row * 16 + (chunk ^ (row >> 2 & 1)) * 8;
}

PRIM void load_step(bf16 *tile, const bf16 *x, const bf16 *w, int k, int step)
{
    /* each warp loads what the warp before it will read */
    const int row = ((int)threadIdx.x / 2 + 16) & 63, chunk = (int)threadIdx.x & 1;
    cp_async16(chunk_of(tile, row, chunk), x + (size_t)row * k + step * 16 + chunk * 8);
    if (row < 16)
        cp_async16(chunk_of(tile + 64 * 16, row, chunk),
                   w + (size_t)row * k + step * 16 + chunk * 8);
    cp_async_commit();
}

template <int BUG> __global__ void pipeline(const bf16 *x, const bf16 *w, float *y, int k)
{
    DYN_SHARED(dyn);
    bf16 *const tiles = (bf16 *)dyn;
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, steps = k / 16;
    float d[1][2][4] = {};
    load_step(tiles, x, w, k, 0);
    for (int s = 0; s < steps; s++) {
        bf16 *const tile = tiles + (s & 1) * 80 * 16;
        if (s + 1 < steps)
            load_step(tiles + ((s + 1) & 1) * 80 * 16, x, w, k, s + 1);
        else
            cp_async_commit();
        cp_async_wait<BUG == ONE_GROUP ? 2 : 1>();
        if (BUG != BARRIER_AFTER_WAIT) __syncthreads();
        uint32_t a[1][4], b[1][4];
        ldmatrix_x4(a[0], chunk_of(tile, warp * 16 + (lane & 15), lane >> 4));
        ldmatrix_x4(b[0], chunk_of(tile + 64 * 16, (lane & 7) + (lane >> 4 << 3), lane >> 3 & 1));
        const uint32_t both[2][2] = {{b[0][0], b[0][1]}, {b[0][2], b[0][3]}};
        mma_bf16_tile(d, a, both);
        if (BUG != BARRIER_AT_END) __syncthreads();
    }
    cp_async_wait<0>();
    for (int n = 0; n < 2; n++)
        for (int e = 0; e < 4; e++)
            y[(warp * 16 + (lane >> 2) + e / 2 * 8) * 16 + n * 8 + (lane & 3) * 2 + e % 2] =
                d[0][n][e];
}
