/* solver_ddim.c: the classes that work on alpha-bar directly, where a sample is
 * x = sqrt(a) x0 + sqrt(1 - a) eps: DDPM (arXiv 2006.11239), DDIM (2010.02502), LCM (2310.04378)
 * and TCD (2402.19159). Their d is the (clipped) x0. */
#include "solver_internal.h"

#include <math.h>

static double max0(double v)
{
    return v > 0.0 ? v : 0.0;
}

static double noise_level(double alpha)
{
    return sqrt(max0(1.0 - alpha) / alpha);
}

/* in_scale, timestep and d = x0 of call i; the alpha-bar there. */
static double begin(const an_solver *s, int i, solver_coef *c)
{
    double a = solver_alpha(s, (int)s->timesteps[i]);
    c->in_scale = 1.0;
    c->timestep = s->timesteps[i];
    solver_mix x0 = solver_x0(s->cfg.prediction_type, sqrt(a), sqrt(1.0 - a));
    solver_set_d(s, c, x0);
    solver_set_x0(c, x0);
    return a;
}

void solver_step_ddpm(const an_solver *s, int i, solver_coef *c)
{
    double a = begin(s, i, c);
    /* The previous timestep is the next of the list; past its end alpha-bar is 1. */
    double prev = i + 1 < s->calls && s->timesteps[i + 1] >= 0.0
                      ? solver_alpha(s, (int)s->timesteps[i + 1])
                      : 1.0;
    double alpha = a / prev, beta = 1.0 - alpha;
    c->out[AN_TERM_D0] = sqrt(prev) * beta / (1.0 - a);
    c->out[AN_TERM_X] = sqrt(alpha) * (1.0 - prev) / (1.0 - a);
    c->sigma_next = noise_level(prev);
    if (!(s->timesteps[i] > 0.0)) return;
    double variance = (1.0 - prev) / (1.0 - a) * beta;
    if (variance < 1e-20) variance = 1e-20;
    if (s->cfg.variance_type == VARIANCE_LARGE) variance = beta;
    c->noise = true;
    c->out[AN_TERM_NOISE] = sqrt(variance);
}

void solver_step_ddim(const an_solver *s, int i, solver_coef *c)
{
    double a = begin(s, i, c);
    int t = (int)s->timesteps[i];
    /* Always one training stride back, even where the spacing is another. */
    double prev = solver_alpha_prev(s, t - s->cfg.num_train_timesteps / s->steps);
    double variance = (1.0 - prev) / (1.0 - a) * (1.0 - a / prev);
    double std = s->cfg.eta * sqrt(max0(variance));
    double direction = sqrt(max0(1.0 - prev - std * std));
    /* eps stays unclipped */
    solver_mix eps = solver_eps(s->cfg.prediction_type, sqrt(a), sqrt(1.0 - a));
    c->out[AN_TERM_D0] = sqrt(prev);
    c->out[AN_TERM_X] = direction * eps.x;
    c->out[AN_TERM_M] = direction * eps.m;
    c->sigma_next = noise_level(prev);
    c->noise = s->cfg.eta > 0.0;
    c->out[AN_TERM_NOISE] = std;
}

void solver_step_lcm(const an_solver *s, int i, solver_coef *c)
{
    begin(s, i, c);
    bool last = i == s->calls - 1;
    /* The boundary condition: sigma_data 0.5, at timestep 0 the sample itself. */
    double t = s->timesteps[i] * s->cfg.timestep_scaling;
    double skip = 0.25 / (t * t + 0.25), out = t / sqrt(t * t + 0.25);
    double prev = last ? 1.0 : solver_alpha(s, (int)s->timesteps[i + 1]);
    c->out[AN_TERM_D0] = sqrt(prev) * out;
    c->out[AN_TERM_X] = sqrt(prev) * skip;
    c->sigma_next = noise_level(prev);
    if (last) return;
    c->noise = true;
    c->out[AN_TERM_NOISE] = sqrt(1.0 - prev);
}

void solver_step_tcd(const an_solver *s, int i, solver_coef *c)
{
    double a = begin(s, i, c);
    c->clip = c->threshold = 0.0; /* diffusers' TCD has the keys and uses neither */
    bool last = i == s->calls - 1;
    int next = last ? 0 : (int)s->timesteps[i + 1];
    /* The intermediate timestep, with torch's f32 product. */
    int between = (int)floorf((float)(1.0 - s->cfg.eta) * (float)next);
    double prev = solver_alpha(s, next), mid = solver_alpha(s, between);
    solver_mix eps = solver_eps(s->cfg.prediction_type, sqrt(a), sqrt(1.0 - a));
    bool noisy = s->cfg.eta > 0.0 && !last;
    double scale = noisy ? sqrt(prev / mid) : 1.0;
    c->out[AN_TERM_D0] = scale * sqrt(mid);
    c->out[AN_TERM_X] = scale * sqrt(1.0 - mid) * eps.x;
    c->out[AN_TERM_M] = scale * sqrt(1.0 - mid) * eps.m;
    c->sigma_next = noise_level(noisy ? prev : mid);
    c->noise = noisy;
    c->out[AN_TERM_NOISE] = noisy ? sqrt(max0(1.0 - prev / mid)) : 0.0;
}
