/* store.c: see pull.h. A part is named by the hash of what it is to become, so that it stays good
 * whatever happens: a kill, another revision, the same file in two places. */
#include "pull.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <ftw.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAX_RECORD ((size_t)16 << 20)
#define CHUNK      ((size_t)1 << 20)
#define SPARE      ((int64_t)64 << 20) /* of the disk, left free */
#define RECORD     ".anneal-pull.json"

/* ---------------------------------------------------------------- digests */

struct pull_digest {
    gnutls_hash_hd_t hash;
    bool sha256;
};

pull_digest *pull_digest_new(const pull_file *f)
{
    char head[64]; /* git hashes "blob SIZE", a NUL, and the bytes */
    pull_digest *d = calloc(1, sizeof *d);
    if (!d) return NULL;
    d->sha256 = f->sha256;
    if (gnutls_hash_init(&d->hash, f->sha256 ? GNUTLS_DIG_SHA256 : GNUTLS_DIG_SHA1) < 0) {
        free(d);
        return NULL;
    }
    const int n = snprintf(head, sizeof head, "blob %lld", (long long)f->size);
    if (!f->sha256) gnutls_hash(d->hash, head, (size_t)n + 1);
    return d;
}

void pull_digest_add(pull_digest *d, const void *data, size_t len)
{
    gnutls_hash(d->hash, data, len);
}

void pull_digest_end(pull_digest *d, char out[65])
{
    unsigned char raw[32];
    gnutls_hash_deinit(d->hash, raw);
    for (int i = 0; i < (d->sha256 ? 32 : 20); i++) snprintf(out + 2 * i, 3, "%02x", raw[i]);
    free(d);
}

/* Are the bytes of the file those that the hub has? */
static bool same_bytes(const char *path, const pull_file *f)
{
    char hex[65] = "";
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return false;
    char *chunk = malloc(CHUNK);
    pull_digest *d = pull_digest_new(f);
    ssize_t n = -1;
    if (chunk && d && fstat(fd, &st) == 0 && st.st_size == f->size)
        while ((n = read(fd, chunk, CHUNK)) > 0) pull_digest_add(d, chunk, (size_t)n);
    if (d) pull_digest_end(d, hex);
    free(chunk);
    close(fd);
    return n == 0 && strcmp(hex, f->hash) == 0;
}

/* ---------------------------------------------------------------- folders */

/* Every folder above the path's last part. */
static an_status make_folders(const char *path, an_error *err)
{
    char part[4096];
    const size_t len = strlen(path);
    if (len >= sizeof part) return an_fail(err, AN_INVALID, "%.200s...: too long a path", path);
    for (size_t i = 1; i < len; i++) {
        if (path[i] != '/') continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return an_fail(err, AN_IO, "%s cannot be made: %s", part, strerror(errno));
    }
    return AN_OK;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void sync_path(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

static void tree_path(const pull_store *s, const char *target, char *buf, size_t size)
{
    snprintf(buf, size, "%s/tree/%s", s->staging, target);
}

/* Where the file is when it is published. */
static void final_path(const pull_store *s, const char *target, char *buf, size_t size)
{
    if (s->folder)
        snprintf(buf, size, "%s/%s/%s", s->dir, s->name, target);
    else
        snprintf(buf, size, "%s/%s", s->dir, target);
}

static void record_path(const pull_store *s, char *buf, size_t size)
{
    if (s->folder)
        snprintf(buf, size, "%s/%s/" RECORD, s->dir, s->name);
    else
        snprintf(buf, size, "%s/.%s.anneal-pull.json", s->dir, s->name);
}

void pull_store_part(const pull_store *s, const pull_file *f, char *buf, size_t size)
{
    snprintf(buf, size, "%s/parts/%s", s->staging, f->hash);
}

void pull_store_path(const pull_store *s, const pull_repo *r, char *buf, size_t size)
{
    const char *first = NULL;
    for (int i = 0; i < r->n; i++)
        if (r->file[i].take && (!first || strcmp(r->file[i].target, first) < 0))
            first = r->file[i].target;
    if (s->folder || !first)
        snprintf(buf, size, "%s/%s", s->dir, s->name);
    else
        final_path(s, first, buf, size);
}

/* ---------------------------------------------------------------- opening */

static json_t *record_entry(const pull_store *s, const char *target)
{
    json_t *files = json_object_get(s->record, "files"), *v;
    size_t i;
    json_array_foreach(files, i, v)
    {
        const char *t = json_string_value(json_object_get(v, "path"));
        if (t && strcmp(t, target) == 0) return v;
    }
    return NULL;
}

/* A file of the user's lies where one of the repository's is to be; only equal bytes may. */
static an_status check_users_file(const char *path, const pull_file *f, an_error *err)
{
    if (same_bytes(path, f)) return AN_OK;
    return an_fail(err, AN_INVALID,
                   "%s was not pulled, and the revision brings a file of this name: move it away, "
                   "or --exclude '%.300s'",
                   path, f->path);
}

/* What lies under the names already must have come from the same repository, and be no file that
 * the user laid beside it. */
static an_status check_taken(const pull_store *s, const pull_ref *ref, const pull_repo *r,
                             an_error *err)
{
    char path[4096], repo[2 * PULL_NAME + 4];
    struct stat st;
    snprintf(repo, sizeof repo, "%s/%s", ref->owner, ref->name);
    const char *was = json_string_value(json_object_get(s->record, "repo"));
    for (int i = 0; i < r->n; i++) {
        if (!r->file[i].take) continue;
        final_path(s, r->file[i].target, path, sizeof path);
        if (s->folder && was && strcmp(was, repo) == 0) {
            if (lstat(path, &st) != 0 || S_ISDIR(st.st_mode) || record_entry(s, r->file[i].target))
                continue;
            an_status bad = check_users_file(path, &r->file[i], err);
            if (bad) return bad;
            continue;
        }
        if (s->folder) snprintf(path, sizeof path, "%s/%s", s->dir, s->name);
        if (lstat(path, &st) != 0) continue;
        if (was && strcmp(was, repo) == 0) continue;
        return an_fail(err, AN_INVALID,
                       "%s exists and %s%s: --name gives the new model another name", path,
                       was ? "came from hf:" : "was not pulled from anywhere", was ? was : "");
    }
    return AN_OK;
}

/* A pull that ended between the two steps of a swap left the model in `old`. */
static void restore_old(const pull_store *s)
{
    char old[4096], target[4096];
    struct stat st;
    snprintf(old, sizeof old, "%s/old", s->staging);
    snprintf(target, sizeof target, "%s/%s", s->dir, s->name);
    if (s->folder && lstat(target, &st) != 0 && errno == ENOENT) rename(old, target);
}

an_status pull_store_open(pull_store *s, const char *dir, const char *name, bool folder,
                          const pull_ref *ref, const pull_repo *r, an_error *err)
{
    char path[4096];
    *s = (pull_store){.folder = folder, .lock = -1};
    if (strlen(dir) >= sizeof s->dir)
        return an_fail(err, AN_INVALID, "--models: too long a path: %.200s...", dir);
    snprintf(s->dir, sizeof s->dir, "%s", dir);
    snprintf(s->name, sizeof s->name, "%s", name);
    snprintf(s->staging, sizeof s->staging, "%s/.pull-%s", dir, name);
    snprintf(path, sizeof path, "%s/parts/", s->staging);
    an_status st = make_folders(path, err);
    if (st) return st;
    snprintf(path, sizeof path, "%s/lock", s->staging);
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (s->lock < 0) return an_fail(err, AN_IO, "%s: %s", path, strerror(errno));
    if (flock(s->lock, LOCK_EX | LOCK_NB) != 0)
        return an_fail(err, AN_BUSY, "another `anneal pull` of %s into %s is running", name, dir);
    restore_old(s);
    record_path(s, path, sizeof path);
    if (an_is_file(path)) an_json_read_file(path, MAX_RECORD, &s->record, NULL);
    return check_taken(s, ref, r, err);
}

void pull_store_close(pull_store *s)
{
    char parts[4096];
    json_decref(s->record);
    s->record = NULL;
    if (s->lock < 0) return;
    /* what is kept is kept for a reason: empty folders are not */
    snprintf(parts, sizeof parts, "%s/parts", s->staging);
    if (rmdir(parts) == 0) {
        snprintf(parts, sizeof parts, "%s/lock", s->staging);
        unlink(parts);
        rmdir(s->staging);
    }
    close(s->lock);
    s->lock = -1;
}

bool pull_store_current(const pull_store *s, const pull_repo *r)
{
    char path[4096];
    struct stat st;
    for (int i = 0; i < r->n; i++) {
        const pull_file *f = &r->file[i];
        if (!f->take) continue;
        const json_t *was = record_entry(s, f->target);
        const char *hash = json_string_value(json_object_get(was, "hash"));
        final_path(s, f->target, path, sizeof path);
        if (!hash || strcmp(hash, f->hash) != 0 || stat(path, &st) != 0 || st.st_size != f->size)
            return false;
    }
    return true;
}

/* ---------------------------------------------------------------- what is there */

/* A file of another revision that has the same bytes joins the parts, as a second name of them. */
static void reuse(const pull_store *s, const pull_file *f, const char *part)
{
    char path[4096];
    struct stat st;
    const json_t *was = record_entry(s, f->target);
    const char *hash = json_string_value(json_object_get(was, "hash"));
    final_path(s, f->target, path, sizeof path);
    /* shorter ones are none: a part grows, and with it the model that is served meanwhile */
    if (hash && strcmp(hash, f->hash) == 0 && lstat(path, &st) == 0 && S_ISREG(st.st_mode) &&
        st.st_size == f->size && link(path, part) != 0)
        return;
}

an_status pull_store_resume(pull_store *s, pull_repo *r, an_error *err)
{
    char part[4096], tree[4096];
    struct stat st;
    for (int i = 0; i < r->n; i++) {
        pull_file *f = &r->file[i];
        if (!f->take) continue;
        for (int j = 0; j < i && !f->same_as_other; j++)
            f->same_as_other = r->file[j].take && strcmp(r->file[j].hash, f->hash) == 0;
        if (f->same_as_other) continue;
        pull_store_part(s, f, part, sizeof part);
        tree_path(s, f->target, tree, sizeof tree);
        /* a pull that was killed while it published had moved this one */
        if (lstat(part, &st) != 0 && same_bytes(tree, f) && rename(tree, part) != 0)
            return an_fail(err, AN_IO, "%s: %s", tree, strerror(errno));
        if (lstat(part, &st) != 0) reuse(s, f, part);
        if (lstat(part, &st) == 0 && st.st_size > f->size) unlink(part);
        f->have = lstat(part, &st) == 0 ? st.st_size : 0;
    }
    snprintf(tree, sizeof tree, "%s/tree", s->staging); /* what else is there is of no use */
    remove_tree(tree);
    return AN_OK;
}

an_status pull_store_space(const pull_store *s, const pull_repo *r, an_error *err)
{
    struct statvfs v;
    int64_t need = 0;
    for (int i = 0; i < r->n; i++)
        if (r->file[i].take) need += r->file[i].size - r->file[i].have;
    if (statvfs(s->staging, &v) != 0) return AN_OK; /* nobody knows: the disk will tell */
    const double there = (double)v.f_bavail * (double)v.f_frsize;
    if ((double)need + (double)SPARE <= there || need == 0) return AN_OK;
    return an_fail(err, AN_IO,
                   "%s: %.1f MB are to come and %.1f MB are free: --models names a "
                   "folder on another disk",
                   s->dir, (double)need / 1e6, there / 1e6);
}

/* ---------------------------------------------------------------- publishing */

static an_status copy_file(const char *from, const char *to, an_error *err)
{
    const int in = open(from, O_RDONLY | O_CLOEXEC);
    const int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    char *chunk = malloc(CHUNK);
    ssize_t n = -1;
    bool ok = in >= 0 && out >= 0 && chunk;
    while (ok && (n = read(in, chunk, CHUNK)) > 0) ok = write(out, chunk, (size_t)n) == n;
    const int why = errno;
    free(chunk);
    if (in >= 0) close(in);
    if (out >= 0 && close(out) != 0) ok = false;
    return ok && n == 0 ? AN_OK : an_fail(err, AN_IO, "%s: %s", to, strerror(why));
}

/* Is a later file of the same bytes still to come? Then this one is copied, not moved. */
static bool needed_later(const pull_repo *r, int i)
{
    for (int j = i + 1; j < r->n; j++)
        if (r->file[j].take && strcmp(r->file[j].hash, r->file[i].hash) == 0) return true;
    return false;
}

static an_status build_tree(const pull_store *s, const pull_repo *r, an_error *err)
{
    char part[4096], tree[4096];
    for (int i = 0; i < r->n; i++) {
        const pull_file *f = &r->file[i];
        if (!f->take) continue;
        pull_store_part(s, f, part, sizeof part);
        tree_path(s, f->target, tree, sizeof tree);
        an_status st = make_folders(tree, err);
        if (!st && needed_later(r, i))
            st = copy_file(part, tree, err);
        else if (!st && rename(part, tree) != 0)
            st = an_fail(err, AN_IO, "%s: %s", tree, strerror(errno));
        if (st) return st;
        sync_path(tree);
    }
    return AN_OK;
}

/* Whose the name is, and, when they are there, which files. */
static an_status write_record(const pull_ref *ref, const pull_repo *r, const char *path, bool done,
                              an_error *err)
{
    json_t *files = json_array();
    for (int i = 0; i < r->n && done; i++)
        if (r->file[i].take)
            json_array_append_new(files,
                                  json_pack("{s:s, s:I, s:s}", "path", r->file[i].target, "size",
                                            (json_int_t)r->file[i].size, "hash", r->file[i].hash));
    json_t *v = json_pack("{s:s+++, s:s, s:s, s:o}", "repo", ref->owner, "/", ref->name, "",
                          "revision", ref->revision, "commit", r->commit, "files", files);
    const int failed = v ? json_dump_file(v, path, JSON_INDENT(1)) : -1;
    json_decref(v);
    if (failed) return an_fail(err, AN_IO, "%s could not be written", path);
    sync_path(path);
    return AN_OK;
}

/* One file of the user's gets a second name in the tree: a kill before the swap loses neither. */
static an_status keep_file(const pull_store *s, const pull_repo *r, const char *from,
                           const char *name, bool regular, an_error *err)
{
    char to[4096];
    for (int i = 0; i < r->n; i++)
        if (r->file[i].take && strcmp(r->file[i].target, name) == 0)
            return check_users_file(from, &r->file[i], err);
    tree_path(s, name, to, sizeof to);
    an_status st = make_folders(to, err);
    if (st || link(from, to) == 0) return st;
    const int why = errno;
    /* a disk without second names, or another one */
    if (regular && (why == EPERM || why == EOPNOTSUPP || why == EMLINK || why == EXDEV))
        return copy_file(from, to, err);
    return an_fail(err, AN_IO,
                   "%s was not pulled and cannot be kept beside the new files (%s): move it away",
                   from, strerror(why));
}

/* What the user laid into the model's folder (an anneal.json, a LoRA, weights of his own) is in no
 * record: it comes along. */
static an_status keep_users_files(const pull_store *s, const pull_repo *r, an_error *err)
{
    char target[4096];
    snprintf(target, sizeof target, "%s/%s", s->dir, s->name);
    struct stat there;
    if (lstat(target, &there) != 0 && errno == ENOENT) return AN_OK;
    char *roots[] = {target, NULL};
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, NULL);
    if (!walk) return an_fail(err, AN_IO, "%s: %s", target, strerror(errno));
    const size_t head = strlen(target) + 1;
    an_status st = AN_OK;
    errno = 0;
    for (const FTSENT *e; !st && (e = fts_read(walk)); errno = 0) {
        if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR || e->fts_info == FTS_NS)
            st = an_fail(err, AN_IO, "%s: %s", e->fts_path, strerror(e->fts_errno));
        if (st || e->fts_level == 0 || e->fts_info == FTS_D || e->fts_info == FTS_DP) continue;
        const char *name = e->fts_path + head;
        if (strcmp(name, RECORD) == 0 || record_entry(s, name)) continue;
        st = keep_file(s, r, e->fts_path, name, e->fts_info == FTS_F, err);
    }
    if (!st && errno) st = an_fail(err, AN_IO, "%s: %s", target, strerror(errno));
    fts_close(walk);
    return st;
}

/* The tree takes the name's place in one step; what was there goes. */
static an_status swap_folder(const pull_store *s, an_error *err)
{
    char tree[4096], target[4096];
    snprintf(tree, sizeof tree, "%s/tree", s->staging);
    snprintf(target, sizeof target, "%s/%s", s->dir, s->name);
    if (renameat2(AT_FDCWD, tree, AT_FDCWD, target, RENAME_NOREPLACE) == 0) return AN_OK;
    if (errno == EEXIST && renameat2(AT_FDCWD, tree, AT_FDCWD, target, RENAME_EXCHANGE) == 0) {
        remove_tree(tree);
        return AN_OK;
    }
    if (errno == EINVAL ||
        errno == ENOSYS) { /* file systems that cannot: one step after the other */
        char old[4096];
        snprintf(old, sizeof old, "%s/old", s->staging);
        remove_tree(old);
        if (rename(target, old) != 0 && errno != ENOENT)
            return an_fail(err, AN_IO, "%s: %s", target, strerror(errno));
        if (rename(tree, target) == 0) {
            remove_tree(old);
            return AN_OK;
        }
        const int why = errno;
        rename(old, target);
        errno = why;
    }
    return an_fail(err, AN_IO, "%s: %s", target, strerror(errno));
}

/* Files that are models: a set of several is seen when its first part comes, which is the last. */
static an_status move_files(const pull_store *s, const pull_repo *r, an_error *err)
{
    char tree[4096], target[4096], first[4096];
    pull_store_path(s, r, first, sizeof first);
    for (int last = 0; last < 2; last++) {
        for (int i = 0; i < r->n; i++) {
            if (!r->file[i].take) continue;
            tree_path(s, r->file[i].target, tree, sizeof tree);
            final_path(s, r->file[i].target, target, sizeof target);
            if ((strcmp(target, first) == 0) != (last == 1)) continue;
            if (rename(tree, target) != 0)
                return an_fail(err, AN_IO, "%s: %s", target, strerror(errno));
        }
    }
    return AN_OK;
}

an_status pull_store_publish(pull_store *s, const pull_ref *ref, pull_repo *r, an_error *err)
{
    char path[4096];
    an_status st = build_tree(s, r, err);
    if (st) return st;
    if (s->folder) {
        snprintf(path, sizeof path, "%s/tree/" RECORD, s->staging);
        st = keep_users_files(s, r, err);
        if (!st) st = write_record(ref, r, path, true, err);
        if (!st) st = swap_folder(s, err);
    } else { /* the name is ours before the first file moves, the files are when all have */
        record_path(s, path, sizeof path);
        st = write_record(ref, r, path, false, err);
        if (!st) st = move_files(s, r, err);
        if (!st) st = write_record(ref, r, path, true, err);
    }
    if (st) return st;
    sync_path(s->dir);
    remove_tree(s->staging);
    close(s->lock);
    s->lock = -1;
    return AN_OK;
}
