/* template.c: the public face of chat templates, and what lexer, parser and renderer share: errors
 * with a line, budgets, the arena. */
#include "template_impl.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

void an_template_limits_default(an_template_limits *l)
{
    *l = (an_template_limits){.max_source = (size_t)1 << 20,
                              .max_output = (size_t)8 << 20,
                              .max_memory = (size_t)64 << 20,
                              .max_steps = 10000000,
                              .max_depth = 100};
}

/* ---------------------------------------------------------------- errors and budgets */

static bool fail(tm_run *r, an_status s, const char *fmt, va_list ap)
{
    if (r->failed) return false;
    r->failed = true;
    char what[800];
    vsnprintf(what, sizeof what, fmt, ap);
    an_fail(r->err, s, "chat template, line %d: %s", r->line, what);
    return false;
}

bool tm_fail(tm_run *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail(r, AN_INVALID, fmt, ap);
    va_end(ap);
    return false;
}

bool tm_raise(tm_run *r, const tm_val *message)
{
    if (r->failed) return false;
    r->failed = true;
    an_fail(r->err, AN_INVALID, "%.*s", message->s.n > 1000 ? 1000 : (int)message->s.n,
            message->s.p);
    return false;
}

bool tm_too_large(tm_run *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fail(r, AN_TOO_LARGE, fmt, ap);
    va_end(ap);
    return false;
}

bool tm_step(tm_run *r, size_t bytes)
{
    size_t cost = 1 + bytes / 32;
    if (cost > (size_t)r->steps) {
        r->steps = 0;
        return tm_too_large(r, "more than the budget of %d steps", r->limits.max_steps);
    }
    r->steps -= (long)cost;
    return true;
}

bool tm_enter(tm_run *r)
{
    if (r->depth >= r->max_depth)
        return tm_too_large(r, "nested deeper than the budget of %d levels", r->limits.max_depth);
    r->depth++;
    return true;
}

void tm_leave(tm_run *r)
{
    r->depth--;
}

/* ---------------------------------------------------------------- the arena */

struct tm_chunk {
    tm_chunk *next;
    size_t size;
    _Alignas(16) char bytes[];
};

static bool new_chunk(tm_run *r, size_t need)
{
    tm_arena *a = &r->arena;
    size_t size = need > SIZE_MAX / 2 ? need : need + need / 2;
    if (size < 16384) size = 16384;
    if (size > a->max - a->used) size = need;
    if (need > a->max - a->used || size > SIZE_MAX - sizeof(tm_chunk))
        return tm_too_large(r, "more than the budget of %zu bytes of memory", a->max);
    tm_chunk *c = malloc(sizeof *c + size);
    if (!c) {
        r->failed = true;
        an_fail(r->err, AN_NO_MEMORY, "chat template: out of memory for %zu bytes", size);
        return false;
    }
    c->next = a->chunks;
    c->size = size;
    a->chunks = c;
    a->used += size;
    a->cur = c->bytes;
    a->end = c->bytes + size;
    return true;
}

char *tm_alloc_text(tm_run *r, size_t size)
{
    tm_arena *a = &r->arena;
    if (r->failed) return NULL;
    if ((!a->cur || size > (size_t)(a->end - a->cur)) && !new_chunk(r, size)) return NULL;
    char *p = a->cur;
    a->cur += size;
    return p;
}

void *tm_alloc(tm_run *r, size_t size)
{
    tm_arena *a = &r->arena;
    if (size > SIZE_MAX - 32) {
        tm_too_large(r, "more than the budget of %zu bytes of memory", a->max);
        return NULL;
    }
    size_t pad = (size_t)(-(uintptr_t)a->cur & 15u);
    if (!a->cur || size + pad > (size_t)(a->end - a->cur)) {
        if (r->failed || !new_chunk(r, size)) return NULL;
        pad = 0; /* a chunk begins aligned */
    }
    char *p = tm_alloc_text(r, size + pad);
    return p ? memset(p + pad, 0, size) : NULL;
}

void *tm_alloc_array(tm_run *r, size_t n, size_t size)
{
    size_t bytes;
    if (!an_mul_size(n, size, &bytes)) bytes = SIZE_MAX;
    return tm_alloc(r, bytes);
}

bool tm_extend(tm_run *r, const char *end, size_t more)
{
    tm_arena *a = &r->arena;
    if (!a->cur || end != a->cur || more > (size_t)(a->end - a->cur)) return false;
    a->cur += more;
    return true;
}

void tm_arena_free(tm_arena *a)
{
    while (a->chunks) {
        tm_chunk *c = a->chunks;
        a->chunks = c->next;
        free(c);
    }
    *a = (tm_arena){.max = a->max};
}

/* ---------------------------------------------------------------- the public functions */

/* Line ends become \n and one at the very end is dropped, as Jinja does with a template. */
static size_t normalise(char *s, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '\r') {
            s[n++] = '\n';
            if (i + 1 < len && s[i + 1] == '\n') i++;
        } else {
            s[n++] = s[i];
        }
    }
    if (n > 0 && s[n - 1] == '\n') n--;
    return n;
}

static const char *interned(const an_template *t, const char *name)
{
    const tm_val *v = tm_dict_get_cstr(&t->names, name);
    return v ? v->s.p : NULL;
}

an_status an_template_parse(const char *source, size_t len, const an_template_limits *limits,
                            an_template **out, an_error *err)
{
    *out = NULL;
    an_template_limits l;
    an_template_limits_default(&l);
    if (limits) l = *limits;
    if (len > l.max_source)
        return an_fail(err, AN_TOO_LARGE, "chat template: %zu bytes, the budget is %zu", len,
                       l.max_source);
    if (!an_utf8_valid(source, len))
        return an_fail(err, AN_INVALID, "chat template: not valid UTF-8");
    an_template *t = calloc(1, sizeof *t);
    char *copy = malloc(len + 1), *given = malloc(len + 1);
    if (!t || !copy || !given) {
        free(t);
        free(copy);
        free(given);
        return an_fail(err, AN_NO_MEMORY, "chat template: out of memory");
    }
    if (len) memcpy(copy, source, len);
    if (len) memcpy(given, source, len);
    given[len] = '\0';
    t->source = copy;
    t->given = given;
    t->limits = l;
    an_error mine = {0};
    tm_run r = {.limits = l,
                .err = &mine,
                .arena.max = l.max_memory,
                .steps = l.max_steps,
                .max_depth = l.max_depth,
                .line = 1};
    tm_parser p = {.r = &r};
    tm_token *tokens;
    bool ok = tm_lex(&r, copy, normalise(copy, len), &tokens);
    if (ok) {
        p.at = tokens;
        r.line = 1;
        ok = tm_parse(&p, &t->body);
    }
    t->arena = r.arena;
    t->names = p.names;
    t->name_loop = interned(t, "loop");
    t->name_caller = interned(t, "caller");
    t->name_varargs = interned(t, "varargs");
    t->name_kwargs = interned(t, "kwargs");
    if (!ok) {
        an_template_free(t);
        return an_fail(err, mine.status, "%s", mine.message);
    }
    *out = t;
    return AN_OK;
}

void an_template_free(an_template *t)
{
    if (!t) return;
    tm_arena_free(&t->arena);
    free(t->source);
    free(t->given);
    free(t);
}

const char *an_template_source(const an_template *t)
{
    return t->given;
}

bool an_template_uses(const an_template *t, const char *name)
{
    return tm_dict_get_cstr(&t->names, name) != NULL;
}

an_status an_template_render(const an_template *t, const json_t *vars, double now, an_buf *out,
                             an_error *err)
{
    an_error mine = {0};
    tm_run r = {.t = t,
                .limits = t->limits,
                .err = &mine,
                .arena.max = t->limits.max_memory,
                .steps = t->limits.max_steps,
                .max_depth = t->limits.max_depth > 10000 ? 100000 : t->limits.max_depth * 10,
                .out = out,
                .out_start = out->len,
                .now = now};
    tm_val root;
    if (!vars || !json_is_object(vars))
        return an_fail(err, AN_INVALID, "chat template: its variables are not an object");
    bool ok = tm_from_json(&r, vars, &root);
    if (ok) {
        tm_frame top = {0};
        r.vars = root.dict;
        r.frame = &top;
        ok = tm_exec(&r, t->body);
    }
    tm_arena_free(&r.arena);
    if (!ok) return an_fail(err, mine.status ? mine.status : AN_INTERNAL, "%s", mine.message);
    return AN_OK;
}
