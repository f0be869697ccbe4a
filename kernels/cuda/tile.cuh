/* tile.cuh: the engine of matrix products and convolutions: a block computes BM x BN sums, and both
 * operands come through a ring of tiles in shared memory.
 *
 * A tile's row is 128 bytes of k: eight pieces of 16 bytes, piece p of row r lying at p ^ (r & 7),
 * so that the eight rows that an ldmatrix reads are in eight different groups of banks. Who calls
 * gives a loader for the rows of x (gemm.cu, conv.cu); the weight's rows are loaded here. bf16 goes
 * through the tensor cores, f32 through FMAs; both leave their sums where mma does, so there is one
 * epilogue. Weights in FP8 (e4m3) stay so in shared memory, half as much of it, and become bf16 in
 * registers; a sum meets its row's scale when it is complete.
 *
 * Why bytes do not depend on the batch, nor on the tile's shape: a sum is one chain over k in
 * order, 16 values of k an mma (one an FMA), begun at zero. Zeros past the end of k add nothing.
 * The epilogue's sums are ones that nvcc fuses with no product (__fadd_rn), here or there. */
#ifndef ANNEAL_TILE_CUH
#define ANNEAL_TILE_CUH

#include "act.cuh"

/* A number of the weight in FP8; four of them are e4m3_bf16's. */
struct e4m3 {
    uint8_t code;
};

/* Blocks: as many of them a multiprocessor should hold, which is the budget of registers. */
template <class Element, int M, int N, int WarpsM, int WarpsN, int Stages, int Blocks,
          class Weight = Element>
struct tile_shape {
    typedef Element T; /* of x, and of what is multiplied */
    typedef Weight W;
    static constexpr int BM = M, BN = N, WARPS_N = WarpsN, STAGES = Stages, BLOCKS = Blocks;
    static constexpr int THREADS = 32 * WarpsM * WarpsN;
    static constexpr int MF = M / WarpsM / 16, NF = N / WarpsN / 8;   /* 16x8 sums of a warp */
    static constexpr int PIECE = 16 / (int)sizeof(T), BK = 8 * PIECE; /* elements */
    static constexpr int PASS = THREADS / 8;                          /* rows loaded at a time */
    static constexpr int STAGE = M * 128 + N * BK * (int)sizeof(W),
                         SHARED = Stages * STAGE; /* bytes */
};

PRIM char *tile_at(char *tile, int row, int piece)
{
    return tile + row * 128 + ((piece ^ (row & 7)) << 4);
}

/* ---------------------------------------------------------------- elements */

PRIM float float_at(const void *p, int dtype, size_t i)
{
    if (dtype == GPU_F32) return ((const float *)p)[i];
    return __uint_as_float((uint32_t)((const uint16_t *)p)[i] << 16);
}

PRIM void put_at(void *p, int dtype, size_t i, float v)
{
    if (dtype == GPU_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = (uint16_t)pack_bf16(v, 0.0f);
}

PRIM int dtype_of(bf16)
{
    return GPU_BF16;
}
PRIM int dtype_of(float)
{
    return GPU_F32;
}

/* Whether rows of k elements at x can be copied in pieces. */
template <class T> PRIM bool in_pieces(const void *x, int dtype, int k)
{
    return dtype == dtype_of(T()) && k % (16 / (int)sizeof(T)) == 0 && ((uintptr_t)x & 15) == 0;
}

/* A piece of x from element i on: `count` values (those past it zeros), as T. */
template <class T>
PRIM void load_piece(char *to, const void *x, int dtype, bool fast, size_t i, int count)
{
    constexpr int E = 16 / (int)sizeof(T);
    if (fast) {
        cp_async16(to, (const T *)x + (count > 0 ? i : 0), count > 0);
        return;
    }
    float v[E];
#pragma unroll
    for (int e = 0; e < E; e++) v[e] = e < count ? float_at(x, dtype, i + (size_t)e) : 0.0f;
    if (sizeof(T) == 4)
        *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]);
    else
        store_piece(to, make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                   pack_bf16(v[4 % E], v[5 % E]), pack_bf16(v[6 % E], v[7 % E])));
}

/* ---------------------------------------------------------------- the weight's rows */

/* With gated, columns 2j and 2j + 1 of the product are rows j and n/2 + j of the weight: value and
 * gate meet in one thread. */
PRIM int weight_row(int column, int n, bool gated)
{
    return gated ? (column >> 1) + (column & 1) * (n >> 1) : column;
}

template <class S, class W = typename S::W> struct tile_columns {
    static constexpr int N = S::BN / S::PASS;
    const typename S::T *w;
    int piece[N]; /* the next one of each row, counted from w; -1: no such row */

    __device__ tile_columns(const gpu_matrix &m, int first, bool gated)
        : w((const typename S::T *)m.w)
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int column = first + (int)threadIdx.x / 8 + i * S::PASS;
            const int row = weight_row(column, m.n, gated);
            piece[i] = column < m.n ? row * (m.pitch / S::PIECE) + (int)(threadIdx.x & 7) : -1;
        }
    }
    __device__ void load(char *tile)
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const bool there = piece[i] >= 0;
            cp_async16(tile_at(tile, (int)threadIdx.x / 8 + i * S::PASS, threadIdx.x & 7),
                       w + (there ? (size_t)piece[i] * S::PIECE : 0), there);
            if (there) piece[i] += 8;
        }
    }
};

/* FP8: a row's 64 bytes, four pieces; two rows share a line, so that the same piece of eight rows
 * is in eight groups of banks. */
PRIM char *e4m3_at(char *tile, int row, int piece)
{
    return tile + (row >> 1) * 128 + ((((row & 1) << 2 | piece) ^ (row >> 1 & 3)) << 4);
}

template <class S> struct tile_columns<S, e4m3> {
    static constexpr int PASS = S::THREADS / 4, N = S::BN / PASS;
    const e4m3 *w;
    int piece[N];

    __device__ tile_columns(const gpu_matrix &m, int first, bool gated) : w((const e4m3 *)m.w)
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int column = first + (int)threadIdx.x / 4 + i * PASS;
            const int row = weight_row(column, m.n, gated);
            piece[i] = column < m.n ? row * (m.pitch / 16) + (int)(threadIdx.x & 3) : -1;
        }
    }
    __device__ void load(char *tile)
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const bool there = piece[i] >= 0;
            cp_async16(e4m3_at(tile, (int)threadIdx.x / 4 + i * PASS, threadIdx.x & 3),
                       w + (there ? (size_t)piece[i] * 16 : 0), there);
            if (there) piece[i] += 4;
        }
    }
};

/* ---------------------------------------------------------------- multiplying */

/* acc += 128 bytes of k of tile a (from this warp's first row) times tile b (from its first
 * column), on the tensor cores. */
template <class S>
PRIM void multiply(float (&acc)[S::MF][S::NF][4], char *a, int m, char *b, int n, bf16)
{
    const int lane = (int)threadIdx.x & 31;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const void *from_a[S::MF], *from_b[S::NF / 2];
        uint32_t fa[S::MF][4], two[S::NF / 2][4], fb[S::NF][2];
#pragma unroll
        for (int i = 0; i < S::MF; i++)
            from_a[i] = tile_at(a, m + i * 16 + (lane & 15), k * 2 + (lane >> 4));
#pragma unroll
        for (int j = 0; j < S::NF / 2; j++)
            from_b[j] =
                tile_at(b, n + j * 16 + (lane & 7) + (lane >> 4) * 8, k * 2 + ((lane >> 3) & 1));
        ldmatrix_x4_n(fa, from_a);
        ldmatrix_x4_n(two, from_b);
#pragma unroll
        for (int j = 0; j < S::NF; j++) {
            fb[j][0] = two[j / 2][j % 2 * 2];
            fb[j][1] = two[j / 2][j % 2 * 2 + 1];
        }
        mma_bf16_tile(acc, fa, fb);
    }
}

/* The same with a weight in FP8: a matrix that ldmatrix reads is 8 columns and 16 values of k, of
 * which a thread gets the four that an mma wants of it. */
template <class S>
PRIM void multiply(float (&acc)[S::MF][S::NF][4], char *a, int m, char *b, int n, e4m3)
{
    const int lane = (int)threadIdx.x & 31;
#pragma unroll 1 /* unrolled, it takes more registers than there are */
    for (int half = 0; half < 2; half++) {
        const void *from_b[S::NF / 2];
        uint32_t codes[S::NF / 2][4];
#pragma unroll
        for (int j = 0; j < S::NF / 2; j++)
            from_b[j] =
                e4m3_at(b, n + j * 16 + (lane & 7) + (lane >> 4) * 8, half * 2 + ((lane >> 3) & 1));
        ldmatrix_x4_n(codes, from_b);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const void *from_a[S::MF];
            uint32_t fa[S::MF][4], fb[S::NF][2];
#pragma unroll
            for (int i = 0; i < S::MF; i++)
                from_a[i] = tile_at(a, m + i * 16 + (lane & 15), (half * 2 + k) * 2 + (lane >> 4));
            ldmatrix_x4_n(fa, from_a);
#pragma unroll
            for (int j = 0; j < S::NF; j++) e4m3_bf16(fb[j], codes[j / 2][j % 2 * 2 + k]);
            mma_bf16_tile(acc, fa, fb);
        }
    }
}

/* The same in f32: the elements that mma would give this thread. */
template <class S>
PRIM void multiply(float (&acc)[S::MF][S::NF][4], char *a, int m, char *b, int n, float)
{
    const int g = (int)(threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        float4 x[2 * S::MF];
#pragma unroll
        for (int i = 0; i < 2 * S::MF; i++) x[i] = *(float4 *)tile_at(a, m + i * 8 + g, k);
#pragma unroll
        for (int j = 0; j < 2 * S::NF; j++) {
            const float4 w = *(float4 *)tile_at(b, n + j / 2 * 8 + 2 * t + j % 2, k);
#pragma unroll
            for (int i = 0; i < 2 * S::MF; i++) {
                float &sum = acc[i / 2][j / 2][i % 2 * 2 + j % 2];
                sum = fmaf(x[i].x, w.x, sum);
                sum = fmaf(x[i].y, w.y, sum);
                sum = fmaf(x[i].z, w.z, sum);
                sum = fmaf(x[i].w, w.w, sum);
            }
        }
    }
}

/* acc = the block's sums over `steps` x 128 bytes of k. STAGES - 1 loads are on their way while one
 * tile is multiplied. rows.load(tile) and columns.load(tile) fill a tile with their next 128 bytes:
 * asynchronously, or by plain stores, which the barrier of the step covers as well. */
template <class S, class Rows>
PRIM void tile_product(float (&acc)[S::MF][S::NF][4], Rows &rows, tile_columns<S> &columns,
                       int steps, unsigned char *shared)
{
    const int warp = (int)threadIdx.x >> 5;
    const int m = warp / S::WARPS_N * S::MF * 16, n = warp % S::WARPS_N * S::NF * 8;
    char *const ring = (char *)shared;
#pragma unroll
    for (int i = 0; i < S::MF * S::NF * 4; i++) acc[i / 4 / S::NF][i / 4 % S::NF][i % 4] = 0.0f;
    for (int s = 0; s < S::STAGES - 1; s++) {
        if (s < steps) {
            rows.load(ring + s * S::STAGE);
            columns.load(ring + s * S::STAGE + S::BM * 128);
        }
        cp_async_commit();
    }
    int at = 0, next = S::STAGES - 1;
    for (int j = 0; j < steps; j++) {
        cp_async_wait<S::STAGES - 2>();
        __syncthreads(); /* tile j is there, and everyone is done with tile j - 1 */
        if (j + S::STAGES - 1 < steps) {
            rows.load(ring + next * S::STAGE);
            columns.load(ring + next * S::STAGE + S::BM * 128);
        }
        cp_async_commit();
        char *const tile = ring + at * S::STAGE;
        multiply<S>(acc, tile, m, tile + S::BM * 128, n, typename S::W());
        at = at + 1 < S::STAGES ? at + 1 : 0;
        next = next + 1 < S::STAGES ? next + 1 : 0;
    }
    cp_async_wait<0>();
}

/* ---------------------------------------------------------------- the epilogue */

/* Two neighbouring sums, columns c and c + 1 (c even) of row m of the product, on their way to y.
 */
PRIM void finish_pair(const gpu_out &o, int n, int m, int c, float v0, float v1)
{
    if (o.act >= GPU_ACT_GEGLU) {
        const int j = c >> 1;
        const size_t at = (size_t)m * (size_t)o.ld + (size_t)j;
        float v = act_gated(o.act, v0 + o.bias[j], v1 + o.bias[(n >> 1) + j]);
        if (o.residual) v = __fadd_rn(v, float_at(o.residual, o.y_dtype, at));
        put_at(o.y, o.y_dtype, at, v);
        return;
    }
    const bool two = c + 1 < n;
    v0 += o.bias[c];
    if (two) v1 += o.bias[c + 1];
    if (o.row_bias) {
        const size_t at = (size_t)(m / o.row_pixels) * (size_t)o.row_bias_ld + (size_t)c;
        v0 += float_at(o.row_bias, o.row_bias_dtype, at);
        if (two) v1 += float_at(o.row_bias, o.row_bias_dtype, at + 1);
    }
    v0 = act_one(o.act, v0);
    v1 = act_one(o.act, v1);
    const size_t at = (size_t)m * (size_t)o.ld + (size_t)c;
    if (o.residual) {
        v0 = __fadd_rn(v0, float_at(o.residual, o.y_dtype, at));
        if (two) v1 = __fadd_rn(v1, float_at(o.residual, o.y_dtype, at + 1));
    }
    if (two && (o.ld & 1) == 0 && ((uintptr_t)o.y & 7) == 0) {
        if (o.y_dtype == GPU_F32)
            *(float2 *)((float *)o.y + at) = make_float2(v0, v1);
        else
            *(uint32_t *)((uint16_t *)o.y + at) = pack_bf16(v0, v1);
        return;
    }
    put_at(o.y, o.y_dtype, at, v0);
    if (two) put_at(o.y, o.y_dtype, at + 1, v1);
}

/* The sum of a column, as the weight's row is worth it. */
PRIM float tile_scaled(float sum, const gpu_matrix &, int, bool, bf16)
{
    return sum;
}
PRIM float tile_scaled(float sum, const gpu_matrix &, int, bool, float)
{
    return sum;
}
PRIM float tile_scaled(float sum, const gpu_matrix &w, int column, bool gated, e4m3)
{
    return column < w.n ? __fmul_rn(sum, w.scale[weight_row(column, w.n, gated)]) : 0.0f;
}

/* The block's sums, of which the first lies at row m0 and column n0 of a product of `end` rows and
 * w.n columns. */
template <class S>
PRIM void tile_finish(const float (&acc)[S::MF][S::NF][4], const gpu_out &o, const gpu_matrix &w,
                      int m0, int end, int n0)
{
    const bool gated = o.act >= GPU_ACT_GEGLU;
    const typename S::W kind = {};
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    const int m = m0 + warp / S::WARPS_N * S::MF * 16 + (lane >> 2);
    const int c = n0 + warp % S::WARPS_N * S::NF * 8 + (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < 2 * S::MF; i++)
#pragma unroll
        for (int j = 0; j < S::NF; j++)
            if (m + i * 8 < end && c + j * 8 < w.n)
                finish_pair(
                    o, w.n, m + i * 8, c + j * 8,
                    tile_scaled(acc[i / 2][j][i % 2 * 2], w, c + j * 8, gated, kind),
                    tile_scaled(acc[i / 2][j][i % 2 * 2 + 1], w, c + j * 8 + 1, gated, kind));
}

/* ---------------------------------------------------------------- shapes */

/* Registers, at most, in gemm.cu and conv.cu: */
typedef tile_shape<bf16, 16, 32, 1, 2, 6, 8> tile_16x32;            /* 80 */
typedef tile_shape<bf16, 64, 32, 2, 2, 4, 5> tile_64x32;            /* 96 */
typedef tile_shape<bf16, 64, 64, 2, 2, 3, 4> tile_64x64;            /* 128 */
typedef tile_shape<bf16, 128, 128, 2, 4, 3, 2> tile_128x128;        /* 128 */
typedef tile_shape<bf16, 16, 32, 1, 2, 6, 8, e4m3> tile_16x32_e4m3; /* 56 */
typedef tile_shape<bf16, 64, 32, 2, 2, 4, 5, e4m3> tile_64x32_e4m3; /* 72 */
typedef tile_shape<bf16, 64, 64, 2, 2, 3, 4, e4m3> tile_64x64_e4m3; /* 96 */
/* codes beside the sums of 128x128 do not fit into registers */
typedef tile_shape<bf16, 128, 64, 4, 2, 3, 2, e4m3> tile_128x64_e4m3; /* 96 */
typedef tile_shape<float, 64, 32, 2, 2, 4, 4> tile_64x32_f32;         /* 128 */
typedef tile_shape<float, 64, 64, 2, 2, 3, 2> tile_64x64_f32;         /* 216 */

/* Few rows: as little padding as an mma allows. Few columns, or a small rest of them: narrow. Large
 * tiles where they still give every multiprocessor one. */
static inline int tile_choose(int wanted, int dtype, int64_t rows, int n)
{
    if (wanted != GPU_TILE_AUTO) return wanted;
    const bool narrow = n <= 32 || (n < 256 && n % 64 > 0 && n % 64 <= 32);
    if (dtype != GPU_F32) {
        if (rows <= 16) return GPU_TILE_16x32;
        if (!narrow && rows >= 128 && (n % 128 == 0 || n > 256) &&
            (rows + 127) / 128 * ((n + 127) / 128) >= 108)
            return GPU_TILE_128x128;
    }
    return narrow ? GPU_TILE_64x32 : GPU_TILE_64x64;
}

/* Starts Kernel<S> on `rows` x n sums. */
#define TILE_LAUNCH(kernel, S, args, rows, n, stream)                                              \
    do {                                                                                           \
        static shared_limit limit_;                                                                \
        shared_allow(limit_, kernel<S>, S::SHARED); /* what fails is seen after the launch */      \
        KLAUNCH(kernel<S>,                                                                         \
                dim3((unsigned)((rows) + S::BM - 1) / S::BM, (unsigned)((n) + S::BN - 1) / S::BN), \
                S::THREADS, S::SHARED, stream)                                                     \
        (args);                                                                                    \
    } while (0)

#define TILE_DISPATCH(kernel, args, rows, stream)                                                  \
    do {                                                                                           \
        const int n_ = (args).w.n;                                                                 \
        const bool f32_ = (args).w.dtype == GPU_F32;                                               \
        switch (tile_choose((args).tile, (args).w.dtype, (rows), n_)) {                            \
        case GPU_TILE_16x32:                                                                       \
            TILE_LAUNCH(kernel, tile_16x32, args, rows, n_, stream);                               \
            break;                                                                                 \
        case GPU_TILE_64x32:                                                                       \
            if (f32_)                                                                              \
                TILE_LAUNCH(kernel, tile_64x32_f32, args, rows, n_, stream);                       \
            else                                                                                   \
                TILE_LAUNCH(kernel, tile_64x32, args, rows, n_, stream);                           \
            break;                                                                                 \
        case GPU_TILE_128x128:                                                                     \
            TILE_LAUNCH(kernel, tile_128x128, args, rows, n_, stream);                             \
            break;                                                                                 \
        default:                                                                                   \
            if (f32_)                                                                              \
                TILE_LAUNCH(kernel, tile_64x64_f32, args, rows, n_, stream);                       \
            else                                                                                   \
                TILE_LAUNCH(kernel, tile_64x64, args, rows, n_, stream);                           \
        }                                                                                          \
    } while (0)

/* The same for weights in FP8, which only products have. */
#define TILE_DISPATCH_E4M3(kernel, args, rows, stream)                                             \
    do {                                                                                           \
        const int n_ = (args).w.n;                                                                 \
        switch (tile_choose((args).tile, GPU_E4M3, (rows), n_)) {                                  \
        case GPU_TILE_16x32:                                                                       \
            TILE_LAUNCH(kernel, tile_16x32_e4m3, args, rows, n_, stream);                          \
            break;                                                                                 \
        case GPU_TILE_64x32:                                                                       \
            TILE_LAUNCH(kernel, tile_64x32_e4m3, args, rows, n_, stream);                          \
            break;                                                                                 \
        case GPU_TILE_128x128:                                                                     \
            TILE_LAUNCH(kernel, tile_128x64_e4m3, args, rows, n_, stream);                         \
            break;                                                                                 \
        default:                                                                                   \
            TILE_LAUNCH(kernel, tile_64x64_e4m3, args, rows, n_, stream);                          \
        }                                                                                          \
    } while (0)

#endif
