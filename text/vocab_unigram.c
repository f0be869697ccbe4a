/* vocab_unigram.c: the most probable segmentation under a Unigram model (Kudo 2018), by Viterbi
 * over byte offsets. The vocabulary in order of its text serves as the trie: what continues a
 * beginning is one stretch of the list, narrowed byte by byte. */
#include "lm_vocab.h"

#include <stdlib.h>

/* Narrows [*low, *high), whose tokens share `depth` bytes, to those that go on with b. */
static void narrow(const an_vocab *v, int32_t *low, int32_t *high, size_t depth, unsigned char b)
{
    int32_t a = *low, z = *high;
    while (a < z) {
        int32_t mid = a + (z - a) / 2, id = v->sorted[mid];
        const lm_token *t = &v->tokens[id];
        if (t->len <= depth || (unsigned char)an_lm_text(v, id)[depth] < b)
            a = mid + 1;
        else
            z = mid;
    }
    *low = a;
    z = *high;
    while (a < z) {
        int32_t mid = a + (z - a) / 2;
        if ((unsigned char)an_lm_text(v, v->sorted[mid])[depth] <= b)
            a = mid + 1;
        else
            z = mid;
    }
    *high = a;
}

static void challenge(lm_best *b, size_t from, int32_t id, double score)
{
    if (b->from != UINT32_MAX && !(score > b->score)) return;
    *b = (lm_best){score, (uint32_t)from, id};
}

static void search(const an_vocab *v, const char *word, size_t len, lm_best *best)
{
    for (size_t i = 0; i <= len; i++) best[i] = (lm_best){0, UINT32_MAX, -1};
    for (size_t at = 0, n; at < len; at += n) {
        n = an_lm_char_len(word[at]);
        if (n > len - at) n = len - at;
        int32_t low = 0, high = v->n_sorted;
        bool single = false;
        for (size_t k = 0; at + k < len && low < high; k++) {
            narrow(v, &low, &high, k, (unsigned char)word[at + k]);
            if (low >= high) break;
            int32_t id = v->sorted[low];
            const lm_token *t = &v->tokens[id];
            if (t->len != k + 1) continue;
            double score = t->flags & LM_FREE_SCORE ? 0 : t->score;
            challenge(&best[at + k + 1], at, id == v->unknown ? -1 : id, best[at].score + score);
            single = single || k + 1 == n;
        }
        if (!single) challenge(&best[at + n], at, -1, best[at].score + v->unknown_score);
    }
}

/* A row of unknown characters is one piece: a token that happens to have its text, its bytes, or
 * one unknown token. */
static an_status push_unknown_row(lm_encoder *e, const char *text, size_t len)
{
    if (len == 0) return AN_OK;
    int32_t id = e->v->gguf ? -1 : an_lm_find_plain(e->v, text, len);
    return id >= 0 ? an_lm_push(e, id) : an_lm_push_unknown(e, text, len);
}

an_status an_lm_unigram(lm_encoder *e, const char *word, size_t len)
{
    if (len + 1 > e->cap_best) {
        size_t cap = len < 256 ? 256 : len + len / 2;
        lm_best *grown = realloc(e->best, cap * sizeof *grown);
        if (!grown)
            return an_fail(e->err, AN_NO_MEMORY, "out of memory for a word of %zu bytes", len);
        e->best = grown;
        e->cap_best = cap;
    }
    lm_best *best = e->best;
    search(e->v, word, len, best);
    /* The way back turned round: each end learns where the next piece ends. */
    size_t end = len, next = len;
    while (end > 0) {
        size_t from = best[end].from;
        best[end].from = (uint32_t)next;
        next = end;
        end = from;
    }
    an_status s = AN_OK;
    size_t at = 0, row = 0;
    for (size_t stop = next; at < len && s == AN_OK;) {
        int32_t id = best[stop].id;
        if (id >= 0) {
            s = push_unknown_row(e, word + row, at - row);
            if (s == AN_OK) s = an_lm_push(e, id);
            row = stop;
        }
        at = stop;
        stop = best[stop].from;
    }
    return s == AN_OK ? push_unknown_row(e, word + row, len - row) : s;
}
