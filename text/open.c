/* open.c: a tokenizer from its files, as transformers 5 reads a CLIPTokenizer's folder. The files
 * are hostile until read: sizes, ids and names are checked here, nothing is trusted later.
 *
 * Which token is the end, the padding and so on is said in several places at once. The order that
 * transformers keeps: with `added_tokens_decoder` in tokenizer_config.json that file alone counts;
 * without it special_tokens_map.json overrides it. (SD2 pads with "!" in its map and with
 * <|endoftext|> in its config; the map is right.) */
#include "optional_json.h"
#include "tokenizer.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_VOCAB_FILE  ((size_t)64 << 20)
#define MAX_CONFIG_FILE ((size_t)4 << 20)
#define MAX_POOL        ((size_t)256 << 20)
/* bpe_simple_vocab_16e6.txt lists five times as many merges as CLIP uses. */
#define OPENAI_MERGES (49152 - 256 - 2)

#define BOS_TEXT "<|startoftext|>"
#define EOS_TEXT "<|endoftext|>"

/* ---------------------------------------------------------------- vocabulary and merges */

static an_status read_vocab(an_tokenizer *t, const json_t *vocab, an_error *err)
{
    const char *text;
    json_t *id;
    if (!json_is_object(vocab))
        return an_fail(err, AN_INVALID, "the vocabulary is not an object of token: id");
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
    {
        if (!json_is_integer(id))
            return an_fail(err, AN_INVALID, "the id of token '%.60s' is not an integer", text);
        an_status s = an_clip_vocab_add(t, text, strlen(text), json_integer_value(id), err);
        if (s != AN_OK) return s;
    }
    return an_clip_vocab_index(t, err);
}

/* "left right", one space between and no other. */
static an_status add_merge_line(an_tokenizer *t, const char *line, size_t len, an_error *err)
{
    const char *space = memchr(line, ' ', len);
    size_t left = space ? (size_t)(space - line) : 0;
    if (!space || memchr(space + 1, ' ', len - left - 1))
        return an_fail(err, AN_INVALID,
                       "merge %d ('%.*s') is not two tokens with one space between",
                       t->n_merges + 1, (int)(len < 60 ? len : 60), line);
    return an_merge_add(t, line, left, space + 1, len - left - 1, err);
}

static an_status read_json_merges(an_tokenizer *t, const json_t *merges, an_error *err)
{
    if (!json_is_array(merges)) return an_fail(err, AN_INVALID, "the merges are not an array");
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *m = json_array_get(merges, i);
        const json_t *left = json_array_get(m, 0), *right = json_array_get(m, 1);
        an_status s;
        if (json_is_string(m))
            s = add_merge_line(t, json_string_value(m), json_string_length(m), err);
        else if (json_array_size(m) == 2 && json_is_string(left) && json_is_string(right))
            s = an_merge_add(t, json_string_value(left), json_string_length(left),
                             json_string_value(right), json_string_length(right), err);
        else
            s = an_fail(err, AN_INVALID, "merge %zu is neither \"a b\" nor [\"a\", \"b\"]", i + 1);
        if (s != AN_OK) return s;
    }
    return AN_OK;
}

/* The next line of a merges.txt that holds a merge; false at the end. Version lines and empty ones
 * are passed over. */
static bool next_merge_line(const char **cursor, const char **line, size_t *len)
{
    while (**cursor) {
        const char *end = strchr(*cursor, '\n');
        *line = *cursor;
        *len = end ? (size_t)(end - *cursor) : strlen(*cursor);
        *cursor += *len + (end != NULL);
        if (*len > 0 && (*line)[*len - 1] == '\r') --*len;
        static const char version[] = "#version";
        bool is_version = memmem(*line, *len < 64 ? *len : 64, version, sizeof version - 1) != NULL;
        if (*len > 0 && !is_version) return true;
    }
    return false;
}

/* OpenAI's order of ids: the 256 bytes with the printable ones first, the same with </w>, the sums
 * of the merges in order, the two special tokens. */
static an_status derive_vocab(an_tokenizer *t, const char *merges, an_error *err)
{
    an_status s = AN_OK;
    int32_t id = 0;
    for (int end = 0; end < 2; end++)
        for (int printable = 1; printable >= 0; printable--)
            for (unsigned b = 0; b < 256 && s == AN_OK; b++) {
                char text[4 + WORD_END_LEN];
                uint32_t c = an_byte_to_char(b);
                if ((c == b) != printable) continue;
                size_t n = an_put_utf8(c, text);
                memcpy(text + n, WORD_END, WORD_END_LEN);
                s = an_clip_vocab_add(t, text, n + (end ? WORD_END_LEN : 0), id++, err);
            }
    const char *line;
    size_t len;
    for (int i = 0; i < OPENAI_MERGES && s == AN_OK && next_merge_line(&merges, &line, &len); i++) {
        const char *space = memchr(line, ' ', len);
        size_t left = space ? (size_t)(space - line) : len;
        char sum[1024];
        if (!space || len > sizeof sum)
            return an_fail(err, AN_INVALID, "merge %d ('%.*s') is not two tokens of CLIP's length",
                           i + 1, (int)(len < 60 ? len : 60), line);
        memcpy(sum, line, left);
        memcpy(sum + left, space + 1, len - left - 1);
        s = an_clip_vocab_add(t, sum, len - 1, id++, err);
    }
    if (s == AN_OK) s = an_clip_vocab_add(t, BOS_TEXT, strlen(BOS_TEXT), id++, err);
    if (s == AN_OK) s = an_clip_vocab_add(t, EOS_TEXT, strlen(EOS_TEXT), id, err);
    return s == AN_OK ? an_clip_vocab_index(t, err) : s;
}

/* derive: the vocabulary comes from the merges as well. */
static an_status read_merges_file(an_tokenizer *t, const char *path, bool derive, an_error *err)
{
    char *text;
    size_t size, len;
    an_status s = an_read_file(path, MAX_VOCAB_FILE, &text, &size, err);
    if (s != AN_OK) return s;
    const char *cursor = text, *line;
    if (!an_utf8_valid(text, size) || strlen(text) != size)
        s = an_fail(err, AN_INVALID, "not UTF-8 text");
    if (s == AN_OK && derive) s = derive_vocab(t, text, err);
    int limit = derive ? OPENAI_MERGES : MAX_TOKENS;
    for (int i = 0; i < limit && s == AN_OK && next_merge_line(&cursor, &line, &len); i++)
        s = add_merge_line(t, line, len, err);
    free(text);
    return s == AN_OK ? s : an_fail_prefix(err, s, "%s", path);
}

/* Settings that would change the ids and that CLIP does not have. */
static an_status check_model(const json_t *model, an_error *err)
{
    const char *type = json_string_value(json_object_get(model, "type"));
    if (type && strcmp(type, "BPE") != 0)
        return an_fail(err, AN_INVALID, "the model is '%.60s'; only CLIP's BPE is read so far",
                       type);
    const char *end = json_string_value(json_object_get(model, "end_of_word_suffix"));
    if (!end || strcmp(end, WORD_END) != 0)
        return an_fail(err, AN_INVALID,
                       "end_of_word_suffix is '%.60s'; only CLIP's BPE with '%s' is read so far",
                       end ? end : "", WORD_END);
    return AN_OK;
}

/* *root stays open: its added tokens are read later. */
static an_status read_tokenizer_json(an_tokenizer *t, const char *path, json_t **root,
                                     an_error *err)
{
    an_status s = an_json_read_file(path, MAX_VOCAB_FILE, root, err);
    if (s != AN_OK) return s;
    const json_t *model = json_object_get(*root, "model");
    if (!json_is_object(model)) s = an_fail(err, AN_INVALID, "there is no \"model\" object");
    if (s == AN_OK) s = check_model(model, err);
    if (s == AN_OK) s = read_vocab(t, json_object_get(model, "vocab"), err);
    if (s == AN_OK) s = read_json_merges(t, json_object_get(model, "merges"), err);
    return s == AN_OK ? s : an_fail_prefix(err, s, "%s", path);
}

static an_status read_vocab_json(an_tokenizer *t, const char *path, an_error *err)
{
    json_t *vocab;
    an_status s = an_json_read_file(path, MAX_VOCAB_FILE, &vocab, err);
    if (s != AN_OK) return s;
    s = read_vocab(t, vocab, err);
    json_decref(vocab);
    return s == AN_OK ? s : an_fail_prefix(err, s, "%s", path);
}

/* ---------------------------------------------------------------- special and added tokens */

typedef struct folder {
    const char *dir;
    json_t *config;      /* tokenizer_config.json, NULL if absent */
    json_t *special_map; /* special_tokens_map.json */
    json_t *added_json;  /* added_tokens.json */
    json_t *tokenizer;   /* tokenizer.json */
} folder;

an_status an_read_optional_json(const char *dir, const char *name, size_t max, json_t **out,
                                an_error *err)
{
    *out = NULL;
    char *path = an_asprintf("%s/%s", dir, name);
    if (!path) return an_fail(err, AN_NO_MEMORY, "out of memory for a path");
    an_status s = AN_OK;
    if (an_is_file(path)) s = an_json_read_file(path, max, out, err);
    if (s == AN_OK && *out && !json_is_object(*out))
        s = an_fail(err, AN_INVALID, "%s: not a JSON object", path);
    free(path);
    return s;
}

static bool flag(const json_t *token, const char *name, bool otherwise)
{
    const json_t *v = json_object_get(token, name);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

/* A token as these files write it: "text", or an object (AddedToken). id < 0: of the vocabulary.
 * Only special tokens are looked for in the raw text unless the file says otherwise. */
static an_status add_token(an_tokenizer *t, const json_t *token, int64_t id, bool special,
                           an_error *err)
{
    const char *text = json_string_value(token);
    if (text) return an_added_add(t, text, id, !special, false, err);
    text = json_string_value(json_object_get(token, "content"));
    if (!text) return an_fail(err, AN_INVALID, "an added token has no text \"content\"");
    special = flag(token, "special", special);
    return an_added_add(t, text, id, flag(token, "normalized", !special),
                        flag(token, "single_word", false), err);
}

static an_status add_decoder_tokens(an_tokenizer *t, const json_t *decoder, an_error *err)
{
    const char *key;
    json_t *token;
    json_object_foreach((json_t *)(uintptr_t)decoder, key, token)
    {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (end == key || *end || id < 0)
            return an_fail(err, AN_INVALID, "added_tokens_decoder: '%.60s' is not an id", key);
        an_status s = add_token(t, token, id, false, err);
        if (s != AN_OK) return s;
    }
    return AN_OK;
}

static an_status add_listed_tokens(an_tokenizer *t, const json_t *list, an_error *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *token = json_array_get(list, i), *id = json_object_get(token, "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return an_fail(err, AN_INVALID, "added token %zu has no \"id\" of 0 or more", i + 1);
        an_status s = add_token(t, token, json_integer_value(id), false, err);
        if (s != AN_OK) return s;
    }
    return AN_OK;
}

static const json_t *special_value(const folder *f, const char *key)
{
    const json_t *own = json_object_get(f->config, key),
                 *map = json_object_get(f->special_map, key);
    bool config_alone = json_is_object(json_object_get(f->config, "added_tokens_decoder"));
    const json_t *v = !config_alone && map ? map : own;
    return json_is_null(v) ? NULL : v;
}

static bool is_special_text(const folder *f, const char *text)
{
    static const char *const keys[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = special_value(f, keys[i]);
        const char *s = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
        if (s && strcmp(s, text) == 0) return true;
    }
    return false;
}

/* added_tokens.json of older folders: {"<cat-toy>": 49408}. */
static an_status add_legacy_tokens(an_tokenizer *t, const folder *f, an_error *err)
{
    const char *text;
    json_t *id;
    json_object_foreach(f->added_json, text, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return an_fail(err, AN_INVALID, "added_tokens.json: '%.60s' has no id of 0 or more",
                           text);
        an_status s =
            an_added_add(t, text, json_integer_value(id), !is_special_text(f, text), false, err);
        if (s != AN_OK) return s;
    }
    return AN_OK;
}

static an_status add_all_tokens(an_tokenizer *t, const folder *f, an_error *err)
{
    const json_t *decoder = json_object_get(f->config, "added_tokens_decoder");
    if (json_is_object(decoder)) return add_decoder_tokens(t, decoder, err);
    /* tokenizer.json first: where both name a token, its entry is the one that counts. */
    an_status s = add_listed_tokens(t, json_object_get(f->tokenizer, "added_tokens"), err);
    return s == AN_OK ? add_legacy_tokens(t, f, err) : s;
}

/* One of bos, eos, pad, unk: what the files say, else CLIP's own. */
static an_status set_special(an_tokenizer *t, const folder *f, const char *key,
                             const char *otherwise, int32_t *id, an_error *err)
{
    const json_t *v = special_value(f, key);
    const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    an_status s = AN_OK;
    if (v && (!text || !*text))
        s = an_fail(err, AN_INVALID, "neither a text nor an added token");
    else if (v)
        s = add_token(t, v, -1, true, err);
    else
        s = an_added_add(t, text = otherwise, -1, false, false, err);
    if (s != AN_OK) return an_fail_prefix(err, s, "%s", key);
    *id = an_token_find(t, text);
    return AN_OK;
}

static an_status read_specials(an_tokenizer *t, const folder *f, an_error *err)
{
    an_status s = add_all_tokens(t, f, err);
    if (s == AN_OK) s = set_special(t, f, "bos_token", BOS_TEXT, &t->bos, err);
    if (s == AN_OK) s = set_special(t, f, "eos_token", EOS_TEXT, &t->eos, err);
    if (s == AN_OK) s = set_special(t, f, "pad_token", EOS_TEXT, &t->pad, err);
    if (s == AN_OK) s = set_special(t, f, "unk_token", EOS_TEXT, &t->unk, err);
    static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
    for (int i = 0; i < 2 && s == AN_OK; i++) {
        const json_t *list = special_value(f, lists[i]);
        for (size_t k = 0; k < json_array_size(list) && s == AN_OK; k++)
            s = add_token(t, json_array_get(list, k), -1, true, err);
    }
    /* A huge number (1e30) is how transformers writes "not known". */
    double longest = json_number_value(json_object_get(f->config, "model_max_length"));
    t->max_length = longest >= 1 && longest <= 1e6 ? (int32_t)longest : 0;
    return s;
}

/* ---------------------------------------------------------------- opening */

static an_status read_model_files(an_tokenizer *t, folder *f, an_error *err)
{
    char *whole = an_asprintf("%s/tokenizer.json", f->dir);
    char *vocab = an_asprintf("%s/vocab.json", f->dir);
    char *merges = an_asprintf("%s/merges.txt", f->dir);
    an_status s;
    if (!whole || !vocab || !merges) {
        s = an_fail(err, AN_NO_MEMORY, "out of memory for a path");
    } else if (an_is_file(whole)) {
        s = read_tokenizer_json(t, whole, &f->tokenizer, err);
    } else if (an_is_file(vocab) && an_is_file(merges)) {
        s = read_vocab_json(t, vocab, err);
        if (s == AN_OK) s = read_merges_file(t, merges, false, err);
    } else {
        s = an_fail(err, AN_NOT_FOUND, "%s: neither tokenizer.json nor vocab.json with merges.txt",
                    f->dir);
    }
    free(whole);
    free(vocab);
    free(merges);
    return s;
}

static an_status read_folder(an_tokenizer *t, const char *dir, an_error *err)
{
    folder f = {.dir = dir};
    an_status s = read_model_files(t, &f, err);
    if (s == AN_OK)
        s = an_read_optional_json(dir, "tokenizer_config.json", MAX_CONFIG_FILE, &f.config, err);
    if (s == AN_OK)
        s = an_read_optional_json(dir, "special_tokens_map.json", MAX_CONFIG_FILE, &f.special_map,
                                  err);
    if (s == AN_OK)
        s = an_read_optional_json(dir, "added_tokens.json", MAX_CONFIG_FILE, &f.added_json, err);
    if (s == AN_OK) {
        s = read_specials(t, &f, err);
        if (s != AN_OK) an_fail_prefix(err, s, "%s", dir);
    }
    json_decref(f.config);
    json_decref(f.special_map);
    json_decref(f.added_json);
    json_decref(f.tokenizer);
    return s;
}

static an_status read_builtin(an_tokenizer *t, const char *merges_path, an_error *err)
{
    an_status s = read_merges_file(t, merges_path, true, err);
    folder none = {0};
    if (s == AN_OK) s = read_specials(t, &none, err);
    t->max_length = 77;
    return s;
}

an_status an_tokenizer_open(const char *dir, const char *merges_path, an_tokenizer **out,
                            an_error *err)
{
    *out = NULL;
    if (!dir && !merges_path)
        return an_fail(err, AN_INVALID, "a tokenizer needs a folder or a merges.txt");
    an_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return an_fail(err, AN_NO_MEMORY, "out of memory for a tokenizer");
    an_buf_init(&t->pool, MAX_POOL);
    an_status s = dir ? read_folder(t, dir, err) : read_builtin(t, merges_path, err);
    if (s == AN_OK) s = an_merges_index(t, err); /* last: added tokens have lengthened the ids */
    if (s == AN_OK) s = an_clip_prepare(t, err);
    if (s != AN_OK) {
        an_tokenizer_free(t);
        return s;
    }
    *out = t;
    return AN_OK;
}

an_status an_tokenizer_set_pad(an_tokenizer *t, const char *token, an_error *err)
{
    an_status s = an_added_add(t, token, -1, false, false, err);
    if (s != AN_OK) return an_fail_prefix(err, s, "pad token");
    t->pad = an_token_find(t, token);
    return AN_OK;
}

void an_tokenizer_free(an_tokenizer *t)
{
    if (!t) return;
    for (int i = 0; i < t->n_added; i++) {
        free(t->added[i].text);
        free(t->added[i].match);
    }
    free(t->added);
    free(t->offset);
    free(t->length);
    free(t->sorted);
    free(t->merges);
    free(t->first);
    an_buf_free(&t->pool);
    pcre2_code_free(t->split);
    pcre2_match_context_free(t->match_context);
    free(t);
}

int32_t an_tokenizer_vocab_size(const an_tokenizer *t)
{
    return t->n_ids;
}

int32_t an_tokenizer_bos(const an_tokenizer *t)
{
    return t->bos;
}

int32_t an_tokenizer_eos(const an_tokenizer *t)
{
    return t->eos;
}

int32_t an_tokenizer_pad(const an_tokenizer *t)
{
    return t->pad;
}

int32_t an_tokenizer_max_length(const an_tokenizer *t)
{
    return t->max_length;
}
