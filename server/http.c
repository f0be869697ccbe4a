/* http.c: requests as they come in: who asks, which route, the body within its limits. Connections
 * that wait for a job are suspended: they cost memory, not a thread. */
#include "server_private.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <strings.h>

/* A body that is not wanted is read and thrown away, so that the client gets to see the answer; but
 * not for ever. */
#define DISCARD_FACTOR 4
/* Parsing this much would keep the socket thread's other connections waiting. */
#define LARGE_BODY 65536

int connection_fd(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    return i ? i->connect_fd : -1;
}

static const char *header(const an_req *r, const char *name)
{
    return MHD_lookup_connection_value(r->p->connection, MHD_HEADER_KIND, name);
}

/* ---------------------------------------------------------------- who asks */

/* Takes as long for any key of the token's length: a wrong one tells nothing of the right one. */
static bool equal_constant_time(const char *token, size_t n, const char *key)
{
    size_t m = strlen(key);
    unsigned diff = n != m;
    for (size_t i = 0; i < n; i++) diff |= (unsigned)(token[i] ^ key[m ? i % m : 0]);
    return diff == 0;
}

static bool key_allowed(const an_server *s, const char *token, size_t len)
{
    bool ok = false;
    for (int i = 0; i < s->options.n_api_keys; i++)
        ok |= equal_constant_time(token, len, s->options.api_keys[i]);
    return ok || s->options.n_api_keys == 0;
}

/* The key a client shows, as `Authorization: Bearer KEY` or else as `X-Api-Key: KEY`. Not
 * NUL-terminated; "" without one. */
static const char *shown_key(const an_req *r, size_t *len)
{
    const char *key = header(r, "Authorization");
    *len = 0;
    if (key && strncasecmp(key, "Bearer ", 7) == 0)
        key += 7;
    else if (!(key = header(r, "X-Api-Key")))
        return "";
    while (*key == ' ') key++;
    *len = strlen(key);
    while (*len && (key[*len - 1] == ' ' || key[*len - 1] == '\t')) --*len;
    return key;
}

static void address_name(const struct sockaddr *a, char *buf, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "unknown";
    if (a && a->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)a)->sin_addr, host,
                  sizeof host);
    else if (a && a->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, host,
                  sizeof host);
    snprintf(buf, size, "ip:%s", host);
}

/* A token names the client; only a salted hash of it is kept, so that no log or answer shows a key
 * and nobody can make up a token that is taken for another's. */
static void identify(an_req *r)
{
    size_t len;
    const char *token = shown_key(r, &len);
    if (len) {
        uint64_t h = 1469598103934665603u ^ r->server->salt;
        for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)token[i]) * 1099511628211u;
        snprintf(r->p->client, sizeof r->p->client, "key:%016llx", (unsigned long long)h);
        return;
    }
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(r->p->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    address_name(i ? i->client_addr : NULL, r->p->client, sizeof r->p->client);
}

/* A copy, since links are made when the connection may be gone; and only what a host name may hold,
 * since it goes into answers. */
static void keep_host(an_req *r)
{
    const char *host = header(r, "Host");
    size_t n = host ? strlen(host) : 0;
    if (n >= sizeof r->p->host) return;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)host[i]) && !strchr("-._:[]", host[i])) return;
    if (n) memcpy(r->p->host, host, n + 1);
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

/* Finds the route; p->allow lists the methods of the path when only the method is wrong. */
static const an_route *find_route(an_req *r)
{
    bool head = strcmp(r->method, "HEAD") == 0;
    char *allow = r->p->allow;
    for (int t = 0; an_routes[t]; t++) {
        for (const an_route *route = an_routes[t]; route->path; route++) {
            if (!match(route->path, r->path, r->p->rest, sizeof r->p->rest)) continue;
            if (strcmp(head ? "GET" : r->method, route->method) == 0) return route;
            size_t n = strlen(allow);
            snprintf(allow + n, sizeof r->p->allow - n, "%s%s", n ? ", " : "", route->method);
        }
    }
    return NULL;
}

/* What the headers alone decide. */
static verdict judge(an_req *r, uint64_t length)
{
    size_t len;
    const char *token = shown_key(r, &len);
    const an_route *route = r->p->route = find_route(r);
    if (strcmp(r->method, "OPTIONS") == 0 && *r->p->allow) return VERDICT_OPTIONS;
    if (!(route && route->open) && !key_allowed(r->server, token, len)) return VERDICT_NO_KEY;
    if (!route) return *r->p->allow ? VERDICT_NO_METHOD : VERDICT_NO_ROUTE;
    return length > r->server->options.max_body_bytes ? VERDICT_TOO_LARGE : VERDICT_HANDLE;
}

/* A browser asks beforehand whether a page of another origin may call. */
static void answer_options(an_req *r)
{
    const char *wanted = header(r, "Access-Control-Request-Headers");
    reply_header(r, "Allow", r->p->allow);
    if (*r->server->options.cors_origin) {
        reply_header(r, "Access-Control-Allow-Methods", r->p->allow);
        reply_header(r, "Access-Control-Allow-Headers",
                     wanted && strlen(wanted) < 1024 ? wanted
                                                     : "Authorization, X-Api-Key, Content-Type");
        reply_header(r, "Access-Control-Max-Age", "86400");
    }
    reply_bytes(r, 204, NULL, NULL, 0);
}

static void refuse(an_req *r)
{
    an_error err = {0};
    req_private *p = r->p;
    switch (p->verdict) {
    case VERDICT_OPTIONS:
        answer_options(r);
        return;
    case VERDICT_NO_KEY:
        reply_header(r, "WWW-Authenticate", "Bearer");
        reply_fault(
            r, 401, "authentication_error", "invalid_api_key",
            "missing or wrong API key: send `Authorization: Bearer KEY` or `X-Api-Key: KEY`");
        return;
    case VERDICT_NO_METHOD:
        reply_header(r, "Allow", p->allow);
        reply_fault(r, 405, "invalid_request_error", "method_not_allowed",
                    "%.20s does not do here; %s would", r->method, p->allow);
        return;
    case VERDICT_TOO_LARGE:
        an_fail(&err, AN_TOO_LARGE, "the request body is larger than the limit of %zu bytes",
                r->server->options.max_body_bytes);
        break;
    case VERDICT_NO_ROOM:
        an_fail(&err, AN_NO_MEMORY, "no room for the request body: %zu bytes of others are held",
                atomic_load(&r->server->held));
        break;
    default:
        an_fail(&err, AN_NOT_FOUND, "nothing lives at %.200s", r->path);
        break;
    }
    reply_error(r, &err);
}

static void dispatch(an_req *r)
{
    req_private *p = r->p;
    p->dispatched = true;
    r->body = p->body.data ? p->body.data : "";
    r->body_len = p->body.len;
    r->rest = p->rest;
    if (p->verdict != VERDICT_HANDLE)
        refuse(r);
    else if (r->body_len > LARGE_BODY)
        reply_work(r, p->route->handler);
    else
        p->route->handler(r);
    req_settle(r);
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
    r->body = r->rest = "";
    r->started = an_now_s();
    r->client = p->client;
    r->host = p->host;
    p->connection = c;
    an_buf_init(&p->body, s->options.max_body_bytes);
    identify(r);
    keep_host(r);
    return r;
}

/* Runs when nothing refers to the request any more, also for streams (stream.c). */
void req_free(an_req *r)
{
    req_private *p = r->p;
    if (r->free_user) r->free_user(r->user);
    server_release(r->server, p->held);
    an_buf_free(&p->body);
    for (int i = 0; i < p->n_headers; i++) {
        free(p->headers[i][0]);
        free(p->headers[i][1]);
    }
    if (p->response) MHD_destroy_response(p->response);
    free(p->jobs);
    free((char *)(uintptr_t)r->method);
    free((char *)(uintptr_t)r->path);
    free(p);
    free(r);
}

static void add_headers(an_req *r)
{
    req_private *p = r->p;
    const char *origin = r->server->options.cors_origin;
    for (int i = 0; i < p->n_headers; i++)
        MHD_add_response_header(p->response, p->headers[i][0], p->headers[i][1]);
    if (!*origin) return;
    MHD_add_response_header(p->response, "Access-Control-Allow-Origin", origin);
    MHD_add_response_header(p->response, "Access-Control-Expose-Headers", "Location, Retry-After");
    if (strcmp(origin, "*") != 0) MHD_add_response_header(p->response, "Vary", "Origin");
}

/* Asking for status is what machines do every second, and wrong requests are the client's business:
 * neither belongs in the normal log. */
static void log_answer(const an_req *r)
{
    int status = r->p->status;
    bool asks = strcmp(r->method, "POST") == 0 || strcmp(r->method, "DELETE") == 0;
    an_log(asks && (status < 400 || status >= 500) ? AN_LOG_INFO : AN_LOG_DEBUG,
           "%s %.20s %.200s %d %.1f ms", r->client, r->method, r->path, status,
           1e3 * (an_now_s() - r->started));
}

static enum MHD_Result queue_answer(an_req *r)
{
    req_private *p = r->p;
    an_server *s = r->server;
    if (!p->response) { /* no memory for a better one */
        static char text[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\","
                             "\"param\":null,\"code\":\"no_memory\"}}";
        p->response =
            MHD_create_response_from_buffer(sizeof text - 1, text, MHD_RESPMEM_PERSISTENT);
        p->status = 503;
        if (!p->response) return MHD_NO;
    }
    add_headers(r);
    atomic_fetch_add(&s->requests[0], 1);
    int class = p->status / 100;
    if (class >= 1 && class <= 5) atomic_fetch_add(&s->requests[class], 1);
    log_answer(r);
    p->queued = true;
    atomic_fetch_add(&s->unsent, 1);
    return MHD_queue_response(p->connection, (unsigned)p->status, p->response);
}

/* libmicrohttpd calls once with the headers alone: the only chance to answer a client that waits
 * for "100 Continue" before it sends. */
static enum MHD_Result first_call(an_server *s, struct MHD_Connection *c, const char *url,
                                  const char *method, void **slot)
{
    an_req *r = req_new(s, c, url, method);
    if (!r) return MHD_NO;
    *slot = r;
    const char *text = header(r, "Content-Length");
    uint64_t length = text ? strtoull(text, NULL, 10) : 0;
    r->p->verdict = judge(r, length);
    bool hopeless = length / DISCARD_FACTOR > s->options.max_body_bytes;
    if (r->p->verdict == VERDICT_HANDLE || !(hopeless || header(r, "Expect"))) return MHD_YES;
    dispatch(r);
    return queue_answer(r);
}

/* Keeps a part of the body, or decides that the whole is not wanted. */
static void keep_body(an_req *r, const char *data, size_t len)
{
    req_private *p = r->p;
    if (len > p->body.max - p->body.len) {
        p->verdict = VERDICT_TOO_LARGE;
    } else if (!server_hold(r->server, len)) {
        p->verdict = VERDICT_NO_ROOM;
    } else {
        p->held += len;
        if (!an_buf_add(&p->body, data, len)) p->verdict = VERDICT_NO_ROOM;
    }
    if (p->verdict == VERDICT_HANDLE) return;
    an_buf_free(&p->body);
    server_release(r->server, p->held);
    p->held = 0;
}

enum MHD_Result http_request(void *cls, struct MHD_Connection *c, const char *url,
                             const char *method, const char *version, const char *data, size_t *len,
                             void **slot)
{
    an_server *s = cls;
    an_req *r = *slot;
    (void)version;
    if (!r) return first_call(s, c, url, method, slot);
    req_private *p = r->p;
    if (*len) {
        atomic_fetch_add(&s->body_bytes_in, *len);
        if (p->verdict == VERDICT_HANDLE)
            keep_body(r, data, *len);
        else
            p->discarded += *len;
        *len = 0;
        return p->discarded / DISCARD_FACTOR > s->options.max_body_bytes ? MHD_NO : MHD_YES;
    }
    if (!p->dispatched) {
        dispatch(r);
        if (p->asleep) return MHD_YES; /* another thread answers and resumes */
    }
    return queue_answer(r);
}

void http_completed(void *cls, struct MHD_Connection *c, void **slot,
                    enum MHD_RequestTerminationCode why)
{
    an_req *r = *slot;
    (void)cls;
    (void)c;
    (void)why;
    if (!r) return;
    *slot = NULL;
    req_private *p = r->p;
    if (p->queued) atomic_fetch_sub(&r->server->unsent, 1);
    watch_remove(r->server->watch, p->hangup_watch);
    if (p->stream) {
        stream_detach(p->stream); /* frees r when its last task is done */
        return;
    }
    for (int i = 0; i < p->n_jobs; i++) {
        an_job_unwatch(p->jobs[i].job, p->jobs[i].watch);
        an_job_unref(p->jobs[i].job);
    }
    req_free(r);
}
