/* text_prompt.c: from what was asked to what the engine takes: the model, its defaults, the prompts
 * as token ids, and the jobs. Runs on an encoder thread. */
#include "text_ask.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

#define MAX_BIAS_BYTES 1024 /* of a text in logit_bias */

/* ---------------------------------------------------------------- the model */

/* temperature, top_p and top_k that the request leaves open are those of generation_config.json, as
 * in vLLM. */
static void fill_defaults(text_ask *a)
{
    an_sampling *s = &a->request.sampling;
    const an_model_info *i = &a->info;
    if (isnan(s->temperature)) s->temperature = isnan(i->temperature) ? 1 : i->temperature;
    if (isnan(s->top_p)) s->top_p = isnan(i->top_p) ? 1 : i->top_p;
    if (s->top_k == INT32_MIN) s->top_k = i->top_k < 0 ? 0 : i->top_k;
}

static an_status no_tokenizer(const text_ask *a, const char *param, an_error *err)
{
    return an_fail_param(err, AN_INVALID, param,
                         "%s: model '%s' has no tokenizer: it takes and gives token ids only",
                         param, a->model);
}

/* ---------------------------------------------------------------- logit_bias */

static an_status push_bias(text_ask *a, const int32_t *ids, size_t n, double bias, an_error *err)
{
    int *have = &a->request.sampling.n_bias, most = an_engine_limits(a->engine)->max_logit_bias;
    if (n > (size_t)(most - *have))
        return an_fail_param(err, AN_INVALID, "logit_bias",
                             "logit_bias: its texts are more than %d tokens", most);
    struct an_token_bias *p = realloc(a->bias, ((size_t)*have + n + 1) * sizeof *p);
    if (!p) return an_fail(err, AN_NO_MEMORY, "out of memory");
    a->request.sampling.bias = a->bias = p;
    for (size_t i = 0; i < n; i++) p[(*have)++] = (struct an_token_bias){ids[i], (float)bias};
    return AN_OK;
}

/* A text stands for each of the tokens it is made of, as in llama-server. Encoding has its price,
 * and --max-text-bytes does not count these texts: each must be short. */
static an_status bias_text(text_ask *a, const char *text, double bias, an_error *err)
{
    int32_t *ids = NULL;
    size_t n = 0;
    size_t len = strlen(text);
    if (!a->vocab) return no_tokenizer(a, "logit_bias", err);
    if (len > MAX_BIAS_BYTES)
        return an_fail_param(err, AN_INVALID, "logit_bias",
                             "logit_bias: a text of %zu bytes, at most %d", len, MAX_BIAS_BYTES);
    an_status s = an_vocab_encode(a->vocab, text, len, 0, &ids, &n, err);
    if (s == AN_OK && n == 0)
        s = an_fail_param(err, AN_INVALID, "logit_bias", "logit_bias: a text without a token");
    if (s == AN_OK) s = push_bias(a, ids, n, bias, err);
    free(ids);
    return s;
}

static an_status bias_id(text_ask *a, long long id, double bias, an_error *err)
{
    if (id < 0 || id >= a->info.vocab)
        return an_fail_param(err, AN_INVALID, "logit_bias",
                             "logit_bias: %lld is no token id from 0 to %d", id, a->info.vocab - 1);
    int32_t one = (int32_t)id;
    return push_bias(a, &one, 1, bias, err);
}

/* A number, or false, which bans. */
static an_status read_strength(const text_ask *a, const json_t *value, double *out, an_error *err)
{
    double max = a->dialect == TEXT_LLAMA ? 1e4 : 100;
    *out = json_is_false(value) ? -HUGE_VAL : json_number_value(value);
    if (json_is_false(value) || (json_is_number(value) && fabs(*out) <= max)) return AN_OK;
    return an_fail_param(err, AN_INVALID, "logit_bias",
                         "logit_bias: a bias is a number from -%g to %g, or false", max, max);
}

/* A key of an object: an id in digits, or else a text. */
static an_status add_key(text_ask *a, const char *key, const json_t *value, an_error *err)
{
    double bias;
    char *end = NULL;
    an_status s = read_strength(a, value, &bias, err);
    if (s != AN_OK) return s;
    bool digits = (*key >= '0' && *key <= '9') || (*key == '-' && key[1] >= '0' && key[1] <= '9');
    long long id = digits ? strtoll(key, &end, 10) : 0;
    return digits && !*end ? bias_id(a, id, bias, err) : bias_text(a, key, bias, err);
}

/* [id, bias] or ["text", bias]. */
static an_status add_pair(text_ask *a, const json_t *pair, an_error *err)
{
    double bias;
    const json_t *what = json_array_get(pair, 0);
    int64_t id = 0;
    if (json_array_size(pair) != 2 || !(json_whole(what, &id) || json_is_string(what)))
        return an_fail_param(err, AN_INVALID, "logit_bias",
                             "logit_bias: a list has entries [id, bias] or [\"text\", bias]");
    an_status s = read_strength(a, json_array_get(pair, 1), &bias, err);
    if (s != AN_OK) return s;
    return json_is_string(what) ? bias_text(a, json_string_value(what), bias, err)
                                : bias_id(a, id, bias, err);
}

/* OpenAI's {"id": bias} and llama-server's [[id, bias], ...], both with texts too. */
static an_status read_bias(text_ask *a, an_error *err)
{
    const char *key;
    json_t *v;
    size_t i;
    an_status s = AN_OK;
    if (json_is_array(a->logit_bias)) {
        json_array_foreach(a->logit_bias, i, v) if (s == AN_OK) s = add_pair(a, v, err);
        return s;
    }
    json_object_foreach(a->logit_bias, key, v) if (s == AN_OK) s = add_key(a, key, v, err);
    return s;
}

/* ---------------------------------------------------------------- finding it */

an_status text_find_model(text_ask *a, an_engine *e, const char *model, an_error *err)
{
    an_model_entry *m = calloc(1, sizeof *m);
    const an_engine_options *limits = an_engine_limits(e);
    if (!m) return an_fail(err, AN_NO_MEMORY, "out of memory");
    an_status s = an_engine_model_find(e, model, AN_KIND_TEXT, m, err);
    if (s == AN_OK) s = an_engine_vocab(e, m->id, &a->vocab, err);
    if (s == AN_OK) {
        a->engine = e;
        a->info = m->info;
        snprintf(a->model, sizeof a->model, "%s", m->id);
        a->request.model = a->model;
        a->context = a->info.context_len;
        if (a->context > limits->max_context) a->context = limits->max_context;
        fill_defaults(a);
        if (a->logit_bias) s = read_bias(a, err);
        for (int i = 0; s == AN_OK && i < a->request.n_stop_ids; i++)
            if (a->stop_ids[i] >= a->info.vocab)
                s = an_fail_param(err, AN_INVALID, "stop_token_ids",
                                  "stop_token_ids: %d, but the model's tokens go from 0 to %d",
                                  a->stop_ids[i], a->info.vocab - 1);
        if (s == AN_OK && !a->vocab && (a->request.n_stop || a->request.grammar))
            s = an_fail_param(err, AN_INVALID, a->request.grammar ? "grammar" : "stop",
                              "model '%s' has no tokenizer, so it knows no text", a->model);
    }
    free(m);
    return s;
}

/* ---------------------------------------------------------------- ids */

typedef struct id_list {
    int32_t *ids;
    size_t n, cap;
} id_list;

static an_status append_ids(id_list *l, const int32_t *ids, size_t n, an_error *err)
{
    if (l->n + n > l->cap) {
        size_t cap = (l->n + n) * 2 + 64;
        int32_t *p = realloc(l->ids, cap * sizeof *p);
        if (!p) return an_fail(err, AN_NO_MEMORY, "out of memory");
        l->ids = p;
        l->cap = cap;
    }
    if (n) memcpy(l->ids + l->n, ids, n * sizeof *ids);
    l->n += n;
    return AN_OK;
}

static an_status append_text(const text_ask *a, const char *param, id_list *l, const char *text,
                             size_t len, int flags, an_error *err)
{
    int32_t *ids = NULL;
    size_t n = 0;
    if (!a->vocab) return no_tokenizer(a, param, err);
    an_status s = an_vocab_encode(a->vocab, text, len, flags, &ids, &n, err);
    if (s == AN_OK) s = append_ids(l, ids, n, err);
    free(ids);
    return s;
}

static an_status append_id(const text_ask *a, const char *param, id_list *l, const json_t *v,
                           an_error *err)
{
    int64_t id = -1;
    json_whole(v, &id);
    if (id < 0 || id >= a->info.vocab)
        return an_fail_param(err, AN_INVALID, param,
                             "%s: token %lld, but the model's tokens go from 0 to %d", param,
                             (long long)id, a->info.vocab - 1);
    int32_t one = (int32_t)id;
    return append_ids(l, &one, 1, err);
}

an_status text_encode_value(text_ask *a, const char *param, const json_t *v, int flags,
                            int32_t **ids, size_t *n, an_error *err)
{
    id_list l = {0};
    an_status s = AN_OK;
    *ids = NULL;
    *n = 0;
    if (json_is_string(v)) {
        s = append_text(a, param, &l, json_string_value(v), json_string_length(v), flags, err);
    } else if (json_is_array(v)) {
        for (size_t i = 0; s == AN_OK && i < json_array_size(v); i++) {
            const json_t *item = json_array_get(v, i);
            if (json_is_string(item)) /* BOS only before the very first */
                s = append_text(a, param, &l, json_string_value(item), json_string_length(item),
                                i == 0 ? flags : flags & ~AN_ADD_SPECIAL, err);
            else if (json_whole(item, NULL))
                s = append_id(a, param, &l, item, err);
            else
                s = an_fail_param(err, AN_INVALID, param,
                                  "%s: entry %zu is neither a text nor a token id", param, i);
        }
    } else {
        s = an_fail_param(err, AN_INVALID, param, "%s: expected a text or a list of token ids",
                          param);
    }
    if (s != AN_OK) {
        free(l.ids);
        return s;
    }
    *ids = l.ids;
    *n = l.n;
    return AN_OK;
}

an_status text_add_prompt(text_ask *a, int32_t *ids, size_t n, an_error *err)
{
    const char *param = a->dialect == TEXT_CHAT ? "messages" : "prompt";
    text_prompt *p = realloc(a->prompts, ((size_t)a->n_prompts + 1) * sizeof *p);
    if (p) a->prompts = p;
    if (!p || !ids || n == 0) {
        free(ids);
        return p ? an_fail_param(err, AN_INVALID, param, "%s: not a single token to go on from",
                                 param)
                 : an_fail(err, AN_NO_MEMORY, "out of memory");
    }
    p[a->n_prompts++] = (text_prompt){ids, n};
    return AN_OK;
}

/* prefix and suffix between the model's own tokens, the prefix first ("PSM"). */
static an_status encode_fim(text_ask *a, const json_t *prefix, an_error *err)
{
    static const char *const parts[] = {"prefix", "suffix", "middle"};
    const char *text[] = {json_string_value(prefix), a->suffix, a->middle};
    if (a->infill && !text[0]) text[0] = ""; /* checked: absent or null */
    const char *param = a->infill ? "input_prefix" : "suffix";
    id_list l = {0};
    an_status s = AN_OK;
    if (!a->vocab) return no_tokenizer(a, param, err);
    if (!text[0])
        return an_fail_param(err, AN_INVALID, "prompt", "prompt: with suffix it must be one text");
    int32_t bos = an_vocab_bos(a->vocab);
    if (an_vocab_adds_bos(a->vocab) && bos >= 0) s = append_ids(&l, &bos, 1, err);
    for (int i = 0; s == AN_OK && i < 3; i++) {
        int32_t id = an_vocab_fim(a->vocab, parts[i]);
        if (id < 0)
            s = an_fail_param(err, AN_INVALID, param,
                              "%s: model '%s' has no token for filling in the middle", param,
                              a->model);
        if (s == AN_OK) s = append_ids(&l, &id, 1, err);
        if (s == AN_OK && text[i]) s = append_text(a, param, &l, text[i], strlen(text[i]), 0, err);
    }
    if (s == AN_OK) return text_add_prompt(a, l.ids, l.n, err);
    free(l.ids);
    return s;
}

static an_status encode_one(text_ask *a, const json_t *v, an_error *err)
{
    int flags = (a->add_special ? AN_ADD_SPECIAL : 0) | (a->parse_special ? AN_PARSE_SPECIAL : 0);
    int32_t *ids;
    size_t n;
    an_status s = text_encode_value(a, "prompt", v, flags, &ids, &n, err);
    return s == AN_OK ? text_add_prompt(a, ids, n, err) : s;
}

static bool has_integer(const json_t *list)
{
    size_t i;
    const json_t *v;
    json_array_foreach(list, i, v) if (json_whole(v, NULL)) return true;
    return false;
}

an_status text_encode_prompts(text_ask *a, an_error *err)
{
    const json_t *p = a->prompt, *first = json_array_get(p, 0);
    if (a->suffix || a->infill) return encode_fim(a, p, err);
    bool list = a->many && json_is_array(p) && (json_is_array(first) || json_is_string(first));
    if (a->dialect == TEXT_LLAMA && has_integer(p))
        list = false; /* texts and ids mixed: one prompt */
    if (!list) return encode_one(a, p, err);
    an_status s = AN_OK;
    for (size_t i = 0; s == AN_OK && i < json_array_size(p); i++) {
        const json_t *item = json_array_get(p, i);
        if (json_typeof(item) != json_typeof(first) ||
            (json_is_array(item) && json_array_size(item) &&
             !json_whole(json_array_get(item, 0), NULL)))
            s = an_fail_param(err, AN_INVALID, "prompt",
                              "prompt: entry %zu: a list holds texts, or token ids, or lists of "
                              "token ids",
                              i);
        else
            s = encode_one(a, item, err);
    }
    return s;
}

/* Never a silent cut: what does not fit is refused with both numbers. */
an_status text_check_lengths(text_ask *a, an_error *err)
{
    const char *param = a->dialect == TEXT_CHAT ? "messages" : "prompt";
    for (int i = 0; i < a->n_prompts; i++) {
        size_t n = a->prompts[i].n_ids, max = (size_t)a->context;
        size_t least = !a->request.prompt_only; /* a token of the answer */
        size_t wanted = a->request.max_tokens > 0 ? (size_t)a->request.max_tokens : least;
        if (n + least > max)
            return an_fail_param(err, AN_TOO_LARGE, param,
                                 "%s: %zu tokens, but the context is %zu tokens for prompt and "
                                 "answer",
                                 param, n, max);
        if (n + wanted > max && a->dialect == TEXT_LLAMA)
            a->request.max_tokens = (int)(max - n); /* its clients ask for much and take less */
        else if (n + wanted > max)
            return an_fail_param(err, AN_TOO_LARGE, param,
                                 "%s: %zu tokens and max_tokens %zu are %zu, but the context is "
                                 "%zu tokens for prompt and answer",
                                 param, n, wanted, n + wanted, max);
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- jobs */

/* What an answer holds grows with prompts x n, and with their lengths where they are echoed with
 * logprobs: more than is allowed for each alone. */
static an_status check_amount(const text_ask *a, an_error *err)
{
    const an_engine_options *o = an_engine_limits(a->engine);
    int most = o->max_queue > o->max_completions ? o->max_queue : o->max_completions;
    size_t n = (size_t)a->request.n, answers = (size_t)a->n_prompts * n, numbers = 0;
    if (answers > (size_t)most)
        return an_fail_param(err, AN_INVALID, "n",
                             "n: %zu answers to %d prompts are %zu, at most %d are made at once", n,
                             a->n_prompts, answers, most);
    if (!a->request.echo_logprobs) return AN_OK;
    for (int i = 0; i < a->n_prompts; i++) numbers += a->prompts[i].n_ids;
    numbers *= n * ((size_t)a->request.logprobs + 1);
    if (numbers > a->max_echo_logprobs)
        return an_fail_param(err, AN_INVALID, "logprobs",
                             "logprobs: with echo these are %zu numbers (the prompts' tokens x n x "
                             "(logprobs + 1)), at most %zu",
                             numbers, a->max_echo_logprobs);
    return AN_OK;
}

/* One job a prompt, all or none. */
static an_status submit_jobs(text_ask *a, an_error *err)
{
    an_job_info info;
    an_status s = check_amount(a, err);
    if (s != AN_OK) return s;
    a->jobs = calloc((size_t)a->n_prompts, sizeof *a->jobs);
    a->told = calloc((size_t)a->n_prompts * (size_t)a->request.n, sizeof *a->told);
    if (!a->jobs || !a->told) return an_fail(err, AN_NO_MEMORY, "out of memory");
    for (int i = 0; i < a->n_prompts && s == AN_OK; i++) {
        a->request.ids = a->prompts[i].ids;
        a->request.n_ids = a->prompts[i].n_ids;
        s = an_engine_submit_text(a->engine, &a->request, &a->jobs[i], err);
        a->n_jobs += s == AN_OK;
    }
    if (s != AN_OK) {
        for (int i = 0; i < a->n_jobs; i++) {
            an_job_cancel(a->jobs[i]);
            an_job_forget(a->jobs[i]);
        }
        return s;
    }
    an_job_get(a->jobs[0], &info);
    static const char *const prefix[] = {"cmpl", "chatcmpl", "cmpl"};
    const char *tail = strchr(info.id, '_');
    snprintf(a->id, sizeof a->id, "%s-%.48s", prefix[a->dialect], tail ? tail + 1 : info.id);
    a->created = (json_int_t)info.created;
    return AN_OK;
}

an_status text_submit(text_ask *a, an_engine *e, const char *client, an_error *err)
{
    a->request.client = client;
    an_status s = text_find_model(a, e, a->request.model, err);
    if (s == AN_OK) s = a->dialect == TEXT_CHAT ? chat_encode(a, err) : text_encode_prompts(a, err);
    if (s == AN_OK) s = text_check_lengths(a, err);
    if (s == AN_OK) s = submit_jobs(a, err);
    return s;
}

/* ---------------------------------------------------------------- requests */

static void finish(an_req *r, an_job *job)
{
    an_error err = {0};
    (void)job;
    json_t *body = text_answer(r->user, &err);
    if (body)
        reply_json(r, 200, body);
    else
        reply_error(r, &err);
}

void text_serve(an_req *r, text_dialect d, text_parse parse)
{
    an_error err = {0};
    text_limits limits;
    text_limits_of(an_server_options(r->server), an_server_engine(r->server), &limits);
    json_t *root = request_json(r);
    if (!root) return;
    text_ask *a = text_ask_new(d, root);
    if (!a) {
        an_fail(&err, AN_NO_MEMORY, "out of memory");
        reply_error(r, &err);
        return;
    }
    if (parse(a, &limits, &err) != AN_OK ||
        text_submit(a, an_server_engine(r->server), r->client, &err) != AN_OK) {
        text_ask_free(a);
        reply_error(r, &err);
        return;
    }
    r->user = a;
    r->free_user = text_ask_free;
    for (int i = 0; i < a->n_jobs; i++) an_job_ref(a->jobs[i]); /* the answer's own */
    if (a->stream)
        reply_sse_all(r, a->jobs, a->n_jobs, &text_stream_format);
    else
        reply_when_all_done(r, a->jobs, a->n_jobs, finish);
}
