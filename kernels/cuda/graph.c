/* graph.c: launches that come again, recorded once (a CUDA graph) and replayed with one call.
 *
 * What is recorded are addresses and numbers, not ops. So a graph serves again only where all of
 * them are the same: the caller's key, the place in the arena where scratch begins, and what is
 * kept there of host arrays (only their bytes change, which are brought anew every time, before).
 * The first time that a key comes its ops run as ever: kernels are loaded then, which a capture may
 * not do, and much comes once only. The second time they are recorded. What cannot be recorded runs
 * as ever for good.
 *
 * Captures are thread-local: what other threads allocate, free and wait for meanwhile is theirs.
 * The lock is the device's, since an unloaded model's graphs go on another thread. */
#include "cuda/gpu_host.h"

#include <cuda_runtime_api.h>

#include <stdlib.h>

/* Graphs of a lane: sizes and numbers of rows that take turns. The one not used for longest goes.
 */
#define GRAPHS 32
/* After so many that could not be recorded a lane tries no more. */
#define MOST_FAILURES 8

typedef struct graph_key {
    an_repeat repeat;
    const void *arena;
    size_t mark;
    int kepts;
    struct {
        const void *there;
        size_t bytes;
        int64_t shape[8];
        int what;
    } kept[AN_LANE_KEPT];
} graph_key;

typedef struct gpu_graph {
    graph_key key; /* repeat.owner 0: a free place */
    cudaGraphExec_t exec;
    bool plain; /* it cannot be recorded */
    uint64_t met, used;
    /* what the ops would have told the lane */
    size_t peak;
    double flops;
    bool flagged;
    int64_t vocabulary;
} gpu_graph;

struct gpu_graphs {
    gpu_graph graph[GRAPHS];
    uint64_t clock;
    int failures;
};

static graph_key key_of(const an_lane *l, const an_repeat *r)
{
    graph_key k;
    memset(&k, 0, sizeof k); /* gaps too: keys are compared by bytes */
    k.repeat.owner = r->owner;
    memcpy(k.repeat.shape, r->shape, sizeof r->shape);
    k.arena = l->arena;
    k.mark = l->used;
    k.kepts = l->kepts;
    for (int i = 0; i < l->kepts; i++) {
        k.kept[i].there = l->kept[i].there;
        k.kept[i].bytes = l->kept[i].bytes;
        k.kept[i].what = l->kept[i].what;
        memcpy(k.kept[i].shape, l->kept[i].shape, sizeof l->kept[i].shape);
    }
    return k;
}

static void drop(gpu_graph *g)
{
    /* Where it is still running the driver keeps it until then. */
    if (g->exec && cudaGraphExecDestroy(g->exec)) cudaGetLastError();
    memset(g, 0, sizeof *g);
}

/* The graph of this key, or a new place for it. */
static gpu_graph *find(gpu_graphs *all, const graph_key *key)
{
    gpu_graph *place = &all->graph[0];
    for (int i = 0; i < GRAPHS; i++) {
        gpu_graph *g = &all->graph[i];
        if (memcmp(&g->key, key, sizeof *key) == 0) return g;
        if (g->used < place->used) place = g; /* a free one was never used */
    }
    drop(place);
    memcpy(&place->key, key, sizeof *key);
    return place;
}

/* From now on the ops of this key run as ever. Said once a lane: what stops one stops many. */
static void give_up(an_lane *l, gpu_graphs *all, gpu_graph *g, const char *what, const char *why)
{
    if (all->failures++ == 0)
        an_log(AN_LOG_WARN, "device %s: %s failed (%s): these launches are made one by one",
               l->device->backend->name, what, why);
    l->repeats.failed++;
    if (g->exec) cudaGraphExecDestroy(g->exec);
    g->exec = NULL;
    g->plain = true;
    cudaGetLastError();
}

/* Runs the ops between the begin and the end of a capture. The lane's error is theirs alone: it had
 * none before, and a failure here is met by running them again. */
static cudaError_t capture(an_lane *l, an_ops_fn *ops, void *ctx, cudaGraph_t *out)
{
    gpu_lane *g = l->gpu;
    *out = NULL;
    cudaError_t e = cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal);
    if (e) return e;
    g->recording = true;
    ops(l, ctx);
    g->recording = false;
    e = cudaStreamEndCapture(g->stream, out);
    if (e) *out = NULL;
    return e;
}

static void record(an_lane *l, gpu_graph *to, an_ops_fn *ops, void *ctx)
{
    gpu_lane *g = l->gpu;
    const double flops = l->flops;
    const size_t peak = l->peak, mark = l->used;
    const bool flagged = g->flagged;
    cudaGraph_t graph;
    l->peak = l->used;
    g->flagged = false;
    cudaError_t e = capture(l, ops, ctx, &graph);
    if (!e && !l->error.status) e = cudaGraphInstantiate(&to->exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (e || l->error.status) {
        to->exec = NULL;
        give_up(l, g->graphs, to, "recording",
                l->error.status ? l->error.message : cudaGetErrorString(e));
        an_lane_release(l, mark);
        l->error = (an_error){.status = AN_OK};
    } else {
        l->repeats.recorded++;
    }
    to->peak = l->peak;
    to->flops = l->flops - flops;
    to->flagged = g->flagged;
    to->vocabulary = g->vocabulary;
    l->peak = peak;
    l->flops = flops;
    g->flagged = flagged;
}

/* False: nothing was launched. */
static bool replay(an_lane *l, gpu_graph *from)
{
    gpu_lane *g = l->gpu;
    const cudaError_t e = cudaGraphLaunch(from->exec, g->stream);
    if (e) {
        give_up(l, g->graphs, from, "replaying", cudaGetErrorString(e));
        return false;
    }
    if (from->peak > l->peak) l->peak = from->peak;
    l->flops += from->flops;
    if (from->flagged) {
        g->flagged = true;
        g->vocabulary = from->vocabulary;
    }
    l->repeats.replayed++;
    return true;
}

/* Under the lock: whether the graph of this key ran in place of the ops. */
static bool ran(an_lane *l, const an_repeat *key, an_ops_fn *ops, void *ctx)
{
    gpu_lane *g = l->gpu;
    const graph_key k = key_of(l, key);
    if (!g->graphs && !(g->graphs = calloc(1, sizeof *g->graphs))) return false;
    gpu_graph *at = find(g->graphs, &k);
    at->used = ++g->graphs->clock;
    if (!at->exec && !at->plain && at->met++ > 0 && g->graphs->failures < MOST_FAILURES)
        record(l, at, ops, ctx);
    return at->exec && replay(l, at);
}

void GPU(repeat)(an_lane *l, const an_repeat *key, an_ops_fn *ops, void *ctx)
{
    gpu_lane *g = l->gpu;
    bool done = false;
    if (!g->recording && GPU(enter)(l->device, &l->error) == AN_OK) {
        pthread_mutex_lock(&g->graphs_lock);
        done = ran(l, key, ops, ctx);
        pthread_mutex_unlock(&g->graphs_lock);
    }
    if (!done) ops(l, ctx);
}

void GPU(lane_forget)(an_lane *l, uint64_t owner)
{
    gpu_lane *g = l->gpu;
    if (!g) return;
    pthread_mutex_lock(&g->graphs_lock);
    for (int i = 0; g->graphs && i < GRAPHS; i++) {
        gpu_graph *at = &g->graphs->graph[i];
        if (owner == 0 || at->key.repeat.owner == owner) drop(at);
    }
    pthread_mutex_unlock(&g->graphs_lock);
}
