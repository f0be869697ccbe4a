/* gate.c: see gate.h. */
#include "gate.h"

#include "access_log.h"
#include "tls.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct gate_private {
    pthread_mutex_t renewing;                  /* SIGHUP and the tick are two threads' */
    char told[sizeof((an_error *)0)->message]; /* what is wrong with the keys, "" = nothing */
};

an_status an_gate_open(const an_options *o, an_gate **out, an_error *err)
{
    an_gate *g = calloc(1, sizeof *g);
    *out = NULL;
    if (!g || !(g->p = calloc(1, sizeof *g->p))) {
        free(g);
        return an_fail(err, AN_NO_MEMORY, "out of memory");
    }
    pthread_mutex_init(&g->p->renewing, NULL);
    g->o = o;
    g->access_fd = -1;
    g->need_key = an_options_need_key(o);
    g->tls = *o->tls_cert;
    an_status s = an_proxies_new(o->trusted_proxies, o->n_trusted_proxies, &g->proxies, err);
    if (s == AN_OK) s = an_keys_open(o, &g->keys, err);
    if (s == AN_OK && g->tls) s = tls_load(o, err);
    if (s == AN_OK && *o->access_log) s = access_open(o->access_log, &g->access_fd, err);
    if (s != AN_OK) {
        an_gate_close(g);
        return s;
    }
    if (*o->api_key_file)
        an_log(AN_LOG_INFO, "%s: %d keys", o->api_key_file, an_keys_count(g->keys));
    *out = g;
    return AN_OK;
}

void an_gate_close(an_gate *g)
{
    if (!g) return;
    an_keys_close(g->keys);
    an_proxies_free(g->proxies);
    if (g->access_fd > STDERR_FILENO) close(g->access_fd);
    tls_free();
    pthread_mutex_destroy(&g->p->renewing);
    free(g->p);
    free(g);
}

static bool is_loopback(int fd)
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0) return false;
    if (a.ss_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)(void *)&a)->sin6_addr);
    uint32_t host = ntohl(((struct sockaddr_in *)(void *)&a)->sin_addr.s_addr);
    return a.ss_family == AF_INET && host >> 24 == 127;
}

an_status an_gate_check_address(an_gate *g, int fd, an_error *err)
{
    g->loopback = is_loopback(fd);
    g->check_host = g->loopback && !g->need_key;
    if (g->loopback || g->need_key) return AN_OK;
    if (g->o->public_without_key) {
        an_log(AN_LOG_WARN,
               "no key is needed, and other machines can reach %s: whoever can may ask",
               g->o->host);
        return AN_OK;
    }
    return an_fail(
        err, AN_INVALID,
        "other machines can reach --host %s, and no key is set. Give --api-key KEY "
        "(ANNEAL_API_KEY) or --api-key-file FILE (ANNEAL_API_KEY_FILE; `anneal key NAME` "
        "makes its lines); or --allow-public-without-key 1 "
        "(ANNEAL_ALLOW_PUBLIC_WITHOUT_KEY=1) if something else decides who gets here, "
        "such as a container's port that is published on 127.0.0.1 only; or stay on "
        "--host 127.0.0.1",
        g->o->host);
}

/* ---------------------------------------------------------------- renewal */

static void renew_keys(an_gate *g, bool always)
{
    an_error err = {0};
    bool changed = false;
    an_status s = an_keys_reload(g->keys, always, &changed, &err);
    /* a file that cannot be read is tried again every second, and that is told once */
    if (s != AN_OK && (always || strcmp(g->p->told, err.message) != 0))
        an_log(AN_LOG_ERROR, "the keys stay as they were: %s", err.message);
    else if (changed)
        an_log(AN_LOG_INFO, "%s: %d keys", g->o->api_key_file, an_keys_count(g->keys));
    snprintf(g->p->told, sizeof g->p->told, "%s", err.message);
}

void an_gate_tick(an_gate *g)
{
    pthread_mutex_lock(&g->p->renewing);
    renew_keys(g, false);
    pthread_mutex_unlock(&g->p->renewing);
}

void an_gate_reload(an_gate *g)
{
    an_error err = {0};
    pthread_mutex_lock(&g->p->renewing);
    renew_keys(g, true);
    if (g->tls && tls_load(g->o, &err) != AN_OK)
        an_log(AN_LOG_ERROR, "the certificate stays as it was: %s", err.message);
    if (g->access_fd >= 0 && access_reopen(g->o->access_log, g->access_fd, &err) != AN_OK)
        an_log(AN_LOG_ERROR, "the access log stays where it was: %s", err.message);
    pthread_mutex_unlock(&g->p->renewing);
}
