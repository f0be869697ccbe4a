/* Chat templates against real Jinja2 (tests/golden/templates, made by
 * tests/golden/make/templates.py), and what a hostile template is refused with. */
#include "test.h"

#include "anneal/template.h"

#include <jansson.h>
#include <time.h>

static const char *source_of(const char *name, size_t *len)
{
    static char *text;
    char path[512];
    an_error e;
    free(text);
    text = NULL;
    snprintf(path, sizeof path, "%s/templates/%s", AN_GOLDEN, name);
    if (an_read_file(path, 1 << 20, &text, len, &e) != AN_OK) return NULL;
    return text;
}

static json_t *golden(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/templates/%s", AN_GOLDEN, name);
    return json_load_file(path, 0, NULL);
}

/* Parses and renders; the text in out, or the error in e. */
static an_status render(const char *source, size_t len, const json_t *vars, double now,
                        const an_template_limits *limits, an_buf *out, an_error *e)
{
    an_template *t;
    an_buf_init(out, (size_t)16 << 20);
    memset(e, 0, sizeof *e);
    an_status s = an_template_parse(source, len, limits, &t, e);
    if (s != AN_OK) return s;
    s = an_template_render(t, vars, now, out, e);
    an_template_free(t);
    return s;
}

/* One row of a golden: its output, or that it fails, in the words of Jinja where they are the
 * template's business. */
static void check_row(const char *source, size_t len, const json_t *row, const json_t *vars,
                      double now)
{
    const char *output = json_string_value(json_object_get(row, "output"));
    const char *error = json_string_value(json_object_get(row, "error"));
    const char *raised = json_string_value(json_object_get(row, "raised"));
    an_buf out;
    an_error e;
    an_status s = render(source, len, vars, now, NULL, &out, &e);
    if (output) {
        CHECK_MSG(s == AN_OK, "%s\n  %.300s", e.message, source);
        const char *got = out.data ? out.data : "";
        if (s == AN_OK)
            CHECK_MSG(strcmp(got, output) == 0, "\n  %.300s\n  got    '%s'\n  wanted '%s'", source,
                      got, output);
    } else {
        CHECK_MSG(s == AN_INVALID, "'%.300s' gave '%s', Jinja: %s", source,
                  out.data ? out.data : e.message, error);
        if (strcmp(raised, "UndefinedError") == 0 || strcmp(raised, "TemplateError") == 0)
            CHECK_MSG(strstr(e.message, error) != NULL, "'%s' is not in '%s' (%.300s)", error,
                      e.message, source);
    }
    an_buf_free(&out);
}

TEST(real_templates)
{
    json_t *rows = golden("cases.json"), *row;
    size_t i;
    CHECK(json_array_size(rows) == 336);
    json_array_foreach(rows, i, row)
    {
        size_t len;
        const char *source = source_of(json_string_value(json_object_get(row, "template")), &len);
        REQUIRE(source != NULL);
        check_row(source, len, row, json_object_get(row, "input"), 0);
    }
    json_decref(rows);
}

TEST(constructs)
{
    json_t *all = golden("constructs.json"), *rows = json_object_get(all, "rows"), *row;
    double now = json_number_value(json_object_get(all, "now"));
    size_t i;
    CHECK(json_array_size(rows) > 250);
    json_array_foreach(rows, i, row)
    {
        const json_t *source = json_object_get(row, "source");
        check_row(json_string_value(source), json_string_length(source), row,
                  json_object_get(all, "vars"), now);
    }
    json_decref(all);
}

/* ---------------------------------------------------------------- hostile */

static void refused(const char *source, an_status status, const char *word)
{
    json_t *vars = json_pack("{s:[i,i,i], s:s}", "l", 1, 2, 3, "s", "text");
    an_buf out;
    an_error e;
    double before = an_now_s();
    an_status s = render(source, strlen(source), vars, 0, NULL, &out, &e);
    CHECK_MSG(s == status, "%s: %s (%.100s)", an_status_name(s), e.message, source);
    CHECK_MSG(strstr(e.message, word) != NULL, "'%s' is not in '%s' (%.100s)", word, e.message,
              source);
    CHECK_MSG(an_now_s() - before < 20, "%.1f s for %.100s", an_now_s() - before, source);
    an_buf_free(&out);
    json_decref(vars);
}

/* `open` n times, then `middle`, then `close` n times. */
static char *nested(const char *open, const char *middle, const char *close, int n)
{
    an_buf b;
    an_buf_init(&b, (size_t)8 << 20);
    for (int i = 0; i < n; i++) an_buf_str(&b, open);
    an_buf_str(&b, middle);
    for (int i = 0; i < n; i++) an_buf_str(&b, close);
    return an_buf_take(&b);
}

TEST(bombs)
{
    refused("{% for i in range(10**9) %}x{% endfor %}", AN_TOO_LARGE, "range");
    refused("{{ 'x' * 10**12 }}", AN_TOO_LARGE, "budget");
    refused("{{ [0] * 10**12 }}", AN_TOO_LARGE, "budget");
    refused("{{ 9 ** 9 ** 9 }}", AN_TOO_LARGE, "64 bits");
    refused("{{ 9223372036854775807 + 1 }}", AN_TOO_LARGE, "64 bits");
    refused("{{ -9223372036854775807 - 2 }}", AN_TOO_LARGE, "64 bits");
    refused("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", AN_TOO_LARGE, "deep");
    char *sum = nested("1 + ", "1", "", 150);
    char *loop =
        an_asprintf("{%% for a in range(99999) %%}{%% if %s %%}{%% endif %%}{%% endfor %%}", sum);
    refused(loop, AN_TOO_LARGE, "steps");
    free(sum);
    free(loop);
    refused("{% for a in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
            AN_TOO_LARGE, "output");
    refused(
        "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}",
        AN_TOO_LARGE, "budget");
    refused("{% set ns = namespace(l=[1]) %}{% for a in range(99) %}{% set ns.l = [ns.l, ns.l] %}"
            "{% endfor %}{{ ns.l }}",
            AN_TOO_LARGE, "budget");
    refused("{% set ns = namespace(l=[]) %}{% for a in range(9999) %}{% set ns.l = [ns.l] %}"
            "{% endfor %}{{ ns.l }}",
            AN_TOO_LARGE, "deep");
    refused("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", AN_TOO_LARGE, "deep");
    refused("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns|tojson }}", AN_INVALID, "JSON");
    refused("{{ l|tojson(indent=10**10) }}", AN_TOO_LARGE, "budget");
    refused("{{ s|indent(10**10) }}", AN_TOO_LARGE, "budget");
    refused("{{ s|center(10**10) }}", AN_TOO_LARGE, "budget");
    refused("{{ '%999999999d' % 5 }}", AN_TOO_LARGE, "format");
    refused("{{ '%.999999999f' % 5 }}", AN_TOO_LARGE, "format");
    refused("{{ strftime_now('%9999999999d') }}", AN_OK, "");
    refused("{{ s.replace('', 'x' * 10**7).replace('', 'x' * 10**7) }}", AN_TOO_LARGE, "budget");
    refused("{{ range(99999)|batch(1)|map('list')|map('string')|join|length * 'x' * 10**9 }}",
            AN_TOO_LARGE, "budget");
    refused("{% macro m() %}{% for i in range(99) %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}",
            AN_TOO_LARGE, "deep");
    refused("{{ l[::-9223372036854775807] }}{{ l[9223372036854775807:] }}", AN_OK, "");
    refused("{{ (-9223372036854775807 - 1) // -1 }}", AN_TOO_LARGE, "64 bits");
    refused(
        "{{ (-9223372036854775807 - 1) % -1 }}{{ range(-9223372036854775807, 9223372036854775807"
        ", 9223372036854775807) }}",
        AN_OK, "");
    refused("{{ -(-9223372036854775807 - 1) }}", AN_TOO_LARGE, "64 bits");
    refused("{{ (-9223372036854775807 - 1)|abs }}", AN_TOO_LARGE, "64 bits");
    refused("{{ '1e19'|int }}", AN_TOO_LARGE, "64 bits");
    refused("{{ 'a\xff' }}", AN_INVALID, "UTF-8");
    refused("{{ x.__class__.__mro__ }}", AN_INVALID, "undefined");
    refused("{{ s.__class__.__mro__ }}", AN_INVALID, "__class__");
    refused("{{ s|map('map', 'map')|list }}", AN_INVALID, "");
}

TEST(depth)
{
    static const char *const forms[][3] = {
        {"(", "1", ")"},   {"[", "1", "]"},           {"-", "1", ""},
        {"not ", "1", ""}, {"1 if 1 else ", "1", ""}, {"{1:", "1", "}"},
        {"f(", "1", ")"},  {"x[", "1", "]"},          {"1|f(", "1", ")"},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        for (int n = 50; n <= 50000; n *= 1000) {
            char *inner = nested(forms[i][0], forms[i][1], forms[i][2], n);
            char *source = an_asprintf("{%% if false %%}{{ %s }}{%% endif %%}", inner);
            if (n > 50)
                refused(source, AN_TOO_LARGE, "");
            else
                refused(source, AN_OK, "");
            free(inner);
            free(source);
        }
    for (int n = 20; n <= 20000; n *= 1000) {
        char *blocks = nested("{% if true %}", "x", "{% endif %}", n);
        char *loops = nested("{% for i in [1] %}", "x", "{% endfor %}", n);
        char *dots = nested("{{ l", "[0:]", "", 1), *chain = nested("", dots, "|list", n);
        char *whole = an_asprintf("%s }}", chain);
        char *sum = nested("1 + ", "1", "", n), *sums = an_asprintf("{{ %s }}", sum);
        char *elifs = nested("{% elif false %}", "", "", n);
        char *ifs = an_asprintf("{%% if false %%}%s{%% endif %%}", elifs);
        refused(blocks, n > 20 ? AN_TOO_LARGE : AN_OK, "");
        refused(loops, n > 20 ? AN_TOO_LARGE : AN_OK, "");
        refused(whole, n > 20 ? AN_TOO_LARGE : AN_OK, "");
        refused(sums, AN_OK, ""); /* long, not deep */
        refused(ifs, AN_OK, "");
        free(blocks), free(loops), free(dots), free(chain), free(whole);
        free(sum), free(sums), free(elifs), free(ifs);
    }
}

TEST(limits)
{
    an_template_limits l;
    an_template_limits_default(&l);
    CHECK(l.max_source == 1 << 20 && l.max_output == 8 << 20 && l.max_memory == 64 << 20 &&
          l.max_steps == 10000000 && l.max_depth == 100);
    json_t *vars = json_pack("{s:s}", "x", "0123456789");
    an_buf out;
    an_error e;
    l.max_output = 9;
    CHECK(render("{{ x }}", 7, vars, 0, &l, &out, &e) == AN_TOO_LARGE &&
          strstr(e.message, "9 bytes"));
    an_buf_free(&out);
    l.max_output = 10;
    CHECK(render("{{ x }}", 7, vars, 0, &l, &out, &e) == AN_OK && out.len == 10);
    an_buf_free(&out);
    l.max_source = 6;
    CHECK(render("{{ x }}", 7, vars, 0, &l, &out, &e) == AN_TOO_LARGE &&
          strstr(e.message, "7 bytes"));
    an_buf_free(&out);
    CHECK(render("{{ x }}", 7, NULL, 0, NULL, &out, &e) == AN_INVALID);
    an_buf_free(&out);
    json_decref(vars);
}

TEST(lines_of_errors)
{
    refused("a\nb\n{{ l.x.y }}\nc", AN_INVALID, "line 3");
    refused("{% if true %}\n\n{{ 1 + }}{% endif %}", AN_INVALID, "line 3");
    refused("{#\n\n#}\n{% nonsense %}", AN_INVALID, "line 4");
    refused("\n{% for i in l %}\n", AN_INVALID, "endfor");
}

TEST(uses)
{
    static const char source[] =
        "{% if tools %}x{% endif %}{{ messages[0].documents }} tools_in_prompt";
    an_template *t;
    an_error e;
    REQUIRE(an_template_parse(source, sizeof source - 1, NULL, &t, &e) == AN_OK);
    CHECK(an_template_uses(t, "tools") && an_template_uses(t, "messages"));
    CHECK(!an_template_uses(t, "documents") && !an_template_uses(t, "tools_in_prompt"));
    an_template_free(t);
    an_template_free(NULL);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
