/* vocab_regex.c: patterns written for Oniguruma (Ruby's syntax, as the tokenizers package compiles
 * them) run by PCRE2. Where the two read one spelling differently the pattern is rewritten:
 *
 *   \s \S      PCRE2 counts U+180E as white space, Unicode no longer does
 *   \w \W      PCRE2 10.42 leaves out marks and connectors
 *   \h \uXXXX  hexadecimal digit, code point
 *   [:punct:]  symbols of all scripts as well
 *   ^ $        always of a line
 *   {2,3}+     a repeated repetition, not a possessive one
 *   [a&&[^b]]  an intersection of classes
 *   [a[bc]]    a class inside a class: a union
 *
 * Backtracking is bounded by limits that grow with the text: a pattern that runs away ends as
 * AN_INVALID, never as a hang or a full stack. */
#include "lm_vocab.h"

#include <stdlib.h>

#define MAX_PATTERN ((size_t)64 << 10)
#define MAX_NESTING 32

#define SPACES                                                                                     \
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"                 \
    "\\x{202f}\\x{205f}\\x{3000}"
/* Alphabetic (letters, letter numbers, marks, the circled letters), digits, connectors. */
#define WORD                                                                                       \
    "\\p{L}\\p{Nl}\\p{M}\\p{Nd}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"                    \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
/* Six numerals that Oniguruma takes for letters of a word, though not inside a class. */
#define LATIN1 "\\xb2\\xb3\\xb9\\xbc-\\xbe"

/* ---------------------------------------------------------------- rewriting */

typedef struct rewriter {
    const char *p, *end;
    an_buf out;
    size_t atom;               /* where in out the last atom begins, for X{2,3}+ */
    size_t group[MAX_NESTING]; /* where each open group begins */
    int depth;
    an_error *err;
} rewriter;

static an_status rewrite_class(rewriter *r, int depth);

/* \s and its like outside and inside a class. Returns NULL for what both read alike. */
static const char *escape_rewritten(char c, bool in_class)
{
    switch (c) {
    case 's':
        return in_class ? SPACES : "[" SPACES "]";
    case 'S':
        return in_class ? "\\S\\x{180e}" : "[^" SPACES "]";
    case 'w':
        return in_class ? WORD : "[" WORD LATIN1 "]";
    case 'W':
        return in_class ? NULL : "[^" WORD LATIN1 "]";
    case 'h':
        return in_class ? "0-9a-fA-F" : "[0-9a-fA-F]";
    case 'H':
        return in_class ? NULL : "[^0-9a-fA-F]";
    default:
        return NULL;
    }
}

/* At a backslash: copies the escape, rewritten. */
static an_status rewrite_escape(rewriter *r, bool in_class)
{
    size_t left = (size_t)(r->end - r->p);
    if (left < 2) return an_fail(r->err, AN_INVALID, "the pattern ends with a backslash");
    char c = r->p[1];
    const char *other = escape_rewritten(c, in_class);
    if (in_class && (c == 'W' || c == 'H'))
        return an_fail(r->err, AN_INVALID, "\\%c inside a class is not read", c);
    if (other) {
        an_buf_str(&r->out, other);
        r->p += 2;
    } else if (c == 'u' && left >= 6) {
        an_buf_printf(&r->out, "\\x{%.4s}", r->p + 2);
        r->p += 6;
    } else if ((c == 'p' || c == 'P') && left >= 3 && r->p[2] == '{') {
        const char *close = memchr(r->p, '}', left);
        if (!close) return an_fail(r->err, AN_INVALID, "a property without its closing brace");
        an_buf_add(&r->out, r->p, (size_t)(close + 1 - r->p));
        r->p = close + 1;
    } else {
        size_t n = 1 + an_lm_char_len(c);
        if (n > left) n = left;
        an_buf_add(&r->out, r->p, n);
        r->p += n;
    }
    return AN_OK;
}

/* [a&&[^b]]: what comes after && becomes a look at the same character, put before the class. */
static an_status rewrite_intersection(rewriter *r, size_t open, int depth)
{
    an_buf first = r->out;
    an_status s = AN_OK;
    if (r->out.failed) return AN_OK;
    an_buf_init(&r->out, MAX_PATTERN * 8);
    an_buf_str(&r->out, "(?:(?=");
    r->p += 2;
    bool closed = false;
    if (r->p < r->end && *r->p == '[') {
        r->p++;
        s = rewrite_class(r, depth + 1);
    } else { /* the rest of this class */
        s = rewrite_class(r, depth + 1);
        closed = true;
    }
    if (s == AN_OK && !closed) {
        if (r->p < r->end && *r->p == ']')
            r->p++;
        else
            s = an_fail(r->err, AN_INVALID, "more than one intersection in a class is not read");
    }
    an_buf_str(&r->out, ")");
    an_buf_add(&r->out, first.data + open, first.len - open);
    an_buf_str(&r->out, "])");
    an_buf second = r->out;
    r->out = first;
    r->out.len = open;
    an_buf_add(&r->out, second.data, second.len);
    r->out.failed = r->out.failed || second.failed;
    an_buf_free(&second);
    return s;
}

/* After an opening bracket: the class to its end, brackets written as well. */
static an_status rewrite_class(rewriter *r, int depth)
{
    size_t open = r->out.len;
    an_status s = AN_OK;
    if (depth > 4) return an_fail(r->err, AN_INVALID, "classes nested too deep");
    an_buf_str(&r->out, "[");
    bool negated = r->p < r->end && *r->p == '^';
    if (negated) {
        an_buf_str(&r->out, "^");
        r->p++;
    }
    const char *first = r->p;
    while (r->p < r->end && s == AN_OK) {
        size_t left = (size_t)(r->end - r->p);
        if (*r->p == ']' && r->p != first) {
            an_buf_str(&r->out, "]");
            r->p++;
            return AN_OK;
        }
        if (*r->p == '\\') {
            s = rewrite_escape(r, true);
        } else if (left >= 2 && r->p[0] == '&' && r->p[1] == '&') {
            if (negated) return an_fail(r->err, AN_INVALID, "a negated intersection is not read");
            return rewrite_intersection(r, open, depth);
        } else if (left >= 2 && r->p[0] == '[' && r->p[1] == ':') {
            const char *close = memmem(r->p, left, ":]", 2);
            if (!close) return an_fail(r->err, AN_INVALID, "[: without :]");
            static const char punct[] = "[:punct:]";
            if (left >= sizeof punct - 1 && memcmp(r->p, punct, sizeof punct - 1) == 0)
                an_buf_str(&r->out, "\\p{P}\\p{S}");
            else
                an_buf_add(&r->out, r->p, (size_t)(close + 2 - r->p));
            r->p = close + 2;
        } else if (*r->p == '[') {
            if (negated || left < 2 || r->p[1] == '^')
                return an_fail(r->err, AN_INVALID, "a negated class inside a class is not read");
            /* a union: its members join this class */
            size_t at = r->out.len;
            r->p++;
            s = rewrite_class(r, depth + 1);
            if (s == AN_OK && !r->out.failed && r->out.len >= at + 2 && r->out.data[at] == '[') {
                memmove(r->out.data + at, r->out.data + at + 1, r->out.len - at - 2);
                r->out.len -= 2;
            } else if (s == AN_OK) {
                s = an_fail(r->err, AN_INVALID, "a class inside a class is not read");
            }
        } else {
            an_buf_add(&r->out, r->p++, 1);
        }
    }
    return s != AN_OK ? s : an_fail(r->err, AN_INVALID, "a class without its closing bracket");
}

/* {n,m} and the + that may follow it; anything else that starts with a brace is a brace. */
static void rewrite_braces(rewriter *r)
{
    const char *close = r->p + 1;
    while (close < r->end && ((*close >= '0' && *close <= '9') || *close == ',')) close++;
    bool interval = close < r->end && *close == '}' && close > r->p + 1;
    if (!interval) {
        an_buf_add(&r->out, r->p++, 1);
        return;
    }
    close++;
    bool again = close < r->end && *close == '+' && r->out.len > r->atom && !r->out.failed;
    if (again) {
        an_buf atom;
        size_t n = r->out.len - r->atom;
        an_buf_init(&atom, n + 1);
        an_buf_add(&atom, r->out.data + r->atom, n);
        r->out.len = r->atom;
        an_buf_str(&r->out, "(?:");
        an_buf_add(&r->out, atom.data ? atom.data : "", atom.len);
        an_buf_free(&atom);
    }
    an_buf_add(&r->out, r->p, (size_t)(close - r->p));
    if (again) an_buf_str(&r->out, ")+");
    r->p = close + again;
}

static an_status rewrite(rewriter *r)
{
    an_status s = AN_OK;
    while (r->p < r->end && s == AN_OK) {
        char c = *r->p;
        if (!strchr("{+*?|", c) || c == '\0') r->atom = r->out.len;
        if (c == '\\') {
            s = rewrite_escape(r, false);
        } else if (c == '[') {
            r->p++;
            s = rewrite_class(r, 0);
        } else if (c == '^' || c == '$') {
            an_buf_printf(&r->out, "(?m:%c)", c);
            r->p++;
        } else if (c == '{') {
            rewrite_braces(r);
        } else {
            if (c == '(') {
                if (r->depth >= MAX_NESTING)
                    return an_fail(r->err, AN_INVALID, "groups nested deeper than %d", MAX_NESTING);
                r->group[r->depth++] = r->out.len;
            } else if (c == ')' && r->depth > 0) {
                r->atom = r->group[--r->depth];
            }
            size_t n = an_lm_char_len(c), left = (size_t)(r->end - r->p);
            an_buf_add(&r->out, r->p, n < left ? n : left);
            r->p += n < left ? n : left;
        }
    }
    return s;
}

an_status an_lm_regex(const char *pattern, size_t len, pcre2_code **out, an_error *err)
{
    *out = NULL;
    int shown = (int)(len < 80 ? len : 80);
    if (len > MAX_PATTERN)
        return an_fail(err, AN_INVALID, "a pattern of %zu bytes, at most %zu are possible", len,
                       MAX_PATTERN);
    rewriter r = {.p = pattern, .end = pattern + len, .err = err};
    an_buf_init(&r.out, MAX_PATTERN * 8);
    an_status s = rewrite(&r);
    int code = 0;
    size_t at = 0;
    pcre2_compile_context *c = pcre2_compile_context_create(NULL);
    if (s == AN_OK && (r.out.failed || !c))
        s = an_fail(err, AN_NO_MEMORY, "out of memory for a pattern");
    if (s == AN_OK) {
        pcre2_set_newline(c, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(c, 100);
        *out = pcre2_compile((PCRE2_SPTR)(r.out.data ? r.out.data : ""), r.out.len,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, c);
        if (!*out) {
            PCRE2_UCHAR why[128] = "";
            pcre2_get_error_message(code, why, sizeof why);
            s = an_fail(err, AN_INVALID, "PCRE2: %s", (const char *)why);
        }
    }
    pcre2_compile_context_free(c);
    an_buf_free(&r.out);
    if (s != AN_OK) return an_fail_prefix(err, s, "pattern '%.*s'", shown, pattern);
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* where it is allowed; else interpreted */
    return AN_OK;
}

/* ---------------------------------------------------------------- matching */

an_status an_lm_matcher_open(lm_matcher *m, size_t text_len, an_error *err)
{
    m->data = pcre2_match_data_create(1, NULL);
    m->context = pcre2_match_context_create(NULL);
    if (!m->data || !m->context) {
        an_lm_matcher_close(m);
        return an_fail(err, AN_NO_MEMORY, "out of memory for a text");
    }
    size_t limit = (size_t)1000000 + 16 * (text_len < LM_MAX_TEXT ? text_len : LM_MAX_TEXT);
    pcre2_set_match_limit(m->context, (uint32_t)limit);
    pcre2_set_depth_limit(m->context, (uint32_t)limit);
    pcre2_set_heap_limit(m->context, 256 << 10); /* KiB */
    return AN_OK;
}

void an_lm_matcher_close(lm_matcher *m)
{
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    m->data = NULL;
    m->context = NULL;
}

int an_lm_regex_next(lm_matcher *m, const pcre2_code *re, const char *text, size_t len,
                     size_t *from, size_t *last_end, size_t *start, size_t *end, an_error *err)
{
    while (*from <= len) {
        int n =
            pcre2_match(re, (PCRE2_SPTR)text, len, *from, PCRE2_NO_UTF_CHECK, m->data, m->context);
        if (n == PCRE2_ERROR_JIT_STACKLIMIT) /* compiled code has a small stack: interpret */
            n = pcre2_match(re, (PCRE2_SPTR)text, len, *from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            m->data, m->context);
        if (n == PCRE2_ERROR_NOMATCH) return 0;
        if (n < 0) {
            PCRE2_UCHAR why[128] = "";
            pcre2_get_error_message(n, why, sizeof why);
            an_fail(err, n == PCRE2_ERROR_NOMEMORY ? AN_NO_MEMORY : AN_INVALID,
                    "the tokenizer's pattern gave up %zu bytes into a text of %zu: %s", *from, len,
                    (const char *)why);
            return -1;
        }
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(m->data);
        size_t a = o[0] > o[1] ? o[1] : o[0], b = o[1]; /* \K may turn them round */
        if (a < *from) a = *from;
        if (b < a) b = a;
        if (a == b && b == *last_end) { /* empty, right behind the last one */
            if (*from >= len) return 0;
            *from += an_lm_char_len(text[*from]);
            continue;
        }
        *start = a;
        *end = *from = *last_end = b;
        return 1;
    }
    return 0;
}
