/* bench_load_report.c: what `anneal bench --load` found, for people and for machines. */
#include "bench_load.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- the server's queue */

#define QUEUE       "anneal_queue_seconds_bucket{le=\""
#define MAX_BUCKETS 64

typedef struct buckets {
    double le[MAX_BUCKETS], count[MAX_BUCKETS]; /* cumulative, as Prometheus has them */
    int n;
} buckets;

static void read_buckets(const char *text, buckets *b)
{
    b->n = 0;
    for (const char *p = text; p && (p = strstr(p, QUEUE)) != NULL && b->n < MAX_BUCKETS;) {
        char *end;
        p += sizeof QUEUE - 1;
        b->le[b->n] = strtod(p, &end); /* "+Inf" too */
        if (strncmp(end, "\"} ", 3) != 0) continue;
        b->count[b->n++] = strtod(end + 3, NULL);
    }
}

/* Within its bucket a value may be anywhere: evenly, as Prometheus' histogram_quantile says. */
static double quantile(const buckets *b, double p)
{
    double total = b->n ? b->count[b->n - 1] : 0, below = 0, from = 0;
    if (!(total > 0)) return NAN;
    for (int i = 0; i < b->n; i++) {
        if (b->count[i] >= p * total) {
            if (isinf(b->le[i])) return from;
            double in = b->count[i] - below;
            return from + (b->le[i] - from) * (in > 0 ? (p * total - below) / in : 1);
        }
        below = b->count[i];
        from = b->le[i];
    }
    return NAN;
}

void load_queue(const char *before, const char *after, double out[3])
{
    buckets a, b;
    read_buckets(before, &a);
    read_buckets(after, &b);
    for (int i = 0; i < b.n && a.n == b.n; i++) b.count[i] -= a.count[i];
    for (int i = 0; i < 3; i++) out[i] = a.n == b.n ? quantile(&b, load_percentiles[i]) : NAN;
}

/* ---------------------------------------------------------------- for people */

static void print_times(const char *name, const double v[3])
{
    if (isnan(v[0]) || isnan(v[2])) return;
    printf("  %-22s", name);
    for (int i = 0; i < 3; i++) printf(v[i] < 9.9995 ? "%8.3f" : "%8.1f", v[i]);
    printf(" s\n");
}

static void print_samples(const char *name, const load_samples *s)
{
    double v[3];
    for (int i = 0; i < 3; i++) v[i] = load_percentile(s, load_percentiles[i]);
    print_times(name, v);
}

void load_print_head(const load_ask *ask)
{
    printf("%s: requests at random, %g s of each rate, pictures to chats %g:%g, seed %lld\n",
           ask->url, ask->seconds, ask->weight[LOAD_IMAGE], ask->weight[LOAD_CHAT],
           (long long)ask->seed);
    fflush(stdout);
}

static void print_errors(const load_result *r)
{
    for (int i = 0; i < LOAD_STATUSES; i++) {
        if (!r->status[i] || i == 200) continue;
        if (i == LOAD_NO_ANSWER)
            printf("  %d got no answer (refused, cut or timed out)\n", r->status[i]);
        else if (i == LOAD_BROKEN)
            printf("  %d streams broke off or told an error\n", r->status[i]);
        else
            printf("  %d answered %d\n", r->status[i], i);
    }
}

void load_print(const load_result *r)
{
    static const char *const first[] = {"first preview", "first token"};
    char name[64];
    int sent = r->sent[LOAD_IMAGE] + r->sent[LOAD_CHAT];
    int done = r->done[LOAD_IMAGE] + r->done[LOAD_CHAT];
    printf("\n%g/s offered: %d sent, %d done in %.1f s: %.3g/s", r->rate, sent, done, r->elapsed,
           done / r->elapsed);
    if (r->done[LOAD_IMAGE]) printf(", %.3g pictures/s", r->done[LOAD_IMAGE] / r->elapsed);
    if (r->tokens) printf(", %.4g tokens/s", (double)r->tokens / r->elapsed);
    printf("\n  %-22s%8s%8s%8s\n", "", "p50", "p95", "p99");
    print_times("queue (the server's)", r->queue);
    for (int k = 0; k < LOAD_KINDS; k++) {
        snprintf(name, sizeof name, "%s: %s", load_kind_names[k], first[k]);
        print_samples(name, &r->first[k]);
        if (k == LOAD_CHAT) print_samples("chat: token to token", &r->gap);
        snprintf(name, sizeof name, "%s: total", load_kind_names[k]);
        print_samples(name, &r->total[k]);
    }
    print_errors(r);
    if (r->lag > 0.05)
        printf("  a request left %.3f s late: this machine is too busy to send so many\n", r->lag);
    fflush(stdout);
}

/* ---------------------------------------------------------------- for machines */

static json_t *number(double v)
{
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *samples_json(const load_samples *s)
{
    return json_pack("{s:o,s:o,s:o}", "p50", number(load_percentile(s, 0.5)), "p95",
                     number(load_percentile(s, 0.95)), "p99", number(load_percentile(s, 0.99)));
}

static json_t *statuses_json(const load_result *r)
{
    json_t *j = json_object();
    for (int i = 0; i < LOAD_STATUSES; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        if (r->status[i])
            json_object_set_new(j,
                                i == LOAD_NO_ANSWER ? "none"
                                : i == LOAD_BROKEN  ? "broken"
                                                    : name,
                                json_integer(r->status[i]));
    }
    return j;
}

static json_t *result_json(const load_result *r)
{
    json_t *j = json_pack(
        "{s:f,s:f,s:i,s:i,s:f,s:f,s:f,s:f,s:o,s:{s:o,s:o,s:o}}", "offered", r->rate, "seconds",
        r->elapsed, "sent", r->sent[LOAD_IMAGE] + r->sent[LOAD_CHAT], "done",
        r->done[LOAD_IMAGE] + r->done[LOAD_CHAT], "per_second",
        (r->done[LOAD_IMAGE] + r->done[LOAD_CHAT]) / r->elapsed, "images_per_second",
        r->done[LOAD_IMAGE] / r->elapsed, "tokens_per_second", (double)r->tokens / r->elapsed,
        "late_start", r->lag, "status", statuses_json(r), "queue", "p50", number(r->queue[0]),
        "p95", number(r->queue[1]), "p99", number(r->queue[2]));
    for (int k = 0; k < LOAD_KINDS; k++)
        json_object_set_new(j, load_kind_names[k],
                            json_pack("{s:i,s:i,s:o,s:o}", "sent", r->sent[k], "done", r->done[k],
                                      "first", samples_json(&r->first[k]), "total",
                                      samples_json(&r->total[k])));
    json_object_set_new(json_object_get(j, load_kind_names[LOAD_CHAT]), "gap",
                        samples_json(&r->gap));
    return j;
}

void load_print_json(const load_ask *ask, const load_result *r, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, result_json(&r[i]));
    json_t *j = json_pack("{s:s,s:s,s:I,s:[f,f],s:o}", "version", AN_VERSION, "url", ask->url,
                          "seed", (json_int_t)ask->seed, "mix", ask->weight[LOAD_IMAGE],
                          ask->weight[LOAD_CHAT], "rates", list);
    json_dumpf(j, stdout, JSON_REAL_PRECISION(6) | JSON_COMPACT);
    putchar('\n');
    json_decref(j);
}
