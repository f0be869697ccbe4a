/* gemm.c: GEMM on the CPU: which kernel, the grid of tasks, the op, and the self-test. */
#include "quant.h"
#ifdef AN_ONEDNN
#include "onednn.h"
#endif

#include <stdlib.h>

const an_gemm_kernel *an_gemm_kernel_of(an_isa isa, an_dtype dtype)
{
    const bool bf16 = dtype == AN_BF16;
    const an_gemm_kernel *k = NULL;
    switch (isa) {
    case AN_ISA_AMX:
        k = bf16 ? &an_gemm_amx[0] : &an_gemm_avx512[0];
        break;
    case AN_ISA_BF16:
        k = bf16 ? &an_gemm_bf16[0] : &an_gemm_avx512[0];
        break;
    case AN_ISA_AVX512:
        k = &an_gemm_avx512[bf16];
        break;
    case AN_ISA_AVX2:
        k = &an_gemm_avx2[bf16];
        break;
    case AN_ISA_GENERIC:
        k = &an_gemm_generic[bf16];
        break;
    }
    return k && k->block ? k : NULL;
}

/* ---------------------------------------------------------------- tasks */

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* rows x cols tasks; tiles and panels are dealt out evenly. */
typedef struct grid {
    const an_gemm_job *job;
    char *scratch;
    int64_t tiles, panels; /* of y: down, across */
    int64_t rows, cols;    /* tasks: down, across */
} grid;

/* Tasks no larger than a thread's blocks, enough of them that all threads end at about the same
 * time, none so small that handing it out costs more than doing it. Nothing here can change a
 * result. */
static grid choose_grid(const an_gemm_job *j, int threads)
{
    const an_gemm_kernel *kn = j->w->kernel;
    const bool gated = j->w->n != j->n_out;
    grid g = {.job = j, .tiles = ceil_div(j->m, kn->mr), .panels = ceil_div(j->n_out, kn->nr)};
    /* the gate's columns rarely begin at a panel: one more panel of room */
    int64_t most_panels = gated ? (kn->nc / kn->nr - 1) / 2 : kn->nc / kn->nr;
    g.rows = ceil_div(g.tiles, kn->mc / kn->mr);
    g.cols = ceil_div(g.panels, most_panels);
    double flops = 2.0 * (double)(g.tiles * kn->mr) * (double)j->w->n * (double)j->w->k;
    double want = flops / 2e6;
    if (want > 4.0 * threads) want = 4.0 * threads;
    if (threads == 1) want = 1;
    while ((double)(g.rows * g.cols) < want) {
        int64_t height = ceil_div(g.tiles, g.rows) * kn->mr;
        int64_t width = ceil_div(g.panels, g.cols) * kn->nr;
        bool can_rows = g.rows < g.tiles, can_cols = g.cols < g.panels;
        if (can_rows && (height >= width || !can_cols))
            g.rows++;
        else if (can_cols)
            g.cols++;
        else
            break;
    }
    if (g.rows * g.cols > 1)
        while (g.rows * g.cols % threads && g.rows * g.cols < 16 * threads && g.rows < g.tiles)
            g.rows++;
    return g;
}

static void run_task(void *ctx, int64_t task, int worker)
{
    const grid *g = ctx;
    const an_gemm_kernel *kn = g->job->w->kernel;
    /* neighbours in time share a block of columns: the weights come from memory once */
    int64_t row = task % g->rows, col = task / g->rows;
    int64_t m0 = g->tiles * row / g->rows * kn->mr, m1 = g->tiles * (row + 1) / g->rows * kn->mr;
    int64_t j0 = g->panels * col / g->cols * kn->nr, j1 = g->panels * (col + 1) / g->cols * kn->nr;
    if (m1 > g->job->m) m1 = g->job->m;
    if (j1 > g->job->n_out) j1 = g->job->n_out;
    kn->block(g->job, m0, m1, j0, j1, g->scratch + (size_t)worker * kn->scratch);
}

void an_gemm_run(const an_gemm_job *j, an_pool *pool, void *scratch)
{
    if (j->m <= 0 || j->n_out <= 0) return;
    grid g = choose_grid(j, pool ? an_pool_threads(pool) : 1);
    g.scratch = scratch;
    if (pool)
        an_pool_run(pool, g.rows * g.cols, run_task, &g);
    else
        for (int64_t t = 0; t < g.rows * g.cols; t++) run_task(&g, t, 0);
}

/* ---------------------------------------------------------------- the op */

an_gemm_job an_gemm_job_linear(const an_gemm_args *a, const an_gemm_weight *w)
{
    const bool gated = an_act_gated(a->act);
    an_gemm_job j = {
        .w = w,
        .m = w->k ? an_tensor_count(&a->x) / w->k : 0,
        .n_out = gated ? w->n / 2 : w->n,
        .flat = true,
        .x = a->x.data,
        .x_dtype = a->x.dtype,
        .c = w->k,
        .act = a->act,
        .y = a->y.data,
        .y_dtype = a->y.dtype,
    };
    if (a->residual) {
        j.residual = a->residual->data;
        j.residual_dtype = a->residual->dtype;
    }
    return j;
}

static an_status run_job(an_lane *l, const an_gemm_job *j)
{
    an_pool *pool = l->device->pool;
    void *scratch = an_lane_scratch(l, (size_t)an_pool_threads(pool) * j->w->kernel->scratch);
    if (l->counting) return AN_OK;
    if (!scratch) return AN_NO_MEMORY;
    an_gemm_run(j, pool, scratch);
    return AN_OK;
}

an_status an_cpu_gemm(an_lane *l, const an_gemm_args *a)
{
#ifdef AN_ONEDNN
    if (a->w->device->onednn && !a->w->blocks) return an_onednn_gemm(l, a);
#endif
    if (a->w->blocks) return an_quant_gemm(l, a);
    an_gemm_job j = an_gemm_job_linear(a, a->w->impl);
    return run_job(l, &j);
}

an_status an_cpu_conv2d(an_lane *l, const an_conv_args *a)
{
#ifdef AN_ONEDNN
    if (a->w->device->onednn) return an_onednn_conv2d(l, a);
#endif
    an_gemm_job j = an_gemm_job_conv(a, a->w->impl);
    return run_job(l, &j);
}

/* ---------------------------------------------------------------- weights */

static an_status pack(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                      const float *const *scale, const an_tensor *const *bias, an_weight *out,
                      an_error *err)
{
    an_isa isa = d->isa;
    const an_gemm_kernel *kernel = an_gemm_kernel_of(isa, dtype);
    while (!kernel && isa > AN_ISA_GENERIC) kernel = an_gemm_kernel_of(--isa, dtype);
    if (!kernel)
        return an_fail(err, AN_INVALID, "weights as %s: the CPU computes in F32 and BF16",
                       an_dtype_name(dtype));
    an_gemm_weight *packed = NULL;
    an_status s = out->blocks
                      ? an_quant_pack(kernel, an_quant_kernel_of(d->isa), d->pool, n_parts, w, bias,
                                      &packed, err)
                      : an_gemm_pack(kernel, d->pool, n_parts, w, scale, bias, &packed, err);
    if (s) return s;
    out->impl = packed;
    out->bytes = packed->bytes;
    out->rows = n_parts == 1 && w[0]->ndim == 2;
    return AN_OK;
}

an_status an_cpu_weight_linear(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                               const float *const *scale, const an_tensor *const *bias,
                               an_weight *out, an_error *err)
{
#ifdef AN_ONEDNN
    if (d->onednn && !out->blocks)
        return an_onednn_weight(d, dtype, n_parts, w, scale, bias, out, err);
#endif
    return pack(d, dtype, n_parts, w, scale, bias, out, err);
}

an_status an_cpu_weight_conv(an_device *d, an_dtype dtype, const an_tensor *w,
                             const an_tensor *bias, an_weight *out, an_error *err)
{
    return an_cpu_weight_linear(d, dtype, 1, &w, NULL, bias ? &bias : NULL, out, err);
}

void an_cpu_weight_free(an_weight *w)
{
#ifdef AN_ONEDNN
    if (w->device->onednn && !w->blocks) {
        an_onednn_weight_free(w);
        return;
    }
#endif
    an_gemm_weight_free(w->impl);
    w->impl = NULL;
}
