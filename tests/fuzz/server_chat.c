/* Bytes as a chat request (and as the bodies of the other text dialects): messages, tools, schemas,
 * grammars; then the same bytes as an answer in which tool calls are looked for, whole and in two
 * pieces. Nothing is submitted. */
#include "api/text_ask.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const text_ask *a, const an_engine_options *l)
{
    const an_text_request *q = &a->request;
    bool sane = q->n >= 1 && q->n <= l->max_completions && q->max_tokens >= 0 &&
                q->max_tokens <= l->max_tokens && q->n_stop <= l->max_stop &&
                q->n_stop_ids <= l->max_stop && q->logprobs <= l->max_top_logprobs &&
                !(q->sampling.top_p < 0 || q->sampling.top_p > 1);
    for (int i = 0; i < q->n_stop; i++) sane = sane && *q->stop[i];
    if (a->dialect == TEXT_CHAT) sane = sane && json_array_size(a->messages) > 0;
    if (!sane) abort();
}

static void body(const json_t *root, text_dialect d, text_parse parse, const text_limits *l)
{
    an_error err = {0};
    text_ask *a = text_ask_new(d, json_deep_copy(root));
    if (!a) return;
    if (parse(a, l, &err) == AN_OK)
        check(a, l->engine);
    else if (!*err.message)
        abort(); /* an error must say what is wrong */
    text_ask_free(a);
}

/* ---------------------------------------------------------------- answers */

typedef struct heard {
    size_t bytes;
    int calls;
} heard;

static void on_content(void *ctx, const char *s, size_t n)
{
    heard *h = ctx;
    for (size_t i = 0; i < n; i++) h->bytes += (unsigned char)s[i] < 255; /* every byte is there */
}

static void on_call(void *ctx, int index, const char *name, size_t n)
{
    heard *h = ctx;
    if (index != h->calls++ || !n || !name) abort();
}

static void on_arguments(void *ctx, int index, const char *s, size_t n)
{
    if (index != ((heard *)ctx)->calls - 1) abort();
    on_content(ctx, s, n);
}

static void answer(const char *text, size_t len, size_t cut, tool_mode mode)
{
    heard h = {0};
    tool_parser p = {0};
    tool_choice c = {mode, "f", true};
    tool_sink sink = {&h, on_content, on_call, on_arguments};
    json_t *tools = json_pack("[{s:{s:s}}]", "function", "name", "f");
    if (cut) tools_feed(&p, &c, tools, text, cut, false, &sink);
    tools_feed(&p, &c, tools, text, len, true, &sink);
    json_decref(tools);
    if (h.bytes > 4 * len + 64) abort(); /* nothing is told twice */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    an_engine_options engine;
    text_limits limits = {.engine = &engine, .max_text_bytes = 1 << 20};
    an_error err = {0};
    json_t *root = NULL;
    an_engine_options_default(&engine);
    an_grammar_limits_default(&limits.grammar);
    limits.grammar.max_source = 1 << 14;
    char *text = malloc(size + 1); /* ends where the bytes end, for the sanitizer */
    if (!text) return 0;
    memcpy(text, data, size);
    for (int mode = TOOLS_NONE; mode <= TOOLS_NAMED; mode++) {
        answer(text, size, 0, (tool_mode)mode);
        answer(text, size, size / 2, (tool_mode)mode);
    }
    if (an_json_parse(text, size, &root, &err) == AN_OK && json_is_object(root)) {
        body(root, TEXT_CHAT, chat_parse, &limits);
        body(root, TEXT_COMPLETIONS, completions_parse, &limits);
        body(root, TEXT_LLAMA, llama_parse, &limits);
        body(root, TEXT_LLAMA, infill_parse, &limits);
    }
    json_decref(root);
    free(text);
    return 0;
}
