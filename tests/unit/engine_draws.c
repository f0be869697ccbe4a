/* Tokens drawn by the device are the host's: answers of many kinds, with the drawing switched off,
 * alone and among others, on the GPU's emulation (or on the GPU, if that is tested). */
#include "test.h"
#include "text_help.h"

#include "anneal/grammar.h"

#include <math.h>

static char models[512];

#define CASES  20
#define TOKENS 10

typedef struct draw_case {
    an_text_request r;
    int32_t ids[40];
    struct an_token_bias bias[3];
    /* what came */
    int32_t token[2][TOKENS];
    size_t n[2];
    an_finish finish[2];
    bool here; /* asks for what the host must see the logits for */
} draw_case;

static draw_case cases[CASES];
static an_grammar *digits;

static uint64_t state = 88172645463325252u;
static int below(int n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (int)(state % (uint64_t)n);
}

static void make_sampling(an_sampling *s, struct an_token_bias *bias)
{
    s->seed = below(1 << 20);
    s->temperature = below(4) ? 0.3f + (float)below(20) / 10 : 0;
    if (below(2)) s->top_k = 1 + below(60);
    if (below(2)) s->top_p = 0.5f + (float)below(50) / 100;
    if (below(3) == 0) s->min_p = 0.02f;
    if (below(3) == 0) s->typical_p = 0.9f;
    if (below(3) == 0) s->repetition_penalty = 1.3f;
    if (below(3) == 0) s->presence_penalty = 0.4f;
    if (below(3) == 0) s->frequency_penalty = 0.3f;
    if (below(2)) return;
    for (int i = 0; i < 3; i++)
        bias[i] = (struct an_token_bias){below(512), i ? 2.0f * (float)i : -INFINITY};
    s->bias = bias;
    s->n_bias = 3;
}

static void make_case(draw_case *c)
{
    an_text_request_default(&c->r);
    const int n = 1 + below(40);
    for (int i = 0; i < n; i++) c->ids[i] = 3 + below(509);
    c->r.model = "babble";
    c->r.ids = c->ids;
    c->r.n_ids = (size_t)n;
    c->r.n = 1 + (below(4) == 0);
    c->r.max_tokens = 1 + below(TOKENS);
    if (below(3) == 0) c->r.min_tokens = c->r.max_tokens / 2;
    c->r.ignore_eos = below(2);
    c->r.logprobs = below(4) ? -1 : below(3);
    c->here = c->r.logprobs >= 0;
    if (below(4) == 0) c->r.grammar = digits;
    make_sampling(&c->r.sampling, c->bias);
    if (c->r.grammar) c->r.sampling.n_bias = 0; /* it may ban all that the grammar allows */
}

static void gpu_engine(an_engine_options *o)
{
    if (strcmp(o->device.device, "cpu") == 0) o->device.device = "simt";
    o->max_context = 128;
    o->tick_tokens = 64;
    o->kv_bytes = (size_t)1 << 20;
}

static void gpu_engine_draws_here(an_engine_options *o)
{
    gpu_engine(o);
    o->host_sampling = true;
}

static an_job *submit(an_engine *e, const draw_case *c)
{
    an_job *j = NULL;
    an_error err = {0};
    CHECK_MSG(an_engine_submit_text(e, &c->r, &j, &err) == AN_OK, "%s", err.message);
    return j;
}

/* Remembers what came, or compares it with what came before. */
static void take(draw_case *c, an_job *j, bool first)
{
    if (!j) return;
    an_job_info info = help_wait(j);
    CHECK_MSG(info.state == AN_JOB_DONE, "case %d: %s", (int)(c - cases), info.error.message);
    for (int k = 0; k < c->r.n && info.state == AN_JOB_DONE; k++) {
        an_text t;
        REQUIRE(an_job_text(j, k, &t) && t.n_tokens <= TOKENS);
        if (first) {
            c->n[k] = t.n_tokens;
            c->finish[k] = t.finish;
        }
        CHECK(t.n_tokens == c->n[k] && t.finish == c->finish[k]);
        for (size_t i = 0; i < t.n_tokens; i++) {
            if (first) c->token[k][i] = t.tokens[i].id;
            CHECK_MSG(t.tokens[i].id == c->token[k][i], "case %d, choice %d, token %zu: %d, was %d",
                      (int)(c - cases), k, i, t.tokens[i].id, c->token[k][i]);
        }
    }
    an_job_unref(j);
}

static uint64_t drawn_by_device(an_engine *e, uint64_t *all)
{
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    *all = s.generated_tokens;
    return s.device_tokens;
}

TEST(the_device_draws_the_hosts_tokens)
{
    static const char rule[] = "root ::= [0-9]+ (\"a\" | \"bc\" [x-z]*)";
    an_error err = {0};
    uint64_t all, total = 0, here = 0;
    REQUIRE(an_grammar_gbnf(rule, strlen(rule), NULL, &digits, &err) == AN_OK);
    an_engine *e = help_engine(models, "f32", gpu_engine_draws_here);
    REQUIRE(e);
    for (int i = 0; i < CASES; i++) {
        make_case(&cases[i]);
        take(&cases[i], submit(e, &cases[i]), true);
        for (int k = 0; k < cases[i].r.n; k++) total += cases[i].n[k];
        for (int k = 0; k < cases[i].r.n && cases[i].here; k++) here += cases[i].n[k];
    }
    CHECK(drawn_by_device(e, &all) == 0 && all == total);
    an_engine_free(e);

    e = help_engine(models, "f32", gpu_engine);
    REQUIRE(e);
    an_job *j[CASES];
    for (int i = 0; i < CASES; i++) j[i] = submit(e, &cases[i]);
    for (int i = 0; i < CASES; i++) take(&cases[i], j[i], false);
    for (int i = 0; i < CASES; i += 5) {
        take(&cases[i], submit(e, &cases[i]), false); /* alone */
        for (int k = 0; k < cases[i].r.n; k++) total += cases[i].n[k];
        for (int k = 0; k < cases[i].r.n && cases[i].here; k++) here += cases[i].n[k];
    }
    CHECK(drawn_by_device(e, &all) == total - here && here > 0 && all == total);
    printf("  %llu tokens, %llu of them by the host for their logprobs\n",
           (unsigned long long)total, (unsigned long long)here);
    CHECK(text_all_free(e));
    an_engine_free(e);
    an_grammar_unref(digits);
}

/* Bans that leave nothing are the client's fault wherever it is found out. */
TEST(nothing_left_is_refused)
{
    an_engine *e = help_engine(models, "f32", gpu_engine);
    REQUIRE(e);
    struct an_token_bias bias[512];
    for (int i = 0; i < 512; i++) bias[i] = (struct an_token_bias){i, -INFINITY};
    static draw_case c;
    make_case(&c);
    c.r.logprobs = -1;
    c.r.grammar = NULL;
    c.r.sampling.bias = bias;
    c.r.sampling.n_bias = 512;
    an_job *j = submit(e, &c);
    REQUIRE(j);
    an_job_info info = help_wait(j);
    CHECK_MSG(info.state == AN_JOB_FAILED && info.error.status == AN_INVALID, "state %d: %s",
              (int)info.state, info.error.message);
    CHECK_MSG(strstr(info.error.message, "no token is allowed"), "%s", info.error.message);
    an_job_unref(j);
    an_engine_free(e);
}

int main(int argc, char **argv)
{
    if (!text_link_models(models, sizeof models)) return 1;
    const int r = test_main(argc, argv);
    text_unlink_models(models);
    return r;
}
