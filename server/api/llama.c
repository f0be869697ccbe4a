/* llama.c: llama-server's own API: POST /completion and /infill with its fields, defaults and
 * answers, GET /props and /slots. Its meanings differ from OpenAI's: ignore_eos bans the end token,
 * the prompt may hold control tokens, an answer that does not fit is cut, a stream ends without
 * [DONE]. */
#include "text_ask.h"

#include <math.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- parse */

static void llama_defaults(an_sampling *s)
{
    s->temperature = 0.8F;
    s->top_k = 40;
    s->top_p = 0.95F;
    s->min_p = 0.05F;
    s->repeat_last_n = 64;
}

static void read_llama(fields *f, const text_limits *l, text_ask *a)
{
    /* accepted without effect: there are no slots, and prefixes are always shared */
    static const char *const silent[] = {"cache_prompt", "id_slot",           "n_keep",
                                         "min_keep",     "timings_per_token", "n_indent"};
    an_text_request *q = &a->request;
    int n_predict = -1, n_probs = 0;
    llama_defaults(&q->sampling);
    text_read_common(f, l, a);
    if (q->sampling.seed == 0xffffffff) q->sampling.seed = -1; /* its word for random */
    field_int32(f, "n_predict", -2, l->engine->max_tokens, &n_predict);
    field_int32(f, "max_tokens", -1, l->engine->max_tokens, &n_predict);
    q->prompt_only = n_predict == 0;
    q->max_tokens = n_predict < 0 ? 0 : n_predict;
    field_int32(f, "n_probs", 0, l->engine->max_top_logprobs, &n_probs);
    field_int32(f, "logprobs", 0, l->engine->max_top_logprobs, &n_probs);
    q->logprobs = n_probs > 0 ? n_probs : -1;
    field_bool(f, "return_tokens", &a->return_token_ids);
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++) field_present(f, silent[i]);
    if (q->n > 1) fields_fail(f, "n", "%d; /v1/completions makes several", q->n);
}

an_status llama_parse(text_ask *a, const text_limits *l, an_error *err)
{
    fields f;
    fields_init(&f, a->root);
    read_llama(&f, l, a);
    a->many = true;
    a->prompt = field_present(&f, "prompt") ? json_object_get(a->root, "prompt") : NULL;
    text_check_prompt(&f, l, a);
    return text_read_end(&f, a, err);
}

an_status infill_parse(text_ask *a, const text_limits *l, an_error *err)
{
    fields f;
    fields_init(&f, a->root);
    read_llama(&f, l, a);
    a->infill = true;
    const char *prefix = "";
    field_string(&f, "input_prefix", l->max_text_bytes, &prefix);
    field_string(&f, "input_suffix", l->max_text_bytes, &a->suffix);
    field_string(&f, "prompt", l->max_text_bytes, &a->middle);
    a->prompt = json_object_get(a->root, "input_prefix");
    if (!*prefix && !(a->suffix && *a->suffix))
        fields_fail(&f, "input_prefix", "missing, and so is input_suffix: what is to be filled?");
    return text_read_end(&f, a, err);
}

/* ---------------------------------------------------------------- answers */

static json_t *settings(const text_ask *a)
{
    const an_sampling *s = &a->request.sampling;
    json_t *stop = json_array();
    for (int i = 0; i < a->request.n_stop; i++)
        json_array_append_new(stop, json_string(a->request.stop[i]));
    json_t *j = json_pack(
        "{s:i,s:f,s:i,s:f,s:f,s:f,s:f,s:i,s:f,s:f,s:b,s:b,s:o,s:i}", "n_predict",
        a->request.max_tokens || a->request.prompt_only ? a->request.max_tokens : -1, "temperature",
        (double)s->temperature, "top_k", s->top_k, "top_p", (double)s->top_p, "min_p",
        (double)s->min_p, "typical_p", (double)s->typical_p, "repeat_penalty",
        (double)s->repetition_penalty, "repeat_last_n", s->repeat_last_n, "presence_penalty",
        (double)s->presence_penalty, "frequency_penalty", (double)s->frequency_penalty, "stream",
        a->stream, "ignore_eos", a->request.ban_eos, "stop", stop, "n_probs",
        a->request.logprobs > 0 ? a->request.logprobs : 0);
    return j;
}

static json_t *timings(const an_text_usage *u)
{
    double prompt = (double)(u->prompt_tokens - u->cached_tokens);
    double made = (double)u->completion_tokens, p = u->prefill_s, d = u->decode_s;
    return json_pack(
        "{s:I,s:I,s:f,s:f,s:f,s:I,s:f,s:f,s:f}", "cache_n", (json_int_t)u->cached_tokens,
        "prompt_n", (json_int_t)prompt, "prompt_ms", p * 1e3, "prompt_per_token_ms",
        prompt > 0 ? p * 1e3 / prompt : 0.0, "prompt_per_second", p > 0 ? prompt / p : 0.0,
        "predicted_n", (json_int_t)made, "predicted_ms", d * 1e3, "predicted_per_token_ms",
        made > 0 ? d * 1e3 / made : 0.0, "predicted_per_second", d > 0 ? made / d : 0.0);
}

static json_t *token_json(const an_vocab *v, int32_t id, double logprob)
{
    size_t n = 0;
    const char *s = v ? an_vocab_piece(v, id, true, &n) : NULL;
    json_t *bytes = json_array();
    for (size_t i = 0; s && i < n; i++)
        json_array_append_new(bytes, json_integer((unsigned char)s[i]));
    return json_pack("{s:i,s:o,s:o,s:o}", "id", id, "token", text_token_string(v, id), "bytes",
                     bytes, "logprob", text_logprob_json(logprob));
}

static json_t *probabilities(const text_ask *a, const an_text *t, size_t from, size_t to)
{
    json_t *list = json_array();
    for (size_t i = from; i < to; i++) {
        const an_token *x = &t->tokens[i];
        json_t *item = token_json(a->vocab, x->id, (double)x->logprob), *top = json_array();
        for (int k = 0; k < x->n_top && k < a->request.logprobs; k++)
            json_array_append_new(top,
                                  token_json(a->vocab, x->top[k].id, (double)x->top[k].logprob));
        json_object_set_new(item, "top_logprobs", top);
        json_array_append_new(list, item);
    }
    return list;
}

/* "none", "eos", "word" or "limit". */
static const char *stop_type(const text_ask *a, const an_text *t, const char **word)
{
    *word = "";
    if (t->finish == AN_FINISH_NONE) return "none";
    if (t->finish == AN_FINISH_LENGTH) return "limit";
    for (int i = 0; t->stop && i < a->request.n_stop; i++)
        if (strcmp(t->stop, a->request.stop[i]) == 0) {
            *word = a->request.stop[i];
            return "word";
        }
    return "eos";
}

json_t *llama_delta(const text_ask *a, int prompt, const an_text *t, size_t from,
                    size_t tokens_from, size_t tokens_to)
{
    an_text_usage u = {0};
    an_job_text_usage(a->jobs[prompt], &u);
    json_t *j = json_pack("{s:i,s:o,s:o,s:b,s:i,s:I,s:I}", "index", prompt, "content",
                          text_json_string(t->text + from, t->text_len - from), "tokens",
                          text_token_ids(t, tokens_from, tokens_to), "stop", 0, "id_slot", 0,
                          "tokens_predicted", (json_int_t)tokens_to, "tokens_evaluated",
                          (json_int_t)u.prompt_tokens);
    if (a->request.logprobs > 0)
        json_object_set_new(j, "completion_probabilities",
                            probabilities(a, t, tokens_from, tokens_to));
    return j;
}

json_t *llama_answer(text_ask *a, int prompt)
{
    an_text t;
    an_text_usage u = {0};
    const char *word;
    if (!an_job_text(a->jobs[prompt], 0, &t)) return NULL;
    an_job_text_usage(a->jobs[prompt], &u);
    const char *why = stop_type(a, &t, &word);
    json_t *j = json_pack(
        "{s:i,s:o,s:o,s:i,s:b,s:s,s:I,s:I,s:I,s:o,s:o,s:b,s:s,s:s,s:b,s:I,s:o}", "index", prompt,
        "content", text_json_string(t.text, a->stream ? 0 : t.text_len), "tokens",
        a->return_token_ids && !a->stream ? text_token_ids(&t, 0, t.n_tokens) : json_array(),
        "id_slot", 0, "stop", 1, "model", a->model, "tokens_predicted",
        (json_int_t)u.completion_tokens, "tokens_evaluated", (json_int_t)u.prompt_tokens,
        "tokens_cached", (json_int_t)u.cached_tokens, "generation_settings", settings(a), "prompt",
        text_prompt_string(a, prompt), "has_new_line",
        t.text_len && memchr(t.text, '\n', t.text_len) != NULL, "stop_type", why, "stopping_word",
        word, "truncated", 0, "seed", (json_int_t)t.seed, "timings", timings(&u));
    if (a->request.logprobs > 0 && !a->stream)
        json_object_set_new(j, "completion_probabilities", probabilities(a, &t, 0, t.n_tokens));
    if (json_array_size(a->warnings)) json_object_set(j, "warnings", a->warnings);
    return j;
}

json_t *llama_answer_all(text_ask *a, an_error *err)
{
    json_t *body = a->n_jobs == 1 ? llama_answer(a, 0) : json_array();
    for (int i = 0; a->n_jobs > 1 && i < a->n_jobs; i++)
        json_array_append_new(body, llama_answer(a, i));
    if (!body) an_fail(err, AN_NO_MEMORY, "out of memory");
    return body;
}

/* ---------------------------------------------------------------- routes */

static void work_completion(an_req *r)
{
    text_serve(r, TEXT_LLAMA, llama_parse);
}

static void completion(an_req *r)
{
    reply_work(r, work_completion);
}

static void work_infill(an_req *r)
{
    text_serve(r, TEXT_LLAMA, infill_parse);
}

static void infill(an_req *r)
{
    reply_work(r, work_infill);
}

static json_t *default_settings(const text_ask *a)
{
    return json_pack("{s:i,s:i,s:b,s:o}", "id", 0, "n_ctx", a->context, "is_processing", 0,
                     "params", settings(a));
}

/* An ask of the model that ?model= names, or the default one; NULL after replying. */
static text_ask *default_ask(an_req *r)
{
    an_error err = {0};
    text_ask *a = text_ask_new(TEXT_LLAMA, json_object());
    if (!a) {
        an_fail(&err, AN_NO_MEMORY, "out of memory");
    } else if (text_find_model(a, an_server_engine(r->server), request_query(r, "model"), &err) ==
               AN_OK) {
        llama_defaults(&a->request.sampling);
        return a;
    }
    text_ask_free(a);
    reply_error(r, &err);
    return NULL;
}

static const char *token_text(const text_ask *a, int32_t id, size_t *n)
{
    const char *s = a->vocab && id >= 0 ? an_vocab_piece(a->vocab, id, true, n) : NULL;
    if (!s) *n = 0;
    return s ? s : "";
}

/* What the template can do, as far as its variables tell. */
static json_t *template_json(const text_ask *a, json_t *body)
{
    const an_template *t = NULL;
    an_error err = {0};
    if (a->info.has_chat_template) an_engine_template(a->engine, a->model, &t, NULL, NULL, &err);
    bool tools = t && an_template_uses(t, "tools");
    json_object_set_new(body, "has_chat_template", json_boolean(a->info.has_chat_template));
    json_object_set_new(body, "chat_template", json_string(t ? an_template_source(t) : ""));
    json_object_set_new(
        body, "chat_template_caps",
        json_pack("{s:b,s:b}", "supports_tools", tools, "supports_tool_calls", tools));
    return body;
}

static void work_props(an_req *r)
{
    text_ask *a = default_ask(r);
    size_t nb, ne;
    if (!a) return;
    const an_engine_options *o = an_engine_limits(a->engine);
    const char *bos = token_text(a, a->vocab ? an_vocab_bos(a->vocab) : -1, &nb);
    const char *eos = token_text(a, a->vocab ? an_vocab_eos(a->vocab) : -1, &ne);
    json_t *body = json_pack("{s:o,s:i,s:s,s:s,s:o,s:o,s:s,s:{s:b,s:b,s:b},s:b,s:b,s:b,s:b}",
                             "default_generation_settings", default_settings(a), "total_slots",
                             o->max_sequences, "model_alias", a->model, "model_path", a->model,
                             "bos_token", text_json_string(bos, nb), "eos_token",
                             text_json_string(eos, ne), "build_info", "anneal-" AN_VERSION,
                             "modalities", "vision", 0, "audio", 0, "video", 0, "endpoint_slots", 1,
                             "endpoint_props", 0, "endpoint_metrics", 1, "is_sleeping", 0);
    reply_json(r, 200, template_json(a, body));
    text_ask_free(a);
}

static void props(an_req *r)
{
    reply_work(r, work_props);
}

/* There are no slots here; the answers that grow now look like busy ones. */
static void slots(an_req *r)
{
    an_engine_stats s;
    an_engine *e = an_server_engine(r->server);
    const an_engine_options *o = an_engine_limits(e);
    json_t *list = json_array();
    an_engine_get_stats(e, &s);
    for (int i = 0; i < o->max_sequences; i++)
        json_array_append_new(list, json_pack("{s:i,s:i,s:b}", "id", i, "n_ctx", o->max_context,
                                              "is_processing", i < s.seqs_running));
    reply_json(r, 200, list);
}

const an_route llama_routes[] = {{"POST", "/completion", completion, false},
                                 {"POST", "/completions", completion, false},
                                 {"POST", "/infill", infill, false},
                                 {"GET", "/props", props, false},
                                 {"GET", "/slots", slots, false},
                                 {NULL, NULL, NULL, false}};
