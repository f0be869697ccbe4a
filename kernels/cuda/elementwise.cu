/* elementwise.cu: one or two values to one: activations, factors, conversions, sums. Bound by
 * memory: a thread takes eight elements in a 16-byte access where they lie on one. */
#include "act.cuh"
#include "values.cuh"

#define THREADS 256

/* Blocks that give every eight elements a thread. */
static unsigned blocks_of(int64_t n)
{
    return (unsigned)((n + 8 * THREADS - 1) / (8 * THREADS));
}

PRIM float mapped(int op, float f, float v)
{
    if (op == GPU_MAP_SCALE) return v * f;
    if (op == GPU_MAP_SOFTCAP) return f * tanhf(v / f);
    return act_one(op, v);
}

/* Registers: 32, so that a multiprocessor holds all the threads it can. */
template <class X, class Y>
__global__ void __launch_bounds__(THREADS)
    map_kernel(int op, float f, const X *x, Y *y, int64_t n, bool whole)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (i >= n) return;
    float v[8];
    load8(v, x + i, n - i, whole);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = mapped(op, f, v[k]);
    store8(y + i, v, n - i, whole);
}

/* Registers: 32. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    add_kernel(const T *a, const T *b, T *y, int64_t n, bool whole)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (i >= n) return;
    float v[8], w[8];
    load8(v, a + i, n - i, whole);
    load8(w, b + i, n - i, whole);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] += w[k];
    store8(y + i, v, n - i, whole);
}

template <class X, class Y>
static int map_as(int op, float f, const void *x, void *y, int64_t n, gpu_stream s)
{
    const bool whole = aligned16(x) && aligned16(y);
    KLAUNCH((map_kernel<X, Y>), blocks_of(n), THREADS, 0, s)(op, f, (const X *)x, (Y *)y, n, whole);
    return cudaGetLastError();
}

extern "C" int GPU(map)(int op, float factor, const void *x, int tx, void *y, int ty, int64_t n,
                        gpu_stream s)
{
    if (tx == GPU_BF16)
        return ty == GPU_BF16 ? map_as<bf16, bf16>(op, factor, x, y, n, s)
                              : map_as<bf16, float>(op, factor, x, y, n, s);
    return ty == GPU_BF16 ? map_as<float, bf16>(op, factor, x, y, n, s)
                          : map_as<float, float>(op, factor, x, y, n, s);
}

template <class T> static int add_as(const void *a, const void *b, void *y, int64_t n, gpu_stream s)
{
    const bool whole = aligned16(a) && aligned16(b) && aligned16(y);
    KLAUNCH(add_kernel<T>, blocks_of(n), THREADS, 0, s)
    ((const T *)a, (const T *)b, (T *)y, n, whole);
    return cudaGetLastError();
}

extern "C" int GPU(add)(const void *a, const void *b, void *y, int type, int64_t n, gpu_stream s)
{
    return type == GPU_BF16 ? add_as<bf16>(a, b, y, n, s) : add_as<float>(a, b, y, n, s);
}
