/* scheduler.c: the tick. Read an_device_thread and tick first: everything the engine does is there.
 *
 * Running pictures that share model, stage and size form a group, and a tick advances one group by
 * one call of the network. The most deserving picture (queue.h) leads: its group is chosen, and the
 * places left in the batch go to the next deserving of the same group. */
#include "state.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- choosing */

/* What rows must share. For TEXT, tokens counts chunks of the first prompt not yet encoded.
 * Pictures whose prompts have other numbers of chunks do share a tick: see gather_pictures. */
typedef struct group {
    an_slot *slot;
    an_stage stage;
    int64_t h, w, tokens;
} group;

static an_encoding *unready(const an_task *t)
{
    return !t->cond->ready ? t->cond : t->uncond && !t->uncond->ready ? t->uncond : NULL;
}

static group group_of(const an_task *t)
{
    const an_job *j = t->job;
    group g = {j->slot, an_task_stage(t), j->h, j->w, 0};
    if (g.stage == AN_STAGE_TEXT) {
        g.h = g.w = 0;
        g.tokens = unready(t)->chunks;
    }
    return g;
}

static bool same_group(const group *a, const group *b)
{
    return a->slot == b->slot && a->stage == b->stage && a->h == b->h && a->w == b->w &&
           a->tokens == b->tokens;
}

static bool chosen(const an_tick *t, const an_task *task)
{
    for (int i = 0; i < t->n; i++)
        if (t->task[i] == task) return true;
    return false;
}

/* The most deserving running task of a track; with g, a picture of that group not yet in the tick.
 */
static an_task *best_task(const an_track *k, const group *g)
{
    const an_unit *u = k->unit;
    an_task *best = NULL;
    for (int i = 0; i < u->run_count; i++) {
        an_task *t = u->run[i];
        if (!an_track_serves(k, t->job) || (t->seq && !an_seq_ready(t))) continue;
        if (g && chosen(&u->tick, t)) continue;
        if (best && !an_claim_before(&t->job->claim, &best->job->claim)) continue;
        if (g) {
            group own = group_of(t);
            if (!same_group(g, &own)) continue;
        }
        best = t;
    }
    return best;
}

/* A prompt that several pictures wait for is one row. */
static void add_prompts(an_tick *t, an_task *task, int most)
{
    an_encoding *wait[2] = {task->cond, task->uncond};
    for (int k = 0; k < 2; k++) {
        an_encoding *c = wait[k];
        bool wanted = c && !c->ready && c->chunks == t->price.tokens && t->n < most;
        for (int i = 0; i < t->n && wanted; i++) wanted = t->encoding[i] != c;
        if (!wanted) continue;
        t->encoding[t->n] = c;
        t->task[t->n++] = task;
        t->rows++;
    }
}

/* Prompts of all pictures of the group; not ordered, they are quick. */
static void gather_prompts(an_unit *u, an_task *leader, const group *g, int most)
{
    add_prompts(&u->tick, leader, most);
    for (int i = 0; i < u->run_count; i++) {
        if (u->run[i]->job->text) continue;
        group own = group_of(u->run[i]);
        if (same_group(g, &own)) add_prompts(&u->tick, u->run[i], most);
    }
}

/* Every row is priced as one with the longest context of the tick: their keys and values are kept
 * through the whole network, 50 KB a token in SD 1.5, so that as many rows with eight chunks do not
 * fit where rows with one do. t->price is the leader's so far. */
static void gather_pictures(an_unit *u, const an_track *k, const group *g)
{
    an_tick *t = &u->tick;
    const int all = 2 * u->e->o.max_batch;
    int most = an_price_rows(u->e, &t->price, all);
    for (an_task *task = t->leader; task && t->n < u->e->o.max_batch; task = best_task(k, g)) {
        const bool step = g->stage == AN_STAGE_DENOISE;
        const int branches = step ? task->job->branches : 1;
        if (step && an_job_tokens(task->job) > t->price.tokens) {
            an_price longer;
            if (an_price_get(u->e, g->slot, g->stage, g->h, g->w, an_job_tokens(task->job), &longer,
                             NULL))
                break; /* it fails when it leads */
            int fit = an_price_rows(u->e, &longer, all);
            if (t->rows + branches > fit) break;
            t->price = longer;
            most = fit;
        }
        if (t->n > 0 && t->rows + branches > most) break;
        t->task[t->n++] = task;
        t->rows += branches;
    }
}

/* Whom the track serves next, NULL if nobody runs. Fills u->tick if it is a picture; a sequence's
 * tick is gathered in decode.c. */
static an_task *choose(an_unit *u, const an_track *k)
{
    an_task *leader = best_task(k, NULL);
    if (!leader) return NULL;
    group g = group_of(leader);
    g.slot->last_used = an_now_s();
    if (g.stage == AN_STAGE_FORWARD) return leader;
    an_tick *t = &u->tick;
    t->n = t->rows = 0;
    t->leader = leader;
    t->slot = g.slot;
    t->stage = g.stage;
    an_error err = {0};
    int64_t tokens = g.stage == AN_STAGE_DENOISE ? an_job_tokens(leader->job) : g.tokens;
    if (an_price_get(u->e, g.slot, g.stage, g.h, g.w, tokens, &t->price, &err)) {
        an_job_end(leader->job, AN_JOB_FAILED, &err);
        return choose(u, k);
    }
    if (g.stage == AN_STAGE_TEXT) {
        gather_prompts(u, leader, &g, an_price_rows(u->e, &t->price, u->e->o.max_batch));
    } else {
        gather_pictures(u, k, &g);
    }
    return leader;
}

/* ---------------------------------------------------------------- running */

static an_status run_rows(an_unit *u, int first, int n, an_error *err)
{
    an_tick *t = &u->tick;
    an_task **task = &t->task[first];
    switch (t->stage) {
    case AN_STAGE_TEXT:
        return an_encodings_run(t->slot, &t->encoding[first], n, err);
    case AN_STAGE_DENOISE:
        return an_diffusion_step(t->slot, task, n, &t->preview[first], err);
    case AN_STAGE_DECODE:
        return an_vae_decode_tick(t->slot, task, n, err);
    default:
        return an_vae_encode_tick(t->slot, task, n, err);
    }
}

/* A batch that fails is run again row by row, so that only the rows at fault fail: one picture that
 * became NaN must not hurt the others. */
static void run(an_unit *u)
{
    an_tick *t = &u->tick;
    an_error err = {0};
    double start = an_now_s();
    int call = t->task[0]->call;
    memset(t->preview, 0, (size_t)t->n * sizeof *t->preview);
    an_status st = run_rows(u, 0, t->n, &err);
    bool repeatable = t->task[0]->call == call; /* the sampler step has not begun */
    t->repeated = st && repeatable && t->n > 1;
    for (int i = 0; i < t->n; i++) {
        t->status[i] = st;
        t->error[i] = err;
        if (!t->repeated) continue;
        memset(&t->error[i], 0, sizeof t->error[i]);
        t->status[i] = run_rows(u, i, 1, &t->error[i]);
    }
    for (int i = 0; i < t->n; i++)
        if (t->status[i] == AN_DEVICE) an_device_failed(u, &t->error[i]);
    t->seconds = an_now_s() - start;
}

/* ---------------------------------------------------------------- scattering */

/* Lock. Of a row of this picture, whoever shared the tick. */
static double row_flops(const an_engine *e, const an_tick *t, const an_job *j)
{
    const an_price *p = &t->price;
    an_price own;
    bool known = t->stage == AN_STAGE_DENOISE &&
                 an_price_known(e, p->files, p->stage, p->h, p->w, an_job_tokens(j), &own);
    return known ? own.row_flops : p->row_flops;
}

static void account(an_unit *u)
{
    an_tick *t = &u->tick;
    u->ticks[t->stage]++;
    u->repeated += t->repeated;
    u->tick_rows[t->stage] += (uint64_t)t->n;
    u->busy_s += t->seconds;
    u->e->last_tick = an_now_s();
    if (t->stage == AN_STAGE_DENOISE) an_hist_add(&u->e->step_s, t->seconds);
    an_hist_add(&u->e->batch_rows[t->stage], t->n);
    an_recent_tick(u, (an_tick_info){.stage = t->stage, .rows = t->n, .seconds = t->seconds});
    an_price_measured(u->e, &t->price, t->seconds, t->rows);
    for (int i = 0; i < t->n; i++) {
        an_job *j = t->task[i]->job;
        int rows = t->stage == AN_STAGE_DENOISE ? j->branches : 1;
        an_claim_charge(&u->e->clients, &j->claim, row_flops(u->e, t, j) * rows);
    }
}

static void tell_preview(an_engine *e, an_task *task, uint8_t *rgb)
{
    an_job *j = task->job;
    if (!j->previewed) an_hist_add(&e->first_preview_s, an_now_s() - j->created_mono);
    j->previewed = true;
    an_job_event(e, j,
                 (an_event){.type = AN_EVENT_PREVIEW,
                            .index = task->index,
                            .partial_index = task->partial++,
                            .step = task->call,
                            .steps = j->calls,
                            .preview = rgb,
                            .preview_w = (int)j->w,
                            .preview_h = (int)j->h});
}

/* One STEP event a job and tick, however many of its pictures moved. */
static void report_steps(an_unit *u)
{
    an_tick *t = &u->tick;
    for (int i = 0; i < t->n; i++) {
        an_task *task = t->task[i];
        an_job *j = task->job;
        uint8_t *rgb = t->preview[i];
        if (t->status[i]) {
            free(rgb);
            rgb = NULL;
        } else {
            j->step++;
        }
        bool last_of_job = true;
        for (int k = i + 1; k < t->n && last_of_job; k++) last_of_job = t->task[k]->job != j;
        if (rgb) tell_preview(u->e, task, rgb);
        if (last_of_job)
            an_job_event(u->e, j,
                         (an_event){.type = AN_EVENT_STEP,
                                    .index = task->index,
                                    .step = j->step,
                                    .steps = j->calls * j->n});
    }
}

static void settle_prompts(an_tick *t)
{
    for (int i = 0; i < t->n; i++) {
        t->encoding[i]->ready = true; /* or failed: either way nobody waits any longer */
        t->encoding[i]->failed = t->status[i];
        t->encoding[i]->error = t->error[i];
    }
}

/* Jobs whose row, or whose prompt, failed. */
static an_job *first_failed(an_unit *u, an_error *why)
{
    an_tick *t = &u->tick;
    for (int i = 0; i < t->n && t->stage != AN_STAGE_TEXT; i++) {
        if (!t->status[i]) continue;
        t->status[i] = AN_OK;
        if (!t->task[i]->started) continue; /* ended with another picture of its job */
        *why = t->error[i];
        return t->task[i]->job;
    }
    for (int i = 0; i < u->run_count; i++) {
        const an_encoding *c = u->run[i]->cond, *un = u->run[i]->uncond;
        const an_encoding *bad = c && c->failed ? c : un && un->failed ? un : NULL;
        if (!bad) continue;
        *why = bad->error;
        return u->run[i]->job;
    }
    return NULL;
}

static void scatter(an_unit *u)
{
    an_tick *t = &u->tick;
    pthread_mutex_lock(&u->e->lock);
    account(u);
    if (t->stage == AN_STAGE_DENOISE) report_steps(u);
    pthread_mutex_unlock(&u->e->lock);
    if (t->stage == AN_STAGE_TEXT) settle_prompts(t);
    /* Every job in the tick lives until all of it is told. */
    an_job *held[AN_BATCH_MAX];
    for (int i = 0; i < t->n; i++) held[i] = an_job_ref(t->task[i]->job);
    an_error why;
    for (an_job *j; (j = first_failed(u, &why));) an_job_end(j, AN_JOB_FAILED, &why);
    bool last = t->stage == AN_STAGE_DECODE || t->stage == AN_STAGE_ENCODE;
    for (int i = 0; i < t->n && last; i++)
        if (t->task[i]->started) an_task_finished(t->task[i]);
    for (int i = 0; i < t->n; i++) an_job_unref(held[i]);
}

/* ---------------------------------------------------------------- the thread */

/* Lock. A tick in flight has run. */
static bool some_over(const an_engine *e)
{
    for (int i = 0; i < e->units; i++)
        for (int k = 0; k < e->unit[i].tracks; k++)
            if (e->unit[i].track[k].busy && e->unit[i].track[k].over) return true;
    return false;
}

/* Nobody runs, or all that can run is in flight: sleeps until somebody comes, a tick is over, or
 * something kept is too old. False: time to quit. */
static bool wait_for_work(an_engine *e, bool in_flight)
{
    pthread_mutex_lock(&e->lock);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += e->finished ? 1 : 60;
    while (!e->woken && !some_over(e) && (in_flight || !e->quit))
        if (pthread_cond_timedwait(&e->work, &e->lock, &until)) break;
    e->woken = false;
    bool quit = !in_flight && e->quit && e->queued + e->running == 0;
    pthread_mutex_unlock(&e->lock);
    return !quit;
}

/* The next tick of a track that is idle; false if nobody has anything for it. */
static bool begin(an_unit *u, an_track *k)
{
    an_expire(k); /* cancelled, too late, too old */
    an_admit(k);  /* waiting pictures and sequences start while there is room */
    if (k == &u->track[u->tracks - 1]) an_seqs_place(u); /* memory for their keys and values */
    an_jobs_notify(u->e); /* watchers hear of all that before the device is busy */
    an_task *leader = choose(u, k);
    if (!leader) return false;
    if (leader->job->text)
        an_decode_tick(k, leader); /* a token each, or a piece of a prompt */
    else
        an_track_start(k, run, scatter); /* one call of the network for all, then what came of it */
    return true;
}

/* A look at every track of a device. */
static void tick_device(an_unit *u, bool *begun, bool *in_flight)
{
    bool busy = false, idle = true;
    an_device_enter(u->device, NULL); /* if it is lost, the next call says so */
    for (int i = 0; i < u->tracks; i++) {
        an_track *k = &u->track[i];
        if (k->busy && !an_track_end(k))
            busy = true;
        else if (begin(u, k))
            idle = false;
    }
    an_unit_count_pages(u);
    /* Another track, or another device, may have waited for what was given back. */
    if (u->freed && u->tracks * u->e->units > 1) idle = false;
    u->freed = false;
    if (idle && !busy) an_arena_relax(u);
    *begun |= !idle;
    *in_flight |= busy;
}

static bool tick(an_engine *e)
{
    bool begun = false, in_flight = false;
    for (int i = 0; i < e->units; i++) tick_device(&e->unit[i], &begun, &in_flight);
    an_jobs_notify(e);
    return begun || wait_for_work(e, in_flight);
}

static void leave(an_unit *u)
{
    an_device_enter(u->device, NULL);
    an_encodings_drop(u, NULL);
    an_slots_unload(u);
    an_blocks_free(u);
}

void *an_device_thread(void *engine)
{
    an_engine *e = engine;
    for (int i = 0; i < e->units; i++) {
        an_error err = {0};
        if (an_device_enter(e->unit[i].device, &err)) an_device_failed(&e->unit[i], &err);
        an_slots_load_defaults(&e->unit[i]);
    }
    pthread_mutex_lock(&e->lock);
    e->ready = true;
    pthread_mutex_unlock(&e->lock);
    while (tick(e)) {
    }
    for (int i = 0; i < e->units; i++) leave(&e->unit[i]);
    return NULL;
}
