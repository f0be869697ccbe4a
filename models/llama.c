/* llama.c: see llama.h. From token ids to logits, in the order of the papers: embed, then in each
 * layer attention and feed-forward, each behind a norm and added to the stream x, then the head. */
#include "llama.h"

#include <math.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- attention */

/* q, k and v of normed h [tokens, hidden], turned by their positions. What `out` points at is
 * scratch of the lane. */
static void project(const an_llama *m, const an_llama_layer *y, int layer, an_lane *l,
                    const an_lm_tick *t, an_tensor h, an_lm_heads *out)
{
    const an_llama_config *c = &m->config;
    const an_rotary *rope = &c->rope[c->local[layer]];
    int64_t n = t->tokens, d = c->head_dim, wide = c->heads * d, narrow = c->kv_heads * d;
    an_tensor q, k, v;
    if (y->qkv) { /* [tokens, q | k | v] */
        q = an_lane_tensor(l, h.dtype, n, wide + 2 * narrow);
        an_linear(l, h, y->qkv, AN_ACT_NONE, NULL, q);
        k = an_view_of(q, wide, 1);
        v = an_view_of(q, wide + narrow, 1);
        out->q_stride = out->k_stride = out->v_stride = wide + 2 * narrow;
    } else { /* apart, since a norm takes whole tensors */
        q = an_lane_tensor(l, h.dtype, n, c->heads, d);
        k = an_lane_tensor(l, h.dtype, n, c->kv_heads, d);
        v = an_lane_tensor(l, h.dtype, n, c->kv_heads, d);
        an_linear(l, h, y->q, AN_ACT_NONE, NULL, an_view_of(q, 0, n, wide));
        an_linear(l, h, y->k, AN_ACT_NONE, NULL, an_view_of(k, 0, n, narrow));
        an_linear(l, h, y->v, AN_ACT_NONE, NULL, an_view_of(v, 0, n, narrow));
        an_rms_norm(l, q, &y->norm_q, c->eps, q);
        an_rms_norm(l, k, &y->norm_k, c->eps, k);
        out->q_stride = wide;
        out->k_stride = out->v_stride = narrow;
    }
    an_rope_args turn = {.x = q.data,
                         .dtype = h.dtype,
                         .tokens = n,
                         .stride = out->q_stride,
                         .heads = y->qkv ? c->heads + c->kv_heads : c->heads,
                         .head_dim = c->head_dim,
                         .rot_dim = rope->rot_dim,
                         .interleaved = c->rope_interleaved,
                         .pos = t->pos,
                         .inv_freq = rope->inv_freq,
                         .mscale = rope->mscale};
    an_rope(l, &turn);
    if (!y->qkv) { /* else the heads of k were those behind q's */
        turn.x = k.data;
        turn.stride = out->k_stride;
        turn.heads = c->kv_heads;
        an_rope(l, &turn);
    }
    out->q = q.data;
    out->k = k.data;
    out->v = v.data;
}

/* y = o(attention(h)) + residual; y may be h, residual NULL or y. */
static void attention(const an_llama *m, int layer, an_lane *l, const an_lm_tick *t, an_tensor h,
                      const an_tensor *residual, an_tensor y)
{
    const an_llama_config *c = &m->config;
    an_lm_heads heads = {.heads = c->heads,
                         .head_dim = c->head_dim,
                         .scale = c->scale,
                         .softcap = c->score_cap,
                         .window = c->window[layer]};
    size_t mark = an_lane_mark(l);
    an_tensor mixed = an_lane_tensor(l, h.dtype, t->tokens, (int64_t)c->heads * c->head_dim);
    project(m, &m->layer[layer], layer, l, t, h, &heads);
    an_lm_attention(l, t, layer, &heads, mixed);
    an_linear(l, mixed, m->layer[layer].o, AN_ACT_NONE, residual, y);
    an_lane_release(l, mark);
}

/* ---------------------------------------------------------------- feed-forward */

/* y = down(act(gate h) * up h) + residual; y may be h, residual NULL or y. */
static void dense(const an_llama_config *c, an_lane *l, const an_weight *gate_up,
                  const an_weight *down, an_tensor h, const an_tensor *residual, an_tensor y)
{
    size_t mark = an_lane_mark(l);
    an_tensor inner = an_lane_tensor(l, h.dtype, h.dim[0], down ? down->k : 1);
    an_linear(l, h, gate_up, c->act, NULL, inner);
    an_linear(l, inner, down, AN_ACT_NONE, residual, y);
    an_lane_release(l, mark);
}

/* x[t, :] *= sigmoid(gate[t]): a number per token, so it is worked out where the tokens are few and
 * wide, on the host. gate F32 [tokens, 1], x F32 [tokens, width] */
static void weigh(an_lane *l, an_tensor gate, an_tensor x)
{
    enum { PIECE = 2048 };
    float part[PIECE], g;
    if (an_lane_counting(l) || !gate.data || !x.data) return;
    for (int64_t t = 0; t < x.dim[0]; t++) {
        an_download(l, &g, an_view_of(gate, t, 1).data, sizeof g);
        float weight = 1 / (1 + expf(-g));
        for (int64_t at = 0; at < x.dim[1]; at += PIECE) {
            int64_t n = x.dim[1] - at < PIECE ? x.dim[1] - at : PIECE;
            void *here = an_view_of(x, t * x.dim[1] + at, n).data;
            an_download(l, part, here, (size_t)n * sizeof *part);
            for (int64_t i = 0; i < n; i++) part[i] *= weight;
            an_upload(l, here, part, (size_t)n * sizeof *part);
        }
    }
}

/* y = the experts that the router chooses for each token, plus the one that all ask (Qwen2-MoE),
 * weighed by its own gate, + residual. y may be h, residual NULL or y. */
static void mixture(const an_llama_config *c, const an_llama_moe *moe, an_lane *l, an_tensor h,
                    const an_tensor *residual, an_tensor y)
{
    int64_t n = h.dim[0];
    size_t mark = an_lane_mark(l);
    an_tensor router = an_lane_tensor(l, AN_F32, n, c->experts);
    an_tensor out = an_lane_tensor(l, h.dtype, n, c->hidden);
    an_linear(l, h, moe->router, AN_ACT_NONE, NULL, router);
    an_moe(l, &(an_moe_args){.x = h,
                             .router = router,
                             .top_k = c->top_k,
                             .softmax_first = true,
                             .normalize = c->normalize,
                             .experts = c->experts,
                             .gate_up = moe->gate_up,
                             .down = moe->down,
                             .act = c->act,
                             .y = out});
    if (moe->shared_gate) {
        an_tensor gate = an_lane_tensor(l, AN_F32, n, 1);
        an_tensor shared = an_lane_tensor(l, AN_F32, n, c->hidden);
        an_linear(l, h, moe->shared_gate, AN_ACT_NONE, NULL, gate);
        dense(c, l, moe->shared_gate_up, moe->shared_down, h, NULL, shared);
        weigh(l, gate, shared);
        an_tensor same = shared;
        if (h.dtype != AN_F32) {
            same = an_lane_tensor(l, h.dtype, n, c->hidden);
            an_copy(l, shared, same);
        }
        an_add(l, out, same, out);
    }
    if (residual)
        an_add(l, out, *residual, y);
    else
        an_copy(l, out, y);
    an_lane_release(l, mark);
}

/* ---------------------------------------------------------------- forward */

/* x += attention(norm(x)); x += feed-forward(norm(x)); Gemma norms what is added as well. */
static void layer_forward(const an_llama *m, int i, an_lane *l, const an_lm_tick *t, an_tensor x)
{
    const an_llama_config *c = &m->config;
    const an_llama_layer *y = &m->layer[i];
    const an_tensor *residual = c->post_norms ? NULL : &x;
    size_t mark = an_lane_mark(l);
    an_lane_label(l, y->label);
    an_tensor h = an_lane_tensor(l, x.dtype, t->tokens, c->hidden);
    an_tensor sum = c->post_norms ? h : x; /* where a sublayer's result goes */

    an_rms_norm(l, x, &y->norm1, c->eps, h);
    attention(m, i, l, t, h, residual, sum);
    if (c->post_norms) {
        an_rms_norm(l, h, &y->post1, c->eps, h);
        an_add(l, x, h, x);
    }

    an_rms_norm(l, x, &y->norm2, c->eps, h);
    if (c->sparse[i])
        mixture(c, &y->moe, l, h, residual, sum);
    else
        dense(c, l, y->gate_up, y->down, h, residual, sum);
    if (c->post_norms) {
        an_rms_norm(l, h, &y->post2, c->eps, h);
        an_add(l, x, h, x);
    }
    an_lane_release(l, mark);
}

typedef struct llama_call {
    const an_llama *m;
    const an_lm_tick *t;
    an_tensor x; /* [tokens, hidden] */
} llama_call;

static void run_layers(an_lane *l, void *ctx)
{
    const llama_call *c = ctx;
    for (int i = 0; i < c->m->config.layers; i++) layer_forward(c->m, i, l, c->t, c->x);
}

/* A gate that goes through the host (weigh) cannot be recorded. */
static an_repeat repeat_of(const an_llama *m, const an_lm_tick *t)
{
    an_repeat r = t->repeat;
    for (int i = 0; i < m->config.layers; i++)
        if (m->config.sparse[i] && m->layer[i].moe.shared_gate) r.owner = 0;
    return r;
}

void an_llama_forward(const an_llama *m, an_lane *l, an_dtype dtype, const an_lm_tick *t)
{
    const an_llama_config *c = &m->config;
    an_lane_label(l, "model.embed_tokens");
    an_tensor x = an_lane_tensor(l, dtype, t->tokens, c->hidden);
    an_lm_embed(l, &m->ends, t, x);
    if (c->embed_scaled) an_scale(l, x, m->embed_scale, x);
    an_lane_keep(l, t->pos, (size_t)t->tokens * sizeof *t->pos);
    an_lm_keep(l, t, c->heads, dtype);

    const an_repeat repeat = repeat_of(m, t);
    an_lane_repeat(l, &repeat, run_layers, &(llama_call){m, t, x});

    if (!t->wanted) return; /* a piece of a prompt that is not its last */
    an_lane_label(l, "lm_head");
    an_tensor last = an_lane_tensor(l, dtype, t->wanted, c->hidden);
    an_take_rows(l, x, t->want, last);
    an_rms_norm(l, last, &m->norm, c->eps, last);
    an_lm_logits(l, m->ends.head, c->logit_cap, t, last);
}

/* ---------------------------------------------------------------- the family */

static an_status read_config(const an_checkpoint *c, an_llama_config *out, an_error *err)
{
    an_config k = an_config_open(an_checkpoint_config(c, "model"), "config.json", err);
    an_llama_config_read(&k, out);
    return k.status;
}

static bool matches(const an_checkpoint *c)
{
    return an_llama_knows(an_lm_type(c));
}

static an_status probe(an_checkpoint *c, an_model_info *info, an_error *err)
{
    an_llama_config k;
    *info = (an_model_info){.kind = AN_KIND_TEXT};
    an_status s = read_config(c, &k, err);
    if (s) return s;
    info->vocab = (int)k.vocab;
    info->layers = k.layers;
    info->kv_heads = k.kv_heads;
    info->head_dim = k.head_dim;
    info->context_len = (int)k.context;
    return an_lm_info(c, info, err);
}

static an_status load(an_model *m, an_checkpoint *c, an_loader *ld, an_error *err)
{
    an_llama_config k;
    m->impl = calloc(1, sizeof(an_llama));
    if (!m->impl) return an_fail(err, AN_NO_MEMORY, "no memory for a model");
    an_status s = read_config(c, &k, err);
    if (!s) s = an_checkpoint_weights(c, "model", &ld->set, err);
    if (s) return s;
    ld->bytes_all = (double)m->info.weight_bytes_file;
    an_llama_load(ld, &k, m->impl);
    return ld->status;
}

static void unload(an_model *m)
{
    if (m->impl) an_llama_free(m->impl);
    free(m->impl);
    m->impl = NULL;
}

static void forward(const an_model *m, an_lane *l, const an_lm_tick *t)
{
    an_llama_forward(m->impl, l, m->dtype, t);
}

const an_family an_family_llama = {
    .serves = AN_LLAMA_TYPES,
    .matches = matches,
    .probe = probe,
    .load = load,
    .unload = unload,
    .forward = forward,
};
