/* device.c: which filling of the op table works here, with how many threads and which instructions;
 * its memory and its weights. */
#include "backend.h"
#include "cpu/attention.h"
#include "cpu/cpuid.h"
#include "cpu/gemm.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_THREADS 1024

/* ---------------------------------------------------------------- how many threads */

/* "quota period" in cgroup v2's cpu.max ("max" = no limit), the two alone in v1's files. */
static double quota_of(const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    char quota[32] = "";
    double period = 0;
    int n = fscanf(f, "%31s %lf", quota, &period);
    fclose(f);
    if (n < 2 || period <= 0) return 0;
    char *end;
    double q = strtod(quota, &end);
    return *end == '\0' && q > 0 ? q / period : 0;
}

static double quota_v1(void)
{
    double v[2] = {0, 0};
    static const char *const files[2] = {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                                         "/sys/fs/cgroup/cpu/cpu.cfs_period_us"};
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(files[i], "re");
        if (!f) return 0;
        if (fscanf(f, "%lf", &v[i]) != 1) v[i] = 0;
        fclose(f);
    }
    return v[0] > 0 && v[1] > 0 ? v[0] / v[1] : 0;
}

/* Cores the control group may use per second of time, 0 = unlimited: the least on the way up. */
static double cgroup_cores(void)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[1024], group[1024] = "/";
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::", 3)) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(group, sizeof group, "%s", line + 3);
    }
    if (f) fclose(f);
    double least = quota_v1();
    for (;;) {
        char path[1200];
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", strcmp(group, "/") ? group : "");
        double q = quota_of(path);
        if (q > 0 && (least <= 0 || q < least)) least = q;
        char *slash = strrchr(group, '/');
        if (!slash || strcmp(group, "/") == 0 || group[0] == '\0') break;
        slash[slash == group] = '\0';
    }
    return least;
}

static int usable_threads(const char **why)
{
    int n = 1;
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) n = CPU_COUNT(&set);
    *why = "one per core this process may use";
    double cores = cgroup_cores();
    if (cores > 0 && cores < n) {
        n = (int)cores;
        if (n < cores) n++;
        *why = "the control group's CPU quota";
    }
    return n;
}

/* ---------------------------------------------------------------- opening */

static bool is_auto(const char *s)
{
    return !s || !*s || strcmp(s, "auto") == 0;
}

/* Whether name is `kind`, alone or with a number after a colon: "cuda", "cuda:1". */
static bool names(const char *name, const char *kind)
{
    size_t n = strlen(kind);
    return strncmp(name, kind, n) == 0 && (name[n] == '\0' || name[n] == ':');
}

/* What `name` asks for; under auto NULL: the GPU if there is one, else the CPU. */
static an_status choose_backend(const char *name, const an_backend **out, an_error *err)
{
    *out = NULL;
    if (is_auto(name)) return AN_OK;
    if (strchr(name, ','))
        return an_fail_param(err, AN_INVALID, "device", "device '%s': one device is wanted here",
                             name);
    if (strcmp(name, "cpu") == 0)
        *out = &an_backend_cpu;
    else if (strcmp(name, "ref") == 0)
        *out = &an_backend_ref;
    else if (names(name, "simt"))
        *out = &an_simt_backend;
    else if (names(name, "cuda"))
        *out = an_backend_gpu();
    else
        return an_fail_param(err, AN_INVALID, "device",
                             "unknown device '%s': there are auto, cpu, cuda, cuda:1 and so on, "
                             "simt, ref",
                             name);
    if (*out) return AN_OK;
    return an_fail_param(err, AN_DEVICE, "device",
                         "device '%s': this build has no CUDA backend (ANNEAL_CUDA=on builds one); "
                         "there are auto, cpu, simt, ref",
                         name);
}

/* Whether the kernels of a set compute right here, found out once in the life of the process. */
static bool trusted(an_isa isa)
{
    static _Atomic int verdict[AN_ISA_AMX + 1]; /* 0 = not asked, 1 = right, 2 = wrong */
    if (!verdict[isa])
        verdict[isa] = an_cpu_self_test(isa) && an_cpu_attention_self_test(isa) ? 1 : 2;
    return verdict[isa] == 1;
}

static an_status choose_isa(const char *cap, an_isa *out, const char **why, an_error *err)
{
    an_isa have = an_cpu_detect();
    *why = "the widest this machine has";
    while (have > AN_ISA_GENERIC && !trusted(have)) {
        an_log(AN_LOG_WARN,
               "the %s kernels failed their self-test on this machine and are not used",
               an_isa_name(have));
        *why = "a wider one failed its self-test";
        have--;
    }
    *out = have;
    if (is_auto(cap)) return AN_OK;
    for (an_isa i = AN_ISA_GENERIC; i <= AN_ISA_AMX; i++) {
        if (strcmp(cap, an_isa_name(i))) continue;
        if (i < have) {
            *out = i;
            *why = "capped by an option";
        } else if (i > have) {
            *why = "the option allows more than this machine has";
        }
        return AN_OK;
    }
    return an_fail_param(err, AN_INVALID, "isa",
                         "unknown instruction set '%s': there are auto, generic, avx2, avx512, "
                         "avx512_bf16, amx",
                         cap);
}

static an_status choose_gemm(const char *name, bool *onednn, an_error *err)
{
    *onednn = false;
    if (is_auto(name) || strcmp(name, "own") == 0) return AN_OK;
    if (strcmp(name, "onednn"))
        return an_fail_param(err, AN_INVALID, "gemm",
                             "unknown gemm '%s': there are auto, own, onednn", name);
#ifdef AN_ONEDNN
    *onednn = true;
    return AN_OK;
#else
    return an_fail_param(err, AN_INVALID, "gemm",
                         "gemm 'onednn': this build has no oneDNN; there are auto, own");
#endif
}

static an_status choose_graphs(const char *name, bool *on, an_error *err)
{
    *on = is_auto(name);
    if (*on || strcmp(name, "off") == 0) return AN_OK;
    return an_fail_param(err, AN_INVALID, "graphs", "unknown graphs '%s': there are auto, off",
                         name);
}

/* An empty device of a backend, with threads for the host's part of the work. */
static an_status device_new(const an_backend *backend, int threads, an_device **out, an_error *err)
{
    an_device *d = calloc(1, sizeof *d);
    if (!d) return an_fail(err, AN_NO_MEMORY, "no memory for a device");
    d->backend = backend;
    an_status s = an_pool_new(threads, &d->pool, err);
    if (s) {
        free(d);
        return s;
    }
    pthread_mutex_init(&d->lanes_lock, NULL);
    *out = d;
    return AN_OK;
}

static void device_free(an_device *d)
{
    pthread_mutex_destroy(&d->lanes_lock);
    an_pool_free(d->pool);
    free(d);
}

/* A device with memory of its own. */
static an_status open_gpu(const an_backend *backend, const char *name, int threads, bool graphs,
                          an_device **out, an_error *err)
{
    an_device *d = NULL; /* gcc does not see that device_new fills it */
    an_status s = device_new(backend, threads, &d, err);
    if (s) return s;
    s = backend->open(d, name, err);
    if (s) {
        device_free(d);
        return s;
    }
    d->repeats = graphs;
    *out = d;
    return AN_OK;
}

typedef struct cpu_choice {
    an_isa isa;
    bool onednn;
    const char *isa_why, *threads_why;
    const char *no_gpu; /* why auto came to the CPU */
} cpu_choice;

static an_status open_cpu(const an_backend *backend, const cpu_choice *c, int threads,
                          an_device **out, an_error *err)
{
    const bool ref = backend == &an_backend_ref;
    an_device *d = NULL; /* gcc does not see that device_new fills it */
    an_status s = device_new(backend, ref ? 1 : threads, &d, err);
    if (s) return s;
    d->isa = ref ? AN_ISA_GENERIC : c->isa;
    d->onednn = !ref && c->onednn;
    if (ref)
        snprintf(d->description, sizeof d->description, "ref: plain C, serial, the oracle");
    else
        snprintf(d->description, sizeof d->description,
                 "cpu: %d thread%s (%s), %s (%s), GEMM and convolution by %s%s%s", threads,
                 threads == 1 ? "" : "s", c->threads_why, an_isa_name(c->isa), c->isa_why,
                 c->onednn ? "oneDNN" : "own kernels", *c->no_gpu ? "; no GPU: " : "", c->no_gpu);
    *out = d;
    return AN_OK;
}

an_status an_device_open(const an_device_options *o, an_device **out, an_error *err)
{
    static const an_device_options defaults = {0};
    if (!o) o = &defaults;
    *out = NULL;
    const an_backend *backend = NULL;
    cpu_choice c = {.threads_why = "as asked", .no_gpu = ""};
    an_status s = choose_backend(o->device, &backend, err);
    if (!s) s = choose_isa(o->isa, &c.isa, &c.isa_why, err);
    if (!s) s = choose_gemm(o->gemm, &c.onednn, err);
    bool graphs = false;
    if (!s) s = choose_graphs(o->graphs, &graphs, err);
    if (s) return s;
    if (o->threads < 0 || o->threads > MAX_THREADS)
        return an_fail_param(err, AN_INVALID, "threads", "%d threads: 0 (automatic) to %d",
                             o->threads, MAX_THREADS);
    int threads = o->threads ? o->threads : usable_threads(&c.threads_why);
    if (backend && backend->open) return open_gpu(backend, o->device, threads, graphs, out, err);
    if (backend) return open_cpu(backend, &c, threads, out, err);
    an_error why = {0};
    c.no_gpu = "this build has no CUDA backend";
    if (!an_backend_gpu()) return open_cpu(&an_backend_cpu, &c, threads, out, err);
    if (open_gpu(an_backend_gpu(), "cuda", threads, graphs, out, &why) == AN_OK) return AN_OK;
    c.no_gpu = why.message;
    return open_cpu(&an_backend_cpu, &c, threads, out, err);
}

void an_device_close(an_device *d)
{
    if (!d) return;
    if (d->backend->close) d->backend->close(d);
    device_free(d);
}

const char *an_device_name(const an_device *d)
{
    return d->backend->name;
}

const char *an_device_description(const an_device *d)
{
    return d->description;
}

int an_device_threads(const an_device *d)
{
    return an_pool_threads(d->pool);
}

void an_device_parallel(an_device *d, int64_t tasks,
                        void (*fn)(void *ctx, int64_t task, int worker), void *ctx)
{
    an_pool_run(d->pool, tasks, fn, ctx);
}

an_dtype an_device_best_dtype(const an_device *d)
{
    return d->backend->open || d->isa >= AN_ISA_BF16 ? AN_BF16 : AN_F32;
}

size_t an_device_memory_bytes(const an_device *d)
{
    return d->memory_bytes;
}

int an_device_lanes(const an_device *d)
{
    return d->backend->open ? 2 : 1;
}

an_status an_device_enter(an_device *d, an_error *err)
{
    return d->backend->enter ? d->backend->enter(d, err) : AN_OK;
}

an_status an_device_probe(an_device *d, an_error *err)
{
    const char word[64] = "";
    void *there = NULL;
    an_error local = {0};
    if (!d->backend->write) return AN_OK;
    an_status s = an_device_alloc(d, sizeof word, &there, &local);
    if (!s) s = d->backend->write(d, there, word, sizeof word, &local);
    an_device_free(d, there);
    if (s != AN_DEVICE) return AN_OK; /* no memory left is not the end */
    if (err) *err = local;
    return s;
}

/* ---------------------------------------------------------------- memory */

/* The size of a block is kept in front of it, in a cache line of its own. */
#define HEAD 64

an_status an_device_alloc(an_device *d, size_t bytes, void **out, an_error *err)
{
    *out = NULL;
    if (d->backend->alloc) {
        an_status s = d->backend->alloc(d, bytes, out, err);
        if (!s) d->bytes_live += bytes;
        return s;
    }
    size_t total;
    void *p = NULL;
    if (!an_add_size(bytes, 2 * HEAD - 1, &total) || total > PTRDIFF_MAX ||
        posix_memalign(&p, HEAD, total & ~(size_t)(HEAD - 1)))
        return an_fail(err, AN_NO_MEMORY, "device %s: no memory for %zu bytes", d->backend->name,
                       bytes);
    memcpy(p, &bytes, sizeof bytes);
    d->bytes_live += bytes;
    *out = (char *)p + HEAD;
    return AN_OK;
}

void an_device_free(an_device *d, void *p)
{
    if (!p) return;
    if (d->backend->free) {
        d->bytes_live -= d->backend->free(d, p);
        return;
    }
    char *base = (char *)p - HEAD;
    size_t bytes;
    memcpy(&bytes, base, sizeof bytes);
    d->bytes_live -= bytes;
    free(base);
}

size_t an_device_bytes_live(const an_device *d)
{
    return d->bytes_live;
}

an_status an_host_alloc(an_device *d, size_t bytes, void **out, an_error *err)
{
    if (d->backend->host_alloc) return d->backend->host_alloc(d, bytes, out, err);
    *out = malloc(bytes ? bytes : 1);
    return *out ? AN_OK : an_fail(err, AN_NO_MEMORY, "no memory for %zu bytes", bytes);
}

void an_host_free(an_device *d, void *p)
{
    if (d->backend->host_free)
        d->backend->host_free(d, p);
    else
        free(p);
}

static bool floating(an_dtype t)
{
    return t == AN_F32 || t == AN_BF16 || t == AN_F16 || t == AN_F64 || t == AN_F8_E4M3;
}

/* Elements [0, count) of src, converted if their dtypes differ, to memory of the device's own: in
 * pieces of whole blocks, since a table of embeddings may be gigabytes. */
static an_status write_tensor(an_device *d, void *to, an_dtype dtype, const an_tensor *src,
                              an_error *err)
{
    enum { PIECE = 1 << 20 };
    const int64_t count = an_tensor_count(src);
    if (dtype == src->dtype) return d->backend->write(d, to, src->data, an_tensor_bytes(src), err);
    const size_t size = an_dtype_size(dtype);
    void *piece = malloc((size_t)(count < PIECE ? count : PIECE) * size + 1);
    if (!piece) return an_fail(err, AN_NO_MEMORY, "no memory to convert a tensor");
    an_status s = AN_OK;
    for (int64_t at = 0; at < count && !s; at += PIECE) {
        const int64_t n = count - at < PIECE ? count - at : PIECE;
        const size_t from =
            (size_t)(at / an_dtype_block(src->dtype)) * an_dtype_block_bytes(src->dtype);
        an_convert(piece, dtype, (const char *)src->data + from, src->dtype, n);
        s = d->backend->write(d, (char *)to + (size_t)at * size, piece, (size_t)n * size, err);
    }
    free(piece);
    return s;
}

an_status an_device_upload(an_device *d, const an_tensor *src, an_dtype dtype, an_tensor *out,
                           an_error *err)
{
    *out = *src;
    out->data = NULL;
    bool convert = (floating(src->dtype) || an_dtype_is_quant(src->dtype)) &&
                   (dtype == AN_F32 || dtype == AN_BF16);
    if (!convert && src->dtype != dtype)
        return an_fail(err, AN_INVALID, "upload: %s cannot become %s", an_dtype_name(src->dtype),
                       an_dtype_name(dtype));
    out->dtype = dtype;
    void *p;
    an_status s = an_device_alloc(d, an_tensor_bytes(out), &p, err);
    if (s) return s;
    if (d->backend->write) {
        s = write_tensor(d, p, dtype, src, err);
        if (s) {
            an_device_free(d, p);
            return s;
        }
        out->data = p;
        return AN_OK;
    }
    out->data = p;
    if (convert)
        an_convert(p, dtype, src->data, src->dtype, an_tensor_count(src));
    else
        memcpy(p, src->data, an_tensor_bytes(out));
    return AN_OK;
}

/* ---------------------------------------------------------------- weights */

static an_status check_bias(const an_tensor *bias, int64_t n, an_error *err)
{
    if (!bias || (floating(bias->dtype) && an_tensor_count(bias) == n && bias->data)) return AN_OK;
    char shape[128];
    return an_fail(err, AN_INVALID, "bias has shape %s and dtype %s, expected [%lld] floating",
                   an_shape_str(bias->ndim, bias->dim, shape, sizeof shape),
                   an_dtype_name(bias->dtype), (long long)n);
}

static an_status weight_finish(an_device *d, an_weight *w, an_status s, an_weight **out)
{
    if (s) {
        free(w);
        return s;
    }
    d->bytes_live += w->bytes;
    *out = w;
    return AN_OK;
}

static an_status weight_new(an_device *d, an_dtype dtype, an_weight **w, an_error *err)
{
    if (dtype != AN_F32 && dtype != AN_BF16)
        return an_fail(err, AN_INVALID, "weights as %s: F32 or BF16", an_dtype_name(dtype));
    *w = calloc(1, sizeof **w);
    if (!*w) return an_fail(err, AN_NO_MEMORY, "no memory for a weight");
    (*w)->device = d;
    (*w)->kh = (*w)->kw = 1;
    return AN_OK;
}

/* Scales belong to FP8, and FP8 does not mix with blocks. */
static an_status check_scales(int n_parts, const an_tensor *const *w, const float *const *scale,
                              an_error *err)
{
    bool blocks = false, fp8 = false;
    for (int i = 0; i < n_parts; i++) {
        blocks |= an_dtype_is_quant(w[i]->dtype);
        fp8 |= w[i]->dtype == AN_F8_E4M3;
        if (scale && scale[i] && w[i]->dtype != AN_F8_E4M3)
            return an_fail(err, AN_INVALID, "matrix %d of %d is %s, but only F8_E4M3 has scales",
                           i + 1, n_parts, an_dtype_name(w[i]->dtype));
    }
    if (blocks && fp8)
        return an_fail(err, AN_INVALID, "a weight of %d matrices mixes F8_E4M3 and block formats",
                       n_parts);
    return AN_OK;
}

an_status an_weight_linear(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                           const an_tensor *const *bias, an_weight **out, an_error *err)
{
    return an_weight_scaled(d, dtype, n_parts, w, NULL, bias, out, err);
}

an_status an_weight_scaled(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                           const float *const *scale, const an_tensor *const *bias, an_weight **out,
                           an_error *err)
{
    *out = NULL;
    if (n_parts < 1) return an_fail(err, AN_INVALID, "a weight of %d parts", n_parts);
    int64_t n = 0;
    bool has_bias = false;
    for (int i = 0; i < n_parts; i++) {
        const an_tensor *t = w[i];
        char shape[128];
        if (t->ndim != 2 || !(floating(t->dtype) || an_dtype_is_quant(t->dtype)) || t->dim[0] < 1 ||
            t->dim[1] < 1 || t->dim[1] != w[0]->dim[1] || t->dim[1] % an_dtype_block(t->dtype) ||
            !t->data)
            return an_fail(err, AN_INVALID,
                           "matrix %d of %d has shape %s and dtype %s, expected [n,%lld] floating "
                           "or whole blocks",
                           i + 1, n_parts, an_shape_str(t->ndim, t->dim, shape, sizeof shape),
                           an_dtype_name(t->dtype), (long long)w[0]->dim[1]);
        an_status s = check_bias(bias ? bias[i] : NULL, t->dim[0], err);
        if (s) return s;
        has_bias |= bias && bias[i];
        n += t->dim[0];
    }
    an_weight *p;
    an_status s = check_scales(n_parts, w, scale, err);
    if (!s) s = weight_new(d, dtype, &p, err);
    if (s) return s;
    p->n = n;
    p->k = w[0]->dim[1];
    p->has_bias = has_bias;
    for (int i = 0; i < n_parts; i++) p->blocks |= an_dtype_is_quant(w[i]->dtype);
    s = d->backend->weight_linear(d, dtype, n_parts, w, scale, bias, p, err);
    return weight_finish(d, p, s, out);
}

an_status an_weight_conv(an_device *d, an_dtype dtype, const an_tensor *w, const an_tensor *bias,
                         an_weight **out, an_error *err)
{
    *out = NULL;
    char shape[128];
    bool ok = w->ndim == 4 && floating(w->dtype) && w->data;
    for (int i = 0; ok && i < 4; i++) ok = w->dim[i] >= 1;
    if (!ok || w->dim[2] > 64 || w->dim[3] > 64)
        return an_fail(err, AN_INVALID,
                       "convolution weight has shape %s and dtype %s, expected [n,k,kh,kw] "
                       "floating, kernels to 64x64",
                       an_shape_str(w->ndim, w->dim, shape, sizeof shape), an_dtype_name(w->dtype));
    an_status s = check_bias(bias, w->dim[0], err);
    if (s) return s;
    an_weight *p;
    s = weight_new(d, dtype, &p, err);
    if (s) return s;
    p->n = w->dim[0];
    p->k = w->dim[1];
    p->kh = (int)w->dim[2];
    p->kw = (int)w->dim[3];
    p->has_bias = bias != NULL;
    return weight_finish(d, p, d->backend->weight_conv(d, dtype, w, bias, p, err), out);
}

void an_weight_free(an_weight *w)
{
    if (!w) return;
    w->device->backend->weight_free(w);
    w->device->bytes_live -= w->bytes;
    free(w);
}
