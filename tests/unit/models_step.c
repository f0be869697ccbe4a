/* The stages through model.h: batch invariance on bytes, the price of a tick against the arena's
 * real peak, what weights and clip_skip do to a text, tiles, NaN, and rows that break the contract.
 */
#include "models_fixture.h"
#include "models/latent_diffusion.h"

static const char *const names[] = {"sd1", "sd2", "sdxl", "lcm", "emoji"};
enum { N_NAMES = 5, N_ROWS = 5 };

static bool step(fixture *f, an_stage stage, an_row *rows, int n)
{
    an_status s = an_model_step(f->model, f->lane, stage, rows, n, &f->err);
    return opened_ok(&f->open, s, an_stage_name(stage));
}

/* ---------------------------------------------------------------- batch invariance */

/* Rows of different content and text lengths, alone and in batches of other orders and neighbours.
 */
static void check_invariance(fixture *f, an_stage stage)
{
    static const int batch[][N_ROWS] = {
        {0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 0, -1}, {1, 2, 4, 0, -1}, {3, 3, 3, 1, -1}};
    an_row alone[N_ROWS];
    for (uint32_t i = 0; i < N_ROWS; i++) {
        int64_t tokens = stage == AN_STAGE_TEXT ? 1 + i % 2 : 32 + 32 * (i % 3);
        alone[i] = row_of(f, stage, i, 5, 6, tokens);
        if (!step(f, stage, &alone[i], 1)) return;
    }
    for (size_t b = 0; b < sizeof batch / sizeof *batch; b++) {
        an_row rows[N_ROWS];
        int n = 0;
        for (; n < N_ROWS && batch[b][n] >= 0; n++) {
            uint32_t i = (uint32_t)batch[b][n];
            int64_t tokens = stage == AN_STAGE_TEXT ? 1 + i % 2 : 32 + 32 * (i % 3);
            rows[n] = row_of(f, stage, i, 5, 6, tokens);
        }
        if (!step(f, stage, rows, n)) return;
        for (int r = 0; r < n; r++)
            for (int o = 0; o < rows[r].n_out; o++) {
                const an_named *got = &rows[r].out[o], *want = &alone[batch[b][r]].out[o];
                CHECK_MSG(memcmp(got->t.data, want->t.data, an_tensor_bytes(&want->t)) == 0,
                          "%s: %s: row %d of batch %zu gives another \"%s\" than alone", f->name,
                          an_stage_name(stage), r, b, want->name);
            }
    }
}

TEST(a_row_does_not_depend_on_its_neighbours)
{
    for (int i = 0; i < N_NAMES; i++) {
        for (int k = 0; k < 2; k++) {
            fixture f;
            if (fixture_open(&f, names[i], "cpu", k ? AN_BF16 : AN_F32, (size_t)64 << 20))
                for (int s = 0; s <= AN_STAGE_ENCODE; s++) check_invariance(&f, (an_stage)s);
            fixture_close(&f);
        }
    }
}

/* ---------------------------------------------------------------- cost */

static void check_cost(fixture *f, an_stage stage, int n, int64_t h, int64_t w, int64_t tokens)
{
    an_row rows[8];
    an_cost cost;
    an_status s = an_model_cost(f->model, stage, n, h, w, tokens, &cost, &f->err);
    if (!opened_ok(&f->open, s, "cost")) return;
    CHECK_MSG(cost.flops > 0 && cost.scratch_bytes > 0, "%s: a tick for nothing", f->name);
    for (int i = 0; i < n; i++) rows[i] = row_of(f, stage, (uint32_t)i, h, w, tokens);
    an_lane_reset(f->lane);
    if (!step(f, stage, rows, n)) return;
    CHECK_MSG(an_lane_peak(f->lane) == cost.scratch_bytes,
              "%s: %s of %d rows, %lldx%lld: the arena's peak is %zu, the price said %zu", f->name,
              an_stage_name(stage), n, (long long)w, (long long)h, an_lane_peak(f->lane),
              cost.scratch_bytes);
    CHECK_NEAR(an_lane_flops(f->lane), cost.flops, cost.flops * 1e-12);

    /* an arena of just that size is enough, one byte less is an error and not a crash */
    an_lane *tight;
    if (!opened_ok(&f->open, an_lane_open(f->device, cost.scratch_bytes, &tight, &f->err), "lane"))
        return;
    s = an_model_step(f->model, tight, stage, rows, n, &f->err);
    opened_ok(&f->open, s, "a step in the arena that the price asks for");
    an_lane_close(tight);
    if (!opened_ok(&f->open, an_lane_open(f->device, cost.scratch_bytes - 64, &tight, &f->err),
                   "lane"))
        return;
    CHECK(an_model_step(f->model, tight, stage, rows, n, &f->err) == AN_NO_MEMORY);
    CHECK(an_lane_status(tight, NULL) == AN_OK);
    an_lane_close(tight);
}

TEST(the_price_of_a_tick_is_what_it_takes)
{
    for (int i = 0; i < N_NAMES; i++) {
        fixture f;
        if (fixture_open(&f, names[i], "cpu", i % 2 ? AN_BF16 : AN_F32, (size_t)64 << 20)) {
            for (int s = 0; s <= AN_STAGE_ENCODE; s++) {
                int64_t tokens = s == AN_STAGE_TEXT ? 2 : 64;
                check_cost(&f, (an_stage)s, 1, 8, 8, tokens);
                check_cost(&f, (an_stage)s, 3, 5, 9, tokens);
            }
            CHECK(an_model_set_vae_tile(f.model, 16, &f.err) == AN_OK);
            check_cost(&f, AN_STAGE_DECODE, 2, 20, 30, 1);
        }
        fixture_close(&f);
    }
}

/* ---------------------------------------------------------------- text */

static void *in_data(an_row *r, const char *name)
{
    return an_row_in(r, name)->data;
}

static float *out_data(an_row *r, const char *name)
{
    return an_row_out(r, name)->data;
}

TEST(weights_scale_tokens_and_keep_the_mean)
{
    fixture f;
    if (fixture_open(&f, "sd1", "cpu", AN_F32, (size_t)64 << 20)) {
        an_row plain = row_of(&f, AN_STAGE_TEXT, 1, 0, 0, 2);
        an_row ones = row_of(&f, AN_STAGE_TEXT, 1, 0, 0, 2), odd = ones;
        odd = row_of(&f, AN_STAGE_TEXT, 1, 0, 0, 2);
        an_named w1 = TENSOR(&f, "weights", AN_F32, 2, 32),
                 w2 = TENSOR(&f, "weights", AN_F32, 2, 32);
        float *w = w2.t.data;
        for (int i = 0; i < 64; i++) ((float *)w1.t.data)[i] = w[i] = 1;
        w[3] = 1.4f; /* in the first chunk only */
        w[4] = 0.5f;
        ((an_named *)(uintptr_t)ones.in)[ones.n_in++] = w1;
        ((an_named *)(uintptr_t)odd.in)[odd.n_in++] = w2;
        an_row rows[3] = {plain, ones, odd};
        if (step(&f, AN_STAGE_TEXT, rows, 3)) {
            const float *p = out_data(&plain, "context"), *o = out_data(&odd, "context");
            size_t bytes = an_tensor_bytes(an_row_out(&plain, "context")), half = bytes / 2;
            CHECK(memcmp(p, out_data(&ones, "context"), bytes) == 0);
            CHECK(memcmp((const char *)p + half, (const char *)o + half, half) == 0);
            int64_t n = 32 * 32;
            double before = 0, after = 0, err = 0;
            for (int64_t i = 0; i < n; i++) {
                before += (double)p[i];
                after += (double)p[i] * (double)w[i / 32];
            }
            for (int64_t i = 0; i < n; i++) {
                double want = (double)p[i] * (double)w[i / 32] * before / after;
                err = fmax(err, fabs(want - (double)o[i]));
            }
            CHECK_MSG(err < 1e-5, "emphasis is off by %g", err);
        }
    }
    fixture_close(&f);
}

static void set_clip_skip(fixture *f, an_row *r, int skip)
{
    an_named t = TENSOR(f, "clip_skip", AN_I32, 1);
    *(int32_t *)t.t.data = skip;
    ((an_named *)(uintptr_t)r->in)[r->n_in++] = t;
}

/* Rows with different clip_skip in one batch, against the golden hidden states. */
TEST(clip_skip_takes_an_earlier_layer)
{
    fixture f;
    if (fixture_open(&f, "sd1", "cpu", AN_F32, (size_t)64 << 20)) {
        an_tensor ids, last, before;
        an_row rows[3];
        if (!opened_tensor(&f.open, "input_ids", &ids) ||
            !opened_tensor(&f.open, "text_last_hidden", &last) ||
            !opened_tensor(&f.open, "text_penultimate", &before))
            return;
        for (int r = 0; r < 3; r++) {
            rows[r] = row_of(&f, AN_STAGE_TEXT, (uint32_t)r, 0, 0, 1);
            memcpy(in_data(&rows[r], "ids"), (int32_t *)ids.data + r * 32, 32 * 4);
        }
        set_clip_skip(&f, &rows[1], 2);
        set_clip_skip(&f, &rows[2], 1);
        if (step(&f, AN_STAGE_TEXT, rows, 3)) {
            /* skipping one layer is the penultimate state, through the final norm */
            const an_clip *c = &((an_latent_diffusion *)f.model->impl)->text[0];
            float want[32 * 32];
            an_tensor x = an_tensor_3d((float *)before.data + 32 * 32, AN_F32, 1, 32, 32);
            an_tensor y = an_tensor_3d(want, AN_F32, 1, 32, 32);
            an_norm_layer(f.lane, &c->final_norm, x, y);
            CHECK(relative_error(out_data(&rows[1], "context"), want, 32 * 32) < 1e-4);
            CHECK(relative_error(out_data(&rows[0], "context"), last.data, 32 * 32) < 1e-4);
            CHECK(relative_error(out_data(&rows[2], "context"), (float *)last.data + 2 * 32 * 32,
                                 32 * 32) < 1e-4);
        }
        an_row bad = row_of(&f, AN_STAGE_TEXT, 1, 0, 0, 1);
        set_clip_skip(&f, &bad, 3);
        CHECK(an_model_step(f.model, f.lane, AN_STAGE_TEXT, &bad, 1, &f.err) == AN_INVALID);
        CHECK_STR(f.err.message, "text: clip_skip is 3, expected 1 to 2");
    }
    fixture_close(&f);
}

/* SDXL's stage: both encoders' penultimate states side by side, and the second's pooled text. */
TEST(two_encoders_share_a_context)
{
    fixture f;
    an_tensor ids, a, b, pooled;
    if (fixture_open(&f, "sdxl", "cpu", AN_F32, (size_t)64 << 20) &&
        opened_tensor(&f.open, "input_ids", &ids) &&
        opened_tensor(&f.open, "text_penultimate", &a) &&
        opened_tensor(&f.open, "text2_penultimate", &b) &&
        opened_tensor(&f.open, "text2_pooled", &pooled)) {
        an_row rows[3];
        for (int r = 0; r < 3; r++) {
            rows[r] = row_of(&f, AN_STAGE_TEXT, (uint32_t)r, 0, 0, 1);
            memcpy(in_data(&rows[r], "ids"), (int32_t *)ids.data + r * 32, 32 * 4);
            memcpy(in_data(&rows[r], "ids2"), (int32_t *)ids.data + r * 32, 32 * 4);
        }
        if (step(&f, AN_STAGE_TEXT, rows, 3))
            for (int r = 0; r < 3; r++) {
                float want[32 * 80];
                for (int t = 0; t < 32; t++) {
                    memcpy(want + t * 80, (float *)a.data + (r * 32 + t) * 32, 32 * 4);
                    memcpy(want + t * 80 + 32, (float *)b.data + (r * 32 + t) * 48, 48 * 4);
                }
                CHECK(relative_error(out_data(&rows[r], "context"), want, 32 * 80) < 1e-4);
                CHECK(relative_error(out_data(&rows[r], "pooled"), (float *)pooled.data + r * 48,
                                     48) < 1e-4);
            }
    }
    fixture_close(&f);
}

/* ---------------------------------------------------------------- denoise */

/* LCM: the guidance scale through the stage is the embedding of diffusers' pipeline through the
 * network: [sin(1000 w f_i), cos(1000 w f_i)], f_i = 10000^(-i / (half - 1)), w = scale - 1. */
TEST(guidance_is_embedded)
{
    fixture f;
    if (fixture_open(&f, "lcm", "cpu", AN_F32, (size_t)64 << 20)) {
        an_latent_diffusion *d = f.model->impl;
        an_row r = row_of(&f, AN_STAGE_DENOISE, 3, 4, 6, 32);
        float w[32], t = *(float *)in_data(&r, "timestep");
        *(float *)in_data(&r, "guidance") = 8.5f;
        for (int i = 0; i < 16; i++) {
            double x = 7500.0 * exp(-log(10000.0) * i / 15);
            w[i] = (float)sin(x);
            w[16 + i] = (float)cos(x);
        }
        if (step(&f, AN_STAGE_DENOISE, &r, 1)) {
            an_lane_reset(f.lane);
            int64_t start = 0, len = 32;
            an_unet_args a = {.timestep = &t, .context_start = &start, .context_len = &len};
            const float *latent = in_data(&r, "latent"), *scale = in_data(&r, "scale");
            a.x = an_lane_tensor(f.lane, AN_F32, 1, 4, 6, 4);
            a.y = an_lane_tensor(f.lane, AN_F32, 1, 4, 6, 4);
            an_latent_in(f.lane, &latent, scale, a.x);
            a.context = *an_row_in(&r, "context");
            a.guidance = an_tensor_2d(w, AN_F32, 1, 32);
            an_unet_forward(&d->unet, f.lane, &a);
            opened_ok(&f.open, an_lane_status(f.lane, &f.err), "unet");
            CHECK(relative_error(out_data(&r, "prediction"), a.y.data, 4 * 6 * 4) < 1e-4);
        }
    }
    fixture_close(&f);
}

/* Sizes down to one latent, and sides that are odd on every level. */
TEST(any_size_of_latent)
{
    static const int64_t size[][2] = {{1, 1}, {1, 9}, {3, 5}, {13, 7}};
    for (int i = 0; i < N_NAMES; i++) {
        fixture cpu, ref;
        bool ok = fixture_open(&cpu, names[i], "cpu", AN_F32, (size_t)64 << 20);
        /* the demo network is too large for the reference */
        ok &= i == 4 || fixture_open(&ref, names[i], "ref", AN_F32, (size_t)64 << 20);
        for (int k = 0; ok && k < 4; k++) {
            int64_t h = size[k][0], w = size[k][1], n = h * w * cpu.model->info.latent_channels;
            an_row a = row_of(&cpu, AN_STAGE_DENOISE, 7, h, w, 32);
            if (!step(&cpu, AN_STAGE_DENOISE, &a, 1) || i == 4) continue;
            an_row b = row_of(&ref, AN_STAGE_DENOISE, 7, h, w, 32);
            if (!step(&ref, AN_STAGE_DENOISE, &b, 1)) continue;
            double e = relative_error(out_data(&a, "prediction"), out_data(&b, "prediction"), n);
            CHECK_MSG(e < 1e-4, "%s: %lldx%lld: cpu and ref differ by %g", names[i], (long long)w,
                      (long long)h, e);
        }
        fixture_close(&cpu);
        if (i != 4) fixture_close(&ref);
    }
}

/* ---------------------------------------------------------------- pictures */

/* diffusers' tiled_decode, spelled out on whole tiles in f32, then as U8. */
static void tiled_reference(fixture *f, const float *latent, int64_t h, int64_t w, int64_t tile,
                            uint8_t *out)
{
    const an_latent_diffusion *d = f->model->impl;
    int64_t c = 4, k = f->model->info.factor, step_ = tile * 3 / 4, over = tile * k / 4;
    int64_t keep = tile * k - over, cols = (w + step_ - 1) / step_, rows = (h + step_ - 1) / step_;
    float **t = calloc((size_t)(rows * cols), sizeof *t);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            int64_t y0 = i * step_, x0 = j * step_;
            int64_t th = h - y0 < tile ? h - y0 : tile, tw = w - x0 < tile ? w - x0 : tile;
            float *z = malloc((size_t)(th * tw * c) * sizeof *z);
            for (int64_t y = 0; y < th; y++)
                memcpy(z + y * tw * c, latent + ((y0 + y) * w + x0) * c,
                       (size_t)(tw * c) * sizeof *z);
            float *p = t[i * cols + j] = fixture_alloc(f, (size_t)(th * tw * k * k * 3) * 4);
            const float *row = z;
            an_lane_reset(f->lane);
            an_vae_decode(&d->vae, f->lane, AN_F32, &row, th, tw,
                          an_tensor_4d(p, AN_F32, 1, th * k, tw * k, 3));
            free(z);
            int64_t ph = th * k, pw = tw * k;
            int64_t aw = (w - (x0 - step_) < tile ? w - (x0 - step_) : tile) * k; /* left one */
            int64_t ah = (h - (y0 - step_) < tile ? h - (y0 - step_) : tile) * k; /* upper one */
            int64_t ey = over < ph ? over : ph, ex = over < pw ? over : pw;
            for (int64_t y = 0; i && y < ey; y++)
                for (int64_t x = 0; x < pw * 3; x++) {
                    float u = t[(i - 1) * cols + j][(ah - ey + y) * pw * 3 + x];
                    float s = (float)y / (float)ey;
                    p[y * pw * 3 + x] = u * (1 - s) + p[y * pw * 3 + x] * s;
                }
            for (int64_t y = 0; j && y < ph; y++)
                for (int64_t x = 0; x < ex * 3; x++) {
                    float u = t[i * cols + j - 1][(y * aw + aw - ex) * 3 + x];
                    float s = (float)(x / 3) / (float)ex;
                    p[y * pw * 3 + x] = u * (1 - s) + p[y * pw * 3 + x] * s;
                }
            for (int64_t y = 0; y < ph && y < keep; y++)
                for (int64_t x = 0; x < pw * 3 && x < keep * 3; x++) {
                    double v = (double)p[y * pw * 3 + x] / 2 + 0.5;
                    out[((y0 * k + y) * w * k + x0 * k) * 3 + x] =
                        (uint8_t)lrint(fmin(fmax(v, 0), 1) * 255);
                }
        }
    free(t);
}

TEST(tiles_blend_as_in_diffusers)
{
    static const int64_t size[][2] = {{20, 20}, {17, 40}, {33, 16}, {24, 37}};
    fixture f;
    if (fixture_open(&f, "lcm", "cpu", AN_F32, (size_t)128 << 20)) {
        int64_t k = f.model->info.factor;
        for (int i = 0; i < 4; i++) {
            int64_t h = size[i][0], w = size[i][1], n = h * w * k * k * 3, off = 0;
            an_row r = row_of(&f, AN_STAGE_DECODE, (uint32_t)i, h, w, 1);
            uint8_t *want = fixture_alloc(&f, (size_t)n);
            an_lane_reset(f.lane);
            CHECK(an_model_set_vae_tile(f.model, 16, &f.err) == AN_OK);
            if (!step(&f, AN_STAGE_DECODE, &r, 1)) continue;
            tiled_reference(&f, in_data(&r, "latent"), h, w, 16, want);
            const uint8_t *got = an_row_out(&r, "image")->data;
            for (int64_t p = 0; p < n; p++) off += abs(got[p] - want[p]) > 1;
            CHECK_MSG(off == 0, "%lldx%lld: %lld values of %lld are off", (long long)w,
                      (long long)h, (long long)off, (long long)n);
            /* up to the edge nothing is cut */
            an_row whole = row_of(&f, AN_STAGE_DECODE, 9, 16, 16, 1);
            an_row never = row_of(&f, AN_STAGE_DECODE, 9, 16, 16, 1);
            step(&f, AN_STAGE_DECODE, &whole, 1);
            CHECK(an_model_set_vae_tile(f.model, 0, &f.err) == AN_OK);
            step(&f, AN_STAGE_DECODE, &never, 1);
            CHECK(memcmp(an_row_out(&whole, "image")->data, an_row_out(&never, "image")->data,
                         (size_t)(256 * k * k * 3)) == 0);
        }
        CHECK(an_model_set_vae_tile(f.model, 15, &f.err) == AN_INVALID);
        CHECK(an_model_set_vae_tile(f.model, -1, &f.err) == AN_INVALID);
    }
    fixture_close(&f);
}

TEST(a_nan_picture_is_an_error)
{
    fixture f;
    if (fixture_open(&f, "lcm", "cpu", AN_F32, (size_t)64 << 20)) {
        an_row rows[2] = {row_of(&f, AN_STAGE_DECODE, 1, 4, 4, 1),
                          row_of(&f, AN_STAGE_DECODE, 2, 4, 4, 1)};
        ((float *)in_data(&rows[1], "latent"))[5] = NAN;
        CHECK(an_model_step(f.model, f.lane, AN_STAGE_DECODE, rows, 2, &f.err) == AN_INTERNAL);
        CHECK_MSG(strstr(f.err.message, "row 1: the picture is NaN") != NULL, "%s", f.err.message);
        step(&f, AN_STAGE_DECODE, rows, 1); /* the lane is usable again */
    }
    fixture_close(&f);
}

/* A picture through encoder and decoder of the demo model comes back alike. */
TEST(demo_pictures_survive_the_vae)
{
    fixture f;
    if (fixture_open(&f, "emoji", "cpu", AN_F32, (size_t)256 << 20)) {
        int64_t e = 128, n = e * e * 3;
        an_row in = row_of(&f, AN_STAGE_ENCODE, 1, e / 8, e / 8, 1);
        an_row out = row_of(&f, AN_STAGE_DECODE, 1, e / 8, e / 8, 1);
        uint8_t *picture = in_data(&in, "image");
        for (int64_t i = 0; i < n; i++) {
            int64_t x = i / 3 % e - 64, y = i / 3 / e - 64;
            bool inside = x * x + y * y < 40 * 40; /* a red disc on white */
            picture[i] = !inside ? 255 : i % 3 ? 40 : 220;
        }
        if (step(&f, AN_STAGE_ENCODE, &in, 1)) {
            float *z = in_data(&out, "latent");
            const float *mean = out_data(&in, "mean");
            for (int64_t i = 0; i < 16 * 16 * 8; i++) z[i] = mean[i] * f.model->info.scaling_factor;
            if (step(&f, AN_STAGE_DECODE, &out, 1)) {
                const uint8_t *back = an_row_out(&out, "image")->data;
                double err = 0;
                for (int64_t i = 0; i < n; i++) err += fabs((double)back[i] - picture[i]);
                CHECK_MSG(err / (double)n < 8, "mean difference %g of 255", err / (double)n);
            }
        }
    }
    fixture_close(&f);
}

/* ---------------------------------------------------------------- contract */

TEST(rows_that_break_the_contract_are_refused)
{
    fixture f;
    if (fixture_open(&f, "sd1", "cpu", AN_F32, (size_t)64 << 20)) {
        an_row rows[2] = {row_of(&f, AN_STAGE_DENOISE, 1, 4, 4, 32),
                          row_of(&f, AN_STAGE_DENOISE, 2, 4, 6, 32)};
        CHECK(an_model_step(f.model, f.lane, AN_STAGE_DENOISE, rows, 2, &f.err) == AN_INVALID);
        CHECK_STR(f.err.message, "denoise: row 1: \"latent\" is F32 [4,6,4], expected F32 [4,4,4]");
        rows[0].n_out = 0;
        CHECK(an_model_step(f.model, f.lane, AN_STAGE_DENOISE, rows, 1, &f.err) == AN_INVALID);
        CHECK_STR(f.err.message, "denoise: row 0: no tensor \"prediction\" among its outputs");
        an_row bf16 = row_of(&f, AN_STAGE_DENOISE, 1, 4, 4, 32);
        an_row_out(&bf16, "prediction")->dtype = AN_BF16;
        CHECK(an_model_step(f.model, f.lane, AN_STAGE_DENOISE, &bf16, 1, &f.err) == AN_INVALID);
        an_row empty = {NULL, 0, NULL, 0};
        CHECK(an_model_step(f.model, f.lane, AN_STAGE_TEXT, &empty, 1, &f.err) == AN_INVALID);
        CHECK(an_model_step(f.model, f.lane, AN_STAGE_TEXT, &empty, 0, &f.err) == AN_INVALID);
        an_row ids = row_of(&f, AN_STAGE_TEXT, 1, 0, 0, 1);
        ((int32_t *)in_data(&ids, "ids"))[4] = 99999;
        CHECK(an_model_step(f.model, f.lane, AN_STAGE_TEXT, &ids, 1, &f.err) == AN_INVALID);
        an_cost cost;
        CHECK(an_model_cost(f.model, AN_STAGE_DENOISE, 0, 4, 4, 32, &cost, &f.err) == AN_INVALID);
        CHECK(an_model_cost(f.model, AN_STAGE_DENOISE, 1, 0, 4, 32, &cost, &f.err) == AN_INVALID);
        CHECK(an_model_cost(f.model, AN_STAGE_DENOISE, 1, 4, 4, 0, &cost, &f.err) == AN_INVALID);
    }
    fixture_close(&f);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
