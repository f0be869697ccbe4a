/* Single-file checkpoints: every tensor of the diffusers folder must be found in the file under the
 * same name with the same bytes, and every inferred config value must be the folder's. The files are
 * assembled from the folders by recipes (tests/golden/make/single.py). */
#include "test.h"
#include "weights_files.h"

#include <jansson.h>

/* ---------------------------------------------------------------- assembling by recipe */

/* The raw bytes of a tensor of the folder, under the name that its file has. */
static bool folder_tensor(const char *model, const char *part, const char *name, an_weights **open,
                          an_tensor *t)
{
    char dir[512];
    an_error err = {0};
    if (!*open) {
        bool text = strncmp(part, "text", 4) == 0;
        snprintf(dir, sizeof dir, "%s/%s/model/%s", AN_GOLDEN, model, part);
        if (an_weights_open_dir(dir, text ? "model" : "diffusion_pytorch_model", open, &err) !=
            AN_OK)
            return false;
    }
    return an_weights_find(*open, name, t);
}

/* Appends the bytes of one recipe entry. parts: the folder's sets, opened as needed. */
static bool append_entry(const char *model, const json_t *e, json_t *parts, an_weights **sets,
                         an_buf *data)
{
    size_t i, n = 1;
    json_t *v;
    an_dtype dtype;
    const json_t *shape = json_object_get(e, "shape"), *from = json_object_get(e, "from");
    json_array_foreach(shape, i, v) n *= (size_t)json_integer_value(v);
    if (!an_dtype_parse(json_string_value(json_object_get(e, "dtype")), &dtype)) return false;
    size_t unit = an_dtype_size(dtype), begin = data->len;
    json_array_foreach(from, i, v)
    {
        const char *part = json_string_value(json_array_get(v, 0));
        an_tensor t;
        json_t *index = json_object_get(parts, part);
        if (!index)
            json_object_set_new(parts, part,
                                index = json_integer((json_int_t)json_object_size(parts)));
        if (!folder_tensor(model, part, json_string_value(json_array_get(v, 1)),
                           &sets[json_integer_value(index)], &t))
            return false;
        if (!json_object_get(e, "transpose")) {
            an_buf_add(data, t.data, an_tensor_bytes(&t));
            continue;
        }
        for (int64_t c = 0; c < t.dim[1]; c++)
            for (int64_t r = 0; r < t.dim[0]; r++)
                an_buf_add(data, (char *)t.data + (size_t)(r * t.dim[1] + c) * unit, unit);
    }
    static const char zeros[8192];
    if (json_array_size(from) == 0) an_buf_add(data, zeros, n * unit);
    return data->len - begin == n * unit;
}

/* Writes NAME.safetensors (and NAME.json if wanted) into the temporary folder; NULL on failure. */
static const char *assemble(const char *model, bool sidecar)
{
    char path[512], name[64];
    an_weights *sets[8] = {0};
    an_buf head, data;
    an_buf_init(&head, 16u << 20);
    an_buf_init(&data, 16u << 20);
    snprintf(path, sizeof path, "%s/single/%s.recipe.json", AN_GOLDEN, model);
    json_t *recipe = json_load_file(path, 0, NULL), *parts = json_object(), *e;
    size_t i;
    bool ok = recipe != NULL;
    an_buf_str(&head, "{");
    json_array_foreach(json_object_get(recipe, "tensors"), i, e)
    {
        size_t begin = data.len;
        ok = ok && append_entry(model, e, parts, sets, &data);
        char *shape = json_dumps(json_object_get(e, "shape"), JSON_COMPACT);
        an_buf_printf(&head, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                      i ? "," : "", json_string_value(json_object_get(e, "name")),
                      json_string_value(json_object_get(e, "dtype")), shape, begin, data.len);
        free(shape);
    }
    an_buf_str(&head, "}");
    /* behind an odd header on purpose: a third of the files on the hub are so */
    if (head.len % 2 == 0) an_buf_str(&head, " ");
    uint64_t n = head.len;
    char *all = malloc(8 + head.len + data.len);
    memcpy(all, &n, 8);
    memcpy(all + 8, head.data, head.len);
    memcpy(all + 8 + head.len, data.data, data.len);
    snprintf(name, sizeof name, "%s.safetensors", model);
    const char *out = files_write(name, all, 8 + head.len + data.len);
    snprintf(name, sizeof name, "%s.json", model);
    char *side = json_dumps(json_object_get(recipe, "sidecar"), 0);
    if (sidecar && side)
        files_text(name, side);
    else
        remove(files_path(name));
    free(side);
    free(all);
    an_buf_free(&head);
    an_buf_free(&data);
    json_decref(recipe);
    json_decref(parts);
    for (int k = 0; k < 8; k++) an_weights_close(sets[k]);
    return ok ? out : NULL;
}

/* ---------------------------------------------------------------- comparing */

static void compare_weights(an_checkpoint *folder, an_checkpoint *file, const char *part)
{
    an_error err = {0};
    an_weights *a, *b;
    an_tensor s, t;
    CHECK_MSG(an_checkpoint_weights(folder, part, &a, &err) == AN_OK, "%s", err.message);
    CHECK_MSG(an_checkpoint_weights(file, part, &b, &err) == AN_OK, "%s", err.message);
    if (!a || !b) return;
    CHECK_MSG(an_weights_count(a) == an_weights_count(b), "%s: %d and %d tensors", part,
              an_weights_count(a), an_weights_count(b));
    for (int i = 0; i < an_weights_count(a); i++) {
        const char *name = an_weights_name(a, i);
        CHECK(an_weights_find(a, name, &s));
        bool found = an_weights_find(b, name, &t);
        CHECK_MSG(found, "%s/%s is not in the file", part, name);
        if (!found) continue;
        CHECK_MSG(s.dtype == t.dtype && an_tensor_same_shape(&s, &t), "%s/%s", part, name);
        CHECK_MSG((uintptr_t)t.data % 2 == 0, "%s/%s is misaligned", part, name);
        if (an_tensor_same_shape(&s, &t))
            CHECK_MSG(memcmp(s.data, t.data, an_tensor_bytes(&s)) == 0, "%s/%s", part, name);
    }
}

/* json_equal, but numbers by value: 10 and 10.0 are the same. */
static bool same(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    return json_equal(a, b);
}

static void compare_config(an_checkpoint *folder, an_checkpoint *file, const char *part, int least)
{
    const json_t *want = an_checkpoint_config(folder, part),
                 *have = an_checkpoint_config(file, part);
    const char *key;
    json_t *v;
    int common = 0;
    json_object_foreach((json_t *)(uintptr_t)have, key, v)
    {
        const json_t *w = json_object_get(want, key);
        if (!w) continue;
        common++;
        char *a = json_dumps(w, JSON_ENCODE_ANY), *b = json_dumps(v, JSON_ENCODE_ANY);
        CHECK_MSG(same(w, v), "%s %s: the folder has %s, the file %s", part, key, a, b);
        free(a);
        free(b);
    }
    CHECK_MSG(common >= least, "%s: only %d keys compared", part, common);
}

static void compare_model(const char *model, const char *path, bool two_encoders)
{
    an_error err = {0};
    an_checkpoint *folder = NULL, *file = NULL;
    char dir[512];
    snprintf(dir, sizeof dir, "%s/%s/model", AN_GOLDEN, model);
    REQUIRE(path);
    REQUIRE(an_checkpoint_open(dir, &folder, &err) == AN_OK);
    an_status s = an_checkpoint_open(path, &file, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    if (s == AN_OK) {
        CHECK(an_checkpoint_layout(file) == AN_LAYOUT_SINGLE_FILE);
        CHECK_STR(an_checkpoint_class(file), an_checkpoint_class(folder));
        compare_weights(folder, file, "unet");
        compare_weights(folder, file, "vae");
        compare_weights(folder, file, "text_encoder");
        compare_config(folder, file, "unet", 19);
        compare_config(folder, file, "vae", 15);
        compare_config(folder, file, "text_encoder", 12);
        compare_config(folder, file, "scheduler", 8);
        compare_config(folder, file, "model_index", 5);
        compare_config(folder, file, "tokenizer", 1);
        an_weights *w;
        if (two_encoders) {
            compare_weights(folder, file, "text_encoder_2");
            compare_config(folder, file, "text_encoder_2", 12);
        } else {
            CHECK(an_checkpoint_weights(file, "text_encoder_2", &w, &err) == AN_NOT_FOUND);
        }
        CHECK(!an_checkpoint_dir(file, "tokenizer", dir, sizeof dir));
    }
    an_checkpoint_close(folder);
    an_checkpoint_close(file);
}

TEST(sd1)
{
    compare_model("sd1", assemble("sd1", true), false);
}

TEST(sd2_openclip)
{
    compare_model("sd2", assemble("sd2", true), false);
}

TEST(sdxl_two_encoders)
{
    compare_model("sdxl", assemble("sdxl", true), true);
}

TEST(lcm_guidance_embedding)
{
    compare_model("lcm", assemble("lcm", true), false);
}

/* ---------------------------------------------------------------- what shapes cannot tell */

static void check_text(const an_checkpoint *c, const char *part, const char *key, const char *want)
{
    CHECK_STR(json_string_value(json_object_get(an_checkpoint_config(c, part), key)), want);
}

TEST(defaults_without_a_sidecar)
{
    an_error err = {0};
    an_checkpoint *c;
    const char *path = assemble("sd2", false);
    REQUIRE(path && an_checkpoint_open(path, &c, &err) == AN_OK);
    check_text(c, "scheduler", "_class_name", "DDIMScheduler");
    check_text(c, "scheduler", "prediction_type", "v_prediction");
    check_text(c, "scheduler", "timestep_spacing", "leading");
    check_text(c, "text_encoder", "hidden_act", "gelu");
    check_text(c, "tokenizer", "pad_token", "!");
    CHECK(an_checkpoint_config(c, "anneal") == NULL);
    an_checkpoint_close(c);

    /* the 512 base model of SD2 needs epsilon; a folder-wide anneal.json may say so too */
    files_text("anneal.json", "{\"steps\": 7, \"scheduler\": {\"prediction_type\": \"epsilon\"},"
                              " \"unknown\": {\"a\": -Infinity}}");
    REQUIRE(an_checkpoint_open(path, &c, &err) == AN_OK);
    check_text(c, "scheduler", "prediction_type", "epsilon");
    check_text(c, "scheduler", "_class_name", "DDIMScheduler");
    CHECK(json_integer_value(json_object_get(an_checkpoint_config(c, "anneal"), "steps")) == 7);
    an_checkpoint_close(c);

    files_text("sd2.json", "[1]");
    CHECK(an_checkpoint_open(path, &c, &err) == AN_INVALID && strstr(err.message, "sd2.json"));
    files_text("sd2.json", "{\"scheduler\":");
    CHECK(an_checkpoint_open(path, &c, &err) == AN_INVALID && strstr(err.message, "sd2.json"));
    remove(files_path("anneal.json"));
    remove(files_path("sd2.json"));
}

/* A file with the outline of a checkpoint: U8 tensors of the given shapes, since only names and
 * shapes are looked at. */
typedef struct outline {
    an_buf head;
    size_t at;
} outline;

static void outline_add(outline *o, const char *name, int rows, int cols)
{
    size_t n = (size_t)(rows * cols);
    an_buf_printf(&o->head,
                  "%s\"%s\":{\"dtype\":\"U8\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}",
                  o->head.len ? "," : "{", name, rows, cols, o->at, o->at + n);
    o->at += n;
}

/* in: the UNet's input channels; latent: the VAE's. */
static outline outline_begin(int in, int latent)
{
    outline o = {.at = 0};
    an_buf_init(&o.head, 1u << 20);
    outline_add(&o, "model.diffusion_model.input_blocks.0.0.weight", 1, in);
    outline_add(&o, "model.diffusion_model.input_blocks.1.0.in_layers.2.weight", 32, 1);
    outline_add(&o, "model.diffusion_model.middle_block.1.transformer_blocks.0.norm1.weight", 1, 1);
    outline_add(&o, "first_stage_model.decoder.conv_in.weight", 1, latent);
    outline_add(&o, "first_stage_model.decoder.up.0.block.0.conv1.weight", 32, 1);
    outline_add(&o, "first_stage_model.decoder.up.0.block.1.conv1.weight", 32, 1);
    return o;
}

static an_checkpoint *outline_open(outline *o, const char *metadata)
{
    an_error err = {0};
    an_checkpoint *c = NULL;
    if (metadata) an_buf_printf(&o->head, ",\"__metadata__\":%s", metadata);
    an_buf_str(&o->head, "}");
    const char *path = files_tensors("outline.safetensors", o->head.data, o->at);
    an_status s = an_checkpoint_open(path, &c, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    an_buf_free(&o->head);
    return c;
}

/* SD2.1's OpenCLIP-H: of its 24 layers 23 are used. */
TEST(openclip_h_drops_its_last_layer)
{
    outline o = outline_begin(4, 4);
    char name[96];
    outline_add(&o, "cond_stage_model.model.token_embedding.weight", 4, 1024);
    outline_add(&o, "cond_stage_model.model.ln_final.weight", 1024, 1);
    for (int i = 0; i < 24; i++) {
        snprintf(name, sizeof name, "cond_stage_model.model.transformer.resblocks.%d.ln_1.weight",
                 i);
        outline_add(&o, name, 1, 1);
    }
    an_error err = {0};
    an_weights *w;
    an_tensor t;
    an_checkpoint *c = outline_open(&o, NULL);
    REQUIRE(c);
    const json_t *cfg = an_checkpoint_config(c, "text_encoder");
    CHECK(json_integer_value(json_object_get(cfg, "num_hidden_layers")) == 23);
    CHECK(json_integer_value(json_object_get(cfg, "num_attention_heads")) == 16);
    REQUIRE(an_checkpoint_weights(c, "text_encoder", &w, &err) == AN_OK);
    CHECK(an_weights_find(w, "encoder.layers.22.layer_norm1.weight", &t));
    CHECK(!an_weights_find(w, "encoder.layers.23.layer_norm1.weight", &t));
    an_checkpoint_close(c);
}

/* Networks that want more than a text are told by their channels, and named as diffusers does. */
TEST(classes)
{
    static const struct {
        int in, latent;
        bool label, openclip_1, clip_0;
        const char *cls;
    } cases[] = {
        {4, 4, false, false, true, "StableDiffusionPipeline"},
        {8, 8, false, false, true, "StableDiffusionPipeline"},
        {9, 4, false, false, true, "StableDiffusionInpaintPipeline"},
        {8, 4, false, false, true, "StableDiffusionInstructPix2PixPipeline"},
        {5, 4, false, false, true, "StableDiffusionDepth2ImgPipeline"},
        {7, 4, false, false, true, "StableDiffusionUpscalePipeline"},
        {6, 4, false, false, true, ""},
        {4, 4, true, true, true, "StableDiffusionXLPipeline"},
        {9, 4, true, true, true, "StableDiffusionXLInpaintPipeline"},
        {4, 4, true, true, false, "StableDiffusionXLImg2ImgPipeline"},
        {4, 4, true, false, true, "StableUnCLIPPipeline"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        outline o = outline_begin(cases[i].in, cases[i].latent);
        if (cases[i].label) outline_add(&o, "model.diffusion_model.label_emb.0.0.weight", 1, 9);
        if (cases[i].openclip_1)
            outline_add(&o, "conditioner.embedders.1.model.token_embedding.weight", 3, 64);
        if (cases[i].clip_0)
            outline_add(
                &o,
                cases[i].openclip_1
                    ? "conditioner.embedders.0.transformer.embeddings.token_embedding.weight"
                    : "cond_stage_model.transformer.embeddings.token_embedding.weight",
                3, 64);
        an_checkpoint *c = outline_open(&o, NULL);
        if (c) CHECK_STR(an_checkpoint_class(c), cases[i].cls);
        an_checkpoint_close(c);
    }
}

/* The marks that tools leave for what shapes cannot tell. */
TEST(prediction_marks)
{
    static const struct {
        const char *tensor, *metadata, *want;
        bool sd2, zero_snr;
    } cases[] = {
        {NULL, NULL, "epsilon", false, false},
        {NULL, NULL, "v_prediction", true, false},
        {"v_pred", NULL, "v_prediction", false, false},
        {"ztsnr", NULL, "epsilon", false, true},
        {NULL, "{\"modelspec.prediction_type\":\"v\"}", "v_prediction", false, false},
        {NULL, "{\"modelspec.prediction_type\":\"epsilon\"}", "epsilon", true, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        outline o = outline_begin(4, 4);
        outline_add(&o,
                    cases[i].sd2 ? "cond_stage_model.model.token_embedding.weight"
                                 : "cond_stage_model.transformer.embeddings.token_embedding.weight",
                    3, 64);
        if (cases[i].tensor) outline_add(&o, cases[i].tensor, 0, 0);
        an_checkpoint *c = outline_open(&o, cases[i].metadata);
        REQUIRE(c);
        check_text(c, "scheduler", "prediction_type", cases[i].want);
        const json_t *s = an_checkpoint_config(c, "scheduler");
        CHECK(json_is_true(json_object_get(s, "rescale_betas_zero_snr")) == cases[i].zero_snr);
        an_checkpoint_close(c);
    }
}

/* A valid file that is no Stable Diffusion model, and ones that nearly are. */
TEST(others)
{
#define B "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":"
    static const char lora[] = "{\"lora_unet_x.alpha\":" B "[0,1]}}";
    static const char broken[] = "{\"model.diffusion_model.input_blocks.0.0.weight\":" B "[0,1]},"
                                 "\"model.diffusion_model.input_blocks.1.0.op.weight\":" B "[1,2]},"
                                 "\"first_stage_model.decoder.conv_in.weight\":" B "[2,3]},"
                                 "\"cond_stage_model.model.token_embedding.weight\":" B "[3,4]}}";
    an_error err = {0};
    an_checkpoint *c;
    an_weights *w;
    an_buf out;
    const char *path = files_tensors("lora.safetensors", lora, 1);
    REQUIRE(an_checkpoint_open(path, &c, &err) == AN_OK);
    CHECK(an_checkpoint_layout(c) == AN_LAYOUT_TENSORS);
    CHECK_STR(an_checkpoint_class(c), "");
    CHECK(an_checkpoint_weights(c, "unet", &w, &err) == AN_NOT_FOUND);
    CHECK(strstr(err.message, "not a whole Stable Diffusion checkpoint") != NULL);
    an_checkpoint_close(c);

    path = files_tensors("broken.safetensors", broken, 4);
    CHECK(an_checkpoint_open(path, &c, &err) == AN_INVALID);
    CHECK_MSG(strstr(err.message, "2 input blocks with 1 downsamplers"), "%s", err.message);
    an_buf_init(&out, 1u << 20); /* info still shows what is there, and why it is not served */
    CHECK(an_checkpoint_describe(path, false, &out, &err) == AN_OK);
    CHECK(out.data && strstr(out.data, "are not a Stable Diffusion UNet"));
    CHECK(out.data && strstr(out.data, "cond_stage_model.model.token_embedding.weight  U8 [1]"));
    an_buf_free(&out);
}

TEST(describe)
{
    an_error err = {0};
    an_buf out;
    an_buf_init(&out, 4u << 20);
    const char *path = assemble("sd1", true);
    REQUIRE(path);
    REQUIRE(an_checkpoint_describe(path, false, &out, &err) == AN_OK);
    CHECK(strstr(out.data, "single-file Stable Diffusion checkpoint StableDiffusionPipeline"));
    CHECK(strstr(out.data, "block_out_channels             [16,32,32,32]"));
    CHECK(strstr(out.data, "\nunet/conv_in.weight  BF16 [16,4,3,3]\n"));
    an_buf_free(&out);

    REQUIRE(an_checkpoint_describe(AN_GOLDEN "/sdxl/model", true, &out, &err) == AN_OK);
    json_t *doc = json_loadb(out.data, out.len, 0, NULL);
    REQUIRE(doc);
    const json_t *unet = json_object_get(json_object_get(doc, "components"), "unet");
    CHECK(json_array_size(json_object_get(unet, "tensors")) == 840);
    CHECK_STR(json_string_value(json_object_get(doc, "layout")), "diffusers folder");
    CHECK(json_integer_value(json_object_get(unet, "bytes")) ==
          2 * json_integer_value(json_object_get(unet, "parameters")));
    json_decref(doc);
    an_buf_free(&out);

    an_buf_init(&out, 100);
    CHECK(an_checkpoint_describe(path, false, &out, &err) == AN_TOO_LARGE);
    an_buf_free(&out);
    /* a name that would clear the terminal */
    an_buf_init(&out, 1u << 20);
    path = files_tensors("esc.safetensors", "{\"a\\u001b[2J\":" B "[0,1]}}", 1);
    REQUIRE(an_checkpoint_describe(path, false, &out, &err) == AN_OK);
    CHECK(!strchr(out.data, 27) && strstr(out.data, "a?[2J"));
    an_buf_free(&out);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
