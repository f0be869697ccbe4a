/* queue.c: virtual time, the order of claims, and the bounded queue. The lists are short
 * (hundreds), so that every choice is one plain walk: an order kept in a heap would be wrong after
 * each charge. */
#include "queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Idle clients remembered; beyond it the ones with the least debt are forgotten. */
#define MAX_IDLE_CLIENTS 4096

/* ---------------------------------------------------------------- clients */

/* The clock is the least virtual time among those who have something to do. */
static void advance_clock(an_clients *c)
{
    double least = 0;
    bool any = false;
    for (const an_client *i = c->first; i; i = i->next) {
        if (i->jobs <= 0) continue;
        if (!any || i->vtime < least) least = i->vtime;
        any = true;
    }
    if (any && least > c->clock) c->clock = least;
}

/* Forgets idle clients that owe nothing: coming back they would start at the clock anyway. */
static void forget_idle(an_clients *c)
{
    an_client **p = &c->first;
    while (*p) {
        an_client *i = *p;
        bool crowded = c->count > MAX_IDLE_CLIENTS;
        if (i->jobs > 0 || (i->vtime > c->clock && !crowded)) {
            p = &i->next;
            continue;
        }
        *p = i->next;
        free(i);
        c->count--;
    }
}

an_client *an_clients_enter(an_clients *c, const char *name)
{
    char key[AN_CLIENT_NAME];
    snprintf(key, sizeof key, "%s", name);
    an_client *i = c->first;
    while (i && strcmp(i->name, key) != 0) i = i->next;
    if (!i) {
        i = calloc(1, sizeof *i);
        if (!i) return NULL;
        memcpy(i->name, key, sizeof key);
        i->next = c->first;
        c->first = i;
        c->count++;
    }
    if (i->jobs == 0 && i->vtime < c->clock) i->vtime = c->clock;
    i->jobs++;
    return i;
}

void an_clients_leave(an_clients *c, an_client *who)
{
    who->jobs--;
    advance_clock(c);
    forget_idle(c);
}

void an_clients_charge(an_clients *c, an_client *who, double flops)
{
    who->vtime += flops;
    advance_clock(c);
}

void an_claim_enter(an_claim *claim)
{
    an_client *who = claim->client;
    int kind = claim->kind;
    if (who->jobs_of[kind]++ > 0) return;
    if (who->spent[kind] < who->spent[!kind]) who->spent[kind] = who->spent[!kind];
}

void an_claim_leave(an_claim *claim)
{
    claim->client->jobs_of[claim->kind]--;
}

void an_claim_charge(an_clients *c, an_claim *claim, double flops)
{
    claim->client->spent[claim->kind] += flops;
    an_clients_charge(c, claim->client, flops);
}

void an_clients_free(an_clients *c)
{
    while (c->first) {
        an_client *i = c->first;
        c->first = i->next;
        free(i);
    }
    c->count = 0;
}

/* ---------------------------------------------------------------- claims */

bool an_claim_before(const an_claim *a, const an_claim *b)
{
    if (a->priority != b->priority) return a->priority > b->priority;
    if (a->client != b->client && a->client->vtime != b->client->vtime)
        return a->client->vtime < b->client->vtime;
    if (a->client == b->client && a->kind != b->kind &&
        a->client->spent[a->kind] != b->client->spent[b->kind])
        return a->client->spent[a->kind] < b->client->spent[b->kind];
    if (a->deadline != b->deadline) {
        if (a->deadline == 0) return false;
        return b->deadline == 0 || a->deadline < b->deadline;
    }
    return a->age < b->age;
}

static int started(const an_claim *c)
{
    return c->kind ? c->client->sequences : c->client->pictures;
}

/* Places are shared as the FLOPs are: who has fewer pictures started goes first. Without this, a
 * client that comes first would take every place before anything was charged to it. */
static bool starts_before(const an_claim *a, const an_claim *b)
{
    if (a->priority == b->priority && started(a) != started(b)) return started(a) < started(b);
    return an_claim_before(a, b);
}

/* ---------------------------------------------------------------- queue */

bool an_queue_full(const an_queue *q)
{
    return q->waiting >= q->max;
}

bool an_queue_push(an_queue *q, an_claim *c)
{
    if (an_queue_full(q)) return false;
    c->queued = true;
    c->started = false;
    c->prev = q->last;
    c->next = NULL;
    if (q->last)
        q->last->next = c;
    else
        q->first = c;
    q->last = c;
    q->waiting++;
    return true;
}

void an_queue_remove(an_queue *q, an_claim *c)
{
    if (!c->queued) return;
    if (c->prev)
        c->prev->next = c->next;
    else
        q->first = c->next;
    if (c->next)
        c->next->prev = c->prev;
    else
        q->last = c->prev;
    if (!c->started) q->waiting--;
    c->prev = c->next = NULL;
    c->queued = false;
}

void an_queue_started(an_queue *q, an_claim *c)
{
    if (!c->queued || c->started) return;
    c->started = true;
    q->waiting--;
}

an_claim *an_queue_best(const an_queue *q, int kind, bool newcomers,
                        bool (*may)(const an_claim *c, void *ctx), void *ctx)
{
    an_claim *best = NULL;
    for (an_claim *c = q->first; c; c = c->next) {
        if (c->kind != kind || (newcomers && started(c) > 0)) continue;
        if (best && !starts_before(c, best)) continue;
        if (!may || may(c, ctx)) best = c;
    }
    return best;
}

int an_queue_position(const an_queue *q, const an_claim *c)
{
    if (!c->queued || c->started) return -1;
    int n = 0;
    for (const an_claim *i = q->first; i; i = i->next)
        if (!i->started && i != c && i->kind == c->kind && starts_before(i, c)) n++;
    return n;
}
