/* safetensors.c: the reader of .safetensors files. The format: 8 bytes little-endian header length,
 * a JSON header {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}},
 * then the data (https://github.com/huggingface/safetensors). The rules below are those of the
 * reference reader: everything is checked before anything is mapped or believed.
 *
 * The header is read, not mapped: a file that shrinks meanwhile gives an error. The data is mapped
 * (map.c). */
#include "set.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#define ST_MAX_HEADER  ((uint64_t)100000000) /* as the reference reader has it */
#define ST_MAX_TENSORS 100000
/* A JSON value costs far more memory parsed than written. An honest tensor has 11 structural
 * characters; a header with more than this many is refused before it is parsed. */
#define ST_MAX_STRUCTURE ((size_t)16 * ST_MAX_TENSORS)
#define ST_MAX_DIM       ((json_int_t)1 << 40)

typedef struct st_span {
    size_t begin, end;
    const char *name;
    const json_t *info;
} st_span;

/* ---------------------------------------------------------------- reading the header */

static bool read_exactly(int fd, void *buf, size_t n, off_t at)
{
    for (unsigned char *p = buf; n;) {
        ssize_t got = pread(fd, p, n, at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        p += got;
        at += got;
        n -= (size_t)got;
    }
    return true;
}

static bool structure_ok(const char *s, size_t len)
{
    size_t n = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        if (in_string) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in_string = false;
        } else if (s[i] == '"') {
            in_string = true;
        } else if ((s[i] == '{' || s[i] == '[' || s[i] == ',') && ++n > ST_MAX_STRUCTURE) {
            return false;
        }
    }
    return true;
}

/* *header: the parsed JSON object; *data_at: where the data begins in the file. */
static an_status read_header(int fd, const char *path, size_t file_size, json_t **header,
                             size_t *data_at, an_error *err)
{
    unsigned char b[8];
    if (file_size < 8 || !read_exactly(fd, b, 8, 0))
        return an_fail(err, AN_INVALID, "%s: %zu bytes, too short for a safetensors file", path,
                       file_size);
    uint64_t len = 0;
    for (int i = 7; i >= 0; i--) len = len << 8 | b[i];
    if (len > ST_MAX_HEADER || len > file_size - 8)
        return an_fail(err, AN_INVALID,
                       "%s: not a safetensors file: header of %llu bytes in a file of %zu (at most "
                       "%llu are read)",
                       path, (unsigned long long)len, file_size, (unsigned long long)ST_MAX_HEADER);
    char *text = malloc((size_t)len + 1);
    if (!text) return an_fail(err, AN_NO_MEMORY, "%s: no memory for the header", path);
    an_status s = AN_OK;
    if (!read_exactly(fd, text, (size_t)len, 8))
        s = an_fail(err, AN_IO, "%s: the file became shorter while it was read", path);
    else if (len == 0 || text[0] != '{')
        s = an_fail(err, AN_INVALID, "%s: not a safetensors file: the header is not a JSON object",
                    path);
    else if (!an_utf8_valid(text, (size_t)len))
        s = an_fail(err, AN_INVALID, "%s: the header is not UTF-8", path);
    else if (!structure_ok(text, (size_t)len))
        s = an_fail(err, AN_TOO_LARGE, "%s: header too large: over %d tensors", path,
                    ST_MAX_TENSORS);
    else if ((s = an_json_parse(text, (size_t)len, header, err)) != AN_OK)
        an_fail_prefix(err, s, "%s: header", path);
    free(text);
    *data_at = 8 + (size_t)len;
    return s;
}

/* ---------------------------------------------------------------- believing it */

/* Fills e's dtype and shape and returns the bytes they need in *bytes. */
static an_status check_shape(const char *path, const char *name, const json_t *info, an_entry *e,
                             size_t *bytes, an_error *err)
{
    const char *dtype = json_string_value(json_object_get(info, "dtype"));
    const json_t *shape = json_object_get(info, "shape");
    if (!dtype || !an_dtype_parse(dtype, &e->dtype) || an_dtype_is_quant(e->dtype))
        return an_fail(err, AN_INVALID,
                       "%s: tensor %s: dtype %.32s is not one of F64 F32 F16 BF16 F8_E4M3 F8_E5M2 "
                       "I64 I32 I16 I8 U8 BOOL",
                       path, name, dtype ? dtype : "(none)");
    if (!json_is_array(shape) || json_array_size(shape) > AN_MAX_DIMS)
        return an_fail(err, AN_INVALID, "%s: tensor %s: shape must be a list of at most %d sizes",
                       path, name, AN_MAX_DIMS);
    e->ndim = (int)json_array_size(shape);
    bool empty = false;
    *bytes = an_dtype_size(e->dtype);
    for (int i = 0; i < e->ndim; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        json_int_t v = json_is_integer(d) ? json_integer_value(d) : -1;
        if (v < 0 || v > ST_MAX_DIM)
            return an_fail(err, AN_INVALID,
                           "%s: tensor %s: size %d of the shape must be an integer in 0..%lld",
                           path, name, i, (long long)ST_MAX_DIM);
        e->dim[i] = v;
        if (v == 0)
            empty = true;
        else if (!an_mul_size(*bytes, (size_t)v, bytes) || *bytes > PTRDIFF_MAX)
            return an_fail(err, AN_INVALID, "%s: tensor %s: the shape overflows", path, name);
    }
    if (empty) *bytes = 0;
    return AN_OK;
}

static an_status check_span(const char *path, st_span *sp, size_t data_size, an_error *err)
{
    const json_t *off = json_object_get(sp->info, "data_offsets");
    const json_t *b = json_array_get(off, 0), *e = json_array_get(off, 1);
    json_int_t begin = json_is_integer(b) ? json_integer_value(b) : -1;
    json_int_t end = json_is_integer(e) ? json_integer_value(e) : -1;
    if (json_array_size(off) != 2 || begin < 0 || end < begin || (uint64_t)end > data_size)
        return an_fail(err, AN_INVALID,
                       "%s: tensor %s: data_offsets [%lld,%lld] do not lie within the %zu bytes of "
                       "data",
                       path, sp->name, (long long)begin, (long long)end, data_size);
    sp->begin = (size_t)begin;
    sp->end = (size_t)end;
    return AN_OK;
}

static int by_offset(const void *a, const void *b)
{
    const st_span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static an_status check_metadata(const char *path, json_t *meta, an_error *err)
{
    const char *key;
    json_t *v;
    if (!json_is_object(meta))
        return an_fail(err, AN_INVALID, "%s: __metadata__ is not an object", path);
    json_object_foreach(meta, key, v)
    {
        if (!json_is_string(v))
            return an_fail(err, AN_INVALID, "%s: __metadata__ holds something other than strings",
                           path);
    }
    return AN_OK;
}

/* All tensors of the header, in file order: in *spans (the caller's to free). Checks that they
 * cover the data without gap or overlap. */
static an_status list_spans(const char *path, json_t *header, size_t data_size, st_span **spans,
                            int *count, an_error *err)
{
    size_t n = json_object_size(header);
    if (n > ST_MAX_TENSORS)
        return an_fail(err, AN_TOO_LARGE, "%s: %zu tensors, at most %d are read", path, n,
                       ST_MAX_TENSORS);
    st_span *sp = calloc(n + 1, sizeof *sp);
    if (!sp) return an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    *spans = sp;
    const char *name;
    json_t *info;
    int k = 0;
    json_object_foreach(header, name, info)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        if (!json_is_object(info) || strlen(name) > AN_WEIGHTS_MAX_NAME)
            return an_fail(err, AN_INVALID,
                           "%s: tensor %.64s: not an object, or its name is over "
                           "%d bytes",
                           path, name, AN_WEIGHTS_MAX_NAME);
        sp[k] = (st_span){0, 0, name, info};
        an_status s = check_span(path, &sp[k++], data_size, err);
        if (s != AN_OK) return s;
    }
    qsort(sp, (size_t)k, sizeof *sp, by_offset);
    size_t at = 0;
    for (int i = 0; i < k; at = sp[i++].end) {
        if (sp[i].begin != at)
            return an_fail(err, AN_INVALID,
                           "%s: tensor %s begins at %zu where %zu is expected: gap or overlap",
                           path, sp[i].name, sp[i].begin, at);
    }
    if (at != data_size)
        return an_fail(err, AN_INVALID, "%s: the tensors end at byte %zu of %zu of data", path, at,
                       data_size);
    *count = k;
    return AN_OK;
}

static an_status add_tensors(an_weights *w, json_t *header, const unsigned char *data,
                             size_t data_size, an_error *err)
{
    st_span *sp = NULL;
    int n = 0;
    an_status s = list_spans(w->path, header, data_size, &sp, &n, err);
    for (int i = 0; i < n && s == AN_OK; i++) {
        an_entry e = {.src = data + sp[i].begin};
        size_t bytes = 0, have = sp[i].end - sp[i].begin;
        s = check_shape(w->path, sp[i].name, sp[i].info, &e, &bytes, err);
        if (s == AN_OK && bytes != have)
            s = an_fail(err, AN_INVALID,
                        "%s: tensor %s: its dtype and shape need %zu bytes, its data_offsets give "
                        "%zu",
                        w->path, sp[i].name, bytes, have);
        if (s == AN_OK) s = an_set_add(w, sp[i].name, &e, err);
    }
    free(sp);
    json_t *meta = json_object_get(header, "__metadata__");
    if (s == AN_OK && meta) {
        s = check_metadata(w->path, meta, err);
        if (s == AN_OK) w->metadata = json_incref(meta);
    }
    return s;
}

/* ---------------------------------------------------------------- opening */

static an_status open_fd(an_weights *w, int fd, const struct stat *st, an_error *err)
{
    const size_t size = (size_t)st->st_size;
    size_t data_at = 0;
    json_t *header = NULL;
    an_status s = read_header(fd, w->path, size, &header, &data_at, err);
    if (s == AN_OK) s = an_set_map(w, fd, st, err);
    if (s == AN_OK) {
        const unsigned char *base = w->map[0]->base;
        s = add_tensors(w, header, base + data_at, size - data_at, err);
    }
    if (s == AN_OK) s = an_set_seal(w, err);
    json_decref(header);
    return s;
}

an_status an_weights_open(const char *path, an_weights **out, an_error *err)
{
    *out = NULL;
    an_weights *w;
    int fd;
    struct stat st;
    an_status s = an_set_new(path, an_base_name(path), &w, err);
    if (s != AN_OK) return s;
    s = an_file_open(path, &fd, &st, err);
    if (s == AN_OK) {
        s = open_fd(w, fd, &st, err);
        close(fd);
    }
    if (s != AN_OK) {
        an_weights_close(w);
        return s;
    }
    *out = w;
    return AN_OK;
}
