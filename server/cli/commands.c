/* commands.c: the table of commands, `anneal help` and `anneal completions`. */
#include "manual.h"

#include <errno.h>
#include <stdio.h>

const cli_command *const cli_commands[] = {
    &cli_serve, &cli_generate, &cli_chat,  &cli_key,  &cli_pull,        &cli_models,
    &cli_info,  &cli_schedule, &cli_bench, &cli_help, &cli_completions, NULL};

const cli_command *cli_find(const char *name)
{
    for (int i = 0; cli_commands[i]; i++)
        if (strcmp(cli_commands[i]->name, name) == 0) return cli_commands[i];
    return NULL;
}

static const char *command_at(const void *ctx, int i)
{
    (void)ctx;
    return cli_commands[i] ? cli_commands[i]->name : NULL;
}

static int unknown(const char *name)
{
    const char *near = cli_nearest(name, command_at, NULL);
    fprintf(stderr, "anneal: no command '%s'%s%s%s\n", name, near ? ": did you mean `anneal " : "",
            near ? near : "", near ? "`?" : "");
    if (!near) {
        fputc('\n', stderr);
        manual_overview(stderr);
    }
    return CLI_USAGE;
}

int cli_main(int argc, char **argv)
{
    int rc;
    if (argc < 2) {
        manual_overview(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) name = cli_help.name;
    const cli_command *c = cli_find(name);
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
        rc = printf("anneal %s\n", AN_VERSION) < 0;
    else
        rc = c ? c->run(argc - 2, argv + 2) : unknown(name);
    /* a full disk is a failure, although nobody looked at what printf said */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "anneal: standard output: %s\n", strerror(errno));
        if (rc == CLI_OK) rc = CLI_FAILED;
    }
    return rc;
}

/* ---------------------------------------------------------------- help, completions */

static int print(an_buf *b)
{
    const bool ok = !b->failed && b->data;
    if (ok)
        fputs(b->data, stdout);
    else
        fprintf(stderr, "anneal: no memory for the answer\n");
    an_buf_free(b);
    return ok ? CLI_OK : CLI_FAILED;
}

typedef struct help_ask {
    bool man;
} help_ask;

static int cmd_help(int argc, char **argv)
{
    help_ask ask = {0};
    const char *name = NULL;
    int rc = 0;
    if (!cli_parse(&cli_help, argc, argv, &ask, NULL, &name, &rc)) return rc;
    if (ask.man) {
        an_buf b;
        an_buf_init(&b, 1 << 22);
        manual_page(&b);
        return print(&b);
    }
    if (!name) {
        manual_overview(stdout);
        return CLI_OK;
    }
    const cli_command *c = cli_find(name);
    if (!c) return unknown(name);
    cli_print_help(c);
    return CLI_OK;
}

static const cli_flag help_flags[] = {
    {"--man", NULL, NULL, CLI_SWITCH, offsetof(help_ask, man), "the whole manual, as a man page"},
    CLI_END};
const cli_command cli_help = {"help",
                              cmd_help,
                              "what a command does and takes",
                              "[COMMAND] [--man]",
                              "What a command does and takes; without one, which there are.",
                              "COMMAND",
                              help_flags,
                              false};

static int cmd_completions(int argc, char **argv)
{
    const char *shell = NULL;
    int rc = 0;
    an_buf b;
    if (!cli_parse(&cli_completions, argc, argv, NULL, NULL, &shell, &rc)) return rc;
    an_buf_init(&b, 1 << 22);
    if (shell && completions_script(shell, &b)) return print(&b);
    an_buf_free(&b);
    fprintf(stderr, "anneal: completions for which shell? bash, zsh or fish%s%s%s\n",
            shell ? ", not '" : "", shell ? shell : "", shell ? "'" : "");
    return CLI_USAGE;
}

const cli_command cli_completions = {
    "completions",
    cmd_completions,
    "a script that lets a shell complete commands and options",
    "bash|zsh|fish",
    "Prints a script that lets a shell complete commands, options and values. An installation puts "
    "it where the shells look; else: source <(anneal completions bash)",
    "bash|zsh|fish",
    NULL,
    false};
