/* diffusion.c: the denoising loop. Its body is an_diffusion_step: one call of the network and one
 * sampler step for pictures that may differ in everything but model and size. The scheduler calls
 * it once a tick with whoever is there; a picture that was called job->calls times is done. */
#include "state.h"

#include <stdlib.h>

static int64_t count_of(const an_task *t)
{
    return t->job->h * t->job->w * t->job->channels;
}

/* Draws a noise tensor in torch's order [c, h, w] and stores it as [h, w, c] at dst (device). */
static void draw_noise(an_lane *l, an_task *t, float scale, float *dst)
{
    int64_t n = count_of(t), pixels = t->job->h * t->job->w, channels = t->job->channels;
    float *nchw = t->host, *nhwc = t->host + n;
    an_rng_normal(t->rng, nchw, (size_t)n);
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = 0; p < pixels; p++) nhwc[p * channels + c] = nchw[c * pixels + p] * scale;
    an_upload(l, dst, nhwc, (size_t)n * sizeof(float));
    an_lane_sync(l); /* t->host is free for the next draw */
}

an_status an_diffusion_start(an_task *t, an_error *err)
{
    an_lane *l = an_slot_lane(t->job->slot);
    an_lane_reset(l);
    an_rng_init(t->rng, t->job->rng, (uint64_t)(t->job->seed + t->index));
    draw_noise(l, t, (float)an_solver_init_noise_sigma(t->job->solver), t->x);
    return an_lane_status(l, err);
}

/* ---------------------------------------------------------------- the network's rows */

/* Host values of one picture's rows: the model reads them during the call. */
typedef struct row_values {
    float scale, timestep, guidance, time_ids[6];
} row_values;

typedef struct network_row {
    an_named in[7], out[1];
} network_row;

static void fill_row(const an_task *t, const an_model_info *info, int branch, row_values *v,
                     network_row *n, an_row *row)
{
    const an_job *j = t->job;
    const an_encoding *text = branch == 0 ? t->cond : t->uncond;
    int k = 0;
    n->in[k++] = (an_named){"latent", an_tensor_3d(t->x, AN_F32, j->h, j->w, j->channels)};
    n->in[k++] = (an_named){"scale", an_tensor_1d(&v->scale, AN_F32, 1)};
    n->in[k++] = (an_named){"timestep", an_tensor_1d(&v->timestep, AN_F32, 1)};
    n->in[k++] = (an_named){"context", text->context};
    if (info->pooled_dim > 0) n->in[k++] = (an_named){"pooled", text->pooled};
    if (info->uses_time_ids)
        n->in[k++] = (an_named){"time_ids", an_tensor_1d(v->time_ids, AN_F32, 6)};
    if (info->guidance_embed)
        n->in[k++] = (an_named){"guidance", an_tensor_1d(&v->guidance, AN_F32, 1)};
    n->out[0] =
        (an_named){"prediction", an_tensor_3d(t->pred[branch], AN_F32, j->h, j->w, j->channels)};
    *row = (an_row){n->in, k, n->out, 1};
}

/* SDXL is told the picture's size: original, crop corner, target. */
static void fill_values(const an_task *t, const an_step *step, row_values *v)
{
    float h = (float)t->job->height, w = (float)t->job->width;
    *v = (row_values){.scale = step->in_scale,
                      .timestep = step->timestep,
                      .guidance = (float)t->job->guidance,
                      .time_ids = {h, w, 0, 0, h, w}};
}

/* ---------------------------------------------------------------- the sampler's rows */

static bool uses(const an_step *s, int term)
{
    return s->out[term] != 0 || (s->save && s->keep[term] != 0);
}

/* A push makes the oldest history's buffer the newest one. */
static void rotate(an_task *t)
{
    float *oldest = t->d[AN_HISTORY - 1];
    memmove(&t->d[1], &t->d[0], (AN_HISTORY - 1) * sizeof *t->d);
    t->d[0] = oldest;
}

static an_step_row sampler_row(an_task *t, const an_step *step)
{
    const an_job *j = t->job;
    an_step_row r = {.step = *step,
                     .count = count_of(t),
                     .branches = j->branches,
                     .x = t->x,
                     .rescale = j->branches > 1 ? (float)j->rescale : 0};
    for (int b = 0; b < j->branches; b++) r.pred[b] = t->pred[b];
    r.weight[0] = j->branches > 1 ? (float)j->guidance : 1;
    r.weight[1] = j->branches > 1 ? (float)(1 - j->guidance) : 0;
    if (step->push) rotate(t);
    r.d[0] = t->d[0];
    for (int i = 1; i < AN_HISTORY; i++)
        if (uses(step, AN_TERM_D0 + i)) r.d[i] = t->d[i];
    if (step->save || uses(step, AN_TERM_SAVED)) r.saved = t->saved;
    if (step->noise) r.noise = t->noise;
    return r;
}

/* ---------------------------------------------------------------- a glimpse */

/* The denoised estimate x0_x * x + x0_m * m, before the step changes x. */
static uint8_t *glimpse(an_lane *l, an_slot *s, const an_task *t, const an_step *step)
{
    const an_job *j = t->job;
    int64_t n = count_of(t), pixels = j->h * j->w;
    uint8_t *rgb = malloc((size_t)pixels * 3);
    float *x0 = t->host, *other = t->host + n;
    if (!rgb) return NULL;
    an_download(l, x0, t->x, (size_t)n * sizeof(float));
    an_lane_sync(l);
    for (int64_t i = 0; i < n; i++) x0[i] *= step->x0_x;
    for (int b = 0; b < j->branches; b++) {
        double g = j->branches == 1 ? 1 : b == 0 ? j->guidance : 1 - j->guidance;
        float f = step->x0_m * (float)g;
        an_download(l, other, t->pred[b], (size_t)n * sizeof(float));
        an_lane_sync(l);
        for (int64_t i = 0; i < n; i++) x0[i] += f * other[i];
    }
    an_preview_rgb(s, x0, pixels, j->channels, rgb);
    return rgb;
}

/* ---------------------------------------------------------------- the step */

an_status an_diffusion_step(an_slot *s, an_task *const *task, int n, uint8_t **preview,
                            an_error *err)
{
    an_step step[AN_BATCH_MAX];
    row_values value[AN_BATCH_MAX];
    network_row network[2 * AN_BATCH_MAX];
    an_row row[2 * AN_BATCH_MAX];
    an_step_row update[AN_BATCH_MAX];
    const an_model_info *info = &s->files->entry.info;
    an_lane *l = an_slot_lane(s);
    int rows = 0;
    for (int i = 0; i < n; i++) {
        an_solver_step(task[i]->job->solver, task[i]->call, &step[i]);
        fill_values(task[i], &step[i], &value[i]);
        for (int b = 0; b < task[i]->job->branches; b++, rows++)
            fill_row(task[i], info, b, &value[i], &network[rows], &row[rows]);
    }

    an_lane_reset(l);
    an_status st = an_model_step(s->model, l, AN_STAGE_DENOISE, row, rows, err);
    if (st) return st; /* nothing of any picture has changed yet: the caller may try again */

    an_lane_reset(l);
    for (int i = 0; i < n; i++) {
        preview[i] = an_preview_due(task[i]) ? glimpse(l, s, task[i], &step[i]) : NULL;
        if (step[i].noise) draw_noise(l, task[i], 1, task[i]->noise);
        update[i] = sampler_row(task[i], &step[i]);
        task[i]->call++;
    }
    an_sampler_step(l, update, n);
    an_lane_sync(l);
    if (!an_lane_status(l, err)) return AN_OK;
    /* Half a sampler step cannot be repeated: whatever it was, the pictures are lost. */
    return AN_DEVICE;
}
