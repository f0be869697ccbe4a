/* grammar_impl.h: inside of grammars. GBNF (grammar_gbnf.c) and JSON schemas (grammar_schema*.c)
 * both write rules through a builder (grammar_build.c); checked and flattened (grammar_compile.c)
 * they are an an_grammar, walked by sets of pushdown stacks (grammar_state.c) over a trie of the
 * vocabulary's bytes (grammar_trie.c). */
#ifndef ANNEAL_TEXT_GRAMMAR_IMPL_H
#define ANNEAL_TEXT_GRAMMAR_IMPL_H

#include "anneal/grammar.h"

#include <pthread.h>
#include <stdatomic.h>

#define G_MAX_CHAR 0x10ffffu
#define G_END      INT32_MAX /* element: the alternative ends */

/* Elements of a rule: a set of characters (its number, >= 0) or a rule (-1 - its number). */
static inline int32_t g_rule_elem(int rule)
{
    return -1 - rule;
}

/* ---------------------------------------------------------------- the builder */

typedef struct g_range {
    uint32_t lo, hi;
} g_range;

typedef struct g_seq {
    int32_t *v;
    size_t n, cap;
} g_seq;

typedef struct g_alt {
    uint32_t at, n; /* in elems */
    int32_t next;   /* alternative of the same rule, -1 = last */
} g_alt;

typedef struct g_rule {
    int32_t first, last;     /* alternatives, -1 = none */
    uint32_t name, name_len; /* in the source; len 0 = made here */
    bool loop;               /* x*: calls itself at its end, which is no left recursion */
} g_rule;

typedef struct g_set {
    uint32_t at, n; /* in ranges, sorted, not touching */
} g_set;

typedef struct g_builder {
    an_grammar_limits limits;
    an_error *err;
    an_status status;   /* AN_OK until something failed */
    const char *source; /* for names of rules; NULL = none */
    g_rule *rules;
    g_alt *alts;
    int32_t *elems;
    g_set *sets;
    g_range *ranges;
    size_t n_rules, n_alts, n_elems, n_sets, n_ranges;
    size_t cap_rules, cap_alts, cap_elems, cap_sets, cap_ranges;
    int32_t *set_index; /* hash of sets, number + 1 */
    size_t n_set_index;
} g_builder;

void gb_start(g_builder *b, const an_grammar_limits *limits, an_error *err);
void gb_free(g_builder *b);
bool gb_fail(g_builder *b, an_status s, const char *fmt, ...) AN_PRINTF(3, 4);
int gb_rule(g_builder *b);                           /* a new, empty rule; -1 = failed */
bool gb_alt(g_builder *b, int rule, const g_seq *s); /* copies s */
bool gs_push(g_builder *b, g_seq *s, int32_t elem);
bool gs_set(g_builder *b, g_seq *s, const g_range *ranges, size_t n, bool negated);
bool gs_char(g_builder *b, g_seq *s, uint32_t c);
bool gs_text(g_builder *b, g_seq *s, const char *utf8, size_t len);
bool gs_ascii(g_builder *b, g_seq *s, const char *text);
/* What was pushed since `from` becomes it repeated min to max times (max < 0: without end). */
bool gs_repeat(g_builder *b, g_seq *s, size_t from, long min, long max);
/* The same as one element: a rule if it is not one already. */
bool gs_group(g_builder *b, g_seq *s, size_t from);
/* A rule of one alternative; frees s. -1 = failed. */
int gb_rule_of(g_builder *b, g_seq *s);
/* A rule that is any of n strings (UTF-8), common beginnings shared. Sorts the strings. */
typedef struct g_string {
    const char *p;
    size_t n;
} g_string;
int gb_strings(g_builder *b, g_string *strings, size_t n);
bool g_grow(g_builder *b, void **v, size_t *cap, size_t need, size_t size);

/* ---------------------------------------------------------------- compiled */

typedef struct g_states g_states;

struct an_grammar {
    atomic_int refs;
    an_grammar_limits limits;
    int32_t *elems;      /* alternatives one after the other, each ends with G_END */
    uint32_t *alts;      /* where alternatives begin */
    uint32_t *rule_alts; /* [n_rules + 1] into alts */
    size_t n_rules;
    /* Characters that no set tells apart are one class. */
    uint32_t *class_lo; /* first characters of intervals, ascending, [0] = 0 */
    uint16_t *class_of; /* of each interval */
    size_t n_intervals;
    uint16_t ascii[128];
    size_t n_classes;
    uint64_t *members; /* [n_sets][words]: the classes of a set */
    size_t words;
    pthread_mutex_t lock; /* of states */
    g_states *states;
    struct an_matcher *matchers; /* all that walk it */
};

/* Checks the rules, root first, and takes what it needs of b. */
an_status g_compile(g_builder *b, int root, an_grammar **out);
size_t g_interval(const an_grammar *g, uint32_t c);

/* ---------------------------------------------------------------- states */

/* A state is a set of stacks; states are numbered, and remember their transitions and masks. */
#define G_DEAD    (-1)
#define G_UNKNOWN (-2)

typedef struct g_state {
    uint32_t stacks, n; /* in list: nodes whose top is a set; 0 = the empty stack: complete */
    uint8_t *mask;      /* [vocab / 8], NULL = not made yet */
    uint64_t mask_trie; /* number of the trie it was made with */
    bool complete;
    bool stays_known;
    uint16_t stays; /* kinds of characters after which it is still this state */
} g_state;

struct g_states {
    const an_grammar *g;
    /* nodes: an element to go on with when what lies above is done. 0 = the bottom. */
    uint32_t *node_at, *node_parent, *node_depth;
    size_t n_nodes, cap_nodes;
    uint32_t *node_index;
    size_t n_node_index;
    g_state *states;
    size_t n_states, cap_states;
    uint32_t *state_index;
    size_t n_state_index;
    uint32_t *list;
    size_t n_list, cap_list;
    int32_t *next; /* [n_states][n_classes] */
    size_t cap_next;
    size_t mask_bytes;
    /* work of one closure */
    uint64_t *todo;
    size_t n_todo, cap_todo;
    uint64_t *seen; /* hash of (at, parent) + 1 */
    size_t n_seen;
    uint32_t *found;
    size_t n_found, cap_found;
    size_t work; /* pairs looked at since the caller set it to 0 */
    bool over;   /* memory or work ran out */
};

g_states *g_states_new(const an_grammar *g);
void g_states_free(g_states *s);
int32_t g_states_start(g_states *s); /* the state before any character; G_DEAD = failed */
int32_t g_states_step(g_states *s, int32_t state, uint32_t cls); /* computes next[state][cls] */
static inline int32_t g_next(g_states *s, int32_t state, uint32_t cls)
{
    int32_t to = s->next[(size_t)state * s->g->n_classes + cls];
    return to == G_UNKNOWN ? g_states_step(s, state, cls) : to;
}
/* State of another set of states, made again in s. */
int32_t g_states_copy(g_states *s, const g_states *from, int32_t state);
size_t g_states_bytes(const g_states *s);
unsigned g_states_stays(g_states *s, int32_t state);
bool g_states_alive(g_states *s, int32_t state); /* some character can follow */

/* ---------------------------------------------------------------- vocabularies */

#define G_MAX_TOKEN 512 /* longer tokens are never allowed: shorter ones spell them */

/* What kinds of characters occur in a piece of the trie: a state that reads all of a kind and stays
 * where it is (the inside of a string) allows whole branches at once. */
enum {
    G_CONTROL = 1,
    G_SPACE = 2,
    G_QUOTE = 4,
    G_BACKSLASH = 8,
    G_DIGIT = 16,
    G_LETTER = 32,
    G_PUNCTUATION = 64,
    G_WIDE = 128,  /* beyond ASCII */
    G_BROKEN = 256 /* no UTF-8 */
};
unsigned g_kind(uint32_t c);

typedef struct g_trie_node {
    uint32_t skip;  /* the next node that is not below this one */
    uint32_t first; /* in order: its tokens go to the next node's, those below it to skip's */
    uint16_t depth; /* of its byte: 0 = first */
    uint16_t kinds; /* of this byte's character and all below */
    uint8_t byte;
} g_trie_node;

typedef struct g_trie {
    uint64_t number; /* no two tries of the process have the same */
    int32_t vocab;
    g_trie_node *nodes; /* depth first, and one more at the end */
    size_t n_nodes;
    int32_t *order;      /* tokens as the nodes have them */
    uint8_t *bytes;      /* of all usable tokens */
    uint32_t *piece_at;  /* [vocab] in bytes */
    uint16_t *piece_len; /* [vocab] 0 = never allowed */
    int32_t *ends;       /* end tokens */
    size_t n_ends;
} g_trie;

/* The vocabulary's, built when it is first asked for; NULL = no memory. */
const g_trie *g_trie_of(const an_vocab *v, an_error *err);

#endif
