/* solver_sigma.c: the classes whose sample is x = x0 + sigma * eps and whose network sees
 * x / sqrt(sigma^2 + 1): Euler, Euler ancestral, LMS, Heun, KDPM2 and KDPM2 ancestral
 * (arXiv 2206.00364, k-diffusion), and flow matching's Euler, x = (1 - sigma) x0 + sigma * eps. */
#include "solver_internal.h"

#include <math.h>

static solver_mix x0_at(const an_solver *s, double sigma)
{
    double v = 1.0 / (sigma * sigma + 1.0);
    switch (s->cfg.prediction_type) {
    case PREDICT_EPSILON:
        return (solver_mix){1.0, -sigma};
    case PREDICT_V:
        return (solver_mix){v, -sigma * sqrt(v)};
    default:
        return (solver_mix){0.0, 1.0};
    }
}

/* dx/dsigma = (x - x0) / sigma, without the cancellation. */
static solver_mix derivative_at(const an_solver *s, double sigma)
{
    double v = 1.0 / (sigma * sigma + 1.0);
    switch (s->cfg.prediction_type) {
    case PREDICT_EPSILON:
        return (solver_mix){0.0, 1.0};
    case PREDICT_V:
        return (solver_mix){sigma * v, sqrt(v)};
    default:
        return (solver_mix){1.0 / sigma, -1.0 / sigma};
    }
}

static void begin(const an_solver *s, int i, double sigma, double next, solver_coef *c)
{
    c->in_scale = 1.0 / sqrt(sigma * sigma + 1.0);
    c->timestep = s->timesteps[i];
    c->sigma_next = next;
    solver_set_x0(c, x0_at(s, sigma));
}

static void use_derivative(const an_solver *s, double sigma, solver_coef *c)
{
    solver_mix d = derivative_at(s, sigma);
    c->dx = d.x;
    c->dm = d.m;
}

/* In f32 and in torch's order of operations: where `to` is far below `from`, to^2 - up^2 is a
 * difference of near equals, and diffusers' pictures contain its rounding. Where nothing is left of
 * it diffusers' KDPM2 goes on with NaN, we with the exact value. */
void solver_ancestral(double from, double to, double *down, double *up)
{
    float s2 = (float)from * (float)from, t2 = (float)to * (float)to;
    float rise = sqrtf(t2 * (s2 - t2) / s2);
    float rest = t2 - rise * rise;
    *up = (double)rise;
    *down = rest > 0.0f ? (double)sqrtf(rest) : to * to / from;
}

void solver_step_euler(const an_solver *s, int i, solver_coef *c)
{
    double sigma = s->s[i], next = s->s[i + 1];
    begin(s, i, sigma, next, c);
    solver_mix x0 = x0_at(s, sigma);
    c->dx = x0.x;
    c->dm = x0.m;
    double down = next;
    if (s->cfg.kind == SOLVER_EULER_A) {
        c->noise = true; /* also where the factor is 0: the stream must stay in step */
        solver_ancestral(sigma, next, &down, &c->out[AN_TERM_NOISE]);
    }
    /* x + (x - x0) / sigma * (down - sigma), as an interpolation */
    c->out[AN_TERM_X] = down / sigma;
    c->out[AN_TERM_D0] = 1.0 - down / sigma;
}

/* Integral over [from, to] of the Lagrange polynomial that is 1 at node k: two Gauss points are
 * exact for its cubic. */
static double lagrange_integral(const double *node, int nodes, int k, double from, double to)
{
    double sum = 0.0, half = 0.5 * (to - from), middle = 0.5 * (to + from);
    for (int side = -1; side <= 1; side += 2) {
        double tau = middle + side * half / sqrt(3.0), product = 1.0;
        for (int j = 0; j < nodes; j++)
            if (j != k) product *= (tau - node[j]) / (node[k] - node[j]);
        sum += product;
    }
    return sum * half;
}

void solver_step_lms(const an_solver *s, int i, solver_coef *c)
{
    double sigma = s->s[i], next = s->s[i + 1], node[4];
    int order = i + 1 < 4 ? i + 1 : 4;
    begin(s, i, sigma, next, c);
    use_derivative(s, sigma, c);
    c->push = true;
    c->out[AN_TERM_X] = 1.0;
    for (int k = 0; k < order; k++) node[k] = s->s[i - k];
    for (int k = 0; k < order; k++)
        c->out[AN_TERM_D0 + k] = lagrange_integral(node, order, k, sigma, next);
}

/* Even calls step to the next level, odd ones repeat the step with the mean of both slopes. A
 * clipped x0 is kept instead of the slope, which then follows from it and the saved sample. */
void solver_step_heun(const an_solver *s, int i, solver_coef *c)
{
    int k = i / 2;
    double from = s->s[k], to = s->s[k + 1], dt = to - from;
    bool second = i % 2, clipped = s->cfg.clip_sample;
    double sigma = second ? to : from;
    begin(s, i, sigma, to, c);
    c->push = true;
    if (clipped)
        solver_set_d(s, c, x0_at(s, sigma));
    else
        use_derivative(s, sigma, c);
    if (!second) {
        solver_save_x(c);
        c->out[AN_TERM_X] = clipped ? to / from : 1.0;
        c->out[AN_TERM_D0] = clipped ? 1.0 - to / from : dt;
    } else if (clipped) {
        c->out[AN_TERM_SAVED] = 1.0 + 0.5 * dt / from;
        c->out[AN_TERM_D0 + 1] = -0.5 * dt / from;
        c->out[AN_TERM_X] = 0.5 * dt / to;
        c->out[AN_TERM_D0] = -0.5 * dt / to;
    } else {
        c->out[AN_TERM_SAVED] = 1.0;
        c->out[AN_TERM_D0] = c->out[AN_TERM_D0 + 1] = 0.5 * dt;
    }
}

/* Even calls step to a level between, odd ones repeat the whole step with the slope found there. */
void solver_step_kdpm2(const an_solver *s, int i, solver_coef *c)
{
    int k = i / 2;
    bool second = i % 2;
    double from = s->s[k], to = s->s[k + 1], mid = s->mid[k];
    double sigma = second ? mid : from;
    begin(s, i, sigma, second ? to : mid, c);
    use_derivative(s, sigma, c);
    if (!second) {
        solver_save_x(c);
        c->out[AN_TERM_X] = 1.0;
        c->out[AN_TERM_D0] = mid - from;
        return;
    }
    double down = to;
    if (s->cfg.kind == SOLVER_KDPM2_A) {
        c->noise = true;
        solver_ancestral(from, to, &down, &c->out[AN_TERM_NOISE]);
    }
    c->out[AN_TERM_SAVED] = 1.0;
    c->out[AN_TERM_D0] = down - from;
}

void solver_step_flow(const an_solver *s, int i, solver_coef *c)
{
    double sigma = s->s[i], next = s->s[i + 1];
    c->in_scale = 1.0;
    c->timestep = s->timesteps[i];
    c->sigma_next = next;
    /* Where sigmas are inverted (Mochi), the data lies at sigma = 1. */
    double to_data = s->cfg.invert_sigmas ? 1.0 - sigma : -sigma;
    solver_set_x0(c, (solver_mix){1.0, to_data});
    c->dx = 1.0;
    c->dm = -sigma;
    if (s->cfg.stochastic) {
        c->noise = true;
        c->out[AN_TERM_D0] = 1.0 - next;
        c->out[AN_TERM_NOISE] = next;
        return;
    }
    c->out[AN_TERM_X] = 1.0;
    c->out[AN_TERM_M] = next - sigma;
}
