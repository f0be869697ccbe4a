/* norm.c: the oracle's norms, two passes in double. */
#include "ref/ref.h"

#include <math.h>

/* Mean and biased variance of `runs` runs of `len` elements, `step` apart. */
static void moments(const an_tensor *x, int64_t at, int64_t runs, int64_t step, int64_t len,
                    double *mean, double *var)
{
    double sum = 0, dev = 0, count = (double)(runs * len);
    for (int64_t r = 0; r < runs; r++)
        for (int64_t i = 0; i < len; i++) sum += ref_get(x->data, x->dtype, at + r * step + i);
    *mean = sum / count;
    for (int64_t r = 0; r < runs; r++)
        for (int64_t i = 0; i < len; i++) {
            double v = ref_get(x->data, x->dtype, at + r * step + i) - *mean;
            dev += v * v;
        }
    *var = dev / count;
}

an_status an_ref_group_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            int groups, float eps, bool silu, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    int64_t n = x->dim[0], c = x->dim[x->ndim - 1], pixels = an_tensor_count(x) / (n * c);
    int64_t width = c / groups;
    for (int64_t r = 0; r < n; r++) {
        for (int64_t g = 0; g < groups; g++) {
            int64_t at = r * pixels * c + g * width;
            double mean, var;
            moments(x, at, pixels, c, width, &mean, &var);
            double inv = 1 / sqrt(var + (double)eps);
            for (int64_t p = 0; p < pixels; p++)
                for (int64_t i = 0; i < width; i++) {
                    int64_t e = at + p * c + i;
                    double v = (ref_get(x->data, x->dtype, e) - mean) * inv;
                    v = v * gamma[g * width + i] + beta[g * width + i];
                    ref_set(y->data, y->dtype, e, silu ? an_ref_act(AN_ACT_SILU, v) : v);
                }
        }
    }
    return AN_OK;
}

an_status an_ref_layer_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            float eps, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    int64_t c = x->dim[x->ndim - 1], rows = an_tensor_count(x) / c;
    for (int64_t r = 0; r < rows; r++) {
        double mean, var;
        moments(x, r * c, 1, c, c, &mean, &var);
        double inv = 1 / sqrt(var + (double)eps);
        for (int64_t i = 0; i < c; i++) {
            double v = (ref_get(x->data, x->dtype, r * c + i) - mean) * inv * gamma[i];
            ref_set(y->data, y->dtype, r * c + i, beta ? v + beta[i] : v);
        }
    }
    return AN_OK;
}

an_status an_ref_rms_norm(an_lane *l, const an_tensor *x, const float *gamma, float eps,
                          const an_tensor *y)
{
    if (l->counting) return AN_OK;
    int64_t c = x->dim[x->ndim - 1], rows = an_tensor_count(x) / c;
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < c; i++) {
            double v = ref_get(x->data, x->dtype, r * c + i);
            sum += v * v;
        }
        double inv = 1 / sqrt(sum / (double)c + (double)eps);
        for (int64_t i = 0; i < c; i++)
            ref_set(y->data, y->dtype, r * c + i,
                    ref_get(x->data, x->dtype, r * c + i) * inv * gamma[i]);
    }
    return AN_OK;
}
