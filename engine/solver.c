/* solver.c: one solver from configuration to table. Everything is computed when it is made, in
 * double, and rounded to f32 once: an_solver_step only copies a row. */
#include "solver_internal.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- shared by the families */

double solver_alpha(const an_solver *s, int t)
{
    int n = s->cfg.num_train_timesteps;
    if (t < 0) t += n; /* Python's index from the end: trailing spacing can reach timestep -1 */
    return t >= 0 && t < n ? (double)s->alphas_cumprod[t] : NAN;
}

double solver_alpha_prev(const an_solver *s, int t)
{
    return t < 0 ? s->final_alpha : solver_alpha(s, t);
}

solver_level solver_level_at(const an_solver *s, int i)
{
    double v = s->s[i];
    if (s->cfg.flow) return (solver_level){1.0 - v, v, log((1.0 - v) / v)};
    double alpha = 1.0 / sqrt(v * v + 1.0);
    return (solver_level){alpha, v * alpha, -log(v)};
}

solver_mix solver_x0(int prediction, double alpha, double sigma)
{
    switch (prediction) {
    case PREDICT_EPSILON:
        return (solver_mix){1.0 / alpha, -sigma / alpha};
    case PREDICT_V:
        return (solver_mix){alpha, -sigma};
    case PREDICT_FLOW:
        return (solver_mix){1.0, -sigma};
    default:
        return (solver_mix){0.0, 1.0};
    }
}

solver_mix solver_eps(int prediction, double alpha, double sigma)
{
    switch (prediction) {
    case PREDICT_EPSILON:
        return (solver_mix){0.0, 1.0};
    case PREDICT_V:
        return (solver_mix){sigma, alpha};
    /* (x - alpha x0) / sigma; flow matching has alpha + sigma = 1 */
    case PREDICT_FLOW:
        return (solver_mix){(1.0 - alpha) / sigma, alpha};
    default:
        return (solver_mix){1.0 / sigma, -alpha / sigma};
    }
}

void solver_set_d(const an_solver *s, solver_coef *c, solver_mix mix)
{
    c->dx = mix.x;
    c->dm = mix.m;
    if (s->cfg.thresholding) {
        c->threshold = s->cfg.threshold_ratio;
        c->threshold_max = s->cfg.sample_max_value;
    } else if (s->cfg.clip_sample) {
        c->clip = s->cfg.clip_sample_range;
    }
}

void solver_set_x0(solver_coef *c, solver_mix mix)
{
    c->x0_x = mix.x;
    c->x0_m = mix.m;
}

void solver_save_x(solver_coef *c)
{
    c->save = true;
    c->keep[AN_TERM_X] = 1.0;
}

/* ---------------------------------------------------------------- the table of steps */

typedef void step_fn(const an_solver *s, int i, solver_coef *c);

static step_fn *const step_of[SOLVER_CLASSES] = {
    [SOLVER_DDPM] = solver_step_ddpm,
    [SOLVER_DDIM] = solver_step_ddim,
    [SOLVER_PNDM] = solver_step_pndm,
    [SOLVER_LMS] = solver_step_lms,
    [SOLVER_EULER] = solver_step_euler,
    [SOLVER_EULER_A] = solver_step_euler,
    [SOLVER_HEUN] = solver_step_heun,
    [SOLVER_KDPM2] = solver_step_kdpm2,
    [SOLVER_KDPM2_A] = solver_step_kdpm2,
    [SOLVER_DPM_MULTI] = solver_step_dpm_multi,
    [SOLVER_DPM_SINGLE] = solver_step_dpm_single,
    [SOLVER_UNIPC] = solver_step_unipc,
    [SOLVER_DEIS] = solver_step_deis,
    [SOLVER_LCM] = solver_step_lcm,
    [SOLVER_TCD] = solver_step_tcd,
    [SOLVER_FLOW_EULER] = solver_step_flow,
};

static bool all_finite(const an_step *r)
{
    const float one[] = {r->in_scale, r->timestep, r->dx, r->dm, r->x0_x, r->x0_m};
    for (size_t k = 0; k < sizeof one / sizeof one[0]; k++)
        if (!isfinite(one[k])) return false;
    for (int k = 0; k < AN_TERMS; k++)
        if (!isfinite(r->out[k]) || !isfinite(r->keep[k])) return false;
    return true;
}

static void round_row(const solver_coef *c, an_step *r)
{
    memset(r, 0, sizeof *r);
    r->in_scale = (float)c->in_scale;
    r->timestep = (float)c->timestep;
    r->dx = (float)c->dx;
    r->dm = (float)c->dm;
    r->clip = (float)c->clip;
    r->threshold = (float)c->threshold;
    r->threshold_max = (float)c->threshold_max;
    r->push = c->push;
    r->save = c->save;
    r->noise = c->noise;
    for (int k = 0; k < AN_TERMS; k++) {
        r->out[k] = (float)c->out[k];
        r->keep[k] = (float)c->keep[k];
    }
    r->sigma_next = c->sigma_next;
    r->x0_x = (float)c->x0_x;
    r->x0_m = (float)c->x0_m;
}

static an_status make_table(an_solver *s, an_error *err)
{
    s->table = calloc((size_t)s->calls, sizeof *s->table);
    if (!s->table) return an_fail(err, AN_NO_MEMORY, "no memory for %d steps", s->calls);
    for (int i = 0; i < s->calls; i++) {
        solver_coef c = {0};
        step_of[s->cfg.kind](s, i, &c);
        round_row(&c, &s->table[i]);
        /* Where diffusers would divide by zero and go on with NaN, say so instead. */
        if (!all_finite(&s->table[i]))
            return an_fail_param(
                err, AN_INVALID, "steps",
                "%s cannot take %d steps with this configuration: call %d (timestep "
                "%g) divides by zero",
                solver_class_name(s->cfg.kind), s->steps, i, s->timesteps[i]);
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- making one */

static an_status make_alphas(an_solver *s, an_error *err)
{
    const solver_config *c = &s->cfg;
    if (c->kind == SOLVER_FLOW_EULER) return AN_OK;
    size_t n = (size_t)c->num_train_timesteps;
    s->alphas_cumprod = malloc(n * sizeof(float));
    if (!s->alphas_cumprod) return an_fail(err, AN_NO_MEMORY, "no memory for %zu betas", n);
    solver_alphas_cumprod(c, s->alphas_cumprod);
    s->final_alpha = c->set_alpha_to_one ? 1.0 : (double)s->alphas_cumprod[0];
    for (size_t i = 0; i < n; i++) {
        float a = s->alphas_cumprod[i];
        if (a >= 0.0f && a < 1.0f) continue;
        return an_fail_param(err, AN_INVALID, "beta_schedule",
                             "the betas give alphas_cumprod[%zu] = %g, which is no share of signal",
                             i, (double)a);
    }
    return AN_OK;
}

static an_status build(an_solver *s, const json_t *base, const json_t *overrides, an_error *err)
{
    an_status st = solver_config_read(base, overrides, &s->cfg, err);
    if (st == AN_OK) st = make_alphas(s, err);
    if (st == AN_OK) st = solver_make_schedule(s, err);
    if (st != AN_OK) return st;
    if (s->cfg.kind == SOLVER_DPM_SINGLE) {
        s->order_list = malloc((size_t)s->calls * sizeof(int));
        if (!s->order_list) return an_fail(err, AN_NO_MEMORY, "no memory for %d steps", s->calls);
        solver_single_orders(&s->cfg, s->calls, s->order_list);
    }
    return make_table(s, err);
}

an_status an_solver_new(const json_t *base, const json_t *overrides, int steps, an_solver **out,
                        an_error *err)
{
    enum { MAX_STEPS = 10000 };
    *out = NULL;
    if (steps < 1 || steps > MAX_STEPS)
        return an_fail_param(err, AN_INVALID, "steps", "steps must lie in 1 .. %d, not %d",
                             MAX_STEPS, steps);
    an_solver *s = calloc(1, sizeof *s);
    if (!s) return an_fail(err, AN_NO_MEMORY, "no memory for a solver");
    s->steps = steps;
    an_status st = build(s, base, overrides, err);
    if (st != AN_OK) {
        an_solver_free(s);
        return st;
    }
    *out = s;
    return AN_OK;
}

void an_solver_free(an_solver *s)
{
    if (!s) return;
    solver_config_free(&s->cfg);
    free(s->timesteps);
    free(s->sigmas);
    free(s->alphas_cumprod);
    free(s->s);
    free(s->mid);
    free(s->order_list);
    free(s->table);
    free(s);
}

/* ---------------------------------------------------------------- reading one */

int an_solver_calls(const an_solver *s)
{
    return s->calls;
}

const double *an_solver_timesteps(const an_solver *s)
{
    return s->timesteps;
}

const double *an_solver_sigmas(const an_solver *s, int *count)
{
    *count = s->sigma_count;
    return s->sigmas;
}

double an_solver_init_noise_sigma(const an_solver *s)
{
    return s->init_noise_sigma;
}

const char *an_solver_class(const an_solver *s)
{
    return solver_class_name(s->cfg.kind);
}

const char *an_solver_prediction_type(const an_solver *s)
{
    return solver_prediction_name(s->cfg.prediction_type);
}

void an_solver_step(const an_solver *s, int i, an_step *out)
{
    if (i >= 0 && i < s->calls)
        *out = s->table[i];
    else
        memset(out, 0, sizeof *out);
}
