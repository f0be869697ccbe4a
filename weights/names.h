/* names.h: from the names that files use to the names that models ask for (those of current
 * diffusers). Private to the weights room. */
#ifndef ANNEAL_WEIGHTS_NAMES_H
#define ANNEAL_WEIGHTS_NAMES_H

#include "set.h"

/* an_set_map_fn for the component folders of diffusers: older names become the current ones. */
an_status an_names_text(const void *ctx, const an_entry *e, an_weights *out, an_error *err);
an_status an_names_vae(const void *ctx, const an_entry *e, an_weights *out, an_error *err);
an_status an_names_same(const void *ctx, const an_entry *e, an_weights *out, an_error *err);
/* Folders of language models; ctx: their model_type. */
an_status an_names_language(const void *ctx, const an_entry *e, an_weights *out, an_error *err);

/* VAE attention weights are [C,C] matrices; files also store 1x1 convolutions [C,C,1,1]. */
void an_names_drop_1x1(an_entry *e);

#endif
