/* task.c: a picture's memory, taken when it is started and given back when it ends. All device
 * memory of a picture is one block, cut up here; blocks of one size are reused by the next. */
#include "state.h"

#include <stdlib.h>

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Cuts `bytes` off the block. With no memory behind it yet, it only counts. */
static void *cut(char *base, size_t *at, size_t bytes)
{
    void *p = base ? base + *at : NULL;
    *at += align64(bytes);
    return p;
}

static size_t lay_out(an_task *t, char *base)
{
    const an_job *j = t->job;
    size_t at = 0, latent = (size_t)(j->h * j->w * j->channels) * sizeof(float);
    t->x = cut(base, &at, latent);
    t->picture = cut(base, &at, (size_t)j->width * (size_t)j->height * 3);
    if (j->kind == AN_TASK_DECODE) return at;
    t->noise = cut(base, &at, latent);
    if (j->kind == AN_TASK_ENCODE) return at;
    t->saved = cut(base, &at, latent);
    for (int i = 0; i < AN_HISTORY; i++) t->d[i] = cut(base, &at, latent);
    for (int b = 0; b < 2; b++) t->pred[b] = cut(base, &at, latent);
    return at;
}

static bool take_host(an_task *t)
{
    const an_job *j = t->job;
    size_t latent = (size_t)(j->h * j->w * j->channels) * sizeof(float);
    bool encode = j->kind == AN_TASK_ENCODE;
    t->host = malloc(2 * latent);
    t->rng = malloc(sizeof *t->rng);
    if (encode) {
        t->latent = malloc(latent);
        t->logvar = malloc(latent);
        return t->host && t->rng && t->latent && t->logvar;
    }
    t->pixels = malloc((size_t)j->width * (size_t)j->height * 3);
    return t->host && t->rng && t->pixels;
}

static an_status take_text(an_unit *u, an_task *t, an_error *err)
{
    const an_job *j = t->job;
    int chunks = j->cond.prompt[0].n_chunks;
    an_status s = an_encoding_get(u, j->slot, &j->cond, j->clip_skip, chunks, &t->cond, err);
    if (!s && j->uncond.used)
        s = an_encoding_get(u, j->slot, &j->uncond, j->clip_skip, chunks, &t->uncond, err);
    return s;
}

static an_status put_input(an_task *t, an_error *err)
{
    const an_job *j = t->job;
    if (j->kind == AN_TASK_IMAGE) return an_diffusion_start(t, err);
    an_lane *l = an_slot_lane(j->slot);
    an_lane_reset(l);
    if (j->kind == AN_TASK_ENCODE)
        an_upload(l, t->picture, j->image, (size_t)j->width * (size_t)j->height * 3);
    else
        an_upload(l, t->x, j->latent, (size_t)(j->h * j->w * j->channels) * sizeof(float));
    an_lane_sync(l);
    return an_lane_status(l, err);
}

an_status an_task_open(an_unit *u, an_task *t, an_error *err)
{
    if (t->job->text) return an_seq_open(t, err);
    an_status s = an_block_take(u, lay_out(t, NULL), &t->block, err);
    if (s) return s;
    lay_out(t, t->block.data);
    if (!take_host(t)) s = an_fail(err, AN_NO_MEMORY, "no memory for a picture");
    if (!s && t->job->kind == AN_TASK_IMAGE) s = take_text(u, t, err);
    if (!s) s = put_input(t, err);
    if (s) an_task_close(u, t);
    return s;
}

/* What the job keeps (pixels, latent, logvar) stays if the picture is done. */
void an_task_close(an_unit *u, an_task *t)
{
    an_seq_close(t);
    an_encoding_put(u, t->cond);
    an_encoding_put(u, t->uncond);
    t->cond = t->uncond = NULL;
    an_block_give(u, &t->block);
    free(t->host);
    free(t->rng);
    t->host = NULL;
    t->rng = NULL;
    if (t->done) return;
    free(t->pixels);
    free(t->latent);
    free(t->logvar);
    t->pixels = NULL;
    t->latent = t->logvar = NULL;
}

int64_t an_job_tokens(const an_job *j)
{
    return (int64_t)j->chunks * j->files->entry.info.chunk_len;
}

an_stage an_task_stage(const an_task *t)
{
    if (t->job->text) return AN_STAGE_FORWARD;
    if (t->job->kind == AN_TASK_ENCODE) return AN_STAGE_ENCODE;
    if (t->job->kind == AN_TASK_DECODE) return AN_STAGE_DECODE;
    if (!t->cond->ready || (t->uncond && !t->uncond->ready)) return AN_STAGE_TEXT;
    return t->call < t->job->calls ? AN_STAGE_DENOISE : AN_STAGE_DECODE;
}
