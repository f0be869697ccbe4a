/* Tool calls: what `tools` and `tool_choice` may be, the schema they make, and the calls found in
 * an answer: at once, byte by byte, and cut at every place, always the same. */
#include "api/chat_tools.h"
#include "test.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- a sink that writes down */

typedef struct told {
    an_buf b;
    int calls;
    bool in_content;
} told;

static void on_content(void *ctx, const char *s, size_t n)
{
    told *t = ctx;
    if (!t->in_content) an_buf_str(&t->b, "|");
    t->in_content = true;
    an_buf_add(&t->b, s, n);
}

static void on_call(void *ctx, int index, const char *name, size_t n)
{
    told *t = ctx;
    CHECK(index == t->calls);
    t->calls++;
    t->in_content = false;
    an_buf_printf(&t->b, "#%.*s:", (int)n, name);
}

static void on_arguments(void *ctx, int index, const char *s, size_t n)
{
    told *t = ctx;
    CHECK(index == t->calls - 1);
    CHECK(n > 0);
    an_buf_add(&t->b, s, n);
}

static json_t *two_tools(void)
{
    return json_loads("[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{"
                      "\"type\":\"object\",\"properties\":{\"x\":{\"$ref\":\"#/$defs/n\"}},"
                      "\"$defs\":{\"n\":{\"type\":\"integer\"}}}}},"
                      "{\"type\":\"function\",\"function\":{\"name\":\"get_time\"}}]",
                      0, NULL);
}

/* Feeds text in pieces of `step` bytes; what was told, malloc'ed. */
static char *parse(tool_mode mode, const char *text, size_t len, size_t step)
{
    told t = {.in_content = false};
    tool_parser p = {0};
    tool_choice c = {mode, "f", true};
    tool_sink sink = {&t, on_content, on_call, on_arguments};
    json_t *tools = two_tools();
    an_buf_init(&t.b, 1 << 20);
    for (size_t n = 0; n < len; n += step) {
        size_t end = n + step < len ? n + step : len;
        char *copy = malloc(end + 1); /* so that a read past its end is found */
        memcpy(copy, text, end);
        tools_feed(&p, &c, tools, copy, end, false, &sink);
        free(copy);
    }
    tools_feed(&p, &c, tools, text, len, true, &sink);
    json_decref(tools);
    char *s = an_buf_take(&t.b);
    return s ? s : strdup("");
}

static void check(tool_mode mode, const char *text, const char *want)
{
    size_t len = strlen(text);
    for (size_t step = 1; step <= len + 1; step += step < 4 ? 1 : 7) {
        char *got = parse(mode, text, len, step);
        CHECK_MSG(strcmp(got, want) == 0, "%s in steps of %zu: %s, expected %s", text, step, got,
                  want);
        free(got);
    }
}

TEST(tagged_calls)
{
    check(TOOLS_AUTO, "Hello there", "|Hello there");
    check(TOOLS_AUTO, "", "");
    check(TOOLS_AUTO, "  \n", "|  \n");
    check(TOOLS_AUTO, "a < b <tool", "|a < b <tool");
    check(TOOLS_AUTO, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>",
          "#f:{\"x\": 1}");
    check(TOOLS_AUTO,
          "I look.<tool_call>{\"name\":\"f\",\"arguments\":{\"x\":\"}\\\"{\"}}</tool_call>"
          "\n<tool_call>{\"arguments\":{},\"name\":\"get_time\"}</tool_call> done",
          "|I look.#f:{\"x\":\"}\\\"{\"}#get_time:{}|done");
    /* a name that nobody gave is the model's word, and its caller's to judge */
    check(TOOLS_AUTO, "<tool_call>{\"name\":\"zzz\"}</tool_call>", "#zzz:{}");
    check(TOOLS_AUTO, "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"x\\\": 2}\"}</tool_call>",
          "#f:{\"x\": 2}");
}

TEST(broken_calls_are_text)
{
    check(TOOLS_AUTO, "<tool_call>oops</tool_call>", "|<tool_call>oops</tool_call>");
    check(TOOLS_AUTO, "<tool_call>{\"x\":1}</tool_call>", "|<tool_call>{\"x\":1}</tool_call>");
    check(TOOLS_AUTO, "<tool_call>{\"na", "|<tool_call>{\"na");
    /* cut by max_tokens: what is there of a call is told */
    check(TOOLS_AUTO, "<tool_call>{\"name\":\"f\",\"arguments\":{\"x\": [1, 2", "#f:{\"x\": [1, 2");
}

TEST(calls_without_tags)
{
    check(TOOLS_AUTO, "{\"name\": \"f\", \"parameters\": {\"x\": 3}}", "#f:{\"x\": 3}");
    check(TOOLS_AUTO,
          "[{\"name\":\"f\",\"arguments\":{}},{\"name\":\"get_time\",\"arguments\":{}}]",
          "#f:{}#get_time:{}");
    check(TOOLS_AUTO,
          "{\"name\":\"f\",\"parameters\":{}}; {\"name\":\"f\",\"parameters\":{\"x\":1}}",
          "#f:{}#f:{\"x\":1}");
    /* not one of the tools, or not a call: an answer that happens to be JSON */
    check(TOOLS_AUTO, "{\"name\": \"Ada\", \"born\": 1815}",
          "|{\"name\": \"Ada\", \"born\": 1815}");
    check(TOOLS_AUTO, "{\"name\": \"f\"} and more", "|{\"name\": \"f\"} and more");
    check(TOOLS_AUTO, "[1, 2]", "|[1, 2]");
}

TEST(forced_calls)
{
    check(TOOLS_REQUIRED,
          "[{\"name\":\"f\",\"arguments\":{\"x\":1}}, "
          "{\"name\":\"get_time\",\"arguments\":{}}]",
          "#f:{\"x\":1}#get_time:{}");
    check(TOOLS_REQUIRED, "[{\"name\":\"f\",\"arguments\":{\"x\"", "#f:{\"x\"");
    check(TOOLS_NAMED, "{\"x\": 1}", "#f:{\"x\": 1}");
    check(TOOLS_NONE, "<tool_call>{\"name\":\"f\"}</tool_call>",
          "|<tool_call>{\"name\":\"f\"}</tool_call>");
}

/* Whatever comes: no crash, and the same however it is cut. */
TEST(random_texts)
{
    static const char *const parts[] = {
        "<tool_call>", "</tool_call>",  "{",         "}", "[",  "]",  "\"name\"", ":",    "\"f\"",
        ",",           "\"arguments\"", "{\"x\":1}", " ", "\n", "\\", "\"",       "text", "<",
        "12",          "\xc3\xa9",      ";"};
    srand(7);
    for (int i = 0; i < 3000; i++) {
        char text[400] = "";
        for (int k = rand() % 14; k > 0; k--)
            strcat(text, parts[(size_t)rand() % (sizeof parts / sizeof *parts)]);
        for (int mode = TOOLS_NONE; mode <= TOOLS_NAMED; mode++) {
            if (!*text) continue;
            char *one = parse((tool_mode)mode, text, strlen(text), 1);
            char *all = parse((tool_mode)mode, text, strlen(text), 1000);
            char *three = parse((tool_mode)mode, text, strlen(text), 3);
            /* a call that turns out broken after it began stays begun, so cuts matter there */
            if ((mode != TOOLS_AUTO && mode != TOOLS_REQUIRED) || !strstr(text, "\"name\""))
                CHECK_MSG(strcmp(one, all) == 0, "%s: %s, %s", text, one, all);
            CHECK(three != NULL);
            free(one);
            free(all);
            free(three);
        }
    }
}

/* ---------------------------------------------------------------- fields */

static an_status read(const char *body, json_t **tools, tool_choice *c, char *param)
{
    fields f;
    json_t *root = json_loads(body, 0, NULL);
    CHECK_MSG(root != NULL, "%s", body);
    fields_init(&f, root);
    tools_read(&f, tools, c);
    snprintf(param, 64, "%s", f.err.param);
    if (!fields_ok(&f)) CHECK(*f.err.message);
    json_decref(root);
    return f.err.status;
}

#define TOOL "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"

TEST(choices)
{
    static const struct {
        const char *body;
        bool ok;
        tool_mode mode;
    } cases[] = {
        {"{}", true, TOOLS_NONE},
        {"{\"tools\":[]}", true, TOOLS_NONE},
        {"{\"tools\":[" TOOL "]}", true, TOOLS_AUTO},
        {"{\"tools\":[" TOOL "],\"tool_choice\":\"auto\"}", true, TOOLS_AUTO},
        {"{\"tools\":[" TOOL "],\"tool_choice\":\"none\"}", true, TOOLS_NONE},
        {"{\"tools\":[" TOOL "],\"tool_choice\":\"required\"}", true, TOOLS_REQUIRED},
        {"{\"tools\":[" TOOL
         "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}}",
         true, TOOLS_NAMED},
        {"{\"tool_choice\":\"auto\"}", true, TOOLS_NONE},
        {"{\"tool_choice\":\"required\"}", false, TOOLS_NONE},
        {"{\"tools\":[" TOOL "],\"tool_choice\":\"always\"}", false, TOOLS_NONE},
        {"{\"tools\":[" TOOL "],\"tool_choice\":{\"function\":{\"name\":\"g\"}}}", false,
         TOOLS_NONE},
        {"{\"tools\":[" TOOL "],\"tool_choice\":{}}", false, TOOLS_NONE},
        {"{\"tools\":{}}", false, TOOLS_NONE},
        {"{\"tools\":[1]}", false, TOOLS_NONE},
        {"{\"tools\":[" TOOL "," TOOL "]}", false, TOOLS_NONE},
        {"{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]}", false,
         TOOLS_NONE},
        {"{\"tools\":[{\"type\":\"retrieval\",\"function\":{\"name\":\"a\"}}]}", false, TOOLS_NONE},
        {"{\"tools\":[{\"function\":{\"name\":\"a\",\"parameters\":[]}}]}", false, TOOLS_NONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *tools = NULL;
        tool_choice c;
        char param[64];
        bool ok = read(cases[i].body, &tools, &c, param) == AN_OK;
        CHECK_MSG(ok == cases[i].ok, "%s: %d", cases[i].body, ok);
        if (ok) CHECK_MSG(c.mode == cases[i].mode, "%s: mode %d", cases[i].body, c.mode);
        if (!ok) CHECK(strncmp(param, "tool", 4) == 0);
        json_decref(tools);
    }
}

TEST(schemas)
{
    json_t *tools = two_tools();
    tool_choice c = {TOOLS_REQUIRED, NULL, true};
    json_t *s = tools_schema(tools, &c);
    char *text = json_dumps(s, JSON_COMPACT);
    CHECK_MSG(strstr(text, "#/$defs/tool0/$defs/n") != NULL, "%s", text);
    CHECK(strstr(text, "\"const\":\"get_time\"") != NULL);
    free(text);
    an_grammar *g = NULL;
    an_error err = {0};
    CHECK_MSG(an_grammar_schema(s, NULL, &g, &err) == AN_OK, "%s", err.message);
    an_grammar_unref(g);
    json_decref(s);
    c = (tool_choice){TOOLS_NAMED, "f", true};
    s = tools_schema(tools, &c);
    CHECK(json_object_get(s, "properties") != NULL);
    CHECK(an_grammar_schema(s, NULL, &g, &err) == AN_OK);
    an_grammar_unref(g);
    json_decref(s);
    json_decref(tools);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
