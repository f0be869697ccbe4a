/* The AVX512_BF16 kernel of GEMM and convolution on vectors of plain C. */
#define AN_BF16_EMULATE 1
#include "kernels/cpu/gemm_bf16.c"

#define EMULATED_ISA   AN_ISA_BF16
#define EMULATED_DTYPE AN_BF16
#include "gemm_emulated.h"
