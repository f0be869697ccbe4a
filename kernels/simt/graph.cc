/* graph.cc: work recorded instead of done, and done again at every launch. A node is an op as it
 * was enqueued: a launch with a copy of its arguments, a copy, a fill. A launch of the graph puts
 * copies of its nodes on the stream, so that other streams get their turns between them. */
#include <stdlib.h>
#include <string.h>
#include "runtime.h"

struct CUgraph_st {
    simt::Op *first, *last;
    enum cudaStreamCaptureMode mode;
    const void *thread; /* that began it */
    bool invalid;       /* something was asked for that cannot be recorded */
};

struct CUgraphExec_st {
    simt::Op *first;
};

namespace simt
{

static __thread char here; /* its address tells threads apart */

cudaGraph_t capturing(cudaStream_t s)
{
    return stream_or_default(s)->capture;
}

static void free_ops(Op *op)
{
    while (op) {
        Op *next = op->next;
        free(op);
        op = next;
    }
}

cudaError_t graph_add(cudaGraph_t g, Op *op)
{
    if (options.capture && --options.capture == 0) g->invalid = true;
    if (op->kind != OP_LAUNCH && op->kind != OP_COPY && op->kind != OP_SET) g->invalid = true;
    if (g->invalid) {
        free(op);
        return cudaErrorStreamCaptureUnsupported;
    }
    op->next = nullptr;
    *(g->last ? &g->last->next : &g->first) = op;
    g->last = op;
    return cudaSuccess;
}

bool capture_waits(cudaStream_t s)
{
    if (!s->capture) return false;
    s->capture->invalid = true;
    return true;
}

cudaError_t capture_allows(void)
{
    bool allowed = true;
    for (cudaStream_t s = stream_first(); s; s = s->next) {
        cudaGraph_t g = s->capture;
        if (!g || g->mode == cudaStreamCaptureModeRelaxed) continue;
        if (g->mode == cudaStreamCaptureModeThreadLocal && g->thread != &here) continue;
        g->invalid = true;
        allowed = false;
    }
    return allowed ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

/* A list of ops once more; NULL if there is no memory, or no op. */
static Op *copy_ops(const Op *op, bool *whole)
{
    Op *first = nullptr, **end = &first;
    *whole = true;
    for (; op; op = op->next) {
        const size_t extra = op->kind == OP_LAUNCH ? op->launch.args_bytes : 0;
        Op *copy = new_op(op->kind, extra);
        if (!copy) {
            free_ops(first);
            *whole = false;
            return nullptr;
        }
        memcpy((void *)copy, (const void *)op, sizeof *op + extra);
        copy->next = nullptr;
        *end = copy;
        end = &copy->next;
    }
    return first;
}

} // namespace simt

using namespace simt;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    Locked lock;
    if (!s || s->capture) return note(cudaErrorStreamCaptureUnsupported);
    s->capture = (CUgraph_st *)calloc(1, sizeof(CUgraph_st));
    if (!s->capture) return note(cudaErrorMemoryAllocation);
    s->capture->mode = mode;
    s->capture->thread = &here;
    return note(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    Locked lock;
    if (!s || !g || !s->capture) return note(cudaErrorInvalidValue);
    const bool stranger = s->capture->thread != &here;
    if (stranger && s->capture->mode != cudaStreamCaptureModeRelaxed)
        return note(cudaErrorStreamCaptureWrongThread);
    *g = s->capture;
    s->capture = nullptr;
    if (!(*g)->invalid) return note(cudaSuccess);
    cudaGraphDestroy(*g);
    *g = nullptr;
    return note(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long)
{
    Locked lock;
    if (!e || !g) return note(cudaErrorInvalidValue);
    *e = nullptr;
    CUgraphExec_st *made = (CUgraphExec_st *)calloc(1, sizeof *made);
    bool whole = false;
    if (made) made->first = copy_ops(g->first, &whole);
    if (!whole) {
        free(made);
        return note(cudaErrorMemoryAllocation);
    }
    *e = made;
    return note(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
    Locked lock;
    if (!e) return note(cudaErrorInvalidValue);
    if (capture_waits(stream_or_default(s))) return note(cudaErrorStreamCaptureUnsupported);
    bool whole;
    Op *op = copy_ops(e->first, &whole);
    if (!whole) return note(cudaErrorMemoryAllocation);
    cudaError_t done = sticky();
    while (op) {
        Op *next = op->next;
        done = enqueue(s, op);
        op = next;
    }
    return note(done);
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    if (!g) return note(cudaErrorInvalidValue);
    free_ops(g->first);
    free(g);
    return note(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
    if (!e) return note(cudaErrorInvalidValue);
    free_ops(e->first);
    free(e);
    return note(cudaSuccess);
}

} // extern "C"
