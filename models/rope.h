/* rope.h: rotary position embeddings (Su et al. 2021) as configs describe them: which part of a
 * head turns, how fast, and how that is stretched for contexts longer than the trained one. Private
 * to models/. */
#ifndef ANNEAL_MODELS_ROPE_H
#define ANNEAL_MODELS_ROPE_H

#include "config.h"

enum { AN_ROPE_PAIRS = 256 };

typedef struct an_rotary {
    int rot_dim;  /* elements of a head that turn */
    float mscale; /* factor on cos and sin */
    double theta;
    float inv_freq[AN_ROPE_PAIRS]; /* [rot_dim / 2] */
} an_rotary;

typedef struct an_rotary_ask {
    int head_dim;
    int64_t context; /* max_position_embeddings */
    const char
        *layer_type;       /* "full_attention": the key in rope_parameters, where it has one each */
    const char *theta_key; /* where theta stands at the top level: "rope_theta" */
    double theta;          /* its default */
    bool plain;            /* older configs mean rope_scaling for other layers only (Gemma 3) */
} an_rotary_ask;

/* Reads "rope_parameters" (transformers 5), or "rope_scaling" and a theta at the top level. Errors
 * latch in c. The formulas are those of transformers' modeling_rope_utils.py. */
void an_rotary_read(an_config *c, const an_rotary_ask *ask, an_rotary *out);
/* Unscaled frequencies divided one by one, as GGUF files store Llama 3's and LongRoPE's scaling. */
void an_rotary_divide(an_rotary *r, const float *divisor);

#endif
