/* metrics_text.c: numbers of the language models under the names that vLLM gives them: dashboards,
 * autoscalers and gateways (Kubernetes' inference extension) know those. The engine counts over all
 * models; the label is the default one's name. */
#include "metrics.h"

#include <stdio.h>
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

static void number(const page *p, const char *name, const char *type, const char *help, double v)
{
    metric(p->b, name, type, p->label, help, v);
}

static void finished(const page *p, const char *reason, uint64_t n)
{
    char labels[700];
    snprintf(labels, sizeof labels, "%s,finished_reason=\"%s\"", p->label, reason);
    metric_sample(p->b, "vllm:request_success_total", labels, (double)n);
}

static void counters(const page *p, const an_engine_stats *s)
{
    number(p, "vllm:num_requests_running", "gauge", "answers that grow now", s->seqs_running);
    number(p, "vllm:num_requests_waiting", "gauge", "answers that wait for room", s->seqs_waiting);
    number(p, "vllm:kv_cache_usage_perc", "gauge",
           "share of the key and value blocks in use, 0 to 1",
           s->kv_blocks ? (double)s->kv_blocks_used / (double)s->kv_blocks : 0);
    number(p, "vllm:prompt_tokens_total", "counter", "tokens of prompts", (double)s->prompt_tokens);
    number(p, "vllm:generation_tokens_total", "counter", "new tokens", (double)s->generated_tokens);
    number(p, "vllm:num_preemptions_total", "counter",
           "answers that gave their blocks back for a while", (double)s->preemptions);
    number(p, "vllm:prefix_cache_queries_total", "counter", "tokens looked for in the prefix cache",
           (double)s->prefix_queries);
    number(p, "vllm:prefix_cache_hits_total", "counter", "tokens found there",
           (double)s->prefix_hits);
    /* newer vLLM has the suffix, its documents and older dashboards have not */
    number(p, "vllm:prefix_cache_queries", "counter", "the same", (double)s->prefix_queries);
    number(p, "vllm:prefix_cache_hits", "counter", "the same", (double)s->prefix_hits);
    metric_head(p->b, "vllm:request_success_total", "counter",
                "finished answers by how they ended");
    finished(p, "stop", s->finished_stop);
    finished(p, "length", s->finished_length);
    finished(p, "abort", s->finished_abort);
    metric_head(p->b, "vllm:cache_config_info", "gauge", "the pool of key and value blocks");
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
        metric_histogram(p.b, "vllm:time_to_first_token_seconds", p.label,
                         "from the request to its first token", &s->first_token_s);
        metric_histogram(p.b, "vllm:inter_token_latency_seconds", p.label, "from token to token",
                         &s->token_s);
        metric_histogram(p.b, "vllm:time_per_output_token_seconds", p.label,
                         "the same, its older name", &s->token_s);
        metric_histogram(p.b, "vllm:e2e_request_latency_seconds", p.label,
                         "from the request to its end", &s->request_s);
        metric_histogram(p.b, "vllm:request_queue_time_seconds", p.label,
                         "from the request to its first tick", &s->queue_s);
        metric_histogram(p.b, "vllm:iteration_tokens_total", p.label, "tokens of a tick",
                         &s->tick_tokens);
    }
    free(m);
}
