/* template_function.c: the functions a template finds (range, namespace, raise_exception ...), the
 * tests after `is`, and what both need of arguments. */
#include "template_impl.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

/* ---------------------------------------------------------------- arguments */

const tm_val *tm_arg(const tm_args *a, size_t i, const char *name)
{
    if (i < a->n) return &a->pos[i];
    return a->kw && name ? tm_dict_get_cstr(a->kw, name) : NULL;
}

bool tm_arg_count(tm_run *r, const tm_args *a, size_t min, size_t max, const char *who)
{
    if (a->n < min) return tm_fail(r, "%s needs at least %zu argument(s)", who, min);
    if (a->n > max) return tm_fail(r, "%s takes at most %zu argument(s), not %zu", who, max, a->n);
    return true;
}

bool tm_arg_int(tm_run *r, const tm_args *a, size_t i, const char *name, int64_t other,
                int64_t *out)
{
    const tm_val *v = tm_arg(a, i, name);
    *out = other;
    if (!v || v->kind == TM_NONE) return true;
    if (v->kind == TM_UNDEF) return tm_fail_undefined(r, v);
    if (v->kind != TM_INT && v->kind != TM_BOOL)
        return tm_fail(r, "'%s' object cannot be interpreted as an integer", tm_type(v));
    *out = tm_as_int(v);
    return true;
}

bool tm_arg_bool(const tm_args *a, size_t i, const char *name, bool other)
{
    const tm_val *v = tm_arg(a, i, name);
    return v ? tm_truth(v) : other;
}

/* ---------------------------------------------------------------- functions */

#define MAX_RANGE 100000 /* as Jinja's sandbox */

static bool g_range(tm_run *r, const tm_args *a, tm_val *out)
{
    int64_t from = 0, to, step;
    if (!tm_arg_count(r, a, 1, 3, "range()") || !tm_arg_int(r, a, 0, NULL, 0, &to) ||
        !tm_arg_int(r, a, 2, NULL, 1, &step))
        return false;
    if (a->n > 1) {
        from = to;
        if (!tm_arg_int(r, a, 1, NULL, 0, &to)) return false;
    }
    if (step == 0) return tm_fail(r, "range() arg 3 must not be zero");
    bool any = step > 0 ? from < to : from > to;
    uint64_t span = step > 0 ? (uint64_t)to - (uint64_t)from : (uint64_t)from - (uint64_t)to;
    uint64_t size = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    uint64_t n = any ? (span - 1) / size + 1 : 0;
    if (n > MAX_RANGE)
        return tm_too_large(r, "a range of more than the budget of %d numbers", MAX_RANGE);
    if (!tm_step(r, (size_t)n) || !tm_new_list(r, TM_RANGE, (size_t)n, out)) return false;
    out->list->range[0] = from;
    out->list->range[1] = to;
    out->list->range[2] = step;
    for (int64_t i = 0; i < (int64_t)n; i++) out->list->items[i] = tm_int(from + i * step);
    return true;
}

/* dict(...) and namespace(...): the entries of a dict, or pairs, then the keywords. */
static bool make_dict(tm_run *r, tm_kind kind, const tm_args *a, tm_val *out)
{
    if (!tm_arg_count(r, a, 0, 1, "dict()") || !tm_new_dict(r, kind, out)) return false;
    const tm_dict *from = a->n && a->pos[0].kind == TM_DICT ? a->pos[0].dict : NULL;
    for (size_t i = 0; from && i < from->n; i++)
        if (!tm_dict_set(r, out->dict, &from->keys[i], &from->vals[i])) return false;
    tm_list pairs = {0};
    if (a->n && !from && !tm_iter(r, &a->pos[0], &pairs)) return false;
    for (size_t i = 0; i < pairs.n; i++) {
        tm_list pair;
        if (!tm_iter(r, &pairs.items[i], &pair)) return false;
        if (pair.n != 2) return tm_fail(r, "dict() needs pairs of key and value");
        if (!tm_dict_set(r, out->dict, &pair.items[0], &pair.items[1])) return false;
    }
    for (size_t i = 0; a->kw && i < a->kw->n; i++)
        if (!tm_dict_set(r, out->dict, &a->kw->keys[i], &a->kw->vals[i])) return false;
    return true;
}

static bool g_dict(tm_run *r, const tm_args *a, tm_val *out)
{
    return make_dict(r, TM_DICT, a, out);
}

static bool g_namespace(tm_run *r, const tm_args *a, tm_val *out)
{
    return make_dict(r, TM_NAMESPACE, a, out);
}

static bool g_raise(tm_run *r, const tm_args *a, tm_val *out)
{
    (void)out;
    tm_val s = tm_cstr("the template raised an exception");
    const tm_val *v = tm_arg(a, 0, "message");
    if (v && !tm_to_str(r, v, &s)) return false;
    return tm_raise(r, &s);
}

static bool g_strftime(tm_run *r, const tm_args *a, tm_val *out)
{
    char format[256], text[1024];
    struct tm when;
    const tm_val *v = tm_arg(a, 0, "format");
    if (!v || v->kind != TM_STR) return tm_fail(r, "strftime_now() needs a format");
    if (v->s.n >= sizeof format || memchr(v->s.p, '\0', v->s.n))
        return tm_fail(r, "a format of %zu bytes for strftime_now()", v->s.n);
    memcpy(format, v->s.p, v->s.n);
    format[v->s.n] = '\0';
    double now = r->now >= 0 && r->now < 2e11 ? r->now : 0;
    time_t t = (time_t)now;
    if (!gmtime_r(&t, &when)) return tm_fail(r, "strftime_now(): no such time");
    size_t n = strftime(text, sizeof text, format, &when);
    char *p = tm_alloc_text(r, n ? n : 1);
    if (!p) return false;
    memcpy(p, text, n);
    if (!an_utf8_valid(p, n)) return tm_fail(r, "strftime_now(): the text is not valid UTF-8");
    *out = tm_str(p, n);
    return true;
}

static bool make_cycle(tm_run *r, tm_kind kind, const tm_val *items, size_t n, tm_val *out)
{
    tm_cycle *c = tm_alloc(r, sizeof *c);
    if (!c || !(c->items.items = tm_alloc_array(r, n, sizeof *items))) return false;
    memcpy(c->items.items, items, n * sizeof *items);
    c->items.n = n;
    *out = (tm_val){.kind = kind, .cycle = c};
    return true;
}

static bool g_joiner(tm_run *r, const tm_args *a, tm_val *out)
{
    const tm_val *given = tm_arg(a, 0, "sep");
    tm_val sep = given ? *given : tm_cstr(", ");
    return make_cycle(r, TM_JOINER, &sep, 1, out);
}

static bool g_cycler(tm_run *r, const tm_args *a, tm_val *out)
{
    if (a->n == 0) return tm_fail(r, "at least one item has to be provided");
    return make_cycle(r, TM_CYCLER, a->pos, a->n, out);
}

static const struct {
    const char *name;
    bool (*fn)(tm_run *r, const tm_args *a, tm_val *out);
} globals[] = {{"range", g_range},           {"dict", g_dict},     {"namespace", g_namespace},
               {"raise_exception", g_raise}, {"joiner", g_joiner}, {"strftime_now", g_strftime},
               {"cycler", g_cycler}};

int tm_find_global(const tm_val *name)
{
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (tm_eq_cstr(name, globals[i].name)) return (int)i;
    return -1;
}

bool tm_call_global(tm_run *r, int id, const tm_args *a, tm_val *out)
{
    return globals[id].fn(r, a, out);
}

/* ---------------------------------------------------------------- tests */

static bool test_kind(const tm_val *name, const tm_val *v, bool *out)
{
    static const struct {
        const char *name;
        unsigned kinds; /* bits of tm_kind */
    } tests[] = {
        {"undefined", 1u << TM_UNDEF},
        {"none", 1u << TM_NONE},
        {"string", 1u << TM_STR},
        {"boolean", 1u << TM_BOOL},
        {"integer", 1u << TM_INT},
        {"float", 1u << TM_FLOAT},
        {"number", 1u << TM_INT | 1u << TM_FLOAT | 1u << TM_BOOL},
        {"mapping", 1u << TM_DICT},
        {"sequence", 1u << TM_UNDEF | 1u << TM_STR | 1u << TM_LIST | 1u << TM_TUPLE |
                         1u << TM_RANGE | 1u << TM_DICT},
        {"iterable", 1u << TM_UNDEF | 1u << TM_STR | 1u << TM_LIST | 1u << TM_TUPLE |
                         1u << TM_RANGE | 1u << TM_DICT | 1u << TM_LOOP},
        {"callable",
         1u << TM_MACRO | 1u << TM_METHOD | 1u << TM_GLOBAL | 1u << TM_JOINER | 1u << TM_UNDEF},
    };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        if (!tm_eq_cstr(name, tests[i].name)) continue;
        *out = (tests[i].kinds >> v->kind & 1u) != 0;
        return true;
    }
    *out = v->kind != TM_UNDEF;
    return tm_eq_cstr(name, "defined");
}

static bool test_remainder(tm_run *r, const tm_val *v, const tm_val *by, int64_t rest, bool *out)
{
    tm_val left;
    *out = false;
    if (!tm_arith(r, T_MOD, v, by, &left)) return false;
    if (!tm_is_number(&left)) return tm_fail(r, "a number was expected, not %s", tm_type(v));
    *out = tm_as_double(&left) == (double)rest;
    return true;
}

static bool test_order(tm_run *r, const tm_val *name, const tm_val *v, const tm_val *other,
                       bool *known, bool *out)
{
    static const char *const names[] = {"lt",          "lessthan", "<",  "le", "<=", "gt",
                                        "greaterthan", ">",        "ge", ">=", NULL};
    int i = 0, c;
    while (names[i] && !tm_eq_cstr(name, names[i])) i++;
    *known = names[i] != NULL;
    if (!*known) return true;
    if (!other) return tm_fail(r, "a test is without its argument");
    if (!tm_order(r, v, other, i < 3 ? "<" : i < 5 ? "<=" : i < 8 ? ">" : ">=", &c)) return false;
    *out = c != 2 && (i < 3 ? c < 0 : i < 5 ? c <= 0 : i < 8 ? c > 0 : c >= 0);
    return true;
}

static bool test_case_of(tm_run *r, const tm_val *v, bool upper, bool *out)
{
    tm_val s, other, low;
    bool same, is_low;
    if (!tm_to_str(r, v, &s) || !tm_upper(r, &s, &other) || !tm_lower(r, &s, &low) ||
        !tm_equal(r, &s, &other, &same) || !tm_equal(r, &s, &low, &is_low))
        return false;
    *out = upper ? same && !is_low : is_low && !same;
    return true;
}

static bool test_same(tm_run *r, const tm_val *a, const tm_val *b, bool *out)
{
    if (a->kind != b->kind) {
        *out = false;
        return true;
    }
    if (tm_is_list(a) || a->kind == TM_DICT) {
        *out = a->dict == b->dict;
        return true;
    }
    return tm_equal(r, a, b, out);
}

bool tm_test(tm_run *r, const tm_val *name, const tm_val *in, const tm_args *a, bool *out)
{
    const tm_val *arg = tm_arg(a, 0, NULL);
    bool known;
    tm_val two = tm_int(2);
    if (test_kind(name, in, out)) return true;
    if (tm_eq_cstr(name, "true") || tm_eq_cstr(name, "false")) {
        *out = in->kind == TM_BOOL && in->b == tm_eq_cstr(name, "true");
        return true;
    }
    if (tm_eq_cstr(name, "even")) return test_remainder(r, in, &two, 0, out);
    if (tm_eq_cstr(name, "odd")) return test_remainder(r, in, &two, 1, out);
    if (tm_eq_cstr(name, "lower")) return test_case_of(r, in, false, out);
    if (tm_eq_cstr(name, "upper")) return test_case_of(r, in, true, out);
    if (!test_order(r, name, in, arg, &known, out)) return false;
    if (known) return true;
    bool eq = tm_eq_cstr(name, "eq") || tm_eq_cstr(name, "equalto") || tm_eq_cstr(name, "==");
    bool ne = tm_eq_cstr(name, "ne") || tm_eq_cstr(name, "!=");
    bool contains = tm_eq_cstr(name, "in"), same = tm_eq_cstr(name, "sameas");
    bool divides = tm_eq_cstr(name, "divisibleby");
    if (!eq && !ne && !contains && !same && !divides)
        return tm_fail(r, "No test named '%.*s'.", name->s.n > 60 ? 60 : (int)name->s.n, name->s.p);
    if (!arg) return tm_fail(r, "the test '%.*s' needs an argument", (int)name->s.n, name->s.p);
    if (contains) return tm_contains(r, arg, in, out);
    if (same) return test_same(r, in, arg, out);
    if (divides) return test_remainder(r, in, arg, 0, out);
    if (!tm_equal(r, in, arg, out)) return false;
    if (ne) *out = !*out;
    return true;
}
