/* paged.c: cuts a tick's paged attention into tasks for the device's threads. A task is a few
 * tokens of a row and one kv head with its query heads; when there are fewer tasks than threads
 * could use, their segments of keys become tasks too, in rounds, merged in order between the
 * rounds. */
#include "paged.h"

#define QUERIES    48 /* of a task, about: keys and values are packed and read once for them */
#define WIDE_TASKS 4  /* tasks a thread should find */
#define SLOTS      8  /* segments a thread, at most, whose states wait to be merged */

typedef struct job {
    const an_paged_args *a;
    const an_paged_kernel *kernel;
    int group;
    int64_t tokens;      /* of a task, most */
    int64_t *first_task; /* [n + 1]: of every row, for one kv head */
    int64_t tasks, queries;
    char *scratch; /* of the threads: a state, queries, the kernel's */
    size_t each, state, q;
    /* rounds: states [tasks], then of the segments [tasks][wide] */
    int64_t wide, round;
    float *total, *part;
} job;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}
static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static const an_paged_kernel *kernel_of(an_isa isa)
{
    if (isa >= AN_ISA_AVX512 && an_paged_avx512.segment) return &an_paged_avx512;
    return isa >= AN_ISA_AVX2 && an_paged_avx2.segment ? &an_paged_avx2 : &an_paged_generic;
}

static an_paged_task task_of(const job *j, int64_t task)
{
    const int64_t per_head = j->first_task[j->a->n], at = task % per_head;
    int lo = 0, hi = j->a->n - 1; /* the row whose tasks hold `at` */
    while (lo < hi) {
        const int mid = (lo + hi + 1) / 2;
        if (j->first_task[mid] <= at)
            lo = mid;
        else
            hi = mid - 1;
    }
    const an_kv_row *row = &j->a->rows[lo];
    an_paged_task t = {.a = j->a, .row = row, .kv_head = (int)(task / per_head)};
    t.first = (at - j->first_task[lo]) * j->tokens;
    t.tokens = min64(j->tokens, row->q_len - t.first);
    t.queries = t.tokens * j->group;
    return t;
}

static int64_t first_segment(const an_paged_task *t)
{
    return an_paged_from(t->a, t->row->pos + t->first) / AN_PAGED_SEGMENT;
}
static int64_t last_segment(const an_paged_task *t)
{
    return (t->row->pos + t->first + t->tokens - 1) / AN_PAGED_SEGMENT;
}

/* A worker's share of scratch: state, total, q, the kernel's. */
typedef struct share {
    float *state, *total, *q;
    void *kernel;
} share;

static share share_of(const job *j, int worker)
{
    char *p = j->scratch + (size_t)worker * j->each;
    return (share){(float *)(void *)p, (float *)(void *)(p + j->state),
                   (float *)(void *)(p + 2 * j->state), p + 2 * j->state + j->q};
}

/* A whole task. */
static void run_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const an_paged_task t = task_of(j, task);
    const share s = share_of(j, worker);
    j->kernel->prepare(&t, s.q);
    for (int64_t seg = first_segment(&t); seg <= last_segment(&t); seg++) {
        j->kernel->segment(&t, s.q, seg, s.state, s.kernel);
        j->kernel->merge(&t, seg, s.state, s.total);
    }
    j->kernel->write(&t, s.total);
}

static float *part_at(const job *j, int64_t i)
{
    return (float *)(void *)((char *)j->part + (size_t)i * j->state);
}
static float *total_at(const job *j, int64_t i)
{
    return (float *)(void *)((char *)j->total + (size_t)i * j->state);
}

/* One segment of a task. */
static void run_segment(void *ctx, int64_t unit, int worker)
{
    const job *j = ctx;
    const an_paged_task t = task_of(j, unit / j->wide);
    const int64_t seg = first_segment(&t) + j->round * j->wide + unit % j->wide;
    if (seg > last_segment(&t)) return;
    const share s = share_of(j, worker);
    j->kernel->prepare(&t, s.q);
    j->kernel->segment(&t, s.q, seg, part_at(j, unit), s.kernel);
}

static void merge_round(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const job *j = ctx;
    const an_paged_task t = task_of(j, task);
    for (int64_t i = 0; i < j->wide; i++) {
        const int64_t seg = first_segment(&t) + j->round * j->wide + i;
        if (seg > last_segment(&t)) break;
        j->kernel->merge(&t, seg, part_at(j, task * j->wide + i), total_at(j, task));
        if (seg == last_segment(&t)) j->kernel->write(&t, total_at(j, task));
    }
}

/* Rounds of as many segments of each task as there are slots for. */
static void run_rounds(job *j, an_pool *pool, int64_t slots)
{
    int64_t most = 1;
    for (int64_t i = 0; i < j->tasks; i++) {
        const an_paged_task t = task_of(j, i);
        const int64_t n = last_segment(&t) - first_segment(&t) + 1;
        if (n > most) most = n;
    }
    j->wide = min64(slots / j->tasks, most);
    for (j->round = 0; j->round * j->wide < most; j->round++) {
        an_pool_run(pool, j->tasks * j->wide, run_segment, j);
        for (int64_t i = 0; i < j->tasks; i++) merge_round(j, i, 0);
    }
}

static bool long_rows(const an_paged_args *a)
{
    for (int i = 0; i < a->n; i++) {
        const an_kv_row *r = &a->rows[i];
        if ((r->pos + r->q_len - 1) / AN_PAGED_SEGMENT >
            an_paged_from(a, r->pos) / AN_PAGED_SEGMENT)
            return true;
    }
    return false;
}

static size_t round_up(size_t x, size_t unit)
{
    return (x + unit - 1) / unit * unit;
}

an_status an_cpu_attention_paged(an_lane *l, const an_paged_args *a)
{
    an_pool *pool = l->device->pool;
    const int threads = an_pool_threads(pool);
    job j = {.a = a, .kernel = kernel_of(l->device->isa), .group = a->heads / a->pool->kv_heads};
    j.tokens = QUERIES / j.group < 1 ? 1 : QUERIES / j.group;
    j.queries = j.tokens * j.group;
    const size_t queries = (size_t)j.queries;
    j.state = round_up(queries * (size_t)an_paged_state(a->head_dim) * sizeof(float), 64);
    j.q = round_up(queries * (size_t)an_paged_padded(a->head_dim) * sizeof(float), 64);
    j.each = round_up(2 * j.state + j.q + j.kernel->scratch(a->head_dim, j.queries), 4096);
    const int64_t few = (int64_t)WIDE_TASKS * threads, slots = (int64_t)SLOTS * threads;
    j.first_task = an_lane_scratch(l, (size_t)(a->n + 1) * sizeof *j.first_task);
    j.scratch = an_lane_scratch(l, j.each * (size_t)threads);
    /* Room for rounds whatever the rows are like: memory is planned before they are known. */
    j.total = an_lane_scratch(l, (size_t)few * j.state);
    j.part = an_lane_scratch(l, (size_t)slots * j.state);
    if (l->counting || l->error.status) return l->error.status;

    j.first_task[0] = 0;
    for (int i = 0; i < a->n; i++)
        j.first_task[i + 1] = j.first_task[i] + ceil_div(a->rows[i].q_len, j.tokens);
    j.tasks = j.first_task[a->n] * a->pool->kv_heads;
    if (threads > 1 && j.tasks < few && long_rows(a))
        run_rounds(&j, pool, slots);
    else
        an_pool_run(pool, j.tasks, run_task, &j);
    return AN_OK;
}
