/* vocab_json.c: tokenizer.json, the whole of a tokenizer as the tokenizers package saves it: its
 * model and its added tokens here, what stands around them in vocab_steps.c. */
#include "vocab_open.h"

#include <jansson.h>
#include <stdlib.h>

an_vocab *an_lm_new(an_error *err)
{
    an_vocab *v = calloc(1, sizeof *v);
    if (v) {
        v->word_prefix = an_strdup("");
        v->subword_prefix = an_strdup("");
        v->word_suffix = an_strdup("");
        v->unknown = v->bos = v->eos = v->unk = v->pad = v->fim[0] = v->fim[1] = v->fim[2] = -1;
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

an_status an_lm_read_vocab(an_vocab *v, const json_t *vocab, size_t more, an_error *err)
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

an_status an_lm_read_merge(an_vocab *v, const char *line, size_t len, int32_t rank, an_error *err)
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
            s = an_lm_read_merge(v, json_string_value(m), json_string_length(m), rank, err);
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
    v->unk = v->unknown = an_lm_find(v, json_string_value(text), json_string_length(text));
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
    if (s == AN_OK) s = an_lm_read_vocab(v, json_object_get(model, "vocab"), more, err);
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
    v->unk = v->unknown = (int32_t)id;
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
    if (s == AN_OK) s = an_lm_read_vocab(v, json_object_get(model, "vocab"), more, err);
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

const json_t *an_lm_content(const json_t *token)
{
    return json_is_object(token) ? json_object_get(token, "content") : token;
}

static an_status add_to_sets(an_vocab *v, const json_t *token, int32_t id, bool special,
                             lm_matcher *m, an_error *err)
{
    const json_t *text = an_lm_content(token);
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

an_status an_lm_add_token(an_vocab *v, const json_t *token, int64_t id, bool special, lm_matcher *m,
                          an_error *err)
{
    const json_t *text = an_lm_content(token);
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
            s = an_lm_add_token(v, token, json_integer_value(id), false, &m, err);
    }
    an_lm_matcher_close(&m);
    return s;
}

/* ---------------------------------------------------------------- tokenizer.json */

static an_status read_tokenizer(an_vocab *v, const json_t *root, an_error *err)
{
    const json_t *added = json_object_get(root, "added_tokens");
    size_t more = json_array_size(added);
    if (more > LM_MAX_ADDED)
        return an_fail(err, AN_INVALID, "%zu added tokens, at most %d", more, LM_MAX_ADDED);
    an_status s = read_model(v, json_object_get(root, "model"), more, err);
    if (s == AN_OK) s = an_lm_read_normalizer(v, json_object_get(root, "normalizer"), 0, err);
    if (s == AN_OK) s = an_lm_read_splitter(v, json_object_get(root, "pre_tokenizer"), 0, err);
    if (s == AN_OK) s = an_lm_read_decoder(v, json_object_get(root, "decoder"), 0, err);
    if (s == AN_OK) s = add_list(v, added, err);
    if (s == AN_OK) s = an_lm_read_template(v, json_object_get(root, "post_processor"), 0, err);
    return s;
}

an_status an_lm_read_json(an_vocab *v, const char *path, an_error *err)
{
    json_t *root;
    an_status s = an_json_read_file(path, LM_MAX_FILE, &root, err);
    if (s != AN_OK) return s;
    s = read_tokenizer(v, root, err);
    json_decref(root);
    return s == AN_OK ? s : an_fail_prefix(err, s, "%s", path);
}
