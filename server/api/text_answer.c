/* text_answer.c: finished text as JSON: choices, logprobs, usage, in the shapes that OpenAI's
 * package parses into types. */
#include "text_ask.h"

#include <math.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- small parts */

json_t *text_json_string(const char *s, size_t len)
{
    an_buf b;
    json_t *j = json_stringn(s, len);
    if (j) return j;
    an_buf_init(&b, len * 3 + 8);
    for (size_t i = 0; i < len;) {
        const size_t n = an_utf8_char(s + i, len - i);
        if (n)
            an_buf_add(&b, s + i, n);
        else
            an_buf_str(&b, "\xef\xbf\xbd");
        i += n ? n : 1;
    }
    j = b.failed ? NULL : json_stringn(b.data ? b.data : "", b.len);
    an_buf_free(&b);
    return j ? j : json_string("");
}

/* Without a vocabulary as vLLM names tokens then. */
json_t *text_token_string(const an_vocab *v, int32_t id)
{
    size_t n = 0;
    const char *s = v ? an_vocab_piece(v, id, true, &n) : NULL;
    return v ? text_json_string(s ? s : "", n) : json_sprintf("token_id:%d", id);
}

json_t *text_logprob_json(double logprob)
{
    if (isnan(logprob)) return json_null();
    return json_real(logprob > -9999 ? logprob : -9999);
}

json_t *text_token_ids(const an_text *t, size_t from, size_t to)
{
    json_t *list = json_array();
    for (size_t i = from; i < to; i++) json_array_append_new(list, json_integer(t->tokens[i].id));
    return list;
}

json_t *text_prompt_ids(const text_prompt *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->n_ids; i++) json_array_append_new(list, json_integer(p->ids[i]));
    return list;
}

json_t *text_finish_reason(const an_text *t, bool tool_calls)
{
    if (t->finish == AN_FINISH_NONE) return json_null();
    if (t->finish == AN_FINISH_LENGTH) return json_string("length");
    return json_string(tool_calls ? "tool_calls" : "stop");
}

json_t *text_stop_reason(const an_text *t)
{
    return t->stop ? text_json_string(t->stop, strlen(t->stop)) : json_null();
}

json_t *text_echo_string(const text_ask *a, int prompt, const char *text, size_t len)
{
    an_buf b;
    const text_prompt *p = &a->prompts[prompt];
    an_buf_init(&b, (size_t)256 << 20);
    if (a->vocab) an_vocab_decode(a->vocab, p->ids, p->n_ids, a->request.special, &b, NULL);
    if (len) an_buf_add(&b, text, len);
    json_t *j = text_json_string(b.data ? b.data : "", b.len);
    an_buf_free(&b);
    return j;
}

json_t *text_prompt_string(const text_ask *a, int prompt)
{
    return text_echo_string(a, prompt, "", 0);
}

json_t *text_answer_base(const text_ask *a, const char *object)
{
    return json_pack("{s:s,s:s,s:I,s:s,s:s}", "id", a->id, "object", object, "created", a->created,
                     "model", a->model, "system_fingerprint", "anneal-" AN_VERSION);
}

json_t *text_usage(const text_ask *a)
{
    size_t prompt = 0, cached = 0, answer = 0;
    for (int i = 0; i < a->n_jobs; i++) {
        an_text_usage u = {0};
        an_job_text_usage(a->jobs[i], &u);
        prompt += u.prompt_tokens;
        cached += u.cached_tokens;
        answer += u.completion_tokens;
    }
    return json_pack("{s:I,s:I,s:I,s:{s:I,s:i},s:{s:i,s:i,s:i,s:i}}", "prompt_tokens",
                     (json_int_t)prompt, "completion_tokens", (json_int_t)answer, "total_tokens",
                     (json_int_t)(prompt + answer), "prompt_tokens_details", "cached_tokens",
                     (json_int_t)cached, "audio_tokens", 0, "completion_tokens_details",
                     "reasoning_tokens", 0, "audio_tokens", 0, "accepted_prediction_tokens", 0,
                     "rejected_prediction_tokens", 0);
}

/* ---------------------------------------------------------------- logprobs */

static size_t characters(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xc0) != 0x80;
    return count;
}

/* /v1/completions: four lists side by side. */
typedef struct side_by_side {
    json_t *tokens, *logprobs, *top, *offsets;
} side_by_side;

static void add_token(const text_ask *a, side_by_side *l, const an_token *t, size_t offset)
{
    json_array_append_new(l->tokens, text_token_string(a->vocab, t->id));
    json_array_append_new(l->logprobs, text_logprob_json((double)t->logprob));
    json_array_append_new(l->offsets, json_integer((json_int_t)offset));
    if (isnan(t->logprob)) {
        json_array_append_new(l->top, json_null());
        return;
    }
    json_t *top = json_object();
    for (int k = 0; k < t->n_top; k++) {
        json_t *name = text_token_string(a->vocab, t->top[k].id);
        json_object_set_new(top, json_string_value(name),
                            text_logprob_json((double)t->top[k].logprob));
        json_decref(name);
    }
    json_t *name = text_token_string(a->vocab, t->id); /* the chosen one always belongs to it */
    if (!json_object_get(top, json_string_value(name)))
        json_object_set_new(top, json_string_value(name), text_logprob_json((double)t->logprob));
    json_decref(name);
    json_array_append_new(l->top, top);
}

/* Tokens of the prompt and where their text begins. */
static void add_prompt(const text_ask *a, side_by_side *l, text_offsets *at, an_job *job)
{
    const an_token *tokens;
    size_t n;
    an_detok d;
    if (!an_job_prompt(job, &tokens, &n)) return;
    if (a->vocab) an_detok_start(&d, a->vocab, a->request.special);
    for (size_t i = 0; i < n; i++) {
        an_buf b;
        an_buf_init(&b, 1 << 20);
        add_token(a, l, &tokens[i], at->characters);
        if (a->vocab) {
            an_detok_add(&d, tokens[i].id, &b);
            at->characters += characters(b.data ? b.data : "", b.len);
        }
        an_buf_free(&b);
    }
}

static json_t *completion_logprobs(const text_ask *a, const an_text *t, size_t from, size_t to,
                                   text_offsets *at, an_job *echo)
{
    side_by_side l = {json_array(), json_array(), json_array(), json_array()};
    if (echo) add_prompt(a, &l, at, echo);
    for (size_t i = from; i < to; i++) {
        size_t start = t->tokens[i].text_start;
        if (start > t->text_len) start = t->text_len; /* of a stop string, which is cut off */
        if (start > at->bytes) {
            at->characters += characters(t->text + at->bytes, start - at->bytes);
            at->bytes = start;
        }
        add_token(a, &l, &t->tokens[i], at->characters);
    }
    return json_pack("{s:o,s:o,s:o,s:o}", "tokens", l.tokens, "token_logprobs", l.logprobs,
                     "top_logprobs", l.top, "text_offset", l.offsets);
}

/* /v1/chat/completions: one object a token. */
static json_t *chat_token(const an_vocab *v, int32_t id, double logprob)
{
    size_t n = 0;
    const char *s = v ? an_vocab_piece(v, id, true, &n) : NULL;
    json_t *bytes = v ? json_array() : json_null();
    for (size_t i = 0; s && i < n; i++)
        json_array_append_new(bytes, json_integer((unsigned char)s[i]));
    return json_pack("{s:o,s:o,s:o}", "token", text_token_string(v, id), "logprob",
                     text_logprob_json(logprob), "bytes", bytes);
}

static json_t *chat_logprobs(const text_ask *a, const an_text *t, size_t from, size_t to)
{
    json_t *list = json_array();
    for (size_t i = from; i < to; i++) {
        const an_token *x = &t->tokens[i];
        json_t *item = chat_token(a->vocab, x->id, (double)x->logprob), *top = json_array();
        for (int k = 0; k < x->n_top && k < a->request.logprobs; k++)
            json_array_append_new(top,
                                  chat_token(a->vocab, x->top[k].id, (double)x->top[k].logprob));
        json_object_set_new(item, "top_logprobs", top);
        json_array_append_new(list, item);
    }
    return json_pack("{s:o,s:n}", "content", list, "refusal");
}

json_t *text_logprobs(const text_ask *a, const an_text *t, size_t from, size_t to, text_offsets *at,
                      an_job *echo)
{
    if (a->request.logprobs < 0) return json_null();
    return a->dialect == TEXT_CHAT ? chat_logprobs(a, t, from, to)
                                   : completion_logprobs(a, t, from, to, at, echo);
}

/* ---------------------------------------------------------------- choices */

static json_t *completion_choice(text_ask *a, int prompt, int k, const an_text *t)
{
    text_offsets at = {0};
    json_t *text = a->echo ? text_echo_string(a, prompt, t->text, t->text_len)
                           : text_json_string(t->text, t->text_len);
    json_t *c = json_pack(
        "{s:i,s:o,s:o,s:o,s:o,s:I}", "index", prompt * a->request.n + k, "text", text, "logprobs",
        text_logprobs(a, t, 0, t->n_tokens, &at, a->echo ? a->jobs[prompt] : NULL), "finish_reason",
        text_finish_reason(t, false), "stop_reason", text_stop_reason(t), "seed",
        (json_int_t)t->seed);
    if (a->return_token_ids && c) {
        json_object_set_new(c, "token_ids", text_token_ids(t, 0, t->n_tokens));
        json_object_set_new(c, "prompt_token_ids", text_prompt_ids(&a->prompts[prompt]));
    }
    return c;
}

/* Where tools_feed puts a whole answer. */
typedef struct message {
    an_buf content, arguments;
    json_t *calls;
    char name[128];
} message;

static void on_content(void *ctx, const char *s, size_t n)
{
    an_buf_add(&((message *)ctx)->content, s, n);
}

static void end_call(message *m)
{
    size_t n = json_array_size(m->calls);
    json_t *call = n ? json_array_get(m->calls, n - 1) : NULL;
    if (call)
        json_object_set_new(
            json_object_get(call, "function"), "arguments",
            json_stringn(m->arguments.data ? m->arguments.data : "", m->arguments.len));
    an_buf_free(&m->arguments);
}

static void on_call(void *ctx, int index, const char *name, size_t n)
{
    message *m = ctx;
    (void)index;
    end_call(m);
    json_array_append_new(m->calls, tool_call_json(name, n));
}

static void on_arguments(void *ctx, int index, const char *s, size_t n)
{
    (void)index;
    an_buf_add(&((message *)ctx)->arguments, s, n);
}

static json_t *chat_choice(text_ask *a, int k, const an_text *t)
{
    message m = {.calls = json_array()};
    tool_parser p = {0};
    tool_sink sink = {&m, on_content, on_call, on_arguments};
    an_buf_init(&m.content, (size_t)256 << 20);
    an_buf_init(&m.arguments, (size_t)256 << 20);
    tools_feed(&p, &a->choice, a->tools, t->text, t->text_len, true, &sink);
    end_call(&m);
    bool calls = json_array_size(m.calls) > 0;
    json_t *message_json =
        json_pack("{s:s,s:o,s:n,s:[]}", "role", "assistant", "content",
                  calls && !m.content.len
                      ? json_null()
                      : text_json_string(m.content.data ? m.content.data : "", m.content.len),
                  "refusal", "annotations");
    if (calls) json_object_set(message_json, "tool_calls", m.calls);
    json_decref(m.calls);
    an_buf_free(&m.content);
    json_t *c = json_pack("{s:i,s:o,s:o,s:o,s:o,s:I}", "index", k, "message", message_json,
                          "logprobs", text_logprobs(a, t, 0, t->n_tokens, NULL, NULL),
                          "finish_reason", text_finish_reason(t, calls), "stop_reason",
                          text_stop_reason(t), "seed", (json_int_t)t->seed);
    if (a->return_token_ids && c)
        json_object_set_new(c, "token_ids", text_token_ids(t, 0, t->n_tokens));
    return c;
}

/* ---------------------------------------------------------------- the whole */

/* Jobs of one request fail together. */
static bool all_done(text_ask *a, an_error *err)
{
    for (int i = 0; i < a->n_jobs; i++) {
        an_job_info info;
        an_job_get(a->jobs[i], &info);
        if (info.state == AN_JOB_DONE) continue;
        *err = info.error;
        return false;
    }
    return true;
}

json_t *text_answer(text_ask *a, an_error *err)
{
    if (!all_done(a, err)) return NULL;
    if (a->dialect == TEXT_LLAMA) return llama_answer_all(a, err);
    bool chat = a->dialect == TEXT_CHAT;
    json_t *body = text_answer_base(a, chat ? "chat.completion" : "text_completion");
    json_t *choices = json_array();
    for (int i = 0; i < a->n_jobs; i++)
        for (int k = 0; k < a->request.n; k++) {
            an_text t;
            if (an_job_text(a->jobs[i], k, &t))
                json_array_append_new(choices, chat ? chat_choice(a, k, &t)
                                                    : completion_choice(a, i, k, &t));
        }
    json_object_set_new(body, "choices", choices);
    json_object_set_new(body, "usage", text_usage(a));
    if (chat) json_object_set_new(body, "service_tier", json_string("default"));
    if (chat && a->return_token_ids)
        json_object_set_new(body, "prompt_token_ids", text_prompt_ids(&a->prompts[0]));
    if (json_array_size(a->warnings)) json_object_set(body, "warnings", a->warnings);
    if (!body) an_fail(err, AN_NO_MEMORY, "out of memory");
    return body;
}
