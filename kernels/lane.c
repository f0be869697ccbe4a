/* lane.c: an ordered stream of work: its scratch arena, its latched error, its counters. */
#include "backend.h"

#include <stdio.h>
#include <stdlib.h>

#define ALIGN 64

/* Lanes that remember are known to their device. */
static void enlist(an_lane *l)
{
    an_device *d = l->device;
    if (!d->backend->repeat) return;
    pthread_mutex_lock(&d->lanes_lock);
    l->next = d->lanes;
    d->lanes = l;
    pthread_mutex_unlock(&d->lanes_lock);
}

static void strike_out(an_lane *l)
{
    an_device *d = l->device;
    if (!d->backend->repeat) return;
    pthread_mutex_lock(&d->lanes_lock);
    an_lane **at = &d->lanes;
    while (*at && *at != l) at = &(*at)->next;
    if (*at) *at = l->next;
    pthread_mutex_unlock(&d->lanes_lock);
}

static an_status lane_new(an_device *d, size_t bytes, bool counting, bool urgent, an_lane **out,
                          an_error *err)
{
    *out = NULL;
    an_lane *l = calloc(1, sizeof *l);
    if (!l) return an_fail(err, AN_NO_MEMORY, "no memory for a lane");
    l->device = d;
    l->counting = counting;
    l->urgent = urgent;
    l->size = counting ? SIZE_MAX / 2 : bytes;
    if (!counting && bytes) {
        void *arena;
        an_status s = an_device_alloc(d, bytes, &arena, err);
        if (s) {
            free(l);
            return an_fail_prefix(err, s, "scratch arena");
        }
        l->arena = arena;
    }
    an_status s = d->backend->lane_open && !counting ? d->backend->lane_open(l, err) : AN_OK;
    if (s) {
        an_device_free(d, l->arena);
        free(l);
        return s;
    }
    if (!counting) enlist(l);
    *out = l;
    return AN_OK;
}

an_status an_lane_open(an_device *d, size_t bytes, an_lane **out, an_error *err)
{
    return lane_new(d, bytes, false, false, out, err);
}

an_status an_lane_open_urgent(an_device *d, size_t bytes, an_lane **out, an_error *err)
{
    return lane_new(d, bytes, false, true, out, err);
}

an_status an_lane_open_counting(an_device *d, an_lane **out, an_error *err)
{
    return lane_new(d, 0, true, false, out, err);
}

an_status an_lane_resize(an_lane *l, size_t bytes, an_error *err)
{
    an_lane_sync(l);
    an_lane_reset(l);
    if (l->device->backend->lane_forget && !l->counting) l->device->backend->lane_forget(l, 0);
    an_device_free(l->device, l->arena);
    l->arena = NULL;
    l->size = 0;
    if (bytes == 0) return AN_OK;
    void *arena;
    an_status s = an_device_alloc(l->device, bytes, &arena, err);
    if (s) return an_fail_prefix(err, s, "scratch arena");
    l->arena = arena;
    l->size = bytes;
    return AN_OK;
}

void an_lane_close(an_lane *l)
{
    if (!l) return;
    if (!l->counting) strike_out(l);
    if (l->device->backend->lane_close && !l->counting) l->device->backend->lane_close(l);
    an_device_free(l->device, l->arena);
    free(l);
}

bool an_lane_counting(const an_lane *l)
{
    return l->counting;
}

an_device *an_lane_device(const an_lane *l)
{
    return l->device;
}

/* Latches what kernels raised; waits for them if asked. */
static void settle(an_lane *l, bool always)
{
    const an_backend *b = l->device->backend;
    if (!b->sync || l->counting) return;
    an_status s = b->sync(l, always);
    if (s) an_lane_fail(l, s, "waiting failed (%s)", an_status_name(s));
}

an_status an_lane_status(an_lane *l, an_error *err)
{
    settle(l, false);
    an_status s = l->error.status;
    if (s && err) *err = l->error;
    l->error = (an_error){.status = AN_OK};
    return s;
}

void an_lane_label(an_lane *l, const char *label)
{
    l->label = label;
}

void an_lane_fail(an_lane *l, an_status s, const char *fmt, ...)
{
    if (l->error.status || s == AN_OK) return;
    va_list ap;
    va_start(ap, fmt);
    char message[sizeof l->error.message];
    vsnprintf(message, sizeof message, fmt, ap);
    va_end(ap);
    if (l->label)
        an_fail(&l->error, s, "%s: %s", l->label, message);
    else
        an_fail(&l->error, s, "%s", message);
}

/* ---------------------------------------------------------------- what ops cost */

static an_op_cost sums_of(const an_lane *l, const char *op)
{
    an_op_cost c = {.op = op, .flops = l->flops, .bytes = l->bytes};
    const an_backend *b = l->device->backend;
    if (b->counts && !l->counting) b->counts(&c.launches, &c.copies);
    return c;
}

void an_lane_watch(an_lane *l, void (*fn)(void *ctx, const an_op_cost *c), void *ctx)
{
    l->watch = fn;
    l->watch_ctx = ctx;
    l->watched = sums_of(l, NULL);
}

void an_lane_tell(an_lane *l, const char *op)
{
    const an_op_cost now = sums_of(l, op), then = l->watched;
    l->watched = now;
    l->watch(l->watch_ctx, &(an_op_cost){op, now.flops - then.flops, now.bytes - then.bytes,
                                         now.launches - then.launches, now.copies - then.copies});
}

/* ---------------------------------------------------------------- scratch */

/* Offset of `bytes` fresh bytes, or SIZE_MAX with the error latched. */
static size_t take(an_lane *l, size_t bytes)
{
    size_t end;
    if (!an_add_size(bytes, ALIGN - 1, &bytes) ||
        !an_add_size(l->used, bytes &= ~(size_t)(ALIGN - 1), &end) || end > l->size) {
        an_lane_fail(l, AN_NO_MEMORY,
                     "the scratch arena of %zu bytes has %zu in use, %zu more do not fit", l->size,
                     l->used, bytes);
        return SIZE_MAX;
    }
    size_t at = l->used;
    l->used = end;
    if (end > l->peak) l->peak = end;
    return at;
}

an_tensor an_lane_alloc(an_lane *l, an_dtype dtype, int ndim, const int64_t *dim)
{
    an_tensor t = {NULL, dtype, ndim, {1, 1, 1, 1, 1}};
    size_t bytes = an_dtype_size(dtype);
    bool ok = bytes && ndim >= 0 && ndim <= AN_MAX_DIMS;
    for (int i = 0; ok && i < ndim; i++) {
        t.dim[i] = dim[i];
        ok = dim[i] >= 0 && an_mul_size(bytes, (size_t)dim[i], &bytes);
    }
    if (!ok || bytes > SIZE_MAX / 4) {
        char shape[128];
        int n = ndim < 0 ? 0 : ndim > AN_MAX_DIMS ? AN_MAX_DIMS : ndim;
        an_lane_fail(l, AN_INTERNAL, "no scratch tensor can have dtype %s and shape %s",
                     an_dtype_name(dtype), an_shape_str(n, dim, shape, sizeof shape));
        t.ndim = 0;
        return t;
    }
    if (l->error.status) return t;
    size_t at = take(l, bytes);
    if (at != SIZE_MAX && l->arena) t.data = l->arena + at;
    return t;
}

void *an_lane_scratch(an_lane *l, size_t bytes)
{
    if (l->error.status) return NULL;
    size_t at = take(l, bytes);
    return at == SIZE_MAX || !l->arena ? NULL : l->arena + at;
}

size_t an_lane_mark(const an_lane *l)
{
    return l->used;
}

void an_lane_release(an_lane *l, size_t mark)
{
    if (mark <= l->used) l->used = mark;
    while (l->kepts && l->kept[l->kepts - 1].mark >= mark) l->kepts--;
}

size_t an_lane_peak(const an_lane *l)
{
    return l->peak;
}

double an_lane_flops(const an_lane *l)
{
    return l->flops;
}

void an_lane_reset(an_lane *l)
{
    settle(l, false);
    l->used = l->peak = 0;
    l->flops = l->bytes = 0;
    if (l->watch) l->watched = sums_of(l, NULL);
    l->error = (an_error){.status = AN_OK};
    l->label = NULL;
    l->kepts = 0;
}

/* ---------------------------------------------------------------- order and copies */

void an_lane_sync(an_lane *l)
{
    settle(l, true); /* on the CPU an op is done when its call returns */
}

/* A copy that is to be done: the lane computes, nothing failed, both ends are there. */
static bool copying(an_lane *l, const void *dst, const void *src, size_t bytes)
{
    if (l->error.status || l->counting || bytes == 0) return false;
    if (dst && src) return true;
    an_lane_fail(l, AN_INTERNAL, "copy of %zu bytes %s NULL", bytes, dst ? "from" : "to");
    return false;
}

/* `by` is the backend's, NULL where memory is the host's. */
static void copy(an_lane *l, an_status (*by)(an_lane *, void *, const void *, size_t), void *dst,
                 const void *src, size_t bytes, const char *what)
{
    if (!copying(l, dst, src, bytes)) return;
    an_status s = AN_OK;
    if (by)
        s = by(l, dst, src, bytes);
    else
        memcpy(dst, src, bytes);
    if (s) an_lane_fail(l, s, "%s of %zu bytes failed", what, bytes);
}

void an_upload(an_lane *l, void *device_dst, const void *host_src, size_t bytes)
{
    copy(l, l->device->backend->upload, device_dst, host_src, bytes, "upload");
}

void an_download(an_lane *l, void *host_dst, const void *device_src, size_t bytes)
{
    copy(l, l->device->backend->download, host_dst, device_src, bytes, "download");
}

/* ---------------------------------------------------------------- kept host arrays */

const an_kept *an_kept_find(const an_lane *l, int what, const void *host, size_t bytes)
{
    for (int i = 0; i < l->kepts; i++) {
        const an_kept *k = &l->kept[i];
        if (k->what == what && k->host == host && k->bytes == bytes) return k;
    }
    return NULL;
}

void an_kept_add(an_lane *l, const an_kept *k)
{
    if (l->kepts < AN_LANE_KEPT) l->kept[l->kepts++] = *k;
}

void an_lane_keep(an_lane *l, const void *host, size_t bytes)
{
    const an_backend *b = l->device->backend;
    if (!b->keep || l->error.status || bytes == 0) return;
    an_status s = b->keep(l, host, bytes);
    if (s) an_lane_fail(l, s, "keeping %zu bytes on the device failed", bytes);
}

/* ---------------------------------------------------------------- work that repeats */

void an_lane_repeat(an_lane *l, const an_repeat *key, an_ops_fn *ops, void *ctx)
{
    const an_device *d = l->device;
    if (d->backend->repeat && d->repeats && key->owner && !l->counting && !l->error.status)
        d->backend->repeat(l, key, ops, ctx);
    else
        ops(l, ctx);
}

uint64_t an_repeat_owner(void)
{
    static _Atomic uint64_t owners;
    return ++owners;
}

void an_device_forget(an_device *d, uint64_t owner)
{
    if (!d->backend->lane_forget || !owner) return;
    pthread_mutex_lock(&d->lanes_lock);
    for (an_lane *l = d->lanes; l; l = l->next) d->backend->lane_forget(l, owner);
    pthread_mutex_unlock(&d->lanes_lock);
}

an_repeats an_lane_repeats(const an_lane *l)
{
    return l->repeats;
}
