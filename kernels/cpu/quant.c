/* quant.c: products with weights in blocks: the activations of an op are rounded to 8 bits once,
 * then tasks of a few rows and outputs run panel by panel, each panel for all rows of the task
 * while it is in the cache, so that a tick reads the weights once. */
#include "quant.h"
#include "cpuid.h"

const an_quant_kernel *an_quant_kernel_of(an_isa isa)
{
    if (isa >= AN_ISA_AVX512 && an_quant_vnni.panel && an_cpu_vnni())
        return isa >= AN_ISA_AMX && an_quant_amx.panel && an_cpu_amx_int8() ? &an_quant_amx
                                                                            : &an_quant_vnni;
    return isa >= AN_ISA_AVX2 && an_quant_avx2.panel ? &an_quant_avx2 : &an_quant_generic;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}
static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---------------------------------------------------------------- tasks */

#define SUMS ((int64_t)64 << 10) /* floats of a task's sums, most */
#define ROWS_BYTES                                                                                 \
    ((int64_t)256 << 10)             /* of a task's rounded activations, about: they are read once \
                                        a panel and should stay in the second-level cache */
#define TASK_WORK  ((int64_t)60000)  /* multiply-adds that are worth handing out */
#define ROUND_WORK ((int64_t)100000) /* activations that are worth handing out to be rounded */

typedef struct quant_job {
    const an_gemm_job *gemm; /* for the epilogue */
    const an_quant_weight *w;
    char *x;            /* rounded activations */
    const float *plain; /* sums of the floating parts [m, plain_columns], or NULL */
    char *scratch;
    size_t scratch_each;
    int64_t lanes;         /* outputs that the kernel takes at a time */
    int64_t tiles, panels; /* of y, in kernel steps: down, across */
    int64_t rows, cols;    /* tasks: down, across */
} quant_job;

static size_t scratch_each(void)
{
    return (size_t)(SUMS + 16) * sizeof(float) + 64;
}

/* A few tasks a thread, the same number for each and all of about the same size: they stream
 * weights at one speed, and whoever ends first waits for the other. */
static void choose_grid(quant_job *q, int threads)
{
    const an_gemm_job *j = q->gemm;
    const int64_t k = j->w->k, halves = j->n_out == j->w->n ? 1 : 2;
    q->lanes = AN_QUANT_LANES * q->w->kernel->panels;
    q->tiles = ceil_div(j->m, AN_QUANT_ROWS);
    q->panels = ceil_div(j->n_out, q->lanes);
    const int64_t height = min64(max64(1, ROWS_BYTES / k / AN_QUANT_ROWS), 64); /* in tiles */
    q->rows = ceil_div(q->tiles, height);
    const int64_t rows = ceil_div(q->tiles, q->rows) * AN_QUANT_ROWS;
    q->cols = ceil_div(q->panels, max64(1, SUMS / halves / rows / q->lanes));
    if (threads == 1) return;
    const double work = (double)j->m * (double)j->w->n * (double)k / (double)TASK_WORK;
    const int64_t tasks = work < threads       ? (int64_t)work + 1
                          : work > 4 * threads ? 4 * threads
                                               : (int64_t)work;
    q->cols = max64(q->cols, ceil_div(tasks, q->rows));
    while (tasks >= threads && q->rows * q->cols % threads) q->cols++;
    q->cols = min64(q->cols, q->panels);
}

/* A panel, or two neighbours, against rows m.. of the task that ends at m1: a tile of them, or the
 * next whole ones together. Returns how many. lanes [rows][lanes of the kernel] */
static int some_rows(const quant_job *q, int64_t m, int64_t m1, an_dtype format,
                     const uint8_t *panel, int64_t stride, float *lanes)
{
    const an_quant_kernel *k = q->w->kernel;
    const int64_t blocks = q->gemm->w->k / 32;
    const an_quant_tile t = an_quant_tile_at(q->gemm->m, m);
    const char *x = q->x + t.first * blocks * AN_QUANT_X;
    const int64_t whole = min64((m1 - m) / AN_QUANT_ROWS, AN_QUANT_MANY);
    if (k->tiles && t.rows == AN_QUANT_ROWS && whole > 1) {
        k->tiles(format, (int)whole, panel, stride, blocks, x, lanes);
        return (int)whole * AN_QUANT_ROWS;
    }
    k->panel(format, t.rows, panel, stride, blocks, x, lanes);
    return t.rows;
}

/* Outputs c0..c1 of rows m0..m1 into sums, ld apart. */
static void columns(const quant_job *q, int64_t m0, int64_t m1, int64_t c0, int64_t c1, float *sums,
                    int64_t ld)
{
    for (int i = 0; i < q->w->parts; i++) {
        const an_quant_part *p = &q->w->part[i];
        const int64_t from = max64(c0 - p->first, 0), to = min64(c1 - p->first, p->n);
        if (from >= to) continue;
        float *out = sums + (p->first + from - c0);
        if (!p->data) {
            for (int64_t m = m0; m < m1; m++)
                memcpy(out + (m - m0) * ld, q->plain + m * q->w->plain_columns + p->plain_at + from,
                       (size_t)(to - from) * sizeof *out);
            continue;
        }
        const int64_t step = AN_QUANT_LANES * q->w->kernel->panels;
        for (int64_t c = from / step * step; c < to; c += step) {
            const uint8_t *panel = p->data + c / AN_QUANT_LANES * p->stride;
            const int64_t a = max64(c, from), b = min64(c + step, to);
            /* the last panel may have no neighbour */
            const int64_t stride = c + AN_QUANT_LANES < p->n ? p->stride : 0;
            float lanes[AN_QUANT_MANY * AN_QUANT_ROWS * AN_QUANT_LANES * 2];
            for (int64_t m = m0; m < m1;) {
                const int rows = some_rows(q, m, m1, p->format, panel, stride, lanes);
                for (int r = 0; r < rows; r++)
                    memcpy(out + (m + r - m0) * ld + (a - from), lanes + step * r + (a - c),
                           (size_t)(b - a) * sizeof *out);
                m += rows;
            }
        }
    }
}

static void run_task(void *ctx, int64_t task, int worker)
{
    const quant_job *q = ctx;
    const an_gemm_job *j = q->gemm;
    float *sums = (float *)(void *)(q->scratch + (size_t)worker * q->scratch_each);
    const int64_t row = task % q->rows, col = task / q->rows;
    const int64_t m0 = q->tiles * row / q->rows * AN_QUANT_ROWS;
    const int64_t m1 = min64(q->tiles * (row + 1) / q->rows * AN_QUANT_ROWS, j->m);
    const int64_t j0 = q->panels * col / q->cols * q->lanes;
    const int64_t j1 = min64(q->panels * (col + 1) / q->cols * q->lanes, j->n_out);
    const bool gated = j->n_out != j->w->n;
    const int64_t ld = (j1 - j0) * (gated ? 2 : 1);
    columns(q, m0, m1, j0, j1, sums, ld);
    if (gated) columns(q, m0, m1, j->n_out + j0, j->n_out + j1, sums + (j1 - j0), ld);
    for (int64_t m = m0; m < m1; m++) {
        const float *v = sums + (m - m0) * ld;
        j->w->kernel->finish(j, m, j0, j1, v, gated ? v + (j1 - j0) : NULL);
    }
}

/* Rows of one tile a task. */
static void round_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const quant_job *q = ctx;
    const an_gemm_job *j = q->gemm;
    const int64_t k = j->w->k, end = min64((task + 1) * AN_QUANT_ROWS, j->m);
    for (int64_t m = task * AN_QUANT_ROWS; m < end; m++) {
        const an_quant_tile t = an_quant_tile_at(j->m, m);
        q->w->kernel->round((const char *)j->x + (size_t)(m * k) * an_dtype_size(j->x_dtype),
                            j->x_dtype, k, t.rows, (int)(m - t.first),
                            q->x + t.first * (k / 32) * AN_QUANT_X);
    }
}

/* ---------------------------------------------------------------- the op */

/* The floating parts, one GEMM each into columns of plain. */
static void run_plain(const an_gemm_job *j, const an_quant_weight *w, an_pool *pool, float *plain,
                      float *room, void *scratch)
{
    for (int i = 0; i < w->parts; i++) {
        const an_quant_part *p = &w->part[i];
        if (p->data) continue;
        const an_gemm_job g = {.w = p->plain,
                               .m = j->m,
                               .n_out = p->n,
                               .flat = true,
                               .x = j->x,
                               .x_dtype = j->x_dtype,
                               .c = j->w->k,
                               .y = room,
                               .y_dtype = AN_F32};
        an_gemm_run(&g, pool, scratch);
        for (int64_t m = 0; m < j->m; m++)
            memcpy(plain + m * w->plain_columns + p->plain_at, room + m * p->n,
                   (size_t)p->n * sizeof *plain);
    }
}

an_status an_quant_gemm(an_lane *l, const an_gemm_args *a)
{
    const an_gemm_weight *g = a->w->impl;
    an_gemm_job j = an_gemm_job_linear(a, g);
    an_pool *pool = l->device->pool;
    const int threads = an_pool_threads(pool);
    quant_job q = {.gemm = &j, .w = g->quant, .scratch_each = scratch_each()};
    const int64_t plain = q.w->plain_columns;
    q.x = an_lane_scratch(l, (size_t)(j.m * (g->k / 32) * AN_QUANT_X));
    q.scratch = an_lane_scratch(l, (size_t)threads * q.scratch_each);
    float *sums = NULL, *room = NULL;
    void *scratch = NULL;
    if (plain) {
        sums = an_lane_scratch(l, (size_t)(j.m * plain) * sizeof *sums);
        room = an_lane_scratch(l, (size_t)(j.m * plain) * sizeof *room);
        scratch = an_lane_scratch(l, (size_t)threads * g->kernel->scratch);
    }
    if (l->counting || l->error.status) return l->error.status;
    if (plain) run_plain(&j, q.w, pool, sums, room, scratch);
    q.plain = sums;
    const int64_t tiles = ceil_div(j.m, AN_QUANT_ROWS);
    if (j.m * g->k < ROUND_WORK)
        for (int64_t t = 0; t < tiles; t++) round_task(&q, t, 0);
    else
        an_pool_run(pool, tiles, round_task, &q);
    choose_grid(&q, threads);
    an_pool_run(pool, q.rows * q.cols, run_task, &q);
    return AN_OK;
}
