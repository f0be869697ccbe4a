/* vocab_added.c: tokens that are cut out of a text before any model sees it: <|im_end|>, runs of
 * spaces that a user defined. */
#include "lm_vocab.h"

#include <stdlib.h>

an_status an_lm_added_add(lm_added_set *set, const char *match, size_t len, lm_added like,
                          an_error *err)
{
    if (len == 0) return AN_OK;
    if (len > LM_MAX_ADDED_BYTES)
        return an_fail(err, AN_INVALID,
                       "added token '%.60s' has %zu bytes, at most %d are possible", match, len,
                       LM_MAX_ADDED_BYTES);
    if ((set->n & (set->n - 1)) == 0) {
        lm_added *grown = realloc(set->items, (set->n ? set->n * 2 : 1) * sizeof *grown);
        if (!grown) return an_fail(err, AN_NO_MEMORY, "out of memory for added tokens");
        set->items = grown;
    }
    like.match = malloc(len + 1);
    if (!like.match) return an_fail(err, AN_NO_MEMORY, "out of memory for added tokens");
    memcpy(like.match, match, len);
    like.match[len] = '\0';
    like.len = len;
    set->starts[(unsigned char)match[0]] = true;
    set->items[set->n++] = like;
    return AN_OK;
}

static int by_match(const void *a, const void *b)
{
    const lm_added *x = a, *y = b;
    int c = memcmp(x->match, y->match, x->len < y->len ? x->len : y->len);
    if (c != 0) return c;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

void an_lm_added_sort(lm_added_set *set)
{
    if (set->n > 0) qsort(set->items, set->n, sizeof *set->items, by_match);
}

/* The sorted list narrowed byte by byte: what begins with text[at ..] is one stretch of it. */
const lm_added *an_lm_added_at(const lm_added_set *set, const char *text, size_t len, size_t at,
                               bool with_special)
{
    if (set->n == 0 || !set->starts[(unsigned char)text[at]]) return NULL;
    const lm_added *found = NULL;
    size_t low = 0, high = set->n;
    for (size_t depth = 0; at + depth < len && low < high; depth++) {
        unsigned char b = (unsigned char)text[at + depth];
        size_t a = low, z = high;
        while (a < z) { /* first that is not below b; shorter ones are */
            size_t mid = a + (z - a) / 2;
            const lm_added *m = &set->items[mid];
            if (m->len <= depth || (unsigned char)m->match[depth] < b)
                a = mid + 1;
            else
                z = mid;
        }
        low = a;
        z = high;
        while (a < z) {
            size_t mid = a + (z - a) / 2;
            if ((unsigned char)set->items[mid].match[depth] <= b)
                a = mid + 1;
            else
                z = mid;
        }
        high = a;
        for (size_t i = low; i < high && set->items[i].len == depth + 1; i++)
            if (with_special || !set->items[i].special) {
                found = &set->items[i];
                break;
            }
    }
    return found;
}
