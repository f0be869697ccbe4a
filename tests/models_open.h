/* models_open.h: what the fixtures of picture models (models_fixture.h) and of language models
 * (models_lm_fixture.h) have in common: a model on a device, and golden tensors beside it. */
#ifndef ANNEAL_TESTS_MODELS_OPEN_H
#define ANNEAL_TESTS_MODELS_OPEN_H

#include "anneal/model.h"
#include "test.h"

/* A fixture has these as members of its own, and all together as `open`. */
#define OPENED                                                                                     \
    an_device *device;                                                                             \
    an_checkpoint *checkpoint;                                                                     \
    an_model *model;                                                                               \
    an_lane *lane;                                                                                 \
    an_weights *golden; /* or NULL */                                                              \
    an_error err;                                                                                  \
    char name[128] /* for messages */
typedef struct opened {
    OPENED;
} opened;
#define FIXTURE                                                                                    \
    union {                                                                                        \
        struct {                                                                                   \
            OPENED;                                                                                \
        };                                                                                         \
        opened open;                                                                               \
    }

static inline bool opened_ok(opened *f, an_status s, const char *what)
{
    CHECK_MSG(s == AN_OK, "%s: %s: %s", f->name, what, f->err.message);
    return s == AN_OK;
}

/* Of the device that is opened next: what comes again is recorded ("auto") or not ("off"). */
static const char *opened_graphs = "auto";
/* What matrices are rounded to: AN_F8_E4M3; AN_DTYPE_COUNT: nothing but the model's dtype. */
static an_dtype opened_weights = AN_DTYPE_COUNT;

static inline bool opened_model(opened *f, const char *path, const char *device, an_dtype dtype,
                                size_t arena)
{
    an_device_options o = {.device = device, .threads = 2, .graphs = opened_graphs};
    const an_dtype weights = opened_weights == AN_DTYPE_COUNT ? dtype : opened_weights;
    return opened_ok(f, an_device_open(&o, &f->device, &f->err), "device") &&
           opened_ok(f, an_checkpoint_open(path, &f->checkpoint, &f->err), "open") &&
           opened_ok(f,
                     an_model_load(f->device, f->checkpoint, dtype, weights, NULL, NULL, &f->model,
                                   &f->err),
                     "load") &&
           opened_ok(f, an_lane_open(f->device, arena, &f->lane, &f->err), "lane");
}

static inline bool opened_golden(opened *f, const char *path)
{
    return opened_ok(f, an_weights_open(path, &f->golden, &f->err), "golden");
}

/* A golden tensor; false (and a failed check) if it is missing. */
static inline bool opened_tensor(opened *f, const char *name, an_tensor *out)
{
    bool there = an_weights_find(f->golden, name, out);
    CHECK_MSG(there, "%s: no %s", f->name, name);
    return there;
}

static inline void opened_close(opened *f)
{
    an_lane_close(f->lane);
    an_model_free(f->model);
    an_checkpoint_close(f->checkpoint);
    an_weights_close(f->golden);
    size_t left = f->device ? an_device_bytes_live(f->device) : 0;
    CHECK_MSG(left == 0, "%s: %zu bytes of the device are still in use", f->name, left);
    an_device_close(f->device);
}

#endif
