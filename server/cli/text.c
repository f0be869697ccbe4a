/* text.c: see text.h. */
#include "text.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

volatile sig_atomic_t cli_interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    cli_interrupted = 1;
}

void cli_catch_interrupt(void)
{
    struct sigaction a = {.sa_handler = on_interrupt}; /* no SA_RESTART: reading a line stops too */
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
}

typedef struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool news;
} waiter;

static void on_news(void *arg)
{
    waiter *w = arg;
    pthread_mutex_lock(&w->lock);
    w->news = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

/* Until something is new, but no longer than a glance at cli_interrupted may take. */
static void wait_for_news(waiter *w)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 50000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&w->lock);
    if (!w->news) pthread_cond_timedwait(&w->changed, &w->lock, &until);
    w->news = false;
    pthread_mutex_unlock(&w->lock);
}

/* Writes what is new; returns how much is out. */
static size_t print_new(an_job *job, size_t from)
{
    an_text t;
    if (!an_job_text(job, 0, &t) || t.text_len <= from) return from;
    fwrite(t.text + from, 1, t.text_len - from, stdout);
    fflush(stdout);
    return t.text_len;
}

/* Until the job ends; what grows is written, or not. */
static void follow(an_job *job, bool print)
{
    waiter w = {.news = true};
    size_t out = 0;
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.changed, NULL);
    int handle = an_job_watch(job, on_news, &w);
    while (!an_job_finished(job)) {
        wait_for_news(&w);
        if (cli_interrupted) an_job_cancel(job);
        if (print) out = print_new(job, out);
    }
    if (print) print_new(job, out);
    an_job_unwatch(job, handle);
    pthread_cond_destroy(&w.changed);
    pthread_mutex_destroy(&w.lock);
}

static bool finish(an_job *job, char **answer)
{
    an_job_info info;
    an_text t;
    an_job_get(job, &info);
    if (answer && an_job_text(job, 0, &t)) *answer = strndup(t.text ? t.text : "", t.text_len);
    if (info.state == AN_JOB_FAILED) cli_fail(&info.error);
    return info.state != AN_JOB_FAILED;
}

/* Submits body (taken) and waits for its end. NULL after printing what is wrong; a finished or
 * cancelled ask is the caller's. */
static text_ask *answer_ask(const an_options *o, an_engine *e, text_dialect d, json_t *body,
                            bool print, char **answer)
{
    an_error err = {0};
    text_limits limits;
    text_limits_of(o, e, &limits);
    text_ask *a = body ? text_ask_new(d, body) : NULL;
    if (!a) {
        fprintf(stderr, "anneal: no memory for the question\n");
        return NULL;
    }
    an_status s =
        d == TEXT_CHAT ? chat_parse(a, &limits, &err) : completions_parse(a, &limits, &err);
    if (s == AN_OK) s = text_submit(a, e, "cli", &err);
    bool ok = s == AN_OK;
    if (ok) {
        follow(a->jobs[0], print);
        ok = finish(a->jobs[0], answer);
        an_job_forget(a->jobs[0]);
    } else {
        cli_fail(&err);
    }
    cli_interrupted = 0;
    if (ok) return a;
    text_ask_free(a);
    return NULL;
}

bool cli_text_print(const an_options *o, an_engine *e, text_dialect d, json_t *body, char **answer)
{
    if (answer) *answer = NULL;
    text_ask *a = answer_ask(o, e, d, body, true, answer);
    text_ask_free(a);
    return a != NULL;
}

bool cli_text_json(const an_options *o, an_engine *e, text_dialect d, json_t *body, char **answer)
{
    an_error err = {0};
    if (answer) *answer = NULL;
    text_ask *a = answer_ask(o, e, d, body, false, answer);
    json_t *v = a ? text_answer(a, &err) : NULL;
    if (a && !v) cli_fail(&err);
    const bool ok = v && cli_print_json(v) == CLI_OK;
    fflush(stdout); /* who reads a conversation from a pipe waits for the line */
    text_ask_free(a);
    return ok;
}
