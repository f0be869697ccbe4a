/* grammar_number.c: numbers between bounds, as rules on their digits. Integers take any bounds;
 * numbers with a fraction take whole ones. */
#include "grammar_schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define NO_BOUND 9999999999999999 /* 16 digits: what a number without a bound may reach */

/* ---------------------------------------------------------------- digits */

static bool push_digit(s_ctx *c, g_seq *s, char lo, char hi)
{
    return gs_set(&c->b, s, &(g_range){(unsigned char)lo, (unsigned char)hi}, 1, false);
}

static bool push_digits(s_ctx *c, g_seq *s, size_t n)
{
    size_t from = s->n;
    if (n == 0) return true;
    return push_digit(c, s, '0', '9') && gs_repeat(&c->b, s, from, (long)n, (long)n);
}

/* Digit strings of d's length that are not below d (up) or not above it. */
static int bounded(s_ctx *c, const char *d, bool up)
{
    int rule = gb_rule(&c->b);
    g_seq s = {0};
    bool ok = true;
    if (!*d) {
        ok = gb_alt(&c->b, rule, &s);
    } else {
        char lo = up ? (char)(*d + 1) : '0', hi = up ? '9' : (char)(*d - 1);
        if (lo <= hi)
            ok = push_digit(c, &s, lo, hi) && push_digits(c, &s, strlen(d + 1)) &&
                 gb_alt(&c->b, rule, &s);
        s.n = 0;
        ok = ok && push_digit(c, &s, *d, *d) && s_push_rule(c, &s, bounded(c, d + 1, up)) &&
             gb_alt(&c->b, rule, &s);
    }
    free(s.v);
    return ok ? rule : -1;
}

/* Adds the digit strings from lo to hi, of the same length, to a rule. */
static bool same_length(s_ctx *c, int rule, const char *lo, const char *hi)
{
    g_builder *b = &c->b;
    g_seq s = {0};
    size_t i = 0;
    while (lo[i] && lo[i] == hi[i]) i++;
    bool ok = gs_text(b, &s, lo, i);
    if (!lo[i]) {
        ok = ok && gb_alt(b, rule, &s);
    } else {
        size_t head = s.n, rest = strlen(lo + i + 1);
        if (lo[i] + 1 <= hi[i] - 1)
            ok = ok && push_digit(c, &s, (char)(lo[i] + 1), (char)(hi[i] - 1)) &&
                 push_digits(c, &s, rest) && gb_alt(b, rule, &s);
        s.n = head;
        ok = ok && push_digit(c, &s, lo[i], lo[i]) &&
             s_push_rule(c, &s, bounded(c, lo + i + 1, true)) && gb_alt(b, rule, &s);
        s.n = head;
        ok = ok && push_digit(c, &s, hi[i], hi[i]) &&
             s_push_rule(c, &s, bounded(c, hi + i + 1, false)) && gb_alt(b, rule, &s);
    }
    free(s.v);
    return ok;
}

/* Whole numbers from lo to hi, 0 <= lo <= hi, as a rule. */
static int magnitudes(s_ctx *c, uint64_t lo, uint64_t hi)
{
    int rule = gb_rule(&c->b);
    uint64_t first = 0, last = 9; /* of the numbers of one length */
    for (;;) {
        uint64_t from = lo > first ? lo : first, to = hi < last ? hi : last;
        char a[24], z[24];
        snprintf(a, sizeof a, "%llu", (unsigned long long)from);
        snprintf(z, sizeof z, "%llu", (unsigned long long)to);
        if (from <= to && !same_length(c, rule, a, z)) return -1;
        if (last >= hi) return rule;
        first = last + 1;
        last = last > UINT64_MAX / 10 - 1 ? UINT64_MAX : last * 10 + 9;
    }
}

/* ---------------------------------------------------------------- bounds */

typedef struct bounds {
    int64_t lo, hi;
    bool open_lo, open_hi; /* the bound itself is not allowed (fractions only) */
    bool any;              /* there is a bound */
} bounds;

static bool whole(double d, int64_t *out)
{
    if (!(fabs(d) < 9.2e18)) return false;
    *out = (int64_t)d;
    return true;
}

/* One bound; up: it is a lower one. open: excludes the bound. */
static bool apply(s_ctx *c, const json_t *v, const char *key, bool integer, bool up, bool open,
                  bounds *b)
{
    int64_t at;
    if (!v) return true;
    if (!json_is_number(v)) return s_fail(c, "'%s' must be a number", key);
    double d = json_number_value(v), r = up ? ceil(d) : floor(d);
    if (json_is_integer(v))
        at = json_integer_value(v);
    else if (!whole(r, &at))
        return s_fail(c, "'%s' is beyond 64 bits", key);
    bool fraction = json_is_real(v) && r != d;
    if (fraction && !integer)
        return s_fail(c, "'%s' of a number can be enforced for whole bounds only, not %g", key, d);
    if (fraction) open = false;
    if (integer && open && __builtin_add_overflow(at, up ? 1 : -1, &at))
        return s_fail(c, "'%s' leaves no number", key);
    b->any = true;
    if (up && (at > b->lo || (at == b->lo && open))) {
        b->lo = at;
        b->open_lo = open && !integer;
    }
    if (!up && (at < b->hi || (at == b->hi && open))) {
        b->hi = at;
        b->open_hi = open && !integer;
    }
    return true;
}

static bool read_bounds(s_ctx *c, const json_t *schema, bool integer, bounds *b)
{
    const json_t *min = json_object_get(schema, "minimum");
    const json_t *max = json_object_get(schema, "maximum");
    const json_t *above = json_object_get(schema, "exclusiveMinimum");
    const json_t *below = json_object_get(schema, "exclusiveMaximum");
    const json_t *multiple = json_object_get(schema, "multipleOf");
    *b = (bounds){.lo = INT64_MIN, .hi = INT64_MAX};
    if (multiple && !(integer && json_number_value(multiple) == 1))
        return s_fail(c, "the keyword 'multipleOf' cannot be enforced");
    bool open_min = json_is_true(above), open_max = json_is_true(below); /* draft 4 */
    if (json_is_boolean(above)) above = NULL;
    if (json_is_boolean(below)) below = NULL;
    if (!apply(c, min, "minimum", integer, true, open_min, b) ||
        !apply(c, max, "maximum", integer, false, open_max, b) ||
        !apply(c, above, "exclusiveMinimum", integer, true, true, b) ||
        !apply(c, below, "exclusiveMaximum", integer, false, true, b))
        return false;
    if (b->lo > b->hi || (b->lo == b->hi && (b->open_lo || b->open_hi)))
        return s_fail(c, "no number lies within its bounds");
    if (b->lo == INT64_MIN) b->lo = b->hi < -NO_BOUND ? -INT64_MAX : -NO_BOUND;
    if (b->hi == INT64_MAX) b->hi = b->lo > NO_BOUND ? INT64_MAX : NO_BOUND;
    return true;
}

/* ---------------------------------------------------------------- numbers */

/* "." and digits, at least one; nonzero: not all of them 0. */
static bool push_fraction(s_ctx *c, g_seq *s, long digits, bool nonzero)
{
    size_t from = s->n + 1;
    if (!gs_ascii(&c->b, s, ".")) return false;
    if (!nonzero) return push_digit(c, s, '0', '9') && gs_repeat(&c->b, s, from, 1, digits);
    long zeros = digits / 2, rest = digits - zeros - 1;
    if (!push_digit(c, s, '0', '0') || !gs_repeat(&c->b, s, from, 0, zeros) ||
        !push_digit(c, s, '1', '9'))
        return false;
    from = s->n;
    return push_digit(c, s, '0', '9') && gs_repeat(&c->b, s, from, 0, rest);
}

static bool add_alt(s_ctx *c, int rule, const char *sign, uint64_t lo, uint64_t hi, long digits,
                    bool nonzero)
{
    g_seq s = {0};
    bool ok = gs_ascii(&c->b, &s, sign) && s_push_rule(c, &s, magnitudes(c, lo, hi)) &&
              (digits == 0 || push_fraction(c, &s, digits, nonzero)) && gb_alt(&c->b, rule, &s);
    free(s.v);
    return ok;
}

/* Numbers of one sign whose magnitudes lie from lo to hi. A fraction keeps the whole to 15 digits,
 * so that what is read back does not round past a bound. */
static bool one_sign(s_ctx *c, int rule, const char *sign, uint64_t lo, uint64_t hi, bool open_lo,
                     bool open_hi, bool fractions)
{
    uint64_t from = lo + (open_lo ? 1 : 0), to = hi - (open_hi ? 1 : 0);
    if (lo > hi) return true;
    if (from <= to && to <= hi && !add_alt(c, rule, sign, from, to, 0, false)) return false;
    if (!fractions || lo == hi) return true;
    long digits = 15;
    for (uint64_t x = hi; x > 0; x /= 10) digits--;
    if (digits < 2) digits = 2;
    if (open_lo && !add_alt(c, rule, sign, lo, lo, digits, true)) return false;
    return from > hi - 1 || add_alt(c, rule, sign, from, hi - 1, digits, false);
}

int s_number(s_ctx *c, const json_t *schema, bool integer)
{
    bounds b;
    const json_t *format = json_object_get(schema, "format");
    const char *name = json_string_value(format);
    if (format && (!name || (strcmp(name, "int32") && strcmp(name, "int64") &&
                             strcmp(name, "float") && strcmp(name, "double")))) {
        s_fail(c, "the format '%.60s' of a number cannot be enforced", name ? name : "?");
        return -1;
    }
    if (!read_bounds(c, schema, integer, &b)) return -1;
    if (!b.any) return s_leaf_rule(c, integer ? S_INTEGER : S_NUMBER);
    int rule = gb_rule(&c->b);
    bool ok = true;
    if (b.hi >= 0) {
        bool from_zero = b.lo < 0;
        ok = one_sign(c, rule, "", from_zero ? 0 : (uint64_t)b.lo, (uint64_t)b.hi,
                      !from_zero && b.open_lo, b.open_hi, !integer);
    }
    if (ok && b.lo < 0) { /* -0 is left to the positive ones: whole magnitudes start at 1 */
        uint64_t hi = 0 - (uint64_t)b.lo, lo = b.hi < 0 ? 0 - (uint64_t)b.hi : 0;
        bool zero = lo == 0;
        ok = one_sign(c, rule, "-", lo, hi, zero || b.open_hi, b.open_lo, !integer);
    }
    return ok && c->b.status == AN_OK ? rule : -1;
}
