/* onednn.c: GEMM and convolution by oneDNN, versions 2 and 3, whose C interfaces differ.
 *
 * oneDNN chooses its algorithm by the primitive's shape, so a primitive's shape never depends on
 * the batch: a convolution is one primitive for one picture, run once for each; a GEMM is a 1x1
 * convolution of a "picture" of GEMM_ROWS rows, the last one padded. It computes the sums in f32;
 * bias, activation and residual are the epilogue of our own kernels. Primitives are made when a
 * geometry is first seen (a counting lane sees them all) and kept with the weight; the weight is
 * reordered once into the layout that the first primitive asks for, and again only for a primitive
 * that asks for another. The threads are OpenMP's: as many as the device has, while its own pool
 * sleeps. */
#include "onednn.h"
#include "gemm.h"

#include <dlfcn.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdlib.h>

#define GEMM_ROWS 64

/* ---------------------------------------------------------------- two interfaces */

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t desc;
typedef const_dnnl_memory_desc_t desc_ref;
#define desc_new(d, n, dims, t, tag) dnnl_memory_desc_create_with_tag((d), (n), (dims), (t), (tag))
#define desc_of(d)                   (d)
#define desc_free(d)                 dnnl_memory_desc_destroy(d)
static dnnl_status_t conv_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const desc *x,
                               const desc *w, const desc *y, const int64_t *stride,
                               const int64_t *before, const int64_t *after,
                               const_dnnl_primitive_attr_t attr)
{
    const dnnl_dims_t none = {0};
    return dnnl_convolution_forward_primitive_desc_create(pd, e, dnnl_forward_inference,
                                                          dnnl_convolution_direct, *x, *w, NULL, *y,
                                                          stride, none, before, after, attr);
}
#else
typedef dnnl_memory_desc_t desc;
typedef const dnnl_memory_desc_t *desc_ref;
#define desc_new(d, n, dims, t, tag) dnnl_memory_desc_init_by_tag((d), (n), (dims), (t), (tag))
#define desc_of(d)                   (&(d))
#define desc_free(d)                 ((void)(d))
static dnnl_status_t conv_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t e, const desc *x,
                               const desc *w, const desc *y, const int64_t *stride,
                               const int64_t *before, const int64_t *after,
                               const_dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t d;
    dnnl_status_t s = dnnl_convolution_forward_desc_init(
        &d, dnnl_forward_inference, dnnl_convolution_direct, x, w, NULL, y, stride, before, after);
    return s ? s : dnnl_primitive_desc_create(pd, &d, attr, e, NULL);
}
#endif

/* ---------------------------------------------------------------- state */

/* What the shape of a primitive is, beside the weight's. */
typedef struct geometry {
    int64_t h, w, oh, ow;
    int stride, top, left;
} geometry;

typedef struct plan {
    geometry g;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y, scratch;
    void *packed; /* the weight as this plan wants it; another's or its own */
    bool owns_packed;
    size_t scratch_bytes;
    struct plan *next;
} plan;

typedef struct onednn_weight {
    an_gemm_weight epilogue; /* kernel, sizes and bias of our own kernels; no panels */
    an_dtype dtype;          /* computed in: BF16 only where the machine multiplies it */
    int64_t c;
    int kh, kw;
    void *plain; /* [n][c][kh][kw] */
    plan *plans;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
} onednn_weight;

static dnnl_data_type_t type_of(an_dtype t)
{
    return t == AN_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* OpenMP's threads of the calling thread, if this oneDNN uses OpenMP. */
static void use_threads(int n)
{
    void (*set)(int) = NULL;
    void *symbol = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    memcpy(&set, &symbol, sizeof set);
    if (set) set(n);
}

/* ---------------------------------------------------------------- weights */

static void plan_free(plan *p)
{
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    if (p->x) dnnl_memory_destroy(p->x);
    if (p->w) dnnl_memory_destroy(p->w);
    if (p->y) dnnl_memory_destroy(p->y);
    if (p->scratch) dnnl_memory_destroy(p->scratch);
    if (p->owns_packed) free(p->packed);
    free(p);
}

static void weight_free(onednn_weight *w)
{
    if (!w) return;
    for (plan *p = w->plans, *next; p; p = next) {
        next = p->next;
        plan_free(p);
    }
    if (w->stream) dnnl_stream_destroy(w->stream);
    if (w->engine) dnnl_engine_destroy(w->engine);
    free(w->plain);
    free(w->epilogue.bias);
    free(w);
}

void an_onednn_weight_free(an_weight *w)
{
    weight_free(w->impl);
    w->impl = NULL;
}

static void *aligned(size_t bytes)
{
    return aligned_alloc(64, (bytes + 64) / 64 * 64);
}

an_status an_onednn_weight(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                           const float *const *scale, const an_tensor *const *bias, an_weight *out,
                           an_error *err)
{
    size_t row = 0, bytes = 0;
    int64_t per_row = out->k * out->kh * out->kw;
    onednn_weight *ow = calloc(1, sizeof *ow);
    if (!ow) return an_fail(err, AN_NO_MEMORY, "no memory for a weight");
    ow->epilogue.kernel = an_gemm_kernel_of(AN_ISA_GENERIC, dtype);
    for (an_isa i = AN_ISA_GENERIC; i <= d->isa; i++)
        if (an_gemm_kernel_of(i, dtype)) ow->epilogue.kernel = an_gemm_kernel_of(i, dtype);
    ow->epilogue.n = out->n;
    ow->epilogue.k = per_row;
    ow->dtype = dtype == AN_BF16 && d->isa >= AN_ISA_AVX512 ? AN_BF16 : AN_F32;
    ow->c = out->k;
    ow->kh = out->kh;
    ow->kw = out->kw;
    if (an_mul_size((size_t)per_row, an_dtype_size(ow->dtype), &row) &&
        an_mul_size(row, (size_t)out->n, &bytes)) {
        ow->plain = aligned(bytes);
        ow->epilogue.bias = calloc((size_t)out->n, sizeof(float));
    }
    float *line = malloc((size_t)per_row * sizeof *line);
    uint16_t *half = malloc((size_t)per_row * sizeof *half);
    if (!ow->plain || !ow->epilogue.bias || !line || !half ||
        dnnl_engine_create(&ow->engine, dnnl_cpu, 0) ||
        dnnl_stream_create(&ow->stream, ow->engine, dnnl_stream_default_flags)) {
        free(line), free(half);
        weight_free(ow);
        return an_fail(err, AN_NO_MEMORY, "no memory for a weight of %lld x %lld",
                       (long long)out->n, (long long)per_row);
    }
    char *to = ow->plain;
    for (int64_t i = 0, n = 0; i < n_parts; n += w[i++]->dim[0]) {
        size_t from = an_dtype_size(w[i]->dtype) * (size_t)per_row;
        for (int64_t r = 0; r < w[i]->dim[0]; r++, to += row) {
            an_convert(line, AN_F32, (const char *)w[i]->data + (size_t)r * from, w[i]->dtype,
                       per_row);
            if (scale && scale[i])
                for (int64_t j = 0; j < per_row; j++) line[j] *= scale[i][r];
            if (dtype == AN_BF16) { /* rounded, wherever it is computed */
                an_convert(half, AN_BF16, line, AN_F32, per_row);
                an_convert(line, AN_F32, half, AN_BF16, per_row);
            }
            an_convert(to, ow->dtype, line, AN_F32, per_row);
        }
        if (bias && bias[i])
            an_convert(ow->epilogue.bias + n, AN_F32, bias[i]->data, bias[i]->dtype, w[i]->dim[0]);
    }
    free(line), free(half);
    out->impl = ow;
    out->bytes = 2 * bytes + (size_t)out->n * sizeof(float); /* plain and reordered */
    return AN_OK;
}

/* ---------------------------------------------------------------- plans */

/* The weight in the layout that the primitive wants. */
static dnnl_status_t pack_for(onednn_weight *w, plan *p, const desc *plain, desc_ref wanted)
{
    for (plan *o = w->plans; o && !p->packed; o = o->next) {
        desc_ref have;
        if (!dnnl_memory_get_memory_desc(o->w, &have) && dnnl_memory_desc_equal(have, wanted))
            p->packed = o->packed;
    }
    if (p->packed) return dnnl_memory_create(&p->w, wanted, w->engine, p->packed);
    p->packed = aligned(dnnl_memory_desc_get_size(wanted));
    if (!p->packed) return dnnl_out_of_memory;
    p->owns_packed = true;
    dnnl_memory_t from = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_status_t s = dnnl_memory_create(&p->w, wanted, w->engine, p->packed);
    if (!s) s = dnnl_memory_create(&from, desc_of(*plain), w->engine, w->plain);
    if (!s)
        s = dnnl_reorder_primitive_desc_create(&pd, desc_of(*plain), w->engine, wanted, w->engine,
                                               NULL);
    if (!s) s = dnnl_primitive_create(&reorder, pd);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, p->w}};
    if (!s) s = dnnl_primitive_execute(reorder, w->stream, 2, args);
    if (!s) s = dnnl_stream_wait(w->stream);
    if (reorder) dnnl_primitive_destroy(reorder);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (from) dnnl_memory_destroy(from);
    return s;
}

static dnnl_status_t plan_from(onednn_weight *w, plan *p, const desc *dx, const desc *any,
                               const desc *plain, const desc *dy)
{
    const geometry *g = &p->g;
    const dnnl_dims_t stride = {g->stride, g->stride}, before = {g->top, g->left};
    const dnnl_dims_t after = {(g->oh - 1) * g->stride + w->kh - g->h - g->top,
                               (g->ow - 1) * g->stride + w->kw - g->w - g->left};
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t s = dnnl_primitive_attr_create(&attr);
    if (!s) s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (!s) s = conv_desc(&pd, w->engine, dx, any, dy, stride, before, after, attr);
    if (!s) s = dnnl_primitive_create(&p->primitive, pd);
    if (!s) s = dnnl_memory_create(&p->x, desc_of(*dx), w->engine, DNNL_MEMORY_NONE);
    if (!s) s = dnnl_memory_create(&p->y, desc_of(*dy), w->engine, DNNL_MEMORY_NONE);
    if (!s) {
        desc_ref scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        p->scratch_bytes = scratch ? dnnl_memory_desc_get_size(scratch) : 0;
        if (p->scratch_bytes)
            s = dnnl_memory_create(&p->scratch, scratch, w->engine, DNNL_MEMORY_NONE);
    }
    if (!s) s = pack_for(w, p, plain, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0));
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return s;
}

/* The plan of a geometry, made if it is new; NULL and *s if oneDNN refuses. */
static plan *plan_of(onednn_weight *w, const geometry *g, dnnl_status_t *s)
{
    for (plan *p = w->plans; p; p = p->next)
        if (!memcmp(&p->g, g, sizeof *g)) return p;
    plan *p = calloc(1, sizeof *p);
    *s = dnnl_out_of_memory;
    if (!p) return NULL;
    memcpy(&p->g, g, sizeof *g);
    const dnnl_data_type_t t = type_of(w->dtype);
    dnnl_dims_t x = {1, w->c, g->h, g->w}, y = {1, w->epilogue.n, g->oh, g->ow},
                k = {w->epilogue.n, w->c, w->kh, w->kw};
    desc d[4] = {0};
    *s = desc_new(&d[0], 4, x, t, dnnl_nhwc);
    if (!*s) *s = desc_new(&d[1], 4, k, t, dnnl_format_tag_any);
    if (!*s) *s = desc_new(&d[2], 4, k, t, dnnl_oihw);
    if (!*s) *s = desc_new(&d[3], 4, y, dnnl_f32, dnnl_nhwc);
    if (!*s) *s = plan_from(w, p, &d[0], &d[1], &d[2], &d[3]);
    for (int i = 0; i < 4; i++) desc_free(d[i]);
    if (*s) {
        plan_free(p);
        return NULL;
    }
    p->next = w->plans;
    w->plans = p;
    return p;
}

/* ---------------------------------------------------------------- running */

/* One block: the picture, or the rows of a GEMM, as the primitive wants them; in place if they are
 * so already. */
static const void *stage(const an_gemm_job *j, const plan *p, an_dtype dtype, int64_t block,
                         void *room)
{
    const size_t size = an_dtype_size(j->x_dtype), pixel = (size_t)j->c * an_dtype_size(dtype);
    const int64_t rows = p->g.h * p->g.w;
    const int64_t own = j->flat ? rows : j->h * j->width; /* pixels of a block in x */
    const char *x = (const char *)j->x + (size_t)(block * own * j->c) * size;
    const int64_t left = j->flat ? j->m - block * rows : own;
    const bool resized = !j->flat && (p->g.h != j->h || p->g.w != j->width);
    if (!resized && left >= own && j->x_dtype == dtype) return x;
    if (!resized) {
        int64_t have = left < own ? left : own;
        an_convert(room, dtype, x, j->x_dtype, have * j->c);
        memset((char *)room + (size_t)have * pixel, 0, (size_t)(own - have) * pixel);
        return room;
    }
    for (int64_t i = 0; i < rows; i++) {
        int64_t iy = i / p->g.w * j->h / p->g.h, ix = i % p->g.w * j->width / p->g.w;
        an_convert((char *)room + (size_t)i * pixel, dtype,
                   x + (size_t)((iy * j->width + ix) * j->c) * size, j->x_dtype, j->c);
    }
    return room;
}

typedef struct finishing {
    const an_gemm_job *job;
    const float *sums; /* [rows][n] */
    int64_t first, rows;
} finishing;

#define FINISH_ROWS 64

static void finish_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const finishing *f = ctx;
    const an_gemm_job *j = f->job;
    const int64_t n = j->w->n, end = (task + 1) * FINISH_ROWS;
    for (int64_t r = task * FINISH_ROWS; r < end && r < f->rows; r++)
        j->w->kernel->finish(j, f->first + r, 0, j->n_out, f->sums + r * n,
                             n == j->n_out ? NULL : f->sums + r * n + j->n_out);
}

static dnnl_status_t run_block(onednn_weight *w, plan *p, const void *x, float *y, void *scratch)
{
    const void *in = x; /* oneDNN's handles are not const; it does not write to a source */
    void *handle;
    memcpy(&handle, &in, sizeof handle);
    dnnl_status_t s = dnnl_memory_set_data_handle(p->x, handle);
    if (!s) s = dnnl_memory_set_data_handle(p->y, y);
    if (!s && p->scratch) s = dnnl_memory_set_data_handle(p->scratch, scratch);
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->x},
                              {DNNL_ARG_WEIGHTS, p->w},
                              {DNNL_ARG_DST, p->y},
                              {DNNL_ARG_SCRATCHPAD, p->scratch}};
    if (!s) s = dnnl_primitive_execute(p->primitive, w->stream, p->scratch ? 4 : 3, args);
    return s ? s : dnnl_stream_wait(w->stream);
}

static an_status run(an_lane *l, onednn_weight *w, an_gemm_job *j, const geometry *g)
{
    dnnl_status_t s = dnnl_success;
    use_threads(an_pool_threads(l->device->pool));
    plan *p = plan_of(w, g, &s);
    if (!p) {
        an_lane_fail(l, AN_DEVICE,
                     "oneDNN has no %s convolution of %lldx%lldx%lld to %lld channels here "
                     "(status %d): choose gemm 'own'",
                     an_dtype_name(w->dtype), (long long)g->h, (long long)g->w, (long long)w->c,
                     (long long)w->epilogue.n, (int)s);
        return AN_DEVICE;
    }
    const int64_t rows = g->oh * g->ow;
    /* the epilogue may read a vector past the last sum */
    float *sums = an_lane_scratch(l, (size_t)(rows * w->epilogue.n + 64) * sizeof(float));
    void *room = an_lane_scratch(l, (size_t)(g->h * g->w * w->c) * an_dtype_size(w->dtype));
    void *scratch = an_lane_scratch(l, p->scratch_bytes + 1);
    if (l->counting) return AN_OK;
    if (!sums || !room || !scratch) return AN_NO_MEMORY;
    for (int64_t first = 0; !s && first < j->m; first += rows) {
        s = run_block(w, p, stage(j, p, w->dtype, first / rows, room), sums, scratch);
        finishing f = {j, sums, first, j->m - first < rows ? j->m - first : rows};
        if (!s)
            an_pool_run(l->device->pool, (f.rows + FINISH_ROWS - 1) / FINISH_ROWS, finish_task, &f);
    }
    if (!s) return AN_OK;
    an_lane_fail(l, AN_DEVICE, "oneDNN failed (status %d)", (int)s);
    return AN_DEVICE;
}

an_status an_onednn_gemm(an_lane *l, const an_gemm_args *a)
{
    onednn_weight *w = a->w->impl;
    an_gemm_job j = an_gemm_job_linear(a, &w->epilogue);
    geometry g;
    memset(&g, 0, sizeof g); /* compared byte by byte */
    g.h = g.oh = 1;
    g.w = g.ow = GEMM_ROWS;
    g.stride = 1;
    return run(l, w, &j, &g);
}

an_status an_onednn_conv2d(an_lane *l, const an_conv_args *a)
{
    onednn_weight *w = a->w->impl;
    an_gemm_job j = an_gemm_job_conv(a, &w->epilogue);
    j.flat = false; /* one picture a primitive */
    geometry g;
    memset(&g, 0, sizeof g);
    g.h = j.up_h;
    g.w = j.up_w;
    g.oh = j.oh;
    g.ow = j.ow;
    g.stride = j.stride;
    g.top = j.pad_top;
    g.left = j.pad_left;
    return run(l, w, &j, &g);
}
