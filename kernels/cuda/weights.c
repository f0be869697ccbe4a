/* weights.c: weights from the host's tensors to the device, in the layouts of gpu.h. Floating parts
 * are rounded to the activations' dtype; no number of a block changes, none of FP8 beside BF16. A
 * few megabytes at a time are laid out on the host and copied. */
#include "cuda/matrix.h"
#include "block.h"

#include <math.h>
#include <stdlib.h>

#define CHUNK ((size_t)8 << 20) /* bytes laid out at a time, about */

static int64_t round_up(int64_t v, int64_t by)
{
    return (v + by - 1) / by * by;
}

/* ---------------------------------------------------------------- floating parts */

/* Row `row` of the stacked tensors: which tensor, and its row there. */
static int stacked(const an_tensor *const *w, int64_t *row)
{
    int i = 0;
    while (*row >= w[i]->dim[0]) *row -= w[i++]->dim[0];
    return i;
}

/* What row `row` of a tensor is multiplied by: FP8's scale. */
static float scale_of(const float *const *scale, int tensor, int64_t row)
{
    return scale && scale[tensor] ? scale[tensor][row] : 1.0f;
}

typedef struct plain_job {
    const an_tensor *const *w;
    const float *const *scale;
    an_dtype dtype;
    int64_t k, taps, channels; /* k: channels of the checkpoint; channels: padded */
    int64_t pitch, first;      /* row of the chunk's first */
    char *to;
    float *room; /* [workers][k * taps] */
} plain_job;

/* Task: a row of the chunk; (channel, tap) becomes (tap, channel). */
static void plain_row(void *ctx, int64_t task, int worker)
{
    const plain_job *j = ctx;
    const int64_t count = j->k * j->taps;
    int64_t row = j->first + task;
    const int which = stacked(j->w, &row);
    const an_tensor *t = j->w[which];
    const float scale = scale_of(j->scale, which, row);
    const size_t size = an_dtype_size(j->dtype);
    char *to = j->to + (size_t)(task * j->pitch) * size;
    float *v = j->room + worker * count;
    an_convert(v, AN_F32, (const char *)t->data + (size_t)(row * count) * an_dtype_size(t->dtype),
               t->dtype, count);
    if (t->dtype == AN_F8_E4M3)
        for (int64_t i = 0; i < count; i++) v[i] *= scale;
    memset(to, 0, (size_t)j->pitch * size);
    if (j->taps == 1) {
        an_convert(to, j->dtype, v, AN_F32, count);
        return;
    }
    for (int64_t tap = 0; tap < j->taps; tap++)
        for (int64_t c = 0; c < j->k; c++)
            an_convert(to + (size_t)(tap * j->channels + c) * size, j->dtype, v + c * j->taps + tap,
                       AN_F32, 1);
}

static void run_tasks(an_device *d, int64_t tasks, void (*task)(void *, int64_t, int), void *ctx)
{
    if (d->pool)
        an_pool_run(d->pool, tasks, task, ctx);
    else
        for (int64_t i = 0; i < tasks; i++) task(ctx, i, 0);
}

/* Task: a row of the chunk in FP8, as gpu_matrix says; no number changes. */
static void e4m3_row(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const plain_job *j = ctx;
    int64_t row = j->first + task;
    const an_tensor *t = j->w[stacked(j->w, &row)];
    const uint8_t *from = (const uint8_t *)t->data + (size_t)row * (size_t)j->k;
    uint8_t *to = (uint8_t *)j->to + (size_t)(task * j->pitch);
    for (int64_t i = 0; i < j->pitch; i++) {
        const int64_t k = i / 16 * 16 + GPU_E4M3_PLACE((int)(i % 16) / 4, (int)(i % 4));
        to[i] = k < j->k ? from[k] : 0;
    }
}

/* Scales of rows in FP8: device [part->n]. Behind the codes, in the same memory. */
static an_status e4m3_scales(an_device *d, const plain_job *j, gpu_part *part, size_t at,
                             an_error *err)
{
    float *v = malloc((size_t)part->n * sizeof *v);
    if (!v) return an_fail(err, AN_NO_MEMORY, "no memory to pack a weight");
    for (int64_t i = 0; i < part->n; i++) {
        int64_t row = i;
        const int which = stacked(j->w, &row);
        const uint8_t *code = (const uint8_t *)j->w[which]->data + (size_t)row * (size_t)j->k;
        v[i] = scale_of(j->scale, which, row);
        for (int64_t k = 0; k < j->k; k++)
            if ((code[k] & 0x7f) == 0x7f) v[i] = NAN;
    }
    char *to = (char *)part->memory + at;
    an_status s = GPU(write)(d, to, v, (size_t)part->n * sizeof *v, err);
    part->plain.scale = (const float *)(const void *)to;
    free(v);
    return s;
}

/* w: tensors stacked to part->n rows of k channels and `taps` places in a filter; dtype: how they
 * are kept. */
static an_status pack_plain(an_device *d, an_dtype dtype, const an_tensor *const *w,
                            const float *const *scale, int64_t k, int64_t taps, gpu_part *part,
                            size_t *bytes, an_error *err)
{
    const int64_t size = (int64_t)an_dtype_size(dtype), piece = 16 / size;
    const bool fp8 = dtype == AN_F8_E4M3;
    plain_job j = {.w = w, .scale = scale, .dtype = dtype, .k = k, .taps = taps};
    j.channels = taps == 1 ? k : round_up(k, piece);
    j.pitch = round_up(j.channels * taps, fp8 ? 64 : 8 * piece);
    size_t row, total, scales = fp8 ? (size_t)part->n * sizeof(float) : 0;
    if (!an_mul_size((size_t)j.pitch, (size_t)size, &row) ||
        !an_mul_size(row, (size_t)part->n, &total) || total / 16 > INT32_MAX)
        return an_fail(err, AN_TOO_LARGE, "a weight of %d x %lld is too large for a GPU", part->n,
                       (long long)(k * taps));
    an_status s = GPU(alloc)(d, total + scales, &part->memory, err);
    if (s) return s;
    *bytes += total + scales;
    part->plain =
        (gpu_matrix){.w = part->memory, .dtype = (int)dtype, .n = part->n, .pitch = (int)j.pitch};
    if (fp8) s = e4m3_scales(d, &j, part, total, err);
    const int64_t rows = row > CHUNK ? 1 : (int64_t)(CHUNK / row);
    const size_t workers = d->pool ? (size_t)an_pool_threads(d->pool) : 1;
    j.to = malloc((size_t)(rows < part->n ? rows : part->n) * row);
    j.room = malloc(workers * (size_t)(k * taps) * sizeof(float));
    if (!s && (!j.to || !j.room))
        s = an_fail(err, AN_NO_MEMORY, "no memory to pack a weight of %zu bytes", total);
    for (; !s && j.first < part->n; j.first += rows) {
        const int64_t n = part->n - j.first < rows ? part->n - j.first : rows;
        run_tasks(d, n, fp8 ? e4m3_row : plain_row, &j);
        s = GPU(write)(d, (char *)part->memory + (size_t)j.first * row, j.to, (size_t)n * row, err);
    }
    free(j.to);
    free(j.room);
    return s;
}

/* ---------------------------------------------------------------- blocks */

typedef struct block_format {
    int8_t bits, offset;
    bool halves, minimum, super, levels;
} block_format;

/* Q2_K and Q3_K lie in half bytes, IQ4 as whole bytes of its levels: more memory than they need (4
 * and 8 bits a value), and no kernel of their own. */
static block_format format_of(an_dtype format)
{
    switch (format) {
    case AN_Q4_0:
        return (block_format){.bits = 4, .offset = 8};
    case AN_Q4_1:
        return (block_format){.bits = 4, .minimum = true};
    case AN_Q5_0:
        return (block_format){.bits = 5, .offset = 16};
    case AN_Q5_1:
        return (block_format){.bits = 5, .minimum = true};
    case AN_Q2_K:
        return (block_format){.bits = 4, .halves = true, .minimum = true, .super = true};
    case AN_Q3_K:
        return (block_format){.bits = 4, .offset = 4, .halves = true, .super = true};
    case AN_Q4_K:
        return (block_format){.bits = 4, .minimum = true, .super = true};
    case AN_Q5_K:
        return (block_format){.bits = 5, .minimum = true, .super = true};
    case AN_Q6_K:
        return (block_format){.bits = 6, .offset = 32, .halves = true, .super = true};
    case AN_IQ4_NL:
        return (block_format){.bits = 8, .levels = true};
    case AN_IQ4_XS:
        return (block_format){.bits = 8, .super = true, .levels = true};
    default: /* Q8_0 */
        return (block_format){.bits = 8};
    }
}

/* A chunk of panels, and the planes of gpu_blocks for it. */
typedef struct block_job {
    const an_tensor *const *w;
    an_dtype dtype;
    block_format format;
    int64_t n, k, groups;
    int64_t first; /* panel of the chunk's first */
    uint32_t *low, *high, *scale, *super;
} block_job;

/* Words of a panel in each plane. */
static size_t low_words(const block_job *j)
{
    return (size_t)j->groups * 128;
}
static size_t high_words(const block_job *j)
{
    return (size_t)j->groups * (j->format.bits == 8   ? 128
                                : j->format.bits == 6 ? 64
                                : j->format.bits == 5 ? 32
                                                      : 0);
}
static size_t scale_words(const block_job *j)
{
    return (size_t)j->groups * 32;
}
static size_t super_words(const block_job *j)
{
    return j->format.super ? (size_t)((j->groups + 1) / 2) * 8 : 0;
}

/* Block b of a group, of row r: numbers. */
static void put_numbers(const block_job *j, uint32_t *low, uint32_t *high, int r, int b,
                        const an_block *v)
{
    for (int t = 0; t < 4; t++) {
        const int at = (r * 4 + t) * 4 + b;
        uint32_t words[2] = {0, 0}, bits = 0;
        for (int i = 0; i < 4; i++) {
            const uint32_t a = v->q[4 * t + i], c = v->q[16 + 4 * t + i];
            if (j->format.bits == 8) {
                words[0] |= a << 8 * i;
                words[1] |= c << 8 * i;
                continue;
            }
            words[0] |= ((a & 15) | (c & 15) << 4) << 8 * i;
            if (j->format.bits == 5) bits |= (a >> 4 & 1) << i | (c >> 4 & 1) << (4 + i);
            if (j->format.bits == 6) bits |= (a >> 4 & 3) << 2 * i | (c >> 4 & 3) << (8 + 2 * i);
        }
        low[at] = words[0];
        if (j->format.bits == 8) high[at] = words[1];
        if (j->format.bits == 5) ((uint8_t *)high)[at] = (uint8_t)bits;
        if (j->format.bits == 6) ((uint16_t *)high)[at] = (uint16_t)bits;
    }
}

/* Task: a panel of the chunk. */
static void block_panel(void *ctx, int64_t task, int worker)
{
    (void)worker;
    const block_job *j = ctx;
    uint32_t *low = j->low + (size_t)task * low_words(j);
    uint32_t *high = high_words(j) ? j->high + (size_t)task * high_words(j) : NULL;
    uint32_t *scale = j->scale + (size_t)task * scale_words(j);
    uint32_t *super = super_words(j) ? j->super + (size_t)task * super_words(j) : NULL;
    const size_t row_bytes =
        (size_t)(j->k / an_dtype_block(j->dtype)) * an_dtype_block_bytes(j->dtype);
    for (int r = 0; r < 8; r++) {
        int64_t row = (j->first + task) * 8 + r;
        if (row >= j->n) return; /* the rest is zeros */
        const an_tensor *t = j->w[stacked(j->w, &row)];
        for (int64_t i = 0; i < j->k / 32; i++) {
            const int64_t g = i / 4;
            const int b = (int)(i % 4);
            an_block v;
            an_block_read(j->dtype, (const uint8_t *)t->data + (size_t)row * row_bytes, i, &v);
            if (j->format.levels)
                for (int e = 0; e < 32; e++) v.q[e] = (uint8_t)an_block_levels[v.q[e]];
            put_numbers(j, low + g * 128,
                        high ? high + g * (int64_t)high_words(j) / j->groups : NULL, r, b, &v);
            const int h = j->format.halves ? 1 : 0;
            uint32_t *s = scale + (g * 8 + r) * 4 + b;
            if (!super) {
                *s = v.d | (uint32_t)v.m << 16;
                continue;
            }
            *s = v.small[0] | (uint32_t)v.small[h] << 8 | (uint32_t)v.min[0] << 16 |
                 (uint32_t)v.min[h] << 24;
            /* minima are taken away */
            super[g / 2 * 8 + r] = v.d | (uint32_t)(v.m ^ 0x8000u) << 16;
        }
    }
}

/* Bytes of the planes of `panels` panels, one after the other; where they begin, from `at` on. */
static size_t set_planes(const block_job *j, size_t panels, uint32_t *at, gpu_blocks *b)
{
    const size_t low = low_words(j) * panels, high = high_words(j) * panels,
                 scale = scale_words(j) * panels, super = super_words(j) * panels;
    if (b) {
        b->low = at;
        b->high = at + low;
        b->scale = at + low + high;
        b->super = super ? at + low + high + scale : NULL;
    }
    return (low + high + scale + super) * sizeof(uint32_t);
}

static an_status write_chunk(an_device *d, const block_job *j, const gpu_blocks *to, int64_t panels,
                             an_error *err)
{
    const struct {
        const uint32_t *to, *from;
        size_t words;
    } plane[4] = {{to->low, j->low, low_words(j)},
                  {to->high, j->high, high_words(j)},
                  {to->scale, j->scale, scale_words(j)},
                  {to->super, j->super, super_words(j)}};
    an_status s = AN_OK;
    for (int i = 0; i < 4 && !s; i++)
        if (plane[i].words)
            s = GPU(write)(d, (void *)(uintptr_t)(plane[i].to + (size_t)j->first * plane[i].words),
                           plane[i].from, (size_t)panels * plane[i].words * sizeof(uint32_t), err);
    return s;
}

/* w: tensors of one format, stacked to part->n rows. */
static an_status pack_blocks(an_device *d, const an_tensor *const *w, int64_t k, gpu_part *part,
                             size_t *bytes, an_error *err)
{
    block_job j = {.w = w, .dtype = w[0]->dtype, .format = format_of(w[0]->dtype), .n = part->n};
    j.k = k;
    j.groups = (k + 127) / 128;
    const int64_t panels = (part->n + 7) / 8;
    size_t lanes;
    if (!an_mul_size((size_t)panels, (size_t)j.groups * 32, &lanes) || lanes > INT32_MAX)
        return an_fail(err, AN_TOO_LARGE, "a weight of %d x %lld is too large for a GPU", part->n,
                       (long long)k);
    const size_t total = set_planes(&j, (size_t)panels, NULL, NULL);
    an_status s = GPU(alloc)(d, total, &part->memory, err);
    if (s) return s;
    *bytes += total;
    part->quant = (gpu_blocks){.bits = j.format.bits,
                               .halves = j.format.halves,
                               .minimum = j.format.minimum,
                               .offset = j.format.offset,
                               .n = part->n,
                               .groups = (int)j.groups};
    set_planes(&j, (size_t)panels, part->memory, &part->quant);

    int64_t some = (int64_t)(CHUNK / set_planes(&j, 1, NULL, NULL));
    if (some < 1) some = 1;
    if (some > panels) some = panels;
    uint32_t *room = malloc(set_planes(&j, (size_t)some, NULL, NULL));
    if (!room) return an_fail(err, AN_NO_MEMORY, "no memory to pack a weight of %zu bytes", total);
    gpu_blocks host;
    const size_t size = set_planes(&j, (size_t)some, room, &host);
    j.low = room;
    j.high = room + (host.high - host.low);
    j.scale = room + (host.scale - host.low);
    j.super = host.super ? room + (host.super - host.low) : NULL;
    for (; !s && j.first < panels; j.first += some) {
        const int64_t here = panels - j.first < some ? panels - j.first : some;
        memset(room, 0, size);
        run_tasks(d, here, block_panel, &j);
        s = write_chunk(d, &j, &part->quant, here, err);
    }
    free(room);
    return s;
}

/* ---------------------------------------------------------------- weights */

void GPU(weight_free)(an_weight *w)
{
    gpu_weight *g = w->impl;
    if (!g) return;
    for (int i = 0; i < g->parts; i++) GPU(free)(w->device, g->part[i].memory);
    GPU(free)(w->device, g->bias);
    free(g);
    w->impl = NULL;
}

static an_status pack_bias(an_device *d, int n_parts, const an_tensor *const *w,
                           const an_tensor *const *bias, an_weight *out, an_error *err)
{
    gpu_weight *g = out->impl;
    const size_t bytes = (size_t)out->n * sizeof(float);
    float *v = calloc((size_t)out->n, sizeof *v);
    if (!v) return an_fail(err, AN_NO_MEMORY, "no memory to pack a weight");
    int64_t first = 0;
    for (int i = 0; i < n_parts; first += w[i++]->dim[0])
        if (bias && bias[i])
            an_convert(v + first, AN_F32, bias[i]->data, bias[i]->dtype, w[i]->dim[0]);
    void *at = NULL;
    an_status s = GPU(copy_of)(d, v, bytes, &at, err);
    free(v);
    g->bias = at;
    if (!s) out->bytes += bytes;
    return s;
}

/* How a part is kept: a block format, FP8 beside activations in BF16, or the activations' dtype.
 * Neighbouring parts of one kind become one. */
static an_dtype kept_as(const an_tensor *t, an_dtype dtype)
{
    if (an_dtype_is_quant(t->dtype)) return t->dtype;
    return t->dtype == AN_F8_E4M3 && dtype == AN_BF16 && t->ndim == 2 ? AN_F8_E4M3 : dtype;
}

static an_status pack(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                      const float *const *scale, const an_tensor *const *bias, an_weight *out,
                      an_error *err)
{
    /* a grid is at most 65535 blocks high, each 16 or more outputs */
    if (out->n > (int64_t)65535 * 16 || out->k > INT32_MAX / 256)
        return an_fail(err, AN_TOO_LARGE, "a weight of %lld x %lld is too large for a GPU",
                       (long long)out->n, (long long)out->k);
    gpu_weight *g = calloc(1, sizeof *g + (size_t)n_parts * sizeof g->part[0]);
    if (!g) return an_fail(err, AN_NO_MEMORY, "no memory for a weight");
    out->impl = g;
    out->device = d;
    out->bytes = 0;
    an_status s = pack_bias(d, n_parts, w, bias, out, err);
    int first = 0;
    for (int i = 0, end; i < n_parts && !s; i = end) {
        gpu_part *part = &g->part[g->parts++];
        part->first = first;
        const an_dtype as = kept_as(w[i], dtype);
        for (end = i; end < n_parts && kept_as(w[end], dtype) == as; end++)
            part->n += (int)w[end]->dim[0];
        part->blocks = an_dtype_is_quant(as);
        first += part->n;
        s = part->blocks ? pack_blocks(d, w + i, out->k, part, &out->bytes, err)
                         : pack_plain(d, as, w + i, scale ? scale + i : NULL, out->k,
                                      (int64_t)out->kh * out->kw, part, &out->bytes, err);
    }
    if (s) {
        GPU(weight_free)(out);
        out->bytes = 0;
    }
    return s;
}

an_status GPU(weight_linear)(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                             const float *const *scale, const an_tensor *const *bias,
                             an_weight *out, an_error *err)
{
    an_status s = pack(d, dtype, n_parts, w, scale, bias, out, err);
    out->rows = !s && n_parts == 1 && kept_as(w[0], dtype) != AN_F8_E4M3;
    return s;
}

an_status GPU(weight_conv)(an_device *d, an_dtype dtype, const an_tensor *w, const an_tensor *bias,
                           an_weight *out, an_error *err)
{
    return pack(d, dtype, 1, &w, NULL, bias ? &bias : NULL, out, err);
}
