/* describe.c: what `anneal info` prints. One JSON document is built; the human text is drawn from
 * it, so that both say the same. */
#include "checkpoint.h"
#include "gguf.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const layout_name[] = {
    [AN_LAYOUT_DIFFUSERS] = "diffusers folder",
    [AN_LAYOUT_HF] = "Hugging Face folder",
    [AN_LAYOUT_GGUF] = "GGUF file",
    [AN_LAYOUT_SINGLE_FILE] = "single-file Stable Diffusion checkpoint",
    [AN_LAYOUT_TENSORS] = "tensors",
};

/* ---------------------------------------------------------------- the document */

/* {"tensors": [...], "parameters", "bytes", "dtypes": {"F16": bytes}} joins part. */
static void add_tensors(json_t *part, const an_weights *w)
{
    json_t *list = json_array(), *dtypes = json_object();
    json_int_t parameters = 0, bytes = 0;
    for (int i = 0; i < w->count; i++) {
        const an_entry *e = &w->entry[i];
        an_tensor t = {NULL, e->dtype, e->ndim, {1, 1, 1, 1, 1}};
        memcpy(t.dim, e->dim, (size_t)e->ndim * sizeof t.dim[0]);
        json_t *shape = json_array();
        for (int d = 0; d < e->ndim; d++) json_array_append_new(shape, json_integer(e->dim[d]));
        const char *dtype = an_dtype_name(e->dtype);
        json_int_t size = (json_int_t)an_tensor_bytes(&t);
        json_int_t sum = json_integer_value(json_object_get(dtypes, dtype)) + size;
        json_object_set_new(dtypes, dtype, json_integer(sum));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", e->name, "dtype",
                                              dtype, "shape", shape, "bytes", size));
        parameters += an_tensor_count(&t);
        bytes += size;
    }
    json_object_set_new(part, "parameters", json_integer(parameters));
    json_object_set_new(part, "bytes", json_integer(bytes));
    json_object_set_new(part, "dtypes", dtypes);
    json_object_set_new(part, "tensors", list);
    if (w->metadata && json_object_size(w->metadata))
        json_object_set(part, "metadata", w->metadata);
}

/* The metadata with its lists as their lengths (a vocabulary has 100,000 tokens), and what people
 * ask for first. */
static void add_gguf(json_t *doc, const json_t *meta)
{
    json_t *all = json_object(), *v;
    const char *key;
    json_object_foreach((json_t *)(uintptr_t)meta, key, v)
    {
        if (json_is_array(v))
            json_object_set_new(all, key,
                                json_pack("{s:I}", "values", (json_int_t)json_array_size(v)));
        else
            json_object_set(all, key, v);
    }
    const json_t *arch = json_object_get(meta, "general.architecture");
    char context[200];
    snprintf(context, sizeof context, "%s.context_length",
             json_is_string(arch) ? json_string_value(arch) : "");
    size_t tokens = json_array_size(json_object_get(meta, "tokenizer.ggml.tokens"));
    bool chat = json_is_string(json_object_get(meta, "tokenizer.chat_template"));
    json_object_set_new(doc, "gguf",
                        json_pack("{s:O?, s:O?, s:O?, s:I, s:b}", "architecture", arch, "name",
                                  json_object_get(meta, "general.name"), "context_length",
                                  json_object_get(meta, context), "vocabulary", (json_int_t)tokens,
                                  "chat_template", chat));
    json_object_set_new(doc, "metadata", all);
}

/* A component that cannot be read is part of the answer, not its end. */
static void add_component(json_t *parts, an_checkpoint *c, const char *name, const char *cls)
{
    json_t *part = json_object();
    an_error err = {0};
    an_weights *w;
    char dir[4096];
    json_object_set_new(part, "class", json_string(cls));
    const json_t *config = an_checkpoint_config(c, name);
    if (config) json_object_set(part, "config", (json_t *)(uintptr_t)config);
    bool weightless = strncmp(name, "tokenizer", 9) == 0 || strcmp(name, "scheduler") == 0 ||
                      strcmp(name, "feature_extractor") == 0;
    if (!weightless && (c->file || an_checkpoint_dir(c, name, dir, sizeof dir))) {
        if (an_checkpoint_weights(c, name, &w, &err) == AN_OK)
            add_tensors(part, w);
        else
            json_object_set_new(part, "error", json_string(err.message));
    }
    json_object_set_new(parts, name, part);
}

static json_t *document(an_checkpoint *c)
{
    json_t *parts = json_object(), *v;
    json_t *doc = json_pack("{s:s, s:s, s:s, s:o}", "path", c->path, "layout",
                            layout_name[c->layout], "class", c->cls, "components", parts);
    const char *name;
    if (!doc) return NULL;
    if (json_object_get(c->configs, "anneal"))
        json_object_set(doc, "anneal", json_object_get(c->configs, "anneal"));
    if (c->layout == AN_LAYOUT_TENSORS) {
        add_tensors(doc, c->file);
    } else if (c->layout == AN_LAYOUT_HF || c->layout == AN_LAYOUT_GGUF) {
        add_component(parts, c, "model", c->cls);
        if (c->layout == AN_LAYOUT_GGUF) add_gguf(doc, json_object_get(c->configs, "gguf"));
    } else {
        json_object_foreach(json_object_get(c->configs, "model_index"), name, v)
        {
            const char *cls = json_string_value(json_array_get(v, 1));
            if (cls) add_component(parts, c, name, cls);
        }
    }
    return doc;
}

/* ---------------------------------------------------------------- the text */

/* Names come from files: control characters must not reach a terminal. */
static void put(an_buf *out, const char *s)
{
    for (const char *p = s ? s : ""; *p; p++) {
        bool bad = (unsigned char)*p < 0x20 || *p == 0x7f;
        an_buf_add(out, bad ? "?" : p, 1);
    }
}

static void put_amount(an_buf *out, json_int_t n, const char *unit)
{
    static const char *const prefix[] = {"", "k", "M", "G", "T"};
    double x = (double)n;
    int i = 0;
    for (; x >= 1000 && i < 4; i++) x /= 1000;
    an_buf_printf(out, "%.*f %s%s", i ? 2 : 0, x, prefix[i], unit);
}

/* " Q4_1 75.7 MB, F32 140 kB": the mix of a file, by bytes. */
static void put_dtypes(an_buf *out, json_t *dtypes)
{
    const char *dtype;
    json_t *v;
    const bool one = json_object_size(dtypes) == 1;
    json_object_foreach(dtypes, dtype, v)
    {
        an_buf_printf(out, " %s", dtype);
        if (one) continue;
        an_buf_str(out, " (");
        put_amount(out, json_integer_value(v), "B)");
    }
}

static void put_summary(an_buf *out, const json_t *part)
{
    const json_t *list = json_object_get(part, "tensors");
    if (!list) return;
    an_buf_printf(out, "  %zu tensors, ", json_array_size(list));
    put_amount(out, json_integer_value(json_object_get(part, "parameters")), "");
    an_buf_str(out, " parameters, ");
    put_amount(out, json_integer_value(json_object_get(part, "bytes")), "B");
    put_dtypes(out, json_object_get(part, "dtypes"));
    an_buf_str(out, "\n");
}

static void put_config(an_buf *out, const json_t *config)
{
    static const char *const keys[] = {"in_channels",
                                       "sample_size",
                                       "block_out_channels",
                                       "layers_per_block",
                                       "transformer_layers_per_block",
                                       "attention_head_dim",
                                       "num_attention_heads",
                                       "cross_attention_dim",
                                       "use_linear_projection",
                                       "addition_embed_type",
                                       "time_cond_proj_dim",
                                       "latent_channels",
                                       "scaling_factor",
                                       "hidden_size",
                                       "num_hidden_layers",
                                       "intermediate_size",
                                       "num_key_value_heads",
                                       "head_dim",
                                       "rope_theta",
                                       "sliding_window",
                                       "num_local_experts",
                                       "num_experts",
                                       "num_experts_per_tok",
                                       "tie_word_embeddings",
                                       "hidden_act",
                                       "max_position_embeddings",
                                       "vocab_size",
                                       "projection_dim",
                                       "prediction_type",
                                       "beta_schedule",
                                       "beta_start",
                                       "beta_end",
                                       "timestep_spacing",
                                       "model_max_length",
                                       "pad_token"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const json_t *v = json_object_get(config, keys[i]);
        char *text = v && !json_is_null(v)
                         ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(7))
                         : NULL;
        if (!text) continue;
        an_buf_printf(out, "    %-30s ", keys[i]);
        put(out, strlen(text) > 200 ? "..." : text);
        an_buf_str(out, "\n");
        free(text);
    }
}

static void put_tensors(an_buf *out, const char *label, const json_t *list)
{
    size_t i;
    json_t *t;
    json_array_foreach(list, i, t)
    {
        const json_t *shape = json_object_get(t, "shape");
        int64_t dim[AN_MAX_DIMS];
        char text[160];
        int n = (int)json_array_size(shape);
        for (int d = 0; d < n; d++) dim[d] = json_integer_value(json_array_get(shape, (size_t)d));
        an_buf_printf(out, "%s%s", label, *label ? "/" : "");
        put(out, json_string_value(json_object_get(t, "name")));
        an_buf_printf(out, "  %s %s\n", json_string_value(json_object_get(t, "dtype")),
                      an_shape_str(n, dim, text, sizeof text));
    }
}

/* Text values are shown, and of other kinds those that have one short line. */
static void put_metadata(an_buf *out, json_t *metadata)
{
    const char *key;
    json_t *v;
    json_object_foreach(metadata, key, v)
    {
        char *text = json_is_string(v)
                         ? an_strdup(json_string_value(v))
                         : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(7));
        /* training tools store whole reports */
        if (text && strlen(text) <= 200) {
            an_buf_str(out, "    ");
            put(out, key);
            an_buf_str(out, ": ");
            put(out, text);
            an_buf_str(out, "\n");
        }
        free(text);
    }
}

static void put_gguf(an_buf *out, const json_t *gguf)
{
    if (!gguf) return;
    const json_t *name = json_object_get(gguf, "name");
    an_buf_str(out, "  ");
    put(out, json_string_value(json_object_get(gguf, "architecture")));
    if (json_is_string(name)) {
        an_buf_str(out, ": ");
        put(out, json_string_value(name));
    }
    an_buf_printf(out, "\n  context %lld, vocabulary %lld, %s chat template\n",
                  (long long)json_integer_value(json_object_get(gguf, "context_length")),
                  (long long)json_integer_value(json_object_get(gguf, "vocabulary")),
                  json_is_true(json_object_get(gguf, "chat_template")) ? "with a" : "no");
}

static void put_text(an_buf *out, const json_t *doc)
{
    const char *name;
    json_t *part, *parts = json_object_get(doc, "components");
    put(out, json_string_value(json_object_get(doc, "path")));
    an_buf_printf(out, "\n  %s ", json_string_value(json_object_get(doc, "layout")));
    put(out, json_string_value(json_object_get(doc, "class")));
    an_buf_str(out, "\n");
    if (json_object_get(doc, "note")) {
        an_buf_str(out, "  ");
        put(out, json_string_value(json_object_get(doc, "note")));
        an_buf_str(out, "\n");
    }
    put_gguf(out, json_object_get(doc, "gguf"));
    put_summary(out, doc);
    put_metadata(out, json_object_get(doc, "metadata"));
    json_object_foreach(parts, name, part)
    {
        an_buf_printf(out, "\n%s  ", name);
        put(out, json_string_value(json_object_get(part, "class")));
        an_buf_str(out, "\n");
        if (json_object_get(part, "error")) {
            an_buf_str(out, "  cannot be read: ");
            put(out, json_string_value(json_object_get(part, "error")));
            an_buf_str(out, "\n");
        }
        put_summary(out, part);
        put_config(out, json_object_get(part, "config"));
    }
    an_buf_str(out, "\n");
    put_tensors(out, "", json_object_get(doc, "tensors"));
    json_object_foreach(parts, name, part) put_tensors(out, name, json_object_get(part, "tensors"));
}

/* ---------------------------------------------------------------- both */

static int to_buf(const char *data, size_t size, void *out)
{
    return an_buf_add(out, data, size) ? 0 : -1;
}

/* A file that is valid by itself but no model that can be served is shown as what it is. */
static an_status open_anything(const char *path, an_checkpoint **c, an_error *why, an_error *err)
{
    an_status s = an_checkpoint_open(path, c, why);
    if (s == AN_OK || !an_is_file(path)) {
        if (s != AN_OK) an_fail(err, s, "%s", why->message);
        return s;
    }
    an_checkpoint *raw = calloc(1, sizeof *raw);
    if (!raw) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    raw->layout = AN_LAYOUT_TENSORS;
    raw->path = an_strdup(path);
    raw->configs = json_object();
    if (!raw->path || !raw->configs)
        s = an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    else
        s = an_gguf_is(path) ? an_gguf_open_raw(raw, err) : an_weights_open(path, &raw->file, err);
    if (s == AN_OK)
        *c = raw;
    else
        an_checkpoint_close(raw);
    return s;
}

an_status an_checkpoint_describe(const char *path, bool json, an_buf *out, an_error *err)
{
    an_checkpoint *c = NULL;
    an_error why = {0};
    an_status s = open_anything(path, &c, &why, err);
    if (s != AN_OK) return s;
    json_t *doc = document(c);
    if (doc && why.status != AN_OK) json_object_set_new(doc, "note", json_string(why.message));
    if (doc && json) {
        json_dump_callback(doc, to_buf, out, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        an_buf_str(out, "\n");
    } else if (doc) {
        put_text(out, doc);
    }
    if (!doc)
        s = an_fail(err, AN_NO_MEMORY, "%s: cannot be described (path not UTF-8?)", path);
    else if (out->failed)
        s = an_fail(err, AN_TOO_LARGE, "%s: the description is over %zu bytes", path, out->max);
    json_decref(doc);
    an_checkpoint_close(c);
    return s;
}
