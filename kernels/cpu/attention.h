/* attention.h: softmax(scale q k^T) v on the CPU without ever storing the score matrix (Dao et al.,
 * "FlashAttention", 2022; online softmax: Milakov and Gimelshein, 2018). Private to kernels/cpu.
 *
 *     attention.c       cuts the call into tasks: one (row, head) and a group of its queries
 *     attention_check.c the self-test
 *     attention_impl.h  how a task runs in f32 or pairs of bf16, written for vectors of any width
 *     attention_ISA.c   the same compiled for an instruction set
 *     attention_amx.c   how a bf16 task runs on AMX tiles
 *
 * Why bytes do not depend on the batch: a query's result is a function of its own q, of its row's
 * keys and values, and of head_dim. Keys are taken in chunks of a fixed length from the row's first
 * key on, and the chunks' (maximum, sum, output) are merged in order. Inside a chunk a query is one
 * lane of a vector: lanes do not see each other, and every lane has the same instructions, so
 * neither its neighbours nor the width of a ragged last block can change a bit. How queries are
 * grouped into tasks is a matter of speed only. */
#ifndef ANNEAL_CPU_ATTENTION_H
#define ANNEAL_CPU_ATTENTION_H

#include "backend.h"

/* The backend's function: contract in ops.h and backend.h. Scores are computed and summed in f32,
 * for BF16 activations too; on AVX512_BF16 and AMX the probabilities of a chunk are rounded to
 * bf16, as their products want them, which flush denormals. A row without keys gives zeros
 * (kernels/ops.c refuses it before). NaN in q or k stays in the queries whose scores have it; NaN
 * in v reaches every query of its row, even one that causal hides it from (0 * NaN). Scratch: under
 * 3 MiB a thread, whatever the lengths. */
an_status an_cpu_attention(an_lane *l, const an_attention_args *a);

/* Runs the kernels of an instruction set, which the machine must have, against plain loops in
 * double precision. False: do not use it (or no memory to know). */
bool an_cpu_attention_self_test(an_isa isa);

/* ---------------------------------------------------------------- inside */

/* Keys merged at a time; part of what the bytes are. 128 keys of scores for three vectors of
 * queries fit the first-level cache beside their q. */
#define AN_ATTENTION_CHUNK 128

/* A group of queries of one (row, head). Strides: elements between tokens. */
typedef struct an_attention_task {
    const char *q, *k, *v; /* first query of the group; first key and value of the row */
    char *y;               /* where the first query's result goes */
    int64_t q_stride, k_stride, v_stride, y_stride;
    int64_t queries, keys;
    int64_t first; /* the first query's place in its row: causal lets query i see keys 0..first+i */
    int head_dim;
    float scale;
    bool causal, bf16; /* dtype of q, k, v and y: BF16 or F32 */
} an_attention_task;

typedef struct an_attention_kernel {
    const char *name;
    int block; /* queries computed together: groups are multiples of it */
    size_t (*scratch)(int head_dim, int64_t queries); /* bytes, for a group of so many */
    void (*run)(const an_attention_task *t, void *scratch);
} an_attention_kernel;

/* NULL if this build has none (another processor): ask for a lower isa. */
const an_attention_kernel *an_attention_kernel_of(an_isa isa, an_dtype dtype);
extern const an_attention_kernel an_attention_generic, an_attention_avx2, an_attention_avx512,
    an_attention_bf16, an_attention_amx;

/* Whether a kernel gives what plain loops do, for one dtype. */
bool an_attention_kernel_works(const an_attention_kernel *k, an_dtype dtype);

#endif
