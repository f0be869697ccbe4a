/* engine_help.h: an engine on small models, for the engine's tests. */
#ifndef TESTS_ENGINE_HELP_H
#define TESTS_ENGINE_HELP_H

#include "anneal/engine.h"
#include "test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Where the models lie: goldens as GOLDEN/sd1/model, ..., the demo as DEMO/emoji. The engine wants
 * one folder whose entries are models, so a folder of symbolic links is made. Without
 * the demo, which is the default where it is, engines start faster. */
static inline bool help_link_models(char *dir, size_t size, bool demo)
{
    snprintf(dir, size, "%s/anneal-models-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(dir)) return false;
    static const char *const name[] = {"sd1", "sd2", "sdxl", "lcm"};
    char from[1024], to[1024];
    bool ok = true;
    for (int i = 0; i < 4; i++) {
        snprintf(from, sizeof from, "%s/%s/model", AN_GOLDEN, name[i]);
        snprintf(to, sizeof to, "%s/%s", dir, name[i]);
        ok = symlink(from, to) == 0 && ok;
    }
    if (!demo) return ok;
    snprintf(from, sizeof from, "%s/emoji", AN_DEMO);
    snprintf(to, sizeof to, "%s/emoji", dir);
    return symlink(from, to) == 0 && ok;
}

static inline void help_unlink_models(const char *dir)
{
    static const char *const name[] = {"sd1", "sd2", "sdxl", "lcm", "emoji"};
    char path[1024];
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, name[i]);
        unlink(path);
    }
    rmdir(dir);
}

static inline an_engine *help_engine(const char *dir, const char *dtype,
                                     void (*adjust)(an_engine_options *o))
{
    const char *dirs[] = {dir, NULL};
    an_engine_options o;
    an_engine_options_default(&o);
    o.device.device = test_device();
    o.dtype = dtype;
    o.model_dirs = dirs;
    if (adjust) adjust(&o);
    an_engine *e = NULL;
    an_error err = {0};
    if (an_engine_new(&o, &e, &err)) printf("  engine: %s\n", err.message);
    return e;
}

/* Waits for the job's end, by polling: tests of watchers are elsewhere. */
static inline an_job_info help_wait(an_job *j)
{
    while (!an_job_finished(j)) usleep(500);
    an_job_info info;
    an_job_get(j, &info);
    return info;
}

/* ---------------------------------------------------------------- an engine that stands still */

/* A gate before the engine's device thread: a watcher that does not return. What is submitted while
 * it is shut is there as a whole at the next tick, however fast the engine and slow the test. */
typedef struct help_gate {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    bool (*when)(
        void *ctx); /* called by the device thread after every event of the job; false: not yet */
    void *ctx;
    an_job *job;
    int handle;
    bool shut, open;
} help_gate;

static inline void help_gate_hear(void *gate)
{
    help_gate *g = gate;
    if (!g->when(g->ctx)) return;
    pthread_mutex_lock(&g->lock);
    g->shut = true;
    pthread_cond_broadcast(&g->moved);
    while (!g->open) pthread_cond_wait(&g->moved, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

/* Shuts as soon as `when` holds. The job must not have run yet: watch it behind another gate. */
static inline void help_gate_watch(help_gate *g, an_job *j, bool (*when)(void *ctx), void *ctx)
{
    *g = (help_gate){.lock = PTHREAD_MUTEX_INITIALIZER,
                     .moved = PTHREAD_COND_INITIALIZER,
                     .when = when,
                     .ctx = ctx,
                     .job = j};
    g->handle = an_job_watch(j, help_gate_hear, g);
}

/* False: the job has ended, and the gate never shut. */
static inline bool help_gate_wait(help_gate *g)
{
    bool shut = false;
    for (bool end = false; !shut && !end; usleep(200)) {
        end = an_job_finished(g->job);
        pthread_mutex_lock(&g->lock);
        shut = g->shut;
        pthread_mutex_unlock(&g->lock);
    }
    return shut;
}

static inline void help_gate_open(help_gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->moved);
    pthread_mutex_unlock(&g->lock);
    an_job_unwatch(g->job, g->handle);
}

static inline bool help_runs(void *job)
{
    an_job_info info;
    an_job_get(job, &info);
    return info.state != AN_JOB_QUEUED;
}

/* Shuts a gate at once, by a picture of its own; help_release cancels it. */
static inline void help_hold(an_engine *e, help_gate *g)
{
    for (;;) {
        an_image_request r;
        an_image_request_default(&r);
        r.model = "sd1";
        r.prompt = "held";
        r.width = r.height = 16;
        r.steps = 150;
        r.guidance_scale = 1;
        r.client = "holder";
        an_job *j = NULL;
        an_error err = {0};
        if (an_engine_submit(e, &r, &j, &err)) {
            printf("  nothing is held: %s\n", err.message);
            *g = (help_gate){0};
            return;
        }
        help_gate_watch(g, j, help_runs, j);
        if (help_gate_wait(g)) return;
        help_gate_open(g); /* it was done before it was watched */
        an_job_unref(j);
    }
}

/* The two halves of help_release. Where another gate may shut at once, the held picture cannot end
 * before that one opens: see it off after. */
static inline void help_let_go(help_gate *g)
{
    if (!g->job) return;
    an_job_cancel(g->job);
    help_gate_open(g);
}
static inline void help_see_off(help_gate *g)
{
    if (!g->job) return;
    help_wait(g->job);
    an_job_unref(g->job);
    g->job = NULL;
}
static inline void help_release(help_gate *g)
{
    help_let_go(g);
    help_see_off(g);
}

#endif
