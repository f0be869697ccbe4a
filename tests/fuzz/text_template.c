/* Any bytes as a chat template, rendered on a small conversation with small budgets. What must
 * hold: valid UTF-8 comes out, an error says something, nothing leaks, nothing takes long. */
#include "anneal/template.h"

#include <jansson.h>
#include <stdlib.h>

#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) abort();                                                                      \
    } while (0)

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", "
    "\"content\": \"Gr\\u00fc\\u00dfe\\n\"}, {\"role\": \"assistant\", \"content\": null, "
    "\"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": [1, 2.5, "
    "true]}}}]}], "
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}], "
    "\"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *vars;
    an_error e = {0};
    an_template *t;
    an_template_limits l;
    an_template_limits_default(&l);
    l.max_steps = 200000;
    l.max_memory = 4 << 20;
    l.max_output = 1 << 20;
    if (!vars) MUST(an_json_parse(conversation, sizeof conversation - 1, &vars, &e) == AN_OK);
    an_status s = an_template_parse((const char *)data, size, &l, &t, &e);
    if (s != AN_OK) {
        MUST(!t && e.message[0] && (s == AN_INVALID || s == AN_TOO_LARGE));
        return 0;
    }
    an_buf out;
    an_buf_init(&out, 2 << 20);
    s = an_template_render(t, vars, 1e9, &out, &e);
    if (s == AN_OK)
        MUST(out.len == 0 || an_utf8_valid(out.data, out.len));
    else
        MUST(e.status == s && (s == AN_INVALID || s == AN_TOO_LARGE));
    an_template_uses(t, "tools");
    an_buf_free(&out);
    an_template_free(t);
    return 0;
}
