/* runtime.cu: what the emulated runtime API promises: work is done when somebody waits and not
 * before; what CUDA forbids is an error; what a GPU lacks (memory) can be made to lack. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#define SIMT_LAUNCHED /* nobody counts launches here */
#include "gpu.cuh"

static int failures;
#define CHECK(c)                                                                                   \
    do {                                                                                           \
        if (c) break;                                                                              \
        failures++;                                                                                \
        printf("  FAIL %s:%d: %s\n", __FILE__, __LINE__, #c);                                      \
    } while (0)

__global__ void add_kernel(int *x, int n, int v)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] += v;
}

/* A sum of each block through shared memory, and a bad barrier in one block if asked. */
__global__ void sum_kernel(const int *x, int *y, int broken)
{
    __shared__ int s[4];
    const int v = __reduce_add_sync(0xffffffffu, x[blockIdx.x * 128 + threadIdx.x]);
    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = v;
    if ((int)blockIdx.x == broken && threadIdx.x == 5) return;
    __syncthreads();
    if (threadIdx.x == 0) y[blockIdx.x] = s[0] + s[1] + s[2] + s[3];
}

enum { N = 1000, BLOCKS = 37 };

static void add(int *x, int v, cudaStream_t s)
{
    KLAUNCH(add_kernel, 8, 128, 0, s)(x, N, v);
}

static int *device_ints(void)
{
    void *p = nullptr;
    CHECK(cudaMalloc(&p, N * sizeof(int)) == cudaSuccess);
    CHECK(cudaMemset(p, 0, N * sizeof(int)) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    return (int *)p;
}

static int *pinned_ints(void)
{
    void *p = nullptr;
    CHECK(cudaMallocHost(&p, N * sizeof(int)) == cudaSuccess);
    memset(p, 0, N * sizeof(int));
    return (int *)p;
}

static const size_t BYTES = N * sizeof(int);

/* ---------------------------------------------------------------- tests */

/* Nothing happens before the wait; arguments are taken at the call, memory when it runs. */
static void late(void)
{
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    int *d = device_ints(), *h = pinned_ints();
    h[7] = 1;
    cudaMemcpyAsync(d, h, BYTES, cudaMemcpyHostToDevice, s);
    add(d, 10, s);
    h[7] = 5; /* too early: the copy has not been made yet, and shows it */
    int *back = pinned_ints();
    cudaMemcpyAsync(back, d, BYTES, cudaMemcpyDeviceToHost, s);
    CHECK(back[7] == 0);
    CHECK(cudaStreamSynchronize(s) == cudaSuccess);
    CHECK(back[7] == 15 && back[0] == 10);
    /* memory that is not pinned is copied by the call itself */
    int plain[N] = {3};
    cudaMemcpyAsync(d, plain, BYTES, cudaMemcpyHostToDevice, s);
    plain[0] = 4;
    cudaMemcpyAsync(plain, d, BYTES, cudaMemcpyDeviceToHost, s);
    CHECK(plain[0] == 3);
    cudaFreeHost(back);
    cudaFreeHost(h);
    cudaFree(d);
    cudaStreamDestroy(s);
}

static void events(void)
{
    cudaStream_t a, b;
    cudaEvent_t e, other;
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreate(&e);
    cudaEventCreate(&other);
    CHECK(cudaEventQuery(e) == cudaSuccess); /* never recorded */
    int *d = device_ints(), *h = pinned_ints();
    cudaEventRecord(other, a);
    add(d, 1, a);
    cudaEventRecord(e, a);
    add(d, 100, a);
    CHECK(cudaStreamWaitEvent(b, e, 0) == cudaSuccess);
    cudaMemcpyAsync(h, d, BYTES, cudaMemcpyDeviceToHost, b);
    CHECK(cudaStreamSynchronize(b) == cudaSuccess);
    CHECK(h[0] == 1); /* up to the event, and no further */
    CHECK(cudaEventSynchronize(e) == cudaSuccess);
    CHECK(cudaStreamQuery(a) == cudaSuccess); /* the question lets one op pass */
    cudaMemcpy(h, d, BYTES, cudaMemcpyDeviceToHost);
    CHECK(h[0] == 101);
    float ms = -1;
    CHECK(cudaEventElapsedTime(&ms, other, e) == cudaSuccess && ms >= 0);
    add(d, 1, a);
    add(d, 1, a);
    CHECK(cudaStreamQuery(a) == cudaErrorNotReady);
    CHECK(cudaStreamQuery(a) == cudaSuccess);
    cudaEventRecord(e, a);
    cudaEventDestroy(e); /* while queued */
    cudaEventDestroy(other);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    cudaFree(d);
    cudaFreeHost(h);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
}

static void graphs(void)
{
    cudaStream_t s;
    cudaGraph_t g;
    cudaGraphExec_t exec;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    int *d = device_ints(), *h = pinned_ints();
    CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    cudaMemsetAsync(d, 0, BYTES, s);
    add(d, 3, s);
    add(d, 4, s);
    cudaMemcpyAsync(h, d, BYTES, cudaMemcpyDeviceToHost, s);
    CHECK(cudaStreamEndCapture(s, &g) == cudaSuccess);
    CHECK(cudaStreamSynchronize(s) == cudaSuccess && h[0] == 0); /* recorded, not done */
    CHECK(cudaGraphInstantiate(&exec, g, 0) == cudaSuccess);
    cudaGraphDestroy(g);
    for (int i = 0; i < 3; i++) {
        h[0] = -1;
        CHECK(cudaGraphLaunch(exec, s) == cudaSuccess);
        CHECK(h[0] == -1);
        CHECK(cudaStreamSynchronize(s) == cudaSuccess && h[0] == 7);
    }
    cudaGraphLaunch(exec, s);
    cudaGraphExecDestroy(exec); /* while queued */
    CHECK(cudaStreamSynchronize(s) == cudaSuccess);
    cudaFree(d);
    cudaFreeHost(h);
    cudaStreamDestroy(s);
}

/* ---- what cannot be recorded: each call fails, and the capture with it ---- */

static cudaStream_t recording, beside;
static cudaEvent_t mark;
static int *there, *pinned;
static void *room;

static cudaError_t wait_stream(void)
{
    return cudaStreamSynchronize(recording);
}
static cudaError_t wait_other(void)
{
    return cudaStreamSynchronize(beside);
}
static cudaError_t ask_stream(void)
{
    return cudaStreamQuery(recording);
}
static cudaError_t wait_event(void)
{
    return cudaEventSynchronize(mark);
}
static cudaError_t ask_event(void)
{
    return cudaEventQuery(mark);
}
static cudaError_t wait_device(void)
{
    return cudaDeviceSynchronize();
}
static cudaError_t take(void)
{
    return cudaMalloc(&room, 100);
}
static cudaError_t give(void)
{
    return cudaFree(there);
}
static cudaError_t pin(void)
{
    return cudaMallocHost(&room, 100);
}
static cudaError_t unpin(void)
{
    return cudaFreeHost(pinned);
}
static cudaError_t copy(void)
{
    return cudaMemcpy(there, pinned, 4, cudaMemcpyHostToDevice);
}
static cudaError_t fill(void)
{
    return cudaMemset(there, 0, 4);
}
static cudaError_t pageable(void)
{
    int plain = 0;
    return cudaMemcpyAsync(there, &plain, 4, cudaMemcpyHostToDevice, recording);
}
static cudaError_t free_later(void)
{
    return cudaFreeAsync(there, recording);
}
/* Legal: they touch another stream, or only say what is to be done. */
static cudaError_t copy_beside(void)
{
    return cudaMemcpyAsync(there, pinned, 4, cudaMemcpyHostToDevice, beside);
}
static cudaError_t copy_pinned(void)
{
    return cudaMemcpyAsync(there, pinned, 4, cudaMemcpyHostToDevice, recording);
}

static const struct {
    const char *name;
    cudaError_t (*call)(void);
    /* refused: on the thread that captures; on another one, in thread-local and in global mode */
    bool here, apart, global;
} calls[] = {
    {"cudaStreamSynchronize", wait_stream, true, true, true},
    {"cudaStreamSynchronize of another", wait_other, true, false, true},
    {"cudaStreamQuery", ask_stream, true, true, true},
    {"cudaEventSynchronize", wait_event, true, false, true},
    {"cudaEventQuery", ask_event, true, false, true},
    {"cudaDeviceSynchronize", wait_device, true, true, true},
    {"cudaMalloc", take, true, false, true},
    {"cudaMallocHost", pin, true, false, true},
    {"cudaMemcpy", copy, true, false, true},
    {"cudaMemset", fill, true, false, true},
    {"cudaMemcpyAsync of plain memory", pageable, true, true, true},
    {"cudaFreeAsync", free_later, true, true, true},
    {"cudaMemcpyAsync beside", copy_beside, false, false, false},
    {"cudaMemcpyAsync", copy_pinned, false, false, false},
    {"cudaFree", give, true, false, true},
    {"cudaFreeHost", unpin, true, false, true},
};

typedef struct asked {
    cudaError_t (*call)(void);
    cudaError_t got;
} asked;
static void *ask_apart(void *arg)
{
    asked *a = (asked *)arg;
    a->got = a->call();
    return nullptr;
}

/* Makes a call during a capture; whether it was refused, and whether the capture was spoilt. */
static void try_call(size_t i, bool apart, enum cudaStreamCaptureMode mode, bool refused)
{
    there = device_ints();
    pinned = pinned_ints();
    room = nullptr;
    cudaEventRecord(mark, beside);
    CHECK(cudaStreamBeginCapture(recording, mode) == cudaSuccess);
    add(there, 1, recording);
    asked a = {calls[i].call, cudaSuccess};
    pthread_t t;
    if (apart && pthread_create(&t, nullptr, ask_apart, &a) == 0)
        pthread_join(t, nullptr);
    else
        ask_apart(&a);
    cudaGraph_t g = nullptr;
    const cudaError_t end = cudaStreamEndCapture(recording, &g);
    if (refused != (a.got == cudaErrorStreamCaptureUnsupported) ||
        end != (refused ? cudaErrorStreamCaptureInvalidated : cudaSuccess) || !g != refused) {
        failures++;
        printf("  FAIL %s, thread %d, mode %d: %s, then %s\n", calls[i].name, apart, (int)mode,
               cudaGetErrorName(a.got), cudaGetErrorName(end));
    }
    if (g) cudaGraphDestroy(g);
    cudaGetLastError();
    const bool gone = calls[i].call == give && !refused, loose = calls[i].call == unpin && !refused;
    if (!gone) cudaFree(there);
    if (!loose) cudaFreeHost(pinned);
    if (calls[i].call == take) cudaFree(room);
    if (calls[i].call == pin) cudaFreeHost(room);
    CHECK(cudaDeviceSynchronize() == cudaSuccess); /* the stream serves on */
}

static void captures(void)
{
    cudaStreamCreateWithFlags(&recording, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&beside, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&mark, cudaEventDisableTiming);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        try_call(i, false, cudaStreamCaptureModeThreadLocal, calls[i].here);
        try_call(i, false, cudaStreamCaptureModeGlobal, calls[i].here);
        try_call(i, true, cudaStreamCaptureModeThreadLocal, calls[i].apart);
        try_call(i, true, cudaStreamCaptureModeGlobal, calls[i].global);
    }
    /* relaxed: only what waits for the captured stream itself */
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        try_call(i, false, cudaStreamCaptureModeRelaxed, calls[i].apart);
    /* the second op of two cannot be recorded */
    cudaGraph_t g;
    int *d = device_ints();
    CHECK(simt_configure("capture=2"));
    cudaStreamBeginCapture(recording, cudaStreamCaptureModeThreadLocal);
    add(d, 1, recording);
    CHECK(cudaGetLastError() == cudaSuccess);
    add(d, 1, recording);
    CHECK(cudaGetLastError() == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(recording, &g) == cudaErrorStreamCaptureInvalidated && !g);
    cudaStreamBeginCapture(recording, cudaStreamCaptureModeThreadLocal);
    add(d, 1, recording);
    CHECK(cudaStreamEndCapture(recording, &g) == cudaSuccess);
    cudaGraphDestroy(g);
    cudaGetLastError();
    cudaFree(d);
    cudaEventDestroy(mark);
    cudaStreamDestroy(beside);
    cudaStreamDestroy(recording);
}

static void memory(void)
{
    void *a, *b, *c;
    size_t left, total;
    CHECK(cudaMemGetInfo(&left, &total) == cudaSuccess && total == 64 << 20 && left == total);
    CHECK(cudaMalloc(&a, 40 << 20) == cudaSuccess);
    CHECK(cudaMalloc(&b, 40 << 20) == cudaErrorMemoryAllocation && !b);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
    CHECK(cudaMalloc(&b, 1000) == cudaSuccess);
    CHECK(cudaMemset((char *)b + 500, 1, 501) == cudaErrorInvalidValue);
    CHECK(cudaMemcpy(b, a, 10, cudaMemcpyHostToDevice) == cudaErrorInvalidMemcpyDirection);
    CHECK(cudaFree((char *)b + 256) == cudaErrorInvalidValue);
    /* freed on a stream: still there for what was enqueued before */
    CHECK(cudaFreeAsync(a, nullptr) == cudaSuccess);
    CHECK(cudaMallocAsync(&c, 40 << 20, nullptr) == cudaSuccess);
    CHECK(cudaMemGetInfo(&left, nullptr) == cudaSuccess);
    cudaFree(b);
    cudaFree(c);
    CHECK(cudaMemGetInfo(&left, &total) == cudaSuccess && left == total);
    cudaGetLastError();
}

/* A failed kernel fails everything after it, with its text, until the device is reset. */
static void errors(void)
{
    int *d = device_ints(), *y = device_ints();
    KLAUNCH(sum_kernel, 7, 128, 0, nullptr)(d, y, 3);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    CHECK(strstr(cudaGetErrorString(cudaErrorLaunchFailure), "divergent barrier"));
    void *p;
    CHECK(cudaMalloc(&p, 10) == cudaErrorLaunchFailure);
    CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
    CHECK(cudaDeviceReset() == cudaSuccess && cudaGetLastError() == cudaSuccess);
    d = device_ints();
    add(d, 2, nullptr);
    int h[N];
    CHECK(cudaMemcpy(h, d, BYTES, cudaMemcpyDeviceToHost) == cudaSuccess && h[9] == 2);
    cudaFree(d);
    CHECK(!simt_configure("order=sideways") && !simt_configure("speed=9"));
    CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
    cudaGetLastError();
}

/* Any number of threads, any order: the same. */
static void side_by_side(void)
{
    static int x[BLOCKS * 128], y[BLOCKS];
    int want = 0;
    for (int i = 0; i < BLOCKS * 128; i++) x[i] = i * 7 % 101;
    for (int i = 0; i < 128; i++) want += x[36 * 128 + i];
    int *dx, *dy;
    cudaMalloc((void **)&dx, sizeof x);
    cudaMalloc((void **)&dy, sizeof y);
    cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice);
    static const char *const ways[] = {"threads=1,order=seq", "threads=3,order=rev",
                                       "threads=5,order=rand,seed=1", "threads=2,order=rand,seed=2",
                                       "threads=16,order=seq"};
    for (const char *way : ways) {
        CHECK(simt_configure(way));
        cudaMemset(dy, 0, sizeof y);
        for (int i = 0; i < 20; i++) KLAUNCH(sum_kernel, BLOCKS, 128, 0, nullptr)(dx, dy, -1);
        CHECK(cudaMemcpy(y, dy, sizeof y, cudaMemcpyDeviceToHost) == cudaSuccess);
        CHECK(y[36] == want && y[0] != 0 && y[17] != 0);
    }
    KLAUNCH(sum_kernel, BLOCKS, 128, 0, nullptr)(dx, dy, 5);
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    cudaDeviceReset();
    CHECK(simt_configure("threads=0,order=seq"));
}

/* With guard=1, a host that reads device memory is killed by it. */
static void guard(void)
{
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        simt_configure("guard=1");
        int *d = device_ints(), h[N];
        add(d, 3, nullptr);
        if (cudaMemcpy(h, d, BYTES, cudaMemcpyDeviceToHost) || h[0] != 3) _exit(1);
        volatile int *reached = d;
        _exit(reached[0] == 3 ? 2 : 3);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

/* Rows of 128 bytes begin in the same banks, rows of 144 in eight different groups of them. */
template <int PITCH> __global__ void load_kernel(int *y)
{
    DYN_SHARED(shared);
    uint32_t r[4];
    for (int i = (int)threadIdx.x; i < 16 * PITCH / 4; i += 32) ((int *)shared)[i] = i;
    __syncthreads();
    ldmatrix_x4(r, shared + threadIdx.x % 16 * PITCH + threadIdx.x / 16 * 16);
    y[threadIdx.x] = (int)(r[0] + r[1] + r[2] + r[3]);
}

/* With launches=FILE: how often every shape was launched, with which blocks, and bank conflicts. */
static void ledger(void)
{
    char path[] = "/tmp/anneal-ledger-XXXXXX", option[64], line[256];
    const int fd = mkstemp(path);
    CHECK(fd >= 0);
    if (fd < 0) return;
    close(fd);
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        snprintf(option, sizeof option, "launches=%s", path);
        if (!simt_configure(option)) _exit(1);
        int *d = device_ints();
        for (int i = 0; i < 3; i++) add(d, 3, nullptr);
        KLAUNCH(load_kernel<128>, 2, 32, 4096, nullptr)(d);
        KLAUNCH(load_kernel<144>, 5, 32, 4096, nullptr)(d);
        exit(cudaDeviceSynchronize() != cudaSuccess);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    static const char *const want[] = {
        "launches\tthreads\tshared\tblocks\tconflicts\tkernel\n", "3\t128\t0\t8\t0\tadd_kernel\n",
        "1\t32\t4096\t2\t8\tload_kernel<128>\n", "1\t32\t4096\t5\t0\tload_kernel<144>\n"};
    FILE *f = fopen(path, "r");
    CHECK(f);
    for (const char *w : want) CHECK(f && fgets(line, sizeof line, f) && strcmp(line, w) == 0);
    CHECK(f && !fgets(line, sizeof line, f));
    if (f) fclose(f);
    unlink(path);
}

int main(void)
{
    CHECK(simt_configure("memory=64M"));
    guard();
    ledger();
    late();
    events();
    graphs();
    captures();
    memory();
    errors();
    side_by_side();
    printf("%d failures\n", failures);
    return failures != 0;
}
