/* generate.c: `anneal generate -p "..." -o x.png`: a picture without a server, with a progress bar.
 * With a language model named by -m it goes on with the prompt as text. */
#include "api/image_ask.h"
#include "bar.h"
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
    char left[48] = "";
    if (i->eta_s > 0 && i->step < i->steps) snprintf(left, sizeof left, ", %.1f s left", i->eta_s);
    bar_draw(i->steps ? (double)i->step / i->steps : 0, "step %d/%d%s", i->step, i->steps, left);
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
        bar_end();
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

/* How a picture is wanted, besides what the engine is told. */
typedef struct generate_ask {
    const char *prompt, *negative, *model, *sampler, *schedule, *spacing;
    const char *out, *n, *steps, *guidance, *rescale, *seed, *size, *rng, *clip_skip, *tokens;
    bool quiet, json;
} generate_ask;

/* What a machine wants to know of finished pictures; files is taken. */
static int print_pictures(an_job *job, json_t *files)
{
    an_job_params p;
    an_job_info i;
    an_job_params_get(job, &p);
    an_job_get(job, &i);
    json_t *v = json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:f, s:s, s:f, s:o}", "model", p.model,
                          "prompt", p.prompt, "sampler", p.sampler_class, "steps", p.steps, "width",
                          p.width, "height", p.height, "guidance_scale", p.guidance_scale, "rng",
                          p.rng == AN_RNG_CPU ? "cpu" : "gpu", "seconds", i.finished - i.started,
                          "files", files);
    if (v && p.negative_prompt)
        json_object_set_new(v, "negative_prompt", json_string(p.negative_prompt));
    return cli_print_json(v);
}

static an_status write_picture(an_job *job, int i, const char *out, const char *name, an_error *err)
{
    image_output o = {AN_PNG, 95, false};
    const char *dot = strrchr(out, '.');
    an_buf file;
    if (dot && !an_image_format_parse(dot + 1, &o.format)) o.format = AN_PNG;
    an_status s = image_file(job, i, &o, &file, err);
    if (s) return s;
    FILE *f = strcmp(out, "-") == 0 ? stdout : fopen(name, "wb");
    bool ok = f && fwrite(file.data, 1, file.len, f) == file.len;
    if (f && f != stdout) ok &= fclose(f) == 0;
    an_buf_free(&file);
    return ok ? AN_OK : an_fail(err, AN_IO, "%s could not be written: %s", name, strerror(errno));
}

static int write_pictures(an_job *job, const generate_ask *a, bool quiet)
{
    an_job_params p;
    an_result res;
    an_error err = {0};
    an_status s = AN_OK;
    json_t *files = json_array();
    an_job_params_get(job, &p);
    for (int i = 0; i < p.n && !s; i++) {
        char name[4096];
        file_name(a->out, i, p.n, name, sizeof name);
        s = write_picture(job, i, a->out, name, &err);
        if (s || !an_job_result(job, i, &res)) continue;
        if (!quiet) fprintf(stderr, "%s: seed %lld\n", name, (long long)res.seed);
        json_array_append_new(files,
                              json_pack("{s:s, s:I}", "path", name, "seed", (json_int_t)res.seed));
    }
    if (!s && a->json) return print_pictures(job, files);
    json_decref(files);
    return s ? cli_fail(&err) : CLI_OK;
}

static int run(an_engine *engine, const an_image_request *q, const generate_ask *a)
{
    an_job *job = NULL;
    an_job_info info;
    an_error err = {0};
    const bool quiet = a->quiet || !bar_wanted();
    if (an_engine_submit(engine, q, &job, &err) != AN_OK) return cli_fail(&err);
    an_job_get(job, &info);
    if (info.truncated)
        fprintf(stderr, "anneal: the prompt has %zu tokens; its end was cut\n", info.prompt_tokens);
    wait_for(job, quiet);
    an_job_get(job, &info);
    int rc = info.state == AN_JOB_DONE ? write_pictures(job, a, quiet) : cli_fail(&info.error);
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

static int run_text(const an_options *o, an_engine *engine, const an_image_request *q, int tokens,
                    bool json)
{
    json_t *body =
        json_pack("{s:s,s:s,s:i}", "model", q->model, "prompt", q->prompt, "max_tokens", tokens);
    if (body && q->seed >= 0) json_object_set_new(body, "seed", json_integer(q->seed));
    if (json) return cli_text_json(o, engine, TEXT_COMPLETIONS, body, NULL) ? CLI_OK : CLI_FAILED;
    if (!cli_text_print(o, engine, TEXT_COMPLETIONS, body, NULL)) return CLI_FAILED;
    putchar('\n');
    return CLI_OK;
}

/* ---------------------------------------------------------------- command */

static bool read_size(const char *text, an_image_request *q)
{
    int end = 0;
    if (!text || (sscanf(text, "%5dx%5d%n", &q->width, &q->height, &end) == 2 && !text[end]))
        return true;
    fprintf(stderr, "anneal: --size: '%s' is not WIDTHxHEIGHT\n", text);
    return false;
}

/* From the command line to a request; false after saying what is wrong. */
static bool read_ask(const generate_ask *a, const an_options *o, an_image_request *q, int *tokens)
{
    q->prompt = a->prompt;
    q->negative_prompt = a->negative;
    q->model = a->model;
    q->sampler = a->sampler;
    q->schedule = a->schedule;
    q->timestep_spacing = a->spacing;
    q->client = "cli";
    if (!cli_int("-n", a->n, 1, o->engine.max_n, &q->n) ||
        !cli_int("--steps", a->steps, 1, o->engine.max_steps, &q->steps) ||
        !cli_number("--guidance-scale", a->guidance, 0, 100, &q->guidance_scale) ||
        !cli_number("--guidance-rescale", a->rescale, 0, 1, &q->guidance_rescale) ||
        !cli_int("--clip-skip", a->clip_skip, 1, 64, &q->clip_skip) ||
        !cli_int("--answer-tokens", a->tokens, 1, o->engine.max_tokens, tokens) ||
        !cli_seed("--seed", a->seed, &q->seed) || !read_size(a->size, q) ||
        !output_ok(a->out, q->n))
        return false;
    if (a->rng && strcmp(a->rng, "cpu") != 0 && strcmp(a->rng, "gpu") != 0) {
        fprintf(stderr, "anneal: --rng: '%s' is not gpu or cpu\n", a->rng);
        return false;
    }
    if (!q->prompt) {
        fprintf(stderr, "anneal: what to draw? -p \"red apple\"\n");
        return false;
    }
    if (a->json && strcmp(a->out, "-") == 0) {
        fprintf(stderr, "anneal: --json and --output -: standard output takes one of them\n");
        return false;
    }
    q->rng = a->rng && strcmp(a->rng, "cpu") == 0 ? AN_RNG_CPU : AN_RNG_GPU;
    return true;
}

static int cmd_generate(int argc, char **argv)
{
    int rc = 0, tokens = 256;
    const char *operand = NULL;
    an_options o;
    an_error err = {0};
    an_engine *engine = NULL;
    an_image_request q;
    generate_ask a = {.out = "anneal.png"};
    an_image_request_default(&q);
    if (!cli_parse(&cli_generate, argc, argv, &a, &o, &operand, &rc)) return rc;
    if (!a.prompt) a.prompt = operand;
    if (!read_ask(&a, &o, &q, &tokens)) {
        an_options_free(&o);
        return CLI_USAGE;
    }
    an_log_set_level(AN_LOG_WARN);
    cli_default_models(&o);
    if (an_engine_new(&o.engine, &engine, &err) != AN_OK) {
        rc = cli_fail(&err);
    } else {
        rc = writes_text(engine, q.model) ? run_text(&o, engine, &q, tokens, a.json)
                                          : run(engine, &q, &a);
        an_engine_stop(engine, 0);
        chat_prompt_clear();
        an_engine_free(engine);
    }
    an_options_free(&o);
    return rc;
}

#define AT(field) offsetof(generate_ask, field)
static const cli_flag flags[] = {
    {"--prompt", "-p", "TEXT", CLI_TEXT, AT(prompt), "what to draw"},
    {"--output", "-o", "FILE", CLI_TEXT, AT(out),
     "file: .png, .jpg or .webp; - = standard output [anneal.png]"},
    {"--negative-prompt", NULL, "TEXT", CLI_TEXT, AT(negative), "what not to draw"},
    {"--model", "-m", "MODEL", CLI_TEXT, AT(model), "model id [the first]"},
    {"--size", NULL, "SIZE", CLI_TEXT, AT(size), "WIDTHxHEIGHT [the model's]"},
    {"--steps", "-s", "N", CLI_TEXT, AT(steps), "denoising steps [the model's]"},
    {"--guidance-scale", "-g", "X", CLI_TEXT, AT(guidance),
     "classifier-free guidance, 0 to 100 [the model's]"},
    {"--guidance-rescale", NULL, "X", CLI_TEXT, AT(rescale), "0 to 1 [0]"},
    {"--sampler", NULL, "NAME", CLI_TEXT, AT(sampler),
     "diffusers class, k-diffusion or A1111 name"},
    {"--schedule", NULL, "NAME", CLI_TEXT, AT(schedule), "karras, exponential, beta, lu, ..."},
    {"--timestep-spacing", NULL, "linspace|leading|trailing", CLI_TEXT, AT(spacing),
     "which of the trained timesteps are taken [the model's]"},
    {"--seed", NULL, "N", CLI_TEXT, AT(seed), "same seed, same picture [random]"},
    {"--rng", NULL, "gpu|cpu", CLI_TEXT, AT(rng), "noise as torch draws it [gpu]"},
    {"--clip-skip", NULL, "N", CLI_TEXT, AT(clip_skip), "stop the text encoder N layers early"},
    {"-n", NULL, "N", CLI_TEXT, AT(n), "pictures [1]"},
    {"--answer-tokens", NULL, "N", CLI_TEXT, AT(tokens), "of a language model: longest text [256]"},
    {"--quiet", "-q", NULL, CLI_SWITCH, AT(quiet), "no progress bar"},
    {"--json", NULL, NULL, CLI_SWITCH, AT(json),
     "tell what was made, for machines: files and seeds, or the text as /v1/completions answers"},
    CLI_END};
const cli_command cli_generate = {
    "generate",
    cmd_generate,
    "make a picture, or go on with a text, without a server",
    "-p PROMPT [-o FILE] [options]",
    "Makes a picture without a server. With -m and a language model the prompt is continued as "
    "text; `anneal chat` converses.",
    "PROMPT",
    flags,
    true};
