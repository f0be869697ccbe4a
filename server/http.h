/* http.h: the HTTP side of the server, and what an API dialect (server/api/) is written against.
 *
 * A handler gets a whole request and must do one of four things before it returns:
 *     reply_json / reply_error / reply_bytes   answer now
 *     reply_when_done(job, finish)             the connection sleeps, without a thread, until the
 *                                              job ends; finish() then answers
 *     reply_sse(job, format)                   an event stream, fed by the job's events
 *     reply_work(work)                         work() does one of the other three
 * finish, work and format run on encoder threads, where things may take their time. Handlers run on
 * libmicrohttpd's threads, which serve other connections too, and must not block; those of requests
 * with a large body run on encoder threads as well. */
#ifndef ANNEAL_HTTP_H
#define ANNEAL_HTTP_H

#include "anneal/engine.h"
#include "gate.h"
#include "options.h"

#include <jansson.h>

typedef struct an_server an_server;
typedef struct an_req an_req;

struct an_req {
    an_server *server;
    const char *method, *path; /* the path as it came, %XX and all, without the query */
    const char *rest;          /* what "*" stood for in the route, "" without one */
    const char *body;          /* NUL-terminated; "" without a body */
    size_t body_len;
    const char *client; /* identity: "key:NAME" or "key:HASH" of a token, else "ip:..." */
    const char *host;   /* the Host header, "" if it is absent or holds what no host name does */
    const char *scheme; /* "http" or "https", as the client asks */
    double started;     /* monotonic */
    void *user;         /* the handler's own, for finish(); freed with free_user */
    void (*free_user)(void *user);
    struct req_private *p; /* http.c */
};

/* ---------------------------------------------------------------- the server */

/* Binds host and port, before anything that takes time: a wrong address is found at once. */
an_status an_server_listen(const an_options *o, int *fd, an_error *err);
/* HTTP threads that the server will have. Each has two files open. */
int an_server_threads(const an_options *o);
/* Takes the socket; gate and engine stay the caller's. */
an_status an_server_start(const an_options *o, int fd, an_gate *gate, an_engine *e, an_server **out,
                          an_error *err);
/* Stops listening for new connections; those open go on. */
void an_server_quiesce(an_server *s);
/* Answers whoever waits and closes everything; the engine must have stopped, so that every job has
 * ended. */
void an_server_stop(an_server *s);
int an_server_port(const an_server *s);
an_engine *an_server_engine(const an_server *s);
const an_options *an_server_options(const an_server *s);
double an_server_started(const an_server *s); /* unix time */

/* ---------------------------------------------------------------- answers */

void reply_json(an_req *r, int status, json_t *body); /* takes the reference */
void reply_error(an_req *r, const an_error *err); /* OpenAI's error body, status by err->status */
/* The same for what has no an_status of its own. */
void reply_fault(an_req *r, int status, const char *type, const char *code, const char *fmt, ...)
    AN_PRINTF(5, 6);
/* data is malloc'ed and taken; len bytes. */
void reply_bytes(an_req *r, int status, const char *content_type, char *data, size_t len);
/* data stays the caller's until release(owner). */
void reply_shared(an_req *r, int status, const char *content_type, char *data, size_t len,
                  void (*release)(void *owner), void *owner);
void reply_header(an_req *r, const char *name, const char *value); /* before the reply */

/* Answers that many ask for and that seldom change are built once and shared (cached.c). */
typedef enum {
    AN_CACHED_HEALTH,
    AN_CACHED_MODELS,
    AN_CACHED_CONTRACT,
    AN_CACHED_COUNT
} an_cached_answer;
/* Replies 200 with the JSON built last if it was built while the engine's pulse was the same, and
 * at most max_age seconds ago. *now gets the pulse, for reply_and_cache; NULL in
 * both: the engine changes nothing of this answer. */
bool reply_cached(an_req *r, an_cached_answer which, double max_age, an_pulse *now);
/* Replies 200 and keeps the answer for others. Takes the reference. */
void reply_and_cache(an_req *r, an_cached_answer which, const an_pulse *pulse, json_t *body);

/* Takes the caller's job reference. finish must reply. A client that hangs up cancels the job, and
 * the store forgets it as soon as it ends: this answer is its only use. */
void reply_when_done(an_req *r, an_job *job, void (*finish)(an_req *r, an_job *job));
/* The same for n jobs (1 ..) that are answered together; finish gets the first. */
void reply_when_all_done(an_req *r, an_job *const *jobs, int n,
                         void (*finish)(an_req *r, an_job *job));
void reply_work(an_req *r, void (*work)(an_req *r));

typedef struct an_sse_format {
    /* Formats one event: appends nothing, or whole SSE messages (sse_message). Runs on an encoder
     * thread, one at a time per stream. */
    void (*event)(an_req *r, an_job *job, const an_event *ev, an_buf *out);
    /* What follows the last event of the last job; may be NULL. */
    void (*end)(an_req *r, an_buf *out);
    /* Called about once a second while the stream is open, like event(); may be NULL. */
    void (*tick)(an_req *r, an_buf *out);
    bool own; /* the job is this stream's alone: a hang-up cancels it, the store forgets it */
} an_sse_format;
/* Takes the caller's job reference. The stream ends after the job's last event. */
void reply_sse(an_req *r, an_job *job, const an_sse_format *f);
/* One stream of the events of n jobs (1 ..). */
void reply_sse_all(an_req *r, an_job *const *jobs, int n, const an_sse_format *f);
/* "event: NAME\ndata: JSON\n\n"; name NULL = data only. Takes the reference of data. */
void sse_message(an_buf *out, const char *name, json_t *data);
json_t *error_body(const an_error *err); /* {"error":{message,type,param,code}}, new reference */
int status_http(const an_error *err);

/* Request body as a JSON object (new reference), or NULL after replying with the error. */
json_t *request_json(an_req *r);
/* An argument after "?", its %XX decoded; NULL if it is absent or wrong.
 * Only before the reply, when the connection surely lives; the next call overwrites it. */
const char *request_query(an_req *r, const char *name);
const char *request_header(an_req *r, const char *name); /* likewise; NULL without it */

/* ---------------------------------------------------------------- counters of /metrics */

#define AN_HTTP_CODES 600
typedef struct an_http_stats {
    uint64_t requests[AN_HTTP_CODES]; /* by status code; [0] = all */
    int connections, streams, waiting;
    uint64_t body_bytes_in, bytes_out;
    uint64_t turned_away, cut_off; /* connections: all were taken; the client took too long */
    size_t bytes_held;             /* bodies and answers in memory */
} an_http_stats;
void an_server_stats(an_server *s, an_http_stats *out);

/* ---------------------------------------------------------------- routes */

typedef struct an_route {
    const char *method, *path; /* a path that ends in "*" matches any rest without a slash in it,
                                  one that holds a "*" inside matches one path segment */
    void (*handler)(an_req *r);
    bool open; /* needs no key */
} an_route;
/* One table per dialect, each ends with a NULL path; the list ends with NULL. server/api/routes.c.
 */
extern const an_route *const an_routes[];

#endif
