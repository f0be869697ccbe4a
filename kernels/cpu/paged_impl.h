/* paged_impl.h: one task of paged attention in f32 for vectors of any width (see paged.h). Included
 * once by each paged_ISA.c, which defines KERNEL, KERNEL_NAME and AN_VW (vmath.h) before. Elements
 * of a head lie across the lanes, as they do in the pool: keys and values in f32 are read in place.
 */
#include "attention_math.h"
#include "paged.h"

#define CHUNK    AN_PAGED_CHUNK
#define SEGMENT  AN_PAGED_SEGMENT
#define TOGETHER 8 /* keys that a query meets at a time: as many chains */

typedef struct work {
    float *s;         /* [queries][CHUNK]: scores, then probabilities */
    float *o;         /* [queries][padded]: a chunk's outputs */
    float *max, *sum; /* [queries]: its maxima and sums */
    float *k, *v;     /* [CHUNK][padded]: keys and values that cannot be read in place */
    float *nothing;   /* [padded]: where keys would be that are not there */
    const float *key[CHUNK], *value[CHUNK];
} work;

/* ---------------------------------------------------------------- rows of numbers */

/* d elements at p as padded floats times scale. */
V_INLINE void load_row(float *to, const char *p, bool bf16, int d, float scale)
{
    int e = 0;
    for (; e + AN_VL <= d; e += AN_VL) {
        const an_vf x = bf16 ? v_load_bf16((const uint16_t *)(const void *)p + e)
                             : v_load((const float *)(const void *)p + e);
        v_store(to + e, x * scale);
    }
    if (e == d) return;
    const an_vf x = bf16 ? v_load_bf16_n((const uint16_t *)(const void *)p + e, d - e)
                         : v_load_n((const float *)(const void *)p + e, d - e);
    v_store(to + e, x * scale);
}

static void prepare(const an_paged_task *t, float *q)
{
    const an_paged_args *a = t->a;
    const int group = a->heads / a->pool->kv_heads;
    const int64_t size = a->dtype == AN_BF16 ? 2 : 4, dp = an_paged_padded(a->head_dim);
    const float scale = a->softcap > 0 ? a->scale / a->softcap : a->scale * 1.44269504088896341f;
    for (int64_t i = 0; i < t->queries; i++) {
        const int64_t token = t->row->q_start + t->first + i / group;
        const int64_t head = (int64_t)t->kv_head * group + i % group;
        const char *p = (const char *)a->q + (token * a->q_stride + head * a->head_dim) * size;
        load_row(q + i * dp, p, a->dtype == AN_BF16, a->head_dim, scale);
    }
}

/* Points at keys and values c0 .. of a chunk: the places from `from` to `to` are there. */
static void find_chunk(const an_paged_task *t, work *w, int64_t c0, int64_t from, int64_t to)
{
    const an_kv_pool *p = t->a->pool;
    const int d = p->head_dim;
    const int64_t dp = an_paged_padded(d);
    const bool bf16 = p->dtype == AN_BF16, in_place = !bf16 && d % AN_VL == 0;
    for (int64_t j = 0; j < CHUNK; j++) {
        const int64_t pos = c0 + j;
        w->key[j] = w->value[j] = w->nothing;
        if (pos < from || pos >= to) continue;
        const int64_t at = an_kv_place(p, t->row, pos, t->kv_head);
        if (in_place) {
            w->key[j] = (const float *)p->k + at;
            w->value[j] = (const float *)p->v + at;
            continue;
        }
        const int64_t size = bf16 ? 2 : 4;
        load_row(w->k + j * dp, (const char *)p->k + at * size, bf16, d, 1.0f);
        load_row(w->v + j * dp, (const char *)p->v + at * size, bf16, d, 1.0f);
        w->key[j] = w->k + j * dp;
        w->value[j] = w->v + j * dp;
    }
}

/* ---------------------------------------------------------------- scores */

#define EACH_KEY(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

/* The sums over the lanes of eight vectors, each as v_sum adds them. */
V_INLINE void sums_of_8(float *to, an_vf a0, an_vf a1, an_vf a2, an_vf a3, an_vf a4, an_vf a5,
                        an_vf a6, an_vf a7)
{
#if defined(__AVX2__) && AN_VW >= 32
#if AN_VW == 64
#define HALF(a)                                                                                    \
    _mm256_add_ps(_mm512_castps512_ps256((__m512)(a)), _mm512_extractf32x8_ps((__m512)(a), 1))
#else
#define HALF(a) ((__m256)(a))
#endif
    /* the two halves of a pair of vectors, added: one vector's sums below, the other's above */
#define PAIR(a, b)                                                                                 \
    _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31))
    const __m256 b0 = PAIR(HALF(a0), HALF(a4)), b1 = PAIR(HALF(a1), HALF(a5));
    const __m256 b2 = PAIR(HALF(a2), HALF(a6)), b3 = PAIR(HALF(a3), HALF(a7));
    const __m256 c0 = _mm256_add_ps(_mm256_unpacklo_ps(b0, b1), _mm256_unpackhi_ps(b0, b1));
    const __m256 c1 = _mm256_add_ps(_mm256_unpacklo_ps(b2, b3), _mm256_unpackhi_ps(b2, b3));
    _mm256_storeu_ps(
        to, _mm256_add_ps(_mm256_shuffle_ps(c0, c1, 0x44), _mm256_shuffle_ps(c0, c1, 0xee)));
#undef PAIR
#undef HALF
#else
#define SUM(j) to[j] = v_sum(a##j);
    EACH_KEY(SUM)
#undef SUM
#endif
}

/* What is needed soon comes from far away: a head's keys are a few pages here and there. */
V_INLINE void fetch(const float *p, int d)
{
    for (int e = 0; e < d; e += 16) __builtin_prefetch(p + e);
}

/* s[r][j] = q[r] . key[j] for keys j .. j + 7 of the chunk and all queries. */
V_INLINE void scores_of_8(const work *w, const float *q, int64_t queries, int64_t dp, int d,
                          int64_t j)
{
#define POINT(i) const float *k##i = w->key[j + i];
    EACH_KEY(POINT)
    for (int i = 0; i < TOGETHER; i++) {
        if (j + TOGETHER < CHUNK) fetch(w->key[j + TOGETHER + i], d);
        fetch(w->value[j + i], d);
    }
    for (int64_t r = 0; r < queries; r++, q += dp) {
#define BEGIN(i) an_vf a##i = v_set(0);
        EACH_KEY(BEGIN)
        for (int e = 0; e < d; e += AN_VL) {
            const an_vf x = v_load(q + e);
#define STEP(i) a##i = v_fma(x, v_load(k##i + e), a##i);
            EACH_KEY(STEP)
        }
        sums_of_8(w->s + r * CHUNK + j, a0, a1, a2, a3, a4, a5, a6, a7);
    }
#undef POINT
#undef BEGIN
#undef STEP
}

/* ---------------------------------------------------------------- softmax */

V_INLINE float v_largest(an_vf v)
{
    float t[AN_VL];
    v_store(t, v);
    float m = t[0];
    for (int i = 1; i < AN_VL; i++) m = t[i] > m || t[i] != t[i] ? t[i] : m;
    return m;
}

/* Scores of a chunk, of which the places lo .. hi - 1 are seen, become 2^(score - maximum), zeros
 * elsewhere; the maximum and their sum go to state. */
V_INLINE void softmax(float *s, int64_t lo, int64_t hi, float cap, float *max, float *sum)
{
    for (int64_t j = 0; j < lo; j++) s[j] = -INFINITY;
    for (int64_t j = hi; j < CHUNK; j++) s[j] = -INFINITY;
    an_vf top = v_set(-INFINITY), total = v_set(0);
    for (int j = 0; j < CHUNK; j += AN_VL) {
        an_vf x = v_load(s + j);
        if (cap > 0) x = v_tanh(x) * (cap * 1.44269504088896341f);
        v_store(s + j, x);
        top = v_max(top, x);
    }
    if (cap > 0) { /* the cap has made numbers of what was hidden */
        for (int64_t j = 0; j < lo; j++) s[j] = -INFINITY;
        for (int64_t j = hi; j < CHUNK; j++) s[j] = -INFINITY;
        top = v_set(-INFINITY);
        for (int j = 0; j < CHUNK; j += AN_VL) top = v_max(top, v_load(s + j));
    }
    const float m = v_largest(top);
    for (int j = 0; j < CHUNK; j += AN_VL) {
        const an_vf p = exp2_of(v_load(s + j) - m, false);
        total += p;
        v_store(s + j, p);
    }
    *max = m;
    *sum = v_sum(total);
}

/* ---------------------------------------------------------------- outputs */

/* o[i][e ..] += sum over keys lo .. hi - 1, in order, of p[i][key] * value[key][e ..], for nq
 * queries from i = 0 on and ne vectors of elements. */
V_INLINE void outputs_tile(const work *w, const int nq, const int ne, int64_t lo, int64_t hi,
                           const float *p, float *o, int64_t dp, int64_t e)
{
#define LOAD(i, v) (i < nq && v < ne ? v_load(o + i * dp + e + v * AN_VL) : v_set(0))
#define SAVE(i, v, x)                                                                              \
    if (i < nq && v < ne) v_store(o + i * dp + e + v * AN_VL, x);
    an_vf a0 = LOAD(0, 0), a1 = LOAD(0, 1), a2 = LOAD(0, 2), a3 = LOAD(0, 3);
    an_vf b0 = LOAD(1, 0), b1 = LOAD(1, 1), b2 = LOAD(1, 2), b3 = LOAD(1, 3);
    an_vf c0 = LOAD(2, 0), c1 = LOAD(2, 1), c2 = LOAD(2, 2), c3 = LOAD(2, 3);
    for (int64_t j = lo; j < hi; j++) {
        const float *v = w->value[j] + e;
        const an_vf x = v_set(p[j]), y = nq > 1 ? v_set(p[CHUNK + j]) : x;
        const an_vf z = nq > 2 ? v_set(p[2 * CHUNK + j]) : x;
#define STEP(n)                                                                                    \
    if (n < ne) {                                                                                  \
        const an_vf u = v_load(v + n * AN_VL);                                                     \
        a##n = v_fma(x, u, a##n);                                                                  \
        if (nq > 1) b##n = v_fma(y, u, b##n);                                                      \
        if (nq > 2) c##n = v_fma(z, u, c##n);                                                      \
    }
        STEP(0)
        STEP(1)
        STEP(2)
        STEP(3)
#undef STEP
    }
    SAVE(0, 0, a0)
    SAVE(0, 1, a1)
    SAVE(0, 2, a2)
    SAVE(0, 3, a3)
    SAVE(1, 0, b0) SAVE(1, 1, b1) SAVE(1, 2, b2) SAVE(1, 3, b3) SAVE(2, 0, c0) SAVE(2, 1, c1)
        SAVE(2, 2, c2) SAVE(2, 3, c3)
#undef LOAD
#undef SAVE
}

/* What a query sees of the chunk at c0: places lo .. hi - 1 in it; none if hi <= lo. */
typedef struct range {
    int64_t lo, hi;
} range;

static range seen(const an_paged_task *t, int64_t query, int64_t c0)
{
    const int group = t->a->heads / t->a->pool->kv_heads;
    const int64_t position = t->row->pos + t->first + query / group;
    const int64_t lo = an_paged_from(t->a, position) - c0, hi = position + 1 - c0;
    return (range){lo < 0 ? 0 : lo, hi > CHUNK ? CHUNK : hi};
}

/* One slice of a chunk's outputs of up to three queries, ne vectors from element e on: the keys
 * that all see together, those before and after one by one, each query's in order. */
V_INLINE void outputs_of(const an_paged_task *t, const work *w, int64_t c0, int64_t first, int nq,
                         const int ne, int64_t e)
{
    const int64_t dp = an_paged_padded(t->a->head_dim);
    range r[3], all = {0, CHUNK};
    for (int i = 0; i < nq; i++) {
        r[i] = seen(t, first + i, c0);
        if (r[i].lo > all.lo) all.lo = r[i].lo;
        if (r[i].hi < all.hi) all.hi = r[i].hi;
    }
    const float *p = w->s + first * CHUNK;
    float *o = w->o + first * dp;
    for (int i = 0; i < nq; i++)
        for (int v = 0; v < ne; v++) v_store(o + i * dp + e + v * AN_VL, v_set(0));
    if (all.lo >= all.hi) { /* nothing in common */
        for (int i = 0; i < nq; i++)
            outputs_tile(w, 1, ne, r[i].lo, r[i].hi, p + i * CHUNK, o + i * dp, dp, e);
        return;
    }
    for (int i = 0; i < nq; i++)
        if (r[i].lo < all.lo)
            outputs_tile(w, 1, ne, r[i].lo, all.lo, p + i * CHUNK, o + i * dp, dp, e);
    if (nq == 3)
        outputs_tile(w, 3, ne, all.lo, all.hi, p, o, dp, e);
    else if (nq == 2)
        outputs_tile(w, 2, ne, all.lo, all.hi, p, o, dp, e);
    else
        outputs_tile(w, 1, ne, all.lo, all.hi, p, o, dp, e);
    for (int i = 0; i < nq; i++)
        if (all.hi < r[i].hi)
            outputs_tile(w, 1, ne, all.hi, r[i].hi, p + i * CHUNK, o + i * dp, dp, e);
}

static __attribute__((noinline)) void outputs_4(const an_paged_task *t, const work *w, int64_t c0,
                                                int64_t first, int nq, int64_t e)
{
    outputs_of(t, w, c0, first, nq, 4, e);
}
static __attribute__((noinline)) void outputs_1(const an_paged_task *t, const work *w, int64_t c0,
                                                int64_t first, int nq, int64_t e)
{
    outputs_of(t, w, c0, first, nq, 1, e);
}

/* ---------------------------------------------------------------- merging */

/* state = state and then (o, max, sum), both relative to their own maxima. */
V_INLINE void merge_one(float *state, const float *o, float max, float sum, int64_t dp, int d)
{
    float *m = state + dp, *l = state + dp + 1;
    const float top = max > *m || max != max ? max : *m;
    an_vf was = v_set(*m - top), is = v_set(max - top);
    was = exp2_of(was, false);
    is = exp2_of(is, false);
    for (int e = 0; e < d; e += AN_VL)
        v_store(state + e, v_fma(v_load(state + e), was, v_load(o + e) * is));
    *l = *l * was[0] + sum * is[0];
    *m = top;
}

/* A query's first chunk of a segment begins its state. */
static void merge_chunk(const an_paged_task *t, const work *w, int64_t query, int64_t c0,
                        float *state)
{
    const int d = t->a->head_dim, group = t->a->heads / t->a->pool->kv_heads;
    const int64_t dp = an_paged_padded(d);
    const int64_t position = t->row->pos + t->first + query / group;
    const float *o = w->o + query * dp;
    state += query * an_paged_state(d);
    if (c0 > an_paged_from(t->a, position) && c0 % SEGMENT) {
        merge_one(state, o, w->max[query], w->sum[query], dp, d);
        return;
    }
    memcpy(state, o, (size_t)dp * sizeof *o);
    state[dp] = w->max[query];
    state[dp + 1] = w->sum[query];
}

/* Whether a query of a task sees something in [c0, c0 + length). */
static bool sees(const an_paged_task *t, int64_t query, int64_t c0, int64_t length)
{
    const int group = t->a->heads / t->a->pool->kv_heads;
    const int64_t position = t->row->pos + t->first + query / group;
    return position >= c0 && an_paged_from(t->a, position) < c0 + length;
}

static void merge(const an_paged_task *t, int64_t seg, const float *from, float *to)
{
    const int d = t->a->head_dim, group = t->a->heads / t->a->pool->kv_heads;
    const int64_t dp = an_paged_padded(d), step = an_paged_state(d);
    for (int64_t i = 0; i < t->queries; i++, from += step, to += step) {
        if (!sees(t, i, seg * SEGMENT, SEGMENT)) continue;
        const int64_t position = t->row->pos + t->first + i / group;
        if (seg == an_paged_from(t->a, position) / SEGMENT)
            memcpy(to, from, (size_t)(dp + 2) * sizeof *to);
        else
            merge_one(to, from, from[dp], from[dp + 1], dp, d);
    }
}

/* ---------------------------------------------------------------- a task */

static size_t lay_out(int head_dim, int64_t queries, char *base, work *w)
{
    const int64_t dp = an_paged_padded(head_dim);
    const int64_t floats[7] = {queries * CHUNK, queries * dp, queries, queries,
                               CHUNK * dp,      CHUNK * dp,   dp};
    float **to[7] = {&w->s, &w->o, &w->max, &w->sum, &w->k, &w->v, &w->nothing};
    size_t used = 0;
    for (int i = 0; i < 7; i++) {
        *to[i] = base ? (float *)(void *)(base + used) : NULL;
        used += ((size_t)floats[i] * sizeof(float) + 63) & ~(size_t)63;
    }
    return used;
}

static size_t scratch_size(int head_dim, int64_t queries)
{
    work w;
    return lay_out(head_dim, queries, NULL, &w);
}

static void run_chunk(const an_paged_task *t, work *w, const float *q, int64_t c0, int64_t begin,
                      float *state)
{
    const an_paged_args *a = t->a;
    const int64_t dp = an_paged_padded(a->head_dim);
    const int64_t end = t->row->pos + t->first + t->tokens;
    find_chunk(t, w, c0, begin, end);
    for (int64_t j = 0; j < CHUNK && c0 + j < end; j += TOGETHER)
        scores_of_8(w, q, t->queries, dp, a->head_dim, j);
    /* Queries that see the chunk are neighbours: later tokens see later keys. */
    int64_t lo = 0, hi = t->queries;
    while (lo < hi && !sees(t, lo, c0, CHUNK)) lo++;
    while (lo < hi && !sees(t, hi - 1, c0, CHUNK)) hi--;
    for (int64_t i = lo; i < hi; i++) {
        const range r = seen(t, i, c0);
        softmax(w->s + i * CHUNK, r.lo, r.hi, a->softcap, &w->max[i], &w->sum[i]);
    }
    /* A slice of the values stays in the first-level cache for all queries. */
    int64_t e = 0;
    for (; e + 4 * AN_VL <= a->head_dim; e += 4 * AN_VL)
        for (int64_t i = lo; i < hi; i += 3) outputs_4(t, w, c0, i, (int)min64(3, hi - i), e);
    for (; e < a->head_dim; e += AN_VL)
        for (int64_t i = lo; i < hi; i += 3) outputs_1(t, w, c0, i, (int)min64(3, hi - i), e);
    for (int64_t i = lo; i < hi; i++) merge_chunk(t, w, i, c0, state);
}

static void segment(const an_paged_task *t, const float *q, int64_t seg, float *state,
                    void *scratch)
{
    work w;
    lay_out(t->a->head_dim, t->queries, scratch, &w);
    memset(w.nothing, 0, (size_t)an_paged_padded(t->a->head_dim) * sizeof(float));
    const int64_t from = an_paged_from(t->a, t->row->pos + t->first);
    const int64_t last = t->row->pos + t->first + t->tokens - 1;
    int64_t c0 = seg * SEGMENT;
    if (from > c0) c0 = from / CHUNK * CHUNK;
    for (; c0 < (seg + 1) * SEGMENT && c0 <= last; c0 += CHUNK)
        run_chunk(t, &w, q, c0, from, state);
}

static void write(const an_paged_task *t, const float *state)
{
    const an_paged_args *a = t->a;
    const int d = a->head_dim, group = a->heads / a->pool->kv_heads;
    const int64_t dp = an_paged_padded(d), width = (int64_t)a->heads * d;
    for (int64_t i = 0; i < t->queries; i++, state += an_paged_state(d)) {
        const int64_t token = t->row->q_start + t->first + i / group;
        const int64_t at = token * width + ((int64_t)t->kv_head * group + i % group) * d;
        const an_vf by = v_set(1.0f / state[dp + 1]);
        for (int e = 0; e < d; e += AN_VL) {
            const an_vf x = v_load(state + e) * by;
            const int n = d - e;
            if (a->dtype == AN_BF16) {
                uint16_t *y = (uint16_t *)a->y.data + at + e;
                n >= AN_VL ? v_store_bf16(y, x) : v_store_bf16_n(y, x, n);
            } else {
                float *y = (float *)a->y.data + at + e;
                n >= AN_VL ? v_store(y, x) : v_store_n(y, x, n);
            }
        }
    }
}

const an_paged_kernel KERNEL = {.name = KERNEL_NAME,
                                .scratch = scratch_size,
                                .prepare = prepare,
                                .segment = segment,
                                .merge = merge,
                                .write = write};
