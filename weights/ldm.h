/* ldm.h: the names inside single-file Stable Diffusion checkpoints (those of the latent-diffusion
 * source, https://github.com/CompVis/latent-diffusion) against diffusers' names. Private. */
#ifndef ANNEAL_WEIGHTS_LDM_H
#define ANNEAL_WEIGHTS_LDM_H

#include "set.h"

typedef enum an_ldm_kind { AN_LDM_UNET, AN_LDM_VAE, AN_LDM_CLIP, AN_LDM_OPENCLIP } an_ldm_kind;

/* How to find one component in the file. Where LDM counts blocks in one row and diffusers in
 * levels, the shape of the network is needed to translate. */
typedef struct an_ldm {
    an_ldm_kind kind;
    const char *prefix;   /* of all its names, e.g. "model.diffusion_model." */
    int layers_per_block; /* UNet: resnets of a level going down */
    int levels;           /* VAE: number of resolutions, as its decoder counts them backwards */
    int layers;           /* OpenCLIP: layers kept, the rest is ignored */
    bool projection;      /* OpenCLIP: whether text_projection is kept */
} an_ldm;

/* an_set_map_fn; ctx is an an_ldm. Tensors of other components and those that inference has no use
 * for (schedules, EMA copies, the discriminator of the VAE's training) are left out. */
an_status an_ldm_map(const void *ctx, const an_entry *e, an_weights *out, an_error *err);

#endif
