/* vocab_table.c: the tables of a language model's vocabulary. Tokens are found by a hash whose seed
 * is drawn when the file is opened, so that no file can be made to collide. */
#include "lm_vocab.h"

#include <stdlib.h>
#include <sys/random.h>

#define MAX_POOL ((size_t)512 << 20)

/* ---------------------------------------------------------------- tokens */

static an_status grow_ids(an_vocab *v, int32_t id, an_error *err)
{
    int32_t cap = v->cap_ids ? v->cap_ids : 1024;
    while (cap <= id) cap *= 2;
    if (cap != v->cap_ids) {
        lm_token *grown = realloc(v->tokens, (size_t)cap * sizeof *grown);
        if (!grown) return an_fail(err, AN_NO_MEMORY, "out of memory for %d tokens", cap);
        v->tokens = grown;
        v->cap_ids = cap;
    }
    for (; v->n_ids <= id; v->n_ids++) v->tokens[v->n_ids] = (lm_token){0};
    return AN_OK;
}

an_status an_lm_token_add(an_vocab *v, const char *text, size_t len, int64_t id, uint32_t flags,
                          an_error *err)
{
    int shown = (int)(len < 60 ? len : 60);
    if (len > LM_MAX_TOKEN_BYTES)
        return an_fail(err, AN_INVALID, "token %lld has %zu bytes, at most %d are possible",
                       (long long)id, len, LM_MAX_TOKEN_BYTES);
    if (id < 0 || id >= MAX_TOKENS)
        return an_fail(err, AN_INVALID, "token '%.*s' has the id %lld, 0 to %d are possible", shown,
                       text, (long long)id, MAX_TOKENS - 1);
    an_status s = grow_ids(v, (int32_t)id, err);
    if (s != AN_OK) return s;
    lm_token *t = &v->tokens[id];
    if (t->flags & LM_EXISTS)
        return an_fail(err, AN_INVALID, "tokens '%.60s' and '%.*s' have the same id %lld",
                       an_lm_text(v, (int32_t)id), shown, text, (long long)id);
    if (v->pool.max == 0) an_buf_init(&v->pool, MAX_POOL);
    size_t at = v->pool.len;
    an_buf_add(&v->pool, text, len);
    if (!an_buf_add(&v->pool, "", 1))
        return an_fail(err, AN_NO_MEMORY, "no room for the vocabulary's text of %zu bytes", at);
    *t = (lm_token){.at = (uint32_t)at, .len = (uint32_t)len, .flags = LM_EXISTS | flags};
    if (flags & LM_MODEL) v->n_model++;
    return AN_OK;
}

/* ---------------------------------------------------------------- finding a text */

static uint64_t hash(const an_vocab *v, const char *s, size_t len)
{
    uint64_t h = v->seed ^ (len * 0x9e3779b97f4a7c15u), w;
    for (; len >= 8; s += 8, len -= 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    w = 0;
    memcpy(&w, s, len);
    h = (h ^ w ^ (v->seed >> 17)) * 0xc4ceb9fe1a85ec53u;
    h ^= h >> 29;
    h *= 0xff51afd7ed558ccdu;
    return h ^ (h >> 32);
}

an_status an_lm_index_reserve(an_vocab *v, size_t n, an_error *err)
{
    size_t slots = 1024;
    while (slots < n * 2) slots *= 2;
    v->slots = malloc(slots * sizeof *v->slots);
    if (!v->slots) return an_fail(err, AN_NO_MEMORY, "out of memory for %zu tokens", n);
    for (size_t i = 0; i < slots; i++) v->slots[i] = -1;
    v->n_slots = slots;
    if (getrandom(&v->seed, sizeof v->seed, 0) != (ssize_t)sizeof v->seed)
        v->seed = (uint64_t)(uintptr_t)v->slots * 0x9e3779b97f4a7c15u;
    return AN_OK;
}

/* The slot that has the text, or the empty one where it belongs. */
static size_t slot_of(const an_vocab *v, const char *text, size_t len)
{
    size_t i = hash(v, text, len) & (v->n_slots - 1);
    for (;; i = (i + 1) & (v->n_slots - 1)) {
        int32_t id = v->slots[i];
        if (id < 0) return i;
        const lm_token *t = &v->tokens[id];
        if (t->len == len && memcmp(v->pool.data + t->at, text, len) == 0) return i;
    }
}

bool an_lm_token_index(an_vocab *v, int32_t id, int32_t *other)
{
    const lm_token *t = &v->tokens[id];
    if (t->len == 0) return true;
    int32_t *slot = &v->slots[slot_of(v, v->pool.data + t->at, t->len)];
    *other = *slot;
    if (*slot >= 0) return *slot == id;
    *slot = id;
    return true;
}

int32_t an_lm_find(const an_vocab *v, const char *text, size_t len)
{
    return len == 0 || !v->slots ? -1 : v->slots[slot_of(v, text, len)];
}

int32_t an_lm_find_plain(const an_vocab *v, const char *text, size_t len)
{
    if (len > v->longest) return -1;
    int32_t id = an_lm_find(v, text, len);
    return id >= 0 && (v->tokens[id].flags & LM_PLAIN) ? id : -1;
}

/* ---------------------------------------------------------------- merges */

an_status an_lm_merge_add(an_vocab *v, const char *left, size_t left_len, const char *right,
                          size_t right_len, int32_t rank, bool strict, an_error *err)
{
    if (v->n_merges >= MAX_TOKENS)
        return an_fail(err, AN_INVALID, "more than %d merges", MAX_TOKENS);
    if ((v->n_merges & (v->n_merges - 1)) == 0) { /* 0, 1, 2, 4, ...: room for as many again */
        size_t cap = v->n_merges ? (size_t)v->n_merges * 2 : 1;
        lm_merge *grown = realloc(v->merges, cap * sizeof *grown);
        if (!grown) return an_fail(err, AN_NO_MEMORY, "out of memory for %zu merges", cap);
        v->merges = grown;
    }
    lm_merge m = {-1, -1, rank, -1};
    char sum[2 * LM_MAX_TOKEN_BYTES];
    /* The right part loses the prefix that marks it as the inside of a word. */
    size_t cut = strlen(v->subword_prefix), sum_len = 0;
    if (left_len <= LM_MAX_TOKEN_BYTES && right_len <= LM_MAX_TOKEN_BYTES && right_len >= cut) {
        memcpy(sum, left, left_len);
        memcpy(sum + left_len, right + cut, right_len - cut);
        sum_len = left_len + right_len - cut;
        m.left = an_lm_find(v, left, left_len);
        m.right = an_lm_find(v, right, right_len);
        m.result = an_lm_find(v, sum, sum_len);
    }
    if (m.left < 0 || m.right < 0 || m.result < 0) {
        if (!strict) return AN_OK;
        const char *what = m.left < 0 ? left : m.right < 0 ? right : sum;
        size_t len = m.left < 0 ? left_len : m.right < 0 ? right_len : sum_len;
        return an_fail(err, AN_INVALID,
                       "merge %d ('%.*s' with '%.*s') needs the token '%.*s', which the "
                       "vocabulary lacks",
                       rank + 1, (int)(left_len < 60 ? left_len : 60), left,
                       (int)(right_len < 60 ? right_len : 60), right, (int)(len < 120 ? len : 120),
                       what);
    }
    v->merges[v->n_merges++] = m;
    return AN_OK;
}

static int by_pair(const void *a, const void *b)
{
    const lm_merge *x = a, *y = b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    if (x->right != y->right) return x->right < y->right ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static an_status sort_merges(an_vocab *v, an_error *err)
{
    v->first = calloc((size_t)v->n_ids + 1, sizeof *v->first);
    if (!v->first) return an_fail(err, AN_NO_MEMORY, "out of memory for %d tokens", v->n_ids);
    if (v->n_merges > 0) qsort(v->merges, (size_t)v->n_merges, sizeof *v->merges, by_pair);
    /* A pair listed twice: its last rank counts in tokenizers, its first in llama.cpp. */
    int32_t kept = 0;
    for (int32_t i = 0; i < v->n_merges; i++) {
        bool same = kept > 0 && v->merges[kept - 1].left == v->merges[i].left &&
                    v->merges[kept - 1].right == v->merges[i].right;
        if (same && v->gguf) continue;
        v->merges[same ? kept - 1 : kept++] = v->merges[i];
    }
    v->n_merges = kept;
    for (int32_t i = 0; i < kept; i++) v->first[v->merges[i].left + 1]++;
    for (int32_t id = 0; id < v->n_ids; id++) v->first[id + 1] += v->first[id];
    return AN_OK;
}

const lm_merge *an_lm_merge_find(const an_vocab *v, int32_t left, int32_t right)
{
    if (left < 0 || right < 0) return NULL;
    int32_t low = v->first[left], end = v->first[left + 1], high = end;
    while (low < high) {
        int32_t mid = low + (high - low) / 2;
        if (v->merges[mid].right < right)
            low = mid + 1;
        else
            high = mid;
    }
    return low < end && v->merges[low].right == right ? &v->merges[low] : NULL;
}

/* ---------------------------------------------------------------- finishing */

/* Text never becomes a control token by the model's own rules: "</s>" in a prompt is five letters
 * to a Unigram model too, though its trie would know better. A special token of one character is
 * spared: it is that character ("!" is padding in some vocabularies). */
static void mark_plain(an_vocab *v)
{
    v->longest = 0;
    for (int32_t id = 0; id < v->n_ids; id++) {
        lm_token *t = &v->tokens[id];
        bool one = t->len > 0 && an_lm_char_len(v->pool.data[t->at]) == t->len;
        if (!(t->flags & LM_MODEL) || t->len == 0) continue;
        if ((t->flags & LM_SPECIAL) && !one) continue;
        t->flags |= LM_PLAIN;
        if (t->len > v->longest) v->longest = t->len;
    }
}

/* A merge that ends in a control token is never made. */
static void drop_special_merges(an_vocab *v)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < v->n_merges; i++)
        if (v->tokens[v->merges[i].result].flags & LM_PLAIN) v->merges[kept++] = v->merges[i];
    v->n_merges = kept;
}

static int by_text(const void *a, const void *b, void *arg)
{
    const an_vocab *v = arg;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    size_t nx = v->tokens[x].len, ny = v->tokens[y].len;
    int c = memcmp(an_lm_text(v, x), an_lm_text(v, y), nx < ny ? nx : ny);
    return c ? c : (nx > ny) - (nx < ny);
}

static int by_score(const void *a, const void *b, void *arg)
{
    const an_vocab *v = arg;
    double x = v->tokens[*(const int32_t *)a].score, y = v->tokens[*(const int32_t *)b].score;
    return x > y ? -1 : x < y;
}

/* Unigram: plain tokens by text. SentencePiece: the rank of each score, equal ones alike. */
static an_status sort_tokens(an_vocab *v, an_error *err)
{
    v->sorted = malloc(((size_t)v->n_ids + 1) * sizeof *v->sorted);
    if (!v->sorted) return an_fail(err, AN_NO_MEMORY, "out of memory for %d tokens", v->n_ids);
    for (int32_t id = 0; id < v->n_ids; id++) {
        lm_token *t = &v->tokens[id];
        /* Of two tokens with one text only the one found under it takes part. */
        if ((t->flags & LM_PLAIN) && an_lm_find(v, an_lm_text(v, id), t->len) == id)
            v->sorted[v->n_sorted++] = id;
    }
    if (v->kind == LM_UNIGRAM) {
        qsort_r(v->sorted, (size_t)v->n_sorted, sizeof *v->sorted, by_text, v);
        return AN_OK;
    }
    qsort_r(v->sorted, (size_t)v->n_sorted, sizeof *v->sorted, by_score, v);
    for (int32_t i = 0, rank = 0; i < v->n_sorted; i++) {
        if (i > 0 && by_score(&v->sorted[i - 1], &v->sorted[i], v) != 0) rank = i;
        v->tokens[v->sorted[i]].rank = rank;
    }
    return AN_OK;
}

static void find_bytes(an_vocab *v)
{
    for (int b = 0; b < 256; b++) {
        char s[8];
        static const char hex[] = "0123456789ABCDEF";
        memcpy(s, "<0x00>", 7);
        s[3] = hex[b >> 4];
        s[4] = hex[b & 15];
        v->byte_id[b] = an_lm_find(v, s, 6);
        if (v->byte_id[b] < 0 && v->gguf) { /* llama.cpp then tries the byte itself */
            s[0] = (char)b;
            v->byte_id[b] = an_lm_find(v, s, 1);
        }
    }
}

static an_status fill_pieces(an_vocab *v, an_error *err)
{
    an_buf_init(&v->pieces, MAX_POOL);
    for (int32_t id = 0; id < v->n_ids; id++) {
        lm_token *t = &v->tokens[id];
        t->piece_at = (uint32_t)v->pieces.len;
        if (t->flags & LM_EXISTS) an_lm_decode_token(v, id, false, false, &v->pieces);
        t->piece_len = (uint32_t)(v->pieces.len - t->piece_at);
    }
    if (!an_buf_add(&v->pieces, "", 1))
        return an_fail(err, AN_NO_MEMORY, "no room for what %d tokens decode to", v->n_ids);
    return AN_OK;
}

/* A token may become special after it was added: by its name, by a config. */
static void mark_added(const an_vocab *v, lm_added_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        set->items[i].special = v->tokens[set->items[i].id].flags & LM_SPECIAL;
}

an_status an_lm_finish(an_vocab *v, an_error *err)
{
    mark_added(v, &v->raw);
    mark_added(v, &v->normalized);
    an_lm_added_sort(&v->raw);
    an_lm_added_sort(&v->normalized);
    mark_plain(v);
    drop_special_merges(v);
    find_bytes(v);
    an_status s = sort_merges(v, err);
    if (s == AN_OK && (v->kind == LM_UNIGRAM || v->kind == LM_SPM)) s = sort_tokens(v, err);
    if (s == AN_OK) s = fill_pieces(v, err);
    return s;
}
