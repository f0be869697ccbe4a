/* conv90.cu: conv.cu for compute capability 9.0 and weights in bf16. The work is in tile90.cuh. */
#include "tile90.cuh"

template <class S>
__global__ void __launch_bounds__(S::THREADS, 1)
    conv90_kernel(const __grid_constant__ gpu_conv a, const __grid_constant__ CUtensorMap w)
{
    DYN_SHARED(shared);
    const int end = a.pictures * a.oh * a.ow, steps = a.w.pitch / S::BK;
    const int m0 = (int)blockIdx.x * S::BM, n0 = (int)blockIdx.y * S::BN;
    const tile90_ring ring = tile90_begin<S>(shared, TILE90_LOADED);
    if (threadIdx.x >= S::LOADERS) {
        float d[S::BN / 2];
        tile90_multiply<S>(d, ring, steps);
        tile90_finish<S>(d, ring.tiles, a.out, a.w.n, m0, end, n0);
        return;
    }
    conv_rows<S> rows(a, m0, end);
    tile90_fill<S>(ring, rows, tile90_columns_of(&w, a.w.n, n0, S::BN, false), steps);
}

template <class S> static cudaError_t launch(const gpu_conv *a, int rows, gpu_stream stream)
{
    static shared_limit limit;
    CUtensorMap w;
    cudaError_t e = tile90_weight<S>(&w, a->w);
    if (!e) e = shared_allow(limit, conv90_kernel<S>, S::SHARED);
    if (e) return e;
    KLAUNCH(conv90_kernel<S>, tile90_grid<S>(rows, a->w.n), S::THREADS, S::SHARED, stream)(*a, w);
    return cudaGetLastError();
}

extern "C" int GPU(conv90)(const gpu_conv *a, gpu_stream stream)
{
    const int rows = a->pictures * a->oh * a->ow;
    return (int)TILE90_DISPATCH(launch, a, rows, rows, stream);
}
