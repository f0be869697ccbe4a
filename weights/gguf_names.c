/* gguf_names.c: from the names of GGUF files (gguf-py's tensor_mapping.py) to those of Hugging
 * Face. Tensors that no model asks for (rope_freqs.weight, which the config holds) keep their
 * names. */
#include "gguf.h"

#include <ctype.h>
#include <stdio.h>

#define ANY (AN_GGUF_LLAMA | AN_GGUF_SANDWICH | AN_GGUF_FUSED)

typedef struct gg_name {
    const char *gguf, *hf;
    unsigned family;
} gg_name;

/* Before ".weight" or ".bias". */
static const gg_name top[] = {
    {"token_embd", "model.embed_tokens", ANY},
    {"output_norm", "model.norm", ANY},
    {"output", "lm_head", ANY | AN_GGUF_GPT2},
    {"token_embd", "transformer.wte", AN_GGUF_GPT2},
    {"position_embd", "transformer.wpe", AN_GGUF_GPT2},
    {"output_norm", "transformer.ln_f", AN_GGUF_GPT2},
};

/* Between "blk.N." and ".weight" or ".bias"; the left side follows "model.layers.N.", in GPT-2
 * "transformer.h.N." */
static const gg_name layer[] = {
    {"attn_norm", "input_layernorm", ANY},
    {"attn_q", "self_attn.q_proj", ANY},
    {"attn_k", "self_attn.k_proj", ANY},
    {"attn_v", "self_attn.v_proj", ANY},
    {"attn_qkv", "self_attn.qkv_proj", ANY},
    {"attn_output", "self_attn.o_proj", ANY},
    {"attn_q_norm", "self_attn.q_norm", ANY},
    {"attn_k_norm", "self_attn.k_norm", ANY},
    {"ffn_norm", "post_attention_layernorm", AN_GGUF_LLAMA | AN_GGUF_FUSED},
    {"post_attention_norm", "post_attention_layernorm", AN_GGUF_SANDWICH},
    {"ffn_norm", "pre_feedforward_layernorm", AN_GGUF_SANDWICH},
    {"post_ffw_norm", "post_feedforward_layernorm", AN_GGUF_SANDWICH},
    {"ffn_gate", "mlp.gate_proj", ANY},
    {"ffn_up", "mlp.up_proj", AN_GGUF_LLAMA | AN_GGUF_SANDWICH},
    {"ffn_up", "mlp.gate_up_proj", AN_GGUF_FUSED},
    {"ffn_down", "mlp.down_proj", ANY},
    /* mixtures: the router, the experts stacked, the expert that always works */
    {"ffn_gate_inp", "mlp.gate", ANY},
    {"ffn_gate_exps", "mlp.experts.gate_proj", ANY},
    {"ffn_up_exps", "mlp.experts.up_proj", ANY},
    {"ffn_down_exps", "mlp.experts.down_proj", ANY},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate", ANY},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj", ANY},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj", ANY},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj", ANY},

    {"attn_norm", "ln_1", AN_GGUF_GPT2},
    {"attn_qkv", "attn.c_attn", AN_GGUF_GPT2},
    {"attn_output", "attn.c_proj", AN_GGUF_GPT2},
    {"ffn_norm", "ln_2", AN_GGUF_GPT2},
    {"ffn_up", "mlp.c_fc", AN_GGUF_GPT2},
    {"ffn_down", "mlp.c_proj", AN_GGUF_GPT2},
};

static const char *find(const gg_name *list, size_t n, const char *name, size_t len,
                        unsigned family)
{
    for (size_t i = 0; i < n; i++) {
        if ((list[i].family & family) && strlen(list[i].gguf) == len &&
            memcmp(list[i].gguf, name, len) == 0)
            return list[i].hf;
    }
    return NULL;
}

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

/* Experts one by one: "ffn_up.3" is mlp.experts.3.up_proj. False if it is no such name. */
static bool single_expert(const char *name, size_t len, char *buf, size_t size)
{
    static const gg_name part[] = {
        {"ffn_gate", "gate_proj", 1}, {"ffn_up", "up_proj", 1}, {"ffn_down", "down_proj", 1}};
    const char *dot = memchr(name, '.', len);
    if (!dot || dot + 1 == name + len) return false;
    int digits = (int)(name + len - dot - 1);
    for (int i = 0; i < digits; i++)
        if (!isdigit((unsigned char)dot[1 + i])) return false;
    const char *hf = find(part, COUNT(part), name, (size_t)(dot - name), 1);
    if (hf) snprintf(buf, size, "mlp.experts.%.*s.%s", digits, dot + 1, hf);
    return hf != NULL;
}

an_status an_gguf_names(const void *ctx, const an_entry *e, an_weights *out, an_error *err)
{
    const an_gguf_arch *arch = ctx;
    const char *tail = strrchr(e->name, '.');
    char name[AN_WEIGHTS_MAX_NAME + 64], expert[AN_WEIGHTS_MAX_NAME + 64];
    if (!arch || !tail || (strcmp(tail, ".weight") != 0 && strcmp(tail, ".bias") != 0))
        return an_set_add(out, e->name, e, err);
    if (strcmp(e->name, "rope_freqs.weight") == 0)
        return an_set_add(out, "model.rope_freqs", e, err);
    const char *part = e->name, *hf;
    if (strncmp(part, "blk.", 4) == 0) {
        const char *number = part + 4;
        part = number + strspn(number, "0123456789");
        if (part == number || *part != '.' || ++part > tail)
            return an_set_add(out, e->name, e, err);
        size_t len = (size_t)(tail - part);
        hf = find(layer, COUNT(layer), part, len, arch->family);
        if (!hf && single_expert(part, len, expert, sizeof expert)) hf = expert;
        snprintf(name, sizeof name, "%s.%.*s.%s%s",
                 arch->family & AN_GGUF_GPT2 ? "transformer.h" : "model.layers",
                 (int)(part - 1 - number), number, hf ? hf : "", tail);
    } else {
        hf = find(top, COUNT(top), part, (size_t)(tail - part), arch->family);
        snprintf(name, sizeof name, "%s%s", hf ? hf : "", tail);
    }
    if (!hf) return an_set_add(out, e->name, e, err);
    an_entry shaped = *e;
    if (e->ndim == 1 && strstr(name, "shared_expert_gate")) { /* a matrix of one row */
        shaped.ndim = 2;
        shaped.dim[0] = 1;
        shaped.dim[1] = e->dim[0];
    }
    return an_set_add(out, name, &shaped, err);
}
