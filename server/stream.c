/* stream.c: server-sent events. A stream has a buffer; encoder threads fill it from the job's
 * events (the pump), libmicrohttpd empties it, and the connection is suspended while it is empty. A
 * slow reader stops the pump at HIGH_WATER, and all slow readers together at --max-held-bytes, so
 * that they cost bounded memory and the job never waits. */
#include "server_private.h"

#include <stdlib.h>

#define HIGH_WATER ((size_t)256 << 10)
#define MAX_BUFFER ((size_t)1 << 30) /* one event may hold all pictures of a job */
#define BLOCK      8192
#define TURN       16 /* events, then others' tasks are done first: an event can be a picture */

/* Every event of a job wakes all that listen to it: a stream may listen to many jobs, all together
 * to as many as one at its fullest and this many for each of --max-sse. */
#define FULLEST     128
#define JOBS_A_SEAT 16

typedef struct source {
    an_job *job;
    int watch;
    uint64_t cursor; /* the pump's */
    bool dry;        /* its last event is out; the pump's */
} source;

struct an_stream {
    an_req *r;
    source *sources;
    int n_sources, next; /* next: whose turn it is; the pump's */
    an_sse_format format;
    _Atomic int refs; /* the connection, and a pump under way */
    pthread_mutex_t lock;
    /* under the lock */
    an_buf out;
    size_t sent;
    bool suspended, ended, closed;
    bool pumping, again;
    bool due;  /* for format.tick */
    bool full; /* the pump stopped for want of room: the reader or the clock starts it again */
    double last_write;
};

static void stream_unref(an_stream *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1) return;
    server_release(s->r->server, s->out.len);
    for (int i = 0; i < s->n_sources; i++) an_job_unref(s->sources[i].job);
    free(s->sources);
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
    server_wake(s->r->server, s->r->p->connection);
}

/* Lock held. */
static void append(an_stream *s, const char *text, size_t len)
{
    if (!len) return;
    if (an_buf_add(&s->out, text, len))
        atomic_fetch_add(&s->r->server->held, len);
    else
        s->closed = true;
    s->last_write = an_now_s();
}

/* ---------------------------------------------------------------- pump */

/* The next event of any job, each in its turn. False if there is none now; *all when there will be
 * none any more. */
static bool next_event(an_stream *s, an_event *ev, an_job **job, bool *all)
{
    int dry = 0;
    for (int i = 0; i < s->n_sources; i++) {
        source *from = &s->sources[s->next];
        s->next = (s->next + 1) % s->n_sources;
        bool last = an_job_finished(from->job); /* asked before: no event can come after that */
        if (!from->dry && an_job_next_event(from->job, &from->cursor, ev)) {
            *job = from->job;
            return true;
        }
        from->dry |= last;
        dry += from->dry;
    }
    *all = dry == s->n_sources;
    return false;
}

/* One event into the buffer; false when there is none, or no room for more now. */
static bool pump_one(an_stream *s)
{
    an_event ev;
    an_buf text;
    an_job *job;
    bool all = false;
    an_server *server = s->r->server;
    pthread_mutex_lock(&s->lock);
    s->full = s->out.len - s->sent > HIGH_WATER || server_crowded(server);
    bool stop = s->full || s->closed || s->ended, due = s->due && !stop;
    if (due) s->due = false;
    pthread_mutex_unlock(&s->lock);
    if (stop) return false;
    an_buf_init(&text, MAX_BUFFER);
    if (due) s->format.tick(s->r, &text);
    bool more = next_event(s, &ev, &job, &all);
    if (more) {
        s->format.event(s->r, job, &ev, &text);
        free(ev.preview);
    } else if (all && s->format.end) {
        s->format.end(s->r, &text);
    }
    pthread_mutex_lock(&s->lock);
    append(s, text.data, text.len);
    if (text.failed) s->closed = true;
    s->ended = all;
    if (text.len || s->closed || s->ended) wake(s);
    pthread_mutex_unlock(&s->lock);
    an_buf_free(&text);
    return more;
}

static void pump(void *arg)
{
    an_stream *s = arg;
    int done = 0;
    for (bool more = true; more;) {
        while (pump_one(s))
            if (++done >= TURN && workers_submit(s->r->server->workers, pump, s))
                return; /* still the stream's only pump, with the same reference */
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
    if (s->closed || s->ended) return;
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

/* Lock held. What is sent is kept no longer than it is the smaller part: a reader that is slow but
 * steady never empties the buffer, and would end up with the whole stream in it. */
static void drop_sent(an_stream *s)
{
    const size_t left = s->out.len - s->sent;
    if (left && (s->sent < HIGH_WATER || s->sent < left)) return;
    server_release(s->r->server, s->sent);
    an_buf_drop(&s->out, s->sent); /* idle streams keep no memory */
    s->sent = 0;
}

/* Lock held. */
static size_t take(an_stream *s, char *buf, size_t max)
{
    an_server *server = s->r->server;
    size_t n = s->out.len - s->sent;
    n = n < max ? n : max;
    memcpy(buf, s->out.data + s->sent, n);
    s->sent += n;
    drop_sent(s);
    atomic_fetch_add(&server->bytes_out, n);
    s->r->p->bytes_out += n;
    if (s->full) kick(s);
    return n;
}

static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
    an_stream *s = cls;
    ssize_t got = 0;
    (void)pos;
    pthread_mutex_lock(&s->lock);
    if (s->closed) {
        got = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (s->out.len > s->sent) {
        got = (ssize_t)take(s, buf, max);
    } else if (s->ended) {
        got = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (!server_sleep(s->r->server)) {
        got = MHD_CONTENT_READER_END_WITH_ERROR; /* cut off: it must not look whole */
    } else {
        s->suspended = true;
        MHD_suspend_connection(s->r->p->connection);
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

static void cancel_jobs(an_stream *s)
{
    for (int i = 0; i < s->n_sources; i++) an_job_cancel(s->sources[i].job);
}

static void on_hangup(void *arg)
{
    an_stream *s = arg;
    if (s->format.own) cancel_jobs(s);
    pthread_mutex_lock(&s->lock);
    s->closed = true;
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

static void on_tick(void *arg)
{
    static const char comment[] = ": keep-alive\n\n";
    an_stream *s = arg;
    an_server *server = s->r->server;
    pthread_mutex_lock(&s->lock);
    /* nothing is left to read of it, and others' memory did not come free in time */
    if (s->full && s->suspended && server_crowded(server) && atomic_load(&server->sleepless)) {
        s->closed = true;
        wake(s);
    }
    s->due = s->format.tick != NULL;
    if (s->full || s->due) kick(s);
    if (!s->ended && !s->closed && s->suspended && !s->out.len &&
        an_now_s() - s->last_write >= server->options.keepalive_s) {
        append(s, comment, sizeof comment - 1);
        wake(s);
    }
    pthread_mutex_unlock(&s->lock);
}

static void give_seat(an_server *server, int n)
{
    atomic_fetch_sub(&server->streams, 1);
    atomic_fetch_sub(&server->listened, n);
}

/* Counts a stream that listens to n jobs; false, and nothing counted, where that is too much. */
static bool take_seat(an_server *server, int n, an_error *err)
{
    int seats = server->options.max_sse;
    int64_t most = FULLEST + (int64_t)JOBS_A_SEAT * seats;
    bool room = atomic_fetch_add(&server->streams, 1) < seats;
    bool few = atomic_fetch_add(&server->listened, n) + n <= most;
    if (room && few) return true;
    give_seat(server, n);
    if (room)
        an_fail(err, AN_BUSY, "event streams may listen to %lld jobs in all (--max-sse %d)",
                (long long)most, seats);
    else
        an_fail(err, AN_BUSY, "%d event streams are open, the limit", seats);
    return false;
}

void stream_detach(an_stream *s)
{
    give_seat(s->r->server, s->n_sources);
    for (int i = 0; i < s->n_sources; i++) an_job_unwatch(s->sources[i].job, s->sources[i].watch);
    pthread_mutex_lock(&s->lock);
    bool early = !s->ended;
    s->closed = true;
    s->suspended = false;
    pthread_mutex_unlock(&s->lock);
    /* libmicrohttpd may notice a hang-up before the watcher does */
    if (early && s->format.own) cancel_jobs(s);
    stream_unref(s);
}

int stream_jobs(const an_stream *s)
{
    return s->format.own ? s->n_sources : 0;
}

an_job *stream_job(const an_stream *s, int i)
{
    return s->sources[i].job;
}

static an_stream *stream_new(an_req *r, an_job *const *jobs, int n, const an_sse_format *f)
{
    an_stream *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->sources = calloc((size_t)n, sizeof *s->sources);
    if (s->sources)
        r->p->response =
            MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, s, NULL);
    if (!s->sources || !r->p->response) {
        free(s->sources);
        free(s);
        return NULL;
    }
    for (int i = 0; i < n; i++) s->sources[i].job = jobs[i];
    s->n_sources = n;
    r->p->status = 200;
    MHD_add_response_header(r->p->response, "Content-Type", "text/event-stream; charset=utf-8");
    reply_header(r, "Cache-Control", "no-cache");
    reply_header(r, "X-Accel-Buffering", "no"); /* proxies must not hold events back */
    s->r = r;
    s->format = *f;
    s->last_write = an_now_s();
    atomic_store(&s->refs, 1);
    pthread_mutex_init(&s->lock, NULL);
    an_buf_init(&s->out, MAX_BUFFER);
    return s;
}

void reply_sse_all(an_req *r, an_job *const *jobs, int n, const an_sse_format *f)
{
    an_error err = {0};
    an_server *server = r->server;
    an_stream *s = NULL;
    if (take_seat(server, n, &err) && !(s = stream_new(r, jobs, n, f))) {
        give_seat(server, n);
        an_fail(&err, AN_NO_MEMORY, "out of memory");
    }
    for (int i = 0; i < n; i++) {
        if (f->own) an_job_forget(jobs[i]);
        if (s) continue;
        if (f->own) an_job_cancel(jobs[i]);
        an_job_unref(jobs[i]);
    }
    if (!s) {
        reply_error(r, &err);
        return;
    }
    r->p->stream = s;
    r->p->hangup_watch =
        watch_add(server->watch, connection_fd(r->p->connection), on_hangup, on_tick, s);
    bool watched = true;
    for (int i = 0; i < n; i++) {
        s->sources[i].watch = an_job_watch(jobs[i], on_job_event, s);
        watched &= s->sources[i].watch >= 0;
    }
    on_job_event(s);
    if (!watched) on_hangup(s); /* no memory: nobody would tell of their events */
}

void reply_sse(an_req *r, an_job *job, const an_sse_format *f)
{
    reply_sse_all(r, &job, 1, f);
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
