/* bench_ticks.c: see bench_ticks.h. */
#include "bench_ticks.h"
#include "anneal/solver.h"

#include <stdlib.h>

#define MAX_NAMED 8
#define MAX_RUNS  4096
#define PROMPT    "red apple on a blue background"

/* One row with its tensors for every stage. */
typedef struct rig_row {
    an_named in[AN_STAGE_COUNT][MAX_NAMED], out[AN_STAGE_COUNT][MAX_NAMED];
    int n_in[AN_STAGE_COUNT], n_out[AN_STAGE_COUNT];
} rig_row;

struct bench_rig {
    an_device *device;
    an_model *model;
    const an_model_info *info;
    bench_plan plan;
    an_lane *lane;
    rig_row row[BENCH_MAX_ROWS];
    an_prompt prompt[2];
    float scale, timestep, guidance, time_ids[6];
    void **memory; /* of the device */
    size_t n_memory;
};

/* ---------------------------------------------------------------- memory */

static an_status device_tensor(bench_rig *g, an_dtype dtype, int ndim, const int64_t *dim,
                               an_tensor *out, an_error *err)
{
    *out = (an_tensor){.dtype = dtype, .ndim = ndim, .dim = {1, 1, 1, 1, 1}};
    for (int i = 0; i < ndim; i++) out->dim[i] = dim[i];
    void **p = realloc(g->memory, (g->n_memory + 1) * sizeof *p);
    if (!p) return an_fail(err, AN_NO_MEMORY, "no memory for a row to measure");
    g->memory = p;
    an_status s = an_device_alloc(g->device, an_tensor_bytes(out), &out->data, err);
    if (!s) g->memory[g->n_memory++] = out->data;
    return s;
}

static void give(rig_row *r, an_stage stage, const char *name, an_tensor t)
{
    r->in[stage][r->n_in[stage]++] = (an_named){name, t};
}

static void take(rig_row *r, an_stage stage, const char *name, an_tensor t)
{
    r->out[stage][r->n_out[stage]++] = (an_named){name, t};
}

static an_status noise(bench_rig *g, uint64_t seed, an_tensor latent, an_error *err)
{
    size_t count = (size_t)an_tensor_count(&latent);
    float *host = malloc(count * sizeof *host);
    if (!host) return an_fail(err, AN_NO_MEMORY, "no memory for noise");
    an_rng rng;
    an_rng_init(&rng, AN_RNG_GPU, seed);
    an_rng_normal(&rng, host, count);
    an_upload(g->lane, latent.data, host, count * sizeof *host);
    an_lane_sync(g->lane);
    free(host);
    return AN_OK;
}

/* ---------------------------------------------------------------- rows */

/* A row denoises its own latent and decodes it; its picture is what it encodes. */
static an_status row_of_pictures(bench_rig *g, int i, an_error *err)
{
    const an_model_info *m = g->info;
    rig_row *r = &g->row[i];
    an_tensor latent, prediction;
    const int64_t shape[3] = {g->plan.h, g->plan.w, m->latent_channels};
    const int64_t pixels[3] = {g->plan.h * m->factor, g->plan.w * m->factor, 3};
    an_status s = device_tensor(g, AN_F32, 3, shape, &latent, err);
    if (!s) s = device_tensor(g, AN_F32, 3, shape, &prediction, err);
    if (!s) s = noise(g, (uint64_t)i, latent, err);
    if (s) return s;
    give(r, AN_STAGE_DENOISE, "latent", latent);
    give(r, AN_STAGE_DENOISE, "scale", an_tensor_1d(&g->scale, AN_F32, 1));
    give(r, AN_STAGE_DENOISE, "timestep", an_tensor_1d(&g->timestep, AN_F32, 1));
    if (m->uses_time_ids)
        give(r, AN_STAGE_DENOISE, "time_ids", an_tensor_1d(g->time_ids, AN_F32, 6));
    if (m->guidance_embed)
        give(r, AN_STAGE_DENOISE, "guidance", an_tensor_1d(&g->guidance, AN_F32, 1));
    take(r, AN_STAGE_DENOISE, "prediction", prediction);
    if (i || !(g->plan.stages[AN_STAGE_DECODE] || g->plan.stages[AN_STAGE_ENCODE])) return AN_OK;
    an_tensor image, mean, logvar;
    s = device_tensor(g, AN_U8, 3, pixels, &image, err);
    if (!s) s = device_tensor(g, AN_F32, 3, shape, &mean, err);
    if (!s) s = device_tensor(g, AN_F32, 3, shape, &logvar, err);
    if (s) return s;
    give(r, AN_STAGE_DECODE, "latent", latent);
    take(r, AN_STAGE_DECODE, "image", image);
    give(r, AN_STAGE_ENCODE, "image", image);
    take(r, AN_STAGE_ENCODE, "mean", mean);
    take(r, AN_STAGE_ENCODE, "logvar", logvar);
    return AN_OK;
}

/* All rows denoise with the one encoding that the first row's text stage writes. */
static an_status row_of_text(bench_rig *g, an_error *err)
{
    const an_model_info *m = g->info;
    rig_row *r = &g->row[0];
    an_tensor context, pooled;
    const int64_t chunks = g->prompt[0].n_chunks, len = g->prompt[0].chunk_len;
    const int64_t shape[2] = {chunks * len, m->context_dim}, wide[1] = {m->pooled_dim};
    an_status s = device_tensor(g, an_model_dtype(g->model), 2, shape, &context, err);
    if (!s && m->pooled_dim) s = device_tensor(g, AN_F32, 1, wide, &pooled, err);
    if (s) return s;
    for (int e = 0; e < m->text_encoders; e++)
        give(r, AN_STAGE_TEXT, e ? "ids2" : "ids",
             an_tensor_2d(g->prompt[e].ids, AN_I32, chunks, len));
    take(r, AN_STAGE_TEXT, "context", context);
    if (m->pooled_dim) take(r, AN_STAGE_TEXT, "pooled", pooled);
    for (int i = 0; i < g->plan.max_rows; i++) {
        give(&g->row[i], AN_STAGE_DENOISE, "context", context);
        if (m->pooled_dim) give(&g->row[i], AN_STAGE_DENOISE, "pooled", pooled);
    }
    return AN_OK;
}

static an_status read_prompt(bench_rig *g, an_checkpoint *c, an_error *err)
{
    an_status s = AN_OK;
    for (int e = 0; e < g->info->text_encoders && !s; e++) {
        an_tokenizer *t = NULL;
        s = an_model_tokenizer(c, e, &t, err);
        if (!s)
            s = an_prompt_plain(t, PROMPT, strlen(PROMPT), g->info->chunk_len, &g->prompt[e], err);
        an_tokenizer_free(t);
    }
    return s;
}

static an_status empty_prompt(bench_rig *g, an_error *err)
{
    for (int e = 0; e < g->info->text_encoders; e++) {
        const int len = g->info->chunk_len;
        g->prompt[e] = (an_prompt){.n_chunks = 1, .chunk_len = len};
        g->prompt[e].ids = calloc((size_t)len, sizeof *g->prompt[e].ids);
        if (!g->prompt[e].ids) return an_fail(err, AN_NO_MEMORY, "no memory for a prompt");
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- running */

static an_status cost(bench_rig *g, an_stage stage, int rows, an_cost *out, an_error *err)
{
    int64_t chunks = g->prompt[0].n_chunks, tokens = chunks * g->prompt[0].chunk_len;
    return an_model_cost(g->model, stage, rows, g->plan.h, g->plan.w,
                         stage == AN_STAGE_TEXT ? chunks : tokens, out, err);
}

an_status bench_step(bench_rig *g, an_stage stage, int rows, an_error *err)
{
    an_row view[BENCH_MAX_ROWS];
    for (int i = 0; i < rows; i++) {
        rig_row *r = &g->row[i];
        view[i] = (an_row){r->in[stage], r->n_in[stage], r->out[stage], r->n_out[stage]};
    }
    an_status s = an_model_step(g->model, g->lane, stage, view, rows, err);
    an_lane_sync(g->lane);
    return s;
}

an_lane *bench_lane(bench_rig *g)
{
    return g->lane;
}

static an_status open_lane(bench_rig *g, an_error *err)
{
    size_t bytes = 0;
    an_status s = AN_OK;
    for (int stage = 0; stage < AN_STAGE_COUNT && !s; stage++) {
        an_cost c = {0};
        if (!g->plan.stages[stage] && stage != AN_STAGE_TEXT) continue;
        s = cost(g, (an_stage)stage, stage == AN_STAGE_DENOISE ? g->plan.max_rows : 1, &c, err);
        if (c.scratch_bytes > bytes) bytes = c.scratch_bytes;
    }
    if (!s) s = an_lane_open(g->device, bytes, &g->lane, err);
    return s;
}

an_status bench_plan_size(const an_model_info *m, int width, int height, bench_plan *p,
                          an_error *err)
{
    if (width % m->size_multiple || height % m->size_multiple)
        return an_fail(err, AN_INVALID, "--size: %dx%d; width and height must be multiples of %d",
                       width, height, m->size_multiple);
    p->w = (width ? width : m->width) / m->factor;
    p->h = (height ? height : m->height) / m->factor;
    return AN_OK;
}

an_status bench_rig_new(an_device *d, an_model *m, an_checkpoint *c, const bench_plan *p,
                        bench_rig **out, an_error *err)
{
    *out = NULL;
    if (p->max_rows < 1 || p->max_rows > BENCH_MAX_ROWS)
        return an_fail(err, AN_INVALID, "%d rows at once; 1 to %d can be measured", p->max_rows,
                       BENCH_MAX_ROWS);
    bench_rig *g = calloc(1, sizeof *g);
    if (!g) return an_fail(err, AN_NO_MEMORY, "no memory to measure in");
    g->device = d;
    g->model = m;
    g->info = an_model_describe(m);
    g->plan = *p;
    g->scale = 1;
    g->timestep = 501;
    g->guidance = 7.5f;
    const float size[2] = {(float)(p->h * g->info->factor), (float)(p->w * g->info->factor)};
    memcpy(g->time_ids, (float[6]){size[0], size[1], 0, 0, size[0], size[1]}, sizeof g->time_ids);
    an_status s = p->no_tokenizer ? empty_prompt(g, err) : read_prompt(g, c, err);
    if (!s) s = open_lane(g, err);
    for (int i = 0; i < p->max_rows && !s; i++) s = row_of_pictures(g, i, err);
    if (!s) s = row_of_text(g, err);
    if (!s) s = bench_step(g, AN_STAGE_TEXT, 1, err);
    if (s)
        bench_rig_free(g);
    else
        *out = g;
    return s;
}

void bench_rig_free(bench_rig *g)
{
    if (!g) return;
    an_lane_close(g->lane);
    for (size_t i = 0; i < g->n_memory; i++) an_device_free(g->device, g->memory[i]);
    free(g->memory);
    for (int e = 0; e < 2; e++) an_prompt_free(&g->prompt[e]);
    free(g);
}

/* ---------------------------------------------------------------- timing */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static an_status run(bench_rig *g, const bench_tick *t, double *seconds, an_error *err)
{
    an_status s = AN_OK;
    double begun = an_now_s();
    for (int i = 0; i < t->times && !s; i++) s = bench_step(g, t->stage, t->rows, err);
    *seconds = an_now_s() - begun;
    return s;
}

an_status bench_measure(bench_rig *g, bench_tick *t, int n, double seconds, an_error *err)
{
    double *all = malloc((size_t)n * MAX_RUNS * sizeof *all), ignored;
    if (!all) return an_fail(err, AN_NO_MEMORY, "no memory for times");
    an_status s = AN_OK;
    for (int i = 0; i < n && !s; i++) {
        an_cost c = {0};
        s = cost(g, t[i].stage, t[i].rows, &c, err);
        t[i].flops = c.flops * t[i].times;
        if (!s) s = run(g, &t[i], &ignored, err);
    }
    double shortest = 0;
    const int least = seconds > 0 ? 3 : 1;
    for (int r = 0; r < MAX_RUNS && !s && (r < least || shortest < seconds); r++) {
        shortest = seconds;
        for (int i = 0; i < n && !s; i++) {
            s = run(g, &t[i], &all[i * MAX_RUNS + r], err);
            t[i].median += all[i * MAX_RUNS + r]; /* the sum, for now */
            t[i].runs = r + 1;
            if (t[i].median < shortest) shortest = t[i].median;
        }
    }
    for (int i = 0; i < n && !s; i++) {
        t[i].median = median(&all[i * MAX_RUNS], t[i].runs);
        t[i].best = all[i * MAX_RUNS];
    }
    free(all);
    return s;
}
