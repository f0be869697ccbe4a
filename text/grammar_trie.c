/* grammar_trie.c: the pieces of a vocabulary as a trie of their bytes, depth first in one array, so
 * that a walk that skips what a grammar forbids reads it once from front to back. Building one
 * takes tens of milliseconds, so the last ones are kept: they are found by what is in the
 * vocabulary, not by its address, which another vocabulary may have after it. */
#include "grammar_impl.h"

#include <stdlib.h>

#define KEPT 4 /* tries that stay without a user */

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

static void free_trie(g_trie *t)
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
    free_trie(t);
    return NULL;
}

/* ---------------------------------------------------------------- the ones that are known */

static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;
static g_trie *known; /* newest first */

static void hash(const an_vocab *v, uint64_t key[2])
{
    uint64_t a = 0xcbf29ce484222325u, b = 0x9e3779b97f4a7c15u;
    for (int32_t id = 0; id < an_vocab_size(v); id++) {
        piece p = {0};
        uint64_t kind = usable(v, id, &p) ? 1 + p.n : an_vocab_is_end(v, id) ? UINT64_MAX : 0;
        a = (a ^ kind) * 0x100000001b3u;
        b = (b + kind) * 0xbf58476d1ce4e5b9u;
        b ^= b >> 31;
        for (size_t i = 0; kind && kind != UINT64_MAX && i < p.n; i++) {
            a = (a ^ (unsigned char)p.p[i]) * 0x100000001b3u;
            b = (b ^ (unsigned char)p.p[i]) * 0x94d049bb133111ebu;
        }
    }
    key[0] = a;
    key[1] = b ^ (b >> 29);
}

/* Forgets what is beyond KEPT and used by nobody. */
static void forget(void)
{
    int n = 0;
    for (g_trie **at = &known; *at;) {
        g_trie *t = *at;
        if (++n > KEPT && t->refs == 0) {
            *at = t->next;
            free_trie(t);
        } else {
            at = &t->next;
        }
    }
}

/* A vocabulary that a matcher uses lives and does not change: its address is enough. */
static g_trie *by_address(const an_vocab *v)
{
    g_trie *t = known;
    while (t && t->of != v) t = t->next;
    return t;
}

static g_trie *by_content(const an_vocab *v)
{
    uint64_t key[2];
    hash(v, key);
    g_trie *t = known;
    while (t && (t->key[0] != key[0] || t->key[1] != key[1] || t->vocab != an_vocab_size(v)))
        t = t->next;
    if (!t && (t = build(v)) != NULL) {
        memcpy(t->key, key, sizeof key);
        t->next = known;
        known = t;
    }
    return t;
}

an_status g_trie_get(const an_vocab *v, g_trie **out, an_error *err)
{
    pthread_mutex_lock(&known_lock);
    g_trie *t = by_address(v);
    if (!t) t = by_content(v);
    if (t) {
        t->refs++;
        if (!t->of) t->of = v;
        if (t->of == v) t->of_users++;
    }
    forget();
    pthread_mutex_unlock(&known_lock);
    *out = t;
    return t ? AN_OK : an_fail(err, AN_NO_MEMORY, "grammar: out of memory for the vocabulary");
}

void g_trie_release(g_trie *t, const an_vocab *v)
{
    pthread_mutex_lock(&known_lock);
    t->refs--;
    if (t->of == v && --t->of_users == 0) t->of = NULL;
    forget();
    pthread_mutex_unlock(&known_lock);
}
