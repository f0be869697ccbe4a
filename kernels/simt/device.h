/* device.h: CUDA's language for a C++ compiler: qualifiers, built-in variables, warp functions,
 * atomics, mathematics and the launch. */
#ifndef SIMT_DEVICE_H
#define SIMT_DEVICE_H

#include <math.h>
#include <string.h>
#include "simt.h"

/* ---------------------------------------------------------------- qualifiers */

/* A file's own, so that nvcc's kernels of the same names can be linked into the same binary. */
#define __global__ static
#define __device__
#define __host__
#define __constant__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __align__(n)    __attribute__((aligned(n)))
/* Shared variables lie in a section of their own, one copy a machine thread, so that block.cc can
 * fill them with NaN before each block. The sanitizers see plain statics only (and one machine
 * thread); AddressSanitizer puts its red zones around none that has a section. */
#if defined(SIMT_ASAN)
#define __shared__ static
#elif defined(SIMT_TSAN)
#define __shared__ static __attribute__((section("simt_shared")))
#else
#define __shared__ static __thread __attribute__((section("simt_shared")))
#endif
#define DYN_SHARED(name) unsigned char *name = ::simt::state.dyn

#define threadIdx (::simt::state.cur->tid)
#define blockIdx  (::simt::state.block_index)
#define blockDim  (::simt::state.block_dim)
#define gridDim   (::simt::state.grid_dim)
static const int warpSize = 32;

/* ---------------------------------------------------------------- launch */

namespace simt
{
template <class T> struct Same {
    typedef T type;
};
template <class T> struct Same<const T> {
    typedef T type;
};
template <int... I> struct Indices {
};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {
};
template <int... I> struct Count<0, I...> {
    typedef Indices<I...> type;
};

/* Arguments of a kernel side by side: a tuple, of which C++'s own would need <tuple>. */
template <int I, class T> struct Arg {
    T value;
};
template <class I, class... P> struct Args;
template <int... I, class... P> struct Args<Indices<I...>, P...> : Arg<I, P>... {
    void (*kernel)(P...);
    Args(void (*k)(P...), P... p) : Arg<I, P>{p}..., kernel(k) {}
    static void call(const void *self)
    {
        const Args *a = (const Args *)self;
        a->kernel(a->Arg<I, P>::value...);
    }
};

template <auto K> const char *name_of(void)
{
    return __PRETTY_FUNCTION__;
}
template <class K> struct Launcher;
template <class... P> struct Launcher<void (*)(P...)> {
    void (*kernel)(P...);
    const char *name;
    dim3 grid, block;
    size_t bytes;
    cudaStream_t stream;
    template <class... A> void operator()(A... a) const
    {
        typedef Args<typename Count<sizeof...(P)>::type, P...> Packed;
        static_assert(__is_trivially_copyable(Packed), "a kernel's arguments are copied as bytes");
        const Packed packed(kernel, static_cast<P>(a)...);
        const Launch l = {(const void *)kernel, name, Packed::call, grid, block, bytes,
                          sizeof packed};
        enqueue_launch(&l, &packed, stream);
    }
};
} // namespace simt

#ifndef SIMT_LAUNCHED /* what counts launches, with a comma behind it */
#define SIMT_LAUNCHED
#endif
#define KLAUNCH(kernel, grid, block, bytes, stream)                                                \
    (SIMT_LAUNCHED::simt::Launcher<decltype(&kernel)>{                                             \
        &kernel, ::simt::name_of<&kernel>(), dim3(grid), dim3(block), (size_t)(bytes), stream})

/* Shared memory above 48 KB must be asked for, per kernel: a launch without is an error, as on a
 * GPU. */
extern "C" cudaError_t simt_func_set_shared(const void *kernel, int bytes);
template <class K> static inline cudaError_t cudaFuncSetAttribute(K *f, cudaFuncAttribute a, int v)
{
    return a == cudaFuncAttributeMaxDynamicSharedMemorySize
               ? simt_func_set_shared((const void *)f, v)
               : cudaErrorInvalidValue;
}

/* ---------------------------------------------------------------- barriers and warps */

static inline void __syncthreads(SIMT_WHERE)
{
    simt::barrier(0, simt::state.n_threads, SIMT_AT);
}
static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}

namespace simt
{
enum Shuffle { SHFL_IDX, SHFL_UP, SHFL_DOWN, SHFL_XOR };
struct ShuffleIn {
    uint64_t value;
    int how, arg, width;
};
void shuffle_fn(Thread **lane, uint32_t mask);
void ballot_fn(Thread **lane, uint32_t mask);
void reduce_add_fn(Thread **lane, uint32_t mask);
void reduce_max_fn(Thread **lane, uint32_t mask);
void reduce_min_fn(Thread **lane, uint32_t mask);

template <class T>
static inline T shuffle(uint32_t mask, T v, int how, int arg, int width, Where at)
{
    static_assert(sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
    ShuffleIn in = {0, how, arg, width};
    memcpy((void *)&in.value, (const void *)&v, sizeof v);
    uint64_t out = 0;
    collective(mask, shuffle_fn, &in, &out, at);
    memcpy((void *)&v, (const void *)&out, sizeof v);
    return v;
}
static inline uint32_t ballot(uint32_t mask, bool p, Where at)
{
    uint32_t out = 0;
    collective(mask, ballot_fn, &p, &out, at);
    return out;
}
} // namespace simt

static inline void __syncwarp(uint32_t mask = 0xffffffffu, SIMT_WHERE)
{
    simt::sync_warp(mask, SIMT_AT);
}
template <class T>
static inline T __shfl_sync(uint32_t mask, T v, int lane, int width = 32, SIMT_WHERE)
{
    return simt::shuffle(mask, v, simt::SHFL_IDX, lane, width, SIMT_AT);
}
template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T v, int bits, int width = 32, SIMT_WHERE)
{
    return simt::shuffle(mask, v, simt::SHFL_XOR, bits, width, SIMT_AT);
}
template <class T>
static inline T __shfl_up_sync(uint32_t mask, T v, unsigned by, int width = 32, SIMT_WHERE)
{
    return simt::shuffle(mask, v, simt::SHFL_UP, (int)by, width, SIMT_AT);
}
template <class T>
static inline T __shfl_down_sync(uint32_t mask, T v, unsigned by, int width = 32, SIMT_WHERE)
{
    return simt::shuffle(mask, v, simt::SHFL_DOWN, (int)by, width, SIMT_AT);
}
static inline uint32_t __ballot_sync(uint32_t mask, int p, SIMT_WHERE)
{
    return simt::ballot(mask, p != 0, SIMT_AT);
}
static inline int __any_sync(uint32_t mask, int p, SIMT_WHERE)
{
    return simt::ballot(mask, p != 0, SIMT_AT) != 0;
}
static inline int __all_sync(uint32_t mask, int p, SIMT_WHERE)
{
    return simt::ballot(mask, p == 0, SIMT_AT) == 0;
}
static inline int __reduce_add_sync(uint32_t mask, int v, SIMT_WHERE)
{
    int out = 0;
    simt::collective(mask, simt::reduce_add_fn, &v, &out, SIMT_AT);
    return out;
}
static inline int __reduce_max_sync(uint32_t mask, int v, SIMT_WHERE)
{
    int out = 0;
    simt::collective(mask, simt::reduce_max_fn, &v, &out, SIMT_AT);
    return out;
}
static inline int __reduce_min_sync(uint32_t mask, int v, SIMT_WHERE)
{
    int out = 0;
    simt::collective(mask, simt::reduce_min_fn, &v, &out, SIMT_AT);
    return out;
}
static inline int __syncthreads_count(int p, SIMT_WHERE)
{
    __shared__ int count;
    simt::barrier(0, simt::state.n_threads, SIMT_AT);
    if (simt::state.cur->linear == 0) count = 0;
    simt::barrier(0, simt::state.n_threads, SIMT_AT);
    __atomic_fetch_add(&count, p != 0, __ATOMIC_RELAXED);
    simt::barrier(0, simt::state.n_threads, SIMT_AT);
    return __atomic_load_n(&count, __ATOMIC_RELAXED);
}
static inline int __syncthreads_or(int p, SIMT_WHERE)
{
    return __syncthreads_count(p, file_, line_) != 0;
}

/* ---------------------------------------------------------------- atomics */

#define SIMT_ATOMIC(name, expression)                                                              \
    template <class T> static inline T name(T *p, T v)                                             \
    {                                                                                              \
        T old, next;                                                                               \
        __atomic_load(p, &old, __ATOMIC_RELAXED);                                                  \
        do {                                                                                       \
            next = (T)(expression);                                                                \
        } while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED,               \
                                            __ATOMIC_RELAXED));                                    \
        return old;                                                                                \
    }
SIMT_ATOMIC(atomicAdd, old + v)
SIMT_ATOMIC(atomicSub, old - v)
SIMT_ATOMIC(atomicMax, old > v ? old : v)
SIMT_ATOMIC(atomicMin, old < v ? old : v)
SIMT_ATOMIC(atomicAnd, old &v)
SIMT_ATOMIC(atomicOr, old | v)
SIMT_ATOMIC(atomicXor, old ^ v)
SIMT_ATOMIC(atomicExch, v)
#undef SIMT_ATOMIC
template <class T> static inline T atomicCAS(T *p, T compare, T v)
{
    __atomic_compare_exchange(p, &compare, &v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return compare;
}

/* ---------------------------------------------------------------- mathematics */

template <class T> static inline T max(T a, T b)
{
    return a > b ? a : b;
}
template <class T> static inline T min(T a, T b)
{
    return a < b ? a : b;
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}
static inline float min(float a, float b)
{
    return fminf(a, b);
}

/* Macros, since libm has private functions of these names. */
#define __expf(x)    expf(x)
#define __logf(x)    logf(x)
#define __sinf(x)    sinf(x)
#define __cosf(x)    cosf(x)
#define __powf(x, y) powf(x, y)
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}
static inline double __dmul_rn(double a, double b)
{
    return a * b;
}
static inline double __ddiv_rn(double a, double b)
{
    return a / b;
}
static inline double __ull2double_rn(unsigned long long x)
{
    return (double)x;
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline double rsqrt(double x)
{
    return 1.0 / sqrt(x);
}
static inline int __float2int_rn(float x)
{
    return (int)rintf(x);
}
static inline int __float2int_rz(float x)
{
    return (int)x;
}
static inline float __int2float_rn(int x)
{
    return (float)x;
}
static inline float __uint2float_rn(unsigned x)
{
    return (float)x;
}

static inline int __float_as_int(float f)
{
    int i;
    memcpy(&i, &f, 4);
    return i;
}
static inline unsigned __float_as_uint(float f)
{
    unsigned i;
    memcpy(&i, &f, 4);
    return i;
}
static inline float __int_as_float(int i)
{
    float f;
    memcpy(&f, &i, 4);
    return f;
}
static inline float __uint_as_float(unsigned i)
{
    float f;
    memcpy(&f, &i, 4);
    return f;
}

static inline long long __double_as_longlong(double d)
{
    long long i;
    memcpy(&i, &d, 8);
    return i;
}
static inline double __longlong_as_double(long long i)
{
    double d;
    memcpy(&d, &i, 8);
    return d;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __mulhi(int a, int b)
{
    return (int)((int64_t)a * b >> 32);
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned __brev(unsigned x)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
    return r;
}
/* Four bytes of the eight of b:a, each chosen by a nibble of `which`. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which)
{
    const uint64_t all = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned n = which >> (4 * i) & 15;
        unsigned byte = (unsigned)(all >> (8 * (n & 7))) & 0xff;
        if (n & 8) byte = byte & 0x80 ? 0xff : 0; /* the sign, replicated */
        r |= byte << (8 * i);
    }
    return r;
}
/* c + the dot product of four signed bytes each. */
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
    return c;
}
template <class T> static inline T __ldg(const T *p)
{
    return *p;
}

#endif
