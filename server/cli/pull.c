/* pull.c: `anneal pull hf:owner/name`: a model of the Hugging Face hub comes into the models
 * folder. */
#include "../pull/pull.h"
#include "anneal/model.h"
#include "anneal/weights.h"
#include "bar.h"
#include "text.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct pull_ask {
    const char *models, *name, *variant, *token_file, *parallel, *retries, *retry_wait, *timeout;
    const char *max_files, *max_bytes, *max_listing;
    cli_list include, exclude;
    bool dry_run, json, quiet;
} pull_ask;

/* All of one pull. */
typedef struct pulling {
    const pull_ask *ask;
    pull_ref ref;
    pull_web web;
    pull_limits limits;
    pull_repo repo;
    pull_store store;
    pull_progress progress;
    char dir[2048], name[PULL_NAME], path[4096];
    bool folder, current, served;
    int parallel;
    int64_t bytes; /* of all that is taken */
    double begun;
    an_error unserved;
} pulling;

/* ---------------------------------------------------------------- saying what happens */

static void human(double bytes, char *buf, size_t size)
{
    if (bytes >= 1e9)
        snprintf(buf, size, "%.2f GB", bytes / 1e9);
    else if (bytes >= 1e6)
        snprintf(buf, size, "%.1f MB", bytes / 1e6);
    else
        snprintf(buf, size, "%.1f kB", bytes / 1e3);
}

static void show(void *ctx, int64_t done, int64_t total, double rate)
{
    char have[32], all[32], speed[32], left[48] = "";
    (void)ctx;
    human((double)done, have, sizeof have);
    human((double)total, all, sizeof all);
    human(rate, speed, sizeof speed);
    if (rate > 0 && done < total) {
        const long s = (long)((double)(total - done) / rate);
        if (s < 3600 * 100)
            snprintf(left, sizeof left, ", %ld:%02ld:%02ld left", s / 3600, s / 60 % 60, s % 60);
    }
    bar_draw(total ? (double)done / (double)total : 1, "%s of %s, %s/s%s", have, all, speed, left);
}

/* What is taken, what is left out, and how to get it nevertheless. */
static void tell_choice(const pulling *p, FILE *to)
{
    int left[LEFT_KINDS] = {0}, n = 0;
    char all[32];
    for (int i = 0; i < p->repo.n; i++) {
        if (p->repo.file[i].take)
            n++;
        else
            left[p->repo.file[i].left]++;
    }
    human((double)p->bytes, all, sizeof all);
    fprintf(to, "hf:%s/%s at %.12s: %d file%s, %s, to %s\n", p->ref.owner, p->ref.name,
            p->repo.commit, n, n == 1 ? "" : "s", all, p->path);
    if (p->repo.n == n) return;
    fprintf(to, "left out:");
    if (left[LEFT_VARIANT]) fprintf(to, " %d other variants of weights;", left[LEFT_VARIANT]);
    if (left[LEFT_PICKLE]) fprintf(to, " %d pickles;", left[LEFT_PICKLE]);
    if (left[LEFT_EXCLUDED]) fprintf(to, " %d by --exclude;", left[LEFT_EXCLUDED]);
    if (left[LEFT_OUT]) fprintf(to, " %d that anneal does not read;", left[LEFT_OUT]);
    fprintf(to, " --variant, :FILE and --include choose otherwise\n");
}

static void tell_files(const pulling *p)
{
    for (int i = 0; i < p->repo.n; i++) {
        const pull_file *f = &p->repo.file[i];
        char size[32];
        human((double)f->size, size, sizeof size);
        if (f->take) printf("%10s  %s\n", size, f->path);
    }
}

static int print_json(const pulling *p)
{
    json_t *files = json_array();
    char repo[2 * PULL_NAME];
    snprintf(repo, sizeof repo, "%s/%s", p->ref.owner, p->ref.name);
    for (int i = 0; i < p->repo.n; i++) {
        const pull_file *f = &p->repo.file[i];
        if (f->take)
            json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "path", f->path, "size",
                                                   (json_int_t)f->size,
                                                   f->sha256 ? "sha256" : "git_sha1", f->hash));
    }
    json_t *v =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:f, s:b, s:o}", "model", p->name, "path",
                  p->path, "repo", repo, "revision", p->ref.revision, "commit", p->repo.commit,
                  "bytes", (json_int_t)p->bytes, "fetched", (json_int_t)p->progress.fetched,
                  "seconds", an_now_s() - p->begun, "dry_run", p->ask->dry_run, "files", files);
    if (v && !p->ask->dry_run) json_object_set_new(v, "served", json_boolean(p->served));
    if (v && !p->ask->dry_run && !p->served)
        json_object_set_new(v, "error", json_string(p->unserved.message));
    return cli_print_json(v);
}

/* ---------------------------------------------------------------- the steps */

/* Would `serve` take it? */
static void probe(pulling *p)
{
    an_checkpoint *c = NULL;
    an_model_info info;
    an_status s = an_checkpoint_open(p->path, &c, &p->unserved);
    if (!s) s = an_model_probe(c, &info, &p->unserved);
    an_checkpoint_close(c);
    p->served = s == AN_OK;
}

static an_status choose(pulling *p, an_error *err)
{
    const pull_ask *a = p->ask;
    const pull_wish w = {p->ref.select, a->variant,   a->include.item, a->exclude.item,
                         a->include.n,  a->exclude.n, a->name};
    an_status s = pull_list(&p->web, &p->ref, &p->limits, &p->repo, err);
    if (!s) s = pull_choose(&p->repo, &p->ref, &w, &p->folder, p->name, err);
    if (s) return s;
    for (int i = 0; i < p->repo.n; i++) {
        const pull_file *f = &p->repo.file[i];
        if (!f->take) continue;
        if (__builtin_add_overflow(p->bytes, f->size, &p->bytes) ||
            (uint64_t)p->bytes > p->limits.max_bytes)
            return an_fail(err, AN_TOO_LARGE,
                           "its files are larger than %zu bytes together "
                           "(--max-bytes)",
                           p->limits.max_bytes);
    }
    snprintf(p->store.dir, sizeof p->store.dir, "%s", p->dir);
    snprintf(p->store.name, sizeof p->store.name, "%s", p->name);
    p->store.folder = p->folder;
    pull_store_path(&p->store, &p->repo, p->path, sizeof p->path);
    return AN_OK;
}

static an_status bring(pulling *p, bool bar, an_error *err)
{
    an_status s = pull_store_open(&p->store, p->dir, p->name, p->folder, &p->ref, &p->repo, err);
    if (s) return s;
    p->current = pull_store_current(&p->store, &p->repo);
    if (p->current) return AN_OK;
    s = pull_store_resume(&p->store, &p->repo, err);
    if (!s) s = pull_store_space(&p->store, &p->repo, err);
    if (s) return s;
    cli_catch_interrupt();
    p->progress.stop = &cli_interrupted;
    p->progress.show = bar ? show : NULL;
    s = pull_fetch(&p->web, &p->ref, &p->store, &p->repo, p->parallel, &p->progress, err);
    if (bar) bar_end();
    return s ? s : pull_store_publish(&p->store, &p->ref, &p->repo, err);
}

static int run(pulling *p)
{
    an_error err = {0};
    const bool bar = !p->ask->quiet && bar_wanted();
    p->store.lock = -1;
    p->begun = an_now_s();
    an_status s = choose(p, &err);
    if (!s && !p->ask->quiet && !p->ask->json) tell_choice(p, p->ask->dry_run ? stdout : stderr);
    if (!s && p->ask->dry_run) {
        if (p->ask->json) return print_json(p);
        tell_files(p);
        return CLI_OK;
    }
    if (!s) s = bring(p, bar, &err);
    pull_store_close(&p->store);
    if (s == AN_CANCELED) {
        fprintf(stderr, "anneal: stopped; what came is kept: the same command goes on\n");
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
    }
    if (s) return cli_fail(&err);
    probe(p);
    if (p->ask->json) return print_json(p);
    if (p->current && !p->ask->quiet) fprintf(stderr, "it is there already, whole\n");
    if (p->served)
        printf("%s\n", p->name);
    else
        fprintf(stderr, "anneal: %s is there, but cannot be served: %s\n", p->name,
                p->unserved.message);
    return CLI_OK;
}

/* ---------------------------------------------------------------- command */

static bool read_size(const char *name, const char *text, size_t *out)
{
    if (!text || (an_parse_size(text, out) && *out > 0)) return true;
    fprintf(stderr, "anneal: %s: '%s' is not a size like 64M\n", name, text);
    return false;
}

static bool read_folder(const char *asked, pulling *p)
{
    const char *env = getenv("ANNEAL_MODELS");
    const char *dir = asked ? asked : env && *env ? env : NULL;
    bool ok = dir ? snprintf(p->dir, sizeof p->dir, "%.*s", (int)strcspn(dir, ","), dir) > 0
                  : cli_cache_models(p->dir, sizeof p->dir);
    if (!ok) fprintf(stderr, "anneal: into which folder? --models DIR\n");
    return ok;
}

static bool read_ask(const pull_ask *a, const char *what, pulling *p)
{
    an_error err = {0};
    if (!what) {
        fprintf(stderr, "anneal: pull what? anneal pull hf:OWNER/NAME\n");
        return false;
    }
    if (!cli_int("--parallel", a->parallel, 1, 32, &p->parallel) ||
        !cli_int("--retries", a->retries, 0, 1000, &p->web.retries) ||
        !cli_number("--retry-wait", a->retry_wait, 0, 300, &p->web.retry_wait_s) ||
        !cli_number("--timeout", a->timeout, 1, 3600, &p->web.timeout_s) ||
        !cli_int("--max-files", a->max_files, 1, 1000000, &p->limits.max_files) ||
        !read_size("--max-bytes", a->max_bytes, &p->limits.max_bytes) ||
        !read_size("--max-listing", a->max_listing, &p->limits.max_listing) ||
        !read_folder(a->models, p))
        return false;
    if (pull_ref_parse(what, &p->ref, &err) != AN_OK ||
        pull_web_init(&p->web, a->token_file, &err) != AN_OK) {
        cli_fail(&err);
        return false;
    }
    if (!*p->ref.select || !a->include.n) return true;
    fprintf(stderr, "anneal: :%s and --include: one of them chooses\n", p->ref.select);
    return false;
}

static int cmd_pull(int argc, char **argv)
{
    int rc = CLI_USAGE;
    const char *what = NULL;
    pull_ask a = {0};
    pulling p = {.ask = &a,
                 .parallel = 4,
                 .web = {.timeout_s = 30, .retries = 6, .retry_wait_s = 1},
                 .limits = {10000, (size_t)1 << 40, (size_t)32 << 20}};
    if (!cli_parse(&cli_pull, argc, argv, &a, NULL, &what, &rc)) return rc;
    an_log_set_level(AN_LOG_ERROR);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    rc = read_ask(&a, what, &p) ? run(&p) : CLI_USAGE;
    pull_repo_free(&p.repo);
    curl_global_cleanup();
    return rc;
}

#define AT(field) offsetof(pull_ask, field)
static const cli_flag flags[] = {
    {"--models", NULL, "DIR", CLI_TEXT, AT(models),
     "models folder it comes into [ANNEAL_MODELS, else ~/.cache/anneal/models]"},
    {"--name", NULL, "NAME", CLI_TEXT, AT(name), "of the model there [the repository's or file's]"},
    {"--variant", NULL, "NAME", CLI_TEXT, AT(variant),
     "weights of this kind where a file has several, such as fp16 [the plain ones]"},
    {"--include", NULL, "GLOB", CLI_LIST, AT(include),
     "take the files that match, instead of those that anneal reads; may be repeated"},
    {"--exclude", NULL, "GLOB", CLI_LIST, AT(exclude), "leave out what matches; may be repeated"},
    {"--dry-run", NULL, NULL, CLI_SWITCH, AT(dry_run), "tell what would come, and fetch nothing"},
    {"--json", NULL, NULL, CLI_SWITCH, AT(json), "tell what came, for machines"},
    {"--quiet", "-q", NULL, CLI_SWITCH, AT(quiet), "no progress bar, and the model's name alone"},
    {"--token-file", NULL, "FILE", CLI_TEXT, AT(token_file),
     "file with a token of the hub, for private and gated models [HF_TOKEN]"},
    {"--parallel", NULL, "N", CLI_TEXT, AT(parallel), "files that come at a time [4]"},
    {"--retries", NULL, "N", CLI_TEXT, AT(retries), "tries in a row that bring nothing [6]"},
    {"--retry-wait", NULL, "SECONDS", CLI_TEXT, AT(retry_wait),
     "before the first of them, twice as long before each next [1]"},
    {"--timeout", NULL, "SECONDS", CLI_TEXT, AT(timeout),
     "without a byte, until a try counts as failed [30]"},
    {"--max-files", NULL, "N", CLI_TEXT, AT(max_files), "files of a repository [10000]"},
    {"--max-bytes", NULL, "SIZE", CLI_TEXT, AT(max_bytes), "bytes of all that comes [1T]"},
    {"--max-listing", NULL, "SIZE", CLI_TEXT, AT(max_listing),
     "bytes of the hub's list of files [32M]"},
    CLI_END};
const cli_command cli_pull = {
    "pull",
    cmd_pull,
    "bring a model of the Hugging Face hub into a models folder",
    "hf:OWNER/NAME[@REVISION][:FILE|:Q4_K_M] [options]",
    "Fetches what anneal reads of a model repository: safetensors or one GGUF, configs, "
    "vocabularies. "
    "What was interrupted goes on, every file is checked against the hub's checksum, and the model "
    "appears in the folder when it is whole. HF_ENDPOINT names another hub, HF_TOKEN a token, "
    "https_proxy and no_proxy a proxy. Prints the model's name.",
    "hf:OWNER/NAME",
    flags,
    false};
