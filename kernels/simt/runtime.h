/* runtime.h: what the files of the emulated runtime API share. All of it is guarded by one lock:
 * calls from several host threads follow each other; who waits for a stream lets others in between
 * two ops. */
#ifndef SIMT_RUNTIME_H
#define SIMT_RUNTIME_H

#include "simt.h"

namespace simt
{

/* Holds the lock of the runtime for the length of a function. Recursive. */
struct Locked {
    Locked();
    ~Locked();
    Locked(const Locked &) = delete;
};

/* ---- runtime.cc: devices and errors. A kernel's failure stays with its device until
 * cudaDeviceReset, as on a GPU. ---- */
enum { DEVICES_MOST = 8 };
struct Device {
    cudaError_t sticky;
    char text[2048]; /* what a cudaErrorLaunchFailure was */
    size_t used;     /* device memory */
};
extern Device devices[DEVICES_MOST];
extern __thread int current; /* this thread's device */
static inline cudaError_t sticky(void)
{
    return devices[current].sticky;
}
/* Notes e as this thread's last error and returns it; a sticky error wins. */
cudaError_t note(cudaError_t e);

/* ---- stream.cc ---- */
enum OpKind { OP_LAUNCH, OP_COPY, OP_SET, OP_FREE, OP_RECORD, OP_WAIT };

struct Op {
    OpKind kind;
    int device; /* its stream's */
    Op *next;
    uint64_t number; /* in its stream, from 1 */
    Launch launch;   /* its arguments behind the Op */
    void *dst;
    const void *src;
    size_t dst_pitch, src_pitch, width, height; /* a plain copy is one row */
    int value;
    cudaEvent_t event;
    cudaStream_t other; /* OP_WAIT: until its work up to `until` is done */
    uint64_t until;     /* OP_RECORD: which record of the event this is */
};

/* Takes ownership of the op: into the stream's queue, or into the graph being captured. */
cudaError_t enqueue(cudaStream_t s, Op *op);
Op *new_op(OpKind kind, size_t extra);
void run_op(Op *op);
cudaError_t run_stream(cudaStream_t s, uint64_t until);
void run_all_streams(void);
/* Number of the newest op of s. */
uint64_t stream_newest(cudaStream_t s);
cudaStream_t stream_or_default(cudaStream_t s);
cudaStream_t stream_first(void); /* of all, by `next` */

/* ---- graph.cc ---- */
/* The graph that s records into, or NULL. */
cudaGraph_t capturing(cudaStream_t s);
cudaError_t graph_add(cudaGraph_t g, Op *op);
/* Whether s is being captured; then whoever waits for it has spoilt that. */
bool capture_waits(cudaStream_t s);
/* What CUDA calls potentially unsafe (memory, waiting, events' state) is refused, and spoils the
 * capture, on a thread that captures; in global mode on any thread. */
cudaError_t capture_allows(void);

/* ---- ledger.cc ---- */
/* Counts launches (and the bank conflicts of their ldmatrix) for launches=FILE. */
void ledger_add(const Launch *l, uint64_t times, uint64_t conflicts);

/* ---- event.cc ---- */
void event_ran(cudaEvent_t e, uint64_t record);

/* ---- memory.cc ---- */
/* Lets this process touch device memory until close; nests. Does nothing without guard=1. */
void memory_open(void);
void memory_close(void);
void memory_release(void *p);
void memory_reset(void);
bool memory_is_device(const void *p, size_t bytes);
/* Whether bytes from p lie within one live allocation. */
bool memory_holds(const void *p, size_t bytes);
bool memory_is_pinned(const void *p, size_t bytes);

} // namespace simt

struct CUstream_st {
    uint32_t magic;
    int device;
    bool blocking; /* waits for the default stream and is waited for by it */
    simt::Op *first, *last;
    uint64_t newest; /* number of the newest op */
    uint32_t queued;
    cudaGraph_t capture;
    CUstream_st *next;
};

#endif
