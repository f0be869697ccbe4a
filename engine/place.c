/* place.c: on which device a job runs. Jobs wait in one queue; one that may start is bound to a
 * device, where all of its pictures or answers run. Any device of a kind gives the same bytes, so
 * that the choice is only about time: a device that holds the model and has little to do; another
 * one where the model fits, when those that hold it are busy. And devices that are lost. */
#include "state.h"

/* ---------------------------------------------------------------- lost devices */

const an_error *an_engine_lost(const an_engine *e)
{
    for (int i = 0; i < e->units; i++)
        if (e->unit[i].ok) return NULL;
    return &e->unit[0].lost;
}

void an_device_failed(an_unit *u, an_error *err)
{
    an_engine *e = u->e;
    an_error gone = {0};
    if (an_device_probe(u->device, &gone) == AN_OK) {
        an_log(AN_LOG_ERROR, "device: %s", err->message); /* this call's own fault */
        return;
    }
    pthread_mutex_lock(&e->lock);
    if (u->ok) {
        char which[64] = "";
        if (e->units > 1) snprintf(which, sizeof which, "%d of %d: ", u->index + 1, e->units);
        an_fail(&u->lost, AN_DEVICE, "device lost: %s%.900s; the server must be restarted", which,
                err->message);
        an_log(AN_LOG_ERROR, "%s", u->lost.message);
        u->ok = false;
    }
    *err = u->lost;
    an_engine_wake(e);
    pthread_mutex_unlock(&e->lock);
}

/* ---------------------------------------------------------------- choosing */

/* Pictures or answers that are bound to it and not finished, of this kind; then of the other. */
static bool less_busy(const an_unit *a, const an_unit *b, bool text)
{
    if (a->load[text] != b->load[text]) return a->load[text] < b->load[text];
    return a->load[!text] < b->load[!text];
}

/* The model would have a place beside what is there. Activations, keys and values are not known
 * before it is loaded; a quarter more than the files is the guess. */
static bool fits(const an_unit *u, const an_files *f)
{
    const size_t used = u->weight_bytes + u->arena_bytes + u->block_bytes + u->kv_bytes;
    const size_t left = u->memory_bytes > used ? u->memory_bytes - used : 0;
    return an_weights_guess(u, f) <= left - left / 5;
}

/* It did not fit, and nothing was given back since. */
static bool has_no_room(const an_unit *u, const an_slot *s)
{
    return !s->model && s->no_room == u->unpinned + 1;
}

/* The device's pool of keys and values is too small for the job; another one's may be larger. */
static bool too_long(const an_job *j, const an_slot *s)
{
    return j->text && s->loaded && (int64_t)j->text->n_ids + j->text->max_tokens > s->lm.positions;
}

static bool has_places(const an_unit *u, bool text)
{
    const an_engine_options *o = &u->e->o;
    if (text) return u->run_texts < o->max_sequences + o->max_batch;
    return u->run_count - u->run_texts < o->max_running + o->max_batch;
}

/* A second picture on a device makes the first one slower; a second answer hardly does. */
static bool busy(const an_unit *u, bool text)
{
    return u->load[text] >= (text ? u->e->o.max_batch : 1);
}

/* The device whose prefix cache holds most of the prompt, if any holds a page of it. A long prompt
 * is hashed once, not at every tick that it waits for. */
static an_unit *home_of(an_engine *e, an_job *j)
{
    int most = 0;
    if (j->home_known || !j->text || e->units == 1) return j->home;
    for (int i = 0; i < e->units; i++) {
        const int n = an_pages_known(j, &e->unit[i].slot[j->files->index]);
        if (n <= most) continue;
        most = n;
        j->home = &e->unit[i];
    }
    j->home_known = true;
    return j->home;
}

/* Its cached prefix is worth a few answers more in the batch; then others compute it once more. */
static bool worth_it(const an_job *j, const an_unit *home, const an_unit *other)
{
    const an_slot *s = &home->slot[j->files->index];
    return home->ok && s->loaded && !too_long(j, s) && has_places(home, true) &&
           home->load[true] <= other->load[true] + home->e->o.max_batch;
}

an_unit *an_place(an_engine *e, an_job *j)
{
    const bool text = j->text != NULL;
    an_unit *holder = NULL, *room = NULL, *any = NULL, *small = NULL;
    bool held = false;
    for (int i = 0; i < e->units; i++) {
        an_unit *u = &e->unit[i];
        const an_slot *s = &u->slot[j->files->index];
        if (!u->ok) continue;
        if (too_long(j, s)) {
            small = u;
            continue;
        }
        held |= s->loaded;
        if (!has_places(u, text)) continue;
        if (s->loaded) {
            if (!holder || less_busy(u, holder, text)) holder = u;
            continue;
        }
        if (!any || (!has_no_room(u, s) && less_busy(u, any, text))) any = u;
        if (has_no_room(u, s) || !fits(u, j->files)) continue;
        if (!room || less_busy(u, room, text)) room = u;
    }
    const bool idle = room && room->load[0] + room->load[1] == 0;
    if (holder) {
        an_unit *best = idle && busy(holder, text) ? room : holder, *home = home_of(e, j);
        return home && worth_it(j, home, best) ? home : best;
    }
    if (held) return room; /* those that hold it are full */
    if (small && !room) return has_places(small, text) ? small : NULL; /* which says so */
    return room ? room : any;
}

/* ---------------------------------------------------------------- binding */

void an_job_bind(an_job *j, an_unit *u)
{
    j->slot = &u->slot[j->files->index];
    u->load[j->text != NULL] += j->n;
}

void an_job_unbind(an_job *j)
{
    if (!j->slot) return;
    j->slot->unit->load[j->text != NULL] -= j->n;
    j->slot = NULL;
}
