/* cached.c: answers that machines ask for every second, and load tests 50,000 times: built once,
 * and given to everybody while they are true. Building one costs several times as much as all the
 * rest of the request. */
#include "server_private.h"

#include <stdlib.h>

typedef struct cached_body {
    _Atomic int users; /* answers on their way, and the cache */
    size_t len;
    char text[];
} cached_body;

static void let_go(void *p)
{
    cached_body *b = p;
    if (atomic_fetch_sub(&b->users, 1) == 1) free(b);
}

void cached_init(an_cached c[AN_CACHED_COUNT])
{
    for (int i = 0; i < AN_CACHED_COUNT; i++) pthread_mutex_init(&c[i].lock, NULL);
}

void cached_free(an_cached c[AN_CACHED_COUNT])
{
    for (int i = 0; i < AN_CACHED_COUNT; i++) {
        if (c[i].body) let_go(c[i].body);
        pthread_mutex_destroy(&c[i].lock);
    }
}

static void reply_body(an_req *r, cached_body *b)
{
    reply_shared(r, 200, "application/json", b->text, b->len, let_go, b);
}

bool reply_cached(an_req *r, an_cached_answer which, double max_age, an_pulse *now)
{
    an_cached *c = &r->server->cached[which];
    cached_body *b = NULL;
    if (now) an_engine_pulse(r->server->engine, now);
    pthread_mutex_lock(&c->lock);
    if (c->body && r->started - c->built <= max_age &&
        (!now || memcmp(&c->pulse, now, sizeof *now) == 0)) {
        b = c->body;
        atomic_fetch_add(&b->users, 1);
    }
    pthread_mutex_unlock(&c->lock);
    if (b) reply_body(r, b);
    return b != NULL;
}

void reply_and_cache(an_req *r, an_cached_answer which, const an_pulse *pulse, json_t *body)
{
    an_cached *c = &r->server->cached[which];
    size_t len = body ? json_dumpb(body, NULL, 0, JSON_COMPACT) : 0;
    cached_body *b = len ? malloc(sizeof *b + len) : NULL, *old;
    if (!b) {
        reply_json(r, 200, body);
        return;
    }
    b->len = json_dumpb(body, b->text, len, JSON_COMPACT);
    atomic_init(&b->users, 2);
    json_decref(body);
    pthread_mutex_lock(&c->lock);
    old = c->body;
    c->body = b;
    c->built = an_now_s();
    if (pulse) c->pulse = *pulse;
    pthread_mutex_unlock(&c->lock);
    if (old) let_go(old);
    reply_body(r, b);
}
