/* image_ask.c: see image_ask.h. */
#include "image_ask.h"

#include <math.h>
#include <stdlib.h>

/* "512x768", or "auto" for the model's own. */
static void read_size(fields *f, an_image_request *q)
{
    const char *size = NULL;
    int w, h, n = 0;
    field_string(f, "size", 64, &size);
    if (!size || strcmp(size, "auto") == 0 || !fields_ok(f)) return;
    /* only digits and the x: sscanf alone takes signs and spaces too */
    if (strlen(size) > 20 || strspn(size, "0123456789x") != strlen(size) ||
        sscanf(size, "%9dx%9d%n", &w, &h, &n) != 2 || size[n] || w < 1 || h < 1) {
        fields_fail(f, "size", "'%.40s' is not WIDTHxHEIGHT (like 512x512) or auto", size);
        return;
    }
    q->width = w;
    q->height = h;
}

/* null, absent and -1 mean a random seed. */
static void read_solver(fields *f, const an_engine_options *limits, an_image_request *q)
{
    static const char *const rngs[] = {"gpu", "cpu", NULL};
    int rng = q->rng == AN_RNG_CPU;
    field_int32(f, "num_inference_steps", 1, limits->max_steps, &q->steps);
    field_int32(f, "steps", 1, limits->max_steps, &q->steps);
    field_number(f, "cfg_scale", 0, 100, &q->guidance_scale);
    field_number(f, "guidance_scale", 0, 100, &q->guidance_scale);
    field_number(f, "guidance_rescale", 0, 1, &q->guidance_rescale);
    field_string(f, "sampler", 256, &q->sampler);
    field_string(f, "schedule", 256, &q->schedule);
    field_string(f, "timestep_spacing", 64, &q->timestep_spacing);
    field_int(f, "seed", -1, MAX_SEED, &q->seed);
    field_choice(f, "rng", rngs, &rng);
    q->rng = rng ? AN_RNG_CPU : AN_RNG_GPU;
}

static void read_output(fields *f, image_ask *ask)
{
    static const char *const formats[] = {"png", "jpeg", "webp", NULL};
    static const char *const responses[] = {"b64_json", "url", NULL};
    int format = AN_PNG, response = 0;
    field_choice(f, "output_format", formats, &format);
    field_choice(f, "response_format", responses, &response);
    field_int32(f, "output_compression", 0, 100, &ask->output.compression);
    ask->output.format = (an_image_format)format;
    ask->output.url = response == 1;
}

static void read_fields(fields *f, const an_engine_options *limits, image_ask *ask)
{
    an_image_request *q = &ask->request;
    const char *user = NULL;
    int64_t deadline_ms = 0;
    field_string(f, "model", 256, &q->model);
    field_string(f, "prompt", (size_t)limits->max_prompt_bytes, &q->prompt);
    field_string(f, "negative_prompt", (size_t)limits->max_prompt_bytes, &q->negative_prompt);
    field_int32(f, "n", 1, limits->max_n, &q->n);
    read_size(f, q);
    field_int32(f, "width", 1, limits->max_width, &q->width);
    field_int32(f, "height", 1, limits->max_height, &q->height);
    read_solver(f, limits, q);
    read_output(f, ask);
    field_bool(f, "stream", &ask->stream);
    field_int32(f, "partial_images", 0, limits->max_steps, &q->previews);
    field_int32(f, "clip_skip", 0, 64, &q->clip_skip);
    field_int32(f, "priority", -10, 10, &q->priority);
    field_int(f, "deadline_ms", 1, 86400000, &deadline_ms);
    q->deadline_s = (double)deadline_ms / 1000;
    field_string(f, "user", 256, &user);
    if (!q->prompt) fields_fail(f, "prompt", "missing; it must be a string");
}

static void read_kind(fields *f)
{
    static const char *const kinds[] = {"image", "text", "chat", NULL};
    int kind = -1; /* the other two never come here */
    field_choice(f, "kind", kinds, &kind);
    if (kind != 0) fields_fail(f, "kind", "missing; it must be \"image\", \"text\" or \"chat\"");
}

an_status image_ask_parse(json_t *root, const an_engine_options *limits, bool job, image_ask *ask,
                          an_error *err)
{
    fields f;
    memset(ask, 0, sizeof *ask);
    an_image_request_default(&ask->request);
    ask->output.compression = 100;
    ask->root = root;
    fields_init(&f, root);
    if (job) read_kind(&f);
    read_fields(&f, limits, ask);
    if (!fields_ok(&f)) {
        *err = f.err;
        return f.err.status;
    }
    ask->warnings = json_array();
    fields_unknown(&f, ask->warnings);
    image_output_tag(&ask->output, ask->tag, sizeof ask->tag);
    ask->request.tag = ask->tag;
    return AN_OK;
}

bool image_ask_read(an_req *r, image_ask *ask, bool job)
{
    json_t *root = request_json(r);
    return root && image_ask_take(r, root, ask, job);
}

bool image_ask_take(an_req *r, json_t *root, image_ask *ask, bool job)
{
    an_error err = {0};
    const an_engine_options *limits = an_engine_limits(an_server_engine(r->server));
    if (image_ask_parse(root, limits, job, ask, &err) != AN_OK) {
        reply_error(r, &err);
        return false;
    }
    ask->request.client = r->client;
    return true;
}

void image_ask_clear(image_ask *ask)
{
    json_decref(ask->root);
    json_decref(ask->warnings);
}

an_job *image_ask_submit(an_req *r, image_ask *ask)
{
    an_job *job = NULL;
    an_error err = {0};
    if (an_engine_submit(an_server_engine(r->server), &ask->request, &job, &err) != AN_OK) {
        /* the engine knows edges; the client may have sent them as one size */
        bool edge = strcmp(err.param, "width") == 0 || strcmp(err.param, "height") == 0;
        if (edge && json_object_get(ask->root, "size") && !json_object_get(ask->root, err.param))
            snprintf(err.param, sizeof err.param, "size");
        reply_error(r, &err);
        return NULL;
    }
    return job;
}

void image_warnings(an_job *job, json_t *list)
{
    static const char cut[] = "the %s has %zu tokens; the model takes fewer, so its end was cut";
    an_job_info info;
    an_job_get(job, &info);
    if (info.truncated)
        json_array_append_new(list, json_sprintf(cut, "prompt", info.prompt_tokens));
    if (info.negative_truncated)
        json_array_append_new(list, json_sprintf(cut, "negative prompt", info.negative_tokens));
}

/* ---------------------------------------------------------------- output */

void image_output_tag(const image_output *o, char *buf, size_t size)
{
    snprintf(buf, size, "%d %d %d", (int)o->format, o->compression, (int)o->url);
}

image_output image_output_of(an_job *job)
{
    an_job_params p;
    int format = AN_PNG, compression = 100, url = 0;
    an_job_params_get(job, &p);
    if (p.tag && sscanf(p.tag, "%d %d %d", &format, &compression, &url) != 3) format = AN_PNG;
    return (image_output){(an_image_format)format, compression, url != 0};
}

json_t *base64_string(const an_buf *bytes)
{
    an_buf text;
    an_buf_init(&text, bytes->len / 3 * 4 + 8);
    json_t *j = an_base64_encode(bytes->data, bytes->len, &text)
                    ? json_stringn_nocheck(text.data ? text.data : "", text.len)
                    : NULL;
    an_buf_free(&text);
    return j;
}

an_status image_file(an_job *job, int index, const image_output *o, an_buf *out, an_error *err)
{
    an_result res;
    if (!an_job_result(job, index, &res) || !res.pixels)
        return an_fail(err, AN_NOT_FOUND, "picture %d is no longer kept", index);
    char *text = infotext_of(job, index);
    an_buf_init(out, (size_t)res.width * (size_t)res.height * 8 + 65536);
    an_status s = an_image_encode(o->format, res.pixels, res.width, res.height, o->compression,
                                  text, out, err);
    free(text);
    if (s != AN_OK) an_buf_free(out);
    return s;
}

json_t *image_item(an_req *r, an_job *job, int index, const image_output *o, an_error *err)
{
    an_buf file;
    an_result res;
    char url[1024];
    json_t *item = NULL;
    if (image_file(job, index, o, &file, err) != AN_OK) return NULL;
    an_job_result(job, index, &res);
    if (!o->url)
        item =
            json_pack("{s:o,s:I}", "b64_json", base64_string(&file), "seed", (json_int_t)res.seed);
    else if (link_add(r, &file, o->format, url, sizeof url, err) == AN_OK)
        item = json_pack("{s:s,s:I}", "url", url, "seed", (json_int_t)res.seed);
    an_buf_free(&file);
    if (!item && err->status == AN_OK) an_fail(err, AN_NO_MEMORY, "out of memory");
    return item;
}

json_t *image_usage(size_t prompt_tokens)
{
    json_int_t n = (json_int_t)prompt_tokens;
    return json_pack("{s:I,s:{s:I,s:I},s:I,s:I}", "input_tokens", n, "input_tokens_details",
                     "text_tokens", n, "image_tokens", (json_int_t)0, "output_tokens",
                     (json_int_t)0, "total_tokens", n);
}

json_t *image_answer(an_req *r, an_job *job, const image_output *o, json_t *warnings, an_error *err)
{
    an_job_info info;
    an_job_params p;
    an_job_get(job, &info);
    an_job_params_get(job, &p);
    json_t *data = json_array();
    *err = (an_error){0};
    for (int i = 0; i < info.images; i++) {
        json_t *item = image_item(r, job, i, o, err);
        if (!item) {
            json_decref(data);
            return NULL;
        }
        json_array_append_new(data, item);
    }
    json_t *body = json_pack("{s:I,s:o,s:s,s:o,s:s,s:o}", "created", (json_int_t)info.finished,
                             "data", data, "output_format", an_image_format_name(o->format), "size",
                             json_sprintf("%dx%d", p.width, p.height), "model", p.model, "usage",
                             image_usage(info.prompt_tokens));
    json_t *all = warnings ? json_copy(warnings) : json_array();
    image_warnings(job, all);
    if (json_array_size(all)) json_object_set(body, "warnings", all);
    json_decref(all);
    if (!body) an_fail(err, AN_NO_MEMORY, "out of memory");
    return body;
}

/* Bilinear, edge clamped: a preview is a sixty-fourth of the picture, shown at its size. */
static uint8_t *resize(const uint8_t *src, int sw, int sh, int w, int h)
{
    uint8_t *out = malloc((size_t)w * (size_t)h * 3);
    if (!out) return NULL;
    for (int y = 0; y < h; y++) {
        float fy = fmaxf(0, ((float)y + 0.5f) * (float)sh / (float)h - 0.5f);
        int y0 = (int)fy, y1 = y0 + 1 < sh ? y0 + 1 : y0;
        for (int x = 0; x < w; x++) {
            float fx = fmaxf(0, ((float)x + 0.5f) * (float)sw / (float)w - 0.5f);
            int x0 = (int)fx, x1 = x0 + 1 < sw ? x0 + 1 : x0;
            float ax = fx - (float)x0, ay = fy - (float)y0;
            for (int c = 0; c < 3; c++) {
                float top =
                    (1 - ax) * src[(y0 * sw + x0) * 3 + c] + ax * src[(y0 * sw + x1) * 3 + c];
                float low =
                    (1 - ax) * src[(y1 * sw + x0) * 3 + c] + ax * src[(y1 * sw + x1) * 3 + c];
                out[((size_t)y * (size_t)w + (size_t)x) * 3 + (size_t)c] =
                    (uint8_t)((1 - ay) * top + ay * low + 0.5f);
            }
        }
    }
    return out;
}

json_t *preview_base64(const an_event *ev, int width, int height, an_image_format format)
{
    an_buf file;
    json_t *j = NULL;
    if (!ev->preview) return NULL; /* there was no memory for the event's copy */
    uint8_t *full = resize(ev->preview, ev->preview_w, ev->preview_h, width, height);
    if (!full) return NULL;
    an_buf_init(&file, (size_t)width * (size_t)height * 8 + 65536);
    if (an_image_encode(format, full, width, height, 80, NULL, &file, NULL) == AN_OK)
        j = base64_string(&file);
    an_buf_free(&file);
    free(full);
    return j;
}
