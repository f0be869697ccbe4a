/* family.h: what a file of this room gives the registry: one network family behind model.h.
 * Private to models/. */
#ifndef ANNEAL_MODELS_FAMILY_H
#define ANNEAL_MODELS_FAMILY_H

#include "anneal/model.h"
#include "load.h"

/* What the rows of one batch have in common (h, w), and what one row has alone (tokens: of its
 * context, or its chunks). */
typedef struct an_shape {
    int64_t h, w, tokens;
} an_shape;

/* A tensor that a stage takes or gives. */
typedef struct an_port {
    const char *name;
    bool host;
    an_dtype dtype;
    int ndim;
    int64_t dim[AN_MAX_DIMS];
    bool optional;
} an_port;

enum { AN_MAX_PORTS = 8, AN_MAX_ROWS = 256 };

typedef struct an_ports {
    an_port in[AN_MAX_PORTS], out[AN_MAX_PORTS];
    int n_in, n_out;
} an_ports;

typedef struct an_lm_tick an_lm_tick; /* lm.h */

typedef struct an_family {
    const char *serves; /* for messages */
    bool (*matches)(const an_checkpoint *c);
    an_status (*probe)(an_checkpoint *c, an_model_info *out, an_error *err);
    /* Fills m->impl and m->bag. After a failure `unload` is called. */
    an_status (*load)(an_model *m, an_checkpoint *c, an_loader *ld, an_error *err);
    void (*unload)(an_model *m);
    /* The shape a row shows by its first tensor; false if it shows none. */
    bool (*shape_of)(const an_model *m, an_stage stage, const an_row *row, an_shape *out);
    an_status (*ports)(const an_model *m, an_stage stage, const an_shape *shape, an_ports *out,
                       an_error *err);
    /* Rows are checked, at most AN_MAX_ROWS. Errors latch in the lane. */
    void (*step)(const an_model *m, an_lane *l, an_stage stage, an_row *rows, int n);
    /* A language model has this instead of the three above: the tick is checked, errors latch in
     * the lane. */
    void (*forward)(const an_model *m, an_lane *l, const an_lm_tick *t);
} an_family;

struct an_model {
    const an_family *family;
    an_model_info info;
    an_device *device;
    an_dtype dtype;
    struct json_t *scheduler; /* own copy, or NULL */
    int vae_tile;
    an_bag bag;
    void *impl;
    uint64_t owner; /* of what lanes remember of it */
};

extern const an_family an_family_latent_diffusion; /* latent_diffusion.c */
extern const an_family an_family_llama;            /* llama.c */
extern const an_family an_family_gpt2;             /* gpt2.c */

#endif
