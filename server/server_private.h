/* server_private.h: what the files of the HTTP side share: http.c (daemon, routing, bodies),
 * reply.c (answers), stream.c (server-sent events), watch.c (hang-ups and keep-alives), workers.c
 * (encoder threads). */
#ifndef ANNEAL_SERVER_PRIVATE_H
#define ANNEAL_SERVER_PRIVATE_H

#include "http.h"

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

/* ---- workers.c: a few threads and a queue of small tasks */
typedef struct an_workers an_workers;
an_workers *workers_new(int threads);
/* False if there is no memory for the task. */
bool workers_submit(an_workers *w, void (*fn)(void *arg), void *arg);
void workers_free(an_workers *w); /* runs what is queued, then joins */

/* ---- watch.c: one thread that notices hang-ups of sleeping connections and ticks idle streams */
typedef struct an_watch an_watch;
an_watch *watch_new(void);
void watch_free(an_watch *w);
/* Calls hangup(arg) once if the peer closes; tick(arg), if any, about once a second. Neither runs
 * after watch_remove has returned. 0 = could not be watched. */
uint64_t watch_add(an_watch *w, int fd, void (*hangup)(void *arg), void (*tick)(void *arg),
                   void *arg);
void watch_remove(an_watch *w, uint64_t id);

struct an_server {
    an_options options; /* a copy; strings borrowed from the caller's */
    an_engine *engine;
    struct MHD_Daemon *daemon;
    an_workers *workers;
    an_watch *watch;
    double started;
    int port;
    _Atomic uint64_t requests[6], body_bytes_in, bytes_out;
    _Atomic int connections, streams, waiting;
};

typedef struct req_private {
    struct MHD_Connection *connection;
    const an_route *route;
    an_buf body;
    bool too_large, discard_only;
    uint64_t discarded;
    bool dispatched;
    char client[160], rest[256];
    /* the answer, once there is one */
    struct MHD_Response *response;
    int status;
    char *headers[8][2];
    int n_headers;
    /* a sleeping connection */
    bool suspended;
    an_job *job;
    void (*finish)(an_req *r, an_job *job);
    void (*work)(an_req *r);
    int job_watch;
    uint64_t hangup_watch;
    _Atomic bool finishing; /* the last event was seen and the answer is being made */
    struct an_stream *stream;
} req_private;

void req_free(an_req *r);

/* ---- stream.c */
typedef struct an_stream an_stream;
void stream_detach(an_stream *s); /* the connection is gone; frees the request in the end */

void reply_response(an_req *r, int status, struct MHD_Response *response); /* takes it */
bool client_key_allowed(const an_server *s, const char *token);
int connection_fd(struct MHD_Connection *c);

#endif
