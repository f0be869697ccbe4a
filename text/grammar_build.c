/* grammar_build.c: rules in the making. Sets of characters are kept once however often they occur;
 * repetition becomes rules that call themselves at their end. */
#include "grammar_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistr.h>

#define MAX_ELEMENTS ((size_t)1 << 20)

void gb_start(g_builder *b, const an_grammar_limits *limits, an_error *err)
{
    *b = (g_builder){.err = err};
    an_grammar_limits_default(&b->limits);
    if (limits) b->limits = *limits;
}

void gb_free(g_builder *b)
{
    free(b->rules);
    free(b->alts);
    free(b->elems);
    free(b->sets);
    free(b->ranges);
    free(b->set_index);
}

bool gb_fail(g_builder *b, an_status s, const char *fmt, ...)
{
    if (b->status != AN_OK) return false;
    char what[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    b->status = an_fail(b->err, s, "%s", what);
    return false;
}

bool g_grow(g_builder *b, void **v, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return true;
    size_t n = *cap ? *cap * 2 : 16, bytes;
    if (n < need) n = need;
    void *p = an_mul_size(n, size, &bytes) ? realloc(*v, bytes) : NULL;
    if (!p) return gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
    *v = p;
    *cap = n;
    return true;
}

/* ---------------------------------------------------------------- rules */

int gb_rule(g_builder *b)
{
    if (b->status != AN_OK) return -1;
    if (b->n_rules >= (size_t)b->limits.max_rules) {
        gb_fail(b, AN_TOO_LARGE, "grammar: more than the limit of %d rules", b->limits.max_rules);
        return -1;
    }
    if (!g_grow(b, (void **)&b->rules, &b->cap_rules, b->n_rules + 1, sizeof *b->rules)) return -1;
    b->rules[b->n_rules] = (g_rule){.first = -1, .last = -1};
    return (int)b->n_rules++;
}

bool gb_alt(g_builder *b, int rule, const g_seq *s)
{
    if (b->status != AN_OK || rule < 0) return false;
    if (s->n > MAX_ELEMENTS - b->n_elems || b->n_alts >= MAX_ELEMENTS)
        return gb_fail(b, AN_TOO_LARGE, "grammar: more than the limit of %zu elements",
                       MAX_ELEMENTS);
    if (!g_grow(b, (void **)&b->elems, &b->cap_elems, b->n_elems + s->n, sizeof *b->elems) ||
        !g_grow(b, (void **)&b->alts, &b->cap_alts, b->n_alts + 1, sizeof *b->alts))
        return false;
    if (s->n) memcpy(b->elems + b->n_elems, s->v, s->n * sizeof *s->v);
    b->alts[b->n_alts] = (g_alt){(uint32_t)b->n_elems, (uint32_t)s->n, -1};
    b->n_elems += s->n;
    g_rule *r = &b->rules[rule];
    int32_t alt = (int32_t)b->n_alts++;
    if (r->last >= 0)
        b->alts[r->last].next = alt;
    else
        r->first = alt;
    r->last = alt;
    return true;
}

int gb_rule_of(g_builder *b, g_seq *s)
{
    int rule = gb_rule(b);
    if (rule >= 0 && !gb_alt(b, rule, s)) rule = -1;
    free(s->v);
    *s = (g_seq){0};
    return rule;
}

bool gs_push(g_builder *b, g_seq *s, int32_t elem)
{
    if (b->status != AN_OK) return false;
    if (s->n >= MAX_ELEMENTS)
        return gb_fail(b, AN_TOO_LARGE, "grammar: more than the limit of %zu elements",
                       MAX_ELEMENTS);
    if (!g_grow(b, (void **)&s->v, &s->cap, s->n + 1, sizeof *s->v)) return false;
    s->v[s->n++] = elem;
    return true;
}

/* ---------------------------------------------------------------- sets of characters */

static int by_lo(const void *x, const void *y)
{
    const g_range *a = x, *b = y;
    return (a->lo > b->lo) - (a->lo < b->lo);
}

/* Sorted, joined where they touch; in place. */
static size_t normalise(g_range *v, size_t n)
{
    size_t m = 0;
    qsort(v, n, sizeof *v, by_lo);
    for (size_t i = 0; i < n; i++) {
        if (m && v[i].lo <= v[m - 1].hi + 1) {
            if (v[i].hi > v[m - 1].hi) v[m - 1].hi = v[i].hi;
        } else {
            v[m++] = v[i];
        }
    }
    return m;
}

/* Everything else; out has room for n + 1. */
static size_t complement(const g_range *v, size_t n, g_range *out)
{
    size_t m = 0;
    uint32_t from = 0;
    for (size_t i = 0; i < n; i++) {
        if (v[i].lo > from) out[m++] = (g_range){from, v[i].lo - 1};
        from = v[i].hi + 1;
    }
    if (from <= G_MAX_CHAR) out[m++] = (g_range){from, G_MAX_CHAR};
    return m;
}

static uint64_t hash_ranges(const g_range *v, size_t n)
{
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ v[i].lo) * 0x9e3779b97f4a7c15u;
        h = (h ^ (h >> 29) ^ v[i].hi) * 0xbf58476d1ce4e5b9u;
    }
    return h ^ (h >> 32);
}

static bool index_sets(g_builder *b)
{
    size_t n = b->n_set_index ? b->n_set_index * 2 : 64;
    int32_t *index = calloc(n, sizeof *index);
    if (!index) return gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
    for (size_t i = 0; i < b->n_sets; i++) {
        size_t at = hash_ranges(b->ranges + b->sets[i].at, b->sets[i].n) & (n - 1);
        while (index[at]) at = (at + 1) & (n - 1);
        index[at] = (int32_t)i + 1;
    }
    free(b->set_index);
    b->set_index = index;
    b->n_set_index = n;
    return true;
}

/* The number of a normalised set, new or known; -1 = failed. */
static int32_t find_set(g_builder *b, const g_range *v, size_t n)
{
    if (b->n_sets * 2 >= b->n_set_index && !index_sets(b)) return -1;
    size_t at = hash_ranges(v, n) & (b->n_set_index - 1);
    for (; b->set_index[at]; at = (at + 1) & (b->n_set_index - 1)) {
        const g_set *s = &b->sets[b->set_index[at] - 1];
        if (s->n == n && (n == 0 || memcmp(b->ranges + s->at, v, n * sizeof *v) == 0))
            return b->set_index[at] - 1;
    }
    if (n > MAX_ELEMENTS - b->n_ranges) {
        gb_fail(b, AN_TOO_LARGE, "grammar: more than the limit of %zu ranges of characters",
                MAX_ELEMENTS);
        return -1;
    }
    if (!g_grow(b, (void **)&b->sets, &b->cap_sets, b->n_sets + 1, sizeof *b->sets) ||
        !g_grow(b, (void **)&b->ranges, &b->cap_ranges, b->n_ranges + n, sizeof *b->ranges))
        return -1;
    if (n) memcpy(b->ranges + b->n_ranges, v, n * sizeof *v);
    b->sets[b->n_sets] = (g_set){(uint32_t)b->n_ranges, (uint32_t)n};
    b->n_ranges += n;
    b->set_index[at] = (int32_t)++b->n_sets;
    return (int32_t)b->n_sets - 1;
}

bool gs_set(g_builder *b, g_seq *s, const g_range *ranges, size_t n, bool negated)
{
    static const g_range surrogates = {0xd800, 0xdfff}; /* no UTF-8 has them */
    if (b->status != AN_OK) return false;
    g_range *v = malloc((2 * n + 8) * sizeof *v), *w = v ? v + n + 3 : NULL;
    if (!v) return gb_fail(b, AN_NO_MEMORY, "grammar: out of memory");
    if (n) memcpy(v, ranges, n * sizeof *v);
    size_t m = normalise(v, n);
    if (!negated) { /* not (not set, or surrogates) */
        m = complement(v, m, w);
        memcpy(v, w, m * sizeof *v);
    }
    v[m++] = surrogates;
    m = normalise(v, m);
    m = complement(v, m, w);
    int32_t set = find_set(b, w, m);
    free(v);
    return set >= 0 && gs_push(b, s, set);
}

bool gs_char(g_builder *b, g_seq *s, uint32_t c)
{
    return gs_set(b, s, &(g_range){c, c}, 1, false);
}

bool gs_text(g_builder *b, g_seq *s, const char *utf8, size_t len)
{
    const char *end = utf8 + len;
    while (utf8 < end) {
        ucs4_t c;
        utf8 += u8_mbtouc(&c, (const uint8_t *)utf8, (size_t)(end - utf8));
        if (!gs_char(b, s, (uint32_t)c)) return false;
    }
    return b->status == AN_OK;
}

bool gs_ascii(g_builder *b, g_seq *s, const char *text)
{
    return gs_text(b, s, text, strlen(text));
}

/* ---------------------------------------------------------------- repetition */

bool gs_group(g_builder *b, g_seq *s, size_t from)
{
    if (b->status != AN_OK) return false;
    if (s->n == from + 1) return true;
    g_seq part = {.v = s->v ? s->v + from : NULL, .n = s->n - from};
    int rule = gb_rule(b);
    if (!gb_alt(b, rule, &part)) return false;
    s->n = from;
    return gs_push(b, s, g_rule_elem(rule));
}

/* A new rule: x and then `rest` (0 = nothing, `self`: itself), or nothing. */
static bool optional_rule(g_builder *b, int32_t x, bool self, int32_t rest, int32_t *out)
{
    int32_t v[2];
    int rule = gb_rule(b);
    if (rule < 0) return false;
    g_seq s = {.v = v, .n = 1}, nothing = {0};
    v[0] = x;
    if (self || rest) v[s.n++] = self ? g_rule_elem(rule) : rest;
    b->rules[rule].loop = self;
    *out = g_rule_elem(rule);
    return gb_alt(b, rule, &s) && gb_alt(b, rule, &nothing);
}

bool gs_repeat(g_builder *b, g_seq *s, size_t from, long min, long max)
{
    if (min > b->limits.max_repeat || max > b->limits.max_repeat)
        return gb_fail(b, AN_TOO_LARGE, "grammar: a repetition of %ld, more than the limit of %d",
                       min > max ? min : max, b->limits.max_repeat);
    if (!gs_group(b, s, from)) return false;
    int32_t x = s->v[from], tail = 0;
    s->n = from;
    for (long i = 0; i < min; i++)
        if (!gs_push(b, s, x)) return false;
    if (max < 0) return optional_rule(b, x, true, 0, &tail) && gs_push(b, s, tail);
    for (long i = min; i < max; i++)
        if (!optional_rule(b, x, false, tail, &tail)) return false;
    return max == min || gs_push(b, s, tail);
}

/* ---------------------------------------------------------------- one of many strings */

static int by_bytes(const void *x, const void *y)
{
    const g_string *a = x, *b = y;
    int c = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

/* Bytes all of v begin with from `skip` on, cut at a whole character. Sorted: the ends decide. */
static size_t common(const g_string *v, size_t n, size_t skip)
{
    const g_string *a = &v[0], *z = &v[n - 1];
    size_t k = skip;
    while (k < a->n && k < z->n && a->p[k] == z->p[k]) k++;
    while (k > skip && k < a->n && ((unsigned char)a->p[k] & 0xc0) == 0x80) k--;
    while (k > skip && k < z->n && ((unsigned char)z->p[k] & 0xc0) == 0x80) k--;
    return k - skip;
}

static size_t char_bytes(const char *p)
{
    unsigned char c = (unsigned char)*p;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* The rests, after `skip` bytes that are the same in all, as a rule. */
static int strings_rule(g_builder *b, const g_string *v, size_t n, size_t skip, int depth)
{
    int rule = gb_rule(b);
    if (depth > b->limits.max_depth) {
        gb_fail(b, AN_TOO_LARGE, "grammar: strings that share beginnings %d times, the limit is %d",
                depth, b->limits.max_depth);
        return -1;
    }
    for (size_t i = 0, end; i < n && b->status == AN_OK; i = end) {
        g_seq s = {0};
        end = i + 1;
        if (v[i].n > skip) {
            size_t first = char_bytes(v[i].p + skip);
            while (end < n && v[end].n >= skip + first &&
                   memcmp(v[end].p + skip, v[i].p + skip, first) == 0)
                end++;
            size_t same = common(v + i, end - i, skip);
            gs_text(b, &s, v[i].p + skip, same);
            if (end > i + 1) {
                int rest = strings_rule(b, v + i, end - i, skip + same, depth + 1);
                if (rest >= 0) gs_push(b, &s, g_rule_elem(rest));
            }
        }
        gb_alt(b, rule, &s);
        free(s.v);
    }
    return b->status == AN_OK ? rule : -1;
}

int gb_strings(g_builder *b, g_string *strings, size_t n)
{
    size_t m = 0;
    qsort(strings, n, sizeof *strings, by_bytes);
    for (size_t i = 0; i < n; i++)
        if (m == 0 || by_bytes(&strings[m - 1], &strings[i]) != 0) strings[m++] = strings[i];
    return strings_rule(b, strings, m, 0, 0);
}
