/* sd_config.c: the configs that a diffusers folder would hold, for a single-file checkpoint.
 * Inferred from shapes; what shapes cannot tell is set as diffusers' from_single_file sets it (the
 * table in single_file.c). Values that no model here looks at are left out. */
#include "sd.h"

#include <jansson.h>

/* As json_pack's "I" wants it. */
static json_int_t size_of(const an_entry *e, int axis)
{
    return an_sd_size(e, axis);
}

/* ---------------------------------------------------------------- UNet */

/* The largest power of two up to 32 that divides all: 32 in every published model. */
static json_int_t groups_for(const int64_t *channels, int n)
{
    json_int_t g = 32;
    for (int i = 0; i < n; i++)
        while (channels[i] % g != 0) g /= 2;
    return g;
}

static json_t *int_list(const int64_t *v, int n)
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
static json_t *heads(const an_sd_unet *u)
{
    int64_t h[AN_SD_MAX_LEVELS];
    if (!u->linear) return json_integer(8);
    for (int i = 0; i < u->levels; i++) h[i] = u->channels[i] < 64 ? 1 : u->channels[i] / 64;
    return int_list(h, u->levels);
}

/* transformer_layers_per_block; its last entry is also the depth of the middle. */
static json_t *depths(const an_sd_unet *u)
{
    int64_t d[AN_SD_MAX_LEVELS];
    bool all_one = true;
    for (int i = 0; i < u->levels; i++) {
        d[i] = u->depth[i] ? u->depth[i] : i == u->levels - 1 ? u->mid_depth : 1;
        all_one = all_one && d[i] == 1;
    }
    return all_one ? json_integer(1) : int_list(d, u->levels);
}

static void add_time_conditioning(const an_weights *w, const an_sd_kind *k, json_t *cfg)
{
    const an_entry *cond = an_sd_entry(w, AN_SD_UNET "time_embed.cond_proj.weight");
    if (cond) json_object_set_new(cfg, "time_cond_proj_dim", json_integer(size_of(cond, 1)));
    if (!k->xl) return;
    /* label_emb takes the pooled text and one embedding of each of the 6 size numbers (5 in the
     * refiner: an aesthetic score in the place of the target size) */
    int64_t in = size_of(an_sd_entry(w, AN_SD_UNET "label_emb.0.0.weight"), 1);
    json_int_t pooled = size_of(an_sd_entry(w, "%stext_projection", k->openclip_at), 1);
    if (!pooled) pooled = size_of(an_sd_entry(w, "%stext_projection.weight", k->openclip_at), 0);
    json_object_set_new(cfg, "addition_embed_type", json_string("text_time"));
    json_object_set_new(cfg, "addition_time_embed_dim",
                        json_integer((in - pooled) / (k->refiner ? 5 : 6)));
    json_object_set_new(cfg, "projection_class_embeddings_input_dim", json_integer(in));
}

static json_t *unet_config(const an_weights *w, const an_sd_kind *k, const an_sd_unet *u)
{
    json_t *cfg =
        json_pack("{s:s, s:s, s:i, s:b, s:f, s:I, s:I, s:I, s:i, s:I, s:b, s:b}", "_class_name",
                  "UNet2DConditionModel", "act_fn", "silu", "freq_shift", 0, "flip_sin_to_cos", 1,
                  "norm_eps", 1e-5, "norm_num_groups", groups_for(u->channels, u->levels),
                  "in_channels", size_of(an_sd_entry(w, AN_SD_UNET "input_blocks.0.0.weight"), 1),
                  "out_channels", size_of(an_sd_entry(w, AN_SD_UNET "out.2.weight"), 0),
                  "layers_per_block", u->layers, "cross_attention_dim", (json_int_t)u->context,
                  "use_linear_projection", u->linear, "upcast_attention", k->openclip);
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

static an_status vae_config(const an_weights *w, const an_sd_kind *k, json_t **out, an_error *err)
{
    int64_t channels[AN_SD_MAX_LEVELS];
    int special[AN_SD_MAX_LEVELS] = {0}, layers = 0, levels = an_sd_vae_levels(w, k->vae);
    for (int i = 0; i < levels; i++) {
        channels[i] = size_of(an_sd_entry(w, "%sdecoder.up.%d.block.0.conv1.weight", k->vae, i), 0);
        if (channels[i] < 1)
            return an_fail(err, AN_INVALID, "%s: VAE level %d has no channels", w->path, i);
    }
    /* a decoder level has one resnet more than layers_per_block says */
    while (layers < AN_SD_MAX_LAYERS &&
           an_sd_entry(w, "%sdecoder.up.0.block.%d.conv1.weight", k->vae, layers + 1))
        layers++;
    if (levels == 0 || layers == 0)
        return an_fail(err, AN_INVALID, "%s: no resnets in the levels of the VAE's decoder",
                       w->path);
    json_t *cfg = json_pack(
        "{s:s, s:s, s:f, s:b, s:I, s:I, s:I, s:I, s:i, s:i, s:b, s:b, s:b}", "_class_name",
        "AutoencoderKL", "act_fn", "silu", "scaling_factor", k->xl ? 0.13025 : 0.18215,
        "force_upcast", 1, "norm_num_groups", groups_for(channels, levels), "latent_channels",
        size_of(an_sd_entry(w, "%sdecoder.conv_in.weight", k->vae), 1), "in_channels",
        size_of(an_sd_entry(w, "%sencoder.conv_in.weight", k->vae), 1), "out_channels",
        size_of(an_sd_entry(w, "%sdecoder.conv_out.weight", k->vae), 0), "layers_per_block", layers,
        "sample_size",
        k->xl         ? 1024
        : k->openclip ? 768
                      : 512,
        "mid_block_add_attention", an_sd_entry(w, "%sdecoder.mid.attn_1.q.weight", k->vae) != NULL,
        "use_quant_conv", an_sd_entry(w, "%squant_conv.weight", k->vae) != NULL,
        "use_post_quant_conv", an_sd_entry(w, "%spost_quant_conv.weight", k->vae) != NULL);
    *out = cfg;
    if (!cfg) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", w->path);
    json_object_set_new(cfg, "block_out_channels", int_list(channels, levels));
    json_object_set_new(cfg, "down_block_types",
                        string_list("", "DownEncoderBlock2D", special, levels, false));
    json_object_set_new(cfg, "up_block_types",
                        string_list("", "UpDecoderBlock2D", special, levels, false));
    return AN_OK;
}

/* ---------------------------------------------------------------- text encoders */

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
    const char *tm =
        an_sd_entry(w, "%stext_model.final_layer_norm.weight", prefix) ? "text_model." : "";
    const an_entry *tok = an_sd_entry(w, "%s%sembeddings.token_embedding.weight", prefix, tm);
    int n = 0;
    while (n < AN_SD_MAX_LAYERS &&
           an_sd_entry(w, "%s%sencoder.layers.%d.layer_norm1.weight", prefix, tm, n))
        n++;
    return text_config(
        size_of(tok, 0), size_of(tok, 1),
        size_of(an_sd_entry(w, "%s%sembeddings.position_embedding.weight", prefix, tm), 0),
        size_of(an_sd_entry(w, "%s%sencoder.layers.0.mlp.fc1.weight", prefix, tm), 0), n, 0, false,
        false);
}

static json_t *openclip_config(const an_weights *w, const char *prefix, bool sd2)
{
    const an_entry *tok = an_sd_entry(w, "%stoken_embedding.weight", prefix);
    json_int_t proj = size_of(an_sd_entry(w, "%stext_projection", prefix), 1);
    if (!proj) proj = size_of(an_sd_entry(w, "%stext_projection.weight", prefix), 0);
    return text_config(
        size_of(tok, 0), size_of(tok, 1),
        size_of(an_sd_entry(w, "%spositional_embedding", prefix), 0),
        size_of(an_sd_entry(w, "%stransformer.resblocks.0.mlp.c_fc.weight", prefix), 0),
        an_sd_openclip_layers(w, prefix, sd2), proj, true, !sd2);
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
static const char *prediction_type(const an_weights *w, const an_sd_kind *k)
{
    const char *spec = an_weights_metadata(w, "modelspec.prediction_type");
    if (an_sd_entry(w, "v_pred") || (spec && strcmp(spec, "v") == 0)) return "v_prediction";
    if (spec && strcmp(spec, "epsilon") == 0) return "epsilon";
    return k->openclip ? "v_prediction" : "epsilon";
}

static json_t *scheduler_config(const an_weights *w, const an_sd_kind *k)
{
    const char *cls = k->lcm        ? "LCMScheduler"
                      : k->xl       ? "EulerDiscreteScheduler"
                      : k->openclip ? "DDIMScheduler"
                                    : "PNDMScheduler";
    /* Playground v2.5 is an SDXL trained with EDM's noise levels: no other sampler fits */
    if (an_sd_entry(w, "edm_mean")) cls = "EDMDPMSolverMultistepScheduler";
    json_t *cfg = json_pack("{s:s, s:f, s:f, s:s, s:i, s:s, s:s, s:b, s:b, s:i}", "_class_name",
                            cls, "beta_start", 0.00085, "beta_end", 0.012, "beta_schedule",
                            "scaled_linear", "num_train_timesteps", 1000, "prediction_type",
                            prediction_type(w, k), "timestep_spacing", "leading", "clip_sample", 0,
                            "set_alpha_to_one", k->lcm, "steps_offset", !k->lcm);
    if (!cfg) return NULL;
    if (strcmp(cls, "PNDMScheduler") == 0) json_object_set_new(cfg, "skip_prk_steps", json_true());
    if (k->lcm) json_object_set_new(cfg, "original_inference_steps", json_integer(50));
    if (an_sd_entry(w, "ztsnr")) json_object_set_new(cfg, "rescale_betas_zero_snr", json_true());
    return cfg;
}

/* diffusers' class for the network. Those that want more than a text say so by their name, and are
 * refused by it where only text-to-image is served. */
static const char *pipeline_class(const an_sd_kind *k, int64_t in_channels, int64_t latent)
{
    if (k->refiner) return "StableDiffusionXLImg2ImgPipeline";
    if (k->unclip) return "StableUnCLIPPipeline";
    if (in_channels != latent) {
        switch (in_channels - latent) {
        case 5: /* a mask and the masked picture */
            return k->xl ? "StableDiffusionXLInpaintPipeline" : "StableDiffusionInpaintPipeline";
        case 4: /* the picture to change */
            return k->xl ? "StableDiffusionXLInstructPix2PixPipeline"
                         : "StableDiffusionInstructPix2PixPipeline";
        case 3:
            return "StableDiffusionUpscalePipeline";
        case 1:
            return "StableDiffusionDepth2ImgPipeline";
        default:
            return "";
        }
    }
    if (k->xl) return "StableDiffusionXLPipeline";
    return k->lcm ? "LatentConsistencyModelPipeline" : "StableDiffusionPipeline";
}

static json_t *model_index(const an_checkpoint *c, const an_sd_kind *k)
{
    int64_t in = size_of(an_sd_entry(c->file, AN_SD_UNET "input_blocks.0.0.weight"), 1);
    int64_t latent = size_of(an_sd_entry(c->file, "%sdecoder.conv_in.weight", k->vae), 1);
    json_t *index = json_pack("{s:s}", "_class_name", pipeline_class(k, in, latent));
    const char *name;
    json_t *cfg;
    json_object_foreach(c->configs, name, cfg)
    {
        const char *library = "diffusers";
        const json_t *cls = json_object_get(cfg, "_class_name");
        if (!cls) {
            library = "transformers";
            cls = json_array_get(json_object_get(cfg, "architectures"), 0);
        }
        if (!cls) cls = json_object_get(cfg, "tokenizer_class");
        json_object_set_new(index, name, json_pack("[ss]", library, json_string_value(cls)));
    }
    if (k->xl) json_object_set_new(index, "force_zeros_for_empty_prompt", json_true());
    if (k->refiner) json_object_set_new(index, "requires_aesthetics_score", json_true());
    return index;
}

/* ---------------------------------------------------------------- all */

static void add_text_configs(an_checkpoint *c, const an_sd_kind *k)
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

an_status an_sd_configs(an_checkpoint *c, const an_sd_kind *k, const an_sd_unet *u, an_error *err)
{
    json_t *vae = NULL;
    an_status s = vae_config(c->file, k, &vae, err);
    if (s != AN_OK) return s;
    json_object_set_new(c->configs, "vae", vae);
    json_object_set_new(c->configs, "unet", unet_config(c->file, k, u));
    json_object_set_new(c->configs, "scheduler", scheduler_config(c->file, k));
    add_text_configs(c, k);
    json_object_set_new(c->configs, "model_index", model_index(c, k));
    static const char *const needed[] = {"unet", "vae", "scheduler", "model_index", "tokenizer"};
    bool xl_only = k->xl && !k->clip;
    for (int i = 0; i < (xl_only ? 4 : 5); i++)
        if (!json_object_get(c->configs, needed[i]))
            return an_fail(err, AN_NO_MEMORY, "%s: out of memory", c->path);
    return AN_OK;
}
