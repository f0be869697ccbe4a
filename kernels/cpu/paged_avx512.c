/* paged_avx512.c: paged attention in vectors of 64 bytes. */
#if defined(__AVX512DQ__) && defined(__FMA__)
#define KERNEL      an_paged_avx512
#define KERNEL_NAME "avx512"
#define AN_VW       64
#include "paged_impl.h"
#else
#include "paged.h"
const an_paged_kernel an_paged_avx512; /* another processor */
#endif
