/* page.c: the page for people, GET / and the files it is made of: web/, embedded in the binary. It
 * needs no key, since it holds nothing; what it asks the server for does. */
#include "http.h"
#include "image.h"

#include <gnutls/crypto.h>
#include <pthread.h>
#include <stdlib.h>

/* Nothing from elsewhere, nothing inline but the two texts with these hashes: what a model or a
 * prompt says can never become code. */
#define POLICY(script, style)                                                                      \
    "default-src 'none'; script-src 'self'" script "; style-src 'self'" style                      \
    "; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "      \
    "frame-ancestors 'none'"
#define JS "text/javascript; charset=utf-8"

#define FILES(X)                                                                                   \
    X(index_html, "index.html", "text/html; charset=utf-8")                                        \
    X(style_css, "style.css", "text/css; charset=utf-8")                                           \
    X(icon_svg, "icon.svg", "image/svg+xml")                                                       \
    X(theme_js, "theme.js", JS)                                                                    \
    X(main_js, "main.js", JS)                                                                      \
    X(api_js, "api.js", JS)                                                                        \
    X(dom_js, "dom.js", JS)                                                                        \
    X(images_js, "images.js", JS)                                                                  \
    X(settings_js, "settings.js", JS)                                                              \
    X(jobs_js, "jobs.js", JS)                                                                      \
    X(gallery_js, "gallery.js", JS)                                                                \
    X(grid_js, "grid.js", JS)                                                                      \
    X(store_js, "store.js", JS)                                                                    \
    X(png_js, "png.js", JS)                                                                        \
    X(chat_js, "chat.js", JS)                                                                      \
    X(markdown_js, "markdown.js", JS)                                                              \
    X(status_js, "status.js", JS)

#define DECLARE(symbol, name, type)                                                                \
    extern const unsigned char an_web_##symbol[];                                                  \
    extern const size_t an_web_##symbol##_size;
FILES(DECLARE)

typedef struct web_file {
    const char *name, *type;
    const unsigned char *data;
    const size_t *size;
    char tag[20]; /* "hash", an entity tag */
} web_file;

#define ENTRY(symbol, file, mime) {file, mime, an_web_##symbol, &an_web_##symbol##_size, ""},
static web_file files[] = {FILES(ENTRY)};
#define FILE_COUNT (sizeof files / sizeof *files)

static char policy[sizeof POLICY("", "") + 128] = POLICY("", "");

static const web_file *find(const char *name)
{
    for (size_t f = 0; f < FILE_COUNT; f++)
        if (strcmp(files[f].name, name) == 0) return &files[f];
    return NULL;
}

/* The base64 of a file's SHA-256 into out. */
static bool hash(const web_file *f, an_buf *out)
{
    unsigned char raw[32];
    return gnutls_hash_fast(GNUTLS_DIG_SHA256, f->data, *f->size, raw) == 0 &&
           an_base64_encode(raw, sizeof raw, out);
}

/* What the first paint waits for, in the order of index.html. */
static const struct {
    const char *link, *file, *begin, *end;
} inlined[] = {
    {"<script src=\"web/theme.js\"></script>", "theme.js", "<script>", "</script>"},
    {"<link rel=\"stylesheet\" href=\"web/style.css\">", "style.css", "<style>", "</style>"},
};

/* index.html with those files inside; their hashes. */
static bool assemble(an_buf *html, an_buf hashes[2])
{
    const char *from = (const char *)files[0].data;
    for (int i = 0; i < 2; i++) {
        const char *at = strstr(from, inlined[i].link);
        const web_file *f = find(inlined[i].file);
        if (!at || !f || !hash(f, &hashes[i])) return false;
        an_buf_add(html, from, (size_t)(at - from));
        an_buf_str(html, inlined[i].begin);
        an_buf_add(html, f->data, *f->size);
        an_buf_str(html, inlined[i].end);
        from = at + strlen(inlined[i].link);
    }
    return an_buf_str(html, from);
}

/* As files of their own they are two more questions before anything is seen (docs/SPEED.md). Where
 * they cannot be put inside, they stay so. */
static void put_inside(void)
{
    static size_t size;
    an_buf html, hashes[2];
    an_buf_init(&html, 1 << 20);
    for (int i = 0; i < 2; i++) an_buf_init(&hashes[i], 64);
    if (assemble(&html, hashes)) {
        snprintf(policy, sizeof policy, POLICY(" 'sha256-%s'", " 'sha256-%s'"), hashes[0].data,
                 hashes[1].data);
        size = html.len;
        files[0].data = (unsigned char *)an_buf_take(&html);
        files[0].size = &size;
    }
    an_buf_free(&html);
    for (int i = 0; i < 2; i++) an_buf_free(&hashes[i]);
}

static void make_files(void)
{
    put_inside();
    for (size_t f = 0; f < FILE_COUNT; f++) {
        uint64_t h = 1469598103934665603u;
        for (size_t i = 0; i < *files[f].size; i++) h = (h ^ files[f].data[i]) * 1099511628211u;
        snprintf(files[f].tag, sizeof files[f].tag, "\"%016llx\"", (unsigned long long)h);
    }
}

static void not_freed(void *data)
{
    (void)data;
}

/* A list of tags, or "*"; weak ones will do. */
static bool has_it(const char *wanted, const char *tag)
{
    return wanted && (strcmp(wanted, "*") == 0 || strstr(wanted, tag));
}

static void send_file(an_req *r, const web_file *f)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_files);
    reply_header(r, "ETag", f->tag);
    /* Asked for anew each time, and answered 304: a new binary shows its new page at once. */
    reply_header(r, "Cache-Control", "no-cache");
    reply_header(r, "Content-Security-Policy", policy);
    reply_header(r, "Referrer-Policy", "no-referrer");
    if (has_it(request_header(r, "If-None-Match"), f->tag))
        reply_bytes(r, 304, NULL, NULL, 0);
    else
        reply_shared(r, 200, f->type, (char *)(uintptr_t)f->data, *f->size, not_freed, NULL);
}

static void file(an_req *r)
{
    an_error err = {0};
    const web_file *f = find(r->rest);
    if (f) {
        send_file(r, f);
        return;
    }
    an_fail(&err, AN_NOT_FOUND, "nothing lives at %.200s", r->path);
    reply_error(r, &err);
}

/* What a terminal is told. */
static void usage(an_req *r)
{
    static const char text[] =
        "anneal " AN_VERSION "\n\n"
        "curl -s localhost:8080/v1/images/generations -H 'Content-Type: application/json' \\\n"
        "     -d '{\"prompt\":\"red apple on a blue background\",\"seed\":1}' \\\n"
        "     | jq -r '.data[0].b64_json' | base64 -d > apple.png\n\n"
        "curl -sN localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        "     -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Why is the sky blue?\"}],"
        "\"stream\":true}'\n\n"
        "POST /v1/chat/completions   POST /v1/completions   POST /tokenize   /detokenize\n"
        "     /apply-template   /completion   /infill   GET /props   /slots\n"
        "POST /v1/images/generations   POST /v1/jobs   GET /v1/jobs/ID[/events]   POST "
        "/v1/latents\n"
        "GET  /v1/models   /v1/status   /health   /metrics   and A1111's /sdapi/v1/*\n"
        "GET  / in a browser: pictures, a chat, and how the server is doing\n";
    reply_bytes(r, 200, "text/plain; charset=utf-8", strdup(text), sizeof text - 1);
}

/* Browsers say that they take HTML; curl takes anything, and is better served with text. */
static void root(an_req *r)
{
    const char *accept = request_header(r, "Accept");
    reply_header(r, "Vary", "Accept");
    if (accept && strstr(accept, "text/html"))
        send_file(r, &files[0]);
    else
        usage(r);
}

const an_route page_routes[] = {
    {"GET", "/", root, true}, {"GET", "/web/*", file, true}, {NULL, NULL, NULL, false}};
