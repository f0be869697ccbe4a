/* gguf_open.c: a GGUF file as a checkpoint: the files of a split set joined, configs made, tensors
 * under the names that models ask for. */
#include "gguf.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- split sets */

/* NAME-00001-of-00003.gguf: where the part behind NAME begins; 0 if the path has another form. */
static size_t split_stem(const char *path, int *no, int *of)
{
    static const char form[] = "-00001-of-00003.gguf";
    size_t len = strlen(path), tail = sizeof form - 1;
    int used = 0;
    if (len <= tail) return 0;
    const char *p = path + len - tail;
    if (sscanf(p, "-%5d-of-%5d.gguf%n", no, of, &used) != 2 || used != (int)tail) return 0;
    return len - tail;
}

static int64_t meta_int(const json_t *meta, const char *key)
{
    return json_integer_value(json_object_get(meta, key));
}

/* The tensors of one more file of the set join w. */
static an_status add_shard(an_weights *w, const char *path, int no, an_error *err)
{
    an_weights *shard;
    json_t *meta;
    an_status s = an_gguf_read(path, &shard, &meta, err);
    if (s == AN_NOT_FOUND)
        return an_fail(err, AN_INVALID, "%s: this part of a split model is missing", path);
    if (s != AN_OK) return s;
    if (meta_int(meta, "split.no") != no)
        s = an_fail(err, AN_INVALID, "%s: split.no is %lld, expected %d", path,
                    (long long)meta_int(meta, "split.no"), no);
    for (int i = 0; i < shard->maps && s == AN_OK; i++) s = an_set_share(w, shard->map[i], err);
    for (int i = 0; i < shard->count && s == AN_OK; i++)
        s = an_set_add(w, shard->entry[i].name, &shard->entry[i], err);
    an_weights_close(shard);
    json_decref(meta);
    return s;
}

/* The other files of the set whose first is c->file. */
static an_status join(an_checkpoint *c, const json_t *meta, an_error *err)
{
    int no = 0, of = 0;
    int64_t count = meta_int(meta, "split.count");
    if (count <= 1) return AN_OK;
    size_t stem = split_stem(c->path, &no, &of);
    if (!stem || of != count || count > AN_GGUF_MAX_SHARDS)
        return an_fail(err, AN_INVALID,
                       "%s: one of %lld files (at most %d are read), which must be called "
                       "NAME-00001-of-%05lld.gguf and so on",
                       c->path, (long long)count, AN_GGUF_MAX_SHARDS, (long long)count);
    if (no != 1 || meta_int(meta, "split.no") != 0)
        return an_fail(err, AN_INVALID, "%s: part %d of %d; please name the first", c->path, no,
                       of);
    an_weights *w;
    an_status s = an_set_new(c->path, c->file->label, &w, err);
    if (s != AN_OK) return s;
    s = add_shard(w, c->path, 0, err);
    for (int i = 1; i < of && s == AN_OK; i++) {
        char *path = an_asprintf("%.*s-%05d-of-%05d.gguf", (int)stem, c->path, i + 1, of);
        s = path ? add_shard(w, path, i, err)
                 : an_fail(err, AN_NO_MEMORY, "%s: out of memory", c->path);
        free(path);
    }
    if (s == AN_OK) s = an_set_seal(w, err);
    int64_t want = meta_int(meta, "split.tensors.count");
    if (s == AN_OK && want && want != w->count)
        s = an_fail(err, AN_INVALID, "%s: the set has %d tensors, split.tensors.count says %lld",
                    c->path, w->count, (long long)want);
    if (s != AN_OK) {
        an_weights_close(w);
        return s;
    }
    an_weights_close(c->file);
    c->file = w;
    return AN_OK;
}

/* ---------------------------------------------------------------- opening */

static an_status set_config(an_checkpoint *c, const char *name, json_t *v, an_error *err)
{
    if (v && json_object_set_new(c->configs, name, v) == 0) return AN_OK;
    return an_fail(err, AN_NO_MEMORY, "%s: out of memory", c->path);
}

an_status an_gguf_open_raw(an_checkpoint *c, an_error *err)
{
    json_t *meta;
    c->layout = AN_LAYOUT_GGUF;
    an_status s = an_gguf_read(c->path, &c->file, &meta, err);
    if (s != AN_OK) return s;
    const char *arch = json_string_value(json_object_get(meta, "general.architecture"));
    snprintf(c->cls, sizeof c->cls, "%s", arch ? arch : "");
    return set_config(c, "gguf", meta, err);
}

an_status an_gguf_open(an_checkpoint *c, an_error *err)
{
    json_t *config = NULL, *generation = NULL;
    an_status s = an_gguf_open_raw(c, err);
    const json_t *meta = json_object_get(c->configs, "gguf");
    if (s == AN_OK) s = join(c, meta, err);
    if (s == AN_OK) s = an_gguf_config(c->path, meta, c->file, &config, &generation, err);
    if (s != AN_OK) return s;
    const char *cls =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    snprintf(c->cls, sizeof c->cls, "%s", cls ? cls : "");
    s = set_config(c, "model", config, err);
    if (s == AN_OK)
        s = set_config(c, "generation", generation, err);
    else
        json_decref(generation);
    return s;
}

an_status an_gguf_weights(const an_checkpoint *c, const char *component, an_weights **out,
                          an_error *err)
{
    if (strcmp(component, "model") != 0)
        return an_fail(err, AN_NOT_FOUND, "%s: no component %s in this file", c->path, component);
    const an_gguf_arch *arch = an_gguf_arch_of(json_object_get(c->configs, "gguf"));
    return an_set_derive(c->file, component, an_gguf_names, arch, out, err);
}
