/* vae.c: see vae.h. Blocks work in place where channels and size stay; otherwise the activation
 * hops between two buffers (an_hop), each as large as the largest tensor that lies in it. */
#include "vae.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

#define EPS 1e-6f /* of all its norms; no config key */

/* ---------------------------------------------------------------- config */

static void read_block_types(an_config *c, const char *key, const char *served, int levels)
{
    const json_t *list = json_object_get(c->json, key);
    if (json_array_size(list) != (size_t)levels)
        an_config_refuse(c, key, "expected a list of %d, one for each of block_out_channels",
                         levels);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || strcmp(name, served) != 0)
            an_config_refuse(c, key, "only %s is supported", served);
    }
}

static void read_stats(an_config *c, const char *key, int64_t n, float *out)
{
    const json_t *list = json_object_get(c->json, key);
    bool ok = json_array_size(list) == (size_t)n;
    for (size_t i = 0; ok && i < (size_t)n; i++) {
        ok = json_is_number(json_array_get(list, i));
        if (ok) out[i] = (float)json_number_value(json_array_get(list, i));
    }
    if (!ok) an_config_refuse(c, key, "expected a list of %lld numbers", (long long)n);
}

void an_vae_config_read(an_config *c, an_vae_config *v)
{
    *v = (an_vae_config){.levels = 0};
    an_config_only_str(c, "_class_name", "AutoencoderKL");
    an_config_only_num(c, "in_channels", 3);
    an_config_only_num(c, "out_channels", 3);
    const char *act = an_config_str(c, "act_fn", "silu");
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        an_config_refuse(c, "act_fn", "only \"silu\" is supported");
    v->levels = an_config_list(c, "block_out_channels", AN_VAE_LEVELS, 1, 1 << 16, v->channels);
    v->layers = (int)an_config_int(c, "layers_per_block", 1, 1, AN_VAE_LAYERS);
    v->latent_channels = an_config_int(c, "latent_channels", 4, 1, AN_VAE_LATENT_MAX);
    v->groups = (int)an_config_int(c, "norm_num_groups", 32, 1, 4096);
    v->mid_attention = an_config_bool(c, "mid_block_add_attention", true);
    v->quant_conv = an_config_bool(c, "use_quant_conv", true);
    v->post_quant_conv = an_config_bool(c, "use_post_quant_conv", true);
    v->scaling_factor = (float)an_config_num(c, "scaling_factor", 0.18215, 1e-6, 1e6);
    v->shift_factor = (float)an_config_num(c, "shift_factor", 0, -1e6, 1e6);
    if (c->status) return;
    read_block_types(c, "down_block_types", "DownEncoderBlock2D", v->levels);
    read_block_types(c, "up_block_types", "UpDecoderBlock2D", v->levels);
    v->factor = 1 << (v->levels - 1);
    int64_t deepest = v->channels[v->levels - 1];
    if (v->mid_attention && deepest > 512)
        an_config_refuse(c, "block_out_channels",
                         "the mid block's one attention head can be at most 512 wide");
    v->has_stats = an_config_has(c, "latents_mean") && an_config_has(c, "latents_std");
    if (!v->has_stats) return;
    read_stats(c, "latents_mean", v->latent_channels, v->mean);
    read_stats(c, "latents_std", v->latent_channels, v->std);
}

/* ---------------------------------------------------------------- loading */

static void load_mid(an_loader *ld, const an_vae_config *cfg, const char *side, an_vae_mid *m)
{
    static const char *const qkv[] = {"to_q", "to_k", "to_v", NULL};
    char name[AN_NAME_MAX];
    int64_t c = cfg->channels[cfg->levels - 1];
    snprintf(m->label, sizeof m->label, "vae/%s.mid_block.attentions.0", side);
    for (int i = 0; i < 2; i++) {
        an_load_name(ld, name, "%s.mid_block.resnets.%d", side, i);
        an_resnet_load(ld, &m->resnet[i], "vae", name, c, c, NULL, cfg->groups, EPS);
    }
    if (!cfg->mid_attention) return;
    an_load_name(ld, name, "%s.mid_block.attentions.0.group_norm", side);
    m->norm = an_load_norm(ld, name, c, cfg->groups, EPS);
    an_load_name(ld, name, "%s.mid_block.attentions.0", side);
    m->qkv = an_load_stacked(ld, name, qkv, c, c, AN_BIAS);
    an_load_name(ld, name, "%s.mid_block.attentions.0.to_out.0", side);
    m->out = an_load_linear(ld, name, c, c, AN_BIAS);
}

/* resample: "downsamplers", "upsamplers", or NULL. */
static void load_block(an_loader *ld, const an_vae_config *cfg, an_vae_block *b,
                       const char *direction, int i, int layers, int64_t in, int64_t out,
                       const char *resample)
{
    char name[AN_NAME_MAX];
    snprintf(b->label, sizeof b->label, "vae/%s.%d", direction, i);
    b->layers = layers;
    b->channels = out;
    for (int j = 0; j < layers; j++) {
        an_load_name(ld, name, "%s.%d.resnets.%d", direction, i, j);
        an_resnet_load(ld, &b->resnet[j], "vae", name, j ? out : in, out, NULL, cfg->groups, EPS);
    }
    if (!resample) return;
    an_load_name(ld, name, "%s.%d.%s.0.conv", direction, i, resample);
    b->resample = an_load_conv(ld, name, out, out, 3, AN_BIAS);
}

/* What a sampler holds is (z - shift - mean) * scaling / std; undone, that is one 1x1 convolution
 * in general and one factor as a rule. */
static an_weight *make_unscale(an_loader *ld, const an_vae_config *cfg)
{
    float w[AN_VAE_LATENT_MAX * AN_VAE_LATENT_MAX] = {0}, b[AN_VAE_LATENT_MAX];
    int64_t n = cfg->latent_channels;
    if (!cfg->has_stats && cfg->shift_factor == 0) return NULL;
    for (int64_t i = 0; i < n; i++) {
        w[i * n + i] = (cfg->has_stats ? cfg->std[i] : 1) / cfg->scaling_factor;
        b[i] = (cfg->has_stats ? cfg->mean[i] : 0) + cfg->shift_factor;
    }
    an_tensor wt = an_tensor_2d(w, AN_F32, n, n), bt = an_tensor_1d(b, AN_F32, n);
    return an_load_made(ld, &wt, &bt, AN_KEEP_F32);
}

static void load_decoder(an_loader *ld, an_vae *v)
{
    const an_vae_config *cfg = &v->config;
    int64_t z = cfg->latent_channels, c = cfg->channels[cfg->levels - 1];
    v->decoder.unscale = make_unscale(ld, cfg);
    if (cfg->post_quant_conv)
        v->decoder.post_quant = an_load_linear(ld, "post_quant_conv", z, z, AN_BIAS | AN_KEEP_F32);
    v->decoder.conv_in = an_load_conv(ld, "decoder.conv_in", c, z, 3, AN_BIAS);
    load_mid(ld, cfg, "decoder", &v->decoder.mid);
    for (int i = 0; i < cfg->levels; i++) {
        int64_t out = cfg->channels[cfg->levels - 1 - i];
        load_block(ld, cfg, &v->decoder.block[i], "decoder.up_blocks", i, cfg->layers + 1, c, out,
                   i < cfg->levels - 1 ? "upsamplers" : NULL);
        c = out;
    }
    v->decoder.norm_out = an_load_norm(ld, "decoder.conv_norm_out", c, cfg->groups, EPS);
    v->decoder.conv_out = an_load_conv(ld, "decoder.conv_out", 3, c, 3, AN_BIAS);
}

static void load_encoder(an_loader *ld, an_vae *v)
{
    const an_vae_config *cfg = &v->config;
    int64_t z = cfg->latent_channels, c = cfg->channels[0];
    v->encoder.conv_in = an_load_conv(ld, "encoder.conv_in", c, 3, 3, AN_BIAS);
    for (int i = 0; i < cfg->levels; i++) {
        load_block(ld, cfg, &v->encoder.block[i], "encoder.down_blocks", i, cfg->layers, c,
                   cfg->channels[i], i < cfg->levels - 1 ? "downsamplers" : NULL);
        c = cfg->channels[i];
    }
    load_mid(ld, cfg, "encoder", &v->encoder.mid);
    v->encoder.norm_out = an_load_norm(ld, "encoder.conv_norm_out", c, cfg->groups, EPS);
    /* mean and logvar lie side by side in the channels: two convolutions keep each contiguous */
    if (cfg->quant_conv) {
        v->encoder.conv_out = an_load_conv(ld, "encoder.conv_out", 2 * z, c, 3, AN_BIAS);
        v->encoder.mean =
            an_load_conv_part(ld, "quant_conv", 2 * z, 2 * z, 1, 0, z, AN_BIAS | AN_KEEP_F32);
        v->encoder.logvar =
            an_load_conv_part(ld, "quant_conv", 2 * z, 2 * z, 1, z, z, AN_BIAS | AN_KEEP_F32);
    } else {
        v->encoder.mean = an_load_conv_part(ld, "encoder.conv_out", 2 * z, c, 3, 0, z, AN_BIAS);
        v->encoder.logvar = an_load_conv_part(ld, "encoder.conv_out", 2 * z, c, 3, z, z, AN_BIAS);
    }
}

void an_vae_load(an_loader *ld, const an_vae_config *config, an_vae *v)
{
    v->config = *config;
    load_decoder(ld, v);
    load_encoder(ld, v);
}

/* ---------------------------------------------------------------- blocks */

/* Attention of one head over all pixels of a row, in place. x [n, h, w, c] */
static void attend(an_lane *l, const an_vae_mid *m, an_tensor x)
{
    int64_t n = x.dim[0], tokens = x.dim[1] * x.dim[2], c = x.dim[3];
    size_t mark = an_lane_mark(l);
    an_lane_label(l, m->label);
    an_tensor pixels = an_view_of(x, 0, n, tokens, c);
    an_tensor tmp = an_lane_tensor(l, x.dtype, n, tokens, c);
    an_tensor qkv = an_lane_tensor(l, x.dtype, n, tokens, 3 * c);
    an_norm_group(l, &m->norm, pixels, false, tmp);
    an_linear(l, tmp, m->qkv, AN_ACT_NONE, NULL, qkv);
    an_attention(l, &(an_attention_args){.rows = n,
                                         .heads = 1,
                                         .head_dim = (int)c,
                                         .dtype = x.dtype,
                                         .q = qkv.data,
                                         .k = an_view_of(qkv, c, 1).data,
                                         .v = an_view_of(qkv, 2 * c, 1).data,
                                         .q_stride = 3 * c,
                                         .k_stride = 3 * c,
                                         .v_stride = 3 * c,
                                         .q_len = tokens,
                                         .kv_len = tokens,
                                         .scale = 1 / sqrtf((float)c),
                                         .y = tmp});
    an_linear(l, tmp, m->out, AN_ACT_NONE, &pixels, pixels);
    an_lane_release(l, mark);
}

static void mid_forward(an_lane *l, const an_vae_mid *m, an_tensor x)
{
    an_resnet_forward(l, &m->resnet[0], x, NULL, true, x);
    if (m->qkv) attend(l, m, x);
    an_resnet_forward(l, &m->resnet[1], x, NULL, true, x);
}

/* Sizes of a block's tensors: its resnets', then the resampled one of up [h, w] or down. */
static void plan_block(const an_vae_block *b, an_hop *hop, int64_t n, int64_t pixels,
                       int64_t resampled)
{
    for (int j = 0; j < b->layers; j++)
        an_hop_plan(hop, b->resnet[j].shortcut, n * pixels * b->channels);
    if (b->resample) an_hop_plan(hop, true, n * resampled * b->channels);
}

static an_tensor resnets_forward(an_lane *l, const an_vae_block *b, an_tensor x, an_hop *hop)
{
    for (int j = 0; j < b->layers; j++) {
        const an_resnet *r = &b->resnet[j];
        an_tensor y = an_hop_to(hop, r->shortcut, x.dim[0], x.dim[1], x.dim[2], r->out);
        an_resnet_forward(l, r, x, NULL, true, y);
        x = y;
    }
    return x;
}

/* ---------------------------------------------------------------- decode */

/* The sampler's latents as the decoder wants them. y [n, h, w, latent_channels] */
static void latents_in(const an_vae *v, an_lane *l, const float *const *latent, an_tensor y)
{
    enum { CHUNK = 64 };
    float factor[CHUNK];
    int64_t n = y.dim[0];
    size_t mark = an_lane_mark(l);
    an_tensor z = an_lane_tensor(l, AN_F32, n, y.dim[1], y.dim[2], y.dim[3]);
    for (int i = 0; i < CHUNK; i++)
        factor[i] = v->decoder.unscale ? 1 : 1 / v->config.scaling_factor;
    for (int64_t r = 0; r < n; r += CHUNK) {
        int64_t rows = n - r < CHUNK ? n - r : CHUNK;
        an_tensor part = an_row_view(z, r);
        part.dim[0] = rows;
        an_latent_in(l, latent + r, factor, part);
    }
    an_tensor t = an_lane_tensor(l, AN_F32, n, y.dim[1], y.dim[2], y.dim[3]);
    const an_weight *steps[] = {v->decoder.unscale, v->decoder.post_quant};
    for (int i = 0; i < 2; i++) {
        if (!steps[i]) continue;
        an_linear(l, z, steps[i], AN_ACT_NONE, NULL, t);
        an_tensor swap = z;
        z = t;
        t = swap;
    }
    an_copy(l, z, y);
    an_lane_release(l, mark);
}

static void plan_decode(const an_vae *v, int64_t n, int64_t h, int64_t w, an_hop *hop)
{
    int64_t pixels = h * w;
    an_hop_plan(hop, false, n * pixels * v->config.channels[v->config.levels - 1]);
    for (int i = 0; i < v->config.levels; i++) {
        plan_block(&v->decoder.block[i], hop, n, pixels, pixels * 4);
        pixels *= 4;
    }
}

/* z [n, h, w, latent_channels], model dtype; picture F32 [n, h * factor, w * factor, 3] */
static void decoder_forward(const an_vae *v, an_lane *l, an_tensor z, an_tensor picture)
{
    int64_t n = z.dim[0], h = z.dim[1], w = z.dim[2];
    an_hop hop = {.now = 0};
    plan_decode(v, n, h, w, &hop);
    an_hop_alloc(&hop, l, z.dtype);

    an_lane_label(l, "vae/decoder.conv_in");
    an_tensor x = an_hop_to(&hop, false, n, h, w, v->config.channels[v->config.levels - 1]);
    an_conv_same(l, z, v->decoder.conv_in, NULL, x);
    mid_forward(l, &v->decoder.mid, x);
    for (int i = 0; i < v->config.levels; i++) {
        const an_vae_block *b = &v->decoder.block[i];
        x = resnets_forward(l, b, x, &hop);
        if (!b->resample) continue;
        an_tensor y = an_hop_to(&hop, true, n, x.dim[1] * 2, x.dim[2] * 2, b->channels);
        an_lane_label(l, b->label);
        an_upsample(l, x, b->resample, y);
        x = y;
    }
    an_lane_label(l, "vae/decoder.conv_out");
    an_norm_group(l, &v->decoder.norm_out, x, true, x);
    an_conv_same(l, x, v->decoder.conv_out, NULL, picture);
}

void an_vae_decode(const an_vae *v, an_lane *l, an_dtype dtype, const float *const *latent,
                   int64_t h, int64_t w, an_tensor picture)
{
    size_t mark = an_lane_mark(l);
    an_lane_label(l, "vae/post_quant_conv");
    an_tensor z = an_lane_tensor(l, dtype, picture.dim[0], h, w, v->config.latent_channels);
    latents_in(v, l, latent, z);
    decoder_forward(v, l, z, picture);
    an_lane_release(l, mark);
}

/* ---------------------------------------------------------------- encode */

static void plan_encode(const an_vae *v, int64_t n, int64_t h, int64_t w, an_hop *hop)
{
    an_hop_plan(hop, false, n * h * w * v->config.channels[0]);
    for (int i = 0; i < v->config.levels; i++) {
        plan_block(&v->encoder.block[i], hop, n, h * w,
                   an_downsampled(h, 0) * an_downsampled(w, 0));
        h = an_downsampled(h, 0);
        w = an_downsampled(w, 0);
    }
}

/* The distribution's parameters from the last activation x [n, h, w, c]. */
static void distribution(const an_vae *v, an_lane *l, an_tensor x, an_tensor mean, an_tensor logvar)
{
    an_lane_label(l, "vae/encoder.conv_out");
    if (v->encoder.conv_out) {
        int64_t z2 = 2 * v->config.latent_channels;
        an_tensor both = an_lane_tensor(l, AN_F32, x.dim[0], x.dim[1], x.dim[2], z2);
        an_conv_same(l, x, v->encoder.conv_out, NULL, both);
        an_lane_label(l, "vae/quant_conv");
        x = both;
    }
    an_conv_same(l, x, v->encoder.mean, NULL, mean);
    an_conv_same(l, x, v->encoder.logvar, NULL, logvar);
}

void an_vae_encode(const an_vae *v, an_lane *l, an_tensor picture, an_tensor mean, an_tensor logvar)
{
    int64_t n = picture.dim[0], h = picture.dim[1], w = picture.dim[2];
    size_t mark = an_lane_mark(l);
    an_hop hop = {.now = 0};
    plan_encode(v, n, h, w, &hop);
    an_hop_alloc(&hop, l, picture.dtype);

    an_lane_label(l, "vae/encoder.conv_in");
    an_tensor x = an_hop_to(&hop, false, n, h, w, v->config.channels[0]);
    an_conv_same(l, picture, v->encoder.conv_in, NULL, x);
    for (int i = 0; i < v->config.levels; i++) {
        const an_vae_block *b = &v->encoder.block[i];
        x = resnets_forward(l, b, x, &hop);
        if (!b->resample) continue;
        an_tensor y = an_hop_to(&hop, true, n, an_downsampled(x.dim[1], 0),
                                an_downsampled(x.dim[2], 0), b->channels);
        an_lane_label(l, b->label);
        an_downsample(l, x, b->resample, 0, y); /* zeros at the bottom and right only */
        x = y;
    }
    mid_forward(l, &v->encoder.mid, x);
    an_norm_group(l, &v->encoder.norm_out, x, true, x);
    distribution(v, l, x, mean, logvar);
    an_lane_release(l, mark);
}
