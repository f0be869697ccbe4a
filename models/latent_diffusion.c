/* latent_diffusion.c: Stable Diffusion 1, 2, XL, LCM and Turbo (Rombach et al. 2022): a text
 * becomes a context, noise becomes a latent under its guidance, a latent becomes a picture. Each
 * stage below advances a batch of rows by one tick; what a sampler does between ticks is the
 * engine's.
 *
 * Everything is an op on the lane; memory is the lane's arena. */
#include "latent_diffusion.h"

#include <math.h>
#include <stdlib.h>

static const an_latent_diffusion *parts(const an_model *m)
{
    return m->impl;
}

static const float *host_f32(const an_row *r, const char *name)
{
    const an_tensor *t = an_row_in(r, name);
    return t ? t->data : NULL;
}

/* ---------------------------------------------------------------- text */

/* Chunks of all rows, one after the other: each is a sequence of its own to the encoder. */
typedef struct sequences {
    int n, first[AN_MAX_ROWS]; /* first: of each row */
    int row[AN_MAX_ROWS];      /* of each sequence */
} sequences;

static int clip_skip(const an_row *r)
{
    const an_tensor *t = an_row_in(r, "clip_skip");
    return t ? *(const int32_t *)t->data : 1;
}

/* Which hidden state a row wants of an encoder. clip_skip 1 is what the model was trained with: the
 * last layer's output for SD, the one before it for SDXL. */
static int hidden_layer(const an_latent_diffusion *d, const an_clip *c, const an_row *r)
{
    int layer = c->config.layers + 1 - clip_skip(r) - (d->config.texts > 1);
    return layer < 0 ? 0 : layer;
}

/* A1111's "original" emphasis: every token is scaled by its weight, then the whole chunk so that
 * its mean is what it was. hidden: device F32 [t, width], in place; weight: host [t]. */
static void emphasise(an_lane *l, an_tensor hidden, const float *weight)
{
    enum { CHUNK = 1024 };
    float part[CHUNK] = {0};
    int64_t count = an_tensor_count(&hidden), width = hidden.dim[hidden.ndim - 1];
    double before = 0, after = 0;
    bool plain = true;
    for (int64_t t = 0; t < count / width; t++) plain &= weight[t] == 1;
    if (plain || an_lane_counting(l)) return;
    for (int pass = 0; pass < 2; pass++) {
        double restore = pass && after != 0 ? before / after : 1; /* sums of the first pass */
        for (int64_t at = 0; at < count; at += CHUNK) {
            int64_t n = count - at < CHUNK ? count - at : CHUNK;
            void *device = an_view_of(hidden, at, n).data;
            an_download(l, part, device, (size_t)n * sizeof *part);
            for (int64_t i = 0; i < n; i++) {
                float scaled = part[i] * weight[(at + i) / width];
                before += pass ? 0 : (double)part[i];
                after += pass ? 0 : (double)scaled;
                part[i] = (float)(scaled * restore);
            }
            if (pass) an_upload(l, device, part, (size_t)n * sizeof *part);
        }
    }
}

/* One encoder over all sequences. hidden F32 [seqs, t, width]; pooled F32 [seqs, pooled_dim], or no
 * data if this encoder pools nothing. */
static void run_encoder(const an_latent_diffusion *d, int which, an_lane *l, const an_row *rows,
                        const sequences *s, an_tensor hidden, const an_tensor *pooled)
{
    const an_clip *c = &d->text[which];
    int64_t t = hidden.dim[1], eos[AN_MAX_ROWS];
    int layer[AN_MAX_ROWS];
    size_t mark = an_lane_mark(l);
    an_tensor ids = an_lane_tensor(l, AN_I32, s->n, t);
    for (int i = 0; i < s->n; i++) {
        const an_row *r = &rows[s->row[i]];
        const int32_t *host = an_row_in(r, which ? "ids2" : "ids")->data;
        host += (i - s->first[s->row[i]]) * t;
        layer[i] = hidden_layer(d, c, r);
        eos[i] = an_clip_eos_at(&c->config, host, t);
        an_upload(l, an_view_of(ids, i * t, t).data, host, (size_t)t * sizeof *host);
    }
    an_clip_args a = {.ids = ids, .layer = layer, .normed = d->config.texts == 1, .hidden = hidden};
    if (pooled) {
        a.eos = eos;
        a.pooled = *pooled;
    }
    an_clip_forward(c, l, &a);
    for (int i = 0; i < s->n; i++) {
        const float *w = host_f32(&rows[s->row[i]], which ? "weights2" : "weights");
        if (w) emphasise(l, an_row_view(hidden, i), w + (i - s->first[s->row[i]]) * t);
    }
    an_lane_release(l, mark);
}

/* The row's sequences of `hidden` as one [tokens, width] of the model's dtype. */
static an_tensor row_context(an_lane *l, an_dtype dtype, an_tensor hidden, int first,
                             int64_t chunks)
{
    int64_t t = hidden.dim[1], width = hidden.dim[2];
    an_tensor y = an_lane_tensor(l, dtype, chunks * t, width);
    an_copy(l, an_view_of(hidden, first * t * width, chunks * t, width), y);
    return y;
}

static void encode_text(const an_model *m, an_lane *l, an_row *rows, int n)
{
    const an_latent_diffusion *d = parts(m);
    sequences s = {.n = 0};
    for (int r = 0; r < n; r++) {
        int64_t chunks = an_row_in(&rows[r], "ids")->dim[0];
        s.first[r] = s.n;
        int skip = clip_skip(&rows[r]);
        if (skip < 1 || skip > m->info.layers_text) {
            an_lane_fail(l, AN_INVALID, "clip_skip is %d, expected 1 to %d", skip,
                         m->info.layers_text);
            return;
        }
        if (chunks > AN_MAX_ROWS - s.n) {
            an_lane_fail(l, AN_INVALID, "over %d chunks of text in one batch", AN_MAX_ROWS);
            return;
        }
        for (int64_t i = 0; i < chunks; i++) s.row[s.n++] = r;
    }
    int64_t t = m->info.chunk_len;
    an_tensor hidden[2] = {{0}, {0}}, pooled = {0};
    if (m->info.pooled_dim) pooled = an_lane_tensor(l, AN_F32, s.n, m->info.pooled_dim);
    for (int e = 0; e < d->config.texts; e++) {
        hidden[e] = an_lane_tensor(l, AN_F32, s.n, t, d->config.text[e].width);
        run_encoder(d, e, l, rows, &s, hidden[e], e == 1 ? &pooled : NULL);
    }
    for (int r = 0; r < n; r++) {
        an_tensor context = *an_row_out(&rows[r], "context");
        int64_t chunks = an_row_in(&rows[r], "ids")->dim[0];
        size_t mark = an_lane_mark(l);
        an_tensor first = row_context(l, m->dtype, hidden[0], s.first[r], chunks);
        if (d->config.texts == 1)
            an_copy(l, first, context);
        else
            an_concat(l, first, row_context(l, m->dtype, hidden[1], s.first[r], chunks), context);
        an_lane_release(l, mark);
        /* a text of several chunks is pooled by its first, as A1111 does */
        if (m->info.pooled_dim)
            an_copy(l, an_row_view(pooled, s.first[r]), *an_row_out(&rows[r], "pooled"));
    }
}

/* ---------------------------------------------------------------- denoise */

/* Contexts of the rows, one after the other. y [tokens of all, context_dim] */
static an_tensor gather_context(const an_model *m, an_lane *l, const an_row *rows, int n,
                                int64_t *start, int64_t *len)
{
    int64_t total = 0, dim = m->info.context_dim;
    for (int r = 0; r < n; r++) {
        start[r] = total;
        len[r] = an_row_in(&rows[r], "context")->dim[0];
        total += len[r];
    }
    an_tensor y = an_lane_tensor(l, m->dtype, total, dim);
    for (int r = 0; r < n; r++)
        an_copy(l, *an_row_in(&rows[r], "context"), an_view_of(y, start[r] * dim, len[r], dim));
    return y;
}

/* SDXL: pooled text [n, pooled_dim], and the six sizes on the host. */
static an_tensor gather_added(const an_model *m, an_lane *l, const an_row *rows, int n,
                              float *time_ids)
{
    an_tensor y = an_lane_tensor(l, AN_F32, n, m->info.pooled_dim);
    for (int r = 0; r < n; r++) {
        an_copy(l, *an_row_in(&rows[r], "pooled"), an_row_view(y, r));
        memcpy(time_ids + r * 6, host_f32(&rows[r], "time_ids"), 6 * sizeof *time_ids);
    }
    return y;
}

/* LCM: the guidance scale is an input of the network: w = scale - 1, as a sinusoidal embedding of
 * 1000 w (sin first, last frequency exactly 1/10000). y F32 [n, guidance_dim] */
static an_tensor embed_guidance(const an_latent_diffusion *d, an_lane *l, const an_row *rows, int n)
{
    float w[AN_MAX_ROWS];
    an_tensor y = an_lane_tensor(l, AN_F32, n, d->config.unet.guidance_dim);
    for (int r = 0; r < n; r++) w[r] = (*host_f32(&rows[r], "guidance") - 1) * 1000;
    an_timestep_embedding(l, w, false, 1, 1, y);
    return y;
}

static void denoise(const an_model *m, an_lane *l, an_row *rows, int n)
{
    const an_latent_diffusion *d = parts(m);
    const an_tensor *shape = an_row_in(&rows[0], "latent");
    int64_t h = shape->dim[0], w = shape->dim[1], c = m->info.latent_channels;
    const float *latent[AN_MAX_ROWS];
    float scale[AN_MAX_ROWS], timestep[AN_MAX_ROWS], time_ids[AN_MAX_ROWS * 6];
    int64_t start[AN_MAX_ROWS], len[AN_MAX_ROWS];
    for (int r = 0; r < n; r++) {
        latent[r] = an_row_in(&rows[r], "latent")->data;
        scale[r] = *host_f32(&rows[r], "scale");
        timestep[r] = *host_f32(&rows[r], "timestep");
    }
    an_lane_label(l, "denoise");
    an_tensor y = an_lane_tensor(l, AN_F32, n, h, w, c);
    an_unet_args a = {.timestep = timestep, .time_ids = time_ids, .y = y};
    a.x = an_lane_tensor(l, m->dtype, n, h, w, c);
    an_latent_in(l, latent, scale, a.x);
    a.context = gather_context(m, l, rows, n, start, len);
    a.context_start = start;
    a.context_len = len;
    an_lane_keep(l, start, (size_t)n * sizeof *start);
    an_lane_keep(l, len, (size_t)n * sizeof *len);
    if (m->info.uses_time_ids) a.pooled = gather_added(m, l, rows, n, time_ids);
    if (m->info.guidance_embed) a.guidance = embed_guidance(d, l, rows, n);

    a.repeat = (an_repeat){m->owner, {AN_STAGE_DENOISE, n, h, w, a.context.dim[0]}};
    an_unet_forward(&d->unet, l, &a);

    for (int r = 0; r < n; r++) an_copy(l, an_row_view(y, r), *an_row_out(&rows[r], "prediction"));
}

/* ---------------------------------------------------------------- decode, encode */

static void check_picture(an_lane *l, int row, int64_t n_nan)
{
    an_lane_label(l, "decode");
    if (n_nan)
        an_lane_fail(l, AN_INTERNAL, "row %d: the picture is NaN (%lld values)", row,
                     (long long)n_nan);
}

/* A picture [h, w, 3] as a batch of one. */
static an_tensor batch_of_one(an_tensor t)
{
    return an_view_of(t, 0, 1, t.dim[0], t.dim[1], t.dim[2]);
}

static void decode(const an_model *m, an_lane *l, an_row *rows, int n)
{
    const an_latent_diffusion *d = parts(m);
    const an_tensor *shape = an_row_in(&rows[0], "latent");
    int64_t h = shape->dim[0], w = shape->dim[1], f = m->info.factor;
    int64_t n_nan[AN_MAX_ROWS] = {0};
    const float *latent[AN_MAX_ROWS];
    for (int r = 0; r < n; r++) latent[r] = an_row_in(&rows[r], "latent")->data;
    if (m->vae_tile && (h > m->vae_tile || w > m->vae_tile)) {
        int tile = m->vae_tile < 64 ? m->vae_tile & ~3 : 64;
        for (int r = 0; r < n; r++)
            an_vae_decode_tiled(&d->vae, l, m->dtype, latent[r], h, w, tile,
                                batch_of_one(*an_row_out(&rows[r], "image")), &n_nan[r]);
    } else {
        an_tensor picture = an_lane_tensor(l, AN_F32, n, h * f, w * f, 3);
        an_vae_decode(&d->vae, l, m->dtype, latent, h, w, picture);
        for (int r = 0; r < n; r++)
            an_image_out(l, an_row_view(picture, r), batch_of_one(*an_row_out(&rows[r], "image")),
                         &n_nan[r]);
    }
    an_lane_sync(l); /* n_nan is the device's until then */
    for (int r = 0; r < n; r++) check_picture(l, r, n_nan[r]);
}

/* As diffusers' DiagonalGaussianDistribution: exp(logvar) must stay finite. t: device F32 */
static void clamp_logvar(an_lane *l, an_tensor t)
{
    enum { CHUNK = 1024 };
    float part[CHUNK] = {0};
    int64_t count = an_tensor_count(&t);
    for (int64_t at = 0; at < count && !an_lane_counting(l); at += CHUNK) {
        int64_t n = count - at < CHUNK ? count - at : CHUNK;
        void *device = an_view_of(t, at, n).data;
        an_download(l, part, device, (size_t)n * sizeof *part);
        for (int64_t i = 0; i < n; i++) part[i] = fminf(fmaxf(part[i], -30), 20);
        an_upload(l, device, part, (size_t)n * sizeof *part);
    }
}

static void encode(const an_model *m, an_lane *l, an_row *rows, int n)
{
    const an_latent_diffusion *d = parts(m);
    const an_tensor *shape = an_row_in(&rows[0], "image");
    int64_t h = shape->dim[0], w = shape->dim[1], f = m->info.factor, c = m->info.latent_channels;
    an_lane_label(l, "encode");
    an_tensor mean = an_lane_tensor(l, AN_F32, n, h / f, w / f, c);
    an_tensor logvar = an_lane_tensor(l, AN_F32, n, h / f, w / f, c);
    an_tensor picture = an_lane_tensor(l, m->dtype, n, h, w, 3);
    for (int r = 0; r < n; r++)
        an_image_in(l, batch_of_one(*an_row_in(&rows[r], "image")), an_row_view(picture, r));

    an_vae_encode(&d->vae, l, picture, mean, logvar);

    for (int r = 0; r < n; r++) {
        an_tensor lv = *an_row_out(&rows[r], "logvar");
        an_copy(l, an_row_view(mean, r), *an_row_out(&rows[r], "mean"));
        an_copy(l, an_row_view(logvar, r), lv);
        clamp_logvar(l, lv);
    }
}

static void step(const an_model *m, an_lane *l, an_stage stage, an_row *rows, int n)
{
    switch (stage) {
    case AN_STAGE_TEXT:
        encode_text(m, l, rows, n);
        break;
    case AN_STAGE_DENOISE:
        denoise(m, l, rows, n);
        break;
    case AN_STAGE_DECODE:
        decode(m, l, rows, n);
        break;
    case AN_STAGE_ENCODE:
        encode(m, l, rows, n);
        break;
    case AN_STAGE_FORWARD:
    case AN_STAGE_COUNT:
        break;
    }
}

/* ---------------------------------------------------------------- contract */

static bool shape_of(const an_model *m, an_stage stage, const an_row *row, an_shape *out)
{
    static const char *const first[AN_STAGE_COUNT] = {"ids", "latent", "latent", "image"};
    const an_tensor *t = an_row_in(row, first[stage]);
    if (!t || t->ndim < 2) return false;
    int64_t f = stage == AN_STAGE_ENCODE ? m->info.factor : 1;
    *out = (an_shape){t->dim[0] / f, t->dim[1] / f, t->dim[0]};
    if (stage == AN_STAGE_DENOISE) {
        const an_tensor *context = an_row_in(row, "context");
        if (!context) return false;
        out->tokens = context->dim[0];
    }
    return true;
}

static void port(an_port *list, int *n, an_port p)
{
    list[(*n)++] = p;
}

static void text_ports(const an_model *m, const an_shape *s, an_ports *p)
{
    static const char *const ids[] = {"ids", "ids2"}, *const weights[] = {"weights", "weights2"};
    const an_model_info *i = &m->info;
    for (int e = 0; e < i->text_encoders; e++) {
        port(p->in, &p->n_in, (an_port){ids[e], true, AN_I32, 2, {s->tokens, i->chunk_len}, false});
        port(p->in, &p->n_in,
             (an_port){weights[e], true, AN_F32, 2, {s->tokens, i->chunk_len}, true});
    }
    port(p->in, &p->n_in, (an_port){"clip_skip", true, AN_I32, 1, {1}, true});
    port(p->out, &p->n_out,
         (an_port){
             "context", false, m->dtype, 2, {s->tokens * i->chunk_len, i->context_dim}, false});
    if (i->pooled_dim)
        port(p->out, &p->n_out, (an_port){"pooled", false, AN_F32, 1, {i->pooled_dim}, false});
}

static void denoise_ports(const an_model *m, const an_shape *s, an_ports *p)
{
    const an_model_info *i = &m->info;
    int64_t c = i->latent_channels;
    port(p->in, &p->n_in, (an_port){"latent", false, AN_F32, 3, {s->h, s->w, c}, false});
    port(p->in, &p->n_in, (an_port){"scale", true, AN_F32, 1, {1}, false});
    port(p->in, &p->n_in, (an_port){"timestep", true, AN_F32, 1, {1}, false});
    port(p->in, &p->n_in,
         (an_port){"context", false, m->dtype, 2, {s->tokens, i->context_dim}, false});
    if (i->pooled_dim)
        port(p->in, &p->n_in, (an_port){"pooled", false, AN_F32, 1, {i->pooled_dim}, false});
    if (i->uses_time_ids) port(p->in, &p->n_in, (an_port){"time_ids", true, AN_F32, 1, {6}, false});
    if (i->guidance_embed)
        port(p->in, &p->n_in, (an_port){"guidance", true, AN_F32, 1, {1}, false});
    port(p->out, &p->n_out, (an_port){"prediction", false, AN_F32, 3, {s->h, s->w, c}, false});
}

/* Whether the network's downsamplers leave something of the latent: always with padding 1. */
static bool large_enough(const an_unet_config *u, int64_t side)
{
    for (int i = 0; i < u->blocks - 1; i++) side = an_downsampled(side, u->downsample_padding);
    return side > 0;
}

static an_status ports(const an_model *m, an_stage stage, const an_shape *s, an_ports *p,
                       an_error *err)
{
    const int64_t max = 8192, f = m->info.factor, c = m->info.latent_channels;
    an_port latent = {"latent", false, AN_F32, 3, {s->h, s->w, c}, false};
    an_port image = {"image", false, AN_U8, 3, {s->h * f, s->w * f, 3}, false};
    *p = (an_ports){.n_in = 0};
    if (stage != AN_STAGE_TEXT && (s->h < 1 || s->w < 1 || s->h > max || s->w > max))
        return an_fail(err, AN_INVALID, "%lldx%lld latents, expected 1 to %lld a side",
                       (long long)s->w, (long long)s->h, (long long)max);
    if (s->tokens < 1 || s->tokens > 1 << 20)
        return an_fail(err, AN_INVALID, "%lld tokens or chunks of text, expected 1 to %d",
                       (long long)s->tokens, 1 << 20);
    const an_unet_config *u = &parts(m)->config.unet;
    if (stage == AN_STAGE_DENOISE && (!large_enough(u, s->h) || !large_enough(u, s->w)))
        return an_fail(err, AN_INVALID, "%lldx%lld latents are too small for this network",
                       (long long)s->w, (long long)s->h);
    switch (stage) {
    case AN_STAGE_TEXT:
        text_ports(m, s, p);
        break;
    case AN_STAGE_DENOISE:
        denoise_ports(m, s, p);
        break;
    case AN_STAGE_DECODE:
        port(p->in, &p->n_in, latent);
        port(p->out, &p->n_out, image);
        break;
    case AN_STAGE_ENCODE:
        latent.name = "mean";
        port(p->in, &p->n_in, image);
        port(p->out, &p->n_out, latent);
        latent.name = "logvar";
        port(p->out, &p->n_out, latent);
        break;
    case AN_STAGE_FORWARD:
    case AN_STAGE_COUNT:
        break;
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- load */

static bool matches(const an_checkpoint *c)
{
    return an_checkpoint_config(c, "unet") != NULL;
}

/* Opens a component's tensors; NULL with the error latched. */
static an_weights *open_part(an_checkpoint *c, an_loader *ld, const char *component)
{
    an_weights *w = NULL;
    if (!ld->status) ld->status = an_checkpoint_weights(c, component, &w, ld->err);
    return w;
}

static an_status load(an_model *m, an_checkpoint *c, an_loader *ld, an_error *err)
{
    static const char *const text[] = {"text_encoder", "text_encoder_2"};
    an_latent_diffusion *d = calloc(1, sizeof *d);
    if (!d) return an_fail(err, AN_NO_MEMORY, "no memory for a model");
    m->impl = d;
    an_status s = an_ld_config_read(c, &d->config, err);
    if (s) return s;
    ld->bytes_all = (double)m->info.weight_bytes_file;
    const bool fp8 = ld->fp8;
    ld->fp8 = false; /* of the UNet alone: there most of the matrices are */
    for (int e = 0; e < d->config.texts; e++) {
        ld->set = open_part(c, ld, text[e]);
        an_clip_load(ld, text[e], &d->config.text[e], &d->text[e]);
    }
    ld->set = open_part(c, ld, "unet");
    ld->fp8 = fp8;
    an_unet_load(ld, &d->config.unet, &d->unet);
    ld->fp8 = false;
    ld->set = open_part(c, ld, "vae");
    an_vae_load(ld, &d->config.vae, &d->vae);
    return ld->status;
}

static void unload(an_model *m)
{
    an_latent_diffusion *d = m->impl;
    if (!d) return;
    for (int e = 0; e < 2; e++) an_clip_free(&d->text[e]);
    an_unet_free(&d->unet);
    free(d);
    m->impl = NULL;
}

const an_family an_family_latent_diffusion = {
    .serves = "StableDiffusionPipeline, StableDiffusionXLPipeline, LatentConsistencyModelPipeline",
    .matches = matches,
    .probe = an_ld_probe,
    .load = load,
    .unload = unload,
    .shape_of = shape_of,
    .ports = ports,
    .step = step,
};
