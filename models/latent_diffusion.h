/* latent_diffusion.h: the Stable Diffusion family's parts. Private to models/; tests reach the
 * networks through it. */
#ifndef ANNEAL_MODELS_LATENT_DIFFUSION_H
#define ANNEAL_MODELS_LATENT_DIFFUSION_H

#include "clip_text.h"
#include "family.h"
#include "unet.h"
#include "vae.h"

typedef struct an_ld_config {
    an_clip_config text[2];
    int texts;
    an_unet_config unet;
    an_vae_config vae;
} an_ld_config;

typedef struct an_latent_diffusion {
    an_ld_config config;
    an_clip text[2];
    an_unet unet;
    an_vae vae;
} an_latent_diffusion;

/* latent_diffusion_info.c: reads all configs and checks that the parts fit each other. */
an_status an_ld_config_read(an_checkpoint *c, an_ld_config *out, an_error *err);
an_status an_ld_probe(an_checkpoint *c, an_model_info *out, an_error *err);

#endif
