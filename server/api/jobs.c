/* jobs.c: jobs that outlive their connection: POST, list, look, listen, cancel. A client sees and
 * cancels its own jobs; an id, which cannot be guessed, is enough to look at one. */
#include "image_ask.h"
#include "text_ask.h"

#include <stdlib.h>

#define LIST_MAX   100
#define LISTEN_MAX 128

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

/* ---------------------------------------------------------------- listening */

/* What a stream has told of a job. */
typedef struct told {
    text_deltas *text; /* NULL for pictures */
    int position;      /* in the queue; -1: it was not waiting */
} told;

typedef struct listener {
    bool small; /* previews as they are made, a pixel a latent: the reader enlarges them */
    int n;
    an_job *job[LISTEN_MAX]; /* the stream's references */
    told told[LISTEN_MAX];
} listener;

static void listener_free(void *p)
{
    listener *l = p;
    for (int i = 0; i < l->n; i++) free(l->told[i].text);
    free(l);
}

static told *told_of(listener *l, const an_job *job)
{
    int i = 0;
    while (i + 1 < l->n && l->job[i] != job) i++;
    return &l->told[i];
}

static json_t *preview_json(an_job *job, const an_event *ev, bool small)
{
    an_job_params p;
    an_job_params_get(job, &p);
    json_t *b64 = preview_base64(ev, small ? ev->preview_w : p.width,
                                 small ? ev->preview_h : p.height, AN_PNG);
    return json_pack("{s:i,s:i,s:i,s:i,s:o?}", "index", ev->index, "partial_image_index",
                     ev->partial_index, "step", ev->step, "steps", ev->steps, "b64_json", b64);
}

static void on_event(an_req *r, an_job *job, const an_event *ev, an_buf *out)
{
    json_t *data;
    listener *l = r->user;
    switch (ev->type) {
    case AN_EVENT_PREVIEW:
        data = preview_json(job, ev, l->small);
        break;
    case AN_EVENT_IMAGE:
        data = json_pack("{s:i}", "index", ev->index);
        break;
    case AN_EVENT_STEP:
        data = json_pack("{s:i,s:i}", "step", ev->step, "steps", ev->steps);
        break;
    case AN_EVENT_TEXT:
        data = text_deltas_json(told_of(l, job)->text, job);
        break;
    case AN_EVENT_DONE:
        data = job_json_with_result(r, job, NULL);
        break;
    default:
        data = job_json(job);
        break;
    }
    an_job_info i;
    an_job_get(job, &i);
    json_object_set_new(data, "job", json_string(i.id));
    sse_message(out, an_event_name(ev->type), data);
}

/* Where those that wait have come to. */
static void on_tick(an_req *r, an_buf *out)
{
    listener *l = r->user;
    for (int k = 0; k < l->n; k++) {
        int at = an_job_position(l->job[k]);
        an_job_info i;
        if (at == l->told[k].position) continue;
        l->told[k].position = at;
        if (at < 0) continue; /* its next event says more */
        an_job_get(l->job[k], &i);
        sse_message(out, "position",
                    json_pack("{s:i,s:o,s:s}", "queue_position", at, "eta_s",
                              i.eta_s >= 0 ? json_real(i.eta_s) : json_null(), "job", i.id));
    }
}

/* Takes the n references. */
static void listen_to(an_req *r, an_job **jobs, int n)
{
    listener *l = calloc(1, sizeof *l);
    const char *previews = request_query(r, "previews");
    an_error err = {0};
    if (l && (!previews || !strcmp(previews, "small") || !strcmp(previews, "full"))) {
        l->small = previews && strcmp(previews, "small") == 0;
        l->n = n;
        for (int i = 0; i < n; i++) {
            l->job[i] = jobs[i];
            l->told[i] = (told){text_job_is(jobs[i]) ? text_deltas_new(jobs[i]) : NULL,
                                an_job_position(jobs[i])};
        }
        r->user = l;
        r->free_user = listener_free;
        reply_sse_all(r, jobs, n,
                      &(an_sse_format){.event = on_event, .tick = on_tick, .own = false});
        return;
    }
    for (int i = 0; i < n; i++) an_job_unref(jobs[i]);
    free(l);
    if (l)
        an_fail_param(&err, AN_INVALID, "previews", "'%.40s': there are full and small", previews);
    else
        an_fail(&err, AN_NO_MEMORY, "out of memory");
    reply_error(r, &err);
}

static void listen_to_one(an_req *r)
{
    an_job *job = named_job(r);
    if (job) listen_to(r, &job, 1);
}

/* Has it been named before? Then it is given back: told twice, an event costs twice. */
static bool dropped(an_job *const *jobs, int n, an_job *job)
{
    for (int i = 0; i < n; i++) {
        if (jobs[i] != job) continue;
        an_job_unref(job);
        return true;
    }
    return false;
}

/* A browser has six connections to a server; one listens to many jobs. */
static void listen_to_many(an_req *r)
{
    an_job *jobs[LISTEN_MAX];
    an_error err = {0};
    int n = 0, named = 0;
    const char *id = request_query(r, "jobs");
    if (!id || !*id)
        an_fail_param(&err, AN_INVALID, "jobs", "missing; ids of jobs, with commas between");
    while (id && *id && !err.status) {
        char one[64];
        size_t len = strcspn(id, ",");
        snprintf(one, sizeof one, "%.*s", (int)(len < sizeof one ? len : sizeof one - 1), id);
        if (named++ == LISTEN_MAX)
            an_fail_param(&err, AN_INVALID, "jobs", "more than %d of them", LISTEN_MAX);
        else if ((jobs[n] = an_engine_job(an_server_engine(r->server), one)) != NULL)
            n += !dropped(jobs, n, jobs[n]);
        else
            an_fail_param(&err, AN_NOT_FOUND, "jobs", "no job '%.60s'", one);
        id += len + (id[len] == ',');
    }
    if (!err.status) {
        listen_to(r, jobs, n);
        return;
    }
    for (int i = 0; i < n; i++) an_job_unref(jobs[i]);
    reply_error(r, &err);
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

const an_route job_routes[] = {{"POST", "/v1/jobs", create, false},
                               {"GET", "/v1/jobs", list, false},
                               {"GET", "/v1/jobs/*", look, false},
                               {"GET", "/v1/jobs/*/events", listen_to_one, false},
                               {"DELETE", "/v1/jobs/*", cancel, false},
                               {"GET", "/v1/events", listen_to_many, false},
                               {NULL, NULL, NULL, false}};
