/* options.c: the option table and its three readers: environment, command line, --help. */
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef enum { KIND_STRING, KIND_INT, KIND_SIZE, KIND_SECONDS, KIND_BOOL, KIND_LIST } option_kind;

typedef struct option {
    const char *flag, *value; /* "--port", "N" */
    option_kind kind;
    size_t offset, size; /* field of an_options; size of a string field; a list's length field */
    double min, max;
    const char *initial; /* default, as a person would write it */
    const char *help;
} option;

#define STR(field) offsetof(an_options, field), sizeof(((an_options *)0)->field)
#define NUM(field) offsetof(an_options, field), 0
/* A list's field and that of its length, and the most it holds. */
#define LIST(field, most) offsetof(an_options, field), offsetof(an_options, n_##field), 0, most

static const option table[] = {
    {NULL, "Where", 0, 0, 0, 0, 0, NULL, NULL},
    {"--host", "ADDR", KIND_STRING, STR(host), 0, 0, "127.0.0.1", "address to listen on"},
    {"--port", "N", KIND_INT, NUM(port), 0, 65535, "8080", "port to listen on; 0 picks a free one"},
    {"--models", "DIR", KIND_LIST, LIST(models, AN_MAX_MODEL_DIRS), "",
     "folder whose entries are models; may be repeated, or a comma-separated list. Default: the "
     "shipped demo and ~/.cache/anneal/models"},
    {"--public-url", "URL", KIND_STRING, STR(public_url), 0, 0, "",
     "prefix of the links that response_format=url answers with"},

    {NULL, "Who may ask", 0, 0, 0, 0, 0, NULL, NULL},
    {"--api-key", "KEY", KIND_LIST, LIST(api_keys, AN_MAX_API_KEYS), "",
     "accept only requests that show this key, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`; "
     "may be repeated, or a comma-separated list"},
    {"--api-key-file", "FILE", KIND_STRING, STR(api_key_file), 0, 0, "",
     "keys as `anneal key NAME` makes them, a line each: NAME sha256:HASH, and limits of the key "
     "if it has some: rpm=60 jobs=4. Read again when it changes, and on SIGHUP"},
    {"--key-rpm", "N", KIND_INT, NUM(key_per_minute), 0, 1e6, "0",
     "POST requests a minute of each key whose line says nothing; more are answered 429; 0 = no "
     "limit"},
    {"--key-jobs", "N", KIND_INT, NUM(key_jobs), 0, 1e6, "0",
     "jobs waiting or running of each key whose line says nothing; more are answered 429; 0 = no "
     "limit"},
    {"--allow-public-without-key", "0|1", KIND_BOOL, NUM(public_without_key), 0, 1, "0",
     "listen on other addresses than loopback though there is no key: whoever reaches the port may "
     "ask"},
    {"--metrics-without-key", "0|1", KIND_BOOL, NUM(metrics_without_key), 0, 1, "0",
     "/metrics is open to whoever reaches the port, as for what gathers numbers and can show no "
     "key"},
    {"--allow-host", "NAME", KIND_LIST, LIST(allow_hosts, AN_MAX_NAMES), "",
     "without keys and on loopback, names in the Host header besides localhost and addresses ('*' "
     "= "
     "any): that of a proxy, say. May be repeated, or a comma-separated list"},
    {"--trusted-proxy", "ADDR", KIND_LIST, LIST(trusted_proxies, AN_MAX_NAMES), "",
     "a proxy of yours that writes X-Forwarded-For, by its address or its network (10.0.0.0/8): "
     "the client is whom it names, links have the scheme of its X-Forwarded-Proto, and "
     "--max-connections-per-ip is not for it. May be repeated, or a comma-separated list"},
    {"--cors-origin", "ORIGIN", KIND_LIST, LIST(cors_origins, AN_MAX_NAMES), "",
     "let pages of this origin (https://example.org) call the API ('*' = any); may be repeated, or "
     "a comma-separated list"},
    {"--tls-cert", "FILE", KIND_STRING, STR(tls_cert), 0, 0, "",
     "serve HTTPS (TLS 1.2, 1.3) with this certificate and what leads to its root, in PEM; read "
     "again on SIGHUP"},
    {"--tls-key", "FILE", KIND_STRING, STR(tls_key), 0, 0, "",
     "its private key, in PEM, without a password"},

    {NULL, "Device", 0, 0, 0, 0, 0, NULL, NULL},
    {"--device", "NAME", KIND_STRING, STR(device), 0, 0, "auto",
     "auto (a GPU if there is one, else cpu), cpu, cuda, cuda:1 and so on; several GPUs behind one "
     "queue: cuda:0,cuda:1 or cuda:all; simt (the GPU's kernels on the CPU) and ref (plain C) are "
     "slow, for tests"},
    {"--dtype", "auto|bf16|f32", KIND_STRING, STR(dtype), 0, 0, "auto",
     "auto, bf16 or f32; auto is bf16 where the machine multiplies it natively"},
    {"--weights", "auto|fp8", KIND_STRING, STR(weights), 0, 0, "auto",
     "auto (as --dtype, or FP8 where the file is), or fp8: matrices of UNets and of language "
     "models' "
     "layers are rounded to FP8 (e4m3, a scale a row), which halves them on a GPU in bf16"},
    {"--threads", "N", KIND_INT, NUM(threads), 0, 1024, "0",
     "threads of the CPU that compute; 0 = one per core"},
    {"--isa", "auto|generic|avx2|avx512|avx512_bf16|amx", KIND_STRING, STR(isa), 0, 0, "auto",
     "cap on CPU instructions: auto, generic, avx2, avx512, avx512_bf16 (Zen 4 and later), amx"},
    {"--gemm", "auto|own|onednn", KIND_STRING, STR(gemm), 0, 0, "auto",
     "CPU matrix products and convolutions: auto, own, onednn"},
    {"--graphs", "auto|off", KIND_STRING, STR(graphs), 0, 0, "auto",
     "on a GPU, launches that come again are recorded and replayed as CUDA graphs: auto, off"},
    {"--memory", "SIZE", KIND_SIZE, NUM(engine.memory_bytes), 0, 1e15, "0",
     "budget for weights and activations, on each device; 0 = 80 % of the machine's memory, 90 % "
     "of "
     "a GPU's own"},

    {NULL, "Queue and limits", 0, 0, 0, 0, 0, NULL, NULL},
    {"--max-queue", "N", KIND_INT, NUM(engine.max_queue), 1, 1e6, "256",
     "jobs waiting; one more is answered 429"},
    {"--max-batch", "N", KIND_INT, NUM(engine.max_batch), 1, 64, "8",
     "pictures that advance together in one tick"},
    {"--max-running", "N", KIND_INT, NUM(engine.max_running), 1, 960, "16",
     "pictures started and not finished, on each device"},
    {"--max-n", "N", KIND_INT, NUM(engine.max_n), 1, 1000, "10", "pictures of a request"},
    {"--max-steps", "N", KIND_INT, NUM(engine.max_steps), 1, 1000, "150", "steps per picture"},
    {"--max-width", "N", KIND_INT, NUM(engine.max_width), 8, 65536, "2048", "pixels"},
    {"--max-height", "N", KIND_INT, NUM(engine.max_height), 8, 65536, "2048", "pixels"},
    {"--max-prompt-bytes", "N", KIND_INT, NUM(engine.max_prompt_bytes), 1, 16777216, "16384",
     "bytes of a prompt"},
    {"--max-chunks", "N", KIND_INT, NUM(engine.max_chunks), 1, 64, "8",
     "chunks of 75 tokens of a prompt on /sdapi"},
    {"--vae-tile", "N", KIND_INT, NUM(engine.vae_tile), 16, 4096, "96",
     "decode latents with a longer edge than this in tiles"},
    {"--text-cache", "N", KIND_INT, NUM(engine.text_cache), 0, 1e5, "256", "text encodings kept"},
    {"--job-ttl", "SECONDS", KIND_SECONDS, NUM(engine.job_ttl_s), 1, 1e7, "600",
     "how long finished jobs are kept"},
    {"--max-jobs-kept", "N", KIND_INT, NUM(engine.max_jobs_kept), 1, 1e6, "1024",
     "finished jobs kept"},
    {"--max-result-bytes", "SIZE", KIND_SIZE, NUM(engine.max_result_bytes), 1, 1e15, "512M",
     "pixels of finished jobs kept"},

    {NULL, "Language models", 0, 0, 0, 0, 0, NULL, NULL},
    {"--max-context", "N", KIND_INT, NUM(engine.max_context), 16, 1 << 24, "32768",
     "tokens of a prompt and its answer, if the model allows as many"},
    {"--max-tokens", "N", KIND_INT, NUM(engine.max_tokens), 1, 1 << 24, "16384",
     "new tokens of an answer"},
    {"--max-completions", "N", KIND_INT, NUM(engine.max_completions), 1, 4096, "128",
     "answers (n) to one prompt; a request's together: this or --max-queue, the larger"},
    {"--max-sequences", "N", KIND_INT, NUM(engine.max_sequences), 1, 4096, "64",
     "answers that grow at once, on each device"},
    {"--tick-tokens", "N", KIND_INT, NUM(engine.tick_tokens), 16, 65536, "512",
     "tokens of one tick: those of growing answers, the rest for prompts"},
    {"--kv-bytes", "SIZE", KIND_SIZE, NUM(engine.kv_bytes), 0, 1e15, "0",
     "keys and values of a model; 0 = an eighth of --memory"},
    {"--prefix-cache", "0|1", KIND_BOOL, NUM(engine.prefix_cache), 0, 1, "1",
     "share the blocks of equal beginnings between requests"},
    {"--host-sampling", "0|1", KIND_BOOL, NUM(engine.host_sampling), 0, 1, "0",
     "draw tokens on the host where a GPU could: the same ones"},
    {"--max-stop", "N", KIND_INT, NUM(engine.max_stop), 0, 1024, "16", "stop strings of a request"},
    {"--max-logit-bias", "N", KIND_INT, NUM(engine.max_logit_bias), 0, 1e6, "1024",
     "entries of logit_bias"},
    {"--max-top-logprobs", "N", KIND_INT, NUM(engine.max_top_logprobs), 0, 1024, "20",
     "top_logprobs of a token"},
    {"--max-text-bytes", "SIZE", KIND_SIZE, NUM(max_text_bytes), 1024, 1e9, "4M",
     "text of a request's prompts or messages"},
    {"--max-echo-logprobs", "N", KIND_SIZE, NUM(max_echo_logprobs), 1, 1e15, "8M",
     "numbers of a request with echo and logprobs: its prompts' tokens x n x (logprobs + 1)"},
    {"--max-grammar-bytes", "SIZE", KIND_SIZE, NUM(grammar.max_source), 64, 1e8, "256K",
     "source of a grammar or JSON schema"},
    {"--max-grammar-rules", "N", KIND_INT, NUM(grammar.max_rules), 16, 1e7, "20000",
     "rules of a grammar, its repetitions expanded"},
    {"--max-grammar-repeat", "N", KIND_INT, NUM(grammar.max_repeat), 1, 1e6, "2000",
     "largest {m,n} of a grammar"},
    {"--max-grammar-stacks", "N", KIND_INT, NUM(grammar.max_stacks), 1, 1e6, "4096",
     "states of a grammar that are alive at once"},
    {"--max-grammar-depth", "N", KIND_INT, NUM(grammar.max_depth), 1, 1e6, "1000",
     "nesting of rules while a grammar is followed"},
    {"--max-template-steps", "N", KIND_INT, NUM(engine.chat_template.max_steps), 1000, 2e9,
     "10000000", "steps of a chat template: nodes evaluated, and bytes they copy"},
    {"--max-template-depth", "N", KIND_INT, NUM(engine.chat_template.max_depth), 10, 500, "100",
     "nesting of a chat template's blocks, calls and expressions"},
    {"--max-template-output", "SIZE", KIND_SIZE, NUM(engine.chat_template.max_output), 1024,
     1 << 26, "8M", "text that a chat template writes"},
    {"--max-template-memory", "SIZE", KIND_SIZE, NUM(engine.chat_template.max_memory), 65536, 1e12,
     "64M", "values that a chat template makes"},

    {NULL, "HTTP", 0, 0, 0, 0, 0, NULL, NULL},
    {"--http-threads", "N", KIND_INT, NUM(http_threads), 0, 256, "0",
     "threads that serve sockets; 0 = one per core, 2 to 8"},
    {"--encode-threads", "N", KIND_INT, NUM(encode_threads), 1, 64, "2",
     "threads that write PNG, JPEG and WebP"},
    {"--max-connections", "N", KIND_INT, NUM(max_connections), 0, 1e6, "0",
     "open connections; 0 = 4096, or fewer where fewer files may be open. More are answered 503"},
    {"--max-connections-per-ip", "N", KIND_INT, NUM(max_connections_per_ip), 0, 1e6, "0",
     "open connections of one address (IPv6: /64 network); 0 = no limit. More are answered 429"},
    {"--max-sse", "N", KIND_INT, NUM(max_sse), 1, 1e6, "2048", "open event streams"},
    {"--max-body-bytes", "SIZE", KIND_SIZE, NUM(max_body_bytes), 1024, 1e12, "32M",
     "bytes of a request body; more is answered 413"},
    {"--max-held-bytes", "SIZE", KIND_SIZE, NUM(max_held_bytes), 65536, 1e15, "1G",
     "bytes of request bodies (at most half of it) and unread answers in memory; more is answered "
     "503"},
    {"--max-header-bytes", "SIZE", KIND_SIZE, NUM(max_header_bytes), 1024, 1e8, "16K",
     "bytes of memory for a connection's headers; more headers are answered 431"},
    {"--header-timeout", "SECONDS", KIND_SECONDS, NUM(header_timeout_s), 0.1, 86400, "30",
     "close a connection whose request's headers have not all come by then"},
    {"--body-timeout", "SECONDS", KIND_SECONDS, NUM(body_timeout_s), 0.1, 86400, "300",
     "close a connection whose request's body has not all come by then"},
    {"--idle-timeout", "SECONDS", KIND_SECONDS, NUM(idle_timeout_s), 1, 86400, "60",
     "close a connection that says nothing for so long, or whose peer is gone"},
    {"--keepalive", "SECONDS", KIND_SECONDS, NUM(keepalive_s), 0.1, 3600, "15",
     "comment lines on silent event streams"},
    {"--url-ttl", "SECONDS", KIND_SECONDS, NUM(url_ttl_s), 1, 1e7, "600",
     "how long links to pictures live"},
    {"--max-url-bytes", "SIZE", KIND_SIZE, NUM(max_url_bytes), 1024, 1e15, "256M",
     "encoded pictures kept behind links"},
    {"--grace", "SECONDS", KIND_SECONDS, NUM(grace_s), 0, 86400, "30",
     "on SIGTERM: time for running jobs to finish"},

    {NULL, "Logs", 0, 0, 0, 0, 0, NULL, NULL},
    {"--access-log", "FILE", KIND_STRING, STR(access_log), 0, 0, "",
     "a line of JSON for every answer; - is standard output. Opened anew on SIGHUP. Prompts, "
     "answers and keys never get into it"},
    {"--log-level", "debug|info|warn|error", KIND_STRING, STR(log_level), 0, 0, "info",
     "debug, info, warn, error"},
};
#define TABLE_SIZE (sizeof table / sizeof *table)

bool an_parse_size(const char *text, size_t *out)
{
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (end == text || errno || !(v >= 0)) return false;
    static const char units[] = "KMGT";
    if (*end) {
        const char *u = strchr(units, toupper((unsigned char)*end));
        if (!u) return false;
        v *= pow(1024, (double)(u - units) + 1);
        end++;
        if (*end == 'i') end++;
        if (*end == 'B' || *end == 'b') end++;
    }
    if (*end || v > 9e18) return false;
    *out = (size_t)v;
    return true;
}

static an_status bad_value(an_error *err, const option *t, const char *value)
{
    char bounds[96] = "";
    if (t->kind != KIND_STRING && t->kind != KIND_LIST)
        snprintf(bounds, sizeof bounds, " (%s from %.15g to %.15g)",
                 t->kind == KIND_SIZE ? "a size like 64M," : "a number", t->min, t->max);
    return an_fail(err, AN_INVALID, "%s: '%s' does not do%s", t->flag, value, bounds);
}

/* The list that an option fills; *n counts it. */
static char **list_of(an_options *o, const option *t, int **n)
{
    *n = (int *)(void *)((char *)o + t->size);
    return (char **)(void *)((char *)o + t->offset);
}

static an_status add_to_list(an_options *o, const option *t, const char *value, an_error *err)
{
    int *n;
    char **list = list_of(o, t, &n), *copy = strdup(value), *rest = copy;
    const int before = *n, max = (int)t->max;
    if (!copy) return an_fail(err, AN_NO_MEMORY, "out of memory");
    for (char *item; (item = strsep(&rest, ",")) != NULL;) {
        if (!*item) continue;
        if (*n == max) {
            free(copy);
            return an_fail(err, AN_INVALID, "%s: more than %d", t->flag, max);
        }
        if (!(list[*n] = strdup(item))) {
            free(copy);
            return an_fail(err, AN_NO_MEMORY, "out of memory");
        }
        ++*n;
    }
    free(copy);
    /* an empty key would open the server to everybody */
    return *n > before ? AN_OK : an_fail(err, AN_INVALID, "%s: '%s' is empty", t->flag, value);
}

static an_status set_option(an_options *o, const option *t, const char *value, an_error *err)
{
    char *field = (char *)o + t->offset, *end;
    double v = 0;
    size_t bytes = 0;
    switch (t->kind) {
    case KIND_STRING:
        if (strlen(value) >= t->size) return bad_value(err, t, value);
        memcpy(field, value, strlen(value) + 1);
        return AN_OK;
    case KIND_LIST:
        return add_to_list(o, t, value, err);
    case KIND_SIZE:
        if (!an_parse_size(value, &bytes)) return bad_value(err, t, value);
        v = (double)bytes;
        break;
    case KIND_INT:
    case KIND_BOOL:
    case KIND_SECONDS:
        v = strtod(value, &end);
        if (end == value || *end || (t->kind != KIND_SECONDS && v != floor(v)))
            return bad_value(err, t, value);
        break;
    }
    if (!(v >= t->min && v <= t->max)) return bad_value(err, t, value);
    if (t->kind == KIND_SECONDS)
        *(double *)(void *)field = v;
    else if (t->kind == KIND_INT)
        *(int *)(void *)field = (int)v;
    else if (t->kind == KIND_BOOL)
        *(bool *)(void *)field = v != 0;
    else
        *(size_t *)(void *)field = bytes;
    return AN_OK;
}

/* `--api-key-file "$UNSET"` must not open the server, nor `ANNEAL_API_KEY=$UNSET`. */
static bool guards(const option *t)
{
    return t->offset == offsetof(an_options, api_keys) ||
           t->offset == offsetof(an_options, api_key_file);
}

static an_status set_given(an_options *o, const option *t, const char *value, an_error *err)
{
    if (!*value && guards(t)) return an_fail(err, AN_INVALID, "%s: '' is empty", t->flag);
    return set_option(o, t, value, err);
}

/* ANNEAL_MAX_QUEUE of --max-queue. */
static void env_name(const option *t, char *buf, size_t size)
{
    snprintf(buf, size, "ANNEAL_%s", t->flag + 2);
    for (char *p = buf; *p; p++) *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
}

static void clear_list(an_options *o, const option *t)
{
    int *n;
    char **list = list_of(o, t, &n);
    while (*n > 0) {
        free(list[--*n]);
        list[*n] = NULL;
    }
}

static const option *find_option(const char *arg, size_t len)
{
    for (size_t i = 0; i < TABLE_SIZE; i++)
        if (table[i].flag && strlen(table[i].flag) == len && memcmp(table[i].flag, arg, len) == 0)
            return &table[i];
    return NULL;
}

bool an_option_number(const an_options *o, const char *flag, double *out)
{
    const option *t = find_option(flag, strlen(flag));
    const void *field = t ? (const char *)o + t->offset : NULL;
    if (!t || t->kind == KIND_STRING || t->kind == KIND_LIST) return false;
    if (t->kind == KIND_SECONDS)
        *out = *(const double *)field;
    else if (t->kind == KIND_INT)
        *out = *(const int *)field;
    else if (t->kind == KIND_BOOL)
        *out = *(const bool *)field;
    else
        *out = (double)*(const size_t *)field;
    return true;
}

static an_status parse_arguments(an_options *o, int argc, char **argv, bool *help, an_error *err)
{
    bool given[TABLE_SIZE] = {false};
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            *help = true;
            return AN_OK;
        }
        const char *eq = strchr(argv[i], '=');
        size_t len = eq ? (size_t)(eq - argv[i]) : strlen(argv[i]);
        const option *t = find_option(argv[i], len);
        if (!t)
            return an_fail(err, AN_INVALID, "unknown option '%s'; `anneal serve --help` lists them",
                           argv[i]);
        const char *value = eq ? eq + 1 : i + 1 < argc ? argv[++i] : NULL;
        if (!value) return an_fail(err, AN_INVALID, "%s needs a value (%s)", t->flag, t->value);
        if (t->kind == KIND_LIST && !given[t - table])
            clear_list(o, t); /* the command line replaces the environment */
        given[t - table] = true;
        an_status s = set_given(o, t, value, err);
        if (s != AN_OK) return s;
    }
    return AN_OK;
}

/* What is wrong with options together, or with words that no bounds tell. */
static an_status check_together(const an_options *o, an_error *err)
{
    an_log_level level;
    if (!an_log_parse_level(o->log_level, &level))
        return an_fail(err, AN_INVALID, "--log-level: '%s' is not debug, info, warn or error",
                       o->log_level);
    if (!*o->tls_cert != !*o->tls_key)
        return an_fail(err, AN_INVALID, "%s is given without %s: HTTPS needs both",
                       *o->tls_cert ? "--tls-cert" : "--tls-key",
                       *o->tls_cert ? "--tls-key" : "--tls-cert");
    for (int i = 0; i < o->n_cors_origins; i++) {
        const char *origin = o->cors_origins[i], *host = strstr(origin, "://");
        bool any = strcmp(origin, "*") == 0;
        if (!any && (!host || host == origin || !host[3] || strpbrk(host + 3, "/ *?#@")))
            return an_fail(err, AN_INVALID,
                           "--cors-origin: '%s' is not an origin: scheme://host or "
                           "scheme://host:port, nothing after it, or *",
                           origin);
    }
    return AN_OK;
}

an_status an_options_parse(an_options *o, int argc, char **argv, bool *help, an_error *err)
{
    memset(o, 0, sizeof *o);
    an_engine_options_default(&o->engine);
    *help = false;
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        const option *t = &table[i];
        if (!t->flag) continue;
        an_status s = t->kind == KIND_LIST ? AN_OK : set_option(o, t, t->initial, err);
        char name[64];
        env_name(t, name, sizeof name);
        const char *value = getenv(name);
        if (s == AN_OK && value && (*value || guards(t))) { /* empty is unset */
            s = set_given(o, t, value, err);
            if (s != AN_OK) return an_fail_prefix(err, s, "environment %s", name);
        }
        if (s != AN_OK) return s;
    }
    an_status s = parse_arguments(o, argc, argv, help, err);
    if (s == AN_OK) s = check_together(o, err);
    if (s != AN_OK) return s;
    o->engine.device = (an_device_options){.device = o->device,
                                           .isa = o->isa,
                                           .gemm = o->gemm,
                                           .threads = o->threads,
                                           .graphs = o->graphs};
    o->engine.dtype = o->dtype;
    o->engine.weights = o->weights;
    o->engine.model_dirs = (const char *const *)o->models;
    return AN_OK;
}

void an_options_free(an_options *o)
{
    for (size_t i = 0; i < TABLE_SIZE; i++)
        if (table[i].flag && table[i].kind == KIND_LIST) clear_list(o, &table[i]);
}

bool an_options_need_key(const an_options *o)
{
    return o->n_api_keys > 0 || *o->api_key_file;
}

bool an_options_at(size_t i, an_option_info *out)
{
    if (i >= TABLE_SIZE) return false;
    const option *t = &table[i];
    *out = (an_option_info){.section = t->flag ? NULL : t->value,
                            .flag = t->flag,
                            .value = t->value,
                            .initial = t->initial,
                            .help = t->help};
    if (t->flag) env_name(t, out->env, sizeof out->env);
    return true;
}

/* Help text, wrapped so that a terminal of 100 columns shows it whole. */
void an_wrap(an_buf *out, const char *text, int indent, int width)
{
    int col = 0;
    while (*text) {
        const char *end = strchr(text, ' ');
        int n = end ? (int)(end - text) : (int)strlen(text);
        if (col && col + 1 + n > width) {
            an_buf_printf(out, "\n%*s", indent, "");
            col = 0;
        }
        an_buf_printf(out, "%s%.*s", col ? " " : "", n, text);
        col += n + (col != 0);
        text += n + (end != NULL);
    }
    an_buf_str(out, "\n");
}

void an_options_help(an_buf *out)
{
    for (size_t i = 0; i < TABLE_SIZE; i++) {
        const option *t = &table[i];
        if (!t->flag) {
            an_buf_printf(out, "\n%s\n", t->value);
            continue;
        }
        char left[64], text[512];
        snprintf(left, sizeof left, "%s %s", t->flag, t->value);
        snprintf(text, sizeof text, "%s%s%s%s", t->help, *t->initial ? " [" : "", t->initial,
                 *t->initial ? "]" : "");
        if (strlen(left) > 31)
            an_buf_printf(out, "  %s\n%34s", left, "");
        else
            an_buf_printf(out, "  %-31s ", left);
        an_wrap(out, text, 34, 66);
    }
    an_buf_str(out, "\nEvery option is also an environment variable: --max-queue is "
                    "ANNEAL_MAX_QUEUE.\n");
}
