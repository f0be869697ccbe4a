/* lm.c: language models behind the registry: the pools of keys and values, a tick from its rows to
 * what a network sees, its price, and the steps that every such network begins and ends with. */
#include "lm.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- keys and values */

static bool is_text(const an_model *m)
{
    return m->family->forward != NULL;
}

static an_status not_text(const an_model *m, an_error *err)
{
    return an_fail(err, AN_INVALID, "a model of family %s is not a language model", m->info.family);
}

/* One layer's keys, or its values, of one block. */
static size_t half_block_bytes(const an_model *m)
{
    return (size_t)AN_KV_BLOCK * (size_t)m->info.kv_heads * (size_t)m->info.head_dim *
           an_dtype_size(m->dtype);
}

size_t an_model_kv_block_bytes(const an_model *m)
{
    return is_text(m) ? 2 * (size_t)m->info.layers * half_block_bytes(m) : 0;
}

/* The pools of all layers over `memory`, which may be NULL for a counting run. */
static void lay_out(an_kv *kv, const an_model *m, int64_t blocks, void *memory)
{
    kv->device = m->device;
    kv->model = m;
    kv->blocks = blocks;
    kv->memory = memory;
    size_t half = half_block_bytes(m) * (size_t)blocks;
    for (int i = 0; i < m->info.layers; i++) {
        char *k = memory ? (char *)memory + 2 * (size_t)i * half : NULL;
        kv->layer[i] = (an_kv_pool){.k = k,
                                    .v = k ? k + half : NULL,
                                    .dtype = m->dtype,
                                    .blocks = blocks,
                                    .kv_heads = m->info.kv_heads,
                                    .head_dim = m->info.head_dim};
    }
}

an_status an_kv_open(an_model *m, int64_t blocks, an_kv **out, an_error *err)
{
    size_t bytes;
    void *memory;
    *out = NULL;
    if (!is_text(m)) return not_text(m, err);
    if (blocks < 1 || blocks > INT32_MAX ||
        !an_mul_size(an_model_kv_block_bytes(m), (size_t)blocks, &bytes) || bytes > SIZE_MAX / 4)
        return an_fail(err, AN_INVALID,
                       "a pool of %lld blocks of keys and values, expected 1 to %d",
                       (long long)blocks, INT32_MAX);
    an_kv *kv = calloc(1, sizeof *kv);
    if (!kv) return an_fail(err, AN_NO_MEMORY, "no memory for a pool of keys and values");
    an_status s = an_device_alloc(m->device, bytes, &memory, err);
    if (s) {
        free(kv);
        return an_fail_prefix(err, s, "%lld blocks of keys and values", (long long)blocks);
    }
    lay_out(kv, m, blocks, memory);
    *out = kv;
    return AN_OK;
}

void an_kv_close(an_kv *kv)
{
    if (!kv) return;
    an_device_free(kv->device, kv->memory);
    free(kv);
}

/* ---------------------------------------------------------------- from rows to a tick */

static an_status check_row(const an_model *m, const an_kv *kv, const an_lm_row *r, int row,
                           an_error *err)
{
    const an_model_info *info = &m->info;
    if (!r->ids || !r->blocks || r->n < 1 || r->n > AN_LM_TOKENS || r->want < 0 || r->want > r->n ||
        (r->want > 0 && !r->logits))
        return an_fail(err, AN_INVALID,
                       "row %d: %d tokens with %d logits wanted%s: expected 1 to %d tokens, and "
                       "logits of at most as many",
                       row, r->n, r->want,
                       !r->ids || !r->blocks || !r->logits ? ", and ids, blocks or logits is NULL"
                                                           : "",
                       AN_LM_TOKENS);
    if (r->pos < 0 || r->n > info->context_len || r->pos > info->context_len - r->n)
        return an_fail(err, AN_INVALID, "row %d: positions %d to %lld, but the context has %d", row,
                       r->pos, (long long)r->pos + r->n - 1, info->context_len);
    for (int i = 0; i < r->n; i++)
        if (r->ids[i] < 0 || r->ids[i] >= info->vocab)
            return an_fail(err, AN_INVALID, "row %d: token %d is %d, expected 0 to %d", row, i,
                           r->ids[i], info->vocab - 1);
    for (int i = 0; i <= (r->pos + r->n - 1) / AN_KV_BLOCK; i++)
        if (r->blocks[i] < 0 || r->blocks[i] >= kv->blocks)
            return an_fail(err, AN_INVALID, "row %d: block %d is %d, expected 0 to %lld", row, i,
                           r->blocks[i], (long long)kv->blocks - 1);
    return AN_OK;
}

static an_status check_tick(const an_model *m, const an_lane *l, const an_kv *kv,
                            const an_lm_row *rows, int n, an_error *err)
{
    int64_t tokens = 0;
    if (!is_text(m)) return not_text(m, err);
    if (an_lane_device(l) != m->device || kv->model != m)
        return an_fail(err, AN_INVALID, "the lane or the pool belongs to another model");
    if (n < 1 || n > AN_LM_ROWS)
        return an_fail(err, AN_INVALID, "a tick of %d rows, expected 1 to %d", n, AN_LM_ROWS);
    for (int r = 0; r < n; r++) {
        an_status s = check_row(m, kv, &rows[r], r, err);
        if (s) return s;
        tokens += rows[r].n;
    }
    if (tokens > AN_LM_TOKENS)
        return an_fail(err, AN_INVALID, "a tick of %lld tokens, expected at most %d",
                       (long long)tokens, AN_LM_TOKENS);
    return AN_OK;
}

an_status an_lm_forward(an_model *m, an_lane *l, an_kv *kv, const an_lm_row *rows, int n,
                        an_error *err)
{
    an_kv_row kv_row[AN_LM_ROWS];
    int32_t pos[AN_LM_TOKENS], want[AN_LM_TOKENS];
    an_status s = check_tick(m, l, kv, rows, n, err);
    if (s) return s;
    an_lm_tick t = {.row = rows, .kv_row = kv_row, .pool = kv->layer, .rows = n};
    t.pos = pos;
    t.want = want;
    for (int r = 0; r < n; r++) {
        const an_lm_row *row = &rows[r];
        kv_row[r] = (an_kv_row){
            .q_start = t.tokens, .q_len = row->n, .pos = row->pos, .blocks = row->blocks};
        for (int i = 0; i < row->n; i++) {
            if (i >= row->n - row->want) want[t.wanted++] = (int32_t)t.tokens;
            pos[t.tokens++] = row->pos + i;
        }
    }
    /* A token each: the tick that comes again and again. Pieces of prompts differ. */
    if (t.tokens == n)
        t.repeat =
            (an_repeat){m->owner, {AN_STAGE_FORWARD, n, (int64_t)(intptr_t)kv->memory, kv->blocks}};
    size_t mark = an_lane_mark(l);
    m->family->forward(m, l, &t);
    an_lane_release(l, mark);
    an_lane_label(l, NULL);
    return an_lane_status(l, err);
}

/* ---------------------------------------------------------------- cost */

/* `tokens` tokens dealt to `rows` rows, each of which ends at `context`; `want` logits in all. All
 * point at the same zeros. */
static an_status deal(an_lm_row *row, int rows, int tokens, int want, int64_t context,
                      const int32_t *zeros, float *logits, an_error *err)
{
    for (int r = 0; r < rows; r++) {
        int n = tokens / rows + (r < tokens % rows);
        int w = want < n ? want : n;
        if (n > context)
            return an_fail(err, AN_INVALID, "cost of %d tokens in %d rows of a context of %lld",
                           tokens, rows, (long long)context);
        row[r] = (an_lm_row){.ids = zeros,
                             .n = n,
                             .pos = (int)(context - n),
                             .blocks = zeros,
                             .want = w,
                             .logits = logits};
        want -= w;
    }
    return AN_OK;
}

an_status an_lm_cost(an_model *m, int rows, int tokens, int want, int64_t context, an_cost *out,
                     an_error *err)
{
    *out = (an_cost){0, 0};
    if (!is_text(m)) return not_text(m, err);
    if (rows < 1 || rows > AN_LM_ROWS || tokens < rows || tokens > AN_LM_TOKENS || want < 0 ||
        want > tokens || context < 1 || context > m->info.context_len)
        return an_fail(err, AN_INVALID,
                       "cost of %d tokens in %d rows, %d logits, context %lld: expected 1 to %d "
                       "rows, up to %d tokens, no more logits than tokens, a context of at most %d",
                       tokens, rows, want, (long long)context, AN_LM_ROWS, AN_LM_TOKENS,
                       m->info.context_len);
    int64_t longest = context / AN_KV_BLOCK + 1;
    if (longest < tokens) longest = tokens;
    an_lm_row *row = calloc((size_t)rows, sizeof *row);
    int32_t *zeros = calloc((size_t)longest, sizeof *zeros);
    an_kv *kv = calloc(1, sizeof *kv);
    float unread;
    an_lane *l = NULL;
    an_status s = row && zeros && kv ? an_lane_open_counting(m->device, &l, err)
                                     : an_fail(err, AN_NO_MEMORY, "no memory to price a tick");
    if (!s) s = deal(row, rows, tokens, want, context, zeros, &unread, err);
    if (!s) {
        lay_out(kv, m, 1, NULL);
        s = an_lm_forward(m, l, kv, row, rows, err);
        *out = (an_cost){an_lane_peak(l), an_lane_flops(l)};
    }
    an_lane_close(l);
    free(kv);
    free(zeros);
    free(row);
    return s;
}

/* ---------------------------------------------------------------- in */

static an_tensor load_table(an_loader *ld, const char *prefix, int64_t vocab, int64_t width)
{
    const int64_t dim[2] = {vocab, width};
    char name[AN_NAME_MAX];
    an_tensor there = an_load_whole(ld, an_load_name(ld, name, "%s.weight", prefix), 2, dim);
    bool small = an_dtype_is_quant(there.dtype) || there.dtype == AN_BF16;
    return an_load_upload(ld, there, small ? there.dtype : ld->dtype);
}

void an_lm_ends_load(an_loader *ld, const char *embeddings, bool tied, int64_t vocab, int64_t width,
                     an_lm_ends *out)
{
    out->head = an_load_linear(ld, tied ? embeddings : "lm_head", vocab, width, AN_BIAS_MAYBE | AN_KEEP);
    if (!tied || !out->head || !out->head->rows)
        out->table = load_table(ld, embeddings, vocab, width);
}

void an_lm_embed(an_lane *l, const an_lm_ends *ends, const an_lm_tick *t, an_tensor y)
{
    size_t mark = an_lane_mark(l);
    int64_t at = 0;
    an_tensor ids = an_lane_tensor(l, AN_I32, 1, t->tokens);
    for (int r = 0; r < t->rows; r++) {
        size_t bytes = (size_t)t->row[r].n * sizeof *t->row[r].ids;
        an_upload(l, an_view_of(ids, at, t->row[r].n).data, t->row[r].ids, bytes);
        at += t->row[r].n;
    }
    if (ends->table.data)
        an_embedding(l, &ends->table, NULL, ids, an_view_of(y, 0, 1, t->tokens, y.dim[1]));
    else
        an_weight_rows(l, ends->head, an_view_of(ids, 0, t->tokens), y);
    an_lane_release(l, mark);
}

/* ---------------------------------------------------------------- attention, out */

void an_lm_keep(an_lane *l, const an_lm_tick *t, int heads, an_dtype dtype)
{
    an_kv_keep(l, &t->pool[0], t->kv_row, t->rows, heads, dtype);
}

void an_lm_attention(an_lane *l, const an_lm_tick *t, int layer, const an_lm_heads *h, an_tensor y)
{
    const an_kv_pool *pool = &t->pool[layer];
    an_kv_write(l, pool, t->kv_row, t->rows, h->k, h->k_stride, h->v, h->v_stride, y.dtype);
    an_attention_paged(l, &(an_paged_args){.pool = pool,
                                           .rows = t->kv_row,
                                           .n = t->rows,
                                           .heads = h->heads,
                                           .head_dim = h->head_dim,
                                           .dtype = y.dtype,
                                           .q = h->q,
                                           .q_stride = h->q_stride,
                                           .scale = h->scale,
                                           .softcap = h->softcap,
                                           .window = h->window,
                                           .y = y});
}

void an_lm_logits(an_lane *l, const an_weight *head, float softcap, const an_lm_tick *t,
                  an_tensor x)
{
    size_t mark = an_lane_mark(l);
    int64_t at = 0;
    an_tensor all = an_lane_tensor(l, AN_F32, t->wanted, head->n);
    an_linear(l, x, head, AN_ACT_NONE, NULL, all);
    if (softcap > 0) an_softcap(l, all, softcap, all);
    for (int r = 0; r < t->rows; r++) {
        int64_t n = t->row[r].want;
        if (n == 0) continue;
        an_copy(l, an_view_of(all, at * head->n, n, head->n),
                an_tensor_2d(t->row[r].logits, AN_F32, n, head->n));
        at += n;
    }
    an_lane_release(l, mark);
}
