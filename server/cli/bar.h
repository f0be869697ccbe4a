/* bar.h: a progress bar on standard error, where a person looks at it. Private to server/cli. */
#ifndef ANNEAL_CLI_BAR_H
#define ANNEAL_CLI_BAR_H

#include "anneal/base.h"

/* Is standard error a terminal that can go back to a line's beginning? */
bool bar_wanted(void);
/* Draws over what was drawn last: done is 0 to 1, what follows the bar is cut at the terminal's
 * edge. */
void bar_draw(double done, const char *fmt, ...) AN_PRINTF(2, 3);
void bar_end(void);   /* leaves the bar standing and goes to the next line */
void bar_clear(void); /* takes it away, for a message in its place */

#endif
