/* llama_config.c: reads the config.json of every relative of Llama into one record. Keys that are
 * missing have transformers' defaults; what would change the result and is not served is refused
 * by name. */
#include "fp8.h"
#include "llama.h"

#include <jansson.h>
#include <math.h>

typedef enum windows {
    WINDOW_NONE = 0,
    WINDOW_ALL,    /* sliding_window holds for every layer */
    WINDOW_QWEN,   /* for layers from max_window_layers on, if use_sliding_window */
    WINDOW_GEMMA2, /* for every second one, the first included */
    WINDOW_GEMMA3  /* for all but every sixth */
} windows;

/* How the model types differ before their configs say anything. */
typedef struct relative {
    const char *type;
    windows windows;
    int window;   /* default of sliding_window where the key is missing, 0 = none */
    int head_dim; /* default, 0: hidden_size / heads */
    bool gemma;   /* scaled embeddings, norms as w - 1, gelu, tied */
    bool post_norms, qk_norm, qkv_bias;
    bool experts;
} relative;

static const relative family[] = {
    {.type = "llama"},
    {.type = "mistral", .windows = WINDOW_ALL, .window = 4096},
    {.type = "mixtral", .windows = WINDOW_ALL, .experts = true},
    {.type = "qwen2", .windows = WINDOW_QWEN, .qkv_bias = true},
    {.type = "qwen2_moe", .windows = WINDOW_QWEN, .qkv_bias = true, .experts = true},
    {.type = "qwen3", .windows = WINDOW_QWEN, .head_dim = 128, .qk_norm = true},
    {.type = "qwen3_moe", .windows = WINDOW_QWEN, .qk_norm = true, .experts = true},
    {.type = "gemma", .head_dim = 256, .gemma = true},
    {.type = "gemma2",
     .windows = WINDOW_GEMMA2,
     .window = 4096,
     .head_dim = 256,
     .gemma = true,
     .post_norms = true},
    {.type = "gemma3_text",
     .windows = WINDOW_GEMMA3,
     .window = 4096,
     .head_dim = 256,
     .gemma = true,
     .post_norms = true,
     .qk_norm = true},
    {.type = "phi3", .windows = WINDOW_ALL},
};

static const relative *find(const char *type)
{
    if (type && strcmp(type, "gemma3") == 0) type = "gemma3_text"; /* without its picture tower */
    for (size_t i = 0; type && i < sizeof family / sizeof *family; i++)
        if (strcmp(type, family[i].type) == 0) return &family[i];
    return NULL;
}

bool an_llama_knows(const char *model_type)
{
    return find(model_type) != NULL;
}

/* ---------------------------------------------------------------- parts */

static void refuse_unsupported(an_config *c)
{
    static const char *const only_null[] = {"clip_qkv", "text_config", "vision_config"};
    for (size_t i = 0; i < sizeof only_null / sizeof *only_null; i++)
        an_config_only_null(c, only_null[i]);
    an_fp8_config(c);
    an_config_only_bool(c, "use_bidirectional_attention", false);
    an_config_only_bool(c, "is_encoder_decoder", false);
}

static void read_sizes(an_config *c, const relative *r, an_llama_config *o)
{
    o->vocab = an_lm_config_need(c, "vocab_size", 1, 1 << 24);
    o->hidden = an_lm_config_need(c, "hidden_size", 1, 1 << 17);
    o->layers = (int)an_lm_config_need(c, "num_hidden_layers", 1, AN_LM_LAYERS);
    o->heads = (int)an_lm_config_need(c, "num_attention_heads", 1, AN_LM_HEADS);
    o->context = an_lm_config_need(c, "max_position_embeddings", 1, 1 << 30);
    o->inner = an_lm_config_need(c, "intermediate_size", 1, 1 << 20);
    o->kv_heads = (int)an_config_int(c, "num_key_value_heads", o->heads, 1, o->heads);
    if (c->status) return;
    if (o->heads % o->kv_heads)
        an_config_refuse(c, "num_key_value_heads", "expected a divisor of the %d heads", o->heads);
    int64_t whole = o->hidden % o->heads ? 0 : o->hidden / o->heads;
    o->head_dim =
        (int)an_config_int(c, "head_dim", r->head_dim ? r->head_dim : whole, 1, AN_LM_HEAD_DIM);
    if (o->head_dim < 1 || o->head_dim > AN_LM_HEAD_DIM)
        an_config_refuse(c, "num_attention_heads",
                         "hidden_size %lld cannot be split among them into heads of at most %d",
                         (long long)o->hidden, AN_LM_HEAD_DIM);
    o->eps = (float)an_config_num(c, "rms_norm_eps", 1e-6, 0, 1);
}

static void read_activation(an_config *c, const relative *r, an_llama_config *o)
{
    /* Gemma 1 says "gelu" in hidden_act and means the tanh form; hidden_activation came later */
    const char *key = r->gemma ? "hidden_activation" : "hidden_act";
    const char *name = an_config_str(c, key, r->gemma ? "gelu_pytorch_tanh" : "silu");
    bool silu = strcmp(name, "silu") == 0 || strcmp(name, "swish") == 0;
    bool gelu = strcmp(name, "gelu_pytorch_tanh") == 0 || strcmp(name, "gelu_new") == 0;
    if (!silu && !gelu) an_config_refuse(c, key, "only silu and gelu_pytorch_tanh are supported");
    o->act = silu ? AN_ACT_SWIGLU : AN_ACT_GEGLU_TANH;
}

/* The default of a key that can also be null, which then means none. */
static double default_of(const an_config *c, const char *key, double missing)
{
    return json_object_get(c->json, key) ? 0 : missing;
}

static float read_cap(an_config *c, const char *key, double missing)
{
    return (float)an_config_num(c, key, default_of(c, key, missing), 0, 1e6);
}

static void read_attention(an_config *c, const relative *r, an_llama_config *o)
{
    double by = o->head_dim;
    if (r->gemma && r->post_norms) by = an_config_num(c, "query_pre_attn_scalar", 256, 1e-6, 1e6);
    o->scale = (float)(1 / sqrt(by > 0 ? by : 1));
    bool capped = strcmp(r->type, "gemma2") == 0;
    o->score_cap = read_cap(c, "attn_logit_softcapping", capped ? 50 : 0);
    o->logit_cap = read_cap(c, "final_logit_softcapping", capped ? 30 : 0);
    bool bias = an_config_bool(c, "attention_bias", false);
    o->qkv_bias = bias || (r->qkv_bias && an_config_bool(c, "qkv_bias", true));
}

/* ---------------------------------------------------------------- windows and rotary embeddings */

/* Is layer i a sliding one, if layer_types does not say? */
static bool slides(const relative *r, int i, int64_t from, int64_t pattern)
{
    switch (r->windows) {
    case WINDOW_ALL:
        return true;
    case WINDOW_QWEN:
        return i >= from;
    case WINDOW_GEMMA2:
    case WINDOW_GEMMA3:
        return (i + 1) % pattern != 0;
    case WINDOW_NONE:
        break;
    }
    return false;
}

/* layer_types[i], where the config has the list. */
static bool read_type(an_config *c, const json_t *types, int i)
{
    const char *type = json_string_value(json_array_get(types, (size_t)i));
    if (type && strcmp(type, "sliding_attention") == 0) return true;
    if (!type || strcmp(type, "full_attention") != 0)
        an_config_refuse(c, "layer_types",
                         "expected full_attention or sliding_attention for each layer");
    return false;
}

static void read_windows(an_config *c, const relative *r, an_llama_config *o)
{
    const char *key = "sliding_window"; /* 0 means none, too */
    int64_t window = an_config_int(c, key, (int64_t)default_of(c, key, r->window), 0, 1 << 30);
    if (r->windows == WINDOW_NONE) window = 0;
    if (r->windows == WINDOW_QWEN && !an_config_bool(c, "use_sliding_window", false)) window = 0;
    int64_t from = an_config_int(c, "max_window_layers", 28, 0, 1 << 20);
    int64_t pattern = r->windows == WINDOW_GEMMA2 ? 2 : 6;
    pattern = an_config_int(c, "_sliding_window_pattern", pattern, 1, 1 << 20);
    pattern = an_config_int(c, "sliding_window_pattern", pattern, 1, 1 << 20);
    const json_t *types = json_object_get(c->json, "layer_types");
    if (json_is_null(types)) types = NULL;
    if (types && (!json_is_array(types) || json_array_size(types) != (size_t)o->layers))
        an_config_refuse(c, "layer_types", "expected a list of %d, one for each layer", o->layers);
    for (int i = 0; i < o->layers && !c->status; i++) {
        bool sliding = types ? read_type(c, types, i) : slides(r, i, from, pattern);
        o->window[i] = sliding ? window : 0;
        o->local[i] = sliding && r->windows == WINDOW_GEMMA3;
    }
}

static void read_rope(an_config *c, const relative *r, an_llama_config *o)
{
    bool gemma3 = r->windows == WINDOW_GEMMA3;
    an_rotary_ask all = {.head_dim = o->head_dim,
                         .context = o->context,
                         .layer_type = "full_attention",
                         .theta_key = "rope_theta",
                         .theta = gemma3 ? 1e6 : 1e4};
    an_rotary_ask local = all;
    local.layer_type = "sliding_attention";
    local.theta_key = "rope_local_base_freq";
    local.theta = 1e4;
    local.plain = true;
    if (c->status) return;
    an_rotary_read(c, &all, &o->rope[0]);
    if (gemma3) an_rotary_read(c, &local, &o->rope[1]);
    o->rope_interleaved = an_config_bool(c, "gguf_rope_interleaved", false);
}

/* ---------------------------------------------------------------- mixtures of experts */

static void read_experts(an_config *c, const relative *r, an_llama_config *o)
{
    if (!r->experts || c->status) return;
    bool mixtral = strcmp(r->type, "mixtral") == 0;
    const char *key = an_config_has(c, "num_local_experts") ? "num_local_experts" : "num_experts";
    o->experts = (int)an_lm_config_need(c, key, 0, AN_LM_EXPERTS);
    int64_t step = an_config_int(c, "decoder_sparse_step", 1, 1, 1 << 20);
    for (int i = 0; i < o->layers; i++) o->sparse[i] = o->experts > 0 && (i + 1) % step == 0;
    const json_t *dense = json_object_get(c->json, "mlp_only_layers");
    for (size_t i = 0; i < json_array_size(dense); i++) {
        const json_t *v = json_array_get(dense, i);
        if (!json_is_integer(v)) an_config_refuse(c, "mlp_only_layers", "expected layer numbers");
        json_int_t at = json_integer_value(v);
        if (at >= 0 && at < o->layers) o->sparse[at] = false;
    }
    if (o->experts == 0) return;
    o->top_k = (int)an_lm_config_need(c, "num_experts_per_tok", 1, o->experts);
    o->expert_inner =
        mixtral ? o->inner : an_lm_config_need(c, "moe_intermediate_size", 1, 1 << 20);
    o->normalize = mixtral || an_config_bool(c, "norm_topk_prob", false);
    if (strcmp(r->type, "qwen2_moe") == 0)
        o->shared_inner = an_lm_config_need(c, "shared_expert_intermediate_size", 1, 1 << 20);
}

void an_llama_config_read(an_config *c, an_llama_config *o)
{
    *o = (an_llama_config){0};
    const char *type = an_config_str(c, "model_type", "");
    const relative *r = find(type);
    if (!r) {
        an_config_refuse(c, "model_type", "only %s are supported", AN_LLAMA_TYPES);
        return;
    }
    refuse_unsupported(c);
    read_sizes(c, r, o);
    read_activation(c, r, o);
    read_attention(c, r, o);
    read_windows(c, r, o);
    read_rope(c, r, o);
    read_experts(c, r, o);
    o->qk_norm = r->qk_norm;
    o->post_norms = r->post_norms;
    o->embed_scaled = r->gemma;
    /* llama.cpp's files have the 1 in them already */
    o->norm_plus = r->gemma && !an_config_bool(c, "gguf_norm_plus_one", false) ? 1 : 0;
    o->tied = an_config_bool(c, "tie_word_embeddings", r->gemma);
}
