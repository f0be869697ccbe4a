/* gemm_avx512.c: f32 tiles of 14 x 32 with AVX-512: 28 accumulators, 2 vectors of the panel and the
 * broadcast value take 31 of the 32 registers. AN_AVX512_EMULATE builds the same tile from plain C
 * vectors, so that its logic is tested on machines without these instructions. */
#if defined(__AVX512F__) || defined(AN_AVX512_EMULATE)
#define VW 16
#ifdef AN_AVX512_EMULATE
#include <math.h>
typedef float vec __attribute__((vector_size(64)));
typedef float vec_memory __attribute__((vector_size(64), may_alias));
#define VLOAD(p)     ((vec) * (const vec_memory *)(p))
#define VSTORE(p, v) (*(vec_memory *)(p) = (v))
#define VSPLAT(p)    ((vec){0} + *(p))
#define VMADD(c, a, b)                                                                             \
    for (int lane_ = 0; lane_ < VW; lane_++) (c)[lane_] = fmaf((a)[lane_], (b)[lane_], (c)[lane_])
#else
#include <immintrin.h>
typedef __m512 vec;
#define VLOAD(p)       _mm512_load_ps(p)
#define VSTORE(p, v)   _mm512_store_ps((p), (v))
#define VSPLAT(p)      _mm512_set1_ps(*(p))
#define VMADD(c, a, b) (c) = _mm512_fmadd_ps((a), (b), (c))
#endif
#define MR 14
#define NR 32
#define MC 168
#define NC 512
#define KC 256
#include "gemm_tile.h"

const an_gemm_kernel an_gemm_avx512[2] = TILE_KERNELS("avx512");
#else
#include "gemm.h"
const an_gemm_kernel an_gemm_avx512[2]; /* another processor */
#endif
