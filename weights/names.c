/* names.c: what the folders of the hub call the tensors, against what diffusers calls them today.
 */
#include "names.h"

#include <stdio.h>

an_status an_names_same(const void *ctx, const an_entry *e, an_weights *out, an_error *err)
{
    (void)ctx;
    return an_set_add(out, e->name, e, err);
}

/* CLIP text encoders: transformers wrote `text_model.` before every name until it flattened the
 * class, and kept a buffer of position numbers among the weights. */
an_status an_names_text(const void *ctx, const an_entry *e, an_weights *out, an_error *err)
{
    (void)ctx;
    const char *name = e->name;
    if (strncmp(name, "text_model.", 11) == 0) name += 11;
    if (an_ends_with(name, "position_ids")) return AN_OK;
    return an_set_add(out, name, e, err);
}

void an_names_drop_1x1(an_entry *e)
{
    while (e->ndim > 2 && e->dim[e->ndim - 1] == 1) e->ndim--;
}

/* AutoencoderKL: its one attention was a class of its own before diffusers 0.15. */
an_status an_names_vae(const void *ctx, const an_entry *e, an_weights *out, an_error *err)
{
    static const struct {
        const char *old, *now;
    } map[] = {{"query", "to_q"}, {"key", "to_k"}, {"value", "to_v"}, {"proj_attn", "to_out.0"}};
    (void)ctx;
    const char *at = strstr(e->name, ".attentions."), *part = at ? strchr(at + 12, '.') : NULL;
    if (!part) return an_set_add(out, e->name, e, err);
    char name[AN_WEIGHTS_MAX_NAME + 16];
    an_entry flat = *e;
    an_names_drop_1x1(&flat);
    part++;
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        size_t n = strlen(map[i].old);
        if (strncmp(part, map[i].old, n) != 0 || part[n] != '.') continue;
        snprintf(name, sizeof name, "%.*s%s%s", (int)(part - e->name), e->name, map[i].now,
                 part + n);
        return an_set_add(out, name, &flat, err);
    }
    return an_set_add(out, e->name, &flat, err);
}

/* A language model within a bigger one (Gemma 3 and its eyes) has the names of both, in the order
 * of the day; GPT-2 was published without the "transformer." that the class writes now, and with
 * its causal mask. */
an_status an_names_language(const void *ctx, const an_entry *e, an_weights *out, an_error *err)
{
    static const struct {
        const char *old, *now;
    } map[] = {{"language_model.model.", "model."},
               {"language_model.lm_head.", "lm_head."},
               {"model.language_model.", "model."}};
    const char *type = ctx, *name = e->name;
    char buf[AN_WEIGHTS_MAX_NAME + 16];
    if (strcmp(type, "gpt2") == 0) {
        if (an_ends_with(name, ".attn.bias") || an_ends_with(name, ".attn.masked_bias"))
            return AN_OK;
        bool whole = strncmp(name, "transformer.", 12) == 0 || strncmp(name, "lm_head.", 8) == 0;
        snprintf(buf, sizeof buf, "%s%s", whole ? "" : "transformer.", name);
        return an_set_add(out, buf, e, err);
    }
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        size_t n = strlen(map[i].old);
        if (strncmp(name, map[i].old, n) != 0) continue;
        snprintf(buf, sizeof buf, "%s%s", map[i].now, name + n);
        return an_set_add(out, buf, e, err);
    }
    return an_set_add(out, name, e, err);
}
