/* conv.cu: convolution of NHWC pictures as a product whose rows are output pixels and whose depth
 * is (ky, kx, channel). The work is in tile.cuh; here is where a pixel's values lie: the picture is
 * read in place, resized and padded on the way, and there is no im2col buffer. */
#include "tile_rows.cuh"

template <class S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS)
    conv_kernel(const __grid_constant__ gpu_conv a)
{
    DYN_SHARED(shared);
    const int end = a.pictures * a.oh * a.ow;
    const int m0 = (int)blockIdx.x * S::BM, n0 = (int)blockIdx.y * S::BN;
    conv_rows<S> rows(a, m0, end);
    tile_columns<S> columns(a.w, n0, false);
    float acc[S::MF][S::NF][4];
    tile_product<S>(acc, rows, columns, a.w.pitch / S::BK, shared);
    tile_finish<S>(acc, a.out, a.w, m0, end, n0);
}

extern "C" int GPU(conv)(const gpu_conv *a, gpu_stream stream)
{
    TILE_DISPATCH(conv_kernel, *a, a->pictures * a->oh * a->ow, stream);
    return (int)cudaGetLastError();
}
