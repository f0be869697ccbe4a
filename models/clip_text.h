/* clip_text.h: CLIP's text transformer (Radford et al. 2021; transformers' CLIPTextModel and
 * CLIPTextModelWithProjection, OpenCLIP's by the same names). Private to models/. */
#ifndef ANNEAL_MODELS_CLIP_TEXT_H
#define ANNEAL_MODELS_CLIP_TEXT_H

#include "config.h"
#include "layers.h"

typedef struct an_clip_config {
    int64_t vocab, width, inner, positions; /* inner: width of the MLP; positions: tokens, 77 */
    int layers, heads;
    an_act act;
    float eps;
    int64_t projection; /* of text_projection; 0: the model has none */
    int64_t eos;        /* its id; 2: the largest id of the text (old configs) */
} an_clip_config;

typedef struct an_clip_layer {
    char label[AN_LABEL_MAX];
    an_norm norm1, norm2;
    an_weight *qkv, *out; /* [3 width, width], [width, width] */
    an_weight *fc1, *fc2; /* [inner, width], [width, inner] */
} an_clip_layer;

typedef struct an_clip {
    an_clip_config config;
    an_tensor tokens, positions; /* [vocab, width], [positions, width] */
    an_clip_layer *layer;
    an_norm final_norm;
    an_weight *projection; /* [projection, width], F32; NULL if there is none */
} an_clip;

/* projection: the class is CLIPTextModelWithProjection. Errors latch in c. */
void an_clip_config_read(an_config *c, bool projection, an_clip_config *out);
/* component: "text_encoder" or "text_encoder_2". Errors latch in ld. */
void an_clip_load(an_loader *ld, const char *component, const an_clip_config *config, an_clip *out);
void an_clip_free(an_clip *c); /* its own memory; the weights are the bag's */

typedef struct an_clip_args {
    an_tensor ids;      /* device I32 [n, t], t <= positions */
    const int *layer;   /* host [n]: which hidden state, 0 (embeddings) .. layers */
    bool normed;        /* apply final_layer_norm to it */
    an_tensor hidden;   /* F32 [n, t, width], out */
    const int64_t *eos; /* host [n]: place of the end token, or NULL: nothing pooled */
    an_tensor pooled;   /* F32 [n, projection], out: always from the last layer */
} an_clip_args;
void an_clip_forward(const an_clip *c, an_lane *l, const an_clip_args *a);

/* Where the end token of a text is. ids: host [t]. */
int64_t an_clip_eos_at(const an_clip_config *c, const int32_t *ids, int64_t t);

#endif
