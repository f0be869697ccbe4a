/* vocab_encode.c: a text through the whole pipeline, and what a vocabulary says of itself. */
#include "lm_vocab.h"

#include <stdlib.h>

static an_status encode_words(lm_encoder *e, const char *text, size_t len, bool at_start)
{
    if (len == 0) return AN_OK;
    an_status s = an_lm_split(e->v, &e->matcher, text, len, at_start, &e->words, e->err);
    for (size_t i = 0; i < e->words.n && s == AN_OK; i++) {
        const char *word = e->words.text.data + e->words.spans[i].start;
        size_t n = e->words.spans[i].end - e->words.spans[i].start;
        switch (e->v->kind) {
        case LM_BPE:
        case LM_SPM:
            s = an_lm_bpe(e, word, n);
            break;
        case LM_UNIGRAM:
            s = an_lm_unigram(e, word, n);
            break;
        case LM_WORDPIECE:
        case LM_WORDLEVEL:
            s = an_lm_wordpiece(e, word, n);
            break;
        }
    }
    return s;
}

/* ---------------------------------------------------------------- cutting out added tokens */

static size_t spaces_before(const char *text, size_t end, size_t stop)
{
    while (end > stop) {
        size_t at = end - 1;
        while (at > stop && ((unsigned char)text[at] & 0xc0) == 0x80) at--;
        uint32_t c;
        an_lm_char(text + at, end - at, &c);
        if (!an_lm_is_space(c)) break;
        end = at;
    }
    return end;
}

static size_t spaces_after(const char *text, size_t at, size_t len)
{
    while (at < len) {
        uint32_t c;
        size_t n = an_lm_char(text + at, len - at, &c);
        if (!an_lm_is_space(c)) break;
        at += n;
    }
    return at;
}

/* Neither neighbour is part of a word. */
static bool stands_alone(const char *text, size_t len, size_t start, size_t end)
{
    uint32_t c;
    if (end < len) {
        an_lm_char(text + end, len - end, &c);
        if (an_lm_is_word(c)) return false;
    }
    if (start == 0) return true;
    size_t at = start - 1;
    while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80) at--;
    an_lm_char(text + at, start - at, &c);
    return !an_lm_is_word(c);
}

typedef an_status text_taker(lm_encoder *e, const char *text, size_t len, bool at_start);

/* Added tokens of one set become ids, what lies between them goes on to `rest`. A special token
 * that was not asked for is text, but no other token is looked for inside it; in a GGUF file it is
 * not seen at all. */
static an_status cut_added(lm_encoder *e, const lm_added_set *set, const char *text, size_t len,
                           bool at_start, text_taker *rest)
{
    bool with_special = e->parse_special || !e->v->gguf;
    size_t done = 0, at = set->n > 0 ? 0 : len;
    while (at < len) {
        const lm_added *a = an_lm_added_at(set, text, len, at, with_special);
        if (!a) {
            at++;
            continue;
        }
        size_t start = at, end = at + a->len;
        at = end;
        if (a->special && !e->parse_special) continue;
        if (a->single_word && !stands_alone(text, len, start, end)) continue;
        if (a->lstrip) start = spaces_before(text, start, done < start ? done : start);
        if (a->rstrip) end = spaces_after(text, end, len);
        an_status s = AN_OK;
        if (done < start) s = rest(e, text + done, start - done, at_start && done == 0);
        if (s == AN_OK) s = an_lm_push(e, a->id);
        if (s != AN_OK) return s;
        done = end > done ? end : done;
    }
    return done < len ? rest(e, text + done, len - done, at_start && done == 0) : AN_OK;
}

static an_status encode_raw(lm_encoder *e, const char *text, size_t len, bool at_start)
{
    const an_vocab *v = e->v;
    if (v->normalizers.n == 0)
        return cut_added(e, &v->normalized, text, len, at_start, encode_words);
    an_buf normal;
    an_buf_init(&normal, LM_MAX_NORMALIZED);
    an_status s = an_lm_normalize(v, &e->matcher, text, len, &normal, e->err);
    if (s == AN_OK && normal.len > 0)
        s = cut_added(e, &v->normalized, normal.data, normal.len, at_start, encode_words);
    an_buf_free(&normal);
    return s;
}

/* ---------------------------------------------------------------- the public side */

static an_status encode_all(lm_encoder *e, const char *text, size_t len, bool add_special)
{
    const an_vocab *v = e->v;
    an_status s = AN_OK;
    for (size_t i = 0; i < v->n_before && add_special && s == AN_OK; i++)
        s = an_lm_push(e, v->before[i]);
    if (s == AN_OK && len > 0) s = cut_added(e, &v->raw, text, len, true, encode_raw);
    for (size_t i = 0; i < v->n_after && add_special && s == AN_OK; i++)
        s = an_lm_push(e, v->after[i]);
    return s;
}

an_status an_vocab_encode(const an_vocab *v, const char *text, size_t len, int flags, int32_t **ids,
                          size_t *count, an_error *err)
{
    *ids = NULL;
    *count = 0;
    if (len > LM_MAX_TEXT)
        return an_fail(err, AN_TOO_LARGE, "the text has %zu bytes, at most %zu are read", len,
                       LM_MAX_TEXT);
    if (len == 0) text = ""; /* NULL is allowed then */
    if (!an_utf8_valid(text, len)) return an_fail(err, AN_INVALID, "the text is not valid UTF-8");
    an_error own; /* encoders read the status of a failed match from it */
    lm_encoder e = {.v = v, .err = err ? err : &own, .parse_special = flags & AN_PARSE_SPECIAL};
    an_status s = an_lm_matcher_open(&e.matcher, len, err);
    if (s != AN_OK) return s;
    an_lm_words_init(&e.words);
    s = encode_all(&e, text, len, flags & AN_ADD_SPECIAL);
    if (s == AN_OK) s = an_ids_give(&e.ids, ids, count, err);
    an_lm_words_free(&e.words);
    an_lm_matcher_close(&e.matcher);
    free(e.symbols);
    free(e.heap);
    free(e.best);
    if (s != AN_OK) free(e.ids.id);
    return s;
}

static void free_set(lm_added_set *set)
{
    for (size_t i = 0; i < set->n; i++) free(set->items[i].match);
    free(set->items);
}

void an_vocab_free(an_vocab *v)
{
    if (!v) return;
    an_buf_free(&v->pool);
    an_buf_free(&v->pieces);
    free(v->tokens);
    free(v->slots);
    free(v->sorted);
    free(v->merges);
    free(v->first);
    free(v->word_prefix);
    free(v->subword_prefix);
    free(v->word_suffix);
    free_set(&v->raw);
    free_set(&v->normalized);
    an_lm_steps_free(&v->normalizers);
    an_lm_steps_free(&v->splitters);
    an_lm_steps_free(&v->decoders);
    free(v->before);
    free(v->after);
    g_trie_free(atomic_load(&v->trie));
    free(v);
}

int32_t an_vocab_size(const an_vocab *v)
{
    return v->n_ids;
}

int32_t an_vocab_bos(const an_vocab *v)
{
    return v->bos;
}

int32_t an_vocab_eos(const an_vocab *v)
{
    return v->eos;
}

int32_t an_vocab_unk(const an_vocab *v)
{
    return v->unk;
}

int32_t an_vocab_pad(const an_vocab *v)
{
    return v->pad;
}

bool an_vocab_adds_bos(const an_vocab *v)
{
    return v->n_before > 0 && (v->bos < 0 || v->before[0] == v->bos);
}

bool an_vocab_adds_eos(const an_vocab *v)
{
    return v->n_after > 0 && (v->eos < 0 || v->after[v->n_after - 1] == v->eos);
}

int32_t an_vocab_fim(const an_vocab *v, const char *part)
{
    static const char *const parts[] = {"prefix", "suffix", "middle"};
    for (int i = 0; i < 3; i++)
        if (strcmp(part, parts[i]) == 0) return v->fim[i];
    return -1;
}

int32_t an_vocab_find(const an_vocab *v, const char *token, size_t len)
{
    return an_lm_find(v, token, len);
}

bool an_vocab_is_special(const an_vocab *v, int32_t id)
{
    return an_lm_exists(v, id) && (v->tokens[id].flags & LM_SPECIAL);
}

bool an_vocab_is_end(const an_vocab *v, int32_t id)
{
    return an_lm_exists(v, id) && (v->tokens[id].flags & LM_END);
}
