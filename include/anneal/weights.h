/* weights.h: what lies on disk, whatever its layout. On one side: safetensors files, sharded sets,
 * diffusers / Hugging Face folders, single-file Stable Diffusion checkpoints. On the other: named
 * tensors (always by their diffusers names) and config.json objects, asked for by component.
 * Files are hostile: every size is checked before it is used, and nothing here aborts. */
#ifndef ANNEAL_WEIGHTS_H
#define ANNEAL_WEIGHTS_H

#include "anneal/tensor.h"

struct json_t;

/* ---------------------------------------------------------------- a set of named tensors */

typedef struct an_weights an_weights;

/* One .safetensors file, mapped read-only; tensors point into the mapping until the close. */
an_status an_weights_open(const char *path, an_weights **out, an_error *err);
/* A component folder: `stem`.safetensors, `stem`.fp16.safetensors (also .bf16), or sharded through
 * `stem`.safetensors.index.json / `stem`.safetensors.index.fp16.json, or `stem`-00001-of-0000N...
 * stem is e.g. "diffusion_pytorch_model" or "model". The full-precision file wins. */
an_status an_weights_open_dir(const char *dir, const char *stem, an_weights **out, an_error *err);
void an_weights_close(an_weights *w); /* NULL is fine */

int an_weights_count(const an_weights *w);
const char *an_weights_name(const an_weights *w, int i); /* in file order */
const char *an_weights_path(const an_weights *w);        /* for messages */
/* A view of tensor `name`; false if there is none. */
bool an_weights_find(const an_weights *w, const char *name, an_tensor *out);
/* The contract: exactly this name and shape, and a floating dtype (F32, F16, BF16, F64, F8_E4M3); or an error
 * like `unet/conv_in.weight: shape [320,9,3,3], expected [320,4,3,3]`, where the part before the
 * slash is the label of the set. */
an_status an_weights_get(const an_weights *w, const char *name, int ndim, const int64_t *dim,
                         an_tensor *out, an_error *err);
/* The same, but block formats (Q4_0 ...) are fine too: matrices of language models. */
an_status an_weights_get_any(const an_weights *w, const char *name, int ndim, const int64_t *dim,
                             an_tensor *out, an_error *err);
/* To be asked when all has been read: AN_IO if a file was truncated, rewritten or unreadable
 * meanwhile, and what was read may be anything. (Reading itself never fails.) */
an_status an_weights_check(const an_weights *w, an_error *err);
/* Total bytes of all tensors. */
size_t an_weights_bytes(const an_weights *w);
/* File metadata (safetensors "__metadata__"), NULL if absent. */
const char *an_weights_metadata(const an_weights *w, const char *key);

/* Converts any floating or block-format view to f32 at dst[count]. AN_INVALID on another dtype. */
an_status an_tensor_to_f32(const an_tensor *t, float *dst, an_error *err);

/* ---------------------------------------------------------------- a model on disk */

/* What a checkpoint is, as far as its layout tells. */
typedef enum an_layout {
    AN_LAYOUT_DIFFUSERS,   /* folder with model_index.json */
    AN_LAYOUT_HF,          /* folder with config.json (language models) */
    AN_LAYOUT_GGUF,        /* one .gguf file (or the first of a split set) with a language model */
    AN_LAYOUT_SINGLE_FILE, /* one .safetensors holding a whole Stable Diffusion model, LDM names */
    AN_LAYOUT_TENSORS      /* a .safetensors of some other kind: shown by `info`, not served */
} an_layout;

typedef struct an_checkpoint an_checkpoint;

/* path: a folder or a file; symbolic links are followed. */
an_status an_checkpoint_open(const char *path, an_checkpoint **out, an_error *err);
void an_checkpoint_close(an_checkpoint *c);
an_status an_checkpoint_check(const an_checkpoint *c, an_error *err); /* an_weights_check of all */
/* From now on its tensors are made up: of the shape asked for, BF16, small random numbers. For timing
 * a model of which there are only the configs. */
void an_checkpoint_make_up(an_checkpoint *c);
an_layout an_checkpoint_layout(const an_checkpoint *c);
const char *an_checkpoint_path(const an_checkpoint *c);
/* "StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline", ... from
 * model_index.json; for single files the same names, inferred from the tensors. "" if unknown. */
const char *an_checkpoint_class(const an_checkpoint *c);
/* The parsed config of a component ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler",
 * "tokenizer" = tokenizer_config.json, "model_index", "anneal" = anneal.json). Borrowed; NULL if
 * the checkpoint has none. Single files get the configs that diffusers would give them, also
 * "tokenizer" and "tokenizer_2" (pad_token, model_max_length), changed key by key by NAME.json beside
 * NAME.safetensors or else anneal.json in its folder: {"scheduler": {"prediction_type": "epsilon"}};
 * that file is also their "anneal". A folder of the Hugging Face layout has one component, "model",
 * and the configs "model" (config.json), "generation" (generation_config.json) and "tokenizer". A GGUF
 * file has "model" too: its metadata as the config.json that Hugging Face would have written
 * (model_type llama, qwen2, gemma2 ...; hidden_size, rope_scaling ...; plus "gguf_rope_interleaved"
 * where q and k are permuted), "generation", and "gguf": the metadata as it stands. */
const struct json_t *an_checkpoint_config(const an_checkpoint *c, const char *component);
/* The tensors of a component under their current diffusers names, whatever the file calls them:
 * LDM names are mapped; text encoders lose a leading `text_model.`; OpenCLIP's fused in_proj is
 * split; VAE attention is `to_q to_k to_v to_out.0` as [C,C] even where the file says
 * query/key/value/proj_attn or stores 1x1 convolutions. Borrowed, opened on first use.
 * One thread at a time may use a checkpoint; the sets it gives may be read by many.
 * GGUF tensors get Hugging Face names (model.layers.0.self_attn.q_proj.weight; experts stacked as
 * model.layers.0.mlp.experts.gate_proj.weight [experts, hidden, c]) and [outputs, inputs] shapes.
 * gguf_names.c lists them. Where a GGUF file's numbers differ from a folder's, its config says so:
 * GPT-2's Conv1D kernels are [inputs, outputs] in a folder and [outputs, inputs] in a GGUF file
 * ("gguf_conv1d_transposed": true); Gemma's norms hold 1+w in a GGUF file and w in a folder
 * ("gguf_norm_plus_one": true). The router of every mixture is model.layers.0.mlp.gate.weight; files
 * of before 2024 have their experts one by one (model.layers.0.mlp.experts.3.up_proj.weight).
 * rope_freqs.weight is "model.rope_freqs", [rotary pairs]: the divisor of each rotary frequency, what
 * llama3's rope_scaling comes to (the config has none then).
 * Folders: language models lose the name of a bigger model around them (gemma3: "language_model."),
 * so that all begin with "model." or are lm_head.weight; GPT-2's get "transformer.", in a GGUF file
 * too.
 * (Names after mapping, text encoder: embeddings.token_embedding.weight, encoder.layers.0....,
 * final_layer_norm.weight, text_projection.weight.) */
an_status an_checkpoint_weights(an_checkpoint *c, const char *component, an_weights **out,
                                an_error *err);
/* Path of a component's folder ("tokenizer", "tokenizer_2", ...), false if it has none (single
 * files have no tokenizer: the caller uses the built-in CLIP vocabulary). */
bool an_checkpoint_dir(const an_checkpoint *c, const char *component, char *buf, size_t size);

/* What `anneal info PATH` prints: layout, class, components, configs in short, tensors with dtype
 * and shape, sizes. json: machine-readable. Appends to out. */
an_status an_checkpoint_describe(const char *path, bool json, an_buf *out, an_error *err);

#endif
