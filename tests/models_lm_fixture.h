/* models_lm_fixture.h: opens the golden language models and feeds token sequences to them. Blocks
 * of a sequence are scattered over the pool on purpose. */
#ifndef ANNEAL_TESTS_MODELS_LM_FIXTURE_H
#define ANNEAL_TESTS_MODELS_LM_FIXTURE_H

#include "models/lm.h"
#include "models_open.h"

enum { LM_BLOCKS = 97, LM_CONTEXT = 512 }; /* blocks: a prime, so that steps reach them all */

typedef struct lm {
    FIXTURE;
    an_kv *kv;
    int vocab;
    int next_block; /* handed out so far */
    void *logits[64];
    int n_logits;
} lm;

/* A text on its way through a model. */
typedef struct sequence {
    const int32_t *ids;
    int n, pos; /* pos: how many have been fed */
    int32_t blocks[LM_CONTEXT / AN_KV_BLOCK];
} sequence;

/* Every byte of the keys and values. */
static inline void lm_fill(lm *f, int byte)
{
    const size_t bytes = (size_t)f->kv->blocks * an_model_kv_block_bytes(f->model);
    char *host = malloc(bytes);
    memset(host, byte, bytes);
    an_upload(f->lane, f->kv->memory, host, bytes);
    free(host);
}

static inline bool lm_open_path(lm *f, const char *path, const char *device, an_dtype dtype,
                                int64_t blocks, size_t arena)
{
    if (!opened_model(&f->open, path, device, dtype, arena) ||
        !opened_ok(&f->open, an_kv_open(f->model, blocks, &f->kv, &f->err), "kv"))
        return false;
    /* what a block held before must not matter */
    lm_fill(f, 0xff);
    f->vocab = an_model_describe(f->model)->vocab;
    return true;
}

static inline bool lm_open(lm *f, const char *name, const char *device, an_dtype dtype)
{
    char path[512];
    memset(f, 0, sizeof *f);
    snprintf(f->name, sizeof f->name, "%s on %s in %s", name, device, an_dtype_name(dtype));
    snprintf(path, sizeof path, "%s/llm/%s/model", AN_GOLDEN, name);
    if (!lm_open_path(f, path, device, dtype, LM_BLOCKS, 16 << 20)) return false;
    snprintf(path, sizeof path, "%s/llm/%s/expected.safetensors", AN_GOLDEN, name);
    return opened_golden(&f->open, path);
}

static inline void lm_close(lm *f)
{
    for (int i = 0; i < f->n_logits; i++) an_device_free(f->device, f->logits[i]);
    an_kv_close(f->kv);
    opened_close(&f->open);
}

/* Blocks 31 apart, so that neighbours in a text are none in the pool; they are used again in turn,
 * since tests look at a few sequences at a time. */
static inline sequence sequence_of(lm *f, const int32_t *ids, int n)
{
    sequence s = {.ids = ids, .n = n};
    for (size_t i = 0; i < sizeof s.blocks / sizeof *s.blocks; i++) {
        bool used = (int)i * AN_KV_BLOCK < n;
        s.blocks[i] = used ? (int32_t)(31 * f->next_block++ % LM_BLOCKS) : 0;
    }
    return s;
}

/* The next n tokens, with logits of the last `want` of them. */
static inline an_lm_row sequence_row(lm *f, sequence *s, int n, int want)
{
    an_lm_row r = {
        .ids = s->ids + s->pos, .n = n, .pos = s->pos, .blocks = s->blocks, .want = want};
    void *p = NULL;
    size_t bytes = (size_t)want * (size_t)f->vocab * sizeof(float);
    if (want && (f->n_logits == 64 || an_device_alloc(f->device, bytes, &p, &f->err))) {
        printf("  out of memory for logits\n");
        exit(1);
    }
    if (want) f->logits[f->n_logits++] = p;
    r.logits = p;
    s->pos += n;
    return r;
}

static inline void lm_tick(lm *f, const an_lm_row *rows, int n)
{
    an_lane_reset(f->lane);
    opened_ok(&f->open, an_lm_forward(f->model, f->lane, f->kv, rows, n, &f->err), "forward");
}

/* A row's logits to the host. */
static inline void lm_read(lm *f, const an_lm_row *r, float *out)
{
    an_download(f->lane, out, r->logits, (size_t)r->want * (size_t)f->vocab * sizeof *out);
}

/* One tick of one row. out: host [want, vocab] */
static inline void lm_feed(lm *f, sequence *s, int n, int want, float *out)
{
    an_lm_row r = sequence_row(f, s, n, want);
    lm_tick(f, &r, 1);
    if (!want) return;
    lm_read(f, &r, out);
    an_device_free(f->device, f->logits[--f->n_logits]);
}

static inline int32_t greatest(const float *logits, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static inline uint32_t lm_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

#endif
