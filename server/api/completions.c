/* completions.c: POST /v1/completions, OpenAI's text API, with prompts as texts or token ids and
 * vLLM's further fields. */
#include "text_ask.h"

an_status completions_parse(text_ask *a, const text_limits *l, an_error *err)
{
    fields f;
    an_text_request *q = &a->request;
    fields_init(&f, a->root);
    text_read_common(&f, l, a);
    int best_of = q->n;
    q->max_tokens = l->engine->max_tokens < 16 ? l->engine->max_tokens : 16; /* OpenAI's */
    field_int32(&f, "max_tokens", 0, l->engine->max_tokens, &q->max_tokens);
    q->prompt_only = q->max_tokens == 0;
    field_bool(&f, "echo", &a->echo);
    field_int32(&f, "logprobs", 0, l->engine->max_top_logprobs, &q->logprobs);
    q->echo_logprobs = a->echo && q->logprobs >= 0;
    a->max_echo_logprobs = l->max_echo_logprobs;
    field_string(&f, "suffix", l->max_text_bytes, &a->suffix);
    if (a->suffix && !*a->suffix) a->suffix = NULL;
    field_int32(&f, "best_of", 1, l->engine->max_completions, &best_of);
    if (best_of != q->n)
        fields_fail(&f, "best_of", "%d, but n is %d: every completion is returned", best_of, q->n);
    if (q->prompt_only && !a->echo)
        fields_fail(&f, "max_tokens", "0 makes sense only with \"echo\":true");
    if (q->prompt_only && q->n > 1)
        fields_fail(&f, "n", "%d, but with max_tokens 0 nothing is drawn: all would be equal",
                    q->n);
    if (a->echo && a->suffix) fields_fail(&f, "suffix", "not together with echo");
    a->many = true;
    a->prompt = field_present(&f, "prompt") ? json_object_get(a->root, "prompt") : NULL;
    text_check_prompt(&f, l, a);
    return text_read_end(&f, a, err);
}

static void work(an_req *r)
{
    text_serve(r, TEXT_COMPLETIONS, completions_parse);
}

static void completions(an_req *r)
{
    reply_work(r, work);
}

const an_route completion_routes[] = {{"POST", "/v1/completions", completions, false},
                                      {NULL, NULL, NULL, false}};
