/* gpt2.c: GPT-2 (Radford et al. 2019; transformers' GPT2LMHeadModel): learned positions, LayerNorm
 * in front of each sublayer, one matrix for q, k and v, a feed-forward of two matrices. */
#include "fp8.h"
#include "lm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct gpt2_config {
    int64_t vocab, hidden, inner, context;
    int layers, heads;
    float eps;
    an_act act;
    bool tied;
    bool transposed; /* matrices lie [outputs, inputs] already (GGUF), not as Conv1D has them */
} gpt2_config;

typedef struct gpt2_layer {
    char label[AN_LABEL_MAX];
    an_norm norm1, norm2;
    an_weight *qkv, *out; /* [3 hidden, hidden], [hidden, hidden] */
    an_weight *fc, *proj; /* [inner, hidden], [hidden, inner] */
} gpt2_layer;

typedef struct gpt2 {
    gpt2_config config;
    an_lm_ends ends;
    an_tensor positions; /* [context, hidden] */
    gpt2_layer *layer;
    an_norm norm;
} gpt2;

/* ---------------------------------------------------------------- config */

static void config_read(an_config *c, gpt2_config *o)
{
    *o = (gpt2_config){0};
    an_config_only_bool(c, "add_cross_attention", false);
    an_config_only_bool(c, "scale_attn_by_inverse_layer_idx", false);
    an_config_only_bool(c, "scale_attn_weights", true);
    an_fp8_config(c);
    o->vocab = an_lm_config_need(c, "vocab_size", 1, 1 << 24);
    o->hidden = an_lm_config_need(c, "n_embd", 1, 1 << 17);
    o->layers = (int)an_lm_config_need(c, "n_layer", 1, AN_LM_LAYERS);
    o->heads = (int)an_lm_config_need(c, "n_head", 1, AN_LM_HEADS);
    o->context = an_lm_config_need(c, "n_positions", 1, 1 << 20);
    o->inner = an_config_int(c, "n_inner", 4 * o->hidden, 1, 1 << 20);
    o->eps = (float)an_config_num(c, "layer_norm_epsilon", 1e-5, 0, 1);
    o->tied = an_config_bool(c, "tie_word_embeddings", true);
    o->transposed = an_config_bool(c, "gguf_conv1d_transposed", false);
    const char *act = an_config_str(c, "activation_function", "gelu_new");
    if (strcmp(act, "gelu_new") == 0 || strcmp(act, "gelu_pytorch_tanh") == 0)
        o->act = AN_ACT_GELU_TANH;
    else if (strcmp(act, "gelu") == 0)
        o->act = AN_ACT_GELU;
    else if (strcmp(act, "relu") == 0)
        o->act = AN_ACT_RELU;
    else
        an_config_refuse(c, "activation_function", "only gelu_new, gelu and relu are supported");
    if (!c->status && (o->hidden % o->heads || o->hidden / o->heads > AN_LM_HEAD_DIM))
        an_config_refuse(c, "n_head",
                         "n_embd %lld cannot be split among them into heads of at "
                         "most %d",
                         (long long)o->hidden, AN_LM_HEAD_DIM);
}

/* ---------------------------------------------------------------- loading */

/* Conv1D: "prefix.weight" lies [k, n], "prefix.bias" [n]. */
static an_weight *load_conv1d(an_loader *ld, const gpt2_config *c, const char *prefix, int64_t n,
                              int64_t k)
{
    if (c->transposed) return an_load_linear(ld, prefix, n, k, AN_BIAS);
    char name[AN_NAME_MAX];
    const int64_t dim[2] = {k, n};
    an_tensor w = an_load_whole(ld, an_load_name(ld, name, "%s.weight", prefix), 2, dim);
    an_tensor b = an_load_whole(ld, an_load_name(ld, name, "%s.bias", prefix), 1, &n);
    float *there = an_load_array(ld, (size_t)(n * k), sizeof *there);
    float *turned = an_load_array(ld, (size_t)(n * k), sizeof *turned);
    float *bias = an_load_array(ld, (size_t)n, sizeof *bias);
    if (!ld->status) ld->status = an_tensor_to_f32(&w, there, ld->err);
    if (!ld->status) ld->status = an_tensor_to_f32(&b, bias, ld->err);
    for (int64_t i = 0; i < k && !ld->status; i++)
        for (int64_t j = 0; j < n; j++) turned[j * k + i] = there[i * n + j];
    an_tensor tw = an_tensor_2d(turned, AN_F32, n, k), tb = an_tensor_1d(bias, AN_F32, n);
    an_weight *out = ld->status ? NULL : an_load_made(ld, &tw, &tb, 0);
    free(there);
    free(turned);
    free(bias);
    return out;
}

static void load_layer(an_loader *ld, const gpt2_config *c, int i, gpt2_layer *y)
{
    char name[AN_NAME_MAX];
    int64_t w = c->hidden;
    snprintf(y->label, sizeof y->label, "transformer.h.%d", i);
#define NAME(what) an_load_name(ld, name, "transformer.h.%d." what, i)
    y->norm1 = an_load_norm(ld, NAME("ln_1"), w, 0, c->eps);
    y->qkv = load_conv1d(ld, c, NAME("attn.c_attn"), 3 * w, w);
    y->out = load_conv1d(ld, c, NAME("attn.c_proj"), w, w);
    y->norm2 = an_load_norm(ld, NAME("ln_2"), w, 0, c->eps);
    y->fc = load_conv1d(ld, c, NAME("mlp.c_fc"), c->inner, w);
    y->proj = load_conv1d(ld, c, NAME("mlp.c_proj"), w, c->inner);
#undef NAME
}

static void load_weights(an_loader *ld, gpt2 *m)
{
    const gpt2_config *c = &m->config;
    m->positions = an_load_table(ld, "transformer.wpe", c->context, c->hidden);
    m->layer = an_load_array(ld, (size_t)c->layers, sizeof *m->layer);
    for (int i = 0; i < c->layers && m->layer && !ld->status; i++)
        load_layer(ld, c, i, &m->layer[i]);
    m->norm = an_load_norm(ld, "transformer.ln_f", c->hidden, 0, c->eps);
    an_lm_ends_load(ld, "transformer.wte", c->tied, c->vocab, c->hidden, &m->ends);
}

/* ---------------------------------------------------------------- forward */

/* x += attention(norm(x)); x += feed-forward(norm(x)). x [tokens, hidden] */
static void layer_forward(const gpt2 *m, int i, an_lane *l, const an_lm_tick *t, an_tensor x)
{
    const gpt2_config *c = &m->config;
    const gpt2_layer *y = &m->layer[i];
    int64_t n = t->tokens, w = c->hidden, d = w / c->heads;
    size_t mark = an_lane_mark(l);
    an_lane_label(l, y->label);
    an_tensor h = an_lane_tensor(l, x.dtype, n, w);

    size_t mark_attention = an_lane_mark(l);
    an_tensor qkv = an_lane_tensor(l, x.dtype, n, 3 * w);
    an_norm_layer(l, &y->norm1, x, h);
    an_linear(l, h, y->qkv, AN_ACT_NONE, NULL, qkv);
    an_lm_heads heads = {.heads = c->heads,
                         .head_dim = (int)d,
                         .q = qkv.data,
                         .k = an_view_of(qkv, w, 1).data,
                         .v = an_view_of(qkv, 2 * w, 1).data,
                         .q_stride = 3 * w,
                         .k_stride = 3 * w,
                         .v_stride = 3 * w,
                         .scale = 1 / sqrtf((float)d)};
    an_lm_attention(l, t, i, &heads, h);
    an_linear(l, h, y->out, AN_ACT_NONE, &x, x);
    an_lane_release(l, mark_attention);

    an_tensor inner = an_lane_tensor(l, x.dtype, n, c->inner);
    an_norm_layer(l, &y->norm2, x, h);
    an_linear(l, h, y->fc, c->act, NULL, inner);
    an_linear(l, inner, y->proj, AN_ACT_NONE, &x, x);
    an_lane_release(l, mark);
}

/* y[t, :] = positions[pos[t], :] */
static void embed_positions(const gpt2 *m, an_lane *l, const an_lm_tick *t, an_tensor y)
{
    size_t mark = an_lane_mark(l);
    an_tensor pos = an_lane_tensor(l, AN_I32, 1, t->tokens);
    an_upload(l, pos.data, t->pos, (size_t)t->tokens * sizeof *t->pos);
    an_embedding(l, &m->positions, NULL, pos, an_view_of(y, 0, 1, t->tokens, y.dim[1]));
    an_lane_release(l, mark);
}

typedef struct gpt2_call {
    const gpt2 *m;
    const an_lm_tick *t;
    an_tensor x; /* [tokens, hidden] */
} gpt2_call;

static void run_layers(an_lane *l, void *ctx)
{
    const gpt2_call *c = ctx;
    for (int i = 0; i < c->m->config.layers; i++) layer_forward(c->m, i, l, c->t, c->x);
}

static void forward(const an_model *model, an_lane *l, const an_lm_tick *t)
{
    const gpt2 *m = model->impl;
    an_lane_label(l, "transformer.wte");
    an_tensor x = an_lane_tensor(l, model->dtype, t->tokens, m->config.hidden);
    size_t mark = an_lane_mark(l);
    an_tensor place = an_lane_tensor(l, model->dtype, t->tokens, m->config.hidden);
    an_lm_embed(l, &m->ends, t, x);
    embed_positions(m, l, t, place);
    an_add(l, x, place, x);
    an_lane_release(l, mark);
    an_lm_keep(l, t, m->config.heads, model->dtype);

    an_lane_repeat(l, &t->repeat, run_layers, &(gpt2_call){m, t, x});

    if (!t->wanted) return; /* a piece of a prompt that is not its last */
    an_lane_label(l, "lm_head");
    an_tensor last = an_lane_tensor(l, model->dtype, t->wanted, m->config.hidden);
    an_take_rows(l, x, t->want, last);
    an_norm_layer(l, &m->norm, last, last);
    an_lm_logits(l, m->ends.head, 0, t, last);
}

/* ---------------------------------------------------------------- the family */

static bool matches(const an_checkpoint *c)
{
    const char *type = an_lm_type(c);
    return type && strcmp(type, "gpt2") == 0;
}

static an_status read_config(const an_checkpoint *c, gpt2_config *out, an_error *err)
{
    an_config k = an_config_open(an_checkpoint_config(c, "model"), "config.json", err);
    config_read(&k, out);
    return k.status;
}

static an_status probe(an_checkpoint *c, an_model_info *info, an_error *err)
{
    gpt2_config k;
    *info = (an_model_info){.kind = AN_KIND_TEXT};
    an_status s = read_config(c, &k, err);
    if (s) return s;
    info->vocab = (int)k.vocab;
    info->layers = k.layers;
    info->kv_heads = k.heads;
    info->head_dim = (int)(k.hidden / k.heads);
    info->context_len = (int)k.context;
    return an_lm_info(c, info, err);
}

static an_status load(an_model *m, an_checkpoint *c, an_loader *ld, an_error *err)
{
    gpt2 *g = calloc(1, sizeof *g);
    if (!g) return an_fail(err, AN_NO_MEMORY, "no memory for a model");
    m->impl = g;
    an_status s = read_config(c, &g->config, err);
    if (!s) s = an_checkpoint_weights(c, "model", &ld->set, err);
    if (s) return s;
    ld->bytes_all = (double)m->info.weight_bytes_file;
    load_weights(ld, g);
    return ld->status;
}

static void unload(an_model *m)
{
    gpt2 *g = m->impl;
    if (g) free(g->layer);
    free(g);
    m->impl = NULL;
}

const an_family an_family_gpt2 = {
    .serves = "gpt2",
    .matches = matches,
    .probe = probe,
    .load = load,
    .unload = unload,
    .forward = forward,
};
