/* template_method.c: the methods of dictionaries, lists, loops and cyclers that templates call
 * (those of strings are in template_strmethod.c). Those that would change a list or a dictionary do
 * not exist here, as in transformers' sandbox. */
#include "template_impl.h"

/* ---------------------------------------------------------------- dictionaries and lists */

static bool m_keys(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    if (!tm_new_list(r, TM_LIST, 0, out)) return false;
    out->list->items = self->dict->keys;
    out->list->n = self->dict->n;
    return true;
}

static bool m_values(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    if (!tm_new_list(r, TM_LIST, 0, out)) return false;
    out->list->items = self->dict->vals;
    out->list->n = self->dict->n;
    return true;
}

bool tm_dict_items(tm_run *r, const tm_dict *d, tm_val *out)
{
    if (!tm_new_list(r, TM_LIST, d->n, out)) return false;
    for (size_t i = 0; i < d->n; i++) {
        tm_val *pair = &out->list->items[i];
        if (!tm_step(r, 0) || !tm_new_list(r, TM_TUPLE, 2, pair)) return false;
        pair->list->items[0] = d->keys[i];
        pair->list->items[1] = d->vals[i];
    }
    return true;
}

static bool m_items(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)a;
    return tm_dict_items(r, self->dict, out);
}

static bool m_get(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    const tm_val *key = tm_arg(a, 0, NULL), *other = tm_arg(a, 1, NULL);
    tm_val *found;
    if (!key) return tm_fail(r, "get() needs a key");
    if (!tm_dict_find(r, self->dict, key, &found)) return false;
    *out = found ? *found : other ? *other : tm_none();
    return true;
}

static bool m_copy(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)r;
    (void)a;
    *out = *self; /* nothing can change it */
    return true;
}

static bool m_list_index(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    const tm_val *v = tm_arg(a, 0, NULL);
    if (!v) return tm_fail(r, "index() needs a value");
    for (size_t i = 0; i < self->list->n; i++) {
        bool same;
        if (!tm_equal(r, v, &self->list->items[i], &same)) return false;
        *out = tm_int((int64_t)i);
        if (same) return true;
    }
    return tm_fail(r, "the value is not in list");
}

static bool m_list_count(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    const tm_val *v = tm_arg(a, 0, NULL);
    if (!v) return tm_fail(r, "count() needs a value");
    *out = tm_int(0);
    for (size_t i = 0; i < self->list->n; i++) {
        bool same;
        if (!tm_equal(r, v, &self->list->items[i], &same)) return false;
        out->i += same;
    }
    return true;
}

/* ---------------------------------------------------------------- loops and cyclers */

static bool m_cycle(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    if (a->n == 0) return tm_fail(r, "no items for cycling given");
    *out = a->pos[self->loop->at % a->n];
    return true;
}

static bool m_changed(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    tm_val now;
    bool same;
    if (!tm_new_list(r, TM_TUPLE, 0, &now)) return false;
    now.list->items = a->pos;
    now.list->n = a->n;
    if (!tm_equal(r, &now, &self->loop->last_changed, &same)) return false;
    self->loop->last_changed = now;
    *out = tm_bool(!same);
    return true;
}

static bool m_next(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)r;
    (void)a;
    tm_cycle *c = self->cycle;
    *out = c->items.items[c->at];
    c->at = (c->at + 1) % c->items.n;
    return true;
}

static bool m_reset(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out)
{
    (void)r;
    (void)a;
    self->cycle->at = 0;
    *out = tm_none();
    return true;
}

/* ---------------------------------------------------------------- the table */

static const tm_method_entry methods[] = {{TM_DICT, "keys", 0, m_keys},
                                          {TM_DICT, "values", 0, m_values},
                                          {TM_DICT, "items", 0, m_items},
                                          {TM_DICT, "get", 2, m_get},
                                          {TM_DICT, "copy", 0, m_copy},
                                          {TM_LIST, "index", 1, m_list_index},
                                          {TM_LIST, "count", 1, m_list_count},
                                          {TM_LIST, "copy", 0, m_copy},
                                          {TM_TUPLE, "index", 1, m_list_index},
                                          {TM_TUPLE, "count", 1, m_list_count},
                                          {TM_LOOP, "cycle", SIZE_MAX, m_cycle},
                                          {TM_LOOP, "changed", SIZE_MAX, m_changed},
                                          {TM_CYCLER, "next", 0, m_next},
                                          {TM_CYCLER, "reset", 0, m_reset},
                                          {TM_DICT, NULL, 0, NULL}};

const tm_method_entry *tm_find_method(const tm_val *self, const tm_val *name)
{
    const tm_method_entry *m = self->kind == TM_STR ? tm_string_methods : methods;
    for (; m->name; m++)
        if (m->of == self->kind && tm_eq_cstr(name, m->name)) return m;
    return NULL;
}

bool tm_call_method(tm_run *r, const tm_method *m, const tm_args *a, tm_val *out)
{
    return tm_arg_count(r, a, 0, m->entry->max_args, m->entry->name) &&
           m->entry->fn(r, &m->self, a, out);
}
