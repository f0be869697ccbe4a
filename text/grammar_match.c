/* grammar_match.c: a sequence walking a grammar, and the mask of tokens that may come next. The
 * automaton behind it is shared by all matchers of a grammar and locked while one uses it. */
#include "grammar_impl.h"

#include <endian.h>
#include <stdlib.h>

#define MAX_MASK_BYTES ((size_t)8 << 20) /* masks a grammar remembers */
/* Beyond it all states are dropped but those that matchers stand in. */
#define MAX_STATE_BYTES ((size_t)16 << 20)

/* What a token may leave unfinished of a UTF-8 character. */
typedef struct partial {
    uint32_t bits; /* of the code point so far */
    uint8_t need;  /* bytes still to come; 0 = none unfinished */
    uint8_t seen;  /* bytes so far */
} partial;

struct an_matcher {
    an_grammar *g;
    const g_trie *trie;
    int32_t state;
    partial part;
    bool ended;                     /* an end token was taken */
    struct an_matcher *prev, *next; /* of the grammar's matchers */
};

/* ---------------------------------------------------------------- bytes */

/* The characters that can still come of an unfinished one. */
static bool partial_range(const partial *p, uint32_t *lo, uint32_t *hi)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned shift = 6u * p->need;
    *lo = p->bits << shift;
    *hi = *lo | ((1u << shift) - 1);
    uint32_t min = least[p->need + p->seen];
    if (*lo < min) *lo = min;
    if (*hi > G_MAX_CHAR) *hi = G_MAX_CHAR;
    return *lo <= *hi && !(*lo >= 0xd800 && *hi <= 0xdfff);
}

/* Takes one more byte of a character; false if no character goes on so. Done when need is 0. */
static bool partial_byte(partial *p, uint8_t byte)
{
    uint32_t lo, hi;
    if (p->need == 0) {
        if (byte < 0xc2 || byte > 0xf4) return false;
        p->need = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
        p->seen = 1;
        p->bits = byte & (0x3fu >> p->need);
        return true;
    }
    if ((byte & 0xc0) != 0x80) return false;
    p->bits = p->bits << 6 | (byte & 0x3fu);
    p->need--;
    p->seen++;
    return partial_range(p, &lo, &hi);
}

/* Can some character that begins like this come? */
static bool partial_fits(g_states *s, int32_t state, const partial *p)
{
    const an_grammar *g = s->g;
    uint32_t lo, hi;
    if (!partial_range(p, &lo, &hi)) return false;
    for (size_t i = g_interval(g, lo); i < g->n_intervals && g->class_lo[i] <= hi; i++)
        if (g_next(s, state, g->class_of[i]) >= 0) return true;
    return false;
}

/* One byte on from a state and an unfinished character. */
static inline bool step_byte(g_states *s, uint8_t byte, int32_t *state, partial *p)
{
    const an_grammar *g = s->g;
    if (byte < 0x80) {
        if (p->need) return false;
        *state = g_next(s, *state, g->ascii[byte]);
        return *state >= 0;
    }
    if (!partial_byte(p, byte)) return false;
    if (p->need) return partial_fits(s, *state, p);
    *state = g_next(s, *state, g->class_of[g_interval(g, p->bits)]);
    *p = (partial){0};
    return *state >= 0;
}

/* ---------------------------------------------------------------- keeping it small */

static void link_matcher(an_matcher *m)
{
    m->prev = NULL;
    m->next = m->g->matchers;
    if (m->next) m->next->prev = m;
    m->g->matchers = m;
}

/* When the automaton has grown large it is begun anew with the states that matchers stand in. If
 * memory is too short for that, it goes on as it is. */
static void trim(an_grammar *g)
{
    if (g_states_bytes(g->states) < MAX_STATE_BYTES) return;
    g_states *fresh = g_states_new(g);
    bool ok = fresh != NULL;
    for (an_matcher *m = g->matchers; ok && m; m = m->next)
        ok = g_states_copy(fresh, g->states, m->state) >= 0;
    if (!ok) {
        g_states_free(fresh);
        return;
    }
    for (an_matcher *m = g->matchers; m; m = m->next)
        m->state = g_states_copy(fresh, g->states, m->state);
    g_states_free(g->states);
    g->states = fresh;
}

/* Locks the grammar's automaton for one call, with the work of one call before it. */
static g_states *lock_states(an_grammar *g)
{
    pthread_mutex_lock(&g->lock);
    trim(g);
    g->states->work = 0;
    g->states->over = false;
    return g->states;
}

static void unlock_states(an_grammar *g)
{
    pthread_mutex_unlock(&g->lock);
}

/* ---------------------------------------------------------------- masks */

static inline size_t allow(const g_trie *t, size_t from, size_t to, uint8_t *bits)
{
    for (size_t k = from; k < to; k++) {
        int32_t id = t->order[k];
        bits[id / 8] = (uint8_t)(bits[id / 8] | 1u << (id % 8));
    }
    return to - from;
}

/* Sets the bits of all tokens that can be read from here; the count of them. The loop is what a
 * mask costs: it reads each node once, and tables that fit the first caches. */
static size_t walk_trie(const an_matcher *m, g_states *s, uint8_t *bits)
{
    const g_trie *t = m->trie;
    const uint16_t *ascii = m->g->ascii;
    const size_t classes = m->g->n_classes;
    int32_t states[G_MAX_TOKEN + 1]; /* after that many bytes */
    partial parts[G_MAX_TOKEN + 1];
    size_t count = 0;
    states[0] = m->state;
    parts[0] = m->part;
    for (size_t i = 0; i < t->n_nodes;) {
        const g_trie_node *n = &t->nodes[i];
        size_t depth = n->depth;
        int32_t from = states[depth], to = from;
        bool whole = parts[depth].need == 0; /* no character is unfinished here */
        if (n->byte < 0x80 && whole) {
            to = s->next[(size_t)from * classes + ascii[n->byte]];
            if (to == G_UNKNOWN) to = g_states_step(s, from, ascii[n->byte]);
            if (to < 0) {
                i = n->skip;
                continue;
            }
            parts[depth + 1].need = 0;
        } else {
            parts[depth + 1] = parts[depth];
            if (!step_byte(s, n->byte, &to, &parts[depth + 1])) {
                i = n->skip;
                continue;
            }
        }
        if (to == from && whole && !(n->kinds & ~g_states_stays(s, from))) {
            count += allow(t, n->first, t->nodes[n->skip].first, bits);
            i = n->skip;
            continue;
        }
        states[depth + 1] = to;
        if (n[1].first > n->first) count += allow(t, n->first, n[1].first, bits);
        i++;
    }
    return count;
}

static bool mark_ends(const an_matcher *m, g_states *s, uint8_t *bits)
{
    bool complete = m->part.need == 0 && s->states[m->state].complete;
    for (size_t i = 0; complete && i < m->trie->n_ends; i++) {
        int32_t id = m->trie->ends[i];
        bits[id / 8] = (uint8_t)(bits[id / 8] | 1u << (id % 8));
    }
    return complete;
}

/* Bits to bytes, eight at a time: each byte of v gets the bit of its number. Of n bits, as many as
 * the mask has room for; what is left of it becomes 0. */
static void spread(const uint8_t *bits, size_t n, uint8_t *mask, size_t room)
{
    size_t i = 0;
    if (n < room) memset(mask + n, 0, room - n);
    if (n > room) n = room;
    for (; i + 8 <= n; i += 8) {
        uint64_t v = bits[i / 8] * 0x0101010101010101u & 0x8040201008040201u;
        v = ((v + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
        v = htole64(v);
        memcpy(mask + i, &v, 8);
    }
    for (; i < n; i++) mask[i] = bits[i / 8] >> (i % 8) & 1;
}

static bool fill_mask(an_matcher *m, g_states *s, uint8_t *mask, size_t room)
{
    size_t vocab = (size_t)m->trie->vocab, bytes = vocab / 8 + 1;
    g_state *here = &s->states[m->state];
    if (m->part.need == 0 && here->mask && here->mask_trie == m->trie->number) {
        spread(here->mask, vocab, mask, room);
        return true;
    }
    uint8_t *bits = calloc(bytes, 1);
    if (!bits) return false;
    size_t count = walk_trie(m, s, bits);
    bool complete = mark_ends(m, s, bits), ok = (count || complete) && !s->over;
    spread(bits, vocab, mask, room);
    here = &s->states[m->state]; /* the walk made states */
    if (ok && m->part.need == 0 && !here->mask && s->mask_bytes + bytes <= MAX_MASK_BYTES) {
        here->mask = bits;
        here->mask_trie = m->trie->number;
        s->mask_bytes += bytes;
    } else {
        free(bits);
    }
    return ok;
}

bool an_matcher_mask(an_matcher *m, uint8_t *mask, size_t room)
{
    if (m->ended) { /* nothing follows an end but another one */
        memset(mask, 0, room);
        for (size_t i = 0; i < m->trie->n_ends; i++)
            if ((size_t)m->trie->ends[i] < room) mask[m->trie->ends[i]] = 1;
        return m->trie->n_ends > 0;
    }
    g_states *s = lock_states(m->g);
    bool ok = fill_mask(m, s, mask, room);
    unlock_states(m->g);
    return ok;
}

/* ---------------------------------------------------------------- matchers */

an_status an_matcher_new(an_grammar *g, const an_vocab *v, an_matcher **out, an_error *err)
{
    *out = NULL;
    const g_trie *trie = g_trie_of(v, err);
    if (!trie) return AN_NO_MEMORY;
    an_matcher *m = calloc(1, sizeof *m);
    if (!m) return an_fail(err, AN_NO_MEMORY, "grammar: out of memory");
    m->trie = trie;
    m->state = g_states_start(lock_states(g));
    bool ok = m->state >= 0;
    if (ok) {
        m->g = an_grammar_ref(g);
        link_matcher(m);
    }
    unlock_states(g);
    if (!ok) {
        free(m);
        return an_fail(err, AN_NO_MEMORY, "grammar: out of memory");
    }
    *out = m;
    return AN_OK;
}

an_matcher *an_matcher_clone(const an_matcher *m)
{
    an_matcher *c = malloc(sizeof *c);
    if (!c) return NULL;
    pthread_mutex_lock(&m->g->lock);
    *c = *m;
    an_grammar_ref(m->g);
    link_matcher(c);
    unlock_states(m->g);
    return c;
}

void an_matcher_free(an_matcher *m)
{
    if (!m) return;
    pthread_mutex_lock(&m->g->lock);
    if (m->prev)
        m->prev->next = m->next;
    else
        m->g->matchers = m->next;
    if (m->next) m->next->prev = m->prev;
    unlock_states(m->g);
    an_grammar_unref(m->g);
    free(m);
}

static bool is_end(const g_trie *t, int32_t token)
{
    for (size_t i = 0; i < t->n_ends; i++)
        if (t->ends[i] == token) return true;
    return false;
}

bool an_matcher_accept(an_matcher *m, int32_t token)
{
    if (token < 0 || token >= m->trie->vocab) return false;
    if (is_end(m->trie, token)) {
        bool complete = m->ended || an_matcher_complete(m);
        m->ended = complete;
        return complete;
    }
    if (m->ended || m->trie->piece_len[token] == 0) return false;
    const uint8_t *p = m->trie->bytes + m->trie->piece_at[token];
    size_t n = m->trie->piece_len[token];
    g_states *s = lock_states(m->g);
    int32_t state = m->state;
    partial part = m->part;
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) ok = step_byte(s, p[i], &state, &part);
    ok = ok && !s->over;
    if (ok) {
        m->state = state;
        m->part = part;
    }
    unlock_states(m->g);
    return ok;
}

bool an_matcher_complete(const an_matcher *m)
{
    if (m->ended) return true;
    pthread_mutex_lock(&m->g->lock);
    bool complete = m->part.need == 0 && m->g->states->states[m->state].complete;
    unlock_states(m->g);
    return complete;
}

bool an_matcher_only_end(an_matcher *m)
{
    if (m->ended) return true;
    g_states *s = lock_states(m->g);
    bool only = m->part.need == 0 && s->states[m->state].complete && !g_states_alive(s, m->state);
    unlock_states(m->g);
    return only;
}
