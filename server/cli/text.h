/* text.h: language models on the command line: one answer at a time, printed as it grows. */
#ifndef ANNEAL_CLI_TEXT_H
#define ANNEAL_CLI_TEXT_H

#include "api/text_ask.h"
#include "cli.h"

#include <signal.h>

/* Ctrl-C sets it; cli_text_print takes it back when it has stopped the answer. */
extern volatile sig_atomic_t cli_interrupted;
/* Ctrl-C no longer ends the program. */
void cli_catch_interrupt(void);

/* Parses body (taken) as a request of the dialect, submits it and writes the first choice to
 * standard output while it grows. *answer (may be NULL) is the whole text, malloc'ed. False after
 * printing what is wrong. */
bool cli_text_print(const an_options *o, an_engine *e, text_dialect d, json_t *body, char **answer);
/* The same, but nothing is written until the whole answer is: as the dialect's route has it. */
bool cli_text_json(const an_options *o, an_engine *e, text_dialect d, json_t *body, char **answer);

#endif
