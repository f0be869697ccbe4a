/* attention_bf16.c: attention of bf16 tasks for AVX512_BF16: 32 registers of 16 pairs. */
#if defined(__AVX512BF16__)
#define KERNEL      an_attention_bf16
#define KERNEL_NAME "avx512 bf16"
#define AN_VW       64
#define MR          8
#define PAIRS       1
#include "attention_impl.h"
#else
#include "attention.h"
const an_attention_kernel an_attention_bf16; /* another processor */
#endif
