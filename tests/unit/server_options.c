/* Options: defaults, flags, environment, bounds, lists, sizes and what the messages say. */
#include "options.h"
#include "test.h"

/* Parses one command line, given as a NULL-terminated list. */
static an_status parse(an_options *o, an_error *err, const char *const *args)
{
    char *argv[16];
    int argc = 0;
    bool help;
    *err = (an_error){0};
    while (args[argc]) {
        argv[argc] = (char *)(size_t)args[argc];
        argc++;
    }
    return an_options_parse(o, argc, argv, &help, err);
}
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

TEST(defaults)
{
    an_options o;
    an_error err;
    bool help;
    REQUIRE(an_options_parse(&o, 0, NULL, &help, &err) == AN_OK);
    CHECK_STR(o.host, "127.0.0.1");
    CHECK(o.port == 8080 && o.n_models == 0 && o.n_api_keys == 0 && !help);
    CHECK(o.engine.max_queue == 256 && o.max_body_bytes == (size_t)32 << 20);
    CHECK(o.max_held_bytes == (size_t)1 << 30);
    CHECK_NEAR(o.engine.job_ttl_s, 600, 0);
    CHECK_STR(o.engine.dtype, "auto");
    an_options_free(&o);
}

TEST(flags_and_environment)
{
    an_options o;
    an_error err;
    setenv("ANNEAL_MAX_QUEUE", "7", 1);
    setenv("ANNEAL_PORT", "99", 1);
    setenv("ANNEAL_MODELS", "/env", 1);
    setenv("ANNEAL_API_KEY", "env", 1);
    setenv("ANNEAL_TRUSTED_PROXY", "10.0.0.1,10.0.0.2", 1);
    setenv("ANNEAL_HOST", "", 1); /* empty = not set */
    REQUIRE(parse(&o, &err,
                  ARGS("--port", "0", "--max-body-bytes=2M", "--models", "/a", "--models", "/b",
                       "--api-key", "x,y", "--grace", "1.5", "--dtype=f32")) == AN_OK);
    CHECK(o.port == 0 && o.engine.max_queue == 7 && o.max_body_bytes == 2 << 20);
    CHECK(o.n_models == 2 && o.n_api_keys == 2 && o.n_trusted_proxies == 2);
    CHECK_STR(o.models[0], "/a"); /* the command line replaces the environment's */
    CHECK_STR(o.api_keys[0], "x");
    CHECK_STR(o.trusted_proxies[1], "10.0.0.2");
    CHECK_STR(o.models[1], "/b");
    CHECK_STR(o.api_keys[1], "y");
    CHECK_STR(o.host, "127.0.0.1");
    CHECK_STR(o.engine.dtype, "f32");
    CHECK_NEAR(o.grace_s, 1.5, 0);
    an_options_free(&o);
    setenv("ANNEAL_MAX_QUEUE", "many", 1);
    CHECK(parse(&o, &err, ARGS("--port", "1")) == AN_INVALID);
    CHECK(strstr(err.message, "ANNEAL_MAX_QUEUE") && strstr(err.message, "many"));
    an_options_free(&o);
    unsetenv("ANNEAL_MAX_QUEUE");
    setenv("ANNEAL_API_KEY", "", 1); /* a key that did not arrive is not "no key" */
    CHECK(parse(&o, &err, ARGS("--port", "1")) == AN_INVALID);
    CHECK(strstr(err.message, "ANNEAL_API_KEY") != NULL);
    an_options_free(&o);
    unsetenv("ANNEAL_API_KEY");
    unsetenv("ANNEAL_TRUSTED_PROXY");
    unsetenv("ANNEAL_PORT");
    unsetenv("ANNEAL_MODELS");
    unsetenv("ANNEAL_HOST");
}

TEST(faults_name_the_option)
{
    static const struct {
        const char *flag, *value, *word;
    } cases[] = {
        {"--port", "65536", "0 to 65535"}, {"--port", "-1", "0 to 65535"},
        {"--port", "80x", "80x"},          {"--port", "", "--port"},
        {"--port", "1.5", "1.5"},          {"--port", "nan", "nan"},
        {"--port", "1e999", "1e999"},      {"--max-body-bytes", "12Q", "64M"},
        {"--max-body-bytes", "-1", "64M"}, {"--max-body-bytes", "9999999T", "64M"},
        {"--max-body-bytes", "1", "1024"}, {"--log-level", "loud", "debug"},
        {"--nonsense", "1", "--nonsense"}, {"--max-batch", "65", "1 to 64"},
        {"--api-key", "", "empty"},        {"--api-key", ",", "empty"},
        {"--job-ttl", "inf", "--job-ttl"}, {"--isa", "0123456789012345678901234567890123", "--isa"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        an_options o;
        an_error err;
        CHECK_MSG(parse(&o, &err, ARGS(cases[i].flag, cases[i].value)) == AN_INVALID, "%s %s",
                  cases[i].flag, cases[i].value);
        CHECK_MSG(strstr(err.message, cases[i].word), "'%s' does not say '%s'", err.message,
                  cases[i].word);
        an_options_free(&o);
    }
    an_options o;
    an_error err;
    CHECK(parse(&o, &err, ARGS("--port")) == AN_INVALID && strstr(err.message, "needs a value"));
    an_options_free(&o);
}

TEST(sizes)
{
    static const struct {
        const char *text;
        bool ok;
        size_t value;
    } cases[] = {{"0", true, 0},          {"1024", true, 1024},     {"1K", true, 1024},
                 {"1k", true, 1024},      {"1KiB", true, 1024},     {"1.5M", true, 3 << 19},
                 {"2G", true, 2ul << 30}, {"1TB", true, 1ul << 40}, {"", false, 0},
                 {"M", false, 0},         {"1MM", false, 0},        {"-1", false, 0},
                 {"nan", false, 0},       {"1e30", false, 0},       {"99999999T", false, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t v = 0;
        CHECK_MSG(an_parse_size(cases[i].text, &v) == cases[i].ok, "%s", cases[i].text);
        if (cases[i].ok) CHECK_MSG(v == cases[i].value, "%s gave %zu", cases[i].text, v);
    }
}

TEST(help_is_the_manual)
{
    an_buf b;
    an_options o;
    an_error err;
    bool help = false;
    char *argv[] = {"--help"};
    CHECK(an_options_parse(&o, 1, argv, &help, &err) == AN_OK && help);
    an_options_free(&o);
    an_buf_init(&b, 1 << 20);
    an_options_help(&b);
    REQUIRE(b.data && !b.failed);
    CHECK(strstr(b.data, "--max-queue N") && strstr(b.data, "[256]"));
    CHECK(strstr(b.data, "ANNEAL_MAX_QUEUE"));
    for (char *line = strtok(b.data, "\n"); line; line = strtok(NULL, "\n"))
        CHECK_MSG(strlen(line) <= 100, "%zu columns: %s", strlen(line), line);
    an_buf_free(&b);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
