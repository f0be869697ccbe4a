/* peak.h: as many multiply-adds a second as one thread can issue: independent chains in registers,
 * nothing from memory. Compiled once for each instruction set. */
#ifndef ANNEAL_BENCH_PEAK_H
#define ANNEAL_BENCH_PEAK_H

#include "../cpu/vmath.h"

/* Runs the chains `rounds` times; returns the floating-point operations done, 0 if this build lacks
 * the instructions. */
typedef double an_peak_fn(int64_t rounds);
an_peak_fn an_peak_generic, an_peak_avx2, an_peak_avx512, an_peak_bf16, an_peak_amx;

/* Latency times issue width of the usual machines, and within 16 registers. Variables of their own:
 * gcc 12 keeps an array in memory, loop unrolled or not, and halves the peak. */
#define PEAK_CHAINS   12
#define PEAK_EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define PEAK_BEGIN(c) an_vf acc##c = v_set((float)c);
#define PEAK_FMA(c)   acc##c = v_fma(acc##c, one, tiny);
#define PEAK_SUM(c)   sum += acc##c;
#if defined(__x86_64__)
#define PEAK_KEEP(c) __asm__ volatile("" : "+x"(acc##c)); /* the chain is not to be shortened */
#else
#define PEAK_KEEP(c)
#endif

V_INLINE double an_peak_of_vectors(int64_t rounds)
{
    const an_vf one = v_set(1.0f), tiny = v_set(1e-9f);
    PEAK_EACH(PEAK_BEGIN)
    for (int64_t i = 0; i < rounds; i++) {
        PEAK_EACH(PEAK_FMA)
        PEAK_EACH(PEAK_KEEP)
    }
    an_vf sum = v_set(0);
    PEAK_EACH(PEAK_SUM)
    volatile float sink = v_sum(sum);
    (void)sink;
    return (double)rounds * PEAK_CHAINS * AN_VL * 2;
}

#endif
