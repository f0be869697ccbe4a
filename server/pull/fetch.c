/* fetch.c: see pull.h. A few transfers at a time in one thread (libcurl's multi interface). Every
 * byte is hashed as it is written; those of an interrupted pull are hashed again first. */
#include "pull.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define READ_CHUNK ((size_t)1 << 20)
#define LOOK_S     0.1 /* between two looks at progress and Ctrl-C */
#define MAX_AGAIN  1   /* times that a file is fetched anew whose checksum was wrong */

typedef struct transfer {
    pull_file *file;
    pull_request request;
    pull_digest *digest;
    int fd;
    int64_t at;      /* bytes in the part */
    int64_t at_open; /* when this try began */
    int failures, again;
    double not_before;
    bool running, whole, broken; /* broken: the disk, or more bytes than the file has */
    char etag[256];              /* of the bytes that came, and whether the hub sent them */
    bool etag_of_hub;
    an_error disk;
} transfer;

typedef struct fetching {
    const pull_web *web;
    const pull_ref *ref;
    const pull_store *store;
    pull_repo *repo;
    pull_progress *progress;
    CURLM *multi;
    transfer *t;
    int n, running, done, parallel;
    int64_t total, had;
    double begun, shown;
} fetching;

/* ---------------------------------------------------------------- a part on the disk */

static an_status rewind_part(transfer *t, an_error *err)
{
    char ignored[65];
    if (t->digest) pull_digest_end(t->digest, ignored);
    t->digest = pull_digest_new(t->file);
    t->at = 0;
    if (!t->digest) return an_fail(err, AN_NO_MEMORY, "no memory for a checksum");
    if (ftruncate(t->fd, 0) != 0 || lseek(t->fd, 0, SEEK_SET) < 0)
        return an_fail(err, AN_IO, "%s: %s", t->file->path, strerror(errno));
    return AN_OK;
}

/* Opens the part and hashes what it has; a link to a published file is never written to. */
static an_status open_part(fetching *x, transfer *t, an_error *err)
{
    char path[4096];
    ssize_t n = 0;
    pull_store_part(x->store, t->file, path, sizeof path);
    t->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (t->fd < 0) return an_fail(err, AN_IO, "%s: %s", path, strerror(errno));
    char *chunk = malloc(READ_CHUNK);
    t->digest = pull_digest_new(t->file);
    if (!chunk || !t->digest) {
        free(chunk);
        return an_fail(err, AN_NO_MEMORY, "no memory for a checksum");
    }
    while (!*x->progress->stop && (n = read(t->fd, chunk, READ_CHUNK)) > 0) {
        pull_digest_add(t->digest, chunk, (size_t)n);
        t->at += n;
    }
    free(chunk);
    return n < 0 ? an_fail(err, AN_IO, "%s: %s", path, strerror(errno)) : AN_OK;
}

static void close_part(transfer *t)
{
    char ignored[65];
    if (t->digest) pull_digest_end(t->digest, ignored);
    t->digest = NULL;
    if (t->fd >= 0) close(t->fd);
    t->fd = -1;
}

/* ---------------------------------------------------------------- bytes that come */

static bool write_all(transfer *t, const char *data, size_t len)
{
    while (len) {
        const ssize_t n = write(t->fd, data, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            an_fail(&t->disk, AN_IO, "%s: %s", t->file->path, strerror(errno));
            return false;
        }
        pull_digest_add(t->digest, data, (size_t)n);
        t->at += n;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

/* The first bytes of an answer: do they begin where the part ends? */
static bool placed(transfer *t)
{
    const pull_request *r = &t->request;
    if (r->status == 206 && r->range_start == t->at &&
        (r->range_total < 0 || r->range_total == t->file->size))
        return true;
    if (r->status == 206) {
        an_fail(&t->disk, AN_IO,
                "%s: bytes from %lld of %lld were sent, %lld of %lld were asked for", t->file->path,
                (long long)r->range_start, (long long)r->range_total, (long long)t->at,
                (long long)t->file->size);
        return false;
    }
    return t->at == 0 || rewind_part(t, &t->disk) == AN_OK; /* 200: all of it, from the beginning */
}

static size_t on_bytes(char *data, size_t size, size_t n, void *arg)
{
    transfer *t = arg;
    const size_t len = size * n;
    if (!t->request.status) {
        curl_easy_getinfo(t->request.easy, CURLINFO_RESPONSE_CODE, &t->request.status);
        const long status = t->request.status;
        if ((status == 200 || status == 206) && !placed(t)) {
            t->broken = true;
            return 0;
        }
    }
    if (t->request.status != 200 && t->request.status != 206) return len; /* words for people */
    if ((uint64_t)len > (uint64_t)(t->file->size - t->at)) {
        an_fail(&t->disk, AN_IO, "%s: more than its %lld bytes were sent", t->file->path,
                (long long)t->file->size);
        t->broken = true;
        return 0;
    }
    if (write_all(t, data, len)) return len;
    t->broken = true;
    return 0;
}

/* ---------------------------------------------------------------- a try */

static an_status launch(fetching *x, transfer *t, an_error *err)
{
    curl_easy_setopt(t->request.easy, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(t->request.easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->request.easy, CURLOPT_PRIVATE, t);
    if (curl_multi_add_handle(x->multi, t->request.easy) != CURLM_OK)
        return an_fail(err, AN_NO_MEMORY, "no memory for a transfer");
    if (!t->running) x->running++;
    t->running = true;
    return AN_OK;
}

static an_status finish(fetching *x, transfer *t, an_error *err);

static an_status start(fetching *x, transfer *t, an_error *err)
{
    char url[PULL_URL], path[3 * PULL_PATH];
    if (t->fd < 0) {
        an_status s = open_part(x, t, err);
        if (s) return s;
        if (*x->progress->stop) return AN_OK;
    }
    if (t->at >= t->file->size) return finish(x, t, err); /* whole already, or empty */
    if (!pull_escape(t->file->path, false, path, sizeof path))
        return an_fail(err, AN_INVALID, "%s: too long a name", t->file->path);
    snprintf(url, sizeof url, "%s/%s/%s/resolve/%s/%s", x->web->endpoint, x->ref->owner,
             x->ref->name, x->repo->commit, path);
    t->request.redirects = 0;
    t->at_open = t->at;
    an_status s =
        pull_request_open(&t->request, x->web, url, t->at, t->etag_of_hub ? t->etag : "", err);
    return s ? s : launch(x, t, err);
}

static void drop(fetching *x, transfer *t)
{
    if (t->running) {
        curl_multi_remove_handle(x->multi, t->request.easy);
        x->running--;
    }
    t->running = false;
    pull_request_close(&t->request);
}

/* All bytes are there: are they the right ones? */
static an_status finish(fetching *x, transfer *t, an_error *err)
{
    char hex[65], path[4096];
    drop(x, t);
    pull_digest_end(t->digest, hex);
    t->digest = NULL;
    if (strcmp(hex, t->file->hash) == 0) {
        close_part(t);
        t->whole = true;
        x->done++;
        return AN_OK;
    }
    close_part(t);
    pull_store_part(x->store, t->file, path, sizeof path);
    unlink(path); /* never truncated: it may be a link to a file in use */
    t->at = t->file->have = 0;
    t->etag[0] = '\0';
    x->progress->retried++;
    if (t->again++ < MAX_AGAIN) return AN_OK;
    return an_fail(err, AN_IO,
                   "%s: the bytes that came are not those that the hub has (%s %.16s..., not "
                   "%.16s...), twice: something on the way changes them",
                   t->file->path, t->file->sha256 ? "SHA-256" : "git's SHA-1", hex, t->file->hash);
}

/* The try failed: another one, later, or the end. */
static an_status failed(fetching *x, transfer *t, CURLcode code, an_error *err)
{
    if (t->broken) {
        drop(x, t);
        *err = t->disk;
        return t->disk.status;
    }
    if (t->at > t->at_open) t->failures = 0; /* it gets on, if slowly */
    if (!pull_worth_retry(&t->request, code) || t->failures == x->web->retries) {
        an_status s = pull_explain(&t->request, x->web, x->ref, code, t->file->path, err);
        if (t->request.status == 200 || t->request.status == 206)
            s = an_fail(err, AN_IO,
                        "%s: cut off after %lld of %lld bytes; the same command goes on",
                        t->file->path, (long long)t->at, (long long)t->file->size);
        drop(x, t);
        return s;
    }
    t->not_before = an_now_s() + pull_retry_wait(x->web, &t->request, t->failures++);
    x->progress->retried++;
    drop(x, t);
    return AN_OK;
}

static an_status ended(fetching *x, transfer *t, CURLcode code, an_error *err)
{
    pull_request *r = &t->request;
    curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &r->status);
    if (code == CURLE_OK && pull_status_redirects(r->status)) {
        curl_multi_remove_handle(x->multi, r->easy);
        x->running--;
        t->running = false;
        an_status s = pull_request_follow(r, x->web, t->at, t->etag_of_hub ? "" : t->etag, err);
        return s ? s : launch(x, t, err);
    }
    if (r->status == 200 || r->status == 206) {
        snprintf(t->etag, sizeof t->etag, "%s", r->etag);
        t->etag_of_hub = r->at_hub;
    }
    if (t->at >= t->file->size && (r->status == 200 || r->status == 206)) return finish(x, t, err);
    return failed(x, t, code, err);
}

/* ---------------------------------------------------------------- all of them */

static void show(fetching *x, bool now)
{
    const double t = an_now_s();
    int64_t have = 0, fetched = 0;
    if (!now && t - x->shown < LOOK_S) return;
    x->shown = t;
    for (int i = 0; i < x->n; i++) {
        const transfer *f = &x->t[i];
        have += f->whole ? f->file->size : f->fd < 0 ? f->file->have : f->at;
    }
    fetched = have > x->had ? have - x->had : 0;
    x->progress->fetched = fetched;
    if (x->progress->show)
        x->progress->show(x->progress->ctx, have, x->total,
                          t > x->begun ? (double)fetched / (t - x->begun) : 0);
}

static an_status start_more(fetching *x, an_error *err)
{
    const double now = an_now_s();
    an_status s = AN_OK;
    for (int i = 0; i < x->n && x->running < x->parallel && !s && !*x->progress->stop; i++) {
        transfer *t = &x->t[i];
        if (!t->running && !t->whole && t->not_before <= now) s = start(x, t, err);
    }
    return s;
}

static an_status take_ended(fetching *x, an_error *err)
{
    int left;
    an_status s = AN_OK;
    for (CURLMsg *m; !s && (m = curl_multi_info_read(x->multi, &left)) != NULL;) {
        transfer *t = NULL;
        if (m->msg != CURLMSG_DONE) continue;
        const CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
        s = ended(x, t, code, err);
    }
    return s;
}

static an_status run(fetching *x, an_error *err)
{
    an_status s = AN_OK;
    while (!s && x->done < x->n) {
        int still;
        if (*x->progress->stop) return an_fail(err, AN_CANCELED, "stopped");
        s = start_more(x, err);
        if (!s) curl_multi_perform(x->multi, &still);
        if (!s) s = take_ended(x, err);
        show(x, false);
        if (!s && x->done < x->n) curl_multi_poll(x->multi, NULL, 0, (int)(LOOK_S * 1000), NULL);
    }
    return s;
}

/* Small files first: what is wrong with a token or a disk shows before the gigabytes. */
static int by_size(const void *a, const void *b)
{
    const int64_t x = ((const transfer *)a)->file->size, y = ((const transfer *)b)->file->size;
    return (x > y) - (x < y);
}

an_status pull_fetch(const pull_web *w, const pull_ref *ref, const pull_store *s, pull_repo *r,
                     int parallel, pull_progress *p, an_error *err)
{
    fetching x = {.web = w,
                  .ref = ref,
                  .store = s,
                  .repo = r,
                  .progress = p,
                  .parallel = parallel,
                  .begun = an_now_s()};
    x.multi = curl_multi_init();
    x.t = calloc((size_t)r->n + 1, sizeof *x.t);
    an_status st =
        x.multi && x.t ? AN_OK : an_fail(err, AN_NO_MEMORY, "no memory for the transfers");
    for (int i = 0; i < r->n && !st; i++) {
        if (!r->file[i].take || r->file[i].same_as_other) continue;
        x.t[x.n++] = (transfer){.file = &r->file[i], .fd = -1};
        x.total += r->file[i].size;
        x.had += r->file[i].have;
    }
    if (!st) {
        qsort(x.t, (size_t)x.n, sizeof *x.t, by_size);
        st = run(&x, err);
        show(&x, true);
    }
    for (int i = 0; i < x.n; i++) {
        drop(&x, &x.t[i]);
        close_part(&x.t[i]);
    }
    if (x.multi) curl_multi_cleanup(x.multi);
    free(x.t);
    return st;
}
