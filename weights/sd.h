/* sd.h: what a single-file Stable Diffusion checkpoint consists of, as its tensors tell. Private to
 * the weights room. */
#ifndef ANNEAL_WEIGHTS_SD_H
#define ANNEAL_WEIGHTS_SD_H

#include "checkpoint.h"

#define AN_SD_UNET       "model.diffusion_model."
#define AN_SD_MAX_LEVELS 8
#define AN_SD_MAX_LAYERS 64
#define AN_SD_MAX_DEPTH  64

typedef struct an_sd_kind {
    bool xl, refiner;
    bool openclip;   /* the first text encoder is OpenCLIP's: SD2 */
    bool lcm;        /* has an embedding of the guidance scale */
    bool unclip;     /* a label embedding that is not SDXL's: takes an image's CLIP embedding */
    const char *vae; /* prefix of the VAE's names */
    const char *clip, *openclip_at; /* prefixes of the text encoders, NULL if absent */
} an_sd_kind;

typedef struct an_sd_unet {
    int levels, layers; /* layers: resnets of a level going down */
    int64_t channels[AN_SD_MAX_LEVELS];
    int depth[AN_SD_MAX_LEVELS]; /* transformer blocks of a level, 0 without attention */
    int mid_depth;
    bool linear; /* proj_in is a Linear layer, not a 1x1 convolution */
    int64_t context;
} an_sd_unet;

/* The tensor of the formatted name, or NULL. */
const an_entry *an_sd_entry(const an_weights *w, const char *fmt, ...) AN_PRINTF(2, 3);
/* Size `axis` of a tensor; 0 if there is no such tensor or axis. */
int64_t an_sd_size(const an_entry *e, int axis);

/* True if UNet, VAE and a text encoder are all there. */
bool an_sd_recognise(const an_weights *w, an_sd_kind *k);
an_status an_sd_measure_unet(const an_weights *w, an_sd_unet *u, an_error *err);
int an_sd_vae_levels(const an_weights *w, const char *prefix);
int an_sd_openclip_layers(const an_weights *w, const char *prefix, bool sd2);

/* Fills c->configs: unet, vae, scheduler, text encoders, tokenizers, model_index. */
an_status an_sd_configs(an_checkpoint *c, const an_sd_kind *k, const an_sd_unet *u, an_error *err);

#endif
