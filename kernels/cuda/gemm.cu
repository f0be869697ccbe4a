/* gemm.cu: y = act(x w^T + bias) + residual. The work is in tile.cuh; here are the rows of x. */
#include "tile.cuh"

/* This thread's rows of x: their pieces number threadIdx.x % 8, then those 128 bytes on... */
template <class S> struct gemm_rows {
    static constexpr int N = S::BM / S::PASS;
    const gpu_gemm &a;
    int row[N]; /* of x; -1: past the end */
    int k;      /* element that comes next */
    bool fast;

    __device__ gemm_rows(const gpu_gemm &args, int first, int end)
        : a(args), k((int)(threadIdx.x & 7) * S::PIECE),
          fast(in_pieces<typename S::T>(args.x, args.x_dtype, args.k))
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int m = first + (int)threadIdx.x / 8 + i * S::PASS;
            row[i] = m >= end ? -1 : a.index ? a.index[m] : m;
        }
    }
    __device__ void load(char *tile)
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            load_piece<typename S::T>(
                tile_at(tile, (int)threadIdx.x / 8 + i * S::PASS, threadIdx.x & 7), a.x, a.x_dtype,
                fast, (size_t)row[i] * (size_t)a.k + (size_t)k, row[i] < 0 ? 0 : a.k - k);
        k += S::BK;
    }
};

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
    tile_finish<S>(acc, a.out, a.w.n, m0, end, n0);
}

extern "C" int GPU(gemm)(const gpu_gemm *a, gpu_stream stream)
{
    TILE_DISPATCH(gemm_kernel, *a, a->rows, stream);
    return (int)cudaGetLastError();
}
