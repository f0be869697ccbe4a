/* gemm90.cu: gemm.cu for compute capability 9.0 and weights in bf16. The work is in tile90.cuh. */
#include "tile90.cuh"

template <class S>
__global__ void __launch_bounds__(S::THREADS, 1)
    gemm90_kernel(const __grid_constant__ gpu_gemm a, const __grid_constant__ CUtensorMap x,
                  const __grid_constant__ CUtensorMap w, int how)
{
    DYN_SHARED(shared);
    const int first = a.range ? a.range[0] : 0, end = a.range ? a.range[1] : a.rows;
    const int m0 = first + (int)blockIdx.x * S::BM, n0 = (int)blockIdx.y * S::BN;
    const int steps = a.w.pitch / S::BK;
    if (m0 >= end) return;
    const tile90_ring ring = tile90_begin<S>(shared, how);
    if (threadIdx.x >= S::LOADERS) {
        float d[S::BN / 2];
        tile90_multiply<S>(d, ring, steps);
        tile90_finish<S>(d, ring.tiles, a.out, a.w.n, m0, end, n0);
        return;
    }
    const tile90_columns columns =
        tile90_columns_of(&w, a.w.n, n0, S::BN, a.out.act >= GPU_ACT_GEGLU);
    if (how == TILE90_TMA) {
        if (threadIdx.x == 0) tile90_fill_tma<S>(ring, &x, m0, columns, steps);
    } else {
        gemm_rows<S> rows(a, m0, end);
        tile90_fill<S>(ring, rows, columns, steps);
    }
}

template <class S> static cudaError_t launch(const gpu_gemm *a, gpu_stream stream)
{
    static shared_limit limit;
    CUtensorMap x = {}, w;
    cudaError_t e = tile90_weight<S>(&w, a->w);
    /* a range's rows may lie past the last of `rows`; other rows than those in order are loaded */
    const int how = a->x_dtype == GPU_BF16 && !a->range && !a->index && a->k % 8 == 0 &&
                            ((uintptr_t)a->x & 15) == 0
                        ? TILE90_TMA
                        : TILE90_LOADED;
    if (!e && how == TILE90_TMA) e = tensor_map_of(&x, a->x, a->rows, a->k, a->k, S::BM);
    if (!e) e = shared_allow(limit, gemm90_kernel<S>, S::SHARED);
    if (e) return e;
    KLAUNCH(gemm90_kernel<S>, tile90_grid<S>(a->rows, a->w.n), S::THREADS, S::SHARED, stream)
    (*a, x, w, how);
    return cudaGetLastError();
}

extern "C" int GPU(gemm90)(const gpu_gemm *a, gpu_stream stream)
{
    return (int)TILE90_DISPATCH(launch, a, a->rows, stream);
}
