/* peak_avx512.c: the peak of 16-wide fused multiply-adds. */
#ifdef __AVX512F__
#define AN_VW 64
#endif
#include "peak.h"

double an_peak_avx512(int64_t rounds)
{
#ifdef __AVX512F__
    return an_peak_of_vectors(rounds);
#else
    return 0 * (double)rounds;
#endif
}
