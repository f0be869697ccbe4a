/* norm.c: the host's side of the norms. */
#include "cuda/gpu_host.h"

/* Group norm cuts a row into chunks of this many elements, about as many as a block's threads can
 * look at twice without leaving the cache; a large picture into at most MOST_CHUNKS. */
#define CHUNK       16384
#define MOST_CHUNKS 1024

an_status GPU(group_norm_op)(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                             int groups, float eps, bool silu, const an_tensor *y)
{
    const int64_t c = x->dim[x->ndim - 1];
    gpu_group_norm a = {.x = x->data,
                        .y = y->data,
                        .type = (int)x->dtype,
                        .rows = x->dim[0],
                        .pixels = an_tensor_count(x) / (x->dim[0] * c),
                        .c = (int)c,
                        .groups = groups,
                        .gamma = gamma,
                        .beta = beta,
                        .eps = eps,
                        .silu = silu};
    a.chunk = (CHUNK + c - 1) / c;
    if (a.chunk * MOST_CHUNKS < a.pixels) a.chunk = (a.pixels + MOST_CHUNKS - 1) / MOST_CHUNKS;
    a.chunks = (int)((a.pixels + a.chunk - 1) / a.chunk);
    const size_t rows = (size_t)a.rows;
    a.partials =
        an_lane_scratch(l, rows * (size_t)a.chunks * (size_t)groups * 2 * sizeof *a.partials);
    a.params = an_lane_scratch(l, rows * 3 * (size_t)c * sizeof *a.params);
    if (GPU(idle)(l)) return l->error.status;
    return GPU(check)(l, GPU(group_norm)(&a, GPU(stream)(l)), "group_norm");
}

static an_status row_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                          float eps, bool rms, const an_tensor *y, const char *name)
{
    if (GPU(idle)(l)) return l->error.status;
    const int64_t c = x->dim[x->ndim - 1];
    const gpu_row_norm a = {.x = x->data,
                            .y = y->data,
                            .type = (int)x->dtype,
                            .rows = an_tensor_count(x) / c,
                            .c = (int)c,
                            .gamma = gamma,
                            .beta = beta,
                            .eps = eps,
                            .rms = rms};
    return GPU(check)(l, GPU(row_norm)(&a, GPU(stream)(l)), name);
}

an_status GPU(layer_norm_op)(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                             float eps, const an_tensor *y)
{
    return row_norm(l, x, gamma, beta, eps, false, y, "layer_norm");
}

an_status GPU(rms_norm_op)(an_lane *l, const an_tensor *x, const float *gamma, float eps,
                           const an_tensor *y)
{
    return row_norm(l, x, gamma, NULL, eps, true, y, "rms_norm");
}
