/* bench_roofline.c: see bench_roofline.h. The model of Williams, Waterman and Patterson (2009): an
 * op takes no less than its FLOPs over the GPU's rate, and no less than its bytes over the GPU's
 * memory bandwidth. */
#include "bench_roofline.h"
#include "bench_ticks.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_OPS 48
#define DRY     "dry=1,memory=1024G" /* of the emulated GPU: nothing is computed, any model fits */

/* What the calls of one op came to in a tick. */
typedef struct ledger_line {
    an_op_cost sum;
    uint64_t calls;
    double seconds;  /* the sum of every call's floor */
    double by_bytes; /* of these, of calls that memory bounds */
} ledger_line;

typedef struct ledger {
    const roofline_ask *ask;
    ledger_line line[MAX_OPS], total;
    int n;
} ledger;

static void add_to(ledger_line *l, const an_op_cost *c, double flops_s, double bytes_s)
{
    l->sum.flops += c->flops;
    l->sum.bytes += c->bytes;
    l->sum.launches += c->launches;
    l->sum.copies += c->copies;
    l->calls++;
    l->seconds += flops_s > bytes_s ? flops_s : bytes_s;
    if (bytes_s >= flops_s) l->by_bytes += bytes_s;
}

static void on_op(void *ctx, const an_op_cost *c)
{
    ledger *g = ctx;
    int i = 0;
    while (i < g->n && strcmp(g->line[i].sum.op, c->op) != 0) i++;
    if (i == MAX_OPS) i = MAX_OPS - 1; /* there are fewer ops than that */
    if (i == g->n) g->line[g->n++] = (ledger_line){.sum.op = c->op};
    const double flops_s = c->flops / g->ask->peak_flops, bytes_s = c->bytes / g->ask->peak_bytes;
    add_to(&g->line[i], c, flops_s, bytes_s);
    add_to(&g->total, c, flops_s, bytes_s);
}

/* ---------------------------------------------------------------- printing */

static int by_seconds(const void *a, const void *b)
{
    const double x = ((const ledger_line *)a)->seconds, y = ((const ledger_line *)b)->seconds;
    return (x < y) - (x > y);
}

static void print_line(const ledger_line *l, const char *name, double all)
{
    printf("  %-20s %6llu %8llu %7llu %12.3f %12.3f %9.1f %10.4f %6.1f %%  %s\n", name,
           (unsigned long long)l->calls, (unsigned long long)l->sum.launches,
           (unsigned long long)l->sum.copies, l->sum.flops / 1e9, l->sum.bytes / 1e6,
           l->sum.bytes > 0 ? l->sum.flops / l->sum.bytes : 0, l->seconds * 1e3,
           all > 0 ? 100 * l->seconds / all : 0,
           2 * l->by_bytes >= l->seconds ? "memory" : "arithmetic");
}

static json_t *line_json(const ledger_line *l, const char *name)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "op", name, "calls",
                     (json_int_t)l->calls, "launches", (json_int_t)l->sum.launches, "copies",
                     (json_int_t)l->sum.copies, "flops", l->sum.flops, "bytes", l->sum.bytes,
                     "floor_seconds", l->seconds, "floor_seconds_memory", l->by_bytes);
}

/* A tick's table, most expensive op first; or the same as an object in report. */
static void print_ledger(ledger *g, const char *tick, json_t *report)
{
    qsort(g->line, (size_t)g->n, sizeof *g->line, by_seconds);
    if (report) {
        json_t *ops = json_array();
        for (int i = 0; i < g->n; i++)
            json_array_append_new(ops, line_json(&g->line[i], g->line[i].sum.op));
        json_array_append_new(report, json_pack("{s:s, s:o, s:o}", "tick", tick, "total",
                                                line_json(&g->total, "total"), "ops", ops));
        return;
    }
    printf("%s\n  %-20s %6s %8s %7s %12s %12s %9s %10s %8s  bound by\n", tick, "op", "calls",
           "launches", "copies", "GFLOP", "MB", "FLOP/byte", "floor ms", "share");
    for (int i = 0; i < g->n; i++) print_line(&g->line[i], g->line[i].sum.op, g->total.seconds);
    print_line(&g->total, "total", g->total.seconds);
}

/* ---------------------------------------------------------------- pictures */

static an_status picture_tick(bench_rig *rig, const roofline_ask *a, an_stage stage, int rows,
                              const char *size, json_t *report, an_error *err)
{
    ledger g = {.ask = a};
    char tick[96];
    an_lane_watch(bench_lane(rig), on_op, &g);
    an_status s = bench_step(rig, stage, rows, err);
    an_lane_watch(bench_lane(rig), NULL, NULL);
    snprintf(tick, sizeof tick, "%s%s%s, %d row%s", an_stage_name(stage), *size ? " " : "", size,
             rows, rows == 1 ? "" : "s");
    if (!s) print_ledger(&g, tick, report);
    return s;
}

static an_status pictures(an_device *d, an_checkpoint *c, an_model *model, const roofline_ask *a,
                          json_t *report, an_error *err)
{
    const an_model_info *m = an_model_describe(model);
    bench_plan p = {.max_rows = 1};
    bench_rig *rig = NULL;
    char size[32];
    an_status s = bench_plan_size(m, a->width, a->height, &p, err);
    if (s) return s;
    snprintf(size, sizeof size, "%lldx%lld", (long long)p.w * m->factor,
             (long long)p.h * m->factor);
    p.no_tokenizer = a->made_up;
    p.stages[AN_STAGE_TEXT] = p.stages[AN_STAGE_DENOISE] = p.stages[AN_STAGE_DECODE] = true;
    for (int i = 0; i < a->n_rows; i++)
        if (a->rows[i] > p.max_rows) p.max_rows = a->rows[i];
    s = bench_rig_new(d, model, c, &p, &rig, err);
    if (!s) s = picture_tick(rig, a, AN_STAGE_TEXT, 1, "", report, err);
    for (int i = 0; i < a->n_rows && !s; i++)
        s = picture_tick(rig, a, AN_STAGE_DENOISE, a->rows[i], size, report, err);
    if (!s) s = picture_tick(rig, a, AN_STAGE_DECODE, 1, size, report, err);
    bench_rig_free(rig);
    return s;
}

/* ---------------------------------------------------------------- texts */

/* What rows of tokens are made of: every sequence's newest `n` tokens behind `pos` others. */
typedef struct text_rig {
    an_model *model;
    an_kv *kv;
    an_lane *lane;
    int32_t *ids, *blocks; /* [n], [rows * blocks of a row] */
    an_lm_row *row;
    float *logits; /* device [rows, vocab] */
} text_rig;

static an_status text_rig_open(text_rig *r, an_device *d, int rows, int n, int pos, an_error *err)
{
    const int each = (pos + n - 1) / AN_KV_BLOCK + 1;
    const size_t vocab = (size_t)an_model_describe(r->model)->vocab;
    an_cost cost = {0};
    void *logits = NULL;
    r->ids = calloc((size_t)n, sizeof *r->ids);
    r->blocks = calloc((size_t)rows * (size_t)each, sizeof *r->blocks);
    r->row = calloc((size_t)rows, sizeof *r->row);
    if (!r->ids || !r->blocks || !r->row)
        return an_fail(err, AN_NO_MEMORY, "no memory for %d sequences", rows);
    an_status s = an_lm_cost(r->model, rows, rows * n, rows, pos + n, &cost, err);
    if (!s) s = an_lane_open(d, cost.scratch_bytes, &r->lane, err);
    if (!s) s = an_kv_open(r->model, (int64_t)rows * each, &r->kv, err);
    if (!s) s = an_device_alloc(d, (size_t)rows * vocab * sizeof(float), &logits, err);
    r->logits = logits;
    for (int i = 0; i < rows && !s; i++) {
        int32_t *blocks = r->blocks + (size_t)i * (size_t)each;
        for (int b = 0; b < each; b++) blocks[b] = i * each + b;
        r->row[i] = (an_lm_row){r->ids, n, pos, blocks, 1, r->logits + (size_t)i * vocab};
    }
    return s;
}

static void text_rig_close(text_rig *r, an_device *d)
{
    an_lane_close(r->lane);
    an_kv_close(r->kv);
    an_device_free(d, r->logits);
    free(r->ids);
    free(r->blocks);
    free(r->row);
}

static an_status text_tick(an_device *d, an_model *model, const roofline_ask *a, int rows, int n,
                           int pos, json_t *report, an_error *err)
{
    text_rig r = {.model = model};
    ledger g = {.ask = a};
    char tick[96];
    an_status s = text_rig_open(&r, d, rows, n, pos, err);
    if (!s) {
        an_lane_watch(r.lane, on_op, &g);
        s = an_lm_forward(model, r.lane, r.kv, r.row, rows, err);
        an_lane_sync(r.lane);
        snprintf(tick, sizeof tick, "%s, %d sequence%s of %d+%d tokens",
                 n > 1 ? "prompt" : "decode", rows, rows == 1 ? "" : "s", pos, n);
        if (!s) print_ledger(&g, tick, report);
    }
    text_rig_close(&r, d);
    return s;
}

static an_status texts(an_device *d, an_model *model, const roofline_ask *a, json_t *report,
                       an_error *err)
{
    an_status s = text_tick(d, model, a, 1, a->context, 0, report, err);
    for (int i = 0; i < a->n_rows && !s; i++)
        s = text_tick(d, model, a, a->rows[i], 1, a->context, report, err);
    return s;
}

/* ---------------------------------------------------------------- all of it */

static an_status open_device(const an_options *o, an_device **out, an_error *err)
{
    an_device_options device = o->engine.device;
    if (!device.device || strcmp(device.device, "auto") == 0) {
        device.device = "simt";
        setenv("ANNEAL_SIMT", DRY, 0);
    }
    return an_device_open(&device, out, err);
}

an_status bench_roofline(const roofline_ask *a, const an_options *o, an_error *err)
{
    an_device *d = NULL;
    an_checkpoint *c = NULL;
    an_model *model = NULL;
    json_t *ticks = NULL;
    an_status s = open_device(o, &d, err);
    if (s) return s;
    const an_dtype dtype = strcmp(o->dtype, "f32") == 0 ? AN_F32 : AN_BF16;
    const an_dtype weights = strcmp(o->weights, "fp8") == 0 ? AN_F8_E4M3 : dtype;
    s = an_checkpoint_open(a->model, &c, err);
    if (!s && a->made_up) an_checkpoint_make_up(c);
    if (!s) s = an_model_load(d, c, dtype, weights, NULL, NULL, &model, err);
    if (!s && a->json && !(ticks = json_array())) s = an_fail(err, AN_NO_MEMORY, "no memory");
    if (!s && !a->json)
        printf("%s on %s, %s, weights %.1f MiB; limits: %.1f TFLOP/s, %.1f GB/s\n", a->model,
               an_device_name(d), an_dtype_name(dtype),
               (double)an_model_weight_bytes(model) / 1048576, a->peak_flops / 1e12,
               a->peak_bytes / 1e9);
    if (!s)
        s = an_model_describe(model)->kind == AN_KIND_IMAGE ? pictures(d, c, model, a, ticks, err)
                                                            : texts(d, model, a, ticks, err);
    if (!s && ticks) {
        json_t *all = json_pack("{s:s, s:s, s:s, s:f, s:f, s:O}", "model", a->model, "device",
                                an_device_name(d), "dtype", an_dtype_name(dtype), "peak_flops",
                                a->peak_flops, "peak_bytes", a->peak_bytes, "ticks", ticks);
        json_dumpf(all, stdout, JSON_REAL_PRECISION(8) | JSON_COMPACT);
        putchar('\n');
        json_decref(all);
    }
    json_decref(ticks);
    an_model_free(model);
    an_checkpoint_close(c);
    an_device_close(d);
    return s;
}
