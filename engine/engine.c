/* engine.c: birth and death. The work is in scheduler.c. */
#include "state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- options */

void an_engine_options_default(an_engine_options *o)
{
    *o = (an_engine_options){.dtype = "auto",
                             .weights = "auto",
                             .max_queue = 256,
                             .max_batch = 8,
                             .max_running = 16,
                             .max_n = 10,
                             .max_steps = 150,
                             .max_width = 2048,
                             .max_height = 2048,
                             .max_prompt_bytes = 16384,
                             .max_chunks = 8,
                             .max_jobs_kept = 1024,
                             .max_result_bytes = (size_t)512 << 20,
                             .job_ttl_s = 600,
                             .text_cache = 256,
                             .vae_tile = 128,
                             .max_context = 32768,
                             .max_tokens = 16384,
                             .max_sequences = 64,
                             .tick_tokens = 512,
                             .prefix_cache = true,
                             .max_stop = 16,
                             .max_logit_bias = 1024,
                             .max_top_logprobs = 20,
                             .max_completions = 128};
    an_template_limits_default(&o->chat_template);
}

static an_status check_option(const char *name, double v, double lo, double hi, an_error *err)
{
    if (v >= lo && v <= hi) return AN_OK;
    return an_fail_param(err, AN_INVALID, name, "option %s is %g, it must be %g to %g", name, v, lo,
                         hi);
}

static an_status check_options(const an_engine_options *o, an_error *err)
{
    const struct {
        const char *name;
        double v, lo, hi;
    } range[] = {
        {"max_queue", o->max_queue, 1, 1e6},
        {"max_batch", o->max_batch, 1, AN_BATCH_MAX},
        {"max_running", o->max_running, 1, AN_RUN_MAX - AN_SEQ_MAX - AN_BATCH_MAX},
        {"max_n", o->max_n, 1, 1000},
        {"max_steps", o->max_steps, 1, 100000},
        {"max_width", o->max_width, 8, 65536},
        {"max_height", o->max_height, 8, 65536},
        {"max_prompt_bytes", o->max_prompt_bytes, 1, 1 << 24},
        {"max_chunks", o->max_chunks, 1, 64},
        {"max_jobs_kept", o->max_jobs_kept, 0, 1e6},
        {"job_ttl_s", o->job_ttl_s, 0, 1e9},
        {"text_cache", o->text_cache, 0, 1e5},
        {"vae_tile", o->vae_tile, 0, 65536},
        {"max_context", o->max_context, AN_KV_BLOCK, 1 << 24},
        {"max_tokens", o->max_tokens, 1, 1 << 24},
        {"max_sequences", o->max_sequences, 1, AN_SEQ_MAX - AN_BATCH_MAX},
        {"tick_tokens", o->tick_tokens, AN_KV_BLOCK, 8192},
        {"max_completions", o->max_completions, 1, 4096},
        {"max_stop", o->max_stop, 0, 1024},
        {"max_logit_bias", o->max_logit_bias, 0, 1 << 20},
        {"max_top_logprobs", o->max_top_logprobs, 0, AN_TOP_MOST},
    };
    for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
        an_status s = check_option(range[i].name, range[i].v, range[i].lo, range[i].hi, err);
        if (s) return s;
    }
    return AN_OK;
}

static an_status choose_dtype(an_engine *e, const char *name, const char *weights, an_error *err)
{
    if (!name || !*name || strcmp(name, "auto") == 0)
        e->dtype = an_device_best_dtype(e->unit[0].device);
    else if (strcmp(name, "f32") == 0)
        e->dtype = AN_F32;
    else if (strcmp(name, "bf16") == 0)
        e->dtype = AN_BF16;
    else
        return an_fail_param(err, AN_INVALID, "dtype", "dtype '%s': there are auto, f32, bf16",
                             name);
    e->weights = e->dtype;
    if (!weights || !*weights || strcmp(weights, "auto") == 0) return AN_OK;
    if (strcmp(weights, "fp8") != 0)
        return an_fail_param(err, AN_INVALID, "weights", "weights '%s': there are auto, fp8",
                             weights);
    e->weights = AN_F8_E4M3;
    return AN_OK;
}

/* Four fifths of the machine's memory, or nine tenths of the device's own: a GPU runs little else.
 * A device that is named twice has its memory once. */
static size_t usable_bytes(const an_engine *e, const an_device *d)
{
    const size_t own = an_device_memory_bytes(d);
    size_t times = 0;
    for (int i = 0; i < e->units; i++)
        times += strcmp(an_device_description(e->unit[i].device), an_device_description(d)) == 0;
    return (own ? own / 10 * 9 : an_machine_bytes() / 5 * 4) / times;
}

/* The caller's strings need not outlive the call. */
static an_status copy_options(an_engine *e, const an_engine_options *o, an_error *err)
{
    size_t n = 0;
    while (o->model_dirs && o->model_dirs[n]) n++;
    e->o = *o;
    e->o.device = (an_device_options){.threads = o->device.threads};
    e->dirs = calloc(n + 1, sizeof *e->dirs);
    bool ok = e->dirs != NULL;
    for (size_t i = 0; i < n && ok; i++) ok = (e->dirs[i] = an_strdup(o->model_dirs[i])) != NULL;
    e->o.model_dirs = (const char *const *)e->dirs;
    e->o.dtype = e->o.weights = NULL; /* what they came to is in e->dtype and e->weights */
    return ok ? AN_OK : an_fail(err, AN_NO_MEMORY, "no memory for the engine");
}

/* ---------------------------------------------------------------- birth */

static void init_locks(an_engine *e)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_mutex_init(&e->lock, NULL);
    pthread_mutex_init(&e->tok_lock, NULL);
    pthread_cond_init(&e->work, &a);
    pthread_cond_init(&e->idle, &a);
    pthread_condattr_destroy(&a);
}

static an_status open_devices(an_engine *e, const an_device_options *o, an_error *err)
{
    an_device *device[AN_UNITS_MAX];
    int n = 0;
    an_status s = an_devices_open(o, device, AN_UNITS_MAX, &n, err);
    if (s) return s;
    e->unit = calloc((size_t)n, sizeof *e->unit);
    if (!e->unit) {
        for (int i = 0; i < n; i++) an_device_close(device[i]);
        return an_fail(err, AN_NO_MEMORY, "no memory for the engine");
    }
    e->units = n;
    for (int i = 0; i < n; i++) {
        an_unit *u = &e->unit[i];
        u->e = e;
        u->index = i;
        u->device = device[i];
        u->ok = true;
        for (int k = 0; k < AN_KIND_COUNT; k++) pthread_cond_init(&u->track[k].go, NULL);
    }
    return AN_OK;
}

static an_status open_unit(an_unit *u, bool threads, an_error *err)
{
    u->memory_bytes = u->e->o.memory_bytes ? u->e->o.memory_bytes : usable_bytes(u->e, u->device);
    u->decode = an_decode_new();
    if (!u->decode) return an_fail(err, AN_NO_MEMORY, "no memory for the engine");
    return an_tracks_open(u, threads, err);
}

static void close_unit(an_unit *u)
{
    an_tracks_close(u);
    an_device_close(u->device);
    an_decode_free(u->decode);
    free(u->slot);
    for (int k = 0; k < AN_KIND_COUNT; k++) pthread_cond_destroy(&u->track[k].go);
}

static an_status open_all(an_engine *e, const an_engine_options *o, an_error *err)
{
    an_status s = copy_options(e, o, err);
    if (!s) s = open_devices(e, &o->device, err);
    if (!s) s = choose_dtype(e, o->dtype, o->weights, err);
    for (int i = 0; i < e->units && !s; i++) s = open_unit(&e->unit[i], !o->scan_only, err);
    if (!s) s = an_slots_scan(e, err);
    if (s) return s;
    e->program_bytes = an_resident_bytes();
    if (o->scan_only) return AN_OK;
    int r = pthread_create(&e->thread, NULL, an_device_thread, e);
    if (r) return an_fail(err, AN_INTERNAL, "device thread: %s", strerror(r));
    e->thread_runs = true;
    return AN_OK;
}

an_status an_engine_new(const an_engine_options *o, an_engine **out, an_error *err)
{
    *out = NULL;
    an_status s = check_options(o, err);
    if (s) return s;
    an_engine *e = calloc(1, sizeof *e);
    if (!e) return an_fail(err, AN_NO_MEMORY, "no memory for the engine");
    init_locks(e);
    e->queue.max = o->max_queue;
    e->finished_tail = &e->finished;
    an_hist_init(&e->queue_s);
    an_hist_init_ticks(&e->step_s);
    an_hist_init(&e->request_s);
    an_hist_init(&e->first_preview_s);
    an_hist_init(&e->first_token_s);
    an_hist_init_ticks(&e->token_s);
    an_hist_init_counts(&e->tick_tokens);
    for (int i = 0; i < AN_STAGE_COUNT; i++) an_hist_init_counts(&e->batch_rows[i]);
    s = open_all(e, o, err);
    if (s) {
        an_engine_free(e);
        return s;
    }
    *out = e;
    return AN_OK;
}

bool an_engine_ready(const an_engine *e)
{
    an_engine *w = (an_engine *)(uintptr_t)e;
    pthread_mutex_lock(&w->lock);
    bool ready = e->ready;
    pthread_mutex_unlock(&w->lock);
    return ready;
}

const an_engine_options *an_engine_limits(const an_engine *e)
{
    return &e->o;
}

/* ---------------------------------------------------------------- death */

void an_engine_wake(an_engine *e)
{
    e->woken = true;
    pthread_cond_signal(&e->work);
}

void an_engine_drain(an_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    pthread_mutex_unlock(&e->lock);
}

void an_engine_stop(an_engine *e, double grace_s)
{
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    bool runs = e->thread_runs;
    e->thread_runs = false;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (!(grace_s > 0)) grace_s = 0;
    if (grace_s > 1e8) grace_s = 1e8;
    double whole = (double)(time_t)grace_s;
    until.tv_sec += (time_t)whole;
    until.tv_nsec += (long)((grace_s - whole) * 1e9);
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    while (runs && e->queued + e->running > 0)
        if (pthread_cond_timedwait(&e->idle, &e->lock, &until) == ETIMEDOUT) break;
    e->cancel_all = true;
    e->quit = true;
    an_engine_wake(e);
    pthread_mutex_unlock(&e->lock);
    if (runs) pthread_join(e->thread, NULL);
}

void an_engine_free(an_engine *e)
{
    if (!e) return;
    an_engine_stop(e, 0);
    while (e->jobs) an_job_drop(e, e->jobs);
    an_slots_free(e);
    for (int i = 0; i < e->units; i++) close_unit(&e->unit[i]);
    free(e->unit);
    an_clients_free(&e->clients);
    for (int i = 0; i < AN_SAMPLERS; i++) an_sampler_room_free(&e->sampler[i]);
    free(e->price);
    for (char **d = e->dirs; d && *d; d++) free(*d);
    free(e->dirs);
    pthread_cond_destroy(&e->work);
    pthread_cond_destroy(&e->idle);
    pthread_mutex_destroy(&e->tok_lock);
    pthread_mutex_destroy(&e->lock);
    free(e);
}
