/* lm.c: language models' small ops on the CPU, cut into tasks. */
#include "cpu/vec.h"

typedef struct lm_ctx {
    const an_vec *vec;
    const an_tensor *x, *y;
    const int32_t *index;
    float factor;
    int64_t count, grain; /* what is cut, and into pieces of how many */
    void (*element)(const void *x, an_dtype t, int64_t n, float f, void *y);
    const an_rope_args *rope;
    /* keys and values */
    const an_kv_pool *pool;
    const an_kv_row *row;
    const void *k, *v;
    int64_t k_stride, v_stride;
    an_dtype dtype;
} lm_ctx;

static void cut(an_lane *l, lm_ctx *e, int64_t count, int64_t grain,
                void (*fn)(void *, int64_t, int))
{
    e->count = count;
    e->grain = grain < 1 ? 1 : grain;
    an_pool_run(l->device->pool, an_pieces(count, e->grain), fn, e);
}

/* ---------------------------------------------------------------- rows and elements */

static void take_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const lm_ctx *e = ctx;
    const int64_t c = e->x->dim[1], end = an_piece_end(task, e->count, e->grain);
    const size_t width = (size_t)c * an_dtype_size(e->x->dtype);
    for (int64_t r = task * e->grain; r < end; r++)
        memcpy(an_elem_mut(e->y->data, e->y->dtype, r * c),
               an_elem(e->x->data, e->x->dtype, e->index[r] * c), width);
}

an_status an_cpu_take_rows(an_lane *l, const an_tensor *x, const int32_t *index, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    lm_ctx e = {.x = x, .y = y, .index = index};
    cut(l, &e, y->dim[0], 4 * AN_GRAIN / y->dim[1], take_task);
    return AN_OK;
}

static void element_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const lm_ctx *e = ctx;
    const int64_t i = task * e->grain, n = an_piece_end(task, e->count, e->grain) - i;
    const an_dtype t = e->x->dtype;
    e->element(an_elem(e->x->data, t, i), t, n, e->factor, an_elem_mut(e->y->data, t, i));
}

an_status an_cpu_scale(an_lane *l, const an_tensor *x, float f, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    lm_ctx e = {.x = x, .y = y, .factor = f, .element = an_vec_of(l)->multiply};
    cut(l, &e, an_tensor_count(x), AN_GRAIN, element_task);
    return AN_OK;
}

an_status an_cpu_softcap(an_lane *l, const an_tensor *x, float cap, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    lm_ctx e = {.x = x, .y = y, .factor = cap, .element = an_vec_of(l)->softcap};
    cut(l, &e, an_tensor_count(x), AN_GRAIN, element_task);
    return AN_OK;
}

/* ---------------------------------------------------------------- rotary embedding */

#define PAIRS 128 /* whose angles are computed at a time */

static void rope_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const lm_ctx *e = ctx;
    const an_rope_args *a = e->rope;
    const int64_t end = an_piece_end(task, e->count, e->grain);
    const int half = a->rot_dim / 2;
    float c[PAIRS], s[PAIRS];
    for (int64_t t = task * e->grain; t < end; t++)
        for (int i = 0; i < half; i += PAIRS) {
            const int n = half - i < PAIRS ? half - i : PAIRS;
            e->vec->rope_angles(a->pos[t], a->inv_freq + i, n, a->mscale, c, s);
            for (int h = 0; h < a->heads; h++) {
                const int64_t at = t * a->stride + (int64_t)h * a->head_dim;
                e->vec->rope_turn(a->x, a->dtype, at + (a->interleaved ? 2 * i : i), n,
                                  a->interleaved ? 0 : half, c, s);
            }
        }
}

an_status an_cpu_rope(an_lane *l, const an_rope_args *a)
{
    if (l->counting) return AN_OK;
    lm_ctx e = {.vec = an_vec_of(l), .rope = a};
    cut(l, &e, a->tokens, AN_GRAIN / ((int64_t)(a->heads + 4) * a->rot_dim), rope_task);
    return AN_OK;
}

/* ---------------------------------------------------------------- keys and values */

/* Piece = a few tokens of the row. */
static void kv_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const lm_ctx *e = ctx;
    const an_kv_pool *p = e->pool;
    const int64_t end = an_piece_end(task, e->count, e->grain), d = p->head_dim;
    for (int64_t t = task * e->grain; t < end; t++) {
        const int64_t from = e->row->q_start + t;
        for (int h = 0; h < p->kv_heads; h++) {
            const int64_t to = an_kv_place(p, e->row, e->row->pos + t, h);
            e->vec->add(an_elem_mut(p->k, p->dtype, to), p->dtype,
                        an_elem(e->k, e->dtype, from * e->k_stride + h * d), e->dtype, NULL, AN_F32,
                        d);
            e->vec->add(an_elem_mut(p->v, p->dtype, to), p->dtype,
                        an_elem(e->v, e->dtype, from * e->v_stride + h * d), e->dtype, NULL, AN_F32,
                        d);
        }
    }
}

an_status an_cpu_kv_write(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n,
                          const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                          an_dtype dtype)
{
    if (l->counting) return AN_OK;
    lm_ctx e = {.vec = an_vec_of(l),
                .pool = pool,
                .k = k,
                .v = v,
                .k_stride = k_stride,
                .v_stride = v_stride,
                .dtype = dtype};
    for (int i = 0; i < n; i++) {
        e.row = &rows[i];
        cut(l, &e, rows[i].q_len, 2 * AN_GRAIN / ((int64_t)pool->kv_heads * pool->head_dim),
            kv_task);
    }
    return AN_OK;
}
