/* pairs.h: vectors of 16 pairs of bf16 for AVX512_BF16. A file compiled without the instruction gets
 * the same from plain C vectors, so that its logic is tested on other machines. Private to
 * kernels/cpu. */
#ifndef ANNEAL_CPU_PAIRS_H
#define ANNEAL_CPU_PAIRS_H

#include <stdint.h>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

typedef uint32_t an_pairs __attribute__((vector_size(64), may_alias));
typedef float an_sums __attribute__((vector_size(64), may_alias));

/* One pair in all lanes. */
static inline __attribute__((always_inline)) an_pairs an_pairs_set(uint32_t pair)
{
    return pair - (an_pairs){0};
}

/* c + both products of each pair, the second one first. */
static inline __attribute__((always_inline)) an_sums an_pairs_add(an_sums c, an_pairs a, an_pairs b)
{
#ifdef __AVX512BF16__
    return (an_sums)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#else /* as the hardware, but for denormals, which it flushes */
    c += (an_sums)(a & 0xffff0000u) * (an_sums)(b & 0xffff0000u);
    return c + (an_sums)(a << 16) * (an_sums)(b << 16);
#endif
}

#endif
