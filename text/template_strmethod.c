/* template_strmethod.c: the methods of strings, as Python's str has them. */
#include "python_text.h"
#include "template_impl.h"

#include <unictype.h>

/* Argument i, which must be there and a string. */
static bool str_arg(tm_run *r, const tm_args *a, size_t i, const char *name, tm_val *out)
{
    const tm_val *v = tm_arg(a, i, name);
    if (!v) return tm_fail(r, "a string argument is missing");
    *out = *v;
    if (out->kind == TM_UNDEF) return tm_fail_undefined(r, out);
    return out->kind == TM_STR || tm_fail(r, "expected a str argument, not %s", tm_type(out));
}

/* ---------------------------------------------------------------- strings: parts */

static bool strip(tm_run *r, const tm_val *self, const tm_args *a, bool left, bool right,
                  tm_val *out)
{
    tm_val set;
    const tm_val *given = tm_arg(a, 0, "chars");
    bool plain = !given || given->kind == TM_NONE;
    if (!tm_step(r, self->s.n) || (!plain && !str_arg(r, a, 0, "chars", &set))) return false;
    if (!plain && !tm_step(r, self->s.n * set.s.n)) return false;
    *out = tm_strip(self, plain ? NULL : &set, left, right);
    return true;
}

static bool m_strip(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    return strip(r, self, a, true, true, out);
}

static bool m_lstrip(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    return strip(r, self, a, true, false, out);
}

static bool m_rstrip(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    return strip(r, self, a, false, true, out);
}

/* The list being built by split and splitlines. */
typedef struct pieces {
    tm_val *items;
    size_t n, cap;
} pieces;

static bool add_piece(tm_run *r, pieces *l, const char *p, const char *end)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        tm_val *grown = tm_alloc_array(r, cap, sizeof *grown);
        if (!grown) return false;
        if (l->n) memcpy(grown, l->items, l->n * sizeof *grown);
        l->items = grown;
        l->cap = cap;
    }
    l->items[l->n++] = tm_str(p, (size_t)(end - p));
    return tm_step(r, 0);
}

static bool done_pieces(tm_run *r, const pieces *l, tm_val *out)
{
    if (!tm_new_list(r, TM_LIST, 0, out)) return false;
    out->list->items = l->items;
    out->list->n = l->n;
    return true;
}

static bool split_spaces(tm_run *r, const tm_val *s, int64_t max, pieces *l)
{
    tm_val rest = tm_strip(s, NULL, true, false);
    const char *p = rest.s.p, *end = p + rest.s.n;
    while (p < end) {
        const char *q = p;
        size_t len;
        if (max == 0) return add_piece(r, l, p, end);
        while (q < end && !is_python_space(tm_char_at(q, end, &len))) q += len;
        if (!add_piece(r, l, p, q)) return false;
        max--;
        while (q < end && is_python_space(tm_char_at(q, end, &len))) q += len;
        p = q;
    }
    return true;
}

static bool split_at(tm_run *r, const tm_val *s, const tm_val *sep, int64_t max, pieces *l)
{
    const char *p = s->s.p, *end = p + s->s.n, *q;
    if (sep->s.n == 0) return tm_fail(r, "empty separator");
    for (; max != 0 && (q = memmem(p, (size_t)(end - p), sep->s.p, sep->s.n)) != NULL; max--) {
        if (!add_piece(r, l, p, q)) return false;
        p = q + sep->s.n;
    }
    return add_piece(r, l, p, end);
}

static bool m_split(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    pieces l = {0};
    int64_t max;
    tm_val s;
    const tm_val *sep = tm_arg(a, 0, "sep");
    if (!tm_step(r, self->s.n) || !tm_arg_int(r, a, 1, "maxsplit", -1, &max)) return false;
    if (!sep || sep->kind == TM_NONE) {
        if (!split_spaces(r, self, max, &l)) return false;
    } else if (!str_arg(r, a, 0, "sep", &s) || !split_at(r, self, &s, max, &l)) {
        return false;
    }
    return done_pieces(r, &l, out);
}

/* From the right; differs from split only when maxsplit cuts. */
static bool m_rsplit(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    int64_t max;
    tm_val s;
    if (!tm_arg_int(r, a, 1, "maxsplit", -1, &max)) return false;
    if (max < 0) return m_split(r, self, a, out);
    if (!str_arg(r, a, 0, "sep", &s)) return false;
    tm_args all = {.pos = &s, .n = 1};
    if (!m_split(r, self, &all, out)) return false;
    size_t n = out->list->n, keep = (uint64_t)max < n ? (size_t)max + 1 : n;
    tm_val *items = out->list->items;
    const char *end = items[n - keep].s.p + items[n - keep].s.n;
    items[n - keep] = tm_str(self->s.p, (size_t)(end - self->s.p));
    out->list->items = items + (n - keep);
    out->list->n = keep;
    return true;
}

static bool is_line_end(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

bool tm_splitlines(tm_run *r, const tm_val *self, bool keep, tm_val *out)
{
    pieces l = {0};
    const char *p = self->s.p, *end = p + self->s.n, *from = p;
    if (!tm_step(r, self->s.n)) return false;
    while (p < end) {
        size_t len;
        uint32_t c = tm_char_at(p, end, &len);
        const char *next = p + len;
        if (is_line_end(c)) {
            if (c == '\r' && next < end && *next == '\n') next++;
            if (!add_piece(r, &l, from, keep ? next : p)) return false;
            from = next;
        }
        p = next;
    }
    if (from < end && !add_piece(r, &l, from, end)) return false;
    return done_pieces(r, &l, out);
}

static bool m_splitlines(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    return tm_splitlines(r, self, tm_arg_bool(a, 0, "keepends", false), out);
}

static bool partition(tm_run *r, const tm_val *self, const tm_args *a, bool last, tm_val *out)
{
    tm_val sep, empty = tm_str("", 0);
    if (!tm_step(r, self->s.n) || !str_arg(r, a, 0, "sep", &sep)) return false;
    if (sep.s.n == 0) return tm_fail(r, "empty separator");
    if (!tm_new_list(r, TM_TUPLE, 3, out)) return false;
    const char *p = self->s.p, *end = p + self->s.n, *found = NULL, *q = p;
    while ((q = memmem(q, (size_t)(end - q), sep.s.p, sep.s.n)) != NULL) {
        found = q;
        if (!last) break;
        q++;
    }
    tm_val *items = out->list->items;
    items[0] = found ? tm_str(p, (size_t)(found - p)) : last ? empty : *self;
    items[1] = found ? sep : empty;
    items[2] = found  ? tm_str(found + sep.s.n, (size_t)(end - found) - sep.s.n)
               : last ? *self
                      : empty;
    return true;
}

static bool m_partition(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    return partition(r, self, a, false, out);
}

static bool m_rpartition(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    return partition(r, self, a, true, out);
}

/* ---------------------------------------------------------------- strings: searching */

static bool has_affix(const tm_val *s, const tm_val *affix, bool front)
{
    if (affix->kind != TM_STR || affix->s.n > s->s.n) return false;
    const char *at = front ? s->s.p : s->s.p + s->s.n - affix->s.n;
    return memcmp(at, affix->s.p, affix->s.n) == 0;
}

static bool affix(tm_run *r, const tm_val *self, const tm_args *a, bool front, tm_val *out)
{
    const tm_val *v = tm_arg(a, 0, NULL);
    bool found = false;
    if (!v || (v->kind != TM_STR && v->kind != TM_TUPLE))
        return tm_fail(r, "startswith and endswith take a str or a tuple of str");
    if (v->kind == TM_STR) found = has_affix(self, v, front);
    for (size_t i = 0; v->kind == TM_TUPLE && !found && i < v->list->n; i++)
        found = has_affix(self, &v->list->items[i], front);
    *out = tm_bool(found);
    return true;
}

static bool m_startswith(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    return affix(r, self, a, true, out);
}

static bool m_endswith(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    return affix(r, self, a, false, out);
}

static bool m_removeprefix(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    tm_val s;
    if (!str_arg(r, a, 0, NULL, &s)) return false;
    *out = *self;
    if (has_affix(self, &s, true)) *out = tm_str(self->s.p + s.s.n, self->s.n - s.s.n);
    return true;
}

static bool m_removesuffix(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    tm_val s;
    if (!str_arg(r, a, 0, NULL, &s)) return false;
    *out = *self;
    if (has_affix(self, &s, false)) out->s.n -= s.s.n;
    return true;
}

static bool find(tm_run *r, const tm_val *self, const tm_args *a, bool last, int64_t *out)
{
    tm_val s;
    int64_t start;
    if (!tm_step(r, self->s.n) || !str_arg(r, a, 0, "sub", &s)) return false;
    if (!tm_arg_int(r, a, 1, "start", 0, &start)) return false;
    int64_t chars = (int64_t)tm_chars(self->s.p, self->s.n);
    if (start < 0) start = start < -chars ? 0 : start + chars;
    *out = -1;
    if (start > chars) return true;
    const char *p = self->s.p, *end = p + self->s.n;
    const char *q = p + tm_offset(p, self->s.n, (size_t)start), *found = NULL;
    while ((q = memmem(q, (size_t)(end - q), s.s.p, s.s.n)) != NULL) {
        found = q;
        if (!last || q == end) break;
        q++;
    }
    if (found) *out = (int64_t)tm_chars(p, (size_t)(found - p));
    return true;
}

static bool m_find(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    *out = tm_int(0);
    return find(r, self, a, false, &out->i);
}

static bool m_rfind(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    *out = tm_int(0);
    return find(r, self, a, true, &out->i);
}

static bool m_index(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    *out = tm_int(0);
    return find(r, self, a, false, &out->i) && (out->i >= 0 || tm_fail(r, "substring not found"));
}

static bool m_count(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    tm_val s;
    int64_t n = 0;
    if (!tm_step(r, self->s.n) || !str_arg(r, a, 0, NULL, &s)) return false;
    const char *p = self->s.p, *end = p + self->s.n;
    if (s.s.n == 0) {
        *out = tm_int((int64_t)tm_chars(p, self->s.n) + 1);
        return true;
    }
    while ((p = memmem(p, (size_t)(end - p), s.s.p, s.s.n)) != NULL) {
        p += s.s.n;
        n++;
    }
    *out = tm_int(n);
    return true;
}

/* ---------------------------------------------------------------- strings: making others */

static bool m_lower(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return tm_lower(r, self, out);
}

static bool m_upper(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return tm_upper(r, self, out);
}

static bool m_title(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return tm_title(r, self, false, out);
}

static bool m_capitalize(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return tm_capitalize(r, self, out);
}

static bool m_replace(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    tm_val old, new;
    int64_t max;
    return str_arg(r, a, 0, "old", &old) && str_arg(r, a, 1, "new", &new) &&
           tm_arg_int(r, a, 2, "count", -1, &max) && tm_replace(r, self, &old, &new, max, out);
}

static bool m_join(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    tm_sb b = {0};
    tm_list l;
    const tm_val *v = tm_arg(a, 0, NULL);
    if (!v) return tm_fail(r, "join() takes exactly one argument");
    if (!tm_iter(r, v, &l)) return false;
    for (size_t i = 0; i < l.n; i++) {
        const tm_val *s = &l.items[i];
        if (s->kind != TM_STR)
            return tm_fail(r, "sequence item %zu: expected str instance, %s found", i, tm_type(s));
        if (!tm_step(r, s->s.n + self->s.n) || (i && !tm_sb_add(r, &b, self->s.p, self->s.n)) ||
            !tm_sb_add(r, &b, s->s.p, s->s.n))
            return false;
    }
    *out = tm_sb_done(r, &b);
    return true;
}

/* The value a field {}, {0} or {name} stands for. */
static bool format_field(tm_run *r, const tm_args *a, const char *p, size_t n, size_t *next,
                         const tm_val **out)
{
    size_t at = 0;
    bool digits = n > 0 && n < 6;
    for (size_t i = 0; i < n && digits; i++) {
        digits = p[i] >= '0' && p[i] <= '9';
        at = at * 10 + (size_t)(p[i] - '0');
    }
    *out = NULL;
    if (n == 0) at = (*next)++;
    if (n == 0 || digits) {
        if (at < a->n) *out = &a->pos[at];
        return *out || tm_fail(r, "format() has no argument %zu", at);
    }
    tm_val key = tm_str(p, n), *found = NULL;
    if (a->kw && !tm_dict_find(r, a->kw, &key, &found)) return false;
    *out = found;
    return found || tm_fail(r,
                            "format() does not know the field {%.*s}; fields are {}, {0} or "
                            "{name}, without conversions",
                            n > 60 ? 60 : (int)n, p);
}

static bool m_format(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    tm_sb b = {0};
    size_t next = 0;
    const char *p = self->s.p, *end = p + self->s.n;
    while (p < end) {
        const char *q = p;
        while (q < end && *q != '{' && *q != '}') q++;
        if (!tm_sb_add(r, &b, p, (size_t)(q - p)) || !tm_step(r, (size_t)(q - p))) return false;
        if (q == end) break;
        if (q + 1 < end && q[1] == *q) { /* {{ and }} */
            if (!tm_sb_add(r, &b, q, 1)) return false;
            p = q + 2;
            continue;
        }
        const char *close = *q == '{' ? memchr(q, '}', (size_t)(end - q)) : NULL;
        const tm_val *v;
        if (!close) return tm_fail(r, "single '%c' in a format string", *q);
        if (!format_field(r, a, q + 1, (size_t)(close - q - 1), &next, &v) ||
            !tm_sb_value(r, &b, v, false))
            return false;
        p = close + 1;
    }
    *out = tm_sb_done(r, &b);
    return true;
}

/* ---------------------------------------------------------------- strings: questions */

/* True if there are characters and all of them are in the categories. */
static bool all_are(tm_run *r, const tm_val *self, uint32_t mask, tm_val *out)
{
    const char *p = self->s.p, *end = p + self->s.n;
    bool all = p < end;
    if (!tm_step(r, self->s.n)) return false;
    while (all && p < end) {
        size_t len;
        all = uc_is_general_category_withtable((ucs4_t)tm_char_at(p, end, &len), mask);
        p += len;
    }
    *out = tm_bool(all);
    return true;
}

static bool m_isdigit(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return all_are(r, self, UC_CATEGORY_MASK_Nd, out);
}

static bool m_isalpha(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return all_are(r, self, UC_CATEGORY_MASK_L, out);
}

static bool m_isalnum(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return all_are(r, self, UC_CATEGORY_MASK_L | UC_CATEGORY_MASK_N, out);
}

static bool m_isspace(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    *out = tm_bool(self->s.n > 0 && tm_strip(self, NULL, true, false).s.n == 0);
    return tm_step(r, self->s.n);
}

static bool same_case(tm_run *r, const tm_val *self, bool upper, tm_val *out)
{
    tm_val lower, up;
    bool is_low, is_up;
    if (!tm_lower(r, self, &lower) || !tm_upper(r, self, &up) ||
        !tm_equal(r, self, &lower, &is_low) || !tm_equal(r, self, &up, &is_up))
        return false;
    *out = tm_bool(upper ? is_up && !is_low : is_low && !is_up);
    return true;
}

static bool m_isupper(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return same_case(r, self, true, out);
}

static bool m_islower(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return same_case(r, self, false, out);
}

const tm_method_entry tm_string_methods[] = {{TM_STR, "strip", 1, m_strip},
                                             {TM_STR, "lstrip", 1, m_lstrip},
                                             {TM_STR, "rstrip", 1, m_rstrip},
                                             {TM_STR, "split", 2, m_split},
                                             {TM_STR, "rsplit", 2, m_rsplit},
                                             {TM_STR, "splitlines", 1, m_splitlines},
                                             {TM_STR, "partition", 1, m_partition},
                                             {TM_STR, "rpartition", 1, m_rpartition},
                                             {TM_STR, "startswith", 1, m_startswith},
                                             {TM_STR, "endswith", 1, m_endswith},
                                             {TM_STR, "removeprefix", 1, m_removeprefix},
                                             {TM_STR, "removesuffix", 1, m_removesuffix},
                                             {TM_STR, "find", 2, m_find},
                                             {TM_STR, "rfind", 2, m_rfind},
                                             {TM_STR, "index", 2, m_index},
                                             {TM_STR, "count", 1, m_count},
                                             {TM_STR, "lower", 0, m_lower},
                                             {TM_STR, "casefold", 0, m_lower},
                                             {TM_STR, "upper", 0, m_upper},
                                             {TM_STR, "title", 0, m_title},
                                             {TM_STR, "capitalize", 0, m_capitalize},
                                             {TM_STR, "replace", 3, m_replace},
                                             {TM_STR, "join", 1, m_join},
                                             {TM_STR, "format", SIZE_MAX, m_format},
                                             {TM_STR, "isdigit", 0, m_isdigit},
                                             {TM_STR, "isnumeric", 0, m_isdigit},
                                             {TM_STR, "isdecimal", 0, m_isdigit},
                                             {TM_STR, "isalpha", 0, m_isalpha},
                                             {TM_STR, "isalnum", 0, m_isalnum},
                                             {TM_STR, "isspace", 0, m_isspace},
                                             {TM_STR, "isupper", 0, m_isupper},
                                             {TM_STR, "islower", 0, m_islower},
                                             {TM_STR, NULL, 0, NULL}};
