/* event.cc: marks in a stream. */
#include <stdlib.h>
#include <time.h>
#include "runtime.h"

/* Freed when destroyed and no queued op speaks of it any more. It may outlive its stream, whose
 * work is then done. */
struct CUevent_st {
    cudaStream_t stream;    /* of the newest record; looked at only while that is not done */
    uint64_t number;        /* of that record in it */
    uint64_t recorded, ran; /* records asked for, and the newest of them that was carried out */
    struct timespec time;
    bool timing, destroyed;
    uint32_t queued;
};

using namespace simt;

static void drop(cudaEvent_t e)
{
    if (e->destroyed && e->queued == 0) free(e);
}

void simt::event_ran(cudaEvent_t e, uint64_t record)
{
    if (record > e->ran) e->ran = record;
    clock_gettime(CLOCK_MONOTONIC, &e->time);
    e->queued--;
    drop(e);
}

static bool done(cudaEvent_t e)
{
    return e->ran >= e->recorded;
}

extern "C" {

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned int flags)
{
    if (!e) return note(cudaErrorInvalidValue);
    *e = (CUevent_st *)calloc(1, sizeof **e);
    if (!*e) return note(cudaErrorMemoryAllocation);
    (*e)->timing = !(flags & cudaEventDisableTiming);
    return note(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    return cudaEventCreateWithFlags(e, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    Locked lock;
    if (!e) return note(cudaErrorInvalidResourceHandle);
    e->destroyed = true;
    drop(e);
    return note(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    Locked lock;
    if (!e) return note(cudaErrorInvalidResourceHandle);
    if (capture_waits(stream_or_default(s))) return note(cudaErrorStreamCaptureUnsupported);
    Op *op = new_op(OP_RECORD, 0);
    if (!op) return note(cudaErrorMemoryAllocation);
    op->event = e;
    e->queued++;
    s = stream_or_default(s);
    e->stream = s;
    e->number = stream_newest(s) + 1;
    op->until = ++e->recorded;
    return note(enqueue(s, op));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned int)
{
    Locked lock;
    if (!e) return note(cudaErrorInvalidResourceHandle);
    if (capture_waits(stream_or_default(s))) return note(cudaErrorStreamCaptureUnsupported);
    if (done(e) || e->stream == stream_or_default(s)) return note(cudaSuccess);
    Op *op = new_op(OP_WAIT, 0);
    if (!op) return note(cudaErrorMemoryAllocation);
    op->other = e->stream;
    op->until = e->number;
    return note(enqueue(s, op));
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    Locked lock;
    if (!e) return note(cudaErrorInvalidResourceHandle);
    if (capture_allows()) return note(cudaErrorStreamCaptureUnsupported);
    return note(done(e) ? sticky() : run_stream(e->stream, e->number));
}

/* As cudaStreamQuery: each question lets the stream get on a little. */
cudaError_t cudaEventQuery(cudaEvent_t e)
{
    Locked lock;
    if (!e) return note(cudaErrorInvalidResourceHandle);
    if (capture_allows()) return note(cudaErrorStreamCaptureUnsupported);
    if (!done(e)) cudaStreamQuery(e->stream);
    if (sticky()) return note(sticky());
    return done(e) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    Locked lock;
    if (!ms || !from || !to || !from->timing || !to->timing || !from->recorded || !to->recorded)
        return note(cudaErrorInvalidResourceHandle);
    if (!done(from) || !done(to)) return cudaErrorNotReady;
    *ms = (float)((double)(to->time.tv_sec - from->time.tv_sec) * 1e3 +
                  (double)(to->time.tv_nsec - from->time.tv_nsec) * 1e-6);
    return note(cudaSuccess);
}

} // extern "C"
