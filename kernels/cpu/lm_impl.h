/* lm_impl.h: loops of language models' small ops in vectors; included by vec_*.c after norm_impl.h
 * (ld, st). */

V_INLINE void multiply_of(const void *x, bool bf16, int64_t n, float f, void *y)
{
    int64_t i = 0;
    for (; i + AN_VL <= n; i += AN_VL) st(y, bf16, i, ld(x, bf16, i, AN_VL) * f, AN_VL);
    if (i < n) st(y, bf16, i, ld(x, bf16, i, n - i) * f, n - i);
}

static void multiply(const void *x, an_dtype t, int64_t n, float f, void *y)
{
    if (t == AN_BF16)
        multiply_of(x, true, n, f, y);
    else
        multiply_of(x, false, n, f, y);
}

V_INLINE void softcap_of(const void *x, bool bf16, int64_t n, float cap, void *y)
{
    int64_t i = 0;
    for (; i + AN_VL <= n; i += AN_VL)
        st(y, bf16, i, v_tanh(ld(x, bf16, i, AN_VL) / cap) * cap, AN_VL);
    if (i < n) st(y, bf16, i, v_tanh(ld(x, bf16, i, n - i) / cap) * cap, n - i);
}

static void softcap(const void *x, an_dtype t, int64_t n, float cap, void *y)
{
    if (t == AN_BF16)
        softcap_of(x, true, n, cap, y);
    else
        softcap_of(x, false, n, cap, y);
}

/* ---------------------------------------------------------------- rotary embedding */

/* cos and sin of pos * inv_freq[i], that product rounded to f32 as transformers has it, times
 * mscale. The angle may be as large as a context is long: it is reduced by multiples of pi/2 in
 * double, where nothing is lost below 2^30, and the polynomials are the Cephes library's. */
static void rope_angles(int32_t pos, const float *inv_freq, int n, float mscale, float *cosines,
                        float *sines)
{
    const double magic = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer */
    for (int i = 0; i < n; i++) {
        const float angle = (float)pos * inv_freq[i];
        const double q = (double)angle * 0.63661977236758134308 + magic;
        const double turns = q - magic;
        const float r = (float)(((double)angle - turns * 1.57079632679489655800) -
                                turns * 6.12323399573676603587e-17);
        const float z = r * r;
        const float s =
            ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
        const float c =
            ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z *
                z -
            0.5f * z + 1.0f;
        int64_t quarter; /* in the low bits */
        memcpy(&quarter, &q, sizeof quarter);
        const float a = quarter & 1 ? s : c, b = quarter & 1 ? c : s;
        cosines[i] = ((quarter + 1) & 2 ? -a : a) * mscale;
        sines[i] = (quarter & 2 ? -b : b) * mscale;
    }
}

/* Elements p and q of one head, AN_VL or n pairs. */
V_INLINE void turn_halves(void *x, bool bf16, int64_t p, int64_t q, int64_t n, const float *c,
                          const float *s)
{
    const an_vf a = ld(x, bf16, p, n), b = ld(x, bf16, q, n);
    const an_vf co = n == AN_VL ? v_load(c) : v_load_n(c, n);
    const an_vf si = n == AN_VL ? v_load(s) : v_load_n(s, n);
    st(x, bf16, p, a * co - b * si, n);
    st(x, bf16, q, b * co + a * si, n);
}

V_INLINE void rope_turn_of(void *x, bool bf16, int64_t at, int n, int apart, const float *c,
                           const float *s)
{
    if (apart) {
        int i = 0;
        for (; i + AN_VL <= n; i += AN_VL)
            turn_halves(x, bf16, at + i, at + apart + i, AN_VL, c + i, s + i);
        if (i < n) turn_halves(x, bf16, at + i, at + apart + i, n - i, c + i, s + i);
        return;
    }
    for (int i = 0; i < n; i++) {
        float a, b;
        if (bf16) {
            uint16_t *h = (uint16_t *)x + at + 2 * i;
            a = an_bf16_to_f32(h[0]), b = an_bf16_to_f32(h[1]);
            h[0] = an_f32_to_bf16(a * c[i] - b * s[i]);
            h[1] = an_f32_to_bf16(b * c[i] + a * s[i]);
        } else {
            float *f = (float *)x + at + 2 * i;
            a = f[0], b = f[1];
            f[0] = a * c[i] - b * s[i];
            f[1] = b * c[i] + a * s[i];
        }
    }
}

/* n pairs of a head from element `at` of x on: `apart` elements apart, or 0 for neighbours. */
static void rope_turn(void *x, an_dtype t, int64_t at, int n, int apart, const float *cosines,
                      const float *sines)
{
    if (t == AN_BF16)
        rope_turn_of(x, true, at, n, apart, cosines, sines);
    else
        rope_turn_of(x, false, at, n, apart, cosines, sines);
}
