/* grammar.h: which tokens may come next. A grammar (GBNF as llama.cpp has it, or one made from a JSON
 * schema) is compiled once; each sequence walks it with a matcher, and every tick asks for the mask of
 * tokens that keep the text a prefix of the language. */
#ifndef ANNEAL_GRAMMAR_H
#define ANNEAL_GRAMMAR_H

#include "anneal/text.h"

struct json_t;
typedef struct an_grammar an_grammar;
typedef struct an_matcher an_matcher;

typedef struct an_grammar_limits {
    size_t max_source; /* bytes of GBNF or schema, default 256 KiB */
    int max_rules;     /* default 20000, after expansion of repetitions */
    int max_repeat;    /* largest {m,n}, default 2000 */
    int max_stacks;    /* states alive at once in a matcher, default 4096 */
    int max_depth;     /* nesting of rules while matching, default 1000 */
} an_grammar_limits;
void an_grammar_limits_default(an_grammar_limits *l);

/* GBNF; its root rule is "root". AN_INVALID with line and column: unknown rules, left recursion,
 * syntax; AN_TOO_LARGE names the limit. */
an_status an_grammar_gbnf(const char *text, size_t len, const an_grammar_limits *limits,
                          an_grammar **out, an_error *err);
/* A JSON schema (draft 2020-12's usual part: type, enum, const, properties, required,
 * additionalProperties, items, prefixItems, minItems/maxItems, min/maxLength, pattern's regular part,
 * format date/time/uuid/..., minimum/maximum of integers, anyOf, oneOf, allOf of objects, $ref and
 * $defs also recursive). NULL = any JSON object. Keywords that cannot be enforced are AN_INVALID and
 * named, never dropped silently. */
an_status an_grammar_schema(const struct json_t *schema, const an_grammar_limits *limits,
                            an_grammar **out, an_error *err);
an_grammar *an_grammar_ref(an_grammar *g); /* counted, any thread */
void an_grammar_unref(an_grammar *g);      /* NULL is fine */

/* What matchers need of a vocabulary, once for its life; else the first matcher does it: tens of
 * milliseconds for 50000 tokens. Any thread. */
an_status an_grammar_prepare(const an_vocab *v, an_error *err);
/* v must outlive it. */
an_status an_matcher_new(an_grammar *g, const an_vocab *v, an_matcher **out, an_error *err);
an_matcher *an_matcher_clone(const an_matcher *m); /* NULL = no memory */
void an_matcher_free(an_matcher *m);
/* mask [room] bytes: 1 = token may come next. room is the model's count of logits: a tokenizer may
 * know fewer tokens (the rest are 0) or more (which cannot be drawn, and are not written). End tokens
 * are allowed exactly when the text so far is complete. False if the grammar's limits were passed:
 * the request fails, nobody else. */
bool an_matcher_mask(an_matcher *m, uint8_t *mask, size_t room);
/* Takes the chosen token; false if it was not allowed. */
bool an_matcher_accept(an_matcher *m, int32_t token);
bool an_matcher_complete(const an_matcher *m); /* the text so far is a sentence of the language */
bool an_matcher_only_end(an_matcher *m);       /* and nothing can follow */

#endif
