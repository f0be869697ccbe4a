/* The AVX-512 kernel of GEMM and convolution on vectors of plain C. */
#define AN_AVX512_EMULATE 1
#include "kernels/cpu/gemm_avx512.c"

#define EMULATED_ISA   AN_ISA_AVX512
#define EMULATED_DTYPE AN_F32
#include "gemm_emulated.h"
