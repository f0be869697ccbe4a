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

#define USUAL_CONNECTIONS 4096
#define OTHER_FILES       128 /* models, logs */
#define FILES_OF_A_THREAD 2   /* of HTTP */

/* Every connection is a file descriptor, and the soft limit is often 1024: it is raised as far as
 * need be. A number of connections that was asked for is insisted on; otherwise what can be had
 * does. */
static an_status raise_file_limit(an_options *o, an_error *err)
{
    struct rlimit r;
    bool asked = o->max_connections > 0;
    if (!asked) o->max_connections = USUAL_CONNECTIONS;
    const rlim_t others = OTHER_FILES + FILES_OF_A_THREAD * (rlim_t)an_server_threads(o);
    rlim_t need = (rlim_t)o->max_connections + others;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return AN_OK;
    if (r.rlim_cur < need && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = need < r.rlim_max ? need : r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
        if (getrlimit(RLIMIT_NOFILE, &r) != 0) return AN_OK;
    }
    if (r.rlim_cur >= need) return AN_OK;
    if (asked || r.rlim_cur <= others)
        return an_fail(err, AN_INVALID,
                       "--max-connections %d needs %llu open files, and this process may have %llu "
                       "(hard limit): raise it (ulimit -Hn, LimitNOFILE= of systemd, --ulimit "
                       "nofile= of Docker) or ask for fewer",
                       o->max_connections, (unsigned long long)need,
                       (unsigned long long)r.rlim_cur);
    o->max_connections = (int)(r.rlim_cur - others);
    an_log(AN_LOG_WARN,
           "at most %d connections: this process may have %llu open files (ulimit -Hn)",
           o->max_connections, (unsigned long long)r.rlim_cur);
    return AN_OK;
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

/* Where a browser on this machine finds the page; who listens to all addresses has this one too. */
static void log_page(const an_options *o, const an_gate *gate, int port)
{
    const char *host = o->host;
    if (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0) host = "127.0.0.1";
    bool ip6 = strchr(host, ':') != NULL;
    an_log(AN_LOG_INFO, "open %s://%s%s%s:%d/ in a browser", gate->tls ? "https" : "http",
           ip6 ? "[" : "", host, ip6 ? "]" : "", port);
}

/* A second signal ends the process at once. */
static void *second_signal(void *set)
{
    int sig = SIGHUP;
    while (sig == SIGHUP) sigwait(set, &sig);
    an_log(AN_LOG_WARN, "second signal: leaving at once");
    _exit(1);
}

/* SIGHUP renews what files hold; but whoever closes the terminal wants to end what runs in it. Then
 * the kernel sends it, or a shell passes it on: the terminal is gone before either does. Whoever
 * sends it to a server whose terminal is there asks for fresh keys. */
static int wait_for_end(an_gate *gate, sigset_t *signals)
{
    siginfo_t info;
    bool terminal = isatty(STDERR_FILENO);
    for (;;) {
        int sig = sigwaitinfo(signals, &info);
        if (sig < 0) continue; /* EINTR: a debugger's */
        if (sig != SIGHUP) return sig;
        if (terminal && (info.si_code == SI_KERNEL || !isatty(STDERR_FILENO))) return sig;
        an_log(AN_LOG_INFO, "%s: reading keys and certificate, opening the access log anew",
               strsignal(sig));
        an_gate_reload(gate);
    }
}

static int key_jobs(void *gate, const char *client)
{
    return an_keys_max_jobs(((an_gate *)gate)->keys, client);
}

/* Serves until the end; o's engine options get the gate's limits. */
static int serve_behind(an_options *o, an_gate *gate, int fd, sigset_t *signals)
{
    an_engine *engine = NULL;
    an_server *server = NULL;
    an_error err = {0};
    pthread_t watcher;
    o->engine.client_jobs = key_jobs;
    o->engine.client_ctx = gate;
    if (an_engine_new(&o->engine, &engine, &err) != AN_OK) {
        close(fd);
        return cli_fail(&err);
    }
    log_start(engine);
    if (an_server_start(o, fd, gate, engine, &server, &err) != AN_OK) {
        an_engine_stop(engine, 0);
        an_engine_free(engine);
        return cli_fail(&err);
    }
    bool ip6 = strchr(o->host, ':') != NULL;
    an_log(AN_LOG_INFO, "listening on %s://%s%s%s:%d", gate->tls ? "https" : "http", ip6 ? "[" : "",
           o->host, ip6 ? "]" : "", an_server_port(server));
    log_page(o, gate, an_server_port(server));
    if (gate->loopback)
        an_log(AN_LOG_INFO, "only this machine can reach it; --host 0.0.0.0 and a key (--api-key, "
                            "--api-key-file) let others in");
    int sig = wait_for_end(gate, signals);
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

static int serve_until_signal(an_options *o, sigset_t *signals)
{
    an_gate *gate = NULL;
    an_error err = {0};
    int fd = -1;
    if (an_server_listen(o, &fd, &err) != AN_OK) return cli_fail(&err);
    an_status s = an_gate_open(o, &gate, &err);
    if (s == AN_OK) s = an_gate_check_address(gate, fd, &err);
    int rc = 1;
    if (s == AN_OK) {
        rc = serve_behind(o, gate, fd, signals);
    } else {
        close(fd);
        cli_fail(&err);
    }
    an_gate_close(gate);
    return rc;
}

static int cmd_serve(int argc, char **argv)
{
    an_options o;
    int rc = 0;
    an_error err = {0};
    sigset_t signals;
    if (!cli_parse(&cli_serve, argc, argv, NULL, &o, NULL, &rc)) return rc;
    an_log_level level = AN_LOG_INFO;
    an_log_parse_level(o.log_level, &level);
    an_log_set_level(level);
    cli_default_models(&o);
    if (raise_file_limit(&o, &err) != AN_OK) {
        an_options_free(&o);
        return cli_fail(&err);
    }
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals); /* blocked before any thread starts, so that only sigwait sees them */
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    rc = serve_until_signal(&o, &signals);
    an_options_free(&o);
    return rc;
}

const cli_command cli_serve = {
    "serve",
    cmd_serve,
    "serve pictures and text over HTTP",
    "[options]",
    "Serves pictures and text over HTTP: OpenAI's /v1/images/generations, /v1/chat/completions and "
    "/v1/completions, jobs with progress, A1111's /sdapi/v1 and llama-server's /completion. "
    "Normally: anneal serve --models /srv/models; for others: anneal serve --models /srv/models "
    "--host 0.0.0.0 --api-key-file keys",
    NULL,
    NULL,
    true};
