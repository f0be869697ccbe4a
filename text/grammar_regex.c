/* grammar_regex.c: the regular part of ECMA's regular expressions, as rules for the characters of a
 * JSON string: what JSON escapes (quotes, backslashes, controls) is matched escaped. A pattern is
 * searched for, not matched as a whole, so what has no ^ or $ at an end may have any text there.
 * Look-around, back references, \b and \p are refused. */
#include "grammar_schema.h"

#include <stdlib.h>
#include <unistr.h>

#define MAX_GROUPS 100 /* nesting */

typedef struct regex {
    s_ctx *c;
    const char *p, *end;
    int depth;
} regex;

typedef struct ranges {
    g_range *v;
    size_t n, cap;
} ranges;

static bool fail(regex *x, const char *what)
{
    return s_fail(x->c, "pattern: %s", what);
}

static bool add(regex *x, ranges *r, uint32_t lo, uint32_t hi)
{
    if (!g_grow(&x->c->b, (void **)&r->v, &r->cap, r->n + 1, sizeof *r->v)) return false;
    r->v[r->n++] = (g_range){lo, hi};
    return true;
}

static int by_lo(const void *a, const void *b)
{
    const g_range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

static bool negate(regex *x, ranges *r)
{
    ranges out = {0};
    uint32_t from = 0;
    if (r->n) qsort(r->v, r->n, sizeof *r->v, by_lo);
    bool ok = true;
    for (size_t i = 0; i < r->n && ok; i++) {
        if (r->v[i].lo > from) ok = add(x, &out, from, r->v[i].lo - 1);
        if (r->v[i].hi + 1 > from) from = r->v[i].hi + 1;
    }
    if (ok && from <= G_MAX_CHAR) ok = add(x, &out, from, G_MAX_CHAR);
    free(r->v);
    *r = out;
    return ok;
}

static bool has(const ranges *r, uint32_t c)
{
    for (size_t i = 0; i < r->n; i++)
        if (c >= r->v[i].lo && c <= r->v[i].hi) return true;
    return false;
}

/* ---------------------------------------------------------------- characters as JSON writes them
 */

/* One character of the set: as it is, as \n, or as \u001f. Never NUL, which readers refuse. */
static bool push_set(regex *x, g_seq *out, ranges *r)
{
    static const char shorts[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    g_builder *b = &x->c->b;
    g_seq s = {0};
    ranges letters = {0}, low = {0}, high = {0}, plain = {0};
    bool ok = true;
    for (size_t i = 0; i + 1 < sizeof shorts && ok; i += 2)
        if (has(r, (unsigned char)shorts[i]))
            ok = add(x, &letters, (unsigned char)shorts[i + 1], (unsigned char)shorts[i + 1]);
    for (uint32_t c = 1; c < 0x20 && ok; c++) {
        if (!has(r, c) || c == 8 || c == 9 || c == 10 || c == 12 || c == 13) continue;
        uint32_t digit = (uint32_t)(unsigned char)"0123456789abcdef"[c & 15];
        ok = add(x, c < 16 ? &low : &high, digit, digit);
    }
    /* plain = the set without controls, quote and backslash: not (not set or those) */
    for (size_t i = 0; i < r->n && ok; i++) ok = add(x, &plain, r->v[i].lo, r->v[i].hi);
    ok = ok && negate(x, &plain) && add(x, &plain, 0, 0x1f) && add(x, &plain, '"', '"') &&
         add(x, &plain, '\\', '\\');
    int rule = gb_rule(b);
    if (ok && gs_set(b, &s, plain.v, plain.n, true)) gb_alt(b, rule, &s);
    s.n = 0;
    if (letters.n && gs_char(b, &s, '\\') && gs_set(b, &s, letters.v, letters.n, false))
        gb_alt(b, rule, &s);
    s.n = 0;
    if (low.n && gs_ascii(b, &s, "\\u000") && gs_set(b, &s, low.v, low.n, false))
        gb_alt(b, rule, &s);
    s.n = 0;
    if (high.n && gs_ascii(b, &s, "\\u001") && gs_set(b, &s, high.v, high.n, false))
        gb_alt(b, rule, &s);
    free(s.v);
    free(letters.v);
    free(low.v);
    free(high.v);
    free(plain.v);
    return b->status == AN_OK && s_push_rule(x->c, out, rule);
}

/* ---------------------------------------------------------------- escapes and classes */

static bool hex(regex *x, int digits, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < digits; i++, x->p++) {
        char c = x->p < x->end ? *x->p : ' ';
        int v = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (v < 0) return fail(x, "expected hexadecimal digits after \\x or \\u");
        *out = *out * 16 + (uint32_t)v;
    }
    return true;
}

/* \d \w \s and their opposites. */
static bool class_escape(regex *x, char c, ranges *r)
{
    ranges mine = {0};
    bool ok = true;
    switch (c | 0x20) {
    case 'd':
        ok = add(x, &mine, '0', '9');
        break;
    case 'w':
        ok = add(x, &mine, '0', '9') && add(x, &mine, 'A', 'Z') && add(x, &mine, '_', '_') &&
             add(x, &mine, 'a', 'z');
        break;
    default:
        ok = add(x, &mine, 9, 13) && add(x, &mine, ' ', ' ') && add(x, &mine, 0xa0, 0xa0) &&
             add(x, &mine, 0x1680, 0x1680) && add(x, &mine, 0x2000, 0x200a) &&
             add(x, &mine, 0x2028, 0x2029) && add(x, &mine, 0x202f, 0x202f) &&
             add(x, &mine, 0x205f, 0x205f) && add(x, &mine, 0x3000, 0x3000) &&
             add(x, &mine, 0xfeff, 0xfeff);
    }
    if (ok && c >= 'A' && c <= 'Z') ok = negate(x, &mine);
    for (size_t i = 0; i < mine.n && ok; i++) ok = add(x, r, mine.v[i].lo, mine.v[i].hi);
    free(mine.v);
    return ok;
}

/* Behind a backslash. *single: one character, in *c; else a class, added to r. */
static bool escape(regex *x, ranges *r, bool *single, uint32_t *c)
{
    static const char controls[] = "n\nt\tr\rf\fv\v";
    if (x->p >= x->end) return fail(x, "it ends with a backslash");
    char e = *x->p++;
    *single = true;
    if (strchr("dDwWsS", e)) {
        *single = false;
        return class_escape(x, e, r);
    }
    for (size_t i = 0; i + 1 < sizeof controls; i += 2)
        if (controls[i] == e) {
            *c = (unsigned char)controls[i + 1];
            return true;
        }
    if (e == 'x') return hex(x, 2, c);
    if (e == 'u' && x->p < x->end && *x->p == '{') {
        *c = 0;
        for (x->p++; x->p < x->end && *x->p != '}';) {
            uint32_t digit;
            if (!hex(x, 1, &digit)) return false;
            *c = *c * 16 + digit;
            if (*c > G_MAX_CHAR) return fail(x, "a character beyond Unicode");
        }
        if (x->p >= x->end) return fail(x, "expected '}'");
        x->p++;
        return true;
    }
    if (e == 'u') return hex(x, 4, c);
    bool letter = ((e | 0x20) >= 'a' && (e | 0x20) <= 'z') || (e >= '0' && e <= '9');
    if (letter) return fail(x, "back references, \\b, \\p and the like cannot be enforced");
    *c = (unsigned char)e;
    if ((unsigned char)e < 0x80) return true;
    ucs4_t wide;
    x->p += u8_mbtouc(&wide, (const uint8_t *)x->p - 1, (size_t)(x->end - x->p + 1)) - 1;
    *c = (uint32_t)wide;
    return true;
}

static bool character(regex *x, ranges *r, bool in_class, bool *single, uint32_t *c)
{
    if (*x->p == '\\') {
        x->p++;
        if (in_class && x->p < x->end && *x->p == 'b') { /* there it is the backspace */
            x->p++;
            *single = true;
            *c = 8;
            return true;
        }
        return escape(x, r, single, c);
    }
    ucs4_t wide;
    x->p += u8_mbtouc(&wide, (const uint8_t *)x->p, (size_t)(x->end - x->p));
    *c = (uint32_t)wide;
    *single = true;
    return true;
}

static bool class_ranges(regex *x, ranges *r)
{
    while (x->p < x->end && *x->p != ']') {
        bool single, last;
        uint32_t lo, hi;
        if (!character(x, r, true, &single, &lo)) return false;
        if (!single) continue;
        hi = lo;
        if (x->end - x->p > 1 && *x->p == '-' && x->p[1] != ']') {
            x->p++;
            if (!character(x, r, true, &last, &hi)) return false;
            if (!last || hi < lo) return fail(x, "a range in a class from high to low");
        }
        if (!add(x, r, lo, hi)) return false;
    }
    if (x->p >= x->end) return fail(x, "expected ']'");
    x->p++;
    return true;
}

static bool parse_class(regex *x, g_seq *s)
{
    ranges r = {0};
    x->p++;
    bool negated = x->p < x->end && *x->p == '^';
    if (negated) x->p++;
    bool ok = class_ranges(x, &r) && (!negated || negate(x, &r)) && push_set(x, s, &r);
    free(r.v);
    return ok;
}

/* ---------------------------------------------------------------- terms */

static bool alternatives(regex *x, int rule, bool top);

static bool parse_group(regex *x, g_seq *s)
{
    int rule = gb_rule(&x->c->b);
    x->p++;
    if (x->end - x->p > 1 && *x->p == '?') {
        if (x->p[1] == ':') {
            x->p += 2;
        } else if (x->p[1] == '<' && x->end - x->p > 2 && x->p[2] != '=' && x->p[2] != '!') {
            while (x->p < x->end && *x->p != '>') x->p++;
            if (x->p < x->end) x->p++;
        } else {
            return fail(x, "look-ahead and look-behind cannot be enforced");
        }
    }
    if (x->depth >= MAX_GROUPS)
        return gb_fail(&x->c->b, AN_TOO_LARGE, "schema, at #%s: groups nested deeper than %d",
                       x->c->path, MAX_GROUPS);
    x->depth++;
    if (!alternatives(x, rule, false)) return false;
    x->depth--;
    if (x->p >= x->end) return fail(x, "expected ')'");
    x->p++;
    return s_push_rule(x->c, s, rule);
}

static bool parse_atom(regex *x, g_seq *s)
{
    ranges r = {0};
    bool single = true, ok;
    uint32_t c = 0;
    if (*x->p == '(') return parse_group(x, s);
    if (*x->p == '[') return parse_class(x, s);
    if (strchr("*+?{}", *x->p) && *x->p)
        return fail(x, "nothing to repeat (a brace alone is written \\{)");
    if (*x->p == '^' || *x->p == '$') return fail(x, "^ and $ can be enforced at its ends only");
    if (*x->p == '.') { /* anything but line ends */
        x->p++;
        single = false;
        ok = add(x, &r, '\n', '\n') && add(x, &r, '\r', '\r') && add(x, &r, 0x2028, 0x2029) &&
             negate(x, &r);
    } else {
        ok = character(x, &r, false, &single, &c);
    }
    ok = ok && (!single || add(x, &r, c, c)) && push_set(x, s, &r);
    free(r.v);
    return ok;
}

static bool parse_number(regex *x, long *out)
{
    const char *from = x->p;
    *out = 0;
    for (; x->p < x->end && *x->p >= '0' && *x->p <= '9'; x->p++)
        if (*out < 100000000) *out = *out * 10 + (*x->p - '0');
    return x->p > from || fail(x, "expected a number in {m,n}");
}

static bool parse_quantifier(regex *x, g_seq *s, size_t from)
{
    long min = 0, max = -1;
    char c = x->p < x->end ? *x->p : '\0';
    if (c != '*' && c != '+' && c != '?' && c != '{') return true;
    x->p++;
    if (c == '+') min = 1;
    if (c == '?') max = 1;
    if (c == '{') {
        if (!parse_number(x, &min)) return false;
        max = min;
        if (x->p < x->end && *x->p == ',') {
            x->p++;
            max = -1;
            if (x->p < x->end && *x->p != '}' && !parse_number(x, &max)) return false;
        }
        if (x->p >= x->end || *x->p != '}') return fail(x, "expected '}'");
        x->p++;
        if (max >= 0 && max < min) return fail(x, "{m,n} with m above n");
    }
    if (x->p < x->end && *x->p == '?') x->p++; /* lazy: the same texts */
    return gs_repeat(&x->c->b, s, from, min, max);
}

/* Any text: before a pattern without ^, after one without $. */
static bool push_any(regex *x, g_seq *s)
{
    size_t from = s->n;
    return s_push_leaf(x->c, s, S_CHAR) && gs_repeat(&x->c->b, s, from, 0, -1);
}

static bool sequence(regex *x, int rule, bool top)
{
    g_seq s = {0};
    bool ok = true, closed = false;
    if (top && x->p < x->end && *x->p == '^')
        x->p++;
    else if (top)
        ok = push_any(x, &s);
    while (ok && x->p < x->end && *x->p != '|' && *x->p != ')') {
        size_t from = s.n;
        if (top && *x->p == '$' && (x->p + 1 == x->end || x->p[1] == '|')) {
            x->p++;
            closed = true;
            break;
        }
        ok = parse_atom(x, &s) && parse_quantifier(x, &s, from);
    }
    if (ok && top && !closed) ok = push_any(x, &s);
    ok = ok && gb_alt(&x->c->b, rule, &s);
    free(s.v);
    return ok;
}

static bool alternatives(regex *x, int rule, bool top)
{
    for (;;) {
        if (!sequence(x, rule, top)) return false;
        if (x->p >= x->end || *x->p != '|') break;
        x->p++;
    }
    return !top || x->p >= x->end || fail(x, "a ')' too many");
}

int s_regex(s_ctx *c, const char *pattern, size_t len)
{
    regex x = {.c = c, .p = pattern, .end = pattern + len};
    int rule = gb_rule(&c->b);
    return rule >= 0 && alternatives(&x, rule, true) ? rule : -1;
}

/* ---------------------------------------------------------------- formats */

#define DATE                                                                                       \
    "\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|"             \
    "02-(0[1-9]|1\\d|2[0-8]))"
#define TIME  "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define BYTE  "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

const char *s_format(const char *name)
{
    static const struct {
        const char *name, *pattern;
    } formats[] = {
        {"date", "^" DATE "$"},
        {"time", "^" TIME "$"},
        {"date-time", "^" DATE "T" TIME "$"},
        {"duration", "^P(\\d{1,9}W|\\d{1,9}D(T\\d{1,9}H)?|T\\d{1,9}(H(\\d{1,9}M)?|M|S))$"},
        {"uuid", "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"},
        {"ipv4", "^" BYTE "(\\." BYTE "){3}$"},
        {"ipv6", "^[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4}){7}$"},
        {"hostname", "^" LABEL "(\\." LABEL "){0,8}$"},
        {"email", "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,32}){0,3}@" LABEL "(\\." LABEL
                  "){0,3}\\.[A-Za-z]{2,24}$"},
        {"uri",
         "^[a-z][a-z0-9+.-]{1,19}://" LABEL "(\\." LABEL
         "){0,8}(:[1-9]\\d{0,3})?(/[A-Za-z0-9._~!$&'()*+,;=:@-]{0,64}){0,16}"
         "(\\?[A-Za-z0-9._~!$&'()*+,;=:@/?-]{0,256})?(#[A-Za-z0-9._~!$&'()*+,;=:@/?-]{0,64})?$"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(name, formats[i].name) == 0) return formats[i].pattern;
    return NULL;
}
