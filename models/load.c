/* load.c: see load.h. */
#include "fp8.h"

#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- the bag */

void an_bag_free(an_bag *b)
{
    for (size_t i = 0; i < b->n_weights; i++) an_weight_free(b->weight[i]);
    for (size_t i = 0; i < b->n_memory; i++) an_device_free(b->device, b->memory[i]);
    free(b->weight);
    free(b->memory);
    *b = (an_bag){.device = b->device};
}

/* Room for one more pointer in *list. */
static bool grow(an_loader *ld, void *list, size_t n, size_t *cap)
{
    if (ld->status) return false;
    if (n < *cap) return true;
    void **old, **wider;
    size_t want = *cap ? *cap * 2 : 64;
    memcpy(&old, list, sizeof old);
    wider = realloc(old, want * sizeof *wider);
    if (!wider) {
        ld->status = an_fail(ld->err, AN_NO_MEMORY, "no memory for a list of weights");
        return false;
    }
    memcpy(list, &wider, sizeof wider);
    *cap = want;
    return true;
}

static an_weight *keep_weight(an_loader *ld, an_weight *w)
{
    if (!w) return NULL;
    an_bag *b = ld->bag;
    if (!grow(ld, &b->weight, b->n_weights, &b->cap_weights)) {
        an_weight_free(w);
        return NULL;
    }
    b->weight[b->n_weights++] = w;
    b->bytes += w->bytes;
    return w;
}

/* ---------------------------------------------------------------- tensors of the file */

static void progressed(an_loader *ld, const an_tensor *t)
{
    ld->bytes_done += (double)an_tensor_bytes(t);
    if (ld->progress && ld->bytes_all > 0 && ld->bytes_done <= ld->bytes_all)
        ld->progress(ld->ctx, ld->bytes_done / ld->bytes_all);
}

const char *an_load_name(an_loader *ld, char *buf, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(buf, AN_NAME_MAX, fmt, ap);
    va_end(ap);
    if ((n < 0 || n >= AN_NAME_MAX) && !ld->status)
        ld->status = an_fail(ld->err, AN_INTERNAL, "a weight's name is too long: %s", buf);
    return buf;
}

void *an_load_array(an_loader *ld, size_t count, size_t size)
{
    if (ld->status || count == 0) return NULL;
    void *p = calloc(count, size);
    if (!p) ld->status = an_fail(ld->err, AN_NO_MEMORY, "no memory for a network's layers");
    return p;
}

bool an_load_has(const an_loader *ld, const char *name)
{
    an_tensor t;
    return !ld->status && an_weights_find(ld->set, name, &t);
}

/* A tensor with exactly this shape; blocks: GGUF's block formats are fine too. */
static an_tensor find_whole(an_loader *ld, const char *name, bool blocks, int ndim,
                            const int64_t *dim)
{
    an_tensor t = {0};
    if (!ld->status)
        ld->status = blocks ? an_weights_get_any(ld->set, name, ndim, dim, &t, ld->err)
                            : an_weights_get(ld->set, name, ndim, dim, &t, ld->err);
    if (!ld->status) progressed(ld, &t);
    return t;
}

/* Where nobody looks for scales, FP8 must have none. */
static an_tensor find_plain(an_loader *ld, const char *name, bool blocks, int ndim,
                            const int64_t *dim)
{
    an_tensor t = find_whole(ld, name, blocks, ndim, dim);
    if (!ld->status && t.dtype == AN_F8_E4M3 && an_fp8_scaled(ld, name))
        ld->status = an_fail(ld->err, AN_INVALID,
                             "%s: F8_E4M3 with scales beside it, which only matrices of linear "
                             "layers may have",
                             name);
    return t;
}

an_tensor an_load_whole(an_loader *ld, const char *name, int ndim, const int64_t *dim)
{
    return find_plain(ld, name, true, ndim, dim);
}

/* `prefix.what`. */
static an_tensor find(an_loader *ld, const char *prefix, const char *what, bool blocks, int ndim,
                      const int64_t *dim)
{
    char name[AN_NAME_MAX];
    an_load_name(ld, name, "%s.%s", prefix, what);
    return find_plain(ld, name, blocks, ndim, dim);
}

/* Linear layers are [n, k]; the same layer is [n, k, 1, 1] where the original was a convolution. */
static an_tensor find_matrix(an_loader *ld, const char *prefix, int64_t n, int64_t k)
{
    const int64_t dim[4] = {n, k, 1, 1};
    char name[AN_NAME_MAX];
    an_tensor there;
    an_load_name(ld, name, "%s.weight", prefix);
    bool conv = !ld->status && an_weights_find(ld->set, name, &there) && there.ndim == 4;
    an_tensor t = find_whole(ld, name, true, conv ? 4 : 2, dim);
    t.ndim = 2;
    return t;
}

/* ---------------------------------------------------------------- weights */

static an_dtype dtype_of(const an_loader *ld, int flags)
{
    return flags & AN_KEEP_F32 ? AN_F32 : ld->dtype;
}

/* w, bias: `count` of them; bias[i] without data: none. */
static an_weight *pack(an_loader *ld, const char *what, int count, const an_fp8 *w,
                       const an_tensor *bias, int flags)
{
    const an_tensor **pw = an_load_array(ld, 2 * (size_t)count, sizeof *pw);
    const float **scale = an_load_array(ld, (size_t)count, sizeof *scale);
    an_weight *out = NULL;
    for (int i = 0; i < count && !ld->status; i++) {
        pw[i] = &w[i].w;
        scale[i] = w[i].scale;
        pw[count + i] = bias && bias[i].data ? &bias[i] : NULL;
    }
    if (!ld->status) {
        ld->status = an_weight_scaled(ld->bag->device, dtype_of(ld, flags), count, pw, scale,
                                      pw + count, &out, ld->err);
        if (ld->status) an_fail_prefix(ld->err, ld->status, "%s", what);
    }
    free(pw);
    free(scale);
    return keep_weight(ld, out);
}

/* Whether the numbers of a weight stay what they are, whatever the loader was told: also where
 * another part of it is in blocks, with which FP8 does not mix. */
static bool keeps(int flags, int count, const an_tensor *w)
{
    bool blocks = false;
    for (int i = 0; i < count; i++) blocks |= an_dtype_is_quant(w[i].dtype);
    return blocks || flags & (AN_KEEP | AN_KEEP_F32);
}

static an_weight *pack_given(an_loader *ld, const char *what, int count, const an_tensor *w,
                             const an_tensor *bias, int flags)
{
    an_fp8 m[AN_MAX_PARTS] = {{.scale = NULL}};
    for (int i = 0; i < count; i++) an_fp8_make(ld, NULL, w[i], keeps(flags, count, w), &m[i]);
    an_weight *out = pack(ld, what, count, m, bias, flags);
    for (int i = 0; i < count; i++) an_fp8_free(&m[i]);
    return out;
}

an_weight *an_load_given(an_loader *ld, const char *what, int count, const an_tensor *w, int flags)
{
    return pack_given(ld, what, count, w, NULL, flags);
}

/* A part on its way: its numbers, scales, bias. */
typedef struct piece {
    an_tensor w, bias;
    char weight[AN_NAME_MAX];
} piece;

static void find_piece(an_loader *ld, const an_part *part, int64_t k, int flags, piece *p)
{
    char bias[AN_NAME_MAX];
    an_load_name(ld, p->weight, "%s.weight", part->name);
    an_load_name(ld, bias, "%s.bias", part->name);
    p->w = find_matrix(ld, part->name, part->n, k);
    if (flags & AN_BIAS || (flags & AN_BIAS_MAYBE && an_load_has(ld, bias)))
        p->bias = find(ld, part->name, "bias", false, 1, &part->n);
}

an_weight *an_load_list(an_loader *ld, const char *what, int count, const an_part *parts, int64_t k,
                        int flags)
{
    const size_t n = (size_t)count;
    piece *p = an_load_array(ld, n, sizeof *p);
    an_fp8 *w = an_load_array(ld, n, sizeof *w);
    an_tensor *t = an_load_array(ld, 2 * n, sizeof *t);
    an_weight *out = NULL;
    for (int i = 0; i < count && !ld->status; i++) {
        find_piece(ld, &parts[i], k, flags, &p[i]);
        t[i] = p[i].w;
        t[count + i] = p[i].bias;
    }
    for (int i = 0; i < count && !ld->status; i++)
        an_fp8_make(ld, p[i].weight, t[i], keeps(flags, count, t), &w[i]);
    if (!ld->status) out = pack(ld, what, count, w, t + count, flags);
    for (int i = 0; w && i < count; i++) an_fp8_free(&w[i]);
    free(p);
    free(w);
    free(t);
    return out;
}

an_weight *an_load_parts(an_loader *ld, const char *prefix, const an_part *parts, int64_t k,
                         int flags)
{
    an_part list[AN_MAX_PARTS] = {{0}};
    char name[AN_MAX_PARTS][AN_NAME_MAX];
    int count = 0;
    for (; count < AN_MAX_PARTS && parts[count].name; count++) {
        const char *own = parts[count].name;
        list[count].n = parts[count].n;
        list[count].name = an_load_name(ld, name[count], "%s%s%s", prefix, *own ? "." : "", own);
    }
    return an_load_list(ld, prefix, count, list, k, flags);
}

int64_t an_stack_add(an_loader *ld, an_stack *s, const char *prefix, int64_t n)
{
    const int64_t at = s->n;
    if (ld->status) return at;
    if (s->count == s->cap) {
        const int cap = s->cap ? 2 * s->cap : 32;
        an_stack_part *wider = realloc(s->part, (size_t)cap * sizeof *wider);
        if (!wider) {
            ld->status = an_fail(ld->err, AN_NO_MEMORY, "no memory for a list of matrices");
            return at;
        }
        s->part = wider;
        s->cap = cap;
    }
    an_stack_part *p = &s->part[s->count++];
    an_load_name(ld, p->name, "%s", prefix);
    p->n = n;
    s->n += n;
    return at;
}

an_weight *an_stack_load(an_loader *ld, an_stack *s, const char *what, int64_t k, int flags)
{
    an_part *list = an_load_array(ld, (size_t)s->count, sizeof *list);
    an_weight *out = NULL;
    for (int i = 0; list && i < s->count; i++) list[i] = (an_part){s->part[i].name, s->part[i].n};
    if (list) out = an_load_list(ld, what, s->count, list, k, flags);
    free(list);
    free(s->part);
    *s = (an_stack){.part = NULL};
    return out;
}

an_weight *an_load_stacked(an_loader *ld, const char *prefix, const char *const *parts, int64_t n,
                           int64_t k, int flags)
{
    an_part list[AN_MAX_PARTS + 1] = {{0}};
    for (int i = 0; i < AN_MAX_PARTS && parts[i]; i++) list[i] = (an_part){parts[i], n};
    return an_load_parts(ld, prefix, list, k, flags);
}

an_weight *an_load_linear(an_loader *ld, const char *prefix, int64_t n, int64_t k, int flags)
{
    const char *const self[] = {"", NULL};
    return an_load_stacked(ld, prefix, self, n, k, flags);
}

an_weight *an_load_conv_part(an_loader *ld, const char *prefix, int64_t n, int64_t k, int size,
                             int64_t from, int64_t count, int flags)
{
    const int64_t dim[4] = {n, k, size, size};
    an_tensor w = find(ld, prefix, "weight", false, 4, dim), b = {0};
    if (flags & AN_BIAS) b = find(ld, prefix, "bias", false, 1, &n);
    if (ld->status) return NULL;
    /* a slice along the outermost dimension is contiguous */
    w.data = (char *)w.data + (size_t)(from * k * size * size) * an_dtype_size(w.dtype);
    w.dim[0] = count;
    if (flags & AN_BIAS) {
        b.data = (char *)b.data + (size_t)from * an_dtype_size(b.dtype);
        b.dim[0] = count;
    }
    an_weight *out = NULL;
    ld->status = an_weight_conv(ld->bag->device, dtype_of(ld, flags), &w,
                                flags & AN_BIAS ? &b : NULL, &out, ld->err);
    if (ld->status) an_fail_prefix(ld->err, ld->status, "%s", prefix);
    return keep_weight(ld, out);
}

an_weight *an_load_conv(an_loader *ld, const char *prefix, int64_t n, int64_t k, int size,
                        int flags)
{
    return an_load_conv_part(ld, prefix, n, k, size, 0, n, flags);
}

an_weight *an_load_made(an_loader *ld, const an_tensor *w, const an_tensor *bias, int flags)
{
    return pack_given(ld, "a matrix made at load", 1, w, bias, flags);
}

an_tensor an_load_upload(an_loader *ld, an_tensor host, an_dtype dtype)
{
    an_tensor out = {0};
    an_bag *b = ld->bag;
    if (!grow(ld, &b->memory, b->n_memory, &b->cap_memory)) return out;
    ld->status = an_device_upload(b->device, &host, dtype, &out, ld->err);
    if (ld->status) return out;
    b->memory[b->n_memory++] = out.data;
    b->bytes += an_tensor_bytes(&out);
    return out;
}

an_norm an_load_norm(an_loader *ld, const char *prefix, int64_t c, int groups, float eps)
{
    an_norm n = {.groups = groups, .eps = eps};
    if (groups && c % groups && !ld->status)
        ld->status = an_fail(ld->err, AN_INVALID, "%s: %d groups do not divide %lld channels",
                             prefix, groups, (long long)c);
    n.gamma = an_load_upload(ld, find(ld, prefix, "weight", false, 1, &c), AN_F32);
    n.beta = an_load_upload(ld, find(ld, prefix, "bias", false, 1, &c), AN_F32);
    return n;
}

an_tensor an_load_gamma(an_loader *ld, const char *prefix, int64_t c, float plus)
{
    an_tensor there = find(ld, prefix, "weight", false, 1, &c), out = {0};
    float *f = an_load_array(ld, (size_t)c, sizeof *f);
    if (f) ld->status = an_tensor_to_f32(&there, f, ld->err);
    for (int64_t i = 0; f && i < c; i++) f[i] += plus;
    if (f) out = an_load_upload(ld, an_tensor_1d(f, AN_F32, c), AN_F32);
    free(f);
    return out;
}

an_tensor an_load_table(an_loader *ld, const char *prefix, int64_t n, int64_t c)
{
    const int64_t dim[2] = {n, c};
    return an_load_upload(ld, find(ld, prefix, "weight", false, 2, dim), ld->dtype);
}
