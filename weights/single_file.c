/* single_file.c: a whole Stable Diffusion model in one .safetensors file, with the names of the
 * original training code. The configs that a diffusers folder would hold are inferred from the
 * shapes, and what shapes cannot tell is set as diffusers' from_single_file sets it:
 *
 * - SD1.x: PNDM, epsilon; 8 attention heads everywhere.
 * - SD2.x: DDIM, v-prediction (the 512 base model needs epsilon: say so beside the file); heads 64
 *   wide.
 * - SDXL: Euler, epsilon; heads 64 wide.
 * - LCM (time_embed.cond_proj is there): LCM, epsilon.
 *
 * A JSON file of the same name beside it (NAME.json, else anneal.json in its folder) overrides:
 * {"scheduler": {"prediction_type": "epsilon"}, "unet": {"attention_head_dim": 4}}. */
#include "ldm.h"
#include "sd.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- the file beside it */

/* NAME.json beside NAME.safetensors, else anneal.json in its folder; NULL path: neither. */
static char *sidecar_path(const char *path)
{
    size_t stem = strlen(path);
    if (an_ends_with(path, ".safetensors")) stem -= strlen(".safetensors");
    char *own = an_asprintf("%.*s.json", (int)stem, path);
    if (!own || an_is_file(own)) return own;
    free(own);
    int dir = (int)(an_base_name(path) - path);
    char *shared = an_asprintf("%.*sanneal.json", dir, path);
    if (!shared || an_is_file(shared)) return shared;
    free(shared);
    return NULL;
}

/* Its objects that bear the name of a component change that component's config key by key; the rest
 * is what anneal.json is for folders. */
static an_status apply_sidecar(an_checkpoint *c, an_error *err)
{
    char *path = sidecar_path(c->path);
    if (!path) return AN_OK;
    json_t *doc = NULL, *v;
    const char *name;
    an_status s = an_json_read_file(path, AN_MAX_CONFIG_BYTES, &doc, err);
    if (s == AN_OK && !json_is_object(doc))
        s = an_fail(err, AN_INVALID, "%s: not a JSON object", path);
    if (s == AN_OK) {
        json_object_foreach(doc, name, v)
        {
            json_t *cfg = json_object_get(c->configs, name);
            if (json_is_object(v) && cfg && json_object_update(cfg, v) != 0)
                s = an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
        }
    }
    if (s == AN_OK && json_object_set(c->configs, "anneal", doc) != 0)
        s = an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    json_decref(doc);
    free(path);
    return s;
}

/* ---------------------------------------------------------------- opening */

an_status an_single_file_open(an_checkpoint *c, an_error *err)
{
    an_sd_kind k;
    an_sd_unet u;
    if (!an_sd_recognise(c->file, &k)) return AN_OK;
    an_status s = an_sd_measure_unet(c->file, &u, err);
    if (s == AN_OK) s = an_sd_configs(c, &k, &u, err);
    if (s != AN_OK) return s;
    c->layout = AN_LAYOUT_SINGLE_FILE;
    s = apply_sidecar(c, err);
    const char *cls = json_string_value(
        json_object_get(json_object_get(c->configs, "model_index"), "_class_name"));
    snprintf(c->cls, sizeof c->cls, "%s", cls ? cls : "");
    return s;
}

an_status an_single_file_weights(const an_checkpoint *c, const char *component, an_weights **out,
                                 an_error *err)
{
    an_sd_kind k;
    an_sd_unet u;
    an_ldm m = {0};
    if (c->layout == AN_LAYOUT_TENSORS || !an_sd_recognise(c->file, &k))
        return an_fail(
            err, AN_NOT_FOUND,
            "%s: no component %s: not a whole Stable Diffusion checkpoint (UNet, VAE and "
            "text encoder in one file)",
            c->path, component);
    if (strcmp(component, "unet") == 0) {
        an_status s = an_sd_measure_unet(c->file, &u, err);
        if (s != AN_OK) return s;
        m = (an_ldm){.kind = AN_LDM_UNET, .prefix = AN_SD_UNET, .layers_per_block = u.layers};
    } else if (strcmp(component, "vae") == 0) {
        m = (an_ldm){
            .kind = AN_LDM_VAE, .prefix = k.vae, .levels = an_sd_vae_levels(c->file, k.vae)};
    } else if (strcmp(component, "text_encoder") == 0 && k.clip) {
        m = (an_ldm){.kind = AN_LDM_CLIP, .prefix = k.clip};
    } else if ((strcmp(component, "text_encoder") == 0 && k.openclip) ||
               (strcmp(component, "text_encoder_2") == 0 && k.xl)) {
        m = (an_ldm){.kind = AN_LDM_OPENCLIP, .prefix = k.openclip_at, .projection = k.xl};
        m.layers = an_sd_openclip_layers(c->file, k.openclip_at, k.openclip);
    } else {
        return an_fail(err, AN_NOT_FOUND, "%s: no component %s in this file", c->path, component);
    }
    return an_set_derive(c->file, component, an_ldm_map, &m, out, err);
}
