/* tile90.cuh: the engine of tile.cuh for compute capability 9.0: the same products, tiles and
 * epilogue, by wgmma. Four warps fill a ring of stages, four or eight others multiply, and no
 * thread does both: a stage's mbarrier `full` says that it is there, `empty` that it was read.
 *
 * The weight comes by TMA. So do rows of x that lie side by side in bf16 (TILE90_TMA: one thread
 * does all the work); any others, found through an index, converted, or a picture's, are loaded by
 * the 128 threads as in tile.cuh, and passed on to wgmma.
 *
 * Why bytes do not depend on the batch: a sum is one chain over k in order, 16 values of k a wgmma,
 * begun at zero. How wide the instruction is follows from the layer (tile90_wide); how many warps
 * there are follows from the number of rows, and changes no instruction. */
#ifndef ANNEAL_TILE90_CUH
#define ANNEAL_TILE90_CUH

#include "hopper.cuh"
#include "tile_rows.cuh"

/* Groups of four warps multiply 64 rows each. */
template <int N, int Groups, int Stages> struct tile90_shape {
    typedef bf16 T;
    static constexpr int BM = 64 * Groups, BN = N, GROUPS = Groups, STAGES = Stages;
    static constexpr int LOADERS = 128, THREADS = LOADERS + 128 * Groups;
    static constexpr int PIECE = 8, BK = 64, PASS = LOADERS / 8; /* as in tile_shape */
    static constexpr int STAGE = (BM + BN) * 128, BARS = Stages * STAGE;
    static constexpr int SHARED = BARS + 2 * Stages * (int)sizeof(uint64_t);
    static constexpr int LAG = 2; /* stages that a loading thread has on their way */
};

enum { TILE90_LOADED, TILE90_TMA };

struct tile90_ring {
    unsigned char *tiles;
    uint64_t *full, *empty;
};

/* By all threads of the block. */
template <class S> PRIM tile90_ring tile90_begin(unsigned char *shared, int how)
{
    uint64_t *const bars = (uint64_t *)(shared + S::BARS);
    const tile90_ring r = {shared, bars, bars + S::STAGES};
    if (threadIdx.x == 0) {
        for (int s = 0; s < S::STAGES; s++) {
            mbar_init(&r.full[s], how == TILE90_TMA ? 1 : 1 + S::LOADERS);
            mbar_init(&r.empty[s], 4 * S::GROUPS);
        }
        mbar_fence_init();
    }
    __syncthreads();
    return r;
}

/* ---------------------------------------------------------------- filling */

/* The weight's rows of this block: two halves of a tile; with gated, the values' and the gates'. */
struct tile90_columns {
    const CUtensorMap *map;
    int row[2];
};

template <class S>
PRIM void tile90_load_columns(const tile90_columns &w, unsigned char *stage, int j, uint64_t *full)
{
    unsigned char *const tile = stage + S::BM * 128;
    tma_load_2d(tile, w.map, j * S::BK, w.row[0], full);
    tma_load_2d(tile + S::BN / 2 * 128, w.map, j * S::BK, w.row[1], full);
}

/* Both operands by one thread; x's rows from m0 on. */
template <class S>
PRIM void tile90_fill_tma(const tile90_ring &r, const CUtensorMap *x, int m0,
                          const tile90_columns &w, int steps)
{
    int s = 0;
    uint32_t phase = 1;
    for (int j = 0; j < steps; j++) {
        unsigned char *const stage = r.tiles + s * S::STAGE;
        mbar_wait(&r.empty[s], phase);
        mbar_arrive_tx(&r.full[s], S::STAGE);
        tma_load_2d(stage, x, j * S::BK, m0, &r.full[s]);
        tile90_load_columns<S>(w, stage, j, &r.full[s]);
        if (++s == S::STAGES) s = 0, phase ^= 1;
    }
}

/* Rows by the loading threads. What a thread copied is there LAG steps later, and passed on then.
 */
template <class S, class Rows>
PRIM void tile90_fill(const tile90_ring &r, Rows &rows, const tile90_columns &w, int steps)
{
    int s = 0, ready = 0;
    uint32_t phase = 1;
    for (int j = 0; j < steps; j++) {
        unsigned char *const stage = r.tiles + s * S::STAGE;
        mbar_wait(&r.empty[s], phase);
        if (threadIdx.x == 0) {
            mbar_arrive_tx(&r.full[s], S::BN * 128);
            tile90_load_columns<S>(w, stage, j, &r.full[s]);
        }
        rows.load((char *)stage);
        cp_async_commit();
        if (++s == S::STAGES) s = 0, phase ^= 1;
        if (j < S::LAG) continue;
        cp_async_wait<S::LAG>();
        proxy_fence();
        mbar_arrive(&r.full[ready]);
        if (++ready == S::STAGES) ready = 0;
    }
    cp_async_wait<0>();
    proxy_fence();
    for (int j = steps < S::LAG ? 0 : steps - S::LAG; j < steps; j++) {
        mbar_arrive(&r.full[ready]);
        if (++ready == S::STAGES) ready = 0;
    }
}

/* ---------------------------------------------------------------- multiplying */

/* d = the sums of this warpgroup's 64 rows. One step's products run while the next is issued. */
template <class S> PRIM void tile90_multiply(float (&d)[S::BN / 2], const tile90_ring &r, int steps)
{
    const int group = ((int)threadIdx.x - S::LOADERS) >> 7;
    int s = 0, before = 0;
    uint32_t phase = 0;
    for (int j = 0; j < steps; j++) {
        unsigned char *const stage = r.tiles + s * S::STAGE;
        mbar_wait(&r.full[s], phase);
        const uint64_t a = wgmma_tile(stage + group * 64 * 128),
                       b = wgmma_tile(stage + S::BM * 128);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; i++)
            wgmma_bf16(d, a + wgmma_step(i), b + wgmma_step(i), j > 0 || i > 0);
        wgmma_commit();
        wgmma_wait<1>(d);
        if (j > 0 && (threadIdx.x & 31) == 0) mbar_arrive(&r.empty[before]);
        before = s;
        if (++s == S::STAGES) s = 0, phase ^= 1;
    }
    wgmma_wait<0>(d);
}

/* The warps' sums, 16 rows each, go through the ring, which nobody fills any more: so neighbouring
 * threads write neighbouring columns, and the epilogue is compiled once, not for every sum. The
 * block's first sum lies at row m0 and column n0 of a product of `end` rows and n columns. With
 * gated, a value's gate is half a tile further. */
template <class S>
PRIM void tile90_finish(const float (&d)[S::BN / 2], unsigned char *tiles, const gpu_out &o, int n,
                        int m0, int end, int n0)
{
    constexpr int PITCH = S::BN + 8; /* floats: rows g of a fragment lie in different banks */
    static_assert(S::BM * PITCH * 4 <= S::BARS, "sums have room in the ring");
    const int warp = ((int)threadIdx.x - S::LOADERS) >> 5, lane = (int)threadIdx.x & 31;
    const bool gated = o.act >= GPU_ACT_GEGLU;
    float *const sums = (float *)tiles + warp * 16 * PITCH;
    float *const mine = sums + (lane >> 2) * PITCH + (lane & 3) * 2;
    named_barrier(1, 128 * S::GROUPS); /* the other warpgroup has read the ring as well */
#pragma unroll
    for (int i = 0; i < S::BN / 2; i += 2)
        *(float2 *)(mine + (i >> 1 & 1) * 8 * PITCH + (i >> 2) * 8) = make_float2(d[i], d[i + 1]);
    __syncwarp();
    const int step = gated ? 1 : 2, columns = gated ? S::BN / 2 : S::BN;
#pragma unroll 1
    for (int row = 0; row < 16 && m0 + warp * 16 + row < end; row++)
#pragma unroll 1
        for (int c = lane * step; c < columns; c += 32 * step) {
            const float *v = sums + row * PITCH + c;
            const int column = n0 + c * (2 / step);
            if (column < n)
                finish_pair(o, n, m0 + warp * 16 + row, column, v[0], v[gated ? S::BN / 2 : 1]);
        }
}

/* ---------------------------------------------------------------- choosing */

typedef tile90_shape<64, 1, 5> tile90_64x64;
typedef tile90_shape<64, 2, 4> tile90_128x64;
typedef tile90_shape<128, 1, 5> tile90_64x128;
typedef tile90_shape<128, 2, 4> tile90_128x128;

/* 128 columns a block, or 64. */
static inline bool tile90_wide(int n)
{
    return n > 64 && (n % 128 == 0 || n > 512);
}

static inline bool tile90_tall(int wanted, int64_t rows)
{
    return wanted == GPU_TILE_AUTO ? rows > 64 : wanted == GPU_TILE_128x128;
}

/* Call<S>(arguments) for the shape that a product of so many rows takes. */
#define TILE90_DISPATCH(call, a, rows, ...)                                                        \
    (tile90_wide((a)->w.n) ? tile90_tall((a)->tile, rows) ? call<tile90_128x128>(a, __VA_ARGS__)   \
                                                          : call<tile90_64x128>(a, __VA_ARGS__)    \
     : tile90_tall((a)->tile, rows) ? call<tile90_128x64>(a, __VA_ARGS__)                          \
                                    : call<tile90_64x64>(a, __VA_ARGS__))

/* Tiles of the weight's rows, half a block's columns each. */
template <class S> static inline cudaError_t tile90_weight(CUtensorMap *map, const gpu_matrix &w)
{
    return tensor_map_of(map, w.w, w.n, w.pitch, w.pitch, S::BN / 2);
}

PRIM tile90_columns tile90_columns_of(const CUtensorMap *map, int n, int n0, int columns,
                                      bool gated)
{
    const tile90_columns both = {map, {n0, n0 + columns / 2}},
                         gates = {map, {n0 / 2, n / 2 + n0 / 2}};
    return gated ? gates : both;
}

template <class S> static inline dim3 tile90_grid(int64_t rows, int n)
{
    return dim3((unsigned)((rows + S::BM - 1) / S::BM), (unsigned)((n + S::BN - 1) / S::BN));
}

#endif
