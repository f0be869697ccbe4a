/* image_ask.h: what a client asked for in the words of POST /v1/images/generations; POST /v1/jobs
 * takes the same fields. And how its pictures are answered. */
#ifndef ANNEAL_IMAGE_ASK_H
#define ANNEAL_IMAGE_ASK_H

#include "fields.h"
#include "image.h"

/* How results are written; travels with the job as its tag. */
typedef struct image_output {
    an_image_format format;
    int compression;
    bool url; /* response_format "url" */
} image_output;

typedef struct image_ask {
    json_t *root; /* owns the strings below */
    an_image_request request;
    image_output output;
    bool stream;
    json_t *warnings;
    char tag[64];
} image_ask;

/* Takes root. job: "kind" must be there too. Clear with image_ask_clear whatever comes of it. */
an_status image_ask_parse(json_t *root, const an_engine_options *limits, bool job, image_ask *ask,
                          an_error *err);
/* The same of r's body into an ask that is all zeros; false after replying with the error. */
bool image_ask_read(an_req *r, image_ask *ask, bool job);
bool image_ask_take(an_req *r, json_t *root, image_ask *ask, bool job); /* takes root */
void image_ask_clear(image_ask *ask);
/* Submits; NULL after replying with the error. */
an_job *image_ask_submit(an_req *r, image_ask *ask);
/* Adds what the job has to say about its own prompts: that they were cut. */
void image_warnings(an_job *job, json_t *list);

void image_output_tag(const image_output *o, char *buf, size_t size);
image_output image_output_of(an_job *job); /* from the job's tag */

/* One finished picture as {"b64_json"|"url", "seed", ...}; NULL with err, {0} before, filled. */
json_t *image_item(an_req *r, an_job *job, int index, const image_output *o, an_error *err);
/* Picture bytes with infotext, into out. */
an_status image_file(an_job *job, int index, const image_output *o, an_buf *out, an_error *err);
/* {"created","data":[...],"output_format","size",...} of a finished job; NULL with err filled. */
json_t *image_answer(an_req *r, an_job *job, const image_output *o, json_t *warnings,
                     an_error *err);
/* OpenAI's count of tokens; clients refuse answers without its parts. */
json_t *image_usage(size_t prompt_tokens);
/* A preview event as base64 of a full-size picture. */
json_t *preview_base64(const an_event *ev, int width, int height, an_image_format format);
/* Base64 of a buffer as a JSON string. */
json_t *base64_string(const an_buf *bytes);

/* infotext.c: A1111's "parameters" text of picture `index`, malloc'ed. */
char *infotext_of(an_job *job, int index);
char *infotext_write(const an_job_params *p, int64_t seed);
/* Its fields again: {"Prompt","Negative prompt","Steps",...}, new reference. */
json_t *infotext_parse(const char *text);

/* sdapi.c: the fields of txt2img, into a request with its defaults; q's strings belong to f. */
void a1111_read(fields *f, const an_engine_options *limits, an_image_request *q, bool *send_images);

/* latents.c: what POST /v1/latents was asked for. */
typedef struct latents_ask {
    an_latents_request request;
    image_output output;
    an_buf bytes; /* owned: the latents */
    an_picture picture;
} latents_ask;
/* root keeps the strings. Clear with latents_ask_clear whatever comes of it. */
an_status latents_ask_parse(json_t *root, const an_engine_options *limits, latents_ask *ask,
                            an_error *err);
void latents_ask_clear(latents_ask *ask);

/* links.c: pictures behind links of this server that live --url-ttl seconds. */
an_status link_add(an_req *r, an_buf *bytes, an_image_format format, char *url, size_t size,
                   an_error *err);
void links_expire(an_server *s); /* forgets what is too old; once a second */
void links_clear(void);

#endif
