/* vocab.c: the tables of a tokenizer. Sorted arrays and binary search, no hash table: a hostile
 * file can collide a hash on purpose, it cannot unsort an array. */
#include "tokenizer.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- bytes as characters */

/* Bytes that GPT-2 found unprintable: 0 .. 32, 127 .. 160 and 173, in this order. */
uint32_t an_byte_to_char(unsigned byte)
{
    if (byte <= 32) return 256 + byte;
    if (byte >= 127 && byte <= 160) return 256 + 33 + (byte - 127);
    if (byte == 173) return 256 + 67;
    return byte;
}

int an_char_to_byte(uint32_t c)
{
    if (c >= 256 && c < 256 + 33) return (int)(c - 256);
    if (c >= 256 + 33 && c < 256 + 67) return (int)(c - 256 - 33 + 127);
    if (c == 256 + 67) return 173;
    return c < 256 && an_byte_to_char(c) == c ? (int)c : -1;
}

size_t an_put_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(lead[n] | c);
    return n;
}

/* ---------------------------------------------------------------- tokens */

static an_status grow_ids(an_tokenizer *t, int32_t id, an_error *err)
{
    int32_t cap = t->cap_ids ? t->cap_ids : 1024;
    while (cap <= id) cap *= 2;
    if (cap != t->cap_ids) {
        uint32_t *offset = realloc(t->offset, (size_t)cap * sizeof *offset);
        if (offset) t->offset = offset;
        uint32_t *length = realloc(t->length, (size_t)cap * sizeof *length);
        if (length) t->length = length;
        if (!offset || !length)
            return an_fail(err, AN_NO_MEMORY, "out of memory for %d tokens", cap);
        t->cap_ids = cap;
    }
    for (; t->n_ids <= id; t->n_ids++) t->offset[t->n_ids] = NO_TOKEN, t->length[t->n_ids] = 0;
    return AN_OK;
}

an_status an_clip_vocab_add(an_tokenizer *t, const char *text, size_t len, int64_t id, an_error *err)
{
    if (len == 0 || len > 65535)
        return an_fail(err, AN_INVALID, "token %lld has %zu bytes, 1 to 65535 are possible",
                       (long long)id, len);
    if (id < 0 || id >= MAX_TOKENS)
        return an_fail(err, AN_INVALID, "token '%.60s' has the id %lld, 0 to %d are possible", text,
                       (long long)id, MAX_TOKENS - 1);
    an_status s = grow_ids(t, (int32_t)id, err);
    if (s != AN_OK) return s;
    if (t->offset[id] != NO_TOKEN)
        return an_fail(err, AN_INVALID, "tokens '%.60s' and '%.60s' have the same id %lld",
                       t->pool.data + t->offset[id], text, (long long)id);
    size_t at = t->pool.len;
    an_buf_add(&t->pool, text, len);
    if (!an_buf_add(&t->pool, "", 1))
        return an_fail(err, AN_NO_MEMORY, "out of memory for the vocabulary's text");
    t->offset[id] = (uint32_t)at;
    t->length[id] = (uint32_t)len;
    return AN_OK;
}

static int compare_text(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int c = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return c ? c : (a_len > b_len) - (a_len < b_len);
}

static int by_text(const void *a, const void *b, void *arg)
{
    const an_tokenizer *t = arg;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return compare_text(t->pool.data + t->offset[x], t->length[x], t->pool.data + t->offset[y],
                        t->length[y]);
}

an_status an_clip_vocab_index(an_tokenizer *t, an_error *err)
{
    if (t->n_ids == 0) return an_fail(err, AN_INVALID, "the vocabulary is empty");
    t->sorted = malloc((size_t)t->n_ids * sizeof *t->sorted);
    if (!t->sorted) return an_fail(err, AN_NO_MEMORY, "out of memory for %d tokens", t->n_ids);
    for (int32_t id = 0; id < t->n_ids; id++)
        if (t->offset[id] != NO_TOKEN) t->sorted[t->n_sorted++] = id;
    qsort_r(t->sorted, (size_t)t->n_sorted, sizeof *t->sorted, by_text, t);
    for (int32_t i = 1; i < t->n_sorted; i++)
        if (by_text(&t->sorted[i - 1], &t->sorted[i], t) == 0)
            return an_fail(err, AN_INVALID, "token '%.60s' has two ids, %d and %d",
                           t->pool.data + t->offset[t->sorted[i]], t->sorted[i - 1], t->sorted[i]);
    return AN_OK;
}

int32_t an_clip_vocab_find(const an_tokenizer *t, const char *text, size_t len)
{
    int32_t low = 0, high = t->n_sorted;
    while (low < high) {
        int32_t mid = low + (high - low) / 2, id = t->sorted[mid];
        int c = compare_text(t->pool.data + t->offset[id], t->length[id], text, len);
        if (c == 0) return id;
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return -1;
}

int32_t an_token_find(const an_tokenizer *t, const char *text)
{
    for (int i = 0; i < t->n_added; i++)
        if (strcmp(t->added[i].text, text) == 0) return t->added[i].id;
    return an_clip_vocab_find(t, text, strlen(text));
}

/* ---------------------------------------------------------------- merges */

an_status an_merge_add(an_tokenizer *t, const char *left, size_t left_len, const char *right,
                       size_t right_len, an_error *err)
{
    if (t->n_merges >= MAX_TOKENS)
        return an_fail(err, AN_INVALID, "more than %d merges", MAX_TOKENS);
    if ((t->n_merges & (t->n_merges - 1)) == 0) { /* 0, 1, 2, 4, ...: room for as many again */
        size_t cap = t->n_merges ? (size_t)t->n_merges * 2 : 1;
        merge *grown = realloc(t->merges, cap * sizeof *grown);
        if (!grown) return an_fail(err, AN_NO_MEMORY, "out of memory for %zu merges", cap);
        t->merges = grown;
    }
    char sum[131072];
    if (left_len == 0 || right_len == 0 || left_len > 65535 || right_len > 65535)
        return an_fail(err, AN_INVALID,
                       "merge %d is not two tokens of 1 to 65535 bytes with one space between",
                       t->n_merges + 1);
    memcpy(sum, left, left_len);
    memcpy(sum + left_len, right, right_len);
    merge m = {an_clip_vocab_find(t, left, left_len), an_clip_vocab_find(t, right, right_len), t->n_merges,
               an_clip_vocab_find(t, sum, left_len + right_len)};
    if (m.left < 0 || m.right < 0 || m.result < 0) {
        const char *what = m.left < 0 ? left : m.right < 0 ? right : sum;
        size_t len = m.left < 0 ? left_len : m.right < 0 ? right_len : left_len + right_len;
        return an_fail(err, AN_INVALID,
                       "merge %d ('%.*s' with '%.*s') needs the token '%.*s', which the "
                       "vocabulary lacks",
                       t->n_merges + 1, (int)(left_len < 60 ? left_len : 60), left,
                       (int)(right_len < 60 ? right_len : 60), right, (int)(len < 120 ? len : 120),
                       what);
    }
    t->merges[t->n_merges++] = m;
    return AN_OK;
}

static int by_pair(const void *a, const void *b)
{
    const merge *x = a, *y = b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    if (x->right != y->right) return x->right < y->right ? -1 : 1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

an_status an_merges_index(an_tokenizer *t, an_error *err)
{
    t->first = calloc((size_t)t->n_ids + 1, sizeof *t->first);
    if (!t->first) return an_fail(err, AN_NO_MEMORY, "out of memory for %d tokens", t->n_ids);
    if (t->n_merges > 0) qsort(t->merges, (size_t)t->n_merges, sizeof *t->merges, by_pair);
    /* A pair listed twice counts with its last rank, as in the tokenizers library. */
    int32_t kept = 0;
    for (int32_t i = 0; i < t->n_merges; i++) {
        bool same = kept > 0 && t->merges[kept - 1].left == t->merges[i].left &&
                    t->merges[kept - 1].right == t->merges[i].right;
        t->merges[same ? kept - 1 : kept++] = t->merges[i];
    }
    t->n_merges = kept;
    for (int32_t i = 0; i < kept; i++) t->first[t->merges[i].left + 1]++;
    for (int32_t id = 0; id < t->n_ids; id++) t->first[id + 1] += t->first[id];
    return AN_OK;
}

const merge *an_merge_find(const an_tokenizer *t, int32_t left, int32_t right)
{
    int32_t low = t->first[left], end = t->first[left + 1], high = end;
    while (low < high) {
        int32_t mid = low + (high - low) / 2;
        if (t->merges[mid].right < right)
            low = mid + 1;
        else
            high = mid;
    }
    return low < end && t->merges[low].right == right ? &t->merges[low] : NULL;
}
