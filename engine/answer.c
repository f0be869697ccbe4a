/* answer.c: see answer.h. Ids become text here, and stop strings are found. */
#include "answer.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- growing */

static bool reserve(an_growing *g, size_t more)
{
    size_t want = g->cap ? g->cap : 256;
    if (g->len + more <= g->cap) return true;
    while (want < g->len + more) want *= 2;
    char *p = malloc(want);
    void **old = g->data ? realloc(g->old, (size_t)(g->olds + 1) * sizeof *old) : NULL;
    if (old) g->old = old;
    if (!p || (g->data && !old)) {
        free(p);
        return false;
    }
    if (g->data) {
        memcpy(p, g->data, g->len);
        g->old[g->olds++] = g->data;
    }
    g->data = p;
    g->cap = want;
    g->bytes += want;
    return true;
}

static bool append(an_growing *g, const void *data, size_t n)
{
    if (!reserve(g, n)) return false;
    if (n) memcpy(g->data + g->len, data, n);
    g->len += n;
    return true;
}

static void growing_free(an_growing *g)
{
    for (int i = 0; i < g->olds; i++) free(g->old[i]);
    free(g->old);
    free(g->data);
    *g = (an_growing){0};
}

/* ---------------------------------------------------------------- stop strings */

an_status an_stops_copy(an_stops *s, const char *const *text, int n, an_error *err)
{
    *s = (an_stops){0};
    if (n == 0) return AN_OK;
    s->text = calloc((size_t)n, sizeof *s->text);
    s->len = calloc((size_t)n, sizeof *s->len);
    bool ok = s->text && s->len;
    for (int i = 0; i < n && ok; i++) {
        s->n++;
        s->text[i] = an_strdup(text[i]);
        ok = s->text[i] != NULL;
        if (ok) s->len[i] = strlen(s->text[i]);
    }
    return ok ? AN_OK : an_fail(err, AN_NO_MEMORY, "no memory for stop strings");
}

void an_stops_free(an_stops *s)
{
    for (int i = 0; i < s->n; i++) free(s->text[i]);
    free(s->text);
    free(s->len);
    *s = (an_stops){0};
}

/* The stop string that begins first, among those that end after `checked`. */
static const char *find_stop(const an_answer *a, size_t *at)
{
    const char *found = NULL;
    size_t end = a->text.len;
    for (int i = 0; i < a->stops->n; i++) {
        size_t n = a->stops->len[i];
        if (n > end) continue;
        size_t from = a->checked >= n ? a->checked - n + 1 : 0;
        size_t to = found && *at < end - n + 1 ? *at : end - n + 1; /* must begin before it */
        for (size_t p = from; p < to; p++) {
            if (memcmp(a->text.data + p, a->stops->text[i], n) != 0) continue;
            found = a->stops->text[i];
            *at = p;
            break;
        }
    }
    return found;
}

/* Bytes at the end of the text that begin some stop string: they wait for what comes. */
static size_t held_back(const an_answer *a)
{
    size_t most = 0, len = a->text.len;
    for (int i = 0; i < a->stops->n; i++) {
        size_t n = a->stops->len[i] - 1;
        if (n > len) n = len;
        for (; n > most; n--)
            if (memcmp(a->text.data + len - n, a->stops->text[i], n) == 0) most = n;
    }
    return most;
}

/* ---------------------------------------------------------------- tokens */

void an_answer_start(an_answer *a, const an_vocab *v, bool special, bool begins,
                     const an_stops *stops)
{
    a->vocab = v;
    a->stops = stops;
    if (!v) return;
    an_detok_start(&a->detok, v, special);
    a->detok.first = begins;
}

void an_answer_free(an_answer *a)
{
    growing_free(&a->text);
    growing_free(&a->tokens);
    growing_free(&a->tops);
    free(a->name);
}

size_t an_answer_bytes(const an_answer *a)
{
    return a->text.bytes + a->tokens.bytes + a->tops.bytes;
}

static an_status no_memory(an_error *err)
{
    return an_fail(err, AN_NO_MEMORY, "no memory for an answer's text");
}

/* Token `last` and those before it whose text was cut end where the text ends. */
static void cut_text(an_answer *a, size_t at)
{
    an_token *t = (an_token *)(void *)a->tokens.data; /* not shown yet */
    a->text.len = at;
    for (size_t i = a->tokens.len / sizeof *t; i > 0 && t[i - 1].text_end > at; i--) {
        t[i - 1].text_end = at;
        if (t[i - 1].text_start > at) t[i - 1].text_start = at;
    }
}

/* Copies of an_top stay in place by themselves: an outgrown array is kept, and tokens that point
 * into it go on doing so. */
static bool copy_top(an_answer *a, an_token *t)
{
    size_t bytes = (size_t)t->n_top * sizeof *t->top, at = a->tops.len;
    if (!append(&a->tops, t->top, bytes)) return false;
    t->top = t->n_top ? (const struct an_top *)(const void *)(a->tops.data + at) : NULL;
    return true;
}

an_status an_answer_add(an_answer *a, const an_token *token, bool silent, bool may_stop,
                        const char **stop, an_error *err)
{
    an_token t = *token;
    *stop = NULL;
    t.text_start = a->text.len;
    if (a->vocab && !silent) {
        an_buf b;
        an_buf_init(&b, (size_t)1 << 20);
        bool ok = an_detok_add(&a->detok, t.id, &b) && append(&a->text, b.data, b.len);
        an_buf_free(&b);
        if (!ok) return no_memory(err);
    }
    t.text_end = a->text.len;
    if (!copy_top(a, &t) || !append(&a->tokens, &t, sizeof t)) return no_memory(err);
    size_t at = 0;
    if (may_stop) *stop = find_stop(a, &at);
    a->checked = a->text.len;
    if (*stop) cut_text(a, at);
    return AN_OK;
}

an_status an_answer_end(an_answer *a, an_error *err)
{
    if (!a->vocab) return AN_OK;
    an_buf b;
    an_buf_init(&b, 64);
    bool ok = an_detok_finish(&a->detok, &b) && append(&a->text, b.data, b.len);
    an_buf_free(&b);
    if (!ok) return no_memory(err);
    return AN_OK;
}

const char *an_answer_name(an_answer *a, int32_t id)
{
    size_t n = 0;
    const char *piece = a->vocab ? an_vocab_piece(a->vocab, id, true, &n) : NULL;
    if (!piece || !an_utf8_valid(piece, n)) return NULL;
    free(a->name);
    a->name = an_asprintf("%.*s", (int)n, piece);
    return a->name;
}

/* A token is shown with its text: what is held back may be cut yet, and so may an unfinished
 * character. What is shown never changes. */
void an_answer_show(an_answer *a, bool ended)
{
    const an_token *t = (const an_token *)(const void *)a->tokens.data;
    size_t n = a->tokens.len / sizeof *t;
    size_t len = ended ? a->text.len : a->text.len - held_back(a);
    if (!ended) {
        while (n > 0 && t[n - 1].text_end > len) n--;
        if (a->detok.n_held > 0 && n == a->tokens.len / sizeof *t) n--;
    }
    a->shown.text = a->text.data ? a->text.data : "";
    a->shown.text_len = len;
    a->shown.tokens = t;
    a->shown.n_tokens = n;
}
