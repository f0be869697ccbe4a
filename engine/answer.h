/* answer.h: what a choice of a text job has said so far, as readers on other threads see it. It
 * grows on the device thread; what was shown once stays where it is until the job is gone, so that
 * a reader's pointers need no lock: an array that becomes too small is copied and the old one kept.
 */
#ifndef ENGINE_ANSWER_H
#define ENGINE_ANSWER_H

#include "anneal/engine.h"

/* A byte array that grows without pulling the ground from under its readers. */
typedef struct an_growing {
    char *data;
    size_t len, cap;
    void **old; /* outgrown arrays */
    int olds;
    size_t bytes; /* all of them */
} an_growing;

typedef struct an_stops {
    char **text;
    size_t *len;
    int n;
} an_stops;
an_status an_stops_copy(an_stops *s, const char *const *text, int n, an_error *err);
void an_stops_free(an_stops *s);

typedef struct an_answer {
    /* device thread */
    an_growing text;   /* all text, held back or not */
    an_growing tokens; /* an_token */
    an_growing tops;   /* pieces of an_top arrays, each of one growth */
    an_detok detok;
    const an_vocab *vocab; /* NULL: no text */
    const an_stops *stops;
    char *name;     /* of the stop id that ended it */
    size_t checked; /* text before this cannot end a stop string any more */
    /* written under the engine's lock */
    an_text shown;
} an_answer;

/* begins: no text comes before it; else a first space belongs to it, which some tokenizers drop. */
void an_answer_start(an_answer *a, const an_vocab *v, bool special, bool begins,
                     const an_stops *stops);
void an_answer_free(an_answer *a);
size_t an_answer_bytes(const an_answer *a);
/* Takes the next token; `top` is copied. silent: it ends the answer and is no part of the text.
 * may_stop: stop strings count by now. *stop becomes the stop string that its text completed, the
 * text being cut before it, or NULL. */
an_status an_answer_add(an_answer *a, const an_token *t, bool silent, bool may_stop,
                        const char **stop, an_error *err);
/* Nothing follows: an unfinished character becomes U+FFFD. Not after a stop string. */
an_status an_answer_end(an_answer *a, an_error *err);
/* The text of the token that stopped it, kept with the answer; NULL if it has none. */
const char *an_answer_name(an_answer *a, int32_t id);
/* Lets readers see all that can no longer become part of a stop string; all there is when the
 * answer has ended. Under the engine's lock. */
void an_answer_show(an_answer *a, bool ended);

#endif
