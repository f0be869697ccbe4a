/* grammar_merge.c: two schemas that both must hold, as one: for allOf, and for what stands beside
 * $ref, anyOf and oneOf. What cannot be joined is an error. */
#include "grammar_schema.h"

#define MAX_MERGES 5000 /* of one schema: references to references can double each time */

static const json_t *merge(s_ctx *c, const json_t *x, const json_t *y);

/* The schema with $ref and allOf followed. */
static const json_t *expand(s_ctx *c, const json_t *schema)
{
    if (json_is_true(schema)) return s_own(c, json_object());
    if (!json_is_object(schema)) {
        s_fail(c, "a schema to join with others must be an object");
        return NULL;
    }
    const json_t *ref = json_object_get(schema, "$ref"), *all = json_object_get(schema, "allOf");
    if (!ref && !all) return schema;
    json_t *copy = json_copy((json_t *)schema);
    if (copy) {
        json_object_del(copy, "$ref");
        json_object_del(copy, "allOf");
    }
    const json_t *out = s_own(c, copy);
    if (out && ref) {
        const json_t *to = s_resolve(c, ref);
        out = to ? merge(c, to, out) : NULL;
    }
    if (out && all && json_array_size(all) == 0) {
        s_fail(c, "allOf must be a list of schemas");
        return NULL;
    }
    for (size_t i = 0; out && i < json_array_size(all); i++)
        out = merge(c, out, json_array_get(all, i));
    return out;
}

static bool is_one_of(const char *key, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(key, *names) == 0) return true;
    return false;
}

/* ---------------------------------------------------------------- one keyword in both */

static json_t *join_properties(s_ctx *c, const json_t *x, const json_t *y)
{
    json_t *out = json_copy((json_t *)x), *value;
    const char *key;
    json_object_foreach((json_t *)y, key, value)
    {
        const json_t *mine = json_object_get(x, key), *both = value;
        if (mine && !json_equal(mine, value)) both = merge(c, mine, value);
        if (!both || json_object_set(out, key, (json_t *)both) != 0) {
            json_decref(out);
            return NULL;
        }
    }
    return out;
}

static json_t *join_required(const json_t *x, const json_t *y)
{
    json_t *out = json_copy((json_t *)x), *value;
    size_t i;
    json_array_foreach((json_t *)y, i, value) json_array_append(out, value);
    return out;
}

static bool type_in(const char *type, const json_t *types)
{
    for (size_t i = 0; i == 0 || i < json_array_size(types); i++) {
        const char *t = json_string_value(json_is_array(types) ? json_array_get(types, i) : types);
        if (t &&
            (strcmp(t, type) == 0 || (strcmp(t, "number") == 0 && strcmp(type, "integer") == 0)))
            return true;
    }
    return false;
}

static void common_types(const json_t *x, const json_t *y, json_t *out)
{
    for (size_t i = 0; i == 0 || i < json_array_size(x); i++) {
        json_t *t = json_is_array(x) ? json_array_get(x, i) : (json_t *)x;
        const char *name = json_string_value(t);
        if (name && type_in(name, y) && !type_in(name, out)) json_array_append(out, t);
    }
}

static json_t *join_types(const json_t *x, const json_t *y)
{
    json_t *out = json_array();
    common_types(x, y, out);
    common_types(y, x, out);
    return out;
}

static json_t *join_enums(const json_t *x, const json_t *y)
{
    json_t *out = json_array(), *a, *b;
    size_t i, k;
    json_array_foreach((json_t *)x, i, a)
    {
        json_array_foreach((json_t *)y, k, b)
        {
            if (!json_equal(a, b)) continue;
            json_array_append(out, a);
            break;
        }
    }
    return out;
}

/* Both have the keyword, with values that differ. NULL after s_fail. */
static json_t *join(s_ctx *c, const char *key, const json_t *x, const json_t *y)
{
    static const char *const lower[] = {"minimum",          "minLength",     "minItems",
                                        "exclusiveMinimum", "minProperties", NULL};
    static const char *const upper[] = {"maximum",          "maxLength",     "maxItems",
                                        "exclusiveMaximum", "maxProperties", NULL};
    bool low = is_one_of(key, lower), up = is_one_of(key, upper);
    if ((low || up) && json_is_number(x) && json_is_number(y)) {
        bool first = low == (json_number_value(x) > json_number_value(y));
        return json_incref((json_t *)(first ? x : y));
    }
    if (strcmp(key, "properties") == 0 && json_is_object(x) && json_is_object(y))
        return join_properties(c, x, y);
    if (strcmp(key, "required") == 0 && json_is_array(x) && json_is_array(y))
        return join_required(x, y);
    if (strcmp(key, "type") == 0) return join_types(x, y);
    if (strcmp(key, "enum") == 0) return join_enums(x, y);
    if (strcmp(key, "additionalProperties") == 0 && (json_is_true(x) || json_is_true(y)))
        return json_incref((json_t *)(json_is_true(x) ? y : x));
    s_fail(c, "two values of '%.60s' that both must hold cannot be joined", key);
    return NULL;
}

/* A closed object knows all its members: another schema cannot add some. */
static bool closed_fits(s_ctx *c, const json_t *x, const json_t *y)
{
    const json_t *more = json_object_get(x, "additionalProperties");
    const char *key;
    json_t *value;
    if (!more || json_is_true(more)) return true;
    json_object_foreach(json_object_get(y, "properties"), key, value)
    {
        (void)value;
        if (!json_object_get(json_object_get(x, "properties"), key))
            return s_fail(c,
                          "additionalProperties of one schema forbids '%.60s' of the other that "
                          "must hold too",
                          key);
    }
    return true;
}

static const json_t *merge(s_ctx *c, const json_t *x, const json_t *y)
{
    if (c->b.status != AN_OK) return NULL;
    if (++c->merges > MAX_MERGES || c->depth > 100) {
        gb_fail(&c->b, AN_TOO_LARGE,
                "schema, at #%s: more than the limit of %d schemas to join, 100 deep", c->path,
                MAX_MERGES);
        return NULL;
    }
    c->depth++;
    const json_t *a = expand(c, x), *b = a ? expand(c, y) : NULL;
    const json_t *out =
        b && closed_fits(c, a, b) && closed_fits(c, b, a) ? s_own(c, json_copy((json_t *)a)) : NULL;
    const char *key;
    json_t *value;
    if (out) json_object_foreach((json_t *)b, key, value)
        {
            const json_t *mine = json_object_get(a, key);
            bool as_is = !mine || json_equal(mine, value);
            if (mine && s_is_annotation(key)) continue;
            json_t *both = as_is ? json_incref(value) : join(c, key, mine, value);
            if (!both || json_object_set_new((json_t *)out, key, both) != 0) {
                gb_fail(&c->b, AN_NO_MEMORY, "grammar: out of memory");
                out = NULL;
                break;
            }
        }
    c->depth--;
    return out;
}

const json_t *s_merge(s_ctx *c, const json_t *x, const json_t *y)
{
    return merge(c, x, y);
}
