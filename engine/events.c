/* events.c: a job's events: a bounded ring that forgets steps and previews but never a milestone,
 * and the watchers that are told when something was added. */
#include "state.h"

#include <stdlib.h>

const char *an_event_name(an_event_type t)
{
    static const char *const name[] = {"queued", "started", "step",   "preview",  "image",
                                       "text",   "done",    "failed", "cancelled"};
    return t >= AN_EVENT_QUEUED && t <= AN_EVENT_CANCELED ? name[t] : "unknown";
}

/* ---------------------------------------------------------------- the ring */

static bool droppable(const an_event *ev)
{
    return ev->type == AN_EVENT_STEP || ev->type == AN_EVENT_PREVIEW || ev->type == AN_EVENT_TEXT;
}

static size_t preview_bytes(const an_event *ev)
{
    return ev->preview ? (size_t)ev->preview_w * (size_t)ev->preview_h * 3 : 0;
}

static void drop(an_ring *r, int i)
{
    r->preview_bytes -= preview_bytes(&r->event[i]);
    free(r->event[i].preview);
    r->droppable--;
    r->count--;
    memmove(&r->event[i], &r->event[i + 1], (size_t)(r->count - i) * sizeof *r->event);
}

/* The oldest step goes before any preview: a listener can do without the former. */
static void drop_one(an_ring *r)
{
    int victim = -1;
    for (int i = 0; i < r->count && victim < 0; i++)
        if (r->event[i].type == AN_EVENT_STEP) victim = i;
    for (int i = 0; i < r->count && victim < 0; i++)
        if (droppable(&r->event[i])) victim = i;
    if (victim >= 0) drop(r, victim);
}

static void drop_oldest_preview(an_ring *r)
{
    for (int i = 0; i < r->count; i++)
        if (r->event[i].type == AN_EVENT_PREVIEW) {
            drop(r, i);
            return;
        }
}

void an_ring_add(an_ring *r, an_event ev)
{
    ev.seq = ++r->last_seq;
    for (int i = r->count - 1; i >= 0 && ev.type == AN_EVENT_TEXT; i--)
        if (r->event[i].type == AN_EVENT_TEXT) drop(r, i); /* the newest says all */
    while (droppable(&ev) && r->droppable >= AN_RING) drop_one(r);
    while (ev.preview && r->preview_bytes > 0 &&
           r->preview_bytes + preview_bytes(&ev) > AN_RING_PREVIEW_BYTES)
        drop_oldest_preview(r);
    if (r->count == r->cap) {
        int cap = r->cap ? r->cap * 2 : 8;
        an_event *p = realloc(r->event, (size_t)cap * sizeof *p);
        if (!p) {
            /* A listener that polls an_job_finished still sees the end of the job. */
            free(ev.preview);
            return;
        }
        r->event = p;
        r->cap = cap;
    }
    r->event[r->count++] = ev;
    r->preview_bytes += preview_bytes(&ev);
    if (droppable(&ev)) r->droppable++;
}

void an_ring_free(an_ring *r)
{
    for (int i = 0; i < r->count; i++) free(r->event[i].preview);
    free(r->event);
    *r = (an_ring){.last_seq = r->last_seq};
}

/* Index of the first event after seq: they are in order. */
static int after(const an_ring *r, uint64_t seq)
{
    int lo = 0, hi = r->count;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (r->event[mid].seq <= seq)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool an_job_next_event(an_job *j, uint64_t *cursor, an_event *out)
{
    bool found = false;
    pthread_mutex_lock(&j->e->lock);
    int i = after(&j->ring, *cursor);
    if (i < j->ring.count) {
        *out = j->ring.event[i];
        *cursor = out->seq;
        found = true;
        size_t bytes = preview_bytes(out);
        if (bytes > 0) {
            uint8_t *copy = malloc(bytes);
            if (copy) memcpy(copy, out->preview, bytes);
            out->preview = copy;
            if (!copy) out->preview_w = out->preview_h = 0;
        }
    }
    pthread_mutex_unlock(&j->e->lock);
    return found;
}

/* ---------------------------------------------------------------- watchers */

int an_job_watch(an_job *j, void (*fn)(void *ctx), void *ctx)
{
    int handle = -1;
    pthread_mutex_lock(&j->watch_lock);
    an_watcher *p = realloc(j->watcher, (size_t)(j->watchers + 1) * sizeof *p);
    if (p) {
        j->watcher = p;
        handle = ++j->next_handle;
        p[j->watchers++] = (an_watcher){fn, ctx, handle};
    }
    pthread_mutex_unlock(&j->watch_lock);
    return handle;
}

void an_job_unwatch(an_job *j, int handle)
{
    pthread_mutex_lock(&j->watch_lock);
    for (int i = 0; i < j->watchers; i++) {
        if (j->watcher[i].handle != handle) continue;
        j->watcher[i] = j->watcher[--j->watchers];
        break;
    }
    pthread_mutex_unlock(&j->watch_lock);
}

/* The watch lock is held while they run: that is what an_job_unwatch waits for. */
void an_job_notify(an_job *j)
{
    pthread_mutex_lock(&j->watch_lock);
    for (int i = 0; i < j->watchers; i++) j->watcher[i].fn(j->watcher[i].ctx);
    pthread_mutex_unlock(&j->watch_lock);
}

void an_jobs_notify(an_engine *e)
{
    pthread_mutex_lock(&e->lock);
    an_job *list = e->touched;
    e->touched = NULL;
    for (an_job *j = list; j; j = j->next_touched) j->touched = false;
    pthread_mutex_unlock(&e->lock);
    while (list) {
        an_job *j = list;
        list = j->next_touched;
        an_job_notify(j);
        an_job_unref(j);
    }
}
