/* Models whose files change between the scan at start and their load: another model in the same
 * place is refused, as requests are checked and buffers sized by what the scan has seen; one that
 * cannot be read for a while is served again when it can be. */
#include "test.h"
#include "text_help.h"

#include <jansson.h>

static char models[512];
static const int32_t prompt[6] = {5, 6, 7, 8, 9, 10};

static void path_of(char *out, size_t size, const char *name, const char *file)
{
    snprintf(out, size, "%s/%s/%s", models, name, file);
}

/* Puts llama's config into the place of the model's, but for one number; key NULL: as it is. */
static bool put_config(const char *name, const char *key, int value)
{
    char path[1200];
    json_t *j = json_load_file(AN_GOLDEN "/llm/llama/model/config.json", 0, NULL);
    bool ok = j && (!key || json_object_set_new(j, key, json_integer(value)) == 0);
    path_of(path, sizeof path, name, "config.json");
    unlink(path); /* a link into the goldens at first */
    ok = ok && json_dump_file(j, path, 0) == 0;
    json_decref(j);
    return ok;
}

static an_engine *ready_engine(void)
{
    an_engine *e = help_engine(models, "f32", NULL);
    while (e && !an_engine_ready(e)) usleep(1000);
    return e;
}

static an_status submit(an_engine *e, const char *model, an_job **j, an_error *err)
{
    an_text_request r;
    an_text_request_default(&r);
    r.model = model;
    r.ids = prompt;
    r.n_ids = 6;
    r.max_tokens = 4;
    r.ignore_eos = true;
    *j = NULL;
    return an_engine_submit_text(e, &r, j, err);
}

/* How the job ended; *why of a failure, also of one at submit. */
static an_job_state tell(an_engine *e, const char *model, an_error *why)
{
    an_job *j;
    if (submit(e, model, &j, why)) return AN_JOB_FAILED;
    an_job_info info = help_wait(j);
    *why = info.error;
    an_job_unref(j);
    return info.state;
}

/* Configs are all that the scan reads: a smaller number in one is a smaller model until the load.
 */
TEST(another_model_is_refused)
{
    static const struct {
        const char *key, *says;
        int value;
    } change[] = {{"vocab_size", "vocab was 256 and is 512", 256},
                  {"max_position_embeddings", "context_len was 128 and is 512", 128}};
    REQUIRE(text_make_speaker(models, "shifty", 512));
    for (int i = 0; i < 2; i++) {
        REQUIRE(put_config("shifty", change[i].key, change[i].value));
        an_engine *e = ready_engine();
        REQUIRE(e && put_config("shifty", NULL, 0));
        an_error why = {0};
        CHECK(tell(e, "shifty", &why) == AN_JOB_FAILED && why.status == AN_INVALID);
        CHECK_MSG(strstr(why.message, change[i].says) && strstr(why.message, "restart"), "%s",
                  why.message);
        CHECK_STR(why.param, "model");
        CHECK(tell(e, "shifty", &why) == AN_JOB_FAILED && why.status == AN_NOT_FOUND);
        CHECK_MSG(tell(e, "llama", &why) == AN_JOB_DONE, "%s", why.message);
        an_engine_stats s;
        an_engine_get_stats(e, &s);
        CHECK(s.device_ok && text_all_free(e));
        an_engine_free(e);
    }
    text_unmake_speaker(models, "shifty");
}

/* The model's folder becomes a link to itself, which cannot be read, and comes back. */
static bool take_away(const char *name, bool back)
{
    char path[1200], aside[1200];
    snprintf(path, sizeof path, "%s/%s", models, name);
    snprintf(aside, sizeof aside, "%s/.%s", models, name);
    if (back) return unlink(path) == 0 && rename(aside, path) == 0;
    return rename(path, aside) == 0 && symlink(name, path) == 0;
}

static bool add_template(const char *name)
{
    char path[1200];
    path_of(path, sizeof path, name, "tokenizer_config.json");
    FILE *f = fopen(path, "w");
    if (!f) return false;
    fprintf(f, "{\"chat_template\":\"{{ messages[0].content }}\"}");
    return fclose(f) == 0;
}

/* What cannot be read now is no broken model: weights, tokenizer and template are read again. */
TEST(back_after_a_failure)
{
    char path[1200];
    REQUIRE(text_make_speaker(models, "remote", 512) && add_template("remote"));
    an_engine *e = ready_engine();
    REQUIRE(e);
    static const char *const name[] = {"remote", "llama"}; /* fails at its tokenizer; its load */
    const an_template *t;
    const char *bos, *eos;
    an_error why = {0};
    an_model_entry m;
    for (int i = 0; i < 2; i++) {
        REQUIRE(take_away(name[i], false));
        for (int k = 0; k < 2; k++) {
            CHECK(tell(e, name[i], &why) == AN_JOB_FAILED);
            CHECK_MSG(why.status == AN_IO && strstr(why.message, "Too many levels"), "%s: %s",
                      name[i], why.message);
        }
        CHECK(i || an_engine_template(e, name[i], &t, &bos, &eos, &why) == AN_IO);
        CHECK(an_engine_model_find(e, name[i], AN_KIND_TEXT, &m, &why) == AN_OK && m.ok);
        REQUIRE(take_away(name[i], true));
        why = (an_error){0};
        CHECK_MSG(tell(e, name[i], &why) == AN_JOB_DONE, "%s: %s", name[i], why.message);
    }
    CHECK_MSG(an_engine_template(e, "remote", &t, &bos, &eos, &why) == AN_OK && t, "%s",
              why.message);
    CHECK(text_all_free(e));
    an_engine_free(e);
    path_of(path, sizeof path, "remote", "tokenizer_config.json");
    unlink(path);
    text_unmake_speaker(models, "remote");
}

static void little_memory(an_engine_options *o)
{
    o->memory_bytes = (size_t)7 << 20; /* a picture model or one for text */
    o->device.threads = 2;
}

static void little_memory_one_thread(an_engine_options *o)
{
    little_memory(o); /* threads have scratch: with one, both fit, but for the state of a picture */
    o->device.threads = 1;
}

static int count_lines(FILE *f, const char *with)
{
    char line[1024];
    int n = 0;
    rewind(f);
    while (fgets(line, sizeof line, f)) n += strstr(line, with) != NULL;
    return n;
}

/* An idle model makes way for the other, or for the state of its picture, which is little. */
static void check_turns(void (*adjust)(an_engine_options *o))
{
    an_engine *e = help_engine(models, "f32", adjust);
    REQUIRE(e);
    for (int i = 0; i < 3; i++) {
        an_error why = {0};
        CHECK_MSG(tell(e, "llama", &why) == AN_JOB_DONE, "%s", why.message);
        an_image_request p;
        an_image_request_default(&p);
        p.model = "sd1";
        p.prompt = "owl";
        p.steps = 1;
        an_job *j = NULL;
        CHECK_MSG(an_engine_submit(e, &p, &j, &why) == AN_OK, "%s", why.message);
        if (!j) continue;
        const an_job_info info = help_wait(j);
        CHECK_MSG(info.state == AN_JOB_DONE, "%s", info.error.message);
        an_job_unref(j);
    }
    an_engine_free(e);
}

TEST(by_turns)
{
    check_turns(little_memory);
    check_turns(little_memory_one_thread);
}

/* A long answer, and a picture that has to wait until its end. */
static void answer_then_picture(an_engine *e)
{
    an_error err = {0};
    an_text_request r;
    an_text_request_default(&r);
    r.model = "llama";
    r.ids = prompt;
    r.n_ids = 6;
    r.max_tokens = 400;
    r.ignore_eos = true;
    an_job *answer = NULL, *picture = NULL;
    CHECK_MSG(an_engine_submit_text(e, &r, &answer, &err) == AN_OK, "%s", err.message);
    an_job_info info = {.state = AN_JOB_QUEUED};
    while (answer && info.state == AN_JOB_QUEUED) an_job_get(answer, &info);
    an_image_request p;
    an_image_request_default(&p);
    p.model = "sd1";
    p.prompt = "owl";
    p.steps = 1;
    CHECK_MSG(an_engine_submit(e, &p, &picture, &err) == AN_OK, "%s", err.message);
    if (answer) CHECK(help_wait(answer).state == AN_JOB_DONE);
    if (picture) {
        info = help_wait(picture);
        CHECK_MSG(info.state == AN_JOB_DONE, "%s", info.error.message);
    }
    an_job_unref(answer);
    an_job_unref(picture);
}

/* While the answer holds the memory, the model that does not fit beside it is loaded in vain once,
 * not at every token. */
TEST(waits_for_memory_without_loading)
{
    FILE *log = tmpfile();
    int kept = dup(STDERR_FILENO), vain = 0;
    an_engine *e = help_engine(models, "f32", little_memory);
    REQUIRE(log && kept >= 0 && e);
    while (!an_engine_ready(e)) usleep(1000);
    REQUIRE(dup2(fileno(log), STDERR_FILENO) >= 0);
    for (int i = 0; i < 10 && vain == 0; i++) { /* on a busy machine the answer may be first */
        answer_then_picture(e);
        vain = count_lines(log, "error loading model 'sd1'");
    }
    dup2(kept, STDERR_FILENO);
    close(kept);
    CHECK_MSG(vain >= 1 && vain <= 3, "%d times in vain", vain);
    fclose(log);
    an_engine_free(e);
}

int main(int argc, char **argv)
{
    if (!text_link_models(models, sizeof models)) return 1;
    int r = test_main(argc, argv);
    text_unlink_models(models);
    return r;
}
