/* fields.h: reading a JSON object field by field. Each reader leaves its output alone when the
 * field is absent or null, checks type and range otherwise, and remembers the name, so that what
 * nobody asked for can be named in a warning. The first fault is kept; later reads do nothing. */
#ifndef ANNEAL_FIELDS_H
#define ANNEAL_FIELDS_H

#include "http.h"

#define MAX_FIELDS 96
/* Picture or answer i of a request uses seed + i: no request has as many as there is room above. */
#define MAX_SEED (INT64_MAX - 4096)

typedef struct fields {
    json_t *object; /* borrowed */
    an_error err;   /* err.status AN_OK = nothing wrong so far */
    const char *seen[MAX_FIELDS];
    int n_seen;
} fields;

void fields_init(fields *f, json_t *object);
bool fields_ok(const fields *f);
/* True if the field is there and not null (and nothing failed before). */
bool field_present(fields *f, const char *name);
void field_string(fields *f, const char *name, size_t max_bytes, const char **out); /* borrowed */
/* Is v a whole number? 20.0, which some clients write for 20, is one. out may be NULL. */
bool json_whole(const json_t *v, int64_t *out);
void field_int(fields *f, const char *name, int64_t min, int64_t max, int64_t *out);
void field_int32(fields *f, const char *name, int64_t min, int64_t max, int *out);
void field_number(fields *f, const char *name, double min, double max, double *out);
void field_bool(fields *f, const char *name, bool *out);
json_t *field_object(fields *f, const char *name); /* borrowed, NULL if absent */
/* One of the NULL-terminated choices; *out becomes its index. */
void field_choice(fields *f, const char *name, const char *const *choices, int *out);
void fields_fail(fields *f, const char *name, const char *fmt, ...) AN_PRINTF(3, 4);
/* Appends "unknown field 'x' was ignored" for every field nobody asked for. */
void fields_unknown(const fields *f, json_t *warnings);

#endif
