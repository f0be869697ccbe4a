/* moe.c: a layer of experts on the CPU. Tokens are grouped by expert, so that each expert's
 * matrices are read once a tick; every token then adds up its own experts' results in the order of
 * their weights. A row of a GEMM has the same bytes in any company, so a token has too. */
#include "cpu/vec.h"
#include "cpu/gemm.h"

#include <math.h>

/* The tick's choices: choice i of token t is number t * top_k + i; grouped, it has row place[...].
 */
typedef struct plan {
    const an_moe_args *a;
    int64_t choices;
    int32_t *expert, *place; /* [choices] */
    int32_t *token;          /* [choices] by grouped row */
    float *weight;           /* [choices] */
    int64_t *first;          /* [experts + 1]: an expert's grouped rows */
    an_tensor x, h, y;       /* grouped: [choices, c], [choices, hidden], [choices, c] F32 */
} plan;

/* The largest logits first, ties to the lower expert; weights are a softmax over all or over the
 * chosen. */
static void choose(const an_moe_args *a, const float *logit, int32_t *expert, float *weight)
{
    double chosen = 0, all = 0;
    for (int i = 0; i < a->top_k; i++) {
        int best = -1;
        for (int e = 0; e < a->experts; e++) {
            bool taken = false;
            for (int j = 0; j < i; j++) taken |= expert[j] == e;
            if (!taken && (best < 0 || logit[e] > logit[best])) best = e;
        }
        expert[i] = best;
    }
    const double top = (double)logit[expert[0]];
    for (int e = 0; e < a->experts; e++) all += exp((double)logit[e] - top);
    for (int i = 0; i < a->top_k; i++) chosen += exp((double)logit[expert[i]] - top);
    const double by = a->softmax_first && !a->normalize ? all : chosen;
    for (int i = 0; i < a->top_k; i++)
        weight[i] = (float)(exp((double)logit[expert[i]] - top) / by);
}

static void group(plan *p)
{
    const an_moe_args *a = p->a;
    const float *logits = a->router.data;
    memset(p->first, 0, (size_t)(a->experts + 1) * sizeof *p->first);
    for (int64_t t = 0; t < a->x.dim[0]; t++) {
        int32_t *expert = p->expert + t * a->top_k;
        choose(a, logits + t * a->experts, expert, p->weight + t * a->top_k);
        for (int i = 0; i < a->top_k; i++) p->first[expert[i] + 1]++;
    }
    for (int e = 0; e < a->experts; e++) p->first[e + 1] += p->first[e];
    for (int64_t i = 0; i < p->choices; i++) {
        const int64_t row = p->first[p->expert[i]]++;
        p->place[i] = (int32_t)row;
        p->token[row] = (int32_t)(i / a->top_k);
    }
    for (int e = a->experts; e > 0; e--) p->first[e] = p->first[e - 1];
    p->first[0] = 0;
}

/* Grouped row `task` of x. */
static void gather_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const plan *p = ctx;
    const size_t width = (size_t)p->x.dim[1] * an_dtype_size(p->x.dtype);
    memcpy((char *)p->x.data + (size_t)task * width,
           (const char *)p->a->x.data + (size_t)p->token[task] * width, width);
}

/* Token `task`: its experts' results, weighted, in order, and the residual. */
static void combine_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const plan *p = ctx;
    const an_moe_args *a = p->a;
    const int64_t c = a->x.dim[1];
    enum { PIECE = 256 };
    float sum[PIECE];
    for (int64_t e = 0; e < c; e += PIECE) {
        const int64_t n = c - e < PIECE ? c - e : PIECE, at = task * c + e;
        memset(sum, 0, sizeof sum);
        for (int i = 0; i < a->top_k; i++) {
            const int64_t choice = task * a->top_k + i;
            const float w = p->weight[choice];
            const float *y = (const float *)p->y.data + p->place[choice] * c + e;
            for (int64_t j = 0; j < n; j++) sum[j] += w * y[j];
        }
        if (a->residual) {
            float old[PIECE];
            const an_tensor *r = a->residual;
            an_convert(old, AN_F32, an_elem(r->data, r->dtype, at), r->dtype, n);
            for (int64_t j = 0; j < n; j++) sum[j] += old[j];
        }
        an_convert(an_elem_mut(a->y.data, a->y.dtype, at), a->y.dtype, sum, AN_F32, n);
    }
}

static an_tensor rows_of(const an_tensor *t, int64_t first, int64_t n)
{
    an_tensor v = *t;
    v.dim[0] = n;
    if (v.data) v.data = an_elem_mut(v.data, v.dtype, first * v.dim[1]);
    return v;
}

/* One expert over rows first..first + n. */
static an_status run_expert(an_lane *l, const plan *p, int e, int64_t first, int64_t n)
{
    const size_t mark = an_lane_mark(l);
    const an_gemm_args up = {.x = rows_of(&p->x, first, n),
                             .w = p->a->gate_up[e],
                             .act = p->a->act,
                             .y = rows_of(&p->h, first, n)};
    const an_gemm_args down = {.x = up.y, .w = p->a->down[e], .y = rows_of(&p->y, first, n)};
    an_status s = an_cpu_gemm(l, &up);
    an_lane_release(l, mark);
    if (!s) s = an_cpu_gemm(l, &down);
    an_lane_release(l, mark);
    return s;
}

/* The scratch that any expert's GEMMs may want, for as many tokens as there are: which experts they
 * choose is not known when memory is planned. */
static size_t most_scratch(an_lane *l, const plan *p)
{
    an_lane probe = {.device = l->device, .counting = true, .size = SIZE_MAX / 2};
    for (int e = 0; e < p->a->experts; e++) run_expert(&probe, p, e, 0, p->a->x.dim[0]);
    return probe.peak;
}

an_status an_cpu_moe(an_lane *l, const an_moe_args *a)
{
    const int64_t c = a->x.dim[1], hidden = a->down[0]->k;
    plan p = {.a = a};
    if (__builtin_mul_overflow(a->x.dim[0], (int64_t)a->top_k, &p.choices) ||
        p.choices > INT32_MAX) {
        an_lane_fail(l, AN_TOO_LARGE, "moe: %lld tokens with %d experts each are too many",
                     (long long)a->x.dim[0], a->top_k);
        return AN_TOO_LARGE;
    }
    p.expert = an_lane_scratch(l, (size_t)p.choices * sizeof *p.expert);
    p.place = an_lane_scratch(l, (size_t)p.choices * sizeof *p.place);
    p.token = an_lane_scratch(l, (size_t)p.choices * sizeof *p.token);
    p.weight = an_lane_scratch(l, (size_t)p.choices * sizeof *p.weight);
    p.first = an_lane_scratch(l, (size_t)(a->experts + 1) * sizeof *p.first);
    p.x = an_lane_tensor(l, a->x.dtype, p.choices, c);
    p.h = an_lane_tensor(l, a->x.dtype, p.choices, hidden);
    p.y = an_lane_tensor(l, AN_F32, p.choices, c);
    an_lane inner = {.device = l->device, .label = l->label};
    inner.size = most_scratch(l, &p);
    inner.arena = an_lane_scratch(l, inner.size);
    if (l->counting || l->error.status) return l->error.status;

    an_pool *pool = l->device->pool;
    group(&p);
    an_pool_run(pool, p.choices, gather_task, &p);
    for (int e = 0; e < a->experts; e++) {
        const int64_t n = p.first[e + 1] - p.first[e];
        an_status s = n ? run_expert(&inner, &p, e, p.first[e], n) : AN_OK;
        if (s) {
            if (inner.error.status) l->error = inner.error;
            return s;
        }
    }
    an_pool_run(pool, a->x.dim[0], combine_task, &p);
    return AN_OK;
}
