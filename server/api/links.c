/* links.c: pictures behind links (response_format "url"): encoded bytes under a name that cannot be
 * guessed, kept --url-ttl seconds and --max-url-bytes in all, the oldest given up first. */
#include "image_ask.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>

#define BUCKETS 4096
#define MAX_AGE 600 /* seconds */

typedef struct link {
    char name[48];
    an_image_format format;
    char *data;
    size_t len;
    double expires;   /* monotonic */
    _Atomic int refs; /* the table, and answers under way */
    struct link *younger, *chain;
} link;

/* One table a process: a link belongs to whoever knows its name. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static link *oldest, **newest = &oldest, *bucket[BUCKETS];
static size_t total;

static void unref(void *p)
{
    link *l = p;
    if (atomic_fetch_sub(&l->refs, 1) != 1) return;
    free(l->data);
    free(l);
}

/* Where the link of that name is, or would be. Names are random: their first digits spread well. */
static link **find(const char *name)
{
    char digits[5];
    snprintf(digits, sizeof digits, "%.4s", name);
    link **p = &bucket[strtoul(digits, NULL, 16) % BUCKETS];
    while (*p && strcmp((*p)->name, name) != 0) p = &(*p)->chain;
    return p;
}

static void drop_oldest(void)
{
    link *l = oldest, **slot = find(l->name);
    oldest = l->younger;
    if (!oldest) newest = &oldest;
    *slot = l->chain;
    total -= l->len;
    unref(l);
}

static void expire(double now, size_t max)
{
    while (oldest && (oldest->expires <= now || total > max)) drop_oldest();
}

void links_expire(an_server *s)
{
    pthread_mutex_lock(&lock);
    expire(an_now_s(), an_server_options(s)->max_url_bytes);
    pthread_mutex_unlock(&lock);
}

void links_clear(void)
{
    pthread_mutex_lock(&lock);
    while (oldest) drop_oldest();
    pthread_mutex_unlock(&lock);
}

static void put_url(const an_req *r, const char *name, char *url, size_t size)
{
    const an_options *o = an_server_options(r->server);
    size_t n = strlen(o->public_url);
    while (n && o->public_url[n - 1] == '/') n--;
    bool colon = strchr(o->host, ':') != NULL;
    if (n)
        snprintf(url, size, "%.*s/v1/files/%s", (int)n, o->public_url, name);
    else if (*r->host)
        snprintf(url, size, "%s://%s/v1/files/%s", r->scheme, r->host, name);
    else
        snprintf(url, size, "%s://%s%s%s:%d/v1/files/%s", r->scheme, colon ? "[" : "", o->host,
                 colon ? "]" : "", an_server_port(r->server), name);
}

an_status link_add(an_req *r, an_buf *bytes, an_image_format format, char *url, size_t size,
                   an_error *err)
{
    const an_options *o = an_server_options(r->server);
    uint64_t id[2];
    if (bytes->len > o->max_url_bytes)
        return an_fail(err, AN_NO_MEMORY, "the picture has %zu bytes, links hold %zu in all",
                       bytes->len, o->max_url_bytes);
    link *l = calloc(1, sizeof *l);
    if (!l || getrandom(id, sizeof id, 0) != sizeof id) {
        free(l);
        return an_fail(err, AN_NO_MEMORY, "out of memory");
    }
    snprintf(l->name, sizeof l->name, "%016llx%016llx.%s", (unsigned long long)id[0],
             (unsigned long long)id[1], an_image_format_name(format));
    l->format = format;
    l->len = bytes->len;
    l->data = an_buf_take(bytes);
    char *exact = realloc(l->data, l->len ? l->len : 1); /* the buffer grew by doubling */
    if (exact) l->data = exact;
    l->expires = an_now_s() + o->url_ttl_s;
    atomic_init(&l->refs, 1);
    put_url(r, l->name, url, size);
    pthread_mutex_lock(&lock);
    *find(l->name) = l;
    *newest = l;
    newest = &l->younger;
    total += l->len;
    expire(an_now_s(), o->max_url_bytes);
    pthread_mutex_unlock(&lock);
    return AN_OK;
}

static void file(an_req *r)
{
    an_error err = {0};
    double now = an_now_s();
    pthread_mutex_lock(&lock);
    link *l = *find(r->rest);
    if (l && l->expires <= now) l = NULL;
    if (l) atomic_fetch_add(&l->refs, 1);
    pthread_mutex_unlock(&lock);
    if (l) {
        char keep[64]; /* a browser's copy lives no longer than the link */
        snprintf(keep, sizeof keep, "private, max-age=%d",
                 (int)(l->expires - now < MAX_AGE ? l->expires - now : MAX_AGE));
        reply_header(r, "Cache-Control", keep);
        reply_shared(r, 200, an_image_mime(l->format), l->data, l->len, unref, l);
        return;
    }
    an_fail(&err, AN_NOT_FOUND, "no such picture: links live %g s",
            an_server_options(r->server)->url_ttl_s);
    reply_error(r, &err);
}

/* A link is its own key: <img src> sends none. */
const an_route link_routes[] = {{"GET", "/v1/files/*", file, true}, {NULL, NULL, NULL, false}};
