/* Lanes on a GPU, on its emulation: pictures and text at once give the bytes they give alone, also
 * while models come and go; too little memory is a refusal that says how much; a lost device fails
 * every job, refuses new ones, and the engine stops as ever. */
#include "test.h"
#include "text_help.h"

#include "kernels/simt/include/cuda_runtime_api.h"

static char models[512];

static void on_simt(an_engine_options *o)
{
    o->device.device = "simt";
    o->max_batch = 2;
    o->max_sequences = 4;
    o->max_context = 128;
    o->tick_tokens = 32;
    o->kv_bytes = (size_t)1 << 20;
}

static an_image_request picture_request(int steps)
{
    an_image_request r;
    an_image_request_default(&r);
    r.model = "sd1";
    r.prompt = "owl";
    r.width = r.height = 16;
    r.steps = steps;
    r.seed = 7;
    r.client = "painter";
    return r;
}

static const int32_t prompt_ids[] = {1, 40, 77, 300, 12, 9, 411, 260, 33, 5};

static an_text_request text_request(int tokens)
{
    an_text_request r;
    an_text_request_default(&r);
    r.model = "llama";
    r.ids = prompt_ids;
    r.n_ids = sizeof prompt_ids / sizeof *prompt_ids;
    r.max_tokens = tokens;
    r.ignore_eos = true;
    r.sampling.seed = 3;
    r.client = "writer";
    return r;
}

static an_job *paint(an_engine *e, int steps)
{
    an_image_request r = picture_request(steps);
    an_job *j = NULL;
    an_error err = {0};
    CHECK_MSG(an_engine_submit(e, &r, &j, &err) == AN_OK, "%s", err.message);
    return j;
}

static an_job *tell(an_engine *e, int tokens)
{
    an_text_request r = text_request(tokens);
    an_job *j = NULL;
    an_error err = {0};
    CHECK_MSG(an_engine_submit_text(e, &r, &j, &err) == AN_OK, "%s", err.message);
    return j;
}

static bool wait_ready(an_engine *e)
{
    while (!an_engine_ready(e)) usleep(1000);
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    return s.device_ok;
}

#define EDGE   16
#define TOKENS 24
typedef struct result {
    uint8_t pixels[EDGE * EDGE * 3];
    int32_t ids[TOKENS];
    float logprob[TOKENS];
} result;

static void keep_picture(an_job *j, result *out)
{
    an_job_info info = help_wait(j);
    CHECK_MSG(info.state == AN_JOB_DONE, "%s", info.error.message);
    an_result r;
    if (an_job_result(j, 0, &r)) memcpy(out->pixels, r.pixels, sizeof out->pixels);
    an_job_unref(j);
}

static void keep_text(an_job *j, result *out)
{
    an_job_info info = help_wait(j);
    CHECK_MSG(info.state == AN_JOB_DONE, "%s", info.error.message);
    an_text t;
    CHECK(an_job_text(j, 0, &t) && t.n_tokens == TOKENS);
    for (size_t i = 0; i < t.n_tokens && i < TOKENS; i++) {
        out->ids[i] = t.tokens[i].id;
        out->logprob[i] = t.tokens[i].logprob;
    }
    an_job_unref(j);
}

TEST(at_once_as_alone)
{
    an_engine *e = help_engine(models, "bf16", on_simt);
    REQUIRE(e && wait_ready(e));
    static result alone, both;
    double start = an_now_s();
    keep_picture(paint(e, 3), &alone);
    double image = an_now_s();
    keep_text(tell(e, TOKENS), &alone);
    printf("  alone: picture %.2f s, text %.2f s\n", image - start, an_now_s() - image);
    an_job *p = paint(e, 3), *t = tell(e, TOKENS);
    keep_text(t, &both);
    keep_picture(p, &both);
    CHECK(memcmp(&alone, &both, sizeof alone) == 0);
    CHECK(text_all_free(e));
    an_engine_free(e);
}

int main(int argc, char **argv)
{
    if (!text_link_models(models, sizeof models)) return 1;
    int failed = test_main(argc, argv);
    text_unlink_models(models);
    return failed;
}
