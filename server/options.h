/* options.h: every option of `anneal serve` in one table: its flag, its environment variable
 * (ANNEAL_ + the flag in capitals, - as _), its kind, bounds, default and help. --help, the
 * environment, the command line and /health read the same table. */
#ifndef ANNEAL_OPTIONS_H
#define ANNEAL_OPTIONS_H

#include "anneal/engine.h"

#define AN_MAX_MODEL_DIRS 8
#define AN_MAX_API_KEYS   64
#define AN_MAX_NAMES      64 /* of --cors-origin, of --allow-host, of --trusted-proxy */

typedef struct an_options {
    /* where */
    char host[256];
    int port;
    char *models[AN_MAX_MODEL_DIRS + 1]; /* owned; NULL-terminated */
    int n_models;
    char public_url[512]; /* prefix of result links; "" = from the Host header */
    /* who may ask; lists are owned */
    char *api_keys[AN_MAX_API_KEYS];
    int n_api_keys;
    char api_key_file[4096];      /* keys.h; "" and no api_keys = anybody may ask */
    int key_per_minute, key_jobs; /* limits of keys that have none of their own; 0 = none */
    bool public_without_key, metrics_without_key;
    char *allow_hosts[AN_MAX_NAMES], *trusted_proxies[AN_MAX_NAMES], *cors_origins[AN_MAX_NAMES];
    int n_allow_hosts, n_trusted_proxies, n_cors_origins; /* no origins = no CORS headers */
    char tls_cert[4096], tls_key[4096];
    /* how */
    char device[512]; /* or several, with commas between */
    char isa[32], gemm[32], graphs[8], dtype[16], weights[16], log_level[16];
    char access_log[4096]; /* "" = none, "-" = standard output */
    int threads;
    an_engine_options engine; /* max_queue, max_batch, ... */
    /* HTTP limits */
    int http_threads, max_connections, max_connections_per_ip, encode_threads;
    size_t max_body_bytes, max_header_bytes, max_held_bytes;
    double header_timeout_s, body_timeout_s, idle_timeout_s, keepalive_s, grace_s, url_ttl_s;
    int max_sse;
    size_t max_url_bytes;
    /* language models */
    size_t max_text_bytes, max_echo_logprobs;
    an_grammar_limits grammar;
} an_options;

/* Defaults, then the environment, then argv (after the sub-command). AN_INVALID with a message that
 * names the option, the value and what would do. *help is set when --help was asked. */
an_status an_options_parse(an_options *o, int argc, char **argv, bool *help, an_error *err);
void an_options_free(an_options *o);
/* The number that an option stands at ("--max-queue"); false if there is no such, or it is no
 * number. */
bool an_option_number(const an_options *o, const char *flag, double *out);
/* The manual: every option with its default and variable. */
void an_options_help(an_buf *out);
/* Does a request need a key? */
bool an_options_need_key(const an_options *o);
/* One entry of the table, for whoever else tells of the options: man page, completions. A heading
 * has a section and no flag. */
typedef struct an_option_info {
    const char *section, *flag, *value, *initial, *help;
    char env[64]; /* ANNEAL_MAX_QUEUE */
} an_option_info;
/* The i-th entry; false past the last. */
bool an_options_at(size_t i, an_option_info *out);
/* Appends text in lines of `width` columns; all but the first begin with `indent` spaces. */
void an_wrap(an_buf *out, const char *text, int indent, int width);
/* Sizes as people write them: 64M, 2G, 1048576. */
bool an_parse_size(const char *text, size_t *out);

#endif
