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

static void load_context(an_loader *ld, an_unet_gather *g)
{
    an_unet *u = g->u;
    if (!g->context.count) return;
    an_weight **more = realloc(u->context, (size_t)(u->contexts + 1) * sizeof(an_weight *));
    if (!more) {
        ld->status = an_fail(ld->err, AN_NO_MEMORY, "no memory for a network's layers");
        return;
    }
    u->context = more;
    u->context[u->contexts++] =
        an_stack_load(ld, &g->context, "keys and values of the context", u->config.context_dim, 0);
}

int64_t an_unet_stack_outputs = 32768;

void an_unet_gather_context(an_loader *ld, an_unet_gather *g, const char *prefix, int64_t c,
                            an_attention_layer *y)
{
    char name[AN_NAME_MAX];
    if (g->context.n + 2 * c > an_unet_stack_outputs) load_context(ld, g);
    y->kv_stack = g->u->contexts;
    y->kv_at = an_stack_add(ld, &g->context, an_load_name(ld, name, "%s.to_k", prefix), c);
    an_stack_add(ld, &g->context, an_load_name(ld, name, "%s.to_v", prefix), c);
}

static void load_resnet(an_loader *ld, an_unet_gather *g, an_resnet *r, const char *name,
                        int64_t in, int64_t out)
{
    const an_unet_config *cfg = &g->u->config;
    an_resnet_load(ld, r, "unet", name, in, out, &g->times, cfg->groups, cfg->eps);
}

/* in: channels of resnet j's input. */
static void load_layer(an_loader *ld, an_unet_block *b, an_unet_gather *g,
                       const an_unet_block_config *bc, const char *direction, int i, int j,
                       int64_t in)
{
    char name[AN_NAME_MAX];
    an_load_name(ld, name, "%s.%d.resnets.%d", direction, i, j);
    load_resnet(ld, g, &b->resnet[j], name, in, bc->channels);
    if (!bc->cross) return;
    an_load_name(ld, name, "%s.%d.attentions.%d", direction, i, j);
    an_transformer_load(ld, &b->transformer[j], g, bc, bc->depth[j], name);
}

static void load_down(an_loader *ld, an_unet_gather *g)
{
    an_unet *u = g->u;
    const an_unet_config *cfg = &u->config;
    char name[AN_NAME_MAX];
    int64_t in = cfg->down[0].channels;
    for (int i = 0; i < cfg->blocks; i++) {
        const an_unet_block_config *bc = &cfg->down[i];
        an_unet_block *b = &u->down[i];
        if (!make_block(ld, b, bc, "down_blocks", i, (int)bc->layers)) return;
        for (int j = 0; j < b->layers; j++) {
            load_layer(ld, b, g, bc, "down_blocks", i, j, in);
            in = bc->channels;
        }
        if (i == cfg->blocks - 1) continue;
        an_load_name(ld, name, "down_blocks.%d.downsamplers.0.conv", i);
        b->resample = an_load_conv(ld, name, in, in, 3, AN_BIAS);
    }
}

static void load_mid(an_loader *ld, an_unet_gather *g)
{
    an_unet *u = g->u;
    const an_unet_config *cfg = &u->config;
    int64_t c = cfg->mid.channels;
    if (cfg->mid_kind == AN_MID_NONE) return;
    load_resnet(ld, g, &u->mid_resnet[0], "mid_block.resnets.0", c, c);
    if (cfg->mid_kind == AN_MID_PLAIN) return; /* as diffusers builds it: one resnet */
    an_transformer_load(ld, &u->mid_transformer, g, &cfg->mid, cfg->mid.depth[0],
                        "mid_block.attentions.0");
    load_resnet(ld, g, &u->mid_resnet[1], "mid_block.resnets.1", c, c);
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

static void load_up(an_loader *ld, an_unet_gather *g)
{
    an_unet *u = g->u;
    const an_unet_config *cfg = &u->config;
    char name[AN_NAME_MAX];
    int64_t skip[AN_UNET_SKIPS + 1], in = cfg->up[0].channels;
    int skips = skip_channels(cfg, skip);
    for (int i = 0; i < cfg->blocks; i++) {
        const an_unet_block_config *bc = &cfg->up[i];
        an_unet_block *b = &u->up[i];
        if (!make_block(ld, b, bc, "up_blocks", i, (int)bc->layers + 1)) return;
        for (int j = 0; j < b->layers; j++) {
            load_layer(ld, b, g, bc, "up_blocks", i, j, in + skip[--skips]);
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
    an_unet_gather g = {.u = u};
    u->config = *cfg;
    u->conv_in = an_load_conv(ld, "conv_in", c, cfg->in_channels, cfg->conv_in_size, AN_BIAS);
    u->time = load_time_mlp(ld, "time_embedding", c, cfg->time_dim, cfg->guidance_dim);
    if (cfg->time_id_dim)
        u->added = load_time_mlp(ld, "add_embedding", cfg->pooled_dim + 6 * cfg->time_id_dim,
                                 cfg->time_dim, 0);
    load_down(ld, &g);
    load_mid(ld, &g);
    load_up(ld, &g);
    load_context(ld, &g);
    u->times = an_stack_load(ld, &g.times, "projections of the time embedding", cfg->time_dim,
                             AN_BIAS | AN_KEEP_F32);
    free(g.context.part); /* left there by a failure */
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
    free(u->context);
    u->context = NULL;
}

/* ---------------------------------------------------------------- time */

/* TimestepEmbedding: out = act(linear2(silu(linear1(in + cond)))) + before, all F32. */
static void time_mlp(an_lane *l, const an_time_mlp *m, an_tensor in, an_act act,
                     const an_tensor *before, an_tensor out)
{
    size_t mark = an_lane_mark(l);
    an_tensor h = an_lane_tensor(l, AN_F32, in.dim[0], out.dim[1]);
    an_linear(l, in, m->linear1, AN_ACT_SILU, NULL, h);
    an_linear(l, h, m->linear2, act, before, out);
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
    time_mlp(l, &u->time, t, cfg->time_id_dim ? AN_ACT_NONE : AN_ACT_SILU, NULL, out);
    if (cfg->time_id_dim) {
        an_lane_label(l, "unet/add_embedding");
        an_tensor ids = an_lane_tensor(l, AN_F32, n * 6, cfg->time_id_dim);
        an_tensor all = an_lane_tensor(l, AN_F32, n, cfg->pooled_dim + 6 * cfg->time_id_dim);
        an_timestep_embedding(l, a->time_ids, cfg->flip_sin_to_cos, cfg->freq_shift, 1, ids);
        an_concat(l, a->pooled, an_view_of(ids, 0, n, 6 * cfg->time_id_dim), all);
        time_mlp(l, &u->added, all, AN_ACT_NONE, &out, out);
        an_activation(l, out, AN_ACT_SILU, out);
    }
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

static void go_down(an_unet_call *call, an_lane *l, skip_stack *skips)
{
    const an_unet *u = call->u;
    const an_unet_args *a = call->a;
    const an_unet_config *cfg = &u->config;
    int64_t n = a->x.dim[0], h = a->x.dim[1], w = a->x.dim[2];
    an_lane_label(l, "unet/conv_in");
    an_tensor x = push(skips, l, a->x.dtype, n, h, w, cfg->down[0].channels);
    an_conv_same(l, a->x, u->conv_in, NULL, x);
    for (int i = 0; i < cfg->blocks; i++) {
        const an_unet_block *b = &u->down[i];
        for (int j = 0; j < b->layers; j++) {
            an_tensor y = push(skips, l, x.dtype, n, h, w, b->channels);
            an_resnet_forward(l, &b->resnet[j], x, &call->times, false, y);
            if (b->transformer) an_transformer_forward(l, &b->transformer[j], call, y);
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
static an_tensor middle(an_unet_call *call, an_lane *l, an_tensor x, an_hop *hop)
{
    const an_unet *u = call->u;
    if (u->config.mid_kind == AN_MID_NONE) return x;
    an_tensor y = an_hop_to(hop, false, x.dim[0], x.dim[1], x.dim[2], u->config.mid.channels);
    an_resnet_forward(l, &u->mid_resnet[0], x, &call->times, false, y);
    if (u->config.mid_kind == AN_MID_PLAIN) return y;
    an_transformer_forward(l, &u->mid_transformer, call, y);
    an_resnet_forward(l, &u->mid_resnet[1], y, &call->times, false, y);
    return y;
}

static an_tensor go_up(an_unet_call *call, an_lane *l, an_tensor x, skip_stack *skips, an_hop *hop)
{
    const an_unet *u = call->u;
    int64_t n = x.dim[0];
    for (int i = 0; i < u->config.blocks; i++) {
        const an_unet_block *b = &u->up[i];
        for (int j = 0; j < b->layers; j++) {
            an_tensor skip = skips->t[--skips->n];
            an_tensor y = an_hop_to(hop, false, n, skip.dim[1], skip.dim[2], b->channels);
            an_resnet_joined(l, &b->resnet[j], x, skip, &call->times, y);
            x = y;
            if (b->transformer) an_transformer_forward(l, &b->transformer[j], call, x);
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

an_tensor an_unet_context(an_lane *l, an_unet_call *call, const an_attention_layer *y)
{
    const an_tensor context = call->a->context;
    const an_weight *w = call->u->context[y->kv_stack];
    an_tensor kv = an_view_of(call->kv, 0, context.dim[0], w->n);
    if (call->kv_now != y->kv_stack) an_linear(l, context, w, AN_ACT_NONE, NULL, kv);
    call->kv_now = y->kv_stack;
    return kv;
}

/* What all layers share: the time embedding as each adds it, and room for keys and values. */
static void make_shared(an_unet_call *call, an_lane *l)
{
    const an_unet *u = call->u;
    int64_t widest = 1;
    for (int i = 0; i < u->contexts; i++)
        if (u->context[i]->n > widest) widest = u->context[i]->n;
    call->kv = an_lane_tensor(l, call->a->x.dtype, call->a->context.dim[0] * widest);
    call->kv_now = -1;
    an_lane_label(l, "unet/time_emb_proj");
    call->times = an_lane_tensor(l, AN_F32, call->temb.dim[0], u->times->n);
    an_linear(l, call->temb, u->times, AN_ACT_NONE, NULL, call->times);
}

/* All but the time embedding: the same launches at every step. */
static void run_blocks(an_lane *l, void *ctx)
{
    an_unet_call *call = ctx;
    const an_unet *u = call->u;
    const an_unet_args *a = call->a;
    size_t mark = an_lane_mark(l);
    skip_stack skips = {.n = 0};
    an_hop hop = {.now = 0};
    make_shared(call, l);
    go_down(call, l, &skips);
    plan_up(u, &skips, &hop);
    an_hop_alloc(&hop, l, a->x.dtype);
    an_tensor x = middle(call, l, skips.t[skips.n - 1], &hop);
    x = go_up(call, l, x, &skips, &hop);

    an_lane_label(l, "unet/conv_out");
    an_norm_group(l, &u->norm_out, x, true, x);
    an_conv_same(l, x, u->conv_out, NULL, a->y);
    an_lane_release(l, mark);
}

void an_unet_forward(const an_unet *u, an_lane *l, const an_unet_args *a)
{
    size_t mark = an_lane_mark(l);
    an_unet_call call = {.u = u, .a = a};
    call.temb = an_lane_tensor(l, AN_F32, a->x.dim[0], u->config.time_dim);
    embed_time(u, l, a, call.temb);
    an_lane_repeat(l, &a->repeat, run_blocks, &call);
    an_lane_release(l, mark);
}
