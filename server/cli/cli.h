/* cli.h: the sub-commands of the one binary. Each gets the arguments after its name and returns the
 * exit code: 0 fine, 1 failed, 2 wrong usage. */
#ifndef ANNEAL_CLI_H
#define ANNEAL_CLI_H

#include "options.h"

int cmd_serve(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_models(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_schedule(int argc, char **argv);
int cmd_bench(int argc, char **argv);

/* Without --models: the shipped demo and ~/.cache/anneal/models, those that exist. */
void cli_default_models(an_options *o);

/* A small flag reader for the commands that are not `serve`: takes "--flag value", "--flag=value"
 * and
 * "-x value" for every entry; flags of the serve table (--device, --models, ...) go to `rest`. */
typedef struct cli_flag {
    const char *name, *alias; /* "--prompt", "-p" */
    const char **value;       /* takes a value */
    bool *set;                /* or is a switch */
    const char *help;
} cli_flag;
/* False after printing what is wrong, or the help (*exit_code says which). positional may be NULL.
 */
bool cli_parse(int argc, char **argv, const cli_flag *flags, const char *usage, an_options *o,
               const char **positional, int *exit_code);
/* -1 = random. A double would lose seeds above 2^53. */
bool cli_seed(const char *name, const char *text, int64_t *out);
bool cli_int(const char *name, const char *text, int min, int max, int *out);
bool cli_number(const char *name, const char *text, double min, double max, double *out);
int cli_fail(const an_error *err); /* prints "anneal: message", returns 1 */

#endif
