/* chat_tools.c: finds tool calls in a growing text. See chat_tools.h. The parser never goes back:
 * what the sink has heard stays said, whether the text comes at once or byte by byte. */
#include "chat_tools.h"

#include <ctype.h>
#include <stdlib.h>

static const char OPEN[] = "<tool_call>", CLOSE[] = "</tool_call>";

enum {
    START = 0, /* nothing but white space so far */
    CONTENT,   /* plain text, calls may follow */
    BARE,      /* may be a call without tags: known at the end */
    CALL,      /* after an opening tag */
    AFTER,     /* after a call: the closing tag, white space */
    LIST       /* inside the list that the grammar made */
};

/* ---------------------------------------------------------------- partial JSON */

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && isspace((unsigned char)*p)) p++;
    return p;
}

/* Behind the closing quote; NULL if it is not there yet. */
static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end; p++) {
        if (*p == '\\')
            p++;
        else if (*p == '"')
            return p + 1;
    }
    return NULL;
}

/* True if the value is whole; *stop is behind it. */
static bool skip_value(const char *p, const char *end, const char **stop, bool *bad)
{
    int depth = 0;
    *stop = end;
    do {
        p = skip_space(p, end);
        if (p == end) return false;
        if (*p == '"') {
            p = skip_string(p, end);
            if (!p) return false;
        } else if (*p == '{' || *p == '[') {
            depth++;
            p++;
        } else if (*p == '}' || *p == ']') {
            if (depth-- == 0) *bad = true;
            p++;
        } else if (*p == ',' || *p == ':') {
            if (depth == 0) *bad = true;
            p++;
        } else {
            const char *q = p;
            while (p < end && (isalnum((unsigned char)*p) || strchr("+-.", *p))) p++;
            if (p == q) *bad = true;
            if (p == end) return false;
        }
        if (*bad) return false;
    } while (depth > 0);
    *stop = p;
    return true;
}

/* {"name": ..., "arguments": ...} as far as it is there. */
typedef struct scan {
    bool bad, whole, args_whole;
    const char *name, *args; /* NULL = not there yet */
    size_t name_len, args_len;
    const char *stop; /* behind it, if whole */
} scan;

static bool key_is(const char *key, const char *end, const char *want)
{
    size_t n = (size_t)(end - key);
    return n == strlen(want) && memcmp(key, want, n) == 0;
}

static bool scan_member(scan *s, const char **at, const char *end)
{
    const char *p = *at, *stop;
    if (*p != '"') {
        s->bad = true;
        return false;
    }
    const char *key = p + 1;
    p = skip_string(p, end);
    if (!p) return false;
    const char *key_end = p - 1;
    p = skip_space(p, end);
    if (p == end) return false;
    if (*p != ':') {
        s->bad = true;
        return false;
    }
    p = skip_space(p + 1, end);
    bool whole = skip_value(p, end, &stop, &s->bad);
    if (s->bad) return false;
    if (key_is(key, key_end, "name") && whole) {
        if (*p != '"' || stop - p < 3 || memchr(p, '\\', (size_t)(stop - p))) s->bad = true;
        s->name = p + 1;
        s->name_len = (size_t)(stop - p) - 2;
    } else if ((key_is(key, key_end, "arguments") || key_is(key, key_end, "parameters")) &&
               p < end) {
        s->args = p;
        s->args_len = (size_t)(stop - p);
        s->args_whole = whole;
    }
    *at = stop;
    return whole && !s->bad;
}

static scan scan_call(const char *p, const char *end)
{
    scan s = {0};
    p = skip_space(p, end);
    if (p == end) return s;
    if (*p++ != '{') {
        s.bad = true;
        return s;
    }
    for (bool first = true;; first = false) {
        p = skip_space(p, end);
        if (p == end) return s;
        if (*p == '}') {
            s.bad = !s.name;
            s.whole = !s.bad;
            s.stop = p + 1;
            return s;
        }
        if (!first && *p++ != ',') {
            s.bad = true;
            return s;
        }
        p = skip_space(p, end);
        if (p == end || !scan_member(&s, &p, end)) return s;
    }
}

/* ---------------------------------------------------------------- telling */

/* Arguments that are a string hold JSON text once more. */
static void tell_string(tool_parser *p, const scan *s, const tool_sink *sink)
{
    json_t *j = json_loadb(s->args, s->args_len, JSON_DECODE_ANY, NULL);
    if (j && p->told == 0) {
        sink->arguments(sink->ctx, p->calls - 1, json_string_value(j), json_string_length(j));
        p->told = s->args_len;
    }
    json_decref(j);
}

/* What of the call is new. */
static void tell(tool_parser *p, const scan *s, const tool_sink *sink)
{
    if (!s->name) return;
    if (!p->named) {
        sink->call(sink->ctx, p->calls++, s->name, s->name_len);
        p->named = true;
        p->told = 0;
    }
    if (s->args && *s->args == '"') {
        if (s->args_whole) tell_string(p, s, sink);
    } else if (s->args && s->args_len > p->told) {
        sink->arguments(sink->ctx, p->calls - 1, s->args + p->told, s->args_len - p->told);
        p->told = s->args_len;
    }
    if (s->whole) {
        if (!s->args) sink->arguments(sink->ctx, p->calls - 1, "{}", 2);
        p->named = false;
    }
}

/* ---------------------------------------------------------------- calls without tags */

static bool tool_named(const json_t *tools, const char *name, size_t n)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *f = json_object_get(json_array_get(tools, i), "function");
        const json_t *s = json_object_get(f, "name");
        if (json_string_length(s) == n && memcmp(json_string_value(s), name, n) == 0) return true;
    }
    return false;
}

/* Is the whole text calls of known tools, one or several? Tells them if so and sink is there. */
static bool bare_calls(tool_parser *p, const json_t *tools, const char *text, size_t len,
                       const tool_sink *sink)
{
    const char *at = text, *end = text + len;
    int n = 0;
    for (;;) {
        while (at < end && (isspace((unsigned char)*at) || strchr("[],;", *at))) at++;
        if (at == end) return n > 0;
        scan s = scan_call(at, end);
        if (!s.whole || !tool_named(tools, s.name, s.name_len)) return false;
        if (sink) tell(p, &s, sink);
        at = s.stop;
        n++;
    }
}

/* Does the text, without its white space, begin as a call does? -1 = too early to say. */
static int begins_bare(const char *text, size_t len)
{
    static const char *const forms[] = {"{\"name\":", "[{\"name\":", "{\"type\":\"function\""};
    char head[32];
    size_t n = 0;
    for (size_t i = 0; i < len && n < sizeof head; i++)
        if (!isspace((unsigned char)text[i])) head[n++] = text[i];
    int verdict = 0;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        size_t m = strlen(forms[i]);
        if (memcmp(head, forms[i], n < m ? n : m) != 0) continue;
        if (n >= m) return 1;
        verdict = -1;
    }
    return verdict;
}

/* ---------------------------------------------------------------- the automaton */

/* Bytes at the end that may yet become the opening tag. */
static size_t held_back(const char *s, size_t n)
{
    size_t max = sizeof OPEN - 2;
    for (size_t k = n < max ? n : max; k > 0; k--)
        if (memcmp(s + n - k, OPEN, k) == 0) return k;
    return 0;
}

typedef struct feed {
    tool_parser *p;
    const tool_sink *sink;
    const json_t *tools;
    const char *text;
    size_t len;
    bool last;
} feed;

/* Each step deals with some text and returns true, or waits for more. */
static bool step_start(feed *f)
{
    const char *end = f->text + f->len;
    const char *s = skip_space(f->text, end);
    if (s == end) {
        if (f->last && f->len) f->sink->content(f->sink->ctx, f->text, f->len);
        f->p->at = f->len;
        return false;
    }
    int bare = begins_bare(s, (size_t)(end - s));
    if (bare < 0 && !f->last) return false;
    /* a tag right here: the white space before it is nobody's */
    bool tag = (size_t)(end - s) >= sizeof OPEN - 1 && memcmp(s, OPEN, sizeof OPEN - 1) == 0;
    if (!tag && !f->last && held_back(s, (size_t)(end - s)) == (size_t)(end - s)) return false;
    f->p->at = tag ? (size_t)(s - f->text) : 0;
    f->p->state = bare > 0 ? BARE : CONTENT;
    return true;
}

static bool step_content(feed *f)
{
    const char *from = f->text + f->p->at, *end = f->text + f->len;
    const char *tag = memmem(from, (size_t)(end - from), OPEN, sizeof OPEN - 1);
    size_t n = (size_t)((tag ? tag : end) - from);
    if (!tag && !f->last) n -= held_back(from, n);
    if (n) f->sink->content(f->sink->ctx, from, n);
    f->p->at += n;
    if (!tag) return false;
    f->p->at += sizeof OPEN - 1;
    f->p->state = CALL;
    return true;
}

static bool step_bare(feed *f)
{
    if (!f->last) return false;
    if (bare_calls(f->p, f->tools, f->text, f->len, NULL))
        bare_calls(f->p, f->tools, f->text, f->len, f->sink);
    else
        f->sink->content(f->sink->ctx, f->text, f->len);
    f->p->at = f->len;
    return false;
}

static bool step_call(feed *f)
{
    const char *from = f->text + f->p->at, *end = f->text + f->len;
    scan s = scan_call(from, end);
    bool cut = f->last && !s.whole;
    if ((s.bad || cut) && !f->p->named && !(cut && s.name && !s.bad)) {
        f->sink->content(f->sink->ctx, OPEN, sizeof OPEN - 1); /* no call after all */
        f->p->state = CONTENT;
        return true;
    }
    if (!s.bad) tell(f->p, &s, f->sink);
    if (s.bad) { /* what was said of it stays; the rest is lost */
        f->p->named = false;
        const char *close = memmem(from, (size_t)(end - from), CLOSE, sizeof CLOSE - 1);
        if (!close) return false;
        f->p->at = (size_t)(close - f->text);
        f->p->state = AFTER;
        return true;
    }
    if (!s.whole) return false;
    f->p->at = (size_t)(s.stop - f->text);
    f->p->state = AFTER;
    return true;
}

static bool step_after(feed *f)
{
    const char *end = f->text + f->len;
    const char *s = skip_space(f->text + f->p->at, end);
    size_t left = (size_t)(end - s), n = sizeof CLOSE - 1;
    if (left < n && memcmp(s, CLOSE, left) == 0) {
        if (f->last) f->p->at = f->len;
        return false;
    }
    if (left >= n && memcmp(s, CLOSE, n) == 0) {
        f->p->at = (size_t)(s + n - f->text);
        return true; /* and white space after it */
    }
    f->p->at = (size_t)(s - f->text);
    f->p->state = CONTENT;
    return true;
}

static bool step_list(feed *f)
{
    const char *end = f->text + f->len, *s = f->text + f->p->at;
    while (s < end && (isspace((unsigned char)*s) || strchr("[],", *s))) s++;
    f->p->at = (size_t)(s - f->text);
    if (s == end) return false;
    scan c = scan_call(s, end);
    if (c.bad) return false;
    tell(f->p, &c, f->sink);
    if (!c.whole) return false;
    f->p->at = (size_t)(c.stop - f->text);
    return true;
}

void tools_feed(tool_parser *p, const tool_choice *choice, const json_t *tools, const char *text,
                size_t len, bool last, const tool_sink *sink)
{
    static bool (*const steps[])(feed *) = {step_start, step_content, step_bare,
                                            step_call,  step_after,   step_list};
    feed f = {p, sink, tools, text, len, last};
    if (choice->mode == TOOLS_NONE) {
        if (len > p->at) sink->content(sink->ctx, text + p->at, len - p->at);
        p->at = len;
    } else if (choice->mode == TOOLS_NAMED) {
        if (p->calls == 0) sink->call(sink->ctx, p->calls++, choice->name, strlen(choice->name));
        if (len > p->at) sink->arguments(sink->ctx, 0, text + p->at, len - p->at);
        p->at = len;
    } else {
        if (choice->mode == TOOLS_REQUIRED) p->state = LIST;
        while (steps[p->state](&f)) {
        }
    }
}
