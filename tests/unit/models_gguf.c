/* The golden language models as GGUF files, converted here the way llama.cpp's
 * convert_hf_to_gguf.py does (rows of q and k paired for its rotary embedding, 1 + w in Gemma's
 * norms, Conv1D turned, experts stacked): their logits are those of the folders. */
#include "gguf_build.h"
#include "models_lm_fixture.h"

#include <unistd.h>

/* ---------------------------------------------------------------- names */

typedef struct pair {
    const char *hf, *gguf;
} pair;

static const pair llama_names[] = {{"model.embed_tokens", "token_embd"},
                                   {"model.norm", "output_norm"},
                                   {"lm_head", "output"},
                                   {"input_layernorm", "attn_norm"},
                                   {"post_attention_layernorm", "ffn_norm"},
                                   {"self_attn.q_proj", "attn_q"},
                                   {"self_attn.k_proj", "attn_k"},
                                   {"self_attn.v_proj", "attn_v"},
                                   {"self_attn.o_proj", "attn_output"},
                                   {"self_attn.q_norm", "attn_q_norm"},
                                   {"self_attn.k_norm", "attn_k_norm"},
                                   {"self_attn.qkv_proj", "attn_qkv"},
                                   {"mlp.gate_proj", "ffn_gate"},
                                   {"mlp.up_proj", "ffn_up"},
                                   {"mlp.down_proj", "ffn_down"},
                                   {"mlp.gate_up_proj", "ffn_up"},
                                   {"mlp.gate", "ffn_gate_inp"},
                                   {"block_sparse_moe.gate", "ffn_gate_inp"},
                                   {NULL, NULL}};

static const pair sandwich_names[] = {{"post_attention_layernorm", "post_attention_norm"},
                                      {"pre_feedforward_layernorm", "ffn_norm"},
                                      {"post_feedforward_layernorm", "post_ffw_norm"},
                                      {NULL, NULL}};

static const pair gpt2_names[] = {{"transformer.wte", "token_embd"},
                                  {"transformer.wpe", "position_embd"},
                                  {"transformer.ln_f", "output_norm"},
                                  {"ln_1", "attn_norm"},
                                  {"ln_2", "ffn_norm"},
                                  {"attn.c_attn", "attn_qkv"},
                                  {"attn.c_proj", "attn_output"},
                                  {"mlp.c_fc", "ffn_up"},
                                  {"mlp.c_proj", "ffn_down"},
                                  {NULL, NULL}};

static const char *find(const pair *list, const char *name, size_t len)
{
    for (; list && list->hf; list++)
        if (strlen(list->hf) == len && memcmp(list->hf, name, len) == 0) return list->gguf;
    return NULL;
}

/* ---------------------------------------------------------------- one model */

typedef struct model {
    const char *name, *arch; /* of the golden folder, of the GGUF file */
    const pair *own;         /* names that win over llama_names */
    bool paired, plus_one;
} model;

static const model models[] = {
    {"llama", "llama", NULL, true, false},
    {"llama3-rope", "llama", NULL, true, false},
    {"mixtral", "llama", NULL, true, false},
    {"qwen2", "qwen2", NULL, false, false},
    {"qwen3", "qwen3", NULL, false, false},
    {"qwen3-moe", "qwen3moe", NULL, false, false},
    {"gemma2", "gemma2", sandwich_names, false, true},
    {"gemma3", "gemma3", sandwich_names, false, true},
    {"phi3", "phi3", NULL, false, false},
    {"gpt2", "gpt2", gpt2_names, false, false},
};

typedef struct conversion {
    const model *m;
    const json_t *config;
    an_weights *w;
    gguf_build g;
    an_dtype matrices; /* F32 or Q8_0 */
} conversion;

static int64_t config_int(const conversion *c, const char *key, int64_t missing)
{
    const json_t *v = json_object_get(c->config, key);
    return json_is_integer(v) ? json_integer_value(v) : missing;
}

static int64_t heads_of(const conversion *c, bool keys)
{
    return config_int(c, keys ? "num_key_value_heads" : "num_attention_heads", 1);
}

static void add_int(conversion *c, const char *key, int64_t v)
{
    char full[100];
    json_t *n = json_integer(v);
    snprintf(full, sizeof full, "%s.%s", c->m->arch, key);
    if (v >= 0) gb_value(&c->g, full, n);
    json_decref(n);
}

static void add_real(conversion *c, const char *key, double v)
{
    char full[100];
    json_t *n = json_real(v);
    snprintf(full, sizeof full, "%s.%s", c->m->arch, key);
    gb_value(&c->g, full, n);
    json_decref(n);
}

static double rope_theta(const conversion *c)
{
    const json_t *p = json_object_get(c->config, "rope_parameters");
    const json_t *full = json_object_get(p, "full_attention");
    const json_t *v = json_object_get(full ? full : p ? p : c->config, "rope_theta");
    return json_number_value(v);
}

/* llama3's scaling as divisors, by its paper's formula. */
static void add_rope_freqs(conversion *c)
{
    const json_t *s = json_object_get(c->config, "rope_scaling");
    const char *type = json_string_value(json_object_get(s, "rope_type"));
    if (!type || strcmp(type, "llama3") != 0) return;
    double factor = json_number_value(json_object_get(s, "factor"));
    double low = json_number_value(json_object_get(s, "low_freq_factor"));
    double high = json_number_value(json_object_get(s, "high_freq_factor"));
    double old = json_number_value(json_object_get(s, "original_max_position_embeddings"));
    int pairs = (int)config_int(c, "head_dim", 0) / 2;
    float f[64];
    for (int i = 0; i < pairs; i++) {
        double length = 2 * 3.14159265358979 * pow(rope_theta(c), (double)i / pairs);
        double smooth = (old / length - low) / (high - low);
        f[i] = (float)(length < old / high  ? 1
                       : length > old / low ? factor
                                            : 1 / ((1 - smooth) / factor + smooth));
    }
    an_tensor t = an_tensor_1d(f, AN_F32, pairs);
    gb_tensor(&c->g, "rope_freqs.weight", &t);
}

static void add_metadata(conversion *c)
{
    json_t *arch = json_string(c->m->arch);
    gb_value(&c->g, "general.architecture", arch);
    json_decref(arch);
    if (c->m->own == gpt2_names) {
        add_int(c, "block_count", config_int(c, "n_layer", 0));
        add_int(c, "context_length", config_int(c, "n_positions", 0));
        add_int(c, "embedding_length", config_int(c, "n_embd", 0));
        add_int(c, "feed_forward_length", 4 * config_int(c, "n_embd", 0));
        add_int(c, "attention.head_count", config_int(c, "n_head", 0));
        add_real(c, "attention.layer_norm_epsilon", 1e-5);
        return;
    }
    add_int(c, "block_count", config_int(c, "num_hidden_layers", 0));
    add_int(c, "context_length", config_int(c, "max_position_embeddings", 0));
    add_int(c, "embedding_length", config_int(c, "hidden_size", 0));
    add_int(c, "feed_forward_length", config_int(c, "intermediate_size", 0));
    add_int(c, "attention.head_count", heads_of(c, false));
    add_int(c, "attention.head_count_kv", heads_of(c, true));
    add_int(c, "attention.key_length", config_int(c, "head_dim", -1));
    add_int(c, "attention.sliding_window", config_int(c, "sliding_window", -1));
    add_real(c, "attention.layer_norm_rms_epsilon",
             json_number_value(json_object_get(c->config, "rms_norm_eps")));
    add_real(c, "rope.freq_base", rope_theta(c));
    add_int(c, "expert_count", config_int(c, "num_local_experts", -1));
    add_int(c, "expert_used_count", config_int(c, "num_experts_per_tok", -1));
    add_int(c, "expert_feed_forward_length", config_int(c, "moe_intermediate_size", -1));
}

/* ---------------------------------------------------------------- tensors */

/* Blocks of 32 as llama.cpp quantises them: the largest becomes 127. */
static void *to_q8_0(const float *f, int64_t count)
{
    unsigned char *out = malloc((size_t)count / 32 * 34);
    for (int64_t b = 0; b < count / 32; b++, f += 32) {
        float most = 0;
        for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(f[i]));
        uint16_t scale = an_f32_to_f16(most / 127);
        memcpy(out + b * 34, &scale, 2);
        for (int i = 0; i < 32; i++)
            out[b * 34 + 2 + i] = (unsigned char)(int8_t)(most > 0 ? roundf(f[i] / most * 127) : 0);
    }
    return out;
}

static void add_floats(conversion *c, const char *name, an_tensor *t)
{
    /* llama.cpp's quantiser leaves routers and positions as they are */
    bool whole = strstr(name, "ffn_gate_inp") || strstr(name, "position_embd");
    bool blocks = c->matrices == AN_Q8_0 && !whole && t->ndim > 1 && t->dim[t->ndim - 1] % 32 == 0;
    float *f = t->data;
    if (blocks) t->data = to_q8_0(f, an_tensor_count(t));
    t->dtype = blocks ? AN_Q8_0 : AN_F32;
    gb_tensor(&c->g, name, t);
    if (blocks) free(t->data);
    free(f);
}

/* f[rows, columns] with row 2i+j of a head from row j*half+i. */
static void pair_rows(float *f, int64_t rows, int64_t columns, int64_t heads)
{
    size_t bytes = (size_t)(rows * columns) * sizeof *f, row = (size_t)columns * sizeof *f;
    float *was = malloc(bytes);
    memcpy(was, f, bytes);
    int64_t d = rows / heads, half = d / 2;
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < d; i++)
            memcpy(f + (h * d + i) * columns, was + (h * d + i % 2 * half + i / 2) * columns, row);
    free(was);
}

static void turn(float *f, an_tensor *t)
{
    int64_t rows = t->dim[0], columns = t->dim[1];
    size_t bytes = (size_t)(rows * columns) * sizeof *f;
    float *was = malloc(bytes);
    memcpy(was, f, bytes);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < columns; k++) f[k * rows + r] = was[r * columns + k];
    t->dim[0] = columns;
    t->dim[1] = rows;
    free(was);
}

/* The values of a tensor, malloc'd, changed as the converter changes them. */
static an_tensor values_of(conversion *c, const char *name)
{
    an_tensor t;
    if (!an_weights_find(c->w, name, &t)) {
        printf("no %s\n", name);
        exit(1);
    }
    int64_t n = an_tensor_count(&t);
    float *f = malloc((size_t)n * sizeof *f);
    if (an_tensor_to_f32(&t, f, NULL) != AN_OK) exit(1);
    t.data = f;
    t.dtype = AN_F32;
    bool k = strstr(name, "k_proj");
    if (c->m->paired && (k || strstr(name, "q_proj")))
        pair_rows(f, t.dim[0], n / t.dim[0], heads_of(c, k));
    if (c->m->plus_one && an_ends_with(name, "norm.weight"))
        for (int64_t i = 0; i < n; i++) f[i] += 1;
    if (c->m->own == gpt2_names && t.ndim == 2 && strstr(name, ".c_")) turn(f, &t);
    return t;
}

/* All experts of a layer in one tensor, when their first comes by. */
static void add_experts(conversion *c, const char *layer, const char *first)
{
    static const pair part[] = {{"gate_proj", "ffn_gate_exps"}, {"up_proj", "ffn_up_exps"},
                                {"down_proj", "ffn_down_exps"}, {"w1", "ffn_gate_exps"},
                                {"w3", "ffn_up_exps"},          {"w2", "ffn_down_exps"}};
    const char *at = strstr(first, ".experts.0.");
    int64_t experts = config_int(c, "num_local_experts", 0);
    if (!at) return;
    for (size_t p = 0; p < sizeof part / sizeof part[0]; p++) {
        size_t len = strlen(part[p].hf);
        if (strncmp(at + 11, part[p].hf, len) != 0 || at[11 + len] != '.') continue;
        an_tensor all = {0};
        for (int64_t e = 0; e < experts; e++) {
            char name[200];
            snprintf(name, sizeof name, "%.*s.experts.%lld.%s.weight", (int)(at - first), first,
                     (long long)e, part[p].hf);
            an_tensor one = values_of(c, name);
            size_t bytes = an_tensor_bytes(&one);
            if (e == 0)
                all = an_tensor_3d(malloc(bytes * (size_t)experts), AN_F32, experts, one.dim[0],
                                   one.dim[1]);
            memcpy((char *)all.data + (size_t)e * bytes, one.data, bytes);
            free(one.data);
        }
        char name[100];
        snprintf(name, sizeof name, "blk.%s.%s.weight", layer, part[p].gguf);
        add_floats(c, name, &all);
    }
}

static void add_tensor(conversion *c, const char *name)
{
    const char *tail = strrchr(name, '.'), *part = name;
    char layer[16] = "", full[200];
    const char *prefix = c->m->own == gpt2_names ? "transformer.h." : "model.layers.";
    if (strncmp(name, prefix, strlen(prefix)) == 0) {
        part = name + strlen(prefix);
        size_t digits = strspn(part, "0123456789");
        snprintf(layer, sizeof layer, "%.*s", (int)digits, part);
        part += digits + 1;
    }
    if (strstr(part, ".experts.")) {
        add_experts(c, layer, name);
        return;
    }
    const char *gguf = find(c->m->own, part, (size_t)(tail - part));
    if (!gguf) gguf = find(llama_names, part, (size_t)(tail - part));
    CHECK_MSG(gguf, "%s: no name for %s", c->m->name, name);
    if (!gguf) return;
    snprintf(full, sizeof full, "%s%s%s%s%s", *layer ? "blk." : "", layer, *layer ? "." : "", gguf,
             tail);
    an_tensor t = values_of(c, name);
    add_floats(c, full, &t);
}

static bool convert(const model *m, an_dtype matrices, const char *path)
{
    char folder[512];
    an_checkpoint *from;
    an_error err = {0};
    conversion c = {.m = m, .matrices = matrices};
    snprintf(folder, sizeof folder, "%s/llm/%s/model", AN_GOLDEN, m->name);
    bool ok = an_checkpoint_open(folder, &from, &err) == AN_OK &&
              an_checkpoint_weights(from, "model", &c.w, &err) == AN_OK;
    CHECK_MSG(ok, "%s", err.message);
    if (!ok) return false;
    c.config = an_checkpoint_config(from, "model");
    gb_begin(&c.g);
    add_metadata(&c);
    add_rope_freqs(&c);
    for (int i = 0; i < an_weights_count(c.w); i++) add_tensor(&c, an_weights_name(c.w, i));
    gb_write(&c.g, path);
    gb_free(&c.g);
    an_checkpoint_close(from);
    return true;
}

/* ---------------------------------------------------------------- logits */

/* bound: of the greatest difference; in blocks, of its root mean square beside that of the logits.
 */
static void check(const model *m, an_dtype matrices, double bound)
{
    lm f = {0};
    char path[] = "/tmp/anneal-gguf-XXXXXX", golden[512];
    an_tensor ids, want;
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    close(fd);
    snprintf(f.name, sizeof f.name, "%s in %s", m->name, an_dtype_name(matrices));
    snprintf(golden, sizeof golden, "%s/llm/%s/expected.safetensors", AN_GOLDEN, m->name);
    if (convert(m, matrices, path) && lm_open_path(&f, path, "cpu", AN_F32, LM_BLOCKS, 16 << 20) &&
        opened_ok(&f.open, an_weights_open(golden, &f.golden, &f.err), "golden") &&
        opened_tensor(&f.open, "input_ids", &ids) && opened_tensor(&f.open, "logits", &want)) {
        int n = (int)ids.dim[1], vocab = (int)want.dim[2];
        float *logits = malloc((size_t)n * (size_t)vocab * sizeof *logits);
        sequence s = sequence_of(&f, ids.data, n);
        lm_feed(&f, &s, n, n, logits);
        double most = 0, sum = 0, all = 0;
        for (int64_t i = 0; i < (int64_t)n * vocab; i++) {
            double x = (double)((const float *)want.data)[i], d = fabs((double)logits[i] - x);
            if (!(d <= most)) most = d; /* NaN stays */
            sum += d * d;
            all += x * x;
        }
        double e = matrices == AN_F32 ? most : sqrt(sum / all);
        CHECK_MSG(e <= bound, "%s: logits differ by %.3g, allowed %.3g", f.name, e, bound);
        printf("  %s: logits differ by %.3g\n", f.name, e);
        free(logits);
    }
    lm_close(&f);
    unlink(path);
}

TEST(logits_of_gguf_files)
{
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) check(&models[i], AN_F32, 1e-4);
}

/* Matrices in blocks: near the golden ones, by what eight bits leave; that of a mixture less so,
 * where a router of random weights chooses another expert. */
TEST(logits_of_blocks)
{
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        bool mixture = strstr(models[i].name, "mo") || strstr(models[i].name, "mix");
        check(&models[i], AN_Q8_0, mixture ? 0.3 : 0.08);
    }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
