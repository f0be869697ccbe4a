/* grammar_schema.h: a JSON schema on its way to rules. grammar_schema.c decides what a schema is,
 * the other grammar_*.c write the rules of one kind of value each. Functions that make rules return
 * their number, -1 after gb_fail. */
#ifndef ANNEAL_TEXT_GRAMMAR_SCHEMA_H
#define ANNEAL_TEXT_GRAMMAR_SCHEMA_H

#include "grammar_impl.h"

#include <jansson.h>

/* Rules that all schemas share, made when first needed. */
typedef enum s_leaf {
    S_SPACE, /* at most one space, or a line end and its indentation: no endless white space */
    S_CHAR,  /* of a string: itself or an escape */
    S_STRING,
    S_NUMBER,
    S_INTEGER,
    S_BOOLEAN,
    S_NULL,
    S_VALUE,
    S_OBJECT,
    S_ARRAY,
    S_LEAVES
} s_leaf;

typedef struct s_ctx s_ctx;
typedef int (*s_make)(s_ctx *c, const json_t *schema);

typedef struct s_ref {
    const json_t *schema;
    s_make make; /* what of it the rule is */
    int rule;
} s_ref;

struct s_ctx {
    g_builder b;
    const json_t *root;
    int leaves[S_LEAVES]; /* rule + 1 */
    s_ref *refs;
    size_t n_refs, cap_refs;
    json_t **owned; /* schemas made by joining others: rules of $ref remember them */
    size_t n_owned, cap_owned;
    int merges, depth;
    char path[400]; /* JSON pointer of what is worked on */
    size_t path_len;
};

bool s_fail(s_ctx *c, const char *fmt, ...) AN_PRINTF(2, 3); /* AN_INVALID, with the path */
/* Goes to a part of the schema; path_len is set back by the caller. */
void s_enter(s_ctx *c, const char *key, const char *sub);

int s_leaf_rule(s_ctx *c, s_leaf which);
bool s_push_leaf(s_ctx *c, g_seq *s, s_leaf which);
bool s_push_rule(s_ctx *c, g_seq *s, int rule); /* -1: false */
int s_schema(s_ctx *c, const json_t *schema);
int s_object(s_ctx *c, const json_t *schema);
int s_array(s_ctx *c, const json_t *schema);
int s_string(s_ctx *c, const json_t *schema);
int s_number(s_ctx *c, const json_t *schema, bool integer);
/* A number >= 0 of the schema; other if it is not there. */
bool s_count(s_ctx *c, const json_t *schema, const char *key, long other, long *out);

/* What both x and y ask for: a new schema without $ref and allOf on top, owned by c. */
const json_t *s_merge(s_ctx *c, const json_t *x, const json_t *y);
/* The schema a $ref names; NULL after s_fail. */
const json_t *s_resolve(s_ctx *c, const json_t *ref);
const json_t *s_own(s_ctx *c, json_t *made); /* takes the reference; NULL: made is NULL */
bool s_is_annotation(const char *key);       /* says nothing about what is valid */

/* A regular expression (ECMA's, the regular part) as characters of a JSON string between the
 * quotes. */
int s_regex(s_ctx *c, const char *pattern, size_t len);
const char *s_format(const char *name); /* pattern of a format, NULL = unknown */

#endif
