/* Several devices behind one queue, on the GPU's emulation: jobs spread over them, each with the
 * bytes that one device gives; a model is loaded on a second device when the first is busy; what is
 * lost with one device is its own jobs. */
#include "test.h"
#include "text_help.h"

#include "kernels/simt/include/cuda_runtime_api.h"

static char models[512];

static void small(an_engine_options *o)
{
    o->max_batch = 2;
    o->max_sequences = 4;
    o->max_context = 128;
    o->tick_tokens = 32;
    o->kv_bytes = (size_t)1 << 20;
}

static void on_one(an_engine_options *o)
{
    small(o);
    o->device.device = "simt:1";
}

static void on_two(an_engine_options *o)
{
    small(o);
    o->device.device = "simt:all";
}

static void on_one_twice(an_engine_options *o)
{
    small(o);
    o->device.device = "simt:0,simt:0";
}

static an_engine *open_ready(void (*adjust)(an_engine_options *o))
{
    an_engine *e = help_engine(models, "bf16", adjust);
    while (e && !an_engine_ready(e)) usleep(1000);
    return e;
}

static an_job *paint(an_engine *e, int seed, int steps)
{
    an_image_request r;
    an_image_request_default(&r);
    r.model = "sd1";
    r.prompt = "owl";
    r.width = r.height = 16;
    r.steps = steps;
    r.seed = seed;
    r.client = "painter";
    an_job *j = NULL;
    an_error err = {0};
    CHECK_MSG(an_engine_submit(e, &r, &j, &err) == AN_OK, "%s", err.message);
    return j;
}

static const int32_t prompt_ids[] = {1, 40, 77, 300, 12, 9,  411, 260, 33, 5,
                                     8, 21, 6,  90,  14, 55, 31,  7,   2,  11};

static an_job *tell(an_engine *e, const char *model, int seed, int tokens)
{
    an_text_request r;
    an_text_request_default(&r);
    r.model = model;
    r.ids = prompt_ids;
    r.n_ids = sizeof prompt_ids / sizeof *prompt_ids;
    r.max_tokens = tokens;
    r.ignore_eos = true;
    r.sampling.seed = seed;
    r.client = "writer";
    an_job *j = NULL;
    an_error err = {0};
    CHECK_MSG(an_engine_submit_text(e, &r, &j, &err) == AN_OK, "%s", err.message);
    return j;
}

#define EDGE   16
#define STEPS  2
#define TOKENS 8
#define JOBS   4
typedef struct result {
    uint8_t pixels[JOBS][EDGE * EDGE * 3];
    int32_t ids[JOBS][TOKENS];
} result;

/* False: the job was not done; *why says so. */
static bool take_picture(an_job *j, uint8_t *out, an_error *why)
{
    an_job_info info = help_wait(j);
    an_result r;
    const bool done = info.state == AN_JOB_DONE && an_job_result(j, 0, &r);
    if (done) memcpy(out, r.pixels, EDGE * EDGE * 3);
    *why = info.error;
    an_job_unref(j);
    return done;
}

static bool take_text(an_job *j, int32_t *out, an_error *why)
{
    an_job_info info = help_wait(j);
    an_text t;
    const bool done = info.state == AN_JOB_DONE && an_job_text(j, 0, &t) && t.n_tokens == TOKENS;
    for (size_t i = 0; done && i < TOKENS; i++) out[i] = t.tokens[i].id;
    *why = info.error;
    an_job_unref(j);
    return done;
}

/* Pictures and answers of seeds 0 .. JOBS - 1, all at once or one after the other. */
static void make(an_engine *e, const char *model, bool at_once, result *out)
{
    an_job *picture[JOBS], *text[JOBS];
    an_error why;
    help_gate gate = {0};
    memset(out, 0, sizeof *out);
    if (at_once) help_hold(e, &gate);
    for (int i = 0; i < JOBS; i++) {
        picture[i] = paint(e, i, STEPS);
        text[i] = tell(e, model, i, TOKENS);
        if (at_once) continue;
        CHECK_MSG(take_picture(picture[i], out->pixels[i], &why), "%s", why.message);
        CHECK_MSG(take_text(text[i], out->ids[i], &why), "%s", why.message);
    }
    if (at_once) help_release(&gate);
    for (int i = 0; i < JOBS && at_once; i++) {
        CHECK_MSG(take_picture(picture[i], out->pixels[i], &why), "%s", why.message);
        CHECK_MSG(take_text(text[i], out->ids[i], &why), "%s", why.message);
    }
}

static an_device_stats device(an_engine *e, int i)
{
    an_device_stats d;
    an_engine_device_at(e, i, &d);
    return d;
}

static int devices_of(an_engine *e, const char *model)
{
    an_model_entry m;
    return an_engine_model_find(e, model, AN_KIND_TEXT, &m, NULL) == AN_OK ? m.devices : -1;
}

/* ---------------------------------------------------------------- tests */

TEST(spread)
{
    static result alone, both;
    an_engine *e = open_ready(on_one);
    REQUIRE(e && an_engine_device_count(e) == 1);
    make(e, "babble", false, &alone);
    an_engine_free(e);
    e = open_ready(on_two);
    REQUIRE(e && an_engine_device_count(e) == 2);
    CHECK(devices_of(e, "babble") == 2); /* the defaults are on every device */
    make(e, "babble", true, &both);
    CHECK(memcmp(&alone, &both, sizeof alone) == 0);
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    uint64_t rows = 0;
    for (int i = 0; i < AN_STAGE_COUNT; i++) rows += s.rows[i];
    for (int i = 0; i < 2; i++) {
        an_device_stats d = device(e, i);
        printf("  %s: %d models, %llu rows\n", d.name, d.models, (unsigned long long)d.rows);
        CHECK(d.ok && d.running_rows == 0 && d.models == 2 && d.rows > rows / 5);
        CHECK(d.used_bytes > 0 && d.used_bytes < d.memory_bytes);
    }
    CHECK(device(e, 0).rows + device(e, 1).rows == rows);
    CHECK(text_all_free(e));
    an_engine_free(e);
}

/* One answer leaves the second device without the model; a crowd brings it there. */
TEST(loaded_on_demand)
{
    enum { CROWD = 6 };
    int32_t first[TOKENS], ids[CROWD][TOKENS];
    an_engine *e = open_ready(on_two);
    REQUIRE(e);
    an_error why;
    CHECK_MSG(take_text(tell(e, "llama", 0, TOKENS), first, &why), "%s", why.message);
    CHECK(devices_of(e, "llama") == 1);
    an_job *job[CROWD];
    help_gate gate;
    help_hold(e, &gate);
    for (int i = 0; i < CROWD; i++) job[i] = tell(e, "llama", 0, TOKENS);
    help_release(&gate);
    for (int i = 0; i < CROWD; i++) {
        CHECK_MSG(take_text(job[i], ids[i], &why), "%s", why.message);
        CHECK(memcmp(ids[i], first, sizeof first) == 0);
    }
    CHECK(devices_of(e, "llama") == 2);
    CHECK(text_all_free(e));
    an_engine_free(e);
}

/* A conversation goes on where its prefix is remembered, though the other device is as idle. */
TEST(prefix)
{
    an_engine *e = open_ready(on_two);
    REQUIRE(e);
    an_error why;
    static result out;
    help_gate gate; /* the first device is the busier one: the answer goes to the second */
    help_hold(e, &gate);
    an_job *other = paint(e, 1, STEPS), *begun = tell(e, "babble", 0, TOKENS);
    help_release(&gate);
    CHECK_MSG(take_text(begun, out.ids[0], &why), "%s", why.message);
    CHECK_MSG(take_picture(other, out.pixels[0], &why), "%s", why.message);
    for (int i = 1; i < 4; i++) {
        an_job *j = tell(e, "babble", i, TOKENS);
        an_text_usage u;
        help_wait(j);
        an_job_text_usage(j, &u);
        CHECK_MSG(u.cached_tokens == AN_KV_BLOCK, "%zu tokens", u.cached_tokens);
        an_job_unref(j);
    }
    an_engine_free(e);
}

static bool both_at_work(void *e)
{
    return device(e, 0).ticks > 0 && device(e, 1).ticks > 0;
}

TEST(cancelled)
{
    an_engine *e = open_ready(on_two);
    REQUIRE(e);
    help_gate start, work;
    help_hold(e, &start);
    an_job *job[4] = {paint(e, 1, 100), paint(e, 2, 100), tell(e, "babble", 1, 100),
                      tell(e, "babble", 2, 100)};
    help_gate_watch(&work, job[0], both_at_work, e);
    help_let_go(&start);
    CHECK(help_gate_wait(&work));
    for (int i = 0; i < 4; i++) an_job_cancel(job[i]);
    help_gate_open(&work);
    help_see_off(&start);
    for (int i = 0; i < 4; i++) {
        CHECK(help_wait(job[i]).state == AN_JOB_CANCELED);
        an_job_unref(job[i]);
    }
    for (int i = 0; i < 2; i++) CHECK(device(e, i).running_rows == 0);
    an_engine_free(e);
}

/* Lists that are none, and devices that are not there. */
TEST(refused)
{
    static const struct {
        const char *list, *word;
    } bad[] = {{"simt:0,cpu", "one kind"},
               {"simt:0,,simt:1", "between two commas"},
               {"simt:0,simt:2", "the last is simt:1"},
               {"simt,tpu", "unknown device 'tpu'"},
               {"cpu:all", "unknown device 'cpu:0'"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        an_engine_options o;
        an_engine_options_default(&o);
        o.device.device = bad[i].list;
        an_engine *e = NULL;
        an_error err = {0};
        CHECK(an_engine_new(&o, &e, &err) != AN_OK && !e);
        CHECK_MSG(strstr(err.message, bad[i].word), "%s", err.message);
        CHECK(strcmp(err.param, "device") == 0);
    }
}

/* A device that is named twice has its memory once. */
TEST(twice)
{
    an_engine *two = open_ready(on_two), *twice = open_ready(on_one_twice);
    REQUIRE(two && twice);
    CHECK(device(twice, 0).memory_bytes == device(two, 0).memory_bytes / 2);
    CHECK(device(twice, 1).memory_bytes == device(twice, 0).memory_bytes);
    an_engine_free(two);
    static result alone, both;
    an_error why;
    for (int i = 0; i < 2; i++) take_picture(paint(twice, i, STEPS), alone.pixels[i], &why);
    help_gate gate;
    help_hold(twice, &gate);
    an_job *job[2] = {paint(twice, 0, STEPS), paint(twice, 1, STEPS)};
    help_release(&gate);
    for (int i = 0; i < 2; i++) CHECK(take_picture(job[i], both.pixels[i], &why));
    CHECK(memcmp(&alone, &both, sizeof alone) == 0);
    CHECK(device(twice, 1).ticks > 0);
    an_engine_free(twice);
}

/* The last test: it breaks both devices, one after the other. */
TEST(lost)
{
    static result before, after;
    an_engine *e = open_ready(on_two);
    REQUIRE(e);
    an_error why;
    CHECK(take_picture(paint(e, 3, STEPS), before.pixels[0], &why));
    CHECK(take_text(tell(e, "babble", 3, TOKENS), before.ids[0], &why));
    an_job *picture[4], *text[4];
    help_gate gate;
    help_hold(e, &gate);
    for (int i = 0; i < 4; i++) {
        picture[i] = paint(e, 3, i < 2 ? 12 : STEPS);
        text[i] = tell(e, "babble", 3, TOKENS);
    }
    CHECK(simt_configure("fail=200@1") == 1);
    help_release(&gate);
    int failed = 0;
    for (int i = 0; i < 4; i++) {
        const bool painted = take_picture(picture[i], after.pixels[0], &why);
        if (painted && i >= 2)
            CHECK(memcmp(before.pixels[0], after.pixels[0], EDGE * EDGE * 3) == 0);
        if (!painted)
            CHECK_MSG(strncmp(why.message, "device lost: 2 of 2: ", 21) == 0, "%s", why.message);
        failed += !painted;
        const bool told = take_text(text[i], after.ids[0], &why);
        if (told) CHECK(memcmp(before.ids[0], after.ids[0], sizeof before.ids[0]) == 0);
        if (!told)
            CHECK_MSG(strncmp(why.message, "device lost: 2 of 2: ", 21) == 0, "%s", why.message);
        failed += !told;
    }
    printf("  %d of 8 failed\n", failed);
    CHECK(failed >= 1 && failed < 8);
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    CHECK(s.device_ok && !*s.device_error && s.queued + s.running == 0);
    CHECK(device(e, 0).ok && !device(e, 1).ok);
    CHECK(strncmp(device(e, 1).error, "device lost: 2 of 2: ", 21) == 0);
    /* The other one serves on, with the same bytes. */
    CHECK_MSG(take_picture(paint(e, 3, STEPS), after.pixels[0], &why), "%s", why.message);
    CHECK_MSG(take_text(tell(e, "babble", 3, TOKENS), after.ids[0], &why), "%s", why.message);
    CHECK(memcmp(before.pixels[0], after.pixels[0], EDGE * EDGE * 3) == 0);
    CHECK(memcmp(before.ids[0], after.ids[0], sizeof before.ids[0]) == 0);
    CHECK(simt_configure("fail=20@0") == 1);
    CHECK(!take_picture(paint(e, 3, 12), after.pixels[0], &why));
    CHECK_MSG(strncmp(why.message, "device lost: 1 of 2: ", 21) == 0, "%s", why.message);
    an_engine_get_stats(e, &s);
    CHECK(!s.device_ok && strncmp(s.device_error, "device lost: ", 13) == 0);
    an_text_request t;
    an_text_request_default(&t);
    t.model = "babble";
    t.ids = prompt_ids;
    t.n_ids = 4;
    an_job *j = NULL;
    CHECK(an_engine_submit_text(e, &t, &j, &why) == AN_DEVICE && !j);
    an_engine_free(e);
    CHECK(cudaDeviceReset() == cudaSuccess);
}

int main(int argc, char **argv)
{
    if (!simt_configure("memory=64M,devices=2") || !text_link_models(models, sizeof models))
        return 1;
    int failed = test_main(argc, argv);
    text_unlink_models(models);
    return failed;
}
