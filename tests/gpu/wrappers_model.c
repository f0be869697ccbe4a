/* wrappers_model.c: inputs and expected answers. Layouts of fragments: PTX ISA 8, sections
 * "Warp-level matrix instructions" (mma.m16n8k16, mma.m16n8k32, ldmatrix), written from its
 * formulas element by element; shuffles, votes and conversions: CUDA C++ Programming Guide. */
#include "wrappers_model.h"

#include <math.h>
#include <string.h>

const wrapper_shape wrapper_shapes[N_WRAPPERS] = {
#define X(name, threads, in, out) {threads, in, out},
    WRAPPERS(X) HOPPER_WRAPPERS(X)
#undef X
};

float bits_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

uint32_t float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* ---------------------------------------------------------------- inputs */

static uint32_t random_bits(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 32);
}

/* A whole number from -most to most. */
static int random_int(uint64_t *s, int most)
{
    return (int)((int64_t)(random_bits(s) % (2 * (uint32_t)most + 1)) - most);
}

/* Between -1 and 1, 24 bits. */
static float random_unit(uint64_t *s)
{
    return (float)(random_bits(s) >> 8) / 8388608.0f - 1.0f;
}

static void any_bits(uint32_t *in, int threads, int n, uint64_t seed)
{
    for (int i = 0; i < threads * n; i++) in[i] = random_bits(&seed);
}

/* Rows of ldmatrix: any data; words 4 and 5 of a thread are row numbers, each row's once. */
static void rows(uint32_t *in, int threads, int n, uint64_t seed)
{
    any_bits(in, threads, n, seed);
    for (int word = 4; word < 6; word++) {
        for (int i = 0; i < threads; i++) in[i * n + word] = (uint32_t)i;
        for (int i = threads - 1; i > 0; i--) {
            const int j = (int)(random_bits(&seed) % (uint32_t)(i + 1));
            const uint32_t t = in[i * n + word];
            in[i * n + word] = in[j * n + word];
            in[j * n + word] = t;
        }
    }
}

/* ---------------------------------------------------------------- 16-bit floats */

typedef struct format {
    int exponent_bits, fraction_bits;
} format;
static const format bfloat = {8, 7}, half = {5, 10};

/* The value of 15 bits; infinity's as if it were a number: where rounding begins to give it. */
static double small_value(format f, uint32_t bits)
{
    const int bias = (1 << (f.exponent_bits - 1)) - 1, e = (int)(bits >> f.fraction_bits);
    const double fraction = (double)(bits & ((1u << f.fraction_bits) - 1));
    const double one = (double)(1 << f.fraction_bits);
    return e ? ldexp(1 + fraction / one, e - bias) : ldexp(fraction / one, 1 - bias);
}

static float small_float(format f, uint32_t bits)
{
    const uint32_t infinity = ((1u << f.exponent_bits) - 1) << f.fraction_bits;
    const uint32_t m = bits & 0x7fff;
    const double v = m == infinity ? INFINITY : m > infinity ? NAN : small_value(f, m);
    return (float)(bits & 0x8000 ? -v : v);
}

/* To nearest, ties to even; a NaN is 0x7fff. */
static uint32_t small_bits(format f, float x)
{
    const uint32_t infinity = ((1u << f.exponent_bits) - 1) << f.fraction_bits;
    const uint32_t sign = float_bits(x) >> 16 & 0x8000;
    const double v = fabs((double)x);
    if (v != v) return 0x7fff;
    uint32_t low = 0, high = infinity; /* the largest that is not above v */
    while (low < high) {
        const uint32_t middle = (low + high + 1) / 2;
        if (small_value(f, middle) <= v)
            low = middle;
        else
            high = middle - 1;
    }
    if (low == infinity) return sign | infinity;
    const double below = v - small_value(f, low), above = small_value(f, low + 1) - v;
    return sign | (below < above || (below == above && low % 2 == 0) ? low : low + 1);
}

static uint32_t small_pair(format f, float x, float y)
{
    return small_bits(f, x) | small_bits(f, y) << 16;
}

/* Fragments: accumulators as floats, then pairs of 16-bit numbers; whole, or any. */
static void fragments(uint32_t *in, int threads, int n, uint64_t seed, format f, bool whole)
{
    const int acc = n == 10 ? 4 : 24;
    for (int i = 0; i < threads * n; i++) {
        if (i % n < acc) {
            const float v = whole ? (float)random_int(&seed, 1000) : random_unit(&seed);
            in[i] = float_bits(v);
            continue;
        }
        const float x = whole ? (float)random_int(&seed, 100) : 2 * random_unit(&seed);
        const float y = whole ? (float)random_int(&seed, 100) : 2 * random_unit(&seed);
        in[i] = small_pair(f, x, y);
    }
}
static void bf16_whole(uint32_t *in, int threads, int n, uint64_t seed)
{
    fragments(in, threads, n, seed, bfloat, true);
}
static void bf16_random(uint32_t *in, int threads, int n, uint64_t seed)
{
    fragments(in, threads, n, seed, bfloat, false);
}
static void f16_whole(uint32_t *in, int threads, int n, uint64_t seed)
{
    fragments(in, threads, n, seed, half, true);
}
static void f16_random(uint32_t *in, int threads, int n, uint64_t seed)
{
    fragments(in, threads, n, seed, half, false);
}

/* Accumulators, then any bytes; -128 included. */
static void s8_any(uint32_t *in, int threads, int n, uint64_t seed)
{
    const int acc = n == 10 ? 4 : 24;
    any_bits(in, threads, n, seed);
    for (int i = 0; i < threads * n; i++)
        if (i % n < acc) in[i] = (uint32_t)random_int(&seed, 1 << 20);
}

/* ---------------------------------------------------------------- ldmatrix */

/* Element [row][col] of the m-th matrix: its rows' addresses come from lanes 8 m .. 8 m + 7. */
static uint32_t element(const uint32_t *in, int word, int m, int row, int col)
{
    const uint32_t at = in[(m * 8 + row) * 6 + word];
    return in[at * 6 + (uint32_t)col / 2] >> (16 * (col % 2)) & 0xffff;
}

static void ldmatrix(const uint32_t *in, uint32_t *out, int n, int matrices, bool trans)
{
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < n * matrices; i++) {
            const int word = 4 + i / matrices, m = i % matrices, g = lane / 4, t = lane % 4;
            const uint32_t low =
                trans ? element(in, word, m, 2 * t, g) : element(in, word, m, g, 2 * t);
            const uint32_t high =
                trans ? element(in, word, m, 2 * t + 1, g) : element(in, word, m, g, 2 * t + 1);
            out[lane * n * matrices + i] = low | high << 16;
        }
}
static void m_ldmatrix_x4(const uint32_t *in, uint32_t *out)
{
    ldmatrix(in, out, 1, 4, false);
}
static void m_ldmatrix_x4_trans(const uint32_t *in, uint32_t *out)
{
    ldmatrix(in, out, 1, 4, true);
}
static void m_ldmatrix_x2(const uint32_t *in, uint32_t *out)
{
    ldmatrix(in, out, 1, 2, false);
}
static void m_ldmatrix_x2_trans(const uint32_t *in, uint32_t *out)
{
    ldmatrix(in, out, 1, 2, true);
}
static void m_ldmatrix_x4_n(const uint32_t *in, uint32_t *out)
{
    ldmatrix(in, out, 2, 4, false);
}
static void m_ldmatrix_x4_trans_n(const uint32_t *in, uint32_t *out)
{
    ldmatrix(in, out, 2, 4, true);
}

/* ---------------------------------------------------------------- mma */

/* Words of a lane: d [m][n][4], a [m][4], b [n][2]. One tile of m16n8k16 into sum. */
static void multiply16(const uint32_t *in, int words, int i, int j, int m, int n, format f,
                       double sum[16][8])
{
    double a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const uint32_t *w = in + lane * words + m * n * 4;
        const int g = lane / 4, t = lane % 4;
        for (int e = 0; e < 8; e++) { /* a0..a7 */
            const int row = e < 2 || (e >= 4 && e < 6) ? g : g + 8;
            const int col = t * 2 + (e & 1) + (e >= 4 ? 8 : 0);
            a[row][col] = (double)small_float(f, w[i * 4 + e / 2] >> (16 * (e % 2)) & 0xffff);
        }
        for (int e = 0; e < 4; e++) { /* b0..b3 */
            const int row = t * 2 + (e & 1) + (e >= 2 ? 8 : 0);
            const uint32_t v = w[m * 4 + j * 2 + e / 2];
            b[row][g] = (double)small_float(f, v >> (16 * (e % 2)) & 0xffff);
        }
    }
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++)
            for (int k = 0; k < 16; k++) sum[r][c] += a[r][k] * b[k][c];
}

/* The same, m16n8k32 of signed bytes. */
static void multiply32(const uint32_t *in, int words, int i, int j, int m, int n, double sum[16][8])
{
    int a[16][32], b[32][8];
    for (int lane = 0; lane < 32; lane++) {
        const uint32_t *w = in + lane * words + m * n * 4;
        const int g = lane / 4, t = lane % 4;
        for (int e = 0; e < 16; e++) { /* a0..a15 */
            const int row = e < 4 || (e >= 8 && e < 12) ? g : g + 8;
            const int col = t * 4 + (e & 3) + (e >= 8 ? 16 : 0);
            a[row][col] = (int8_t)(w[i * 4 + e / 4] >> (8 * (e % 4)) & 0xff);
        }
        for (int e = 0; e < 8; e++) { /* b0..b7 */
            const int row = t * 4 + (e & 3) + (e >= 4 ? 16 : 0);
            b[row][g] = (int8_t)(w[m * 4 + j * 2 + e / 4] >> (8 * (e % 4)) & 0xff);
        }
    }
    for (int r = 0; r < 16; r++)
        for (int c = 0; c < 8; c++)
            for (int k = 0; k < 32; k++) sum[r][c] += a[r][k] * b[k][c];
}

/* d += a b for m x n tiles; `bytes` chooses the instruction. */
static void mma(const uint32_t *in, uint32_t *out, int m, int n, format f, bool bytes)
{
    const int words = m * n * 4 + m * 4 + n * 2;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum[16][8] = {{0}};
            if (bytes)
                multiply32(in, words, i, j, m, n, sum);
            else
                multiply16(in, words, i, j, m, n, f, sum);
            for (int lane = 0; lane < 32; lane++)
                for (int e = 0; e < 4; e++) { /* c0..c3 */
                    const int row = lane / 4 + (e < 2 ? 0 : 8), col = lane % 4 * 2 + (e & 1);
                    const int at = (i * n + j) * 4 + e;
                    const uint32_t c = in[lane * words + at];
                    const double d = sum[row][col] + (bytes ? (int32_t)c : (double)bits_float(c));
                    out[lane * m * n * 4 + at] =
                        bytes ? (uint32_t)(int32_t)d : float_bits((float)d);
                }
        }
}
static void m_mma_bf16(const uint32_t *in, uint32_t *out)
{
    mma(in, out, 1, 1, bfloat, false);
}
static void m_mma_f16(const uint32_t *in, uint32_t *out)
{
    mma(in, out, 1, 1, half, false);
}
static void m_mma_s8(const uint32_t *in, uint32_t *out)
{
    mma(in, out, 1, 1, half, true);
}
static void m_mma_bf16_tile(const uint32_t *in, uint32_t *out)
{
    mma(in, out, 2, 3, bfloat, false);
}
static void m_mma_s8_tile(const uint32_t *in, uint32_t *out)
{
    mma(in, out, 2, 3, half, true);
}

/* ---------------------------------------------------------------- copies and barriers */

static void m_cp_async(const uint32_t *in, uint32_t *out)
{
    for (int lane = 0; lane < 64; lane++)
        for (int i = 0; i < 12; i++) {
            const int from = lane ^ 33, s = i / 4;
            const bool valid = in[from * 13 + 12] >> s & 1;
            out[lane * 12 + i] = valid ? in[(from * 3 + s) * 4 + i % 4] : 0;
        }
}

static void m_named_barrier(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 64; i++) out[i] = in[(63 - i) ^ 32] + 1;
    for (int i = 64; i < 96; i++) out[i] = in[64 + (i + 1) % 32];
}

/* ---------------------------------------------------------------- numbers */

static void dp4a_any(uint32_t *in, int threads, int n, uint64_t seed)
{
    any_bits(in, threads, n, seed);
    for (int i = 0; i < threads; i++) in[i * n + 2] = (uint32_t)random_int(&seed, 1 << 30);
    in[0] = in[1] = 0x80808080u; /* -128 four times */
    in[n] = 0x80808080u, in[n + 1] = 0x7f7f7f7fu;
}

static void m_dp4a(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 32; i++) {
        int32_t sum = (int32_t)in[3 * i + 2];
        for (int b = 0; b < 4; b++)
            sum +=
                (int8_t)(in[3 * i] >> (8 * b) & 0xff) * (int8_t)(in[3 * i + 1] >> (8 * b) & 0xff);
        out[i] = (uint32_t)sum;
    }
}

/* Floats whose rounding to 16 bits is delicate: ties of both formats, the ends of their ranges,
 * denormals, infinity and NaN; and any others. */
static void delicate(uint32_t *in, int threads, int n, uint64_t seed)
{
    static const uint32_t special[] = {
        0,          0x80000000, 0x3f808000, 0x3f818000, 0x3f808001, 0xbf807fff, 0x7f7fffff,
        0x7f7f7fff, 0x7f7f8000, 0xff800000, 0x7f800000, 0x7fc00000, 0xffffffff, 0x7f800001,
        0x00000001, 0x80008000, 0x00018000, 0x3f801000, 0x3f803000, 0x3f801001, 0x477fefff,
        0x477ff000, 0xc77fe000, 0x33000000, 0x33000001, 0x33800000, 0x33c00000, 0x387fe000,
        0x387fc000, 0x387ff000, 0xb8800000, 0x38000fff,
    };
    const int n_special = (int)(sizeof special / sizeof *special);
    for (int i = 0; i < threads * n; i++) {
        const uint32_t any = random_bits(&seed), e = 100 + random_bits(&seed) % 45;
        in[i] = i < n_special ? special[i] : i % 2 ? any : (any & 0x807fffff) | e << 23;
        /* Which of a NaN's bits a conversion keeps is nobody's promise, but these give 0x7fff. */
    }
}

static void m_pack_bf16(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 64 * 4; i++)
        out[i] = small_pair(bfloat, bits_float(in[2 * i]), bits_float(in[2 * i + 1]));
}
static void m_to_half(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 64 * 4; i++) out[i] = small_bits(half, bits_float(in[i]));
}

/* Pairs of any 16-bit floats but NaN. */
static void no_nan(uint32_t *in, int threads, int n, uint64_t seed, format f)
{
    const uint32_t infinity = ((1u << f.exponent_bits) - 1) << f.fraction_bits;
    for (int i = 0; i < threads * n; i++) {
        in[i] = 0;
        for (int h = 0; h < 32; h += 16) {
            uint32_t v = random_bits(&seed) & 0xffff;
            if (i < 8) v &= 0x8000 | ((1u << f.fraction_bits) - 1); /* denormal */
            if (i == 8 || (v & 0x7fff) > infinity) v = (v & 0x8000) | infinity;
            in[i] |= v << h;
        }
    }
}
static void bf16_pairs(uint32_t *in, int threads, int n, uint64_t seed)
{
    no_nan(in, threads, n, seed, bfloat);
}
static void half_pairs(uint32_t *in, int threads, int n, uint64_t seed)
{
    no_nan(in, threads, n, seed, half);
}
static void unpack(const uint32_t *in, uint32_t *out, format f)
{
    for (int i = 0; i < 128; i++)
        out[i] = float_bits(small_float(f, in[i / 2] >> (16 * (i % 2)) & 0xffff));
}
static void m_unpack_bf16(const uint32_t *in, uint32_t *out)
{
    unpack(in, out, bfloat);
}
static void m_from_half(const uint32_t *in, uint32_t *out)
{
    unpack(in, out, half);
}

/* Every code there is, four a thread. */
static void all_codes(uint32_t *in, int threads, int n, uint64_t seed)
{
    (void)seed;
    for (uint32_t i = 0; i < (uint32_t)(threads * n); i++)
        in[i] = 0x03020100u + (4 * i & 255) * 0x01010101u;
}
/* A code as bf16; NaN's as if it were a number like the others. */
static uint32_t e4m3_as_bf16(uint32_t code)
{
    const int exponent = (int)(code >> 3 & 15), fraction = (int)(code & 7);
    const float v =
        exponent ? ldexpf((float)(8 + fraction), exponent - 10) : ldexpf((float)fraction, -9);
    return float_bits(code & 0x80 ? -v : v) >> 16;
}
static void m_e4m3_bf16(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 64; i++) {
        uint32_t v[4];
        for (int b = 0; b < 4; b++) v[b] = e4m3_as_bf16(in[i] >> 8 * b & 255);
        out[2 * i] = v[1] | v[3] << 16;
        out[2 * i + 1] = v[0] | v[2] << 16;
    }
}

static void exponents(uint32_t *in, int threads, int n, uint64_t seed)
{
    for (int i = 0; i < threads * n; i++) in[i] = float_bits(75 * random_unit(&seed) - 65);
    in[0] = float_bits(0);
    in[1] = float_bits(-INFINITY); /* a masked key */
    in[2] = float_bits(-1e30f);
}

static void m_fast_exp2(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 64 * 4; i++) out[i] = float_bits((float)exp2((double)bits_float(in[i])));
}

static void m_integers(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 64; i++, in += 3, out += 7) {
        const uint64_t both = (uint64_t)in[1] << 32 | in[0];
        uint32_t ones = 0, leading = 0, first = 0, reversed = 0, bytes = 0;
        for (int b = 0; b < 32; b++) {
            ones += in[0] >> b & 1;
            reversed |= (in[0] >> b & 1) << (31 - b);
            if (!first && (in[0] >> b & 1)) first = (uint32_t)b + 1;
        }
        while (leading < 32 && !(in[0] >> (31 - leading) & 1)) leading++;
        for (int b = 0; b < 4; b++)
            bytes |= (uint32_t)(both >> (8 * (in[2] >> (4 * b) & 7)) & 0xff) << (8 * b);
        out[0] = ones;
        out[1] = leading;
        out[2] = first;
        out[3] = reversed;
        out[4] = (uint32_t)((uint64_t)((int64_t)(int32_t)in[0] * (int32_t)in[1]) >> 32);
        out[5] = (uint32_t)((uint64_t)in[0] * in[1] >> 32);
        out[6] = bytes;
    }
}

/* Halves among them, for rintf; never 0 where it divides. */
static void any_floats(uint32_t *in, int threads, int n, uint64_t seed)
{
    for (int i = 0; i < threads * n; i++) {
        const int kind = i / n % 4;
        float v = random_unit(&seed) * (kind == 0 ? 1 : kind == 1 ? 1000 : 1e6f);
        if (kind == 3) v = (float)random_int(&seed, 2000) / 2 + (i % n == 1 ? 0.25f : 0);
        in[i] = float_bits(v == 0 ? 1 : v);
    }
    in[0] = 0x00000003; /* a denormal number times, plus, by */
}

static void m_floats(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 64; i++, in += 3, out += 10) {
        const float a = bits_float(in[0]), b = bits_float(in[1]), c = bits_float(in[2]);
        const double sum = (double)a + (double)b * (double)c;
        uint64_t bits;
        memcpy(&bits, &sum, 8);
        out[0] = float_bits(a + b);
        out[1] = float_bits(a * b);
        out[2] = float_bits(fmaf(a, b, c));
        out[3] = float_bits(rintf(a));
        out[4] = (uint32_t)lrintf(a);
        out[5] = float_bits(sqrtf(fabsf(a)));
        out[6] = float_bits(a / b);
        out[7] = (uint32_t)bits;
        out[8] = (uint32_t)(bits >> 32);
        const float least = a < b ? a : b;
        out[9] = float_bits(least > c ? least : c);
    }
}

static void moderate(uint32_t *in, int threads, int n, uint64_t seed)
{
    for (int i = 0; i < threads * n; i++) in[i] = float_bits(10 * random_unit(&seed));
}

static void m_approximate(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 64; i++, out += 6) {
        const float f = bits_float(in[i]);
        const double x = (double)f;
        out[0] = float_bits((float)exp(x));
        out[1] = float_bits((float)tanh(x));
        out[2] = float_bits((float)erf(x));
        out[3] = float_bits((float)cos(x));
        out[4] = float_bits((float)exp2(x));
        out[5] = float_bits((float)(1 / sqrt((double)(fabsf(f) + 1e-3f))));
    }
}

/* ---------------------------------------------------------------- warps */

static void lanes(uint32_t *in, int threads, int n, uint64_t seed)
{
    any_bits(in, threads, n, seed);
    for (int i = 0; i < threads; i++) {
        in[i * n] &= 0xbfffffff; /* no NaN */
        in[i * n + 1] %= 32;
    }
}

static void m_shuffles(const uint32_t *in, uint32_t *out)
{
    for (int i = 0; i < 32; i++) {
        const int to = (int)in[2 * i + 1];
        const int from[10] = {to,
                              i ^ 1,
                              i ^ 16,
                              i < 3 ? i : i - 3,
                              i + 5 > 31 ? i : i + 5,
                              i ^ 3,
                              i % 8 < 2 ? i : i - 2,
                              i % 16 + 3 > 15 ? i : i + 3,
                              i / 8 * 8 + to % 8,
                              i ^ 10};
        for (int k = 0; k < 10; k++) out[i * 10 + k] = in[2 * from[k]];
    }
}

static void votes(uint32_t *in, int threads, int n, uint64_t seed)
{
    any_bits(in, threads, n, seed);
    if (seed % 2) in[5 * n] = 7, in[9 * n] = 12345, in[31 * n] = 99;
}

static void m_votes(const uint32_t *in, uint32_t *out)
{
    uint32_t odd = 0, second = 0, sum = 0;
    int32_t most = INT32_MIN, least = INT32_MAX;
    bool seven = false, all = true, ninety_nine = false;
    for (int i = 0; i < 32; i++) {
        const int32_t v = (int32_t)in[i];
        odd |= (in[i] & 1) << i;
        if (i < 16) second |= (in[i] >> 1 & 1) << i;
        sum += in[i];
        most = v > most ? v : most;
        least = v < least ? v : least;
        seven |= (v & 0xff) == 7;
        all &= v != 12345;
        ninety_nine |= v == 99;
    }
    for (int i = 0; i < 32; i++) {
        const uint32_t want[8] = {
            odd,        seven, all, sum, (uint32_t)most, (uint32_t)least, i < 16 ? second : 0,
            ninety_nine};
        memcpy(out + i * 8, want, sizeof want);
    }
}

static void m_atomics(const uint32_t *in, uint32_t *out)
{
    uint32_t sum = 0, odd = 0;
    float whole = 0;
    uint64_t most = 0;
    for (int i = 0; i < 64; i++) {
        const uint64_t v = (uint64_t)in[2 * i] << 32 | in[2 * i + 1];
        sum += in[2 * i];
        whole += (float)(in[2 * i] & 0xff);
        if (v > most) most = v;
        odd += in[2 * i] & 1;
    }
    const uint32_t want[5] = {sum, float_bits(whole), (uint32_t)most, (uint32_t)(most >> 32), odd};
    for (int i = 0; i < 64; i++) memcpy(out + i * 5, want, sizeof want);
}

/* ---------------------------------------------------------------- cases */

#define EXACT(what, data)                                                                          \
    {                                                                                              \
#what "/" #data, WRAP_##what, data, m_##what, 0, 0                                         \
    }
/* Tensor cores keep some 24 bits of a sum's largest term: of 16 products up to 4. */
#define CLOSE(what, data, tol, scale)                                                              \
    {                                                                                              \
#what "/" #data, WRAP_##what, data, m_##what, tol, scale                                   \
    }

const wrapper_case wrapper_cases[] = {
    EXACT(ldmatrix_x4, rows),
    EXACT(ldmatrix_x4_trans, rows),
    EXACT(ldmatrix_x2, rows),
    EXACT(ldmatrix_x2_trans, rows),
    EXACT(ldmatrix_x4_n, rows),
    EXACT(ldmatrix_x4_trans_n, rows),
    EXACT(mma_bf16, bf16_whole),
    EXACT(mma_f16, f16_whole),
    EXACT(mma_s8, s8_any),
    EXACT(mma_bf16_tile, bf16_whole),
    EXACT(mma_s8_tile, s8_any),
    CLOSE(mma_bf16, bf16_random, 1e-6, 16),
    CLOSE(mma_f16, f16_random, 1e-6, 16),
    CLOSE(mma_bf16_tile, bf16_random, 1e-6, 16),
    EXACT(cp_async, any_bits),
    EXACT(named_barrier, any_bits),
    EXACT(dp4a, dp4a_any),
    EXACT(pack_bf16, delicate),
    EXACT(unpack_bf16, bf16_pairs),
    EXACT(e4m3_bf16, all_codes),
    EXACT(e4m3_bf16, any_bits),
    EXACT(to_half, delicate),
    EXACT(from_half, half_pairs),
    CLOSE(fast_exp2, exponents, 1e-6, 1e-31),
    EXACT(shuffles, lanes),
    EXACT(votes, any_bits),
    EXACT(votes, votes),
    EXACT(integers, any_bits),
    EXACT(floats, any_floats),
    CLOSE(approximate, moderate, 1e-6, 0.3),
    EXACT(atomics, any_bits),
};
const int n_wrapper_cases = (int)(sizeof wrapper_cases / sizeof *wrapper_cases);
