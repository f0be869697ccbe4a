/* vocab_folder.c: the vocabulary of a Hugging Face folder: tokenizer.json, or vocab.json with
 * merges.txt (GPT-2's layout). tokenizer_config.json and special_tokens_map.json say which tokens
 * are BOS, EOS and so on. */
#include "optional_json.h"
#include "vocab_open.h"

#include <jansson.h>
#include <stdlib.h>

#define MAX_CONFIG ((size_t)16 << 20)

static bool flag(const json_t *j, const char *key)
{
    return json_is_true(json_object_get(j, key));
}

/* ---------------------------------------------------------------- a folder */

static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};

typedef struct folder {
    const char *dir;
    json_t *config, *special_map, *added;
} folder;

/* "eos_token" and its like: tokenizer_config.json, else special_tokens_map.json, else a name. */
static int32_t named_token(const an_vocab *v, const folder *f, const char *key,
                           const char *const *names)
{
    const json_t *said = json_object_get(f->config, key);
    if (!said || json_is_null(said)) said = json_object_get(f->special_map, key);
    const json_t *text = an_lm_content(said);
    if (json_is_string(text))
        return an_lm_find(v, json_string_value(text), json_string_length(text));
    if (f->config && json_object_get(f->config, key)) return -1; /* null: there is none */
    for (; *names; names++) {
        int32_t id = an_lm_find(v, *names, strlen(*names));
        if (id >= 0 && (v->tokens[id].flags & LM_SPECIAL)) return id;
    }
    return -1;
}

/* What the configs name is special, whether or not tokenizer.json says so. */
static an_status make_special(an_vocab *v, const folder *f, const char *key, an_error *err)
{
    const json_t *said = json_object_get(f->config, key);
    if (!said || json_is_null(said)) said = json_object_get(f->special_map, key);
    const json_t *text = an_lm_content(said);
    if (!json_is_string(text)) return AN_OK;
    int32_t id = an_lm_find(v, json_string_value(text), json_string_length(text));
    if (id < 0 || (v->tokens[id].flags & LM_SPECIAL)) return AN_OK;
    lm_matcher m;
    an_status s = an_lm_matcher_open(&m, LM_MAX_ADDED_BYTES, err);
    if (s != AN_OK) return s;
    s = an_lm_add_token(v, text, id, true, &m, err);
    an_lm_matcher_close(&m);
    return s;
}

static void read_named_tokens(an_vocab *v, const folder *f)
{
    static const char *const bos[] = {"<s>", "<bos>", "<|begin_of_text|>", "[CLS]", NULL};
    static const char *const eos[] = {"</s>",  "<eos>",         "<|end_of_text|>",
                                      "[SEP]", "<|endoftext|>", NULL};
    static const char *const pad[] = {"<pad>", "[PAD]", NULL};
    static const char *const unk[] = {"<unk>", "[UNK]", NULL};
    v->bos = named_token(v, f, "bos_token", bos);
    v->eos = named_token(v, f, "eos_token", eos);
    v->pad = named_token(v, f, "pad_token", pad);
    if (v->unk < 0) v->unk = named_token(v, f, "unk_token", unk);
}

/* add_bos_token and add_eos_token in the config, where one is said, override the template: files of
 * DeepSeek and others have a template that adds nothing, and rely on it. */
static an_status apply_config(an_vocab *v, const folder *f, an_error *err)
{
    const json_t *bos = json_object_get(f->config, "add_bos_token");
    const json_t *eos = json_object_get(f->config, "add_eos_token");
    if (!json_is_boolean(bos) && !json_is_boolean(eos)) return AN_OK;
    int32_t *ids = malloc(sizeof *ids), *last = malloc(sizeof *last);
    if (!ids || !last) {
        free(ids);
        free(last);
        return an_fail(err, AN_NO_MEMORY, "out of memory for a vocabulary");
    }
    free(v->before);
    free(v->after);
    v->before = ids;
    v->after = last;
    ids[0] = v->bos;
    last[0] = v->eos;
    v->n_before = json_is_true(bos) && v->bos >= 0;
    v->n_after = json_is_true(eos) && v->eos >= 0;
    return AN_OK;
}

/* ---------------------------------------------------------------- vocab.json and merges.txt */

static an_status read_merge_lines(an_vocab *v, const char *path, an_error *err)
{
    char *text;
    size_t size;
    int32_t rank = 0;
    an_status s = an_read_file(path, LM_MAX_FILE, &text, &size, err);
    if (s != AN_OK) return s;
    if (!an_utf8_valid(text, size) || strlen(text) != size)
        s = an_fail(err, AN_INVALID, "not UTF-8 text");
    for (const char *p = text; s == AN_OK && *p;) {
        const char *end = strchr(p, '\n');
        size_t len = end ? (size_t)(end - p) : strlen(p), n = len;
        if (n > 0 && p[n - 1] == '\r') n--;
        bool version = n >= 8 && memcmp(p, "#version", 8) == 0;
        if (n > 0 && !version) s = an_lm_read_merge(v, p, n, rank++, err);
        p += len + (end != NULL);
    }
    free(text);
    return s == AN_OK ? s : an_fail_prefix(err, s, "%s", path);
}

/* GPT-2's tokenizer, which these two files come from; its specials are named in the configs. */
static an_status read_gpt2_files(an_vocab *v, const folder *f, const char *vocab_path,
                                 const char *merges_path, an_error *err)
{
    json_t *vocab, *parts = NULL;
    lm_step *step = NULL;
    const json_t *decoder = json_object_get(f->config, "added_tokens_decoder");
    an_status s = an_json_read_file(vocab_path, LM_MAX_FILE, &vocab, err);
    if (s != AN_OK) return s;
    v->kind = LM_BPE;
    size_t more = 16 + json_object_size(decoder) + json_object_size(f->added);
    s = more > LM_MAX_ADDED ? an_fail(err, AN_INVALID, "%zu added tokens", more) : AN_OK;
    if (s == AN_OK) s = an_lm_read_vocab(v, vocab, more, err);
    if (s != AN_OK) an_fail_prefix(err, s, "%s", vocab_path);
    json_decref(vocab);
    if (s == AN_OK) s = read_merge_lines(v, merges_path, err);
    bool prefix = flag(f->config, "add_prefix_space");
    parts = json_pack("{s:s,s:b}", "type", "ByteLevel", "add_prefix_space", prefix);
    if (s == AN_OK) s = an_lm_read_splitter(v, parts, 0, err);
    if (s == AN_OK) s = an_lm_step_new(&v->decoders, LM_BYTE_LEVEL, &step, err);
    json_decref(parts);
    return s;
}

static an_status add_config_tokens(an_vocab *v, const folder *f, an_error *err)
{
    const json_t *decoder = json_object_get(f->config, "added_tokens_decoder");
    const char *key;
    json_t *value;
    lm_matcher m;
    an_status s = an_lm_matcher_open(&m, LM_MAX_ADDED_BYTES, err);
    if (s != AN_OK) return s;
    json_object_foreach((json_t *)(uintptr_t)decoder, key, value)
    {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (s == AN_OK && (end == key || *end || id < 0))
            s = an_fail(err, AN_INVALID, "added_tokens_decoder: '%.60s' is not an id", key);
        if (s == AN_OK) s = an_lm_add_token(v, value, id, false, &m, err);
    }
    json_object_foreach(f->added, key, value)
    {
        json_t *text = json_string(key);
        if (s == AN_OK && !json_is_integer(value))
            s = an_fail(err, AN_INVALID, "added_tokens.json: '%.60s' has no id", key);
        if (s == AN_OK && !decoder)
            s = an_lm_add_token(v, text, json_integer_value(value), false, &m, err);
        json_decref(text);
    }
    for (int i = 0; i < 4 && s == AN_OK; i++) {
        const json_t *said = json_object_get(f->config, keys[i]);
        if (!said || json_is_null(said)) said = json_object_get(f->special_map, keys[i]);
        if (said && !json_is_null(said) && !decoder)
            s = an_lm_add_token(v, said, -1, true, &m, err);
    }
    an_lm_matcher_close(&m);
    return s;
}

/* ---------------------------------------------------------------- opening */

static an_status read_files(an_vocab *v, const folder *f, an_error *err)
{
    char *whole = an_asprintf("%s/tokenizer.json", f->dir);
    char *vocab = an_asprintf("%s/vocab.json", f->dir);
    char *merges = an_asprintf("%s/merges.txt", f->dir);
    an_status s;
    if (!whole || !vocab || !merges) {
        s = an_fail(err, AN_NO_MEMORY, "out of memory for a path");
    } else if (an_is_file(whole)) {
        s = an_lm_read_json(v, whole, err);
    } else if (an_is_file(vocab) && an_is_file(merges)) {
        s = read_gpt2_files(v, f, vocab, merges, err);
        if (s == AN_OK) s = add_config_tokens(v, f, err);
    } else {
        s = an_fail(err, AN_NOT_FOUND,
                    "%s: neither tokenizer.json nor vocab.json with merges.txt (a tokenizer.model "
                    "alone is not read: save the tokenizer as tokenizer.json)",
                    f->dir);
    }
    free(whole);
    free(vocab);
    free(merges);
    return s;
}

an_status an_vocab_open_dir(const char *dir, an_vocab **out, an_error *err)
{
    *out = NULL;
    folder f = {.dir = dir};
    an_vocab *v = an_lm_new(err);
    if (!v) return AN_NO_MEMORY;
    an_status s = an_read_optional_json(dir, "tokenizer_config.json", MAX_CONFIG, &f.config, err);
    if (s == AN_OK)
        s = an_read_optional_json(dir, "special_tokens_map.json", MAX_CONFIG, &f.special_map, err);
    if (s == AN_OK) s = an_read_optional_json(dir, "added_tokens.json", MAX_CONFIG, &f.added, err);
    if (s == AN_OK) s = read_files(v, &f, err);
    for (int i = 0; i < 4 && s == AN_OK; i++) s = make_special(v, &f, keys[i], err);
    if (s == AN_OK) {
        read_named_tokens(v, &f);
        an_lm_know_tokens(v);
        s = apply_config(v, &f, err);
    }
    if (s == AN_OK) s = an_lm_finish(v, err);
    json_decref(f.config);
    json_decref(f.special_map);
    json_decref(f.added);
    if (s != AN_OK) {
        an_vocab_free(v);
        return s;
    }
    *out = v;
    return AN_OK;
}
