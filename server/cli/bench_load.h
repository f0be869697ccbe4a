/* bench_load.h: `anneal bench --load URL`: what a server makes of requests that come at random, as
 * users' do. bench_load.c sends them, bench_load_client.c is one request, bench_load_report.c says
 * what came of it, bench_load_plot.c draws it. */
#ifndef ANNEAL_BENCH_LOAD_H
#define ANNEAL_BENCH_LOAD_H

#include "anneal/base.h"

#include <curl/curl.h>
#include <stdio.h>

#define LOAD_MAX_RATES 16

typedef enum { LOAD_IMAGE, LOAD_CHAT, LOAD_KINDS } load_kind;

typedef struct load_ask {
    char url[800];     /* of the server: http://host:port, perhaps with a path before /v1 */
    const char *key;   /* NULL = none */
    const char *model; /* NULL = the server's default of each kind */
    const char *svg;   /* file for the plot, or NULL */
    double rates[LOAD_MAX_RATES]; /* requests a second */
    int n_rates;
    bool sweep, json;          /* sweep: doubles the rate until the server falls behind */
    double weight[LOAD_KINDS]; /* how often each kind; all 0 = what the server has models for */
    double seconds;            /* of arrivals, at each rate */
    double timeout;            /* of a request, seconds */
    int64_t seed;
    int steps, width, height;     /* of a picture; 0 = the model's */
    int prompt_words, max_tokens; /* of a chat */
} load_ask;

/* Numbers that percentiles are taken from. */
typedef struct load_samples {
    double *v;
    size_t n, cap;
} load_samples;
bool load_add(load_samples *s, double v);
void load_sort(load_samples *s);
/* The nearest-rank percentile of sorted samples, p in 0..1; NaN without any. */
double load_percentile(const load_samples *s, double p);

#define LOAD_NO_ANSWER                                                                             \
    0 /* status of requests that got none: connection refused, broken, timed out */
#define LOAD_BROKEN   1 /* answered 200, and the stream told an error or ended early */
#define LOAD_STATUSES 600

/* What came of the requests of one rate. Seconds count from when the request was to start, not from
 * when the generator got round to it, so that a stall shows in every request that it delayed. */
typedef struct load_result {
    double rate, elapsed; /* offered a second; from the first arrival to the last answer */
    double lag;           /* the most that a request started late: the generator's own fault */
    int sent[LOAD_KINDS], done[LOAD_KINDS];
    int64_t tokens;
    load_samples first[LOAD_KINDS], total[LOAD_KINDS], gap; /* first preview or token; of tokens */
    double queue[3]; /* p50, p95, p99 by the server's own histogram; NaN where it tells none */
    int status[LOAD_STATUSES];
} load_result;
void load_result_free(load_result *r);

/* ---- bench_load_client.c: one request */
typedef struct load_request {
    CURL *easy;
    struct load_request *next; /* free list */
    load_kind kind;
    double due;         /* when it was to start */
    double first, last; /* when the first and the last preview or piece of text came; 0 */
    load_result *result;
    char line[600]; /* of the stream, its beginning */
    size_t line_len;
    bool complete, broken;
    int64_t tokens;
    char *body, url[1024];
    struct curl_slist *headers;
} load_request;
/* Makes r->easy ready to be sent. False without memory. */
bool load_request_set(load_request *r, const load_ask *ask, load_kind kind, uint64_t number);
/* Counts what came of it. */
void load_request_count(load_request *r, CURLcode code);
void load_request_clear(load_request *r);
/* GET url + path; the text is the caller's. */
an_status load_get(const load_ask *ask, const char *path, char **text, an_error *err);

/* ---- bench_load_report.c */
void load_print_head(const load_ask *ask);
void load_print(const load_result *r);
void load_print_json(const load_ask *ask, const load_result *r, int n);
extern const double load_percentiles[3]; /* 0.5, 0.95, 0.99 */
extern const char *const load_kind_names[LOAD_KINDS];
/* The percentiles of anneal_queue_seconds between two texts of /metrics; NaN where nothing came. */
void load_queue(const char *before, const char *after, double out[3]);

/* ---- bench_load_plot.c: latency against load, an SVG for light and dark pages */
an_status load_plot(const char *file, const load_result *r, int n, an_error *err);

/* ---- bench_load_ask.c: the command line, as it is written; NULL = not given */
typedef struct load_line {
    const char *url, *rate, *mix, *seed, *key, *steps, *prompt_words, *max_tokens, *timeout, *svg;
    bool sweep;
} load_line;
/* False after saying what is wrong with it. */
bool load_read(const load_line *l, load_ask *ask);

/* The whole. AN_INVALID for a URL that is none, AN_IO when the server cannot be reached. */
an_status bench_load(load_ask *ask, an_error *err);

#endif
