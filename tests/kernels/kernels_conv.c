/* Convolution on the CPU: strides, paddings, resizes and pictures smaller than the filter; every
 * case against the reference, for every instruction set here, and batch invariance on bytes. */
#include "harness.h"

typedef struct conv_case {
    int64_t h, w, c, n;
    int kernel, stride, top, left, bottom, right;
    int64_t up_h, up_w;
    an_dtype dtype, y_dtype;
    an_act act;
    bool row_bias, residual, residual_is_y;
} conv_case;

static void run(h_run *h, const void *cfg)
{
    const conv_case *c = cfg;
    int64_t oh = ((c->up_h ? c->up_h : c->h) + c->top + c->bottom - c->kernel) / c->stride + 1;
    int64_t ow = ((c->up_w ? c->up_w : c->w) + c->left + c->right - c->kernel) / c->stride + 1;
    an_tensor x = h_rows(h, c->dtype, 4, (int64_t[]){h->n, c->h, c->w, c->c}, 1, 1, 0);
    an_tensor y = h_rows(h, c->y_dtype, 4, (int64_t[]){h->n, oh, ow, c->n}, 2, 1, 0);
    an_tensor r = h_rows(h, c->y_dtype, 4, (int64_t[]){h->n, oh, ow, c->n}, 3, 1, 0);
    const int64_t wide = c->residual ? c->n + 3 : c->n; /* a part of a wider tensor */
    an_tensor rb = h_rows(h, c->dtype, 2, (int64_t[]){h->n, wide}, 5, 1, 0);
    if (rb.data) rb.data = (char *)rb.data + (size_t)(wide - c->n) * an_dtype_size(c->dtype);
    rb.dim[1] = c->n;
    an_conv_args a = {.x = x,
                      .w = h_weight(h, c->dtype, c->n, c->c, c->kernel, c->kernel, true, 4),
                      .stride = c->stride,
                      .pad_top = c->top,
                      .pad_left = c->left,
                      .pad_bottom = c->bottom,
                      .pad_right = c->right,
                      .up_h = c->up_h,
                      .up_w = c->up_w,
                      .act = c->act,
                      .y = y};
    if (c->row_bias) {
        a.row_bias = &rb;
        a.row_bias_stride = wide == c->n ? 0 : wide;
    }
    if (c->residual) a.residual = c->residual_is_y ? &y : &r;
    an_conv2d(h->l, &a);
    h_output(h, y);
}

static void check(const conv_case *c)
{
    char name[128];
    snprintf(name, sizeof name, "conv%d s%d %lldx%lldx%lld->%lld pad %d %d %d %d up %lldx%lld %s",
             c->kernel, c->stride, (long long)c->h, (long long)c->w, (long long)c->c,
             (long long)c->n, c->top, c->left, c->bottom, c->right, (long long)c->up_h,
             (long long)c->up_w, an_dtype_name(c->dtype));
    h_all(name, run, c, 3e-5);
}

TEST(picture_sizes)
{
    static const int64_t sizes[][2] = {{1, 1}, {1, 5}, {2, 2}, {3, 3}, {4, 4}, {9, 7}};
    for (int i = 0; i < 6; i++)
        for (int stride = 1; stride <= 2; stride++) {
            an_dtype t = (i + stride) % 2 ? AN_BF16 : AN_F32;
            check(&(conv_case){sizes[i][0], sizes[i][1], 5, 7, 3, stride, 1, 1, 1, 1, .dtype = t,
                               .y_dtype = t, .row_bias = i % 2, .residual = i % 3});
            check(&(conv_case){sizes[i][0], sizes[i][1], 20, 18, 1, stride, 0, 0, 0, 0, .dtype = t,
                               .y_dtype = AN_F32, .row_bias = i % 3, .residual = i % 2,
                               .residual_is_y = true});
        }
}

TEST(asymmetric_padding)
{
    for (int stride = 1; stride <= 2; stride++)
        for (int pads = 0; pads < 16; pads++)
            check(&(conv_case){5, 4, 6, 9, 3, stride, pads & 1, pads >> 1 & 1, pads >> 2 & 1,
                               pads >> 3, .dtype = AN_F32, .y_dtype = AN_F32});
    check(&(conv_case){2, 2, 3, 4, 3, 1, 3, 4, 2, 5, .dtype = AN_F32, .y_dtype = AN_F32});
}

TEST(resize)
{
    static const int64_t sizes[][4] = {{1, 1, 2, 2}, {4, 3, 8, 6}, {4, 3, 7, 5}, {5, 5, 3, 9}};
    for (int i = 0; i < 4; i++)
        for (int kernel = 1; kernel <= 3; kernel += 2) {
            int pad = kernel / 2;
            an_dtype t = i % 2 ? AN_BF16 : AN_F32;
            check(&(conv_case){sizes[i][0], sizes[i][1], 12, 10, kernel, 1, pad, pad, pad, pad,
                               sizes[i][2], sizes[i][3], .dtype = t, .y_dtype = t});
        }
    check(&(conv_case){4, 4, 12, 10, 3, 2, 0, 0, 1, 1, 8, 8, .dtype = AN_F32, .y_dtype = AN_F32});
}

TEST(filters_and_channels)
{
    static const int64_t channels[] = {1, 3, 4, 8, 64};
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 5; j++) {
            an_dtype t = (i + j) % 2 ? AN_BF16 : AN_F32;
            check(&(conv_case){6, 6, channels[i], channels[j], 3, 1, 1, 1, 1, 1, .dtype = t,
                               .y_dtype = t});
        }
    for (int kernel = 2; kernel <= 7; kernel++)
        check(&(conv_case){9, 8, 3, 5, kernel, 1, 2, 2, 2, 2, .dtype = AN_F32, .y_dtype = AN_F32});
}

TEST(activations)
{
    for (an_act act = AN_ACT_NONE; act <= AN_ACT_RELU; act++) {
        check(&(conv_case){3, 3, 8, 33, 3, 1, 1, 1, 1, 1, 0, 0, AN_F32, AN_F32, act, true, true,
                           false});
        check(&(conv_case){3, 3, 8, 33, 3, 1, 1, 1, 1, 1, 0, 0, AN_BF16, AN_BF16, act, true, true,
                           true});
    }
}

/* Deeper than one K block, more rows and columns than one task; wide enough for tiles that read the
 * picture in place beside others at its border that are packed. */
TEST(large)
{
    for (int stride = 1; stride <= 2; stride++) {
        check(&(conv_case){21, 20, 40, 24, 3, stride, 1, 1, 1, 1, .dtype = AN_F32,
                           .y_dtype = AN_F32});
        check(&(conv_case){17, 23, 33, 17, 5, stride, 2, 2, 2, 2, .dtype = AN_F32,
                           .y_dtype = AN_F32});
        check(
            &(conv_case){9, 30, 70, 33, 1, stride, 0, 0, 0, 0, .dtype = AN_F32, .y_dtype = AN_F32});
    }
    check(&(conv_case){16, 16, 96, 96, 3, 1, 1, 1, 1, 1, .dtype = AN_F32, .y_dtype = AN_F32,
                       .row_bias = true, .residual = true});
    check(&(conv_case){8, 8, 160, 540, 1, 1, 0, 0, 0, 0, .dtype = AN_BF16, .y_dtype = AN_BF16});
    check(&(conv_case){8, 8, 80, 160, 3, 2, 0, 0, 1, 1, .dtype = AN_BF16, .y_dtype = AN_BF16,
                       .act = AN_ACT_SILU});
}

/* The other filling, where this build has it. */
TEST(onednn)
{
    H_CPU_ONLY;
#ifdef AN_ONEDNN
    h_gemm = "onednn";
    check(&(conv_case){6, 5, 8, 12, 3, 1, 1, 1, 1, 1, .dtype = AN_F32, .y_dtype = AN_F32,
                       .row_bias = true, .residual = true, .act = AN_ACT_SILU});
    check(&(conv_case){8, 8, 16, 20, 3, 2, 0, 0, 1, 1, .dtype = AN_F32, .y_dtype = AN_F32});
    check(&(conv_case){4, 4, 3, 5, 3, 1, 1, 1, 1, 1, 8, 7, .dtype = AN_F32, .y_dtype = AN_F32});
    check(&(conv_case){4, 4, 32, 16, 1, 1, 0, 0, 0, 0, .dtype = AN_F32, .y_dtype = AN_F32,
                       .residual = true, .residual_is_y = true});
    check(&(conv_case){5, 7, 12, 4, 3, 1, 1, 1, 1, 1, .dtype = AN_BF16, .y_dtype = AN_BF16});
    h_gemm = "auto";
#else
    SKIP("built without oneDNN");
#endif
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
