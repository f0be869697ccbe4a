/* choose.c: see pull.h. What of a repository anneal can use: weights in safetensors or GGUF once,
 * not in every precision and format that somebody uploaded, and the texts that go with them.
 * Pickles (.bin, .pt) are programs and never taken unless they are asked for by name. */
#include "pull.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define TAIL_OF_SPLIT 21 /* "-00001-of-00003.gguf" and a NUL */

static bool among(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(name, *list) == 0) return true;
    return false;
}

static bool at_root(const pull_file *f)
{
    return !strchr(f->path, '/');
}

static pull_file *find(pull_repo *r, const char *path)
{
    for (int i = 0; i < r->n; i++)
        if (strcmp(r->file[i].path, path) == 0) return &r->file[i];
    return NULL;
}

static bool is_pickle(const char *path)
{
    static const char *const endings[] = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", NULL};
    for (int i = 0; endings[i]; i++)
        if (an_ends_with(path, endings[i])) return true;
    return false;
}

/* ---------------------------------------------------------------- weights in a folder */

/* Length of "-00001-of-00003" at p, else 0. */
static size_t shard_length(const char *p)
{
    int i = 0, used = 0;
    return sscanf(p, "-%5d-of-%5d%n", &i, &i, &used) == 2 && used == 15 ? 15 : 0;
}

/* Is the file the stem's weights, or the index of their shards? variant gets "" or "fp16"; *shard:
 * it is one of several, or their index. */
static bool weights_of(const char *path, const char *stem, char variant[32], bool *shard)
{
    const char *p = pull_base_name(path);
    const size_t n = strlen(stem);
    variant[0] = '\0';
    *shard = false;
    if (strncmp(p, stem, n) != 0) return false;
    p += n;
    for (;;) {
        const size_t digits = shard_length(p);
        const size_t word = *p == '.' ? strcspn(p + 1, ".-") : 0;
        if (strcmp(p, ".safetensors") == 0) return true;
        if (strcmp(p, ".json") == 0) return *shard;
        if (digits) {
            *shard = true;
            p += digits;
        } else if (strncmp(p, ".safetensors.", 13) == 0) {
            p += 12;
        } else if (strncmp(p, ".index.", 7) == 0) {
            *shard = true;
            p += 6;
        } else if (word && word < 32 && !*variant) {
            memcpy(variant, p + 1, word);
            variant[word] = '\0';
            p += 1 + word;
        } else {
            return false;
        }
    }
}

static bool in_folder(const pull_file *f, const char *folder)
{
    const size_t n = strlen(folder), at = (size_t)(pull_base_name(f->path) - f->path);
    return at == (n ? n + 1 : 0) && memcmp(f->path, folder, n) == 0;
}

/* Does the folder have the stem's weights in this variant? *whole: in one file. */
static bool has_variant(const pull_repo *r, const char *folder, const char *stem, const char *want,
                        bool *whole)
{
    char variant[32];
    bool shard, there = false;
    *whole = false;
    for (int i = 0; i < r->n; i++) {
        if (!in_folder(&r->file[i], folder) ||
            !weights_of(r->file[i].path, stem, variant, &shard) || strcmp(variant, want) != 0)
            continue;
        there = true;
        *whole |= !shard;
    }
    return there;
}

/* Marks the weights of a component, once: in the variant that is wanted, else as anneal looks for
 * them. False if there are none. */
static bool take_weights(pull_repo *r, const char *folder, const char *stem, const char *wanted)
{
    const char *const order[] = {wanted ? wanted : "", "", "fp16", "bf16"};
    char variant[32];
    bool shard, whole = false;
    int k = 0;
    while (k < 4 && !has_variant(r, folder, stem, order[k], &whole)) k++;
    for (int i = 0; i < r->n; i++) {
        pull_file *f = &r->file[i];
        if (!in_folder(f, folder) || !an_ends_with(f->path, ".safetensors")) {
            if (!in_folder(f, folder) || !weights_of(f->path, stem, variant, &shard)) continue;
        } else if (!weights_of(f->path, stem, variant, &shard)) {
            f->left = LEFT_VARIANT;
            continue;
        }
        f->take = k < 4 && strcmp(variant, order[k]) == 0 && !(whole && shard);
        if (!f->take) f->left = LEFT_VARIANT;
    }
    return k < 4;
}

/* Configs, vocabularies and templates that anneal reads. */
static void take_texts(pull_repo *r, const char *folder)
{
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "scheduler_config.json",
                                        "model_index.json",
                                        "anneal.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        NULL};
    for (int i = 0; i < r->n; i++)
        if (in_folder(&r->file[i], folder) && among(pull_base_name(r->file[i].path), names))
            r->file[i].take = true;
}

static an_status no_weights(const pull_repo *r, const char *where, an_error *err)
{
    int pickles = 0;
    for (int i = 0; i < r->n; i++) pickles += is_pickle(r->file[i].path);
    return an_fail(err, AN_INVALID, "%s has no weights in .safetensors or .gguf%s", where,
                   pickles
                       ? ", only pickles, which are programs and not read: somebody must convert "
                         "them first"
                       : "");
}

/* A diffusers folder: the networks that anneal runs; not the safety checker, not other formats. */
static an_status choose_pipeline(pull_repo *r, const char *variant, an_error *err)
{
    static const char *const nets[][2] = {{"unet", "diffusion_pytorch_model"},
                                          {"vae", "diffusion_pytorch_model"},
                                          {"text_encoder", "model"},
                                          {"text_encoder_2", "model"}};
    static const char *const texts[] = {"scheduler", "tokenizer", "tokenizer_2"};
    char config[64];
    take_texts(r, "");
    for (int i = 0; i < 3; i++) take_texts(r, texts[i]);
    for (int i = 0; i < 4; i++) {
        snprintf(config, sizeof config, "%s/config.json", nets[i][0]);
        if (!find(r, config)) continue;
        take_texts(r, nets[i][0]);
        if (!take_weights(r, nets[i][0], nets[i][1], variant))
            return no_weights(r, nets[i][0], err);
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- files that are models */

/* "x/m-Q4_K_M-00001-of-00002.gguf": what all of a set have in common. */
static size_t set_length(const char *path)
{
    const size_t len = strlen(path), tail = TAIL_OF_SPLIT - 1;
    if (len > tail && shard_length(path + len - tail)) return len - tail;
    const char *dot = strrchr(path, '.');
    return dot ? (size_t)(dot - path) : len;
}

static bool same_set(const char *a, const char *b)
{
    const size_t n = set_length(a), m = set_length(b);
    return n == m && memcmp(a, b, n) == 0 && strcmp(strrchr(a, '.'), strrchr(b, '.')) == 0;
}

static bool is_model_gguf(const pull_file *f)
{
    return an_ends_with(f->path, ".gguf") && !strstr(pull_base_name(f->path), "mmproj") &&
           !strstr(pull_base_name(f->path), "imatrix");
}

/* Does the name hold the tag as a word of its own? Q4_K is no part of Q4_K_M. */
static bool has_tag(const char *path, const char *tag)
{
    const size_t n = strlen(tag), set = set_length(path);
    for (size_t i = 0; i + n <= set; i++)
        if (strncasecmp(path + i, tag, n) == 0 && (i == 0 || strchr("-._/", path[i - 1])) &&
            (i + n == set || strchr("-./", path[i + n])))
            return true;
    return false;
}

/* The only set of GGUF files with the tag ("" = any); *sets says how many there are. */
static const pull_file *gguf_with(const pull_repo *r, const char *tag, int *sets)
{
    const pull_file *first = NULL;
    *sets = 0;
    for (int i = 0; i < r->n; i++) {
        const pull_file *f = &r->file[i];
        bool known = false;
        if (!is_model_gguf(f) || (*tag && !has_tag(f->path, tag))) continue;
        for (int j = 0; j < i; j++)
            known |= is_model_gguf(&r->file[j]) && same_set(r->file[j].path, f->path);
        if (known) continue;
        if (!first) first = f;
        ++*sets;
    }
    return first;
}

static an_status which_gguf(const pull_repo *r, const char *asked, an_error *err)
{
    char list[600] = "";
    size_t n = 0;
    for (int i = 0; i < r->n && n + 80 < sizeof list; i++) {
        const char *path = r->file[i].path;
        bool first = is_model_gguf(&r->file[i]) ||
                     (an_ends_with(path, ".safetensors") && at_root(&r->file[i]));
        for (int j = 0; j < i && first; j++)
            if (strrchr(r->file[j].path, '.') && same_set(r->file[j].path, path)) first = false;
        if (first && strlen(path) < 64)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", path);
    }
    if (!n) return no_weights(r, "the repository", err);
    return an_fail(err, AN_INVALID,
                   "%s%s%s: say which behind a colon, a file or its Q4_K_M; there are: %s",
                   *asked ? "'" : "it holds several models", asked,
                   *asked ? "' is none of its models, or several" : "", list);
}

static void take_set(pull_repo *r, const char *path)
{
    for (int i = 0; i < r->n; i++) {
        pull_file *f = &r->file[i];
        f->take = strrchr(f->path, '.') && same_set(f->path, path);
        if (!f->take && is_model_gguf(f)) f->left = LEFT_VARIANT;
    }
}

static an_status choose_selected(pull_repo *r, const char *select, an_error *err)
{
    int sets;
    const pull_file *f = find(r, select);
    if (f && (an_ends_with(f->path, ".gguf") || an_ends_with(f->path, ".safetensors"))) {
        take_set(r, f->path);
        return AN_OK;
    }
    f = gguf_with(r, select, &sets);
    if (sets != 1) return which_gguf(r, select, err);
    take_set(r, f->path);
    return AN_OK;
}

/* As llama.cpp and Ollama choose: four bits, else what comes near. */
static an_status choose_gguf(pull_repo *r, an_error *err)
{
    static const char *const tags[] = {"Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0", "F16", "BF16"};
    int sets;
    const pull_file *f = gguf_with(r, "", &sets);
    for (int i = 0; i < 7 && sets != 1; i++) f = gguf_with(r, tags[i], &sets);
    if (sets != 1) return which_gguf(r, "", err);
    take_set(r, f->path);
    return AN_OK;
}

/* ---------------------------------------------------------------- all of it */

static bool matches(const char *path, const char *const *globs, int n)
{
    for (int i = 0; i < n; i++)
        if (fnmatch(globs[i], path, 0) == 0) return true;
    return false;
}

static an_status choose_default(pull_repo *r, const pull_wish *w, an_error *err)
{
    const pull_file *single = NULL;
    int safetensors = 0, ggufs;
    for (int i = 0; i < r->n; i++) {
        if (!at_root(&r->file[i]) || !an_ends_with(r->file[i].path, ".safetensors")) continue;
        single = &r->file[i];
        safetensors++;
    }
    if (find(r, "model_index.json")) return choose_pipeline(r, w->variant, err);
    if (find(r, "config.json") && safetensors) {
        take_texts(r, "");
        return take_weights(r, "", "model", w->variant) ? AN_OK : which_gguf(r, "", err);
    }
    gguf_with(r, "", &ggufs);
    if (ggufs) return choose_gguf(r, err);
    if (safetensors != 1) return which_gguf(r, "", err);
    take_set(r, single->path);
    return AN_OK;
}

/* A folder unless all that is taken are models by themselves. */
static bool makes_folder(const pull_repo *r)
{
    for (int i = 0; i < r->n; i++)
        if (r->file[i].take && !an_ends_with(r->file[i].path, ".gguf") &&
            !an_ends_with(r->file[i].path, ".safetensors"))
            return true;
    return false;
}

/* Where the files go; a file's name without its folder, with --name the name and its ending. */
static an_status give_targets(pull_repo *r, bool folder, const char *name, bool rename,
                              an_error *err)
{
    for (int i = 0; i < r->n; i++) {
        pull_file *f = &r->file[i];
        if (!f->take) continue;
        const char *base = pull_base_name(f->path);
        if (folder)
            f->target = an_strdup(f->path);
        else if (rename)
            f->target = an_asprintf("%s%s", name, base + set_length(base));
        else
            f->target = an_strdup(base);
        if (!f->target) return an_fail(err, AN_NO_MEMORY, "no memory for file names");
        if (!folder && !pull_name_safe(f->target))
            return an_fail(
                err, AN_INVALID,
                "'%.200s' cannot be the name of a model (a dot in front, a / or one of " PULL_SHELL
                "): --name gives another",
                f->target);
        for (int j = 0; j < i; j++)
            if (r->file[j].target && strcmp(r->file[j].target, f->target) == 0)
                return an_fail(err, AN_INVALID, "%.200s and %.200s would both become %.200s",
                               r->file[j].path, f->path, f->target);
    }
    return AN_OK;
}

an_status pull_choose(pull_repo *r, const pull_ref *ref, const pull_wish *w, bool *folder,
                      char name[PULL_NAME], an_error *err)
{
    an_status s = AN_OK;
    const pull_file *first = NULL;
    for (int i = 0; i < r->n; i++) {
        if (w->n_include) r->file[i].take = matches(r->file[i].path, w->include, w->n_include);
        if (is_pickle(r->file[i].path)) r->file[i].left = LEFT_PICKLE;
    }
    if (w->select && *w->select)
        s = choose_selected(r, w->select, err);
    else if (!w->n_include)
        s = choose_default(r, w, err);
    if (s) return s;
    for (int i = 0; i < r->n; i++) {
        pull_file *f = &r->file[i];
        if (f->take && matches(f->path, w->exclude, w->n_exclude)) {
            f->take = false;
            f->left = LEFT_EXCLUDED;
        }
        if (f->take && !first) first = f;
    }
    if (!first)
        return an_fail(err, AN_INVALID, "of its %d files none is wanted (--include, --exclude)",
                       r->n);
    *folder = makes_folder(r);
    const char *base = pull_base_name(first->path);
    if (w->name || *folder)
        snprintf(name, PULL_NAME, "%s", w->name ? w->name : ref->name);
    else
        snprintf(name, PULL_NAME, "%.*s", (int)set_length(base), base);
    if (!pull_name_safe(name))
        return an_fail(
            err, AN_INVALID,
            "'%.200s' cannot be the name of a model (a dot in front, a / or one of " PULL_SHELL
            "): --name gives another",
            name);
    return give_targets(r, *folder, name, w->name != NULL, err);
}
