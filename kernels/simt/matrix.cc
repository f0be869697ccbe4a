/* matrix.cc: asynchronous copies, ldmatrix and mma. The arithmetic is plain loops for the compiler
 * to vectorise; the products are exact in f32, so that AVX2 with or without FMA, and SSE, agree on
 * every bit. */
#include <stdlib.h>
#include <string.h>
#include "include/cuda_fp16.h"
#include "hopper.h"
#include "matrix.h"
#include "sanitize.h"

namespace simt
{

static void check_aligned(const void *p, uint32_t to, const char *what, Where at)
{
    if (((uintptr_t)p & (to - 1)) == 0) return;
    const Thread *t = state.cur;
    fail("%s: address not %u-byte aligned, thread (%u,%u,%u) at %s:%d\n", what, to, SIMT_TID(t),
         at.file, at.line);
}

/* ---------------------------------------------------------------- asynchronous copies */

void cp_async(void *dst, const void *src, uint32_t bytes, uint32_t src_bytes, Where at)
{
    check_aligned(dst, bytes, "cp.async destination", at);
    check_aligned(src, bytes, "cp.async source", at);
    Thread *t = state.cur;
    if (t->n_copies == t->cap_copies) {
        const uint32_t cap = t->cap_copies ? 2 * t->cap_copies : 16;
        SIMT_IGNORE_BEGIN();
        AsyncCopy *more = (AsyncCopy *)realloc(t->copies, cap * sizeof *more);
        SIMT_IGNORE_END();
        if (!more) fail("no memory for cp.async copies\n");
        t->copies = more;
        t->cap_copies = cap;
    }
    SIMT_WRITES(dst, bytes);
    for (uint32_t i = 0; i < bytes; i += 4) *(uint32_t *)((char *)dst + i) = ~0u;
    t->copies[t->n_copies++] = {dst, src, bytes, src_bytes, t->open_group};
}

void cp_async_commit(void)
{
    state.cur->open_group++;
}

void cp_async_wait(uint32_t keep)
{
    Thread *t = state.cur;
    uint32_t left = 0;
    for (uint32_t i = 0; i < t->n_copies; i++) {
        const AsyncCopy c = t->copies[i];
        if (c.group + keep >= t->open_group) { /* not waited for: stays */
            t->copies[left++] = c;
            continue;
        }
        if (c.src_bytes) SIMT_READS(c.src, c.src_bytes);
        SIMT_WRITES(c.dst, c.bytes);
        /* by hand: memcpy would be ThreadSanitizer's */
        for (uint32_t b = 0; b < c.bytes; b += 4)
            *(uint32_t *)((char *)c.dst + b) =
                b < c.src_bytes ? *(const uint32_t *)((const char *)c.src + b) : 0;
        shared_wrote(c.dst, c.bytes);
    }
    t->n_copies = left;
}

/* ---------------------------------------------------------------- ldmatrix */

struct LoadIn {
    const void *const *row;
    int n;
};

static void whole_warp(Thread **lane, uint32_t mask, const char *what)
{
    if (mask == 0xffffffffu) return;
    const Thread *t = lane[__builtin_ctz(mask)];
    fail("%s needs the whole warp, not mask %08x, at %s:%d\n", what, mask, t->at.file, t->at.line);
}

/* Matrices of one instruction from the 8 rows each that lanes 8 m .. 8 m + 7 point at. */
template <int MATRICES, bool TRANSPOSED> static void load_fn(Thread **lane, uint32_t mask)
{
    whole_warp(lane, mask, "ldmatrix");
    const int n = ((const LoadIn *)lane[0]->in)->n;
    for (int i = 0; i < n; i++) {
        for (int m = 0; m < MATRICES; m++) {
            uint16_t t[8][8];
            uint32_t banks = 0;
            for (int r = 0; r < 8; r++) {
                const void *row = ((const LoadIn *)lane[m * 8 + r]->in)->row[i];
                banks |= 1u << ((uintptr_t)row >> 4 & 7);
                memcpy(t[r], row, 16);
            }
            state.conflicts += banks != 0xff;
            for (int l = 0; l < 32; l++) {
                const int g = l / 4, c = l % 4 * 2;
                const uint32_t low = TRANSPOSED ? t[c][g] : t[g][c];
                const uint32_t high = TRANSPOSED ? t[c + 1][g] : t[g][c + 1];
                ((uint32_t *)lane[l]->out)[i * MATRICES + m] = low | high << 16;
            }
        }
    }
}

void ldmatrix_x4(uint32_t *r, const void *const *row, int n, bool transposed, Where at)
{
    for (int i = 0; i < n; i++) {
        check_aligned(row[i], 16, "ldmatrix", at);
        SIMT_READS(row[i], 16);
    }
    const LoadIn in = {row, n};
    collective(0xffffffffu, transposed ? load_fn<4, true> : load_fn<4, false>, &in, r, at);
}

void ldmatrix_x2(uint32_t *r, const void *row, bool transposed, Where at)
{
    if (state.cur->lane < 16) { /* the others' addresses are not used */
        check_aligned(row, 16, "ldmatrix", at);
        SIMT_READS(row, 16);
    }
    const LoadIn in = {&row, 1};
    collective(0xffffffffu, transposed ? load_fn<2, true> : load_fn<2, false>, &in, r, at);
}

/* ---------------------------------------------------------------- mma */

struct MmaIn {
    const uint32_t *a, *b;
    int m, n;
};

enum Kind { BF16, F16 };

template <Kind K> static inline void unpack(uint32_t v, float *low, float *high)
{
    if (K == BF16) {
        const uint32_t l = v << 16, h = v & 0xffff0000u;
        memcpy(low, &l, 4);
        memcpy(high, &h, 4);
    } else {
        *low = __half2float(__half{(unsigned short)v});
        *high = __half2float(__half{(unsigned short)(v >> 16)});
    }
}

typedef float Tile[16][8];

#define SIMT_MULTIPLY                                                                              \
    for (int r = 0; r < 16; r++)                                                                   \
        for (int k = 0; k < 16; k++)                                                               \
            for (int c = 0; c < 8; c++) d[r][c] += a[r][k] * b[k][c];
typedef void (*Multiply)(float (*d)[8], const float (*a)[16], const float (*b)[8]);
static void multiply_any(float (*d)[8], const float (*a)[16], const float (*b)[8])
{
    SIMT_MULTIPLY
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) static void multiply_avx2(float (*d)[8], const float (*a)[16],
                                                          const float (*b)[8])
{
    typedef float Row __attribute__((vector_size(32), aligned(4), may_alias));
    for (int r = 0; r < 16; r += 4) {
        Row d0 = *(Row *)d[r], d1 = *(Row *)d[r + 1], d2 = *(Row *)d[r + 2], d3 = *(Row *)d[r + 3];
        for (int k = 0; k < 16; k++) {
            const Row v = *(const Row *)b[k];
            d0 += a[r][k] * v;
            d1 += a[r + 1][k] * v;
            d2 += a[r + 2][k] * v;
            d3 += a[r + 3][k] * v;
        }
        *(Row *)d[r] = d0, *(Row *)d[r + 1] = d1, *(Row *)d[r + 2] = d2, *(Row *)d[r + 3] = d3;
    }
}
#endif

static Multiply choose_multiply(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return multiply_avx2;
#endif
    return multiply_any;
}

static Multiply chosen_multiply(void)
{
    static Multiply chosen; /* the same whoever writes it */
    Multiply multiply = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (!multiply) __atomic_store_n(&chosen, multiply = choose_multiply(), __ATOMIC_RELAXED);
    return multiply;
}

void multiply_16x8(float (*d)[8], const float (*a)[16], const float (*b)[8])
{
    chosen_multiply()(d, a, b);
}

template <Kind K> static void mma_fn(Thread **lane, uint32_t mask)
{
    const Multiply multiply = chosen_multiply();
    whole_warp(lane, mask, "mma.sync");
    const int m = ((const MmaIn *)lane[0]->in)->m, n = ((const MmaIn *)lane[0]->in)->n;
    enum { MOST = 16 };
    float b[MOST][16][8], a[16][16], d[16][8];
    for (int first = 0; first < n; first += MOST) {
        const int cols = n - first < MOST ? n - first : MOST;
        for (int l = 0; l < 32; l++) {
            const uint32_t *v = ((const MmaIn *)lane[l]->in)->b + 2 * first;
            const int g = l / 4, t = l % 4 * 2;
            for (int j = 0; j < cols; j++, v += 2) {
                unpack<K>(v[0], &b[j][t][g], &b[j][t + 1][g]);
                unpack<K>(v[1], &b[j][t + 8][g], &b[j][t + 9][g]);
            }
        }
        for (int i = 0; i < m; i++) {
            for (int l = 0; l < 32; l++) {
                const uint32_t *v = ((const MmaIn *)lane[l]->in)->a + 4 * i;
                const int g = l / 4, t = l % 4 * 2;
                unpack<K>(v[0], &a[g][t], &a[g][t + 1]);
                unpack<K>(v[1], &a[g + 8][t], &a[g + 8][t + 1]);
                unpack<K>(v[2], &a[g][t + 8], &a[g][t + 9]);
                unpack<K>(v[3], &a[g + 8][t + 8], &a[g + 8][t + 9]);
            }
            for (int j = 0; j < cols; j++) {
                const int at = (i * n + first + j) * 4;
                for (int l = 0; l < 32; l++) {
                    const float *v = (const float *)lane[l]->out + at;
                    memcpy(&d[l / 4][l % 4 * 2], v, 8);
                    memcpy(&d[l / 4 + 8][l % 4 * 2], v + 2, 8);
                }
                multiply(d, a, b[j]);
                for (int l = 0; l < 32; l++) {
                    float *v = (float *)lane[l]->out + at;
                    memcpy(v, &d[l / 4][l % 4 * 2], 8);
                    memcpy(v + 2, &d[l / 4 + 8][l % 4 * 2], 8);
                }
            }
        }
    }
}

void mma_bf16(float *d, const uint32_t *a, const uint32_t *b, int m, int n, Where at)
{
    const MmaIn in = {a, b, m, n};
    collective(0xffffffffu, mma_fn<BF16>, &in, d, at);
}

void mma_f16(float *d, const uint32_t *a, const uint32_t *b, int m, int n, Where at)
{
    const MmaIn in = {a, b, m, n};
    collective(0xffffffffu, mma_fn<F16>, &in, d, at);
}

/* Bytes of k are in order within a register: row g (column g), k = 4 t + byte, the second half 16
 * further. */
static void mma_s8_fn(Thread **lane, uint32_t mask)
{
    whole_warp(lane, mask, "mma.sync");
    const int m = ((const MmaIn *)lane[0]->in)->m, n = ((const MmaIn *)lane[0]->in)->n;
    int8_t a[16][32], b[8][32];
    for (int j = 0; j < n; j++) {
        for (int l = 0; l < 32; l++) {
            const uint32_t *v = ((const MmaIn *)lane[l]->in)->b + 2 * j;
            memcpy(&b[l / 4][l % 4 * 4], &v[0], 4);
            memcpy(&b[l / 4][l % 4 * 4 + 16], &v[1], 4);
        }
        for (int i = 0; i < m; i++) {
            for (int l = 0; l < 32; l++) {
                const uint32_t *v = ((const MmaIn *)lane[l]->in)->a + 4 * i;
                memcpy(&a[l / 4][l % 4 * 4], &v[0], 4);
                memcpy(&a[l / 4 + 8][l % 4 * 4], &v[1], 4);
                memcpy(&a[l / 4][l % 4 * 4 + 16], &v[2], 4);
                memcpy(&a[l / 4 + 8][l % 4 * 4 + 16], &v[3], 4);
            }
            for (int l = 0; l < 32; l++) {
                int *d = (int *)lane[l]->out + (i * n + j) * 4;
                for (int e = 0; e < 4; e++) {
                    const int8_t *x = a[l / 4 + e / 2 * 8], *y = b[l % 4 * 2 + e % 2];
                    int sum = 0;
                    for (int k = 0; k < 32; k++) sum += x[k] * y[k];
                    d[e] = (int)((unsigned)d[e] + (unsigned)sum);
                }
            }
        }
    }
}

void mma_s8(int *d, const uint32_t *a, const uint32_t *b, int m, int n, Where at)
{
    const MmaIn in = {a, b, m, n};
    collective(0xffffffffu, mma_s8_fn, &in, d, at);
}

} // namespace simt
