/* sd_shape.c: recognises a single-file Stable Diffusion checkpoint and measures its networks. */
#include "sd.h"

#include <stdio.h>

/* ---------------------------------------------------------------- asking the file */

const an_entry *an_sd_entry(const an_weights *w, const char *fmt, ...)
{
    char name[AN_WEIGHTS_MAX_NAME];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    return an_set_entry(w, name);
}

int64_t an_sd_size(const an_entry *e, int axis)
{
    return e && axis < e->ndim ? e->dim[axis] : 0;
}

bool an_sd_recognise(const an_weights *w, an_sd_kind *k)
{
    *k = (an_sd_kind){0};
    if (!an_sd_entry(w, AN_SD_UNET "input_blocks.0.0.weight")) return false;
    if (an_sd_entry(w, "first_stage_model.decoder.conv_in.weight"))
        k->vae = "first_stage_model.";
    else if (an_sd_entry(w, "vae.decoder.conv_in.weight"))
        k->vae = "vae.";
    else
        return false;
    static const char *const clip[] = {"cond_stage_model.transformer.",
                                       "conditioner.embedders.0.transformer."};
    static const char *const open[] = {"cond_stage_model.model.", "conditioner.embedders.0.model.",
                                       "conditioner.embedders.1.model."};
    for (int i = 0; i < 2; i++)
        if (an_sd_entry(w, "%stext_model.embeddings.token_embedding.weight", clip[i]) ||
            an_sd_entry(w, "%sembeddings.token_embedding.weight", clip[i]))
            k->clip = clip[i];
    for (int i = 0; i < 3; i++)
        if (an_sd_entry(w, "%stoken_embedding.weight", open[i])) k->openclip_at = open[i];
    k->lcm = an_sd_entry(w, AN_SD_UNET "time_embed.cond_proj.weight") != NULL;
    bool label = an_sd_entry(w, AN_SD_UNET "label_emb.0.0.weight") != NULL;
    bool conditioner = k->openclip_at && strncmp(k->openclip_at, "conditioner.", 12) == 0;
    k->xl = label && conditioner;
    k->unclip = label && !conditioner;
    k->refiner = k->xl && !k->clip;
    k->openclip = !k->xl && k->openclip_at;
    return k->xl || k->clip || k->openclip;
}

/* ---------------------------------------------------------------- UNet */

static int count_depth(const an_weights *w, const char *block)
{
    int n = 0;
    while (n < AN_SD_MAX_DEPTH &&
           an_sd_entry(w, AN_SD_UNET "%s.1.transformer_blocks.%d.norm1.weight", block, n))
        n++;
    return n;
}

static void look_at_attention(const an_weights *w, const char *block, an_sd_unet *u)
{
    const an_entry *k =
        an_sd_entry(w, AN_SD_UNET "%s.1.transformer_blocks.0.attn2.to_k.weight", block);
    const an_entry *p = an_sd_entry(w, AN_SD_UNET "%s.1.proj_in.weight", block);
    if (k) u->context = an_sd_size(k, 1);
    if (p) u->linear = p->ndim == 2;
}

an_status an_sd_measure_unet(const an_weights *w, an_sd_unet *u, an_error *err)
{
    int blocks = 1, downs = 0; /* input block 0 is conv_in */
    *u = (an_sd_unet){0};
    for (; blocks < AN_SD_MAX_LEVELS * AN_SD_MAX_LAYERS; blocks++) {
        if (an_sd_entry(w, AN_SD_UNET "input_blocks.%d.0.op.weight", blocks))
            downs++;
        else if (!an_sd_entry(w, AN_SD_UNET "input_blocks.%d.0.in_layers.2.weight", blocks))
            break;
    }
    u->levels = downs + 1;
    u->layers = (blocks - 1 - downs) / u->levels;
    if (u->levels > AN_SD_MAX_LEVELS || u->layers < 1 || u->layers > AN_SD_MAX_LAYERS ||
        (blocks - 1 - downs) % u->levels != 0)
        return an_fail(err, AN_INVALID,
                       "%s: %d input blocks with %d downsamplers are not a Stable Diffusion UNet "
                       "(every level has the same number of blocks)",
                       w->path, blocks, downs);
    char block[48];
    for (int i = 0; i < u->levels; i++) {
        int first = 1 + i * (u->layers + 1);
        snprintf(block, sizeof block, "input_blocks.%d", first);
        u->channels[i] = an_sd_size(an_sd_entry(w, AN_SD_UNET "%s.0.in_layers.2.weight", block), 0);
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

/* ---------------------------------------------------------------- VAE, text encoders */

int an_sd_vae_levels(const an_weights *w, const char *prefix)
{
    int n = 0;
    while (n < AN_SD_MAX_LEVELS &&
           an_sd_entry(w, "%sdecoder.up.%d.block.0.conv1.weight", prefix, n))
        n++;
    return n;
}

/* SD2 was trained on the output of OpenCLIP-H's last layer but one. diffusers stores that
 * encoder with 23 layers and takes its last; files hold all 24. SDXL keeps all and skips when
 * it runs. */
int an_sd_openclip_layers(const an_weights *w, const char *prefix, bool sd2)
{
    int n = 0;
    while (n < AN_SD_MAX_LAYERS &&
           an_sd_entry(w, "%stransformer.resblocks.%d.ln_1.weight", prefix, n))
        n++;
    bool vit_h = n == 24 && an_sd_size(an_sd_entry(w, "%sln_final.weight", prefix), 0) == 1024;
    return sd2 && vit_h ? 23 : n;
}
