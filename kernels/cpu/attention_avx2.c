/* attention_avx2.c: attention for AVX2 with FMA: 16 registers of 8 floats. */
#if defined(__AVX2__) && defined(__FMA__)
#define KERNEL      an_attention_avx2
#define KERNEL_NAME "avx2"
#define AN_VW       32
#define MR          4
#define PAIRS       0
#include "attention_impl.h"
#else
#include "attention.h"
const an_attention_kernel an_attention_avx2; /* another processor */
#endif
