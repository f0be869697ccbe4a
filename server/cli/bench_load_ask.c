/* bench_load_ask.c: the options of `anneal bench --load`. */
#include "bench_load.h"
#include "cli.h"

#include <stdlib.h>

#define MAX_RATE 10000

static bool read_url(const char *url, load_ask *ask)
{
    size_t n = strlen(url);
    bool http = strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0;
    while (n && url[n - 1] == '/') n--;
    if (http && n > 7 && n < sizeof ask->url) {
        memcpy(ask->url, url, n);
        ask->url[n] = '\0';
        return true;
    }
    fprintf(stderr,
            "anneal: --load: '%.200s' is not a server's address such as "
            "http://127.0.0.1:8080\n",
            url);
    return false;
}

/* "1,2,4" */
static bool read_rates(const char *text, load_ask *ask)
{
    if (!text) return true;
    ask->n_rates = 0;
    for (const char *p = text;; p++) {
        char *end;
        double v = strtod(p, &end);
        if (end == p || !(v > 0 && v <= MAX_RATE) || ask->n_rates == LOAD_MAX_RATES ||
            (*end && *end != ',')) {
            fprintf(stderr,
                    "anneal: --rate: '%s' is not a list of up to %d rates above 0, at most "
                    "%d a second\n",
                    text, LOAD_MAX_RATES, MAX_RATE);
            return false;
        }
        ask->rates[ask->n_rates++] = v;
        if (!*end) return true;
        p = end;
    }
}

/* "1:3" */
static bool read_mix(const char *text, load_ask *ask)
{
    int end = 0;
    double image, chat;
    if (!text) return true;
    if (sscanf(text, "%lf:%lf%n", &image, &chat, &end) == 2 && !text[end] && image >= 0 &&
        chat >= 0 && image + chat > 0 && image + chat < 1e6) {
        ask->weight[LOAD_IMAGE] = image;
        ask->weight[LOAD_CHAT] = chat;
        return true;
    }
    fprintf(stderr, "anneal: --mix: '%s' is not IMAGES:CHATS, such as 1:3 or 0:1\n", text);
    return false;
}

bool load_read(const load_line *l, load_ask *ask)
{
    ask->key = l->key;
    ask->svg = l->svg;
    ask->sweep = l->sweep;
    if (l->key && strlen(l->key) > 500) {
        fprintf(stderr, "anneal: --key: longer than 500 bytes\n");
        return false;
    }
    return read_url(l->url, ask) && read_rates(l->rate, ask) && read_mix(l->mix, ask) &&
           cli_seed("--seed", l->seed, &ask->seed) &&
           cli_int("--steps", l->steps, 1, 1000, &ask->steps) &&
           cli_int("--prompt-words", l->prompt_words, 1, 100000, &ask->prompt_words) &&
           cli_int("--max-tokens", l->max_tokens, 1, 1000000, &ask->max_tokens) &&
           cli_number("--timeout", l->timeout, 0.1, 86400, &ask->timeout);
}
