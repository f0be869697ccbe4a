/* gguf_build.h: GGUF files made in memory, honest ones and others. Metadata is written as JSON:
 * integers become U32, reals F32, lists take the type of their first element. */
#ifndef GGUF_BUILD_H
#define GGUF_BUILD_H

#include "anneal/tensor.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* Bytes that grow. */
typedef struct gb_bytes {
    unsigned char *p;
    size_t n, cap;
} gb_bytes;

static inline void gb_put(gb_bytes *b, const void *data, size_t n)
{
    if (b->n + n > b->cap) {
        b->cap = (b->n + n) * 2 + 256;
        b->p = realloc(b->p, b->cap);
        if (!b->p) abort();
    }
    if (n) memcpy(b->p + b->n, data, n);
    b->n += n;
}

static inline void gb_u32(gb_bytes *b, uint32_t v)
{
    gb_put(b, &v, 4);
}

static inline void gb_u64(gb_bytes *b, uint64_t v)
{
    gb_put(b, &v, 8);
}

static inline void gb_text(gb_bytes *b, const char *s, size_t n)
{
    gb_u64(b, n);
    gb_put(b, s, n);
}

static inline void gb_pad(gb_bytes *b, size_t alignment)
{
    static const char zeros[256];
    while (b->n % alignment) gb_put(b, zeros, 1);
}

/* A file in parts. keys and tensors are counted, and may be made to lie before gb_write. */
typedef struct gguf_build {
    gb_bytes kv, info, data;
    uint64_t keys, tensors;
    uint32_t version, alignment;
} gguf_build;

static inline void gb_begin(gguf_build *g)
{
    *g = (gguf_build){.version = 3, .alignment = 32};
}

static inline void gb_free(gguf_build *g)
{
    free(g->kv.p);
    free(g->info.p);
    free(g->data.p);
}

/* ---------------------------------------------------------------- metadata */

static inline uint32_t gb_type(const json_t *v)
{
    return json_is_integer(v) ? 4 : json_is_real(v) ? 6 : json_is_boolean(v) ? 7 : 8;
}

static inline void gb_scalar(gb_bytes *b, const json_t *v)
{
    if (json_is_integer(v)) {
        gb_u32(b, (uint32_t)json_integer_value(v));
    } else if (json_is_real(v)) {
        float f = (float)json_real_value(v);
        gb_put(b, &f, 4);
    } else if (json_is_boolean(v)) {
        unsigned char c = json_is_true(v);
        gb_put(b, &c, 1);
    } else {
        gb_text(b, json_string_value(v), json_string_length(v));
    }
}

/* A key and the type of its value; the value follows by hand. */
static inline void gb_key(gguf_build *g, const char *key, uint32_t type)
{
    gb_text(&g->kv, key, strlen(key));
    gb_u32(&g->kv, type);
    g->keys++;
}

static inline void gb_value(gguf_build *g, const char *key, const json_t *v)
{
    gb_key(g, key, json_is_array(v) ? 9 : gb_type(v));
    if (!json_is_array(v)) {
        gb_scalar(&g->kv, v);
        return;
    }
    gb_u32(&g->kv, gb_type(json_array_get(v, 0)));
    gb_u64(&g->kv, json_array_size(v));
    for (size_t i = 0; i < json_array_size(v); i++) gb_scalar(&g->kv, json_array_get(v, i));
}

static inline void gb_metadata(gguf_build *g, const char *json)
{
    json_error_t e;
    json_t *doc = json_loads(json, 0, &e), *v;
    const char *key;
    if (!doc) {
        printf("metadata: %s\n%s\n", e.text, json);
        abort();
    }
    json_object_foreach(doc, key, v) gb_value(g, key, v);
    json_decref(doc);
}

/* ---------------------------------------------------------------- tensors */

/* The entry of a tensor as it is told, true or not. size: fastest first. */
static inline void gb_tensor_info(gguf_build *g, const char *name, uint32_t type, uint32_t dims,
                                  const uint64_t *size, uint64_t offset)
{
    gb_text(&g->info, name, strlen(name));
    gb_u32(&g->info, dims);
    for (uint32_t i = 0; i < dims; i++) gb_u64(&g->info, size[i]);
    gb_u32(&g->info, type);
    gb_u64(&g->info, offset);
    g->tensors++;
}

static inline uint32_t gb_type_of(an_dtype d)
{
    static const unsigned char type[AN_DTYPE_COUNT] = {
        [AN_F32] = 0,     [AN_F16] = 1,     [AN_Q4_0] = 2,  [AN_Q4_1] = 3,
        [AN_Q5_0] = 6,    [AN_Q5_1] = 7,    [AN_Q8_0] = 8,  [AN_Q2_K] = 10,
        [AN_Q3_K] = 11,   [AN_Q4_K] = 12,   [AN_Q5_K] = 13, [AN_Q6_K] = 14,
        [AN_IQ4_NL] = 20, [AN_IQ4_XS] = 23, [AN_F64] = 28,  [AN_BF16] = 30};
    return type[d];
}

/* A tensor with its data, NULL: zeros. t's dims slowest first, as everywhere in anneal. */
static inline void gb_tensor(gguf_build *g, const char *name, const an_tensor *t)
{
    uint64_t size[AN_MAX_DIMS];
    for (int i = 0; i < t->ndim; i++) size[i] = (uint64_t)t->dim[t->ndim - 1 - i];
    gb_pad(&g->data, g->alignment);
    gb_tensor_info(g, name, gb_type_of(t->dtype), (uint32_t)t->ndim, size, g->data.n);
    size_t bytes = an_tensor_bytes(t);
    void *zeros = t->data ? NULL : calloc(1, bytes);
    gb_put(&g->data, t->data ? t->data : zeros, bytes);
    free(zeros);
}

/* ---------------------------------------------------------------- the file */

/* All of it; g can go on growing. The caller's to free. */
static inline gb_bytes gb_file(const gguf_build *g)
{
    gb_bytes b = {0};
    gb_put(&b, "GGUF", 4);
    gb_u32(&b, g->version);
    gb_u64(&b, g->tensors);
    gb_u64(&b, g->keys);
    gb_put(&b, g->kv.p, g->kv.n);
    gb_put(&b, g->info.p, g->info.n);
    if (g->data.n) gb_pad(&b, g->alignment);
    gb_put(&b, g->data.p, g->data.n);
    return b;
}

static inline void gb_write(const gguf_build *g, const char *path)
{
    gb_bytes b = gb_file(g);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(b.p, 1, b.n, f) != b.n || fclose(f)) abort();
    free(b.p);
}

#endif
