/* hopper.cc: mbarriers, the tensor copy engine, and the two ways (proxies) to shared memory. */
#include <stdlib.h>
#include <string.h>
#include "hopper.h"
#include "runtime.h"
#include "sanitize.h"

namespace simt
{

enum { SHARED_MOST = 227 << 10, UNIT = 16, COPIES_MOST = 1024 };

/* ---------------------------------------------------------------- tensor maps */

enum : uint64_t { MAP_MAGIC = 0x50414d54u };

/* In a CUtensorMap. */
struct Map {
    uint64_t magic;
    const char *base;
    uint64_t cols, rows, pitch; /* elements, rows, bytes */
    uint32_t box_cols, box_rows, size, swizzled;
};
static_assert(sizeof(Map) <= sizeof(CUtensorMap), "a tensor map has 128 bytes");

static bool map_of(const CUtensorMap *m, Map *to)
{
    memcpy(to, m, sizeof *to);
    return to->magic == MAP_MAGIC;
}

/* cuTensorMapEncodeTiled, for matrices of bf16; the limits are those of its manual. */
static CUresult encode_tiled(CUtensorMap *out, CUtensorMapDataType type, cuuint32_t rank,
                             void *base, const cuuint64_t *dim, const cuuint64_t *stride,
                             const cuuint32_t *box, const cuuint32_t *step,
                             CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                             CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill)
{
    const uint64_t size = 2, most = 1ull << 32;
    if (!out || type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || rank != 2 || !base ||
        (uintptr_t)base % 16 || !dim[0] || !dim[1] || dim[0] > most || dim[1] > most ||
        stride[0] % 16 || stride[0] >= 1ull << 40 || !box[0] || !box[1] || box[0] > 256 ||
        box[1] > 256 || box[0] * size % 16 || step[0] != 1 || step[1] != 1 ||
        interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
        return CUDA_ERROR_INVALID_VALUE;
    if ((swizzle != CU_TENSOR_MAP_SWIZZLE_NONE && swizzle != CU_TENSOR_MAP_SWIZZLE_128B) ||
        (swizzle == CU_TENSOR_MAP_SWIZZLE_128B && box[0] * size > 128))
        return CUDA_ERROR_INVALID_VALUE;
    const Map m = {MAP_MAGIC, (const char *)base, dim[0],
                   dim[1],    stride[0],          box[0],
                   box[1],    (uint32_t)size,     swizzle == CU_TENSOR_MAP_SWIZZLE_128B};
    memset(out, 0, sizeof *out);
    memcpy(out, &m, sizeof m);
    return CUDA_SUCCESS;
}

/* ---------------------------------------------------------------- what a block has of it */

/* A tile on its way. */
struct Copy {
    char *dst;
    Map map;
    int x, y;
    uint64_t *bar;
    Where at;
};

struct Hopper {
    Copy copies[COPIES_MOST];
    uint32_t n_copies;
    bool used;        /* this block has an mbarrier */
    bool init_fenced; /* no mbarrier was made since the last fence for them */
    /* Who last wrote 16 bytes in the ordinary way: thread + 1, and its fences until then. */
    struct {
        uint32_t writer, fences;
    } unit[SHARED_MOST / UNIT];
    uint32_t fences[MAX_THREADS];
};

static Hopper *hopper(void)
{
    if (!state.hopper && !(state.hopper = (Hopper *)calloc(1, sizeof(Hopper))))
        fail("no memory for mbarriers and copies of tiles\n");
    return state.hopper;
}

void hopper_begin(void)
{
    Hopper *h = state.hopper;
    if (!h || !h->used) return;
    h->used = false;
    h->n_copies = 0;
    memset(h->unit, 0, sizeof h->unit);
    memset(h->fences, 0, sizeof h->fences);
}

void hopper_end(void)
{
    const Hopper *h = state.hopper;
    if (!h || !h->used || !h->n_copies || state.failed) return;
    fail("block (%u,%u,%u) ended with %u copies of tiles on their way, the first of %s:%d\n",
         state.block_index.x, state.block_index.y, state.block_index.z, h->n_copies,
         h->copies[0].at.file, h->copies[0].at.line);
}

void hopper_free(void)
{
    free(state.hopper);
    state.hopper = nullptr;
}

uint32_t shared_offset(const void *p, Where at)
{
    const State &s = state;
    const uintptr_t offset = (uintptr_t)p - (uintptr_t)s.dyn;
    if (offset >= s.dyn_bytes)
        fail("not an address in dynamic shared memory, %s:%d\n", at.file, at.line);
    return (uint32_t)offset;
}

/* ---------------------------------------------------------------- ordinary writes */

void shared_wrote(const void *p, uint32_t bytes)
{
    Hopper *h = state.hopper;
    const uintptr_t offset = (uintptr_t)p - (uintptr_t)state.dyn;
    if (!h || !h->used || offset >= state.dyn_bytes) return;
    const uint32_t writer = state.cur->linear;
    for (uintptr_t u = offset / UNIT; u <= (offset + bytes - 1) / UNIT; u++)
        h->unit[u] = {writer + 1, h->fences[writer]};
}

void proxy_fence(void)
{
    Hopper *h = hopper();
    h->used = true;
    h->fences[state.cur->linear]++;
}

void check_fenced(const void *p, uint32_t bytes, Where at)
{
    const Hopper *h = state.hopper;
    if (!h || !h->used) return;
    const uint32_t offset = shared_offset(p, at);
    for (uint32_t u = offset / UNIT; u <= (offset + bytes - 1) / UNIT; u++) {
        const uint32_t writer = h->unit[u].writer;
        if (!writer || h->fences[writer - 1] != h->unit[u].fences) continue;
        fail("wgmma at %s:%d reads byte %u of shared memory, which thread %u wrote and has not "
             "passed on by fence.proxy.async\n",
             at.file, at.line, u * UNIT, writer - 1);
    }
}

/* ---------------------------------------------------------------- mbarriers */

/* 64 bits of shared memory. A phase ends when nobody's arrival and no byte of a copy is missing. */
struct Mbar {
    uint64_t expected : 14, pending : 14, phase : 1, mark : 3;
    int64_t bytes : 32;
};
static_assert(sizeof(Mbar) == 8, "an mbarrier has 8 bytes");
enum { MBAR_MARK = 5, MBAR_BYTES_MOST = (1 << 20) - 1 };

static Mbar *mbar_of(uint64_t *p, Where at)
{
    Mbar *b = (Mbar *)p;
    if ((uintptr_t)p % 8) fail("mbarrier not 8-byte aligned, %s:%d\n", at.file, at.line);
    if (b->mark != MBAR_MARK) fail("mbarrier used before mbarrier.init, %s:%d\n", at.file, at.line);
    return b;
}

/* The addresses that ThreadSanitizer takes for the phases of either parity. Were they one, who is
 * late to learn of a phase would learn what others did in the next, and a race would be hidden. */
[[maybe_unused]] static char *mbar_sync(uint64_t *p, uint32_t parity)
{
    return (char *)p + 4 * parity;
}

static void mbar_settle(Mbar *b)
{
    state.progress++;
    if (b->pending || b->bytes) return;
    b->phase ^= 1;
    b->pending = b->expected;
    for (uint32_t i = 0; i < state.n_threads; i++)
        if (state.threads[i].state == AT_POLL) set_ready(&state.threads[i]);
}

void mbar_init(uint64_t *p, uint32_t count, Where at)
{
    Hopper *h = hopper();
    if (count == 0 || count > MAX_THREADS)
        fail("mbarrier.init for %u arrivals, %s:%d\n", count, at.file, at.line);
    Mbar b = {};
    b.expected = b.pending = count & 0x3fff;
    b.mark = MBAR_MARK;
    SIMT_WRITES(p, 8);
    *(Mbar *)p = b;
    h->used = true;
    h->init_fenced = false;
}

void mbar_fence_init(void)
{
    hopper()->init_fenced = true;
}

void mbar_arrive(uint64_t *p, uint32_t bytes, Where at)
{
    SIMT_READS(p, 8);
    Mbar *b = mbar_of(p, at);
    if (b->pending == 0)
        fail("mbarrier: more than its %u arrivals in a phase, %s:%d\n", (unsigned)b->expected,
             at.file, at.line);
    if (b->bytes + (int64_t)bytes > MBAR_BYTES_MOST)
        fail("mbarrier: more than %d bytes expected in a phase, %s:%d\n", MBAR_BYTES_MOST, at.file,
             at.line);
    SIMT_RELEASE(mbar_sync(p, b->phase));
    b->bytes += bytes;
    b->pending--;
    mbar_settle(b);
}

/* ---------------------------------------------------------------- copies of tiles */

static uint32_t swizzled(uint32_t offset)
{
    return offset ^ (offset >> 7 & 7) << 4;
}

void tma_load_2d(void *dst, const CUtensorMap *map, int x, int y, uint64_t *bar, Where at)
{
    Hopper *h = hopper();
    Copy c = {(char *)dst, {}, x, y, bar, at};
    if (!map_of(map, &c.map)) fail("TMA: not a tensor map, %s:%d\n", at.file, at.line);
    const uint32_t offset = shared_offset(dst, at), align = c.map.swizzled ? 1024 : 128;
    const uint32_t bytes = c.map.box_cols * c.map.box_rows * c.map.size;
    if (offset % align)
        fail("TMA: destination not %u-byte aligned, %s:%d\n", align, at.file, at.line);
    if (offset + bytes > state.dyn_bytes)
        fail("TMA: a tile of %u bytes at %u, past the %zu of shared memory, %s:%d\n", bytes, offset,
             state.dyn_bytes, at.file, at.line);
    if (!h->init_fenced)
        fail("TMA: mbarriers were made, but no fence.mbarrier_init after it, %s:%d\n", at.file,
             at.line);
    if (h->n_copies == COPIES_MOST)
        fail("TMA: %d copies on their way, and nobody waits, %s:%d\n", COPIES_MOST, at.file,
             at.line);
    SIMT_READS(bar, 8);
    SIMT_WRITES(dst, bytes);
    SIMT_IGNORE_BEGIN();
    memset(dst, 0xff, bytes);
    memset(&h->unit[offset / UNIT], 0, bytes / UNIT * sizeof h->unit[0]);
    h->copies[h->n_copies++] = c;
    SIMT_IGNORE_END();
    SIMT_RELEASE(mbar_sync(bar, mbar_of(bar, at)->phase));
    state.progress++;
}

/* Rows and columns outside of the matrix are zeros. */
static void land(const Copy *c)
{
    const Map &m = c->map;
    const uint32_t first = shared_offset(c->dst, c->at), row_bytes = m.box_cols * m.size;
    for (uint32_t r = 0; r < m.box_rows; r++)
        for (uint32_t b = 0; b < row_bytes; b += UNIT) {
            char piece[UNIT] = {};
            const int64_t y = (int64_t)c->y + r, x = (int64_t)c->x + b / m.size;
            for (uint32_t e = 0; e < UNIT / m.size; e++)
                if (y >= 0 && y < (int64_t)m.rows && x + e >= 0 && x + e < (int64_t)m.cols)
                    memcpy(piece + e * m.size,
                           m.base + y * (int64_t)m.pitch + (x + e) * (int64_t)m.size, m.size);
            const uint32_t to = first + r * row_bytes + b;
            memcpy(state.dyn + (m.swizzled ? swizzled(to) : to), piece, UNIT);
        }
    Mbar *b = mbar_of(c->bar, c->at);
    b->bytes -= (int64_t)row_bytes * m.box_rows;
    mbar_settle(b);
}

/* One of the tiles on their way arrives, in any order that a GPU might choose. */
static bool land_one(void)
{
    Hopper *h = hopper();
    if (!h->n_copies) return false;
    const uint32_t last = h->n_copies - 1;
    const uint32_t i = options.order == ORDER_RAND  ? (uint32_t)(random_bits() % h->n_copies)
                       : options.order == ORDER_REV ? last
                                                    : 0;
    SIMT_IGNORE_BEGIN();
    const Copy c = h->copies[i];
    memmove(&h->copies[i], &h->copies[i + 1], (last - i) * sizeof c);
    h->n_copies = last;
    land(&c);
    SIMT_IGNORE_END();
    return true;
}

void mbar_wait(uint64_t *p, uint32_t parity, Where at)
{
    Thread *t = state.cur;
    parity &= 1;
    SIMT_READS(p, 8);
    while (mbar_of(p, at)->phase == parity) {
        if (land_one()) continue;
        t->state = AT_POLL;
        t->at = at;
        wait_turn();
    }
    SIMT_ACQUIRE(mbar_sync(p, parity));
    if (options.order == ORDER_RAND && (random_bits() & 3) == 0) yield();
}

} // namespace simt

using namespace simt;

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **fn, unsigned int,
                                                        unsigned long long,
                                                        enum cudaDriverEntryPointQueryResult *found)
{
    if (!symbol || !fn) return note(cudaErrorInvalidValue);
    const bool known = strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
    *fn = known ? (void *)&encode_tiled : nullptr;
    if (found) *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return note(cudaSuccess);
}
