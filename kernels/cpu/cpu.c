/* cpu.c: the CPU's op table. The two ops taken from the reference move a few kilobytes an image. */
#include "cpu/attention.h"
#include "cpu/gemm.h"
#include "cpu/paged.h"
#include "cpu/vec.h"
#include "ref/ref.h"

const an_backend an_backend_cpu = {
    .name = "cpu",
    .weight_linear = an_cpu_weight_linear,
    .weight_conv = an_cpu_weight_conv,
    .weight_free = an_cpu_weight_free,
    .gemm = an_cpu_gemm,
    .conv2d = an_cpu_conv2d,
    .group_norm = an_cpu_group_norm,
    .layer_norm = an_cpu_layer_norm,
    .rms_norm = an_cpu_rms_norm,
    .attention = an_cpu_attention,
    .embedding = an_cpu_embedding,
    .timestep_embedding = an_ref_timestep_embedding,
    .activation = an_cpu_activation,
    .add = an_cpu_add,
    .concat = an_cpu_concat,
    .copy = an_cpu_copy,
    .gather_rows = an_ref_gather_rows,
    .take_rows = an_cpu_take_rows,
    .weight_rows = an_cpu_weight_rows,
    .scale = an_cpu_scale,
    .softcap = an_cpu_softcap,
    .rope = an_cpu_rope,
    .kv_write = an_cpu_kv_write,
    .attention_paged = an_cpu_attention_paged,
    .moe = an_cpu_moe,
    .latent_in = an_cpu_latent_in,
    .sampler_step = an_cpu_sampler_step,
    .image_out = an_cpu_image_out,
    .image_in = an_cpu_image_in,
};
