/* queue.h: who is next. Clients share the device by virtual time: everything done for a client is
 * charged to it in FLOPs, and the one that got least so far goes first. The same order decides
 * which waiting job starts and which running picture leads the next tick. No threads, no models, no
 * clocks: the caller holds the engine's lock, and tests bring costs of their own. */
#ifndef ENGINE_QUEUE_H
#define ENGINE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AN_CLIENT_NAME 128

typedef struct an_client {
    char name[AN_CLIENT_NAME];
    double vtime;            /* FLOPs charged, lifted to the clock when it comes back from idling */
    int jobs;                /* waiting or running */
    int pictures, sequences; /* started and not finished */
    /* Pictures and text of one client take turns by the same rule: */
    double spent[2]; /* FLOPs of each kind */
    int jobs_of[2];
    struct an_client *next;
} an_client;

typedef struct an_clients {
    an_client *first;
    int count;
    double clock; /* virtual time: the least of the clients that have jobs; never goes back */
} an_clients;

/* A job of this client arrives: its record (made if new), jobs counted. A client that had nothing
 * to do starts at the clock, so that idling earns no credit. NULL when out of memory. */
an_client *an_clients_enter(an_clients *c, const char *name);
void an_clients_leave(an_clients *c, an_client *who);
void an_clients_charge(an_clients *c, an_client *who, double flops);
void an_clients_free(an_clients *c);
/* The same for a claim of this client: its kind of work is counted too. A kind that had nothing to
 * do starts where the other is. */
struct an_claim;
void an_claim_enter(struct an_claim *claim);
void an_claim_leave(struct an_claim *claim);
void an_claim_charge(an_clients *c, struct an_claim *claim, double flops);

/* A wish to be served: a waiting job's, or the one its running pictures share. */
typedef struct an_claim {
    int priority;      /* higher first, strictly */
    an_client *client; /* then the client that got least */
    double deadline;   /* then the earliest (monotonic seconds, 0 = none) */
    int kind;          /* 0 pictures, 1 text: within a client, the kind that got less goes first */
    uint64_t age;      /* then the oldest: a number that grows with every job */
    bool queued;       /* in an an_queue */
    bool started;      /* in it for its further pictures only: not bounded, no position */
    struct an_claim *prev, *next;
} an_claim;
/* True if a is served before b; a total order of distinct ages. */
bool an_claim_before(const an_claim *a, const an_claim *b);

typedef struct an_queue {
    an_claim *first, *last;
    int waiting, max; /* claims not started, and how many there may be */
} an_queue;
bool an_queue_full(const an_queue *q);
bool an_queue_push(an_queue *q, an_claim *c);   /* false: full */
void an_queue_remove(an_queue *q, an_claim *c); /* not in it: nothing happens */
void an_queue_started(an_queue *q, an_claim *c);
/* The most deserving claim of a kind, or NULL. newcomers: only of clients with none of it running.
 * may: only those that it is true of; NULL: of all. */
an_claim *an_queue_best(const an_queue *q, int kind, bool newcomers,
                        bool (*may)(const an_claim *c, void *ctx), void *ctx);
/* 0 = next of its kind; -1 = not waiting */
int an_queue_position(const an_queue *q, const an_claim *c);

#endif
