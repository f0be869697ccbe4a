/* gemm_amx.c: bf16 tiles of 32 x 32 with AMX: four accumulators of 16 x 16, two tiles of A (16 rows
 * of 32 k), two of B (16 pairs of k by 16 columns), so that four products take four loads. A tile's
 * rows and a panel's K block fit into L1 together, 384 rows of both A and C into L2. Rows
 * beyond the matrix are computed on whatever the block holds there and never stored to y. */
#if defined(__AMX_BF16__) || defined(__AMXBF16__) || defined(AN_AMX_EMULATE)
#include "amx_tile.h"

#define elem   uint16_t
#define A_BF16 1
#define A_STEP 32
#define MR     32
#define NR     32
#define MC     384
#define NC     384
#define KC     320

/* c[32][32] (+)= a [k / 32][32][32] . b [k / 32][16 pairs][32 columns][2]; always whole tiles: the
 * block of C has room for them. */
static __attribute__((noinline)) void tile(int rows, int64_t k, const elem *a, int64_t lda,
                                           const elem *b, float *c, int64_t ldc, bool first)
{
    (void)rows, (void)lda; /* always packed */
    const int64_t stride = ldc * (int64_t)sizeof(float);
    AN_TILES;
    if (first) {
        an_tile_zero(0);
        an_tile_zero(1);
        an_tile_zero(2);
        an_tile_zero(3);
    } else {
        an_tile_load(0, c, stride);
        an_tile_load(1, c + 16, stride);
        an_tile_load(2, c + 16 * ldc, stride);
        an_tile_load(3, c + 16 * ldc + 16, stride);
    }
    for (int64_t i = 0; i < k; i += A_STEP, a += MR * A_STEP, b += NR * A_STEP) {
        an_tile_load(4, a, 64);
        an_tile_load(6, b, 128);
        an_tile_load(7, b + 32, 128);
        an_tile_load(5, a + 16 * A_STEP, 64);
        an_tile_dpbf16(0, 4, 6);
        an_tile_dpbf16(1, 4, 7);
        an_tile_dpbf16(2, 5, 6);
        an_tile_dpbf16(3, 5, 7);
    }
    an_tile_store(0, c, stride);
    an_tile_store(1, c + 16, stride);
    an_tile_store(2, c + 16 * ldc, stride);
    an_tile_store(3, c + 16 * ldc + 16, stride);
}

#include "gemm_block.h"

static void block_amx(const an_gemm_job *j, int64_t m0, int64_t m1, int64_t j0, int64_t j1,
                      void *scratch)
{
    an_tile_begin();
    run_block(j, m0, m1, j0, j1, scratch, false);
    an_tile_end();
}

const an_gemm_kernel an_gemm_amx[1] = {
    {"amx bf16", AN_BF16, MR, NR, 2, A_STEP, MC, NC, BLOCK_SCRATCH, block_amx, finish_row}};
#else
#include "gemm.h"
const an_gemm_kernel an_gemm_amx[1]; /* another processor */
#endif
