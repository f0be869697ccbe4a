/* lane.c: a lane on a GPU is a stream. Host arrays reach it through a ring of pinned memory in two
 * halves: a half is filled again once the copies out of it are known to be done. What kernels have
 * to say lies in flags on the device, which are looked at when somebody waits. */
#include "cuda/gpu_host.h"

#include <cuda_runtime_api.h>

#include <stdlib.h>

#define RING_ALIGN 64

an_status GPU(check)(an_lane *l, int cuda_error, const char *op)
{
    if (!cuda_error) return AN_OK;
    an_error e = {0};
    an_status s = GPU(checked)(cuda_error, op, &e);
    an_lane_fail(l, s, "%s", e.message);
    return s;
}

an_status GPU(lane_open)(an_lane *l, an_error *err)
{
    gpu_lane *g = calloc(1, sizeof *g);
    if (!g) return an_fail(err, AN_NO_MEMORY, "no memory for a lane");
    an_status s = GPU(enter)(l->device, err);
    if (s) {
        free(g);
        return s;
    }
    l->gpu = g;
    pthread_mutex_init(&g->graphs_lock, NULL);
    int least = 0, most = 0;
    cudaError_t e = cudaDeviceGetStreamPriorityRange(&least, &most);
    const int priority = l->urgent ? most : least;
    if (!e) e = cudaStreamCreateWithPriority(&g->stream, cudaStreamNonBlocking, priority);
    if (!e) e = cudaMallocHost((void **)&g->ring, 2 * (size_t)GPU_RING_HALF);
    for (int i = 0; i < 2 && !e; i++)
        e = cudaEventCreateWithFlags((cudaEvent_t *)&g->passed[i], cudaEventDisableTiming);
    const size_t counters = GPU_ARRIVALS * sizeof *g->arrived;
    if (!e) e = cudaMalloc((void **)&g->flags, sizeof *g->flags + counters);
    if (!e) e = cudaMallocHost((void **)&g->seen, sizeof *g->seen);
    if (!e) e = cudaMemsetAsync(g->flags, 0, sizeof *g->flags + counters, g->stream);
    if (!e) g->arrived = (unsigned *)(void *)(g->flags + 1);
    s = GPU(checked)((int)e, "opening a lane", err);
    if (s) GPU(lane_close)(l);
    return s;
}

void GPU(lane_close)(an_lane *l)
{
    gpu_lane *g = l->gpu;
    if (!g) return;
    GPU(enter)(l->device, NULL);
    if (g->stream) cudaStreamSynchronize(g->stream); /* its arena is freed next */
    GPU(lane_forget)(l, 0);
    free(g->graphs);
    pthread_mutex_destroy(&g->graphs_lock);
    if (g->seen) cudaFreeHost(g->seen);
    if (g->flags) cudaFree(g->flags);
    for (int i = 0; i < 2; i++)
        if (g->passed[i]) cudaEventDestroy((cudaEvent_t)g->passed[i]);
    if (g->ring) cudaFreeHost(g->ring);
    if (g->stream) cudaStreamDestroy(g->stream);
    free(g);
    l->gpu = NULL;
}

/* What a recording cannot hold: its failure ends the recording, and the work is done as ever. */
static bool unrecordable(an_lane *l, const char *what)
{
    const gpu_lane *g = l->gpu;
    if (g->recording) an_lane_fail(l, AN_INTERNAL, "%s cannot be recorded", what);
    return g->recording;
}

/* ---------------------------------------------------------------- host to device */

/* `bytes` (at most a half) of the ring, free to be written. */
static cudaError_t ring_take(gpu_lane *g, size_t bytes, char **out)
{
    cudaError_t e = cudaSuccess;
    if (g->ring_at + bytes > GPU_RING_HALF) {
        const size_t next = !g->ring_half;
        e = cudaEventRecord((cudaEvent_t)g->passed[g->ring_half], g->stream);
        g->used[g->ring_half] = true;
        if (!e && g->used[next]) e = cudaEventSynchronize((cudaEvent_t)g->passed[next]);
        g->used[next] = false;
        g->ring_half = next;
        g->ring_at = 0;
    }
    *out = g->ring + g->ring_half * GPU_RING_HALF + g->ring_at;
    g->ring_at += (bytes + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
    return e;
}

an_status GPU(upload)(an_lane *l, void *device_dst, const void *host_src, size_t bytes)
{
    gpu_lane *g = l->gpu;
    if (unrecordable(l, "a copy from the host")) return l->error.status;
    an_status s = GPU(enter)(l->device, &l->error);
    if (s) return s;
    cudaError_t e = cudaSuccess;
    for (size_t at = 0; at < bytes && !e; at += GPU_RING_HALF) {
        const size_t n = bytes - at < GPU_RING_HALF ? bytes - at : GPU_RING_HALF;
        char *via;
        e = ring_take(g, n, &via);
        if (e) break;
        memcpy(via, (const char *)host_src + at, n);
        GPU(copied)++;
        e = cudaMemcpyAsync((char *)device_dst + at, via, n, cudaMemcpyHostToDevice, g->stream);
    }
    return GPU(check)(l, (int)e, "copying to the device");
}

const void *GPU(stage)(an_lane *l, const void *host, size_t bytes)
{
    const an_kept *kept = an_kept_find(l, AN_KEPT_ARRAY, host, bytes);
    if (kept) return kept->there;
    void *to = an_lane_scratch(l, bytes);
    if (!to || l->counting || l->error.status || GPU(upload)(l, to, host, bytes)) return NULL;
    return to;
}

an_status GPU(keep)(an_lane *l, const void *host, size_t bytes)
{
    an_kept k = {.what = AN_KEPT_ARRAY, .host = host, .bytes = bytes, .mark = l->used};
    k.there = GPU(stage)(l, host, bytes);
    if (!l->error.status) an_kept_add(l, &k);
    return l->error.status;
}

/* ---------------------------------------------------------------- device to host */

an_status GPU(download)(an_lane *l, void *host_dst, const void *device_src, size_t bytes)
{
    gpu_lane *g = l->gpu;
    if (unrecordable(l, "a copy to the host")) return l->error.status;
    an_status s = GPU(enter)(l->device, &l->error);
    if (s) return s;
    cudaError_t e = cudaMemcpyAsync(host_dst, device_src, bytes, cudaMemcpyDeviceToHost, g->stream);
    if (!e) e = cudaStreamSynchronize(g->stream);
    return GPU(check)(l, (int)e, "copying from the device");
}

static void latch_flags(an_lane *l, gpu_lane *g)
{
    for (int i = 0; i < g->n_nans; i++) *g->n_nan[i] = (int64_t)g->seen->nan[i];
    if (!g->seen->bad_id) return;
    const uint64_t bad = ~(uint64_t)g->seen->bad_id;
    an_lane_fail(l, AN_INVALID, "embedding: token id %d at %lld, the table has %lld",
                 (int)(uint32_t)bad, (long long)(bad >> 32), (long long)g->vocabulary);
}

an_status GPU(sync)(an_lane *l, bool always)
{
    gpu_lane *g = l->gpu;
    if (!always && !g->flagged) return AN_OK;
    if (unrecordable(l, "waiting")) return l->error.status;
    an_status s = GPU(enter)(l->device, &l->error);
    if (s) return s;
    cudaError_t e = cudaSuccess;
    if (g->flagged) {
        e = cudaMemcpyAsync(g->seen, g->flags, sizeof *g->seen, cudaMemcpyDeviceToHost, g->stream);
        if (!e) e = cudaMemsetAsync(g->flags, 0, sizeof *g->flags, g->stream);
    }
    const cudaError_t waited = cudaStreamSynchronize(g->stream);
    if (!e) e = waited;
    if (!e && g->flagged) latch_flags(l, g);
    g->flagged = g->flagged && e; /* flags that could not be read are read at the next sync */
    g->n_nans = 0;
    return GPU(check)(l, (int)e, "waiting for the device");
}
