/* Any JSON as the config.json of a component: the walk must end with a config within its bounds, or
 * with a message. The first byte chooses the component. */
#include "anneal/base.h"
#include "models/clip_text.h"
#include "models/llama.h"
#include "models/unet.h"
#include "models/vae.h"

#include <jansson.h>
#include <stdlib.h>

static void within(bool ok)
{
    if (!ok) abort();
}

static void unet(an_config *c)
{
    an_unet_config u;
    an_unet_config_read(c, &u);
    if (c->status) return;
    within(u.blocks >= 1 && u.blocks <= AN_UNET_BLOCKS && u.context_dim > 0 && u.time_dim > 0);
    for (int i = 0; i < u.blocks; i++) {
        within(u.down[i].layers >= 1 && u.down[i].layers <= AN_UNET_LAYERS);
        within(u.down[i].heads > 0 && u.down[i].channels % u.down[i].heads == 0);
        for (int j = 0; j <= AN_UNET_LAYERS; j++)
            within(u.up[i].depth[j] >= 0 && u.up[i].depth[j] <= 64);
    }
    within(u.time_id_dim == 0 || u.pooled_dim > 0);
}

static void vae(an_config *c)
{
    an_vae_config v;
    an_vae_config_read(c, &v);
    if (c->status) return;
    within(v.levels >= 1 && v.levels <= AN_VAE_LEVELS && v.factor >= 1 && v.scaling_factor > 0);
    within(v.layers >= 1 && v.layers <= AN_VAE_LAYERS && v.latent_channels <= AN_VAE_LATENT_MAX);
}

static void clip(an_config *c)
{
    an_clip_config t = {0};
    an_clip_config_read(c, true, &t);
    if (c->status) return;
    within(t.layers >= 1 && t.heads >= 1 && t.width % t.heads == 0 && t.positions >= 3);
}

static void llama(an_config *c)
{
    an_llama_config k;
    an_llama_config_read(c, &k);
    if (c->status) return;
    within(k.layers >= 1 && k.layers <= AN_LM_LAYERS && k.vocab >= 1 && k.hidden >= 1);
    within(k.kv_heads >= 1 && k.heads % k.kv_heads == 0 && k.head_dim <= AN_LM_HEAD_DIM);
    within(k.experts >= 0 && k.top_k <= k.experts && k.scale > 0);
    for (int i = 0; i < 1 + k.local[0]; i++) {
        within(k.rope[i].rot_dim >= 2 && k.rope[i].rot_dim <= k.head_dim);
        for (int p = 0; p < k.rope[i].rot_dim / 2; p++)
            within(k.rope[i].inv_freq[p] >= 0 && k.rope[i].inv_freq[p] < 1e9f);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    an_error err = {.message = ""};
    json_t *j = NULL;
    if (size < 1 || an_json_parse_lenient((const char *)data + 1, size - 1, &j, NULL)) return 0;
    an_config c = an_config_open(j, "config.json", &err);
    if (data[0] % 4 == 0) unet(&c);
    if (data[0] % 4 == 1) vae(&c);
    if (data[0] % 4 == 2) clip(&c);
    if (data[0] % 4 == 3) llama(&c);
    within(c.status == AN_OK || err.message[0]);
    json_decref(j);
    return 0;
}
