/* peak_bf16.c: the peak of AVX512_BF16's products of pairs. */
#ifdef __AVX512BF16__
#define AN_VW 64
#endif
#include "peak.h"

double an_peak_bf16(int64_t rounds)
{
#ifdef __AVX512BF16__
#define PAIRS_BEGIN(c) __m512 acc##c = _mm512_set1_ps((float)c);
#define PAIRS_ADD(c)   acc##c = _mm512_dpbf16_ps(acc##c, one, tiny);
#define PAIRS_SUM(c)   sum += acc##c;
    const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
    const __m512bh tiny = (__m512bh)_mm512_set1_epi16(0x3089);
    PEAK_EACH(PAIRS_BEGIN)
    for (int64_t i = 0; i < rounds; i++) {
        PEAK_EACH(PAIRS_ADD)
        PEAK_EACH(PEAK_KEEP)
    }
    __m512 sum = _mm512_setzero_ps();
    PEAK_EACH(PAIRS_SUM)
    volatile float sink = _mm512_reduce_add_ps(sum);
    (void)sink;
    return (double)rounds * PEAK_CHAINS * 32 * 2;
#else
    return 0 * (double)rounds;
#endif
}
