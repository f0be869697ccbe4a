/* memory.cc: device memory: one reserved range of addresses, cut into allocations; and pinned host
 * memory. One range, so that guard=1 can take it away from the host with one system call. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "runtime.h"
#include "sanitize.h"

namespace simt
{

/* Alignment is CUDA's; between two allocations lies a gap that belongs to nobody. Fresh memory is
 * filled with NaN, up to a size: filling gigabytes would only cost time. */
enum : size_t {
    ALIGN = 256,
    GAP = 1024,
    FILL_MOST = 64 << 20,
    PINNED_MOST = (size_t)1 << 40,
    RESERVE_EXTRA = 1 << 20
};

/* Allocations in order of address. */
struct Piece {
    size_t at, bytes; /* at: offset in the arena; bytes as asked for */
    int device;
};

static struct {
    char *base;
    size_t size, reached; /* reached: nothing was ever taken past it */
    Piece *pieces;
    size_t n, cap;
    int open;
} arena;

struct Pinned {
    char *p;
    size_t bytes;
    bool ours;
    Pinned *next;
};
static Pinned *pinned;

static size_t round_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static bool arena_made(void)
{
    if (arena.base) return true;
    const size_t size = options.memory * (size_t)options.devices + RESERVE_EXTRA;
    void *p = mmap(nullptr, size, options.guard ? PROT_NONE : PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return false;
    arena.base = (char *)p;
    arena.size = size;
    return true;
}

void memory_open(void)
{
    if (arena.open++ == 0 && options.guard && arena.base)
        mprotect(arena.base, arena.size, PROT_READ | PROT_WRITE);
}

void memory_close(void)
{
    if (--arena.open == 0 && options.guard && arena.base)
        mprotect(arena.base, arena.size, PROT_NONE);
}

bool memory_is_device(const void *p, size_t)
{
    const char *c = (const char *)p;
    return arena.base && c >= arena.base && c < arena.base + arena.size;
}

/* The piece that begins at or before an offset; n if none. */
static size_t find(size_t offset)
{
    size_t low = 0, high = arena.n;
    while (low < high) {
        const size_t mid = (low + high) / 2;
        if (arena.pieces[mid].at <= offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low ? low - 1 : arena.n;
}

bool memory_holds(const void *p, size_t bytes)
{
    if (!memory_is_device(p, 1)) return false;
    const size_t offset = (size_t)((const char *)p - arena.base), i = find(offset);
    if (i == arena.n) return false;
    const Piece *piece = &arena.pieces[i];
    return offset - piece->at < piece->bytes && bytes <= piece->bytes - (offset - piece->at);
}

bool memory_is_pinned(const void *p, size_t bytes)
{
    const char *c = (const char *)p;
    for (const Pinned *q = pinned; q; q = q->next)
        if (c >= q->p && c < q->p + q->bytes) return bytes <= (size_t)(q->p + q->bytes - c);
    return false;
}

static bool more_pieces(void)
{
    if (arena.n < arena.cap) return true;
    const size_t cap = arena.cap ? 2 * arena.cap : 64;
    Piece *more = (Piece *)realloc(arena.pieces, cap * sizeof *more);
    if (!more) return false;
    arena.pieces = more;
    arena.cap = cap;
    return true;
}

/* First fit. */
static cudaError_t take(void **p, size_t bytes)
{
    const size_t need = round_up(bytes) + GAP;
    if (bytes > options.memory || round_up(bytes) > options.memory - devices[current].used ||
        !arena_made() || !more_pieces())
        return cudaErrorMemoryAllocation;
    size_t at = 0, i = 0;
    for (; i < arena.n && arena.pieces[i].at - at < need; i++)
        at = arena.pieces[i].at + round_up(arena.pieces[i].bytes) + GAP;
    if (arena.size - at < need) return cudaErrorMemoryAllocation; /* fragmented */
    memmove(&arena.pieces[i + 1], &arena.pieces[i], (arena.n - i) * sizeof *arena.pieces);
    arena.pieces[i] = {at, bytes, current};
    arena.n++;
    devices[current].used += round_up(bytes);
    if (at + need > arena.reached) arena.reached = at + need;
    SIMT_UNPOISON(arena.base + at, bytes);
    SIMT_POISON(arena.base + at + bytes, need - bytes);
    memory_open();
    if (bytes <= FILL_MOST && !options.dry) memset(arena.base + at, 0xff, bytes);
    memory_close();
    *p = arena.base + at;
    return cudaSuccess;
}

void memory_release(void *p)
{
    const size_t offset = (size_t)((char *)p - arena.base), i = find(offset);
    if (i == arena.n || arena.pieces[i].at != offset) return;
    const size_t bytes = arena.pieces[i].bytes;
    memory_open();
    if (bytes <= FILL_MOST && !options.dry)
        memset(p, 0xff, bytes);
    else
        madvise(p, bytes, MADV_DONTNEED);
    memory_close();
    SIMT_POISON(p, bytes);
    devices[arena.pieces[i].device].used -= round_up(bytes);
    arena.n--;
    memmove(&arena.pieces[i], &arena.pieces[i + 1], (arena.n - i) * sizeof *arena.pieces);
}

void memory_reset(void)
{
    if (arena.base) {
        /* What lies here next (a mapped file) must not inherit what was freed, or between pieces.
         */
        SIMT_UNPOISON(arena.base, arena.reached);
        munmap(arena.base, arena.size);
    }
    free(arena.pieces);
    arena = {nullptr, 0, 0, nullptr, 0, 0, 0};
    for (int i = 0; i < DEVICES_MOST; i++) devices[i].used = 0;
}

} // namespace simt

using namespace simt;

extern "C" {

/* ---------------------------------------------------------------- device memory */

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    Locked lock;
    if (!p) return note(cudaErrorInvalidValue);
    *p = nullptr;
    if (sticky()) return note(sticky());
    if (capture_allows()) return note(cudaErrorStreamCaptureUnsupported);
    return note(bytes ? take(p, bytes) : cudaSuccess);
}

/* Waits for all work, as CUDA does. */
cudaError_t cudaFree(void *p)
{
    Locked lock;
    if (p && capture_allows()) return note(cudaErrorStreamCaptureUnsupported);
    run_all_streams();
    if (!p) return note(sticky());
    const size_t offset = (size_t)((char *)p - arena.base), i = find(offset);
    if (!memory_is_device(p, 1) || i == arena.n || arena.pieces[i].at != offset)
        return note(cudaErrorInvalidValue);
    memory_release(p);
    return note(sticky());
}

/* There at once; what is freed on a stream stays until the stream has come so far. */
cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t s)
{
    Locked lock;
    cudaError_t e = cudaMalloc(p, bytes);
    if (e != cudaErrorMemoryAllocation || capturing(s)) return e;
    run_all_streams(); /* frees that are due */
    return cudaMalloc(p, bytes);
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t s)
{
    Locked lock;
    if (!p) return note(cudaSuccess);
    if (!memory_holds(p, 1)) return note(cudaErrorInvalidValue);
    Op *op = new_op(OP_FREE, 0);
    if (!op) return note(cudaErrorMemoryAllocation);
    op->dst = p;
    return note(enqueue(s, op));
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    Locked lock;
    if (free_bytes) *free_bytes = options.memory - devices[current].used;
    if (total) *total = options.memory;
    return note(sticky());
}

/* ---------------------------------------------------------------- pinned host memory */

static cudaError_t pin(void *p, size_t bytes, bool ours)
{
    Pinned *q = (Pinned *)malloc(sizeof *q);
    if (!q) return cudaErrorMemoryAllocation;
    *q = {(char *)p, bytes, ours, pinned};
    pinned = q;
    return cudaSuccess;
}

static cudaError_t unpin(void *p, bool ours)
{
    for (Pinned **at = &pinned; *at; at = &(*at)->next) {
        Pinned *q = *at;
        if (q->p != p || q->ours != ours) continue;
        *at = q->next;
        free(q);
        return cudaSuccess;
    }
    return cudaErrorInvalidValue;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned int)
{
    Locked lock;
    if (!p || bytes == 0 || bytes > SIZE_MAX / 2) return note(cudaErrorInvalidValue);
    if (capture_allows()) return note(cudaErrorStreamCaptureUnsupported);
    if (bytes > PINNED_MOST) return note(cudaErrorMemoryAllocation);
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*p) return note(cudaErrorMemoryAllocation);
    const cudaError_t e = pin(*p, bytes, true);
    if (e) free(*p);
    return note(e);
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    return cudaHostAlloc(p, bytes, 0);
}

/* Waits for all work, as CUDA does. */
cudaError_t cudaFreeHost(void *p)
{
    Locked lock;
    if (!p) return note(cudaSuccess);
    if (capture_allows()) return note(cudaErrorStreamCaptureUnsupported);
    run_all_streams();
    const cudaError_t e = unpin(p, true);
    if (!e) free(p);
    return note(e);
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned int)
{
    Locked lock;
    if (!p || bytes == 0) return note(cudaErrorInvalidValue);
    if (capture_allows()) return note(cudaErrorStreamCaptureUnsupported);
    return note(pin(p, bytes, false));
}

cudaError_t cudaHostUnregister(void *p)
{
    Locked lock;
    if (capture_allows()) return note(cudaErrorStreamCaptureUnsupported);
    run_all_streams();
    return note(unpin(p, false));
}

} // extern "C"
