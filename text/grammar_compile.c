/* grammar_compile.c: rules to a grammar: what can never be finished is cut away, left recursion is
 * refused, characters are sorted into classes. */
#include "grammar_impl.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_CLASSES 4096

void an_grammar_limits_default(an_grammar_limits *l)
{
    *l = (an_grammar_limits){.max_source = (size_t)256 << 10,
                             .max_rules = 20000,
                             .max_repeat = 2000,
                             .max_stacks = 4096,
                             .max_depth = 1000};
}

/* Where each rule is called: alternatives, grouped by rule. */
typedef struct analysis {
    g_builder *b;
    uint32_t *uses_at; /* [n_rules + 1] */
    uint32_t *uses;    /* alternatives */
    uint32_t *owner;   /* [n_alts] rule of the alternative */
    uint32_t *missing; /* [n_alts] elements not yet known to hold */
    int32_t *queue;    /* [n_rules] */
    bool *nullable, *productive;
} analysis;

static void free_analysis(analysis *a)
{
    free(a->uses_at);
    free(a->uses);
    free(a->owner);
    free(a->missing);
    free(a->queue);
    free(a->nullable);
    free(a->productive);
}

static bool start_analysis(analysis *a, g_builder *b)
{
    *a = (analysis){.b = b};
    a->uses_at = calloc(b->n_rules + 2, sizeof *a->uses_at);
    a->uses = calloc(b->n_elems + 1, sizeof *a->uses);
    a->owner = calloc(b->n_alts + 1, sizeof *a->owner);
    a->missing = calloc(b->n_alts + 1, sizeof *a->missing);
    a->queue = calloc(b->n_rules + 1, sizeof *a->queue);
    a->nullable = calloc(b->n_rules + 1, 1);
    a->productive = calloc(b->n_rules + 1, 1);
    if (!a->uses_at || !a->uses || !a->owner || !a->missing || !a->queue || !a->nullable ||
        !a->productive)
        return gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
    for (size_t i = 0; i < b->n_elems; i++)
        if (b->elems[i] < 0) a->uses_at[-b->elems[i] + 1]++; /* rule r counts at r + 2 */
    for (size_t r = 0; r < b->n_rules; r++) a->uses_at[r + 2] += a->uses_at[r + 1];
    for (size_t r = 0; r < b->n_rules; r++)
        for (int32_t alt = b->rules[r].first; alt >= 0; alt = b->alts[alt].next) {
            a->owner[alt] = (uint32_t)r;
            for (uint32_t i = 0; i < b->alts[alt].n; i++) {
                int32_t e = b->elems[b->alts[alt].at + i];
                if (e < 0) a->uses[a->uses_at[-e]++] = (uint32_t)alt; /* moves r + 1's start */
            }
        }
    return true;
}

/* The least set of rules that hold when one of their alternatives holds throughout; sets of
 * characters hold if `sets` (and they are not empty). */
static void fixpoint(analysis *a, bool sets, bool *holds)
{
    g_builder *b = a->b;
    size_t head = 0, tail = 0;
    for (size_t r = 0; r < b->n_rules; r++)
        for (int32_t alt = b->rules[r].first; alt >= 0; alt = b->alts[alt].next) {
            uint32_t missing = 0;
            for (uint32_t i = 0; i < b->alts[alt].n; i++) {
                int32_t e = b->elems[b->alts[alt].at + i];
                missing += e < 0 || !sets || b->sets[e].n == 0;
            }
            a->missing[alt] = missing;
            if (missing == 0 && !holds[r]) {
                holds[r] = true;
                a->queue[tail++] = (int32_t)r;
            }
        }
    while (head < tail) {
        size_t r = (size_t)a->queue[head++];
        /* After start_analysis, uses of r lie in [uses_at[r], uses_at[r + 1]). */
        for (uint32_t i = a->uses_at[r]; i < a->uses_at[r + 1]; i++) {
            uint32_t alt = a->uses[i], owner = a->owner[alt];
            if (--a->missing[alt] == 0 && !holds[owner]) {
                holds[owner] = true;
                a->queue[tail++] = (int32_t)owner;
            }
        }
    }
}

static bool alt_productive(const analysis *a, const g_alt *alt)
{
    for (uint32_t i = 0; i < alt->n; i++) {
        int32_t e = a->b->elems[alt->at + i];
        if (e < 0 ? !a->productive[-1 - e] : a->b->sets[e].n == 0) return false;
    }
    return true;
}

/* ---------------------------------------------------------------- left recursion */

typedef struct visit {
    int32_t alt;
    uint32_t at; /* element of it */
} visit;

static void rule_name(const g_builder *b, size_t r, char *out, size_t size)
{
    const g_rule *rule = &b->rules[r];
    if (rule->name_len && b->source)
        snprintf(out, size, "'%.*s'", rule->name_len > 80 ? 80 : (int)rule->name_len,
                 b->source + rule->name);
    else
        snprintf(out, size, "a group or repetition");
}

/* The next rule that rule r calls before reading a character, from v on; -1 = no more. */
static int32_t next_left_call(const analysis *a, size_t r, visit *v)
{
    const g_builder *b = a->b;
    while (v->alt >= 0) {
        const g_alt *alt = &b->alts[v->alt];
        if (v->at >= alt->n || !alt_productive(a, alt)) {
            *v = (visit){alt->next, 0};
            continue;
        }
        int32_t e = b->elems[alt->at + v->at++];
        if (e >= 0 || !a->nullable[-1 - e]) *v = (visit){alt->next, 0};
        bool loop = b->rules[r].loop && -1 - e == (int32_t)r;
        if (e < 0 && !loop) return -1 - e;
    }
    return -1;
}

static bool check_left_recursion(analysis *a, int root)
{
    g_builder *b = a->b;
    uint8_t *color = calloc(b->n_rules + 1, 1); /* 1 = on the path, 2 = done */
    int32_t *path = calloc(b->n_rules + 1, sizeof *path);
    visit *at = calloc(b->n_rules + 1, sizeof *at);
    size_t n = 0;
    bool ok = color && path && at;
    if (!ok) gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
    for (size_t first = 0; ok && first <= b->n_rules; first++) {
        size_t start = first == 0 ? (size_t)root : first - 1; /* root first: its path reads best */
        if (color[start]) continue;
        path[n] = (int32_t)start;
        at[n++] = (visit){b->rules[start].first, 0};
        color[start] = 1;
        while (ok && n > 0) {
            size_t r = (size_t)path[n - 1];
            int32_t to = next_left_call(a, r, &at[n - 1]);
            if (to < 0) {
                color[r] = 2;
                n--;
            } else if (color[to] == 1) {
                char name[128];
                rule_name(b, (size_t)to, name, sizeof name);
                ok = gb_fail(b, AN_INVALID,
                             "grammar: left recursion: %s can call itself before "
                             "it reads a character",
                             name);
            } else if (color[to] == 0) {
                path[n] = to;
                at[n++] = (visit){b->rules[to].first, 0};
                color[to] = 1;
            }
        }
    }
    free(color);
    free(path);
    free(at);
    return ok;
}

/* ---------------------------------------------------------------- classes of characters */

typedef struct edge {
    uint32_t at;
    uint32_t set;
} edge;

typedef struct sign {
    uint64_t h[2];
    uint32_t interval;
} sign;

static int by_at(const void *x, const void *y)
{
    const edge *a = x, *b = y;
    return (a->at > b->at) - (a->at < b->at);
}

static int by_sign(const void *x, const void *y)
{
    const sign *a = x, *b = y;
    for (int i = 0; i < 2; i++)
        if (a->h[i] != b->h[i]) return a->h[i] < b->h[i] ? -1 : 1;
    return (a->interval > b->interval) - (a->interval < b->interval);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* A sweep over the borders of all sets: intervals between them, each with a signature of the sets
 * it is in; equal signatures are one class. */
static bool sweep(g_builder *b, an_grammar *g, edge *edges, size_t n, sign *signs)
{
    uint64_t h[2] = {0, 0};
    qsort(edges, n, sizeof *edges, by_at);
    size_t m = 0;
    for (size_t i = 0; i < n || m == 0;) {
        uint32_t from = m == 0 ? 0 : edges[i].at;
        for (; i < n && edges[i].at == from; i++) {
            h[0] ^= mix(edges[i].set * 2ull + 1);
            h[1] ^= mix(edges[i].set * 2ull + 0x100000000ull);
        }
        if (from > G_MAX_CHAR) break;
        g->class_lo[m] = from;
        signs[m] = (sign){{h[0], h[1]}, (uint32_t)m};
        m++;
    }
    g->n_intervals = m;
    qsort(signs, m, sizeof *signs, by_sign);
    for (size_t i = 0; i < m; i++) {
        bool same = i && signs[i].h[0] == signs[i - 1].h[0] && signs[i].h[1] == signs[i - 1].h[1];
        if (!same) g->n_classes++;
        if (g->n_classes > MAX_CLASSES)
            return gb_fail(b, AN_TOO_LARGE,
                           "grammar: its sets tell apart more than the limit of %d kinds of "
                           "characters",
                           MAX_CLASSES);
        g->class_of[signs[i].interval] = (uint16_t)(g->n_classes - 1);
    }
    return true;
}

size_t g_interval(const an_grammar *g, uint32_t c)
{
    size_t lo = 0, hi = g->n_intervals;
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (g->class_lo[mid] <= c)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static bool fill_members(g_builder *b, an_grammar *g)
{
    g->words = (g->n_classes + 63) / 64;
    g->members = calloc(b->n_sets * g->words + 1, sizeof *g->members);
    if (!g->members) return gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
    for (size_t s = 0; s < b->n_sets; s++)
        for (uint32_t k = 0; k < b->sets[s].n; k++) {
            g_range r = b->ranges[b->sets[s].at + k];
            for (size_t i = g_interval(g, r.lo); i < g->n_intervals && g->class_lo[i] <= r.hi; i++)
                g->members[s * g->words + g->class_of[i] / 64] |= 1ull << (g->class_of[i] % 64);
        }
    for (uint32_t c = 0; c < 128; c++) g->ascii[c] = g->class_of[g_interval(g, c)];
    return true;
}

static bool make_classes(g_builder *b, an_grammar *g)
{
    size_t n = 0;
    edge *edges = calloc(2 * b->n_ranges + 1, sizeof *edges);
    sign *signs = calloc(2 * b->n_ranges + 2, sizeof *signs);
    g->class_lo = calloc(2 * b->n_ranges + 2, sizeof *g->class_lo);
    g->class_of = calloc(2 * b->n_ranges + 2, sizeof *g->class_of);
    bool ok = edges && signs && g->class_lo && g->class_of;
    if (!ok) gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
    for (uint32_t s = 0; ok && s < b->n_sets; s++)
        for (uint32_t k = 0; k < b->sets[s].n; k++) {
            g_range r = b->ranges[b->sets[s].at + k];
            edges[n++] = (edge){r.lo, s};
            edges[n++] = (edge){r.hi + 1, s};
        }
    ok = ok && sweep(b, g, edges, n, signs) && fill_members(b, g);
    free(edges);
    free(signs);
    return ok;
}

/* ---------------------------------------------------------------- flat */

/* Rules, root first, without the alternatives that can never be finished. */
static bool flatten(const analysis *a, int root, an_grammar *g)
{
    g_builder *b = a->b;
    size_t n_elems = 0, n_alts = 0;
    g->elems = malloc((b->n_elems + b->n_alts + 1) * sizeof *g->elems);
    g->alts = malloc((b->n_alts + 1) * sizeof *g->alts);
    g->rule_alts = malloc((b->n_rules + 1) * sizeof *g->rule_alts);
    if (!g->elems || !g->alts || !g->rule_alts)
        return gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
    g->n_rules = b->n_rules;
    for (size_t i = 0; i < b->n_rules; i++) { /* the root changes places with rule 0 */
        size_t r = i == 0 ? (size_t)root : i == (size_t)root ? 0 : i;
        g->rule_alts[i] = (uint32_t)n_alts;
        for (int32_t k = b->rules[r].first; k >= 0; k = b->alts[k].next) {
            const g_alt *alt = &b->alts[k];
            if (!alt_productive(a, alt)) continue;
            g->alts[n_alts++] = (uint32_t)n_elems;
            for (uint32_t e = 0; e < alt->n; e++) {
                int32_t elem = b->elems[alt->at + e];
                if (elem == g_rule_elem(root))
                    elem = g_rule_elem(0);
                else if (elem == g_rule_elem(0))
                    elem = g_rule_elem(root);
                g->elems[n_elems++] = elem;
            }
            g->elems[n_elems++] = G_END;
        }
    }
    g->rule_alts[b->n_rules] = (uint32_t)n_alts;
    return true;
}

static void free_grammar(an_grammar *g)
{
    free(g->elems);
    free(g->alts);
    free(g->rule_alts);
    free(g->class_lo);
    free(g->class_of);
    free(g->members);
    g_states_free(g->states);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static bool compile(g_builder *b, analysis *a, int root, an_grammar *g)
{
    if (!start_analysis(a, b)) return false;
    fixpoint(a, false, a->nullable);
    fixpoint(a, true, a->productive);
    if (!a->productive[root])
        return gb_fail(b, AN_INVALID, "grammar: no text can ever match it: its rules never end");
    if (!check_left_recursion(a, root) || !make_classes(b, g) || !flatten(a, root, g)) return false;
    if (!(g->states = g_states_new(g))) return gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
    if (g_states_start(g->states) == G_DEAD)
        return gb_fail(b, AN_TOO_LARGE,
                       "grammar: its beginning needs more than the limit of %d states alive at "
                       "once, or is nested deeper than the limit of %d",
                       b->limits.max_stacks, b->limits.max_depth);
    return true;
}

an_status g_compile(g_builder *b, int root, an_grammar **out)
{
    *out = NULL;
    if (b->status != AN_OK) return b->status;
    an_grammar *g = calloc(1, sizeof *g);
    if (!g || pthread_mutex_init(&g->lock, NULL) != 0) {
        free(g);
        gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
        return b->status;
    }
    atomic_init(&g->refs, 1);
    g->limits = b->limits;
    analysis a;
    bool ok = compile(b, &a, root, g);
    free_analysis(&a);
    if (ok)
        *out = g;
    else
        free_grammar(g);
    return b->status;
}

an_grammar *an_grammar_ref(an_grammar *g)
{
    atomic_fetch_add(&g->refs, 1);
    return g;
}

void an_grammar_unref(an_grammar *g)
{
    if (g && atomic_fetch_sub(&g->refs, 1) == 1) free_grammar(g);
}
