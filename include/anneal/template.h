/* template.h: chat templates. The subset of Jinja2 that real templates use, rendered with the
 * settings of transformers (trim_blocks, lstrip_blocks, loop controls, tojson, raise_exception,
 * strftime_now). A template from a file is a program of a stranger: it computes on JSON values only
 * and has budgets for steps, depth, values and output. */
#ifndef ANNEAL_TEMPLATE_H
#define ANNEAL_TEMPLATE_H

#include "anneal/base.h"

struct json_t;
typedef struct an_template an_template;

typedef struct an_template_limits {
    size_t max_source; /* bytes, default 1 MiB */
    size_t max_output; /* bytes, default 8 MiB */
    size_t max_memory; /* bytes of values, default 64 MiB */
    int max_steps;     /* nodes evaluated, default 10 million */
    int max_depth;     /* nesting of blocks, calls and expressions, default 100 */
} an_template_limits;
void an_template_limits_default(an_template_limits *l);

/* AN_INVALID: line and what was expected. limits NULL = defaults. */
an_status an_template_parse(const char *source, size_t len, const an_template_limits *limits,
                            an_template **out, an_error *err);
void an_template_free(an_template *t);
const char *an_template_source(const an_template *t); /* as it was given; lives as long as t */
/* vars: an object: messages, tools, add_generation_prompt, bos_token, eos_token and whatever else the
 * request gives. now: unix time for strftime_now (UTC). The same template may be rendered by several
 * threads. AN_INVALID carries raise_exception's message, or the line and what went wrong;
 * AN_TOO_LARGE names the budget. */
an_status an_template_render(const an_template *t, const struct json_t *vars, double now, an_buf *out,
                             an_error *err);
/* True if the source mentions the variable (tools, for "does this template support tools"). */
bool an_template_uses(const an_template *t, const char *name);

#endif
