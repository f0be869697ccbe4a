/* quant_avx2.c: a panel against a few rows with AVX2: 32 products of an unsigned and a signed byte
 * an instruction. Numbers of a weight are small, so that several of these products' 16-bit sums can
 * be added before they are widened: all eight of a block with 4-bit numbers (8 * 2 * 15 * 127 <
 * 2^15), four with 5 bits, two with 6. Signed numbers lend their sign to the activation instead. */
#include "quant.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* ---------------------------------------------------------------- activations */

INLINE __m256 load8(const void *x, const bool bf16, int64_t i)
{
    if (!bf16) return _mm256_loadu_ps((const float *)x + i);
    const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)x + i));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

INLINE float max8(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

INLINE int sum8(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* The bits of an_q8_round. */
INLINE void round_block(const void *x, const bool bf16, int64_t i, int rows, int r, char *to)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), largest = _mm256_set1_ps(3.402823466e38f);
    __m256 v[4], most = _mm256_setzero_ps(), finite = _mm256_cmp_ps(most, most, _CMP_EQ_OQ);
    UNROLL
    for (int j = 0; j < 4; j++) {
        v[j] = load8(x, bf16, i + 8 * j);
        const __m256 a = _mm256_andnot_ps(sign, v[j]);
        finite = _mm256_and_ps(finite, _mm256_cmp_ps(a, largest, _CMP_LE_OQ));
        most = _mm256_max_ps(a, most);
    }
    const bool good = _mm256_movemask_ps(finite) == 0xff;
    const float top = max8(most);
    float scale = good ? 0 : __builtin_nanf(""), inverse = 0;
    if (good && top >= AN_Q8_LEAST) {
        scale = top / 127.0f;
        inverse = 127.0f / top;
    }
    __m256i q[4];
    UNROLL
    for (int j = 0; j < 4; j++)
        q[j] = good ? _mm256_cvtps_epi32(_mm256_mul_ps(v[j], _mm256_set1_ps(inverse)))
                    : _mm256_setzero_si256();
    const int low = sum8(_mm256_add_epi32(q[0], q[1])), high = sum8(_mm256_add_epi32(q[2], q[3]));
    const __m256i a = _mm256_packs_epi32(q[0], q[1]), b = _mm256_packs_epi32(q[2], q[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
    const float sum = scale * (float)(low + high);
    const int16_t half[2] = {(int16_t)low, (int16_t)high};
    _mm256_storeu_si256((__m256i *)(void *)(to + 32 * r), bytes);
    memcpy(to + 32 * rows + 4 * r, &scale, 4);
    memcpy(to + 36 * rows + 4 * r, &sum, 4);
    memcpy(to + 40 * rows + 4 * r, half, 4);
}

static void round_row(const void *x, an_dtype dtype, int64_t k, int rows, int r, void *tile)
{
    char *to = tile;
    for (int64_t i = 0; i < k; i += AN_Q8_BLOCK, to += AN_QUANT_X * rows) {
        if (dtype == AN_BF16)
            round_block(x, true, i, rows, r, to);
        else
            round_block(x, false, i, rows, r, to);
    }
}

/* ---------------------------------------------------------------- numbers */

INLINE __m256i load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
INLINE __m256i mask(__m256i v, int bits)
{
    return _mm256_and_si256(v, _mm256_set1_epi8((char)bits));
}
/* Bits `bits` of the bytes, moved up by `by` (down if negative). */
INLINE __m256i bits_to(__m256i v, int bits, int by)
{
    v = mask(v, bits);
    return by > 0 ? _mm256_slli_epi16(v, by) : by < 0 ? _mm256_srli_epi16(v, -by) : v;
}

INLINE __m256i nibbles(const uint8_t *body, int g)
{
    const __m256i v = load(body + g % 4 * 32);
    return mask(g < 4 ? v : _mm256_srli_epi16(v, 4), 15);
}
INLINE __m256i pairs(const uint8_t *body, int g)
{
    return mask(_mm256_srli_epi16(load(body + g / 4 * 32), g % 4 * 2), 3);
}

/* Group g of a body: 4 values of k of each of 8 outputs. */
INLINE __m256i numbers(const an_dtype format, const uint8_t *body, const int g)
{
    const __m256i levels =
        _mm256_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
                         -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    switch (format) {
    case AN_Q8_0:
        return load(body + 32 * g);
    case AN_Q2_K:
        return pairs(body, g);
    case AN_Q3_K:
        return _mm256_or_si256(pairs(body, g), bits_to(load(body + 64), 1 << g, 2 - g));
    case AN_Q6_K:
        return _mm256_or_si256(nibbles(body, g), bits_to(load(body + 128 + g / 4 * 32),
                                                         3 << (g % 4 * 2), 4 - g % 4 * 2));
    case AN_Q5_0:
    case AN_Q5_1:
    case AN_Q5_K:
        return _mm256_or_si256(nibbles(body, g), bits_to(load(body + 128), 1 << g, 4 - g));
    case AN_IQ4_NL:
    case AN_IQ4_XS:
        return _mm256_shuffle_epi8(levels, nibbles(body, g));
    default:
        return nibbles(body, g);
    }
}

/* ---------------------------------------------------------------- what formats differ in */

INLINE bool is_signed(an_dtype f)
{
    return f == AN_Q8_0 || f == AN_IQ4_NL || f == AN_IQ4_XS;
}
INLINE bool of_16(an_dtype f) /* a small scale for every 16 */
{
    return f == AN_Q2_K || f == AN_Q3_K || f == AN_Q6_K;
}
INLINE bool has_sum(an_dtype f) /* minimum or offset, times the sum of x */
{
    return !is_signed(f) && !of_16(f);
}
/* Products of bytes whose sums fit 16 bits. */
INLINE int run_of(an_dtype f)
{
    return is_signed(f)                                               ? 1
           : f == AN_Q6_K                                             ? 2
           : f == AN_Q5_0 || f == AN_Q5_1 || f == AN_Q5_K || of_16(f) ? 4
                                                                      : 8;
}

/* A block's scales. */
typedef struct scales {
    __m256 d, m;        /* of the integer sum; of the sum of x */
    __m256i small, min; /* i16 pairs: of each half */
    __m256i factor[2];  /* small[h] in both places of a pair; or ones */
} scales;

INLINE __m256 halves(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE __m256 bytes_to_ps(const uint8_t *p, const bool sign)
{
    const __m128i b = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm256_cvtepi32_ps(sign ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b));
}
INLINE __m256i bytes_to_16(const uint8_t *p)
{
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE scales scales_of(const an_dtype f, __m256 super_d, __m256 super_m, const uint8_t *head)
{
    scales s = {super_d,
                super_m,
                _mm256_set1_epi16(1),
                _mm256_setzero_si256(),
                {_mm256_set1_epi16(1), _mm256_set1_epi16(1)}};
    if (!an_quant_layout_of(f).super) s.d = halves(head);
    if (f == AN_Q4_1 || f == AN_Q5_1) s.m = halves(head + 16);
    if (f == AN_Q4_0) s.m = _mm256_mul_ps(s.d, _mm256_set1_ps(-8.0f));
    if (f == AN_Q5_0) s.m = _mm256_mul_ps(s.d, _mm256_set1_ps(-16.0f));
    if (f == AN_Q4_K || f == AN_Q5_K) {
        s.d = _mm256_mul_ps(super_d, bytes_to_ps(head, false));
        s.m = _mm256_mul_ps(super_m, bytes_to_ps(head + 8, false));
    }
    if (f == AN_IQ4_XS) s.d = _mm256_mul_ps(super_d, bytes_to_ps(head, true));
    if (of_16(f)) {
        const __m256i one = _mm256_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13, 0,
                                             1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
        s.small = bytes_to_16(head);
        s.factor[0] = _mm256_shuffle_epi8(s.small, one);
        s.factor[1] = _mm256_shuffle_epi8(s.small, _mm256_add_epi8(one, _mm256_set1_epi8(2)));
        if (f == AN_Q2_K) s.min = bytes_to_16(head + 16);
    }
    return s;
}

/* ---------------------------------------------------------------- panels
 * Up to four rows meet two panels at a time: eight sums are under way, and a broadcast serves two
 * of them. Slot i is row i / 2 and panel i % 2. (Eight rows and one panel: 8 % slower.)
 *
 * Written out slot by slot and group by group: gcc 12 leaves arrays of accumulators in memory. */
#define SLOTS(X)  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define GROUPS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

INLINE int32_t int_at(const char *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}
INLINE __m256 splat(const char *p)
{
    float v;
    memcpy(&v, p, 4);
    return _mm256_set1_ps(v);
}

/* part + the products of group g: four activations at x with the weights w of 8 outputs. */
INLINE __m256i products(const an_dtype f, int g, __m256i part, __m256i w, __m256i size,
                        const char *x)
{
    __m256i v = _mm256_set1_epi32(int_at(x));
    if (is_signed(f)) v = _mm256_sign_epi8(v, w);
    v = _mm256_maddubs_epi16(size, v);
    if (g % run_of(f)) v = _mm256_add_epi16(part, v);
    /* Left to itself, gcc adds all groups' products in a tree, and has no registers for it. */
    __asm__("" : "+x"(v));
    return v;
}

/* sum + the 16-bit sums in pairs, times the factor of each. */
INLINE __m256i widened(bool first, __m256i sum, __m256i part, __m256i factor)
{
    const __m256i wide = _mm256_madd_epi16(part, factor);
    sum = first ? wide : _mm256_add_epi32(sum, wide);
    __asm__("" : "+x"(sum));
    return sum;
}

/* acc + a block: its integer sums, and row m's scales in the tile of M rows at x. */
INLINE __m256 add_block(const an_dtype f, const int M, int m, const scales *s, __m256i sum,
                        const char *x, __m256 acc)
{
    const __m256 scale = splat(x + 32 * M + 4 * m);
    const __m256i half_sums = _mm256_set1_epi32(int_at(x + 40 * M + 4 * m));
    if (f == AN_Q6_K || f == AN_Q3_K) {
        const __m256i off = _mm256_madd_epi16(s->small, half_sums);
        sum = _mm256_sub_epi32(sum, _mm256_slli_epi32(off, f == AN_Q6_K ? 5 : 2));
    }
    acc = _mm256_fmadd_ps(_mm256_mul_ps(s->d, scale), _mm256_cvtepi32_ps(sum), acc);
    if (has_sum(f)) acc = _mm256_fmadd_ps(s->m, splat(x + 36 * M + 4 * m), acc);
    if (f == AN_Q2_K) {
        const __m256i min = _mm256_madd_epi16(s->min, half_sums);
        acc = _mm256_fmadd_ps(_mm256_mul_ps(s->m, scale), _mm256_cvtepi32_ps(min), acc);
    }
    return acc;
}

/* out[row][2][8] of R rows from `first` on of a tile of M. */
INLINE void run_panel_of(const an_dtype f, const int M, const int R, const int first,
                         const uint8_t *p, int64_t stride, int64_t blocks, const char *x,
                         float *out)
{
    const an_quant_layout l = an_quant_layout_of(f);
    const int run = run_of(f);
    const __m256i ones = _mm256_set1_epi16(1);
    const uint8_t *q = p + stride;
    const int64_t ahead = an_quant_ahead(stride);
    __m256 super_d[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    __m256 super_m[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
#define BEGIN(i) __m256 acc##i = _mm256_setzero_ps();
    SLOTS(BEGIN)
    while (blocks > 0) {
        for (int i = 0; i < 2 && l.super; i++) {
            super_d[i] = halves(i ? q : p);
            if (l.super > 16)
                super_m[i] = _mm256_mul_ps(halves((i ? q : p) + 16), _mm256_set1_ps(-1.0f));
        }
        p += l.super, q += l.super;
        const int64_t n = l.super ? 8 : blocks;
        blocks -= n;
        for (int64_t b = 0; b < n; b++, x += AN_QUANT_X * M) {
            if (first == 0) an_quant_fetch(p + ahead, q + ahead, l.head + l.body);
            const scales s[2] = {scales_of(f, super_d[0], super_m[0], p),
                                 scales_of(f, super_d[1], super_m[1], q)};
#define NO_SUM(i) __m256i part##i = _mm256_setzero_si256(), sum##i = part##i;
            SLOTS(NO_SUM)
#define STEP(i)                                                                                    \
    if (i < 2 * R) {                                                                               \
        part##i =                                                                                  \
            products(f, g, part##i, w[i % 2], size[i % 2], x + 32 * (first + i / 2) + 4 * g);      \
        if (g % run == run - 1) sum##i = widened(g < run, sum##i, part##i, factor[i % 2]);         \
    }
#define GROUP(number)                                                                              \
    {                                                                                              \
        const int g = number;                                                                      \
        __m256i w[2], size[2], factor[2];                                                          \
        for (int i = 0; i < 2; i++) {                                                              \
            w[i] = numbers(f, (i ? q : p) + l.head, g);                                            \
            size[i] = is_signed(f) ? _mm256_abs_epi8(w[i]) : w[i];                                 \
            factor[i] = of_16(f) ? s[i].factor[g / 4] : ones;                                      \
        }                                                                                          \
        SLOTS(STEP)                                                                                \
    }
            GROUPS(GROUP)
#define END(i)                                                                                     \
    if (i < 2 * R) acc##i = add_block(f, M, first + i / 2, &s[i % 2], sum##i, x, acc##i);
            SLOTS(END)
            p += l.head + l.body, q += l.head + l.body;
        }
    }
#define STORE(i)                                                                                   \
    if (i < 2 * R) _mm256_storeu_ps(out + 16 * (first + i / 2) + 8 * (i % 2), acc##i);
    SLOTS(STORE)
#undef BEGIN
#undef NO_SUM
#undef STEP
#undef GROUP
#undef END
#undef STORE
}

#define PANEL_OF(f)                                                                                \
    static void panel_##f(int rows, const uint8_t *p, int64_t stride, int64_t blocks,              \
                          const char *x, float *out)                                               \
    {                                                                                              \
        switch (rows) {                                                                            \
        case 1:                                                                                    \
            run_panel_of(AN_##f, 1, 1, 0, p, stride, blocks, x, out);                              \
            break;                                                                                 \
        case 2:                                                                                    \
            run_panel_of(AN_##f, 2, 2, 0, p, stride, blocks, x, out);                              \
            break;                                                                                 \
        case 4:                                                                                    \
            run_panel_of(AN_##f, 4, 4, 0, p, stride, blocks, x, out);                              \
            break;                                                                                 \
        default:                                                                                   \
            run_panel_of(AN_##f, 8, 4, 0, p, stride, blocks, x, out);                              \
            run_panel_of(AN_##f, 8, 4, 4, p, stride, blocks, x, out);                              \
            break;                                                                                 \
        }                                                                                          \
    }
#define EACH_FORMAT(X)                                                                             \
    X(Q4_0)                                                                                        \
    X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL) X(IQ4_XS)
EACH_FORMAT(PANEL_OF)

static void run_panel(an_dtype format, int rows, const void *panel, int64_t stride, int64_t blocks,
                      const void *tile, float *out)
{
    static void (*const fns[])(int, const uint8_t *, int64_t, int64_t, const char *, float *) = {
#define ENTRY(f) [AN_##f] = panel_##f,
        EACH_FORMAT(ENTRY)};
    fns[format](rows, panel, stride, blocks, tile, out);
}

const an_quant_kernel an_quant_avx2 = {"avx2", 2, round_row, run_panel, NULL};
#else
const an_quant_kernel an_quant_avx2; /* another processor */
#endif
