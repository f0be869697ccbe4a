/* decode.h: the batch of a tick of text, between decode.c and draw.c. */
#ifndef ENGINE_DECODE_H
#define ENGINE_DECODE_H

#include "state.h"

/* One sequence's part of the tick. */
typedef struct an_part {
    an_task *task;
    int n, want; /* tokens, rows of logits */
    int logits;  /* the first of its rows */
    double flops;
    an_status status;
    an_error error;
    bool drew, ended;
    an_drawn drawn;
    bool sampled; /* the device draws its token: */
    an_sample_row row;
    int32_t token; /* as it came from there */
} an_part;

struct an_decode {
    an_slot *slot;
    int n, tokens, wants;
    bool decoding; /* some sequence waits for its next token */
    double flops, seconds;
    an_part part[AN_SEQ_MAX];
    an_lm_row row[AN_SEQ_MAX];
    an_task *line[AN_SEQ_MAX];
    an_job *held[AN_SEQ_MAX];
    an_part *draw[AN_SEQ_MAX]; /* those whose last row of logits becomes a token */
    int draws;
    _Atomic int next_draw;
    /* What the device draws from: rows of one call, and the edits of all of the tick's. */
    an_sample_row sample[AN_SEQ_MAX];
    int32_t token[AN_SEQ_MAX];
    an_logit_edit edit[AN_EDITS_MOST];
    _Atomic int edits;
};

/* draw.c. Before the network runs: what the device has to know to draw the tokens of this tick that
 * it can draw; the rest is drawn here, from logits. Device thread. */
void an_draws_plan(an_unit *u, an_decode *b);
/* After it: tokens drawn by the device, logits of the other rows, for part[first .. first + n - 1].
 * Failures are the lane's. */
void an_draws_fetch(an_decode *b, an_lane *l, int first, int n);
/* A token for each of b->draw, side by side: part.drawn, or part.status. -1: none can follow. */
void an_draws_make(an_unit *u, an_decode *b);

#endif
