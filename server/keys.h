/* keys.h: who may ask, and how much: API keys, hashed, with limits of their own.
 *
 * The file of --api-key-file has a line a key; # begins a comment:
 *     NAME sha256:HASH [rpm=N] [jobs=N]
 * NAME goes into logs: letters, digits, '.', '_', '-'. HASH is the SHA-256 of the secret in 64
 * hexadecimal digits. There is no salt and no slow hash on purpose: a secret is 256 random bits
 * (`anneal key`), of which no dictionary and no table can be made, and a slow hash would let
 * strangers keep the server busy. rpm: POST requests a minute; jobs: waiting or running at once;
 * 0 = no limit; without them: --key-rpm and --key-jobs. */
#ifndef ANNEAL_KEYS_H
#define ANNEAL_KEYS_H

#include "options.h"

#define AN_KEY_NAME 48
#define AN_KEY_HASH 32
#define AN_MAX_KEYS 4096

/* ---------------------------------------------------------------- the file's lines */

typedef struct an_key_line {
    char name[AN_KEY_NAME];
    unsigned char hash[AN_KEY_HASH];
    int per_minute, jobs; /* -1 = the line says nothing */
} an_key_line;

/* Lines [n_lines, AN_MAX_KEYS) of `lines` are filled from text; those before it count as taken
 * names and hashes. AN_INVALID with "FILE line N: ..." for anything else than the above, for a name
 * or a hash that comes twice, and for more than AN_MAX_KEYS. */
an_status an_keys_parse(const char *text, size_t len, const char *file, an_key_line *lines,
                        int *n_lines, an_error *err);
bool an_key_name_valid(const char *name);
void an_key_hash(const char *secret, size_t len, unsigned char hash[AN_KEY_HASH]);
/* A line for the file, without its newline. size: at least 192. */
void an_key_format(const an_key_line *line, char *text, size_t size);

/* ---------------------------------------------------------------- the keys of a server */

typedef struct an_keys an_keys;
typedef struct an_key an_key; /* lives as long as its an_keys, also when its line is gone */

/* The keys of the options, hashed, and those of the file. *out is not NULL on AN_OK. */
an_status an_keys_open(const an_options *o, an_keys **out, an_error *err);
void an_keys_close(an_keys *k);
/* Reads the file again, if it looks changed or `always`. An error leaves the keys as they were. The
 * same names keep what they have used up. One thread at a time. */
an_status an_keys_reload(an_keys *k, bool always, bool *changed, an_error *err);
int an_keys_count(an_keys *k);
/* Whose secret this is, or NULL. Any thread, without a lock; looks at every key, however early one
 * fits. */
an_key *an_keys_find(an_keys *k, const char *secret, size_t len);
const char *an_key_name(const an_key *key);
/* The jobs that may wait or run for "key:NAME"; 0 = no limit, also for clients of another name. */
int an_keys_max_jobs(an_keys *k, const char *client);

/* What a request did to its key's limit. */
typedef struct an_rate {
    int limit, remaining; /* requests a minute; 0 = no limit, the rest is not set */
    double reset_s;       /* until `remaining` is `limit` again */
    double retry_s;       /* until the next is let through; 0 unless this one was not */
} an_rate;
/* One request more at the monotonic second now_s; false if it is one too many, which costs nothing.
 * The generic cell rate algorithm (ITU-T I.371): a bucket of `limit` requests that fills evenly.
 * Any thread, without a lock. */
bool an_key_spend(an_key *key, double now_s, an_rate *out);

#endif
