/* attention.c: the attention ops on a GPU: what kernels need to know of rows is put into small
 * device arrays, then they are launched. */
#include "cuda/gpu_host.h"

/* The grid's limit in y and z. */
#define MOST_BLOCKS 65535

an_status GPU(attention_op)(an_lane *l, const an_attention_args *a)
{
    const size_t bytes = (size_t)a->rows * sizeof(int64_t);
    const int64_t *start = a->kv_start ? GPU(stage)(l, a->kv_start, bytes) : NULL;
    const int64_t *lens = a->kv_lens ? GPU(stage)(l, a->kv_lens, bytes) : NULL;
    if (GPU(idle)(l)) return l->error.status;
    int64_t most = a->kv_len;
    for (int64_t r = 0; a->kv_lens && r < a->rows; r++)
        if (r == 0 || a->kv_lens[r] > most) most = a->kv_lens[r];
    if (a->rows > MOST_BLOCKS || a->heads > MOST_BLOCKS || a->q_len > INT32_MAX / 2 ||
        most > INT32_MAX / 2) {
        an_lane_fail(
            l, AN_TOO_LARGE,
            "attention: %lld rows, %d heads, %lld queries, %lld keys: a GPU's kernel takes "
            "up to %d rows and heads, and 2^30 tokens",
            (long long)a->rows, a->heads, (long long)a->q_len, (long long)most, MOST_BLOCKS);
        return l->error.status;
    }
    const gpu_attention g = {.q = a->q,
                             .k = a->k,
                             .v = a->v,
                             .y = a->y.data,
                             .q_stride = a->q_stride,
                             .k_stride = a->k_stride,
                             .v_stride = a->v_stride,
                             .kv_start = start,
                             .kv_lens = lens,
                             .kv_len = a->kv_len,
                             .rows = (int)a->rows,
                             .q_len = (int)a->q_len,
                             .heads = a->heads,
                             .head_dim = a->head_dim,
                             .dtype = a->dtype == AN_BF16 ? GPU_BF16 : GPU_F32,
                             .scale = a->scale,
                             .causal = a->causal};
    return GPU(check)(l, GPU(attention)(&g, GPU(stream)(l)), "attention");
}
