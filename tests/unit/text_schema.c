/* JSON schemas as grammars: documents that must and must not come through, random walks along the
 * masks, whose every end must be a document that jansson reads and a validator accepts, and schemas
 * that are refused. */
#include "test.h"

#include "text_grammar.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* ---------------------------------------------------------------- a small validator */

static const json_t *doc_root;

static bool valid(const json_t *schema, const json_t *v);

static bool matches(const char *pattern, const char *text)
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
    if (!re) return false;
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(re, NULL);
    int n = pcre2_match(re, (PCRE2_SPTR)text, strlen(text), 0, 0, m, NULL);
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    return n > 0;
}

static bool type_ok(const char *t, const json_t *v)
{
    if (!strcmp(t, "object")) return json_is_object(v);
    if (!strcmp(t, "array")) return json_is_array(v);
    if (!strcmp(t, "string")) return json_is_string(v);
    if (!strcmp(t, "integer")) return json_is_integer(v);
    if (!strcmp(t, "number")) return json_is_number(v);
    if (!strcmp(t, "boolean")) return json_is_boolean(v);
    return json_is_null(v);
}

static double bound(const json_t *schema, const char *key, double other)
{
    const json_t *v = json_object_get(schema, key);
    return json_is_number(v) ? json_number_value(v) : other;
}

static bool format_ok(const char *f, const char *s)
{
    static const char *const known[][2] = {
        {"date", "^\\d{4}-\\d\\d-\\d\\d$"},
        {"time", "^\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?(Z|[+-]\\d\\d:\\d\\d)$"},
        {"date-time", "^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?(Z|[+-]\\d\\d:\\d\\d)$"},
        {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
        {"ipv4", "^\\d+\\.\\d+\\.\\d+\\.\\d+$"},
        {"ipv6", "^[0-9a-fA-F:]+$"},
        {"email", "^[^@\\s]+@[^@\\s]+\\.[A-Za-z]+$"},
        {"hostname", "^[A-Za-z0-9.-]+$"},
        {"uri", "^[a-z][a-z0-9+.-]*://\\S+$"},
        {"duration", "^P.+$"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i][0], f)) return matches(known[i][1], s);
    return false;
}

static bool valid_string(const json_t *schema, const char *s)
{
    size_t n = 0;
    for (const char *p = s; *p; p++) n += ((unsigned char)*p & 0xc0) != 0x80;
    const char *pattern = json_string_value(json_object_get(schema, "pattern"));
    const char *format = json_string_value(json_object_get(schema, "format"));
    return (double)n >= bound(schema, "minLength", 0) &&
           (double)n <= bound(schema, "maxLength", 1e9) && (!pattern || matches(pattern, s)) &&
           (!format || format_ok(format, s));
}

static bool valid_object(const json_t *schema, const json_t *v)
{
    const json_t *props = json_object_get(schema, "properties"), *req, *r;
    const json_t *more = json_object_get(schema, "additionalProperties");
    const char *key;
    json_t *value;
    size_t i;
    json_object_foreach((json_t *)v, key, value)
    {
        const json_t *p = json_object_get(props, key);
        if (p ? !valid(p, value) : more && !valid(more, value)) return false;
    }
    req = json_object_get(schema, "required");
    json_array_foreach((json_t *)req, i,
                       r) if (!json_object_get(v, json_string_value(r))) return false;
    return (double)json_object_size(v) >= bound(schema, "minProperties", 0) &&
           (double)json_object_size(v) <= bound(schema, "maxProperties", 1e9);
}

static bool valid_array(const json_t *schema, const json_t *v)
{
    const json_t *prefix = json_object_get(schema, "prefixItems"),
                 *items = json_object_get(schema, "items");
    size_t n = json_array_size(v);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        if (s && !valid(s, json_array_get(v, i))) return false;
    }
    return (double)n >= bound(schema, "minItems", 0) && (double)n <= bound(schema, "maxItems", 1e9);
}

static bool valid_combined(const json_t *schema, const json_t *v)
{
    static const char *const words[] = {"anyOf", "oneOf", "allOf"};
    for (int w = 0; w < 3; w++) {
        const json_t *list = json_object_get(schema, words[w]);
        size_t n = json_array_size(list), good = 0;
        for (size_t i = 0; i < n; i++) good += valid(json_array_get(list, i), v);
        if (list && (w == 2 ? good < n : good == 0)) return false;
    }
    const char *ref = json_string_value(json_object_get(schema, "$ref"));
    if (!ref) return true;
    if (!strcmp(ref, "#")) return valid(doc_root, v);
    return valid(json_object_get(json_object_get(doc_root, "$defs"), ref + 8), v);
}

static bool valid(const json_t *schema, const json_t *v)
{
    if (json_is_boolean(schema)) return json_is_true(schema);
    const json_t *type = json_object_get(schema, "type"), *list = json_object_get(schema, "enum"),
                 *e;
    const json_t *only = json_object_get(schema, "const");
    size_t i;
    bool ok = !type || (json_is_string(type) && type_ok(json_string_value(type), v)), any = !list;
    json_array_foreach((json_t *)type, i, e) ok = ok || type_ok(json_string_value(e), v);
    json_array_foreach((json_t *)list, i, e) any = any || json_equal(e, v);
    if (!ok || !any || (only && !json_equal(only, v)) || !valid_combined(schema, v)) return false;
    if (json_is_number(v)) {
        double d = json_number_value(v);
        if (d < bound(schema, "minimum", -1e300) || d > bound(schema, "maximum", 1e300) ||
            d <= bound(schema, "exclusiveMinimum", -1e300) ||
            d >= bound(schema, "exclusiveMaximum", 1e300))
            return false;
    }
    if (json_is_string(v)) return valid_string(schema, json_string_value(v));
    if (json_is_object(v)) return valid_object(schema, v);
    return !json_is_array(v) || valid_array(schema, v);
}

/* ---------------------------------------------------------------- random walks */

static uint64_t rng;

static unsigned below(unsigned n)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((rng >> 33) % n);
}

/* A token the mask allows: any at first, then rather one that closes something. */
static int32_t choose(const uint8_t *mask, int steps)
{
    static const char closers[] = "\"}]:0123456789";
    if (mask[TINY_END] && (steps > 150 || below(2))) return TINY_END;
    if (steps > 150 ? below(8) > 0 : below(4) == 0)
        for (const char *c = closers; *c; c++)
            if (mask[(unsigned char)*c] && (steps > 150 || below(3) == 0)) return (unsigned char)*c;
    for (int tries = 0; tries < 40; tries++) {
        int32_t t = (int32_t)below(TINY_END);
        if (mask[t]) return t;
    }
    unsigned from = below(TINY_SIZE);
    for (unsigned i = 0; i < TINY_SIZE; i++)
        if (mask[(from + i) % TINY_SIZE]) return (int32_t)((from + i) % TINY_SIZE);
    return -1;
}

/* Walks until an end token; the text in out. False if it does not end. */
static bool random_walk(an_grammar *g, const an_vocab *v, an_buf *out)
{
    an_matcher *m;
    an_error e;
    uint8_t mask[TINY_SIZE];
    bool done = false;
    if (an_matcher_new(g, v, &m, &e) != AN_OK) return false;
    for (int steps = 0; steps < 20000 && !done; steps++) {
        size_t n;
        if (!an_matcher_mask(m, mask, sizeof mask)) break;
        int32_t t = choose(mask, steps);
        if (t < 0 || !an_matcher_accept(m, t)) break;
        done = t == TINY_END;
        const char *p = an_vocab_piece(v, t, false, &n);
        if (!done) an_buf_add(out, p, n);
    }
    an_matcher_free(m);
    return done;
}

/* The whole text, byte by byte; true if it is a document of the grammar. */
static bool accepts(an_grammar *g, const an_vocab *v, const char *text)
{
    an_matcher *m;
    an_error e;
    if (an_matcher_new(g, v, &m, &e) != AN_OK) return false;
    bool ok = true;
    for (const char *p = text; *p && ok; p++) ok = an_matcher_accept(m, (unsigned char)*p);
    ok = ok && an_matcher_complete(m);
    an_matcher_free(m);
    return ok;
}

static const struct {
    const char *schema;
    const char *yes[6], *no[7];
} cases[] = {
    {"true",
     {"1", "\"a\"", "{}", "[1,{\"a\":null}]", "-0.5e+10"},
     {"", "01", "{a:1}", "[1,]", "tru", "\"\n\""}},
    {"{}", {"null", "\"\\u00e9\\ud83d\\ude00\""}, {"\"\\ud83d\"", "\"\\u0000\"", "\"\\x\""}},
    {"{\"type\":\"integer\"}",
     {"0", "-5", "1234567890123456"},
     {"1.5", "01", "+1", "12345678901234567", "--1", "\"1\""}},
    {"{\"type\":\"number\"}",
     {"0", "-5.25", "1e10", "1.5E-3", "0.1"},
     {"1.", ".5", "1e", "1e100", "- 1"}},
    {"{\"type\":\"boolean\"}", {"true", "false"}, {"null", "True", "1"}},
    {"{\"type\":[\"string\",\"null\"]}", {"null", "\"x\"", "\"\""}, {"1", "true"}},
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
     {"\"ab\"", "\"日本語\"", "\"\\n\\u0041\"", "\"\\ud83d\\ude00a\""},
     {"\"a\"", "\"abcd\"", "ab"}},
    {"{\"enum\":[\"a\",\"ab\",\"b\\\"c\",1,1.5,null,true,{\"x\":[1,2]},\"日本\",\"日曜\"]}",
     {"\"a\"", "\"ab\"", "\"b\\\"c\"", "1.5", "{\"x\":[1,2]}", "\"日曜\""},
     {"\"abc\"", "2", "\"b\"", "false", "{}", "\"日\""}},
    {"{\"enum\":[\"x\",\"y\",\"x\",1,1]}", {"\"x\"", "1"}, {"2"}},
    {"{\"const\":{\"a\":0.1}}", {"{\"a\":0.1}"}, {"{}", "0.1", "{\"a\":0.2}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"string\"}"
     ",\"c\":{\"type\":\"null\"}},"
     "\"required\":[\"b\"]}",
     {"{\"b\":\"x\"}", "{\"a\": 1, \"b\": \"\"}",
      "{\n  \"a\": 1,\n  \"b\": \"\",\n  \"c\": null\n}", "{\"b\":\"\",\"c\":null}"},
     {"{}", "{\"a\":1}", "{\"b\":\"x\",\"a\":1}", "{\"b\":1}", "{\"b\":\"x\",}",
      "{\"b\":\"x\",\"d\":1}", "{  \"b\":\"x\"}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{\"type\":"
     "\"integer\"}},\"additionalProperties\":{\"type\":\"boolean\"}}",
     {"{}", "{\"a\":1}", "{\"b\":true}", "{\"a\":1,\"ab\":2,\"abc\":true,\"\":false}",
      "{\"é\":true}"},
     {"{\"a\":true}", "{\"b\":1}", "{\"ab\":true}", "{\"\\u0061\":true}", "{\"x\":true,\"a\":1}"}},
    {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"},\"minProperties\":1,"
     "\"maxProperties\":2}",
     {"{\"a\":1}", "{\"a\":1,\"b\":2}"},
     {"{}", "{\"a\":1,\"b\":2,\"c\":3}", "{\"a\":\"\"}"}},
    {"{\"type\":\"object\",\"additionalProperties\":false}", {"{}"}, {"{\"a\":1}"}},
    {"{\"type\":\"object\",\"required\":[\"x\"]}",
     {"{\"x\":[1]}", "{\"x\":1,\"y\":2}"},
     {"{}", "{\"y\":1}"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}",
     {"[1]", "[1,2]", "[1, 2, 3]", "[ 1 ]"},
     {"[]", "[1,2,3,4]", "[\"a\"]", "[1,]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"maxItems\":0}", {"[]"}, {"[null]"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"maxItems\":1}",
     {"[]", "[null]"},
     {"[null,null]"}},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":"
     "{\"type\":\"null\"},\"minItems\":1}",
     {"[1]", "[1,\"a\"]", "[1,\"a\",null,null]"},
     {"[]", "[\"a\"]", "[1,null]", "[1,\"a\",1]"}},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}],\"items\":"
     "false,\"minItems\":2}",
     {"[1,\"a\"]"},
     {"[1]", "[1,\"a\",null]", "[]"}},
    {"{\"type\":\"integer\",\"minimum\":0,\"maximum\":150}",
     {"0", "9", "10", "99", "100", "150"},
     {"-1", "151", "1000", "007", "-0"}},
    {"{\"type\":\"integer\",\"minimum\":-15,\"exclusiveMaximum\":120}",
     {"-15", "-9", "-1", "0", "119", "100"},
     {"-16", "120", "-20", "200", "-100"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":5}", {"6", "10", "9999"}, {"5", "0", "-6"}},
    {"{\"type\":\"integer\",\"maximum\":-7}", {"-7", "-8", "-100"}, {"-6", "0", "7"}},
    {"{\"type\":\"integer\",\"minimum\":1.5,\"maximum\":2.5}", {"2"}, {"1", "3"}},
    {"{\"type\":\"integer\",\"minimum\":9223372036854775806}",
     {"9223372036854775806", "9223372036854775807"},
     {"9223372036854775808", "1"}},
    {"{\"type\":\"number\",\"minimum\":0,\"maximum\":1}",
     {"0", "1", "0.5", "0.0"},
     {"1.5", "-0.1", "2", "1.0", "1e0"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":10}",
     {"0.01", "5", "9.99", "1.0"},
     {"0", "0.0", "10", "-1", "10.0"}},
    {"{\"type\":\"number\",\"minimum\":-3,\"maximum\":0}",
     {"-3", "-2.5", "0", "-0.5", "-1"},
     {"-3.5", "1", "0.5", "-4"}},
    {"{\"type\":\"string\",\"pattern\":\"^[A-Z]{2}-\\\\d+$\"}",
     {"\"AB-1\"", "\"XY-123\""},
     {"\"ab-1\"", "\"AB-\"", "\"AB-1x\"", "\"xAB-1\""}},
    {"{\"type\":\"string\",\"pattern\":\"b+|^x\"}",
     {"\"abc\"", "\"b\"", "\"xyz\"", "\"\\nb\""},
     {"\"ac\"", "\"\"", "\"yx\""}},
    {"{\"type\":\"string\",\"pattern\":\"^(a|\\\"|\\\\\\\\|\\\\n|[^a-z])*$\"}",
     {"\"a\\\"\"", "\"\\\\\"", "\"\\n\"", "\"A\\u0001\"", "\"\""},
     {"\"b\"", "\"\"\"", "\"\\\""}},
    {"{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-02-28\"", "\"1999-12-31\""},
     {"\"2024-13-01\"", "\"2024-02-30\"", "\"2024-04-31\"", "\"24-01-01\""}},
    {"{\"type\":\"string\",\"format\":\"uuid\"}",
     {"\"123e4567-e89b-12d3-a456-426614174000\""},
     {"\"123e4567\"", "\"123e4567-e89b-12d3-a456-42661417400g\""}},
    {"{\"type\":\"string\",\"format\":\"date-time\"}",
     {"\"2024-01-01T00:00:00Z\"", "\"2024-01-01T23:59:59.5+02:00\""},
     {"\"2024-01-01\"", "\"2024-01-01T24:00:00Z\""}},
    {"{\"type\":\"string\",\"format\":\"email\"}",
     {"\"a.b@example.com\""},
     {"\"a@b\"", "\"@example.com\""}},
    {"{\"type\":\"string\",\"format\":\"ipv4\"}",
     {"\"127.0.0.1\"", "\"255.255.255.255\""},
     {"\"256.0.0.1\"", "\"1.2.3\""}},
    {"{\"type\":\"string\",\"format\":\"uri\"}",
     {"\"https://example.com/a?b=c#d\""},
     {"\"example\"", "\"http://\""}},
    {"{\"type\":\"string\",\"format\":\"time\"}", {"\"12:30:00Z\""}, {"\"12:60:00Z\""}},
    {"{\"type\":\"string\",\"format\":\"ipv6\"}", {"\"1:2:3:4:5:6:7:8\""}, {"\"::g\""}},
    {"{\"type\":\"string\",\"format\":\"duration\"}", {"\"P1D\"", "\"PT5M\""}, {"\"P\"", "\"5M\""}},
    {"{\"type\":\"string\",\"format\":\"hostname\"}", {"\"a.example\""}, {"\"-a\"", "\"\""}},
    {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"object\",\"properties\":{\"k\":{\"const\":"
     "\"v\"}},\"required\":[\"k\"]}]}",
     {"5", "{\"k\":\"v\"}"},
     {"\"5\"", "{\"k\":\"w\"}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"],"
     "\"oneOf\":[{\"properties\":{\"b\":{\"type\":\"null\"}},"
     "\"required\":[\"b\"]},{\"properties\":{\"c\":{\"type\":\"null\"}},\"required\":[\"c\"]}]}",
     {"{\"a\":1,\"b\":null}", "{\"a\":1,\"c\":null}"},
     {"{\"a\":1}", "{\"b\":null}", "{\"a\":1,\"b\":null,\"c\":null}"}},
    {"{\"allOf\":[{\"$ref\":\"#/$defs/"
     "base\"},{\"properties\":{\"y\":{\"type\":\"integer\",\"minimum\":3}},\"required\":[\"y\"]}],"
     "\"$defs\":{\"base\":{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"integer\"},\"y\":{"
     "\"type\":\"number\",\"maximum\":5}},\"required\":[\"x\"]}}}",
     {"{\"x\":1,\"y\":4}"},
     {"{\"x\":1}", "{\"y\":4}", "{\"x\":1,\"y\":6}", "{\"x\":1,\"y\":2}", "{\"x\":1,\"y\":3.5}"}},
    {"{\"$ref\":\"#/$defs/"
     "node\",\"$defs\":{\"node\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
     "\"next\":{\"anyOf\":"
     "[{\"$ref\":\"#/$defs/node\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}}}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
    {"{\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"kids\":{\"type\":\"array\","
     "\"items\":{\"allOf\":[{\"$ref\":\"#/$defs/n\"}]}}},\"required\":[\"kids\"]}},"
     "\"allOf\":[{\"$ref\":\"#/$defs/n\"}]}",
     {"{\"kids\":[]}", "{\"kids\":[{\"kids\":[]},{\"kids\":[]}]}"},
     {"{}", "{\"kids\":[{}]}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\\\"b\":{\"type\":\"null\"},\"ü\":{\"type\":\"null\"}"
     "},\"required\":[\"a\\\"b\",\"ü\"]}",
     {"{\"a\\\"b\":null,\"ü\":null}"},
     {"{\"ab\":null,\"ü\":null}"}},
};

TEST(documents)
{
    an_vocab *v = tiny_vocab();
    REQUIRE(v != NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *schema = json_loads(cases[i].schema, JSON_DECODE_ANY, NULL);
        an_grammar *g;
        an_error e = {0};
        CHECK_MSG(schema != NULL, "%s", cases[i].schema);
        an_status s = an_grammar_schema(schema, NULL, &g, &e);
        CHECK_MSG(s == AN_OK, "%s: %s", e.message, cases[i].schema);
        doc_root = schema;
        for (int k = 0; k < 7 && s == AN_OK; k++) {
            const char *yes = k < 6 ? cases[i].yes[k] : NULL, *no = cases[i].no[k];
            if (yes) {
                json_t *doc = json_loads(yes, JSON_DECODE_ANY, NULL);
                CHECK_MSG(doc && valid(schema, doc), "the validator refuses %s of %s", yes,
                          cases[i].schema);
                CHECK_MSG(accepts(g, v, yes), "%s refuses %s", cases[i].schema, yes);
                json_decref(doc);
            }
            if (no) CHECK_MSG(!accepts(g, v, no), "%s accepts %s", cases[i].schema, no);
        }
        an_grammar_unref(g);
        json_decref(schema);
    }
    an_vocab_free(v);
}

TEST(random_walks)
{
    an_vocab *v = tiny_vocab();
    REQUIRE(v != NULL);
    rng = 20240726;
    for (size_t i = 0; i <= sizeof cases / sizeof *cases; i++) {
        bool any_object = i == sizeof cases / sizeof *cases;
        json_t *schema = any_object ? NULL : json_loads(cases[i].schema, JSON_DECODE_ANY, NULL);
        json_t *object = json_pack("{s:s}", "type", "object");
        an_grammar *g;
        an_error e = {0};
        REQUIRE(an_grammar_schema(schema, NULL, &g, &e) == AN_OK);
        doc_root = schema ? schema : object;
        for (int walk = 0; walk < 40; walk++) {
            an_buf text;
            json_error_t why;
            an_buf_init(&text, 1 << 20);
            bool ended = random_walk(g, v, &text);
            CHECK_MSG(ended, "no end: %s: %.200s", any_object ? "any" : cases[i].schema,
                      text.data ? text.data : "");
            json_t *doc = json_loads(text.data ? text.data : "", JSON_DECODE_ANY, &why);
            if (ended) CHECK_MSG(doc != NULL, "%s: %s", why.text, text.data);
            if (doc)
                CHECK_MSG(valid(doc_root, doc), "%s allowed %s",
                          any_object ? "any" : cases[i].schema, text.data);
            json_decref(doc);
            an_buf_free(&text);
        }
        an_grammar_unref(g);
        json_decref(schema);
        json_decref(object);
    }
    an_vocab_free(v);
}

/* ---------------------------------------------------------------- refused */

static void refused(const char *text, an_status status, const char *word)
{
    json_t *schema = json_loads(text, JSON_DECODE_ANY, NULL);
    an_grammar *g;
    an_error e = {0};
    double before = an_now_s();
    an_status s = an_grammar_schema(schema, NULL, &g, &e);
    CHECK_MSG(schema && s == status && !g, "%s: %s (%.200s)", an_status_name(s), e.message, text);
    CHECK_MSG(strstr(e.message, word) != NULL, "'%s' is not in '%s'", word, e.message);
    CHECK(an_now_s() - before < 10);
    an_grammar_unref(g);
    json_decref(schema);
}

TEST(refusals)
{
    static const char *const cases_no[][2] = {
        {"false", "false"},
        {"5", "object or true"},
        {"{\"type\":\"strnig\"}", "strnig"},
        {"{\"type\":5}", "type"},
        {"{\"not\":{}}", "'not'"},
        {"{\"if\":{},\"then\":{}}", "cannot be enforced"},
        {"{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems"},
        {"{\"type\":\"array\",\"contains\":{}}", "contains"},
        {"{\"patternProperties\":{}}", "patternProperties"},
        {"{\"type\":\"integer\",\"multipleOf\":3}", "multipleOf"},
        {"{\"type\":\"number\",\"minimum\":0.5}", "minimum"},
        {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "no number"},
        {"{\"properties\":{\"a\":{\"items\":{\"wat\":1}}}}",
         "#/properties/a/items: unknown keyword 'wat'"},
        {"{\"anyOf\":[{},{\"type\":\"string\",\"format\":\"nonsense\"}]}", "#/anyOf/1"},
        {"{\"type\":\"string\",\"minLength\":5,\"maxLength\":4}", "maxLength"},
        {"{\"type\":\"string\",\"minLength\":-1}", "minLength"},
        {"{\"type\":\"string\",\"minLength\":2,\"pattern\":\"a\"}", "only one"},
        {"{\"type\":\"array\",\"minItems\":5,\"maxItems\":4}", "items"},
        {"{\"type\":\"object\",\"minProperties\":3}", "minProperties"},
        {"{\"enum\":[]}", "no value"},
        {"{\"type\":\"integer\",\"enum\":[\"a\"]}", "no value"},
        {"{\"$ref\":\"#/$defs/none\"}", "points to nothing"},
        {"{\"$ref\":\"http://x/y\"}", "same schema"},
        {"{\"$ref\":\"#\"}", "never end"},
        {"{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}", "left recursion"},
        {"{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/"
         "$defs/a\"}}}",
         "never end"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}",
         "never end"},
        {"{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}",
         "'a' is required"},
        {"{\"allOf\":[{\"pattern\":\"a\"},{\"pattern\":\"b\"}]}", "pattern"},
        {"{\"allOf\":[{\"properties\":{\"a\":{}},\"additionalProperties\":false},{\"properties\":{"
         "\"b\":{}}}]}",
         "additionalProperties"},
        {"{\"type\":\"string\",\"nullable\":true}", "nullable"},
        {"{\"type\":\"string\",\"pattern\":\"(?=a)b\"}", "look-ahead"},
        {"{\"type\":\"string\",\"pattern\":\"a\\\\1\"}", "back references"},
        {"{\"type\":\"string\",\"pattern\":\"a\\\\bc\"}", "cannot be enforced"},
        {"{\"type\":\"string\",\"pattern\":\"a(^b)\"}", "ends only"},
        {"{\"type\":\"string\",\"pattern\":\"a(b\"}", "')'"},
        {"{\"type\":\"string\",\"pattern\":\"a)b\"}", "too many"},
        {"{\"type\":\"string\",\"pattern\":\"[b-a]\"}", "high to low"},
        {"{\"type\":\"string\",\"pattern\":\"*\"}", "nothing to repeat"},
        {"{\"minLength\":1,\"minimum\":2}", "needs a type"},
    };
    for (size_t i = 0; i < sizeof cases_no / sizeof *cases_no; i++)
        refused(cases_no[i][0], AN_INVALID, cases_no[i][1]);
    refused("{\"type\":\"string\",\"maxLength\":5000}", AN_TOO_LARGE, "2000");
    refused("{\"type\":\"array\",\"minItems\":5000}", AN_TOO_LARGE, "2000");
    refused("{\"type\":\"string\",\"pattern\":\"a{5000}\"}", AN_TOO_LARGE, "2000");
}

/* {"P": {"P": ... }} n deep around `inner`. */
static char *deep(const char *open, const char *inner, const char *close, int n)
{
    an_buf b;
    an_buf_init(&b, (size_t)16 << 20);
    for (int i = 0; i < n; i++) an_buf_str(&b, open);
    an_buf_str(&b, inner);
    for (int i = 0; i < n; i++) an_buf_str(&b, close);
    return an_buf_take(&b);
}

TEST(hostile)
{
    an_buf b;
    char *s = deep("{\"type\":\"array\",\"items\":", "{}", "}", 500);
    refused(s, AN_TOO_LARGE, "deep");
    free(s);
    s = deep("{\"allOf\":[", "{}", "]}", 500);
    refused(s, AN_TOO_LARGE, "");
    free(s);
    /* Each level joins the one below with itself. */
    an_buf_init(&b, 1 << 20);
    an_buf_str(&b, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{");
    for (int i = 0; i < 60; i++)
        an_buf_printf(
            &b, "\"d%d\":{\"allOf\":[{\"$ref\":\"#/$defs/d%d\"},{\"$ref\":\"#/$defs/d%d\"}]},", i,
            i + 1, i + 1);
    an_buf_str(&b, "\"d60\":{\"type\":\"object\"}}}");
    refused(b.data, AN_TOO_LARGE, "join");
    an_buf_free(&b);
    /* A loop of joins. */
    refused("{\"allOf\":[{\"$ref\":\"#\"},{\"type\":\"object\"}]}", AN_TOO_LARGE, "");
    refused("{\"$ref\":\"#\",\"type\":\"object\"}", AN_TOO_LARGE, "");
    /* Many members, many constants: large, but fine. */
    an_buf_init(&b, 1 << 20);
    an_buf_str(&b, "{\"type\":\"object\",\"properties\":{");
    for (int i = 0; i < 1500; i++)
        an_buf_printf(&b, "%s\"member%d\":{\"type\":\"integer\"}", i ? "," : "", i);
    an_buf_str(&b, "},\"additionalProperties\":true}");
    json_t *schema = json_loads(b.data, 0, NULL);
    an_grammar *g;
    an_error e = {0};
    double before = an_now_s();
    an_status status = an_grammar_schema(schema, NULL, &g, &e);
    CHECK_MSG(status == AN_OK || status == AN_TOO_LARGE, "%s", e.message);
    CHECK(an_now_s() - before < 5);
    an_grammar_unref(g);
    json_decref(schema);
    an_buf_free(&b);
    json_t *list = json_array();
    for (int i = 0; i < 9000; i++)
        json_array_append_new(list, json_sprintf("constant number %d", i));
    schema = json_pack("{s:o}", "enum", list);
    before = an_now_s();
    CHECK_MSG(an_grammar_schema(schema, NULL, &g, &e) == AN_OK, "%s", e.message);
    CHECK(an_now_s() - before < 5);
    an_vocab *v = tiny_vocab();
    CHECK(accepts(g, v, "\"constant number 8765\"") && !accepts(g, v, "\"constant number 9000\""));
    an_grammar_unref(g);
    an_vocab_free(v);
    json_decref(schema);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
