/* wrappers.c: every wrapper of kernels/cuda/gpu.cuh and hopper.cuh, and the functions of CUDA that
 * kernels stand on, against a model in plain C and against what a GPU once answered.
 *
 *   gpu_wrappers [--device simt|cuda] [--vectors FILE] [--write FILE]
 *
 * On simt the emulator is compared with the model in three orders of threads, and with the stored
 * answers of hardware if FILE exists. On cuda the GPU is compared with the model and with the
 * emulator, and --write stores what it answered; tests/golden/gpu_wrappers.txt is where the ctest
 * gpu_wrappers looks for it.
 *
 * FILE: lines of '#' tell the device and the date. "case NAME HASH N" begins a case: the hash is
 * FNV-1a of its input words, which are made anew from NAME; N words in hexadecimal follow, eight a
 * line, thread by thread. */
#include "wrappers_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int simt_configure(const char *options); /* kernels/simt/include/cuda_runtime_api.h */

enum { MOST_WORDS = 128 * 112 };

static int failures, comparisons;

/* Inputs depend on the case's name, not on its place: stored vectors outlive new cases. */
static uint64_t hash_bytes(const void *p, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const unsigned char *)p)[i]) * 0x100000001b3u;
    return h;
}

static int words_in(const wrapper_case *c)
{
    return wrapper_shapes[c->which].threads * wrapper_shapes[c->which].in;
}
static int words_out(const wrapper_case *c)
{
    return wrapper_shapes[c->which].threads * wrapper_shapes[c->which].out;
}

static void make_inputs(const wrapper_case *c, uint32_t *in)
{
    const uint64_t seed = hash_bytes(c->name, strlen(c->name)) | 1;
    c->inputs(in, wrapper_shapes[c->which].threads, wrapper_shapes[c->which].in, seed);
}

/* ---------------------------------------------------------------- comparing */

static bool agrees(const wrapper_case *c, uint32_t got, uint32_t want)
{
    if (got == want) return true;
    if (c->tol <= 0) return false;
    const double a = (double)bits_float(got), b = (double)bits_float(want);
    return fabs(a - b) <= c->tol * (fabs(b) + c->scale); /* NaN never does */
}

/* How many words differ; says where the first does, unless told to be quiet. */
static int differing(const wrapper_case *c, const char *who, const uint32_t *got, const char *whose,
                     const uint32_t *want)
{
    int n = 0, first = -1;
    for (int i = 0; i < words_out(c); i++) {
        if (agrees(c, got[i], want[i])) continue;
        if (n++ == 0) first = i;
    }
    if (!n || !who) return n;
    const int per_thread = wrapper_shapes[c->which].out;
    printf("  FAIL %s: %d of %d words; first thread %d, word %d: %s says %08x (%.9g), %s %08x "
           "(%.9g)\n",
           c->name, n, words_out(c), first / per_thread, first % per_thread, who, got[first],
           (double)bits_float(got[first]), whose, want[first], (double)bits_float(want[first]));
    return n;
}

static void compare(const wrapper_case *c, const char *who, const uint32_t *got, const char *whose,
                    const uint32_t *want)
{
    comparisons++;
    failures += differing(c, who, got, whose, want) != 0;
}

/* A comparison that cannot fail proves nothing: two threads' answers exchanged, the words of each
 * thread turned round, and a changed bit must all be seen. */
static void plant(const wrapper_case *c, const uint32_t *right)
{
    static uint32_t wrong[MOST_WORDS];
    const int n = words_out(c), per = wrapper_shapes[c->which].out;
    bool uniform = true; /* the same answer for all threads, as of votes */
    for (int i = per; i < n; i++) uniform &= right[i] == right[i % per];
    comparisons++;
    for (int i = 0; i < n; i++) {
        memcpy(wrong, right, (size_t)n * sizeof *wrong);
        wrong[i] ^= c->tol > 0 ? 0x00010000 : 1; /* in floats, a bit that counts */
        if (c->tol > 0 && fabs((double)bits_float(right[i])) < c->scale) continue;
        if (differing(c, NULL, wrong, NULL, right) == 1) continue;
        printf("  FAIL %s: a wrong bit in word %d goes unseen\n", c->name, i);
        failures++;
        return;
    }
    memcpy(wrong, right, (size_t)n * sizeof *wrong);
    for (int i = 0; i < per; i++) {
        wrong[5 * per + i] = right[6 * per + i];
        wrong[6 * per + i] = right[5 * per + i];
    }
    if (!uniform && strncmp(c->name, "votes/", 6) && !differing(c, NULL, wrong, NULL, right)) {
        printf("  FAIL %s: threads 5 and 6 exchanged go unseen\n", c->name);
        failures++;
    }
    for (int i = 0; i < n; i++) wrong[i] = right[i / per * per + per - 1 - i % per];
    if (per > 1 && !differing(c, NULL, wrong, NULL, right)) {
        printf("  FAIL %s: words turned round go unseen\n", c->name);
        failures++;
    }
}

/* ---------------------------------------------------------------- stored answers */

static void write_header(FILE *f, wrapper_describe_fn *describe)
{
    char text[512], date[32];
    const time_t now = time(NULL);
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &tm));
    describe(text, sizeof text);
    fprintf(f,
            "# What a GPU answered to tests/gpu/wrappers.cu; the format is told in wrappers.c.\n"
            "# %s\n# %s\n",
            text, date);
}

static void write_case(FILE *f, const wrapper_case *c, const uint32_t *in, const uint32_t *out)
{
    fprintf(f, "case %s %016llx %d\n", c->name,
            (unsigned long long)hash_bytes(in, (size_t)words_in(c) * 4), words_out(c));
    for (int i = 0; i < words_out(c); i++)
        fprintf(f, "%08x%c", out[i], i % 8 == 7 || i == words_out(c) - 1 ? '\n' : ' ');
}

/* The stored words of a case. False: it has none; a file that cannot be read is a failure. */
static bool stored(const char *path, const wrapper_case *c, const uint32_t *in, uint32_t *out)
{
    FILE *f = fopen(path, "r");
    if (!f) return false;
    char line[256], name[128];
    unsigned long long hash;
    int n;
    bool found = false;
    while (!found && fgets(line, sizeof line, f))
        found = sscanf(line, "case %127s %llx %d", name, &hash, &n) == 3 && !strcmp(name, c->name);
    bool ok = found && n == words_out(c);
    for (int i = 0; ok && i < n; i++) ok = fscanf(f, "%x", &out[i]) == 1;
    fclose(f);
    if (!found) return false;
    if (ok && hash == hash_bytes(in, (size_t)words_in(c) * 4)) return true;
    printf("  FAIL %s in %s: %s\n", c->name, path,
           ok ? "made of other inputs; let a GPU write it again" : "unreadable");
    failures++;
    return false;
}

/* ---------------------------------------------------------------- running */

typedef struct options {
    const char *device, *vectors, *write;
} options;

static bool run(const wrapper_case *c, wrapper_fn *fn, const char *who, const uint32_t *in,
                uint32_t *out)
{
    char error[1024] = "";
    memset(out, 0, (size_t)words_out(c) * 4);
    if (fn(c->which, in, out, error, sizeof error) == 0) return true;
    printf("  FAIL %s on %s: %s\n", c->name, who, error);
    failures++;
    return false;
}

/* One case everywhere; what the device itself answered goes to f. */
static void check_case(const options *o, const wrapper_case *c, wrapper_fn *device, FILE *f)
{
    static const char *const orders[] = {"order=rev", "order=rand,seed=3", "order=seq"};
    static uint32_t in[MOST_WORDS], want[MOST_WORDS], got[MOST_WORDS], other[MOST_WORDS];
    make_inputs(c, in);
    c->model(in, want);
    plant(c, want);
    if (run(c, device, o->device, in, got)) {
        compare(c, o->device, got, "the model", want);
        if (f) write_case(f, c, in, got);
    }
    for (int i = 0; i < 3; i++) {
        if (!simt_configure(orders[i]) || !run(c, an_simt_wrapper, "simt", in, other)) return;
        compare(c, orders[i], other, "the model", want);
    }
    if (device != an_simt_wrapper) compare(c, o->device, got, "the emulator", other);
    if (o->vectors && stored(o->vectors, c, in, want))
        compare(c, o->device, got, "hardware, once,", want);
}

static int usage(void)
{
    fprintf(stderr, "usage: gpu_wrappers [--device simt|cuda] [--vectors FILE] [--write FILE]\n");
    return 2;
}

int main(int argc, char **argv)
{
    options o = {.device = "simt"};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) return usage();
        if (!strcmp(argv[i], "--device"))
            o.device = argv[i + 1];
        else if (!strcmp(argv[i], "--vectors"))
            o.vectors = argv[i + 1];
        else if (!strcmp(argv[i], "--write"))
            o.write = argv[i + 1];
        else
            return usage();
    }
    wrapper_fn *device = an_simt_wrapper;
    wrapper_describe_fn *describe = an_simt_wrapper_describe;
    wrapper_has_hopper_fn *has_hopper = an_simt_wrapper_has_hopper;
    char text[512];
    if (!strcmp(o.device, "cuda")) {
#ifdef AN_CUDA
        device = an_cuda_wrapper;
        describe = an_cuda_wrapper_describe;
        has_hopper = an_cuda_wrapper_has_hopper;
#else
        fprintf(stderr, "gpu_wrappers: this build has no CUDA (ANNEAL_CUDA=on builds it)\n");
        return 1;
#endif
    } else if (strcmp(o.device, "simt") != 0) {
        return usage();
    }
    if (describe(text, sizeof text)) {
        fprintf(stderr, "gpu_wrappers: %s: %s\n", o.device, text);
        return 1;
    }
    printf("%s: %s\n", o.device, text);
    FILE *f = o.write ? fopen(o.write, "w") : NULL;
    if (o.write && !f) {
        perror(o.write);
        return 1;
    }
    if (f) write_header(f, describe);
    for (int i = 0; i < n_wrapper_cases; i++) check_case(&o, &wrapper_cases[i], device, f);
    if (has_hopper())
        for (int i = 0; i < n_hopper_cases; i++) check_case(&o, &hopper_cases[i], device, f);
    else
        printf("%d cases are left to a GPU of compute capability 9.0\n", n_hopper_cases);
    if (f && fclose(f)) failures++;
    printf("%d cases, %d comparisons, %d failed\n", n_wrapper_cases + n_hopper_cases, comparisons,
           failures);
    return failures != 0;
}
