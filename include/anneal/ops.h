/* ops.h: the one op table. Above it: models, which are lists of these calls. Below it: fillings for
 * GPUs (kernels/cuda), the CPU (kernels/cpu) and the plain-C reference (kernels/ref). Shapes are
 * checked once, in kernels/ops.c, for all of them.
 *
 * Every op takes its lane first: an ordered stream of work with its own scratch arena. An op that
 * fails latches its error in the lane and the ops after it do nothing, so that a network reads as a
 * plain list of calls with one check at its end (an_lane_status).
 *
 * Batch invariance: an output element depends on its own row's inputs only, and its bits on the
 * layer only, never on how many rows there are, which of them it is, or how many threads work. */
#ifndef ANNEAL_OPS_H
#define ANNEAL_OPS_H

#include "anneal/step.h"
#include "anneal/tensor.h"

/* ---------------------------------------------------------------- device */

typedef struct an_device an_device;

typedef struct an_device_options {
    /* "auto" (a GPU if there is one, else the CPU), "cpu", "cuda" or "cuda:1" (one GPU of several),
     * "simt" (the GPU's kernels on the CPU, thread by thread: for tests), "ref" (plain C, the
     * oracle); NULL = auto */
    const char *device;
    /* Cap for the CPU: "auto", "generic", "avx2", "avx512", "avx512_bf16", "amx"; NULL = auto */
    const char *isa;
    const char *gemm;   /* who does CPU GEMM and convolution: "auto", "own", "onednn"; NULL = auto */
    int threads;        /* 0 = one per core this process may use */
    const char *graphs; /* launches that come again (an_lane_repeat) are recorded: "auto", "off" */
} an_device_options;

an_status an_device_open(const an_device_options *o, an_device **out, an_error *err);
/* The devices of a list: names with commas between ("cuda:0,cuda:1"), or "cuda:all"; all of one
 * kind. The same name twice opens it twice. out[0 .. *n - 1], at most `most`; on failure none. */
an_status an_devices_open(const an_device_options *o, an_device **out, int most, int *n,
                          an_error *err);
void an_device_close(an_device *d);
const char *an_device_name(const an_device *d);        /* "cpu" */
const char *an_device_description(const an_device *d); /* "cpu: 2 threads, avx2 ..., and why" */
int an_device_threads(const an_device *d);
/* Work beside the ops on the device's threads (the host's, whatever the device): calls
 * fn(ctx, task, worker) for task = 0..tasks-1 and returns when all are done. The caller works too;
 * worker is 0..an_device_threads - 1, for scratch of each. What is computed must not depend on
 * which thread takes what. Called by the one thread that the device belongs to, between ops, never
 * from within fn. */
void an_device_parallel(an_device *d, int64_t tasks,
                        void (*fn)(void *ctx, int64_t task, int worker), void *ctx);
/* The storage dtype that "auto" means here: bf16 where the machine multiplies it natively. */
an_dtype an_device_best_dtype(const an_device *d);
/* All memory the device has of its own, 0 if it works in the host's. */
size_t an_device_memory_bytes(const an_device *d);

/* Lanes that can work at the same time: 1 on the CPU, where one op takes every thread; on a GPU one
 * for each kind of model. */
int an_device_lanes(const an_device *d);
/* A thread calls this once before its first op on a lane of the device. */
an_status an_device_enter(an_device *d, an_error *err);
/* Whether the device still does what it is told: a GPU that was lost fails every call from then on.
 * AN_DEVICE, with its words. */
an_status an_device_probe(an_device *d, an_error *err);

/* Device memory. On the CPU it is host memory, and the copies are memcpy; callers still go through
 * these, since on other devices the host can neither read nor write it. 64-byte aligned. */
an_status an_device_alloc(an_device *d, size_t bytes, void **out, an_error *err);
void an_device_free(an_device *d, void *p);
size_t an_device_bytes_live(const an_device *d); /* by an_device_alloc and weights, now */
/* Host memory for what is copied often and much: a GPU reaches it itself (pinned), so that a download
 * into it is one copy. For few, long-lived buffers: it cannot be swapped out. */
an_status an_host_alloc(an_device *d, size_t bytes, void **out, an_error *err);
void an_host_free(an_device *d, void *p); /* NULL is fine */

/* ---------------------------------------------------------------- lane */

typedef struct an_lane an_lane;

/* bytes: size of the scratch arena, allocated now. */
an_status an_lane_open(an_device *d, size_t bytes, an_lane **out, an_error *err);
/* The same, but where work of several lanes competes for a GPU, this one's goes first. */
an_status an_lane_open_urgent(an_device *d, size_t bytes, an_lane **out, an_error *err);
/* A lane that computes nothing and touches no data: it checks shapes, counts the arena's peak and
 * the FLOPs. Running a step on it is how memory and cost are known before anything is served. */
an_status an_lane_open_counting(an_device *d, an_lane **out, an_error *err);
/* Waits for the lane, forgets its error and exchanges its arena. If there is no memory for the new
 * one, it has none (0 bytes) and serves on. */
an_status an_lane_resize(an_lane *l, size_t bytes, an_error *err);
void an_lane_close(an_lane *l);
bool an_lane_counting(const an_lane *l);
an_device *an_lane_device(const an_lane *l);

/* The first error since the last clear, then cleared: OK, or its status with err filled. */
an_status an_lane_status(an_lane *l, an_error *err);
/* What a failure is prefixed with: "unet/down_blocks.0.resnets.1". Not copied: a literal, or memory
 * that outlives the call. */
void an_lane_label(an_lane *l, const char *label);
/* Latch an error from outside the op table (a model's own check). */
void an_lane_fail(an_lane *l, an_status s, const char *fmt, ...) AN_PRINTF(3, 4);

/* Scratch, freed in stack order: mark, alloc..., release. Never inside a tick from malloc. A failed
 * allocation latches AN_NO_MEMORY and returns a tensor whose data must not be touched (ops do
 * nothing then). 64-byte aligned. */
an_tensor an_lane_alloc(an_lane *l, an_dtype dtype, int ndim, const int64_t *dim);
#define an_lane_tensor(l, dtype, ...)                                                              \
    an_lane_alloc((l), (dtype), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),         \
                  (const int64_t[]){__VA_ARGS__})
size_t an_lane_mark(const an_lane *l);
void an_lane_release(an_lane *l, size_t mark);
size_t an_lane_peak(const an_lane *l); /* bytes, since the last reset */
double an_lane_flops(const an_lane *l); /* 2 x multiply-adds, since the last reset */
/* Every op that runs on the lane from now on is told to fn: FLOPs, bytes (each operand counted once),
 * kernels launched and host arrays copied for it (0 where the device is the host). NULL ends it. */
typedef struct an_op_cost {
    const char *op;
    double flops, bytes;
    uint64_t launches, copies;
} an_op_cost;
void an_lane_watch(an_lane *l, void (*fn)(void *ctx, const an_op_cost *c), void *ctx);
void an_lane_reset(an_lane *l); /* empties the arena, peak, FLOPs and error */
/* Waits until everything issued on the lane is done (a no-op on the CPU). What a kernel found on its
 * way (a token id out of range, a NaN in a picture, a fault) is known then, or at an_lane_status. */
void an_lane_sync(an_lane *l);

/* Host <-> device, ordered with the lane's ops. Sizes in bytes. The source of an upload may be reused
 * at return; a download waits for the lane and has the data at return. */
void an_upload(an_lane *l, void *device_dst, const void *host_src, size_t bytes);
void an_download(an_lane *l, void *host_dst, const void *device_src, size_t bytes);
/* A host array that many ops of a tick read (positions, lengths), put on the device once: an op that
 * is given this very array, of so many bytes, finds it there. Else each op brings its own copy. The
 * copy is scratch of the lane and goes with the mark below it; until then the array must not change.
 * Where device memory is the host's nothing is done. */
void an_lane_keep(an_lane *l, const void *host, size_t bytes);

/* ---------------------------------------------------------------- work that repeats */

/* Which work it is. Two lists of calls with the same key, from the same place of the arena on and
 * with the same arrays kept, must be the same calls with the same numbers and the same addresses. */
typedef struct an_repeat {
    uint64_t owner;   /* whose weights are read: an_repeat_owner(); 0: not worth remembering */
    int64_t shape[6]; /* all else that the calls depend on */
} an_repeat;
typedef void an_ops_fn(an_lane *l, void *ctx);

/* Runs ops(l, ctx). Where launching costs more than the work, as on a GPU, a list of calls that comes
 * again is recorded, and from then on one call replays it. ops may then be called no more, or twice,
 * so it does nothing but call ops of this table on scratch of its own and on memory that stays where
 * it is; it neither copies from or to the host nor waits (what the host changes is kept before, by
 * an_lane_keep). A list that does so all the same, or cannot be recorded for another reason, is run
 * as ever. */
void an_lane_repeat(an_lane *l, const an_repeat *key, an_ops_fn *ops, void *ctx);
/* A number that no other owner has had in this process. */
uint64_t an_repeat_owner(void);
/* What is remembered of an owner goes, in all lanes of the device, before its memory does. None of
 * them may be running it. */
void an_device_forget(an_device *d, uint64_t owner);
/* Lists of a lane so far: recorded, replayed (that too counts the first time), and refused. */
typedef struct an_repeats {
    uint64_t recorded, replayed, failed;
} an_repeats;
an_repeats an_lane_repeats(const an_lane *l);

/* ---------------------------------------------------------------- weights on the device */

/* A matrix or convolution packed as the backend wants it. */
typedef struct an_weight {
    int64_t n, k;  /* outputs, inputs (channels) */
    int kh, kw;    /* 1x1 for a matrix */
    bool has_bias;
    bool blocks;   /* a part is kept in a GGUF block format */
    bool rows;     /* an_weight_rows can read it */
    size_t bytes;  /* what it occupies on the device */
    an_device *device;
    void *impl;    /* the backend's */
} an_weight;

/* Stacks n_parts matrices [n_i, k] (any floating dtype, host memory) along n, so that q, k and v are
 * one GEMM. bias[i] may be NULL (zero), bias itself too. dtype: what activations will be (F32 or
 * BF16); floating weights are kept at that precision. Parts may be of GGUF block formats, each of
 * its own: they are kept as blocks (repacked as the backend likes), and the product is that of the
 * blocks' values with the activations rounded per block of 32 to 8 bits. */
an_status an_weight_linear(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                           const an_tensor *const *bias, an_weight **out, an_error *err);
/* The same, where parts of F8_E4M3 have scales: row j of part i is worth its numbers times
 * scale[i][j] (host [n_i]). scale[i] may be NULL (ones; it must be for other dtypes), scale itself
 * too. A GPU keeps such parts of BF16 weights as they are, one byte a number, and multiplies the
 * product's sums by the scales; everywhere else numbers times scales are rounded to `dtype`. Not
 * together with block formats. */
an_status an_weight_scaled(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                           const float *const *scale, const an_tensor *const *bias,
                           an_weight **out, an_error *err);
/* w [n, k, kh, kw] as checkpoints have it, bias [n] or NULL. */
an_status an_weight_conv(an_device *d, an_dtype dtype, const an_tensor *w, const an_tensor *bias,
                         an_weight **out, an_error *err);
void an_weight_free(an_weight *w);
/* A plain device copy of a host tensor as `dtype` (norm parameters as F32, embedding tables). */
an_status an_device_upload(an_device *d, const an_tensor *src, an_dtype dtype, an_tensor *out,
                           an_error *err);

/* ---------------------------------------------------------------- GEMM and convolution */

typedef enum an_act {
    AN_ACT_NONE = 0,
    AN_ACT_SILU,
    AN_ACT_GELU,       /* erf */
    AN_ACT_GELU_TANH,
    AN_ACT_QUICK_GELU, /* x * sigmoid(1.702 x), CLIP */
    AN_ACT_RELU,
    AN_ACT_GEGLU,      /* y[., j] = v[., j] * gelu(v[., n/2 + j]): halves the width; GEMM only */
    AN_ACT_GEGLU_TANH, /* y[., j] = gelu_tanh(v[., j]) * v[., n/2 + j]: gate first (Gemma); GEMM only */
    AN_ACT_SWIGLU      /* y[., j] = silu(v[., j]) * v[., n/2 + j]; GEMM only */
} an_act;

typedef struct an_gemm_args {
    an_tensor x;        /* [..., k]: leading dims are flattened to m */
    const an_weight *w; /* n x k */
    const an_tensor *residual; /* [..., n] added after the activation, or NULL; may be y itself */
    an_act act;
    an_tensor y;        /* [..., n], n/2 for GEGLU/SWIGLU; x's dtype or F32 */
} an_gemm_args;
void an_gemm(an_lane *l, const an_gemm_args *a); /* y = act(x w^T + bias) + residual */

typedef struct an_conv_args {
    an_tensor x;        /* [n, h, w, c] */
    const an_weight *w;
    int stride;         /* 1 or 2, both directions */
    int pad_top, pad_left, pad_bottom, pad_right;
    int64_t up_h, up_w; /* nearest-neighbour resize of x to this size first (fused), 0 = none */
    const an_tensor *row_bias; /* [n, out channels] added to every pixel (time embedding), or NULL */
    int64_t row_bias_stride;   /* elements between its rows (of a wider tensor), 0 = out channels */
    const an_tensor *residual; /* like y, or NULL; may be y itself */
    an_act act;                /* applied before the residual */
    an_tensor y;        /* [n, h', w', out channels]; x's dtype or F32 */
} an_conv_args;
void an_conv2d(an_lane *l, const an_conv_args *a);

/* ---------------------------------------------------------------- norms */

/* x, y [n, h, w, c] or [n, t, c]; gamma, beta [c] F32. Statistics per row and group in f32 (or
 * better), biased variance; silu: y = silu(norm). y may be x. */
void an_group_norm(an_lane *l, an_tensor x, const an_tensor *gamma, const an_tensor *beta, int groups,
                   float eps, bool silu, an_tensor y);
/* cat = a and b side by side (an_concat), y = group norm of cat, as above. No two of the tensors may
 * share memory. */
void an_concat_group_norm(an_lane *l, an_tensor a, an_tensor b, an_tensor cat, const an_tensor *gamma,
                          const an_tensor *beta, int groups, float eps, bool silu, an_tensor y);
/* x, y [..., c]. beta may be NULL. y may be x. */
void an_layer_norm(an_lane *l, an_tensor x, const an_tensor *gamma, const an_tensor *beta, float eps,
                   an_tensor y);
void an_rms_norm(an_lane *l, an_tensor x, const an_tensor *gamma, float eps, an_tensor y);

/* ---------------------------------------------------------------- attention */

typedef struct an_attention_args {
    int64_t rows;    /* independent sequences */
    int heads, head_dim;
    an_dtype dtype;
    /* Token t of row r, head h, element e of q lies at q + ((r * q_len + t) * q_stride + h * head_dim
     * + e) elements: views into a fused qkv buffer are fine. Likewise k and v, with kv_start. */
    const void *q, *k, *v;
    int64_t q_stride, k_stride, v_stride; /* elements between tokens */
    int64_t q_len;                        /* queries of every row */
    int64_t kv_len;                       /* keys of every row, if kv_lens is NULL */
    /* Rows may have keys of different lengths and places (text encodings of different length): row r
     * has kv_lens[r] keys starting at token kv_start[r] of k and v. Host arrays, or both NULL: row r
     * starts at r * kv_len. */
    const int64_t *kv_start, *kv_lens;
    bool causal;  /* query t sees keys 0..t (q_len == kv_len) */
    float scale;  /* usually 1/sqrt(head_dim) */
    an_tensor y;  /* [rows, q_len, heads * head_dim] */
} an_attention_args;
/* softmax(scale q k^T) v, never storing the whole score matrix; head_dim up to 512 (VAE: 1 head). */
void an_attention(an_lane *l, const an_attention_args *a);

/* ---------------------------------------------------------------- small ones */

/* y[r, t, :] = table[ids[r, t], :] + (pos ? pos[t, :] : 0). ids: device I32 [n, t]; ids out of range
 * latch AN_INVALID, by the next an_lane_sync or an_lane_status at the latest. table [v, c],
 * pos [>= t, c]: any of F32/BF16. y [n, t, c]. */
void an_embedding(an_lane *l, const an_tensor *table, const an_tensor *pos, an_tensor ids, an_tensor y);
/* Sinusoidal embedding of t (host array [n]); first half cos then sin when flip_sin_to_cos. As
 * diffusers' get_timestep_embedding(max_period 10000, scale). y [n, dim]. */
void an_timestep_embedding(an_lane *l, const float *t, bool flip_sin_to_cos, float freq_shift,
                           float scale, an_tensor y);
void an_activation(an_lane *l, an_tensor x, an_act act, an_tensor y); /* elementwise; y may be x */
void an_add(an_lane *l, an_tensor a, an_tensor b, an_tensor y);       /* y may be a or b */
void an_concat(an_lane *l, an_tensor a, an_tensor b, an_tensor y);    /* along the last dim */
void an_copy(an_lane *l, an_tensor x, an_tensor y);                   /* with dtype conversion */
/* y[r, :] = x[r, index[r], :]; x [n, t, c], index host array [n]. */
void an_gather_rows(an_lane *l, an_tensor x, const int64_t *index, an_tensor y);

/* ---------------------------------------------------------------- language models
 * The tokens of a tick lie one after the other, whatever sequences they belong to: x [tokens, c].
 * A sequence's keys and values lie in blocks of AN_KV_BLOCK tokens, anywhere in a pool. */

#define AN_KV_BLOCK 16

/* y[t, :] = x[index[t], :]; x [n, c], index host array [m], y [m, c]. */
void an_take_rows(an_lane *l, an_tensor x, const int32_t *index, an_tensor y);
/* y[t, :] = row ids[t] of w [n, k]: the numbers an_embedding has from the tensor that w was packed
 * from. Only where w->rows. ids: device I32 [t], as an_embedding's; y [t, k]. */
void an_weight_rows(an_lane *l, const an_weight *w, an_tensor ids, an_tensor y);
void an_scale(an_lane *l, an_tensor x, float f, an_tensor y); /* y may be x */
/* y = cap * tanh(x / cap) (Gemma 2's logits); y may be x. */
void an_softcap(an_lane *l, an_tensor x, float cap, an_tensor y);

typedef struct an_rope_args {
    void *x;             /* token t, head h at x + t * stride + h * head_dim elements; in place */
    an_dtype dtype;
    int64_t tokens, stride;
    int heads, head_dim;
    int rot_dim;         /* the first rot_dim elements of a head turn, the others stay */
    bool interleaved;    /* pairs (2i, 2i+1) as GGUF's llama has them, else (i, i + rot_dim/2) */
    const int32_t *pos;  /* host [tokens] */
    const float *inv_freq; /* host [rot_dim/2], rope scaling already in it; lives with the model */
    float mscale;        /* factor on cos and sin (YaRN, LongRoPE), usually 1 */
} an_rope_args;
/* Rotary position embedding (Su et al. 2021), angles in f32 as transformers computes them. */
void an_rope(an_lane *l, const an_rope_args *a);

/* One layer's pool: k and v [blocks, kv_heads, AN_KV_BLOCK, head_dim] of dtype F32 or BF16 (device): a
 * head's keys lie together, so that reading them is reading memory in order. */
typedef struct an_kv_pool {
    void *k, *v;
    an_dtype dtype;
    int64_t blocks;
    int kv_heads, head_dim;
} an_kv_pool;

/* One sequence's part of a tick: its tokens are q_start .. q_start + q_len - 1 of the batch, at
 * positions pos .. pos + q_len - 1; position p lies in blocks[p / AN_KV_BLOCK]. */
typedef struct an_kv_row {
    int64_t q_start, q_len, pos;
    const int32_t *blocks; /* host; every entry checked to be < pool.blocks by ops.c */
} an_kv_row;

/* Puts new keys and values in their places. k, v [tokens, kv_heads * head_dim] with strides. */
void an_kv_write(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n, const void *k,
                 int64_t k_stride, const void *v, int64_t v_stride, an_dtype dtype);

typedef struct an_paged_args {
    const an_kv_pool *pool; /* already holds this tick's keys and values */
    const an_kv_row *rows;
    int n;
    int heads, head_dim;  /* heads is a multiple of pool->kv_heads */
    an_dtype dtype;
    const void *q;        /* token t, head h at q + t * q_stride + h * head_dim */
    int64_t q_stride;
    float scale;
    float softcap;        /* 0 = none; scores become cap * tanh(s / cap) */
    int64_t window;       /* 0 = all; else query p sees keys p - window + 1 .. p */
    an_tensor y;          /* [tokens, heads * head_dim] */
} an_paged_args;
/* Causal attention over paged keys. Keys are taken in chunks of a fixed length counted from position
 * 0, chunk results are merged in order: a token's bytes are the same whether it came in a prompt of
 * any cut, or alone. */
void an_attention_paged(an_lane *l, const an_paged_args *a);

/* As an_lane_keep, for what an_kv_write and an_attention_paged must know of a tick's rows, for all
 * layers whose pools have the heads of this one and that have so many heads of queries. rows and
 * their blocks must not change until then. dtype: of q. */
void an_kv_keep(an_lane *l, const an_kv_pool *pool, const an_kv_row *rows, int n, int heads,
                an_dtype dtype);

typedef struct an_moe_args {
    an_tensor x;           /* [tokens, c] */
    an_tensor router;      /* [tokens, experts] F32: logits of the router */
    int top_k;
    bool softmax_first;    /* softmax over all experts, then the top k (Qwen, Mixtral before norm) */
    bool normalize;        /* the chosen weights are divided by their sum */
    int experts;
    const an_weight *const *gate_up; /* [experts], each [2 * hidden, c]: gate rows, then up rows */
    const an_weight *const *down;    /* [experts], each [c, hidden] */
    an_act act;            /* AN_ACT_SWIGLU or AN_ACT_GEGLU_TANH */
    const an_tensor *residual; /* [tokens, c] or NULL */
    an_tensor y;           /* [tokens, c] */
} an_moe_args;
/* y = sum over the chosen experts, in the order of their weights, of w_e * down_e(act(gate_up_e x)),
 * + residual. Ties go to the lower expert. */
void an_moe(an_lane *l, const an_moe_args *a);

/* ---------------------------------------------------------------- the next token */

/* What bias, penalties and bans do to one token's logit l, in double:
 *   v = l + add;  if repeated: v = v > 0 ? v / repetition : v * repetition;  v = v - less
 * rounded to F32, within its finite range unless v is -infinity. */
typedef struct an_logit_edit {
    int32_t id, repeated;
    double add, less; /* add: -INFINITY bans */
} an_logit_edit;

/* How one row's token is drawn. Ties go to the lower id. Weights are whole numbers, so that sums
 * have no order: w(i) = round(2^39 * exp((l(i) - max l) * heat_inverse)), max over what is still in,
 * with the exp of engine/sampling_vec.h. The filters, in this order, with heat_inverse 1:
 *   top_k      the k largest logits; 0 or less: all
 *   typical_p  those with the least |d - mean of d by weight| rounded to F32, d(i) = max l - l(i)
 *   top_p      those with the largest logits; both as few as reach that part of the sum; 1: all
 *   min_p_log  l(i) >= max l + min_p_log
 * Then the first token, by id, with which the sum of weights exceeds uniform * sum / 2^64. */
typedef struct an_sample_row {
    float *logits;             /* device [vocab]; edits and mask are applied in place */
    const an_logit_edit *edit; /* host [n_edit], an id at most once */
    int n_edit;
    const uint32_t *mask;      /* host: bit i % 32 of word i / 32 allows token i; NULL: all */
    double repetition;
    double heat_inverse;       /* 1 / temperature; 0: the largest logit, nothing is drawn */
    int top_k;
    double typical_p, top_p, min_p_log;
    uint64_t uniform;
} an_sample_row;

#define AN_SAMPLE_NO_NUMBER (-1) /* the logits held a NaN or +infinity before they were edited */
#define AN_SAMPLE_NO_TOKEN  (-2) /* all of them are -infinity */

/* Whether an_sample_tokens can be called: where logits are the host's memory, the host draws. */
bool an_device_samples(const an_device *d);
/* ids [n] I32 (device): the rows' tokens, or one of the above. In a counting lane edits and masks
 * are asked for by n_edit and mask, and not read. */
void an_sample_tokens(an_lane *l, const an_sample_row *rows, int n, int vocab, an_tensor ids);

/* ---------------------------------------------------------------- diffusion */

/* y[r] = scale[r] * x[r]: gathers f32 latents of rows that live apart into one batch. x: host array
 * of device pointers to F32 [h, w, c]; y [rows, h, w, c]. */
void an_latent_in(an_lane *l, const float *const *x, const float *scale, an_tensor y);

#define AN_MAX_BRANCHES 4
/* One row of a sampler step; all pointers are device F32 arrays of `count` elements. */
typedef struct an_step_row {
    an_step step;       /* coefficients, see step.h */
    int64_t count;      /* h * w * c */
    int branches;       /* 1 without guidance, 2 with, up to AN_MAX_BRANCHES */
    const float *pred[AN_MAX_BRANCHES];  /* network outputs */
    float weight[AN_MAX_BRANCHES];       /* m = sum weight[j] pred[j]; CFG: g for cond, 1-g for uncond */
    float rescale;      /* guidance_rescale phi: m = phi * m * std(cond)/std(m) + (1-phi) * m;
                           0 = none. cond is branch 0. std over all elements, unbiased as torch */
    float *x;           /* sample, updated */
    float *saved;       /* may be NULL if no coefficient or save asks for it */
    float *d[AN_HISTORY]; /* after rotation: d[0] receives the new value; NULL where unused */
    const float *noise; /* NULL if step.noise is false */
} an_step_row;
/* Guidance, conversion, clipping, history and update of a batch of rows with mixed samplers. */
void an_sampler_step(an_lane *l, const an_step_row *rows, int n);

/* u8 [n, h, w, 3] from x [n, h, w, 3] in [-1, 1]: round_half_even(clamp(x/2 + 0.5) * 255). A NaN
 * becomes 0 and is counted in *n_nan (host int64, may be NULL), which is written by the next
 * an_lane_sync or an_lane_status at the latest. */
void an_image_out(an_lane *l, an_tensor x, an_tensor y_u8, int64_t *n_nan);
/* x_u8 [n, h, w, 3] to y [n, h, w, 3] = x / 127.5 - 1. */
void an_image_in(an_lane *l, an_tensor x_u8, an_tensor y);

#endif
