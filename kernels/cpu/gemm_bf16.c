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

#ifdef AN_BF16_EMULATE
typedef float vec __attribute__((vector_size(64)));
typedef float vec_memory __attribute__((vector_size(64), may_alias));
#define VLOAD(p)     ((vec) * (const vec_memory *)(p))
#define VSTORE(p, v) (*(vec_memory *)(p) = (v))

/* As the hardware, but for denormals, which it flushes. A call: the compiler has enough to unroll.
 * (Sums written as (*c)[i] += in one loop over both: gcc 12 at -O3 gives others.) */
static __attribute__((noinline)) void add_pairs(vec *c, const elem *a, const elem *b)
{
    vec first, second;
    for (int i = 0; i < 16; i++) first[i] = an_bf16_to_f32(b[2 * i]);
    for (int i = 0; i < 16; i++) second[i] = an_bf16_to_f32(b[2 * i + 1]);
    *c += second * an_bf16_to_f32(a[1]);
    *c += first * an_bf16_to_f32(a[0]);
}
#define PAIRS_OF(p)        (p)
#define SPLAT_PAIR(p)      (p)
#define ADD_PAIRS(c, a, b) add_pairs(&(c), (a), (b))
typedef const elem *pairs;
#else
#include <immintrin.h>
typedef __m512 vec;
typedef __m512bh pairs;
#define VLOAD(p)           _mm512_load_ps(p)
#define VSTORE(p, v)       _mm512_store_ps((p), (v))
#define PAIRS_OF(p)        ((__m512bh)_mm512_load_si512(p))
static inline __attribute__((always_inline)) pairs splat_pair(const elem *p)
{
    int32_t both;
    memcpy(&both, p, sizeof both);
    return (__m512bh)_mm512_set1_epi32(both);
}
#define SPLAT_PAIR(p)      splat_pair(p)
#define ADD_PAIRS(c, a, b) (c) = _mm512_dpbf16_ps((c), (b), (a))
#endif

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* c[rows][32] (+)= a [k / 32][MR][32] . b [k / 32][16 pairs][32 columns][2] */
static inline __attribute__((always_inline)) void
tile_rows(const int rows, int64_t k, const elem *restrict a, const elem *restrict b,
          float *restrict c, int64_t ldc, bool first)
{
    vec acc[MR][2];
    UNROLL
    for (int r = 0; r < rows; r++) UNROLL
    for (int v = 0; v < 2; v++) acc[r][v] = first ? (vec){0} : VLOAD(c + r * ldc + 16 * v);
    for (; k > 0; k -= A_STEP, a += (MR - 1) * A_STEP) {
        for (int i = 0; i < A_STEP / 2; i++, a += 2, b += 2 * NR) {
            const pairs b0 = PAIRS_OF(b), b1 = PAIRS_OF(b + NR);
            UNROLL
            for (int r = 0; r < rows; r++) {
                const pairs x = SPLAT_PAIR(a + r * A_STEP);
                ADD_PAIRS(acc[r][0], x, b0);
                ADD_PAIRS(acc[r][1], x, b1);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) UNROLL
    for (int v = 0; v < 2; v++) VSTORE(c + r * ldc + 16 * v, acc[r][v]);
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
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
        TILE_CASE(4)
        TILE_CASE(5)
        TILE_CASE(6)
        TILE_CASE(7)
        TILE_CASE(8)
        TILE_CASE(9)
        TILE_CASE(10)
        TILE_CASE(11)
        TILE_CASE(12)
        TILE_CASE(13)
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
