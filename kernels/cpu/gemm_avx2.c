/* gemm_avx2.c: f32 tiles of 6 x 16 with AVX2 and FMA: 12 accumulators, 2 vectors of the panel and
 * the broadcast value take 15 of the 16 registers. */
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

typedef __m256 vec;
#define VW             8
#define VLOAD(p)       _mm256_load_ps(p)
#define VSTORE(p, v)   _mm256_store_ps((p), (v))
#define VSPLAT(p)      _mm256_broadcast_ss(p)
#define VMADD(c, a, b) (c) = _mm256_fmadd_ps((a), (b), (c))
#define MR             6
#define NR             16
#define MC             96
#define NC             512
#define KC             384
#include "gemm_tile.h"

const an_gemm_kernel an_gemm_avx2[2] = TILE_KERNELS("avx2");
#else
#include "gemm.h"
const an_gemm_kernel an_gemm_avx2[2]; /* another processor */
#endif
