/* model.h: a loaded network family behind one interface. Above it the engine, which knows rows,
 * stages and ticks; below it one file per architecture in models/. A new family is one file there and
 * one line in the registry, and every API that fits its kind serves it.
 *
 * A model has stages. Each is a batch of rows that advance together by one tick: a text encoding, a
 * denoising step, a decoding. A row is a list of named tensors in and out; what the names are is the
 * contract of the stage (below). Rows of a batch share the sizes that the stage names; everything
 * else may differ. A row's output bytes never depend on the other rows. */
#ifndef ANNEAL_MODEL_H
#define ANNEAL_MODEL_H

#include "anneal/ops.h"
#include "anneal/text.h"
#include "anneal/weights.h"

struct json_t;

typedef enum an_kind { AN_KIND_IMAGE = 0, AN_KIND_TEXT, AN_KIND_COUNT } an_kind;
const char *an_kind_name(an_kind k); /* "image", "text" */

typedef enum an_stage {
    AN_STAGE_TEXT = 0, /* prompt -> context */
    AN_STAGE_DENOISE,  /* latent, timestep, context -> prediction */
    AN_STAGE_DECODE,   /* latent -> picture */
    AN_STAGE_ENCODE,   /* picture -> latent distribution */
    AN_STAGE_FORWARD,  /* tokens -> logits (an_lm_forward) */
    AN_STAGE_COUNT
} an_stage;
const char *an_stage_name(an_stage s);

typedef struct an_named {
    const char *name;
    an_tensor t;
} an_named;

/* "host" tensors are plain memory, "device" ones come from an_device_alloc.
 *
 * AN_STAGE_TEXT (latent diffusion)           one row = one prompt
 *   in  "ids"        host   I32 [chunks, chunk_len]      for each text encoder: "ids", "ids2"
 *   in  "weights"    host   F32 [chunks, chunk_len]      optional: A1111 weights ("weights2")
 *   in  "clip_skip"  host   I32 [1]                      optional: 1 = as the model was trained
 *   out "context"    device dtype [chunks * chunk_len, context_dim]
 *   out "pooled"     device F32 [pooled_dim]             if pooled_dim > 0
 * AN_STAGE_DENOISE                           one row = one guidance branch of one picture
 *   in  "latent"     device F32 [h, w, latent_channels]
 *   in  "scale"      host   F32 [1]   network input = scale * latent
 *   in  "timestep"   host   F32 [1]
 *   in  "context"    device dtype [tokens, context_dim]  tokens may differ between rows
 *   in  "pooled"     device F32 [pooled_dim]             if pooled_dim > 0
 *   in  "time_ids"   host   F32 [6]                      if uses_time_ids (SDXL): original h, w,
 *                                                        crop top, left, target h, w
 *   in  "guidance"   host   F32 [1]                      if guidance_embed (LCM): guidance_scale
 *   out "prediction" device F32 [h, w, latent_channels]
 * AN_STAGE_DECODE
 *   in  "latent"     device F32 [h, w, latent_channels]  as the sampler leaves it
 *   out "image"      device U8  [h * factor, w * factor, 3]
 * AN_STAGE_ENCODE
 *   in  "image"      device U8  [H, W, 3]
 *   out "mean", "logvar" device F32 [H / factor, W / factor, latent_channels], unscaled
 */
typedef struct an_row {
    const an_named *in;
    int n_in;
    an_named *out;
    int n_out;
} an_row;

/* The named tensor, or NULL. */
const an_tensor *an_row_in(const an_row *r, const char *name);
an_tensor *an_row_out(const an_row *r, const char *name);

/* What can be said of a model before its weights are read. */
typedef struct an_model_info {
    an_kind kind;
    char family[32];      /* "sd1", "sd2", "sdxl", "lcm" ... for humans */
    char class_name[64];  /* diffusers pipeline class */
    int width, height;    /* default picture */
    int factor;           /* pixels per latent (VAE), 8 */
    int latent_channels;
    int size_multiple;    /* width and height must be multiples of this (= factor) */
    int text_encoders;    /* 1 or 2 */
    int chunk_len;        /* tokens per chunk, 77 */
    int context_dim, pooled_dim;
    bool uses_time_ids, guidance_embed, zero_negative; /* zero_negative: SDXL's force_zeros_for_empty_prompt */
    int layers_text;      /* of the first text encoder: clip_skip is 1..layers_text */
    int steps;            /* defaults, from anneal.json or the family */
    float guidance_scale;
    float scaling_factor, shift_factor; /* of the VAE */
    float latent_rgb[16][3], latent_rgb_bias[3]; /* preview: rgb in [-1,1] = bias + latent . matrix; see has_latent_rgb */
    bool has_latent_rgb;
    size_t weight_bytes_file; /* on disk */
    /* AN_KIND_TEXT; the fields of pictures are 0 then, and these are 0 for pictures */
    int vocab, layers, kv_heads, head_dim;
    int context_len;          /* positions the model was made for */
    int64_t bos, eos[8];      /* -1 = none; eos: whatever ends an answer, n_eos of them */
    int n_eos;
    bool add_bos;             /* the tokenizer begins a text with bos */
    bool has_tokenizer;       /* false: served by token ids only */
    bool has_chat_template;
    float temperature, top_p; /* defaults from generation_config.json; NaN = it has none */
    int top_k;                /* -1 = none */
} an_model_info;

typedef struct an_model an_model;

/* Reads configs only. AN_INVALID names what is not supported (config key and value). */
an_status an_model_probe(an_checkpoint *c, an_model_info *out, an_error *err);
/* Loads and packs the weights. dtype F32 or BF16. The checkpoint may be closed afterwards. progress
 * (may be NULL) is called with 0..1.
 * weights: dtype itself, or AN_F8_E4M3: the matrices of a language model's layers and of a UNet are
 * rounded to FP8, a scale a row, but for those in GGUF's blocks, heads and routers. (What a device
 * makes of FP8 is told at an_weight_scaled.) Matrices that are FP8 in the file stay so in any case, but for
 * those with a scale a block, which become dtype unless weights is AN_F8_E4M3. */
an_status an_model_load(an_device *d, an_checkpoint *c, an_dtype dtype, an_dtype weights,
                        void (*progress)(void *ctx, double done), void *ctx, an_model **out,
                        an_error *err);
void an_model_free(an_model *m);
const an_model_info *an_model_describe(const an_model *m);
const struct json_t *an_model_scheduler(const an_model *m); /* scheduler_config.json, may be NULL */
size_t an_model_weight_bytes(const an_model *m); /* on the device */
an_dtype an_model_dtype(const an_model *m);
/* Pictures whose latents are wider or higher than this edge are decoded in overlapping tiles of 64
 * latents (or of the edge, if that is less), so that memory stays bounded; 0 = never, the default.
 * Not while a step runs. */
an_status an_model_set_vae_tile(an_model *m, int latent_edge, an_error *err);

/* Tokenizers of a checkpoint, opened without its weights: which = 0 or 1 (SDXL's second). */
an_status an_model_tokenizer(an_checkpoint *c, int which, an_tokenizer **out, an_error *err);

/* Advances every row of one stage by one tick on this lane. Checks every row's tensors against the
 * contract. On failure nothing is promised about the outputs, and the lane is usable again. */
an_status an_model_step(an_model *m, an_lane *l, an_stage stage, an_row *rows, int n, an_error *err);

/* Cost of a tick before it runs: runs the stage on a counting lane. h, w: latent size (pixels / factor)
 * for DENOISE, DECODE, ENCODE; tokens: context length (DENOISE) or chunks (TEXT). */
typedef struct an_cost {
    size_t scratch_bytes;
    double flops;
} an_cost;
an_status an_model_cost(an_model *m, an_stage stage, int rows, int64_t h, int64_t w, int64_t tokens,
                        an_cost *out, an_error *err);

/* ---------------------------------------------------------------- language models
 * Rows of AN_STAGE_FORWARD are not opaque tensors but parts of token sequences: prompts in pieces of
 * any length and single newest tokens together, one call for all of them. */

/* The pool of key and value blocks of one loaded model; blocks are numbered 0 .. blocks - 1 and are
 * handed out by the engine. Not zeroed: positions past a sequence's end are never read. */
typedef struct an_kv an_kv;
an_status an_kv_open(an_model *m, int64_t blocks, an_kv **out, an_error *err);
void an_kv_close(an_kv *kv); /* before the model is freed; NULL is fine */
size_t an_model_kv_block_bytes(const an_model *m); /* one block in all layers */

typedef struct an_lm_row {
    const int32_t *ids;    /* host [n], each 0 .. vocab - 1 */
    int n;
    int pos;               /* of ids[0]; positions before it are in the blocks */
    const int32_t *blocks; /* host: block of positions 0..15, 16..31, ... enough for pos + n */
    int want;              /* logits of the last `want` tokens (0 for all but the last piece of a prompt) */
    float *logits;         /* device F32 [want, vocab]; NULL if want is 0 */
} an_lm_row;

/* Writes keys and values of every token and gives the wanted logits. The lane's arena must hold
 * an_lm_cost. A row's logits never depend on the other rows, nor on how its tokens were cut. */
an_status an_lm_forward(an_model *m, an_lane *l, an_kv *kv, const an_lm_row *rows, int n,
                        an_error *err);
/* By a counting run: `tokens` tokens in `rows` rows that end at context `context`, `want` logits in all. */
an_status an_lm_cost(an_model *m, int rows, int tokens, int want, int64_t context, an_cost *out,
                     an_error *err);

/* The tokenizer of a text model's checkpoint (GGUF or folder), and its chat template's source with
 * the tokens it may name; AN_NOT_FOUND if it has none. Strings are the caller's (free()). */
an_status an_model_vocab(an_checkpoint *c, an_vocab **out, an_error *err);
an_status an_model_chat_template(an_checkpoint *c, char **source, char **bos, char **eos,
                                 an_error *err);

#endif
