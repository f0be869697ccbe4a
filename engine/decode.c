/* decode.c: one tick of a batch of sequences. Read an_decode_tick first: a text grows by this
 * function being called until every choice is finished.
 *
 * A tick holds tokens of many sequences: one of each that decodes, and with the rest of the budget
 * pieces of prompts. Where a prompt is cut changes no byte (model.h), so the cuts may follow the
 * clock: while others wait for their next token, or for a picture's next step, pieces are short. */
#include "decode.h"

#include <stdlib.h>

#define TICK_SHARED_S 0.25 /* prompts of a tick that others wait for, in seconds */
#define TICK_ALONE_S  1.0  /* that nobody waits for: how late a cancelled one may leave */
#define PIECE_LEAST   32   /* tokens of a prompt, however slow the machine is */
/* Reading the weights takes a tick as long as this many FLOPs a byte would: few tokens are charged
 * for the time they take. About what a CPU has; a GPU has more. */
#define FLOPS_A_BYTE 8.0

typedef an_part part;
typedef an_decode batch;

static an_seq *seq_of(const part *p)
{
    return p->task->seq;
}

/* ---------------------------------------------------------------- gathering */

static bool decodes(const an_seq *q)
{
    return q->done == q->n_ids - 1;
}

static int by_claim(const void *a, const void *b)
{
    const an_task *x = *(an_task *const *)a, *y = *(an_task *const *)b;
    if (x->job == y->job) return x->index - y->index;
    return an_claim_before(&x->job->claim, &y->job->claim) ? -1 : 1;
}

/* Sequences of this model that have pages, the most deserving first. */
static int line_up(const an_unit *u, const an_slot *s, an_task **out)
{
    int n = 0;
    for (int i = 0; i < u->run_count && n < AN_SEQ_MAX; i++)
        if (u->run[i]->seq && u->run[i]->job->slot == s && an_seq_ready(u->run[i]))
            out[n++] = u->run[i];
    qsort(out, (size_t)n, sizeof *out, by_claim);
    return n;
}

/* Logprobs of a prompt need the logits of all its tokens, of the first choice. */
static bool echoes(const an_task *t)
{
    const an_text_job *x = t->job->text;
    return x->echo && t->index == 0 && t->seq->done < t->seq->n_prompt;
}

/* Tokens of prompts that this tick has time for. */
static int prompt_budget(const an_unit *u, const batch *b)
{
    const an_language *m = &b->slot->lm;
    bool pictures = u->tracks == 1 && u->run_count > u->run_texts; /* waiting for the same lane */
    bool shared = b->decoding || pictures;
    double seconds = shared ? TICK_SHARED_S : TICK_ALONE_S;
    double one = m->price.token * m->flop_s;
    int most = m->tick_tokens - b->tokens;
    if (one > 0 && seconds / one < most) most = (int)(seconds / one);
    if (most < PIECE_LEAST) most = PIECE_LEAST;
    return most < m->tick_tokens - b->tokens ? most : m->tick_tokens - b->tokens;
}

/* FLOPs of n tokens whose keys end at `end`. */
static double flops_of(const an_lm_price *p, int n, int64_t end, int want)
{
    double keys = (double)n * ((double)end - (double)(n - 1) / 2);
    return p->token * n + p->key * keys + p->want * want;
}

static void add(batch *b, an_task *t, int n, int want)
{
    an_seq *q = t->seq;
    const an_language *m = &b->slot->lm;
    part *p = &b->part[b->n];
    size_t vocab = (size_t)b->slot->files->entry.info.vocab;
    *p = (part){.task = t, .n = n, .want = want, .logits = b->wants};
    p->flops = flops_of(&m->price, n, q->done + n, want);
    b->row[b->n] = (an_lm_row){.ids = q->ids + q->done,
                               .n = n,
                               .pos = q->done,
                               .blocks = q->page,
                               .want = want,
                               .logits = want ? m->logits + (size_t)b->wants * vocab : NULL};
    b->n++;
    b->tokens += n;
    b->wants += want;
    b->flops += p->flops;
}

static void add_prompt(an_unit *u, batch *b, an_task *t, int *budget)
{
    an_seq *q = t->seq;
    an_seq_catch_up(u, t);
    int left = q->n_ids - q->done, n = left < *budget ? left : *budget;
    int room = b->slot->lm.wants - b->wants;
    bool echo = echoes(t);
    if (echo && n > room) n = room;
    /* Pieces end with a page, so that others can take it over. */
    if (n < left && n > AN_KV_BLOCK) n -= (q->done + n) % AN_KV_BLOCK;
    int want = echo ? n : n == left;
    if (n < 1 || want > room) return;
    add(b, t, n, want);
    *budget -= n;
}

static void gather(an_unit *u, batch *b)
{
    an_task **line = b->line;
    an_seqs_extend(u, b->slot);
    int n = line_up(u, b->slot, line), prompts = 0;
    for (int i = 0; i < n; i++) prompts += !decodes(line[i]->seq);
    const an_language *m = &b->slot->lm;
    /* Where the tick is smaller than the crowd, prompts get a quarter of it all the same, and a row
     * of logits. */
    int most = m->tick_tokens - (prompts ? (m->tick_tokens + 3) / 4 : 0);
    int wants = m->wants - (prompts && m->wants > 1);
    for (int i = 0; i < n && b->tokens < most && b->wants < wants; i++)
        if (decodes(line[i]->seq)) add(b, line[i], 1, 1);
    b->decoding = b->n > 0;
    int budget = prompt_budget(u, b);
    for (int i = 0; i < n && budget > 0; i++)
        if (!decodes(line[i]->seq)) add_prompt(u, b, line[i], &budget);
}

/* ---------------------------------------------------------------- running */

static an_status forward(batch *b, int first, int n, an_error *err)
{
    an_language *m = &b->slot->lm;
    an_lane *l = an_slot_lane(b->slot);
    an_lane_reset(l);
    an_status s = an_lm_forward(b->slot->model, l, m->kv, &b->row[first], n, err);
    if (s) return s;
    an_draws_fetch(b, l, first, n);
    return an_lane_status(l, err);
}

/* A batch that fails is run again sequence by sequence, so that only those at fault fail. */
static void run(an_unit *u)
{
    batch *b = u->decode;
    an_error err = {0};
    double start = an_now_s();
    an_status s = forward(b, 0, b->n, &err);
    for (int i = 0; i < b->n && s; i++) {
        part *p = &b->part[i];
        p->error = err;
        p->status = b->n == 1 ? s : forward(b, i, 1, &p->error);
        if (p->status == AN_DEVICE) an_device_failed(u, &p->error);
    }
    b->seconds = an_now_s() - start;
}

/* ---------------------------------------------------------------- tokens */

static bool in(const int32_t *list, int n, int32_t id)
{
    for (int i = 0; i < n; i++)
        if (list[i] == id) return true;
    return false;
}

static void finish(an_unit *u, part *p, an_finish how, const char *stop, bool cut)
{
    an_text_job *x = p->task->job->text;
    an_answer *a = &x->answer[p->task->index];
    p->ended = true;
    if (!cut) p->status = an_answer_end(a, &p->error);
    pthread_mutex_lock(&u->e->lock);
    a->shown.finish = how;
    a->shown.stop = stop;
    if (how == AN_FINISH_STOP)
        u->e->finished_stop++;
    else
        u->e->finished_length++;
    pthread_mutex_unlock(&u->e->lock);
}

/* The drawn token joins the sequence, and may end it. */
static void take_token(an_unit *u, part *p)
{
    const an_drawn *drawn = &p->drawn;
    an_seq *q = seq_of(p);
    an_text_job *x = p->task->job->text;
    an_answer *a = &x->answer[p->task->index];
    int32_t id = drawn->id;
    q->ids[q->n_ids++] = id;
    int count = q->n_ids - q->n_prompt;
    bool end = in(x->ban, x->n_end, id) && (!x->ignore_eos || x->grammar);
    bool stop_id = in(x->stop_id, x->n_stop_id, id);
    an_token t = {.id = id, .logprob = drawn->logprob, .n_top = drawn->n_top, .top = drawn->top};
    const char *stop;
    bool may_stop = count >= x->min_tokens;
    p->status = an_answer_add(a, &t, end || stop_id, may_stop, &stop, &p->error);
    if (p->status) return;
    if (q->matcher && !end && !an_matcher_accept(q->matcher, id)) {
        p->status = an_fail(&p->error, AN_INTERNAL, "the grammar refused a token it had allowed");
        return;
    }
    p->drew = true;
    if (stop)
        finish(u, p, AN_FINISH_STOP, stop, true);
    else if (end || stop_id || (q->matcher && an_matcher_only_end(q->matcher)))
        finish(u, p, AN_FINISH_STOP, stop_id ? an_answer_name(a, id) : NULL, false);
    else if (count == x->max_tokens)
        finish(u, p, AN_FINISH_LENGTH, NULL, false);
}

/* Draws the tick's tokens side by side, then takes them one after the other. */
static void draw_tokens(an_unit *u, batch *b)
{
    an_draws_make(u, b);
    for (int i = 0; i < b->draws; i++) {
        part *p = b->draw[i];
        if (p->status) continue;
        if (p->drawn.id < 0)
            finish(u, p, AN_FINISH_STOP, NULL, false);
        else
            take_token(u, p);
    }
}

/* Logprobs of the prompt: the row of one position speaks of the next. */
static void take_echo(an_unit *u, batch *b, part *p)
{
    an_seq *q = seq_of(p);
    an_text_job *x = p->task->job->text;
    int vocab = b->slot->files->entry.info.vocab, from = q->done - p->n;
    const char *stop;
    an_token first = {.id = q->ids[0], .logprob = (float)__builtin_nan("")};
    int have = (int)(x->prompt.tokens.len / sizeof(an_token));
    if (have == 0) p->status = an_answer_add(&x->prompt, &first, false, false, &stop, &p->error);
    if (have == 0) have = 1;
    for (int i = 0; i < p->want && !p->status; i++) {
        int next = from + i + 1;
        if (next < have || next >= q->n_prompt) continue;
        an_drawn d;
        const float *row = b->slot->lm.host + (size_t)(p->logits + i) * (size_t)vocab;
        p->status =
            an_logprobs(&u->e->sampler[0], row, vocab, q->ids[next], x->logprobs, &d, &p->error);
        an_token t = {.id = d.id, .logprob = d.logprob, .n_top = d.n_top, .top = d.top};
        if (!p->status) p->status = an_answer_add(&x->prompt, &t, false, false, &stop, &p->error);
    }
}

static void advance(an_unit *u, batch *b, part *p)
{
    an_seq *q = seq_of(p);
    bool echo = echoes(p->task);
    q->done += p->n;
    an_seq_publish(u, p->task);
    if (echo) take_echo(u, b, p);
    if (p->status || q->done < q->n_ids) return;
    if (p->task->job->text->max_tokens > 0)
        b->draw[b->draws++] = p;
    else
        finish(u, p, AN_FINISH_LENGTH, NULL, false); /* only the prompt was wanted */
}

/* ---------------------------------------------------------------- telling */

/* What a tick costs, known before it runs: its FLOPs, and never less than reading the weights. */
static void charge(an_unit *u, batch *b)
{
    double least = FLOPS_A_BYTE * (double)b->slot->device_bytes;
    double factor = b->flops > 0 && b->flops < least ? least / b->flops : 1;
    for (int i = 0; i < b->n; i++)
        an_claim_charge(&u->e->clients, &b->part[i].task->job->claim, factor * b->part[i].flops);
}

static void measure(an_unit *u, batch *b)
{
    an_language *m = &b->slot->lm;
    u->ticks[AN_STAGE_FORWARD]++;
    u->tick_rows[AN_STAGE_FORWARD] += (uint64_t)b->n;
    u->busy_s += b->seconds;
    u->e->last_tick = an_now_s();
    an_hist_add(&u->e->tick_tokens, b->tokens);
    an_hist_add(&u->e->batch_rows[AN_STAGE_FORWARD], b->n);
    int drawn = 0;
    for (int i = 0; i < b->n; i++) drawn += !b->part[i].status && b->part[i].drew;
    an_recent_tick(u, (an_tick_info){.stage = AN_STAGE_FORWARD,
                                     .rows = b->n,
                                     .tokens = b->tokens,
                                     .drawn = drawn,
                                     .seconds = b->seconds});
    if (b->tokens == b->n)
        m->decode_s = m->decode_s > 0 ? 0.9 * m->decode_s + 0.1 * b->seconds : b->seconds;
    else if (b->flops > 0) {
        double rate = b->seconds / b->flops;
        m->flop_s = m->flop_s > 0 ? 0.8 * m->flop_s + 0.2 * rate : rate;
    }
}

/* The job's prompt is behind it: its logprobs may be read. */
static void clock_prompt(an_unit *u, an_job *j, double now)
{
    an_text_job *x = j->text;
    if (x->prompt_there) return;
    x->prompt_there = true;
    x->usage.prefill_s = now - j->started_mono;
    u->e->prompt_tokens += (uint64_t)x->n_ids;
}

/* Times of a sequence that has just drawn a token. */
static void clock_token(an_unit *u, part *p, double now)
{
    an_job *j = p->task->job;
    an_text_job *x = j->text;
    an_seq *q = seq_of(p);
    u->e->generated_tokens++;
    u->e->device_tokens += p->sampled;
    x->usage.completion_tokens++;
    j->step++;
    if (x->usage.first_token_s < 0) {
        x->usage.first_token_s = now - j->created_mono;
        an_hist_add(&u->e->first_token_s, x->usage.first_token_s);
    } else {
        x->usage.decode_s = now - j->started_mono - x->usage.prefill_s;
    }
    if (q->last_token > 0) an_hist_add(&u->e->token_s, now - q->last_token);
    q->last_token = now;
}

static void tell(an_unit *u, batch *b)
{
    double now = an_now_s();
    pthread_mutex_lock(&u->e->lock);
    charge(u, b);
    measure(u, b);
    for (int i = 0; i < b->n; i++) {
        part *p = &b->part[i];
        an_job *j = p->task->job;
        if (p->status || !(p->drew || p->ended)) continue;
        clock_prompt(u, j, now);
        if (p->drew) clock_token(u, p, now);
        an_answer_show(&j->text->answer[p->task->index], p->ended);
        if (j->text->echo) an_answer_show(&j->text->prompt, true);
        an_job_event(u->e, j,
                     (an_event){.type = AN_EVENT_TEXT,
                                .index = p->task->index,
                                .step = j->step,
                                .steps = j->calls * j->n});
    }
    pthread_mutex_unlock(&u->e->lock);
}

/* Ends what failed, lets go of what is finished. Every job of the tick lives until all is told. */
static void settle(batch *b)
{
    for (int i = 0; i < b->n; i++) b->held[i] = an_job_ref(b->part[i].task->job);
    for (int i = 0; i < b->n; i++) {
        part *p = &b->part[i];
        if (!p->task->started) continue; /* ended with another choice of its job */
        if (p->status)
            an_job_end(p->task->job, AN_JOB_FAILED, &p->error);
        else if (p->ended)
            an_task_finished(p->task);
    }
    for (int i = 0; i < b->n; i++) an_job_unref(b->held[i]);
}

/* ---------------------------------------------------------------- the tick */

static void end(an_unit *u)
{
    batch *b = u->decode;
    for (int i = 0; i < b->n; i++)
        if (!b->part[i].status) advance(u, b, &b->part[i]); /* to its draw, or on in the prompt */
    draw_tokens(u, b);
    tell(u, b);
    settle(b);
}

void an_decode_tick(an_track *k, an_task *leader)
{
    an_unit *u = k->unit;
    batch *b = u->decode;
    b->slot = leader->job->slot;
    b->n = b->tokens = b->wants = b->draws = 0;
    b->flops = b->seconds = 0;
    gather(u, b); /* whose tokens, and how many */
    if (b->n == 0) return;
    an_draws_plan(u, b);
    an_track_start(k, run, end); /* one call of the network for all of them, then their tokens */
}

an_decode *an_decode_new(void)
{
    return malloc(sizeof(an_decode));
}

void an_decode_free(an_decode *d)
{
    free(d);
}
