/* lm_info.c: what is said of a language model beside its weights: its end tokens, what it is best
 * sampled with, its tokenizer and its chat template. */
#include "lm.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *an_lm_type(const an_checkpoint *c)
{
    return json_string_value(json_object_get(an_checkpoint_config(c, "model"), "model_type"));
}

int64_t an_lm_config_need(an_config *c, const char *key, int64_t min, int64_t max)
{
    if (!an_config_has(c, key))
        an_config_refuse(c, key, "expected an integer from %lld to %lld", (long long)min,
                         (long long)max);
    return an_config_int(c, key, min, min, max);
}

static bool is_gguf(const an_checkpoint *c)
{
    return an_checkpoint_layout(c) == AN_LAYOUT_GGUF;
}

/* ---------------------------------------------------------------- special tokens */

/* Appends what `key` says, an id or a list of ids, to the model's ends. */
static void read_ends(an_config *c, const char *key, an_model_info *info)
{
    const json_t *v = json_object_get(c->json, key);
    size_t n = json_is_array(v) ? json_array_size(v) : v && !json_is_null(v);
    for (size_t i = 0; i < n && !c->status; i++) {
        const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
        json_int_t id = json_integer_value(e);
        bool known = false;
        if (!json_is_integer(e) || id < -1 || id >= info->vocab) {
            an_config_refuse(c, key, "expected ids below vocab_size, %d", info->vocab);
            return;
        }
        for (int k = 0; k < info->n_eos; k++) known |= info->eos[k] == id;
        if (known || id < 0) continue;
        if (info->n_eos == (int)(sizeof info->eos / sizeof *info->eos)) {
            an_config_refuse(c, key, "at most %d end tokens are supported", info->n_eos);
            return;
        }
        info->eos[info->n_eos++] = id;
    }
}

/* Whether the tokenizer begins a text with its bos, as far as its files say: the key, or what
 * Llama's and Gemma's slow tokenizers do when it is missing. */
static bool adds_bos(const an_checkpoint *c)
{
    if (is_gguf(c)) {
        const json_t *g = an_checkpoint_config(c, "gguf");
        const json_t *add = json_object_get(g, "tokenizer.ggml.add_bos_token");
        const char *model = json_string_value(json_object_get(g, "tokenizer.ggml.model"));
        return add ? json_is_true(add) : model && strcmp(model, "llama") == 0;
    }
    const json_t *t = an_checkpoint_config(c, "tokenizer");
    const json_t *add = json_object_get(t, "add_bos_token");
    const char *cls = json_string_value(json_object_get(t, "tokenizer_class"));
    if (json_is_boolean(add)) return json_is_true(add);
    return cls &&
           (strncmp(cls, "LlamaTokenizer", 14) == 0 || strncmp(cls, "GemmaTokenizer", 14) == 0);
}

/* A file of the model's folder. */
static bool file_of(const an_checkpoint *c, const char *name, char *path, size_t size)
{
    char dir[4096];
    if (!an_checkpoint_dir(c, "tokenizer", dir, sizeof dir)) return false;
    int n = snprintf(path, size, "%s/%s", dir, name);
    return n >= 0 && (size_t)n < size && an_is_file(path);
}

bool an_lm_has_tokenizer(const an_checkpoint *c)
{
    char path[4200];
    if (is_gguf(c))
        return json_array_size(
                   json_object_get(an_checkpoint_config(c, "gguf"), "tokenizer.ggml.tokens")) > 0;
    return file_of(c, "tokenizer.json", path, sizeof path) ||
           (file_of(c, "vocab.json", path, sizeof path) &&
            file_of(c, "merges.txt", path, sizeof path));
}

/* ---------------------------------------------------------------- chat template */

/* A template as tokenizer_config.json has it: one string, or a list of named ones. */
static const char *template_in(const json_t *v)
{
    if (json_is_string(v)) return json_string_value(v);
    const char *only = NULL;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *e = json_array_get(v, i);
        const char *name = json_string_value(json_object_get(e, "name"));
        const char *text = json_string_value(json_object_get(e, "template"));
        if (name && text && strcmp(name, "default") == 0) return text;
        if (json_array_size(v) == 1) only = text;
    }
    return only;
}

static const char *template_of(const an_checkpoint *c)
{
    if (is_gguf(c))
        return json_string_value(
            json_object_get(an_checkpoint_config(c, "gguf"), "tokenizer.chat_template"));
    return template_in(json_object_get(an_checkpoint_config(c, "tokenizer"), "chat_template"));
}

/* A special token as text: "</s>", or {"content": "</s>", ...}. */
static const char *token_text(const json_t *v)
{
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

/* The text of GGUF's token `key`. */
static const char *gguf_token(const an_checkpoint *c, const char *key)
{
    const json_t *g = an_checkpoint_config(c, "gguf"), *id = json_object_get(g, key);
    if (!json_is_integer(id) || json_integer_value(id) < 0) return NULL;
    return json_string_value(json_array_get(json_object_get(g, "tokenizer.ggml.tokens"),
                                            (size_t)json_integer_value(id)));
}

/* bos_token or eos_token of a folder, or NULL; *map: special_tokens_map.json, read when needed. */
static const char *folder_token(const an_checkpoint *c, const char *key, json_t **map)
{
    char path[4200];
    const char *text = token_text(json_object_get(an_checkpoint_config(c, "tokenizer"), key));
    if (text) return text;
    if (!*map && file_of(c, "special_tokens_map.json", path, sizeof path))
        (void)an_json_read_file(path, 1 << 20, map, NULL);
    return token_text(json_object_get(*map, key));
}

an_status an_model_chat_template(an_checkpoint *c, char **source, char **bos, char **eos,
                                 an_error *err)
{
    enum { MAX_TEMPLATE = 1 << 20 };
    char path[4200];
    json_t *map = NULL;
    *source = *bos = *eos = NULL;
    const char *text = template_of(c), *b, *e;
    if (!is_gguf(c) && file_of(c, "chat_template.jinja", path, sizeof path)) { /* the newer place */
        an_status s = an_read_file(path, MAX_TEMPLATE, source, NULL, err);
        if (s) return s;
    } else if (text) {
        *source = an_strdup(text);
    } else {
        return an_fail(err, AN_NOT_FOUND, "%s: the model has no chat template",
                       an_checkpoint_path(c));
    }
    b = is_gguf(c) ? gguf_token(c, "tokenizer.ggml.bos_token_id")
                   : folder_token(c, "bos_token", &map);
    e = is_gguf(c) ? gguf_token(c, "tokenizer.ggml.eos_token_id")
                   : folder_token(c, "eos_token", &map);
    *bos = an_strdup(b ? b : "");
    *eos = an_strdup(e ? e : "");
    json_decref(map);
    if (*source && *bos && *eos) return AN_OK;
    free(*source);
    free(*bos);
    free(*eos);
    *source = *bos = *eos = NULL;
    return an_fail(err, AN_NO_MEMORY, "no memory for a chat template");
}

/* ---------------------------------------------------------------- info */

/* generation_config.json: what the model's makers sample it with. */
static an_status read_generation(const json_t *json, an_model_info *info, an_error *err)
{
    if (!json) return AN_OK;
    an_config g = an_config_open(json, "generation_config.json", err);
    read_ends(&g, "eos_token_id", info);
    info->temperature = (float)an_config_num(&g, "temperature", (double)NAN, 0, 1e6);
    info->top_p = (float)an_config_num(&g, "top_p", (double)NAN, 0, 1);
    info->top_k = (int)an_config_int(&g, "top_k", -1, -1, INT32_MAX);
    return g.status;
}

an_status an_lm_info(an_checkpoint *c, an_model_info *info, an_error *err)
{
    char path[4200];
    an_weights *w;
    const char *type = an_lm_type(c), *cls = an_checkpoint_class(c);
    an_config m = an_config_open(an_checkpoint_config(c, "model"), "config.json", err);
    info->kind = AN_KIND_TEXT;
    snprintf(info->family, sizeof info->family, "%.31s", type ? type : "");
    snprintf(info->class_name, sizeof info->class_name, "%.63s", cls);
    info->bos = an_config_int(&m, "bos_token_id", -1, -1, info->vocab - 1);
    info->temperature = info->top_p = NAN;
    info->top_k = -1;
    read_ends(&m, "eos_token_id", info);
    an_status s = m.status;
    if (!s) s = read_generation(an_checkpoint_config(c, "generation"), info, err);
    for (int i = info->n_eos; i < (int)(sizeof info->eos / sizeof *info->eos); i++)
        info->eos[i] = -1;
    info->add_bos = info->bos >= 0 && adds_bos(c);
    info->has_tokenizer = an_lm_has_tokenizer(c);
    info->has_chat_template =
        template_of(c) || (!is_gguf(c) && file_of(c, "chat_template.jinja", path, sizeof path));
    if (!s) s = an_checkpoint_weights(c, "model", &w, err);
    if (!s) info->weight_bytes_file = an_weights_bytes(w);
    return s;
}
