/* simt.h: CUDA threads as fibers on the CPU: what the parts of kernels/simt share.
 *
 * A block of CUDA threads runs on one thread of the machine. Each CUDA thread is a piece of code
 * that runs until it must wait for others (a barrier, a warp collective, an mbarrier) and then
 * hands over to the next that is ready; so the threads of a block really interleave at these points
 * and nowhere else. What a GPU may do in any order happens in a chosen one: seq, rev or rand.
 *
 *   fiber.cc    stacks, the switch between them, who is next
 *   block.cc    running one block; barriers; deadlocks
 *   warp.cc     warp collectives: shuffles, votes
 *   grid.cc     all blocks of a launch, on one or several threads of the machine
 *   matrix.cc   asynchronous copies, ldmatrix, mma
 *   hopper.cc   mbarriers, copies of tiles, the two ways to shared memory
 *   wgmma.cc    products of four warps
 *   stream.cc memory.cc event.cc graph.cc runtime.cc   CUDA's runtime API
 *
 * Everything here is plain C in spirit: no exceptions, no run-time type information, nothing of
 * libstdc++ at run time. */
#ifndef SIMT_SIMT_H
#define SIMT_SIMT_H

#include <stddef.h>
#include <stdint.h>
#include "include/cuda_runtime_api.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define SIMT_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define SIMT_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define SIMT_TSAN 1
#endif

namespace simt
{

/* Where in a kernel something was called: default arguments take the caller's line. */
struct Where {
    const char *file;
    int line;
};
#define SIMT_WHERE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define SIMT_AT    (::simt::Where{file_, line_})

enum {
    MAX_THREADS = 1024, /* of a block */
    MAX_WARPS = 32,
    N_BARRIERS = 16,                  /* bar.sync 0..15 */
    N_WARPGROUPS = MAX_THREADS / 128, /* each has a barrier behind those */
};

struct Thread;
struct Fiber;
struct Hopper;
struct Wgmma;

/* A warp collective: run once, by the last lane that arrives. lane[i] is NULL where i is not in the
 * mask; in and out of each lane are what it handed over. */
typedef void (*WarpFn)(Thread **lane, uint32_t mask);

struct AsyncCopy {
    void *dst;
    const void *src;
    uint32_t bytes, src_bytes; /* the rest becomes zeros */
    uint32_t group;
};

enum Wait : uint8_t { READY, AT_BARRIER, AT_WARP, AT_POLL, EXITED };

/* A CUDA thread of the running block. */
struct Thread {
    uint3 tid;
    uint32_t linear, warp, lane;
    Wait state;
    uint8_t barrier; /* which one it waits at */
    Where at;
    WarpFn fn;
    uint32_t mask;
    const void *in;
    void *out;
    Fiber *fiber; /* NULL until it first runs */
    AsyncCopy *copies;
    uint32_t n_copies, cap_copies, open_group;
    Wgmma *wgmma; /* NULL until it first uses any */
};

struct Warp {
    uint32_t alive, pending;
};

struct Barrier {
    uint32_t arrived, count;
    Where at;
    uint64_t sync; /* an address for ThreadSanitizer */
};

/* All of a machine thread that runs blocks. The first lines are what kernels touch. */
struct State {
    Thread *cur; /* NULL: no kernel is running here */
    uint3 block_index, block_dim, grid_dim;
    unsigned char *dyn; /* dynamic shared memory */
    size_t dyn_bytes;

    Thread *threads;
    uint32_t n_threads, live;
    uint64_t ready[MAX_THREADS / 64]; /* a bit a thread */
    uint32_t n_ready;                 /* words of it in use */
    Warp warps[MAX_WARPS];
    Barrier barriers[N_BARRIERS + N_WARPGROUPS];
    Hopper *hopper; /* NULL until a kernel has an mbarrier */
    void (*body)(const void *);
    const void *args;
    uint64_t rng;
    uint64_t progress; /* counts what may let a polling thread go on */
    uint64_t start_sync, done_sync, warp_sync[MAX_WARPS]; /* addresses for ThreadSanitizer */
    bool failed;
    char error[2048];

    void *main_sp; /* the machine thread's own stack */
    void *main_low;
    size_t main_bytes;
    void *main_fake, *main_tsan;
    Fiber *running, *idle, *all;
    unsigned char *dyn_base;
    uint64_t switches, conflicts; /* statistics: fiber switches, ldmatrix bank conflicts */
};
extern __thread State state;

enum { ORDER_SEQ, ORDER_REV, ORDER_RAND };
struct Options {
    int order;
    uint64_t seed;
    int threads;
    size_t memory;
    bool guard, now, faulty, dry;
    int capability; /* 80, 90 */
    size_t fail;    /* launches until one fails, 0 = none will */
    int fail_on;    /* of which device; -1: of all */
    int devices;
    size_t capture;     /* ops until one cannot be recorded, 0 = all can */
    char launches[160]; /* file for ledger.cc; "": none */
};
extern Options options;

/* ---- fiber.cc ---- */
/* Runs what is ready until nothing is, then returns. Called on the machine thread's own stack. */
void run_ready(void);
/* Gives way: the current thread has set what it waits for. Returns when it is ready again. */
void wait_turn(void);
void yield(void);
void set_ready(Thread *t);
/* After an error: the stacks are as the kernel left them, so they are made anew. */
void fibers_reset(void);
/* When the machine thread ends. */
void fibers_free(void);
uint64_t random_bits(void);

/* ---- block.cc ---- */
/* Notes an error of the kernel, and ends the block if called inside it (then it does not return).
 */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
void run_block(void);
void exit_thread(void);
void barrier(int id, uint32_t count, Where at);
/* The same, but not a happens-before edge for ThreadSanitizer. */
void barrier_once(int id, uint32_t count, Where at);
/* So meet the four warps of a warpgroup. */
void warpgroup_meets(uint32_t group, Where at);

/* ---- warp.cc ---- */
void collective(uint32_t mask, WarpFn fn, const void *in, void *out, Where at);
/* __syncwarp. */
void sync_warp(uint32_t mask, Where at);
/* Completes the collective of `mask` in a warp if all of its lanes that are alive have come. */
bool collective_complete(uint32_t warp, uint32_t mask);

/* ---- grid.cc ---- */
/* A launch with its arguments copied behind it. */
struct Launch {
    const void *kernel;
    const char *name; /* as the compiler spells it, in a sentence */
    void (*body)(const void *args);
    dim3 grid, block;
    size_t dyn_bytes, args_bytes;
};
/* Every block of the grid. False and a text if the kernel failed. */
bool run_grid(const Launch *l, const void *args, char *error, size_t error_size);

/* ---- stream.cc ---- */
/* Puts a launch on a stream; arguments are copied. Errors of the configuration: cudaGetLastError.
 */
void enqueue_launch(const Launch *l, const void *args, cudaStream_t s);

#define SIMT_TID(t) (t)->tid.x, (t)->tid.y, (t)->tid.z

} // namespace simt

#endif
