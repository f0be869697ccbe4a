/* solver_unipc.c: UniPC (arXiv 2302.04867), predictor and corrector in one call. The output of call
 * i first corrects the step that led there (from the saved sample), then predicts the next from the
 * corrected sample; both are linear in the saved sample, this output and the earlier ones. d is x0,
 * or eps without predict_x0. */
#include "solver_internal.h"

#include <math.h>

/* x_to = sample * x_from + sum m[k] * (output k levels before from) + after * (output at to) */
typedef struct update {
    double sample, m[3], after;
} update;

/* Solves r a = b for n <= 3 by elimination with pivoting; a comes back in b. */
static void solve(int n, double r[3][3], double b[3])
{
    for (int col = 0; col < n; col++) {
        int pivot = col;
        for (int row = col + 1; row < n; row++)
            if (fabs(r[row][col]) > fabs(r[pivot][col])) pivot = row;
        for (int k = 0; k < n; k++) {
            double v = r[col][k];
            r[col][k] = r[pivot][k];
            r[pivot][k] = v;
        }
        double v = b[col];
        b[col] = b[pivot];
        b[pivot] = v;
        for (int row = col + 1; row < n; row++) {
            double f = r[row][col] / r[col][col];
            for (int k = col; k < n; k++) r[row][k] -= f * r[col][k];
            b[row] -= f * b[col];
        }
    }
    for (int row = n - 1; row >= 0; row--) {
        for (int k = row + 1; k < n; k++) b[row] -= r[row][k] * b[k];
        b[row] /= r[row][row];
    }
}

/* The step from level `from` to the next with outputs of `order` levels, corrected by the output at
 * its end or not (equations 3 and 9; B(h) by solver_type). */
static update bh_update(const an_solver *s, int from, int order, bool corrector)
{
    const solver_config *cfg = &s->cfg;
    solver_level a = solver_level_at(s, from), b = solver_level_at(s, from + 1);
    double h = b.lambda - a.lambda, hh = cfg->predict_x0 ? -h : h;
    double phi1 = expm1(hh);
    double scale = cfg->predict_x0 ? b.alpha : b.sigma;
    update u = {.sample = cfg->predict_x0 ? b.sigma / a.sigma : b.alpha / a.alpha,
                .m = {-scale * phi1}};
    int unknowns = corrector ? order : order - 1;
    if (unknowns == 0) return u;

    double bh = cfg->solver_type == TYPE_BH1 ? hh : phi1;
    double rk[3], r[3][3], rho[3];
    for (int k = 1; k < order; k++)
        rk[k - 1] = (solver_level_at(s, from - k).lambda - a.lambda) / h;
    rk[order - 1] = 1.0;
    double phi = phi1 / hh - 1.0, factorial = 1.0;
    for (int row = 0; row < unknowns; row++) {
        for (int k = 0; k < unknowns; k++) r[row][k] = pow(rk[k], row);
        rho[row] = phi * factorial / bh;
        factorial *= row + 2;
        phi = phi / hh - 1.0 / factorial;
    }
    if (unknowns == 1)
        rho[0] = 0.5;
    else
        solve(unknowns, r, rho);

    for (int k = 1; k < order; k++) {
        double w = -scale * bh * rho[k - 1] / rk[k - 1];
        u.m[k] += w;
        u.m[0] -= w;
    }
    if (corrector) {
        u.after = -scale * bh * rho[order - 1];
        u.m[0] -= u.after;
    }
    return u;
}

static int order_at(const an_solver *s, int i)
{
    int order = s->cfg.solver_order;
    if (s->cfg.lower_order_final && s->calls - i < order) order = s->calls - i;
    return i + 1 < order ? i + 1 : order;
}

void solver_step_unipc(const an_solver *s, int i, solver_coef *c)
{
    const solver_config *cfg = &s->cfg;
    solver_level now = solver_level_at(s, i);
    c->in_scale = 1.0;
    c->timestep = s->timesteps[i];
    c->push = true;
    c->save = true;
    c->sigma_next = s->s[i + 1];
    solver_mix x0 = solver_x0(cfg->prediction_type, now.alpha, now.sigma);
    solver_mix eps = solver_eps(cfg->prediction_type, now.alpha, now.sigma);
    solver_set_d(s, c, cfg->predict_x0 ? x0 : eps);
    solver_set_x0(c, x0);

    bool disabled = i > 0 && i - 1 < cfg->disable_count && cfg->disable_corrector[i - 1];
    if (i > 0 && !disabled) {
        update u = bh_update(s, i - 1, order_at(s, i - 1), true);
        c->keep[AN_TERM_SAVED] = u.sample;
        c->keep[AN_TERM_D0] = u.after;
        for (int k = 0; k < 3; k++) c->keep[AN_TERM_D0 + 1 + k] = u.m[k];
    } else {
        c->keep[AN_TERM_X] = 1.0;
    }
    update u = bh_update(s, i, order_at(s, i), false);
    for (int k = 0; k < AN_TERMS; k++) c->out[k] = u.sample * c->keep[k];
    for (int k = 0; k < 3; k++) c->out[AN_TERM_D0 + k] += u.m[k];
}
