/* memory.c: a GPU's memory: allocations and their sizes, and copies to it outside of lanes. */
#include "cuda/gpu_host.h"

#include <cuda_runtime_api.h>

#include <stdlib.h>

/* ---------------------------------------------------------------- sizes of what is allocated */

/* Index of the first block at or after p. */
static size_t place_of(const gpu_device *g, const void *p)
{
    size_t lo = 0, hi = g->blocks;
    while (lo < hi) {
        const size_t mid = (lo + hi) / 2;
        if ((uintptr_t)g->block[mid].at < (uintptr_t)p)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool remember(gpu_device *g, void *p, size_t bytes)
{
    pthread_mutex_lock(&g->lock);
    if (g->blocks == g->blocks_cap) {
        const size_t cap = g->blocks_cap ? 2 * g->blocks_cap : 256;
        gpu_block *more = realloc(g->block, cap * sizeof *more);
        if (!more) {
            pthread_mutex_unlock(&g->lock);
            return false;
        }
        g->block = more;
        g->blocks_cap = cap;
    }
    const size_t i = place_of(g, p);
    memmove(&g->block[i + 1], &g->block[i], (g->blocks - i) * sizeof *g->block);
    g->block[i] = (gpu_block){p, bytes};
    g->blocks++;
    pthread_mutex_unlock(&g->lock);
    return true;
}

static size_t forget(gpu_device *g, void *p)
{
    size_t bytes = 0;
    pthread_mutex_lock(&g->lock);
    const size_t i = place_of(g, p);
    if (i < g->blocks && g->block[i].at == p) {
        bytes = g->block[i].bytes;
        g->blocks--;
        memmove(&g->block[i], &g->block[i + 1], (g->blocks - i) * sizeof *g->block);
    }
    pthread_mutex_unlock(&g->lock);
    return bytes;
}

/* ---------------------------------------------------------------- allocation */

static an_status no_memory(an_device *d, size_t bytes, an_error *err)
{
    size_t unused = 0, total = GPU(device_of)(d)->total_bytes;
    cudaGetLastError(); /* this one does not stick */
    if (cudaMemGetInfo(&unused, &total)) unused = 0;
    return an_fail(err, AN_NO_MEMORY,
                   "device %s: no memory for %.1f MiB: %.1f MiB of %.1f MiB are free",
                   d->backend->name, (double)bytes / 1048576, (double)unused / 1048576,
                   (double)total / 1048576);
}

an_status GPU(alloc)(an_device *d, size_t bytes, void **out, an_error *err)
{
    gpu_device *g = d->gpu;
    *out = NULL;
    an_status s = GPU(enter)(d, err);
    if (s) return s;
    if (bytes > g->total_bytes) return no_memory(d, bytes, err);
    const cudaError_t e = cudaMalloc(out, bytes ? bytes : 1);
    if (e == cudaErrorMemoryAllocation) return no_memory(d, bytes, err);
    s = GPU(checked)((int)e, "allocating memory", err);
    if (s || remember(g, *out, bytes)) return s;
    cudaFree(*out);
    *out = NULL;
    return an_fail(err, AN_NO_MEMORY, "no memory to keep account of the device's");
}

size_t GPU(free)(an_device *d, void *p)
{
    if (!p) return 0;
    const size_t bytes = forget(d->gpu, p);
    GPU(enter)(d, NULL);
    if (cudaFree(p)) cudaGetLastError(); /* a lost device: its memory is gone anyway */
    return bytes;
}

/* ---------------------------------------------------------------- the host's */

an_status GPU(host_alloc)(an_device *d, size_t bytes, void **out, an_error *err)
{
    *out = NULL;
    an_status s = GPU(enter)(d, err);
    if (s) return s;
    const cudaError_t e = cudaMallocHost(out, bytes ? bytes : 1);
    if (e) *out = NULL;
    s = GPU(checked)((int)e, "pinned memory of the host", err);
    return s ? an_fail_prefix(err, s, "%.1f MiB", (double)bytes / 1048576) : AN_OK;
}

void GPU(host_free)(an_device *d, void *p)
{
    if (!p) return;
    GPU(enter)(d, NULL);
    if (cudaFreeHost(p)) cudaGetLastError(); /* a lost device frees nothing any more */
}

/* ---------------------------------------------------------------- copies outside of lanes */

/* One half of the pinned memory is filled while the other is read. */
static cudaError_t write_halves(gpu_device *g, char *to, const char *from, size_t bytes)
{
    cudaError_t e = cudaSuccess;
    for (size_t at = 0, i = 0; at < bytes && !e; at += GPU_COPY_HALF, i++) {
        const size_t n = bytes - at < GPU_COPY_HALF ? bytes - at : GPU_COPY_HALF;
        char *half = g->pinned + i % 2 * GPU_COPY_HALF;
        cudaEvent_t read = (cudaEvent_t)g->copied[i % 2];
        if (i >= 2) e = cudaEventSynchronize(read);
        if (e) break;
        memcpy(half, from + at, n);
        e = cudaMemcpyAsync(to + at, half, n, cudaMemcpyHostToDevice, g->copies);
        if (!e) e = cudaEventRecord(read, g->copies);
    }
    const cudaError_t waited = cudaStreamSynchronize(g->copies);
    return e ? e : waited;
}

an_status GPU(write)(an_device *d, void *device_dst, const void *host_src, size_t bytes,
                     an_error *err)
{
    gpu_device *g = d->gpu;
    an_status s = GPU(enter)(d, err);
    if (s || bytes == 0) return s;
    pthread_mutex_lock(&g->lock);
    const cudaError_t e = write_halves(g, device_dst, host_src, bytes);
    pthread_mutex_unlock(&g->lock);
    return GPU(checked)((int)e, "copying to the device", err);
}

an_status GPU(copy_of)(an_device *d, const void *host, size_t bytes, void **out, an_error *err)
{
    an_status s = GPU(alloc)(d, bytes, out, err);
    if (s) return s;
    s = GPU(write)(d, *out, host, bytes, err);
    if (!s) return AN_OK;
    GPU(free)(d, *out);
    *out = NULL;
    return s;
}
