/* job.c: what the server holds in its hands: jobs by reference and by id, their state, results and
 * cancelling, and the bounded store of the finished ones. */
#include "state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

const char *an_job_state_name(an_job_state s)
{
    static const char *const name[] = {"queued", "running", "done", "failed", "cancelled"};
    return s >= AN_JOB_QUEUED && s <= AN_JOB_CANCELED ? name[s] : "unknown";
}

/* ---------------------------------------------------------------- life */

/* 128 bits that nobody guesses: who knows a job's id may read its pictures. */
static bool new_id(char out[40])
{
    uint8_t raw[16];
    size_t have = 0;
    while (have < sizeof raw) {
        ssize_t n = getrandom(raw + have, sizeof raw - have, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        have += (size_t)n;
    }
    memcpy(out, "job_", 4);
    for (int i = 0; i < 16; i++) snprintf(out + 4 + 2 * i, 3, "%02x", raw[i]);
    return true;
}

an_job *an_job_new(an_engine *e, an_task_kind kind, int n, an_error *err)
{
    an_job *j = calloc(1, sizeof *j);
    an_task *task = calloc((size_t)n, sizeof *task);
    an_text_job *text = kind == AN_TASK_TEXT ? calloc(1, sizeof *text) : NULL;
    if (text) text->answer = calloc((size_t)n, sizeof *text->answer);
    bool ok = j && task && (kind != AN_TASK_TEXT || (text && text->answer));
    if (!ok || !new_id(j->id)) {
        free(j);
        free(task);
        an_text_job_free(text, 0);
        an_fail(err, AN_NO_MEMORY, "no memory for a job");
        return NULL;
    }
    atomic_init(&j->refs, 1);
    pthread_mutex_init(&j->watch_lock, NULL);
    j->e = e;
    j->kind = kind;
    j->n = n;
    j->task = task;
    j->text = text;
    j->claim.kind = kind == AN_TASK_TEXT;
    for (int i = 0; i < n; i++) {
        task[i].job = j;
        task[i].index = i;
    }
    j->created = an_unix_s();
    j->created_mono = an_now_s();
    return j;
}

/* What a job needs only until it ends. */
static void drop_input(an_job *j)
{
    an_solver_free(j->solver);
    j->solver = NULL;
    for (int k = 0; k < 2; k++) {
        an_prompt_free(&j->cond.prompt[k]);
        an_prompt_free(&j->uncond.prompt[k]);
    }
    free(j->image);
    free(j->latent);
    j->image = NULL;
    j->latent = NULL;
    if (j->text) an_text_job_drop_input(j->text);
}

static void job_free(an_job *j)
{
    drop_input(j);
    for (int i = 0; i < j->n; i++) {
        free(j->task[i].pixels);
        free(j->task[i].latent);
        free(j->task[i].logvar);
    }
    free(j->task);
    an_text_job_free(j->text, j->n);
    an_ring_free(&j->ring);
    free(j->watcher);
    free(j->prompt);
    free(j->negative_prompt);
    free(j->sampler);
    free(j->schedule);
    free(j->tag);
    pthread_mutex_destroy(&j->watch_lock);
    free(j);
}

an_job *an_job_ref(an_job *j)
{
    atomic_fetch_add(&j->refs, 1);
    return j;
}

void an_job_unref(an_job *j)
{
    if (j && atomic_fetch_sub(&j->refs, 1) == 1) job_free(j);
}

/* ---------------------------------------------------------------- the store */

an_status an_job_enqueue(an_engine *e, an_job *j, an_error *err)
{
    if (e->draining) return an_fail(err, AN_STOPPING, "the server is stopping: no new jobs");
    const an_error *lost = an_engine_lost(e);
    if (lost) {
        if (err) *err = *lost;
        return lost->status;
    }
    if (an_queue_full(&e->queue)) {
        e->jobs_refused++;
        return an_fail(err, AN_BUSY, "the queue is full: %d jobs are waiting, the limit is %d",
                       e->queue.waiting, e->queue.max);
    }
    j->claim.client = an_clients_enter(&e->clients, j->client);
    if (!j->claim.client) return an_fail(err, AN_NO_MEMORY, "no memory for a client");
    int most = e->o.client_jobs ? e->o.client_jobs(e->o.client_ctx, j->client) : 0;
    if (most > 0 && j->claim.client->jobs > most) {
        an_clients_leave(&e->clients, j->claim.client);
        j->claim.client = NULL;
        e->jobs_refused++;
        return an_fail_param(err, AN_BUSY, "client",
                             "this client has %d jobs waiting or running, its limit", most);
    }
    j->claim.age = ++e->age;
    an_claim_enter(&j->claim);
    j->claim.deadline = j->deadline;
    an_queue_push(&e->queue, &j->claim);
    e->queued++;
    j->state = AN_JOB_QUEUED;
    j->next = e->jobs;
    if (e->jobs) e->jobs->prev = j;
    e->jobs = an_job_ref(j);
    j->stored = true;
    an_ring_add(&j->ring, (an_event){.type = AN_EVENT_QUEUED});
    an_engine_wake(e);
    return AN_OK;
}

void an_job_drop(an_engine *e, an_job *j)
{
    if (!j->stored) return;
    j->stored = false;
    if (j->prev)
        j->prev->next = j->next;
    else
        e->jobs = j->next;
    if (j->next) j->next->prev = j->prev;
    j->prev = j->next = NULL;
    e->result_bytes -= j->result_bytes;
    j->result_bytes = 0;
    an_job_unref(j);
}

static void forget_oldest_finished(an_engine *e)
{
    an_job *j = e->finished;
    e->finished = j->next_finished;
    if (!e->finished) e->finished_tail = &e->finished;
    e->finished_count--;
    an_job_drop(e, j);
}

void an_jobs_forget_old(an_engine *e)
{
    double now = an_now_s();
    while (e->finished && (now - e->finished->finished_mono > e->o.job_ttl_s ||
                           e->finished_count > e->o.max_jobs_kept ||
                           (e->result_bytes > e->o.max_result_bytes && e->finished_count > 1)))
        forget_oldest_finished(e);
}

void an_job_forget(an_job *j)
{
    an_engine *e = j->e;
    pthread_mutex_lock(&e->lock);
    j->forgotten = true;
    for (an_job **p = &e->finished; *p; p = &(*p)->next_finished) {
        if (*p != j) continue;
        *p = j->next_finished;
        if (!*p) e->finished_tail = p;
        e->finished_count--;
        an_job_drop(e, j);
        break;
    }
    pthread_mutex_unlock(&e->lock);
}

an_job *an_engine_job(an_engine *e, const char *id)
{
    an_job *found = NULL;
    pthread_mutex_lock(&e->lock);
    for (an_job *j = e->jobs; j && !found; j = j->next)
        if (strcmp(j->id, id) == 0) found = an_job_ref(j);
    pthread_mutex_unlock(&e->lock);
    return found;
}

int an_engine_jobs(an_engine *e, const char *client, an_job **out, int max)
{
    int n = 0;
    pthread_mutex_lock(&e->lock);
    for (an_job *j = e->jobs; j && n < max; j = j->next)
        if (!client || strncmp(j->client, client, sizeof j->client - 1) == 0)
            out[n++] = an_job_ref(j);
    pthread_mutex_unlock(&e->lock);
    return n;
}

/* ---------------------------------------------------------------- events and the end */

void an_job_event(an_engine *e, an_job *j, an_event ev)
{
    an_ring_add(&j->ring, ev);
    an_job_touch(e, j);
}

void an_job_touch(an_engine *e, an_job *j)
{
    if (j->touched) return;
    j->touched = true;
    j->next_touched = e->touched;
    e->touched = an_job_ref(j);
}

static size_t result_bytes(const an_job *j)
{
    if (j->text) return an_text_job_bytes(j->text, j->n);
    size_t n = j->ring.preview_bytes, pixels = (size_t)j->width * (size_t)j->height * 3;
    size_t latent = (size_t)(j->h * j->w) * (size_t)j->channels * sizeof(float);
    for (int i = 0; i < j->n; i++)
        n += (j->task[i].pixels ? pixels : 0) + (j->task[i].latent ? 2 * latent : 0);
    return n;
}

static void end_claim(an_engine *e, an_job *j)
{
    an_queue_remove(&e->queue, &j->claim);
    an_claim_leave(&j->claim);
    an_clients_leave(&e->clients, j->claim.client);
    j->claim.client = NULL;
}

/* The device thread closes a running job's tasks before it comes here; a waiting job has none. The
 * caller holds a reference of its own: the store may drop its here. */
void an_job_finish(an_engine *e, an_job *j, an_job_state state, const an_error *why)
{
    if (j->state != AN_JOB_QUEUED && j->state != AN_JOB_RUNNING) return;
    if (j->state == AN_JOB_QUEUED)
        e->queued--;
    else
        e->running--;
    j->state = state;
    j->finished = an_unix_s();
    j->finished_mono = an_now_s();
    if (why) j->error = *why;
    end_claim(e, j);
    an_job_unbind(j);
    drop_input(j);
    if (j->text && state != AN_JOB_DONE) e->finished_abort += (uint64_t)(j->n - j->done);
    e->input_bytes -= j->input_bytes;
    j->input_bytes = 0;
    an_event_type last = AN_EVENT_DONE;
    if (state == AN_JOB_DONE) {
        e->jobs_done++;
        an_hist_add(&e->request_s, j->finished_mono - j->created_mono);
    } else if (state == AN_JOB_FAILED) {
        e->jobs_failed++;
        last = AN_EVENT_FAILED;
    } else {
        e->jobs_canceled++;
        last = AN_EVENT_CANCELED;
    }
    an_recent_job(e, j);
    an_ring_add(&j->ring, (an_event){.type = last, .step = j->step, .steps = j->calls * j->n});
    j->result_bytes = result_bytes(j);
    e->result_bytes += j->result_bytes;
    j->next_finished = NULL;
    if (j->forgotten) {
        an_job_drop(e, j);
    } else {
        *e->finished_tail = j;
        e->finished_tail = &j->next_finished;
        e->finished_count++;
    }
    if (e->queued + e->running == 0) pthread_cond_broadcast(&e->idle);
}

void an_job_cancel(an_job *j)
{
    an_engine *e = j->e;
    bool now = false;
    pthread_mutex_lock(&e->lock);
    j->cancel = true;
    if (j->state == AN_JOB_QUEUED) {
        an_error why;
        an_fail(&why, AN_CANCELED, "cancelled while waiting");
        an_job_finish(e, j, AN_JOB_CANCELED, &why);
        now = true;
    }
    an_engine_wake(e);
    pthread_mutex_unlock(&e->lock);
    if (now) an_job_notify(j);
}

bool an_job_finished(an_job *j)
{
    pthread_mutex_lock(&j->e->lock);
    bool end = j->state != AN_JOB_QUEUED && j->state != AN_JOB_RUNNING;
    pthread_mutex_unlock(&j->e->lock);
    return end;
}

bool an_job_ran(an_job *j)
{
    pthread_mutex_lock(&j->e->lock);
    bool ran = j->ran;
    pthread_mutex_unlock(&j->e->lock);
    return ran;
}

/* ---------------------------------------------------------------- reading */

/* Where it runs, or a device that has measured the model. */
static const an_slot *measured(const an_job *j)
{
    const an_engine *e = j->e;
    if (j->slot) return j->slot;
    for (int i = 1; i < e->units; i++)
        if (e->unit[i].slot[j->files->index].lm.decode_s > 0)
            return &e->unit[i].slot[j->files->index];
    return &e->unit[0].slot[j->files->index];
}

/* Choices advance together, so that the longest that is possible counts. */
static double remaining_text(const an_job *j)
{
    const an_language *m = &measured(j)->lm;
    const an_text_job *x = j->text;
    if (!(m->decode_s > 0)) return -1;
    double prompt = x->usage.first_token_s < 0 ? m->price.token * m->flop_s * x->n_ids : 0;
    return prompt + m->decode_s * (x->max_tokens - (double)j->step / j->n);
}

/* Seconds of device time this job still needs, < 0 if nothing comparable was measured yet. */
static double remaining(const an_engine *e, const an_job *j)
{
    if (j->text) return remaining_text(j);
    an_price p;
    an_stage last = j->kind == AN_TASK_ENCODE ? AN_STAGE_ENCODE : AN_STAGE_DECODE;
    double once = 0, call = 0;
    if (an_price_known(e, j->files, last, j->h, j->w, 0, &p))
        once = p.row_s > 0 ? p.row_s : p.row_flops * e->seconds_per_flop;
    if (j->kind == AN_TASK_IMAGE) {
        if (!an_price_known(e, j->files, AN_STAGE_DENOISE, j->h, j->w, an_job_tokens(j), &p))
            return -1;
        call = j->branches * (p.row_s > 0 ? p.row_s : p.row_flops * e->seconds_per_flop);
        if (call <= 0) return -1;
    }
    return call * (j->calls * j->n - j->step) + once * (j->n - j->done);
}

/* A device is shared in turn, and the others are as busy: until this job is done each other running
 * one gets as much time, or as much as it still needs; jobs that start before it likewise. */
double an_job_eta(const an_engine *e, const an_job *j)
{
    if (j->state != AN_JOB_QUEUED && j->state != AN_JOB_RUNNING) return 0;
    double own = remaining(e, j), sum = 0;
    if (own < 0) return -1;
    for (const an_job *o = e->jobs; o; o = o->next) {
        bool ahead =
            o->state == AN_JOB_RUNNING || (o->state == AN_JOB_QUEUED && j->state == AN_JOB_QUEUED &&
                                           an_claim_before(&o->claim, &j->claim));
        if (o == j || !ahead) continue;
        double r = remaining(e, o);
        if (r < 0) r = own;
        sum += r < own || o->state == AN_JOB_QUEUED ? r : own;
    }
    int devices = 0;
    for (int i = 0; i < e->units; i++) devices += e->unit[i].ok;
    return own + sum / (devices > 0 ? devices : 1);
}

void an_job_get(an_job *j, an_job_info *out)
{
    an_engine *e = j->e;
    *out = (an_job_info){.images = j->text ? 0 : j->n, .queue_position = -1};
    memcpy(out->id, j->id, sizeof out->id);
    memcpy(out->client, j->client, sizeof out->client);
    memcpy(out->model, j->model, sizeof out->model);
    out->truncated = j->truncated;
    out->negative_truncated = j->negative_truncated;
    out->negative_tokens = j->negative_tokens;
    out->prompt_tokens = j->prompt_tokens;
    pthread_mutex_lock(&e->lock);
    out->state = j->state;
    if (j->state == AN_JOB_QUEUED) out->queue_position = an_queue_position(&e->queue, &j->claim);
    out->step = j->step;
    out->steps = j->calls * j->n;
    out->eta_s = an_job_eta(e, j);
    out->created = j->created;
    out->started = j->started;
    out->finished = j->finished;
    out->images_done = j->text ? 0 : j->done;
    out->error = j->error;
    pthread_mutex_unlock(&e->lock);
}

int an_job_position(an_job *j)
{
    pthread_mutex_lock(&j->e->lock);
    int at = j->state == AN_JOB_QUEUED ? an_queue_position(&j->e->queue, &j->claim) : -1;
    pthread_mutex_unlock(&j->e->lock);
    return at;
}

bool an_job_result(an_job *j, int i, an_result *out)
{
    *out = (an_result){0};
    if (i < 0 || i >= j->n || j->text) return false;
    pthread_mutex_lock(&j->e->lock);
    const an_task *t = &j->task[i];
    bool done = t->done;
    if (done) {
        *out = (an_result){.pixels = t->pixels,
                           .width = j->width,
                           .height = j->height,
                           .seed = j->seed + i,
                           .latent = t->latent,
                           .logvar = t->logvar,
                           .latent_channels = j->channels,
                           .latent_h = (int)j->h,
                           .latent_w = (int)j->w};
    }
    pthread_mutex_unlock(&j->e->lock);
    return done;
}

void an_job_params_get(an_job *j, an_job_params *out)
{
    *out = (an_job_params){.prompt = j->prompt,
                           .negative_prompt = j->negative_prompt,
                           .model = j->model,
                           .sampler_class = j->solver_class,
                           .sampler = j->sampler,
                           .schedule = j->schedule,
                           .width = j->width,
                           .height = j->height,
                           .n = j->n,
                           .steps = j->steps,
                           .clip_skip = j->clip_skip,
                           .guidance_scale = j->guidance,
                           .guidance_rescale = j->rescale,
                           .seed = j->seed,
                           .rng = j->rng,
                           .tag = j->tag};
}
