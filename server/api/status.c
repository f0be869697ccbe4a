/* status.c: what is served and how it is doing: /v1/models, /health, /metrics, /. */
#include "text_ask.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---------------------------------------------------------------- models */

static void image_fields(json_t *j, const an_model_info *i)
{
    json_object_set_new(j, "size", json_sprintf("%dx%d", i->width, i->height));
    json_object_set_new(j, "size_multiple", json_integer(i->size_multiple));
    json_object_set_new(j, "steps", json_integer(i->steps));
    json_object_set_new(j, "guidance_scale", json_real((double)i->guidance_scale));
    json_object_set_new(j, "max_prompt_tokens", json_integer(i->chunk_len - 2));
}

/* max_model_len as vLLM has it, meta as llama-server. */
static void text_fields(json_t *j, const an_model_info *i, const an_engine_options *limits)
{
    int len = i->context_len < limits->max_context ? i->context_len : limits->max_context;
    json_object_set_new(j, "max_model_len", json_integer(len));
    json_object_set_new(j, "tokenizer", json_boolean(i->has_tokenizer));
    json_object_set_new(j, "chat_template", json_boolean(i->has_chat_template));
    json_object_set_new(j, "meta",
                        json_pack("{s:i,s:i,s:i,s:I}", "n_vocab", i->vocab, "n_ctx_train",
                                  i->context_len, "n_layer", i->layers, "size",
                                  (json_int_t)i->weight_bytes_file));
}

static json_t *model_json(const an_model_entry *m, const an_engine_options *limits)
{
    json_t *j =
        json_pack("{s:s,s:s,s:I,s:s,s:s,s:b,s:i,s:b}", "id", m->id, "object", "model", "created",
                  (json_int_t)m->created, "owned_by", "anneal", "kind", an_kind_name(m->info.kind),
                  "loaded", m->loaded, "devices", m->devices, "default", m->is_default);
    if (!m->ok) {
        json_object_set_new(j, "error", json_string(m->error));
        return j;
    }
    json_object_set_new(j, "family", json_string(m->info.family));
    json_object_set_new(j, "class", json_string(m->info.class_name));
    if (m->info.kind == AN_KIND_TEXT)
        text_fields(j, &m->info, limits);
    else
        image_fields(j, &m->info);
    return j;
}

static void models(an_req *r)
{
    an_engine *e = an_server_engine(r->server);
    json_t *data = json_array();
    an_model_entry *m = malloc(sizeof *m);
    for (int i = 0; m && i < an_engine_model_count(e); i++)
        if (an_engine_model_at(e, i, m) && m->ok)
            json_array_append_new(data, model_json(m, an_engine_limits(e)));
    free(m);
    reply_json(r, 200, json_pack("{s:s,s:o}", "object", "list", "data", data));
}

static void model(an_req *r)
{
    an_engine *e = an_server_engine(r->server);
    an_error err = {0};
    an_model_entry *m = malloc(sizeof *m);
    for (int i = 0; m && i < an_engine_model_count(e); i++) {
        if (!an_engine_model_at(e, i, m) || strcmp(m->id, r->rest) != 0) continue;
        reply_json(r, 200, model_json(m, an_engine_limits(e)));
        free(m);
        return;
    }
    if (!m)
        an_fail(&err, AN_NO_MEMORY, "out of memory");
    else if (an_engine_model_find(e, r->rest, AN_KIND_IMAGE, m, &err) == AN_OK)
        an_fail_param(&err, AN_NOT_FOUND, "model", "no model '%.200s'", r->rest);
    free(m);
    reply_error(r, &err);
}

/* ---------------------------------------------------------------- health */

/* Each device of several: one that is lost takes nothing but its own jobs with it. */
static json_t *devices_json(an_engine *e)
{
    json_t *list = json_array();
    an_device_stats d;
    for (int i = 0; i < an_engine_device_count(e); i++) {
        an_engine_device_at(e, i, &d);
        json_t *one = json_pack("{s:s,s:s,s:s,s:i,s:i}", "name", d.name, "description",
                                d.description, "status", d.ok ? "ok" : "device_failed", "models",
                                d.models, "running", d.running_rows);
        if (!d.ok) json_object_set_new(one, "error", json_string(d.error));
        json_array_append_new(list, one);
    }
    return list;
}

static void health(an_req *r)
{
    an_engine_stats s;
    an_engine_get_stats(an_server_engine(r->server), &s);
    const char *state = s.draining     ? "shutting_down"
                        : !s.device_ok ? "device_failed"
                        : !s.ready     ? "loading"
                                       : "ok";
    bool ok = s.ready && s.device_ok && !s.draining;
    if (!ok && s.device_ok) reply_header(r, "Retry-After", "1");
    const an_engine_options *o = an_engine_limits(an_server_engine(r->server));
    json_t *body = json_pack("{s:s,s:s,s:s,s:i,s:i,s:i,s:f,s:{s:i,s:i,s:i,s:i,s:i,s:i}}", "status",
                             state, "version", AN_VERSION, "device", s.device, "queued", s.queued,
                             "running", s.running, "max_queue", o->max_queue, "uptime_s",
                             an_unix_s() - an_server_started(r->server), "limits", "n", o->max_n,
                             "steps", o->max_steps, "width", o->max_width, "height", o->max_height,
                             "batch", o->max_batch, "prompt_bytes", o->max_prompt_bytes);
    if (an_engine_device_count(an_server_engine(r->server)) > 1)
        json_object_set_new(body, "devices", devices_json(an_server_engine(r->server)));
    if (!ok) /* what llama-server's clients look for */
        json_object_set_new(body, "error",
                            json_pack("{s:i,s:s,s:s}", "code", 503, "message",
                                      *s.device_error ? s.device_error
                                      : s.ready       ? state
                                                      : "Loading model",
                                      "type", "unavailable_error"));
    reply_json(r, ok ? 200 : 503, body);
}

/* ---------------------------------------------------------------- metrics */

static void metric(an_buf *b, const char *name, const char *type, const char *help, double v)
{
    an_buf_printf(b, "# HELP anneal_%s %s\n# TYPE anneal_%s %s\nanneal_%s %.17g\n", name, help,
                  name, type, name, v);
}

static void histogram(an_buf *b, const char *name, const char *help, const an_histogram *h)
{
    an_buf_printf(b, "# HELP anneal_%s %s\n# TYPE anneal_%s histogram\n", name, help, name);
    for (int i = 0; i < AN_HIST_BUCKETS - 1; i++)
        an_buf_printf(b, "anneal_%s_bucket{le=\"%g\"} %llu\n", name, h->le[i],
                      (unsigned long long)h->count[i]);
    an_buf_printf(
        b, "anneal_%s_bucket{le=\"+Inf\"} %llu\nanneal_%s_sum %.9g\nanneal_%s_count %llu\n", name,
        (unsigned long long)h->total, name, h->sum, name, (unsigned long long)h->total);
}

static void engine_metrics(an_buf *b, const an_engine_stats *s)
{
    metric(b, "ready", "gauge", "1 when the default models are loaded", s->ready);
    metric(b, "jobs_queued", "gauge", "jobs waiting", s->queued);
    metric(b, "jobs_running", "gauge", "jobs started and not finished", s->running);
    metric(b, "rows_running", "gauge", "pictures started and not finished", s->running_rows);
    metric(b, "images_total", "counter", "pictures finished", (double)s->images_done);
    an_buf_str(
        b, "# HELP anneal_jobs_total jobs by how they ended\n# TYPE anneal_jobs_total counter\n");
    an_buf_printf(
        b,
        "anneal_jobs_total{state=\"done\"} %llu\nanneal_jobs_total{state=\"failed\"} %llu\n"
        "anneal_jobs_total{state=\"cancelled\"} %llu\n"
        "anneal_jobs_total{state=\"refused\"} %llu\n",
        (unsigned long long)s->jobs_done, (unsigned long long)s->jobs_failed,
        (unsigned long long)s->jobs_canceled, (unsigned long long)s->jobs_refused);
    an_buf_str(b, "# HELP anneal_ticks_total ticks by stage; rows / ticks is the mean batch\n"
                  "# TYPE anneal_ticks_total counter\n");
    for (int i = 0; i < AN_STAGE_COUNT; i++)
        an_buf_printf(b, "anneal_ticks_total{stage=\"%s\"} %llu\n", an_stage_name((an_stage)i),
                      (unsigned long long)s->ticks[i]);
    an_buf_str(
        b, "# HELP anneal_rows_total rows advanced, by stage\n# TYPE anneal_rows_total counter\n");
    for (int i = 0; i < AN_STAGE_COUNT; i++)
        an_buf_printf(b, "anneal_rows_total{stage=\"%s\"} %llu\n", an_stage_name((an_stage)i),
                      (unsigned long long)s->rows[i]);
    metric(b, "device_busy_seconds_total", "counter", "seconds the device worked", s->busy_s);
    metric(b, "weight_bytes", "gauge", "weights on the device", (double)s->weight_bytes);
    metric(b, "arena_bytes", "gauge", "activation arenas on the device", (double)s->arena_bytes);
    metric(b, "result_bytes", "gauge", "pixels kept for finished jobs", (double)s->result_bytes);
    metric(b, "text_cache_hits_total", "counter", "text encodings found in the cache",
           (double)s->text_cache_hits);
    metric(b, "text_cache_misses_total", "counter", "text encodings computed",
           (double)s->text_cache_misses);
    histogram(b, "queue_seconds", "time from submit to the first tick", &s->queue_s);
    histogram(b, "step_seconds", "one denoising tick", &s->step_s);
    histogram(b, "request_seconds", "time from submit to the end", &s->request_s);
    metric(b, "kv_blocks", "gauge", "blocks of 16 keys and values", (double)s->kv_blocks);
    metric(b, "kv_blocks_used", "gauge", "those of growing answers", (double)s->kv_blocks_used);
    metric(b, "sequences_running", "gauge", "answers that grow", s->seqs_running);
    metric(b, "sequences_waiting", "gauge", "answers that wait", s->seqs_waiting);
}

/* One number of every device. */
static void device_metric(an_buf *b, an_engine *e, const char *name, const char *type,
                          const char *help, double (*of)(const an_device_stats *d))
{
    an_device_stats d;
    an_buf_printf(b, "# HELP anneal_device_%s %s\n# TYPE anneal_device_%s %s\n", name, help, name,
                  type);
    for (int i = 0; i < an_engine_device_count(e); i++) {
        an_engine_device_at(e, i, &d);
        an_buf_printf(b, "anneal_device_%s{device=\"%d\",name=\"%s\"} %.17g\n", name, i, d.name,
                      of(&d));
    }
}

static double device_up(const an_device_stats *d)
{
    return d->ok;
}
static double device_models(const an_device_stats *d)
{
    return d->models;
}
static double device_rows_running(const an_device_stats *d)
{
    return d->running_rows;
}
static double device_ticks(const an_device_stats *d)
{
    return (double)d->ticks;
}
static double device_rows(const an_device_stats *d)
{
    return (double)d->rows;
}
static double device_tick_seconds(const an_device_stats *d)
{
    return d->busy_s;
}
static double device_memory(const an_device_stats *d)
{
    return (double)d->memory_bytes;
}
static double device_used(const an_device_stats *d)
{
    return (double)d->used_bytes;
}

static void device_metrics(an_buf *b, an_engine *e)
{
    device_metric(b, e, "up", "gauge", "1 while the device answers", device_up);
    device_metric(b, e, "models", "gauge", "models loaded on the device", device_models);
    device_metric(b, e, "rows_running", "gauge", "pictures and answers that run on the device",
                  device_rows_running);
    device_metric(b, e, "ticks_total", "counter", "ticks of the device", device_ticks);
    device_metric(b, e, "rows_total", "counter", "rows advanced by the device", device_rows);
    device_metric(b, e, "tick_seconds_total", "counter", "seconds of the device's ticks",
                  device_tick_seconds);
    device_metric(b, e, "memory_budget_bytes", "gauge", "what the device may use", device_memory);
    device_metric(b, e, "memory_used_bytes", "gauge",
                  "weights, activations, pictures, keys and values on the device", device_used);
}

static void metrics(an_req *r)
{
    an_buf b;
    an_engine_stats s;
    an_http_stats h;
    an_buf_init(&b, 1 << 20);
    an_engine_get_stats(an_server_engine(r->server), &s);
    an_server_stats(r->server, &h);
    engine_metrics(&b, &s);
    device_metrics(&b, an_server_engine(r->server));
    text_metrics(an_server_engine(r->server), &s, &b);
    an_buf_str(&b, "# HELP anneal_http_requests_total answers by status class\n"
                   "# TYPE anneal_http_requests_total counter\n");
    for (int i = 2; i < 6; i++)
        an_buf_printf(&b, "anneal_http_requests_total{class=\"%dxx\"} %llu\n", i,
                      (unsigned long long)h.requests[i]);
    metric(&b, "http_connections", "gauge", "open connections", h.connections);
    metric(&b, "http_streams", "gauge", "open event streams", h.streams);
    metric(&b, "http_waiting", "gauge", "connections asleep until their job ends", h.waiting);
    metric(&b, "http_body_bytes_total", "counter", "request body bytes read",
           (double)h.body_bytes_in);
    metric(&b, "http_held_bytes", "gauge", "bodies, answers and streams in memory",
           (double)h.bytes_held);
    metric(&b, "http_sent_bytes_total", "counter", "response body bytes", (double)h.bytes_out);
    long rss = 0, size = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &size, &rss) != 2) rss = 0;
    if (f) fclose(f);
    metric(&b, "resident_bytes", "gauge", "resident set",
           (double)rss * (double)sysconf(_SC_PAGESIZE));
    metric(&b, "start_time_seconds", "gauge", "unix time of the start",
           an_server_started(r->server));
    size_t len = b.len;
    reply_bytes(r, 200, "text/plain; version=0.0.4; charset=utf-8", an_buf_take(&b), len);
}

static void root(an_req *r)
{
    static const char text[] =
        "anneal " AN_VERSION "\n\n"
        "curl -s localhost:8080/v1/images/generations -H 'Content-Type: application/json' \\\n"
        "     -d '{\"prompt\":\"red apple on a blue background\",\"seed\":1}' \\\n"
        "     | jq -r '.data[0].b64_json' | base64 -d > apple.png\n\n"
        "curl -sN localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        "     -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Why is the sky blue?\"}],"
        "\"stream\":true}'\n\n"
        "POST /v1/chat/completions   POST /v1/completions   POST /tokenize   /detokenize\n"
        "     /apply-template   /completion   /infill   GET /props   /slots\n"
        "POST /v1/images/generations   POST /v1/jobs   GET /v1/jobs/ID[/events]   POST "
        "/v1/latents\n"
        "GET  /v1/models   /health   /metrics   and A1111's /sdapi/v1/*\n";
    reply_bytes(r, 200, "text/plain; charset=utf-8", strdup(text), sizeof text - 1);
}

const an_route status_routes[] = {{"GET", "/v1/models", models, false},
                                  {"GET", "/v1/models/*", model, false},
                                  {"GET", "/models", models, false},
                                  {"GET", "/health", health, true},
                                  {"GET", "/v1/health", health, true},
                                  {"GET", "/metrics", metrics, false},
                                  {"GET", "/", root, true},
                                  {NULL, NULL, NULL, false}};
