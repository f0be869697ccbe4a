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
static void count_started(an_unit *u, const an_task *t, int by)
{
    an_client *c = t->job->claim.client;
    if (t->job->text) {
        u->run_texts += by;
        c->sequences += by;
    } else {
        c->pictures += by;
    }
}

/* Takes a picture or a sequence out of the running ones and gives its memory back. */
static void stop_task(an_task *t)
{
    an_unit *u = t->job->slot->unit;
    pthread_mutex_lock(&u->e->lock);
    for (int i = 0; i < u->run_count; i++) {
        if (u->run[i] != t) continue;
        u->run_count--;
        memmove(&u->run[i], &u->run[i + 1], (size_t)(u->run_count - i) * sizeof *u->run);
        break;
    }
    t->job->slot->pins--;
    u->unpinned++;
    count_started(u, t, -1);
    t->started = false;
    pthread_mutex_unlock(&u->e->lock);
    t->job->slot->last_used = an_now_s();
    an_task_close(u, t);
    u->freed = true;
}

void an_job_end(an_job *j, an_job_state state, const an_error *why)
{
    an_engine *e = j->e;
    an_job_ref(j); /* the store may drop its own below */
    for (int i = 0; i < j->n; i++)
        if (j->task[i].started) stop_task(&j->task[i]);
    pthread_mutex_lock(&e->lock);
    an_job_touch(e, j);
    an_job_finish(e, j, state, why);
    pthread_mutex_unlock(&e->lock);
    an_job_unref(j);
}

void an_task_finished(an_task *t)
{
    an_job *j = t->job;
    an_engine *e = j->e;
    pthread_mutex_lock(&e->lock);
    t->done = true;
    j->done++;
    if (!j->text) {
        e->images_done++;
        an_job_event(e, j, (an_event){.type = AN_EVENT_IMAGE, .index = t->index});
    }
    bool last = j->done == j->n;
    pthread_mutex_unlock(&e->lock);
    stop_task(t);
    if (last) an_job_end(j, AN_JOB_DONE, NULL);
}

/* ---------------------------------------------------------------- ending early */

static bool doomed(const an_engine *e, const an_job *j, double now, an_job_state *state,
                   an_error *why)
{
    const an_unit *u = j->slot ? j->slot->unit : NULL;
    const an_error *lost = u ? u->ok ? NULL : &u->lost : an_engine_lost(e);
    if (lost) {
        *state = AN_JOB_FAILED;
        *why = *lost;
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

/* The first job of this track, or of the waiting ones, that was cancelled or is too late; a
 * reference. */
static an_job *first_doomed(const an_track *k, an_job_state *state, an_error *why)
{
    an_unit *u = k->unit;
    an_engine *e = u->e;
    double now = an_now_s();
    an_job *found = NULL;
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < u->run_count && !found; i++) {
        an_job *j = u->run[i]->job;
        if (an_track_serves(k, j) && doomed(e, j, now, state, why)) found = j;
    }
    for (an_claim *c = e->queue.first; c && !found; c = c->next) {
        an_job *j = job_of(c);
        if ((!j->slot || an_track_serves(k, j)) && doomed(e, j, now, state, why)) found = j;
    }
    if (found) an_job_ref(found);
    pthread_mutex_unlock(&e->lock);
    return found;
}

void an_expire(const an_track *k)
{
    an_engine *e = k->unit->e;
    an_job_state state;
    an_error why;
    for (an_job *j; (j = first_doomed(k, &state, &why));) {
        an_job_end(j, state, &why);
        an_job_unref(j);
    }
    pthread_mutex_lock(&e->lock);
    an_jobs_forget_old(e);
    pthread_mutex_unlock(&e->lock);
}

/* ---------------------------------------------------------------- coming in */

/* Of the waiting ones, those that start on this device. */
static bool starts_here(const an_claim *c, void *unit)
{
    an_unit *u = unit;
    an_job *j = job_of((an_claim *)(uintptr_t)c);
    return j->slot ? j->slot->unit == u : an_place(u->e, j) == u;
}

/* The picture or sequence to start next, or NULL. Beyond max_running (max_sequences), up to
 * max_batch places are kept for clients that have nothing running: somebody's hundred pictures must
 * not make them wait. */
static an_task *next_task(an_unit *u, bool text)
{
    an_engine *e = u->e;
    an_task *t = NULL;
    pthread_mutex_lock(&e->lock);
    int most = text ? e->o.max_sequences : e->o.max_running;
    int have = text ? u->run_texts : u->run_count - u->run_texts;
    bool full = have >= most, quite_full = have >= most + e->o.max_batch;
    an_claim *c = quite_full ? NULL : an_queue_best(&e->queue, text, full, starts_here, u);
    if (c) {
        an_job *j = job_of(c);
        t = &j->task[j->next_task];
        if (!j->slot) an_job_bind(j, u);
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
static an_status open_text(an_unit *u, an_task *t, an_error *err)
{
    const an_text_job *x = t->job->text;
    int64_t positions = t->job->slot->lm.positions;
    if ((int64_t)x->n_ids + x->max_tokens > positions)
        return an_fail_param(err, AN_INVALID, "prompt",
                             "prompt has %d tokens and max_tokens %d; the memory for keys and "
                             "values holds %lld",
                             x->n_ids, x->max_tokens, (long long)positions);
    return an_task_open(u, t, err);
}

/* Another device serves the model. */
static bool held_elsewhere(const an_unit *u, const an_files *f)
{
    an_engine *e = u->e;
    bool held = false;
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < e->units; i++)
        held |= &e->unit[i] != u && e->unit[i].ok && e->unit[i].slot[f->index].loaded;
    pthread_mutex_unlock(&e->lock);
    return held;
}

static an_status make_ready(an_unit *u, an_task *t, an_error *err)
{
    const an_job *j = t->job;
    an_slot *s = j->slot;
    pthread_mutex_lock(&u->e->lock);
    const uint64_t now = u->unpinned + 1;
    pthread_mutex_unlock(&u->e->lock);
    /* Loading takes long and every tick asks: not again before there can be more memory. */
    if (!s->model && s->no_room == now && u->run_count > 0)
        return an_fail(err, AN_NO_MEMORY, "model '%s' waits for memory", s->files->entry.id);
    an_status st = an_slot_load(u, s, err);
    s->no_room = st == AN_NO_MEMORY || st == AN_TOO_LARGE ? now : 0;
    if (st && st != AN_DEVICE && held_elsewhere(u, s->files)) {
        /* it is this device that cannot: it is not asked again before it has more memory */
        an_log(AN_LOG_WARN, "device %d: %s", u->index + 1, err->message);
        s->no_room = now;
        return err->status = AN_NO_MEMORY;
    }
    if (st) {
        an_files_broken(u->e, s->files, err);
        if (!*err->param) snprintf(err->param, sizeof err->param, "model");
        /* no other request would fit either: it is the server that is too small */
        if (st == AN_TOO_LARGE) st = err->status = AN_NO_MEMORY;
        return st;
    }
    if (j->text) return open_text(u, t, err);
    size_t scratch = 0;
    if (j->kind == AN_TASK_IMAGE) {
        st = an_picture_scratch(u->e, s, j, &scratch, err);
    } else {
        an_price p;
        an_stage stage = j->kind == AN_TASK_ENCODE ? AN_STAGE_ENCODE : AN_STAGE_DECODE;
        st = an_price_get(u->e, s, stage, j->h, j->w, 0, &p, err);
        if (!st) scratch = p.row_bytes;
    }
    if (st) return st;
    do {
        st = an_room_for(u, s, scratch, err);
        if (!st) st = an_task_open(u, t, err);
        /* an idle model may hold what lacks for its state, which is little */
    } while (st == AN_NO_MEMORY && an_slots_make_way(u, s));
    return st;
}

/* True if the picture runs; false if it has to wait for memory that running ones hold. */
static bool start(an_unit *u, an_task *t)
{
    an_job *j = t->job;
    an_error err = {0};
    an_status st = make_ready(u, t, &err);
    if ((st == AN_NO_MEMORY || st == AN_TOO_LARGE) && u->run_count == 0) {
        an_encodings_drop(u, NULL);
        an_blocks_free(u);
        st = make_ready(u, t, &err);
    }
    const bool other = j->next_task == 0 && !j->slot->model && held_elsewhere(u, j->files);
    const bool waits = (st == AN_NO_MEMORY || st == AN_TOO_LARGE) && (u->run_count > 0 || other);
    pthread_mutex_lock(&u->e->lock);
    j->ran |= !st || st == AN_DEVICE; /* what broke the device may break others */
    if (!st) {
        t->started = true;
        u->run[u->run_count++] = t;
        count_started(u, t, 1);
        if (++j->next_task == j->n) an_queue_remove(&u->e->queue, &j->claim);
    } else {
        j->slot->pins--;
    }
    if (waits && j->next_task == 0) an_job_unbind(j); /* another device may have the memory */
    pthread_mutex_unlock(&u->e->lock);
    if (!st) {
        u->freed = true; /* it is busier now: what waits may start on another device */
        return true;
    }
    if (st == AN_DEVICE) an_device_failed(u, &err);
    if (waits) return false;
    if (st == AN_TOO_LARGE && !*err.param)
        snprintf(err.param, sizeof err.param, "%s", j->text ? "model" : "width");
    an_job_end(j, AN_JOB_FAILED, &err);
    return true;
}

static void admit_kind(an_unit *u, bool text)
{
    for (an_task *t; (t = next_task(u, text));)
        if (!start(u, t)) break;
}

void an_admit(const an_track *k)
{
    an_unit *u = k->unit;
    for (int text = 0; text < 2; text++)
        if (u->tracks == 1 || k == &u->track[text ? AN_KIND_TEXT : AN_KIND_IMAGE])
            admit_kind(u, text);
}
