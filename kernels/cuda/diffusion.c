/* diffusion.c: the host's side of the sampler step and of pictures. */
#include "cuda/gpu_host.h"

_Static_assert(GPU_BRANCHES == AN_MAX_BRANCHES, "as many branches on both sides");

#define PIECE 64 /* rows whose arguments are put together at a time, on the stack */

an_status GPU(latent_in_op)(an_lane *l, const float *const *x, const float *scale,
                            const an_tensor *y)
{
    const int64_t rows = y->dim[0], count = an_tensor_count(y) / rows;
    gpu_latent part[PIECE], *to = an_lane_scratch(l, (size_t)rows * sizeof *to);
    if (GPU(idle)(l)) return l->error.status;
    for (int64_t r = 0; r < rows; r += PIECE) {
        const int64_t n = rows - r < PIECE ? rows - r : PIECE;
        for (int64_t i = 0; i < n; i++) part[i] = (gpu_latent){x[r + i], scale[r + i]};
        an_status s = GPU(upload)(l, to + r, part, (size_t)n * sizeof *part);
        if (s) return s;
    }
    return GPU(check)(l, GPU(latent_in)(to, rows, count, y->data, (int)y->dtype, GPU(stream)(l)),
                      "latent_in");
}

static gpu_step_row step_row(const an_step_row *r)
{
    gpu_step_row g = {.step = r->step,
                      .count = r->count,
                      .branches = r->branches,
                      .rescale = r->rescale,
                      .x = r->x,
                      .saved = r->saved,
                      .noise = r->noise};
    memcpy(g.pred, r->pred, sizeof g.pred);
    memcpy(g.weight, r->weight, sizeof g.weight);
    memcpy(g.d, r->d, sizeof g.d);
    return g;
}

an_status GPU(sampler_step_op)(an_lane *l, const an_step_row *rows, int n)
{
    gpu_step_row part[PIECE / 4], *to = an_lane_scratch(l, (size_t)n * sizeof *to);
    gpu_step_facts *facts = an_lane_scratch(l, (size_t)n * sizeof *facts);
    if (GPU(idle)(l)) return l->error.status;
    int64_t most = 0;
    bool look = false;
    for (int r = 0; r < n; r += PIECE / 4) {
        const int m = n - r < PIECE / 4 ? n - r : PIECE / 4;
        for (int i = 0; i < m; i++) {
            const an_step_row *row = &rows[r + i];
            part[i] = step_row(row);
            if (row->count > most) most = row->count;
            look |= row->rescale > 0 || row->step.threshold > 0;
        }
        an_status s = GPU(upload)(l, to + r, part, (size_t)m * sizeof *part);
        if (s) return s;
    }
    return GPU(check)(l, GPU(sampler_step)(to, facts, n, most, look, GPU(stream)(l)),
                      "sampler_step");
}

/* ---------------------------------------------------------------- pictures */

an_status GPU(image_out_op)(an_lane *l, const an_tensor *x, const an_tensor *y, int64_t *n_nan)
{
    if (GPU(idle)(l)) return l->error.status;
    gpu_lane *g = l->gpu;
    if (n_nan && g->recording) {
        an_lane_fail(l, AN_INTERNAL, "a count of NaN cannot be recorded");
        return l->error.status;
    }
    if (n_nan && g->n_nans == GPU_NAN_SLOTS) {
        an_status s = GPU(sync)(l, true);
        if (s) return s;
    }
    unsigned long long *count = NULL;
    if (n_nan) {
        count = &g->flags->nan[g->n_nans]; /* an address, nothing is read */
        g->n_nan[g->n_nans++] = n_nan;
        g->flagged = true;
    }
    return GPU(check)(
        l, GPU(image_out)(x->data, (int)x->dtype, y->data, an_tensor_count(x), count, g->stream),
        "image_out");
}

an_status GPU(image_in_op)(an_lane *l, const an_tensor *x, const an_tensor *y)
{
    if (GPU(idle)(l)) return l->error.status;
    return GPU(check)(
        l, GPU(image_in)(x->data, y->data, (int)y->dtype, an_tensor_count(x), GPU(stream)(l)),
        "image_in");
}
