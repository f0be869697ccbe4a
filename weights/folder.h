/* folder.h: private to the weights room. */
#ifndef ANNEAL_WEIGHTS_FOLDER_H
#define ANNEAL_WEIGHTS_FOLDER_H

#include <stdbool.h>

/* True for a name that stays inside its folder: no slash, no leading dot, no control character. */
bool an_plain_name(const char *name);

#endif
