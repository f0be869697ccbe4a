/* bench_load_client.c: one request of `anneal bench --load`: a streamed picture or chat, and when
 * its pieces came. */
#include "bench_load.h"

#include <jansson.h>
#include <stdlib.h>

static const char *const words[] = {"red",   "apple", "owl",    "river", "stone", "cloud",
                                    "paper", "green", "light",  "house", "seven", "train",
                                    "quiet", "bread", "winter", "glass"};
#define WORDS (sizeof words / sizeof *words)

/* splitmix64: Steele, Lea, Flood 2014 */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ---------------------------------------------------------------- bodies */

/* Differs from the first word on, so that no prefix cache answers for the device. */
static json_t *prompt_of(uint64_t seed, int count)
{
    an_buf b;
    an_buf_init(&b, 1 << 20);
    for (int i = 0; i < count; i++)
        an_buf_printf(&b, "%s%s", i ? " " : "", words[mix(seed + (uint64_t)i) % WORDS]);
    json_t *j = json_string(b.data ? b.data : "");
    an_buf_free(&b);
    return j;
}

static json_t *body_of(const load_ask *ask, load_kind kind, uint64_t number)
{
    uint64_t seed = mix((uint64_t)ask->seed * 1000003u + number);
    json_t *j = json_object(), *prompt = prompt_of(seed, kind == LOAD_CHAT ? ask->prompt_words : 4);
    if (ask->model) json_object_set_new(j, "model", json_string(ask->model));
    json_object_set_new(j, "stream", json_true());
    json_object_set_new(j, "seed", json_integer((json_int_t)(seed >> 32)));
    if (kind == LOAD_IMAGE) {
        json_object_set_new(j, "prompt", prompt);
        json_object_set_new(j, "partial_images", json_integer(1));
        if (ask->steps) json_object_set_new(j, "steps", json_integer(ask->steps));
        if (ask->width)
            json_object_set_new(j, "size", json_sprintf("%dx%d", ask->width, ask->height));
    } else {
        json_object_set_new(j, "messages",
                            json_pack("[{s:s,s:o}]", "role", "user", "content", prompt));
        json_object_set_new(j, "max_tokens", json_integer(ask->max_tokens));
        json_object_set_new(j, "stream_options", json_pack("{s:b}", "include_usage", 1));
    }
    return j;
}

/* ---------------------------------------------------------------- the stream */

static void on_piece(load_request *r)
{
    double now = an_now_s();
    if (!(r->first > 0))
        r->first = now;
    else if (r->kind == LOAD_CHAT)
        load_add(&r->result->gap, now - r->last);
    r->last = now;
}

/* A line's beginning is enough: what a picture's holds afterwards is the picture. */
static void on_line(load_request *r)
{
    const char *s = r->line;
    r->line[r->line_len] = '\0';
    if (strncmp(s, "event: error", 12) == 0 || strncmp(s, "data: {\"error\"", 14) == 0)
        r->broken = true;
    if (strncmp(s, "data: ", 6) != 0) return;
    if (r->kind == LOAD_IMAGE) {
        bool partial = strstr(s, "\"image_generation.partial_image\"") != NULL;
        bool whole = strstr(s, "\"image_generation.completed\"") != NULL;
        if (partial || (whole && !(r->first > 0))) on_piece(r); /* one step has no preview */
        r->complete |= whole;
        return;
    }
    const char *text = strstr(s, "\"content\":\""), *usage = strstr(s, "\"completion_tokens\":");
    if (text && text[11] != '"') on_piece(r);
    if (usage) r->tokens = strtoll(usage + 20, NULL, 10);
    r->complete |= strncmp(s, "data: [DONE]", 12) == 0;
}

static size_t on_data(char *data, size_t one, size_t n, void *arg)
{
    load_request *r = arg;
    (void)one;
    for (size_t at = 0; at < n;) {
        const char *end = memchr(data + at, '\n', n - at);
        size_t len = end ? (size_t)(end - data) - at : n - at;
        size_t room = sizeof r->line - 1 - r->line_len;
        memcpy(r->line + r->line_len, data + at, len < room ? len : room);
        r->line_len += len < room ? len : room;
        at += len;
        if (!end) break;
        at++;
        on_line(r);
        r->line_len = 0;
    }
    return n;
}

/* ---------------------------------------------------------------- requests */

static struct curl_slist *headers_of(const load_ask *ask, bool body)
{
    char key[600];
    struct curl_slist *h = body ? curl_slist_append(NULL, "Content-Type: application/json") : NULL;
    if (!ask->key) return h;
    snprintf(key, sizeof key, "Authorization: Bearer %s", ask->key);
    struct curl_slist *more = curl_slist_append(h, key);
    return more ? more : h;
}

static void set_common(CURL *easy, const load_ask *ask, const char *url, struct curl_slist *headers)
{
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(ask->timeout * 1e3));
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "anneal-bench/" AN_VERSION);
}

bool load_request_set(load_request *r, const load_ask *ask, load_kind kind, uint64_t number)
{
    json_t *body = body_of(ask, kind, number);
    r->kind = kind;
    r->body = json_dumps(body, JSON_COMPACT);
    r->headers = headers_of(ask, true);
    json_decref(body);
    if (!r->easy) r->easy = curl_easy_init();
    if (!r->body || !r->headers || !r->easy) return false;
    snprintf(r->url, sizeof r->url, "%s/v1/%s", ask->url,
             kind == LOAD_IMAGE ? "images/generations" : "chat/completions");
    curl_easy_reset(r->easy);
    set_common(r->easy, ask, r->url, r->headers);
    curl_easy_setopt(r->easy, CURLOPT_POSTFIELDS, r->body);
    curl_easy_setopt(r->easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(r->easy, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(r->easy, CURLOPT_PRIVATE, r);
    return true;
}

void load_request_count(load_request *r, CURLcode code)
{
    load_result *to = r->result;
    double now = an_now_s();
    long status = LOAD_NO_ANSWER;
    curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status < 0 || status >= LOAD_STATUSES) status = LOAD_BROKEN;
    if (code != CURLE_OK) status = status == 200 ? LOAD_BROKEN : LOAD_NO_ANSWER;
    if (status == 200 && (r->broken || !r->complete)) status = LOAD_BROKEN;
    to->status[status]++;
    if (status != 200) return;
    to->done[r->kind]++;
    to->tokens += r->tokens;
    load_add(&to->total[r->kind], now - r->due);
    if (r->first > 0) load_add(&to->first[r->kind], r->first - r->due);
}

/* The easy handle stays for the next. */
void load_request_clear(load_request *r)
{
    CURL *easy = r->easy;
    free(r->body);
    curl_slist_free_all(r->headers);
    *r = (load_request){.easy = easy};
}

/* ---------------------------------------------------------------- other questions */

static size_t on_text(char *data, size_t one, size_t n, void *arg)
{
    (void)one;
    return an_buf_add(arg, data, n) ? n : 0;
}

an_status load_get(const load_ask *ask, const char *path, char **text, an_error *err)
{
    char url[1024];
    long status = 0;
    an_buf b;
    CURL *easy = curl_easy_init();
    struct curl_slist *headers = headers_of(ask, false);
    *text = NULL;
    an_buf_init(&b, 16 << 20);
    if (!easy) return an_fail(err, AN_NO_MEMORY, "no memory for a request");
    snprintf(url, sizeof url, "%s%s", ask->url, path);
    set_common(easy, ask, url, headers);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_text);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &b);
    CURLcode code = curl_easy_perform(easy);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
    if (code == CURLE_OK && status == 200) {
        *text = an_buf_take(&b);
        if (*text) return AN_OK;
    }
    an_buf_free(&b);
    if (code != CURLE_OK) return an_fail(err, AN_IO, "%s: %s", url, curl_easy_strerror(code));
    return an_fail(err, AN_IO, "%s: answered %ld%s", url, status,
                   status == 401 ? "; --key KEY shows a key" : "");
}
