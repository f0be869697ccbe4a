/* ops.c: the op table's front: every shape is checked here, once, for all backends; FLOPs are
 * counted here; an op's scratch is given back here. A wrong shape is a bug in a model or a model
 * file that fits nothing, so it latches AN_INTERNAL with both shapes and the op's name. */
#include "ops_check.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- GEMM and convolution */

static bool gemm_ok(an_lane *l, const an_gemm_args *a)
{
    const char *op = "gemm";
    const an_tensor *x = &a->x, *y = &a->y;
    if (!a->w) {
        an_lane_fail(l, AN_INTERNAL, "gemm: no weight");
        return false;
    }
    an_tensor w = an_tensor_2d(NULL, AN_F32, a->w->n, a->w->k);
    if (!active(l, op, "x", x) || !known_act(l, op, a->act, true)) return false;
    if (a->w->kh != 1 || a->w->kw != 1 || last(x) != a->w->k)
        return bad(l, op, "x must be [..., k] for a weight [n,k]", x, &w);
    if (!output(l, op, x, y, a->residual)) return false;
    int64_t n = an_act_gated(a->act) ? a->w->n / 2 : a->w->n;
    if (an_act_gated(a->act) && a->w->n % 2)
        return bad(l, op, "a gated weight needs even n", &w, NULL);
    if (last(y) != n || leading(y) != leading(x))
        return bad(l, op, "y must be [..., n] (n/2 if gated)", x, y);
    return true;
}

void an_gemm(an_lane *l, const an_gemm_args *a)
{
    if (!live(l) || !gemm_ok(l, a)) return;
    l->flops += 2.0 * (double)leading(&a->x) * (double)a->w->n * (double)a->w->k;
    moves(l, &a->x);
    moves(l, &a->y);
    moves(l, a->residual);
    l->bytes += (double)a->w->bytes;
    CALL(l, gemm, a);
}

static bool conv_ok(an_lane *l, const an_conv_args *a)
{
    const char *op = "conv2d";
    const an_tensor *x = &a->x, *y = &a->y;
    if (!a->w) {
        an_lane_fail(l, AN_INTERNAL, "conv2d: no weight");
        return false;
    }
    an_tensor w = an_tensor_4d(NULL, AN_F32, a->w->n, a->w->k, a->w->kh, a->w->kw);
    if (!active(l, op, "x", x) || !known_act(l, op, a->act, false)) return false;
    if (x->ndim != 4 || last(x) != a->w->k)
        return bad(l, op, "x must be [n,h,w,k] for a weight [out,k,kh,kw]", x, &w);
    if (!output(l, op, x, y, a->residual)) return false;
    bool up = a->up_h || a->up_w;
    if (a->stride < 1 || a->stride > 2 || a->pad_top < 0 || a->pad_left < 0 || a->pad_bottom < 0 ||
        a->pad_right < 0 || a->pad_top > 64 || a->pad_left > 64 || a->pad_bottom > 64 ||
        a->pad_right > 64 || (up && (a->up_h < 1 || a->up_w < 1))) {
        an_lane_fail(l, AN_INTERNAL,
                     "conv2d: stride %d, padding %d %d %d %d, resize to %lldx%lld is not possible",
                     a->stride, a->pad_top, a->pad_left, a->pad_bottom, a->pad_right,
                     (long long)a->up_h, (long long)a->up_w);
        return false;
    }
    int64_t h = (up ? a->up_h : x->dim[1]) + a->pad_top + a->pad_bottom - a->w->kh;
    int64_t wd = (up ? a->up_w : x->dim[2]) + a->pad_left + a->pad_right - a->w->kw;
    an_tensor want = an_tensor_4d(NULL, y->dtype, x->dim[0], h < 0 ? 0 : h / a->stride + 1,
                                  wd < 0 ? 0 : wd / a->stride + 1, a->w->n);
    if (!an_tensor_same_shape(&want, y)) return bad(l, op, "y has not the shape due", y, &want);
    const an_tensor *rb = a->row_bias;
    if (!rb) return true;
    if (!active(l, op, "row_bias", rb)) return false;
    if (an_tensor_count(rb) != x->dim[0] * a->w->n || last(rb) != a->w->n ||
        (a->row_bias_stride && a->row_bias_stride < a->w->n) ||
        (rb->dtype != x->dtype && rb->dtype != AN_F32))
        return bad(l, op, "row_bias must be [n,out] in x's dtype or F32", rb, x);
    return true;
}

void an_conv2d(an_lane *l, const an_conv_args *a)
{
    if (!live(l) || !conv_ok(l, a)) return;
    l->flops += 2.0 * (double)an_tensor_count(&a->y) * (double)a->w->k * a->w->kh * a->w->kw;
    moves(l, &a->x);
    moves(l, &a->y);
    moves(l, a->residual);
    moves(l, a->row_bias);
    l->bytes += (double)a->w->bytes;
    CALL(l, conv2d, a);
}

/* ---------------------------------------------------------------- norms */

static bool group_norm_ok(an_lane *l, const char *op, const an_tensor *x, const an_tensor *gamma,
                          const an_tensor *beta, int groups, const an_tensor *y)
{
    char what[80];
    if (!active(l, op, "x", x) || !active(l, op, "y", y) ||
        !same(l, op, "x and y must be alike", x, y) || !params(l, op, "gamma", gamma, x) ||
        !params(l, op, "beta", beta, x))
        return false;
    if (x->ndim >= 3 && groups >= 1 && last(x) % groups == 0) return true;
    snprintf(what, sizeof what, "%d groups do not divide x [n,...,c]", groups);
    return bad(l, op, what, x, NULL);
}

void an_group_norm(an_lane *l, an_tensor x, const an_tensor *gamma, const an_tensor *beta,
                   int groups, float eps, bool silu, an_tensor y)
{
    if (!live(l) || !group_norm_ok(l, "group_norm", &x, gamma, beta, groups, &y)) return;
    moves(l, &x);
    moves(l, &y);
    CALL(l, group_norm, &x, gamma->data, beta->data, groups, eps, silu, &y);
}

static bool concat_ok(an_lane *l, const char *op, const an_tensor *a, const an_tensor *b,
                      const an_tensor *y)
{
    if (!active(l, op, "a", a) || !active(l, op, "b", b) || !active(l, op, "y", y)) return false;
    if (a->dtype != b->dtype || leading(a) != leading(b))
        return bad(l, op, "a and b must differ in the last dim alone", a, b);
    if (a->dtype != y->dtype || leading(y) != leading(a) || last(y) != last(a) + last(b))
        return bad(l, op, "y's last dim must be the sum of a's and b's", a, y);
    return true;
}

void an_concat(an_lane *l, an_tensor a, an_tensor b, an_tensor y)
{
    if (!live(l) || !concat_ok(l, "concat", &a, &b, &y)) return;
    l->bytes += 2.0 * (double)an_tensor_bytes(&y);
    CALL(l, concat, &a, &b, &y);
}

void an_concat_group_norm(an_lane *l, an_tensor a, an_tensor b, an_tensor cat,
                          const an_tensor *gamma, const an_tensor *beta, int groups, float eps,
                          bool silu, an_tensor y)
{
    const char *op = "concat_group_norm";
    if (!l->device->backend->concat_group_norm) {
        an_concat(l, a, b, cat);
        an_group_norm(l, cat, gamma, beta, groups, eps, silu, y);
        return;
    }
    if (!live(l) || !concat_ok(l, op, &a, &b, &cat) ||
        !group_norm_ok(l, op, &cat, gamma, beta, groups, &y))
        return;
    moves(l, &a);
    moves(l, &b);
    moves(l, &cat);
    moves(l, &y);
    CALL(l, concat_group_norm, &a, &b, &cat, gamma->data, beta->data, groups, eps, silu, &y);
}

void an_layer_norm(an_lane *l, an_tensor x, const an_tensor *gamma, const an_tensor *beta,
                   float eps, an_tensor y)
{
    const char *op = "layer_norm";
    if (!live(l) || !active(l, op, "x", &x) || !active(l, op, "y", &y) ||
        !same(l, op, "x and y must be alike", &x, &y) || !params(l, op, "gamma", gamma, &x) ||
        (beta && !params(l, op, "beta", beta, &x)))
        return;
    moves(l, &x);
    moves(l, &y);
    CALL(l, layer_norm, &x, gamma->data, beta ? beta->data : NULL, eps, &y);
}

void an_rms_norm(an_lane *l, an_tensor x, const an_tensor *gamma, float eps, an_tensor y)
{
    const char *op = "rms_norm";
    if (!live(l) || !active(l, op, "x", &x) || !active(l, op, "y", &y) ||
        !same(l, op, "x and y must be alike", &x, &y) || !params(l, op, "gamma", gamma, &x))
        return;
    moves(l, &x);
    moves(l, &y);
    CALL(l, rms_norm, &x, gamma->data, eps, &y);
}

/* ---------------------------------------------------------------- attention */

/* Multiply-adds of row r per head and element of head_dim, both products; -1 when its keys are
 * not what attention takes. */
static double attention_pairs(const an_attention_args *a, int64_t r)
{
    int64_t keys = a->kv_lens ? a->kv_lens[r] : a->kv_len;
    if (keys < 1 || (a->kv_start && a->kv_start[r] < 0) || (a->causal && keys != a->q_len))
        return -1;
    double q = (double)a->q_len;
    return a->causal ? q * (q + 1) / 2 : q * (double)keys;
}

/* bytes: of q, k, v and y. */
static bool attention_ok(an_lane *l, const an_attention_args *a, double *pairs, double *bytes)
{
    if (!active(l, "attention", "y", &a->y)) return false;
    int64_t width;
    if (a->rows < 1 || a->heads < 1 || a->head_dim < 1 || a->head_dim > 512 || a->q_len < 1 ||
        __builtin_mul_overflow((int64_t)a->heads, (int64_t)a->head_dim, &width)) {
        an_lane_fail(l, AN_INTERNAL,
                     "attention: %lld rows, %lld queries, %d heads of %d: all must be positive and "
                     "heads at most 512 wide",
                     (long long)a->rows, (long long)a->q_len, a->heads, a->head_dim);
        return false;
    }
    an_tensor want = an_tensor_3d(NULL, a->dtype, a->rows, a->q_len, width);
    if (!same(l, "attention", "y has not the shape due", &a->y, &want)) return false;
    if (a->q_stride < width || a->k_stride < width || a->v_stride < width ||
        !a->kv_start != !a->kv_lens || (!l->counting && (!a->q || !a->k || !a->v))) {
        an_lane_fail(l, AN_INTERNAL,
                     "attention: strides %lld %lld %lld for %lld wide tokens, or q, k, v or one of "
                     "kv_start, kv_lens is NULL",
                     (long long)a->q_stride, (long long)a->k_stride, (long long)a->v_stride,
                     (long long)width);
        return false;
    }
    *pairs = 0;
    *bytes = 2.0 * (double)an_tensor_bytes(&a->y);
    for (int64_t r = 0; r < a->rows; r++) {
        double p = attention_pairs(a, r);
        if (p < 0) {
            an_lane_fail(
                l, AN_INTERNAL,
                "attention: row %lld has %lld keys from %lld on%s: at least one is needed%s",
                (long long)r, (long long)(a->kv_lens ? a->kv_lens[r] : a->kv_len),
                (long long)(a->kv_start ? a->kv_start[r] : 0), a->causal ? ", causal" : "",
                a->causal ? ", and as many keys as queries" : "");
            return false;
        }
        *pairs += p;
        *bytes += 2.0 * (double)(a->kv_lens ? a->kv_lens[r] : a->kv_len) * (double)width *
                  (double)an_dtype_size(a->dtype);
    }
    return true;
}

void an_attention(an_lane *l, const an_attention_args *a)
{
    double pairs, bytes;
    if (!live(l) || !attention_ok(l, a, &pairs, &bytes)) return;
    l->bytes += bytes;
    l->flops += 4.0 * pairs * (double)a->heads * (double)a->head_dim;
    CALL(l, attention, a);
}

/* ---------------------------------------------------------------- small ones */

void an_embedding(an_lane *l, const an_tensor *table, const an_tensor *pos, an_tensor ids,
                  an_tensor y)
{
    const char *op = "embedding";
    const bool blocks = an_dtype_is_quant(table->dtype);
    if (!live(l) || !(blocks ? sound : active)(l, op, "table", table) ||
        !sound(l, op, "ids", &ids) || !active(l, op, "y", &y) ||
        (pos && !active(l, op, "pos", pos)))
        return;
    if (table->ndim != 2 || last(table) != last(&y) || last(table) % an_dtype_block(table->dtype)) {
        bad(l, op, "table must be [v,c] with y's channels, in whole blocks", table, &y);
    } else if (ids.dtype != AN_I32 || ids.ndim != 2 || y.ndim != 3 || y.dim[0] != ids.dim[0] ||
               y.dim[1] != ids.dim[1]) {
        bad(l, op, "ids must be I32 [n,t] for y [n,t,c]", &ids, &y);
    } else if (pos && (pos->ndim != 2 || pos->dim[0] < ids.dim[1] || last(pos) != last(&y))) {
        bad(l, op, "pos must be [t or more,c]", pos, &y);
    } else {
        const double row = (double)an_tensor_bytes(table) / (double)leading(table) +
                           (pos ? 4.0 : 0) * (double)last(&y);
        l->bytes += (double)an_tensor_count(&ids) * row;
        moves(l, &ids);
        moves(l, &y);
        CALL(l, embedding, table, pos, &ids, &y);
    }
}

void an_timestep_embedding(an_lane *l, const float *t, bool flip_sin_to_cos, float freq_shift,
                           float scale, an_tensor y)
{
    const char *op = "timestep_embedding";
    if (!live(l) || !active(l, op, "y", &y)) return;
    if (y.ndim != 2 || y.dim[1] < 2 || (!t && !l->counting)) {
        bad(l, op, "y must be [n,dim >= 2] and t be there", &y, NULL);
        return;
    }
    moves(l, &y);
    CALL(l, timestep_embedding, t, flip_sin_to_cos, freq_shift, scale, &y);
}

void an_activation(an_lane *l, an_tensor x, an_act act, an_tensor y)
{
    const char *op = "activation";
    if (!live(l) || !active(l, op, "x", &x) || !active(l, op, "y", &y) ||
        !known_act(l, op, act, false) || !same(l, op, "x and y must be alike", &x, &y))
        return;
    moves(l, &x);
    moves(l, &y);
    CALL(l, activation, &x, act, &y);
}

void an_add(an_lane *l, an_tensor a, an_tensor b, an_tensor y)
{
    const char *op = "add";
    if (!live(l) || !active(l, op, "a", &a) || !active(l, op, "b", &b) || !active(l, op, "y", &y) ||
        !same(l, op, "a and b must be alike", &a, &b) ||
        !same(l, op, "a and y must be alike", &a, &y))
        return;
    moves(l, &a);
    moves(l, &b);
    moves(l, &y);
    CALL(l, add, &a, &b, &y);
}

void an_copy(an_lane *l, an_tensor x, an_tensor y)
{
    const char *op = "copy";
    if (!live(l) || !sound(l, op, "x", &x) || !sound(l, op, "y", &y)) return;
    if (an_tensor_count(&x) != an_tensor_count(&y) ||
        (x.dtype != y.dtype && !(active_dtype(x.dtype) && active_dtype(y.dtype)))) {
        bad(l, op, "x and y must have as many elements, of one dtype or F32 and BF16", &x, &y);
        return;
    }
    moves(l, &x);
    moves(l, &y);
    CALL(l, copy, &x, &y);
}

void an_gather_rows(an_lane *l, an_tensor x, const int64_t *index, an_tensor y)
{
    const char *op = "gather_rows";
    if (!live(l) || !active(l, op, "x", &x) || !active(l, op, "y", &y)) return;
    if (x.ndim != 3 || x.dtype != y.dtype || last(&y) != last(&x) || leading(&y) != x.dim[0] ||
        (!index && !l->counting)) {
        bad(l, op, "x must be [n,t,c], y [n,c]", &x, &y);
        return;
    }
    for (int64_t r = 0; !l->counting && r < x.dim[0]; r++) {
        if (index[r] >= 0 && index[r] < x.dim[1]) continue;
        an_lane_fail(l, AN_INTERNAL, "gather_rows: row %lld asks for token %lld of %lld",
                     (long long)r, (long long)index[r], (long long)x.dim[1]);
        return;
    }
    l->bytes += 2.0 * (double)an_tensor_bytes(&y);
    CALL(l, gather_rows, &x, index, &y);
}

/* ---------------------------------------------------------------- diffusion */

void an_latent_in(an_lane *l, const float *const *x, const float *scale, an_tensor y)
{
    const char *op = "latent_in";
    if (!live(l) || !active(l, op, "y", &y)) return;
    bool ok = l->counting || (x && scale);
    for (int64_t r = 0; ok && !l->counting && r < y.dim[0]; r++) ok = x[r] != NULL;
    if (y.ndim != 4 || !ok) {
        bad(l, op, "y must be [rows,h,w,c] and every row have a latent and a scale", &y, NULL);
        return;
    }
    l->bytes += (double)an_tensor_count(&y) * sizeof(float);
    moves(l, &y);
    CALL(l, latent_in, x, scale, &y);
}

/* Every term with a factor needs its memory. */
static bool terms_ok(const an_step_row *r, const float *factor)
{
    if (factor[AN_TERM_SAVED] != 0 && !r->saved) return false;
    if (factor[AN_TERM_NOISE] != 0 && !r->noise) return false;
    for (int i = 1; i < AN_HISTORY; i++)
        if (factor[AN_TERM_D0 + i] != 0 && !r->d[i]) return false;
    return true;
}

static const char *step_row_fault(const an_step_row *r)
{
    if (r->count < 1) return "it has no elements";
    if (r->branches < 1 || r->branches > AN_MAX_BRANCHES) return "its branches are out of range";
    if (!r->x) return "it has no sample";
    for (int j = 0; j < r->branches; j++)
        if (!r->pred[j]) return "a branch has no prediction";
    if (!terms_ok(r, r->step.out) || (r->step.save && !terms_ok(r, r->step.keep)))
        return "a term with a factor has no memory";
    if (r->step.save && !r->saved) return "it saves, but nowhere";
    if (!(r->step.threshold >= 0 && r->step.threshold <= 1)) return "its threshold is not 0..1";
    return NULL;
}

void an_sampler_step(an_lane *l, const an_step_row *rows, int n)
{
    if (!live(l) || n < 1) return;
    for (int i = 0; i < n && !l->counting; i++) {
        const char *fault = step_row_fault(&rows[i]);
        if (!fault) continue;
        an_lane_fail(l, AN_INTERNAL, "sampler_step: row %d of %d: %s", i, n, fault);
        return;
    }
    for (int i = 0; i < n; i++) /* x in and out, a history in and one out, every prediction */
        l->bytes += (double)rows[i].count * sizeof(float) * (rows[i].branches + 4);
    CALL(l, sampler_step, rows, n);
}

static bool picture(const an_tensor *t)
{
    return t->ndim == 4 && t->dim[3] == 3;
}

void an_image_out(an_lane *l, an_tensor x, an_tensor y_u8, int64_t *n_nan)
{
    const char *op = "image_out";
    if (n_nan) *n_nan = 0;
    if (!live(l) || !active(l, op, "x", &x) || !sound(l, op, "y", &y_u8)) return;
    if (!picture(&x) || y_u8.dtype != AN_U8 || !an_tensor_same_shape(&x, &y_u8)) {
        bad(l, op, "x must be [n,h,w,3] and y the same in U8", &x, &y_u8);
        return;
    }
    moves(l, &x);
    moves(l, &y_u8);
    CALL(l, image_out, &x, &y_u8, n_nan);
}

void an_image_in(an_lane *l, an_tensor x_u8, an_tensor y)
{
    const char *op = "image_in";
    if (!live(l) || !sound(l, op, "x", &x_u8) || !active(l, op, "y", &y)) return;
    if (!picture(&y) || x_u8.dtype != AN_U8 || !an_tensor_same_shape(&x_u8, &y)) {
        bad(l, op, "x must be U8 [n,h,w,3] and y the same", &x_u8, &y);
        return;
    }
    moves(l, &x_u8);
    moves(l, &y);
    CALL(l, image_in, &x_u8, &y);
}
