/* template_exec.c: statements. Loops, macros, `with` and captured blocks have a scope of their own:
 * what is set inside is gone after them (a namespace is the way around), as in Jinja. */
#include "template_impl.h"

/* ---------------------------------------------------------------- scopes */

static tm_frame *new_frame(tm_run *r, tm_frame *parent)
{
    tm_frame *f = tm_alloc(r, sizeof *f);
    if (f) f->parent = parent;
    return f;
}

static bool set_var(tm_run *r, tm_frame *f, const char *name, const tm_val *v)
{
    for (size_t i = 0; i < f->n; i++) {
        if (f->vars[i].name != name) continue;
        f->vars[i].val = *v;
        return true;
    }
    if (f->n == f->cap) {
        size_t cap = f->cap ? f->cap * 2 : 4;
        tm_var *grown = tm_alloc_array(r, cap, sizeof *grown);
        if (!grown) return false;
        if (f->n) memcpy(grown, f->vars, f->n * sizeof *grown);
        f->vars = grown;
        f->cap = cap;
    }
    f->vars[f->n++] = (tm_var){name, *v};
    return tm_step(r, f->n);
}

bool tm_lookup(tm_run *r, const tm_val *name, tm_val *out)
{
    size_t seen = 0;
    for (const tm_frame *f = r->frame; f; f = f->parent) {
        for (size_t i = 0; i < f->n; i++) {
            if (f->vars[i].name != name->s.p) continue;
            *out = f->vars[i].val;
            return tm_step(r, seen + i);
        }
        seen += f->n + 1;
    }
    tm_val *found;
    if (!tm_step(r, seen) || !tm_dict_find(r, r->vars, name, &found)) return false;
    if (found) {
        *out = *found;
        return true;
    }
    int global = tm_find_global(name);
    if (global < 0) return tm_undefined(r, NULL, name, out);
    *out = (tm_val){.kind = TM_GLOBAL, .global = global};
    return true;
}

static bool assign(tm_run *r, const tm_node *target, const tm_val *v)
{
    if (target->kind == N_NAME) return set_var(r, r->frame, target->value.s.p, v);
    if (target->kind == N_NSREF) {
        tm_val ns;
        if (!tm_lookup(r, &target->a->value, &ns)) return false;
        if (ns.kind != TM_NAMESPACE)
            return tm_fail(r, "cannot assign attribute on non-namespace object");
        return tm_dict_set(r, ns.dict, &target->value, v);
    }
    tm_list items;
    size_t n = 0, i = 0;
    if (v->kind == TM_UNDEF) return tm_fail_undefined(r, v);
    if (!tm_iter(r, v, &items)) return false;
    for (const tm_node *t = target->a; t; t = t->next) n++;
    if (items.n < n)
        return tm_fail(r, "not enough values to unpack (expected %zu, got %zu)", n, items.n);
    if (items.n > n) return tm_fail(r, "too many values to unpack (expected %zu)", n);
    for (const tm_node *t = target->a; t; t = t->next)
        if (!assign(r, t, &items.items[i++])) return false;
    return true;
}

/* ---------------------------------------------------------------- output */

static bool emit(tm_run *r, const char *p, size_t n)
{
    if (!tm_step(r, n)) return false;
    if (r->capture) return tm_sb_add(r, r->capture, p, n);
    size_t have = r->out->len - r->out_start;
    if (n > r->limits.max_output || have > r->limits.max_output - n ||
        n > r->out->max - r->out->len)
        return tm_too_large(r, "more than the budget of %zu bytes of output",
                            r->limits.max_output < r->out->max ? r->limits.max_output
                                                               : r->out->max);
    return an_buf_add(r->out, p, n) || tm_fail(r, "out of memory for its output");
}

static bool print(tm_run *r, const tm_node *n)
{
    tm_val v, s;
    return tm_eval(r, n->a, &v) && tm_to_str(r, &v, &s) && emit(r, s.s.p, s.s.n);
}

/* The text a body writes, in a scope of its own. */
static bool capture(tm_run *r, const tm_node *body, tm_val *out)
{
    tm_sb text = {0}, *before = r->capture;
    tm_frame *frame = r->frame;
    if (!(r->frame = new_frame(r, frame))) return false;
    r->capture = &text;
    bool ok = tm_exec(r, body);
    r->capture = before;
    r->frame = frame;
    if (ok) *out = tm_sb_done(r, &text);
    return ok;
}

/* The filters of a {% filter %} or {% set %} block: the innermost works on the text. */
static bool apply_filters(tm_run *r, const tm_node *f, tm_val *text)
{
    tm_val v;
    tm_args a;
    if (!f) return true;
    if (!tm_enter(r)) return false;
    bool ok = apply_filters(r, f->a, text) && tm_eval_args(r, f->b, &a) &&
              tm_filter(r, &f->value, text, &a, &v);
    tm_leave(r);
    if (ok) *text = v;
    return ok;
}

/* ---------------------------------------------------------------- loops */

bool tm_loop_attr(tm_run *r, tm_loop *l, const tm_val *name, tm_val *out)
{
    static const char *const names[] = {"index",    "index0", "revindex", "revindex0",
                                        "first",    "last",   "length",   "previtem",
                                        "nextitem", "depth",  "depth0",   NULL};
    int64_t at = (int64_t)l->at, n = (int64_t)l->items.n;
    int which = 0;
    while (names[which] && !tm_eq_cstr(name, names[which])) which++;
    switch (which) {
    case 0:
        *out = tm_int(at + 1);
        return true;
    case 1:
        *out = tm_int(at);
        return true;
    case 2:
        *out = tm_int(n - at);
        return true;
    case 3:
        *out = tm_int(n - at - 1);
        return true;
    case 4:
        *out = tm_bool(at == 0);
        return true;
    case 5:
        *out = tm_bool(at + 1 == n);
        return true;
    case 6:
        *out = tm_int(n);
        return true;
    case 7:
        if (at == 0) break;
        *out = l->items.items[at - 1];
        return true;
    case 8:
        if (at + 1 >= n) break;
        *out = l->items.items[at + 1];
        return true;
    case 9:
        *out = tm_int(1); /* only recursive loops go deeper, and those are refused */
        return true;
    case 10:
        *out = tm_int(0);
        return true;
    default:
        *out = (tm_val){.kind = TM_UNDEF};
        return true;
    }
    return tm_undefined(r, "LoopContext", name, out);
}

/* A fresh scope for the next round; the old one is used again unless a macro remembers it. */
static bool fresh_round(tm_run *r, tm_frame *outer)
{
    if (r->frame->captured) return (r->frame = new_frame(r, outer)) != NULL;
    r->frame->n = 0;
    return true;
}

/* Keeps the items for which the loop's `if` holds. */
static bool filter_items(tm_run *r, const tm_node *n, tm_frame *outer, tm_list *items)
{
    tm_val kept;
    size_t count = 0;
    if (!tm_new_list(r, TM_LIST, items->n, &kept)) return false;
    for (size_t i = 0; i < items->n; i++) {
        tm_val test;
        if (!fresh_round(r, outer) || !assign(r, n->a, &items->items[i]) ||
            !tm_eval(r, n->e, &test))
            return false;
        if (tm_truth(&test)) kept.list->items[count++] = items->items[i];
    }
    items->items = kept.list->items;
    items->n = count;
    return true;
}

static bool rounds(tm_run *r, const tm_node *n, tm_frame *outer, tm_loop *loop)
{
    tm_val self = {.kind = TM_LOOP, .loop = loop};
    for (loop->at = 0; loop->at < loop->items.n; loop->at++) {
        if (!fresh_round(r, outer) || !assign(r, n->a, &loop->items.items[loop->at])) return false;
        if (r->t->name_loop && !set_var(r, r->frame, r->t->name_loop, &self)) return false;
        if (!tm_exec(r, n->c)) return false;
        int jump = r->jump;
        r->jump = 0;
        if (jump == N_BREAK) return true;
    }
    return true;
}

static bool exec_for(tm_run *r, const tm_node *n)
{
    tm_val over;
    tm_frame *outer = r->frame;
    tm_loop *loop = tm_alloc(r, sizeof *loop);
    if (!loop || !tm_eval(r, n->b, &over) || !tm_iter(r, &over, &loop->items)) return false;
    if (!(r->frame = new_frame(r, outer))) return false;
    if (n->e && !filter_items(r, n, outer, &loop->items)) return false;
    bool ok = rounds(r, n, outer, loop);
    if (ok && loop->items.n == 0 && n->d) ok = fresh_round(r, outer) && tm_exec(r, n->d);
    r->frame = outer;
    return ok;
}

/* ---------------------------------------------------------------- macros */

static bool new_macro(tm_run *r, const tm_node *def, tm_val *out)
{
    tm_macro *m = tm_alloc(r, sizeof *m);
    if (!m) return false;
    *m = (tm_macro){def, r->frame};
    for (tm_frame *f = r->frame; f && !f->captured; f = f->parent) f->captured = true;
    *out = (tm_val){.kind = TM_MACRO, .macro = m};
    return true;
}

static bool is_param(const tm_node *def, const tm_val *name)
{
    for (const tm_node *p = def->a; p; p = p->next)
        if (name->kind == TM_STR && p->value.s.n == name->s.n &&
            memcmp(p->value.s.p, name->s.p, name->s.n) == 0)
            return true;
    return false;
}

/* Arguments no parameter took: varargs and kwargs if the template knows them, else an error. */
static bool spare_arguments(tm_run *r, const tm_node *def, const tm_args *a, size_t taken)
{
    tm_val rest, kwargs;
    const tm_val *name = &def->value;
    size_t spare = a->n > taken ? a->n - taken : 0;
    if (spare && !r->t->name_varargs)
        return tm_fail(r, "macro '%.*s' takes not more than %zu argument(s)", (int)name->s.n,
                       name->s.p, taken);
    if (r->t->name_varargs) {
        if (!tm_new_list(r, TM_TUPLE, spare, &rest)) return false;
        for (size_t i = 0; i < spare; i++) rest.list->items[i] = a->pos[taken + i];
        if (!set_var(r, r->frame, r->t->name_varargs, &rest)) return false;
    }
    if (!tm_new_dict(r, TM_DICT, &kwargs)) return false;
    for (size_t i = 0; a->kw && i < a->kw->n; i++) {
        const tm_val *key = &a->kw->keys[i], *val = &a->kw->vals[i];
        if (is_param(def, key)) continue;
        bool caller = tm_eq_cstr(key, "caller");
        if (caller && r->t->name_caller) {
            if (!set_var(r, r->frame, r->t->name_caller, val)) return false;
        } else if (!r->t->name_kwargs) {
            return tm_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", (int)name->s.n,
                           name->s.p, (int)key->s.n, key->s.p);
        } else if (!tm_dict_set(r, kwargs.dict, key, val)) {
            return false;
        }
    }
    return !r->t->name_kwargs || set_var(r, r->frame, r->t->name_kwargs, &kwargs);
}

static bool bind_parameters(tm_run *r, const tm_node *def, const tm_args *a)
{
    size_t i = 0;
    for (const tm_node *p = def->a; p; p = p->next, i++) {
        tm_val v, *found = NULL;
        if (a->kw && !tm_dict_find(r, a->kw, &p->value, &found)) return false;
        if (i < a->n)
            v = a->pos[i];
        else if (found)
            v = *found;
        else if (!p->a) {
            if (!tm_undefined(r, NULL, &p->value, &v)) return false;
        } else if (!tm_eval(r, p->a, &v)) {
            return false;
        }
        if (!set_var(r, r->frame, p->value.s.p, &v)) return false;
    }
    return spare_arguments(r, def, a, i);
}

bool tm_call_macro(tm_run *r, const tm_macro *m, const tm_args *a, tm_val *out)
{
    if (r->calls >= r->limits.max_depth)
        return tm_too_large(r, "macros called deeper than the budget of %d levels",
                            r->limits.max_depth);
    tm_frame *frame = r->frame;
    r->calls++;
    bool ok = (r->frame = new_frame(r, m->closure)) != NULL && bind_parameters(r, m->def, a) &&
              capture(r, m->def->c, out);
    r->frame = frame;
    r->calls--;
    return ok;
}

static bool exec_call(tm_run *r, const tm_node *n)
{
    tm_val f, caller, v, s, key = tm_str("caller", 6);
    tm_args a;
    if (!tm_eval(r, n->a->a, &f) || !tm_eval_args(r, n->a->b, &a) || !new_macro(r, n->b, &caller))
        return false;
    if (!a.kw && !(a.kw = tm_alloc(r, sizeof *a.kw))) return false;
    return tm_dict_set(r, a.kw, &key, &caller) && tm_call(r, &f, &a, &v) && tm_to_str(r, &v, &s) &&
           emit(r, s.s.p, s.s.n);
}

/* ---------------------------------------------------------------- the walk */

static bool exec_if(tm_run *r, const tm_node *n)
{
    for (const tm_node *b = n->a; b; b = b->next) {
        tm_val test;
        if (b->a && !tm_eval(r, b->a, &test)) return false;
        if (!b->a || tm_truth(&test)) return tm_exec(r, b->b);
    }
    return true;
}

/* All values are those of the scope around. */
static bool exec_with(tm_run *r, const tm_node *n)
{
    tm_frame *outer = r->frame, *inner = new_frame(r, outer);
    if (!inner) return false;
    for (const tm_node *s = n->a; s; s = s->next) {
        tm_val v;
        if (!tm_eval(r, s->b, &v)) return false;
        r->frame = inner;
        bool ok = assign(r, s->a, &v);
        r->frame = outer;
        if (!ok) return false;
    }
    r->frame = inner;
    bool ok = tm_exec(r, n->c);
    r->frame = outer;
    return ok;
}

static bool exec_node(tm_run *r, const tm_node *n)
{
    tm_val v;
    switch (n->kind) {
    case N_TEXT:
        return emit(r, n->value.s.p, n->value.s.n);
    case N_PRINT:
        return print(r, n);
    case N_IF:
        return exec_if(r, n);
    case N_FOR:
        return exec_for(r, n);
    case N_SET:
        return tm_eval(r, n->b, &v) && assign(r, n->a, &v);
    case N_SETBLOCK:
        return capture(r, n->c, &v) && apply_filters(r, n->b, &v) && assign(r, n->a, &v);
    case N_MACRO:
        return new_macro(r, n, &v) && set_var(r, r->frame, n->value.s.p, &v);
    case N_CALLBLOCK:
        return exec_call(r, n);
    case N_FILTERBLOCK: {
        tm_val s;
        return capture(r, n->c, &v) && apply_filters(r, n->b, &v) && tm_to_str(r, &v, &s) &&
               emit(r, s.s.p, s.s.n);
    }
    case N_WITH:
        return exec_with(r, n);
    case N_BREAK:
    case N_CONTINUE:
        r->jump = (int)n->kind;
        return true;
    default:
        return tm_fail(r, "not a statement");
    }
}

bool tm_exec(tm_run *r, const tm_node *body)
{
    if (!tm_enter(r)) return false;
    bool ok = true;
    for (const tm_node *n = body; n && ok && !r->jump; n = n->next) {
        r->line = n->line;
        ok = tm_step(r, 0) && exec_node(r, n);
    }
    tm_leave(r);
    return ok;
}
