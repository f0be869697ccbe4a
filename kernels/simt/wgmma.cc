/* wgmma.cc: products of a warpgroup, four warps that begin at a multiple of four. A product is made
 * when its group is waited for; until then its accumulators in registers are NaN, and what they
 * really hold is kept here. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "hopper.h"
#include "matrix.h"
#include "sanitize.h"

namespace simt
{

enum { GROUP = 128, N_MOST = 256, SUMS = N_MOST / 2, SETS = 4, QUEUE = 64 };

/* Accumulators that a thread has handed over: where its registers are, and their values. */
struct Sums {
    float *registers; /* NULL: free */
    int n;
    float value[SUMS];
};

struct Product {
    uint64_t a, b;
    int n, sums;
    bool add;
    uint32_t group;
    Where at;
};

/* A thread's part. */
struct Wgmma {
    Product queue[QUEUE];
    uint32_t n, open_group;
    bool fenced; /* wgmma.fence since registers were last the thread's own */
    Sums sums[SETS];
};

static Wgmma *of(Thread *t)
{
    if (!t->wgmma && !(t->wgmma = (Wgmma *)calloc(1, sizeof(Wgmma))))
        fail("no memory for wgmma's accumulators\n");
    return t->wgmma;
}

/* The first thread of t's warpgroup. */
static uint32_t first_of(const Thread *t)
{
    return t->linear & ~(uint32_t)(GROUP - 1);
}

/* ---------------------------------------------------------------- descriptors */

/* An operand in shared memory, k of a row side by side, rows of 128 bytes in blocks of eight, their
 * 16-byte pieces exchanged as CU_TENSOR_MAP_SWIZZLE_128B does. */
struct Operand {
    uint32_t start, stride; /* bytes; from eight rows to the next eight */
};

static Operand operand_of(uint64_t d, int rows, Where at)
{
    const Operand o = {(uint32_t)(d & 0x3fff) << 4, (uint32_t)(d >> 32 & 0x3fff) << 4};
    if (d >> 62 != 1)
        fail("wgmma: a descriptor of another swizzle than 128 bytes, %s:%d\n", at.file, at.line);
    if ((d >> 49 & 7) || o.start % 1024 > 96 || o.stride % 1024)
        fail("wgmma: a descriptor's tile not 1024-byte aligned, %s:%d\n", at.file, at.line);
    const uint32_t end = o.start / 1024 * 1024 + (uint32_t)(rows / 8 - 1) * o.stride + 1024;
    if (end > state.dyn_bytes)
        fail("wgmma: a descriptor reads up to byte %u, past the %zu of shared memory, %s:%d\n", end,
             state.dyn_bytes, at.file, at.line);
    return o;
}

/* Eight elements of a row from k on (0 or 8). */
static const char *piece_of(const Operand &o, int row, int k)
{
    const uint32_t at =
        o.start + (uint32_t)(row / 8) * o.stride + (uint32_t)(row % 8) * 128 + (uint32_t)k * 2;
    return (const char *)state.dyn + (at ^ (at >> 7 & 7) << 4);
}

static void row_of(const Operand &o, int row, float *to)
{
    for (int k = 0; k < 16; k += 8) {
        uint16_t bits[8];
        memcpy(bits, piece_of(o, row, k), sizeof bits);
        for (int e = 0; e < 8; e++) {
            const uint32_t u = (uint32_t)bits[e] << 16;
            memcpy(to + k + e, &u, 4);
        }
    }
}

/* What a warp reads through a descriptor must have been passed on, and is read in the eyes of
 * ThreadSanitizer. */
static void touch(const Operand &o, int first, int rows, bool issued, Where at)
{
    for (int r = first; r < first + rows; r++)
        for (int k = 0; k < 16; k += 8) {
            if (issued) check_fenced(piece_of(o, r, k), 16, at);
            SIMT_READS(piece_of(o, r, k), 16);
        }
}

/* A lane for its warp: 16 rows of a, all of b. */
static void touch_both(const Thread *t, const Product &p, bool issued)
{
    if (t->lane) return;
    touch(operand_of(p.a, 64, p.at), (int)(t->warp % 4) * 16, 16, issued, p.at);
    touch(operand_of(p.b, p.n, p.at), 0, p.n, issued, p.at);
}

/* ---------------------------------------------------------------- issuing */

void wgmma_fence(void)
{
    of(state.cur)->fenced = true;
}

/* The set of accumulators at d, which from now on are wgmma's. */
static int hand_over(Wgmma *w, float *d, int n, Where at)
{
    int free_set = -1;
    for (int i = 0; i < SETS; i++) {
        if (w->sums[i].registers == d) return i;
        if (!w->sums[i].registers) free_set = i;
    }
    if (free_set < 0)
        fail("wgmma: more than %d sets of accumulators, %s:%d\n", SETS, at.file, at.line);
    Sums &s = w->sums[free_set];
    s.registers = d;
    s.n = n / 2;
    SIMT_IGNORE_BEGIN();
    memcpy(s.value, d, (size_t)s.n * sizeof *d);
    SIMT_IGNORE_END();
    return free_set;
}

void wgmma_bf16(float *d, int n, uint64_t a, uint64_t b, bool add, Where at)
{
    Thread *t = state.cur;
    Wgmma *w = of(t);
    if (first_of(t) + GROUP > state.n_threads)
        fail("wgmma needs four warps from a multiple of four on, %s:%d\n", at.file, at.line);
    if (!w->fenced)
        fail("wgmma without wgmma.fence since its registers were the thread's own, %s:%d\n",
             at.file, at.line);
    if (w->n == QUEUE)
        fail("wgmma: %d of them, and nobody waits, %s:%d\n", QUEUE, at.file, at.line);
    const Product p = {a, b, n, hand_over(w, d, n, at), add, w->open_group, at};
    for (int i = 0; i < n / 2; i++) d[i] = NAN;
    w->queue[w->n++] = p;
    touch_both(t, p, true);
}

void wgmma_commit(void)
{
    of(state.cur)->open_group++;
}

/* ---------------------------------------------------------------- making products */

/* All threads of the warpgroup must have given the same i-th product. */
static void check_same(const Thread *threads, uint32_t i)
{
    const Product &p = threads[0].wgmma->queue[i];
    for (uint32_t t = 1; t < GROUP; t++) {
        const Wgmma *w = threads[t].wgmma;
        if (!w || i >= w->n || w->queue[i].a != p.a || w->queue[i].b != p.b ||
            w->queue[i].n != p.n || w->queue[i].add != p.add || w->queue[i].group != p.group)
            fail("wgmma at %s:%d: thread %u of the warpgroup gives other operands than thread 0\n",
                 p.at.file, p.at.line, t);
    }
}

/* Product i of the queues of the warpgroup. Of the 16 x 8 sums that a warp has of eight columns, a
 * thread holds the four that mma.sync would give it. */
static void multiply(Thread *threads, uint32_t i)
{
    const Product p = threads[0].wgmma->queue[i];
    const Operand oa = operand_of(p.a, 64, p.at), ob = operand_of(p.b, p.n, p.at);
    float a[64][16], b[N_MOST / 8][16][8], d[16][8];
    for (int r = 0; r < 64; r++) row_of(oa, r, a[r]);
    for (int c = 0; c < p.n; c++) {
        float row[16];
        row_of(ob, c, row);
        for (int k = 0; k < 16; k++) b[c / 8][k][c % 8] = row[k];
    }
    for (int warp = 0; warp < 4; warp++)
        for (int j = 0; j < p.n / 8; j++) {
            for (int l = 0; l < 32; l++) {
                const Wgmma *w = threads[warp * 32 + l].wgmma;
                const float *v = w->sums[w->queue[i].sums].value + j * 4;
                for (int e = 0; e < 4; e++)
                    d[l / 4 + e / 2 * 8][l % 4 * 2 + e % 2] = p.add ? v[e] : 0;
            }
            multiply_16x8(d, &a[warp * 16], b[j]);
            for (int l = 0; l < 32; l++) {
                Wgmma *w = threads[warp * 32 + l].wgmma;
                float *v = w->sums[w->queue[i].sums].value + j * 4;
                for (int e = 0; e < 4; e++) v[e] = d[l / 4 + e / 2 * 8][l % 4 * 2 + e % 2];
            }
        }
    if (options.faulty) threads[0].wgmma->sums[p.sums].value[0] += 1;
}

/* Accumulators that no product in the queue uses are the thread's own again. */
static void hand_back(Wgmma *w)
{
    for (int i = 0; i < SETS; i++) {
        Sums &s = w->sums[i];
        bool busy = !s.registers;
        for (uint32_t q = 0; q < w->n; q++) busy |= w->queue[q].sums == i;
        if (busy) continue;
        memcpy(s.registers, s.value, (size_t)s.n * sizeof *s.value);
        s.registers = nullptr;
    }
}

/* The warpgroup meets, so that everyone's products are in the queues; its first thread makes them;
 * it meets again. No happens-before edge: a GPU promises none. */
void wgmma_wait(uint32_t keep, Where at)
{
    Thread *t = state.cur;
    const uint32_t first = first_of(t);
    if (first + GROUP > state.n_threads)
        fail("wgmma needs four warps from a multiple of four on, %s:%d\n", at.file, at.line);
    Wgmma *w = of(t);
    warpgroup_meets(first / GROUP, at);
    uint32_t done = 0;
    while (done < w->n && w->queue[done].group + keep < w->open_group) done++;
    if (done && t->linear == first) { /* as late as can be: all who need not wait go first */
        t->state = AT_POLL;
        t->at = at;
        state.progress++;
        wait_turn();
    }
    for (uint32_t i = 0; i < done && t->linear == first; i++) {
        check_same(t, i);
        SIMT_IGNORE_BEGIN();
        multiply(t, i);
        SIMT_IGNORE_END();
    }
    warpgroup_meets(first / GROUP, at);
    for (uint32_t i = 0; i < done; i++) touch_both(t, w->queue[i], false);
    SIMT_IGNORE_BEGIN();
    memmove(w->queue, w->queue + done, (w->n - done) * sizeof *w->queue);
    w->n -= done;
    hand_back(w);
    SIMT_IGNORE_END();
    w->fenced = false;
}

void wgmma_exit_check(const Thread *t)
{
    if (t->wgmma && t->wgmma->n)
        fail("thread (%u,%u,%u) exited with wgmma not waited for, %s:%d\n", SIMT_TID(t),
             t->wgmma->queue[0].at.file, t->wgmma->queue[0].at.line);
}

void wgmma_begin(Thread *t)
{
    Wgmma *w = t->wgmma;
    if (!w) return;
    w->n = w->open_group = 0;
    w->fenced = false;
    for (Sums &s : w->sums) s.registers = nullptr;
}

} // namespace simt
