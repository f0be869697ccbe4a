/* sequence.h: what text needs of the engine: language models loaded (language.c), their sequences
 * and pages (sequence.c), the tick that advances them (decode.c). Device thread, unless said. */
#ifndef ENGINE_SEQUENCE_H
#define ENGINE_SEQUENCE_H

#include "answer.h"
#include "pages.h"
#include "sampling.h"

struct an_slot;
struct an_task;

/* ---------------------------------------------------------------- a loaded language model */

/* FLOPs of a tick are known before it runs: so much a token, so much a key that it looks at, so
 * much a row of logits. Found by three counting runs at load. */
typedef struct an_lm_price {
    double token, key, want;
} an_lm_price;

typedef struct an_language {
    an_kv *kv;
    an_pages *pages;
    int64_t positions; /* of one sequence: context and pool allow it. Lock to change */
    an_lm_price price;
    int tick_tokens, wants; /* of a tick: tokens, and rows of logits */
    float *logits;          /* device [wants, vocab] */
    float *host;            /* [wants, vocab] */
    uint8_t *mask;          /* of grammars: [AN_SAMPLERS, vocab] */
    uint32_t *bits;         /* the same for a device that draws: [wants, vocab / 32]; else NULL */
    size_t bytes;           /* of all that, counted in e->kv_bytes */
    double flop_s;          /* measured: seconds a FLOP of prompts */
    double decode_s;        /* measured: seconds of a tick of single tokens. Lock, as flop_s */
} an_language;

/* What is opened from the files once and never changes: any thread, under tok_lock. */
#define AN_ENDS 64
typedef struct an_tongue {
    an_vocab *vocab;
    an_template *chat;
    char *bos, *eos;
    bool vocab_tried, chat_tried;
    an_error vocab_error, chat_error;
    int32_t end[AN_ENDS]; /* tokens that end an answer */
    int ends;
} an_tongue;

/* ---------------------------------------------------------------- a job's part */

/* What a text request asked for; never changes after submit, but for `echo` and `usage`. */
typedef struct an_text_job {
    int32_t *ids; /* [n_ids], then dropped with the input */
    int n_ids, max_tokens, min_tokens, logprobs;
    an_sampling sampling;
    struct an_token_bias *bias;
    int32_t *ban, *stop_id; /* ban: end tokens, then stop ids */
    int n_end, n_stop_id;
    an_stops stops;
    bool ignore_eos, ban_eos, special;
    an_grammar *grammar;
    char *salt;
    const an_vocab *vocab; /* of the slot; NULL: ids only */
    const an_tongue *tongue;
    an_answer *answer; /* [n] */
    bool echo;
    an_answer prompt;    /* with echo: the prompt's tokens */
    bool prompt_there;   /* lock */
    an_text_usage usage; /* lock */
    double last_token;
} an_text_job;
void an_text_job_free(an_text_job *t, int n);
void an_text_job_drop_input(an_text_job *t);
size_t an_text_job_bytes(const an_text_job *t, int n);

/* One choice while it runs. */
typedef struct an_seq {
    int32_t *ids; /* prompt, then what was drawn: [n_prompt + max_tokens] */
    int n_prompt, n_ids;
    int done;         /* positions whose keys and values are in the pages */
    int32_t *page;    /* of positions 0..15, 16..31, ... */
    an_prefix *name;  /* [page]: of the full ones, as far as they are known */
    int pages, named; /* pages held (0: it waits for them), names known */
    int published;    /* pages that others can find */
    bool placed_once;
    double last_token;
    an_matcher *matcher;
} an_seq;

#endif
