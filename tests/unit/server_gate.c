/* What stands before the routes, without a server: pages of other sites, names of this machine,
 * media types, request ids, %XX, and the access log's line. */
#include "access_log.h"
#include "heads.h"
#include "origin.h"
#include "test.h"

#include <jansson.h>

static an_options parse(const char *const *args)
{
    char *argv[16];
    int argc = 0;
    bool help;
    an_error err = {0};
    an_options o;
    for (; args[argc]; argc++) argv[argc] = (char *)(size_t)args[argc];
    CHECK_MSG(an_options_parse(&o, argc, argv, &help, &err) == AN_OK, "%s", err.message);
    return o;
}
#define OPTIONS(...) parse((const char *const[]){__VA_ARGS__, NULL})

TEST(origins)
{
    an_options none = OPTIONS("--port", "0"), any = OPTIONS("--cors-origin", "*"),
               some = OPTIONS("--cors-origin", "https://a.example,http://b.example:81");
    CHECK(!origin_allowed(&none, "https://a.example") && !origin_allowed(&none, NULL));
    CHECK_STR(origin_allowed(&any, "https://a.example"), "*");
    CHECK_STR(origin_allowed(&some, "https://A.example"), "https://a.example");
    CHECK_STR(origin_allowed(&some, "http://b.example:81"), "http://b.example:81");
    static const char *const others[] = {"http://a.example",
                                         "https://a.example:444",
                                         "https://a.example.evil",
                                         "https://xa.example",
                                         "null",
                                         "",
                                         "https://a.example/"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CHECK_MSG(!origin_allowed(&some, others[i]), "%s", others[i]);
    an_options_free(&none);
    an_options_free(&any);
    an_options_free(&some);
}

TEST(pages_of_other_sites)
{
    an_options o = OPTIONS("--cors-origin", "https://a.example");
    static const struct {
        const char *origin, *site, *host;
        bool foreign;
    } cases[] = {
        {NULL, NULL, "127.0.0.1:8080", false}, /* curl */
        {NULL, "none", "localhost:8080", false},
        {NULL, "same-origin", "localhost:8080", false},
        {"https://x.example", "same-origin", "127.0.0.1:8080", false}, /* behind a proxy */
        {NULL, "cross-site", "localhost:8080", true},
        {NULL, "same-site", "localhost:8080", true}, /* another port of this machine */
        {NULL, "", "localhost:8080", true},
        {"http://localhost:8080", NULL, "localhost:8080", false},
        {"http://LOCALHOST:8080", NULL, "localhost:8080", false},
        {"http://localhost:3000", NULL, "localhost:8080", true},
        {"http://localhost", NULL, "localhost:8080", true},
        {"http://evil.example", NULL, "localhost:8080", true},
        {"null", NULL, "", true},
        {"null", NULL, "localhost:8080", true},
        {"", NULL, "localhost:8080", true},
        {"http://localhost:8080", NULL, NULL, true},
        {"https://a.example", "cross-site", "localhost:8080", false}, /* --cors-origin */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK_MSG(origin_foreign(&o, cases[i].origin, cases[i].site, cases[i].host) ==
                      cases[i].foreign,
                  "%zu", i);
    an_options_free(&o);
}

TEST(names_of_this_machine)
{
    an_options o = OPTIONS("--allow-host", "gpu.lan", "--public-url", "https://pub.example/x"),
               any = OPTIONS("--allow-host", "*");
    static const struct {
        const char *host;
        bool foreign;
    } cases[] = {
        {NULL, false},
        {"", false},
        {"localhost", false},
        {"localhost:8080", false},
        {"LocalHost.", false},
        {"app.localhost:8080", false},
        {"127.0.0.1:8080", false},
        {"192.168.1.7", false},
        {"[::1]:8080", false},
        {"workstation:8080", false},
        {"GPU.lan:8080", false},
        {"pub.example", false},
        {"evil.example:8080", true},
        {"evil.example.:8080", true},
        {"localhost.evil.example", true},
        {"127.0.0.1.nip.io", true},
        {"evillocalhost.com", true},
        {"xgpu.lan", true},
        {"gpu.lan.evil.example", true},
        {"a.b", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_MSG(host_foreign(&o, cases[i].host) == cases[i].foreign, "%s", cases[i].host);
        CHECK(!host_foreign(&any, cases[i].host));
    }
    CHECK(host_any(&any) && !host_any(&o));
    an_options_free(&o);
    an_options_free(&any);
}

TEST(media_types)
{
    static const struct {
        const char *type, *encoding;
        bool json;
    } cases[] = {
        {NULL, NULL, true},
        {"application/json", NULL, true},
        {"Application/JSON; charset=utf-8", NULL, true},
        {"application/json ;x", NULL, true},
        {"application/problem+json", NULL, true},
        {"application/json", "identity", true},
        {"application/json", "gzip", false},
        {"application/jsonx", NULL, false},
        {"application/x-www-form-urlencoded", NULL, false},
        {"multipart/form-data; boundary=x", NULL, false},
        {"text/plain", NULL, false},
        {"text/plain; application/json", NULL, false},
        {"text/json", NULL, false},
        {"+json", NULL, false},
        {"", NULL, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *why = NULL;
        heads h = {.type = cases[i].type, .encoding = cases[i].encoding};
        CHECK_MSG(heads_json(&h, &why) == cases[i].json, "%s", cases[i].type);
        CHECK(why != NULL);
    }
}

TEST(request_ids)
{
    char id[REQUEST_ID], second[REQUEST_ID], longest[66];
    memset(longest, 'a', sizeof longest);
    longest[65] = '\0';
    static const char *const good[] = {"a", "req_1-2.3", "0af7651916cd43dd8448eb211c80319c"};
    static const char *const bad[] = {"", "a b", "a\"b", "a\\", "\xc3\xa4", "a,b", "<x>", "a\tb"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        request_id(&(heads){.id = good[i]}, id);
        CHECK_STR(id, good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        request_id(&(heads){.id = bad[i]}, id);
        CHECK_MSG(strlen(id) == 32 && strspn(id, "0123456789abcdef") == 32, "%s", id);
    }
    request_id(&(heads){.id = longest}, id);
    CHECK(strlen(id) == 32);
    request_id(&(heads){.id = longest + 1}, id);
    CHECK_STR(id, longest + 1);
    request_id(&(heads){0}, id);
    request_id(&(heads){0}, second);
    CHECK(strcmp(id, second) != 0);
}

TEST(escapes)
{
    static const struct {
        const char *from, *to; /* NULL: no */
    } cases[] = {{"a%2Fb%2f", "a/b/"}, {"%41", "A"},          {"", ""},
                 {"%00", NULL},        {"a%", NULL},          {"%4", NULL},
                 {"%zz", NULL},        {"%4g", NULL},         {"1234567", "1234567"},
                 {"12345678", NULL},   {"%C3%A4", "\xc3\xa4"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char to[8];
        bool ok = unescape(cases[i].from, strlen(cases[i].from), to, sizeof to);
        CHECK_MSG(ok == (cases[i].to != NULL), "%s", cases[i].from);
        if (ok) CHECK_STR(to, cases[i].to);
    }
    char to[8];
    CHECK(!unescape("%41", 2, to, sizeof to)); /* nothing is read past the end */
}

TEST(an_access_line_is_one_line)
{
    char line[2048], path[1025], method[300];
    for (int c = 1; c < 1025; c++) path[c - 1] = (char)(c % 255 + 1);
    path[1024] = '\0';
    memset(method, '"', sizeof method - 1);
    method[sizeof method - 1] = '\0';
    const char *const paths[] = {path, path + 100, path + 240, "/v1/x\"},\n{\"time\":\"",
                                 "",   "/%0a"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        an_access a = {.id = path,
                       .key = method,
                       .address = path,
                       .method = method,
                       .path = paths[i],
                       .status = 200,
                       .bytes_in = INT64_MAX,
                       .bytes_out = INT64_MAX,
                       .seconds = 1e9,
                       .jobs = 1 << 30,
                       .queue_s = 1e9,
                       .steps = INT64_MAX,
                       .prompt_tokens = INT64_MAX,
                       .completion_tokens = INT64_MAX};
        size_t n = access_format(&a, 1.7e9 + .9999, line, sizeof line);
        REQUIRE(n > 0 && n == strlen(line) && line[n - 1] == '\n');
        for (size_t k = 0; k + 1 < n; k++) REQUIRE(line[k] >= 32 && line[k] < 127);
        json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        REQUIRE(json_is_object(j));
        CHECK(json_integer_value(json_object_get(j, "status")) == 200);
        json_decref(j);
    }
    an_access a = {.id = "x", .address = "::1", .method = "GET", .path = "/", .status = 200};
    access_format(&a, 0, line, sizeof line);
    json_t *j = json_loads(line, 0, NULL);
    CHECK(json_is_null(json_object_get(j, "key")) && !json_object_get(j, "queue_ms"));
    CHECK_STR(json_string_value(json_object_get(j, "time")), "1970-01-01T00:00:00.000Z");
    json_decref(j);
}

TEST(logs_hold_no_names_that_are_keys)
{
    static const char *const cases[][2] = {
        {"/v1/files/0123456789abcdef0123456789abcdef.png", "/v1/files/012345..."},
        {"/v1/files/0123456789abcdef0123456789abcdef.png/", "/v1/files/012345.../"},
        {"/anneal/v1/files/0123456789abcdef.png", "/anneal/v1/files/012345..."},
        {"/v1/files/%300123456789abcdef", "/v1/files/%30012..."},
        {"/v1/jobs/job_0123456789abcdef/events", "/v1/jobs/job_012345.../events"},
        {"/v1/jobs/0123456789", "/v1/jobs/012345..."},
        {"/v1/jobs/job_x", "/v1/jobs/job_x"},
        {"/v1/files/", "/v1/files/"},
        {"/v1/models/0123456789", "/v1/models/0123456789"},
    };
    char text[64], line[1024];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_STR(access_path(cases[i][0], text, sizeof text), cases[i][1]);
        an_access a = {
            .id = "x", .address = "::1", .method = "GET", .path = cases[i][0], .status = 200};
        access_format(&a, 0, line, sizeof line);
        snprintf(text, sizeof text, "\"path\":\"%s\"", cases[i][1]);
        CHECK_MSG(strstr(line, text), "%s", line);
    }
    CHECK_STR(access_path("/v1/files/0123456789", text, 14), "/v1/files/012");
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
