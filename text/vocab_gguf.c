/* vocab_gguf.c: the vocabulary inside a GGUF file, read as llama.cpp reads it: tokenizer.ggml.model
 * names the algorithm, tokenizer.ggml.pre the way byte-level BPE cuts its words. Token types say
 * which tokens are control tokens and which a user defined. */
#include "vocab_open.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define SPACE "\xe2\x96\x81"

enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

/* ---------------------------------------------------------------- values */

static const json_t *get(const json_t *m, const char *key)
{
    char full[96];
    snprintf(full, sizeof full, "tokenizer.ggml.%s", key);
    return json_object_get(m, full);
}

static bool flag(const json_t *m, const char *key, bool otherwise)
{
    const json_t *j = get(m, key);
    return json_is_boolean(j) ? json_is_true(j) : otherwise;
}

/* An id of the vocabulary; what lies outside counts as not said, as in llama.cpp. */
static int32_t id_of(const an_vocab *v, const json_t *m, const char *key, int32_t otherwise)
{
    const json_t *j = get(m, key);
    if (json_is_integer(j) && json_integer_value(j) >= 0 && json_integer_value(j) < v->n_ids)
        return (int32_t)json_integer_value(j);
    if (json_is_integer(j) && json_integer_value(j) != 0xffffffffll)
        an_log(AN_LOG_WARN, "tokenizer.ggml.%s is %lld, the vocabulary has %d tokens: not used",
               key, (long long)json_integer_value(j), v->n_ids);
    return otherwise < v->n_ids ? otherwise : -1;
}

/* ---------------------------------------------------------------- tokens and merges */

static uint32_t flags_of(long long type)
{
    switch (type) {
    case TYPE_UNKNOWN:
    case TYPE_CONTROL:
        return LM_SPECIAL | LM_RAW;
    case TYPE_USER:
        return LM_RAW | LM_FREE_SCORE;
    case TYPE_BYTE:
        return LM_BYTE;
    default:
        return 0;
    }
}

static an_status check_lists(const json_t *tokens, const json_t *types, const json_t *scores,
                             an_error *err)
{
    size_t n = json_array_size(tokens);
    if (n == 0) return an_fail(err, AN_INVALID, "tokenizer.ggml.tokens is missing or empty");
    if (n > MAX_TOKENS)
        return an_fail(err, AN_INVALID, "tokenizer.ggml.tokens has %zu entries, at most %d", n,
                       MAX_TOKENS);
    if (types && json_array_size(types) < n)
        return an_fail(err, AN_INVALID, "tokenizer.ggml.token_type has %zu entries for %zu tokens",
                       json_array_size(types), n);
    if (scores && json_array_size(scores) < n)
        return an_fail(err, AN_INVALID, "tokenizer.ggml.scores has %zu entries for %zu tokens",
                       json_array_size(scores), n);
    return AN_OK;
}

static an_status read_tokens(an_vocab *v, const json_t *m, an_error *err)
{
    const json_t *tokens = get(m, "tokens"), *types = get(m, "token_type");
    const json_t *scores = get(m, "scores");
    an_status s = check_lists(tokens, types, scores, err);
    size_t n = json_array_size(tokens);
    if (s == AN_OK) s = an_lm_index_reserve(v, n, err);
    for (size_t i = 0; i < n && s == AN_OK; i++) {
        const json_t *text = json_array_get(tokens, i);
        uint32_t flags = flags_of(json_integer_value(json_array_get(types, i)));
        int32_t other = -1;
        if (!json_is_string(text))
            return an_fail(err, AN_INVALID, "tokenizer.ggml.tokens[%zu] is not a text", i);
        s = an_lm_token_add(v, json_string_value(text), json_string_length(text), (int64_t)i,
                            LM_MODEL | flags, err);
        if (s != AN_OK) return s;
        v->tokens[i].score = json_number_value(json_array_get(scores, i));
        if (!an_lm_token_index(v, (int32_t)i, &other))
            return an_fail(err, AN_INVALID, "token '%.60s' has two ids, %d and %zu",
                           json_string_value(text), other, i);
    }
    return s;
}

/* "left right"; the first byte belongs to the left part even if it is a space. */
static an_status read_merges(an_vocab *v, const json_t *m, an_error *err)
{
    const json_t *merges = get(m, "merges");
    if (!json_is_array(merges)) return an_fail(err, AN_INVALID, "tokenizer.ggml.merges is missing");
    an_status s = AN_OK;
    for (size_t i = 0; i < json_array_size(merges) && s == AN_OK; i++) {
        const json_t *text = json_array_get(merges, i);
        const char *p = json_string_value(text);
        size_t len = json_string_length(text);
        const char *space = p && len > 1 ? memchr(p + 1, ' ', len - 1) : NULL;
        if (!space) continue;
        s = an_lm_merge_add(v, p, (size_t)(space - p), space + 1, len - (size_t)(space - p) - 1,
                            (int32_t)(i < INT32_MAX ? i : INT32_MAX), false, err);
    }
    return s;
}

/* ---------------------------------------------------------------- the four algorithms */

static an_status add_replace(lm_steps *steps, const char *from, const char *to, an_error *err)
{
    lm_step *s = NULL;
    an_status status = an_lm_step_new(steps, LM_REPLACE, &s, err);
    if (status != AN_OK) return status;
    return an_lm_step_text(s, from, strlen(from), to, strlen(to), err);
}

/* Bytes, U+2581 as spaces, and the one space that was put in front taken off again. */
static an_status add_sentencepiece_decoder(an_vocab *v, bool prefix, an_error *err)
{
    lm_step *s = NULL;
    an_status status = an_lm_step_new(&v->decoders, LM_BYTE_FALLBACK, &s, err);
    if (status == AN_OK) status = add_replace(&v->decoders, SPACE, " ", err);
    if (status != AN_OK || !prefix) return status;
    status = an_lm_step_new(&v->decoders, LM_FUSE, &s, err);
    if (status == AN_OK) status = an_lm_step_new(&v->decoders, LM_STRIP_TOKEN, &s, err);
    if (status != AN_OK) return status;
    s->number = 1;
    return an_lm_step_text(s, " ", 1, "", 0, err);
}

static an_status open_spm(an_vocab *v, const json_t *m, an_error *err)
{
    bool prefix = flag(m, "add_space_prefix", true);
    lm_step *s = NULL;
    an_status status = AN_OK;
    v->kind = LM_SPM;
    v->fallback = true;
    if (prefix) {
        status = an_lm_step_new(&v->normalizers, LM_PREPEND, &s, err);
        if (status == AN_OK) status = an_lm_step_text(s, "", 0, " ", 1, err);
    }
    if (status == AN_OK) status = add_replace(&v->normalizers, " ", SPACE, err);
    return status == AN_OK ? add_sentencepiece_decoder(v, prefix, err) : status;
}

static an_status open_bpe(an_vocab *v, const json_t *m, const lm_pre *pre, an_error *err)
{
    lm_step *s = NULL;
    an_status status = AN_OK;
    v->kind = LM_BPE;
    v->ignore_merges = pre->ignore_merges;
    if (pre->spaces) {
        v->fallback = true;
        status = add_replace(&v->normalizers, " ", SPACE, err);
    }
    for (int i = 0; i < LM_PRE_PATTERNS && pre->pattern[i] && status == AN_OK; i++) {
        status = an_lm_step_new(&v->splitters, LM_SPLIT, &s, err);
        if (status != AN_OK) return status;
        s->number = LM_ISOLATED;
        status = an_lm_regex(pre->pattern[i], strlen(pre->pattern[i]), &s->regex, err);
    }
    if (status == AN_OK && pre->spaces) {
        status = add_sentencepiece_decoder(v, false, err);
    } else if (status == AN_OK) {
        status = an_lm_step_new(&v->splitters, LM_BYTE_LEVEL, &s, err);
        if (status == AN_OK) status = an_lm_step_new(&v->decoders, LM_BYTE_LEVEL, &s, err);
    }
    return status == AN_OK ? read_merges(v, m, err) : status;
}

/* An array of numbers, or a text where a reader of the file kept bytes so. */
static an_status read_charsmap(lm_step *s, const json_t *m, an_error *err)
{
    const json_t *j = get(m, "precompiled_charsmap");
    size_t n = json_array_size(j);
    an_status status = an_lm_step_text(s, "", 0, "", 0, err);
    if (status != AN_OK || n == 0) return status;
    free(s->from);
    s->from = malloc(n + 1);
    if (!s->from) return an_fail(err, AN_NO_MEMORY, "out of memory for %zu bytes", n);
    for (size_t i = 0; i < n; i++)
        s->from[i] = (char)(json_integer_value(json_array_get(j, i)) & 0xff);
    s->from_len = n;
    return an_lm_charsmap_check(s->from, n, err);
}

static an_status open_unigram(an_vocab *v, const json_t *m, an_error *err)
{
    bool prefix = flag(m, "add_space_prefix", true);
    lm_step *s = NULL;
    v->kind = LM_UNIGRAM;
    an_status status = an_lm_step_new(&v->normalizers, LM_UGM_TEXT, &s, err);
    if (status != AN_OK) return status;
    s->flag[0] = prefix;
    s->flag[1] = flag(m, "remove_extra_whitespaces", false);
    status = read_charsmap(s, m, err);
    double least = 0;
    for (int32_t id = 0; id < v->n_ids; id++)
        if (!(v->tokens[id].flags & (LM_SPECIAL | LM_BYTE)) && v->tokens[id].score < least)
            least = v->tokens[id].score;
    v->unknown_score = least - 10;
    return status == AN_OK ? add_sentencepiece_decoder(v, prefix, err) : status;
}

static an_status open_wordpiece(an_vocab *v, const json_t *m, an_error *err)
{
    lm_step *s = NULL;
    v->kind = LM_WORDPIECE;
    v->max_word_chars = SIZE_MAX;
    free(v->word_prefix);
    v->word_prefix = an_strdup(SPACE);
    if (!v->word_prefix) return an_fail(err, AN_NO_MEMORY, "out of memory for a vocabulary");
    an_status status = an_lm_step_new(&v->normalizers, LM_BERT_TEXT, &s, err);
    if (status != AN_OK) return status;
    s->flag[0] = s->flag[1] = true;
    s->flag[3] = flag(m, "normalizer.lowercase", true);
    s->flag[2] = flag(m, "normalizer.strip_accents", s->flag[3]);
    status = an_lm_step_new(&v->splitters, LM_BERT_WORDS, &s, err);
    return status == AN_OK ? add_sentencepiece_decoder(v, true, err) : status;
}

/* ---------------------------------------------------------------- special tokens */

static an_status add_around(int32_t **list, size_t *n, int32_t id, an_error *err)
{
    if (id < 0) return AN_OK;
    *list = malloc(sizeof **list);
    if (!*list) return an_fail(err, AN_NO_MEMORY, "out of memory for a vocabulary");
    (*list)[0] = id;
    *n = 1;
    return AN_OK;
}

/* Phi-3's file lacks what its tokenizer does: special tokens swallow the space behind them. */
static bool strips_right(const json_t *m, const char *token)
{
    const char *name = json_string_value(json_object_get(m, "general.name"));
    if (!name || (!strcasestr(name, "phi-3") && !strcasestr(name, "phi3"))) return false;
    return strcmp(token, "<unk>") != 0 && strcmp(token, "<s>") != 0 &&
           strcmp(token, "<|endoftext|>") != 0;
}

/* Control tokens are found when asked for, user-defined ones always. */
static an_status add_added(an_vocab *v, const json_t *m, an_error *err)
{
    an_status s = AN_OK;
    for (int32_t id = 0; id < v->n_ids && s == AN_OK; id++) {
        const lm_token *t = &v->tokens[id];
        if (!(t->flags & (LM_SPECIAL | LM_RAW)) || t->len > LM_MAX_ADDED_BYTES) continue;
        lm_added like = {.id = id, .special = t->flags & LM_SPECIAL};
        like.rstrip = strips_right(m, an_lm_text(v, id));
        s = an_lm_added_add(&v->raw, an_lm_text(v, id), t->len, like, err);
    }
    return s;
}

/* The ids a file may leave out have defaults that llama.cpp took from the first model of a kind. */
static void read_ids(an_vocab *v, const json_t *m)
{
    static const int32_t otherwise[][4] = {/* bos, eos, unk, pad */
                                           [LM_BPE] = {11, 11, -1, -1},
                                           [LM_SPM] = {1, 2, 0, -1},
                                           [LM_UNIGRAM] = {-1, 1, 2, 0},
                                           [LM_WORDPIECE] = {101, -1, 100, 0}};
    const int32_t *o = otherwise[v->kind];
    v->bos = id_of(v, m, "bos_token_id", o[0]);
    v->eos = id_of(v, m, "eos_token_id", o[1]);
    v->unk = id_of(v, m, "unknown_token_id", o[2]);
    v->pad = id_of(v, m, "padding_token_id", o[3]);
    /* Byte-level BPE drops a byte that the vocabulary lacks: its "unknown" is often <|endoftext|>,
     * which has no business in the middle of a prompt. */
    v->unknown = v->kind == LM_BPE ? -1 : v->unk;
    static const char *const fim[3][2] = {{"fim_pre_token_id", "prefix_token_id"},
                                          {"fim_suf_token_id", "suffix_token_id"},
                                          {"fim_mid_token_id", "middle_token_id"}};
    for (int i = 0; i < 3; i++) v->fim[i] = id_of(v, m, fim[i][0], id_of(v, m, fim[i][1], -1));
    static const char *const more_ends[] = {"eot_token_id", "eom_token_id"};
    for (int i = 0; i < 2; i++) {
        int32_t id = id_of(v, m, more_ends[i], -1);
        if (id >= 0) v->tokens[id].flags |= LM_END;
    }
}

static an_status read_specials(an_vocab *v, const json_t *m, const lm_pre *pre, an_error *err)
{
    bool bos = v->kind == LM_SPM || v->kind == LM_WORDPIECE || (pre && pre->add_bos);
    bool eos = v->kind == LM_UNIGRAM;
    int32_t last = v->eos;
    if (v->kind == LM_WORDPIECE) {
        eos = true;
        last = id_of(v, m, "seperator_token_id", 102); /* spelt so in the format */
        if (v->eos < 0) v->eos = last;
    } else {
        bos = flag(m, "add_bos_token", bos);
        eos = flag(m, "add_eos_token", eos);
    }
    an_status s = AN_OK;
    if (bos) s = add_around(&v->before, &v->n_before, v->bos, err);
    if (s == AN_OK && eos) s = add_around(&v->after, &v->n_after, last, err);
    return s;
}

/* ---------------------------------------------------------------- opening */

static an_status read_vocab(an_vocab *v, const json_t *m, an_error *err)
{
    const char *model = json_string_value(get(m, "model"));
    const char *name = json_string_value(get(m, "pre"));
    const lm_pre *pre = NULL;
    an_status s = read_tokens(v, m, err);
    if (s != AN_OK) return s;
    if (!model) return an_fail(err, AN_INVALID, "tokenizer.ggml.model is missing");
    if (strcmp(model, "gpt2") == 0 || strcmp(model, "gemma4") == 0) {
        s = an_lm_pre_find(strcmp(model, "gemma4") == 0 ? model : name, &pre, err);
        if (s == AN_OK) s = open_bpe(v, m, pre, err);
    } else if (strcmp(model, "llama") == 0) {
        s = open_spm(v, m, err);
    } else if (strcmp(model, "t5") == 0) {
        s = open_unigram(v, m, err);
    } else if (strcmp(model, "bert") == 0) {
        s = open_wordpiece(v, m, err);
    } else {
        s = an_fail(err, AN_INVALID,
                    "tokenizer.ggml.model is '%.40s'; gpt2, llama, t5, bert and gemma4 are read",
                    model);
    }
    if (s != AN_OK) return s;
    read_ids(v, m);
    an_lm_know_tokens(v);
    s = read_specials(v, m, pre, err);
    if (s == AN_OK) s = add_added(v, m, err);
    return s == AN_OK ? an_lm_finish(v, err) : s;
}

an_status an_vocab_open_gguf(const struct json_t *metadata, an_vocab **out, an_error *err)
{
    *out = NULL;
    if (!json_is_object(metadata)) return an_fail(err, AN_INVALID, "the metadata is not an object");
    an_vocab *v = an_lm_new(err);
    if (!v) return AN_NO_MEMORY;
    v->gguf = true;
    an_status s = read_vocab(v, metadata, err);
    if (s != AN_OK) {
        an_vocab_free(v);
        return an_fail_prefix(err, s, "the tokenizer in the GGUF file");
    }
    *out = v;
    return AN_OK;
}
