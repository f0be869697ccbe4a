/* set.h: how the weights room holds a set of named tensors, whatever file they came from. Private.
 * A set is built (an_set_new, an_set_add...), sealed once, and only read after that. Its tensors
 * are views into mapped files; several sets may share one mapping. */
#ifndef ANNEAL_WEIGHTS_SET_H
#define ANNEAL_WEIGHTS_SET_H

#include "anneal/weights.h"

#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

/* Names in messages and tables stay readable; the longest real ones have about 120 bytes. */
#define AN_WEIGHTS_MAX_NAME 256

/* One mapped file. */
typedef struct an_map {
    void *base;
    size_t size;
    int refs;
    int fd; /* its own, to see whether the file is still the same */
    struct timespec changed;
    _Atomic bool spoilt; /* pages of it are gone; zeros are read in their place */
    struct an_map *next; /* of all there are */
} an_map;

/* One tensor. `src` may be misaligned (older writers did not pad the header, and nothing pads
 * between tensors of different types) or stored transposed; `copy` is then made on first use. */
typedef struct an_entry {
    char *name;
    const unsigned char *src;
    an_dtype dtype;
    int ndim;
    int64_t dim[AN_MAX_DIMS]; /* the shape shown, i.e. after the transposition */
    bool transpose;           /* 2-D only: src is [dim[1], dim[0]] */
    void *copy;
} an_entry;

struct an_weights {
    char *path, *label;
    an_entry *entry;
    int count, cap;
    int *sorted; /* indices of entry[] by name */
    an_map **map;
    int maps;
    struct json_t *metadata; /* object of strings, or NULL */
    pthread_mutex_t lock;    /* guards the making of copies */
    void *made_up;           /* made_up.c; NULL: the tensors are in files */
};

/* made_up.c. A set that has every tensor it is asked for by shape, and none to be found. */
an_status an_set_make_up(const char *path, const char *label, an_weights **out, an_error *err);
void an_set_forget_made_up(an_weights *w);
an_status an_set_made_up(const an_weights *w, const char *name, int ndim, const int64_t *dim,
                         an_tensor *out, an_error *err);

/* map.c. A regular file, opened for reading; the caller closes *fd. *st: what it was then. */
an_status an_file_open(const char *path, int *fd, struct stat *st, an_error *err);
/* Maps the file, not an empty one; the mapping becomes the newest of w->map. opened: from
 * an_file_open, so that an_weights_check sees every change since, also of what was read before. */
an_status an_set_map(an_weights *w, int fd, const struct stat *opened, an_error *err);
void an_map_drop(an_map *m); /* one user less; NULL is fine */

an_status an_set_new(const char *path, const char *label, an_weights **out, an_error *err);
/* Takes name, dtype and shape of e (not its copy); refuses names over AN_WEIGHTS_MAX_NAME. */
an_status an_set_add(an_weights *w, const char *name, const an_entry *e, an_error *err);
/* Adds another user of m; the set drops it at its close. On failure m's count is as before. */
an_status an_set_share(an_weights *w, an_map *m, an_error *err);
/* Sorts; two tensors of one name are an error. */
an_status an_set_seal(an_weights *w, an_error *err);
const an_entry *an_set_entry(const an_weights *w, const char *name);

/* A new set from an old one. The function calls an_set_add for each tensor that e becomes: none,
 * one under another name, or several (a fused projection). */
typedef an_status an_set_map_fn(const void *ctx, const an_entry *e, an_weights *out, an_error *err);
an_status an_set_derive(const an_weights *from, const char *label, an_set_map_fn *fn,
                        const void *ctx, an_weights **out, an_error *err);

/* The part of path after its last slash ("unet" of "m/unet"); path itself if there is none. */
const char *an_base_name(const char *path);

#endif
