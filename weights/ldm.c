/* ldm.c: the name map of single-file Stable Diffusion checkpoints. Reference: diffusers'
 * loaders/single_file_utils.py, whose results the tests compare with. */
#include "ldm.h"
#include "names.h"

#include <stdio.h>

#define NAME_SIZE (AN_WEIGHTS_MAX_NAME + 64)

typedef struct rename_rule {
    const char *ldm, *now;
} rename_rule;

/* If a rule's left side is the beginning of `name`, up to a dot or its end: the right side and the
 * rest of name, behind `head`, into buf. */
static bool apply(const rename_rule *rule, size_t rules, const char *head, const char *name,
                  char *buf)
{
    for (size_t i = 0; i < rules; i++) {
        size_t n = strlen(rule[i].ldm);
        if (strncmp(name, rule[i].ldm, n) != 0 || (name[n] && name[n] != '.')) continue;
        snprintf(buf, NAME_SIZE, "%s%s%s", head, rule[i].now, name + n);
        return true;
    }
    return false;
}
#define APPLY(rules, head, name, buf)                                                              \
    apply(rules, sizeof(rules) / sizeof(rules)[0], head, name, buf)

/* ---------------------------------------------------------------- UNet */

static bool unet_resnet(const char *head, const char *rest, char *buf)
{
    static const rename_rule rules[] = {
        {"in_layers.0", "norm1"},          {"in_layers.2", "conv1"},
        {"out_layers.0", "norm2"},         {"out_layers.3", "conv2"},
        {"emb_layers.1", "time_emb_proj"}, {"skip_connection", "conv_shortcut"}};
    return APPLY(rules, head, rest, buf);
}

/* LDM numbers all blocks in a row: every level has its resnets (each with or without attention) and
 * then its downsampler as a block of its own; going up, the upsampler is part of the last resnet's
 * block, behind the attention if there is one. */
static bool unet_block(const an_ldm *m, const char *name, char *buf)
{
    char head[96];
    int i, j, n = 0, per_level = m->layers_per_block + 1;
    if (sscanf(name, "middle_block.%3d.%n", &i, &n) == 1 && n && i >= 0 && i <= 2) {
        snprintf(head, sizeof head, "mid_block.%s.%d.", i == 1 ? "attentions" : "resnets", i / 2);
        if (i != 1) return unet_resnet(head, name + n, buf);
        snprintf(buf, NAME_SIZE, "%s%s", head, name + n);
        return true;
    }
    n = 0;
    if (sscanf(name, "input_blocks.%3d.%1d.%n", &i, &j, &n) == 2 && n && i > 0) {
        int level = (i - 1) / per_level, layer = (i - 1) % per_level;
        const char *rest = name + n;
        if (j == 0 && strncmp(rest, "op.", 3) == 0) {
            snprintf(buf, NAME_SIZE, "down_blocks.%d.downsamplers.0.conv.%s", level, rest + 3);
            return true;
        }
        snprintf(head, sizeof head, "down_blocks.%d.%s.%d.", level, j ? "attentions" : "resnets",
                 layer);
        if (j == 0) return unet_resnet(head, rest, buf);
        snprintf(buf, NAME_SIZE, "%s%s", head, rest);
        return j == 1;
    }
    n = 0;
    if (sscanf(name, "output_blocks.%3d.%1d.%n", &i, &j, &n) == 2 && n && i >= 0) {
        int level = i / per_level, layer = i % per_level;
        const char *rest = name + n;
        if (j > 0 && strncmp(rest, "conv.", 5) == 0) {
            snprintf(buf, NAME_SIZE, "up_blocks.%d.upsamplers.0.%s", level, rest);
            return true;
        }
        snprintf(head, sizeof head, "up_blocks.%d.%s.%d.", level, j ? "attentions" : "resnets",
                 layer);
        if (j == 0) return unet_resnet(head, rest, buf);
        snprintf(buf, NAME_SIZE, "%s%s", head, rest);
        return j == 1;
    }
    return false;
}

static bool unet_name(const an_ldm *m, const char *name, char *buf)
{
    static const rename_rule ends[] = {{"time_embed.0", "time_embedding.linear_1"},
                                       {"time_embed.2", "time_embedding.linear_2"},
                                       {"time_embed.cond_proj", "time_embedding.cond_proj"},
                                       {"label_emb.0.0", "add_embedding.linear_1"},
                                       {"label_emb.0.2", "add_embedding.linear_2"},
                                       {"input_blocks.0.0", "conv_in"},
                                       {"out.0", "conv_norm_out"},
                                       {"out.2", "conv_out"}};
    return APPLY(ends, "", name, buf) || unet_block(m, name, buf);
}

/* ---------------------------------------------------------------- VAE */

/* name: behind "encoder." or "decoder.", which is `side`. The decoder's levels are numbered from
 * the finest up in LDM, in the order of computation in diffusers. */
static bool vae_side(const an_ldm *m, const char *side, const char *name, char *buf)
{
    static const rename_rule rules[] = {
        {"conv_in", "conv_in"},
        {"conv_out", "conv_out"},
        {"norm_out", "conv_norm_out"},
        {"mid.block_1.nin_shortcut", "mid_block.resnets.0.conv_shortcut"},
        {"mid.block_2.nin_shortcut", "mid_block.resnets.1.conv_shortcut"},
        {"mid.block_1", "mid_block.resnets.0"},
        {"mid.block_2", "mid_block.resnets.1"},
        {"mid.attn_1.norm", "mid_block.attentions.0.group_norm"},
        {"mid.attn_1.q", "mid_block.attentions.0.to_q"},
        {"mid.attn_1.k", "mid_block.attentions.0.to_k"},
        {"mid.attn_1.v", "mid_block.attentions.0.to_v"},
        {"mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"}};
    static const rename_rule shortcut[] = {{"nin_shortcut", "conv_shortcut"}};
    char head[96];
    int i, j, n = 0;
    if (APPLY(rules, side, name, buf)) return true;
    bool up = strncmp(name, "up.", 3) == 0;
    const char *blocks = up ? "up_blocks" : "down_blocks", *p = name + (up ? 3 : 5);
    if (!up && strncmp(name, "down.", 5) != 0) return false;
    if (sscanf(p, "%3d.block.%3d.%n", &i, &j, &n) == 2 && n) {
        snprintf(head, sizeof head, "%s%s.%d.resnets.%d.", side, blocks, up ? m->levels - 1 - i : i,
                 j);
        if (APPLY(shortcut, head, p + n, buf)) return true;
        snprintf(buf, NAME_SIZE, "%s%s", head, p + n);
        return true;
    }
    n = 0;
    if (sscanf(p, up ? "%3d.upsample.conv.%n" : "%3d.downsample.conv.%n", &i, &n) == 1 && n) {
        snprintf(buf, NAME_SIZE, "%s%s.%d.%s.0.conv.%s", side, blocks, up ? m->levels - 1 - i : i,
                 up ? "upsamplers" : "downsamplers", p + n);
        return true;
    }
    return false;
}

static bool vae_name(const an_ldm *m, const char *name, char *buf)
{
    static const rename_rule ends[] = {{"quant_conv", "quant_conv"},
                                       {"post_quant_conv", "post_quant_conv"}};
    if (strncmp(name, "encoder.", 8) == 0) return vae_side(m, "encoder.", name + 8, buf);
    if (strncmp(name, "decoder.", 8) == 0) return vae_side(m, "decoder.", name + 8, buf);
    return APPLY(ends, "", name, buf);
}

/* ---------------------------------------------------------------- OpenCLIP */

/* in_proj: the rows of q, k and v one below the other, [3C, C] or [3C]; each third is a view. */
static an_status add_in_proj(const char *head, const char *end, const an_entry *e, an_weights *out,
                             an_error *err)
{
    static const char *const part[] = {"q_proj", "k_proj", "v_proj"};
    char name[NAME_SIZE];
    if (e->ndim < 1 || e->dim[0] % 3 != 0)
        return an_fail(err, AN_INVALID, "%s/%s: its first size is no multiple of 3", out->label,
                       e->name);
    an_entry third = *e;
    third.dim[0] = e->dim[0] / 3;
    an_tensor t = {NULL, third.dtype, third.ndim, {0}};
    memcpy(t.dim, third.dim, sizeof t.dim);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%sself_attn.%s.%s", head, part[i], end);
        third.src = e->src + (size_t)i * an_tensor_bytes(&t);
        an_status s = an_set_add(out, name, &third, err);
        if (s != AN_OK) return s;
    }
    return AN_OK;
}

static an_status openclip(const an_ldm *m, const char *name, const an_entry *e, an_weights *out,
                          an_error *err)
{
    static const rename_rule ends[] = {
        {"positional_embedding", "embeddings.position_embedding.weight"},
        {"token_embedding", "embeddings.token_embedding"},
        {"ln_final", "final_layer_norm"}};
    static const rename_rule layer[] = {{"ln_1", "layer_norm1"},
                                        {"ln_2", "layer_norm2"},
                                        {"mlp.c_fc", "mlp.fc1"},
                                        {"mlp.c_proj", "mlp.fc2"},
                                        {"attn.out_proj", "self_attn.out_proj"}};
    char buf[NAME_SIZE], head[64];
    int i, n = 0;
    if (APPLY(ends, "", name, buf)) return an_set_add(out, buf, e, err);
    if (strcmp(name, "text_projection") == 0 && m->projection && e->ndim == 2) {
        /* OpenCLIP multiplies x P; a Linear layer holds P transposed */
        an_entry p = *e;
        p.dim[0] = e->dim[1];
        p.dim[1] = e->dim[0];
        p.transpose = true;
        return an_set_add(out, "text_projection.weight", &p, err);
    }
    if (strcmp(name, "text_projection.weight") == 0 && m->projection)
        return an_set_add(out, name, e, err);
    if (sscanf(name, "transformer.resblocks.%3d.%n", &i, &n) != 1 || !n) return AN_OK;
    if (i < 0 || i >= m->layers) return AN_OK;
    const char *rest = name + n;
    snprintf(head, sizeof head, "encoder.layers.%d.", i);
    if (strcmp(rest, "attn.in_proj_weight") == 0) return add_in_proj(head, "weight", e, out, err);
    if (strcmp(rest, "attn.in_proj_bias") == 0) return add_in_proj(head, "bias", e, out, err);
    return APPLY(layer, head, rest, buf) ? an_set_add(out, buf, e, err) : AN_OK;
}

/* ---------------------------------------------------------------- all */

an_status an_ldm_map(const void *ctx, const an_entry *e, an_weights *out, an_error *err)
{
    const an_ldm *m = ctx;
    char buf[NAME_SIZE];
    size_t n = strlen(m->prefix);
    if (strncmp(e->name, m->prefix, n) != 0) return AN_OK;
    const char *name = e->name + n;
    an_entry own = *e;
    switch (m->kind) {
    case AN_LDM_UNET:
        return unet_name(m, name, buf) ? an_set_add(out, buf, e, err) : AN_OK;
    case AN_LDM_VAE:
        if (!vae_name(m, name, buf)) return AN_OK;
        if (strstr(buf, ".attentions.")) an_names_drop_1x1(&own);
        return an_set_add(out, buf, &own, err);
    case AN_LDM_CLIP:
        own.name = (char *)(uintptr_t)name; /* only read */
        return an_names_text(NULL, &own, out, err);
    case AN_LDM_OPENCLIP:
        return openclip(m, name, e, out, err);
    }
    return AN_OK;
}
