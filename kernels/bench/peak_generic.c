/* peak_generic.c: the peak of 4-wide vectors, multiply and add apart. */
#define AN_VW 16
#include "peak.h"

double an_peak_generic(int64_t rounds)
{
    return an_peak_of_vectors(rounds);
}
