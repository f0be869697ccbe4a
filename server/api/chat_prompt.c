/* chat_prompt.c: messages to token ids through the model's chat template.
 *
 * A control token may come from the template only. Someone who writes "<|im_end|>" in a message
 * must get those ten characters, or anybody could end his turn and speak as the system. But the
 * template gives one text in which nobody can tell its words from the users'. So before rendering,
 * every control token's text in a user's string is put between two guard characters, from Unicode's
 * private plane and in nobody's text; and after it the text is cut at the guards: what lies between
 * is encoded without looking for control tokens. A string that ends in the beginning of one is
 * guarded there too, so that two strings cannot make one together. Nearly all requests have none of
 * this, and are encoded in one piece, exactly as transformers does.
 *
 * A third character marks the end of a last message that is to be continued. */
#include "text_ask.h"

#include <pthread.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- control tokens of a vocabulary
 */

typedef struct special_set {
    const an_vocab *vocab;
    char **text; /* sorted */
    size_t n;
    struct special_set *next;
} special_set;

static pthread_mutex_t sets_lock = PTHREAD_MUTEX_INITIALIZER;
static special_set *sets; /* under the lock; their contents never change */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static special_set *set_new(const an_vocab *v)
{
    special_set *s = calloc(1, sizeof *s);
    size_t count = 0;
    if (!s) return NULL;
    s->vocab = v;
    for (int32_t id = 0; id < an_vocab_size(v); id++) count += an_vocab_is_special(v, id);
    s->text = calloc(count + 1, sizeof *s->text);
    for (int32_t id = 0; s->text && id < an_vocab_size(v) && s->n < count; id++) {
        size_t len;
        if (!an_vocab_is_special(v, id)) continue;
        const char *piece = an_vocab_piece(v, id, true, &len);
        if (!piece || !len || memchr(piece, 0, len)) continue;
        if (!(s->text[s->n] = strndup(piece, len))) break;
        s->n++;
    }
    if (s->n) qsort(s->text, s->n, sizeof *s->text, by_text);
    return s;
}

static const special_set *set_of(const an_vocab *v)
{
    pthread_mutex_lock(&sets_lock);
    special_set *s = sets;
    while (s && s->vocab != v) s = s->next;
    if (!s && (s = set_new(v)) != NULL) {
        s->next = sets;
        sets = s;
    }
    pthread_mutex_unlock(&sets_lock);
    return s;
}

void chat_prompt_clear(void)
{
    while (sets) {
        special_set *s = sets;
        sets = s->next;
        for (size_t i = 0; i < s->n; i++) free(s->text[i]);
        free(s->text);
        free(s);
    }
}

/* Bytes of the longest control token that text begins with, 0 = none. *open: the text ends inside
 * what could become one. Narrows the sorted list byte by byte. */
static size_t match(const special_set *s, const char *text, size_t len, bool *open)
{
    size_t lo = 0, hi = s->n, best = 0;
    *open = false;
    for (size_t k = 0; lo < hi; k++) {
        if (s->text[lo][k] == '\0') { /* the shortest sorts first */
            best = k;
            if (++lo == hi) break;
        }
        if (k == len) {
            *open = true;
            break;
        }
        unsigned char c = (unsigned char)text[k];
        size_t a = lo, b = hi;
        while (a < b) { /* first whose byte k is not below c */
            size_t m = (a + b) / 2;
            if ((unsigned char)s->text[m][k] < c)
                a = m + 1;
            else
                b = m;
        }
        lo = a;
        for (b = hi; a < b;) { /* first whose byte k is above c */
            size_t m = (a + b) / 2;
            if ((unsigned char)s->text[m][k] <= c)
                a = m + 1;
            else
                b = m;
        }
        hi = a;
    }
    return best;
}

/* ---------------------------------------------------------------- guards */

typedef struct guards {
    char begin[8], end[8], mark[8];
    const special_set *set;
    bool used;
} guards;

static json_t *guard_string(guards *g, const json_t *v)
{
    const char *s = json_string_value(v);
    size_t len = json_string_length(v), from = 0;
    an_buf b;
    an_buf_init(&b, len * 10 + 64);
    for (size_t i = 0; i < len;) {
        bool open;
        size_t n = match(g->set, s + i, len - i, &open);
        if (!n && open) n = len - i;
        if (!n) {
            i++;
            continue;
        }
        an_buf_add(&b, s + from, i - from);
        an_buf_str(&b, g->begin);
        an_buf_add(&b, s + i, n);
        an_buf_str(&b, g->end);
        i += n;
        from = i;
    }
    if (from == 0) {
        an_buf_free(&b);
        return json_incref((json_t *)(uintptr_t)v);
    }
    g->used = true;
    an_buf_add(&b, s + from, len - from);
    json_t *out = b.failed ? NULL : json_stringn(b.data, b.len);
    an_buf_free(&b);
    return out;
}

/* A copy of what users wrote with all its strings guarded; roles and types, which were checked, are
 * words of the template's language. NULL = no memory. */
static json_t *guard_value(guards *g, const json_t *v, int depth)
{
    const char *key;
    json_t *item, *out, *copy;
    size_t i;
    if (json_is_string(v)) return guard_string(g, v);
    if (depth > AN_JSON_MAX_DEPTH) return NULL;
    if (json_is_array(v)) {
        out = json_array();
        json_array_foreach(v, i, item)
        {
            copy = guard_value(g, item, depth + 1);
            if (!copy || json_array_append_new(out, copy) != 0) goto failed;
        }
        return out;
    }
    if (!json_is_object(v)) return json_incref((json_t *)(uintptr_t)v);
    out = json_object();
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
    {
        json_t *name = json_string(key), *safe = name ? guard_string(g, name) : NULL;
        bool word = depth == 1 && (strcmp(key, "role") == 0);
        copy = word ? json_incref(item) : guard_value(g, item, depth + 1);
        int bad = !safe || !copy || json_object_set_new(out, json_string_value(safe), copy) != 0;
        json_decref(name);
        json_decref(safe);
        if (bad) goto failed;
    }
    return out;
failed:
    json_decref(out);
    return NULL;
}

/* Three characters that occur nowhere in what users wrote. */
static bool choose_guards(guards *g, const json_t *vars)
{
    char *text = json_dumps(vars, JSON_COMPACT | JSON_ENCODE_ANY);
    bool found = false;
    for (unsigned k = 0; text && !found && k < 64; k++) {
        unsigned c = 0x10f000 + 4 * k; /* code points that share their first three bytes */
        snprintf(g->begin, sizeof g->begin, "%c%c%c%c", (int)(0xf0 | c >> 18),
                 (int)(0x80 | (c >> 12 & 63)), (int)(0x80 | (c >> 6 & 63)), (int)(0x80 | (c & 63)));
        memcpy(g->end, g->begin, sizeof g->end);
        memcpy(g->mark, g->begin, sizeof g->mark);
        g->end[3] = (char)(g->end[3] | 1);
        g->mark[3] = (char)(g->mark[3] | 2);
        found = !strstr(text, g->begin) && !strstr(text, g->end) && !strstr(text, g->mark);
    }
    free(text);
    return found;
}

/* ---------------------------------------------------------------- rendering */

/* Templates without tools hear of them in the system message. */
static an_status describe_tools(const text_ask *a, json_t *messages, an_error *err)
{
    char *text = tools_description(a->tools);
    json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    if (!text) return an_fail(err, AN_NO_MEMORY, "out of memory");
    if (role && strcmp(role, "system") == 0) {
        json_t *m = json_copy(first);
        json_object_set_new(
            m, "content",
            json_sprintf("%s\n\n%s", json_string_value(json_object_get(first, "content")), text));
        json_array_set_new(messages, 0, m);
    } else {
        json_array_insert_new(messages, 0,
                              json_pack("{s:s,s:s}", "role", "system", "content", text));
    }
    free(text);
    return AN_OK;
}

/* Calls and their results as text, for the same templates. */
static void describe_calls(json_t *messages)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i), *call, *copy;
        size_t k;
        const char *role = json_string_value(json_object_get(m, "role"));
        const char *content = json_string_value(json_object_get(m, "content"));
        json_t *calls = json_object_get(m, "tool_calls");
        if (role && strcmp(role, "tool") == 0) {
            json_array_set_new(messages, i,
                               json_pack("{s:s,s:o}", "role", "user", "content",
                                         json_sprintf("<tool_response>\n%s\n</tool_response>",
                                                      content ? content : "")));
        } else if (json_array_size(calls)) {
            an_buf b;
            an_buf_init(&b, (size_t)64 << 20);
            an_buf_str(&b, content ? content : "");
            json_array_foreach(calls, k, call)
            {
                char *text = json_dumps(json_object_get(call, "function"), 0);
                an_buf_printf(&b, "%s<tool_call>\n%s\n</tool_call>", b.len ? "\n" : "",
                              text ? text : "");
                free(text);
            }
            copy = json_pack("{s:s,s:o?}", "role", "assistant", "content",
                             b.failed ? NULL : json_stringn(b.data, b.len));
            json_array_set_new(messages, i, copy);
            an_buf_free(&b);
        }
    }
}

/* The template's variables but for the guards. */
static an_status variables(const text_ask *a, const an_template *t, json_t **out, an_error *err)
{
    bool knows = an_template_uses(t, "tools");
    json_t *messages = json_copy(a->messages);
    *out = json_object();
    if (!messages || !*out) return an_fail(err, AN_NO_MEMORY, "out of memory");
    if (a->tools && !knows && describe_tools(a, messages, err) != AN_OK) {
        json_decref(messages);
        return err->status;
    }
    if (!knows) describe_calls(messages);
    if (a->kwargs) json_object_update(*out, a->kwargs);
    json_object_set_new(*out, "messages", messages);
    if (a->tools && knows)
        json_object_set(*out, "tools", a->tools);
    else
        json_object_del(*out, "tools");
    return AN_OK;
}

/* Messages and tools are lists of objects: a role lies at depth 1 of a list. */
static json_t *guard_variables(guards *g, json_t *vars)
{
    const char *key;
    json_t *v, *safe = json_object();
    bool ok = safe != NULL;
    json_object_foreach(vars, key, v)
    {
        bool list = json_is_array(v);
        json_t *copy = list ? json_array() : guard_value(g, v, 2);
        for (size_t i = 0; list && i < json_array_size(v); i++)
            ok &= json_array_append_new(copy, guard_value(g, json_array_get(v, i), 1)) == 0;
        ok &= json_object_set_new(safe, key, copy) == 0;
    }
    if (ok) return safe;
    json_decref(safe);
    return NULL;
}

/* All that the template gets, guarded; new reference. */
static an_status safe_variables(text_ask *a, const an_template *t, guards *g, json_t **out,
                                an_error *err)
{
    json_t *vars = NULL;
    an_status s = variables(a, t, &vars, err);
    if (s == AN_OK && !choose_guards(g, vars))
        s = an_fail_param(err, AN_INVALID, "messages",
                          "messages: too many characters of Unicode's private plane 16");
    if (s == AN_OK) {
        g->set = set_of(a->vocab);
        *out = g->set ? guard_variables(g, vars) : NULL;
        if (!*out) s = an_fail(err, AN_NO_MEMORY, "out of memory");
    }
    json_decref(vars);
    return s;
}

/* ---------------------------------------------------------------- going on with a message */

/* The last message's text gets a mark and a space at its end. */
static an_status mark_last(const guards *g, json_t *vars, an_error *err)
{
    const json_t *list = json_object_get(vars, "messages");
    json_t *last = json_array_get(list, json_array_size(list) - 1);
    const char *text = json_string_value(json_object_get(last, "content"));
    json_t *marked = json_sprintf("%s%s ", text ? text : "", g->mark);
    if (marked && json_object_set_new(last, "content", marked) == 0) return AN_OK;
    return an_fail(err, AN_NO_MEMORY, "out of memory");
}

/* The text ends where the mark is: what a template ends a message with is gone. A template that
 * trims messages has taken the mark's space; then spaces before the mark go too, as it would have
 * it. So transformers does, and vLLM through it. */
static an_status cut_at_mark(const guards *g, an_buf *out, an_error *err)
{
    char *at = out->data ? strstr(out->data, g->mark) : NULL;
    if (!at || strstr(at + 4, g->mark))
        return an_fail_param(err, AN_INVALID, "continue_final_message",
                             "continue_final_message: the model's chat template does not show the "
                             "last message's text once");
    bool trims = at[4] != ' ';
    while (trims && at > out->data && strchr(" \t\r\n\v\f", at[-1])) at--;
    *at = '\0';
    out->len = (size_t)(at - out->data);
    return AN_OK;
}

static an_status render(text_ask *a, guards *g, an_buf *out, an_error *err)
{
    const an_template *t = NULL;
    const char *bos = NULL, *eos = NULL;
    json_t *vars = NULL;
    an_buf_init(out, (size_t)64 << 20);
    if (!a->vocab)
        return an_fail_param(err, AN_INVALID, "model",
                             "model '%s' has no tokenizer: it takes token ids only, at "
                             "/v1/completions",
                             a->model);
    an_status s = an_engine_template(a->engine, a->model, &t, &bos, &eos, err);
    if (s == AN_NOT_FOUND)
        return an_fail_param(err, AN_INVALID, "model",
                             "model '%s' has no chat template; /v1/completions takes plain text",
                             a->model);
    if (s == AN_OK) s = safe_variables(a, t, g, &vars, err);
    if (s == AN_OK && a->continue_final) s = mark_last(g, vars, err);
    if (s != AN_OK) {
        json_decref(vars);
        return s;
    }
    json_object_set_new(vars, "add_generation_prompt", json_boolean(a->generation_prompt));
    json_object_set_new(vars, "bos_token", json_string(bos ? bos : ""));
    json_object_set_new(vars, "eos_token", json_string(eos ? eos : ""));
    s = an_template_render(t, vars, an_unix_s(), out, err);
    json_decref(vars);
    if (s == AN_INVALID || s == AN_TOO_LARGE) { /* whatever it was, the messages made it so */
        err->status = AN_INVALID;
        s = an_fail_prefix(err, AN_INVALID, "chat template");
        snprintf(err->param, sizeof err->param, "messages");
    }
    return s == AN_OK && a->continue_final ? cut_at_mark(g, out, err) : s;
}

an_status chat_render(text_ask *a, an_buf *out, an_error *err)
{
    guards g = {0};
    an_status s = render(a, &g, out, err);
    if (s != AN_OK || !g.used || !out->data) return s;
    char *to = out->data; /* without the guards again */
    for (const char *p = out->data; *p;) {
        if (strncmp(p, g.begin, 4) == 0 || strncmp(p, g.end, 4) == 0)
            p += 4;
        else
            *to++ = *p++;
    }
    *to = '\0';
    out->len = (size_t)(to - out->data);
    return s;
}

/* ---------------------------------------------------------------- encoding */

static an_status append(text_ask *a, int32_t **ids, size_t *n, const char *text, size_t len,
                        int flags, an_error *err)
{
    int32_t *more = NULL;
    size_t count = 0;
    if (!len) return AN_OK;
    an_status s = an_vocab_encode(a->vocab, text, len, flags, &more, &count, err);
    int32_t *grown = s == AN_OK ? realloc(*ids, (*n + count + 1) * sizeof *grown) : NULL;
    if (s == AN_OK && !grown) s = an_fail(err, AN_NO_MEMORY, "out of memory");
    if (grown) {
        memcpy(grown + *n, more, count * sizeof *more);
        *ids = grown;
        *n += count;
    }
    free(more);
    return s;
}

an_status chat_encode(text_ask *a, an_error *err)
{
    guards g = {0};
    an_buf b;
    int32_t *ids = NULL;
    size_t n = 0;
    an_status s = render(a, &g, &b, err);
    int add = a->add_special ? AN_ADD_SPECIAL : 0;
    const char *p = b.data ? b.data : "", *end = p + b.len;
    while (s == AN_OK && p < end) {
        const char *begin = g.used ? strstr(p, g.begin) : NULL;
        const char *stop = g.used ? strstr(p, g.end) : NULL;
        /* a template that cuts strings may leave half a pair: no control tokens on its side */
        if (stop && (!begin || stop < begin)) begin = p;
        const char *from = begin && strncmp(begin, g.begin, 4) == 0 ? begin + 4 : begin;
        if (begin && !stop) stop = end;
        s = append(a, &ids, &n, p, (size_t)((begin ? begin : end) - p), add | AN_PARSE_SPECIAL,
                   err);
        add = 0;
        if (s == AN_OK && begin) s = append(a, &ids, &n, from, (size_t)(stop - from), 0, err);
        p = begin && stop < end ? stop + 4 : end;
    }
    an_buf_free(&b);
    if (s == AN_OK) return text_add_prompt(a, ids, n, err);
    free(ids);
    return s;
}
