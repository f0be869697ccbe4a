/* gemm_bf16.c: bf16 tiles of 14 x 32 with AVX512_BF16, for machines without AMX: one instruction
 * multiplies 16 pairs of the panel with a broadcast pair and adds both products to 16 sums. A K
 * block of a panel is as large as gemm_avx512.c's. AN_BF16_EMULATE builds the same tile from plain
 * C vectors, so that its logic is tested on machines without the instruction. */
#if defined(__AVX512BF16__) || defined(AN_BF16_EMULATE)
#include "gemm.h"

#define elem   uint16_t
#define A_BF16 1
#define A_STEP 32
#define MR     14
#define NR     32
#define MC     168
#define NC     512
#define KC     512

#include "gemm_rows.h"
#include "pairs.h"

/* c[rows][32] (+)= a [k / 32][MR][32] . b [k / 32][16 pairs][32 columns][2] */
static inline __attribute__((always_inline)) void
tile_rows(const int rows, int64_t k, const elem *restrict a, const elem *restrict b,
          float *restrict c, int64_t ldc, bool first)
{
    an_sums acc[MR][2];
    UNROLL
    for (int r = 0; r < rows; r++) UNROLL
    for (int v = 0; v < 2; v++) {
        an_sums *at = (an_sums *)(void *)(c + r * ldc + 16 * v);
        acc[r][v] = first ? (an_sums){0} : *at;
    }
    for (; k > 0; k -= A_STEP, a += (MR - 1) * A_STEP) {
        for (int i = 0; i < A_STEP / 2; i++, a += 2, b += 2 * NR) {
            const an_pairs *panel = (const an_pairs *)(const void *)b;
            UNROLL
            for (int r = 0; r < rows; r++) {
                uint32_t pair;
                memcpy(&pair, a + r * A_STEP, sizeof pair);
                const an_pairs x = an_pairs_set(pair);
                acc[r][0] = an_pairs_add(acc[r][0], x, panel[0]);
                acc[r][1] = an_pairs_add(acc[r][1], x, panel[1]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) UNROLL
    for (int v = 0; v < 2; v++) *(an_sums *)(void *)(c + r * ldc + 16 * v) = acc[r][v];
}

#define TILE_CASE(r)                                                                               \
    case r:                                                                                        \
        tile_rows(r, k, a, b, c, ldc, first);                                                      \
        break;

static __attribute__((noinline)) void tile(int rows, int64_t k, const elem *a, int64_t lda,
                                           const elem *b, float *c, int64_t ldc, bool first)
{
    (void)lda; /* always packed */
    switch (rows) {
        FEWER_ROWS(TILE_CASE)
    default:
        tile_rows(MR, k, a, b, c, ldc, first);
        break;
    }
}

#include "gemm_block.h"

static void block_bf16(const an_gemm_job *j, int64_t m0, int64_t m1, int64_t j0, int64_t j1,
                       void *scratch)
{
    run_block(j, m0, m1, j0, j1, scratch, false);
}

const an_gemm_kernel an_gemm_bf16[1] = {
    {"avx512 bf16", AN_BF16, MR, NR, 2, A_STEP, MC, NC, BLOCK_SCRATCH, block_bf16, finish_row}};
#else
#include "gemm.h"
const an_gemm_kernel an_gemm_bf16[1]; /* another processor */
#endif
