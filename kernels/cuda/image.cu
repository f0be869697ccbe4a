/* image.cu: latents gathered into a batch; pictures from and to bytes. */
#include "values.cuh"

#define THREADS 128

static unsigned blocks_of(int64_t n)
{
    return (unsigned)((n + 8 * THREADS - 1) / (8 * THREADS));
}

/* Block y: a row, whose latent lies anywhere. Registers: 32. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    latent_kernel(const gpu_latent *row, int64_t count, T *y, bool whole)
{
    const gpu_latent l = row[blockIdx.y];
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (i >= count) return;
    float v[8];
    load8(v, l.x + i, count - i, whole && ((uintptr_t)l.x & 15) == 0);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] *= l.scale;
    store8(y + (int64_t)blockIdx.y * count + i, v, count - i, whole);
}

template <class T>
static int latent_as(const gpu_latent *row, int64_t rows, int64_t count, T *y, gpu_stream s)
{
    const dim3 grid(blocks_of(count), (unsigned)rows);
    const bool whole = aligned16(y) && count % 8 == 0;
    KLAUNCH(latent_kernel<T>, grid, THREADS, 0, s)(row, count, y, whole);
    return cudaGetLastError();
}

extern "C" int GPU(latent_in)(const gpu_latent *row, int64_t rows, int64_t count, void *y, int type,
                              gpu_stream s)
{
    return type == GPU_BF16 ? latent_as(row, rows, count, (bf16 *)y, s)
                            : latent_as(row, rows, count, (float *)y, s);
}

/* [-1, 1] to 0..255, to nearest even; NaN to 0, and counted. Registers: 32. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    image_out_kernel(const T *x, uint8_t *y, int64_t n, bool whole, unsigned long long *nan)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (i >= n) return;
    float v[8];
    unsigned nans = 0;
    load8(v, x + i, n - i, whole);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float u = v[k] * 0.5f + 0.5f;
        nans += u != u;
        u = u != u || u < 0.0f ? 0.0f : u > 1.0f ? 1.0f : u;
        if (i + k < n) y[i + k] = (uint8_t)rintf(u * 255.0f);
    }
    if (nans && nan) atomicAdd(nan, (unsigned long long)nans);
}

template <class T>
static int image_out_as(const T *x, uint8_t *y, int64_t n, unsigned long long *nan, gpu_stream s)
{
    const bool whole = aligned16(x);
    KLAUNCH(image_out_kernel<T>, blocks_of(n), THREADS, 0, s)(x, y, n, whole, nan);
    return cudaGetLastError();
}

extern "C" int GPU(image_out)(const void *x, int type, uint8_t *y, int64_t n,
                              unsigned long long *nan, gpu_stream s)
{
    return type == GPU_BF16 ? image_out_as((const bf16 *)x, y, n, nan, s)
                            : image_out_as((const float *)x, y, n, nan, s);
}

/* Registers: 32. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    image_in_kernel(const uint8_t *x, T *y, int64_t n, bool whole)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (i >= n) return;
    float v[8];
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = i + k < n ? (float)x[i + k] / 127.5f - 1.0f : 0.0f;
    store8(y + i, v, n - i, whole);
}

template <class T> static int image_in_as(const uint8_t *x, T *y, int64_t n, gpu_stream s)
{
    const bool whole = aligned16(y);
    KLAUNCH(image_in_kernel<T>, blocks_of(n), THREADS, 0, s)(x, y, n, whole);
    return cudaGetLastError();
}

extern "C" int GPU(image_in)(const uint8_t *x, void *y, int type, int64_t n, gpu_stream s)
{
    return type == GPU_BF16 ? image_in_as(x, (bf16 *)y, n, s) : image_in_as(x, (float *)y, n, s);
}
