/* chat.c: POST /v1/chat/completions: OpenAI's messages, brought into the form that chat templates
 * know. */
#include "text_ask.h"

#include <stdlib.h>

#define MAX_MESSAGES 4096

/* ---------------------------------------------------------------- messages */

/* A string, null, or a list of {"type":"text","text":...}, joined by line ends as vLLM and
 * llama-server do. New reference; NULL after fields_fail. */
static json_t *content_of(fields *f, const json_t *message, size_t at)
{
    const json_t *c = json_object_get(message, "content");
    if (!c || json_is_null(c)) return json_string("");
    if (json_is_string(c)) return json_incref((json_t *)(uintptr_t)c);
    if (!json_is_array(c)) {
        fields_fail(f, "messages", "message %zu: content must be a text or a list of text parts",
                    at);
        return NULL;
    }
    an_buf b;
    an_buf_init(&b, (size_t)64 << 20);
    for (size_t i = 0; i < json_array_size(c); i++) {
        const json_t *part = json_array_get(c, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (type && strcmp(type, "refusal") == 0) text = json_object_get(part, "refusal");
        if (!json_is_string(text)) {
            fields_fail(f, "messages",
                        "message %zu: part %zu is of type '%.40s'; this model reads text only", at,
                        i, type ? type : "unknown");
            an_buf_free(&b);
            return NULL;
        }
        if (i) an_buf_str(&b, "\n");
        an_buf_add(&b, json_string_value(text), json_string_length(text));
    }
    json_t *joined = b.failed ? NULL : json_stringn(b.data ? b.data : "", b.len);
    an_buf_free(&b);
    if (!joined) fields_fail(f, "messages", "message %zu: out of memory", at);
    return joined;
}

/* Arguments come as JSON text; templates want the object. */
static json_t *call_for_template(fields *f, const json_t *call, size_t at)
{
    const json_t *fn = json_object_get(call, "function");
    const json_t *name = json_object_get(fn, "name"), *args = json_object_get(fn, "arguments");
    if (!json_is_string(name) || !(json_is_string(args) || json_is_object(args) || !args)) {
        fields_fail(f, "messages",
                    "message %zu: a tool call is {\"id\",\"type\":\"function\",\"function\":"
                    "{\"name\",\"arguments\"}}",
                    at);
        return NULL;
    }
    json_t *parsed = NULL;
    an_error ignored = {0};
    if (json_is_string(args) && json_string_length(args))
        an_json_parse(json_string_value(args), json_string_length(args), &parsed, &ignored);
    if (!parsed && json_is_string(args) && json_string_length(args))
        parsed = json_incref((json_t *)(uintptr_t)args);
    if (!parsed) parsed = args && json_is_object(args) ? json_deep_copy(args) : json_object();
    const char *id = json_string_value(json_object_get(call, "id"));
    return json_pack("{s:s,s:s,s:{s:O,s:o}}", "id", id ? id : "", "type", "function", "function",
                     "name", name, "arguments", parsed);
}

static void copy_calls(fields *f, const json_t *message, json_t *out, size_t at)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    if (!calls || json_is_null(calls)) return;
    if (!json_is_array(calls)) {
        fields_fail(f, "messages", "message %zu: tool_calls must be a list", at);
        return;
    }
    if (json_array_size(calls) == 0) return;
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(calls) && fields_ok(f); i++)
        json_array_append_new(list, call_for_template(f, json_array_get(calls, i), at));
    json_object_set_new(out, "tool_calls", list);
}

static json_t *message_for_template(fields *f, const json_t *m, size_t at)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", NULL};
    static const char *const kept[] = {"name", "tool_call_id", "reasoning_content", NULL};
    const char *role = json_string_value(json_object_get(m, "role"));
    int i = 0;
    while (roles[i] && (!role || strcmp(role, roles[i]) != 0)) i++;
    if (!roles[i]) {
        fields_fail(f, "messages",
                    "message %zu: role '%.40s' is not one of: system, developer, user, assistant, "
                    "tool",
                    at, role ? role : "");
        return NULL;
    }
    const json_t *given = json_object_get(m, "content");
    if ((!given || json_is_null(given)) && i != 3) { /* an assistant may only have called */
        fields_fail(f, "messages", "message %zu: content is missing", at);
        return NULL;
    }
    json_t *content = content_of(f, m, at);
    if (!content) return NULL;
    /* templates were written before "developer" was */
    json_t *out = json_pack("{s:s,s:o}", "role", i == 1 ? "system" : role, "content", content);
    for (int k = 0; kept[k]; k++) {
        json_t *v = json_object_get(m, kept[k]);
        if (json_is_string(v)) json_object_set(out, kept[k], v);
    }
    if (i == 3) copy_calls(f, m, out, at);
    return out;
}

static void read_messages(fields *f, const text_limits *l, text_ask *a)
{
    json_t *list = field_present(f, "messages") ? json_object_get(a->root, "messages") : NULL;
    if (!list) {
        fields_fail(f, "messages", "missing; it must be a list of {\"role\",\"content\"}");
        return;
    }
    if (!json_is_array(list) || json_array_size(list) == 0) {
        fields_fail(f, "messages",
                    json_is_array(list) ? "an empty list; at least one is needed"
                                        : "expected a list of {role, content}");
        return;
    }
    if (json_array_size(list) > MAX_MESSAGES) {
        fields_fail(f, "messages", "%zu messages, at most %d", json_array_size(list), MAX_MESSAGES);
        return;
    }
    size_t bytes = 0;
    a->messages = json_array();
    for (size_t i = 0; i < json_array_size(list) && fields_ok(f); i++) {
        json_t *m = message_for_template(f, json_array_get(list, i), i);
        bytes += json_string_length(json_object_get(m, "content"));
        if (m) json_array_append_new(a->messages, m);
    }
    if (fields_ok(f) && bytes > l->max_text_bytes)
        fields_fail(f, "messages", "%zu bytes, at most %zu", bytes, l->max_text_bytes);
}

/* ---------------------------------------------------------------- the rest */

/* Tools bind the answer like a response_format does, so there cannot be both. */
static void read_tools(fields *f, const text_limits *l, text_ask *a)
{
    tools_read(f, &a->tools, &a->choice);
    if (!fields_ok(f) || (a->choice.mode != TOOLS_REQUIRED && a->choice.mode != TOOLS_NAMED))
        return;
    if (a->request.grammar) {
        fields_fail(f, "tool_choice",
                    "a call that must be made and response_format exclude each "
                    "other");
        return;
    }
    json_t *schema = tools_schema(a->tools, &a->choice);
    if (schema)
        text_use_schema(f, l, a, "tools", schema);
    else
        fields_fail(f, "tools", "out of memory");
    json_decref(schema);
}

static void read_logprobs(fields *f, const text_limits *l, text_ask *a)
{
    bool logprobs = false;
    int top = -1;
    field_bool(f, "logprobs", &logprobs);
    field_int32(f, "top_logprobs", 0, l->engine->max_top_logprobs, &top);
    if (top >= 0 && !logprobs) fields_fail(f, "top_logprobs", "only with \"logprobs\":true");
    a->request.logprobs = logprobs ? (top > 0 ? top : 0) : -1;
}

an_status chat_parse(text_ask *a, const text_limits *l, an_error *err)
{
    fields f;
    an_text_request *q = &a->request;
    fields_init(&f, a->root);
    text_read_common(&f, l, a);
    field_int32(&f, "max_tokens", 1, l->engine->max_tokens, &q->max_tokens);
    field_int32(&f, "max_completion_tokens", 1, l->engine->max_tokens, &q->max_tokens);
    read_logprobs(&f, l, a);
    read_messages(&f, l, a);
    read_tools(&f, l, a);
    a->kwargs = field_object(&f, "chat_template_kwargs");
    field_bool(&f, "continue_final_message", &a->continue_final);
    a->generation_prompt = !a->continue_final;
    field_bool(&f, "add_generation_prompt", &a->generation_prompt);
    if (a->continue_final && a->generation_prompt)
        fields_fail(&f, "continue_final_message",
                    "not together with add_generation_prompt: the answer goes on with the last "
                    "message, or begins a new one");
    field_present(&f, "reasoning_effort");
    return text_read_end(&f, a, err);
}

static void work(an_req *r)
{
    text_serve(r, TEXT_CHAT, chat_parse);
}

/* Templates and tokenizers take their time: never on a socket thread. */
static void completions(an_req *r)
{
    reply_work(r, work);
}

const an_route chat_routes[] = {{"POST", "/v1/chat/completions", completions, false},
                                {"POST", "/chat/completions", completions, false},
                                {NULL, NULL, NULL, false}};
