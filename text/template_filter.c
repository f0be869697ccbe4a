/* template_filter.c: filters of one value: strings, numbers, defaults, JSON. Those of sequences are
 * in template_sequence.c. They do what Jinja's do; auto-escaping is off, so `safe` is nothing. */
#include "python_text.h"
#include "template_impl.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unictype.h>

/* ---------------------------------------------------------------- strings */

static bool f_string(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    (void)a;
    return tm_to_str(r, in, out);
}

static bool f_upper(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s;
    (void)a;
    return tm_to_str(r, in, &s) && tm_upper(r, &s, out);
}

static bool f_lower(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s;
    (void)a;
    return tm_to_str(r, in, &s) && tm_lower(r, &s, out);
}

static bool f_title(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s;
    (void)a;
    return tm_to_str(r, in, &s) && tm_title(r, &s, true, out);
}

static bool f_capitalize(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s;
    (void)a;
    return tm_to_str(r, in, &s) && tm_capitalize(r, &s, out);
}

static bool f_trim(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s, set;
    const tm_val *given = tm_arg(a, 0, "chars");
    if (given && given->kind == TM_NONE) given = NULL;
    if (!tm_to_str(r, in, &s) || (given && !tm_to_str(r, given, &set))) return false;
    if (!tm_step(r, given ? s.s.n * set.s.n : s.s.n)) return false;
    *out = tm_strip(&s, given ? &set : NULL, true, true);
    return true;
}

static bool f_replace(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s, old, new;
    int64_t max;
    const tm_val *from = tm_arg(a, 0, "old"), *to = tm_arg(a, 1, "new");
    if (!from || !to) return tm_fail(r, "replace needs what to replace, and by what");
    return tm_to_str(r, in, &s) && tm_to_str(r, from, &old) && tm_to_str(r, to, &new) &&
           tm_arg_int(r, a, 2, "count", -1, &max) && tm_replace(r, &s, &old, &new, max, out);
}

static bool f_escape(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    static const char *const names[] = {
        ['&'] = "&amp;", ['<'] = "&lt;", ['>'] = "&gt;", ['"'] = "&#34;", ['\''] = "&#39;"};
    tm_val s;
    tm_sb b = {0};
    (void)a;
    if (!tm_to_str(r, in, &s) || !tm_step(r, s.s.n)) return false;
    for (size_t i = 0; i < s.s.n; i++) {
        unsigned char c = (unsigned char)s.s.p[i];
        const char *name = c < sizeof names / sizeof *names ? names[c] : NULL;
        if (!(name ? tm_sb_str(r, &b, name) : tm_sb_add(r, &b, s.s.p + i, 1))) return false;
    }
    *out = tm_sb_done(r, &b);
    return true;
}

static bool f_indent(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s, all, lines, newline = tm_str("\n", 1), space = tm_str(" ", 1), by;
    tm_sb b = {0};
    const tm_val *width = tm_arg(a, 0, "width");
    bool first = tm_arg_bool(a, 1, "first", false), blank = tm_arg_bool(a, 2, "blank", false);
    int64_t n = 4;
    if (!tm_to_str(r, in, &s)) return false;
    if (width && width->kind == TM_STR) {
        by = *width;
    } else {
        tm_val count;
        if (!tm_arg_int(r, a, 0, "width", 4, &n)) return false;
        count = tm_int(n);
        if (!tm_arith(r, T_MUL, &space, &count, &by)) return false;
    }
    /* A line end more, so that one at the end of the text counts as a line. */
    if (!tm_concat(r, &s, &newline, &all) || !tm_splitlines(r, &all, false, &lines)) return false;
    for (size_t i = 0; i < lines.list->n; i++) {
        const tm_val *line = &lines.list->items[i];
        bool indented = i == 0 ? first : blank || line->s.n > 0;
        if (!tm_step(r, by.s.n + line->s.n) || (i && !tm_sb_str(r, &b, "\n")) ||
            (indented && !tm_sb_add(r, &b, by.s.p, by.s.n)) ||
            !tm_sb_add(r, &b, line->s.p, line->s.n))
            return false;
    }
    *out = tm_sb_done(r, &b);
    return true;
}

static bool f_center(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s, space = tm_str(" ", 1), left, right, part;
    int64_t width;
    if (!tm_to_str(r, in, &s) || !tm_arg_int(r, a, 0, "width", 80, &width)) return false;
    int64_t n = (int64_t)tm_chars(s.s.p, s.s.n), pad = width > n ? width - n : 0;
    int64_t before = pad / 2 + (pad & width & 1); /* Python puts the odd one so */
    left = tm_int(before);
    right = tm_int(pad - before);
    return tm_arith(r, T_MUL, &space, &left, &part) && tm_concat(r, &part, &s, &left) &&
           tm_arith(r, T_MUL, &space, &right, &part) && tm_concat(r, &left, &part, out);
}

static bool f_wordcount(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s;
    bool inside = false;
    (void)a;
    if (!tm_to_str(r, in, &s) || !tm_step(r, s.s.n)) return false;
    const char *p = s.s.p, *end = p + s.s.n;
    *out = tm_int(0);
    while (p < end) {
        size_t len;
        uint32_t c = tm_char_at(p, end, &len);
        bool word = c == '_' || uc_is_general_category_withtable((ucs4_t)c, UC_CATEGORY_MASK_L |
                                                                                UC_CATEGORY_MASK_N);
        out->i += word && !inside;
        inside = word;
        p += len;
    }
    return true;
}

static bool f_truncate(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s, end = tm_cstr("...");
    int64_t length, leeway;
    const tm_val *given = tm_arg(a, 2, "end");
    if (!tm_to_str(r, in, &s) || (given && !tm_to_str(r, given, &end)) ||
        !tm_arg_int(r, a, 0, "length", 255, &length) ||
        !tm_arg_int(r, a, 3, "leeway", 5, &leeway) || !tm_step(r, s.s.n))
        return false;
    int64_t n = (int64_t)tm_chars(s.s.p, s.s.n), tail = (int64_t)tm_chars(end.s.p, end.s.n);
    if (length < tail || leeway < 0)
        return tm_fail(r, "expected length >= %lld, got %lld", (long long)tail, (long long)length);
    *out = s;
    if (n <= length || n - leeway <= length) return true;
    tm_val cut = tm_str(s.s.p, tm_offset(s.s.p, s.s.n, (size_t)(length - tail)));
    if (!tm_arg_bool(a, 1, "killwords", false)) {
        const char *space = memrchr(cut.s.p, ' ', cut.s.n);
        if (space) cut.s.n = (size_t)(space - cut.s.p);
    }
    return tm_concat(r, &cut, &end, out);
}

/* ---------------------------------------------------------------- printf's way */

/* One %-conversion, from behind the %: flags, width, precision, letter. */
static bool format_one(tm_run *r, tm_sb *b, const char **at, const char *end, const tm_val *v)
{
    char spec[32] = "%", text[512];
    size_t n = 1;
    const char *p = *at;
    int width = 0, precision = 0, *number = &width;
    for (; p < end && strchr("-+ #0123456789.", *p) && n < 16; p++) {
        if (*p == '.')
            number = &precision;
        else if (*p >= '0' && *p <= '9')
            *number = *number * 10 + (*p - '0');
        if (width > 200 || precision > 200)
            return tm_too_large(r, "a width of more than 200 in a format");
        spec[n++] = *p;
    }
    if (p == end) return tm_fail(r, "incomplete format");
    char c = *p++;
    *at = p;
    if (c == 's' || c == 'r') {
        if (n == 1) return tm_sb_value(r, b, v, c == 'r');
        return tm_fail(r, "%%%c with a width is not supported", c);
    }
    if (!strchr("dixXofFeEgG", c)) return tm_fail(r, "unsupported format character '%c'", c);
    if (v->kind == TM_UNDEF) return tm_fail_undefined(r, v);
    if (!tm_is_number(v))
        return tm_fail(r, "%%%c format: a real number is required, not %s", c, tm_type(v));
    if (strchr("dixXo", c)) {
        if (v->kind == TM_FLOAT && fabs(v->f) > 9e18)
            return tm_too_large(r, "an integer beyond 64 bits");
        memcpy(spec + n, "ll", 2);
        spec[n + 2] = c;
        spec[n + 3] = '\0';
        long long i = v->kind == TM_FLOAT ? (long long)v->f : tm_as_int(v);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, spec, i);
    } else {
        spec[n] = c;
        spec[n + 1] = '\0';
        snprintf(text, sizeof text, spec, tm_as_double(v));
#pragma GCC diagnostic pop
    }
    return tm_sb_str(r, b, text);
}

bool tm_format_percent(tm_run *r, const tm_val *fmt, const tm_val *arg, tm_val *out)
{
    tm_sb b = {0};
    size_t used = 0, have = arg->kind == TM_TUPLE ? arg->list->n : 1;
    const tm_val *args = arg->kind == TM_TUPLE ? arg->list->items : arg;
    const char *p = fmt->s.p, *end = p + fmt->s.n;
    while (p < end) {
        const char *q = memchr(p, '%', (size_t)(end - p));
        if (!q) q = end;
        if (!tm_step(r, (size_t)(q - p)) || !tm_sb_add(r, &b, p, (size_t)(q - p))) return false;
        p = q + 1;
        if (q == end) break;
        if (p < end && *p == '%') {
            if (!tm_sb_str(r, &b, "%")) return false;
            p++;
            continue;
        }
        if (used >= have) return tm_fail(r, "not enough arguments for format string");
        if (!format_one(r, &b, &p, end, &args[used++])) return false;
    }
    if (used < have && arg->kind != TM_DICT)
        return tm_fail(r, "not all arguments converted during string formatting");
    *out = tm_sb_done(r, &b);
    return true;
}

static bool f_format(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_val s;
    tm_list l = {.items = a->pos, .n = a->n};
    tm_val args = {.kind = TM_TUPLE, .list = &l};
    return tm_to_str(r, in, &s) && tm_format_percent(r, &s, &args, out);
}

/* ---------------------------------------------------------------- numbers */

/* Python's float(str): white space around, digits, nan, inf. */
static bool parse_float(const tm_val *s, double *out)
{
    char text[128], *end;
    tm_val t = tm_strip(s, NULL, true, true);
    if (t.s.n == 0 || t.s.n >= sizeof text || memchr(t.s.p, 'x', t.s.n) ||
        memchr(t.s.p, 'X', t.s.n) || memchr(t.s.p, '\0', t.s.n) || memchr(t.s.p, '(', t.s.n))
        return false;
    memcpy(text, t.s.p, t.s.n);
    text[t.s.n] = '\0';
    *out = strtod(text, &end);
    return *end == '\0';
}

static bool parse_int(const tm_val *s, int64_t base, int64_t *out)
{
    char text[128], *end;
    tm_val t = tm_strip(s, NULL, true, true);
    if (t.s.n == 0 || t.s.n >= sizeof text || base < 0 || base > 36 || base == 1 ||
        memchr(t.s.p, '\0', t.s.n))
        return false;
    memcpy(text, t.s.p, t.s.n);
    text[t.s.n] = '\0';
    errno = 0;
    *out = strtoll(text, &end, (int)base);
    return *end == '\0' && errno == 0;
}

static bool f_int(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    int64_t base, i;
    double f = NAN;
    const tm_val *other = tm_arg(a, 0, "default");
    if (in->kind == TM_UNDEF) return tm_fail_undefined(r, in);
    if (!tm_arg_int(r, a, 1, "base", 10, &base)) return false;
    *out = other ? *other : tm_int(0);
    if (in->kind == TM_INT || in->kind == TM_BOOL)
        *out = tm_int(tm_as_int(in));
    else if (in->kind == TM_STR && parse_int(in, base, &i))
        *out = tm_int(i);
    else if (in->kind == TM_FLOAT)
        f = in->f;
    else if (in->kind == TM_STR && !parse_float(in, &f))
        f = NAN;
    if (isfinite(f)) {
        if (fabs(f) >= 9.2e18) return tm_too_large(r, "an integer beyond 64 bits");
        *out = tm_int((int64_t)f);
    }
    return true;
}

static bool f_float(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    double f;
    const tm_val *other = tm_arg(a, 0, "default");
    if (in->kind == TM_UNDEF) return tm_fail_undefined(r, in);
    *out = other ? *other : tm_float(0);
    if (tm_is_number(in))
        *out = tm_float(tm_as_double(in));
    else if (in->kind == TM_STR && parse_float(in, &f))
        *out = tm_float(f);
    return true;
}

static bool f_abs(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    (void)a;
    if (in->kind == TM_UNDEF) return tm_fail_undefined(r, in);
    if (!tm_is_number(in)) return tm_fail(r, "bad operand type for abs(): '%s'", tm_type(in));
    *out = tm_float(fabs(tm_as_double(in)));
    if (in->kind == TM_FLOAT) return true;
    int64_t i = tm_as_int(in);
    if (i == INT64_MIN) return tm_too_large(r, "an integer beyond 64 bits");
    *out = tm_int(i < 0 ? -i : i);
    return true;
}

static bool f_round(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    int64_t precision;
    const tm_val *method = tm_arg(a, 1, "method");
    bool common = !method || tm_eq_cstr(method, "common");
    if (in->kind == TM_UNDEF) return tm_fail_undefined(r, in);
    if (!tm_arg_int(r, a, 0, "precision", 0, &precision)) return false;
    if (!tm_is_number(in)) return tm_fail(r, "round needs a number, not %s", tm_type(in));
    if (!common && !tm_eq_cstr(method, "ceil") && !tm_eq_cstr(method, "floor"))
        return tm_fail(r, "method must be common, ceil or floor");
    if (precision < -300 || precision > 300) return tm_fail(r, "a precision beyond 300");
    if (common && in->kind != TM_FLOAT && precision >= 0) {
        *out = tm_int(tm_as_int(in));
        return true;
    }
    double f = tm_as_double(in), scale = pow(10, (double)precision);
    if (!common) {
        f = tm_eq_cstr(method, "ceil") ? ceil(f * scale) : floor(f * scale);
        *out = tm_float(f / scale);
        return true;
    }
    if (precision >= 0) { /* printf rounds the exact binary value, as Python does */
        char text[700];
        snprintf(text, sizeof text, "%.*f", (int)precision, f);
        *out = tm_float(strtod(text, NULL));
        return true;
    }
    f = nearbyint(f * scale) / scale;
    *out = in->kind == TM_FLOAT ? tm_float(f) : tm_int((int64_t)f);
    return true;
}

/* ---------------------------------------------------------------- the others */

static bool f_default(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    const tm_val *other = tm_arg(a, 0, "default_value");
    bool falsy = tm_arg_bool(a, 1, "boolean", false);
    (void)r;
    *out = *in;
    if (in->kind == TM_UNDEF || (falsy && !tm_truth(in))) *out = other ? *other : tm_str("", 0);
    return true;
}

static bool f_safe(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    (void)r;
    (void)a;
    *out = *in;
    return true;
}

static bool json_separators(tm_run *r, const tm_val *v, tm_json_style *style)
{
    if (!v || v->kind == TM_NONE) return true;
    if (!tm_is_list(v) || v->list->n != 2 || v->list->items[0].kind != TM_STR ||
        v->list->items[1].kind != TM_STR)
        return tm_fail(r, "separators must be two strings");
    style->item_sep = v->list->items[0];
    style->key_sep = v->list->items[1];
    return true;
}

/* transformers' own: json.dumps without HTML escapes, ensure_ascii=False unless asked. */
static bool f_tojson(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    const tm_val *indent = tm_arg(a, 1, "indent");
    tm_json_style style = {.ascii = tm_arg_bool(a, 0, "ensure_ascii", false),
                           .sort_keys = tm_arg_bool(a, 3, "sort_keys", false),
                           .pretty = indent && indent->kind != TM_NONE,
                           .item_sep = tm_cstr(", "),
                           .key_sep = tm_cstr(": ")};
    tm_sb b = {0};
    if (style.pretty) {
        tm_val space = tm_str(" ", 1), n;
        int64_t width = 0;
        style.item_sep = tm_cstr(",");
        style.indent = *indent;
        if (indent->kind != TM_STR) {
            if (!tm_arg_int(r, a, 1, "indent", 0, &width)) return false;
            n = tm_int(width);
            if (!tm_arith(r, T_MUL, &space, &n, &style.indent)) return false;
        }
    }
    if (!json_separators(r, tm_arg(a, 2, "separators"), &style) ||
        !tm_sb_json(r, &b, in, &style, 0))
        return false;
    *out = tm_sb_done(r, &b);
    return true;
}

static const tm_filter_entry value_filters[] = {{"string", f_string, 0},
                                                {"upper", f_upper, 0},
                                                {"lower", f_lower, 0},
                                                {"title", f_title, 0},
                                                {"capitalize", f_capitalize, 0},
                                                {"trim", f_trim, 1},
                                                {"replace", f_replace, 3},
                                                {"escape", f_escape, 0},
                                                {"e", f_escape, 0},
                                                {"forceescape", f_escape, 0},
                                                {"indent", f_indent, 3},
                                                {"center", f_center, 1},
                                                {"wordcount", f_wordcount, 0},
                                                {"truncate", f_truncate, 4},
                                                {"format", f_format, SIZE_MAX},
                                                {"int", f_int, 2},
                                                {"float", f_float, 1},
                                                {"abs", f_abs, 0},
                                                {"round", f_round, 2},
                                                {"default", f_default, 2},
                                                {"d", f_default, 2},
                                                {"safe", f_safe, 0},
                                                {"tojson", f_tojson, 4},
                                                {NULL, NULL, 0}};

bool tm_filter(tm_run *r, const tm_val *name, const tm_val *in, const tm_args *a, tm_val *out)
{
    const tm_filter_entry *tables[] = {value_filters, tm_sequence_filters};
    for (int t = 0; t < 2; t++)
        for (const tm_filter_entry *f = tables[t]; f->name; f++)
            if (tm_eq_cstr(name, f->name))
                return tm_arg_count(r, a, 0, f->max_args, f->name) && f->fn(r, in, a, out);
    return tm_fail(r, "No filter named '%.*s'.", name->s.n > 60 ? 60 : (int)name->s.n, name->s.p);
}
