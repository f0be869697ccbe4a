/* stream.cc: queues of work. An op runs when somebody waits for it, as late as CUDA allows; that is
 * the order which shows what a missing wait does. */
#include <stdlib.h>
#include <string.h>
#include "runtime.h"

namespace simt
{

enum { STREAM_MAGIC = 0x53545245, QUEUE_MOST = 4096 };

static CUstream_st default_stream = {STREAM_MAGIC, 0,      true, nullptr, nullptr, 0, 0,
                                     nullptr,      nullptr};
static CUstream_st *streams = &default_stream;

cudaStream_t stream_or_default(cudaStream_t s)
{
    return s ? s : &default_stream;
}
cudaStream_t stream_first(void)
{
    return streams;
}
uint64_t stream_newest(cudaStream_t s)
{
    return s->newest;
}

Op *new_op(OpKind kind, size_t extra)
{
    Op *op = (Op *)calloc(1, sizeof *op + extra);
    if (op) op->kind = kind;
    return op;
}

/* ---------------------------------------------------------------- running */

static void run_copy(const Op *op)
{
    for (size_t y = 0; y < op->height; y++)
        memmove((char *)op->dst + y * op->dst_pitch, (const char *)op->src + y * op->src_pitch,
                op->width);
}

/* Once a kernel has failed, nothing runs any more; what is owned is given back all the same. */
void run_op(Op *op)
{
    Device *d = &devices[op->device];
    if (d->sticky != cudaSuccess && op->kind != OP_RECORD && op->kind != OP_FREE) return;
    memory_open();
    switch (op->kind) {
    case OP_LAUNCH:
        if (options.fail && (options.fail_on < 0 || options.fail_on == op->device) &&
            --options.fail == 0) {
            d->sticky = cudaErrorECCUncorrectable;
            break;
        }
        if (!run_grid(&op->launch, op + 1, d->text, sizeof d->text))
            d->sticky = cudaErrorLaunchFailure;
        break;
    case OP_COPY:
        if (options.dry && memory_is_device(op->dst, 1)) break; /* its pages stay untouched */
        run_copy(op);
        break;
    case OP_SET:
        if (!options.dry) memset(op->dst, op->value, op->width);
        break;
    case OP_FREE:
        memory_release(op->dst);
        break;
    case OP_RECORD:
        event_ran(op->event, op->until);
        break;
    case OP_WAIT:
        run_stream(op->other, op->until);
        break;
    }
    memory_close();
}

cudaError_t run_stream(cudaStream_t s, uint64_t until)
{
    while (s->first && s->first->number <= until) {
        Op *op = s->first;
        s->first = op->next;
        if (!s->first) s->last = nullptr;
        s->queued--;
        run_op(op);
        free(op);
    }
    return devices[s->device].sticky;
}

void run_all_streams(void)
{
    for (CUstream_st *s = streams; s; s = s->next) run_stream(s, s->newest);
}

/* The default stream and the blocking ones wait for each other at every op. */
static void order_with_default(cudaStream_t s)
{
    if (s != &default_stream) {
        if (s->blocking) run_stream(&default_stream, default_stream.newest);
        return;
    }
    for (CUstream_st *o = streams; o; o = o->next)
        if (o->blocking && o != s) run_stream(o, o->newest);
}

cudaError_t enqueue(cudaStream_t s, Op *op)
{
    s = stream_or_default(s);
    if (s->magic != STREAM_MAGIC) {
        free(op);
        return cudaErrorInvalidResourceHandle;
    }
    op->device = s->device;
    if (s->capture) return graph_add(s->capture, op);
    order_with_default(s);
    op->next = nullptr;
    op->number = ++s->newest;
    *(s->last ? &s->last->next : &s->first) = op;
    s->last = op;
    /* A GPU's queue is not endless either. */
    if (++s->queued > QUEUE_MOST) run_stream(s, s->newest - QUEUE_MOST / 2);
    if (options.now) run_stream(s, s->newest);
    return devices[s->device].sticky;
}

} // namespace simt

using namespace simt;

extern "C" {

/* ---------------------------------------------------------------- streams */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned int flags)
{
    Locked lock;
    if (!s || flags > cudaStreamNonBlocking) return note(cudaErrorInvalidValue);
    CUstream_st *made = (CUstream_st *)calloc(1, sizeof *made);
    if (!made) return note(cudaErrorMemoryAllocation);
    made->magic = STREAM_MAGIC;
    made->device = current;
    made->blocking = flags == cudaStreamDefault;
    made->next = default_stream.next;
    default_stream.next = made;
    *s = made;
    return note(cudaSuccess);
}

cudaError_t cudaStreamCreate(cudaStream_t *s)
{
    return cudaStreamCreateWithFlags(s, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned int flags, int)
{
    return cudaStreamCreateWithFlags(s, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return cudaSuccess;
}

static bool known(cudaStream_t s)
{
    for (const CUstream_st *o = streams; o; o = o->next)
        if (o == s) return true;
    return false;
}

/* CUDA finishes the stream's work first, without making the host wait; here it is done at once. */
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    Locked lock;
    if (!known(s) || s == &default_stream) return note(cudaErrorInvalidResourceHandle);
    run_stream(s, s->newest);
    for (CUstream_st *o = streams; o; o = o->next)
        if (o->next == s) o->next = s->next;
    s->magic = 0;
    free(s);
    return note(cudaSuccess);
}

/* Op by op, so that other threads get on with their streams meanwhile. */
cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    s = stream_or_default(s);
    for (uint64_t until = UINT64_MAX;;) {
        Locked lock;
        if (!known(s)) return note(cudaErrorInvalidResourceHandle);
        if (capture_waits(s) || (until == UINT64_MAX && capture_allows()))
            return note(cudaErrorStreamCaptureUnsupported);
        if (until == UINT64_MAX) until = s->newest;
        if (!s->first || s->first->number > until) return note(devices[s->device].sticky);
        run_stream(s, s->first->number);
    }
}

/* Each question lets one op pass, so that who polls gets on, but sees "not ready" as well. */
cudaError_t cudaStreamQuery(cudaStream_t s)
{
    Locked lock;
    s = stream_or_default(s);
    if (!known(s)) return note(cudaErrorInvalidResourceHandle);
    if (capture_waits(s) || capture_allows()) return note(cudaErrorStreamCaptureUnsupported);
    if (s->first) run_stream(s, s->first->number);
    if (devices[s->device].sticky) return note(devices[s->device].sticky);
    return s->first ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    Locked lock;
    bool captured = false;
    for (CUstream_st *s = streams; s; s = s->next) captured |= capture_waits(s);
    if (captured) return note(cudaErrorStreamCaptureUnsupported);
    run_all_streams();
    return note(sticky());
}

/* ---------------------------------------------------------------- copies and fills */

/* A copy between device and host memory that is not pinned is done before the call returns: CUDA
 * takes from (or puts into) the caller's memory itself. */
static bool pageable(const void *p, size_t bytes)
{
    return !memory_is_device(p, bytes) && !memory_is_pinned(p, bytes);
}

static cudaError_t check_copy(const void *dst, const void *src, size_t span_dst, size_t span_src,
                              enum cudaMemcpyKind kind)
{
    const bool to = memory_is_device(dst, 1), from = memory_is_device(src, 1);
    if ((kind == cudaMemcpyHostToDevice && (!to || from)) ||
        (kind == cudaMemcpyDeviceToHost && (to || !from)) ||
        (kind == cudaMemcpyDeviceToDevice && (!to || !from)) ||
        (kind == cudaMemcpyHostToHost && (to || from)))
        return cudaErrorInvalidMemcpyDirection;
    if ((to && !memory_holds(dst, span_dst)) || (from && !memory_holds(src, span_src)))
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind, cudaStream_t s)
{
    Locked lock;
    if (width == 0 || height == 0) return note(cudaSuccess);
    if (height > 1 && (width > dst_pitch || width > src_pitch)) return note(cudaErrorInvalidValue);
    const size_t span_dst = (height - 1) * dst_pitch + width;
    const size_t span_src = (height - 1) * src_pitch + width;
    const cudaError_t e = check_copy(dst, src, span_dst, span_src, kind);
    if (e != cudaSuccess) return note(e);
    const bool at_once = pageable(dst, span_dst) || pageable(src, span_src);
    if (at_once && capture_waits(stream_or_default(s)))
        return note(cudaErrorStreamCaptureUnsupported);
    Op *op = new_op(OP_COPY, 0);
    if (!op) return note(cudaErrorMemoryAllocation);
    op->dst = dst;
    op->src = src;
    op->dst_pitch = dst_pitch;
    op->src_pitch = src_pitch;
    op->width = width;
    op->height = height;
    cudaError_t done = enqueue(s, op);
    if (at_once && !done) done = run_stream(stream_or_default(s), stream_or_default(s)->newest);
    return note(done);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s)
{
    return cudaMemcpy2DAsync(dst, bytes, src, bytes, bytes, 1, kind, s);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
    Locked lock;
    cudaError_t e = capture_allows();
    if (e) return note(e);
    e = cudaMemcpyAsync(dst, src, bytes, kind, nullptr);
    return e ? e : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    Locked lock;
    if (bytes == 0) return note(cudaSuccess);
    if (!memory_holds(p, bytes)) return note(cudaErrorInvalidValue);
    Op *op = new_op(OP_SET, 0);
    if (!op) return note(cudaErrorMemoryAllocation);
    op->dst = p;
    op->value = value;
    op->width = bytes;
    return note(enqueue(s, op));
}

cudaError_t cudaMemset(void *p, int value, size_t bytes)
{
    Locked lock;
    const cudaError_t e = capture_allows();
    return e ? note(e) : cudaMemsetAsync(p, value, bytes, nullptr);
}

} // extern "C"
