/* gemm_tile.h: the f32 tile in the vector operations of the including file, which has defined
 *     vec VW VLOAD(p) VSTORE(p, v) VSPLAT(p) VMADD(c, a, b): c += a * b; p of VLOAD and VSTORE is
 *     aligned (panels and the C block lie so), p of VSPLAT is one float
 *     MR NR, and MC NC KC of gemm_block.h
 * and which gets `tile` and the block driver. The accumulators of a tile fill the register file;
 * each value of A is broadcast against NR / VW vectors of the panel. A tile of fewer rows is the
 * same chain of operations for the rows it has. */
#define elem   float
#define A_BF16 0
#define A_STEP KC
#include "gemm.h"

#define NV (NR / VW)
#include "gemm_rows.h"

/* A vector of a panel in bf16: the upper halves of floats. */
typedef uint16_t vec_half __attribute__((vector_size(2 * VW), may_alias, aligned(2)));
typedef uint32_t vec_bits __attribute__((vector_size(4 * VW)));
#define VLOAD_HALF(p) ((vec)(__builtin_convertvector(*(const vec_half *)(p), vec_bits) << 16))

/* b: a panel as f32, or (half) as the bf16 it lies in memory as. */
static inline __attribute__((always_inline)) void
tile_rows(const int rows, const bool half, int64_t k, const float *restrict a, int64_t lda,
          const void *restrict panel, float *restrict c, int64_t ldc, bool first)
{
    const float *b = panel;
    const uint16_t *h = panel;
    vec acc[MR][NV];
    UNROLL
    for (int r = 0; r < rows; r++) UNROLL
    for (int v = 0; v < NV; v++) acc[r][v] = first ? (vec){0} : VLOAD(c + r * ldc + v * VW);
    for (int64_t i = 0; i < k; i++, a++, b += half ? 0 : NR, h += half ? NR : 0) {
        vec bv[NV];
        UNROLL
        for (int v = 0; v < NV; v++) bv[v] = half ? VLOAD_HALF(h + v * VW) : VLOAD(b + v * VW);
        UNROLL
        for (int r = 0; r < rows; r++) {
            vec av = VSPLAT(a + r * lda);
            UNROLL
            for (int v = 0; v < NV; v++) VMADD(acc[r][v], av, bv[v]);
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) UNROLL
    for (int v = 0; v < NV; v++) VSTORE(c + r * ldc + v * VW, acc[r][v]);
}

#define TILE_CASE(r)                                                                               \
    case r:                                                                                        \
        tile_rows(r, false, k, a, lda, b, c, ldc, first);                                          \
        break;

static __attribute__((noinline)) void tile(int rows, int64_t k, const float *a, int64_t lda,
                                           const float *b, float *c, int64_t ldc, bool first)
{
    switch (rows) {
        FEWER_ROWS(TILE_CASE)
    default: /* packed is the usual place: addresses with constants in them */
        if (lda == KC)
            tile_rows(MR, false, k, a, KC, b, c, ldc, first);
        else
            tile_rows(MR, false, k, a, lda, b, c, ldc, first);
        break;
    }
}

/* A few rows against a panel in bf16: it is read from memory once, and that is what takes the time.
 * The same chains of operations as tile's. */
#define HALF_ROWS 4
static __attribute__((noinline)) void tile_half(int rows, int64_t k, const float *a, int64_t lda,
                                                const uint16_t *b, float *c, int64_t ldc,
                                                bool first)
{
    switch (rows) {
    case 1:
        tile_rows(1, true, k, a, lda, b, c, ldc, first);
        break;
    case 2:
        tile_rows(2, true, k, a, lda, b, c, ldc, first);
        break;
    case 3:
        tile_rows(3, true, k, a, lda, b, c, ldc, first);
        break;
    default:
        tile_rows(HALF_ROWS, true, k, a, lda, b, c, ldc, first);
        break;
    }
}

#include "gemm_block.h"

static void block_f32(const an_gemm_job *j, int64_t m0, int64_t m1, int64_t j0, int64_t j1,
                      void *scratch)
{
    run_block(j, m0, m1, j0, j1, scratch, false);
}

/* bf16 is a storage dtype here: what is stored in it is exact in f32, and computed so. */
static void block_bf16(const an_gemm_job *j, int64_t m0, int64_t m1, int64_t j0, int64_t j1,
                       void *scratch)
{
    run_block(j, m0, m1, j0, j1, scratch, true);
}

#define TILE_KERNELS(isa)                                                                          \
    {                                                                                              \
        {isa " f32", AN_F32, MR, NR, 1, 1, MC, NC, BLOCK_SCRATCH, block_f32, finish_row},          \
            {isa " bf16 storage", AN_BF16,    MR,        NR, 1, 1, MC, NC,                         \
             BLOCK_SCRATCH,       block_bf16, finish_row},                                         \
    }
