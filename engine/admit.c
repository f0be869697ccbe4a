/* admit.c: pictures come and go. Admission takes a picture from the queue, makes sure of its model
 * and memory and puts it among the running ones; ending a job gives everything back. All on the
 * device thread; the lock is held only where the server may be reading. */
#include "state.h"

#include <stddef.h>
#include <stdio.h>

static an_job *job_of(an_claim *c)
{
    return (an_job *)(void *)((char *)c - offsetof(an_job, claim));
}

/* ---------------------------------------------------------------- leaving */

/* Lock. */
static void count_started(an_engine *e, const an_task *t, int by)
{
    an_client *c = t->job->claim.client;
    if (t->job->text) {
        e->run_texts += by;
        c->sequences += by;
    } else {
        c->pictures += by;
    }
}

/* Takes a picture or a sequence out of the running ones and gives its memory back. */
static void stop_task(an_engine *e, an_task *t)
{
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < e->run_count; i++) {
        if (e->run[i] != t) continue;
        e->run_count--;
        memmove(&e->run[i], &e->run[i + 1], (size_t)(e->run_count - i) * sizeof *e->run);
        break;
    }
    t->job->slot->pins--;
    e->unpinned++;
    count_started(e, t, -1);
    t->started = false;
    pthread_mutex_unlock(&e->lock);
    t->job->slot->last_used = an_now_s();
    an_task_close(e, t);
    e->freed = true;
}

void an_job_end(an_engine *e, an_job *j, an_job_state state, const an_error *why)
{
    an_job_ref(j); /* the store may drop its own below */
    for (int i = 0; i < j->n; i++)
        if (j->task[i].started) stop_task(e, &j->task[i]);
    pthread_mutex_lock(&e->lock);
    an_job_touch(e, j);
    an_job_finish(e, j, state, why);
    pthread_mutex_unlock(&e->lock);
    an_job_unref(j);
}

void an_task_finished(an_engine *e, an_task *t)
{
    an_job *j = t->job;
    pthread_mutex_lock(&e->lock);
    t->done = true;
    j->done++;
    if (!j->text) {
        e->images_done++;
        an_job_event(e, j, (an_event){.type = AN_EVENT_IMAGE, .index = t->index});
    }
    bool last = j->done == j->n;
    pthread_mutex_unlock(&e->lock);
    stop_task(e, t);
    if (last) an_job_end(e, j, AN_JOB_DONE, NULL);
}

/* ---------------------------------------------------------------- ending early */

static bool doomed(const an_engine *e, const an_job *j, double now, an_job_state *state,
                   an_error *why)
{
    if (!e->device_ok) {
        *state = AN_JOB_FAILED;
        *why = e->lost;
        return true;
    }
    if (j->cancel || e->cancel_all) {
        *state = AN_JOB_CANCELED;
        if (j->cancel)
            an_fail(why, AN_CANCELED, "cancelled");
        else
            an_fail(why, AN_STOPPING, "cancelled: the server is stopping");
        return true;
    }
    if (j->deadline == 0 || now < j->deadline) return false;
    *state = AN_JOB_FAILED;
    an_fail_param(why, AN_BUSY, "deadline_ms", "not done within the deadline of %.3g s",
                  j->deadline - j->created_mono);
    return true;
}

/* The first job of this track that was cancelled or is too late; a reference. */
static an_job *first_doomed(an_engine *e, const an_track *k, an_job_state *state, an_error *why)
{
    double now = an_now_s();
    an_job *found = NULL;
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < e->run_count && !found; i++) {
        an_job *j = e->run[i]->job;
        if (an_track_serves(e, k, j) && doomed(e, j, now, state, why)) found = j;
    }
    for (an_claim *c = e->queue.first; c && !found; c = c->next) {
        an_job *j = job_of(c);
        if (an_track_serves(e, k, j) && doomed(e, j, now, state, why)) found = j;
    }
    if (found) an_job_ref(found);
    pthread_mutex_unlock(&e->lock);
    return found;
}

void an_expire(an_engine *e, const an_track *k)
{
    an_job_state state;
    an_error why;
    for (an_job *j; (j = first_doomed(e, k, &state, &why));) {
        an_job_end(e, j, state, &why);
        an_job_unref(j);
    }
    pthread_mutex_lock(&e->lock);
    an_jobs_forget_old(e);
    pthread_mutex_unlock(&e->lock);
}

/* ---------------------------------------------------------------- coming in */

/* The picture or sequence to start next, or NULL. Beyond max_running (max_sequences), up to
 * max_batch places are kept for clients that have nothing running: somebody's hundred pictures must
 * not make them wait. */
static an_task *next_task(an_engine *e, bool text)
{
    an_task *t = NULL;
    pthread_mutex_lock(&e->lock);
    int most = text ? e->o.max_sequences : e->o.max_running;
    int have = text ? e->run_texts : e->run_count - e->run_texts;
    bool full = have >= most, quite_full = have >= most + e->o.max_batch;
    an_claim *c = quite_full ? NULL : an_queue_best(&e->queue, text, full);
    if (c) {
        an_job *j = job_of(c);
        t = &j->task[j->next_task];
        j->slot->pins++;
        if (j->state == AN_JOB_QUEUED) {
            /* From here on only this thread ends it. */
            j->state = AN_JOB_RUNNING;
            e->queued--;
            e->running++;
            an_queue_started(&e->queue, c);
            j->started = an_unix_s();
            j->started_mono = an_now_s();
            an_hist_add(&e->queue_s, j->started_mono - j->created_mono);
            an_job_event(e, j, (an_event){.type = AN_EVENT_STARTED, .steps = j->calls * j->n});
        }
    }
    pthread_mutex_unlock(&e->lock);
    return t;
}

/* The pool's size was a guess while the model was not loaded. */
static an_status open_text(an_engine *e, an_task *t, an_error *err)
{
    const an_text_job *x = t->job->text;
    int64_t positions = t->job->slot->lm.positions;
    if ((int64_t)x->n_ids + x->max_tokens > positions)
        return an_fail_param(err, AN_INVALID, "prompt",
                             "prompt has %d tokens and max_tokens %d; the memory for keys and "
                             "values holds %lld",
                             x->n_ids, x->max_tokens, (long long)positions);
    return an_task_open(e, t, err);
}

static an_status make_ready(an_engine *e, an_task *t, an_error *err)
{
    const an_job *j = t->job;
    an_slot *s = j->slot;
    pthread_mutex_lock(&e->lock);
    const uint64_t now = e->unpinned + 1;
    pthread_mutex_unlock(&e->lock);
    /* Loading takes long and every tick asks: not again before there can be more memory. */
    if (!s->model && s->no_room == now && e->run_count > 0)
        return an_fail(err, AN_NO_MEMORY, "model '%s' waits for memory", s->entry.id);
    an_status st = an_slot_load(e, s, err);
    s->no_room = st == AN_NO_MEMORY || st == AN_TOO_LARGE ? now : 0;
    if (st) {
        an_slot_broken(e, s, err);
        if (!*err->param) snprintf(err->param, sizeof err->param, "model");
        /* no other request would fit either: it is the server that is too small */
        if (st == AN_TOO_LARGE) st = err->status = AN_NO_MEMORY;
        return st;
    }
    if (j->text) return open_text(e, t, err);
    size_t scratch = 0;
    if (j->kind == AN_TASK_IMAGE) {
        st = an_picture_scratch(e, s, j->h, j->w, &scratch, err);
    } else {
        an_price p;
        an_stage stage = j->kind == AN_TASK_ENCODE ? AN_STAGE_ENCODE : AN_STAGE_DECODE;
        st = an_price_get(e, s, stage, j->h, j->w, 0, &p, err);
        if (!st) scratch = p.row_bytes;
    }
    if (!st) st = an_room_for(e, s, scratch, err);
    if (!st) st = an_task_open(e, t, err);
    return st;
}

/* True if the picture runs; false if it has to wait for memory that running ones hold. */
static bool start(an_engine *e, an_task *t)
{
    an_job *j = t->job;
    an_error err = {0};
    an_status st = make_ready(e, t, &err);
    if ((st == AN_NO_MEMORY || st == AN_TOO_LARGE) && e->run_count == 0) {
        an_encodings_drop(e, NULL);
        an_blocks_free(e);
        st = make_ready(e, t, &err);
    }
    pthread_mutex_lock(&e->lock);
    if (!st) {
        t->started = true;
        e->run[e->run_count++] = t;
        count_started(e, t, 1);
        if (++j->next_task == j->n) an_queue_remove(&e->queue, &j->claim);
    } else {
        j->slot->pins--;
    }
    pthread_mutex_unlock(&e->lock);
    if (!st) return true;
    if (st == AN_DEVICE) an_device_failed(e, &err);
    if ((st == AN_NO_MEMORY || st == AN_TOO_LARGE) && e->run_count > 0) return false;
    if (st == AN_TOO_LARGE && !*err.param)
        snprintf(err.param, sizeof err.param, "%s", j->text ? "model" : "width");
    an_job_end(e, j, AN_JOB_FAILED, &err);
    return true;
}

static void admit_kind(an_engine *e, bool text)
{
    for (an_task *t; (t = next_task(e, text));)
        if (!start(e, t)) break;
}

void an_admit(an_engine *e, const an_track *k)
{
    for (int text = 0; text < 2; text++)
        if (e->tracks == 1 || k == &e->track[text ? AN_KIND_TEXT : AN_KIND_IMAGE])
            admit_kind(e, text);
}
