/* infotext.c: A1111's "parameters" text: what made a picture, readable by people and by the many
 * tools that look for it in a PNG.
 *
 *     a red apple
 *     Negative prompt: blur
 *     Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, Size: 512x512,
 * ...
 */
#include "image_ask.h"

#include <stdlib.h>

/* A value with a comma, colon, quote or newline is written as a JSON string, as A1111 quotes. */
static void put_value(an_buf *b, const char *v)
{
    if (!strpbrk(v, ",:\"\n")) {
        an_buf_str(b, v);
        return;
    }
    json_t *j = json_string(v);
    char *text = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;
    an_buf_str(b, text ? text : "\"\"");
    free(text);
    json_decref(j);
}

/* The A1111 label of the sampler in use: as asked if the table knows it, else by class. */
static const char *sampler_label(const an_job_params *p)
{
    const an_sampler_name *n;
    const char *by_class = NULL;
    for (int i = 0; (n = an_sampler_at(i)) != NULL; i++) {
        if (p->sampler && strcasecmp(p->sampler, n->label) == 0) return n->label;
        for (int k = 0; p->sampler && n->aliases && n->aliases[k]; k++)
            if (strcasecmp(p->sampler, n->aliases[k]) == 0) return n->label;
        if (!by_class && strcmp(n->class_name, p->sampler_class) == 0) by_class = n->label;
    }
    return p->sampler ? p->sampler : by_class ? by_class : p->sampler_class;
}

char *infotext_write(const an_job_params *p, int64_t seed)
{
    an_buf b;
    an_buf_init(&b, (size_t)64 << 20); /* two prompts of the largest limit */
    an_buf_printf(&b, "%s\n", p->prompt);
    if (p->negative_prompt && *p->negative_prompt)
        an_buf_printf(&b, "Negative prompt: %s\n", p->negative_prompt);
    an_buf_printf(&b, "Steps: %d, Sampler: ", p->steps);
    put_value(&b, sampler_label(p));
    if (p->schedule) {
        const char *label = NULL, *name;
        for (int i = 0; (name = an_schedule_at(i, &label)) != NULL; i++)
            if (strcasecmp(name, p->schedule) == 0 || strcasecmp(label, p->schedule) == 0) break;
        an_buf_str(&b, ", Schedule type: ");
        put_value(&b, name ? label : p->schedule);
    }
    an_buf_printf(&b, ", CFG scale: %g, Seed: %lld, Size: %dx%d, Model: ", p->guidance_scale,
                  (long long)seed, p->width, p->height);
    put_value(&b, p->model);
    if (p->clip_skip > 1) an_buf_printf(&b, ", Clip skip: %d", p->clip_skip);
    if (p->guidance_rescale > 0) an_buf_printf(&b, ", CFG Rescale phi: %g", p->guidance_rescale);
    an_buf_printf(&b, ", RNG: %s, Version: anneal %s", p->rng == AN_RNG_CPU ? "CPU" : "GPU",
                  AN_VERSION);
    if (b.failed) {
        an_buf_free(&b);
        return NULL;
    }
    return an_buf_take(&b);
}

char *infotext_of(an_job *job, int index)
{
    an_job_params p;
    an_result res;
    an_job_params_get(job, &p);
    return infotext_write(&p, an_job_result(job, index, &res) ? res.seed : p.seed + index);
}

/* ---------------------------------------------------------------- and back */

/* One "Key: value" of the last line; returns where the next begins, NULL at the end or on a fault.
 */
static const char *parse_pair(const char *s, json_t *out)
{
    while (*s == ' ' || *s == ',') s++;
    const char *colon = strchr(s, ':');
    if (!colon || colon == s || colon - s > 60) return NULL;
    char key[64];
    snprintf(key, sizeof key, "%.*s", (int)(colon - s), s);
    const char *v = colon + 1;
    while (*v == ' ') v++;
    const char *end;
    json_t *value;
    if (*v == '"') {
        for (end = v + 1; *end && *end != '"'; end++)
            if (*end == '\\' && end[1]) end++;
        if (!*end) return NULL;
        end++;
        value = json_loadb(v, (size_t)(end - v), JSON_DECODE_ANY, NULL);
    } else {
        end = v + strcspn(v, ",");
        value = json_stringn(v, (size_t)(end - v));
    }
    if (!value) return NULL;
    int w, h;
    if (strcmp(key, "Size") == 0 && json_is_string(value) &&
        sscanf(json_string_value(value), "%9dx%9d", &w, &h) == 2) {
        json_object_set_new(out, "Size-1", json_integer(w));
        json_object_set_new(out, "Size-2", json_integer(h));
        json_decref(value);
    } else {
        json_object_set_new(out, key, value);
    }
    return *end ? end + 1 : NULL;
}

json_t *infotext_parse(const char *text)
{
    json_t *out = json_object();
    const char *last = strrchr(text, '\n');
    const char *line = last ? last + 1 : text;
    size_t body = last ? (size_t)(last - text) : 0;
    if (!strstr(line, "Steps: ") && !strstr(line, "Seed: ")) { /* no settings: all is prompt */
        line = "";
        body = strlen(text);
    }
    const char *negative = strstr(text, "\nNegative prompt:");
    if (strncmp(text, "Negative prompt:", 16) == 0) negative = text;
    size_t prompt = negative && (size_t)(negative - text) < body ? (size_t)(negative - text) : body;
    json_object_set_new(out, "Prompt", json_stringn(text, prompt));
    if (prompt < body) {
        const char *n = strchr(negative, ':') + 1;
        while (*n == ' ') n++;
        size_t len = (size_t)(text + body - n);
        json_object_set_new(out, "Negative prompt", json_stringn(n, len));
    } else {
        json_object_set_new(out, "Negative prompt", json_string(""));
    }
    for (int i = 0; line && *line && i < 100; i++) line = parse_pair(line, out);
    return out;
}
