/* matrix.c: the host's side of products, convolutions and experts. A weight's parts (matrix.h) run
 * one after the other, each into its own columns of y. */
#include "cuda/matrix.h"

/* Kernels count rows in 32 bits, a tile past the end. */
static an_status rows_of(an_lane *l, const char *op, int64_t rows, int *out)
{
    *out = (int)rows;
    if (rows <= INT32_MAX / 4) return AN_OK;
    an_lane_fail(l, AN_TOO_LARGE, "%s: %lld rows are too many for a GPU", op, (long long)rows);
    return AN_TOO_LARGE;
}

/* ---------------------------------------------------------------- products */

typedef struct product {
    const an_weight *w;
    const void *x;
    an_dtype x_dtype;
    const gpu_record *x8; /* x rounded, where a part is in blocks */
    float *sums;          /* room [rows of y, n], where value and gate are in different parts */
    int rows;
    bool wgmma;
    const int32_t *range, *index; /* see gpu_gemm */
    an_act act;
    const void *residual;
    void *y;
    an_dtype y_dtype;
} product;

static const gpu_weight *weight_of(const an_weight *w)
{
    return w->impl;
}

static bool has_blocks(const an_weight *w)
{
    return w->blocks;
}

/* Where a layer's weight is in bf16; then always, whatever the rows: the two instructions may round
 * differently. A counting lane has no device's answer and needs none. */
static bool by_wgmma(const an_lane *l)
{
    return !l->counting && GPU(device_of)(l->device)->wgmma;
}

/* A gate whose value is in another part: sums are kept, then meet. */
static bool meets_late(const an_weight *w, an_act act)
{
    return an_act_gated(act) && weight_of(w)->parts > 1;
}

static size_t record_bytes(int64_t rows, int64_t k)
{
    return (size_t)rows * (size_t)((k + 127) / 128) * sizeof(gpu_record);
}

static int round_rows(const void *x, an_dtype dtype, int rows, int64_t k, gpu_record *to,
                      gpu_stream s)
{
    return GPU(round)(x, (int)dtype, rows, (int)k, to, s);
}

/* What part p of a product becomes. */
static gpu_out part_out(const product *p, const gpu_part *part)
{
    const int n = (int)p->w->n;
    const bool late = meets_late(p->w, p->act), gated = an_act_gated(p->act);
    const size_t size = an_dtype_size(late ? AN_F32 : p->y_dtype);
    const size_t at = (size_t)part->first * size;
    gpu_out o = {.bias = weight_of(p->w)->bias + part->first,
                 .y = (char *)(late ? p->sums : p->y) + at,
                 .y_dtype = (int)(late ? AN_F32 : p->y_dtype),
                 .ld = gated && !late ? n / 2 : n,
                 .act = late ? GPU_ACT_NONE : (int)p->act};
    if (p->residual && !late) o.residual = (const char *)p->residual + at;
    return o;
}

/* A CUDA error, 0 for none. */
static int run_product(const product *p, gpu_stream s)
{
    const gpu_weight *w = weight_of(p->w);
    for (int i = 0; i < w->parts; i++) {
        const gpu_part *part = &w->part[i];
        int error;
        if (part->blocks) {
            const gpu_quant q = {.w = part->quant,
                                 .x = p->x8,
                                 .rows = p->rows,
                                 .range = p->range,
                                 .index = p->index,
                                 .out = part_out(p, part)};
            error = GPU(quant)(&q, s);
        } else {
            const gpu_gemm g = {.w = part->plain,
                                .x = p->x,
                                .x_dtype = (int)p->x_dtype,
                                .rows = p->rows,
                                .k = (int)p->w->k,
                                .range = p->range,
                                .index = p->index,
                                .out = part_out(p, part)};
            error = p->wgmma && g.w.dtype == GPU_BF16 ? GPU(gemm90)(&g, s) : GPU(gemm)(&g, s);
        }
        if (error) return error;
    }
    if (!meets_late(p->w, p->act)) return 0;
    const gpu_out o = {.residual = p->residual,
                       .y = p->y,
                       .y_dtype = (int)p->y_dtype,
                       .ld = (int)p->w->n / 2,
                       .act = (int)p->act};
    return GPU(gate)(p->sums, (int)p->w->n, p->rows, p->range, &o, s);
}

an_status GPU(gemm_op)(an_lane *l, const an_gemm_args *a)
{
    const int64_t k = a->w->k, m = an_tensor_count(&a->x) / k;
    product p = {.w = a->w,
                 .x = a->x.data,
                 .x_dtype = a->x.dtype,
                 .wgmma = by_wgmma(l),
                 .act = a->act,
                 .residual = a->residual ? a->residual->data : NULL,
                 .y = a->y.data,
                 .y_dtype = a->y.dtype};
    if (rows_of(l, "gemm", m, &p.rows)) return AN_TOO_LARGE;
    gpu_record *x8 = NULL;
    if (has_blocks(a->w)) x8 = an_lane_scratch(l, record_bytes(m, k));
    if (meets_late(a->w, a->act))
        p.sums = an_lane_scratch(l, (size_t)m * (size_t)a->w->n * sizeof(float));
    if (GPU(idle)(l)) return l->error.status;
    p.x8 = x8;
    int error = 0;
    if (x8) error = round_rows(p.x, p.x_dtype, p.rows, k, x8, GPU(stream)(l));
    if (!error) error = run_product(&p, GPU(stream)(l));
    return GPU(check)(l, error, "gemm");
}

an_status GPU(weight_rows_op)(an_lane *l, const an_weight *w, const an_tensor *ids,
                              const an_tensor *y)
{
    const gpu_part *part = &weight_of(w)->part[0]; /* the only one, see weights.c */
    gpu_weight_rows a = {.ids = ids->data, .k = (int)w->k, .y = y->data, .y_dtype = (int)y->dtype};
    if (rows_of(l, "weight_rows", ids->dim[0], &a.tokens)) return AN_TOO_LARGE;
    if (GPU(idle)(l)) return l->error.status;
    if (part->blocks)
        a.blocks = part->quant;
    else
        a.plain = part->plain;
    gpu_lane *g = l->gpu;
    a.flags = g->flags;
    g->flagged = true;
    g->vocabulary = w->n;
    return GPU(check)(l, GPU(weight_rows)(&a, g->stream), "weight_rows");
}

/* ---------------------------------------------------------------- convolution */

an_status GPU(conv2d_op)(an_lane *l, const an_conv_args *a)
{
    const an_tensor *x = &a->x, *y = &a->y;
    int rows;
    const int64_t most = 32767 - 128; /* a pixel's place is two 16-bit numbers, padding included */
    if (rows_of(l, "conv2d", y->dim[0] * y->dim[1] * y->dim[2], &rows) ||
        rows_of(l, "conv2d", x->dim[0] * x->dim[1] * x->dim[2], &rows))
        return AN_TOO_LARGE;
    const int64_t h = a->up_h ? a->up_h : x->dim[1], w = a->up_w ? a->up_w : x->dim[2];
    if (h > most || w > most) {
        an_lane_fail(l, AN_TOO_LARGE, "conv2d: a picture of %lldx%lld, at most %lldx%lld",
                     (long long)w, (long long)h, (long long)most, (long long)most);
        return AN_TOO_LARGE;
    }
    if (GPU(idle)(l)) return l->error.status;
    gpu_conv c = {.w = weight_of(a->w)->part[0].plain,
                  .x = x->data,
                  .x_dtype = (int)x->dtype,
                  .pictures = (int)x->dim[0],
                  .h = (int)x->dim[1],
                  .width = (int)x->dim[2],
                  .c = (int)x->dim[3],
                  .up_h = (int)h,
                  .up_w = (int)w,
                  .oh = (int)y->dim[1],
                  .ow = (int)y->dim[2],
                  .kh = a->w->kh,
                  .kw = a->w->kw,
                  .stride = a->stride,
                  .pad_top = a->pad_top,
                  .pad_left = a->pad_left};
    c.out = (gpu_out){.bias = weight_of(a->w)->bias,
                      .row_pixels = (int)(y->dim[1] * y->dim[2]),
                      .y = y->data,
                      .y_dtype = (int)y->dtype,
                      .ld = (int)a->w->n,
                      .act = (int)a->act};
    if (a->residual) c.out.residual = a->residual->data;
    if (a->row_bias) {
        c.out.row_bias = a->row_bias->data;
        c.out.row_bias_dtype = (int)a->row_bias->dtype;
        c.out.row_bias_ld = (int)(a->row_bias_stride ? a->row_bias_stride : a->w->n);
    }
    gpu_stream s = GPU(stream)(l);
    return GPU(check)(
        l, by_wgmma(l) && c.w.dtype == GPU_BF16 ? GPU(conv90)(&c, s) : GPU(conv)(&c, s), "conv2d");
}

/* ---------------------------------------------------------------- experts */

/* Everything a mixture keeps in scratch; the arrays by choice are grouped by expert. */
typedef struct mixture {
    const an_moe_args *a;
    int tokens, choices;
    bool wgmma;
    int32_t *expert, *place, *token, *range;
    float *weight;
    gpu_record *x8, *h8; /* where an expert is in blocks */
    float *sums;
    void *h;  /* [choices, hidden] */
    float *y; /* [choices, c] */
} mixture;

static an_status mixture_scratch(an_lane *l, const an_moe_args *a, mixture *m)
{
    const int64_t tokens = a->x.dim[0], c = a->x.dim[1], hidden = a->down[0]->k;
    int64_t choices;
    *m = (mixture){.a = a, .wgmma = by_wgmma(l)};
    if (__builtin_mul_overflow(tokens, (int64_t)a->top_k, &choices)) choices = INT64_MAX;
    if (rows_of(l, "moe", choices, &m->choices)) return AN_TOO_LARGE;
    m->tokens = (int)tokens;
    bool up_blocks = false, down_blocks = false, late = false;
    for (int e = 0; e < a->experts; e++) {
        up_blocks |= has_blocks(a->gate_up[e]);
        down_blocks |= has_blocks(a->down[e]);
        late |= meets_late(a->gate_up[e], a->act);
    }
    const size_t n = (size_t)choices;
    m->expert = an_lane_scratch(l, n * sizeof *m->expert);
    m->place = an_lane_scratch(l, n * sizeof *m->place);
    m->token = an_lane_scratch(l, n * sizeof *m->token);
    m->weight = an_lane_scratch(l, n * sizeof *m->weight);
    m->range = an_lane_scratch(l, (size_t)a->experts * 2 * sizeof *m->range);
    m->h = an_lane_scratch(l, n * (size_t)hidden * an_dtype_size(a->x.dtype));
    m->y = an_lane_scratch(l, n * (size_t)c * sizeof *m->y);
    if (up_blocks) m->x8 = an_lane_scratch(l, record_bytes(tokens, c));
    if (down_blocks) m->h8 = an_lane_scratch(l, record_bytes(choices, hidden));
    if (late) m->sums = an_lane_scratch(l, n * 2 * (size_t)hidden * sizeof *m->sums);
    return l->error.status;
}

/* h = act(gate_up x), y = down h, expert by expert. How many rows an expert has only the device
 * knows: launches are for as many as there are tokens, blocks without rows end at once. */
static int run_experts(const mixture *m, gpu_stream s)
{
    const an_moe_args *a = m->a;
    int error = 0;
    if (m->x8) error = round_rows(a->x.data, a->x.dtype, m->tokens, a->x.dim[1], m->x8, s);
    for (int e = 0; e < a->experts && !error; e++) {
        const product up = {.w = a->gate_up[e],
                            .x = a->x.data,
                            .x_dtype = a->x.dtype,
                            .x8 = m->x8,
                            .sums = m->sums,
                            .rows = m->tokens,
                            .wgmma = m->wgmma,
                            .range = m->range + 2 * e,
                            .index = m->token,
                            .act = a->act,
                            .y = m->h,
                            .y_dtype = a->x.dtype};
        error = run_product(&up, s);
    }
    if (m->h8 && !error) error = round_rows(m->h, a->x.dtype, m->choices, a->down[0]->k, m->h8, s);
    for (int e = 0; e < a->experts && !error; e++) {
        const product down = {.w = a->down[e],
                              .x = m->h,
                              .x_dtype = a->x.dtype,
                              .x8 = m->h8,
                              .rows = m->tokens,
                              .wgmma = m->wgmma,
                              .range = m->range + 2 * e,
                              .y = m->y,
                              .y_dtype = AN_F32};
        error = run_product(&down, s);
    }
    return error;
}

an_status GPU(moe_op)(an_lane *l, const an_moe_args *a)
{
    mixture m;
    an_status status = mixture_scratch(l, a, &m);
    if (status || GPU(idle)(l)) return status;
    gpu_stream s = GPU(stream)(l);
    int error = GPU(moe_choose)(a->router.data, m.tokens, a->experts, a->top_k,
                                a->softmax_first && !a->normalize, m.expert, m.weight, s);
    if (!error)
        error =
            GPU(moe_group)(m.expert, m.choices, a->experts, a->top_k, m.place, m.token, m.range, s);
    if (!error) error = run_experts(&m, s);
    if (!error)
        error =
            GPU(moe_combine)(m.y, m.place, m.weight, m.tokens, a->top_k, (int)a->x.dim[1],
                             a->residual ? a->residual->data : NULL, a->y.data, (int)a->y.dtype, s);
    return GPU(check)(l, error, "moe");
}
