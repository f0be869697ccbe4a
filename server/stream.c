/* stream.c: server-sent events. A stream has a buffer; encoder threads fill it from the job's
 * events (the pump), libmicrohttpd empties it, and the connection is suspended while it is empty. A
 * slow reader stops the pump at HIGH_WATER, so that it costs bounded memory and the job never
 * waits. */
#include "server_private.h"

#include <stdlib.h>

#define HIGH_WATER ((size_t)256 << 10)
#define MAX_BUFFER ((size_t)256 << 20) /* one event may hold a whole picture */
#define BLOCK      32768

struct an_stream {
    an_req *r;
    an_job *job;
    an_sse_format format;
    int job_watch;
    _Atomic int refs; /* the connection, and a pump under way */
    uint64_t cursor;  /* the pump's */
    pthread_mutex_t lock;
    /* under the lock */
    an_buf out;
    size_t sent;
    bool suspended, ended, closed;
    bool pumping, again, full;
    double last_write;
};

static void stream_unref(an_stream *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1) return;
    an_job_unref(s->job);
    an_buf_free(&s->out);
    pthread_mutex_destroy(&s->lock);
    req_free(s->r);
    free(s);
}

/* Lock held. */
static void wake(an_stream *s)
{
    if (!s->suspended) return;
    s->suspended = false;
    MHD_resume_connection(s->r->p->connection);
}

/* ---------------------------------------------------------------- pump */

/* One event into the buffer; false when there is none, or no room for more now. */
static bool pump_one(an_stream *s)
{
    an_event ev;
    an_buf text;
    pthread_mutex_lock(&s->lock);
    s->full = s->out.len - s->sent > HIGH_WATER;
    bool stop = s->full || s->closed;
    pthread_mutex_unlock(&s->lock);
    if (stop) return false;
    bool last = an_job_finished(s->job); /* asked before: no event can come after that */
    if (!an_job_next_event(s->job, &s->cursor, &ev)) {
        if (!last) return false;
        pthread_mutex_lock(&s->lock);
        s->ended = true;
        wake(s);
        pthread_mutex_unlock(&s->lock);
        return false;
    }
    an_buf_init(&text, MAX_BUFFER);
    s->format.event(s->r, s->job, &ev, &text);
    free(ev.preview);
    pthread_mutex_lock(&s->lock);
    if (text.failed || !an_buf_add(&s->out, text.data, text.len)) s->closed = true;
    s->last_write = an_now_s();
    if (text.len || s->closed) wake(s);
    pthread_mutex_unlock(&s->lock);
    an_buf_free(&text);
    return true;
}

static void pump(void *arg)
{
    an_stream *s = arg;
    for (bool more = true; more;) {
        while (pump_one(s)) {
        }
        pthread_mutex_lock(&s->lock);
        more = s->again;
        s->again = false;
        s->pumping = more;
        pthread_mutex_unlock(&s->lock);
    }
    stream_unref(s);
}

/* Lock held: there may be work for the pump. One pump a stream at a time. */
static void kick(an_stream *s)
{
    if (s->pumping) {
        s->again = true;
        return;
    }
    atomic_fetch_add(&s->refs, 1);
    s->pumping = workers_submit(s->r->server->workers, pump, s);
    if (!s->pumping) {
        s->closed = true;
        wake(s);
        atomic_fetch_sub(&s->refs, 1);
    }
}

static void on_job_event(void *arg)
{
    an_stream *s = arg;
    pthread_mutex_lock(&s->lock);
    kick(s);
    pthread_mutex_unlock(&s->lock);
}

/* ---------------------------------------------------------------- the connection's side */

static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
    an_stream *s = cls;
    (void)pos;
    pthread_mutex_lock(&s->lock);
    size_t n = s->out.len - s->sent;
    ssize_t got = 0;
    if (s->closed) {
        got = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (n) {
        n = n < max ? n : max;
        memcpy(buf, s->out.data + s->sent, n);
        s->sent += n;
        if (s->sent == s->out.len) { /* idle streams keep no memory */
            an_buf_free(&s->out);
            s->sent = 0;
        }
        if (s->full) kick(s);
        got = (ssize_t)n;
        atomic_fetch_add(&s->r->server->bytes_out, n);
    } else if (s->ended) {
        got = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        s->suspended = true;
        MHD_suspend_connection(s->r->p->connection);
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

static void on_hangup(void *arg)
{
    an_stream *s = arg;
    if (s->format.cancel_on_hangup) an_job_cancel(s->job);
    pthread_mutex_lock(&s->lock);
    s->closed = true;
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

static void on_tick(void *arg)
{
    an_stream *s = arg;
    double now = an_now_s();
    pthread_mutex_lock(&s->lock);
    if (!s->ended && !s->closed && s->suspended && !s->out.len &&
        now - s->last_write >= s->r->server->options.keepalive_s) {
        an_buf_str(&s->out, ": keep-alive\n\n");
        s->last_write = now;
        wake(s);
    }
    pthread_mutex_unlock(&s->lock);
}

void stream_detach(an_stream *s)
{
    atomic_fetch_sub(&s->r->server->streams, 1);
    an_job_unwatch(s->job, s->job_watch);
    pthread_mutex_lock(&s->lock);
    s->closed = true;
    s->suspended = false;
    pthread_mutex_unlock(&s->lock);
    stream_unref(s);
}

void reply_sse(an_req *r, an_job *job, const an_sse_format *f)
{
    an_error err = {0};
    an_server *server = r->server;
    an_stream *s = NULL;
    struct MHD_Response *m = NULL;
    if (atomic_fetch_add(&server->streams, 1) >= server->options.max_sse) {
        an_fail(&err, AN_BUSY, "%d event streams are open, the limit", server->options.max_sse);
    } else {
        s = calloc(1, sizeof *s);
        m = s ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, s, NULL)
              : NULL;
        if (!m) an_fail(&err, AN_NO_MEMORY, "out of memory");
    }
    if (!m) {
        free(s);
        atomic_fetch_sub(&server->streams, 1);
        if (f->cancel_on_hangup) an_job_cancel(job);
        an_job_unref(job);
        reply_error(r, &err);
        return;
    }
    *s = (an_stream){.r = r, .job = job, .format = *f, .last_write = an_now_s()};
    atomic_store(&s->refs, 1);
    pthread_mutex_init(&s->lock, NULL);
    an_buf_init(&s->out, MAX_BUFFER);
    r->p->stream = s;
    reply_header(r, "Cache-Control", "no-cache");
    reply_header(r, "X-Accel-Buffering", "no"); /* proxies must not hold events back */
    MHD_add_response_header(m, "Content-Type", "text/event-stream; charset=utf-8");
    reply_response(r, 200, m);
    r->p->hangup_watch =
        watch_add(server->watch, connection_fd(r->p->connection), on_hangup, on_tick, s);
    s->job_watch = an_job_watch(job, on_job_event, s);
    on_job_event(s);
}

void sse_message(an_buf *out, const char *name, json_t *data)
{
    char *text = data ? json_dumps(data, JSON_COMPACT) : NULL;
    json_decref(data);
    if (!text) {
        out->failed = true;
        return;
    }
    if (name) an_buf_printf(out, "event: %s\n", name);
    an_buf_str(out, "data: ");
    an_buf_str(out, text);
    an_buf_str(out, "\n\n");
    free(text);
}
