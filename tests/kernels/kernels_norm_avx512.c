/* The tests of kernels_norm.c on the vectors of AVX-512, built here from plain C, so that their
 * loops and tails are tested on every machine: the table below stands before the library's. */
/* Every function that takes or returns such a vector is inlined: no call has an ABI to change. */
#pragma GCC diagnostic ignored "-Wpsabi"
#include "kernels/cpu/vec_avx512.c"

#define EMULATED_ISA AN_ISA_AVX512
#include "kernels_norm.c"
