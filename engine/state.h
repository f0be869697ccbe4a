/* state.h: what the engine's files share: the engine, its models, jobs and pictures.
 *
 * Two rules keep the threads apart. Whatever an_job_* or the server may read lies under e->lock,
 * which is held for moments and never during device work. Whatever only the device thread touches
 * (tasks, prices' measuring, device memory, the lane) needs no lock. Fields say which they are. */
#ifndef ENGINE_STATE_H
#define ENGINE_STATE_H

#include "anneal/engine.h"
#include "queue.h"
#include "sequence.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

#define AN_BATCH_MAX 64   /* pictures in a tick, whatever the option says */
#define AN_RUN_MAX   2048 /* pictures and sequences started */
#define AN_SEQ_MAX   1024 /* sequences started */
#define AN_UNITS_MAX 64   /* devices */

/* ---------------------------------------------------------------- models (models.c, load.c) */

typedef struct an_unit an_unit;
typedef struct an_slot an_slot;

/* One entry of the model folders, and what is read from its files once. */
typedef struct an_files {
    an_model_entry entry; /* lock */
    json_t *scheduler;    /* its scheduler_config.json or NULL; never changes */
    an_tokenizer *tok[2]; /* opened at the first prompt, under e->tok_lock */
    an_tongue tongue;
    int index; /* in e->files, and of its slots in each u->slot */
} an_files;

/* A model on a device, loaded or not. */
struct an_slot {
    an_files *files; /* never change: of which model, on which device */
    an_unit *unit;
    an_model *model;      /* lock to change; NULL = not loaded. A pin keeps it */
    bool loaded;          /* lock: all of it is ready */
    int pins;             /* lock: pictures running and submits that price */
    size_t device_bytes;  /* lock: weights, when loaded */
    double last_used;     /* device thread, and so are these */
    uint64_t no_room;     /* u->unpinned + 1 when it did not fit; 0: it did, or was not tried */
    size_t arena, states; /* its plan, 0 = not loaded */
    float rgb[16][3],
        rgb_bias[3]; /* preview: written at load by the device thread, its only reader */
    an_language lm;  /* a loaded language model's */
};

an_status an_slots_scan(an_engine *e, an_error *err); /* at start, before any other thread */
void an_slots_free(an_engine *e);
an_files *an_files_find(const an_engine *e, const char *id, an_kind kind, an_error *err); /* lock */
/* AN_NOT_FOUND with the reason if it is broken. Lock. */
an_status an_files_serve(const an_files *f, an_error *err);
/* The model's tokenizer 0 or 1. Any thread. */
an_status an_files_tokenizer(an_engine *e, an_files *f, int which, const an_tokenizer **out,
                             an_error *err);
/* The model that a request names; counts a refusal. No lock. */
an_status an_request_files(an_engine *e, const char *id, an_kind kind, an_files **out,
                           an_error *err);
/* Device thread, without the lock: loads (making room first), sizes the arena, prints the plan. */
an_status an_slot_load(an_unit *u, an_slot *s, an_error *err);
/* Bytes of weights on this device, as far as the files tell: the truth is checked when it is read.
 */
size_t an_weights_guess(const an_unit *u, const an_files *f);
/* Arena of its lane for a tick of this size; idle models make way. Device thread. */
an_status an_room_for(an_unit *u, const an_slot *s, size_t scratch, an_error *err);
/* Unloads the idle model of the device that was not used for longest; false if all are in use.
 * Device thread. */
bool an_slots_make_way(an_unit *u, const an_slot *keep);
void an_files_broken(an_engine *e, an_files *f, const an_error *why);
void an_slots_load_defaults(an_unit *u);
void an_slots_unload(an_unit *u); /* device thread, at its end */

/* ---------------------------------------------------------------- language models (language.c) */

typedef struct an_plan an_plan;
/* Pool, prices and buffers of the model just loaded, and what its dearest tick needs. */
an_status an_language_open(an_unit *u, an_slot *s, an_plan *out, an_error *err);
void an_language_close(an_unit *u, an_slot *s);
/* Positions that one sequence may have; an estimate before the model is loaded. No lock. */
int64_t an_language_positions(an_engine *e, const an_files *f);
/* The model's tokenizer (NULL: it has none) and ends. Any thread. */
an_status an_files_vocab(an_engine *e, an_files *f, const an_vocab **out, an_error *err);
void an_tongue_free(an_tongue *t);

/* ---------------------------------------------------------------- prices and memory (memory.c) */

/* What a tick of one model, stage and size costs. */
typedef struct an_price {
    const an_files *files; /* the key, down to tokens: devices of one kind have one price */
    an_slot *slot;         /* of who asked */
    an_stage stage;
    int64_t h, w, tokens; /* latent size; tokens of context, or chunks for TEXT */
    double row_flops;
    size_t row_bytes, pair_bytes; /* scratch of one row, of two */
    int rows_fit;                 /* device thread: rows that fit an arena of fit_arena bytes */
    size_t fit_arena;
    double row_s;  /* measured seconds a row, 0 = not yet */
    uint64_t used; /* for replacement */
} an_price;

/* Looks up, or prices by a counting run. The slot must be pinned and loaded. Any thread, no lock.
 */
an_status an_price_get(an_engine *e, an_slot *s, an_stage stage, int64_t h, int64_t w,
                       int64_t tokens, an_price *out, an_error *err);
/* The same without pricing: false if it is not known. Lock. */
bool an_price_known(const an_engine *e, const an_files *f, an_stage stage, int64_t h, int64_t w,
                    int64_t tokens, an_price *out);
void an_price_measured(an_engine *e, const an_price *p, double seconds, int rows); /* lock */
/* Rows of this kind that fit the arena, 1..most. Device thread, no lock. */
int an_price_rows(an_engine *e, an_price *p, int most);
/* Scratch of a picture's dearest tick: its prompt, its guidance branches, or its decoding. No lock.
 */
an_status an_picture_scratch(an_engine *e, an_slot *s, const an_job *j, size_t *out, an_error *err);
size_t an_picture_state(const an_model_info *i, int64_t h, int64_t w);
/* Makes the arena of the model's lane at least this large, within the budget. Device thread, while
 * no tick of that lane is in flight. */
an_status an_arena_reach(an_unit *u, const an_slot *s, size_t bytes, an_error *err);
/* For the arena of the model's lane: beside weights, keys and values, pictures, and other arenas.
 */
size_t an_budget_left(const an_unit *u, const an_slot *s);
/* All arenas back to what the loaded models' default sizes need. No tick is in flight. */
void an_arena_relax(an_unit *u);
/* The plan of the model just loaded: what max_batch pictures of its default size need. */
struct an_plan {
    size_t arena, states;
    int batch, decode_rows;
};
an_status an_plan_model(an_unit *u, an_slot *s, an_plan *out, an_error *err);

/* Device blocks of pictures, reused. Device thread. */
#define AN_POOL 128 /* free blocks kept */
typedef struct an_block {
    void *data;
    size_t bytes;
} an_block;
an_status an_block_take(an_unit *u, size_t bytes, an_block *out, an_error *err);
void an_block_give(an_unit *u, an_block *b);
void an_blocks_free(an_unit *u);
size_t an_machine_bytes(void); /* what this process may use: RAM or the control group's limit */

/* ---------------------------------------------------------------- text (text_cache.c) */

/* One prompt's encoding, shared by all pictures that need it. Device thread only. */
typedef struct an_encoding {
    an_slot *slot;
    int clip_skip;
    bool zero; /* SDXL's absent negative prompt: zeros, never encoded */
    int chunks, chunk_len;
    int32_t *ids[2];   /* [chunks, chunk_len]; the key */
    float *weights[2]; /* or NULL: all 1 */
    uint64_t hash;
    bool ready;
    an_status failed; /* its tick failed: whoever waits fails too */
    an_error error;
    an_block memory; /* context, then pooled */
    an_tensor context, pooled;
    int refs; /* pictures; the cache itself keeps it while there is room */
    double last_used;
    struct an_encoding *next;
} an_encoding;

/* What a prompt becomes before it is encoded; made in submit, owned by the job. */
typedef struct an_text_input {
    bool used, zero;
    an_prompt prompt[2]; /* for each text encoder */
} an_text_input;

/* The cached encoding or a new, unready one; a reference. chunks: for zeros, whose input has none.
 */
an_status an_encoding_get(an_unit *u, an_slot *s, const an_text_input *in, int clip_skip,
                          int chunks, an_encoding **out, an_error *err);
void an_encoding_put(an_unit *u, an_encoding *c);
void an_encodings_drop(an_unit *u, const an_slot *s); /* of a model, NULL = all */
an_status an_encodings_run(an_slot *s, an_encoding *const *list, int n, an_error *err);
size_t an_encoding_plan(const an_unit *u, const an_model_info *i); /* bytes of one */

/* ---------------------------------------------------------------- jobs (job.c, events.c) */

typedef enum { AN_TASK_IMAGE, AN_TASK_ENCODE, AN_TASK_DECODE, AN_TASK_TEXT } an_task_kind;

/* One picture: a row with its own noise, solver position and memory; or one choice of a text.
 * Device thread, except that pixels, latent and logvar belong to the job from `done` on. */
typedef struct an_task {
    an_job *job;
    int index;
    bool started, done;
    an_seq *seq; /* TEXT, while it runs; nothing below is used then */
    int call;    /* network calls behind it */
    int partial; /* previews sent */
    an_rng *rng;
    an_encoding *cond, *uncond;
    an_block block; /* all device memory of the picture; below are its parts */
    float *x, *saved, *noise, *d[AN_HISTORY], *pred[2]; /* [h, w, c] each */
    uint8_t *picture;                                   /* [H, W, 3] on the device */
    float *host;            /* 2 x [h, w, c]: noise on its way up, latents on their way down */
    uint8_t *pixels;        /* [H, W, 3] */
    float *latent, *logvar; /* ENCODE: [c, h, w] */
} an_task;

#define AN_RING               160 /* STEP and PREVIEW events kept per job */
#define AN_RING_PREVIEW_BYTES ((size_t)8 << 20)

typedef struct an_ring {
    an_event *event;
    int count, cap, droppable;
    uint64_t last_seq;
    size_t preview_bytes;
} an_ring;
/* Takes the event (and its preview). Lock. */
void an_ring_add(an_ring *r, an_event ev);
void an_ring_free(an_ring *r);

typedef struct an_watcher {
    void (*fn)(void *ctx);
    void *ctx;
    int handle;
} an_watcher;

struct an_job {
    atomic_int refs;
    an_engine *e;
    an_files *files;
    an_slot *slot; /* lock to change: where it runs. NULL until its first task starts */
    an_unit *home; /* device thread: who remembers most of its prompt; looked for once */
    bool home_known;
    an_task_kind kind;
    /* never change after submit */
    char id[40], client[AN_CLIENT_NAME];
    char model[256], solver_class[64];
    char *prompt, *negative_prompt, *sampler, *schedule, *tag;
    int width, height, n, steps, calls, branches, clip_skip, previews;
    int chunks; /* IMAGE: of text, of the prompt and the negative one alike */
    bool every_step;
    int64_t h, w, seed; /* latent size */
    int channels;
    double guidance, rescale, deadline; /* deadline: monotonic, 0 = none */
    an_rng_kind rng;
    bool truncated, negative_truncated;
    size_t prompt_tokens, negative_tokens;
    size_t input_bytes; /* of image or latent, counted in e->input_bytes until the job ends */
    /* input, dropped when the job ends; device thread after submit */
    an_solver *solver;
    an_text_input cond, uncond;
    uint8_t *image;    /* ENCODE */
    float *latent;     /* DECODE: [h, w, c] */
    an_task *task;     /* [n] */
    an_text_job *text; /* TEXT */
    /* lock */
    an_claim claim;
    an_job_state state;
    bool cancel, forgotten, touched, previewed;
    bool ran; /* the device was given some of it */
    int step, next_task, done;
    double created, started, finished, created_mono, started_mono, finished_mono;
    an_error error;
    an_ring ring;
    size_t result_bytes;
    an_job *prev, *next;   /* e->jobs, newest first */
    an_job *next_finished; /* e->finished, oldest first */
    bool stored;
    an_job *next_touched;
    /* watch_lock, taken before e->lock, never after */
    pthread_mutex_t watch_lock;
    an_watcher *watcher;
    int watchers, next_handle;
};

an_job *an_job_new(an_engine *e, an_task_kind kind, int n, an_error *err);
/* Lock, all of these. */
an_status an_job_enqueue(an_engine *e, an_job *j, an_error *err); /* the store takes a reference */
void an_job_event(an_engine *e, an_job *j, an_event ev);          /* and marks it touched */
void an_job_touch(an_engine *e, an_job *j); /* its watchers are told at the end of the tick */
void an_job_finish(an_engine *e, an_job *j, an_job_state state, const an_error *why);
void an_jobs_forget_old(an_engine *e);
void an_job_drop(an_engine *e, an_job *j); /* from the store */
/* Without the lock: calls the watchers. */
void an_job_notify(an_job *j);
void an_jobs_notify(an_engine *e);                      /* all touched ones; device thread */
double an_job_eta(const an_engine *e, const an_job *j); /* lock */

/* ---------------------------------------------------------------- lanes (track.c) */

/* A lane and what is its own. On the CPU there is one, for everything, and ticks run on the device
 * thread. On a GPU there is one for each kind of model, and each has a thread that runs its ticks.
 * Whatever belongs to jobs of a kind is touched between the ticks of their track only. */
typedef struct an_track {
    an_unit *unit;
    an_lane *lane;
    size_t arena, arena_base; /* bytes it has; that the loaded models' default sizes need */
    pthread_t thread;
    bool threaded;
    pthread_cond_t go;
    bool busy;               /* a tick was started and not ended; device thread, lock to change */
    bool over, quit;         /* lock: it has run; the thread is to end */
    void (*run)(an_unit *u); /* of the tick in flight: the device's work */
    void (*end)(an_unit *u); /* and what becomes of it, on the device thread */
} an_track;

an_status an_tracks_open(an_unit *u, bool threads, an_error *err);
void an_tracks_close(an_unit *u);
an_track *an_track_of(const an_slot *s);
an_lane *an_slot_lane(const an_slot *s);
/* The job runs, and on this track. */
bool an_track_serves(const an_track *k, const an_job *j);
/* Device thread. Runs and ends a tick, or lets the track's thread run it and an_track_end end it.
 */
void an_track_start(an_track *k, void (*run)(an_unit *u), void (*end)(an_unit *u));
/* Ends the tick in flight if it has run; false if there was none. Device thread. */
bool an_track_end(an_track *k);

/* ---------------------------------------------------------------- a tick (scheduler.c and below)
 */

/* The rows of one tick: pictures of one model, stage and size, or prompts of one model. */
typedef struct an_tick {
    an_task *leader;
    an_slot *slot;
    an_stage stage;
    an_price price;
    int n;
    an_task *task[AN_BATCH_MAX];
    an_encoding *encoding[AN_BATCH_MAX]; /* TEXT: what task[i] waits for */
    an_status status[AN_BATCH_MAX];
    an_error error[AN_BATCH_MAX];
    uint8_t *preview[AN_BATCH_MAX]; /* DENOISE: RGB of the rows that want one now */
    double seconds;
    int rows;      /* network rows */
    bool repeated; /* it failed, and every row was tried alone */
} an_tick;

/* One call of the network and one sampler step for the pictures task[0..n-1]; preview[i] is set for
 * the pictures that want one. The denoising loop is this function, called until calls are done. */
an_status an_diffusion_step(an_slot *s, an_task *const *task, int n, uint8_t **preview,
                            an_error *err);
an_status an_diffusion_start(an_task *t, an_error *err); /* first noise */
an_status an_vae_decode_tick(an_slot *s, an_task *const *task, int n, an_error *err);
an_status an_vae_encode_tick(an_slot *s, an_task *const *task, int n, an_error *err);
/* Memory of a picture, and back. Device thread. */
an_status an_task_open(an_unit *u, an_task *t, an_error *err);
void an_task_close(an_unit *u, an_task *t);
an_stage an_task_stage(const an_task *t);
int64_t an_job_tokens(const an_job *j); /* of context in a row of the network; 0 without a prompt */

/* sequence.c: pages. A sequence without them waits; it is not in any tick. */
an_status an_seq_open(an_task *t, an_error *err);
void an_seq_close(an_task *t);
bool an_seq_ready(const an_task *t);
/* Pages of the job's prompt that the model's pool there remembers. Device thread. */
int an_pages_known(const an_job *j, const an_slot *s);
void an_seqs_place(an_unit *u); /* waiting sequences get pages while there are any */
/* Pages for the next token of every sequence of this model that decodes; the least senior ones make
 * way. */
void an_seqs_extend(an_unit *u, const an_slot *s);
/* Takes over what others have computed of its prompt meanwhile. */
void an_seq_catch_up(an_unit *u, an_task *t);
void an_seq_publish(an_unit *u, an_task *t); /* its full pages can be found from now on */

/* Edits of logits (bias, penalties, bans) that a device is told of in a tick; rows with more are
 * drawn by the host. */
#define AN_EDITS_MOST 16384
/* decode.c: one tick of the sequences of the leader's model. */
typedef struct an_decode an_decode;
an_decode *an_decode_new(void);
void an_decode_free(an_decode *d);
void an_decode_tick(an_track *k, an_task *leader);

/* preview.c */
bool an_preview_due(const an_task *t); /* after the call that is about to run */
/* rgb [h, w, 3] of latents [h, w, c] */
void an_preview_rgb(const an_slot *s, const float *latent, int64_t pixels, int channels,
                    uint8_t *rgb);
void an_preview_fit(an_unit *u, an_slot *s); /* the map: the model's own, or fitted now */

/* admit.c; device thread, no lock. Of a track, while it is idle: */
void an_expire(const an_track *k); /* ends what was cancelled or is late, forgets what is old */
void an_admit(const an_track *k);  /* starts waiting jobs while there is room */
void an_job_end(an_job *j, an_job_state state, const an_error *why);
void an_task_finished(an_task *t); /* its picture is there */

/* place.c; lock, device thread. Where a waiting job is to start: NULL, nowhere yet. */
an_unit *an_place(an_engine *e, an_job *j);
void an_job_bind(an_job *j, an_unit *u);
void an_job_unbind(an_job *j);                      /* it ended, or may start elsewhere */
const an_error *an_engine_lost(const an_engine *e); /* why no device is left, or NULL */
/* A call of the device failed with *err. If the device answers no more, all its jobs will fail, and
 * *err says so. Any thread, no lock. */
void an_device_failed(an_unit *u, an_error *err);
void *an_device_thread(void *engine);

/* ---------------------------------------------------------------- a device */

/* A device and what is its own: memory, lanes, loaded models, and the jobs that run there. Queue,
 * prices and fairness are the engine's, one for all devices. Device thread, unless said. */
struct an_unit {
    an_engine *e;
    int index;
    an_device *device;
    an_track track[AN_KIND_COUNT];
    int tracks;
    size_t memory_bytes; /* the budget; never changes */
    an_slot *slot;       /* [e->models] */

    /* lock */
    bool ok;
    an_error lost;     /* why ok is false */
    int load[2];       /* pictures, answers of the jobs bound to it */
    uint64_t unpinned; /* times that somebody was done with a model: memory may be had then */
    size_t weight_bytes, arena_bytes, block_bytes; /* written by the device thread; all arenas */
    size_t kv_bytes;                               /* keys and values, and logits; likewise */
    size_t planned_bytes;                          /* the last plan */
    uint64_t ticks[AN_STAGE_COUNT], tick_rows[AN_STAGE_COUNT], repeated;
    double busy_s;
    int seqs_running; /* with pages, after the last tick; likewise the next two */
    int64_t kv_blocks, kv_blocks_used;

    /* device thread */
    an_task *run[AN_RUN_MAX]; /* pictures and sequences started and not finished */
    int run_count;            /* lock to change */
    int run_texts;            /* of them sequences; lock to change */
    size_t block_keep;
    bool freed;             /* since the last look something was given back, or has started */
    an_block pool[AN_POOL]; /* free blocks, the oldest first */
    int pool_count;
    an_encoding *encodings;
    int encoding_count;
    an_tick tick;
    an_decode *decode;
};

/* ---------------------------------------------------------------- the engine */

struct an_engine {
    an_engine_options o;
    char **dirs;   /* copies, as o's strings */
    an_unit *unit; /* fixed after the start, as the next four */
    int units;
    an_dtype dtype, weights; /* an_model_load's */
    an_files *files;
    int models;
    pthread_t thread;
    bool thread_runs;

    pthread_mutex_t tok_lock;

    pthread_mutex_t lock;
    pthread_cond_t work; /* something for the device thread */
    pthread_cond_t idle; /* the last job ended */
    bool ready, draining, cancel_all, quit, woken;
    an_clients clients;
    an_queue queue;
    uint64_t age;
    uint64_t model_changes; /* of entries, for an_engine_pulse */
    an_job *jobs;           /* all known, newest first */
    an_job *finished, **finished_tail;
    int finished_count, queued, running;
    size_t result_bytes;
    size_t input_bytes; /* uploads of jobs that have not ended */
    an_job *touched;    /* device thread, under the lock */
    uint64_t jobs_done, jobs_failed, jobs_canceled, jobs_refused, images_done;
    uint64_t text_hits, text_misses;
    double last_tick, seconds_per_flop;
    an_histogram queue_s, step_s, request_s, first_preview_s, batch_rows[AN_STAGE_COUNT];
    an_histogram first_token_s, token_s, tick_tokens;
    uint64_t device_tokens;
    uint64_t prompt_tokens, generated_tokens, preemptions, prefix_queries, prefix_hits;
    uint64_t finished_stop, finished_length, finished_abort;
    an_price *price;
    int prices;
    uint64_t price_clock;
    size_t program_bytes; /* what the process had before any model */

    an_tick_info tick[AN_TICKS_KEPT]; /* ring: number s at (s - 1) % AN_TICKS_KEPT */
    uint64_t ticks;
    an_job_summary recent[AN_RECENT_KEPT]; /* likewise */
    uint64_t recents;

    /* device thread */
    an_sampler_room sampler[AN_SAMPLERS]; /* threads that draw tokens; as many as there are */
};

void an_engine_wake(an_engine *e);    /* lock: there is something to do */
void an_unit_count_pages(an_unit *u); /* device thread: for the stats */
/* recent.c; lock. A tick has ended (seq, device and ended are filled in); a job has. */
void an_recent_tick(an_unit *u, an_tick_info t);
void an_recent_job(an_engine *e, const an_job *j);
void an_hist_init(an_histogram *h);
void an_hist_init_ticks(an_histogram *h);  /* finer: a tick, or the gap between two tokens */
void an_hist_init_counts(an_histogram *h); /* its bounds are counts: tokens, rows */
void an_hist_add(an_histogram *h, double value);

#endif
