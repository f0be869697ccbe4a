/* load.c: weights in and out of the device. A model is loaded when a job first needs it; when the
 * budget is short, the idle model that was not used for longest goes first. Every load says what
 * memory it plans with. */
#include "state.h"

#include <stdio.h>
#include <unistd.h>

static double mib(size_t bytes)
{
    return (double)bytes / 1048576;
}

/* ---------------------------------------------------------------- out */

/* A lane's arena serves every model of its; the pool keeps what the largest may have begun. */
static void plan_all(an_unit *u)
{
    u->block_keep = 0;
    for (int i = 0; i < u->tracks; i++) u->track[i].arena_base = 0;
    for (int i = 0; i < u->e->models; i++) {
        an_track *k = an_track_of(&u->slot[i]);
        if (u->slot[i].arena > k->arena_base) k->arena_base = u->slot[i].arena;
        if (u->slot[i].states > u->block_keep) u->block_keep = u->slot[i].states;
    }
}

/* Lock. What is shown of the model is the sum over all devices. */
static void tell_loaded(an_slot *s, bool loaded)
{
    if (s->loaded == loaded) return;
    s->loaded = loaded;
    s->files->entry.devices += loaded ? 1 : -1;
    s->files->entry.loaded = s->files->entry.devices > 0;
    s->unit->e->model_changes++;
}

static void unload(an_unit *u, an_slot *s)
{
    an_encodings_drop(u, s);
    an_language_close(u, s);
    size_t bytes = an_model_weight_bytes(s->model);
    an_model *m = s->model;
    pthread_mutex_lock(&u->e->lock);
    s->model = NULL;
    tell_loaded(s, false);
    s->device_bytes = 0;
    s->files->entry.device_bytes -= bytes;
    u->weight_bytes -= bytes;
    pthread_mutex_unlock(&u->e->lock);
    an_model_free(m);
    s->arena = s->states = 0;
    plan_all(u);
    an_log(AN_LOG_INFO, "%s: unloaded, %.1f MiB free again", s->files->entry.id, mib(bytes));
}

/* The idle model that was not used for longest; false if all are in use. A submit that prices a
 * model pins it for a moment, so that pins are read and the model taken away under one lock. */
bool an_slots_make_way(an_unit *u, const an_slot *keep)
{
    an_slot *victim = NULL;
    pthread_mutex_lock(&u->e->lock);
    for (int i = 0; i < u->e->models; i++) {
        an_slot *s = &u->slot[i];
        if (s == keep || !s->model || s->pins > 0) continue;
        if (!victim || s->last_used < victim->last_used) victim = s;
    }
    if (victim) victim->pins = -1; /* no submit prices it any more */
    pthread_mutex_unlock(&u->e->lock);
    if (!victim) return false;
    unload(u, victim);
    pthread_mutex_lock(&u->e->lock);
    victim->pins = 0;
    pthread_mutex_unlock(&u->e->lock);
    return true;
}

void an_slots_unload(an_unit *u)
{
    /* A request that came just before the end may still be pricing with a model. */
    for (int i = 0; i < u->e->models; i++) {
        pthread_mutex_lock(&u->e->lock);
        while (u->slot[i].pins > 0) {
            pthread_mutex_unlock(&u->e->lock);
            usleep(1000);
            pthread_mutex_lock(&u->e->lock);
        }
        tell_loaded(&u->slot[i], false); /* from here on nobody else begins */
        pthread_mutex_unlock(&u->e->lock);
    }
    for (int i = 0; i < u->e->models; i++)
        if (u->slot[i].model) unload(u, &u->slot[i]);
}

/* ---------------------------------------------------------------- in */

/* Requests are checked, and buffers sized, by what the scan at start said; the files may have been
 * replaced since. Defaults of requests and what is only shown may differ. */
static an_status same_model(const an_slot *s, const an_model_info *now, an_error *err)
{
    const an_model_info *was = &s->files->entry.info;
    const struct {
        const char *what;
        int64_t was, now;
    } same[] = {
#define SAME(field) {#field, (int64_t)was->field, (int64_t)now->field}
        SAME(kind),          SAME(factor),      SAME(latent_channels), SAME(size_multiple),
        SAME(text_encoders), SAME(chunk_len),   SAME(context_dim),     SAME(pooled_dim),
        SAME(uses_time_ids), SAME(layers_text), SAME(guidance_embed),  SAME(zero_negative),
        SAME(vocab),         SAME(layers),      SAME(kv_heads),        SAME(head_dim),
        SAME(context_len),
#undef SAME
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (same[i].was != same[i].now)
            return an_fail_param(err, AN_INVALID, "model",
                                 "the files of %s are of another model than at start: %s was "
                                 "%lld and is %lld; restart the server to serve it",
                                 s->files->entry.path, same[i].what, (long long)same[i].was,
                                 (long long)same[i].now);
    return AN_OK;
}

static an_status read_weights(an_unit *u, an_slot *s, an_error *err)
{
    an_checkpoint *c = NULL;
    an_model *m = NULL;
    an_status st = an_checkpoint_open(s->files->entry.path, &c, err);
    if (!st) st = an_model_load(u->device, c, u->e->dtype, u->e->weights, NULL, NULL, &m, err);
    an_checkpoint_close(c);
    if (!st) st = same_model(s, an_model_describe(m), err);
    if (!st && s->files->entry.info.kind == AN_KIND_IMAGE)
        st = an_model_set_vae_tile(m, u->e->o.vae_tile, err);
    if (st) {
        an_model_free(m);
        return st;
    }
    pthread_mutex_lock(&u->e->lock);
    s->model = m;
    s->device_bytes = an_model_weight_bytes(m);
    s->files->entry.device_bytes += s->device_bytes;
    u->weight_bytes += s->device_bytes;
    pthread_mutex_unlock(&u->e->lock);
    return AN_OK;
}

static size_t arenas_planned(const an_unit *u)
{
    size_t n = 0;
    for (int i = 0; i < u->tracks; i++) n += u->track[i].arena_base;
    return n;
}

/* What is given back for the model: working memory that no loaded one plans with (a lane keeps its
 * own when its last model goes), then an idle model. False if all is in use. */
static bool give_way(an_unit *u, const an_slot *s)
{
    const size_t before = u->arena_bytes;
    if (before > arenas_planned(u) && u->run_count == 0) an_arena_relax(u);
    return u->arena_bytes < before || an_slots_make_way(u, s);
}

static an_status make_room(an_unit *u, const an_slot *s, size_t bytes, an_error *err)
{
    do {
        size_t used = u->weight_bytes + u->block_bytes + u->kv_bytes + u->arena_bytes;
        if (used <= u->memory_bytes && bytes <= u->memory_bytes - used) return AN_OK;
    } while (give_way(u, s));
    return an_fail(err, AN_NO_MEMORY,
                   "model '%s' needs %.1f MiB, %.1f MiB of the %.1f MiB limit are in use "
                   "(--memory)",
                   s->files->entry.id, mib(bytes),
                   mib(u->weight_bytes + u->block_bytes + u->kv_bytes + u->arena_bytes),
                   mib(u->memory_bytes));
}

/* Encodings of prompts: the cache is one, for all models. */
static size_t prompts_plan(const an_unit *u)
{
    size_t most = 0;
    for (int i = 0; i < u->e->models; i++) {
        if (!u->slot[i].model) continue;
        size_t one = an_encoding_plan(u, &u->slot[i].files->entry.info);
        if (one > most) most = one;
    }
    return (size_t)u->e->o.text_cache * most;
}

/* What tokens are drawn with, on the host: a room a thread, for the largest vocabulary; and a
 * grammar's mask a thread, a model. */
static size_t samplers_plan(const an_unit *u, int *threads)
{
    size_t most = 0, masks = 0;
    *threads = an_device_threads(u->device);
    if (*threads > AN_SAMPLERS) *threads = AN_SAMPLERS;
    for (int i = 0; i < u->e->models; i++) {
        const an_model_info *info = &u->slot[i].files->entry.info;
        if (!u->slot[i].model || info->kind != AN_KIND_TEXT) continue;
        const size_t room = an_sampler_room_bytes(info->vocab);
        if (room > most) most = room;
        masks += (size_t)AN_SAMPLERS * (size_t)info->vocab;
    }
    return (size_t)*threads * most + masks;
}

static void print_pictures(const an_unit *u, const an_slot *s, const an_plan *p)
{
    const an_model_info *i = &s->files->entry.info;
    const char *id = s->files->entry.id;
    an_log(AN_LOG_INFO, "%s:   activations   %9.1f MiB  %d pictures of %dx%d at once, %d decoding",
           id, mib(an_track_of(s)->arena_base), p->batch, i->width, i->height, p->decode_rows);
    an_log(AN_LOG_INFO, "%s:   states        %9.1f MiB  %d pictures begun", id, mib(u->block_keep),
           u->e->o.max_running + u->e->o.max_batch);
    an_log(AN_LOG_INFO, "%s:   prompts       %9.1f MiB  %d encodings kept", id,
           mib(prompts_plan(u)), u->e->o.text_cache);
}

static void print_text(const an_unit *u, const an_slot *s)
{
    const char *id = s->files->entry.id;
    const an_language *m = &s->lm;
    size_t pool = (size_t)an_pages_count(m->pages) * an_model_kv_block_bytes(s->model);
    an_log(AN_LOG_INFO, "%s:   activations   %9.1f MiB  %d tokens a tick", id,
           mib(an_track_of(s)->arena_base), m->tick_tokens);
    an_log(AN_LOG_INFO, "%s:   keys, values  %9.1f MiB  %lld blocks of %d tokens; context %lld", id,
           mib(pool), (long long)an_pages_count(m->pages), AN_KV_BLOCK, (long long)m->positions);
    an_log(AN_LOG_INFO, "%s:   logits        %9.1f MiB  %d rows", id, mib(m->bytes - pool),
           m->wants);
    int threads;
    const size_t samplers = samplers_plan(u, &threads);
    an_log(AN_LOG_INFO, "%s:   samplers      %9.1f MiB  %d threads, and masks of grammars", id,
           mib(samplers), threads);
}

/* What the process will hold when it is busy: said in lines a person can read, kept for /metrics.
 */
static void print_plan(an_unit *u, const an_slot *s, const an_plan *p, double seconds)
{
    const an_model_info *i = &s->files->entry.info;
    const char *id = s->files->entry.id;
    int threads;
    size_t weights = s->device_bytes, others = u->weight_bytes - weights;
    size_t total = u->e->program_bytes + u->weight_bytes + u->kv_bytes + arenas_planned(u) +
                   u->block_keep + prompts_plan(u) + samplers_plan(u, &threads);
    size_t results = (size_t)u->e->o.max_jobs_kept * (size_t)i->width * (size_t)i->height * 3;
    bool text = i->kind == AN_KIND_TEXT;
    if (text || results > u->e->o.max_result_bytes) results = u->e->o.max_result_bytes;
    an_log(AN_LOG_INFO, "%s: %s, %s%s, loaded in %.2f s. Memory plan:", id, i->family,
           an_dtype_name(u->e->dtype), u->e->weights == u->e->dtype ? "" : ", weights in FP8",
           seconds);
    an_log(AN_LOG_INFO, "%s:   program       %9.1f MiB", id, mib(u->e->program_bytes));
    an_log(AN_LOG_INFO, "%s:   weights       %9.1f MiB", id, mib(weights));
    if (others) an_log(AN_LOG_INFO, "%s:   other models  %9.1f MiB", id, mib(others));
    if (text)
        print_text(u, s);
    else
        print_pictures(u, s, p);
    an_log(AN_LOG_INFO,
           "%s:   total         %9.1f MiB  of %.1f MiB; finished %s are kept in "
           "up to %.1f MiB beside it",
           id, mib(total), mib(u->memory_bytes), text ? "jobs" : "pictures", mib(results));
    pthread_mutex_lock(&u->e->lock);
    u->planned_bytes = total;
    pthread_mutex_unlock(&u->e->lock);
}

static an_status settle(an_unit *u, an_slot *s, double seconds, an_error *err)
{
    an_plan plan;
    bool text = s->files->entry.info.kind == AN_KIND_TEXT;
    an_status st = text ? an_language_open(u, s, &plan, err) : an_plan_model(u, s, &plan, err);
    if (!st) st = an_arena_reach(u, s, plan.arena, err);
    if (st && text) an_language_close(u, s);
    if (st) return st;
    s->arena = plan.arena;
    s->states = plan.states;
    plan_all(u);
    print_plan(u, s, &plan, seconds);
    return AN_OK;
}

/* A GPU keeps matrices that --weights fp8 rounds as they are then, a byte a number. */
size_t an_weights_guess(const an_unit *u, const an_files *f)
{
    const an_engine *e = u->e;
    const bool halved =
        e->weights == AN_F8_E4M3 && e->dtype == AN_BF16 && an_device_memory_bytes(u->device) > 0;
    return halved ? f->entry.info.weight_bytes_file / 2 : f->entry.info.weight_bytes_file;
}

an_status an_slot_load(an_unit *u, an_slot *s, an_error *err)
{
    s->last_used = an_now_s();
    if (s->model) return AN_OK;
    double start = an_now_s();
    /* What lies on disk is a guess of what the device holds; the truth is checked after. */
    an_status st = make_room(u, s, an_weights_guess(u, s->files), err);
    if (!st) st = read_weights(u, s, err);
    /* The budget may be more than a GPU that others use too has. */
    while (st == AN_NO_MEMORY && !s->model && give_way(u, s)) st = read_weights(u, s, err);
    if (!st) st = make_room(u, s, 0, err);
    while (!st) {
        an_error local = {0};
        st = settle(u, s, an_now_s() - start, &local);
        if ((st != AN_NO_MEMORY && st != AN_TOO_LARGE) || !give_way(u, s)) {
            if (st && err) *err = local;
            break;
        }
        st = AN_OK;
    }
    if (st) {
        if (s->model) unload(u, s);
        return an_fail_prefix(err, st, "loading model '%s'", s->files->entry.id);
    }
    const an_vocab *vocab = NULL; /* opened now, so that the first request does not wait for it */
    if (s->files->entry.info.kind == AN_KIND_IMAGE)
        an_preview_fit(u, s);
    else
        st = an_files_vocab(u->e, s->files, &vocab, err);
    if (!st && s->files->entry.info.kind == AN_KIND_TEXT && vocab)
        st = an_grammar_prepare(vocab, err);
    if (st) {
        unload(u, s);
        return an_fail_prefix(err, st, "loading model '%s'", s->files->entry.id);
    }
    pthread_mutex_lock(&u->e->lock);
    tell_loaded(s, true);
    pthread_mutex_unlock(&u->e->lock);
    return AN_OK;
}

an_status an_room_for(an_unit *u, const an_slot *s, size_t scratch, an_error *err)
{
    for (;;) {
        an_status st = an_arena_reach(u, s, scratch, err);
        if (!st || !give_way(u, s)) return st;
    }
}

/* A file that is broken stays broken. One that changed while it was read is whole again soon, and a
 * budget that is short today is not the model's fault: the next request tries anew. */
void an_files_broken(an_engine *e, an_files *f, const an_error *why)
{
    an_log(AN_LOG_ERROR, "%s", why->message);
    if (why->status != AN_INVALID && why->status != AN_NOT_FOUND) return;
    pthread_mutex_lock(&e->lock);
    e->model_changes++;
    f->entry.ok = false;
    an_utf8_copy(f->entry.error, sizeof f->entry.error, why->message);
    if (f->entry.is_default) {
        f->entry.is_default = false;
        for (int i = 0; i < e->models; i++) {
            an_model_entry *m = &e->files[i].entry;
            if (!m->ok || m->info.kind != f->entry.info.kind) continue;
            m->is_default = true;
            break;
        }
    }
    pthread_mutex_unlock(&e->lock);
}

void an_slots_load_defaults(an_unit *u)
{
    for (int i = 0; i < u->e->models; i++) {
        an_slot *s = &u->slot[i];
        if (!s->files->entry.is_default)
            continue; /* a broken one hands the title on, further down */
        an_error err = {0};
        an_status st = an_slot_load(u, s, &err);
        if (st == AN_DEVICE) an_device_failed(u, &err);
        if (st) an_files_broken(u->e, s->files, &err);
    }
}
