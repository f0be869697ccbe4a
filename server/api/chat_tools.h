/* chat_tools.h: tool calls. On the way in: `tools` and `tool_choice` become a schema that the
 * answer must follow, or a description for templates that know no tools. On the way out: a parser
 * that finds the calls in a growing text, whatever the model's habit: <tool_call>{...}</tool_call>
 * (Hermes, Qwen, SmolLM), or an answer that is nothing but {"name":...,"parameters":...} (Llama 3)
 * or a list of those (Mistral). */
#ifndef ANNEAL_CHAT_TOOLS_H
#define ANNEAL_CHAT_TOOLS_H

#include "fields.h"

typedef enum tool_mode {
    TOOLS_NONE = 0,
    TOOLS_AUTO,     /* text, or calls in it */
    TOOLS_REQUIRED, /* the grammar makes it a list of {"name","arguments"} */
    TOOLS_NAMED     /* the grammar makes it the arguments of one function */
} tool_mode;

typedef struct tool_choice {
    tool_mode mode;
    const char *name; /* TOOLS_NAMED; borrowed */
    bool parallel;
} tool_choice;

/* Checks `tools` and `tool_choice`; *tools = the list for the template (new reference) or NULL. */
void tools_read(fields *f, json_t **tools, tool_choice *choice);
/* What the answer must look like for TOOLS_REQUIRED and TOOLS_NAMED; new reference, NULL = no
 * memory. */
json_t *tools_schema(const json_t *tools, const tool_choice *choice);
/* The system prompt for templates that know no tools; malloc'ed. */
char *tools_description(const json_t *tools);

/* {"id","type","function":{"name","arguments":""}} with an id of its own. */
json_t *tool_call_json(const char *name, size_t n);

/* ---------------------------------------------------------------- calls in an answer */

/* Where the parts go, in the order of the text. A call begins once with its name; its arguments
 * follow in pieces that together are JSON text. */
typedef struct tool_sink {
    void *ctx;
    void (*content)(void *ctx, const char *s, size_t n);
    void (*call)(void *ctx, int index, const char *name, size_t n);
    void (*arguments)(void *ctx, int index, const char *s, size_t n);
} tool_sink;

typedef struct tool_parser {
    int state;
    size_t at;   /* bytes of the text that are dealt with */
    int calls;   /* begun so far */
    size_t told; /* bytes of the current call's arguments that the sink has */
    bool named;  /* the current call has begun */
} tool_parser;

/* text [0, len) is a longer prefix than before of the same text; last: there will be no more. */
void tools_feed(tool_parser *p, const tool_choice *choice, const json_t *tools, const char *text,
                size_t len, bool last, const tool_sink *sink);

#endif
