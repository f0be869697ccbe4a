/* diffusion.c: the oracle's sampler step and pictures. */
#include "ref/ref.h"

#include <math.h>
#include <stdlib.h>

an_status an_ref_latent_in(an_lane *l, const float *const *x, const float *scale,
                           const an_tensor *y)
{
    if (l->counting) return AN_OK;
    int64_t rows = y->dim[0], n = an_tensor_count(y) / rows;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++)
            ref_set(y->data, y->dtype, r * n + i, (double)(scale[r] * x[r][i]));
    return AN_OK;
}

static double guided(const an_step_row *r, int64_t i)
{
    double m = 0;
    for (int j = 0; j < r->branches; j++) m += (double)r->weight[j] * r->pred[j][i];
    return m;
}

/* Unbiased variance over the row of branch 0 (cond) or of the guided prediction. */
static double variance(const an_step_row *r, bool cond)
{
    double sum = 0, dev = 0;
    for (int64_t i = 0; i < r->count; i++) sum += cond ? (double)r->pred[0][i] : guided(r, i);
    double mean = sum / (double)r->count;
    for (int64_t i = 0; i < r->count; i++) {
        double v = (cond ? (double)r->pred[0][i] : guided(r, i)) - mean;
        dev += v * v;
    }
    return dev / (double)(r->count - 1);
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* torch.quantile(|d|, q), linear between neighbours, the rank in f32 as torch has it. Magnitudes
 * are sorted as the integers of their bits, which order NaN last instead of confusing the sort. */
static float quantile(const float *d, int64_t n, float q, uint32_t *sorted)
{
    for (int64_t i = 0; i < n; i++) {
        float v = fabsf(d[i]);
        memcpy(&sorted[i], &v, 4);
    }
    qsort(sorted, (size_t)n, 4, ascending);
    float rank = q * (float)(n - 1), lo, hi;
    int64_t below = (int64_t)rank;
    if (below > n - 1) below = n - 1;
    int64_t above = below + 1 < n ? below + 1 : below;
    memcpy(&lo, &sorted[below], 4);
    memcpy(&hi, &sorted[above], 4);
    float w = rank - (float)below;
    return w < 0.5f ? lo + w * (hi - lo) : hi - (hi - lo) * (1 - w);
}

/* The converted prediction of every element: conversion, clipping, thresholding. */
static void convert(const an_step_row *r, float *d, uint32_t *sorted)
{
    const an_step *s = &r->step;
    double f = r->rescale > 0
                   ? an_rescale_factor((double)r->rescale, variance(r, true), variance(r, false))
                   : 1;
    for (int64_t i = 0; i < r->count; i++) {
        d[i] = (float)((double)s->dx * r->x[i] + (double)s->dm * (f * guided(r, i)));
        if (s->clip > 0) d[i] = d[i] < -s->clip ? -s->clip : d[i] > s->clip ? s->clip : d[i];
    }
    if (s->threshold > 0) {
        float top = quantile(d, r->count, s->threshold, sorted);
        if (top < 1) top = 1;
        if (top > s->threshold_max) top = s->threshold_max;
        for (int64_t i = 0; i < r->count; i++)
            d[i] = (d[i] < -top ? -top : d[i] > top ? top : d[i]) / top;
    }
}

/* Terms without a factor are not touched: they may be NULL, or hold anything. */
static double combine(const an_step_row *r, const float *k, double m, float d, int64_t i)
{
    double v = 0;
    if (k[AN_TERM_X] != 0) v += (double)k[AN_TERM_X] * r->x[i];
    if (k[AN_TERM_M] != 0) v += (double)k[AN_TERM_M] * m;
    if (k[AN_TERM_SAVED] != 0) v += (double)k[AN_TERM_SAVED] * r->saved[i];
    if (k[AN_TERM_NOISE] != 0) v += (double)k[AN_TERM_NOISE] * r->noise[i];
    if (k[AN_TERM_D0] != 0) v += (double)k[AN_TERM_D0] * d;
    for (int h = 1; h < AN_HISTORY; h++)
        if (k[AN_TERM_D0 + h] != 0) v += (double)k[AN_TERM_D0 + h] * r->d[h][i];
    return v;
}

static void step_row(const an_step_row *r, float *d, uint32_t *sorted)
{
    double f = r->rescale > 0
                   ? an_rescale_factor((double)r->rescale, variance(r, true), variance(r, false))
                   : 1;
    convert(r, d, sorted);
    for (int64_t i = 0; i < r->count; i++) {
        double m = f * guided(r, i);
        double x = combine(r, r->step.out, m, d[i], i);
        if (r->step.save) r->saved[i] = (float)combine(r, r->step.keep, m, d[i], i);
        r->x[i] = (float)x;
        if (r->d[0]) r->d[0][i] = d[i];
    }
}

an_status an_ref_sampler_step(an_lane *l, const an_step_row *rows, int n)
{
    int64_t most = 0;
    for (int i = 0; i < n; i++)
        if (rows[i].count > most) most = rows[i].count;
    float *d = an_lane_scratch(l, (size_t)most * sizeof *d);
    uint32_t *sorted = an_lane_scratch(l, (size_t)most * sizeof *sorted);
    if (l->counting || !d || !sorted) return l->error.status;
    for (int i = 0; i < n; i++) step_row(&rows[i], d, sorted);
    return AN_OK;
}

an_status an_ref_image_out(an_lane *l, const an_tensor *x, const an_tensor *y, int64_t *n_nan)
{
    if (l->counting) return AN_OK;
    uint8_t *out = y->data;
    int64_t nan = 0;
    for (int64_t i = 0, n = an_tensor_count(x); i < n; i++) {
        float v = ref_get(x->data, x->dtype, i) / 2 + 0.5f;
        if (v != v) {
            nan++;
            v = 0;
        }
        v = v < 0 ? 0 : v > 1 ? 1 : v;
        out[i] = (uint8_t)nearbyintf(v * 255);
    }
    if (n_nan) *n_nan = nan;
    return AN_OK;
}

an_status an_ref_image_in(an_lane *l, const an_tensor *x, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    const uint8_t *in = x->data;
    for (int64_t i = 0, n = an_tensor_count(x); i < n; i++)
        ref_set(y->data, y->dtype, i, (double)((float)in[i] / 127.5f - 1));
    return AN_OK;
}
