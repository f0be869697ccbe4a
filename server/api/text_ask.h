/* text_ask.h: what a client asked a language model for, in the words of any dialect:
 * /v1/completions (completions.c), /v1/chat/completions (chat.c), llama-server's /completion and
 * /infill (llama.c). A request goes through these steps: parse    types, ranges and grammars; needs
 * no model (text_ask.c, chat.c, llama.c) prepare  finds the model, makes token ids of the prompts
 * (text_prompt.c, chat_prompt.c) submit   one job a prompt; the ask becomes r->user answer   one
 * JSON body (text_answer.c) or a stream (text_stream.c) Prompts are encoded and templates rendered
 * on encoder threads. */
#ifndef ANNEAL_TEXT_ASK_H
#define ANNEAL_TEXT_ASK_H

#include "chat_tools.h"
#include "fields.h"

typedef enum text_dialect { TEXT_COMPLETIONS = 0, TEXT_CHAT, TEXT_LLAMA } text_dialect;

/* What a request may hold at most. */
typedef struct text_limits {
    const an_engine_options *engine;
    an_grammar_limits grammar;
    size_t max_text_bytes;    /* of all prompts or messages together */
    size_t max_echo_logprobs; /* numbers of the prompts in the answers */
} text_limits;

typedef struct text_prompt {
    int32_t *ids; /* owned */
    size_t n_ids;
} text_prompt;

/* Where text_offset of the next token is: bytes of the answer counted so far, and characters, those
 * of an echoed prompt included. */
typedef struct text_offsets {
    size_t bytes, characters;
} text_offsets;

/* How much of a choice a stream has told. */
typedef struct text_choice {
    size_t text_sent, tokens_sent;
    text_offsets offsets;
    bool begun, ended;
    tool_parser tools;
} text_choice;

typedef struct text_ask {
    text_dialect dialect;
    json_t *root;            /* owns the strings that request borrows */
    an_text_request request; /* without ids */
    json_t *warnings;
    bool stream, include_usage;
    bool echo;
    size_t max_echo_logprobs; /* of the limits: lengths are known when the prompts are encoded */
    bool return_token_ids, add_special, parse_special;
    struct an_token_bias *bias; /* owned, as the next two */
    const char **stop;
    int32_t *stop_ids;
    json_t *logit_bias; /* borrowed: read when the vocabulary is known */
    /* completions and llama */
    json_t *prompt;     /* borrowed */
    const char *suffix; /* fill in the middle; NULL = go on after the prompt */
    const char *middle; /* /infill: the text after the middle token */
    bool infill, many;  /* many: a list makes several prompts */
    /* chat */
    json_t *messages, *tools, *kwargs;      /* owned, owned, borrowed */
    bool generation_prompt, continue_final; /* the answer goes on with the last message */
    tool_choice choice;
    /* prepared */
    an_engine *engine;
    an_model_info info;
    char model[256];
    const an_vocab *vocab; /* NULL: token ids only */
    text_prompt *prompts;
    int n_prompts;
    int context; /* positions of a sequence */
    /* submitted */
    an_job **jobs; /* [n_jobs], a reference each */
    int n_jobs;
    char id[64];
    json_int_t created;
    text_choice *told; /* [n_jobs * n] */
} text_ask;

/* ---------------------------------------------------------------- parse (text_ask.c) */

void text_limits_of(const an_options *o, an_engine *e, text_limits *out);
/* An ask of the dialect with its defaults; takes root. NULL = no memory. */
text_ask *text_ask_new(text_dialect d, json_t *root);
void text_ask_free(void *ask); /* NULL is fine */
/* Sampling, stops, penalties, stream, grammar, ...: what all dialects share. */
void text_read_common(fields *f, const text_limits *l, text_ask *a);
void text_read_float(fields *f, const char *name, double min, double max, float *out);
/* The other half of a parse: keeps f's error or its warnings. */
an_status text_read_end(fields *f, text_ask *a, an_error *err);
/* Compiles a schema (NULL = any object) into the request; a fault names the field. */
void text_use_schema(fields *f, const text_limits *l, text_ask *a, const char *name,
                     const json_t *schema);

/* `prompt`: is it there, not empty, not too much? */
void text_check_prompt(fields *f, const text_limits *l, const text_ask *a);

an_status completions_parse(text_ask *a, const text_limits *l, an_error *err);
an_status chat_parse(text_ask *a, const text_limits *l, an_error *err);
an_status llama_parse(text_ask *a, const text_limits *l, an_error *err);
an_status infill_parse(text_ask *a, const text_limits *l, an_error *err);

/* ---------------------------------------------------------------- prepare (text_prompt.c) */

/* Model, vocabulary, defaults of the model, logit_bias, range of ids. */
an_status text_find_model(text_ask *a, an_engine *e, const char *model, an_error *err);
/* Adds a prompt; takes ids (NULL: no memory). */
an_status text_add_prompt(text_ask *a, int32_t *ids, size_t n, an_error *err);
/* The prompts of `prompt`, `suffix`. */
an_status text_encode_prompts(text_ask *a, an_error *err);
/* Are the prompts as long as they may be? */
an_status text_check_lengths(text_ask *a, an_error *err);
/* Text or ids ("prompt" of llama-server, "content" of /tokenize: strings and ids may be mixed). */
an_status text_encode_value(text_ask *a, const char *param, const json_t *v, int flags,
                            int32_t **ids, size_t *n, an_error *err);
/* Renders messages with the model's template and makes ids of it (chat_prompt.c). */
an_status chat_encode(text_ask *a, an_error *err);
/* The rendered text alone, as /apply-template answers it. out is initialised here. */
an_status chat_render(text_ask *a, an_buf *out, an_error *err);
void chat_prompt_clear(void); /* at the server's end */

/* ---------------------------------------------------------------- submit and answer */

typedef an_status (*text_parse)(text_ask *a, const text_limits *l, an_error *err);
/* Finds the model, encodes the prompts, submits one job for each, all or none. */
an_status text_submit(text_ask *a, an_engine *e, const char *client, an_error *err);
/* A whole request: body, parse, prepare, submit, answer or stream. */
void text_serve(an_req *r, text_dialect d, text_parse parse);

/* The body of a finished ask; NULL with err filled. */
json_t *text_answer(text_ask *a, an_error *err);
json_t *text_answer_base(const text_ask *a, const char *object);
json_t *text_usage(const text_ask *a);
/* logprobs of tokens [from, to) of a choice, in the dialect's form; null when none were asked. *at
 * is zeros before the first token. echo: of the job's prompt too, before them. */
json_t *text_logprobs(const text_ask *a, const an_text *t, size_t from, size_t to, text_offsets *at,
                      an_job *echo);
json_t *text_token_ids(const an_text *t, size_t from, size_t to);
json_t *text_prompt_ids(const text_prompt *p);
json_t *text_finish_reason(const an_text *t, bool tool_calls);
json_t *text_stop_reason(const an_text *t);
/* Text of the prompt, "" without a vocabulary; new reference. */
json_t *text_prompt_string(const text_ask *a, int prompt);
/* The same with an answer behind it. */
json_t *text_echo_string(const text_ask *a, int prompt, const char *text, size_t len);
json_t *text_logprob_json(double logprob); /* JSON has no infinity: as low as -9999 */
/* Bytes as a JSON string: what is not UTF-8 becomes U+FFFD. */
json_t *text_json_string(const char *s, size_t len);
json_t *text_token_string(const an_vocab *v, int32_t id);

extern const an_sse_format text_stream_format; /* text_stream.c */

/* llama.c: one prompt's last word (in a stream without the text that was told), and all of them. */
json_t *llama_answer(text_ask *a, int prompt);
json_t *llama_answer_all(text_ask *a, an_error *err);
json_t *llama_delta(const text_ask *a, int prompt, const an_text *t, size_t from,
                    size_t tokens_from, size_t tokens_to);

/* ---------------------------------------------------------------- jobs (text_jobs.c) */

/* Takes root, whose "kind" is "text" or "chat". A job of the caller's, or NULL after replying;
 * *warnings is a new reference or NULL. */
an_job *text_job_submit(an_req *r, json_t *root, json_t **warnings);
bool text_job_is(an_job *job);
/* The body of a finished one, as its dialect answers; NULL with err filled. */
json_t *text_job_answer(an_engine *e, an_job *job, an_error *err);
/* What a listener has heard of each choice. */
typedef struct text_deltas {
    int n;
    size_t sent[];
} text_deltas;
text_deltas *text_deltas_new(an_job *job); /* free() */
json_t *text_deltas_json(text_deltas *d, an_job *job);

#endif
