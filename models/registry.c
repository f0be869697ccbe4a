/* registry.c: the families, and what is the same for all of them: probing, loading, the check of
 * every row against its stage's contract, and pricing a tick on a counting lane. */
#include "lm.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* A new family is one line here. */
static const an_family *const families[] = {&an_family_latent_diffusion, &an_family_llama,
                                            &an_family_gpt2};
enum { FAMILIES = sizeof families / sizeof *families };

/* ---------------------------------------------------------------- names */

const char *an_kind_name(an_kind k)
{
    static const char *const name[AN_KIND_COUNT] = {"image", "text"};
    return (unsigned)k < AN_KIND_COUNT ? name[k] : "?";
}

const char *an_stage_name(an_stage s)
{
    static const char *const name[AN_STAGE_COUNT] = {"text", "denoise", "decode", "encode",
                                                     "forward"};
    return (unsigned)s < AN_STAGE_COUNT ? name[s] : "?";
}

const an_tensor *an_row_in(const an_row *r, const char *name)
{
    for (int i = 0; i < r->n_in; i++)
        if (strcmp(r->in[i].name, name) == 0) return &r->in[i].t;
    return NULL;
}

an_tensor *an_row_out(const an_row *r, const char *name)
{
    for (int i = 0; i < r->n_out; i++)
        if (strcmp(r->out[i].name, name) == 0) return &r->out[i].t;
    return NULL;
}

/* ---------------------------------------------------------------- probe, load, free */

static an_status family_of(const an_checkpoint *c, const an_family **out, an_error *err)
{
    char served[512] = "";
    for (size_t i = 0, at = 0; i < FAMILIES; i++) {
        *out = families[i];
        if (families[i]->matches(c)) return AN_OK;
        if (at < sizeof served)
            at += (size_t)snprintf(served + at, sizeof served - at, "%s%s", i ? ", " : "",
                                   families[i]->serves);
    }
    const char *type = an_lm_type(c), *cls = an_checkpoint_class(c);
    return an_fail(err, AN_INVALID, "%s: a model of %s %.64s is not supported; served are %s",
                   an_checkpoint_path(c), type ? "model_type" : "class",
                   type   ? type
                   : *cls ? cls
                          : "(unknown)",
                   served);
}

an_status an_model_probe(an_checkpoint *c, an_model_info *out, an_error *err)
{
    const an_family *f;
    an_status s = family_of(c, &f, err);
    return s ? s : f->probe(c, out, err);
}

an_status an_model_load(an_device *d, an_checkpoint *c, an_dtype dtype, an_dtype weights,
                        void (*progress)(void *ctx, double done), void *ctx, an_model **out,
                        an_error *err)
{
    *out = NULL;
    if (dtype != AN_F32 && dtype != AN_BF16)
        return an_fail(err, AN_INVALID, "a model in %s: expected F32 or BF16",
                       an_dtype_name(dtype));
    if (weights != dtype && weights != AN_F8_E4M3)
        return an_fail(err, AN_INVALID, "weights in %s: expected %s or F8_E4M3",
                       an_dtype_name(weights), an_dtype_name(dtype));
    an_model *m = calloc(1, sizeof *m);
    if (!m) return an_fail(err, AN_NO_MEMORY, "no memory for a model");
    m->device = m->bag.device = d;
    m->dtype = dtype;
    m->owner = an_repeat_owner();
    an_status s = family_of(c, &m->family, err);
    if (!s) s = m->family->probe(c, &m->info, err);
    const json_t *scheduler = an_checkpoint_config(c, "scheduler");
    if (!s && scheduler) {
        m->scheduler = json_deep_copy(scheduler);
        if (!m->scheduler) s = an_fail(err, AN_NO_MEMORY, "no memory for scheduler_config.json");
    }
    an_loader ld = {.bag = &m->bag, .dtype = dtype, .fp8 = weights == AN_F8_E4M3, .err = err, .progress = progress, .ctx = ctx};
    if (!s) {
        an_error changed;
        s = m->family->load(m, c, &ld, err);
        /* what was read of a file that changed may be anything, also wrong in other ways */
        if (an_checkpoint_check(c, &changed)) s = an_fail(err, AN_IO, "%s", changed.message);
    }
    if (s) {
        an_model_free(m);
        return s;
    }
    if (progress) progress(ctx, 1);
    *out = m;
    return AN_OK;
}

void an_model_free(an_model *m)
{
    if (!m) return;
    an_device_forget(m->device, m->owner);
    m->family->unload(m);
    an_bag_free(&m->bag);
    json_decref(m->scheduler);
    free(m);
}

const an_model_info *an_model_describe(const an_model *m)
{
    return &m->info;
}

const json_t *an_model_scheduler(const an_model *m)
{
    return m->scheduler;
}

size_t an_model_weight_bytes(const an_model *m)
{
    return m->bag.bytes;
}

an_dtype an_model_dtype(const an_model *m)
{
    return m->dtype;
}

an_status an_model_set_vae_tile(an_model *m, int latent_edge, an_error *err)
{
    if (latent_edge != 0 && (latent_edge < 16 || latent_edge > 8192))
        return an_fail_param(err, AN_INVALID, "vae_tile",
                             "vae_tile is %d, expected 0 (never) or 16 to 8192", latent_edge);
    m->vae_tile = latent_edge;
    return AN_OK;
}

/* ---------------------------------------------------------------- contract of a stage */

static an_status check_tensor(const an_port *p, const an_tensor *t, const char *where, int row,
                              an_error *err)
{
    char found[128], wanted[128];
    if (!t) {
        if (p->optional) return AN_OK;
        return an_fail(err, AN_INVALID, "row %d: no tensor \"%s\" among its %s", row, p->name,
                       where);
    }
    bool same = t->dtype == p->dtype && t->ndim == p->ndim;
    for (int i = 0; same && i < p->ndim; i++) same = t->dim[i] == p->dim[i];
    if (same && t->data) return AN_OK;
    int ndim = t->ndim < 0 || t->ndim > AN_MAX_DIMS ? 0 : t->ndim;
    return an_fail(err, AN_INVALID, "row %d: \"%s\" is %s %s%s, expected %s %s", row, p->name,
                   an_dtype_name(t->dtype), an_shape_str(ndim, t->dim, found, sizeof found),
                   t->data ? "" : " without memory", an_dtype_name(p->dtype),
                   an_shape_str(p->ndim, p->dim, wanted, sizeof wanted));
}

static an_status check_row(const an_model *m, an_stage stage, const an_row *r, int row,
                           const an_shape *batch, an_error *err)
{
    an_shape shape;
    an_ports p;
    if (!m->family->shape_of(m, stage, r, &shape))
        return an_fail(err, AN_INVALID, "row %d: the tensors that say its shape are missing", row);
    if (stage != AN_STAGE_TEXT) { /* rows share the size; another one is reported as a shape */
        shape.h = batch->h;
        shape.w = batch->w;
    }
    an_status s = m->family->ports(m, stage, &shape, &p, err);
    for (int i = 0; i < p.n_in && !s; i++)
        s = check_tensor(&p.in[i], an_row_in(r, p.in[i].name), "inputs", row, err);
    for (int i = 0; i < p.n_out && !s; i++)
        s = check_tensor(&p.out[i], an_row_out(r, p.out[i].name), "outputs", row, err);
    return s;
}

/* Tokens are not rows of tensors: they go through an_lm_forward, and pictures through stages. */
static an_status check_stage(const an_model *m, an_stage stage, an_error *err)
{
    if ((unsigned)stage >= AN_STAGE_COUNT)
        return an_fail(err, AN_INVALID, "stage %d does not exist", (int)stage);
    if (m->family->step && stage != AN_STAGE_FORWARD) return AN_OK;
    return an_fail(err, AN_INVALID, "%s is no stage of a model of family %s%s",
                   an_stage_name(stage), m->info.family,
                   m->family->forward ? ": its tokens go through an_lm_forward" : "");
}

static an_status check_batch(const an_model *m, const an_lane *l, an_stage stage,
                             const an_row *rows, int n, an_error *err)
{
    an_shape batch = {0};
    an_status s = check_stage(m, stage, err);
    if (s) return s;
    if (an_lane_device(l) != m->device)
        return an_fail(err, AN_INVALID, "the lane is of another device than the model");
    if (n < 1 || n > AN_MAX_ROWS)
        return an_fail(err, AN_INVALID, "a batch of %d rows, expected 1 to %d", n, AN_MAX_ROWS);
    if (!m->family->shape_of(m, stage, &rows[0], &batch))
        return an_fail(err, AN_INVALID, "row 0: the tensors that say its shape are missing");
    for (int r = 0; r < n; r++) {
        s = check_row(m, stage, &rows[r], r, &batch, err);
        if (s) return s;
    }
    return AN_OK;
}

an_status an_model_step(an_model *m, an_lane *l, an_stage stage, an_row *rows, int n, an_error *err)
{
    an_status s = check_batch(m, l, stage, rows, n, err);
    if (!s) {
        size_t mark = an_lane_mark(l);
        m->family->step(m, l, stage, rows, n);
        an_lane_release(l, mark);
        an_lane_label(l, NULL);
        s = an_lane_status(l, err);
    }
    return s ? an_fail_prefix(err, s, "%s", an_stage_name(stage)) : AN_OK;
}

/* ---------------------------------------------------------------- cost */

/* Something to point at: never read on a counting lane, but for host inputs, which are zeros. */
static void fake(const an_port *p, const void *zeros, an_named *out)
{
    out->name = p->name;
    out->t = (an_tensor){(void *)(uintptr_t)zeros, p->dtype, p->ndim, {1, 1, 1, 1, 1}};
    for (int i = 0; i < p->ndim; i++) out->t.dim[i] = p->dim[i];
}

static an_status count(an_model *m, an_stage stage, const an_ports *p, int rows, an_cost *out,
                       an_error *err)
{
    an_named in[AN_MAX_PORTS], outs[AN_MAX_PORTS];
    size_t bytes = 64; /* of the largest host input */
    int n_in = 0;
    for (int i = 0; i < p->n_in; i++) {
        if (p->in[i].optional) continue;
        fake(&p->in[i], NULL, &in[n_in++]);
        size_t b = an_tensor_bytes(&in[n_in - 1].t);
        if (p->in[i].host && b > bytes) bytes = b;
    }
    an_row *row = calloc((size_t)rows, sizeof *row);
    void *zeros = calloc(1, bytes);
    an_lane *l = NULL;
    an_status s = row && zeros ? an_lane_open_counting(m->device, &l, err)
                               : an_fail(err, AN_NO_MEMORY, "no memory to price a tick");
    if (!s) {
        for (int i = 0; i < n_in; i++) in[i].t.data = zeros;
        for (int i = 0; i < p->n_out; i++) fake(&p->out[i], zeros, &outs[i]);
        for (int r = 0; r < rows; r++) row[r] = (an_row){in, n_in, outs, p->n_out};
        s = an_model_step(m, l, stage, row, rows, err);
        *out = (an_cost){an_lane_peak(l), an_lane_flops(l)};
    }
    an_lane_close(l);
    free(zeros);
    free(row);
    return s;
}

an_status an_model_cost(an_model *m, an_stage stage, int rows, int64_t h, int64_t w, int64_t tokens,
                        an_cost *out, an_error *err)
{
    an_shape shape = {h, w, stage == AN_STAGE_DECODE || stage == AN_STAGE_ENCODE ? 1 : tokens};
    an_ports p;
    *out = (an_cost){0, 0};
    an_status s = check_stage(m, stage, err);
    if (s) return s;
    if (rows < 1 || rows > AN_MAX_ROWS)
        return an_fail(err, AN_INVALID, "cost of stage %s with %d rows, expected 1 to %d rows",
                       an_stage_name(stage), rows, AN_MAX_ROWS);
    s = m->family->ports(m, stage, &shape, &p, err);
    return s ? s : count(m, stage, &p, rows, out, err);
}
