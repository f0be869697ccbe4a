/* links.c: pictures behind links (response_format "url"): encoded bytes under a name that cannot be
 * guessed, kept --url-ttl seconds and --max-url-bytes in all, the oldest given up first. */
#include "image_ask.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

typedef struct link {
    char name[48];
    an_image_format format;
    char *data;
    size_t len;
    double expires; /* monotonic */
    struct link *next;
} link;

/* One table a process: a link belongs to whoever knows its name. Oldest first. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static link *oldest, **newest = &oldest;
static size_t total;

static void drop_oldest(void)
{
    link *l = oldest;
    oldest = l->next;
    if (!oldest) newest = &oldest;
    total -= l->len;
    free(l->data);
    free(l);
}

static void expire(double now, size_t max)
{
    while (oldest && (oldest->expires <= now || total > max)) drop_oldest();
}

void links_clear(void)
{
    pthread_mutex_lock(&lock);
    while (oldest) drop_oldest();
    pthread_mutex_unlock(&lock);
}

an_status link_add(an_req *r, an_buf *bytes, an_image_format format, char *url, size_t size,
                   an_error *err)
{
    const an_options *o = an_server_options(r->server);
    uint64_t id[2];
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
    l->expires = an_now_s() + o->url_ttl_s;
    if (*o->public_url) {
        snprintf(url, size, "%s/v1/files/%s", o->public_url, l->name);
    } else {
        const char *host = request_header(r, "Host");
        char own[300];
        snprintf(own, sizeof own, "%s:%d", o->host, an_server_port(r->server));
        bool clean = host && strlen(host) < 256 && !strpbrk(host, "\"<>\\ /");
        snprintf(url, size, "http://%s/v1/files/%s", clean ? host : own, l->name);
    }
    pthread_mutex_lock(&lock);
    *newest = l;
    newest = &l->next;
    total += l->len;
    expire(an_now_s(), o->max_url_bytes);
    pthread_mutex_unlock(&lock);
    return AN_OK;
}

static void file(an_req *r)
{
    an_error err = {0};
    char *copy = NULL;
    size_t len = 0;
    an_image_format format = AN_PNG;
    pthread_mutex_lock(&lock);
    expire(an_now_s(), an_server_options(r->server)->max_url_bytes);
    for (link *l = oldest; l && !copy; l = l->next) {
        if (strcmp(l->name, r->rest) != 0) continue;
        copy = malloc(l->len ? l->len : 1);
        if (!copy) break;
        memcpy(copy, l->data, l->len);
        len = l->len;
        format = l->format;
    }
    pthread_mutex_unlock(&lock);
    if (copy) {
        reply_header(r, "Cache-Control", "private, max-age=600");
        reply_bytes(r, 200, an_image_mime(format), copy, len);
        return;
    }
    an_fail(&err, AN_NOT_FOUND, "no such picture: links live %g s",
            an_server_options(r->server)->url_ttl_s);
    reply_error(r, &err);
}

/* A link is its own key: <img src> sends none. */
const an_route link_routes[] = {{"GET", "/v1/files/*", file, true}, {NULL, NULL, NULL, false}};
