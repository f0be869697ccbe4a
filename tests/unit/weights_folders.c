/* Folders as the hub has them: names, variants, shards, configs, and the contract's messages. */
#include "test.h"
#include "weights_files.h"

#include <jansson.h>

TEST(golden_sd1_folder)
{
    an_error err = {0};
    an_checkpoint *c;
    REQUIRE(an_checkpoint_open(AN_GOLDEN "/sd1/model", &c, &err) == AN_OK);
    CHECK(an_checkpoint_layout(c) == AN_LAYOUT_DIFFUSERS);
    CHECK_STR(an_checkpoint_class(c), "StableDiffusionPipeline");
    const json_t *unet = an_checkpoint_config(c, "unet");
    CHECK(json_integer_value(json_object_get(unet, "cross_attention_dim")) == 32);
    CHECK_STR(
        json_string_value(json_object_get(an_checkpoint_config(c, "scheduler"), "_class_name")),
        "PNDMScheduler");
    CHECK(an_checkpoint_config(c, "text_encoder_2") == NULL);
    CHECK(an_checkpoint_config(c, "safety_checker") == NULL);

    an_weights *w, *again;
    an_tensor t;
    REQUIRE(an_checkpoint_weights(c, "unet", &w, &err) == AN_OK);
    CHECK(an_checkpoint_weights(c, "unet", &again, &err) == AN_OK && again == w);
    CHECK(an_weights_get(w, "conv_in.weight", 4, (int64_t[]){16, 4, 3, 3}, &t, &err) == AN_OK);
    CHECK(an_weights_get(w, "conv_in.weight", 4, (int64_t[]){16, 9, 3, 3}, &t, &err) == AN_INVALID);
    CHECK_STR(err.message, "unet/conv_in.weight: shape [16,4,3,3], expected [16,9,3,3]");
    CHECK(an_weights_get(w, "conv_in.wight", 1, (int64_t[]){16}, &t, &err) == AN_INVALID);
    CHECK_STR(err.message, "unet/conv_in.wight: missing, expected [16]");
    CHECK_STR(an_weights_metadata(w, "format"), "pt");
    CHECK(an_weights_metadata(w, "other") == NULL);

    REQUIRE(an_checkpoint_weights(c, "text_encoder", &w, &err) == AN_OK);
    CHECK(an_weights_find(w, "encoder.layers.1.mlp.fc1.weight", &t));
    CHECK(!an_weights_find(w, "text_model.encoder.layers.1.mlp.fc1.weight", &t));
    REQUIRE(an_checkpoint_weights(c, "vae", &w, &err) == AN_OK);
    CHECK(an_weights_find(w, "decoder.mid_block.attentions.0.to_out.0.weight", &t));
    CHECK(!an_weights_find(w, "decoder.mid_block.attentions.0.proj_attn.weight", &t));
    CHECK(an_checkpoint_weights(c, "text_encoder_2", &w, &err) == AN_NOT_FOUND);
    char dir[512];
    CHECK(an_checkpoint_dir(c, "tokenizer", dir, sizeof dir));
    CHECK(!an_checkpoint_dir(c, "tokenizer_2", dir, sizeof dir));
    CHECK(!an_checkpoint_dir(c, "tokenizer", dir, 4));
    an_checkpoint_close(c);
}

/* ---------------------------------------------------------------- one component's files */

#define U8(first, last) "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" #first "," #last "]}"

/* A file of one tensor of the given name. */
static const char *one(const char *file, const char *tensor)
{
    char header[256];
    snprintf(header, sizeof header, "{\"%s\":" U8(0, 1) "}", tensor);
    return files_tensors(file, header, 1);
}

/* The only tensor's name, or the error. */
static const char *opened(const char *dir)
{
    static char text[1100];
    an_error err = {0};
    an_weights *w;
    if (an_weights_open_dir(files_path(dir), "model", &w, &err) == AN_OK)
        snprintf(text, sizeof text, "%s", an_weights_name(w, 0));
    else
        snprintf(text, sizeof text, "%s: %s", an_status_name(err.status), err.message);
    an_weights_close(w);
    return text;
}

TEST(full_precision_wins)
{
    mkdir(files_path("v"), 0700);
    CHECK_MSG(strstr(opened("v"), "not_found: ") && strstr(opened("v"), "no model.safetensors"),
              "%s", opened("v"));
    files_text("v/model.bin", "");
    CHECK_MSG(strstr(opened("v"), ".bin file, which must be converted"), "%s", opened("v"));
    one("v/model.bf16.safetensors", "bf16");
    CHECK_STR(opened("v"), "bf16");
    one("v/model.fp16.safetensors", "fp16");
    CHECK_STR(opened("v"), "fp16");
    one("v/model-00001-of-00001.safetensors", "loose");
    CHECK_STR(opened("v"), "loose");
    one("v/model.safetensors", "plain");
    CHECK_STR(opened("v"), "plain");
    files_text("v/model.safetensors", "broken"); /* is said, not skipped */
    CHECK(strstr(opened("v"), "invalid: ") != NULL);
    CHECK(strstr(opened("no-such"), "no such folder") != NULL);
}

TEST(shards_with_an_index)
{
    static const char *const index[] = {
        "s0/model.safetensors.index.json", "s1/model.fp16.safetensors.index.json",
        "s2/model.safetensors.index.fp16.json", "s3/model.bf16.safetensors.index.json"};
    for (int i = 0; i < 4; i++) {
        char a[64], b[64], dir[8];
        snprintf(dir, sizeof dir, "s%d", i);
        snprintf(a, sizeof a, "%s/first.safetensors", dir);
        snprintf(b, sizeof b, "%s/second.safetensors", dir);
        files_text(index[i], "{\"metadata\":{\"total_size\":NaN},\"weight_map\":{\"x\":\"first."
                             "safetensors\",\"y\":\"second.safetensors\"}}");
        one(a, "x");
        /* a tensor that the index does not send here stays out */
        files_tensors(b, "{\"x\":" U8(0, 1) ",\"y\":" U8(1, 2) ",\"z\":" U8(2, 3) "}", 3);
        an_error err = {0};
        an_weights *w;
        an_tensor t;
        an_status s = an_weights_open_dir(files_path(dir), "model", &w, &err);
        CHECK_MSG(s == AN_OK, "%s: %s", index[i], err.message);
        if (s != AN_OK) continue;
        CHECK(an_weights_count(w) == 2);
        CHECK(an_weights_find(w, "y", &t) && *(unsigned char *)t.data == 1);
        CHECK(an_weights_get(w, "q", 0, NULL, &t, &err) == AN_INVALID);
        CHECK(strncmp(err.message, dir, 2) == 0); /* the folder is the label */
        an_weights_close(w);
    }
}

TEST(hostile_indexes)
{
    static const char *const map[][2] = {
        {"{\"weight_map\":{\"x\":\"../out.safetensors\"}}", "only names of"},
        {"{\"weight_map\":{\"x\":\"/etc/passwd\"}}", "only names of"},
        {"{\"weight_map\":{\"x\":\"sub/a.safetensors\"}}", "only names of"},
        {"{\"weight_map\":{\"x\":\"..\\\\a.safetensors\"}}", "only names of"},
        {"{\"weight_map\":{\"x\":\".hidden.safetensors\"}}", "only names of"},
        {"{\"weight_map\":{\"x\":\"a.bin\"}}", "only names of"},
        {"{\"weight_map\":{\"x\":\"\"}}", "only names of"},
        {"{\"weight_map\":{\"x\":7}}", "only names of"},
        {"{\"weight_map\":{\"x\":\"none.safetensors\"}}", "this shard is missing"},
        {"{\"weight_map\":{\"y\":\"a.safetensors\"}}", "y is not in a.safetensors"},
        {"{\"weight_map\":[]}", "no weight_map object"},
        {"{}", "no weight_map object"},
        {"[]", "no weight_map object"},
        {"{\"weight_map\":{\"x\":\"a.safetensors\",\"x\":\"a.safetensors\"}}", "duplicate"},
    };
    one("out.safetensors", "x");
    one("h/a.safetensors", "x");
    one("h/sub/a.safetensors", "x");
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        files_text("h/model.safetensors.index.json", map[i][0]);
        CHECK_MSG(strncmp(opened("h"), "invalid: ", 9) == 0 && strstr(opened("h"), map[i][1]),
                  "%s: %s", map[i][0], opened("h"));
    }
}

TEST(shards_without_an_index)
{
    one("l/model-00001-of-00002.safetensors", "x");
    CHECK_MSG(strstr(opened("l"), "model-00002-of-00002.safetensors: this shard is missing"), "%s",
              opened("l"));
    one("l/model-00002-of-00002.safetensors", "x");
    CHECK_MSG(strstr(opened("l"), "two tensors are called x"), "%s", opened("l"));
    one("l/model-00002-of-00002.safetensors", "y");
    CHECK_STR(opened("l"), "x");
    one("m/model-00001-of-00001.fp16.safetensors", "before");
    CHECK_STR(opened("m"), "before");
    one("n/model.fp16-00001-of-00001.safetensors", "behind");
    CHECK_STR(opened("n"), "behind");
    one("o/model-00001-of-99999.safetensors", "x");
    CHECK(strstr(opened("o"), "99999 shards, at most 1000") != NULL);
    one("p/model-+0001-of-    1.safetensors", "x"); /* what scanf would take for numbers */
    CHECK(strncmp(opened("p"), "not_found", 9) == 0 || strstr(opened("p"), "missing"));
}

/* ---------------------------------------------------------------- names of the hub */

static an_checkpoint *model_of(const char *dir, const char *component, const char *cls)
{
    char name[128], text[256];
    an_error err = {0};
    an_checkpoint *c = NULL;
    snprintf(name, sizeof name, "%s/model_index.json", dir);
    snprintf(text, sizeof text, "{\"_class_name\":\"P\",\"%s\":[\"diffusers\",\"%s\"]}", component,
             cls);
    files_text(name, text);
    if (an_checkpoint_open(files_path(dir), &c, &err) != AN_OK) printf("  %s\n", err.message);
    return c;
}

TEST(text_encoder_names)
{
    static const char *const headers[] = {
        "{\"text_model.final_layer_norm.weight\":" U8(0, 1) ",\"text_projection.weight\":" U8(
            1, 2) ",\"text_model.embeddings.position_ids\":" U8(2, 3) "}",
        "{\"final_layer_norm.weight\":" U8(0, 1) ",\"text_projection.weight\":" U8(
            1, 2) ",\"embeddings.position_ids\":" U8(2, 3) "}"};
    for (int i = 0; i < 2; i++) {
        an_error err = {0};
        an_weights *w;
        an_tensor t;
        files_tensors("te/text_encoder/model.safetensors", headers[i], 3);
        an_checkpoint *c = model_of("te", "text_encoder", "CLIPTextModel");
        REQUIRE(c && an_checkpoint_weights(c, "text_encoder", &w, &err) == AN_OK);
        CHECK(an_weights_count(w) == 2);
        CHECK(an_weights_find(w, "final_layer_norm.weight", &t));
        CHECK(an_weights_find(w, "text_projection.weight", &t));
        an_checkpoint_close(c);
    }
    an_error err = {0};
    an_weights *w;
    files_tensors("te/text_encoder/model.safetensors",
                  "{\"text_model.a\":" U8(0, 1) ",\"a\":" U8(1, 2) "}", 2);
    an_checkpoint *c = model_of("te", "text_encoder", "CLIPTextModel");
    REQUIRE(c);
    CHECK(an_checkpoint_weights(c, "text_encoder", &w, &err) == AN_INVALID);
    CHECK(strstr(err.message, "two tensors are called a") != NULL);
    an_checkpoint_close(c);
}

TEST(vae_attention_names)
{
#define W(shape, a, b) "{\"dtype\":\"F16\",\"shape\":" shape ",\"data_offsets\":[" #a "," #b "]}"
#define AT             "decoder.mid_block.attentions.0."
    static const char header[] = "{\"" AT "query.weight\":" W(
        "[2,2]", 0,
        8) ",\"" AT
           "key.weight\":" W("[2,2,1,1]", 8, 16) ",\"" AT "value.weight\":" W(
               "[2,2,1]", 16,
               24) ",\"" AT
                   "proj_attn.weight\":" W("[2,2,1,1]", 24, 32) ",\"" AT "proj_attn.bias\":" W(
                       "[2]", 32,
                       36) ",\"" AT
                           "group_norm.weight\":" W("[2]", 36, 40) ",\"quant_conv.weight\":" W(
                               "[2,2,1,1]", 40,
                               48) ",\"encoder.mid_block.attentions.0.to_q."
                                   "weight\":" W("[2,2,1,1]", 48, 56) ",\"" AT "keys.weight\":" W(
                                       "[1,1,1]", 56, 58) "}";
    static const struct {
        const char *name;
        int ndim;
    } want[] = {{AT "to_q.weight", 2},    {AT "to_k.weight", 2},
                {AT "to_v.weight", 2},    {AT "to_out.0.weight", 2},
                {AT "to_out.0.bias", 1},  {AT "group_norm.weight", 1},
                {"quant_conv.weight", 4}, {"encoder.mid_block.attentions.0.to_q.weight", 2},
                {AT "keys.weight", 2}};
    files_tensors("va/vae/diffusion_pytorch_model.fp16.safetensors", header, 58);
    an_error err = {0};
    an_weights *w;
    an_tensor t;
    an_checkpoint *c = model_of("va", "vae", "AutoencoderKL");
    REQUIRE(c && an_checkpoint_weights(c, "vae", &w, &err) == AN_OK);
    int64_t two[] = {2, 2, 1, 1};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        CHECK_MSG(an_weights_find(w, want[i].name, &t), "%s", want[i].name);
        CHECK_MSG(t.ndim == want[i].ndim, "%s has %d dims", want[i].name, t.ndim);
        CHECK_MSG(i == 8 || an_weights_get(w, want[i].name, t.ndim, two, &t, &err) == AN_OK, "%s",
                  err.message);
    }
    an_checkpoint_close(c);
}

/* ---------------------------------------------------------------- whole folders */

TEST(lenient_configs)
{
    files_text("cfg/model_index.json",
               "{\"_class_name\":\"StableDiffusionPipeline\",\"scheduler\":[\"diffusers\",\"D\"],"
               "\"unet\":[\"diffusers\",\"U\"],\"../up\":[\"a\",\"b\"],\".x\":[\"a\",\"b\"],"
               "\"safety_checker\":[null,null],\"note\":Infinity}");
    files_text("cfg/scheduler/scheduler_config.json",
               "{\"lambda_min_clipped\": -Infinity, \"x\": NaN, \"t\": \"-Infinity\"}");
    files_text("up/config.json", "{\"secret\": 1}");
    files_text("cfg/anneal.json", "{\"steps\": 4}");
    an_error err = {0};
    an_checkpoint *c;
    an_weights *w;
    REQUIRE(an_checkpoint_open(files_path("cfg"), &c, &err) == AN_OK);
    const json_t *s = an_checkpoint_config(c, "scheduler");
    CHECK(json_real_value(json_object_get(s, "lambda_min_clipped")) < -1e308);
    CHECK(json_is_null(json_object_get(s, "x")));
    CHECK_STR(json_string_value(json_object_get(s, "t")), "-Infinity");
    CHECK(an_checkpoint_config(c, "unet") == NULL); /* the folder is not there: the model says so */
    CHECK(an_checkpoint_config(c, "../up") == NULL);
    CHECK(an_checkpoint_weights(c, "../up", &w, &err) == AN_NOT_FOUND);
    CHECK(an_checkpoint_weights(c, "unet", &w, &err) == AN_NOT_FOUND);
    CHECK(json_integer_value(json_object_get(an_checkpoint_config(c, "anneal"), "steps")) == 4);
    an_checkpoint_close(c);
    files_text("cfg/unet/config.json", "{\"a\": 1, \"a\": 2}");
    CHECK(an_checkpoint_open(files_path("cfg"), &c, &err) == AN_INVALID);
    CHECK_MSG(strstr(err.message, "unet/config.json") != NULL, "%s", err.message);
    files_text("cfg/unet/config.json", "[]");
    CHECK(an_checkpoint_open(files_path("cfg"), &c, &err) == AN_INVALID);
    files_text("cfg/model_index.json", "{");
    CHECK(an_checkpoint_open(files_path("cfg"), &c, &err) == AN_INVALID);
}

TEST(links_and_hugging_face)
{
    an_error err = {0};
    an_checkpoint *c;
    an_weights *w;
    char dir[512];
    REQUIRE(symlink(AN_GOLDEN "/sd1/model", files_path("linked")) == 0);
    snprintf(dir, sizeof dir, "%s/", files_path("linked"));
    REQUIRE(an_checkpoint_open(dir, &c, &err) == AN_OK);
    CHECK_STR(an_checkpoint_path(c), files_path("linked"));
    CHECK(an_checkpoint_weights(c, "unet", &w, &err) == AN_OK);
    an_checkpoint_close(c);

    REQUIRE(an_checkpoint_open(AN_GOLDEN "/sd1/model/text_encoder", &c, &err) == AN_OK);
    CHECK(an_checkpoint_layout(c) == AN_LAYOUT_HF);
    CHECK_STR(an_checkpoint_class(c), "CLIPTextModel");
    CHECK(an_checkpoint_config(c, "model") != NULL);
    CHECK(an_checkpoint_weights(c, "model", &w, &err) == AN_OK);
    an_checkpoint_close(c);

    mkdir(files_path("empty"), 0700);
    CHECK(an_checkpoint_open(files_path("empty"), &c, &err) == AN_INVALID);
    CHECK(strstr(err.message, "neither model_index.json") != NULL);
    REQUIRE(symlink("nowhere", files_path("dangling")) == 0);
    CHECK(an_checkpoint_open(files_path("dangling"), &c, &err) == AN_NOT_FOUND);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
