/* grammar_object.c: objects and arrays of a schema. Members come in the order of `properties`, each
 * optional one may be left out, further ones (additionalProperties) follow. */
#include "grammar_schema.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_KEY 200 /* bytes of a declared name, when other names must differ from it */

/* ---------------------------------------------------------------- names that are not declared */

/* A character of a further name: no escapes, so that one name has one spelling. */
static bool push_key_char(s_ctx *c, g_seq *s, const g_range * not, size_t n)
{
    g_range *v = malloc((n + 3) * sizeof *v);
    if (!v) return gb_fail(&c->b, AN_NO_MEMORY, "grammar: out of memory");
    v[0] = (g_range){0, 0x1f};
    v[1] = (g_range){'"', '"'};
    v[2] = (g_range){'\\', '\\'};
    if (n) memcpy(v + 3, not, n * sizeof *v);
    bool ok = gs_set(&c->b, s, v, n + 3, true);
    free(v);
    return ok;
}

static uint32_t char_at(const char *p, size_t *len)
{
    const unsigned char *u = (const unsigned char *)p;
    *len = u[0] < 0x80 ? 1 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    uint32_t c = *len == 1 ? u[0] : u[0] & (0x7fu >> *len);
    for (size_t i = 1; i < *len; i++) c = c << 6 | (u[i] & 0x3fu);
    return c;
}

static int by_name(const void *x, const void *y)
{
    return strcmp(*(const char *const *)x, *(const char *const *)y);
}

/* What may follow after `skip` bytes that the sorted names v share, so that none of them results.
 */
static int other_name(s_ctx *c, const char **v, size_t n, size_t skip)
{
    g_builder *b = &c->b;
    int rule = gb_rule(b);
    g_range *taken = malloc((n + 1) * sizeof *taken);
    size_t m = 0;
    if (!taken) return gb_fail(b, AN_NO_MEMORY, "grammar: out of memory"), -1;
    if (skip > MAX_KEY)
        gb_fail(b, AN_TOO_LARGE,
                "schema, at #%s: a name of more than %d bytes beside additional ones", c->path,
                MAX_KEY);
    g_seq s = {0};
    if (v[0][skip]) gb_alt(b, rule, &s); /* may end here: no name does */
    for (size_t i = 0, end; i < n && b->status == AN_OK; i = end) {
        size_t len;
        end = i + 1;
        if (!v[i][skip]) continue;
        uint32_t ch = char_at(v[i] + skip, &len);
        while (end < n && strncmp(v[end] + skip, v[i] + skip, len) == 0) end++;
        taken[m++] = (g_range){ch, ch};
        s.n = 0;
        int rest = other_name(c, v + i, end - i, skip + len);
        if (gs_char(b, &s, ch) && s_push_rule(c, &s, rest)) gb_alt(b, rule, &s);
    }
    s.n = 0;
    if (push_key_char(c, &s, taken, m) && push_key_char(c, &s, NULL, 0) &&
        gs_repeat(b, &s, 1, 0, -1))
        gb_alt(b, rule, &s);
    free(s.v);
    free(taken);
    return b->status == AN_OK ? rule : -1;
}

/* A name in quotes that is none of the declared ones. */
static int further_key(s_ctx *c, const char **names, size_t n)
{
    size_t m = 0;
    const char **plain = malloc((n + 1) * sizeof *plain);
    if (!plain) return gb_fail(&c->b, AN_NO_MEMORY, "grammar: out of memory"), -1;
    for (size_t i = 0; i < n; i++) { /* names with escapes cannot be met without one */
        const char *p = names[i];
        while (*p && (unsigned char)*p >= 0x20 && *p != '"' && *p != '\\') p++;
        if (!*p) plain[m++] = names[i];
    }
    qsort(plain, m, sizeof *plain, by_name);
    g_seq s = {0};
    bool ok = gs_ascii(&c->b, &s, "\"");
    if (m)
        ok = ok && s_push_rule(c, &s, other_name(c, plain, m, 0));
    else
        ok = ok && s_push_leaf(c, &s, S_CHAR) && gs_repeat(&c->b, &s, 1, 0, -1);
    ok = ok && gs_ascii(&c->b, &s, "\"");
    free(plain);
    if (ok) return gb_rule_of(&c->b, &s);
    free(s.v);
    return -1;
}

/* ---------------------------------------------------------------- members */

typedef struct object {
    const json_t *schema, *properties;
    const json_t *further; /* schema of further members, NULL = none */
    const char **names;    /* declared ones in order, then required ones that are not declared */
    bool *required;
    size_t n;
    long min, max; /* members, max < 0: any number */
    int member_further;
    int comma; /* "," space */
} object;

/* NAME ":" space VALUE space; name: a rule, or the text of a declared one. */
static int member(s_ctx *c, const char *name, int name_rule, const json_t *value)
{
    g_seq s = {0};
    size_t mark = c->path_len;
    if (name)
        s_enter(c, "properties", name);
    else
        s_enter(c, "additionalProperties", NULL);
    bool ok;
    if (name) {
        json_t *text = json_string(name);
        char *quoted = json_dumps(text, JSON_ENCODE_ANY);
        ok = quoted ? gs_text(&c->b, &s, quoted, strlen(quoted))
                    : gb_fail(&c->b, AN_NO_MEMORY, "grammar: out of memory");
        free(quoted);
        json_decref(text);
    } else {
        ok = s_push_rule(c, &s, name_rule);
    }
    ok = ok && gs_ascii(&c->b, &s, ":") && s_push_leaf(c, &s, S_SPACE) &&
         s_push_rule(c, &s, s_schema(c, value)) && s_push_leaf(c, &s, S_SPACE);
    c->path_len = mark;
    c->path[mark] = '\0';
    if (ok) return gb_rule_of(&c->b, &s);
    free(s.v);
    return -1;
}

static bool is_required(const json_t *required, const char *name)
{
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *r = json_string_value(json_array_get(required, i));
        if (r && strcmp(r, name) == 0) return true;
    }
    return false;
}

static bool known(const object *o, const char *name)
{
    for (size_t i = 0; i < o->n; i++)
        if (strcmp(o->names[i], name) == 0) return true;
    return false;
}

static bool read_names(s_ctx *c, object *o)
{
    const json_t *required = json_object_get(o->schema, "required");
    size_t most = json_object_size(o->properties) + json_array_size(required);
    const char *key;
    json_t *value;
    o->names = calloc(most + 1, sizeof *o->names);
    o->required = calloc(most + 1, sizeof *o->required);
    if (!o->names || !o->required) return gb_fail(&c->b, AN_NO_MEMORY, "grammar: out of memory");
    json_object_foreach((json_t *)o->properties, key, value)
    {
        (void)value;
        o->required[o->n] = is_required(required, key);
        o->names[o->n++] = key;
    }
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name) return s_fail(c, "required must be a list of names");
        if (known(o, name)) continue;
        if (json_is_false(json_object_get(o->schema, "additionalProperties")))
            return s_fail(c, "'%.60s' is required, but neither declared nor allowed", name);
        o->required[o->n] = true;
        o->names[o->n++] = name;
    }
    return true;
}

static bool read_counts(s_ctx *c, object *o)
{
    size_t required = 0;
    if (!s_count(c, o->schema, "minProperties", 0, &o->min) ||
        !s_count(c, o->schema, "maxProperties", -1, &o->max))
        return false;
    for (size_t i = 0; i < o->n; i++) required += o->required[i];
    if (o->min <= (long)required) o->min = 0;
    if (o->min > 1) return s_fail(c, "minProperties %ld cannot be enforced", o->min);
    if (o->max >= (long)o->n && !o->further) o->max = -1;
    if (o->max >= 0 && o->n > 0) return s_fail(c, "maxProperties %ld cannot be enforced", o->max);
    return true;
}

/* ---------------------------------------------------------------- the chain of members */

/* Further members after `before` ones (0: none was written yet). */
static int further_members(s_ctx *c, const object *o, bool first)
{
    g_builder *b = &c->b;
    g_seq s = {0};
    bool ok = true;
    if (!o->further) return gb_rule_of(b, &s);
    if (!first) {
        ok = s_push_rule(c, &s, o->comma) && s_push_rule(c, &s, o->member_further) &&
             gs_repeat(b, &s, 0, 0, -1);
    } else if (o->max != 0) {
        ok = s_push_rule(c, &s, o->member_further) && s_push_rule(c, &s, o->comma) &&
             s_push_rule(c, &s, o->member_further) &&
             gs_repeat(b, &s, 1, 0, o->max < 0 ? -1 : o->max - 1) && gs_repeat(b, &s, 0, o->min, 1);
    }
    if (ok) return gb_rule_of(b, &s);
    free(s.v);
    return -1;
}

/* The members from i on, from the last to the first: `none` if none was written before, `some`
 * otherwise. */
static bool chain(s_ctx *c, const object *o, int *none)
{
    g_builder *b = &c->b;
    int some = further_members(c, o, false);
    *none = further_members(c, o, true);
    if (o->min > 0 && !o->further) *none = gb_rule(b); /* no way to end without a member */
    for (size_t i = o->n; i-- > 0 && b->status == AN_OK;) {
        const json_t *value = json_object_get(o->properties, o->names[i]);
        if (!value) value = o->further ? o->further : json_true();
        int m = member(c, o->names[i], -1, value), next_none = gb_rule(b), next_some = gb_rule(b);
        g_seq s = {0};
        bool ok = s_push_rule(c, &s, m) && s_push_rule(c, &s, some) && gb_alt(b, next_none, &s);
        s.n = 0;
        ok = ok && s_push_rule(c, &s, o->comma) && s_push_rule(c, &s, m) &&
             s_push_rule(c, &s, some) && gb_alt(b, next_some, &s);
        if (ok && !o->required[i]) { /* may be left out */
            s.n = 0;
            ok = s_push_rule(c, &s, *none) && gb_alt(b, next_none, &s);
            s.n = 0;
            ok = ok && s_push_rule(c, &s, some) && gb_alt(b, next_some, &s);
        }
        free(s.v);
        *none = next_none;
        some = next_some;
    }
    return b->status == AN_OK;
}

static int object_rule(s_ctx *c, object *o)
{
    g_seq s = {0};
    int none;
    if (!read_names(c, o) || !read_counts(c, o)) return -1;
    if (gs_ascii(&c->b, &s, ",") && s_push_leaf(c, &s, S_SPACE)) o->comma = gb_rule_of(&c->b, &s);
    if (o->further) {
        int key = further_key(c, o->names, o->n);
        if (key >= 0) o->member_further = member(c, NULL, key, o->further);
    }
    if (c->b.status == AN_OK && chain(c, o, &none) && gs_ascii(&c->b, &s, "{") &&
        s_push_leaf(c, &s, S_SPACE) && s_push_rule(c, &s, none) && gs_ascii(&c->b, &s, "}"))
        return gb_rule_of(&c->b, &s);
    free(s.v);
    return -1;
}

int s_object(s_ctx *c, const json_t *schema)
{
    object o = {.schema = schema, .properties = json_object_get(schema, "properties")};
    const json_t *more = json_object_get(schema, "additionalProperties");
    if (o.properties && !json_is_object(o.properties)) {
        s_fail(c, "properties must be an object");
        return -1;
    }
    /* Said nothing: an object that declares members has just those, another one any. */
    if (more ? !json_is_false(more) : json_object_size(o.properties) == 0)
        o.further = more ? more : json_true();
    bool plain = o.further && json_is_true(o.further) && !json_object_size(o.properties) &&
                 !json_object_get(schema, "required") &&
                 !json_object_get(schema, "minProperties") &&
                 !json_object_get(schema, "maxProperties");
    if (plain) return s_leaf_rule(c, S_OBJECT);
    int rule = object_rule(c, &o);
    free(o.names);
    free(o.required);
    return rule;
}

/* ---------------------------------------------------------------- arrays */

/* VALUE space */
static int item_rule(s_ctx *c, const json_t *schema, const char *key, const char *index)
{
    g_seq s = {0};
    size_t mark = c->path_len;
    s_enter(c, key, index);
    bool ok = s_push_rule(c, &s, s_schema(c, schema)) && s_push_leaf(c, &s, S_SPACE);
    c->path_len = mark;
    c->path[mark] = '\0';
    if (ok) return gb_rule_of(&c->b, &s);
    free(s.v);
    return -1;
}

typedef struct array {
    const json_t *prefix, *items; /* items NULL = none beyond the prefix */
    long min, max;                /* max < 0: any number */
} array;

static bool read_array(s_ctx *c, const json_t *schema, array *a)
{
    static const char *const draft7 = "additionalItems";
    const json_t *items = json_object_get(schema, "items");
    *a = (array){.prefix = json_object_get(schema, "prefixItems"), .items = items};
    if (json_is_array(items)) { /* draft 7's prefixItems */
        a->prefix = items;
        a->items = json_object_get(schema, draft7);
    }
    if (a->prefix && !json_is_array(a->prefix))
        return s_fail(c, "prefixItems must be a list of schemas");
    if (!a->items && !a->prefix) a->items = json_true();
    if (json_is_false(a->items)) a->items = NULL;
    if (json_is_true(json_object_get(schema, "uniqueItems")))
        return s_fail(c, "the keyword 'uniqueItems' cannot be enforced");
    if (!s_count(c, schema, "minItems", 0, &a->min) || !s_count(c, schema, "maxItems", -1, &a->max))
        return false;
    long prefix = (long)json_array_size(a->prefix);
    bool closed = json_is_false(json_is_array(items) ? json_object_get(schema, draft7) : items);
    if (!a->items && !closed && a->min > prefix) a->items = json_true();
    if (!a->items && (a->max < 0 || a->max > prefix)) a->max = prefix;
    if (a->max >= 0 && a->max < a->min)
        return s_fail(c, "no array has between %ld and %ld items", a->min, a->max);
    return true;
}

/* Items after the prefix: ("," space ITEM){min,max}; first: nothing stands before them. */
static bool more_items(s_ctx *c, const array *a, int item, bool first, g_seq *s)
{
    g_builder *b = &c->b;
    long prefix = (long)json_array_size(a->prefix);
    long min = a->min > prefix ? a->min - prefix : 0, max = a->max < 0 ? -1 : a->max - prefix;
    size_t from = s->n;
    if (max == 0) return true;
    if (first && !s_push_rule(c, s, item)) return false;
    size_t again = s->n;
    if (!gs_ascii(b, s, ",") || !s_push_leaf(c, s, S_SPACE) || !s_push_rule(c, s, item))
        return false;
    if (!first) return gs_repeat(b, s, from, min, max);
    if (!gs_repeat(b, s, again, min ? min - 1 : 0, max < 0 ? -1 : max - 1)) return false;
    return min > 0 || gs_repeat(b, s, from, 0, 1);
}

/* The items from the prefix's i on; each may end the array once there are min of them. */
static bool prefix_items(s_ctx *c, const array *a, int item, g_seq *s)
{
    g_builder *b = &c->b;
    size_t n = json_array_size(a->prefix);
    g_seq rest = {0};
    bool ok = true;
    if (a->max >= 0 && (size_t)a->max < n)
        n = (size_t)a->max;
    else if (item >= 0)
        ok = more_items(c, a, item, n == 0, &rest);
    for (size_t i = n; i-- > 0 && ok;) {
        char index[24];
        g_seq one = {0};
        snprintf(index, sizeof index, "%zu", i);
        int rule = item_rule(c, json_array_get(a->prefix, i), "prefixItems", index);
        ok = (i == 0 || (gs_ascii(b, &one, ",") && s_push_leaf(c, &one, S_SPACE))) &&
             s_push_rule(c, &one, rule);
        for (size_t k = 0; ok && k < rest.n; k++) ok = gs_push(b, &one, rest.v[k]);
        if (ok && (long)i >= a->min)
            ok = gs_repeat(b, &one, 0, 0, 1);
        else if (ok)
            ok = gs_group(b, &one, 0);
        free(rest.v);
        rest = one;
    }
    for (size_t k = 0; ok && k < rest.n; k++) ok = gs_push(b, s, rest.v[k]);
    free(rest.v);
    return ok;
}

int s_array(s_ctx *c, const json_t *schema)
{
    array a;
    int item = -1;
    g_seq s = {0};
    if (!read_array(c, schema, &a)) return -1;
    if (a.items && (item = item_rule(c, a.items, "items", NULL)) < 0) return -1;
    if (gs_ascii(&c->b, &s, "[") && s_push_leaf(c, &s, S_SPACE) && prefix_items(c, &a, item, &s) &&
        gs_ascii(&c->b, &s, "]"))
        return gb_rule_of(&c->b, &s);
    free(s.v);
    return -1;
}
