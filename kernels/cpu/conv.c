/* conv.c: a convolution as a job of the GEMM driver: an implicit GEMM over NHWC, whose rows are the
 * output pixels of all pictures and whose depth is (ky, kx, channel). */
#include "gemm.h"

an_gemm_job an_gemm_job_conv(const an_conv_args *a, const an_gemm_weight *w)
{
    const int64_t h = a->x.dim[1], width = a->x.dim[2];
    an_gemm_job j = {
        .w = w,
        .m = a->y.dim[0] * a->y.dim[1] * a->y.dim[2],
        .n_out = w->n,
        .x = a->x.data,
        .x_dtype = a->x.dtype,
        .h = h,
        .width = width,
        .c = a->x.dim[3],
        .up_h = a->up_h ? a->up_h : h,
        .up_w = a->up_w ? a->up_w : width,
        .oh = a->y.dim[1],
        .ow = a->y.dim[2],
        .kh = a->w->kh,
        .kw = a->w->kw,
        .stride = a->stride,
        .pad_top = a->pad_top,
        .pad_left = a->pad_left,
        .act = a->act,
        .y = a->y.data,
        .y_dtype = a->y.dtype,
    };
    /* A 1x1 convolution that moves nothing is a GEMM: no pixel arithmetic. */
    j.flat = j.kh == 1 && j.kw == 1 && j.stride == 1 && j.oh == h && j.ow == width && j.up_h == h &&
             j.up_w == width && !j.pad_top && !j.pad_left;
    if (a->row_bias) {
        j.row_bias = a->row_bias->data;
        j.row_bias_dtype = a->row_bias->dtype;
        j.row_bias_stride = a->row_bias_stride ? a->row_bias_stride : a->w->n;
    }
    if (a->residual) {
        j.residual = a->residual->data;
        j.residual_dtype = a->residual->dtype;
    }
    return j;
}
