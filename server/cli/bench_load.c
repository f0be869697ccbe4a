/* bench_load.c: sends requests at random times and waits for none of them: an open loop, as users
 * are. Gaps between arrivals are exponential (a Poisson process), fixed by the seed. A request's
 * clock starts when it was to be sent: a server that stalls does not get to choose which latencies
 * are measured (G. Tene, "How NOT to measure latency": coordinated omission). */
#include "bench_load.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#define SWEEP_BEHIND   0.9 /* of what is offered: a server that does less is behind */
#define MAX_ARRIVALS   1e6 /* of one rate: each is kept until its answer is counted */
#define POLL_LONGEST_S 0.25

const char *const load_kind_names[LOAD_KINDS] = {"image", "chat"};
const double load_percentiles[3] = {0.5, 0.95, 0.99};

/* ---------------------------------------------------------------- samples */

bool load_add(load_samples *s, double v)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 256;
        double *more = realloc(s->v, cap * sizeof *more);
        if (!more) return false;
        s->v = more;
        s->cap = cap;
    }
    s->v[s->n++] = v;
    return true;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void load_sort(load_samples *s)
{
    if (s->n) qsort(s->v, s->n, sizeof *s->v, ascending);
}

double load_percentile(const load_samples *s, double p)
{
    if (!s->n) return NAN;
    double rank = ceil(p * (double)s->n);
    size_t i = rank < 1 ? 0 : (size_t)rank - 1;
    return s->v[i < s->n ? i : s->n - 1];
}

void load_result_free(load_result *r)
{
    for (int k = 0; k < LOAD_KINDS; k++) {
        free(r->first[k].v);
        free(r->total[k].v);
    }
    free(r->gap.v);
}

/* ---------------------------------------------------------------- one rate */

typedef struct loop {
    const load_ask *ask;
    CURLM *multi;
    load_request *idle;
    load_result *result;
    uint64_t random, number; /* state of the generator; requests so far, over all rates */
    int running;
    double last; /* answer */
} loop;

/* Uniform in (0, 1]: xorshift64*, Vigna 2016. */
static double draw(loop *l)
{
    l->random ^= l->random >> 12;
    l->random ^= l->random << 25;
    l->random ^= l->random >> 27;
    return ((double)((l->random * 0x2545f4914f6cdd1du) >> 11) + 1) / 9007199254740992.0;
}

static an_status start(loop *l, double due, an_error *err)
{
    const double *w = l->ask->weight;
    load_kind kind =
        draw(l) * (w[LOAD_IMAGE] + w[LOAD_CHAT]) <= w[LOAD_IMAGE] ? LOAD_IMAGE : LOAD_CHAT;
    load_request *r = l->idle;
    if (r)
        l->idle = r->next;
    else
        r = calloc(1, sizeof *r);
    if (!r || !load_request_set(r, l->ask, kind, l->number++) ||
        curl_multi_add_handle(l->multi, r->easy) != CURLM_OK) {
        if (r) {
            load_request_clear(r);
            curl_easy_cleanup(r->easy);
        }
        free(r);
        return an_fail(err, AN_NO_MEMORY, "no memory for another request");
    }
    r->due = due;
    r->result = l->result;
    double late = an_now_s() - due;
    if (late > l->result->lag) l->result->lag = late;
    l->result->sent[kind]++;
    l->running++;
    return AN_OK;
}

static void collect(loop *l)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(l->multi, &left)) != NULL;) {
        load_request *r = NULL;
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&r);
        curl_multi_remove_handle(l->multi, r->easy);
        load_request_count(r, code);
        load_request_clear(r);
        r->next = l->idle;
        l->idle = r;
        l->last = an_now_s();
        l->running--;
    }
}

static an_status run_rate(loop *l, an_error *err)
{
    load_result *to = l->result;
    double begun = an_now_s(), until = begun + l->ask->seconds;
    double due = begun - log(draw(l)) / to->rate;
    l->last = begun;
    while (due < until || l->running) {
        int running;
        while (due < until && an_now_s() >= due) {
            an_status s = start(l, due, err);
            if (s) return s;
            due -= log(draw(l)) / to->rate;
        }
        if (curl_multi_perform(l->multi, &running) != CURLM_OK) break;
        collect(l);
        double wait = due < until ? due - an_now_s() : POLL_LONGEST_S;
        if (wait > POLL_LONGEST_S) wait = POLL_LONGEST_S;
        /* whole milliseconds, rounded down: early, and then looks again, rather than late */
        if (wait > 0 && (l->running || due < until))
            curl_multi_poll(l->multi, NULL, 0, (int)(wait * 1e3), NULL);
    }
    to->elapsed = l->last - begun;
    if (to->elapsed < l->ask->seconds) to->elapsed = l->ask->seconds;
    for (int k = 0; k < LOAD_KINDS; k++) {
        load_sort(&to->first[k]);
        load_sort(&to->total[k]);
    }
    load_sort(&to->gap);
    return AN_OK;
}

/* The server's own account of its queue, if it gives one. */
static char *metrics_of(const load_ask *ask)
{
    char *text;
    an_error ignored = {0};
    load_get(ask, "/metrics", &text, &ignored);
    return text;
}

static an_status measure(loop *l, load_result *to, double rate, an_error *err)
{
    *to = (load_result){.rate = rate};
    l->result = to;
    if (rate * l->ask->seconds > MAX_ARRIVALS)
        return an_fail(err, AN_INVALID, "%g requests a second for %g s are more than %g", rate,
                       l->ask->seconds, MAX_ARRIVALS);
    char *before = metrics_of(l->ask);
    an_status s = run_rate(l, err);
    char *after = metrics_of(l->ask);
    load_queue(before, after, to->queue);
    free(before);
    free(after);
    return s;
}

/* ---------------------------------------------------------------- the whole */

/* Without --mix: pictures, chats or both in equal parts, as the server has default models. */
static an_status choose_mix(load_ask *ask, an_error *err)
{
    char *text;
    json_t *j = NULL, *m;
    size_t i;
    an_status s = load_get(ask, "/v1/models", &text, err);
    if (!s) s = an_json_parse(text, strlen(text), &j, err);
    free(text);
    if (s) return s;
    bool given = ask->weight[LOAD_IMAGE] > 0 || ask->weight[LOAD_CHAT] > 0;
    json_array_foreach(json_object_get(j, "data"), i, m)
    {
        const char *kind = json_string_value(json_object_get(m, "kind"));
        const char *id = json_string_value(json_object_get(m, "id"));
        bool wanted = ask->model ? id && strcmp(id, ask->model) == 0
                                 : json_is_true(json_object_get(m, "default"));
        if (given || !kind || !wanted) continue;
        if (strcmp(kind, "image") == 0) ask->weight[LOAD_IMAGE] = 1;
        if (strcmp(kind, "text") == 0 && json_is_true(json_object_get(m, "chat_template")))
            ask->weight[LOAD_CHAT] = 1;
    }
    json_decref(j);
    if (ask->weight[LOAD_IMAGE] > 0 || ask->weight[LOAD_CHAT] > 0) return AN_OK;
    return an_fail(err, AN_INVALID,
                   "%s/v1/models names no model %s: --mix IMAGES:CHATS says what to ask for",
                   ask->url, ask->model ? ask->model : "that is a default");
}

/* How long an answer takes where there is little to do: half of the slower kind's. */
static double median_total(const load_result *r)
{
    double most = 0;
    for (int k = 0; k < LOAD_KINDS; k++)
        if (r->total[k].n) most = fmax(most, load_percentile(&r->total[k], 0.5));
    return most;
}

/* Nearly all were answered, and soon after the last was sent: nothing had piled up. */
static bool keeps_up(const load_ask *ask, const load_result *r, double unhurried)
{
    int sent = r->sent[LOAD_IMAGE] + r->sent[LOAD_CHAT];
    int done = r->done[LOAD_IMAGE] + r->done[LOAD_CHAT];
    return done >= SWEEP_BEHIND * sent && r->elapsed <= ask->seconds / SWEEP_BEHIND + 3 * unhurried;
}

static an_status run_all(loop *l, load_result *results, int *n, an_error *err)
{
    const load_ask *ask = l->ask;
    double rate = ask->rates[0];
    for (*n = 0; *n < (ask->sweep ? LOAD_MAX_RATES : ask->n_rates); rate *= 2) {
        load_result *r = &results[*n];
        an_status s = measure(l, r, ask->sweep ? rate : ask->rates[*n], err);
        ++*n;
        if (s) return s;
        if (!ask->json) load_print(r);
        if (ask->sweep && !keeps_up(ask, r, median_total(&results[0]))) break;
    }
    return AN_OK;
}

static void free_loop(loop *l)
{
    while (l->idle) {
        load_request *r = l->idle;
        l->idle = r->next;
        curl_easy_cleanup(r->easy);
        free(r);
    }
    curl_multi_cleanup(l->multi);
}

an_status bench_load(load_ask *ask, an_error *err)
{
    int n = 0;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return an_fail(err, AN_INTERNAL, "libcurl does not start");
    load_result *results = calloc(LOAD_MAX_RATES, sizeof *results);
    loop l = {.ask = ask, .multi = curl_multi_init()};
    l.random = (uint64_t)ask->seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
    if (!l.random) l.random = 1;
    an_status s =
        results && l.multi ? choose_mix(ask, err) : an_fail(err, AN_NO_MEMORY, "no memory");
    if (!s) {
        /* connections are kept, however many: a user's browser keeps its own */
        curl_multi_setopt(l.multi, CURLMOPT_MAXCONNECTS, 10000L);
        if (!ask->json) load_print_head(ask);
        s = run_all(&l, results, &n, err);
    }
    if (!s && ask->json) load_print_json(ask, results, n);
    if (!s && ask->svg) s = load_plot(ask->svg, results, n, err);
    for (int i = 0; i < n; i++) load_result_free(&results[i]);
    free_loop(&l);
    free(results);
    curl_global_cleanup();
    return s;
}
