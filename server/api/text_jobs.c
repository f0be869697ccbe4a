/* text_jobs.c: text as POST /v1/jobs: {"kind":"text",...} with the fields of /v1/completions, or
 * {"kind":"chat",...} with those of /v1/chat/completions. What the answer's form needs of the
 * request travels with the job as its tag. */
#include "text_ask.h"

#include <stdlib.h>

/* Only the tools' names matter once the model has answered. */
static json_t *tool_names(const json_t *tools)
{
    json_t *list = json_array();
    const json_t *tool;
    size_t i;
    json_array_foreach(tools, i, tool)
    {
        const json_t *name = json_object_get(json_object_get(tool, "function"), "name");
        json_array_append_new(list, json_pack("{s:{s:O}}", "function", "name", name));
    }
    return list;
}

static char *tag_of(const text_ask *a)
{
    json_t *j =
        json_pack("{s:i,s:i,s:i,s:i,s:s?,s:b,s:o}", "dialect", (int)a->dialect, "n", a->request.n,
                  "logprobs", a->request.logprobs, "mode", (int)a->choice.mode, "name",
                  a->choice.name, "ids", a->return_token_ids, "tools", tool_names(a->tools));
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text;
}

static an_status check(const text_ask *a, an_error *err)
{
    const char *param = a->stream                ? "stream"
                        : a->echo                ? "echo"
                        : a->request.prompt_only ? "max_tokens"
                                                 : "";
    if (*param)
        return an_fail_param(err, AN_INVALID, param,
                             "%s: not for a job: it has events, and answers new text", param);
    if (a->dialect == TEXT_COMPLETIONS && json_is_array(a->prompt) &&
        !json_whole(json_array_get(a->prompt, 0), NULL))
        return an_fail_param(err, AN_INVALID, "prompt", "prompt: a job has one");
    return AN_OK;
}

an_job *text_job_submit(an_req *r, json_t *root, json_t **warnings)
{
    an_error err = {0};
    text_limits limits;
    an_engine *e = an_server_engine(r->server);
    an_job *job = NULL;
    text_limits_of(an_server_options(r->server), e, &limits);
    bool chat = strcmp(json_string_value(json_object_get(root, "kind")), "chat") == 0;
    text_ask *a = text_ask_new(chat ? TEXT_CHAT : TEXT_COMPLETIONS, root);
    *warnings = NULL;
    if (a) json_object_del(a->root, "kind");
    an_status s = !a ? an_fail(&err, AN_NO_MEMORY, "out of memory")
                     : (chat ? chat_parse : completions_parse)(a, &limits, &err);
    if (s == AN_OK) s = check(a, &err);
    char *tag = s == AN_OK ? tag_of(a) : NULL;
    if (tag) {
        a->request.tag = tag;
        s = text_submit(a, e, r->client, &err);
    }
    if (s == AN_OK && tag) {
        job = an_job_ref(a->jobs[0]);
        *warnings = json_incref(a->warnings);
    } else {
        reply_error(r, &err);
    }
    free(tag);
    text_ask_free(a);
    return job;
}

/* The ask again, as far as an answer needs it. */
static text_ask *ask_of(an_engine *e, an_job *job, an_error *err)
{
    an_job_params p;
    an_job_info info;
    json_t *tag = NULL;
    an_job_params_get(job, &p);
    an_job_get(job, &info);
    if (p.tag) an_json_parse(p.tag, strlen(p.tag), &tag, NULL);
    int dialect = (int)json_integer_value(json_object_get(tag, "dialect"));
    text_ask *a = text_ask_new(dialect == TEXT_CHAT ? TEXT_CHAT : TEXT_COMPLETIONS,
                               tag ? tag : json_object());
    if (!a) {
        an_fail(err, AN_NO_MEMORY, "out of memory");
        return NULL;
    }
    a->request.logprobs = tag ? (int)json_integer_value(json_object_get(tag, "logprobs")) : -1;
    a->return_token_ids = json_is_true(json_object_get(tag, "ids"));
    a->choice.mode = (tool_mode)json_integer_value(json_object_get(tag, "mode"));
    a->choice.name = json_string_value(json_object_get(tag, "name"));
    a->tools = json_incref(json_object_get(tag, "tools"));
    a->prompts = calloc(1, sizeof *a->prompts); /* its ids are not kept */
    a->jobs = calloc(1, sizeof *a->jobs);
    if (!a->prompts || !a->jobs || text_find_model(a, e, info.model, err) != AN_OK) {
        text_ask_free(a);
        return NULL;
    }
    a->n_prompts = a->n_jobs = 1;
    a->jobs[0] = an_job_ref(job);
    a->created = (json_int_t)info.created;
    snprintf(a->id, sizeof a->id, "%s", info.id);
    return a;
}

bool text_job_is(an_job *job)
{
    an_text t;
    return an_job_text(job, 0, &t);
}

/* Choices there are, whatever the request said. */
static int choices(an_job *job)
{
    an_text t;
    int n = 0;
    while (an_job_text(job, n, &t)) n++;
    return n;
}

json_t *text_job_answer(an_engine *e, an_job *job, an_error *err)
{
    text_ask *a = ask_of(e, job, err);
    if (!a) return NULL;
    a->request.n = choices(job);
    json_t *body = text_answer(a, err);
    text_ask_free(a);
    return body;
}

text_deltas *text_deltas_new(an_job *job)
{
    int n = choices(job);
    text_deltas *d = calloc(1, sizeof *d + (size_t)n * sizeof d->sent[0]);
    if (d) d->n = n;
    return d;
}

json_t *text_deltas_json(text_deltas *d, an_job *job)
{
    json_t *list = json_array();
    for (int i = 0; d && i < d->n; i++) {
        an_text t;
        if (!an_job_text(job, i, &t) || t.text_len == d->sent[i]) continue;
        json_array_append_new(
            list, json_pack("{s:i,s:o}", "index", i, "text",
                            text_json_string(t.text + d->sent[i], t.text_len - d->sent[i])));
        d->sent[i] = t.text_len;
    }
    return json_pack("{s:o}", "deltas", list);
}
