/* small.c: the host's side of the element-wise and copying ops. */
#include "cuda/gpu_host.h"

#include <cuda_runtime_api.h>

_Static_assert(GPU_F32 == (int)AN_F32 && GPU_BF16 == (int)AN_BF16 && GPU_Q4_0 == (int)AN_Q4_0 &&
                   GPU_Q8_0 == (int)AN_Q8_0 && GPU_Q6_K == (int)AN_Q6_K &&
                   GPU_IQ4_XS == (int)AN_IQ4_XS && GPU_ACT_RELU == (int)AN_ACT_RELU &&
                   GPU_ACT_SWIGLU == (int)AN_ACT_SWIGLU,
               "types and activations have the same numbers on both sides");

static an_status map(an_lane *l, int op, float factor, const an_tensor *x, const an_tensor *y,
                     const char *name)
{
    if (GPU(idle)(l)) return l->error.status;
    return GPU(check)(l,
                      GPU(map)(op, factor, x->data, (int)x->dtype, y->data, (int)y->dtype,
                               an_tensor_count(x), GPU(stream)(l)),
                      name);
}

an_status GPU(activation_op)(an_lane *l, const an_tensor *x, an_act act, const an_tensor *y)
{
    return map(l, (int)act, 0, x, y, "activation");
}

an_status GPU(scale_op)(an_lane *l, const an_tensor *x, float f, const an_tensor *y)
{
    return map(l, GPU_MAP_SCALE, f, x, y, "scale");
}

an_status GPU(softcap_op)(an_lane *l, const an_tensor *x, float cap, const an_tensor *y)
{
    return map(l, GPU_MAP_SOFTCAP, cap, x, y, "softcap");
}

an_status GPU(copy_op)(an_lane *l, const an_tensor *x, const an_tensor *y)
{
    if (x->dtype != y->dtype) return map(l, GPU_ACT_NONE, 0, x, y, "copy");
    if (GPU(idle)(l) || x->data == y->data) return l->error.status;
    return GPU(check)(l,
                      (int)cudaMemcpyAsync(y->data, x->data, an_tensor_bytes(x),
                                           cudaMemcpyDeviceToDevice, GPU(stream)(l)),
                      "copy");
}

an_status GPU(add_op)(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y)
{
    if (GPU(idle)(l)) return l->error.status;
    return GPU(check)(
        l, GPU(add)(a->data, b->data, y->data, (int)y->dtype, an_tensor_count(y), GPU(stream)(l)),
        "add");
}

/* ---------------------------------------------------------------- rows */

an_status GPU(concat_op)(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y)
{
    if (GPU(idle)(l)) return l->error.status;
    const int64_t size = (int64_t)an_dtype_size(y->dtype);
    const int64_t wa = a->dim[a->ndim - 1] * size, wb = b->dim[b->ndim - 1] * size;
    gpu_move m = {.x = a->data,
                  .y = y->data,
                  .rows = an_tensor_count(a) / a->dim[a->ndim - 1],
                  .step = 1,
                  .width = wa,
                  .x_pitch = wa,
                  .y_pitch = wa + wb};
    int e = GPU(move_rows)(&m, GPU(stream)(l));
    m.x = b->data;
    m.y = (char *)y->data + wa;
    m.width = m.x_pitch = wb;
    if (!e) e = GPU(move_rows)(&m, GPU(stream)(l));
    return GPU(check)(l, e, "concat");
}

/* y[r, :] = x[r * step + index[r], :]; index: staged */
static an_status take(an_lane *l, const an_tensor *x, const void *index, int index_bytes,
                      int64_t step, const an_tensor *y, const char *name)
{
    const int64_t c = x->dim[x->ndim - 1], width = c * (int64_t)an_dtype_size(x->dtype);
    const gpu_move m = {.x = x->data,
                        .y = y->data,
                        .rows = an_tensor_count(y) / c,
                        .step = step,
                        .width = width,
                        .x_pitch = width,
                        .y_pitch = width,
                        .index = index,
                        .index_bytes = index_bytes};
    return GPU(check)(l, GPU(move_rows)(&m, GPU(stream)(l)), name);
}

an_status GPU(gather_rows_op)(an_lane *l, const an_tensor *x, const int64_t *index,
                              const an_tensor *y)
{
    const void *at = GPU(stage)(l, index, (size_t)x->dim[0] * sizeof *index);
    if (GPU(idle)(l)) return l->error.status;
    return take(l, x, at, sizeof *index, x->dim[1], y, "gather_rows");
}

an_status GPU(take_rows_op)(an_lane *l, const an_tensor *x, const int32_t *index,
                            const an_tensor *y)
{
    const void *at = GPU(stage)(l, index, (size_t)y->dim[0] * sizeof *index);
    if (GPU(idle)(l)) return l->error.status;
    return take(l, x, at, sizeof *index, 0, y, "take_rows");
}

/* ---------------------------------------------------------------- embeddings */

an_status GPU(embedding_op)(an_lane *l, const an_tensor *table, const an_tensor *pos,
                            const an_tensor *ids, const an_tensor *y)
{
    if (GPU(idle)(l)) return l->error.status;
    gpu_lane *g = l->gpu;
    const gpu_embedding a = {.table = table->data,
                             .table_type = (int)table->dtype,
                             .vocabulary = table->dim[0],
                             .c = table->dim[1],
                             .pos = pos ? pos->data : NULL,
                             .pos_type = pos ? (int)pos->dtype : GPU_F32,
                             .ids = ids->data,
                             .tokens = an_tensor_count(ids),
                             .period = ids->dim[1],
                             .y = y->data,
                             .y_type = (int)y->dtype,
                             .flags = g->flags};
    g->flagged = true;
    g->vocabulary = table->dim[0];
    return GPU(check)(l, GPU(embedding)(&a, g->stream), "embedding");
}

an_status GPU(timestep_embedding_op)(an_lane *l, const float *t, bool flip, float shift,
                                     float scale, const an_tensor *y)
{
    const float *at = GPU(stage)(l, t, (size_t)y->dim[0] * sizeof *t);
    if (GPU(idle)(l)) return l->error.status;
    return GPU(check)(l,
                      GPU(timestep_embedding)(at, flip, shift, scale, y->data, (int)y->dtype,
                                              y->dim[0], y->dim[1], GPU(stream)(l)),
                      "timestep_embedding");
}
