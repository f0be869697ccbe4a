/* sampler_names.c: the one table of sampler and schedule names. A name means the diffusers class
 * that diffusers' own table gives for it (docs/source/en/api/schedulers/overview.md), whoever asks:
 * "DPM++ SDE" is DPMSolverSinglestepScheduler there, "DPM++ 2S a" its near kin. Labels without a
 * class (DPM fast, DPM adaptive, ...) are not found. */
#include "solver_internal.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>

/* ---------------------------------------------------------------- samplers */

typedef struct sampler {
    an_sampler_name name;
    /* What the label implies besides the class; NULL or 0 where it says nothing. */
    const char *algorithm_type;
    int solver_order;
    const char *solver_type;
    bool skip_prk_steps;
} sampler;

#define ALIASES(...)                 ((const char *const[]){__VA_ARGS__, NULL})
#define NAME(label, class_name, ...) .name = {label, class_name, ALIASES(__VA_ARGS__)}

static const sampler samplers[] = {
    {NAME("Euler a", "EulerAncestralDiscreteScheduler", "euler_a", "euler_ancestral", "k_euler_a",
          "k_euler_ancestral")},
    {NAME("Euler", "EulerDiscreteScheduler", "euler", "k_euler")},
    {NAME("LMS", "LMSDiscreteScheduler", "lms", "k_lms")},
    {NAME("Heun", "HeunDiscreteScheduler", "heun", "k_heun")},
    {NAME("DPM2", "KDPM2DiscreteScheduler", "dpm_2", "dpm2", "k_dpm_2", "kdpm2")},
    {NAME("DPM2 a", "KDPM2AncestralDiscreteScheduler", "dpm_2_a", "dpm2_a", "dpm_2_ancestral",
          "dpm2_ancestral", "k_dpm_2_a", "k_dpm_2_ancestral", "kdpm2_a", "kdpm2_ancestral")},
    {NAME("DPM++ 2S a", "DPMSolverSinglestepScheduler", "dpmpp_2s_a", "dpmpp_2s_ancestral",
          "k_dpmpp_2s_a", "k_dpmpp_2s_ancestral"),
     .algorithm_type = "dpmsolver++", .solver_order = 2},
    {NAME("DPM++ 2M", "DPMSolverMultistepScheduler", "dpmpp_2m", "k_dpmpp_2m"),
     .algorithm_type = "dpmsolver++", .solver_order = 2},
    {NAME("DPM++ SDE", "DPMSolverSinglestepScheduler", "dpmpp_sde", "k_dpmpp_sde")},
    {NAME("DPM++ 2M SDE", "DPMSolverMultistepScheduler", "dpmpp_2m_sde", "k_dpmpp_2m_sde"),
     .algorithm_type = "sde-dpmsolver++", .solver_order = 2},
    {NAME("DPM++ 2M SDE Heun", "DPMSolverMultistepScheduler", "dpmpp_2m_sde_heun",
          "k_dpmpp_2m_sde_heun"),
     .algorithm_type = "sde-dpmsolver++", .solver_order = 2, .solver_type = "heun"},
    {NAME("DPM++ 3M SDE", "DPMSolverMultistepScheduler", "dpmpp_3m_sde", "k_dpmpp_3m_sde"),
     .algorithm_type = "sde-dpmsolver++", .solver_order = 3},
    {NAME("DDIM", "DDIMScheduler", "ddim")},
    {NAME("DDPM", "DDPMScheduler", "ddpm")},
    {NAME("PLMS", "PNDMScheduler", "plms"), .skip_prk_steps = true},
    {NAME("PNDM", "PNDMScheduler", "pndm")},
    {NAME("UniPC", "UniPCMultistepScheduler", "unipc", "uni_pc")},
    {NAME("DEIS", "DEISMultistepScheduler", "deis")},
    {NAME("LCM", "LCMScheduler", "lcm")},
    {NAME("TCD", "TCDScheduler", "tcd")},
    {NAME("Flow Euler", "FlowMatchEulerDiscreteScheduler", "flow_euler", "flowmatch_euler",
          "flow_match_euler")},
};
enum { SAMPLERS = sizeof samplers / sizeof samplers[0] };

/* ---------------------------------------------------------------- schedules */

typedef struct schedule {
    const char *key, *label;
    const char *const *aliases;
    const char *flag;    /* the one sigma flag it sets; NULL: none of them */
    const char *spacing; /* timestep_spacing, NULL: as it is */
} schedule;

static const schedule schedules[] = {
    {"automatic", "Automatic", ALIASES("auto"), NULL, NULL},
    {"uniform", "Uniform", ALIASES("normal", "default"), NULL, NULL},
    {"karras", "Karras", ALIASES("k"), "use_karras_sigmas", NULL},
    {"exponential", "Exponential", ALIASES("exp"), "use_exponential_sigmas", "linspace"},
    {"beta", "Beta", ALIASES("beta_sigmas"), "use_beta_sigmas", "linspace"},
    {"lu", "Lu", ALIASES("lu_lambdas"), "use_lu_lambdas", NULL},
    {"sgm_uniform", "SGM Uniform", ALIASES("sgm"), NULL, "trailing"},
    {"simple", "Simple", ALIASES("trailing"), NULL, "trailing"},
};
enum { SCHEDULES = sizeof schedules / sizeof schedules[0], AUTOMATIC = 0 };

static const char *const sigma_flags[] = {"use_karras_sigmas", "use_exponential_sigmas",
                                          "use_beta_sigmas", "use_lu_lambdas"};

const an_sampler_name *an_sampler_at(int i)
{
    return i >= 0 && i < SAMPLERS ? &samplers[i].name : NULL;
}

const char *an_schedule_at(int i, const char **label)
{
    if (i < 0 || i >= SCHEDULES) return NULL;
    if (label) *label = schedules[i].label;
    return schedules[i].key;
}

/* ---------------------------------------------------------------- finding */

/* a (la bytes) equals b, whatever the case of its letters. */
static bool same(const char *a, size_t la, const char *b)
{
    if (strlen(b) != la) return false;
    for (size_t i = 0; i < la; i++)
        if (tolower((unsigned char)a[i]) != tolower((unsigned char)b[i])) return false;
    return true;
}

static bool among(const char *a, size_t la, const char *const *list)
{
    for (; *list; list++)
        if (same(a, la, *list)) return true;
    return false;
}

static const schedule *find_schedule(const char *s, size_t len)
{
    for (int i = 0; i < SCHEDULES; i++) {
        const schedule *d = &schedules[i];
        if (same(s, len, d->key) || same(s, len, d->label) || among(s, len, d->aliases)) return d;
    }
    return NULL;
}

static const sampler *find_sampler(const char *s, size_t len)
{
    for (int i = 0; i < SAMPLERS; i++)
        if (same(s, len, samplers[i].name.label) || among(s, len, samplers[i].name.aliases))
            return &samplers[i];
    return NULL;
}

/* A diffusers class itself implies nothing else. Case matters, as in Python. */
static const char *find_class(const char *s)
{
    int kind = solver_class_find(s);
    return kind >= 0 ? solver_class_name((solver_class)kind) : NULL;
}

/* "DPM++ 2M Karras", "dpmpp_2m_karras": a sampler, a space or underscore, a schedule. */
static const sampler *find_with_suffix(const char *name, const schedule **suffix)
{
    size_t len = strlen(name);
    for (size_t i = 1; i + 1 < len; i++) {
        if (name[i] != ' ' && name[i] != '_') continue;
        const sampler *s = find_sampler(name, i);
        const schedule *d = s ? find_schedule(name + i + 1, len - i - 1) : NULL;
        if (!d) continue;
        *suffix = d;
        return s;
    }
    return NULL;
}

/* ---------------------------------------------------------------- messages */

static an_status unknown_sampler(const char *name, an_error *err)
{
    an_buf all;
    an_buf_init(&all, 900);
    for (int i = 0; i < SAMPLERS; i++)
        an_buf_printf(&all, "%s%s (%s)", i ? ", " : "", samplers[i].name.label,
                      samplers[i].name.aliases[0]);
    an_status st = an_fail_param(err, AN_NOT_FOUND, "sampler",
                                 "there is no sampler \"%.64s\"; there are %s, and their diffusers "
                                 "class names",
                                 name, all.data ? all.data : "");
    an_buf_free(&all);
    return st;
}

static an_status unknown_schedule(const char *name, an_error *err)
{
    an_buf all;
    an_buf_init(&all, 512);
    for (int i = 0; i < SCHEDULES; i++)
        an_buf_printf(&all, "%s%s", i ? ", " : "", schedules[i].key);
    an_status st =
        an_fail_param(err, AN_NOT_FOUND, "schedule", "there is no schedule \"%.64s\"; there are %s",
                      name, all.data ? all.data : "");
    an_buf_free(&all);
    return st;
}

/* A schedule the class would silently ignore. */
static an_status check_able(const schedule *d, const char *class_name, an_error *err)
{
    int kind = class_name ? solver_class_find(class_name) : -1;
    if (kind < 0) return AN_OK;
    const char *needs = d->flag ? d->flag : d->spacing ? "timestep_spacing" : NULL;
    if (!needs || solver_class_knows((solver_class)kind, needs)) return AN_OK;
    an_buf able;
    an_buf_init(&able, 800);
    solver_classes_with(needs, &able);
    an_status st =
        an_fail_param(err, AN_INVALID, "schedule", "%s has no schedule %s; these classes have: %s",
                      class_name, d->key, able.data ? able.data : "");
    an_buf_free(&able);
    return st;
}

/* ---------------------------------------------------------------- resolving */

static bool set(json_t *o, const char *key, json_t *value)
{
    return json_object_set_new(o, key, value) == 0;
}

static bool write_sampler(json_t *o, const char *class_name, const sampler *s)
{
    if (class_name && !set(o, "_class_name", json_string(class_name))) return false;
    if (!s) return true;
    bool ok = true;
    if (s->algorithm_type) ok = ok && set(o, "algorithm_type", json_string(s->algorithm_type));
    if (s->solver_order) ok = ok && set(o, "solver_order", json_integer(s->solver_order));
    if (s->solver_type) ok = ok && set(o, "solver_type", json_string(s->solver_type));
    if (s->skip_prk_steps) ok = ok && set(o, "skip_prk_steps", json_true());
    return ok;
}

/* A named schedule decides all flags: the model's own Karras must not outlive "uniform". */
static bool write_schedule(json_t *o, const schedule *d)
{
    bool ok = true;
    for (size_t i = 0; i < sizeof sigma_flags / sizeof sigma_flags[0]; i++) {
        bool on = d->flag && strcmp(d->flag, sigma_flags[i]) == 0;
        ok = ok && set(o, sigma_flags[i], json_boolean(on));
    }
    if (!d->spacing) return ok;
    return ok && set(o, "timestep_spacing", json_string(d->spacing));
}

an_status an_sampler_resolve(const char *name, const char *schedule_name, json_t **overrides,
                             an_error *err)
{
    *overrides = NULL;
    const char *class_name = NULL;
    const sampler *s = NULL;
    const schedule *chosen = NULL, *suffix = NULL;
    if (name) {
        class_name = find_class(name);
        if (!class_name) s = find_sampler(name, strlen(name));
        if (!class_name && !s) s = find_with_suffix(name, &suffix);
        if (!class_name && !s) return unknown_sampler(name, err);
        if (s) class_name = s->name.class_name;
    }
    if (schedule_name) {
        chosen = find_schedule(schedule_name, strlen(schedule_name));
        if (!chosen) return unknown_schedule(schedule_name, err);
        if (chosen == &schedules[AUTOMATIC]) chosen = NULL; /* the label's own */
    }
    if (suffix == &schedules[AUTOMATIC]) suffix = NULL;
    if (chosen && suffix && chosen != suffix)
        return an_fail_param(err, AN_INVALID, "schedule",
                             "sampler \"%.64s\" says schedule %s, schedule says %s", name,
                             suffix->key, chosen->key);
    if (!chosen) chosen = suffix;
    if (chosen) {
        an_status st = check_able(chosen, class_name, err);
        if (st != AN_OK) return st;
    }
    json_t *o = json_object();
    if (!o || !write_sampler(o, class_name, s) || (chosen && !write_schedule(o, chosen))) {
        json_decref(o);
        return an_fail(err, AN_NO_MEMORY, "no memory for a sampler's settings");
    }
    *overrides = o;
    return AN_OK;
}
