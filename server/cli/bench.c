/* bench.c: `anneal bench`: how fast the ops and whole ticks of a model run here, and what share of
 * the machine that is. */
#include "anneal/bench.h"
#include "bench_load.h"
#include "bench_roofline.h"
#include "bench_ticks.h"
#include "cli.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_ROW_COUNTS 8
#define AT_ONCE        8

typedef struct bench_ask {
    const char *model, *only;
    bool ops, ticks, json;
    int width, height; /* 0 = the model's */
    int rows[MAX_ROW_COUNTS], n_rows;
    bool stages[AN_STAGE_COUNT];
    double seconds;
} bench_ask;

typedef struct bench {
    const bench_ask *ask;
    an_device *device;
    an_dtype dtype, weights;
    double peak_flops, peak_bytes;
    json_t *report; /* with --json */
} bench;

/* ---------------------------------------------------------------- printing */

static void print_tick(bench *b, const bench_tick *t, const bench_plan *p, const an_model_info *m)
{
    const long long width = (long long)p->w * m->factor, height = (long long)p->h * m->factor;
    const double rate = t->flops / t->median;
    if (b->report) {
        json_array_append_new(json_object_get(b->report, "ticks"),
                              json_pack("{s:s, s:I, s:I, s:i, s:f, s:f, s:i, s:f, s:f}", "stage",
                                        an_stage_name(t->stage), "width", (json_int_t)width,
                                        "height", (json_int_t)height, "rows", t->rows, "seconds",
                                        t->median, "best_seconds", t->best, "runs", t->runs,
                                        "flops", t->flops, "share_of_peak", rate / b->peak_flops));
        return;
    }
    char name[64];
    if (t->stage == AN_STAGE_TEXT)
        snprintf(name, sizeof name, "%s", an_stage_name(t->stage));
    else
        snprintf(name, sizeof name, "%s %lldx%lld", an_stage_name(t->stage), width, height);
    printf("%-20s %3d row%s %12.3f ms  (best %.3f of %d) %10.3f ms a row %8.3f TFLOP/s %5.1f %%\n",
           name, t->rows, t->rows == 1 ? " " : "s", t->median * 1e3, t->best * 1e3, t->runs,
           t->median * 1e3 / t->rows, rate / 1e12, 100 * rate / b->peak_flops);
    fflush(stdout);
}

/* What batching is worth: so many at once against the same number in turn. */
static void print_batching(bench *b, const bench_tick *at_once, const bench_tick *in_turn,
                           const char *what)
{
    const double gain = in_turn->median / at_once->median;
    if (b->report) {
        json_array_append_new(json_object_get(b->report, "batching"),
                              json_pack("{s:s, s:i, s:f, s:f, s:f}", "what", what, "count",
                                        in_turn->times, "at_once_seconds", at_once->median,
                                        "in_turn_seconds", in_turn->median, "gain", gain));
        return;
    }
    printf("%d %s at once %.3f ms, in turn %.3f ms: %.2f times faster at once (wanted: 1.50)\n",
           in_turn->times, what, at_once->median * 1e3, in_turn->median * 1e3, gain);
    fflush(stdout);
}

/* ---------------------------------------------------------------- ticks */

static an_status measure_denoise(bench *b, bench_rig *g, const bench_plan *p,
                                 const an_model_info *m, an_error *err)
{
    bench_tick t[MAX_ROW_COUNTS];
    bool batching = false;
    for (int i = 0; i < b->ask->n_rows; i++) {
        t[i] = (bench_tick){.stage = AN_STAGE_DENOISE, .rows = b->ask->rows[i], .times = 1};
        batching |= b->ask->rows[i] == AT_ONCE;
    }
    an_status s = bench_measure(g, t, b->ask->n_rows, b->ask->seconds, err);
    for (int i = 0; i < b->ask->n_rows && !s; i++) print_tick(b, &t[i], p, m);
    /* A row is one branch of one picture: with guidance a picture is two. */
    for (int each = 1; each <= 2 && batching && !s; each++) {
        if (AT_ONCE * each > p->max_rows) break;
        bench_tick pair[2] = {
            {.stage = AN_STAGE_DENOISE, .rows = AT_ONCE * each, .times = 1},
            {.stage = AN_STAGE_DENOISE, .rows = each, .times = AT_ONCE},
        };
        s = bench_measure(g, pair, 2, b->ask->seconds, err);
        if (!s) print_batching(b, &pair[0], &pair[1], each == 1 ? "rows" : "guided pictures");
    }
    return s;
}

static an_status measure_model(bench *b, an_checkpoint *c, an_model *model, an_error *err)
{
    const an_model_info *m = an_model_describe(model);
    const bench_ask *ask = b->ask;
    bench_plan p = {.max_rows = 1};
    an_status s = bench_plan_size(m, ask->width, ask->height, &p, err);
    if (s) return s;
    memcpy(p.stages, ask->stages, sizeof p.stages);
    for (int i = 0; i < ask->n_rows && p.stages[AN_STAGE_DENOISE]; i++)
        if (ask->rows[i] > p.max_rows) p.max_rows = ask->rows[i];
    bench_rig *g = NULL;
    s = bench_rig_new(b->device, model, c, &p, &g, err);
    for (int stage = 0; stage < AN_STAGE_COUNT && !s; stage++) {
        if (!p.stages[stage]) continue;
        if (stage == AN_STAGE_DENOISE) {
            s = measure_denoise(b, g, &p, m, err);
            continue;
        }
        bench_tick t = {.stage = (an_stage)stage, .rows = 1, .times = 1};
        s = bench_measure(g, &t, 1, ask->seconds, err);
        if (!s) print_tick(b, &t, &p, m);
    }
    bench_rig_free(g);
    return s;
}

/* The model's folder, by looking at the model folders as the server does. */
static an_status find_model(const bench_ask *ask, const an_options *o, an_model_entry *out,
                            an_error *err)
{
    an_engine *engine = NULL;
    an_engine_options look = o->engine;
    look.scan_only = true;
    an_status s = an_engine_new(&look, &engine, err);
    if (s) return s;
    s = an_engine_model_find(engine, ask->model, AN_KIND_IMAGE, out, err);
    if (!s && !out->ok) s = an_fail(err, AN_INVALID, "%s: %s", out->id, out->error);
    an_engine_stop(engine, 0);
    an_engine_free(engine);
    return s;
}

static an_status run_ticks(bench *b, const an_options *o, an_error *err)
{
    an_checkpoint *c = NULL;
    an_model *model = NULL;
    an_model_entry *e = malloc(sizeof *e);
    if (!e) return an_fail(err, AN_NO_MEMORY, "no memory for a model's description");
    an_status s = find_model(b->ask, o, e, err);
    if (!s) s = an_checkpoint_open(e->path, &c, err);
    double begun = an_now_s();
    if (!s) s = an_model_load(b->device, c, b->dtype, b->weights, NULL, NULL, &model, err);
    if (!s && b->report) {
        json_object_set_new(b->report, "model", json_string(e->id));
        json_object_set_new(b->report, "load_seconds", json_real(an_now_s() - begun));
    } else if (!s) {
        printf("%s: loaded in %.2f s, weights %.1f MiB\n", e->id, an_now_s() - begun,
               (double)an_model_weight_bytes(model) / 1048576);
    }
    if (!s) s = measure_model(b, c, model, err);
    an_model_free(model);
    an_checkpoint_close(c);
    free(e);
    return s;
}

/* ---------------------------------------------------------------- the command */

static an_status run_all(const bench_ask *ask, const an_options *o, an_error *err)
{
    bench b = {.ask = ask};
    an_status s = an_device_open(&o->engine.device, &b.device, err);
    if (s) return s;
    b.dtype = an_device_best_dtype(b.device);
    if (strcmp(o->dtype, "f32") == 0) b.dtype = AN_F32;
    if (strcmp(o->dtype, "bf16") == 0) b.dtype = AN_BF16;
    b.weights = strcmp(o->weights, "fp8") == 0 ? AN_F8_E4M3 : b.dtype;
    s = an_bench_peaks(b.device, b.dtype, &b.peak_flops, &b.peak_bytes, err);
    if (!s && ask->json) {
        b.report =
            json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:[], s:[]}", "version", AN_VERSION, "device",
                      an_device_description(b.device), "dtype", an_dtype_name(b.dtype), "threads",
                      an_device_threads(b.device), "peak_flops", b.peak_flops, "peak_bytes",
                      b.peak_bytes, "ticks", "batching");
        if (!b.report) s = an_fail(err, AN_NO_MEMORY, "no memory for a report");
    }
    if (!s && ask->ops && !ask->json) {
        an_bench_options ops = {.only = ask->only, .seconds = ask->seconds, .dtype = b.dtype};
        s = an_bench_ops(b.device, &ops, stdout, err);
        putchar('\n');
    }
    if (!s && ask->ticks) {
        if (!b.report)
            printf("%s\nwhole ticks, %s; peaks: %.3f TFLOP/s from registers, %.1f GB/s copying\n",
                   an_device_description(b.device), an_dtype_name(b.dtype), b.peak_flops / 1e12,
                   b.peak_bytes / 1e9);
        s = run_ticks(&b, o, err);
    }
    if (!s && b.report) {
        json_dumpf(b.report, stdout, JSON_REAL_PRECISION(6) | JSON_COMPACT);
        putchar('\n');
    }
    json_decref(b.report);
    an_device_close(b.device);
    return s;
}

/* "1,2,8" */
static bool parse_rows(const char *text, bench_ask *ask)
{
    if (!text) return true;
    ask->n_rows = 0;
    for (const char *p = text;; p++) {
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || v < 1 || v > BENCH_MAX_ROWS || ask->n_rows == MAX_ROW_COUNTS ||
            (*end && *end != ',')) {
            fprintf(stderr, "anneal: --rows: '%s' is not a list of up to %d numbers, 1 to %d\n",
                    text, MAX_ROW_COUNTS, BENCH_MAX_ROWS);
            return false;
        }
        ask->rows[ask->n_rows++] = (int)v;
        if (!*end) return true;
        p = end;
    }
}

/* "text,denoise" */
static bool parse_stages(const char *text, bench_ask *ask)
{
    if (!text) return true;
    memset(ask->stages, 0, sizeof ask->stages);
    for (const char *p = text;;) {
        size_t len = strcspn(p, ",");
        int stage = 0;
        while (stage < AN_STAGE_COUNT && (strlen(an_stage_name((an_stage)stage)) != len ||
                                          memcmp(an_stage_name((an_stage)stage), p, len) != 0))
            stage++;
        if (stage == AN_STAGE_COUNT) {
            fprintf(stderr, "anneal: --stage: '%.*s' is not text, denoise, decode or encode\n",
                    (int)len, p);
            return false;
        }
        ask->stages[stage] = true;
        if (!p[len]) return true;
        p += len + 1;
    }
}

/* "989,3350": TFLOP/s and GB/s */
static bool parse_limits(const char *text, roofline_ask *r)
{
    int end = 0;
    double tflops, gbytes;
    if (!text) return true;
    if (sscanf(text, "%lf,%lf%n", &tflops, &gbytes, &end) == 2 && !text[end] && tflops > 0 &&
        gbytes > 0 && tflops < 1e9 && gbytes < 1e9) {
        r->peak_flops = tflops * 1e12;
        r->peak_bytes = gbytes * 1e9;
        return true;
    }
    fprintf(stderr, "anneal: --limits: '%s' is not TFLOP/s,GB/s, such as 989,3350\n", text);
    return false;
}

static an_status run_roofline(const bench_ask *ask, roofline_ask *r, const an_options *o,
                              an_error *err)
{
    an_model_entry *e = NULL;
    r->model = ask->model;
    r->json = ask->json;
    r->width = ask->width;
    r->height = ask->height;
    r->rows = ask->rows;
    r->n_rows = ask->n_rows;
    an_status s = AN_OK;
    if (!r->model || !strchr(r->model, '/')) { /* not a path: an id */
        if (!(e = malloc(sizeof *e))) return an_fail(err, AN_NO_MEMORY, "no memory");
        s = find_model(ask, o, e, err);
        r->model = e->path;
    }
    if (!s) s = bench_roofline(r, o, err);
    free(e);
    return s;
}

/* The command line, as it is written. */
typedef struct bench_line {
    const char *model, *size, *rows, *stages, *seconds, *only, *limits, *context;
    bool no_ops, no_ticks, json, roofline, made_up;
    load_line load;
} bench_line;

/* Asks a server; needs no device. */
static int run_load(const bench_line *l, const bench_ask *ask)
{
    an_error err = {0};
    load_ask load = {.rates = {1, 2, 4},
                     .n_rates = 3,
                     .model = ask->model,
                     .json = ask->json,
                     .width = ask->width,
                     .height = ask->height,
                     .seconds = l->seconds ? ask->seconds : 20,
                     .timeout = 120,
                     .seed = 1,
                     .prompt_words = 64,
                     .max_tokens = 64};
    if (!load_read(&l->load, &load)) return CLI_USAGE;
    return bench_load(&load, &err) == AN_OK ? CLI_OK : cli_fail(&err);
}

static bool parse_size(const char *text, bench_ask *ask)
{
    int end = 0;
    if (!text || (sscanf(text, "%5dx%5d%n", &ask->width, &ask->height, &end) == 2 && !text[end] &&
                  ask->width > 0 && ask->height > 0))
        return true;
    fprintf(stderr, "anneal: --size: '%s' is not WIDTHxHEIGHT\n", text);
    return false;
}

static int cmd_bench(int argc, char **argv)
{
    roofline_ask roof = {.context = 512, .peak_flops = 989e12, .peak_bytes = 3350e9}; /* H100 SXM */
    int rc = 0;
    an_options o;
    an_error err = {0};
    bench_line l = {0};
    bench_ask ask = {
        .rows = {1, 2, 4, 8, 16},
        .n_rows = 5,
        .stages = {[AN_STAGE_TEXT] = true, [AN_STAGE_DENOISE] = true, [AN_STAGE_DECODE] = true},
        .seconds = 0.5};
    if (!cli_parse(&cli_bench, argc, argv, &l, &o, NULL, &rc)) return rc;
    ask.model = l.model;
    ask.only = l.only;
    ask.json = l.json;
    ask.ops = !l.no_ops;
    ask.ticks = !l.no_ticks;
    roof.made_up = l.made_up;
    if (parse_rows(l.rows, &ask) && parse_stages(l.stages, &ask) &&
        cli_number("--seconds", l.seconds, 0, 600, &ask.seconds) && parse_limits(l.limits, &roof) &&
        cli_int("--context", l.context, 1, 8192, &roof.context) && parse_size(l.size, &ask)) {
        if (l.load.url) {
            an_options_free(&o);
            return run_load(&l, &ask);
        }
        an_log_set_level(AN_LOG_WARN);
        cli_default_models(&o);
        const an_status s =
            l.roofline ? run_roofline(&ask, &roof, &o, &err) : run_all(&ask, &o, &err);
        if (s != AN_OK) rc = cli_fail(&err);
    } else {
        rc = CLI_USAGE;
    }
    an_options_free(&o);
    return rc;
}

#define AT(field) offsetof(bench_line, field)
static const cli_flag flags[] = {
    {"--model", "-m", "MODEL", CLI_TEXT, AT(model), "model id [the first]"},
    {"--size", NULL, "SIZE", CLI_TEXT, AT(size), "WIDTHxHEIGHT [the model's]"},
    {"--rows", NULL, "LIST", CLI_TEXT, AT(rows), "rows that denoise at once [1,2,4,8,16]"},
    {"--stage", NULL, "LIST", CLI_TEXT, AT(stages),
     "of text,denoise,decode,encode [text,denoise,decode]"},
    {"--seconds", NULL, "X", CLI_TEXT, AT(seconds),
     "to spend on each line, 0 = run it once [0.5]; of each rate [20]"},
    {"--only", NULL, "TEXT", CLI_TEXT, AT(only), "ops whose line contains this"},
    {"--no-ops", NULL, NULL, CLI_SWITCH, AT(no_ops), "whole ticks alone"},
    {"--no-ticks", NULL, NULL, CLI_SWITCH, AT(no_ticks), "ops alone"},
    {"--json", NULL, NULL, CLI_SWITCH, AT(json), "whole ticks, for machines"},
    {"--roofline", NULL, NULL, CLI_SWITCH, AT(roofline),
     "what a tick's ops cost, and the least time a GPU needs for them [on simt, not computed]"},
    {"--limits", NULL, "X,Y", CLI_TEXT, AT(limits), "the GPU's: TFLOP/s,GB/s [989,3350: H100]"},
    {"--context", NULL, "N", CLI_TEXT, AT(context), "tokens before the one that is decoded [512]"},
    {"--made-up-weights", NULL, NULL, CLI_SWITCH, AT(made_up),
     "-m is a folder of configs (a path with a slash), its weights are random numbers"},
    {"--load", NULL, "URL", CLI_TEXT, AT(load.url),
     "http://HOST:PORT: requests at random (Poisson) to a server, none waits for another"},
    {"--rate", NULL, "LIST", CLI_TEXT, AT(load.rate),
     "requests a second, one rate after the other [1,2,4]"},
    {"--sweep", NULL, NULL, CLI_SWITCH, AT(load.sweep),
     "doubles the first rate until the server falls behind"},
    {"--mix", NULL, "X:Y", CLI_TEXT, AT(load.mix),
     "pictures to chats [equal parts of what is served]"},
    {"--seed", NULL, "N", CLI_TEXT, AT(load.seed), "of arrivals and prompts [1]"},
    {"--key", NULL, "KEY", CLI_TEXT, AT(load.key), "the server's API key"},
    {"--steps", NULL, "N", CLI_TEXT, AT(load.steps), "of a picture [the model's]"},
    {"--prompt-words", NULL, "N", CLI_TEXT, AT(load.prompt_words), "of a chat's question [64]"},
    {"--max-tokens", NULL, "N", CLI_TEXT, AT(load.max_tokens), "of a chat's answer [64]"},
    {"--timeout", NULL, "SECONDS", CLI_TEXT, AT(load.timeout), "until a request is given up [120]"},
    {"--svg", NULL, "FILE", CLI_TEXT, AT(load.svg), "draws latency against load into this file"},
    CLI_END};
const cli_command cli_bench = {"bench",     cmd_bench, "time ops and whole ticks on this machine",
                               "[options]", NULL,      NULL,
                               flags,       true};
