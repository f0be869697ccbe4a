/* grammar_state.c: where a text stands in a grammar. A stack says what is still to come: its top is
 * a set of characters, below it the elements to go on with. A state is a set of stacks, since one
 * text can stand in several places. Stacks share their lower parts, equal states are one state with
 * a number, and a state remembers where each class of characters leads: a text that stands where
 * another stood before costs a table look-up a character. */
#include "grammar_impl.h"

#include <stdlib.h>

/* Bounds of one call, whatever the grammar: about half a second, and memory of all states. */
#define MAX_WORK  20000000
#define MAX_BYTES ((size_t)64 << 20)

static bool grow(g_states *s, void **v, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return true;
    size_t n = *cap ? *cap * 2 : 64, bytes;
    if (n < need) n = need;
    void *p = n < UINT32_MAX / 2 && an_mul_size(n, size, &bytes) ? realloc(*v, bytes) : NULL;
    if (!p) {
        s->over = true;
        return false;
    }
    *v = p;
    *cap = n;
    return true;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ---------------------------------------------------------------- stacks */

static bool index_nodes(g_states *s)
{
    size_t n = s->n_node_index ? s->n_node_index * 2 : 256;
    uint32_t *index = calloc(n, sizeof *index);
    if (!index) {
        s->over = true;
        return false;
    }
    for (uint32_t i = 1; i < s->n_nodes; i++) {
        size_t at = mix((uint64_t)s->node_parent[i] << 32 | s->node_at[i]) & (n - 1);
        while (index[at]) at = (at + 1) & (n - 1);
        index[at] = i;
    }
    free(s->node_index);
    s->node_index = index;
    s->n_node_index = n;
    return true;
}

/* The stack of element `at` on top of `parent`; 0 = failed, or deeper than the limit. */
static uint32_t node(g_states *s, uint32_t at, uint32_t parent)
{
    if (s->n_nodes * 2 >= s->n_node_index && !index_nodes(s)) return 0;
    size_t h = mix((uint64_t)parent << 32 | at) & (s->n_node_index - 1);
    for (; s->node_index[h]; h = (h + 1) & (s->n_node_index - 1)) {
        uint32_t i = s->node_index[h];
        if (s->node_at[i] == at && s->node_parent[i] == parent) return i;
    }
    uint32_t depth = parent ? s->node_depth[parent] + 1 : 1;
    if (depth > (uint32_t)s->g->limits.max_depth + 1) return 0;
    if (s->n_nodes == s->cap_nodes) {
        size_t a = s->cap_nodes, b = a, c = a;
        if (!grow(s, (void **)&s->node_at, &a, s->n_nodes + 1, 4) ||
            !grow(s, (void **)&s->node_parent, &b, s->n_nodes + 1, 4) ||
            !grow(s, (void **)&s->node_depth, &c, s->n_nodes + 1, 4))
            return 0;
        s->cap_nodes = c;
    }
    uint32_t i = (uint32_t)s->n_nodes++;
    s->node_at[i] = at;
    s->node_parent[i] = parent;
    s->node_depth[i] = depth;
    s->node_index[h] = i;
    return i;
}

/* ---------------------------------------------------------------- closures */

/* Has the pair been looked at in this closure? If not, it has now. */
static bool seen_before(g_states *s, uint64_t pair)
{
    if ((s->n_todo + 1) * 2 > s->n_seen) {
        size_t n = s->n_seen ? s->n_seen * 2 : 256;
        uint64_t *seen = calloc(n, sizeof *seen);
        if (!seen) {
            s->over = true;
            return true;
        }
        for (size_t i = 0; i < s->n_todo; i++) {
            size_t h = mix(s->todo[i]) & (n - 1);
            while (seen[h]) h = (h + 1) & (n - 1);
            seen[h] = s->todo[i] + 1;
        }
        free(s->seen);
        s->seen = seen;
        s->n_seen = n;
    }
    size_t h = mix(pair) & (s->n_seen - 1);
    for (; s->seen[h]; h = (h + 1) & (s->n_seen - 1))
        if (s->seen[h] == pair + 1) return true;
    s->seen[h] = pair + 1;
    return false;
}

static void visit(g_states *s, uint32_t at, uint32_t parent)
{
    uint64_t pair = (uint64_t)parent << 32 | at;
    if (seen_before(s, pair)) return;
    if (!grow(s, (void **)&s->todo, &s->cap_todo, s->n_todo + 1, sizeof *s->todo)) return;
    s->todo[s->n_todo++] = pair;
}

static bool found(g_states *s, uint32_t stack)
{
    if (!grow(s, (void **)&s->found, &s->cap_found, s->n_found + 1, sizeof *s->found)) return false;
    s->found[s->n_found++] = stack;
    return true;
}

static void start_closure(g_states *s)
{
    for (size_t i = 0; i < s->n_todo; i++) { /* empties the hash: as cheap as it was full */
        size_t h = mix(s->todo[i]) & (s->n_seen - 1);
        while (s->seen[h]) {
            s->seen[h] = 0;
            h = (h + 1) & (s->n_seen - 1);
        }
    }
    s->n_todo = 0;
    s->n_found = 0;
}

/* Unfolds what is to be done until each stack has a set of characters on top. An element that is
 * the last of its alternative leaves nothing behind, so that loops do not grow the stack. Stacks
 * deeper than the limit are left out; false when there are too many stacks. */
static bool close_over(g_states *s)
{
    const an_grammar *g = s->g;
    size_t max = (size_t)g->limits.max_stacks;
    for (size_t i = 0; i < s->n_todo; i++) {
        uint32_t at = (uint32_t)s->todo[i], parent = (uint32_t)(s->todo[i] >> 32);
        int32_t e = g->elems[at];
        if (s->over || s->n_found > max || s->n_todo > max * 8 + 1024) return false;
        if (e == G_END) {
            if (parent)
                visit(s, s->node_at[parent], s->node_parent[parent]);
            else if (!found(s, 0))
                return false;
        } else if (e >= 0) {
            uint32_t stack = node(s, at, parent);
            if (stack && !found(s, stack)) return false;
        } else {
            uint32_t below = parent;
            if (g->elems[at + 1] != G_END && !(below = node(s, at + 1, parent))) continue;
            size_t rule = (size_t)(-1 - e);
            for (uint32_t a = g->rule_alts[rule]; a < g->rule_alts[rule + 1]; a++)
                visit(s, g->alts[a], below);
        }
    }
    s->work += s->n_todo;
    if (s->work > MAX_WORK) s->over = true;
    return !s->over && s->n_found <= max;
}

/* ---------------------------------------------------------------- states */

static int by_number(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

static uint64_t hash_list(const uint32_t *v, size_t n)
{
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) h = mix(h ^ v[i]) + 0x9e3779b97f4a7c15u;
    return h;
}

static bool index_states(g_states *s)
{
    size_t n = s->n_state_index ? s->n_state_index * 2 : 64;
    uint32_t *index = calloc(n, sizeof *index);
    if (!index) {
        s->over = true;
        return false;
    }
    for (size_t i = 0; i < s->n_states; i++) {
        size_t at = hash_list(s->list + s->states[i].stacks, s->states[i].n) & (n - 1);
        while (index[at]) at = (at + 1) & (n - 1);
        index[at] = (uint32_t)i + 1;
    }
    free(s->state_index);
    s->state_index = index;
    s->n_state_index = n;
    return true;
}

static int32_t new_state(g_states *s, size_t h)
{
    size_t k = s->g->n_classes, n = s->n_found;
    if (g_states_bytes(s) > MAX_BYTES) {
        s->over = true;
        return G_DEAD;
    }
    if (!grow(s, (void **)&s->states, &s->cap_states, s->n_states + 1, sizeof *s->states) ||
        !grow(s, (void **)&s->list, &s->cap_list, s->n_list + n, sizeof *s->list) ||
        !grow(s, (void **)&s->next, &s->cap_next, (s->n_states + 1) * k, sizeof *s->next))
        return G_DEAD;
    memcpy(s->list + s->n_list, s->found, n * sizeof *s->list);
    s->states[s->n_states] =
        (g_state){.stacks = (uint32_t)s->n_list, .n = (uint32_t)n, .complete = s->found[0] == 0};
    s->n_list += n;
    for (size_t i = 0; i < k; i++) s->next[s->n_states * k + i] = G_UNKNOWN;
    s->state_index[h] = (uint32_t)++s->n_states;
    return (int32_t)s->n_states - 1;
}

/* The state of the stacks found, new or known; dead if there are none. */
static int32_t intern(g_states *s)
{
    size_t n = 0;
    if (s->n_found == 0) return G_DEAD;
    qsort(s->found, s->n_found, sizeof *s->found, by_number);
    for (size_t i = 0; i < s->n_found; i++)
        if (i == 0 || s->found[i] != s->found[n - 1]) s->found[n++] = s->found[i];
    s->n_found = n;
    if (s->n_states * 2 >= s->n_state_index && !index_states(s)) return G_DEAD;
    size_t h = hash_list(s->found, n) & (s->n_state_index - 1);
    for (; s->state_index[h]; h = (h + 1) & (s->n_state_index - 1)) {
        const g_state *t = &s->states[s->state_index[h] - 1];
        if (t->n == n && memcmp(s->list + t->stacks, s->found, n * sizeof *s->found) == 0)
            return (int32_t)s->state_index[h] - 1;
    }
    return new_state(s, h);
}

int32_t g_states_step(g_states *s, int32_t state, uint32_t cls)
{
    const an_grammar *g = s->g;
    g_state t = s->states[state];
    int32_t to = G_DEAD;
    start_closure(s);
    for (uint32_t i = 0; i < t.n; i++) {
        uint32_t stack = s->list[t.stacks + i];
        if (stack == 0) continue;
        size_t set = (size_t)g->elems[s->node_at[stack]];
        if (g->members[set * g->words + cls / 64] >> (cls % 64) & 1)
            visit(s, s->node_at[stack] + 1, s->node_parent[stack]);
    }
    if (close_over(s)) to = intern(s);
    if (!s->over) s->next[(size_t)state * g->n_classes + cls] = to;
    return to;
}

int32_t g_states_start(g_states *s)
{
    start_closure(s);
    for (uint32_t a = s->g->rule_alts[0]; a < s->g->rule_alts[1]; a++) visit(s, s->g->alts[a], 0);
    return close_over(s) ? intern(s) : G_DEAD;
}

bool g_states_alive(g_states *s, int32_t state)
{
    for (uint32_t k = 0; k < s->g->n_classes; k++)
        if (g_next(s, state, k) >= 0) return true;
    return false;
}

unsigned g_kind(uint32_t c)
{
    if (c < 0x20 || c == 0x7f) return G_CONTROL;
    if (c >= 0x80) return G_WIDE;
    if (c == ' ') return G_SPACE;
    if (c == '"') return G_QUOTE;
    if (c == '\\') return G_BACKSLASH;
    if (c >= '0' && c <= '9') return G_DIGIT;
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? G_LETTER : G_PUNCTUATION;
}

/* Kinds of which every character leads from the state back to it. */
unsigned g_states_stays(g_states *s, int32_t state)
{
    const an_grammar *g = s->g;
    if (s->states[state].stays_known) return s->states[state].stays;
    unsigned leaves = G_BROKEN;
    for (uint32_t c = 0; c < 128; c++)
        if (!(leaves & g_kind(c)) && g_next(s, state, g->ascii[c]) != state) leaves |= g_kind(c);
    for (size_t i = g_interval(g, 0x80); i < g->n_intervals && !(leaves & G_WIDE); i++) {
        uint32_t last = i + 1 < g->n_intervals ? g->class_lo[i + 1] - 1 : G_MAX_CHAR;
        bool surrogates = g->class_lo[i] >= 0xd800 && last <= 0xdfff;
        if (!surrogates && g_next(s, state, g->class_of[i]) != state) leaves |= G_WIDE;
    }
    if (s->over) return 0;
    s->states[state].stays_known = true;
    s->states[state].stays = (uint16_t)~leaves;
    return s->states[state].stays;
}

/* ---------------------------------------------------------------- all of them */

g_states *g_states_new(const an_grammar *g)
{
    g_states *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->g = g;
    if (!grow(s, (void **)&s->node_at, &s->cap_nodes, 64, 4) ||
        !(s->node_parent = calloc(s->cap_nodes, 4)) || !(s->node_depth = calloc(s->cap_nodes, 4)) ||
        !index_nodes(s) || !index_states(s)) {
        g_states_free(s);
        return NULL;
    }
    s->n_nodes = 1; /* 0 is the bottom */
    s->node_at[0] = 0;
    return s;
}

void g_states_free(g_states *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n_states; i++) free(s->states[i].mask);
    free(s->node_at);
    free(s->node_parent);
    free(s->node_depth);
    free(s->node_index);
    free(s->states);
    free(s->state_index);
    free(s->list);
    free(s->next);
    free(s->todo);
    free(s->seen);
    free(s->found);
    free(s);
}

size_t g_states_bytes(const g_states *s)
{
    return s->cap_nodes * 12 + s->n_node_index * 4 + s->cap_states * sizeof *s->states +
           s->n_state_index * 4 + s->cap_list * 4 + s->cap_next * 4 + s->mask_bytes;
}

/* A stack is made again from its bottom: path holds it top first. */
static uint32_t copy_stack(g_states *s, const g_states *from, uint32_t stack, uint32_t *path)
{
    size_t n = 0;
    for (; stack; stack = from->node_parent[stack]) path[n++] = from->node_at[stack];
    uint32_t made = 0;
    while (n-- > 0)
        if (!(made = node(s, path[n], made))) return 0;
    return made;
}

int32_t g_states_copy(g_states *s, const g_states *from, int32_t state)
{
    const g_state *t = &from->states[state];
    uint32_t *path = malloc(((size_t)s->g->limits.max_depth + 2) * sizeof *path);
    bool ok = path != NULL;
    start_closure(s);
    for (uint32_t i = 0; ok && i < t->n; i++) {
        uint32_t stack = from->list[t->stacks + i], made = 0;
        if (stack) made = copy_stack(s, from, stack, path);
        ok = (made || !stack) && found(s, made);
    }
    free(path);
    return ok ? intern(s) : G_DEAD;
}
