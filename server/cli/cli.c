/* cli.c: what the sub-commands share. */
#include "cli.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_REST 512
#define MAX_WORD 64

int cli_fail(const an_error *err)
{
    fprintf(stderr, "anneal: %s\n", err->message);
    return CLI_FAILED;
}

int cli_print_json(json_t *v)
{
    if (!v) {
        fprintf(stderr, "anneal: no memory for the answer\n");
        return CLI_FAILED;
    }
    json_dumpf(v, stdout, JSON_REAL_PRECISION(9) | JSON_COMPACT);
    putchar('\n');
    json_decref(v);
    return CLI_OK;
}

static void add_models(an_options *o, const char *dir)
{
    if (o->n_models == AN_MAX_MODEL_DIRS || !an_is_dir(dir)) return;
    o->models[o->n_models] = an_strdup(dir);
    if (o->models[o->n_models]) o->n_models++;
}

bool cli_cache_models(char *buf, size_t size)
{
    const char *home = getenv("HOME"), *cache = getenv("XDG_CACHE_HOME");
    int n = -1;
    if (cache && *cache)
        n = snprintf(buf, size, "%s/anneal/models", cache);
    else if (home && *home)
        n = snprintf(buf, size, "%s/.cache/anneal/models", home);
    return n >= 0 && (size_t)n < size;
}

void cli_default_models(an_options *o)
{
    char path[4096];
    if (o->n_models) return;
    if (an_data_path("demo", path, sizeof path)) add_models(o, path);
    if (cli_cache_models(path, sizeof path)) add_models(o, path);
}

/* ---------------------------------------------------------------- the nearest word */

/* Insertions, deletions, changes and swaps of neighbours between a and b (optimal string
 * alignment). */
static int distance(const char *a, const char *b)
{
    const int n = (int)strlen(a), m = (int)strlen(b);
    int d[3][MAX_WORD + 1];
    if (n > MAX_WORD || m > MAX_WORD) return MAX_WORD;
    for (int j = 0; j <= m; j++) d[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = d[i % 3], *above = d[(i + 2) % 3], *two = d[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                two[j - 2] + 1 < best)
                best = two[j - 2] + 1;
            now[j] = best;
        }
    }
    return d[n % 3][m];
}

const char *cli_nearest(const char *word, const char *(*name)(const void *ctx, int i),
                        const void *ctx)
{
    const char *best = NULL, *candidate;
    const size_t len = strlen(word);
    int least = len > 10 ? 4 : len > 4 ? 3 : 2; /* one more than is forgiven */
    for (int i = 0; (candidate = name(ctx, i)) != NULL; i++) {
        const int d = distance(word, candidate);
        if (d < least) {
            least = d;
            best = candidate;
        }
    }
    return best;
}

/* ---------------------------------------------------------------- parsing */

/* The command's own flags, then those of `anneal serve`. */
static const char *flag_at(const void *ctx, int i)
{
    const cli_command *c = ctx;
    an_option_info info;
    for (const cli_flag *f = c->flags; f && f->name; f++)
        if (i-- == 0) return f->name;
    for (size_t k = 0; c->serve_options && an_options_at(k, &info); k++)
        if (info.flag && i-- == 0) return info.flag;
    return NULL;
}

static bool is_serve_flag(const cli_command *c, const char *arg, size_t len)
{
    an_option_info info;
    for (size_t k = 0; c->serve_options && an_options_at(k, &info); k++)
        if (info.flag && strlen(info.flag) == len && memcmp(info.flag, arg, len) == 0) return true;
    return false;
}

static const cli_flag *find_flag(const cli_flag *flags, const char *arg, size_t len)
{
    for (const cli_flag *f = flags; f && f->name; f++)
        if ((strlen(f->name) == len && memcmp(f->name, arg, len) == 0) ||
            (f->alias && strlen(f->alias) == len && memcmp(f->alias, arg, len) == 0))
            return f;
    return NULL;
}

static bool usage_error(const cli_command *c, int *exit_code, const char *what, const char *arg)
{
    fprintf(stderr, "anneal: %s '%s'; `anneal %s --help` lists the options\n", what, arg, c->name);
    *exit_code = CLI_USAGE;
    return false;
}

static bool unknown_flag(const cli_command *c, int *exit_code, const char *arg, size_t len)
{
    char word[MAX_WORD + 1];
    snprintf(word, sizeof word, "%.*s", (int)len, arg);
    const char *near = cli_nearest(word, flag_at, c);
    fprintf(stderr, "anneal: unknown option '%s'%s%s%s; `anneal %s --help` lists them\n", arg,
            near ? " (did you mean " : "", near ? near : "", near ? "?)" : "", c->name);
    *exit_code = CLI_USAGE;
    return false;
}

static bool set_flag(const cli_flag *f, void *into, const char *value)
{
    char *field = (char *)into + f->offset;
    cli_list *list = (cli_list *)(void *)field;
    if (f->kind == CLI_TEXT) *(const char **)(void *)field = value;
    if (f->kind == CLI_SWITCH) *(bool *)(void *)field = true;
    if (f->kind != CLI_LIST) return true;
    if (list->n == CLI_MAX_LIST) return false;
    list->item[list->n++] = value;
    return true;
}

/* What is read so far. */
typedef struct parsing {
    const cli_command *command;
    void *into;
    const char *operand;
    char *rest[MAX_REST]; /* for the serve table */
    int n_rest;
    bool no_more_flags; /* after "--" */
} parsing;

/* argv[*i], and what belongs to it. */
static bool parse_one(parsing *p, int argc, char **argv, int *i, int *exit_code)
{
    char *arg = argv[*i];
    if (p->no_more_flags || arg[0] != '-' || !arg[1]) {
        if (!p->command->operand || p->operand)
            return usage_error(p->command, exit_code, "unexpected argument", arg);
        p->operand = arg;
        return true;
    }
    if (strcmp(arg, "--") == 0) return p->no_more_flags = true;
    const char *eq = strchr(arg, '=');
    const size_t len = eq ? (size_t)(eq - arg) : strlen(arg);
    const cli_flag *f = find_flag(p->command->flags, arg, len);
    if (!f && !is_serve_flag(p->command, arg, len))
        return unknown_flag(p->command, exit_code, arg, len);
    if (f && f->kind == CLI_SWITCH) {
        if (eq) return usage_error(p->command, exit_code, "no value is taken by", arg);
        return set_flag(f, p->into, NULL);
    }
    char *value = eq ? arg + len + 1 : *i + 1 < argc ? argv[++*i] : NULL;
    if (!value) return usage_error(p->command, exit_code, "a value is missing after", arg);
    if (f)
        return set_flag(f, p->into, value) ||
               usage_error(p->command, exit_code, "given too often:", f->name);
    if (p->n_rest + 2 > MAX_REST)
        return usage_error(p->command, exit_code, "more options than are read:", arg);
    p->rest[p->n_rest++] = arg;
    if (!eq) p->rest[p->n_rest++] = value;
    return true;
}

bool cli_parse(const cli_command *c, int argc, char **argv, void *into, an_options *o,
               const char **operand, int *exit_code)
{
    parsing p = {.command = c, .into = into};
    bool help = false;
    an_error err = {0};
    for (int i = 0; i < argc; i++) {
        if (!p.no_more_flags && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
            cli_print_help(c);
            *exit_code = CLI_OK;
            return false;
        }
        if (!parse_one(&p, argc, argv, &i, exit_code)) return false;
    }
    if (operand) *operand = p.operand;
    if (!o || an_options_parse(o, p.n_rest, p.rest, &help, &err) == AN_OK) return true;
    fprintf(stderr, "anneal: %s\n", err.message);
    an_options_free(o);
    *exit_code = CLI_USAGE;
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
    if (*out == v) return true;
    fprintf(stderr, "anneal: %s: '%s' is not a whole number\n", name, text);
    return false;
}
