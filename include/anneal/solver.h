/* solver.h: diffusion schedules and steps as host math. On one side a scheduler_config.json and a
 * sampler name, on the other timesteps, sigmas and, for every network call, the coefficients of one
 * universal update that any backend can apply to a batch of mixed samplers. No tensors, no device.
 * Semantics are those of diffusers (src/diffusers/schedulers). */
#ifndef ANNEAL_SOLVER_H
#define ANNEAL_SOLVER_H

#include "anneal/base.h"
#include "anneal/step.h" /* an_step: one call's coefficients */

struct json_t;

/* ---------------------------------------------------------------- names */

/* Resolves a diffusers class ("EulerDiscreteScheduler"), a k-diffusion name ("dpmpp_2m") or an
 * A1111 label ("DPM++ 2M Karras", case-insensitive) to its class and the config it implies (e.g.
 * use_karras_sigmas, algorithm_type, solver_order). schedule (may be NULL): "karras",
 * "exponential", "beta", "lu", "normal"/"default", "automatic", ... also A1111's labels. The JSON
 * (new reference) holds "_class_name" and the implied overrides. AN_NOT_FOUND lists what there is;
 * err->param is "sampler" or "schedule". */
an_status an_sampler_resolve(const char *name, const char *schedule, struct json_t **overrides,
                             an_error *err);
/* One row of the table of names, for /sdapi/v1/samplers and messages; NULL past the end. */
typedef struct an_sampler_name {
    const char *label;          /* A1111 label: "DPM++ 2M" */
    const char *class_name;     /* diffusers */
    const char *const *aliases; /* NULL-terminated: "dpmpp_2m", "k_dpmpp_2m", ... */
} an_sampler_name;
const an_sampler_name *an_sampler_at(int i);
const char *an_schedule_at(int i,
                           const char **label); /* "karras", label "Karras"; NULL past the end */

/* ---------------------------------------------------------------- a schedule */

typedef struct an_solver an_solver;

/* Overrides may also hold what diffusers passes to step() or set_timesteps(): "eta" (DDIM 0, TCD
 * 0.3), "mu" or "image_seq_len" (dynamic shifting of flow models). An override that asks for sigmas
 * or a timestep_spacing which the class has not is AN_INVALID, not ignored. A schedule whose
 * coefficients would not be finite (diffusers would draw NaN) is AN_INVALID too.
 *
 * base: the model's scheduler_config.json (may be NULL: class defaults). overrides: from
 * an_sampler_resolve and the request (may be NULL). Without "_class_name" in overrides the class
 * of base is used with all of base's values. With another class: Class.from_config(base), i.e. keys
 * that class knows and base holds are taken (and base's keys that diffusers marks as defaults of
 * another class still count), the rest are that class's defaults. Unknown keys are ignored.
 * AN_INVALID for values the class cannot use, named. steps = num_inference_steps. */
an_status an_solver_new(const struct json_t *base, const struct json_t *overrides, int steps,
                        an_solver **out, an_error *err);
void an_solver_free(an_solver *s);

int an_solver_calls(const an_solver *s); /* network calls = timesteps as diffusers lists them */
const double *an_solver_timesteps(const an_solver *s); /* [calls] */
const double *an_solver_sigmas(const an_solver *s,
                               int *count); /* as diffusers holds them; NULL, 0 if none */
double an_solver_init_noise_sigma(const an_solver *s); /* start latent = noise * this */
const char *an_solver_class(const an_solver *s);
/* Only what changes numbers, for infotext and tests: prediction type etc. */
const char *an_solver_prediction_type(const an_solver *s);

/* Appends {"timesteps":[...],"sigmas":[...]} as diffusers holds them after set_timesteps (terminal
 * sigma included), in the shortest digits that read back the same; "sigmas" is empty for the
 * classes that have none. AN_NO_MEMORY when out is full. */
an_status an_schedule_json(const an_solver *s, an_buf *out);
/* Appends a picture of the noise level over the calls for a terminal of cols x rows characters
 * (UTF-8, braille dots, each line ended by a newline). */
an_status an_schedule_draw(const an_solver *s, int cols, int rows, an_buf *out);

/* ---------------------------------------------------------------- one step */

/* Coefficients of call i (0 .. calls-1). Pure: the same i gives the same numbers. */
void an_solver_step(const an_solver *s, int i, an_step *out);

/* ---------------------------------------------------------------- noise */

typedef enum {
    AN_RNG_GPU = 0,
    AN_RNG_CPU
} an_rng_kind; /* Philox as torch CUDA, MT19937 as torch CPU */

/* One image's stream. Draws are whole tensors, f32, in torch's NCHW order of elements. */
typedef struct an_rng {
    an_rng_kind kind;
    uint64_t seed;
    uint64_t offset; /* Philox: number of tensors drawn so far */
    uint32_t mt[624];
    int mt_next;
    bool mt_has_cached; /* torch's leftover normal of an odd scalar path */
    float mt_cached;
} an_rng;

void an_rng_init(an_rng *r, an_rng_kind kind, uint64_t seed);
/* count normal values, as torch.randn(count) would give next. */
void an_rng_normal(an_rng *r, float *out, size_t count);

#endif
