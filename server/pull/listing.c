/* listing.c: see pull.h. The hub's answer to GET /api/models/OWNER/NAME/revision/REV?blobs=true:
 * the commit, and of every file the name, the size, and a hash: git's of small files, SHA-256 of
 * those in LFS. */
#include "pull.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

void pull_repo_free(pull_repo *r)
{
    for (int i = 0; i < r->n; i++) {
        free(r->file[i].path);
        free(r->file[i].target);
    }
    free(r->file);
    *r = (pull_repo){0};
}

static bool is_hex(const char *s, size_t digits)
{
    if (!s || strlen(s) != digits) return false;
    for (; *s; s++)
        if (!isdigit((unsigned char)*s) && !(*s >= 'a' && *s <= 'f')) return false;
    return true;
}

static an_status read_file(const json_t *v, pull_file *out, an_error *err)
{
    const char *path = json_string_value(json_object_get(v, "rfilename"));
    const json_t *lfs = json_object_get(v, "lfs");
    const json_t *size = json_object_get(json_is_object(lfs) ? lfs : v, "size");
    const char *sha256 = json_string_value(json_object_get(lfs, "sha256"));
    const char *blob = json_string_value(json_object_get(v, "blobId"));
    if (!path || !pull_path_safe(path))
        return an_fail(err, AN_INVALID,
                       "the hub lists a file named '%.200s': names that lead out of the folder or "
                       "hold control characters are refused",
                       path ? path : "(not a text)");
    if (!json_is_integer(size) || json_integer_value(size) < 0)
        return an_fail(err, AN_INVALID, "the hub does not say how large %.200s is", path);
    out->sha256 = json_is_object(lfs);
    const char *hash = out->sha256 ? sha256 : blob;
    if (!is_hex(hash, out->sha256 ? 64 : 40))
        return an_fail(err, AN_INVALID, "the hub gives no checksum for %.200s", path);
    snprintf(out->hash, sizeof out->hash, "%s", hash);
    out->size = json_integer_value(size);
    out->path = an_strdup(path);
    return out->path ? AN_OK : an_fail(err, AN_NO_MEMORY, "no memory for a list of files");
}

static an_status read_listing(const json_t *root, const pull_limits *l, pull_repo *out,
                              an_error *err)
{
    const json_t *files = json_object_get(root, "siblings");
    const char *commit = json_string_value(json_object_get(root, "sha"));
    if (!json_is_array(files) || !is_hex(commit, 40))
        return an_fail(err, AN_INVALID, "the hub's answer has no list of files, or no commit");
    const size_t n = json_array_size(files);
    if (n > (size_t)l->max_files)
        return an_fail(err, AN_TOO_LARGE, "it holds %zu files, more than %d (--max-files)", n,
                       l->max_files);
    snprintf(out->commit, sizeof out->commit, "%s", commit);
    out->file = calloc(n + 1, sizeof *out->file);
    if (!out->file) return an_fail(err, AN_NO_MEMORY, "no memory for a list of files");
    for (size_t i = 0; i < n; i++) {
        an_status s = read_file(json_array_get(files, i), &out->file[out->n], err);
        if (s) return s;
        out->n++;
    }
    return AN_OK;
}

an_status pull_list(const pull_web *w, const pull_ref *ref, const pull_limits *l, pull_repo *out,
                    an_error *err)
{
    char url[PULL_URL], rev[3 * PULL_REV], what[PULL_NAME * 2 + PULL_REV + 16];
    an_buf b;
    json_t *root = NULL;
    *out = (pull_repo){0};
    snprintf(what, sizeof what, "hf:%s/%s@%s", ref->owner, ref->name, ref->revision);
    if (!pull_escape(ref->revision, true, rev, sizeof rev))
        return an_fail(err, AN_INVALID, "%s: the revision is too long", what);
    snprintf(url, sizeof url, "%s/api/models/%s/%s/revision/%s?blobs=true", w->endpoint, ref->owner,
             ref->name, rev);
    an_status s = pull_get(w, ref, url, l->max_listing, what, &b, err);
    if (s) return s;
    s = an_json_parse(b.data ? b.data : "", b.len, &root, err);
    if (!s) s = read_listing(root, l, out, err);
    if (s) {
        an_fail_prefix(err, s, "%s", what);
        pull_repo_free(out);
    }
    json_decref(root);
    an_buf_free(&b);
    return s;
}
