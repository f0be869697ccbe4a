/* The same picture as diffusers: every golden picture through the whole engine, f32 on the CPU with
 * torch's CPU noise, within 1/255 a pixel and 0.1/255 in the mean; bf16 to a signal-to-noise ratio.
 */
#include "engine_help.h"
#include "test.h"

#include <jansson.h>

typedef struct golden {
    json_t *runs;
    an_weights *pictures;
} golden;

static bool open_golden(const char *name, golden *g)
{
    char path[1024];
    an_error err = {0};
    snprintf(path, sizeof path, "%s/%s/images.json", AN_GOLDEN, name);
    g->runs = json_load_file(path, 0, NULL);
    snprintf(path, sizeof path, "%s/%s/images.safetensors", AN_GOLDEN, name);
    if (an_weights_open(path, &g->pictures, &err)) printf("  %s\n", err.message);
    return g->runs && g->pictures;
}

static void close_golden(golden *g)
{
    json_decref(g->runs);
    an_weights_close(g->pictures);
}

static int integer(const json_t *run, const char *key)
{
    return (int)json_integer_value(json_object_get(run, key));
}

static const char *string(const json_t *run, const char *key)
{
    return json_string_value(json_object_get(run, key));
}

static an_job *submit(an_engine *e, const char *model, const json_t *run)
{
    an_image_request r;
    an_image_request_default(&r);
    r.model = model;
    r.prompt = string(run, "prompt");
    r.negative_prompt = string(run, "negative_prompt");
    r.width = integer(run, "width");
    r.height = integer(run, "height");
    r.steps = integer(run, "num_inference_steps");
    r.seed = integer(run, "seed");
    r.guidance_scale = json_number_value(json_object_get(run, "guidance_scale"));
    r.guidance_rescale = json_number_value(json_object_get(run, "guidance_rescale"));
    r.sampler = string(run, "sampler");
    r.solver_overrides = json_object_get(run, "config");
    r.rng = AN_RNG_CPU;
    an_job *j = NULL;
    an_error err = {0};
    an_status s = an_engine_submit(e, &r, &j, &err);
    CHECK_MSG(s == AN_OK, "%s: %s", model, err.message);
    return j;
}

typedef struct difference {
    int worst;
    double mean, psnr;
} difference;

static difference compare(const uint8_t *a, const uint8_t *b, size_t n)
{
    difference d = {0};
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        int v = abs(a[i] - b[i]);
        if (v > d.worst) d.worst = v;
        sum += v;
        square += (double)v * v;
    }
    d.mean = sum / (double)n;
    d.psnr = square > 0 ? 10 * log10(255.0 * 255.0 * (double)n / square) : 99;
    return d;
}

/* All pictures of a model at once: whoever shares a tick must not matter. */
static void check_model(an_engine *e, const char *name, bool exact)
{
    golden g = {0};
    REQUIRE(open_golden(name, &g));
    size_t n = json_array_size(g.runs);
    an_job *job[64] = {0};
    for (size_t i = 0; i < n && i < 64; i++) job[i] = submit(e, name, json_array_get(g.runs, i));
    for (size_t i = 0; i < n && i < 64; i++) {
        if (!job[i]) continue;
        an_job_info info = help_wait(job[i]);
        CHECK_MSG(info.state == AN_JOB_DONE, "%s %zu: %s", name, i, info.error.message);
        an_result result = {0};
        an_tensor want;
        char key[32];
        snprintf(key, sizeof key, "image%zu", i);
        bool have = an_job_result(job[i], 0, &result) && an_weights_find(g.pictures, key, &want);
        CHECK(have);
        if (have) {
            CHECK(want.dim[0] == result.height && want.dim[1] == result.width);
            difference d = compare(result.pixels, want.data, an_tensor_bytes(&want));
            printf("  %s %zu: worst %d, mean %.4f, PSNR %.1f dB\n", name, i, d.worst, d.mean,
                   d.psnr);
            if (exact)
                CHECK_MSG(d.worst <= 1 && d.mean < 0.1, "%s %zu: worst %d, mean %.4f", name, i,
                          d.worst, d.mean);
            else
                CHECK_MSG(d.psnr >= 38, "%s %zu: PSNR %.1f dB", name, i, d.psnr);
        }
        an_job_unref(job[i]);
    }
    close_golden(&g);
}

static void check_all(const char *dtype, const char *const *models, bool exact)
{
    char dir[512];
    REQUIRE(help_link_models(dir, sizeof dir, true));
    an_engine *e = help_engine(dir, dtype, NULL);
    if (e) {
        for (; *models; models++) check_model(e, *models, exact);
        an_engine_free(e);
    }
    CHECK(e != NULL);
    help_unlink_models(dir);
}

TEST(f32_is_diffusers)
{
    const char *const models[] = {"sd1", "sd2", "sdxl", "lcm", "emoji", NULL};
    check_all("f32", models, true);
}

TEST(bf16_is_close)
{
    const char *const models[] = {"emoji", NULL};
    check_all("bf16", models, false);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
