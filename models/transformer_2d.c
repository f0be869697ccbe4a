/* transformer_2d.c: the transformers inside the UNet (diffusers' Transformer2DModel and
 * BasicTransformerBlock). The pixels of a row are its tokens: [n, h, w, c] is [n, h*w, c]. */
#include "unet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- loading */

static void load_attention(an_loader *ld, an_attention_layer *y, an_unet_gather *g,
                           const char *prefix, const char *norm, int64_t c, bool cross)
{
    static const char *const qkv[] = {"to_q", "to_k", "to_v", NULL};
    char name[AN_NAME_MAX];
    y->norm = an_load_norm(ld, norm, c, 0, 1e-5f);
    if (cross) {
        y->q = an_load_linear(ld, an_load_name(ld, name, "%s.to_q", prefix), c, c, 0);
        an_unet_gather_context(ld, g, prefix, c, y);
    } else {
        y->qkv = an_load_stacked(ld, prefix, qkv, c, c, 0);
    }
    y->out = an_load_linear(ld, an_load_name(ld, name, "%s.to_out.0", prefix), c, c, AN_BIAS);
}

static void load_block(an_loader *ld, an_transformer_block *b, an_unet_gather *g,
                       const char *prefix, int64_t c, bool only_cross)
{
    char name[AN_NAME_MAX], norm[AN_NAME_MAX];
    load_attention(ld, &b->attn1, g, an_load_name(ld, name, "%s.attn1", prefix),
                   an_load_name(ld, norm, "%s.norm1", prefix), c, only_cross);
    load_attention(ld, &b->attn2, g, an_load_name(ld, name, "%s.attn2", prefix),
                   an_load_name(ld, norm, "%s.norm2", prefix), c, true);
    b->norm3 = an_load_norm(ld, an_load_name(ld, norm, "%s.norm3", prefix), c, 0, 1e-5f);
    b->ff_in =
        an_load_linear(ld, an_load_name(ld, name, "%s.ff.net.0.proj", prefix), 8 * c, c, AN_BIAS);
    b->ff_out =
        an_load_linear(ld, an_load_name(ld, name, "%s.ff.net.2", prefix), c, 4 * c, AN_BIAS);
}

void an_transformer_load(an_loader *ld, an_transformer *t, an_unet_gather *g,
                         const an_unet_block_config *block, int64_t depth, const char *prefix)
{
    char name[AN_NAME_MAX];
    int64_t c = block->channels;
    int groups = g->u->config.groups;
    snprintf(t->label, sizeof t->label, "unet/%s", prefix);
    t->heads = (int)block->heads;
    t->head_dim = (int)(c / block->heads);
    /* 1e-6, whatever norm_eps says of the resnets */
    t->norm = an_load_norm(ld, an_load_name(ld, name, "%s.norm", prefix), c, groups, 1e-6f);
    t->proj_in = an_load_linear(ld, an_load_name(ld, name, "%s.proj_in", prefix), c, c, AN_BIAS);
    t->blocks = (int)depth;
    t->block = an_load_array(ld, (size_t)depth, sizeof *t->block);
    for (int i = 0; i < t->blocks && t->block; i++) {
        an_load_name(ld, name, "%s.transformer_blocks.%d", prefix, i);
        load_block(ld, &t->block[i], g, name, c, block->only_cross);
    }
    t->proj_out = an_load_linear(ld, an_load_name(ld, name, "%s.proj_out", prefix), c, c, AN_BIAS);
}

void an_transformer_free(an_transformer *t)
{
    free(t->block);
    t->block = NULL;
}

/* ---------------------------------------------------------------- forward */

static void self_attention(an_lane *l, const an_transformer *t, const an_attention_layer *y,
                           an_tensor normed, an_tensor out)
{
    int64_t n = normed.dim[0], tokens = normed.dim[1], c = normed.dim[2];
    an_tensor qkv = an_lane_tensor(l, normed.dtype, n, tokens, 3 * c);
    an_linear(l, normed, y->qkv, AN_ACT_NONE, NULL, qkv);
    an_attention(l, &(an_attention_args){.rows = n,
                                         .heads = t->heads,
                                         .head_dim = t->head_dim,
                                         .dtype = normed.dtype,
                                         .q = qkv.data,
                                         .k = an_view_of(qkv, c, 1).data,
                                         .v = an_view_of(qkv, 2 * c, 1).data,
                                         .q_stride = 3 * c,
                                         .k_stride = 3 * c,
                                         .v_stride = 3 * c,
                                         .q_len = tokens,
                                         .kv_len = tokens,
                                         .scale = 1 / sqrtf((float)t->head_dim),
                                         .y = out});
}

/* Keys and values are the context's: rows may have different numbers of them. */
static void cross_attention(an_lane *l, const an_transformer *t, const an_attention_layer *y,
                            an_unet_call *call, an_tensor normed, an_tensor out)
{
    int64_t n = normed.dim[0], tokens = normed.dim[1], c = normed.dim[2];
    an_tensor q = an_lane_tensor(l, normed.dtype, n, tokens, c);
    an_linear(l, normed, y->q, AN_ACT_NONE, NULL, q);
    an_tensor kv = an_unet_context(l, call, y);
    an_attention(l, &(an_attention_args){.rows = n,
                                         .heads = t->heads,
                                         .head_dim = t->head_dim,
                                         .dtype = normed.dtype,
                                         .q = q.data,
                                         .k = an_view_of(kv, y->kv_at, 1).data,
                                         .v = an_view_of(kv, y->kv_at + c, 1).data,
                                         .q_stride = c,
                                         .k_stride = kv.dim[1],
                                         .v_stride = kv.dim[1],
                                         .q_len = tokens,
                                         .kv_start = call->a->context_start,
                                         .kv_lens = call->a->context_len,
                                         .scale = 1 / sqrtf((float)t->head_dim),
                                         .y = out});
}

/* h += out(attention(norm(h))); tmp like h. */
static void attend(an_lane *l, const an_transformer *t, const an_attention_layer *y,
                   an_unet_call *call, an_tensor h, an_tensor tmp)
{
    size_t mark = an_lane_mark(l);
    an_norm_layer(l, &y->norm, h, tmp);
    if (y->qkv)
        self_attention(l, t, y, tmp, tmp);
    else
        cross_attention(l, t, y, call, tmp, tmp);
    an_linear(l, tmp, y->out, AN_ACT_NONE, &h, h);
    an_lane_release(l, mark);
}

static void feed_forward(an_lane *l, const an_transformer_block *b, an_tensor h, an_tensor tmp)
{
    size_t mark = an_lane_mark(l);
    an_tensor inner = an_lane_tensor(l, h.dtype, h.dim[0], h.dim[1], 4 * h.dim[2]);
    an_norm_layer(l, &b->norm3, h, tmp);
    an_linear(l, tmp, b->ff_in, AN_ACT_GEGLU, NULL, inner);
    an_linear(l, inner, b->ff_out, AN_ACT_NONE, &h, h);
    an_lane_release(l, mark);
}

void an_transformer_forward(an_lane *l, const an_transformer *t, an_unet_call *call, an_tensor x)
{
    int64_t n = x.dim[0], tokens = x.dim[1] * x.dim[2], c = x.dim[3];
    size_t mark = an_lane_mark(l);
    an_lane_label(l, t->label);
    an_tensor pixels = an_view_of(x, 0, n, tokens, c);
    an_tensor h = an_lane_tensor(l, x.dtype, n, tokens, c);
    an_tensor tmp = an_lane_tensor(l, x.dtype, n, tokens, c);

    an_norm_group(l, &t->norm, pixels, false, tmp);
    an_linear(l, tmp, t->proj_in, AN_ACT_NONE, NULL, h);
    for (int i = 0; i < t->blocks; i++) {
        attend(l, t, &t->block[i].attn1, call, h, tmp);
        attend(l, t, &t->block[i].attn2, call, h, tmp);
        feed_forward(l, &t->block[i], h, tmp);
    }
    an_linear(l, h, t->proj_out, AN_ACT_NONE, &pixels, pixels);
    an_lane_release(l, mark);
}
