/* What ends an answer and what of it is seen: stop strings across tokens, end tokens, characters
 * cut in two, choices, usage; refusals that name their field; a model whose numbers are broken for
 * one token. The text is forced: biases and a frequency penalty make the model say its letters in
 * turn. */
#include "test.h"
#include "text_help.h"

#include <jansson.h>

static char models[512];
static an_engine *engine;
static const int32_t prompt[20] = {5,  6,  7,  8,  9,  10, 11, 12, 13, 14,
                                   15, 16, 17, 18, 19, 20, 21, 22, 23, 24};

/* A request whose answer is `letters` again and again. */
typedef struct forced {
    an_text_request r;
    struct an_token_bias bias[16];
} forced;

static void force_id(forced *f, int32_t id)
{
    int n = f->r.sampling.n_bias++;
    f->bias[n] = (struct an_token_bias){id, 9900 - 10 * (float)n};
    f->r.sampling.bias = f->bias;
}

static void force(forced *f, const char *letters, int tokens)
{
    an_text_request_default(&f->r);
    f->r.model = "babble";
    f->r.ids = prompt;
    f->r.n_ids = 20;
    f->r.max_tokens = tokens;
    f->r.sampling.temperature = 0;
    f->r.sampling.frequency_penalty = 100;
    for (const char *c = letters; *c; c++) force_id(f, BYTE_ID(*c));
}

static an_job *run(const an_text_request *r, an_text *t)
{
    an_job *j = NULL;
    an_error err = {0};
    an_status s = an_engine_submit_text(engine, r, &j, &err);
    CHECK_MSG(s == AN_OK, "%s: %s", err.param, err.message);
    if (!j) return NULL;
    an_job_info info = help_wait(j);
    CHECK_MSG(info.state == AN_JOB_DONE, "%s", info.error.message);
    CHECK(an_job_text(j, 0, t));
    return j;
}

static bool text_is(const an_text *t, const char *want)
{
    bool same = t->text_len == strlen(want) && memcmp(t->text, want, t->text_len) == 0;
    if (!same) printf("  '%.*s', wanted '%s'\n", (int)t->text_len, t->text, want);
    return same;
}

TEST(stop_strings)
{
    static const struct {
        const char *letters, *stop[3];
        int tokens, min, want_tokens;
        const char *want, *why;
    } t[] = {
        {"abcd", {NULL}, 6, 0, 6, "abcdab", NULL},
        {"abcd", {"cd"}, 20, 0, 4, "ab", "cd"},
        {"abcd", {"da"}, 20, 0, 5, "abc", "da"},
        {"abcd", {"a"}, 20, 0, 1, "", "a"},
        {"abcd", {"bcd", "b"}, 20, 0, 2, "a", "b"},
        {"abcd", {"bcd", "cd", "abcd"}, 20, 0, 4, "", "abcd"}, /* the one that begins first */
        {"abcd", {"dab", "cdx"}, 20, 0, 6, "abc", "dab"},
        {"abcd", {"cdx"}, 4, 0, 4, "abcd", NULL}, /* held back until the end, then said */
        {"abcd", {"abcdabcdabcdx"}, 9, 0, 9, "abcdabcda", NULL},
        {"abcd", {"dabcdabca"}, 12, 0, 12, "abcdabcdabcd", NULL},
        {"abcd", {"cd"}, 20, 4, 4, "ab", "cd"},
        {"abcd", {"cd"}, 20, 5, 8, "abcdab", "cd"}, /* what came too early does not count */
        {"abcd", {"dab"}, 20, 6, 6, "abc", "dab"},  /* nor is it forgotten where it began */
        {"abcd", {"ab"}, 2, 0, 2, "", "ab"},
        {"\xC3\xA9z", {"\xC3\xA9"}, 9, 0, 2, "", "\xC3\xA9"},
        {"z\xC3\xA9", {"\xC3\xA9z"}, 9, 0, 4, "z", "\xC3\xA9z"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        forced f = {0};
        force(&f, t[i].letters, t[i].tokens);
        f.r.stop = t[i].stop;
        while (f.r.n_stop < 3 && t[i].stop[f.r.n_stop]) f.r.n_stop++;
        f.r.min_tokens = t[i].min;
        an_text x;
        an_job *j = run(&f.r, &x);
        REQUIRE(j);
        CHECK_MSG(text_is(&x, t[i].want), "case %zu", i);
        CHECK_MSG((int)x.n_tokens == t[i].want_tokens, "case %zu: %zu tokens", i, x.n_tokens);
        CHECK(x.finish == (t[i].why ? AN_FINISH_STOP : AN_FINISH_LENGTH));
        if (t[i].why)
            CHECK_STR(x.stop, t[i].why);
        else
            CHECK(x.stop == NULL);
        for (size_t k = 0; k < x.n_tokens; k++)
            CHECK(x.tokens[k].text_end <= x.text_len &&
                  x.tokens[k].text_start <= x.tokens[k].text_end);
        an_job_unref(j);
    }
}

/* While it runs, nothing is seen that could still become part of a stop string. Looks at how much
 * is seen as often as it can; returns how often that was something. */
static int watch_text(an_job *j)
{
    int looked = 0;
    size_t before = 0;
    bool end;
    do {
        an_text x;
        end = an_job_finished(j);
        CHECK(an_job_text(j, 0, &x));
        CHECK(x.text_len >= before);
        if (x.finish == AN_FINISH_NONE && x.text_len > 1 && x.text_len > before) {
            /* abcdabcd...: it never ends in c, cd, cda, cdab or cdabc */
            CHECK_MSG(x.text_len % 4 == 2, "%zu bytes are seen", x.text_len);
            CHECK(x.n_tokens == x.text_len);
            looked++;
        }
        before = x.text_len;
    } while (!end);
    return looked;
}

TEST(what_may_be_a_stop_string_waits)
{
    const char *stop = "cdabcx";
    int looked = 0;
    for (int i = 0; i < 50 && looked < 20; i++) { /* a busy machine may look too late */
        forced f = {0};
        force(&f, "abcd", 120);
        f.r.stop = &stop;
        f.r.n_stop = 1;
        an_job *j = NULL;
        REQUIRE(an_engine_submit_text(engine, &f.r, &j, NULL) == AN_OK);
        looked += watch_text(j);
        an_text x;
        CHECK(an_job_text(j, 0, &x) && x.text_len == 120 && x.n_tokens == 120);
        an_job_unref(j);
    }
    CHECK(looked > 0);
}

TEST(characters_are_whole)
{
    forced f = {0};
    an_text x;
    force(&f, "\xC3\xA9", 5);
    an_job *j = run(&f.r, &x);
    REQUIRE(j);
    CHECK(text_is(&x, "\xC3\xA9\xC3\xA9\xEF\xBF\xBD"));
    CHECK(x.n_tokens == 5 && x.tokens[0].text_end == 0 && x.tokens[1].text_start == 0 &&
          x.tokens[1].text_end == 2 && x.tokens[3].text_end == 4);
    an_job_unref(j);
    forced g = {0};
    force(&g, "\xF0\x9F\x99\x82", 8); /* four bytes, four tokens */
    j = run(&g.r, &x);
    REQUIRE(j);
    CHECK(text_is(&x, "\xF0\x9F\x99\x82\xF0\x9F\x99\x82"));
    an_job_unref(j);
}

static void expect(forced *f, const char *text, size_t tokens, an_finish finish, const char *stop)
{
    an_text x;
    an_job *j = run(&f->r, &x);
    if (!j) return;
    CHECK(text_is(&x, text));
    CHECK_MSG(x.n_tokens == tokens, "%zu tokens, wanted %zu", x.n_tokens, tokens);
    CHECK(x.finish == finish);
    if (stop)
        CHECK_STR(x.stop, stop);
    else
        CHECK(x.stop == NULL);
    an_job_unref(j);
}

TEST(end_tokens)
{
    forced f = {0};
    force(&f, "ab", 6);
    force_id(&f, 2); /* a b </s> */
    expect(&f, "ab", 3, AN_FINISH_STOP, NULL);
    f.r.min_tokens = 4;
    expect(&f, "abab", 5, AN_FINISH_STOP, NULL);
    f.r.min_tokens = 0;
    f.r.ignore_eos = true;
    expect(&f, "abab", 6, AN_FINISH_LENGTH, NULL);
    f.r.special = true;
    expect(&f, "ab</s>ab</s>", 6, AN_FINISH_LENGTH, NULL);
    f.r.ignore_eos = f.r.special = false;
    f.r.ban_eos = true;
    expect(&f, "ababab", 6, AN_FINISH_LENGTH, NULL);
}

TEST(stop_ids)
{
    forced f = {0};
    const int32_t stop[2] = {400, BYTE_ID('c')};
    force(&f, "abcd", 9);
    f.r.stop_ids = stop;
    f.r.n_stop_ids = 2;
    expect(&f, "ab", 3, AN_FINISH_STOP, "c");
    f.r.min_tokens = 5;
    expect(&f, "abdab", 6, AN_FINISH_STOP, "c"); /* banned until then */
}

static an_grammar *grammar_of(const char *text)
{
    an_grammar *g = NULL;
    an_error err = {0};
    an_status s = an_grammar_gbnf(text, strlen(text), NULL, &g, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    return g;
}

TEST(grammars)
{
    static const struct {
        const char *rules;
        int tokens;
        const char *want;
        an_finish finish;
    } t[] = {
        {"root ::= \"xyz\"", 20, "xyz",
         AN_FINISH_STOP}, /* nothing can follow: no end token needed */
        {"root ::= \"xyz\"", 2, "xy", AN_FINISH_LENGTH},
        {"root ::= [a-c]+ \"!\"", 8, "abcabcab", AN_FINISH_LENGTH},
        {"root ::= [a-c] [x-y] \"!\"", 8, NULL, AN_FINISH_STOP},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        forced f = {0};
        force(&f, "abcd", t[i].tokens);
        f.r.grammar = grammar_of(t[i].rules);
        REQUIRE(f.r.grammar);
        an_text x;
        an_job *j = run(&f.r, &x);
        an_grammar_unref(f.r.grammar);
        REQUIRE(j);
        if (t[i].want) CHECK_MSG(text_is(&x, t[i].want), "case %zu", i);
        CHECK_MSG(x.finish == t[i].finish, "case %zu: %d", i, (int)x.finish);
        if (!t[i].want)
            CHECK(x.text_len == 3 && x.text[0] == 'a' && (x.text[1] & 0xFE) == 'x' &&
                  x.text[2] == '!');
        an_job_unref(j);
    }
    /* A whole document whose end tokens are banned: it ends by itself where only they could follow.
     */
    forced f = {0};
    force(&f, "ab", 30);
    f.r.grammar = grammar_of("root ::= \"a\" | \"ab\"");
    REQUIRE(f.r.grammar);
    f.r.ban_eos = true;
    expect(&f, "ab", 2, AN_FINISH_STOP, NULL);
    an_grammar_unref(f.r.grammar);
    /* Choices walk the grammar on their own. */
    forced g = {0};
    force(&g, "", 40);
    g.r.sampling.temperature = 1;
    g.r.n = 4;
    g.r.grammar = grammar_of("root ::= \"{\" [0-9]+ (\",\" [0-9]+)* \"}\"");
    REQUIRE(g.r.grammar);
    an_text x;
    an_job *j = run(&g.r, &x);
    an_grammar_unref(g.r.grammar);
    REQUIRE(j);
    for (int i = 0; i < 4; i++) {
        CHECK(an_job_text(j, i, &x) && x.text_len > 1 && x.text[0] == '{');
        for (size_t k = 1; k + 1 < x.text_len; k++)
            CHECK((x.text[k] >= '0' && x.text[k] <= '9') || x.text[k] == ',');
        if (x.finish == AN_FINISH_STOP) CHECK(x.text[x.text_len - 1] == '}');
    }
    an_job_unref(j);
}

TEST(choices_and_seeds)
{
    an_text_request r;
    an_text_request_default(&r);
    r.model = "babble";
    r.ids = prompt;
    r.n_ids = 20;
    r.max_tokens = 12;
    r.n = 3;
    r.sampling.seed = 40;
    r.logprobs = 3;
    an_job *all = NULL;
    REQUIRE(an_engine_submit_text(engine, &r, &all, NULL) == AN_OK);
    help_wait(all);
    an_text x, y;
    CHECK(!an_job_text(all, 3, &x) && !an_job_text(all, -1, &x));
    for (int i = 0; i < 3; i++) {
        r.n = 0;
        r.sampling.seed = 40 + i;
        an_job *one = run(&r, &y);
        REQUIRE(one);
        CHECK(an_job_text(all, i, &x) && x.seed == 40 + i && y.seed == 40 + i);
        CHECK(x.n_tokens == y.n_tokens);
        for (size_t k = 0; k < x.n_tokens && k < y.n_tokens; k++) {
            CHECK(x.tokens[k].id == y.tokens[k].id && x.tokens[k].n_top == 3);
            CHECK(x.tokens[k].logprob == y.tokens[k].logprob);
        }
        an_job_unref(one);
    }
    an_text_usage u;
    an_job_text_usage(all, &u);
    CHECK(u.prompt_tokens == 20 && u.completion_tokens <= 36 && u.completion_tokens > 3);
    CHECK(u.first_token_s > 0 && u.prefill_s > 0 && u.decode_s > 0 && u.preemptions == 0);
    an_job_unref(all);
    r.sampling.seed = -1;
    all = run(&r, &x);
    CHECK(x.seed >= 0);
    an_job_unref(all);
}

static size_t cached(const char *salt, const int32_t *ids, size_t n)
{
    an_text_request r;
    an_text_request_default(&r);
    r.model = "babble";
    r.ids = ids;
    r.n_ids = n;
    r.max_tokens = 3;
    r.cache_salt = salt;
    r.sampling.temperature = 0;
    an_text x;
    an_job *j = run(&r, &x);
    an_text_usage u;
    an_job_text_usage(j, &u);
    an_job_unref(j);
    return u.cached_tokens;
}

TEST(prefixes_are_found_under_their_salt)
{
    int32_t ids[100];
    for (int i = 0; i < 100; i++) ids[i] = 100 + i;
    CHECK(cached("s", ids, 100) == 0);
    CHECK(cached("s", ids, 100) == 96);
    CHECK(cached("s", ids, 97) == 96);
    CHECK(cached("s", ids, 96) == 80); /* one token is always computed */
    CHECK(cached("t", ids, 100) == 0);
    CHECK(cached(NULL, ids, 100) == 0);
    CHECK(cached("", ids, 100) == 96); /* no salt is the empty one */
    ids[40]++;
    CHECK(cached("s", ids, 100) == 32);
}

/* ---------------------------------------------------------------- events */

TEST(text_events_are_one)
{
    forced f = {0};
    an_text x;
    force(&f, "abc", 50);
    an_job *j = run(&f.r, &x);
    REQUIRE(j);
    uint64_t cursor = 0;
    int count[AN_EVENT_CANCELED + 1] = {0};
    an_event ev;
    while (an_job_next_event(j, &cursor, &ev)) {
        count[ev.type]++;
        if (ev.type == AN_EVENT_TEXT) CHECK(ev.step == 50 && ev.steps == 50);
    }
    CHECK(count[AN_EVENT_QUEUED] == 1 && count[AN_EVENT_STARTED] == 1 &&
          count[AN_EVENT_TEXT] == 1 && count[AN_EVENT_DONE] == 1);
    an_result none;
    CHECK(!an_job_result(j, 0, &none));
    an_job_unref(j);
}

/* ---------------------------------------------------------------- refusals */

static char message[1024];

static void refused(const an_text_request *r, an_status want, const char *param)
{
    an_job *j = NULL;
    an_error err = {0};
    an_status s = an_engine_submit_text(engine, r, &j, &err);
    CHECK_MSG(s == want, "%s: %s, wanted %s", param, an_status_name(s), an_status_name(want));
    CHECK_MSG(strcmp(err.param, param) == 0, "param '%s', wanted '%s': %s", err.param, param,
              err.message);
    CHECK(j == NULL);
    snprintf(message, sizeof message, "%s", err.message);
    an_job_unref(j);
}

#define REFUSED(param, ...)                                                                        \
    do {                                                                                           \
        forced f = {0};                                                                            \
        force(&f, "ab", 5);                                                                        \
        an_text_request *r = &f.r;                                                                 \
        __VA_ARGS__;                                                                               \
        refused(r, AN_INVALID, param);                                                             \
    } while (0)

TEST(bad_requests_name_their_field)
{
    static int32_t many[9000];
    const int32_t high[2] = {5, 512}, low[2] = {5, -1};
    const char *empty[1] = {""}, *bad[1] = {"\xC3"}, *lots[17];
    const struct an_token_bias nan[1] = {{3, NAN}}, inf[1] = {{3, INFINITY}}, far[1] = {{512, 1}};
    static char long_stop[2000];
    const char *long_stops[1] = {long_stop};
    memset(long_stop, 'x', sizeof long_stop - 1);
    for (int i = 0; i < 17; i++) lots[i] = "stop";
    REFUSED("prompt", r->ids = NULL);
    REFUSED("prompt", r->n_ids = 0);
    REFUSED("prompt", r->ids = high; r->n_ids = 2);
    REFUSED("prompt", r->ids = low; r->n_ids = 2);
    REFUSED("prompt", r->ids = many; r->n_ids = 9000; r->max_tokens = 200);
    CHECK_STR(message, "prompt has 9000 tokens and max_tokens 200; the context is 512");
    REFUSED("prompt", r->ids = many; r->n_ids = 512; r->max_tokens = 0);
    CHECK_STR(message, "prompt has 512 tokens; the context is 512");
    REFUSED("max_tokens", r->max_tokens = 493);
    CHECK_STR(message, "prompt has 20 tokens and max_tokens 493; the context is 512");
    REFUSED("max_tokens", r->max_tokens = -1);
    REFUSED("max_tokens", r->max_tokens = INT32_MAX);
    REFUSED("min_tokens", r->min_tokens = 6);
    REFUSED("min_tokens", r->min_tokens = -1);
    REFUSED("n", r->n = -1);
    REFUSED("n", r->n = 129);
    REFUSED("temperature", r->sampling.temperature = -0.1f);
    REFUSED("temperature", r->sampling.temperature = NAN);
    REFUSED("temperature", r->sampling.temperature = INFINITY);
    REFUSED("top_p", r->sampling.top_p = 1.1f);
    REFUSED("top_p", r->sampling.top_p = NAN);
    REFUSED("min_p", r->sampling.min_p = -0.1f);
    REFUSED("typical_p", r->sampling.typical_p = 2);
    REFUSED("repetition_penalty", r->sampling.repetition_penalty = 0);
    REFUSED("repetition_penalty", r->sampling.repetition_penalty = NAN);
    REFUSED("presence_penalty", r->sampling.presence_penalty = 1e9f);
    REFUSED("frequency_penalty", r->sampling.frequency_penalty = NAN);
    REFUSED("repeat_last_n", r->sampling.repeat_last_n = -2);
    REFUSED("seed", r->sampling.seed = INT64_MAX);
    REFUSED("logit_bias", r->sampling.n_bias = 2000);
    REFUSED("logit_bias", r->sampling.n_bias = -1);
    REFUSED("logit_bias", r->sampling.bias = NULL);
    REFUSED("logit_bias", r->sampling.bias = nan; r->sampling.n_bias = 1);
    REFUSED("logit_bias", r->sampling.bias = inf; r->sampling.n_bias = 1);
    REFUSED("logit_bias", r->sampling.bias = far; r->sampling.n_bias = 1);
    REFUSED("stop", r->stop = empty; r->n_stop = 1);
    REFUSED("stop", r->stop = bad; r->n_stop = 1);
    REFUSED("stop", r->stop = lots; r->n_stop = 17);
    REFUSED("stop", r->stop = long_stops; r->n_stop = 1);
    REFUSED("stop", r->n_stop = -1);
    REFUSED("stop", r->n_stop = 1);
    REFUSED("stop_token_ids", r->stop_ids = high; r->n_stop_ids = 2);
    REFUSED("stop_token_ids", r->stop_ids = many; r->n_stop_ids = 17);
    REFUSED("logprobs", r->logprobs = 21);
    REFUSED("logprobs", r->logprobs = -2);
    REFUSED("priority", r->priority = 11);
    REFUSED("deadline_ms", r->deadline_s = -1);
    REFUSED("deadline_ms", r->deadline_s = (double)NAN);
    REFUSED("cache_salt", r->cache_salt = long_stop);
    an_grammar *any = grammar_of("root ::= [a-z]*");
    REFUSED("grammar", r->model = "llama"; r->grammar = any);
    an_grammar_unref(any);
    REFUSED("stop", r->model = "llama"; r->stop = lots; r->n_stop = 1); /* no tokenizer */
    forced f = {0};
    force(&f, "ab", 5);
    f.r.model = "no such model";
    refused(&f.r, AN_NOT_FOUND, "model");
    f.r.model = "sd1";
    refused(&f.r, AN_NOT_FOUND, "model");
    CHECK(strstr(message, "babble") && strstr(message, "kind text"));
    an_image_request i;
    an_image_request_default(&i);
    i.model = "babble";
    i.prompt = "owl";
    an_job *j = NULL;
    an_error err = {0};
    CHECK(an_engine_submit(engine, &i, &j, &err) == AN_NOT_FOUND);
    CHECK_STR(err.param, "model");
}

TEST(vocab_and_template)
{
    const an_vocab *v = NULL;
    const an_template *t = NULL;
    const char *bos, *eos;
    an_error err = {0};
    CHECK(an_engine_vocab(engine, "babble", &v, NULL) == AN_OK && v);
    CHECK(v && an_vocab_size(v) == 512);
    CHECK(an_engine_vocab(engine, "llama", &v, NULL) == AN_OK && !v);
    CHECK(an_engine_vocab(engine, "sd1", &v, &err) == AN_NOT_FOUND);
    CHECK(an_engine_template(engine, "babble", &t, &bos, &eos, &err) == AN_NOT_FOUND && !t);
    CHECK_STR(err.param, "model");
}

/* A tokenizer that cannot be read: the model is refused with the reason, others are served. */
TEST(a_broken_tokenizer_is_named)
{
    char path[1200], aside[1200];
    snprintf(path, sizeof path, "%s/babble/tokenizer.json", models);
    snprintf(aside, sizeof aside, "%s/babble.json", models);
    REQUIRE(rename(path, aside) == 0);
    FILE *f = fopen(path, "w");
    REQUIRE(f);
    fprintf(f, "{\"model\": {\"type\": \"BPE\", \"vocab\": 7}}");
    fclose(f);
    an_engine *e = help_engine(models, "f32", NULL);
    REQUIRE(e);
    while (!an_engine_ready(e)) usleep(1000);
    forced one = {0};
    force(&one, "ab", 5);
    an_job *j = NULL;
    an_error err = {0};
    CHECK(an_engine_submit_text(e, &one.r, &j, &err) == AN_NOT_FOUND);
    CHECK_MSG(strstr(err.message, "tokenizer of 'babble'"), "%s", err.message);
    CHECK_STR(err.param, "model");
    one.r.model = "llama";
    j = NULL;
    CHECK(an_engine_submit_text(e, &one.r, &j, &err) == AN_OK);
    if (j) CHECK(help_wait(j).state == AN_JOB_DONE);
    an_job_unref(j);
    an_engine_free(e);
    CHECK(rename(aside, path) == 0);
}

/* max_tokens 0: as many as fit. */
TEST(to_the_end_of_the_context)
{
    forced f = {0};
    force(&f, "abcdefgh", 0);
    f.r.client = "patient";
    an_text x;
    an_job *j = run(&f.r, &x);
    REQUIRE(j);
    CHECK(x.n_tokens == 492 && x.finish == AN_FINISH_LENGTH);
    an_job_info info;
    an_job_get(j, &info);
    CHECK(info.steps == 492);
    an_job_unref(j);
}

TEST(deadlines_and_priorities)
{
    forced f = {0};
    force(&f, "ab", 480);
    f.r.deadline_s = 1e-4;
    an_job *j = NULL;
    REQUIRE(an_engine_submit_text(engine, &f.r, &j, NULL) == AN_OK);
    an_job_info info = help_wait(j);
    CHECK(info.state == AN_JOB_FAILED || info.state == AN_JOB_CANCELED);
    an_job_unref(j);
    CHECK(text_all_free(engine));
}

/* ---------------------------------------------------------------- side by side */

static void one_at_a_time(an_engine_options *o)
{
    o->kv_bytes = 20 * 12288; /* 20 blocks: 320 positions */
    o->device.threads = 1;
}

static bool half_said(void *job)
{
    an_text x;
    return an_job_text(job, 0, &x) && x.n_tokens >= 150;
}

static an_job *submit_to(an_engine *e, forced *f)
{
    an_job *j = NULL;
    an_error err = {0};
    CHECK_MSG(an_engine_submit_text(e, &f->r, &j, &err) == AN_OK, "%s", err.message);
    return j;
}

/* A long one has the whole memory: an urgent one throws it out, it goes on later, nothing is lost.
 */
TEST(the_urgent_comes_first)
{
    an_engine *e = help_engine(models, "f32", one_at_a_time);
    REQUIRE(e);
    forced slow = {0}, quick = {0};
    int32_t many[200];
    for (int i = 0; i < 200; i++) many[i] = 30 + i;
    force(&slow, "abcdefgh", 300);
    force(&quick, "xyz", 100);
    quick.r.ids = many;
    quick.r.n_ids = 200;
    quick.r.priority = 1;
    quick.r.client = "hurried";
    help_gate start, half;
    help_hold(e, &start);
    an_job *a = submit_to(e, &slow);
    REQUIRE(a);
    help_gate_watch(&half, a, half_said, a);
    help_let_go(&start);
    CHECK(help_gate_wait(&half));
    an_job *b = submit_to(e, &quick);
    help_gate_open(&half);
    help_see_off(&start);
    REQUIRE(b);
    const an_job_info first = help_wait(b), last = help_wait(a);
    CHECK(first.state == AN_JOB_DONE && last.state == AN_JOB_DONE);
    CHECK_MSG(first.finished < last.finished, "%f, %f", first.finished, last.finished);
    an_text x;
    CHECK(an_job_text(a, 0, &x) && x.text_len == 300 && memcmp(x.text + 288, "abcdefgh", 8) == 0);
    CHECK(an_job_text(b, 0, &x) && x.text_len == 100);
    an_text_usage u;
    an_job_text_usage(a, &u);
    CHECK_MSG(u.preemptions > 0, "%d preemptions", u.preemptions);
    an_job_unref(a);
    an_job_unref(b);
    /* More than the memory holds is refused with both numbers, whatever the context allows. */
    forced f = {0};
    an_job *j = NULL;
    an_error err = {0};
    force(&f, "ab", 301);
    CHECK(an_engine_submit_text(e, &f.r, &j, &err) == AN_INVALID);
    CHECK_STR(err.message,
              "prompt has 20 tokens and max_tokens 301; the memory for keys and values "
              "holds 320 of the context's 512");
    CHECK(text_all_free(e));
    an_engine_free(e);
}

static bool either_done(void *pair)
{
    an_job **job = pair;
    return an_job_finished(job[0]) || an_job_finished(job[1]);
}

/* A picture and a text of one client take turns: neither waits for the other to end. */
TEST(pictures_and_text_take_turns)
{
    an_engine *e = help_engine(models, "f32", NULL);
    REQUIRE(e);
    an_image_request r;
    an_image_request_default(&r);
    r.model = "sd1";
    r.prompt = "owl";
    r.width = r.height = 64;
    r.sampler = "ddim";
    r.steps = 100;
    r.client = "both";
    for (int order = 0; order < 2; order++) {
        forced f = {0};
        force(&f, "abcdefgh", 400);
        f.r.client = "both";
        an_job *picture = NULL, *text = NULL;
        help_gate start, one_done;
        help_hold(e, &start);
        if (order) text = submit_to(e, &f);
        REQUIRE(an_engine_submit(e, &r, &picture, NULL) == AN_OK);
        if (!order) text = submit_to(e, &f);
        REQUIRE(text);
        an_job *pair[2] = {picture, text};
        help_gate_watch(&one_done, picture, either_done, pair);
        int handle = an_job_watch(text, help_gate_hear, &one_done);
        help_let_go(&start);
        help_gate_wait(&one_done);
        an_job_info p, t;
        an_job_get(picture, &p);
        an_job_get(text, &t);
        help_gate_open(&one_done);
        help_see_off(&start);
        an_job_unwatch(text, handle);
        printf("  when one is done: %d of %d steps, %d of %d tokens\n", p.step, p.steps, t.step,
               t.steps);
        CHECK(p.step > 0 && t.step > 0);
        help_wait(picture);
        help_wait(text);
        an_job_unref(picture);
        an_job_unref(text);
    }
    an_engine_free(e);
}

TEST(stopping_with_answers_half_said)
{
    an_engine *e = help_engine(models, "f32", one_at_a_time);
    REQUIRE(e);
    an_job *job[6];
    help_gate start, half;
    help_hold(e, &start);
    for (int i = 0; i < 6; i++) {
        forced f = {0};
        force(&f, "abcdefgh", 290);
        f.r.n = 1 + i % 3;
        job[i] = submit_to(e, &f);
        REQUIRE(job[i]);
    }
    help_gate_watch(&half, job[0], half_said, job[0]);
    help_let_go(&start);
    CHECK(help_gate_wait(&half));
    help_gate_open(&half);
    an_engine_stop(e, 0);
    help_see_off(&start);
    for (int i = 0; i < 6; i++) {
        an_job_info info;
        an_job_get(job[i], &info);
        CHECK(info.state == AN_JOB_CANCELED || info.state == AN_JOB_DONE);
        if (info.state == AN_JOB_CANCELED) CHECK(info.error.status == AN_STOPPING);
        an_job_unref(job[i]);
    }
    an_engine_free(e);
}

static void hardly_any_memory(an_engine_options *o)
{
    o->memory_bytes = 300000;
}

/* A model that fits no budget is the server's fault, and names no picture's width. */
TEST(a_model_that_does_not_fit)
{
    an_engine *e = help_engine(models, "f32", hardly_any_memory);
    REQUIRE(e);
    forced f = {0};
    force(&f, "ab", 4);
    an_job *j = submit_to(e, &f);
    REQUIRE(j);
    an_job_info info = help_wait(j);
    CHECK(info.state == AN_JOB_FAILED && info.error.status == AN_NO_MEMORY);
    CHECK_MSG(strcmp(info.error.param, "model") == 0, "%s", info.error.param);
    CHECK_MSG(strstr(info.error.message, "babble") && strstr(info.error.message, "0.3 MiB"), "%s",
              info.error.message);
    an_job_unref(j);
    an_engine_free(e);
}

/* ---------------------------------------------------------------- broken numbers */

/* A copy of the model in which one token's embedding is NaN. */
static bool write_broken(const char *from, const char *to, int32_t token)
{
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    static char data[1 << 20];
    size_t n = in ? fread(data, 1, sizeof data, in) : 0;
    uint64_t head = 0;
    bool ok = n > 8 && out;
    if (ok) memcpy(&head, data, 8);
    json_t *j = ok && head < n - 8 ? json_loadb(data + 8, head, 0, NULL) : NULL;
    json_t *at = json_object_get(json_object_get(j, "model.embed_tokens.weight"), "data_offsets");
    ok = ok && at;
    size_t start = 8 + head + (size_t)json_integer_value(json_array_get(at, 0));
    if (ok) memset(data + start + (size_t)token * 64 * 2, 0xFF, 64 * 2);
    ok = ok && fwrite(data, 1, n, out) == n;
    json_decref(j);
    if (in) fclose(in);
    return out && fclose(out) == 0 && ok;
}

TEST(one_bad_sequence_hurts_nobody)
{
    char path[1200], from[1200];
    snprintf(path, sizeof path, "%s/babble/model.safetensors", models);
    snprintf(from, sizeof from, "%s/llm/llama/model/model.safetensors", AN_GOLDEN);
    unlink(path);
    REQUIRE(write_broken(from, path, 300));
    an_engine *e = help_engine(models, "f32", NULL);
    REQUIRE(e);
    int32_t bad[20];
    memcpy(bad, prompt, sizeof bad);
    bad[11] = 300;
    an_job *job[8];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 8; i++) {
            forced f = {0};
            force(&f, "ab", 6);
            if (i % 3 == 1) f.r.ids = bad;
            job[i] = NULL;
            CHECK(an_engine_submit_text(e, &f.r, &job[i], NULL) == AN_OK);
        }
        for (int i = 0; i < 8; i++) {
            REQUIRE(job[i]);
            an_job_info info = help_wait(job[i]);
            an_text x;
            CHECK(an_job_text(job[i], 0, &x));
            if (i % 3 == 1) {
                CHECK(info.state == AN_JOB_FAILED);
                CHECK(strstr(info.error.message, "not numbers") != NULL);
            } else {
                CHECK_MSG(info.state == AN_JOB_DONE, "%s", info.error.message);
                CHECK(text_is(&x, "ababab"));
            }
            an_job_unref(job[i]);
        }
    }
    CHECK(text_all_free(e));
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    CHECK(s.finished_abort == 6 && s.device_ok);
    an_engine_free(e);
}

int main(int argc, char **argv)
{
    if (!text_link_models(models, sizeof models)) return 1;
    engine = help_engine(models, "f32", NULL);
    if (!engine) return 1;
    while (!an_engine_ready(engine)) usleep(1000);
    int r = test_main(argc, argv);
    an_engine_free(engine);
    text_unlink_models(models);
    return r;
}
