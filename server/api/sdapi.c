/* sdapi.c: A1111's API, enough for its clients: txt2img, progress, interrupt, samplers, schedulers,
 * sd-models, options, png-info. Prompts are read A1111's way: chunks of 75 tokens, (word:1.2). */
#include "image_ask.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- txt2img */

typedef struct txt2img {
    image_output output;
    json_t *parameters; /* the request, echoed */
    bool send_images;
} txt2img;

static void txt2img_free(void *p)
{
    txt2img *t = p;
    json_decref(t->parameters);
    free(t);
}

/* The JSON string `info` of A1111's answer. */
static json_t *info_string(an_job *job)
{
    an_job_params p;
    an_result res;
    an_job_params_get(job, &p);
    json_t *seeds = json_array(), *prompts = json_array(), *negatives = json_array(),
           *texts = json_array();
    for (int i = 0; i < p.n; i++) {
        int64_t seed = an_job_result(job, i, &res) ? res.seed : p.seed + i;
        char *text = infotext_of(job, i);
        json_array_append_new(seeds, json_integer(seed));
        json_array_append_new(prompts, json_string(p.prompt));
        json_array_append_new(negatives, json_string(p.negative_prompt ? p.negative_prompt : ""));
        json_array_append_new(texts, json_string(text ? text : ""));
        free(text);
    }
    json_t *info = json_pack(
        "{s:s,s:o,s:s,s:o,s:I,s:o,s:i,s:i,s:s?,s:f,s:i,s:i,s:i,s:s,s:i,s:o}", "prompt", p.prompt,
        "all_prompts", prompts, "negative_prompt", p.negative_prompt ? p.negative_prompt : "",
        "all_negative_prompts", negatives, "seed", (json_int_t)p.seed, "all_seeds", seeds, "width",
        p.width, "height", p.height, "sampler_name", p.sampler ? p.sampler : p.sampler_class,
        "cfg_scale", p.guidance_scale, "steps", p.steps, "batch_size", p.n, "clip_skip",
        p.clip_skip > 1 ? p.clip_skip : 1, "sd_model_name", p.model, "index_of_first_image", 0,
        "infotexts", texts);
    char *text = info ? json_dumps(info, JSON_COMPACT) : NULL;
    json_t *out = json_string(text ? text : "{}");
    free(text);
    json_decref(info);
    return out;
}

static void txt2img_finish(an_req *r, an_job *job)
{
    txt2img *t = r->user;
    an_job_info info;
    an_error err = {0};
    json_t *images = json_array();
    an_job_get(job, &info);
    if (info.state != AN_JOB_DONE) {
        json_decref(images);
        reply_error(r, &info.error);
        return;
    }
    for (int i = 0; i < info.images && t->send_images; i++) {
        an_buf file;
        if (image_file(job, i, &t->output, &file, &err) != AN_OK) {
            json_decref(images);
            reply_error(r, &err);
            return;
        }
        json_array_append_new(images, base64_string(&file));
        an_buf_free(&file);
    }
    json_t *body = json_pack("{s:o,s:O,s:o}", "images", images, "parameters", t->parameters, "info",
                             info_string(job));
    json_t *warnings = json_array(); /* beyond A1111's words, only where there is one */
    image_warnings(job, warnings);
    if (json_array_size(warnings)) json_object_set(body, "warnings", warnings);
    json_decref(warnings);
    reply_json(r, 200, body);
}

/* The engine's names of fields are not A1111's. */
static void rename_param(an_error *err, const json_t *root)
{
    static const char *const names[][2] = {{"schedule", "scheduler"},
                                           {"sampler", "sampler_name"},
                                           {"model", "override_settings.sd_model_checkpoint"},
                                           {"guidance_scale", "cfg_scale"},
                                           {"n", "batch_size"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(err->param, names[i][0]) == 0) {
            snprintf(err->param, sizeof err->param, "%s", names[i][1]);
            break;
        }
    if (strcmp(err->param, "sampler_name") == 0 && !json_object_get(root, "sampler_name"))
        snprintf(err->param, sizeof err->param, "sampler_index");
}

/* A1111's words for the same things. "Automatic" as scheduler = the sampler's own. */
void a1111_read(fields *f, const an_engine_options *limits, an_image_request *q, bool *send_images)
{
    int batch = 1, iterations = 1;
    const char *index = NULL;
    field_string(f, "prompt", (size_t)limits->max_prompt_bytes, &q->prompt);
    field_string(f, "negative_prompt", (size_t)limits->max_prompt_bytes, &q->negative_prompt);
    field_int(f, "seed", -1, MAX_SEED, &q->seed);
    field_string(f, "sampler_index", 256, &index);
    field_string(f, "sampler_name", 256, &q->sampler);
    field_string(f, "scheduler", 256, &q->schedule);
    field_int32(f, "steps", 1, limits->max_steps, &q->steps);
    field_number(f, "cfg_scale", 0, 100, &q->guidance_scale);
    field_int32(f, "width", 1, limits->max_width, &q->width);
    field_int32(f, "height", 1, limits->max_height, &q->height);
    field_int32(f, "batch_size", 1, limits->max_n, &batch);
    field_int32(f, "n_iter", 1, limits->max_n, &iterations);
    field_bool(f, "send_images", send_images);
    json_t *settings = field_object(f, "override_settings");
    if (settings && fields_ok(f)) {
        fields o;
        fields_init(&o, settings);
        field_string(&o, "sd_model_checkpoint", 256, &q->model);
        field_int32(&o, "CLIP_stop_at_last_layers", 1, 64, &q->clip_skip);
        if (!fields_ok(&o)) f->err = o.err;
    }
    if (!q->sampler) q->sampler = index;
    if (q->sampler && !*q->sampler) q->sampler = NULL;
    if (q->schedule && (!*q->schedule || strcasecmp(q->schedule, "automatic") == 0))
        q->schedule = NULL;
    if (!q->prompt) q->prompt = "";
    q->n = batch * iterations;
    if (fields_ok(f) && q->n > limits->max_n)
        fields_fail(f, "batch_size", "batch_size %d x n_iter %d is more than %d pictures", batch,
                    iterations, limits->max_n);
    q->a1111_prompt = true;
}

static void txt2img_handler(an_req *r)
{
    an_image_request q;
    fields f;
    an_job *job = NULL;
    an_error err = {0};
    txt2img *t = calloc(1, sizeof *t);
    json_t *root = t ? request_json(r) : NULL;
    if (!root) {
        free(t);
        return;
    }
    t->send_images = true;
    t->output = (image_output){AN_PNG, 100, false};
    t->parameters = root;
    r->user = t;
    r->free_user = txt2img_free;
    an_image_request_default(&q);
    fields_init(&f, root);
    a1111_read(&f, an_engine_limits(an_server_engine(r->server)), &q, &t->send_images);
    q.client = r->client;
    q.previews = 0;
    q.preview_every_step = true; /* /progress shows the latest */
    if (!fields_ok(&f))
        err = f.err;
    else if (an_engine_submit(an_server_engine(r->server), &q, &job, &err) != AN_OK)
        rename_param(&err, root);
    if (job)
        reply_when_done(r, job, txt2img_finish);
    else
        reply_error(r, &err);
}

/* ---------------------------------------------------------------- progress and interrupt */

/* The caller's unfinished jobs, newest first: references in a malloc'ed array. */
static an_job **own_jobs(an_req *r, int *n)
{
    an_engine *e = an_server_engine(r->server);
    const an_engine_options *o = an_engine_limits(e);
    int max = o->max_queue + o->max_running + o->max_batch + o->max_jobs_kept, found = 0;
    an_job **jobs = malloc((size_t)max * sizeof *jobs);
    *n = 0;
    if (jobs) found = an_engine_jobs(e, r->client, jobs, max);
    for (int i = 0; i < found; i++) {
        if (an_job_finished(jobs[i]))
            an_job_unref(jobs[i]);
        else
            jobs[(*n)++] = jobs[i];
    }
    return jobs;
}

/* The caller's oldest unfinished job (new reference), or NULL. */
static an_job *current_job(an_req *r, int *waiting)
{
    an_job **jobs = own_jobs(r, waiting);
    an_job *oldest = *waiting ? jobs[*waiting - 1] : NULL;
    for (int i = 0; i + 1 < *waiting; i++) an_job_unref(jobs[i]);
    free(jobs);
    return oldest;
}

/* The newest preview of a job as PNG base64, or null. */
static json_t *current_image(an_job *job)
{
    an_event ev, last = {0};
    uint64_t cursor = 0;
    while (an_job_next_event(job, &cursor, &ev)) {
        if (!ev.preview) continue;
        free(last.preview);
        last = ev;
    }
    if (!last.preview) return json_null();
    an_job_params p;
    an_job_params_get(job, &p);
    json_t *j = preview_base64(&last, p.width, p.height, AN_PNG);
    free(last.preview);
    return j ? j : json_null();
}

static void progress_work(an_req *r)
{
    int waiting;
    const char *skip = request_query(r, "skip_current_image");
    bool image = !skip || (strcasecmp(skip, "true") != 0 && strcmp(skip, "1") != 0);
    an_job *job = current_job(r, &waiting);
    an_job_info i = {.eta_s = -1};
    if (job) an_job_get(job, &i);
    double done = i.steps > 0 ? (double)i.step / i.steps : 0;
    json_t *state =
        json_pack("{s:b,s:b,s:s,s:i,s:i,s:s,s:i,s:i}", "skipped", 0, "interrupted", 0, "job",
                  job ? i.id : "", "job_count", waiting, "job_no", 0, "job_timestamp", "0",
                  "sampling_step", i.step, "sampling_steps", i.steps);
    reply_json(r, 200,
               json_pack("{s:f,s:f,s:o,s:o,s:n}", "progress", done, "eta_relative",
                         i.eta_s > 0 ? i.eta_s : 0.0, "state", state, "current_image",
                         job && image ? current_image(job) : json_null(), "textinfo"));
    an_job_unref(job);
}

/* The preview becomes a PNG here. */
static void progress(an_req *r)
{
    reply_work(r, progress_work);
}

/* Only the caller's own jobs: nobody stops somebody else's picture. */
static void interrupt(an_req *r)
{
    int n;
    an_job **jobs = own_jobs(r, &n);
    for (int i = 0; i < n; i++) {
        an_job_cancel(jobs[i]);
        an_job_unref(jobs[i]);
    }
    free(jobs);
    reply_json(r, 200, json_object());
}

/* ---------------------------------------------------------------- lists */

static void samplers(an_req *r)
{
    const an_sampler_name *n;
    json_t *list = json_array();
    for (int i = 0; (n = an_sampler_at(i)) != NULL; i++) {
        json_t *aliases = json_array();
        for (int k = 0; n->aliases && n->aliases[k]; k++)
            json_array_append_new(aliases, json_string(n->aliases[k]));
        json_array_append_new(
            list, json_pack("{s:s,s:o,s:{}}", "name", n->label, "aliases", aliases, "options"));
    }
    reply_json(r, 200, list);
}

static void schedulers(an_req *r)
{
    const char *name, *label = NULL;
    json_t *list = json_array();
    for (int i = 0; (name = an_schedule_at(i, &label)) != NULL; i++)
        json_array_append_new(list, json_pack("{s:s,s:s,s:n,s:f,s:b}", "name", name, "label", label,
                                              "aliases", "default_rho",
                                              strcmp(name, "karras") == 0 ? 7.0 : -1.0,
                                              "need_inner_model", 0));
    reply_json(r, 200, list);
}

static void sd_models(an_req *r)
{
    an_engine *e = an_server_engine(r->server);
    json_t *list = json_array();
    an_model_entry *m = malloc(sizeof *m);
    for (int i = 0; m && i < an_engine_model_count(e); i++)
        if (an_engine_model_at(e, i, m) && m->ok && m->info.kind == AN_KIND_IMAGE)
            json_array_append_new(list, json_pack("{s:s,s:s,s:n,s:n,s:s,s:n}", "title", m->id,
                                                  "model_name", m->id, "hash", "sha256", "filename",
                                                  m->path, "config"));
    free(m);
    reply_json(r, 200, list);
}

static void options_get(an_req *r)
{
    an_engine *e = an_server_engine(r->server);
    an_model_entry *m = malloc(sizeof *m);
    bool any = m && an_engine_model_find(e, NULL, AN_KIND_IMAGE, m, NULL) == AN_OK;
    reply_json(r, 200,
               json_pack("{s:s,s:s,s:i,s:i,s:b}", "sd_model_checkpoint", any ? m->id : "",
                         "samples_format", "png", "CLIP_stop_at_last_layers", 1,
                         "show_progress_every_n_steps", 1, "enable_pnginfo", 1));
    free(m);
}

/* Options are per request here (override_settings): a client cannot change another's server. What
 * would change nothing is accepted, since clients post their whole settings. */
static void options_set(an_req *r)
{
    json_t *root = request_json(r);
    if (!root) return;
    fields f;
    const char *model = NULL;
    an_error err = {0};
    an_model_entry *m = malloc(sizeof *m);
    fields_init(&f, root);
    field_string(&f, "sd_model_checkpoint", 256, &model);
    if (!m)
        an_fail(&err, AN_NO_MEMORY, "out of memory");
    else if (!fields_ok(&f))
        err = f.err;
    else if (an_engine_model_find(an_server_engine(r->server), model, AN_KIND_IMAGE, m, &err) ==
                 AN_OK &&
             model && !m->is_default)
        an_fail_param(&err, AN_INVALID, "sd_model_checkpoint",
                      "sd_model_checkpoint: the model is chosen per request: send "
                      "override_settings.sd_model_checkpoint");
    free(m);
    if (err.status != AN_OK)
        reply_error(r, &err);
    else
        reply_json(r, 200, json_object());
    json_decref(root);
}

/* ---------------------------------------------------------------- png-info */

static void png_info_work(an_req *r)
{
    an_error err = {0};
    an_buf file = {0};
    char *text = NULL;
    const char *image = NULL;
    fields f;
    json_t *root = request_json(r);
    if (!root) return;
    fields_init(&f, root);
    field_string(&f, "image", an_server_options(r->server)->max_body_bytes, &image);
    if (fields_ok(&f) && !image) fields_fail(&f, "image", "missing; a picture as base64");
    err = f.err;
    if (fields_ok(&f) && an_base64_decode(image, strlen(image), r->body_len, &file, &err) == AN_OK)
        an_image_text(file.data ? file.data : "", file.len, "parameters", &text, &err);
    if (err.status != AN_OK) {
        snprintf(err.param, sizeof err.param, "image");
        reply_error(r, &err);
    } else {
        json_t *items = json_object();
        if (text) json_object_set_new(items, "parameters", json_string(text));
        reply_json(r, 200,
                   json_pack("{s:s,s:o,s:o}", "info", text ? text : "", "items", items,
                             "parameters", text ? infotext_parse(text) : json_object()));
    }
    free(text);
    an_buf_free(&file);
    json_decref(root);
}

static void png_info(an_req *r)
{
    reply_work(r, png_info_work);
}

const an_route sdapi_routes[] = {
    {"POST", "/sdapi/v1/txt2img", txt2img_handler, false},
    {"GET", "/sdapi/v1/progress", progress, false},
    {"POST", "/sdapi/v1/interrupt", interrupt, false},
    {"GET", "/sdapi/v1/samplers", samplers, false},
    {"GET", "/sdapi/v1/schedulers", schedulers, false},
    {"GET", "/sdapi/v1/sd-models", sd_models, false},
    {"GET", "/sdapi/v1/options", options_get, false},
    {"POST", "/sdapi/v1/options", options_set, false},
    {"POST", "/sdapi/v1/png-info", png_info, false},
    {NULL, NULL, NULL, false},
};
