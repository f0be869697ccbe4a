/* prompt_parse.h: A1111's attention syntax as pieces of text with a weight each. Private to the
 * room. */
#ifndef ANNEAL_TEXT_PROMPT_PARSE_H
#define ANNEAL_TEXT_PROMPT_PARSE_H

#include "anneal/base.h"

typedef struct prompt_piece {
    size_t at, len; /* in prompt_pieces.text */
    double weight;
} prompt_piece;

typedef struct prompt_pieces {
    an_buf text; /* the pieces' text, one after the other */
    prompt_piece *pieces;
    size_t n, cap;
} prompt_pieces;

/* Deepest nesting of brackets of one kind: each level costs a pass over what it encloses. */
#define MAX_PROMPT_DEPTH 256
/* Weights beyond this are refused (1.1 to the 145th power is below it). */
#define MAX_PROMPT_WEIGHT 1e6

/* text is valid UTF-8. At least one piece comes back, neighbours differ in weight. AN_INVALID on a
 * weight that is not a number or too large, on brackets nested too deep. out is to be freed in any
 * case. */
an_status an_prompt_parse(const char *text, size_t len, prompt_pieces *out, an_error *err);
void an_prompt_pieces_free(prompt_pieces *p);
/* The place of the word BREAK, where a new chunk begins. */
bool an_prompt_piece_is_break(const prompt_pieces *p, const prompt_piece *piece);

#endif
