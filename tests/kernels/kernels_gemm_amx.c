/* The AMX kernel of GEMM and convolution on emulated tiles. */
#define AN_AMX_EMULATE 1
#include "kernels/cpu/gemm_amx.c"

#define EMULATED_ISA   AN_ISA_AMX
#define EMULATED_DTYPE AN_BF16
#include "gemm_emulated.h"
