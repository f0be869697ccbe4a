/* norm.c: the norms cut into tasks. What a task is depends on the layer alone, so neither the
 * number of threads nor that of rows changes a bit. */
#include "cpu/vec.h"

#include <math.h>

/* ---------------------------------------------------------------- group norm */

/* A row is cut into chunks of this many pixels: about 32 KB of bf16, which stay in the cache
 * between the two looks that the statistics take at them, and at least 32 pixels, so that the sums
 * over the channels of a group weigh little. */
static int64_t chunk_pixels(int64_t c)
{
    int64_t n = AN_GRAIN / c;
    return n < 32 ? 32 : n;
}

typedef struct gn_ctx {
    const an_vec *vec;
    const an_tensor *x, *y;
    int64_t pixels, c, chunk, chunks; /* of a row */
    int groups;
    bool silu;
    float *work;      /* [threads][AN_GN_SCRATCH * padded c] */
    double *partials; /* [row][chunk][mean: groups | m2: groups] */
    float *params;    /* [row][mean | a | b: padded c each] */
} gn_ctx;

/* Task = row * chunks + chunk: its first pixel, counted over all rows, and how many. */
static int64_t gn_span(const gn_ctx *g, int64_t task, int64_t *first)
{
    int64_t row = task / g->chunks, at = task % g->chunks * g->chunk;
    *first = row * g->pixels + at;
    return g->pixels - at < g->chunk ? g->pixels - at : g->chunk;
}

static void gn_moments_task(void *ctx, int64_t task, int worker)
{
    const gn_ctx *g = ctx;
    int64_t first, pixels = gn_span(g, task, &first);
    double *out = g->partials + task * 2 * g->groups;
    g->vec->gn_moments(an_elem(g->x->data, g->x->dtype, first * g->c), g->x->dtype, pixels, g->c,
                       g->groups, g->work + worker * AN_GN_SCRATCH * an_vec_padded(g->c), out,
                       out + g->groups);
}

static void gn_apply_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const gn_ctx *g = ctx;
    int64_t first, pixels = gn_span(g, task, &first), cp = an_vec_padded(g->c);
    const float *p = g->params + task / g->chunks * 3 * cp;
    g->vec->gn_apply(an_elem(g->x->data, g->x->dtype, first * g->c), g->x->dtype, pixels, g->c, p,
                     p + cp, p + 2 * cp, g->silu,
                     an_elem_mut(g->y->data, g->y->dtype, first * g->c));
}

/* The chunks' moments of one row, added in order around the first chunk's mean (Chan, Golub and
 * LeVeque 1983), become y = (x - m) a + b per channel: m is the mean rounded to f32 and b carries
 * what that rounding lost, so that a mean far from zero costs no digits. acc: [2 * groups]. */
static void gn_finish_row(const gn_ctx *g, int64_t row, const float *gamma, const float *beta,
                          float eps, double *acc)
{
    int64_t cp = an_vec_padded(g->c), width = g->c / g->groups;
    const double *part = g->partials + row * g->chunks * 2 * g->groups;
    double *t1 = acc, *t2 = acc + g->groups;
    memset(acc, 0, 2 * (size_t)g->groups * sizeof *acc);
    for (int64_t k = 0; k < g->chunks; k++) {
        int64_t left = g->pixels - k * g->chunk;
        double n = (double)((left < g->chunk ? left : g->chunk) * width);
        const double *mean = part + k * 2 * g->groups, *m2 = mean + g->groups;
        for (int i = 0; i < g->groups; i++) {
            double d = mean[i] - part[i];
            t1[i] += n * d;
            t2[i] += m2[i] + n * d * d;
        }
    }
    double n = (double)(g->pixels * width);
    float *m = g->params + row * 3 * cp, *a = m + cp, *b = a + cp;
    for (int i = 0; i < g->groups; i++) {
        double d = t1[i] / n, mean = part[i] + d, var = t2[i] / n - d * d;
        double inv = 1 / sqrt((var < 0 ? 0 : var) + (double)eps);
        for (int64_t j = i * width; j < (i + 1) * width; j++) {
            m[j] = (float)mean;
            a[j] = (float)(inv * gamma[j]);
            b[j] = (float)(beta[j] - (mean - (double)m[j]) * inv * gamma[j]);
        }
    }
    for (int64_t j = g->c; j < cp; j++) m[j] = a[j] = b[j] = 0;
}

an_status an_cpu_group_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            int groups, float eps, bool silu, const an_tensor *y)
{
    int64_t rows = x->dim[0], c = x->dim[x->ndim - 1], cp = an_vec_padded(c);
    gn_ctx g = {.vec = an_vec_of(l), .x = x, .y = y, .c = c, .groups = groups, .silu = silu};
    g.pixels = an_tensor_count(x) / (rows * c);
    g.chunk = chunk_pixels(c);
    g.chunks = an_pieces(g.pixels, g.chunk);
    size_t threads = (size_t)an_pool_threads(l->device->pool);
    g.work = an_lane_scratch(l, threads * AN_GN_SCRATCH * (size_t)cp * sizeof(float));
    g.partials = an_lane_scratch(l, (size_t)(rows * g.chunks * 2 * groups) * sizeof(double));
    g.params = an_lane_scratch(l, (size_t)(rows * 3 * cp) * sizeof(float));
    double *acc = an_lane_scratch(l, 2 * (size_t)groups * sizeof(double));
    if (l->counting || !g.work || !g.partials || !g.params || !acc) return l->error.status;
    an_pool_run(l->device->pool, rows * g.chunks, gn_moments_task, &g);
    for (int64_t r = 0; r < rows; r++) gn_finish_row(&g, r, gamma, beta, eps, acc);
    an_pool_run(l->device->pool, rows * g.chunks, gn_apply_task, &g);
    return AN_OK;
}

/* ---------------------------------------------------------------- layer norm, RMS norm */

typedef struct ln_ctx {
    const an_vec *vec;
    const an_tensor *x, *y;
    const float *gamma, *beta;
    float eps;
    bool rms;
    int64_t rows, c, grain;
} ln_ctx;

static void ln_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const ln_ctx *n = ctx;
    int64_t first = task * n->grain, rows = an_piece_end(task, n->rows, n->grain) - first;
    const void *x = an_elem(n->x->data, n->x->dtype, first * n->c);
    void *y = an_elem_mut(n->y->data, n->y->dtype, first * n->c);
    if (n->rms)
        n->vec->rms_norm(x, n->x->dtype, rows, n->c, n->gamma, n->eps, y);
    else
        n->vec->layer_norm(x, n->x->dtype, rows, n->c, n->gamma, n->beta, n->eps, y);
}

static an_status row_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                          float eps, bool rms, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    ln_ctx n = {.vec = an_vec_of(l), .x = x, .y = y, .gamma = gamma, .beta = beta, .eps = eps};
    n.rms = rms;
    n.c = x->dim[x->ndim - 1];
    n.rows = an_tensor_count(x) / n.c;
    n.grain = AN_GRAIN / n.c > 0 ? AN_GRAIN / n.c : 1;
    an_pool_run(l->device->pool, an_pieces(n.rows, n.grain), ln_task, &n);
    return AN_OK;
}

an_status an_cpu_layer_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            float eps, const an_tensor *y)
{
    return row_norm(l, x, gamma, beta, eps, false, y);
}

an_status an_cpu_rms_norm(an_lane *l, const an_tensor *x, const float *gamma, float eps,
                          const an_tensor *y)
{
    return row_norm(l, x, gamma, NULL, eps, true, y);
}
