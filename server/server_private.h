/* server_private.h: what the files of the HTTP side share: daemon.c (start, stop), http.c (routing,
 * bodies), reply.c (answers), stream.c (server-sent events), watch.c (hang-ups and keep-alives),
 * workers.c (encoder threads). */
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
 * after watch_remove has returned. fd -1 = ticks only. 0 = could not be watched. */
uint64_t watch_add(an_watch *w, int fd, void (*hangup)(void *arg), void (*tick)(void *arg),
                   void *arg);
void watch_remove(an_watch *w, uint64_t id);

struct an_server {
    an_options options; /* a copy; strings borrowed from the caller's */
    an_engine *engine;
    struct MHD_Daemon *daemon;
    an_workers *workers;
    an_watch *watch;
    uint64_t links_tick;
    double started;
    int port;
    uint64_t salt; /* of the names made from keys */
    /* libmicrohttpd aborts when it is stopped with a suspended connection: `stopping` lets no other
     * fall asleep, and an_server_stop waits until `asleep` is 0. */
    _Atomic bool stopping;
    _Atomic int asleep;
    _Atomic int unsent;  /* answers queued and not sent to their end */
    _Atomic size_t held; /* bytes of bodies, answers and streams in memory */
    _Atomic uint64_t requests[6], body_bytes_in, bytes_out;
    _Atomic int connections, streams, waiting;
};

/* Counts n bytes of a body; false, and nothing counted, past half of --max-held-bytes. */
bool server_hold(an_server *s, size_t n);
void server_release(an_server *s, size_t n);
bool server_crowded(const an_server *s); /* no room for another large answer */
/* Before and after a suspension. False: the server stops, do not suspend. */
bool server_sleep(an_server *s);
void server_wake(an_server *s, struct MHD_Connection *c); /* resumes it */

/* What comes of a request, known as soon as its headers are there. */
typedef enum {
    VERDICT_HANDLE = 0,
    VERDICT_OPTIONS,
    VERDICT_NO_KEY,
    VERDICT_NO_ROUTE,
    VERDICT_NO_METHOD,
    VERDICT_TOO_LARGE,
    VERDICT_NO_ROOM
} verdict;

/* A job that a sleeping request waits for. */
typedef struct awaited {
    an_req *r;
    an_job *job;
    int watch;
    _Atomic bool ended;
} awaited;

typedef struct req_private {
    struct MHD_Connection *connection;
    const an_route *route;
    verdict verdict;
    an_buf body;
    uint64_t discarded;
    size_t held; /* of the server's */
    bool dispatched, queued;
    bool asleep; /* was put to sleep: another thread makes the answer */
    char client[64], rest[256], host[256], allow[64];
    /* the answer, once there is one */
    struct MHD_Response *response;
    int status;
    char *headers[8][2];
    int n_headers;
    /* or what is still to be done for it */
    void (*work)(an_req *r);
    void (*finish)(an_req *r, an_job *job);
    awaited *jobs;
    int n_jobs;
    _Atomic int running; /* of them */
    uint64_t hangup_watch;
    _Atomic int progress; /* reply.c */
    struct an_stream *stream;
} req_private;

/* reply.c: does what the handler asked for, and may put the connection to sleep. Socket thread. */
void req_settle(an_req *r);
void req_hold(an_req *r, size_t n); /* counts without a limit: the bytes are already there */

/* stream.c */
typedef struct an_stream an_stream;
void stream_detach(an_stream *s); /* the connection is gone; frees the request in the end */

/* http.c */
void req_free(an_req *r);
enum MHD_Result http_request(void *cls, struct MHD_Connection *c, const char *url,
                             const char *method, const char *version, const char *data, size_t *len,
                             void **slot);
void http_completed(void *cls, struct MHD_Connection *c, void **slot,
                    enum MHD_RequestTerminationCode why);
int connection_fd(struct MHD_Connection *c);

#endif
