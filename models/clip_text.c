/* clip_text.c: see clip_text.h. */
#include "clip_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- config */

static an_act activation(an_config *c)
{
    static const struct {
        const char *name;
        an_act act;
    } known[] = {{"quick_gelu", AN_ACT_QUICK_GELU},
                 {"gelu", AN_ACT_GELU},
                 {"gelu_new", AN_ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", AN_ACT_GELU_TANH}};
    const char *name = an_config_str(c, "hidden_act", "quick_gelu");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) return known[i].act;
    an_config_refuse(c, "hidden_act",
                     "only quick_gelu, gelu, gelu_new and gelu_pytorch_tanh are "
                     "supported");
    return AN_ACT_NONE;
}

void an_clip_config_read(an_config *c, bool projection, an_clip_config *out)
{
    const char *type = an_config_str(c, "model_type", "clip_text_model");
    if (strcmp(type, "clip_text_model") != 0 && strcmp(type, "clip") != 0)
        an_config_refuse(c, "model_type", "only CLIP text encoders are supported");
    out->vocab = an_config_int(c, "vocab_size", 49408, 1, 1 << 24);
    out->width = an_config_int(c, "hidden_size", 512, 1, 1 << 16);
    out->inner = an_config_int(c, "intermediate_size", 2048, 1, 1 << 18);
    out->positions = an_config_int(c, "max_position_embeddings", 77, 3, 4096);
    out->layers = (int)an_config_int(c, "num_hidden_layers", 12, 1, 256);
    out->heads = (int)an_config_int(c, "num_attention_heads", 8, 1, 1024);
    out->eps = (float)an_config_num(c, "layer_norm_eps", 1e-5, 0, 1);
    out->act = activation(c);
    /* 2 was written by an old transformers whatever the vocabulary; see an_clip_eos_at. Today's
     * default is the true one. */
    out->eos = an_config_int(c, "eos_token_id", 49407, 0, INT32_MAX);
    out->projection = projection ? an_config_int(c, "projection_dim", 512, 1, 1 << 16) : 0;
    if (out->width % out->heads || out->width / out->heads > 512)
        an_config_refuse(c, "num_attention_heads",
                         "%lld channels cannot be split among them into heads of at most 512",
                         (long long)out->width);
}

int64_t an_clip_eos_at(const an_clip_config *c, const int32_t *ids, int64_t t)
{
    int64_t at = 0;
    for (int64_t i = 0; i < t; i++) {
        if (c->eos == 2) {
            if (ids[i] > ids[at]) at = i;
        } else if (ids[i] == c->eos) {
            return i;
        }
    }
    return at;
}

/* ---------------------------------------------------------------- loading */

static void load_layer(an_loader *ld, const char *component, const an_clip_config *cfg, int i,
                       an_clip_layer *y)
{
    static const char *const qkv[] = {"q_proj", "k_proj", "v_proj", NULL};
    char name[AN_NAME_MAX];
    snprintf(y->label, sizeof y->label, "%s/layers.%d", component, i);
#define NAME(what) an_load_name(ld, name, "encoder.layers.%d." what, i)
    y->norm1 = an_load_norm(ld, NAME("layer_norm1"), cfg->width, 0, cfg->eps);
    y->qkv = an_load_stacked(ld, NAME("self_attn"), qkv, cfg->width, cfg->width, AN_BIAS);
    y->out = an_load_linear(ld, NAME("self_attn.out_proj"), cfg->width, cfg->width, AN_BIAS);
    y->norm2 = an_load_norm(ld, NAME("layer_norm2"), cfg->width, 0, cfg->eps);
    y->fc1 = an_load_linear(ld, NAME("mlp.fc1"), cfg->inner, cfg->width, AN_BIAS);
    y->fc2 = an_load_linear(ld, NAME("mlp.fc2"), cfg->width, cfg->inner, AN_BIAS);
#undef NAME
}

void an_clip_load(an_loader *ld, const char *component, const an_clip_config *cfg, an_clip *out)
{
    out->config = *cfg;
    out->tokens = an_load_table(ld, "embeddings.token_embedding", cfg->vocab, cfg->width);
    out->positions = an_load_table(ld, "embeddings.position_embedding", cfg->positions, cfg->width);
    out->layer = an_load_array(ld, (size_t)cfg->layers, sizeof *out->layer);
    for (int i = 0; i < cfg->layers && out->layer; i++)
        load_layer(ld, component, cfg, i, &out->layer[i]);
    out->final_norm = an_load_norm(ld, "final_layer_norm", cfg->width, 0, cfg->eps);
    if (cfg->projection)
        out->projection =
            an_load_linear(ld, "text_projection", cfg->projection, cfg->width, AN_KEEP_F32);
}

void an_clip_free(an_clip *c)
{
    free(c->layer);
    c->layer = NULL;
}

/* ---------------------------------------------------------------- forward */

/* One pre-norm transformer layer, in place. x [n, t, width] */
static void layer_forward(const an_clip_config *cfg, const an_clip_layer *y, an_lane *l,
                          an_tensor x)
{
    int64_t n = x.dim[0], t = x.dim[1], c = cfg->width;
    size_t mark = an_lane_mark(l);
    an_lane_label(l, y->label);
    an_tensor h = an_lane_tensor(l, x.dtype, n, t, c);

    size_t mark_attention = an_lane_mark(l);
    an_tensor qkv = an_lane_tensor(l, x.dtype, n, t, 3 * c);
    an_norm_layer(l, &y->norm1, x, h);
    an_linear(l, h, y->qkv, AN_ACT_NONE, NULL, qkv);
    an_attention(l, &(an_attention_args){.rows = n,
                                         .heads = cfg->heads,
                                         .head_dim = (int)(c / cfg->heads),
                                         .dtype = x.dtype,
                                         .q = qkv.data,
                                         .k = an_view_of(qkv, c, 1).data,
                                         .v = an_view_of(qkv, 2 * c, 1).data,
                                         .q_stride = 3 * c,
                                         .k_stride = 3 * c,
                                         .v_stride = 3 * c,
                                         .q_len = t,
                                         .kv_len = t,
                                         .causal = true,
                                         .scale = 1 / sqrtf((float)(c / cfg->heads)),
                                         .y = h});
    an_linear(l, h, y->out, AN_ACT_NONE, &x, x);
    an_lane_release(l, mark_attention);

    an_tensor inner = an_lane_tensor(l, x.dtype, n, t, cfg->inner);
    an_norm_layer(l, &y->norm2, x, h);
    an_linear(l, h, y->fc1, cfg->act, NULL, inner);
    an_linear(l, inner, y->fc2, AN_ACT_NONE, &x, x);
    an_lane_release(l, mark);
}

/* Hidden state i goes to the rows that asked for it. */
static void hand_out(an_lane *l, const an_clip_args *a, int i, an_tensor x)
{
    for (int64_t r = 0; r < x.dim[0]; r++)
        if (a->layer[r] == i) an_copy(l, an_row_view(x, r), an_row_view(a->hidden, r));
}

/* pooled = projection(final_norm(x)[eos]). The norm is of each token alone, so it may come after
 * the choice of the token. */
static void pool(const an_clip *c, an_lane *l, const an_clip_args *a, an_tensor x)
{
    size_t mark = an_lane_mark(l);
    an_tensor last = an_lane_tensor(l, x.dtype, x.dim[0], c->config.width);
    an_tensor last32 = an_lane_tensor(l, AN_F32, x.dim[0], c->config.width);
    an_gather_rows(l, x, a->eos, last);
    an_copy(l, last, last32);
    an_norm_layer(l, &c->final_norm, last32, last32);
    an_linear(l, last32, c->projection, AN_ACT_NONE, NULL, a->pooled);
    an_lane_release(l, mark);
}

void an_clip_forward(const an_clip *c, an_lane *l, const an_clip_args *a)
{
    int64_t n = a->ids.dim[0], t = a->ids.dim[1];
    size_t mark = an_lane_mark(l);
    int layers = a->eos ? c->config.layers : 0;
    for (int64_t r = 0; r < n; r++)
        if (a->layer[r] > layers) layers = a->layer[r];

    an_tensor x = an_lane_tensor(l, c->tokens.dtype, n, t, c->config.width);
    an_lane_label(l, "text_encoder/embeddings");
    an_embedding(l, &c->tokens, &c->positions, a->ids, x);
    hand_out(l, a, 0, x);
    for (int i = 0; i < layers; i++) {
        layer_forward(&c->config, &c->layer[i], l, x);
        hand_out(l, a, i + 1, x);
    }
    an_lane_label(l, "text_encoder/final_layer_norm");
    if (a->normed) an_norm_layer(l, &c->final_norm, a->hidden, a->hidden);
    if (a->eos) pool(c, l, a, x);
    an_lane_release(l, mark);
}
