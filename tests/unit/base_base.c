/* Status, buffers, JSON limits and 16-bit floats. */
#include "anneal/base.h"
#include "anneal/tensor.h"
#include "test.h"
#include <jansson.h>

TEST(errors_name_param_and_prefix)
{
    an_error e;
    CHECK(an_fail_param(&e, AN_INVALID, "steps", "steps: %d, allowed 1 to %d", 0, 150) == AN_INVALID);
    CHECK_STR(e.param, "steps");
    CHECK_STR(e.message, "steps: 0, allowed 1 to 150");
    an_fail_prefix(&e, AN_INVALID, "request");
    CHECK_STR(e.message, "request: steps: 0, allowed 1 to 150");
}

TEST(buffer_keeps_its_maximum)
{
    an_buf b;
    an_buf_init(&b, 5);
    CHECK(an_buf_str(&b, "abc"));
    CHECK(!an_buf_printf(&b, "%d", 123));
    CHECK(b.failed && b.len == 3);
    an_buf_free(&b);
}

TEST(json_limits)
{
    static const struct {
        const char *text;
        bool ok, lenient_ok;
    } cases[] = {
        {"{\"a\":1}", true, true},          {"{\"a\":1,\"a\":2}", false, false},
        {"{\"a\":NaN}", false, true},       {"{\"a\":-Infinity}", false, true},
        {"{\"a\":\"NaN\"}", true, true},    {"{\"a\":1} x", false, false},
        {"{\"a\":\"\\u0000\"}", false, false}, {"{\"a\":1e999}", false, false},
        {"\"\xff\"", false, false},         {"", false, false},
        {"[\"\\\"[[\"]", true, true},
        {"{\"a\":1000000000000000019884624838656}", false, true},
        {"[-99999999999999999999]", false, true},
        {"[9223372036854775807]", true, true}, {"[00000000000000000000001]", false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *j;
        an_error e;
        an_status s = an_json_parse(cases[i].text, strlen(cases[i].text), &j, &e);
        CHECK_MSG((s == AN_OK) == cases[i].ok, "%s", cases[i].text);
        json_decref(j);
        s = an_json_parse_lenient(cases[i].text, strlen(cases[i].text), &j, &e);
        CHECK_MSG((s == AN_OK) == cases[i].lenient_ok, "lenient %s", cases[i].text);
        json_decref(j);
    }
    char deep[201];
    memset(deep, '[', 200);
    deep[200] = 0;
    json_t *j;
    an_error e;
    CHECK(an_json_parse(deep, 200, &j, &e) == AN_INVALID && strstr(e.message, "deeper"));
}

TEST(half_floats_round_trip)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = an_f16_to_f32((uint16_t)h);
        if (f == f) CHECK_MSG(an_f32_to_f16(f) == h, "%04x", h);
        float g = an_bf16_to_f32((uint16_t)h);
        if (g == g) CHECK_MSG(an_f32_to_bf16(g) == h, "%04x", h);
    }
    CHECK(an_f32_to_f16(65520.f) == 0x7c00);
    CHECK(an_f32_to_f16(1e-8f) == 0);
    CHECK(an_f32_to_bf16(1.00390625f) == 0x3f80); /* ties to even */
}

TEST(utf8)
{
    CHECK(an_utf8_valid("caf\xc3\xa9", 5));
    CHECK(!an_utf8_valid("\xc0\x80", 2));
    CHECK(!an_utf8_valid("\xed\xa0\x80", 3));
    CHECK(!an_utf8_valid("\xf0\x9f\x98", 3));
    CHECK(an_utf8_valid("\xf0\x9f\x98\x80", 4));
}

int main(int argc, char **argv) { return test_main(argc, argv); }
