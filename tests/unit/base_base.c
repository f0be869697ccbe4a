/* Status, buffers, JSON limits and 16-bit floats. */
#include "anneal/base.h"
#include <math.h>
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

TEST(buffer_gives_back_what_was_dropped)
{
    an_buf b;
    an_buf_init(&b, 4096);
    for (int i = 0; i < 1000; i++) an_buf_str(&b, "x");
    an_buf_str(&b, "end");
    an_buf_drop(&b, 1000);
    CHECK_STR(b.data, "end");
    CHECK(b.len == 3 && b.cap == 4);
    CHECK(an_buf_str(&b, "ing"));
    CHECK_STR(b.data, "ending");
    an_buf_drop(&b, 6);
    CHECK(!b.data && b.len == 0 && b.cap == 0 && !b.failed);
    CHECK(an_buf_str(&b, "anew"));
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

/* What OCP's table of e4m3 says of a code, in double; NaN for 0x7f and 0xff. */
static double e4m3_worth(int code)
{
    const int exponent = code >> 3 & 15, fraction = code & 7;
    if ((code & 0x7f) == 0x7f) return (double)NAN;
    const double v = exponent ? ldexp(8 + fraction, exponent - 10) : ldexp(fraction, -9);
    return code & 0x80 ? -v : v;
}

TEST(e4m3_by_its_table)
{
    for (int c = 0; c < 256; c++) {
        const float f = an_e4m3_to_f32((uint8_t)c);
        const double want = e4m3_worth(c);
        const bool nan = want != want;
        CHECK_MSG(nan ? f != f : (double)f == want, "%02x is %g, expected %g", c, (double)f, want);
        CHECK_MSG(an_f32_to_e4m3(f) == c, "%02x and back is %02x", c, an_f32_to_e4m3(f));
        CHECK_MSG(!signbit(f) == !(c & 0x80) || nan, "%02x has a wrong sign", c);
    }
    CHECK(an_e4m3_to_f32(0x7e) == AN_E4M3_MAX && an_e4m3_to_f32(0x01) == 0x1p-9f);
}

/* Between two neighbours: the nearer one, in the middle the even one. */
TEST(e4m3_rounds_to_nearest_even)
{
    for (int c = 0; c < 0x7e; c++) {
        const float low = an_e4m3_to_f32((uint8_t)c), high = an_e4m3_to_f32((uint8_t)(c + 1));
        const float middle = (low + high) / 2;
        const struct {
            float f;
            int want;
        } at[] = {{nextafterf(low, high), c},
                  {nextafterf(middle, low), c},
                  {middle, c + (c & 1)},
                  {nextafterf(middle, high), c + 1},
                  {nextafterf(high, low), c + 1}};
        for (int i = 0; i < 5; i++) {
            CHECK_MSG(an_f32_to_e4m3(at[i].f) == at[i].want, "%.9g: %02x, expected %02x",
                      (double)at[i].f, an_f32_to_e4m3(at[i].f), at[i].want);
            CHECK(an_f32_to_e4m3(-at[i].f) == (at[i].want | 0x80));
        }
    }
    const float beyond[] = {449, 464, 465, 480, 1e30f, INFINITY};
    for (int i = 0; i < 6; i++) {
        CHECK(an_f32_to_e4m3(beyond[i]) == 0x7e);
        CHECK(an_f32_to_e4m3(-beyond[i]) == 0xfe);
    }
    CHECK(an_f32_to_e4m3(NAN) == 0x7f && an_f32_to_e4m3(1e-30f) == 0);
}

TEST(utf8)
{
    CHECK(an_utf8_valid("caf\xc3\xa9", 5));
    CHECK(!an_utf8_valid("\xc0\x80", 2));
    CHECK(!an_utf8_valid("\xed\xa0\x80", 3));
    CHECK(!an_utf8_valid("\xf0\x9f\x98", 3));
    CHECK(an_utf8_valid("\xf0\x9f\x98\x80", 4));
}

/* A message that quotes what was cut inside a character is UTF-8 all the same. */
TEST(messages_are_utf8)
{
    an_error e = {0};
    an_fail(&e, AN_INVALID, "no type %.4s here", "ab\xe3\x81\x82");
    CHECK_STR(e.message, "no type ab?? here");
    an_fail_prefix(&e, AN_INVALID, "%.5s", "\xe3\x81\x82\xe3\x81\x82");
    CHECK_STR(e.message, "\xe3\x81\x82??: no type ab?? here");
    char s[] = "\xf0\x9f\x98\x80\x80\xff\xc3\xa9\xed\xa0\x80";
    an_utf8_mend(s);
    char stray[] = "a\x80 \xc3\xa9\x80z\xc3";
    an_utf8_mend(stray);
    CHECK_STR(stray, "a? \xc3\xa9?z?");
    CHECK_STR(s, "\xf0\x9f\x98\x80??\xc3\xa9???");
}

int main(int argc, char **argv) { return test_main(argc, argv); }
