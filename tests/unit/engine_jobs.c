/* Jobs as the server sees them: refusals that name their field, events and watchers, cancelling,
 * deadlines, the bounded store, stopping. On the smallest models, so that all of it takes seconds.
 */
#include "engine_help.h"
#include "test.h"

#include <jansson.h>
#include <stdatomic.h>
#include <sys/stat.h>

static char models[512], small[512]; /* with the demo, without */

static void few_jobs(an_engine_options *o)
{
    o->max_queue = 4;
    o->max_running = 2;
    o->max_batch = 2;
    o->max_jobs_kept = 3;
    o->max_steps = 100000;
    o->device.threads = 1;
}

static an_image_request small_request(const char *model, int steps)
{
    an_image_request r;
    an_image_request_default(&r);
    r.model = model;
    r.prompt = "a red apple";
    r.width = r.height = 32;
    r.steps = steps;
    r.seed = 7;
    r.client = "tester";
    r.guidance_scale = 1;
    return r;
}

/* Far from done when a test, or its machine, has stood still for a while: of minutes, in ticks of a
 * moment. */
static an_image_request long_request(void)
{
    an_image_request r = small_request("sd1", 900);
    r.sampler = "ddim";
#if defined AN_SANITIZE_address || defined AN_SANITIZE_thread
    r.width = r.height = 128; /* slow enough */
#else
    r.width = r.height = 512;
#endif
    return r;
}

static an_job *must_submit(an_engine *e, const an_image_request *r)
{
    an_job *j = NULL;
    an_error err = {0};
    an_status s = an_engine_submit(e, r, &j, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    return j;
}

static void wait_ready(an_engine *e)
{
    while (!an_engine_ready(e)) usleep(1000);
}

static void wait_running(an_job *j)
{
    an_job_info info;
    do {
        usleep(200);
        an_job_get(j, &info);
    } while (info.state == AN_JOB_QUEUED || info.step == 0);
}

/* ---------------------------------------------------------------- refusals */

static void refused(an_engine *e, const an_image_request *r, an_status want, const char *param)
{
    an_job *j = NULL;
    an_error err = {0};
    an_status s = an_engine_submit(e, r, &j, &err);
    CHECK_MSG(s == want, "%s: %s, wanted %s", param, an_status_name(s), an_status_name(want));
    CHECK_MSG(strcmp(err.param, param) == 0, "param '%s', wanted '%s'", err.param, param);
    CHECK(j == NULL);
    CHECK(strlen(err.message) > 10);
    an_job_unref(j);
}

#define REFUSED(status, param, ...)                                                                \
    do {                                                                                           \
        an_image_request r = small_request("sd1", 2);                                              \
        __VA_ARGS__;                                                                               \
        refused(e, &r, status, param);                                                             \
    } while (0)

TEST(bad_requests_name_their_field)
{
    an_engine *e = help_engine(models, "f32", NULL);
    REQUIRE(e);
    static char large[20000];
    memset(large, 'a', sizeof large - 1);
    json_t *odd = json_pack("{s:s}", "beta_schedule", "no such thing");
    wait_ready(e);
    REFUSED(AN_INVALID, "prompt", r.prompt = NULL);
    REFUSED(AN_INVALID, "prompt", r.prompt = "\xff\xfe");
    REFUSED(AN_INVALID, "prompt", r.prompt = large);
    REFUSED(AN_INVALID, "negative_prompt", r.negative_prompt = "\xc0\x80");
    REFUSED(AN_INVALID, "width", r.width = 33);
    REFUSED(AN_INVALID, "width", r.width = -8);
    REFUSED(AN_INVALID, "width", r.width = 4096);
    REFUSED(AN_INVALID, "height", r.height = 4);
    REFUSED(AN_INVALID, "height", r.height = INT32_MAX);
    REFUSED(AN_INVALID, "n", r.n = -1);
    REFUSED(AN_INVALID, "n", r.n = 11);
    REFUSED(AN_INVALID, "n", r.n = INT32_MAX);
    REFUSED(AN_INVALID, "steps", r.steps = -1);
    REFUSED(AN_INVALID, "steps", r.steps = 151);
    REFUSED(AN_INVALID, "guidance_scale", r.guidance_scale = -0.1);
    REFUSED(AN_INVALID, "guidance_scale", r.guidance_scale = 100.5);
    REFUSED(AN_INVALID, "guidance_scale", r.guidance_scale = (double)INFINITY);
    REFUSED(AN_INVALID, "guidance_rescale", r.guidance_rescale = 1.01);
    REFUSED(AN_INVALID, "guidance_rescale", r.guidance_rescale = (double)NAN);
    REFUSED(AN_INVALID, "clip_skip", r.clip_skip = 3);
    REFUSED(AN_INVALID, "clip_skip", r.clip_skip = -1);
    REFUSED(AN_INVALID, "partial_images", r.previews = 3);
    REFUSED(AN_INVALID, "partial_images", r.previews = -1);
    REFUSED(AN_INVALID, "priority", r.priority = 11);
    REFUSED(AN_INVALID, "deadline_ms", r.deadline_s = -1);
    REFUSED(AN_INVALID, "deadline_ms", r.deadline_s = (double)NAN);
    REFUSED(AN_INVALID, "seed", r.seed = INT64_MAX);
    REFUSED(AN_INVALID, "timestep_spacing", r.timestep_spacing = "widdershins");
    REFUSED(AN_NOT_FOUND, "sampler", r.sampler = "no such sampler");
    REFUSED(AN_NOT_FOUND, "schedule", r.schedule = "no such schedule");
    REFUSED(AN_NOT_FOUND, "model", r.model = "no such model");
    an_image_request r = small_request("sd1", 2);
    r.solver_overrides = odd;
    an_job *j = NULL;
    an_error err = {0};
    CHECK(an_engine_submit(e, &r, &j, &err) == AN_INVALID);
    CHECK(err.param[0] != '\0');
    /* The list of models is in the answer. */
    r = small_request("nope", 1);
    CHECK(an_engine_submit(e, &r, &j, &err) == AN_NOT_FOUND);
    CHECK(strstr(err.message, "sdxl") && strstr(err.message, "emoji"));
    json_decref(odd);
    an_engine_free(e);
}

TEST(too_large_for_the_memory_is_said_at_once)
{
    an_engine *e = NULL;
    an_engine_options o;
    an_engine_options_default(&o);
    const char *dirs[] = {models, NULL};
    o.model_dirs = dirs;
    o.device.device = "cpu";
    o.dtype = "f32";
    o.memory_bytes = (size_t)96 << 20; /* the demo's weights and little else */
    an_error err = {0};
    REQUIRE(an_engine_new(&o, &e, &err) == AN_OK);
    wait_ready(e);
    an_image_request r = small_request("emoji", 1);
    r.width = r.height = 2048;
    an_job *j = NULL;
    CHECK(an_engine_submit(e, &r, &j, &err) == AN_TOO_LARGE);
    CHECK_STR(err.param, "width");
    CHECK(strstr(err.message, "MiB"));
    r.width = r.height = 64;
    j = must_submit(e, &r);
    if (j) CHECK(help_wait(j).state == AN_JOB_DONE);
    an_job_unref(j);
    an_engine_free(e);
}

TEST(defaults_are_filled_in)
{
    an_engine *e = help_engine(models, "f32", NULL);
    REQUIRE(e);
    an_image_request r;
    an_image_request_default(&r);
    r.prompt = "owl";
    r.steps = 1;
    r.tag = "note";
    an_job *j = must_submit(e, &r);
    REQUIRE(j);
    an_job_params p;
    an_job_params_get(j, &p);
    CHECK_STR(p.model, "emoji"); /* the first by name */
    CHECK_STR(p.tag, "note");
    CHECK(p.width == 128 && p.height == 128 && p.n == 1 && p.seed >= 0);
    CHECK_NEAR(p.guidance_scale, 4, 0);
    CHECK_STR(p.sampler_class, "DPMSolverMultistepScheduler");
    CHECK(p.negative_prompt == NULL && p.sampler == NULL);
    an_job_cancel(j);
    help_wait(j);
    an_job_unref(j);
    an_engine_free(e);
}

/* ---------------------------------------------------------------- events */

typedef struct listener {
    an_job *job;
    atomic_int calls;
    uint64_t cursor;
    int count[AN_EVENT_CANCELED + 1];
    int partials, last_step;
    uint64_t last_seq;
    bool ordered, sized;
} listener;

static void drain(listener *l)
{
    an_event ev;
    while (an_job_next_event(l->job, &l->cursor, &ev)) {
        if (ev.seq <= l->last_seq) l->ordered = false;
        l->last_seq = ev.seq;
        l->count[ev.type]++;
        if (ev.type == AN_EVENT_STEP) l->last_step = ev.step;
        if (ev.type == AN_EVENT_PREVIEW) {
            if (!ev.preview || ev.preview_w != 4 || ev.preview_h != 4) l->sized = false;
            l->partials++;
        }
        free(ev.preview);
    }
}

static void on_event(void *ctx)
{
    listener *l = ctx;
    atomic_fetch_add(&l->calls, 1);
    drain(l); /* an_job_* may be called from here */
}

TEST(events_tell_the_whole_story)
{
    an_engine *e = help_engine(small, "f32", NULL);
    REQUIRE(e);
    an_image_request r = small_request("sd1", 6);
    r.n = 2;
    r.previews = 3;
    an_job *j = must_submit(e, &r);
    REQUIRE(j);
    listener l = {.job = j, .ordered = true, .sized = true};
    int handle = an_job_watch(j, on_event, &l);
    CHECK(handle > 0);
    an_job_info info = help_wait(j);
    while (atomic_load(&l.calls) == 0) usleep(100);
    an_job_unwatch(j, handle);
    int calls = atomic_load(&l.calls);
    drain(&l);
    CHECK(info.state == AN_JOB_DONE && info.images_done == 2);
    CHECK(info.step == info.steps && info.steps == 14); /* PNDM: 7 calls for 6 steps */
    CHECK(l.count[AN_EVENT_QUEUED] == 1 && l.count[AN_EVENT_STARTED] == 1);
    CHECK(l.count[AN_EVENT_IMAGE] == 2 && l.count[AN_EVENT_DONE] == 1);
    CHECK(l.count[AN_EVENT_FAILED] == 0 && l.count[AN_EVENT_CANCELED] == 0);
    CHECK_MSG(l.count[AN_EVENT_PREVIEW] == 6, "%d previews", l.count[AN_EVENT_PREVIEW]);
    CHECK(l.last_step == info.steps && l.ordered && l.sized);
    CHECK(atomic_load(&l.calls) == calls);
    /* A late listener still gets every milestone. */
    listener late = {.job = j, .ordered = true, .sized = true};
    drain(&late);
    CHECK(late.count[AN_EVENT_IMAGE] == 2 && late.count[AN_EVENT_DONE] == 1);
    an_result a, b;
    CHECK(an_job_result(j, 0, &a) && an_job_result(j, 1, &b) && !an_job_result(j, 2, &b));
    CHECK(an_job_result(j, 1, &b) && a.seed == 7 && b.seed == 8);
    CHECK(a.pixels && b.pixels && memcmp(a.pixels, b.pixels, 32 * 32 * 3) != 0);
    an_job_unref(j);
    an_engine_free(e);
}

TEST(the_ring_is_bounded_and_keeps_milestones)
{
    an_engine *e = help_engine(small, "f32", few_jobs);
    REQUIRE(e);
    an_image_request r = small_request("lcm", 40);
    r.sampler = "EulerDiscreteScheduler";
    r.steps = 400;
    r.width = r.height = 8;
    r.preview_every_step = true;
    an_job *j = must_submit(e, &r);
    REQUIRE(j);
    CHECK(help_wait(j).state == AN_JOB_DONE);
    listener l = {.job = j, .ordered = true, .sized = true};
    drain(&l);
    int dropped = l.count[AN_EVENT_STEP] + l.count[AN_EVENT_PREVIEW];
    CHECK_MSG(dropped <= 160, "%d kept", dropped);
    CHECK(l.count[AN_EVENT_PREVIEW] > 100);
    CHECK(l.count[AN_EVENT_QUEUED] == 1 && l.count[AN_EVENT_IMAGE] == 1 &&
          l.count[AN_EVENT_DONE] == 1 && l.ordered);
    an_job_unref(j);
    an_engine_free(e);
}

/* ---------------------------------------------------------------- ends */

TEST(cancel_waiting_and_running)
{
    an_engine *e = help_engine(small, "f32", few_jobs);
    REQUIRE(e);
    an_image_request r = long_request();
    an_job *job[5] = {0};
    for (int i = 0; i < 2; i++) job[i] = must_submit(e, &r);
    for (int i = 0; i < 2; i++) wait_running(job[i]);
    for (int i = 2; i < 5; i++) job[i] = must_submit(e, &r);
    an_job_info info;
    an_job_get(job[4], &info);
    CHECK(info.state == AN_JOB_QUEUED && info.queue_position == 2 && info.eta_s > 0);
    listener l = {.job = job[3], .ordered = true};
    int handle = an_job_watch(job[3], on_event, &l);
    an_job_cancel(job[3]); /* waiting: at once */
    an_job_cancel(job[3]);
    an_job_get(job[3], &info);
    CHECK(info.state == AN_JOB_CANCELED && info.error.status == AN_CANCELED);
    CHECK(l.count[AN_EVENT_CANCELED] == 1 && atomic_load(&l.calls) == 1);
    an_job_unwatch(job[3], handle);
    an_job_get(job[4], &info);
    CHECK(info.queue_position == 1);
    an_job_cancel(job[0]); /* running: at the next tick */
    info = help_wait(job[0]);
    CHECK(info.state == AN_JOB_CANCELED && info.step > 0 && info.step < info.steps);
    an_result none;
    CHECK(!an_job_result(job[0], 0, &none) && none.pixels == NULL);
    for (int i = 4; i >= 0; i--) an_job_cancel(job[i]); /* what waits first: nothing else starts */
    for (int i = 0; i < 5; i++) CHECK(help_wait(job[i]).state == AN_JOB_CANCELED);
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    CHECK(s.jobs_canceled == 5 && s.running == 0 && s.queued == 0 && s.running_rows == 0);
    CHECK(an_job_ran(job[0]) && an_job_ran(job[1]) && !an_job_ran(job[3]) && !an_job_ran(job[4]));
    for (int i = 0; i < 5; i++) an_job_unref(job[i]);
    an_engine_free(e);
}

TEST(a_full_queue_refuses)
{
    an_engine *e = help_engine(small, "f32", few_jobs);
    REQUIRE(e);
    an_image_request r = long_request();
    an_job *job[16] = {0}, *extra = NULL;
    an_error err = {0};
    int n = 0;
    while (n < 16 && an_engine_submit(e, &r, &job[n], &err) == AN_OK) {
        if (n < 2) wait_running(job[n]);
        n++;
    }
    /* Two running, four waiting. */
    CHECK_MSG(n == 6, "%d accepted", n);
    CHECK(err.status == AN_BUSY && strstr(err.message, "full"));
    an_job_cancel(job[n - 1]);
    CHECK(an_engine_submit(e, &r, &extra, &err) == AN_OK);
    an_job_unref(extra);
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    CHECK(s.jobs_refused == 1);
    an_engine_stop(e, 0);
    for (int i = 0; i < n; i++) {
        CHECK(help_wait(job[i]).state == AN_JOB_CANCELED);
        an_job_unref(job[i]);
    }
    an_engine_free(e);
}

TEST(deadlines_end_jobs)
{
    an_engine *e = help_engine(small, "f32", few_jobs);
    REQUIRE(e);
    wait_ready(e);
    an_image_request r = long_request();
    r.deadline_s = 0.2;
    an_job *a = must_submit(e, &r);
    REQUIRE(a);
    an_job_info info = help_wait(a);
    CHECK(info.state == AN_JOB_FAILED);
    CHECK_STR(info.error.param, "deadline_ms");
    CHECK_MSG(info.step < info.steps, "%d of %d steps, in vain", info.step, info.steps);
    listener l = {.job = a, .ordered = true};
    drain(&l);
    CHECK(l.count[AN_EVENT_FAILED] == 1 && l.count[AN_EVENT_DONE] == 0);
    an_job_unref(a);
    an_engine_free(e);
}

TEST(the_store_forgets)
{
    an_engine *e = help_engine(small, "f32", few_jobs); /* keeps three */
    REQUIRE(e);
    an_image_request r = small_request("lcm", 1);
    char id[6][40];
    for (int i = 0; i < 6; i++) {
        an_job *j = must_submit(e, &r);
        REQUIRE(j);
        an_job_info info = help_wait(j);
        memcpy(id[i], info.id, 40);
        an_job_unref(j);
    }
    help_gate gate;
    help_hold(e, &gate);
    an_job_forget(gate.job);
    an_job *j = must_submit(e, &r);
    REQUIRE(j);
    an_job_forget(j); /* the waiting client has it; nobody will ask by id */
    help_release(&gate);
    an_job_info info = help_wait(j);
    CHECK(info.state == AN_JOB_DONE);
    CHECK(an_engine_job(e, info.id) == NULL);
    an_result result;
    CHECK(an_job_result(j, 0, &result) && result.pixels);
    an_job_unref(j);
    an_job *list[16];
    int n = an_engine_jobs(e, "tester", list, 16);
    for (int i = 0; n > 3 && i < 60000; i++) { /* the engine forgets when it next looks */
        while (n > 0) an_job_unref(list[--n]);
        usleep(1000);
        n = an_engine_jobs(e, "tester", list, 16);
    }
    CHECK_MSG(n == 3, "%d kept", n);
    for (int i = 0; i < n; i++) {
        an_job_get(list[i], &info);
        CHECK_STR(info.id, id[5 - i]); /* newest first */
        an_job_unref(list[i]);
    }
    CHECK(an_engine_jobs(e, "somebody else", list, 16) == 0);
    CHECK(an_engine_job(e, id[0]) == NULL);
    j = an_engine_job(e, id[5]);
    CHECK(j != NULL);
    an_job_forget(j);
    CHECK(an_engine_job(e, id[5]) == NULL);
    CHECK(an_job_result(j, 0, &result) && result.pixels); /* the reference is still good */
    an_job_unref(j);
    an_engine_free(e);
}

TEST(stopping_lets_jobs_finish)
{
    an_engine *e = help_engine(small, "f32", NULL);
    REQUIRE(e);
    wait_ready(e);
    an_image_request r = small_request("sd1", 10);
    an_job *job[4];
    for (int i = 0; i < 4; i++) job[i] = must_submit(e, &r);
    an_engine_drain(e);
    an_job *late = NULL;
    an_error err = {0};
    CHECK(an_engine_submit(e, &r, &late, &err) == AN_STOPPING);
    an_engine_stop(e, 60);
    for (int i = 0; i < 4; i++) {
        an_job_info info;
        an_job_get(job[i], &info);
        CHECK(info.state == AN_JOB_DONE);
        an_job_unref(job[i]);
    }
    an_engine_free(e);
}

/* ---------------------------------------------------------------- models */

TEST(folders_are_scanned)
{
    char dir[512], path[1024];
    snprintf(dir, sizeof dir, "%s/odd", models);
    REQUIRE(mkdir(dir, 0700) == 0);
    static const char *const file[] = {"broken.safetensors", "README.md", ".hidden.safetensors"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, file[i]);
        FILE *f = fopen(path, "w");
        REQUIRE(f);
        fputs("not a model", f);
        fclose(f);
    }
    snprintf(path, sizeof path, "%s/sd1/unet", models);
    char link[1024];
    snprintf(link, sizeof link, "%s/zz-part", dir); /* has config.json, is no pipeline */
    CHECK(symlink(path, link) == 0);
    const char *dirs[] = {dir, models, NULL};
    an_engine_options o;
    an_engine_options_default(&o);
    o.model_dirs = dirs;
    o.device.device = "cpu";
    o.dtype = "f32";
    an_engine *e = NULL;
    an_error err = {0};
    REQUIRE(an_engine_new(&o, &e, &err) == AN_OK);
    int ok = 0, broken = 0;
    an_model_entry m;
    for (int i = 0; an_engine_model_at(e, i, &m); i++) {
        m.ok ? ok++ : broken++;
        CHECK(m.ok || m.error[0]);
        CHECK(m.is_default == (strcmp(m.id, "emoji") == 0));
    }
    CHECK_MSG(ok == 5 && broken == 2, "%d ok, %d broken", ok, broken);
    CHECK(an_engine_model_find(e, "broken", AN_KIND_IMAGE, &m, &err) == AN_OK && !m.ok);
    CHECK(an_engine_model_find(e, "", AN_KIND_IMAGE, &m, &err) == AN_OK);
    CHECK_STR(m.id, "emoji");
    CHECK(an_engine_model_find(e, NULL, AN_KIND_TEXT, &m, &err) == AN_NOT_FOUND);
    an_image_request r = small_request("broken", 1);
    refused(e, &r, AN_NOT_FOUND, "model");
    an_engine_free(e);
    unlink(link);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, file[i]);
        unlink(path);
    }
    rmdir(dir);
}

/* Room for the largest of the small models with the wide panels of AVX-512. */
enum { LITTLE = 14 << 20 };

static void little_memory(an_engine_options *o)
{
    o->memory_bytes = LITTLE;
    o->device.threads = 1;
    o->max_batch = 2;
    o->max_running = 2;
}

/* The demo model alone exceeds this budget; the small ones fit one or two at a time. */
TEST(idle_models_make_way)
{
    an_engine *e = help_engine(models, "f32", little_memory);
    REQUIRE(e);
    wait_ready(e);
    static const char *const order[] = {"sd1", "sdxl", "lcm", "sd1", "sd2"};
    for (int i = 0; i < 5; i++) {
        an_image_request r = small_request(order[i], 2);
        an_job *j = must_submit(e, &r);
        REQUIRE(j);
        an_job_info info = help_wait(j);
        CHECK_MSG(info.state == AN_JOB_DONE, "%s: %s", order[i], info.error.message);
        an_job_unref(j);
    }
    an_image_request r = small_request("emoji", 2);
    an_job *j = must_submit(e, &r);
    REQUIRE(j);
    an_job_info info = help_wait(j);
    CHECK(info.state == AN_JOB_FAILED && info.error.status == AN_NO_MEMORY);
    CHECK_MSG(strcmp(info.error.param, "model") == 0, "%s", info.error.param);
    an_job_unref(j);
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    CHECK(s.weight_bytes <= LITTLE);
    an_engine_free(e);
}

/* ---------------------------------------------------------------- latents */

TEST(latents_there_and_back)
{
    an_engine *e = help_engine(small, "f32", NULL);
    REQUIRE(e);
    static uint8_t picture[24 * 32 * 3];
    for (size_t i = 0; i < sizeof picture; i++) picture[i] = (uint8_t)(i * 7);
    an_latents_request r = {.model = "sd1", .image = picture, .width = 32, .height = 24};
    an_job *j = NULL;
    an_error err = {0};
    REQUIRE(an_engine_submit_latents(e, &r, &j, &err) == AN_OK);
    CHECK(help_wait(j).state == AN_JOB_DONE);
    an_result result;
    REQUIRE(an_job_result(j, 0, &result));
    CHECK(result.latent && result.logvar && !result.pixels);
    CHECK(result.latent_channels == 4 && result.latent_h == 3 && result.latent_w == 4);
    an_latents_request back = {.model = "sd1",
                               .decode = true,
                               .latent = result.latent,
                               .latent_channels = 4,
                               .latent_h = 3,
                               .latent_w = 4};
    an_job *k = NULL;
    REQUIRE(an_engine_submit_latents(e, &back, &k, &err) == AN_OK);
    CHECK(help_wait(k).state == AN_JOB_DONE);
    CHECK(an_job_result(k, 0, &result) && result.pixels && result.width == 32 &&
          result.height == 24);
    an_job_unref(j);
    an_job_unref(k);
    r.width = 30;
    CHECK(an_engine_submit_latents(e, &r, &j, &err) == AN_INVALID);
    CHECK_STR(err.param, "width");
    back.latent_channels = 3;
    CHECK(an_engine_submit_latents(e, &back, &j, &err) == AN_INVALID);
    CHECK_STR(err.param, "latents");
    float nan[12 * 4];
    for (int i = 0; i < 48; i++) nan[i] = (float)NAN;
    back.latent_channels = 4;
    back.latent = nan;
    CHECK(an_engine_submit_latents(e, &back, &j, &err) == AN_INVALID);
    an_engine_free(e);
}

/* A latent so large that its picture is NaN fails alone; those beside it are done. */
TEST(one_bad_row_hurts_nobody)
{
    an_engine *e = help_engine(small, "f32", NULL);
    REQUIRE(e);
    wait_ready(e);
    float good[4 * 16] = {0}, bad[4 * 16];
    for (int i = 0; i < 64; i++) bad[i] = 3e38f;
    an_job *job[6] = {0};
    an_error err = {0};
    for (int i = 0; i < 6; i++) {
        an_latents_request r = {.model = "sd1",
                                .decode = true,
                                .latent = i == 2 ? bad : good,
                                .latent_channels = 4,
                                .latent_h = 4,
                                .latent_w = 4};
        CHECK(an_engine_submit_latents(e, &r, &job[i], &err) == AN_OK);
    }
    for (int i = 0; i < 6; i++) {
        if (!job[i]) continue;
        an_job_info info = help_wait(job[i]);
        CHECK_MSG(info.state == (i == 2 ? AN_JOB_FAILED : AN_JOB_DONE), "%d: %s %s", i,
                  an_job_state_name(info.state), info.error.message);
        an_job_unref(job[i]);
    }
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    CHECK(s.device_ok);
    an_engine_free(e);
}

int main(int argc, char **argv)
{
    an_log_set_level(AN_LOG_ERROR);
    if (!help_link_models(models, sizeof models, true)) return 1;
    if (!help_link_models(small, sizeof small, false)) return 1;
    int r = test_main(argc, argv);
    help_unlink_models(models);
    help_unlink_models(small);
    return r;
}
