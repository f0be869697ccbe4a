/* engine_samplers.c: the table of names, what a request may ask of which class, and what a broken
 * scheduler_config.json is told. */
#include "test.h"

#include <jansson.h>

#include "anneal/solver.h"

/* Resolves and returns the overrides as sorted compact JSON in a static buffer; on failure the
 * status' name. */
static const char *resolved(const char *name, const char *schedule, an_error *err)
{
    static char text[512];
    json_t *o = NULL;
    an_status st = an_sampler_resolve(name, schedule, &o, err);
    if (st != AN_OK) return an_status_name(st);
    char *dump = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
    snprintf(text, sizeof text, "%s", dump);
    free(dump);
    json_decref(o);
    return text;
}

#define FLAGS(b, e, k, l)                                                                          \
    "\"use_beta_sigmas\":" b ",\"use_exponential_sigmas\":" e ",\"use_karras_sigmas\":" k          \
    ",\"use_lu_lambdas\":" l "}"
#define DPMPP_2M                                                                                   \
    "{\"_class_name\":\"DPMSolverMultistepScheduler\",\"algorithm_type\":\"dpmsolver++\","         \
    "\"solver_order\":2"
#define KARRAS FLAGS("false", "false", "true", "false")

TEST(names_of_all_dialects)
{
    an_error err;
    CHECK_STR(resolved("DPM++ 2M", NULL, &err), DPMPP_2M "}");
    CHECK_STR(resolved("dpm++ 2m", NULL, &err), DPMPP_2M "}");
    CHECK_STR(resolved("dpmpp_2m", NULL, &err), DPMPP_2M "}");
    CHECK_STR(resolved("DPM++ 2M", "Automatic", &err), DPMPP_2M "}");
    CHECK_STR(resolved("DPM++ 2M Karras", NULL, &err), DPMPP_2M "," KARRAS);
    CHECK_STR(resolved("DPM++ 2M Karras", "automatic", &err), DPMPP_2M "," KARRAS);
    CHECK_STR(resolved("DPM++ 2M Karras", "Karras", &err), DPMPP_2M "," KARRAS);
    CHECK_STR(resolved("dpmpp_2m_karras", NULL, &err), DPMPP_2M "," KARRAS);
    CHECK_STR(resolved("dpmpp_2m", "karras", &err), DPMPP_2M "," KARRAS);
    CHECK_STR(resolved("DPM++ 2M", "Uniform", &err),
              DPMPP_2M "," FLAGS("false", "false", "false", "false"));
    CHECK_STR(resolved("Euler a", NULL, &err),
              "{\"_class_name\":\"EulerAncestralDiscreteScheduler\"}");
    CHECK_STR(resolved("uni_pc", NULL, &err), "{\"_class_name\":\"UniPCMultistepScheduler\"}");
    CHECK_STR(resolved("unipc", NULL, &err), "{\"_class_name\":\"UniPCMultistepScheduler\"}");
    CHECK_STR(resolved("plms", NULL, &err),
              "{\"_class_name\":\"PNDMScheduler\",\"skip_prk_steps\":true}");
    CHECK_STR(resolved("EulerDiscreteScheduler", NULL, &err),
              "{\"_class_name\":\"EulerDiscreteScheduler\"}");
    CHECK_STR(
        resolved("Euler", "SGM Uniform", &err),
        "{\"_class_name\":\"EulerDiscreteScheduler\",\"timestep_spacing\":\"trailing\"," FLAGS(
            "false", "false", "false", "false"));
    CHECK_STR(resolved(NULL, "exponential", &err),
              "{\"timestep_spacing\":\"linspace\"," FLAGS("false", "true", "false", "false"));
    CHECK_STR(resolved(NULL, NULL, &err), "{}");
}

/* Every name in the table resolves to its class, and every schedule is found by key and label. */
TEST(table_is_whole)
{
    int rows = 0;
    for (const an_sampler_name *n; (n = an_sampler_at(rows)) != NULL; rows++) {
        char want[80];
        snprintf(want, sizeof want, "\"_class_name\":\"%s\"", n->class_name);
        CHECK(strstr(resolved(n->label, NULL, NULL), want));
        CHECK(strstr(resolved(n->class_name, NULL, NULL), want));
        for (int i = 0; n->aliases[i]; i++)
            CHECK_MSG(strstr(resolved(n->aliases[i], NULL, NULL), want), "%s", n->aliases[i]);
    }
    CHECK(rows == 21 && an_sampler_at(-1) == NULL);
    const char *key, *label;
    for (int i = 0; (key = an_schedule_at(i, &label)) != NULL; i++) {
        CHECK_MSG(resolved(NULL, key, NULL)[0] == '{', "%s", key);
        CHECK_MSG(resolved(NULL, label, NULL)[0] == '{', "%s", label);
    }
}

TEST(names_nobody_can_mean)
{
    static const char *const unknown[] = {"",       "DPM fast",     "DPM adaptive", "eulers",
                                          "Euler ", "Karras",       "_karras",      "euler__karras",
                                          " ",      "Euler Nothing"};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        an_error err = {0};
        CHECK_MSG(strcmp(resolved(unknown[i], NULL, &err), "not_found") == 0, "'%s'", unknown[i]);
        CHECK_STR(err.param, "sampler");
        CHECK(strstr(err.message, "DPM++ 3M SDE (dpmpp_3m_sde)") && strstr(err.message, "LCM"));
    }
    an_error err = {0};
    CHECK_STR(resolved("Euler", "polynomial", &err), "not_found");
    CHECK_STR(err.param, "schedule");
    CHECK(strstr(err.message, "karras") && strstr(err.message, "sgm_uniform"));
}

TEST(schedules_a_class_has_not)
{
    an_error err = {0};
    CHECK_STR(resolved("DDIM", "karras", &err), "invalid");
    CHECK_STR(err.param, "schedule");
    CHECK(strstr(err.message, "EulerDiscreteScheduler") && !strstr(err.message, "PNDMScheduler"));
    CHECK_STR(resolved("Euler a Karras", NULL, &err), "invalid");
    CHECK_STR(resolved("Euler", "lu", &err), "invalid");
    CHECK(strstr(err.message, "DPMSolverMultistepScheduler"));
    CHECK_STR(resolved("LCM", "sgm_uniform", &err), "invalid");
    CHECK_STR(resolved("DPM++ 2M Karras", "exponential", &err), "invalid");
    CHECK(resolved("DDIM", "uniform", &err)[0] == '{');
}

/* ---------------------------------------------------------------- configurations */

/* an_solver_new over two JSON texts (NULL: none). */
static an_status make(const char *base, const char *overrides, int steps, an_solver **s,
                      an_error *err)
{
    json_t *b = NULL, *o = NULL;
    memset(err, 0, sizeof *err);
    *s = NULL;
    if (base && an_json_parse_lenient(base, strlen(base), &b, err) != AN_OK) abort();
    if (overrides && an_json_parse(overrides, strlen(overrides), &o, err) != AN_OK) abort();
    an_status st = an_solver_new(b, o, steps, s, err);
    json_decref(b);
    json_decref(o);
    return st;
}

TEST(settings_nobody_can_use)
{
    static const struct {
        const char *base, *overrides;
        int steps;
        const char *param;
    } bad[] = {
        {"{}", NULL, 5, "sampler"},
        {NULL, NULL, 5, "sampler"},
        {"[]", "[]", 5, "sampler"},
        {"{\"_class_name\":7}", NULL, 5, "sampler"},
        {"{\"_class_name\":\"SASolverScheduler\"}", NULL, 5, "sampler"},
        {"{\"_class_name\":\"DDIMScheduler\"}", NULL, 0, "steps"},
        {"{\"_class_name\":\"DDIMScheduler\"}", NULL, -1, "steps"},
        {"{\"_class_name\":\"DDIMScheduler\"}", NULL, 2147483647, "steps"},
        {"{\"_class_name\":\"DDIMScheduler\"}", NULL, 1001, "steps"},
        {"{\"_class_name\":\"DDIMScheduler\",\"steps_offset\":1}", NULL, 1000, "steps"},
        {"{\"_class_name\":\"LCMScheduler\"}", NULL, 51, "steps"},
        {"{\"_class_name\":\"PNDMScheduler\"}", NULL, 3, "steps"},
        {"{\"_class_name\":\"DDIMScheduler\"}", "{\"use_karras_sigmas\":true}", 5, "schedule"},
        {"{\"_class_name\":\"DPMSolverSinglestepScheduler\"}", "{\"timestep_spacing\":\"leading\"}",
         5, "timestep_spacing"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\"}", "{\"timestep_spacing\":\"odd\"}", 5,
         "timestep_spacing"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\"}", "{\"timestep_spacing\":4}", 5,
         "timestep_spacing"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"beta_schedule\":\"exp\"}", NULL, 5,
         "beta_schedule"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"beta_schedule\":\"square\"}", NULL, 5,
         "beta_schedule"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"beta_end\":Infinity}", NULL, 5, "beta_end"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"beta_start\":-0.1}", NULL, 5, "beta_start"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"num_train_timesteps\":1}", NULL, 5,
         "num_train_timesteps"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"num_train_timesteps\":1e9}", NULL, 5,
         "num_train_timesteps"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"num_train_timesteps\":99.5}", NULL, 5,
         "num_train_timesteps"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"trained_betas\":[0.1]}", NULL, 5,
         "trained_betas"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"num_train_timesteps\":2,"
         "\"trained_betas\":[0.1,\"x\"]}",
         NULL, 5, "trained_betas"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"use_karras_sigmas\":true,"
         "\"use_beta_sigmas\":true}",
         NULL, 5, "schedule"},
        {"{\"_class_name\":\"EulerAncestralDiscreteScheduler\",\"prediction_type\":\"sample\"}",
         NULL, 5, "prediction_type"},
        {"{\"_class_name\":\"DPMSolverMultistepScheduler\",\"solver_order\":4}", NULL, 5,
         "solver_order"},
        {"{\"_class_name\":\"DPMSolverMultistepScheduler\",\"algorithm_type\":\"dpmsolver\"}", NULL,
         5, "final_sigmas_type"},
        {"{\"_class_name\":\"DPMSolverMultistepScheduler\",\"algorithm_type\":\"sde-dpmsolver\","
         "\"final_sigmas_type\":\"sigma_min\",\"solver_order\":3}",
         NULL, 9, "steps"},
        {"{\"_class_name\":\"UniPCMultistepScheduler\",\"disable_corrector\":[-1]}", NULL, 5,
         "disable_corrector"},
        {"{\"_class_name\":\"UniPCMultistepScheduler\",\"solver_p\":{}}", NULL, 5, "solver_p"},
        {"{\"_class_name\":\"DDPMScheduler\",\"variance_type\":\"learned_range\"}", NULL, 5,
         "variance_type"},
        {"{\"_class_name\":\"DDIMScheduler\",\"rescale_betas_zero_snr\":true,"
         "\"timestep_spacing\":\"trailing\"}",
         NULL, 5, "steps"}, /* epsilon says nothing where there is no signal */
        {"{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\",\"use_dynamic_shifting\":true}",
         NULL, 5, "mu"},
        {"{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\"}",
         "{\"_class_name\":\"EulerDiscreteScheduler\"}", 5, "sampler"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\"}",
         "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\"}", 5, "sampler"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        an_solver *s;
        an_error err;
        an_status st = make(bad[i].base, bad[i].overrides, bad[i].steps, &s, &err);
        CHECK_MSG(st == AN_INVALID || st == AN_NOT_FOUND, "case %zu: %s", i, an_status_name(st));
        CHECK_STR(err.param, bad[i].param);
        CHECK(err.message[0] != '\0');
        an_solver_free(s);
    }
}

TEST(what_files_from_the_hub_hold)
{
    an_solver *s;
    an_error err;
    /* Keys of other classes, nulls and Python's infinities are no harm. */
    const char *file =
        "{\"_class_name\":\"DPMSolverMultistepScheduler\",\"_diffusers_version\":\"0.24.0\","
        "\"beta_end\":0.012,\"beta_schedule\":\"scaled_linear\",\"beta_start\":0.00085,"
        "\"lambda_min_clipped\":-Infinity,\"trained_betas\":null,\"variance_type\":null,"
        "\"skip_prk_steps\":true,\"clip_sample\":false,\"use_karras_sigmas\":null}";
    CHECK(make(file, NULL, 7, &s, &err) == AN_OK);
    REQUIRE(s);
    CHECK(an_solver_calls(s) == 7);
    CHECK_STR(an_solver_class(s), "DPMSolverMultistepScheduler");
    CHECK_STR(an_solver_prediction_type(s), "epsilon");
    an_solver_free(s);
    /* The request's settings win over the file's. */
    CHECK(make(file, "{\"prediction_type\":\"v_prediction\",\"timestep_spacing\":\"trailing\"}", 4,
               &s, &err) == AN_OK);
    REQUIRE(s);
    CHECK_STR(an_solver_prediction_type(s), "v_prediction");
    CHECK_NEAR(an_solver_timesteps(s)[0], 999, 0);
    an_solver_free(s);
    /* image_seq_len gives mu as FLUX's pipeline computes it: 0.5 at 256 tokens, 1.15 at 4096. */
    an_solver *by_size;
    const char *flux = "{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\","
                       "\"use_dynamic_shifting\":true,\"shift\":3.0}";
    CHECK(make(flux, "{\"mu\":1.15}", 4, &s, &err) == AN_OK);
    CHECK(make(flux, "{\"image_seq_len\":4096}", 4, &by_size, &err) == AN_OK);
    REQUIRE(s && by_size);
    for (int i = 0; i < 4; i++)
        CHECK_NEAR(an_solver_timesteps(s)[i], an_solver_timesteps(by_size)[i], 1e-9);
    an_solver_free(s);
    an_solver_free(by_size);
}

TEST(steps_out_of_range_are_empty)
{
    an_solver *s;
    an_error err;
    REQUIRE(make("{\"_class_name\":\"DDIMScheduler\"}", NULL, 3, &s, &err) == AN_OK);
    an_step step;
    an_solver_step(s, 3, &step);
    CHECK(step.in_scale == 0.0f && !step.noise && step.out[AN_TERM_X] == 0.0f);
    an_solver_step(s, -1, &step);
    CHECK(step.in_scale == 0.0f);
    int count;
    CHECK(an_solver_sigmas(s, &count) == NULL && count == 0);
    an_solver_free(s);
}

/* ---------------------------------------------------------------- for people */

TEST(schedule_as_json_reads_back)
{
    an_solver *s;
    an_error err;
    REQUIRE(make("{\"_class_name\":\"EulerDiscreteScheduler\"}", "{\"use_karras_sigmas\":true}", 9,
                 &s, &err) == AN_OK);
    an_buf b;
    an_buf_init(&b, 1 << 16);
    CHECK(an_schedule_json(s, &b) == AN_OK);
    json_t *o = NULL;
    REQUIRE(an_json_parse(b.data, b.len, &o, &err) == AN_OK);
    const json_t *t = json_object_get(o, "timesteps"), *v = json_object_get(o, "sigmas");
    int count;
    const double *sigmas = an_solver_sigmas(s, &count);
    REQUIRE(json_array_size(t) == 9 && json_array_size(v) == 10 && count == 10);
    for (size_t i = 0; i < 9; i++) {
        CHECK(json_number_value(json_array_get(t, i)) == an_solver_timesteps(s)[i]);
        CHECK(json_number_value(json_array_get(v, i)) == sigmas[i]);
    }
    json_decref(o);
    an_buf_free(&b);
    an_buf_init(&b, 20);
    CHECK(an_schedule_json(s, &b) == AN_NO_MEMORY);
    an_buf_free(&b);
    an_solver_free(s);
}

TEST(schedule_drawn)
{
    an_solver *s;
    an_error err;
    REQUIRE(make("{\"_class_name\":\"DDIMScheduler\",\"rescale_betas_zero_snr\":true,"
                 "\"timestep_spacing\":\"trailing\",\"prediction_type\":\"v_prediction\"}",
                 NULL, 20, &s, &err) == AN_OK);
    static const int sizes[][2] = {{80, 24}, {1, 1}, {-5, 100000}, {100000, 2}};
    for (size_t i = 0; i < 4; i++) {
        an_buf b;
        an_buf_init(&b, 1 << 20);
        CHECK(an_schedule_draw(s, sizes[i][0], sizes[i][1], &b) == AN_OK);
        CHECK(an_utf8_valid(b.data, b.len));
        int lines = 0;
        for (size_t k = 0; k < b.len; k++) lines += b.data[k] == '\n';
        if (i == 0) CHECK_MSG(lines == 24, "%d lines", lines);
        if (i == 0) CHECK(strstr(b.data, "timestep 999"));
        an_buf_free(&b);
    }
    an_solver_free(s);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
