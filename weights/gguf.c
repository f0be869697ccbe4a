/* gguf.c: the reader of .gguf files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):
 *
 *     "GGUF", u32 version, u64 tensors, u64 keys,
 *     keys x { string key, u32 type, value },
 *     tensors x { string name, u32 dims, u64 size[dims] (fastest first), u32 type, u64 offset },
 *     padding to general.alignment, data.
 *
 * A string is u64 length and bytes, an array u32 type, u64 count and values; all little-endian. The
 * file is mapped and read with one cursor that never passes its end. Every count is compared with
 * the bytes that are left before anything is allocated for it: CVE-2024-21802, -21825, -21836,
 * -23496, -23605 and CVE-2026-27940 are what happens otherwise, CVE-2026-7482 is a tensor that was
 * not compared with the end of the file. */
#include "gguf.h"

#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct gg_reader {
    const unsigned char *base;
    size_t size, at;
    const char *path;
    size_t values, strings; /* how many values, and bytes of strings, there were so far */
    an_error *err;
} gg_reader;

/* ---------------------------------------------------------------- the cursor */

static size_t left(const gg_reader *r)
{
    return r->size - r->at;
}

static an_status truncated(gg_reader *r, const char *what)
{
    return an_fail(r->err, AN_INVALID,
                   "%s: truncated: the file ends at byte %zu, within %s that begins at %zu",
                   r->path, r->size, what, r->at);
}

static an_status take(gg_reader *r, size_t n, const char *what, const unsigned char **out)
{
    if (n > left(r)) return truncated(r, what);
    *out = r->base + r->at;
    r->at += n;
    return AN_OK;
}

static uint64_t little(const unsigned char *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static an_status take_u32(gg_reader *r, const char *what, uint32_t *out)
{
    const unsigned char *p = NULL;
    an_status s = take(r, 4, what, &p);
    if (s == AN_OK) *out = (uint32_t)little(p, 4);
    return s;
}

static an_status take_u64(gg_reader *r, const char *what, uint64_t *out)
{
    const unsigned char *p = NULL;
    an_status s = take(r, 8, what, &p);
    if (s == AN_OK) *out = little(p, 8);
    return s;
}

static an_status take_string(gg_reader *r, const char *what, size_t max, const char **out,
                             size_t *len)
{
    uint64_t n = 0;
    const unsigned char *p = NULL;
    an_status s = take_u64(r, what, &n);
    if (s != AN_OK) return s;
    if (n > left(r)) return truncated(r, what);
    if (n > max || n > AN_GGUF_MAX_STRINGS - r->strings)
        return an_fail(r->err, AN_TOO_LARGE,
                       "%s: %s of %llu bytes: at most %zu are read, %zu in all strings", r->path,
                       what, (unsigned long long)n, max, AN_GGUF_MAX_STRINGS);
    s = take(r, (size_t)n, what, &p);
    if (s != AN_OK) return s;
    r->strings += (size_t)n;
    *out = (const char *)p;
    *len = (size_t)n;
    return AN_OK;
}

/* A string that becomes a C string here: a key, the name of a tensor. */
static an_status take_name(gg_reader *r, const char *what, char *buf, size_t size)
{
    const char *p = NULL;
    size_t n = 0;
    an_status s = take_string(r, what, size - 1, &p, &n);
    if (s != AN_OK) return s;
    if (n == 0) return an_fail(r->err, AN_INVALID, "%s: %s is empty", r->path, what);
    bool plain = an_utf8_valid(p, n);
    for (size_t i = 0; plain && i < n; i++) plain = (unsigned char)p[i] >= 0x20 && p[i] != 0x7f;
    if (!plain)
        return an_fail(r->err, AN_INVALID, "%s: %s before byte %zu is not plain UTF-8", r->path,
                       what, r->at);
    memcpy(buf, p, n);
    buf[n] = '\0';
    return AN_OK;
}

/* ---------------------------------------------------------------- metadata */

enum { GG_STRING = 8, GG_ARRAY = 9, GG_TYPES = 13 };

/* Bytes of a value, at least: strings bring their length. */
static const unsigned char least_bytes[GG_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

/* JSON has no infinities: as in the JSON of model files they become the largest numbers, NaN null.
 */
static json_t *real_of(double x)
{
    if (isnan(x)) return json_null();
    if (isinf(x)) x = x > 0 ? DBL_MAX : -DBL_MAX;
    return json_real(x);
}

static json_t *number_of(uint32_t type, const unsigned char *p)
{
    const uint64_t u = little(p, least_bytes[type]);
    const uint32_t word = (uint32_t)u;
    float f;
    double d;
    switch (type) {
    case 1:
        return json_integer((int8_t)u);
    case 3:
        return json_integer((int16_t)u);
    case 5:
        return json_integer((int32_t)word);
    case 6:
        memcpy(&f, &word, 4);
        return real_of((double)f);
    case 7:
        return json_boolean(u != 0);
    case 10: /* past 2^63 as a real, as the JSON files have it */
        return u > INT64_MAX ? json_real((double)u) : json_integer((json_int_t)u);
    case 12:
        memcpy(&d, &u, 8);
        return real_of(d);
    default: /* 0, 2, 4: unsigned and small; 11: signed */
        return json_integer((json_int_t)u);
    }
}

/* One number or string. Tokens may hold a NUL; a string by itself may not, since its readers would
 * see another text than is there. */
static an_status take_scalar(gg_reader *r, uint32_t type, const char *key, bool in_array,
                             json_t **out)
{
    if (type != GG_STRING) {
        const unsigned char *p = NULL;
        an_status s = take(r, least_bytes[type], "a value", &p);
        if (s != AN_OK) return s;
        *out = number_of(type, p);
    } else {
        const char *p = NULL;
        size_t n = 0;
        an_status s = take_string(r, "a string", AN_GGUF_MAX_STRING, &p, &n);
        if (s != AN_OK) return s;
        if (!an_utf8_valid(p, n) || (!in_array && memchr(p, 0, n)))
            return an_fail(r->err, AN_INVALID, "%s: %s: the string before byte %zu is not UTF-8%s",
                           r->path, key, r->at, in_array ? "" : ", or holds a NUL");
        *out = json_stringn_nocheck(p, n);
    }
    return *out ? AN_OK : an_fail(r->err, AN_NO_MEMORY, "%s: %s: out of memory", r->path, key);
}

static an_status check_type(gg_reader *r, uint32_t type, const char *key)
{
    if (type < GG_TYPES) return AN_OK;
    return an_fail(r->err, AN_INVALID, "%s: %s: value type %u, there are 0 to %d", r->path, key,
                   type, GG_TYPES - 1);
}

static an_status count_values(gg_reader *r, uint64_t n, const char *key)
{
    if (n > AN_GGUF_MAX_VALUES - r->values)
        return an_fail(r->err, AN_TOO_LARGE, "%s: %s: %llu values: at most %zu are read in all",
                       r->path, key, (unsigned long long)n, AN_GGUF_MAX_VALUES);
    r->values += (size_t)n;
    return AN_OK;
}

static an_status take_array(gg_reader *r, const char *key, json_t **out)
{
    uint32_t type = 0;
    uint64_t n = 0;
    an_status s = take_u32(r, "the type of an array", &type);
    if (s == AN_OK) s = check_type(r, type, key);
    if (s == AN_OK && type == GG_ARRAY)
        s = an_fail(r->err, AN_INVALID, "%s: %s: an array of arrays, which is not read", r->path,
                    key);
    if (s == AN_OK) s = take_u64(r, "the length of an array", &n);
    if (s != AN_OK) return s;
    if (n > left(r) / least_bytes[type])
        return an_fail(r->err, AN_INVALID,
                       "%s: %s: an array of %llu values cannot be in the %zu bytes left", r->path,
                       key, (unsigned long long)n, left(r));
    s = count_values(r, n, key);
    if (s != AN_OK) return s;
    json_t *list = json_array();
    if (!list) return an_fail(r->err, AN_NO_MEMORY, "%s: %s: out of memory", r->path, key);
    for (uint64_t i = 0; i < n && s == AN_OK; i++) {
        json_t *v = NULL;
        s = take_scalar(r, type, key, true, &v);
        if (s == AN_OK && json_array_append_new(list, v) != 0)
            s = an_fail(r->err, AN_NO_MEMORY, "%s: %s: out of memory", r->path, key);
    }
    if (s != AN_OK) {
        json_decref(list);
        return s;
    }
    *out = list;
    return AN_OK;
}

static an_status take_pair(gg_reader *r, json_t *meta)
{
    char key[AN_GGUF_MAX_KEY + 1];
    uint32_t type = 0;
    json_t *v = NULL;
    an_status s = take_name(r, "a key", key, sizeof key);
    if (s == AN_OK && json_object_get(meta, key))
        s = an_fail(r->err, AN_INVALID, "%s: the key %s is there twice", r->path, key);
    if (s == AN_OK) s = take_u32(r, "the type of a value", &type);
    if (s == AN_OK) s = check_type(r, type, key);
    if (s == AN_OK) s = count_values(r, 1, key);
    if (s == AN_OK)
        s = type == GG_ARRAY ? take_array(r, key, &v) : take_scalar(r, type, key, false, &v);
    if (s == AN_OK && json_object_set_new_nocheck(meta, key, v) != 0)
        s = an_fail(r->err, AN_NO_MEMORY, "%s: %s: out of memory", r->path, key);
    return s;
}

/* ---------------------------------------------------------------- tensors */

static const struct {
    const char *name;
    int dtype; /* an_dtype, -1: known, not read */
} types[] = {[0] = {"F32", AN_F32},        [1] = {"F16", AN_F16},    [2] = {"Q4_0", AN_Q4_0},
             [3] = {"Q4_1", AN_Q4_1},      [6] = {"Q5_0", AN_Q5_0},  [7] = {"Q5_1", AN_Q5_1},
             [8] = {"Q8_0", AN_Q8_0},      [9] = {"Q8_1", -1},       [10] = {"Q2_K", AN_Q2_K},
             [11] = {"Q3_K", AN_Q3_K},     [12] = {"Q4_K", AN_Q4_K}, [13] = {"Q5_K", AN_Q5_K},
             [14] = {"Q6_K", AN_Q6_K},     [15] = {"Q8_K", -1},      [16] = {"IQ2_XXS", -1},
             [17] = {"IQ2_XS", -1},        [18] = {"IQ3_XXS", -1},   [19] = {"IQ1_S", -1},
             [20] = {"IQ4_NL", AN_IQ4_NL}, [21] = {"IQ3_S", -1},     [22] = {"IQ2_S", -1},
             [23] = {"IQ4_XS", AN_IQ4_XS}, [24] = {"I8", AN_I8},     [25] = {"I16", AN_I16},
             [26] = {"I32", AN_I32},       [27] = {"I64", AN_I64},   [28] = {"F64", AN_F64},
             [29] = {"IQ1_M", -1},         [30] = {"BF16", AN_BF16}, [34] = {"TQ1_0", -1},
             [35] = {"TQ2_0", -1},         [39] = {"MXFP4", -1}};

typedef struct gg_tensor {
    char name[AN_WEIGHTS_MAX_NAME + 1];
    an_entry e;
    uint64_t offset;
    size_t bytes;
} gg_tensor;

static an_status take_dtype(gg_reader *r, gg_tensor *t)
{
    uint32_t type = 0;
    an_status s = take_u32(r, "the type of a tensor", &type);
    if (s != AN_OK) return s;
    const char *name = type < sizeof types / sizeof types[0] ? types[type].name : NULL;
    if (!name || types[type].dtype < 0)
        return an_fail(r->err, AN_INVALID,
                       "%s: tensor %s: type %u (%s) is not read; there are F32 F16 BF16 Q8_0 Q4_0 "
                       "Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS",
                       r->path, t->name, type, name ? name : "unknown");
    t->e.dtype = (an_dtype)types[type].dtype;
    return AN_OK;
}

/* The sizes, fastest first in the file, slowest first in e. */
static an_status take_dims(gg_reader *r, gg_tensor *t)
{
    uint32_t n = 0;
    an_status s = take_u32(r, "the shape of a tensor", &n);
    if (s != AN_OK) return s;
    if (n < 1 || n > AN_GGUF_MAX_DIMS)
        return an_fail(r->err, AN_INVALID, "%s: tensor %s: %u dimensions, there are 1 to %d",
                       r->path, t->name, n, AN_GGUF_MAX_DIMS);
    t->e.ndim = (int)n;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t size = 0;
        s = take_u64(r, "the shape of a tensor", &size);
        if (s != AN_OK) return s;
        if (size < 1 || size > INT64_MAX)
            return an_fail(r->err, AN_INVALID, "%s: tensor %s: a dimension of size %llu", r->path,
                           t->name, (unsigned long long)size);
        t->e.dim[n - 1 - i] = (int64_t)size;
    }
    return AN_OK;
}

/* Bytes of its blocks; a row is whole blocks. */
static an_status measure(gg_reader *r, gg_tensor *t)
{
    const int block = an_dtype_block(t->e.dtype);
    const int64_t row = t->e.dim[t->e.ndim - 1];
    if (row % block)
        return an_fail(r->err, AN_INVALID,
                       "%s: tensor %s: rows of %lld are not whole blocks of %s, which have %d",
                       r->path, t->name, (long long)row, an_dtype_name(t->e.dtype), block);
    size_t bytes = (size_t)(row / block);
    bool ok = an_mul_size(bytes, an_dtype_block_bytes(t->e.dtype), &bytes);
    for (int i = 0; ok && i + 1 < t->e.ndim; i++)
        ok = an_mul_size(bytes, (size_t)t->e.dim[i], &bytes);
    /* no more elements than bytes * 4: the count fits as well */
    if (!ok || bytes > r->size)
        return an_fail(r->err, AN_INVALID,
                       "%s: tensor %s: its shape needs more than the %zu bytes "
                       "of the file",
                       r->path, t->name, r->size);
    t->bytes = bytes;
    return AN_OK;
}

static an_status take_tensor(gg_reader *r, gg_tensor *t)
{
    an_status s = take_name(r, "the name of a tensor", t->name, sizeof t->name);
    if (s == AN_OK) s = take_dims(r, t);
    if (s == AN_OK) s = take_dtype(r, t);
    if (s == AN_OK) s = take_u64(r, "the offset of a tensor", &t->offset);
    if (s == AN_OK) s = measure(r, t);
    return s;
}

static int by_offset(const void *a, const void *b)
{
    const gg_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Each tensor lies aligned within the data, and none within another: a small file must not become
 * a hundred thousand large matrices. */
static an_status check_offsets(gg_reader *r, gg_tensor *t, size_t n, size_t data_at,
                               size_t alignment)
{
    const size_t data = r->size > data_at ? r->size - data_at : 0;
    for (size_t i = 0; i < n; i++) {
        if (t[i].offset % alignment)
            return an_fail(r->err, AN_INVALID,
                           "%s: tensor %s: its offset %llu is not a multiple of the alignment %zu",
                           r->path, t[i].name, (unsigned long long)t[i].offset, alignment);
        if (t[i].offset > data || t[i].bytes > data - (size_t)t[i].offset)
            return an_fail(r->err, AN_INVALID,
                           "%s: tensor %s: %zu bytes at %llu, but there are %zu bytes of data: "
                           "truncated?",
                           r->path, t[i].name, t[i].bytes, (unsigned long long)t[i].offset, data);
    }
    qsort(t, n, sizeof *t, by_offset);
    for (size_t i = 1; i < n; i++) {
        if (t[i - 1].offset + t[i - 1].bytes > t[i].offset)
            return an_fail(r->err, AN_INVALID, "%s: tensors %s and %s overlap", r->path,
                           t[i - 1].name, t[i].name);
    }
    return AN_OK;
}

static an_status alignment_of(gg_reader *r, const json_t *meta, size_t *out)
{
    const json_t *v = json_object_get(meta, "general.alignment");
    json_int_t a = v ? json_integer_value(v) : 32;
    if (a < 1 || a > AN_GGUF_MAX_ALIGNMENT || (a & (a - 1)))
        return an_fail(r->err, AN_INVALID,
                       "%s: general.alignment must be a power of two from 1 to %d", r->path,
                       AN_GGUF_MAX_ALIGNMENT);
    *out = (size_t)a;
    return AN_OK;
}

static an_status take_tensors(gg_reader *r, size_t n, const json_t *meta, an_weights *w)
{
    size_t alignment = 0;
    an_status s = alignment_of(r, meta, &alignment);
    if (s != AN_OK || n == 0) return s;
    gg_tensor *t = calloc(n, sizeof *t);
    if (!t) return an_fail(r->err, AN_NO_MEMORY, "%s: out of memory", r->path);
    for (size_t i = 0; i < n && s == AN_OK; i++) s = take_tensor(r, &t[i]);
    size_t data_at = (r->at + alignment - 1) & ~(alignment - 1);
    if (s == AN_OK) s = check_offsets(r, t, n, data_at, alignment);
    for (size_t i = 0; i < n && s == AN_OK; i++) {
        t[i].e.src = r->base + data_at + t[i].offset;
        s = an_set_add(w, t[i].name, &t[i].e, r->err);
    }
    free(t);
    return s;
}

/* ---------------------------------------------------------------- the file */

static an_status take_header(gg_reader *r, size_t *tensors, size_t *keys)
{
    uint32_t magic = 0, version = 0;
    uint64_t n_tensors = 0, n_keys = 0;
    an_status s = take_u32(r, "the magic number", &magic);
    if (s == AN_OK && magic != 0x46554747u)
        s = an_fail(r->err, AN_INVALID, "%s: not a GGUF file", r->path);
    if (s == AN_OK) s = take_u32(r, "the version", &version);
    if (s == AN_OK && version != 2 && version != 3)
        s = an_fail(r->err, AN_INVALID, "%s: GGUF version %u%s; versions 2 and 3 are read", r->path,
                    version, version && !(version & 0xffff) ? " (a big-endian file)" : "");
    if (s == AN_OK) s = take_u64(r, "the number of tensors", &n_tensors);
    if (s == AN_OK) s = take_u64(r, "the number of keys", &n_keys);
    if (s != AN_OK) return s;
    /* the least: a name of one byte, one dimension; a key of one byte, a value of one */
    if (n_tensors > AN_GGUF_MAX_TENSORS || n_tensors > left(r) / 33 || n_keys > AN_GGUF_MAX_KEYS ||
        n_keys > left(r) / 14)
        return an_fail(
            r->err, AN_INVALID,
            "%s: %llu tensors and %llu keys cannot be in a file of %zu bytes (at most %d "
            "and %d are read)",
            r->path, (unsigned long long)n_tensors, (unsigned long long)n_keys, r->size,
            AN_GGUF_MAX_TENSORS, AN_GGUF_MAX_KEYS);
    *tensors = (size_t)n_tensors;
    *keys = (size_t)n_keys;
    return AN_OK;
}

static an_status read_mapped(an_weights *w, json_t *meta, an_error *err)
{
    const an_map *m = w->map[0];
    gg_reader r = {.base = m->base, .size = m->size, .path = w->path, .err = err};
    size_t tensors = 0, keys = 0;
    an_status s = take_header(&r, &tensors, &keys);
    for (size_t i = 0; i < keys && s == AN_OK; i++) s = take_pair(&r, meta);
    if (s == AN_OK) s = take_tensors(&r, tensors, meta, w);
    return s == AN_OK ? an_set_seal(w, err) : s;
}

bool an_gguf_is(const char *path)
{
    int fd;
    struct stat st;
    char magic[4] = "";
    if (an_file_open(path, &fd, &st, NULL) != AN_OK) return false;
    bool is = pread(fd, magic, 4, 0) == 4 && memcmp(magic, "GGUF", 4) == 0;
    close(fd);
    return is;
}

an_status an_gguf_read(const char *path, an_weights **out, json_t **meta, an_error *err)
{
    *out = NULL;
    *meta = NULL;
    int fd = -1;
    struct stat st = {0};
    an_weights *w = NULL;
    json_t *m = json_object();
    an_status s = m ? an_set_new(path, an_base_name(path), &w, err)
                    : an_fail(err, AN_NO_MEMORY, "%s: out of memory", path);
    if (s == AN_OK) s = an_file_open(path, &fd, &st, err);
    if (s == AN_OK && st.st_size == 0) s = an_fail(err, AN_INVALID, "%s: an empty file", path);
    if (s == AN_OK) s = an_set_map(w, fd, &st, err);
    if (s == AN_OK) {
        an_error changed;
        s = read_mapped(w, m, err);
        if (an_weights_check(w, &changed) != AN_OK) s = an_fail(err, AN_IO, "%s", changed.message);
    }
    if (fd >= 0) close(fd);
    if (s != AN_OK) {
        an_weights_close(w);
        json_decref(m);
        return s;
    }
    *out = w;
    *meta = m;
    return AN_OK;
}
