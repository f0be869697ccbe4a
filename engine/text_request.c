/* text_request.c: requests for text: every field is checked here and named with its limit; what is
 * queued is complete and fits the context and the pool. */
#include "request.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define STOP_BYTES 1024 /* of one stop string */
#define SALT_BYTES 1024
#define BIAS_MOST  10000 /* finite ones; logits are far below */

void an_text_request_default(an_text_request *r)
{
    *r = (an_text_request){.logprobs = -1,
                           .sampling = {.temperature = 1,
                                        .top_p = 1,
                                        .typical_p = 1,
                                        .repetition_penalty = 1,
                                        .repeat_last_n = -1,
                                        .seed = -1}};
}

/* ---------------------------------------------------------------- sampling */

static an_status check_bias(const an_engine *e, const an_sampling *s, int vocab, an_error *err)
{
    if (s->n_bias < 0 || s->n_bias > e->o.max_logit_bias)
        return an_fail_param(err, AN_INVALID, "logit_bias",
                             "logit_bias has %d entries, the limit is %d", s->n_bias,
                             e->o.max_logit_bias);
    if (s->n_bias && !s->bias)
        return an_fail_param(err, AN_INVALID, "logit_bias", "logit_bias is missing");
    for (int i = 0; i < s->n_bias; i++) {
        double b = (double)s->bias[i].bias;
        if (s->bias[i].id < 0 || s->bias[i].id >= vocab)
            return an_fail_param(err, AN_INVALID, "logit_bias",
                                 "logit_bias names token %d, the model has 0 to %d", s->bias[i].id,
                                 vocab - 1);
        if (!(fabs(b) <= BIAS_MOST || b == (double)-INFINITY))
            return an_fail_param(err, AN_INVALID, "logit_bias",
                                 "logit_bias of token %d is %g, it must be %d to %d or -infinity",
                                 s->bias[i].id, b, -BIAS_MOST, BIAS_MOST);
    }
    return AN_OK;
}

static an_status check_sampling(const an_engine *e, const an_text_request *r, int n, int vocab,
                                an_error *err)
{
    const an_sampling *s = &r->sampling;
    const struct {
        const char *name;
        double v, lo, hi;
    } range[] = {
        {"temperature", (double)s->temperature, 0, 100},
        {"top_p", (double)s->top_p, 0, 1},
        {"min_p", (double)s->min_p, 0, 1},
        {"typical_p", (double)s->typical_p, 0, 1},
        /* the float nearest to 0.01 lies below it */
        {"repetition_penalty", (double)s->repetition_penalty, (double)0.01F, 100},
        {"presence_penalty", (double)s->presence_penalty, -100, 100},
        {"frequency_penalty", (double)s->frequency_penalty, -100, 100},
    };
    for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
        an_status st = an_check_real(range[i].name, range[i].v, range[i].lo, range[i].hi, err);
        if (st) return st;
    }
    if (s->repeat_last_n < -1)
        return an_fail_param(err, AN_INVALID, "repeat_last_n",
                             "repeat_last_n is %d, it must be -1 (all) or more", s->repeat_last_n);
    if (s->seed > INT64_MAX - n)
        return an_fail_param(err, AN_INVALID, "seed", "seed is %lld, it must be below %lld",
                             (long long)s->seed, (long long)(INT64_MAX - n));
    return check_bias(e, s, vocab, err);
}

/* ---------------------------------------------------------------- what ends an answer */

static an_status check_stops(const an_engine *e, const an_text_request *r, const an_vocab *v,
                             int vocab, an_error *err)
{
    an_status s = an_check_int("stop", r->n_stop, 0, e->o.max_stop, err);
    if (s)
        return an_fail_param(err, AN_INVALID, "stop", "stop has %d strings, the limit is %d",
                             r->n_stop, e->o.max_stop);
    if (r->n_stop_ids < 0 || r->n_stop_ids > e->o.max_stop)
        return an_fail_param(err, AN_INVALID, "stop_token_ids",
                             "stop_token_ids has %d entries, the limit is %d", r->n_stop_ids,
                             e->o.max_stop);
    if ((r->n_stop && !r->stop) || (r->n_stop_ids && !r->stop_ids))
        return an_fail_param(err, AN_INVALID, "stop", "the list of stops is missing");
    for (int i = 0; i < r->n_stop; i++) {
        size_t n = r->stop[i] ? strlen(r->stop[i]) : 0;
        if (n == 0 || n > STOP_BYTES)
            return an_fail_param(err, AN_INVALID, "stop",
                                 "stop string %d has %zu bytes, it must have 1 to %d", i, n,
                                 STOP_BYTES);
        if (!an_utf8_valid(r->stop[i], n))
            return an_fail_param(err, AN_INVALID, "stop", "stop string %d is not valid UTF-8", i);
    }
    for (int i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] < 0 || r->stop_ids[i] >= vocab)
            return an_fail_param(err, AN_INVALID, "stop_token_ids",
                                 "stop_token_ids names token %d, the model has 0 to %d",
                                 r->stop_ids[i], vocab - 1);
    if (v) return AN_OK;
    if (r->n_stop)
        return an_fail_param(err, AN_INVALID, "stop",
                             "stop strings need a tokenizer, and this model has none: use "
                             "stop_token_ids");
    if (r->grammar)
        return an_fail_param(err, AN_INVALID, "grammar",
                             "a grammar needs a tokenizer, and this model has none");
    return AN_OK;
}

/* ---------------------------------------------------------------- prompt and lengths */

static an_status check_prompt(const an_text_request *r, int vocab, an_error *err)
{
    if (!r->ids || r->n_ids == 0)
        return an_fail_param(err, AN_INVALID, "prompt", "prompt has no tokens");
    for (size_t i = 0; i < r->n_ids; i++)
        if (r->ids[i] < 0 || r->ids[i] >= vocab)
            return an_fail_param(err, AN_INVALID, "prompt",
                                 "prompt has token %d at place %zu, the model has 0 to %d",
                                 r->ids[i], i, vocab - 1);
    return AN_OK;
}

/* What max_tokens comes to: never cut silently, and never a prompt cut to make room. */
static an_status check_lengths(an_engine *e, const an_files *f, const an_text_request *r, int *most,
                               an_error *err)
{
    an_status st = an_check_int("max_tokens", r->max_tokens, 0, e->o.max_tokens, err);
    if (st) return st;
    int64_t positions = an_language_positions(e, f), want = r->prompt_only ? 0 : r->max_tokens;
    int context = f->entry.info.context_len > 0 && f->entry.info.context_len < e->o.max_context
                      ? f->entry.info.context_len
                      : e->o.max_context;
    bool pool = positions < context;
    size_t longest = (size_t)positions - !r->prompt_only; /* room for a token, if one is drawn */
    if (r->n_ids > longest || (int64_t)r->n_ids + want > positions) {
        char tail[64] = "", where[160];
        if (want) snprintf(tail, sizeof tail, " and max_tokens %lld", (long long)want);
        if (pool)
            snprintf(where, sizeof where,
                     "the memory for keys and values holds %lld of the context's %d",
                     (long long)positions, context);
        else
            snprintf(where, sizeof where, "the context is %d", context);
        return an_fail_param(err, AN_INVALID, r->n_ids > longest || !want ? "prompt" : "max_tokens",
                             "prompt has %zu tokens%s; %s", r->n_ids, tail, where);
    }
    int64_t room = positions - (int64_t)r->n_ids;
    if (!want) want = room < e->o.max_tokens ? room : e->o.max_tokens;
    *most = r->prompt_only ? 0 : (int)want;
    return an_check_int("min_tokens", r->min_tokens, 0, *most, err);
}

static an_status check_fields(an_engine *e, const an_files *f, const an_text_request *r, int n,
                              const an_vocab *v, int *most, an_error *err)
{
    int vocab = f->entry.info.vocab;
    an_status st = check_prompt(r, vocab, err);
    if (!st) st = check_lengths(e, f, r, most, err);
    if (!st) st = check_sampling(e, r, n, vocab, err);
    if (!st) st = check_stops(e, r, v, vocab, err);
    if (!st) st = an_check_int("logprobs", r->logprobs, -1, e->o.max_top_logprobs, err);
    if (!st) st = an_check_int("priority", r->priority, -10, 10, err);
    if (!st) st = an_check_real("deadline_ms", 1000 * r->deadline_s, 0, 1e12, err);
    if (!st && r->cache_salt && strlen(r->cache_salt) > SALT_BYTES)
        st = an_fail_param(err, AN_INVALID, "cache_salt",
                           "cache_salt has %zu bytes, the limit is %d", strlen(r->cache_salt),
                           SALT_BYTES);
    return st;
}

/* ---------------------------------------------------------------- the job */

static void *copy_of(const void *data, size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (p && bytes) memcpy(p, data, bytes);
    return p;
}

static bool copy_lists(an_text_job *x, const an_text_request *r, const an_tongue *t)
{
    size_t ends = (size_t)t->ends, stops = (size_t)r->n_stop_ids;
    x->ids = copy_of(r->ids, r->n_ids * sizeof *x->ids);
    x->bias = copy_of(r->sampling.bias, (size_t)r->sampling.n_bias * sizeof *x->bias);
    x->ban = malloc((ends + stops + 1) * sizeof *x->ban);
    x->salt = an_strdup(r->cache_salt);
    if (!x->ids || !x->bias || !x->ban || (r->cache_salt && !x->salt)) return false;
    memcpy(x->ban, t->end, ends * sizeof *x->ban);
    if (stops) memcpy(x->ban + ends, r->stop_ids, stops * sizeof *x->ban);
    x->stop_id = x->ban + ends;
    x->n_end = (int)ends;
    x->n_stop_id = (int)stops;
    x->sampling.bias = x->bias;
    return true;
}

static bool has_text(const an_vocab *v, const an_text_request *r)
{
    bool any = false;
    for (size_t i = 0; v && i < r->n_ids && !any; i++) any = !an_vocab_is_special(v, r->ids[i]);
    return any;
}

static an_status fill(an_engine *e, an_job *j, an_files *f, const an_text_request *r,
                      const an_vocab *v, an_error *err)
{
    an_text_job *x = j->text;
    int most = 0;
    an_status st = check_fields(e, f, r, j->n, v, &most, err);
    if (st) return st;
    an_job_describe_model(j, f, r->client);
    x->sampling = r->sampling;
    if (!copy_lists(x, r, &f->tongue)) return an_fail(err, AN_NO_MEMORY, "no memory for a job");
    st = an_stops_copy(&x->stops, r->stop, r->n_stop, err);
    if (st) return st;
    j->tag = an_strdup(r->tag);
    if (r->tag && !j->tag) return an_fail(err, AN_NO_MEMORY, "no memory for a job");
    x->n_ids = (int)r->n_ids;
    x->max_tokens = j->calls = most;
    x->min_tokens = r->min_tokens;
    x->logprobs = r->logprobs;
    x->ignore_eos = r->ignore_eos;
    x->ban_eos = r->ban_eos;
    x->echo = r->echo_logprobs;
    x->vocab = v;
    x->grammar = r->grammar ? an_grammar_ref(r->grammar) : NULL;
    x->usage = (an_text_usage){.prompt_tokens = r->n_ids, .first_token_s = -1};
    j->prompt_tokens = r->n_ids;
    j->seed = r->sampling.seed < 0 ? an_random_seed() : r->sampling.seed;
    j->claim.priority = r->priority;
    j->deadline = r->deadline_s > 0 ? j->created_mono + r->deadline_s : 0;
    for (int i = 0; i < j->n; i++) {
        an_answer_start(&x->answer[i], v, r->special, !has_text(v, r), &x->stops);
        x->answer[i].shown.seed = j->seed + i;
        an_answer_show(&x->answer[i], false);
    }
    an_answer_start(&x->prompt, v, true, true, &x->stops);
    return AN_OK;
}

an_status an_engine_submit_text(an_engine *e, const an_text_request *r, an_job **out, an_error *err)
{
    an_files *files = NULL;
    const an_vocab *v = NULL;
    *out = NULL;
    int n = r->n ? r->n : 1;
    an_status s = an_request_files(e, r->model, AN_KIND_TEXT, &files, err);
    if (!s) s = an_check_int("n", n, 1, e->o.max_completions, err);
    if (!s) s = an_files_vocab(e, files, &v, err);
    if (s) return s;
    an_job *j = an_job_new(e, AN_TASK_TEXT, n, err);
    if (!j) return AN_NO_MEMORY;
    return an_job_submit(e, j, fill(e, j, files, r, v, err), out, err);
}
