/* attention_impl.h: one task of attention for vectors of any width (see attention.h for what a task
 * is). Included once by each attention_ISA.c, which defines before:
 *
 *     KERNEL, KERNEL_NAME  the an_attention_kernel defined here
 *     AN_VW                bytes of a vector, see vmath.h
 *     MR                   rows of a tile: 4 where there are 16 vector registers, 8 where 32
 *     PAIRS                products of pairs of bf16 (MR 8, BF16 tasks alone); else of floats
 *
 * What is multiplied is a unit of 32 bits: a float, or two neighbours in bf16 (elements of a head
 * in the scores, keys in the output), of which one instruction adds both products in f32.
 *
 * Queries lie across the lanes of a vector, up to three vectors of them (a block). So both products
 * are the same small GEMM, scores [keys, queries] and outputs [head_dim, queries]: a tile of MR
 * rows by a block, with broadcasts of k or v against vectors of q or of probabilities; head_dim may
 * be anything, the softmax needs no sum across lanes, and what is padded is whole lanes. */
#include "attention_math.h"

#define LANES AN_VL
#define NV    3 /* vectors of queries in a block */
#define BLOCK (NV * LANES)
#define CHUNK AN_ATTENTION_CHUNK

typedef an_vf vf __attribute__((may_alias));

/* ---------------------------------------------------------------- units */

#if PAIRS
#include "pairs.h"
typedef uint32_t unit __attribute__((may_alias));
typedef an_pairs vunit;
#define UNITS(n) (((n) + 1) / 2)

V_INLINE vunit unit_set(unit x)
{
    return an_pairs_set(x);
}
V_INLINE vf multiply(vunit a, vunit b, vf c)
{
    return an_pairs_add(c, a, b);
}
/* The lanes of x and y, rounded to bf16, as pairs. */
V_INLINE vunit pairs_of(vf x, vf y)
{
#ifdef __AVX512BF16__
    const __m512i order =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (vunit)_mm512_permutexvar_epi16(order,
                                           (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
#else
    return __builtin_convertvector(v_to_bf16(x), an_vu) |
           __builtin_convertvector(v_to_bf16(y), an_vu) << 16;
#endif
}
#else
typedef float unit;
typedef vf vunit;
#define UNITS(n) (n)

V_INLINE vunit unit_set(unit x)
{
    return v_set(x);
}
V_INLINE vf multiply(vunit a, vunit b, vf c)
{
    return v_fma(a, b, c);
}
#endif
#define CHUNK_UNITS UNITS(CHUNK)

/* ---------------------------------------------------------------- packing */

#if PAIRS
_Static_assert(MR == 8 && AN_VW == 64, "panels of v, and the instructions of pairs");

/* out[u * ld + t] = token t's pair u: tokens become columns, those past n zeros. (What scales is
 * the tile.) */
V_INLINE void pack_columns(unit *out, int64_t ld, const char *x, int64_t stride, int64_t n, int d,
                           float scale, bool bf16)
{
    (void)scale, (void)bf16;
    const uint16_t *from = (const uint16_t *)(const void *)x;
    for (int64_t t = 0; t < ld; t += 4) {
        unit *to = out + t;
        for (int64_t e = 0; e < d; e += 8, to += 4 * ld) {
            const f44 m = transpose44(tokens8(from, stride, t, n, e, d));
            *(f4 *)(void *)to = m.a;
            if (e + 2 < d) *(f4 *)(void *)(to + ld) = m.b;
            if (e + 4 < d) *(f4 *)(void *)(to + 2 * ld) = m.c;
            if (e + 6 < d) *(f4 *)(void *)(to + 3 * ld) = m.d;
        }
    }
}

/* v of pack_chunk: [d / MR][CHUNK / 2][MR] pairs of keys; what is past n or d is zeros. */
V_INLINE void pack_values(unit *v, const char *x, int64_t stride, int64_t n, int64_t d, bool bf16)
{
    (void)bf16;
    const uint16_t *from = (const uint16_t *)(const void *)x;
    for (int64_t i = 0; i < n; i += 2)
        for (int64_t e = 0; e < d; e += MR)
            put_pairs(v + e * CHUNK_UNITS + i / 2 * MR, token8(from, stride, i, n, e, d),
                      token8(from, stride, i + 1, n, e, d));
}
#else

/* out[e * ld + t] = scale * token t's element e: tokens become columns, those past n zeros. */
V_INLINE void pack_columns(float *out, int64_t ld, const char *x, int64_t stride, int64_t n, int d,
                           float scale, bool bf16)
{
    for (int64_t t = 0; t < ld; t += 4) {
        float *to = out + t;
        for (int64_t e = 0; e < d; e += 4, to += 4 * ld) {
            const f44 m = transpose44(load44(x, stride, t, n, e, d, bf16));
            *(f4 *)to = m.a * scale;
            if (e + 1 < d) *(f4 *)(to + ld) = m.b * scale;
            if (e + 2 < d) *(f4 *)(to + 2 * ld) = m.c * scale;
            if (e + 3 < d) *(f4 *)(to + 3 * ld) = m.d * scale;
        }
    }
}

/* v of pack_chunk: [d / MR][CHUNK][MR]; keys past n and elements of a last panel past d are zeros.
 * Four keys at a time, so that whole cache lines are written at once: panels lie a power of two
 * apart. */
V_INLINE void pack_values(unit *v, const char *x, int64_t stride, int64_t n, int64_t d, bool bf16)
{
    for (int64_t i = 0; i < n; i += 4)
        for (int64_t e = 0; e < d; e += MR)
            for (int64_t f = 0; f < MR; f += 4) {
                const f44 m = load44(x, stride, i, n, e + f, d, bf16);
                float *to = v + e * CHUNK + i * MR + f;
                *(f4 *)to = m.a;
                *(f4 *)(to + MR) = m.b;
                *(f4 *)(to + 2 * MR) = m.c;
                *(f4 *)(to + 3 * MR) = m.d;
            }
}
#endif

/* k: [keys / MR][units of d][MR], and v, both in the order in which the tiles read them; keys of a
 * last k panel past n are zeros. */
V_INLINE void pack_chunk(const an_attention_task *t, int64_t c0, int64_t n, unit *k, unit *v,
                         bool bf16)
{
    const int64_t size = bf16 ? 2 : 4, d = t->head_dim;
    for (int64_t i = 0; i < n; i += MR)
        pack_columns(k + i * UNITS(d), MR, t->k + (c0 + i) * t->k_stride * size, t->k_stride, n - i,
                     t->head_dim, 1.0f, bf16);
    pack_values(v, t->v + c0 * t->v_stride * size, t->v_stride, n, d, bf16);
}

/* ---------------------------------------------------------------- the tile */

#if MR == 4
#define ROWS(X) X(0) X(1) X(2) X(3)
#else
#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#endif

V_INLINE void put(vf *c, vf sum, const vf *by, const vf *keep)
{
    if (by) sum *= *by;
    if (keep) sum = v_fma(*c, *keep, sum);
    *c = sum;
}

/* c[i][q] = keep[q] * c[i][q] + by * sum over k < n of a[k][i] * b[k][q], k in order from zero; i <
 * MR, q < nv vectors. keep NULL: c is not read; by NULL: 1. Written out row by row: arrays of
 * accumulators end up in memory at -O2. */
V_INLINE void tile(const int nv, int64_t n, const unit *a, const unit *b, const vf *by,
                   const vf *keep, float *c)
{
#define BEGIN(i) vf c##i##0 = v_set(0.0f), c##i##1 = c##i##0, c##i##2 = c##i##0;
    ROWS(BEGIN)
    for (int64_t k = 0; k < n; k++, a += MR, b += nv * LANES) {
        const vunit b0 = *(const vunit *)b;
        const vunit b1 = nv > 1 ? *(const vunit *)(b + LANES) : b0;
        const vunit b2 = nv > 2 ? *(const vunit *)(b + 2 * LANES) : b0;
#define STEP(i)                                                                                    \
    const vunit a##i = unit_set(a[i]);                                                             \
    c##i##0 = multiply(a##i, b0, c##i##0);                                                         \
    if (nv > 1) c##i##1 = multiply(a##i, b1, c##i##1);                                             \
    if (nv > 2) c##i##2 = multiply(a##i, b2, c##i##2);
        ROWS(STEP)
    }
    vf *o = (vf *)c;
#define END(i)                                                                                     \
    put(o + i * nv, c##i##0, by, keep);                                                            \
    if (nv > 1) put(o + i * nv + 1, c##i##1, by, keep ? keep + 1 : NULL);                          \
    if (nv > 2) put(o + i * nv + 2, c##i##2, by, keep ? keep + 2 : NULL);
    ROWS(END)
#undef BEGIN
#undef STEP
#undef END
}

/* ---------------------------------------------------------------- softmax */

/* Scores of keys c0.. of a chunk after the query's own place become -inf. */
static void mask_future(float *s, int64_t lanes, int64_t n, int64_t c0, int64_t first)
{
    for (int64_t k = 0; k < n; k++)
        for (int64_t i = 0; i < min64(lanes, c0 + k - first); i++) s[k * lanes + i] = -INFINITY;
}

/* One vector of queries: n scores, `step` floats apart, become units of 2^(score - new maximum);
 * the running maximum and sum move on, and keep is what the output so far has to be multiplied
 * with. */
V_INLINE void softmax(float *s, int64_t step, int64_t n, bool begin, float *max, float *sum,
                      float *keep)
{
    vf old = v_set(-INFINITY), total = v_set(0.0f);
    if (!begin) old = *(vf *)max;
    vf m = old;
    for (int64_t k = 0; k < n; k++) m = v_max(*(vf *)(s + k * step), m);
#if PAIRS
    for (int64_t k = 0; k < n; k += 2) {
        const vf x = exp2_of(*(vf *)(s + k * step) - m, true);
        const vf y = k + 1 < n ? exp2_of(*(vf *)(s + (k + 1) * step) - m, true) : v_set(0.0f);
        *(vunit *)(void *)(s + k / 2 * step) = pairs_of(x, y);
        total += x + y;
    }
#else
    for (int64_t k = 0; k < n; k++) {
        vf *x = (vf *)(s + k * step);
        *x = exp2_of(*x - m, false);
        total += *x;
    }
#endif
    const vf f = exp2_of(old - m, PAIRS);
    *(vf *)max = m;
    *(vf *)keep = f;
    if (!begin) total = v_fma(*(vf *)sum, f, total);
    *(vf *)sum = total;
}

/* ---------------------------------------------------------------- a task */

/* What a block of queries carries from chunk to chunk, and the chunk. All 64-byte aligned. */
typedef struct work {
    unit *q;      /* [block][units of d][lanes]; floats: times scale * log2(e) */
    float *o;     /* [block][d up to MR][lanes] */
    float *state; /* [block][maximum, sum][BLOCK] */
    unit *k, *v;  /* pack_chunk's */
    float *s;     /* [CHUNK][lanes]: scores, then in its beginning units of probabilities */
    float scale;  /* of scores of pairs: scale * log2(e) */
} work;

V_INLINE int64_t padded(int64_t d)
{
    return (d + MR - 1) / MR * MR;
}

/* Score products are cut so that the part of q in use stays in the first-level cache. */
V_INLINE int64_t depth_of(int64_t d)
{
    const int64_t parts = (d + 191) / 192;
    return (d + parts - 1) / parts;
}

V_INLINE void block_chunk(const int nv, const an_attention_task *t, const work *w, int64_t b,
                          int64_t c0, int64_t n)
{
    const int64_t lanes = nv * LANES, d = UNITS((int64_t)t->head_dim), dp = padded(t->head_dim);
    const unit *q = w->q + b * BLOCK * d;
    float *o = w->o + b * BLOCK * dp, *state = w->state + b * 2 * BLOCK;
    vf keep[NV], one[NV];
    const vf scale = v_set(w->scale);
    for (int i = 0; i < NV; i++) one[i] = v_set(1.0f);

    for (int64_t e = 0; e < d; e += depth_of(d))
        for (int64_t k = 0; k < n; k += MR)
            tile(nv, min64(depth_of(d), d - e), w->k + k * d + e * MR, q + e * lanes,
                 PAIRS ? &scale : NULL, e ? one : NULL, w->s + k * lanes);
    const int64_t first = t->first + b * BLOCK;
    if (t->causal && c0 + n - 1 > first) mask_future(w->s, lanes, n, c0, first);
    for (int i = 0; i < nv; i++)
        softmax(w->s + i * LANES, lanes, n, c0 == 0, state + i * LANES, state + BLOCK + i * LANES,
                (float *)&keep[i]);
    for (int64_t e = 0; e < dp; e += MR)
        tile(nv, UNITS(n), w->v + e * CHUNK_UNITS, (const unit *)(const void *)w->s, NULL,
             c0 ? keep : NULL, o + e * lanes);
}

/* Divides by the sums and turns the columns back into tokens. */
V_INLINE void write_block(const an_attention_task *t, const work *w, int64_t b, int64_t lanes,
                          int64_t n, bool bf16)
{
    const int64_t size = bf16 ? 2 : 4, d = t->head_dim, step = t->y_stride * size;
    const float *o = w->o + b * BLOCK * padded(d), *sum = w->state + b * 2 * BLOCK + BLOCK;
    char *y = t->y + b * BLOCK * t->y_stride * size;
    for (int64_t i = 0; i < n; i += 4) {
        const f4 inv = 1.0f / *(const f4 *)(sum + i);
        for (int64_t e = 0; e < d; e += 4) {
            const float *x = o + e * lanes + i;
            const f44 m = transpose44((f44){*(const f4 *)x * inv, *(const f4 *)(x + lanes) * inv,
                                            *(const f4 *)(x + 2 * lanes) * inv,
                                            *(const f4 *)(x + 3 * lanes) * inv});
            char *to = y + (i * t->y_stride + e) * size;
            store4(to, m.a, bf16, d - e);
            if (i + 1 < n) store4(to + step, m.b, bf16, d - e);
            if (i + 2 < n) store4(to + 2 * step, m.c, bf16, d - e);
            if (i + 3 < n) store4(to + 3 * step, m.d, bf16, d - e);
        }
    }
}

static void write_zeros(const an_attention_task *t)
{
    const int64_t size = t->bf16 ? 2 : 4;
    for (int64_t i = 0; i < t->queries; i++)
        memset(t->y + i * t->y_stride * size, 0, (size_t)(t->head_dim * size));
}

static size_t lay_out(int head_dim, int64_t queries, char *base, work *w)
{
    const int64_t blocks = (queries + BLOCK - 1) / BLOCK, d = head_dim, dp = padded(d);
    const int64_t floats[6] = {blocks * BLOCK * UNITS(d), blocks * BLOCK * dp, blocks * 2 * BLOCK,
                               CHUNK * UNITS(d),          CHUNK_UNITS * dp,    CHUNK * BLOCK};
    void *at[6];
    size_t used = 0;
    for (int i = 0; i < 6; i++) {
        at[i] = base ? base + used : NULL;
        used += ((size_t)floats[i] * sizeof(float) + 63) & ~(size_t)63;
    }
    *w = (work){at[0], at[1], at[2], at[3], at[4], at[5], 0};
    return used;
}

static size_t scratch_size(int head_dim, int64_t queries)
{
    work w;
    return lay_out(head_dim, queries, NULL, &w);
}

static void run(const an_attention_task *t, void *scratch)
{
    if (t->keys <= 0) {
        write_zeros(t);
        return;
    }
    work w;
    lay_out(t->head_dim, t->queries, scratch, &w);
    const int64_t blocks = (t->queries + BLOCK - 1) / BLOCK, size = t->bf16 ? 2 : 4;
    /* The last block has only the vectors that hold a query. */
    const int tail = (int)((t->queries - (blocks - 1) * BLOCK + LANES - 1) / LANES);
    w.scale = t->scale * 1.44269504088896341f;
    for (int64_t b = 0; b < blocks; b++) {
        const char *q = t->q + b * BLOCK * t->q_stride * size;
        const int64_t lanes = b < blocks - 1 ? BLOCK : tail * LANES, n = t->queries - b * BLOCK;
        unit *out = w.q + b * BLOCK * UNITS((int64_t)t->head_dim);
        if (PAIRS || t->bf16)
            pack_columns(out, lanes, q, t->q_stride, n, t->head_dim, w.scale, true);
        else
            pack_columns(out, lanes, q, t->q_stride, n, t->head_dim, w.scale, false);
    }
    for (int64_t c0 = 0; c0 < t->keys; c0 += CHUNK) {
        const int64_t n = min64(CHUNK, t->keys - c0);
        if (t->causal && c0 > t->first + t->queries - 1) break;
        if (PAIRS || t->bf16)
            pack_chunk(t, c0, n, w.k, w.v, true);
        else
            pack_chunk(t, c0, n, w.k, w.v, false);
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t last = t->first + min64((b + 1) * BLOCK, t->queries) - 1;
            if (t->causal && c0 > last) continue;
            if (b < blocks - 1 || tail == 3)
                block_chunk(3, t, &w, b, c0, n);
            else if (tail == 2)
                block_chunk(2, t, &w, b, c0, n);
            else
                block_chunk(1, t, &w, b, c0, n);
        }
    }
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t lanes = b < blocks - 1 ? BLOCK : tail * LANES;
        const int64_t n = min64(BLOCK, t->queries - b * BLOCK);
        if (PAIRS || t->bf16)
            write_block(t, &w, b, lanes, n, true);
        else
            write_block(t, &w, b, lanes, n, false);
    }
}

const an_attention_kernel KERNEL = {
    .name = KERNEL_NAME, .block = BLOCK, .scratch = scratch_size, .run = run};
