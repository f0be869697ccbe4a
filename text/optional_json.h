/* optional_json.h: the small JSON files that a tokenizer's folder may have. Private to text/. */
#ifndef ANNEAL_TEXT_OPTIONAL_JSON_H
#define ANNEAL_TEXT_OPTIONAL_JSON_H

#include "anneal/base.h"

/* The object in dir/name, of at most max bytes, a new reference; NULL when the file is absent.
 * AN_INVALID when it holds no object. In open.c. */
an_status an_read_optional_json(const char *dir, const char *name, size_t max, struct json_t **out,
                                an_error *err);

#endif
