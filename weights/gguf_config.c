/* gguf_config.c: the metadata of a GGUF file as the config.json and generation_config.json that
 * Hugging Face would have written, so that models read one kind of config. The keys are those of
 * gguf-py's constants.py, what they mean follows convert_hf_to_gguf.py and llama.cpp's loader. */
#include "gguf.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_SIZE    ((json_int_t)1 << 30) /* of any size in a config */
#define MAX_FACTORS 4096                  /* rotary frequencies */
#define MAX_LAYERS  4096

static const an_gguf_arch archs[] = {
    {"llama", "llama", "LlamaForCausalLM", "silu", AN_GGUF_LLAMA},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", "silu", AN_GGUF_LLAMA},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", "silu", AN_GGUF_LLAMA},
    {"qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM", "silu", AN_GGUF_LLAMA},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", "silu", AN_GGUF_LLAMA},
    {"gemma", "gemma", "GemmaForCausalLM", "gelu_pytorch_tanh", AN_GGUF_LLAMA},
    {"gemma2", "gemma2", "Gemma2ForCausalLM", "gelu_pytorch_tanh", AN_GGUF_SANDWICH},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM", "gelu_pytorch_tanh", AN_GGUF_SANDWICH},
    {"phi3", "phi3", "Phi3ForCausalLM", "silu", AN_GGUF_FUSED},
    {"gpt2", "gpt2", "GPT2LMHeadModel", "gelu_new", AN_GGUF_GPT2},
};

const an_gguf_arch *an_gguf_arch_of(const json_t *meta)
{
    const char *name = json_string_value(json_object_get(meta, "general.architecture"));
    for (size_t i = 0; name && i < sizeof archs / sizeof archs[0]; i++)
        if (strcmp(archs[i].name, name) == 0) return &archs[i];
    return NULL;
}

/* What the functions below share. The first error stays; after it everything reads as 0. */
typedef struct gg_config {
    const char *path;
    const json_t *meta;
    const an_gguf_arch *arch;
    const an_weights *w;
    json_t *out;
    int64_t hidden, layers, heads, kv_heads, head_dim, rope_dim, context, experts, vocab;
    an_status status;
    an_error *err;
} gg_config;

AN_PRINTF(2, 3)
static void fail(gg_config *c, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (c->status == AN_OK) c->status = an_fail(c->err, AN_INVALID, "%s: %s", c->path, text);
}

/* ---------------------------------------------------------------- reading metadata */

/* "general.name" as it is, ".rope.freq_base" below the architecture. */
static const json_t *value(const gg_config *c, const char *key)
{
    char full[160];
    if (*key != '.') return json_object_get(c->meta, key);
    snprintf(full, sizeof full, "%s%s", c->arch->name, key);
    return json_object_get(c->meta, full);
}

/* A size; `missing` if the key is not there. One number a layer is fine if all are the same. */
static int64_t size_or(gg_config *c, const char *key, int64_t missing)
{
    const json_t *v = value(c, key), *e;
    if (!v || json_is_null(v)) return missing;
    if (json_is_array(v)) {
        size_t i;
        const json_t *first = json_array_get(v, 0);
        json_array_foreach((json_t *)(uintptr_t)v, i, e)
        {
            if (json_equal(e, first)) continue;
            fail(c, "%s%s differs between layers, which is not supported", c->arch->name, key);
            return 0;
        }
        v = first;
    }
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    if (n >= 0 && n <= MAX_SIZE) return n;
    fail(c, "%s%s must be an integer from 0 to %lld", *key == '.' ? c->arch->name : "", key,
         (long long)MAX_SIZE);
    return 0;
}

static int64_t size_of(gg_config *c, const char *key)
{
    int64_t n = size_or(c, key, -1);
    if (n < 1) fail(c, "%s%s is missing or 0", c->arch->name, key);
    return n < 1 ? 0 : n;
}

static double real_or(gg_config *c, const char *key, double missing)
{
    const json_t *v = value(c, key);
    if (!v || json_is_null(v)) return missing;
    if (json_is_number(v)) return json_number_value(v);
    fail(c, "%s%s must be a number", c->arch->name, key);
    return 0;
}

static bool has_tensor(const gg_config *c, const char *name)
{
    return an_set_entry(c->w, name) != NULL;
}

/* ---------------------------------------------------------------- writing the config */

static void put(gg_config *c, const char *key, json_t *v)
{
    if (!v || json_object_set_new(c->out, key, v) != 0)
        if (c->status == AN_OK)
            c->status = an_fail(c->err, AN_NO_MEMORY, "%s: out of memory", c->path);
}

static void put_int(gg_config *c, const char *key, int64_t v)
{
    put(c, key, json_integer(v));
}

static void put_real(gg_config *c, const char *key, double v)
{
    put(c, key, json_real(v));
}

static void put_true(gg_config *c, const char *key, bool v)
{
    put(c, key, json_boolean(v));
}

/* The id that the file names, -1 if none of the vocabulary: some files say 2^32 - 1 for "none". */
static int64_t token_of(const gg_config *c, const char *key)
{
    const json_t *v = json_object_get(c->meta, key);
    json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
    return id < c->vocab ? id : -1;
}

static void put_token(gg_config *c, json_t *to, const char *key, const char *name)
{
    int64_t id = token_of(c, key);
    if (id >= 0 && json_object_set_new(to, name, json_integer(id)) != 0 && c->status == AN_OK)
        c->status = an_fail(c->err, AN_NO_MEMORY, "%s: out of memory", c->path);
}

/* ---------------------------------------------------------------- rotary embedding */

/* A list of divisors of the rotary frequencies, from a tensor; NULL if it is not there. */
static json_t *factors(gg_config *c, const char *name)
{
    an_tensor t;
    float f[MAX_FACTORS];
    if (!an_weights_find(c->w, name, &t)) return NULL;
    if (t.dtype != AN_F32 || t.ndim != 1 || t.dim[0] * 2 != c->rope_dim || t.dim[0] > MAX_FACTORS) {
        fail(c, "%s: expected F32 [%lld], half of the rotary dimensions", name,
             (long long)c->rope_dim / 2);
        return NULL;
    }
    memcpy(f, t.data, (size_t)t.dim[0] * sizeof *f);
    json_t *list = json_array();
    for (int64_t i = 0; i < t.dim[0]; i++) {
        if (!(isfinite(f[i]) && f[i] > 0)) fail(c, "%s: a factor that is not above 0", name);
        if (c->status == AN_OK) json_array_append_new(list, json_real((double)f[i]));
    }
    return list;
}

/* LongRoPE (Phi-3): two lists, one for short contexts, one for long. */
static json_t *longrope(gg_config *c, int64_t original)
{
    json_t *o = json_object(), *shorter = factors(c, "rope_factors_short.weight"),
           *longer = factors(c, "rope_factors_long.weight");
    if (!shorter || !longer) fail(c, "rope_factors_short.weight and _long.weight: one is missing");
    json_object_set_new(o, "rope_type", json_string("longrope"));
    if (shorter) json_object_set_new(o, "short_factor", shorter);
    if (longer) json_object_set_new(o, "long_factor", longer);
    if (value(c, ".rope.scaling.attn_factor"))
        json_object_set_new(o, "attention_factor",
                            json_real(real_or(c, ".rope.scaling.attn_factor", 1)));
    json_object_set_new(o, "original_max_position_embeddings", json_integer(original));
    put_int(c, "original_max_position_embeddings", original);
    return o;
}

/* YaRN: transformers' attention_factor is the whole factor of the scores' magnitude, GGUF's
 * attn_factor is one more beside the usual one. */
static json_t *yarn(gg_config *c, double factor, int64_t original)
{
    json_t *o = json_pack("{s:s, s:f, s:I}", "rope_type", "yarn", "factor", factor,
                          "original_max_position_embeddings", (json_int_t)original);
    double more = real_or(c, ".rope.scaling.attn_factor", 1);
    double whole = real_or(c, ".rope.scaling.yarn_attn_factor", 1 + 0.1 * log(factor));
    if (more != 1 || value(c, ".rope.scaling.yarn_attn_factor"))
        json_object_set_new(o, "attention_factor", json_real(more * whole));
    if (value(c, ".rope.scaling.yarn_beta_fast"))
        json_object_set_new(o, "beta_fast",
                            json_real(real_or(c, ".rope.scaling.yarn_beta_fast", 32)));
    if (value(c, ".rope.scaling.yarn_beta_slow"))
        json_object_set_new(o, "beta_slow",
                            json_real(real_or(c, ".rope.scaling.yarn_beta_slow", 1)));
    return o;
}

static void put_rope(gg_config *c)
{
    put_real(c, "rope_theta", real_or(c, ".rope.freq_base", 10000));
    if (c->rope_dim != c->head_dim)
        put_real(c, "partial_rotary_factor", (double)c->rope_dim / (double)c->head_dim);
    const char *type = json_string_value(value(c, ".rope.scaling.type"));
    /* files of before the end of 2023 name no type */
    double factor = real_or(c, ".rope.scaling.factor", real_or(c, ".rope.scale_linear", 0));
    int64_t original = size_or(c, ".rope.scaling.original_context_length", c->context);
    json_t *scaling = NULL;
    if (!type) type = factor > 0 && factor != 1 ? "linear" : "none";
    if (has_tensor(c, "rope_factors_long.weight") || strcmp(type, "longrope") == 0)
        scaling = longrope(c, original);
    else if (strcmp(type, "none") == 0)
        scaling = json_null(); /* llama3's is in the divisors, tensor model.rope_freqs */
    else if (has_tensor(c, "rope_freqs.weight"))
        fail(c, "rope_freqs.weight and rope scaling '%.40s' at once", type);
    else if (!(factor > 0))
        fail(c, "%s.rope.scaling.factor is missing or not above 0", c->arch->name);
    else if (strcmp(type, "linear") == 0)
        scaling = json_pack("{s:s, s:f}", "rope_type", "linear", "factor", factor);
    else if (strcmp(type, "yarn") == 0)
        scaling = yarn(c, factor, original);
    else
        fail(c, "rope scaling '%.40s'; there are none, linear, yarn, longrope", type);
    put(c, "rope_scaling", scaling ? scaling : json_null());
}

/* ---------------------------------------------------------------- families */

/* Which layers see only a window: Gemma 2 every other one, Gemma 3 five of six; newer files say it,
 * as a number or layer by layer. */
static void put_layer_types(gg_config *c, int64_t pattern)
{
    const char *key = ".attention.sliding_window_pattern";
    const json_t *each = value(c, key);
    if (!json_is_array(each)) {
        each = NULL;
        pattern = size_or(c, key, pattern);
    } else if (json_array_size(each) != (size_t)c->layers) {
        fail(c, "%s%s: %zu values for %lld layers", c->arch->name, key, json_array_size(each),
             (long long)c->layers);
    }
    json_t *list = json_array();
    for (int64_t i = 0; i < c->layers && i < MAX_LAYERS && pattern > 0; i++) {
        bool slides = each ? json_is_true(json_array_get(each, (size_t)i)) : (i + 1) % pattern != 0;
        json_array_append_new(list, json_string(slides ? "sliding_attention" : "full_attention"));
    }
    put(c, "layer_types", list);
}

static void put_softcap(gg_config *c, const char *gguf, const char *hf, double missing)
{
    double cap = real_or(c, gguf, missing);
    put(c, hf, cap > 0 ? json_real(cap) : json_null());
}

static void put_gemma(gg_config *c)
{
    bool two = strcmp(c->arch->name, "gemma2") == 0, three = strcmp(c->arch->name, "gemma3") == 0;
    put(c, "hidden_activation", json_string(c->arch->act));
    put_true(c, "gguf_norm_plus_one", true);
    if (!two && !three) return;
    /* The file does not say how queries are scaled; llama.cpp knows the two 27B by their layers. */
    bool by_width = (two && c->layers == 46) || (three && c->layers == 62);
    put_int(c, "query_pre_attn_scalar", by_width ? c->hidden / c->heads : c->head_dim);
    put_softcap(c, ".attn_logit_softcapping", "attn_logit_softcapping", two ? 50 : 0);
    put_softcap(c, ".final_logit_softcapping", "final_logit_softcapping", two ? 30 : 0);
    /* without the key, Gemma 2 has its usual window and Gemma 3 none */
    int64_t window = size_or(c, ".attention.sliding_window", two ? 4096 : 0);
    put(c, "sliding_window", window ? json_integer(window) : json_null());
    put_layer_types(c, window == 0 ? 1 : two ? 2 : 6);
    if (three) put_real(c, "rope_local_base_freq", real_or(c, ".rope.freq_base_swa", 10000));
}

static void put_experts(gg_config *c)
{
    bool mixtral = strcmp(c->arch->name, "llama") == 0;
    put_int(c, mixtral ? "num_local_experts" : "num_experts", c->experts);
    put_int(c, "num_experts_per_tok", size_of(c, ".expert_used_count"));
    if (mixtral) return;
    int64_t ff = size_or(c, ".feed_forward_length", 0);
    put_int(c, "moe_intermediate_size", size_or(c, ".expert_feed_forward_length", ff));
    const json_t *norm = value(c, ".expert_weights_norm");
    put_true(c, "norm_topk_prob",
             norm ? json_is_true(norm) : strcmp(c->arch->name, "qwen3moe") == 0);
    put_int(c, "decoder_sparse_step", 1);
    put(c, "mlp_only_layers", json_array());
    int64_t shared = size_or(c, ".expert_shared_feed_forward_length", 0);
    const an_entry *e = an_set_entry(c->w, "blk.0.ffn_up_shexp.weight");
    if (!shared && e && e->ndim == 2) shared = e->dim[0]; /* older files do not say */
    if (shared) put_int(c, "shared_expert_intermediate_size", shared);
}

static void put_gpt2(gg_config *c)
{
    put_int(c, "n_embd", c->hidden);
    put_int(c, "n_layer", c->layers);
    put_int(c, "n_head", c->heads);
    put_int(c, "n_positions", c->context);
    put_int(c, "n_inner", size_or(c, ".feed_forward_length", 4 * c->hidden));
    put_real(c, "layer_norm_epsilon", real_or(c, ".attention.layer_norm_epsilon", 1e-5));
    put(c, "activation_function", json_string(c->arch->act));
    put_true(c, "gguf_conv1d_transposed", true);
}

static void put_llama(gg_config *c)
{
    const char *name = c->arch->name;
    put_int(c, "hidden_size", c->hidden);
    put_int(c, "num_hidden_layers", c->layers);
    put_int(c, "num_attention_heads", c->heads);
    put_int(c, "num_key_value_heads", c->kv_heads);
    put_int(c, "head_dim", c->head_dim);
    put_int(c, "intermediate_size",
            c->experts && !value(c, ".feed_forward_length")
                ? size_of(c, ".expert_feed_forward_length")
                : size_of(c, ".feed_forward_length"));
    put_int(c, "max_position_embeddings", c->context);
    put(c, "hidden_act", json_string(c->arch->act));
    put_real(c, "rms_norm_eps", real_or(c, ".attention.layer_norm_rms_epsilon", 1e-6));
    put_true(c, "attention_bias", has_tensor(c, "blk.0.attn_q.bias"));
    put_rope(c);
    if (strcmp(name, "llama") == 0) put_true(c, "gguf_rope_interleaved", true);
    if (strncmp(name, "gemma", 5) == 0)
        put_gemma(c);
    else if (strncmp(name, "qwen", 4) != 0 && size_or(c, ".attention.sliding_window", 0) > 0)
        put_int(c, "sliding_window", size_or(c, ".attention.sliding_window", 0));
    if (c->experts) put_experts(c);
}

/* ---------------------------------------------------------------- the whole */

static void measure(gg_config *c)
{
    c->hidden = size_of(c, ".embedding_length");
    c->layers = size_of(c, ".block_count");
    c->heads = size_of(c, ".attention.head_count");
    c->context = size_of(c, ".context_length");
    c->experts = size_or(c, ".expert_count", 0);
    if (c->status != AN_OK) return;
    c->kv_heads = size_or(c, ".attention.head_count_kv", c->heads);
    c->head_dim = size_or(c, ".attention.key_length", c->hidden / c->heads);
    c->rope_dim = size_or(c, ".rope.dimension_count", c->head_dim);
    if (c->head_dim < 1 || c->kv_heads < 1 || c->rope_dim < 1 || c->rope_dim > c->head_dim)
        fail(c, "heads of %lld numbers, %lld of them rotary, %lld heads of keys: cannot be",
             (long long)c->head_dim, (long long)c->rope_dim, (long long)c->kv_heads);
    if (size_or(c, ".attention.value_length", c->head_dim) != c->head_dim)
        fail(c, "keys and values of different widths, which is not supported");
    if (json_is_false(value(c, ".attention.causal")))
        fail(c, "tokens that see those after them (attention.causal is false): not supported");
}

/* The architecture "llama" is also that of Mistral and Mixtral. */
static const char *model_type(gg_config *c, const char **cls)
{
    *cls = c->arch->cls;
    if (strcmp(c->arch->name, "llama") != 0) return c->arch->type;
    if (c->experts) {
        *cls = "MixtralForCausalLM";
        return "mixtral";
    }
    if (size_or(c, ".attention.sliding_window", 0) > 0) {
        *cls = "MistralForCausalLM";
        return "mistral";
    }
    return c->arch->type;
}

static void put_all(gg_config *c)
{
    const an_entry *embd = an_set_entry(c->w, "token_embd.weight");
    const char *cls;
    if (!embd || embd->ndim != 2) fail(c, "token_embd.weight is missing");
    measure(c);
    if (c->status != AN_OK) return;
    if (embd->dim[1] != c->hidden)
        fail(c, "token_embd.weight has rows of %lld, %s.embedding_length says %lld",
             (long long)embd->dim[1], c->arch->name, (long long)c->hidden);
    put(c, "model_type", json_string(model_type(c, &cls)));
    put(c, "architectures", json_pack("[s]", cls));
    c->vocab = embd->dim[0];
    put_int(c, "vocab_size", c->vocab);
    put_true(c, "tie_word_embeddings", !has_tensor(c, "output.weight"));
    if (c->arch->family & AN_GGUF_GPT2)
        put_gpt2(c);
    else
        put_llama(c);
    put_token(c, c->out, "tokenizer.ggml.bos_token_id", "bos_token_id");
    put_token(c, c->out, "tokenizer.ggml.eos_token_id", "eos_token_id");
    put_token(c, c->out, "tokenizer.ggml.padding_token_id", "pad_token_id");
}

/* The end of a text, of a turn, of a message: an answer stops at any of them. */
static json_t *generation_of(gg_config *c)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    json_t *g = json_object(), *list = json_array();
    for (int i = 0; i < 3; i++) {
        int64_t id = token_of(c, ends[i]);
        bool known = id < 0;
        for (size_t k = 0; k < json_array_size(list); k++)
            known |= json_integer_value(json_array_get(list, k)) == id;
        if (!known) json_array_append_new(list, json_integer(id));
    }
    put_token(c, g, "tokenizer.ggml.bos_token_id", "bos_token_id");
    put_token(c, g, "tokenizer.ggml.padding_token_id", "pad_token_id");
    if (json_array_size(list))
        json_object_set_new(g, "eos_token_id", list);
    else
        json_decref(list);
    return g;
}

an_status an_gguf_config(const char *path, const json_t *meta, const an_weights *w, json_t **config,
                         json_t **generation, an_error *err)
{
    *config = *generation = NULL;
    const char *name = json_string_value(json_object_get(meta, "general.architecture"));
    gg_config c = {.path = path, .meta = meta, .w = w, .err = err};
    c.arch = an_gguf_arch_of(meta);
    if (!c.arch)
        return an_fail(err, AN_INVALID,
                       "%s: architecture '%.60s' is not known; there are llama (Mistral, Mixtral), "
                       "qwen2, qwen3, qwen2moe, qwen3moe, gemma, gemma2, gemma3, phi3, gpt2",
                       path, name ? name : "(none)");
    c.out = json_object();
    if (!c.out) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    put_all(&c);
    json_t *g = c.status == AN_OK ? generation_of(&c) : NULL;
    if (c.status == AN_OK) {
        *config = c.out;
        *generation = g;
        return AN_OK;
    }
    json_decref(c.out);
    json_decref(g);
    return c.status;
}
