/* solver_dpm.c: the exponential integrators of DPM-Solver (arXiv 2206.00927, 2211.01095), multistep
 * and singlestep, ODE and SDE, and DEIS (arXiv 2204.13902). A sample is x = alpha x0 + sigma eps;
 * lambda = log(alpha / sigma) is the time they integrate in. d is x0 for the ++ algorithms and eps
 * for the others. */
#include "solver_internal.h"

#include <math.h>

/* in_scale, timestep and d of call i. */
static solver_level begin(const an_solver *s, int i, bool eps, solver_coef *c)
{
    solver_level l = solver_level_at(s, i);
    c->in_scale = 1.0;
    c->timestep = s->timesteps[i];
    c->push = true;
    c->sigma_next = s->s[i + 1];
    solver_mix x0 = solver_x0(s->cfg.prediction_type, l.alpha, l.sigma);
    solver_mix noise = solver_eps(s->cfg.prediction_type, l.alpha, l.sigma);
    solver_set_d(s, c, eps ? noise : x0);
    solver_set_x0(c, x0);
    return l;
}

/* ---------------------------------------------------------------- the update of each algorithm */

/* x_t = base * x + d0 * D0 + d1 * D1 + d2 * D2 + noise * z, with D0 the value and D1, D2 its first
 * and second differences in lambda (in units of h). */
typedef struct integrator {
    double base, d0, d1, d2, noise;
} integrator;

/* order: 1, 2 or 3; of order 2, solver_type decides between midpoint and Heun weights. */
static integrator integrate(const an_solver *s, solver_level from, solver_level to, bool heun)
{
    double h = to.lambda - from.lambda;
    integrator w = {0};
    switch (s->cfg.algorithm) {
    case ALGORITHM_DPMPP: {
        double e = expm1(-h);
        w.base = to.sigma / from.sigma;
        w.d0 = -to.alpha * e;
        w.d1 = heun ? to.alpha * (e / h + 1.0) : 0.5 * w.d0;
        w.d2 = -to.alpha * ((e + h) / (h * h) - 0.5);
        break;
    }
    case ALGORITHM_SDE_DPMPP: {
        double g = -expm1(-2.0 * h);
        w.base = to.sigma / from.sigma * exp(-h);
        w.d0 = to.alpha * g;
        w.d1 = heun ? to.alpha * (g / (-2.0 * h) + 1.0) : 0.5 * w.d0;
        w.d2 = to.alpha * ((g - 2.0 * h) / (4.0 * h * h) - 0.5);
        w.noise = to.sigma * sqrt(g);
        break;
    }
    case ALGORITHM_SDE_DPM: {
        double e = expm1(h);
        w.base = to.alpha / from.alpha;
        w.d0 = -2.0 * to.sigma * e;
        w.d1 = heun ? -2.0 * to.sigma * (e / h - 1.0) : 0.5 * w.d0;
        w.noise = to.sigma * sqrt(expm1(2.0 * h));
        break;
    }
    default: {
        double e = expm1(h);
        w.base = to.alpha / from.alpha;
        w.d0 = -to.sigma * e;
        w.d1 = heun ? -to.sigma * (e / h - 1.0) : 0.5 * w.d0;
        w.d2 = -to.sigma * ((e - h) / (h * h) - 0.5);
        break;
    }
    }
    return w;
}

/* Adds weight * (a - b), a and b slots of the history. */
static void add_difference(solver_coef *c, double weight, int a, int b)
{
    c->out[AN_TERM_D0 + a] += weight;
    c->out[AN_TERM_D0 + b] -= weight;
}

static void set_noise(const an_solver *s, solver_coef *c, double factor)
{
    bool sde = s->cfg.algorithm == ALGORITHM_SDE_DPM || s->cfg.algorithm == ALGORITHM_SDE_DPMPP;
    c->noise = sde;
    c->out[AN_TERM_NOISE] = sde ? factor : 0.0;
}

/* ---------------------------------------------------------------- multistep */

/* Short schedules end in lower orders for stability; sigma 0 only order 1 can reach. */
static int multi_order(const an_solver *s, int i)
{
    const solver_config *cfg = &s->cfg;
    bool brief = cfg->lower_order_final && s->calls < 15;
    bool zero = cfg->final_sigmas == FINAL_ZERO && cfg->kind != SOLVER_DEIS;
    bool last = i == s->calls - 1;
    int order = i + 1 < cfg->solver_order ? i + 1 : cfg->solver_order;
    if (last && (cfg->euler_at_final || brief || zero)) return 1;
    if (i == s->calls - 2 && brief && order > 2) return 2;
    return order;
}

void solver_step_dpm_multi(const an_solver *s, int i, solver_coef *c)
{
    bool eps = s->cfg.algorithm == ALGORITHM_DPM || s->cfg.algorithm == ALGORITHM_SDE_DPM;
    int order = multi_order(s, i);
    solver_level now = begin(s, i, eps, c), to = solver_level_at(s, i + 1);
    /* Order 3 always has the Heun weights. */
    integrator w = integrate(s, now, to, order == 3 || s->cfg.solver_type == TYPE_HEUN);
    c->out[AN_TERM_X] = w.base;
    c->out[AN_TERM_D0] = w.d0;
    set_noise(s, c, w.noise);
    if (order == 1) return;
    double h = to.lambda - now.lambda;
    double r0 = (now.lambda - solver_level_at(s, i - 1).lambda) / h;
    if (order == 2) {
        add_difference(c, w.d1 / r0, 0, 1);
        return;
    }
    /* sde-dpmsolver has no third order in diffusers (a crash there): not a number, refused. */
    if (s->cfg.algorithm == ALGORITHM_SDE_DPM) w.d1 = NAN;
    double r1 = (solver_level_at(s, i - 1).lambda - solver_level_at(s, i - 2).lambda) / h;
    double a = w.d1 * (1.0 + r0 / (r0 + r1)) + w.d2 / (r0 + r1);
    double b = -w.d1 * r0 / (r0 + r1) - w.d2 / (r0 + r1);
    add_difference(c, a / r0, 0, 1);
    add_difference(c, b / r1, 1, 2);
}

/* ---------------------------------------------------------------- singlestep */

void solver_single_orders(const solver_config *cfg, int steps, int *orders)
{
    int order = cfg->solver_order;
    bool zero = cfg->final_sigmas == FINAL_ZERO;
    /* diffusers turns lower_order_final on where the steps do not divide or end in 0. */
    bool lower = cfg->lower_order_final || steps % order != 0 || zero;
    for (int i = 0; i < steps; i++) orders[i] = i % order + 1;
    /* The last, complete block of a divisible count ends lower: 1 1, or 1 2 1. */
    if (lower && order > 1 && steps % order == 0) orders[steps - 1] = 1;
    if (zero) orders[steps - 1] = 1;
}

/* A block of calls of orders 1, 2, 3: each starts anew from the block's first sample (saved). */
void solver_step_dpm_single(const an_solver *s, int i, solver_coef *c)
{
    int order = s->order_list[i];
    solver_level now = begin(s, i, s->cfg.algorithm == ALGORITHM_DPM, c),
                 to = solver_level_at(s, i + 1);
    solver_level from = solver_level_at(s, i - (order - 1));
    bool heun = s->cfg.solver_type == TYPE_HEUN;
    integrator w = integrate(s, from, to, order == 3 || heun);
    set_noise(s, c, w.noise);
    int first = order - 1; /* the block's first value */
    c->out[AN_TERM_D0 + first] = w.d0;
    if (order == 1) {
        solver_save_x(c);
        c->out[AN_TERM_X] = w.base;
        return;
    }
    c->out[AN_TERM_SAVED] = w.base;
    double h = to.lambda - from.lambda;
    double r0 = (now.lambda - from.lambda) / h;
    if (order == 2) {
        add_difference(c, w.d1 / r0, 0, first);
        return;
    }
    double r1 = (solver_level_at(s, i - 1).lambda - from.lambda) / h;
    if (!heun) {
        add_difference(c, w.d1 / r0, 0, first);
        return;
    }
    double span = r0 - r1;
    add_difference(c, (w.d1 * r0 - 2.0 * w.d2) / span / r1, 1, first);
    add_difference(c, (-w.d1 * r1 + 2.0 * w.d2) / span / r0, 0, first);
}

/* ---------------------------------------------------------------- DEIS */

/* Antiderivatives of the Lagrange polynomials over log rho: 1 at b, 0 at c (and d). */
static double deis_two(double t, double b, double c)
{
    return t * (-log(c) + log(t) - 1.0) / (log(b) - log(c));
}

static double deis_three(double t, double b, double c, double d)
{
    double lt = log(t), lb = log(b), lc = log(c), ld = log(d);
    double numerator = t * (lc * (ld - lt + 1.0) - ld * lt + ld + lt * lt - 2.0 * lt + 2.0);
    return numerator / ((lb - lc) * (lb - ld));
}

void solver_step_deis(const an_solver *s, int i, solver_coef *c)
{
    int order = multi_order(s, i);
    solver_level now = begin(s, i, true, c), to = solver_level_at(s, i + 1);
    double rho[3], next = to.sigma / to.alpha;
    for (int k = 0; k < order; k++) {
        solver_level l = solver_level_at(s, i - k);
        rho[k] = l.sigma / l.alpha;
    }
    c->out[AN_TERM_X] = to.alpha / now.alpha;
    if (order == 1) {
        c->out[AN_TERM_D0] = -to.sigma * expm1(to.lambda - now.lambda);
        return;
    }
    for (int k = 0; k < order; k++) {
        double b = rho[k], e = rho[(k + 1) % order], f = rho[(k + 2) % order];
        double integral = order == 2 ? deis_two(next, b, e) - deis_two(rho[0], b, e)
                                     : deis_three(next, b, e, f) - deis_three(rho[0], b, e, f);
        c->out[AN_TERM_D0 + k] = to.alpha * integral;
    }
}
