/* latent_diffusion_info.c: what can be said of a Stable Diffusion model from its configs: do its
 * parts fit each other, and with what defaults is it served. */
#include "latent_diffusion.h"

#include <jansson.h>
#include <stdio.h>

/* ---------------------------------------------------------------- configs */

static an_status fit(const an_ld_config *k, an_error *err)
{
    const an_unet_config *u = &k->unet;
    int64_t z = k->vae.latent_channels, width = k->text[0].width + k->text[1].width;
    if (u->in_channels != z || u->out_channels != z)
        return an_fail(
            err, AN_INVALID,
            "unet/config.json: in_channels %lld and out_channels %lld, expected the VAE's "
            "%lld latent channels for both (inpainting, depth and editing models take "
            "more and are not supported)",
            (long long)u->in_channels, (long long)u->out_channels, (long long)z);
    if (u->context_dim != width)
        return an_fail(err, AN_INVALID,
                       "unet/config.json: cross_attention_dim is %lld, but the text encoder%s %lld",
                       (long long)u->context_dim, k->texts > 1 ? "s together give" : " gives",
                       (long long)width);
    if (k->texts > 1 && k->text[0].positions != k->text[1].positions)
        return an_fail(err, AN_INVALID,
                       "text_encoder_2/config.json: max_position_embeddings is %lld, but the first "
                       "encoder's %lld",
                       (long long)k->text[1].positions, (long long)k->text[0].positions);
    if (u->time_id_dim && u->pooled_dim != k->text[1].projection)
        return an_fail(
            err, AN_INVALID,
            "unet/config.json: projection_class_embeddings_input_dim leaves %lld for the "
            "pooled text, but text_encoder_2 projects to %lld (SDXL refiners are not "
            "supported)",
            (long long)u->pooled_dim, (long long)k->text[1].projection);
    if (k->vae.latent_channels > 16)
        return an_fail(err, AN_INVALID,
                       "vae/config.json: latent_channels is %lld, at most 16 are "
                       "supported",
                       (long long)k->vae.latent_channels);
    return AN_OK;
}

an_status an_ld_config_read(an_checkpoint *c, an_ld_config *out, an_error *err)
{
    *out = (an_ld_config){.texts = 1};
    an_config u = an_config_open(an_checkpoint_config(c, "unet"), "unet/config.json", err);
    an_unet_config_read(&u, &out->unet);
    if (u.status) return u.status;
    an_config v = an_config_open(an_checkpoint_config(c, "vae"), "vae/config.json", err);
    an_vae_config_read(&v, &out->vae);
    if (v.status) return v.status;
    an_config t =
        an_config_open(an_checkpoint_config(c, "text_encoder"), "text_encoder/config.json", err);
    an_clip_config_read(&t, false, &out->text[0]);
    if (t.status) return t.status;
    if (out->unet.time_id_dim) {
        const char *name = "text_encoder_2";
        t = an_config_open(an_checkpoint_config(c, name), "text_encoder_2/config.json", err);
        an_clip_config_read(&t, true, &out->text[1]);
        out->texts = 2;
    }
    return t.status ? t.status : fit(out, err);
}

/* ---------------------------------------------------------------- previews */

/* Latents to RGB by a matrix, as fitted by others against the real decoders and published in
 * ComfyUI's latent_formats.py: for the VAEs of SD 1 and 2, and of SDXL. */
typedef struct rgb_fit {
    float matrix[4][3], bias[3];
} rgb_fit;
static const rgb_fit rgb_sd = {{{0.3512f, 0.2297f, 0.3227f},
                                {0.3250f, 0.4974f, 0.2350f},
                                {-0.2829f, 0.1762f, 0.2721f},
                                {-0.2120f, -0.2616f, -0.7177f}},
                               {0, 0, 0}};
static const rgb_fit rgb_sdxl = {{{0.3651f, 0.4232f, 0.4341f},
                                  {-0.2533f, -0.0042f, 0.1068f},
                                  {0.1076f, 0.1111f, -0.0362f},
                                  {-0.3165f, -0.2492f, -0.2188f}},
                                 {0.1084f, -0.0175f, -0.0011f}};

static void default_rgb(an_model_info *info)
{
    if (info->latent_channels != 4) return;
    const rgb_fit *fitted = info->uses_time_ids ? &rgb_sdxl : &rgb_sd;
    memcpy(info->latent_rgb, fitted->matrix, sizeof fitted->matrix);
    memcpy(info->latent_rgb_bias, fitted->bias, sizeof fitted->bias);
    info->has_latent_rgb = true;
}

/* Three numbers into out; false if v is anything else. */
static bool rgb_of(const json_t *v, float out[3])
{
    if (json_array_size(v) != 3) return false;
    for (size_t i = 0; i < 3; i++) {
        const json_t *e = json_array_get(v, i);
        if (!json_is_number(e)) return false;
        out[i] = (float)json_number_value(e);
    }
    return true;
}

static void own_rgb(an_config *a, an_model_info *info)
{
    const json_t *m = json_object_get(a->json, "latent_rgb");
    const json_t *b = json_object_get(a->json, "latent_rgb_bias");
    if (!m || json_is_null(m) || a->status) return;
    bool ok = json_array_size(m) == (size_t)info->latent_channels;
    for (int i = 0; ok && i < info->latent_channels; i++)
        ok = rgb_of(json_array_get(m, (size_t)i), info->latent_rgb[i]);
    if (!ok)
        an_config_refuse(a, "latent_rgb",
                         "expected %d rows of three numbers, one for each latent "
                         "channel",
                         info->latent_channels);
    memset(info->latent_rgb_bias, 0, sizeof info->latent_rgb_bias);
    if (b && !json_is_null(b) && !rgb_of(b, info->latent_rgb_bias))
        an_config_refuse(a, "latent_rgb_bias", "expected three numbers");
    info->has_latent_rgb = true;
}

/* ---------------------------------------------------------------- info */

/* anneal.json beside the model: what it is best served with. */
static an_status own_defaults(const json_t *json, an_model_info *info, an_error *err)
{
    if (!json) return AN_OK;
    an_config a = an_config_open(json, "anneal.json", err);
    info->steps = (int)an_config_int(&a, "steps", info->steps, 1, 1000);
    info->guidance_scale =
        (float)an_config_num(&a, "guidance_scale", (double)info->guidance_scale, 0, 100);
    info->width = (int)an_config_int(&a, "width", info->width, info->factor, 1 << 16);
    info->height = (int)an_config_int(&a, "height", info->height, info->factor, 1 << 16);
    const char *side[] = {"width", "height"};
    for (int i = 0; i < 2; i++)
        if ((i ? info->height : info->width) % info->factor)
            an_config_refuse(&a, side[i], "it must be a multiple of %d", info->factor);
    own_rgb(&a, info);
    return a.status;
}

static const char *family_name(const an_ld_config *k)
{
    if (k->unet.guidance_dim) return "lcm";
    if (k->unet.time_id_dim) return "sdxl";
    return k->unet.linear_projection ? "sd2" : "sd1";
}

static void describe(an_checkpoint *c, const an_ld_config *k, an_model_info *info)
{
    bool lcm = k->unet.guidance_dim > 0;
    bool lcm_scheduler = false;
    const json_t *scheduler = an_checkpoint_config(c, "scheduler");
    const char *cls = json_string_value(json_object_get(scheduler, "_class_name"));
    if (cls) lcm_scheduler = strcmp(cls, "LCMScheduler") == 0;
    const json_t *zero =
        json_object_get(an_checkpoint_config(c, "model_index"), "force_zeros_for_empty_prompt");
    snprintf(info->family, sizeof info->family, "%s", family_name(k));
    snprintf(info->class_name, sizeof info->class_name, "%.63s", an_checkpoint_class(c));
    info->kind = AN_KIND_IMAGE;
    info->factor = info->size_multiple = k->vae.factor;
    info->width = (int)k->unet.sample_w * info->factor;
    info->height = (int)k->unet.sample_h * info->factor;
    info->latent_channels = (int)k->vae.latent_channels;
    info->text_encoders = k->texts;
    info->chunk_len = (int)k->text[0].positions;
    info->context_dim = (int)k->unet.context_dim;
    info->pooled_dim = (int)k->unet.pooled_dim;
    info->uses_time_ids = k->unet.time_id_dim > 0;
    info->guidance_embed = lcm;
    /* StableDiffusionXLPipeline's default is true; no other pipeline has it */
    info->zero_negative = info->uses_time_ids && !json_is_false(zero);
    info->layers_text = k->text[0].layers;
    /* LatentConsistencyModelPipeline's own defaults */
    info->steps = lcm || lcm_scheduler ? 4 : 20;
    info->guidance_scale = lcm ? 8.5f : 7.5f;
    info->scaling_factor = k->vae.scaling_factor;
    info->shift_factor = k->vae.shift_factor;
}

an_status an_ld_probe(an_checkpoint *c, an_model_info *info, an_error *err)
{
    static const char *const part[] = {"unet", "vae", "text_encoder", "text_encoder_2"};
    an_ld_config k;
    *info = (an_model_info){.kind = AN_KIND_IMAGE};
    an_status s = an_ld_config_read(c, &k, err);
    if (s) return s;
    describe(c, &k, info);
    default_rgb(info);
    s = own_defaults(an_checkpoint_config(c, "anneal"), info, err);
    for (int i = 0; i < 2 + k.texts && !s; i++) {
        an_weights *w;
        s = an_checkpoint_weights(c, part[i], &w, err);
        if (!s) info->weight_bytes_file += an_weights_bytes(w);
    }
    return s;
}
