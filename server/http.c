/* http.c: libmicrohttpd, an epoll loop a thread. Reads bodies within their limit, checks the key,
 * finds the route. Connections that wait for a job are suspended: they cost memory, not a thread.
 */
#include "server_private.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* A body over the limit is read and thrown away, so that the client gets to see the 413; but not
 * for ever. */
#define DISCARD_FACTOR 4

int connection_fd(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    return i ? i->connect_fd : -1;
}

/* ---------------------------------------------------------------- who asks */

/* Constant time in the key's bytes, so that a wrong key tells nothing of the right one. */
static bool equal_constant_time(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    unsigned diff = n != m;
    for (size_t i = 0; i < n; i++) diff |= (unsigned)(a[i] ^ b[m ? i % m : 0]);
    return diff == 0;
}

bool client_key_allowed(const an_server *s, const char *token)
{
    bool ok = false;
    for (int i = 0; i < s->options.n_api_keys; i++)
        ok |= token && equal_constant_time(token, s->options.api_keys[i]);
    return ok || s->options.n_api_keys == 0;
}

static const char *bearer_token(struct MHD_Connection *c)
{
    const char *auth = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");
    if (!auth || strncasecmp(auth, "Bearer ", 7) != 0) return NULL;
    for (auth += 7; *auth == ' ';) auth++;
    return *auth ? auth : NULL;
}

/* The token names the client; only a hash of it is kept, so that no log or answer shows a key. */
static void identify(an_req *r)
{
    const char *token = bearer_token(r->p->connection);
    if (token) {
        uint64_t h = 1469598103934665603u;
        for (const char *c = token; *c; c++) h = (h ^ (unsigned char)*c) * 1099511628211u;
        snprintf(r->p->client, sizeof r->p->client, "key:%016llx", (unsigned long long)h);
        return;
    }
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(r->p->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    char host[INET6_ADDRSTRLEN] = "unknown";
    if (i && i->client_addr->sa_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->client_addr)->sin_addr, host,
                  sizeof host);
    else if (i && i->client_addr->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)(void *)i->client_addr)->sin6_addr, host,
                  sizeof host);
    snprintf(r->p->client, sizeof r->p->client, "ip:%s", host);
}

/* ---------------------------------------------------------------- routing */

/* Does path match the pattern? "*" stands for one segment, copied to rest. */
static bool match(const char *pattern, const char *path, char *rest, size_t size)
{
    rest[0] = '\0';
    while (*pattern) {
        if (*pattern == '*') {
            size_t n = strcspn(path, "/");
            if (n == 0 || n >= size) return false;
            memcpy(rest, path, n);
            rest[n] = '\0';
            path += n;
            pattern++;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0';
}

/* Finds the route; *allow lists the methods of the path when only the method is wrong. */
static const an_route *find_route(an_req *r, char *allow, size_t size)
{
    bool head = strcmp(r->method, "HEAD") == 0;
    allow[0] = '\0';
    for (int t = 0; an_routes[t]; t++) {
        for (const an_route *route = an_routes[t]; route->path; route++) {
            if (!match(route->path, r->path, r->p->rest, sizeof r->p->rest)) continue;
            if (strcmp(head ? "GET" : r->method, route->method) == 0) return route;
            size_t n = strlen(allow);
            snprintf(allow + n, size - n, "%s%s", n ? ", " : "", route->method);
        }
    }
    return NULL;
}

static void dispatch(an_req *r)
{
    an_error err = {0};
    char allow[128];
    an_server *s = r->server;
    r->body = r->p->body.data ? r->p->body.data : "";
    r->body_len = r->p->body.len;
    if (strcmp(r->method, "OPTIONS") == 0 && *s->options.cors_origin) {
        reply_header(r, "Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS");
        reply_header(r, "Access-Control-Allow-Headers", "Authorization, Content-Type");
        reply_header(r, "Access-Control-Max-Age", "86400");
        reply_bytes(r, 204, NULL, NULL, 0);
        return;
    }
    const an_route *route = r->p->route = find_route(r, allow, sizeof allow);
    r->rest = r->p->rest;
    if (r->p->too_large) {
        an_fail(&err, AN_TOO_LARGE, "the request body is larger than the limit of %zu bytes",
                s->options.max_body_bytes);
        reply_error(r, &err);
    } else if (!(route && route->open) && !client_key_allowed(s, bearer_token(r->p->connection))) {
        reply_header(r, "WWW-Authenticate", "Bearer");
        json_t *body =
            json_pack("{s:{s:s,s:s,s:n,s:s}}", "error", "message",
                      "missing or wrong API key: send `Authorization: Bearer KEY`", "type",
                      "authentication_error", "param", "code", "invalid_api_key");
        reply_json(r, 401, body);
    } else if (!route && *allow) {
        reply_header(r, "Allow", allow);
        json_t *body =
            json_pack("{s:{s:o,s:s,s:n,s:s}}", "error", "message",
                      json_sprintf("%s does not do here; %s would", r->method, allow), "type",
                      "invalid_request_error", "param", "code", "method_not_allowed");
        reply_json(r, 405, body);
    } else if (!route) {
        an_fail(&err, AN_NOT_FOUND, "nothing lives at %.200s", r->path);
        reply_error(r, &err);
    } else {
        route->handler(r);
    }
}

/* ---------------------------------------------------------------- one request */

static an_req *req_new(an_server *s, struct MHD_Connection *c, const char *url, const char *method)
{
    an_req *r = calloc(1, sizeof *r);
    req_private *p = r ? calloc(1, sizeof *p) : NULL;
    char *path = p ? strdup(url) : NULL, *name = path ? strdup(method) : NULL;
    if (!name) {
        free(path);
        free(p);
        free(r);
        return NULL;
    }
    *r = (an_req){.server = s, .method = name, .path = path, .p = p};
    r->rest = "";
    r->started = an_now_s();
    p->connection = c;
    an_buf_init(&p->body, s->options.max_body_bytes);
    identify(r);
    r->client = p->client;
    return r;
}

/* Runs when nothing refers to the connection any more, also for streams (stream.c). */
void req_free(an_req *r)
{
    req_private *p = r->p;
    if (r->free_user) r->free_user(r->user);
    an_buf_free(&p->body);
    for (int i = 0; i < p->n_headers; i++) {
        free(p->headers[i][0]);
        free(p->headers[i][1]);
    }
    if (p->response) MHD_destroy_response(p->response);
    free((char *)(uintptr_t)r->method);
    free((char *)(uintptr_t)r->path);
    free(p);
    free(r);
}

static enum MHD_Result queue_answer(an_req *r)
{
    req_private *p = r->p;
    if (!p->response) { /* no memory for a better one */
        static char text[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\","
                             "\"param\":null,\"code\":\"no_memory\"}}";
        p->response =
            MHD_create_response_from_buffer(sizeof text - 1, text, MHD_RESPMEM_PERSISTENT);
        p->status = 503;
        if (!p->response) return MHD_NO;
    }
    for (int i = 0; i < p->n_headers; i++)
        MHD_add_response_header(p->response, p->headers[i][0], p->headers[i][1]);
    if (*r->server->options.cors_origin)
        MHD_add_response_header(p->response, "Access-Control-Allow-Origin",
                                r->server->options.cors_origin);
    atomic_fetch_add(&r->server->requests[0], 1);
    int class = p->status / 100;
    if (class >= 1 && class <= 5) atomic_fetch_add(&r->server->requests[class], 1);
    an_log(AN_LOG_DEBUG, "%s %s %s %d %.1f ms", r->client, r->method, r->path, p->status,
           1e3 * (an_now_s() - r->started));
    return MHD_queue_response(p->connection, (unsigned)p->status, p->response);
}

static enum MHD_Result first_call(an_server *s, struct MHD_Connection *c, const char *url,
                                  const char *method, void **slot)
{
    an_req *r = req_new(s, c, url, method);
    if (!r) return MHD_NO;
    *slot = r;
    const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
    if (length && strtoull(length, NULL, 10) > s->options.max_body_bytes) {
        r->p->too_large = true;
        /* a client that waits for "100 Continue" has sent nothing yet: refuse at once */
        if (MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Expect")) {
            r->p->dispatched = true;
            dispatch(r);
            return queue_answer(r);
        }
    }
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *len, void **slot)
{
    an_server *s = cls;
    an_req *r = *slot;
    (void)version;
    if (!r) return first_call(s, c, url, method, slot);
    req_private *p = r->p;
    if (*len) {
        atomic_fetch_add(&s->body_bytes_in, *len);
        if (p->too_large || !an_buf_add(&p->body, data, *len)) {
            p->too_large = true;
            p->discarded += *len;
            an_buf_free(&p->body);
            if (p->discarded > (uint64_t)DISCARD_FACTOR * s->options.max_body_bytes) return MHD_NO;
        }
        *len = 0;
        return MHD_YES;
    }
    if (!p->dispatched) {
        p->dispatched = true;
        dispatch(r);
        if (p->suspended) return MHD_YES; /* another thread answers and resumes */
    }
    return queue_answer(r);
}

static void on_completed(void *cls, struct MHD_Connection *c, void **slot,
                         enum MHD_RequestTerminationCode why)
{
    an_req *r = *slot;
    (void)cls;
    (void)c;
    (void)why;
    if (!r) return;
    *slot = NULL;
    req_private *p = r->p;
    watch_remove(r->server->watch, p->hangup_watch);
    if (p->job && !p->stream) {
        an_job_unwatch(p->job, p->job_watch);
        an_job_unref(p->job);
    }
    if (p->suspended) atomic_fetch_sub(&r->server->waiting, 1);
    if (p->stream)
        stream_detach(p->stream); /* frees r when its last task is done */
    else
        req_free(r);
}

static void on_connection(void *cls, struct MHD_Connection *c, void **socket_context,
                          enum MHD_ConnectionNotificationCode what)
{
    an_server *s = cls;
    (void)c;
    (void)socket_context;
    atomic_fetch_add(&s->connections, what == MHD_CONNECTION_NOTIFY_STARTED ? 1 : -1);
}

/* ---------------------------------------------------------------- start and stop */

static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
    char line[512];
    (void)cls;
    vsnprintf(line, sizeof line, fmt, ap);
    size_t n = strlen(line);
    if (n && line[n - 1] == '\n') line[n - 1] = '\0';
    an_log(AN_LOG_DEBUG, "http: %s", line);
}

static an_status resolve(const an_options *o, struct sockaddr_storage *addr, an_error *err)
{
    char port[16];
    struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    snprintf(port, sizeof port, "%d", o->port);
    int rc = getaddrinfo(o->host, port, &hint, &found);
    if (rc != 0 || !found)
        return an_fail(err, AN_INVALID, "--host %s: %s", o->host, gai_strerror(rc));
    memcpy(addr, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return AN_OK;
}

static an_status start_daemon(an_server *s, an_error *err)
{
    const an_options *o = &s->options;
    struct sockaddr_storage addr = {0};
    an_status st = resolve(o, &addr, err);
    if (st != AN_OK) return st;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
                     MHD_USE_ITC | (addr.ss_family == AF_INET6 ? MHD_USE_IPv6 : 0);
    struct MHD_OptionItem more[] = {
        {MHD_OPTION_THREAD_POOL_SIZE, o->http_threads > 1 ? o->http_threads : 0, NULL},
        {MHD_OPTION_END, 0, NULL}};
    s->daemon = MHD_start_daemon(
        flags, (uint16_t)o->port, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log,
        NULL, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&addr, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, NULL, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)o->max_connections,
        MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned)o->max_connections_per_ip,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->idle_timeout_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, o->max_header_bytes, MHD_OPTION_LISTEN_BACKLOG_SIZE,
        1024u, MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_ARRAY, more, MHD_OPTION_END);
    if (!s->daemon)
        return an_fail(err, AN_IO, "cannot listen on %s:%d: is another server there?", o->host,
                       o->port);
    const union MHD_DaemonInfo *i = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    s->port = i && i->port ? i->port : o->port;
    return AN_OK;
}

an_status an_server_start(const an_options *o, an_engine *e, an_server **out, an_error *err)
{
    an_server *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return an_fail(err, AN_NO_MEMORY, "out of memory");
    s->options = *o;
    s->engine = e;
    s->started = an_unix_s();
    s->workers = workers_new(o->encode_threads);
    s->watch = watch_new();
    an_status st = s->workers && s->watch ? start_daemon(s, err)
                                          : an_fail(err, AN_NO_MEMORY, "cannot start threads");
    if (st != AN_OK) {
        an_server_stop(s);
        return st;
    }
    *out = s;
    return AN_OK;
}

void an_server_quiesce(an_server *s)
{
    int fd = MHD_quiesce_daemon(s->daemon);
    if (fd >= 0) close(fd);
}

void an_server_stop(an_server *s)
{
    if (!s) return;
    /* Every job has ended, so sleeping connections are being answered; libmicrohttpd must not be
     * stopped while one is suspended. */
    double until = an_now_s() + 5;
    while ((atomic_load(&s->waiting) || atomic_load(&s->streams)) && an_now_s() < until)
        usleep(5000);
    if (s->daemon) MHD_stop_daemon(s->daemon);
    workers_free(s->workers);
    watch_free(s->watch);
    free(s);
}

int an_server_port(const an_server *s)
{
    return s->port;
}
an_engine *an_server_engine(const an_server *s)
{
    return s->engine;
}
const an_options *an_server_options(const an_server *s)
{
    return &s->options;
}
double an_server_started(const an_server *s)
{
    return s->started;
}

void an_server_stats(an_server *s, an_http_stats *out)
{
    for (int i = 0; i < 6; i++) out->requests[i] = atomic_load(&s->requests[i]);
    out->connections = atomic_load(&s->connections);
    out->streams = atomic_load(&s->streams);
    out->waiting = atomic_load(&s->waiting);
    out->body_bytes_in = atomic_load(&s->body_bytes_in);
    out->bytes_out = atomic_load(&s->bytes_out);
}
