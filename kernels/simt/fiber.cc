/* fiber.cc: stacks, the switch between them, and who is next.
 *
 * A fiber is a stack that runs CUDA threads one after the other. A thread that ends without having
 * waited leaves its stack to the next one at once, so an elementwise kernel needs one stack and no
 * switch at all. (Not under ThreadSanitizer: there a stack is what tells two threads apart.) */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "simt.h"
#include "sanitize.h"
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace simt
{

__thread State state;

#if defined(SIMT_ASAN) || defined(SIMT_TSAN)
static const size_t STACK = 512 << 10;
#else
static const size_t STACK = 128 << 10;
#endif
static const size_t GUARD = 4096;

struct Fiber {
    void *sp;
    char *low; /* above the guard page */
    uint32_t number;
    void *fake, *tsan;
    Fiber *next_idle, *next;
#ifndef __x86_64__
    ucontext_t context;
#endif
};

/* ---------------------------------------------------------------- the switch */

#ifdef __x86_64__
/* Saves what a called function must keep, and comes back on the other stack. swapcontext does the
 * same with two system calls: six times slower for a whole kernel. */
__attribute__((naked, noinline)) static void switch_stack(void ** /*save*/, void * /*to*/)
{
    __asm__ volatile("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
                     "mov %rsp,(%rdi)\n mov %rsi,%rsp\n"
                     "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
}
#else
static __thread ucontext_t main_context;
#endif

static void switch_to(Fiber *to)
{
    State &s = state;
    Fiber *from = s.running;
    s.running = to;
    s.switches++;
#ifdef SIMT_ASAN
    void **fake = from ? &from->fake : &s.main_fake;
    __sanitizer_start_switch_fiber(fake, to ? to->low : s.main_low, to ? STACK : s.main_bytes);
#endif
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(to ? to->tsan : s.main_tsan, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef __x86_64__
    switch_stack(from ? &from->sp : &s.main_sp, to ? to->sp : s.main_sp);
#else
    swapcontext(from ? &from->context : &main_context, to ? &to->context : &main_context);
#endif
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(*fake, nullptr, nullptr);
#endif
}

/* ---------------------------------------------------------------- who is next */

uint64_t random_bits(void)
{
    uint64_t &x = state.rng;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

/* Takes a ready thread, in the chosen order; NULL if there is none. */
static Thread *pick(void)
{
    State &s = state;
    const uint32_t n = s.n_ready;
    uint32_t i = MAX_THREADS;
    if (options.order == ORDER_RAND) {
        const uint32_t first = (uint32_t)(random_bits() % n), turn = random_bits() & 63;
        for (uint32_t j = 0; j < n && i == MAX_THREADS; j++) {
            const uint32_t w = (first + j) % n;
            const uint64_t b = s.ready[w], turned = b >> turn | (turn ? b << (64 - turn) : 0);
            if (b) i = w * 64 + ((uint32_t)(__builtin_ctzll(turned) + (int)turn) & 63);
        }
    } else if (options.order == ORDER_REV) {
        for (uint32_t w = n; w-- > 0 && i == MAX_THREADS;)
            if (s.ready[w]) i = w * 64 + 63 - (uint32_t)__builtin_clzll(s.ready[w]);
    } else {
        for (uint32_t w = 0; w < n && i == MAX_THREADS; w++)
            if (s.ready[w]) i = w * 64 + (uint32_t)__builtin_ctzll(s.ready[w]);
    }
    if (i == MAX_THREADS) return nullptr;
    s.ready[i >> 6] &= ~(1ull << (i & 63));
    return &s.threads[i];
}

void set_ready(Thread *t)
{
    t->state = READY;
    state.ready[t->linear >> 6] |= 1ull << (t->linear & 63);
}

/* ---------------------------------------------------------------- fibers */

static void fiber_main(void);

/* The stack as it is before its first thread. */
static void prepare(Fiber *f)
{
    SIMT_UNPOISON(f->low, STACK);
    f->fake = nullptr;
#ifdef __x86_64__
    /* The tops are spread over the sets of the first-level cache: a fifth faster. */
    void **p = (void **)(((uintptr_t)f->low + STACK) & ~(uintptr_t)63) - f->number * 136 % 2048;
    *--p = nullptr;
    *--p = (void *)&fiber_main;
    for (int i = 0; i < 6; i++) *--p = nullptr;
    f->sp = p;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->low;
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = nullptr;
    makecontext(&f->context, fiber_main, 0);
#endif
#ifdef SIMT_TSAN
    if (f->tsan) { /* its thread was given up: what it did lies before all that follows */
        __tsan_switch_to_fiber(f->tsan, __tsan_switch_to_fiber_no_sync);
        SIMT_RELEASE(&state.done_sync);
        __tsan_switch_to_fiber(state.main_tsan, __tsan_switch_to_fiber_no_sync);
        __tsan_destroy_fiber(f->tsan);
    }
    f->tsan = __tsan_create_fiber(0);
#endif
}

static Fiber *take_fiber(void)
{
    State &s = state;
    Fiber *f = s.idle;
    if (f) {
        s.idle = f->next_idle;
        return f;
    }
    f = (Fiber *)calloc(1, sizeof *f);
    if (!f) return nullptr;
    char *map = (char *)mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        free(f);
        return nullptr;
    }
    mprotect(map, GUARD, PROT_NONE);
    f->low = map + GUARD;
    f->number = s.all ? s.all->number + 1 : 0;
    f->next = s.all;
    s.all = f;
    prepare(f);
    return f;
}

/* Continues with thread t, or on the machine thread's own stack if it is NULL. */
static void go_on_with(Thread *t)
{
    State &s = state;
    s.cur = t;
    if (t && !t->fiber && !(t->fiber = take_fiber())) {
        s.cur = nullptr;
        fail("no memory for the stack of a thread\n");
        t = nullptr;
    }
    Fiber *to = t ? t->fiber : nullptr;
    if (to != s.running) switch_to(to);
}

static void fiber_main(void)
{
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    for (;;) {
        State &s = state;
        SIMT_ACQUIRE(&s.start_sync);
        s.body(s.args);
        Fiber *self = s.cur->fiber;
        exit_thread();
        SIMT_RELEASE(&s.done_sync);
        Thread *next = pick();
#ifndef SIMT_TSAN
        if (next && !next->fiber) {
            next->fiber = self;
        } else {
            self->next_idle = s.idle;
            s.idle = self;
        }
#else
        (void)self;
#endif
        go_on_with(next);
    }
}

void wait_turn(void)
{
    Thread *self = state.cur, *next = pick();
    if (next != self) go_on_with(next);
}

void yield(void)
{
    set_ready(state.cur);
    wait_turn();
}

static void know_own_stack(void)
{
    pthread_attr_t a;
    if (pthread_getattr_np(pthread_self(), &a)) return;
    pthread_attr_getstack(&a, &state.main_low, &state.main_bytes);
    pthread_attr_destroy(&a);
#ifdef SIMT_TSAN
    state.main_tsan = __tsan_get_current_fiber();
#endif
}

void run_ready(void)
{
    State &s = state;
    if (!s.main_bytes) know_own_stack();
#ifdef SIMT_TSAN
    /* A block begins: every thread gets a stack of its own, made here: to be made by a thread would
     * be a happens-before edge. */
    if (s.live == s.n_threads) {
        s.idle = nullptr;
        for (Fiber *f = s.all; f; f = f->next) {
            f->next_idle = s.idle;
            s.idle = f;
        }
        for (uint32_t i = 0; i < s.n_threads; i++) s.threads[i].fiber = take_fiber();
    }
#endif
    for (Thread *t; !s.failed && (t = pick());) go_on_with(t);
    s.cur = nullptr;
}

void fibers_reset(void)
{
    state.idle = nullptr;
    for (Fiber *f = state.all; f; f = f->next) {
        prepare(f);
        f->next_idle = state.idle;
        state.idle = f;
    }
}

void fibers_free(void)
{
    for (Fiber *f = state.all, *next; f; f = next) {
        next = f->next;
        SIMT_UNPOISON(f->low, STACK);
#ifdef SIMT_TSAN
        if (f->tsan) __tsan_destroy_fiber(f->tsan);
#endif
        munmap(f->low - GUARD, GUARD + STACK);
        free(f);
    }
    state.all = state.idle = nullptr;
}

} // namespace simt
