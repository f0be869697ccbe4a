/* refuse.c: who may ask for what, decided by the request line and the headers alone, before a byte
 * of the body is kept; and the answers of those who may not. */
#include "server_private.h"

#include "origin.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <strings.h>

/* ---------------------------------------------------------------- who asks */

/* The key a client shows, as `Authorization: Bearer KEY` or else as `X-Api-Key: KEY`. Not
 * NUL-terminated; "" without one. */
static const char *shown_key(const heads *h, size_t *len)
{
    const char *key = h->authorization;
    *len = 0;
    if (key && strncasecmp(key, "Bearer ", 7) == 0)
        key += 7;
    else if (!(key = h->api_key))
        return "";
    while (*key == ' ') key++;
    *len = strlen(key);
    while (*len && (key[*len - 1] == ' ' || key[*len - 1] == '\t')) --*len;
    return key;
}

/* The client's address, by its connection or by what our proxies say of it; and whether it asked
 * one of them by HTTPS. */
static void locate(an_req *r, const heads *h)
{
    req_private *p = r->p;
    const an_proxies *proxies = r->server->gate->proxies;
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(p->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *from = i ? i->client_addr : NULL;
    an_proxies_client(proxies, from, h->forwarded, h->n_forwarded, p->address, sizeof p->address);
    bool https = r->server->gate->tls;
    if (h->proto && an_proxies_trust(proxies, from)) https = strcasecmp(h->proto, "https") == 0;
    r->scheme = https ? "https" : "http";
}

/* A key's name is the client's. Where no keys are set, whatever token comes names the client; only
 * a salted hash of it is kept, so that no log or answer shows a key and nobody can make up a token
 * that is taken for another's. */
static void identify(an_req *r, const heads *h)
{
    req_private *p = r->p;
    size_t len;
    const char *token = shown_key(h, &len);
    if (r->server->gate->need_key) {
        p->key = len ? an_keys_find(r->server->gate->keys, token, len) : NULL;
        if (p->key) {
            snprintf(p->client, sizeof p->client, "key:%s", an_key_name(p->key));
            return;
        }
    } else if (len) {
        uint64_t hash = 1469598103934665603u ^ r->server->salt;
        for (size_t i = 0; i < len; i++) hash = (hash ^ (unsigned char)token[i]) * 1099511628211u;
        snprintf(p->client, sizeof p->client, "key:%016llx", (unsigned long long)hash);
        return;
    }
    snprintf(p->client, sizeof p->client, "ip:%s", p->address);
}

/* A copy, since links are made when the connection may be gone; and only what a host name may hold,
 * since it goes into answers. What was not kept is remembered: a name can be strange and yet be
 * looked up (DNS takes any byte), so "" must not pass for a client that named no host. */
static void keep_host(an_req *r, const char *host, size_t n)
{
    r->p->odd_host = n >= sizeof r->p->host;
    for (size_t i = 0; i < n && !r->p->odd_host; i++)
        r->p->odd_host = !isalnum((unsigned char)host[i]) && !strchr("-._:[]", host[i]);
    if (n && !r->p->odd_host) memcpy(r->p->host, host, n);
}

/* Could the host be a stranger's name for this machine? */
static bool strange_host(const an_req *r)
{
    const an_options *o = &r->server->options;
    if (!r->server->gate->check_host) return false;
    return r->p->odd_host ? !host_any(o) : host_foreign(o, r->host);
}

/* ---------------------------------------------------------------- routing */

/* Does path match the pattern? "*" stands for one segment, copied to rest without its %XX. All else
 * is compared as it came: a proxy that guards /metrics sees what is matched here, not /%6detrics.
 */
static bool match(const char *pattern, const char *path, char *rest, size_t size)
{
    rest[0] = '\0';
    while (*pattern) {
        if (*pattern == '*') {
            size_t n = strcspn(path, "/");
            if (n == 0 || !unescape(path, n, rest, size)) return false;
            path += n;
            pattern++;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0';
}

static void add_method(char *list, size_t size, const char *method)
{
    size_t n = strlen(list);
    snprintf(list + n, size - n, "%s%s", n ? ", " : "", method);
}

/* Finds the route of a path; allow lists its methods, "" if nothing lives there. */
static const an_route *find_route(const char *method, const char *path, char *rest,
                                  size_t rest_size, char *allow, size_t allow_size)
{
    bool head = strcmp(method, "HEAD") == 0;
    *allow = '\0';
    for (int t = 0; an_routes[t]; t++) {
        for (const an_route *route = an_routes[t]; route->path; route++) {
            if (!match(route->path, path, rest, rest_size)) continue;
            if (strcmp(head ? "GET" : method, route->method) == 0) return route;
            add_method(allow, allow_size, route->method);
            if (strcmp(route->method, "GET") == 0) add_method(allow, allow_size, "HEAD");
        }
    }
    if (*allow) add_method(allow, allow_size, "OPTIONS");
    return NULL;
}

/* Needs the path no key? Then a wrong method is told so to anybody. */
static bool open_path(const char *path)
{
    char rest[256];
    for (int t = 0; an_routes[t]; t++)
        for (const an_route *route = an_routes[t]; route->path; route++)
            if (route->open && match(route->path, path, rest, sizeof rest)) return true;
    return false;
}

/* The path of the request line: "/x", or that of "http://host/x", which proxies send; then the host
 * is the URL's and not the header's (RFC 9112, 3.2.2). */
static bool take_target(an_req *r, const char *target, const heads *h)
{
    const char *host = h->host ? h->host : "", *path = target;
    size_t n = strlen(host);
    if (strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0) {
        host = strstr(target, "://") + 3;
        n = strcspn(host, "/");
        path = host[n] ? host + n : "/";
    }
    keep_host(r, host, n);
    r->host = r->p->host;
    r->path = strdup(path);
    return r->path != NULL;
}

static bool known_method(const char *method)
{
    static const char *const known[] = {"GET",   "HEAD",    "POST",  "PUT",  "DELETE",
                                        "PATCH", "OPTIONS", "TRACE", "QUERY"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(method, known[i]) == 0) return true;
    return false;
}

/* ---------------------------------------------------------------- the verdict */

/* Methods that may change something: browsers send them for any page, and some without asking. */
static bool changes(const char *method)
{
    return strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0;
}

static verdict judge_route(an_req *r, const heads *h)
{
    req_private *p = r->p;
    an_server *s = r->server;
    const an_route *route = p->route;
    bool any = strcmp(r->method, "OPTIONS") == 0 && strcmp(r->path, "*") == 0;
    if (any) snprintf(p->allow, sizeof p->allow, "GET, HEAD, POST, DELETE, OPTIONS");
    if (strcmp(r->method, "OPTIONS") == 0 && *p->allow) return VERDICT_OPTIONS;
    if (changes(r->method) && origin_foreign(&s->options, h->origin, h->fetch_site, r->host))
        return VERDICT_FOREIGN;
    bool open = route ? route->open : open_path(r->path);
    if (s->options.metrics_without_key && strcmp(r->path, "/metrics") == 0) open = true;
    if (!open && s->gate->need_key && !p->key) return VERDICT_NO_KEY;
    if (!route) return *p->allow ? VERDICT_NO_METHOD : VERDICT_NO_ROUTE;
    bool posts = strcmp(route->method, "POST") == 0;
    if (posts && heads_body(h) && !heads_json(h, &p->fault)) return VERDICT_TYPE;
    uint64_t length = h->lengths ? strtoull(h->length, NULL, 10) : 0;
    if (length > s->options.max_body_bytes) return VERDICT_TOO_LARGE;
    if (posts && p->key && !an_key_spend(p->key, r->started, &p->rate)) return VERDICT_RATE;
    return VERDICT_HANDLE;
}

verdict judge(an_req *r, const heads *h, const char *version, const char *target)
{
    req_private *p = r->p;
    request_id(h, p->id);
    p->cors = origin_allowed(&r->server->options, h->origin);
    if (!take_target(r, target, h)) return VERDICT_NO_ROOM;
    locate(r, h);
    identify(r, h);
    p->fault = heads_fault(h, version, &p->status);
    if (p->fault) {
        p->hang_up = true;
        return VERDICT_BROKEN;
    }
    if (strange_host(r)) return VERDICT_HOST;
    if (!known_method(r->method)) return VERDICT_UNKNOWN_METHOD;
    p->route = find_route(r->method, r->path, p->rest, sizeof p->rest, p->allow, sizeof p->allow);
    return judge_route(r, h);
}

/* ---------------------------------------------------------------- refusals */

/* Header names, commas and blanks: the list goes back as it came. */
static bool plain_list(const char *s)
{
    size_t n = 0;
    for (; s[n]; n++)
        if (!isalnum((unsigned char)s[n]) && !strchr("-_, ", s[n])) return false;
    return n < 1024;
}

/* A browser asks beforehand whether a page of another origin may call. */
static void answer_options(an_req *r)
{
    req_private *p = r->p;
    const char *method = MHD_lookup_connection_value(p->connection, MHD_HEADER_KIND,
                                                     "Access-Control-Request-Method");
    const char *names = MHD_lookup_connection_value(p->connection, MHD_HEADER_KIND,
                                                    "Access-Control-Request-Headers");
    reply_header(r, "Allow", p->allow);
    if (p->cors && method) {
        reply_header(r, "Access-Control-Allow-Methods", p->allow);
        reply_header(r, "Access-Control-Allow-Headers",
                     names && plain_list(names) ? names : "Authorization, X-Api-Key, Content-Type");
        reply_header(r, "Access-Control-Max-Age", "86400");
    }
    reply_bytes(r, 204, NULL, NULL, 0);
}

static void refuse_stranger(an_req *r)
{
    req_private *p = r->p;
    char seconds[32];
    switch (p->verdict) {
    case VERDICT_HOST:
        if (p->odd_host) {
            reply_fault(r, 403, "permission_error", "unknown_host",
                        "this server is for its own machine, as localhost; the Host that was "
                        "asked for is not a name of at most %zu letters, digits, '-', '_' and '.'",
                        sizeof p->host - 1);
            return;
        }
        reply_fault(r, 403, "permission_error", "unknown_host",
                    "this server is for its own machine, as localhost; if '%.100s' is meant to "
                    "reach it, start it with --allow-host, or with a key",
                    r->host);
        return;
    case VERDICT_FOREIGN:
        reply_fault(r, 403, "permission_error", "foreign_origin",
                    "a page of another site sent this; if it may, start the server with "
                    "--cors-origin and the page's origin");
        return;
    case VERDICT_RATE:
        snprintf(seconds, sizeof seconds, "%.0f", fmax(1, ceil(p->rate.retry_s)));
        reply_header(r, "Retry-After", seconds);
        reply_fault(r, 429, "rate_limit_error", "rate_limit_exceeded",
                    "this key may make %d POST requests a minute; the next in %s s", p->rate.limit,
                    seconds);
        return;
    default:
        reply_header(r, "WWW-Authenticate", "Bearer");
        reply_fault(
            r, 401, "authentication_error", "invalid_api_key",
            "missing or wrong API key: send `Authorization: Bearer KEY` or `X-Api-Key: KEY`");
        return;
    }
}

static void refuse_place(an_req *r)
{
    an_error err = {0};
    char rest[8], allow[64], path[256];
    size_t n = strlen(r->path);
    an_fail(&err, AN_NOT_FOUND, "nothing lives at %.200s", r->path);
    if (n > 1 && n < sizeof path && r->path[n - 1] == '/') {
        memcpy(path, r->path, n - 1);
        path[n - 1] = '\0';
        find_route("", path, rest, sizeof rest, allow, sizeof allow);
        if (*allow)
            an_fail(&err, AN_NOT_FOUND,
                    "nothing lives at %.200s; without the slash at its end, "
                    "something does",
                    r->path);
    }
    reply_error(r, &err);
}

void refuse(an_req *r)
{
    an_error err = {0};
    req_private *p = r->p;
    static const char wrong[] = "invalid_request_error";
    switch (p->verdict) {
    case VERDICT_BROKEN:
        reply_fault(r, p->status, wrong, "malformed_request", "%s", p->fault);
        return;
    case VERDICT_UNKNOWN_METHOD:
        reply_fault(r, 501, wrong, "unknown_method", "no method is called '%.20s' here", r->method);
        return;
    case VERDICT_OPTIONS:
        answer_options(r);
        return;
    case VERDICT_NO_METHOD:
        reply_header(r, "Allow", p->allow);
        reply_fault(r, 405, wrong, "method_not_allowed", "%.20s does not do here; %s would",
                    r->method, p->allow);
        return;
    case VERDICT_TYPE:
        reply_header(r, "Accept-Encoding", "identity");
        reply_fault(r, 415, wrong, "unsupported_media_type", "%s", p->fault);
        return;
    case VERDICT_TOO_LARGE:
        an_fail(&err, AN_TOO_LARGE, "the request body is larger than the limit of %zu bytes",
                r->server->options.max_body_bytes);
        reply_error(r, &err);
        return;
    case VERDICT_NO_ROOM:
        an_fail(&err, AN_NO_MEMORY, "no room for the request body: %zu bytes of others are held",
                atomic_load(&r->server->held));
        reply_error(r, &err);
        return;
    case VERDICT_NO_ROUTE:
        refuse_place(r);
        return;
    default:
        refuse_stranger(r);
        return;
    }
}
