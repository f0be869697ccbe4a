/* What probe and load say: of the golden models and the demo, of configs that published models
 * have, and of checkpoints that are broken or not supported. Broken ones are made in a temporary
 * folder: the golden model by symbolic links, with one config or one weights file replaced. */
#include "models_fixture.h"
#include "models/latent_diffusion.h"

#include <dirent.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---------------------------------------------------------------- what is said of good models */

static an_model_info probe(const char *folder, const char *name)
{
    char path[512];
    an_model_info info = {.steps = -1};
    an_checkpoint *c = NULL;
    an_error err = {.message = ""};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    an_status s = an_checkpoint_open(path, &c, &err);
    if (!s) s = an_model_probe(c, &info, &err);
    CHECK_MSG(s == AN_OK, "%s: %s", name, err.message);
    an_checkpoint_close(c);
    return info;
}

TEST(golden_models_are_described)
{
    an_model_info i = probe(AN_GOLDEN, "sd1/model");
    CHECK_STR(i.family, "sd1");
    CHECK_STR(i.class_name, "StableDiffusionPipeline");
    CHECK(i.kind == AN_KIND_IMAGE && i.width == 64 && i.height == 64 && i.factor == 8);
    CHECK(i.latent_channels == 4 && i.size_multiple == 8 && i.text_encoders == 1);
    CHECK(i.chunk_len == 32 && i.context_dim == 32 && i.pooled_dim == 0 && i.layers_text == 2);
    CHECK(!i.uses_time_ids && !i.guidance_embed && !i.zero_negative && i.has_latent_rgb);
    CHECK(i.steps == 20 && i.guidance_scale == 7.5f && i.weight_bytes_file > 100000);
    CHECK_NEAR(i.scaling_factor, 0.18215, 1e-7);
    CHECK_NEAR(i.latent_rgb[3][2], -0.7177, 1e-6);
    i = probe(AN_GOLDEN, "sd2/model");
    CHECK_STR(i.family, "sd2");
    i = probe(AN_GOLDEN, "sdxl/model");
    CHECK_STR(i.family, "sdxl");
    CHECK(i.uses_time_ids && i.zero_negative && i.text_encoders == 2);
    CHECK(i.context_dim == 80 && i.pooled_dim == 48);
    CHECK_NEAR(i.latent_rgb_bias[0], 0.1084, 1e-6);
    i = probe(AN_GOLDEN, "lcm/model");
    CHECK_STR(i.family, "lcm");
    CHECK(i.guidance_embed && i.steps == 4 && i.guidance_scale == 8.5f);
    i = probe(AN_DEMO, "emoji");
    CHECK(i.latent_channels == 8 && i.width == 128 && i.steps == 20 && i.guidance_scale == 4);
}

static void progressed(void *ctx, double done)
{
    double *last = ctx;
    CHECK_MSG(done >= *last && done <= 1, "progress from %g to %g", *last, done);
    *last = done;
}

TEST(a_model_loads_and_outlives_its_checkpoint)
{
    an_error err;
    an_device *d;
    an_checkpoint *c;
    an_model *m, *none;
    an_tokenizer *t;
    double done = 0;
    REQUIRE(an_device_open(&(an_device_options){.device = "cpu", .threads = 1}, &d, &err) == AN_OK);
    REQUIRE(an_checkpoint_open(AN_GOLDEN "/sdxl/model", &c, &err) == AN_OK);
    CHECK(an_model_tokenizer(c, 1, &t, &err) == AN_OK);
    an_tokenizer_free(t);
    CHECK(an_model_tokenizer(c, 2, &t, &err) == AN_INVALID);
    REQUIRE(an_model_load(d, c, AN_BF16, AN_BF16, progressed, &done, &m, &err) == AN_OK);
    an_checkpoint_close(c);
    CHECK(done == 1);
    CHECK_STR(json_string_value(json_object_get(an_model_scheduler(m), "_class_name")),
              "EulerDiscreteScheduler");
    CHECK(an_model_weight_bytes(m) == an_device_bytes_live(d));
    CHECK(an_model_dtype(m) == AN_BF16);
    CHECK_STR(an_model_describe(m)->family, "sdxl");
    CHECK(an_model_load(d, NULL, AN_F16, AN_F16, NULL, NULL, &none, &err) == AN_INVALID && !none);
    an_model_free(m);
    an_model_free(NULL);
    an_device_close(d);
}

static bool copy_file(const char *from, const char *to)
{
    char buf[65536];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    bool ok = in && out;
    for (size_t n; ok && (n = fread(buf, 1, sizeof buf, in)) > 0;) ok = fwrite(buf, 1, n, out) == n;
    if (in) fclose(in);
    return out && fclose(out) == 0 && ok;
}

static void cut_file(void *path, double done)
{
    if (done < 0.3) CHECK(truncate(path, 8192) == 0);
}

/* The weights' file loses its end in the middle of the load: the load fails and says why, on
 * whichever thread the pages were missed. */
TEST(a_file_that_shrinks_under_the_load)
{
    char dir[] = "/tmp/anneal-shrinks-XXXXXX", config[64], weights[64];
    REQUIRE(mkdtemp(dir));
    snprintf(config, sizeof config, "%s/config.json", dir);
    snprintf(weights, sizeof weights, "%s/model.safetensors", dir);
    REQUIRE(copy_file(AN_GOLDEN "/llm/llama/model/config.json", config));
    for (int threads = 1; threads <= 4; threads += 3) {
        an_error err = {0};
        an_device *d;
        an_checkpoint *c;
        an_model *m;
        REQUIRE(copy_file(AN_GOLDEN "/llm/llama/model/model.safetensors", weights));
        const an_device_options o = {.device = "cpu", .threads = threads};
        REQUIRE(an_device_open(&o, &d, &err) == AN_OK);
        REQUIRE(an_checkpoint_open(dir, &c, &err) == AN_OK);
        CHECK(an_model_load(d, c, AN_F32, AN_F32, cut_file, weights, &m, &err) == AN_IO && !m);
        CHECK_MSG(strstr(err.message, "changed while being read"), "%s", err.message);
        an_checkpoint_close(c);
        CHECK(an_device_bytes_live(d) == 0);
        an_device_close(d);
    }
    unlink(config);
    unlink(weights);
    rmdir(dir);
}

/* ---------------------------------------------------------------- published configs */

static an_status read_unet(const char *text, an_unet_config *u, an_error *err)
{
    json_t *j = json_loads(text, 0, NULL);
    an_config c = an_config_open(j, "unet/config.json", err);
    an_unet_config_read(&c, u);
    json_decref(j);
    return c.status;
}

/* stabilityai/stable-diffusion-xl-base-1.0, what differs from the defaults. */
TEST(sdxl_base)
{
    an_unet_config u;
    an_error err = {.message = ""};
    an_status s = read_unet(
        "{\"addition_embed_type\":\"text_time\",\"addition_time_embed_dim\":256,"
        "\"attention_head_dim\":[5,10,20],\"block_out_channels\":[320,640,1280],"
        "\"cross_attention_dim\":2048,\"down_block_types\":[\"DownBlock2D\","
        "\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\"],\"projection_class_embeddings_input_"
        "dim\":2816,\"sample_size\":128,\"transformer_layers_per_block\":[1,2,10],"
        "\"up_block_types\":[\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\",\"UpBlock2D\"],"
        "\"use_linear_projection\":true,\"upcast_attention\":null,\"class_embed_type\":null}",
        &u, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    CHECK(u.blocks == 3 && u.pooled_dim == 1280 && u.time_dim == 1280 && u.sample_w == 128);
    CHECK(u.mid.depth[0] == 10 && u.mid.heads == 20 && u.mid_kind == AN_MID_CROSS);
    CHECK(u.up[0].depth[2] == 10 && u.up[1].depth[0] == 2 && !u.up[2].cross && u.up[2].heads == 5);
    CHECK(!u.down[0].cross && u.down[1].cross && u.down[1].depth[1] == 2);
}

/* segmind/SSD-1B: a depth for every transformer, another list going up, no middle. */
TEST(ssd_1b)
{
    an_unet_config u;
    an_error err = {.message = ""};
    const char *text =
        "{\"attention_head_dim\":[5,10,20],\"block_out_channels\":[320,640,1280],"
        "\"cross_attention_dim\":2048,\"down_block_types\":[\"DownBlock2D\","
        "\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\"],\"mid_block_type\":null,"
        "\"transformer_layers_per_block\":[1,[2,2],[4,4]],"
        "%s\"up_block_types\":[\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\",\"UpBlock2D\"]}";
    char with[1024];
    snprintf(with, sizeof with, text,
             "\"reverse_transformer_layers_per_block\":[[4,4,10],[2,1,0],1],");
    an_status s = read_unet(with, &u, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    CHECK(u.mid_kind == AN_MID_NONE);
    CHECK(u.down[1].depth[1] == 2 && u.down[2].depth[0] == 4);
    CHECK(u.up[0].depth[2] == 10 && u.up[1].depth[1] == 1 && u.up[1].depth[2] == 0);
    snprintf(with, sizeof with, text, "");
    CHECK(read_unet(with, &u, &err) == AN_INVALID);
    CHECK(strstr(err.message, "reverse_transformer_layers_per_block") != NULL);
}

/* Defaults are diffusers'; only_cross_attention and a plain middle are read. */
TEST(unet_defaults)
{
    an_unet_config u;
    an_error err = {.message = ""};
    const char *text =
        "{\"block_out_channels\":[320,640],\"down_block_types\":[\"CrossAttnDownBlock2D\","
        "\"DownBlock2D\"],\"up_block_types\":[\"UpBlock2D\",\"CrossAttnUpBlock2D\"],"
        "\"only_cross_attention\":[true,false],\"mid_block_type\":\"UNetMidBlock2D\","
        "\"layers_per_block\":[1,3],\"sample_size\":[32,48],\"downsample_padding\":0}";
    an_status s = read_unet(text, &u, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    CHECK(u.down[0].heads == 8 && u.down[0].layers == 1 && u.up[0].layers == 3);
    CHECK(u.down[0].only_cross && u.up[1].only_cross && !u.mid.only_cross);
    CHECK(u.mid_kind == AN_MID_PLAIN && u.sample_h == 32 && u.sample_w == 48);
    CHECK(u.context_dim == 1280 && u.groups == 32 && u.eps == 1e-5f && u.downsample_padding == 0);
    CHECK(u.flip_sin_to_cos && u.guidance_dim == 0 && u.time_id_dim == 0);
}

TEST(eos_2_means_the_largest_id)
{
    static const int32_t ids[] = {49406, 320, 49407, 49407}, sd2[] = {9, 4, 7, 2, 2};
    an_clip_config c = {.eos = 2};
    CHECK(an_clip_eos_at(&c, ids, 4) == 2);
    c.eos = 49407;
    CHECK(an_clip_eos_at(&c, ids, 4) == 2);
    c.eos = 7;
    CHECK(an_clip_eos_at(&c, sd2, 5) == 2);
    c.eos = 11; /* absent: the first, as argmax of zeros */
    CHECK(an_clip_eos_at(&c, sd2, 5) == 0);
}

/* ---------------------------------------------------------------- broken checkpoints */

typedef struct copy {
    char path[256];
} copy;

static void link_all(const char *from, const char *to, const char *except)
{
    DIR *d = opendir(from);
    if (!d) return;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        char a[1024], b[1024];
        if (e->d_name[0] == '.' || strcmp(e->d_name, except) == 0) continue;
        snprintf(a, sizeof a, "%s/%s", from, e->d_name);
        snprintf(b, sizeof b, "%s/%s", to, e->d_name);
        if (symlink(a, b) != 0) CHECK_MSG(false, "no symbolic link %s", b);
    }
    closedir(d);
}

/* A golden model but for `component`/`file`, which the caller writes; component "" is the root. */
static copy make_copy(const char *name, const char *component, const char *file)
{
    copy c;
    char from[512], to[512];
    snprintf(c.path, sizeof c.path, "/tmp/anneal-model-XXXXXX");
    CHECK(mkdtemp(c.path) != NULL);
    snprintf(from, sizeof from, "%s/%s/model", AN_GOLDEN, name);
    link_all(from, c.path, *component ? component : file);
    if (!*component) return c;
    snprintf(to, sizeof to, "%s/%s", c.path, component);
    CHECK(mkdir(to, 0700) == 0);
    snprintf(from, sizeof from, "%s/%s/model/%s", AN_GOLDEN, name, component);
    link_all(from, to, file);
    return c;
}

static void remove_copy(const copy *c)
{
    char cmd[512];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", c->path);
    CHECK(system(cmd) == 0);
}

/* What a test does with the loaded model before it goes, or NULL. */
typedef void use_fn(fixture *f);

/* Loads it; the message in err. */
static an_status load(const copy *c, use_fn *use, an_error *err)
{
    static fixture f;
    f = (fixture){.name = "a changed copy"};
    an_status s =
        an_device_open(&(an_device_options){.device = "cpu", .threads = 1}, &f.device, err);
    if (s) return s;
    s = an_checkpoint_open(c->path, &f.checkpoint, err);
    if (!s) s = an_model_load(f.device, f.checkpoint, AN_F32, AN_F32, NULL, NULL, &f.model, err);
    CHECK((s == AN_OK) == (f.model != NULL));
    if (!s && use && opened_ok(&f.open, an_lane_open(f.device, 64 << 20, &f.lane, &f.err), "lane"))
        use(&f);
    fixture_close(&f);
    return s;
}

static json_t *read_config(const char *name, const char *component, const char *file)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/model/%s/%s", AN_GOLDEN, name, component, file);
    json_t *j = json_load_file(path, 0, NULL);
    CHECK_MSG(j != NULL, "%s", path);
    return j;
}

/* The model with values of one config replaced: key NULL: those of the object `value`. */
static an_status load_with(const char *name, const char *component, const char *key,
                           const char *value, use_fn *use, an_error *err)
{
    char path[512];
    copy c = make_copy(name, component, "config.json");
    json_t *j = read_config(name, component, "config.json");
    json_t *v = json_loads(value, JSON_DECODE_ANY, NULL);
    CHECK(v && (key ? json_object_set(j, key, v) : json_object_update(j, v)) == 0);
    json_decref(v);
    snprintf(path, sizeof path, "%s/%s/config.json", c.path, component);
    CHECK(json_dump_file(j, path, 0) == 0);
    json_decref(j);
    err->message[0] = '\0';
    an_status s = load(&c, use, err);
    remove_copy(&c);
    return s;
}

TEST(what_is_not_supported_is_named)
{
    static const struct {
        const char *model, *component, *key, *value, *says;
    } bad[] = {
        {"sd1", "unet", "class_embed_type", "\"timestep\"",
         "unet/config.json: class_embed_type is \"timestep\": only null is supported"},
        {"sd1", "unet", "num_class_embeds", "1000", "num_class_embeds is 1000"},
        {"sd1", "unet", "resnet_time_scale_shift", "\"scale_shift\"", "resnet_time_scale_shift"},
        {"sd1", "unet", "resnet_out_scale_factor", "1.5", "only 1 is supported"},
        {"sd1", "unet", "encoder_hid_dim_type", "\"text_proj\"", "encoder_hid_dim_type"},
        {"sd1", "unet", "addition_embed_type", "\"image\"", "addition_embed_type is \"image\""},
        {"sd1", "unet", "mid_block_type", "\"UNetMidBlock2DSimpleCrossAttn\"", "mid_block_type"},
        {"sd1", "unet", "down_block_types",
         "[\"AttnDownBlock2D\",\"DownBlock2D\",\"DownBlock2D\",\"DownBlock2D\"]",
         "only DownBlock2D and CrossAttnDownBlock2D are supported"},
        {"sd1", "unet", "up_block_types", "[\"UpBlock2D\"]", "expected a list of 4"},
        {"sd1", "unet", "attention_head_dim", "3", "it is the number of heads"},
        {"sd1", "unet", "attention_head_dim", "[2,2]", "or a list of 4"},
        {"sd1", "unet", "block_out_channels", "[]", "expected a list of 1 to 8"},
        {"sd1", "unet", "block_out_channels", "[16,32,32,-32]", "block_out_channels"},
        {"sd1", "unet", "block_out_channels", "[16,32,32,99999999999999]", "block_out_channels"},
        {"sd1", "unet", "layers_per_block", "1e9", "layers_per_block"},
        {"sd1", "unet", "norm_num_groups", "0", "norm_num_groups is 0"},
        {"sd1", "unet", "norm_eps", "null", NULL},
        {"sd1", "unet", "act_fn", "\"gelu\"", "act_fn is \"gelu\""},
        {"sd1", "unet", "in_channels", "9", "in_channels 9"},
        {"sd1", "unet", "cross_attention_dim", "768", "cross_attention_dim is 768"},
        {"sd1", "unet", "time_embedding_type", "\"fourier\"", "time_embedding_type"},
        {"sd1", "unet", "transformer_layers_per_block", "[1,1]", "expected a list of 4"},
        {"sd1", "unet", "sample_size", "[8]", "sample_size"},
        {"sd1", "unet", "only_cross_attention", "\"yes\"", "only_cross_attention"},
        {"sdxl", "unet", "projection_class_embeddings_input_dim", "90", "(SDXL refiners"},
        {"sdxl", "unet", "addition_time_embed_dim", "null", "text_time needs it"},
        {"sd1", "vae", "_class_name", "\"AutoencoderTiny\"", "vae/config.json: _class_name"},
        {"sd1", "vae", "latent_channels", "8", "expected the VAE's 8"},
        {"sd1", "vae", "up_block_types", "[\"A\",\"B\",\"C\",\"D\"]", "only UpDecoderBlock2D"},
        {"sd1", "vae", "scaling_factor", "0", "scaling_factor is 0"},
        {"sd1", "vae", "latents_mean", "null", NULL},
        {"sd1", "text_encoder", "model_type", "\"t5\"", "only CLIP text encoders"},
        {"sd1", "text_encoder", "hidden_act", "\"relu\"", "hidden_act is \"relu\""},
        {"sd1", "text_encoder", "num_attention_heads", "5", "num_attention_heads is 5"},
        {"sd1", "text_encoder", "num_hidden_layers", "\"two\"", "num_hidden_layers"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        an_error err;
        an_status s =
            load_with(bad[i].model, bad[i].component, bad[i].key, bad[i].value, NULL, &err);
        if (!bad[i].says)
            CHECK_MSG(s == AN_OK, "%s %s: %s", bad[i].key, bad[i].value, err.message);
        else
            CHECK_MSG(s == AN_INVALID && strstr(err.message, bad[i].says),
                      "%s %s: status %d, message '%s' lacks '%s'", bad[i].key, bad[i].value, (int)s,
                      err.message, bad[i].says);
    }
}

TEST(weights_that_do_not_fit_their_config)
{
    static const struct {
        const char *component, *key, *value, *says;
    } bad[] = {
        {"unet", "layers_per_block", "3", "unet/down_blocks.0.resnets.2"},
        {"unet", "norm_num_groups", "7", "7 groups do not divide 16 channels"},
        {"unet", "block_out_channels", "[16,32,32,64]", "unet/down_blocks.3"},
        {"unet", "time_cond_proj_dim", "32", "unet/time_embedding.cond_proj.weight"},
        {"vae", "latents_mean", "[1,2]", NULL}, /* latents_std is null: both or none */
        {"vae", "layers_per_block", "2", "vae/decoder.up_blocks.0.resnets.2"},
        {"text_encoder", "vocab_size", "49408", "text_encoder/embeddings.token_embedding.weight"},
        {"text_encoder", "num_hidden_layers", "12", "text_encoder/encoder.layers.2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        an_error err;
        an_status s = load_with("sd1", bad[i].component, bad[i].key, bad[i].value, NULL, &err);
        if (!bad[i].says)
            CHECK_MSG(s == AN_OK, "%s %s: %s", bad[i].key, bad[i].value, err.message);
        else
            CHECK_MSG(s != AN_OK && strstr(err.message, bad[i].says),
                      "%s %s: status %d, message '%s' lacks '%s'", bad[i].key, bad[i].value, (int)s,
                      err.message, bad[i].says);
    }
}

TEST(missing_parts)
{
    static const struct {
        const char *component, *file, *says;
    } bad[] = {
        {"unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model"},
        {"unet", "config.json", "is not supported"},
        {"vae", "config.json", "vae/config.json: the checkpoint has none"},
        {"text_encoder", "model.safetensors", "model"},
        {"text_encoder", "config.json", "text_encoder/config.json: the checkpoint has none"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        an_error err = {.message = ""};
        copy c = make_copy("sd1", bad[i].component, bad[i].file);
        an_status s = load(&c, NULL, &err);
        CHECK_MSG(s != AN_OK && strstr(err.message, bad[i].says),
                  "%s/%s: status %d, message '%s' lacks '%s'", bad[i].component, bad[i].file,
                  (int)s, err.message, bad[i].says);
        remove_copy(&c);
    }
}

/* ---------------------------------------------------------------- variants of the networks */

static float prediction[8 * 8 * 4]; /* of the last model that predict() saw */

static void predict(fixture *f)
{
    an_row r = row_of(f, AN_STAGE_DENOISE, 3, 8, 8, 32);
    an_status s = an_model_step(f->model, f->lane, AN_STAGE_DENOISE, &r, 1, &f->err);
    if (!opened_ok(&f->open, s, "denoise")) return;
    memcpy(prediction, r.out[0].t.data, sizeof prediction);
    if (((an_latent_diffusion *)f->model->impl)->config.unet.downsample_padding) return;
    r = row_of(f, AN_STAGE_DENOISE, 3, 4, 8, 32);
    CHECK(an_model_step(f->model, f->lane, AN_STAGE_DENOISE, &r, 1, &f->err) == AN_INVALID);
    CHECK_STR(f->err.message, "denoise: 8x4 latents are too small for this network");
}

/* No golden has these; they must run, and must not be ignored. */
TEST(variants_of_the_unet_run)
{
    static const char *const config[] = {"{}",
                                         "{\"mid_block_type\":null}",
                                         "{\"mid_block_type\":\"UNetMidBlock2D\"}",
                                         "{\"downsample_padding\":0}",
                                         "{\"only_cross_attention\":[false,true,false,false]}",
                                         "{\"transformer_layers_per_block\":[1,0,1,1]}",
                                         "{\"freq_shift\":1}",
                                         "{\"flip_sin_to_cos\":false}",
                                         "{\"norm_eps\":0.1}"};
    float plain[sizeof prediction / sizeof *prediction];
    for (size_t i = 0; i < sizeof config / sizeof *config; i++) {
        an_error err = {.message = ""};
        an_status s = load_with("sd1", "unet", NULL, config[i], predict, &err);
        CHECK_MSG(s == AN_OK, "%s: %s", config[i], err.message);
        double e = relative_error(prediction, plain, sizeof prediction / sizeof *prediction);
        if (i)
            CHECK_MSG(e > 1e-5 && e < 100, "%s: changes the prediction by %g", config[i], e);
        else
            memcpy(plain, prediction, sizeof plain);
    }
}

/* The decoder of a model with statistics and a shift gets what a plain one gets scaled by hand. */
static float unscaled[4 * 4 * 4];
static uint8_t pictures[2][32 * 32 * 3];

static void decode_with_stats(fixture *f)
{
    static const float mean[] = {0.5f, -1, 0, 2}, std[] = {2, 0.5f, 1, 3};
    an_row r = row_of(f, AN_STAGE_DECODE, 4, 4, 4, 1);
    const float *x = r.in[0].t.data;
    for (int i = 0; i < 64; i++) unscaled[i] = x[i] * std[i % 4] / 0.18215f + mean[i % 4] + 0.25f;
    an_status s = an_model_step(f->model, f->lane, AN_STAGE_DECODE, &r, 1, &f->err);
    if (opened_ok(&f->open, s, "decode")) memcpy(pictures[0], r.out[0].t.data, sizeof pictures[0]);
}

static void decode_by_hand(fixture *f)
{
    an_row r = row_of(f, AN_STAGE_DECODE, 4, 4, 4, 1);
    float *x = r.in[0].t.data;
    for (int i = 0; i < 64; i++) x[i] = unscaled[i] * 0.18215f;
    an_status s = an_model_step(f->model, f->lane, AN_STAGE_DECODE, &r, 1, &f->err);
    if (opened_ok(&f->open, s, "decode")) memcpy(pictures[1], r.out[0].t.data, sizeof pictures[1]);
}

TEST(latents_with_statistics_and_shift)
{
    an_error err = {.message = ""};
    an_status s = load_with("sd1", "vae", NULL,
                            "{\"latents_mean\":[0.5,-1,0,2],\"latents_std\":[2,0.5,1,3],"
                            "\"shift_factor\":0.25}",
                            decode_with_stats, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    s = load_with("sd1", "vae", NULL, "{}", decode_by_hand, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    int off = 0, differs = 0;
    for (size_t i = 0; i < sizeof pictures[0]; i++) {
        off += abs(pictures[0][i] - pictures[1][i]) > 1;
        differs += pictures[0][i] != pictures[0][0];
    }
    CHECK_MSG(off == 0 && differs > 100, "%d values are off, %d differ from the first", off,
              differs);
}

/* ---------------------------------------------------------------- anneal.json */

static an_status probe_with(const char *text, an_model_info *info, an_error *err)
{
    copy c = make_copy("sd1", "", "anneal.json");
    char path[512];
    snprintf(path, sizeof path, "%s/anneal.json", c.path);
    FILE *f = fopen(path, "w");
    if (f) {
        fputs(text, f);
        fclose(f);
    }
    an_checkpoint *k = NULL;
    an_status s = an_checkpoint_open(c.path, &k, err);
    if (!s) s = an_model_probe(k, info, err);
    an_checkpoint_close(k);
    remove_copy(&c);
    return s;
}

TEST(anneal_json_sets_defaults)
{
    an_model_info i;
    an_error err = {.message = ""};
    an_status s = probe_with("{\"steps\":2,\"guidance_scale\":0,\"width\":128,\"height\":96,"
                             "\"sampler\":\"lcm\",\"latent_rgb\":[[1,2,3],[4,5,6],[7,8,9],"
                             "[10,11,12.5]],\"latent_rgb_bias\":[0.25,0,-1]}",
                             &i, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    CHECK(i.steps == 2 && i.guidance_scale == 0 && i.width == 128 && i.height == 96);
    CHECK(i.has_latent_rgb && i.latent_rgb[3][2] == 12.5f && i.latent_rgb_bias[2] == -1);
    static const char *const bad[][2] = {
        {"{\"steps\":0}", "anneal.json: steps is 0"},
        {"{\"guidance_scale\":\"high\"}", "anneal.json: guidance_scale"},
        {"{\"width\":100}", "width is 100: it must be a multiple of 8"},
        {"{\"latent_rgb\":[[1,2,3]]}", "expected 4 rows of three numbers"},
        {"{\"latent_rgb\":[[1,2,3],[1,2,3],[1,2,3],[1,2,\"x\"]]}", "latent_rgb"},
        {"[]", "not a JSON object"}};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        s = probe_with(bad[k][0], &i, &err);
        CHECK_MSG(s == AN_INVALID && strstr(err.message, bad[k][1]), "%s: '%s' lacks '%s'",
                  bad[k][0], err.message, bad[k][1]);
    }
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
