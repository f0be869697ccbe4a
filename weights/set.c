/* set.c: a set of named tensors: building it, looking things up, and the contract check every model
 * loads through. Nothing here knows a file format. */
#include "set.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

const char *an_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* ---------------------------------------------------------------- building */

an_status an_set_new(const char *path, const char *label, an_weights **out, an_error *err)
{
    *out = NULL;
    an_weights *w = calloc(1, sizeof *w);
    if (!w) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    pthread_mutex_init(&w->lock, NULL);
    w->path = an_strdup(path);
    w->label = an_strdup(label);
    if (!w->path || !w->label) {
        an_weights_close(w);
        return an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    }
    *out = w;
    return AN_OK;
}

an_status an_set_add(an_weights *w, const char *name, const an_entry *e, an_error *err)
{
    if (strlen(name) > AN_WEIGHTS_MAX_NAME)
        return an_fail(err, AN_INVALID, "%s: tensor name of %zu bytes, at most %d are read",
                       w->path, strlen(name), AN_WEIGHTS_MAX_NAME);
    if (w->count == w->cap) {
        int cap =
            w->cap ? w->cap * 2 : 64; /* far from INT_MAX: counts are limited by the readers */
        an_entry *p = realloc(w->entry, (size_t)cap * sizeof *p);
        if (!p) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", w->path);
        w->entry = p;
        w->cap = cap;
    }
    an_entry *n = &w->entry[w->count];
    *n = *e;
    n->copy = NULL;
    n->name = an_strdup(name);
    if (!n->name) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", w->path);
    w->count++;
    return AN_OK;
}

an_status an_set_share(an_weights *w, an_map *m, an_error *err)
{
    an_map **p = realloc(w->map, (size_t)(w->maps + 1) * sizeof(an_map *));
    if (!p) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", w->path);
    w->map = p;
    w->map[w->maps++] = m;
    m->refs++;
    return AN_OK;
}

static int by_name(const void *a, const void *b, void *ctx)
{
    const an_entry *e = ctx;
    return strcmp(e[*(const int *)a].name, e[*(const int *)b].name);
}

an_status an_set_seal(an_weights *w, an_error *err)
{
    if (!w->count) return AN_OK;
    w->sorted = malloc((size_t)w->count * sizeof *w->sorted);
    if (!w->sorted) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", w->path);
    for (int i = 0; i < w->count; i++) w->sorted[i] = i;
    qsort_r(w->sorted, (size_t)w->count, sizeof *w->sorted, by_name, w->entry);
    for (int i = 1; i < w->count; i++) {
        const char *name = w->entry[w->sorted[i]].name;
        if (strcmp(w->entry[w->sorted[i - 1]].name, name) == 0)
            return an_fail(err, AN_INVALID, "%s: two tensors are called %s", w->path, name);
    }
    return AN_OK;
}

an_status an_set_derive(const an_weights *from, const char *label, an_set_map_fn *fn,
                        const void *ctx, an_weights **out, an_error *err)
{
    an_weights *w;
    an_status s = an_set_new(from->path, label, &w, err);
    *out = NULL;
    if (s != AN_OK) return s;
    for (int i = 0; i < from->maps && s == AN_OK; i++) s = an_set_share(w, from->map[i], err);
    for (int i = 0; i < from->count && s == AN_OK; i++) s = fn(ctx, &from->entry[i], w, err);
    if (s == AN_OK) s = an_set_seal(w, err);
    if (s != AN_OK) {
        an_weights_close(w);
        return s;
    }
    if (from->metadata) w->metadata = json_incref(from->metadata);
    *out = w;
    return AN_OK;
}

void an_weights_close(an_weights *w)
{
    if (!w) return;
    for (int i = 0; i < w->count; i++) {
        free(w->entry[i].name);
        free(w->entry[i].copy);
    }
    for (int i = 0; i < w->maps; i++) an_map_drop(w->map[i]);
    json_decref(w->metadata);
    an_set_forget_made_up(w);
    pthread_mutex_destroy(&w->lock);
    free(w->entry);
    free(w->sorted);
    free(w->map);
    free(w->path);
    free(w->label);
    free(w);
}

/* ---------------------------------------------------------------- looking */

int an_weights_count(const an_weights *w)
{
    return w->count;
}

const char *an_weights_name(const an_weights *w, int i)
{
    return i >= 0 && i < w->count ? w->entry[i].name : NULL;
}

const char *an_weights_path(const an_weights *w)
{
    return w->path;
}

static an_tensor view_of(const an_entry *e)
{
    an_tensor t = {(void *)(uintptr_t)e->src, e->dtype, e->ndim, {1, 1, 1, 1, 1}};
    memcpy(t.dim, e->dim, (size_t)e->ndim * sizeof t.dim[0]);
    return t;
}

size_t an_weights_bytes(const an_weights *w)
{
    size_t sum =
        0; /* each tensor lies in a file, so the sum is small; split views do not overlap */
    for (int i = 0; i < w->count; i++) {
        an_tensor t = view_of(&w->entry[i]);
        sum += an_tensor_bytes(&t);
    }
    return sum;
}

const char *an_weights_metadata(const an_weights *w, const char *key)
{
    return json_string_value(json_object_get(w->metadata, key));
}

const an_entry *an_set_entry(const an_weights *w, const char *name)
{
    int lo = 0, hi = w->sorted ? w->count : 0;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        int c = strcmp(name, w->entry[w->sorted[mid]].name);
        if (c == 0) return &w->entry[w->sorted[mid]];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

/* The alignment that readers of a tensor count on: its element's, for blocks that of their f16. */
static size_t unit_of(an_dtype d)
{
    return an_dtype_is_quant(d) ? 2 : an_dtype_size(d);
}

/* Copies e's bytes to aligned memory of the shape shown. */
static void *copy_of(const an_entry *e, const an_tensor *t)
{
    size_t unit = unit_of(e->dtype), bytes = an_tensor_bytes(t);
    unsigned char *p = NULL;
    if (posix_memalign((void **)&p, 64, bytes ? bytes : 64) != 0) return NULL;
    if (!e->transpose) {
        memcpy(p, e->src, bytes);
        return p;
    }
    size_t rows = (size_t)e->dim[0], cols = (size_t)e->dim[1];
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            memcpy(p + (r * cols + c) * unit, e->src + (c * rows + r) * unit, unit);
    return p;
}

/* The view of e, through a copy where one is needed. False: out of memory. The set is const to its
 * readers; the copies are a cache behind a lock, so that threads may load together. */
static bool resolve(const an_weights *w, const an_entry *e, an_tensor *out)
{
    *out = view_of(e);
    size_t unit = unit_of(e->dtype);
    if (!e->transpose && (uintptr_t)e->src % unit == 0) return true;
    an_weights *mutable_w = (an_weights *)(uintptr_t)w;
    an_entry *mutable_e = (an_entry *)(uintptr_t)e;
    pthread_mutex_lock(&mutable_w->lock);
    if (!mutable_e->copy) mutable_e->copy = copy_of(e, out);
    out->data = mutable_e->copy;
    pthread_mutex_unlock(&mutable_w->lock);
    return out->data != NULL;
}

bool an_weights_find(const an_weights *w, const char *name, an_tensor *out)
{
    const an_entry *e = an_set_entry(w, name);
    return e && resolve(w, e, out);
}

static bool floating(an_dtype d)
{
    return d == AN_F32 || d == AN_F16 || d == AN_BF16 || d == AN_F64 || d == AN_F8_E4M3;
}

static an_status get(const an_weights *w, const char *name, int ndim, const int64_t *dim,
                     bool blocks, an_tensor *out, an_error *err)
{
    char want[160], have[160];
    if (w->made_up) return an_set_made_up(w, name, ndim, dim, out, err);
    an_shape_str(ndim, dim, want, sizeof want);
    const an_entry *e = an_set_entry(w, name);
    if (!e) return an_fail(err, AN_INVALID, "%s/%s: missing, expected %s", w->label, name, want);
    bool same = e->ndim == ndim;
    for (int i = 0; same && i < ndim; i++) same = e->dim[i] == dim[i];
    if (!same)
        return an_fail(err, AN_INVALID, "%s/%s: shape %s, expected %s", w->label, name,
                       an_shape_str(e->ndim, e->dim, have, sizeof have), want);
    if (!floating(e->dtype) && !(blocks && an_dtype_is_quant(e->dtype)))
        return an_fail(err, AN_INVALID,
                       "%s/%s: dtype %s, expected F32, F16, BF16, F64 or F8_E4M3%s", w->label, name,
                       an_dtype_name(e->dtype), blocks ? " or a block format (Q4_0 ...)" : "");
    if (!resolve(w, e, out))
        return an_fail(err, AN_NO_MEMORY, "%s/%s: no memory for an aligned copy", w->label, name);
    return AN_OK;
}

an_status an_weights_get(const an_weights *w, const char *name, int ndim, const int64_t *dim,
                         an_tensor *out, an_error *err)
{
    return get(w, name, ndim, dim, false, out, err);
}

an_status an_weights_get_any(const an_weights *w, const char *name, int ndim, const int64_t *dim,
                             an_tensor *out, an_error *err)
{
    return get(w, name, ndim, dim, true, out, err);
}

an_status an_tensor_to_f32(const an_tensor *t, float *dst, an_error *err)
{
    size_t n = (size_t)an_tensor_count(t);
    if (n == 0) return AN_OK;
    switch (t->dtype) {
    case AN_F32:
        memcpy(dst, t->data, n * sizeof *dst);
        return AN_OK;
    case AN_F16:
        for (size_t i = 0; i < n; i++) dst[i] = an_f16_to_f32(((const uint16_t *)t->data)[i]);
        return AN_OK;
    case AN_BF16:
        for (size_t i = 0; i < n; i++) dst[i] = an_bf16_to_f32(((const uint16_t *)t->data)[i]);
        return AN_OK;
    case AN_F64:
        for (size_t i = 0; i < n; i++) dst[i] = (float)((const double *)t->data)[i];
        return AN_OK;
    case AN_F8_E4M3:
        for (size_t i = 0; i < n; i++) dst[i] = an_e4m3_to_f32(((const uint8_t *)t->data)[i]);
        return AN_OK;
    default:
        if (an_dequantize(t->dtype, t->data, (int64_t)n, dst)) return AN_OK;
        return an_fail(err, AN_INVALID,
                       "dtype %s cannot become F32; F32, F16, BF16, F64, F8_E4M3 and GGUF's blocks "
                       "can",
                       an_dtype_name(t->dtype));
    }
}
