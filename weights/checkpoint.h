/* checkpoint.h: a model on disk, inside the weights room. Private. */
#ifndef ANNEAL_WEIGHTS_CHECKPOINT_H
#define ANNEAL_WEIGHTS_CHECKPOINT_H

#include "set.h"

#define AN_MAX_PARTS        16
#define AN_MAX_CONFIG_BYTES ((size_t)16 << 20)

struct an_checkpoint {
    char *path;
    an_layout layout;
    char cls[96];
    struct json_t *configs; /* component -> object */
    an_weights *file;       /* the raw tensors, when path is a file */
    struct {
        char name[64];
        an_weights *set;
    } part[AN_MAX_PARTS]; /* the components opened so far */
    int parts;
    bool made_up; /* an_checkpoint_make_up */
};

/* single_file.c. Looks at c->file; if it is a Stable Diffusion checkpoint sets layout, class and
 * configs, otherwise leaves the layout AN_LAYOUT_TENSORS. */
an_status an_single_file_open(an_checkpoint *c, an_error *err);
/* The component's tensors under diffusers names; AN_NOT_FOUND if the file has none of them. */
an_status an_single_file_weights(const an_checkpoint *c, const char *component, an_weights **out,
                                 an_error *err);

#endif
