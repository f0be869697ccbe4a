/* paged_avx2.c: paged attention in vectors of 32 bytes. */
#if defined(__AVX2__) && defined(__FMA__)
#define KERNEL      an_paged_avx2
#define KERNEL_NAME "avx2"
#define AN_VW       32
#include "paged_impl.h"
#else
#include "paged.h"
const an_paged_kernel an_paged_avx2; /* another processor */
#endif
