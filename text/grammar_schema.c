/* grammar_schema.c: JSON schemas to rules: references, alternatives, constants, types. What comes
 * out is a part of what the schema allows, never more: members in the schema's order, no members it
 * does not name unless additionalProperties asks for them, numbers that every reader can hold, and
 * little white space. A keyword that rules cannot express is an error that names it. */
#include "grammar_schema.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_NESTING 200 /* of schemas; C recursion */

/* ---------------------------------------------------------------- errors */

bool s_fail(s_ctx *c, const char *fmt, ...)
{
    char what[500];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return gb_fail(&c->b, AN_INVALID, "schema, at #%s: %s", c->path, what);
}

void s_enter(s_ctx *c, const char *key, const char *sub)
{
    size_t room = sizeof c->path - c->path_len;
    int n = snprintf(c->path + c->path_len, room, sub ? "/%s/%s" : "/%s", key, sub);
    if (n > 0) c->path_len += (size_t)n < room ? (size_t)n : room - 1;
    while (c->path_len && !an_utf8_valid(c->path, c->path_len)) c->path_len--; /* a cut character */
    c->path[c->path_len] = '\0';
}

static void leave(s_ctx *c, size_t mark)
{
    c->path_len = mark;
    c->path[mark] = '\0';
}

const json_t *s_own(s_ctx *c, json_t *made)
{
    if (!made ||
        !g_grow(&c->b, (void **)&c->owned, &c->cap_owned, c->n_owned + 1, sizeof *c->owned)) {
        json_decref(made);
        gb_fail(&c->b, AN_NO_MEMORY, "grammar: out of memory");
        return NULL;
    }
    return c->owned[c->n_owned++] = made;
}

/* ---------------------------------------------------------------- keywords */

bool s_is_annotation(const char *key)
{
    static const char *const names[] = {
        "title",           "description", "default",  "example",
        "examples",        "$schema",     "$id",      "id",
        "$comment",        "deprecated",  "readOnly", "writeOnly",
        "$defs",           "definitions", "$anchor",  "contentMediaType",
        "contentEncoding", "strict",      "nullable", "name",
        "discriminator"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(key, names[i]) == 0) return true;
    return strncmp(key, "x-", 2) == 0;
}

enum { K_STRING = 1, K_NUMBER = 2, K_OBJECT = 4, K_ARRAY = 8, K_ANY = 16, K_REFUSED = 32 };

static const struct {
    const char *name;
    int kind;
} keywords[] = {
    {"type", K_ANY},
    {"enum", K_ANY},
    {"const", K_ANY},
    {"$ref", K_ANY},
    {"anyOf", K_ANY},
    {"oneOf", K_ANY},
    {"allOf", K_ANY},
    {"minLength", K_STRING},
    {"maxLength", K_STRING},
    {"pattern", K_STRING},
    {"format", K_STRING},
    {"minimum", K_NUMBER},
    {"maximum", K_NUMBER},
    {"exclusiveMinimum", K_NUMBER},
    {"exclusiveMaximum", K_NUMBER},
    {"multipleOf", K_NUMBER},
    {"properties", K_OBJECT},
    {"required", K_OBJECT},
    {"additionalProperties", K_OBJECT},
    {"minProperties", K_OBJECT},
    {"maxProperties", K_OBJECT},
    {"items", K_ARRAY},
    {"prefixItems", K_ARRAY},
    {"additionalItems", K_ARRAY},
    {"minItems", K_ARRAY},
    {"maxItems", K_ARRAY},
    {"uniqueItems", K_ARRAY},
    {"not", K_REFUSED},
    {"if", K_REFUSED},
    {"then", K_REFUSED},
    {"else", K_REFUSED},
    {"contains", K_REFUSED},
    {"minContains", K_REFUSED},
    {"maxContains", K_REFUSED},
    {"patternProperties", K_REFUSED},
    {"propertyNames", K_REFUSED},
    {"dependentRequired", K_REFUSED},
    {"dependentSchemas", K_REFUSED},
    {"dependencies", K_REFUSED},
    {"unevaluatedProperties", K_REFUSED},
    {"unevaluatedItems", K_REFUSED},
    {"$dynamicRef", K_REFUSED},
    {"$recursiveRef", K_REFUSED},
};

/* All kinds of keywords the schema has. */
static bool keyword_kinds(s_ctx *c, const json_t *schema, int *out)
{
    const char *key;
    json_t *value;
    *out = 0;
    json_object_foreach((json_t *)schema, key, value)
    {
        int kind = 0;
        for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
            if (strcmp(key, keywords[i].name) == 0) kind = keywords[i].kind;
        bool nullable = strcmp(key, "nullable") == 0 && json_is_true(value);
        if (kind == K_REFUSED || nullable)
            return s_fail(c, "the keyword '%.60s' cannot be enforced%s", key,
                          nullable ? "; use a type of [..., \"null\"]" : "");
        if (!kind && !s_is_annotation(key)) return s_fail(c, "unknown keyword '%.60s'", key);
        *out |= kind;
    }
    return true;
}

/* ---------------------------------------------------------------- references */

static int hex_digit(char ch)
{
    if (ch >= '0' && ch <= '9') return ch - '0';
    ch = (char)(ch | 0x20);
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* One part of a JSON pointer in a URI: ~0 ~1 and %41 decoded. Returns behind it. */
static const char *pointer_part(const char *p, char *out, size_t size)
{
    size_t n = 0;
    for (; *p && *p != '/'; p++) {
        char ch = *p;
        if (ch == '%' && hex_digit(p[1]) >= 0 && hex_digit(p[2]) >= 0) {
            ch = (char)(hex_digit(p[1]) * 16 + hex_digit(p[2]));
            p += 2;
        } else if (ch == '~' && (p[1] == '0' || p[1] == '1')) {
            ch = *++p == '0' ? '~' : '/';
        }
        if (n + 1 < size) out[n++] = ch;
    }
    out[n] = '\0';
    return p;
}

const json_t *s_resolve(s_ctx *c, const json_t *ref)
{
    const char *text = json_string_value(ref), *p = text;
    const json_t *at = c->root;
    char part[512];
    if (!text || *p != '#' || (p[1] && p[1] != '/')) {
        s_fail(c, "a $ref must point into the same schema, like #/$defs/name, found '%.100s'",
               text ? text : "no string");
        return NULL;
    }
    for (p++; *p == '/' && at;) {
        p = pointer_part(p + 1, part, sizeof part);
        if (json_is_array(at)) {
            char *end;
            unsigned long i = strtoul(part, &end, 10);
            at = *end || !*part ? NULL : json_array_get(at, i);
        } else {
            at = json_object_get(at, part);
        }
    }
    if (!at) s_fail(c, "$ref '%.100s' points to nothing", text);
    return at;
}

/* The rule of a schema that others point to or that is made by joining: one for all, so that what
 * refers to itself comes to an end. */
static int remembered(s_ctx *c, const json_t *to, s_make make)
{
    for (size_t i = 0; i < c->n_refs; i++)
        if (c->refs[i].schema == to && c->refs[i].make == make) return c->refs[i].rule;
    int rule = gb_rule(&c->b);
    if (rule < 0 || !g_grow(&c->b, (void **)&c->refs, &c->cap_refs, c->n_refs + 1, sizeof *c->refs))
        return -1;
    c->refs[c->n_refs++] = (s_ref){to, make, rule};
    g_seq s = {0};
    int body = make(c, to);
    bool ok = s_push_rule(c, &s, body) && gb_alt(&c->b, rule, &s);
    free(s.v);
    return ok ? rule : -1;
}

static int ref_rule(s_ctx *c, const json_t *ref)
{
    const json_t *to = s_resolve(c, ref);
    return to ? remembered(c, to, s_schema) : -1;
}

/* ---------------------------------------------------------------- joining */

/* The schema without one of its keywords and without annotations; NULL after gb_fail. */
static const json_t *without(s_ctx *c, const json_t *schema, const char *word)
{
    json_t *copy = json_copy((json_t *)schema);
    const char *key;
    json_t *value;
    void *tmp;
    json_object_foreach_safe(copy, tmp, key, value)
    {
        (void)value;
        if (strcmp(key, word) == 0 || s_is_annotation(key)) json_object_del(copy, key);
    }
    return s_own(c, copy);
}

/* anyOf and oneOf: one of the branches, each joined with what stands beside. */
static int branches(s_ctx *c, const json_t *schema)
{
    const char *word = json_object_get(schema, "anyOf") ? "anyOf" : "oneOf";
    const json_t *list = json_object_get(schema, word), *rest = without(c, schema, word);
    size_t n = json_array_size(list), mark = c->path_len;
    int rule = gb_rule(&c->b);
    if (!rest) return -1;
    if (n == 0) s_fail(c, "%s must be a list of schemas", word);
    for (size_t i = 0; i < n && c->b.status == AN_OK; i++) {
        char index[24];
        g_seq s = {0};
        const json_t *branch = json_array_get(list, i);
        snprintf(index, sizeof index, "%zu", i);
        s_enter(c, word, index);
        if (json_object_size(rest)) branch = s_merge(c, rest, branch);
        if (branch && s_push_rule(c, &s, s_schema(c, branch))) gb_alt(&c->b, rule, &s);
        free(s.v);
        leave(c, mark);
    }
    return c->b.status == AN_OK ? rule : -1;
}

static int joined(s_ctx *c, const json_t *schema)
{
    const json_t *all = s_merge(c, schema, json_true());
    return all ? s_schema(c, all) : -1;
}

/* ---------------------------------------------------------------- constants */

static bool type_fits(const json_t *types, const json_t *v)
{
    const char *name = json_is_object(v)    ? "object"
                       : json_is_array(v)   ? "array"
                       : json_is_string(v)  ? "string"
                       : json_is_boolean(v) ? "boolean"
                       : json_is_null(v)    ? "null"
                       : json_is_integer(v) ? "integer"
                                            : "number";
    if (!types) return true;
    for (size_t i = 0; i == 0 || i < json_array_size(types); i++) {
        const char *t = json_string_value(json_is_array(types) ? json_array_get(types, i) : types);
        if (t && (strcmp(t, name) == 0 || (strcmp(t, "number") == 0 && json_is_integer(v))))
            return true;
    }
    return false;
}

/* Compact text of a value that reads back as the same value. */
static char *dump(const json_t *v)
{
    for (size_t precision = 15;; precision = 17) {
        char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(precision));
        json_t *back = text && precision < 17 ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
        bool same = back && json_equal(back, v);
        json_decref(back);
        if (same || precision == 17 || !text) return text;
        free(text);
    }
}

static int constants(s_ctx *c, const json_t *schema)
{
    const json_t *only = json_object_get(schema, "const"), *list = json_object_get(schema, "enum");
    const json_t *types = json_object_get(schema, "type");
    size_t n = only ? 1 : json_array_size(list), m = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)schema, key, value)
    {
        (void)value;
        if (strcmp(key, "const") && strcmp(key, "enum") && strcmp(key, "type") &&
            strcmp(key, "format") && !s_is_annotation(key))
            return s_fail(c, "'%.60s' beside enum or const cannot be enforced", key), -1;
    }
    if (only && list) return s_fail(c, "of enum and const only one can be given"), -1;
    char **texts = calloc(n + 1, sizeof *texts);
    g_string *strings = calloc(n + 1, sizeof *strings);
    int rule = -1;
    for (size_t i = 0; texts && strings && i < n; i++) {
        const json_t *v = only ? only : json_array_get(list, i);
        if (!type_fits(types, v) || !(texts[m] = dump(v))) continue;
        strings[m] = (g_string){texts[m], strlen(texts[m])};
        m++;
    }
    if (!texts || !strings)
        gb_fail(&c->b, AN_NO_MEMORY, "grammar: out of memory");
    else if (m == 0)
        s_fail(c, "enum or const has no value of the type");
    else
        rule = gb_strings(&c->b, strings, m);
    for (size_t i = 0; i < m; i++) free(texts[i]);
    free(texts);
    free(strings);
    return rule;
}

/* ---------------------------------------------------------------- types */

static int typed(s_ctx *c, const json_t *schema, const char *type)
{
    if (strcmp(type, "object") == 0) return s_object(c, schema);
    if (strcmp(type, "array") == 0) return s_array(c, schema);
    if (strcmp(type, "string") == 0) return s_string(c, schema);
    if (strcmp(type, "integer") == 0) return s_number(c, schema, true);
    if (strcmp(type, "number") == 0) return s_number(c, schema, false);
    if (strcmp(type, "boolean") == 0) return s_leaf_rule(c, S_BOOLEAN);
    if (strcmp(type, "null") == 0) return s_leaf_rule(c, S_NULL);
    s_fail(c, "unknown type '%.60s'", type);
    return -1;
}

static int any_of_types(s_ctx *c, const json_t *schema, const json_t *types)
{
    int rule = gb_rule(&c->b);
    if (json_array_size(types) == 0) s_fail(c, "type must be a name or a list of names");
    for (size_t i = 0; i < json_array_size(types) && c->b.status == AN_OK; i++) {
        const char *name = json_string_value(json_array_get(types, i));
        g_seq s = {0};
        if (!name)
            s_fail(c, "type must be a name or a list of names");
        else if (s_push_rule(c, &s, typed(c, schema, name)))
            gb_alt(&c->b, rule, &s);
        free(s.v);
    }
    return c->b.status == AN_OK ? rule : -1;
}

/* Without a type, its keywords say what a schema is about; without them it is about anything. */
static int untyped(s_ctx *c, const json_t *schema, int kinds)
{
    switch (kinds & (K_STRING | K_NUMBER | K_OBJECT | K_ARRAY)) {
    case 0:
        return s_leaf_rule(c, S_VALUE);
    case K_STRING:
        return s_string(c, schema);
    case K_NUMBER:
        return s_number(c, schema, false);
    case K_OBJECT:
        return s_object(c, schema);
    case K_ARRAY:
        return s_array(c, schema);
    default:
        s_fail(c, "a schema with keywords of several types needs a type");
        return -1;
    }
}

static int schema_rule(s_ctx *c, const json_t *schema)
{
    int kinds;
    if (json_is_true(schema)) return s_leaf_rule(c, S_VALUE);
    if (!json_is_object(schema)) {
        s_fail(c, json_is_false(schema) ? "the schema false allows nothing"
                                        : "a schema must be an object or true");
        return -1;
    }
    if (!keyword_kinds(c, schema, &kinds)) return -1;
    const json_t *ref = json_object_get(schema, "$ref"), *types = json_object_get(schema, "type");
    if (ref) {
        const json_t *rest = without(c, schema, "$ref");
        if (!rest) return -1;
        return json_object_size(rest) ? remembered(c, schema, joined) : ref_rule(c, ref);
    }
    if (json_object_get(schema, "allOf")) return remembered(c, schema, joined);
    if (json_object_get(schema, "anyOf") || json_object_get(schema, "oneOf"))
        return remembered(c, schema, branches);
    if (json_object_get(schema, "const") || json_object_get(schema, "enum"))
        return constants(c, schema);
    if (json_is_string(types)) return typed(c, schema, json_string_value(types));
    if (types) return any_of_types(c, schema, types);
    return untyped(c, schema, kinds);
}

int s_schema(s_ctx *c, const json_t *schema)
{
    if (c->b.status != AN_OK) return -1;
    if (c->depth >= MAX_NESTING) {
        gb_fail(&c->b, AN_TOO_LARGE, "schema, at #%s: nested deeper than the limit of %d", c->path,
                MAX_NESTING);
        return -1;
    }
    c->depth++;
    int rule = schema_rule(c, schema);
    c->depth--;
    return rule;
}

/* ---------------------------------------------------------------- the whole */

static bool small_enough(s_ctx *c, const json_t *schema)
{
    size_t size = json_dumpb(schema, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY);
    if (size <= c->b.limits.max_source) return true;
    return gb_fail(&c->b, AN_TOO_LARGE, "schema: %zu bytes, the limit is %zu", size,
                   c->b.limits.max_source);
}

an_status an_grammar_schema(const json_t *schema, const an_grammar_limits *limits, an_grammar **out,
                            an_error *err)
{
    s_ctx c = {.root = schema};
    *out = NULL;
    gb_start(&c.b, limits, err);
    int root = -1;
    if (!schema)
        root = s_leaf_rule(&c, S_OBJECT);
    else if (small_enough(&c, schema))
        root = s_schema(&c, schema);
    if (root >= 0) g_compile(&c.b, root, out);
    for (size_t i = 0; i < c.n_owned; i++) json_decref(c.owned[i]);
    free(c.owned);
    free(c.refs);
    an_status s = c.b.status;
    gb_free(&c.b);
    return s;
}
