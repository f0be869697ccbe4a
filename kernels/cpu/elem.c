/* elem.c: element-wise and copying ops cut into tasks. */
#include "cpu/vec.h"

#include <stdatomic.h>

/* What any of these ops may need; each uses a part. */
typedef struct elem_ctx {
    const an_vec *vec;
    const an_tensor *a, *b, *y;
    an_act act;
    int64_t count, grain; /* what is cut, and into pieces of how many */
    size_t wa, wb;        /* concat: bytes of a row of each */
    const float *const *rows;
    const float *factor;
    const int32_t *ids;
    _Atomic int64_t nans;
} elem_ctx;

static void cut(an_lane *l, elem_ctx *e, int64_t count, int64_t grain,
                void (*fn)(void *, int64_t, int))
{
    e->count = count;
    e->grain = grain < 1 ? 1 : grain;
    an_pool_run(l->device->pool, an_pieces(count, e->grain), fn, e);
}

/* ---------------------------------------------------------------- one or two inputs */

static void activation_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    elem_ctx *e = ctx;
    int64_t i = task * e->grain, n = an_piece_end(task, e->count, e->grain) - i;
    an_dtype t = e->a->dtype;
    e->vec->activation(an_elem(e->a->data, t, i), t, n, e->act, an_elem_mut(e->y->data, t, i));
}

an_status an_cpu_activation(an_lane *l, const an_tensor *x, an_act act, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    elem_ctx e = {.vec = an_vec_of(l), .a = x, .y = y, .act = act};
    cut(l, &e, an_tensor_count(x), AN_GRAIN, activation_task);
    return AN_OK;
}

static void add_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    elem_ctx *e = ctx;
    int64_t i = task * e->grain, n = an_piece_end(task, e->count, e->grain) - i;
    e->vec->add(an_elem_mut(e->y->data, e->y->dtype, i), e->y->dtype,
                an_elem(e->a->data, e->a->dtype, i), e->a->dtype,
                e->b ? an_elem(e->b->data, e->b->dtype, i) : NULL, e->b ? e->b->dtype : AN_F32, n);
}

an_status an_cpu_add(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    elem_ctx e = {.vec = an_vec_of(l), .a = a, .b = b, .y = y};
    cut(l, &e, an_tensor_count(a), AN_GRAIN, add_task);
    return AN_OK;
}

static void bytes_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    elem_ctx *e = ctx;
    int64_t i = task * e->grain, n = an_piece_end(task, e->count, e->grain) - i;
    memcpy((char *)e->y->data + i, (const char *)e->a->data + i, (size_t)n);
}

an_status an_cpu_copy(an_lane *l, const an_tensor *x, const an_tensor *y)
{
    if (l->counting || (x->data == y->data && x->dtype == y->dtype)) return AN_OK;
    elem_ctx e = {.vec = an_vec_of(l), .a = x, .y = y};
    if (x->dtype == y->dtype)
        cut(l, &e, (int64_t)an_tensor_bytes(x), 4 * AN_GRAIN, bytes_task);
    else
        cut(l, &e, an_tensor_count(x), AN_GRAIN, add_task);
    return AN_OK;
}

static void concat_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    elem_ctx *e = ctx;
    size_t r = (size_t)(task * e->grain), end = (size_t)an_piece_end(task, e->count, e->grain);
    for (; r < end; r++) {
        char *to = (char *)e->y->data + r * (e->wa + e->wb);
        memcpy(to, (const char *)e->a->data + r * e->wa, e->wa);
        memcpy(to + e->wa, (const char *)e->b->data + r * e->wb, e->wb);
    }
}

an_status an_cpu_concat(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    elem_ctx e = {.a = a, .b = b, .y = y};
    e.wa = (size_t)a->dim[a->ndim - 1] * an_dtype_size(a->dtype);
    e.wb = (size_t)b->dim[b->ndim - 1] * an_dtype_size(b->dtype);
    cut(l, &e, (int64_t)(an_tensor_bytes(a) / e.wa), 4 * AN_GRAIN / (int64_t)(e.wa + e.wb),
        concat_task);
    return AN_OK;
}

/* ---------------------------------------------------------------- gathering */

/* A row of a table in blocks, a block at a time. */
static void embed_blocks(const elem_ctx *e, int64_t id, const an_tensor *pos, int64_t p, int64_t at)
{
    const an_tensor *table = e->a, *y = e->y;
    const int64_t c = table->dim[1], block = an_dtype_block(table->dtype);
    const size_t bytes = an_dtype_block_bytes(table->dtype);
    float values[256];
    for (int64_t i = 0; i < c; i += block) {
        const size_t from = (size_t)((id * c + i) / block) * bytes;
        an_dequantize(table->dtype, (const char *)table->data + from, block, values);
        e->vec->add(an_elem_mut(y->data, y->dtype, at + i), y->dtype, values, AN_F32,
                    pos ? an_elem(pos->data, pos->dtype, p + i) : NULL, pos ? pos->dtype : AN_F32,
                    block);
    }
}

/* Piece = one token. */
static void embedding_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    elem_ctx *e = ctx;
    const an_tensor *table = e->a, *pos = e->b, *y = e->y;
    int64_t c = table->dim[1], end = an_piece_end(task, e->count, e->grain);
    for (int64_t i = task * e->grain; i < end; i++) {
        int64_t p = i % y->dim[1] * c;
        if (an_dtype_is_quant(table->dtype)) {
            embed_blocks(e, e->ids[i], pos, p, i * c);
            continue;
        }
        e->vec->add(an_elem_mut(y->data, y->dtype, i * c), y->dtype,
                    an_elem(table->data, table->dtype, e->ids[i] * c), table->dtype,
                    pos ? an_elem(pos->data, pos->dtype, p) : NULL, pos ? pos->dtype : AN_F32, c);
    }
}

an_status an_cpu_embedding(an_lane *l, const an_tensor *table, const an_tensor *pos,
                           const an_tensor *ids, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    elem_ctx e = {.vec = an_vec_of(l), .a = table, .b = pos, .y = y, .ids = ids->data};
    int64_t n = an_tensor_count(ids);
    for (int64_t i = 0; i < n; i++) {
        if (e.ids[i] >= 0 && e.ids[i] < table->dim[0]) continue;
        an_lane_fail(l, AN_INVALID, "embedding: token id %d at %lld, the table has %lld", e.ids[i],
                     (long long)i, (long long)table->dim[0]);
        return AN_INVALID;
    }
    cut(l, &e, n, AN_GRAIN / table->dim[1], embedding_task);
    return AN_OK;
}

static void latent_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    elem_ctx *e = ctx;
    int64_t row = e->count / e->y->dim[0], pieces = an_pieces(row, AN_GRAIN), r = task / pieces;
    int64_t i = task % pieces * AN_GRAIN, n = an_piece_end(task % pieces, row, AN_GRAIN) - i;
    e->vec->scale(an_elem_mut(e->y->data, e->y->dtype, r * row + i), e->y->dtype, e->rows[r] + i,
                  e->factor[r], n);
}

an_status an_cpu_latent_in(an_lane *l, const float *const *x, const float *scale,
                           const an_tensor *y)
{
    if (l->counting) return AN_OK;
    elem_ctx e = {.vec = an_vec_of(l), .y = y, .rows = x, .factor = scale};
    e.count = an_tensor_count(y);
    an_pool_run(l->device->pool, y->dim[0] * an_pieces(e.count / y->dim[0], AN_GRAIN), latent_task,
                &e);
    return AN_OK;
}

/* ---------------------------------------------------------------- pictures */

static void image_out_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    elem_ctx *e = ctx;
    int64_t i = task * e->grain, n = an_piece_end(task, e->count, e->grain) - i;
    e->nans += e->vec->image_out(an_elem(e->a->data, e->a->dtype, i), e->a->dtype, n,
                                 (uint8_t *)e->y->data + i);
}

an_status an_cpu_image_out(an_lane *l, const an_tensor *x, const an_tensor *y, int64_t *n_nan)
{
    if (l->counting) return AN_OK;
    elem_ctx e = {.vec = an_vec_of(l), .a = x, .y = y};
    cut(l, &e, an_tensor_count(x), AN_GRAIN, image_out_task);
    if (n_nan) *n_nan = e.nans;
    return AN_OK;
}

static void image_in_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    elem_ctx *e = ctx;
    int64_t i = task * e->grain, n = an_piece_end(task, e->count, e->grain) - i;
    e->vec->image_in((const uint8_t *)e->a->data + i, n, an_elem_mut(e->y->data, e->y->dtype, i),
                     e->y->dtype);
}

an_status an_cpu_image_in(an_lane *l, const an_tensor *x, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    elem_ctx e = {.vec = an_vec_of(l), .a = x, .y = y};
    cut(l, &e, an_tensor_count(x), AN_GRAIN, image_in_task);
    return AN_OK;
}
