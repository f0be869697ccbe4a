/* unet.c: see unet.h. The forward pass follows Rombach et al. 2022 and reads in diffusers' order;
 * every tensor's shape stands beside it, for a batch of n rows of h x w latents. */
#include "unet.h"

#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- loading */

static an_time_mlp load_time_mlp(an_loader *ld, const char *prefix, int64_t in, int64_t dim,
                                 int64_t cond)
{
    char name[AN_NAME_MAX];
    an_time_mlp m = {0};
    m.linear1 = an_load_linear(ld, an_load_name(ld, name, "%s.linear_1", prefix), dim, in,
                               AN_BIAS | AN_KEEP_F32);
    m.linear2 = an_load_linear(ld, an_load_name(ld, name, "%s.linear_2", prefix), dim, dim,
                               AN_BIAS | AN_KEEP_F32);
    if (cond)
        m.cond = an_load_linear(ld, an_load_name(ld, name, "%s.cond_proj", prefix), in, cond,
                                AN_KEEP_F32);
    return m;
}

/* Room for the block's layers; false if there is none. */
static bool make_block(an_loader *ld, an_unet_block *b, const an_unet_block_config *cfg,
                       const char *direction, int i, int layers)
{
    snprintf(b->label, sizeof b->label, "unet/%s.%d", direction, i);
    b->channels = cfg->channels;
    b->layers = layers;
    b->resnet = an_load_array(ld, (size_t)layers, sizeof *b->resnet);
    if (cfg->cross) b->transformer = an_load_array(ld, (size_t)layers, sizeof *b->transformer);
    return ld->status == AN_OK;
}

/* in: channels of resnet j's input. */
static void load_layer(an_loader *ld, an_unet_block *b, const an_unet_config *cfg,
                       const an_unet_block_config *bc, const char *direction, int i, int j,
                       int64_t in)
{
    char name[AN_NAME_MAX];
    an_load_name(ld, name, "%s.%d.resnets.%d", direction, i, j);
    an_resnet_load(ld, &b->resnet[j], "unet", name, in, bc->channels, cfg->time_dim, cfg->groups,
                   cfg->eps);
    if (!bc->cross) return;
    an_load_name(ld, name, "%s.%d.attentions.%d", direction, i, j);
    an_transformer_load(ld, &b->transformer[j], cfg, bc, bc->depth[j], name);
}

static void load_down(an_loader *ld, an_unet *u)
{
    const an_unet_config *cfg = &u->config;
    char name[AN_NAME_MAX];
    int64_t in = cfg->down[0].channels;
    for (int i = 0; i < cfg->blocks; i++) {
        const an_unet_block_config *bc = &cfg->down[i];
        an_unet_block *b = &u->down[i];
        if (!make_block(ld, b, bc, "down_blocks", i, (int)bc->layers)) return;
        for (int j = 0; j < b->layers; j++) {
            load_layer(ld, b, cfg, bc, "down_blocks", i, j, in);
            in = bc->channels;
        }
        if (i == cfg->blocks - 1) continue;
        an_load_name(ld, name, "down_blocks.%d.downsamplers.0.conv", i);
        b->resample = an_load_conv(ld, name, in, in, 3, AN_BIAS);
    }
}

static void load_mid(an_loader *ld, an_unet *u)
{
    const an_unet_config *cfg = &u->config;
    int64_t c = cfg->mid.channels;
    if (cfg->mid_kind == AN_MID_NONE) return;
    an_resnet_load(ld, &u->mid_resnet[0], "unet", "mid_block.resnets.0", c, c, cfg->time_dim,
                   cfg->groups, cfg->eps);
    if (cfg->mid_kind == AN_MID_PLAIN) return; /* as diffusers builds it: one resnet */
    an_transformer_load(ld, &u->mid_transformer, cfg, &cfg->mid, cfg->mid.depth[0],
                        "mid_block.attentions.0");
    an_resnet_load(ld, &u->mid_resnet[1], "unet", "mid_block.resnets.1", c, c, cfg->time_dim,
                   cfg->groups, cfg->eps);
}

/* Channels of the skips, in the order they are pushed. */
static int skip_channels(const an_unet_config *cfg, int64_t *out)
{
    int n = 0;
    out[n++] = cfg->down[0].channels;
    for (int i = 0; i < cfg->blocks; i++) {
        for (int j = 0; j < cfg->down[i].layers; j++) out[n++] = cfg->down[i].channels;
        if (i < cfg->blocks - 1) out[n++] = cfg->down[i].channels;
    }
    return n;
}

static void load_up(an_loader *ld, an_unet *u)
{
    const an_unet_config *cfg = &u->config;
    char name[AN_NAME_MAX];
    int64_t skip[AN_UNET_SKIPS + 1], in = cfg->up[0].channels;
    int skips = skip_channels(cfg, skip);
    for (int i = 0; i < cfg->blocks; i++) {
        const an_unet_block_config *bc = &cfg->up[i];
        an_unet_block *b = &u->up[i];
        if (!make_block(ld, b, bc, "up_blocks", i, (int)bc->layers + 1)) return;
        for (int j = 0; j < b->layers; j++) {
            load_layer(ld, b, cfg, bc, "up_blocks", i, j, in + skip[--skips]);
            in = bc->channels;
        }
        if (i == cfg->blocks - 1) continue;
        an_load_name(ld, name, "up_blocks.%d.upsamplers.0.conv", i);
        b->resample = an_load_conv(ld, name, in, in, 3, AN_BIAS);
    }
}

void an_unet_load(an_loader *ld, const an_unet_config *cfg, an_unet *u)
{
    int64_t c = cfg->down[0].channels;
    u->config = *cfg;
    u->conv_in = an_load_conv(ld, "conv_in", c, cfg->in_channels, cfg->conv_in_size, AN_BIAS);
    u->time = load_time_mlp(ld, "time_embedding", c, cfg->time_dim, cfg->guidance_dim);
    if (cfg->time_id_dim)
        u->added = load_time_mlp(ld, "add_embedding", cfg->pooled_dim + 6 * cfg->time_id_dim,
                                 cfg->time_dim, 0);
    load_down(ld, u);
    load_mid(ld, u);
    load_up(ld, u);
    u->norm_out = an_load_norm(ld, "conv_norm_out", c, cfg->groups, cfg->eps);
    u->conv_out = an_load_conv(ld, "conv_out", cfg->out_channels, c, cfg->conv_out_size, AN_BIAS);
}

static void free_block(an_unet_block *b)
{
    for (int j = 0; b->transformer && j < b->layers; j++) an_transformer_free(&b->transformer[j]);
    free(b->transformer);
    free(b->resnet);
    *b = (an_unet_block){.layers = 0};
}

void an_unet_free(an_unet *u)
{
    for (int i = 0; i < AN_UNET_BLOCKS; i++) {
        free_block(&u->down[i]);
        free_block(&u->up[i]);
    }
    an_transformer_free(&u->mid_transformer);
}

/* ---------------------------------------------------------------- time */

/* TimestepEmbedding: out = linear2(silu(linear1(in + cond))) + before, all F32. */
static void time_mlp(an_lane *l, const an_time_mlp *m, an_tensor in, const an_tensor *before,
                     an_tensor out)
{
    size_t mark = an_lane_mark(l);
    an_tensor h = an_lane_tensor(l, AN_F32, in.dim[0], out.dim[1]);
    an_linear(l, in, m->linear1, AN_ACT_SILU, NULL, h);
    an_linear(l, h, m->linear2, AN_ACT_NONE, before, out);
    an_lane_release(l, mark);
}

/* What every resnet gets: silu(time embedding [+ guidance] [+ pooled text and sizes]).
 * out [n, time_dim] */
static void embed_time(const an_unet *u, an_lane *l, const an_unet_args *a, an_tensor out)
{
    const an_unet_config *cfg = &u->config;
    int64_t n = out.dim[0];
    size_t mark = an_lane_mark(l);
    an_lane_label(l, "unet/time_embedding");
    an_tensor t = an_lane_tensor(l, AN_F32, n, cfg->down[0].channels);
    an_timestep_embedding(l, a->timestep, cfg->flip_sin_to_cos, cfg->freq_shift, 1, t);
    if (cfg->guidance_dim) an_linear(l, a->guidance, u->time.cond, AN_ACT_NONE, &t, t);
    time_mlp(l, &u->time, t, NULL, out);
    if (cfg->time_id_dim) {
        an_lane_label(l, "unet/add_embedding");
        an_tensor ids = an_lane_tensor(l, AN_F32, n * 6, cfg->time_id_dim);
        an_tensor all = an_lane_tensor(l, AN_F32, n, cfg->pooled_dim + 6 * cfg->time_id_dim);
        an_timestep_embedding(l, a->time_ids, cfg->flip_sin_to_cos, cfg->freq_shift, 1, ids);
        an_concat(l, a->pooled, an_view_of(ids, 0, n, 6 * cfg->time_id_dim), all);
        time_mlp(l, &u->added, all, &out, out);
    }
    an_activation(l, out, AN_ACT_SILU, out);
    an_lane_release(l, mark);
}

/* ---------------------------------------------------------------- forward */

/* The outputs of the down path, kept on the arena until the up path takes them, last first. */
typedef struct skip_stack {
    an_tensor t[AN_UNET_SKIPS + 1];
    int n;
} skip_stack;

static an_tensor push(skip_stack *s, an_lane *l, an_dtype dtype, int64_t n, int64_t h, int64_t w,
                      int64_t c)
{
    return s->t[s->n++] = an_lane_tensor(l, dtype, n, h, w, c);
}

static void go_down(const an_unet *u, an_lane *l, const an_unet_args *a, const an_tensor *temb,
                    skip_stack *skips)
{
    const an_unet_config *cfg = &u->config;
    int64_t n = a->x.dim[0], h = a->x.dim[1], w = a->x.dim[2];
    an_lane_label(l, "unet/conv_in");
    an_tensor x = push(skips, l, a->x.dtype, n, h, w, cfg->down[0].channels);
    an_conv_same(l, a->x, u->conv_in, NULL, NULL, x);
    for (int i = 0; i < cfg->blocks; i++) {
        const an_unet_block *b = &u->down[i];
        for (int j = 0; j < b->layers; j++) {
            an_tensor y = push(skips, l, x.dtype, n, h, w, b->channels);
            an_resnet_forward(l, &b->resnet[j], x, temb, false, y);
            if (b->transformer) an_transformer_forward(l, &b->transformer[j], a, y);
            x = y;
        }
        if (!b->resample) continue;
        h = an_downsampled(h, cfg->downsample_padding);
        w = an_downsampled(w, cfg->downsample_padding);
        an_tensor y = push(skips, l, x.dtype, n, h, w, b->channels);
        an_lane_label(l, b->label);
        an_downsample(l, x, b->resample, cfg->downsample_padding, y);
        x = y;
    }
}

/* How large the two buffers of mid block and up path must be. */
static void plan_up(const an_unet *u, const skip_stack *skips, an_hop *hop)
{
    int top = skips->n;
    for (int i = 0; i < u->config.blocks; i++) {
        const an_unet_block *b = &u->up[i];
        const an_tensor *x = &skips->t[top - 1];
        int64_t pixels = x->dim[0] * x->dim[1] * x->dim[2];
        if (i == 0) an_hop_plan(hop, false, pixels * u->config.mid.channels);
        an_hop_plan(hop, false, pixels * b->channels);
        top -= b->layers;
        if (!b->resample) continue;
        x = &skips->t[top - 1];
        an_hop_plan(hop, true, x->dim[0] * x->dim[1] * x->dim[2] * b->channels);
    }
}

/* x: the end of the down path. Returns the activation for the up path. */
static an_tensor middle(const an_unet *u, an_lane *l, const an_unet_args *a, const an_tensor *temb,
                        an_tensor x, an_hop *hop)
{
    if (u->config.mid_kind == AN_MID_NONE) return x;
    an_tensor y = an_hop_to(hop, false, x.dim[0], x.dim[1], x.dim[2], u->config.mid.channels);
    an_resnet_forward(l, &u->mid_resnet[0], x, temb, false, y);
    if (u->config.mid_kind == AN_MID_PLAIN) return y;
    an_transformer_forward(l, &u->mid_transformer, a, y);
    an_resnet_forward(l, &u->mid_resnet[1], y, temb, false, y);
    return y;
}

static an_tensor go_up(const an_unet *u, an_lane *l, const an_unet_args *a, const an_tensor *temb,
                       an_tensor x, skip_stack *skips, an_hop *hop)
{
    int64_t n = x.dim[0];
    for (int i = 0; i < u->config.blocks; i++) {
        const an_unet_block *b = &u->up[i];
        for (int j = 0; j < b->layers; j++) {
            an_tensor skip = skips->t[--skips->n];
            int64_t h = skip.dim[1], w = skip.dim[2];
            size_t mark = an_lane_mark(l);
            an_lane_label(l, b->label);
            an_tensor cat = an_lane_tensor(l, x.dtype, n, h, w, x.dim[3] + skip.dim[3]);
            an_concat(l, x, skip, cat);
            x = an_hop_to(hop, false, n, h, w, b->channels);
            an_resnet_forward(l, &b->resnet[j], cat, temb, true, x);
            an_lane_release(l, mark);
            if (b->transformer) an_transformer_forward(l, &b->transformer[j], a, x);
        }
        if (!b->resample) continue;
        /* to the size of the next skip, which is not twice this one where a size was odd */
        const an_tensor *next = &skips->t[skips->n - 1];
        an_tensor y = an_hop_to(hop, true, n, next->dim[1], next->dim[2], b->channels);
        an_lane_label(l, b->label);
        an_upsample(l, x, b->resample, y);
        x = y;
    }
    return x;
}

typedef struct unet_call {
    const an_unet *u;
    const an_unet_args *a;
    an_tensor temb; /* what every resnet gets */
} unet_call;

/* All but the time embedding: the same launches at every step. */
static void run_blocks(an_lane *l, void *ctx)
{
    const unet_call *call = ctx;
    const an_unet *u = call->u;
    const an_unet_args *a = call->a;
    const an_tensor *temb = &call->temb;
    size_t mark = an_lane_mark(l);
    skip_stack skips = {.n = 0};
    an_hop hop = {.now = 0};
    go_down(u, l, a, temb, &skips);
    plan_up(u, &skips, &hop);
    an_hop_alloc(&hop, l, a->x.dtype);
    an_tensor x = middle(u, l, a, temb, skips.t[skips.n - 1], &hop);
    x = go_up(u, l, a, temb, x, &skips, &hop);

    an_lane_label(l, "unet/conv_out");
    an_norm_group(l, &u->norm_out, x, true, x);
    an_conv_same(l, x, u->conv_out, NULL, NULL, a->y);
    an_lane_release(l, mark);
}

void an_unet_forward(const an_unet *u, an_lane *l, const an_unet_args *a)
{
    size_t mark = an_lane_mark(l);
    unet_call call = {.u = u, .a = a};
    call.temb = an_lane_tensor(l, AN_F32, a->x.dim[0], u->config.time_dim);
    embed_time(u, l, a, call.temb);
    an_lane_repeat(l, &a->repeat, run_blocks, &call);
    an_lane_release(l, mark);
}
