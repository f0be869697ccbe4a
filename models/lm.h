/* lm.h: what the language models of this room share: a tick as their networks see it, the pools of
 * keys and values, the way in (token embeddings) and the way out (logits), and what is said of them
 * from their configs. Private to models/. */
#ifndef ANNEAL_MODELS_LM_H
#define ANNEAL_MODELS_LM_H

#include "config.h"
#include "family.h"
#include "layers.h"

/* Bounds of a config and of a tick. A tick's host lists lie on the stack. */
enum {
    AN_LM_LAYERS = 256,
    AN_LM_HEADS = 1024,
    AN_LM_HEAD_DIM = 512,
    AN_LM_EXPERTS = 1024,
    AN_LM_TOKENS = 8192,
    AN_LM_ROWS = 1024
};

/* ---------------------------------------------------------------- a tick */

/* All tokens of all rows, one after the other: activations are [tokens, width]. */
struct an_lm_tick {
    const an_lm_row *row;    /* [rows] */
    const an_kv_row *kv_row; /* [rows] the same for the ops */
    const an_kv_pool *pool;  /* [layers] */
    int rows;
    int64_t tokens, wanted;
    const int32_t *pos;  /* host [tokens] */
    const int32_t *want; /* host [wanted]: the tokens whose logits are asked for, ascending */
    an_repeat repeat;    /* of its layers; without owner where it will hardly come again */
};

/* Keys and values of all layers, in the dtype of activations: one rounding for all, so that a key
 * read from the pool is the key that was computed, whether this tick or earlier. For weights in
 * blocks the dtype is free: their products round activations to 8 bits in either case. F32 is then
 * the closer one, BF16 halves the pool; "auto" is BF16 where the machine multiplies it natively,
 * else F32. */
struct an_kv {
    an_device *device;
    const an_model *model;
    int64_t blocks;
    void *memory;
    an_kv_pool layer[AN_LM_LAYERS];
};

/* ---------------------------------------------------------------- in and out */

/* Both ends of a model, [vocab, width] each. */
typedef struct an_lm_ends {
    an_tensor table; /* embeddings, looked up by id; without data where the head's rows are read */
    an_weight *head; /* "lm_head", or the embeddings packed for a GEMM if it is tied */
} an_lm_ends;
/* A lookup wants rows and a GEMM wants panels. A tied model holds panels only if the device can
 * read rows of them, else both. The table is in the model's dtype, but numbers that the file has
 * smaller (BF16, blocks) stay as they are. */
void an_lm_ends_load(an_loader *ld, const char *embeddings, bool tied, int64_t vocab, int64_t width,
                     an_lm_ends *out);

/* What the attention of all layers must know of the tick's rows, once; until the lane's scratch is
 * released below here. heads: of queries, alike in all layers; dtype: of activations. */
void an_lm_keep(an_lane *l, const an_lm_tick *t, int heads, an_dtype dtype);
/* y[t, :] = embedding of the tick's token t. y [tokens, width] */
void an_lm_embed(an_lane *l, const an_lm_ends *ends, const an_lm_tick *t, an_tensor y);
/* x [wanted, width], normed, through the head into the rows' logits; softcap 0 = none. */
void an_lm_logits(an_lane *l, const an_weight *head, float softcap, const an_lm_tick *t,
                  an_tensor x);
/* Attention of one layer: q, k and v of the tick's tokens at q, k, v with these strides; keys and
 * values are put into the pool first. y [tokens, heads * head_dim] */
typedef struct an_lm_heads {
    int heads, head_dim;
    const void *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
    float scale, softcap;
    int64_t window; /* 0 = all */
} an_lm_heads;
void an_lm_attention(an_lane *l, const an_lm_tick *t, int layer, const an_lm_heads *h, an_tensor y);

/* ---------------------------------------------------------------- what is said of a model */

/* A number that the config must have. */
int64_t an_lm_config_need(an_config *c, const char *key, int64_t min, int64_t max);
/* Fills everything of an_model_info that does not depend on the family; the family has filled
 * vocab, layers, kv_heads, head_dim and context_len. */
an_status an_lm_info(an_checkpoint *c, an_model_info *info, an_error *err);
/* model_type of a language model's config, or NULL. */
const char *an_lm_type(const an_checkpoint *c);
bool an_lm_has_tokenizer(const an_checkpoint *c);

#endif
