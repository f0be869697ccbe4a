/* ops_lm.c: the front of the language models' ops: shapes, places in the pool and expert tables are
 * checked here for all backends, as ops.c does for the others. */
#include "ops_check.h"

#include <math.h>

void an_take_rows(an_lane *l, an_tensor x, const int32_t *index, an_tensor y)
{
    const char *op = "take_rows";
    if (!live(l) || !active(l, op, "x", &x) || !active(l, op, "y", &y)) return;
    if (x.ndim != 2 || y.ndim != 2 || x.dtype != y.dtype || x.dim[1] != y.dim[1] ||
        (!index && !l->counting)) {
        bad(l, op, "x must be [n,c], y [m,c] and the index be there", &x, &y);
        return;
    }
    for (int64_t r = 0; !l->counting && r < y.dim[0]; r++) {
        if (index[r] >= 0 && index[r] < x.dim[0]) continue;
        an_lane_fail(l, AN_INTERNAL, "take_rows: row %lld asks for token %d of %lld", (long long)r,
                     (int)index[r], (long long)x.dim[0]);
        return;
    }
    l->bytes += 2.0 * (double)an_tensor_bytes(&y);
    CALL(l, take_rows, &x, index, &y);
}

void an_weight_rows(an_lane *l, const an_weight *w, an_tensor ids, an_tensor y)
{
    const char *op = "weight_rows";
    if (!live(l) || !sound(l, op, "ids", &ids) || !active(l, op, "y", &y)) return;
    if (!w->rows) {
        an_lane_fail(l, AN_INTERNAL, "weight_rows: this weight's packing is not read by rows");
    } else if (ids.dtype != AN_I32 || ids.ndim != 1 || y.ndim != 2 || y.dim[0] != ids.dim[0] ||
               y.dim[1] != w->k) {
        bad(l, op, "ids must be I32 [t] and y [t,k]", &ids, &y);
    } else {
        l->bytes += 2.0 * (double)an_tensor_bytes(&y);
        CALL(l, weight_rows, w, &ids, &y);
    }
}

void an_scale(an_lane *l, an_tensor x, float f, an_tensor y)
{
    const char *op = "scale";
    if (!live(l) || !active(l, op, "x", &x) || !active(l, op, "y", &y) ||
        !same(l, op, "x and y must be alike", &x, &y))
        return;
    moves(l, &x);
    moves(l, &y);
    CALL(l, scale, &x, f, &y);
}

void an_softcap(an_lane *l, an_tensor x, float cap, an_tensor y)
{
    const char *op = "softcap";
    if (!live(l) || !active(l, op, "x", &x) || !active(l, op, "y", &y) ||
        !same(l, op, "x and y must be alike", &x, &y))
        return;
    if (!(cap > 0) || !isfinite(cap)) {
        an_lane_fail(l, AN_INTERNAL, "softcap: a cap of %g, it must be positive", (double)cap);
        return;
    }
    moves(l, &x);
    moves(l, &y);
    CALL(l, softcap, &x, cap, &y);
}

void an_rope(an_lane *l, const an_rope_args *a)
{
    if (!live(l)) return;
    int64_t width;
    if (!active_dtype(a->dtype) || a->tokens < 1 || a->heads < 1 || a->head_dim < 1 ||
        a->rot_dim < 2 || a->rot_dim % 2 || a->rot_dim > a->head_dim ||
        __builtin_mul_overflow((int64_t)a->heads, (int64_t)a->head_dim, &width) ||
        a->stride < width || (!l->counting && (!a->x || !a->pos || !a->inv_freq))) {
        an_lane_fail(l, AN_INTERNAL,
                     "rope: %lld tokens of %s, stride %lld, %d heads of %d, %d of them turning: "
                     "the rotary part must be even and fit a head, the heads fit the stride, and "
                     "x, positions and frequencies be there",
                     (long long)a->tokens, an_dtype_name(a->dtype), (long long)a->stride, a->heads,
                     a->head_dim, a->rot_dim);
        return;
    }
    l->bytes += 2.0 * (double)a->tokens * (double)width * (double)an_dtype_size(a->dtype);
    CALL(l, rope, a);
}

/* ---------------------------------------------------------------- paged keys and values */

static bool pool_ok(an_lane *l, const char *op, const an_kv_pool *p)
{
    int64_t width;
    if (p && active_dtype(p->dtype) && p->blocks >= 1 && p->kv_heads >= 1 && p->head_dim >= 1 &&
        p->head_dim <= 512 &&
        !__builtin_mul_overflow((int64_t)p->kv_heads, (int64_t)p->head_dim, &width) &&
        (l->counting || (p->k && p->v)))
        return true;
    if (!p)
        an_lane_fail(l, AN_INTERNAL, "%s: no pool", op);
    else
        an_lane_fail(l, AN_INTERNAL,
                     "%s: a pool of %lld blocks of %d heads of %d as %s%s: F32 or BF16, all "
                     "positive, heads at most 512 wide",
                     op, (long long)p->blocks, p->kv_heads, p->head_dim, an_dtype_name(p->dtype),
                     p->k && p->v ? "" : ", without memory");
    return false;
}

/* Row i's tokens are in a batch of `tokens` (if known), and the blocks of positions from `first` to
 * its last lie in the pool. Blocks before `first` are not looked at: a window may have freed them.
 */
static bool row_ok(an_lane *l, const char *op, const an_kv_pool *p, const an_kv_row *r, int i,
                   int64_t first, int64_t tokens)
{
    if (r->q_start < 0 || r->q_len < 1 || r->pos < 0 || r->q_start > INT64_MAX / 2 ||
        r->q_len > INT32_MAX || r->pos > INT32_MAX || (!l->counting && !r->blocks) ||
        r->q_start + r->q_len > tokens) {
        an_lane_fail(l, AN_INTERNAL,
                     "%s: row %d has %lld tokens from %lld on of %lld, at position %lld%s", op, i,
                     (long long)r->q_len, (long long)r->q_start, (long long)tokens,
                     (long long)r->pos, r->blocks ? "" : ", without blocks");
        return false;
    }
    const int64_t end = (r->pos + r->q_len - 1) / AN_KV_BLOCK;
    for (int64_t b = first / AN_KV_BLOCK; !l->counting && b <= end; b++) {
        if (r->blocks[b] >= 0 && r->blocks[b] < p->blocks) continue;
        an_lane_fail(l, AN_INTERNAL, "%s: row %d has its block %lld at %d, the pool has %lld", op,
                     i, (long long)b, (int)r->blocks[b], (long long)p->blocks);
        return false;
    }
    return true;
}

void an_kv_write(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n, const void *k,
                 int64_t k_stride, const void *v, int64_t v_stride, an_dtype dtype)
{
    const char *op = "kv_write";
    if (!live(l) || n < 1 || !pool_ok(l, op, pool)) return;
    const int64_t width = (int64_t)pool->kv_heads * pool->head_dim;
    if (!rows || !active_dtype(dtype) || k_stride < width || v_stride < width ||
        (!l->counting && (!k || !v))) {
        an_lane_fail(l, AN_INTERNAL,
                     "kv_write: strides %lld and %lld of %s for tokens %lld wide, or rows, k or v "
                     "are missing",
                     (long long)k_stride, (long long)v_stride, an_dtype_name(dtype),
                     (long long)width);
        return;
    }
    for (int i = 0; i < n; i++)
        if (!row_ok(l, op, pool, &rows[i], i, rows[i].pos, INT64_MAX)) return;
    for (int i = 0; i < n; i++)
        l->bytes += 2.0 * (double)rows[i].q_len * (double)width *
                    (double)(an_dtype_size(dtype) + an_dtype_size(pool->dtype));
    CALL(l, kv_write, pool, rows, n, k, k_stride, v, v_stride, dtype);
}

void an_kv_keep(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n, int heads,
                an_dtype dtype)
{
    const char *op = "kv_keep";
    const an_backend *b = l->device->backend;
    if (!b->kv_keep || !live(l) || n < 1 || !pool_ok(l, op, pool)) return;
    if (!rows || !active_dtype(dtype) || heads < 1 || heads % pool->kv_heads) {
        an_lane_fail(l, AN_INTERNAL,
                     "kv_keep: %d heads of %s for a pool of %d: they must be a multiple of the "
                     "pool's, and rows be there",
                     heads, an_dtype_name(dtype), pool->kv_heads);
        return;
    }
    for (int i = 0; i < n; i++)
        if (!row_ok(l, op, pool, &rows[i], i, rows[i].pos, INT64_MAX)) return;
    an_status s = b->kv_keep(l, pool, rows, n, heads, dtype);
    if (s) an_lane_fail(l, s, "kv_keep failed (%s)", an_status_name(s));
}

/* Keys that a row's queries see, all together. */
static double visible(const an_kv_row *r, int64_t window)
{
    const double n = (double)r->q_len, first = (double)(r->pos + 1), last_ = first + n - 1;
    if (window <= 0 || last_ <= (double)window) return n * (first + last_) / 2;
    if (first >= (double)window) return n * (double)window;
    const double grow = (double)window - first; /* queries that see fewer than the window */
    return grow * (first + (double)window - 1) / 2 + (n - grow) * (double)window;
}

/* bytes: of q and y, and of the keys and values that a row's queries see, once a row. */
static bool paged_ok(an_lane *l, const an_paged_args *a, double *pairs, double *bytes)
{
    const char *op = "attention_paged";
    if (!pool_ok(l, op, a->pool) || !active(l, op, "y", &a->y)) return false;
    int64_t width;
    if (a->heads < 1 || a->head_dim != a->pool->head_dim || a->heads % a->pool->kv_heads ||
        __builtin_mul_overflow((int64_t)a->heads, (int64_t)a->head_dim, &width) ||
        a->q_stride < width || !a->rows || (!l->counting && !a->q) || a->window < 0 ||
        !(a->softcap >= 0) || !isfinite(a->softcap)) {
        an_lane_fail(
            l, AN_INTERNAL,
            "attention_paged: %d heads of %d for a pool of %d heads of %d, stride %lld, "
            "window %lld, softcap %g: heads must be a multiple of the pool's, as wide, fit "
            "the stride, and rows and q be there",
            a->heads, a->head_dim, a->pool->kv_heads, a->pool->head_dim, (long long)a->q_stride,
            (long long)a->window, (double)a->softcap);
        return false;
    }
    an_tensor want = an_tensor_2d(NULL, a->dtype, leading(&a->y), width);
    if (!same(l, op, "y has not the shape due", &a->y, &want)) return false;
    *pairs = 0;
    *bytes = 2.0 * (double)an_tensor_bytes(&a->y);
    for (int i = 0; i < a->n; i++) {
        const an_kv_row *r = &a->rows[i];
        const int64_t from = a->window && r->pos >= a->window ? r->pos - a->window + 1 : 0;
        if (!row_ok(l, op, a->pool, r, i, from, a->y.dim[0])) return false;
        *pairs += visible(r, a->window);
        *bytes += 2.0 * (double)(r->pos + r->q_len - from) * a->pool->kv_heads * a->head_dim *
                  (double)an_dtype_size(a->pool->dtype);
    }
    return true;
}

void an_attention_paged(an_lane *l, const an_paged_args *a)
{
    double pairs, bytes;
    if (!live(l) || a->n < 1 || !paged_ok(l, a, &pairs, &bytes)) return;
    l->bytes += bytes;
    l->flops += 4.0 * pairs * (double)a->heads * (double)a->head_dim;
    CALL(l, attention_paged, a);
}

/* ---------------------------------------------------------------- mixture of experts */

static bool experts_ok(an_lane *l, const an_moe_args *a, int64_t *hidden)
{
    const int64_t c = a->x.dim[1];
    *hidden = a->down[0] ? a->down[0]->k : 0;
    for (int e = 0; e < a->experts; e++) {
        const an_weight *up = a->gate_up[e], *down = a->down[e];
        if (up && down && up->k == c && down->n == c && down->k == *hidden &&
            up->n == 2 * *hidden && up->kh == 1 && down->kh == 1)
            continue;
        an_lane_fail(
            l, AN_INTERNAL,
            "moe: expert %d of %d is [%lld,%lld] and [%lld,%lld], expected [2*hidden,%lld] "
            "and [%lld,hidden], alike for all",
            e, a->experts, up ? (long long)up->n : 0, up ? (long long)up->k : 0,
            down ? (long long)down->n : 0, down ? (long long)down->k : 0, (long long)c,
            (long long)c);
        return false;
    }
    return true;
}

void an_moe(an_lane *l, const an_moe_args *a)
{
    const char *op = "moe";
    if (!live(l) || !active(l, op, "x", &a->x) || !sound(l, op, "router", &a->router) ||
        !output(l, op, &a->x, &a->y, a->residual))
        return;
    if (a->x.ndim != 2 || a->y.ndim != 2 || !an_tensor_same_shape(&a->x, &a->y)) {
        bad(l, op, "x and y must be [tokens,c]", &a->x, &a->y);
        return;
    }
    if (a->experts < 1 || a->top_k < 1 || a->top_k > a->experts || !a->gate_up || !a->down ||
        (a->act != AN_ACT_SWIGLU && a->act != AN_ACT_GEGLU_TANH)) {
        an_lane_fail(l, AN_INTERNAL, "moe: %d of %d experts with activation %d is not possible",
                     a->top_k, a->experts, (int)a->act);
        return;
    }
    if (a->router.dtype != AN_F32 || a->router.ndim != 2 || a->router.dim[0] != a->x.dim[0] ||
        a->router.dim[1] != a->experts) {
        bad(l, op, "router must be F32 [tokens,experts]", &a->router, &a->x);
        return;
    }
    int64_t hidden;
    if (!experts_ok(l, a, &hidden)) return;
    l->flops += 6.0 * (double)a->x.dim[0] * a->top_k * (double)a->x.dim[1] * (double)hidden;
    moves(l, &a->x);
    moves(l, &a->router);
    moves(l, &a->y);
    moves(l, a->residual);
    const double used = (double)a->x.dim[0] * a->top_k; /* of different experts, at most */
    l->bytes += (used < a->experts ? used : a->experts) *
                (double)(a->gate_up[0]->bytes + a->down[0]->bytes);
    CALL(l, moe, a);
}

/* ---------------------------------------------------------------- the next token */

static bool sample_row_ok(an_lane *l, const an_sample_row *r, int i, int vocab)
{
    bool ok = r->n_edit >= 0 && r->n_edit <= vocab && r->heat_inverse >= 0 && r->repetition > 0 &&
              r->typical_p >= 0 && r->top_p >= 0 && r->min_p_log <= 0;
    if (ok && l->counting) return true;
    ok = ok && r->logits && (r->edit || r->n_edit == 0);
    for (int e = 0; ok && e < r->n_edit; e++) ok = r->edit[e].id >= 0 && r->edit[e].id < vocab;
    if (!ok)
        an_lane_fail(l, AN_INTERNAL,
                     "sample_tokens: row %d with %d edits of %d tokens, 1/temperature %g, penalty "
                     "%g, typical_p %g, top_p %g, log of min_p %g: ids must be in the vocabulary, "
                     "logits be there, no number negative but the last",
                     i, r->n_edit, vocab, r->heat_inverse, r->repetition, r->typical_p, r->top_p,
                     r->min_p_log);
    return ok;
}

bool an_device_samples(const an_device *d)
{
    return d->backend->sample_tokens != NULL;
}

void an_sample_tokens(an_lane *l, const an_sample_row *rows, int n, int vocab, an_tensor ids)
{
    const char *op = "sample_tokens";
    if (!live(l) || n < 1 || !sound(l, op, "ids", &ids)) return;
    if (!an_device_samples(l->device)) {
        an_lane_fail(l, AN_INTERNAL, "sample_tokens: device %s leaves it to the host",
                     l->device->backend->name);
        return;
    }
    if (ids.dtype != AN_I32 || ids.ndim != 1 || ids.dim[0] != n || n > 65535 || vocab < 1 ||
        vocab > 1 << 24 || !rows) {
        bad(l, op, "ids must be I32 [rows], at most 65535, of a vocabulary of 1 to 2^24", &ids,
            NULL);
        return;
    }
    for (int i = 0; i < n; i++)
        if (!sample_row_ok(l, &rows[i], i, vocab)) return;
    l->bytes += 4.0 * n * vocab; /* every logit, once */
    CALL(l, sample_tokens, rows, n, vocab, &ids);
}
