/* backend.c: the GPU's op table, compiled twice: an_cuda_backend and an_simt_backend. */
#include "cuda/gpu_host.h"

__thread uint64_t GPU(launched), GPU(copied);

static void counts(uint64_t *launches, uint64_t *copies)
{
    *launches = GPU(launched);
    *copies = GPU(copied);
}

const an_backend GPU(backend) = {
    .name = GPU_NAME,
    .open = GPU(open),
    .close = GPU(close),
    .count = GPU(count),
    .enter = GPU(enter),
    .alloc = GPU(alloc),
    .free = GPU(free),
    .host_alloc = GPU(host_alloc),
    .host_free = GPU(host_free),
    .write = GPU(write),
    .lane_open = GPU(lane_open),
    .lane_close = GPU(lane_close),
    .upload = GPU(upload),
    .download = GPU(download),
    .repeat = GPU(repeat),
    .lane_forget = GPU(lane_forget),
    .keep = GPU(keep),
    .kv_keep = GPU(kv_keep),
    .sync = GPU(sync),
    .counts = counts,
    .weight_linear = GPU(weight_linear),
    .weight_conv = GPU(weight_conv),
    .weight_free = GPU(weight_free),
    .gemm = GPU(gemm_op),
    .conv2d = GPU(conv2d_op),
    .group_norm = GPU(group_norm_op),
    .concat_group_norm = GPU(concat_group_norm_op),
    .layer_norm = GPU(layer_norm_op),
    .rms_norm = GPU(rms_norm_op),
    .attention = GPU(attention_op),
    .embedding = GPU(embedding_op),
    .timestep_embedding = GPU(timestep_embedding_op),
    .activation = GPU(activation_op),
    .add = GPU(add_op),
    .concat = GPU(concat_op),
    .copy = GPU(copy_op),
    .gather_rows = GPU(gather_rows_op),
    .take_rows = GPU(take_rows_op),
    .weight_rows = GPU(weight_rows_op),
    .scale = GPU(scale_op),
    .softcap = GPU(softcap_op),
    .rope = GPU(rope_op),
    .kv_write = GPU(kv_write_op),
    .attention_paged = GPU(attention_paged_op),
    .moe = GPU(moe_op),
    .sample_tokens = GPU(sample_tokens_op),
    .latent_in = GPU(latent_in_op),
    .sampler_step = GPU(sampler_step_op),
    .image_out = GPU(image_out_op),
    .image_in = GPU(image_in_op),
};
