/* sampling_vec.h: the passes over a whole vocabulary, in vectors. Included by sampling.c alone.
 *
 * Each is written once and compiled twice, for any machine and for AVX2: the same operations, so
 * the same bits; no fused ones in either (-ffp-contract=off). */
#ifndef ENGINE_SAMPLING_VEC_H
#define ENGINE_SAMPLING_VEC_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef double vec __attribute__((vector_size(32)));
typedef int64_t ivec __attribute__((vector_size(32)));
typedef float fvec __attribute__((vector_size(32)));
typedef int32_t jvec __attribute__((vector_size(32)));

#define BODY static inline __attribute__((always_inline))
#if defined __x86_64__
#define PASS(type, name, parameters, ...)                                                          \
    static type name##_plain parameters                                                            \
    {                                                                                              \
        return name##_of(__VA_ARGS__);                                                             \
    }                                                                                              \
    __attribute__((target("avx2"))) static type name##_avx2 parameters                             \
    {                                                                                              \
        return name##_of(__VA_ARGS__);                                                             \
    }                                                                                              \
    static type name parameters                                                                    \
    {                                                                                              \
        if (__builtin_cpu_supports("avx2")) return name##_avx2(__VA_ARGS__);                       \
        return name##_plain(__VA_ARGS__);                                                          \
    }
#else
#define PASS(type, name, parameters, ...)                                                          \
    static type name parameters                                                                    \
    {                                                                                              \
        return name##_of(__VA_ARGS__);                                                             \
    }
#endif

/* ---------------------------------------------------------------- exponentials
 * Four at a time in plain arithmetic: quick, and the same bits on every machine, which libm's are
 * not. Cody and Waite's reduction, then the series to the 11th power: right to 2^-47. Arguments
 * below -700 give 0. */

BODY void exp4(const vec *x, vec *y)
{
    static const double c[12] = {
        1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
        1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1,          1};
    vec v = *x;
    ivec in_range = v > -700.0;
    v = (vec)((ivec)v & in_range);
    vec t = v * 1.4426950408889634 + 0x1.8p52, k = t - 0x1.8p52;
    vec r = (v - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
    vec p = r * 0 + c[0];
    for (int i = 1; i < 12; i++) p = p * r + c[i];
    *y = (vec)(((ivec)p + ((ivec)t << 52)) & in_range);
}

/* The last n < 4 of x, and -infinities. */
BODY void load_last(const double *x, int n, vec *v)
{
    double last[4] = {(double)-INFINITY, (double)-INFINITY, (double)-INFINITY, (double)-INFINITY};
    memcpy(last, x, (size_t)n * sizeof *x);
    memcpy(v, last, sizeof *v);
}

/* The sum of exp(x[i] - most): four chains, added at the end. */
BODY double exp_all_of(const double *x, int n, double most)
{
    vec sum = {0, 0, 0, 0}, v, e;
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        memcpy(&v, x + i, sizeof v);
        v = v - most;
        exp4(&v, &e);
        sum += e;
    }
    if (i < n) {
        load_last(x + i, n - i, &v);
        v = v - most;
        exp4(&v, &e);
        sum += e;
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
PASS(double, exp_all, (const double *x, int n, double most), x, n, most)

/* The nearest whole number of a double from 0 to 2^51: adding 2^52 leaves it in the lowest bits. */
static inline uint64_t whole(double v)
{
    uint64_t bits;
    v += 0x1p52;
    memcpy(&bits, &v, sizeof bits);
    return bits & 0xfffffffffffff;
}

/* Weights as whole numbers, the likeliest token's 2^39: y[i] = exp((x[i] - most) * heat_inverse) so
 * rounded, and their sum, which no order of adding changes and 2^24 tokens do not overflow. */
BODY void weigh4(const vec *x, double most, double heat_inverse, ivec *w)
{
    vec v = (*x - most) * heat_inverse, e;
    exp4(&v, &e);
    e = e * 0x1p39 + 0x1p52;
    *w = (ivec)e & 0xfffffffffffff;
}

BODY uint64_t weigh_all_of(const double *x, int n, double most, double heat_inverse, uint64_t *y)
{
    ivec sum = {0, 0, 0, 0}, w;
    vec v;
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        memcpy(&v, x + i, sizeof v);
        weigh4(&v, most, heat_inverse, &w);
        sum += w;
        memcpy(y + i, &w, sizeof w);
    }
    if (i < n) {
        load_last(x + i, n - i, &v);
        weigh4(&v, most, heat_inverse, &w);
        sum += w;
        memcpy(y + i, &w, (size_t)(n - i) * sizeof *y);
    }
    return (uint64_t)(sum[0] + sum[1] + sum[2] + sum[3]);
}
PASS(uint64_t, weigh_all, (const double *x, int n, double most, double heat_inverse, uint64_t *y),
     x, n, most, heat_inverse, y)

/* ---------------------------------------------------------------- the largest */

/* The first of x[0..n-1] that equals v; n if none does. */
BODY int first_float_of(const float *x, int n, float v)
{
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        fvec a;
        memcpy(&a, x + i, sizeof a);
        const jvec same = a == v;
        int64_t any[4];
        memcpy(any, &same, sizeof any);
        if (any[0] | any[1] | any[2] | any[3]) break;
    }
    while (i < n && x[i] != v) i++;
    return i;
}

BODY int first_double_of(const double *x, int n, double v)
{
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        vec a;
        memcpy(&a, x + i, sizeof a);
        const ivec same = a == v;
        if (same[0] | same[1] | same[2] | same[3]) break;
    }
    while (i < n && x[i] != v) i++;
    return i;
}

/* The largest, lowest id first; -1 if there is a NaN or +infinity. All -infinity gives 0. */
BODY int largest_float_of(const float *x, int n)
{
    fvec most = {-INFINITY, -INFINITY, -INFINITY, -INFINITY,
                 -INFINITY, -INFINITY, -INFINITY, -INFINITY},
         v;
    jvec good = most == most;
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&v, x + i, sizeof v);
        good &= v < INFINITY;
        jvec more = v > most;
        most = (fvec)(((jvec)v & more) | ((jvec)most & ~more));
    }
    float top = -INFINITY;
    bool ok = true;
    for (int k = 0; k < 8; k++) {
        ok = ok && good[k];
        if (most[k] > top) top = most[k];
    }
    for (; i < n; i++) {
        ok = ok && x[i] < INFINITY;
        if (x[i] > top) top = x[i];
    }
    if (!ok) return -1;
    i = first_float_of(x, n, top);
    return i < n ? i : 0;
}
PASS(int, largest_float, (const float *x, int n), x, n)

/* Likewise, of what has no NaN. */
BODY int largest_of(const double *x, int n)
{
    vec most = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, v;
    double top = -INFINITY;
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        memcpy(&v, x + i, sizeof v);
        ivec more = v > most;
        most = (vec)(((ivec)v & more) | ((ivec)most & ~more));
    }
    for (; i < n; i++)
        if (x[i] > top) top = x[i];
    for (int k = 0; k < 4; k++)
        if (most[k] > top) top = most[k];
    i = first_double_of(x, n, top);
    return i < n ? i : n - 1;
}
PASS(int, largest, (const double *x, int n), x, n)

#undef BODY
#undef PASS

#endif
