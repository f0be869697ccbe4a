/* Same request, same bytes: random requests run in a crowd (other samplers, steps, guidance, sizes,
 * models, clients; joining late, beside cancelled ones) and then alone, and must come out
 * identical. AN_TEST_SECONDS bounds it (default 8), AN_TEST_SEED repeats a run. Also: memory does
 * not grow. */
#include "engine_help.h"
#include "test.h"

static char models[512], small[512]; /* with the demo, without */
static uint64_t state;

static uint32_t draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static double test_seconds(void)
{
    const char *s = getenv("AN_TEST_SECONDS");
    double v = s ? atof(s) : 0;
    return v > 0 ? v : 8;
}

/* ---------------------------------------------------------------- random requests */

/* A crowd has one or two models and sizes, so that its members do meet in ticks. */
typedef struct party {
    const char *model[2];
    int edge[2];
} party;

static party random_party(void)
{
    static const char *const model[] = {"sd1", "emoji", "sd2", "sdxl", "lcm", "sd1"};
    static const int edge[] = {24, 32, 40, 64};
    uint32_t first = draw(6);
    return (party){{model[first], model[draw(3) ? first : draw(6)]},
                   {edge[draw(4)], edge[draw(4)]}};
}

static an_image_request random_request(const party *p)
{
    static const char *const prompt[] = {"a red apple on a blue background",
                                         "",
                                         "owl",
                                         "grinning cat face, pattern",
                                         "(small:1.4) [rocket] on a ((yellow)) background",
                                         "pizza"};
    static const char *const sampler[] = {NULL,           "euler",
                                          "euler_a",      "heun",
                                          "ddim",         "dpmpp_2m",
                                          "dpmpp_2m_sde", "uni_pc",
                                          "DPM++ SDE",    "DDPMScheduler",
                                          "lms",          "dpm2",
                                          "LCMScheduler", "DEISMultistepScheduler"};
    static const char *const client[] = {"ada", "ben", "cleo"};
    an_image_request r;
    an_image_request_default(&r);
    r.model = p->model[draw(4) == 0];
    r.prompt = prompt[draw(6)];
    if (draw(3) == 0) r.negative_prompt = prompt[draw(6)];
    if (strcmp(r.model, "lcm")) r.sampler = sampler[draw(14)];
    r.width = p->edge[draw(4) == 0];
    r.height = draw(5) ? r.width : p->edge[1];
    r.n = draw(6) ? 1 : 2;
    r.steps = 1 + (int)draw(9);
    r.guidance_scale = draw(4) ? 1.5 + draw(80) / 10.0 : 1;
    if (draw(5) == 0) r.guidance_rescale = 0.7;
    r.rng = draw(2) ? AN_RNG_CPU : AN_RNG_GPU;
    r.seed = draw(1000);
    r.a1111_prompt = draw(3) == 0;
    if (draw(5) == 0) r.clip_skip = 2;
    if (draw(4) == 0) r.previews = 1;
    r.priority = draw(6) ? 0 : (int)draw(21) - 10;
    r.client = client[draw(3)];
    return r;
}

static void describe(const an_image_request *r, char *out, size_t size)
{
    snprintf(out, size, "%s '%s' %dx%d n %d steps %d cfg %g rescale %g sampler %s seed %d%s%s",
             r->model, r->prompt, r->width, r->height, r->n, r->steps, r->guidance_scale,
             r->guidance_rescale, r->sampler ? r->sampler : "own", (int)r->seed,
             r->a1111_prompt ? " a1111" : "", r->rng == AN_RNG_CPU ? " cpu" : "");
}

/* ---------------------------------------------------------------- the crowd */

enum { CROWD = 14 };

typedef struct member {
    an_image_request request;
    an_job *job;
    bool cancelled;
} member;

static an_job *submit(an_engine *e, const an_image_request *r)
{
    an_job *j = NULL;
    an_error err = {0};
    if (an_engine_submit(e, r, &j, &err)) {
        /* A sampler may refuse what it cannot do (step counts, a schedule): alone as well. */
        CHECK_MSG(err.status == AN_INVALID, "%s", err.message);
    }
    return j;
}

static void compare_alone(an_engine *e, const member *m)
{
    char what[512];
    describe(&m->request, what, sizeof what);
    an_job *alone = submit(e, &m->request);
    REQUIRE(alone);
    CHECK(help_wait(alone).state == AN_JOB_DONE);
    for (int i = 0; i < m->request.n; i++) {
        an_result a, b;
        bool have = an_job_result(m->job, i, &a) && an_job_result(alone, i, &b);
        CHECK(have);
        if (have)
            CHECK_MSG(memcmp(a.pixels, b.pixels, (size_t)a.width * (size_t)a.height * 3) == 0,
                      "picture %d differs in company: %s", i, what);
    }
    an_job_unref(alone);
}

/* Returns how many pictures were compared. */
static int crowd(an_engine *e)
{
    member m[CROWD] = {0};
    party p = random_party();
    int compared = 0;
    for (int i = 0; i < CROWD; i++) {
        m[i].request = random_request(&p);
        m[i].job = submit(e, &m[i].request);
        if (draw(3) == 0) usleep(draw(20000)); /* late joiners */
        int victim = (int)draw(CROWD);
        if (draw(5) == 0 && victim < i && m[victim].job) {
            an_job_cancel(m[victim].job);
            m[victim].cancelled = true;
        }
    }
    for (int i = 0; i < CROWD; i++) {
        if (!m[i].job) continue;
        an_job_info info = help_wait(m[i].job);
        char what[512];
        describe(&m[i].request, what, sizeof what);
        bool ended_well =
            info.state == AN_JOB_DONE || (m[i].cancelled && info.state == AN_JOB_CANCELED);
        CHECK_MSG(ended_well, "%s: %s: %s", an_job_state_name(info.state), what,
                  info.error.message);
    }
    for (int i = 0; i < CROWD; i++) {
        if (!m[i].job) continue;
        if (!m[i].cancelled) {
            compare_alone(e, &m[i]);
            compared += m[i].request.n;
        }
        an_job_unref(m[i].job);
    }
    return compared;
}

static size_t resident(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long long all, here = 0;
    if (f && fscanf(f, "%llu %llu", &all, &here) != 2) here = 0;
    if (f) fclose(f);
    return (size_t)here * (size_t)sysconf(_SC_PAGESIZE);
}

static void little_kept(an_engine_options *o)
{
    o->max_jobs_kept = 16;
    o->text_cache = 32;
}

/* The first test: the process is still clean. Everything planned is put to use, then looked at. */
TEST(resident_as_planned)
{
#if defined AN_SANITIZE_address || defined AN_SANITIZE_thread
    SKIP("a sanitizer brings memory of its own");
#endif
    an_engine *e = help_engine(models, "f32", little_kept);
    REQUIRE(e);
    an_job *job[24];
    for (int i = 0; i < 24; i++) {
        char prompt[64];
        snprintf(prompt, sizeof prompt, "picture %d", i);
        an_image_request r;
        an_image_request_default(&r);
        r.model = "emoji";
        r.prompt = prompt;
        r.steps = 1;
        r.client = prompt;
        job[i] = submit(e, &r);
    }
    for (int i = 0; i < 24; i++) {
        if (job[i]) help_wait(job[i]);
        an_job_unref(job[i]);
    }
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    double planned = (double)s.planned_bytes / 1048576, is = (double)resident() / 1048576;
    printf("  planned %.1f MiB, resident %.1f MiB\n", planned, is);
    CHECK_MSG(is <= 1.1 * planned && is >= 0.9 * planned, "planned %.1f MiB, resident %.1f MiB",
              planned, is);
    an_engine_free(e);
}

static void check_dtype(const char *dtype)
{
    const char *seed = getenv("AN_TEST_SEED");
    state = seed ? strtoull(seed, NULL, 10) : (uint64_t)(an_now_s() * 1e9);
    printf("  AN_TEST_SEED=%llu\n", (unsigned long long)state);
    an_engine *e = help_engine(models, dtype, NULL);
    REQUIRE(e);
    int compared = 0, crowds = 0;
    double until = an_now_s() + test_seconds() / 2;
    do {
        compared += crowd(e);
        crowds++;
    } while (an_now_s() < until);
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    printf("  %s: %d crowds, %d pictures compared, %.2f pictures a tick\n", dtype, crowds, compared,
           (double)s.rows[AN_STAGE_DENOISE] / (double)s.ticks[AN_STAGE_DENOISE]);
    CHECK(compared > 0);
    an_engine_free(e);
}

TEST(alone_or_in_company_f32)
{
    check_dtype("f32");
}

TEST(alone_or_in_company_bf16)
{
    check_dtype("bf16");
}

/* ---------------------------------------------------------------- one small thing at a time */

static an_engine_stats stats_of(an_engine *e)
{
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    return s;
}

/* Eight together make eight rows a tick, not eight ticks. */
TEST(pictures_of_one_size_advance_together)
{
    an_engine *e = help_engine(small, "f32", NULL);
    REQUIRE(e);
    an_job *job[8];
    help_gate gate;
    help_hold(e, &gate);
    const an_engine_stats before = stats_of(e);
    static const char *const sampler[] = {"euler", "ddim", "dpmpp_2m", "euler_a"};
    for (int i = 0; i < 8; i++) {
        an_image_request r;
        an_image_request_default(&r);
        r.model = "sd1";
        r.prompt = "owl";
        r.width = r.height = 64;
        r.steps = 30;
        r.sampler = sampler[i % 4];
        r.guidance_scale = i % 3 ? 5 : 1;
        job[i] = submit(e, &r);
    }
    help_release(&gate);
    for (int i = 0; i < 8; i++) {
        if (job[i]) help_wait(job[i]);
        an_job_unref(job[i]);
    }
    const an_engine_stats s = stats_of(e);
    const uint64_t rows = s.rows[AN_STAGE_DENOISE] - before.rows[AN_STAGE_DENOISE];
    double mean =
        (double)rows / (double)(s.ticks[AN_STAGE_DENOISE] - before.ticks[AN_STAGE_DENOISE]);
    CHECK_MSG(mean > 4, "%.2f pictures a tick", mean);
    CHECK_MSG(rows == 240, "%d rows", (int)rows);
    /* One prompt and one empty negative for all of them. */
    CHECK(s.text_cache_misses - before.text_cache_misses == 2);
    an_engine_free(e);
}

static void at_once(an_engine_options *o)
{
    o->max_running = o->max_batch = 16;
}

/* A batch of pictures, prompts of so many chunks (0: of one, two and eight by turns), fits the
 * memory that was planned for prompts of one: no tick fails and is run again one by one. */
static void check_chunks(const char *model, int chunks)
{
    enum { N = 16, STEPS = 12 };
    static const int turn[] = {1, 2, 8};
    an_engine *e = help_engine(small, "f32", at_once);
    REQUIRE(e);
    an_job *job[N];
    help_gate gate;
    help_hold(e, &gate);
    for (int i = 0; i < N; i++) {
        char prompt[256];
        int n = snprintf(prompt, sizeof prompt, "owl %d", i);
        for (int k = 1; k < (chunks ? chunks : turn[i % 3]); k++)
            n += snprintf(prompt + n, sizeof prompt - (size_t)n, " BREAK owl %d", k);
        an_image_request r;
        an_image_request_default(&r);
        r.model = model;
        r.prompt = prompt;
        r.a1111_prompt = true;
        r.steps = STEPS;
        job[i] = submit(e, &r);
    }
    help_release(&gate);
    for (int i = 0; i < N; i++) {
        if (!job[i]) continue;
        an_job_info info = help_wait(job[i]);
        CHECK_MSG(info.state == AN_JOB_DONE, "%s", info.error.message);
        an_job_unref(job[i]);
    }
    an_engine_stats s;
    an_engine_get_stats(e, &s);
    double mean = (double)s.rows[AN_STAGE_DENOISE] / (double)s.ticks[AN_STAGE_DENOISE];
    printf("  %s, %d chunks: %.2f pictures a tick, %d ticks run again\n", model, chunks, mean,
           (int)s.repeated);
    CHECK_MSG(s.repeated == 0, "%s, %d chunks: %d ticks did not fit and were run again", model,
              chunks, (int)s.repeated);
    CHECK_MSG(mean > 1, "%s, %d chunks: no two met", model, chunks);
    an_engine_free(e);
}

TEST(long_prompts_fit_the_memory_of_their_ticks)
{
    check_chunks("sd1", 2);
    check_chunks("sd1", 8);
    check_chunks("sdxl", 8);
    check_chunks("sd1", 0);
}

static uint64_t denoise_ticks(an_engine *e)
{
    return stats_of(e).ticks[AN_STAGE_DENOISE];
}

/* What the device thread counts when the job is over. */
typedef struct ending {
    an_engine *e;
    an_job *job;
    _Atomic uint64_t ticks;
} ending;

static void count_at_end(void *ctx)
{
    ending *end = ctx;
    if (!end->ticks && an_job_finished(end->job)) end->ticks = denoise_ticks(end->e);
}

static void many_steps(an_engine_options *o)
{
    o->max_steps = 1000;
}

/* Somebody with forty pictures of another size does not delay one small request by more than the
 * ticks that share the device with it. */
TEST(one_job_among_many)
{
    an_engine *e = help_engine(small, "f32", many_steps);
    REQUIRE(e);
    while (!an_engine_ready(e)) usleep(1000);
    an_job *many[40] = {0};
    an_image_request r;
    an_image_request_default(&r);
    r.model = "sd1";
    r.prompt = "owl";
    r.width = r.height = 64;
    r.sampler = "ddim";
    r.steps = 900;
    r.client = "many";
    for (int i = 0; i < 40; i++) many[i] = submit(e, &r);
    while (denoise_ticks(e) < 5) usleep(500);
    r.client = "one";
    r.width = r.height = 32;
    r.steps = 20;
    help_gate gate;
    help_hold(e, &gate);
    uint64_t before = denoise_ticks(e);
    an_job *one = submit(e, &r);
    REQUIRE(one);
    ending end = {.e = e, .job = one};
    int handle = an_job_watch(one, count_at_end, &end);
    help_release(&gate);
    an_job_info info = help_wait(one);
    while (!end.ticks) usleep(200); /* its watchers are told a moment after its end */
    an_job_unwatch(one, handle);
    uint64_t ticks = end.ticks - before;
    CHECK(info.state == AN_JOB_DONE);
    CHECK_MSG(ticks <= 2 * 20 + 6, "%d ticks for 20 steps", (int)ticks);
    int unfinished = 0;
    for (int i = 0; i < 40; i++) {
        if (many[i] && !an_job_finished(many[i])) unfinished++;
        if (many[i]) an_job_cancel(many[i]);
    }
    CHECK(unfinished > 20);
    for (int i = 0; i < 40; i++) an_job_unref(many[i]);
    an_job_unref(one);
    an_engine_free(e);
}

static void few_kept(an_engine_options *o)
{
    o->max_jobs_kept = 16;
    o->text_cache = 8;
}

TEST(memory_does_not_grow)
{
#if defined AN_SANITIZE_address || defined AN_SANITIZE_thread
    SKIP("a sanitizer's own memory grows");
#endif
    an_engine *e = help_engine(small, "f32", few_kept);
    REQUIRE(e);
    size_t early = 0;
    int requests = test_seconds() >= 30 ? 1200 : 400;
    for (int i = 0; i < requests; i++) {
        an_image_request r;
        an_image_request_default(&r);
        char prompt[64];
        snprintf(prompt, sizeof prompt, "picture number %d", i);
        r.model = "lcm";
        r.prompt = prompt;
        r.width = r.height = 8 + 8 * (i % 4);
        r.steps = 1;
        r.client = prompt; /* a new client each time */
        an_job *j = submit(e, &r);
        REQUIRE(j);
        help_wait(j);
        an_job_unref(j);
        if (i == requests / 4) early = resident();
    }
    size_t late = resident();
    printf("  %.1f MiB after %d requests, %.1f MiB after %d\n", (double)early / 1048576,
           requests / 4, (double)late / 1048576, requests);
    CHECK_MSG(late <= early + ((size_t)3 << 19), "grew by %.2f MiB",
              ((double)late - (double)early) / 1048576);
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
