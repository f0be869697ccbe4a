/* single_file.c: a whole Stable Diffusion model in one .safetensors file, with the names of the
 * original training code. The configs that a diffusers folder would hold are inferred from the
 * shapes, and what shapes cannot tell is set as diffusers' from_single_file sets it:
 *   SD1.x  PNDM, epsilon; 8 attention heads everywhere
 *   SD2.x  DDIM, v-prediction (the 512 base model needs epsilon: say so beside the file); heads of
 * 64 SDXL   Euler, epsilon; heads of 64 LCM    (time_embed.cond_proj is there) LCM, epsilon A JSON
 * file of the same name beside it (NAME.json, else anneal.json in its folder) overrides:
 *   {"scheduler": {"prediction_type": "epsilon"}, "unet": {"attention_head_dim": 4}, ...}. */
#include "checkpoint.h"
#include "ldm.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define UNET       "model.diffusion_model."
#define MAX_LEVELS 8
#define MAX_LAYERS 64
#define MAX_DEPTH  64

typedef struct sd_kind {
    bool xl, refiner, openclip; /* openclip: the first text encoder is one (SD2) */
    bool lcm;
    const char *vae;                /* prefix of the VAE's names */
    const char *clip, *openclip_at; /* prefixes of the text encoders, NULL if absent */
} sd_kind;

/* ---------------------------------------------------------------- asking the file */

AN_PRINTF(2, 3)
static const an_entry *entry(const an_weights *w, const char *fmt, ...)
{
    char name[AN_WEIGHTS_MAX_NAME];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return an_set_entry(w, name);
}

/* Size `axis` of a tensor; 0 if there is no such tensor or axis. */
static json_int_t size_of(const an_entry *e, int axis)
{
    return e && axis < e->ndim ? e->dim[axis] : 0;
}

static bool recognise(const an_weights *w, sd_kind *k)
{
    *k = (sd_kind){0};
    if (!entry(w, UNET "input_blocks.0.0.weight")) return false;
    if (entry(w, "first_stage_model.decoder.conv_in.weight"))
        k->vae = "first_stage_model.";
    else if (entry(w, "vae.decoder.conv_in.weight"))
        k->vae = "vae.";
    else
        return false;
    static const char *const clip[] = {"cond_stage_model.transformer.",
                                       "conditioner.embedders.0.transformer."};
    static const char *const open[] = {"cond_stage_model.model.", "conditioner.embedders.0.model.",
                                       "conditioner.embedders.1.model."};
    for (int i = 0; i < 2; i++)
        if (entry(w, "%stext_model.embeddings.token_embedding.weight", clip[i]) ||
            entry(w, "%sembeddings.token_embedding.weight", clip[i]))
            k->clip = clip[i];
    for (int i = 0; i < 3; i++)
        if (entry(w, "%stoken_embedding.weight", open[i])) k->openclip_at = open[i];
    k->lcm = entry(w, UNET "time_embed.cond_proj.weight") != NULL;
    k->xl = entry(w, UNET "label_emb.0.0.weight") && k->openclip_at;
    k->refiner = k->xl && !k->clip;
    k->openclip = !k->xl && k->openclip_at;
    return k->xl || k->clip || k->openclip;
}

/* ---------------------------------------------------------------- UNet */

typedef struct unet_shape {
    int levels, layers;
    json_int_t channels[MAX_LEVELS];
    int depth[MAX_LEVELS]; /* transformer blocks of a level, 0 without attention */
    int mid_depth;
    bool linear; /* proj_in is a Linear layer, not a 1x1 convolution */
    json_int_t context;
} unet_shape;

static int count_depth(const an_weights *w, const char *block)
{
    int n = 0;
    while (n < MAX_DEPTH && entry(w, UNET "%s.1.transformer_blocks.%d.norm1.weight", block, n)) n++;
    return n;
}

static void look_at_attention(const an_weights *w, const char *block, unet_shape *u)
{
    const an_entry *k = entry(w, UNET "%s.1.transformer_blocks.0.attn2.to_k.weight", block);
    const an_entry *p = entry(w, UNET "%s.1.proj_in.weight", block);
    if (k) u->context = size_of(k, 1);
    if (p) u->linear = p->ndim == 2;
}

static an_status measure_unet(const an_weights *w, unet_shape *u, an_error *err)
{
    int blocks = 1, downs = 0; /* input block 0 is conv_in */
    *u = (unet_shape){0};
    for (; blocks < MAX_LEVELS * MAX_LAYERS; blocks++) {
        if (entry(w, UNET "input_blocks.%d.0.op.weight", blocks))
            downs++;
        else if (!entry(w, UNET "input_blocks.%d.0.in_layers.2.weight", blocks))
            break;
    }
    u->levels = downs + 1;
    u->layers = (blocks - 1 - downs) / u->levels;
    if (u->levels > MAX_LEVELS || u->layers < 1 || u->layers > MAX_LAYERS ||
        (blocks - 1 - downs) % u->levels != 0)
        return an_fail(err, AN_INVALID,
                       "%s: %d input blocks with %d downsamplers are not a Stable Diffusion UNet "
                       "(every level has the same number of blocks)",
                       w->path, blocks, downs);
    char block[48];
    for (int i = 0; i < u->levels; i++) {
        int first = 1 + i * (u->layers + 1);
        snprintf(block, sizeof block, "input_blocks.%d", first);
        u->channels[i] = size_of(entry(w, UNET "%s.0.in_layers.2.weight", block), 0);
        u->depth[i] = count_depth(w, block);
        look_at_attention(w, block, u);
        if (u->channels[i] < 1 || u->channels[i] > INT32_MAX)
            return an_fail(err, AN_INVALID, "%s: level %d of the UNet has no usable channel count",
                           w->path, i);
    }
    look_at_attention(w, "middle_block", u);
    u->mid_depth = count_depth(w, "middle_block");
    if (u->mid_depth == 0)
        return an_fail(err, AN_INVALID, "%s: a UNet without attention in its middle is not read",
                       w->path);
    return AN_OK;
}

/* The largest power of two up to 32 that divides all: 32 in every published model. */
static json_int_t groups_for(const json_int_t *channels, int n)
{
    json_int_t g = 32;
    for (int i = 0; i < n; i++)
        while (channels[i] % g != 0) g /= 2;
    return g;
}

static json_t *int_list(const json_int_t *v, int n)
{
    json_t *a = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(a, json_integer(v[i]));
    return a;
}

static json_t *string_list(const char *yes, const char *no, const int *flag, int n, bool reversed)
{
    json_t *a = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(a, json_string(flag[reversed ? n - 1 - i : i] ? yes : no));
    return a;
}

/* SD1.x: the number of heads is 8. Later models: heads are 64 wide. diffusers calls both
 * attention_head_dim, and means the number of heads. */
static json_t *heads(const unet_shape *u)
{
    json_int_t h[MAX_LEVELS];
    if (!u->linear) return json_integer(8);
    for (int i = 0; i < u->levels; i++) h[i] = u->channels[i] < 64 ? 1 : u->channels[i] / 64;
    return int_list(h, u->levels);
}

/* transformer_layers_per_block; its last entry is also the depth of the middle. */
static json_t *depths(const unet_shape *u)
{
    json_int_t d[MAX_LEVELS];
    bool all_one = true;
    for (int i = 0; i < u->levels; i++) {
        d[i] = u->depth[i] ? u->depth[i] : i == u->levels - 1 ? u->mid_depth : 1;
        all_one = all_one && d[i] == 1;
    }
    return all_one ? json_integer(1) : int_list(d, u->levels);
}

static void add_time_conditioning(const an_weights *w, const sd_kind *k, json_t *cfg)
{
    const an_entry *cond = entry(w, UNET "time_embed.cond_proj.weight");
    if (cond) json_object_set_new(cfg, "time_cond_proj_dim", json_integer(size_of(cond, 1)));
    if (!k->xl) return;
    /* label_emb takes the pooled text and one embedding of each of the 6 size numbers (5 in the
     * refiner: an aesthetic score in the place of the target size) */
    json_int_t in = size_of(entry(w, UNET "label_emb.0.0.weight"), 1);
    json_int_t pooled = size_of(entry(w, "%stext_projection", k->openclip_at), 1);
    if (!pooled) pooled = size_of(entry(w, "%stext_projection.weight", k->openclip_at), 0);
    json_object_set_new(cfg, "addition_embed_type", json_string("text_time"));
    json_object_set_new(cfg, "addition_time_embed_dim",
                        json_integer((in - pooled) / (k->refiner ? 5 : 6)));
    json_object_set_new(cfg, "projection_class_embeddings_input_dim", json_integer(in));
}

static json_t *unet_config(const an_weights *w, const sd_kind *k, const unet_shape *u)
{
    json_t *cfg =
        json_pack("{s:s, s:s, s:i, s:b, s:f, s:I, s:I, s:I, s:i, s:I, s:b, s:b}", "_class_name",
                  "UNet2DConditionModel", "act_fn", "silu", "freq_shift", 0, "flip_sin_to_cos", 1,
                  "norm_eps", 1e-5, "norm_num_groups", groups_for(u->channels, u->levels),
                  "in_channels", size_of(entry(w, UNET "input_blocks.0.0.weight"), 1),
                  "out_channels", size_of(entry(w, UNET "out.2.weight"), 0), "layers_per_block",
                  u->layers, "cross_attention_dim", u->context, "use_linear_projection", u->linear,
                  "upcast_attention", k->openclip);
    if (!cfg) return NULL;
    json_object_set_new(cfg, "sample_size", json_integer(k->xl ? 128 : k->openclip ? 96 : 64));
    json_object_set_new(cfg, "block_out_channels", int_list(u->channels, u->levels));
    json_object_set_new(cfg, "attention_head_dim", heads(u));
    json_object_set_new(cfg, "transformer_layers_per_block", depths(u));
    json_object_set_new(cfg, "mid_block_type", json_string("UNetMidBlock2DCrossAttn"));
    json_object_set_new(
        cfg, "down_block_types",
        string_list("CrossAttnDownBlock2D", "DownBlock2D", u->depth, u->levels, false));
    json_object_set_new(cfg, "up_block_types",
                        string_list("CrossAttnUpBlock2D", "UpBlock2D", u->depth, u->levels, true));
    add_time_conditioning(w, k, cfg);
    return cfg;
}

/* ---------------------------------------------------------------- VAE */

static int vae_levels(const an_weights *w, const char *prefix)
{
    int n = 0;
    while (n < MAX_LEVELS && entry(w, "%sdecoder.up.%d.block.0.conv1.weight", prefix, n)) n++;
    return n;
}

static an_status vae_config(const an_weights *w, const sd_kind *k, json_t **out, an_error *err)
{
    json_int_t channels[MAX_LEVELS];
    int yes[MAX_LEVELS] = {0}, layers = 0, levels = vae_levels(w, k->vae);
    for (int i = 0; i < levels; i++) {
        channels[i] = size_of(entry(w, "%sdecoder.up.%d.block.0.conv1.weight", k->vae, i), 0);
        if (channels[i] < 1)
            return an_fail(err, AN_INVALID, "%s: VAE level %d has no channels", w->path, i);
    }
    /* a decoder level has one resnet more than layers_per_block says */
    while (layers < MAX_LAYERS &&
           entry(w, "%sdecoder.up.0.block.%d.conv1.weight", k->vae, layers + 1))
        layers++;
    if (levels == 0 || layers == 0)
        return an_fail(err, AN_INVALID, "%s: no resnets in the levels of the VAE's decoder",
                       w->path);
    json_t *cfg = json_pack(
        "{s:s, s:s, s:f, s:b, s:I, s:I, s:I, s:I, s:i, s:i, s:b, s:b, s:b}", "_class_name",
        "AutoencoderKL", "act_fn", "silu", "scaling_factor", k->xl ? 0.13025 : 0.18215,
        "force_upcast", 1, "norm_num_groups", groups_for(channels, levels), "latent_channels",
        size_of(entry(w, "%sdecoder.conv_in.weight", k->vae), 1), "in_channels",
        size_of(entry(w, "%sencoder.conv_in.weight", k->vae), 1), "out_channels",
        size_of(entry(w, "%sdecoder.conv_out.weight", k->vae), 0), "layers_per_block", layers,
        "sample_size",
        k->xl         ? 1024
        : k->openclip ? 768
                      : 512,
        "mid_block_add_attention", entry(w, "%sdecoder.mid.attn_1.q.weight", k->vae) != NULL,
        "use_quant_conv", entry(w, "%squant_conv.weight", k->vae) != NULL, "use_post_quant_conv",
        entry(w, "%spost_quant_conv.weight", k->vae) != NULL);
    *out = cfg;
    if (!cfg) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", w->path);
    json_object_set_new(cfg, "block_out_channels", int_list(channels, levels));
    json_object_set_new(cfg, "down_block_types",
                        string_list("", "DownEncoderBlock2D", yes, levels, false));
    json_object_set_new(cfg, "up_block_types",
                        string_list("", "UpDecoderBlock2D", yes, levels, false));
    return AN_OK;
}

/* ---------------------------------------------------------------- text encoders */

/* SD2 was trained on the output of OpenCLIP-H's last layer but one. diffusers stores that encoder
 * with 23 layers and takes its last; files hold all 24. SDXL keeps all and skips when it runs. */
static int openclip_layers(const an_weights *w, const char *prefix, bool sd2)
{
    int n = 0;
    while (n < MAX_LAYERS && entry(w, "%stransformer.resblocks.%d.ln_1.weight", prefix, n)) n++;
    bool vit_h = n == 24 && size_of(entry(w, "%sln_final.weight", prefix), 0) == 1024;
    return sd2 && vit_h ? 23 : n;
}

static json_t *text_config(json_int_t vocab, json_int_t width, json_int_t positions, json_int_t mlp,
                           int layers, json_int_t projection, bool openclip, bool projected)
{
    return json_pack("{s:s, s:[s], s:s, s:f, s:I, s:I, s:I, s:I, s:i, s:I, s:I, s:I, s:I}",
                     "model_type", "clip_text_model", "architectures",
                     projected ? "CLIPTextModelWithProjection" : "CLIPTextModel", "hidden_act",
                     openclip ? "gelu" : "quick_gelu", "layer_norm_eps", 1e-5, "vocab_size", vocab,
                     "hidden_size", width, "max_position_embeddings", positions,
                     "intermediate_size", mlp, "num_hidden_layers", layers, "num_attention_heads",
                     width < 64 ? (json_int_t)1 : width / 64, "projection_dim",
                     projection ? projection : width, "bos_token_id", vocab - 2, "eos_token_id",
                     vocab - 1);
}

static json_t *clip_config(const an_weights *w, const char *prefix)
{
    /* merged files exist without the text_model level */
    const char *tm = entry(w, "%stext_model.final_layer_norm.weight", prefix) ? "text_model." : "";
    const an_entry *tok = entry(w, "%s%sembeddings.token_embedding.weight", prefix, tm);
    int n = 0;
    while (n < MAX_LAYERS && entry(w, "%s%sencoder.layers.%d.layer_norm1.weight", prefix, tm, n))
        n++;
    return text_config(size_of(tok, 0), size_of(tok, 1),
                       size_of(entry(w, "%s%sembeddings.position_embedding.weight", prefix, tm), 0),
                       size_of(entry(w, "%s%sencoder.layers.0.mlp.fc1.weight", prefix, tm), 0), n,
                       0, false, false);
}

static json_t *openclip_config(const an_weights *w, const char *prefix, bool sd2)
{
    const an_entry *tok = entry(w, "%stoken_embedding.weight", prefix);
    json_int_t proj = size_of(entry(w, "%stext_projection", prefix), 1);
    if (!proj) proj = size_of(entry(w, "%stext_projection.weight", prefix), 0);
    return text_config(size_of(tok, 0), size_of(tok, 1),
                       size_of(entry(w, "%spositional_embedding", prefix), 0),
                       size_of(entry(w, "%stransformer.resblocks.0.mlp.c_fc.weight", prefix), 0),
                       openclip_layers(w, prefix, sd2), proj, true, !sd2);
}

/* The vocabulary is CLIP's for all; they differ in what fills the unused places. */
static json_t *tokenizer_config(const json_t *text, bool openclip)
{
    return json_pack("{s:s, s:s, s:O}", "tokenizer_class", "CLIPTokenizer", "pad_token",
                     openclip ? "!" : "<|endoftext|>", "model_max_length",
                     json_object_get(text, "max_position_embeddings"));
}

/* ---------------------------------------------------------------- scheduler, index */

/* Tools leave marks: an empty tensor called v_pred (and ztsnr), or modelspec's metadata. */
static const char *prediction_type(const an_weights *w, const sd_kind *k)
{
    const char *spec = an_weights_metadata(w, "modelspec.prediction_type");
    if (entry(w, "v_pred") || (spec && strcmp(spec, "v") == 0)) return "v_prediction";
    if (spec && strcmp(spec, "epsilon") == 0) return "epsilon";
    return k->openclip ? "v_prediction" : "epsilon";
}

static json_t *scheduler_config(const an_weights *w, const sd_kind *k)
{
    const char *cls = k->lcm        ? "LCMScheduler"
                      : k->xl       ? "EulerDiscreteScheduler"
                      : k->openclip ? "DDIMScheduler"
                                    : "PNDMScheduler";
    /* Playground v2.5 is an SDXL trained with EDM's noise levels: not to be sampled as the others
     */
    if (entry(w, "edm_mean")) cls = "EDMDPMSolverMultistepScheduler";
    json_t *cfg = json_pack("{s:s, s:f, s:f, s:s, s:i, s:s, s:s, s:b, s:b, s:i}", "_class_name",
                            cls, "beta_start", 0.00085, "beta_end", 0.012, "beta_schedule",
                            "scaled_linear", "num_train_timesteps", 1000, "prediction_type",
                            prediction_type(w, k), "timestep_spacing", "leading", "clip_sample", 0,
                            "set_alpha_to_one", k->lcm, "steps_offset", !k->lcm);
    if (!cfg) return NULL;
    if (strcmp(cls, "PNDMScheduler") == 0) json_object_set_new(cfg, "skip_prk_steps", json_true());
    if (k->lcm) json_object_set_new(cfg, "original_inference_steps", json_integer(50));
    if (entry(w, "ztsnr")) json_object_set_new(cfg, "rescale_betas_zero_snr", json_true());
    return cfg;
}

static json_t *model_index(const an_checkpoint *c, const sd_kind *k, json_int_t in_channels)
{
    const char *cls = k->refiner         ? "StableDiffusionXLImg2ImgPipeline"
                      : k->xl            ? (in_channels == 9 ? "StableDiffusionXLInpaintPipeline"
                                                             : "StableDiffusionXLPipeline")
                      : in_channels == 9 ? "StableDiffusionInpaintPipeline"
                      : k->lcm           ? "LatentConsistencyModelPipeline"
                                         : "StableDiffusionPipeline";
    json_t *index = json_pack("{s:s}", "_class_name", cls);
    const char *name;
    json_t *cfg;
    json_object_foreach(c->configs, name, cfg)
    {
        const json_t *part = json_object_get(cfg, "_class_name");
        if (!part) part = json_array_get(json_object_get(cfg, "architectures"), 0);
        if (!part) part = json_object_get(cfg, "tokenizer_class");
        if (part)
            json_object_set_new(
                index, name,
                json_pack("[ss]",
                          json_object_get(cfg, "_class_name") ? "diffusers" : "transformers",
                          json_string_value(part)));
    }
    if (k->xl) json_object_set_new(index, "force_zeros_for_empty_prompt", json_true());
    if (k->refiner) json_object_set_new(index, "requires_aesthetics_score", json_true());
    return index;
}

/* ---------------------------------------------------------------- the file beside it */

/* NAME.json beside NAME.safetensors, else anneal.json in its folder; NULL path: neither. */
static char *sidecar_path(const char *path)
{
    size_t stem = strlen(path);
    if (an_ends_with(path, ".safetensors")) stem -= strlen(".safetensors");
    char *own = an_asprintf("%.*s.json", (int)stem, path);
    if (!own || an_is_file(own)) return own;
    free(own);
    int dir = (int)(an_base_name(path) - path);
    char *shared = an_asprintf("%.*sanneal.json", dir, path);
    if (!shared || an_is_file(shared)) return shared;
    free(shared);
    return NULL;
}

/* Its objects that bear the name of a component change that component's config key by key; the rest
 * is what anneal.json is for folders. */
static an_status apply_sidecar(an_checkpoint *c, an_error *err)
{
    char *path = sidecar_path(c->path);
    if (!path) return AN_OK;
    json_t *doc = NULL, *v;
    const char *name;
    an_status s = an_json_read_file(path, AN_MAX_CONFIG_BYTES, &doc, err);
    if (s == AN_OK && !json_is_object(doc))
        s = an_fail(err, AN_INVALID, "%s: not a JSON object", path);
    if (s == AN_OK) {
        json_object_foreach(doc, name, v)
        {
            json_t *cfg = json_object_get(c->configs, name);
            if (json_is_object(v) && cfg && json_object_update(cfg, v) != 0)
                s = an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
        }
    }
    if (s == AN_OK && json_object_set(c->configs, "anneal", doc) != 0)
        s = an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    json_decref(doc);
    free(path);
    return s;
}

/* ---------------------------------------------------------------- opening */

static void set_text_configs(an_checkpoint *c, const sd_kind *k)
{
    if (k->clip || k->openclip) {
        json_t *t = k->openclip ? openclip_config(c->file, k->openclip_at, true)
                                : clip_config(c->file, k->clip);
        json_object_set_new(c->configs, "tokenizer", tokenizer_config(t, k->openclip));
        json_object_set_new(c->configs, "text_encoder", t);
    }
    if (k->xl) {
        json_t *t = openclip_config(c->file, k->openclip_at, false);
        json_object_set_new(c->configs, "tokenizer_2", tokenizer_config(t, true));
        json_object_set_new(c->configs, "text_encoder_2", t);
    }
}

an_status an_single_file_open(an_checkpoint *c, an_error *err)
{
    sd_kind k;
    unet_shape u;
    json_t *vae = NULL;
    if (!recognise(c->file, &k)) return AN_OK;
    an_status s = measure_unet(c->file, &u, err);
    if (s == AN_OK) s = vae_config(c->file, &k, &vae, err);
    if (s != AN_OK) return s;
    c->layout = AN_LAYOUT_SINGLE_FILE;
    json_object_set_new(c->configs, "vae", vae);
    json_object_set_new(c->configs, "unet", unet_config(c->file, &k, &u));
    json_object_set_new(c->configs, "scheduler", scheduler_config(c->file, &k));
    set_text_configs(c, &k);
    json_int_t in = size_of(entry(c->file, UNET "input_blocks.0.0.weight"), 1);
    json_object_set_new(c->configs, "model_index", model_index(c, &k, in));
    static const char *const needed[] = {"unet", "vae", "scheduler", "model_index"};
    for (int i = 0; i < 4; i++)
        if (!json_object_get(c->configs, needed[i]))
            return an_fail(err, AN_NO_MEMORY, "%s: out of memory", c->path);
    s = apply_sidecar(c, err);
    const char *cls = json_string_value(
        json_object_get(json_object_get(c->configs, "model_index"), "_class_name"));
    snprintf(c->cls, sizeof c->cls, "%s", cls ? cls : "");
    return s;
}

an_status an_single_file_weights(const an_checkpoint *c, const char *component, an_weights **out,
                                 an_error *err)
{
    sd_kind k;
    unet_shape u;
    an_ldm m = {0};
    if (c->layout == AN_LAYOUT_TENSORS || !recognise(c->file, &k))
        return an_fail(
            err, AN_NOT_FOUND,
            "%s: no component %s: not a whole Stable Diffusion checkpoint (UNet, VAE and "
            "text encoder in one file)",
            c->path, component);
    if (strcmp(component, "unet") == 0) {
        an_status s = measure_unet(c->file, &u, err);
        if (s != AN_OK) return s;
        m = (an_ldm){.kind = AN_LDM_UNET, .prefix = UNET, .layers_per_block = u.layers};
    } else if (strcmp(component, "vae") == 0) {
        m = (an_ldm){.kind = AN_LDM_VAE, .prefix = k.vae, .levels = vae_levels(c->file, k.vae)};
    } else if (strcmp(component, "text_encoder") == 0 && k.clip) {
        m = (an_ldm){.kind = AN_LDM_CLIP, .prefix = k.clip};
    } else if ((strcmp(component, "text_encoder") == 0 && k.openclip) ||
               (strcmp(component, "text_encoder_2") == 0 && k.xl)) {
        m = (an_ldm){.kind = AN_LDM_OPENCLIP, .prefix = k.openclip_at, .projection = k.xl};
        m.layers = openclip_layers(c->file, k.openclip_at, k.openclip);
    } else {
        return an_fail(err, AN_NOT_FOUND, "%s: no component %s in this file", c->path, component);
    }
    return an_set_derive(c->file, component, an_ldm_map, &m, out, err);
}
