/* sampling.c: see sampling.h. Candidates stay in the order of their ids from the first step to the
 * last: a filter that keeps everything changes nothing. Ties go to the lower id everywhere.
 *
 * A GPU draws too (kernels/cuda/sample.cu), and must come to the same token: logits that something
 * changed are rounded to f32 again, probabilities are whole numbers (so sums have no order), and
 * nothing that decides goes through libm but the logarithm of min_p, which is taken here for both.
 */
#include "sampling.h"
#include "sampling_vec.h"

#include <float.h>
#include <stdlib.h>

__extension__ typedef unsigned __int128 wide;

#define FEW 128 /* kept sorted while the logits go by; more come off a heap */

void an_sampler_room_free(an_sampler_room *r)
{
    free(r->logit);
    free(r->weight);
    free(r->key);
    free(r->id);
    free(r->heap);
    free(r->seen);
    free(r->edit);
    *r = (an_sampler_room){0};
}

size_t an_sampler_room_bytes(int vocab)
{
    const an_sampler_room *r = NULL;
    return (size_t)vocab * (sizeof *r->logit + sizeof *r->weight + sizeof *r->key + sizeof *r->id +
                            sizeof *r->heap + sizeof *r->seen);
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

static an_status no_token(an_error *err)
{
    return an_fail(err, AN_NOT_FOUND, "no token is allowed to come next");
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
    double norm = log(exp_all(r->logit, vocab, most));
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

/* Tokens of the history that the repetition penalty looks at: from here on. */
static int repeats_from(const an_draw *d)
{
    int last = d->s->repeat_last_n;
    if (d->s->repetition_penalty == 1 || last == 0) return d->n_ids;
    return last > 0 && last < d->n_ids ? d->n_ids - last : 0;
}

static bool counts_answer(const an_draw *d)
{
    return d->s->presence_penalty != 0 || d->s->frequency_penalty != 0;
}

static an_status need_edits(an_sampler_room *r, const an_draw *d, an_error *err)
{
    size_t most = (size_t)(d->s->n_bias + d->n_ban + (d->n_ids - repeats_from(d)) +
                           (counts_answer(d) ? d->n_ids - d->n_prompt : 0));
    if (most <= r->edits) return AN_OK;
    an_logit_edit *more = realloc(r->edit, most * sizeof *more);
    if (!more) return an_fail(err, AN_NO_MEMORY, "no memory for %zu changes of logits", most);
    r->edit = more;
    r->edits = most;
    return AN_OK;
}

/* The edit of a token, new if it has none yet; NULL if there is no such token. */
static an_logit_edit *edit_of(an_sampler_room *r, an_sample_row *row, int vocab, int32_t id)
{
    int32_t *place = r->heap;
    if (id < 0 || id >= vocab) return NULL;
    if (r->seen[id] != r->epoch) {
        r->seen[id] = r->epoch;
        place[id] = row->n_edit;
        r->edit[row->n_edit++] = (an_logit_edit){.id = id};
    }
    return &r->edit[place[id]];
}

/* A token that appeared in the answer loses once, and once an appearance. */
static void presence_frequency(an_sampler_room *r, const an_draw *d, an_sample_row *row)
{
    if (!counts_answer(d)) return;
    for (int i = d->n_prompt; i < d->n_ids; i++) {
        an_logit_edit *e = edit_of(r, row, d->vocab, d->ids[i]);
        if (e) e->less++; /* first how often */
    }
    double once = (double)d->s->presence_penalty, each = (double)d->s->frequency_penalty;
    for (int i = 0; i < row->n_edit; i++)
        if (r->edit[i].less > 0) r->edit[i].less = once + each * r->edit[i].less;
}

static an_status make_edits(an_sampler_room *r, const an_draw *d, an_sample_row *row, an_error *err)
{
    an_status s = need_edits(r, d, err);
    if (s) return s;
    row->edit = r->edit;
    if (++r->epoch == 0) { /* it has come round */
        memset(r->seen, 0, (size_t)r->vocab * sizeof *r->seen);
        r->epoch = 1;
    }
    for (int i = 0; i < d->s->n_bias; i++) {
        an_logit_edit *e = edit_of(r, row, d->vocab, d->s->bias[i].id);
        if (e) e->add += (double)d->s->bias[i].bias;
    }
    for (int i = repeats_from(d); i < d->n_ids; i++) {
        an_logit_edit *e = edit_of(r, row, d->vocab, d->ids[i]);
        if (e) e->repeated = 1;
    }
    presence_frequency(r, d, row);
    for (int i = 0; i < d->n_ban; i++) {
        an_logit_edit *e = edit_of(r, row, d->vocab, d->ban[i]);
        if (e) e->add = (double)-INFINITY;
    }
    return AN_OK;
}

an_status an_sampling_row(an_sampler_room *r, const an_draw *d, an_sample_row *out, an_error *err)
{
    const an_sampling *s = d->s;
    *out = (an_sample_row){
        .repetition = (double)s->repetition_penalty,
        .heat_inverse = s->temperature > 0 ? 1 / (double)s->temperature : 0,
        .top_k = s->top_k,
        .typical_p = (double)s->typical_p,
        .top_p = (double)s->top_p,
        .min_p_log = s->min_p > 0 ? log((double)s->min_p) : (double)-INFINITY,
        .uniform = (uint64_t)(an_rng_uniform(d->seed, d->index) * 0x1p53) << 11,
    };
    an_status st = need_room(r, d->vocab, err);
    return st ? st : make_edits(r, d, out, err);
}

static double edited(double l, const an_logit_edit *e, double repetition)
{
    double v = l + e->add;
    if (e->repeated) v = v > 0 ? v / repetition : v * repetition;
    v -= e->less;
    if (!(v > (double)-INFINITY)) return (double)-INFINITY;
    v = v > (double)FLT_MAX ? (double)FLT_MAX : v < (double)-FLT_MAX ? (double)-FLT_MAX : v;
    return (double)(float)v;
}

/* Whether all that is changed is that some other tokens are banned: `best` stays the best then. */
static bool only_bans_others(const an_draw *d, const an_sample_row *row, int32_t best)
{
    if (d->mask || !(d->logits[best] > -INFINITY)) return false;
    for (int i = 0; i < row->n_edit; i++)
        if (row->edit[i].id == best || row->edit[i].add > (double)-INFINITY) return false;
    return true;
}

/* The candidates: what is possible at all, ids ascending. Written without a branch: it is a pass
 * over the whole vocabulary. */
static int collect(an_sampler_room *r, const an_draw *d, const an_sample_row *row)
{
    int n = 0;
    if (row->n_edit == 0 && !d->mask) {
        for (int i = 0; i < d->vocab; i++) {
            r->id[n] = i;
            r->logit[n] = (double)d->logits[i];
            n += d->logits[i] > -INFINITY;
        }
        return n;
    }
    for (int i = 0; i < d->vocab; i++) r->logit[i] = (double)d->logits[i];
    for (int i = 0; i < row->n_edit; i++) {
        const an_logit_edit *e = &row->edit[i];
        r->logit[e->id] = edited(r->logit[e->id], e, row->repetition);
    }
    for (int i = 0; d->mask && i < d->vocab; i++)
        if (!d->mask[i]) r->logit[i] = (double)-INFINITY;
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
static int keep_sum(an_sampler_room *r, const double *key, int n, uint64_t sum, uint64_t small)
{
    uint64_t reached = 0;
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

/* What the kept ones have to reach together: a part of the sum of all, and something. */
static uint64_t part_of(uint64_t sum, double part)
{
    double least = ceil(part * (double)sum);
    uint64_t want = least < (double)sum ? (uint64_t)least : sum;
    return want > 1 ? want : 1;
}

/* Locally typical (Meister et al. 2022): those whose surprise is nearest to the entropy. Both are
 * taken relative to the likeliest token's: how far a logit lies below the largest, and the mean of
 * that. */
static int filter_typical(an_sampler_room *r, int n, double part)
{
    if (part >= 1) return n;
    double most = r->logit[largest(r->logit, n)];
    uint64_t sum = weigh_all(r->logit, n, most, 1, r->weight), below = 0;
    for (int i = 0; i < n; i++) below += whole((double)r->weight[i] * (most - r->logit[i]));
    double mean = (double)below / (double)sum;
    for (int i = 0; i < n; i++) r->key[i] = -(double)(float)fabs((most - r->logit[i]) - mean);
    return keep_sum(r, r->key, n, part_of(sum, part), 0);
}

static int filter_top_p(an_sampler_room *r, int n, double part)
{
    if (part >= 1) return n;
    double most = r->logit[largest(r->logit, n)];
    uint64_t sum = weigh_all(r->logit, n, most, 1, r->weight), want = part_of(sum, part);
    /* All that weigh less than this share together weigh less than what may be left out: the last
     * one needed weighs as much, or one less where rounding did that. */
    uint64_t share = (sum - want) / (uint64_t)n;
    return keep_sum(r, r->logit, n, want, share >= 4 ? share / 2 : 0);
}

/* Those at least e^part_log times as likely as the likeliest. */
static int filter_min_p(an_sampler_room *r, int n, double part_log)
{
    if (!(part_log > (double)-INFINITY)) return n;
    double least = r->logit[largest(r->logit, n)] + part_log;
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (r->logit[i] < least) continue;
        r->id[kept] = r->id[i];
        r->logit[kept++] = r->logit[i];
    }
    return kept;
}

/* ---------------------------------------------------------------- the draw */

/* The first token with which the sum is more than a uniform part of the whole. */
static int32_t draw(an_sampler_room *r, int n, const an_sample_row *row)
{
    double most = r->logit[largest(r->logit, n)];
    uint64_t sum = weigh_all(r->logit, n, most, row->heat_inverse, r->weight), reached = 0;
    uint64_t want = (uint64_t)((wide)row->uniform * sum >> 64);
    int i = 0;
    while ((reached += r->weight[i]) <= want) i++;
    return r->id[i];
}

static an_status choose(an_sampler_room *r, const an_draw *d, int32_t *id, an_error *err)
{
    int best = largest_float(d->logits, d->vocab);
    if (best < 0) return not_numbers(err);
    an_sample_row row;
    an_status s = an_sampling_row(r, d, &row, err);
    if (s) return s;
    bool greedy = row.heat_inverse == 0;
    if (greedy && only_bans_others(d, &row, best)) {
        *id = best;
        return AN_OK;
    }
    int n = collect(r, d, &row);
    if (n == 0) return no_token(err);
    if (greedy) {
        *id = r->id[largest(r->logit, n)];
        return AN_OK;
    }
    n = filter_top_k(r, n, row.top_k);
    n = filter_typical(r, n, row.typical_p);
    n = filter_top_p(r, n, row.top_p);
    n = filter_min_p(r, n, row.min_p_log);
    *id = draw(r, n, &row);
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

an_status an_sampled(int32_t id, an_drawn *out, an_error *err)
{
    *out = (an_drawn){.id = id};
    return id >= 0 ? AN_OK : id == AN_SAMPLE_NO_TOKEN ? no_token(err) : not_numbers(err);
}
