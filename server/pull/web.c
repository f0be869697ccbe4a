/* web.c: see pull.h. Redirects are followed here, not by libcurl, because the hub sends large files
 * to other hosts: the token must be seen by none of them, and https must not become http. */
#include "pull.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

#define MAX_REDIRECTS   8
#define LONGEST_WAIT_S  30
#define LONGEST_ASKED_S 300 /* of a Retry-After */
#define MAX_TOKEN_FILE  4096

/* ---------------------------------------------------------------- where, and who asks */

/* Scheme, host and port of a URL, as "https://host:443"; false if it is none of http or https. */
static bool origin(const char *url, char *out, size_t size)
{
    char *scheme = NULL, *host = NULL, *port = NULL;
    CURLU *u = curl_url();
    bool ok = u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
              curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
              (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);
    int n = ok ? snprintf(out, size, "%s://%s:%s", scheme, host, port) : -1;
    for (char *p = out; ok && n > 0 && (size_t)n < size && *p; p++)
        *p = (char)tolower((unsigned char)*p);
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
    return n > 0 && (size_t)n < size;
}

static bool on_loopback(const char *url)
{
    static const char *const hosts[] = {"http://127.0.0.1:", "http://localhost:", "http://[::1]:"};
    char o[600];
    if (!origin(url, o, sizeof o)) return false;
    for (int i = 0; i < 3; i++)
        if (strncmp(o, hosts[i], strlen(hosts[i])) == 0) return true;
    return false;
}

static an_status read_token(pull_web *w, const char *file, an_error *err)
{
    const char *token = getenv("HF_TOKEN");
    char *text = NULL;
    size_t len = 0;
    if (file) {
        an_status s = an_read_file(file, MAX_TOKEN_FILE, &text, &len, err);
        if (s) return an_fail_prefix(err, s, "--token-file");
        while (len && isspace((unsigned char)text[len - 1])) text[--len] = '\0';
        token = text;
    }
    bool ok = !token || strlen(token) < sizeof w->token;
    for (const char *p = token; ok && p && *p; p++) ok = *p > 0x20 && *p < 0x7f;
    if (ok && file) ok = len > 0;
    if (ok && token) snprintf(w->token, sizeof w->token, "%s", token);
    free(text);
    if (ok) return AN_OK;
    return an_fail(err, AN_INVALID, "%s holds no token: one line of letters and digits",
                   file ? file : "HF_TOKEN");
}

an_status pull_web_init(pull_web *w, const char *token_file, an_error *err)
{
    const char *endpoint = getenv("HF_ENDPOINT");
    char o[600];
    if (!endpoint || !*endpoint) endpoint = "https://huggingface.co";
    size_t len = strlen(endpoint);
    while (len && endpoint[len - 1] == '/') len--;
    if (len >= sizeof w->endpoint || !origin(endpoint, o, sizeof o))
        return an_fail(err, AN_INVALID, "HF_ENDPOINT: '%.200s' is not an http:// or https:// URL",
                       endpoint);
    snprintf(w->endpoint, sizeof w->endpoint, "%.*s", (int)len, endpoint);
    an_status s = read_token(w, token_file, err);
    if (!s && *w->token && strncmp(o, "https:", 6) != 0 && !on_loopback(endpoint))
        s = an_fail(
            err, AN_INVALID,
            "the token would travel to %.200s for everybody to read: use https, or no token",
            endpoint);
    return s;
}

/* ---------------------------------------------------------------- one request */

static void header_text(char *out, size_t size, const char *from, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len && n + 1 < size; i++)
        if ((unsigned char)from[i] >= 0x20 && from[i] != 0x7f) out[n++] = from[i];
    out[n] = '\0';
}

static double retry_after(const char *text)
{
    char *end;
    const double v = strtod(text, &end);
    if (end != text && v >= 0) return v;
    const time_t at = curl_getdate(text, NULL);
    const double wait = at < 0 ? -1 : difftime(at, time(NULL));
    return at < 0 ? -1 : wait > 0 ? wait : 0;
}

static void reset_answer(pull_request *r)
{
    r->status = 0;
    r->retry_after_s = -1;
    r->range_start = r->range_total = -1;
    r->etag[0] = r->error_code[0] = r->error_message[0] = '\0';
}

static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
    pull_request *r = arg;
    const size_t len = size * n;
    char line[1024];
    header_text(line, sizeof line, data, len);
    if (strncmp(line, "HTTP/", 5) == 0) reset_answer(r); /* 100 Continue, a proxy's own answer */
    char *value = strchr(line, ':');
    if (!value) return len;
    *value++ = '\0';
    while (*value == ' ') value++;
    long long start, total;
    if (strcasecmp(line, "retry-after") == 0) r->retry_after_s = retry_after(value);
    if (strcasecmp(line, "etag") == 0) snprintf(r->etag, sizeof r->etag, "%.255s", value);
    if (strcasecmp(line, "x-error-code") == 0)
        snprintf(r->error_code, sizeof r->error_code, "%.63s", value);
    if (strcasecmp(line, "x-error-message") == 0)
        snprintf(r->error_message, sizeof r->error_message, "%.255s", value);
    if (strcasecmp(line, "content-range") == 0 &&
        sscanf(value, "bytes %lld-%*d/%lld", &start, &total) == 2) {
        r->range_start = start;
        r->range_total = total;
    }
    return len;
}

static bool add_header(pull_request *r, const char *fmt, const char *value)
{
    char line[1200];
    snprintf(line, sizeof line, fmt, value);
    struct curl_slist *more = curl_slist_append(r->headers, line);
    if (more) r->headers = more;
    return more != NULL;
}

an_status pull_request_open(pull_request *r, const pull_web *w, const char *url, int64_t from,
                            const char *etag, an_error *err)
{
    char here[600], hub[600], range[32];
    pull_request_close(r);
    snprintf(r->url, sizeof r->url, "%s", url);
    reset_answer(r);
    if (!origin(url, here, sizeof here) || !origin(w->endpoint, hub, sizeof hub))
        return an_fail(err, AN_INVALID, "'%.200s' is not an http:// or https:// URL", url);
    r->at_hub = strcmp(here, hub) == 0;
    r->easy = curl_easy_init();
    bool ok = r->easy && add_header(r, "Accept: */*%s", "");
    if (ok && *w->token && r->at_hub) ok = add_header(r, "Authorization: Bearer %s", w->token);
    /* a weak tag cannot be asked about a range (RFC 9110, 13.1.5) */
    if (ok && from > 0 && *etag == '"') ok = add_header(r, "If-Range: %s", etag);
    if (!ok) return an_fail(err, AN_NO_MEMORY, "no memory for a request");
    CURL *e = r->easy;
    const char *authorities = getenv("SSL_CERT_FILE"); /* as OpenSSL and the hub's own client do */
    if (authorities && *authorities) curl_easy_setopt(e, CURLOPT_CAINFO, authorities);
    /* libcurl sends http://localhost to http_proxy as any other: the proxy would read the token */
    if (on_loopback(url)) curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(e, CURLOPT_URL, r->url);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, r->headers);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "anneal/" AN_VERSION);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)(w->timeout_s * 1000));
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, (long)(w->timeout_s < 1 ? 1 : w->timeout_s));
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, r);
    if (from > 0) {
        snprintf(range, sizeof range, "%lld-", (long long)from);
        curl_easy_setopt(e, CURLOPT_RANGE, range);
    }
    return AN_OK;
}

bool pull_status_redirects(long status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

an_status pull_request_follow(pull_request *r, const pull_web *w, int64_t from, const char *etag,
                              an_error *err)
{
    char *to = NULL, next[PULL_URL];
    curl_easy_getinfo(r->easy, CURLINFO_REDIRECT_URL, &to);
    if (!to || strlen(to) >= sizeof next)
        return an_fail(err, AN_INVALID, "%.200s sends on to no address, or to one that is too long",
                       r->url);
    snprintf(next, sizeof next, "%s", to);
    if (++r->redirects > MAX_REDIRECTS)
        return an_fail(err, AN_INVALID, "%.200s: sent on more than %d times", r->url,
                       MAX_REDIRECTS);
    if (strncasecmp(r->url, "https:", 6) == 0 && strncasecmp(next, "https:", 6) != 0)
        return an_fail(err, AN_INVALID, "%.200s sends from https to %.200s: not followed", r->url,
                       next);
    return pull_request_open(r, w, next, from, etag, err);
}

void pull_request_close(pull_request *r)
{
    curl_easy_cleanup(r->easy);
    curl_slist_free_all(r->headers);
    r->easy = NULL;
    r->headers = NULL;
}

/* ---------------------------------------------------------------- what went wrong */

bool pull_worth_retry(const pull_request *r, CURLcode code)
{
    switch (code) {
    case CURLE_OK:
        break;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_OUT_OF_MEMORY:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_WRITE_ERROR:
        return false;
    default:
        return true;
    }
    /* a link of another host may have run out: the hub gives a new one */
    return r->status == 408 || r->status == 429 || r->status >= 500 ||
           (!r->at_hub && (r->status == 403 || r->status == 401 || r->status == 416)) ||
           r->status == 200 || r->status == 206; /* and yet cut short */
}

double pull_retry_wait(const pull_web *w, const pull_request *r, int n)
{
    double wait = w->retry_wait_s;
    if (r->retry_after_s >= 0)
        return r->retry_after_s < LONGEST_ASKED_S ? r->retry_after_s : LONGEST_ASKED_S;
    for (int i = 0; i < n && wait < LONGEST_WAIT_S; i++) wait *= 2;
    if (wait > LONGEST_WAIT_S) wait = LONGEST_WAIT_S;
    return wait * (0.75 + 0.5 * (double)(rand() % 1000) / 1000); /* so that not all come at once */
}

static an_status refused(const pull_request *r, const pull_web *w, const pull_ref *ref,
                         const char *what, an_error *err)
{
    const char *about = *r->error_message ? r->error_message : "";
    if (strcmp(r->error_code, "GatedRepo") == 0 || (r->status == 403 && *w->token))
        return an_fail(err, AN_INVALID,
                       "%s: %ld, the model is gated%s%s: accept its terms at %s/%s/%s, then ask "
                       "again with that account's token in HF_TOKEN or --token-file",
                       what, r->status, *about ? ": " : "", about, w->endpoint, ref->owner,
                       ref->name);
    return an_fail(err, AN_INVALID,
                   "%s: %ld: there is no such model, or it is private or gated%s%s%s: %s", what,
                   r->status, *about ? " (" : "", about, *about ? ")" : "",
                   *w->token ? "the token does not open it"
                             : "a token (HF_TOKEN, --token-file) opens what its account may see");
}

an_status pull_explain(const pull_request *r, const pull_web *w, const pull_ref *ref, CURLcode code,
                       const char *what, an_error *err)
{
    if (code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_CONNECT ||
        code == CURLE_COULDNT_RESOLVE_PROXY)
        return an_fail(
            err, AN_IO,
            "%s: %s cannot be reached (%s); HF_ENDPOINT names another hub, https_proxy a "
            "proxy",
            what, w->endpoint, curl_easy_strerror(code));
    if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE)
        return an_fail(err, AN_IO,
                       "%s: the certificate of %s is not trusted (%s); SSL_CERT_FILE names a file "
                       "with the authorities that are",
                       what, r->at_hub ? w->endpoint : "the host that the hub sent to",
                       curl_easy_strerror(code));
    if (code != CURLE_OK) return an_fail(err, AN_IO, "%s: %s", what, curl_easy_strerror(code));
    if (r->status == 401 || r->status == 403) return refused(r, w, ref, what, err);
    if (r->status == 404)
        return an_fail(err, AN_NOT_FOUND, "%s: 404: %s has no %s", what, w->endpoint,
                       strcmp(r->error_code, "RevisionNotFound") == 0 ? "such revision of it"
                       : strcmp(r->error_code, "EntryNotFound") == 0  ? "such file"
                                                                      : "such model or revision");
    return an_fail(err, AN_IO, "%s: %s answered %ld%s%s", what,
                   r->at_hub ? w->endpoint : "the host that the hub sent to", r->status,
                   *r->error_message ? ": " : "", r->error_message);
}

/* ---------------------------------------------------------------- a whole answer */

typedef struct gathering {
    an_buf *out;
    pull_request *request;
} gathering;

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    gathering *g = arg;
    long status = 0;
    curl_easy_getinfo(g->request->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) return size * n; /* a page of words for people */
    return an_buf_add(g->out, data, size * n) ? size * n : 0;
}

static CURLcode ask_once(pull_request *r, const pull_web *w, const char *url, an_buf *out,
                         an_status *s, an_error *err)
{
    gathering g = {out, r};
    CURLcode code = CURLE_OK;
    r->redirects = 0;
    *s = pull_request_open(r, w, url, 0, "", err);
    while (!*s) {
        const size_t max = out->max;
        an_buf_free(out);
        an_buf_init(out, max);
        curl_easy_setopt(r->easy, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(r->easy, CURLOPT_WRITEDATA, &g);
        code = curl_easy_perform(r->easy);
        curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &r->status);
        if (code != CURLE_OK || !pull_status_redirects(r->status)) break;
        *s = pull_request_follow(r, w, 0, "", err);
    }
    return code;
}

an_status pull_get(const pull_web *w, const pull_ref *ref, const char *url, size_t max,
                   const char *what, an_buf *out, an_error *err)
{
    pull_request r = {0};
    an_status s = AN_OK;
    an_buf_init(out, max);
    for (int n = 0;; n++) {
        const CURLcode code = ask_once(&r, w, url, out, &s, err);
        if (s || (code == CURLE_OK && r.status == 200)) break;
        if (out->failed) {
            s = an_fail(err, AN_TOO_LARGE, "%s: an answer of more than %zu bytes (--max-listing)",
                        what, max);
            break;
        }
        const bool offline = code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_CONNECT;
        if (offline || !pull_worth_retry(&r, code) || n == w->retries) {
            s = pull_explain(&r, w, ref, code, what, err);
            break;
        }
        const double wait = pull_retry_wait(w, &r, n);
        struct timespec t = {.tv_sec = (time_t)wait,
                             .tv_nsec = (long)((wait - (double)(time_t)wait) * 1e9)};
        nanosleep(&t, NULL); /* Ctrl-C ends the program here */
    }
    pull_request_close(&r);
    if (s) an_buf_free(out);
    return s;
}
