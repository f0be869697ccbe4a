/* pull.h: `anneal pull`: a model repository of the Hugging Face hub (or of whatever speaks its API)
 * becomes a model of a models folder. Names and sizes come from strangers: they are checked before
 * anything is written. The steps, a file each:
 *   name.c    hf:owner/name@rev:select, paths, globs
 *   web.c     one request by libcurl, with the token for the hub alone
 *   listing.c what the repository holds
 *   choose.c  what of it anneal can use
 *   store.c   where it is kept while it comes, and how it appears at once when it is whole
 *   fetch.c   the bytes, several files at a time, resumed and checked */
#ifndef ANNEAL_PULL_H
#define ANNEAL_PULL_H

#include "anneal/base.h"

#include <curl/curl.h>
#include <signal.h>

#define PULL_NAME 97 /* of an owner, a repository, a model */
#define PULL_REV  201
#define PULL_PATH 1024 /* of a file in a repository */
#define PULL_URL  8192

#define PULL_SHELL "$`\"'\\;&|<>(){}[]*?!~#" /* what a shell does not read as itself */

struct json_t;

/* ---------------------------------------------------------------- names (name.c) */

typedef struct pull_ref {
    char owner[PULL_NAME], name[PULL_NAME], revision[PULL_REV];
    char select[256]; /* a file or a quantisation; "" = the default choice */
} pull_ref;
/* "hf:owner/name[@revision][:file.gguf|:Q4_K_M]" */
an_status pull_ref_parse(const char *text, pull_ref *out, an_error *err);
/* Is it a relative path that stays inside a folder: no "..", no "/" at its ends, no backslash, no
 * control character, no empty part, at most PULL_PATH - 1 bytes? */
bool pull_path_safe(const char *path);
/* May a model of the folder have this name: a plain file name that does not begin with a dot and
 * has none of PULL_SHELL? */
bool pull_name_safe(const char *name);
/* Percent-encodes; '/' stays unless `slashes`. False if it does not fit. */
bool pull_escape(const char *text, bool slashes, char *out, size_t size);
const char *pull_base_name(const char *path);

/* ---------------------------------------------------------------- the web (web.c) */

typedef struct pull_web {
    char endpoint[512]; /* of the hub, without a / at its end */
    char token[1024];   /* "" = none */
    double timeout_s;   /* without a byte */
    int retries;        /* in a row without a byte gained */
    double retry_wait_s;
} pull_web;

/* $HF_ENDPOINT or huggingface.co; the token of the file, or of $HF_TOKEN. */
an_status pull_web_init(pull_web *w, const char *token_file, an_error *err);

/* One request and what its answer's head said. */
typedef struct pull_request {
    CURL *easy;
    struct curl_slist *headers;
    char url[PULL_URL];
    int redirects;
    /* of the latest answer */
    long status;
    bool at_hub;          /* the answer is the hub's, not of a host that it sent us to */
    double retry_after_s; /* < 0: it did not say */
    int64_t range_start, range_total; /* of Content-Range; -1 = none */
    char etag[256], error_code[64], error_message[256];
} pull_request;

/* A request of url; from > 0: of the rest of it, if the entity tag (may be "") is still the same.
 */
an_status pull_request_open(pull_request *r, const pull_web *w, const char *url, int64_t from,
                            const char *etag, an_error *err);
/* After an answer that sends elsewhere: opens that. AN_INVALID where it must not be followed. */
an_status pull_request_follow(pull_request *r, const pull_web *w, int64_t from, const char *etag,
                              an_error *err);
void pull_request_close(pull_request *r);
bool pull_status_redirects(long status);
/* Is it worth to ask again? curl's code, then the answer's. */
bool pull_worth_retry(const pull_request *r, CURLcode code);
/* Seconds to wait before try number n (0, 1, ...): what the server wishes, else doubled each time.
 */
double pull_retry_wait(const pull_web *w, const pull_request *r, int n);
/* What went wrong, in words that say what would help. */
an_status pull_explain(const pull_request *r, const pull_web *w, const pull_ref *ref, CURLcode code,
                       const char *what, an_error *err);
/* A whole answer of at most max bytes; retried. */
an_status pull_get(const pull_web *w, const pull_ref *ref, const char *url, size_t max,
                   const char *what, an_buf *out, an_error *err);

/* ---------------------------------------------------------------- the repository (listing.c) */

typedef enum pull_left {
    LEFT_OUT = 0,
    LEFT_PICKLE,
    LEFT_VARIANT,
    LEFT_EXCLUDED,
    LEFT_KINDS
} pull_left;

typedef struct pull_file {
    char *path;   /* in the repository */
    char *target; /* below what is published; NULL = not taken */
    int64_t size;
    char hash[65]; /* hex: SHA-256 of the bytes, or git's SHA-1 of the blob */
    bool sha256, take;
    pull_left left;     /* why not */
    int64_t have;       /* bytes that are there already */
    bool same_as_other; /* another file of the list has the same bytes and brings them */
} pull_file;

typedef struct pull_repo {
    char commit[65];
    pull_file *file;
    int n;
} pull_repo;

typedef struct pull_limits {
    int max_files;
    size_t max_bytes, max_listing;
} pull_limits;

an_status pull_list(const pull_web *w, const pull_ref *ref, const pull_limits *l, pull_repo *out,
                    an_error *err);
void pull_repo_free(pull_repo *r);

/* ---------------------------------------------------------------- the choice (choose.c) */

typedef struct pull_wish {
    const char *select, *variant;
    const char *const *include, *const *exclude;
    int n_include, n_exclude;
    const char *name; /* of the model; NULL = the repository's or the file's */
} pull_wish;

/* Marks what is taken and gives it targets. *folder: a model folder of the name; else files that
 * are models themselves. name gets the model's. */
an_status pull_choose(pull_repo *r, const pull_ref *ref, const pull_wish *w, bool *folder,
                      char name[PULL_NAME], an_error *err);

/* ---------------------------------------------------------------- the store (store.c) */

typedef struct pull_store {
    char dir[2048];     /* the models folder */
    char staging[2304]; /* dir/.pull-NAME: parts/HASH while they come, tree/ when they are whole */
    char name[PULL_NAME];
    bool folder;
    int lock;
    struct json_t *record; /* of what was pulled before under this name, or NULL */
} pull_store;

/* Makes the staging folder and takes its lock; refuses a name that holds something else. */
an_status pull_store_open(pull_store *s, const char *dir, const char *name, bool folder,
                          const pull_ref *ref, const pull_repo *r, an_error *err);
/* Is what the repository has there, whole, under the name? */
bool pull_store_current(const pull_store *s, const pull_repo *r);
/* Finds what is there of each file: from before, from another revision, or of an interrupted pull.
 */
an_status pull_store_resume(pull_store *s, pull_repo *r, an_error *err);
an_status pull_store_space(const pull_store *s, const pull_repo *r, an_error *err);
/* Path of a file's part. */
void pull_store_part(const pull_store *s, const pull_file *f, char *buf, size_t size);
/* Everything is there: it appears under its name at once, and the staging folder goes. */
an_status pull_store_publish(pull_store *s, const pull_ref *ref, pull_repo *r, an_error *err);
/* What serve would open; the first of several files. */
void pull_store_path(const pull_store *s, const pull_repo *r, char *buf, size_t size);
void pull_store_close(pull_store *s);

/* A digest of a file as the hub writes it. */
typedef struct pull_digest pull_digest;
pull_digest *pull_digest_new(const pull_file *f); /* NULL: no memory */
void pull_digest_add(pull_digest *d, const void *data, size_t len);
/* Hex, and the end of d. */
void pull_digest_end(pull_digest *d, char out[65]);

/* ---------------------------------------------------------------- the bytes (fetch.c) */

typedef struct pull_progress {
    void (*show)(void *ctx, int64_t done, int64_t total, double bytes_per_s);
    void *ctx;
    const volatile sig_atomic_t *stop; /* not 0: end, keeping what there is */
    int64_t fetched;                   /* filled: bytes that came by the net */
    int retried;                       /* filled */
} pull_progress;

an_status pull_fetch(const pull_web *w, const pull_ref *ref, const pull_store *s, pull_repo *r,
                     int parallel, pull_progress *p, an_error *err);

#endif
