/* text_ask.c: the fields that every dialect of text generation shares, and /v1/completions' own.
 * What is absent and has a default in the model's files stays NaN here: text_prompt.c fills it. */
#include "text_ask.h"

#include <math.h>
#include <stdlib.h>

#define MAX_STOP_BYTES 1024

void text_limits_of(const an_options *o, an_engine *e, text_limits *out)
{
    *out = (text_limits){an_engine_limits(e), o->grammar, o->max_text_bytes, o->max_echo_logprobs};
}

text_ask *text_ask_new(text_dialect d, json_t *root)
{
    text_ask *a = calloc(1, sizeof *a);
    if (!a) {
        json_decref(root);
        return NULL;
    }
    a->dialect = d;
    a->root = root;
    a->warnings = json_array();
    an_text_request_default(&a->request);
    a->request.n = 1;
    a->add_special = d != TEXT_CHAT;
    a->generation_prompt = true;
    if (d == TEXT_LLAMA) {
        a->parse_special = true; /* its clients write the whole prompt, control tokens included */
        return a;
    }
    a->request.sampling.temperature = NAN;
    a->request.sampling.top_p = NAN;
    a->request.sampling.top_k = INT32_MIN;
    return a;
}

void text_ask_free(void *ask)
{
    text_ask *a = ask;
    if (!a) return;
    for (int i = 0; i < a->n_jobs; i++) an_job_unref(a->jobs[i]);
    for (int i = 0; i < a->n_prompts; i++) free(a->prompts[i].ids);
    an_grammar_unref(a->request.grammar);
    free(a->jobs);
    free(a->prompts);
    free(a->told);
    free(a->bias);
    free(a->stop);
    free(a->stop_ids);
    json_decref(a->messages);
    json_decref(a->tools);
    json_decref(a->warnings);
    json_decref(a->root);
    free(a);
}

/* ---------------------------------------------------------------- shared fields */

void text_read_float(fields *f, const char *name, double min, double max, float *out)
{
    double v = (double)*out;
    field_number(f, name, min, max, &v);
    if (fields_ok(f)) *out = (float)v;
}

static void read_sampling(fields *f, const text_limits *l, text_ask *a)
{
    an_sampling *s = &a->request.sampling;
    double penalty = a->dialect == TEXT_LLAMA ? 100 : 2;
    text_read_float(f, "temperature", 0, 100, &s->temperature);
    text_read_float(f, "top_p", 0, 1, &s->top_p);
    field_int32(f, "top_k", -1, INT32_MAX, &s->top_k);
    text_read_float(f, "min_p", 0, 1, &s->min_p);
    text_read_float(f, "typical_p", 0, 1, &s->typical_p);
    text_read_float(f, "repetition_penalty", 0.01, 100, &s->repetition_penalty);
    text_read_float(f, "repeat_penalty", 0.01, 100, &s->repetition_penalty);
    field_int32(f, "repeat_last_n", -1, INT32_MAX, &s->repeat_last_n);
    text_read_float(f, "presence_penalty", -penalty, penalty, &s->presence_penalty);
    text_read_float(f, "frequency_penalty", -penalty, penalty, &s->frequency_penalty);
    field_int(f, "seed", INT64_MIN, MAX_SEED, &s->seed);
    if (field_present(f, "logit_bias")) {
        a->logit_bias = json_object_get(f->object, "logit_bias");
        size_t n = json_is_object(a->logit_bias) ? json_object_size(a->logit_bias)
                                                 : json_array_size(a->logit_bias);
        if (!json_is_object(a->logit_bias) && !json_is_array(a->logit_bias))
            fields_fail(f, "logit_bias",
                        "expected {\"token id or text\": bias} or [[id or text, bias], ...]");
        else if (n > (size_t)l->engine->max_logit_bias)
            fields_fail(f, "logit_bias", "%zu entries, at most %d", n, l->engine->max_logit_bias);
    }
}

/* "stop": one string or a list. An empty string, which some clients send, stops nothing. */
static void read_stop(fields *f, const text_limits *l, text_ask *a)
{
    if (!field_present(f, "stop")) return;
    json_t *v = json_object_get(f->object, "stop");
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > (size_t)l->engine->max_stop) {
        fields_fail(f, "stop", "%zu strings, at most %d", n, l->engine->max_stop);
        return;
    }
    free(a->stop);
    a->request.n_stop = 0;
    a->stop = calloc(n + 1, sizeof *a->stop);
    for (size_t i = 0; a->stop && i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_string(s)) {
            fields_fail(f, "stop", "expected a string or a list of strings");
            return;
        }
        if (json_string_length(s) > MAX_STOP_BYTES) {
            fields_fail(f, "stop", "string %zu has %zu bytes, at most %d", i, json_string_length(s),
                        MAX_STOP_BYTES);
            return;
        }
        if (json_string_length(s)) a->stop[a->request.n_stop++] = json_string_value(s);
    }
    a->request.stop = a->stop;
}

static void read_stop_ids(fields *f, const text_limits *l, text_ask *a)
{
    if (!field_present(f, "stop_token_ids")) return;
    json_t *v = json_object_get(f->object, "stop_token_ids");
    size_t n = json_array_size(v);
    if (!json_is_array(v)) {
        fields_fail(f, "stop_token_ids", "expected a list of token ids");
        return;
    }
    if (n > (size_t)l->engine->max_stop) {
        fields_fail(f, "stop_token_ids", "%zu tokens, at most %d", n, l->engine->max_stop);
        return;
    }
    a->stop_ids = calloc(n + 1, sizeof *a->stop_ids);
    for (size_t i = 0; a->stop_ids && i < n; i++) {
        const json_t *id = json_array_get(v, i);
        int64_t token;
        if (!json_whole(id, &token) || token < 0 || token > INT32_MAX) {
            fields_fail(f, "stop_token_ids", "entry %zu is not a token id", i);
            return;
        }
        a->stop_ids[a->request.n_stop_ids++] = (int32_t)token;
    }
    a->request.stop_ids = a->stop_ids;
}

static void read_stream(fields *f, text_ask *a)
{
    field_bool(f, "stream", &a->stream);
    json_t *o = field_object(f, "stream_options");
    if (!o) return;
    if (!a->stream) {
        fields_fail(f, "stream_options", "only for \"stream\":true");
        return;
    }
    const json_t *usage = json_object_get(o, "include_usage");
    if (usage && !json_is_null(usage) && !json_is_boolean(usage))
        fields_fail(f, "stream_options", "include_usage must be true or false");
    a->include_usage = json_is_true(usage);
}

/* ---------------------------------------------------------------- grammars */

static void use_grammar(fields *f, text_ask *a, const char *name, an_status s, an_grammar *g,
                        const an_error *err)
{
    if (s != AN_OK) {
        fields_fail(f, name, "%s", err->message);
        return;
    }
    if (a->request.grammar)
        fields_fail(f, name, "only one of response_format, json_schema and grammar can rule");
    an_grammar_unref(a->request.grammar);
    a->request.grammar = g;
}

void text_use_schema(fields *f, const text_limits *l, text_ask *a, const char *name,
                     const json_t *schema)
{
    an_error err = {0};
    an_grammar *g = NULL;
    if (!fields_ok(f)) return;
    an_status s = an_grammar_schema(schema, &l->grammar, &g, &err);
    use_grammar(f, a, name, s, g, &err);
}

/* {"type":"text"}, {"type":"json_object"} (llama-server's may have a "schema"), or
 * {"type":"json_schema","json_schema":{"name":...,"schema":{...}}}. */
static void read_response_format(fields *f, const text_limits *l, text_ask *a)
{
    json_t *v = field_object(f, "response_format");
    if (!v) return;
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *schema = json_object_get(v, "schema");
    if (type && strcmp(type, "text") == 0) return;
    if (type && strcmp(type, "json_schema") == 0) {
        const json_t *named = json_object_get(v, "json_schema");
        if (json_is_object(named)) schema = json_object_get(named, "schema");
        if (!json_is_object(schema)) {
            fields_fail(f, "response_format",
                        "json_schema needs {\"json_schema\":{\"schema\":{}}}");
            return;
        }
    } else if (!type || strcmp(type, "json_object") != 0) {
        fields_fail(f, "response_format", "type must be one of: text, json_object, json_schema");
        return;
    }
    if (schema && !json_is_object(schema)) schema = NULL;
    text_use_schema(f, l, a, "response_format", schema);
}

static void read_grammar(fields *f, const text_limits *l, text_ask *a)
{
    const char *text = NULL;
    an_error err = {0};
    an_grammar *g = NULL;
    read_response_format(f, l, a);
    if (a->dialect != TEXT_CHAT && field_present(f, "json_schema")) {
        const json_t *schema = json_object_get(f->object, "json_schema");
        if (!json_is_object(schema))
            fields_fail(f, "json_schema", "expected a JSON schema, an object");
        text_use_schema(f, l, a, "json_schema", schema);
    }
    field_string(f, "grammar", l->grammar.max_source, &text);
    if (!text || !*text || !fields_ok(f)) return;
    an_status s = an_grammar_gbnf(text, strlen(text), &l->grammar, &g, &err);
    use_grammar(f, a, "grammar", s, g, &err);
}

/* ---------------------------------------------------------------- all of them */

/* Fields of OpenAI's that change nothing here, and need no warning. */
static void read_silent(fields *f)
{
    static const char *const names[] = {"user",  "safety_identifier", "prompt_cache_key",
                                        "store", "metadata",          "service_tier"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) field_present(f, names[i]);
}

void text_read_common(fields *f, const text_limits *l, text_ask *a)
{
    an_text_request *q = &a->request;
    int64_t deadline_ms = 0;
    bool skip_special = !q->special;
    field_string(f, "model", 256, &q->model);
    field_int32(f, "n", 1, l->engine->max_completions, &q->n);
    read_sampling(f, l, a);
    read_stop(f, l, a);
    read_stop_ids(f, l, a);
    read_stream(f, a);
    field_int32(f, "min_tokens", 0, l->engine->max_tokens, &q->min_tokens);
    field_bool(f, "ignore_eos", a->dialect == TEXT_LLAMA ? &q->ban_eos : &q->ignore_eos);
    field_bool(f, "skip_special_tokens", &skip_special);
    q->special = !skip_special;
    field_bool(f, "add_special_tokens", &a->add_special);
    field_bool(f, "add_special", &a->add_special);
    field_bool(f, "parse_special", &a->parse_special);
    field_bool(f, "return_token_ids", &a->return_token_ids);
    field_string(f, "cache_salt", 256, &q->cache_salt);
    field_int32(f, "priority", -10, 10, &q->priority);
    field_int(f, "deadline_ms", 1, 86400000, &deadline_ms);
    q->deadline_s = (double)deadline_ms / 1000;
    read_grammar(f, l, a);
    read_silent(f);
}

an_status text_read_end(fields *f, text_ask *a, an_error *err)
{
    if (fields_ok(f)) {
        fields_unknown(f, a->warnings);
        return AN_OK;
    }
    *err = f->err;
    return f->err.status;
}

/* ---------------------------------------------------------------- prompts */

static size_t text_bytes(const json_t *v)
{
    size_t n = json_string_length(v), i;
    const json_t *item;
    json_array_foreach(v, i, item) n += json_string_length(item);
    return n;
}

void text_check_prompt(fields *f, const text_limits *l, const text_ask *a)
{
    const json_t *p = a->prompt;
    if (!p) {
        fields_fail(f, "prompt",
                    "missing; it must be a text, a list of texts, or (lists of) token ids");
        return;
    }
    size_t n = 1, bytes = text_bytes(p);
    if (json_is_array(p) && !json_whole(json_array_get(p, 0), NULL)) n = json_array_size(p);
    if (json_is_array(p) && json_array_size(p) == 0)
        fields_fail(f, "prompt", "an empty list; it must hold texts, token ids or lists of them");
    else if (n > (size_t)l->engine->max_queue)
        fields_fail(f, "prompt", "%zu prompts, at most %d", n, l->engine->max_queue);
    else if (bytes > l->max_text_bytes)
        fields_fail(f, "prompt", "%zu bytes, at most %zu", bytes, l->max_text_bytes);
}
