/* Sampling: small cases worked out by hand, thousands of random ones against a slow and plain
 * sampler written here, the spread of draws, and what odd logits do. */
#include "anneal/engine.h"
#include "sampling.h"
#include "test.h"

#include <time.h>

static an_sampler_room room;

static an_sampling plain(void)
{
    an_text_request r;
    an_text_request_default(&r);
    r.sampling.seed = 1;
    return r.sampling;
}

static uint64_t rnd_state = 88172645463325252u;
static uint64_t rnd(void)
{
    rnd_state ^= rnd_state << 13;
    rnd_state ^= rnd_state >> 7;
    rnd_state ^= rnd_state << 17;
    return rnd_state;
}
static double rnd_unit(void)
{
    return (double)(rnd() >> 11) * 0x1p-53;
}

/* ---------------------------------------------------------------- the slow one */

#define V_MOST 400

typedef struct slow {
    double l[V_MOST], p[V_MOST], key[V_MOST];
    bool in[V_MOST];
    int n;
} slow;

static void slow_softmax(slow *s, double heat)
{
    double most = -INFINITY, sum = 0;
    for (int i = 0; i < s->n; i++)
        if (s->in[i] && s->l[i] > most) most = s->l[i];
    for (int i = 0; i < s->n; i++) {
        s->p[i] = s->in[i] ? exp((s->l[i] - most) / heat) : 0;
        sum += s->p[i];
    }
    for (int i = 0; i < s->n; i++) s->p[i] /= sum;
}

/* Keeps the ones with the largest keys: `count` of them, or until their probabilities reach `mass`.
 */
static void slow_keep(slow *s, int count, double mass)
{
    bool keep[V_MOST] = {false};
    double reached = 0;
    for (int k = 0; k < count && reached < mass - 1e-13; k++) {
        int best = -1;
        for (int i = 0; i < s->n; i++)
            if (s->in[i] && !keep[i] && (best < 0 || s->key[i] > s->key[best])) best = i;
        if (best < 0) break;
        keep[best] = true;
        reached += s->p[best];
    }
    for (int i = 0; i < s->n; i++) s->in[i] = s->in[i] && keep[i];
}

static void slow_penalties(slow *s, const an_draw *d)
{
    const an_sampling *o = d->s;
    for (int i = 0; i < o->n_bias; i++) s->l[o->bias[i].id] += (double)o->bias[i].bias;
    for (int id = 0; id < s->n; id++) {
        int near = 0, made = 0;
        for (int k = 0; k < d->n_ids; k++) {
            bool last = o->repeat_last_n < 0 || k >= d->n_ids - o->repeat_last_n;
            near += d->ids[k] == id && last;
            made += d->ids[k] == id && k >= d->n_prompt;
        }
        double p = (double)o->repetition_penalty;
        if (near) s->l[id] = s->l[id] > 0 ? s->l[id] / p : s->l[id] * p;
        if (made) s->l[id] -= (double)o->presence_penalty + (double)o->frequency_penalty * made;
    }
    for (int i = 0; i < d->n_ban; i++) s->in[d->ban[i]] = false;
    for (int i = 0; i < s->n; i++)
        if ((d->mask && !d->mask[i]) || s->l[i] == (double)-INFINITY) s->in[i] = false;
}

static void slow_filters(slow *s, const an_sampling *o)
{
    memcpy(s->key, s->l, sizeof s->key);
    slow_softmax(s, 1);
    if (o->top_k > 0) slow_keep(s, o->top_k, 2);
    slow_softmax(s, 1);
    double entropy = 0;
    for (int i = 0; i < s->n; i++)
        if (s->p[i] > 0) entropy -= s->p[i] * log(s->p[i]);
    for (int i = 0; i < s->n; i++) s->key[i] = -fabs(-log(s->p[i]) - entropy);
    if (o->typical_p < 1) slow_keep(s, s->n, (double)o->typical_p);
    memcpy(s->key, s->l, sizeof s->key);
    slow_softmax(s, 1);
    if (o->top_p < 1) slow_keep(s, s->n, (double)o->top_p);
    slow_softmax(s, 1);
    double most = 0;
    for (int i = 0; i < s->n; i++) most = s->p[i] > most ? s->p[i] : most;
    for (int i = 0; i < s->n; i++)
        if (s->p[i] < (double)o->min_p * most) s->in[i] = false;
}

/* -1: nothing is left. */
static int slow_sample(const an_draw *d)
{
    static slow s;
    s.n = d->vocab;
    bool any = false;
    for (int i = 0; i < s.n; i++) {
        s.l[i] = (double)d->logits[i];
        s.in[i] = true;
    }
    slow_penalties(&s, d);
    int best = -1;
    for (int i = 0; i < s.n; i++) {
        any |= s.in[i];
        if (s.in[i] && (best < 0 || s.l[i] > s.l[best])) best = i;
    }
    if (!any || d->s->temperature == 0) return best;
    slow_filters(&s, d->s);
    slow_softmax(&s, (double)d->s->temperature);
    double u = an_rng_uniform(d->seed, d->index), reached = 0;
    int last = -1;
    for (int i = 0; i < s.n; i++) {
        if (!s.in[i] || !(s.p[i] > 0)) continue;
        last = i;
        reached += s.p[i];
        if (reached > u) break;
    }
    return last;
}

/* ---------------------------------------------------------------- by hand */

static int32_t draw_of(const float *logits, int n, const an_sampling *s, uint64_t index)
{
    an_draw d = {.s = s, .logits = logits, .vocab = n, .seed = 7, .index = index, .logprobs = -1};
    an_drawn out = {.id = -1};
    an_error err = {0};
    CHECK_MSG(an_sample(&room, &d, &out, &err) == AN_OK, "%s", err.message);
    return out.id;
}

/* Which ids come in 2000 draws, as bits. */
static unsigned support(const float *logits, int n, const an_sampling *s)
{
    unsigned seen = 0;
    for (uint64_t i = 0; i < 2000; i++) seen |= 1u << draw_of(logits, n, s, i);
    return seen;
}

TEST(filters_by_hand)
{
    /* probabilities 0.4 0.3 0.2 0.1 at ids 2 0 3 1 */
    const float l[4] = {logf(0.3f), logf(0.1f), logf(0.4f), logf(0.2f)};
    const struct {
        int k;
        float typical, p, min;
        unsigned want;
    } t[] = {
        {0, 1, 1, 0, 15},
        {1, 1, 1, 0, 4},
        {2, 1, 1, 0, 5},
        {3, 1, 1, 0, 13},
        {4, 1, 1, 0, 15},
        {0, 1, 0.35f, 0, 4},
        {0, 1, 0.45f, 0, 5},
        {0, 1, 0.75f, 0, 13},
        {0, 1, 0.95f, 0, 15},
        {0, 1, 0, 0, 4},
        {0, 1, 1, 0.9f, 4},
        {0, 1, 1, 0.7f, 5},
        {0, 1, 1, 0.3f, 13},
        {0, 1, 1, 0.2f, 15},
        {0, 1, 1, 1, 4},
        /* entropy 1.2799: surprises 0.916 1.204 1.609 2.303: nearest are 0.3, then 0.2, 0.4, 0.1 */
        {0, 0.25f, 1, 0, 1},
        {0, 0.4f, 1, 0, 9},
        {0, 0.6f, 1, 0, 13},
        {0, 0.95f, 1, 0, 15},
        {0, 0, 1, 0, 1},
        /* of the two of top_k, 0.4/0.7 = 0.571 reaches 0.5 alone, and not 0.6 */
        {2, 1, 0.5f, 0, 4},
        {2, 1, 0.6f, 0, 5},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        an_sampling s = plain();
        s.top_k = t[i].k;
        s.typical_p = t[i].typical;
        s.top_p = t[i].p;
        s.min_p = t[i].min;
        unsigned got = support(l, 4, &s);
        CHECK_MSG(got == t[i].want, "case %zu: %x, wanted %x", i, got, t[i].want);
    }
}

TEST(penalties_by_hand)
{
    const float l[3] = {1, 2, -1};
    const int32_t ids[5] = {1, 1, 0, 1, 2}; /* the prompt is the first three */
    an_sampling s = plain();
    s.temperature = 0;
    an_draw d = {.s = &s, .logits = l, .vocab = 3, .ids = ids, .n_prompt = 3, .n_ids = 5};
    d.logprobs = -1;
    an_drawn out;
    const struct {
        float repetition, presence, frequency;
        int last, want;
    } t[] = {{1, 0, 0, -1, 1},
             {1.5f, 0, 0, -1, 1}, /* 0.67, 1.33, -1.5 */
             {2.5f, 0, 0, 2, 0},  /* the 0 of the prompt is out of sight */
             {1, 1.5f, 0, -1, 0}, /* 1, 0.5, -2.5 */
             {1, 0.5f, 0.5f, -1, 0 /* 1, 1: the lower id */},
             {1, 0, 0.9f, -1, 1},
             {1, -3, 0, -1, 1}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        s.repetition_penalty = t[i].repetition;
        s.presence_penalty = t[i].presence;
        s.frequency_penalty = t[i].frequency;
        s.repeat_last_n = t[i].last;
        CHECK(an_sample(&room, &d, &out, NULL) == AN_OK);
        CHECK_MSG(out.id == t[i].want, "case %zu: %d, wanted %d", i, out.id, t[i].want);
    }
}

TEST(bias_bans_and_masks)
{
    const float l[4] = {1, 4, 3, 2};
    const struct an_token_bias bias[2] = {{1, -INFINITY}, {3, 1.5f}};
    const int32_t ban[2] = {3, 1};
    const uint8_t mask[4] = {1, 0, 0, 0}, none[4] = {0};
    an_sampling s = plain();
    s.temperature = 0;
    CHECK(draw_of(l, 4, &s, 0) == 1);
    s.bias = bias;
    s.n_bias = 2;
    CHECK(draw_of(l, 4, &s, 0) == 3);
    an_draw d = {.s = &s, .logits = l, .vocab = 4, .ban = ban, .n_ban = 2, .logprobs = 0};
    an_drawn out;
    an_error err = {0};
    CHECK(an_sample(&room, &d, &out, &err) == AN_OK && out.id == 2);
    /* the logprob is the model's own, whatever was done to the logits after */
    CHECK_NEAR(out.logprob, 3 - log(exp(1) + exp(2) + exp(3) + exp(4)), 1e-6);
    d.mask = mask;
    CHECK(an_sample(&room, &d, &out, &err) == AN_OK && out.id == 0);
    d.mask = none;
    CHECK(an_sample(&room, &d, &out, &err) == AN_NOT_FOUND);
    s.temperature = 1;
    CHECK(an_sample(&room, &d, &out, &err) == AN_NOT_FOUND);
}

TEST(ties_go_to_the_lowest_id)
{
    float l[1000];
    for (int i = 0; i < 1000; i++) l[i] = i % 7 == 3 ? 2.5f : 0;
    an_sampling s = plain();
    s.temperature = 0;
    CHECK(draw_of(l, 1000, &s, 0) == 3);
    s.presence_penalty = 0.5f; /* the other way to be greedy */
    CHECK(draw_of(l, 1000, &s, 0) == 3);
    s = plain();
    s.top_k = 2;
    for (uint64_t i = 0; i < 50; i++) {
        int32_t id = draw_of(l, 1000, &s, i);
        CHECK(id == 3 || id == 10);
    }
}

TEST(odd_logits_fail_alone)
{
    an_sampling s = plain();
    an_draw d = {.s = &s, .vocab = 5, .logprobs = 2};
    an_drawn out;
    for (int greedy = 0; greedy < 2; greedy++)
        for (int at = 0; at < 5; at++) {
            float l[5] = {1, 2, 3, 4, 5};
            s.temperature = greedy ? 0 : 1;
            d.logits = l;
            CHECK(an_sample(&room, &d, &out, NULL) == AN_OK);
            l[at] = NAN;
            CHECK(an_sample(&room, &d, &out, NULL) == AN_INTERNAL);
            l[at] = INFINITY;
            CHECK(an_sample(&room, &d, &out, NULL) == AN_INTERNAL);
            l[at] = -INFINITY;
            CHECK(an_sample(&room, &d, &out, NULL) == AN_OK && out.id != at);
        }
    float nothing[3] = {-INFINITY, -INFINITY, -INFINITY};
    s = plain();
    d = (an_draw){.s = &s, .logits = nothing, .vocab = 3, .logprobs = -1};
    CHECK(an_sample(&room, &d, &out, NULL) == AN_NOT_FOUND);
}

/* ---------------------------------------------------------------- many */

static void random_case(an_draw *d, an_sampling *s, float *l, int32_t *ids, uint8_t *mask,
                        struct an_token_bias *bias, int32_t *ban)
{
    *s = plain();
    int vocab = 1 + (int)(rnd() % V_MOST);
    double spread = rnd_unit() * 12;
    for (int i = 0; i < vocab; i++) l[i] = (float)((rnd_unit() + rnd_unit() - 1) * spread);
    if (rnd() % 3 == 0) /* ties */
        for (int i = 0; i < vocab; i++) l[i] = (float)((int)l[i]);
    s->temperature = rnd() % 5 ? (float)(0.05 + rnd_unit() * 3) : 0;
    if (rnd() % 2) s->top_k = (int)(rnd() % 50);
    if (rnd() % 2) s->top_p = (float)rnd_unit();
    if (rnd() % 3 == 0) s->min_p = (float)rnd_unit();
    if (rnd() % 3 == 0) s->typical_p = (float)(0.1 + 0.85 * rnd_unit());
    if (rnd() % 3 == 0) s->repetition_penalty = (float)(0.5 + rnd_unit());
    if (rnd() % 3 == 0) s->presence_penalty = (float)(rnd_unit() * 4 - 2);
    if (rnd() % 3 == 0) s->frequency_penalty = (float)(rnd_unit() * 2 - 1);
    if (rnd() % 2) s->repeat_last_n = (int)(rnd() % 40);
    *d = (an_draw){.s = s, .logits = l, .vocab = vocab, .ids = ids, .logprobs = -1};
    d->n_ids = (int)(rnd() % 60);
    d->n_prompt = d->n_ids ? (int)(rnd() % (uint64_t)d->n_ids) : 0;
    for (int i = 0; i < d->n_ids; i++) ids[i] = (int32_t)(rnd() % (uint64_t)vocab);
    s->n_bias = (int)(rnd() % 4);
    for (int i = 0; i < s->n_bias; i++)
        bias[i] = (struct an_token_bias){(int32_t)(rnd() % (uint64_t)vocab),
                                         rnd() % 4 ? (float)(rnd_unit() * 6 - 3) : -INFINITY};
    s->bias = bias;
    d->n_ban = (int)(rnd() % 3);
    for (int i = 0; i < d->n_ban; i++) ban[i] = (int32_t)(rnd() % (uint64_t)vocab);
    d->ban = ban;
    if (rnd() % 3 == 0) {
        for (int i = 0; i < vocab; i++) mask[i] = rnd() % 3 > 0;
        d->mask = mask;
    }
    d->seed = rnd();
    d->index = rnd() % 1000;
}

TEST(as_a_plain_sampler_does)
{
    static float l[V_MOST];
    int32_t ids[60], ban[3];
    uint8_t mask[V_MOST];
    struct an_token_bias bias[4];
    int wrong = 0, none = 0, ties = 0, cases = 20000;
    for (int i = 0; i < cases; i++) {
        an_sampling s;
        an_draw d;
        random_case(&d, &s, l, ids, mask, bias, ban);
        an_drawn out;
        an_status st = an_sample(&room, &d, &out, NULL);
        int want = slow_sample(&d);
        none += want < 0;
        bool same = want < 0 ? st == AN_NOT_FOUND : st == AN_OK && out.id == want;
        if (!same && s.typical_p < 1) {
            ties++; /* typical's keys of equal logits are equal but for rounding */
            continue;
        }
        wrong += !same;
        if (!same && wrong < 5)
            printf("  case %d: %d, wanted %d (k %d p %g min %g t %g)\n", i, out.id, want, s.top_k,
                   (double)s.top_p, (double)s.min_p, (double)s.temperature);
    }
    CHECK_MSG(wrong == 0, "%d of %d differ", wrong, cases);
    CHECK_MSG(ties < 20, "%d differ where typical_p was on", ties);
    CHECK(none > 10 && none < cases / 10);
}

/* Pearson's chi-square of 20000 draws; 30 bins and a limit passed by chance once in 10^6. */
TEST(draws_are_spread_as_they_should)
{
    enum { N = 31, DRAWS = 20000 };
    float l[N];
    double p[N], sum = 0, heat = 0.8;
    for (int i = 0; i < N; i++) {
        l[i] = (float)(rnd_unit() * 3);
        p[i] = exp((double)l[i] / heat);
        sum += p[i];
    }
    an_sampling s = plain();
    s.temperature = (float)heat;
    int count[N] = {0};
    for (uint64_t i = 0; i < DRAWS; i++) count[draw_of(l, N, &s, i)]++;
    double chi = 0;
    for (int i = 0; i < N; i++) {
        double want = p[i] / sum * DRAWS;
        chi += (count[i] - want) * (count[i] - want) / want;
    }
    CHECK_MSG(chi < 83, "chi-square %.1f with 30 degrees of freedom", chi);
    CHECK_MSG(chi > 5, "chi-square %.1f: too good", chi);
}

TEST(logprobs_are_log_softmax)
{
    static float l[5000];
    double sum = 0;
    for (int i = 0; i < 5000; i++) {
        l[i] = (float)(rnd_unit() * 30 - 15);
        sum += exp((double)l[i]);
    }
    an_drawn out;
    REQUIRE(an_logprobs(&room, l, 5000, 77, 20, &out, NULL) == AN_OK);
    CHECK_NEAR(out.logprob, (double)l[77] - log(sum), 1e-6);
    CHECK(out.n_top == 20);
    for (int i = 0; i < 20; i++) {
        CHECK_NEAR(out.top[i].logprob, (double)l[out.top[i].id] - log(sum), 1e-6);
        if (i) CHECK(out.top[i - 1].logprob >= out.top[i].logprob);
    }
    int above = 0;
    for (int i = 0; i < 5000; i++) above += l[i] > l[out.top[19].id];
    CHECK(above == 19);
    REQUIRE(an_logprobs(&room, l, 3, 1, 20, &out, NULL) == AN_OK);
    CHECK(out.n_top == 3);
}

/* Exactly what a filter keeps of everything: nothing changes. */
TEST(filters_that_keep_all_change_nothing)
{
    static float l[1000];
    for (int i = 0; i < 1000; i++) l[i] = (float)(rnd_unit() * 8);
    an_sampling off = plain(), on = plain();
    on.top_k = 1000;
    on.min_p = 1e-30f;
    for (uint64_t i = 0; i < 200; i++) CHECK(draw_of(l, 1000, &off, i) == draw_of(l, 1000, &on, i));
}

static double time_of(const float *l, int n, const an_sampling *s, int logprobs)
{
    an_draw d = {.s = s, .logits = l, .vocab = n, .seed = 3, .logprobs = logprobs};
    an_drawn out;
    clock_t start = clock();
    for (int i = 0; i < 20; i++) {
        d.index = (uint64_t)i;
        CHECK(an_sample(&room, &d, &out, NULL) == AN_OK);
    }
    return (double)(clock() - start) / CLOCKS_PER_SEC / 20 * 1e6;
}

TEST(large_vocabularies_are_quick)
{
    enum { N = 256000 };
    float *l = malloc(N * sizeof *l);
    REQUIRE(l);
    for (int i = 0; i < N; i++) {
        double u = rnd_unit() + rnd_unit() + rnd_unit() + rnd_unit() - 2;
        l[i] = (float)(u * 6);
    }
    an_sampling s = plain();
    double all = time_of(l, N, &s, -1), logprobs = time_of(l, N, &s, 5);
    s.top_p = 0.9f;
    double p = time_of(l, N, &s, -1);
    s.top_k = 40;
    double k = time_of(l, N, &s, -1);
    s = plain();
    s.temperature = 0;
    double greedy = time_of(l, N, &s, -1);
    printf("  256000 tokens, microseconds: greedy %.0f, all %.0f, top_p %.0f, top_k %.0f, "
           "logprobs %.0f\n",
           greedy, all, p, k, logprobs);
#if !defined AN_SANITIZE_address && !defined AN_SANITIZE_thread
    CHECK(greedy < 20000 && all < 100000 && p < 200000 && k < 100000);
#endif
    free(l);
}

int main(int argc, char **argv)
{
    int r = test_main(argc, argv);
    an_sampler_room_free(&room);
    return r;
}
