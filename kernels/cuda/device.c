/* device.c: finding a GPU, saying clearly why there is none, opening and closing it. */
#include "cuda/gpu_host.h"

#include <cuda_runtime_api.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define LEAST_CAPABILITY 80 /* bf16 in mma.sync, cp.async */
#define WGMMA_CAPABILITY 90 /* and no other: sm_90a is for it alone */

static const char kind[] = GPU_NAME;

an_status GPU(checked)(int cuda_error, const char *what, an_error *err)
{
    if (!cuda_error) return AN_OK;
    const cudaError_t e = (cudaError_t)cuda_error;
    cudaGetLastError(); /* one that does not stick must not meet the next launch */
    return an_fail(err, e == cudaErrorMemoryAllocation ? AN_NO_MEMORY : AN_DEVICE,
                   "device %s: %s: %s (%s)", kind, what, cudaGetErrorString(e),
                   cudaGetErrorName(e));
}

/* "cuda", "cuda:1", "simt" */
static an_status parse_index(const char *which, int *index, an_error *err)
{
    const char *colon = which ? strchr(which, ':') : NULL;
    char *end;
    *index = 0;
    if (!colon) return AN_OK;
    errno = 0;
    long v = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || errno || v > 1023)
        return an_fail_param(err, AN_INVALID, "device",
                             "device '%s': what follows the colon is the number of a GPU, as in "
                             "cuda:0",
                             which);
    *index = (int)v;
    return AN_OK;
}

/* Why the runtime finds nothing to work with. */
static an_status no_gpu(cudaError_t e, an_error *err)
{
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (driver == 0)
        return an_fail_param(err, AN_DEVICE, "device",
                             "device %s: no NVIDIA driver is installed, or this container does not "
                             "see it; one for CUDA %d.%d or later is needed",
                             kind, runtime / 1000, runtime % 1000 / 10);
    if (e == cudaErrorInsufficientDriver)
        return an_fail_param(err, AN_DEVICE, "device",
                             "device %s: the NVIDIA driver is for CUDA %d.%d, one for %d.%d or "
                             "later is needed",
                             kind, driver / 1000, driver % 1000 / 10, runtime / 1000,
                             runtime % 1000 / 10);
    if (visible && (e == cudaErrorNoDevice || e == cudaSuccess))
        return an_fail_param(err, AN_DEVICE, "device",
                             "device %s: no GPU is visible: CUDA_VISIBLE_DEVICES is '%s'; unset "
                             "it, or name a GPU there",
                             kind, visible);
    if (e == cudaErrorNoDevice || e == cudaSuccess)
        return an_fail_param(err, AN_DEVICE, "device", "device %s: this machine has no NVIDIA GPU",
                             kind);
    GPU(checked)((int)e, "looking for GPUs", err);
    return AN_DEVICE;
}

int GPU(count)(void)
{
    int n = 0;
    return cudaGetDeviceCount(&n) ? 0 : n;
}

static an_status describe(an_device *d, gpu_device *g, an_error *err)
{
    struct cudaDeviceProp p;
    an_status s =
        GPU(checked)((int)cudaGetDeviceProperties(&p, g->index), "asking its properties", err);
    if (s) return s;
    g->capability = 10 * p.major + p.minor;
    g->multiprocessors = p.multiProcessorCount;
    g->shared_bytes = p.sharedMemPerBlockOptin;
    g->total_bytes = d->memory_bytes = p.totalGlobalMem;
    if (g->capability < LEAST_CAPABILITY)
        return an_fail_param(err, AN_DEVICE, "device",
                             "device %s:%d is a %s of compute capability %d.%d, %d.%d or later is "
                             "needed",
                             kind, g->index, p.name, p.major, p.minor, LEAST_CAPABILITY / 10,
                             LEAST_CAPABILITY % 10);
    char number[16] = "";
    if (GPU(count)() > 1) snprintf(number, sizeof number, ":%d", g->index);
    if (GPU_EMULATED)
        snprintf(d->description, sizeof d->description,
                 "simt%s: the GPU's kernels on the CPU, thread by thread, for tests", number);
    else
        snprintf(d->description, sizeof d->description,
                 "cuda:%d: %s, compute capability %d.%d, %d multiprocessors, %.1f GiB", g->index,
                 p.name, p.major, p.minor, p.multiProcessorCount,
                 (double)p.totalGlobalMem / 1073741824);
    return AN_OK;
}

/* Products go through wgmma where there is such a thing and it passes its test. */
static void choose_products(an_device *d, gpu_device *g)
{
    char why[160];
    const size_t n = strlen(d->description);
    char *const end = d->description + n;
    const char *wanted = getenv("ANNEAL_WGMMA");
    if (g->capability != WGMMA_CAPABILITY) return;
    if (wanted && strcmp(wanted, "off") == 0) { /* the way out where the test itself goes wrong */
        snprintf(end, sizeof d->description - n,
                 "; products by mma.sync, as ANNEAL_WGMMA=off asks");
        return;
    }
    an_log(AN_LOG_DEBUG, "cuda:%d: testing products by wgmma", g->index);
    g->wgmma = GPU(wgmma_check)(why, sizeof why);
    if (g->wgmma)
        snprintf(end, sizeof d->description - n, "; products by wgmma");
    else
        snprintf(end, sizeof d->description - n,
                 "; products by mma.sync, since wgmma failed its test: %s", why);
}

/* What uploads outside of lanes go through. */
static an_status open_copies(gpu_device *g, an_error *err)
{
    cudaError_t e = cudaStreamCreateWithFlags(&g->copies, cudaStreamNonBlocking);
    if (!e) e = cudaMallocHost((void **)&g->pinned, 2 * (size_t)GPU_COPY_HALF);
    for (int i = 0; i < 2 && !e; i++)
        e = cudaEventCreateWithFlags((cudaEvent_t *)&g->copied[i], cudaEventDisableTiming);
    return GPU(checked)((int)e, "stream and pinned memory for uploads", err);
}

an_status GPU(open)(an_device *d, const char *which, an_error *err)
{
    int index, n = 0;
    an_status s = parse_index(which, &index, err);
    if (s) return s;
    const cudaError_t e = cudaGetDeviceCount(&n);
    if (e || n == 0) return no_gpu(e, err);
    if (index >= n)
        return an_fail_param(err, AN_DEVICE, "device",
                             "device '%s': there %s %d GPU%s, the last is %s:%d", which,
                             n == 1 ? "is" : "are", n, n == 1 ? "" : "s", kind, n - 1);
    gpu_device *g = calloc(1, sizeof *g);
    if (!g) return an_fail(err, AN_NO_MEMORY, "no memory for a device");
    g->index = index;
    pthread_mutex_init(&g->lock, NULL);
    d->gpu = g;
    s = describe(d, g, err);
    if (!s) s = GPU(enter)(d, err);
    if (!s) choose_products(d, g);
    if (!s) s = open_copies(g, err);
    if (s) GPU(close)(d);
    return s;
}

void GPU(close)(an_device *d)
{
    gpu_device *g = d->gpu;
    if (!g) return;
    GPU(enter)(d, NULL);
    for (int i = 0; i < 2; i++)
        if (g->copied[i]) cudaEventDestroy((cudaEvent_t)g->copied[i]);
    if (g->pinned) cudaFreeHost(g->pinned);
    if (g->copies) cudaStreamDestroy(g->copies);
    pthread_mutex_destroy(&g->lock);
    free(g->block);
    free(g);
    d->gpu = NULL;
}

/* cudaSetDevice is the thread's own, and cheap, but not free: asked for on a change only. That of a
 * lost device fails and has switched all the same. */
an_status GPU(enter)(an_device *d, an_error *err)
{
    static _Thread_local int current = -1;
    const int index = GPU(device_of)(d)->index;
    if (current == index) return AN_OK;
    an_status s = GPU(checked)((int)cudaSetDevice(index), "choosing the GPU", err);
    current = s ? -1 : index;
    return s;
}
