/* sampling.c: see sampling.h. Candidates stay in the order of their ids from the first step to the
 * last: a filter that keeps everything changes nothing, and sums have one order. Ties go to the
 * lower id everywhere. */
#include "sampling.h"
#include "sampling_vec.h"

#include <stdlib.h>

#define FEW 128 /* kept sorted while the logits go by; more come off a heap */

void an_sampler_room_free(an_sampler_room *r)
{
    free(r->logit);
    free(r->weight);
    free(r->key);
    free(r->id);
    free(r->heap);
    free(r->seen);
    *r = (an_sampler_room){0};
}

static an_status need_room(an_sampler_room *r, int vocab, an_error *err)
{
    if (r->vocab >= vocab) return AN_OK;
    an_sampler_room_free(r);
    size_t n = (size_t)vocab;
    r->logit = malloc(n * sizeof *r->logit);
    r->weight = malloc(n * sizeof *r->weight);
    r->key = malloc(n * sizeof *r->key);
    r->id = malloc(n * sizeof *r->id);
    r->heap = malloc(n * sizeof *r->heap);
    r->seen = calloc(n, sizeof *r->seen);
    if (!r->logit || !r->weight || !r->key || !r->id || !r->heap || !r->seen) {
        an_sampler_room_free(r);
        return an_fail(err, AN_NO_MEMORY, "no memory to sample from %d tokens", vocab);
    }
    r->vocab = vocab;
    return AN_OK;
}

/* ---------------------------------------------------------------- the model's distribution */

static an_status not_numbers(an_error *err)
{
    return an_fail(err, AN_INTERNAL, "the model's logits are not numbers");
}

/* a before b: the larger key, then the lower place (which has the lower id). */
static bool key_before(const double *key, int32_t a, int32_t b)
{
    return key[a] != key[b] ? key[a] > key[b] : a < b;
}

static void sift_down(const double *key, int32_t *heap, int n, int i)
{
    int32_t v = heap[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && key_before(key, heap[child + 1], heap[child])) child++;
        if (!key_before(key, heap[child], v)) break;
        heap[i] = heap[child];
    }
    heap[i] = v;
}

static void heap_make(const double *key, int32_t *heap, int n)
{
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(key, heap, n, i);
}

static int32_t heap_pop(const double *key, int32_t *heap, int *n)
{
    int32_t top = heap[0];
    heap[0] = heap[--*n];
    if (*n > 0) sift_down(key, heap, *n, 0);
    return top;
}

/* The k places of the largest keys, in their order, into out: a sorted list that most places never
 * enter. */
static int largest_k(const double *key, int n, int k, int32_t *out)
{
    int have = 0;
    for (int32_t i = 0; i < n; i++) {
        if (have == k && !(key[i] > key[out[have - 1]])) continue;
        int at = have < k ? have++ : have - 1;
        for (; at > 0 && key[i] > key[out[at - 1]]; at--) out[at] = out[at - 1];
        out[at] = i;
    }
    return have;
}

an_status an_logprobs(an_sampler_room *r, const float *logits, int vocab, int32_t id, int n_top,
                      an_drawn *out, an_error *err)
{
    an_status s = need_room(r, vocab, err);
    if (s) return s;
    int best = largest_float(logits, vocab);
    if (best < 0) return not_numbers(err);
    for (int i = 0; i < vocab; i++) r->logit[i] = (double)logits[i];
    double most = r->logit[best];
    double norm = log(exp_all(r->logit, vocab, most, 1, r->weight));
    out->id = id;
    out->logprob = (float)(r->logit[id] - most - norm);
    if (n_top > AN_TOP_MOST) n_top = AN_TOP_MOST;
    out->n_top = n_top > 0 ? largest_k(r->logit, vocab, n_top, r->heap) : 0;
    for (int i = 0; i < out->n_top; i++) {
        int32_t t = r->heap[i];
        out->top[i] = (struct an_top){t, (float)(r->logit[t] - most - norm)};
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- bias, penalties, masks */

static void add_bias(double *l, const an_draw *d)
{
    for (int i = 0; i < d->s->n_bias; i++) l[d->s->bias[i].id] += (double)d->s->bias[i].bias;
}

static void repetition(an_sampler_room *r, double *l, const an_draw *d)
{
    double p = (double)d->s->repetition_penalty;
    int last = d->s->repeat_last_n;
    if (p == 1 || last == 0) return;
    int from = last > 0 && last < d->n_ids ? d->n_ids - last : 0;
    r->epoch++;
    for (int i = from; i < d->n_ids; i++) {
        int32_t id = d->ids[i];
        if (id < 0 || id >= d->vocab || r->seen[id] == r->epoch) continue;
        r->seen[id] = r->epoch;
        l[id] = l[id] > 0 ? l[id] / p : l[id] * p;
    }
}

/* Once a token that appeared, and once an appearance. Counted first, so that the sum is one
 * product.
 */
static void presence_frequency(an_sampler_room *r, double *l, const an_draw *d)
{
    double once = (double)d->s->presence_penalty, each = (double)d->s->frequency_penalty;
    if (once == 0 && each == 0) return;
    int32_t *count = r->heap;
    r->epoch++;
    for (int i = d->n_prompt; i < d->n_ids; i++) {
        int32_t id = d->ids[i];
        if (r->seen[id] != r->epoch) count[id] = 0;
        r->seen[id] = r->epoch;
        count[id]++;
    }
    for (int i = d->n_prompt; i < d->n_ids; i++) {
        int32_t id = d->ids[i];
        if (count[id] == 0) continue;
        l[id] -= once + each * count[id];
        count[id] = 0;
    }
}

static void forbid(double *l, const an_draw *d)
{
    for (int i = 0; i < d->n_ban; i++) l[d->ban[i]] = (double)-INFINITY;
    if (!d->mask) return;
    for (int i = 0; i < d->vocab; i++)
        if (!d->mask[i]) l[i] = (double)-INFINITY;
}

static bool changes_logits(const an_draw *d)
{
    const an_sampling *s = d->s;
    return s->n_bias || s->repetition_penalty != 1 || s->presence_penalty != 0 ||
           s->frequency_penalty != 0 || d->mask || d->n_ban;
}

/* Whether all that is changed is that some other tokens are banned: `best` stays the best then. */
static bool only_bans_others(const an_draw *d, int32_t best)
{
    an_draw rest = *d;
    rest.n_ban = 0;
    if (changes_logits(&rest)) return false;
    for (int i = 0; i < d->n_ban; i++)
        if (d->ban[i] == best) return false;
    return d->logits[best] > -INFINITY;
}

/* The candidates: what is possible at all, ids ascending. Written without a branch: it is a pass
 * over the whole vocabulary. */
static int collect(an_sampler_room *r, const an_draw *d)
{
    int n = 0;
    if (!changes_logits(d)) {
        for (int i = 0; i < d->vocab; i++) {
            r->id[n] = i;
            r->logit[n] = (double)d->logits[i];
            n += d->logits[i] > -INFINITY;
        }
        return n;
    }
    /* Biases of 1e4 and penalties make no NaN of finite logits; -infinity stays what it is. */
    for (int i = 0; i < d->vocab; i++) r->logit[i] = (double)d->logits[i];
    add_bias(r->logit, d);
    repetition(r, r->logit, d);
    presence_frequency(r, r->logit, d);
    forbid(r->logit, d);
    for (int i = 0; i < d->vocab; i++) {
        double l = r->logit[i];
        r->id[n] = i;
        r->logit[n] = l;
        n += l > (double)-INFINITY;
    }
    return n;
}

/* ---------------------------------------------------------------- filters
 * Candidates: id[i] with logit[i], 0 <= i < n, ids ascending. A filter moves those it keeps
 * together.
 */

/* Keeps what comes no later than `last` in the order of the keys. */
static int keep_until(an_sampler_room *r, const double *key, int n, int32_t last)
{
    int kept = 0;
    double cut = key[last];
    for (int32_t i = 0; i < n; i++) {
        bool keep = key[i] > cut || (key[i] == cut && i <= last);
        r->id[kept] = r->id[i];
        r->logit[kept] = r->logit[i];
        kept += keep;
    }
    return kept;
}

/* The shortest beginning, in the order of the keys, whose weights reach the sum: keys come off a
 * heap until they do. Weights below `small` stay out of the heap: so little that they cannot be
 * needed. */
static int keep_sum(an_sampler_room *r, const double *key, int n, double sum, double small)
{
    double reached = 0;
    int heap = 0;
    for (int32_t i = 0; i < n; i++) {
        r->heap[heap] = i;
        heap += r->weight[i] >= small;
    }
    heap_make(key, r->heap, heap);
    int32_t last = r->heap[0];
    while (heap > 0 && reached < sum) {
        last = heap_pop(key, r->heap, &heap);
        reached += r->weight[last];
    }
    return keep_until(r, key, n, last);
}

static int filter_top_k(an_sampler_room *r, int n, int k)
{
    if (k <= 0 || k >= n) return n;
    if (k <= FEW) {
        largest_k(r->logit, n, k, r->heap);
        return keep_until(r, r->logit, n, r->heap[k - 1]);
    }
    for (int32_t i = 0; i < n; i++) r->heap[i] = i;
    int heap = n;
    heap_make(r->logit, r->heap, heap);
    int32_t last = 0;
    for (int i = 0; i < k; i++) last = heap_pop(r->logit, r->heap, &heap);
    return keep_until(r, r->logit, n, last);
}

/* Locally typical (Meister et al. 2022): those whose surprise is nearest to the entropy. */
static int filter_typical(an_sampler_room *r, int n, double part)
{
    if (part >= 1) return n;
    double most = r->logit[largest(r->logit, n)];
    double sum = exp_all(r->logit, n, most, 1, r->weight), norm = log(sum), entropy = 0;
    for (int i = 0; i < n; i++)
        if (r->weight[i] > 0) entropy += r->weight[i] / sum * (norm - (r->logit[i] - most));
    for (int i = 0; i < n; i++) r->key[i] = -fabs(norm - (r->logit[i] - most) - entropy);
    return keep_sum(r, r->key, n, part * sum, 0);
}

static int filter_top_p(an_sampler_room *r, int n, double part)
{
    if (part >= 1) return n;
    double most = r->logit[largest(r->logit, n)];
    double sum = exp_all(r->logit, n, most, 1, r->weight);
    /* All that are less likely than half of this together have less than what may be left out. */
    double share = sum * (1 - part) / n;
    return keep_sum(r, r->logit, n, part * sum, share / 2);
}

/* Those at least `part` times as likely as the likeliest. */
static int filter_min_p(an_sampler_room *r, int n, double part)
{
    if (part <= 0) return n;
    double least = r->logit[largest(r->logit, n)] + log(part);
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (r->logit[i] < least) continue;
        r->id[kept] = r->id[i];
        r->logit[kept++] = r->logit[i];
    }
    return kept > 0 ? kept : n;
}

/* ---------------------------------------------------------------- the draw */

static int32_t draw(an_sampler_room *r, int n, double heat, double uniform)
{
    double most = r->logit[largest(r->logit, n)];
    double sum = exp_all(r->logit, n, most, heat, r->weight), want = uniform * sum, reached = 0;
    int last = 0;
    for (int i = 0; i < n; i++) {
        if (!(r->weight[i] > 0)) continue;
        last = i;
        reached += r->weight[i];
        if (reached > want) break;
    }
    return r->id[last];
}

static an_status choose(an_sampler_room *r, const an_draw *d, int32_t *id, an_error *err)
{
    const an_sampling *s = d->s;
    bool greedy = s->temperature == 0;
    int best = largest_float(d->logits, d->vocab);
    if (best < 0) return not_numbers(err);
    if (greedy && (!changes_logits(d) || only_bans_others(d, best))) {
        *id = best;
        return AN_OK;
    }
    int n = collect(r, d);
    if (n == 0) return an_fail(err, AN_NOT_FOUND, "no token is allowed to come next");
    if (greedy) {
        *id = r->id[largest(r->logit, n)];
        return AN_OK;
    }
    n = filter_top_k(r, n, s->top_k);
    n = filter_typical(r, n, (double)s->typical_p);
    n = filter_top_p(r, n, (double)s->top_p);
    n = filter_min_p(r, n, (double)s->min_p);
    *id = draw(r, n, (double)s->temperature, an_rng_uniform(d->seed, d->index));
    return AN_OK;
}

an_status an_sample(an_sampler_room *r, const an_draw *d, an_drawn *out, an_error *err)
{
    out->n_top = 0;
    out->logprob = 0;
    an_status s = need_room(r, d->vocab, err);
    if (!s) s = choose(r, d, &out->id, err);
    if (!s && d->logprobs >= 0)
        s = an_logprobs(r, d->logits, d->vocab, out->id, d->logprobs, out, err);
    return s;
}
