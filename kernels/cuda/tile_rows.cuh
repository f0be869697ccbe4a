/* tile_rows.cuh: where the rows of a product's x lie: rows of a matrix, or what a filter meets of a
 * picture. Of both, a thread loads the pieces of column threadIdx.x % 8 of rows threadIdx.x / 8,
 * then PASS rows on... `load` fills a tile with the next 128 bytes of all rows: tile.cuh. */
#ifndef ANNEAL_TILE_ROWS_CUH
#define ANNEAL_TILE_ROWS_CUH

#include "tile.cuh"

/* ---------------------------------------------------------------- of a matrix */

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

/* ---------------------------------------------------------------- of pictures */

/* Where pixel i of a resize from `in` to `out` pixels comes from: an_nearest of backend.h, with its
 * rounding. */
PRIM int nearest(int i, int in, int out)
{
    if (out == in) return i;
    if (out == 2 * in) return i >> 1;
    const float scale = (float)in / (float)out;
    const int s = (int)((float)i * scale);
    return s < in - 1 ? s : in - 1;
}

/* This thread's output pixels. Its pieces lie in one column of the tile, so that all of them are of
 * the same channels and the same place in the filter. */
template <class S> struct conv_rows {
    static constexpr int N = S::BM / S::PASS;
    const gpu_conv &a;
    int picture[N]; /* -1: past the end */
    int corner[N];  /* where the filter begins, y << 16 | x; 64 is added to each, the padding */
    int ky, kx, c;  /* what comes next */
    int channels;   /* of the weight: padded */
    bool fast;

    __device__ conv_rows(const gpu_conv &args, int first, int end)
        : a(args), ky(0), kx(0), c((int)(threadIdx.x & 7) * S::PIECE),
          channels((args.c + S::PIECE - 1) / S::PIECE * S::PIECE),
          fast(in_pieces<typename S::T>(args.x, args.x_dtype, args.c))
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int m = first + (int)threadIdx.x / 8 + i * S::PASS, pixels = a.oh * a.ow;
            const int p = m % pixels;
            picture[i] = m < end ? m / pixels : -1;
            corner[i] = (p / a.ow * a.stride - a.pad_top + 64) << 16 |
                        (p % a.ow * a.stride - a.pad_left + 64);
        }
        settle();
    }
    __device__ void settle()
    {
        while (c >= channels) {
            c -= channels;
            if (++kx == a.kw) kx = 0, ky++;
        }
    }
    __device__ void load(char *tile)
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int y = (corner[i] >> 16) - 64 + ky, x = (corner[i] & 0xffff) - 64 + kx;
            const bool inside = picture[i] >= 0 && ky < a.kh && (unsigned)y < (unsigned)a.up_h &&
                                (unsigned)x < (unsigned)a.up_w;
            const int from = (inside ? picture[i] : 0) * a.h + nearest(inside ? y : 0, a.h, a.up_h);
            const size_t at =
                (size_t)from * (size_t)a.width + (size_t)nearest(inside ? x : 0, a.width, a.up_w);
            load_piece<typename S::T>(
                tile_at(tile, (int)threadIdx.x / 8 + i * S::PASS, threadIdx.x & 7), a.x, a.x_dtype,
                fast, at * (size_t)a.c + (size_t)c, inside ? a.c - c : 0);
        }
        c += S::BK;
        settle();
    }
};

#endif
