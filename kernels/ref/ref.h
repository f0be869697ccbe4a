/* ref.h: the oracle's functions, and its one way to read and write an element. Everything is
 * accumulated in double, serially and in the plainest order; storage is rounded once, at the end.
 */
#ifndef ANNEAL_REF_H
#define ANNEAL_REF_H

#include "backend.h"

static inline float ref_get(const void *data, an_dtype t, int64_t i)
{
    return t == AN_BF16 ? an_bf16_to_f32(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}
static inline void ref_set(void *data, an_dtype t, int64_t i, double v)
{
    if (t == AN_BF16)
        ((uint16_t *)data)[i] = an_f32_to_bf16((float)v);
    else
        ((float *)data)[i] = (float)v;
}

double an_ref_act(an_act act, double v); /* not the gated ones */

/* matrix.c */
an_status an_ref_weight_linear(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                               const float *const *scale, const an_tensor *const *bias,
                               an_weight *out, an_error *err);
an_status an_ref_weight_conv(an_device *d, an_dtype dtype, const an_tensor *w,
                             const an_tensor *bias, an_weight *out, an_error *err);
void an_ref_weight_free(an_weight *w);
an_status an_ref_gemm(an_lane *l, const an_gemm_args *a);
an_status an_ref_conv2d(an_lane *l, const an_conv_args *a);
/* attention.c */
an_status an_ref_attention(an_lane *l, const an_attention_args *a);
/* norm.c */
an_status an_ref_group_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            int groups, float eps, bool silu, const an_tensor *y);
an_status an_ref_layer_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            float eps, const an_tensor *y);
an_status an_ref_rms_norm(an_lane *l, const an_tensor *x, const float *gamma, float eps,
                          const an_tensor *y);
/* small.c */
an_status an_ref_embedding(an_lane *l, const an_tensor *table, const an_tensor *pos,
                           const an_tensor *ids, const an_tensor *y);
an_status an_ref_timestep_embedding(an_lane *l, const float *t, bool flip, float shift, float scale,
                                    const an_tensor *y);
an_status an_ref_activation(an_lane *l, const an_tensor *x, an_act act, const an_tensor *y);
an_status an_ref_add(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y);
an_status an_ref_concat(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y);
an_status an_ref_copy(an_lane *l, const an_tensor *x, const an_tensor *y);
an_status an_ref_gather_rows(an_lane *l, const an_tensor *x, const int64_t *index,
                             const an_tensor *y);
/* lm.c */
an_status an_ref_take_rows(an_lane *l, const an_tensor *x, const int32_t *index,
                           const an_tensor *y);
an_status an_ref_scale(an_lane *l, const an_tensor *x, float f, const an_tensor *y);
an_status an_ref_softcap(an_lane *l, const an_tensor *x, float cap, const an_tensor *y);
an_status an_ref_rope(an_lane *l, const an_rope_args *a);
an_status an_ref_kv_write(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n,
                          const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                          an_dtype dtype);
an_status an_ref_attention_paged(an_lane *l, const an_paged_args *a);
an_status an_ref_moe(an_lane *l, const an_moe_args *a);
/* diffusion.c */
an_status an_ref_latent_in(an_lane *l, const float *const *x, const float *scale,
                           const an_tensor *y);
an_status an_ref_sampler_step(an_lane *l, const an_step_row *rows, int n);
an_status an_ref_image_out(an_lane *l, const an_tensor *x, const an_tensor *y, int64_t *n_nan);
an_status an_ref_image_in(an_lane *l, const an_tensor *x, const an_tensor *y);

#endif
