/* gpu_host.h: what the C files of kernels/cuda share: the GPU's part of a device and of a lane,
 * small arrays on their way to kernels, memory, errors, and who fills which op of the table.
 *
 * How an op is written here (ops.c has checked every shape before):
 *
 *     an_status GPU(take_rows_op)(an_lane *l, const an_tensor *x, const int32_t *index,
 *                                 const an_tensor *y)
 *     {
 *         const int32_t *at = GPU(stage)(l, index, (size_t)y->dim[0] * sizeof *index);
 *         if (GPU(idle)(l)) return l->error.status;
 *         return GPU(check)(l, GPU(take_rows)(..., GPU(stream)(l)), "take_rows");
 *     }
 *
 * First all scratch and all staging, in counting lanes too, so that their peak is counted; then
 * GPU(idle); then launches. Device memory is never read or written by the host but through the
 * functions below.
 *
 * Files: backend.c (the table), device.c (finding and opening a GPU), hopper.c (may it use wgmma?),
 * memory.c, lane.c (streams, staging, flags), graph.c (what is recorded and replayed), small.c,
 * norm.c and diffusion.c (their ops); weights.c and matrix.c (gemm, conv2d, moe); attention.c
 * (attention, attention_paged, kv_write, rope); sample.c (sample_tokens). */
#ifndef ANNEAL_GPU_HOST_H
#define ANNEAL_GPU_HOST_H

#include "backend.h"
#include "cuda/gpu.h"

#include <pthread.h>

/* ---------------------------------------------------------------- device and lane */

typedef struct gpu_block { /* an allocation; its size cannot lie in front of it, as on the host */
    void *at;
    size_t bytes;
} gpu_block;

#define GPU_COPY_HALF ((size_t)4 << 20) /* pinned memory comes in two of these, a device */
#define GPU_RING_HALF ((size_t)1 << 20) /* and in two of these, a lane */

/* an_device.gpu */
typedef struct gpu_device {
    int index;      /* of the CUDA runtime */
    int capability; /* 10 * major + minor: 80, 90 */
    int multiprocessors;
    bool wgmma;          /* products of weights in bf16 take gemm90 and conv90 */
    size_t shared_bytes; /* most dynamic shared memory a block may ask for */
    size_t total_bytes;
    pthread_mutex_t lock; /* of what follows */
    gpu_block *block;     /* live allocations by address */
    size_t blocks, blocks_cap;
    gpu_stream copies; /* uploads outside of lanes: weights */
    char *pinned;      /* two halves of GPU_COPY_HALF bytes that such uploads go through */
    void *copied[2];   /* cudaEvent_t: a half has been read */
} gpu_device;

typedef struct gpu_graphs gpu_graphs; /* graph.c */

/* an_lane.gpu; NULL in a counting lane */
typedef struct gpu_lane {
    gpu_stream stream;
    char *ring;                    /* pinned: staged arrays and uploads on their way */
    size_t ring_half, ring_at;     /* the half in use, and its next free byte */
    void *passed[2];               /* cudaEvent_t: the copies out of a half of the ring are done */
    bool used[2];                  /* an event is pending */
    gpu_flags *flags;              /* device */
    gpu_flags *seen;               /* pinned: what sync read back */
    unsigned *arrived;             /* device [GPU_ARRIVALS], behind the flags */
    bool flagged;                  /* a kernel since the last look may have raised a flag */
    int64_t *n_nan[GPU_NAN_SLOTS]; /* where counts go at the next sync, host */
    int n_nans;
    int64_t vocabulary; /* of the last embedding, for its message */
    bool recording;     /* launches are noted down, nothing is done: no copies, no waiting */
    gpu_graphs *graphs; /* made at the first need */
    pthread_mutex_t graphs_lock;
} gpu_lane;

static inline gpu_device *GPU(device_of)(const an_device *d)
{
    return d->gpu;
}
static inline gpu_stream GPU(stream)(const an_lane *l)
{
    return ((const gpu_lane *)l->gpu)->stream;
}
/* Nothing is to be launched: the lane counts, or something failed before. */
static inline bool GPU(idle)(const an_lane *l)
{
    return l->counting || l->error.status;
}

/* ---------------------------------------------------------------- memory (memory.c, lane.c) */

/* A small host array where it is kept (an_lane_keep), or in the lane's scratch, for the kernels
 * that follow on its stream, until the op returns. `host` may be reused at return. In a counting
 * lane the scratch is counted, `host` not read, and NULL comes back; NULL too, with the error
 * latched, where scratch or device failed. */
const void *GPU(stage)(an_lane *l, const void *host, size_t bytes);
/* an_lane_keep: what GPU(stage) finds there is not copied again. */
an_status GPU(keep)(an_lane *l, const void *host, size_t bytes);

/* Device memory that an_device_bytes_live does not know of (a weight's is counted by w->bytes).
 * 256-byte aligned. AN_NO_MEMORY names what was asked for and what is free. */
an_status GPU(alloc)(an_device *d, size_t bytes, void **out, an_error *err);
size_t GPU(free)(an_device *d, void *p); /* bytes it had; NULL is fine */
/* Pinned memory of the host. */
an_status GPU(host_alloc)(an_device *d, size_t bytes, void **out, an_error *err);
void GPU(host_free)(an_device *d, void *p);
/* Host to device, outside of lanes: through pinned memory; done at return. From any thread. */
an_status GPU(write)(an_device *d, void *device_dst, const void *host_src, size_t bytes,
                     an_error *err);
/* Both in one: a device copy of a host array. */
an_status GPU(copy_of)(an_device *d, const void *host, size_t bytes, void **out, an_error *err);

/* ---------------------------------------------------------------- errors */

/* cuda_error as a status, 0 being AN_OK; anything else latches AN_DEVICE with the op's name and
 * CUDA's words. */
an_status GPU(check)(an_lane *l, int cuda_error, const char *op);
/* The same where there is no lane. */
an_status GPU(checked)(int cuda_error, const char *what, an_error *err);

/* ---------------------------------------------------------------- the table's functions */

/* matrix.c */
an_status GPU(weight_linear)(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                             const float *const *scale, const an_tensor *const *bias,
                             an_weight *out, an_error *err);
an_status GPU(weight_conv)(an_device *d, an_dtype dtype, const an_tensor *w, const an_tensor *bias,
                           an_weight *out, an_error *err);
void GPU(weight_free)(an_weight *w);
an_status GPU(gemm_op)(an_lane *l, const an_gemm_args *a);
an_status GPU(conv2d_op)(an_lane *l, const an_conv_args *a);
an_status GPU(moe_op)(an_lane *l, const an_moe_args *a);
an_status GPU(weight_rows_op)(an_lane *l, const an_weight *w, const an_tensor *ids,
                              const an_tensor *y);
/* attention.c */
an_status GPU(attention_op)(an_lane *l, const an_attention_args *a);
an_status GPU(attention_paged_op)(an_lane *l, const an_paged_args *a);
an_status GPU(kv_write_op)(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n,
                           const void *k, int64_t k_stride, const void *v, int64_t v_stride,
                           an_dtype dtype);
an_status GPU(kv_keep)(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n, int heads,
                       an_dtype dtype);
an_status GPU(rope_op)(an_lane *l, const an_rope_args *a);
/* norm.c */
an_status GPU(group_norm_op)(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                             int groups, float eps, bool silu, const an_tensor *y);
an_status GPU(concat_group_norm_op)(an_lane *l, const an_tensor *a, const an_tensor *b,
                                    const an_tensor *cat, const float *gamma, const float *beta,
                                    int groups, float eps, bool silu, const an_tensor *y);
an_status GPU(layer_norm_op)(an_lane *l, const an_tensor *x, const float *gamma, const float *beta,
                             float eps, const an_tensor *y);
an_status GPU(rms_norm_op)(an_lane *l, const an_tensor *x, const float *gamma, float eps,
                           const an_tensor *y);
/* small.c */
an_status GPU(embedding_op)(an_lane *l, const an_tensor *table, const an_tensor *pos,
                            const an_tensor *ids, const an_tensor *y);
an_status GPU(timestep_embedding_op)(an_lane *l, const float *t, bool flip, float shift,
                                     float scale, const an_tensor *y);
an_status GPU(activation_op)(an_lane *l, const an_tensor *x, an_act act, const an_tensor *y);
an_status GPU(add_op)(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y);
an_status GPU(concat_op)(an_lane *l, const an_tensor *a, const an_tensor *b, const an_tensor *y);
an_status GPU(copy_op)(an_lane *l, const an_tensor *x, const an_tensor *y);
an_status GPU(gather_rows_op)(an_lane *l, const an_tensor *x, const int64_t *index,
                              const an_tensor *y);
an_status GPU(take_rows_op)(an_lane *l, const an_tensor *x, const int32_t *index,
                            const an_tensor *y);
an_status GPU(scale_op)(an_lane *l, const an_tensor *x, float f, const an_tensor *y);
an_status GPU(softcap_op)(an_lane *l, const an_tensor *x, float cap, const an_tensor *y);
/* sample.c */
an_status GPU(sample_tokens_op)(an_lane *l, const an_sample_row *rows, int n, int vocab,
                                const an_tensor *ids);
/* diffusion.c */
an_status GPU(latent_in_op)(an_lane *l, const float *const *x, const float *scale,
                            const an_tensor *y);
an_status GPU(sampler_step_op)(an_lane *l, const an_step_row *rows, int n);
an_status GPU(image_out_op)(an_lane *l, const an_tensor *x, const an_tensor *y, int64_t *n_nan);
an_status GPU(image_in_op)(an_lane *l, const an_tensor *x, const an_tensor *y);

/* hopper.c: whether wgmma answers on this thread's GPU what mma.sync answers, or why not. Waits. */
bool GPU(wgmma_check)(char *why, size_t size);
/* device.c, memory.c, lane.c: the hooks of backend.h */
an_status GPU(open)(an_device *d, const char *which, an_error *err);
void GPU(close)(an_device *d);
int GPU(count)(void);
an_status GPU(lane_open)(an_lane *l, an_error *err);
void GPU(lane_close)(an_lane *l);
an_status GPU(enter)(an_device *d, an_error *err);
void GPU(repeat)(an_lane *l, const an_repeat *key, an_ops_fn *ops, void *ctx);
void GPU(lane_forget)(an_lane *l, uint64_t owner);
an_status GPU(upload)(an_lane *l, void *device_dst, const void *host_src, size_t bytes);
an_status GPU(download)(an_lane *l, void *host_dst, const void *device_src, size_t bytes);
an_status GPU(sync)(an_lane *l, bool always);

#endif
