/* language.c: a language model comes into service: its pool of keys and values, the prices of its
 * ticks, the buffers of its logits; and what is read from its files once: tokenizer and chat
 * template.
 */
#include "state.h"

#include <stdio.h>
#include <stdlib.h>

#define LOGITS_MOST ((size_t)64 << 20) /* bytes of logits of one tick */
#define TICK_LEAST  16                 /* tokens */

/* ---------------------------------------------------------------- sizes */

static int64_t context_of(const an_engine *e, const an_files *f)
{
    int context = f->entry.info.context_len;
    return context > 0 && context < e->o.max_context ? context : e->o.max_context;
}

static int64_t pages_for(int64_t positions)
{
    return (positions + AN_KV_BLOCK - 1) / AN_KV_BLOCK;
}

/* As asked for; else an eighth of the memory, though one sequence of full length if that is more,
 * and never more than half of what is left. No more than could be used either. */
static int64_t pool_pages(const an_unit *u, const an_slot *s, size_t page_bytes)
{
    int64_t one = pages_for(context_of(u->e, s->files));
    int64_t most = one * (u->e->o.max_sequences + u->e->o.max_batch);
    int64_t half = (int64_t)(an_budget_left(u, s) / 2 / page_bytes);
    size_t bytes = u->e->o.kv_bytes ? u->e->o.kv_bytes : u->memory_bytes / 8;
    int64_t pages = (int64_t)(bytes / page_bytes);
    if (!u->e->o.kv_bytes && pages < one) pages = one;
    if (!u->e->o.kv_bytes && pages > half) pages = half;
    if (pages > most) pages = most;
    if (pages > INT32_MAX) pages = INT32_MAX;
    return pages > 1 ? pages : 1;
}

int64_t an_language_positions(an_engine *e, const an_files *f)
{
    const an_model_info *i = &f->entry.info;
    int64_t known = 0; /* the most of any device: placing looks for one that has them */
    pthread_mutex_lock(&e->lock);
    for (int k = 0; k < e->units; k++) {
        const int64_t has = e->unit[k].slot[f->index].lm.positions;
        if (has > known) known = has;
    }
    pthread_mutex_unlock(&e->lock);
    if (known) return known;
    size_t element = e->dtype == AN_F32 ? 4 : 2;
    size_t page =
        2 * element * AN_KV_BLOCK * (size_t)i->layers * (size_t)i->kv_heads * (size_t)i->head_dim;
    int64_t context = context_of(e, f);
    if (page == 0 || !e->o.kv_bytes) return context;
    int64_t pool = (int64_t)(e->o.kv_bytes / page) * AN_KV_BLOCK;
    return pool < context ? pool : context;
}

/* ---------------------------------------------------------------- prices */

static an_status cost_of(const an_slot *s, int rows, int tokens, int want, int64_t context,
                         an_cost *out, an_error *err)
{
    an_status st = an_lm_cost(s->model, rows, tokens, want, context, out, err);
    return st ? an_fail_prefix(err, st, "pricing a tick of '%s'", s->files->entry.id) : AN_OK;
}

/* Every layer may look at every key; a window makes long contexts cheaper than this says. */
static an_status find_prices(an_unit *u, an_slot *s, int64_t positions, an_error *err)
{
    an_cost near, far, want;
    int64_t from = positions < AN_KV_BLOCK ? positions : AN_KV_BLOCK;
    an_status st = cost_of(s, 1, 1, 0, from, &near, err);
    if (!st) st = cost_of(s, 1, 1, 0, positions, &far, err);
    if (!st) st = cost_of(s, 1, 1, 1, from, &want, err);
    if (st) return st;
    an_lm_price p;
    p.key = positions > from ? (far.flops - near.flops) / (double)(positions - from) : 0;
    p.token = near.flops - p.key * (double)from;
    p.want = want.flops - near.flops;
    pthread_mutex_lock(&u->e->lock); /* whoever asks when its job will be done reads it */
    s->lm.price = p;
    pthread_mutex_unlock(&u->e->lock);
    return AN_OK;
}

/* The device draws tokens. */
static bool samples(const an_unit *u)
{
    return an_device_samples(u->device) && !u->e->o.host_sampling;
}

/* Scratch of drawing `rows` tokens on the device, with all the edits and masks there may be: each
 * row has its part of the edits, and what uneven parts may lose to alignment. */
static an_status sample_scratch(an_unit *u, int rows, int vocab, size_t *out, an_error *err)
{
    *out = 0;
    if (!samples(u) || rows < 1) return AN_OK;
    const uint32_t unread = 0;
    int edits = AN_EDITS_MOST / rows + 4;
    an_sample_row *row = calloc((size_t)rows, sizeof *row);
    an_lane *l = NULL;
    an_status st = row ? an_lane_open_counting(u->device, &l, err)
                       : an_fail(err, AN_NO_MEMORY, "no memory to plan the drawing of tokens");
    for (int i = 0; i < rows && !st; i++)
        row[i] = (an_sample_row){
            .n_edit = edits < vocab ? edits : vocab, .mask = &unread, .repetition = 1};
    if (!st) {
        an_sample_tokens(l, row, rows, vocab, an_lane_tensor(l, AN_I32, rows));
        *out = an_lane_peak(l);
        st = an_lane_status(l, err);
    }
    an_lane_close(l);
    free(row);
    return st;
}

/* The largest tick whose activations fit; few tokens at a time are better than no model. */
static an_status plan_tick(an_unit *u, an_slot *s, an_plan *out, an_error *err)
{
    an_language *m = &s->lm;
    size_t left = an_budget_left(u, s);
    for (m->tick_tokens = u->e->o.tick_tokens;; m->tick_tokens /= 2) {
        int rows = u->e->o.max_sequences + u->e->o.max_batch;
        if (rows > m->tick_tokens) rows = m->tick_tokens;
        int want = m->wants < m->tick_tokens ? m->wants : m->tick_tokens;
        an_cost c;
        an_status st = cost_of(s, rows, m->tick_tokens, want, m->positions, &c, err);
        if (st) return st;
        size_t sampling;
        st = sample_scratch(u, want, s->files->entry.info.vocab, &sampling, err);
        if (st) return st;
        out->arena = c.scratch_bytes > sampling ? c.scratch_bytes : sampling;
        out->batch = rows;
        if (out->arena <= left) return AN_OK;
        if (m->tick_tokens / 2 < TICK_LEAST) break;
    }
    return an_fail(err, AN_NO_MEMORY,
                   "a tick of %d tokens needs %.1f MiB of working memory, %.1f MiB of the %.1f MiB "
                   "limit are left beside weights, keys and values (--memory)",
                   m->tick_tokens, (double)out->arena / 1048576, (double)left / 1048576,
                   (double)u->memory_bytes / 1048576);
}

/* ---------------------------------------------------------------- in and out */

static an_status open_buffers(an_unit *u, an_slot *s, an_error *err)
{
    an_language *m = &s->lm;
    size_t row = (size_t)s->files->entry.info.vocab * sizeof(float);
    size_t rows = (size_t)(u->e->o.max_sequences + u->e->o.max_batch);
    if (rows > LOGITS_MOST / row) rows = LOGITS_MOST / row;
    m->wants = rows > 0 ? (int)rows : 1;
    size_t logits = (size_t)m->wants * row;
    an_status st = an_device_alloc(u->device, logits, (void **)&m->logits, err);
    if (st) return st;
    st = an_host_alloc(u->device, logits, (void **)&m->host, err);
    if (st) return st;
    m->mask = malloc(AN_SAMPLERS * (size_t)s->files->entry.info.vocab);
    if (!m->mask) return an_fail(err, AN_NO_MEMORY, "no memory for logits");
    m->bytes += 2 * logits;
    if (!samples(u)) return AN_OK;
    const size_t words = ((size_t)s->files->entry.info.vocab + 31) / 32;
    m->bits = calloc((size_t)m->wants * words, sizeof *m->bits);
    if (!m->bits) return an_fail(err, AN_NO_MEMORY, "no memory for the masks of grammars");
    m->bytes += (size_t)m->wants * words * sizeof *m->bits;
    return AN_OK;
}

static an_status open_pool(an_unit *u, an_slot *s, an_error *err)
{
    an_language *m = &s->lm;
    size_t page = an_model_kv_block_bytes(s->model);
    if (page == 0)
        return an_fail(err, AN_INTERNAL, "model '%s' has no keys and values", s->files->entry.id);
    int64_t one = pages_for(context_of(u->e, s->files)), pages;
    while ((pages = pool_pages(u, s, page)) < one && !u->e->o.kv_bytes)
        if (!an_slots_make_way(u, s)) break; /* idle models go before the context is cut */
    size_t bytes = (size_t)pages * page;
    if (bytes > an_budget_left(u, s))
        return an_fail(err, AN_NO_MEMORY,
                       "%.1f MiB for keys and values are needed (--kv-bytes), %.1f MiB of the "
                       "%.1f MiB limit are left (--memory)",
                       (double)bytes / 1048576, (double)an_budget_left(u, s) / 1048576,
                       (double)u->memory_bytes / 1048576);
    an_status st = an_kv_open(s->model, pages, &m->kv, err);
    if (st) return st;
    m->bytes += bytes;
    m->pages = an_pages_new(pages);
    if (!m->pages) return an_fail(err, AN_NO_MEMORY, "no memory for %lld pages", (long long)pages);
    int64_t context = context_of(u->e, s->files), pool = pages * AN_KV_BLOCK;
    pthread_mutex_lock(&u->e->lock);
    m->positions = pool < context ? pool : context;
    u->kv_bytes += m->bytes;
    pthread_mutex_unlock(&u->e->lock);
    return AN_OK;
}

an_status an_language_open(an_unit *u, an_slot *s, an_plan *out, an_error *err)
{
    if (s->files->entry.info.vocab < 1)
        return an_fail(err, AN_INTERNAL, "model '%s' has no vocabulary", s->files->entry.id);
    an_status st = open_buffers(u, s, err);
    if (!st) st = open_pool(u, s, err);
    if (!st) st = find_prices(u, s, s->lm.positions, err);
    if (!st) st = plan_tick(u, s, out, err);
    out->states = 0;
    if (st) an_language_close(u, s);
    return st;
}

void an_language_close(an_unit *u, an_slot *s)
{
    an_language *m = &s->lm;
    pthread_mutex_lock(&u->e->lock);
    if (m->positions) u->kv_bytes -= m->bytes;
    m->positions = 0;
    pthread_mutex_unlock(&u->e->lock);
    an_kv_close(m->kv);
    an_pages_free(m->pages);
    an_device_free(u->device, m->logits);
    an_host_free(u->device, m->host);
    free(m->mask);
    free(m->bits);
    pthread_mutex_lock(&u->e->lock);
    *m = (an_language){.flop_s = m->flop_s, .decode_s = m->decode_s};
    pthread_mutex_unlock(&u->e->lock);
    an_unit_count_pages(u);
}

/* ---------------------------------------------------------------- files */

static void add_end(an_tongue *t, int64_t id, int vocab)
{
    if (id < 0 || id >= vocab || t->ends == AN_ENDS) return;
    for (int i = 0; i < t->ends; i++)
        if (t->end[i] == id) return;
    t->end[t->ends++] = (int32_t)id;
}

/* What ends an answer: the config's list, and what the tokenizer knows to be an end. */
static void find_ends(an_tongue *t, const an_model_info *i)
{
    for (int k = 0; k < i->n_eos; k++) add_end(t, i->eos[k], i->vocab);
    for (int32_t id = 0; t->vocab && id < an_vocab_size(t->vocab); id++)
        if (an_vocab_is_end(t->vocab, id)) add_end(t, id, i->vocab);
}

static an_status open_vocab(an_files *f, an_error *err)
{
    an_checkpoint *c = NULL;
    an_status st = an_checkpoint_open(f->entry.path, &c, err);
    if (!st) st = an_model_vocab(c, &f->tongue.vocab, err);
    an_checkpoint_close(c);
    return st ? an_fail_prefix(err, st, "tokenizer of '%s'", f->entry.id) : AN_OK;
}

/* Files do not get better by being read again; one that could not be read now may be. */
static bool lasts(an_status st)
{
    return st != AN_IO && st != AN_NO_MEMORY;
}

an_status an_files_vocab(an_engine *e, an_files *f, const an_vocab **out, an_error *err)
{
    an_tongue *t = &f->tongue;
    pthread_mutex_lock(&e->tok_lock);
    if (!t->vocab_tried) {
        t->vocab_error = (an_error){0};
        if (f->entry.info.has_tokenizer) open_vocab(f, &t->vocab_error);
        t->vocab_tried = lasts(t->vocab_error.status);
        if (t->vocab_tried) find_ends(t, &f->entry.info);
    }
    an_status st = t->vocab_error.status;
    *out = t->vocab;
    if (st && err) {
        *err = t->vocab_error;
        snprintf(err->param, sizeof err->param, "model");
    }
    pthread_mutex_unlock(&e->tok_lock);
    return st;
}

static an_status open_chat(const an_engine *e, an_files *f, an_error *err)
{
    an_tongue *t = &f->tongue;
    an_checkpoint *c = NULL;
    char *source = NULL;
    an_status st = an_checkpoint_open(f->entry.path, &c, err);
    if (!st) st = an_model_chat_template(c, &source, &t->bos, &t->eos, err);
    an_checkpoint_close(c);
    if (!st) st = an_template_parse(source, strlen(source), &e->o.chat_template, &t->chat, err);
    free(source);
    if (!st) return AN_OK;
    free(t->bos);
    free(t->eos);
    t->bos = t->eos = NULL;
    an_fail_prefix(err, st, "chat template of '%s'", f->entry.id);
    snprintf(err->param, sizeof err->param, "model");
    return st;
}

static an_status text_files(an_engine *e, const char *model, an_files **out, an_error *err)
{
    an_status st = AN_NOT_FOUND;
    pthread_mutex_lock(&e->lock);
    *out = an_files_find(e, model, AN_KIND_TEXT, err);
    if (*out) st = an_files_serve(*out, err);
    pthread_mutex_unlock(&e->lock);
    return st;
}

an_status an_engine_template(an_engine *e, const char *model, const an_template **out,
                             const char **bos, const char **eos, an_error *err)
{
    an_files *f = NULL;
    *out = NULL;
    an_status st = text_files(e, model, &f, err);
    if (st) return st;
    an_tongue *t = &f->tongue;
    pthread_mutex_lock(&e->tok_lock);
    if (!t->chat_tried) {
        t->chat_error = (an_error){0};
        if (f->entry.info.has_chat_template)
            open_chat(e, f, &t->chat_error);
        else
            an_fail_param(&t->chat_error, AN_NOT_FOUND, "model",
                          "model '%s' has no chat template: use completions", f->entry.id);
        t->chat_tried = lasts(t->chat_error.status);
    }
    st = t->chat_error.status;
    if (st && err) *err = t->chat_error;
    *out = t->chat;
    if (bos) *bos = t->bos ? t->bos : "";
    if (eos) *eos = t->eos ? t->eos : "";
    pthread_mutex_unlock(&e->tok_lock);
    return st;
}

an_status an_engine_vocab(an_engine *e, const char *model, const an_vocab **vocab, an_error *err)
{
    an_files *f = NULL;
    *vocab = NULL;
    an_status st = text_files(e, model, &f, err);
    return st ? st : an_files_vocab(e, f, vocab, err);
}

void an_tongue_free(an_tongue *t)
{
    an_vocab_free(t->vocab);
    an_template_free(t->chat);
    free(t->bos);
    free(t->eos);
}
