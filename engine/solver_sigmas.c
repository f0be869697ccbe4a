/* solver_sigmas.c: which timesteps and noise levels a sampler visits. The same word means different
 * timesteps in different classes (linspace of n points, or of n + 1 without the last; rounded or
 * not), so each family below keeps its own rules; roundings follow numpy and torch step by step. */
#include "solver_internal.h"

#include <math.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- numpy, in small */

/* np.linspace(first, last, n)[i] */
static double linspace(double first, double last, int n, int i)
{
    if (n == 1) return first;
    if (i == n - 1) return last;
    return (double)i * ((last - first) / (n - 1)) + first;
}

/* Timesteps count down from here on; a list that numpy may make one longer than asked has room. */
typedef struct list {
    double *v;
    int n;
} list;

/* round(np.arange(last, 0, -ratio)) - 1. For some n (61 of 1000) arange's float arithmetic yields
 * n + 1 values, the last of them 0: diffusers then takes n + 1 steps down to timestep -1, and so do
 * we. */
static list trailing(int last, double ratio, double *room, int capacity)
{
    list l = {room, 0};
    double start = last, delta = (start - ratio) - start; /* as numpy derives its increment */
    double length = ceil((0.0 - start) / -ratio);
    l.n = length > capacity ? capacity : (int)length;
    for (int i = 0; i < l.n; i++) {
        double t = i == 0 ? start : i == 1 ? start - ratio : start + i * delta;
        l.v[i] = rint(t) - 1.0;
    }
    return l;
}

/* n points from 0 to T - 1 (DDPM, DDIM, PNDM round them, the sigma classes do not). */
static list spaced_points(const an_solver *s, bool rounded, double *room)
{
    const solver_config *c = &s->cfg;
    int train = c->num_train_timesteps, n = s->steps;
    list l = {room, n};
    if (c->timestep_spacing == SPACING_TRAILING)
        return trailing(train, (double)train / n, room, n + 1);
    for (int i = 0; i < n; i++) {
        double t = c->timestep_spacing == SPACING_LINSPACE
                       ? linspace(0.0, train - 1, n, n - 1 - i)
                       : (double)(n - 1 - i) * (train / n) + c->steps_offset;
        l.v[i] = rounded ? rint(t) : (double)(float)t;
    }
    return l;
}

/* The DPM family: n + 1 points, the lowest left out. last: timesteps in use (lambda clipping). */
static list spaced_intervals(const an_solver *s, int last, double *room)
{
    const solver_config *c = &s->cfg;
    int n = s->steps;
    list l = {room, n};
    if (c->timestep_spacing == SPACING_TRAILING)
        return trailing(last, (double)c->num_train_timesteps / n, room, n + 1);
    for (int i = 0; i < n; i++)
        l.v[i] = c->timestep_spacing == SPACING_LINSPACE
                     ? rint(linspace(0.0, last - 1, n + 1, n - i))
                     : (double)(n - i) * (last / (n + 1)) + c->steps_offset;
    return l;
}

/* ---------------------------------------------------------------- training sigmas */

/* The f32 sigma table [T] and its f32 logarithms. */
typedef struct training {
    float *sigma, *log_sigma;
    int n;
} training;

static bool training_make(const an_solver *s, training *t)
{
    t->n = s->cfg.num_train_timesteps;
    t->sigma = malloc((size_t)t->n * 2 * sizeof(float));
    if (!t->sigma) return false;
    t->log_sigma = t->sigma + t->n;
    for (int i = 0; i < t->n; i++) {
        t->sigma[i] = solver_sigma_of_alpha(s->alphas_cumprod[i]);
        t->log_sigma[i] = logf(t->sigma[i]);
    }
    return true;
}

/* np.interp(t, arange(T), sigma) */
static double sigma_at(const training *tr, double t)
{
    if (!(t > 0.0)) return (double)tr->sigma[0];
    if (t >= tr->n - 1) return (double)tr->sigma[tr->n - 1];
    int low = (int)t;
    double slope = (double)tr->sigma[low + 1] - (double)tr->sigma[low];
    return slope * (t - low) + (double)tr->sigma[low];
}

/* The (fractional) timestep of a noise level: linear in log sigma. */
static double timestep_of(const training *tr, double sigma)
{
    double level = log(sigma > 1e-10 ? sigma : 1e-10);
    int low = 0;
    for (int i = 0; i < tr->n; i++)
        if (level >= (double)tr->log_sigma[i]) low = i;
    if (low > tr->n - 2) low = tr->n - 2;
    double a = (double)tr->log_sigma[low], b = (double)tr->log_sigma[low + 1];
    double w = (a - level) / (a - b);
    w = w < 0.0 ? 0.0 : w > 1.0 ? 1.0 : w;
    return (1.0 - w) * low + w * (low + 1);
}

/* The same in f32, as diffusers does it for KDPM2's levels between: near timestep 0 the result is
 * mostly rounding, and the network is told just that. */
static double timestep_of_f32(const training *tr, float sigma)
{
    float level = logf(sigma > 1e-10f ? sigma : 1e-10f);
    int low = 0;
    for (int i = 0; i < tr->n; i++)
        if (level - tr->log_sigma[i] >= 0.0f) low = i;
    if (low > tr->n - 2) low = tr->n - 2;
    float a = tr->log_sigma[low], b = tr->log_sigma[low + 1];
    float w = (a - level) / (a - b);
    w = w < 0.0f ? 0.0f : w > 1.0f ? 1.0f : w;
    return (double)((1.0f - w) * (float)low + w * (float)(low + 1));
}

static bool reshaped(const solver_config *c)
{
    return c->karras || c->exponential || c->beta || c->lu;
}

/* The chosen spread of n levels between max and min: Karras (rho 7, arXiv 2206.00364 eq. 5),
 * exponential, beta (arXiv 2407.12173) or uniform in the given logarithms (lu). */
static void spread(const solver_config *c, double max, double min, int n, double *out)
{
    /* LMS's own Karras conversion looks at neither. */
    bool bounds = !(c->kind == SOLVER_LMS && c->karras) && !c->lu;
    if (bounds && c->sigma_max.set) max = c->sigma_max.value;
    if (bounds && c->sigma_min.set) min = c->sigma_min.value;
    double high = pow(max, 1.0 / 7.0), low = pow(min, 1.0 / 7.0);
    for (int i = 0; i < n; i++) {
        double ramp = linspace(0.0, 1.0, n, i);
        if (c->karras)
            out[i] = pow(high + ramp * (low - high), 7.0);
        else if (c->exponential)
            out[i] = exp(linspace(log(max), log(min), n, i));
        else if (c->beta)
            out[i] = min + solver_beta_ppf(1.0 - ramp, 0.6) * (max - min);
        else
            out[i] = exp(max + ramp * (min - max));
    }
}

/* ---------------------------------------------------------------- the result */

/* Copies timesteps and levels (with the last one already appended) into s, levels rounded to f32.
 */
static an_status keep(an_solver *s, list t, const double *levels, int level_count, an_error *err)
{
    s->calls = t.n;
    s->timesteps = malloc((size_t)t.n * sizeof(double));
    if (!s->timesteps) return an_fail(err, AN_NO_MEMORY, "no memory for %d timesteps", t.n);
    memcpy(s->timesteps, t.v, (size_t)t.n * sizeof(double));
    if (!level_count) return AN_OK;
    s->s = malloc((size_t)level_count * sizeof(double));
    s->sigmas = malloc((size_t)level_count * sizeof(double));
    if (!s->s || !s->sigmas)
        return an_fail(err, AN_NO_MEMORY, "no memory for %d noise levels", level_count);
    for (int i = 0; i < level_count; i++) s->s[i] = s->sigmas[i] = (double)(float)levels[i];
    s->level_count = s->sigma_count = level_count;
    if (level_count > t.n) return AN_OK;
    return an_fail(err, AN_INVALID, "%s: %d noise levels for %d timesteps at %d steps",
                   solver_class_name(s->cfg.kind), level_count, t.n, s->steps);
}

/* ---------------------------------------------------------------- DDPM, DDIM, PNDM */

static an_status too_many_steps(const an_solver *s, int limit, const char *what, an_error *err)
{
    return an_fail_param(err, AN_INVALID, "steps", "%s takes at most %d steps (%s), not %d",
                         solver_class_name(s->cfg.kind), limit, what, s->steps);
}

/* PLMS repeats the second timestep; PRK walks the first three intervals with four calls each. */
static list pndm_timesteps(const an_solver *s, list t, double *room)
{
    list out = {room, 0};
    int half = s->cfg.num_train_timesteps / s->steps / 2;
    if (s->cfg.skip_prk_steps) {
        for (int i = 0; i < t.n; i++) {
            out.v[out.n++] = t.v[i];
            if (i == 1) out.v[out.n++] = t.v[i];
        }
        return out;
    }
    for (int i = 0; i < 3; i++) {
        double middle = t.v[i + 1] + half;
        double quad[4] = {t.v[i], middle, middle, t.v[i + 1]};
        for (int k = 0; k < 4; k++) out.v[out.n++] = quad[k];
    }
    for (int i = 3; i < t.n; i++) out.v[out.n++] = t.v[i];
    return out;
}

static an_status alpha_schedule(an_solver *s, double *room, an_error *err)
{
    const solver_config *c = &s->cfg;
    int train = c->num_train_timesteps;
    if (s->steps > train) return too_many_steps(s, train, "num_train_timesteps", err);
    list t = spaced_points(s, true, room);
    if (c->kind == SOLVER_PNDM) {
        if (!c->skip_prk_steps && t.n < 4)
            return an_fail_param(err, AN_INVALID, "steps",
                                 "PNDMScheduler without skip_prk_steps needs 4 steps or more");
        t = pndm_timesteps(s, t, room + s->steps + 1);
    }
    for (int i = 0; i < t.n; i++)
        if (t.v[i] >= train || t.v[i] < -1)
            return an_fail_param(err, AN_INVALID, "steps",
                                 "%d steps with steps_offset %d ask for timestep %g, but the last "
                                 "is %d",
                                 s->steps, c->steps_offset, t.v[i], train - 1);
    return keep(s, t, NULL, 0, err);
}

/* ---------------------------------------------------------------- LCM, TCD */

static an_status consistency_schedule(an_solver *s, double *room, an_error *err)
{
    const solver_config *c = &s->cfg;
    int original = c->original_steps, n = s->steps;
    if (original > c->num_train_timesteps)
        return an_fail_param(err, AN_INVALID, "original_inference_steps",
                             "original_inference_steps %d exceeds num_train_timesteps %d", original,
                             c->num_train_timesteps);
    if (n > original) return too_many_steps(s, original, "original_inference_steps", err);
    int k = c->num_train_timesteps / original;
    list t = {room, n};
    for (int i = 0; i < n; i++) {
        /* np.linspace(0, original, n, endpoint=False) */
        int skip = (int)floor((double)i * ((double)original / n));
        t.v[i] = (original - skip) * k - 1;
    }
    return keep(s, t, NULL, 0, err);
}

/* ---------------------------------------------------------------- LMS, Euler, Heun, KDPM2 */

/* Heun visits every inner level twice, KDPM2 also the last. Timesteps: Heun doubles them, KDPM2
 * puts the interpolated level's between. sigmas: as diffusers lists them. */
static an_status two_call_schedule(an_solver *s, const training *tr, an_error *err)
{
    int n = s->calls, levels = s->level_count;
    bool kdpm = s->cfg.kind != SOLVER_HEUN, ancestral = s->cfg.kind == SOLVER_KDPM2_A;
    double *timesteps = malloc((size_t)(2 * n) * sizeof(double));
    double *sigmas = malloc((size_t)(2 * levels) * sizeof(double));
    s->mid = calloc((size_t)levels, sizeof(double));
    if (!timesteps || !sigmas || !s->mid) {
        free(timesteps);
        free(sigmas);
        return an_fail(err, AN_NO_MEMORY, "no memory for %d timesteps", 2 * n);
    }
    /* mid[i] lies between levels i and i + 1, geometrically (ancestral: and the level it steps
     * down to); 0 where the next is 0. */
    for (int i = 0; kdpm && i + 2 < levels; i++) {
        double from = s->s[i], down = s->s[i + 1], up;
        if (ancestral) solver_ancestral(from, down, &down, &up);
        float a = logf((float)from), b = logf((float)down);
        s->mid[i] = (double)expf(ancestral ? b - (b - a) * 0.5f : a - (a - b) * 0.5f);
    }
    int k = 0;
    for (int i = 0; i < n; i++) {
        if (i) {
            timesteps[k] = kdpm ? timestep_of_f32(tr, (float)s->mid[i - 1]) : s->timesteps[i];
            k++;
        }
        timesteps[k++] = s->timesteps[i];
    }
    int count = 0;
    for (int i = 0; i < levels; i++) {
        bool twice = kdpm ? i > 0 : i > 0 && i < levels - 1;
        sigmas[count++] = s->s[i];
        if (twice) sigmas[count++] = s->s[i];
    }
    if (kdpm) sigmas[count++] = s->s[levels - 1];
    free(s->timesteps);
    free(s->sigmas);
    s->timesteps = timesteps;
    s->sigmas = sigmas;
    s->calls = k;
    s->sigma_count = count;
    return AN_OK;
}

static an_status sigma_schedule(an_solver *s, double *room, an_error *err)
{
    const solver_config *c = &s->cfg;
    training tr;
    if (!training_make(s, &tr)) return an_fail(err, AN_NO_MEMORY, "no memory for a noise table");
    int n = s->steps;
    list t = spaced_points(s, false, room);
    double *levels = room + n + 1;
    int count = t.n;
    for (int i = 0; i < t.n; i++) levels[i] = sigma_at(&tr, t.v[i]);
    if (c->log_linear) {
        float high = tr.log_sigma[tr.n - 1], low = tr.log_sigma[0];
        float step = (low - high) / (float)n;
        count = n + 1;
        for (int i = 0; i < count; i++)
            levels[i] =
                (double)expf(i < count / 2 ? high + step * (float)i : low - step * (float)(n - i));
    }
    if (reshaped(c)) {
        bool rounded = c->karras && (c->kind == SOLVER_KDPM2 || c->kind == SOLVER_KDPM2_A);
        spread(c, levels[0], levels[count - 1], n, levels);
        t.n = count = n;
        for (int i = 0; i < n; i++) {
            t.v[i] = timestep_of(&tr, levels[i]);
            if (rounded) t.v[i] = rint(t.v[i]);
        }
    }
    levels[count++] = c->final_sigmas == FINAL_SIGMA_MIN ? (double)tr.sigma[0] : 0.0;
    if (c->continuous && c->prediction_type == PREDICT_V)
        for (int i = 0; i < t.n; i++) t.v[i] = (double)(0.25f * logf((float)levels[i]));
    an_status st = keep(s, t, levels, count, err);
    if (st == AN_OK &&
        (c->kind == SOLVER_HEUN || c->kind == SOLVER_KDPM2 || c->kind == SOLVER_KDPM2_A))
        st = two_call_schedule(s, &tr, err);
    free(tr.sigma);
    if (st != AN_OK) return st;
    double max = 0.0;
    for (int i = 0; i < s->level_count; i++) max = s->s[i] > max ? s->s[i] : max;
    s->init_noise_sigma = c->timestep_spacing == SPACING_LEADING ? sqrt(max * max + 1.0) : max;
    return AN_OK;
}

/* ---------------------------------------------------------------- DPM family */

/* How many of the noisiest timesteps lie below lambda_min_clipped (log alpha / sigma). */
static int clipped_timesteps(const an_solver *s)
{
    int n = s->cfg.num_train_timesteps, clipped = 0;
    for (int i = n - 1; i >= 0; i--) {
        float a = s->alphas_cumprod[i];
        float lambda = logf(sqrtf(a)) - logf(sqrtf(1.0f - a));
        if (!((double)lambda < s->cfg.lambda_min_clipped)) break;
        clipped++;
    }
    return clipped;
}

/* exp(mu) / (exp(mu) + 1 / t - 1), or with mu itself for exp(mu): FLUX's time shift. */
static double time_shift(const solver_config *c, double t)
{
    double m = c->linear_time_shift ? c->mu.value : exp(c->mu.value);
    return m / (m + (1.0 / t - 1.0));
}

/* Stretches levels so that the last is shift_terminal. */
static void stretch_to_terminal(const solver_config *c, double *levels, int n)
{
    if (!c->shift_terminal.set || c->shift_terminal.value == 0.0) return;
    double scale = (1.0 - levels[n - 1]) / (1.0 - c->shift_terminal.value);
    for (int i = 0; i < n; i++) levels[i] = 1.0 - (1.0 - levels[i]) / scale;
}

static void dpm_flow_levels(const an_solver *s, double *levels)
{
    const solver_config *c = &s->cfg;
    int n = s->steps;
    double lowest = 1.0 / c->num_train_timesteps;
    bool unipc = c->kind == SOLVER_UNIPC;
    double shift = c->dynamic_shifting && c->mu.set ? exp(c->mu.value) : c->flow_shift;
    for (int i = 0; i < n; i++) {
        double v =
            unipc ? linspace(1.0, lowest, n + 1, i) : 1.0 - linspace(1.0, lowest, n + 1, n - i);
        levels[i] =
            unipc && c->dynamic_shifting ? time_shift(c, v) : shift * v / (1.0 + (shift - 1.0) * v);
    }
    if (!unipc) return;
    stretch_to_terminal(c, levels, n);
    if (fabs(levels[0] - 1.0) < 1e-6) levels[0] -= 1e-6; /* alpha must not be 0 */
}

/* The last level. UniPC and DEIS repeat the lowest of a reshaped spread, the others take the
 * training's lowest. */
static double dpm_last_level(const solver_config *c, const training *tr, const double *levels,
                             int n)
{
    bool deis = c->kind == SOLVER_DEIS;
    bool repeats = (deis || c->kind == SOLVER_UNIPC) && (reshaped(c) || c->flow);
    if (c->final_sigmas == FINAL_ZERO && !deis) return 0.0;
    return repeats ? levels[n - 1] : (double)tr->sigma[0];
}

static an_status dpm_schedule(an_solver *s, double *room, an_error *err)
{
    const solver_config *c = &s->cfg;
    bool multi = c->kind == SOLVER_DPM_MULTI, single = c->kind == SOLVER_DPM_SINGLE;
    if (c->dynamic_shifting && c->kind == SOLVER_UNIPC && !c->mu.set)
        return an_fail_param(err, AN_INVALID, "mu", "use_dynamic_shifting needs mu");
    int n = s->steps, train = c->num_train_timesteps;
    int last = train - (multi || single ? clipped_timesteps(s) : 0);
    if (last < 1)
        return an_fail_param(err, AN_INVALID, "lambda_min_clipped",
                             "lambda_min_clipped %g leaves no timesteps", c->lambda_min_clipped);
    training tr;
    if (!training_make(s, &tr)) return an_fail(err, AN_NO_MEMORY, "no memory for a noise table");
    list t = spaced_intervals(s, last, room);
    double *levels = room + n + 1;
    if (reshaped(c)) {
        const float *table = c->lu ? tr.log_sigma : tr.sigma;
        spread(c, (double)table[train - 1], (double)table[0], n, levels);
        t.n = n;
        bool cosine = c->beta_schedule == BETA_COSINE && multi;
        bool flow = c->flow && c->karras && c->kind == SOLVER_UNIPC;
        for (int i = 0; i < n; i++) {
            if (flow) levels[i] = levels[i] / (levels[i] + 1.0);
            t.v[i] = flow ? levels[i] * train : timestep_of(&tr, levels[i]);
            if ((c->karras || c->lu) && !cosine && !flow) t.v[i] = rint(t.v[i]);
        }
    } else if (c->flow) {
        dpm_flow_levels(s, levels);
        t.n = n;
        for (int i = 0; i < n; i++) t.v[i] = levels[i] * train;
    } else {
        for (int i = 0; i < t.n; i++) levels[i] = sigma_at(&tr, t.v[i]);
    }
    for (int i = 0; i < t.n; i++) t.v[i] = trunc(t.v[i]); /* the tensor is int64 */
    levels[t.n] = dpm_last_level(c, &tr, levels, t.n);
    free(tr.sigma);
    return keep(s, t, levels, t.n + 1, err);
}

/* ---------------------------------------------------------------- flow matching */

static an_status flow_mu(solver_config *c, an_error *err)
{
    if (!c->dynamic_shifting || c->mu.set) return AN_OK;
    if (!c->image_seq_len.set)
        return an_fail_param(err, AN_INVALID, "mu",
                             "use_dynamic_shifting needs mu or image_seq_len (the number of image "
                             "tokens)");
    double span = c->max_seq_len - c->base_seq_len;
    if (span == 0.0)
        return an_fail_param(err, AN_INVALID, "max_image_seq_len",
                             "max_image_seq_len equals base_image_seq_len");
    double slope = (c->max_shift - c->base_shift) / span;
    c->mu =
        (solver_number){true, slope * (c->image_seq_len.value - c->base_seq_len) + c->base_shift};
    return AN_OK;
}

/* Without dynamic shifting diffusers shifts twice: once for sigma_min and sigma_max in __init__,
 * once here. */
static an_status flow_schedule(an_solver *s, double *room, an_error *err)
{
    solver_config *c = &s->cfg;
    an_status st = flow_mu(c, err);
    if (st != AN_OK) return st;
    int n = s->steps;
    float train = (float)c->num_train_timesteps;
    float high = 1.0f, low = 1.0f / train, shift = (float)c->shift;
    if (!c->dynamic_shifting) {
        high = shift * high / (1.0f + (float)(c->shift - 1.0) * high);
        low = shift * low / (1.0f + (float)(c->shift - 1.0) * low);
    }
    double *levels = room + n + 1;
    for (int i = 0; i < n; i++) {
        double v = linspace((double)high * c->num_train_timesteps,
                            (double)low * c->num_train_timesteps, n, i) /
                   c->num_train_timesteps;
        levels[i] =
            c->dynamic_shifting ? time_shift(c, v) : c->shift * v / (1.0 + (c->shift - 1.0) * v);
    }
    stretch_to_terminal(c, levels, n);
    if (reshaped(c)) spread(c, levels[0], levels[n - 1], n, levels);
    list t = {room, n};
    for (int i = 0; i < n; i++) {
        float level = (float)levels[i];
        if (c->invert_sigmas) level = 1.0f - level;
        levels[i] = (double)level;
        t.v[i] = (double)(level * train);
    }
    levels[n] = c->invert_sigmas ? 1.0 : 0.0;
    return keep(s, t, levels, n + 1, err);
}

an_status solver_make_schedule(an_solver *s, an_error *err)
{
    size_t n = (size_t)s->steps;
    /* timesteps (at most n + 1), then levels or PNDM's longer list (at most n + 9) */
    double *room = malloc((2 * n + 16) * sizeof(double));
    if (!room) return an_fail(err, AN_NO_MEMORY, "no memory for %d steps", s->steps);
    s->init_noise_sigma = 1.0;
    an_status st;
    switch (s->cfg.kind) {
    case SOLVER_DDPM:
    case SOLVER_DDIM:
    case SOLVER_PNDM:
        st = alpha_schedule(s, room, err);
        break;
    case SOLVER_LCM:
    case SOLVER_TCD:
        st = consistency_schedule(s, room, err);
        break;
    case SOLVER_FLOW_EULER:
        st = flow_schedule(s, room, err);
        break;
    case SOLVER_DPM_MULTI:
    case SOLVER_DPM_SINGLE:
    case SOLVER_UNIPC:
    case SOLVER_DEIS:
        st = dpm_schedule(s, room, err);
        break;
    default:
        st = sigma_schedule(s, room, err);
        break;
    }
    free(room);
    return st;
}
