/* contract.c: GET /openapi.json: docs/openapi.yaml, which the build put here as JSON, with the
 * limits that this server was started with. */
#include "http.h"

#include <math.h>

extern const char an_openapi[];
extern const size_t an_openapi_size;

static void set_limit(json_t *schema, const char *flag, const an_options *o)
{
    static const char *const limits[] = {"maximum", "maxLength", "maxItems", "maxProperties"};
    double v;
    if (!flag || !an_option_number(o, flag, &v)) return;
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (json_object_get(schema, limits[i]))
            json_object_set_new(schema, limits[i], json_integer((json_int_t)v));
    const json_t *initial = json_object_get(schema, "default");
    if (json_is_number(initial) && json_number_value(initial) > v)
        json_object_set_new(schema, "default", json_integer((json_int_t)v));
}

/* Limits beside an "x-option" become the option's. The document's own depth bounds the way down. */
static void set_limits(json_t *v, const an_options *o)
{
    json_t *item;
    const char *key;
    size_t i;
    if (json_is_object(v)) {
        set_limit(v, json_string_value(json_object_get(v, "x-option")), o);
        json_object_foreach(v, key, item) set_limits(item, o);
    } else if (json_is_array(v)) {
        json_array_foreach(v, i, item) set_limits(item, o);
    }
}

static void work(an_req *r)
{
    an_error err = {0};
    json_t *doc = json_loadb(an_openapi, an_openapi_size, 0, NULL);
    if (!doc) {
        an_fail(&err, AN_NO_MEMORY, "out of memory");
        reply_error(r, &err);
        return;
    }
    set_limits(doc, an_server_options(r->server));
    reply_and_cache(r, AN_CACHED_CONTRACT, NULL, doc);
}

/* A hundred kilobytes are parsed, once: not on a socket thread. */
static void contract(an_req *r)
{
    if (!reply_cached(r, AN_CACHED_CONTRACT, HUGE_VAL, NULL)) reply_work(r, work);
}

const an_route contract_routes[] = {{"GET", "/openapi.json", contract, true},
                                    {NULL, NULL, NULL, false}};
