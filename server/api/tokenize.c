/* tokenize.c: POST /tokenize, /detokenize and /apply-template, with the fields of llama-server
 * (content, tokens, messages) and of vLLM (prompt, messages, tokens), and answers for both. */
#include "text_ask.h"

#include <stdlib.h>

/* The body as an ask of a model; NULL after replying with the error. */
static text_ask *ask_of(an_req *r, json_t *root, text_dialect d, text_parse parse)
{
    an_error err = {0};
    text_limits limits;
    text_limits_of(an_server_options(r->server), an_server_engine(r->server), &limits);
    text_ask *a = text_ask_new(d, root);
    if (!a)
        an_fail(&err, AN_NO_MEMORY, "out of memory");
    else if (parse(a, &limits, &err) == AN_OK &&
             text_find_model(a, an_server_engine(r->server), a->request.model, &err) == AN_OK)
        return a;
    text_ask_free(a);
    reply_error(r, &err);
    return NULL;
}

/* llama-server's defaults: control tokens are read, none is added. vLLM adds them. */
static an_status tokenize_parse(text_ask *a, const text_limits *l, an_error *err)
{
    fields f;
    fields_init(&f, a->root);
    const char *name = field_present(&f, "content") ? "content" : "prompt";
    bool pieces = false;
    a->parse_special = true;
    a->add_special = strcmp(name, "prompt") == 0;
    field_string(&f, "model", 256, &a->request.model);
    field_bool(&f, "add_special", &a->add_special);
    field_bool(&f, "add_special_tokens", &a->add_special);
    field_bool(&f, "parse_special", &a->parse_special);
    field_bool(&f, "with_pieces", &pieces);
    a->prompt = json_object_get(a->root, name);
    if (!a->prompt) fields_fail(&f, "content", "missing; it must be a text");
    if (a->prompt) text_check_prompt(&f, l, a);
    return text_read_end(&f, a, err);
}

static json_t *pieces_of(const text_ask *a, const int32_t *ids, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        size_t len = 0;
        const char *s = an_vocab_piece(a->vocab, ids[i], true, &len);
        json_t *piece = json_stringn(s ? s : "", len);
        if (!piece) { /* no whole characters: bytes, as llama-server */
            piece = json_array();
            for (size_t k = 0; k < len; k++)
                json_array_append_new(piece, json_integer((unsigned char)s[k]));
        }
        json_array_append_new(list, json_pack("{s:i,s:o}", "id", ids[i], "piece", piece));
    }
    return list;
}

static void reply_tokens(an_req *r, text_ask *a, const int32_t *ids, size_t n)
{
    text_prompt p = {(int32_t *)(uintptr_t)ids, n};
    bool pieces = json_is_true(json_object_get(a->root, "with_pieces")) && a->vocab;
    reply_json(r, 200,
               json_pack("{s:o,s:I,s:i}", "tokens",
                         pieces ? pieces_of(a, ids, n) : text_prompt_ids(&p), "count",
                         (json_int_t)n, "max_model_len", a->context));
}

static void work_tokenize(an_req *r)
{
    an_error err = {0};
    json_t *root = request_json(r);
    if (!root) return;
    const json_t *messages = json_object_get(root, "messages");
    bool chat = messages && !json_is_null(messages);
    text_ask *a =
        ask_of(r, root, chat ? TEXT_CHAT : TEXT_COMPLETIONS, chat ? chat_parse : tokenize_parse);
    if (!a) return;
    int32_t *ids = NULL;
    size_t n = 0;
    int flags = (a->add_special ? AN_ADD_SPECIAL : 0) | (a->parse_special ? AN_PARSE_SPECIAL : 0);
    an_status s = chat ? chat_encode(a, &err)
                       : text_encode_value(a, "content", a->prompt, flags, &ids, &n, &err);
    if (s != AN_OK)
        reply_error(r, &err);
    else if (chat)
        reply_tokens(r, a, a->prompts[0].ids, a->prompts[0].n_ids);
    else
        reply_tokens(r, a, ids, n);
    free(ids);
    text_ask_free(a);
}

static an_status detokenize_parse(text_ask *a, const text_limits *l, an_error *err)
{
    fields f;
    (void)l;
    fields_init(&f, a->root);
    field_string(&f, "model", 256, &a->request.model);
    a->prompt = field_present(&f, "tokens") ? json_object_get(a->root, "tokens") : NULL;
    if (!json_is_array(a->prompt)) fields_fail(&f, "tokens", "missing; it must be a list of ids");
    return text_read_end(&f, a, err);
}

static void work_detokenize(an_req *r)
{
    an_error err = {0};
    json_t *root = request_json(r);
    text_ask *a = root ? ask_of(r, root, TEXT_COMPLETIONS, detokenize_parse) : NULL;
    if (!a) return;
    int32_t *ids = NULL;
    size_t n = 0;
    an_buf b;
    an_buf_init(&b, (size_t)256 << 20);
    an_status s = text_encode_value(a, "tokens", a->prompt, 0, &ids, &n, &err);
    if (s == AN_OK && !a->vocab)
        s = an_fail_param(&err, AN_INVALID, "model", "model '%s' has no tokenizer", a->model);
    if (s == AN_OK) s = an_vocab_decode(a->vocab, ids, n, true, &b, &err);
    if (s == AN_OK) {
        json_t *text = text_json_string(b.data ? b.data : "", b.len);
        reply_json(r, 200, json_pack("{s:O,s:o}", "content", text, "prompt", text));
    } else {
        reply_error(r, &err);
    }
    an_buf_free(&b);
    free(ids);
    text_ask_free(a);
}

static void work_template(an_req *r)
{
    an_error err = {0};
    an_buf b;
    json_t *root = request_json(r);
    text_ask *a = root ? ask_of(r, root, TEXT_CHAT, chat_parse) : NULL;
    if (!a) return;
    if (chat_render(a, &b, &err) == AN_OK)
        reply_json(r, 200,
                   json_pack("{s:o}", "prompt", text_json_string(b.data ? b.data : "", b.len)));
    else
        reply_error(r, &err);
    an_buf_free(&b);
    text_ask_free(a);
}

static void tokenize(an_req *r)
{
    reply_work(r, work_tokenize);
}

static void detokenize(an_req *r)
{
    reply_work(r, work_detokenize);
}

static void apply_template(an_req *r)
{
    reply_work(r, work_template);
}

const an_route tokenize_routes[] = {{"POST", "/tokenize", tokenize, false},
                                    {"POST", "/detokenize", detokenize, false},
                                    {"POST", "/apply-template", apply_template, false},
                                    {NULL, NULL, NULL, false}};
