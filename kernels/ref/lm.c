/* lm.c: the oracle's ops of language models, the plainest C in double. */
#include "ref/ref.h"

#include <math.h>

an_status an_ref_take_rows(an_lane *l, const an_tensor *x, const int32_t *index, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    const size_t width = (size_t)x->dim[1] * an_dtype_size(x->dtype);
    for (int64_t r = 0; r < y->dim[0]; r++)
        memcpy((char *)y->data + (size_t)r * width,
               (const char *)x->data + (size_t)index[r] * width, width);
    return AN_OK;
}

an_status an_ref_scale(an_lane *l, const an_tensor *x, float f, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    for (int64_t i = 0, n = an_tensor_count(x); i < n; i++)
        ref_set(y->data, y->dtype, i, (double)(ref_get(x->data, x->dtype, i) * f));
    return AN_OK;
}

an_status an_ref_softcap(an_lane *l, const an_tensor *x, float cap, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    for (int64_t i = 0, n = an_tensor_count(x); i < n; i++) {
        const double v = (double)ref_get(x->data, x->dtype, i) / (double)cap;
        ref_set(y->data, y->dtype, i, (double)cap * tanh(v));
    }
    return AN_OK;
}

/* The angle is an f32 product as transformers has it; cos and sin are rounded to f32 before they
 * meet the values. */
an_status an_ref_rope(an_lane *l, const an_rope_args *a)
{
    if (l->counting) return AN_OK;
    const int half = a->rot_dim / 2;
    for (int64_t t = 0; t < a->tokens; t++)
        for (int i = 0; i < half; i++) {
            const float angle = (float)a->pos[t] * a->inv_freq[i];
            const double c = (float)cos((double)angle) * a->mscale;
            const double s = (float)sin((double)angle) * a->mscale;
            for (int h = 0; h < a->heads; h++) {
                const int64_t at = t * a->stride + (int64_t)h * a->head_dim;
                const int64_t p = at + (a->interleaved ? 2 * i : i);
                const int64_t q = a->interleaved ? p + 1 : p + half;
                const double x = ref_get(a->x, a->dtype, p), y = ref_get(a->x, a->dtype, q);
                ref_set(a->x, a->dtype, p, x * c - y * s);
                ref_set(a->x, a->dtype, q, y * c + x * s);
            }
        }
    return AN_OK;
}

/* ---------------------------------------------------------------- paged keys and values */

an_status an_ref_kv_write(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n,
                          const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                          an_dtype dtype)
{
    if (l->counting) return AN_OK;
    const int d = pool->head_dim;
    for (int i = 0; i < n; i++)
        for (int64_t t = 0; t < rows[i].q_len; t++)
            for (int h = 0; h < pool->kv_heads; h++) {
                const int64_t to = an_kv_place(pool, &rows[i], rows[i].pos + t, h);
                const int64_t kf = (rows[i].q_start + t) * k_stride + (int64_t)h * d;
                const int64_t vf = (rows[i].q_start + t) * v_stride + (int64_t)h * d;
                for (int e = 0; e < d; e++) {
                    ref_set(pool->k, pool->dtype, to + e, (double)ref_get(k, dtype, kf + e));
                    ref_set(pool->v, pool->dtype, to + e, (double)ref_get(v, dtype, vf + e));
                }
            }
    return AN_OK;
}

/* Query at position pos of one head over its keys; q and y at elements, s [pos + 1]. */
static void attend(const an_paged_args *a, const an_kv_row *r, int head, int64_t pos, int64_t q,
                   int64_t y, double *s)
{
    const an_kv_pool *p = a->pool;
    const int d = a->head_dim;
    const int64_t first = a->window && pos >= a->window ? pos - a->window + 1 : 0;
    const int kv = head / (a->heads / p->kv_heads);
    double top = -INFINITY, sum = 0;
    for (int64_t j = first; j <= pos; j++) {
        const int64_t k = an_kv_place(p, r, j, kv);
        double dot = 0;
        for (int e = 0; e < d; e++)
            dot += (double)ref_get(a->q, a->dtype, q + e) * (double)ref_get(p->k, p->dtype, k + e);
        s[j] = (double)a->scale * dot;
        if (a->softcap > 0) s[j] = (double)a->softcap * tanh(s[j] / (double)a->softcap);
        if (s[j] > top || s[j] != s[j]) top = s[j];
    }
    for (int64_t j = first; j <= pos; j++) sum += s[j] = exp(s[j] - top);
    for (int e = 0; e < d; e++) {
        double acc = 0;
        for (int64_t j = first; j <= pos; j++)
            acc += s[j] * (double)ref_get(p->v, p->dtype, an_kv_place(p, r, j, kv) + e);
        ref_set(a->y.data, a->dtype, y + e, acc / sum);
    }
}

an_status an_ref_attention_paged(an_lane *l, const an_paged_args *a)
{
    int64_t most = 1;
    for (int i = 0; i < a->n; i++)
        if (a->rows[i].pos + a->rows[i].q_len > most) most = a->rows[i].pos + a->rows[i].q_len;
    double *s = an_lane_scratch(l, (size_t)most * sizeof *s);
    if (l->counting || !s) return l->error.status;
    const int64_t width = (int64_t)a->heads * a->head_dim;
    for (int i = 0; i < a->n; i++) {
        const an_kv_row *r = &a->rows[i];
        for (int64_t t = r->q_start; t < r->q_start + r->q_len; t++)
            for (int h = 0; h < a->heads; h++) {
                const int64_t off = (int64_t)h * a->head_dim;
                attend(a, r, h, r->pos + t - r->q_start, t * a->q_stride + off, t * width + off, s);
            }
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- mixture of experts */

/* The chosen experts of a token and their weights, largest first; ties to the lower expert. */
static void choose(const an_moe_args *a, const float *logit, int *expert, double *weight)
{
    double top = -INFINITY, all = 0, chosen = 0;
    for (int e = 0; e < a->experts; e++) top = fmax(top, (double)logit[e]);
    for (int e = 0; e < a->experts; e++) all += exp((double)logit[e] - top);
    for (int i = 0; i < a->top_k; i++) {
        int best = -1;
        for (int e = 0; e < a->experts; e++) {
            bool taken = false;
            for (int j = 0; j < i; j++) taken |= expert[j] == e;
            if (!taken && (best < 0 || logit[e] > logit[best])) best = e;
        }
        expert[i] = best;
        weight[i] = exp((double)logit[best] - top);
        chosen += weight[i];
    }
    const double by = a->softmax_first && !a->normalize ? all : chosen;
    for (int i = 0; i < a->top_k; i++) weight[i] /= by;
}

an_status an_ref_moe(an_lane *l, const an_moe_args *a)
{
    const int64_t c = a->x.dim[1], hidden = a->down[0]->k;
    int *expert = an_lane_scratch(l, (size_t)a->top_k * sizeof *expert);
    double *weight = an_lane_scratch(l, (size_t)a->top_k * sizeof *weight);
    double *sum = an_lane_scratch(l, (size_t)c * sizeof *sum);
    an_tensor h = an_lane_tensor(l, a->x.dtype, 1, hidden), part = an_lane_tensor(l, AN_F32, 1, c);
    const size_t mark = an_lane_mark(l);
    for (int64_t t = 0; t < a->x.dim[0]; t++) {
        an_tensor x = a->x;
        x.dim[0] = 1;
        if (!l->counting) {
            x.data = (char *)x.data + (size_t)(t * c) * an_dtype_size(x.dtype);
            if (l->error.status) return l->error.status;
            choose(a, (const float *)a->router.data + t * a->experts, expert, weight);
            for (int64_t e = 0; e < c; e++) sum[e] = 0;
        }
        for (int i = 0; i < (l->counting ? a->experts : a->top_k); i++) {
            const int which = l->counting ? i : expert[i];
            const an_gemm_args up = {.x = x, .w = a->gate_up[which], .act = a->act, .y = h};
            const an_gemm_args down = {.x = h, .w = a->down[which], .y = part};
            an_status s = an_ref_gemm(l, &up);
            an_lane_release(l, mark);
            if (!s) s = an_ref_gemm(l, &down);
            an_lane_release(l, mark);
            if (s) return s;
            for (int64_t e = 0; !l->counting && e < c; e++)
                sum[e] += weight[i] * (double)((float *)part.data)[e];
        }
        for (int64_t e = 0; !l->counting && e < c; e++) {
            if (a->residual)
                sum[e] += (double)ref_get(a->residual->data, a->residual->dtype, t * c + e);
            ref_set(a->y.data, a->y.dtype, t * c + e, sum[e]);
        }
    }
    return AN_OK;
}
