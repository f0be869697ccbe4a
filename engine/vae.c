/* vae.c: latents to pictures and back: tasks of one tick each. (Large latents are decoded in tiles;
 * that is the model's business.) */
#include "state.h"

an_status an_vae_decode_tick(an_slot *s, an_task *const *task, int n, an_error *err)
{
    an_lane *l = an_slot_lane(s);
    an_row row[AN_BATCH_MAX];
    an_named in[AN_BATCH_MAX], out[AN_BATCH_MAX];
    for (int i = 0; i < n; i++) {
        const an_job *j = task[i]->job;
        in[i] = (an_named){"latent", an_tensor_3d(task[i]->x, AN_F32, j->h, j->w, j->channels)};
        out[i] = (an_named){"image", an_tensor_3d(task[i]->picture, AN_U8, j->height, j->width, 3)};
        row[i] = (an_row){&in[i], 1, &out[i], 1};
    }
    an_lane_reset(l);
    an_status st = an_model_step(s->model, l, AN_STAGE_DECODE, row, n, err);
    if (st) return st;
    for (int i = 0; i < n; i++) {
        size_t bytes = (size_t)task[i]->job->width * (size_t)task[i]->job->height * 3;
        an_download(l, task[i]->pixels, task[i]->picture, bytes);
    }
    an_lane_sync(l);
    return an_lane_status(l, err);
}

/* [h, w, c] on the device to [c, h, w] here, moved to the sampler's scale. */
static void collect_latent(an_lane *l, an_task *t, const float *device, float scale, float shift,
                           float *out)
{
    const an_job *j = t->job;
    int64_t c = j->channels, pixels = j->h * j->w;
    an_download(l, t->host, device, (size_t)(pixels * c) * sizeof(float));
    an_lane_sync(l);
    for (int64_t k = 0; k < c; k++)
        for (int64_t p = 0; p < pixels; p++)
            out[k * pixels + p] = (t->host[p * c + k] - shift) * scale;
}

an_status an_vae_encode_tick(an_slot *s, an_task *const *task, int n, an_error *err)
{
    an_lane *l = an_slot_lane(s);
    an_row row[AN_BATCH_MAX];
    an_named in[AN_BATCH_MAX], out[AN_BATCH_MAX][2];
    const an_model_info *info = &s->files->entry.info;
    for (int i = 0; i < n; i++) {
        const an_job *j = task[i]->job;
        in[i] = (an_named){"image", an_tensor_3d(task[i]->picture, AN_U8, j->height, j->width, 3)};
        out[i][0] = (an_named){"mean", an_tensor_3d(task[i]->x, AN_F32, j->h, j->w, j->channels)};
        out[i][1] =
            (an_named){"logvar", an_tensor_3d(task[i]->noise, AN_F32, j->h, j->w, j->channels)};
        row[i] = (an_row){&in[i], 1, out[i], 2};
    }
    an_lane_reset(l);
    an_status st = an_model_step(s->model, l, AN_STAGE_ENCODE, row, n, err);
    if (st) return st;
    for (int i = 0; i < n; i++) {
        an_task *t = task[i];
        collect_latent(l, t, t->x, info->scaling_factor, info->shift_factor, t->latent);
        collect_latent(l, t, t->noise, 1, 0, t->logvar);
    }
    return an_lane_status(l, err);
}
