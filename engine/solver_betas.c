/* solver_betas.c: the noise a model was trained with, and the inverse beta distribution. The f32
 * roundings are torch's on purpose: at small t, 1 - alpha_cumprod is a difference of near equals
 * and one ulp of alpha_cumprod moves sigma by 4e-5. torch.cumprod on a CPU accumulates in double
 * and rounds each element once. */
#include "solver_internal.h"

#include <float.h>
#include <math.h>

/* torch.linspace in f32: symmetric about its middle, multiply and add fused. */
static float linspace_f32(double first, double last, int n, int i)
{
    float start = (float)first, end = (float)last;
    if (n == 1) return start;
    float step = (end - start) / (float)(n - 1);
    if (i < n / 2) return fmaf(step, (float)i, start);
    return fmaf(-step, (float)(n - 1 - i), end);
}

/* alpha-bar as a function of t in [0, 1] (betas_for_alpha_bar). */
static double alpha_bar(int schedule, double t)
{
    if (schedule == BETA_EXP) return exp(t * -12.0);
    if (schedule == BETA_LAPLACE) {
        double lambda = -0.5 * copysign(1.0, 0.5 - t) * log(1.0 - 2.0 * fabs(0.5 - t) + 1e-6);
        double snr = exp(lambda);
        return sqrt(snr / (1.0 + snr));
    }
    double c = cos((t + 0.008) / 1.008 * M_PI / 2.0);
    return c * c;
}

static float beta_at(const solver_config *cfg, int i)
{
    int n = cfg->num_train_timesteps;
    if (cfg->trained_betas) return (float)cfg->trained_betas[i];
    switch (cfg->beta_schedule) {
    case BETA_LINEAR:
        return linspace_f32(cfg->beta_start, cfg->beta_end, n, i);
    case BETA_SCALED_LINEAR: {
        float root = linspace_f32(sqrt(cfg->beta_start), sqrt(cfg->beta_end), n, i);
        return root * root;
    }
    case BETA_SIGMOID: {
        float x = linspace_f32(-6.0, 6.0, n, i);
        float sigmoid = 1.0f / (1.0f + expf(-x));
        return sigmoid * (float)(cfg->beta_end - cfg->beta_start) + (float)cfg->beta_start;
    }
    default: {
        double now = alpha_bar(cfg->beta_schedule, (double)i / n);
        double next = alpha_bar(cfg->beta_schedule, (double)(i + 1) / n);
        double beta = 1.0 - next / now;
        return (float)(beta < 0.999 ? beta : 0.999);
    }
    }
}

static void cumprod(const float *alphas, int n, float *out)
{
    double product = 1.0;
    for (int i = 0; i < n; i++) {
        product *= (double)alphas[i];
        out[i] = (float)product;
    }
}

/* Shifts and scales sqrt(alpha-bar) so that the last is 0 (arXiv 2305.08891, algorithm 1), in place
 * from alphas to alphas. They pass through betas as in diffusers, for the same roundings. */
static void zero_terminal_snr(float *alphas, int n)
{
    float *bar = alphas;
    cumprod(alphas, n, bar);
    for (int i = 0; i < n; i++) bar[i] = sqrtf(bar[i]);
    float first = bar[0], last = bar[n - 1];
    float scale = first / (first - last);
    for (int i = 0; i < n; i++) {
        bar[i] -= last;
        bar[i] *= scale;
        bar[i] *= bar[i];
    }
    for (int i = n - 1; i >= 0; i--) {
        float alpha = i ? bar[i] / bar[i - 1] : bar[0];
        float beta = 1.0f - alpha;
        alphas[i] = 1.0f - beta;
    }
}

void solver_alphas_cumprod(const solver_config *cfg, float *out)
{
    int n = cfg->num_train_timesteps;
    for (int i = 0; i < n; i++) out[i] = 1.0f - beta_at(cfg, i);
    if (cfg->rescale_betas_zero_snr) zero_terminal_snr(out, n);
    cumprod(out, n, out);
    bool alpha_class = cfg->kind == SOLVER_DDPM || cfg->kind == SOLVER_DDIM ||
                       cfg->kind == SOLVER_LCM || cfg->kind == SOLVER_TCD;
    /* The sigma classes keep the last sigma finite: 4096. */
    if (cfg->rescale_betas_zero_snr && !alpha_class) out[n - 1] = 0x1p-24f;
}

float solver_sigma_of_alpha(float alpha_cumprod)
{
    return sqrtf((1.0f - alpha_cumprod) / alpha_cumprod);
}

/* ---------------------------------------------------------------- beta distribution */

/* The continued fraction of the incomplete beta function (Numerical Recipes 6.4, modified Lentz),
 * for a = b and x < 1/2, where it converges in a few terms. */
static double beta_fraction(double a, double x)
{
    const double tiny = DBL_MIN / DBL_EPSILON;
    double c = 1.0, d = 1.0 - 2.0 * a * x / (a + 1.0);
    if (fabs(d) < tiny) d = tiny;
    d = 1.0 / d;
    double h = d;
    for (int m = 1; m < 500; m++) {
        double even = m * (a - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        double odd = -(a + m) * (2.0 * a + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 + even * d;
        c = 1.0 + even / c;
        d = 1.0 / (fabs(d) < tiny ? tiny : d);
        if (fabs(c) < tiny) c = tiny;
        h *= d * c;
        d = 1.0 + odd * d;
        c = 1.0 + odd / c;
        d = 1.0 / (fabs(d) < tiny ? tiny : d);
        if (fabs(c) < tiny) c = tiny;
        double change = d * c;
        h *= change;
        if (fabs(change - 1.0) < 1e-16) break;
    }
    return h;
}

/* I_x(a, a) for 0 < x <= 1/2 */
static double beta_cdf(double x, double a)
{
    double gamma = tgamma(a); /* not lgamma, which writes the global signgam */
    double front = tgamma(2.0 * a) / (gamma * gamma) * exp(a * (log(x) + log1p(-x)));
    return front * beta_fraction(a, x) / a;
}

double solver_beta_ppf(double p, double a)
{
    if (p <= 0.0) return 0.0;
    if (p >= 1.0) return 1.0;
    if (p > 0.5) return 1.0 - solver_beta_ppf(1.0 - p, a); /* symmetric */
    /* Bisection in log x: slow but sure, and the schedule has at most some hundred entries. */
    double low = log(1e-300), high = log(0.5);
    for (int k = 0; k < 200 && high - low > 1e-16 * fabs(low); k++) {
        double middle = 0.5 * (low + high);
        if (beta_cdf(exp(middle), a) < p)
            low = middle;
        else
            high = middle;
    }
    return exp(0.5 * (low + high));
}
