/* text_cache.c: prompts encoded once. An encoding is keyed by what the encoder would see (ids,
 * weights, clip_skip), so that two spellings with the same tokens share one. The least recently
 * used goes when there are more than the option says; those that running pictures hold never do. */
#include "state.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- keys */

static uint64_t mix(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static size_t id_count(const an_encoding *c)
{
    return (size_t)c->chunks * (size_t)c->chunk_len;
}

static uint64_t key_hash(const an_encoding *c)
{
    uint64_t h = 0xcbf29ce484222325u;
    h = mix(h, &c->clip_skip, sizeof c->clip_skip);
    h = mix(h, &c->chunks, sizeof c->chunks);
    for (int k = 0; k < 2; k++) {
        if (c->ids[k]) h = mix(h, c->ids[k], id_count(c) * sizeof(int32_t));
        if (c->weights[k]) h = mix(h, c->weights[k], id_count(c) * sizeof(float));
    }
    return h;
}

static bool same_array(const void *a, const void *b, size_t bytes)
{
    return a && b ? memcmp(a, b, bytes) == 0 : a == b;
}

static bool same(const an_encoding *a, const an_encoding *b)
{
    if (a->hash != b->hash || a->slot != b->slot || a->clip_skip != b->clip_skip ||
        a->zero != b->zero || a->chunks != b->chunks || a->chunk_len != b->chunk_len)
        return false;
    for (int k = 0; k < 2; k++)
        if (!same_array(a->ids[k], b->ids[k], id_count(a) * sizeof(int32_t)) ||
            !same_array(a->weights[k], b->weights[k], id_count(a) * sizeof(float)))
            return false;
    return true;
}

/* ---------------------------------------------------------------- memory */

static void encoding_free(an_unit *u, an_encoding *c)
{
    for (int k = 0; k < 2; k++) {
        free(c->ids[k]);
        free(c->weights[k]);
    }
    an_block_give(u, &c->memory);
    free(c);
}

static void drop_where(an_unit *u, const an_slot *s)
{
    an_encoding **p = &u->encodings;
    while (*p) {
        an_encoding *c = *p;
        if (c->refs > 0 || (s && c->slot != s)) {
            p = &c->next;
            continue;
        }
        *p = c->next;
        u->encoding_count--;
        encoding_free(u, c);
    }
}

void an_encodings_drop(an_unit *u, const an_slot *s)
{
    drop_where(u, s);
}

static void evict(an_unit *u)
{
    while (u->encoding_count > u->e->o.text_cache) {
        an_encoding **victim = NULL;
        for (an_encoding **p = &u->encodings; *p; p = &(*p)->next)
            if ((*p)->refs == 0 && (!victim || (*p)->last_used < (*victim)->last_used)) victim = p;
        if (!victim) return;
        an_encoding *c = *victim;
        *victim = c->next;
        u->encoding_count--;
        encoding_free(u, c);
    }
}

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

size_t an_encoding_plan(const an_unit *u, const an_model_info *i)
{
    return align64((size_t)i->chunk_len * (size_t)i->context_dim * an_dtype_size(u->e->dtype)) +
           align64((size_t)i->pooled_dim * sizeof(float));
}

static an_status take_memory(an_unit *u, an_encoding *c, an_error *err)
{
    const an_model_info *i = &c->slot->files->entry.info;
    size_t context = align64(id_count(c) * (size_t)i->context_dim * an_dtype_size(u->e->dtype));
    an_status s =
        an_block_take(u, context + align64((size_t)i->pooled_dim * sizeof(float)), &c->memory, err);
    if (s) return s;
    c->context = an_tensor_2d(c->memory.data, u->e->dtype, (int64_t)id_count(c), i->context_dim);
    c->pooled = an_tensor_1d((char *)c->memory.data + context, AN_F32, i->pooled_dim);
    if (!c->zero) return AN_OK;
    void *zeros = calloc(1, c->memory.bytes);
    if (!zeros) return an_fail(err, AN_NO_MEMORY, "no memory for a zero encoding");
    an_lane *l = an_slot_lane(c->slot);
    an_upload(l, c->memory.data, zeros, c->memory.bytes);
    an_lane_sync(l);
    free(zeros);
    c->ready = true;
    return an_lane_status(l, err);
}

/* ---------------------------------------------------------------- getting one */

static void *copy(const void *src, size_t bytes)
{
    void *p = malloc(bytes);
    if (p) memcpy(p, src, bytes);
    return p;
}

static an_encoding *key_of(an_slot *s, const an_text_input *in, int clip_skip, int chunks)
{
    an_encoding *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    const an_model_info *info = &s->files->entry.info;
    *c = (an_encoding){.slot = s,
                       .clip_skip = clip_skip > 1 ? clip_skip : 1,
                       .zero = in->zero,
                       .chunks = in->zero ? chunks : in->prompt[0].n_chunks,
                       .chunk_len = info->chunk_len};
    bool ok = true;
    for (int k = 0; k < info->text_encoders && k < 2 && !in->zero; k++) {
        const an_prompt *p = &in->prompt[k];
        ok = ok && (c->ids[k] = copy(p->ids, id_count(c) * sizeof(int32_t)));
        if (p->weighted) ok = ok && (c->weights[k] = copy(p->weights, id_count(c) * sizeof(float)));
    }
    c->hash = key_hash(c);
    if (ok) return c;
    for (int k = 0; k < 2; k++) {
        free(c->ids[k]);
        free(c->weights[k]);
    }
    free(c);
    return NULL;
}

an_status an_encoding_get(an_unit *u, an_slot *s, const an_text_input *in, int clip_skip,
                          int chunks, an_encoding **out, an_error *err)
{
    an_encoding *c = key_of(s, in, clip_skip, chunks), *hit = NULL;
    *out = NULL;
    if (!c) return an_fail(err, AN_NO_MEMORY, "no memory for a prompt");
    for (an_encoding *i = u->encodings; i && !hit; i = i->next)
        if (!i->failed && same(i, c)) hit = i;
    pthread_mutex_lock(&u->e->lock);
    if (hit)
        u->e->text_hits++;
    else
        u->e->text_misses++;
    pthread_mutex_unlock(&u->e->lock);
    if (hit) {
        encoding_free(u, c);
        c = hit;
    } else {
        an_status st = take_memory(u, c, err);
        if (st) {
            encoding_free(u, c);
            return st;
        }
        c->next = u->encodings;
        u->encodings = c;
        u->encoding_count++;
    }
    c->refs++;
    c->last_used = an_now_s();
    evict(u);
    *out = c;
    return AN_OK;
}

void an_encoding_put(an_unit *u, an_encoding *c)
{
    if (!c) return;
    c->refs--;
    c->last_used = an_now_s();
    if (c->refs > 0) return;
    if (c->ready && !c->failed) {
        evict(u);
        return;
    }
    /* One that failed, or was never encoded because its job was cancelled, is of no use. */
    for (an_encoding **p = &u->encodings; *p; p = &(*p)->next) {
        if (*p != c) continue;
        *p = c->next;
        u->encoding_count--;
        encoding_free(u, c);
        return;
    }
}

/* ---------------------------------------------------------------- a tick of encoding */

static int text_inputs(an_encoding *c, an_named *in, int32_t *clip_skip)
{
    static const char *const ids[2] = {"ids", "ids2"}, *const weights[2] = {"weights", "weights2"};
    int n = 0;
    for (int k = 0; k < 2; k++) {
        if (c->ids[k])
            in[n++] = (an_named){ids[k], an_tensor_2d(c->ids[k], AN_I32, c->chunks, c->chunk_len)};
        if (c->weights[k])
            in[n++] = (an_named){weights[k],
                                 an_tensor_2d(c->weights[k], AN_F32, c->chunks, c->chunk_len)};
    }
    *clip_skip = c->clip_skip;
    if (c->clip_skip > 1) in[n++] = (an_named){"clip_skip", an_tensor_1d(clip_skip, AN_I32, 1)};
    return n;
}

an_status an_encodings_run(an_slot *s, an_encoding *const *list, int n, an_error *err)
{
    an_row row[AN_BATCH_MAX];
    an_named in[AN_BATCH_MAX][5], out[AN_BATCH_MAX][2];
    int32_t clip_skip[AN_BATCH_MAX];
    for (int i = 0; i < n; i++) {
        an_encoding *c = list[i];
        row[i] = (an_row){in[i], text_inputs(c, in[i], &clip_skip[i]), out[i], 1};
        out[i][0] = (an_named){"context", c->context};
        if (s->files->entry.info.pooled_dim > 0)
            out[i][row[i].n_out++] = (an_named){"pooled", c->pooled};
    }
    an_lane *l = an_slot_lane(s);
    an_lane_reset(l);
    an_status st = an_model_step(s->model, l, AN_STAGE_TEXT, row, n, err);
    an_lane_sync(l);
    return st;
}
