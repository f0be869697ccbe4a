/* reply.c: answers: JSON, errors in OpenAI's shape, bytes, and answers that wait for a job. */
#include "server_private.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- errors */

/* One table maps a status to HTTP and to OpenAI's words. */
static const struct {
    int http;
    const char *type, *code;
} errors[] = {
    [AN_OK] = {500, "server_error", "internal"},
    [AN_INVALID] = {400, "invalid_request_error", "invalid_value"},
    [AN_NOT_FOUND] = {404, "invalid_request_error", "not_found"},
    [AN_NO_MEMORY] = {503, "server_error", "no_memory"},
    [AN_BUSY] = {429, "rate_limit_error", "queue_full"},
    [AN_CANCELED] = {499, "invalid_request_error", "cancelled"},
    [AN_TOO_LARGE] = {413, "invalid_request_error", "too_large"},
    [AN_IO] = {500, "server_error", "io"},
    [AN_DEVICE] = {503, "server_error", "device"},
    [AN_INTERNAL] = {500, "server_error", "internal"},
};

int status_http(const an_error *err)
{
    int http =
        (unsigned)err->status < sizeof errors / sizeof *errors ? errors[err->status].http : 500;
    /* a field too large is a wrong value; only a whole body too large is a 413 */
    return err->status == AN_TOO_LARGE && *err->param ? 400 : http;
}

json_t *error_body(const an_error *err)
{
    an_status s =
        (unsigned)err->status < sizeof errors / sizeof *errors ? err->status : AN_INTERNAL;
    const char *code = errors[s].code;
    if (s == AN_NOT_FOUND && strcmp(err->param, "model") == 0) code = "model_not_found";
    json_t *message = json_string(err->message);
    if (!message) message = json_string("the error message was not UTF-8");
    return json_pack("{s:{s:o,s:s,s:s?,s:s}}", "error", "message", message, "type", errors[s].type,
                     "param", *err->param ? err->param : NULL, "code", code);
}

void reply_error(an_req *r, const an_error *err)
{
    int http = status_http(err);
    json_t *body = error_body(err);
    if (err->status == AN_BUSY) {
        an_engine_stats stats;
        an_engine_get_stats(r->server->engine, &stats);
        if (stats.draining) {
            http = 503;
            json_object_set_new(json_object_get(body, "error"), "type",
                                json_string("server_error"));
            json_object_set_new(json_object_get(body, "error"), "code",
                                json_string("shutting_down"));
        }
    }
    if (http == 429 || http == 503) reply_header(r, "Retry-After", "1");
    reply_json(r, http, body);
}

/* ---------------------------------------------------------------- answers */

void reply_header(an_req *r, const char *name, const char *value)
{
    req_private *p = r->p;
    if (p->n_headers == (int)(sizeof p->headers / sizeof *p->headers)) return;
    char *n = strdup(name), *v = strdup(value);
    if (n && v) {
        p->headers[p->n_headers][0] = n;
        p->headers[p->n_headers++][1] = v;
    } else {
        free(n);
        free(v);
    }
}

void reply_response(an_req *r, int status, struct MHD_Response *response)
{
    if (r->p->response) MHD_destroy_response(r->p->response);
    r->p->response = response;
    r->p->status = status;
}

void reply_bytes(an_req *r, int status, const char *type, char *data, size_t len)
{
    struct MHD_Response *m = data
                                 ? MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE)
                                 : MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
    if (!m) free(data);
    if (m && type) MHD_add_response_header(m, "Content-Type", type);
    atomic_fetch_add(&r->server->bytes_out, len);
    reply_response(r, status, m);
}

void reply_json(an_req *r, int status, json_t *body)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (text)
        reply_bytes(r, status, "application/json", text, strlen(text));
    else
        reply_response(r, 503, NULL); /* queue_answer says out of memory */
}

/* ---------------------------------------------------------------- answers that come later */

static void finish_task(void *arg)
{
    an_req *r = arg;
    req_private *p = r->p;
    if (p->work)
        p->work(r);
    else
        p->finish(r, p->job);
    MHD_resume_connection(p->connection); /* r may be gone from here on */
}

static void suspend(an_req *r)
{
    r->p->suspended = true;
    atomic_fetch_add(&r->server->waiting, 1);
    MHD_suspend_connection(r->p->connection);
}

static void start_finishing(an_req *r)
{
    if (atomic_exchange(&r->p->finishing, true)) return;
    if (!workers_submit(r->server->workers, finish_task, r))
        MHD_resume_connection(r->p->connection); /* without an answer: out of memory */
}

static void on_job_event(void *arg)
{
    an_req *r = arg;
    if (an_job_finished(r->p->job)) start_finishing(r);
}

static void on_hangup(void *arg)
{
    an_req *r = arg;
    an_job_cancel(r->p->job); /* its last event answers, and the closed socket is noticed then */
}

void reply_when_done(an_req *r, an_job *job, void (*finish)(an_req *r, an_job *job))
{
    req_private *p = r->p;
    p->job = job;
    p->finish = finish;
    suspend(r);
    p->hangup_watch = watch_add(r->server->watch, connection_fd(p->connection), on_hangup, NULL, r);
    p->job_watch = an_job_watch(job, on_job_event, r);
    on_job_event(r); /* it may have ended before anybody watched */
}

void reply_work(an_req *r, void (*work)(an_req *r))
{
    r->p->work = work;
    suspend(r);
    start_finishing(r);
}

/* ---------------------------------------------------------------- reading requests */

json_t *request_json(an_req *r)
{
    an_error err = {0};
    json_t *j = NULL;
    if (an_json_parse(r->body, r->body_len, &j, &err) != AN_OK) {
        reply_error(r, &err);
        return NULL;
    }
    if (json_is_object(j)) return j;
    json_decref(j);
    an_fail(&err, AN_INVALID, "the request body must be a JSON object");
    reply_error(r, &err);
    return NULL;
}

const char *request_header(an_req *r, const char *name)
{
    return MHD_lookup_connection_value(r->p->connection, MHD_HEADER_KIND, name);
}

const char *request_query(an_req *r, const char *name)
{
    return MHD_lookup_connection_value(r->p->connection, MHD_GET_ARGUMENT_KIND, name);
}
