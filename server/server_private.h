/* server_private.h: what the files of the HTTP side share: daemon.c (start, stop), http.c (bodies,
 * logs), refuse.c (who may not, and why), accept.c, places.c and loops.c (connections, how many,
 * and their threads), reply.c and cached.c (answers), stream.c (server-sent events), watch.c
 * (hang-ups and keep-alives), workers.c (encoder threads).
 */
#ifndef ANNEAL_SERVER_PRIVATE_H
#define ANNEAL_SERVER_PRIVATE_H

#include "gate.h"
#include "heads.h"
#include "http.h"

#include <netinet/in.h>
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

/* ---- cached.c */
typedef struct an_cached {
    pthread_mutex_t lock; /* held for a look and a count */
    an_pulse pulse;
    double built;
    struct cached_body *body; /* NULL = none yet */
} an_cached;
void cached_init(an_cached c[AN_CACHED_COUNT]);
void cached_free(an_cached c[AN_CACHED_COUNT]);

/* ---- accept.c: connections from their beginning */
typedef struct an_accept an_accept;
/* Takes fd, also when it fails (NULL). */
an_accept *accept_new(an_server *s, int fd);
bool accept_start(an_accept *a);   /* after the loops, which get them */
void accept_quiesce(an_accept *a); /* no new connections; closes the socket */
void accept_free(an_accept *a);
/* A connection begins and ends; libmicrohttpd keeps *slot for it. */
void peer_opened(an_accept *a, struct MHD_Connection *c, void **slot);
void peer_closed(an_accept *a, void **slot);
/* What the client of a connection owes us, and for how long it may. */
typedef enum { PEER_OWES_BODY, PEER_OWES_NOTHING, PEER_OWES_HEADERS } peer_debt;
void peer_owes(an_server *s, struct MHD_Connection *c, peer_debt what);

/* ---- places.c: how many connections there may be. By any thread. */
typedef struct an_places {
    pthread_mutex_t lock;
    void *addresses; /* tsearch's tree, where those of an address are limited */
} an_places;
typedef enum { PLACE_TAKEN, PLACE_NONE, PLACE_NONE_FOR_ADDRESS } place_taken;
place_taken places_take(an_server *s, const struct sockaddr *from);
void places_give(an_server *s, const struct sockaddr *from);

/* ---- loops.c: the HTTP threads, --http-threads of them */
typedef struct an_loops an_loops;
/* Starts them; NULL = could not be. */
an_loops *loops_new(an_server *s);
/* The connection fd, whose place is taken, belongs to one of them from now on; without memory for
 * it, it is closed and counted out. */
void loops_hand(an_loops *a, int fd, const struct sockaddr_storage *from, socklen_t len);
/* A suspended connection goes on, in its thread. By any thread. */
void loops_resume(an_loops *a, struct MHD_Connection *c);
/* Ends them and their connections, none of which may be suspended. */
void loops_free(an_loops *a);

struct an_server {
    an_options options; /* a copy; strings borrowed from the caller's */
    an_gate *gate;      /* borrowed */
    an_engine *engine;
    an_places places;
    an_loops *loops;
    an_accept *accept;
    an_workers *workers;
    an_watch *watch;
    an_cached cached[AN_CACHED_COUNT];
    uint64_t links_tick, gate_tick;
    double started;
    int port;
    uint64_t salt; /* of the names made from keys */
    /* `stopping`: no new work. libmicrohttpd aborts when it is stopped with a suspended connection:
     * `sleepless` lets no other fall asleep, and an_server_stop waits until `asleep` is 0. */
    _Atomic bool stopping, sleepless;
    _Atomic int asleep;
    _Atomic int unheard; /* connections whose first request has not been answered */
    _Atomic int unsent;  /* answers owed: of sleepers, or queued and not sent to their end */
    _Atomic size_t held; /* bytes of bodies, answers and streams in memory */
    _Atomic uint64_t requests[AN_HTTP_CODES], body_bytes_in, bytes_out;
    _Atomic int connections; /* from accept to their end, so that a burst is counted in time */
    _Atomic int streams, waiting;
    _Atomic int64_t listened;              /* jobs, by each stream that listens to them */
    _Atomic uint64_t turned_away, cut_off; /* connections: no room for them, too slow */
};

/* Counts n bytes of a body; false, and nothing counted, past half of --max-held-bytes. */
bool server_hold(an_server *s, size_t n);
void server_release(an_server *s, size_t n);
bool server_crowded(const an_server *s); /* no room for another large answer */
/* Before and after a suspension. False: the server is at its end, do not suspend. */
bool server_sleep(an_server *s);
void server_wake(an_server *s, struct MHD_Connection *c); /* resumes it */

/* What comes of a request, known as soon as its headers are there. */
typedef enum {
    VERDICT_HANDLE = 0,
    VERDICT_BROKEN, /* heads_fault */
    VERDICT_HOST,
    VERDICT_UNKNOWN_METHOD,
    VERDICT_OPTIONS,
    VERDICT_FOREIGN,
    VERDICT_NO_KEY,
    VERDICT_NO_ROUTE,
    VERDICT_NO_METHOD,
    VERDICT_TYPE,
    VERDICT_RATE,
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
    uint64_t discarded, bytes_in;
    size_t held; /* of the server's */
    bool dispatched, owed;
    bool odd_host; /* the client named one that was not kept: too long, or no host's name */
    bool asleep;   /* was put to sleep: another thread makes the answer */
    char address[INET6_ADDRSTRLEN], client[64], rest[256], host[256], allow[64], id[REQUEST_ID];
    char *query; /* request_query's */
    an_key *key; /* or NULL */
    an_rate rate;
    const char *cors;  /* the origin that may read the answer, or NULL */
    const char *fault; /* what a refusal says */
    bool preflight, hang_up;
    /* the answer, once there is one */
    struct MHD_Response *response;
    int status;
    uint64_t bytes_out; /* of its body */
    char *headers[12][2];
    int n_headers;
    /* or what is still to be done for it */
    void (*work)(an_req *r);
    void (*finish)(an_req *r, an_job *job);
    awaited *jobs;
    int n_jobs;
    bool ran;            /* one of them did, before it failed or its answer could not be made */
    _Atomic int running; /* of them */
    uint64_t hangup_watch;
    _Atomic int progress; /* reply.c */
    struct an_stream *stream;
} req_private;

/* reply.c: does what the handler asked for, and may put the connection to sleep. Socket thread. */
void req_settle(an_req *r);
/* From now until its end the server, when it stops, waits a little for this request. */
void req_owe(an_req *r);
void req_hold(an_req *r, size_t n); /* counts without a limit: the bytes are already there */

/* stream.c */
typedef struct an_stream an_stream;
void stream_detach(an_stream *s); /* the connection is gone; frees the request in the end */
/* The jobs of a stream that are its own; 0 for one that only looks on. */
int stream_jobs(const an_stream *s);
an_job *stream_job(const an_stream *s, int i);

/* refuse.c */
/* What the headers alone decide; finds the route. */
verdict judge(an_req *r, const heads *h, const char *version, const char *target);
void refuse(an_req *r); /* answers any verdict but VERDICT_HANDLE */

/* http.c */
void req_free(an_req *r);
enum MHD_Result http_request(void *cls, struct MHD_Connection *c, const char *url,
                             const char *method, const char *version, const char *data, size_t *len,
                             void **slot);
void http_completed(void *cls, struct MHD_Connection *c, void **slot,
                    enum MHD_RequestTerminationCode why);
int connection_fd(struct MHD_Connection *c);

#endif
