/* grammar_gbnf.c: GBNF, the notation of llama.cpp's grammars, to rules:
 *     root ::= "yes" | [a-z]+ ("-" [^0-9\n]){2,3} # a comment
 * A rule ends with its line, but lines may break after ::= and |, and inside of parentheses. */
#include "grammar_impl.h"

#include <stdlib.h>
#include <unistr.h>

typedef struct parser {
    g_builder b;
    const char *text, *p, *end;
    int depth;
    int32_t *names; /* hash of rules by name, rule + 1; grows with the rules */
    size_t n_names, used;
} parser;

static bool syntax(parser *g, const char *at, const char *what)
{
    int line = 1, column = 1;
    for (const char *q = g->text; q < at; q++) {
        if (*q == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)*q & 0xc0) != 0x80) {
            column++;
        }
    }
    const char *stop = at;
    while (stop < g->end && stop - at < 24 && *stop != '\n') stop++;
    while (stop > at && stop < g->end && ((unsigned char)*stop & 0xc0) == 0x80) stop--;
    if (at >= g->end)
        return gb_fail(&g->b, AN_INVALID, "grammar, line %d, column %d: %s, but the text ends",
                       line, column, what);
    return gb_fail(&g->b, AN_INVALID, "grammar, line %d, column %d: %s, found '%.*s'", line, column,
                   what, (int)(stop - at), at);
}

/* ---------------------------------------------------------------- names */

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

static size_t hash_name(const char *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    return (size_t)(h ^ (h >> 31));
}

static bool grow_names(parser *g)
{
    size_t n = g->n_names ? g->n_names * 2 : 64;
    int32_t *names = calloc(n, sizeof *names);
    if (!names) return gb_fail(&g->b, AN_NO_MEMORY, "grammar: out of memory");
    for (size_t i = 0; i < g->n_names; i++) {
        if (!g->names[i]) continue;
        const g_rule *r = &g->b.rules[g->names[i] - 1];
        size_t at = hash_name(g->text + r->name, r->name_len) & (n - 1);
        while (names[at]) at = (at + 1) & (n - 1);
        names[at] = g->names[i];
    }
    free(g->names);
    g->names = names;
    g->n_names = n;
    return true;
}

/* The rule of a name, made when it is first met; -1 = failed. */
static int rule_named(parser *g, const char *p, size_t n)
{
    if (g->used * 2 >= g->n_names && !grow_names(g)) return -1;
    size_t at = hash_name(p, n) & (g->n_names - 1);
    for (; g->names[at]; at = (at + 1) & (g->n_names - 1)) {
        const g_rule *r = &g->b.rules[g->names[at] - 1];
        if (r->name_len == n && memcmp(g->text + r->name, p, n) == 0) return g->names[at] - 1;
    }
    int rule = gb_rule(&g->b);
    if (rule < 0) return -1;
    g->b.rules[rule].name = (uint32_t)(p - g->text);
    g->b.rules[rule].name_len = (uint32_t)n;
    g->names[at] = rule + 1;
    g->used++;
    return rule;
}

/* ---------------------------------------------------------------- characters */

/* White space and comments; line ends only when they may come here. */
static void skip_space(parser *g, bool lines)
{
    while (g->p < g->end) {
        char c = *g->p;
        if (c == '#') {
            while (g->p < g->end && *g->p != '\n' && *g->p != '\r') g->p++;
        } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
            g->p++;
        } else {
            return;
        }
    }
}

static bool hex(parser *g, int digits, uint32_t *out)
{
    const char *at = g->p - 2;
    *out = 0;
    for (int i = 0; i < digits; i++, g->p++) {
        char c = g->p < g->end ? *g->p : ' ';
        int v = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (v < 0)
            return syntax(g, at,
                          digits == 2   ? "expected 2 hexadecimal digits"
                          : digits == 4 ? "expected 4 hexadecimal digits"
                                        : "expected 8 hexadecimal digits");
        *out = *out * 16 + (uint32_t)v;
    }
    if (*out > G_MAX_CHAR || (*out >= 0xd800 && *out <= 0xdfff))
        return syntax(g, at, "expected a character of Unicode");
    return true;
}

static bool parse_char(parser *g, uint32_t *out)
{
    if (g->p >= g->end) return syntax(g, g->p, "expected a character");
    if (*g->p != '\\') {
        ucs4_t c;
        g->p += u8_mbtouc(&c, (const uint8_t *)g->p, (size_t)(g->end - g->p));
        *out = (uint32_t)c;
        return true;
    }
    char c = g->p + 1 < g->end ? g->p[1] : ' ';
    g->p += 2;
    switch (c) {
    case 'x':
        return hex(g, 2, out);
    case 'u':
        return hex(g, 4, out);
    case 'U':
        return hex(g, 8, out);
    case 't':
        *out = '\t';
        return true;
    case 'n':
        *out = '\n';
        return true;
    case 'r':
        *out = '\r';
        return true;
    case '\\':
    case '"':
    case '[':
    case ']':
    case '^':
    case '-':
        *out = (unsigned char)c;
        return true;
    default:
        return syntax(g, g->p - 2,
                      "expected an escape (\\n \\r \\t \\\\ \\\" \\[ \\] \\x \\u \\U)");
    }
}

static bool parse_literal(parser *g, g_seq *s)
{
    const char *at = g->p++;
    uint32_t c;
    while (g->p < g->end && *g->p != '"')
        if (!parse_char(g, &c) || !gs_char(&g->b, s, c)) return false;
    if (g->p >= g->end) return syntax(g, at, "expected a literal with its closing quote");
    g->p++;
    return true;
}

static bool class_ranges(parser *g, g_range **v, size_t *n)
{
    size_t cap = 0;
    while (g->p < g->end && *g->p != ']') {
        g_range r;
        const char *at = g->p;
        if (!parse_char(g, &r.lo)) return false;
        r.hi = r.lo;
        if (g->end - g->p > 1 && *g->p == '-' && g->p[1] != ']') {
            g->p++;
            if (!parse_char(g, &r.hi)) return false;
            if (r.hi < r.lo) return syntax(g, at, "expected a range from low to high");
        }
        if (!g_grow(&g->b, (void **)v, &cap, *n + 1, sizeof **v)) return false;
        (*v)[(*n)++] = r;
    }
    if (g->p >= g->end) return syntax(g, g->p, "expected ']'");
    g->p++;
    return true;
}

static bool parse_class(parser *g, g_seq *s)
{
    g_range *v = NULL;
    size_t n = 0;
    g->p++;
    bool negated = g->p < g->end && *g->p == '^';
    if (negated) g->p++;
    bool ok = class_ranges(g, &v, &n) && gs_set(&g->b, s, v, n, negated);
    free(v);
    return ok;
}

/* ---------------------------------------------------------------- repetition */

static bool parse_count(parser *g, long *out)
{
    const char *at = g->p;
    *out = 0;
    while (g->p < g->end && *g->p >= '0' && *g->p <= '9') {
        if (*out < 100000000) *out = *out * 10 + (*g->p - '0');
        g->p++;
    }
    return g->p > at || syntax(g, at, "expected a number");
}

static bool parse_braces(parser *g, long *min, long *max)
{
    const char *at = g->p++;
    skip_space(g, true);
    if (!parse_count(g, min)) return false;
    skip_space(g, true);
    *max = *min;
    if (g->p < g->end && *g->p == ',') {
        g->p++;
        skip_space(g, true);
        *max = -1;
        if (g->p < g->end && *g->p != '}' && !parse_count(g, max)) return false;
        skip_space(g, true);
    }
    if (g->p >= g->end || *g->p != '}') return syntax(g, g->p, "expected '}'");
    g->p++;
    if (*max >= 0 && *max < *min) return syntax(g, at, "expected {m,n} with m not above n");
    return true;
}

/* Any number of * + ? {m,n} on what was pushed since `from`. */
static bool parse_repeats(parser *g, g_seq *s, size_t from)
{
    for (;;) {
        long min = 0, max = -1;
        skip_space(g, g->depth > 0);
        char c = g->p < g->end ? *g->p : '\0';
        if (c != '*' && c != '+' && c != '?' && c != '{') return true;
        if (c == '{') {
            if (!parse_braces(g, &min, &max)) return false;
        } else {
            g->p++;
            if (c == '+') min = 1;
            if (c == '?') max = 1;
        }
        if (!gs_repeat(&g->b, s, from, min, max)) return false;
    }
}

/* ---------------------------------------------------------------- rules */

static bool parse_alternatives(parser *g, int rule);

static bool parse_group(parser *g, g_seq *s)
{
    int rule = gb_rule(&g->b);
    if (rule < 0) return false;
    g->p++;
    if (g->depth >= g->b.limits.max_depth)
        return gb_fail(&g->b, AN_TOO_LARGE,
                       "grammar: parentheses nested deeper than the limit of %d",
                       g->b.limits.max_depth);
    g->depth++;
    skip_space(g, true);
    if (!parse_alternatives(g, rule)) return false;
    g->depth--;
    if (g->p >= g->end || *g->p != ')') return syntax(g, g->p, "expected ')'");
    g->p++;
    return gs_push(&g->b, s, g_rule_elem(rule));
}

static bool parse_symbol(parser *g, g_seq *s)
{
    static const g_range any = {0, G_MAX_CHAR};
    const char *p = g->p;
    if (*p == '"') return parse_literal(g, s);
    if (*p == '[') return parse_class(g, s);
    if (*p == '(') return parse_group(g, s);
    if (*p == '.') {
        g->p++;
        return gs_set(&g->b, s, &any, 1, false);
    }
    while (g->p < g->end && name_char(*g->p)) g->p++;
    int rule = rule_named(g, p, (size_t)(g->p - p));
    return rule >= 0 && gs_push(&g->b, s, g_rule_elem(rule));
}

static bool starts_symbol(const parser *g)
{
    char c = g->p < g->end ? *g->p : '\0';
    return c == '"' || c == '[' || c == '(' || c == '.' || name_char(c);
}

static bool parse_sequence(parser *g, int rule)
{
    g_seq s = {0};
    bool ok = true;
    while (ok && starts_symbol(g)) {
        size_t from = s.n;
        ok = parse_symbol(g, &s) && parse_repeats(g, &s, from);
    }
    ok = ok && gb_alt(&g->b, rule, &s);
    free(s.v);
    return ok;
}

static bool parse_alternatives(parser *g, int rule)
{
    for (;;) {
        if (!parse_sequence(g, rule)) return false;
        if (g->p >= g->end || *g->p != '|') return true;
        g->p++;
        skip_space(g, true);
    }
}

static bool parse_rule(parser *g)
{
    const char *name = g->p;
    while (g->p < g->end && name_char(*g->p)) g->p++;
    if (g->p == name) return syntax(g, name, "expected a rule's name");
    int rule = rule_named(g, name, (size_t)(g->p - name));
    if (rule < 0) return false;
    skip_space(g, false);
    if (g->end - g->p < 3 || memcmp(g->p, "::=", 3) != 0) return syntax(g, g->p, "expected ::=");
    if (g->b.rules[rule].first >= 0) return syntax(g, name, "expected each rule only once");
    g->p += 3;
    skip_space(g, true);
    if (!parse_alternatives(g, rule)) return false;
    if (g->p < g->end && *g->p != '\n' && *g->p != '\r')
        return syntax(g, g->p, "expected a symbol, '|' or the end of the line");
    skip_space(g, true);
    return true;
}

static bool parse_grammar(parser *g, int *root)
{
    skip_space(g, true);
    while (g->p < g->end)
        if (!parse_rule(g)) return false;
    *root = -1;
    for (size_t i = 0; i < g->b.n_rules; i++) {
        const g_rule *r = &g->b.rules[i];
        if (!r->name_len) continue;
        if (r->first < 0) return syntax(g, g->text + r->name, "expected a rule that is defined");
        if (r->name_len == 4 && memcmp(g->text + r->name, "root", 4) == 0) *root = (int)i;
    }
    return *root >= 0 || gb_fail(&g->b, AN_INVALID, "grammar: there is no rule named root");
}

an_status an_grammar_gbnf(const char *text, size_t len, const an_grammar_limits *limits,
                          an_grammar **out, an_error *err)
{
    parser g = {.text = text, .p = text, .end = text + len};
    int root;
    *out = NULL;
    gb_start(&g.b, limits, err);
    g.b.source = text;
    if (len > g.b.limits.max_source)
        gb_fail(&g.b, AN_TOO_LARGE, "grammar: %zu bytes, the limit is %zu", len,
                g.b.limits.max_source);
    else if (!an_utf8_valid(text, len))
        gb_fail(&g.b, AN_INVALID, "grammar: not valid UTF-8");
    else if (parse_grammar(&g, &root))
        g_compile(&g.b, root, out);
    an_status s = g.b.status;
    free(g.names);
    gb_free(&g.b);
    return s;
}
