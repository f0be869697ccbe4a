/* gguf.h: GGUF files inside the weights room. Private. */
#ifndef ANNEAL_WEIGHTS_GGUF_H
#define ANNEAL_WEIGHTS_GGUF_H

#include "checkpoint.h"

/* Limits. Every count in a GGUF file is 64 bits of somebody else's choice; honest files stay far
 * below these. A value costs some 32 bytes parsed, so the last one also bounds memory. */
#define AN_GGUF_MAX_TENSORS   100000
#define AN_GGUF_MAX_KEYS      10000
#define AN_GGUF_MAX_KEY       1024                /* bytes of a key */
#define AN_GGUF_MAX_STRING    ((size_t)16 << 20)  /* bytes of a string */
#define AN_GGUF_MAX_STRINGS   ((size_t)256 << 20) /* bytes of all strings */
#define AN_GGUF_MAX_VALUES    ((size_t)4000000) /* numbers and strings, those in arrays included */
#define AN_GGUF_MAX_ALIGNMENT 65536
#define AN_GGUF_MAX_DIMS      4
#define AN_GGUF_MAX_SHARDS    1000

/* True if the file begins with GGUF's magic number. */
bool an_gguf_is(const char *path);

/* gguf.c. One file, version 2 or 3: its tensors under the names they have there, shapes with the
 * slowest dimension first; *meta: the metadata, an object (the caller's). */
an_status an_gguf_read(const char *path, an_weights **out, struct json_t **meta, an_error *err);

/* gguf_open.c. c->path, with the other files of a split set, becomes c->file and the configs
 * "gguf", "model" and "generation". */
an_status an_gguf_open(an_checkpoint *c, an_error *err);
/* The same without a "model" config: for `anneal info` of a file that cannot be served. */
an_status an_gguf_open_raw(an_checkpoint *c, an_error *err);
/* The set of component "model". */
an_status an_gguf_weights(const an_checkpoint *c, const char *component, an_weights **out,
                          an_error *err);

/* gguf_config.c. The architecture's row of the table; NULL if it is not known. */
typedef struct an_gguf_arch {
    const char *name; /* general.architecture */
    const char *type; /* model_type of Hugging Face */
    const char *cls;  /* its class */
    const char *act;  /* hidden_act */
    unsigned family;  /* AN_GGUF_... bits: which names of the table apply */
} an_gguf_arch;
enum {
    AN_GGUF_LLAMA = 1,    /* pre-norm blocks with a gated feed-forward */
    AN_GGUF_SANDWICH = 2, /* norms before and after each half of a block: Gemma 2 and 3 */
    AN_GGUF_FUSED = 4,    /* gate and up are one matrix: Phi-3 */
    AN_GGUF_GPT2 = 8
};
const an_gguf_arch *an_gguf_arch_of(const struct json_t *meta);
/* The config.json that Hugging Face would have written, and generation_config.json. */
an_status an_gguf_config(const char *path, const struct json_t *meta, const an_weights *w,
                         struct json_t **config, struct json_t **generation, an_error *err);

/* gguf_names.c, an_set_map_fn; ctx: const an_gguf_arch *. */
an_status an_gguf_names(const void *ctx, const an_entry *e, an_weights *out, an_error *err);

#endif
