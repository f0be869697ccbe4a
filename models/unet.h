/* unet.h: UNet2DConditionModel of diffusers: the denoiser of Stable Diffusion 1, 2, XL and their
 * distilled forms (Rombach et al. 2022, Podell et al. 2023, Luo et al. 2023). Private to models/.
 */
#ifndef ANNEAL_MODELS_UNET_H
#define ANNEAL_MODELS_UNET_H

#include "config.h"
#include "layers.h"

enum {
    AN_UNET_BLOCKS = 8, /* resolutions */
    AN_UNET_LAYERS = 8, /* resnets of a block going down; one more going up */
    AN_UNET_SKIPS = AN_UNET_BLOCKS * (AN_UNET_LAYERS + 1)
};

/* One resolution, as config.json has it. */
typedef struct an_unet_block_config {
    int64_t channels, heads, layers;
    bool cross;                        /* has transformers */
    bool only_cross;                   /* their first attention reads the context as well */
    int64_t depth[AN_UNET_LAYERS + 1]; /* transformer blocks of each of them; 0 is possible */
} an_unet_block_config;

typedef struct an_unet_config {
    int64_t sample_h, sample_w, in_channels, out_channels, context_dim;
    int blocks;
    an_unet_block_config down[AN_UNET_BLOCKS], up[AN_UNET_BLOCKS]; /* up: in the order of use */
    enum { AN_MID_NONE, AN_MID_PLAIN, AN_MID_CROSS } mid_kind;
    an_unet_block_config mid;
    int64_t time_dim;     /* of the time embedding: 4 x channels[0] */
    int64_t guidance_dim; /* time_cond_proj_dim (LCM); 0: none */
    int64_t time_id_dim;  /* of one time id (SDXL); 0: no text_time conditioning */
    int64_t pooled_dim;   /* the rest of its input */
    bool flip_sin_to_cos, linear_projection;
    float freq_shift, eps;
    int groups, downsample_padding, conv_in_size, conv_out_size;
} an_unet_config;

/* Errors latch in c: whatever is not supported is refused by key and value. */
void an_unet_config_read(an_config *c, an_unet_config *out);

/* BasicTransformerBlock: self-attention, cross-attention, GEGLU feed-forward, each with a layer
 * norm in front and a residual around. */
typedef struct an_attention_layer {
    an_norm norm;
    an_weight *qkv; /* [3c, c]: self-attention */
    an_weight *q;   /* [c, c]: cross-attention, with keys and values at outputs kv_at .. + 2c of */
    int kv_stack;   /* an_unet.context[kv_stack] */
    int64_t kv_at;
    an_weight *out;
} an_attention_layer;

typedef struct an_transformer_block {
    an_attention_layer attn1, attn2;
    an_norm norm3;
    an_weight *ff_in, *ff_out; /* [8c, c], [c, 4c] */
} an_transformer_block;

/* Transformer2DModel over the pixels of one resolution. */
typedef struct an_transformer {
    char label[AN_LABEL_MAX];
    int heads, head_dim;
    an_norm norm;
    an_weight *proj_in, *proj_out;
    an_transformer_block *block;
    int blocks;
} an_transformer;

typedef struct an_unet_block {
    char label[AN_LABEL_MAX];
    an_resnet *resnet;
    an_transformer *transformer; /* one for each resnet; NULL if the block has none */
    int layers;
    int64_t channels;    /* it puts out */
    an_weight *resample; /* downsampler's or upsampler's convolution, or NULL */
} an_unet_block;

typedef struct an_time_mlp {
    an_weight *linear1, *linear2, *cond; /* F32; cond NULL but for LCM */
} an_time_mlp;

typedef struct an_unet {
    an_unet_config config;
    an_weight *conv_in, *conv_out;
    an_time_mlp time, added;
    an_unet_block down[AN_UNET_BLOCKS], up[AN_UNET_BLOCKS];
    an_resnet mid_resnet[2];
    an_transformer mid_transformer; /* proj_in NULL: the mid block has none */
    an_norm norm_out;
    an_weight *times; /* [all resnets' outputs, time_dim]: their projections of the embedding */
    an_weight *
        *context; /* [contexts], each [2c of some layers, context]: all that read the context */
    int contexts;
} an_unet;

void an_unet_load(an_loader *ld, const an_unet_config *config, an_unet *out);
void an_unet_free(an_unet *u); /* its own memory; the weights are the bag's */

/* One batch of rows. */
typedef struct an_unet_args {
    an_tensor x;                                /* [n, h, w, in_channels], model dtype */
    const float *timestep;                      /* host [n] */
    an_tensor context;                          /* [tokens of all rows, context_dim], model dtype */
    const int64_t *context_start, *context_len; /* host [n]: whose they are */
    an_tensor guidance;    /* F32 [n, guidance_dim]: embedded, if guidance_dim */
    an_tensor pooled;      /* F32 [n, pooled_dim], if time_id_dim */
    const float *time_ids; /* host [n, 6], if time_id_dim */
    an_tensor y;           /* F32 [n, h, w, out_channels], out */
    an_repeat repeat;      /* names everything above but the values of host arrays and tensors */
} an_unet_args;
void an_unet_forward(const an_unet *u, an_lane *l, const an_unet_args *a);

/* Matrices that are gathered from all over a network while it is loaded. */
typedef struct an_unet_gather {
    an_unet *u;
    an_stack times, context;
} an_unet_gather;
/* Most outputs of one of u->context: all of SD 1 and 2 are in one, those of SDXL in six. What a
 * token of text becomes by it, 64 KiB in BF16, stays in the arena while the layers read it. Tests
 * set less. */
extern int64_t an_unet_stack_outputs;
/* Two more matrices [c, context_dim], keys and values: layer y's place in one of u->context. */
void an_unet_gather_context(an_loader *ld, an_unet_gather *g, const char *prefix, int64_t c,
                            an_attention_layer *y);

/* A batch on its way. */
typedef struct an_unet_call {
    const an_unet *u;
    const an_unet_args *a;
    an_tensor temb;  /* F32 [n, time_dim] */
    an_tensor times; /* F32 [n, outputs of u->times]: what every resnet adds */
    an_tensor kv;    /* [room for context tokens x outputs of the widest of u->context] */
    int kv_now;      /* the stack that it holds; -1: none yet */
} an_unet_call;
/* Keys and values of stack y->kv_stack, computed unless they are there: [tokens, its outputs]. */
an_tensor an_unet_context(an_lane *l, an_unet_call *call, const an_attention_layer *y);

/* transformer_2d.c */
void an_transformer_load(an_loader *ld, an_transformer *t, an_unet_gather *g,
                         const an_unet_block_config *block, int64_t depth, const char *prefix);
void an_transformer_free(an_transformer *t);
/* In place. x [n, h, w, c] */
void an_transformer_forward(an_lane *l, const an_transformer *t, an_unet_call *call, an_tensor x);

#endif
