/* metrics.c: GET /metrics, in Prometheus' text format. Units are seconds and bytes, counters end in
 * _total, as https://prometheus.io/docs/practices/naming/ asks. What docker/ and deploy/ plot and
 * alert on is held against this page by tests/deploy/test_metrics.py. */
#include "metrics.h"
#include "http.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---------------------------------------------------------------- the format */

void metric_head(an_buf *b, const char *name, const char *type, const char *help)
{
    an_buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metric_sample(an_buf *b, const char *name, const char *labels, double v)
{
    const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    an_buf_printf(b, "%s%s%s%s %.17g\n", name, open, labels, close, v);
}

void metric(an_buf *b, const char *name, const char *type, const char *labels, const char *help,
            double v)
{
    metric_head(b, name, type, help);
    metric_sample(b, name, labels, v);
}

void metric_buckets(an_buf *b, const char *name, const char *labels, const an_histogram *h)
{
    const char *comma = *labels ? "," : "", *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    for (int i = 0; i < AN_HIST_BUCKETS - 1; i++)
        an_buf_printf(b, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, comma, h->le[i],
                      (unsigned long long)h->count[i]);
    an_buf_printf(b, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma,
                  (unsigned long long)h->total);
    an_buf_printf(b, "%s_sum%s%s%s %.9g\n%s_count%s%s%s %llu\n", name, open, labels, close, h->sum,
                  name, open, labels, close, (unsigned long long)h->total);
}

void metric_histogram(an_buf *b, const char *name, const char *labels, const char *help,
                      const an_histogram *h)
{
    metric_head(b, name, "histogram", help);
    metric_buckets(b, name, labels, h);
}

static void gauge(an_buf *b, const char *name, const char *help, double v)
{
    metric(b, name, "gauge", "", help, v);
}

static void counter(an_buf *b, const char *name, const char *help, double v)
{
    metric(b, name, "counter", "", help, v);
}

/* ---------------------------------------------------------------- the engine */

static void job_metrics(an_buf *b, const an_engine_stats *s, const an_engine_options *o)
{
    gauge(b, "anneal_ready", "1 when the default models are loaded", s->ready);
    gauge(b, "anneal_draining", "1 from SIGTERM on", s->draining);
    gauge(b, "anneal_jobs_queued", "jobs waiting", s->queued);
    gauge(b, "anneal_jobs_queued_max", "jobs that may wait; one more is answered 429",
          o->max_queue);
    gauge(b, "anneal_queue_oldest_seconds", "how long the job that waits longest has waited",
          s->oldest_s);
    gauge(b, "anneal_jobs_running", "jobs started and not finished", s->running);
    gauge(b, "anneal_rows_running", "pictures started and not finished", s->running_rows);
    counter(b, "anneal_images_total", "pictures finished", (double)s->images_done);
    metric_head(b, "anneal_jobs_total", "counter", "jobs by how they ended");
    metric_sample(b, "anneal_jobs_total", "state=\"done\"", (double)s->jobs_done);
    metric_sample(b, "anneal_jobs_total", "state=\"failed\"", (double)s->jobs_failed);
    metric_sample(b, "anneal_jobs_total", "state=\"cancelled\"", (double)s->jobs_canceled);
    metric_sample(b, "anneal_jobs_total", "state=\"refused\"", (double)s->jobs_refused);
    metric_histogram(b, "anneal_queue_seconds", "", "time from submit to the first tick",
                     &s->queue_s);
    metric_histogram(b, "anneal_request_seconds", "", "time from submit to the end", &s->request_s);
    metric_histogram(b, "anneal_first_preview_seconds", "",
                     "time from submit to the first preview, where previews are asked for",
                     &s->first_preview_s);
    metric_histogram(b, "anneal_first_token_seconds", "", "time from submit to the first token",
                     &s->first_token_s);
    metric_histogram(b, "anneal_inter_token_seconds", "", "time from token to token of an answer",
                     &s->token_s);
}

static void tick_metrics(an_buf *b, const an_engine_stats *s)
{
    char stage[64];
    static const char *const names[] = {"anneal_ticks_total", "anneal_rows_total",
                                        "anneal_batch_rows"};
    metric_head(b, names[0], "counter", "ticks by stage");
    for (int i = 0; i < AN_STAGE_COUNT; i++) {
        snprintf(stage, sizeof stage, "stage=\"%s\"", an_stage_name((an_stage)i));
        metric_sample(b, names[0], stage, (double)s->ticks[i]);
    }
    metric_head(b, names[1], "counter", "rows advanced, by stage; rows / ticks is the mean batch");
    for (int i = 0; i < AN_STAGE_COUNT; i++) {
        snprintf(stage, sizeof stage, "stage=\"%s\"", an_stage_name((an_stage)i));
        metric_sample(b, names[1], stage, (double)s->rows[i]);
    }
    metric_head(b, names[2], "histogram", "rows of a tick, by stage: how full batches are");
    for (int i = 0; i < AN_STAGE_COUNT; i++) {
        snprintf(stage, sizeof stage, "stage=\"%s\"", an_stage_name((an_stage)i));
        metric_buckets(b, names[2], stage, &s->batch_rows[i]);
    }
    metric_histogram(b, "anneal_step_seconds", "", "one denoising tick", &s->step_s);
    counter(b, "anneal_device_busy_seconds_total", "seconds the device worked", s->busy_s);
}

static void memory_metrics(an_buf *b, const an_engine_stats *s)
{
    gauge(b, "anneal_weight_bytes", "weights on the device", (double)s->weight_bytes);
    gauge(b, "anneal_arena_bytes", "activation arenas on the device", (double)s->arena_bytes);
    gauge(b, "anneal_result_bytes", "pixels kept for finished jobs", (double)s->result_bytes);
    counter(b, "anneal_text_cache_hits_total", "text encodings found in the cache",
            (double)s->text_cache_hits);
    counter(b, "anneal_text_cache_misses_total", "text encodings computed",
            (double)s->text_cache_misses);
    gauge(b, "anneal_kv_blocks", "blocks of 16 keys and values", (double)s->kv_blocks);
    gauge(b, "anneal_kv_blocks_used", "those of growing answers", (double)s->kv_blocks_used);
    gauge(b, "anneal_sequences_running", "answers that grow", s->seqs_running);
    gauge(b, "anneal_sequences_waiting", "answers that wait", s->seqs_waiting);
    counter(b, "anneal_prompt_tokens_total", "tokens of prompts", (double)s->prompt_tokens);
    counter(b, "anneal_generated_tokens_total", "new tokens", (double)s->generated_tokens);
    counter(b, "anneal_preemptions_total", "answers that gave their blocks back for a while",
            (double)s->preemptions);
    counter(b, "anneal_prefix_cache_query_tokens_total", "tokens looked for in the prefix cache",
            (double)s->prefix_queries);
    counter(b, "anneal_prefix_cache_hit_tokens_total", "tokens found there",
            (double)s->prefix_hits);
}

/* One number of every device. */
static void device_metric(an_buf *b, an_engine *e, const char *name, const char *type,
                          const char *help, double (*of)(const an_device_stats *d))
{
    an_device_stats d;
    char labels[96];
    metric_head(b, name, type, help);
    for (int i = 0; i < an_engine_device_count(e); i++) {
        an_engine_device_at(e, i, &d);
        snprintf(labels, sizeof labels, "device=\"%d\",name=\"%s\"", i, d.name);
        metric_sample(b, name, labels, of(&d));
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
    device_metric(b, e, "anneal_device_up", "gauge", "1 while the device answers", device_up);
    device_metric(b, e, "anneal_device_models", "gauge", "models loaded on the device",
                  device_models);
    device_metric(b, e, "anneal_device_rows_running", "gauge",
                  "pictures and answers that run on the device", device_rows_running);
    device_metric(b, e, "anneal_device_ticks_total", "counter", "ticks of the device",
                  device_ticks);
    device_metric(b, e, "anneal_device_rows_total", "counter", "rows advanced by the device",
                  device_rows);
    device_metric(b, e, "anneal_device_tick_seconds_total", "counter",
                  "seconds of the device's ticks", device_tick_seconds);
    device_metric(b, e, "anneal_device_memory_budget_bytes", "gauge", "what the device may use",
                  device_memory);
    device_metric(b, e, "anneal_device_memory_used_bytes", "gauge",
                  "weights, activations, pictures, keys and values on the device", device_used);
}

/* ---------------------------------------------------------------- HTTP and the process */

static void http_metrics(an_buf *b, const an_http_stats *h)
{
    static const char name[] = "anneal_http_requests_total";
    metric_head(b, name, "counter", "answers by status code");
    for (int i = 1; i < AN_HTTP_CODES; i++) {
        char code[32];
        /* these are there from the start, so that a rate over them never lacks its first step */
        bool expected = i == 200 || i == 400 || i == 429 || i == 500 || i == 503;
        if (!h->requests[i] && !expected) continue;
        snprintf(code, sizeof code, "code=\"%d\"", i);
        metric_sample(b, name, code, (double)h->requests[i]);
    }
    gauge(b, "anneal_http_connections", "open connections", h->connections);
    counter(b, "anneal_http_turned_away_total",
            "connections answered 503: all were taken, or 429: all of their address",
            (double)h->turned_away);
    counter(b, "anneal_http_cut_off_total", "connections closed: headers or a body took too long",
            (double)h->cut_off);
    gauge(b, "anneal_http_streams", "open event streams", h->streams);
    gauge(b, "anneal_http_waiting", "connections asleep until their job ends", h->waiting);
    counter(b, "anneal_http_body_bytes_total", "request body bytes read", (double)h->body_bytes_in);
    gauge(b, "anneal_http_held_bytes", "bodies, answers and streams in memory",
          (double)h->bytes_held);
    counter(b, "anneal_http_sent_bytes_total", "response body bytes", (double)h->bytes_out);
}

/* Named as every Prometheus client names them. */
static void process_metrics(an_buf *b, double started)
{
    long rss = 0, size = 0;
    struct rusage u = {0};
    struct rlimit files = {0};
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%ld %ld", &size, &rss) != 2) rss = 0;
    if (f) fclose(f);
    getrusage(RUSAGE_SELF, &u);
    getrlimit(RLIMIT_NOFILE, &files);
    gauge(b, "process_resident_memory_bytes", "resident set",
          (double)rss * (double)sysconf(_SC_PAGESIZE));
    counter(b, "process_cpu_seconds_total", "user and system time of all threads",
            (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec));
    gauge(b, "process_max_fds", "files that may be open", (double)files.rlim_cur);
    gauge(b, "process_start_time_seconds", "unix time of the start", started);
}

static void build_info(an_buf *b, an_engine *e)
{
    an_device_stats d;
    char labels[128];
    an_engine_device_at(e, 0, &d);
    snprintf(labels, sizeof labels, "version=\"%s\",device=\"%s\"", AN_VERSION, d.name);
    metric(b, "anneal_build_info", "gauge", labels, "1; which version runs on which device", 1);
}

static void metrics(an_req *r)
{
    an_buf b;
    an_engine_stats s;
    an_http_stats h;
    an_engine *e = an_server_engine(r->server);
    an_buf_init(&b, 1 << 20);
    an_engine_get_stats(e, &s);
    an_server_stats(r->server, &h);
    build_info(&b, e);
    job_metrics(&b, &s, an_engine_limits(e));
    tick_metrics(&b, &s);
    memory_metrics(&b, &s);
    device_metrics(&b, e);
    text_metrics(e, &s, &b);
    http_metrics(&b, &h);
    process_metrics(&b, an_server_started(r->server));
    size_t len = b.len;
    reply_bytes(r, 200, "text/plain; version=0.0.4; charset=utf-8", an_buf_take(&b), len);
}

const an_route metrics_routes[] = {{"GET", "/metrics", metrics, false}, {NULL, NULL, NULL, false}};
