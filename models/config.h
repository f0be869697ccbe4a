/* config.h: reads the config.json of a component. Errors latch: a walk over a config is a list of
 * questions with one check at its end. Private to models/.
 *
 * A key that is missing or null has its default, as in diffusers. A value that this program does
 * not serve is refused by name: silently ignoring it would give a wrong picture. */
#ifndef ANNEAL_MODELS_CONFIG_H
#define ANNEAL_MODELS_CONFIG_H

#include "anneal/base.h"

struct json_t;

typedef struct an_config {
    const struct json_t *json; /* object */
    const char *name;          /* "unet/config.json", for messages */
    an_status status;
    an_error *err;
} an_config;

/* json NULL: AN_INVALID, as the checkpoint has none. */
an_config an_config_open(const struct json_t *json, const char *name, an_error *err);

/* Latches AN_INVALID: `unet/config.json: KEY is VALUE: WHY`. */
void an_config_refuse(an_config *c, const char *key, const char *fmt, ...) AN_PRINTF(3, 4);
bool an_config_has(const an_config *c, const char *key); /* there and not null */

int64_t an_config_int(an_config *c, const char *key, int64_t dflt, int64_t min, int64_t max);
double an_config_num(an_config *c, const char *key, double dflt, double min, double max);
bool an_config_bool(an_config *c, const char *key, bool dflt);
const char *an_config_str(an_config *c, const char *key, const char *dflt); /* borrowed */
/* One integer for all n places, or a list of exactly n. */
void an_config_ints(an_config *c, const char *key, int64_t dflt, int n, int64_t min, int64_t max,
                    int64_t *out);
/* A list of 1..max integers in [lo, hi]; returns how many (0 after an error). */
int an_config_list(an_config *c, const char *key, int max, int64_t lo, int64_t hi, int64_t *out);

/* Refuse everything but the one value served. */
void an_config_only_null(an_config *c, const char *key);
void an_config_only_bool(an_config *c, const char *key, bool served);
void an_config_only_num(an_config *c, const char *key, double served);
void an_config_only_str(an_config *c, const char *key, const char *served);

#endif
