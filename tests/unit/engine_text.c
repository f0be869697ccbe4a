/* Text through the engine: the golden continuation; the same tokens and logprobs alone, in a crowd,
 * with any cut of prompts, with the prefix cache hit or missed, before and after preemption and
 * with pictures beside; crowds that come and go at random, after which every block is free. */
#include "anneal/weights.h"
#include "test.h"
#include "text_help.h"

static char models[512];

/* ---------------------------------------------------------------- requests */

static int32_t golden_prompt[20], golden_answer[40];

static bool read_golden(const char *model)
{
    char path[600];
    an_weights *w = NULL;
    an_tensor t;
    snprintf(path, sizeof path, "%s/llm/%s/expected.safetensors", AN_GOLDEN, model);
    if (an_weights_open(path, &w, NULL)) return false;
    bool ok =
        an_weights_find(w, "greedy_ids", &t) && t.dtype == AN_I32 && an_tensor_count(&t) == 60;
    if (ok) {
        memcpy(golden_prompt, t.data, sizeof golden_prompt);
        memcpy(golden_answer, (const int32_t *)t.data + 20, sizeof golden_answer);
    }
    an_weights_close(w);
    return ok;
}

static an_text_request greedy_request(const char *model, int tokens)
{
    an_text_request r;
    an_text_request_default(&r);
    r.model = model;
    r.ids = golden_prompt;
    r.n_ids = 20;
    r.max_tokens = tokens;
    r.sampling.temperature = 0;
    r.client = "tester";
    r.ignore_eos = true;
    return r;
}

static an_job *must_submit(an_engine *e, const an_text_request *r)
{
    an_job *j = NULL;
    an_error err = {0};
    an_status s = an_engine_submit_text(e, r, &j, &err);
    CHECK_MSG(s == AN_OK, "%s: %s", err.param, err.message);
    return j;
}

TEST(greedy_is_golden)
{
    an_engine *e = help_engine(models, "f32", NULL);
    REQUIRE(e);
    for (int m = 0; m < 3; m++) {
        REQUIRE(read_golden(TEXT_MODELS[m]));
        an_text_request r = greedy_request(TEXT_MODELS[m], 40);
        an_job *j = must_submit(e, &r);
        REQUIRE(j);
        an_job_info info = help_wait(j);
        CHECK_MSG(info.state == AN_JOB_DONE, "%s", info.error.message);
        an_text t;
        REQUIRE(an_job_text(j, 0, &t));
        CHECK(t.n_tokens == 40 && t.finish == AN_FINISH_LENGTH && t.text_len == 0);
        int wrong = 0;
        for (size_t i = 0; i < t.n_tokens && i < 40; i++)
            wrong += t.tokens[i].id != golden_answer[i];
        CHECK_MSG(wrong == 0, "%s: %d of 40 tokens differ", TEXT_MODELS[m], wrong);
        CHECK(info.step == 40 && info.steps == 40 && info.images == 0);
        an_job_unref(j);
    }
    CHECK(text_all_free(e));
    an_engine_free(e);
}

/* ---------------------------------------------------------------- many different requests */

#define CASES 32

typedef struct text_case {
    an_text_request r;
    int32_t ids[240];
    struct an_token_bias bias[2];
    const char *stop[2];
    int32_t stop_id;
    /* what came, alone */
    an_token *token[3];
    size_t n_token[3];
    char *text[3];
    size_t text_len[3];
    an_finish finish[3];
    an_token *prompt;
} text_case;

static text_case cases[CASES];

static uint64_t state = 1;
static uint64_t rnd(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}
static int below(int n)
{
    return (int)(rnd() % (uint64_t)n);
}

static double test_seconds(void)
{
    const char *s = getenv("AN_TEST_SECONDS");
    return s ? atof(s) : 2;
}

/* Prompts share beginnings of many lengths, so that prefixes are found. */
static void make_ids(text_case *c, const int32_t *common)
{
    int shared = below(3) ? below(160) : 0, n = shared + 1 + below(70);
    for (int i = 0; i < n; i++) c->ids[i] = i < shared ? common[i] : 3 + below(509);
    c->r.ids = c->ids;
    c->r.n_ids = (size_t)n;
}

static void make_case(text_case *c, const int32_t *common)
{
    an_text_request_default(&c->r);
    c->r.model = "babble";
    make_ids(c, common);
    c->r.n = 1 + (below(4) == 0) * below(3);
    c->r.max_tokens = 1 + below(below(2) ? 24 : 90);
    an_sampling *s = &c->r.sampling;
    s->seed = (int64_t)(rnd() >> 20);
    s->temperature = below(3) ? 0.3f + (float)below(20) / 10 : 0;
    if (below(2)) s->top_k = 1 + below(60);
    if (below(2)) s->top_p = 0.5f + (float)below(50) / 100;
    if (below(3) == 0) s->min_p = 0.02f;
    if (below(4) == 0) s->typical_p = 0.9f;
    if (below(3) == 0) s->repetition_penalty = 1.3f;
    if (below(3) == 0) s->presence_penalty = 0.4f;
    if (below(3) == 0) s->frequency_penalty = 0.3f;
    if (below(3) == 0) {
        c->bias[0] = (struct an_token_bias){below(512), 2};
        c->bias[1] = (struct an_token_bias){below(512), -INFINITY};
        s->bias = c->bias;
        s->n_bias = 2;
    }
    c->r.logprobs = below(3) ? below(6) - 1 : -1;
    c->r.echo_logprobs = below(6) == 0;
    c->r.ignore_eos = below(2);
    if (below(3) == 0) c->r.min_tokens = c->r.max_tokens / 2;
    if (below(3) == 0) {
        c->stop[0] = "ab";
        c->stop[1] = "e";
        c->r.stop = c->stop;
        c->r.n_stop = 2;
    }
    if (below(3) == 0) {
        c->stop_id = below(512);
        c->r.stop_ids = &c->stop_id;
        c->r.n_stop_ids = 1;
    }
    c->r.client = below(2) ? "one" : "another";
}

static bool same_tokens(const an_token *a, const an_token *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (a[i].id != b[i].id || a[i].n_top != b[i].n_top) return false;
        if (memcmp(&a[i].logprob, &b[i].logprob, sizeof(float)) != 0) return false;
        if (a[i].text_start != b[i].text_start || a[i].text_end != b[i].text_end) return false;
        for (int k = 0; k < a[i].n_top; k++)
            if (memcmp(&a[i].top[k], &b[i].top[k], sizeof *a[i].top) != 0) return false;
    }
    return true;
}

static an_token *copy_tokens(const an_token *t, size_t n)
{
    an_token *out = calloc(n + 1, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        out[i] = t[i];
        struct an_top *top = calloc((size_t)t[i].n_top + 1, sizeof *top);
        for (int k = 0; k < t[i].n_top; k++) top[k] = t[i].top[k];
        out[i].top = top;
    }
    return out;
}

static void free_tokens(an_token *t, size_t n)
{
    for (size_t i = 0; t && i < n; i++) free((void *)(uintptr_t)t[i].top);
    free(t);
}

static void remember(text_case *c, an_job *j)
{
    const an_token *p;
    size_t n;
    for (int i = 0; i < c->r.n; i++) {
        an_text t;
        if (!an_job_text(j, i, &t)) continue;
        c->n_token[i] = t.n_tokens;
        c->token[i] = copy_tokens(t.tokens, t.n_tokens);
        c->text[i] = calloc(t.text_len + 1, 1);
        memcpy(c->text[i], t.text, t.text_len);
        c->text_len[i] = t.text_len; /* a NUL may be in it */
        c->finish[i] = t.finish;
    }
    if (an_job_prompt(j, &p, &n)) {
        CHECK(n == c->r.n_ids && isnan(p[0].logprob));
        c->prompt = copy_tokens(p, n);
    }
}

static int differs(const text_case *c, an_job *j)
{
    const an_token *p;
    size_t n;
    for (int i = 0; i < c->r.n; i++) {
        an_text t;
        if (!an_job_text(j, i, &t) || t.n_tokens != c->n_token[i] || t.finish != c->finish[i])
            return 1;
        if (!same_tokens(t.tokens, c->token[i], t.n_tokens)) return 2;
        if (t.text_len != c->text_len[i] || memcmp(t.text, c->text[i], t.text_len) != 0) return 3;
    }
    if (c->r.echo_logprobs &&
        (!an_job_prompt(j, &p, &n) || !same_tokens(p + 1, c->prompt + 1, n - 1)))
        return 4;
    return 0;
}

static void no_prefix_cache(an_engine_options *o)
{
    o->prefix_cache = false;
    o->max_tokens = 128;
}

/* Each request alone on an engine that shares nothing: what the others must come to. */
static bool make_cases(void)
{
    const char *seed = getenv("AN_TEST_SEED");
    state = seed ? strtoull(seed, NULL, 10) : (uint64_t)(an_now_s() * 1e9);
    printf("  AN_TEST_SEED=%llu\n", (unsigned long long)state);
    int32_t common[160];
    for (int i = 0; i < 160; i++) common[i] = 3 + below(509);
    an_engine *e = help_engine(models, "f32", no_prefix_cache);
    if (!e) return false;
    for (int i = 0; i < CASES; i++) {
        make_case(&cases[i], common);
        an_job *j = must_submit(e, &cases[i].r);
        if (!j) continue;
        an_job_info info = help_wait(j);
        CHECK_MSG(info.state == AN_JOB_DONE, "case %d: %s", i, info.error.message);
        remember(&cases[i], j);
        an_job_unref(j);
    }
    an_engine_free(e);
    return true;
}

static void forget_cases(void)
{
    for (int i = 0; i < CASES; i++) {
        for (int k = 0; k < 3; k++) {
            free_tokens(cases[i].token[k], cases[i].n_token[k]);
            free(cases[i].text[k]);
        }
        free_tokens(cases[i].prompt, cases[i].r.n_ids);
    }
    memset(cases, 0, sizeof cases);
}

TEST(alone)
{
    REQUIRE(make_cases());
    int tokens = 0, stopped = 0;
    for (int i = 0; i < CASES; i++) {
        tokens += (int)cases[i].n_token[0];
        stopped += cases[i].finish[0] == AN_FINISH_STOP;
    }
    printf("  %d tokens, %d of %d answers stopped by themselves\n", tokens, stopped, CASES);
}

static an_job *picture(an_engine *e, int i)
{
    an_image_request r;
    an_image_request_default(&r);
    r.model = "sd1";
    r.prompt = "an owl";
    r.width = r.height = 32;
    r.steps = 12;
    r.seed = i;
    r.client = i % 2 ? "one" : "painter";
    an_job *j = NULL;
    CHECK(an_engine_submit(e, &r, &j, NULL) == AN_OK);
    return j;
}

/* All at once, in any order, `rounds` times: the second time prefixes are found. */
static an_engine_stats crowd(void (*adjust)(an_engine_options *), int rounds, int pictures)
{
    an_engine_stats s = {0};
    an_engine *e = help_engine(models, "f32", adjust);
    if (!e) return s;
    while (!an_engine_ready(e)) usleep(1000);
    for (int round = 0; round < rounds; round++) {
        an_job *job[CASES] = {0}, *drawn[8] = {0};
        int first = below(CASES);
        help_gate gate;
        help_hold(e, &gate); /* they meet, however slow this thread is */
        for (int i = 0; i < pictures; i++) drawn[i] = picture(e, i);
        for (int i = 0; i < CASES; i++) {
            int c = (first + i * 5) % CASES; /* 5 and 32 share no factor */
            job[c] = must_submit(e, &cases[c].r);
        }
        help_release(&gate);
        for (int i = 0; i < CASES; i++) {
            if (!job[i]) continue;
            an_job_info info = help_wait(job[i]);
            CHECK_MSG(info.state == AN_JOB_DONE, "case %d: %s", i, info.error.message);
            int what = differs(&cases[i], job[i]);
            CHECK_MSG(what == 0, "round %d: case %d differs (%d)", round, i, what);
            an_job_unref(job[i]);
        }
        for (int i = 0; i < pictures; i++) {
            if (drawn[i]) CHECK(help_wait(drawn[i]).state == AN_JOB_DONE);
            an_job_unref(drawn[i]);
        }
    }
    CHECK(text_all_free(e));
    an_engine_get_stats(e, &s);
    an_engine_free(e);
    return s;
}

TEST(in_a_crowd)
{
    an_engine_stats s = crowd(NULL, 2, 0);
    printf("  %.1f rows a tick, %llu of %llu prompt tokens found\n",
           (double)s.rows[AN_STAGE_FORWARD] / (double)s.ticks[AN_STAGE_FORWARD],
           (unsigned long long)s.prefix_hits, (unsigned long long)s.prefix_queries);
    CHECK(s.rows[AN_STAGE_FORWARD] > 3 * s.ticks[AN_STAGE_FORWARD]);
    CHECK(s.prefix_hits > 0 && s.prefix_hits < s.prefix_queries);
    CHECK(s.finished_stop + s.finished_length > 2 * CASES - 1 && s.finished_abort == 0);
    CHECK(s.preemptions == 0);
    CHECK(s.first_token_s.total == 2 * CASES && s.token_s.total > 0);
}

TEST(without_prefix_cache)
{
    crowd(no_prefix_cache, 2, 0);
}

static void short_ticks(an_engine_options *o)
{
    o->tick_tokens = 16;
}

TEST(prompts_in_small_pieces)
{
    an_engine_stats s = crowd(short_ticks, 2, 0);
    CHECK(s.tick_tokens.count[5] == s.tick_tokens.total); /* 32 or fewer */
}

/* 20 blocks: a few of these sequences at a time, and each grows. */
static void small_pool(an_engine_options *o)
{
    o->kv_bytes = 20 * 12288;
}

TEST(thrown_out_and_computed_again)
{
    an_engine_stats s = crowd(small_pool, 2, 0);
    /* 4 to 21 times, as the order falls; rarely never */
    for (int i = 0; i < 9 && s.preemptions == 0; i++) s = crowd(small_pool, 2, 0);
    CHECK_MSG(s.kv_blocks == 20, "%lld blocks", (long long)s.kv_blocks);
    printf("  %llu preemptions\n", (unsigned long long)s.preemptions);
    CHECK(s.preemptions > 0);
}

TEST(beside_pictures)
{
    an_engine_stats s = crowd(NULL, 1, 8);
    CHECK(s.images_done == 8);
}

/* ---------------------------------------------------------------- coming and going */

typedef struct reader {
    an_job *job;
    pthread_t thread;
    size_t bytes;
    int broken; /* times that the text was not UTF-8, or shrank */
} reader;

/* Reads everything there is, again and again, while it grows. */
static void *read_on(void *ctx)
{
    reader *r = ctx;
    size_t len[3] = {0}, tokens[3] = {0};
    bool end;
    do {
        end = an_job_finished(r->job);
        for (int i = 0; i < 3; i++) {
            an_text t;
            if (!an_job_text(r->job, i, &t)) break;
            for (size_t k = 0; k < t.text_len; k++) r->bytes += (unsigned char)t.text[k];
            for (size_t k = 0; k < t.n_tokens; k++) {
                r->bytes += (size_t)t.tokens[k].id;
                for (int m = 0; m < t.tokens[k].n_top; m++)
                    r->bytes += (size_t)t.tokens[k].top[m].id;
            }
            r->broken += t.text_len < len[i] || t.n_tokens < tokens[i];
            r->broken += !an_utf8_valid(t.text, t.text_len);
            len[i] = t.text_len;
            tokens[i] = t.n_tokens;
        }
        usleep(300);
    } while (!end);
    return NULL;
}

static void few_at_once(an_engine_options *o)
{
    o->kv_bytes = 40 * 12288;
    o->max_sequences = 12;
    o->max_queue = 20;
    o->tick_tokens = 64;
    o->device.threads = 1;
}

#define PLACES 16

TEST(come_and_go)
{
    an_engine *e = help_engine(models, "f32", few_at_once);
    REQUIRE(e);
    reader place[PLACES] = {0};
    int which[PLACES], compared = 0, cancelled = 0, busy = 0;
    double until = an_now_s() + test_seconds();
    /* A slow machine, or a sanitizer, gets the time it needs for a few of each. */
    while (an_now_s() < until || ((!compared || !cancelled) && an_now_s() < until + 60)) {
        int p = below(PLACES);
        reader *r = &place[p];
        if (!r->job) {
            which[p] = below(CASES);
            if (an_engine_submit_text(e, &cases[which[p]].r, &r->job, NULL) == AN_BUSY) busy++;
            if (r->job) pthread_create(&r->thread, NULL, read_on, r);
        } else if (below(4) == 0 || an_job_finished(r->job)) {
            if (below(2)) an_job_cancel(r->job);
            an_job_info info = help_wait(r->job);
            pthread_join(r->thread, NULL);
            if (info.state == AN_JOB_DONE) {
                CHECK(differs(&cases[which[p]], r->job) == 0);
                compared++;
            } else {
                CHECK_MSG(info.state == AN_JOB_CANCELED, "%s", info.error.message);
                cancelled++;
            }
            CHECK(r->broken == 0);
            an_job_unref(r->job);
            *r = (reader){0};
        }
        usleep((useconds_t)below(3000));
    }
    for (int p = 0; p < PLACES; p++) {
        if (!place[p].job) continue;
        an_job_cancel(place[p].job);
        pthread_join(place[p].thread, NULL);
        an_job_unref(place[p].job);
    }
    printf("  %d compared, %d cancelled, %d refused\n", compared, cancelled, busy);
    CHECK(compared > 0 && cancelled > 0);
    CHECK(text_all_free(e));
    an_engine_free(e);
    forget_cases();
}

static void many_threads(an_engine_options *o)
{
    o->device.threads = 8;
}

/* A tokenizer that knows a token more than the model has logits, as one with an added <pad> does:
 * its mask must not reach into that of the answer beside it, where the grammar would seem to allow
 * token 0, nor beyond the last. Token 0 has a bias so that it is drawn wherever it is allowed. */
TEST(a_tokenizer_larger_than_the_model)
{
    REQUIRE(text_make_speaker(models, "wide", 513));
    an_engine *e = help_engine(models, "f32", many_threads);
    REQUIRE(e);
    static const char letters[] = "root ::= [a-z]*"; /* the token too many is "js" */
    an_grammar *g = NULL;
    an_error err = {0};
    REQUIRE(an_grammar_gbnf(letters, strlen(letters), NULL, &g, &err) == AN_OK);
    struct an_token_bias pad = {0, 1000};
    an_text_request r = greedy_request("wide", 100);
    r.ignore_eos = false;
    r.min_tokens = 100;
    r.n = 16;
    r.grammar = g;
    r.sampling.temperature = 1;
    r.sampling.seed = 1;
    r.sampling.bias = &pad;
    r.sampling.n_bias = 1;
    an_job *j = must_submit(e, &r);
    REQUIRE(j);
    an_job_info info = help_wait(j);
    CHECK_MSG(info.state == AN_JOB_DONE, "%s", info.error.message);
    for (int i = 0; i < r.n; i++) {
        an_text t;
        REQUIRE(an_job_text(j, i, &t));
        CHECK_MSG(t.n_tokens == 100, "answer %d has %zu tokens", i, t.n_tokens);
        for (size_t k = 0; k < t.text_len; k++) CHECK(t.text[k] >= 'a' && t.text[k] <= 'z');
    }
    an_job_unref(j);
    an_grammar_unref(g);
    CHECK(text_all_free(e));
    an_engine_free(e);
    text_unmake_speaker(models, "wide");
}

int main(int argc, char **argv)
{
    if (!text_link_models(models, sizeof models)) return 1;
    int r = test_main(argc, argv);
    text_unlink_models(models);
    return r;
}
