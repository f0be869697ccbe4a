/* vocab_json.c: the vocabulary of a Hugging Face folder: tokenizer.json, or vocab.json with
 * merges.txt (GPT-2's layout). tokenizer_config.json and special_tokens_map.json say which tokens
 * are BOS, EOS and so on. */
#include "vocab_gguf.h"

#include <jansson.h>
#include <stdlib.h>

#define MAX_TOKENIZER ((size_t)128 << 20)
#define MAX_CONFIG    ((size_t)16 << 20)
#define MAX_ADDED_ALL (1 << 17)

an_vocab *an_lm_new(an_error *err)
{
    an_vocab *v = calloc(1, sizeof *v);
    if (v) {
        v->word_prefix = an_strdup("");
        v->subword_prefix = an_strdup("");
        v->word_suffix = an_strdup("");
        v->bos = v->eos = v->unk = v->pad = v->fim[0] = v->fim[1] = v->fim[2] = -1;
        v->max_word_chars = 100;
    }
    if (!v || !v->word_prefix || !v->subword_prefix || !v->word_suffix) {
        an_vocab_free(v);
        an_fail(err, AN_NO_MEMORY, "out of memory for a vocabulary");
        return NULL;
    }
    return v;
}

/* ---------------------------------------------------------------- the model */

static bool flag(const json_t *j, const char *key)
{
    return json_is_true(json_object_get(j, key));
}

static an_status add_indexed(an_vocab *v, const json_t *text, const char *key, int64_t id,
                             uint32_t flags, an_error *err)
{
    const char *p = text ? json_string_value(text) : key;
    size_t len = text ? json_string_length(text) : key ? strlen(key) : 0;
    int32_t other;
    an_status s = an_lm_token_add(v, p, len, id, flags, err);
    if (s == AN_OK) an_lm_token_index(v, (int32_t)id, &other);
    return s;
}

/* {"token": id} */
static an_status read_vocab_object(an_vocab *v, const json_t *vocab, size_t more, an_error *err)
{
    const char *key;
    json_t *id;
    if (!json_is_object(vocab))
        return an_fail(err, AN_INVALID, "the vocabulary is not an object of token: id");
    an_status s = an_lm_index_reserve(v, json_object_size(vocab) + more, err);
    json_object_foreach((json_t *)(uintptr_t)vocab, key, id)
    {
        if (s != AN_OK) break;
        if (!json_is_integer(id))
            return an_fail(err, AN_INVALID, "the id of token '%.60s' is not an integer", key);
        s = add_indexed(v, NULL, key, json_integer_value(id), LM_MODEL, err);
    }
    return s;
}

/* [["token", score], ..], the place is the id. Of equal texts the last is found. */
static an_status read_scored_list(an_vocab *v, const json_t *vocab, size_t more, an_error *err)
{
    size_t n = json_array_size(vocab);
    if (!json_is_array(vocab))
        return an_fail(err, AN_INVALID, "the vocabulary is not a list of [token, score]");
    if (n > MAX_TOKENS)
        return an_fail(err, AN_INVALID, "the vocabulary has %zu tokens, at most %d", n, MAX_TOKENS);
    double least = 0;
    an_status s = an_lm_index_reserve(v, n + more, err);
    for (size_t i = n; i-- > 0 && s == AN_OK;) {
        const json_t *item = json_array_get(vocab, i), *text = json_array_get(item, 0);
        const json_t *score = json_array_get(item, 1);
        if (!json_is_string(text) || !json_is_number(score))
            return an_fail(err, AN_INVALID, "entry %zu of the vocabulary is not [token, score]", i);
        s = add_indexed(v, text, NULL, (int64_t)i, LM_MODEL, err);
        if (s != AN_OK) return s;
        v->tokens[i].score = json_number_value(score);
        if (i + 1 == n || v->tokens[i].score < least) least = v->tokens[i].score;
    }
    v->unknown_score = least - 10;
    return s;
}

static an_status add_merge_line(an_vocab *v, const char *line, size_t len, int32_t rank,
                                an_error *err)
{
    const char *space = memchr(line, ' ', len);
    size_t left = space ? (size_t)(space - line) : 0;
    if (!space || memchr(space + 1, ' ', len - left - 1))
        return an_fail(err, AN_INVALID,
                       "merge %d ('%.*s') is not two tokens with one space between", rank + 1,
                       (int)(len < 60 ? len : 60), line);
    return an_lm_merge_add(v, line, left, space + 1, len - left - 1, rank, true, err);
}

/* ["a b", ..] or [["a", "b"], ..] */
static an_status read_merge_list(an_vocab *v, const json_t *merges, an_error *err)
{
    if (!json_is_array(merges)) return an_fail(err, AN_INVALID, "the merges are not a list");
    an_status s = AN_OK;
    for (size_t i = 0; i < json_array_size(merges) && s == AN_OK; i++) {
        const json_t *m = json_array_get(merges, i);
        const json_t *left = json_array_get(m, 0), *right = json_array_get(m, 1);
        int32_t rank = (int32_t)(i < INT32_MAX ? i : INT32_MAX);
        if (json_is_string(m))
            s = add_merge_line(v, json_string_value(m), json_string_length(m), rank, err);
        else if (json_array_size(m) == 2 && json_is_string(left) && json_is_string(right))
            s = an_lm_merge_add(v, json_string_value(left), json_string_length(left),
                                json_string_value(right), json_string_length(right), rank, true,
                                err);
        else
            s = an_fail(err, AN_INVALID, "merge %zu is neither \"a b\" nor [\"a\", \"b\"]", i + 1);
    }
    return s;
}

static an_status own_text(char **to, const json_t *text, an_error *err)
{
    if (!json_is_string(text)) return AN_OK;
    free(*to);
    *to = an_strdup(json_string_value(text));
    return *to ? AN_OK : an_fail(err, AN_NO_MEMORY, "out of memory for a vocabulary");
}

/* unk_token by its text; one that the vocabulary lacks is refused where tokenizers would fail. */
static an_status read_unknown(an_vocab *v, const json_t *model, an_error *err)
{
    const json_t *text = json_object_get(model, "unk_token");
    if (!json_is_string(text)) return AN_OK;
    v->unk = an_lm_find(v, json_string_value(text), json_string_length(text));
    if (v->unk >= 0 || v->kind == LM_BPE) return AN_OK;
    return an_fail(err, AN_INVALID, "unk_token '%.60s' is not in the vocabulary",
                   json_string_value(text));
}

static an_status read_bpe(an_vocab *v, const json_t *model, size_t more, an_error *err)
{
    double dropout = json_number_value(json_object_get(model, "dropout"));
    if (dropout != 0)
        return an_fail(err, AN_INVALID, "the model has a dropout of %g: only 0 gives one answer",
                       dropout);
    v->kind = LM_BPE;
    v->fuse_unknown = flag(model, "fuse_unk");
    v->fallback = flag(model, "byte_fallback");
    v->ignore_merges = flag(model, "ignore_merges");
    an_status s =
        own_text(&v->subword_prefix, json_object_get(model, "continuing_subword_prefix"), err);
    if (s == AN_OK)
        s = own_text(&v->word_suffix, json_object_get(model, "end_of_word_suffix"), err);
    if (s == AN_OK) s = read_vocab_object(v, json_object_get(model, "vocab"), more, err);
    if (s == AN_OK) s = read_merge_list(v, json_object_get(model, "merges"), err);
    return s == AN_OK ? read_unknown(v, model, err) : s;
}

static an_status read_unigram(an_vocab *v, const json_t *model, size_t more, an_error *err)
{
    v->kind = LM_UNIGRAM;
    v->fallback = flag(model, "byte_fallback");
    an_status s = read_scored_list(v, json_object_get(model, "vocab"), more, err);
    const json_t *unk = json_object_get(model, "unk_id");
    if (s != AN_OK || !json_is_integer(unk)) return s;
    json_int_t id = json_integer_value(unk);
    if (id < 0 || id >= v->n_ids)
        return an_fail(err, AN_INVALID, "unk_id is %lld, the vocabulary has %d tokens",
                       (long long)id, v->n_ids);
    v->unk = (int32_t)id;
    return AN_OK;
}

static an_status read_wordpiece(an_vocab *v, const json_t *model, lm_kind kind, size_t more,
                                an_error *err)
{
    const json_t *longest = json_object_get(model, "max_input_chars_per_word");
    v->kind = kind;
    if (json_is_integer(longest) && json_integer_value(longest) >= 0)
        v->max_word_chars = (size_t)json_integer_value(longest);
    an_status s = AN_OK;
    const json_t *prefix = json_object_get(model, "continuing_subword_prefix");
    if (kind == LM_WORDPIECE && !json_is_string(prefix)) {
        free(v->subword_prefix);
        v->subword_prefix = an_strdup("##");
        if (!v->subword_prefix) return an_fail(err, AN_NO_MEMORY, "out of memory for a vocabulary");
    } else if (kind == LM_WORDPIECE) {
        s = own_text(&v->subword_prefix, prefix, err);
    }
    if (s == AN_OK) s = read_vocab_object(v, json_object_get(model, "vocab"), more, err);
    return s == AN_OK ? read_unknown(v, model, err) : s;
}

/* Files of old leave "type" out: what they hold tells. */
static const char *model_type(const json_t *model)
{
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type) return type;
    if (json_object_get(model, "merges")) return "BPE";
    if (json_is_array(json_object_get(model, "vocab"))) return "Unigram";
    return json_object_get(model, "max_input_chars_per_word") ? "WordPiece" : "WordLevel";
}

static an_status read_model(an_vocab *v, const json_t *model, size_t more, an_error *err)
{
    if (!json_is_object(model)) return an_fail(err, AN_INVALID, "there is no \"model\" object");
    const char *type = model_type(model);
    if (strcmp(type, "BPE") == 0) return read_bpe(v, model, more, err);
    if (strcmp(type, "Unigram") == 0) return read_unigram(v, model, more, err);
    if (strcmp(type, "WordPiece") == 0) return read_wordpiece(v, model, LM_WORDPIECE, more, err);
    if (strcmp(type, "WordLevel") == 0) return read_wordpiece(v, model, LM_WORDLEVEL, more, err);
    return an_fail(err, AN_INVALID,
                   "the model is '%.60s'; BPE, Unigram, WordPiece and WordLevel are read", type);
}

/* ---------------------------------------------------------------- added tokens */

/* The text of a token as these files write it: "text", or an object with "content". */
static const json_t *content_of(const json_t *token)
{
    return json_is_object(token) ? json_object_get(token, "content") : token;
}

static an_status add_to_sets(an_vocab *v, const json_t *token, int32_t id, bool special,
                             lm_matcher *m, an_error *err)
{
    const json_t *text = content_of(token);
    const char *p = json_string_value(text);
    size_t len = json_string_length(text);
    lm_added like = {.id = id,
                     .special = special,
                     .single_word = flag(token, "single_word"),
                     .lstrip = flag(token, "lstrip"),
                     .rstrip = flag(token, "rstrip")};
    const json_t *norm = json_object_get(token, "normalized");
    if (json_is_boolean(norm) ? json_is_false(norm) : special)
        return an_lm_added_add(&v->raw, p, len, like, err);
    an_buf normal;
    an_buf_init(&normal, LM_MAX_NORMALIZED);
    an_status s = an_lm_normalize(v, m, p, len, &normal, err);
    if (s == AN_OK && normal.len > 0)
        s = an_lm_added_add(&v->normalized, normal.data, normal.len, like, err);
    an_buf_free(&normal);
    return s;
}

/* id < 0: the file does not say, the next free one. The vocabulary's id wins over the file's. */
static an_status add_token(an_vocab *v, const json_t *token, int64_t id, bool special,
                           lm_matcher *m, an_error *err)
{
    const json_t *text = content_of(token);
    if (!json_is_string(text))
        return an_fail(err, AN_INVALID, "an added token has no text \"content\"");
    if (json_string_length(text) == 0) return AN_OK;
    if (json_is_object(token) && json_object_get(token, "special"))
        special = flag(token, "special");
    int32_t known = an_lm_find(v, json_string_value(text), json_string_length(text));
    if (known < 0) {
        if (id < 0) id = v->n_ids;
        an_status s = add_indexed(v, text, NULL, id, 0, err);
        if (s != AN_OK) return s;
        known = (int32_t)id;
    }
    if (special) v->tokens[known].flags |= LM_SPECIAL;
    return add_to_sets(v, token, known, special, m, err);
}

static an_status add_list(an_vocab *v, const json_t *list, an_error *err)
{
    lm_matcher m;
    an_status s = an_lm_matcher_open(&m, LM_MAX_ADDED_BYTES, err);
    if (s != AN_OK) return s;
    for (size_t i = 0; i < json_array_size(list) && s == AN_OK; i++) {
        const json_t *token = json_array_get(list, i), *id = json_object_get(token, "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            s = an_fail(err, AN_INVALID, "added token %zu has no \"id\" of 0 or more", i + 1);
        else
            s = add_token(v, token, json_integer_value(id), false, &m, err);
    }
    an_lm_matcher_close(&m);
    return s;
}

/* ---------------------------------------------------------------- a folder */

typedef struct folder {
    const char *dir;
    json_t *config, *special_map, *added;
} folder;

static an_status read_optional(const char *dir, const char *name, json_t **out, an_error *err)
{
    *out = NULL;
    char *path = an_asprintf("%s/%s", dir, name);
    if (!path) return an_fail(err, AN_NO_MEMORY, "out of memory for a path");
    an_status s = AN_OK;
    if (an_is_file(path)) s = an_json_read_file(path, MAX_CONFIG, out, err);
    if (s == AN_OK && *out && !json_is_object(*out))
        s = an_fail(err, AN_INVALID, "%s: not a JSON object", path);
    free(path);
    return s;
}

/* "eos_token" and its like: tokenizer_config.json, else special_tokens_map.json, else a name. */
static int32_t named_token(const an_vocab *v, const folder *f, const char *key,
                           const char *const *names)
{
    const json_t *said = json_object_get(f->config, key);
    if (!said || json_is_null(said)) said = json_object_get(f->special_map, key);
    const json_t *text = content_of(said);
    if (json_is_string(text))
        return an_lm_find(v, json_string_value(text), json_string_length(text));
    if (f->config && json_object_get(f->config, key)) return -1; /* null: there is none */
    for (; *names; names++) {
        int32_t id = an_lm_find(v, *names, strlen(*names));
        if (id >= 0 && (v->tokens[id].flags & LM_SPECIAL)) return id;
    }
    return -1;
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

static an_status read_tokenizer(an_vocab *v, const json_t *root, an_error *err)
{
    const json_t *added = json_object_get(root, "added_tokens");
    size_t more = json_array_size(added);
    if (more > MAX_ADDED_ALL)
        return an_fail(err, AN_INVALID, "%zu added tokens, at most %d", more, MAX_ADDED_ALL);
    an_status s = read_model(v, json_object_get(root, "model"), more, err);
    if (s == AN_OK) s = an_lm_read_normalizer(v, json_object_get(root, "normalizer"), 0, err);
    if (s == AN_OK) s = an_lm_read_splitter(v, json_object_get(root, "pre_tokenizer"), 0, err);
    if (s == AN_OK) s = an_lm_read_decoder(v, json_object_get(root, "decoder"), 0, err);
    if (s == AN_OK) s = add_list(v, added, err);
    if (s == AN_OK) s = an_lm_read_template(v, json_object_get(root, "post_processor"), 0, err);
    return s;
}

static an_status read_tokenizer_json(an_vocab *v, const char *path, an_error *err)
{
    json_t *root;
    an_status s = an_json_read_file(path, MAX_TOKENIZER, &root, err);
    if (s != AN_OK) return s;
    s = read_tokenizer(v, root, err);
    json_decref(root);
    return s == AN_OK ? s : an_fail_prefix(err, s, "%s", path);
}

/* ---------------------------------------------------------------- vocab.json and merges.txt */

static an_status read_merge_lines(an_vocab *v, const char *path, an_error *err)
{
    char *text;
    size_t size;
    int32_t rank = 0;
    an_status s = an_read_file(path, MAX_TOKENIZER, &text, &size, err);
    if (s != AN_OK) return s;
    if (!an_utf8_valid(text, size) || strlen(text) != size)
        s = an_fail(err, AN_INVALID, "not UTF-8 text");
    for (const char *p = text; s == AN_OK && *p;) {
        const char *end = strchr(p, '\n');
        size_t len = end ? (size_t)(end - p) : strlen(p), n = len;
        if (n > 0 && p[n - 1] == '\r') n--;
        bool version = n >= 8 && memcmp(p, "#version", 8) == 0;
        if (n > 0 && !version) s = add_merge_line(v, p, n, rank++, err);
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
    an_status s = an_json_read_file(vocab_path, MAX_TOKENIZER, &vocab, err);
    if (s != AN_OK) return s;
    v->kind = LM_BPE;
    size_t more = 16 + json_object_size(decoder) + json_object_size(f->added);
    s = more > MAX_ADDED_ALL ? an_fail(err, AN_INVALID, "%zu added tokens", more) : AN_OK;
    if (s == AN_OK) s = read_vocab_object(v, vocab, more, err);
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
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
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
        if (s == AN_OK) s = add_token(v, value, id, false, &m, err);
    }
    json_object_foreach(f->added, key, value)
    {
        json_t *text = json_string(key);
        if (s == AN_OK && !json_is_integer(value))
            s = an_fail(err, AN_INVALID, "added_tokens.json: '%.60s' has no id", key);
        if (s == AN_OK && !decoder)
            s = add_token(v, text, json_integer_value(value), false, &m, err);
        json_decref(text);
    }
    for (int i = 0; i < 4 && s == AN_OK; i++) {
        const json_t *said = json_object_get(f->config, keys[i]);
        if (!said || json_is_null(said)) said = json_object_get(f->special_map, keys[i]);
        if (said && !json_is_null(said) && !decoder) s = add_token(v, said, -1, true, &m, err);
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
        s = read_tokenizer_json(v, whole, err);
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
    an_status s = read_optional(dir, "tokenizer_config.json", &f.config, err);
    if (s == AN_OK) s = read_optional(dir, "special_tokens_map.json", &f.special_map, err);
    if (s == AN_OK) s = read_optional(dir, "added_tokens.json", &f.added, err);
    if (s == AN_OK) s = read_files(v, &f, err);
    if (s == AN_OK) {
        read_named_tokens(v, &f);
        an_lm_know_tokens(v);
        s = an_lm_finish(v, err);
    }
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
