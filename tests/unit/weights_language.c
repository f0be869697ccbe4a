/* Language models on disk: GGUF metadata as Hugging Face's configs, its tensors under Hugging
 * Face's names, split sets, folders with the prefixes of the hub, and SmolLM2 as it is fetched. */
#include "gguf_build.h"
#include "test.h"
#include "weights_files.h"

/* ---------------------------------------------------------------- a small file of an architecture
 */

/* Metadata that every file has; keys of `more` come on top and win. */
static void add_metadata(gguf_build *g, const char *arch, const char *more)
{
    static const char *const common[] = {"embedding_length", "block_count", "context_length",
                                         "feed_forward_length", "attention.head_count"};
    static const int value[] = {64, 3, 512, 128, 4};
    char key[100];
    json_t *doc = json_object(), *own = json_loads(more, 0, NULL), *v;
    const char *name;
    if (!own) abort();
    json_object_set_new(doc, "general.architecture", json_string(arch));
    for (int i = 0; i < 5; i++) {
        snprintf(key, sizeof key, "%s.%s", arch, common[i]);
        json_object_set_new(doc, key, json_integer(value[i]));
    }
    json_object_foreach(own, name, v)
    {
        snprintf(key, sizeof key, "%s%s", *name == '.' ? arch : "", name);
        if (json_is_null(v))
            json_object_del(doc, key);
        else
            json_object_set(doc, key, v);
    }
    json_object_foreach(doc, name, v) gb_value(g, name, v);
    json_decref(doc);
    json_decref(own);
}

/* Zeros in F32. */
static void add_tensor(gguf_build *g, const char *name, int64_t rows, int64_t columns)
{
    an_tensor t =
        rows ? an_tensor_2d(NULL, AN_F32, rows, columns) : an_tensor_1d(NULL, AN_F32, columns);
    gb_tensor(g, name, &t);
}

static an_checkpoint *open_file(const gguf_build *g, an_error *err)
{
    an_checkpoint *c;
    const char *path = files_path("m.gguf");
    gb_write(g, path);
    *err = (an_error){0};
    return an_checkpoint_open(path, &c, err) == AN_OK ? c : NULL;
}

/* Every key of the JSON text is so in the config; null: is null or missing. */
static void check_config(const char *what, const json_t *config, const char *json)
{
    json_error_t e;
    json_t *want = json_loads(json, 0, &e), *v;
    const char *key;
    if (!want) {
        CHECK_MSG(want, "%s: %s", json, e.text);
        return;
    }
    json_object_foreach(want, key, v)
    {
        const json_t *have = json_object_get(config, key);
        bool same = json_is_real(v) && json_is_real(have)
                        ? fabs(json_real_value(v) / json_real_value(have) - 1) < 1e-6
                        : json_equal(v, have);
        char *text = have ? json_dumps(have, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
        CHECK_MSG(same || (json_is_null(v) && !have), "%s: %s is %s, expected %s", what, key,
                  text ? text : "missing", json);
        free(text);
    }
    json_decref(want);
}

/* ---------------------------------------------------------------- configs */

static const struct {
    const char *arch, *metadata, *tensors; /* more tensors, 64 columns each, "name:rows," */
    const char *cls, *config;
} configs[] = {
    {"llama", "{\"tokenizer.ggml.bos_token_id\":1,\"tokenizer.ggml.eos_token_id\":2}", "",
     "LlamaForCausalLM",
     "{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":3,"
     "\"num_attention_heads\":4,\"num_key_value_heads\":4,\"head_dim\":16,"
     "\"intermediate_size\":128,\"max_position_embeddings\":512,\"vocab_size\":8,"
     "\"tie_word_embeddings\":true,\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-6,"
     "\"rope_theta\":10000.0,\"rope_scaling\":null,\"attention_bias\":false,"
     "\"gguf_rope_interleaved\":true,\"bos_token_id\":1,\"eos_token_id\":2,\"pad_token_id\":null,"
     "\"sliding_window\":null,\"gguf_norm_plus_one\":null}"},
    {"llama",
     "{\".attention.head_count_kv\":2,\".rope.freq_base\":500000.0,"
     "\".attention.layer_norm_rms_epsilon\":1e-5,\"tokenizer.ggml.padding_token_id\":4294967295}",
     "output.weight:8,blk.0.attn_q.bias:0,", "LlamaForCausalLM",
     "{\"num_key_value_heads\":2,\"rope_theta\":500000.0,\"rms_norm_eps\":1e-5,"
     "\"tie_word_embeddings\":false,\"attention_bias\":true,\"pad_token_id\":null}"},
    {"llama", "{\".attention.head_count_kv\":[2,2,2],\".feed_forward_length\":[96,96,96]}", "",
     "LlamaForCausalLM", "{\"num_key_value_heads\":2,\"intermediate_size\":96}"},
    {"llama", "{\".rope.scaling.type\":\"linear\",\".rope.scaling.factor\":4.0}", "",
     "LlamaForCausalLM", "{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}}"},
    {"llama", "{\".rope.scale_linear\":2.0}", "", "LlamaForCausalLM",
     "{\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2.0}}"},
    {"llama", "{\".attention.sliding_window\":24}", "", "MistralForCausalLM",
     "{\"model_type\":\"mistral\",\"sliding_window\":24}"},
    {"llama", "{\".expert_count\":4,\".expert_used_count\":2}", "", "MixtralForCausalLM",
     "{\"model_type\":\"mixtral\",\"num_local_experts\":4,\"num_experts_per_tok\":2,"
     "\"intermediate_size\":128,\"gguf_rope_interleaved\":true}"},
    {"qwen2",
     "{\".rope.scaling.type\":\"yarn\",\".rope.scaling.factor\":4.0,"
     "\".rope.scaling.original_context_length\":128}",
     "", "Qwen2ForCausalLM",
     "{\"model_type\":\"qwen2\",\"gguf_rope_interleaved\":null,\"rope_scaling\":{\"rope_type\":"
     "\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":128}}"},
    {"qwen3", "{\".attention.key_length\":32,\".attention.value_length\":32}", "",
     "Qwen3ForCausalLM", "{\"model_type\":\"qwen3\",\"head_dim\":32}"},
    {"qwen2moe",
     "{\".expert_count\":4,\".expert_used_count\":2,\".expert_feed_forward_length\":48}",
     "blk.0.ffn_up_shexp.weight:96,", "Qwen2MoeForCausalLM",
     "{\"model_type\":\"qwen2_moe\",\"num_experts\":4,\"moe_intermediate_size\":48,"
     "\"shared_expert_intermediate_size\":96,\"norm_topk_prob\":false}"},
    {"qwen3moe",
     "{\".expert_count\":4,\".expert_used_count\":2,\".expert_feed_forward_length\":48}", "",
     "Qwen3MoeForCausalLM",
     "{\"model_type\":\"qwen3_moe\",\"num_experts\":4,\"moe_intermediate_size\":48,"
     "\"norm_topk_prob\":true,\"mlp_only_layers\":[]}"},
    {"gemma", "{\".attention.key_length\":32}", "", "GemmaForCausalLM",
     "{\"model_type\":\"gemma\",\"hidden_activation\":\"gelu_pytorch_tanh\",\"head_dim\":32,"
     "\"gguf_norm_plus_one\":true,\"query_pre_attn_scalar\":null}"},
    {"gemma2", "{\".attention.key_length\":32,\".attention.sliding_window\":24}", "",
     "Gemma2ForCausalLM",
     "{\"model_type\":\"gemma2\",\"attn_logit_softcapping\":50.0,\"final_logit_softcapping\":30.0,"
     "\"query_pre_attn_scalar\":32,\"sliding_window\":24,\"layer_types\":[\"sliding_attention\","
     "\"full_attention\",\"sliding_attention\"]}"},
    {"gemma2", "{\".block_count\":46,\".attention.key_length\":32}", "", "Gemma2ForCausalLM",
     "{\"query_pre_attn_scalar\":16}"}, /* 27B: hidden / heads */
    {"gemma3",
     "{\".block_count\":7,\".attention.key_length\":32,\".rope.freq_base\":1000000.0,"
     "\".rope.scaling.type\":\"linear\",\".rope.scaling.factor\":8.0,"
     "\".attention.sliding_window\":24}",
     "", "Gemma3ForCausalLM",
     "{\"model_type\":\"gemma3_text\",\"attn_logit_softcapping\":null,\"rope_theta\":1000000.0,"
     "\"rope_local_base_freq\":10000.0,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0},"
     "\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"sliding_attention\","
     "\"sliding_attention\",\"sliding_attention\",\"full_attention\",\"sliding_attention\"]}"},
    {"gemma3", "{\".attention.key_length\":32}", "", "Gemma3ForCausalLM",
     "{\"sliding_window\":null,\"layer_types\":[\"full_attention\",\"full_attention\","
     "\"full_attention\"]}"},
    {"gemma3",
     "{\".attention.sliding_window\":24,\".attention.sliding_window_pattern\":[false,true,false]}",
     "", "Gemma3ForCausalLM",
     "{\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"]}"},
    {"phi3", "{\".rope.dimension_count\":12,\".attention.sliding_window\":24}", "output.weight:8,",
     "Phi3ForCausalLM",
     "{\"model_type\":\"phi3\",\"partial_rotary_factor\":0.75,\"sliding_window\":24}"},
    {"gpt2", "{\".attention.layer_norm_epsilon\":1e-5}", "", "GPT2LMHeadModel",
     "{\"model_type\":\"gpt2\",\"n_embd\":64,\"n_layer\":3,\"n_head\":4,\"n_positions\":512,"
     "\"n_inner\":128,\"layer_norm_epsilon\":1e-5,\"activation_function\":\"gelu_new\","
     "\"vocab_size\":8,\"gguf_conv1d_transposed\":true}"},
};

static void add_listed(gguf_build *g, const char *list)
{
    char name[100];
    long long rows;
    int used;
    for (; sscanf(list, "%99[^:]:%lld,%n", name, &rows, &used) == 2; list += used)
        add_tensor(g, name, rows, 64);
}

TEST(configs_of_every_architecture)
{
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        gguf_build g;
        an_error err;
        gb_begin(&g);
        add_metadata(&g, configs[i].arch, configs[i].metadata);
        add_tensor(&g, "token_embd.weight", 8, 64);
        add_listed(&g, configs[i].tensors);
        an_checkpoint *c = open_file(&g, &err);
        gb_free(&g);
        CHECK_MSG(c, "%s %s: %s", configs[i].arch, configs[i].metadata, err.message);
        if (!c) continue;
        CHECK(an_checkpoint_layout(c) == AN_LAYOUT_GGUF);
        CHECK_STR(an_checkpoint_class(c), configs[i].cls);
        check_config(configs[i].arch, an_checkpoint_config(c, "model"), configs[i].config);
        CHECK_STR(json_string_value(
                      json_object_get(an_checkpoint_config(c, "gguf"), "general.architecture")),
                  configs[i].arch);
        an_checkpoint_close(c);
    }
}

TEST(ends_of_an_answer)
{
    gguf_build g;
    an_error err;
    gb_begin(&g);
    add_metadata(&g, "llama",
                 "{\"tokenizer.ggml.eos_token_id\":2,\"tokenizer.ggml.eot_token_id\":5,"
                 "\"tokenizer.ggml.eom_token_id\":2,\"tokenizer.ggml.bos_token_id\":8}");
    add_tensor(&g, "token_embd.weight", 8, 64);
    an_checkpoint *c = open_file(&g, &err);
    gb_free(&g);
    REQUIRE(c);
    check_config("generation", an_checkpoint_config(c, "generation"),
                 "{\"eos_token_id\":[2,5],\"bos_token_id\":null}");
    an_checkpoint_close(c);
}

TEST(longrope)
{
    gguf_build g;
    an_error err;
    float factor[8] = {1, 1.5f, 2, 3, 4, 5, 6, 7};
    an_tensor t = an_tensor_1d(factor, AN_F32, 8);
    gb_begin(&g);
    add_metadata(&g, "phi3",
                 "{\".rope.scaling.original_context_length\":128,"
                 "\".rope.scaling.attn_factor\":1.25}");
    add_tensor(&g, "token_embd.weight", 8, 64);
    gb_tensor(&g, "rope_factors_long.weight", &t);
    an_checkpoint *c = open_file(&g, &err);
    CHECK(!c && strstr(err.message, "one is missing"));
    gb_tensor(&g, "rope_factors_short.weight", &t);
    c = open_file(&g, &err);
    REQUIRE(c);
    check_config("longrope", an_checkpoint_config(c, "model"),
                 "{\"original_max_position_embeddings\":128,\"rope_scaling\":{\"rope_type\":"
                 "\"longrope\",\"short_factor\":[1.0,1.5,2.0,3.0,4.0,5.0,6.0,7.0],\"long_factor\":"
                 "[1.0,1.5,2.0,3.0,4.0,5.0,6.0,7.0],\"attention_factor\":1.25,"
                 "\"original_max_position_embeddings\":128}}");
    an_checkpoint_close(c);
    gb_free(&g);
}

/* ---------------------------------------------------------------- metadata that makes no model */

TEST(refused_models)
{
    static const struct {
        const char *arch, *metadata, *says;
    } cases[] = {
        {"bert", "{}", "architecture 'bert' is not known; there are llama"},
        {"llama", "{\".block_count\":null}", "llama.block_count is missing"},
        {"llama", "{\".embedding_length\":0}", "llama.embedding_length is missing or 0"},
        {"llama", "{\".embedding_length\":32}", "token_embd.weight has rows of 64"},
        {"llama", "{\".attention.head_count\":0}", "head_count is missing or 0"},
        {"llama", "{\".attention.head_count\":4294967295}", "must be an integer from 0"},
        {"llama", "{\".attention.head_count\":\"4\"}", "must be an integer from 0"},
        {"llama", "{\".attention.head_count\":[4,4,8]}", "differs between layers"},
        {"llama", "{\".attention.head_count_kv\":0}", "cannot be"},
        {"llama", "{\".attention.key_length\":0}", "cannot be"},
        {"llama", "{\".attention.value_length\":8}", "different widths"},
        {"llama", "{\".rope.dimension_count\":64}", "cannot be"},
        {"llama", "{\".rope.freq_base\":\"x\"}", "must be a number"},
        {"llama", "{\".rope.scaling.type\":\"su\",\".rope.scaling.factor\":2.0}",
         "rope scaling 'su'"},
        {"llama", "{\".rope.scaling.type\":\"yarn\"}", "factor is missing"},
        {"llama", "{\".rope.scaling.type\":\"linear\",\".rope.scaling.factor\":-1.0}",
         "not above 0"},
        {"phi3", "{\".rope.scaling.type\":\"longrope\"}", "rope_factors_short.weight"},
        {"llama", "{\".expert_count\":4}", "expert_used_count is missing"},
        {"qwen2", "{\".attention.causal\":false}", "attention.causal is false"},
        {"gemma3",
         "{\".attention.sliding_window\":24,\".attention.sliding_window_pattern\":[true]}",
         "1 values for 3 layers"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gguf_build g;
        an_error err;
        gb_begin(&g);
        add_metadata(&g, cases[i].arch, cases[i].metadata);
        add_tensor(&g, "token_embd.weight", 8, 64);
        an_checkpoint *c = open_file(&g, &err);
        CHECK_MSG(!c && strstr(err.message, cases[i].says), "%s: '%s'", cases[i].metadata,
                  err.message);
        an_checkpoint_close(c);
        gb_free(&g);
    }
    gguf_build g;
    an_error err;
    gb_begin(&g);
    add_metadata(&g, "llama", "{}");
    CHECK(!open_file(&g, &err) && strstr(err.message, "token_embd.weight is missing"));
    an_buf out; /* `anneal info` shows it all the same, and why it is no model */
    an_buf_init(&out, 1 << 20);
    CHECK(an_checkpoint_describe(files_path("m.gguf"), false, &out, &err) == AN_OK);
    CHECK(out.data && strstr(out.data, "token_embd.weight is missing"));
    an_buf_free(&out);
    gb_free(&g);
}

/* ---------------------------------------------------------------- names */

static const struct {
    const char *arch, *gguf, *hf;
    int64_t rows; /* of the shape shown, 0: one dimension */
} names[] = {
    {"llama", "output_norm.weight", "model.norm.weight", 0},
    {"llama", "output.weight", "lm_head.weight", 8},
    {"llama", "rope_freqs.weight", "model.rope_freqs", 0},
    {"llama", "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", 0},
    {"llama", "blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight", 4},
    {"llama", "blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias", 0},
    {"llama", "blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", 4},
    {"llama", "blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight", 4},
    {"llama", "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight", 0},
    {"llama", "blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight", 4},
    {"llama", "blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight", 4},
    {"llama", "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", 4},
    {"llama", "blk.0.ffn_gate_inp.weight", "model.layers.0.mlp.gate.weight", 4},
    {"llama", "blk.0.ffn_up_exps.weight", "model.layers.0.mlp.experts.up_proj.weight", 4},
    {"llama", "blk.0.ffn_gate.7.weight", "model.layers.0.mlp.experts.7.gate_proj.weight", 4},
    {"llama", "blk.0.ffn_down.10.weight", "model.layers.0.mlp.experts.10.down_proj.weight", 4},
    {"llama", "blk.0.ffn_down.x.weight", "blk.0.ffn_down.x.weight", 4},
    {"llama", "blk.0.ffn_down..weight", "blk.0.ffn_down..weight", 4},
    {"llama", "blk..attn_q.weight", "blk..attn_q.weight", 4},
    {"llama", "blk.0.weight", "blk.0.weight", 4},
    {"llama", "blk.weight", "blk.weight", 4},
    {"llama", ".weight", ".weight", 4},
    {"llama", "blk.0.attn_q.scale", "blk.0.attn_q.scale", 4},
    {"llama", "position_embd.weight", "position_embd.weight", 4},
    {"llama", "something", "something", 4},
    {"qwen2moe", "blk.1.ffn_gate_inp_shexp.weight", "model.layers.1.mlp.shared_expert_gate.weight",
     0},
    {"qwen2moe", "blk.1.ffn_up_shexp.weight", "model.layers.1.mlp.shared_expert.up_proj.weight", 4},
    {"qwen3", "blk.1.attn_q_norm.weight", "model.layers.1.self_attn.q_norm.weight", 0},
    {"gemma2", "blk.1.post_attention_norm.weight", "model.layers.1.post_attention_layernorm.weight",
     0},
    {"gemma2", "blk.1.ffn_norm.weight", "model.layers.1.pre_feedforward_layernorm.weight", 0},
    {"gemma3", "blk.1.post_ffw_norm.weight", "model.layers.1.post_feedforward_layernorm.weight", 0},
    {"gemma3", "blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight", 0},
    {"phi3", "blk.1.attn_qkv.weight", "model.layers.1.self_attn.qkv_proj.weight", 4},
    {"phi3", "blk.1.ffn_up.weight", "model.layers.1.mlp.gate_up_proj.weight", 4},
    {"gpt2", "position_embd.weight", "transformer.wpe.weight", 4},
    {"gpt2", "output_norm.bias", "transformer.ln_f.bias", 0},
    {"gpt2", "blk.2.attn_qkv.weight", "transformer.h.2.attn.c_attn.weight", 4},
    {"gpt2", "blk.2.attn_output.bias", "transformer.h.2.attn.c_proj.bias", 0},
    {"gpt2", "blk.2.ffn_norm.weight", "transformer.h.2.ln_2.weight", 0},
    {"gpt2", "blk.2.ffn_up.weight", "transformer.h.2.mlp.c_fc.weight", 4},
    {"gpt2", "blk.2.ffn_down.weight", "transformer.h.2.mlp.c_proj.weight", 4},
};

TEST(names_of_hugging_face)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        gguf_build g;
        an_error err;
        an_weights *w;
        an_tensor t;
        bool moe = strstr(names[i].arch, "moe");
        gb_begin(&g);
        add_metadata(&g, names[i].arch,
                     moe ? "{\".expert_count\":4,\".expert_used_count\":2}" : "{}");
        add_tensor(&g, "token_embd.weight", 8, 64);
        add_tensor(&g, names[i].gguf, names[i].rows, 64);
        an_checkpoint *c = open_file(&g, &err);
        gb_free(&g);
        REQUIRE(c && an_checkpoint_weights(c, "model", &w, &err) == AN_OK);
        CHECK_MSG(an_weights_find(w, names[i].hf, &t), "%s: %s is not there, but %s", names[i].gguf,
                  names[i].hf, an_weights_name(w, 1));
        bool gate = strstr(names[i].hf, "shared_expert_gate"); /* a matrix of one row */
        if (gate) CHECK(t.ndim == 2 && t.dim[0] == 1 && t.dim[1] == 64);
        if (!gate) CHECK(t.ndim == (names[i].rows ? 2 : 1) && t.dim[t.ndim - 1] == 64);
        CHECK(an_checkpoint_weights(c, "unet", &w, &err) == AN_NOT_FOUND);
        an_checkpoint_close(c);
    }
}

TEST(stacked_experts)
{
    gguf_build g;
    an_error err;
    an_weights *w;
    an_tensor t = an_tensor_3d(NULL, AN_Q4_0, 4, 48, 64);
    gb_begin(&g);
    add_metadata(&g, "llama", "{\".expert_count\":4,\".expert_used_count\":2}");
    add_tensor(&g, "token_embd.weight", 8, 64);
    gb_tensor(&g, "blk.0.ffn_up_exps.weight", &t);
    an_checkpoint *c = open_file(&g, &err);
    gb_free(&g);
    REQUIRE(c && an_checkpoint_weights(c, "model", &w, &err) == AN_OK);
    const int64_t dim[3] = {4, 48, 64};
    CHECK(an_weights_get_any(w, "model.layers.0.mlp.experts.up_proj.weight", 3, dim, &t, &err) ==
          AN_OK);
    CHECK(t.dtype == AN_Q4_0);
    an_checkpoint_close(c);
}

/* ---------------------------------------------------------------- split sets */

static void write_part(const char *name, int no, int count, const char *tensor)
{
    gguf_build g;
    char more[200];
    gb_begin(&g);
    snprintf(more, sizeof more, "{\"split.no\":%d,\"split.count\":%d,\"split.tensors.count\":3}",
             no, count);
    if (no == 0)
        add_metadata(&g, "llama", more);
    else
        gb_metadata(&g, more);
    add_tensor(&g, tensor, 8, 64);
    gb_write(&g, files_path(name));
    gb_free(&g);
}

static const char *verdict_of(const char *name)
{
    static an_error err;
    an_checkpoint *c;
    err = (an_error){0};
    if (an_checkpoint_open(files_path(name), &c, &err) != AN_OK) return err.message;
    an_checkpoint_close(c);
    return "";
}

TEST(split_set)
{
    an_checkpoint *c;
    an_weights *w;
    an_error err;
    write_part("s/m-00001-of-00003.gguf", 0, 3, "token_embd.weight");
    write_part("s/m-00002-of-00003.gguf", 1, 3, "blk.0.attn_q.weight");
    CHECK(strstr(verdict_of("s/m-00001-of-00003.gguf"), "m-00003-of-00003.gguf: this part"));
    write_part("s/m-00003-of-00003.gguf", 2, 3, "output.weight");
    REQUIRE(an_checkpoint_open(files_path("s/m-00001-of-00003.gguf"), &c, &err) == AN_OK);
    REQUIRE(an_checkpoint_weights(c, "model", &w, &err) == AN_OK);
    CHECK(an_weights_count(w) == 3 && an_weights_find(w, "lm_head.weight", &(an_tensor){0}));
    check_config("split", an_checkpoint_config(c, "model"), "{\"tie_word_embeddings\":false}");
    an_checkpoint_close(c);
    CHECK(strstr(verdict_of("s/m-00002-of-00003.gguf"), "please name the first"));
    write_part("s/m-00003-of-00003.gguf", 1, 3, "output.weight");
    CHECK(strstr(verdict_of("s/m-00001-of-00003.gguf"), "split.no is 1, expected 2"));
    write_part("s/m-00003-of-00003.gguf", 2, 3, "blk.0.attn_q.weight");
    CHECK(strstr(verdict_of("s/m-00001-of-00003.gguf"), "two tensors are called"));
    write_part("s/alone.gguf", 0, 3, "token_embd.weight");
    CHECK(strstr(verdict_of("s/alone.gguf"), "NAME-00001-of-00003.gguf"));
    write_part("s/m-00001-of-00002.gguf", 0, 3, "token_embd.weight");
    CHECK(strstr(verdict_of("s/m-00001-of-00002.gguf"), "one of 3 files"));
    write_part("s/m-00001-of-99999.gguf", 0, 99999, "token_embd.weight");
    CHECK(strstr(verdict_of("s/m-00001-of-99999.gguf"), "at most 1000"));
    write_part("s/two-00001-of-00002.gguf", 0, 2, "token_embd.weight");
    write_part("s/two-00002-of-00002.gguf", 1, 2, "output.weight");
    CHECK(strstr(verdict_of("s/two-00001-of-00002.gguf"), "split.tensors.count says 3"));
}

/* ---------------------------------------------------------------- folders */

/* A folder's tensors have exactly these names, in any order. */
static void check_folder(const char *type, const char *const *have, const char *const *want)
{
    an_buf header;
    an_checkpoint *c;
    an_weights *w;
    an_error err = {0};
    char text[200];
    size_t n = 0;
    an_buf_init(&header, 4096);
    for (; have[n]; n++)
        an_buf_printf(&header,
                      "%s\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
                      n ? "," : "{", have[n], n, n + 1);
    an_buf_str(&header, "}");
    files_tensors("f/model.safetensors", header.data, n);
    an_buf_free(&header);
    snprintf(text, sizeof text, "{\"model_type\":\"%s\",\"architectures\":[\"X\"]}", type);
    files_text("f/config.json", text);
    files_text("f/generation_config.json", "{\"eos_token_id\":[1,2]}");
    REQUIRE(an_checkpoint_open(files_path("f"), &c, &err) == AN_OK);
    REQUIRE(an_checkpoint_weights(c, "model", &w, &err) == AN_OK);
    int count = 0;
    for (; want[count]; count++)
        CHECK_MSG(an_weights_find(w, want[count], &(an_tensor){0}), "%s: no %s", type, want[count]);
    CHECK(an_weights_count(w) == count);
    check_config("folder", an_checkpoint_config(c, "generation"), "{\"eos_token_id\":[1,2]}");
    CHECK(an_checkpoint_layout(c) == AN_LAYOUT_HF);
    an_checkpoint_close(c);
}

TEST(folders_and_their_prefixes)
{
    check_folder("llama", (const char *[]){"model.norm.weight", "lm_head.weight", NULL},
                 (const char *[]){"model.norm.weight", "lm_head.weight", NULL});
    check_folder("gemma3",
                 (const char *[]){"language_model.model.norm.weight",
                                  "language_model.lm_head.weight", "vision_tower.x", NULL},
                 (const char *[]){"model.norm.weight", "lm_head.weight", "vision_tower.x", NULL});
    check_folder("gemma3",
                 (const char *[]){"model.language_model.layers.0.mlp.up_proj.weight",
                                  "model.vision_tower.x", "lm_head.weight", NULL},
                 (const char *[]){"model.layers.0.mlp.up_proj.weight", "model.vision_tower.x",
                                  "lm_head.weight", NULL});
    check_folder(
        "gpt2",
        (const char *[]){"wte.weight", "h.0.attn.bias", "h.0.attn.c_attn.bias",
                         "h.0.attn.masked_bias", NULL},
        (const char *[]){"transformer.wte.weight", "transformer.h.0.attn.c_attn.bias", NULL});
    check_folder("gpt2",
                 (const char *[]){"transformer.wte.weight", "transformer.h.0.attn.bias",
                                  "lm_head.weight", NULL},
                 (const char *[]){"transformer.wte.weight", "lm_head.weight", NULL});
}

/* ---------------------------------------------------------------- the real one */

/* The path that docker/fetch-smollm2 prints, "" if it was not fetched before: no test downloads. */
static void smollm2_path(char *buf, int size)
{
    *buf = '\0';
    FILE *p = popen("ANNEAL_FETCH=0 " AN_SOURCE_DIR "/docker/fetch-smollm2 2>/dev/null", "r");
    if (p && fgets(buf, size, p)) buf[strcspn(buf, "\n")] = '\0';
    if (p) pclose(p);
}

TEST(smollm2)
{
    char path[1024];
    an_checkpoint *c;
    an_weights *w;
    an_tensor t;
    an_error err = {0};
    smollm2_path(path, sizeof path);
    if (!*path) SKIP("docker/fetch-smollm2 has no SmolLM2 here");
    REQUIRE(an_checkpoint_open(path, &c, &err) == AN_OK);
    check_config("smollm2", an_checkpoint_config(c, "model"),
                 "{\"model_type\":\"llama\",\"hidden_size\":576,\"num_hidden_layers\":30,"
                 "\"num_attention_heads\":9,\"num_key_value_heads\":3,\"head_dim\":64,"
                 "\"intermediate_size\":1536,\"max_position_embeddings\":8192,"
                 "\"vocab_size\":49152,\"tie_word_embeddings\":true,\"rope_theta\":100000.0,"
                 "\"rope_scaling\":null,\"rms_norm_eps\":1e-5,\"eos_token_id\":2}");
    REQUIRE(an_checkpoint_weights(c, "model", &w, &err) == AN_OK);
    CHECK(an_weights_count(w) == 272);
    const int64_t dim[2] = {576, 1536};
    REQUIRE(an_weights_get_any(w, "model.layers.29.mlp.down_proj.weight", 2, dim, &t, &err) ==
            AN_OK);
    CHECK(t.dtype == AN_Q4_1);
    float *f = malloc(sizeof *f * 576 * 1536);
    REQUIRE(f && an_tensor_to_f32(&t, f, &err) == AN_OK);
    double sum = 0;
    for (int i = 0; i < 576 * 1536; i++) sum += fabs((double)f[i]);
    CHECK_NEAR(sum, 126250.91435241699, 1e-4); /* as the gguf package has it */
    free(f);
    an_buf out;
    an_buf_init(&out, 4 << 20);
    CHECK(an_checkpoint_describe(path, false, &out, &err) == AN_OK);
    CHECK(strstr(out.data, "vocabulary 49152, with a chat template"));
    CHECK(strstr(out.data, "272 tensors, 134.52 M parameters"));
    an_buf_free(&out);
    an_checkpoint_close(c);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
