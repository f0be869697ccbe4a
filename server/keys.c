/* keys.c: the keys of a running server. Requests look keys up without a lock: a table is never
 * changed but replaced, and the old one goes when nobody can be reading it. What a key has used up
 * is kept by name, beside the tables, so that reading the file again forgives nobody. */
#include "keys.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define BUCKETS       256
#define MAX_FILE      ((size_t)4 << 20)
#define MINUTE_NS     60000000000ll
#define CLIENT_PREFIX "key:" /* http.c: how requests name a key's client */

struct an_key {
    char name[AN_KEY_NAME];
    _Atomic int per_minute, jobs;
    _Atomic int64_t full_at; /* monotonic ns when nothing of the limit is used up any more */
    struct an_key *next;     /* of its bucket */
};

typedef struct table {
    struct table *older; /* replaced, and not freed yet */
    int n;
    struct {
        unsigned char hash[AN_KEY_HASH];
        an_key *key;
    } entry[];
} table;

struct an_keys {
    const an_options *o;
    _Atomic(an_key *) bucket[BUCKETS];
    _Atomic(table *) now;
    _Atomic int readers;
    table *old;
    struct stat seen; /* of the file when it was last read to its end, right or wrong */
};

/* ---------------------------------------------------------------- keys by name */

static unsigned bucket_of(const char *name)
{
    unsigned h = 2166136261u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 16777619u;
    return h % BUCKETS;
}

static an_key *by_name(an_keys *k, const char *name)
{
    an_key *i = atomic_load(&k->bucket[bucket_of(name)]);
    while (i && strcmp(i->name, name) != 0) i = i->next;
    return i;
}

/* The key of a line, made if its name is new. */
static an_key *take(an_keys *k, const an_key_line *line)
{
    an_key *key = by_name(k, line->name);
    if (!key) {
        key = calloc(1, sizeof *key);
        if (!key) return NULL;
        memcpy(key->name, line->name, sizeof key->name);
        key->next = atomic_load(&k->bucket[bucket_of(key->name)]);
        atomic_store(&k->bucket[bucket_of(key->name)], key);
    }
    atomic_store(&key->per_minute, line->per_minute >= 0 ? line->per_minute : k->o->key_per_minute);
    atomic_store(&key->jobs, line->jobs >= 0 ? line->jobs : k->o->key_jobs);
    return key;
}

/* ---------------------------------------------------------------- tables */

/* A reader counts itself before it takes the table. So if nobody is counted after a table was
 * replaced, whoever comes later sees the new one. Under load that moment may be missed; then the
 * next look, a second later, frees it. */
static void free_old(an_keys *k)
{
    if (!k->old || atomic_load(&k->readers) != 0) return;
    while (k->old) {
        table *t = k->old;
        k->old = t->older;
        free(t);
    }
}

static an_status replace(an_keys *k, const an_key_line *lines, int n, an_error *err)
{
    table *t = calloc(1, sizeof *t + (size_t)n * sizeof t->entry[0]);
    if (!t) return an_fail(err, AN_NO_MEMORY, "no memory for %d keys", n);
    for (int i = 0; i < n; i++) {
        memcpy(t->entry[i].hash, lines[i].hash, AN_KEY_HASH);
        t->entry[i].key = take(k, &lines[i]);
        if (!t->entry[i].key) {
            free(t);
            return an_fail(err, AN_NO_MEMORY, "no memory for %d keys", n);
        }
    }
    t->n = n;
    table *before = atomic_exchange(&k->now, t);
    if (before) {
        before->older = k->old;
        k->old = before;
    }
    free_old(k);
    return AN_OK;
}

/* ---------------------------------------------------------------- the file */

/* The whole file, malloc'ed, and what it was like before it was read. */
static an_status read_file(const char *name, struct stat *st, char **text, size_t *len,
                           an_error *err)
{
    *text = NULL;
    if (stat(name, st) != 0)
        return an_fail(err, AN_IO, "--api-key-file %s: %s", name, strerror(errno));
    if (st->st_mode & S_IWOTH)
        return an_fail(
            err, AN_INVALID,
            "--api-key-file %s may be written by everybody, who could let themselves in: "
            "chmod o-w %s",
            name, name);
    an_status s = an_read_file(name, MAX_FILE, text, len, err);
    return s == AN_OK ? s : an_fail_prefix(err, s, "--api-key-file");
}

/* The change time too: chmod and a content of the same size within a moment change nothing else. */
static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static an_status load(an_keys *k, an_error *err)
{
    const an_options *o = k->o;
    struct stat st = {0};
    size_t len = 0;
    int n = 0;
    an_status s = AN_OK;
    an_key_line *lines = calloc(AN_MAX_KEYS, sizeof *lines);
    if (!lines) return an_fail(err, AN_NO_MEMORY, "out of memory");
    for (; n < o->n_api_keys; n++) {
        snprintf(lines[n].name, sizeof lines[n].name, "api-key-%d", n + 1);
        an_key_hash(o->api_keys[n], strlen(o->api_keys[n]), lines[n].hash);
        lines[n].per_minute = lines[n].jobs = -1;
    }
    bool wrong = false;
    if (*o->api_key_file) {
        char *text;
        s = read_file(o->api_key_file, &st, &text, &len, err);
        if (s == AN_OK) {
            s = an_keys_parse(text, len, o->api_key_file, lines, &n, err);
            wrong = s != AN_OK;
        }
        free(text);
    }
    if (s == AN_OK) s = replace(k, lines, n, err);
    /* A wrong one is not read again until it changes. One that could not be read, or not be taken
     * in, is: what it says may be that a key is good no more. */
    if (s == AN_OK || wrong) k->seen = st;
    free(lines);
    return s;
}

an_status an_keys_open(const an_options *o, an_keys **out, an_error *err)
{
    an_keys *k = calloc(1, sizeof *k);
    *out = NULL;
    if (!k) return an_fail(err, AN_NO_MEMORY, "out of memory");
    k->o = o;
    an_status s = load(k, err);
    if (s == AN_OK)
        *out = k;
    else
        an_keys_close(k);
    return s;
}

an_status an_keys_reload(an_keys *k, bool always, bool *changed, an_error *err)
{
    struct stat st;
    *changed = false;
    free_old(k);
    if (!*k->o->api_key_file) return AN_OK;
    /* a file that is away for a moment is being replaced */
    if (!always && (stat(k->o->api_key_file, &st) != 0 || same_file(&st, &k->seen))) return AN_OK;
    an_status s = load(k, err);
    *changed = s == AN_OK;
    return s;
}

void an_keys_close(an_keys *k)
{
    if (!k) return;
    free(atomic_load(&k->now));
    while (k->old) {
        table *t = k->old;
        k->old = t->older;
        free(t);
    }
    for (int i = 0; i < BUCKETS; i++) {
        for (an_key *key = atomic_load(&k->bucket[i]); key;) {
            an_key *next = key->next;
            free(key);
            key = next;
        }
    }
    free(k);
}

/* ---------------------------------------------------------------- asking */

int an_keys_count(an_keys *k)
{
    atomic_fetch_add(&k->readers, 1);
    int n = atomic_load(&k->now)->n;
    atomic_fetch_sub(&k->readers, 1);
    return n;
}

an_key *an_keys_find(an_keys *k, const char *secret, size_t len)
{
    unsigned char hash[AN_KEY_HASH];
    an_key *found = NULL;
    an_key_hash(secret, len, hash);
    atomic_fetch_add(&k->readers, 1);
    const table *t = atomic_load(&k->now);
    for (int i = 0; i < t->n; i++)
        if (gnutls_memcmp(t->entry[i].hash, hash, sizeof hash) == 0) found = t->entry[i].key;
    atomic_fetch_sub(&k->readers, 1);
    return found;
}

const char *an_key_name(const an_key *key)
{
    return key->name;
}

int an_keys_max_jobs(an_keys *k, const char *client)
{
    size_t n = strlen(CLIENT_PREFIX);
    an_key *key = strncmp(client, CLIENT_PREFIX, n) == 0 ? by_name(k, client + n) : NULL;
    return key ? atomic_load(&key->jobs) : 0;
}

bool an_key_spend(an_key *key, double now_s, an_rate *out)
{
    *out = (an_rate){.limit = atomic_load(&key->per_minute)};
    if (out->limit <= 0) return true;
    const int64_t now = (int64_t)(now_s * 1e9), each = MINUTE_NS / out->limit;
    int64_t before = atomic_load(&key->full_at), after;
    do {
        /* a limit that was lowered must not make somebody wait for more than a minute */
        int64_t from = before > now + MINUTE_NS ? now + MINUTE_NS : before;
        after = (from > now ? from : now) + each;
        if (after - now > MINUTE_NS) {
            out->reset_s = 1e-9 * (double)(from - now);
            out->retry_s = 1e-9 * (double)(after - now - MINUTE_NS);
            return false;
        }
    } while (!atomic_compare_exchange_weak(&key->full_at, &before, after));
    out->remaining = (int)((MINUTE_NS - (after - now)) / each);
    out->reset_s = 1e-9 * (double)(after - now);
    return true;
}
