/* unet_config.c: reads UNet2DConditionModel's config.json, with diffusers' defaults, into one
 * record per resolution. */
#include "unet.h"

#include <jansson.h>

/* What later releases of diffusers can say and this program does not serve. */
static void refuse_unsupported(an_config *c)
{
    static const char *const only_null[] = {
        "class_embed_type",   "num_class_embeds",      "encoder_hid_dim_type",
        "encoder_hid_dim",    "cross_attention_norm",  "num_attention_heads",
        "time_embedding_dim", "time_embedding_act_fn", "timestep_post_act"};
    for (size_t i = 0; i < sizeof only_null / sizeof *only_null; i++)
        an_config_only_null(c, only_null[i]);
    an_config_only_str(c, "_class_name", "UNet2DConditionModel");
    an_config_only_str(c, "time_embedding_type", "positional");
    an_config_only_str(c, "resnet_time_scale_shift", "default");
    an_config_only_str(c, "attention_type", "default");
    an_config_only_bool(c, "center_input_sample", false);
    an_config_only_bool(c, "dual_cross_attention", false);
    an_config_only_bool(c, "resnet_skip_time_act", false);
    an_config_only_bool(c, "class_embeddings_concat", false);
    an_config_only_num(c, "resnet_out_scale_factor", 1);
    an_config_only_num(c, "mid_block_scale_factor", 1);
    const char *act = an_config_str(c, "act_fn", "silu");
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        an_config_refuse(c, "act_fn", "only \"silu\" is supported");
    /* upcast_attention asks for f32 scores: the kernels here always accumulate them in f32 */
    (void)an_config_bool(c, "upcast_attention", false);
}

/* sample_size: an integer, or [height, width]; it only decides the default picture. */
static void read_sample_size(an_config *c, an_unet_config *u)
{
    int64_t size[2];
    an_config_ints(c, "sample_size", 64, 2, 1, 4096, size);
    u->sample_h = size[0];
    u->sample_w = size[1];
}

/* Whether block i of `key` has transformers; anything but the two names is refused. */
static bool read_type(an_config *c, const char *key, int i, int blocks, const char *plain,
                      const char *cross)
{
    const json_t *list = json_object_get(c->json, key);
    if (c->status) return false;
    if (!json_is_array(list) || json_array_size(list) != (size_t)blocks) {
        an_config_refuse(c, key, "expected a list of %d, one for each of block_out_channels",
                         blocks);
        return false;
    }
    const char *name = json_string_value(json_array_get(list, (size_t)i));
    if (name && strcmp(name, cross) == 0) return true;
    if (!name || strcmp(name, plain) != 0)
        an_config_refuse(c, key, "only %s and %s are supported", plain, cross);
    return false;
}

/* transformer_layers_per_block[i] is a number for all of the block's transformers, or a list of one
 * number for each (SSD-1B). */
static void read_depth(an_config *c, const char *key, int i, int blocks, int64_t transformers,
                       int64_t *depth)
{
    const json_t *v = json_object_get(c->json, key);
    if (json_is_array(v)) {
        if (json_array_size(v) != (size_t)blocks)
            an_config_refuse(c, key, "expected a list of %d", blocks);
        v = json_array_get(v, (size_t)i);
    }
    for (int64_t j = 0; j < transformers; j++) {
        const json_t *e = json_is_array(v) ? json_array_get(v, (size_t)j) : v;
        int64_t d = !v || json_is_null(v) ? 1 : json_is_integer(e) ? json_integer_value(e) : -1;
        if (d < 0 || d > 64 || (json_is_array(v) && json_array_size(v) < (size_t)transformers)) {
            an_config_refuse(c, key,
                             "expected depths of 0 to 64, or a list of them for each "
                             "transformer of the block");
            return;
        }
        depth[j] = d;
    }
}

static bool nested(const json_t *v)
{
    size_t i;
    json_t *e;
    json_array_foreach(v, i, e) if (json_is_array(e)) return true;
    return false;
}

/* Going up mirrors going down, but for the depths if the config has its own list of them. */
static void read_blocks(an_config *c, an_unet_config *u)
{
    int64_t channels[AN_UNET_BLOCKS], heads[AN_UNET_BLOCKS], layers[AN_UNET_BLOCKS];
    const char *deep = "transformer_layers_per_block";
    const char *reverse = "reverse_transformer_layers_per_block";
    bool own = an_config_has(c, reverse);
    const json_t *only = json_object_get(c->json, "only_cross_attention");
    int n = an_config_list(c, "block_out_channels", AN_UNET_BLOCKS, 1, 1 << 16, channels);
    u->blocks = n;
    /* the number of heads, whatever its name says: diffusers keeps the mistake for the hub's sake
     */
    an_config_ints(c, "attention_head_dim", 8, n, 1, 1024, heads);
    an_config_ints(c, "layers_per_block", 2, n, 1, AN_UNET_LAYERS, layers);
    if (!own && nested(json_object_get(c->json, deep)))
        an_config_refuse(c, deep, "lists inside it need %s as well", reverse);
    for (int i = 0; i < n && !c->status; i++) {
        int down = n - 1 - i; /* of which up block i is the mirror */
        an_unet_block_config *d = &u->down[i];
        *d = (an_unet_block_config){channels[i], heads[i], layers[i], false, false, {0}};
        d->cross = read_type(c, "down_block_types", i, n, "DownBlock2D", "CrossAttnDownBlock2D");
        const json_t *o = json_is_array(only) ? json_array_get(only, (size_t)i) : only;
        if (o && !json_is_boolean(o) && !json_is_null(o))
            an_config_refuse(c, "only_cross_attention", "expected true, false or a list of them");
        d->only_cross = json_is_true(o);
        if (d->cross || i == n - 1) /* the mid block takes the last one's */
            read_depth(c, deep, i, n, d->cross ? layers[i] : 1, d->depth);

        an_unet_block_config *up = &u->up[down];
        *up = *d;
        up->cross = read_type(c, "up_block_types", down, n, "UpBlock2D", "CrossAttnUpBlock2D");
        if (up->cross && own) read_depth(c, reverse, down, n, layers[i] + 1, up->depth);
        if (up->cross && !own) read_depth(c, deep, i, n, layers[i] + 1, up->depth);
        if (channels[i] % heads[i] || channels[i] / heads[i] > 512)
            an_config_refuse(c, "attention_head_dim",
                             "it is the number of heads, and must divide %lld channels into heads "
                             "of at most 512",
                             (long long)channels[i]);
    }
}

static void read_mid(an_config *c, an_unet_config *u)
{
    const json_t *v = json_object_get(c->json, "mid_block_type");
    const char *type = v ? json_string_value(v) : "UNetMidBlock2DCrossAttn";
    u->mid_kind = AN_MID_NONE;
    if (type && strcmp(type, "UNetMidBlock2DCrossAttn") == 0)
        u->mid_kind = AN_MID_CROSS;
    else if (type && strcmp(type, "UNetMidBlock2D") == 0)
        u->mid_kind = AN_MID_PLAIN;
    else if (type || (v && !json_is_null(v)))
        an_config_refuse(c, "mid_block_type",
                         "only UNetMidBlock2DCrossAttn, UNetMidBlock2D and null are supported");
    if (c->status) return;
    u->mid = u->down[u->blocks - 1];
    const json_t *only = json_object_get(c->json, "only_cross_attention");
    u->mid.only_cross = an_config_bool(c, "mid_block_only_cross_attention", json_is_true(only));
}

/* SDXL: pooled text and six sizes, embedded, are added to the time embedding. */
static void read_added(an_config *c, an_unet_config *u)
{
    const char *type = an_config_str(c, "addition_embed_type", NULL);
    if (!type) return;
    if (strcmp(type, "text_time") != 0) {
        an_config_refuse(c, "addition_embed_type", "only null and \"text_time\" are supported");
        return;
    }
    u->time_id_dim = an_config_int(c, "addition_time_embed_dim", 0, 2, 1 << 16);
    int64_t in = an_config_int(c, "projection_class_embeddings_input_dim", 0, 1, 1 << 20);
    u->pooled_dim = in - 6 * u->time_id_dim;
    if (u->time_id_dim == 0)
        an_config_refuse(c, "addition_time_embed_dim", "text_time needs it");
    else if (u->pooled_dim < 1)
        an_config_refuse(c, "projection_class_embeddings_input_dim",
                         "too small for six time ids of %lld", (long long)u->time_id_dim);
}

void an_unet_config_read(an_config *c, an_unet_config *u)
{
    *u = (an_unet_config){.blocks = 0};
    refuse_unsupported(c);
    read_sample_size(c, u);
    u->in_channels = an_config_int(c, "in_channels", 4, 1, 1024);
    u->out_channels = an_config_int(c, "out_channels", 4, 1, 1024);
    u->flip_sin_to_cos = an_config_bool(c, "flip_sin_to_cos", true);
    u->freq_shift = (float)an_config_num(c, "freq_shift", 0, -16, 16);
    u->eps = (float)an_config_num(c, "norm_eps", 1e-5, 0, 1);
    u->groups = (int)an_config_int(c, "norm_num_groups", 32, 1, 4096);
    u->downsample_padding = (int)an_config_int(c, "downsample_padding", 1, 0, 1);
    u->conv_in_size = (int)an_config_int(c, "conv_in_kernel", 3, 1, 15);
    u->conv_out_size = (int)an_config_int(c, "conv_out_kernel", 3, 1, 15);
    if (u->conv_in_size % 2 == 0) an_config_refuse(c, "conv_in_kernel", "it must be odd");
    if (u->conv_out_size % 2 == 0) an_config_refuse(c, "conv_out_kernel", "it must be odd");
    u->linear_projection = an_config_bool(c, "use_linear_projection", false);
    u->guidance_dim = an_config_int(c, "time_cond_proj_dim", 0, 4, 1 << 16);
    read_blocks(c, u);
    read_mid(c, u);
    read_added(c, u);
    u->time_dim = 4 * u->down[0].channels;
    int64_t dims[AN_UNET_BLOCKS] = {0};
    an_config_ints(c, "cross_attention_dim", 1280, u->blocks, 1, 1 << 16, dims);
    u->context_dim = dims[0];
    for (int i = 1; i < u->blocks; i++)
        if (dims[i] != dims[0])
            an_config_refuse(c, "cross_attention_dim", "the blocks must all have the same");
    if (u->down[0].channels % 2)
        an_config_refuse(c, "block_out_channels", "the first must be even, for the time embedding");
}
