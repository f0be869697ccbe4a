/* template_eval.c: the value of an expression. Operators, attributes, items and slices mean what
 * they mean in Python; what is missing is Undefined as in Jinja: it prints as nothing and is false,
 * and any other use of it is an error. Integers have 64 bits, beyond them the template is refused.
 */
#include "template_impl.h"

#include <math.h>

/* ---------------------------------------------------------------- arithmetic */

static bool bad_operands(tm_run *r, const char *op, const tm_val *a, const tm_val *b)
{
    if (a->kind == TM_UNDEF) return tm_fail_undefined(r, a);
    if (b->kind == TM_UNDEF) return tm_fail_undefined(r, b);
    return tm_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", op, tm_type(a),
                   tm_type(b));
}

static bool overflow(tm_run *r)
{
    return tm_too_large(r, "an integer beyond 64 bits");
}

static bool repeat_bytes(tm_run *r, const tm_val *s, int64_t times, tm_val *out)
{
    size_t n;
    *out = tm_str("", 0);
    if (times <= 0 || s->s.n == 0) return true;
    if (!an_mul_size(s->s.n, (size_t)times, &n)) n = SIZE_MAX;
    if (!tm_step(r, n)) return false;
    char *p = tm_alloc_text(r, n);
    if (!p) return false;
    for (size_t i = 0; i < (size_t)times; i++) memcpy(p + i * s->s.n, s->s.p, s->s.n);
    *out = tm_str(p, n);
    return true;
}

static bool repeat_list(tm_run *r, const tm_val *l, int64_t times, tm_val *out)
{
    size_t n = 0, old = l->list->n;
    if (times > 0 && !an_mul_size(old, (size_t)times, &n)) n = SIZE_MAX;
    if (!tm_step(r, n) || !tm_new_list(r, l->kind, n, out)) return false;
    for (size_t i = 0; i < n; i++) out->list->items[i] = l->list->items[i % old];
    return true;
}

static bool join_lists(tm_run *r, const tm_val *a, const tm_val *b, tm_val *out)
{
    size_t n = a->list->n, m = b->list->n;
    if (!tm_step(r, n + m) || !tm_new_list(r, a->kind, n + m, out)) return false;
    if (n) memcpy(out->list->items, a->list->items, n * sizeof *out->list->items);
    if (m) memcpy(out->list->items + n, b->list->items, m * sizeof *out->list->items);
    return true;
}

static bool int_power(tm_run *r, int64_t base, int64_t exp, tm_val *out)
{
    int64_t result = 1;
    if (exp < 0) {
        if (base == 0) return tm_fail(r, "0.0 cannot be raised to a negative power");
        *out = tm_float(pow((double)base, (double)exp));
        return true;
    }
    for (; exp > 0; exp >>= 1) {
        if ((exp & 1) && __builtin_mul_overflow(result, base, &result)) return overflow(r);
        if (exp > 1 && __builtin_mul_overflow(base, base, &base)) return overflow(r);
    }
    *out = tm_int(result);
    return true;
}

static bool int_arith(tm_run *r, int op, int64_t a, int64_t b, tm_val *out)
{
    int64_t v = 0;
    bool over = false;
    switch (op) {
    case T_ADD:
        over = __builtin_add_overflow(a, b, &v);
        break;
    case T_SUB:
        over = __builtin_sub_overflow(a, b, &v);
        break;
    case T_MUL:
        over = __builtin_mul_overflow(a, b, &v);
        break;
    case T_POW:
        return int_power(r, a, b, out);
    default:
        if (b == 0) return tm_fail(r, "division by zero");
        if (b == -1) { /* INT64_MIN / -1 does not fit */
            over = op == T_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &v);
            if (op == T_MOD) v = 0;
            break;
        }
        v = op == T_FLOORDIV ? a / b : a % b;
        if (a % b != 0 && (a < 0) != (b < 0)) v = op == T_FLOORDIV ? v - 1 : v + b;
    }
    if (over) return overflow(r);
    *out = tm_int(v);
    return true;
}

static bool float_arith(tm_run *r, int op, double a, double b, tm_val *out)
{
    double v = 0;
    if ((op == T_DIV || op == T_FLOORDIV || op == T_MOD) && b == 0)
        return tm_fail(r, "division by zero");
    switch (op) {
    case T_ADD:
        v = a + b;
        break;
    case T_SUB:
        v = a - b;
        break;
    case T_MUL:
        v = a * b;
        break;
    case T_DIV:
        v = a / b;
        break;
    case T_FLOORDIV:
        v = floor(a / b);
        break;
    case T_MOD:
        v = fmod(a, b);
        if (v != 0 && (v < 0) != (b < 0)) v += b;
        break;
    case T_POW:
        if (a == 0 && b < 0) return tm_fail(r, "0.0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b)) return tm_fail(r, "a root of a negative number");
        v = pow(a, b);
        if (isinf(v) && !isinf(a) && !isinf(b)) return tm_fail(r, "a number too large");
        break;
    default:
        break;
    }
    *out = tm_float(v);
    return true;
}

bool tm_arith(tm_run *r, int op, const tm_val *a, const tm_val *b, tm_val *out)
{
    static const char *const names[] = {
        [T_ADD] = "+", [T_SUB] = "-",  [T_MUL] = "*",      [T_DIV] = "/",
        [T_MOD] = "%", [T_POW] = "**", [T_FLOORDIV] = "//"};
    bool int_a = a->kind == TM_INT || a->kind == TM_BOOL;
    bool int_b = b->kind == TM_INT || b->kind == TM_BOOL;
    if (int_a && int_b && op != T_DIV) return int_arith(r, op, tm_as_int(a), tm_as_int(b), out);
    if (tm_is_number(a) && tm_is_number(b))
        return float_arith(r, op, tm_as_double(a), tm_as_double(b), out);
    if (op == T_ADD && a->kind == TM_STR && b->kind == TM_STR) return tm_concat(r, a, b, out);
    if (op == T_ADD && a->kind == b->kind && (a->kind == TM_LIST || a->kind == TM_TUPLE))
        return join_lists(r, a, b, out);
    if (op == T_MUL && (int_a || int_b)) {
        const tm_val *seq = int_a ? b : a;
        int64_t n = tm_as_int(int_a ? a : b);
        if (seq->kind == TM_STR) return repeat_bytes(r, seq, n, out);
        if (seq->kind == TM_LIST || seq->kind == TM_TUPLE) return repeat_list(r, seq, n, out);
    }
    if (op == T_MOD && a->kind == TM_STR) return tm_format_percent(r, a, b, out);
    if (op == T_ADD && a->kind == TM_STR && b->kind != TM_UNDEF)
        return tm_fail(r, "can only concatenate str (not \"%s\") to str", tm_type(b));
    return bad_operands(r, names[op], a, b);
}

static bool eval_chain(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val left, right;
    if (!tm_eval(r, n->a, &left)) return false;
    for (const tm_node *o = n->b; o; o = o->next) {
        if (!tm_eval(r, o->a, &right)) return false;
        tm_val v;
        if (!tm_arith(r, o->op, &left, &right, &v)) return false;
        left = v;
    }
    *out = left;
    return true;
}

static bool eval_concat(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val all = tm_str("", 0), v, s;
    for (const tm_node *i = n->a; i; i = i->next) {
        if (!tm_eval(r, i, &v) || !tm_to_str(r, &v, &s) || !tm_concat(r, &all, &s, &v))
            return false;
        all = v;
    }
    *out = all;
    return true;
}

static bool eval_sign(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val v;
    if (!tm_eval(r, n->a, &v)) return false;
    if (v.kind == TM_UNDEF) return tm_fail_undefined(r, &v);
    if (!tm_is_number(&v))
        return tm_fail(r, "bad operand type for unary %c: '%s'", n->kind == N_NEG ? '-' : '+',
                       tm_type(&v));
    if (v.kind == TM_FLOAT) {
        *out = tm_float(n->kind == N_NEG ? -v.f : v.f);
        return true;
    }
    if (n->kind == N_POS) {
        *out = tm_int(tm_as_int(&v));
        return true;
    }
    return int_arith(r, T_SUB, 0, tm_as_int(&v), out);
}

/* ---------------------------------------------------------------- logic */

static bool compare(tm_run *r, int op, const tm_val *a, const tm_val *b, bool *out)
{
    int c;
    switch (op) {
    case T_EQ:
        return tm_equal(r, a, b, out);
    case T_NE:
        if (!tm_equal(r, a, b, out)) return false;
        *out = !*out;
        return true;
    case T_IN:
        return tm_contains(r, b, a, out);
    case T_NOT_IN:
        if (!tm_contains(r, b, a, out)) return false;
        *out = !*out;
        return true;
    default:
        break;
    }
    const char *name = op == T_LT ? "<" : op == T_LE ? "<=" : op == T_GT ? ">" : ">=";
    if (!tm_order(r, a, b, name, &c)) return false;
    *out = c != 2 && (op == T_LT ? c < 0 : op == T_LE ? c <= 0 : op == T_GT ? c > 0 : c >= 0);
    return true;
}

/* a < b < c holds when both do, and c is not looked at when the first does not. */
static bool eval_compare(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val left, right;
    bool holds = true;
    if (!tm_eval(r, n->a, &left)) return false;
    for (const tm_node *o = n->b; o && holds; o = o->next) {
        if (!tm_eval(r, o->a, &right) || !compare(r, o->op, &left, &right, &holds)) return false;
        left = right;
    }
    *out = tm_bool(holds);
    return true;
}

/* `and` and `or` give the operand that decided. */
static bool eval_logic(tm_run *r, const tm_node *n, tm_val *out)
{
    for (const tm_node *i = n->a; i; i = i->next) {
        if (!tm_eval(r, i, out)) return false;
        if (tm_truth(out) == (n->kind == N_OR)) return true;
    }
    return true;
}

static bool eval_condition(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val test;
    if (!tm_eval(r, n->b, &test)) return false;
    if (tm_truth(&test)) return tm_eval(r, n->a, out);
    if (n->c) return tm_eval(r, n->c, out);
    *out = (tm_val){.kind = TM_UNDEF};
    return true;
}

/* ---------------------------------------------------------------- attributes and items */

static bool bound_method(tm_run *r, const tm_val *obj, const tm_method_entry *entry, tm_val *out)
{
    tm_method *m = tm_alloc(r, sizeof *m);
    if (!m) return false;
    *m = (tm_method){*obj, entry};
    *out = (tm_val){.kind = TM_METHOD, .method = m};
    return true;
}

bool tm_getattr(tm_run *r, const tm_val *obj, const tm_val *name, tm_val *out)
{
    if (obj->kind == TM_UNDEF) return tm_fail_undefined(r, obj);
    const tm_method_entry *method = tm_find_method(obj, name);
    if (method) return bound_method(r, obj, method, out);
    if (obj->kind == TM_DICT || obj->kind == TM_NAMESPACE) {
        tm_val *found;
        if (!tm_dict_find(r, obj->dict, name, &found)) return false;
        if (found) {
            *out = *found;
            return true;
        }
    }
    if (obj->kind == TM_LOOP) {
        if (!tm_loop_attr(r, obj->loop, name, out)) return false;
        if (out->kind != TM_UNDEF || out->undef) return true;
    }
    return tm_undefined(r, tm_type(obj), name, out);
}

static bool index_string(tm_run *r, const tm_val *s, int64_t i, const tm_val *key, tm_val *out)
{
    int64_t n = (int64_t)tm_chars(s->s.p, s->s.n);
    if (!tm_step(r, s->s.n)) return false;
    if (i < 0) i += n;
    if (i < 0 || i >= n) return tm_undefined(r, "str", key, out);
    size_t at = tm_offset(s->s.p, s->s.n, (size_t)i);
    *out = tm_str(s->s.p + at, tm_char_len((unsigned char)s->s.p[at]));
    return true;
}

bool tm_getitem(tm_run *r, const tm_val *obj, const tm_val *key, tm_val *out)
{
    bool is_int = key->kind == TM_INT || key->kind == TM_BOOL;
    if (obj->kind == TM_UNDEF) return tm_fail_undefined(r, obj);
    if (obj->kind == TM_DICT && key->kind != TM_LIST && key->kind != TM_DICT) {
        tm_val *found;
        if (!tm_dict_find(r, obj->dict, key, &found)) return false;
        if (found) {
            *out = *found;
            return true;
        }
    }
    if (is_int && tm_is_list(obj)) {
        int64_t i = tm_as_int(key), n = (int64_t)obj->list->n;
        if (i < 0) i += n;
        if (i < 0 || i >= n) return tm_undefined(r, tm_type(obj), key, out);
        *out = obj->list->items[i];
        return true;
    }
    if (is_int && obj->kind == TM_STR) return index_string(r, obj, tm_as_int(key), key, out);
    if (key->kind == TM_STR) return tm_getattr(r, obj, key, out);
    return tm_undefined(r, tm_type(obj), key, out);
}

/* A bound of a slice as Python clips it. */
static bool slice_bound(tm_run *r, const tm_node *n, int64_t len, int64_t step, int64_t other,
                        int64_t *out)
{
    tm_val v;
    *out = other;
    if (!n) return true;
    if (!tm_eval(r, n, &v)) return false;
    if (v.kind == TM_NONE) return true;
    if (v.kind == TM_UNDEF) return tm_fail_undefined(r, &v);
    if (v.kind != TM_INT && v.kind != TM_BOOL)
        return tm_fail(r, "slice indices must be integers or None");
    int64_t i = tm_as_int(&v), low = step < 0 ? -1 : 0, high = step < 0 ? len - 1 : len;
    if (i < 0) i = i < -len ? low : i + len;
    *out = i < low ? low : i > high ? high : i;
    return true;
}

static bool take_items(tm_run *r, const tm_val *obj, int64_t from, int64_t step, size_t n,
                       tm_val *out)
{
    if (!tm_new_list(r, obj->kind == TM_RANGE ? TM_LIST : obj->kind, n, out)) return false;
    for (size_t i = 0; i < n; i++) out->list->items[i] = obj->list->items[from + (int64_t)i * step];
    return true;
}

static bool take_chars(tm_run *r, const tm_val *obj, int64_t from, int64_t step, size_t n,
                       tm_val *out)
{
    const char *p = obj->s.p;
    if (step == 1 || n == 0) {
        size_t a = tm_offset(p, obj->s.n, (size_t)from);
        *out = tm_str(p + a, n ? tm_offset(p + a, obj->s.n - a, n) : 0);
        return true;
    }
    tm_list chars;
    tm_sb b = {0};
    if (!tm_iter(r, obj, &chars)) return false;
    for (size_t i = 0; i < n; i++) {
        const tm_val *c = &chars.items[from + (int64_t)i * step];
        if (!tm_sb_add(r, &b, c->s.p, c->s.n)) return false;
    }
    *out = tm_sb_done(r, &b);
    return true;
}

static bool eval_slice(tm_run *r, const tm_val *obj, const tm_node *s, tm_val *out)
{
    int64_t len, step = 1, from, to;
    tm_val v;
    if (obj->kind == TM_UNDEF) return tm_fail_undefined(r, obj);
    if (!tm_is_list(obj) && obj->kind != TM_STR)
        return tm_undefined(r, tm_type(obj), &(tm_val){.kind = TM_STR, .s = {"slice", 5}}, out);
    if (!tm_len(r, obj, &len)) return false;
    if (s->c) {
        if (!tm_eval(r, s->c, &v)) return false;
        if (v.kind != TM_NONE && v.kind != TM_INT)
            return tm_fail(r, "a slice's step is no integer");
        if (v.kind == TM_INT) step = v.i;
        if (step == 0) return tm_fail(r, "slice step cannot be zero");
        if (step < -len - 1)
            step = -len - 1; /* as good as any beyond the end, and cannot overflow */
        if (step > len + 1) step = len + 1;
    }
    if (!slice_bound(r, s->a, len, step, step < 0 ? len - 1 : 0, &from)) return false;
    if (!slice_bound(r, s->b, len, step, step < 0 ? -1 : len, &to)) return false;
    size_t n = 0;
    if (step > 0 && to > from) n = (size_t)((to - from - 1) / step + 1);
    if (step < 0 && to < from) n = (size_t)((from - to - 1) / -step + 1);
    if (!tm_step(r, n)) return false;
    return obj->kind == TM_STR ? take_chars(r, obj, from, step, n, out)
                               : take_items(r, obj, from, step, n, out);
}

static bool eval_item(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val obj, key;
    if (!tm_eval(r, n->a, &obj)) return false;
    if (n->b->kind == N_SLICE) return eval_slice(r, &obj, n->b, out);
    return tm_eval(r, n->b, &key) && tm_getitem(r, &obj, &key, out);
}

/* ---------------------------------------------------------------- calls */

static bool add_star(tm_run *r, const tm_node *n, tm_args *a, size_t *cap)
{
    tm_val v;
    tm_list l = {.n = 1};
    if (!tm_eval(r, n->a, &v)) return false;
    if (n->op == TM_ARG_STAR && !tm_iter(r, &v, &l)) return false;
    if (a->n + l.n > *cap) {
        *cap = (a->n + l.n) * 2;
        tm_val *grown = tm_alloc_array(r, *cap, sizeof *grown);
        if (!grown) return false;
        if (a->n) memcpy(grown, a->pos, a->n * sizeof *grown);
        a->pos = grown;
    }
    for (size_t i = 0; i < l.n; i++) a->pos[a->n++] = n->op == TM_ARG_STAR ? l.items[i] : v;
    return true;
}

static bool add_keyword(tm_run *r, const tm_node *n, tm_args *a)
{
    tm_val v;
    if (!a->kw && !(a->kw = tm_alloc(r, sizeof *a->kw))) return false;
    if (!tm_eval(r, n->a, &v)) return false;
    if (n->op == TM_ARG_KEYWORD) return tm_dict_set(r, a->kw, &n->value, &v);
    if (v.kind != TM_DICT) return tm_fail(r, "'**' needs a dict, not '%s'", tm_type(&v));
    for (size_t i = 0; i < v.dict->n; i++)
        if (!tm_dict_set(r, a->kw, &v.dict->keys[i], &v.dict->vals[i])) return false;
    return true;
}

bool tm_eval_args(tm_run *r, const tm_node *args, tm_args *out)
{
    size_t cap = 0;
    *out = (tm_args){0};
    for (const tm_node *n = args; n; n = n->next) {
        bool positional = n->op == TM_ARG_PLAIN || n->op == TM_ARG_STAR;
        if (!(positional ? add_star(r, n, out, &cap) : add_keyword(r, n, out))) return false;
    }
    return true;
}

bool tm_call(tm_run *r, const tm_val *f, const tm_args *a, tm_val *out)
{
    switch (f->kind) {
    case TM_UNDEF:
        return tm_fail_undefined(r, f);
    case TM_MACRO:
        return tm_call_macro(r, f->macro, a, out);
    case TM_METHOD:
        return tm_call_method(r, f->method, a, out);
    case TM_GLOBAL:
        return tm_call_global(r, f->global, a, out);
    case TM_JOINER:
        *out = f->cycle->at++ ? f->cycle->items.items[0] : tm_str("", 0);
        return true;
    default:
        return tm_fail(r, "'%s' object is not callable", tm_type(f));
    }
}

static bool eval_call(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val f;
    tm_args a;
    if (!tm_eval(r, n->a, &f) || !tm_eval_args(r, n->b, &a)) return false;
    r->line = n->line;
    return tm_call(r, &f, &a, out);
}

static bool eval_filter(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val in;
    tm_args a;
    if (!tm_eval(r, n->a, &in) || !tm_eval_args(r, n->b, &a)) return false;
    r->line = n->line;
    return tm_filter(r, &n->value, &in, &a, out);
}

static bool eval_test(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val in;
    tm_args a;
    bool holds;
    if (!tm_eval(r, n->a, &in) || !tm_eval_args(r, n->b, &a)) return false;
    r->line = n->line;
    if (!tm_test(r, &n->value, &in, &a, &holds)) return false;
    *out = tm_bool(holds);
    return true;
}

/* ---------------------------------------------------------------- the walk */

static bool eval_list(tm_run *r, const tm_node *n, tm_val *out)
{
    size_t count = 0, i = 0;
    for (const tm_node *x = n->a; x; x = x->next) count++;
    if (!tm_new_list(r, n->kind == N_LIST ? TM_LIST : TM_TUPLE, count, out)) return false;
    tm_val *items = out->list->items;
    for (const tm_node *x = n->a; x; x = x->next)
        if (!tm_eval(r, x, &items[i++])) return false;
    return true;
}

static bool eval_dict(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val key, val;
    if (!tm_new_dict(r, TM_DICT, out)) return false;
    for (const tm_node *x = n->a; x; x = x->next->next)
        if (!tm_eval(r, x, &key) || !tm_eval(r, x->next, &val) ||
            !tm_dict_set(r, out->dict, &key, &val))
            return false;
    return true;
}

static bool eval_node(tm_run *r, const tm_node *n, tm_val *out)
{
    tm_val v;
    switch (n->kind) {
    case N_CONST:
        *out = n->value;
        return true;
    case N_NAME:
        return tm_lookup(r, &n->value, out);
    case N_LIST:
    case N_TUPLE:
        return eval_list(r, n, out);
    case N_DICT:
        return eval_dict(r, n, out);
    case N_CHAIN:
        return eval_chain(r, n, out);
    case N_CONCAT:
        return eval_concat(r, n, out);
    case N_COMPARE:
        return eval_compare(r, n, out);
    case N_AND:
    case N_OR:
        return eval_logic(r, n, out);
    case N_NOT:
        if (!tm_eval(r, n->a, &v)) return false;
        *out = tm_bool(!tm_truth(&v));
        return true;
    case N_NEG:
    case N_POS:
        return eval_sign(r, n, out);
    case N_COND:
        return eval_condition(r, n, out);
    case N_ATTR:
        return tm_eval(r, n->a, &v) && tm_getattr(r, &v, &n->value, out);
    case N_ITEM:
        return eval_item(r, n, out);
    case N_CALL:
        return eval_call(r, n, out);
    case N_FILTER:
        return eval_filter(r, n, out);
    case N_TEST:
        return eval_test(r, n, out);
    default:
        return tm_fail(r, "not an expression");
    }
}

bool tm_eval(tm_run *r, const tm_node *n, tm_val *out)
{
    r->line = n->line;
    if (!tm_step(r, 0) || !tm_enter(r)) return false;
    bool ok = eval_node(r, n, out);
    tm_leave(r);
    return ok;
}
