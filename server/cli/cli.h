/* cli.h: the sub-commands of the one binary. Each is a cli_command: what it is called, what it
 * takes, what it does. Parsing, --help, the man page and the shells' completions read these tables
 * and the one of `anneal serve` (options.h), so none of them can be forgotten. */
#ifndef ANNEAL_CLI_H
#define ANNEAL_CLI_H

#include "options.h"

/* What every command returns. Ctrl-C and SIGTERM end a command (but `serve`, which drains, and a
 * conversation) as the system ends programs, so that a shell sees 130 and 143. */
#define CLI_OK     0
#define CLI_FAILED 1
#define CLI_USAGE  2

#define CLI_MAX_LIST 64
typedef struct cli_list {
    const char *item[CLI_MAX_LIST];
    int n;
} cli_list;

typedef enum cli_kind { CLI_SWITCH, CLI_TEXT, CLI_LIST } cli_kind;

/* "--flag value", "--flag=value", "-x value"; a switch has no value, a list takes the flag again.
 * The value's name tells completion what it may be: FILE, DIR, MODEL or words with | between. */
typedef struct cli_flag {
    const char *name, *alias, *value; /* "--prompt", "-p", "TEXT" */
    cli_kind kind;
    size_t offset; /* of a bool, a const char * or a cli_list in the command's struct */
    const char *help;
} cli_flag;
#define CLI_END                                                                                    \
    {                                                                                              \
        NULL, NULL, NULL, CLI_SWITCH, 0, NULL                                                      \
    }

typedef struct cli_command {
    const char *name;
    int (*run)(int argc, char **argv); /* the arguments after the name; the exit code */
    const char *summary;               /* one line */
    const char *synopsis;              /* what follows the name */
    const char *about;                 /* paragraphs for --help, NULL = none */
    const char *operand;               /* what the one argument that is no flag is; NULL = none */
    const cli_flag *flags;             /* to CLI_END; NULL = none */
    bool serve_options;                /* those of `anneal serve` work here too */
} cli_command;

extern const cli_command cli_serve, cli_generate, cli_chat, cli_key, cli_pull, cli_models, cli_info,
    cli_schedule, cli_bench, cli_help, cli_completions;
/* All of them, in the order of the manual; NULL at the end. */
extern const cli_command *const cli_commands[];

/* argv[1..] is a command and its arguments: runs it. */
int cli_main(int argc, char **argv);
const cli_command *cli_find(const char *name);

/* Reads the command's flags into `into`, those of the serve table into o (NULL where the command
 * takes none), the argument that is no flag into *operand (NULL where there is none). False after
 * printing what is wrong, or the help (*exit_code says which). */
bool cli_parse(const cli_command *c, int argc, char **argv, void *into, an_options *o,
               const char **operand, int *exit_code);
/* --help of a command; manual.c. */
void cli_print_help(const cli_command *c);
/* The nearest of a few typing mistakes, or NULL: name(ctx, i) is the i-th candidate, NULL past the
 * last. */
const char *cli_nearest(const char *word, const char *(*name)(const void *ctx, int i),
                        const void *ctx);

/* Without --models: the shipped demo and cli_cache_models, those that exist. */
void cli_default_models(an_options *o);
/* $XDG_CACHE_HOME/anneal/models or ~/.cache/anneal/models; false if neither variable is set. */
bool cli_cache_models(char *buf, size_t size);

/* -1 = random. A double would lose seeds above 2^53. */
bool cli_seed(const char *name, const char *text, int64_t *out);
bool cli_int(const char *name, const char *text, int min, int max, int *out);
bool cli_number(const char *name, const char *text, double min, double max, double *out);
int cli_fail(const an_error *err); /* prints "anneal: message", returns CLI_FAILED */
/* Prints JSON (taken) and a line's end. CLI_FAILED if v is NULL: no memory. */
int cli_print_json(struct json_t *v);

#endif
