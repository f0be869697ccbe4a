/* status.c: what is served and how it is doing: /v1/models, /health. */
#include "text_ask.h"

#include <stdlib.h>

/* How old an answer may be although nothing has happened: uptime_s goes on, and models have nothing
 * that does. */
#define HEALTH_AGE_S 0.1
#define MODELS_AGE_S 60

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
    an_pulse pulse;
    if (reply_cached(r, AN_CACHED_MODELS, MODELS_AGE_S, &pulse)) return;
    json_t *data = json_array();
    an_model_entry *m = malloc(sizeof *m);
    for (int i = 0; m && i < an_engine_model_count(e); i++)
        if (an_engine_model_at(e, i, m) && m->ok)
            json_array_append_new(data, model_json(m, an_engine_limits(e)));
    free(m);
    reply_and_cache(r, AN_CACHED_MODELS, &pulse,
                    json_pack("{s:s,s:o}", "object", "list", "data", data));
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
    an_pulse pulse;
    if (reply_cached(r, AN_CACHED_HEALTH, HEALTH_AGE_S, &pulse)) return;
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
    if (ok)
        reply_and_cache(r, AN_CACHED_HEALTH, &pulse, body);
    else
        reply_json(r, 503, body);
}

const an_route status_routes[] = {
    {"GET", "/v1/models", models, false}, {"GET", "/v1/models/*", model, false},
    {"GET", "/models", models, false},    {"GET", "/health", health, true},
    {"GET", "/v1/health", health, true},  {NULL, NULL, NULL, false}};
