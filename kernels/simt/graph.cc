/* graph.cc: work recorded instead of done, and done again at every launch. A node is an op as it
 * was enqueued: a launch with a copy of its arguments, a copy, a fill. */
#include <stdlib.h>
#include <string.h>
#include "runtime.h"

struct CUgraph_st {
    simt::Op *first, *last;
    bool invalid; /* something was enqueued that cannot be recorded */
};

/* Owns copies of the nodes; lives until destroyed and no queued launch needs it. */
struct CUgraphExec_st {
    simt::Op *first;
    uint32_t queued;
    bool destroyed;
};

namespace simt
{

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

void graph_add(cudaGraph_t g, Op *op)
{
    if (op->kind != OP_LAUNCH && op->kind != OP_COPY && op->kind != OP_SET) {
        g->invalid = true;
        free(op);
        return;
    }
    op->next = nullptr;
    *(g->last ? &g->last->next : &g->first) = op;
    g->last = op;
}

void graph_run(cudaGraphExec_t e)
{
    for (Op *op = e->first; op; op = op->next) run_op(op);
}

static void drop(cudaGraphExec_t e)
{
    if (!e->destroyed || e->queued) return;
    free_ops(e->first);
    free(e);
}

void graph_release(cudaGraphExec_t e)
{
    e->queued--;
    drop(e);
}

} // namespace simt

using namespace simt;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode)
{
    Locked lock;
    if (!s || s->capture) return note(cudaErrorStreamCaptureUnsupported);
    s->capture = (CUgraph_st *)calloc(1, sizeof(CUgraph_st));
    return note(s->capture ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    Locked lock;
    if (!s || !g || !s->capture) return note(cudaErrorInvalidValue);
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
    if (!made) return note(cudaErrorMemoryAllocation);
    Op **end = &made->first;
    for (const Op *op = g->first; op; op = op->next) {
        const size_t extra = op->kind == OP_LAUNCH ? op->launch.args_bytes : 0;
        Op *copy = new_op(op->kind, extra);
        if (!copy) {
            free_ops(made->first);
            free(made);
            return note(cudaErrorMemoryAllocation);
        }
        memcpy((void *)copy, (const void *)op, sizeof *op + extra);
        copy->next = nullptr;
        *end = copy;
        end = &copy->next;
    }
    *e = made;
    return note(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
    Locked lock;
    if (!e || e->destroyed) return note(cudaErrorInvalidValue);
    if (capturing(s)) return note(cudaErrorStreamCaptureUnsupported);
    Op *op = new_op(OP_GRAPH, 0);
    if (!op) return note(cudaErrorMemoryAllocation);
    op->graph = e;
    e->queued++;
    return note(enqueue(s, op));
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
    Locked lock;
    if (!e) return note(cudaErrorInvalidValue);
    e->destroyed = true;
    drop(e);
    return note(cudaSuccess);
}

} // extern "C"
