/* template_sequence.c: filters of sequences: join, map, select, sort ... What is a generator in
 * Jinja is a list here. */
#include "template_impl.h"

/* ---------------------------------------------------------------- attributes and keys */

/* Follows "a.b.0" from item; `other`, when given, stands in for what is undefined on the way. */
static bool follow(tm_run *r, const tm_val *item, const tm_val *path, const tm_val *other,
                   tm_val *out)
{
    *out = *item;
    if (path->kind == TM_INT) return tm_getitem(r, item, path, out);
    if (path->kind != TM_STR) return tm_fail(r, "an attribute's name must be a string");
    const char *p = path->s.p, *end = p + path->s.n;
    for (const char *dot; p <= end; p = dot + 1) {
        dot = p < end ? memchr(p, '.', (size_t)(end - p)) : NULL;
        if (!dot) dot = end;
        tm_val key = tm_str(p, (size_t)(dot - p)), v;
        int64_t i = 0;
        bool digits = key.s.n > 0 && key.s.n < 10;
        for (size_t k = 0; digits && k < key.s.n; k++) {
            digits = p[k] >= '0' && p[k] <= '9';
            i = i * 10 + (p[k] - '0');
        }
        if (digits) key = tm_int(i);
        if (!tm_step(r, 0) || !tm_getitem(r, out, &key, &v)) return false;
        if (v.kind == TM_UNDEF && other) v = *other;
        *out = v;
    }
    return true;
}

/* What sort, unique, min and max compare: the attribute (or several, "a,b"), strings in lower case
 * unless case_sensitive. */
static bool item_key(tm_run *r, const tm_val *item, const tm_val *path, bool fold, tm_val *out)
{
    tm_val v = *item;
    if (path && path->kind == TM_STR && memchr(path->s.p, ',', path->s.n)) {
        const char *p = path->s.p, *end = p + path->s.n;
        size_t n = 1, i = 0;
        for (const char *q = p; q < end; q++) n += *q == ',';
        if (!tm_new_list(r, TM_TUPLE, n, out)) return false;
        for (; i < n; i++) {
            const char *comma = memchr(p, ',', (size_t)(end - p));
            tm_val one = tm_str(p, (size_t)((comma ? comma : end) - p));
            if (!item_key(r, item, &one, fold, &out->list->items[i])) return false;
            p = comma ? comma + 1 : end;
        }
        return true;
    }
    if (path && path->kind != TM_NONE && !follow(r, item, path, NULL, &v)) return false;
    if (fold && v.kind == TM_STR) return tm_lower(r, &v, out);
    *out = v;
    return true;
}

/* ---------------------------------------------------------------- sorting */

typedef struct sort_item {
    tm_val key, item;
} sort_item;

/* Merge sort: stable, and a comparison can fail. */
static bool merge_sort(tm_run *r, sort_item *v, sort_item *tmp, size_t n, bool reverse)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t mid = from + width < n ? from + width : n,
                   end = mid + width < n ? mid + width : n;
            size_t a = from, b = mid;
            for (size_t k = from; k < end; k++) {
                int c = 0;
                bool both = a < mid && b < end;
                /* Jinja's keys are lists: two undefined ones are equal, and never compared. */
                if (both && v[a].key.kind == TM_UNDEF && v[b].key.kind == TM_UNDEF) both = false;
                if (both && !tm_order(r, &v[b].key, &v[a].key, "<", &c)) return false;
                bool right_first = c != 2 && (reverse ? c > 0 : c < 0);
                if (a < mid && (b >= end || !right_first))
                    tmp[k] = v[a++];
                else
                    tmp[k] = v[b++];
            }
        }
        memcpy(v, tmp, n * sizeof *v);
    }
    return true;
}

static bool sort_by(tm_run *r, const tm_list *l, const tm_val *path, bool fold, bool reverse,
                    tm_val *out)
{
    sort_item *v = tm_alloc_array(r, l->n + 1, sizeof *v);
    sort_item *tmp = tm_alloc_array(r, l->n + 1, sizeof *tmp);
    if (!v || !tmp || !tm_new_list(r, TM_LIST, l->n, out)) return false;
    for (size_t i = 0; i < l->n; i++) {
        v[i].item = l->items[i];
        if (!item_key(r, &l->items[i], path, fold, &v[i].key)) return false;
    }
    if (!merge_sort(r, v, tmp, l->n, reverse)) return false;
    for (size_t i = 0; i < l->n; i++) out->list->items[i] = v[i].item;
    return true;
}

static bool f_sort(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    return tm_iter(r, in, &l) &&
           sort_by(r, &l, tm_arg(a, 2, "attribute"), !tm_arg_bool(a, 1, "case_sensitive", false),
                   tm_arg_bool(a, 0, "reverse", false), out);
}

static bool f_dictsort(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    const tm_val *by = tm_arg(a, 1, "by");
    tm_val items, path = tm_int(by && tm_eq_cstr(by, "value") ? 1 : 0);
    if (in->kind != TM_DICT) return tm_fail(r, "dictsort needs a dict, not %s", tm_type(in));
    return tm_dict_items(r, in->dict, &items) &&
           sort_by(r, items.list, &path, !tm_arg_bool(a, 0, "case_sensitive", false),
                   tm_arg_bool(a, 2, "reverse", false), out);
}

static bool extreme(tm_run *r, const tm_val *in, const tm_args *a, bool max, tm_val *out)
{
    tm_list l;
    tm_val best_key, key;
    bool fold = !tm_arg_bool(a, 0, "case_sensitive", false);
    if (!tm_iter(r, in, &l)) return false;
    *out = (tm_val){.kind = TM_UNDEF};
    for (size_t i = 0; i < l.n; i++) {
        int c = -1;
        if (!item_key(r, &l.items[i], tm_arg(a, 1, "attribute"), fold, &key)) return false;
        if (i && !tm_order(r, max ? &best_key : &key, max ? &key : &best_key, "<", &c))
            return false;
        if (c != -1) continue;
        best_key = key;
        *out = l.items[i];
    }
    return true;
}

static bool f_min(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    return extreme(r, in, a, false, out);
}

static bool f_max(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    return extreme(r, in, a, true, out);
}

static bool f_unique(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    tm_dict seen = {0};
    bool fold = !tm_arg_bool(a, 0, "case_sensitive", false);
    if (!tm_iter(r, in, &l) || !tm_new_list(r, TM_LIST, l.n, out)) return false;
    out->list->n = 0;
    for (size_t i = 0; i < l.n; i++) {
        tm_val key, *found;
        if (!item_key(r, &l.items[i], tm_arg(a, 1, "attribute"), fold, &key) ||
            !tm_dict_find(r, &seen, &key, &found))
            return false;
        if (found) continue;
        if (!tm_dict_set(r, &seen, &key, &key)) return false;
        out->list->items[out->list->n++] = l.items[i];
    }
    return true;
}

/* ---------------------------------------------------------------- ends and order */

static bool f_length(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    (void)a;
    *out = tm_int(0);
    return tm_len(r, in, &out->i);
}

static bool f_first(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    (void)a;
    if (!tm_iter(r, in, &l)) return false;
    *out = l.n ? l.items[0] : (tm_val){.kind = TM_UNDEF};
    return true;
}

static bool f_last(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    (void)a;
    if (!tm_iter(r, in, &l)) return false;
    *out = l.n ? l.items[l.n - 1] : (tm_val){.kind = TM_UNDEF};
    return true;
}

static bool f_list(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    (void)a;
    if (!tm_iter(r, in, &l) || !tm_step(r, l.n) || !tm_new_list(r, TM_LIST, l.n, out)) return false;
    if (l.n) memcpy(out->list->items, l.items, l.n * sizeof *l.items);
    return true;
}

static bool f_reverse(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    tm_sb b = {0};
    (void)a;
    if (!tm_iter(r, in, &l) || !tm_step(r, l.n)) return false;
    if (in->kind == TM_STR) {
        for (size_t i = l.n; i-- > 0;)
            if (!tm_sb_add(r, &b, l.items[i].s.p, l.items[i].s.n)) return false;
        *out = tm_sb_done(r, &b);
        return true;
    }
    if (!tm_new_list(r, TM_LIST, l.n, out)) return false;
    for (size_t i = 0; i < l.n; i++) out->list->items[i] = l.items[l.n - 1 - i];
    return true;
}

static bool f_items(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    (void)a;
    if (in->kind == TM_UNDEF) return tm_new_list(r, TM_LIST, 0, out);
    if (in->kind != TM_DICT) return tm_fail(r, "Can only get item pairs from a mapping.");
    return tm_dict_items(r, in->dict, out);
}

static bool f_batch(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    int64_t size;
    const tm_val *fill = tm_arg(a, 1, "fill_with");
    if (fill && fill->kind == TM_NONE) fill = NULL;
    if (!tm_iter(r, in, &l) || !tm_arg_int(r, a, 0, "linecount", 0, &size)) return false;
    if (size < 1) return tm_fail(r, "batch needs a size of at least 1");
    if (size > (int64_t)l.n && !fill) size = (int64_t)l.n + 1;
    size_t each = (size_t)size, n = (l.n + each - 1) / each;
    if (!tm_step(r, n) || !tm_new_list(r, TM_LIST, n, out)) return false;
    for (size_t i = 0; i < n; i++) {
        size_t have = l.n - i * each < each ? l.n - i * each : each, m = fill ? each : have;
        tm_val *row = &out->list->items[i];
        if (!tm_step(r, m) || !tm_new_list(r, TM_LIST, m, row)) return false;
        for (size_t k = 0; k < m; k++)
            row->list->items[k] = k < have ? l.items[i * each + k] : *fill;
    }
    return true;
}

/* ---------------------------------------------------------------- folding and mapping */

static bool f_join(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    tm_sb b = {0};
    tm_val sep = tm_str("", 0), v;
    const tm_val *given = tm_arg(a, 0, "d"), *path = tm_arg(a, 1, "attribute");
    if (!tm_iter(r, in, &l) || (given && !tm_to_str(r, given, &sep))) return false;
    for (size_t i = 0; i < l.n; i++) {
        v = l.items[i];
        if (path && path->kind != TM_NONE && !follow(r, &l.items[i], path, NULL, &v)) return false;
        if (!tm_step(r, sep.s.n) || (i && !tm_sb_add(r, &b, sep.s.p, sep.s.n)) ||
            !tm_step(r, v.kind == TM_STR ? v.s.n : 0) || !tm_sb_value(r, &b, &v, false))
            return false;
    }
    *out = tm_sb_done(r, &b);
    return true;
}

static bool f_sum(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    const tm_val *path = tm_arg(a, 0, "attribute"), *start = tm_arg(a, 1, "start");
    tm_val total = start ? *start : tm_int(0), v;
    if (!tm_iter(r, in, &l)) return false;
    for (size_t i = 0; i < l.n; i++) {
        tm_val sum;
        v = l.items[i];
        if (path && path->kind != TM_NONE && !follow(r, &l.items[i], path, NULL, &v)) return false;
        if (!tm_step(r, 0) || !tm_arith(r, T_ADD, &total, &v, &sum)) return false;
        total = sum;
    }
    *out = total;
    return true;
}

/* The arguments behind the first `skip` ones. */
static tm_args rest_of(const tm_args *a, size_t skip)
{
    return (tm_args){.pos = a->pos ? a->pos + skip : NULL, .n = a->n - skip, .kw = a->kw};
}

static bool f_map(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    tm_list l;
    const tm_val *path = a->kw ? tm_dict_get_cstr(a->kw, "attribute") : NULL;
    const tm_val *other = a->kw ? tm_dict_get_cstr(a->kw, "default") : NULL;
    if (!path && a->n == 0) return tm_fail(r, "map requires a filter argument");
    if (!path && a->pos[0].kind != TM_STR) return tm_fail(r, "map needs a filter's name");
    if (!tm_iter(r, in, &l) || !tm_new_list(r, TM_LIST, l.n, out)) return false;
    if (!tm_enter(r)) return false;
    for (size_t i = 0; i < l.n; i++) {
        tm_args rest = path ? (tm_args){0} : rest_of(a, 1);
        if (!tm_step(r, 0)) return false;
        if (!(path ? follow(r, &l.items[i], path, other, &out->list->items[i])
                   : tm_filter(r, &a->pos[0], &l.items[i], &rest, &out->list->items[i])))
            return false;
    }
    tm_leave(r);
    return true;
}

/* select, reject, selectattr, rejectattr: by truth, or by the test named. */
static bool choose(tm_run *r, const tm_val *in, const tm_args *a, bool attr, bool keep, tm_val *out)
{
    tm_list l;
    size_t skip = attr ? 1 : 0;
    if (a->n < skip) return tm_fail(r, "selectattr and rejectattr need an attribute");
    if (!tm_iter(r, in, &l) || !tm_new_list(r, TM_LIST, l.n, out)) return false;
    if (a->n > skip && a->pos[skip].kind != TM_STR) return tm_fail(r, "a test's name is a string");
    out->list->n = 0;
    for (size_t i = 0; i < l.n; i++) {
        tm_val v = l.items[i];
        bool holds;
        if (!tm_step(r, 0)) return false;
        if (attr && !follow(r, &l.items[i], &a->pos[0], NULL, &v)) return false;
        if (a->n > skip) {
            tm_args rest = rest_of(a, skip + 1);
            if (!tm_test(r, &a->pos[skip], &v, &rest, &holds)) return false;
        } else {
            holds = tm_truth(&v);
        }
        if (holds == keep) out->list->items[out->list->n++] = l.items[i];
    }
    return true;
}

static bool f_select(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    return choose(r, in, a, false, true, out);
}

static bool f_reject(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    return choose(r, in, a, false, false, out);
}

static bool f_selectattr(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    return choose(r, in, a, true, true, out);
}

static bool f_rejectattr(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out)
{
    return choose(r, in, a, true, false, out);
}

const tm_filter_entry tm_sequence_filters[] = {{"sort", f_sort, 3},
                                               {"dictsort", f_dictsort, 3},
                                               {"min", f_min, 2},
                                               {"max", f_max, 2},
                                               {"unique", f_unique, 2},
                                               {"length", f_length, 0},
                                               {"count", f_length, 0},
                                               {"first", f_first, 0},
                                               {"last", f_last, 0},
                                               {"list", f_list, 0},
                                               {"reverse", f_reverse, 0},
                                               {"items", f_items, 0},
                                               {"batch", f_batch, 2},
                                               {"join", f_join, 2},
                                               {"sum", f_sum, 2},
                                               {"map", f_map, SIZE_MAX},
                                               {"select", f_select, SIZE_MAX},
                                               {"reject", f_reject, SIZE_MAX},
                                               {"selectattr", f_selectattr, SIZE_MAX},
                                               {"rejectattr", f_rejectattr, SIZE_MAX},
                                               {NULL, NULL, 0}};
