/* serve.c: `anneal serve`: start, listen, wait for a signal, drain. */
#include "api/image_ask.h"
#include "api/text_ask.h"
#include "cli.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* Every connection is a file descriptor; the soft limit is often 1024. */
static void raise_file_limit(const an_options *o)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return;
    if (r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
    if (r.rlim_cur < (rlim_t)o->max_connections + 64)
        an_log(AN_LOG_WARN, "%d connections are allowed, but only %llu open files (ulimit -n)",
               o->max_connections, (unsigned long long)r.rlim_cur);
}

/* What a person looks for first: which device, which models, and why one is not served. */
static void log_start(an_engine *e)
{
    an_engine_stats s;
    int served = 0;
    an_model_entry *m = malloc(sizeof *m);
    an_engine_get_stats(e, &s);
    an_log(AN_LOG_INFO, "anneal %s on %s", AN_VERSION, s.device);
    for (int i = 0; an_engine_device_count(e) > 1 && i < an_engine_device_count(e); i++) {
        an_device_stats d;
        an_engine_device_at(e, i, &d);
        an_log(AN_LOG_INFO, "device %d: %s; %.1f MiB for models", i + 1, d.description,
               (double)d.memory_bytes / 1048576);
    }
    for (int i = 0; m && an_engine_model_at(e, i, m); i++) {
        if (m->ok && m->info.kind == AN_KIND_TEXT)
            an_log(AN_LOG_INFO, "model %s: %s, %s, %d tokens of context, %s%s", m->id,
                   an_kind_name(m->info.kind), m->info.family, m->info.context_len, m->path,
                   m->is_default ? " (default)" : "");
        else if (m->ok)
            an_log(AN_LOG_INFO, "model %s: %s, %s, %dx%d, %s%s", m->id, an_kind_name(m->info.kind),
                   m->info.family, m->info.width, m->info.height, m->path,
                   m->is_default ? " (default)" : "");
        served += m->ok;
    }
    free(m);
    if (!served)
        an_log(AN_LOG_WARN, "there is no model to serve: put a diffusers folder, a .safetensors or "
                            ".gguf file or a language model's folder into a folder and name "
                            "that with --models");
}

static void print_help(void)
{
    an_buf b;
    an_buf_init(&b, 1 << 20);
    an_buf_str(&b,
               "usage: anneal serve [options]\n\n"
               "Serves pictures and text over HTTP: OpenAI's /v1/images/generations,\n"
               "/v1/chat/completions and /v1/completions, jobs with progress, A1111's /sdapi/v1\n"
               "and llama-server's /completion.\n");
    an_options_help(&b);
    an_buf_str(&b, "\nNormally:  anneal serve --host 0.0.0.0 --models /srv/models\n");
    fputs(b.data ? b.data : "", stdout);
    an_buf_free(&b);
}

/* A second signal ends the process at once. */
static void *second_signal(void *set)
{
    int sig;
    sigwait(set, &sig);
    an_log(AN_LOG_WARN, "second signal: leaving at once");
    _exit(1);
}

static int serve_until_signal(const an_options *o, sigset_t *signals)
{
    an_engine *engine = NULL;
    an_server *server = NULL;
    an_error err = {0};
    int sig = 0, fd = -1;
    pthread_t watcher;
    if (an_server_listen(o, &fd, &err) != AN_OK) return cli_fail(&err);
    if (an_engine_new(&o->engine, &engine, &err) != AN_OK) {
        close(fd);
        return cli_fail(&err);
    }
    log_start(engine);
    if (an_server_start(o, fd, engine, &server, &err) != AN_OK) {
        an_engine_stop(engine, 0);
        an_engine_free(engine);
        return cli_fail(&err);
    }
    bool ip6 = strchr(o->host, ':') != NULL;
    an_log(AN_LOG_INFO, "listening on http://%s%s%s:%d", ip6 ? "[" : "", o->host, ip6 ? "]" : "",
           an_server_port(server));
    sigwait(signals, &sig);
    an_log(AN_LOG_INFO, "%s: finishing running jobs, at most %g s", strsignal(sig), o->grace_s);
    if (pthread_create(&watcher, NULL, second_signal, signals) == 0) pthread_detach(watcher);
    an_engine_stop(engine, o->grace_s); /* new jobs get 503 meanwhile: the socket stays open */
    an_server_quiesce(server);
    an_server_stop(server);
    links_clear();
    chat_prompt_clear();
    an_engine_free(engine);
    an_log(AN_LOG_INFO, "done");
    return 0;
}

int cmd_serve(int argc, char **argv)
{
    an_options o;
    an_error err = {0};
    bool help;
    sigset_t signals;
    if (an_options_parse(&o, argc, argv, &help, &err) != AN_OK) {
        an_options_free(&o);
        fprintf(stderr, "anneal: %s\n", err.message);
        return 2;
    }
    if (help) {
        print_help();
        an_options_free(&o);
        return 0;
    }
    an_log_level level = AN_LOG_INFO;
    an_log_parse_level(o.log_level, &level);
    an_log_set_level(level);
    cli_default_models(&o);
    raise_file_limit(&o);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals); /* blocked before any thread starts, so that only sigwait sees them */
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    int rc = serve_until_signal(&o, &signals);
    an_options_free(&o);
    return rc;
}
