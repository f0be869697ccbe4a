/* grammar_trie.c: the pieces of a vocabulary as a trie of their bytes, depth first in one array, so
 * that a walk that skips what a grammar forbids reads it once from front to back. Building one
 * takes tens of milliseconds, so a vocabulary has one for its whole life. */
#include "grammar_impl.h"
#include "lm_vocab.h"

#include <stdlib.h>

typedef struct piece {
    const char *p;
    size_t n;
    int32_t id;
} piece;

static int by_bytes(const void *x, const void *y)
{
    const piece *a = x, *b = y;
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    if (c == 0) c = (a->n > b->n) - (a->n < b->n);
    return c ? c : (a->id > b->id) - (a->id < b->id);
}

/* The bytes token id adds to a text, if a grammar may ever allow it. */
static bool usable(const an_vocab *v, int32_t id, piece *out)
{
    if (an_vocab_is_special(v, id) || an_vocab_is_end(v, id)) return false;
    out->id = id;
    out->p = an_vocab_piece(v, id, false, &out->n);
    return out->p && out->n > 0 && out->n <= G_MAX_TOKEN;
}

static size_t shared(const piece *a, const piece *b)
{
    size_t n = 0;
    while (n < a->n && n < b->n && a->p[n] == b->p[n]) n++;
    return n;
}

/* Kinds of a piece's characters; one cut off at either end counts as broken, which asks for a look
 * at each byte. */
static unsigned kinds_of(const uint8_t *p, size_t n)
{
    unsigned kinds = 0;
    while (n > 0 && (*p & 0xc0) == 0x80) kinds |= G_BROKEN, p++, n--;
    for (size_t i = 0; i < n;) {
        size_t len = p[i] < 0x80 ? 1 : p[i] < 0xe0 ? 2 : p[i] < 0xf0 ? 3 : 4;
        if (i + len > n) return kinds | G_BROKEN;
        kinds |= !an_utf8_valid((const char *)p + i, len) ? G_BROKEN
                 : len == 1                               ? g_kind(p[i])
                                                          : G_WIDE;
        i += len;
    }
    return kinds;
}

/* Nodes of sorted pieces. path[d]: the open node of depth d, whose skip is known when it closes. A
 * node has the kinds of all pieces through it, which is more than what lies below it: it makes no
 * difference to one who read the bytes above and stayed. */
static void fill(g_trie *t, const piece *v, size_t n)
{
    uint32_t path[G_MAX_TOKEN];
    size_t open = 0;
    for (size_t i = 0; i < n; i++) {
        size_t same = i ? shared(&v[i - 1], &v[i]) : 0;
        unsigned kinds = kinds_of((const uint8_t *)v[i].p, v[i].n);
        while (open > same) t->nodes[path[--open]].skip = (uint32_t)t->n_nodes;
        for (; open < v[i].n; open++) {
            path[open] = (uint32_t)t->n_nodes;
            t->nodes[t->n_nodes++] = (g_trie_node){
                .first = (uint32_t)i, .depth = (uint16_t)open, .byte = (uint8_t)v[i].p[open]};
        }
        for (size_t k = 0; k < open; k++)
            t->nodes[path[k]].kinds = (uint16_t)(t->nodes[path[k]].kinds | kinds);
        t->order[i] = v[i].id;
    }
    while (open > 0) t->nodes[path[--open]].skip = (uint32_t)t->n_nodes;
    t->nodes[t->n_nodes] = (g_trie_node){.first = (uint32_t)n, .skip = (uint32_t)t->n_nodes};
}

void g_trie_free(g_trie *t)
{
    if (!t) return;
    free(t->nodes);
    free(t->order);
    free(t->ends);
    free(t->bytes);
    free(t->piece_at);
    free(t->piece_len);
    free(t);
}

static g_trie *build(const an_vocab *v)
{
    int32_t vocab = an_vocab_size(v);
    size_t n = 0, nodes = 0, bytes = 0, count = vocab > 0 ? (size_t)vocab : 0;
    g_trie *t = calloc(1, sizeof *t);
    piece *pieces = malloc((count + 1) * sizeof *pieces);
    if (!t || !pieces) goto fail;
    t->vocab = vocab;
    t->order = malloc((count + 1) * sizeof *t->order);
    t->ends = malloc((count + 1) * sizeof *t->ends);
    t->piece_at = calloc(count + 1, sizeof *t->piece_at);
    t->piece_len = calloc(count + 1, sizeof *t->piece_len);
    if (!t->order || !t->ends || !t->piece_at || !t->piece_len) goto fail;
    for (int32_t id = 0; id < vocab; id++) {
        if (an_vocab_is_end(v, id)) t->ends[t->n_ends++] = id;
        if (!usable(v, id, &pieces[n])) continue;
        t->piece_at[id] = (uint32_t)bytes;
        t->piece_len[id] = (uint16_t)pieces[n].n;
        bytes += pieces[n++].n;
    }
    if (bytes >= UINT32_MAX || !(t->bytes = malloc(bytes + 1))) goto fail;
    for (size_t i = 0; i < n; i++)
        memcpy(t->bytes + t->piece_at[pieces[i].id], pieces[i].p, pieces[i].n);
    qsort(pieces, n, sizeof *pieces, by_bytes);
    for (size_t i = 0; i < n; i++)
        nodes += pieces[i].n - (i ? shared(&pieces[i - 1], &pieces[i]) : 0);
    t->nodes = malloc((nodes + 1) * sizeof *t->nodes);
    if (!t->nodes) goto fail; /* fewer than bytes */
    fill(t, pieces, n);
    free(pieces);
    return t;
fail:
    free(pieces);
    g_trie_free(t);
    return NULL;
}

/* ---------------------------------------------------------------- a vocabulary's own */

/* Built once: whoever comes meanwhile waits for it. */
static pthread_mutex_t build_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t built; /* tries so far, under the lock */

const g_trie *g_trie_of(const an_vocab *v, an_error *err)
{
    an_vocab *owner = (an_vocab *)(uintptr_t)v; /* for its readers nothing changes */
    g_trie *t = atomic_load(&owner->trie);
    if (t) return t;
    pthread_mutex_lock(&build_lock);
    t = atomic_load(&owner->trie);
    if (!t && (t = build(v)) != NULL) {
        t->number = ++built;
        atomic_store(&owner->trie, t);
    }
    pthread_mutex_unlock(&build_lock);
    if (!t) an_fail(err, AN_NO_MEMORY, "grammar: out of memory for the vocabulary");
    return t;
}

an_status an_grammar_prepare(const an_vocab *v, an_error *err)
{
    return g_trie_of(v, err) ? AN_OK : AN_NO_MEMORY;
}
