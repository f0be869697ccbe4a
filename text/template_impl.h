/* template_impl.h: inside of the template engine. A template is lexed and parsed once to a tree of
 * nodes (template_lex.c, template_parse.c, template_expr.c); rendering walks that tree
 * (template_exec.c, template_eval.c) over values that live in an arena and die with the rendering.
 * Values never change once made (transformers' sandbox forbids it too), but for namespaces.
 *
 * Every function that can fail returns false after tm_fail or tm_too_large; the first error stays.
 */
#ifndef ANNEAL_TEXT_TEMPLATE_IMPL_H
#define ANNEAL_TEXT_TEMPLATE_IMPL_H

#include "anneal/template.h"

typedef struct tm_run tm_run;
typedef struct tm_node tm_node;
typedef struct tm_val tm_val;

/* ---------------------------------------------------------------- values (template_value.c) */

typedef enum tm_kind {
    TM_UNDEF, /* of: what was asked, s: the name */
    TM_NONE,
    TM_BOOL,
    TM_INT,
    TM_FLOAT,
    TM_STR,
    TM_LIST,
    TM_TUPLE,
    TM_RANGE, /* a list that prints as range(...) */
    TM_DICT,
    TM_NAMESPACE, /* a dict that can change */
    TM_MACRO,
    TM_METHOD, /* a bound method of a string, a dict, a list, a loop */
    TM_GLOBAL, /* range, namespace, raise_exception ... */
    TM_LOOP,
    TM_JOINER,
    TM_CYCLER
} tm_kind;

typedef struct tm_list {
    tm_val *items;
    size_t n;
    int64_t range[3]; /* TM_RANGE: start, stop, step */
} tm_list;

typedef struct tm_dict {
    tm_val *keys, *vals; /* in order of insertion */
    size_t n, cap;
    uint32_t *index; /* open addressing, entry + 1; NULL while small */
    size_t n_index;  /* a power of two */
} tm_dict;

typedef struct tm_undef {
    const char *of; /* type of the object asked, NULL = a variable */
    const tm_val *key;
} tm_undef;

typedef struct tm_method tm_method;
typedef struct tm_macro tm_macro;
typedef struct tm_loop tm_loop;
typedef struct tm_cycle tm_cycle;

struct tm_val {
    tm_kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        struct {
            const char *p;
            size_t n;
        } s;
        tm_list *list;
        tm_dict *dict;
        tm_undef *undef; /* NULL = nameless */
        tm_method *method;
        tm_macro *macro;
        tm_loop *loop;
        tm_cycle *cycle; /* TM_JOINER, TM_CYCLER */
        int global;
    };
};

typedef struct tm_args tm_args;
typedef struct tm_method_entry {
    tm_kind of;
    const char *name;
    size_t max_args;
    bool (*fn)(tm_run *r, const tm_val *self, const tm_args *a, tm_val *out);
} tm_method_entry;

struct tm_method {
    tm_val self;
    const tm_method_entry *entry;
};

struct tm_cycle {
    tm_list items; /* joiner: the separator alone */
    size_t at;
};

/* Arguments of a call, filter or test, evaluated. */
struct tm_args {
    tm_val *pos;
    size_t n;
    tm_dict *kw; /* NULL = none */
};

static inline tm_val tm_none(void)
{
    return (tm_val){.kind = TM_NONE};
}
static inline tm_val tm_bool(bool b)
{
    return (tm_val){.kind = TM_BOOL, .b = b};
}
static inline tm_val tm_int(int64_t i)
{
    return (tm_val){.kind = TM_INT, .i = i};
}
static inline tm_val tm_float(double f)
{
    return (tm_val){.kind = TM_FLOAT, .f = f};
}
static inline tm_val tm_str(const char *p, size_t n)
{
    return (tm_val){.kind = TM_STR, .s = {p, n}};
}
static inline tm_val tm_cstr(const char *p)
{
    return tm_str(p, strlen(p));
}
static inline bool tm_is_list(const tm_val *v)
{
    return v->kind == TM_LIST || v->kind == TM_TUPLE || v->kind == TM_RANGE;
}
static inline bool tm_is_number(const tm_val *v)
{
    return v->kind == TM_INT || v->kind == TM_FLOAT || v->kind == TM_BOOL;
}
bool tm_eq_cstr(const tm_val *v, const char *s);

const char *tm_type(const tm_val *v); /* Python's name: str, int, dict ... */
bool tm_truth(const tm_val *v);
double tm_as_double(const tm_val *v); /* of a number */
int64_t tm_as_int(const tm_val *v);   /* of an int or bool */
bool tm_undefined(tm_run *r, const char *of, const tm_val *key, tm_val *out);
bool tm_fail_undefined(tm_run *r, const tm_val *v);
bool tm_equal(tm_run *r, const tm_val *a, const tm_val *b, bool *out);
/* -1, 0, 1; false when Python has no order between the types. op is for the message. */
bool tm_order(tm_run *r, const tm_val *a, const tm_val *b, const char *op, int *out);
bool tm_contains(tm_run *r, const tm_val *in, const tm_val *item, bool *out);
bool tm_new_list(tm_run *r, tm_kind kind, size_t n, tm_val *out);
bool tm_new_dict(tm_run *r, tm_kind kind, tm_val *out);
bool tm_dict_find(tm_run *r, const tm_dict *d, const tm_val *key,
                  tm_val **out); /* *out NULL: none */
bool tm_dict_set(tm_run *r, tm_dict *d, const tm_val *key, const tm_val *val);
const tm_val *tm_dict_get_cstr(const tm_dict *d, const char *key);
/* What `for` walks: list items, characters, keys. Undefined is empty. */
bool tm_iter(tm_run *r, const tm_val *v, tm_list *out);
bool tm_len(tm_run *r, const tm_val *v, int64_t *out);
bool tm_from_json(tm_run *r, const struct json_t *j, tm_val *out);

/* ---------------------------------------------------------------- strings (template_string.c) */

/* A string growing in the arena. */
typedef struct tm_sb {
    char *p;
    size_t n, cap;
} tm_sb;
bool tm_sb_add(tm_run *r, tm_sb *b, const char *p, size_t n);
bool tm_sb_str(tm_run *r, tm_sb *b, const char *s);
bool tm_sb_char(tm_run *r, tm_sb *b, uint32_t c); /* as UTF-8 */
tm_val tm_sb_done(tm_run *r, tm_sb *b);           /* gives back what it did not use */

bool tm_concat(tm_run *r, const tm_val *a, const tm_val *b, tm_val *out); /* two strings */
uint32_t tm_char_at(const char *p, const char *end, size_t *len);
size_t tm_char_len(unsigned char first);  /* bytes of the character, of valid UTF-8 */
size_t tm_chars(const char *p, size_t n); /* code points */
/* Byte offset of code point i (clamped). */
size_t tm_offset(const char *p, size_t n, size_t i);
/* Trims white space, or the characters of `set`, at the ends asked. */
tm_val tm_strip(const tm_val *s, const tm_val *set, bool left, bool right);

/* str(), repr(), json.dumps() */
bool tm_to_str(tm_run *r, const tm_val *v, tm_val *out);
bool tm_sb_value(tm_run *r, tm_sb *b, const tm_val *v, bool repr);
bool tm_sb_float(tm_run *r, tm_sb *b, double f);
typedef struct tm_json_style {
    bool ascii, sort_keys, pretty;
    tm_val indent; /* pretty: the string one level adds */
    tm_val item_sep, key_sep;
} tm_json_style;
bool tm_sb_json(tm_run *r, tm_sb *b, const tm_val *v, const tm_json_style *style, int level);

/* ---------------------------------------------------------------- nodes */

typedef enum tm_node_kind {
    /* expressions */
    N_CONST,   /* value */
    N_NAME,    /* value: interned name */
    N_LIST,    /* a: items */
    N_TUPLE,   /* a: items */
    N_DICT,    /* a: key, value, key, value ... */
    N_CHAIN,   /* a, then b: N_OPERANDs of arithmetic, from the left */
    N_CONCAT,  /* a: items of ~ */
    N_COMPARE, /* a, then b: N_OPERANDs */
    N_OPERAND, /* op, a */
    N_AND,     /* a: items */
    N_OR,      /* a: items */
    N_NOT,
    N_NEG,
    N_POS,
    N_COND,   /* a if b else c */
    N_ATTR,   /* a.value */
    N_ITEM,   /* a[b] */
    N_SLICE,  /* a:b:c, each may be NULL */
    N_CALL,   /* a, b: N_ARGs */
    N_FILTER, /* a | value(b); a NULL = the text of the block */
    N_TEST,   /* a is value(b) */
    N_ARG,    /* op: tm_arg_kind, value: keyword, a */
    N_NSREF,  /* value.b: target of set */
    /* statements */
    N_TEXT,
    N_PRINT,
    N_IF,          /* a: N_BRANCHes */
    N_BRANCH,      /* a: test or NULL, b: body */
    N_FOR,         /* a: target, b: what, c: body, d: else, e: filter */
    N_SET,         /* a = b */
    N_SETBLOCK,    /* a, b: filters, c: body */
    N_MACRO,       /* value: name, a: N_PARAMs, c: body */
    N_PARAM,       /* value: name, a: default or NULL */
    N_CALLBLOCK,   /* a: N_CALL, b: N_MACRO of the caller */
    N_FILTERBLOCK, /* b: filters, c: body */
    N_WITH,        /* a: N_SETs, c: body; a scope of its own */
    N_BREAK,
    N_CONTINUE
} tm_node_kind;

typedef enum tm_arg_kind { TM_ARG_PLAIN, TM_ARG_KEYWORD, TM_ARG_STAR, TM_ARG_STARSTAR } tm_arg_kind;

/* Operators, also what the lexer calls them. */
typedef enum tm_tok_kind {
    T_EOF,
    T_TEXT,
    T_PRINT_BEGIN,
    T_PRINT_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_ADD,
    T_SUB,
    T_MUL,
    T_DIV,
    T_FLOORDIV,
    T_MOD,
    T_POW,
    T_TILDE,
    T_LBRACKET,
    T_RBRACKET,
    T_LPAREN,
    T_RPAREN,
    T_LBRACE,
    T_RBRACE,
    T_EQ,
    T_NE,
    T_GT,
    T_GE,
    T_LT,
    T_LE,
    T_ASSIGN,
    T_DOT,
    T_COLON,
    T_PIPE,
    T_COMMA,
    T_SEMICOLON,
    T_IN,
    T_NOT_IN
} tm_tok_kind;

struct tm_node {
    tm_node_kind kind;
    int line;
    int op;
    tm_node *next; /* of the list it is in */
    tm_node *a, *b, *c, *d, *e;
    tm_val value;
};

typedef struct tm_token {
    tm_tok_kind kind;
    int line;
    const char *p; /* T_STRING: already unescaped */
    size_t n;
} tm_token;

/* Tokens of the whole source; *out lies in the arena, its last one is T_EOF. */
bool tm_lex(tm_run *r, const char *src, size_t len, tm_token **out);

typedef struct tm_parser {
    tm_run *r;
    const tm_token *at;
    tm_dict names; /* interned */
    int loops;     /* break and continue need one */
} tm_parser;
bool tm_parse(tm_parser *p, tm_node **out);
bool tm_parse_expr(tm_parser *p, bool with_if, tm_node **out);
bool tm_parse_tuple(tm_parser *p, bool with_if, bool empty_ok, const char *end_name, tm_node **out);
bool tm_parse_target(tm_parser *p, bool namespaces, tm_node **out);
bool tm_parse_filters(tm_parser *p, bool inline_first, tm_node **out); /* of a block; may be NULL */
bool tm_expect(tm_parser *p, tm_tok_kind kind, const char *what);
bool tm_at_name(const tm_parser *p, const char *name);
bool tm_skip_name(tm_parser *p, const char *name);
bool tm_unexpected(tm_parser *p, const char *wanted);
tm_node *tm_node_new(tm_parser *p, tm_node_kind kind, int line); /* NULL = failed */
bool tm_intern(tm_parser *p, const tm_token *t, tm_val *out);
/* Around everything that recurses: nesting deeper than max_depth is refused. */
bool tm_enter(tm_run *r);
void tm_leave(tm_run *r);

/* ---------------------------------------------------------------- running */

typedef struct tm_chunk tm_chunk;
typedef struct tm_arena {
    tm_chunk *chunks; /* newest first */
    char *cur, *end;
    size_t used, max;
} tm_arena;

typedef struct tm_var {
    const char *name; /* interned: compared as a pointer */
    tm_val val;
} tm_var;
typedef struct tm_frame tm_frame;
struct tm_frame {
    tm_frame *parent;
    tm_var *vars;
    size_t n, cap;
    bool captured; /* a macro remembers it */
};

struct tm_macro {
    const tm_node *def;
    tm_frame *closure;
};

struct tm_loop {
    tm_list items;
    size_t at;
    tm_val last_changed; /* loop.changed(...) */
};

struct an_template {
    char *source, *given; /* with normalised line ends; as it came */
    an_template_limits limits;
    tm_arena arena; /* nodes and names */
    tm_node *body;
    tm_dict names; /* every variable the source mentions */
    const char *name_loop, *name_caller, *name_varargs, *name_kwargs; /* interned, NULL = unused */
};

struct tm_run {
    const an_template *t;
    an_template_limits limits;
    tm_arena arena;
    an_error *err;
    bool failed;
    int line; /* of the node being worked on */
    long steps;
    int depth;     /* of C recursion */
    int max_depth; /* limit of depth */
    int calls;     /* macros inside macros */
    int jump;      /* N_BREAK or N_CONTINUE on its way to the loop, or 0 */
    /* rendering only */
    tm_dict *vars;
    tm_frame *frame;
    tm_sb *capture; /* NULL = output goes to out */
    an_buf *out;
    size_t out_start;
    double now;
};

bool tm_fail(tm_run *r, const char *fmt, ...) AN_PRINTF(2, 3); /* AN_INVALID, with the line */
bool tm_raise(tm_run *r, const tm_val *message);               /* raise_exception */
bool tm_too_large(tm_run *r, const char *fmt, ...) AN_PRINTF(2, 3);
bool tm_step(tm_run *r, size_t bytes);  /* one step, and more for work on many bytes */
void *tm_alloc(tm_run *r, size_t size); /* zeroed, aligned to 16; NULL = failed */
void *tm_alloc_array(tm_run *r, size_t n, size_t size);
char *tm_alloc_text(tm_run *r, size_t size); /* not aligned, not cleared */
bool tm_extend(tm_run *r, const char *end,
               size_t more); /* in place, if end is where the arena is */
void tm_arena_free(tm_arena *a);

bool tm_eval(tm_run *r, const tm_node *n, tm_val *out);
bool tm_eval_args(tm_run *r, const tm_node *args, tm_args *out);
bool tm_call(tm_run *r, const tm_val *f, const tm_args *a, tm_val *out);
bool tm_arith(tm_run *r, int op, const tm_val *a, const tm_val *b, tm_val *out);
bool tm_getattr(tm_run *r, const tm_val *obj, const tm_val *name, tm_val *out);
bool tm_getitem(tm_run *r, const tm_val *obj, const tm_val *key, tm_val *out);
bool tm_exec(tm_run *r, const tm_node *body);
bool tm_call_macro(tm_run *r, const tm_macro *m, const tm_args *a, tm_val *out);
bool tm_loop_attr(tm_run *r, tm_loop *l, const tm_val *name,
                  tm_val *out); /* *out undefined: none */
bool tm_lookup(tm_run *r, const tm_val *name, tm_val *out);

bool tm_filter(tm_run *r, const tm_val *name, const tm_val *in, const tm_args *a, tm_val *out);
bool tm_test(tm_run *r, const tm_val *name, const tm_val *in, const tm_args *a, bool *out);
int tm_find_global(const tm_val *name); /* -1 = none */
bool tm_call_global(tm_run *r, int id, const tm_args *a, tm_val *out);
const tm_method_entry *tm_find_method(const tm_val *self, const tm_val *name); /* NULL = none */
extern const tm_method_entry tm_string_methods[]; /* template_strmethod.c; ends with a NULL name */
bool tm_call_method(tm_run *r, const tm_method *m, const tm_args *a, tm_val *out);
bool tm_format_percent(tm_run *r, const tm_val *fmt, const tm_val *arg, tm_val *out);

/* Argument i, by place or by keyword; NULL when it was not given. */
const tm_val *tm_arg(const tm_args *a, size_t i, const char *name);
/* Refuses more than max positional arguments. */
bool tm_arg_count(tm_run *r, const tm_args *a, size_t min, size_t max, const char *who);
bool tm_arg_int(tm_run *r, const tm_args *a, size_t i, const char *name, int64_t other,
                int64_t *out);
bool tm_arg_bool(const tm_args *a, size_t i, const char *name, bool other);
/* A table of functions by name. */
typedef bool (*tm_filter_fn)(tm_run *r, const tm_val *in, const tm_args *a, tm_val *out);
typedef struct tm_filter_entry {
    const char *name;
    tm_filter_fn fn;
    size_t max_args;
} tm_filter_entry;
extern const tm_filter_entry tm_sequence_filters[]; /* template_sequence.c; ends with a NULL name */

bool tm_lower(tm_run *r, const tm_val *s, tm_val *out);
bool tm_upper(tm_run *r, const tm_val *s, tm_val *out);
bool tm_capitalize(tm_run *r, const tm_val *s, tm_val *out);
bool tm_title(tm_run *r, const tm_val *s, bool filter, tm_val *out);
bool tm_splitlines(tm_run *r, const tm_val *self, bool keep, tm_val *out);
bool tm_dict_items(tm_run *r, const tm_dict *d, tm_val *out); /* a list of (key, value) */
bool tm_replace(tm_run *r, const tm_val *s, const tm_val *old, const tm_val *new, int64_t max,
                tm_val *out);

#endif
