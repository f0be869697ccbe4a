/* track.c: lanes of the engine, and their threads. The device thread decides everything: who is
 * admitted, which rows a tick has, what becomes of its results. Only the call of the network itself
 * runs on a track's own thread, where the device can work at several things at once; so a long tick
 * of pictures delays no token. A tick in flight owns its rows, its model (they are pinned) and its
 * lane, and nothing else; until it is over, the device thread touches no job of that kind. */
#include "state.h"

#include <stdlib.h>

an_track *an_track_of(const an_slot *s)
{
    an_unit *u = s->unit;
    return &u->track[u->tracks == 1 ? 0 : s->files->entry.info.kind];
}

an_lane *an_slot_lane(const an_slot *s)
{
    return an_track_of(s)->lane;
}

bool an_track_serves(const an_track *k, const an_job *j)
{
    return j->slot && k == an_track_of(j->slot);
}

/* ---------------------------------------------------------------- a tick */

static void *track_main(void *arg)
{
    an_track *k = arg;
    an_unit *u = k->unit;
    an_engine *e = u->e;
    an_error err = {0};
    if (an_device_enter(u->device, &err)) an_device_failed(u, &err);
    pthread_mutex_lock(&e->lock);
    for (;;) {
        while (!k->quit && !(k->busy && !k->over)) pthread_cond_wait(&k->go, &e->lock);
        if (k->quit) break;
        pthread_mutex_unlock(&e->lock);
        k->run(u);
        pthread_mutex_lock(&e->lock);
        k->over = true;
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

void an_track_start(an_track *k, void (*run)(an_unit *u), void (*end)(an_unit *u))
{
    an_unit *u = k->unit;
    k->run = run;
    k->end = end;
    if (!k->threaded) {
        run(u);
        end(u);
        return;
    }
    pthread_mutex_lock(&u->e->lock);
    k->busy = true;
    pthread_cond_signal(&k->go);
    pthread_mutex_unlock(&u->e->lock);
}

bool an_track_end(an_track *k)
{
    an_unit *u = k->unit;
    pthread_mutex_lock(&u->e->lock);
    const bool over = k->over;
    if (over) k->busy = k->over = false;
    pthread_mutex_unlock(&u->e->lock);
    if (over) k->end(u);
    return over;
}

/* ---------------------------------------------------------------- birth and death */

static an_status start_thread(an_track *k, an_error *err)
{
    const int r = pthread_create(&k->thread, NULL, track_main, k);
    if (r) return an_fail(err, AN_INTERNAL, "thread of a lane: %s", strerror(r));
    k->threaded = true;
    return AN_OK;
}

an_status an_tracks_open(an_unit *u, bool threads, an_error *err)
{
    const int n = an_device_lanes(u->device);
    an_status s = an_device_enter(u->device, err);
    u->tracks = n < AN_KIND_COUNT ? n : AN_KIND_COUNT;
    for (int i = 0; i < u->tracks && !s; i++) {
        an_track *k = &u->track[i];
        k->unit = u;
        /* A token is a moment's work and somebody waits for it; a step of pictures is long. */
        if (i == AN_KIND_TEXT)
            s = an_lane_open_urgent(u->device, 0, &k->lane, err);
        else
            s = an_lane_open(u->device, 0, &k->lane, err);
        if (!s && threads && u->tracks > 1) s = start_thread(k, err);
    }
    return s;
}

void an_tracks_close(an_unit *u)
{
    an_device_enter(u->device, NULL);
    for (int i = 0; i < u->tracks; i++) {
        an_track *k = &u->track[i];
        if (k->threaded) {
            pthread_mutex_lock(&u->e->lock);
            k->quit = true;
            pthread_cond_signal(&k->go);
            pthread_mutex_unlock(&u->e->lock);
            pthread_join(k->thread, NULL);
        }
        an_lane_close(k->lane);
    }
}
