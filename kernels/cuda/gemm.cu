/* gemm.cu: y = act(x w^T + bias) + residual. The work is in tile.cuh; here are the rows of x. */
#include "tile_rows.cuh"

template <class S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS)
    gemm_kernel(const __grid_constant__ gpu_gemm a)
{
    DYN_SHARED(shared);
    const int first = a.range ? a.range[0] : 0, end = a.range ? a.range[1] : a.rows;
    const int m0 = first + (int)blockIdx.x * S::BM, n0 = (int)blockIdx.y * S::BN;
    if (m0 >= end) return;
    gemm_rows<S> rows(a, m0, end);
    tile_columns<S> columns(a.w, n0, a.out.act >= GPU_ACT_GEGLU);
    float acc[S::MF][S::NF][4];
    tile_product<S>(acc, rows, columns, a.w.pitch / S::BK, shared);
    tile_finish<S>(acc, a.out, a.w, m0, end, n0);
}

extern "C" int GPU(gemm)(const gpu_gemm *a, gpu_stream stream)
{
    if (a->w.dtype == GPU_E4M3)
        TILE_DISPATCH_E4M3(gemm_kernel, *a, a->rows, stream);
    else
        TILE_DISPATCH(gemm_kernel, *a, a->rows, stream);
    return (int)cudaGetLastError();
}
