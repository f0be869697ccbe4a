/* bench_ticks.h: a loaded model with rows to work on, so that a tick can be timed without a queue
 * or a server around it. Private to server/cli. */
#ifndef ANNEAL_CLI_BENCH_TICKS_H
#define ANNEAL_CLI_BENCH_TICKS_H

#include "anneal/model.h"

#define BENCH_MAX_ROWS 64

typedef struct bench_rig bench_rig;

/* What a model is timed on: latents of h x w of noise, the encoding of a real prompt. Up to
 * max_rows rows denoise at once; stages[] says which stages will be run (the memory is planned for
 * them). */
typedef struct bench_plan {
    int64_t h, w;
    int max_rows;
    bool stages[AN_STAGE_COUNT];
    bool no_tokenizer; /* the prompt is zeros */
} bench_plan;

/* The plan's latents, of a picture of this size; 0 is the model's. */
an_status bench_plan_size(const an_model_info *m, int width, int height, bench_plan *p,
                          an_error *err);
/* Takes memory, encodes the prompt. model and checkpoint stay the caller's. */
an_status bench_rig_new(an_device *d, an_model *m, an_checkpoint *c, const bench_plan *p,
                        bench_rig **out, an_error *err);
void bench_rig_free(bench_rig *g);
/* One tick, awaited. */
an_status bench_step(bench_rig *g, an_stage stage, int rows, an_error *err);
an_lane *bench_lane(bench_rig *g);

/* Several kinds of tick, timed in turn (A B A B ...), so that a change in the machine's mood meets
 * all of them. */
typedef struct bench_tick {
    an_stage stage;
    int rows;            /* at once */
    int times;           /* one run is this many ticks, one after the other */
    double flops;        /* filled: of one run */
    double median, best; /* filled: seconds of one run */
    int runs;            /* filled */
} bench_tick;
/* After one untimed run of each: until every one ran for `seconds` and 3 times; 0: once. */
an_status bench_measure(bench_rig *g, bench_tick *t, int n, double seconds, an_error *err);

#endif
