/* load.h: from named tensors in a checkpoint to packed weights on the device. Errors latch, so that
 * loading a network is a list of calls in the order of its layers. Private to models/. */
#ifndef ANNEAL_MODELS_LOAD_H
#define ANNEAL_MODELS_LOAD_H

#include "anneal/ops.h"
#include "anneal/weights.h"

/* Everything a model holds on the device, freed together. */
typedef struct an_bag {
    an_device *device;
    an_weight **weight;
    void **memory;
    size_t n_weights, cap_weights, n_memory, cap_memory;
    size_t bytes; /* on the device */
} an_bag;
void an_bag_free(an_bag *b);

typedef struct an_loader {
    an_bag *bag;
    an_dtype dtype; /* of activations, and so of weights */
    bool fp8;       /* but matrices are rounded to FP8 (fp8.c) */
    an_weights *set;
    an_status status;
    an_error *err;
    void (*progress)(void *ctx, double done);
    void *ctx;
    double bytes_done, bytes_all;     /* of the files */
    const an_weights *looked_through; /* fp8.c: the set in which `scales` was looked for, or NULL */
    const char *scales;
} an_loader;

/* Weight flags. */
enum {
    AN_BIAS = 1,       /* it has a bias, and must have it */
    AN_KEEP_F32 = 2,   /* its activations are F32 in a BF16 model too */
    AN_BIAS_MAYBE = 4, /* it has a bias if the file has one */
    AN_KEEP = 8        /* never rounded to FP8: few numbers on which much depends */
};

/* Norm parameters, F32. groups 0: a layer norm. */
typedef struct an_norm {
    an_tensor gamma, beta; /* [c] */
    int groups;
    float eps;
} an_norm;

#define AN_NAME_MAX 160

/* y = x w^T: "prefix.weight" [n, k], also found as a 1x1 convolution [n, k, 1, 1]. */
an_weight *an_load_linear(an_loader *ld, const char *prefix, int64_t n, int64_t k, int flags);
/* One GEMM of several: parts is a NULL-terminated list of names below prefix, each [n, k]; they are
 * stacked along n. At most 4. */
an_weight *an_load_stacked(an_loader *ld, const char *prefix, const char *const *parts, int64_t n,
                           int64_t k, int flags);
/* The same of parts with outputs of their own, found as "prefix.name.weight" [n, k]: plain numbers,
 * or blocks of GGUF's formats, each part of its own. A part without a name ends the list. */
typedef struct an_part {
    const char *name;
    int64_t n;
} an_part;
enum { AN_MAX_PARTS = 4 };
an_weight *an_load_parts(an_loader *ld, const char *prefix, const an_part *parts, int64_t k,
                         int flags);
/* The same of any number of parts, each of a whole name ("name.weight"): `what` is for messages. */
an_weight *an_load_list(an_loader *ld, const char *what, int count, const an_part *parts, int64_t k,
                        int flags);
/* One GEMM of layers all over a network that read the same: each is noted where it is met, and gets
 * its first output back; then all are loaded. Loading frees the list (as freeing one that was not
 * loaded does, free(part)). */
typedef struct an_stack_part {
    char name[AN_NAME_MAX];
    int64_t n;
} an_stack_part;
typedef struct an_stack {
    an_stack_part *part;
    int count, cap;
    int64_t n; /* outputs so far */
} an_stack;
int64_t an_stack_add(an_loader *ld, an_stack *s, const char *prefix, int64_t n);
an_weight *an_stack_load(an_loader *ld, an_stack *s, const char *what, int64_t k, int flags);
/* One GEMM of matrices that the caller has: `what` is for messages. */
an_weight *an_load_given(an_loader *ld, const char *what, int count, const an_tensor *w, int flags);
/* A tensor by its whole name, as it lies in the file: plain numbers or blocks. */
an_tensor an_load_whole(an_loader *ld, const char *name, int ndim, const int64_t *dim);
bool an_load_has(const an_loader *ld, const char *name); /* of a whole tensor */
/* "prefix.weight" [n, k, size, size]. */
an_weight *an_load_conv(an_loader *ld, const char *prefix, int64_t n, int64_t k, int size,
                        int flags);
/* Outputs from..from+count of a convolution with n of them. */
an_weight *an_load_conv_part(an_loader *ld, const char *prefix, int64_t n, int64_t k, int size,
                             int64_t from, int64_t count, int flags);
an_norm an_load_norm(an_loader *ld, const char *prefix, int64_t c, int groups, float eps);
/* A host tensor on the device, kept in the bag. */
an_tensor an_load_upload(an_loader *ld, an_tensor host, an_dtype dtype);
/* "prefix.weight" [c] + plus, F32: Gemma's norms are stored as what they differ from 1 by. */
an_tensor an_load_gamma(an_loader *ld, const char *prefix, int64_t c, float plus);
/* "prefix.weight" [n, c] as it is, in the model's dtype. */
an_tensor an_load_table(an_loader *ld, const char *prefix, int64_t n, int64_t c);
/* A matrix made on the host: F32 w [n, k], bias [n] or NULL. */
an_weight *an_load_made(an_loader *ld, const an_tensor *w, const an_tensor *bias, int flags);

/* "prefix.i" and the like into a buffer of AN_NAME_MAX; returns it. Latches if it does not fit. */
const char *an_load_name(an_loader *ld, char *buf, const char *fmt, ...) AN_PRINTF(3, 4);
/* Zeroed memory of the model's own (free()), or NULL with AN_NO_MEMORY latched. */
void *an_load_array(an_loader *ld, size_t count, size_t size);

#endif
