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

#endif
