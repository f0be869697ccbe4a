/* template_lex.c: a template's source to tokens, with Jinja's white-space rules as transformers
 * sets them: trim_blocks (the line end after a block or comment goes), lstrip_blocks (so does the
 * indentation before one that starts a line), `-` strips all white space, `+` keeps it. */
#include "python_text.h"
#include "template_impl.h"

#include <stdio.h>
#include <unictype.h>

typedef struct lexer {
    tm_run *r;
    const char *p, *end;
    bool line_start; /* the last thing matched ended with a line end, or nothing came yet */
    tm_token *tokens;
    size_t n, cap;
    char brackets[128]; /* open ones in the current tag */
    int n_brackets;
} lexer;

static bool push(lexer *l, tm_tok_kind kind, const char *p, size_t n)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        tm_token *grown = tm_alloc_array(l->r, cap, sizeof *grown);
        if (!grown) return false;
        if (l->n) memcpy(grown, l->tokens, l->n * sizeof *grown);
        l->tokens = grown;
        l->cap = cap;
    }
    l->tokens[l->n++] = (tm_token){kind, l->r->line, p, n};
    return true;
}

static bool starts(const lexer *l, const char *s)
{
    size_t n = strlen(s);
    return (size_t)(l->end - l->p) >= n && memcmp(l->p, s, n) == 0;
}

static void move(lexer *l, const char *to)
{
    for (; l->p < to; l->p++)
        if (*l->p == '\n') l->r->line++;
}

static const char *after_space(const char *p, const char *end)
{
    while (p < end) {
        size_t len;
        if (!is_python_space(tm_char_at(p, end, &len))) break;
        p += len;
    }
    return p;
}

/* The end of `-%}`, `+%}` or `%}` at p with what its strip sign or trim_blocks takes along, or
 * NULL. */
static const char *tag_end(const char *p, const char *end, const char *close, bool trim)
{
    char sign = p < end && (*p == '-' || *p == '+') ? *p : '\0';
    if (sign == '+' && close[0] == '}') return NULL; /* `+}}` is not an end */
    if (sign) p++;
    if (end - p < 2 || memcmp(p, close, 2) != 0) return NULL;
    p += 2;
    if (sign == '-') return after_space(p, end);
    if (trim && !sign && p < end && *p == '\n') p++;
    return p;
}

/* Text before a tag whose strip sign is `sign`; is_print: a {{. */
static bool push_text(lexer *l, const char *from, const char *to, char sign, bool is_print)
{
    const char *cut = to;
    if (sign == '-') {
        tm_val s = tm_str(from, (size_t)(to - from)), t = tm_strip(&s, NULL, false, true);
        cut = t.s.p + t.s.n;
    } else if (sign != '+' && !is_print) {
        const char *line = to;
        while (line > from && line[-1] != '\n') line--;
        if ((line > from || l->line_start) && after_space(line, to) == to) cut = line;
    }
    bool ok = cut == from || push(l, T_TEXT, from, (size_t)(cut - from));
    move(l, to);
    return ok;
}

/* ---------------------------------------------------------------- raw and comments */

/* If `{%`, at p, opens WORD (raw, endraw): what lies behind its end. begin: no trim_blocks. */
static const char *raw_tag(const char *p, const char *end, const char *word, bool trim)
{
    p += 2;
    if (p < end && (*p == '-' || *p == '+')) p++;
    p = after_space(p, end);
    size_t n = strlen(word);
    if ((size_t)(end - p) < n || memcmp(p, word, n) != 0) return NULL;
    p = after_space(p + n, end);
    if (!trim && p < end && *p == '+') return NULL;
    return tag_end(p, end, "%}", trim);
}

static char sign_at(const char *p, const char *end)
{
    return p < end && (*p == '-' || *p == '+') ? *p : '\0';
}

static bool lex_raw(lexer *l, const char *body)
{
    move(l, body);
    l->line_start = body[-1] == '\n';
    for (const char *p = body; (p = memmem(p, (size_t)(l->end - p), "{%", 2)) != NULL; p += 2) {
        const char *after = raw_tag(p, l->end, "endraw", true);
        if (!after) continue;
        if (!push_text(l, body, p, sign_at(p + 2, l->end), false)) return false;
        move(l, after);
        l->line_start = after[-1] == '\n';
        return true;
    }
    return tm_fail(l->r, "{%% raw %%} without its {%% endraw %%}");
}

static bool lex_comment(lexer *l)
{
    const char *p = l->p + (sign_at(l->p + 2, l->end) ? 3 : 2);
    for (; p < l->end; p++) {
        const char *after = tag_end(p, l->end, "#}", true);
        if (!after) continue;
        move(l, after);
        l->line_start = after[-1] == '\n';
        return true;
    }
    return tm_fail(l->r, "a comment without its end, #}");
}

/* ---------------------------------------------------------------- inside tags */

static int digit_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
}

/* Python's escapes; an unknown one stays as it is written. */
static bool unescape(lexer *l, tm_sb *b, const char *p, const char *end)
{
    static const char names[] = "n\nt\tr\r\\\\''\"\"a\ab\bf\fv\v";
    while (p < end) {
        const char *q = memchr(p, '\\', (size_t)(end - p));
        if (!q) q = end;
        if (!tm_sb_add(l->r, b, p, (size_t)(q - p))) return false;
        if (q == end) return true;
        char c = q[1];
        p = q + 2;
        const char *known = NULL;
        for (size_t i = 0; i + 1 < sizeof names; i += 2)
            if (names[i] == c) known = names + i + 1;
        size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : c >= '0' && c <= '7' ? 3 : 0;
        int base = c >= '0' && c <= '7' ? 8 : 16;
        if (base == 8) p--;
        if (known) {
            if (!tm_sb_add(l->r, b, known, 1)) return false;
        } else if (digits) {
            uint32_t v = 0;
            size_t n = 0;
            for (; n < digits && p < end && digit_value(*p) < base; n++, p++)
                v = v * (uint32_t)base + (uint32_t)digit_value(*p);
            if (base == 16 && n < digits) return tm_fail(l->r, "truncated \\%c escape", c);
            if (v > 0x10ffff) return tm_fail(l->r, "an escape beyond Unicode");
            if (!tm_sb_char(l->r, b, v)) return false;
        } else if (c != '\n') { /* a line end after a backslash is nothing */
            if (!tm_sb_add(l->r, b, q, (size_t)(p - q))) return false;
        }
    }
    return true;
}

static bool lex_string(lexer *l)
{
    char quote = *l->p;
    const char *from = l->p + 1, *p = from;
    while (p < l->end && *p != quote) p += *p == '\\' ? 2 : 1;
    if (p >= l->end) return tm_fail(l->r, "a string without its end, %c", quote);
    tm_sb b = {0};
    tm_val v = tm_str(from, (size_t)(p - from));
    if (memchr(from, '\\', v.s.n)) {
        if (!unescape(l, &b, from, p)) return false;
        v = tm_sb_done(l->r, &b);
    }
    if (!push(l, T_STRING, v.s.p, v.s.n)) return false;
    move(l, p + 1);
    return true;
}

static const char *digits_end(const char *p, const char *end, int base)
{
    while (p < end &&
           (digit_value(*p) < base || (*p == '_' && p + 1 < end && digit_value(p[1]) < base)))
        p++;
    return p;
}

static bool lex_number(lexer *l)
{
    const char *p = l->p;
    char x = l->end - p > 2 && *p == '0' ? (char)(p[1] | 0x20) : '\0';
    int base = x == 'x' ? 16 : x == 'o' ? 8 : x == 'b' ? 2 : 10;
    bool is_float = false, after_dot = l->n && l->tokens[l->n - 1].kind == T_DOT;
    if (base != 10) {
        p = digits_end(p + 2, l->end, base);
    } else {
        p = digits_end(p, l->end, 10);
        if (!after_dot && l->end - p > 1 && *p == '.' && digit_value(p[1]) < 10) {
            is_float = true;
            p = digits_end(p + 1, l->end, 10);
        }
        const char *e = p;
        if (!after_dot && e < l->end && (*e == 'e' || *e == 'E')) {
            e++;
            if (e < l->end && (*e == '+' || *e == '-')) e++;
            if (e < l->end && digit_value(*e) < 10) {
                is_float = true;
                p = digits_end(e, l->end, 10);
            }
        }
    }
    bool ok = push(l, is_float ? T_FLOAT : T_INT, l->p, (size_t)(p - l->p));
    l->p = p;
    return ok;
}

static bool name_char(uint32_t c, bool first)
{
    if (c < 0x80)
        return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               (!first && c >= '0' && c <= '9');
    return first ? uc_is_property_xid_start((ucs4_t)c) : uc_is_property_xid_continue((ucs4_t)c);
}

static bool lex_operator(lexer *l)
{
    static const struct {
        const char *text;
        tm_tok_kind kind;
    } ops[] = {{"//", T_FLOORDIV}, {"**", T_POW},     {"==", T_EQ},    {"!=", T_NE},
               {">=", T_GE},       {"<=", T_LE},      {"+", T_ADD},    {"-", T_SUB},
               {"*", T_MUL},       {"/", T_DIV},      {"%", T_MOD},    {"~", T_TILDE},
               {"[", T_LBRACKET},  {"]", T_RBRACKET}, {"(", T_LPAREN}, {")", T_RPAREN},
               {"{", T_LBRACE},    {"}", T_RBRACE},   {">", T_GT},     {"<", T_LT},
               {"=", T_ASSIGN},    {".", T_DOT},      {":", T_COLON},  {"|", T_PIPE},
               {",", T_COMMA},     {";", T_SEMICOLON}};
    size_t i = 0;
    while (i < sizeof ops / sizeof *ops && !starts(l, ops[i].text)) i++;
    if (i == sizeof ops / sizeof *ops) {
        size_t n = tm_char_len((unsigned char)*l->p);
        return tm_fail(l->r, "unexpected character '%.*s'", (int)n, l->p);
    }
    char c = *l->p;
    if (c == '(' || c == '[' || c == '{') {
        if (l->n_brackets == (int)sizeof l->brackets)
            return tm_too_large(l->r, "more than %d open brackets", l->n_brackets);
        l->brackets[l->n_brackets++] = c;
    } else if (c == ')' || c == ']' || c == '}') {
        char open = c == ')' ? '(' : c == ']' ? '[' : '{';
        if (l->n_brackets == 0 || l->brackets[--l->n_brackets] != open)
            return tm_fail(l->r, "unexpected '%c'", c);
    }
    if (!push(l, ops[i].kind, l->p, strlen(ops[i].text))) return false;
    l->p += strlen(ops[i].text);
    return true;
}

/* From behind `{{` or `{%` to behind its end. */
static bool lex_tag(lexer *l, const char *close, tm_tok_kind end_kind)
{
    l->n_brackets = 0;
    while (l->p < l->end) {
        const char *after = NULL;
        if (l->n_brackets == 0) after = tag_end(l->p, l->end, close, end_kind == T_BLOCK_END);
        if (after) {
            if (!push(l, end_kind, l->p, 2)) return false;
            move(l, after);
            l->line_start = after[-1] == '\n';
            return true;
        }
        size_t len;
        uint32_t c = tm_char_at(l->p, l->end, &len);
        bool ok = true;
        if (is_python_space(c)) {
            move(l, after_space(l->p, l->end));
        } else if (c >= '0' && c <= '9') {
            ok = lex_number(l);
        } else if (c == '\'' || c == '"') {
            ok = lex_string(l);
        } else if (name_char(c, true)) {
            const char *p = l->p + len;
            while (p < l->end && name_char(tm_char_at(p, l->end, &len), false)) p += len;
            ok = push(l, T_NAME, l->p, (size_t)(p - l->p));
            l->p = p;
        } else {
            ok = lex_operator(l);
        }
        if (!ok) return false;
    }
    return tm_fail(l->r, "the template ends inside a tag, expected %s", close);
}

/* ---------------------------------------------------------------- the whole */

static bool lex_next(lexer *l)
{
    const char *from = l->p, *p = from;
    while ((p = memchr(p, '{', (size_t)(l->end - p))) != NULL) {
        if (p + 1 < l->end && (p[1] == '{' || p[1] == '%' || p[1] == '#')) break;
        p++;
    }
    if (!p) return push_text(l, from, l->end, '+', false);
    char sign = sign_at(p + 2, l->end);
    if (!push_text(l, from, p, sign, p[1] == '{')) return false;
    if (p[1] == '#') return lex_comment(l);
    const char *raw = p[1] == '%' ? raw_tag(p, l->end, "raw", false) : NULL;
    if (raw) return lex_raw(l, raw);
    bool print = p[1] == '{';
    l->p = p + (sign ? 3 : 2);
    return push(l, print ? T_PRINT_BEGIN : T_BLOCK_BEGIN, p, 2) &&
           lex_tag(l, print ? "}}" : "%}", print ? T_PRINT_END : T_BLOCK_END);
}

bool tm_lex(tm_run *r, const char *src, size_t len, tm_token **out)
{
    lexer l = {.r = r, .p = src, .end = src + len, .line_start = true};
    while (l.p < l.end)
        if (!lex_next(&l)) return false;
    if (!push(&l, T_EOF, l.end, 0)) return false;
    *out = l.tokens;
    return true;
}
