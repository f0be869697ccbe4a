/* backend.h: what a filling of the op table implements. Private to kernels/: models see ops.h only.
 * kernels/ops.c has checked every argument before a function here is called. */
#ifndef ANNEAL_BACKEND_H
#define ANNEAL_BACKEND_H

#include "anneal/ops.h"
#include "pool.h"

#include <pthread.h>

typedef struct an_backend {
    const char *name;
    /* A device with memory of its own. All of these are NULL where device memory is the host's:
     * nobody above ops.h can tell. None is called for a counting lane. */
    an_status (*open)(an_device *d, const char *which, an_error *err); /* description, d->gpu */
    void (*close)(an_device *d);
    int (*count)(void); /* devices of this kind that can be named, kind:0 and on */
    an_status (*enter)(an_device *d, an_error *err); /* before ops: this thread's device is d */
    an_status (*alloc)(an_device *d, size_t bytes, void **out, an_error *err);
    size_t (*free)(an_device *d, void *p); /* how many bytes it had */
    an_status (*host_alloc)(an_device *d, size_t bytes, void **out, an_error *err); /* pinned */
    void (*host_free)(an_device *d, void *p);
    an_status (*write)(an_device *d, void *device_dst, const void *host_src, size_t bytes,
                       an_error *err);                 /* outside of lanes; done at return */
    an_status (*lane_open)(an_lane *l, an_error *err); /* the arena is there already */
    void (*lane_close)(an_lane *l);
    an_status (*upload)(an_lane *l, void *device_dst, const void *host_src, size_t bytes);
    an_status (*download)(an_lane *l, void *host_dst, const void *device_src, size_t bytes);
    /* an_lane_keep and an_kv_keep; these are called for a counting lane too. */
    an_status (*keep)(an_lane *l, const void *host, size_t bytes);
    an_status (*kv_keep)(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n,
                         int heads, an_dtype dtype);
    /* an_lane_repeat with an owner; NULL: ops are called as ever. Forgets of an owner, 0 = of all.
     */
    void (*repeat)(an_lane *l, const an_repeat *key, an_ops_fn *ops, void *ctx);
    void (*lane_forget)(an_lane *l, uint64_t owner);
    /* Waits (always, or only if a kernel may have raised a flag), then latches what they raised. */
    an_status (*sync)(an_lane *l, bool always);
    /* Kernels that this thread has launched, and copies from the host, since it began. */
    void (*counts)(uint64_t *launches, uint64_t *copies);
    /* packing and freeing; parts and scales as in ops.h (an_weight_scaled), w[i] already checked to
     * be [n_i, k] (or one 4-D) */
    an_status (*weight_linear)(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                               const float *const *scale, const an_tensor *const *bias,
                               an_weight *out, an_error *err);
    an_status (*weight_conv)(an_device *d, an_dtype dtype, const an_tensor *w,
                             const an_tensor *bias, an_weight *out, an_error *err);
    void (*weight_free)(an_weight *w);
    /* ops: a status other than OK latches in the lane */
    an_status (*gemm)(an_lane *l, const an_gemm_args *a);
    an_status (*conv2d)(an_lane *l, const an_conv_args *a);
    an_status (*group_norm)(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            int groups, float eps, bool silu, const an_tensor *y);
    /* NULL: concat, then group_norm */
    an_status (*concat_group_norm)(an_lane *l, const an_tensor *a, const an_tensor *b,
                                   const an_tensor *cat, const float *gamma, const float *beta,
                                   int groups, float eps, bool silu, const an_tensor *y);
    an_status (*layer_norm)(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                            float eps, const an_tensor *y);
    an_status (*rms_norm)(an_lane *l, const an_tensor *x, const float *gamma, float eps,
                          const an_tensor *y);
    an_status (*attention)(an_lane *l, const an_attention_args *a);
    an_status (*embedding)(an_lane *l, const an_tensor *table, const an_tensor *pos,
                           const an_tensor *ids, const an_tensor *y);
    an_status (*timestep_embedding)(an_lane *l, const float *t, bool flip, float shift, float scale,
                                    const an_tensor *y);
    an_status (*activation)(an_lane *l, const an_tensor *x, an_act act, const an_tensor *y);
    an_status (*add)(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y);
    an_status (*concat)(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y);
    an_status (*copy)(an_lane *l, const an_tensor *x, const an_tensor *y);
    an_status (*gather_rows)(an_lane *l, const an_tensor *x, const int64_t *index,
                             const an_tensor *y);
    /* language models */
    an_status (*take_rows)(an_lane *l, const an_tensor *x, const int32_t *index,
                           const an_tensor *y);
    /* Only of weights whose `rows` the filling has set; NULL: it sets none. */
    an_status (*weight_rows)(an_lane *l, const an_weight *w, const an_tensor *ids,
                             const an_tensor *y);
    an_status (*scale)(an_lane *l, const an_tensor *x, float f, const an_tensor *y);
    an_status (*softcap)(an_lane *l, const an_tensor *x, float cap, const an_tensor *y);
    an_status (*rope)(an_lane *l, const an_rope_args *a);
    an_status (*kv_write)(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n,
                          const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                          an_dtype dtype);
    an_status (*attention_paged)(an_lane *l, const an_paged_args *a);
    an_status (*moe)(an_lane *l, const an_moe_args *a);
    /* NULL where logits are the host's memory, and the host draws */
    an_status (*sample_tokens)(an_lane *l, const an_sample_row *rows, int n, int vocab,
                               const an_tensor *ids);
    /* diffusion */
    an_status (*latent_in)(an_lane *l, const float *const *x, const float *scale,
                           const an_tensor *y);
    an_status (*sampler_step)(an_lane *l, const an_step_row *rows, int n);
    an_status (*image_out)(an_lane *l, const an_tensor *x, const an_tensor *y, int64_t *n_nan);
    an_status (*image_in)(an_lane *l, const an_tensor *x, const an_tensor *y);
} an_backend;

extern const an_backend an_backend_ref;  /* kernels/ref/ref.c: plain C, serial, the oracle */
extern const an_backend an_backend_cpu;  /* kernels/cpu/cpu.c: the table; functions in its files */
extern const an_backend an_simt_backend; /* kernels/cuda/backend.c, on the CPU by kernels/simt */
#ifdef AN_CUDA
extern const an_backend an_cuda_backend; /* the same on a GPU */
#endif
static inline const an_backend *an_backend_gpu(void) /* NULL: this build has none */
{
#ifdef AN_CUDA
    return &an_cuda_backend;
#else
    return NULL;
#endif
}

/* Instruction sets a CPU kernel may use, each containing those before it. */
typedef enum an_isa {
    AN_ISA_GENERIC = 0, /* x86-64-v2, or any other machine */
    AN_ISA_AVX2,        /* AVX2, FMA, F16C */
    AN_ISA_AVX512,      /* F, BW, VL, DQ */
    AN_ISA_BF16,        /* AVX512_BF16 */
    AN_ISA_AMX          /* AMX-TILE, AMX-BF16, and the kernel granted the tiles */
} an_isa;

struct an_device {
    const an_backend *backend;
    an_pool *pool; /* threads of this device; the calling thread works too */
    an_isa isa;    /* chosen at open: min(cpuid, cap) */
    bool onednn;   /* GEMM and convolution through oneDNN */
    void *gpu;     /* kernels/cuda's part, or NULL */
    bool repeats;  /* what comes again is recorded */
    pthread_mutex_t lanes_lock;
    an_lane *lanes;      /* that remember what they were asked */
    size_t memory_bytes; /* of its own, 0 = the host's */
    char description[512];
    _Atomic size_t bytes_live;
};

/* A host array on the device, or something made of it: which, a backend knows. */
typedef struct an_kept {
    int what; /* AN_KEPT_ARRAY, or the backend's own from AN_KEPT_OWN on */
    const void *host;
    size_t bytes;
    const void *there; /* NULL in a counting lane */
    int64_t shape[8];  /* the backend's: what launches that read it depend on */
    size_t mark;       /* of the lane before it */
} an_kept;
enum { AN_KEPT_ARRAY, AN_KEPT_OWN };
#define AN_LANE_KEPT 8 /* of a lane at a time; what is more than these, ops bring themselves */

struct an_lane {
    an_device *device;
    void *gpu; /* kernels/cuda's part, or NULL */
    bool counting, urgent;
    char *arena;
    size_t size, used, peak;
    double flops, bytes;
    void (*watch)(void *ctx, const an_op_cost *c); /* an_lane_watch */
    void *watch_ctx;
    an_op_cost watched; /* sums up to the last op that was told */
    an_error error;     /* status AN_OK = none latched */
    const char *label;
    an_kept kept[AN_LANE_KEPT];
    int kepts;
    an_repeats repeats;
    an_lane *next; /* of the device */
};

/* What the op that has just run cost, to whoever watches the lane. */
void an_lane_tell(an_lane *l, const char *op);

/* Scratch inside one op, 64-byte aligned; released by ops.c after the op. NULL (and latched) if
 * full. In a counting lane the op is called too: it asks for its scratch (NULL comes back, the peak
 * is counted) and returns AN_OK before it touches any data: `if (l->counting) return AN_OK;`. */
void *an_lane_scratch(an_lane *l, size_t bytes);

/* What is kept of a host array, or NULL. Adding copies *k, whose scratch begins at k->mark; with no
 * place left for it, nothing is kept. */
const an_kept *an_kept_find(const an_lane *l, int what, const void *host, size_t bytes);
void an_kept_add(an_lane *l, const an_kept *k);

/* ---------------------------------------------------------------- shared by the fillings */

/* The activations that take two columns for one. */
static inline bool an_act_gated(an_act act)
{
    return act == AN_ACT_GEGLU || act == AN_ACT_GEGLU_TANH || act == AN_ACT_SWIGLU;
}

/* Activations that meet weights in blocks are rounded to 8 bits, 32 values of k at a time: x is
 * about scale * q, |q| <= 127, the largest of the 32 exactly so. Returns the scale: 127th of the
 * largest magnitude; 0 (q zeros) where that is too small to divide by; NaN (q zeros) where a value
 * is not finite, so that what was broken stays visible. Every filling computes these very bits. */
#define AN_Q8_BLOCK 32
#define AN_Q8_LEAST 1e-30f
static inline float an_q8_round(const float *x, int8_t *q)
{
    float most = 0;
    bool finite = true;
    for (int i = 0; i < AN_Q8_BLOCK; i++) {
        const float a = __builtin_fabsf(x[i]);
        finite &= a <= 3.402823466e38f;
        if (a > most) most = a;
    }
    if (!finite || most < AN_Q8_LEAST) {
        for (int i = 0; i < AN_Q8_BLOCK; i++) q[i] = 0;
        return finite ? 0 : __builtin_nanf("");
    }
    const float inverse = 127.0f / most;
    for (int i = 0; i < AN_Q8_BLOCK; i++) q[i] = (int8_t)__builtin_rintf(x[i] * inverse);
    return most / 127.0f;
}

/* The element of a pool where a head's key (or value) at a position of a row begins. */
static inline int64_t an_kv_place(const an_kv_pool *p, const an_kv_row *r, int64_t pos, int head)
{
    const int64_t block = (int64_t)r->blocks[pos / AN_KV_BLOCK] * p->kv_heads + head;
    return (block * AN_KV_BLOCK + pos % AN_KV_BLOCK) * p->head_dim;
}

/* Elements between floating dtypes (F32, BF16, F16, F64, F8_E4M3); to F32 or BF16, to nearest even.
 * dst may be src when the sizes are equal. */
void an_convert(void *dst, an_dtype to, const void *src, an_dtype from, int64_t count);

/* Output pixel i of a nearest-neighbour resize from `in` to `out` pixels reads this input pixel: as
 * torch's upsample_nearest computes it, in f32. */
static inline int64_t an_nearest(int64_t i, int64_t in, int64_t out)
{
    if (out == in) return i;
    if (out == 2 * in) return i >> 1;
    float scale = (float)in / (float)out;
    int64_t s = (int64_t)((float)i * scale);
    return s < in - 1 ? s : in - 1;
}

/* The guided prediction's factor for guidance rescale: m is multiplied by it. sum and sum of
 * squared deviations belong to each caller; a std of zero (a constant prediction) leaves m alone.
 */
static inline double an_rescale_factor(double phi, double var_cond, double var_m)
{
    if (!(var_m > 0)) return 1;
    return phi * __builtin_sqrt(var_cond / var_m) + (1 - phi);
}

#endif
