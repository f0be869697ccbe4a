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

int cmd_models(int argc, char **argv)
{
    an_options o;
    int rc = 0;
    const cli_flag flags[] = {{NULL, NULL, NULL, NULL, NULL}};
    if (!cli_parse(argc, argv, flags, "usage: anneal models [--models DIR]", &o, NULL, &rc))
        return rc;
    cli_default_models(&o);
    an_log_set_level(AN_LOG_ERROR);
    an_error err = {0};
    an_engine *engine = NULL;
    o.engine.scan_only = true;
    if (an_engine_new(&o.engine, &engine, &err) != AN_OK) {
        an_options_free(&o);
        return cli_fail(&err);
    }
    an_model_entry *m = malloc(sizeof *m);
    for (int i = 0; m && an_engine_model_at(engine, i, m); i++) {
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
    free(m);
    an_engine_stop(engine, 0);
    an_engine_free(engine);
    an_options_free(&o);
    return 0;
}

int cmd_info(int argc, char **argv)
{
    an_options o;
    const char *path = NULL;
    bool json = false;
    int rc = 0;
    an_buf b;
    an_error err = {0};
    const cli_flag flags[] = {{"--json", NULL, NULL, &json, "machine-readable"},
                              {NULL, NULL, NULL, NULL, NULL}};
    if (!cli_parse(argc, argv, flags, "usage: anneal info FILE|FOLDER [--json]", &o, &path, &rc))
        return rc;
    an_options_free(&o);
    if (!path) {
        fprintf(stderr, "anneal: info of what? anneal info FILE|FOLDER\n");
        return 2;
    }
    an_buf_init(&b, (size_t)256 << 20);
    if (an_checkpoint_describe(path, json, &b, &err) == AN_OK) return print_buf(&b);
    an_buf_free(&b);
    return cli_fail(&err);
}

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

int cmd_schedule(int argc, char **argv)
{
    an_options o;
    const char *sampler = NULL, *steps_text = NULL, *config = NULL, *name = NULL;
    bool json = false;
    int rc = 0, steps = 20;
    const cli_flag flags[] = {
        {"--sampler", "-s", &sampler, NULL, "diffusers class, k-diffusion or A1111 name"},
        {"--steps", "-n", &steps_text, NULL, "num_inference_steps [20]"},
        {"--schedule", NULL, &name, NULL, "karras, exponential, beta, lu, ..."},
        {"--config", "-c", &config, NULL,
         "scheduler_config.json as text, e.g. '{\"beta_start\":0.00085}'"},
        {"--json", NULL, NULL, &json, "print timesteps and sigmas instead of a curve"},
        {NULL, NULL, NULL, NULL, NULL}};
    if (!cli_parse(argc, argv, flags, "usage: anneal schedule --sampler NAME [--steps N] [--json]",
                   &o, NULL, &rc))
        return rc;
    an_options_free(&o);
    if (!cli_int("--steps", steps_text, 1, 1000, &steps)) return 2;
    if (!sampler) {
        fprintf(stderr, "anneal: which sampler? --sampler EulerDiscreteScheduler, dpmpp_2m, "
                        "\"DPM++ 2M Karras\", ...\n");
        return 2;
    }
    return schedule(sampler, name, config, steps, json);
}
