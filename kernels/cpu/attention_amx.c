/* attention_amx.c: one task of attention in bf16 on AMX tiles (see attention.h for what a task is).
 *
 * A block is 32 queries: two tiles of rows. Scores [32, keys] = q . k^T and outputs
 * [32, head_dim] += probabilities . v both run in steps of 2 x 2 tiles, accumulated in f32 by the
 * tiles; between them the softmax goes along the rows in vectors. q, k and v are packed into whole
 * tiles, zeros beyond their edges, so every query has the same instructions. */
#if defined(__AMX_BF16__) || defined(__AMXBF16__) || defined(AN_AMX_EMULATE)
#define AN_VW 64
#include "attention_math.h"
#include "amx_tile.h"

#define BLOCK 32  /* queries */
#define CHUNK 256 /* keys; part of what the bytes are */
#define TILE  512 /* bf16 elements of a tile: 16 rows of 32 */

typedef uint16_t h16 __attribute__((vector_size(32), may_alias));
typedef an_vf vf __attribute__((may_alias));

/* What a block of queries carries from chunk to chunk, and the chunk. All 64-byte aligned. */
typedef struct work {
    uint16_t *q;  /* [block][dk][2][16 queries][32] */
    float *o;     /* [block][BLOCK][dn * 16] */
    float *state; /* [block][maximum, sum][BLOCK] */
    uint16_t *k;  /* [CHUNK / 16][dk][16 pairs of elements][16 keys][2] */
    uint16_t *v;  /* [CHUNK / 32][dn][16 pairs of keys][16 elements][2] */
    float *s;     /* [BLOCK][CHUNK] scores */
    uint16_t *p;  /* [BLOCK][CHUNK] probabilities */
    int64_t dk;   /* tiles of 32 elements in head_dim */
    int64_t dn;   /* tiles of 16 */
    float scale;  /* |scale| * log2(e); its sign is in q */
} work;

/* ---------------------------------------------------------------- packing */

/* 16 tokens of a block: tiles of rows. sign is 0x8000 where q is to be negated. */
static void pack_q(uint16_t *out, const uint16_t *x, int64_t stride, int64_t n, int64_t d,
                   int64_t dk, uint16_t sign)
{
    for (int64_t t = 0; t < BLOCK; t++)
        for (int64_t e = 0; e < dk * 32; e += 8)
            *(h8 *)(out + (e / 32 * 2 + t / 16) * TILE + t % 16 * 32 + e % 32) =
                token8(x, stride, t, n, e, d) ^ sign;
}

/* 16 keys to dk tiles of pairs of elements: a transposition of 32-bit pairs, four by four. */
static void pack_k(uint16_t *out, const uint16_t *x, int64_t stride, int64_t n, int64_t d,
                   int64_t dk)
{
    for (int64_t t = 0; t < 16; t += 4)
        for (int64_t e = 0; e < dk * 32; e += 8) {
            const f44 m = transpose44(tokens8(x, stride, t, n, e, d));
            uint16_t *to = out + e / 32 * TILE + e % 32 / 2 * 32 + t * 2;
            *(h8 *)to = (h8)m.a;
            *(h8 *)(to + 32) = (h8)m.b;
            *(h8 *)(to + 64) = (h8)m.c;
            *(h8 *)(to + 96) = (h8)m.d;
        }
}

/* 32 keys to dn tiles of pairs of keys, element by element beside each other. */
static void pack_v(uint16_t *out, const uint16_t *x, int64_t stride, int64_t n, int64_t d,
                   int64_t dn)
{
    for (int64_t t = 0; t < 32; t += 2)
        for (int64_t e = 0; e < dn * 16; e += 8) {
            const h8 a = token8(x, stride, t, n, e, d), b = token8(x, stride, t + 1, n, e, d);
            uint16_t *to = out + e / 16 * TILE + t / 2 * 32 + e % 16 * 2;
            put_pairs(to, a, b);
        }
}

static void pack_chunk(const an_attention_task *t, const work *w, int64_t c0, int64_t n)
{
    const uint16_t *k = (const uint16_t *)(const void *)t->k + c0 * t->k_stride;
    const uint16_t *v = (const uint16_t *)(const void *)t->v + c0 * t->v_stride;
    for (int64_t i = 0; i < n; i += 32) {
        for (int64_t j = i; j < i + 32; j += 16)
            pack_k(w->k + j / 16 * w->dk * TILE, k + (j < n ? j : 0) * t->k_stride, t->k_stride,
                   n - j, t->head_dim, w->dk);
        pack_v(w->v + i / 32 * w->dn * TILE, v + i * t->v_stride, t->v_stride, n - i, t->head_dim,
               w->dn);
    }
}

/* ---------------------------------------------------------------- products */

/* Scores of a block with n keys, rounded up to 32. */
static void scores(const work *w, const uint16_t *q, int64_t n)
{
    for (int64_t i = 0; i < n; i += 32) {
        const uint16_t *k = w->k + i / 16 * w->dk * TILE;
        AN_TILES;
        an_tile_zero(0);
        an_tile_zero(1);
        an_tile_zero(2);
        an_tile_zero(3);
        for (int64_t x = 0; x < w->dk; x++) {
            an_tile_load(4, q + x * 2 * TILE, 64);
            an_tile_load(5, q + x * 2 * TILE + TILE, 64);
            an_tile_load(6, k + x * TILE, 64);
            an_tile_load(7, k + (w->dk + x) * TILE, 64);
            an_tile_dpbf16(0, 4, 6);
            an_tile_dpbf16(1, 4, 7);
            an_tile_dpbf16(2, 5, 6);
            an_tile_dpbf16(3, 5, 7);
        }
        an_tile_store(0, w->s + i, CHUNK * 4);
        an_tile_store(1, w->s + i + 16, CHUNK * 4);
        an_tile_store(2, w->s + i + 16 * CHUNK, CHUNK * 4);
        an_tile_store(3, w->s + i + 16 * CHUNK + 16, CHUNK * 4);
    }
}

/* o (+)= probabilities . v, 32 columns of o, or its last 16 (two false). */
V_INLINE void outputs(const work *w, float *o, int64_t x, int64_t n, bool begin, const bool two)
{
    const int64_t step = w->dn * 16, stride = step * 4;
    AN_TILES;
    if (begin) {
        an_tile_zero(0);
        an_tile_zero(2);
        if (two) {
            an_tile_zero(1);
            an_tile_zero(3);
        }
    } else {
        an_tile_load(0, o + x * 16, stride);
        an_tile_load(2, o + 16 * step + x * 16, stride);
        if (two) {
            an_tile_load(1, o + x * 16 + 16, stride);
            an_tile_load(3, o + 16 * step + x * 16 + 16, stride);
        }
    }
    for (int64_t i = 0; i < n; i += 32) {
        const uint16_t *v = w->v + (i / 32 * w->dn + x) * TILE;
        an_tile_load(4, w->p + i, CHUNK * 2);
        an_tile_load(5, w->p + 16 * CHUNK + i, CHUNK * 2);
        an_tile_load(6, v, 64);
        an_tile_dpbf16(0, 4, 6);
        an_tile_dpbf16(2, 5, 6);
        if (two) {
            an_tile_load(7, v + TILE, 64);
            an_tile_dpbf16(1, 4, 7);
            an_tile_dpbf16(3, 5, 7);
        }
    }
    an_tile_store(0, o + x * 16, stride);
    an_tile_store(2, o + 16 * step + x * 16, stride);
    if (two) {
        an_tile_store(1, o + x * 16 + 16, stride);
        an_tile_store(3, o + 16 * step + x * 16 + 16, stride);
    }
}

/* ---------------------------------------------------------------- softmax */

#define HALVES(x, n)                                                                               \
    __builtin_shufflevector(x, x, (0 + n) % 16, (1 + n) % 16, (2 + n) % 16, (3 + n) % 16,          \
                            (4 + n) % 16, (5 + n) % 16, (6 + n) % 16, (7 + n) % 16, (8 + n) % 16,  \
                            (9 + n) % 16, (10 + n) % 16, (11 + n) % 16, (12 + n) % 16,             \
                            (13 + n) % 16, (14 + n) % 16, (15 + n) % 16)

V_INLINE float largest(an_vf x)
{
    x = v_max(x, HALVES(x, 8));
    x = v_max(x, HALVES(x, 4));
    x = v_max(x, HALVES(x, 2));
    x = v_max(x, HALVES(x, 1));
    return x[0];
}

V_INLINE float total(an_vf x)
{
    x += HALVES(x, 8);
    x += HALVES(x, 4);
    x += HALVES(x, 2);
    x += HALVES(x, 1);
    return x[0];
}

V_INLINE h16 round_bf16(an_vf x)
{
#ifdef __AVX512BF16__
    return (h16)_mm512_cvtneps_pbh((__m512)x);
#else
    return (h16)v_to_bf16(x);
#endif
}

/* Keys from the n-th on, and with `causal` those after the query's own place, score -inf. */
static void mask(float *s, int64_t n, bool causal, int64_t first, int64_t c0)
{
    const int64_t padded = (n + 31) / 32 * 32;
    for (int64_t i = 0; i < BLOCK; i++) {
        const int64_t sees = causal ? bounded(first + i + 1 - c0, n) : n;
        for (int64_t k = sees; k < padded; k++) s[i * CHUNK + k] = -INFINITY;
    }
}

/* Scores become probabilities with respect to the new maximum; keep[i]: what row i's outputs so far
 * have to be multiplied with. */
static void softmax(const work *w, float *state, int64_t n, bool begin, float *keep)
{
    float *max = state, *sum = state + BLOCK, top[BLOCK] __attribute__((aligned(64)));
    for (int64_t i = 0; i < BLOCK; i++) {
        const float *s = w->s + i * CHUNK;
        an_vf a = v_set(-INFINITY), b = a;
        for (int64_t k = 0; k < n; k += 32) {
            a = v_max(*(const vf *)(s + k), a);
            b = v_max(*(const vf *)(s + k + 16), b);
        }
        top[i] = largest(v_max(a, b)) * w->scale;
    }
    for (int64_t i = 0; i < BLOCK; i += 16) {
        vf *m = (vf *)(top + i), *old = (vf *)(max + i);
        if (!begin) *m = v_max(*m, *old);
        if (!begin) *(vf *)(keep + i) = exp2_of(*old - *m, true);
        *old = *m;
    }
    for (int64_t i = 0; i < BLOCK; i++) {
        const float *s = w->s + i * CHUNK;
        uint16_t *p = w->p + i * CHUNK;
        const an_vf scale = v_set(w->scale), shift = v_set(-top[i]);
        an_vf a = v_set(0), b = a;
        for (int64_t k = 0; k < n; k += 32) {
            const an_vf x = exp2_of(v_fma(*(const vf *)(s + k), scale, shift), true);
            const an_vf y = exp2_of(v_fma(*(const vf *)(s + k + 16), scale, shift), true);
            *(h16 *)(p + k) = round_bf16(x);
            *(h16 *)(p + k + 16) = round_bf16(y);
            a += x;
            b += y;
        }
        sum[i] = total(a + b) + (begin ? 0 : sum[i] * keep[i]);
    }
}

/* ---------------------------------------------------------------- a task */

static void block_chunk(const an_attention_task *t, const work *w, int64_t b, int64_t c0, int64_t n)
{
    float *o = w->o + b * BLOCK * w->dn * 16, *state = w->state + b * 2 * BLOCK;
    float keep[BLOCK] __attribute__((aligned(64)));
    const bool begin = c0 == 0;
    const int64_t first = t->first + b * BLOCK;
    scores(w, w->q + b * w->dk * 2 * TILE, n);
    if (n % 32 || (t->causal && c0 + n - 1 > first)) mask(w->s, n, t->causal, first, c0);
    softmax(w, state, n, begin, keep);
    for (int64_t i = 0; !begin && i < BLOCK; i++) {
        if (keep[i] == 1) continue;
        vf *x = (vf *)(o + i * w->dn * 16);
        for (int64_t e = 0; e < w->dn; e++) x[e] *= keep[i];
    }
    for (int64_t x = 0; x + 1 < w->dn; x += 2) outputs(w, o, x, n, begin, true);
    if (w->dn % 2) outputs(w, o, w->dn - 1, n, begin, false);
}

static void write_block(const an_attention_task *t, const work *w, int64_t b)
{
    const float *o = w->o + b * BLOCK * w->dn * 16, *sum = w->state + b * 2 * BLOCK + BLOCK;
    for (int64_t i = 0; i < BLOCK && b * BLOCK + i < t->queries; i++) {
        uint16_t *y = (uint16_t *)(void *)t->y + (b * BLOCK + i) * t->y_stride;
        const float inv = 1.0f / sum[i];
        for (int64_t e = 0; e < t->head_dim; e += 16) {
            const h16 x = round_bf16(*(const vf *)(o + i * w->dn * 16 + e) * inv);
            memcpy(y + e, &x, (size_t)bounded(t->head_dim - e, 16) * 2);
        }
    }
}

static size_t lay_out(int head_dim, int64_t queries, char *base, work *w)
{
    const int64_t blocks = (queries + BLOCK - 1) / BLOCK;
    const int64_t dk = (head_dim + 31) / 32, dn = (head_dim + 15) / 16;
    const int64_t bytes[7] = {blocks * dk * 2 * TILE * 2, blocks * BLOCK * dn * 16 * 4,
                              blocks * 2 * BLOCK * 4,     CHUNK / 16 * dk * TILE * 2,
                              CHUNK / 32 * dn * TILE * 2, BLOCK * CHUNK * 4,
                              BLOCK * CHUNK * 2};
    void *at[7];
    size_t used = 0;
    for (int i = 0; i < 7; i++) {
        at[i] = base ? base + used : NULL;
        used += (size_t)bytes[i]; /* all of them multiples of 64 */
    }
    *w = (work){at[0], at[1], at[2], at[3], at[4], at[5], at[6], dk, dn, 0};
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
        for (int64_t i = 0; i < t->queries; i++)
            memset(t->y + i * t->y_stride * 2, 0, (size_t)t->head_dim * 2);
        return;
    }
    work w;
    lay_out(t->head_dim, t->queries, scratch, &w);
    /* Not zero: masked scores are -inf, and 0 * -inf is NaN. */
    w.scale = fmaxf(fabsf(t->scale) * 1.44269504088896341f, 0x1p-100f);
    const int64_t blocks = (t->queries + BLOCK - 1) / BLOCK;
    for (int64_t b = 0; b < blocks; b++)
        pack_q(w.q + b * w.dk * 2 * TILE,
               (const uint16_t *)(const void *)t->q + b * BLOCK * t->q_stride, t->q_stride,
               t->queries - b * BLOCK, t->head_dim, w.dk, t->scale < 0 ? 0x8000 : 0);
    an_tile_begin();
    for (int64_t c0 = 0; c0 < t->keys; c0 += CHUNK) {
        const int64_t n = bounded(t->keys - c0, CHUNK);
        if (t->causal && c0 > t->first + t->queries - 1) break;
        pack_chunk(t, &w, c0, n);
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t last = t->first + bounded(t->queries, (b + 1) * BLOCK) - 1;
            if (!t->causal || c0 <= last) block_chunk(t, &w, b, c0, n);
        }
    }
    an_tile_end();
    for (int64_t b = 0; b < blocks; b++) write_block(t, &w, b);
}

const an_attention_kernel an_attention_amx = {
    .name = "amx bf16", .block = BLOCK, .scratch = scratch_size, .run = run};
#else
#include "attention.h"
const an_attention_kernel an_attention_amx; /* another processor */
#endif
