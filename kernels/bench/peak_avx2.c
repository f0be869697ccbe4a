/* peak_avx2.c: the peak of 8-wide fused multiply-adds. */
#ifdef __AVX2__
#define AN_VW 32
#endif
#include "peak.h"

double an_peak_avx2(int64_t rounds)
{
#ifdef __AVX2__
    return an_peak_of_vectors(rounds);
#else
    return 0 * (double)rounds;
#endif
}
