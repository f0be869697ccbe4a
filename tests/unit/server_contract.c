/* The contract, docs/openapi.yaml, and the server's own tables: every route is in both, with the
 * same need of a key, and the limits of the document are the options' defaults. */
#include "test.h"

#include "server/http.h"

#include <stdlib.h>

extern const char an_openapi[];
extern const size_t an_openapi_size;

static json_t *document(void)
{
    return json_loadb(an_openapi, an_openapi_size, JSON_REJECT_DUPLICATES, NULL);
}

/* "/v1/jobs/{id}/events" as a route has it, with "*" for what is in braces. */
static void pattern_of(const char *path, char *out, size_t size)
{
    size_t n = 0;
    while (*path && n + 1 < size) {
        out[n++] = *path == '{' ? '*' : *path;
        if (*path == '{') path += strcspn(path, "}");
        path++;
    }
    out[n] = '\0';
}

static const json_t *operation(const json_t *doc, const an_route *route)
{
    static const char *const words[][2] = {
        {"GET", "get"}, {"POST", "post"}, {"PUT", "put"}, {"PATCH", "patch"}, {"DELETE", "delete"}};
    const char *path;
    json_t *item;
    json_object_foreach(json_object_get(doc, "paths"), path, item)
    {
        char pattern[256];
        pattern_of(path, pattern, sizeof pattern);
        if (strcmp(pattern, route->path) != 0) continue;
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (strcmp(words[i][0], route->method) == 0) return json_object_get(item, words[i][1]);
    }
    return NULL;
}

TEST(every_route_is_documented_and_nothing_else)
{
    json_t *doc = document();
    size_t routes = 0, documented = 0;
    REQUIRE(doc != NULL);
    for (int t = 0; an_routes[t]; t++)
        for (const an_route *route = an_routes[t]; route->path; route++) {
            const json_t *op = operation(doc, route);
            const json_t *security = json_object_get(op, "security");
            routes++;
            CHECK_MSG(op, "%s %s is not in docs/openapi.yaml", route->method, route->path);
            CHECK_MSG(!op || route->open == (security && json_array_size(security) == 0),
                      "%s %s: does it need a key?", route->method, route->path);
        }
    const char *path, *method;
    json_t *item, *op;
    json_object_foreach(json_object_get(doc, "paths"), path, item)
    {
        json_object_foreach(item, method, op)
        {
            if (strcmp(method, "parameters") != 0) documented++;
        }
    }
    CHECK_MSG(documented == routes, "%zu operations are documented, the server has %zu routes",
              documented, routes);
    json_decref(doc);
}

/* Counts the limits that name an option, and holds each to the option's default. */
static int check_limits(const json_t *v, const an_options *o)
{
    static const char *const limits[] = {"maximum", "maxLength", "maxItems", "maxProperties"};
    int n = 0;
    const char *key;
    json_t *item;
    size_t i;
    if (json_is_array(v)) json_array_foreach(v, i, item) n += check_limits(item, o);
    if (!json_is_object(v)) return n;
    const char *flag = json_string_value(json_object_get(v, "x-option"));
    if (flag) {
        double want = 0;
        int found = 0;
        CHECK_MSG(an_option_number(o, flag, &want), "%s is no option", flag);
        for (i = 0; i < sizeof limits / sizeof *limits; i++) {
            const json_t *have = json_object_get(v, limits[i]);
            if (!have) continue;
            found++;
            CHECK_MSG(json_number_value(have) == want, "%s is %g, the document has %g", flag, want,
                      json_number_value(have));
        }
        CHECK_MSG(found == 1, "%s: %d limits beside it", flag, found);
        n++;
    }
    json_object_foreach((json_t *)(size_t)v, key, item) n += check_limits(item, o);
    return n;
}

TEST(limits_are_the_options_defaults)
{
    an_options o;
    an_error err = {0};
    bool help;
    double v;
    json_t *doc = document();
    REQUIRE(doc != NULL);
    REQUIRE(an_options_parse(&o, 0, NULL, &help, &err) == AN_OK);
    CHECK(check_limits(doc, &o) > 20);
    CHECK(!an_option_number(&o, "--host", &v) && !an_option_number(&o, "--no-such", &v));
    CHECK(an_option_number(&o, "--keepalive", &v) && v == 15);
    an_options_free(&o);
    json_decref(doc);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
