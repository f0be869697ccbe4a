/* attention_avx512.c: attention for AVX-512: 32 registers of 16 floats. */
#if defined(__AVX512F__)
#define KERNEL      an_attention_avx512
#define KERNEL_NAME "avx512"
#define AN_VW       64
#define MR          8
#define PAIRS       0
#include "attention_impl.h"
#else
#include "attention.h"
const an_attention_kernel an_attention_avx512; /* another processor */
#endif
