/* prompt_parse.c: (a) weighs a by 1.1, [a] by 1/1.1, (a:1.3) by 1.3; nesting multiplies; \( \) \[
 * \]
 * \\ are the characters themselves; BREAK starts a new chunk. The rules, oddities included, are
 * those of AUTOMATIC1111's web UI, because prompts are traded between programs:
 *   - a bracket never closed counts as closed at the end, one never opened is text;
 *   - (a:1.3) with no open bracket is text, and so is a colon without a number;
 *   - BREAK inside brackets is weighed as if it were text, and is then no break but the word. */
#include "prompt_parse.h"
#include "python_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unictype.h>
#include <unistr.h>

typedef struct bracket_stack {
    size_t open[MAX_PROMPT_DEPTH]; /* the piece that came first after each bracket */
    int n;
} bracket_stack;

typedef struct parser {
    const char *text;
    size_t len, at;
    bracket_stack round, square;
    prompt_pieces *out;
    an_error *err;
} parser;

static const double ROUND = 1.1, SQUARE = 1 / 1.1;

/* ---------------------------------------------------------------- characters, as Python's re */

static bool is_python_word(ucs4_t c)
{
    return c == '_' || uc_is_general_category_withtable(c, UC_CATEGORY_MASK_L | UC_CATEGORY_MASK_N);
}

/* The character at p (p < end), its length added to *len. */
static ucs4_t char_at(const char *p, const char *end, size_t *len)
{
    ucs4_t c;
    *len = (size_t)u8_mbtouc_unsafe(&c, (const uint8_t *)p, (size_t)(end - p));
    return c;
}

static const char *skip_spaces(const char *p, const char *end)
{
    size_t n;
    while (p < end && is_python_space(char_at(p, end, &n))) p += n;
    return p;
}

static const char *trim_spaces(const char *begin, const char *end)
{
    while (end > begin) {
        ucs4_t c;
        const uint8_t *before = u8_prev(&c, (const uint8_t *)end, (const uint8_t *)begin);
        if (!before || !is_python_space(c)) break;
        end = (const char *)before;
    }
    return end;
}

/* ---------------------------------------------------------------- pieces */

static an_status add_piece(parser *p, const char *text, size_t len, double weight)
{
    prompt_pieces *o = p->out;
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 16;
        prompt_piece *grown = realloc(o->pieces, cap * sizeof *grown);
        if (!grown) return an_fail(p->err, AN_NO_MEMORY, "out of memory for %zu pieces", cap);
        o->pieces = grown;
        o->cap = cap;
    }
    o->pieces[o->n++] = (prompt_piece){o->text.len, len, weight};
    if (len > 0 && !an_buf_add(&o->text, text, len))
        return an_fail(p->err, AN_NO_MEMORY, "out of memory for the prompt");
    return AN_OK;
}

static bool word_before(const char *begin, const char *at)
{
    ucs4_t c;
    return at > begin && u8_prev(&c, (const uint8_t *)at, (const uint8_t *)begin) &&
           is_python_word(c);
}

static bool word_after(const char *at, const char *end)
{
    size_t n;
    return at < end && is_python_word(char_at(at, end, &n));
}

/* Plain text; each BREAK in it becomes a piece of weight -1 and takes the space around it along. */
static an_status add_text(parser *p, const char *begin, const char *end)
{
    static const char word[] = "BREAK";
    const size_t word_len = sizeof word - 1;
    const char *from = begin, *at = begin;
    an_status s = AN_OK;
    while (s == AN_OK && (at = memmem(at, (size_t)(end - at), word, word_len)) != NULL) {
        const char *after = at + word_len;
        if (word_before(begin, at) || word_after(after, end)) {
            at = after;
            continue;
        }
        s = add_piece(p, from, (size_t)(trim_spaces(from, at) - from), 1.0);
        if (s == AN_OK) s = add_piece(p, word, word_len, -1.0);
        from = at = skip_spaces(after, end);
    }
    return s == AN_OK ? add_piece(p, from, (size_t)(end - from), 1.0) : s;
}

static void weigh_from(prompt_pieces *o, size_t first, double factor)
{
    for (size_t i = first; i < o->n; i++) o->pieces[i].weight *= factor;
}

static an_status open_bracket(parser *p, bracket_stack *stack)
{
    if (stack->n == MAX_PROMPT_DEPTH)
        return an_fail(p->err, AN_INVALID,
                       "the prompt nests more than %d brackets; \\( and \\[ are the characters",
                       MAX_PROMPT_DEPTH);
    stack->open[stack->n++] = p->out->n;
    return AN_OK;
}

/* ---------------------------------------------------------------- weights */

#define MAX_NUMBER 64

/* ":1.3)" at `at`: the number's text (digits of any script as ASCII) and where the bracket ends;
 * NULL if this is no weight. *fits: the number was short enough for `number`. */
static const char *match_weight(const char *at, const char *end, char number[MAX_NUMBER],
                                bool *fits)
{
    size_t n = 0, len;
    int digits = 0;
    const char *q = skip_spaces(at + 1, end);
    *fits = true;
    if (q < end && (*q == '+' || *q == '-')) number[n++] = *q++;
    while (q < end) {
        ucs4_t c = char_at(q, end, &len);
        int value = uc_decimal_value(c);
        if (c != '.' && value < 0) break;
        if (n + 1 < MAX_NUMBER)
            number[n++] = c == '.' ? '.' : (char)('0' + value);
        else
            *fits = false;
        digits++;
        q += len;
    }
    number[n] = '\0';
    q = skip_spaces(q, end);
    return digits > 0 && q < end && *q == ')' ? q + 1 : NULL;
}

static an_status read_weight(parser *p, const char *number, bool fits, double *weight)
{
    char *rest = NULL;
    *weight = fits ? strtod(number, &rest) : 0;
    if (!fits || rest == number || *rest)
        return an_fail(p->err, AN_INVALID,
                       "the prompt's weight '%s' is not a number; (word:1.2) is the form", number);
    return AN_OK;
}

/* ---------------------------------------------------------------- the grammar */

static bool is_plain(char c)
{
    return c != '\\' && c != '(' && c != ')' && c != '[' && c != ']' && c != ':';
}

static an_status parse_colon(parser *p)
{
    const char *begin = p->text + p->at, *end = p->text + p->len;
    char number[MAX_NUMBER];
    bool fits;
    const char *after = match_weight(begin, end, number, &fits);
    if (!after) after = begin + 1;
    p->at = (size_t)(after - p->text);
    if (after == begin + 1 || p->round.n == 0) return add_text(p, begin, after);
    double weight;
    an_status s = read_weight(p, number, fits, &weight);
    if (s == AN_OK) weigh_from(p->out, p->round.open[--p->round.n], weight);
    return s;
}

static an_status parse_next(parser *p)
{
    const char *begin = p->text + p->at;
    char c = *begin;
    if (c == ':') return parse_colon(p);
    p->at++;
    if (c == '\\') {
        bool escapes = p->at < p->len && !is_plain(begin[1]) && begin[1] != ':';
        p->at += escapes;
        return add_piece(p, begin + 1, escapes, 1.0);
    }
    if (c == '(') return open_bracket(p, &p->round);
    if (c == '[') return open_bracket(p, &p->square);
    if (c == ')' && p->round.n > 0) {
        weigh_from(p->out, p->round.open[--p->round.n], ROUND);
        return AN_OK;
    }
    if (c == ']' && p->square.n > 0) {
        weigh_from(p->out, p->square.open[--p->square.n], SQUARE);
        return AN_OK;
    }
    if (is_plain(c))
        while (p->at < p->len && is_plain(p->text[p->at])) p->at++;
    return add_text(p, begin, p->text + p->at);
}

/* Neighbours of one weight become one piece: their text lies side by side already. */
static void merge_neighbours(prompt_pieces *o)
{
    size_t kept = 0;
    for (size_t i = 1; i < o->n; i++) {
        if (o->pieces[i].weight == o->pieces[kept].weight)
            o->pieces[kept].len += o->pieces[i].len;
        else
            o->pieces[++kept] = o->pieces[i];
    }
    o->n = kept + 1;
}

an_status an_prompt_parse(const char *text, size_t len, prompt_pieces *out, an_error *err)
{
    parser p = {.text = text, .len = len, .out = out, .err = err};
    memset(out, 0, sizeof *out);
    an_buf_init(&out->text, len + 16);
    an_status s = AN_OK;
    while (s == AN_OK && p.at < len) s = parse_next(&p);
    if (s != AN_OK) return s;
    for (int i = 0; i < p.round.n; i++) weigh_from(out, p.round.open[i], ROUND);
    for (int i = 0; i < p.square.n; i++) weigh_from(out, p.square.open[i], SQUARE);
    if (out->n == 0 && (s = add_piece(&p, "", 0, 1.0)) != AN_OK) return s;
    merge_neighbours(out);
    for (size_t i = 0; i < out->n; i++)
        if (!(fabs(out->pieces[i].weight) <= MAX_PROMPT_WEIGHT))
            return an_fail(err, AN_INVALID,
                           "a weight in the prompt comes to %g, at most %g is allowed",
                           out->pieces[i].weight, MAX_PROMPT_WEIGHT);
    return AN_OK;
}

void an_prompt_pieces_free(prompt_pieces *p)
{
    an_buf_free(&p->text);
    free(p->pieces);
    memset(p, 0, sizeof *p);
}

bool an_prompt_piece_is_break(const prompt_pieces *p, const prompt_piece *piece)
{
    return piece->weight == -1.0 && piece->len == 5 &&
           memcmp(p->text.data + piece->at, "BREAK", 5) == 0;
}
