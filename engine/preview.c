/* preview.c: a glimpse of a picture that is still noise: its denoised estimate through a linear map
 * from latent channels to RGB, one pixel per latent pixel. Models that bring no map get one fitted
 * at load: a few smooth latents are decoded, and RGB is regressed on the latents. */
#include "state.h"

#include <math.h>
#include <stdlib.h>

#define FIT_PICTURES 3
#define FIT_EDGE     16
#define MAX_CHANNELS 16
#define TERMS        (MAX_CHANNELS + 1) /* and the constant */

static int used_channels(const an_slot *s)
{
    int c = s->files->entry.info.latent_channels;
    return c < MAX_CHANNELS ? c : MAX_CHANNELS;
}

/* ---------------------------------------------------------------- using the map */

/* Previews are spread evenly over the calls, the finished picture not counted among them. */
bool an_preview_due(const an_task *t)
{
    const an_job *j = t->job;
    if (j->every_step) return true;
    if (t->partial >= j->previews) return false;
    double at = ceil((double)(t->partial + 1) * j->calls / (j->previews + 1));
    return t->call + 1 >= (int)at;
}

static uint8_t to_byte(float v)
{
    v = (v + 1) * 127.5f;
    return (uint8_t)(v > 0 ? v < 255 ? v + 0.5f : 255 : 0); /* a NaN is black */
}

void an_preview_rgb(const an_slot *s, const float *latent, int64_t pixels, int channels,
                    uint8_t *rgb)
{
    int used = used_channels(s);
    for (int64_t p = 0; p < pixels; p++)
        for (int k = 0; k < 3; k++) {
            float v = s->rgb_bias[k];
            for (int c = 0; c < used; c++) v += latent[p * channels + c] * s->rgb[c][k];
            rgb[p * 3 + k] = to_byte(v);
        }
}

/* ---------------------------------------------------------------- fitting it */

/* Bilinear between random corners: what pictures look like to a VAE from far away. [h, w, c] */
static void smooth_latent(an_rng *rng, int64_t h, int64_t w, int c, int cells, float *out)
{
    float corner[9 * 9 * 64];
    int n = cells + 1;
    an_rng_normal(rng, corner, (size_t)(n * n * c));
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            float fy = (float)y * (float)cells / (float)h, fx = (float)x * (float)cells / (float)w;
            int cy = (int)fy, cx = (int)fx;
            fy -= (float)cy;
            fx -= (float)cx;
            for (int k = 0; k < c; k++) {
                const float *p = corner + (cy * n + cx) * c + k, *q = p + n * c;
                out[(y * w + x) * c + k] =
                    (1 - fy) * ((1 - fx) * p[0] + fx * p[c]) + fy * ((1 - fx) * q[0] + fx * q[c]);
            }
        }
}

typedef struct normal_equations {
    double a[TERMS][TERMS], b[TERMS][3];
} normal_equations;

/* RGB in [-1, 1] averaged over the factor x factor pixels of one latent pixel. */
static void add_samples(normal_equations *q, const float *latent, const uint8_t *rgb, int64_t h,
                        int64_t w, int c, int used, int factor)
{
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            double v[TERMS], mean[3] = {0};
            for (int i = 0; i < used; i++) v[i] = latent[(y * w + x) * c + i];
            v[used] = 1;
            for (int i = 0; i < factor; i++)
                for (int k = 0; k < factor * 3; k++)
                    mean[k % 3] += rgb[((y * factor + i) * w + x) * factor * 3 + k];
            for (int i = 0; i <= used; i++) {
                for (int k = 0; k <= used; k++) q->a[i][k] += v[i] * v[k];
                for (int k = 0; k < 3; k++)
                    q->b[i][k] += v[i] * (mean[k] / (factor * factor) / 127.5 - 1);
            }
        }
}

/* Gauss with pivots; a little ridge keeps a channel that does nothing at zero. */
static void solve(normal_equations *q, int n)
{
    for (int i = 0; i < n; i++) q->a[i][i] += 1e-3;
    for (int i = 0; i < n; i++) {
        int best = i;
        for (int r = i + 1; r < n; r++)
            if (fabs(q->a[r][i]) > fabs(q->a[best][i])) best = r;
        for (int k = 0; k < n; k++) {
            double t = q->a[i][k];
            q->a[i][k] = q->a[best][k];
            q->a[best][k] = t;
        }
        for (int k = 0; k < 3; k++) {
            double t = q->b[i][k];
            q->b[i][k] = q->b[best][k];
            q->b[best][k] = t;
        }
        for (int r = 0; r < n; r++) {
            if (r == i) continue;
            double f = q->a[r][i] / q->a[i][i];
            for (int k = i; k < n; k++) q->a[r][k] -= f * q->a[i][k];
            for (int k = 0; k < 3; k++) q->b[r][k] -= f * q->b[i][k];
        }
    }
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 3; k++) q->b[i][k] /= q->a[i][i];
}

static an_status decode(an_slot *s, const float *latent, int64_t h, int64_t w, an_block *memory,
                        uint8_t *rgb, an_error *err)
{
    int c = s->files->entry.info.latent_channels, f = s->files->entry.info.factor;
    size_t bytes = (size_t)(h * w * c) * sizeof(float);
    size_t at = (bytes + 63) & ~(size_t)63;
    an_lane *l = an_slot_lane(s);
    an_lane_reset(l);
    an_upload(l, memory->data, latent, bytes);
    an_named in = {"latent", an_tensor_3d(memory->data, AN_F32, h, w, c)};
    an_named out = {"image", an_tensor_3d((char *)memory->data + at, AN_U8, h * f, w * f, 3)};
    an_row row = {&in, 1, &out, 1};
    an_status st = an_model_step(s->model, l, AN_STAGE_DECODE, &row, 1, err);
    an_download(l, rgb, (char *)memory->data + at, (size_t)(h * w * f * f) * 3);
    an_lane_sync(l);
    return st ? st : an_lane_status(l, err);
}

static an_status fit(an_unit *u, an_slot *s, normal_equations *q, an_error *err)
{
    const an_model_info *i = &s->files->entry.info;
    int c = i->latent_channels, f = i->factor;
    int64_t h = i->height / f < FIT_EDGE ? i->height / f : FIT_EDGE;
    int64_t w = i->width / f < FIT_EDGE ? i->width / f : FIT_EDGE;
    if (c > 64) return an_fail(err, AN_INVALID, "%d latent channels are too many to preview", c);
    size_t latent_bytes = ((size_t)(h * w * c) * sizeof(float) + 63) & ~(size_t)63;
    size_t rgb_bytes = (size_t)(h * w * f * f) * 3;
    an_block memory;
    an_status st = an_block_take(u, latent_bytes + rgb_bytes, &memory, err);
    if (st) return st;
    float *latent = malloc(latent_bytes);
    uint8_t *rgb = malloc(rgb_bytes);
    an_rng *rng = malloc(sizeof *rng);
    if (!latent || !rgb || !rng) st = an_fail(err, AN_NO_MEMORY, "no memory to fit previews");
    for (int k = 0; k < FIT_PICTURES && !st; k++) {
        an_rng_init(rng, AN_RNG_GPU, (uint64_t)k);
        smooth_latent(rng, h, w, c, 2 << k, latent);
        st = decode(s, latent, h, w, &memory, rgb, err);
        if (!st) add_samples(q, latent, rgb, h, w, c, used_channels(s), f);
    }
    free(rng);
    free(rgb);
    free(latent);
    an_block_give(u, &memory);
    return st;
}

void an_preview_fit(an_unit *u, an_slot *s)
{
    const an_model_info *i = an_model_describe(s->model);
    if (i->has_latent_rgb) {
        memcpy(s->rgb, i->latent_rgb, sizeof s->rgb);
        memcpy(s->rgb_bias, i->latent_rgb_bias, sizeof s->rgb_bias);
        return;
    }
    normal_equations q = {0};
    an_error err;
    if (fit(u, s, &q, &err)) {
        an_log(AN_LOG_WARN, "%s: previews stay grey: %s", s->files->entry.id, err.message);
        return;
    }
    int used = used_channels(s);
    solve(&q, used + 1);
    for (int k = 0; k < 3; k++) {
        for (int c = 0; c < used; c++) s->rgb[c][k] = (float)q.b[c][k];
        s->rgb_bias[k] = (float)q.b[used][k];
    }
}
