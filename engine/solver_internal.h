/* solver_internal.h: what the solver files share. A solver is a checked configuration (struct
 * solver_config), the schedule made from it (timesteps, sigmas) and one table row per network call.
 * Reading order: solver_config.c (what was asked), solver_betas.c (the noise a model was trained
 * with), solver_sigmas.c (the levels a sampler visits), solver_ddim.c / solver_pndm.c /
 * solver_sigma.c / solver_dpm.c / solver_unipc.c (the step of each family), solver.c (the whole).
 */
#ifndef ANNEAL_SOLVER_INTERNAL_H
#define ANNEAL_SOLVER_INTERNAL_H

#include "anneal/solver.h"

typedef enum solver_class {
    SOLVER_DDPM,
    SOLVER_DDIM,
    SOLVER_PNDM,
    SOLVER_LMS,
    SOLVER_EULER,
    SOLVER_EULER_A,
    SOLVER_HEUN,
    SOLVER_KDPM2,
    SOLVER_KDPM2_A,
    SOLVER_DPM_MULTI,
    SOLVER_DPM_SINGLE,
    SOLVER_UNIPC,
    SOLVER_DEIS,
    SOLVER_LCM,
    SOLVER_TCD,
    SOLVER_FLOW_EULER,
    SOLVER_CLASSES
} solver_class;

/* Each enum follows the order of its list of words in solver_config.c. */
enum { BETA_LINEAR, BETA_SCALED_LINEAR, BETA_COSINE, BETA_LAPLACE, BETA_SIGMOID, BETA_EXP };
enum { PREDICT_EPSILON, PREDICT_SAMPLE, PREDICT_ORIGINAL, PREDICT_V, PREDICT_FLOW };
enum { SPACING_LINSPACE, SPACING_LEADING, SPACING_TRAILING };
enum { FINAL_ZERO, FINAL_SIGMA_MIN };
enum {
    VARIANCE_NONE,
    VARIANCE_SMALL,
    VARIANCE_SMALL_LOG,
    VARIANCE_LARGE,
    VARIANCE_LARGE_LOG,
    VARIANCE_LEARNED,
    VARIANCE_LEARNED_RANGE
};
enum { ALGORITHM_DPM, ALGORITHM_DPMPP, ALGORITHM_SDE_DPM, ALGORITHM_SDE_DPMPP, ALGORITHM_DEIS };
enum { TYPE_MIDPOINT, TYPE_HEUN, TYPE_LOGRHO, TYPE_BH1, TYPE_BH2 };

/* A number that may be absent (JSON null). */
typedef struct solver_number {
    bool set;
    double value;
} solver_number;

/* Field names are diffusers' config keys where those are short enough to read. */
typedef struct solver_config {
    solver_class kind;
    int num_train_timesteps;
    double beta_start, beta_end;
    int beta_schedule;
    double *trained_betas; /* [num_train_timesteps], owned, or NULL */
    bool rescale_betas_zero_snr;

    int prediction_type;
    bool clip_sample, thresholding;
    double clip_sample_range, threshold_ratio, sample_max_value;

    int timestep_spacing, steps_offset;
    bool karras, exponential, beta, lu, flow; /* use_*_sigmas, use_lu_lambdas */
    solver_number sigma_min, sigma_max;
    int final_sigmas; /* FINAL_* */
    bool log_linear, continuous;
    double lambda_min_clipped;

    int solver_order, algorithm, solver_type;
    bool lower_order_final, euler_at_final, predict_x0;
    bool *disable_corrector; /* [disable_count], owned, or NULL */
    int disable_count;

    bool set_alpha_to_one, skip_prk_steps;
    int variance_type;
    double eta;
    int original_steps;
    double timestep_scaling;

    double shift, flow_shift; /* FlowMatchEuler's and the DPM family's names for the same thing */
    bool dynamic_shifting, linear_time_shift, invert_sigmas, stochastic;
    solver_number mu, shift_terminal, image_seq_len;
    double base_shift, max_shift;
    int base_seq_len, max_seq_len;
} solver_config;

struct an_solver {
    solver_config cfg;
    int steps; /* num_inference_steps */
    int calls;
    double *timesteps; /* [calls] */
    double *sigmas;    /* [sigma_count], as diffusers holds them; NULL for the alpha classes */
    int sigma_count;
    double init_noise_sigma;

    float *alphas_cumprod; /* [num_train_timesteps]; NULL for flow matching */
    double final_alpha;    /* alpha-bar past the last step (set_alpha_to_one) */
    double *s;   /* [level_count] noise levels, one per step plus the last (not doubled) */
    double *mid; /* [level_count] KDPM2's interpolated levels, else NULL */
    int level_count;
    int *order_list; /* [calls] DPMSolverSinglestep's orders, else NULL */
    an_step *table;  /* [calls] */
};

/* an_step in double, before it is rounded once to f32. */
typedef struct solver_coef {
    double in_scale, timestep, dx, dm, clip, threshold, threshold_max;
    bool push, save, noise;
    double out[AN_TERMS], keep[AN_TERMS];
    double sigma_next, x0_x, x0_m;
} solver_coef;

/* One noise level in all its forms: x = alpha x0 + sigma eps, lambda = log(alpha / sigma). */
typedef struct solver_level {
    double alpha, sigma, lambda;
} solver_level;

/* x * sample + m * network output */
typedef struct solver_mix {
    double x, m;
} solver_mix;

/* ---- solver_config.c */
const char *solver_class_name(solver_class kind);
/* -1 for a name that is none of ours. */
int solver_class_find(const char *name);
/* The classes that know a config key, as "A, B, C" (for messages). */
void solver_classes_with(const char *key, an_buf *out);
bool solver_class_knows(solver_class kind, const char *key);
const char *solver_prediction_name(int prediction);
an_status solver_config_read(const struct json_t *base, const struct json_t *overrides,
                             solver_config *out, an_error *err);
void solver_config_free(solver_config *cfg);

/* ---- solver_betas.c */
/* alphas_cumprod [num_train_timesteps], in f32 as torch computes it. */
void solver_alphas_cumprod(const solver_config *cfg, float *out);
/* sqrt((1 - a) / a) in f32, as numpy and torch compute it */
float solver_sigma_of_alpha(float alpha_cumprod);
/* x with I_x(a, a) = p: scipy.stats.beta.ppf(p, a, a) */
double solver_beta_ppf(double p, double a);

/* ---- solver_sigmas.c */
/* Fills timesteps, sigmas, levels and calls of s. */
an_status solver_make_schedule(an_solver *s, an_error *err);

/* ---- the families: coefficients of call i, into a zeroed *c */
void solver_step_ddpm(const an_solver *s, int i, solver_coef *c);
void solver_step_ddim(const an_solver *s, int i, solver_coef *c);
void solver_step_lcm(const an_solver *s, int i, solver_coef *c);
void solver_step_tcd(const an_solver *s, int i, solver_coef *c);
void solver_step_pndm(const an_solver *s, int i, solver_coef *c);
void solver_step_euler(const an_solver *s, int i, solver_coef *c); /* and Euler a */
void solver_step_lms(const an_solver *s, int i, solver_coef *c);
void solver_step_heun(const an_solver *s, int i, solver_coef *c);
void solver_step_kdpm2(const an_solver *s, int i, solver_coef *c); /* and KDPM2 a */
void solver_step_flow(const an_solver *s, int i, solver_coef *c);
void solver_step_dpm_multi(const an_solver *s, int i, solver_coef *c);
void solver_step_dpm_single(const an_solver *s, int i, solver_coef *c);
void solver_step_deis(const an_solver *s, int i, solver_coef *c);
void solver_step_unipc(const an_solver *s, int i, solver_coef *c);

/* An ancestral step from sigma `from` to `to`: down to *down, then noise of *up on top. */
void solver_ancestral(double from, double to, double *down, double *up);

/* The orders of DPMSolverSinglestep's calls (get_order_list), into orders[steps]. */
void solver_single_orders(const solver_config *cfg, int steps, int *orders);

/* ---- shared by the families (solver.c) */
/* alpha-bar of an integer timestep; Python's negative index for -1, final_alpha when past is set.
 */
double solver_alpha(const an_solver *s, int t);
double solver_alpha_prev(const an_solver *s, int t);
/* Level i of the DPM family. */
solver_level solver_level_at(const an_solver *s, int i);
/* A sample at x = alpha * x0 + sigma * eps: its x0 and its eps. */
solver_mix solver_x0(int prediction, double alpha, double sigma);
solver_mix solver_eps(int prediction, double alpha, double sigma);
/* d = mix, clipped or thresholded as the configuration says */
void solver_set_d(const an_solver *s, solver_coef *c, solver_mix mix);
void solver_set_x0(solver_coef *c, solver_mix mix);
/* keep x itself as the saved sample */
void solver_save_x(solver_coef *c);

#endif
