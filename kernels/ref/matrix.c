/* matrix.c: GEMM and convolution of the oracle. A weight is kept as f32 [kh * kw * k][n], so that
 * the inner loop runs over the outputs: y[0..n) += x[i] * w[i][0..n). Outputs whose weights came in
 * blocks meet activations rounded to 8 bits (backend.h), the others plain ones. */
#include "ref/ref.h"

#include <math.h>
#include <stdlib.h>

typedef struct ref_weight {
    float *w;            /* [kh * kw * k][n] */
    float *bias;         /* [n], zeros without one */
    bool *rounds;        /* [n]: weights in blocks, activations rounded */
    bool plain, rounded; /* whether there are such outputs */
} ref_weight;

double an_ref_act(an_act act, double v)
{
    switch (act) {
    case AN_ACT_SILU:
        return v / (1 + exp(-v));
    case AN_ACT_GELU:
        return 0.5 * v * (1 + erf(v * 0.70710678118654752440));
    case AN_ACT_GELU_TANH:
        return 0.5 * v * (1 + tanh(0.79788456080286535588 * (v + 0.044715 * v * v * v)));
    case AN_ACT_QUICK_GELU:
        return v / (1 + exp(-1.702 * v));
    case AN_ACT_RELU:
        return v > 0 ? v : v != v ? v : 0;
    default:
        return v;
    }
}

/* ---------------------------------------------------------------- weights */

static an_status weight_alloc(an_weight *out, ref_weight **rw, an_error *err)
{
    size_t rows = 0, bytes = 0, n = (size_t)out->n;
    bool ok = an_mul_size((size_t)out->k, (size_t)(out->kh * out->kw), &rows) &&
              an_mul_size(rows, n * sizeof(float), &bytes);
    ref_weight *r = ok ? calloc(1, sizeof *r) : NULL;
    if (r) {
        r->w = malloc(bytes);
        r->bias = calloc(n, sizeof(float));
        r->rounds = calloc(n, sizeof(bool));
    }
    if (!r || !r->w || !r->bias || !r->rounds) {
        out->impl = r;
        an_ref_weight_free(out);
        return an_fail(err, AN_NO_MEMORY, "no memory for a weight of %zu bytes", bytes);
    }
    out->impl = r;
    out->bytes = bytes + n * sizeof(float);
    *rw = r;
    return AN_OK;
}

void an_ref_weight_free(an_weight *w)
{
    ref_weight *r = w->impl;
    if (!r) return;
    free(r->w);
    free(r->bias);
    free(r->rounds);
    free(r);
    w->impl = NULL;
}

/* Element i of a checkpoint's tensor, at the precision that activations have. Biases stay f32. */
static float weight_at(const an_tensor *t, int64_t i, an_dtype dtype)
{
    float v;
    an_convert(&v, AN_F32, (const char *)t->data + (size_t)i * an_dtype_size(t->dtype), t->dtype,
               1);
    return dtype == AN_BF16 ? an_bf16_to_f32(an_f32_to_bf16(v)) : v;
}

/* Row j of a part as columns of the weight; blocks keep their exact values, FP8 (times `scale`) all
 * that f32 has of them. */
static void put_row(const an_weight *out, const an_tensor *t, float scale, int64_t j,
                    int64_t column, an_dtype dtype)
{
    ref_weight *r = out->impl;
    const int64_t n = out->n, k = out->k, block = an_dtype_block(t->dtype);
    if (t->dtype == AN_F8_E4M3) dtype = AN_F32;
    if (!an_dtype_is_quant(t->dtype)) {
        for (int64_t i = 0; i < k; i++)
            r->w[i * n + column] = scale * weight_at(t, j * k + i, dtype);
        r->plain = true;
        return;
    }
    const char *row =
        (const char *)t->data + (size_t)(j * k / block) * an_dtype_block_bytes(t->dtype);
    float values[256];
    for (int64_t i = 0; i < k; i += block, row += an_dtype_block_bytes(t->dtype)) {
        an_dequantize(t->dtype, row, block, values);
        for (int64_t e = 0; e < block; e++) r->w[(i + e) * n + column] = values[e];
    }
    r->rounds[column] = r->rounded = true;
}

an_status an_ref_weight_linear(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                               const float *const *scale, const an_tensor *const *bias,
                               an_weight *out, an_error *err)
{
    (void)d;
    ref_weight *r;
    an_status s = weight_alloc(out, &r, err);
    if (s) return s;
    int64_t first = 0;
    for (int p = 0; p < n_parts; p++) {
        int64_t rows = w[p]->dim[0];
        for (int64_t j = 0; j < rows; j++) {
            put_row(out, w[p], scale && scale[p] ? scale[p][j] : 1, j, first + j, dtype);
            if (bias && bias[p]) r->bias[first + j] = weight_at(bias[p], j, AN_F32);
        }
        first += rows;
    }
    return AN_OK;
}

an_status an_ref_weight_conv(an_device *d, an_dtype dtype, const an_tensor *w,
                             const an_tensor *bias, an_weight *out, an_error *err)
{
    (void)d;
    ref_weight *r;
    an_status s = weight_alloc(out, &r, err);
    if (s) return s;
    int64_t taps = (int64_t)out->kh * out->kw;
    for (int64_t j = 0; j < out->n; j++) {
        for (int64_t c = 0; c < out->k; c++)
            for (int64_t t = 0; t < taps; t++)
                r->w[(t * out->k + c) * out->n + j] =
                    weight_at(w, (j * out->k + c) * taps + t, dtype);
        if (bias) r->bias[j] = weight_at(bias, j, AN_F32);
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- products */

/* acc[0..n) += x[0..k) w[k][n] */
static void accumulate(double *restrict acc, const void *x, an_dtype dtype, int64_t at, int64_t k,
                       const float *restrict w, int64_t n)
{
    for (int64_t i = 0; i < k; i++) {
        double v = ref_get(x, dtype, at + i);
        const float *restrict row = w + i * n;
        for (int64_t j = 0; j < n; j++) acc[j] += v * (double)row[j];
    }
}

/* x8 = row m of x, rounded to 8 bits and back. */
static void round_row(const an_tensor *x, int64_t m, int64_t k, float *x8)
{
    float values[AN_Q8_BLOCK];
    int8_t q[AN_Q8_BLOCK];
    for (int64_t i = 0; i < k; i += AN_Q8_BLOCK) {
        for (int e = 0; e < AN_Q8_BLOCK; e++) values[e] = ref_get(x->data, x->dtype, m * k + i + e);
        const float scale = an_q8_round(values, q);
        for (int e = 0; e < AN_Q8_BLOCK; e++) x8[i + e] = scale * (float)q[e];
    }
}

/* acc = bias + row m of x times w. other [n], x8 [k]: room, where the weight has rounded outputs.
 */
static void product(const an_gemm_args *a, int64_t m, double *acc, double *other, float *x8)
{
    const ref_weight *r = a->w->impl;
    const int64_t n = a->w->n, k = a->w->k;
    for (int64_t j = 0; j < n; j++) acc[j] = r->bias[j];
    if (r->rounded) {
        memcpy(other, acc, (size_t)n * sizeof *other);
        round_row(&a->x, m, k, x8);
        accumulate(other, x8, AN_F32, 0, k, r->w, n);
    }
    if (r->plain) accumulate(acc, a->x.data, a->x.dtype, m * k, k, r->w, n);
    for (int64_t j = 0; j < n; j++)
        if (r->rounds[j]) acc[j] = other[j];
}

an_status an_ref_gemm(an_lane *l, const an_gemm_args *a)
{
    const ref_weight *r = a->w->impl;
    int64_t n = a->w->n, k = a->w->k, m = an_tensor_count(&a->x) / k;
    bool gated = an_act_gated(a->act);
    int64_t width = gated ? n / 2 : n;
    double *acc = an_lane_scratch(l, (size_t)n * sizeof *acc), *other = NULL;
    float *x8 = NULL;
    if (r->rounded) {
        other = an_lane_scratch(l, (size_t)n * sizeof *other);
        x8 = an_lane_scratch(l, (size_t)k * sizeof *x8);
    }
    if (l->counting || l->error.status) return l->error.status;
    for (int64_t i = 0; i < m; i++) {
        product(a, i, acc, other, x8);
        for (int64_t j = 0; j < width; j++) {
            double v;
            if (a->act == AN_ACT_GEGLU)
                v = acc[j] * an_ref_act(AN_ACT_GELU, acc[width + j]);
            else if (gated)
                v = an_ref_act(a->act == AN_ACT_SWIGLU ? AN_ACT_SILU : AN_ACT_GELU_TANH, acc[j]) *
                    acc[width + j];
            else
                v = an_ref_act(a->act, acc[j]);
            if (a->residual) v += ref_get(a->residual->data, a->residual->dtype, i * width + j);
            ref_set(a->y.data, a->y.dtype, i * width + j, v);
        }
    }
    return AN_OK;
}

/* acc of one output pixel (row b, oy, ox); outside the (resized) picture is zero. */
static void conv_pixel(const an_conv_args *a, const ref_weight *r, int64_t b, int64_t oy,
                       int64_t ox, double *acc)
{
    int64_t h = a->x.dim[1], w = a->x.dim[2], c = a->w->k, n = a->w->n;
    int64_t uh = a->up_h ? a->up_h : h, uw = a->up_w ? a->up_w : w;
    for (int ky = 0; ky < a->w->kh; ky++) {
        int64_t iy = oy * a->stride + ky - a->pad_top;
        if (iy < 0 || iy >= uh) continue;
        iy = an_nearest(iy, h, uh);
        for (int kx = 0; kx < a->w->kw; kx++) {
            int64_t ix = ox * a->stride + kx - a->pad_left;
            if (ix < 0 || ix >= uw) continue;
            ix = an_nearest(ix, w, uw);
            accumulate(acc, a->x.data, a->x.dtype, ((b * h + iy) * w + ix) * c, c,
                       r->w + (int64_t)(ky * a->w->kw + kx) * c * n, n);
        }
    }
}

an_status an_ref_conv2d(an_lane *l, const an_conv_args *a)
{
    const ref_weight *r = a->w->impl;
    const an_tensor *y = &a->y;
    int64_t n = a->w->n, pixels = y->dim[1] * y->dim[2];
    int64_t stride = a->row_bias_stride ? a->row_bias_stride : n;
    double *acc = an_lane_scratch(l, (size_t)n * sizeof *acc);
    if (l->counting || !acc) return l->error.status;
    for (int64_t p = 0; p < y->dim[0] * pixels; p++) {
        int64_t b = p / pixels;
        for (int64_t j = 0; j < n; j++) acc[j] = r->bias[j];
        conv_pixel(a, r, b, p % pixels / y->dim[2], p % y->dim[2], acc);
        for (int64_t j = 0; j < n; j++) {
            double v = acc[j];
            if (a->row_bias) v += ref_get(a->row_bias->data, a->row_bias->dtype, b * stride + j);
            v = an_ref_act(a->act, v);
            if (a->residual) v += ref_get(a->residual->data, a->residual->dtype, p * n + j);
            ref_set(y->data, y->dtype, p * n + j, v);
        }
    }
    return AN_OK;
}
