/* sequence.c: sequences and their pages. Three rules keep one long request from hurting others, and
 * everybody from waiting for ever.
 * Placing: waiting sequences get pages for all they have so far, the most deserving (queue.h)
 * first. Where it does not fit, those behind it wait too: small ones do not keep a large one out.
 * Making way: when a decoding sequence needs a page and there is none, the least senior one loses
 * its pages and is computed again later. Seniority (priority, age) never changes, while who
 * deserves most changes with every tick: two sequences would throw each other out in turn. So the
 * most senior one always advances, and the pool holds at least one sequence of full length. */
#include "state.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- life */

an_status an_seq_open(an_task *t, an_error *err)
{
    const an_text_job *x = t->job->text;
    an_seq *q = calloc(1, sizeof *q);
    if (!q) return an_fail(err, AN_NO_MEMORY, "no memory for a sequence");
    t->seq = q;
    size_t most = (size_t)x->n_ids + (size_t)x->max_tokens;
    size_t pages = (most + AN_KV_BLOCK - 1) / AN_KV_BLOCK;
    q->ids = malloc(most * sizeof *q->ids);
    q->page = malloc(pages * sizeof *q->page);
    q->name = malloc(pages * sizeof *q->name);
    an_status s = AN_OK;
    if (!q->ids || !q->page || !q->name)
        s = an_fail(err, AN_NO_MEMORY, "no memory for a sequence of %zu tokens", most);
    if (!s && x->grammar) s = an_matcher_new(x->grammar, x->vocab, &q->matcher, err);
    if (s) {
        an_seq_close(t);
        return s;
    }
    memcpy(q->ids, x->ids, (size_t)x->n_ids * sizeof *q->ids);
    q->n_prompt = q->n_ids = x->n_ids;
    return AN_OK;
}

static void give_pages(const an_task *t)
{
    an_seq *q = t->seq;
    for (int i = q->pages - 1; i >= 0; i--) an_pages_give(t->job->slot->lm.pages, q->page[i]);
    q->pages = q->done = q->published = 0;
}

void an_seq_close(an_task *t)
{
    an_seq *q = t->seq;
    if (!q) return;
    give_pages(t);
    an_matcher_free(q->matcher);
    free(q->ids);
    free(q->page);
    free(q->name);
    free(q);
    t->seq = NULL;
}

bool an_seq_ready(const an_task *t)
{
    return t->seq->pages > 0;
}

/* ---------------------------------------------------------------- names of pages */

/* Names the first n full pages: each by its ids and its parent's name. */
static void name_pages(const an_unit *u, const an_task *t, int n)
{
    an_seq *q = t->seq;
    const an_pages *pool = t->job->slot->lm.pages;
    const char *salt = t->job->text->salt;
    /* Without a prefix cache only the choices of one job share. */
    uint64_t number = u->e->o.prefix_cache ? 0 : t->job->claim.age;
    for (; q->named < n; q->named++) {
        int i = q->named;
        an_prefix parent = i ? q->name[i - 1] : an_prefix_root(pool, salt ? salt : "", number);
        q->name[i] = an_prefix_next(pool, parent, q->ids + i * AN_KV_BLOCK);
    }
}

static an_prefix parent_of(const an_unit *u, const an_task *t, int i)
{
    const char *salt = t->job->text->salt;
    uint64_t number = u->e->o.prefix_cache ? 0 : t->job->claim.age;
    if (i > 0) return t->seq->name[i - 1];
    return an_prefix_root(t->job->slot->lm.pages, salt ? salt : "", number);
}

/* Page i of the sequence, held once more, if somebody has computed it; -1 otherwise. Logprobs of
 * the prompt need its logits, so nothing is taken over before they are there. */
static int32_t find_page(const an_unit *u, const an_task *t, int i)
{
    an_seq *q = t->seq;
    const an_text_job *x = t->job->text;
    if ((i + 1) * AN_KV_BLOCK > q->n_ids - 1) return -1; /* one token must be left to compute */
    if (x->echo && t->index == 0 && x->prompt.tokens.len < (size_t)x->n_ids * sizeof(an_token))
        return -1;
    name_pages(u, t, i + 1);
    return an_pages_find(t->job->slot->lm.pages, parent_of(u, t, i), q->name[i],
                         q->ids + i * AN_KV_BLOCK);
}

int an_pages_known(const an_job *j, const an_slot *s)
{
    const an_text_job *x = j->text;
    const an_pages *pool = s->lm.pages;
    int n = 0;
    if (!pool || !j->e->o.prefix_cache) return 0;
    an_prefix name = an_prefix_root(pool, x->salt ? x->salt : "", 0);
    while ((n + 1) * AN_KV_BLOCK <= x->n_ids - 1) {
        name = an_prefix_next(pool, name, x->ids + n * AN_KV_BLOCK);
        if (!an_pages_has(pool, name)) break;
        n++;
    }
    return n;
}

void an_seq_publish(an_unit *u, an_task *t)
{
    an_seq *q = t->seq;
    int full = q->done / AN_KV_BLOCK;
    name_pages(u, t, full);
    for (; q->published < full; q->published++) {
        int i = q->published;
        an_pages_name(t->job->slot->lm.pages, q->page[i], parent_of(u, t, i), q->name[i],
                      q->ids + i * AN_KV_BLOCK);
    }
}

void an_seq_catch_up(an_unit *u, an_task *t)
{
    an_seq *q = t->seq;
    an_pages *pool = t->job->slot->lm.pages;
    while (q->done % AN_KV_BLOCK == 0) {
        int i = q->done / AN_KV_BLOCK;
        int32_t found = find_page(u, t, i);
        if (found < 0) return;
        an_pages_give(pool, q->page[i]);
        q->page[i] = found;
        q->done += AN_KV_BLOCK;
        q->published = i + 1;
    }
}

/* ---------------------------------------------------------------- making way */

static bool senior(const an_task *a, const an_task *b)
{
    const an_claim *x = &a->job->claim, *y = &b->job->claim;
    if (x->priority != y->priority) return x->priority > y->priority;
    if (x->age != y->age) return x->age < y->age;
    return a->index < b->index;
}

static void preempt(an_unit *u, an_task *t)
{
    give_pages(t);
    pthread_mutex_lock(&u->e->lock);
    u->e->preemptions++;
    t->job->text->usage.preemptions++;
    pthread_mutex_unlock(&u->e->lock);
}

/* The least senior sequence of the model that holds pages. */
static an_task *least_senior(const an_unit *u, const an_slot *s)
{
    an_task *last = NULL;
    for (int i = 0; i < u->run_count; i++) {
        an_task *t = u->run[i];
        if (!t->seq || t->job->slot != s || !an_seq_ready(t)) continue;
        if (!last || senior(last, t)) last = t;
    }
    return last;
}

static int holders(const an_unit *u, const an_slot *s)
{
    int n = 0;
    for (int i = 0; i < u->run_count; i++)
        n += u->run[i]->seq && u->run[i]->job->slot == s && an_seq_ready(u->run[i]);
    return n;
}

/* A page for position `done`, if the sequence has none: others, or itself, make way for it. */
static void extend(an_unit *u, an_task *t)
{
    an_seq *q = t->seq;
    an_pages *pool = t->job->slot->lm.pages;
    while (q->pages > 0 && q->pages * AN_KV_BLOCK <= q->n_ids - 1) {
        int32_t page = an_pages_take(pool);
        if (page >= 0)
            q->page[q->pages++] = page;
        else
            preempt(u, least_senior(u, t->job->slot));
    }
}

void an_seqs_extend(an_unit *u, const an_slot *s)
{
    /* Most senior first: whoever makes way has not had its turn. Few need a page in a tick, so the
     * walk is repeated for each of them instead of being sorted. */
    for (;;) {
        an_task *first = NULL;
        for (int i = 0; i < u->run_count; i++) {
            an_task *t = u->run[i];
            if (!t->seq || t->job->slot != s || !an_seq_ready(t)) continue;
            if (t->seq->pages * AN_KV_BLOCK > t->seq->n_ids - 1) continue;
            if (!first || senior(t, first)) first = t;
        }
        if (!first) return;
        extend(u, first);
    }
}

/* ---------------------------------------------------------------- placing */

/* A choice waits until the first one has computed the prompt they share. */
static bool waits_for_sibling(const an_task *t)
{
    if (t->index == 0 || t->seq->n_ids > t->seq->n_prompt) return false;
    const an_task *first = &t->job->task[0];
    return !first->done && (!first->seq || first->seq->n_ids == first->seq->n_prompt);
}

static void count_hits(an_unit *u, an_task *t)
{
    an_seq *q = t->seq;
    if (q->placed_once) return;
    q->placed_once = true;
    pthread_mutex_lock(&u->e->lock);
    u->e->prefix_queries += (uint64_t)q->n_prompt;
    u->e->prefix_hits += (uint64_t)q->done;
    if (t->index == 0) t->job->text->usage.cached_tokens = (size_t)q->done;
    pthread_mutex_unlock(&u->e->lock);
}

/* Pages for all ids so far. Where others run, a page for each of them is left, or the newcomer
 * would be thrown out at once. */
static bool place(an_unit *u, an_task *t)
{
    an_seq *q = t->seq;
    an_slot *s = t->job->slot;
    int total = (q->n_ids + AN_KV_BLOCK - 1) / AN_KV_BLOCK, found = 0;
    for (int32_t page; (page = find_page(u, t, found)) >= 0;) q->page[found++] = page;
    int64_t spare = holders(u, s);
    bool fits;
    while (!(fits = an_pages_left(s->lm.pages) >= total - found + spare)) {
        an_task *last = spare ? least_senior(u, s) : NULL;
        if (!last || last->job->claim.priority >= t->job->claim.priority) break;
        preempt(u, last);
        spare--;
    }
    q->pages = found;
    q->done = found * AN_KV_BLOCK;
    if (!fits) {
        give_pages(t);
        return false;
    }
    while (q->pages < total) q->page[q->pages++] = an_pages_take(s->lm.pages);
    q->published = found;
    count_hits(u, t);
    return true;
}

static an_task *best_waiting(const an_unit *u, const an_slot *s)
{
    an_task *best = NULL;
    for (int i = 0; i < u->run_count; i++) {
        an_task *t = u->run[i];
        if (!t->seq || t->job->slot != s || an_seq_ready(t) || waits_for_sibling(t)) continue;
        if (!best || an_claim_before(&t->job->claim, &best->job->claim)) best = t;
    }
    return best;
}

void an_seqs_place(an_unit *u)
{
    for (int i = 0; i < u->e->models && u->run_texts > 0; i++) {
        an_slot *s = &u->slot[i];
        for (an_task *t; s->lm.pages && (t = best_waiting(u, s));)
            if (!place(u, t)) break;
    }
}
