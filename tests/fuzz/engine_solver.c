/* engine_solver.c: a scheduler_config.json and a request's settings of any shape give a solver or
 * an error, never a crash, and a solver's numbers are finite. Input: steps (one byte), then a JSON
 * object {"base":{...},"overrides":{...},"sampler":"...","schedule":"..."}. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "anneal/solver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const an_solver *s)
{
    for (int i = 0; i < an_solver_calls(s); i++) {
        an_step step;
        an_solver_step(s, i, &step);
        for (int k = 0; k < AN_TERMS; k++)
            if (!isfinite(step.out[k]) || !isfinite(step.keep[k])) abort();
    }
    an_buf b;
    an_buf_init(&b, 1 << 16);
    an_schedule_json(s, &b);
    an_schedule_draw(s, 60, 12, &b);
    an_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    int steps = data[0];
    json_t *o = NULL, *named = NULL;
    an_error err = {0};
    if (an_json_parse_lenient((const char *)data + 1, size - 1, &o, &err) != AN_OK) return 0;
    const char *sampler = json_string_value(json_object_get(o, "sampler"));
    const char *schedule = json_string_value(json_object_get(o, "schedule"));
    json_t *base = json_object_get(o, "base"), *overrides = json_object_get(o, "overrides");
    if (an_sampler_resolve(sampler, schedule, &named, &err) == AN_OK) {
        if (json_is_object(overrides)) json_object_update(named, overrides);
        an_solver *s = NULL;
        if (an_solver_new(base, named, steps, &s, &err) == AN_OK) walk(s);
        an_solver_free(s);
    }
    json_decref(named);
    json_decref(o);
    return 0;
}
