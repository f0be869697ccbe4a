/* norm.c: the host's side of the norms. */
#include "cuda/gpu_host.h"

/* A group of at most this many elements of a row, in at most so many channels, is a block's: one
 * launch, whose looks after the first find the group in the cache. */
#define WHOLE_ELEMENTS 131072
#define WHOLE_CHANNELS 1024
/* Larger ones are cut into chunks of this many elements, about as many as a block's threads can
 * look at twice without leaving the cache; a large picture into at most MOST_CHUNKS. */
#define CHUNK       16384
#define MOST_CHUNKS 1024

/* Threads of a block that takes a whole group, 32 elements each while there are that many; 0: it
 * does not. Follows from the layer alone, as the order of sums follows from it. */
static int whole_threads(int64_t pixels, int64_t width)
{
    int threads = 32;
    if (width > WHOLE_CHANNELS || pixels > WHOLE_ELEMENTS / width) return 0;
    while (threads < 512 && threads * 32 < pixels * width) threads *= 2;
    return threads;
}

/* x2 and cat: NULL if x has all channels. */
static an_status norm_groups(an_lane *l, const an_tensor *x, const an_tensor *x2,
                             const an_tensor *cat, const float *gamma, const float *beta,
                             int groups, float eps, bool silu, const an_tensor *y, const char *name)
{
    const int64_t c = y->dim[y->ndim - 1], pixels = an_tensor_count(y) / (y->dim[0] * c);
    const int threads = whole_threads(pixels, c / groups);
    gpu_group_norm a = {.x = x->data,
                        .x2 = x2 ? x2->data : NULL,
                        .y = y->data,
                        .cat = cat ? cat->data : NULL,
                        .type = (int)x->dtype,
                        .rows = y->dim[0],
                        .pixels = pixels,
                        .c = (int)c,
                        .c1 = (int)x->dim[x->ndim - 1],
                        .groups = groups,
                        .threads = threads,
                        .gamma = gamma,
                        .beta = beta,
                        .eps = eps,
                        .silu = silu};
    const size_t rows = (size_t)a.rows;
    if (!threads) {
        a.chunk = (CHUNK + c - 1) / c;
        if (a.chunk * MOST_CHUNKS < a.pixels) a.chunk = (a.pixels + MOST_CHUNKS - 1) / MOST_CHUNKS;
        a.chunks = (int)((a.pixels + a.chunk - 1) / a.chunk);
        a.partials =
            an_lane_scratch(l, rows * (size_t)a.chunks * (size_t)groups * 2 * sizeof *a.partials);
        a.params = an_lane_scratch(l, rows * 3 * (size_t)c * sizeof *a.params);
    }
    if (GPU(idle)(l)) return l->error.status;
    a.arrived = ((const gpu_lane *)l->gpu)->arrived;
    return GPU(check)(l, GPU(group_norm)(&a, GPU(stream)(l)), name);
}

an_status GPU(group_norm_op)(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                             int groups, float eps, bool silu, const an_tensor *y)
{
    return norm_groups(l, x, NULL, NULL, gamma, beta, groups, eps, silu, y, "group_norm");
}

an_status GPU(concat_group_norm_op)(an_lane *l, const an_tensor *a, const an_tensor *b,
                                    const an_tensor *cat, const float *gamma, const float *beta,
                                    int groups, float eps, bool silu, const an_tensor *y)
{
    return norm_groups(l, a, b, cat, gamma, beta, groups, eps, silu, y, "concat_group_norm");
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
