/* solver_pndm.c: PNDM (arXiv 2202.09778): linear multistep (PLMS) over the raw network outputs,
 * with a repeated second call or, without skip_prk_steps, three Runge-Kutta intervals of four calls
 * to begin with. d is the raw output. */
#include "solver_internal.h"

#include <math.h>

/* The transfer phi of equation 11: from a sample at t and an output to the sample at prev. */
typedef struct transfer {
    double sample, output;
} transfer;

static transfer transfer_to(const an_solver *s, int t, int prev)
{
    double a = solver_alpha(s, t), b = solver_alpha_prev(s, prev);
    double denominator = a * sqrt(1.0 - b) + sqrt(a * (1.0 - a) * b);
    double scale = denominator > 0.0 ? (b - a) / denominator : 0.0;
    transfer r = {sqrt(b / a), -scale};
    if (s->cfg.prediction_type == PREDICT_V) {
        r.sample += r.output * sqrt(1.0 - a);
        r.output *= sqrt(a);
    }
    return r;
}

/* Four calls of the interval that starts at timestep t: x1, x2 to its middle, x3 to its end, then
 * the weighted whole. The saved sample is the interval's start, and from the third call on the
 * result without its last sixth. Only the second call pushes, so that after the interval D0 is
 * replaced by the next first output and the first outputs of three intervals stay as D1, D2, D3. */
static void step_prk(const an_solver *s, int i, solver_coef *c)
{
    int half = s->cfg.num_train_timesteps / s->steps / 2;
    int start = (int)s->timesteps[i / 4 * 4];
    int now = (int)s->timesteps[i];
    transfer f = transfer_to(s, start, i % 2 ? now : now - half);
    switch (i % 4) {
    case 0:
        solver_save_x(c);
        c->out[AN_TERM_X] = f.sample;
        c->out[AN_TERM_D0] = f.output;
        break;
    case 1: /* x2 = f(start, m1) */
        c->push = true;
        c->out[AN_TERM_SAVED] = f.sample;
        c->out[AN_TERM_D0] = f.output;
        break;
    case 2: {
        c->out[AN_TERM_SAVED] = f.sample;
        c->out[AN_TERM_D0] = f.output;
        /* m1 is no longer in the history, but x = x2 = f1(start, m1) tells it. */
        transfer f1 = transfer_to(s, start, (int)s->timesteps[i - 1]);
        transfer end = transfer_to(s, start, (int)s->timesteps[i + 1]);
        double m1 = f1.output != 0.0 ? end.output / 3.0 / f1.output : 0.0;
        c->save = true;
        c->keep[AN_TERM_SAVED] = end.sample - m1 * f1.sample;
        c->keep[AN_TERM_X] = m1;
        c->keep[AN_TERM_D0 + 1] = end.output / 6.0;
        c->keep[AN_TERM_D0] = end.output / 3.0;
        break;
    }
    default:
        c->out[AN_TERM_SAVED] = 1.0;
        c->out[AN_TERM_D0] = f.output / 6.0;
        break;
    }
}

/* Adams-Bashforth weights by the number of outputs known. */
static const double adams[4][4] = {{1.0, 0.0, 0.0, 0.0},
                                   {3.0 / 2.0, -1.0 / 2.0, 0.0, 0.0},
                                   {23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0, 0.0},
                                   {55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0}};

static void step_plms(const an_solver *s, int i, solver_coef *c)
{
    int stride = s->cfg.num_train_timesteps / s->steps;
    int t = (int)s->timesteps[i];
    c->push = true;
    if (s->cfg.skip_prk_steps && i == 1) {
        /* The first step again, with the mean of its two outputs. */
        transfer f = transfer_to(s, t + stride, t);
        c->out[AN_TERM_SAVED] = f.sample;
        c->out[AN_TERM_D0] = c->out[AN_TERM_D0 + 1] = f.output / 2.0;
        return;
    }
    if (i == 0) solver_save_x(c);
    transfer f = transfer_to(s, t, t - stride);
    c->out[AN_TERM_X] = f.sample;
    /* The repeated call's output is not part of the sequence: skip its slot, i - 1 calls back. */
    bool repeats = s->cfg.skip_prk_steps;
    if (!repeats && i == 12) c->push = false; /* the last Runge-Kutta output is not either */
    int known = repeats ? (i == 0 ? 1 : i) : 4;
    if (known > 4) known = 4;
    for (int k = 0, slot = 0; k < known; k++, slot++) {
        if (repeats && i > 1 && slot == i - 1) slot++;
        c->out[AN_TERM_D0 + slot] = adams[known - 1][k] * f.output;
    }
}

void solver_step_pndm(const an_solver *s, int i, solver_coef *c)
{
    c->in_scale = 1.0;
    c->timestep = s->timesteps[i];
    c->dm = 1.0;
    double a = solver_alpha(s, (int)s->timesteps[i]);
    solver_set_x0(c, solver_x0(s->cfg.prediction_type, sqrt(a), sqrt(1.0 - a)));
    double b = i + 1 < s->calls ? solver_alpha(s, (int)s->timesteps[i + 1]) : s->final_alpha;
    c->sigma_next = sqrt((1.0 - b) / b);
    if (!s->cfg.skip_prk_steps && i < 12)
        step_prk(s, i, c);
    else
        step_plms(s, i, c);
}
