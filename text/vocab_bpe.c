/* vocab_bpe.c: byte-pair encoding (Sennrich et al. 2016) by ranked merges, and SentencePiece's
 * kind of it, where the pair whose sum has the best score goes first. Symbols are a linked list,
 * pairs wait in a heap: a word of n bytes costs n log n, be it a megabyte of one letter. */
#include "lm_vocab.h"

#include <stdlib.h>

static bool has_bytes(const an_vocab *v, const char *text, size_t len)
{
    bool all = v->fallback;
    for (size_t i = 0; i < len && all; i++) all = v->byte_id[(unsigned char)text[i]] >= 0;
    return all;
}

/* What no token covers: its bytes where the vocabulary has them, else the unknown token, else
 * nothing. */
an_status an_lm_push_unknown(lm_encoder *e, const char *text, size_t len)
{
    const an_vocab *v = e->v;
    if (!has_bytes(v, text, len)) return v->unknown >= 0 ? an_lm_push(e, v->unknown) : AN_OK;
    an_status s = AN_OK;
    for (size_t i = 0; i < len && s == AN_OK; i++)
        s = an_lm_push(e, v->byte_id[(unsigned char)text[i]]);
    return s;
}

/* ---------------------------------------------------------------- merging */

/* The pair at `at` and its right neighbour, if it can merge. */
static void propose(lm_encoder *e, const char *word, int32_t at)
{
    const an_vocab *v = e->v;
    if (at < 0 || e->symbols[at].next < 0) return;
    const lm_symbol *left = &e->symbols[at], *right = &e->symbols[left->next];
    an_pair c = {0, at, -1, left->len + right->len};
    if (v->kind == LM_SPM) {
        c.result = an_lm_find_plain(v, word + left->at, c.len);
        if (c.result < 0) return;
        c.rank = v->tokens[c.result].rank;
    } else {
        const lm_merge *m = an_lm_merge_find(v, left->id, right->id);
        if (!m) return;
        c.rank = m->rank;
        c.result = m->result;
    }
    an_pair_push(e->heap, &e->n_heap, c);
}

/* Symbols only grow, so a pair whose length is still the sum is still the pair that was proposed.
 */
static void merge_all(lm_encoder *e, const char *word)
{
    int32_t n = (int32_t)e->n_symbols;
    e->n_heap = 0;
    for (int32_t i = 0; i < n; i++) {
        e->symbols[i].prev = i - 1;
        e->symbols[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < n; i++) propose(e, word, i);
    while (e->n_heap > 0) {
        an_pair c = an_pair_pop(e->heap, &e->n_heap);
        lm_symbol *left = &e->symbols[c.at];
        if (left->len == 0 || left->next < 0) continue;
        lm_symbol *right = &e->symbols[left->next];
        if (left->len + right->len != c.len) continue;
        left->len = c.len;
        left->id = c.result;
        right->len = 0;
        left->next = right->next;
        if (right->next >= 0) e->symbols[right->next].prev = c.at;
        propose(e, word, left->prev);
        propose(e, word, c.at);
    }
}

/* ---------------------------------------------------------------- symbols of a word */

/* A word has at most a symbol for each byte. Every merge makes two pairs at most, so the heap never
 * holds more than three times the symbols. */
static an_status reserve(lm_encoder *e, size_t len)
{
    e->n_symbols = 0;
    if (len <= e->cap_symbols) return AN_OK;
    size_t cap = len < 64 ? 64 : len + len / 2;
    lm_symbol *symbols = realloc(e->symbols, cap * sizeof *symbols);
    if (symbols) e->symbols = symbols;
    an_pair *heap = realloc(e->heap, cap * 3 * sizeof *heap);
    if (heap) e->heap = heap;
    if (!symbols || !heap)
        return an_fail(e->err, AN_NO_MEMORY, "out of memory for a word of %zu bytes", len);
    e->cap_symbols = cap;
    return AN_OK;
}

static void add_symbol(lm_encoder *e, int32_t id, size_t at, size_t len)
{
    e->symbols[e->n_symbols++] = (lm_symbol){id, -1, -1, (uint32_t)at, (uint32_t)len};
}

/* The token of one character, marked as inside or at the end of a word where the model does so. */
static int32_t char_token(const an_vocab *v, const char *text, size_t len, bool first, bool last)
{
    if (!*v->subword_prefix && !*v->word_suffix) return an_lm_find_plain(v, text, len);
    const char *before = first ? "" : v->subword_prefix, *after = last ? v->word_suffix : "";
    size_t nb = strlen(before), na = strlen(after);
    char s[256];
    if (nb + len + na > sizeof s) return -1;
    memcpy(s, before, nb);
    memcpy(s + nb, text, len);
    memcpy(s + nb + len, after, na);
    return an_lm_find_plain(v, s, nb + len + na);
}

/* Characters that the vocabulary lacks become bytes, or wait as one unknown token until the next
 * known character (tokenizers pushes it only then, so bytes that follow it come first). */
static void add_chars(lm_encoder *e, const char *word, size_t len)
{
    const an_vocab *v = e->v;
    size_t unknown_at = 0, unknown_len = 0;
    for (size_t at = 0, n; at < len; at += n) {
        n = an_lm_char_len(word[at]);
        if (n > len - at) n = len - at;
        int32_t id = char_token(v, word + at, n, at == 0, at + n == len);
        if (id < 0 && has_bytes(v, word + at, n)) {
            for (size_t i = 0; i < n; i++)
                add_symbol(e, v->byte_id[(unsigned char)word[at + i]], at + i, 1);
            continue;
        }
        if (id >= 0 || !v->fuse_unknown) {
            if (unknown_len > 0) add_symbol(e, v->unknown, unknown_at, unknown_len);
            unknown_len = 0;
        }
        if (id >= 0) {
            add_symbol(e, id, at, n);
        } else if (v->unknown >= 0) {
            if (unknown_len == 0) unknown_at = at;
            unknown_len += n;
        }
    }
    if (unknown_len > 0) add_symbol(e, v->unknown, unknown_at, unknown_len);
}

static an_status encode_spm(lm_encoder *e, const char *word, size_t len)
{
    for (size_t at = 0, n; at < len; at += n) {
        n = an_lm_char_len(word[at]);
        if (n > len - at) n = len - at;
        add_symbol(e, an_lm_find_plain(e->v, word + at, n), at, n);
    }
    merge_all(e, word);
    an_status s = AN_OK;
    for (int32_t i = 0; i >= 0 && s == AN_OK; i = e->symbols[i].next) {
        const lm_symbol *y = &e->symbols[i];
        s = y->id >= 0 ? an_lm_push(e, y->id) : an_lm_push_unknown(e, word + y->at, y->len);
    }
    return s;
}

an_status an_lm_bpe(lm_encoder *e, const char *word, size_t len)
{
    const an_vocab *v = e->v;
    if (v->kind == LM_BPE && v->ignore_merges) {
        int32_t whole = an_lm_find_plain(v, word, len);
        if (whole >= 0) return an_lm_push(e, whole);
    }
    an_status s = reserve(e, len);
    if (s != AN_OK) return s;
    if (v->kind == LM_SPM) return encode_spm(e, word, len);
    add_chars(e, word, len);
    if (e->n_symbols == 0) return AN_OK;
    merge_all(e, word);
    for (int32_t i = 0; i >= 0 && s == AN_OK; i = e->symbols[i].next)
        s = an_lm_push(e, e->symbols[i].id);
    return s;
}
