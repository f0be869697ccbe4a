/* http.c: requests as they come in: their bodies within the limits, what every answer carries, and
 * what is logged of it. Connections that wait for a job are suspended: they cost memory, not a
 * thread. */
#include "server_private.h"

#include "access_log.h"

#include <stdlib.h>

/* A body that is not wanted is read and thrown away, so that the client gets to see the answer; but
 * not for ever. */
#define DISCARD_FACTOR 4
/* Parsing this much would keep the socket thread's other connections waiting. */
#define LARGE_BODY 65536

int connection_fd(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    return i ? i->connect_fd : -1;
}

static void dispatch(an_req *r)
{
    req_private *p = r->p;
    p->dispatched = true;
    peer_owes(r->server, p->connection, PEER_OWES_NOTHING);
    r->body = p->body.data ? p->body.data : "";
    r->body_len = p->body.len;
    r->rest = p->rest;
    if (p->verdict != VERDICT_HANDLE)
        refuse(r);
    else if (r->body_len > LARGE_BODY)
        reply_work(r, p->route->handler);
    else
        p->route->handler(r);
    req_settle(r);
}

/* ---------------------------------------------------------------- one request */

static an_req *req_new(an_server *s, struct MHD_Connection *c, const char *method)
{
    an_req *r = calloc(1, sizeof *r);
    req_private *p = r ? calloc(1, sizeof *p) : NULL;
    char *name = p ? strdup(method) : NULL;
    if (!name) {
        free(p);
        free(r);
        return NULL;
    }
    *r = (an_req){.server = s, .method = name, .p = p};
    r->body = r->rest = r->host = "";
    r->scheme = "http";
    r->started = an_now_s();
    r->client = p->client;
    p->connection = c;
    an_buf_init(&p->body, s->options.max_body_bytes);
    return r;
}

/* Runs when nothing refers to the request any more, also for streams (stream.c). */
void req_free(an_req *r)
{
    req_private *p = r->p;
    if (r->free_user) r->free_user(r->user);
    server_release(r->server, p->held);
    an_buf_free(&p->body);
    for (int i = 0; i < p->n_headers; i++) {
        free(p->headers[i][0]);
        free(p->headers[i][1]);
    }
    if (p->response) MHD_destroy_response(p->response);
    free(p->query);
    free(p->jobs);
    free((char *)(uintptr_t)r->method);
    free((char *)(uintptr_t)r->path); /* NULL if there was no memory */
    free(p);
    free(r);
}

/* "350ms", "1m0s": as OpenAI writes how long it takes until a limit is whole again. */
static void put_duration(char *text, size_t size, double s)
{
    int ms = (int)(s * 1e3 + 0.5), seconds = ms / 1000;
    if (seconds == 0)
        snprintf(text, size, "%dms", ms);
    else if (seconds < 60)
        snprintf(text, size, "%ds", seconds);
    else
        snprintf(text, size, "%dm%ds", seconds / 60, seconds % 60);
}

static void add_rate(struct MHD_Response *m, const an_rate *rate)
{
    char text[32];
    snprintf(text, sizeof text, "%d", rate->limit);
    MHD_add_response_header(m, "x-ratelimit-limit-requests", text);
    snprintf(text, sizeof text, "%d", rate->remaining);
    MHD_add_response_header(m, "x-ratelimit-remaining-requests", text);
    put_duration(text, sizeof text, rate->reset_s);
    MHD_add_response_header(m, "x-ratelimit-reset-requests", text);
}

static void add_headers(an_req *r)
{
    req_private *p = r->p;
    const an_options *o = &r->server->options;
    for (int i = 0; i < p->n_headers; i++)
        MHD_add_response_header(p->response, p->headers[i][0], p->headers[i][1]);
    MHD_add_response_header(p->response, "X-Request-Id", p->id);
    /* pictures and JSON that hold a stranger's words are no pages, whatever a browser thinks */
    MHD_add_response_header(p->response, "X-Content-Type-Options", "nosniff");
    if (p->rate.limit > 0) add_rate(p->response, &p->rate);
    if (p->hang_up) MHD_add_response_header(p->response, "Connection", "close");
    if (!o->n_cors_origins) return;
    if (p->cors) {
        MHD_add_response_header(p->response, "Access-Control-Allow-Origin", p->cors);
        MHD_add_response_header(p->response, "Access-Control-Expose-Headers",
                                "Location, Retry-After, X-Request-Id, x-ratelimit-limit-requests, "
                                "x-ratelimit-remaining-requests, x-ratelimit-reset-requests");
    }
    /* also of an answer to a page that may not read it: a cache must not show it to one that may */
    if (o->n_cors_origins > 1 || strcmp(o->cors_origins[0], "*") != 0)
        MHD_add_response_header(p->response, "Vary", "Origin");
}

/* Asking for status is what machines do every second, and wrong requests are the client's business:
 * neither belongs in the normal log. */
static void log_answer(const an_req *r)
{
    int status = r->p->status;
    char path[256];
    bool asks = strcmp(r->method, "POST") == 0 || strcmp(r->method, "DELETE") == 0;
    an_log(asks && (status < 400 || status >= 500) ? AN_LOG_INFO : AN_LOG_DEBUG,
           "%s %s %.20s %.200s %d %.1f ms", r->p->id, r->client, r->method,
           access_path(r->path ? r->path : "", path, sizeof path), status,
           1e3 * (an_now_s() - r->started));
}

static void count_job(an_access *a, an_job *job)
{
    an_job_info i;
    an_text_usage u;
    an_text t;
    an_job_get(job, &i);
    an_job_text_usage(job, &u);
    double end = i.started > 0 ? i.started : i.finished; /* or it never began */
    double wait = end > i.created ? end - i.created : 0;
    a->jobs++;
    if (wait > a->queue_s) a->queue_s = wait;
    if (!an_job_text(job, 0, &t)) a->steps += (size_t)i.step;
    a->prompt_tokens += u.prompt_tokens;
    a->completion_tokens += u.completion_tokens;
}

static void write_access(const an_req *r, bool complete)
{
    const req_private *p = r->p;
    an_access a = {.id = p->id,
                   .key = p->key ? an_key_name(p->key) : NULL,
                   .address = p->address,
                   .method = r->method,
                   .path = r->path ? r->path : "",
                   .status = p->status,
                   .bytes_in = p->bytes_in,
                   .bytes_out = strcmp(r->method, "HEAD") == 0 ? 0 : p->bytes_out,
                   .seconds = an_now_s() - r->started,
                   .complete = complete};
    for (int i = 0; i < p->n_jobs; i++) count_job(&a, p->jobs[i].job);
    for (int i = 0; p->stream && i < stream_jobs(p->stream); i++)
        count_job(&a, stream_job(p->stream, i));
    access_write(r->server->gate->access_fd, &a);
}

static enum MHD_Result queue_answer(an_req *r)
{
    req_private *p = r->p;
    an_server *s = r->server;
    if (!p->response) { /* no memory for a better one */
        static char text[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\","
                             "\"param\":null,\"code\":\"no_memory\"}}";
        p->response =
            MHD_create_response_from_buffer(sizeof text - 1, text, MHD_RESPMEM_PERSISTENT);
        p->status = p->ran ? 500 : 503;
        if (!p->response) return MHD_NO;
    }
    add_headers(r);
    atomic_fetch_add(&s->requests[0], 1);
    if (p->status > 0 && p->status < AN_HTTP_CODES) atomic_fetch_add(&s->requests[p->status], 1);
    if (!p->stream) log_answer(r); /* a stream has only begun */
    req_owe(r);
    return MHD_queue_response(p->connection, (unsigned)p->status, p->response);
}

/* libmicrohttpd calls once with the headers alone: the only chance to answer a client that waits
 * for "100 Continue" before it sends. */
static enum MHD_Result first_call(an_server *s, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, void **slot)
{
    heads h;
    an_req *r = req_new(s, c, method);
    if (!r) return MHD_NO;
    *slot = r;
    heads_read(c, &h);
    verdict v = r->p->verdict = judge(r, &h, version, url);
    peer_owes(s, c, PEER_OWES_BODY);
    uint64_t length = h.lengths ? strtoull(h.length, NULL, 10) : 0;
    bool hopeless = length / DISCARD_FACTOR > s->options.max_body_bytes || v == VERDICT_BROKEN;
    if (v == VERDICT_HANDLE || !(hopeless || h.expect)) return MHD_YES;
    dispatch(r);
    return queue_answer(r);
}

/* Keeps a part of the body, or decides that the whole is not wanted. */
static void keep_body(an_req *r, const char *data, size_t len)
{
    req_private *p = r->p;
    if (len > p->body.max - p->body.len) {
        p->verdict = VERDICT_TOO_LARGE;
    } else if (!server_hold(r->server, len)) {
        p->verdict = VERDICT_NO_ROOM;
    } else {
        p->held += len;
        if (!an_buf_add(&p->body, data, len)) p->verdict = VERDICT_NO_ROOM;
    }
    if (p->verdict == VERDICT_HANDLE) return;
    an_buf_free(&p->body);
    server_release(r->server, p->held);
    p->held = 0;
}

enum MHD_Result http_request(void *cls, struct MHD_Connection *c, const char *url,
                             const char *method, const char *version, const char *data, size_t *len,
                             void **slot)
{
    an_server *s = cls;
    an_req *r = *slot;
    if (!r) return first_call(s, c, url, method, version, slot);
    req_private *p = r->p;
    if (*len) {
        atomic_fetch_add(&s->body_bytes_in, *len);
        p->bytes_in += *len;
        if (p->verdict == VERDICT_HANDLE)
            keep_body(r, data, *len);
        else
            p->discarded += *len;
        *len = 0;
        return p->discarded / DISCARD_FACTOR > s->options.max_body_bytes ? MHD_NO : MHD_YES;
    }
    if (!p->dispatched) {
        dispatch(r);
        if (p->asleep) return MHD_YES; /* another thread answers and resumes */
    }
    return queue_answer(r);
}

void http_completed(void *cls, struct MHD_Connection *c, void **slot,
                    enum MHD_RequestTerminationCode why)
{
    an_req *r = *slot;
    peer_owes(cls, c, PEER_OWES_HEADERS);
    if (!r) return;
    *slot = NULL;
    req_private *p = r->p;
    if (r->server->gate->access_fd >= 0)
        write_access(r, why == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    if (p->stream) log_answer(r);
    if (p->owed) atomic_fetch_sub(&r->server->unsent, 1);
    watch_remove(r->server->watch, p->hangup_watch);
    if (p->stream) {
        stream_detach(p->stream); /* frees r when its last task is done */
        return;
    }
    for (int i = 0; i < p->n_jobs; i++) {
        an_job_unwatch(p->jobs[i].job, p->jobs[i].watch);
        an_job_unref(p->jobs[i].job);
    }
    req_free(r);
}
