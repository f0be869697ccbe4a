/* stats.c: the engine in numbers, for /health and /metrics: sums over its devices, and each of
 * them. */
#include "state.h"

#include <stdio.h>

/* ---------------------------------------------------------------- histograms */

static const double WAITS[AN_HIST_BUCKETS - 1] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                                  2.5,   5,    10,    30,   60,  120,  300};
static const double TICKS[AN_HIST_BUCKETS - 1] = {
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 10};

static void init(an_histogram *h, const double *bounds)
{
    *h = (an_histogram){0};
    for (int i = 0; i < AN_HIST_BUCKETS - 1; i++) h->le[i] = bounds ? bounds[i] : (double)(1 << i);
    h->le[AN_HIST_BUCKETS - 1] = (double)__builtin_inf();
}

void an_hist_init(an_histogram *h)
{
    init(h, WAITS);
}

void an_hist_init_ticks(an_histogram *h)
{
    init(h, TICKS);
}

/* Powers of two. */
void an_hist_init_counts(an_histogram *h)
{
    init(h, NULL);
}

void an_hist_add(an_histogram *h, double value)
{
    for (int i = 0; i < AN_HIST_BUCKETS; i++)
        if (value <= h->le[i]) h->count[i]++;
    h->total++;
    h->sum += value;
}

/* ---------------------------------------------------------------- numbers */

void an_unit_count_pages(an_unit *u)
{
    an_engine *e = u->e;
    int64_t blocks = 0, used = 0;
    int running = 0;
    for (int i = 0; i < e->models; i++) {
        if (!u->slot[i].lm.pages) continue;
        blocks += an_pages_count(u->slot[i].lm.pages);
        used += an_pages_held(u->slot[i].lm.pages);
    }
    for (int i = 0; i < u->run_count; i++) running += u->run[i]->seq && an_seq_ready(u->run[i]);
    pthread_mutex_lock(&e->lock);
    u->kv_blocks = blocks;
    u->kv_blocks_used = used;
    u->seqs_running = running;
    pthread_mutex_unlock(&e->lock);
}

/* Lock. Seconds that the first of the waiting jobs has waited; 0 if none does. */
static double oldest(const an_engine *e)
{
    double since = 0;
    if (!e->queued) return 0;
    for (const an_job *j = e->jobs; j; j = j->next) /* newest first */
        if (j->state == AN_JOB_QUEUED) since = j->created_mono;
    return since > 0 ? an_now_s() - since : 0;
}

/* Lock. Sequences without pages, and those of waiting jobs. */
static int seqs_waiting(const an_engine *e)
{
    int n = 0;
    for (int i = 0; i < e->units; i++) n += e->unit[i].run_texts - e->unit[i].seqs_running;
    for (const an_job *j = e->jobs; j; j = j->next)
        if (j->text && (j->state == AN_JOB_QUEUED || j->state == AN_JOB_RUNNING))
            n += j->n - j->next_task;
    return n > 0 ? n : 0;
}

static void text_stats(const an_engine *e, an_engine_stats *out)
{
    out->seqs_waiting = seqs_waiting(e);
    out->prompt_tokens = e->prompt_tokens;
    out->generated_tokens = e->generated_tokens;
    out->device_tokens = e->device_tokens;
    out->preemptions = e->preemptions;
    out->prefix_queries = e->prefix_queries;
    out->prefix_hits = e->prefix_hits;
    out->finished_stop = e->finished_stop;
    out->finished_length = e->finished_length;
    out->finished_abort = e->finished_abort;
    out->first_token_s = e->first_token_s;
    out->token_s = e->token_s;
    out->tick_tokens = e->tick_tokens;
}

/* Lock. */
static void add_unit(const an_unit *u, an_engine_stats *out)
{
    out->device_ok |= u->ok;
    out->running_rows += u->run_count;
    for (int i = 0; i < AN_STAGE_COUNT; i++) {
        out->ticks[i] += u->ticks[i];
        out->rows[i] += u->tick_rows[i];
    }
    out->repeated += u->repeated;
    out->busy_s += u->busy_s;
    out->weight_bytes += u->weight_bytes;
    out->arena_bytes += u->arena_bytes;
    /* the program is in each device's plan, and in memory once */
    out->planned_bytes += u->planned_bytes > u->e->program_bytes && u->index > 0
                              ? u->planned_bytes - u->e->program_bytes
                              : u->planned_bytes;
    out->seqs_running += u->seqs_running;
    out->kv_blocks += u->kv_blocks;
    out->kv_blocks_used += u->kv_blocks_used;
}

int an_engine_device_count(const an_engine *e)
{
    return e->units;
}

void an_engine_device_at(an_engine *e, int i, an_device_stats *out)
{
    const an_unit *u = &e->unit[i];
    *out = (an_device_stats){0};
    snprintf(out->description, sizeof out->description, "%s", an_device_description(u->device));
    snprintf(out->name, sizeof out->name, "%s", out->description);
    char *end = strstr(out->name, ": "); /* cuda:1: NVIDIA ... */
    if (end) *end = '\0';
    pthread_mutex_lock(&e->lock);
    out->ok = u->ok;
    memcpy(out->error, u->lost.message, sizeof out->error);
    for (int k = 0; k < e->models; k++) out->models += u->slot[k].loaded;
    out->running_rows = u->run_count;
    for (int k = 0; k < AN_STAGE_COUNT; k++) {
        out->ticks += u->ticks[k];
        out->rows += u->tick_rows[k];
    }
    out->busy_s = u->busy_s;
    out->memory_bytes = u->memory_bytes;
    out->used_bytes = u->weight_bytes + u->arena_bytes + u->block_bytes + u->kv_bytes;
    pthread_mutex_unlock(&e->lock);
}

void an_engine_pulse(an_engine *e, an_pulse *out)
{
    *out = (an_pulse){0};
    pthread_mutex_lock(&e->lock);
    out->models = e->model_changes;
    for (int i = 0; i < e->units; i++)
        out->devices =
            out->devices * 1000003u + (uint64_t)e->unit[i].run_count * 2 + (uint64_t)e->unit[i].ok;
    out->queued = e->queued;
    out->running = e->running;
    out->ready = e->ready;
    out->draining = e->draining;
    pthread_mutex_unlock(&e->lock);
}

void an_engine_get_stats(an_engine *e, an_engine_stats *out)
{
    *out = (an_engine_stats){0};
    const char *first = an_device_description(e->unit[0].device);
    if (e->units == 1)
        snprintf(out->device, sizeof out->device, "%s", first);
    else
        snprintf(out->device, sizeof out->device, "%d devices, the first of them %.200s", e->units,
                 first);
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < e->units; i++) add_unit(&e->unit[i], out);
    const an_error *lost = an_engine_lost(e);
    if (lost) memcpy(out->device_error, lost->message, sizeof out->device_error);
    out->ready = e->ready;
    out->draining = e->draining;
    out->queued = e->queued;
    out->running = e->running;
    out->jobs_done = e->jobs_done;
    out->jobs_failed = e->jobs_failed;
    out->jobs_canceled = e->jobs_canceled;
    out->jobs_refused = e->jobs_refused;
    out->images_done = e->images_done;
    out->result_bytes = e->result_bytes;
    out->text_cache_hits = e->text_hits;
    out->text_cache_misses = e->text_misses;
    out->last_tick = e->last_tick;
    out->queue_s = e->queue_s;
    out->step_s = e->step_s;
    out->request_s = e->request_s;
    out->oldest_s = oldest(e);
    out->first_preview_s = e->first_preview_s;
    memcpy(out->batch_rows, e->batch_rows, sizeof out->batch_rows);
    text_stats(e, out);
    pthread_mutex_unlock(&e->lock);
}
