/* solver_apply.h: the universal solver update on the host, as solver.h defines it: the oracle for
 * the golden tables and for the kernels that fill the same update in. acc_f32 says whether sums are
 * accumulated in f32 (as a kernel does) or in double. */
#ifndef ANNEAL_SOLVER_APPLY_H
#define ANNEAL_SOLVER_APPLY_H

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "anneal/solver.h"

/* One row's state: n values each. */
typedef struct solver_row {
    size_t n;
    float *x, *saved, *d[AN_HISTORY];
} solver_row;

static inline bool solver_row_make(solver_row *r, size_t n)
{
    r->n = n;
    float *all = calloc(n * (2 + AN_HISTORY), sizeof(float));
    r->x = all;
    if (!all) return false;
    r->saved = all + n;
    for (size_t k = 0; k < AN_HISTORY; k++) r->d[k] = all + (2 + k) * n;
    return true;
}

static inline void solver_row_free(solver_row *r)
{
    free(r->x);
}

static inline int solver_compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* torch.quantile(|v|, q), linear between neighbours, then clamped to 1 .. max. */
static inline float solver_threshold(const float *v, size_t n, float q, float max)
{
    float *sorted = malloc(n * sizeof(float));
    if (!sorted) abort();
    for (size_t i = 0; i < n; i++) sorted[i] = fabsf(v[i]);
    qsort(sorted, n, sizeof(float), solver_compare_floats);
    float rank = q * (float)(n - 1), low = floorf(rank);
    float a = sorted[(size_t)low], b = sorted[(size_t)ceilf(rank)];
    float s = a + (b - a) * (rank - low);
    free(sorted);
    s = s < 1.0f ? 1.0f : s;
    return s > max ? max : s;
}

static inline float solver_sum(const float *w, const float *term, bool acc_f32)
{
    float f = 0.0f;
    double d = 0.0;
    for (int k = 0; k < AN_TERMS; k++) {
        if (w[k] == 0.0f) continue;
        f += w[k] * term[k];
        d += (double)w[k] * (double)term[k];
    }
    return acc_f32 ? f : (float)d;
}

/* m: the network's output; noise: this call's draw (read only where step->noise). */
static inline void solver_apply(const an_step *step, solver_row *r, const float *m,
                                const float *noise, bool acc_f32)
{
    if (step->push) {
        float *oldest = r->d[AN_HISTORY - 1];
        memmove(r->d + 1, r->d, (AN_HISTORY - 1) * sizeof r->d[0]);
        r->d[0] = oldest;
    }
    for (size_t i = 0; i < r->n; i++) {
        float d =
            acc_f32 ? step->dx * r->x[i] + step->dm * m[i]
                    : (float)((double)step->dx * (double)r->x[i] + (double)step->dm * (double)m[i]);
        if (step->clip > 0.0f) d = d < -step->clip ? -step->clip : d > step->clip ? step->clip : d;
        r->d[0][i] = d;
    }
    if (step->threshold > 0.0f) {
        float s = solver_threshold(r->d[0], r->n, step->threshold, step->threshold_max);
        for (size_t i = 0; i < r->n; i++) {
            float d = r->d[0][i];
            r->d[0][i] = (d < -s ? -s : d > s ? s : d) / s;
        }
    }
    for (size_t i = 0; i < r->n; i++) {
        float term[AN_TERMS] = {r->x[i], m[i], r->saved[i], step->noise ? noise[i] : 0.0f};
        for (int k = 0; k < AN_HISTORY; k++) term[AN_TERM_D0 + k] = r->d[k][i];
        r->x[i] = solver_sum(step->out, term, acc_f32);
        if (step->save) r->saved[i] = solver_sum(step->keep, term, acc_f32);
    }
}

#endif
