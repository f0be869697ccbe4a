/* manual.h: what the tables of commands and options say, for people and for shells. Private to
 * server/cli. */
#ifndef ANNEAL_CLI_MANUAL_H
#define ANNEAL_CLI_MANUAL_H

#include "cli.h"

#include <stdio.h>

/* All commands in a line each. */
void manual_overview(FILE *to);
/* anneal.1, in man(7)'s macros. */
void manual_page(an_buf *b);
/* A completion script for "bash", "zsh" or "fish"; false for any other shell. */
bool completions_script(const char *shell, an_buf *b);

#endif
