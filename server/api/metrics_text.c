/* metrics_text.c: numbers of the language models under the names that vLLM gives them: dashboards,
 * autoscalers and gateways (Kubernetes' inference extension) know those. The engine counts over all
 * models; the label is the default one's name. */
#include "text_ask.h"

#include <stdlib.h>

typedef struct page {
    an_buf *b;
    char label[600]; /* model_name="...",engine="0" */
} page;

/* Prometheus' escapes. */
static void set_label(page *p, const char *model)
{
    char name[2 * 256 + 1];
    size_t n = 0;
    for (; *model && n + 2 < sizeof name; model++) {
        if (*model == '"' || *model == '\\' || *model == '\n') name[n++] = '\\';
        name[n++] = *model == '\n' ? 'n' : *model;
    }
    name[n] = '\0';
    snprintf(p->label, sizeof p->label, "engine=\"0\",model_name=\"%s\"", name);
}

static void head(const page *p, const char *name, const char *type, const char *help)
{
    an_buf_printf(p->b, "# HELP vllm:%s %s\n# TYPE vllm:%s %s\n", name, help, name, type);
}

static void number(const page *p, const char *name, const char *type, const char *help, double v)
{
    head(p, name, type, help);
    an_buf_printf(p->b, "vllm:%s{%s} %.17g\n", name, p->label, v);
}

static void histogram(const page *p, const char *name, const char *help, const an_histogram *h)
{
    head(p, name, "histogram", help);
    for (int i = 0; i < AN_HIST_BUCKETS - 1; i++)
        an_buf_printf(p->b, "vllm:%s_bucket{%s,le=\"%g\"} %llu\n", name, p->label, h->le[i],
                      (unsigned long long)h->count[i]);
    an_buf_printf(p->b, "vllm:%s_bucket{%s,le=\"+Inf\"} %llu\n", name, p->label,
                  (unsigned long long)h->total);
    an_buf_printf(p->b, "vllm:%s_sum{%s} %.9g\nvllm:%s_count{%s} %llu\n", name, p->label, h->sum,
                  name, p->label, (unsigned long long)h->total);
}

static void finished(const page *p, const char *reason, uint64_t n)
{
    an_buf_printf(p->b, "vllm:request_success_total{%s,finished_reason=\"%s\"} %llu\n", p->label,
                  reason, (unsigned long long)n);
}

static void counters(const page *p, const an_engine_stats *s)
{
    number(p, "num_requests_running", "gauge", "answers that grow now", s->seqs_running);
    number(p, "num_requests_waiting", "gauge", "answers that wait for room", s->seqs_waiting);
    number(p, "kv_cache_usage_perc", "gauge", "share of the key and value blocks in use, 0 to 1",
           s->kv_blocks ? (double)s->kv_blocks_used / (double)s->kv_blocks : 0);
    number(p, "prompt_tokens_total", "counter", "tokens of prompts", (double)s->prompt_tokens);
    number(p, "generation_tokens_total", "counter", "new tokens", (double)s->generated_tokens);
    number(p, "num_preemptions_total", "counter", "answers that gave their blocks back for a while",
           (double)s->preemptions);
    number(p, "prefix_cache_queries_total", "counter", "tokens looked for in the prefix cache",
           (double)s->prefix_queries);
    number(p, "prefix_cache_hits_total", "counter", "tokens found there", (double)s->prefix_hits);
    /* newer vLLM has the suffix, its documents and older dashboards have not */
    number(p, "prefix_cache_queries", "counter", "the same", (double)s->prefix_queries);
    number(p, "prefix_cache_hits", "counter", "the same", (double)s->prefix_hits);
    head(p, "request_success_total", "counter", "finished answers by how they ended");
    finished(p, "stop", s->finished_stop);
    finished(p, "length", s->finished_length);
    finished(p, "abort", s->finished_abort);
    head(p, "cache_config_info", "gauge", "the pool of key and value blocks");
    an_buf_printf(p->b, "vllm:cache_config_info{%s,block_size=\"16\",num_gpu_blocks=\"%lld\"} 1\n",
                  p->label, (long long)s->kv_blocks);
}

void text_metrics(an_engine *e, const an_engine_stats *s, an_buf *b)
{
    page p = {.b = b};
    an_model_entry *m = calloc(1, sizeof *m);
    if (m && an_engine_model_find(e, NULL, AN_KIND_TEXT, m, NULL) == AN_OK) {
        set_label(&p, m->id);
        counters(&p, s);
        histogram(&p, "time_to_first_token_seconds", "from the request to its first token",
                  &s->first_token_s);
        histogram(&p, "inter_token_latency_seconds", "from token to token", &s->token_s);
        histogram(&p, "time_per_output_token_seconds", "the same, its older name", &s->token_s);
        histogram(&p, "e2e_request_latency_seconds", "from the request to its end", &s->request_s);
        histogram(&p, "request_queue_time_seconds", "from the request to its first tick",
                  &s->queue_s);
        histogram(&p, "iteration_tokens_total", "tokens of a tick", &s->tick_tokens);
    }
    free(m);
}
