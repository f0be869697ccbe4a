/* small.c: the oracle's element-wise and copying ops. */
#include "ref/ref.h"

#include <math.h>

an_status an_ref_embedding(an_lane *l, const an_tensor *table, const an_tensor *pos,
                           const an_tensor *ids, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    int64_t n = ids->dim[0], t = ids->dim[1], c = table->dim[1];
    const int32_t *id = ids->data;
    for (int64_t i = 0; i < n * t; i++) {
        if (id[i] < 0 || id[i] >= table->dim[0]) {
            an_lane_fail(l, AN_INVALID, "embedding: token id %d at %lld, the table has %lld", id[i],
                         (long long)i, (long long)table->dim[0]);
            return AN_INVALID;
        }
    }
    const int64_t block = an_dtype_block(table->dtype),
                  bytes = (int64_t)an_dtype_block_bytes(table->dtype);
    float values[256];
    for (int64_t i = 0; i < n * t; i++)
        for (int64_t e = 0; e < c; e++) {
            float v;
            if (block > 1) {
                if (e % block == 0)
                    an_dequantize(table->dtype,
                                  (const char *)table->data + (id[i] * c + e) / block * bytes,
                                  block, values);
                v = values[e % block];
            } else {
                v = ref_get(table->data, table->dtype, id[i] * c + e);
            }
            if (pos) v += ref_get(pos->data, pos->dtype, i % t * c + e);
            ref_set(y->data, y->dtype, i * c + e, (double)v);
        }
    return AN_OK;
}

/* In f32 operation by operation, as diffusers' get_timestep_embedding does: at t near 1000 the f32
 * product t * frequency is off by 1e-5, and the model was trained with exactly that. */
an_status an_ref_timestep_embedding(an_lane *l, const float *t, bool flip, float shift, float scale,
                                    const an_tensor *y)
{
    if (l->counting) return AN_OK;
    int64_t n = y->dim[0], dim = y->dim[1], half = dim / 2;
    const float log_period = 9.210340371976184f; /* ln 10000 */
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < half; i++) {
            float exponent = -log_period * (float)i / ((float)half - shift);
            float freq = (float)exp((double)exponent);
            float angle = scale * (t[r] * freq);
            double s = sin((double)angle), c = cos((double)angle);
            ref_set(y->data, y->dtype, r * dim + i, flip ? c : s);
            ref_set(y->data, y->dtype, r * dim + half + i, flip ? s : c);
        }
        if (dim % 2) ref_set(y->data, y->dtype, r * dim + dim - 1, 0);
    }
    return AN_OK;
}

an_status an_ref_activation(an_lane *l, const an_tensor *x, an_act act, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    for (int64_t i = 0, n = an_tensor_count(x); i < n; i++)
        ref_set(y->data, y->dtype, i, an_ref_act(act, (double)ref_get(x->data, x->dtype, i)));
    return AN_OK;
}

an_status an_ref_add(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    for (int64_t i = 0, n = an_tensor_count(a); i < n; i++)
        ref_set(y->data, y->dtype, i,
                (double)(ref_get(a->data, a->dtype, i) + ref_get(b->data, b->dtype, i)));
    return AN_OK;
}

an_status an_ref_concat(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    size_t wa = (size_t)a->dim[a->ndim - 1] * an_dtype_size(a->dtype);
    size_t wb = (size_t)b->dim[b->ndim - 1] * an_dtype_size(b->dtype);
    size_t rows = an_tensor_bytes(a) / wa;
    for (size_t r = 0; r < rows; r++) {
        char *to = (char *)y->data + r * (wa + wb);
        memcpy(to, (const char *)a->data + r * wa, wa);
        memcpy(to + wa, (const char *)b->data + r * wb, wb);
    }
    return AN_OK;
}

an_status an_ref_copy(an_lane *l, const an_tensor *x, const an_tensor *y)
{
    if (l->counting) return AN_OK;
    if (x->dtype == y->dtype)
        memmove(y->data, x->data, an_tensor_bytes(x));
    else
        an_convert(y->data, y->dtype, x->data, x->dtype, an_tensor_count(x));
    return AN_OK;
}

an_status an_ref_gather_rows(an_lane *l, const an_tensor *x, const int64_t *index,
                             const an_tensor *y)
{
    if (l->counting) return AN_OK;
    size_t width = (size_t)x->dim[2] * an_dtype_size(x->dtype);
    for (int64_t r = 0; r < x->dim[0]; r++)
        memcpy((char *)y->data + (size_t)r * width,
               (const char *)x->data + (size_t)(r * x->dim[1] + index[r]) * width, width);
    return AN_OK;
}
