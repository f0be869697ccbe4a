/* elem_impl.h: element-wise loops in vectors; included by vec_*.c after norm_impl.h (ld, st). */

V_INLINE void activation_of(const void *x, bool bf16, int64_t n, an_act act, void *y)
{
    int64_t i = 0;
    for (; i + AN_VL <= n; i += AN_VL) st(y, bf16, i, v_act(act, ld(x, bf16, i, AN_VL)), AN_VL);
    if (i < n) st(y, bf16, i, v_act(act, ld(x, bf16, i, n - i)), n - i);
}

#define EACH_ACT(bf16)                                                                             \
    switch (act) {                                                                                 \
    case AN_ACT_SILU:                                                                              \
        activation_of(x, bf16, n, AN_ACT_SILU, y);                                                 \
        break;                                                                                     \
    case AN_ACT_GELU:                                                                              \
        activation_of(x, bf16, n, AN_ACT_GELU, y);                                                 \
        break;                                                                                     \
    case AN_ACT_GELU_TANH:                                                                         \
        activation_of(x, bf16, n, AN_ACT_GELU_TANH, y);                                            \
        break;                                                                                     \
    case AN_ACT_QUICK_GELU:                                                                        \
        activation_of(x, bf16, n, AN_ACT_QUICK_GELU, y);                                           \
        break;                                                                                     \
    case AN_ACT_RELU:                                                                              \
        activation_of(x, bf16, n, AN_ACT_RELU, y);                                                 \
        break;                                                                                     \
    default:                                                                                       \
        activation_of(x, bf16, n, AN_ACT_NONE, y);                                                 \
        break;                                                                                     \
    }

static void activation(const void *x, an_dtype t, int64_t n, an_act act, void *y)
{
    if (t == AN_BF16) {
        EACH_ACT(true)
    } else {
        EACH_ACT(false)
    }
}

V_INLINE void add_of(void *y, bool hy, const void *a, bool ha, const void *b, bool hb, int64_t n)
{
    int64_t i = 0;
    for (; i + AN_VL <= n; i += AN_VL) {
        an_vf v = ld(a, ha, i, AN_VL);
        st(y, hy, i, b ? v + ld(b, hb, i, AN_VL) : v, AN_VL);
    }
    if (i == n) return;
    an_vf v = ld(a, ha, i, n - i);
    st(y, hy, i, b ? v + ld(b, hb, i, n - i) : v, n - i);
}

static void add(void *y, an_dtype ty, const void *a, an_dtype ta, const void *b, an_dtype tb,
                int64_t n)
{
    bool hy = ty == AN_BF16, ha = ta == AN_BF16, hb = tb == AN_BF16;
    if (b && hy && ha && hb)
        add_of(y, true, a, true, b, true, n);
    else if (b && !hy && !ha && !hb)
        add_of(y, false, a, false, b, false, n);
    else if (!b && hy && !ha)
        add_of(y, true, a, false, NULL, false, n);
    else if (!b && !hy && ha)
        add_of(y, false, a, true, NULL, false, n);
    else
        add_of(y, hy, a, ha, b, hb, n);
}

V_INLINE void scale_of(void *y, bool bf16, const float *x, float factor, int64_t n)
{
    int64_t i = 0;
    for (; i + AN_VL <= n; i += AN_VL) st(y, bf16, i, v_load(x + i) * factor, AN_VL);
    if (i < n) st(y, bf16, i, v_load_n(x + i, n - i) * factor, n - i);
}

static void scale(void *y, an_dtype ty, const float *x, float factor, int64_t n)
{
    if (ty == AN_BF16)
        scale_of(y, true, x, factor, n);
    else
        scale_of(y, false, x, factor, n);
}

/* ---------------------------------------------------------------- pictures */

/* One vector: [-1, 1] to 0..255 to nearest even, NaN to 0. */
V_INLINE an_vi to_u8(an_vf x, an_vi *nan)
{
    an_vf v = x * 0.5f + 0.5f;
    an_vi bad = v != v;
    *nan -= bad; /* a true lane is -1 */
    v = (an_vf)((an_vi)v & ~bad);
    v = v_min(v_set(1), v_max(v_set(0), v)) * 255.0f;
    /* adding 1.5 * 2^23 leaves the rounded integer in the low bits */
    return (an_vi)(v + 12582912.0f) & 255;
}

V_INLINE int64_t image_out_of(const void *x, bool bf16, int64_t n, uint8_t *y)
{
    int64_t i = 0, nans = 0;
    an_vi nan = {0};
    for (; i + AN_VL <= n; i += AN_VL) {
        an_vi b = to_u8(ld(x, bf16, i, AN_VL), &nan);
        for (int k = 0; k < AN_VL; k++) y[i + k] = (uint8_t)b[k];
    }
    if (i < n) {
        an_vi b = to_u8(ld(x, bf16, i, n - i), &nan); /* the padding is zeros, so not NaN */
        for (int64_t k = 0; k < n - i; k++) y[i + k] = (uint8_t)b[k];
    }
    for (int k = 0; k < AN_VL; k++) nans += nan[k];
    return nans;
}

static int64_t image_out(const void *x, an_dtype t, int64_t n, uint8_t *y)
{
    return t == AN_BF16 ? image_out_of(x, true, n, y) : image_out_of(x, false, n, y);
}

static void image_in(const uint8_t *x, int64_t n, void *y, an_dtype t)
{
    bool bf16 = t == AN_BF16;
    for (int64_t i = 0; i < n; i += AN_VL) {
        int64_t k = n - i < AN_VL ? n - i : AN_VL;
        an_vf v = {0};
        for (int64_t j = 0; j < k; j++) v[j] = (float)x[i + j];
        st(y, bf16, i, v / 127.5f - 1.0f, k);
    }
}
