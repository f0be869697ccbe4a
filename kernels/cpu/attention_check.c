/* attention_check.c: attention's self-test: a causal task with ragged edges in every block size and
 * more than one chunk of keys, against plain loops in double precision. */
#include "attention.h"

#include <math.h>
#include <stdlib.h>

/* As if it were the second group of its row: the first query sees keys 0..FIRST. */
enum { Q = 61, K = AN_ATTENTION_CHUNK + 9, D = 40, FIRST = K - Q };
static const float SCALE = 0.25f;

typedef struct data {
    float q[Q * D], k[K * D], v[K * D], y[Q * D];
    uint16_t q16[Q * D], k16[K * D], v16[K * D], y16[Q * D];
} data;

/* Values in [-2, 2) that bf16 holds exactly. */
static void fill(float *x, uint16_t *x16, int n, uint32_t seed)
{
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x16[i] = an_f32_to_bf16((float)(int32_t)seed * 0x1p-30f);
        x[i] = an_bf16_to_f32(x16[i]);
    }
}

/* The largest difference of the query's outputs. */
static double difference(const data *x, int query, bool bf16)
{
    double p[K], sum = 0, max = -INFINITY, worst = 0;
    const int keys = FIRST + query + 1;
    for (int k = 0; k < keys; k++) {
        p[k] = 0;
        for (int i = 0; i < D; i++) p[k] += (double)x->q[query * D + i] * (double)x->k[k * D + i];
        p[k] *= (double)SCALE;
        if (p[k] > max) max = p[k];
    }
    for (int k = 0; k < keys; k++) sum += p[k] = exp(p[k] - max);
    for (int e = 0; e < D; e++) {
        double want = 0;
        for (int k = 0; k < keys; k++) want += p[k] * (double)x->v[k * D + e];
        const float got = bf16 ? an_bf16_to_f32(x->y16[query * D + e]) : x->y[query * D + e];
        const double diff = fabs(want / sum - (double)got);
        if (!(diff <= worst)) worst = diff; /* a NaN stays */
    }
    return worst;
}

bool an_attention_kernel_works(const an_attention_kernel *kernel, an_dtype dtype)
{
    const bool bf16 = dtype == AN_BF16;
    const size_t bytes = (kernel->scratch(D, Q) + 63) & ~(size_t)63;
    data *x = malloc(sizeof *x);
    void *scratch = aligned_alloc(64, bytes);
    bool ok = x && scratch;
    if (ok) {
        fill(x->q, x->q16, Q * D, 1);
        fill(x->k, x->k16, K * D, 2);
        fill(x->v, x->v16, K * D, 3);
        memset(x->y, 0xff, sizeof x->y);
        memset(x->y16, 0xff, sizeof x->y16);
        const an_attention_task t = {.q = bf16 ? (char *)x->q16 : (char *)x->q,
                                     .k = bf16 ? (char *)x->k16 : (char *)x->k,
                                     .v = bf16 ? (char *)x->v16 : (char *)x->v,
                                     .y = bf16 ? (char *)x->y16 : (char *)x->y,
                                     .q_stride = D,
                                     .k_stride = D,
                                     .v_stride = D,
                                     .y_stride = D,
                                     .queries = Q,
                                     .keys = K,
                                     .first = FIRST,
                                     .head_dim = D,
                                     .scale = SCALE,
                                     .causal = true,
                                     .bf16 = bf16};
        kernel->run(&t, scratch);
        for (int i = 0; i < Q; i++) ok = ok && difference(x, i, bf16) < (bf16 ? 0.02 : 1e-5);
    }
    free(scratch);
    free(x);
    return ok;
}

bool an_cpu_attention_self_test(an_isa isa)
{
    const an_attention_kernel *f32 = an_attention_kernel_of(isa, AN_F32);
    const an_attention_kernel *bf16 = an_attention_kernel_of(isa, AN_BF16);
    return f32 && bf16 && an_attention_kernel_works(f32, AN_F32) &&
           an_attention_kernel_works(bf16, AN_BF16);
}
