/* onednn.h: oneDNN as the other filling of GEMM and convolution. Private to kernels/cpu. */
#ifndef ANNEAL_CPU_ONEDNN_H
#define ANNEAL_CPU_ONEDNN_H

#include "../backend.h"

/* Contracts as in backend.h; w is parts [n_i, k] or one [n, c, kh, kw]. */
an_status an_onednn_weight(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                           const float *const *scale, const an_tensor *const *bias, an_weight *out,
                           an_error *err);
void an_onednn_weight_free(an_weight *w);
an_status an_onednn_gemm(an_lane *l, const an_gemm_args *a);
an_status an_onednn_conv2d(an_lane *l, const an_conv_args *a);

#endif
