/* chat_tools_ask.c: `tools` and `tool_choice` of a chat request, and what they ask of the answer.
 */
#include "chat_tools.h"

#include <ctype.h>
#include <stdlib.h>
#include <sys/random.h>

#define MAX_TOOLS 128
#define MAX_NAME  64
#define MAX_CALLS 16 /* of an answer that must call */

/* ---------------------------------------------------------------- reading */

/* Letters, digits, _ - and dots, as OpenAI has it: names go into grammars and answers. */
static bool good_name(const json_t *name)
{
    size_t n = json_string_length(name);
    const char *s = json_string_value(name);
    if (!s || n == 0 || n > MAX_NAME) return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && !strchr("_-.", s[i])) return false;
    return true;
}

static bool read_tool(fields *f, const json_t *tool, size_t i)
{
    const json_t *type = json_object_get(tool, "type");
    const json_t *fn = json_object_get(tool, "function");
    const json_t *params = json_object_get(fn, "parameters");
    if (!json_is_object(fn) ||
        (type && (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0)))
        fields_fail(f, "tools", "tool %zu is not {\"type\":\"function\",\"function\":{...}}", i);
    else if (!good_name(json_object_get(fn, "name")))
        fields_fail(f, "tools",
                    "tool %zu: its name must be 1 to %d letters, digits, '_', '-' or '.'", i,
                    MAX_NAME);
    else if (params && !json_is_null(params) && !json_is_object(params))
        fields_fail(f, "tools", "tool %zu: parameters must be a JSON schema", i);
    return fields_ok(f);
}

static const json_t *function_of(const json_t *tools, size_t i)
{
    return json_object_get(json_array_get(tools, i), "function");
}

static const char *name_of(const json_t *tools, size_t i)
{
    return json_string_value(json_object_get(function_of(tools, i), "name"));
}

static void read_list(fields *f, json_t **tools)
{
    json_t *list = NULL;
    if (!field_present(f, "tools")) return;
    list = json_object_get(f->object, "tools");
    if (!json_is_array(list)) {
        fields_fail(f, "tools", "expected a list");
        return;
    }
    if (json_array_size(list) > MAX_TOOLS) {
        fields_fail(f, "tools", "%zu tools, at most %d", json_array_size(list), MAX_TOOLS);
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!read_tool(f, json_array_get(list, i), i)) return;
        for (size_t k = 0; k < i; k++)
            if (strcmp(name_of(list, i), name_of(list, k)) == 0) {
                fields_fail(f, "tools", "two tools are named '%s'", name_of(list, i));
                return;
            }
    }
    if (json_array_size(list)) *tools = json_incref(list);
}

static void read_choice(fields *f, const json_t *tools, tool_choice *choice)
{
    static const char *const modes[] = {"none", "auto", "required", NULL};
    int mode = tools ? 1 : 0;
    json_t *v = json_object_get(f->object, "tool_choice");
    if (json_is_object(v)) {
        field_present(f, "tool_choice"); /* so that it is not called unknown */
        const json_t *fn = json_object_get(v, "function");
        const char *name = json_string_value(json_object_get(fn ? fn : v, "name"));
        if (!name) {
            fields_fail(f, "tool_choice",
                        "expected none, auto, required or "
                        "{\"type\":\"function\",\"function\":{\"name\":...}}");
            return;
        }
        for (size_t i = 0; i < json_array_size(tools); i++)
            if (strcmp(name_of(tools, i), name) == 0) {
                choice->mode = TOOLS_NAMED;
                choice->name = name_of(tools, i);
                return;
            }
        fields_fail(f, "tool_choice", "'%.64s' is not among the tools", name);
        return;
    }
    field_choice(f, "tool_choice", modes, &mode);
    if (mode > 0 && !tools && fields_ok(f) && json_is_string(v)) {
        if (mode == 2) fields_fail(f, "tool_choice", "required, but there are no tools");
        mode = 0;
    }
    choice->mode = mode == 2 ? TOOLS_REQUIRED : mode == 1 ? TOOLS_AUTO : TOOLS_NONE;
}

void tools_read(fields *f, json_t **tools, tool_choice *choice)
{
    *tools = NULL;
    *choice = (tool_choice){TOOLS_NONE, NULL, true};
    read_list(f, tools);
    read_choice(f, *tools, choice);
    field_bool(f, "parallel_tool_calls", &choice->parallel);
    if (fields_ok(f) && choice->mode == TOOLS_NONE) { /* "none": the model hears of no tools */
        json_decref(*tools);
        *tools = NULL;
    }
}

/* ---------------------------------------------------------------- schemas */

/* "#/..." means the root of the tool's own schema, which will lie at #/$defs/PLACE. */
static void move_refs(json_t *v, const char *place, int depth)
{
    const char *key;
    json_t *item;
    size_t i;
    if (depth > AN_JSON_MAX_DEPTH) return;
    json_array_foreach(v, i, item) move_refs(item, place, depth + 1);
    if (!json_is_object(v)) return;
    json_object_foreach(v, key, item) move_refs(item, place, depth + 1);
    const char *ref = json_string_value(json_object_get(v, "$ref"));
    if (ref && *ref == '#')
        json_object_set_new(v, "$ref", json_sprintf("#/$defs/%s%s", place, ref + 1));
}

static json_t *parameters_of(const json_t *function)
{
    const json_t *p = json_object_get(function, "parameters");
    if (json_is_object(p) && json_object_size(p)) return json_deep_copy(p);
    return json_pack("{s:s}", "type", "object");
}

json_t *tools_schema(const json_t *tools, const tool_choice *choice)
{
    json_t *defs = json_object(), *any = json_array();
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *name = name_of(tools, i);
        json_t *p = parameters_of(function_of(tools, i));
        char place[32];
        if (choice->mode == TOOLS_NAMED) {
            if (strcmp(name, choice->name) == 0) {
                json_decref(defs);
                json_decref(any);
                return p;
            }
            json_decref(p);
            continue;
        }
        snprintf(place, sizeof place, "tool%zu", i);
        move_refs(p, place, 0);
        json_object_set_new(defs, place, p);
        json_array_append_new(any,
                              json_pack("{s:s,s:{s:{s:s},s:{s:o}},s:[s,s],s:b}", "type", "object",
                                        "properties", "name", "const", name, "arguments", "$ref",
                                        json_sprintf("#/$defs/%s", place), "required", "name",
                                        "arguments", "additionalProperties", 0));
    }
    return json_pack("{s:s,s:{s:o},s:i,s:i,s:o}", "type", "array", "items", "anyOf", any,
                     "minItems", 1, "maxItems", choice->parallel ? MAX_CALLS : 1, "$defs", defs);
}

char *tools_description(const json_t *tools)
{
    an_buf b;
    an_buf_init(&b, (size_t)32 << 20);
    an_buf_str(&b, "You may call functions to help with the user's request. The functions, as JSON "
                   "schemas:\n<tools>\n");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        char *text = json_dumps(json_array_get(tools, i), JSON_COMPACT);
        an_buf_str(&b, text ? text : "");
        an_buf_str(&b, "\n");
        free(text);
    }
    an_buf_str(&b, "</tools>\nTo call one, answer with its name and arguments as JSON inside "
                   "tags:\n<tool_call>\n{\"name\": NAME, \"arguments\": {...}}\n</tool_call>");
    if (b.failed) {
        an_buf_free(&b);
        return NULL;
    }
    return an_buf_take(&b);
}

json_t *tool_call_json(const char *name, size_t n)
{
    unsigned char r[12];
    char id[40] = "call_";
    if (getrandom(r, sizeof r, 0) != (ssize_t)sizeof r) memset(r, 0, sizeof r);
    for (size_t i = 0; i < sizeof r; i++) snprintf(id + 5 + 2 * i, 3, "%02x", r[i]);
    return json_pack("{s:s,s:s,s:{s:o,s:s}}", "id", id, "type", "function", "function", "name",
                     json_stringn(name, n), "arguments", "");
}
