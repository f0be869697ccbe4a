/* metrics.h: how a page of Prometheus' text format 0.0.4 is written, and its two parts. Names are
 * whole ("anneal_jobs_queued"); labels is what stands between the braces, or "" for none, its
 * values already escaped. */
#ifndef ANNEAL_METRICS_H
#define ANNEAL_METRICS_H

#include "anneal/engine.h"

/* The two lines above a family; once each, its samples follow together. */
void metric_head(an_buf *b, const char *name, const char *type, const char *help);
void metric_sample(an_buf *b, const char *name, const char *labels, double v);
/* A family of one sample. */
void metric(an_buf *b, const char *name, const char *type, const char *labels, const char *help,
            double v);
/* The samples of a histogram: _bucket, _sum and _count. */
void metric_buckets(an_buf *b, const char *name, const char *labels, const an_histogram *h);
void metric_histogram(an_buf *b, const char *name, const char *labels, const char *help,
                      const an_histogram *h);

/* metrics_text.c: numbers of language models under vLLM's names; nothing where there is none. */
void text_metrics(an_engine *e, const an_engine_stats *s, an_buf *b);

#endif
