/* text_stream.c: growing text as server-sent events. A choice is told from where the last event
 * left off, at the reader's own pace: nothing is kept for a slow one but the answer itself. */
#include "text_ask.h"

#include <stdlib.h>

static void send_chunk(text_ask *a, json_t *choice, an_buf *out)
{
    json_t *chunk =
        text_answer_base(a, a->dialect == TEXT_CHAT ? "chat.completion.chunk" : "text_completion");
    json_object_set_new(chunk, "choices", json_pack("[o]", choice));
    if (a->include_usage) json_object_set_new(chunk, "usage", json_null());
    sse_message(out, NULL, chunk);
}

/* ---------------------------------------------------------------- completions */

static void completion_delta(text_ask *a, int prompt, int k, const an_text *t, size_t to,
                             an_buf *out)
{
    text_choice *c = &a->told[prompt * a->request.n + k];
    bool echo = a->echo && !c->begun;
    const char *from = t->text + c->text_sent;
    size_t len = t->text_len - c->text_sent;
    json_t *text = echo ? text_echo_string(a, prompt, from, len) : text_json_string(from, len);
    json_t *choice = json_pack(
        "{s:i,s:o,s:o,s:o,s:o}", "index", prompt * a->request.n + k, "text", text, "logprobs",
        text_logprobs(a, t, c->tokens_sent, to, &c->offsets, echo ? a->jobs[prompt] : NULL),
        "finish_reason", text_finish_reason(t, false), "stop_reason", text_stop_reason(t));
    if (a->return_token_ids) {
        json_object_set_new(choice, "token_ids", text_token_ids(t, c->tokens_sent, to));
        json_object_set_new(choice, "prompt_token_ids",
                            c->begun ? json_null() : text_prompt_ids(&a->prompts[prompt]));
    }
    if (t->finish) json_object_set_new(choice, "seed", json_integer(t->seed));
    c->begun = true;
    send_chunk(a, choice, out);
}

/* ---------------------------------------------------------------- chat */

/* One event may become several chunks: content, a call's name, its arguments. */
typedef struct chat_out {
    text_ask *a;
    int k;
    json_t *logprobs, *token_ids; /* of the first chunk, then NULL */
    an_buf *out;
} chat_out;

static void chat_chunk(chat_out *o, json_t *delta, json_t *finish)
{
    json_t *choice = json_pack("{s:i,s:o,s:o,s:o}", "index", o->k, "delta", delta, "logprobs",
                               o->logprobs ? o->logprobs : json_null(), "finish_reason",
                               finish ? finish : json_null());
    if (o->token_ids) json_object_set_new(choice, "token_ids", o->token_ids);
    o->logprobs = o->token_ids = NULL;
    send_chunk(o->a, choice, o->out);
}

static void on_content(void *ctx, const char *s, size_t n)
{
    chat_chunk(ctx, json_pack("{s:o}", "content", text_json_string(s, n)), NULL);
}

static void on_call(void *ctx, int index, const char *name, size_t n)
{
    json_t *call = tool_call_json(name, n);
    json_object_set_new(call, "index", json_integer(index));
    chat_chunk(ctx, json_pack("{s:[o]}", "tool_calls", call), NULL);
}

static void on_arguments(void *ctx, int index, const char *s, size_t n)
{
    chat_chunk(ctx,
               json_pack("{s:[{s:i,s:{s:o}}]}", "tool_calls", "index", index, "function",
                         "arguments", text_json_string(s, n)),
               NULL);
}

static void chat_delta(text_ask *a, int k, const an_text *t, size_t to, an_buf *out)
{
    text_choice *c = &a->told[k];
    chat_out o = {a, k, NULL, NULL, out};
    tool_sink sink = {&o, on_content, on_call, on_arguments};
    if (!c->begun) {
        chat_chunk(&o, json_pack("{s:s,s:s,s:n}", "role", "assistant", "content", "", "refusal"),
                   NULL);
        c->begun = true;
    }
    if (to > c->tokens_sent) {
        if (a->request.logprobs >= 0)
            o.logprobs = text_logprobs(a, t, c->tokens_sent, to, NULL, NULL);
        if (a->return_token_ids) o.token_ids = text_token_ids(t, c->tokens_sent, to);
    }
    tools_feed(&c->tools, &a->choice, a->tools, t->text, t->text_len, t->finish != AN_FINISH_NONE,
               &sink);
    if (t->finish)
        chat_chunk(&o, json_object(), text_finish_reason(t, c->tools.calls > 0));
    else if (o.logprobs || o.token_ids) /* tokens whose text is held back */
        chat_chunk(&o, json_object(), NULL);
}

/* ---------------------------------------------------------------- events */

/* Tokens that can be told: those whose text is out, all of them at the end. */
static size_t tokens_out(const an_text *t, size_t from)
{
    if (t->finish) return t->n_tokens;
    while (from < t->n_tokens && t->tokens[from].text_end <= t->text_len) from++;
    return from;
}

static void tell_choice(text_ask *a, int prompt, int k, an_buf *out)
{
    an_text t;
    text_choice *c = &a->told[prompt * a->request.n + k];
    if (c->ended || !an_job_text(a->jobs[prompt], k, &t)) return;
    size_t to = tokens_out(&t, c->tokens_sent);
    if (!t.finish && to == c->tokens_sent && t.text_len == c->text_sent) return;
    if (a->dialect == TEXT_CHAT)
        chat_delta(a, k, &t, to, out);
    else if (a->dialect == TEXT_COMPLETIONS)
        completion_delta(a, prompt, k, &t, to, out);
    else
        sse_message(out, NULL, llama_delta(a, prompt, &t, c->text_sent, c->tokens_sent, to));
    c->text_sent = t.text_len;
    c->tokens_sent = to;
    c->ended = t.finish != AN_FINISH_NONE;
    if (c->ended && a->dialect == TEXT_LLAMA) sse_message(out, NULL, llama_answer(a, prompt));
}

static void on_event(an_req *r, an_job *job, const an_event *ev, an_buf *out)
{
    text_ask *a = r->user;
    an_job_info info;
    int prompt = 0;
    while (prompt + 1 < a->n_jobs && a->jobs[prompt] != job) prompt++;
    switch (ev->type) {
    case AN_EVENT_TEXT:
    case AN_EVENT_DONE:
        for (int k = 0; k < a->request.n; k++) tell_choice(a, prompt, k, out);
        break;
    case AN_EVENT_FAILED:
    case AN_EVENT_CANCELED:
        an_job_get(job, &info);
        sse_message(out, NULL, error_body(&info.error));
        break;
    default:
        break;
    }
}

static void on_end(an_req *r, an_buf *out)
{
    text_ask *a = r->user;
    if (a->dialect == TEXT_LLAMA) return;
    if (a->include_usage) {
        json_t *chunk = text_answer_base(a, a->dialect == TEXT_CHAT ? "chat.completion.chunk"
                                                                    : "text_completion");
        json_object_set_new(chunk, "choices", json_array());
        json_object_set_new(chunk, "usage", text_usage(a));
        if (json_array_size(a->warnings)) json_object_set(chunk, "warnings", a->warnings);
        sse_message(out, NULL, chunk);
    }
    an_buf_str(out, "data: [DONE]\n\n");
}

const an_sse_format text_stream_format = {.event = on_event, .end = on_end, .own = true};
