/* llama.h: the decoder that Llama (Touvron et al. 2023) made common, with what its relatives
 * change: Mistral, SmolLM, Qwen 2 and 3, Gemma 1 to 3, Phi-3, and the mixtures of experts Mixtral,
 * Qwen2-MoE and Qwen3-MoE. Names follow transformers. Private to models/. */
#ifndef ANNEAL_MODELS_LLAMA_H
#define ANNEAL_MODELS_LLAMA_H

#include "lm.h"
#include "rope.h"

typedef struct an_llama_config {
    int64_t vocab, hidden, inner, context; /* inner: width of a dense feed-forward */
    int layers, heads, kv_heads, head_dim;
    float eps;
    an_act act;        /* AN_ACT_SWIGLU or AN_ACT_GEGLU_TANH */
    bool qkv_bias;     /* q, k and v must have one; elsewhere it is used where the file has it */
    bool qk_norm;      /* heads of q and k have norms of their own (Qwen 3, Gemma 3) */
    bool post_norms;   /* what a sublayer adds is normed as well (Gemma 2, 3) */
    float norm_plus;   /* norms are stored as w - 1 (Gemma): 1 to be added */
    bool embed_scaled; /* embeddings times sqrt(hidden) (Gemma) */
    bool tied;         /* the head is the embeddings */
    float scale;       /* of attention scores */
    float score_cap, logit_cap;   /* soft caps, 0 = none (Gemma 2) */
    int64_t window[AN_LM_LAYERS]; /* 0: attends to everything */
    bool local[AN_LM_LAYERS];     /* turns by rope[1] (Gemma 3's sliding layers) */
    an_rotary rope[2];
    bool rope_interleaved; /* pairs are neighbours, as llama.cpp stores Llama's q and k */
    /* mixtures of experts; experts 0: none */
    bool sparse[AN_LM_LAYERS];
    int experts, top_k;
    int64_t expert_inner, shared_inner; /* shared: an expert that everybody asks, 0 = none */
    bool normalize;                     /* weights of the chosen experts sum to 1 */
} an_llama_config;

/* The feed-forward of a sparse layer. */
typedef struct an_llama_moe {
    an_weight *router;                 /* [experts, hidden] */
    const an_weight **gate_up, **down; /* [experts] each: [2 expert_inner, hidden], [hidden, ..] */
    an_weight *shared_gate_up, *shared_down, *shared_gate; /* gate: [1, hidden]; NULL: none */
} an_llama_moe;

typedef struct an_llama_layer {
    char label[AN_LABEL_MAX];
    an_tensor norm1, norm2;   /* before attention and feed-forward, [hidden] */
    an_tensor post1, post2;   /* after them, if post_norms */
    an_tensor norm_q, norm_k; /* [head_dim], if qk_norm */
    an_weight *qkv;           /* one GEMM; with qk_norm three instead: */
    an_weight *q, *k, *v;
    an_weight *o;              /* [hidden, heads * head_dim] */
    an_weight *gate_up, *down; /* dense layers: [2 inner, hidden], [hidden, inner] */
    an_llama_moe moe;          /* sparse ones */
} an_llama_layer;

typedef struct an_llama {
    an_llama_config config;
    an_lm_ends ends;
    float embed_scale; /* 1 = none; rounded to the model's dtype */
    an_llama_layer *layer;
    an_tensor norm;
} an_llama;

/* Which model_type it serves, for messages. */
#define AN_LLAMA_TYPES                                                                             \
    "llama, mistral, mixtral, qwen2, qwen2_moe, qwen3, qwen3_moe, gemma, gemma2, gemma3_text, "    \
    "phi3"
bool an_llama_knows(const char *model_type);
void an_llama_config_read(an_config *c, an_llama_config *out); /* errors latch in c */
void an_llama_load(an_loader *ld, const an_llama_config *config, an_llama *out);
void an_llama_free(an_llama *m);
void an_llama_forward(const an_llama *m, an_lane *l, an_dtype dtype, const an_lm_tick *t);

#endif
