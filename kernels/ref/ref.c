/* ref.c: the reference filling: the plainest C that computes each op. Slow on purpose where slow is
 * simple; every other filling is tested against it. */
#include "ref/ref.h"

const an_backend an_backend_ref = {
    .name = "ref",
    .weight_linear = an_ref_weight_linear,
    .weight_conv = an_ref_weight_conv,
    .weight_free = an_ref_weight_free,
    .gemm = an_ref_gemm,
    .conv2d = an_ref_conv2d,
    .group_norm = an_ref_group_norm,
    .layer_norm = an_ref_layer_norm,
    .rms_norm = an_ref_rms_norm,
    .attention = an_ref_attention,
    .embedding = an_ref_embedding,
    .timestep_embedding = an_ref_timestep_embedding,
    .activation = an_ref_activation,
    .add = an_ref_add,
    .concat = an_ref_concat,
    .copy = an_ref_copy,
    .gather_rows = an_ref_gather_rows,
    .take_rows = an_ref_take_rows,
    .scale = an_ref_scale,
    .softcap = an_ref_softcap,
    .rope = an_ref_rope,
    .kv_write = an_ref_kv_write,
    .attention_paged = an_ref_attention_paged,
    .moe = an_ref_moe,
    .latent_in = an_ref_latent_in,
    .sampler_step = an_ref_sampler_step,
    .image_out = an_ref_image_out,
    .image_in = an_ref_image_in,
};
