/* images.c: POST /v1/images/generations, OpenAI's images API with the fields a diffusion model
 * needs. One answer when all pictures are done, or a stream of image_generation.partial_image and
 * image_generation.completed events. */
#include "image_ask.h"

#include <stdlib.h>

/* What finish() and the stream need of the request; belongs to the connection. */
typedef struct pending {
    image_output output;
    json_t *warnings;
} pending;

static void pending_free(void *p)
{
    pending *x = p;
    json_decref(x->warnings);
    free(x);
}

static void finish(an_req *r, an_job *job)
{
    pending *x = r->user;
    an_error err = {0};
    an_job_info info;
    an_job_get(job, &info);
    json_t *body =
        info.state == AN_JOB_DONE ? image_answer(r, job, &x->output, x->warnings, &err) : NULL;
    if (body)
        reply_json(r, 200, body);
    else
        reply_error(r, info.state == AN_JOB_DONE ? &err : &info.error);
}

static json_t *event_base(an_job *job, const char *type, const image_output *o, int index)
{
    an_job_params p;
    an_job_info info;
    an_job_params_get(job, &p);
    an_job_get(job, &info);
    return json_pack("{s:s,s:I,s:o,s:s,s:s,s:s,s:i}", "type", type, "created_at",
                     (json_int_t)an_unix_s(), "size", json_sprintf("%dx%d", p.width, p.height),
                     "quality", "auto", "background", "opaque", "output_format",
                     an_image_format_name(o->format), "index", index);
}

static void on_preview(an_job *job, const an_event *ev, const image_output *o, an_buf *out)
{
    static const char name[] = "image_generation.partial_image";
    an_job_params p;
    an_job_params_get(job, &p);
    json_t *b64 = preview_base64(ev, p.width, p.height, o->format);
    if (!b64) return;
    json_t *data = event_base(job, name, o, ev->index);
    json_object_set_new(data, "partial_image_index", json_integer(ev->partial_index));
    json_object_set_new(data, "step", json_integer(ev->step));
    json_object_set_new(data, "steps", json_integer(ev->steps));
    json_object_set_new(data, "b64_json", b64);
    sse_message(out, name, data);
}

static void on_image(an_req *r, an_job *job, const an_event *ev, const pending *x, an_buf *out)
{
    static const char name[] = "image_generation.completed";
    an_error err = {0};
    an_job_info info;
    an_job_get(job, &info);
    json_t *item = image_item(r, job, ev->index, &x->output, &err);
    if (!item) {
        sse_message(out, "error", error_body(&err));
        return;
    }
    json_t *data = event_base(job, name, &x->output, ev->index);
    json_object_update(data, item);
    json_decref(item);
    json_t *warnings = json_copy(x->warnings);
    image_warnings(job, warnings);
    if (json_array_size(warnings)) json_object_set(data, "warnings", warnings);
    json_decref(warnings);
    json_object_set_new(data, "usage", image_usage(info.prompt_tokens));
    sse_message(out, name, data);
}

static void on_event(an_req *r, an_job *job, const an_event *ev, an_buf *out)
{
    const pending *x = r->user;
    an_job_info info;
    switch (ev->type) {
    case AN_EVENT_PREVIEW:
        on_preview(job, ev, &x->output, out);
        break;
    case AN_EVENT_IMAGE:
        on_image(r, job, ev, x, out);
        break;
    case AN_EVENT_FAILED:
    case AN_EVENT_CANCELED:
        an_job_get(job, &info);
        sse_message(out, "error", error_body(&info.error));
        break;
    default: /* queue and steps are for /v1/jobs: OpenAI's clients know only the two above */
        break;
    }
}

static void generations(an_req *r)
{
    image_ask ask = {0};
    an_job *job = NULL;
    pending *x = calloc(1, sizeof *x);
    if (x && image_ask_read(r, &ask, false) && (job = image_ask_submit(r, &ask)) != NULL) {
        x->output = ask.output;
        x->warnings = json_incref(ask.warnings);
        r->user = x;
        r->free_user = pending_free;
        if (ask.stream)
            reply_sse(r, job, &(an_sse_format){.event = on_event, .own = true});
        else
            reply_when_done(r, job, finish);
    } else {
        free(x);
    }
    image_ask_clear(&ask);
}

const an_route image_routes[] = {{"POST", "/v1/images/generations", generations, false},
                                 {NULL, NULL, NULL, false}};
