/* reply.c: answers: JSON, errors in OpenAI's shape, bytes, and answers that wait for a job. */
#include "server_private.h"

#include <stdlib.h>

/* A request of a few values that needs more is an attack on the parser: every [] of two bytes costs
 * a hundred in memory. */
#define MAX_JSON_VALUES 100000

/* ---------------------------------------------------------------- errors */

/* One table maps a status to HTTP and to OpenAI's words. 503 says that nothing was computed, so
 * that proxies ask another server; see failure_http. */
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
    [AN_STOPPING] = {503, "server_error", "shutting_down"},
};

/* The engine ends a late job as AN_BUSY: it was not this time, but may be another time. */
static bool is_deadline(const an_error *err)
{
    return err->status == AN_BUSY && strcmp(err->param, "deadline_ms") == 0;
}

/* A key that has as many jobs as it may; engine/job.c. */
static bool is_own_limit(const an_error *err)
{
    return err->status == AN_BUSY && strcmp(err->param, "client") == 0;
}

int status_http(const an_error *err)
{
    int http =
        (unsigned)err->status < sizeof errors / sizeof *errors ? errors[err->status].http : 500;
    if (is_deadline(err)) return 504;
    /* a field too large is a wrong value; only a whole body too large is a 413 */
    return err->status == AN_TOO_LARGE && *err->param ? 400 : http;
}

/* A job that ran and then lost its device, its memory or its server is not asked again elsewhere by
 * a proxy: it was paid for, and what killed one device would be carried to all. */
static int failure_http(const an_req *r, const an_error *err)
{
    int http = status_http(err);
    return http == 503 && r->p->ran ? 500 : http;
}

static json_t *fault_body(const char *type, const char *param, const char *code,
                          const char *message)
{
    return json_pack("{s:{s:s,s:s,s:s?,s:s}}", "error", "message", message, "type", type, "param",
                     param && *param ? param : NULL, "code", code);
}

json_t *error_body(const an_error *err)
{
    an_status s =
        (unsigned)err->status < sizeof errors / sizeof *errors ? err->status : AN_INTERNAL;
    const char *code = errors[s].code, *type = errors[s].type;
    if (s == AN_NOT_FOUND && strcmp(err->param, "model") == 0) code = "model_not_found";
    if (s == AN_TOO_LARGE && (!strcmp(err->param, "prompt") || !strcmp(err->param, "messages")))
        code = "context_length_exceeded";
    if (is_deadline(err)) {
        code = "deadline_exceeded";
        type = "server_error";
    }
    if (is_own_limit(err)) return fault_body(type, NULL, "rate_limit_exceeded", err->message);
    return fault_body(type, err->param, code, err->message);
}

/* A model that does not fit now never will, and a lost device does not come back. */
static bool may_pass(const an_error *err)
{
    return (err->status == AN_BUSY && !is_deadline(err)) || err->status == AN_STOPPING ||
           (err->status == AN_NO_MEMORY && strcmp(err->param, "model") != 0);
}

void reply_error(an_req *r, const an_error *err)
{
    if (may_pass(err) && !r->p->ran) reply_header(r, "Retry-After", "1");
    reply_json(r, failure_http(r, err), error_body(err));
}

void reply_fault(an_req *r, int status, const char *type, const char *code, const char *fmt, ...)
{
    char message[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    an_utf8_mend(message);
    reply_json(r, status, fault_body(type, NULL, code, message));
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

void req_hold(an_req *r, size_t n)
{
    atomic_fetch_add(&r->server->held, n);
    r->p->held += n;
}

void req_owe(an_req *r)
{
    if (!r->p->owed) atomic_fetch_add(&r->server->unsent, 1);
    r->p->owed = true;
}

/* m NULL = no memory: queue_answer says so. */
static void set_response(an_req *r, int status, const char *type, struct MHD_Response *m)
{
    if (r->p->response) MHD_destroy_response(r->p->response);
    if (m && type) MHD_add_response_header(m, "Content-Type", type);
    r->p->response = m;
    r->p->status = status;
    r->p->bytes_out = 0;
}

void reply_bytes(an_req *r, int status, const char *type, char *data, size_t len)
{
    struct MHD_Response *m = data
                                 ? MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE)
                                 : MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
    if (!m) free(data);
    atomic_fetch_add(&r->server->bytes_out, len);
    req_hold(r, len);
    set_response(r, status, type, m);
    r->p->bytes_out = len;
}

void reply_shared(an_req *r, int status, const char *type, char *data, size_t len,
                  void (*release)(void *owner), void *owner)
{
    struct MHD_Response *m =
        MHD_create_response_from_buffer_with_free_callback_cls(len, data, release, owner);
    if (!m) release(owner);
    atomic_fetch_add(&r->server->bytes_out, len);
    set_response(r, status, type, m);
    r->p->bytes_out = len;
}

void reply_json(an_req *r, int status, json_t *body)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (text)
        reply_bytes(r, status, "application/json", text, strlen(text));
    else
        set_response(r, 503, NULL, NULL);
}

/* ---------------------------------------------------------------- answers that come later
 *
 * A sleeping request is in one thread's hands at a time, and whoever wakes its connection must not
 * touch it afterwards: libmicrohttpd may have sent the answer and freed it. While it waits for a
 * job, two things must have happened before anybody may answer: everything below is registered, and
 * the job has ended. Each sets its bit of `progress`; the second to do so goes on. */

enum { REGISTERED = 1, ENDED = 2 };

/* The request's connection goes on; r may be gone on return. */
static void wake(an_req *r)
{
    an_server *s = r->server;
    atomic_fetch_sub(&s->waiting, 1);
    server_wake(s, r->p->connection);
}

/* Answers too large for the memory that unread ones leave are not even made. */
static bool room_for_answer(an_req *r)
{
    an_error err = {0};
    if (!server_crowded(r->server)) return true;
    an_fail(&err, AN_NO_MEMORY, "too many answers wait to be read: %zu bytes",
            atomic_load(&r->server->held));
    reply_error(r, &err);
    return false;
}

static void finish_task(void *arg)
{
    an_req *r = arg;
    for (int i = 0; i < r->p->n_jobs; i++) r->p->ran |= an_job_ran(r->p->jobs[i].job);
    if (r->p->finish && room_for_answer(r)) r->p->finish(r, r->p->jobs[0].job);
    wake(r);
}

static void start_finishing(an_req *r)
{
    if (!workers_submit(r->server->workers, finish_task, r)) wake(r); /* without an answer */
}

/* True for whoever finds the last of the jobs ended. */
static bool all_ended(awaited *w)
{
    return an_job_finished(w->job) && !atomic_exchange(&w->ended, true) &&
           atomic_fetch_sub(&w->r->p->running, 1) == 1;
}

static void on_job_event(void *arg)
{
    awaited *w = arg;
    if (all_ended(w) && atomic_fetch_or(&w->r->p->progress, ENDED) == REGISTERED)
        start_finishing(w->r);
}

static void cancel_jobs(an_req *r)
{
    for (int i = 0; i < r->p->n_jobs; i++) an_job_cancel(r->p->jobs[i].job);
}

static void on_hangup(void *arg)
{
    cancel_jobs(arg); /* the last event answers, and the closed socket is noticed then */
}

static void wait_for_job(an_req *r)
{
    req_private *p = r->p;
    p->hangup_watch = watch_add(r->server->watch, connection_fd(p->connection), on_hangup, NULL, r);
    for (int i = 0; i < p->n_jobs; i++) {
        awaited *w = &p->jobs[i];
        w->watch = an_job_watch(w->job, on_job_event, w);
        if (w->watch < 0) { /* no memory: nobody would tell of its end */
            cancel_jobs(r);
            p->finish = NULL;
            atomic_fetch_or(&p->progress, ENDED);
        } else if (all_ended(w)) { /* before it was watched */
            atomic_fetch_or(&p->progress, ENDED);
        }
    }
    if (atomic_fetch_or(&p->progress, REGISTERED) & ENDED) start_finishing(r);
}

static void work_task(void *arg)
{
    an_req *r = arg;
    req_private *p = r->p;
    while (p->work) {
        void (*work)(an_req * r) = p->work;
        p->work = NULL;
        if (room_for_answer(r)) work(r);
    }
    an_buf_free(&p->body);
    if (p->finish)
        wait_for_job(r);
    else
        wake(r);
}

void req_settle(an_req *r)
{
    an_error err = {0};
    req_private *p = r->p;
    if (!p->work && !p->finish) return;
    if (atomic_load(&r->server->stopping) || !server_sleep(r->server)) {
        if (p->finish) cancel_jobs(r);
        p->work = NULL;
        p->finish = NULL;
        an_fail(&err, AN_STOPPING, "the server is stopping: no new requests");
        reply_error(r, &err);
        return;
    }
    p->asleep = true;
    req_owe(r); /* between its waking and its answer it is neither asleep nor queued */
    atomic_fetch_add(&r->server->waiting, 1);
    MHD_suspend_connection(p->connection);
    if (p->work) {
        if (!workers_submit(r->server->workers, work_task, r)) wake(r);
    } else {
        an_buf_free(&p->body);
        wait_for_job(r);
    }
}

void reply_when_all_done(an_req *r, an_job *const *jobs, int n,
                         void (*finish)(an_req *r, an_job *job))
{
    req_private *p = r->p;
    p->jobs = calloc((size_t)n, sizeof *p->jobs);
    for (int i = 0; i < n; i++) {
        an_job_forget(jobs[i]);
        if (p->jobs) {
            p->jobs[i].r = r;
            p->jobs[i].job = jobs[i];
            p->jobs[i].watch = -1;
        } else {
            an_job_cancel(jobs[i]);
            an_job_unref(jobs[i]);
        }
    }
    if (!p->jobs) {
        set_response(r, 503, NULL, NULL);
        return;
    }
    p->n_jobs = n;
    atomic_store(&p->running, n);
    p->finish = finish;
}

void reply_when_done(an_req *r, an_job *job, void (*finish)(an_req *r, an_job *job))
{
    reply_when_all_done(r, &job, 1, finish);
}

void reply_work(an_req *r, void (*work)(an_req *r))
{
    r->p->work = work;
}

/* ---------------------------------------------------------------- reading requests */

static bool few_values(const char *s, size_t len)
{
    size_t values = 0;
    bool in_string = false;
    for (size_t i = 0; i < len && values <= MAX_JSON_VALUES; i++) {
        if (in_string) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in_string = false;
        } else if (s[i] == '"') {
            in_string = true;
        } else if (s[i] == ',' || s[i] == '[' || s[i] == '{') {
            values++;
        }
    }
    return values <= MAX_JSON_VALUES;
}

json_t *request_json(an_req *r)
{
    an_error err = {0};
    json_t *j = NULL;
    if (!few_values(r->body, r->body_len)) {
        an_fail(&err, AN_INVALID, "the request body holds more than %d values", MAX_JSON_VALUES);
    } else if (an_json_parse(r->body, r->body_len, &j, &err) == AN_OK) {
        if (json_is_object(j)) return j;
        json_decref(j);
        an_fail(&err, AN_INVALID, "the request body must be a JSON object");
    }
    reply_error(r, &err);
    return NULL;
}

const char *request_query(an_req *r, const char *name)
{
    const char *raw = MHD_lookup_connection_value(r->p->connection, MHD_GET_ARGUMENT_KIND, name);
    size_t size = raw ? strlen(raw) + 1 : 0;
    char *to = raw ? realloc(r->p->query, size) : NULL;
    if (!to) return NULL;
    r->p->query = to;
    return unescape(raw, size - 1, to, size) ? to : NULL;
}

const char *request_header(an_req *r, const char *name)
{
    return MHD_lookup_connection_value(r->p->connection, MHD_HEADER_KIND, name);
}
