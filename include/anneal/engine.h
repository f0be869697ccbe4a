/* engine.h: jobs in, events out. Above it the server (HTTP and command line), which knows no
 * tensors; inside it the queue, the scheduler and the device thread. A request that is accepted here
 * is complete, clamped and affordable; everything that can be refused is refused in submit.
 *
 * Threads: every function may be called from any thread. One thread decides all that happens on the
 * device; on a GPU, ticks of pictures and of text run on a thread each.
 * Callbacks run on that thread: they must not block and must not call back into the engine, except
 * where said. */
#ifndef ANNEAL_ENGINE_H
#define ANNEAL_ENGINE_H

#include "anneal/grammar.h"
#include "anneal/model.h"
#include "anneal/solver.h"
#include "anneal/template.h"

typedef struct an_engine an_engine;

typedef struct an_engine_options {
    an_device_options device; /* or devices: an_devices_open */
    const char *dtype;       /* "auto", "f32", "bf16" */
    const char *weights;     /* "auto" (as dtype; FP8 where the file is), "fp8"; NULL = auto */
    const char *const *model_dirs; /* NULL-terminated; every entry of each is a model */
    int max_queue;           /* jobs waiting, default 256 */
    int max_batch;           /* pictures that advance together in a tick, default 8 */
    int max_running;         /* pictures started and not finished on a device, default 16 */
    int max_n;               /* pictures of a request, default 10 */
    int max_steps;           /* default 150 */
    int max_width, max_height; /* default 2048 */
    int max_prompt_bytes;    /* default 16384 */
    int max_chunks;          /* A1111 prompts, default 8 */
    int max_jobs_kept;       /* finished jobs kept, default 1024 */
    size_t max_result_bytes; /* pixels of finished jobs kept, default 512 MiB; and, on its own,
                                uploads of waiting ones */
    double job_ttl_s;        /* default 600 */
    size_t memory_bytes;     /* budget for weights and activations of a device; 0 = 80 % of the
                                machine's, 90 % of a GPU's own */
    int text_cache;          /* encodings kept, default 256 */
    int vae_tile;            /* latents above this edge decode in tiles, default 128 */
    /* language models */
    int max_context;         /* positions of a sequence, whatever the model allows; default 32768 */
    int max_tokens;          /* new tokens of a completion, default 16384 */
    int max_sequences;       /* completions that run at once on a device, default 64 */
    int tick_tokens;         /* tokens of a tick: decoding ones, the rest for prompts; default 512 */
    size_t kv_bytes;         /* for keys and values of a model; 0 = an eighth of memory_bytes */
    bool prefix_cache;       /* default true */
    bool host_sampling;      /* tokens are drawn on the host, though the device could: the same ones */
    int max_completions;     /* answers to one prompt, default 128 */
    int max_stop, max_logit_bias, max_top_logprobs; /* of a request: 16, 1024, 20 */
    an_template_limits chat_template; /* budgets of the models' chat templates */
    /* The jobs that a client may have waiting or running, 0 = any number; NULL = no limits. Called
     * with the engine's lock held: it must be quick and call nothing of the engine. */
    int (*client_jobs)(void *ctx, const char *client);
    void *client_ctx;
    bool scan_only;          /* look at the folders, load nothing, start no thread: `anneal models` */
} an_engine_options;
void an_engine_options_default(an_engine_options *o);

/* Opens the devices, scans the model folders and starts the device thread, which loads the default
 * model of each kind on every device. Broken models are logged and listed with their error, the others served. */
an_status an_engine_new(const an_engine_options *o, an_engine **out, an_error *err);
bool an_engine_ready(const an_engine *e); /* default models are loaded (or have failed) */
/* Refuses new jobs (AN_STOPPING), lets running ones finish within grace_s, cancels the rest. Blocks. */
void an_engine_stop(an_engine *e, double grace_s);
/* From a signal-driven main loop: only stop accepting; an_engine_stop later. */
void an_engine_drain(an_engine *e);
void an_engine_free(an_engine *e); /* after stop; every job reference must be gone */

/* ---------------------------------------------------------------- models */

typedef struct an_model_entry {
    char id[256];
    char path[1024];
    an_model_info info;      /* valid if ok */
    bool ok, loaded, is_default;
    char error[512];         /* why it cannot be served */
    double created;          /* unix time of the files */
    int devices;             /* that have it loaded */
    size_t device_bytes;     /* when loaded, on all of them */
} an_model_entry;
int an_engine_model_count(const an_engine *e);
bool an_engine_model_at(const an_engine *e, int i, an_model_entry *out);
/* By id; NULL or "" = the first model of the kind. AN_NOT_FOUND lists those there are (param "model"). */
an_status an_engine_model_find(const an_engine *e, const char *id, an_kind kind, an_model_entry *out,
                               an_error *err);
const an_engine_options *an_engine_limits(const an_engine *e);

/* ---------------------------------------------------------------- requests */

typedef struct an_image_request {
    const char *model;           /* NULL = default */
    const char *prompt;
    const char *negative_prompt; /* NULL = absent (differs from "" on SDXL) */
    int width, height;           /* 0 = the model's */
    int n;                       /* pictures, seeds seed..seed+n-1; 0 = 1 */
    int steps;                   /* 0 = the model's */
    double guidance_scale;       /* NaN = the model's */
    double guidance_rescale;     /* 0 = none */
    const char *sampler;         /* NULL = the model's own class and settings */
    const char *schedule;        /* NULL = the sampler's own */
    const char *timestep_spacing;/* NULL = the config's */
    const struct json_t *solver_overrides; /* NULL, or further scheduler_config keys; borrowed */
    an_rng_kind rng;
    int64_t seed;                /* < 0 = random */
    bool a1111_prompt;           /* chunks of 75 and (word:1.2) weights */
    int clip_skip;               /* 0 = as trained */
    int previews;                /* partial pictures wanted, spread over the steps; 0 = none */
    bool preview_every_step;
    int priority;                /* -10..10, higher first; default 0 */
    double deadline_s;           /* give up when not done within; 0 = none */
    const char *client;          /* identity for fairness and ownership */
    const char *tag;             /* the server's own note (how to write the result); copied, may be NULL */
} an_image_request;
void an_image_request_default(an_image_request *r);

/* Pictures to latents or back, through the model's VAE (POST /v1/latents). */
typedef struct an_latents_request {
    const char *model, *client;
    bool decode;
    const uint8_t *image; /* encode: [height, width, 3] */
    int width, height;
    const float *latent;  /* decode: [channels, height/factor, width/factor], sampler scale */
    int latent_channels, latent_h, latent_w;
} an_latents_request;

/* How the next token is drawn from the logits, in this order: logit_bias, penalties, the grammar's
 * mask, then temperature 0 takes the largest (lowest id on ties); else top_k, typical_p, top_p, min_p,
 * temperature, and one uniform number of the row's own Philox stream (seed + choice). The
 * same tokens come whatever else runs, and wherever they are drawn. */
typedef struct an_sampling {
    float temperature;  /* 0 = greedy; default 1 */
    int top_k;          /* 0 or less = all */
    float top_p, min_p, typical_p; /* 1, 0, 1 = off */
    float repetition_penalty;      /* 1 = off; over prompt and answer */
    float presence_penalty, frequency_penalty; /* 0 = off; over the answer */
    int repeat_last_n;  /* tokens the repetition penalty looks at, -1 = all */
    int64_t seed;       /* < 0 = random; the one used comes back */
    const struct an_token_bias {
        int32_t id;
        float bias;     /* -INFINITY bans */
    } *bias;
    int n_bias;
} an_sampling;

typedef struct an_text_request {
    const char *model;   /* NULL = default */
    const int32_t *ids;  /* the prompt; copied */
    size_t n_ids;        /* 1.. ; with max_tokens it must fit the context */
    int n;               /* completions, 0 = 1; they share the prompt's blocks */
    int max_tokens;      /* 0 = as many as fit */
    bool prompt_only;    /* the prompt is computed (and scored: echo_logprobs), no token is drawn; it
                            may fill the context */
    int min_tokens;      /* end tokens and stop strings are held back until then */
    an_sampling sampling;
    const char *const *stop; /* strings; the text ends before the first that appears */
    int n_stop;
    const int32_t *stop_ids; /* tokens that end the answer, not part of the text */
    int n_stop_ids;
    bool ignore_eos;     /* end tokens may be drawn, are returned, and end nothing */
    bool ban_eos;        /* llama-server's ignore_eos: end tokens are never drawn */
    bool echo_logprobs;  /* logprobs of the prompt's tokens too */
    int logprobs;        /* -1 = none, 0 = of the chosen token, k = and of the k most likely */
    bool special;        /* special tokens appear in the text */
    an_grammar *grammar; /* or NULL; the job takes a reference of its own */
    const char *cache_salt;     /* prefixes are shared only among equal salts; NULL = "" */
    int priority;
    double deadline_s;
    const char *client, *tag;
} an_text_request;
void an_text_request_default(an_text_request *r);

/* ---------------------------------------------------------------- jobs */

typedef struct an_job an_job; /* counted reference */

typedef enum an_job_state {
    AN_JOB_QUEUED = 0,
    AN_JOB_RUNNING,
    AN_JOB_DONE,
    AN_JOB_FAILED,
    AN_JOB_CANCELED
} an_job_state;
const char *an_job_state_name(an_job_state s); /* "queued", "running", "done", "failed", "cancelled" */

/* Checks everything, prices it, queues it. All strings are copied. On AN_OK *out holds a reference
 * of the caller's. AN_BUSY: the queue is full, or (param "client") client_jobs has said stop; AN_STOPPING: the server is stopping. Anything the
 * client got wrong is AN_INVALID / AN_NOT_FOUND / AN_TOO_LARGE with err->param set. */
an_status an_engine_submit(an_engine *e, const an_image_request *r, an_job **out, an_error *err);
an_status an_engine_submit_latents(an_engine *e, const an_latents_request *r, an_job **out,
                                   an_error *err);
an_status an_engine_submit_text(an_engine *e, const an_text_request *r, an_job **out, an_error *err);
/* The vocabulary and the chat template of a text model: borrowed, they live as long as the engine.
 * *vocab is NULL for a model without tokenizer; AN_NOT_FOUND (param "model") without template. */
an_status an_engine_vocab(an_engine *e, const char *model, const an_vocab **vocab, an_error *err);
an_status an_engine_template(an_engine *e, const char *model, const an_template **out,
                             const char **bos, const char **eos, an_error *err);

an_job *an_job_ref(an_job *j);
void an_job_unref(an_job *j); /* NULL is fine */
an_job *an_engine_job(an_engine *e, const char *id); /* new reference, NULL if unknown */
/* Newest first; fills up to max references, returns how many. client NULL = everybody's. */
int an_engine_jobs(an_engine *e, const char *client, an_job **out, int max);

typedef struct an_job_info {
    char id[40];           /* "job_" + random hex: cannot be guessed */
    char client[128];
    char model[256];
    an_job_state state;
    int queue_position;    /* 0 = next; -1 when not queued */
    int step, steps;       /* network calls done / in all, summed over the pictures */
    double eta_s;          /* < 0 = unknown */
    double created, started, finished; /* unix time, 0 = not yet */
    int images, images_done;
    an_error error;        /* state failed or cancelled */
    bool truncated, negative_truncated; /* the prompt was cut to the model's length */
    size_t prompt_tokens, negative_tokens;
} an_job_info;
void an_job_get(an_job *j, an_job_info *out);
/* A device was given some of it. One that ended before that may be asked of another server: nothing
 * of it was computed, and it has broken nothing. */
bool an_job_ran(an_job *j);
int an_job_position(an_job *j); /* its queue_position alone, which costs less */
/* Nobody will look it up by id again: the store drops it when it ends (or now, if it has), instead
 * of keeping its pictures for job_ttl_s. References stay good. For synchronous answers. */
void an_job_forget(an_job *j);
void an_job_cancel(an_job *j); /* takes effect at the next tick; again is harmless */

/* One finished picture; pixels are borrowed and live as long as the caller's job reference. */
typedef struct an_result {
    const uint8_t *pixels; /* [height, width, 3], NULL if not done or expired */
    int width, height;
    int64_t seed;
    /* latents jobs: [channels, h, w] F32: mean (scaled as the sampler takes it) and its parts */
    const float *latent, *logvar;
    int latent_channels, latent_h, latent_w;
} an_result;
bool an_job_result(an_job *j, int i, an_result *out);

typedef enum an_finish {
    AN_FINISH_NONE = 0, /* still running */
    AN_FINISH_STOP,     /* end token, stop token, stop string, or the grammar is complete */
    AN_FINISH_LENGTH
} an_finish;

/* One token of an answer (or of an echoed prompt), with what was asked of it. */
typedef struct an_token {
    int32_t id;
    size_t text_start, text_end; /* its bytes in the choice's text; equal while a character is unfinished */
    float logprob;               /* of the model's distribution before sampling changes it */
    int n_top;
    const struct an_top {
        int32_t id;
        float logprob;
    } *top;                      /* most likely first */
} an_token;

/* A choice of a text job as it stands. Pointers are borrowed, stay valid as long as the caller's
 * reference, and show a prefix that never changes: text [0, text_len) is whole UTF-8 and can no longer
 * become part of a stop string, and tokens [0, n_tokens) belong to it or to what follows. */
typedef struct an_text {
    const char *text;
    size_t text_len;
    const an_token *tokens;
    size_t n_tokens;
    an_finish finish;
    const char *stop;       /* the stop string or token's text that ended it, or NULL */
    int64_t seed;
} an_text;
bool an_job_text(an_job *j, int choice, an_text *out); /* false: not a text job, or no such choice */
/* Of the prompt, with echo_logprobs; tokens[0] has no logprob (NaN). Valid once a token is there. */
bool an_job_prompt(an_job *j, const an_token **tokens, size_t *n);

typedef struct an_text_usage {
    size_t prompt_tokens, cached_tokens, completion_tokens;
    double first_token_s; /* from submit to the first token, < 0 = not yet */
    double prefill_s, decode_s;
    int preemptions;
} an_text_usage;
void an_job_text_usage(an_job *j, an_text_usage *out);

/* What the request came to, with every default filled in, for infotext and answers. Borrowed strings
 * live as long as the reference. */
typedef struct an_job_params {
    const char *prompt, *negative_prompt; /* negative may be NULL */
    const char *model;
    const char *sampler_class;  /* diffusers class in use */
    const char *sampler, *schedule; /* as asked, may be NULL */
    int width, height, n, steps, clip_skip;
    double guidance_scale, guidance_rescale;
    int64_t seed;
    an_rng_kind rng;
    const char *tag; /* as submitted, may be NULL */
} an_job_params;
void an_job_params_get(an_job *j, an_job_params *out);

/* ---------------------------------------------------------------- events */

typedef enum an_event_type {
    AN_EVENT_QUEUED = 0,
    AN_EVENT_STARTED,
    AN_EVENT_STEP,    /* step/steps of the whole job */
    AN_EVENT_PREVIEW, /* image: index, a small RGB picture */
    AN_EVENT_IMAGE,   /* image `index` is finished: an_job_result */
    AN_EVENT_TEXT,    /* choices have grown: an_job_text. Coalesced: one is kept */
    AN_EVENT_DONE,    /* last event, always exactly one of DONE, FAILED, CANCELED */
    AN_EVENT_FAILED,
    AN_EVENT_CANCELED
} an_event_type;
const char *an_event_name(an_event_type t);

typedef struct an_event {
    an_event_type type;
    uint64_t seq;      /* 1, 2, ... ; gaps where a slow listener missed coalesced STEP/PREVIEW events */
    int index;         /* picture, for STEP, PREVIEW, IMAGE */
    int partial_index; /* PREVIEW: 0, 1, ... within its picture */
    int step, steps;   /* PREVIEW: of that picture; STEP: of the job */
    uint8_t *preview;  /* PREVIEW: [preview_h, preview_w, 3], the caller's (free()); else NULL */
    int preview_w, preview_h;
} an_event;
/* The next event after *cursor (0 at first; advanced). False if there is none yet. The ring is
 * bounded: old STEP and PREVIEW events may be gone, the others never are. */
bool an_job_next_event(an_job *j, uint64_t *cursor, an_event *out);
bool an_job_finished(an_job *j); /* the last event exists */
/* fn(ctx) is called after every new event, from the device thread (or the canceling one), with no
 * lock of the engine held that an_job_* needs; it must not block. Returns a handle for unwatch. After
 * unwatch returns fn is not running and will not be called. */
int an_job_watch(an_job *j, void (*fn)(void *ctx), void *ctx);
void an_job_unwatch(an_job *j, int handle);

/* ---------------------------------------------------------------- numbers for /metrics, /health */

#define AN_HIST_BUCKETS 16
typedef struct an_histogram {
    double le[AN_HIST_BUCKETS]; /* upper bounds: seconds, tokens, rows; the last is +Inf */
    uint64_t count[AN_HIST_BUCKETS]; /* cumulative, as Prometheus wants them */
    uint64_t total;
    double sum;
} an_histogram;

typedef struct an_engine_stats {
    bool ready, draining, device_ok; /* device_ok: at least one answers */
    char device_error[sizeof((an_error *)0)->message]; /* if none does: "device lost: ..." */
    int queued, running, running_rows;
    uint64_t jobs_done, jobs_failed, jobs_canceled, jobs_refused, images_done;
    uint64_t ticks[AN_STAGE_COUNT], rows[AN_STAGE_COUNT]; /* rows / ticks = mean batch */
    uint64_t repeated;       /* ticks of pictures that failed and were run again one by one */
    double busy_s;           /* seconds of ticks; on a GPU, of text and of pictures at once */
    size_t weight_bytes, arena_bytes, result_bytes;
    size_t planned_bytes; /* the printed plan's total: the resident set of a busy process */
    uint64_t text_cache_hits, text_cache_misses;
    double last_tick;        /* monotonic seconds */
    an_histogram queue_s, step_s, request_s; /* waiting, one denoise tick, whole job */
    double oldest_s;                         /* how long the job that waits longest has waited */
    an_histogram first_preview_s;            /* from submit to a picture's first preview */
    an_histogram batch_rows[AN_STAGE_COUNT]; /* rows of a tick */
    char device[256];
    /* language models, over all loaded ones */
    int seqs_running, seqs_waiting;
    int64_t kv_blocks, kv_blocks_used; /* used: by running sequences (cached prefixes are free) */
    uint64_t device_tokens; /* of the generated ones, those drawn by the device */
    uint64_t prompt_tokens, generated_tokens, preemptions, prefix_queries, prefix_hits; /* tokens */
    uint64_t finished_stop, finished_length, finished_abort;
    an_histogram first_token_s, token_s, tick_tokens;
} an_engine_stats;
void an_engine_get_stats(an_engine *e, an_engine_stats *out);

/* What moves most, cheap to ask for and to compare by memcmp: while it is the same, an answer that
 * was built from more (/health, /v1/models) is still true. */
typedef struct an_pulse {
    uint64_t models;  /* changes of what an_engine_model_at tells */
    uint64_t devices; /* a hash of what an_engine_device_at tells besides times and bytes */
    int queued, running;
    int ready, draining; /* whole ints: no padding to compare */
} an_pulse;
void an_engine_pulse(an_engine *e, an_pulse *out);

/* One of the devices that serve the queue. */
typedef struct an_device_stats {
    char name[32];           /* "cuda:1", "cpu" */
    char description[512];
    bool ok;
    char error[sizeof((an_error *)0)->message]; /* if it is not ok: "device lost: ..." */
    int models;              /* loaded on it */
    int running_rows;        /* pictures and answers started and not finished there */
    uint64_t ticks, rows;
    double busy_s;
    size_t memory_bytes, used_bytes; /* its budget; weights, arenas, pictures, keys and values */
} an_device_stats;
int an_engine_device_count(const an_engine *e);
void an_engine_device_at(an_engine *e, int i, an_device_stats *out); /* i: 0 .. count - 1 */

size_t an_resident_bytes(void); /* what the process uses now */

/* A call of a network: what moved together. */
typedef struct an_tick_info {
    uint64_t seq;    /* 1, 2, ... over all devices */
    an_stage stage;
    int device;      /* index */
    int rows;        /* pictures, prompts, or parts of answers */
    int tokens, drawn; /* FORWARD: tokens that went through it; answers that got a token */
    double seconds;  /* it took */
    double ended;    /* unix time */
} an_tick_info;
#define AN_TICKS_KEPT 512
/* The newest ticks after number `since` (0 = all that are kept), oldest first, at most max. Returns how
 * many. */
int an_engine_ticks(an_engine *e, uint64_t since, an_tick_info *out, int max);

/* What may be told of a job to others than its client: no id, no text. */
typedef struct an_job_summary {
    an_kind kind;
    bool latents;        /* POST /v1/latents: a part of making a picture */
    char client[128];    /* for the caller to compare, not to show */
    char model[64];      /* cut at the end */
    char sampler[64];    /* diffusers class of a picture's, else "" */
    an_job_state state;
    an_status error;     /* state failed or cancelled */
    double created, started, finished; /* unix time, 0 = not yet */
    int n;               /* pictures or answers */
    int width, height;   /* of pictures */
    int step, steps;     /* network calls, or tokens; done and in all */
    size_t prompt_tokens, completion_tokens;
} an_job_summary;
#define AN_RECENT_KEPT 64
/* Up to max of the running jobs, then of the waiting ones, newest first. Returns how many. */
int an_engine_live(an_engine *e, an_job_summary *out, int max);
/* Up to max of the jobs that ended last, newest first; also of those that nobody can look up any more. */
int an_engine_recent(an_engine *e, an_job_summary *out, int max);

#endif
