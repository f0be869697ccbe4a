/* checkpoint.c: a model on disk. Finds out the layout, reads the configs, and opens the weights of
 * a component when a model asks for them. */
#include "checkpoint.h"
#include "folder.h"
#include "gguf.h"
#include "names.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- configs */

/* Reads dir/file into configs[component] if the file is there. A missing file is no error: the
 * model that needs it says so; a broken one is. */
static an_status read_config(an_checkpoint *c, const char *component, const char *dir,
                             const char *file, an_error *err)
{
    char *path = an_asprintf("%s/%s", dir, file);
    if (!path) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", c->path);
    json_t *doc = NULL;
    an_status s = AN_OK;
    if (an_is_file(path)) s = an_json_read_file(path, AN_MAX_CONFIG_BYTES, &doc, err);
    if (s == AN_OK && doc && !json_is_object(doc))
        s = an_fail(err, AN_INVALID, "%s: not a JSON object", path);
    if (s == AN_OK && doc && json_object_set(c->configs, component, doc) != 0)
        s = an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    json_decref(doc);
    free(path);
    return s;
}

static const char *config_file_of(const char *component)
{
    if (strcmp(component, "scheduler") == 0) return "scheduler_config.json";
    if (strncmp(component, "tokenizer", 9) == 0) return "tokenizer_config.json";
    return "config.json";
}

static bool is_component(const char *name, const json_t *v)
{
    /* ["diffusers", "UNet2DConditionModel"]; [null, null] is a component left out on purpose */
    return json_is_array(v) && json_array_size(v) == 2 && json_is_string(json_array_get(v, 1)) &&
           an_plain_name(name) && strlen(name) < 64;
}

static an_status open_diffusers(an_checkpoint *c, an_error *err)
{
    json_t *index = json_object_get(c->configs, "model_index"), *v;
    const char *name;
    c->layout = AN_LAYOUT_DIFFUSERS;
    const char *cls = json_string_value(json_object_get(index, "_class_name"));
    snprintf(c->cls, sizeof c->cls, "%s", cls ? cls : "");
    int parts = 0;
    json_object_foreach(index, name, v)
    {
        if (!is_component(name, v)) continue;
        if (++parts > AN_MAX_PARTS)
            return an_fail(err, AN_INVALID, "%s: model_index.json has over %d components", c->path,
                           AN_MAX_PARTS);
        char *dir = an_asprintf("%s/%s", c->path, name);
        if (!dir) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", c->path);
        an_status s = read_config(c, name, dir, config_file_of(name), err);
        free(dir);
        if (s != AN_OK) return s;
    }
    return AN_OK;
}

/* A folder of transformers, or one component of a diffusers model by itself. */
static an_status open_hf(an_checkpoint *c, an_error *err)
{
    const json_t *config = json_object_get(c->configs, "model");
    c->layout = AN_LAYOUT_HF;
    const char *cls = json_string_value(json_object_get(config, "_class_name"));
    if (!cls) cls = json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    snprintf(c->cls, sizeof c->cls, "%s", cls ? cls : "");
    an_status s = read_config(c, "generation", c->path, "generation_config.json", err);
    return s == AN_OK ? read_config(c, "tokenizer", c->path, "tokenizer_config.json", err) : s;
}

static an_status open_folder(an_checkpoint *c, an_error *err)
{
    an_status s = read_config(c, "anneal", c->path, "anneal.json", err);
    if (s == AN_OK) s = read_config(c, "model_index", c->path, "model_index.json", err);
    if (s != AN_OK) return s;
    if (json_object_get(c->configs, "model_index")) return open_diffusers(c, err);
    s = read_config(c, "model", c->path, "config.json", err);
    if (s != AN_OK) return s;
    if (json_object_get(c->configs, "model")) return open_hf(c, err);
    return an_fail(err, AN_INVALID,
                   "%s: not a model: neither model_index.json (diffusers) nor config.json (Hugging "
                   "Face) is in the folder",
                   c->path);
}

static an_status open_file(an_checkpoint *c, an_error *err)
{
    if (an_gguf_is(c->path)) return an_gguf_open(c, err);
    c->layout = AN_LAYOUT_TENSORS;
    an_status s = an_weights_open(c->path, &c->file, err);
    return s == AN_OK ? an_single_file_open(c, err) : s;
}

an_status an_checkpoint_open(const char *path, an_checkpoint **out, an_error *err)
{
    *out = NULL;
    an_checkpoint *c = calloc(1, sizeof *c);
    if (!c || !(c->path = an_strdup(path)) || !(c->configs = json_object())) {
        an_checkpoint_close(c);
        return an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    }
    /* "models/sd1/" is named as "models/sd1" */
    for (size_t n = strlen(c->path); n > 1 && c->path[n - 1] == '/'; n--) c->path[n - 1] = '\0';
    an_status s = an_is_dir(c->path) ? open_folder(c, err) : open_file(c, err);
    if (s != AN_OK) {
        an_checkpoint_close(c);
        return s;
    }
    *out = c;
    return AN_OK;
}

void an_checkpoint_close(an_checkpoint *c)
{
    if (!c) return;
    for (int i = 0; i < c->parts; i++) an_weights_close(c->part[i].set);
    an_weights_close(c->file);
    json_decref(c->configs);
    free(c->path);
    free(c);
}

an_status an_checkpoint_check(const an_checkpoint *c, an_error *err)
{
    an_status s = c->file ? an_weights_check(c->file, err) : AN_OK;
    for (int i = 0; i < c->parts && s == AN_OK; i++) s = an_weights_check(c->part[i].set, err);
    return s;
}

/* ---------------------------------------------------------------- asking */

an_layout an_checkpoint_layout(const an_checkpoint *c)
{
    return c->layout;
}

const char *an_checkpoint_path(const an_checkpoint *c)
{
    return c->path;
}

const char *an_checkpoint_class(const an_checkpoint *c)
{
    return c->cls;
}

const json_t *an_checkpoint_config(const an_checkpoint *c, const char *component)
{
    return json_object_get(c->configs, component);
}

bool an_checkpoint_dir(const an_checkpoint *c, const char *component, char *buf, size_t size)
{
    if (c->layout != AN_LAYOUT_DIFFUSERS && c->layout != AN_LAYOUT_HF) return false;
    if (!an_plain_name(component)) return false;
    bool root = c->layout == AN_LAYOUT_HF; /* everything lies in one folder */
    int n = root ? snprintf(buf, size, "%s", c->path)
                 : snprintf(buf, size, "%s/%s", c->path, component);
    return n >= 0 && (size_t)n < size && an_is_dir(buf);
}

static an_status open_part(const an_checkpoint *c, const char *component, an_weights **out,
                           an_error *err)
{
    char dir[4096];
    if (c->made_up) return an_set_make_up(c->path, component, out, err);
    if (c->layout == AN_LAYOUT_GGUF) return an_gguf_weights(c, component, out, err);
    if (c->file) return an_single_file_weights(c, component, out, err);
    if (!an_checkpoint_dir(c, component, dir, sizeof dir))
        return an_fail(err, AN_NOT_FOUND, "%s: no folder %s in this model", c->path, component);
    /* transformers and diffusers name their files differently */
    bool text = strncmp(component, "text_encoder", 12) == 0;
    const char *stem = text ? "model" : "diffusion_pytorch_model";
    an_weights *raw;
    an_error e;
    an_status s = an_weights_open_dir(dir, stem, &raw, err);
    if (s == AN_NOT_FOUND) {
        an_status again =
            an_weights_open_dir(dir, text ? "diffusion_pytorch_model" : "model", &raw, &e);
        if (again == AN_OK)
            s = AN_OK;
        else if (again != AN_NOT_FOUND)
            s = an_fail(err, again, "%s", e.message);
    }
    if (s != AN_OK) return s;
    const char *type =
        json_string_value(json_object_get(an_checkpoint_config(c, "model"), "model_type"));
    an_set_map_fn *fn = text                                ? an_names_text
                        : strncmp(component, "vae", 3) == 0 ? an_names_vae
                        : c->layout == AN_LAYOUT_HF && type ? an_names_language
                                                            : an_names_same;
    s = an_set_derive(raw, component, fn, type, out, err);
    an_weights_close(raw);
    return s;
}

an_status an_checkpoint_weights(an_checkpoint *c, const char *component, an_weights **out,
                                an_error *err)
{
    *out = NULL;
    for (int i = 0; i < c->parts; i++) {
        if (strcmp(c->part[i].name, component) != 0) continue;
        *out = c->part[i].set;
        return AN_OK;
    }
    if (c->parts == AN_MAX_PARTS || strlen(component) >= sizeof c->part[0].name)
        return an_fail(err, AN_INVALID, "%s: no component %.64s", c->path, component);
    an_weights *w = NULL;
    an_status s = open_part(c, component, &w, err);
    if (s != AN_OK) return s;
    snprintf(c->part[c->parts].name, sizeof c->part[0].name, "%s", component);
    c->part[c->parts++].set = w;
    *out = w;
    return AN_OK;
}
