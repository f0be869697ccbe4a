/* template_string.c: strings of templates are slices of UTF-8, counted in code points as Python
 * counts; and the three ways Python writes a value: str(), repr() and json.dumps(). */
#include "python_text.h"
#include "template_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unictype.h>
#include <unistr.h>

/* ---------------------------------------------------------------- characters */

size_t tm_char_len(unsigned char first)
{
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

uint32_t tm_char_at(const char *p, const char *end, size_t *len)
{
    ucs4_t c;
    *len = (size_t)u8_mbtouc_unsafe(&c, (const uint8_t *)p, (size_t)(end - p));
    return c;
}

size_t tm_chars(const char *p, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)p[i] & 0xc0) != 0x80;
    return count;
}

size_t tm_offset(const char *p, size_t n, size_t i)
{
    size_t at = 0;
    for (; i > 0 && at < n; i--) at += tm_char_len((unsigned char)p[at]);
    return at < n ? at : n;
}

static bool in_set(const tm_val *set, const char *p, size_t len, uint32_t c)
{
    return set ? memmem(set->s.p, set->s.n, p, len) != NULL : is_python_space(c);
}

tm_val tm_strip(const tm_val *s, const tm_val *set, bool left, bool right)
{
    const char *p = s->s.p, *end = p + s->s.n;
    size_t len;
    while (left && p < end) {
        uint32_t c = tm_char_at(p, end, &len);
        if (!in_set(set, p, len, c)) break;
        p += len;
    }
    while (right && end > p) {
        const char *q = end - 1;
        while (q > p && ((unsigned char)*q & 0xc0) == 0x80) q--;
        uint32_t c = tm_char_at(q, end, &len);
        if (!in_set(set, q, (size_t)(end - q), c)) break;
        end = q;
    }
    return tm_str(p, (size_t)(end - p));
}

/* ---------------------------------------------------------------- growing strings */

bool tm_sb_add(tm_run *r, tm_sb *b, const char *p, size_t n)
{
    if (r->failed) return false;
    if (n == 0) return true;
    if (n > b->cap - b->n) {
        size_t need, cap;
        if (!an_add_size(b->n, n, &need) || !an_mul_size(need, 2, &cap)) need = cap = SIZE_MAX / 2;
        if (cap > r->arena.max - r->arena.used && cap > need) cap = need;
        if (b->p && tm_extend(r, b->p + b->cap, cap - b->cap)) {
            b->cap = cap;
        } else {
            char *grown = tm_alloc_text(r, cap);
            if (!grown) return false;
            if (b->n) memcpy(grown, b->p, b->n);
            b->p = grown;
            b->cap = cap;
        }
    }
    memcpy(b->p + b->n, p, n);
    b->n += n;
    return true;
}

bool tm_sb_str(tm_run *r, tm_sb *b, const char *s)
{
    return tm_sb_add(r, b, s, strlen(s));
}

bool tm_sb_char(tm_run *r, tm_sb *b, uint32_t c)
{
    uint8_t utf8[6];
    int n = u8_uctomb(utf8, (ucs4_t)c, sizeof utf8);
    if (n < 0) return tm_sb_str(r, b, "\xef\xbf\xbd"); /* a lone surrogate */
    return tm_sb_add(r, b, (const char *)utf8, (size_t)n);
}

tm_val tm_sb_done(tm_run *r, tm_sb *b)
{
    if (b->p && b->p + b->cap == r->arena.cur) {
        r->arena.cur = b->p + b->n;
        b->cap = b->n;
    }
    return tm_str(b->p ? b->p : "", b->n);
}

/* Strings never change, so one that ends where the arena ends can lend its bytes to the longer one:
 * a loop of `x = x + y` stays linear. */
bool tm_concat(tm_run *r, const tm_val *a, const tm_val *b, tm_val *out)
{
    size_t n;
    if (a->s.n == 0 || b->s.n == 0) {
        *out = a->s.n ? *a : *b;
        return true;
    }
    if (!an_add_size(a->s.n, b->s.n, &n)) n = SIZE_MAX;
    if (!tm_step(r, n)) return false;
    if (tm_extend(r, a->s.p + a->s.n, b->s.n)) {
        memcpy((char *)(uintptr_t)a->s.p + a->s.n, b->s.p, b->s.n);
        *out = tm_str(a->s.p, n);
        return true;
    }
    char *p = tm_alloc_text(r, n);
    if (!p) return false;
    memcpy(p, a->s.p, a->s.n);
    memcpy(p + a->s.n, b->s.p, b->s.n);
    *out = tm_str(p, n);
    return true;
}

/* ---------------------------------------------------------------- str() and repr() */

/* The shortest digits that read back as f, in Python's notation. */
bool tm_sb_float(tm_run *r, tm_sb *b, double f)
{
    char digits[40], text[64];
    if (isnan(f)) return tm_sb_str(r, b, "nan");
    if (isinf(f)) return tm_sb_str(r, b, f < 0 ? "-inf" : "inf");
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = precision > exponent ? precision - exponent : 1;
        if (precision <= exponent) decimals = 1;
        snprintf(text, sizeof text, "%.*f", decimals, f);
        return tm_sb_str(r, b, text);
    }
    return tm_sb_str(r, b, digits);
}

static bool printable(uint32_t c)
{
    if (c == ' ') return true;
    return !uc_is_general_category_withtable((ucs4_t)c, UC_CATEGORY_MASK_C | UC_CATEGORY_MASK_Z);
}

static bool repr_str(tm_run *r, tm_sb *b, const tm_val *v)
{
    const char *p = v->s.p, *end = p + v->s.n;
    bool single = memchr(p, '\'', v->s.n) != NULL, twice = memchr(p, '"', v->s.n) != NULL;
    char quote = single && !twice ? '"' : '\'', text[16];
    if (!tm_step(r, v->s.n) || !tm_sb_add(r, b, &quote, 1)) return false;
    while (p < end) {
        size_t len;
        uint32_t c = tm_char_at(p, end, &len);
        bool ok;
        if (c == '\n')
            ok = tm_sb_str(r, b, "\\n");
        else if (c == '\r')
            ok = tm_sb_str(r, b, "\\r");
        else if (c == '\t')
            ok = tm_sb_str(r, b, "\\t");
        else if (c == '\\' || c == (uint32_t)quote) {
            snprintf(text, sizeof text, "\\%c", (char)c);
            ok = tm_sb_str(r, b, text);
        } else if (printable(c)) {
            ok = tm_sb_add(r, b, p, len);
        } else {
            snprintf(text, sizeof text,
                     c < 0x100     ? "\\x%02x"
                     : c < 0x10000 ? "\\u%04x"
                                   : "\\U%08x",
                     (unsigned)c);
            ok = tm_sb_str(r, b, text);
        }
        if (!ok) return false;
        p += len;
    }
    return tm_sb_add(r, b, &quote, 1);
}

static bool repr_list(tm_run *r, tm_sb *b, const tm_val *v)
{
    bool tuple = v->kind == TM_TUPLE;
    if (!tm_sb_str(r, b, tuple ? "(" : "[")) return false;
    for (size_t i = 0; i < v->list->n; i++)
        if ((i && !tm_sb_str(r, b, ", ")) || !tm_sb_value(r, b, &v->list->items[i], true))
            return false;
    if (tuple && v->list->n == 1 && !tm_sb_str(r, b, ",")) return false;
    return tm_sb_str(r, b, tuple ? ")" : "]");
}

static bool repr_dict(tm_run *r, tm_sb *b, const tm_dict *d)
{
    if (!tm_sb_str(r, b, "{")) return false;
    for (size_t i = 0; i < d->n; i++)
        if ((i && !tm_sb_str(r, b, ", ")) || !tm_sb_value(r, b, &d->keys[i], true) ||
            !tm_sb_str(r, b, ": ") || !tm_sb_value(r, b, &d->vals[i], true))
            return false;
    return tm_sb_str(r, b, "}");
}

static bool repr_range(tm_run *r, tm_sb *b, const int64_t *range)
{
    char text[80];
    if (range[2] == 1)
        snprintf(text, sizeof text, "range(%lld, %lld)", (long long)range[0], (long long)range[1]);
    else
        snprintf(text, sizeof text, "range(%lld, %lld, %lld)", (long long)range[0],
                 (long long)range[1], (long long)range[2]);
    return tm_sb_str(r, b, text);
}

static bool repr_nested(tm_run *r, tm_sb *b, const tm_val *v)
{
    bool ok;
    if (!tm_enter(r)) return false;
    if (v->kind == TM_DICT)
        ok = repr_dict(r, b, v->dict);
    else if (v->kind == TM_NAMESPACE)
        ok = tm_sb_str(r, b, "<Namespace ") && repr_dict(r, b, v->dict) && tm_sb_str(r, b, ">");
    else
        ok = repr_list(r, b, v);
    tm_leave(r);
    return ok;
}

bool tm_sb_value(tm_run *r, tm_sb *b, const tm_val *v, bool repr)
{
    char text[64];
    if (!tm_step(r, 0)) return false;
    switch (v->kind) {
    case TM_UNDEF:
        return repr ? tm_sb_str(r, b, "Undefined") : true;
    case TM_NONE:
        return tm_sb_str(r, b, "None");
    case TM_BOOL:
        return tm_sb_str(r, b, v->b ? "True" : "False");
    case TM_INT:
        snprintf(text, sizeof text, "%lld", (long long)v->i);
        return tm_sb_str(r, b, text);
    case TM_FLOAT:
        return tm_sb_float(r, b, v->f);
    case TM_STR:
        return repr ? repr_str(r, b, v) : tm_sb_add(r, b, v->s.p, v->s.n);
    case TM_RANGE:
        return repr_range(r, b, v->list->range);
    case TM_LIST:
    case TM_TUPLE:
    case TM_DICT:
    case TM_NAMESPACE:
        return repr_nested(r, b, v);
    case TM_MACRO:
        return tm_sb_str(r, b, "<Macro '") &&
               tm_sb_add(r, b, v->macro->def->value.s.p, v->macro->def->value.s.n) &&
               tm_sb_str(r, b, "'>");
    default:
        snprintf(text, sizeof text, "<%s>", tm_type(v));
        return tm_sb_str(r, b, text);
    }
}

bool tm_to_str(tm_run *r, const tm_val *v, tm_val *out)
{
    if (v->kind == TM_STR) {
        *out = *v;
        return true;
    }
    tm_sb b = {0};
    if (!tm_sb_value(r, &b, v, false)) return false;
    *out = tm_sb_done(r, &b);
    return true;
}

/* ---------------------------------------------------------------- json.dumps() */

static bool json_str(tm_run *r, tm_sb *b, const tm_val *v, bool ascii)
{
    const char *p = v->s.p, *end = p + v->s.n, *run = p;
    char text[16];
    if (!tm_step(r, v->s.n) || !tm_sb_str(r, b, "\"")) return false;
    while (p < end) {
        size_t len;
        uint32_t c = tm_char_at(p, end, &len);
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !ascii)) {
            p += len;
            continue;
        }
        static const char shorts[] = "b\bf\fn\nr\rt\t\"\"\\\\";
        const char *found = NULL;
        for (size_t i = 0; i + 1 < sizeof shorts; i += 2)
            if ((uint32_t)(unsigned char)shorts[i + 1] == c) found = shorts + i;
        if (found)
            snprintf(text, sizeof text, "\\%c", *found);
        else if (c < 0x10000)
            snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
        else
            snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd7c0u + (unsigned)(c >> 10),
                     0xdc00u + (unsigned)(c & 0x3ff));
        if (!tm_sb_add(r, b, run, (size_t)(p - run)) || !tm_sb_str(r, b, text)) return false;
        p += len;
        run = p;
    }
    return tm_sb_add(r, b, run, (size_t)(end - run)) && tm_sb_str(r, b, "\"");
}

static bool json_newline(tm_run *r, tm_sb *b, const tm_json_style *style, int level)
{
    if (!style->pretty) return true;
    if (!tm_sb_str(r, b, "\n")) return false;
    for (int i = 0; i < level; i++)
        if (!tm_step(r, style->indent.s.n) ||
            !tm_sb_add(r, b, style->indent.s.p, style->indent.s.n))
            return false;
    return true;
}

static bool json_list(tm_run *r, tm_sb *b, const tm_list *l, const tm_json_style *style, int level)
{
    if (l->n == 0) return tm_sb_str(r, b, "[]");
    if (!tm_sb_str(r, b, "[")) return false;
    for (size_t i = 0; i < l->n; i++)
        if ((i && !tm_sb_add(r, b, style->item_sep.s.p, style->item_sep.s.n)) ||
            !json_newline(r, b, style, level + 1) ||
            !tm_sb_json(r, b, &l->items[i], style, level + 1))
            return false;
    return json_newline(r, b, style, level) && tm_sb_str(r, b, "]");
}

/* A key as json.dumps takes it: numbers, booleans and None become their JSON text in quotes. */
static bool json_key(tm_run *r, tm_sb *b, const tm_val *k, const tm_json_style *style)
{
    if (k->kind == TM_STR) return json_str(r, b, k, style->ascii);
    if (!tm_is_number(k) && k->kind != TM_NONE)
        return tm_fail(r, "keys must be str, int, float, bool or None, not %s", tm_type(k));
    return tm_sb_str(r, b, "\"") && tm_sb_json(r, b, k, style, 0) && tm_sb_str(r, b, "\"");
}

static bool sorted_keys(tm_run *r, const tm_dict *d, size_t *order)
{
    for (size_t i = 0; i < d->n; i++) { /* insertion: few keys, and every comparison is a step */
        size_t at = i;
        for (int c; at > 0; at--) {
            if (!tm_order(r, &d->keys[i], &d->keys[order[at - 1]], "<", &c)) return false;
            if (c >= 0) break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    return true;
}

static bool json_dict(tm_run *r, tm_sb *b, const tm_dict *d, const tm_json_style *style, int level)
{
    if (d->n == 0) return tm_sb_str(r, b, "{}");
    size_t *order = tm_alloc_array(r, d->n, sizeof *order);
    if (!order || !tm_sb_str(r, b, "{")) return false;
    for (size_t i = 0; i < d->n; i++) order[i] = i;
    if (style->sort_keys && !sorted_keys(r, d, order)) return false;
    for (size_t i = 0; i < d->n; i++)
        if ((i && !tm_sb_add(r, b, style->item_sep.s.p, style->item_sep.s.n)) ||
            !json_newline(r, b, style, level + 1) || !json_key(r, b, &d->keys[order[i]], style) ||
            !tm_sb_add(r, b, style->key_sep.s.p, style->key_sep.s.n) ||
            !tm_sb_json(r, b, &d->vals[order[i]], style, level + 1))
            return false;
    return json_newline(r, b, style, level) && tm_sb_str(r, b, "}");
}

bool tm_sb_json(tm_run *r, tm_sb *b, const tm_val *v, const tm_json_style *style, int level)
{
    bool ok;
    if (!tm_step(r, 0)) return false;
    switch (v->kind) {
    case TM_NONE:
        return tm_sb_str(r, b, "null");
    case TM_BOOL:
        return tm_sb_str(r, b, v->b ? "true" : "false");
    case TM_INT:
        return tm_sb_value(r, b, v, false);
    case TM_STR:
        return json_str(r, b, v, style->ascii);
    case TM_FLOAT:
        if (isnan(v->f)) return tm_sb_str(r, b, "NaN");
        if (isinf(v->f)) return tm_sb_str(r, b, v->f < 0 ? "-Infinity" : "Infinity");
        return tm_sb_float(r, b, v->f);
    case TM_LIST:
    case TM_TUPLE:
    case TM_DICT:
        break;
    default:
        return tm_fail(r, "Object of type %s is not JSON serializable", tm_type(v));
    }
    if (!tm_enter(r)) return false;
    ok = v->kind == TM_DICT ? json_dict(r, b, v->dict, style, level)
                            : json_list(r, b, v->list, style, level);
    tm_leave(r);
    return ok;
}
