/* solver_config.c: from scheduler_config.json and a request's overrides to one checked struct. One
 * table says which class knows which key, of which type, and where its value goes; values a class
 * cannot use are refused here by name, so that the arithmetic behind need not ask again. */
#include "solver_internal.h"

#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- the table of keys */

#define BIT(kind) (1u << SOLVER_##kind)
enum {
    ALL = (1u << SOLVER_CLASSES) - 1u,
    BETAS = ALL & ~BIT(FLOW_EULER),
    CONSISTENCY = BIT(LCM) | BIT(TCD),
    KDPM = BIT(KDPM2) | BIT(KDPM2_A),
    DPM = BIT(DPM_MULTI) | BIT(DPM_SINGLE) | BIT(UNIPC) | BIT(DEIS),
    SIGMAS = BIT(LMS) | BIT(EULER) | BIT(HEUN) | KDPM | DPM | BIT(FLOW_EULER),
    SPACED =
        BETAS & ~(BIT(DPM_SINGLE) | BIT(LCM) | BIT(TCD)), /* LCM and TCD list it and ignore it */
    ZERO_SNR = BIT(DDPM) | BIT(DDIM) | BIT(EULER) | BIT(EULER_A) | BIT(DPM_MULTI) | BIT(UNIPC) |
               CONSISTENCY,
    THRESHOLD = BIT(DDPM) | BIT(DDIM) | CONSISTENCY | DPM,
    CLIP = BIT(DDPM) | BIT(DDIM) | BIT(HEUN) | CONSISTENCY,
};

typedef enum { KEY_INT, KEY_NUMBER, KEY_OPTIONAL, KEY_BOOL, KEY_WORD } key_type;

typedef struct key_def {
    const char *name;
    key_type type;
    size_t offset;
    unsigned classes;
    const char *const *words; /* KEY_WORD: what it may say, the index is the value */
    double min, max;          /* KEY_INT, KEY_NUMBER, KEY_OPTIONAL */
} key_def;

static const char *const beta_words[] = {
    "linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid", "exp", NULL};
static const char *const prediction_words[] = {"epsilon",      "sample",          "original_sample",
                                               "v_prediction", "flow_prediction", NULL};
static const char *const spacing_words[] = {"linspace", "leading", "trailing", NULL};
static const char *const final_words[] = {"zero", "sigma_min", NULL};
static const char *const variance_words[] = {
    "none",          "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned",
    "learned_range", NULL};
static const char *const algorithm_words[] = {"dpmsolver",       "dpmsolver++", "sde-dpmsolver",
                                              "sde-dpmsolver++", "deis",        NULL};
static const char *const type_words[] = {"midpoint", "heun", "logrho", "bh1", "bh2", NULL};
/* These select a bool: the second word is true. */
static const char *const interpolation_words[] = {"linear", "log_linear", NULL};
static const char *const timestep_type_words[] = {"discrete", "continuous", NULL};
static const char *const time_shift_words[] = {"exponential", "linear", NULL};

#define AT(field) offsetof(solver_config, field)
#define BOOL_KEY(key, field, classes)                                                              \
    {                                                                                              \
        key, KEY_BOOL, AT(field), classes, NULL, 0, 0                                              \
    }
#define WORD_KEY(key, field, classes, words)                                                       \
    {                                                                                              \
        key, KEY_WORD, AT(field), classes, words, 0, 0                                             \
    }

/* sigma_min and sigma_max are read by every class that has Karras-like sigmas: diffusers keeps keys
 * a class does not know as hidden attributes of its config, and looks these two up there. */
static const key_def keys[] = {
    {"num_train_timesteps", KEY_INT, AT(num_train_timesteps), ALL, NULL, 2, 10000},
    {"beta_start", KEY_NUMBER, AT(beta_start), BETAS, NULL, 0, 1},
    {"beta_end", KEY_NUMBER, AT(beta_end), BETAS, NULL, 0, 1},
    WORD_KEY("beta_schedule", beta_schedule, BETAS, beta_words),
    BOOL_KEY("rescale_betas_zero_snr", rescale_betas_zero_snr, ZERO_SNR),
    WORD_KEY("prediction_type", prediction_type, BETAS, prediction_words),
    BOOL_KEY("clip_sample", clip_sample, CLIP),
    {"clip_sample_range", KEY_NUMBER, AT(clip_sample_range), CLIP, NULL, 1e-6, 1e6},
    BOOL_KEY("thresholding", thresholding, THRESHOLD),
    {"dynamic_thresholding_ratio", KEY_NUMBER, AT(threshold_ratio), THRESHOLD, NULL, 1e-6, 1},
    {"sample_max_value", KEY_NUMBER, AT(sample_max_value), THRESHOLD, NULL, 1e-6, 1e6},
    WORD_KEY("timestep_spacing", timestep_spacing, SPACED, spacing_words),
    {"steps_offset", KEY_INT, AT(steps_offset), SPACED, NULL, -10000, 10000},
    BOOL_KEY("use_karras_sigmas", karras, SIGMAS),
    BOOL_KEY("use_exponential_sigmas", exponential, SIGMAS),
    BOOL_KEY("use_beta_sigmas", beta, SIGMAS),
    BOOL_KEY("use_lu_lambdas", lu, BIT(DPM_MULTI)),
    BOOL_KEY("use_flow_sigmas", flow, DPM),
    {"sigma_min", KEY_OPTIONAL, AT(sigma_min), SIGMAS, NULL, 1e-10, 1e6},
    {"sigma_max", KEY_OPTIONAL, AT(sigma_max), SIGMAS, NULL, 1e-10, 1e6},
    WORD_KEY("final_sigmas_type", final_sigmas,
             BIT(EULER) | BIT(DPM_MULTI) | BIT(DPM_SINGLE) | BIT(UNIPC), final_words),
    WORD_KEY("interpolation_type", log_linear, BIT(EULER), interpolation_words),
    WORD_KEY("timestep_type", continuous, BIT(EULER), timestep_type_words),
    {"lambda_min_clipped", KEY_NUMBER, AT(lambda_min_clipped), BIT(DPM_MULTI) | BIT(DPM_SINGLE),
     NULL, -DBL_MAX, 1e6},
    {"solver_order", KEY_INT, AT(solver_order), DPM, NULL, 1, 3},
    WORD_KEY("algorithm_type", algorithm, DPM & ~BIT(UNIPC), algorithm_words),
    WORD_KEY("solver_type", solver_type, DPM, type_words),
    BOOL_KEY("lower_order_final", lower_order_final, DPM),
    BOOL_KEY("euler_at_final", euler_at_final, BIT(DPM_MULTI)),
    BOOL_KEY("predict_x0", predict_x0, BIT(UNIPC)),
    BOOL_KEY("set_alpha_to_one", set_alpha_to_one, BIT(DDIM) | BIT(PNDM) | CONSISTENCY),
    BOOL_KEY("skip_prk_steps", skip_prk_steps, BIT(PNDM)),
    WORD_KEY("variance_type", variance_type, BIT(DDPM) | BIT(DPM_MULTI) | BIT(DPM_SINGLE),
             variance_words),
    {"eta", KEY_NUMBER, AT(eta), BIT(DDIM) | BIT(TCD), NULL, 0, 1},
    {"original_inference_steps", KEY_INT, AT(original_steps), CONSISTENCY, NULL, 1, 10000},
    {"timestep_scaling", KEY_NUMBER, AT(timestep_scaling), CONSISTENCY, NULL, 0, 1e6},
    {"shift", KEY_NUMBER, AT(shift), BIT(FLOW_EULER), NULL, 1e-6, 1e6},
    {"flow_shift", KEY_NUMBER, AT(flow_shift), DPM, NULL, 1e-6, 1e6},
    BOOL_KEY("use_dynamic_shifting", dynamic_shifting, DPM | BIT(FLOW_EULER)),
    WORD_KEY("time_shift_type", linear_time_shift, DPM | BIT(FLOW_EULER), time_shift_words),
    {"mu", KEY_OPTIONAL, AT(mu), DPM | BIT(FLOW_EULER), NULL, -50, 50},
    {"image_seq_len", KEY_OPTIONAL, AT(image_seq_len), BIT(FLOW_EULER), NULL, 1, 1e9},
    {"shift_terminal", KEY_OPTIONAL, AT(shift_terminal), BIT(UNIPC) | BIT(FLOW_EULER), NULL, 0,
     0.999},
    BOOL_KEY("invert_sigmas", invert_sigmas, BIT(FLOW_EULER)),
    BOOL_KEY("stochastic_sampling", stochastic, BIT(FLOW_EULER)),
    {"base_shift", KEY_NUMBER, AT(base_shift), BIT(FLOW_EULER), NULL, -50, 50},
    {"max_shift", KEY_NUMBER, AT(max_shift), BIT(FLOW_EULER), NULL, -50, 50},
    {"base_image_seq_len", KEY_INT, AT(base_seq_len), BIT(FLOW_EULER), NULL, 1, 1e9},
    {"max_image_seq_len", KEY_INT, AT(max_seq_len), BIT(FLOW_EULER), NULL, 1, 1e9},
};
enum { KEYS = sizeof keys / sizeof keys[0] };

static const char *const class_names[SOLVER_CLASSES] = {
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "FlowMatchEulerDiscreteScheduler",
};

const char *solver_class_name(solver_class kind)
{
    return class_names[kind];
}

int solver_class_find(const char *name)
{
    for (int i = 0; i < SOLVER_CLASSES; i++)
        if (strcmp(name, class_names[i]) == 0) return i;
    return -1;
}

static const key_def *find_key(const char *name)
{
    for (int i = 0; i < KEYS; i++)
        if (strcmp(keys[i].name, name) == 0) return &keys[i];
    return NULL;
}

bool solver_class_knows(solver_class kind, const char *key)
{
    const key_def *k = find_key(key);
    return k && (k->classes >> kind & 1u);
}

void solver_classes_with(const char *key, an_buf *out)
{
    for (int i = 0; i < SOLVER_CLASSES; i++)
        if (solver_class_knows((solver_class)i, key))
            an_buf_printf(out, "%s%s", out->len ? ", " : "", class_names[i]);
}

const char *solver_prediction_name(int prediction)
{
    return prediction_words[prediction == PREDICT_ORIGINAL ? PREDICT_SAMPLE : prediction];
}

/* ---------------------------------------------------------------- defaults */

static void set_defaults(solver_config *c, solver_class kind)
{
    unsigned bit = 1u << kind;
    bool k_diffusion = bit & (BIT(HEUN) | KDPM | CONSISTENCY);
    *c = (solver_config){
        .kind = kind,
        .num_train_timesteps = 1000,
        .beta_start = k_diffusion ? 0.00085 : 0.0001,
        .beta_end = k_diffusion ? 0.012 : 0.02,
        .beta_schedule = bit & CONSISTENCY ? BETA_SCALED_LINEAR : BETA_LINEAR,
        .prediction_type = kind == SOLVER_FLOW_EULER ? PREDICT_FLOW : PREDICT_EPSILON,
        .clip_sample = kind == SOLVER_DDPM || kind == SOLVER_DDIM,
        .clip_sample_range = 1.0,
        .threshold_ratio = 0.995,
        .sample_max_value = 1.0,
        .timestep_spacing = bit & (BIT(DDPM) | BIT(DDIM) | BIT(PNDM) | CONSISTENCY)
                                ? SPACING_LEADING
                                : SPACING_LINSPACE,
        .lambda_min_clipped = -DBL_MAX,
        .solver_order = 2,
        .algorithm = kind == SOLVER_DEIS ? ALGORITHM_DEIS : ALGORITHM_DPMPP,
        .solver_type = kind == SOLVER_DEIS    ? TYPE_LOGRHO
                       : kind == SOLVER_UNIPC ? TYPE_BH2
                                              : TYPE_MIDPOINT,
        .lower_order_final = kind != SOLVER_DPM_SINGLE,
        .predict_x0 = true,
        .set_alpha_to_one = kind != SOLVER_PNDM,
        .variance_type = kind == SOLVER_DDPM ? VARIANCE_SMALL : VARIANCE_NONE,
        .eta = kind == SOLVER_TCD ? 0.3 : 0.0, /* the defaults of their step() */
        .original_steps = 50,
        .timestep_scaling = 10.0,
        .shift = 1.0,
        .flow_shift = 1.0,
        .base_shift = 0.5,
        .max_shift = 1.15,
        .base_seq_len = 256,
        .max_seq_len = 4096,
    };
}

/* ---------------------------------------------------------------- reading values */

static an_status wrong_type(const key_def *k, const json_t *v, const char *want, an_error *err)
{
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    return an_fail_param(err, AN_INVALID, k->name, "%s must be %s, not %s", k->name, want,
                         names[json_typeof(v)]);
}

static an_status read_word(const key_def *k, const json_t *v, void *field, an_error *err)
{
    if (!json_is_string(v)) return wrong_type(k, v, "a string", err);
    an_buf choices;
    an_buf_init(&choices, 512);
    for (int i = 0; k->words[i]; i++) {
        if (strcmp(json_string_value(v), k->words[i]) == 0) {
            bool is_bool = k->words == interpolation_words || k->words == timestep_type_words ||
                           k->words == time_shift_words;
            if (is_bool)
                *(bool *)field = i == 1;
            else
                *(int *)field = i;
            an_buf_free(&choices);
            return AN_OK;
        }
        an_buf_printf(&choices, "%s%s", i ? ", " : "", k->words[i]);
    }
    an_status st = an_fail_param(err, AN_INVALID, k->name, "%s \"%.60s\" is unknown; there are %s",
                                 k->name, json_string_value(v), choices.data ? choices.data : "");
    an_buf_free(&choices);
    return st;
}

static an_status read_number(const key_def *k, const json_t *v, void *field, an_error *err)
{
    if (!json_is_number(v)) return wrong_type(k, v, "a number", err);
    double x = json_number_value(v);
    if (!(x >= k->min && x <= k->max))
        return an_fail_param(err, AN_INVALID, k->name, "%s is %g, but must lie in %g .. %g",
                             k->name, x, k->min, k->max);
    if (k->type == KEY_INT) {
        if (x != floor(x)) return wrong_type(k, v, "a whole number", err);
        *(int *)field = (int)x;
    } else if (k->type == KEY_OPTIONAL) {
        *(solver_number *)field = (solver_number){true, x};
    } else {
        *(double *)field = x;
    }
    return AN_OK;
}

/* JSON null is Python's None: false for a flag, absent for the rest. */
static an_status read_key(const key_def *k, const json_t *v, solver_config *cfg, an_error *err)
{
    void *field = (char *)cfg + k->offset;
    if (json_is_null(v)) {
        if (k->type == KEY_BOOL) *(bool *)field = false;
        return AN_OK;
    }
    if (k->type == KEY_WORD) return read_word(k, v, field, err);
    if (k->type != KEY_BOOL) return read_number(k, v, field, err);
    if (!json_is_boolean(v)) return wrong_type(k, v, "true or false", err);
    *(bool *)field = json_is_true(v);
    return AN_OK;
}

static const json_t *lookup(const json_t *base, const json_t *overrides, const char *key)
{
    const json_t *v = json_object_get(overrides, key);
    return v ? v : json_object_get(base, key);
}

static an_status read_trained_betas(const json_t *v, solver_config *cfg, an_error *err)
{
    if (!v || json_is_null(v)) return AN_OK;
    size_t n = (size_t)cfg->num_train_timesteps;
    if (!json_is_array(v) || json_array_size(v) != n)
        return an_fail_param(err, AN_INVALID, "trained_betas",
                             "trained_betas must be an array of num_train_timesteps (%zu) numbers",
                             n);
    cfg->trained_betas = malloc(n * sizeof(double));
    if (!cfg->trained_betas) return an_fail(err, AN_NO_MEMORY, "no memory for %zu betas", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *beta = json_array_get(v, i);
        cfg->trained_betas[i] = json_number_value(beta);
        if (!json_is_number(beta) || !(cfg->trained_betas[i] > 0.0 && cfg->trained_betas[i] < 1.0))
            return an_fail_param(err, AN_INVALID, "trained_betas",
                                 "trained_betas[%zu] must be a number between 0 and 1", i);
    }
    return AN_OK;
}

/* UniPC's list of steps that go without the corrector. */
static an_status read_disable_corrector(const json_t *v, solver_config *cfg, an_error *err)
{
    enum { LIMIT = 1000 };
    if (!v || json_is_null(v) || json_array_size(v) == 0) return AN_OK;
    cfg->disable_corrector = calloc(LIMIT, sizeof(bool));
    if (!cfg->disable_corrector) return an_fail(err, AN_NO_MEMORY, "no memory for a solver");
    cfg->disable_count = LIMIT;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *step = json_array_get(v, i);
        json_int_t k = json_integer_value(step);
        if (!json_is_integer(step) || k < 0)
            return an_fail_param(err, AN_INVALID, "disable_corrector",
                                 "disable_corrector[%zu] must be the number of a step", i);
        if (k < LIMIT) cfg->disable_corrector[k] = true;
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- what a class can use */

static an_status check_prediction(const solver_config *c, an_error *err)
{
    static const unsigned allowed[] = {
        [PREDICT_EPSILON] = BETAS,
        [PREDICT_SAMPLE] = BETAS & ~(BIT(PNDM) | BIT(EULER_A) | KDPM),
        [PREDICT_ORIGINAL] = BIT(EULER),
        [PREDICT_V] = BETAS,
        [PREDICT_FLOW] = DPM | BIT(FLOW_EULER),
    };
    bool eps_solver = c->algorithm == ALGORITHM_DPM || c->algorithm == ALGORITHM_SDE_DPM;
    bool ok = allowed[c->prediction_type] >> c->kind & 1u;
    if (c->prediction_type == PREDICT_FLOW && (eps_solver || !c->predict_x0)) ok = false;
    if (ok) return AN_OK;
    return an_fail_param(err, AN_INVALID, "prediction_type", "%s cannot use prediction_type %s",
                         class_names[c->kind], prediction_words[c->prediction_type]);
}

static an_status check_betas(const solver_config *c, an_error *err)
{
    unsigned bit = 1u << c->kind;
    unsigned allowed = c->beta_schedule == BETA_EXP       ? BIT(HEUN)
                       : c->beta_schedule >= BETA_LAPLACE ? BIT(DDPM)
                                                          : BETAS;
    if (!(allowed & bit) && !c->trained_betas)
        return an_fail_param(err, AN_INVALID, "beta_schedule", "%s has no beta_schedule %s",
                             class_names[c->kind], beta_words[c->beta_schedule]);
    if (!(c->beta_start > 0.0 && c->beta_end < 1.0))
        return an_fail_param(err, AN_INVALID, "beta_start",
                             "beta_start %g and beta_end %g must lie between 0 and 1",
                             c->beta_start, c->beta_end);
    return AN_OK;
}

static an_status check_sigmas(const solver_config *c, an_error *err)
{
    if (c->karras + c->exponential + c->beta + c->lu > 1)
        return an_fail_param(err, AN_INVALID, "schedule",
                             "only one of use_karras_sigmas, use_exponential_sigmas, "
                             "use_beta_sigmas and use_lu_lambdas can be used");
    if (c->shift_terminal.set && c->kind == SOLVER_UNIPC && !c->flow)
        return an_fail_param(err, AN_INVALID, "shift_terminal",
                             "shift_terminal needs use_flow_sigmas");
    if (c->mu.set && !c->dynamic_shifting)
        return an_fail_param(err, AN_INVALID, "mu", "mu needs use_dynamic_shifting");
    bool linear_ok = c->kind == SOLVER_FLOW_EULER || c->kind == SOLVER_UNIPC;
    if (c->linear_time_shift && !linear_ok)
        return an_fail_param(err, AN_INVALID, "time_shift_type", "%s has no time_shift_type linear",
                             class_names[c->kind]);
    return AN_OK;
}

/* Names of one class mean their nearest kin in another, as diffusers maps them in __init__. */
static an_status settle_dpm(solver_config *c, an_error *err)
{
    bool deis = c->kind == SOLVER_DEIS, unipc = c->kind == SOLVER_UNIPC;
    bool sde = c->algorithm == ALGORITHM_SDE_DPM || c->algorithm == ALGORITHM_SDE_DPMPP;
    if ((deis && sde) || (c->kind == SOLVER_DPM_SINGLE && c->algorithm == ALGORITHM_SDE_DPM))
        return an_fail_param(err, AN_INVALID, "algorithm_type", "%s has no algorithm_type %s",
                             class_names[c->kind], algorithm_words[c->algorithm]);
    if (deis)
        c->algorithm = ALGORITHM_DEIS;
    else if (c->algorithm == ALGORITHM_DEIS)
        c->algorithm = ALGORITHM_DPMPP;
    if (deis)
        c->solver_type = TYPE_LOGRHO;
    else if (unipc && c->solver_type < TYPE_BH1)
        c->solver_type = TYPE_BH2;
    else if (!unipc && c->solver_type >= TYPE_LOGRHO)
        c->solver_type = TYPE_MIDPOINT;

    bool eps_solver = c->algorithm == ALGORITHM_DPM || c->algorithm == ALGORITHM_SDE_DPM;
    if (eps_solver && !unipc && c->final_sigmas == FINAL_ZERO)
        return an_fail_param(err, AN_INVALID, "final_sigmas_type",
                             "algorithm_type %s needs final_sigmas_type sigma_min, not zero",
                             algorithm_words[c->algorithm]);
    if (c->thresholding && ((eps_solver && !unipc) || deis))
        return an_fail_param(err, AN_INVALID, "thresholding",
                             "thresholding with %s needs algorithm_type dpmsolver++",
                             class_names[c->kind]);
    if (!c->predict_x0) c->thresholding = false; /* diffusers does not threshold eps */
    return AN_OK;
}

static an_status check_config(solver_config *c, an_error *err)
{
    if (c->kind != SOLVER_FLOW_EULER) {
        an_status st = check_betas(c, err);
        if (st != AN_OK) return st;
    }
    if ((1u << c->kind) & DPM) {
        an_status st = settle_dpm(c, err);
        if (st != AN_OK) return st;
    }
    an_status st = check_sigmas(c, err);
    if (st == AN_OK) st = check_prediction(c, err);
    if (st != AN_OK) return st;
    bool unusable = c->variance_type >= VARIANCE_LEARNED ||
                    (c->kind == SOLVER_DDPM && c->variance_type == VARIANCE_LARGE_LOG);
    if (unusable)
        return an_fail_param(err, AN_INVALID, "variance_type",
                             "variance_type %s is not supported; there are fixed_small, "
                             "fixed_small_log and fixed_large",
                             variance_words[c->variance_type]);
    if (c->kind == SOLVER_DDPM && c->variance_type == VARIANCE_NONE)
        c->variance_type = VARIANCE_SMALL;
    return AN_OK;
}

/* ---------------------------------------------------------------- the whole */

static an_status choose_class(const json_t *base, const json_t *overrides, solver_class *out,
                              an_error *err)
{
    const json_t *v = lookup(base, overrides, "_class_name");
    if (!json_is_string(v))
        return an_fail_param(err, AN_INVALID, "sampler",
                             "the scheduler's configuration names no class (_class_name)");
    int kind = solver_class_find(json_string_value(v));
    if (kind < 0) {
        an_buf names;
        an_buf_init(&names, 1024);
        solver_classes_with("num_train_timesteps", &names);
        an_status st =
            an_fail_param(err, AN_NOT_FOUND, "sampler", "no scheduler class %.60s; there are %s",
                          json_string_value(v), names.data ? names.data : "");
        an_buf_free(&names);
        return st;
    }
    *out = (solver_class)kind;
    return AN_OK;
}

/* A model that predicts a flow cannot be sampled as one that predicts noise, and the other way
 * round. diffusers does not notice and draws noise; a request deserves to hear it. */
static an_status check_kinship(const json_t *base, const solver_config *c, an_error *err)
{
    const char *from = json_string_value(json_object_get(base, "_class_name"));
    int kind = from ? solver_class_find(from) : -1;
    if (kind < 0) return AN_OK;
    bool base_flow =
        kind == SOLVER_FLOW_EULER || json_is_true(json_object_get(base, "use_flow_sigmas"));
    bool flow = c->kind == SOLVER_FLOW_EULER || c->flow;
    if (base_flow == flow) return AN_OK;
    return an_fail_param(err, AN_INVALID, "sampler",
                         base_flow ? "the model is a flow-matching model (%s): %s cannot sample "
                                     "it; FlowMatchEulerDiscreteScheduler can"
                                   : "the model is not a flow-matching model (%s): %s cannot "
                                     "sample it",
                         from, class_names[c->kind]);
}

/* An explicit wish that the class would silently ignore is refused: the answer would not be what
 * was asked for. */
static an_status check_wishes(const json_t *overrides, const solver_config *c, an_error *err)
{
    static const char *const wishes[] = {"use_karras_sigmas", "use_exponential_sigmas",
                                         "use_beta_sigmas", "use_lu_lambdas", "timestep_spacing"};
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0]; i++) {
        const json_t *v = json_object_get(overrides, wishes[i]);
        bool wished = json_is_true(v) || json_is_string(v);
        if (!wished || solver_class_knows(c->kind, wishes[i])) continue;
        an_buf names;
        an_buf_init(&names, 1024);
        solver_classes_with(wishes[i], &names);
        an_status st = an_fail_param(err, AN_INVALID, i == 4 ? "timestep_spacing" : "schedule",
                                     "%s has no %s; these classes have: %s", class_names[c->kind],
                                     wishes[i], names.data ? names.data : "");
        an_buf_free(&names);
        return st;
    }
    return AN_OK;
}

an_status solver_config_read(const json_t *base, const json_t *overrides, solver_config *out,
                             an_error *err)
{
    memset(out, 0, sizeof *out);
    solver_class kind = SOLVER_DDPM;
    an_status st = choose_class(base, overrides, &kind, err);
    if (st != AN_OK) return st;
    set_defaults(out, kind);
    for (int i = 0; i < KEYS; i++) {
        const json_t *v = lookup(base, overrides, keys[i].name);
        if (!v || !(keys[i].classes >> kind & 1u)) continue;
        st = read_key(&keys[i], v, out, err);
        if (st != AN_OK) return st;
    }
    if ((1u << kind) & BETAS)
        st = read_trained_betas(lookup(base, overrides, "trained_betas"), out, err);
    if (st == AN_OK && kind == SOLVER_UNIPC) {
        const json_t *solver_p = lookup(base, overrides, "solver_p");
        if (solver_p && !json_is_null(solver_p))
            return an_fail_param(err, AN_INVALID, "solver_p", "solver_p is not supported");
        st = read_disable_corrector(lookup(base, overrides, "disable_corrector"), out, err);
    }
    if (st == AN_OK) st = check_wishes(overrides, out, err);
    if (st == AN_OK) st = check_config(out, err);
    if (st == AN_OK) st = check_kinship(base, out, err);
    return st;
}

void solver_config_free(solver_config *cfg)
{
    free(cfg->trained_betas);
    free(cfg->disable_corrector);
    cfg->trained_betas = NULL;
    cfg->disable_corrector = NULL;
}
