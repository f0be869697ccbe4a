/* wrappers.cu: a kernel for every wrapper of kernels/cuda/gpu.cuh and for the functions of CUDA
 * that kernels stand on. wrappers.c says what each must answer. */
#include <stdio.h>
#include "cuda/gpu.cuh"
#include "wrappers.h"

/* The threads' words: thread i's begin at data + i * n. */
#define LANE ((int)threadIdx.x)
#define KERNEL(x)                                                                                  \
    __global__ void k_##x(const uint32_t *all_in, int n_in, uint32_t *all_out, int n_out)
#define BEGIN                                                                                      \
    const uint32_t *in = all_in + LANE * n_in;                                                     \
    uint32_t *out = all_out + LANE * n_out

/* ---------------------------------------------------------------- ldmatrix */

/* Thread i stores words 0..3 as row i; words 4 and 5 say which rows its addresses point at. */
#define ROWS                                                                                       \
    BEGIN;                                                                                         \
    __shared__ __align__(16) uint32_t tile[32][4];                                                 \
    for (int i = 0; i < 4; i++) tile[LANE][i] = in[i];                                             \
    __syncthreads()

KERNEL(ldmatrix_x4)
{
    ROWS;
    uint32_t r[4];
    ldmatrix_x4(r, tile[in[4]]);
    for (int i = 0; i < 4; i++) out[i] = r[i];
}

KERNEL(ldmatrix_x4_trans)
{
    ROWS;
    uint32_t r[4];
    ldmatrix_x4_trans(r, tile[in[4]]);
    for (int i = 0; i < 4; i++) out[i] = r[i];
}

KERNEL(ldmatrix_x2)
{
    ROWS;
    uint32_t r[2];
    ldmatrix_x2(r, tile[in[4]]);
    for (int i = 0; i < 2; i++) out[i] = r[i];
}

KERNEL(ldmatrix_x2_trans)
{
    ROWS;
    uint32_t r[2];
    ldmatrix_x2_trans(r, tile[in[4]]);
    for (int i = 0; i < 2; i++) out[i] = r[i];
}

KERNEL(ldmatrix_x4_n)
{
    ROWS;
    uint32_t r[2][4];
    const void *const row[2] = {tile[in[4]], tile[in[5]]};
    ldmatrix_x4_n(r, row);
    for (int i = 0; i < 8; i++) out[i] = r[i / 4][i % 4];
}

KERNEL(ldmatrix_x4_trans_n)
{
    ROWS;
    uint32_t r[2][4];
    const void *const row[2] = {tile[in[4]], tile[in[5]]};
    ldmatrix_x4_trans_n(r, row);
    for (int i = 0; i < 8; i++) out[i] = r[i / 4][i % 4];
}

/* ---------------------------------------------------------------- mma */

/* Words: d (4), a (4), b (2). */
#define FRAGMENTS(T)                                                                               \
    BEGIN;                                                                                         \
    T d[4];                                                                                        \
    uint32_t a[4];                                                                                 \
    memcpy(d, in, sizeof d);                                                                       \
    memcpy(a, in + 4, sizeof a)

KERNEL(mma_bf16)
{
    FRAGMENTS(float);
    mma_bf16_16816(d, a, in[8], in[9]);
    memcpy(out, d, sizeof d);
}

KERNEL(mma_f16)
{
    FRAGMENTS(float);
    mma_f16_16816(d, a, in[8], in[9]);
    memcpy(out, d, sizeof d);
}

KERNEL(mma_s8)
{
    FRAGMENTS(int);
    mma_s8_16832(d, a, in[8], in[9]);
    memcpy(out, d, sizeof d);
}

/* Words: d [2][3][4], a [2][4], b [3][2]. */
#define TILE(T)                                                                                    \
    BEGIN;                                                                                         \
    T d[2][3][4];                                                                                  \
    uint32_t a[2][4], b[3][2];                                                                     \
    memcpy(d, in, sizeof d);                                                                       \
    memcpy(a, in + 24, sizeof a);                                                                  \
    memcpy(b, in + 32, sizeof b)

KERNEL(mma_bf16_tile)
{
    TILE(float);
    mma_bf16_tile(d, a, b);
    memcpy(out, d, sizeof d);
}

KERNEL(mma_s8_tile)
{
    TILE(int);
    mma_s8_tile(d, a, b);
    memcpy(out, d, sizeof d);
}

/* ---------------------------------------------------------------- copies and barriers */

/* Three groups of 16 bytes, each waited for by itself; bit i of word 12: group i's copy is valid.
 * What the neighbour's copies brought is read, so waits and barriers both count. */
KERNEL(cp_async)
{
    BEGIN;
    __shared__ __align__(16) uint32_t stage[3][64][4];
    for (int i = 0; i < 12; i++) stage[i / 4][LANE][i % 4] = 0xdeadbeefu;
    __syncthreads();
    for (int s = 0; s < 3; s++) {
        /* in + 4 s is 4-byte aligned only: each thread's 13 words; the copies take all_in's. */
        const uint32_t *from = all_in + (LANE * 3 + s) * 4;
        cp_async16(stage[s][LANE], from, in[12] >> s & 1);
        cp_async_commit();
    }
    cp_async_wait<2>();
    __syncthreads();
    for (int i = 0; i < 4; i++) out[i] = stage[0][LANE ^ 33][i];
    cp_async_wait<1>();
    __syncthreads();
    for (int i = 0; i < 4; i++) out[4 + i] = stage[1][LANE ^ 33][i];
    cp_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 4; i++) out[8 + i] = stage[2][LANE ^ 33][i];
}

/* Warps 0 and 1 meet at a barrier of their own, twice; warp 2 has another and is not waited for. */
KERNEL(named_barrier)
{
    BEGIN;
    __shared__ uint32_t s[96];
    s[LANE] = in[0];
    if (LANE < 64) {
        named_barrier(1, 64);
        const uint32_t other = s[LANE ^ 32];
        named_barrier(1, 64);
        s[LANE] = other + 1;
        named_barrier(1, 64);
        out[0] = s[63 - LANE];
    } else {
        named_barrier(15, 32);
        out[0] = s[64 + (LANE + 1) % 32];
    }
}

/* ---------------------------------------------------------------- numbers */

KERNEL(dp4a)
{
    BEGIN;
    out[0] = (uint32_t)dp4a((int)in[0], (int)in[1], (int)in[2]);
}

KERNEL(pack_bf16)
{
    BEGIN;
    for (int i = 0; i < 4; i++)
        out[i] = pack_bf16(__uint_as_float(in[2 * i]), __uint_as_float(in[2 * i + 1]));
}

KERNEL(unpack_bf16)
{
    BEGIN;
    bf162 v;
    memcpy(&v, in, 4);
    out[0] = __float_as_uint(__bfloat162float(v.x));
    out[1] = __float_as_uint(__bfloat162float(v.y));
}

KERNEL(e4m3_bf16)
{
    BEGIN;
    uint32_t r[2];
    e4m3_bf16(r, in[0]);
    out[0] = r[0];
    out[1] = r[1];
}

KERNEL(to_half)
{
    BEGIN;
    for (int i = 0; i < 4; i++) {
        const __half h = __float2half_rn(__uint_as_float(in[i]));
        uint16_t bits;
        memcpy(&bits, &h, 2);
        out[i] = bits;
    }
}

KERNEL(from_half)
{
    BEGIN;
    __half v[2];
    memcpy(v, in, 4);
    out[0] = __float_as_uint(__half2float(v[0]));
    out[1] = __float_as_uint(__half2float(v[1]));
}

KERNEL(fast_exp2)
{
    BEGIN;
    for (int i = 0; i < 4; i++) out[i] = __float_as_uint(fast_exp2(__uint_as_float(in[i])));
}

KERNEL(integers)
{
    BEGIN;
    out[0] = (uint32_t)__popc(in[0]);
    out[1] = (uint32_t)__clz((int)in[0]);
    out[2] = (uint32_t)__ffs((int)in[0]);
    out[3] = __brev(in[0]);
    out[4] = (uint32_t)__mulhi((int)in[0], (int)in[1]);
    out[5] = __umulhi(in[0], in[1]);
    out[6] = __byte_perm(in[0], in[1], in[2] & 0x7777);
}

KERNEL(floats)
{
    BEGIN;
    const float a = __uint_as_float(in[0]), b = __uint_as_float(in[1]), c = __uint_as_float(in[2]);
    out[0] = __float_as_uint(__fadd_rn(a, b));
    out[1] = __float_as_uint(__fmul_rn(a, b));
    out[2] = __float_as_uint(fmaf(a, b, c));
    out[3] = __float_as_uint(rintf(a));
    out[4] = (uint32_t)__float2int_rn(a);
    out[5] = __float_as_uint(sqrtf(fabsf(a)));
    out[6] = __float_as_uint(a / b);
    const double sum = __dadd_rn((double)a, __dmul_rn((double)b, (double)c));
    uint64_t bits;
    memcpy(&bits, &sum, 8);
    out[7] = (uint32_t)bits;
    out[8] = (uint32_t)(bits >> 32);
    out[9] = __float_as_uint(fmaxf(fminf(a, b), c));
}

/* What the CPU's mathematics library answers in other last bits. */
KERNEL(approximate)
{
    BEGIN;
    const float x = __uint_as_float(in[0]);
    out[0] = __float_as_uint(expf(x));
    out[1] = __float_as_uint(tanhf(x));
    out[2] = __float_as_uint(erff(x));
    out[3] = __float_as_uint(cosf(x));
    out[4] = __float_as_uint(exp2f(x));
    out[5] = __float_as_uint(rsqrtf(fabsf(x) + 1e-3f));
}

/* ---------------------------------------------------------------- warps */

KERNEL(shuffles)
{
    BEGIN;
    const unsigned all = 0xffffffffu;
    const uint32_t v = in[0];
    out[0] = __shfl_sync(all, v, (int)in[1]);
    out[1] = __shfl_xor_sync(all, v, 1);
    out[2] = __shfl_xor_sync(all, v, 16);
    out[3] = __shfl_up_sync(all, v, 3);
    out[4] = __shfl_down_sync(all, v, 5);
    out[5] = __shfl_xor_sync(all, v, 3, 8);
    out[6] = __shfl_up_sync(all, v, 2, 8);
    out[7] = __shfl_down_sync(all, v, 3, 16);
    out[8] = __shfl_sync(all, v, (int)in[1], 8);
    out[9] = __float_as_uint(__shfl_xor_sync(all, __uint_as_float(v), 10));
}

KERNEL(votes)
{
    BEGIN;
    const unsigned all = 0xffffffffu;
    const int v = (int)in[0];
    out[0] = __ballot_sync(all, v & 1);
    out[1] = __any_sync(all, (v & 0xff) == 7) != 0;
    out[2] = __all_sync(all, v != 12345) != 0;
    out[3] = (uint32_t)__reduce_add_sync(all, v);
    out[4] = (uint32_t)__reduce_max_sync(all, v);
    out[5] = (uint32_t)__reduce_min_sync(all, v);
    out[6] = 0;
    if (LANE < 16) out[6] = __ballot_sync(0xffffu, v & 2);
    __syncwarp();
    out[7] = (uint32_t)__syncthreads_or(v == 99);
}

KERNEL(atomics)
{
    BEGIN;
    __shared__ unsigned sum;
    __shared__ float fsum;
    __shared__ unsigned long long most;
    if (LANE == 0) {
        sum = 0;
        fsum = 0;
        most = 0;
    }
    __syncthreads();
    atomicAdd(&sum, in[0]);
    atomicAdd(&fsum, (float)(in[0] & 0xff)); /* whole numbers: exact in any order */
    atomicMax(&most, (unsigned long long)in[0] << 32 | in[1]);
    __syncthreads();
    out[0] = sum;
    out[1] = __float_as_uint(fsum);
    out[2] = (uint32_t)most;
    out[3] = (uint32_t)(most >> 32);
    out[4] = (uint32_t)__syncthreads_count(in[0] & 1);
}

/* ---------------------------------------------------------------- running */

static const struct {
    int threads, in, out;
} shape[] = {
#define X(name, threads, in, out) {threads, in, out},
    WRAPPERS(X) HOPPER_WRAPPERS(X)
#undef X
};

static cudaError_t launch(int which, const uint32_t *in, uint32_t *out)
{
    switch (which) {
#define X(name, threads, n_in, n_out)                                                              \
    case WRAP_##name:                                                                              \
        KLAUNCH(k_##name, 1, threads, 0, 0)(in, n_in, out, n_out);                                 \
        break;
        WRAPPERS(X)
#undef X
    default:
        return (cudaError_t)GPU(wrapper_hopper)(which, in, out);
    }
    return cudaGetLastError();
}

extern "C" int GPU(wrapper_has_hopper)(void)
{
    struct cudaDeviceProp p;
    return GPU_EMULATED || (!cudaGetDeviceProperties(&p, 0) && p.major == 9 && p.minor == 0);
}

extern "C" int GPU(wrapper)(int which, const uint32_t *in, uint32_t *out, char *error, size_t size)
{
    const size_t n_in = (size_t)shape[which].threads * (size_t)shape[which].in * 4,
                 n_out = (size_t)shape[which].threads * (size_t)shape[which].out * 4;
    uint32_t *d_in = nullptr, *d_out = nullptr;
    cudaError_t e = cudaMalloc((void **)&d_in, n_in);
    if (!e) e = cudaMalloc((void **)&d_out, n_out);
    if (!e) e = cudaMemcpy(d_in, in, n_in, cudaMemcpyHostToDevice);
    if (!e) e = cudaMemset(d_out, 0xee, n_out);
    if (!e) e = launch(which, d_in, d_out);
    if (!e) e = cudaMemcpy(out, d_out, n_out, cudaMemcpyDeviceToHost);
    cudaFree(d_in);
    cudaFree(d_out);
    if (e) snprintf(error, size, "%s: %s", cudaGetErrorName(e), cudaGetErrorString(e));
    return e != cudaSuccess;
}

extern "C" int GPU(wrapper_describe)(char *text, size_t size)
{
    int n = 0, driver = 0, runtime = 0;
    struct cudaDeviceProp p;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaError_t e = cudaGetDeviceCount(&n);
    if (!e && n == 0) e = cudaErrorNoDevice;
    if (!e) e = cudaGetDeviceProperties(&p, 0);
    if (e)
        snprintf(text, size, "%s (driver for CUDA %d.%d, runtime %d.%d)", cudaGetErrorString(e),
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else
        snprintf(text, size,
                 "%s, compute capability %d.%d, %d multiprocessors, %.1f GiB, driver for CUDA "
                 "%d.%d, runtime %d.%d",
                 p.name, p.major, p.minor, p.multiProcessorCount,
                 (double)p.totalGlobalMem / 1073741824, driver / 1000, driver % 1000 / 10,
                 runtime / 1000, runtime % 1000 / 10);
    return e != cudaSuccess;
}
