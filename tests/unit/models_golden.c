/* The networks against tensors that diffusers and transformers computed (tests/golden/make/gen.py):
 * text encoder, UNet, VAE both ways, each to 1e-4 relative in f32, on the plain-C reference and on
 * the CPU kernels, or on the device that AN_TEST_DEVICE names. In bf16 the error is printed, and
 * bounded loosely. */
#include "models_fixture.h"
#include "models/latent_diffusion.h"

enum { MAX_N = 3 };

static const char *const names[] = {"sd1", "sd2", "sdxl", "lcm"};
static const struct {
    const char *device;
    an_dtype dtype;
    double bound;
} runs[] = {{"ref", AN_F32, 1e-4}, {"cpu", AN_F32, 1e-4}, {"cpu", AN_BF16, 0.1}};

static void report(fixture *f, const char *what, double e, double bound)
{
    CHECK_MSG(e <= bound, "%s: %s: relative error %.3g, allowed %.3g", f->name, what, e, bound);
    if (bound > 1e-3) printf("  %s: %s: relative error %.3g\n", f->name, what, e);
}

static an_latent_diffusion *parts(fixture *f)
{
    return f->model->impl;
}

/* A device copy that the lane's arena holds. */
static an_tensor put(fixture *f, an_dtype dtype, const float *src, int ndim, const int64_t *dim)
{
    an_tensor host = an_lane_alloc(f->lane, AN_F32, ndim, dim);
    an_upload(f->lane, host.data, src, an_tensor_bytes(&host));
    an_tensor t = an_lane_alloc(f->lane, dtype, ndim, dim);
    an_copy(f->lane, host, t);
    return t;
}

/* A host copy, to be freed. */
static float *get(fixture *f, an_tensor t)
{
    float *host = malloc(an_tensor_bytes(&t));
    an_download(f->lane, host, t.data, an_tensor_bytes(&t));
    return host;
}

/* Rows of y against an NCHW golden. */
static void report_rows(fixture *f, const char *what, an_tensor y, const an_tensor *want,
                        double bound)
{
    float *got = get(f, y);
    const int64_t row = want->dim[1] * want->dim[2] * want->dim[3];
    if (opened_ok(&f->open, an_lane_status(f->lane, &f->err), what))
        for (int64_t r = 0; r < want->dim[0]; r++)
            report(f, what, relative_error_hwc(got + r * row, want, r), bound);
    free(got);
}

/* ---------------------------------------------------------------- text */

static void check_encoder(fixture *f, const an_clip *c, int layer, bool normed, const char *name,
                          const char *pooled_name, double bound)
{
    an_tensor ids, want, want_pooled;
    if (!opened_tensor(&f->open, "input_ids", &ids) || !opened_tensor(&f->open, name, &want))
        return;
    int64_t n = ids.dim[0], t = ids.dim[1], eos[MAX_N];
    int layers[MAX_N] = {layer, layer, layer};
    an_lane_reset(f->lane);
    an_tensor dev = an_lane_tensor(f->lane, AN_I32, n, t);
    an_upload(f->lane, dev.data, ids.data, an_tensor_bytes(&ids));
    an_clip_args a = {.ids = dev, .layer = layers, .normed = normed};
    a.hidden = an_lane_tensor(f->lane, AN_F32, n, t, c->config.width);
    if (pooled_name) {
        for (int64_t r = 0; r < n; r++)
            eos[r] = an_clip_eos_at(&c->config, (const int32_t *)ids.data + r * t, t);
        a.eos = eos;
        a.pooled = an_lane_tensor(f->lane, AN_F32, n, c->config.projection);
    }
    an_clip_forward(c, f->lane, &a);
    if (!opened_ok(&f->open, an_lane_status(f->lane, &f->err), name)) return;
    float *got = get(f, a.hidden);
    report(f, name, relative_error(got, want.data, an_tensor_count(&want)), bound);
    free(got);
    if (!pooled_name || !opened_tensor(&f->open, pooled_name, &want_pooled)) return;
    got = get(f, a.pooled);
    report(f, pooled_name, relative_error(got, want_pooled.data, an_tensor_count(&want_pooled)),
           bound);
    free(got);
}

static void check_text(fixture *f, double bound)
{
    const an_clip *c = &parts(f)->text[0];
    check_encoder(f, c, c->config.layers, true, "text_last_hidden", NULL, bound);
    check_encoder(f, c, c->config.layers - 1, false, "text_penultimate", NULL, bound);
    if (parts(f)->config.texts < 2) return;
    c = &parts(f)->text[1];
    check_encoder(f, c, c->config.layers - 1, false, "text2_penultimate", "text2_pooled", bound);
}

/* ---------------------------------------------------------------- UNet */

/* Context rows from..from+n of the goldens: [n * t, width] */
static an_tensor golden_context(fixture *f, int64_t from, int64_t n, int64_t *t)
{
    an_tensor a, b, none = {0};
    bool xl = parts(f)->config.texts > 1;
    if (!opened_tensor(&f->open, xl ? "text_penultimate" : "text_last_hidden", &a)) return none;
    *t = a.dim[1];
    int64_t rows = n * *t, wa = a.dim[2];
    const int64_t dim_a[] = {rows, wa};
    an_tensor ya = put(f, f->model->dtype, (float *)a.data + from * *t * wa, 2, dim_a);
    if (!xl || !opened_tensor(&f->open, "text2_penultimate", &b)) return ya;
    const int64_t dim_b[] = {rows, b.dim[2]};
    an_tensor yb = put(f, f->model->dtype, (float *)b.data + from * *t * b.dim[2], 2, dim_b);
    an_tensor y = an_lane_tensor(f->lane, f->model->dtype, rows, wa + b.dim[2]);
    an_concat(f->lane, ya, yb, y);
    return y;
}

static void check_unet(fixture *f, const char *in_name, const char *out_name, int64_t from,
                       double bound)
{
    an_tensor in, want, t_ids, extra;
    if (!opened_tensor(&f->open, in_name, &in) || !opened_tensor(&f->open, out_name, &want) ||
        !opened_tensor(&f->open, "unet_t", &t_ids))
        return;
    int64_t n = in.dim[0], c = in.dim[1], h = in.dim[2], w = in.dim[3], tokens = 0;
    int64_t start[MAX_N], len[MAX_N];
    float t[MAX_N], *x = malloc((size_t)an_tensor_count(&in) * sizeof *x);
    const int64_t dim[] = {n, h, w, c};
    an_lane_reset(f->lane);
    for (int64_t r = 0; r < n; r++) to_hwc(&in, r, x + r * h * w * c);
    an_unet_args a = {.timestep = t, .context_start = start, .context_len = len};
    a.x = put(f, f->model->dtype, x, 4, dim);
    a.context = golden_context(f, from, n, &tokens);
    for (int64_t r = 0; r < n; r++) {
        t[r] = (float)((int32_t *)t_ids.data)[from + r];
        start[r] = r * tokens;
        len[r] = tokens;
    }
    const an_unet_config *cfg = &parts(f)->config.unet;
    if (cfg->time_id_dim && opened_tensor(&f->open, "time_ids", &extra)) {
        a.time_ids = extra.data;
        if (opened_tensor(&f->open, "text2_pooled", &extra))
            a.pooled = put(f, AN_F32, extra.data, 2, extra.dim);
    }
    if (cfg->guidance_dim && opened_tensor(&f->open, "w_embedding", &extra))
        a.guidance = put(f, AN_F32, extra.data, 2, extra.dim);
    a.y = an_lane_tensor(f->lane, AN_F32, n, h, w, c);
    an_unet_forward(&parts(f)->unet, f->lane, &a);
    report_rows(f, out_name, a.y, &want, bound);
    free(x);
}

/* ---------------------------------------------------------------- VAE */

static void check_decode(fixture *f, double bound)
{
    an_tensor in, want;
    if (!opened_tensor(&f->open, "latent", &in) || !opened_tensor(&f->open, "vae_decoded", &want))
        return;
    int64_t n = in.dim[0], c = in.dim[1], h = in.dim[2], w = in.dim[3];
    int64_t count = h * w * c;
    float *x = malloc((size_t)(n * count) * sizeof *x);
    const float *row[MAX_N];
    const int64_t dim[] = {n, h, w, c};
    an_lane_reset(f->lane);
    for (int64_t r = 0; r < n; r++) to_hwc(&in, r, x + r * count);
    /* the golden decodes unscaled latents */
    for (int64_t i = 0; i < n * count; i++) x[i] *= parts(f)->config.vae.scaling_factor;
    an_tensor z = put(f, AN_F32, x, 4, dim);
    for (int64_t r = 0; r < n; r++) row[r] = (const float *)z.data + r * count;
    an_tensor y = an_lane_tensor(f->lane, AN_F32, n, want.dim[2], want.dim[3], 3);
    an_vae_decode(&parts(f)->vae, f->lane, f->model->dtype, row, h, w, y);
    report_rows(f, "vae_decoded", y, &want, bound);
    free(x);
}

static void check_encode(fixture *f, double bound)
{
    an_tensor in, mean, logvar;
    if (!opened_tensor(&f->open, "image", &in) || !opened_tensor(&f->open, "vae_mean", &mean) ||
        !opened_tensor(&f->open, "vae_logvar", &logvar))
        return;
    int64_t n = in.dim[0], h = in.dim[2], w = in.dim[3], count = h * w * 3;
    float *x = malloc((size_t)(n * count) * sizeof *x);
    const int64_t dim[] = {n, h, w, 3};
    an_lane_reset(f->lane);
    for (int64_t r = 0; r < n; r++) to_hwc(&in, r, x + r * count);
    an_tensor image = put(f, f->model->dtype, x, 4, dim);
    an_tensor m = an_lane_tensor(f->lane, AN_F32, n, mean.dim[2], mean.dim[3], mean.dim[1]);
    an_tensor v = an_lane_tensor(f->lane, AN_F32, n, mean.dim[2], mean.dim[3], mean.dim[1]);
    an_vae_encode(&parts(f)->vae, f->lane, image, m, v);
    report_rows(f, "vae_mean", m, &mean, bound);
    report_rows(f, "vae_logvar", v, &logvar, bound);
    free(x);
}

/* ---------------------------------------------------------------- all of them */

static void check_model(const char *name)
{
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        fixture f;
        const bool cpu = strcmp(test_device(), "cpu") == 0;
        if (!cpu && strcmp(runs[i].device, "ref") == 0) continue;
        if (fixture_open(&f, name, cpu ? runs[i].device : test_device(), runs[i].dtype,
                         (size_t)64 << 20)) {
            check_text(&f, runs[i].bound);
            check_unet(&f, "unet_in", "unet_out", 0, runs[i].bound);
            if (an_weights_find(f.golden, "unet_in_6x10", &(an_tensor){0}))
                check_unet(&f, "unet_in_6x10", "unet_out_6x10", 1, runs[i].bound);
            check_decode(&f, runs[i].bound);
            check_encode(&f, runs[i].bound);
        }
        fixture_close(&f);
    }
}

TEST(sd1)
{
    check_model(names[0]);
}

TEST(sd2)
{
    check_model(names[1]);
}

TEST(sdxl)
{
    check_model(names[2]);
}

TEST(lcm)
{
    check_model(names[3]);
}

/* Keys and values in several stacks, of which the arena holds one at a time. */
TEST(context_in_stacks)
{
    const int64_t before = an_unet_stack_outputs;
    an_unet_stack_outputs = 400;
    fixture f;
    if (fixture_open(&f, names[2], test_device(), AN_F32, (size_t)64 << 20)) {
        CHECK(parts(&f)->unet.contexts > 2);
        check_unet(&f, "unet_in", "unet_out", 0, 1e-4);
    }
    fixture_close(&f);
    an_unet_stack_outputs = before;
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
