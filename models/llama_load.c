/* llama_load.c: the weights of a relative of Llama, whatever the checkpoint calls and fuses. */
#include "llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- attention */

static an_tensor load_norm(an_loader *ld, const an_llama_config *c, const char *name, int64_t width)
{
    return an_load_gamma(ld, name, width, c->norm_plus);
}

#define NAME(...) an_load_name(ld, name, __VA_ARGS__)

static void load_attention(an_loader *ld, const an_llama_config *c, int i, an_llama_layer *y)
{
    char name[AN_NAME_MAX];
    int64_t wide = (int64_t)c->heads * c->head_dim, narrow = (int64_t)c->kv_heads * c->head_dim;
    const an_part one[] = {{"qkv_proj", wide + 2 * narrow}, {NULL, 0}}; /* Phi-3 stores it fused */
    const an_part three[] = {{"q_proj", wide}, {"k_proj", narrow}, {"v_proj", narrow}, {NULL, 0}};
    int bias = c->qkv_bias ? AN_BIAS : AN_BIAS_MAYBE;
    bool fused = an_load_has(ld, NAME("model.layers.%d.self_attn.qkv_proj.weight", i));
    NAME("model.layers.%d.self_attn", i);
    if (!c->qk_norm) {
        y->qkv = an_load_parts(ld, name, fused ? one : three, c->hidden, bias);
    } else {
        an_weight **const each[] = {&y->q, &y->k, &y->v};
        for (int p = 0; p < 3; p++) {
            const an_part part[] = {three[p], {NULL, 0}};
            *each[p] = an_load_parts(ld, name, part, c->hidden, bias);
        }
        y->norm_q = load_norm(ld, c, NAME("model.layers.%d.self_attn.q_norm", i), c->head_dim);
        y->norm_k = load_norm(ld, c, NAME("model.layers.%d.self_attn.k_norm", i), c->head_dim);
    }
    y->o = an_load_linear(ld, NAME("model.layers.%d.self_attn.o_proj", i), c->hidden, wide,
                          AN_BIAS_MAYBE);
}

/* ---------------------------------------------------------------- feed-forward */

/* act(gate x) * up x needs both as one GEMM: the gate's rows, then up's. */
static void load_dense(an_loader *ld, const an_llama_config *c, const char *prefix, int64_t inner,
                       an_weight **gate_up, an_weight **down)
{
    char name[AN_NAME_MAX];
    const an_part one[] = {{"gate_up_proj", 2 * inner}, {NULL, 0}};
    const an_part two[] = {{"gate_proj", inner}, {"up_proj", inner}, {NULL, 0}};
    bool fused = an_load_has(ld, NAME("%s.gate_up_proj.weight", prefix));
    *gate_up = an_load_parts(ld, prefix, fused ? one : two, c->hidden, AN_BIAS_MAYBE);
    *down = an_load_linear(ld, NAME("%s.down_proj", prefix), c->hidden, inner, AN_BIAS_MAYBE);
}

/* Expert e of a stack [experts, n, k], or rows of it. */
static an_tensor slice(an_tensor stack, int64_t e)
{
    an_tensor one = an_tensor_2d(stack.data, stack.dtype, stack.dim[1], stack.dim[2]);
    one.data = (char *)one.data + (size_t)e * an_tensor_bytes(&one);
    return one;
}

/* Experts stacked in one tensor each: GGUF has gate, up and down, newer folders gate_up and down.
 */
static void load_stacked_experts(an_loader *ld, const an_llama_config *c, const char *prefix,
                                 an_llama_moe *moe)
{
    char name[AN_NAME_MAX];
    const int64_t half[] = {c->experts, c->expert_inner, c->hidden};
    const int64_t whole[] = {c->experts, 2 * c->expert_inner, c->hidden};
    const int64_t back[] = {c->experts, c->hidden, c->expert_inner};
    an_tensor in[2] = {{0}, {0}}, out;
    /* gate_up_proj and down_proj are parameters of a module of their own: no ".weight" */
    bool fused = an_load_has(ld, NAME("%s.gate_up_proj", prefix));
    if (fused) {
        in[0] = an_load_whole(ld, name, 3, whole);
        out = an_load_whole(ld, NAME("%s.down_proj", prefix), 3, back);
    } else {
        in[0] = an_load_whole(ld, NAME("%s.gate_proj.weight", prefix), 3, half);
        in[1] = an_load_whole(ld, NAME("%s.up_proj.weight", prefix), 3, half);
        out = an_load_whole(ld, NAME("%s.down_proj.weight", prefix), 3, back);
    }
    for (int e = 0; e < c->experts && !ld->status; e++) {
        an_tensor w[2] = {slice(in[0], e)}, d = slice(out, e);
        if (!fused) w[1] = slice(in[1], e);
        moe->gate_up[e] = an_load_given(ld, prefix, fused ? 1 : 2, w, 0);
        moe->down[e] = an_load_given(ld, prefix, 1, &d, 0);
    }
}

/* Experts one by one: Mixtral calls gate, up and down w1, w3 and w2. */
static void load_single_experts(an_loader *ld, const an_llama_config *c, const char *prefix,
                                bool mixtral, an_llama_moe *moe)
{
    char name[AN_NAME_MAX];
    const an_part in[] = {{mixtral ? "w1" : "gate_proj", c->expert_inner},
                          {mixtral ? "w3" : "up_proj", c->expert_inner},
                          {NULL, 0}};
    const an_part out[] = {{mixtral ? "w2" : "down_proj", c->hidden}, {NULL, 0}};
    for (int e = 0; e < c->experts && !ld->status; e++) {
        NAME("%s.%d", prefix, e);
        moe->gate_up[e] = an_load_parts(ld, name, in, c->hidden, 0);
        moe->down[e] = an_load_parts(ld, name, out, c->expert_inner, 0);
    }
}

static void load_experts(an_loader *ld, const an_llama_config *c, int i, an_llama_moe *moe)
{
    char name[AN_NAME_MAX], prefix[AN_NAME_MAX];
    bool mixtral = an_load_has(ld, NAME("model.layers.%d.block_sparse_moe.gate.weight", i));
    const char *block = mixtral ? "block_sparse_moe" : "mlp";
    an_load_name(ld, prefix, "model.layers.%d.%s.experts", i, block);
    moe->router =
        an_load_linear(ld, NAME("model.layers.%d.%s.gate", i, block), c->experts, c->hidden, AN_KEEP);
    moe->gate_up = an_load_array(ld, (size_t)c->experts, sizeof *moe->gate_up);
    moe->down = an_load_array(ld, (size_t)c->experts, sizeof *moe->down);
    if (ld->status) return;
    bool single = an_load_has(ld, mixtral ? NAME("%s.0.w1.weight", prefix)
                                          : NAME("%s.0.gate_proj.weight", prefix));
    if (single)
        load_single_experts(ld, c, prefix, mixtral, moe);
    else
        load_stacked_experts(ld, c, prefix, moe);
    if (!c->shared_inner) return;
    load_dense(ld, c, NAME("model.layers.%d.mlp.shared_expert", i), c->shared_inner,
               &moe->shared_gate_up, &moe->shared_down);
    moe->shared_gate =
        an_load_linear(ld, NAME("model.layers.%d.mlp.shared_expert_gate", i), 1, c->hidden, AN_KEEP);
}

/* ---------------------------------------------------------------- the whole */

static void load_layer(an_loader *ld, const an_llama_config *c, int i, an_llama_layer *y)
{
    char name[AN_NAME_MAX];
    snprintf(y->label, sizeof y->label, "model.layers.%d", i);
    y->norm1 = load_norm(ld, c, NAME("model.layers.%d.input_layernorm", i), c->hidden);
    load_attention(ld, c, i, y);
    /* where sublayers have norms behind them too, the name of Llama's second one is the first's */
    NAME("model.layers.%d.post_attention_layernorm", i);
    an_tensor *second = c->post_norms ? &y->post1 : &y->norm2;
    *second = load_norm(ld, c, name, c->hidden);
    if (c->post_norms) {
        NAME("model.layers.%d.pre_feedforward_layernorm", i);
        y->norm2 = load_norm(ld, c, name, c->hidden);
        NAME("model.layers.%d.post_feedforward_layernorm", i);
        y->post2 = load_norm(ld, c, name, c->hidden);
    }
    if (c->sparse[i])
        load_experts(ld, c, i, &y->moe);
    else
        load_dense(ld, c, NAME("model.layers.%d.mlp", i), c->inner, &y->gate_up, &y->down);
}

/* Divisors of the frequencies that GGUF files hold as a tensor, where they have one. */
static void load_rope_divisors(an_loader *ld, an_llama_config *c, const char *name)
{
    float divisor[AN_ROPE_PAIRS];
    const int64_t pairs = c->rope[0].rot_dim / 2;
    if (!an_load_has(ld, name)) return;
    an_tensor there = an_load_whole(ld, name, 1, &pairs);
    if (!ld->status) ld->status = an_tensor_to_f32(&there, divisor, ld->err);
    for (int64_t i = 0; i < pairs && !ld->status; i++)
        if (!(divisor[i] > 1e-6f && divisor[i] < 1e6f))
            ld->status = an_fail(ld->err, AN_INVALID, "%s[%lld] is %g, expected 1e-6 to 1e6", name,
                                 (long long)i, (double)divisor[i]);
    if (!ld->status) an_rotary_divide(&c->rope[0], divisor);
}

/* sqrt(hidden) as a number of the model's dtype, which is how transformers multiplies it. */
static float embed_scale(const an_loader *ld, const an_llama_config *c)
{
    if (!c->embed_scaled) return 1;
    float f = sqrtf((float)c->hidden);
    return ld->dtype == AN_BF16 ? an_bf16_to_f32(an_f32_to_bf16(f)) : f;
}

void an_llama_load(an_loader *ld, const an_llama_config *config, an_llama *m)
{
    m->config = *config;
    const an_llama_config *c = &m->config;
    load_rope_divisors(ld, &m->config, "model.rope_freqs");
    m->embed_scale = embed_scale(ld, c);
    m->layer = an_load_array(ld, (size_t)c->layers, sizeof *m->layer);
    for (int i = 0; i < c->layers && m->layer && !ld->status; i++)
        load_layer(ld, c, i, &m->layer[i]);
    m->norm = load_norm(ld, c, "model.norm", c->hidden);
    an_lm_ends_load(ld, "model.embed_tokens", c->tied, c->vocab, c->hidden, &m->ends);
}

void an_llama_free(an_llama *m)
{
    for (int i = 0; m->layer && i < m->config.layers; i++) {
        free(m->layer[i].moe.gate_up);
        free(m->layer[i].moe.down);
    }
    free(m->layer);
    m->layer = NULL;
}
