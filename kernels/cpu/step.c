/* step.c: the sampler step. All sums are in double, in the order of the oracle, so that a
 * trajectory agrees with it to the bit; a latent is small, and this costs a few microseconds. Rows
 * are cut into blocks, whose intermediates live on the stack; only guidance rescale and dynamic
 * thresholding need to have seen the whole row first. */
#include "cpu/vec.h"

#include <math.h>

#define BLOCK           512
#define BLOCKS_PER_TASK 16

typedef struct block {
    double m[BLOCK]; /* guided prediction */
    double acc[BLOCK];
    float d[BLOCK]; /* converted */
} block;

/* What the first pass over a row finds. */
typedef struct row_facts {
    double rescale; /* factor of m */
    float top;      /* dynamic threshold, 0 = none */
} row_facts;

typedef struct step_ctx {
    const an_step_row *rows;
    row_facts *facts; /* [n] */
    int64_t *first;   /* [n + 1]: first task of each row */
    int n;
} step_ctx;

static void axpy(double *restrict acc, float k, const float *restrict p, int n)
{
    for (int i = 0; i < n; i++) acc[i] += (double)k * (double)p[i];
}

/* m of elements [at, at + n) without rescale */
static void guide(const an_step_row *r, int64_t at, int n, double *m)
{
    memset(m, 0, (size_t)n * sizeof *m);
    for (int j = 0; j < r->branches; j++) axpy(m, r->weight[j], r->pred[j] + at, n);
}

/* Conversion and clipping; not the threshold. b->m holds the guided prediction afterwards. */
static void convert(const an_step_row *r, double rescale, int64_t at, int n, block *b)
{
    const an_step *s = &r->step;
    const float *x = r->x + at;
    guide(r, at, n, b->m);
    if (r->rescale > 0)
        for (int i = 0; i < n; i++) b->m[i] *= rescale;
    for (int i = 0; i < n; i++)
        b->d[i] = (float)((double)s->dx * (double)x[i] + (double)s->dm * b->m[i]);
    if (s->clip > 0)
        for (int i = 0; i < n; i++) {
            float d = b->d[i] < -s->clip ? -s->clip : b->d[i];
            b->d[i] = d > s->clip ? s->clip : d;
        }
}

/* ---------------------------------------------------------------- whole-row facts */

static int block_size(const an_step_row *r, int64_t at)
{
    return r->count - at < BLOCK ? (int)(r->count - at) : BLOCK;
}

/* Sums of v - shift and of its square, in the order of the elements. */
static void sums(const double *v, int n, double shift, double *s, double *q)
{
    for (int i = 0; i < n; i++) {
        double d = v[i] - shift;
        *s += d;
        *q += d * d;
    }
}

/* torch's std is unbiased; both variances around the row's first element, in double. */
static double rescale_factor(const an_step_row *r, block *b)
{
    double sm = 0, qm = 0, sc = 0, qc = 0, n = (double)r->count, m0 = 0, c0 = r->pred[0][0];
    for (int64_t at = 0; at < r->count; at += BLOCK) {
        int k = block_size(r, at);
        guide(r, at, k, b->m);
        if (at == 0) m0 = b->m[0];
        sums(b->m, k, m0, &sm, &qm);
        for (int i = 0; i < k; i++) b->acc[i] = r->pred[0][at + i];
        sums(b->acc, k, c0, &sc, &qc);
    }
    double var_m = (qm - sm * sm / n) / (n - 1), var_c = (qc - sc * sc / n) / (n - 1);
    return an_rescale_factor((double)r->rescale, var_c < 0 ? 0 : var_c, var_m);
}

/* The magnitudes' bits are ordered like the magnitudes: the k-th smallest is found digit by digit
 * (11, 11 and 10 bits), one histogram a pass, and nothing is stored or sorted. */
static uint32_t select_bits(const an_step_row *r, double rescale, int64_t k, block *b)
{
    static const int shift[3] = {21, 10, 0}, bits[3] = {11, 11, 10};
    uint32_t found = 0, mask = 0;
    for (int pass = 0; pass < 3; pass++) {
        int64_t count[2048] = {0};
        uint32_t digit_mask = (1u << bits[pass]) - 1;
        for (int64_t at = 0; at < r->count; at += BLOCK) {
            int n = block_size(r, at);
            convert(r, rescale, at, n, b);
            for (int i = 0; i < n; i++) {
                uint32_t u;
                memcpy(&u, &b->d[i], 4);
                u &= 0x7fffffffu;
                if ((u & mask) == found) count[(u >> shift[pass]) & digit_mask]++;
            }
        }
        uint32_t digit = 0;
        while (digit < digit_mask && k >= count[digit]) k -= count[digit++];
        found |= digit << shift[pass];
        mask |= digit_mask << shift[pass];
    }
    return found;
}

/* diffusers' _threshold_sample: torch.quantile of |d|, linear between neighbours, the rank in f32,
 * kept in 1..threshold_max. */
static float threshold(const an_step_row *r, double rescale, block *b)
{
    float rank = r->step.threshold * (float)(r->count - 1), lo, hi;
    int64_t below = (int64_t)rank, last = r->count - 1;
    if (below > last) below = last;
    uint32_t u = select_bits(r, rescale, below, b);
    uint32_t v = below < last ? select_bits(r, rescale, below + 1, b) : u;
    memcpy(&lo, &u, 4);
    memcpy(&hi, &v, 4);
    float w = rank - (float)below;
    float top = w < 0.5f ? lo + w * (hi - lo) : hi - (hi - lo) * (1 - w);
    if (top < 1) top = 1;
    return top > r->step.threshold_max ? r->step.threshold_max : top;
}

static void facts_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const step_ctx *c = ctx;
    const an_step_row *r = &c->rows[task];
    row_facts *f = &c->facts[task];
    block b;
    *f = (row_facts){.rescale = 1};
    if (r->rescale > 0) f->rescale = rescale_factor(r, &b);
    if (r->step.threshold > 0) f->top = threshold(r, f->rescale, &b);
}

/* ---------------------------------------------------------------- the update */

/* acc = sum k[term] * term; terms without a factor are not touched: they may be NULL. */
static void combine(const an_step_row *r, const float *k, int64_t at, int n, block *b)
{
    memset(b->acc, 0, (size_t)n * sizeof *b->acc);
    if (k[AN_TERM_X] != 0) axpy(b->acc, k[AN_TERM_X], r->x + at, n);
    if (k[AN_TERM_M] != 0)
        for (int i = 0; i < n; i++) b->acc[i] += (double)k[AN_TERM_M] * b->m[i];
    if (k[AN_TERM_SAVED] != 0) axpy(b->acc, k[AN_TERM_SAVED], r->saved + at, n);
    if (k[AN_TERM_NOISE] != 0) axpy(b->acc, k[AN_TERM_NOISE], r->noise + at, n);
    if (k[AN_TERM_D0] != 0) axpy(b->acc, k[AN_TERM_D0], b->d, n);
    for (int h = 1; h < AN_HISTORY; h++)
        if (k[AN_TERM_D0 + h] != 0) axpy(b->acc, k[AN_TERM_D0 + h], r->d[h] + at, n);
}

static void update_block(const an_step_row *r, const row_facts *f, int64_t at, int n, block *b)
{
    float x[BLOCK];
    convert(r, f->rescale, at, n, b);
    if (r->step.threshold > 0)
        for (int i = 0; i < n; i++) {
            float d = b->d[i] < -f->top ? -f->top : b->d[i];
            b->d[i] = (d > f->top ? f->top : d) / f->top;
        }
    combine(r, r->step.out, at, n, b);
    for (int i = 0; i < n; i++) x[i] = (float)b->acc[i];
    if (r->step.save) {
        combine(r, r->step.keep, at, n, b);
        for (int i = 0; i < n; i++) r->saved[at + i] = (float)b->acc[i];
    }
    memcpy(r->x + at, x, (size_t)n * sizeof *x);
    if (r->d[0]) memcpy(r->d[0] + at, b->d, (size_t)n * sizeof *x);
}

static void update_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const step_ctx *c = ctx;
    int i = 0;
    while (task >= c->first[i + 1]) i++;
    const an_step_row *r = &c->rows[i];
    int64_t at = (task - c->first[i]) * BLOCK * BLOCKS_PER_TASK;
    block b;
    for (int k = 0; k < BLOCKS_PER_TASK && at < r->count; k++, at += BLOCK)
        update_block(r, &c->facts[i], at, block_size(r, at), &b);
}

an_status an_cpu_sampler_step(an_lane *l, const an_step_row *rows, int n)
{
    step_ctx c = {.rows = rows, .n = n};
    c.facts = an_lane_scratch(l, (size_t)n * sizeof *c.facts);
    c.first = an_lane_scratch(l, (size_t)(n + 1) * sizeof *c.first);
    if (l->counting || !c.facts || !c.first) return l->error.status;
    bool look = false;
    c.first[0] = 0;
    for (int i = 0; i < n; i++) {
        c.facts[i] = (row_facts){.rescale = 1};
        look |= rows[i].rescale > 0 || rows[i].step.threshold > 0;
        c.first[i + 1] = c.first[i] + an_pieces(rows[i].count, BLOCK * BLOCKS_PER_TASK);
    }
    if (look) an_pool_run(l->device->pool, n, facts_task, &c);
    an_pool_run(l->device->pool, c.first[n], update_task, &c);
    return AN_OK;
}
