/* cli.c: what the sub-commands share. */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_REST 64

int cli_fail(const an_error *err)
{
    fprintf(stderr, "anneal: %s\n", err->message);
    return 1;
}

static void add_models(an_options *o, const char *dir)
{
    if (o->n_models == AN_MAX_MODEL_DIRS || !an_is_dir(dir)) return;
    o->models[o->n_models] = an_strdup(dir);
    if (o->models[o->n_models]) o->n_models++;
}

void cli_default_models(an_options *o)
{
    char path[4096];
    if (o->n_models) return;
    if (an_data_path("demo", path, sizeof path)) add_models(o, path);
    const char *home = getenv("HOME"), *cache = getenv("XDG_CACHE_HOME");
    if (cache && *cache)
        snprintf(path, sizeof path, "%s/anneal/models", cache);
    else
        snprintf(path, sizeof path, "%s/.cache/anneal/models", home ? home : "");
    add_models(o, path);
}

static void print_help(const cli_flag *flags, const char *usage)
{
    printf("%s\n\n", usage);
    for (const cli_flag *f = flags; f->name; f++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s%s", f->alias ? f->alias : "", f->alias ? ", " : "",
                 f->name, f->value ? " VALUE" : "");
        printf("  %-28s %s\n", left, f->help);
    }
    printf("\nOptions of `anneal serve` about devices, models and limits work here too.\n");
}

static const cli_flag *find_flag(const cli_flag *flags, const char *arg, size_t len)
{
    for (const cli_flag *f = flags; f->name; f++)
        if ((strlen(f->name) == len && memcmp(f->name, arg, len) == 0) ||
            (f->alias && strlen(f->alias) == len && memcmp(f->alias, arg, len) == 0))
            return f;
    return NULL;
}

static bool usage_error(int *exit_code, const char *what, const char *arg)
{
    fprintf(stderr, "anneal: %s '%s'; --help lists the options\n", what, arg);
    *exit_code = 2;
    return false;
}

bool cli_parse(int argc, char **argv, const cli_flag *flags, const char *usage, an_options *o,
               const char **positional, int *exit_code)
{
    char *rest[MAX_REST];
    int n_rest = 0;
    bool help = false;
    an_error err = {0};
    if (positional) *positional = NULL;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(flags, usage);
            *exit_code = 0;
            return false;
        }
        const char *eq = argv[i][0] == '-' ? strchr(argv[i], '=') : NULL;
        size_t len = eq ? (size_t)(eq - argv[i]) : strlen(argv[i]);
        const cli_flag *f = find_flag(flags, argv[i], len);
        if (f && f->set) {
            *f->set = true;
        } else if (f) {
            *f->value = eq ? eq + 1 : i + 1 < argc ? argv[++i] : NULL;
            if (!*f->value) return usage_error(exit_code, "a value is missing after", argv[i]);
        } else if (argv[i][0] != '-' && positional && !*positional) {
            *positional = argv[i];
        } else if (argv[i][0] == '-' && n_rest + 2 < MAX_REST) {
            rest[n_rest++] = argv[i];
            if (!eq && i + 1 < argc) rest[n_rest++] = argv[++i];
        } else {
            return usage_error(exit_code, "unexpected argument", argv[i]);
        }
    }
    if (an_options_parse(o, n_rest, rest, &help, &err) == AN_OK) return true;
    fprintf(stderr, "anneal: %s\n", err.message);
    an_options_free(o);
    *exit_code = 2;
    return false;
}

bool cli_number(const char *name, const char *text, double min, double max, double *out)
{
    char *end;
    if (!text) return true;
    double v = strtod(text, &end);
    if (end != text && !*end && v >= min && v <= max) {
        *out = v;
        return true;
    }
    fprintf(stderr, "anneal: %s: '%s' is not a number from %g to %g\n", name, text, min, max);
    return false;
}

bool cli_seed(const char *name, const char *text, int64_t *out)
{
    char *end;
    if (!text) return true;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end != text && !*end && errno == 0 && v >= -1) {
        *out = v;
        return true;
    }
    fprintf(stderr, "anneal: %s: '%s' is not an integer from -1 (random) to 2^63-1\n", name, text);
    return false;
}

bool cli_int(const char *name, const char *text, int min, int max, int *out)
{
    double v = *out;
    if (!cli_number(name, text, min, max, &v)) return false;
    *out = (int)v;
    return true;
}
