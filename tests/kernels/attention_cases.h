/* attention_cases.h: one kernel of attention called directly, without device and pool, against a
 * reference in double precision; for kernels of this machine, and for those that only an emulation
 * can run here. */
#ifndef ANNEAL_ATTENTION_CASES_H
#define ANNEAL_ATTENTION_CASES_H

#include "harness.h"
#include "kernels/cpu/attention.h"

typedef struct attention_case {
    int64_t queries, keys, first;
    int head_dim;
    bool causal;
    float spread; /* of q: the larger, the sharper the softmax */
} attention_case;

/* Values as the dtype holds them, between guards that must survive. */
#define GUARD 64
typedef struct guarded {
    char *memory;
    size_t bytes;
} guarded;

static inline guarded guarded_new(size_t bytes)
{
    guarded g = {aligned_alloc(64, (bytes + 2 * GUARD + 63) & ~(size_t)63), bytes};
    memset(g.memory, 0x5a, bytes + 2 * GUARD);
    return g;
}
static inline char *guarded_data(guarded g)
{
    return g.memory + GUARD;
}
static inline void guarded_free(guarded g)
{
    bool whole = true;
    for (size_t i = 0; i < GUARD; i++)
        whole = whole && g.memory[i] == 0x5a && g.memory[GUARD + g.bytes + i] == 0x5a;
    CHECK_MSG(whole, "written past the end");
    free(g.memory);
}

/* Tokens of 2 heads and a gap, the second head used: strides that are not head_dim. */
static inline int64_t case_stride(int head_dim)
{
    return 2 * head_dim + 3;
}

static inline guarded case_tokens(int64_t tokens, int head_dim, bool bf16, uint64_t seed,
                                  float spread)
{
    const int64_t n = tokens * case_stride(head_dim);
    float *v = malloc((size_t)n * sizeof *v + 1);
    h_values(v, n, seed, spread, 0);
    guarded g = guarded_new((size_t)n * (bf16 ? 2 : 4));
    an_convert(guarded_data(g), bf16 ? AN_BF16 : AN_F32, v, AN_F32, n);
    free(v);
    return g;
}

static inline double case_at(guarded g, bool bf16, int64_t token, int head_dim, int64_t e)
{
    const int64_t i = token * case_stride(head_dim) + head_dim + e;
    if (bf16) return (double)an_bf16_to_f32(((const uint16_t *)guarded_data(g))[i]);
    return (double)((const float *)guarded_data(g))[i];
}

static inline void case_expect(const attention_case *c, bool bf16, double scale, const guarded *in,
                               int64_t query, double *out)
{
    const int d = c->head_dim;
    const int64_t keys =
        c->causal && c->first + query + 1 < c->keys ? c->first + query + 1 : c->keys;
    double *p = malloc((size_t)keys * sizeof *p + 1), max = -INFINITY, sum = 0;
    for (int64_t k = 0; k < keys; k++) {
        p[k] = 0;
        for (int e = 0; e < d; e++)
            p[k] += case_at(in[0], bf16, query, d, e) * case_at(in[1], bf16, k, d, e);
        p[k] *= scale;
        max = p[k] > max ? p[k] : max;
    }
    for (int64_t k = 0; k < keys; k++) sum += p[k] = exp(p[k] - max);
    for (int e = 0; e < d; e++) {
        out[e] = 0;
        for (int64_t k = 0; k < keys; k++) out[e] += p[k] / sum * case_at(in[2], bf16, k, d, e);
    }
    free(p);
}

/* tol: of |v|'s size (1): a difference of probabilities adds up over the values they weigh. */
static inline void case_check(const an_attention_kernel *kernel, const attention_case *c, bool bf16,
                              double tol)
{
    const int d = c->head_dim;
    const float scale = 1.0f / sqrtf((float)d);
    const int64_t size = bf16 ? 2 : 4;
    guarded in[3] = {case_tokens(c->queries, d, bf16, 1, c->spread),
                     case_tokens(c->keys, d, bf16, 2, 1), case_tokens(c->keys, d, bf16, 3, 1)};
    guarded out = case_tokens(c->queries, d, bf16, 4, 1);
    guarded scratch = guarded_new(kernel->scratch(d, c->queries));
    const an_attention_task t = {.q = guarded_data(in[0]) + d * size,
                                 .k = guarded_data(in[1]) + d * size,
                                 .v = guarded_data(in[2]) + d * size,
                                 .y = guarded_data(out) + d * size,
                                 .q_stride = case_stride(d),
                                 .k_stride = case_stride(d),
                                 .v_stride = case_stride(d),
                                 .y_stride = case_stride(d),
                                 .queries = c->queries,
                                 .keys = c->keys,
                                 .first = c->first,
                                 .head_dim = d,
                                 .scale = scale,
                                 .causal = c->causal,
                                 .bf16 = bf16};
    memset(guarded_data(scratch), 0xff, scratch.bytes); /* NaN */
    kernel->run(&t, guarded_data(scratch));

    double worst = 0, *want = malloc((size_t)d * sizeof *want);
    for (int64_t i = 0; i < c->queries; i++) {
        case_expect(c, bf16, (double)scale, in, i, want);
        for (int e = 0; e < d; e++) {
            const double got = case_at(out, bf16, i, d, e);
            const double rounding = bf16 ? fabs(want[e]) / 256 : 0;
            const double over = fabs(got - want[e]) - rounding;
            if (!(over <= worst)) worst = over;
        }
    }
    /* Scores are rounded by their size, and probabilities by as much. */
    if (c->spread > 1) tol *= (double)c->spread;
    CHECK_MSG(worst <= tol, "%s %s: %lld x %lld (first %lld) x %d%s: off by %.3g, allowed %.3g",
              kernel->name, bf16 ? "bf16" : "f32", (long long)c->queries, (long long)c->keys,
              (long long)c->first, d, c->causal ? " causal" : "", worst, tol);
    free(want);
    for (int i = 0; i < 3; i++) guarded_free(in[i]);
    guarded_free(out);
    guarded_free(scratch);
}

/* Every edge: one query and key, whole and ragged blocks and chunks, head_dims in all residues. */
static inline void case_check_all(const an_attention_kernel *kernel, bool bf16, double tol)
{
    static const attention_case cases[] = {
        {1, 1, 0, 8, false, 1},      {2, 5, 0, 24, false, 1},      {7, 100, 0, 33, false, 1},
        {33, 77, 0, 40, false, 1},   {64, 300, 0, 64, false, 1},   {257, 300, 0, 40, false, 1},
        {17, 129, 0, 80, false, 2},  {50, 256, 0, 160, false, 1},  {13, 257, 0, 193, false, 1},
        {31, 140, 0, 512, false, 1}, {3, 127, 0, 1, false, 1},     {49, 383, 0, 18, false, 8},
        {64, 64, 0, 40, true, 1},    {77, 77, 0, 64, true, 1},     {150, 300, 150, 33, true, 1},
        {1, 200, 199, 96, true, 1},  {96, 600, 300, 24, true, 40}, {34, 130, 0, 16, true, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        case_check(kernel, &cases[i], bf16, tol);
}

#endif
