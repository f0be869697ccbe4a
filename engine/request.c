/* request.c: everything a client can get wrong is found here, before anything is queued, and named
 * with its field and limit. What comes out is complete: defaults filled in, prompts as tokens, the
 * sampler as a table of steps, the memory known to suffice. */
#include "request.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

void an_image_request_default(an_image_request *r)
{
    *r = (an_image_request){.guidance_scale = (double)NAN, .seed = -1};
}

/* ---------------------------------------------------------------- single fields */

an_status an_check_int(const char *field, int v, int lo, int hi, an_error *err)
{
    if (v >= lo && v <= hi) return AN_OK;
    return an_fail_param(err, AN_INVALID, field, "%s is %d, it must be %d to %d", field, v, lo, hi);
}

an_status an_check_real(const char *field, double v, double lo, double hi, an_error *err)
{
    if (v >= lo && v <= hi) return AN_OK;
    return an_fail_param(err, AN_INVALID, field, "%s is %g, it must be %g to %g", field, v, lo, hi);
}

static an_status check_edge(const char *field, int v, int multiple, int most, an_error *err)
{
    if (v < multiple || v > most)
        return an_fail_param(err, AN_INVALID, field, "%s is %d, it must be %d to %d", field, v,
                             multiple, most);
    if (v % multiple == 0) return AN_OK;
    return an_fail_param(err, AN_INVALID, field, "%s is %d, it must be a multiple of %d", field, v,
                         multiple);
}

static an_status check_text(const an_engine *e, const char *field, const char *s, an_error *err)
{
    if (!s) return AN_OK;
    size_t n = strlen(s);
    if (n > (size_t)e->o.max_prompt_bytes)
        return an_fail_param(err, AN_INVALID, field, "%s has %zu bytes, the limit is %d", field, n,
                             e->o.max_prompt_bytes);
    if (!an_utf8_valid(s, n))
        return an_fail_param(err, AN_INVALID, field, "%s is not valid UTF-8", field);
    return AN_OK;
}

static an_status check_size(const an_engine *e, const an_model_info *info,
                            const char *const field[2], int width, int height, an_error *err)
{
    int multiple = info->size_multiple > 0 ? info->size_multiple : info->factor;
    an_status s = check_edge(field[0], width, multiple, e->o.max_width, err);
    return s ? s : check_edge(field[1], height, multiple, e->o.max_height, err);
}

static const char *const SIZE_FIELDS[2] = {"width", "height"};

static an_status check_fields(const an_engine *e, const an_model_info *info, const an_job *j,
                              const an_image_request *r, an_error *err)
{
    an_status s;
    if (!r->prompt) return an_fail_param(err, AN_INVALID, "prompt", "prompt is missing");
    if ((s = check_text(e, "prompt", r->prompt, err))) return s;
    if ((s = check_text(e, "negative_prompt", r->negative_prompt, err))) return s;
    if ((s = check_size(e, info, SIZE_FIELDS, j->width, j->height, err))) return s;
    if ((s = an_check_int("n", j->n, 1, e->o.max_n, err))) return s;
    if ((s = an_check_int("steps", j->steps, 1, e->o.max_steps, err))) return s;
    if ((s = an_check_real("guidance_scale", j->guidance, 0, 100, err))) return s;
    if ((s = an_check_real("guidance_rescale", j->rescale, 0, 1, err))) return s;
    int layers = info->layers_text > 0 ? info->layers_text : 1;
    if ((s = an_check_int("clip_skip", r->clip_skip, 0, layers, err))) return s;
    if ((s = an_check_int("partial_images", r->previews, 0, j->steps, err))) return s;
    if ((s = an_check_int("priority", r->priority, -10, 10, err))) return s;
    if ((s = an_check_real("deadline_ms", 1000 * r->deadline_s, 0, 1e12, err))) return s;
    if (r->rng != AN_RNG_GPU && r->rng != AN_RNG_CPU)
        return an_fail_param(err, AN_INVALID, "rng", "rng must be \"gpu\" or \"cpu\"");
    if (r->seed > INT64_MAX - j->n)
        return an_fail_param(err, AN_INVALID, "seed", "seed is %lld, it must be below %lld",
                             (long long)r->seed, (long long)(INT64_MAX - j->n));
    return AN_OK;
}

/* ---------------------------------------------------------------- the sampler */

/* The table of names may be asked for a schedule alone: then it is one of the model's own class. */
static an_status sampler_config(const an_image_request *r, const an_files *f, json_t **out,
                                an_error *err)
{
    *out = NULL;
    an_status st = AN_OK;
    const char *name = r->sampler && *r->sampler ? r->sampler : NULL;
    const char *schedule = r->schedule && *r->schedule ? r->schedule : NULL;
    if (!name && schedule) name = json_string_value(json_object_get(f->scheduler, "_class_name"));
    if (!name && schedule)
        return an_fail_param(err, AN_INVALID, "schedule",
                             "model '%s' names no sampler of its own: give 'sampler' as well",
                             f->entry.id);
    if (name && (st = an_sampler_resolve(name, schedule, out, err))) return st;
    if (!*out) *out = json_object();
    /* diffusers' pipelines pass eta = 0 to step(), which TCD alone would not take by itself */
    bool ok = *out != NULL && json_object_set_new(*out, "eta", json_integer(0)) == 0;
    const char *spacing = r->timestep_spacing && *r->timestep_spacing ? r->timestep_spacing : NULL;
    if (spacing && strcmp(spacing, "leading") && strcmp(spacing, "trailing") &&
        strcmp(spacing, "linspace")) {
        st = an_fail_param(err, AN_INVALID, "timestep_spacing",
                           "timestep_spacing is '%.40s', there are leading, trailing, linspace",
                           spacing);
    } else if (spacing) {
        ok = ok && json_object_set_new(*out, "timestep_spacing", json_string(spacing)) == 0;
    }
    if (!st && r->solver_overrides)
        ok = ok && json_object_update(*out, (json_t *)(uintptr_t)r->solver_overrides) == 0;
    if (!st && !ok) st = an_fail(err, AN_NO_MEMORY, "no memory for the sampler's settings");
    if (st) {
        json_decref(*out);
        *out = NULL;
    }
    return st;
}

static an_status make_solver(an_job *j, const an_image_request *r, an_error *err)
{
    json_t *config;
    an_status s = sampler_config(r, j->files, &config, err);
    if (s) return s;
    an_error local = {0};
    s = an_solver_new(j->files->scheduler, config, j->steps, &j->solver, &local);
    json_decref(config);
    if (s) {
        if (!local.param[0]) snprintf(local.param, sizeof local.param, "sampler");
        if (err) *err = local;
        return s;
    }
    j->calls = an_solver_calls(j->solver);
    snprintf(j->solver_class, sizeof j->solver_class, "%s", an_solver_class(j->solver));
    return AN_OK;
}

/* ---------------------------------------------------------------- prompts to tokens */

static an_status tokenize(an_engine *e, an_job *j, const an_image_request *r, const char *text,
                          const char *field, an_text_input *out, an_error *err)
{
    const an_model_info *info = &j->files->entry.info;
    out->used = true;
    for (int k = 0; k < info->text_encoders && k < 2; k++) {
        const an_tokenizer *tok;
        an_status s = an_files_tokenizer(e, j->files, k, &tok, err);
        if (s) return s;
        an_prompt *p = &out->prompt[k];
        s = r->a1111_prompt ? an_prompt_weighted(tok, text, strlen(text), info->chunk_len,
                                                 e->o.max_chunks, p, err)
                            : an_prompt_plain(tok, text, strlen(text), info->chunk_len, p, err);
        if (s) {
            if (err && !err->param[0]) snprintf(err->param, sizeof err->param, "%s", field);
            return s;
        }
    }
    return AN_OK;
}

/* In A1111's scheme the branches have as many chunks as the longer one. */
static an_status same_chunks(an_engine *e, an_job *j, an_error *err)
{
    int most = 1;
    for (int k = 0; k < 2; k++) {
        if (j->cond.prompt[k].n_chunks > most) most = j->cond.prompt[k].n_chunks;
        if (j->uncond.prompt[k].n_chunks > most) most = j->uncond.prompt[k].n_chunks;
    }
    for (int k = 0; k < j->files->entry.info.text_encoders && k < 2; k++) {
        const an_tokenizer *tok;
        an_status s = an_files_tokenizer(e, j->files, k, &tok, err);
        if (!s) s = an_prompt_pad_chunks(tok, &j->cond.prompt[k], most, err);
        if (!s && j->uncond.used && !j->uncond.zero)
            s = an_prompt_pad_chunks(tok, &j->uncond.prompt[k], most, err);
        if (s) return s;
    }
    j->chunks = most;
    return AN_OK;
}

static an_status make_text(an_engine *e, an_job *j, const an_image_request *r, an_error *err)
{
    an_status s = tokenize(e, j, r, r->prompt, "prompt", &j->cond, err);
    if (s) return s;
    j->truncated = j->cond.prompt[0].truncated;
    j->prompt_tokens = j->cond.prompt[0].n_tokens;
    if (j->branches > 1) {
        j->uncond.used = true;
        j->uncond.zero = !r->negative_prompt && j->files->entry.info.zero_negative;
        if (!j->uncond.zero) {
            s = tokenize(e, j, r, r->negative_prompt ? r->negative_prompt : "", "negative_prompt",
                         &j->uncond, err);
            if (s) return s;
            j->negative_truncated = j->uncond.prompt[0].truncated;
            j->negative_tokens = j->uncond.prompt[0].n_tokens;
        }
    }
    return same_chunks(e, j, err);
}

/* ---------------------------------------------------------------- the price */

/* Refuses what could never run: one picture's states and dearest tick beside the model's weights.
 * A model that is not loaded yet is priced when it is. */
static an_status check_memory(an_engine *e, an_job *j, an_error *err)
{
    an_slot *slot = NULL;
    pthread_mutex_lock(&e->lock);
    for (int i = 0; i < e->units && !slot; i++) {
        an_slot *s = &e->unit[i].slot[j->files->index];
        if (s->loaded && s->pins >= 0) slot = s;
    }
    if (slot) slot->pins++;
    pthread_mutex_unlock(&e->lock);
    if (!slot) return AN_OK;
    size_t scratch = 0, state = an_picture_state(&j->files->entry.info, j->h, j->w);
    an_status s = j->kind == AN_TASK_IMAGE ? an_picture_scratch(e, slot, j, &scratch, err) : AN_OK;
    if (!s && j->kind != AN_TASK_IMAGE) {
        an_price p;
        an_stage stage = j->kind == AN_TASK_ENCODE ? AN_STAGE_ENCODE : AN_STAGE_DECODE;
        s = an_price_get(e, slot, stage, j->h, j->w, 0, &p, err);
        if (!s) scratch = p.row_bytes;
    }
    size_t weights = an_model_weight_bytes(slot->model);
    pthread_mutex_lock(&e->lock);
    slot->pins--;
    slot->unit->unpinned++;
    pthread_mutex_unlock(&e->lock);
    if (s) return s;
    size_t budget = 0;
    for (int i = 0; i < e->units; i++)
        if (e->unit[i].memory_bytes > budget) budget = e->unit[i].memory_bytes;
    size_t left = budget > weights ? budget - weights : 0;
    if (scratch <= left && state <= left - scratch) return AN_OK;
    return an_fail_param(err, AN_TOO_LARGE, "width",
                         "a picture of %dx%d needs %.1f MiB of working memory; beside the weights "
                         "of '%s' the limit is %.1f MiB (--memory)",
                         j->width, j->height, (double)(scratch + state) / 1048576, j->model,
                         (double)left / 1048576);
}

/* ---------------------------------------------------------------- submit */

an_status an_request_files(an_engine *e, const char *id, an_kind kind, an_files **out,
                           an_error *err)
{
    pthread_mutex_lock(&e->lock);
    an_status s = AN_OK;
    bool draining = e->draining, full = an_queue_full(&e->queue);
    if (draining)
        s = an_fail(err, AN_STOPPING, "the server is stopping: no new jobs");
    else if (full) {
        /* Said before any work is done for it: a full queue is when that matters. */
        e->jobs_refused++;
        s = an_fail(err, AN_BUSY, "the queue is full: %d jobs are waiting, the limit is %d",
                    e->queue.waiting, e->queue.max);
    } else if (!(*out = an_files_find(e, id, kind, err)))
        s = AN_NOT_FOUND;
    else
        s = an_files_serve(*out, err);
    pthread_mutex_unlock(&e->lock);
    return s;
}

int64_t an_random_seed(void)
{
    uint32_t v = 0;
    if (getrandom(&v, sizeof v, 0) != (ssize_t)sizeof v) v = (uint32_t)(an_now_s() * 1e6);
    return v;
}

static bool copy_strings(an_job *j, const an_image_request *r)
{
    j->prompt = an_strdup(r->prompt);
    j->negative_prompt = an_strdup(r->negative_prompt);
    j->sampler = an_strdup(r->sampler);
    j->schedule = an_strdup(r->schedule);
    j->tag = an_strdup(r->tag);
    return j->prompt && (j->negative_prompt || !r->negative_prompt) &&
           (j->sampler || !r->sampler) && (j->schedule || !r->schedule) && (j->tag || !r->tag);
}

void an_job_describe_model(an_job *j, an_files *f, const char *client)
{
    j->files = f;
    memcpy(j->model, f->entry.id, sizeof j->model);
    snprintf(j->client, sizeof j->client, "%s", client ? client : "");
    j->channels = f->entry.info.latent_channels;
}

static an_status fill(an_engine *e, an_job *j, an_files *f, const an_image_request *r,
                      an_error *err)
{
    const an_model_info *info = &f->entry.info;
    an_job_describe_model(j, f, r->client);
    j->width = r->width ? r->width : info->width;
    j->height = r->height ? r->height : info->height;
    j->steps = r->steps ? r->steps : info->steps > 0 ? info->steps : 20;
    if (!r->steps && j->steps > e->o.max_steps) j->steps = e->o.max_steps; /* the model's wish */
    j->guidance = isnan(r->guidance_scale) ? (double)info->guidance_scale : r->guidance_scale;
    j->rescale = r->guidance_rescale;
    an_status s = check_fields(e, info, j, r, err);
    if (s) return s;
    if (!copy_strings(j, r)) return an_fail(err, AN_NO_MEMORY, "no memory for a job");
    j->h = j->height / info->factor;
    j->w = j->width / info->factor;
    j->branches = j->guidance > 1 && !info->guidance_embed ? 2 : 1;
    j->clip_skip = r->clip_skip;
    j->previews = r->previews;
    j->every_step = r->preview_every_step;
    j->rng = r->rng;
    j->seed = r->seed < 0 ? an_random_seed() : r->seed;
    j->claim.priority = r->priority;
    j->deadline = r->deadline_s > 0 ? j->created_mono + r->deadline_s : 0;
    s = make_solver(j, r, err);
    if (!s) s = make_text(e, j, r, err);
    if (!s) s = check_memory(e, j, err);
    return s;
}

an_status an_job_submit(an_engine *e, an_job *j, an_status s, an_job **out, an_error *err)
{
    if (!s) {
        pthread_mutex_lock(&e->lock);
        size_t bytes = (j->image ? (size_t)j->width * (size_t)j->height * 3 : 0) +
                       (j->latent ? (size_t)(j->h * j->w * j->channels) * sizeof(float) : 0);
        if (e->input_bytes && bytes && e->input_bytes + bytes > e->o.max_result_bytes)
            s = an_fail(err, AN_NO_MEMORY,
                        "the uploads of waiting jobs take %.1f MiB, this one %.1f MiB more; the "
                        "limit is %.1f MiB (--max-result-bytes)",
                        (double)e->input_bytes / 1048576, (double)bytes / 1048576,
                        (double)e->o.max_result_bytes / 1048576);
        if (!s) s = an_job_enqueue(e, j, err);
        if (!s) e->input_bytes += j->input_bytes = bytes;
        pthread_mutex_unlock(&e->lock);
    }
    if (s)
        an_job_unref(j);
    else
        *out = j;
    return s;
}

an_status an_engine_submit(an_engine *e, const an_image_request *r, an_job **out, an_error *err)
{
    an_files *files = NULL;
    *out = NULL;
    int n = r->n ? r->n : 1;
    an_status s = an_request_files(e, r->model, AN_KIND_IMAGE, &files, err);
    if (!s) s = an_check_int("n", n, 1, e->o.max_n, err);
    if (s) return s;
    an_job *j = an_job_new(e, AN_TASK_IMAGE, n, err);
    if (!j) return AN_NO_MEMORY;
    return an_job_submit(e, j, fill(e, j, files, r, err), out, err);
}

static an_status fill_encode(an_engine *e, an_job *j, const an_latents_request *r, an_error *err)
{
    if (!r->image) return an_fail_param(err, AN_INVALID, "image", "image is missing");
    j->width = r->width;
    j->height = r->height;
    an_status s = check_size(e, &j->files->entry.info, SIZE_FIELDS, j->width, j->height, err);
    if (s) return s;
    j->h = j->height / j->files->entry.info.factor;
    j->w = j->width / j->files->entry.info.factor;
    size_t bytes = (size_t)j->width * (size_t)j->height * 3;
    j->image = malloc(bytes);
    if (!j->image) return an_fail(err, AN_NO_MEMORY, "no memory for a picture of %zu bytes", bytes);
    memcpy(j->image, r->image, bytes);
    return AN_OK;
}

static an_status fill_decode(an_engine *e, an_job *j, const an_latents_request *r, an_error *err)
{
    const an_model_info *info = &j->files->entry.info;
    if (!r->latent) return an_fail_param(err, AN_INVALID, "latents", "latent is missing");
    if (r->latent_channels != info->latent_channels)
        return an_fail_param(err, AN_INVALID, "latents", "latent has %d channels, '%s' has %d",
                             r->latent_channels, j->model, info->latent_channels);
    int most_h = e->o.max_height / info->factor, most_w = e->o.max_width / info->factor;
    if (r->latent_h < 1 || r->latent_w < 1 || r->latent_h > most_h || r->latent_w > most_w)
        return an_fail_param(err, AN_INVALID, "latents",
                             "latent is %dx%d, height and width must be 1 to %d and 1 to %d",
                             r->latent_h, r->latent_w, most_h, most_w);
    j->h = r->latent_h;
    j->w = r->latent_w;
    j->height = r->latent_h * info->factor;
    j->width = r->latent_w * info->factor;
    int64_t pixels = j->h * j->w;
    j->latent = malloc((size_t)(pixels * j->channels) * sizeof(float));
    if (!j->latent) return an_fail(err, AN_NO_MEMORY, "no memory for a latent");
    for (int64_t c = 0; c < j->channels; c++)
        for (int64_t p = 0; p < pixels; p++) {
            float v = r->latent[c * pixels + p];
            if (!isfinite(v))
                return an_fail_param(err, AN_INVALID, "latents", "latent holds %g at channel %lld",
                                     (double)v, (long long)c);
            j->latent[p * j->channels + c] = v;
        }
    return AN_OK;
}

an_status an_engine_submit_latents(an_engine *e, const an_latents_request *r, an_job **out,
                                   an_error *err)
{
    an_files *files = NULL;
    *out = NULL;
    an_status s = an_request_files(e, r->model, AN_KIND_IMAGE, &files, err);
    if (s) return s;
    an_job *j = an_job_new(e, r->decode ? AN_TASK_DECODE : AN_TASK_ENCODE, 1, err);
    if (!j) return AN_NO_MEMORY;
    an_job_describe_model(j, files, r->client);
    s = r->decode ? fill_decode(e, j, r, err) : fill_encode(e, j, r, err);
    if (!s) s = check_memory(e, j, err);
    return an_job_submit(e, j, s, out, err);
}
