/* models.c: which models there are. Every entry of the folders is one; a broken one is listed with
 * its error and harms nobody. Loading is in load.c. */
#include "state.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define MAX_MODELS 1024

/* ---------------------------------------------------------------- looking at one entry */

/* The number of a file of a split set (NAME-00002-of-00003.gguf), 0 for any other name; *stem: the
 * bytes of NAME. */
static int split_part(const char *name, size_t *stem)
{
    static const char form[] = "-00001-of-00003.gguf";
    size_t len = strlen(name), tail = sizeof form - 1;
    int no = 0, of = 0, used = 0;
    if (len <= tail) return 0;
    *stem = len - tail;
    if (sscanf(name + *stem, "-%5d-of-%5d.gguf%n", &no, &of, &used) != 2) return 0;
    return used == (int)tail ? no : 0;
}

/* Only these endings are not part of the id. */
static void model_id(const char *name, char *out, size_t size)
{
    size_t stem;
    snprintf(out, size, "%s", name);
    static const char *const ending[] = {".safetensors", ".gguf"};
    if (split_part(name, &stem) && stem < size) {
        out[stem] = '\0';
        return;
    }
    for (int i = 0; i < 2; i++)
        if (strlen(out) > strlen(ending[i]) && an_ends_with(out, ending[i])) {
            out[strlen(out) - strlen(ending[i])] = '\0';
            return;
        }
}

/* One file that may be a model by itself; of a split set only the first. */
static bool model_file(const char *name)
{
    size_t stem;
    if (an_ends_with(name, ".gguf")) return split_part(name, &stem) <= 1;
    return an_ends_with(name, ".safetensors");
}

/* Readme files and folders of something else are no models, not broken ones. */
static bool looks_like_model(const char *path, const struct stat *st)
{
    char marker[1200];
    if (S_ISREG(st->st_mode)) return model_file(path);
    if (!S_ISDIR(st->st_mode)) return false;
    snprintf(marker, sizeof marker, "%s/model_index.json", path);
    if (an_is_file(marker)) return true;
    snprintf(marker, sizeof marker, "%s/config.json", path);
    return an_is_file(marker);
}

static void look(an_files *f)
{
    an_error err = {0};
    an_checkpoint *c = NULL;
    an_status st = an_checkpoint_open(f->entry.path, &c, &err);
    if (!st) st = an_model_probe(c, &f->entry.info, &err);
    if (!st) {
        const json_t *config = an_checkpoint_config(c, "scheduler");
        if (config) f->scheduler = json_deep_copy(config);
        f->entry.ok = true;
    } else {
        an_utf8_copy(f->entry.error, sizeof f->entry.error, err.message);
        an_log(AN_LOG_WARN, "model '%s' (%s) cannot be served: %s", f->entry.id, f->entry.path,
               err.message);
    }
    an_checkpoint_close(c);
}

static bool id_taken(const an_engine *e, const char *id)
{
    for (int i = 0; i < e->models; i++)
        if (strcmp(e->files[i].entry.id, id) == 0) return true;
    return false;
}

static void add(an_engine *e, const char *dir, const char *name)
{
    char path[sizeof e->files->entry.path];
    struct stat st = {0};
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path) {
        an_log(AN_LOG_WARN, "%s/%s: path too long, skipped", dir, name);
        return;
    }
    bool there = stat(path, &st) == 0; /* follows links; a dangling one is a broken model */
    if (there ? !looks_like_model(path, &st) : !model_file(name)) return;
    char id[sizeof e->files->entry.id];
    model_id(name, id, sizeof id);
    if (id_taken(e, id)) {
        an_log(AN_LOG_WARN, "%s: a model '%s' was found before, this one is skipped", path, id);
        return;
    }
    if (e->models == MAX_MODELS) {
        an_log(AN_LOG_WARN, "%s: more than %d models, skipped", path, MAX_MODELS);
        return;
    }
    an_files *p = realloc(e->files, (size_t)(e->models + 1) * sizeof *p);
    if (!p) return;
    e->files = p;
    an_files *f = &p[e->models++];
    *f = (an_files){.entry = {.created = (double)st.st_mtim.tv_sec}, .index = e->models - 1};
    memcpy(f->entry.id, id, sizeof id);
    memcpy(f->entry.path, path, sizeof path);
    look(f);
}

/* ---------------------------------------------------------------- the folders */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void scan(an_engine *e, const char *dir)
{
    DIR *d = opendir(dir);
    if (!d) {
        an_log(AN_LOG_WARN, "models folder %s: %s", dir, strerror(errno));
        return;
    }
    char **name = NULL;
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(d));) {
        if (entry->d_name[0] == '.') continue;
        char **p = realloc(name, (n + 1) * sizeof *p);
        if (!p) break;
        name = p;
        name[n] = an_strdup(entry->d_name);
        if (!name[n]) break;
        n++;
    }
    closedir(d);
    if (n) qsort(name, n, sizeof *name, by_name);
    for (size_t i = 0; i < n; i++) {
        add(e, dir, name[i]);
        free(name[i]);
    }
    free(name);
}

an_status an_slots_scan(an_engine *e, an_error *err)
{
    for (char **d = e->dirs; d && *d; d++) scan(e, *d);
    bool have[AN_KIND_COUNT] = {false};
    for (int i = 0; i < e->models; i++) {
        an_model_entry *m = &e->files[i].entry;
        if (!m->ok || have[m->info.kind]) continue;
        m->is_default = have[m->info.kind] = true;
    }
    for (int d = 0; d < e->units; d++) {
        an_unit *u = &e->unit[d];
        u->slot = calloc((size_t)e->models + 1, sizeof *u->slot);
        if (!u->slot) return an_fail(err, AN_NO_MEMORY, "no memory for %d models", e->models);
        for (int i = 0; i < e->models; i++) {
            u->slot[i].files = &e->files[i];
            u->slot[i].unit = u;
        }
    }
    return AN_OK;
}

void an_slots_free(an_engine *e)
{
    for (int i = 0; i < e->models; i++) {
        an_files *f = &e->files[i];
        for (int k = 0; k < 2; k++) an_tokenizer_free(f->tok[k]);
        json_decref(f->scheduler);
        an_tongue_free(&f->tongue);
    }
    free(e->files);
    e->files = NULL;
    e->models = 0;
}

/* ---------------------------------------------------------------- finding one */

static void list_models(const an_engine *e, an_kind kind, an_buf *b)
{
    for (int i = 0; i < e->models; i++) {
        const an_model_entry *m = &e->files[i].entry;
        if (!m->ok || m->info.kind != kind) continue;
        an_buf_printf(b, "%s%s", b->len ? ", " : "", m->id);
    }
}

an_files *an_files_find(const an_engine *e, const char *id, an_kind kind, an_error *err)
{
    bool any = !id || !*id;
    const an_model_entry *other = NULL; /* of another kind */
    for (int i = 0; i < e->models; i++) {
        const an_model_entry *m = &e->files[i].entry;
        if (any ? !m->is_default : strcmp(m->id, id) != 0) continue;
        /* of a broken one the kind is not known; it says itself what is wrong with it */
        if (m->info.kind == kind || (!any && !m->ok)) return &e->files[i];
        other = !any ? m : NULL;
    }
    an_buf names;
    an_buf_init(&names, 600);
    list_models(e, kind, &names);
    const char *there = names.data ? names.data : "none";
    if (any)
        an_fail_param(err, AN_NOT_FOUND, "model", "no %s model can be served", an_kind_name(kind));
    else if (other)
        an_fail_param(err, AN_NOT_FOUND, "model",
                      "model '%s' makes %ss, a model of kind %s is needed; there are: %s",
                      other->id, an_kind_name(other->info.kind), an_kind_name(kind), there);
    else
        an_fail_param(err, AN_NOT_FOUND, "model", "no model '%.80s'; there are: %s", id, there);
    an_buf_free(&names);
    return NULL;
}

an_status an_files_serve(const an_files *f, an_error *err)
{
    if (f->entry.ok) return AN_OK;
    return an_fail_param(err, AN_NOT_FOUND, "model", "model '%s' cannot be served: %s", f->entry.id,
                         f->entry.error);
}

int an_engine_model_count(const an_engine *e)
{
    return e->models;
}

bool an_engine_model_at(const an_engine *e, int i, an_model_entry *out)
{
    if (i < 0 || i >= e->models) return false;
    an_engine *w = (an_engine *)(uintptr_t)e;
    pthread_mutex_lock(&w->lock);
    *out = e->files[i].entry;
    pthread_mutex_unlock(&w->lock);
    return true;
}

an_status an_engine_model_find(const an_engine *e, const char *id, an_kind kind,
                               an_model_entry *out, an_error *err)
{
    an_engine *w = (an_engine *)(uintptr_t)e;
    pthread_mutex_lock(&w->lock);
    const an_files *f = an_files_find(e, id, kind, err);
    if (f) *out = f->entry;
    pthread_mutex_unlock(&w->lock);
    return f ? AN_OK : AN_NOT_FOUND;
}

/* ---------------------------------------------------------------- tokenizers */

an_status an_files_tokenizer(an_engine *e, an_files *f, int which, const an_tokenizer **out,
                             an_error *err)
{
    an_status st = AN_OK;
    pthread_mutex_lock(&e->tok_lock);
    if (!f->tok[which]) {
        an_checkpoint *c = NULL;
        st = an_checkpoint_open(f->entry.path, &c, err);
        if (!st) st = an_model_tokenizer(c, which, &f->tok[which], err);
        an_checkpoint_close(c);
    }
    *out = f->tok[which];
    pthread_mutex_unlock(&e->tok_lock);
    return st;
}
