/* live.c: GET /v1/status, the server as people like to see it: devices, memory, the queue, the last
 * ticks and jobs. Numbers only: no prompt, no answer, no id. `?since=N` leaves out the ticks up to
 * number N, for those who ask again every second. */
#include "image_ask.h"

#include <errno.h>
#include <stdlib.h>

#define RATE_WINDOW                                                                                \
    10.0 /* seconds that rates are taken over; less where ticks are too many to keep */
#define LIVE_MAX 64

static json_t *devices_json(an_engine *e)
{
    json_t *list = json_array();
    an_device_stats d;
    for (int i = 0; i < an_engine_device_count(e); i++) {
        an_engine_device_at(e, i, &d);
        json_t *one = json_pack("{s:s,s:s,s:b,s:i,s:i,s:I,s:I,s:f,s:I,s:I}", "name", d.name,
                                "description", d.description, "ok", d.ok, "models", d.models,
                                "running", d.running_rows, "ticks", (json_int_t)d.ticks, "rows",
                                (json_int_t)d.rows, "busy_s", d.busy_s, "memory_bytes",
                                (json_int_t)d.memory_bytes, "used_bytes", (json_int_t)d.used_bytes);
        if (!d.ok) json_object_set_new(one, "error", json_string(d.error));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *queue_json(const an_engine_stats *s, const an_engine_options *o)
{
    return json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i}", "queued", s->queued, "running",
                     s->running, "rows", s->running_rows, "sequences", s->seqs_running,
                     "sequences_waiting", s->seqs_waiting, "max_queue", o->max_queue, "max_batch",
                     o->max_batch, "max_sequences", o->max_sequences);
}

static json_t *memory_json(const an_engine_stats *s)
{
    return json_pack(
        "{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "resident_bytes", (json_int_t)an_resident_bytes(),
        "planned_bytes", (json_int_t)s->planned_bytes, "weight_bytes", (json_int_t)s->weight_bytes,
        "arena_bytes", (json_int_t)s->arena_bytes, "result_bytes", (json_int_t)s->result_bytes,
        "kv_blocks", (json_int_t)s->kv_blocks, "kv_blocks_used", (json_int_t)s->kv_blocks_used);
}

static json_t *totals_json(const an_engine_stats *s)
{
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "images", (json_int_t)s->images_done,
                     "steps", (json_int_t)s->rows[AN_STAGE_DENOISE], "prompt_tokens",
                     (json_int_t)s->prompt_tokens, "tokens", (json_int_t)s->generated_tokens,
                     "done", (json_int_t)s->jobs_done, "failed", (json_int_t)s->jobs_failed,
                     "cancelled", (json_int_t)s->jobs_canceled, "refused",
                     (json_int_t)s->jobs_refused);
}

/* Steps of pictures and drawn tokens a second, and the share of the time that ticks took, over the
 * last seconds. */
static json_t *rates_json(const an_tick_info *t, int n, double now, int devices)
{
    double window = n == AN_TICKS_KEPT ? now - t[0].ended : RATE_WINDOW;
    double steps = 0, tokens = 0, busy = 0;
    if (window > RATE_WINDOW) window = RATE_WINDOW;
    if (window < 1e-3) window = 1e-3;
    for (int i = 0; i < n; i++) {
        if (t[i].ended < now - window) continue;
        if (t[i].stage == AN_STAGE_DENOISE) steps += t[i].rows;
        tokens += t[i].drawn;
        busy += t[i].seconds;
    }
    busy /= window * devices;
    return json_pack("{s:f,s:f,s:f,s:f}", "window_s", window, "steps_s", steps / window, "tokens_s",
                     tokens / window, "busy", busy < 1 ? busy : 1.0);
}

static json_t *ticks_json(const an_tick_info *t, int n, uint64_t since)
{
    json_t *list = json_array();
    if (n && since > t[n - 1].seq) since = 0; /* of a server that has been started anew */
    for (int i = 0; i < n; i++)
        if (t[i].seq > since)
            json_array_append_new(list, json_pack("{s:I,s:s,s:i,s:i,s:i,s:f,s:f}", "seq",
                                                  (json_int_t)t[i].seq, "stage",
                                                  an_stage_name(t[i].stage), "device", t[i].device,
                                                  "rows", t[i].rows, "tokens", t[i].tokens,
                                                  "seconds", t[i].seconds, "ended", t[i].ended));
    return list;
}

static json_t *time_json(double unix_s)
{
    return unix_s > 0 ? json_real(unix_s) : json_null();
}

static json_t *job_json(const an_job_summary *j, const char *client)
{
    const char *kind = j->latents ? "latents" : an_kind_name(j->kind);
    json_t *out =
        json_pack("{s:s,s:s,s:s,s:b,s:i,s:i,s:i,s:o,s:o,s:o}", "kind", kind, "model", j->model,
                  "state", an_job_state_name(j->state), "mine", strcmp(j->client, client) == 0, "n",
                  j->n, "step", j->step, "steps", j->steps, "created", time_json(j->created),
                  "started", time_json(j->started), "finished", time_json(j->finished));
    if (j->kind == AN_KIND_IMAGE) {
        json_object_set_new(out, "size", json_sprintf("%dx%d", j->width, j->height));
        if (*j->sampler) json_object_set_new(out, "sampler", json_string(j->sampler));
    } else {
        json_object_set_new(out, "prompt_tokens", json_integer((json_int_t)j->prompt_tokens));
        json_object_set_new(out, "completion_tokens",
                            json_integer((json_int_t)j->completion_tokens));
    }
    if (j->state == AN_JOB_FAILED) {
        an_error why = {.status = j->error};
        json_t *body = error_body(&why);
        json_object_set(out, "code", json_object_get(json_object_get(body, "error"), "code"));
        json_decref(body);
    }
    return out;
}

static json_t *jobs_json(an_req *r, int (*list)(an_engine *e, an_job_summary *out, int max))
{
    json_t *out = json_array();
    an_job_summary *j = calloc(LIVE_MAX, sizeof *j);
    int n = j ? list(an_server_engine(r->server), j, LIVE_MAX) : 0;
    for (int i = 0; i < n; i++) json_array_append_new(out, job_json(&j[i], r->client));
    free(j);
    return out;
}

/* Digits, or 0: an odd number is no reason to show nothing. */
static uint64_t since_of(an_req *r)
{
    const char *text = request_query(r, "since");
    return text && strspn(text, "0123456789") == strlen(text) ? strtoull(text, NULL, 10) : 0;
}

static void status(an_req *r)
{
    an_engine *e = an_server_engine(r->server);
    an_engine_stats s;
    double now = an_unix_s();
    an_tick_info *t = calloc(AN_TICKS_KEPT, sizeof *t);
    int n = t ? an_engine_ticks(e, 0, t, AN_TICKS_KEPT) : 0;
    an_engine_get_stats(e, &s);
    const char *state = s.draining     ? "shutting_down"
                        : !s.device_ok ? "device_failed"
                        : !s.ready     ? "loading"
                                       : "ok";
    json_t *body = json_pack(
        "{s:s,s:s,s:f,s:f,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "status", state, "version", AN_VERSION,
        "now", now, "uptime_s", now - an_server_started(r->server), "devices", devices_json(e),
        "queue", queue_json(&s, an_engine_limits(e)), "memory", memory_json(&s), "totals",
        totals_json(&s), "rates", rates_json(t, n, now, an_engine_device_count(e)), "ticks",
        ticks_json(t, n, since_of(r)), "jobs", jobs_json(r, an_engine_live), "recent",
        jobs_json(r, an_engine_recent));
    free(t);
    reply_header(r, "Cache-Control", "no-store");
    reply_json(r, 200, body);
}

const an_route live_routes[] = {{"GET", "/v1/status", status, false}, {NULL, NULL, NULL, false}};
