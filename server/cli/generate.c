/* generate.c: `anneal generate -p "..." -o x.png`: a picture without a server, with a progress bar.
 * With a language model named by -m it goes on with the prompt as text. */
#include "api/image_ask.h"
#include "text.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool news;
} waiter;

static void on_news(void *arg)
{
    waiter *w = arg;
    pthread_mutex_lock(&w->lock);
    w->news = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

static void draw_bar(const an_job_info *i)
{
    const int width = 32;
    int filled = i->steps ? width * i->step / i->steps : 0;
    fprintf(stderr, "\r  [");
    for (int k = 0; k < width; k++) fputs(k < filled ? "\u2588" : "\u2591", stderr);
    fprintf(stderr, "] step %d/%d", i->step, i->steps);
    if (i->eta_s > 0 && i->step < i->steps)
        fprintf(stderr, ", %.1f s left  ", i->eta_s);
    else
        fprintf(stderr, "               ");
    fflush(stderr);
}

/* Waits for the last event, drawing the bar when somebody looks. */
static void wait_for(an_job *job, bool quiet)
{
    waiter w = {.news = true};
    an_job_info i;
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.changed, NULL);
    int handle = an_job_watch(job, on_news, &w);
    while (!an_job_finished(job)) {
        pthread_mutex_lock(&w.lock);
        while (!w.news) pthread_cond_wait(&w.changed, &w.lock);
        w.news = false;
        pthread_mutex_unlock(&w.lock);
        an_job_get(job, &i);
        if (!quiet) draw_bar(&i);
    }
    an_job_unwatch(job, handle);
    if (!quiet) {
        an_job_get(job, &i);
        draw_bar(&i);
        fputc('\n', stderr);
    }
    pthread_cond_destroy(&w.changed);
    pthread_mutex_destroy(&w.lock);
}

/* x.png, or x-2.png for the second of several. */
static void file_name(const char *out, int index, int n, char *buf, size_t size)
{
    const char *dot = strrchr(out, '.'), *slash = strrchr(out, '/');
    if (!dot || (slash && dot < slash)) dot = out + strlen(out);
    if (n == 1)
        snprintf(buf, size, "%s", out);
    else
        snprintf(buf, size, "%.*s-%d%s", (int)(dot - out), out, index + 1, dot);
}

/* Whether OUT can be written, said before any work is done. */
static bool output_ok(const char *out, int n)
{
    const char *dot = strrchr(out, '.'), *slash = strrchr(out, '/');
    an_image_format format;
    if (strcmp(out, "-") == 0) {
        if (n > 1) fprintf(stderr, "anneal: --output -: standard output takes one picture\n");
        return n <= 1;
    }
    if (!dot || (slash && dot < slash) || !an_image_format_parse(dot + 1, &format)) {
        fprintf(stderr, "anneal: --output: '%s' must end in .png, .jpg or .webp\n", out);
        return false;
    }
    char folder[4096];
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - out) + 1 : 1, slash ? out : ".");
    if (access(folder, W_OK | X_OK) == 0) return true;
    fprintf(stderr, "anneal: --output: %s: %s\n", folder, strerror(errno));
    return false;
}

static int write_pictures(an_job *job, const char *out, bool quiet)
{
    an_job_params p;
    an_result res;
    an_error err = {0};
    image_output o = {AN_PNG, 95, false};
    const char *dot = strrchr(out, '.');
    if (dot && !an_image_format_parse(dot + 1, &o.format)) o.format = AN_PNG;
    an_job_params_get(job, &p);
    for (int i = 0; i < p.n; i++) {
        char name[4096];
        an_buf file;
        if (image_file(job, i, &o, &file, &err) != AN_OK) return cli_fail(&err);
        file_name(out, i, p.n, name, sizeof name);
        FILE *f = strcmp(out, "-") == 0 ? stdout : fopen(name, "wb");
        bool ok = f && fwrite(file.data, 1, file.len, f) == file.len;
        if (f && f != stdout) ok &= fclose(f) == 0;
        an_buf_free(&file);
        if (!ok) {
            an_fail(&err, AN_IO, "%s could not be written", name);
            return cli_fail(&err);
        }
        an_job_result(job, i, &res);
        if (!quiet) fprintf(stderr, "%s: seed %lld\n", name, (long long)res.seed);
    }
    return 0;
}

static int run(an_engine *engine, const an_image_request *q, const char *out, bool quiet)
{
    an_job *job = NULL;
    an_job_info info;
    an_error err = {0};
    if (an_engine_submit(engine, q, &job, &err) != AN_OK) return cli_fail(&err);
    an_job_get(job, &info);
    if (info.truncated)
        fprintf(stderr, "anneal: the prompt has %zu tokens; its end was cut\n", info.prompt_tokens);
    wait_for(job, quiet);
    an_job_get(job, &info);
    int rc = info.state == AN_JOB_DONE ? write_pictures(job, out, quiet) : cli_fail(&info.error);
    an_job_unref(job);
    return rc;
}

/* The name of a language model? */
static bool writes_text(an_engine *e, const char *model)
{
    an_model_entry *m = model ? calloc(1, sizeof *m) : NULL;
    bool text = m && an_engine_model_find(e, model, AN_KIND_TEXT, m, NULL) == AN_OK;
    free(m);
    return text;
}

static int run_text(const an_options *o, an_engine *engine, const an_image_request *q)
{
    json_t *body =
        json_pack("{s:s,s:s,s:i}", "model", q->model, "prompt", q->prompt, "max_tokens", 256);
    if (q->seed >= 0) json_object_set_new(body, "seed", json_integer(q->seed));
    if (!cli_text_print(o, engine, TEXT_COMPLETIONS, body, NULL)) return 1;
    putchar('\n');
    return 0;
}

int cmd_generate(int argc, char **argv)
{
    const char *out = "anneal.png", *n = NULL, *steps = NULL, *guidance = NULL, *rescale = NULL,
               *seed = NULL, *size = NULL, *rng = NULL, *clip_skip = NULL;
    bool quiet = false;
    int rc = 0;
    an_options o;
    an_image_request q;
    an_image_request_default(&q);
    const cli_flag flags[] = {
        {"--prompt", "-p", &q.prompt, NULL, "what to draw"},
        {"--output", "-o", &out, NULL,
         "file: .png, .jpg or .webp; - = standard output [anneal.png]"},
        {"--negative-prompt", NULL, &q.negative_prompt, NULL, "what not to draw"},
        {"--model", "-m", &q.model, NULL, "model id [the first]"},
        {"--size", NULL, &size, NULL, "WIDTHxHEIGHT [the model's]"},
        {"--steps", "-s", &steps, NULL, "denoising steps [the model's]"},
        {"--guidance-scale", "-g", &guidance, NULL,
         "classifier-free guidance, 0 to 100 [the model's]"},
        {"--guidance-rescale", NULL, &rescale, NULL, "0 to 1 [0]"},
        {"--sampler", NULL, &q.sampler, NULL, "diffusers class, k-diffusion or A1111 name"},
        {"--schedule", NULL, &q.schedule, NULL, "karras, exponential, beta, lu, ..."},
        {"--timestep-spacing", NULL, &q.timestep_spacing, NULL, "linspace, leading or trailing"},
        {"--seed", NULL, &seed, NULL, "same seed, same picture [random]"},
        {"--rng", NULL, &rng, NULL, "noise as torch draws it: gpu or cpu [gpu]"},
        {"--clip-skip", NULL, &clip_skip, NULL, "stop the text encoder N layers early"},
        {"-n", NULL, &n, NULL, "pictures [1]"},
        {"--quiet", "-q", NULL, &quiet, "no progress bar"},
        {NULL, NULL, NULL, NULL, NULL}};
    if (!cli_parse(argc, argv, flags,
                   "usage: anneal generate -p PROMPT [-o FILE] [options]\n\n"
                   "With -m LANGUAGE-MODEL the prompt is continued as text, up to 256 tokens; "
                   "`anneal chat` converses.",
                   &o, q.prompt ? NULL : &q.prompt, &rc))
        return rc;
    bool ok = cli_int("-n", n, 1, o.engine.max_n, &q.n) &&
              cli_int("--steps", steps, 1, o.engine.max_steps, &q.steps) &&
              cli_number("--guidance-scale", guidance, 0, 100, &q.guidance_scale) &&
              cli_number("--guidance-rescale", rescale, 0, 1, &q.guidance_rescale) &&
              cli_int("--clip-skip", clip_skip, 1, 64, &q.clip_skip) &&
              cli_seed("--seed", seed, &q.seed);
    int end = 0;
    if (ok && size && (sscanf(size, "%5dx%5d%n", &q.width, &q.height, &end) != 2 || size[end])) {
        fprintf(stderr, "anneal: --size: '%s' is not WIDTHxHEIGHT\n", size);
        ok = false;
    }
    ok = ok && output_ok(out, q.n);
    if (ok && rng && strcmp(rng, "cpu") != 0 && strcmp(rng, "gpu") != 0) {
        fprintf(stderr, "anneal: --rng: '%s' is not gpu or cpu\n", rng);
        ok = false;
    }
    if (ok && !q.prompt) {
        fprintf(stderr, "anneal: what to draw? -p \"red apple\"\n");
        ok = false;
    }
    if (!ok) {
        an_options_free(&o);
        return 2;
    }
    q.rng = rng && strcmp(rng, "cpu") == 0 ? AN_RNG_CPU : AN_RNG_GPU;
    q.client = "cli";
    an_log_set_level(AN_LOG_WARN);
    cli_default_models(&o);
    an_engine *engine = NULL;
    an_error err = {0};
    if (an_engine_new(&o.engine, &engine, &err) != AN_OK) {
        rc = cli_fail(&err);
    } else {
        rc = writes_text(engine, q.model) ? run_text(&o, engine, &q)
                                          : run(engine, &q, out, quiet || !isatty(STDERR_FILENO));
        an_engine_stop(engine, 0);
        chat_prompt_clear();
        an_engine_free(engine);
    }
    an_options_free(&o);
    return rc;
}
