/* runtime.cc: the emulated device itself: options, errors, properties, launches. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "runtime.h"

namespace simt
{

Options options = {ORDER_SEQ, 1, 0, (size_t)16 << 30, false, false, false, false, 80, 0, -1,
                   1,         0, ""};
Device devices[DEVICES_MOST];
__thread int current;
static __thread cudaError_t last_error;

/* ---------------------------------------------------------------- options */

static bool set_size(const char *v, size_t *to)
{
    char *end;
    const unsigned long long n = strtoull(v, &end, 10);
    const int shift = *end == 'G' ? 30 : *end == 'M' ? 20 : 0;
    if (end == v || (*end && (!shift || end[1])) || n > (1ull << 46 >> shift)) return false;
    *to = (size_t)(n << shift);
    return true;
}

static bool set_option(const char *name, const char *v)
{
    size_t n;
    if (strcmp(name, "order") == 0) {
        const char *const orders[] = {"seq", "rev", "rand"};
        for (int i = 0; i < 3; i++) {
            if (strcmp(v, orders[i]) != 0) continue;
            options.order = i;
            return true;
        }
        return false;
    }
    if (strcmp(name, "fail") == 0) { /* N, or N@device */
        char *end;
        options.fail = strtoull(v, &end, 10);
        options.fail_on = *end == '@' ? (int)strtol(end + 1, &end, 10) : -1;
        return end != v && *end == 0;
    }
    if (strcmp(name, "launches") == 0) {
        if (!*v || strlen(v) >= sizeof options.launches) return false;
        strcpy(options.launches, v);
        return true;
    }
    if (!set_size(v, &n)) return false;
    if (strcmp(name, "seed") == 0)
        options.seed = n;
    else if (strcmp(name, "threads") == 0 && n <= 1024)
        options.threads = (int)n;
    else if (strcmp(name, "memory") == 0)
        options.memory = n;
    else if (strcmp(name, "guard") == 0)
        options.guard = n != 0;
    else if (strcmp(name, "now") == 0)
        options.now = n != 0;
    else if (strcmp(name, "cc") == 0 && (n == 80 || n == 90))
        options.capability = (int)n;
    else if (strcmp(name, "faulty") == 0)
        options.faulty = n != 0;
    else if (strcmp(name, "dry") == 0)
        options.dry = n != 0;
    else if (strcmp(name, "capture") == 0)
        options.capture = n;
    else if (strcmp(name, "devices") == 0 && n >= 1 && n <= DEVICES_MOST)
        options.devices = (int)n;
    else
        return false;
    return true;
}

static bool configure(const char *text)
{
    char buffer[256];
    if (strlen(text) >= sizeof buffer) return false;
    strcpy(buffer, text);
    char *rest = nullptr;
    for (char *o = strtok_r(buffer, ", ", &rest); o; o = strtok_r(nullptr, ", ", &rest)) {
        char *v = strchr(o, '=');
        if (!v) return false;
        *v++ = 0;
        if (!set_option(o, v)) return false;
    }
    return true;
}

/* ---------------------------------------------------------------- the lock */

/* Who waits holds `turn`, so that a thread which gives the lock back and wants it again (waiting
 * for a stream, op by op) stands behind the others. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, turn = PTHREAD_MUTEX_INITIALIZER;
static __thread int depth;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void begin(void)
{
    const char *text = getenv("ANNEAL_SIMT");
    if (text && !configure(text))
        fprintf(stderr, "ANNEAL_SIMT='%s' is not understood; see simt_configure\n", text);
}

/* Whatever a process asks first must know the options. */
static void configured(void)
{
    pthread_once(&once, begin);
}

Locked::Locked()
{
    configured();
    if (depth++) return;
    pthread_mutex_lock(&turn);
    pthread_mutex_lock(&lock);
    pthread_mutex_unlock(&turn);
}
Locked::~Locked()
{
    if (--depth == 0) pthread_mutex_unlock(&lock);
}

cudaError_t note(cudaError_t e)
{
    if (sticky()) e = sticky();
    if (e) last_error = e;
    return e;
}

/* ---------------------------------------------------------------- launches */

enum { SHARED_PLAIN = 48 << 10, N_KERNELS = 1024 };

static int shared_most(void)
{
    return (options.capability < 90 ? 163 : 227) << 10;
}

/* Kernels that asked for more than the plain 48 KB: open addressing by address. */
static struct {
    const void *kernel;
    int bytes;
} big[N_KERNELS];

static int *big_of(const void *kernel, bool make)
{
    size_t i = (uintptr_t)kernel / 16 % N_KERNELS;
    for (int tries = 0; tries < N_KERNELS; tries++, i = (i + 1) % N_KERNELS) {
        if (big[i].kernel == kernel) return &big[i].bytes;
        if (big[i].kernel) continue;
        if (!make) return nullptr;
        big[i].kernel = kernel;
        return &big[i].bytes;
    }
    return nullptr;
}

static cudaError_t check_launch(const Launch *l)
{
    const uint64_t threads = (uint64_t)l->block.x * l->block.y * l->block.z;
    if (threads == 0 || threads > MAX_THREADS || l->block.x > 1024 || l->block.y > 1024 ||
        l->block.z > 64)
        return cudaErrorInvalidConfiguration;
    if (l->grid.x == 0 || l->grid.y == 0 || l->grid.z == 0 || l->grid.x > 0x7fffffff ||
        l->grid.y > 65535 || l->grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    const int *asked = big_of(l->kernel, false);
    if (l->dyn_bytes > (size_t)(asked && *asked > SHARED_PLAIN ? *asked : SHARED_PLAIN))
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

void enqueue_launch(const Launch *l, const void *args, cudaStream_t s)
{
    Locked locked;
    /* Copies may go to any device's streams, launches to the current one's. */
    const bool ours = stream_or_default(s)->device == current || !s;
    const cudaError_t e = ours ? check_launch(l) : cudaErrorInvalidResourceHandle;
    if (e) {
        note(e);
        return;
    }
    ledger_add(l, 1, 0);
    if (options.dry) return;
    Op *op = new_op(OP_LAUNCH, l->args_bytes);
    if (!op) {
        note(cudaErrorMemoryAllocation);
        return;
    }
    op->launch = *l;
    memcpy((void *)(op + 1), args, l->args_bytes);
    note(enqueue(s, op));
}

} // namespace simt

using namespace simt;

extern "C" {

int simt_configure(const char *text)
{
    Locked locked;
    return configure(text);
}

cudaError_t simt_func_set_shared(const void *kernel, int bytes)
{
    Locked locked;
    if (bytes < 0 || bytes > shared_most()) return note(cudaErrorInvalidValue);
    int *to = big_of(kernel, true);
    if (!to) return note(cudaErrorMemoryAllocation);
    *to = bytes;
    return note(cudaSuccess);
}

/* ---------------------------------------------------------------- errors */

cudaError_t cudaGetLastError(void)
{
    Locked locked;
    const cudaError_t e = sticky() ? sticky() : last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    Locked locked;
    return sticky() ? sticky() : last_error;
}

#define SIMT_ERRORS(X)                                                                             \
    X(cudaSuccess, "no error")                                                                     \
    X(cudaErrorInvalidValue, "invalid argument")                                                   \
    X(cudaErrorMemoryAllocation, "out of memory")                                                  \
    X(cudaErrorInitializationError, "initialization error")                                        \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                             \
    X(cudaErrorInvalidDevicePointer, "invalid device pointer")                                     \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                        \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient")                          \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                     \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                            \
    X(cudaErrorNoKernelImageForDevice, "no kernel image is available for this device")             \
    X(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered")                            \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                   \
    X(cudaErrorNotReady, "device not ready")                                                       \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                         \
    X(cudaErrorNotSupported, "operation not supported")                                            \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")       \
    X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error in capture")    \
    X(cudaErrorStreamCaptureWrongThread, "attempt to end a capture that another thread began")     \
    X(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
#define X(name, text)                                                                              \
    case name:                                                                                     \
        return #name;
        SIMT_ERRORS(X)
#undef X
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
#define X(name, text)                                                                              \
    case name:                                                                                     \
        return text;
        SIMT_ERRORS(X)
#undef X
    case cudaErrorLaunchFailure:
        return devices[current].text[0] ? devices[current].text : "unspecified launch failure";
    }
    return "unrecognized error code";
}

/* ---------------------------------------------------------------- the device */

cudaError_t cudaGetDeviceCount(int *count)
{
    configured();
    if (!count) return note(cudaErrorInvalidValue);
    *count = options.devices;
    return note(cudaSuccess);
}

cudaError_t cudaSetDevice(int device)
{
    configured();
    if (device < 0 || device >= options.devices) return note(cudaErrorInvalidDevice);
    current = device;
    return note(cudaSuccess);
}

cudaError_t cudaGetDevice(int *device)
{
    if (!device) return note(cudaErrorInvalidValue);
    *device = current;
    return note(cudaSuccess);
}

cudaError_t cudaSetDeviceFlags(unsigned int)
{
    return note(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    configured();
    if (!value || device < 0 || device >= options.devices)
        return note(value ? cudaErrorInvalidDevice : cudaErrorInvalidValue);
    switch (attr) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = SHARED_PLAIN;
        return note(cudaSuccess);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = shared_most();
        return note(cudaSuccess);
    case cudaDevAttrMultiProcessorCount:
        *value = 4;
        return note(cudaSuccess);
    case cudaDevAttrComputeCapabilityMajor:
        *value = options.capability / 10;
        return note(cudaSuccess);
    case cudaDevAttrComputeCapabilityMinor:
        *value = options.capability % 10;
        return note(cudaSuccess);
    case cudaDevAttrMemoryPoolsSupported:
        *value = 1;
        return note(cudaSuccess);
    }
    return note(cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    configured();
    if (!p || device < 0 || device >= options.devices)
        return note(p ? cudaErrorInvalidDevice : cudaErrorInvalidValue);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "CUDA threads as fibers on the CPU");
    p->totalGlobalMem = options.memory;
    p->sharedMemPerBlock = SHARED_PLAIN;
    p->sharedMemPerBlockOptin = (size_t)shared_most();
    p->major = options.capability / 10;
    p->minor = options.capability % 10;
    p->multiProcessorCount = 4;
    p->warpSize = 32;
    p->maxThreadsPerBlock = MAX_THREADS;
    return note(cudaSuccess);
}

/* Of all devices, while CUDA does it to the current one: all work is dropped, all device memory
 * gone, the errors forgotten. */
cudaError_t cudaDeviceReset(void)
{
    Locked locked;
    for (Device &d : devices)
        if (!d.sticky) d.sticky = cudaErrorUnknown; /* nothing queued runs any more */
    run_all_streams();
    memory_reset();
    for (Device &d : devices) {
        d.sticky = cudaSuccess;
        d.text[0] = 0;
    }
    last_error = cudaSuccess;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    if (version) *version = CUDART_VERSION;
    return note(version ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    return cudaDriverGetVersion(version);
}

} // extern "C"
