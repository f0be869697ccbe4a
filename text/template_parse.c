/* template_parse.c: statements of a template: {% if %}, {% for %}, {% set %}, {% macro %} ... to
 * nodes. What reads other templates (include, extends, import) is refused: there are none. */
#include "template_impl.h"

#include <stdio.h>

/* ---------------------------------------------------------------- nodes and tokens */

tm_node *tm_node_new(tm_parser *p, tm_node_kind kind, int line)
{
    tm_node *n = tm_alloc(p->r, sizeof *n);
    if (!n) return NULL;
    n->kind = kind;
    n->line = line;
    return n;
}

bool tm_intern(tm_parser *p, const tm_token *t, tm_val *out)
{
    tm_val *found;
    *out = tm_str(t->p, t->n);
    if (!tm_dict_find(p->r, &p->names, out, &found)) return false;
    if (found) {
        *out = *found;
        return true;
    }
    return tm_dict_set(p->r, &p->names, out, out);
}

bool tm_unexpected(tm_parser *p, const char *wanted)
{
    p->r->line = p->at->line;
    switch (p->at->kind) {
    case T_EOF:
        return tm_fail(p->r, "the template ends, expected %s", wanted);
    case T_PRINT_END:
    case T_BLOCK_END:
        return tm_fail(p->r, "the tag ends, expected %s", wanted);
    default:
        return tm_fail(p->r, "unexpected '%.*s', expected %s", p->at->n > 40 ? 40 : (int)p->at->n,
                       p->at->p, wanted);
    }
}

bool tm_expect(tm_parser *p, tm_tok_kind kind, const char *what)
{
    if (p->at->kind != kind) return tm_unexpected(p, what);
    p->at++;
    return true;
}

bool tm_at_name(const tm_parser *p, const char *name)
{
    return p->at->kind == T_NAME && p->at->n == strlen(name) &&
           memcmp(p->at->p, name, p->at->n) == 0;
}

bool tm_skip_name(tm_parser *p, const char *name)
{
    if (!tm_at_name(p, name)) return false;
    p->at++;
    return true;
}

static bool at_any(const tm_parser *p, const char *const *names)
{
    for (; *names; names++)
        if (tm_at_name(p, *names)) return true;
    return false;
}

static bool block_end(tm_parser *p)
{
    return tm_expect(p, T_BLOCK_END, "the end of the tag, %}");
}

/* ---------------------------------------------------------------- bodies */

static bool parse_statement(tm_parser *p, tm_node **out);

static bool body_item(tm_parser *p, tm_node **out)
{
    const tm_token *t = p->at;
    if (t->kind == T_TEXT) {
        p->at++;
        if (!(*out = tm_node_new(p, N_TEXT, t->line))) return false;
        (*out)->value = tm_str(t->p, t->n);
        return true;
    }
    if (t->kind == T_PRINT_BEGIN) {
        p->at++;
        return (*out = tm_node_new(p, N_PRINT, t->line)) &&
               tm_parse_tuple(p, true, false, NULL, &(*out)->a) &&
               tm_expect(p, T_PRINT_END, "the end of the tag, }}");
    }
    p->at++; /* T_BLOCK_BEGIN: nothing else lies between tags */
    return parse_statement(p, out) && block_end(p);
}

/* Up to `{% one of ends`, which is left; ends NULL = the end of the template. */
static bool parse_body(tm_parser *p, const char *const *ends, tm_node **out)
{
    *out = NULL;
    if (!tm_enter(p->r)) return false;
    for (tm_node **tail = out; p->at->kind != T_EOF; tail = &(*tail)->next) {
        p->r->line = p->at->line;
        if (p->at->kind == T_BLOCK_BEGIN && ends) {
            p->at++;
            if (at_any(p, ends)) {
                tm_leave(p->r);
                return true;
            }
            p->at--;
        }
        if (!body_item(p, tail)) return false;
    }
    tm_leave(p->r);
    if (!ends) return true;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "{%% %s %%}", ends[0]);
    return tm_unexpected(p, wanted);
}

/* The rest of the tag, a body, and its end tag up to, not with, the %}. */
static bool tag_body(tm_parser *p, const char *end, tm_node **out)
{
    const char *ends[] = {end, NULL};
    if (!block_end(p) || !parse_body(p, ends, out)) return false;
    p->at++;
    return true;
}

/* ---------------------------------------------------------------- statements */

static bool parse_if(tm_parser *p, tm_node *n)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    tm_node **tail = &n->a;
    bool last = false;
    for (;;) {
        if (!(*tail = tm_node_new(p, N_BRANCH, p->at->line))) return false;
        if (!last && !tm_parse_tuple(p, false, false, NULL, &(*tail)->a)) return false;
        if (!block_end(p) ||
            !parse_body(p, last ? (const char *const[]){"endif", NULL} : ends, &(*tail)->b))
            return false;
        if (tm_skip_name(p, "endif")) return true;
        last = tm_at_name(p, "else");
        p->at++;
        tail = &(*tail)->next;
    }
}

static bool parse_for(tm_parser *p, tm_node *n)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    if (!tm_parse_target(p, false, &n->a)) return false;
    if (!tm_skip_name(p, "in")) return tm_unexpected(p, "'in'");
    if (!tm_parse_tuple(p, false, false, "recursive", &n->b)) return false;
    if (tm_skip_name(p, "if") && !tm_parse_expr(p, true, &n->e)) return false;
    if (tm_at_name(p, "recursive")) return tm_unexpected(p, "a loop that is not recursive");
    p->loops++;
    bool ok = block_end(p) && parse_body(p, ends, &n->c);
    p->loops--;
    if (!ok) return false;
    if (tm_skip_name(p, "endfor")) return true;
    p->at++;
    return tag_body(p, "endfor", &n->d);
}

static bool parse_set(tm_parser *p, tm_node *n)
{
    if (!tm_parse_target(p, true, &n->a)) return false;
    if (p->at->kind == T_ASSIGN) {
        p->at++;
        return tm_parse_tuple(p, true, false, NULL, &n->b);
    }
    n->kind = N_SETBLOCK;
    return tm_parse_filters(p, false, &n->b) && tag_body(p, "endset", &n->c);
}

static bool parse_params(tm_parser *p, tm_node **out)
{
    bool defaults = false;
    if (!tm_expect(p, T_LPAREN, "'('")) return false;
    for (tm_node **tail = out; p->at->kind != T_RPAREN; tail = &(*tail)->next) {
        if (*out && !tm_expect(p, T_COMMA, "',' or ')'")) return false;
        const tm_token *t = p->at;
        if (!tm_expect(p, T_NAME, "a parameter's name")) return false;
        if (!(*tail = tm_node_new(p, N_PARAM, t->line)) || !tm_intern(p, t, &(*tail)->value))
            return false;
        if (p->at->kind == T_ASSIGN) {
            p->at++;
            defaults = true;
            if (!tm_parse_expr(p, true, &(*tail)->a)) return false;
        } else if (defaults) {
            return tm_fail(p->r, "a parameter without a default after one that has it");
        }
    }
    p->at++;
    return true;
}

/* break and continue do not reach a loop around the macro. */
static bool macro_body(tm_parser *p, const char *end, tm_node *n)
{
    int loops = p->loops;
    p->loops = 0;
    bool ok = tag_body(p, end, &n->c);
    p->loops = loops;
    return ok;
}

static bool parse_macro(tm_parser *p, tm_node *n)
{
    const tm_token *t = p->at;
    return tm_expect(p, T_NAME, "the macro's name") && tm_intern(p, t, &n->value) &&
           parse_params(p, &n->a) && macro_body(p, "endmacro", n);
}

static bool parse_call(tm_parser *p, tm_node *n)
{
    static const tm_token caller = {.p = "caller", .n = 6};
    if (!(n->b = tm_node_new(p, N_MACRO, n->line)) || !tm_intern(p, &caller, &n->b->value))
        return false;
    if (p->at->kind == T_LPAREN && !parse_params(p, &n->b->a)) return false;
    if (!tm_parse_expr(p, true, &n->a)) return false;
    if (n->a->kind != N_CALL) return tm_unexpected(p, "a call");
    return macro_body(p, "endcall", n->b);
}

static bool parse_with(tm_parser *p, tm_node *n)
{
    for (tm_node **tail = &n->a; p->at->kind != T_BLOCK_END; tail = &(*tail)->next) {
        if (n->a && !tm_expect(p, T_COMMA, "',' or the end of the tag")) return false;
        if (!(*tail = tm_node_new(p, N_SET, p->at->line)) ||
            !tm_parse_target(p, false, &(*tail)->a) || !tm_expect(p, T_ASSIGN, "'='") ||
            !tm_parse_expr(p, true, &(*tail)->b))
            return false;
    }
    return tag_body(p, "endwith", &n->c);
}

static bool parse_filter_block(tm_parser *p, tm_node *n)
{
    return tm_parse_filters(p, true, &n->b) && tag_body(p, "endfilter", &n->c);
}

/* transformers marks the assistant's tokens by it; the text is what is inside. */
static bool parse_generation(tm_parser *p, tm_node *n)
{
    return tag_body(p, "endgeneration", &n->c);
}

static bool parse_jump(tm_parser *p, tm_node *n)
{
    if (p->loops == 0)
        return tm_fail(p->r, "'%s' outside of a loop", n->kind == N_BREAK ? "break" : "continue");
    return true;
}

static bool parse_statement(tm_parser *p, tm_node **out)
{
    static const struct {
        const char *word;
        tm_node_kind kind;
        bool (*parse)(tm_parser *p, tm_node *n);
    } statements[] = {{"if", N_IF, parse_if},
                      {"for", N_FOR, parse_for},
                      {"set", N_SET, parse_set},
                      {"macro", N_MACRO, parse_macro},
                      {"call", N_CALLBLOCK, parse_call},
                      {"with", N_WITH, parse_with},
                      {"filter", N_FILTERBLOCK, parse_filter_block},
                      {"generation", N_WITH, parse_generation},
                      {"break", N_BREAK, parse_jump},
                      {"continue", N_CONTINUE, parse_jump}};
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!tm_at_name(p, statements[i].word)) continue;
        if (!(*out = tm_node_new(p, statements[i].kind, p->at->line))) return false;
        p->at++;
        return statements[i].parse(p, *out);
    }
    return tm_unexpected(p,
                         "if, for, set, macro, call, with, filter, generation, break or continue");
}

bool tm_parse(tm_parser *p, tm_node **out)
{
    return parse_body(p, NULL, out);
}
