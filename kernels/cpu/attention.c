/* attention.c: cuts a call into tasks for the device's threads and picks the kernel. */
#include "attention.h"

/* ---------------------------------------------------------------- which kernel */

const an_attention_kernel *an_attention_kernel_of(an_isa isa, an_dtype dtype)
{
    const an_attention_kernel *k = &an_attention_generic;
    if (isa >= AN_ISA_AMX && dtype == AN_BF16)
        k = &an_attention_amx;
    else if (isa >= AN_ISA_BF16 && dtype == AN_BF16)
        k = &an_attention_bf16;
    else if (isa >= AN_ISA_AVX512)
        k = &an_attention_avx512;
    else if (isa >= AN_ISA_AVX2)
        k = &an_attention_avx2;
    return k->run ? k : NULL;
}

/* ---------------------------------------------------------------- tasks */

/* A group's queries and outputs wait in scratch while its keys pass by: this many bytes of them, so
 * that they stay in the second-level cache, yet the packing of keys and values is shared by many.
 */
#define GROUP_BYTES      (512 << 10)
#define GROUP_MIN        96
#define GROUP_MAX        512
#define TASKS_PER_THREAD 4
/* Heads lie beside each other in a token, and share cache lines. So while the keys and values of
 * all heads of a row are no more than this, the heads of a group of queries follow each other, else
 * the groups of a head. */
#define FEW_KEYS_BYTES (1 << 20)

typedef struct job {
    const an_attention_args *a;
    const an_attention_kernel *kernel;
    int64_t group, groups; /* queries of a task; tasks of a (row, head) */
    bool heads_first;      /* the order of a row's tasks */
    char *scratch;
    size_t scratch_each;
} job;

static int64_t round_up(int64_t x, int64_t unit)
{
    return (x + unit - 1) / unit * unit;
}

/* The largest group any call with this head_dim uses: scratch is asked for by it, so that a smaller
 * batch never needs more than a larger one. */
static int64_t largest_group(const an_attention_kernel *k, int head_dim)
{
    int64_t g = GROUP_BYTES / ((int64_t)head_dim * 8);
    g = g < GROUP_MIN ? GROUP_MIN : g > GROUP_MAX ? GROUP_MAX : g;
    return round_up(g, k->block);
}

static void choose_groups(job *j, int threads)
{
    const an_attention_args *a = j->a;
    const int64_t most = largest_group(j->kernel, a->head_dim), pairs = a->rows * a->heads;
    int64_t groups = (a->q_len + most - 1) / most;
    const int64_t wanted = (TASKS_PER_THREAD * threads + pairs - 1) / pairs;
    if (groups < wanted) groups = wanted;
    j->group = round_up((a->q_len + groups - 1) / groups, j->kernel->block);
    j->groups = (a->q_len + j->group - 1) / j->group;

    int64_t keys = a->kv_len;
    for (int64_t r = 0; a->kv_lens && r < a->rows; r++)
        if (r == 0 || a->kv_lens[r] > keys) keys = a->kv_lens[r];
    const int64_t token = 2 * (int64_t)a->heads * a->head_dim * (int64_t)an_dtype_size(a->dtype);
    j->heads_first = keys <= FEW_KEYS_BYTES / token;
}

static void run_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const an_attention_args *a = j->a;
    const int64_t pair = task % (j->groups * a->heads);
    const int64_t head = j->heads_first ? pair % a->heads : pair / j->groups;
    const int64_t group = j->heads_first ? pair / a->heads : pair % j->groups;
    const int64_t row = task / j->groups / a->heads, first = group * j->group;
    const int64_t left = a->q_len - first;
    const int64_t start = a->kv_start ? a->kv_start[row] : row * a->kv_len;
    const int64_t size = (int64_t)an_dtype_size(a->dtype), column = head * a->head_dim;
    const int64_t width = (int64_t)a->heads * a->head_dim;
    const int64_t token = row * a->q_len + first;
    const an_attention_task t = {
        .q = (const char *)a->q + (token * a->q_stride + column) * size,
        .k = (const char *)a->k + (start * a->k_stride + column) * size,
        .v = (const char *)a->v + (start * a->v_stride + column) * size,
        .y = (char *)a->y.data + (token * width + column) * size,
        .q_stride = a->q_stride,
        .k_stride = a->k_stride,
        .v_stride = a->v_stride,
        .y_stride = width,
        .queries = left < j->group ? left : j->group,
        .keys = a->kv_lens ? a->kv_lens[row] : a->kv_len,
        .first = first,
        .head_dim = a->head_dim,
        .scale = a->scale,
        .causal = a->causal,
        .bf16 = a->dtype == AN_BF16,
    };
    j->kernel->run(&t, j->scratch + (size_t)worker * j->scratch_each);
}

an_status an_cpu_attention(an_lane *l, const an_attention_args *a)
{
    const int threads = an_pool_threads(l->device->pool);
    job j = {.a = a};
    for (an_isa isa = l->device->isa; !j.kernel; isa--)
        j.kernel = an_attention_kernel_of(isa, a->dtype);
    const size_t bytes = j.kernel->scratch(a->head_dim, largest_group(j.kernel, a->head_dim));
    /* Threads' shares begin on pages of their own: no cache line has two writers. */
    j.scratch_each = (size_t)round_up((int64_t)bytes, 4096);
    j.scratch = an_lane_scratch(l, j.scratch_each * (size_t)threads);
    if (l->counting) return AN_OK;
    if (!j.scratch) return AN_NO_MEMORY;
    if (a->rows <= 0 || a->heads <= 0 || a->q_len <= 0) return AN_OK;
    choose_groups(&j, threads);
    an_pool_run(l->device->pool, a->rows * a->heads * j.groups, run_task, &j);
    return AN_OK;
}
