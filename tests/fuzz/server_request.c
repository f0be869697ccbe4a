/* Bytes as a request body: JSON parsing with its limits, then the fields of every dialect. Base64
 * and pictures inside /v1/latents are reached too. Nothing is submitted. */
#include "api/image_ask.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Strings that were read must lie inside the request and be whole. */
static size_t touch(const char *s)
{
    return s ? strlen(s) : 0;
}

static void image(json_t *root, const an_engine_options *limits, bool job)
{
    image_ask ask;
    an_error err = {0};
    if (image_ask_parse(json_incref(root), limits, job, &ask, &err) == AN_OK) {
        const an_image_request *q = &ask.request;
        size_t n = touch(q->prompt) + touch(q->negative_prompt) + touch(q->model) +
                   touch(q->sampler) + touch(q->schedule) + touch(q->timestep_spacing);
        bool sane = q->n >= 0 && q->n <= limits->max_n && q->steps <= limits->max_steps &&
                    n <= 2 * (size_t)limits->max_prompt_bytes + 4 * 256 &&
                    !(q->guidance_scale < 0 || q->guidance_scale > 100);
        if (!sane) abort();
    } else if (!*err.message) {
        abort(); /* an error must say what is wrong */
    }
    image_ask_clear(&ask);
}

static void a1111(json_t *root, const an_engine_options *limits)
{
    fields f;
    an_image_request q;
    bool send = true;
    an_image_request_default(&q);
    fields_init(&f, root);
    a1111_read(&f, limits, &q, &send);
    if (fields_ok(&f) && (q.n < 1 || q.n > limits->max_n || !q.prompt)) abort();
    touch(q.model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    an_engine_options limits;
    an_error err = {0};
    json_t *root = NULL;
    an_engine_options_default(&limits);
    if (an_json_parse((const char *)data, size, &root, &err) != AN_OK) return 0;
    if (json_is_object(root)) {
        latents_ask ask;
        image(root, &limits, false);
        image(root, &limits, true);
        a1111(root, &limits);
        latents_ask_parse(root, &limits, &ask, &err);
        latents_ask_clear(&ask);
    }
    json_decref(root);
    return 0;
}
