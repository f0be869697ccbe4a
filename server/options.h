/* options.h: every option of `anneal serve` in one table: its flag, its environment variable
 * (ANNEAL_ + the flag in capitals, - as _), its kind, bounds, default and help. --help, the
 * environment, the command line and /health read the same table. */
#ifndef ANNEAL_OPTIONS_H
#define ANNEAL_OPTIONS_H

#include "anneal/engine.h"

#define AN_MAX_MODEL_DIRS 8
#define AN_MAX_API_KEYS   64

typedef struct an_options {
    /* where */
    char host[256];
    int port;
    char *models[AN_MAX_MODEL_DIRS + 1]; /* owned; NULL-terminated */
    int n_models;
    char *api_keys[AN_MAX_API_KEYS]; /* owned; none = anybody may ask */
    int n_api_keys;
    char cors_origin[256]; /* "" = no CORS headers */
    char public_url[512];  /* prefix of result links; "" = from the Host header */
    /* how */
    char device[512]; /* or several, with commas between */
    char isa[32], gemm[32], graphs[8], dtype[16], weights[16], log_level[16];
    int threads;
    an_engine_options engine; /* max_queue, max_batch, ... */
    /* HTTP limits */
    int http_threads, max_connections, max_connections_per_ip, encode_threads;
    size_t max_body_bytes, max_header_bytes, max_held_bytes;
    double idle_timeout_s, keepalive_s, grace_s, url_ttl_s;
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
/* The manual: every option with its default and variable. */
void an_options_help(an_buf *out);
/* Sizes as people write them: 64M, 2G, 1048576. */
bool an_parse_size(const char *text, size_t *out);

#endif
