/* gemm_generic.c: f32 tiles of 6 x 8 in vectors of 4, which every machine has. No fused
 * multiply-add: results differ from the wider sets in the last bits, as results of another machine
 * kind may. */
typedef float vec __attribute__((vector_size(16)));
typedef float vec_memory __attribute__((vector_size(16), may_alias));
#define VW             4
#define VLOAD(p)       ((vec) * (const vec_memory *)(p))
#define VSTORE(p, v)   (*(vec_memory *)(p) = (v))
#define VSPLAT(p)      ((vec){*(p), *(p), *(p), *(p)})
#define VMADD(c, a, b) (c) += (a) * (b)
#define MR             6
#define NR             8
#define MC             96
#define NC             512
#define KC             384
#include "gemm_tile.h"

const an_gemm_kernel an_gemm_generic[2] = TILE_KERNELS("generic");
