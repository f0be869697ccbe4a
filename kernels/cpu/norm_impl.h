/* norm_impl.h: norms in vectors; included by vec_*.c after vmath.h. Variances are taken around an
 * approximate mean m0 that a first pass over the (cached) data gives: sum (x - m0)^2 - (sum (x -
 * m0))^2 / n loses nothing, however far from zero the data lie. */

/* n elements of a vector at element i; n == AN_VL but in a tail, and a constant where it counts. */
V_INLINE an_vf ld(const void *p, bool bf16, int64_t i, int64_t n)
{
    if (bf16) {
        const uint16_t *h = (const uint16_t *)p + i;
        return n == AN_VL ? v_load_bf16(h) : v_load_bf16_n(h, n);
    }
    const float *f = (const float *)p + i;
    return n == AN_VL ? v_load(f) : v_load_n(f, n);
}
V_INLINE void st(void *p, bool bf16, int64_t i, an_vf v, int64_t n)
{
    if (bf16) {
        uint16_t *h = (uint16_t *)p + i;
        if (n == AN_VL)
            v_store_bf16(h, v);
        else
            v_store_bf16_n(h, v, n);
        return;
    }
    float *f = (float *)p + i;
    if (n == AN_VL)
        v_store(f, v);
    else
        v_store_n(f, v, n);
}

/* ---------------------------------------------------------------- group norm */

/* sum[j..] += pixels of one vector of channels, in order */
V_INLINE void gn_sum(const void *x, bool bf16, int64_t at, int64_t c, int64_t pixels, int64_t n,
                     float *sum)
{
    an_vf s = v_load(sum);
    for (int64_t p = 0; p < pixels; p++) s += ld(x, bf16, at + p * c, n);
    v_store(sum, s);
}
/* the same of (x - mean) and of its square */
V_INLINE void gn_dev(const void *x, bool bf16, int64_t at, int64_t c, int64_t pixels, int64_t n,
                     const float *mean, float *sum, float *square)
{
    an_vf m = v_load(mean), s = v_load(sum), q = v_load(square);
    for (int64_t p = 0; p < pixels; p++) {
        an_vf d = ld(x, bf16, at + p * c, n) - m;
        s += d;
        q = v_fma(d, d, q);
    }
    v_store(sum, s);
    v_store(square, q);
}

/* Four pixels at a time share the loads and stores of the accumulators; the order of the additions
 * to a channel is that of the pixels all the same. */
V_INLINE void gn_moments_of(const void *x, bool bf16, int64_t pixels, int64_t c, int groups,
                            float *scratch, double *mean, double *m2)
{
    int64_t cp = an_vec_padded(c), width = c / groups, whole = c / AN_VL * AN_VL;
    float *sum = scratch, *square = scratch + cp, *m0 = scratch + 2 * cp;
    double count = (double)(pixels * width);
    memset(scratch, 0, (size_t)(3 * cp) * sizeof(float));
    for (int64_t p = 0; p < pixels; p += 4) {
        int64_t np = pixels - p < 4 ? pixels - p : 4, j = 0;
        if (np == 4)
            for (; j < whole; j += AN_VL) gn_sum(x, bf16, p * c + j, c, 4, AN_VL, sum + j);
        for (; j < whole; j += AN_VL) gn_sum(x, bf16, p * c + j, c, np, AN_VL, sum + j);
        if (j < c) gn_sum(x, bf16, p * c + j, c, np, c - j, sum + j);
    }
    for (int64_t g = 0; g < groups; g++) {
        float s = 0;
        for (int64_t i = g * width; i < (g + 1) * width; i++) s += sum[i];
        s /= (float)count;
        for (int64_t i = g * width; i < (g + 1) * width; i++) m0[i] = s;
    }
    memset(sum, 0, (size_t)cp * sizeof(float));
    for (int64_t p = 0; p < pixels; p += 4) {
        int64_t np = pixels - p < 4 ? pixels - p : 4, j = 0;
        if (np == 4)
            for (; j < whole; j += AN_VL)
                gn_dev(x, bf16, p * c + j, c, 4, AN_VL, m0 + j, sum + j, square + j);
        for (; j < whole; j += AN_VL)
            gn_dev(x, bf16, p * c + j, c, np, AN_VL, m0 + j, sum + j, square + j);
        if (j < c) gn_dev(x, bf16, p * c + j, c, np, c - j, m0 + j, sum + j, square + j);
    }
    for (int64_t g = 0; g < groups; g++) {
        double s = 0, q = 0;
        for (int64_t i = g * width; i < (g + 1) * width; i++) {
            s += (double)sum[i];
            q += (double)square[i];
        }
        mean[g] = (double)m0[g * width] + s / count;
        m2[g] = q - s * s / count;
    }
}

static void gn_moments(const void *x, an_dtype t, int64_t pixels, int64_t c, int groups,
                       float *scratch, double *mean, double *m2)
{
    if (t == AN_BF16)
        gn_moments_of(x, true, pixels, c, groups, scratch, mean, m2);
    else
        gn_moments_of(x, false, pixels, c, groups, scratch, mean, m2);
}

V_INLINE void gn_apply_of(const void *x, bool bf16, int64_t pixels, int64_t c, const float *mean,
                          const float *a, const float *b, bool silu, void *y)
{
    int64_t whole = c / AN_VL * AN_VL;
    for (int64_t p = 0; p < pixels; p++) {
        int64_t j = 0;
        for (; j < whole; j += AN_VL) {
            an_vf v = ld(x, bf16, p * c + j, AN_VL) - v_load(mean + j);
            v = v_fma(v, v_load(a + j), v_load(b + j));
            st(y, bf16, p * c + j, silu ? v_silu(v) : v, AN_VL);
        }
        if (j == c) continue;
        an_vf v = ld(x, bf16, p * c + j, c - j) - v_load(mean + j);
        v = v_fma(v, v_load(a + j), v_load(b + j));
        st(y, bf16, p * c + j, silu ? v_silu(v) : v, c - j);
    }
}

static void gn_apply(const void *x, an_dtype t, int64_t pixels, int64_t c, const float *mean,
                     const float *a, const float *b, bool silu, void *y)
{
    if (t == AN_BF16 && silu)
        gn_apply_of(x, true, pixels, c, mean, a, b, true, y);
    else if (t == AN_BF16)
        gn_apply_of(x, true, pixels, c, mean, a, b, false, y);
    else if (silu)
        gn_apply_of(x, false, pixels, c, mean, a, b, true, y);
    else
        gn_apply_of(x, false, pixels, c, mean, a, b, false, y);
}

/* ---------------------------------------------------------------- layer norm, RMS norm */

/* Lanes past the end of a row, which hold zeros, made to hold `v`. */
V_INLINE an_vf fill_tail(an_vf x, float v, int64_t n)
{
    for (int64_t i = n; i < AN_VL; i++) x[i] = v;
    return x;
}

/* Sum of a row by lanes, two chains to hide the latency of addition. */
V_INLINE float row_sum(const void *x, bool bf16, int64_t at, int64_t c)
{
    an_vf s0 = v_set(0), s1 = s0;
    int64_t j = 0;
    for (; j + 2 * AN_VL <= c; j += 2 * AN_VL) {
        s0 += ld(x, bf16, at + j, AN_VL);
        s1 += ld(x, bf16, at + j + AN_VL, AN_VL);
    }
    for (; j + AN_VL <= c; j += AN_VL) s0 += ld(x, bf16, at + j, AN_VL);
    if (j < c) s1 += ld(x, bf16, at + j, c - j);
    return v_sum(s0 + s1);
}
/* Sum of (x - m) and of its square. */
V_INLINE void row_dev(const void *x, bool bf16, int64_t at, int64_t c, float m, float *sum,
                      float *square)
{
    an_vf s0 = v_set(0), s1 = s0, q0 = s0, q1 = s0, d;
    int64_t j = 0;
    for (; j + 2 * AN_VL <= c; j += 2 * AN_VL) {
        d = ld(x, bf16, at + j, AN_VL) - m;
        s0 += d;
        q0 = v_fma(d, d, q0);
        d = ld(x, bf16, at + j + AN_VL, AN_VL) - m;
        s1 += d;
        q1 = v_fma(d, d, q1);
    }
    for (; j + AN_VL <= c; j += AN_VL) {
        d = ld(x, bf16, at + j, AN_VL) - m;
        s0 += d;
        q0 = v_fma(d, d, q0);
    }
    if (j < c) {
        d = fill_tail(ld(x, bf16, at + j, c - j), m, c - j) - m;
        s1 += d;
        q1 = v_fma(d, d, q1);
    }
    *sum = v_sum(s0 + s1);
    *square = v_sum(q0 + q1);
}
/* y = (x - m) * inv * gamma + beta of one row; rms: m is 0 and beta NULL. */
V_INLINE void row_apply(const void *x, bool bf16, int64_t at, int64_t c, float m, float inv,
                        const float *gamma, const float *beta, void *y)
{
    for (int64_t j = 0; j < c; j += AN_VL) {
        int64_t n = c - j;
        if (n >= AN_VL) {
            an_vf v = (ld(x, bf16, at + j, AN_VL) - m) * inv, g = v_load(gamma + j);
            v = beta ? v_fma(v, g, v_load(beta + j)) : v * g;
            st(y, bf16, at + j, v, AN_VL);
        } else {
            an_vf v = (ld(x, bf16, at + j, n) - m) * inv, g = v_load_n(gamma + j, n);
            v = beta ? v_fma(v, g, v_load_n(beta + j, n)) : v * g;
            st(y, bf16, at + j, v, n);
        }
    }
}

V_INLINE void layer_norm_of(const void *x, bool bf16, int64_t rows, int64_t c, const float *gamma,
                            const float *beta, float eps, void *y)
{
    float n = (float)c, sum, square;
    for (int64_t r = 0; r < rows; r++) {
        float m0 = row_sum(x, bf16, r * c, c) / n;
        row_dev(x, bf16, r * c, c, m0, &sum, &square);
        float m = m0 + sum / n, var = (square - sum * (sum / n)) / n;
        if (var < 0) var = 0;
        row_apply(x, bf16, r * c, c, m, 1 / sqrtf(var + eps), gamma, beta, y);
    }
}

static void layer_norm(const void *x, an_dtype t, int64_t rows, int64_t c, const float *gamma,
                       const float *beta, float eps, void *y)
{
    if (t == AN_BF16)
        layer_norm_of(x, true, rows, c, gamma, beta, eps, y);
    else
        layer_norm_of(x, false, rows, c, gamma, beta, eps, y);
}

V_INLINE void rms_norm_of(const void *x, bool bf16, int64_t rows, int64_t c, const float *gamma,
                          float eps, void *y)
{
    float sum, square;
    for (int64_t r = 0; r < rows; r++) {
        row_dev(x, bf16, r * c, c, 0, &sum, &square);
        row_apply(x, bf16, r * c, c, 0, 1 / sqrtf(square / (float)c + eps), gamma, NULL, y);
    }
}

static void rms_norm(const void *x, an_dtype t, int64_t rows, int64_t c, const float *gamma,
                     float eps, void *y)
{
    if (t == AN_BF16)
        rms_norm_of(x, true, rows, c, gamma, eps, y);
    else
        rms_norm_of(x, false, rows, c, gamma, eps, y);
}
