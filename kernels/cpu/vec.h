/* vec.h: the CPU's vectorised loops, once per instruction set. norm_impl.h and elem_impl.h hold the
 * one source; vec_generic.c, vec_avx2.c and vec_avx512.c compile it for three vector widths, and
 * norm.c, elem.c and step.c cut the ops into tasks and call them. Nothing here knows of threads. */
#ifndef ANNEAL_CPU_VEC_H
#define ANNEAL_CPU_VEC_H

#include "backend.h"

/* Arrays of per-channel parameters are padded to a multiple of this many floats. */
#define AN_VEC_PAD 16
static inline int64_t an_vec_padded(int64_t c)
{
    return (c + AN_VEC_PAD - 1) / AN_VEC_PAD * AN_VEC_PAD;
}
#define AN_GN_SCRATCH 3 /* padded arrays of floats that gn_moments works in */

/* x and y: F32 or BF16 as `t` says; counts in elements. */
typedef struct an_vec {
    /* Mean and sum of squared deviations of every group over [pixels, c]. */
    void (*gn_moments)(const void *x, an_dtype t, int64_t pixels, int64_t c, int groups,
                       float *scratch, double *mean, double *m2);
    /* y = (x - mean[c]) * a[c] + b[c], then SiLU if asked; the parameters padded. */
    void (*gn_apply)(const void *x, an_dtype t, int64_t pixels, int64_t c, const float *mean,
                     const float *a, const float *b, bool silu, void *y);
    void (*layer_norm)(const void *x, an_dtype t, int64_t rows, int64_t c, const float *gamma,
                       const float *beta, float eps, void *y);
    void (*rms_norm)(const void *x, an_dtype t, int64_t rows, int64_t c, const float *gamma,
                     float eps, void *y);
    void (*activation)(const void *x, an_dtype t, int64_t n, an_act act, void *y);
    /* y = a + b, or y = a when b is NULL; any mix of F32 and BF16 */
    void (*add)(void *y, an_dtype ty, const void *a, an_dtype ta, const void *b, an_dtype tb,
                int64_t n);
    void (*scale)(void *y, an_dtype ty, const float *x, float factor, int64_t n);
    /* y = x * f; y = f * tanh(x / f) */
    void (*multiply)(const void *x, an_dtype t, int64_t n, float f, void *y);
    void (*softcap)(const void *x, an_dtype t, int64_t n, float f, void *y);
    void (*rope_angles)(int32_t pos, const float *inv_freq, int n, float mscale, float *cosines,
                        float *sines);
    void (*rope_turn)(void *x, an_dtype t, int64_t at, int n, int apart, const float *cosines,
                      const float *sines);
    int64_t (*image_out)(const void *x, an_dtype t, int64_t n, uint8_t *y); /* counts NaN */
    void (*image_in)(const uint8_t *x, int64_t n, void *y, an_dtype t);
} an_vec;

extern const an_vec an_vec_generic, an_vec_avx2, an_vec_avx512;

static inline const an_vec *an_vec_of(const an_lane *l)
{
    if (l->device->isa >= AN_ISA_AVX512) return &an_vec_avx512;
    return l->device->isa >= AN_ISA_AVX2 ? &an_vec_avx2 : &an_vec_generic;
}

/* Element-wise work is cut into pieces of this many elements, whatever the number of threads. */
#define AN_GRAIN 16384
static inline int64_t an_pieces(int64_t count, int64_t grain)
{
    return (count + grain - 1) / grain;
}
static inline int64_t an_piece_end(int64_t task, int64_t count, int64_t grain)
{
    int64_t end = (task + 1) * grain;
    return end < count ? end : count;
}
/* Element i of an array of dtype t. */
static inline const char *an_elem(const void *p, an_dtype t, int64_t i)
{
    return (const char *)p + (size_t)i * an_dtype_size(t);
}
static inline char *an_elem_mut(void *p, an_dtype t, int64_t i)
{
    return (char *)p + (size_t)i * an_dtype_size(t);
}

/* norm.c */
an_status an_cpu_group_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            int groups, float eps, bool silu, const an_tensor *y);
an_status an_cpu_layer_norm(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            float eps, const an_tensor *y);
an_status an_cpu_rms_norm(an_lane *l, const an_tensor *x, const float *gamma, float eps,
                          const an_tensor *y);
/* elem.c */
an_status an_cpu_embedding(an_lane *l, const an_tensor *table, const an_tensor *pos,
                           const an_tensor *ids, const an_tensor *y);
an_status an_cpu_activation(an_lane *l, const an_tensor *x, an_act act, const an_tensor *y);
an_status an_cpu_add(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y);
an_status an_cpu_concat(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y);
an_status an_cpu_copy(an_lane *l, const an_tensor *x, const an_tensor *y);
an_status an_cpu_latent_in(an_lane *l, const float *const *x, const float *scale,
                           const an_tensor *y);
an_status an_cpu_image_out(an_lane *l, const an_tensor *x, const an_tensor *y, int64_t *n_nan);
an_status an_cpu_image_in(an_lane *l, const an_tensor *x, const an_tensor *y);
/* lm.c */
an_status an_cpu_take_rows(an_lane *l, const an_tensor *x, const int32_t *index,
                           const an_tensor *y);
an_status an_cpu_scale(an_lane *l, const an_tensor *x, float f, const an_tensor *y);
an_status an_cpu_softcap(an_lane *l, const an_tensor *x, float cap, const an_tensor *y);
an_status an_cpu_rope(an_lane *l, const an_rope_args *a);
an_status an_cpu_kv_write(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n,
                          const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                          an_dtype dtype);
/* moe.c */
an_status an_cpu_moe(an_lane *l, const an_moe_args *a);
/* step.c */
an_status an_cpu_sampler_step(an_lane *l, const an_step_row *rows, int n);

#endif
