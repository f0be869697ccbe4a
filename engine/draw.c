/* draw.c: the tokens of a tick. Where the device has logits in a memory of its own it draws them
 * too, so that a token a row comes down in place of a row of logits; the host draws, from logits,
 * what asks for more than a token (logprobs), and everything where memory is the host's. Both come
 * to the same token (sampling.c). */
#include "decode.h"

/* End tokens come first in the list, then stop ids. */
static void ban(const an_text_job *x, bool early, an_draw *d)
{
    bool ends = x->ban_eos || (early && !x->ignore_eos);
    d->ban = x->ban + (ends ? 0 : x->n_end);
    d->n_ban = (ends ? x->n_end : 0) + (early ? x->n_stop_id : 0);
}

/* All that a draw of the host needs but a mask. */
static an_draw draw_of(const an_decode *b, const an_part *p)
{
    const an_seq *q = p->task->seq;
    const an_text_job *x = p->task->job->text;
    int vocab = b->slot->files->entry.info.vocab, count = q->n_ids - q->n_prompt;
    an_draw d = {.s = &x->sampling,
                 .logits = b->slot->lm.host + (size_t)(p->logits + p->want - 1) * (size_t)vocab,
                 .vocab = vocab,
                 .ids = q->ids,
                 .n_prompt = q->n_prompt,
                 .n_ids = q->n_ids,
                 .seed = (uint64_t)x->answer[p->task->index].shown.seed,
                 .index = (uint64_t)count,
                 .logprobs = x->logprobs};
    ban(x, count < x->min_tokens, &d);
    return d;
}

/* fn(u, task, worker) on as many threads as have something to do; task < AN_SAMPLERS. */
static void side_by_side(an_unit *u, an_decode *b, void (*fn)(void *, int64_t, int))
{
    int64_t tasks = an_device_threads(u->device);
    if (tasks > AN_SAMPLERS) tasks = AN_SAMPLERS;
    b->next_draw = 0;
    an_device_parallel(u->device, b->draws < tasks ? b->draws : tasks, fn, u);
}

static uint8_t *mask_of(const an_decode *b, int64_t task)
{
    return b->slot->lm.mask + (size_t)task * (size_t)b->slot->files->entry.info.vocab;
}

/* ---------------------------------------------------------------- by the device */

static const uint32_t *pack_mask(const an_decode *b, const an_part *p, const uint8_t *mask)
{
    const int vocab = b->slot->files->entry.info.vocab, words = (vocab + 31) / 32;
    uint32_t *bits = b->slot->lm.bits + (size_t)p->logits * (size_t)words;
    memset(bits, 0, (size_t)words * sizeof *bits);
    for (int i = 0; i < vocab; i++) bits[i / 32] |= (uint32_t)(mask[i] != 0) << i % 32;
    return bits;
}

/* Nothing here fails: what the device cannot draw, the host can, or knows why not. */
static void plan_draw(an_decode *b, an_part *p, an_sampler_room *room, uint8_t *mask)
{
    const an_seq *q = p->task->seq;
    const an_draw d = draw_of(b, p);
    an_error unused;
    if (q->matcher && !an_matcher_mask(q->matcher, mask, (size_t)d.vocab)) return;
    if (an_sampling_row(room, &d, &p->row, &unused)) return;
    if (p->row.n_edit > AN_EDITS_MOST) return;
    const int at = atomic_fetch_add(&b->edits, p->row.n_edit);
    if (at > AN_EDITS_MOST - p->row.n_edit) return;
    if (p->row.n_edit) memcpy(b->edit + at, p->row.edit, (size_t)p->row.n_edit * sizeof *b->edit);
    p->row.edit = b->edit + at;
    p->row.mask = q->matcher ? pack_mask(b, p, mask) : NULL;
    p->sampled = true;
}

static void plan_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    an_unit *u = ctx;
    an_decode *b = u->decode;
    for (int i; (i = b->next_draw++) < b->draws;)
        plan_draw(b, b->draw[i], &u->e->sampler[task], mask_of(b, task));
}

void an_draws_plan(an_unit *u, an_decode *b)
{
    if (!b->slot->lm.bits) return;
    b->edits = 0;
    for (int i = 0; i < b->n; i++) {
        an_part *p = &b->part[i];
        const an_text_job *x = p->task->job->text;
        /* one row of logits, of which nothing but the token is asked */
        if (p->want == 1 && p->task->seq->done + p->n == p->task->seq->n_ids && x->logprobs < 0 &&
            x->max_tokens > 0)
            b->draw[b->draws++] = p;
    }
    side_by_side(u, b, plan_task);
    b->draws = 0;
}

/* Rows of logits that the host will look at, as few copies as can be. */
static void fetch_logits(an_decode *b, an_lane *l, int first, int n)
{
    const an_language *m = &b->slot->lm;
    const size_t row = (size_t)b->slot->files->entry.info.vocab;
    for (int i = first; i < first + n;) {
        const int from = b->part[i].logits;
        int rows = 0;
        for (; i < first + n && !b->part[i].sampled; i++) rows += b->part[i].want;
        const size_t at = (size_t)from * row;
        if (rows) an_download(l, m->host + at, m->logits + at, (size_t)rows * row * sizeof(float));
        while (i < first + n && b->part[i].sampled) i++;
    }
}

void an_draws_fetch(an_decode *b, an_lane *l, int first, int n)
{
    const int vocab = b->slot->files->entry.info.vocab;
    int rows = 0;
    for (int i = first; i < first + n; i++) {
        const an_part *p = &b->part[i];
        if (!p->sampled) continue;
        b->sample[rows] = p->row;
        b->sample[rows++].logits = b->slot->lm.logits + (size_t)p->logits * (size_t)vocab;
    }
    if (rows) {
        const an_tensor ids = an_lane_tensor(l, AN_I32, rows);
        an_sample_tokens(l, b->sample, rows, vocab, ids);
        an_download(l, b->token, ids.data, (size_t)rows * sizeof *b->token);
    }
    fetch_logits(b, l, first, n);
    an_lane_sync(l);
    for (int i = first, k = 0; i < first + n; i++)
        if (b->part[i].sampled) b->part[i].token = b->token[k++];
}

/* ---------------------------------------------------------------- by the host */

/* From the logits of the sequence and its history alone: any thread. */
static an_status draw_here(const an_decode *b, an_part *p, an_sampler_room *room, uint8_t *mask)
{
    const an_seq *q = p->task->seq;
    an_draw d = draw_of(b, p);
    if (q->matcher) {
        d.mask = mask;
        if (!an_matcher_mask(q->matcher, mask, (size_t)d.vocab))
            return an_fail_param(&p->error, AN_INVALID, "grammar",
                                 "the grammar went beyond its limits after %d tokens",
                                 (int)d.index);
    }
    return an_sample(room, &d, &p->drawn, &p->error);
}

static void draw_token(const an_decode *b, an_part *p, an_sampler_room *room, uint8_t *mask)
{
    const an_seq *q = p->task->seq;
    if (p->sampled)
        p->status = an_sampled(p->token, &p->drawn, &p->error);
    else
        p->status = draw_here(b, p, room, mask);
    if (p->status == AN_NOT_FOUND && q->matcher && an_matcher_complete(q->matcher)) {
        p->status = AN_OK; /* a whole document, and all that could follow is banned */
        p->drawn.id = -1;
    }
    if (p->status == AN_NOT_FOUND) p->status = p->error.status = AN_INVALID;
    if (p->status)
        an_fail_prefix(&p->error, p->status, "token %d of the answer", q->n_ids - q->n_prompt);
}

static void draw_task(void *ctx, int64_t task, int worker)
{
    (void)worker;
    an_unit *u = ctx;
    an_decode *b = u->decode;
    for (int i; (i = b->next_draw++) < b->draws;)
        draw_token(b, b->draw[i], &u->e->sampler[task], mask_of(b, task));
}

void an_draws_make(an_unit *u, an_decode *b)
{
    side_by_side(u, b, draw_task);
}
