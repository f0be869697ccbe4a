/* folder.c: the weights of one component folder, in the layouts that Hugging Face tools write: one
 * file, a half-precision variant of it, or shards with or without an index. */
#include "set.h"
#include "folder.h"

#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_SHARDS      1000
#define MAX_INDEX_BYTES ((size_t)64 << 20)

/* ---------------------------------------------------------------- names and files */

bool an_plain_name(const char *name)
{
    if (!*name || *name == '.' || strlen(name) > 255) return false;
    for (const char *p = name; *p; p++)
        if (*p == '/' || *p == '\\' || (unsigned char)*p < 0x20 || *p == 0x7f) return false;
    return true;
}

/* "dir/" followed by the formatted name; false if too long or no such file. */
AN_PRINTF(4, 5)
static bool file_in(const char *dir, char *buf, size_t size, const char *fmt, ...)
{
    int n = snprintf(buf, size, "%s/", dir);
    if (n < 0 || (size_t)n >= size) return false;
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(buf + n, size - (size_t)n, fmt, ap);
    va_end(ap);
    return m >= 0 && (size_t)m < size - (size_t)n && an_is_file(buf);
}

/* ---------------------------------------------------------------- shards */

/* The shard's tensors that `want` accepts (all if NULL) join w, which keeps the mapping alive. */
static an_status add_shard(an_weights *w, const char *dir, const char *file,
                           const json_t *weight_map, an_error *err)
{
    char *path = an_asprintf("%s/%s", dir, file);
    if (!path) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", dir);
    an_weights *shard = NULL;
    an_status s = an_weights_open(path, &shard, err);
    if (s == AN_NOT_FOUND) s = an_fail(err, AN_INVALID, "%s: this shard is missing", path);
    for (int i = 0; s == AN_OK && i < shard->maps; i++) s = an_set_share(w, shard->map[i], err);
    for (int i = 0; s == AN_OK && i < shard->count; i++) {
        const an_entry *e = &shard->entry[i];
        const char *home = json_string_value(json_object_get(weight_map, e->name));
        if (!weight_map || (home && strcmp(home, file) == 0)) s = an_set_add(w, e->name, e, err);
    }
    an_weights_close(shard);
    free(path);
    return s;
}

/* The distinct file names of the map, as the keys of *files; only plain names are files of ours. */
static an_status list_shards(const char *index, json_t *weight_map, json_t **files, an_error *err)
{
    const char *name;
    json_t *v;
    *files = NULL;
    if (!json_is_object(weight_map))
        return an_fail(err, AN_INVALID, "%s: has no weight_map object", index);
    json_t *set = json_object();
    if (!set) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", index);
    *files = set;
    json_object_foreach(weight_map, name, v)
    {
        const char *file = json_string_value(v);
        if (!file || !an_plain_name(file) || !an_ends_with(file, ".safetensors"))
            return an_fail(
                err, AN_INVALID,
                "%s: weight_map sends %.64s to '%.64s'; only names of .safetensors files "
                "in the same folder are read",
                index, name, file ? file : "(not a string)");
        if (json_object_set_new(set, file, json_true()) != 0)
            return an_fail(err, AN_NO_MEMORY, "%s: out of memory", index);
    }
    if (json_object_size(set) > MAX_SHARDS)
        return an_fail(err, AN_TOO_LARGE, "%s: %zu shards, at most %d are read", index,
                       json_object_size(set), MAX_SHARDS);
    return AN_OK;
}

static an_status open_index(const char *dir, const char *index, an_weights **out, an_error *err)
{
    json_t *doc = NULL, *files = NULL;
    an_weights *w = NULL;
    an_status s = an_json_read_file(index, MAX_INDEX_BYTES, &doc, err);
    if (s != AN_OK) return s;
    json_t *weight_map = json_object_get(doc, "weight_map"), *v;
    const char *name;
    s = list_shards(index, weight_map, &files, err);
    if (s == AN_OK) s = an_set_new(dir, an_base_name(dir), &w, err);
    if (s == AN_OK) {
        json_object_foreach(files, name, v)
        {
            if (s == AN_OK) s = add_shard(w, dir, name, weight_map, err);
        }
    }
    if (s == AN_OK) s = an_set_seal(w, err);
    if (s == AN_OK) {
        json_object_foreach(weight_map, name, v)
        {
            if (an_set_entry(w, name)) continue;
            s = an_fail(err, AN_INVALID, "%s: %.128s is not in %s as the index says", index, name,
                        json_string_value(v));
            break;
        }
    }
    json_decref(files);
    json_decref(doc);
    if (s == AN_OK)
        *out = w;
    else
        an_weights_close(w);
    return s;
}

/* Shards without an index: `stem`-00001-of-0000N.safetensors with `tail` before the ending. *count
 * is 0 if there is no first shard. */
static an_status open_loose_shards(const char *dir, const char *stem, const char *tail,
                                   an_weights **out, an_error *err)
{
    int total = 0;
    DIR *d = opendir(dir);
    if (!d) return AN_OK;
    size_t n = strlen(stem);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        int k = 0, of = 0, used = 0;
        if (strncmp(e->d_name, stem, n) != 0) continue;
        if (sscanf(e->d_name + n, "-%5d-of-%5d%n", &k, &of, &used) != 2 || used != 15) continue;
        if (k == 1 && of > total && strncmp(e->d_name + n + used, tail, strlen(tail)) == 0 &&
            strcmp(e->d_name + n + used + strlen(tail), ".safetensors") == 0)
            total = of;
    }
    closedir(d);
    if (total == 0) return AN_OK;
    if (total > MAX_SHARDS)
        return an_fail(err, AN_TOO_LARGE, "%s: %d shards, at most %d are read", dir, total,
                       MAX_SHARDS);
    an_weights *w;
    an_status s = an_set_new(dir, an_base_name(dir), &w, err);
    if (s != AN_OK) return s;
    for (int k = 1; k <= total && s == AN_OK; k++) {
        char file[512];
        snprintf(file, sizeof file, "%s-%05d-of-%05d%s.safetensors", stem, k, total, tail);
        s = add_shard(w, dir, file, NULL, err);
    }
    if (s == AN_OK) s = an_set_seal(w, err);
    if (s == AN_OK)
        *out = w;
    else
        an_weights_close(w);
    return s;
}

/* ---------------------------------------------------------------- the folder */

/* Tries the ways one precision of a component may be stored; *out stays NULL if there is none.
 * variant: "" or ".fp16". Hub files put it before or after the shard number and the ".index". */
static an_status try_variant(const char *dir, const char *stem, const char *variant,
                             an_weights **out, an_error *err)
{
    char path[4096], full[512];
    if (file_in(dir, path, sizeof path, "%s%s.safetensors", stem, variant)) {
        an_status s = an_weights_open(path, out, err);
        if (s != AN_OK) return s;
        char *label = an_strdup(an_base_name(dir));
        if (label) {
            free((*out)->label);
            (*out)->label = label;
        }
        return AN_OK;
    }
    if (file_in(dir, path, sizeof path, "%s%s.safetensors.index.json", stem, variant) ||
        file_in(dir, path, sizeof path, "%s.safetensors.index%s.json", stem, variant))
        return open_index(dir, path, out, err);
    an_status s = open_loose_shards(dir, stem, variant, out, err);
    if (s != AN_OK || *out || !*variant) return s;
    snprintf(full, sizeof full, "%s%s", stem, variant);
    return open_loose_shards(dir, full, "", out, err);
}

an_status an_weights_open_dir(const char *dir, const char *stem, an_weights **out, an_error *err)
{
    static const char *const variants[] = {"", ".fp16", ".bf16"};
    char path[4096];
    *out = NULL;
    if (!an_is_dir(dir)) return an_fail(err, AN_NOT_FOUND, "%s: no such folder", dir);
    for (int i = 0; i < 3; i++) {
        an_status s = try_variant(dir, stem, variants[i], out, err);
        if (s != AN_OK || *out) return s;
    }
    bool pickled = file_in(dir, path, sizeof path, "%s.bin", stem) ||
                   file_in(dir, path, sizeof path, "pytorch_model.bin");
    return an_fail(err, AN_NOT_FOUND,
                   "%s: no %s.safetensors, nor .fp16, .bf16 or sharded files of it%s", dir, stem,
                   pickled ? "; there is a .bin file, which must be converted to safetensors first"
                           : "");
}
