/* vae.h: AutoencoderKL of diffusers: pictures to latents and back (Rombach et al. 2022, the KL
 * variant; Esser et al. 2021). Private to models/. */
#ifndef ANNEAL_MODELS_VAE_H
#define ANNEAL_MODELS_VAE_H

#include "config.h"
#include "layers.h"

enum { AN_VAE_LEVELS = 8, AN_VAE_LAYERS = 8, AN_VAE_LATENT_MAX = 64 };

typedef struct an_vae_config {
    int levels;
    int64_t channels[AN_VAE_LEVELS];
    int layers; /* resnets of an encoder block; one more in the decoder */
    int64_t latent_channels;
    int factor; /* pixels per latent: 2^(levels - 1) */
    int groups;
    bool mid_attention, quant_conv, post_quant_conv;
    float scaling_factor, shift_factor;
    bool has_stats; /* latents_mean and latents_std */
    float mean[AN_VAE_LATENT_MAX], std[AN_VAE_LATENT_MAX];
} an_vae_config;

/* Errors latch in c. */
void an_vae_config_read(an_config *c, an_vae_config *out);

/* Resnet, one-headed self-attention over all pixels, resnet. */
typedef struct an_vae_mid {
    char label[AN_LABEL_MAX];
    an_resnet resnet[2];
    an_norm norm;
    an_weight *qkv, *out; /* NULL without attention */
} an_vae_mid;

typedef struct an_vae_block {
    char label[AN_LABEL_MAX];
    an_resnet resnet[AN_VAE_LAYERS + 1];
    int layers;
    int64_t channels;
    an_weight *resample;
} an_vae_block;

typedef struct an_vae {
    an_vae_config config;
    struct {
        an_weight *unscale;                         /* 1x1, F32; NULL where a factor is enough */
        an_weight *post_quant, *conv_in, *conv_out; /* post_quant F32 */
        an_vae_mid mid;
        an_vae_block block[AN_VAE_LEVELS];
        an_norm norm_out;
    } decoder;
    struct {
        an_weight *conv_in;
        an_weight *conv_out;      /* NULL without quant_conv */
        an_weight *mean, *logvar; /* halves of quant_conv (F32), or of conv_out */
        an_vae_block block[AN_VAE_LEVELS];
        an_vae_mid mid;
        an_norm norm_out;
    } encoder;
} an_vae;

void an_vae_load(an_loader *ld, const an_vae_config *config, an_vae *out);

/* latent: host array of device F32 [h, w, latent_channels], one for each row, as samplers leave
 * them (scaled). picture F32 [n, h * factor, w * factor, 3] in [-1, 1], out. dtype: of the network.
 */
void an_vae_decode(const an_vae *v, an_lane *l, an_dtype dtype, const float *const *latent,
                   int64_t h, int64_t w, an_tensor picture);
/* The same in tiles of `tile` latents (a multiple of 4), three quarters of a tile apart and blended
 * linearly, as diffusers' tiled_decode; one row. Only a tile's worth of network is ever in memory.
 * picture_u8 [1, H, W, 3]; NaNs are counted in *n_nan. */
void an_vae_decode_tiled(const an_vae *v, an_lane *l, an_dtype dtype, const float *latent,
                         int64_t h, int64_t w, int tile, an_tensor picture_u8, int64_t *n_nan);
/* picture [n, H, W, 3] in the model's dtype, [-1, 1]; mean, logvar F32 [n, h, w, latent_channels],
 * out, unscaled, logvar not yet clamped. */
void an_vae_encode(const an_vae *v, an_lane *l, an_tensor picture, an_tensor mean,
                   an_tensor logvar);

#endif
