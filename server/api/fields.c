/* fields.c: see fields.h. Range checks happen here, before a number becomes an int. */
#include "fields.h"

#include <math.h>

void fields_init(fields *f, json_t *object)
{
    memset(f, 0, sizeof *f);
    f->object = object;
}

bool fields_ok(const fields *f)
{
    return f->err.status == AN_OK;
}

void fields_fail(fields *f, const char *name, const char *fmt, ...)
{
    if (!fields_ok(f)) return;
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    an_fail_param(&f->err, AN_INVALID, name, "%s: %s", name, text);
}

/* The value of a field that is there and not null. */
static json_t *get(fields *f, const char *name)
{
    if (f->n_seen < MAX_FIELDS) f->seen[f->n_seen++] = name;
    json_t *v = json_object_get(f->object, name);
    return fields_ok(f) && v && !json_is_null(v) ? v : NULL;
}

bool field_present(fields *f, const char *name)
{
    return get(f, name) != NULL;
}

static const char *type_name(const json_t *v)
{
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    return names[json_typeof(v)];
}

void field_string(fields *f, const char *name, size_t max_bytes, const char **out)
{
    json_t *v = get(f, name);
    if (!v) return;
    if (!json_is_string(v))
        fields_fail(f, name, "found %s, expected a string", type_name(v));
    else if (json_string_length(v) > max_bytes)
        fields_fail(f, name, "%zu bytes, at most %zu", json_string_length(v), max_bytes);
    else
        *out = json_string_value(v);
}

bool json_whole(const json_t *v, int64_t *out)
{
    int64_t i;
    if (json_is_integer(v))
        i = json_integer_value(v);
    else if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) &&
             fabs(json_real_value(v)) < 9007199254740992.0)
        i = (int64_t)json_real_value(v);
    else
        return false;
    if (out) *out = i;
    return true;
}

void field_int(fields *f, const char *name, int64_t min, int64_t max, int64_t *out)
{
    json_t *v = get(f, name);
    if (!v) return;
    int64_t i;
    if (!json_whole(v, &i)) {
        fields_fail(f, name, "found %s, expected an integer from %lld to %lld", type_name(v),
                    (long long)min, (long long)max);
        return;
    }
    if (i < min || i > max)
        fields_fail(f, name, "%lld, allowed %lld to %lld", (long long)i, (long long)min,
                    (long long)max);
    else
        *out = i;
}

void field_int32(fields *f, const char *name, int64_t min, int64_t max, int *out)
{
    int64_t v = *out;
    field_int(f, name, min, max, &v);
    if (fields_ok(f)) *out = (int)v;
}

void field_number(fields *f, const char *name, double min, double max, double *out)
{
    json_t *v = get(f, name);
    if (!v) return;
    if (!json_is_number(v)) {
        fields_fail(f, name, "found %s, expected a number from %g to %g", type_name(v), min, max);
        return;
    }
    double x = json_number_value(v);
    if (!(x >= min && x <= max))
        fields_fail(f, name, "%g, allowed %g to %g", x, min, max);
    else
        *out = x;
}

void field_bool(fields *f, const char *name, bool *out)
{
    json_t *v = get(f, name);
    if (!v) return;
    if (!json_is_boolean(v))
        fields_fail(f, name, "found %s, expected true or false", type_name(v));
    else
        *out = json_is_true(v);
}

json_t *field_object(fields *f, const char *name)
{
    json_t *v = get(f, name);
    if (v && !json_is_object(v)) {
        fields_fail(f, name, "found %s, expected an object", type_name(v));
        return NULL;
    }
    return v;
}

void field_choice(fields *f, const char *name, const char *const *choices, int *out)
{
    const char *s = NULL;
    char list[256] = "";
    field_string(f, name, 256, &s);
    if (!s || !fields_ok(f)) return;
    for (int i = 0; choices[i]; i++) {
        if (strcmp(s, choices[i]) == 0) {
            *out = i;
            return;
        }
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", choices[i]);
    }
    fields_fail(f, name, "'%s' is not one of: %s", s, list);
}

/* Bytes of s that fit max without cutting a character in two. */
static int whole_characters(const char *s, int max)
{
    int n = (int)strnlen(s, (size_t)max + 1);
    if (n <= max) return n;
    for (n = max; n > 0 && (s[n] & 0xc0) == 0x80;) n--;
    return n;
}

void fields_unknown(const fields *f, json_t *warnings)
{
    const char *key;
    json_t *value;
    json_object_foreach(f->object, key, value)
    {
        bool known = false;
        for (int i = 0; i < f->n_seen && !known; i++) known = strcmp(key, f->seen[i]) == 0;
        if (!known && json_array_size(warnings) < 32)
            json_array_append_new(warnings, json_sprintf("unknown field '%.*s' was ignored",
                                                         whole_characters(key, 64), key));
    }
}
