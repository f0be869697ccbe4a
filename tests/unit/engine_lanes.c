/* Lanes on a GPU, on its emulation: pictures and text at once give the bytes they give alone, also
 * while models come and go; too little memory is a refusal that says how much; a lost device fails
 * every job, refuses new ones, and the engine stops as ever. */
#include "state.h"
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

/* Seconds of ticks since the engine began. On one lane they cannot be more than the clock's. */
static double busy(an_engine *e)
{
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    return s.busy_s;
}

/* A picture and texts at the same time; whether their ticks were. */
static bool crowd(an_engine *e, result *out)
{
    help_gate gate;
    help_hold(e, &gate);
    an_job *p = paint(e, 3), *other[3];
    for (int i = 0; i < 3; i++) other[i] = tell(e, 100);
    an_job *t = tell(e, TOKENS);
    const double before = busy(e);
    help_release(&gate);
    double start = 1e300, end = 0; /* by the engine's clock: this thread may be late */
    an_job *all[5] = {p, t, other[0], other[1], other[2]};
    for (int i = 0; i < 5; i++) {
        const an_job_info info = help_wait(all[i]);
        if (info.started < start) start = info.started;
        if (info.finished > end) end = info.finished;
    }
    const double ticks = busy(e) - before, seconds = end - start;
    keep_text(t, out);
    keep_picture(p, out);
    for (int i = 0; i < 3; i++) an_job_unref(other[i]);
    printf("  %.2f s of ticks in %.2f s\n", ticks, seconds);
    return ticks > seconds;
}

static void without_graphs(an_engine_options *o)
{
    on_simt(o);
    o->device.graphs = "off";
}

TEST(at_once_as_alone)
{
    static result alone, both;
    an_engine *e = help_engine(models, "bf16", without_graphs);
    REQUIRE(e && wait_ready(e));
    keep_picture(paint(e, 3), &both);
    keep_text(tell(e, TOKENS), &both);
    CHECK(an_lane_repeats(e->unit[0].track[1].lane).recorded == 0);
    an_engine_free(e);
    e = help_engine(models, "bf16", on_simt);
    REQUIRE(e && wait_ready(e));
    keep_picture(paint(e, 3), &alone);
    keep_text(tell(e, TOKENS), &alone);
    CHECK(memcmp(&alone, &both, sizeof alone) == 0); /* recorded or not */
    bool overlapped = false;
    for (int i = 0; i < 5 && !overlapped; i++) { /* a busy machine may keep a thread waiting */
        overlapped = crowd(e, &both);
        CHECK(memcmp(&alone, &both, sizeof alone) == 0);
    }
    CHECK(overlapped);
    CHECK(text_all_free(e));
    for (int i = 0; i < 2; i++) { /* ticks that come again were recorded, on both lanes */
        const an_repeats r = an_lane_repeats(e->unit[0].track[i].lane);
        printf("  lane %d: %d lists recorded, %d replayed\n", i, (int)r.recorded, (int)r.replayed);
        CHECK(r.recorded > 0 && r.replayed > r.recorded && r.failed == 0);
    }
    an_engine_free(e);
}

static void cramped(an_engine_options *o)
{
    on_simt(o);
    o->memory_bytes = (size_t)5 << 20; /* sd1 and one language model, but not two */
}

/* Models make way for each other while the other lane works; jobs are cancelled at random. */
TEST(come_and_go)
{
    an_engine *e = help_engine(models, "bf16", cramped);
    REQUIRE(e && wait_ready(e));
    static const char *const name[] = {"llama", "babble", "gemma2"};
    enum { N = 24 };
    an_job *job[N];
    uint64_t state = 5;
    for (int i = 0; i < N; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        an_text_request r = text_request(4 + (int)(state >> 60));
        r.model = name[state >> 40 & 0xff ? (state >> 33) % 3 : 0];
        if (i % 4 == 0) {
            job[i] = paint(e, 1);
        } else {
            an_error err = {0};
            CHECK_MSG(an_engine_submit_text(e, &r, &job[i], &err) == AN_OK, "%s", err.message);
        }
        if (state >> 62 == 0) usleep(20000);
        if (state >> 61 == 7 && job[i]) an_job_cancel(job[i]);
    }
    int done = 0, cancelled = 0;
    for (int i = 0; i < N; i++) {
        if (!job[i]) continue;
        an_job_info info = help_wait(job[i]);
        done += info.state == AN_JOB_DONE;
        cancelled += info.state == AN_JOB_CANCELED;
        an_job_unref(job[i]);
    }
    printf("  %d done, %d cancelled\n", done, cancelled);
    CHECK(done + cancelled == N && done >= N / 2);
    CHECK(text_all_free(e));
    an_engine_free(e);
}

/* One after the other: what the one leaves, working memory too, makes way for the other. */
TEST(by_turns)
{
    static result out;
    an_engine *e = help_engine(models, "bf16", cramped);
    REQUIRE(e && wait_ready(e));
    for (int i = 0; i < 3; i++) {
        keep_text(tell(e, TOKENS), &out);
        keep_picture(paint(e, 1), &out);
    }
    CHECK(text_all_free(e));
    an_engine_free(e);
}

static void generous(an_engine_options *o)
{
    on_simt(o);
    o->memory_bytes = (size_t)1 << 40; /* far beyond what the device has */
}

/* A budget within the device refuses at submit; one beyond it meets the device's own refusal. */
TEST(too_little_memory)
{
    void (*const budget[])(an_engine_options *) = {on_simt, generous};
    for (int i = 0; i < 2; i++) {
        an_engine *e = help_engine(models, "bf16", budget[i]);
        REQUIRE(e && wait_ready(e));
        an_image_request r = picture_request(1);
        r.width = r.height = 2048;
        an_job *j = NULL;
        an_error err = {0};
        static result small;
        keep_picture(paint(e, 1), &small);
        if (an_engine_submit(e, &r, &j, &err) == AN_OK) {
            an_job_info info = help_wait(j);
            CHECK(info.state == AN_JOB_FAILED);
            err = info.error;
            an_job_unref(j);
        }
        printf("  %s\n", err.message);
        CHECK(err.status == AN_NO_MEMORY || err.status == AN_TOO_LARGE);
        CHECK(strstr(err.message, "MiB"));
        keep_picture(paint(e, 1), &small); /* nothing else has suffered */
        an_engine_free(e);
    }
}

/* The last test: it breaks the device. */
TEST(lost)
{
    for (int text = 0; text < 2; text++) {
        an_engine *e = help_engine(models, "bf16", on_simt);
        REQUIRE(e && wait_ready(e));
        static result before;
        keep_picture(paint(e, 1), &before);
        keep_text(tell(e, TOKENS), &before);
        help_gate gate;
        help_hold(e, &gate); /* all four are there when it happens */
        an_job *job[4] = {paint(e, 50), text ? tell(e, 100) : paint(e, 50), tell(e, 100),
                          tell(e, 100)};
        CHECK(simt_configure("fail=300") == 1);
        help_release(&gate);
        an_error why = {0};
        for (int i = 0; i < 4; i++) {
            if (!job[i]) continue;
            an_job_info info = help_wait(job[i]);
            CHECK(info.state == AN_JOB_FAILED && info.error.status == AN_DEVICE);
            CHECK_MSG(strncmp(info.error.message, "device lost: ", 13) == 0, "%s",
                      info.error.message);
            CHECK(strstr(info.error.message, "ECC"));
            why = info.error;
            an_job_unref(job[i]);
        }
        printf("  %s\n", why.message);
        an_engine_stats s;
        an_engine_get_stats(e, &s);
        CHECK(!s.device_ok && strcmp(s.device_error, why.message) == 0);
        CHECK(s.running == 0 && s.queued == 0);
        an_image_request r = picture_request(1);
        an_job *j = NULL;
        CHECK(an_engine_submit(e, &r, &j, &why) == AN_DEVICE && !j);
        an_text_request t = text_request(4);
        CHECK(an_engine_submit_text(e, &t, &j, &why) == AN_DEVICE && !j);
        an_engine_free(e);
        CHECK(cudaDeviceReset() == cudaSuccess);
    }
}

int main(int argc, char **argv)
{
    if (!simt_configure("memory=64M") || !text_link_models(models, sizeof models)) return 1;
    int failed = test_main(argc, argv);
    text_unlink_models(models);
    return failed;
}
