/* latents.c: POST /v1/latents, the image side: pictures to latents and back through a model's VAE.
 *
 *   {"model"?, "image": "<base64 PNG, JPEG or WebP>"}
 *     -> {"latents": {"shape":[c,h,w], "dtype":"float32", "data":"<base64>"}, "logvar": {...}}
 *   {"model"?, "latents": {"shape":[c,h,w], "data":"<base64 little-endian float32>"},
 * "output_format"?}
 *     -> {"data":[{"b64_json"}]}
 *
 * Latents are as a sampler holds them (the mean, scaled and shifted). "op": "encode" | "decode" may
 * say which is meant; otherwise the field present tells. */
#include "image_ask.h"

#include <math.h>
#include <stdlib.h>

static void finish_decode(an_req *r, an_job *job)
{
    const image_output *o = &((const latents_ask *)r->user)->output;
    an_job_info info;
    an_error err = {0};
    an_result res;
    an_buf file;
    an_job_get(job, &info);
    if (info.state != AN_JOB_DONE) {
        reply_error(r, &info.error);
        return;
    }
    if (!an_job_result(job, 0, &res) || !res.pixels)
        an_fail(&err, AN_INTERNAL, "the decoded picture is gone");
    an_buf_init(&file, (size_t)res.width * (size_t)res.height * 8 + 65536);
    if (err.status == AN_OK && an_image_encode(o->format, res.pixels, res.width, res.height,
                                               o->compression, NULL, &file, &err) == AN_OK)
        reply_json(r, 200,
                   json_pack("{s:I,s:[{s:o}],s:s,s:o,s:s}", "created", (json_int_t)info.finished,
                             "data", "b64_json", base64_string(&file), "output_format",
                             an_image_format_name(o->format), "size",
                             json_sprintf("%dx%d", res.width, res.height), "model", info.model));
    else
        reply_error(r, &err);
    an_buf_free(&file);
}

static json_t *latent_json(const an_result *res, const float *data)
{
    an_buf bytes = {(char *)(uintptr_t)data, /* borrowed: base64_string only reads */
                    (size_t)res->latent_channels * (size_t)res->latent_h * (size_t)res->latent_w *
                        4,
                    0, 0, false};
    return json_pack("{s:[i,i,i],s:s,s:o}", "shape", res->latent_channels, res->latent_h,
                     res->latent_w, "dtype", "float32", "data", base64_string(&bytes));
}

static void finish_encode(an_req *r, an_job *job)
{
    an_job_info info;
    an_result res;
    an_error err = {0};
    an_job_get(job, &info);
    if (info.state != AN_JOB_DONE) {
        reply_error(r, &info.error);
    } else if (!an_job_result(job, 0, &res) || !res.latent || !res.logvar) {
        an_fail(&err, AN_INTERNAL, "the latents are gone");
        reply_error(r, &err);
    } else {
        reply_json(r, 200,
                   json_pack("{s:I,s:o,s:o,s:s}", "created", (json_int_t)info.finished, "latents",
                             latent_json(&res, res.latent), "logvar", latent_json(&res, res.logvar),
                             "model", info.model));
    }
}

/* The float data of {"shape","data"} into q; *bytes owns it. */
static void read_latents(fields *f, json_t *object, an_latents_request *q, an_buf *bytes)
{
    fields o;
    const char *data = NULL, *dtype = NULL;
    an_error err = {0};
    fields_init(&o, object);
    field_string(&o, "data", (size_t)1 << 30, &data);
    field_string(&o, "dtype", 32, &dtype);
    json_t *shape = json_object_get(object, "shape");
    int dim[3] = {0};
    for (int i = 0; i < 3; i++) {
        json_t *d = json_array_get(shape, (size_t)i);
        int64_t v = 0;
        json_whole(d, &v);
        if (v < 1 || v > 65536 || json_array_size(shape) != 3)
            fields_fail(f, "latents", "shape must be [channels, height, width], each 1 to 65536");
        dim[i] = v >= 1 && v <= 65536 ? (int)v : 0;
    }
    if (dtype && strcmp(dtype, "float32") != 0)
        fields_fail(f, "latents", "dtype '%.32s', expected float32", dtype);
    if (!fields_ok(&o)) f->err = o.err;
    if (!fields_ok(f)) return;
    size_t want = (size_t)dim[0] * (size_t)dim[1] * (size_t)dim[2] * 4;
    if (!data || an_base64_decode(data, strlen(data), want + 3, bytes, &err) != AN_OK ||
        bytes->len != want) {
        fields_fail(f, "latents", "data must be base64 of %zu bytes (%dx%dx%d float32)%s%s", want,
                    dim[0], dim[1], dim[2], *err.message ? ": " : "", err.message);
        return;
    }
    const float *v = (const float *)(const void *)bytes->data;
    for (size_t i = 0; i < want / 4; i++) {
        if (!isfinite(v[i])) {
            fields_fail(f, "latents", "value %zu is not a finite number", i);
            return;
        }
    }
    q->decode = true;
    q->latent = v;
    q->latent_channels = dim[0];
    q->latent_h = dim[1];
    q->latent_w = dim[2];
}

static void read_picture(fields *f, const char *image, const an_engine_options *limits,
                         latents_ask *ask)
{
    an_buf file = {0};
    an_error err = {0};
    size_t len = strlen(image);
    if (an_base64_decode(image, len, len, &file, &err) == AN_OK)
        an_image_decode(file.data ? file.data : "", file.len,
                        (int64_t)limits->max_width * limits->max_height, &ask->picture, &err);
    an_buf_free(&file);
    if (err.status != AN_OK) {
        f->err = err;
        snprintf(f->err.param, sizeof f->err.param, "image");
        return;
    }
    ask->request.image = ask->picture.pixels;
    ask->request.width = ask->picture.w;
    ask->request.height = ask->picture.h;
}

an_status latents_ask_parse(json_t *root, const an_engine_options *limits, latents_ask *ask,
                            an_error *err)
{
    static const char *const formats[] = {"png", "jpeg", "webp", NULL};
    static const char *const ops[] = {"encode", "decode", NULL};
    fields f;
    const char *image = NULL;
    int format = AN_PNG, op = -1;
    memset(ask, 0, sizeof *ask);
    ask->output.compression = 100;
    fields_init(&f, root);
    field_string(&f, "model", 256, &ask->request.model);
    field_choice(&f, "op", ops, &op);
    field_string(&f, "image", (size_t)1 << 30, &image);
    json_t *object = field_object(&f, "latents");
    field_choice(&f, "output_format", formats, &format);
    field_int32(&f, "output_compression", 0, 100, &ask->output.compression);
    ask->output.format = (an_image_format)format;
    if (fields_ok(&f) && !image == !object)
        fields_fail(&f, "image", "send either image (to encode) or latents (to decode)");
    if (fields_ok(&f) && op >= 0 && op != (object != NULL))
        fields_fail(&f, "op", "'%s' does not go with the field '%s'", ops[op],
                    object ? "latents" : "image");
    if (fields_ok(&f) && object) read_latents(&f, object, &ask->request, &ask->bytes);
    if (fields_ok(&f) && image) read_picture(&f, image, limits, ask);
    *err = f.err;
    return f.err.status;
}

void latents_ask_clear(latents_ask *ask)
{
    an_buf_free(&ask->bytes);
    free(ask->picture.pixels);
}

static void latents_work(an_req *r)
{
    an_engine *e = an_server_engine(r->server);
    an_error err = {0};
    an_job *job = NULL;
    json_t *root = request_json(r);
    latents_ask *ask = calloc(1, sizeof *ask);
    if (root && ask) {
        r->user = ask;
        r->free_user = free;
        if (latents_ask_parse(root, an_engine_limits(e), ask, &err) == AN_OK) {
            ask->request.client = r->client;
            an_engine_submit_latents(e, &ask->request, &job, &err);
        }
        if (job)
            reply_when_done(r, job, ask->request.decode ? finish_decode : finish_encode);
        else
            reply_error(r, &err);
        latents_ask_clear(ask); /* the job has copies */
    } else {
        free(ask);
    }
    json_decref(root);
}

/* Decoding what was uploaded takes its time. */
static void latents(an_req *r)
{
    reply_work(r, latents_work);
}

const an_route latents_routes[] = {{"POST", "/v1/latents", latents, false},
                                   {NULL, NULL, NULL, false}};
