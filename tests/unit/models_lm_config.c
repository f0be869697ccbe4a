/* Configs of language models: what hub files look like is read, what would be served wrongly is
 * refused by key and value, and no number of a stranger's file reaches arithmetic unchecked. Then
 * what is said of a model beside its weights: end tokens, sampling defaults, chat template. */
#include "anneal/model.h"
#include "models/llama.h"
#include "test.h"

#include <jansson.h>
#include <unistd.h>

#define SMALL                                                                                      \
    "\"vocab_size\":512,\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":3,"     \
    "\"num_attention_heads\":4,\"max_position_embeddings\":512"

/* A config with more keys; later ones win, so that a key can be changed. */
static an_status read_config(const char *type, const char *more, an_llama_config *out,
                             an_error *err)
{
    char text[4096];
    snprintf(text, sizeof text, "{\"model_type\":\"%s\",%s}", type, SMALL);
    json_t *j = json_loads(text, 0, NULL), *change = json_loads(more, 0, NULL);
    if (!j || !change) {
        printf("  bad JSON in the test: %s\n", more);
        exit(1);
    }
    json_object_update(j, change);
    an_config c = an_config_open(j, "config.json", err);
    an_llama_config_read(&c, out);
    json_decref(j);
    json_decref(change);
    return c.status;
}

static void refused(const char *type, const char *more, const char *says)
{
    an_llama_config k;
    an_error err = {.message = ""};
    an_status s = read_config(type, more, &k, &err);
    CHECK_MSG(s == AN_INVALID && strstr(err.message, says), "%s %s: '%s', expected '%s'", type,
              more, err.message, says);
}

static an_llama_config taken(const char *type, const char *more)
{
    an_llama_config k;
    an_error err = {.message = ""};
    an_status s = read_config(type, more, &k, &err);
    CHECK_MSG(s == AN_OK, "%s %s: %s", type, more, err.message);
    return k;
}

TEST(numbers_out_of_bounds_are_refused)
{
    static const char *const key[] = {"vocab_size",          "hidden_size",
                                      "intermediate_size",   "num_hidden_layers",
                                      "num_attention_heads", "max_position_embeddings"};
    static const char *const value[] = {"0",    "-1",   "9223372036854775807", "1e30", "2.5",
                                        "\"\"", "null", "4294967297",          "[64]", "{}"};
    char more[128];
    for (size_t k = 0; k < sizeof key / sizeof *key; k++)
        for (size_t v = 0; v < sizeof value / sizeof *value; v++) {
            snprintf(more, sizeof more, "{\"%s\":%s}", key[k], value[v]);
            refused("llama", more, key[k]);
        }
    refused("llama", "{\"num_key_value_heads\":0}", "num_key_value_heads is 0");
    refused("llama", "{\"num_key_value_heads\":3}", "divisor of the 4 heads");
    refused("llama", "{\"num_key_value_heads\":8}", "num_key_value_heads is 8");
    refused("llama", "{\"hidden_size\":63}", "hidden_size 63 cannot be split");
    refused("llama", "{\"head_dim\":513}", "head_dim is 513");
    refused("llama", "{\"head_dim\":-16}", "head_dim is -16");
    refused("llama", "{\"head_dim\":15}", "even number");
    refused("llama", "{\"rms_norm_eps\":-1}", "rms_norm_eps is -1");
    refused("gemma2", "{\"query_pre_attn_scalar\":0}", "query_pre_attn_scalar is 0");
    refused("mistral", "{\"sliding_window\":-4}", "sliding_window is -4");
}

TEST(what_is_not_served_is_refused_by_name)
{
    refused("bert", "{}", "model_type is \"bert\": only llama, mistral");
    refused("llama", "{\"hidden_act\":\"relu\"}", "hidden_act is \"relu\"");
    refused("llama", "{\"quantization_config\":{\"bits\":4}}",
            "quantization_config is {\"bits\":4}");
    refused("llama",
            "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[64,64]}}",
            "blocks of 128 x 128");
    refused("gemma3", "{\"vision_config\":{}}", "vision_config is {}: only null");
    refused("gemma2", "{\"layer_types\":[\"full_attention\"]}", "a list of 3");
    refused("gemma2", "{\"layer_types\":[\"full_attention\",\"linear_attention\",3]}",
            "full_attention or sliding_attention");
    refused("llama", "{\"rope_scaling\":{\"type\":\"mrope\"}}", "type is \"mrope\"");
    refused("llama", "{\"rope_scaling\":[1]}", "rope_scaling");
    refused("llama", "{\"rope_scaling\":{\"type\":\"linear\"}}", "factor is absent");
    refused("llama", "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", "factor is 0");
    refused("llama",
            "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4}}",
            "more than low_freq_factor");
    refused("llama", "{\"rope_theta\":0}", "rope_theta is 0");
    refused("llama", "{\"partial_rotary_factor\":0.01}", "0 of 16 elements");
    refused("phi3",
            "{\"rope_scaling\":{\"type\":\"su\",\"long_factor\":[1,2]},"
            "\"original_max_position_embeddings\":64}",
            "long_factor is [1,2]: expected 8");
    refused("phi3",
            "{\"rope_scaling\":{\"type\":\"su\",\"long_factor\":[1,2,3,4,0,6,7,8]},"
            "\"original_max_position_embeddings\":64}",
            "positive numbers");
}

TEST(mixtures_out_of_bounds_are_refused)
{
    refused("mixtral", "{}", "num_experts is absent");
    refused("mixtral", "{\"num_local_experts\":100000}", "num_local_experts is 100000");
    refused("mixtral", "{\"num_local_experts\":8}", "num_experts_per_tok is absent");
    refused("mixtral", "{\"num_local_experts\":8,\"num_experts_per_tok\":9}",
            "num_experts_per_tok is 9");
    refused("qwen2_moe", "{\"num_experts\":8,\"num_experts_per_tok\":2}", "moe_intermediate_size");
    refused("qwen2_moe",
            "{\"num_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":64}",
            "shared_expert_intermediate_size is absent");
    refused("qwen3_moe",
            "{\"num_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":64,"
            "\"decoder_sparse_step\":0}",
            "decoder_sparse_step is 0");
    refused("qwen3_moe",
            "{\"num_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":64,"
            "\"mlp_only_layers\":[1,\"2\"]}",
            "mlp_only_layers");
    an_llama_config k = taken("qwen3_moe", "{\"num_experts\":8,\"num_experts_per_tok\":2,"
                                           "\"moe_intermediate_size\":64,\"head_dim\":32,"
                                           "\"mlp_only_layers\":[1,77,-5]}");
    CHECK(k.sparse[0] && !k.sparse[1] && k.sparse[2] && !k.normalize && k.qk_norm);
}

TEST(spellings_of_the_hub)
{
    an_llama_config k = taken("llama", "{\"num_key_value_heads\":null,\"head_dim\":null}");
    CHECK(k.kv_heads == 4 && k.head_dim == 16 && !k.tied && k.act == AN_ACT_SWIGLU);
    k = taken("mistral", "{}"); /* a missing key is transformers' default, null is none */
    CHECK(k.window[0] == 4096 && k.window[2] == 4096);
    k = taken("mistral", "{\"sliding_window\":null}");
    CHECK(k.window[0] == 0);
    k = taken("qwen2", "{\"sliding_window\":32768,\"use_sliding_window\":false}");
    CHECK(k.window[2] == 0 && k.qkv_bias);
    k = taken("gemma", "{\"hidden_act\":\"gelu\",\"hidden_activation\":null}");
    CHECK(k.act == AN_ACT_GEGLU_TANH && k.head_dim == 256 && k.tied && k.norm_plus == 1);
    k = taken("gemma2", "{\"gguf_norm_plus_one\":true}");
    CHECK(k.norm_plus == 0 && k.window[0] == 4096 && k.window[1] == 0 && k.window[2] == 4096);
    CHECK(k.score_cap == 50 && k.logit_cap == 30 && k.scale == 1.0f / 16 && k.post_norms);
    k = taken("gemma2", "{\"attn_logit_softcapping\":null,\"final_logit_softcapping\":20}");
    CHECK(k.score_cap == 0 && k.logit_cap == 20);
    k = taken("gemma3_text", "{\"num_hidden_layers\":7,\"rope_theta\":1000000.0,"
                             "\"rope_local_base_freq\":10000.0,\"sliding_window\":512,"
                             "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}}");
    CHECK(k.window[4] == 512 && k.window[5] == 0 && k.local[4] && !k.local[5]);
    CHECK(k.rope[0].theta == 1e6 && k.rope[1].theta == 1e4);
    CHECK(k.rope[0].inv_freq[0] == 0.125f && k.rope[1].inv_freq[0] == 1); /* local ones stay */
    k = taken("phi3", "{\"rope_scaling\":null,\"partial_rotary_factor\":0.75}");
    CHECK(k.rope[0].rot_dim == 12 && k.rope[0].mscale == 1);
}

/* ---------------------------------------------------------------- folders */

/* A copy of a golden model's folder with some files written anew. */
typedef struct folder {
    char path[64];
} folder;

static void put(const folder *d, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", d->path, name);
    (void)unlink(path);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0);
    if (f) fclose(f);
}

static folder folder_of(const char *golden)
{
    static const char *const file[] = {"config.json", "model.safetensors"};
    folder d = {"/tmp/anneal_lm_XXXXXX"};
    CHECK(mkdtemp(d.path) != NULL);
    for (int i = 0; i < 2; i++) {
        char from[512], to[256];
        snprintf(from, sizeof from, "%s/llm/%s/model/%s", AN_GOLDEN, golden, file[i]);
        snprintf(to, sizeof to, "%s/%s", d.path, file[i]);
        CHECK(symlink(from, to) == 0);
    }
    return d;
}

static void folder_remove(const folder *d)
{
    static const char *const file[] = {
        "config.json",           "model.safetensors",   "generation_config.json",
        "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
        "tokenizer.json"};
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", d->path, file[i]);
        (void)unlink(path);
    }
    (void)rmdir(d->path);
}

static an_status probe(const folder *d, an_model_info *info, an_error *err)
{
    an_checkpoint *c = NULL;
    an_status s = an_checkpoint_open(d->path, &c, err);
    if (!s) s = an_model_probe(c, info, err);
    an_checkpoint_close(c);
    return s;
}

TEST(info_of_a_folder)
{
    folder d = folder_of("llama");
    an_model_info info;
    an_error err = {.message = ""};
    put(&d, "generation_config.json",
        "{\"eos_token_id\":[2,7],\"temperature\":0.6,\"top_p\":0.9,\"do_sample\":true}");
    put(&d, "tokenizer_config.json", "{\"add_bos_token\":true,\"chat_template\":\"x\"}");
    CHECK_MSG(probe(&d, &info, &err) == AN_OK, "%s", err.message);
    CHECK(info.kind == AN_KIND_TEXT && info.vocab == 512 && info.layers == 3);
    CHECK(info.kv_heads == 2 && info.head_dim == 16 && info.context_len == 512);
    CHECK(info.bos == 1 && info.n_eos == 2 && info.eos[0] == 2 && info.eos[1] == 7);
    CHECK(info.eos[2] == -1 && info.add_bos && !info.has_tokenizer && info.has_chat_template);
    CHECK_NEAR(info.temperature, 0.6, 1e-6);
    CHECK_NEAR(info.top_p, 0.9, 1e-6);
    CHECK(info.top_k == -1 && info.weight_bytes_file > 300000);
    CHECK_STR(info.family, "llama");
    CHECK_STR(info.class_name, "LlamaForCausalLM");

    static const struct {
        const char *text, *says;
    } bad[] = {{"{\"eos_token_id\":512}", "eos_token_id is 512"},
               {"{\"eos_token_id\":[2,\"x\"]}", "eos_token_id"},
               {"{\"eos_token_id\":[3,4,5,6,7,8,9,10,11]}", "at most 8"},
               {"{\"temperature\":-1}", "generation_config.json: temperature is -1"},
               {"{\"top_p\":2}", "top_p is 2"},
               {"{\"top_k\":1e99}", "top_k"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(&d, "generation_config.json", bad[i].text);
        an_status s = probe(&d, &info, &err);
        CHECK_MSG(s == AN_INVALID && strstr(err.message, bad[i].says), "%s: %s", bad[i].text,
                  err.message);
    }
    folder_remove(&d);
}

static void template_is(const folder *d, const char *source, const char *bos, const char *eos)
{
    an_checkpoint *c = NULL;
    an_error err = {.message = ""};
    char *s = NULL, *b = NULL, *e = NULL;
    an_status status = an_checkpoint_open(d->path, &c, &err);
    if (!status) status = an_model_chat_template(c, &s, &b, &e, &err);
    if (source) {
        CHECK_MSG(status == AN_OK, "%s", err.message);
        CHECK_STR(s, source);
        CHECK_STR(b, bos);
        CHECK_STR(e, eos);
    } else {
        CHECK(status == AN_NOT_FOUND && !s && !b && !e);
    }
    free(s);
    free(b);
    free(e);
    an_checkpoint_close(c);
}

TEST(chat_template_wherever_it_lies)
{
    folder d = folder_of("llama");
    template_is(&d, NULL, NULL, NULL);
    put(&d, "tokenizer_config.json",
        "{\"chat_template\":\"one\",\"bos_token\":\"<s>\","
        "\"eos_token\":{\"content\":\"</s>\",\"lstrip\":false}}");
    template_is(&d, "one", "<s>", "</s>");
    put(&d, "tokenizer_config.json",
        "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"r\"},"
        "{\"name\":\"default\",\"template\":\"two\"}],\"bos_token\":null}");
    template_is(&d, "two", "", "");
    put(&d, "special_tokens_map.json", "{\"eos_token\":\"<end>\"}");
    template_is(&d, "two", "", "<end>");
    put(&d, "tokenizer_config.json", "{\"chat_template\":[3,{\"name\":4},{}]}");
    template_is(&d, NULL, NULL, NULL);
    put(&d, "chat_template.jinja", "three");
    template_is(&d, "three", "", "<end>");
    folder_remove(&d);
}

/* Loads a golden model's weights with one key of its config changed; what it must say. */
static void load_changed(an_device *dev, const char *golden, const char *key, json_t *value,
                         const char *says)
{
    folder d = folder_of(golden);
    an_error err = {.message = ""};
    an_checkpoint *c = NULL;
    an_model *m = NULL;
    char path[512];
    snprintf(path, sizeof path, "%s/llm/%s/model/config.json", AN_GOLDEN, golden);
    json_t *j = json_load_file(path, 0, NULL);
    json_object_set_new(j, key, value);
    char *dump = json_dumps(j, 0);
    put(&d, "config.json", dump);
    CHECK(an_checkpoint_open(d.path, &c, &err) == AN_OK);
    an_status s = an_model_load(dev, c, AN_F32, AN_F32, NULL, NULL, &m, &err);
    CHECK_MSG(s == AN_INVALID && !m && strstr(err.message, says), "%s: %s: %s, expected '%s'",
              golden, key, err.message, says);
    an_checkpoint_close(c);
    free(dump);
    json_decref(j);
    folder_remove(&d);
}

/* What a file of other shapes says: the tensor's whole name and both shapes. */
TEST(shapes_are_named)
{
    an_device *dev = NULL;
    an_error err;
    CHECK(an_device_open(NULL, &dev, &err) == AN_OK);
#define CHANGED(golden, key, value, says) load_changed(dev, golden, key, json_integer(value), says)
    CHANGED("llama", "num_key_value_heads", 1,
            "model.layers.0.self_attn.k_proj.weight: shape [32,64], expected [16,64]");
    CHANGED("llama", "vocab_size", 1 << 24,
            "model/lm_head.weight: shape [512,64], expected [16777216,64]");
    CHANGED("llama", "hidden_size", 1 << 17,
            "input_layernorm.weight: shape [64], expected [131072]");
    CHANGED("llama", "intermediate_size", 1 << 20,
            "model.layers.0.mlp.gate_proj.weight: shape [128,64], expected [1048576,64]");
    CHANGED("llama", "num_hidden_layers", 256, "model.layers.3.");
    CHANGED("llama", "head_dim", 512, "model.layers.0.self_attn.q_proj.weight");
    CHANGED("llama3-rope", "tie_word_embeddings", 0, "tie_word_embeddings is 0");
    load_changed(dev, "llama3-rope", "tie_word_embeddings", json_false(), "lm_head.weight");
    CHANGED("mixtral", "num_local_experts", 1024, "block_sparse_moe.gate.weight");
    CHANGED("qwen3-moe", "moe_intermediate_size", 47, "experts.0.gate_proj.weight");
    CHANGED("qwen2-moe-stacked", "moe_intermediate_size", 23,
            "experts.gate_up_proj: shape [5,48,32], expected [5,46,32]");
    CHANGED("gpt2", "n_inner", 1 << 20, "transformer.h.0.mlp.c_fc.weight");
    CHANGED("gpt2", "n_positions", 255, "transformer.wpe.weight: shape [256,64], expected");
    CHANGED("gpt2", "n_head", 3, "n_head is 3: n_embd 64 cannot be split");
    CHANGED("gpt2", "activation_function", 1, "activation_function is 1: expected a string");
    CHECK_MSG(an_device_bytes_live(dev) == 0, "%zu bytes left", an_device_bytes_live(dev));
    an_device_close(dev);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
