/* inspect.c: `anneal models`, `anneal info FILE`, `anneal schedule`: looking without generating. */
#include "anneal/solver.h"
#include "cli.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int print_buf(an_buf *b)
{
    fputs(b->data ? b->data : "", stdout);
    an_buf_free(b);
    return 0;
}

typedef struct models_ask {
    bool json, names;
} models_ask;

static json_t *model_json(const an_model_entry *m)
{
    if (!m->ok)
        return json_pack("{s:s, s:b, s:s, s:s}", "id", m->id, "served", 0, "path", m->path, "error",
                         m->error);
    json_t *v = json_pack("{s:s, s:b, s:s, s:s, s:s, s:I}", "id", m->id, "served", 1, "path",
                          m->path, "kind", an_kind_name(m->info.kind), "family", m->info.family,
                          "bytes", (json_int_t)m->info.weight_bytes_file);
    if (v && m->info.kind == AN_KIND_TEXT)
        json_object_set_new(v, "context", json_integer(m->info.context_len));
    else if (v)
        json_object_update_new(
            v, json_pack("{s:i, s:i}", "width", m->info.width, "height", m->info.height));
    return v;
}

static void print_model(const an_model_entry *m)
{
    if (m->ok && m->info.kind == AN_KIND_TEXT)
        printf("%-24s %-6s %-8s %9d %6.1f MB  %s\n", m->id, an_kind_name(m->info.kind),
               m->info.family, m->info.context_len, (double)m->info.weight_bytes_file / 1e6,
               m->path);
    else if (m->ok)
        printf("%-24s %-6s %-8s %4dx%-4d %6.1f MB  %s\n", m->id, an_kind_name(m->info.kind),
               m->info.family, m->info.width, m->info.height,
               (double)m->info.weight_bytes_file / 1e6, m->path);
    else
        printf("%-24s not served: %s\n", m->id, m->error);
}

static int cmd_models(int argc, char **argv)
{
    an_options o;
    models_ask ask = {0};
    int rc = 0;
    if (!cli_parse(&cli_models, argc, argv, &ask, &o, NULL, &rc)) return rc;
    cli_default_models(&o);
    an_log_set_level(AN_LOG_ERROR);
    an_error err = {0};
    an_engine *engine = NULL;
    o.engine.scan_only = true;
    if (an_engine_new(&o.engine, &engine, &err) != AN_OK) {
        an_options_free(&o);
        return cli_fail(&err);
    }
    json_t *all = ask.json ? json_array() : NULL;
    an_model_entry *m = malloc(sizeof *m);
    for (int i = 0; m && an_engine_model_at(engine, i, m); i++) {
        if (ask.json)
            json_array_append_new(all, model_json(m));
        else if (!ask.names)
            print_model(m);
        else if (m->ok)
            printf("%s\n", m->id);
    }
    free(m);
    an_engine_stop(engine, 0);
    an_engine_free(engine);
    an_options_free(&o);
    return all ? cli_print_json(json_pack("{s:o}", "data", all)) : CLI_OK;
}

static const cli_flag models_flags[] = {
    {"--json", NULL, NULL, CLI_SWITCH, offsetof(models_ask, json),
     "for machines: {\"data\":[...]}"},
    {"--names", NULL, NULL, CLI_SWITCH, offsetof(models_ask, names),
     "ids alone, a line each, of those that are served"},
    CLI_END};
const cli_command cli_models = {
    "models",
    cmd_models,
    "list the models that would be served, and why one is not",
    "[--models DIR] [--json]",
    "A line for each model of the folders: id, kind, family, size of a picture or tokens of "
    "context, weights, where it lies. A model that cannot be served says why.",
    NULL,
    models_flags,
    true};

typedef struct info_ask {
    bool json;
} info_ask;

static int cmd_info(int argc, char **argv)
{
    const char *path = NULL;
    info_ask ask = {0};
    int rc = 0;
    an_buf b;
    an_error err = {0};
    if (!cli_parse(&cli_info, argc, argv, &ask, NULL, &path, &rc)) return rc;
    if (!path) {
        fprintf(stderr, "anneal: info of what? anneal info FILE|FOLDER\n");
        return CLI_USAGE;
    }
    an_buf_init(&b, (size_t)256 << 20);
    if (an_checkpoint_describe(path, ask.json, &b, &err) == AN_OK) return print_buf(&b);
    an_buf_free(&b);
    return cli_fail(&err);
}

static const cli_flag info_flags[] = {
    {"--json", NULL, NULL, CLI_SWITCH, offsetof(info_ask, json), "for machines"}, CLI_END};
const cli_command cli_info = {"info",
                              cmd_info,
                              "what a weights file or model folder holds",
                              "FILE|FOLDER [--json]",
                              NULL,
                              "FILE|FOLDER",
                              info_flags,
                              false};

static int schedule(const char *sampler, const char *schedule_name, const char *config, int steps,
                    bool json)
{
    an_error err = {0};
    an_buf b;
    json_t *base = NULL, *overrides = NULL;
    an_solver *s = NULL;
    struct winsize size = {0};
    an_buf_init(&b, 1 << 20);
    an_status st = AN_OK;
    if (config) {
        st = an_json_parse_lenient(config, strlen(config), &base, &err);
        if (st == AN_OK && !json_is_object(base))
            st = an_fail(&err, AN_INVALID, "--config must be a JSON object");
        if (st != AN_OK) an_fail_prefix(&err, st, "--config");
    }
    if (st == AN_OK) st = an_sampler_resolve(sampler, schedule_name, &overrides, &err);
    if (st == AN_OK) st = an_solver_new(base, overrides, steps, &s, &err);
    if (st == AN_OK && json) {
        st = an_schedule_json(s, &b);
    } else if (st == AN_OK) {
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
        st = an_schedule_draw(s, size.ws_col > 20 ? size.ws_col : 80, 16, &b);
    }
    an_solver_free(s);
    json_decref(base);
    json_decref(overrides);
    if (st == AN_OK) {
        print_buf(&b);
        if (json) putchar('\n');
        return 0;
    }
    an_buf_free(&b);
    return cli_fail(&err);
}

typedef struct schedule_ask {
    const char *sampler, *steps, *config, *schedule;
    bool json;
} schedule_ask;

static int cmd_schedule(int argc, char **argv)
{
    schedule_ask ask = {0};
    int rc = 0, steps = 20;
    if (!cli_parse(&cli_schedule, argc, argv, &ask, NULL, NULL, &rc)) return rc;
    if (!cli_int("--steps", ask.steps, 1, 1000, &steps)) return CLI_USAGE;
    if (!ask.sampler) {
        fprintf(stderr, "anneal: which sampler? --sampler EulerDiscreteScheduler, dpmpp_2m, "
                        "\"DPM++ 2M Karras\", ...\n");
        return CLI_USAGE;
    }
    return schedule(ask.sampler, ask.schedule, ask.config, steps, ask.json);
}

#define AT(field) offsetof(schedule_ask, field)
static const cli_flag schedule_flags[] = {
    {"--sampler", "-s", "NAME", CLI_TEXT, AT(sampler),
     "diffusers class, k-diffusion or A1111 name"},
    {"--steps", "-n", "N", CLI_TEXT, AT(steps), "num_inference_steps [20]"},
    {"--schedule", NULL, "NAME", CLI_TEXT, AT(schedule), "karras, exponential, beta, lu, ..."},
    {"--config", "-c", "JSON", CLI_TEXT, AT(config),
     "scheduler_config.json as text, e.g. '{\"beta_start\":0.00085}'"},
    {"--json", NULL, NULL, CLI_SWITCH, AT(json), "print timesteps and sigmas instead of a curve"},
    CLI_END};
const cli_command cli_schedule = {"schedule",
                                  cmd_schedule,
                                  "timesteps and sigmas of a sampler, as a curve or JSON",
                                  "--sampler NAME [--steps N] [--json]",
                                  NULL,
                                  NULL,
                                  schedule_flags,
                                  false};
