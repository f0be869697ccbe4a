/* sample.c: the host's side of drawing tokens: rows with what belongs to them on their way. */
#include "cuda/gpu_host.h"

#include <cuda_runtime_api.h>

#include <stdlib.h>

_Static_assert(sizeof(gpu_logit_edit) == sizeof(an_logit_edit) &&
                   offsetof(gpu_logit_edit, less) == offsetof(an_logit_edit, less) &&
                   GPU_SAMPLE_NO_NUMBER == AN_SAMPLE_NO_NUMBER &&
                   GPU_SAMPLE_NO_TOKEN == AN_SAMPLE_NO_TOKEN,
               "edits are the same on both sides");

/* The row as kernels see it, its edits and its mask staged. */
static gpu_sample_row row_of(an_lane *l, const an_sample_row *r, int vocab)
{
    const size_t edits = (size_t)r->n_edit * sizeof *r->edit, words = ((size_t)vocab + 31) / 32;
    return (gpu_sample_row){.logits = r->logits,
                            .edit = edits ? GPU(stage)(l, r->edit, edits) : NULL,
                            .mask = r->mask ? GPU(stage)(l, r->mask, 4 * words) : NULL,
                            .n_edit = r->n_edit,
                            .top_k = r->top_k,
                            .repetition = r->repetition,
                            .heat_inverse = r->heat_inverse,
                            .typical_p = r->typical_p,
                            .top_p = r->top_p,
                            .min_p_log = r->min_p_log,
                            .uniform = r->uniform};
}

an_status GPU(sample_tokens_op)(an_lane *l, const an_sample_row *rows, int n, int vocab,
                                const an_tensor *ids)
{
    gpu_sample_row *row = malloc((size_t)n * sizeof *row);
    if (!row) return AN_NO_MEMORY;
    int most = 0;
    for (int i = 0; i < n; i++) {
        row[i] = row_of(l, &rows[i], vocab);
        most = rows[i].n_edit > most ? rows[i].n_edit : most;
    }
    /* scratch is not const: a row's kernels leave what they found in it */
    gpu_sample_row *at = (gpu_sample_row *)(uintptr_t)GPU(stage)(l, row, (size_t)n * sizeof *row);
    free(row);
    if (GPU(idle)(l)) return l->error.status;
    const gpu_sample a = {at, n, vocab, most, ids->data};
    return GPU(check)(l, GPU(sample)(&a, GPU(stream)(l)), "sample_tokens");
}
