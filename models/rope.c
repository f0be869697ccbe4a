/* rope.c: see rope.h. */
#include "rope.h"

#include <jansson.h>
#include <math.h>

static const double PI = 3.14159265358979323846;

/* What all kinds of scaling start from. */
typedef struct plan {
    const an_rotary_ask *ask;
    an_config *top;   /* config.json */
    an_config sub;    /* the object with rope_type */
    int64_t original; /* context that the model was first trained for */
} plan;

/* Frequency of pair i, unscaled. */
static double frequency(const an_rotary *r, int i)
{
    return pow(r->theta, -2.0 * i / r->rot_dim);
}

void an_rotary_divide(an_rotary *r, const float *divisor)
{
    for (int i = 0; i < r->rot_dim / 2; i++)
        r->inv_freq[i] = (float)(frequency(r, i) / (double)divisor[i]);
}

/* ---------------------------------------------------------------- kinds of scaling */

static double read_factor(plan *p, double dflt)
{
    double f = an_config_num(&p->sub, "factor", dflt, 1, 1e6);
    if (!(f >= 1)) an_config_refuse(&p->sub, "factor", "expected a number from 1 on");
    return f;
}

/* Positions are squeezed (Chen et al. 2023). */
static void linear(plan *p, an_rotary *r)
{
    double factor = read_factor(p, NAN);
    for (int i = 0; i < r->rot_dim / 2; i++) r->inv_freq[i] = (float)(frequency(r, i) / factor);
}

/* Llama 3.1: slow pairs are squeezed, fast ones stay, between them it blends. */
static void llama3(plan *p, an_rotary *r)
{
    double factor = read_factor(p, NAN);
    double low = an_config_num(&p->sub, "low_freq_factor", 1, 1e-6, 1e6);
    double high = an_config_num(&p->sub, "high_freq_factor", 4, 1e-6, 1e6);
    if (!(high > low))
        an_config_refuse(&p->sub, "high_freq_factor", "expected more than low_freq_factor, %g",
                         low);
    for (int i = 0; i < r->rot_dim / 2; i++) {
        double f = frequency(r, i), turns = (double)p->original * f / (2 * PI);
        double smooth = (turns - low) / (high - low);
        if (smooth < 0) smooth = 0;
        if (smooth > 1) smooth = 1;
        r->inv_freq[i] = (float)((1 - smooth) * f / factor + smooth * f);
    }
}

static double yarn_mscale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

/* The pair that turns so many times over the original context. */
static double yarn_pair(const plan *p, const an_rotary *r, double turns)
{
    return r->rot_dim * log((double)p->original / (turns * 2 * PI)) / (2 * log(r->theta));
}

/* YaRN (Peng et al. 2023). */
static void yarn(plan *p, an_rotary *r)
{
    an_config *c = &p->sub;
    double factor = read_factor(p, (double)p->ask->context / (double)p->original);
    double fast = an_config_num(c, "beta_fast", 32, 1e-6, 1e6);
    double slow = an_config_num(c, "beta_slow", 1, 1e-6, 1e6);
    double m = an_config_num(c, "mscale", 0, 0, 100);
    double m_all = an_config_num(c, "mscale_all_dim", 0, 0, 100);
    bool whole = an_config_bool(c, "truncate", true);
    double mscale = m > 0 && m_all > 0 ? yarn_mscale(factor, m) / yarn_mscale(factor, m_all)
                                       : yarn_mscale(factor, 1);
    r->mscale = (float)an_config_num(c, "attention_factor", mscale, 1e-6, 1e6);
    if (!(r->theta > 1)) an_config_refuse(c, "rope_theta", "yarn needs more than 1");
    double low = yarn_pair(p, r, fast), high = yarn_pair(p, r, slow);
    if (whole) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, r->rot_dim - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < r->rot_dim / 2; i++) {
        double f = frequency(r, i), squeezed = fmin(fmax((i - low) / (high - low), 0), 1);
        r->inv_freq[i] = (float)(f / factor * squeezed + f * (1 - squeezed));
    }
}

/* LongRoPE (Ding et al. 2024; Phi-3): a divisor for every pair. transformers takes the short ones
 * while a text fits the original context and the long ones from then on, which would turn keys that
 * are already cached; a server has one choice for all, by the context that it offers (as vLLM). */
static void longrope(plan *p, an_rotary *r)
{
    double factor = (double)p->ask->context / (double)p->original;
    if (p->original == p->ask->context) factor = read_factor(p, 1);
    double mscale = factor <= 1 ? 1 : sqrt(1 + log(factor) / log((double)p->original));
    r->mscale = (float)an_config_num(&p->sub, "attention_factor", mscale, 1e-6, 1e6);
    if (p->original < 2)
        an_config_refuse(&p->sub, "original_max_position_embeddings", "expected at least 2");
    const char *key = p->ask->context > p->original ? "long_factor" : "short_factor";
    const json_t *list = json_object_get(p->sub.json, key);
    bool ok = json_array_size(list) == (size_t)(r->rot_dim / 2);
    for (int i = 0; ok && i < r->rot_dim / 2; i++) {
        double divisor = json_number_value(json_array_get(list, (size_t)i));
        ok = divisor > 1e-6 && divisor < 1e6;
        if (ok) r->inv_freq[i] = (float)(frequency(r, i) / divisor);
    }
    if (!ok) an_config_refuse(&p->sub, key, "expected %d positive numbers", r->rot_dim / 2);
}

/* ---------------------------------------------------------------- reading */

/* The object that speaks of these layers, or an empty one. */
static void find_object(plan *p, const json_t *empty)
{
    const json_t *parameters = json_object_get(p->top->json, "rope_parameters");
    const json_t *scaling = json_object_get(p->top->json, "rope_scaling");
    const json_t *own = p->ask->layer_type ? json_object_get(parameters, p->ask->layer_type) : NULL;
    const char *key = json_is_object(parameters) ? "rope_parameters" : "rope_scaling";
    p->sub = *p->top;
    p->sub.json = empty;
    if (json_is_object(own))
        p->sub.json = own;
    else if (json_is_object(parameters))
        p->sub.json = parameters;
    else if (json_is_object(scaling) && !p->ask->plain)
        p->sub.json = scaling;
    else if (scaling && !json_is_null(scaling) && !json_is_object(scaling))
        an_config_refuse(&p->sub, key, "expected an object or null");
    if (p->sub.json != empty)
        p->sub.name = json_is_object(parameters) ? "config.json: rope_parameters"
                                                 : "config.json: rope_scaling";
}

/* Read in the object first, then at the top level. */
static double number(plan *p, const char *key, double dflt, double min, double max)
{
    return an_config_num(&p->sub, key, an_config_num(p->top, key, dflt, min, max), min, max);
}

static void read_extent(plan *p, an_rotary *r)
{
    double theta = an_config_num(p->top, p->ask->theta_key, p->ask->theta, 1e-3, 1e15);
    r->theta = an_config_num(&p->sub, "rope_theta", theta, 1e-3, 1e15);
    double part = number(p, "partial_rotary_factor", 1, 0, 1);
    r->rot_dim = (int)(p->ask->head_dim * part);
    r->mscale = 1;
    if (r->rot_dim < 2 || r->rot_dim % 2 || r->rot_dim > 2 * AN_ROPE_PAIRS)
        an_config_refuse(&p->sub, "partial_rotary_factor",
                         "%d of %d elements of a head would turn, expected an even number of at "
                         "most %d",
                         r->rot_dim, p->ask->head_dim, 2 * AN_ROPE_PAIRS);
    p->original =
        (int64_t)number(p, "original_max_position_embeddings", (double)p->ask->context, 1, 1 << 30);
}

void an_rotary_read(an_config *c, const an_rotary_ask *ask, an_rotary *out)
{
    json_t *empty = json_object();
    plan p = {.ask = ask, .top = c};
    *out = (an_rotary){.rot_dim = 2, .mscale = 1};
    find_object(&p, empty);
    read_extent(&p, out);
    const char *type = an_config_str(&p.sub, "type", "default");
    type = an_config_str(&p.sub, "rope_type", type);
    bool sound = !c->status && !p.sub.status;
    /* "dynamic" stretches only what is longer than max_position_embeddings, which is not served */
    if (sound && (strcmp(type, "default") == 0 || strcmp(type, "dynamic") == 0))
        for (int i = 0; i < out->rot_dim / 2; i++) out->inv_freq[i] = (float)frequency(out, i);
    else if (sound && strcmp(type, "linear") == 0)
        linear(&p, out);
    else if (sound && strcmp(type, "llama3") == 0)
        llama3(&p, out);
    else if (sound && strcmp(type, "yarn") == 0)
        yarn(&p, out);
    else if (sound && (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0))
        longrope(&p, out);
    else if (sound)
        an_config_refuse(&p.sub, json_object_get(p.sub.json, "rope_type") ? "rope_type" : "type",
                         "only default, linear, dynamic, llama3, yarn and longrope are supported");
    if (!c->status) c->status = p.sub.status;
    json_decref(empty);
}
