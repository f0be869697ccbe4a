/* bench.h: how fast the ops run on this machine, and how much of the machine they use. What
 * `anneal bench` prints. */
#ifndef ANNEAL_BENCH_H
#define ANNEAL_BENCH_H

#include "anneal/ops.h"

#include <stdio.h>

typedef struct an_bench_options {
    const char *only; /* ops whose line contains this, NULL = all */
    double seconds;   /* to spend on an op, 0 = 0.3 */
    an_dtype dtype;   /* of the activations: F32 or BF16 */
} an_bench_options;

/* What this device could do at most with activations of this dtype, all threads at once, measured
 * now (a second): 2 x multiply-adds a second from registers, bytes a second (read and written) of
 * copying memory. Every share that `anneal bench` prints is of these. */
an_status an_bench_peaks(an_device *d, an_dtype dtype, double *flops, double *bytes, an_error *err);

/* Runs the ops of Stable Diffusion 1.5, of the demo model and of language models on random data and writes a line for
 * each to `out`: the time of its fastest run, TFLOP/s, GB/s (every operand counted once), and the
 * shares of two peaks that are measured first, on the same threads: multiply-adds from registers,
 * and copying memory. A share above 100 % of the second means that the caches helped. */
an_status an_bench_ops(an_device *d, const an_bench_options *o, FILE *out, an_error *err);

#endif
