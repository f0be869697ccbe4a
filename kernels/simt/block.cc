/* block.cc: running one block: its beginning, its barriers, and what can go wrong. */
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "hopper.h"
#include "sanitize.h"

namespace simt
{

void fail(const char *format, ...)
{
    State &s = state;
    const size_t n = strlen(s.error);
    SIMT_IGNORE_BEGIN();
    va_list ap;
    va_start(ap, format);
    vsnprintf(s.error + n, sizeof s.error - n, format, ap);
    va_end(ap);
    SIMT_IGNORE_END();
    s.failed = true;
    if (!s.cur) return;
    /* Nobody is ready any more: the machine thread's own stack goes on, and this one never does. */
    s.cur->state = EXITED;
    memset(s.ready, 0, sizeof s.ready);
    wait_turn();
    __builtin_unreachable();
}

/* ---------------------------------------------------------------- barriers */

void barrier_once(int id, uint32_t count, Where at)
{
    State &s = state;
    Thread *t = s.cur;
    Barrier &b = s.barriers[id];
    if (b.arrived == 0) {
        b.at = at;
        b.count = count;
    } else if (id == 0 && (b.at.line != at.line || strcmp(b.at.file, at.file) != 0)) {
        fail("divergent barrier: thread (%u,%u,%u) at %s:%d, others at %s:%d\n", SIMT_TID(t),
             at.file, at.line, b.at.file, b.at.line);
    } else if (b.count != count) {
        fail("barrier %d: %u threads at %s:%d, %u at %s:%d\n", id, b.count, b.at.file, b.at.line,
             count, at.file, at.line);
    }
    if (s.live < s.n_threads && count == s.n_threads)
        fail("divergent barrier at %s:%d: %u of %u threads already exited\n", at.file, at.line,
             s.n_threads - s.live, s.n_threads);
    if (++b.arrived < count) {
        t->state = AT_BARRIER;
        t->barrier = (uint8_t)id;
        t->at = at;
        wait_turn();
        return;
    }
    b.arrived = 0;
    for (uint32_t i = 0; i < s.n_threads; i++) {
        Thread *o = &s.threads[i];
        if (o != t && o->state == AT_BARRIER && o->barrier == id) set_ready(o);
    }
    if (options.order != ORDER_SEQ) yield();
}

void warpgroup_meets(uint32_t group, Where at)
{
    barrier_once(N_BARRIERS + (int)group, 128, at);
}

void barrier(int id, uint32_t count, Where at)
{
    const State &s = state;
    if (id < 0 || id >= N_BARRIERS || count == 0 || count > s.n_threads ||
        (count % 32 && count != s.n_threads))
        fail("barrier %d of %u threads at %s:%d: the block has %u threads, ids are 0 to %d\n", id,
             count, at.file, at.line, s.n_threads, N_BARRIERS - 1);
#ifdef SIMT_TSAN
    /* All release, all acquire, and only then may anyone go on: else a thread that is late to
     * acquire would pick up what an early one did after the barrier, and hide a race. */
    uint64_t *sync = &state.barriers[id].sync;
    SIMT_RELEASE(sync);
    barrier_once(id, count, at);
    SIMT_ACQUIRE(sync);
#endif
    barrier_once(id, count, at);
}

void exit_thread(void)
{
    State &s = state;
    Thread *t = s.cur;
    if (t->n_copies)
        fail("thread (%u,%u,%u) exited with cp.async copies not waited for\n", SIMT_TID(t));
    wgmma_exit_check(t);
    Warp &w = s.warps[t->warp];
    t->state = EXITED;
    s.live--;
    w.alive &= ~(1u << t->lane);
    for (int i = 0; i < N_BARRIERS; i++) {
        const Barrier &b = s.barriers[i];
        if (b.arrived && b.count == s.n_threads)
            fail("divergent barrier: thread (%u,%u,%u) exited while %u wait at %s:%d\n",
                 SIMT_TID(t), b.arrived, b.at.file, b.at.line);
    }
    /* Those who wait for this lane need not any more. */
    for (uint32_t p = w.pending; p; p &= p - 1) {
        const uint32_t lane = (uint32_t)__builtin_ctz(p);
        if (w.pending >> lane & 1)
            collective_complete(t->warp, s.threads[t->warp * 32 + lane].mask);
    }
}

/* ---------------------------------------------------------------- the block */

#ifdef SIMT_ASAN
static void poison_static_shared(void) {}
#else
extern "C" {
/* The linker's names for the section of __shared__ variables in the image each thread's copy is
 * made from; nobody may define one. */
extern char __start_simt_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_simt_shared[] __attribute__((weak, visibility("hidden")));
}

struct Region {
    char *at;
    size_t bytes;
};

/* This machine thread's copy: as far from the beginning of its thread-local variables as the
 * section is from the beginning of their image. */
static int find_region(struct dl_phdr_info *info, size_t, void *arg)
{
    const uintptr_t section = (uintptr_t)__start_simt_shared;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &p = info->dlpi_phdr[i];
        if (p.p_type != PT_TLS || section < info->dlpi_addr + p.p_vaddr ||
            section >= info->dlpi_addr + p.p_vaddr + p.p_memsz)
            continue;
        Region *r = (Region *)arg;
        r->at = (char *)info->dlpi_tls_data + (section - info->dlpi_addr - p.p_vaddr);
        r->bytes = (size_t)(__stop_simt_shared - __start_simt_shared);
        return 1;
    }
    return 0;
}

static void poison_static_shared(void)
{
    static __thread Region region;
    if (!__start_simt_shared) return;
#ifdef SIMT_TSAN
    region = {__start_simt_shared, (size_t)(__stop_simt_shared - __start_simt_shared)};
#endif
    if (!region.at) dl_iterate_phdr(find_region, &region);
    if (region.at) memset(region.at, 0xff, region.bytes);
}
#endif

static void begin(void)
{
    State &s = state;
    const uint32_t n = s.n_threads;
    s.live = n;
    s.n_ready = (n + 63) / 64;
    memset(s.ready, 0, sizeof s.ready);
    memset(s.warps, 0, sizeof s.warps);
    for (Barrier &b : s.barriers) b.arrived = 0;
    hopper_begin();
    /* A float, half or bf16 that is read before it is written is a NaN. */
    if (s.dyn) memset(s.dyn, 0xff, s.dyn_bytes);
    poison_static_shared();
    uint3 tid = {0, 0, 0};
    for (uint32_t i = 0; i < n; i++) {
        Thread *t = &s.threads[i];
        t->tid = tid;
        if (++tid.x == s.block_dim.x) {
            tid.x = 0;
            if (++tid.y == s.block_dim.y) {
                tid.y = 0;
                tid.z++;
            }
        }
        t->linear = i;
        t->warp = i / 32;
        t->lane = i % 32;
        t->fiber = nullptr;
        t->n_copies = 0;
        t->open_group = 0;
        wgmma_begin(t);
        s.warps[i / 32].alive |= 1u << (i % 32);
        set_ready(t);
    }
}

static void tell_deadlock(void)
{
    State &s = state;
    fail("deadlock in block (%u,%u,%u):\n", s.block_index.x, s.block_index.y, s.block_index.z);
    const Thread *before = nullptr;
    for (uint32_t i = 0; i < s.n_threads; i++) {
        const Thread *t = &s.threads[i];
        if (t->state == EXITED) continue;
        if (!before || before->state != t->state || before->at.line != t->at.line ||
            before->warp != t->warp)
            fail("  warp %u, lanes from %u on, wait at a %s, %s:%d\n", t->warp, t->lane,
                 t->state == AT_BARRIER ? "barrier"
                 : t->state == AT_WARP  ? "warp collective"
                                        : "mbarrier",
                 t->at.file, t->at.line);
        before = t;
    }
}

void run_block(void)
{
    State &s = state;
    begin();
    SIMT_RELEASE(&s.start_sync);
    for (uint64_t seen = ~0ull; s.live;) {
        run_ready();
        if (s.failed || !s.live) break;
        /* Threads that poll get another turn as long as anything moves. */
        bool polling = false;
        for (uint32_t i = 0; i < s.n_threads && seen != s.progress; i++) {
            if (s.threads[i].state != AT_POLL) continue;
            polling = true;
            set_ready(&s.threads[i]);
        }
        seen = s.progress;
        if (polling) continue;
        tell_deadlock();
        break;
    }
    hopper_end();
    if (s.failed) fibers_reset();
    SIMT_ACQUIRE(&s.done_sync);
}

} // namespace simt
