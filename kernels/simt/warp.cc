/* warp.cc: warp collectives. The last lane to arrive does the work for all. */
#include <string.h>
#include "simt.h"
#include "device.h"
#include "sanitize.h"

namespace simt
{

bool collective_complete(uint32_t warp, uint32_t mask)
{
    State &s = state;
    Warp &w = s.warps[warp];
    const uint32_t need = mask & w.alive;
    if (!need || (w.pending & need) != need) return false;
    Thread *lane[32], *first = &s.threads[warp * 32 + (uint32_t)__builtin_ctz(need)];
    for (uint32_t i = 0; i < 32; i++) {
        lane[i] = need >> i & 1 ? &s.threads[warp * 32 + i] : nullptr;
        if (lane[i] && (lane[i]->fn != first->fn || lane[i]->mask != mask ||
                        lane[i]->at.line != first->at.line))
            fail("warp %u diverged at a collective: lane %u (mask %08x) at %s:%d, lane %u (mask "
                 "%08x) at %s:%d\n",
                 warp, i, lane[i]->mask, lane[i]->at.file, lane[i]->at.line, first->lane,
                 first->mask, first->at.file, first->at.line);
    }
    w.pending &= ~need;
    first->fn(lane, need);
    uint64_t go = (uint64_t)need << (32 * (warp & 1));
    if (s.cur->warp == warp) go &= ~(1ull << (s.cur->linear & 63)); /* the caller simply goes on */
    s.ready[warp >> 1] |= go;
    return true;
}

void collective(uint32_t mask, WarpFn fn, const void *in, void *out, Where at)
{
    State &s = state;
    Thread *t = s.cur;
    if (!(mask >> t->lane & 1))
        fail("lane %u calls a collective whose mask %08x leaves it out, %s:%d\n", t->lane, mask,
             at.file, at.line);
    t->fn = fn;
    t->mask = mask;
    t->in = in;
    t->out = out;
    t->at = at;
    s.warps[t->warp].pending |= 1u << t->lane;
    if (collective_complete(t->warp, mask)) {
        if (options.order == ORDER_RAND && (random_bits() & 3) == 0) yield();
        return;
    }
    t->state = AT_WARP;
    wait_turn();
}

/* Which lane `lane` reads; itself where CUDA says so. */
static int source(const ShuffleIn *in, int lane)
{
    const int first = lane & ~(in->width - 1), last = first + in->width - 1;
    switch (in->how) {
    case SHFL_IDX:
        return first + (in->arg & (in->width - 1));
    case SHFL_XOR: { /* may reach an earlier segment, not a later one */
        const int from = lane ^ in->arg;
        return from > last ? lane : from;
    }
    case SHFL_UP:
        return lane - in->arg < first ? lane : lane - in->arg;
    default:
        return lane + in->arg > last ? lane : lane + in->arg;
    }
}

void shuffle_fn(Thread **lane, uint32_t mask)
{
    for (uint32_t m = mask; m; m &= m - 1) {
        const int i = __builtin_ctz(m);
        const ShuffleIn *in = (const ShuffleIn *)lane[i]->in;
        if (in->width < 1 || in->width > 32 || (in->width & (in->width - 1)))
            fail("shuffle of width %d at %s:%d: must be a power of two up to 32\n", in->width,
                 lane[i]->at.file, lane[i]->at.line);
        const int from = source(in, i);
        if (!lane[from])
            fail("lane %d shuffles from lane %d, which is not in mask %08x or has exited, %s:%d\n",
                 i, from, mask, lane[i]->at.file, lane[i]->at.line);
        *(uint64_t *)lane[i]->out = ((const ShuffleIn *)lane[from]->in)->value;
    }
}

static void sync_fn(Thread **, uint32_t) {}

void sync_warp(uint32_t mask, Where at)
{
#ifdef SIMT_TSAN
    /* It orders memory, unlike the others: as at a barrier, all release before anyone acquires. */
    uint64_t *sync = &state.warp_sync[state.cur->warp];
    SIMT_RELEASE(sync);
    collective(mask, sync_fn, nullptr, nullptr, at);
    SIMT_ACQUIRE(sync);
#endif
    collective(mask, sync_fn, nullptr, nullptr, at);
}

void ballot_fn(Thread **lane, uint32_t mask)
{
    uint32_t all = 0;
    for (uint32_t m = mask; m; m &= m - 1) {
        const int i = __builtin_ctz(m);
        all |= (uint32_t) * (const bool *)lane[i]->in << i;
    }
    for (uint32_t m = mask; m; m &= m - 1) *(uint32_t *)lane[__builtin_ctz(m)]->out = all;
}

enum { SUM, MOST, LEAST };
template <int HOW> static void reduce(Thread **lane, uint32_t mask)
{
    int64_t r = *(const int *)lane[__builtin_ctz(mask)]->in;
    for (uint32_t m = mask & (mask - 1); m; m &= m - 1) {
        const int v = *(const int *)lane[__builtin_ctz(m)]->in;
        r = HOW == SUM ? r + v : HOW == MOST ? (v > r ? v : r) : (v < r ? v : r);
    }
    for (uint32_t m = mask; m; m &= m - 1) *(int *)lane[__builtin_ctz(m)]->out = (int)r;
}
void reduce_add_fn(Thread **lane, uint32_t mask)
{
    reduce<SUM>(lane, mask);
}
void reduce_max_fn(Thread **lane, uint32_t mask)
{
    reduce<MOST>(lane, mask);
}
void reduce_min_fn(Thread **lane, uint32_t mask)
{
    reduce<LEAST>(lane, mask);
}

} // namespace simt
