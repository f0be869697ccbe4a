/* template_value.c: values of templates as Python has them: truth, equality, order, dictionaries
 * that keep their order, and what `for` walks. */
#include "template_impl.h"

#include <jansson.h>
#include <math.h>

const char *tm_type(const tm_val *v)
{
    static const char *const names[] = {
        [TM_UNDEF] = "Undefined", [TM_NONE] = "NoneType",       [TM_BOOL] = "bool",
        [TM_INT] = "int",         [TM_FLOAT] = "float",         [TM_STR] = "str",
        [TM_LIST] = "list",       [TM_TUPLE] = "tuple",         [TM_RANGE] = "range",
        [TM_DICT] = "dict",       [TM_NAMESPACE] = "Namespace", [TM_MACRO] = "Macro",
        [TM_METHOD] = "method",   [TM_GLOBAL] = "function",     [TM_LOOP] = "LoopContext",
        [TM_JOINER] = "Joiner",   [TM_CYCLER] = "Cycler"};
    return names[v->kind];
}

bool tm_eq_cstr(const tm_val *v, const char *s)
{
    return v->kind == TM_STR && v->s.n == strlen(s) && memcmp(v->s.p, s, v->s.n) == 0;
}

bool tm_truth(const tm_val *v)
{
    switch (v->kind) {
    case TM_UNDEF:
    case TM_NONE:
        return false;
    case TM_BOOL:
        return v->b;
    case TM_INT:
        return v->i != 0;
    case TM_FLOAT:
        return v->f != 0;
    case TM_STR:
        return v->s.n != 0;
    case TM_LIST:
    case TM_TUPLE:
    case TM_RANGE:
        return v->list->n != 0;
    case TM_DICT:
        return v->dict->n != 0;
    default:
        return true;
    }
}

double tm_as_double(const tm_val *v)
{
    if (v->kind == TM_FLOAT) return v->f;
    return v->kind == TM_BOOL ? (double)v->b : (double)v->i;
}

int64_t tm_as_int(const tm_val *v)
{
    return v->kind == TM_BOOL ? (int64_t)v->b : v->i;
}

/* ---------------------------------------------------------------- undefined */

bool tm_undefined(tm_run *r, const char *of, const tm_val *key, tm_val *out)
{
    tm_undef *u = tm_alloc(r, sizeof *u);
    tm_val *k = tm_alloc(r, sizeof *k);
    if (!u || !k) return false;
    *k = *key;
    *u = (tm_undef){of, k};
    *out = (tm_val){.kind = TM_UNDEF, .undef = u};
    return true;
}

/* Jinja's words, so that what is known of a template's errors holds here. */
bool tm_fail_undefined(tm_run *r, const tm_val *v)
{
    const tm_undef *u = v->undef;
    if (!u) return tm_fail(r, "a value is undefined");
    tm_sb b = {0};
    if (u->of && u->key->kind != TM_STR) {
        if (!tm_sb_value(r, &b, u->key, true)) return false;
        return tm_fail(r, "%s object has no element %.*s", u->of, (int)b.n, b.p);
    }
    int n = u->key->s.n > 200 ? 200 : (int)u->key->s.n;
    if (!u->of) return tm_fail(r, "'%.*s' is undefined", n, u->key->s.p);
    if (strcmp(u->of, "NoneType") == 0)
        return tm_fail(r, "'None' has no attribute '%.*s'", n, u->key->s.p);
    return tm_fail(r, "'%s object' has no attribute '%.*s'", u->of, n, u->key->s.p);
}

/* ---------------------------------------------------------------- equality and order */

static bool lists_equal(tm_run *r, const tm_val *a, const tm_val *b, bool *out)
{
    *out = a->kind == b->kind && a->list->n == b->list->n;
    for (size_t i = 0; *out && i < a->list->n; i++)
        if (!tm_equal(r, &a->list->items[i], &b->list->items[i], out)) return false;
    return true;
}

static bool dicts_equal(tm_run *r, const tm_dict *a, const tm_dict *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        tm_val *other;
        if (!tm_dict_find(r, b, &a->keys[i], &other)) return false;
        *out = other != NULL;
        if (other && !tm_equal(r, &a->vals[i], other, out)) return false;
    }
    return true;
}

static int compare_numbers(const tm_val *a, const tm_val *b)
{
    if (a->kind != TM_FLOAT && b->kind != TM_FLOAT) {
        int64_t x = tm_as_int(a), y = tm_as_int(b);
        return (x > y) - (x < y);
    }
    double x = tm_as_double(a), y = tm_as_double(b);
    if (isnan(x) || isnan(y)) return 2; /* neither */
    return (x > y) - (x < y);
}

bool tm_equal(tm_run *r, const tm_val *a, const tm_val *b, bool *out)
{
    if (!tm_step(r, a->kind == TM_STR ? a->s.n : 0)) return false;
    if (tm_is_number(a) && tm_is_number(b)) {
        *out = compare_numbers(a, b) == 0;
        return true;
    }
    if (a->kind != b->kind) {
        *out = false;
        return true;
    }
    switch (a->kind) {
    case TM_UNDEF:
    case TM_NONE:
        *out = true;
        return true;
    case TM_STR:
        *out = a->s.n == b->s.n && memcmp(a->s.p, b->s.p, a->s.n) == 0;
        return true;
    case TM_GLOBAL:
        *out = a->global == b->global;
        return true;
    case TM_LIST:
    case TM_TUPLE:
    case TM_RANGE:
    case TM_DICT:
        break;
    default:
        *out = a->dict == b->dict;
        return true; /* the same object */
    }
    if (!tm_enter(r)) return false;
    bool ok =
        a->kind == TM_DICT ? dicts_equal(r, a->dict, b->dict, out) : lists_equal(r, a, b, out);
    tm_leave(r);
    return ok;
}

static int compare_bytes(const tm_val *a, const tm_val *b)
{
    size_t n = a->s.n < b->s.n ? a->s.n : b->s.n;
    int c = n ? memcmp(a->s.p, b->s.p, n) : 0; /* UTF-8 sorts as its code points do */
    if (c == 0) return (a->s.n > b->s.n) - (a->s.n < b->s.n);
    return c < 0 ? -1 : 1;
}

static bool order_lists(tm_run *r, const tm_val *a, const tm_val *b, const char *op, int *out)
{
    size_t n = a->list->n < b->list->n ? a->list->n : b->list->n;
    for (size_t i = 0; i < n; i++) {
        bool same;
        if (!tm_equal(r, &a->list->items[i], &b->list->items[i], &same)) return false;
        if (!same) return tm_order(r, &a->list->items[i], &b->list->items[i], op, out);
    }
    *out = (a->list->n > b->list->n) - (a->list->n < b->list->n);
    return true;
}

bool tm_order(tm_run *r, const tm_val *a, const tm_val *b, const char *op, int *out)
{
    if (!tm_step(r, a->kind == TM_STR ? a->s.n : 0)) return false;
    if (a->kind == TM_UNDEF) return tm_fail_undefined(r, a);
    if (b->kind == TM_UNDEF) return tm_fail_undefined(r, b);
    if (tm_is_number(a) && tm_is_number(b)) {
        *out = compare_numbers(a, b);
        return true;
    }
    if (a->kind == TM_STR && b->kind == TM_STR) {
        *out = compare_bytes(a, b);
        return true;
    }
    if (a->kind == b->kind && (a->kind == TM_LIST || a->kind == TM_TUPLE)) {
        if (!tm_enter(r)) return false;
        bool ok = order_lists(r, a, b, op, out);
        tm_leave(r);
        return ok;
    }
    return tm_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, tm_type(a),
                   tm_type(b));
}

bool tm_contains(tm_run *r, const tm_val *in, const tm_val *item, bool *out)
{
    *out = false;
    if (in->kind == TM_STR) {
        if (item->kind == TM_UNDEF) return tm_fail_undefined(r, item);
        if (item->kind != TM_STR)
            return tm_fail(r, "'in <string>' requires string as left operand, not %s",
                           tm_type(item));
        *out = memmem(in->s.p, in->s.n, item->s.p, item->s.n) != NULL;
        return tm_step(r, in->s.n);
    }
    if (in->kind == TM_DICT) {
        tm_val *found;
        if (!tm_dict_find(r, in->dict, item, &found)) return false;
        *out = found != NULL;
        return true;
    }
    if (!tm_is_list(in) && in->kind != TM_UNDEF)
        return tm_fail(r, "argument of type '%s' is not iterable", tm_type(in));
    for (size_t i = 0; in->kind != TM_UNDEF && !*out && i < in->list->n; i++)
        if (!tm_equal(r, item, &in->list->items[i], out)) return false;
    return true;
}

/* ---------------------------------------------------------------- lists and dictionaries */

bool tm_new_list(tm_run *r, tm_kind kind, size_t n, tm_val *out)
{
    tm_list *l = tm_alloc(r, sizeof *l);
    if (!l) return false;
    l->n = n;
    if (n && !(l->items = tm_alloc_array(r, n, sizeof *l->items))) return false;
    *out = (tm_val){.kind = kind, .list = l};
    return true;
}

bool tm_new_dict(tm_run *r, tm_kind kind, tm_val *out)
{
    tm_dict *d = tm_alloc(r, sizeof *d);
    if (!d) return false;
    *out = (tm_val){.kind = kind, .dict = d};
    return true;
}

static uint64_t hash_bytes(const char *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a; steps bound what collisions can cost */
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)p[i]) * 0x100000001b3u;
    return h ^ (h >> 29);
}

/* Equal values have equal hashes: 1, 1.0 and True are one key. */
static bool hash_value(tm_run *r, const tm_val *v, uint64_t *out)
{
    if (v->kind == TM_STR) {
        *out = hash_bytes(v->s.p, v->s.n);
        return true;
    }
    if (tm_is_number(v)) {
        double d = tm_as_double(v);
        if (d == 0) d = 0;
        *out = hash_bytes((const char *)&d, sizeof d);
        return true;
    }
    if (v->kind == TM_TUPLE) {
        uint64_t h = v->list->n, one;
        if (!tm_enter(r)) return false;
        for (size_t i = 0; i < v->list->n; i++) {
            if (!hash_value(r, &v->list->items[i], &one)) return false;
            h = h * 0x100000001b3u ^ one;
        }
        tm_leave(r);
        *out = h;
        return true;
    }
    if (v->kind == TM_LIST || v->kind == TM_DICT)
        return tm_fail(r, "unhashable type: '%s'", tm_type(v));
    *out = (uint64_t)v->kind;
    return true;
}

bool tm_dict_find(tm_run *r, const tm_dict *d, const tm_val *key, tm_val **out)
{
    uint64_t h;
    bool same;
    *out = NULL;
    if (!hash_value(r, key, &h)) return false;
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++) {
            if (!tm_equal(r, &d->keys[i], key, &same)) return false;
            if (same) {
                *out = &d->vals[i];
                return true;
            }
        }
        return true;
    }
    for (size_t at = (size_t)h & (d->n_index - 1); d->index[at]; at = (at + 1) & (d->n_index - 1)) {
        size_t i = d->index[at] - 1;
        if (!tm_equal(r, &d->keys[i], key, &same)) return false;
        if (same) {
            *out = &d->vals[i];
            return true;
        }
    }
    return true;
}

static bool reindex(tm_run *r, tm_dict *d)
{
    size_t n = 32;
    while (n < d->cap * 2) n *= 2;
    uint32_t *index = tm_alloc_array(r, n, sizeof *index);
    if (!index) return false;
    for (size_t i = 0; i < d->n; i++) {
        uint64_t h;
        if (!hash_value(r, &d->keys[i], &h)) return false;
        size_t at = (size_t)h & (n - 1);
        while (index[at]) at = (at + 1) & (n - 1);
        index[at] = (uint32_t)(i + 1);
    }
    d->index = index;
    d->n_index = n;
    return true;
}

static bool grow_dict(tm_run *r, tm_dict *d)
{
    size_t cap = d->cap ? d->cap * 2 : 4;
    if (cap > UINT32_MAX / 4) return tm_too_large(r, "a dictionary of %zu keys", d->n);
    tm_val *keys = tm_alloc_array(r, cap, sizeof *keys);
    tm_val *vals = tm_alloc_array(r, cap, sizeof *vals);
    if (!keys || !vals) return false;
    if (d->n) {
        memcpy(keys, d->keys, d->n * sizeof *keys);
        memcpy(vals, d->vals, d->n * sizeof *vals);
    }
    d->keys = keys;
    d->vals = vals;
    d->cap = cap;
    return cap <= 8 || reindex(r, d);
}

bool tm_dict_set(tm_run *r, tm_dict *d, const tm_val *key, const tm_val *val)
{
    tm_val *found;
    if (!tm_dict_find(r, d, key, &found)) return false;
    if (found) {
        *found = *val;
        return true;
    }
    if (d->n == d->cap && !grow_dict(r, d)) return false;
    d->keys[d->n] = *key;
    d->vals[d->n++] = *val;
    if (d->index) {
        uint64_t h;
        if (!hash_value(r, key, &h)) return false;
        size_t at = (size_t)h & (d->n_index - 1);
        while (d->index[at]) at = (at + 1) & (d->n_index - 1);
        d->index[at] = (uint32_t)d->n;
    }
    return true;
}

const tm_val *tm_dict_get_cstr(const tm_dict *d, const char *key)
{
    for (size_t i = 0; i < d->n; i++)
        if (tm_eq_cstr(&d->keys[i], key)) return &d->vals[i];
    return NULL;
}

/* ---------------------------------------------------------------- walking */

static bool characters(tm_run *r, const tm_val *v, tm_list *out)
{
    size_t n = tm_chars(v->s.p, v->s.n), i = 0;
    if (!tm_step(r, v->s.n)) return false;
    if (n && !(out->items = tm_alloc_array(r, n, sizeof *out->items))) return false;
    for (const char *p = v->s.p; i < n; i++) {
        size_t len = tm_char_len((unsigned char)*p);
        out->items[i] = tm_str(p, len);
        p += len;
    }
    out->n = n;
    return true;
}

bool tm_iter(tm_run *r, const tm_val *v, tm_list *out)
{
    *out = (tm_list){0};
    if (v->kind == TM_STR) return characters(r, v, out);
    if (v->kind == TM_UNDEF) return true;
    if (tm_is_list(v)) {
        *out = *v->list;
        return true;
    }
    if (v->kind == TM_DICT) {
        out->items = v->dict->keys;
        out->n = v->dict->n;
        return true;
    }
    return tm_fail(r, "'%s' object is not iterable", tm_type(v));
}

bool tm_len(tm_run *r, const tm_val *v, int64_t *out)
{
    switch (v->kind) {
    case TM_UNDEF:
        *out = 0;
        return true;
    case TM_STR:
        *out = (int64_t)tm_chars(v->s.p, v->s.n);
        return tm_step(r, v->s.n);
    case TM_LIST:
    case TM_TUPLE:
    case TM_RANGE:
        *out = (int64_t)v->list->n;
        return true;
    case TM_DICT:
        *out = (int64_t)v->dict->n;
        return true;
    case TM_LOOP:
        *out = (int64_t)v->loop->items.n;
        return true;
    default:
        return tm_fail(r, "object of type '%s' has no len()", tm_type(v));
    }
}

/* ---------------------------------------------------------------- from JSON */

static bool from_object(tm_run *r, const json_t *j, tm_val *out)
{
    const char *key;
    json_t *item;
    if (!tm_new_dict(r, TM_DICT, out)) return false;
    json_object_foreach((json_t *)j, key, item)
    {
        tm_val k = tm_cstr(key), v;
        if (!tm_from_json(r, item, &v) || !tm_dict_set(r, out->dict, &k, &v)) return false;
    }
    return true;
}

static bool from_array(tm_run *r, const json_t *j, tm_val *out)
{
    size_t n = json_array_size(j);
    if (!tm_new_list(r, TM_LIST, n, out)) return false;
    for (size_t i = 0; i < n; i++)
        if (!tm_from_json(r, json_array_get(j, i), &out->list->items[i])) return false;
    return true;
}

/* Strings stay where jansson has them: the variables outlive the rendering. */
bool tm_from_json(tm_run *r, const json_t *j, tm_val *out)
{
    bool ok;
    switch (json_typeof(j)) {
    case JSON_STRING:
        *out = tm_str(json_string_value(j), json_string_length(j));
        return true;
    case JSON_INTEGER:
        *out = tm_int(json_integer_value(j));
        return true;
    case JSON_REAL:
        *out = tm_float(json_real_value(j));
        return true;
    case JSON_TRUE:
        *out = tm_bool(true);
        return true;
    case JSON_FALSE:
        *out = tm_bool(false);
        return true;
    case JSON_NULL:
        *out = tm_none();
        return true;
    case JSON_OBJECT:
    case JSON_ARRAY:
        break;
    }
    if (!tm_enter(r)) return false;
    ok = json_is_object(j) ? from_object(r, j, out) : from_array(r, j, out);
    tm_leave(r);
    return ok;
}
