/* vocab_split.c: pre-tokenizers, which cut a text into the words that a model then takes one by
 * one. Each takes the words of the one before it; those that change the text (a space in front,
 * bytes as characters) write it anew. */
#include "lm_vocab.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- words */

void an_lm_words_init(lm_words *w)
{
    *w = (lm_words){0};
    an_buf_init(&w->text, LM_MAX_NORMALIZED);
}

void an_lm_words_free(lm_words *w)
{
    an_buf_free(&w->text);
    free(w->spans);
    *w = (lm_words){0};
}

static bool push_span(lm_words *w, size_t start, size_t end)
{
    if (start >= end) return true;
    if (w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 64;
        lm_span *grown = realloc(w->spans, cap * sizeof *grown);
        if (!grown) return false;
        w->spans = grown;
        w->cap = cap;
    }
    w->spans[w->n++] = (lm_span){start, end};
    return true;
}

/* ---------------------------------------------------------------- cutting one word */

/* Receives matches and gaps in order and joins them as the behaviour says. */
typedef struct cutter {
    lm_words *out;
    size_t base; /* where the word lies in the text */
    lm_behaviour behaviour;
    bool invert, failed;
    bool open, last_match; /* a word is being grown: [start, end) */
    size_t start, end;
} cutter;

static void flush(cutter *c)
{
    if (c->open && !push_span(c->out, c->base + c->start, c->base + c->end)) c->failed = true;
    c->open = false;
}

static void part(cutter *c, size_t start, size_t end, bool match)
{
    match = match != c->invert;
    bool join = false;
    switch (c->behaviour) {
    case LM_REMOVED:
        if (match) return;
        break;
    case LM_ISOLATED:
        break;
    case LM_CONTIGUOUS:
        join = c->open && match == c->last_match;
        break;
    case LM_WITH_PREVIOUS:
        join = c->open && match && !c->last_match;
        break;
    case LM_WITH_NEXT:
        join = c->open && !match && c->last_match;
        break;
    }
    /* MergedWithNext works from the end: of two matches in a row the first stands alone, which
     * is what growing from the front gives as well. */
    c->last_match = match;
    if (join) {
        c->end = end;
        return;
    }
    flush(c);
    c->open = true;
    c->start = start;
    c->end = end;
}

typedef bool char_class(uint32_t c);

static void cut_at_chars(cutter *c, const char *word, size_t len, char_class *is)
{
    size_t gap = 0;
    for (size_t at = 0, n; at < len; at += n) {
        uint32_t ch;
        n = an_lm_char(word + at, len - at, &ch);
        if (!is(ch)) continue;
        if (gap < at) part(c, gap, at, false);
        part(c, at, at + n, true);
        gap = at + n;
    }
    if (gap < len) part(c, gap, len, false);
}

static void cut_at_text(cutter *c, const char *word, size_t len, const char *what, size_t what_len)
{
    size_t gap = 0;
    const char *hit;
    while (what_len > 0 && gap < len &&
           (hit = an_lm_search(word + gap, len - gap, what, what_len))) {
        size_t at = (size_t)(hit - word);
        if (gap < at) part(c, gap, at, false);
        part(c, at, at + what_len, true);
        gap = at + what_len;
    }
    if (gap < len) part(c, gap, len, false);
}

static an_status cut_at_regex(cutter *c, lm_matcher *m, const char *word, size_t len,
                              const pcre2_code *re, an_error *err)
{
    size_t gap = 0, from = 0, last = SIZE_MAX, start, end;
    int found;
    while ((found = an_lm_regex_next(m, re, word, len, &from, &last, &start, &end, err)) > 0) {
        if (gap < start) part(c, gap, start, false);
        part(c, start, end, true);
        gap = end;
    }
    if (found == 0 && gap < len) part(c, gap, len, false);
    return found < 0 ? err ? err->status : AN_INVALID : AN_OK;
}

/* Words are runs of \w, runs of neither \w nor white space; white space falls away. */
static void cut_words_and_signs(cutter *c, const char *word, size_t len)
{
    size_t start = 0;
    int kind = 0, next;
    for (size_t at = 0, n; at <= len; at += n) {
        uint32_t ch = ' ';
        n = at < len ? an_lm_char(word + at, len - at, &ch) : 1;
        next = an_lm_is_word(ch) ? 1 : an_lm_is_space(ch) ? 0 : 2;
        if (next == kind && at < len) continue;
        if (kind != 0) part(c, start, at, false);
        start = at;
        kind = next;
    }
}

static void cut_lengths(cutter *c, const char *word, size_t len, int chars)
{
    size_t start = 0;
    int n = 0;
    for (size_t at = 0; at < len; at += an_lm_char_len(word[at])) {
        if (n == chars) {
            part(c, start, at, false);
            start = at;
            n = 0;
        }
        n++;
    }
    part(c, start, len, false);
}

static an_status cut_word(const lm_step *s, cutter *c, lm_matcher *m, const char *word, size_t len,
                          an_error *err)
{
    switch (s->what) {
    case LM_SPLIT:
        if (s->regex) return cut_at_regex(c, m, word, len, s->regex, err);
        cut_at_text(c, word, len, s->from, s->from_len);
        return AN_OK;
    case LM_BYTE_LEVEL:
        if (s->regex) return cut_at_regex(c, m, word, len, s->regex, err);
        part(c, 0, len, false);
        return AN_OK;
    case LM_DIGITS:
        cut_at_chars(c, word, len, an_lm_is_numeric);
        return AN_OK;
    case LM_PUNCTUATION:
        cut_at_chars(c, word, len, an_lm_is_punctuation);
        return AN_OK;
    case LM_WHITESPACE:
        if (s->flag[0])
            cut_words_and_signs(c, word, len);
        else
            cut_at_chars(c, word, len, an_lm_is_space);
        return AN_OK;
    case LM_METASPACE:
    case LM_DELIMITER:
        cut_at_text(c, word, len, s->from, s->from_len);
        return AN_OK;
    case LM_FIXED_LENGTH:
        cut_lengths(c, word, len, s->number);
        return AN_OK;
    default:
        part(c, 0, len, false);
        return AN_OK;
    }
}

static lm_behaviour behaviour_of(const lm_step *s)
{
    switch (s->what) {
    case LM_SPLIT:
    case LM_PUNCTUATION:
        return (lm_behaviour)s->number;
    case LM_DIGITS:
        return s->flag[0] ? LM_ISOLATED : LM_CONTIGUOUS;
    case LM_WHITESPACE:
        return s->flag[0] ? LM_ISOLATED : LM_REMOVED;
    case LM_DELIMITER:
        return LM_REMOVED;
    case LM_METASPACE:
        return s->flag[0] ? LM_WITH_NEXT : LM_CONTIGUOUS;
    default:
        return LM_ISOLATED;
    }
}

/* ---------------------------------------------------------------- text written anew */

void an_lm_put_bytes_as_chars(const char *text, size_t len, an_buf *out)
{
    for (size_t i = 0; i < len; i++) {
        char s[4];
        an_buf_add(out, s, an_put_utf8(an_byte_to_char((unsigned char)text[i]), s));
    }
}

/* Spaces become the replacement, one more goes in front where the scheme says so. */
static void put_metaspace(const lm_step *s, const char *word, size_t len, bool first, an_buf *out)
{
    bool has = len > 0 &&
               (word[0] == ' ' || (len >= s->from_len && memcmp(word, s->from, s->from_len) == 0));
    if (!has && (s->number == LM_ALWAYS || (s->number == LM_FIRST && first)))
        an_buf_add(out, s->from, s->from_len);
    for (size_t i = 0; i < len; i++) {
        if (word[i] == ' ')
            an_buf_add(out, s->from, s->from_len);
        else
            an_buf_add(out, word + i, 1);
    }
}

enum { BEFORE_CUTTING, AFTER_CUTTING };

static bool rewrites(const lm_step *s, int when)
{
    if (s->what == LM_METASPACE) return when == BEFORE_CUTTING;
    return s->what == LM_BYTE_LEVEL && (when == AFTER_CUTTING || s->flag[0]);
}

/* Every word written anew into a text of its own. at_start: the text begins the whole, so a word
 * at its very beginning is the first. */
static an_status rewrite_words(const lm_step *s, int when, bool at_start, lm_words *w,
                               an_error *err)
{
    lm_words n;
    an_lm_words_init(&n);
    bool ok = true;
    for (size_t i = 0; i < w->n && ok; i++) {
        const char *word = w->text.data + w->spans[i].start;
        size_t len = w->spans[i].end - w->spans[i].start, at = n.text.len;
        if (s->what == LM_METASPACE) {
            put_metaspace(s, word, len, at_start && w->spans[i].start == 0, &n.text);
        } else if (when == BEFORE_CUTTING) {
            if (word[0] != ' ') an_buf_add(&n.text, " ", 1);
            an_buf_add(&n.text, word, len);
        } else {
            an_lm_put_bytes_as_chars(word, len, &n.text);
        }
        ok = !n.text.failed && push_span(&n, at, n.text.len);
    }
    an_lm_words_free(w);
    *w = n;
    return ok ? AN_OK : an_fail(err, AN_TOO_LARGE, "the text grows past what fits in memory");
}

static an_status cut_words(const lm_step *s, lm_behaviour behaviour, char_class *is, lm_matcher *m,
                           lm_words *w, an_error *err)
{
    lm_words n = {0};
    an_status status = AN_OK;
    bool failed = false;
    for (size_t i = 0; i < w->n && status == AN_OK && !failed; i++) {
        const char *word = w->text.data + w->spans[i].start;
        size_t len = w->spans[i].end - w->spans[i].start;
        cutter c = {.out = &n, .base = w->spans[i].start, .behaviour = behaviour};
        c.invert = s->what == LM_SPLIT && s->flag[0];
        if (is)
            cut_at_chars(&c, word, len, is);
        else
            status = cut_word(s, &c, m, word, len, err);
        flush(&c);
        failed = c.failed;
    }
    free(w->spans);
    w->spans = n.spans;
    w->n = n.n;
    w->cap = n.cap;
    if (failed && status == AN_OK)
        status = an_fail(err, AN_NO_MEMORY, "out of memory for %zu words", w->n);
    return status;
}

static an_status run_step(const lm_step *s, lm_matcher *m, bool at_start, lm_words *w,
                          an_error *err)
{
    an_status status = AN_OK;
    if (s->what == LM_BERT_WORDS) {
        status = cut_words(s, LM_REMOVED, an_lm_is_space, m, w, err);
        if (status == AN_OK) status = cut_words(s, LM_ISOLATED, an_lm_is_punctuation, m, w, err);
        return status;
    }
    if (rewrites(s, BEFORE_CUTTING)) status = rewrite_words(s, BEFORE_CUTTING, at_start, w, err);
    bool whole =
        (s->what == LM_METASPACE && !s->flag[0]) || (s->what == LM_BYTE_LEVEL && !s->regex);
    if (status == AN_OK && !whole) status = cut_words(s, behaviour_of(s), NULL, m, w, err);
    if (status == AN_OK && rewrites(s, AFTER_CUTTING))
        status = rewrite_words(s, AFTER_CUTTING, at_start, w, err);
    return status;
}

an_status an_lm_split(const an_vocab *v, lm_matcher *m, const char *text, size_t len, bool at_start,
                      lm_words *out, an_error *err)
{
    out->n = 0;
    out->text.len = 0;
    if (!an_buf_add(&out->text, text, len) || !push_span(out, 0, len))
        return an_fail(err, AN_NO_MEMORY, "out of memory for %zu bytes of text", len);
    an_status s = AN_OK;
    for (int i = 0; i < v->splitters.n && s == AN_OK; i++)
        s = run_step(&v->splitters.step[i], m, at_start, out, err);
    return s;
}
