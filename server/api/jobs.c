/* jobs.c: jobs that outlive their connection: POST, list, look, listen, cancel. A client sees and
 * cancels its own jobs; an id, which cannot be guessed, is enough to look at one. */
#include "image_ask.h"
#include "text_ask.h"

#include <stdlib.h>

#define LIST_MAX 100

static json_t *job_json(an_job *job)
{
    an_job_info i;
    an_job_get(job, &i);
    json_t *j =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:f,s:o,s:o,s:n,s:n}", "id", i.id, "object",
                  "job", "kind", text_job_is(job) ? "text" : "image", "model", i.model, "state",
                  an_job_state_name(i.state), "step", i.step, "steps", i.steps, "images", i.images,
                  "images_done", i.images_done, "created", i.created, "started",
                  i.started > 0 ? json_real(i.started) : json_null(), "finished",
                  i.finished > 0 ? json_real(i.finished) : json_null(), "result", "error");
    json_object_set_new(j, "queue_position",
                        i.queue_position >= 0 ? json_integer(i.queue_position) : json_null());
    json_object_set_new(j, "eta_s", i.eta_s >= 0 ? json_real(i.eta_s) : json_null());
    if (i.state == AN_JOB_FAILED || i.state == AN_JOB_CANCELED) {
        json_t *e = error_body(&i.error);
        json_object_set(j, "error", json_object_get(e, "error"));
        json_decref(e);
    }
    return j;
}

/* With the pictures or the text, if it is done. */
static json_t *job_json_with_result(an_req *r, an_job *job, json_t *warnings)
{
    an_job_info i;
    an_error err = {0};
    json_t *j = job_json(job);
    an_job_get(job, &i);
    if (i.state == AN_JOB_DONE && j) {
        image_output o = image_output_of(job);
        json_t *result = text_job_is(job) ? text_job_answer(an_server_engine(r->server), job, &err)
                                          : image_answer(r, job, &o, warnings, &err);
        if (!result) {
            json_t *e = error_body(&err);
            json_object_set(j, "error", json_object_get(e, "error"));
            json_decref(e);
        } else {
            json_object_set_new(j, "result", result);
        }
    }
    return j;
}

/* Takes the job's reference. */
static void reply_created(an_req *r, an_job *job, json_t *warnings)
{
    json_t *j = job_json(job);
    if (json_array_size(warnings)) json_object_set(j, "warnings", warnings);
    const char *id = json_string_value(json_object_get(j, "id"));
    char location[128];
    snprintf(location, sizeof location, "/v1/jobs/%s", id ? id : "");
    reply_header(r, "Location", location);
    reply_json(r, 202, j);
    an_job_unref(job);
}

static void create_image(an_req *r, json_t *root)
{
    image_ask ask = {0};
    an_job *job;
    if (image_ask_take(r, root, &ask, true) && (job = image_ask_submit(r, &ask)) != NULL) {
        image_warnings(job, ask.warnings);
        reply_created(r, job, ask.warnings);
    }
    image_ask_clear(&ask);
}

static void work_create(an_req *r)
{
    json_t *warnings = NULL, *root = request_json(r);
    if (!root) return;
    const char *kind = json_string_value(json_object_get(root, "kind"));
    if (!kind || (strcmp(kind, "text") != 0 && strcmp(kind, "chat") != 0)) {
        create_image(r, root);
        return;
    }
    an_job *job = text_job_submit(r, root, &warnings);
    if (job) reply_created(r, job, warnings);
    json_decref(warnings);
}

/* Text is encoded on the way in, which takes its time. */
static void create(an_req *r)
{
    reply_work(r, work_create);
}

static void list(an_req *r)
{
    an_job *jobs[LIST_MAX];
    int n = an_engine_jobs(an_server_engine(r->server), r->client, jobs, LIST_MAX);
    json_t *data = json_array();
    for (int i = 0; i < n; i++) {
        json_array_append_new(data, job_json(jobs[i]));
        an_job_unref(jobs[i]);
    }
    reply_json(r, 200, json_pack("{s:s,s:o}", "object", "list", "data", data));
}

/* The job named in the path (new reference), or NULL after replying 404. */
static an_job *named_job(an_req *r)
{
    an_error err = {0};
    an_job *job = an_engine_job(an_server_engine(r->server), r->rest);
    if (job) return job;
    an_fail_param(&err, AN_NOT_FOUND, "id", "no job '%.60s': finished jobs are kept for %g s",
                  r->rest, an_server_options(r->server)->engine.job_ttl_s);
    reply_error(r, &err);
    return NULL;
}

static void unref_job(void *job)
{
    an_job_unref(job);
}

static void encode_job(an_req *r)
{
    reply_json(r, 200, job_json_with_result(r, r->user, NULL));
}

static void look(an_req *r)
{
    an_job *job = named_job(r);
    an_job_info i;
    if (!job) return;
    r->user = job;
    r->free_user = unref_job;
    an_job_get(job, &i);
    if (i.state == AN_JOB_DONE)
        reply_work(r, encode_job); /* encoding takes its time */
    else
        reply_json(r, 200, job_json(job));
}

static void on_event(an_req *r, an_job *job, const an_event *ev, an_buf *out)
{
    json_t *data;
    switch (ev->type) {
    case AN_EVENT_PREVIEW: {
        an_job_params p;
        an_job_params_get(job, &p);
        data = json_pack("{s:i,s:i,s:i,s:i,s:o?}", "index", ev->index, "partial_image_index",
                         ev->partial_index, "step", ev->step, "steps", ev->steps, "b64_json",
                         preview_base64(ev, p.width, p.height, AN_PNG));
        break;
    }
    case AN_EVENT_IMAGE:
        data = json_pack("{s:i}", "index", ev->index);
        break;
    case AN_EVENT_STEP:
        data = json_pack("{s:i,s:i}", "step", ev->step, "steps", ev->steps);
        break;
    case AN_EVENT_TEXT:
        data = text_deltas_json(r->user, job);
        break;
    case AN_EVENT_DONE:
        data = job_json_with_result(r, job, NULL);
        break;
    default:
        data = job_json(job);
        break;
    }
    sse_message(out, an_event_name(ev->type), data);
}

static void listen_to(an_req *r)
{
    an_job *job = named_job(r);
    if (job && text_job_is(job)) {
        r->user = text_deltas_new(job);
        r->free_user = free;
    }
    if (job) reply_sse(r, job, &(an_sse_format){.event = on_event, .own = false});
}

static void cancel(an_req *r)
{
    an_job *job = named_job(r);
    an_job_info i;
    an_error err = {0};
    if (!job) return;
    an_job_get(job, &i);
    if (strcmp(i.client, r->client) != 0) {
        an_fail_param(&err, AN_NOT_FOUND, "id", "job '%.60s' is another client's", r->rest);
        reply_error(r, &err);
    } else {
        an_job_cancel(job);
        reply_json(r, 200, job_json(job));
    }
    an_job_unref(job);
}

const an_route job_routes[] = {
    {"POST", "/v1/jobs", create, false},     {"GET", "/v1/jobs", list, false},
    {"GET", "/v1/jobs/*", look, false},      {"GET", "/v1/jobs/*/events", listen_to, false},
    {"DELETE", "/v1/jobs/*", cancel, false}, {NULL, NULL, NULL, false}};
