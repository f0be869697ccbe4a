/* sampling.h: from one row of logits to one token. Nothing but this row goes in, so the same token
 * comes whatever else runs. The order of the steps is written at an_sampling in engine.h. */
#ifndef ENGINE_SAMPLING_H
#define ENGINE_SAMPLING_H

#include "anneal/engine.h"
#include "anneal/ops.h"

#define AN_SAMPLERS 8  /* rows drawn at once, most: each needs a room */
#define AN_TOP_MOST 64 /* logprobs of the most likely that a token can carry */

/* Memory of one caller at a time, reused for every row. Zero it first. */
typedef struct an_sampler_room {
    double *logit, *key;
    uint64_t *weight;
    int32_t *id, *heap;
    uint32_t *seen, epoch; /* the draw in which a token was edited last, and this one; from 1 on */
    int vocab;
    an_logit_edit *edit;
    size_t edits;
} an_sampler_room;
void an_sampler_room_free(an_sampler_room *r);
/* What a room takes for a vocabulary, bytes of the host. */
size_t an_sampler_room_bytes(int vocab);

typedef struct an_draw {
    const an_sampling *s;
    const float *logits; /* [vocab] */
    int vocab;
    const int32_t *ids; /* prompt and answer so far */
    int n_prompt, n_ids;
    const uint8_t *mask; /* of a grammar: [vocab], 0 = not allowed; or NULL */
    const int32_t *ban;  /* ids that may not come; each in the vocabulary */
    int n_ban;
    uint64_t seed;  /* of this choice */
    uint64_t index; /* tokens drawn before: the place in the choice's random stream */
    int logprobs;   /* as in an_text_request */
} an_draw;

typedef struct an_drawn {
    int32_t id;
    float logprob;
    int n_top;
    struct an_top top[AN_TOP_MOST];
} an_drawn;

/* AN_NOT_FOUND: bias, bans and mask leave no token; AN_INTERNAL: the logits hold a NaN or
 * +infinity.
 */
an_status an_sample(an_sampler_room *r, const an_draw *d, an_drawn *out, an_error *err);
/* The same choice as a device makes it (an_sample_tokens), but for d->logits, d->mask and
 * d->logprobs: those are the caller's. The edits are the room's, until it is used again. */
an_status an_sampling_row(an_sampler_room *r, const an_draw *d, an_sample_row *out, an_error *err);
/* What an_sample would have given, from what a device gave. */
an_status an_sampled(int32_t id, an_drawn *out, an_error *err);
/* Log-softmax of `id` and the most likely ones, for prompts: the first lines of an_sample. */
an_status an_logprobs(an_sampler_room *r, const float *logits, int vocab, int32_t id, int n_top,
                      an_drawn *out, an_error *err);
/* Uniform in [0, 1), number `index` of the stream of `seed`: rng.c. */
double an_rng_uniform(uint64_t seed, uint64_t index);

#endif
