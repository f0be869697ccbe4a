/* config.c: see config.h. */
#include "config.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

an_config an_config_open(const json_t *json, const char *name, an_error *err)
{
    an_config c = {json, name, AN_OK, err};
    if (!json_is_object(json))
        c.status = an_fail(err, AN_INVALID, "%s: the checkpoint has none", name);
    return c;
}

void an_config_refuse(an_config *c, const char *key, const char *fmt, ...)
{
    if (c->status) return;
    char why[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    const json_t *v = json_object_get(c->json, key);
    char *text = v ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    c->status = an_fail(c->err, AN_INVALID, "%s: %s is %.200s: %s", c->name, key,
                        text ? text : "absent", why);
    free(text);
}

/* The value, or NULL if it is missing, null, or an error has latched. */
static const json_t *value(const an_config *c, const char *key)
{
    if (c->status) return NULL;
    const json_t *v = json_object_get(c->json, key);
    return json_is_null(v) ? NULL : v;
}

bool an_config_has(const an_config *c, const char *key)
{
    return value(c, key) != NULL;
}

static bool in_range(const json_t *v, int64_t min, int64_t max)
{
    return json_is_integer(v) && json_integer_value(v) >= min && json_integer_value(v) <= max;
}

int64_t an_config_int(an_config *c, const char *key, int64_t dflt, int64_t min, int64_t max)
{
    const json_t *v = value(c, key);
    if (!v) return dflt;
    if (in_range(v, min, max)) return json_integer_value(v);
    an_config_refuse(c, key, "expected an integer from %lld to %lld", (long long)min,
                     (long long)max);
    return dflt;
}

double an_config_num(an_config *c, const char *key, double dflt, double min, double max)
{
    const json_t *v = value(c, key);
    if (!v) return dflt;
    double x = json_number_value(v);
    if (json_is_number(v) && x >= min && x <= max) return x;
    an_config_refuse(c, key, "expected a number from %g to %g", min, max);
    return dflt;
}

bool an_config_bool(an_config *c, const char *key, bool dflt)
{
    const json_t *v = value(c, key);
    if (!v) return dflt;
    if (json_is_boolean(v)) return json_is_true(v);
    an_config_refuse(c, key, "expected true or false");
    return dflt;
}

const char *an_config_str(an_config *c, const char *key, const char *dflt)
{
    const json_t *v = value(c, key);
    if (!v) return dflt;
    if (json_is_string(v)) return json_string_value(v);
    an_config_refuse(c, key, "expected a string");
    return dflt;
}

void an_config_ints(an_config *c, const char *key, int64_t dflt, int n, int64_t min, int64_t max,
                    int64_t *out)
{
    const json_t *v = value(c, key);
    for (int i = 0; i < n; i++) {
        out[i] = dflt;
        if (!v) continue;
        const json_t *e = json_is_array(v) ? json_array_get(v, (size_t)i) : v;
        if (!in_range(e, min, max) || (json_is_array(v) && json_array_size(v) != (size_t)n)) {
            an_config_refuse(c, key, "expected an integer from %lld to %lld or a list of %d",
                             (long long)min, (long long)max, n);
            v = NULL;
            continue;
        }
        out[i] = json_integer_value(e);
    }
}

int an_config_list(an_config *c, const char *key, int max, int64_t lo, int64_t hi, int64_t *out)
{
    if (c->status) return 0;
    const json_t *v = value(c, key);
    size_t n = json_array_size(v);
    bool ok = n >= 1 && n <= (size_t)max;
    for (size_t i = 0; ok && i < n; i++) {
        ok = in_range(json_array_get(v, i), lo, hi);
        if (ok) out[i] = json_integer_value(json_array_get(v, i));
    }
    if (ok) return (int)n;
    an_config_refuse(c, key, "expected a list of 1 to %d integers from %lld to %lld", max,
                     (long long)lo, (long long)hi);
    return 0;
}

void an_config_only_null(an_config *c, const char *key)
{
    if (value(c, key)) an_config_refuse(c, key, "only null is supported");
}

void an_config_only_bool(an_config *c, const char *key, bool served)
{
    if (an_config_bool(c, key, served) != served)
        an_config_refuse(c, key, "only %s is supported", served ? "true" : "false");
}

void an_config_only_num(an_config *c, const char *key, double served)
{
    const json_t *v = value(c, key);
    if (v && !(json_is_number(v) && fabs(json_number_value(v) - served) < 1e-12))
        an_config_refuse(c, key, "only %g is supported", served);
}

void an_config_only_str(an_config *c, const char *key, const char *served)
{
    if (strcmp(an_config_str(c, key, served), served) != 0)
        an_config_refuse(c, key, "only \"%s\" is supported", served);
}
