/* plain.cuh: attention by multiply-adds, for f32: 16 queries a block, 32 keys a step, the head in
 * slices of 64 elements, any head_dim, states in shared memory. Shared by attention.cu and paged.cu
 * as flash.cuh is, and as independent of the other queries. */
#ifndef ANNEAL_PLAIN_CUH
#define ANNEAL_PLAIN_CUH

#include "flash.cuh"

static constexpr int PLAIN_ROWS = 16, PLAIN_KEYS = 32, PLAIN_SLICE = 64, PLAIN_THREADS = 128;
static constexpr int PLAIN_BY =
    PLAIN_THREADS / PLAIN_ROWS; /* threads that share a query's scores */

/* In floats; rows of what is read across them are a bank longer. */
struct plain_memory {
    float *q;                 /* [ROWS][d] */
    float *o;                 /* [ROWS][d] */
    float *part;              /* [KEYS][SLICE + 1]: of keys, then of values */
    float *s;                 /* [ROWS][KEYS + 1] */
    float *most, *sum, *keep; /* [ROWS] */
    __device__ plain_memory(float *p, int d)
    {
        q = p;
        o = q + PLAIN_ROWS * d;
        part = o + PLAIN_ROWS * d;
        s = part + PLAIN_KEYS * (PLAIN_SLICE + 1);
        most = s + PLAIN_ROWS * (PLAIN_KEYS + 1);
        sum = most + PLAIN_ROWS;
        keep = sum + PLAIN_ROWS;
    }
};
static inline int plain_bytes(int d)
{
    return (int)sizeof(float) * (2 * PLAIN_ROWS * d + PLAIN_KEYS * (PLAIN_SLICE + 1) +
                                 PLAIN_ROWS * (PLAIN_KEYS + 1) + 3 * PLAIN_ROWS);
}

PRIM float plain_float(float x)
{
    return x;
}
PRIM float plain_float(bf16 x)
{
    return __bfloat162float(x);
}

/* States begin anew. */
PRIM void plain_clear(const plain_memory &m, int d)
{
    for (int i = (int)threadIdx.x; i < PLAIN_ROWS * d; i += PLAIN_THREADS) m.o[i] = 0.f;
    if (threadIdx.x < PLAIN_ROWS) {
        m.most[threadIdx.x] = -INFINITY;
        m.sum[threadIdx.x] = 0.f;
    }
}

/* The block's queries, and states that are clear. */
template <class S> PRIM void plain_queries(const plain_memory &m, const S &source, int d)
{
    for (int i = (int)threadIdx.x; i < PLAIN_ROWS * d; i += PLAIN_THREADS) {
        const int r = i / d;
        m.q[i] = source.has(r) ? plain_float(source.row(r)[i % d]) : 0.f;
    }
    plain_clear(m, d);
}

/* part = elements e0 .. of rows first .. of a source, zeros where it has none. */
template <class S>
PRIM void plain_load(const plain_memory &m, const S &source, int first, int e0, int d)
{
    for (int i = (int)threadIdx.x; i < PLAIN_KEYS * PLAIN_SLICE; i += PLAIN_THREADS) {
        const int r = i / PLAIN_SLICE, e = i % PLAIN_SLICE;
        const bool has = source.has(first + r) && e0 + e < d;
        m.part[r * (PLAIN_SLICE + 1) + e] = has ? plain_float(source.row(first + r)[e0 + e]) : 0.f;
    }
}

/* Scores of keys first .. first + 31 in m.s; those that the thread's query does not see (outside
 * lo .. hi) are -inf. */
template <class S>
PRIM void plain_scores(const plain_memory &m, const S &k, int first, int lo, int hi, int d,
                       const flash_score &f)
{
    constexpr int N = PLAIN_KEYS / PLAIN_BY;
    const int row = (int)threadIdx.x / PLAIN_BY, key = (int)threadIdx.x % PLAIN_BY;
    float sum[N] = {};
    for (int e0 = 0; e0 < d; e0 += PLAIN_SLICE) {
        __syncthreads();
        plain_load(m, k, first, e0, d);
        __syncthreads();
        const int n = min(PLAIN_SLICE, d - e0);
        const float *q = m.q + row * d + e0;
        for (int e = 0; e < n; e++)
#pragma unroll
            for (int i = 0; i < N; i++)
                sum[i] += q[e] * m.part[(key + i * PLAIN_BY) * (PLAIN_SLICE + 1) + e];
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int at = key + i * PLAIN_BY;
        const bool seen = first + at >= lo && first + at <= hi;
        m.s[row * (PLAIN_KEYS + 1) + at] = seen ? flash_scored(sum[i], f) : -INFINITY;
    }
}

/* A step of 32 keys: scores, weights, values. Begins with a barrier, ends with one. */
template <class K, class V>
PRIM void plain_step(const plain_memory &m, const K &k, const V &v, int first, int lo, int hi,
                     int d, const flash_score &f)
{
    plain_scores(m, k, first, lo, hi, d, f);
    __syncthreads();
    if (threadIdx.x < PLAIN_ROWS) {
        float *s = m.s + threadIdx.x * (PLAIN_KEYS + 1);
        float most = m.most[threadIdx.x], sum = 0.f;
        for (int i = 0; i < PLAIN_KEYS; i++) most = fmaxf(most, s[i]);
        const float base = most == -INFINITY ? 0.f : most;
        for (int i = 0; i < PLAIN_KEYS; i++) sum += s[i] = exp2f(s[i] - base);
        const float keep = exp2f(m.most[threadIdx.x] - base);
        m.most[threadIdx.x] = most;
        m.sum[threadIdx.x] = fmaf(m.sum[threadIdx.x], keep, sum);
        m.keep[threadIdx.x] = keep;
    }
    constexpr int EACH = PLAIN_ROWS * PLAIN_SLICE / PLAIN_THREADS; /* queries of a thread */
    const int e = (int)threadIdx.x % PLAIN_SLICE, r0 = (int)threadIdx.x / PLAIN_SLICE * EACH;
    for (int e0 = 0; e0 < d; e0 += PLAIN_SLICE) {
        plain_load(m, v, first, e0, d);
        __syncthreads();
        for (int r = r0; r < r0 + EACH && e0 + e < d; r++) {
            const float *s = m.s + r * (PLAIN_KEYS + 1);
            float sum = __fmul_rn(m.o[r * d + e0 + e], m.keep[r]);
            for (int i = 0; i < PLAIN_KEYS; i++)
                sum = fmaf(s[i], m.part[i * (PLAIN_SLICE + 1) + e], sum);
            m.o[r * d + e0 + e] = sum;
        }
        __syncthreads();
    }
}

#endif
