/* paged.h: causal attention over keys and values that lie in blocks of a pool. Private to
 * kernels/cpu.
 *
 *     paged.c       cuts a tick into tasks: a row's few tokens, one kv head and its query heads
 *     paged_impl.h  how a task runs, for vectors of any width
 *     paged_ISA.c   the same compiled for an instruction set
 *
 * Why bytes do not depend on the batch: what a query becomes is a function of its own q, its
 * position and its keys and values. Keys are taken in chunks of AN_PAGED_CHUNK counted from
 * position 0; a chunk gives (maximum, sum, output) by its visible keys alone, chunks are merged in
 * order into a segment of AN_PAGED_SEGMENT keys, segments in order into the result. Every query
 * goes through that for itself, alone or in a prompt: a score is one chain over head_dim and a
 * fixed tree over the lanes, an output one chain over the visible keys. So segments may be computed
 * by different threads (one long sequence keeps them all busy), and neither how a prompt was cut
 * into ticks, nor its neighbours, can change a bit. (FlashAttention, Dao et al. 2022, with the
 * splits of Flash-Decoding at fixed places.) */
#ifndef ANNEAL_CPU_PAGED_H
#define ANNEAL_CPU_PAGED_H

#include "backend.h"

#define AN_PAGED_CHUNK   64   /* keys; part of what the bytes are */
#define AN_PAGED_SEGMENT 1024 /* keys; likewise */

/* Tokens first .. first + tokens - 1 of a row, one kv head. Its queries are the tokens' heads of
 * the group, token by token: `queries` of them. */
typedef struct an_paged_task {
    const an_paged_args *a;
    const an_kv_row *row;
    int kv_head;
    int64_t first, tokens, queries;
} an_paged_task;

/* Floats between the rows of queries, and of states: o[head_dim padded], maximum, sum. */
static inline int64_t an_paged_padded(int head_dim)
{
    return (head_dim + 15) / 16 * 16;
}
static inline int64_t an_paged_state(int head_dim)
{
    return an_paged_padded(head_dim) + 16;
}

/* The keys that the query at a position sees: from .. position. */
static inline int64_t an_paged_from(const an_paged_args *a, int64_t position)
{
    return a->window && position >= a->window ? position - a->window + 1 : 0;
}

typedef struct an_paged_kernel {
    const char *name;
    size_t (*scratch)(int head_dim, int64_t queries);
    /* q[queries][padded]: the task's queries, scaled. */
    void (*prepare)(const an_paged_task *t, float *q);
    /* state[queries] = segment `seg` of each query that sees any of its keys. */
    void (*segment)(const an_paged_task *t, const float *q, int64_t seg, float *state,
                    void *scratch);
    /* to = to and then segment `seg`, whose state is `from`; a query's first segment is copied. */
    void (*merge)(const an_paged_task *t, int64_t seg, const float *from, float *to);
    /* Writes the task's part of y. */
    void (*write)(const an_paged_task *t, const float *state);
} an_paged_kernel;
extern const an_paged_kernel an_paged_generic, an_paged_avx2, an_paged_avx512;

/* The backend's function. Scores, sums and outputs in f32 for both dtypes. */
an_status an_cpu_attention_paged(an_lane *l, const an_paged_args *a);

#endif
