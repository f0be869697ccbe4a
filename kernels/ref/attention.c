/* attention.c: softmax(scale q k^T) v of the oracle, one query after the other, the whole row of
 * scores in double. */
#include "ref/ref.h"

#include <math.h>

static double dot(const void *q, int64_t qi, const void *k, int64_t ki, an_dtype t, int n)
{
    double sum = 0;
    for (int e = 0; e < n; e++) sum += (double)ref_get(q, t, qi + e) * ref_get(k, t, ki + e);
    return sum;
}

/* One query of one head: q, k, v, y are offsets of its first element and of its first key's. */
static void attend(const an_attention_args *a, int64_t q, int64_t k, int64_t v, int64_t keys,
                   double *p, double *acc, int64_t y)
{
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < keys; j++) {
        p[j] = (double)a->scale * dot(a->q, q, a->k, k + j * a->k_stride, a->dtype, a->head_dim);
        if (p[j] > top || p[j] != p[j]) top = p[j];
    }
    for (int64_t j = 0; j < keys; j++) sum += p[j] = exp(p[j] - top);
    for (int e = 0; e < a->head_dim; e++) acc[e] = 0;
    for (int64_t j = 0; j < keys; j++)
        for (int e = 0; e < a->head_dim; e++)
            acc[e] += p[j] * ref_get(a->v, a->dtype, v + j * a->v_stride + e);
    for (int e = 0; e < a->head_dim; e++) ref_set(a->y.data, a->dtype, y + e, acc[e] / sum);
}

an_status an_ref_attention(an_lane *l, const an_attention_args *a)
{
    int64_t most = a->kv_len, width = (int64_t)a->heads * a->head_dim;
    for (int64_t r = 0; a->kv_lens && r < a->rows; r++)
        if (a->kv_lens[r] > most || r == 0) most = a->kv_lens[r];
    double *p = an_lane_scratch(l, (size_t)most * sizeof *p);
    double *acc = an_lane_scratch(l, (size_t)a->head_dim * sizeof *acc);
    if (l->counting || !p || !acc) return l->error.status;
    for (int64_t r = 0; r < a->rows; r++) {
        int64_t keys = a->kv_lens ? a->kv_lens[r] : a->kv_len;
        int64_t start = a->kv_start ? a->kv_start[r] : r * a->kv_len;
        for (int h = 0; h < a->heads; h++) {
            int64_t off = (int64_t)h * a->head_dim;
            for (int64_t t = 0; t < a->q_len; t++) {
                int64_t token = r * a->q_len + t;
                attend(a, token * a->q_stride + off, start * a->k_stride + off,
                       start * a->v_stride + off, a->causal ? t + 1 : keys, p, acc,
                       token * width + off);
            }
        }
    }
    return AN_OK;
}
