/* prompt.c: a prompt as the rows of ids a text encoder reads. Two ways: diffusers' (one chunk, cut)
 * and the A1111 web UI's (as many chunks as it takes, a weight on each token). */
#include "anneal/text.h"
#include "prompt_parse.h"
#include "tokenizer.h"

#include <stdlib.h>

/* A chunk that is full is cut after its last comma if that is at most this many tokens back. */
#define COMMA_LOOK_BACK 20
#define MAX_CHUNK_LEN   65536
#define MAX_CHUNKS      65536

static an_status check_lengths(int chunk_len, int chunks, an_error *err)
{
    if (chunk_len < 3 || chunk_len > MAX_CHUNK_LEN)
        return an_fail(err, AN_INVALID, "a chunk of %d tokens: 3 to %d are possible", chunk_len,
                       MAX_CHUNK_LEN);
    if (chunks < 1 || chunks > MAX_CHUNKS)
        return an_fail(err, AN_INVALID, "%d chunks: 1 to %d are possible", chunks, MAX_CHUNKS);
    return AN_OK;
}

/* Room for n chunks in all. */
static an_status grow_chunks(an_prompt *p, int n, an_error *err)
{
    size_t count, bytes;
    if (!an_mul_size((size_t)n, (size_t)p->chunk_len, &count) ||
        !an_mul_size(count, sizeof(int32_t), &bytes))
        return an_fail(err, AN_TOO_LARGE, "%d chunks of %d tokens are too many", n, p->chunk_len);
    int32_t *ids = realloc(p->ids, bytes);
    if (ids) p->ids = ids;
    float *weights = realloc(p->weights, count * sizeof *weights);
    if (weights) p->weights = weights;
    if (!ids || !weights)
        return an_fail(err, AN_NO_MEMORY, "out of memory for %d chunks of %d tokens", n,
                       p->chunk_len);
    return AN_OK;
}

/* Appends BOS, n <= chunk_len - 2 tokens, EOS, padding. weights may be NULL (all 1). */
static an_status append_chunk(const an_tokenizer *t, an_prompt *p, const int32_t *ids,
                              const double *weights, int n, an_error *err)
{
    an_status s = grow_chunks(p, p->n_chunks + 1, err);
    if (s != AN_OK) return s;
    size_t at = (size_t)p->n_chunks * (size_t)p->chunk_len;
    int32_t *row = p->ids + at;
    float *w = p->weights + at;
    for (int i = 0; i < p->chunk_len; i++) {
        bool text = i >= 1 && i <= n;
        row[i] = i == 0 ? t->bos : text ? ids[i - 1] : i == n + 1 ? t->eos : t->pad;
        w[i] = text && weights ? (float)weights[i - 1] : 1.0f;
        if (w[i] != 1.0f) p->weighted = true;
    }
    p->n_chunks++;
    return AN_OK;
}

an_status an_prompt_plain(const an_tokenizer *t, const char *text, size_t len, int chunk_len,
                          an_prompt *out, an_error *err)
{
    memset(out, 0, sizeof *out);
    int32_t *ids;
    size_t count;
    an_status s = check_lengths(chunk_len, 1, err);
    if (s == AN_OK) s = an_tokenizer_encode(t, text, len, &ids, &count, err);
    if (s != AN_OK) return s;
    size_t room = (size_t)chunk_len - 2;
    *out = (an_prompt){.chunk_len = chunk_len, .n_tokens = count, .truncated = count > room};
    s = append_chunk(t, out, ids, NULL, (int)(count < room ? count : room), err);
    free(ids);
    if (s != AN_OK) an_prompt_free(out);
    return s;
}

/* ---------------------------------------------------------------- weighted */

/* The chunk being filled. */
typedef struct line {
    const an_tokenizer *t;
    an_prompt *out;
    int32_t *ids;       /* [room] */
    double *weights;    /* [room] */
    int n, room, comma; /* comma: where the last one is, -1 if the chunk has none */
    int max_chunks;
    an_error *err;
} line;

/* The web UI pads with the end token first; where the padding is another one, it then overwrites
 * all that follows the first end token, so a prompt with <|endoftext|> in it ends there. */
static void pad_after_end(const an_tokenizer *t, int32_t *row, int chunk_len)
{
    int i = 1;
    while (row[i] != t->eos) i++; /* every chunk has one */
    while (++i < chunk_len) row[i] = t->pad;
}

static an_status close_chunk(line *l)
{
    an_prompt *p = l->out;
    an_status s = append_chunk(l->t, p, l->ids, l->weights, l->n, l->err);
    l->n = 0;
    l->comma = -1;
    if (s == AN_OK && l->t->pad != l->t->eos)
        pad_after_end(l->t, p->ids + (size_t)(p->n_chunks - 1) * (size_t)p->chunk_len,
                      p->chunk_len);
    return s;
}

/* Closes the chunk behind its last comma; what followed that begins the next one. */
static an_status close_at_comma(line *l)
{
    int keep = l->comma + 1, moved = l->n - keep;
    int32_t ids[COMMA_LOOK_BACK];
    double weights[COMMA_LOOK_BACK];
    memcpy(ids, l->ids + keep, (size_t)moved * sizeof *ids);
    memcpy(weights, l->weights + keep, (size_t)moved * sizeof *weights);
    l->n = keep;
    an_status s = close_chunk(l);
    memcpy(l->ids, ids, (size_t)moved * sizeof *ids);
    memcpy(l->weights, weights, (size_t)moved * sizeof *weights);
    l->n = moved;
    return s;
}

static bool is_full(const line *l)
{
    return l->out->n_chunks == l->max_chunks;
}

static an_status add_token(line *l, int32_t id, double weight)
{
    an_status s = AN_OK;
    if (id == l->t->comma)
        l->comma = l->n;
    else if (l->n == l->room && l->comma >= 0 && l->n - l->comma <= COMMA_LOOK_BACK)
        s = close_at_comma(l);
    if (s == AN_OK && l->n == l->room) s = close_chunk(l);
    if (s != AN_OK) return s;
    l->ids[l->n] = id;
    l->weights[l->n++] = weight;
    return AN_OK;
}

static an_status add_piece(line *l, const char *text, size_t len, double weight)
{
    int32_t *ids;
    size_t count;
    an_status s = an_tokenizer_encode(l->t, text, len, &ids, &count, l->err);
    if (s != AN_OK) return s;
    l->out->n_tokens += count;
    for (size_t i = 0; i < count && s == AN_OK; i++) {
        s = is_full(l) ? AN_OK : add_token(l, ids[i], weight);
        if (is_full(l)) l->out->truncated = true; /* this token found no place */
    }
    free(ids);
    return s;
}

static an_status fill_chunks(line *l, const prompt_pieces *pieces)
{
    an_status s = AN_OK;
    for (size_t i = 0; i < pieces->n && s == AN_OK; i++) {
        const prompt_piece *p = &pieces->pieces[i];
        if (!an_prompt_piece_is_break(pieces, p))
            s = add_piece(l, pieces->text.data ? pieces->text.data + p->at : "", p->len, p->weight);
        else if (!is_full(l))
            s = close_chunk(l);
    }
    if (s == AN_OK && !is_full(l) && (l->n > 0 || l->out->n_chunks == 0)) s = close_chunk(l);
    return s;
}

an_status an_prompt_weighted(const an_tokenizer *t, const char *text, size_t len, int chunk_len,
                             int max_chunks, an_prompt *out, an_error *err)
{
    memset(out, 0, sizeof *out);
    an_status s = check_lengths(chunk_len, max_chunks, err);
    if (s != AN_OK) return s;
    if (len > MAX_TEXT)
        return an_fail(err, AN_TOO_LARGE, "the prompt has %zu bytes, at most %zu are read", len,
                       MAX_TEXT);
    if (len == 0) text = ""; /* NULL is allowed then */
    if (!an_utf8_valid(text, len)) return an_fail(err, AN_INVALID, "the prompt is not valid UTF-8");
    prompt_pieces pieces;
    s = an_prompt_parse(text, len, &pieces, err);
    out->chunk_len = chunk_len;
    line l = {.t = t,
              .out = out,
              .room = chunk_len - 2,
              .comma = -1,
              .max_chunks = max_chunks,
              .err = err};
    if (s == AN_OK) {
        l.ids = malloc((size_t)l.room * sizeof *l.ids);
        l.weights = malloc((size_t)l.room * sizeof *l.weights);
        if (l.ids && l.weights)
            s = fill_chunks(&l, &pieces);
        else
            s = an_fail(err, AN_NO_MEMORY, "out of memory for a chunk of %d tokens", chunk_len);
    }
    free(l.ids);
    free(l.weights);
    an_prompt_pieces_free(&pieces);
    if (s != AN_OK) an_prompt_free(out);
    return s;
}

an_status an_prompt_pad_chunks(const an_tokenizer *t, an_prompt *p, int n, an_error *err)
{
    an_status s = check_lengths(p->chunk_len, n, err);
    while (s == AN_OK && p->n_chunks < n) s = append_chunk(t, p, NULL, NULL, 0, err);
    return s;
}

void an_prompt_free(an_prompt *p)
{
    free(p->ids);
    free(p->weights);
    memset(p, 0, sizeof *p);
}
