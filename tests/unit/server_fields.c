/* Reading requests: types and ranges of every reader, the fields of POST /v1/images/generations,
 * /v1/jobs, /sdapi and /v1/latents, and what their errors say. */
#include "api/image_ask.h"
#include "test.h"

static json_t *json(const char *text)
{
    json_t *j = json_loads(text, JSON_DECODE_ANY, NULL);
    if (!j) printf("  bad JSON in the test: %s\n", text);
    return j;
}

static void limits_of(an_engine_options *o)
{
    an_engine_options_default(o);
}

/* ---------------------------------------------------------------- readers */

TEST(integers)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t value; /* -99 = left alone */
    } cases[] = {
        {"{\"n\":3}", true, 3},
        {"{\"n\":3.0}", true, 3},
        {"{}", true, -99},
        {"{\"n\":null}", true, -99},
        {"{\"n\":1}", true, 1},
        {"{\"n\":10}", true, 10},
        {"{\"n\":0}", false, 0},
        {"{\"n\":11}", false, 0},
        {"{\"n\":3.5}", false, 0},
        {"{\"n\":\"3\"}", false, 0},
        {"{\"n\":true}", false, 0},
        {"{\"n\":[3]}", false, 0},
        {"{\"n\":1e300}", false, 0},
        {"{\"n\":-1e300}", false, 0},
        {"{\"n\":{}}", false, 0},
        {"{\"n\":-0.0}", false, 0},
        {"{\"n\":4294967297}", false, 0},
        {"{\"n\":9223372036854775807}", false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fields f;
        json_t *j = json(cases[i].text);
        int n = -99;
        fields_init(&f, j);
        field_int32(&f, "n", 1, 10, &n);
        CHECK_MSG(fields_ok(&f) == cases[i].ok, "%s", cases[i].text);
        CHECK_MSG(n == (cases[i].ok ? cases[i].value : -99), "%s gave %d", cases[i].text, n);
        if (!cases[i].ok) {
            CHECK_STR(f.err.param, "n");
            CHECK(f.err.status == AN_INVALID && strstr(f.err.message, "1 to 10"));
        }
        json_decref(j);
    }
}

TEST(numbers_strings_booleans)
{
    static const struct {
        const char *text;
        bool number, string, boolean;
    } cases[] = {
        {"{\"x\":0}", true, false, false},      {"{\"x\":100}", true, false, false},
        {"{\"x\":99.9}", true, false, false},   {"{\"x\":-0.1}", false, false, false},
        {"{\"x\":100.1}", false, false, false}, {"{\"x\":\"owl\"}", false, true, false},
        {"{\"x\":\"\"}", false, true, false},   {"{\"x\":\"123456789\"}", false, false, false},
        {"{\"x\":true}", false, false, true},   {"{\"x\":false}", false, false, true},
        {"{\"x\":null}", true, true, true},     {"{\"x\":{}}", false, false, false},
        {"{\"x\":[]}", false, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fields f[3];
        json_t *j = json(cases[i].text);
        double number = 1;
        const char *string = NULL;
        bool boolean = false;
        for (int k = 0; k < 3; k++) fields_init(&f[k], j);
        field_number(&f[0], "x", 0, 100, &number);
        field_string(&f[1], "x", 8, &string);
        field_bool(&f[2], "x", &boolean);
        CHECK_MSG(fields_ok(&f[0]) == cases[i].number, "%s: number", cases[i].text);
        CHECK_MSG(fields_ok(&f[1]) == cases[i].string, "%s: string", cases[i].text);
        CHECK_MSG(fields_ok(&f[2]) == cases[i].boolean, "%s: boolean", cases[i].text);
        json_decref(j);
    }
}

TEST(choices_and_first_fault)
{
    static const char *const choices[] = {"png", "jpeg", NULL};
    fields f;
    json_t *j = json("{\"a\":\"jpeg\",\"b\":\"gif\",\"c\":5}");
    int a = 0, b = 7, c = 0;
    fields_init(&f, j);
    field_choice(&f, "a", choices, &a);
    CHECK(a == 1 && fields_ok(&f));
    field_choice(&f, "b", choices, &b);
    CHECK(b == 7 && strstr(f.err.message, "png, jpeg"));
    field_int32(&f, "c", 0, 1, &c); /* the first fault is kept */
    CHECK_STR(f.err.param, "b");
    json_decref(j);
}

TEST(unknown_fields_are_named)
{
    /* the long name is cut, but not inside its last character */
    static char text[256] = "{\"a\":1,\"odd\":2,\"";
    for (int i = 0; i < 40; i++) strcat(text, "\xc3\xa9");
    strcat(text, "x\":3}");
    fields f;
    json_t *j = json(text), *warnings = json_array();
    int a = 0;
    fields_init(&f, j);
    field_int32(&f, "a", 0, 1, &a);
    fields_unknown(&f, warnings);
    REQUIRE(json_array_size(warnings) == 2);
    bool odd = false, cut = false;
    for (size_t i = 0; i < 2; i++) {
        const char *w = json_string_value(json_array_get(warnings, i));
        odd = odd || strcmp(w, "unknown field 'odd' was ignored") == 0;
        cut = cut || (strstr(w, "\xc3\xa9' was ignored") && strlen(w) < 100);
    }
    CHECK(odd && cut);
    json_decref(j);
    json_decref(warnings);
}

/* ---------------------------------------------------------------- dialects */

TEST(image_defaults)
{
    image_ask ask;
    an_error err = {0};
    an_engine_options limits;
    limits_of(&limits);
    REQUIRE(image_ask_parse(json("{\"prompt\":\"owl\"}"), &limits, false, &ask, &err) == AN_OK);
    const an_image_request *q = &ask.request;
    CHECK_STR(q->prompt, "owl");
    CHECK(!q->negative_prompt && !q->model && !q->sampler && !q->schedule);
    CHECK(q->width == 0 && q->height == 0 && q->steps == 0 && isnan(q->guidance_scale));
    CHECK(q->seed < 0 && q->rng == AN_RNG_GPU && !q->a1111_prompt && !ask.stream);
    CHECK(ask.output.format == AN_PNG && !ask.output.url && ask.output.compression == 100);
    CHECK(json_array_size(ask.warnings) == 0);
    image_ask_clear(&ask);
}

TEST(image_all_fields)
{
    image_ask ask;
    an_error err = {0};
    an_engine_options limits;
    limits_of(&limits);
    json_t *j = json("{\"kind\":\"image\",\"prompt\":\"owl\",\"negative_prompt\":\"\",\"n\":2,"
                     "\"size\":\"64x48\",\"num_inference_steps\":7,\"cfg_scale\":3,"
                     "\"guidance_rescale\":0.5,\"sampler\":\"euler\",\"schedule\":\"karras\","
                     "\"timestep_spacing\":\"leading\",\"seed\":5,\"rng\":\"cpu\","
                     "\"output_format\":\"webp\",\"response_format\":\"url\","
                     "\"output_compression\":40,\"stream\":true,\"partial_images\":2,"
                     "\"clip_skip\":2,\"priority\":-3,\"deadline_ms\":1500,\"model\":\"m\","
                     "\"user\":\"u\",\"quality\":\"hd\"}");
    REQUIRE(image_ask_parse(j, &limits, true, &ask, &err) == AN_OK);
    const an_image_request *q = &ask.request;
    CHECK(q->n == 2 && q->width == 64 && q->height == 48 && q->steps == 7 && q->seed == 5);
    CHECK_NEAR(q->guidance_scale, 3, 0);
    CHECK_NEAR(q->guidance_rescale, 0.5, 0);
    CHECK_NEAR(q->deadline_s, 1.5, 1e-12);
    CHECK_STR(q->negative_prompt, "");
    CHECK_STR(q->timestep_spacing, "leading");
    CHECK(q->rng == AN_RNG_CPU && q->previews == 2 && q->clip_skip == 2 && q->priority == -3);
    CHECK(ask.stream && ask.output.url && ask.output.format == AN_WEBP);
    CHECK(ask.output.compression == 40 && json_array_size(ask.warnings) == 1);
    image_ask_clear(&ask);
}

TEST(image_faults)
{
    static const struct {
        const char *text, *param;
    } cases[] = {
        {"{}", "kind"},
        {"{\"kind\":\"text\",\"prompt\":\"a\"}", "kind"},
        {"{\"kind\":5,\"prompt\":\"a\"}", "kind"},
        {"{\"kind\":\"image\"}", "prompt"},
        {"{\"kind\":\"image\",\"prompt\":null}", "prompt"},
        {"{\"kind\":\"image\",\"prompt\":\"a\",\"size\":\" 8x8\"}", "size"},
        {"{\"kind\":\"image\",\"prompt\":\"a\",\"size\":\"+8x8\"}", "size"},
        {"{\"kind\":\"image\",\"prompt\":\"a\",\"size\":\"8x 8\"}", "size"},
        {"{\"kind\":\"image\",\"prompt\":\"a\",\"size\":\"8x8x\"}", "size"},
        {"{\"kind\":\"image\",\"prompt\":\"a\",\"size\":\"9999999999x8\"}", "size"},
        {"{\"kind\":\"image\",\"prompt\":\"a\",\"size\":\"\"}", "size"},
        {"{\"kind\":\"image\",\"prompt\":\"a\",\"steps\":151}", "steps"},
        {"{\"kind\":\"image\",\"prompt\":\"a\",\"seed\":-2}", "seed"},
        {"{\"kind\":\"image\",\"prompt\":\"a\",\"deadline_ms\":0}", "deadline_ms"},
    };
    an_engine_options limits;
    limits_of(&limits);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        image_ask ask;
        an_error err = {0};
        CHECK_MSG(image_ask_parse(json(cases[i].text), &limits, true, &ask, &err) == AN_INVALID,
                  "%s", cases[i].text);
        CHECK_STR(err.param, cases[i].param);
        image_ask_clear(&ask);
    }
}

TEST(a1111_words)
{
    fields f;
    an_image_request q;
    bool send = true;
    an_engine_options limits;
    limits_of(&limits);
    json_t *j = json("{\"sampler_index\":\"Euler\",\"scheduler\":\"Automatic\",\"batch_size\":2,"
                     "\"n_iter\":3,\"send_images\":false,\"override_settings\":"
                     "{\"sd_model_checkpoint\":\"m\",\"CLIP_stop_at_last_layers\":2,\"x\":1}}");
    an_image_request_default(&q);
    fields_init(&f, j);
    a1111_read(&f, &limits, &q, &send);
    CHECK(fields_ok(&f) && q.n == 6 && !send && q.clip_skip == 2 && q.a1111_prompt);
    CHECK_STR(q.sampler, "Euler");
    CHECK_STR(q.model, "m");
    CHECK_STR(q.prompt, "");
    CHECK(!q.schedule);
    json_decref(j);
    j = json("{\"batch_size\":5,\"n_iter\":5}");
    an_image_request_default(&q);
    fields_init(&f, j);
    a1111_read(&f, &limits, &q, &send);
    CHECK(!fields_ok(&f));
    CHECK_STR(f.err.param, "batch_size");
    json_decref(j);
}

TEST(latents_fields)
{
    static const struct {
        const char *text, *param;
        an_status status;
    } cases[] = {
        {"{\"latents\":{\"shape\":[1,1,2],\"data\":\"AACAPwAAAMA=\"}}", "", AN_OK},
        {"{\"op\":\"decode\",\"latents\":{\"shape\":[1,1,2],\"data\":\"AACAPwAAAMA=\"}}", "",
         AN_OK},
        {"{}", "image", AN_INVALID},
        {"{\"image\":\"aGVsbG8=\"}", "image", AN_INVALID},
        {"{\"op\":\"encode\",\"latents\":{\"shape\":[1,1,2],\"data\":\"AACAPwAAAMA=\"}}", "op",
         AN_INVALID},
        {"{\"latents\":{\"shape\":[1,1,2,1],\"data\":\"AACAPwAAAMA=\"}}", "latents", AN_INVALID},
        {"{\"latents\":{\"shape\":[65536,65536,65536],\"data\":\"AACAPwAAAMA=\"}}", "latents",
         AN_INVALID},
        {"{\"latents\":{\"shape\":[1,-1,2],\"data\":\"AACAPwAAAMA=\"}}", "latents", AN_INVALID},
        {"{\"latents\":{\"shape\":[1,1,1],\"data\":\"AADAfw==\"}}", "latents",
         AN_INVALID}, /* NaN */
        {"{\"latents\":{\"shape\":[1,1,1],\"data\":\"AACAfw==\"}}", "latents",
         AN_INVALID}, /* inf */
        {"{\"latents\":{\"shape\":[1,1,1],\"dtype\":\"float16\",\"data\":\"AACAPw==\"}}", "latents",
         AN_INVALID},
        {"{\"latents\":[]}", "latents", AN_INVALID},
    };
    an_engine_options limits;
    limits_of(&limits);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        latents_ask ask;
        an_error err = {0};
        json_t *j = json(cases[i].text);
        CHECK_MSG(latents_ask_parse(j, &limits, &ask, &err) == cases[i].status, "%s: %s",
                  cases[i].text, err.message);
        CHECK_STR(err.param, cases[i].param);
        if (cases[i].status == AN_OK) {
            CHECK(ask.request.decode && ask.request.latent_w == 2);
            CHECK_NEAR(ask.request.latent[0], 1, 0);
            CHECK_NEAR(ask.request.latent[1], -2, 0);
        }
        latents_ask_clear(&ask);
        json_decref(j);
    }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
