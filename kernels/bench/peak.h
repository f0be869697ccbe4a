/* peak.h: as many multiply-adds a second as one thread can issue: independent chains in registers,
 * nothing from memory. Compiled once for each instruction set. */
#ifndef ANNEAL_BENCH_PEAK_H
#define ANNEAL_BENCH_PEAK_H

#include "../cpu/vmath.h"

/* Runs the chains `rounds` times; returns the floating-point operations done, 0 if this build lacks
 * the instructions. */
typedef double an_peak_fn(int64_t rounds);
an_peak_fn an_peak_generic, an_peak_avx2, an_peak_avx512, an_peak_amx;

#define PEAK_CHAINS                                                                                \
    12 /* latency times issue width of the usual machines, and within 16 registers */

V_INLINE double an_peak_of_vectors(int64_t rounds)
{
    an_vf acc[PEAK_CHAINS], one = v_set(1.0f), tiny = v_set(1e-9f);
    for (int c = 0; c < PEAK_CHAINS; c++) acc[c] = v_set((float)c);
    for (int64_t i = 0; i < rounds; i++) {
#ifdef __clang__
        _Pragma("unroll")
#else
        _Pragma("GCC unroll 16")
#endif
            for (int c = 0; c < PEAK_CHAINS; c++)
        {
            acc[c] = v_fma(acc[c], one, tiny);
#if defined(__x86_64__)
            __asm__ volatile("" : "+x"(acc[c])); /* the chain is not to be shortened */
#endif
        }
    }
    volatile float sink = 0;
    for (int c = 0; c < PEAK_CHAINS; c++) sink = sink + v_sum(acc[c]);
    return (double)rounds * PEAK_CHAINS * AN_VL * 2;
}

#endif
