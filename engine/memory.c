/* memory.c: what a tick costs before it runs, how large the lane's arena must be, and the device
 * blocks of pictures. Nothing in a tick allocates device memory: it is all taken here, before. */
#include "state.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_PRICES 256
#define ALIGN64(n) (((n) + 63) & ~(size_t)63)

/* ---------------------------------------------------------------- the machine */

static size_t read_number(const char *path)
{
    FILE *f = fopen(path, "re");
    unsigned long long v = 0;
    if (!f) return 0;
    if (fscanf(f, "%llu", &v) != 1) v = 0; /* "max" */
    fclose(f);
    return (size_t)v;
}

size_t an_machine_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t ram = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : (size_t)1 << 30;
    size_t group = read_number("/sys/fs/cgroup/memory.max");
    return group > 0 && group < ram ? group : ram;
}

size_t an_resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long long size, resident = 0;
    if (!f) return 0;
    if (fscanf(f, "%llu %llu", &size, &resident) != 2) resident = 0;
    fclose(f);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* ---------------------------------------------------------------- prices */

static an_price *find_price(const an_engine *e, const an_files *f, an_stage stage, int64_t h,
                            int64_t w, int64_t tokens)
{
    for (int i = 0; i < e->prices; i++) {
        an_price *p = &e->price[i];
        if (p->files == f && p->stage == stage && p->h == h && p->w == w && p->tokens == tokens)
            return p;
    }
    return NULL;
}

bool an_price_known(const an_engine *e, const an_files *f, an_stage stage, int64_t h, int64_t w,
                    int64_t tokens, an_price *out)
{
    const an_price *p = find_price(e, f, stage, h, w, tokens);
    if (p) *out = *p;
    return p != NULL;
}

/* A place in the table: a new one, or that of the price not used for longest. */
static an_price *price_place(an_engine *e)
{
    if (!e->price) e->price = calloc(MAX_PRICES, sizeof *e->price);
    if (!e->price) return NULL;
    if (e->prices < MAX_PRICES) return &e->price[e->prices++];
    an_price *oldest = &e->price[0];
    for (int i = 1; i < e->prices; i++)
        if (e->price[i].used < oldest->used) oldest = &e->price[i];
    return oldest;
}

static an_status cost_of(an_slot *s, const an_price *p, int rows, an_cost *out, an_error *err)
{
    an_status st = an_model_cost(s->model, p->stage, rows, p->h, p->w, p->tokens, out, err);
    if (st)
        return an_fail_prefix(err, st, "pricing %s of '%s'", an_stage_name(p->stage),
                              s->files->entry.id);
    return AN_OK;
}

an_status an_price_get(an_engine *e, an_slot *s, an_stage stage, int64_t h, int64_t w,
                       int64_t tokens, an_price *out, an_error *err)
{
    pthread_mutex_lock(&e->lock);
    an_price *p = find_price(e, s->files, stage, h, w, tokens);
    if (p) {
        p->used = ++e->price_clock;
        *out = *p;
        out->slot = s;
    }
    pthread_mutex_unlock(&e->lock);
    if (p) return AN_OK;
    *out =
        (an_price){.files = s->files, .slot = s, .stage = stage, .h = h, .w = w, .tokens = tokens};
    an_cost one, two;
    an_status st = cost_of(s, out, 1, &one, err);
    if (!st) st = cost_of(s, out, 2, &two, err);
    if (st) return st;
    out->row_flops = one.flops;
    out->row_bytes = one.scratch_bytes;
    out->pair_bytes = two.scratch_bytes;
    pthread_mutex_lock(&e->lock);
    out->used = ++e->price_clock;
    if (!find_price(e, s->files, stage, h, w, tokens)) {
        an_price *place = price_place(e);
        if (place) *place = *out;
    }
    pthread_mutex_unlock(&e->lock);
    return AN_OK;
}

/* Moving averages: fast enough to follow a machine that gets busy, slow enough to be calm. */
void an_price_measured(an_engine *e, const an_price *key, double seconds, int rows)
{
    if (rows < 1) return;
    double row = seconds / rows, flops = key->row_flops * rows;
    if (flops > 0) {
        double rate = seconds / flops;
        e->seconds_per_flop =
            e->seconds_per_flop > 0 ? 0.9 * e->seconds_per_flop + 0.1 * rate : rate;
    }
    an_price *p = find_price(e, key->files, key->stage, key->h, key->w, key->tokens);
    if (!p) return;
    p->row_s = p->row_s > 0 ? 0.8 * p->row_s + 0.2 * row : row;
}

/* Scratch grows with the rows, though not exactly in proportion: bisection, remembered until the
 * arena changes. */
int an_price_rows(an_engine *e, an_price *p, int most)
{
    size_t arena = an_track_of(p->slot)->arena;
    if (p->rows_fit > 0 && p->fit_arena == arena) return p->rows_fit < most ? p->rows_fit : most;
    int lo = 1, hi = 2 * e->o.max_batch;
    an_slot *s = p->slot;
    an_cost c;
    if (!cost_of(s, p, hi, &c, NULL) && c.scratch_bytes <= arena) lo = hi;
    while (lo + 1 < hi) {
        int mid = (lo + hi) / 2;
        bool fits = !cost_of(s, p, mid, &c, NULL) && c.scratch_bytes <= arena;
        if (fits)
            lo = mid;
        else
            hi = mid;
    }
    p->rows_fit = lo;
    p->fit_arena = arena;
    pthread_mutex_lock(&e->lock);
    an_price *kept = find_price(e, p->files, p->stage, p->h, p->w, p->tokens);
    if (kept) {
        kept->rows_fit = lo;
        kept->fit_arena = arena;
    }
    pthread_mutex_unlock(&e->lock);
    return lo < most ? lo : most;
}

/* The sampler step's own scratch (thresholding sorts a copy), where a network is so small that it
 * counts: it runs after the network, in the same arena. */
static size_t sampler_scratch(const an_model_info *i, int64_t h, int64_t w, int pictures)
{
    return (size_t)pictures * 4 * ALIGN64((size_t)(h * w * i->latent_channels) * sizeof(float));
}

an_status an_picture_scratch(an_engine *e, an_slot *s, const an_job *j, size_t *out, an_error *err)
{
    an_price text, denoise, decode;
    an_status st = an_price_get(e, s, AN_STAGE_TEXT, 0, 0, j->chunks, &text, err);
    if (!st) st = an_price_get(e, s, AN_STAGE_DENOISE, j->h, j->w, an_job_tokens(j), &denoise, err);
    if (!st) st = an_price_get(e, s, AN_STAGE_DECODE, j->h, j->w, 0, &decode, err);
    if (st) return st;
    size_t step = s->files->entry.info.guidance_embed ? denoise.row_bytes : denoise.pair_bytes;
    if (step < text.row_bytes) step = text.row_bytes;
    *out = step > decode.row_bytes ? step : decode.row_bytes;
    *out += sampler_scratch(&s->files->entry.info, j->h, j->w, 1);
    return AN_OK;
}

/* ---------------------------------------------------------------- the arena */

static an_status resize(an_unit *u, an_track *k, size_t bytes, an_error *err)
{
    const size_t old = k->arena;
    an_log(AN_LOG_INFO, "working memory %s from %.1f to %.1f MiB",
           bytes > old ? "grows" : "shrinks", (double)old / 1048576, (double)bytes / 1048576);
    an_status s = an_lane_resize(k->lane, bytes, err);
    if (s) bytes = an_lane_resize(k->lane, old, NULL) == AN_OK ? old : 0;
    k->arena = bytes;
    pthread_mutex_lock(&u->e->lock);
    u->arena_bytes = u->arena_bytes - old + bytes;
    pthread_mutex_unlock(&u->e->lock);
    return s;
}

size_t an_budget_left(const an_unit *u, const an_slot *s)
{
    const size_t others = u->arena_bytes - an_track_of(s)->arena;
    size_t used = u->weight_bytes + u->block_bytes + u->kv_bytes + others;
    return u->memory_bytes > used ? u->memory_bytes - used : 0;
}

an_status an_arena_reach(an_unit *u, const an_slot *s, size_t bytes, an_error *err)
{
    an_track *k = an_track_of(s);
    if (bytes <= k->arena) return AN_OK;
    const size_t left = an_budget_left(u, s);
    if (bytes > left)
        return an_fail(err, AN_TOO_LARGE,
                       "%.1f MiB of working memory are needed, %.1f MiB of the %.1f MiB limit are "
                       "left beside weights and pictures (--memory)",
                       (double)bytes / 1048576, (double)left / 1048576,
                       (double)u->memory_bytes / 1048576);
    return resize(u, k, bytes, err);
}

void an_arena_relax(an_unit *u)
{
    for (int i = 0; i < u->tracks; i++) {
        an_track *k = &u->track[i];
        if (k->arena > k->arena_base) resize(u, k, k->arena_base, NULL);
    }
}

/* ---------------------------------------------------------------- the plan of a model */

/* x, saved, histories, noise, two predictions, the pixels; and two latents' staging on the host. */
size_t an_picture_state(const an_model_info *i, int64_t h, int64_t w)
{
    size_t latent = ALIGN64((size_t)(h * w * i->latent_channels) * sizeof(float));
    size_t pixels = (size_t)(h * w) * (size_t)i->factor * (size_t)i->factor * 3;
    return (3 + AN_HISTORY + 2 + 2) * latent + ALIGN64(pixels);
}

an_status an_plan_model(an_unit *u, an_slot *s, an_plan *out, an_error *err)
{
    const an_model_info *i = &s->files->entry.info;
    int64_t h = i->height / i->factor, w = i->width / i->factor;
    an_price denoise, decode, text;
    an_cost c, t;
    an_status st = an_price_get(u->e, s, AN_STAGE_DENOISE, h, w, i->chunk_len, &denoise, err);
    if (!st) st = an_price_get(u->e, s, AN_STAGE_DECODE, h, w, 0, &decode, err);
    if (!st) st = an_price_get(u->e, s, AN_STAGE_TEXT, 0, 0, 1, &text, err);
    if (!st) st = cost_of(s, &text, u->e->o.max_batch, &t, err);
    if (st) return st;
    size_t left = an_budget_left(u, s), state = an_picture_state(i, h, w);
    size_t floor_bytes = decode.row_bytes > t.scratch_bytes ? decode.row_bytes : t.scratch_bytes;
    int branches = i->guidance_embed ? 1 : 2;
    for (out->batch = u->e->o.max_batch;; out->batch = (out->batch + 1) / 2) {
        st = cost_of(s, &denoise, out->batch * branches, &c, err);
        if (st) return st;
        out->arena = c.scratch_bytes > floor_bytes ? c.scratch_bytes : floor_bytes;
        out->arena += sampler_scratch(i, h, w, out->batch);
        out->states = (size_t)(u->e->o.max_running + u->e->o.max_batch) * state;
        if (out->arena <= left || out->batch == 1) break;
    }
    if (out->arena > left)
        return an_fail(err, AN_NO_MEMORY,
                       "one picture of %dx%d needs %.1f MiB of working memory, %.1f MiB of the "
                       "%.1f MiB limit are left beside the weights (--memory)",
                       i->width, i->height, (double)out->arena / 1048576, (double)left / 1048576,
                       (double)u->memory_bytes / 1048576);
    if (out->states > left - out->arena) out->states = left - out->arena;
    out->decode_rows = 1;
    while (out->decode_rows < u->e->o.max_batch &&
           !cost_of(s, &decode, out->decode_rows + 1, &c, NULL) && c.scratch_bytes <= out->arena)
        out->decode_rows++;
    return AN_OK;
}

/* ---------------------------------------------------------------- blocks */

static void release(an_unit *u, int i)
{
    an_block b = u->pool[i];
    u->pool_count--;
    memmove(&u->pool[i], &u->pool[i + 1], (size_t)(u->pool_count - i) * sizeof b);
    an_device_free(u->device, b.data);
    pthread_mutex_lock(&u->e->lock);
    u->block_bytes -= b.bytes;
    pthread_mutex_unlock(&u->e->lock);
}

static size_t pool_bytes(const an_unit *u)
{
    size_t n = 0;
    for (int i = 0; i < u->pool_count; i++) n += u->pool[i].bytes;
    return n;
}

an_status an_block_take(an_unit *u, size_t bytes, an_block *out, an_error *err)
{
    *out = (an_block){0};
    for (int i = u->pool_count - 1; i >= 0; i--) {
        if (u->pool[i].bytes != bytes) continue;
        *out = u->pool[i];
        u->pool_count--;
        memmove(&u->pool[i], &u->pool[i + 1], (size_t)(u->pool_count - i) * sizeof *out);
        return AN_OK;
    }
    size_t fixed = u->weight_bytes + u->arena_bytes + u->kv_bytes;
    while (u->pool_count > 0 && fixed + u->block_bytes + bytes > u->memory_bytes) release(u, 0);
    if (fixed + u->block_bytes + bytes > u->memory_bytes)
        return an_fail(err, AN_NO_MEMORY, "%.1f MiB more exceed the limit of %.1f MiB (--memory)",
                       (double)bytes / 1048576, (double)u->memory_bytes / 1048576);
    an_status s = an_device_alloc(u->device, bytes, &out->data, err);
    if (s) return s;
    out->bytes = bytes;
    pthread_mutex_lock(&u->e->lock);
    u->block_bytes += bytes;
    pthread_mutex_unlock(&u->e->lock);
    return AN_OK;
}

void an_block_give(an_unit *u, an_block *b)
{
    if (!b->data) return;
    if (u->pool_count == AN_POOL) release(u, 0);
    u->pool[u->pool_count++] = *b;
    *b = (an_block){0};
    while (u->pool_count > 0 && pool_bytes(u) > u->block_keep) release(u, 0);
}

void an_blocks_free(an_unit *u)
{
    while (u->pool_count > 0) release(u, 0);
}
