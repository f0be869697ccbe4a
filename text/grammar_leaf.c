/* grammar_leaf.c: the rules every JSON document needs, and strings. */
#include "grammar_schema.h"

#include <stdlib.h>

static const g_range control_quote_escape[] = {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}};

bool s_push_rule(s_ctx *c, g_seq *s, int rule)
{
    return rule >= 0 && gs_push(&c->b, s, g_rule_elem(rule));
}

bool s_push_leaf(s_ctx *c, g_seq *s, s_leaf which)
{
    return s_push_rule(c, s, s_leaf_rule(c, which));
}

/* "[19]x" with sets in brackets, without escapes: the little that the rules below need. */
static bool push_form(s_ctx *c, g_seq *s, const char *form)
{
    for (const char *p = form; *p; p++) {
        g_range v[16];
        size_t n = 0;
        if (*p != '[') {
            if (!gs_char(&c->b, s, (unsigned char)*p)) return false;
            continue;
        }
        for (p++; *p != ']'; p++) {
            v[n].lo = v[n].hi = (unsigned char)*p;
            if (p[1] == '-') {
                v[n].hi = (unsigned char)p[2];
                p += 2;
            }
            n++;
        }
        if (!gs_set(&c->b, s, v, n, false)) return false;
    }
    return true;
}

static bool add_form(s_ctx *c, int rule, const char *form)
{
    g_seq s = {0};
    bool ok = push_form(c, &s, form) && gb_alt(&c->b, rule, &s);
    free(s.v);
    return ok;
}

/* ---------------------------------------------------------------- small ones */

static void make_space(s_ctx *c, int rule)
{
    static const g_range blank[] = {{' ', ' '}, {'\t', '\t'}};
    g_seq s = {0};
    gb_alt(&c->b, rule, &s);
    add_form(c, rule, " ");
    if (gs_char(&c->b, &s, '\n') && gs_set(&c->b, &s, blank, 2, false) &&
        gs_repeat(&c->b, &s, 1, 0, 20))
        gb_alt(&c->b, rule, &s);
    free(s.v);
}

/* A character of a string. Escapes of surrogates come in pairs and \u0000 not at all: many readers
 * refuse them. */
static void make_char(s_ctx *c, int rule)
{
    static const char *const escapes[] = {
        "\\[\"\\/bfnrt]",
        "\\u[1-9a-cA-CeEfF][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]",
        "\\u0[1-9a-fA-F][0-9a-fA-F][0-9a-fA-F]",
        "\\u00[1-9a-fA-F][0-9a-fA-F]",
        "\\u000[1-9a-fA-F]",
        "\\u[dD][0-7][0-9a-fA-F][0-9a-fA-F]",
        "\\u[dD][89abAB][0-9a-fA-F][0-9a-fA-F]\\u[dD][c-fC-F][0-9a-fA-F][0-9a-fA-F]"};
    g_seq s = {0};
    if (gs_set(&c->b, &s, control_quote_escape, 3, true)) gb_alt(&c->b, rule, &s);
    free(s.v);
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) add_form(c, rule, escapes[i]);
}

/* Sixteen digits at most, and exponents of two: within what 64 bits and a double hold. */
static void make_integer(s_ctx *c, int rule)
{
    g_seq s = {0};
    if (push_form(c, &s, "-") && gs_repeat(&c->b, &s, 0, 0, 1) && gs_char(&c->b, &s, '0') &&
        gb_alt(&c->b, rule, &s)) {
        s.n--;
        if (push_form(c, &s, "[1-9][0-9]") && gs_repeat(&c->b, &s, s.n - 1, 0, 15))
            gb_alt(&c->b, rule, &s);
    }
    free(s.v);
}

static void make_number(s_ctx *c, int rule)
{
    g_seq s = {0};
    g_builder *b = &c->b;
    bool ok = s_push_leaf(c, &s, S_INTEGER) && push_form(c, &s, ".[0-9]") &&
              gs_repeat(b, &s, 2, 1, 16) && gs_repeat(b, &s, 1, 0, 1) &&
              push_form(c, &s, "[eE][-+]");
    if (ok && gs_repeat(b, &s, 3, 0, 1) && push_form(c, &s, "[0-9]") &&
        gs_repeat(b, &s, s.n - 1, 1, 2) && gs_repeat(b, &s, 2, 0, 1))
        gb_alt(b, rule, &s);
    free(s.v);
}

static void make_string(s_ctx *c, int rule)
{
    g_seq s = {0};
    if (push_form(c, &s, "\"") && s_push_leaf(c, &s, S_CHAR) && gs_repeat(&c->b, &s, 1, 0, -1) &&
        push_form(c, &s, "\""))
        gb_alt(&c->b, rule, &s);
    free(s.v);
}

/* ---------------------------------------------------------------- any value */

static void make_value(s_ctx *c, int rule)
{
    static const s_leaf any[] = {S_OBJECT, S_ARRAY, S_STRING, S_NUMBER, S_BOOLEAN, S_NULL};
    for (size_t i = 0; i < sizeof any / sizeof *any; i++) {
        g_seq s = {0};
        if (s_push_leaf(c, &s, any[i])) gb_alt(&c->b, rule, &s);
        free(s.v);
    }
}

/* OPEN space (ITEM ("," space ITEM)*)? CLOSE, where an item ends with its space. */
static void make_collection(s_ctx *c, int rule, const char *open, int item, const char *close)
{
    g_seq s = {0};
    bool ok = gs_ascii(&c->b, &s, open) && s_push_leaf(c, &s, S_SPACE) && s_push_rule(c, &s, item);
    size_t from = s.n;
    ok = ok && gs_ascii(&c->b, &s, ",") && s_push_leaf(c, &s, S_SPACE) &&
         s_push_rule(c, &s, item) && gs_repeat(&c->b, &s, from, 0, -1) &&
         gs_repeat(&c->b, &s, 2, 0, 1) && gs_ascii(&c->b, &s, close);
    if (ok) gb_alt(&c->b, rule, &s);
    free(s.v);
}

static void make_object(s_ctx *c, int rule)
{
    g_seq s = {0};
    if (s_push_leaf(c, &s, S_STRING) && gs_ascii(&c->b, &s, ":") && s_push_leaf(c, &s, S_SPACE) &&
        s_push_leaf(c, &s, S_VALUE) && s_push_leaf(c, &s, S_SPACE))
        make_collection(c, rule, "{", gb_rule_of(&c->b, &s), "}");
    free(s.v);
}

static void make_array(s_ctx *c, int rule)
{
    g_seq s = {0};
    if (s_push_leaf(c, &s, S_VALUE) && s_push_leaf(c, &s, S_SPACE))
        make_collection(c, rule, "[", gb_rule_of(&c->b, &s), "]");
    free(s.v);
}

int s_leaf_rule(s_ctx *c, s_leaf which)
{
    if (c->leaves[which]) return c->leaves[which] - 1;
    int rule = gb_rule(&c->b);
    if (rule < 0) return -1;
    c->leaves[which] = rule + 1; /* before it is made: values hold values */
    switch (which) {
    case S_SPACE:
        make_space(c, rule);
        break;
    case S_CHAR:
        make_char(c, rule);
        break;
    case S_STRING:
        make_string(c, rule);
        break;
    case S_NUMBER:
        make_number(c, rule);
        break;
    case S_INTEGER:
        make_integer(c, rule);
        break;
    case S_BOOLEAN:
        add_form(c, rule, "true");
        add_form(c, rule, "false");
        break;
    case S_NULL:
        add_form(c, rule, "null");
        break;
    case S_VALUE:
        make_value(c, rule);
        break;
    case S_OBJECT:
        make_object(c, rule);
        break;
    case S_ARRAY:
        make_array(c, rule);
        break;
    case S_LEAVES:
        break;
    }
    return c->b.status == AN_OK ? rule : -1;
}

/* ---------------------------------------------------------------- strings */

bool s_count(s_ctx *c, const json_t *schema, const char *key, long other, long *out)
{
    const json_t *v = json_object_get(schema, key);
    *out = other;
    if (!v) return true;
    double d = json_number_value(v);
    if (!json_is_number(v) || d < 0 || d != (double)(long)(d < 1e9 ? d : 1e9))
        return s_fail(c, "'%s' must be a whole number, 0 to 999999999", key);
    *out = (long)d;
    return true;
}

/* A pattern, or the one of a format. */
static int string_like(s_ctx *c, const char *pattern, size_t len)
{
    g_seq s = {0};
    int inside = s_regex(c, pattern, len);
    if (inside >= 0 && gs_ascii(&c->b, &s, "\"") && s_push_rule(c, &s, inside) &&
        gs_ascii(&c->b, &s, "\""))
        return gb_rule_of(&c->b, &s);
    free(s.v);
    return -1;
}

int s_string(s_ctx *c, const json_t *schema)
{
    const json_t *pattern = json_object_get(schema, "pattern");
    const json_t *format = json_object_get(schema, "format");
    bool sized = json_object_get(schema, "minLength") || json_object_get(schema, "maxLength");
    long min, max;
    if (!s_count(c, schema, "minLength", 0, &min) || !s_count(c, schema, "maxLength", -1, &max))
        return -1;
    if ((pattern != NULL) + (format != NULL) + sized > 1) {
        s_fail(c, "of pattern, format and lengths only one can be enforced at a time");
        return -1;
    }
    if (pattern) {
        if (json_is_string(pattern))
            return string_like(c, json_string_value(pattern), json_string_length(pattern));
        s_fail(c, "pattern must be a string");
        return -1;
    }
    if (format) {
        const char *name = json_string_value(format), *like = name ? s_format(name) : NULL;
        if (like) return string_like(c, like, strlen(like));
        s_fail(c, "the format '%.60s' cannot be enforced", name ? name : "?");
        return -1;
    }
    if (!sized) return s_leaf_rule(c, S_STRING);
    if (max >= 0 && max < min) {
        s_fail(c, "maxLength %ld is below minLength %ld", max, min);
        return -1;
    }
    g_seq s = {0};
    if (gs_ascii(&c->b, &s, "\"") && s_push_leaf(c, &s, S_CHAR) &&
        gs_repeat(&c->b, &s, 1, min, max) && gs_ascii(&c->b, &s, "\""))
        return gb_rule_of(&c->b, &s);
    free(s.v);
    return -1;
}
