/* main.c: the one binary. Picks the sub-command; everything else is below. */
#include "cli.h"

#include <stdio.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"serve", cmd_serve, "serve pictures and text over HTTP"},
    {"generate", cmd_generate, "make a picture, or go on with a text, without a server"},
    {"chat", cmd_chat, "talk to a language model, in a terminal or through a pipe"},
    {"models", cmd_models, "list the models that would be served"},
    {"info", cmd_info, "what a weights file or model folder holds"},
    {"schedule", cmd_schedule, "timesteps and sigmas of a sampler, as a curve or JSON"},
    {"bench", cmd_bench, "time ops and whole ticks on this machine"},
};
#define COMMANDS (sizeof commands / sizeof *commands)

static int usage(FILE *to)
{
    fprintf(to,
            "anneal %s: one server for everybody's pictures and text\n\nusage: anneal COMMAND "
            "[options]\n\n",
            AN_VERSION);
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].help);
    fprintf(
        to,
        "\n`anneal COMMAND --help` is the manual of each. `anneal --version` tells the version.\n"
        "Normally:  anneal serve\n");
    return to == stdout ? 0 : 2;
}

int main(int argc, char **argv)
{
    if (argc < 2) return usage(stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return usage(stdout);
    if (strcmp(argv[1], "--version") == 0) {
        printf("anneal %s\n", AN_VERSION);
        return 0;
    }
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 2, argv + 2);
    fprintf(stderr, "anneal: no command '%s'\n\n", argv[1]);
    return usage(stderr);
}
