/* template_expr.c: expressions, by recursive descent with Jinja's precedences: `a if b else c`, or,
 * and, not, comparisons, + -, ~, * / // %, **, signs, postfixes, filters and tests. Chains of one
 * level are flat lists, so that a long sum is not a deep tree. */
#include "template_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static bool parse_or(tm_parser *p, tm_node **out);
static bool parse_signed(tm_parser *p, tm_node **out);

static tm_tok_kind kind(const tm_parser *p)
{
    return p->at->kind;
}

static bool skip(tm_parser *p, tm_tok_kind k)
{
    if (p->at->kind != k) return false;
    p->at++;
    return true;
}

/* ---------------------------------------------------------------- literals and brackets */

static bool parse_string(tm_parser *p, tm_node **out)
{
    if (!(*out = tm_node_new(p, N_CONST, p->at->line))) return false;
    tm_sb b = {0};
    tm_val v = tm_str(p->at->p, p->at->n);
    p->at++;
    if (kind(p) == T_STRING) { /* 'a' 'b' is 'ab' */
        if (!tm_sb_add(p->r, &b, v.s.p, v.s.n)) return false;
        for (; kind(p) == T_STRING; p->at++)
            if (!tm_sb_add(p->r, &b, p->at->p, p->at->n)) return false;
        v = tm_sb_done(p->r, &b);
    }
    (*out)->value = v;
    return true;
}

static bool parse_number(tm_parser *p, tm_node **out)
{
    char text[64];
    size_t n = 0;
    const tm_token *t = p->at++;
    if (!(*out = tm_node_new(p, N_CONST, t->line))) return false;
    for (size_t i = 0; i < t->n; i++) {
        if (t->p[i] == '_') continue;
        if (n + 1 == sizeof text) return tm_fail(p->r, "a number of more than %zu digits", n);
        text[n++] = t->p[i];
    }
    text[n] = '\0';
    if (t->kind == T_FLOAT) {
        (*out)->value = tm_float(strtod(text, NULL));
        return true;
    }
    char *end, x = n > 1 && text[0] == '0' ? (char)(text[1] | 0x20) : '\0';
    int base = x == 'x' ? 16 : x == 'o' ? 8 : x == 'b' ? 2 : 10;
    errno = 0;
    long long v = strtoll(text + (base == 10 ? 0 : 2), &end, base);
    if (errno || *end || end == text + (base == 10 ? 0 : 2))
        return tm_fail(p->r, "'%s' is not an integer of 64 bits", text);
    (*out)->value = tm_int(v);
    return true;
}

static bool parse_list(tm_parser *p, tm_node **out)
{
    if (!(*out = tm_node_new(p, N_LIST, p->at->line))) return false;
    p->at++;
    tm_node **tail = &(*out)->a;
    while (kind(p) != T_RBRACKET) {
        if ((*out)->a && !tm_expect(p, T_COMMA, "',' or ']'")) return false;
        if (kind(p) == T_RBRACKET) break;
        if (!tm_parse_expr(p, true, tail)) return false;
        tail = &(*tail)->next;
    }
    p->at++;
    return true;
}

static bool parse_dict(tm_parser *p, tm_node **out)
{
    if (!(*out = tm_node_new(p, N_DICT, p->at->line))) return false;
    p->at++;
    tm_node **tail = &(*out)->a;
    while (kind(p) != T_RBRACE) {
        if ((*out)->a && !tm_expect(p, T_COMMA, "',' or '}'")) return false;
        if (kind(p) == T_RBRACE) break;
        if (!tm_parse_expr(p, true, tail)) return false;
        tail = &(*tail)->next;
        if (!tm_expect(p, T_COLON, "':'") || !tm_parse_expr(p, true, tail)) return false;
        tail = &(*tail)->next;
    }
    p->at++;
    return true;
}

static bool parse_name(tm_parser *p, tm_node **out)
{
    static const struct {
        const char *name;
        tm_kind kind;
        bool b;
    } consts[] = {{"true", TM_BOOL, true},   {"True", TM_BOOL, true},  {"false", TM_BOOL, false},
                  {"False", TM_BOOL, false}, {"none", TM_NONE, false}, {"None", TM_NONE, false}};
    const tm_token *t = p->at;
    for (size_t i = 0; i < sizeof consts / sizeof *consts; i++) {
        if (!tm_at_name(p, consts[i].name)) continue;
        p->at++;
        if (!(*out = tm_node_new(p, N_CONST, t->line))) return false;
        (*out)->value = consts[i].kind == TM_NONE ? tm_none() : tm_bool(consts[i].b);
        return true;
    }
    p->at++;
    return (*out = tm_node_new(p, N_NAME, t->line)) && tm_intern(p, t, &(*out)->value);
}

static bool parse_primary(tm_parser *p, tm_node **out)
{
    switch (kind(p)) {
    case T_NAME:
        return parse_name(p, out);
    case T_STRING:
        return parse_string(p, out);
    case T_INT:
    case T_FLOAT:
        return parse_number(p, out);
    case T_LBRACKET:
        return parse_list(p, out);
    case T_LBRACE:
        return parse_dict(p, out);
    case T_LPAREN:
        p->at++;
        return tm_parse_tuple(p, true, true, NULL, out) && tm_expect(p, T_RPAREN, "')'");
    default:
        return tm_unexpected(p, "an expression");
    }
}

static bool tuple_ends(const tm_parser *p, const char *end_name)
{
    tm_tok_kind k = kind(p);
    return k == T_PRINT_END || k == T_BLOCK_END || k == T_RPAREN || k == T_EOF ||
           (end_name && tm_at_name(p, end_name));
}

/* One expression, or several with commas between: a tuple. */
bool tm_parse_tuple(tm_parser *p, bool with_if, bool empty_ok, const char *end_name, tm_node **out)
{
    tm_node *first = NULL, **tail = &first;
    bool tuple = false;
    int line = p->at->line;
    while (!tuple_ends(p, end_name)) {
        if (!tm_parse_expr(p, with_if, tail)) return false;
        tail = &(*tail)->next;
        if (!skip(p, T_COMMA)) break;
        tuple = true;
    }
    if (!tuple && first) {
        *out = first;
        return true;
    }
    if (!tuple && !empty_ok) return tm_unexpected(p, "an expression");
    if (!(*out = tm_node_new(p, N_TUPLE, line))) return false;
    (*out)->a = first;
    return true;
}

/* ---------------------------------------------------------------- postfixes */

static bool parse_args(tm_parser *p, tm_node **out)
{
    p->at++;
    tm_arg_kind seen = TM_ARG_PLAIN;
    for (tm_node **tail = out; kind(p) != T_RPAREN; tail = &(*tail)->next) {
        if (*out && !tm_expect(p, T_COMMA, "',' or ')'")) return false;
        if (kind(p) == T_RPAREN) break;
        tm_arg_kind k = TM_ARG_PLAIN;
        if (!(*tail = tm_node_new(p, N_ARG, p->at->line))) return false;
        if (skip(p, T_MUL))
            k = TM_ARG_STAR;
        else if (skip(p, T_POW))
            k = TM_ARG_STARSTAR;
        else if (kind(p) == T_NAME && p->at[1].kind == T_ASSIGN) {
            k = TM_ARG_KEYWORD;
            (*tail)->value = tm_str(p->at->p, p->at->n);
            p->at += 2;
        }
        if (k < seen && !(k == TM_ARG_KEYWORD && seen == TM_ARG_STAR))
            return tm_fail(p->r, "arguments out of order: plain, keywords, *list, **dict");
        seen = k;
        (*tail)->op = (int)k;
        if (!tm_parse_expr(p, true, &(*tail)->a)) return false;
    }
    return tm_expect(p, T_RPAREN, "')'");
}

/* x[...]: an expression or a slice. */
static bool parse_subscript(tm_parser *p, tm_node **out)
{
    tm_node *start = NULL;
    int line = p->at->line;
    if (kind(p) != T_COLON) {
        if (!tm_parse_expr(p, true, &start)) return false;
        if (kind(p) != T_COLON) {
            *out = start;
            return true;
        }
    }
    if (!(*out = tm_node_new(p, N_SLICE, line))) return false;
    (*out)->a = start;
    p->at++;
    if (kind(p) != T_COLON && kind(p) != T_RBRACKET && !tm_parse_expr(p, true, &(*out)->b))
        return false;
    if (skip(p, T_COLON) && kind(p) != T_RBRACKET && !tm_parse_expr(p, true, &(*out)->c))
        return false;
    return true;
}

static bool parse_dot(tm_parser *p, tm_node *obj, tm_node **out)
{
    const tm_token *t = p->at;
    if (kind(p) == T_INT) { /* x.0 */
        if (!(*out = tm_node_new(p, N_ITEM, t->line))) return false;
        (*out)->a = obj;
        return parse_number(p, &(*out)->b);
    }
    if (kind(p) != T_NAME) return tm_unexpected(p, "a name or a number after '.'");
    p->at++;
    if (!(*out = tm_node_new(p, N_ATTR, t->line))) return false;
    (*out)->a = obj;
    (*out)->value = tm_str(t->p, t->n);
    return true;
}

static bool parse_postfix(tm_parser *p, tm_node **node)
{
    for (;;) {
        tm_node *obj = *node;
        int line = p->at->line;
        if (skip(p, T_DOT)) {
            if (!parse_dot(p, obj, node)) return false;
        } else if (skip(p, T_LBRACKET)) {
            if (!(*node = tm_node_new(p, N_ITEM, line))) return false;
            (*node)->a = obj;
            if (!parse_subscript(p, &(*node)->b) || !tm_expect(p, T_RBRACKET, "']'")) return false;
        } else if (kind(p) == T_LPAREN) {
            if (!(*node = tm_node_new(p, N_CALL, line))) return false;
            (*node)->a = obj;
            if (!parse_args(p, &(*node)->b)) return false;
        } else {
            return true;
        }
    }
}

static bool parse_filter(tm_parser *p, tm_node **node)
{
    tm_node *in = *node;
    const tm_token *t = p->at;
    if (!tm_expect(p, T_NAME, "a filter's name")) return false;
    if (!(*node = tm_node_new(p, N_FILTER, t->line))) return false;
    (*node)->a = in;
    (*node)->value = tm_str(t->p, t->n);
    return kind(p) != T_LPAREN || parse_args(p, &(*node)->b);
}

bool tm_parse_filters(tm_parser *p, bool inline_first, tm_node **out)
{
    *out = NULL;
    if (inline_first && !parse_filter(p, out)) return false;
    while (skip(p, T_PIPE))
        if (!parse_filter(p, out)) return false;
    return true;
}

static bool starts_test_argument(const tm_parser *p)
{
    switch (kind(p)) {
    case T_STRING:
    case T_INT:
    case T_FLOAT:
    case T_LBRACKET:
    case T_LBRACE:
        return true;
    case T_NAME:
        return !tm_at_name(p, "else") && !tm_at_name(p, "or") && !tm_at_name(p, "and") &&
               !tm_at_name(p, "is") && !tm_at_name(p, "if") && !tm_at_name(p, "not") &&
               !tm_at_name(p, "in") && !tm_at_name(p, "recursive");
    default:
        return false;
    }
}

static bool parse_test(tm_parser *p, tm_node **node)
{
    tm_node *in = *node, *test;
    bool negated = tm_skip_name(p, "not");
    const tm_token *t = p->at;
    if (!tm_expect(p, T_NAME, "a test's name")) return false;
    if (!(test = tm_node_new(p, N_TEST, t->line))) return false;
    test->a = in;
    test->value = tm_str(t->p, t->n);
    if (kind(p) == T_LPAREN) {
        if (!parse_args(p, &test->b)) return false;
    } else if (starts_test_argument(p)) {
        if (!(test->b = tm_node_new(p, N_ARG, t->line))) return false;
        if (!parse_primary(p, &test->b->a) || !parse_postfix(p, &test->b->a)) return false;
    }
    *node = test;
    if (!negated) return true;
    if (!(*node = tm_node_new(p, N_NOT, t->line))) return false;
    (*node)->a = test;
    return true;
}

static bool unary(tm_parser *p, bool filters, tm_node **out)
{
    int line = p->at->line;
    if (kind(p) == T_SUB || kind(p) == T_ADD) {
        if (!(*out = tm_node_new(p, kind(p) == T_SUB ? N_NEG : N_POS, line))) return false;
        p->at++;
        if (!parse_signed(p, &(*out)->a)) return false;
    } else if (!parse_primary(p, out)) {
        return false;
    }
    if (!parse_postfix(p, out)) return false;
    while (filters) {
        if (skip(p, T_PIPE)) {
            if (!parse_filter(p, out)) return false;
        } else if (tm_skip_name(p, "is")) {
            if (!parse_test(p, out)) return false;
        } else if (kind(p) == T_LPAREN) {
            if (!parse_postfix(p, out)) return false;
        } else {
            break;
        }
    }
    return true;
}

/* What follows a sign: filters are of the whole. */
static bool parse_signed(tm_parser *p, tm_node **out)
{
    if (!tm_enter(p->r)) return false;
    bool ok = unary(p, false, out);
    tm_leave(p->r);
    return ok;
}

/* ---------------------------------------------------------------- chains */

typedef bool (*parse_fn)(tm_parser *p, tm_node **out);

/* Operands of `next` with operators from..to between them. */
static bool chain(tm_parser *p, parse_fn next, tm_tok_kind from, tm_tok_kind to, tm_node **out)
{
    tm_node *first, **tail;
    if (!next(p, &first)) return false;
    *out = first;
    if (kind(p) < from || kind(p) > to) return true;
    if (!(*out = tm_node_new(p, N_CHAIN, p->at->line))) return false;
    (*out)->a = first;
    tail = &(*out)->b;
    while (kind(p) >= from && kind(p) <= to) {
        if (!(*tail = tm_node_new(p, N_OPERAND, p->at->line))) return false;
        (*tail)->op = (int)kind(p);
        p->at++;
        if (!next(p, &(*tail)->a)) return false;
        tail = &(*tail)->next;
    }
    return true;
}

static bool parse_unary(tm_parser *p, tm_node **out)
{
    return unary(p, true, out);
}

static bool parse_power(tm_parser *p, tm_node **out)
{
    return chain(p, parse_unary, T_POW, T_POW, out);
}

static bool parse_product(tm_parser *p, tm_node **out)
{
    return chain(p, parse_power, T_MUL, T_MOD, out);
}

static bool parse_concat(tm_parser *p, tm_node **out)
{
    tm_node *first, **tail;
    if (!parse_product(p, &first)) return false;
    *out = first;
    if (kind(p) != T_TILDE) return true;
    if (!(*out = tm_node_new(p, N_CONCAT, p->at->line))) return false;
    (*out)->a = first;
    tail = &first->next;
    while (skip(p, T_TILDE)) {
        if (!parse_product(p, tail)) return false;
        tail = &(*tail)->next;
    }
    return true;
}

static bool parse_sum(tm_parser *p, tm_node **out)
{
    return chain(p, parse_concat, T_ADD, T_SUB, out);
}

static tm_tok_kind compare_op(tm_parser *p)
{
    tm_tok_kind k = kind(p);
    if (k >= T_EQ && k <= T_LE) {
        p->at++;
        return k;
    }
    if (tm_skip_name(p, "in")) return T_IN;
    if (tm_at_name(p, "not") && p->at[1].kind == T_NAME && p->at[1].n == 2 &&
        memcmp(p->at[1].p, "in", 2) == 0) {
        p->at += 2;
        return T_NOT_IN;
    }
    return T_EOF;
}

static bool parse_compare(tm_parser *p, tm_node **out)
{
    tm_node *first, **tail;
    int line = p->at->line;
    if (!parse_sum(p, &first)) return false;
    *out = first;
    tm_tok_kind op = compare_op(p);
    if (op == T_EOF) return true;
    if (!(*out = tm_node_new(p, N_COMPARE, line))) return false;
    (*out)->a = first;
    tail = &(*out)->b;
    for (; op != T_EOF; op = compare_op(p)) {
        if (!(*tail = tm_node_new(p, N_OPERAND, p->at->line))) return false;
        (*tail)->op = (int)op;
        if (!parse_sum(p, &(*tail)->a)) return false;
        tail = &(*tail)->next;
    }
    return true;
}

static bool parse_not(tm_parser *p, tm_node **out)
{
    if (!tm_at_name(p, "not")) return parse_compare(p, out);
    if (!tm_enter(p->r) || !(*out = tm_node_new(p, N_NOT, p->at->line))) return false;
    p->at++;
    bool ok = parse_not(p, &(*out)->a);
    tm_leave(p->r);
    return ok;
}

static bool word_chain(tm_parser *p, parse_fn next, const char *word, tm_node_kind k, tm_node **out)
{
    tm_node *first, **tail;
    if (!next(p, &first)) return false;
    *out = first;
    if (!tm_at_name(p, word)) return true;
    if (!(*out = tm_node_new(p, k, p->at->line))) return false;
    (*out)->a = first;
    tail = &first->next;
    while (tm_skip_name(p, word)) {
        if (!next(p, tail)) return false;
        tail = &(*tail)->next;
    }
    return true;
}

static bool parse_and(tm_parser *p, tm_node **out)
{
    return word_chain(p, parse_not, "and", N_AND, out);
}

static bool parse_or(tm_parser *p, tm_node **out)
{
    return word_chain(p, parse_and, "or", N_OR, out);
}

static bool parse_condition(tm_parser *p, tm_node **out)
{
    if (!parse_or(p, out)) return false;
    while (tm_skip_name(p, "if")) {
        tm_node *then = *out;
        if (!(*out = tm_node_new(p, N_COND, p->at->line))) return false;
        (*out)->a = then;
        if (!parse_or(p, &(*out)->b)) return false;
        if (tm_skip_name(p, "else") && !tm_parse_expr(p, true, &(*out)->c)) return false;
    }
    return true;
}

bool tm_parse_expr(tm_parser *p, bool with_if, tm_node **out)
{
    if (!tm_enter(p->r)) return false;
    bool ok = with_if ? parse_condition(p, out) : parse_or(p, out);
    tm_leave(p->r);
    return ok;
}

/* ---------------------------------------------------------------- targets of assignments */

static bool parse_target_item(tm_parser *p, bool namespaces, tm_node **out)
{
    const tm_token *t = p->at;
    if (kind(p) == T_LPAREN) {
        p->at++;
        if (!tm_enter(p->r)) return false;
        bool ok = tm_parse_target(p, namespaces, out) && tm_expect(p, T_RPAREN, "')'");
        tm_leave(p->r);
        return ok;
    }
    if (!tm_expect(p, T_NAME, "a name to assign to")) return false;
    if (!(*out = tm_node_new(p, N_NAME, t->line)) || !tm_intern(p, t, &(*out)->value)) return false;
    if (!namespaces || !skip(p, T_DOT)) return true;
    tm_node *ref = tm_node_new(p, N_NSREF, t->line);
    if (!ref) return false;
    ref->a = *out;
    ref->value = tm_str(p->at->p, p->at->n);
    *out = ref;
    return tm_expect(p, T_NAME, "an attribute's name");
}

/* a, or a, b, or (a, b), c; with `namespaces` also ns.a. */
bool tm_parse_target(tm_parser *p, bool namespaces, tm_node **out)
{
    tm_node *first = NULL, **tail = &first;
    int line = p->at->line;
    bool tuple = false;
    do {
        if (tuple && (kind(p) == T_RPAREN || kind(p) == T_ASSIGN || tm_at_name(p, "in"))) break;
        if (!parse_target_item(p, namespaces, tail)) return false;
        tail = &(*tail)->next;
        if (kind(p) == T_COMMA) tuple = true;
    } while (skip(p, T_COMMA));
    *out = first;
    if (!tuple) return true;
    if (!(*out = tm_node_new(p, N_TUPLE, line))) return false;
    (*out)->a = first;
    return true;
}
