/* gpu.h: the border between C and the GPU's kernels: one launcher a kernel family, plain C.
 *
 * Everything in kernels/cuda is compiled twice: by nvcc for the device "cuda" (if the build has
 * it), and by the C++ compiler against kernels/simt for the device "simt", where CUDA threads are
 * fibers on the CPU. GPU(x) keeps the two apart: an_cuda_x and an_simt_x.
 *
 * A launcher takes device pointers and plain numbers, puts kernels on the stream and returns at
 * once with a cudaError_t (0 = launched). It reads no host memory after it returned, allocates
 * nothing and never waits. Orders of summation follow from the layer alone (n, k, head_dim, c).
 * Tiles and splits may follow the number of rows, since they change no bit: tile.cuh, quant.cu and
 * paged.cu say why. */
#ifndef ANNEAL_GPU_H
#define ANNEAL_GPU_H

#include "anneal/step.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef AN_GPU_PREFIX
#error "kernels/cuda is compiled with AN_GPU_PREFIX=an_cuda_ or an_simt_"
#endif
#define GPU_JOIN2(a, b) a##b
#define GPU_JOIN(a, b)  GPU_JOIN2(a, b)
#define GPU(name)       GPU_JOIN(AN_GPU_PREFIX, name)
/* 1 where the kernels run on the CPU, 0 on a GPU; and what users call the device. */
#define GPU_IS_an_simt_   1
#define GPU_IS_an_cuda_   0
#define GPU_NAME_an_simt_ "simt"
#define GPU_NAME_an_cuda_ "cuda"
#define GPU_EMULATED      GPU_JOIN(GPU_IS_, AN_GPU_PREFIX)
#define GPU_NAME          GPU_JOIN(GPU_NAME_, AN_GPU_PREFIX)

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gpu_stream; /* cudaStream_t */

/* What this thread has launched, and copied from the host, since it began (backend.c). */
extern __thread uint64_t GPU(launched), GPU(copied);

/* Element types of activations, numbered as an_dtype; and of weights, that too. */
enum { GPU_F32 = 0, GPU_BF16 = 1, GPU_E4M3 = 10 };

/* GGUF's block formats, numbered as an_dtype. */
enum {
    GPU_Q4_0 = 12,
    GPU_Q4_1,
    GPU_Q5_0,
    GPU_Q5_1,
    GPU_Q8_0,
    GPU_Q2_K,
    GPU_Q3_K,
    GPU_Q4_K,
    GPU_Q5_K,
    GPU_Q6_K,
    GPU_IQ4_NL,
    GPU_IQ4_XS
};

/* Activations, numbered as an_act. */
enum {
    GPU_ACT_NONE = 0,
    GPU_ACT_SILU,
    GPU_ACT_GELU,
    GPU_ACT_GELU_TANH,
    GPU_ACT_QUICK_GELU,
    GPU_ACT_RELU,
    GPU_ACT_GEGLU,
    GPU_ACT_GEGLU_TANH,
    GPU_ACT_SWIGLU
};

#define GPU_BRANCHES 4 /* AN_MAX_BRANCHES */

/* What kernels of a lane have to tell the host: read at an_lane_sync, all zero before. */
#define GPU_NAN_SLOTS 64
typedef struct gpu_flags {
    unsigned long long bad_id; /* ~(place << 32 | id) of the first token id out of range */
    unsigned long long nan[GPU_NAN_SLOTS]; /* NaN met by image_out, a slot a call */
} gpu_flags;

/* Counters that blocks of a launch arrive at: zero before and after each (arrive_last). */
#define GPU_ARRIVALS 256

/* ---------------------------------------------------------------- small ops
 * elementwise.cu, small.cu, image.cu, norm.cu, step.cu; host side: small.c, norm.c, diffusion.c.
 * Types are GPU_F32 or GPU_BF16 where nothing else is said; counts are in elements. */

/* One value to one: the activations above (not the gated ones), and these. y may be x. */
enum { GPU_MAP_SCALE = 16, GPU_MAP_SOFTCAP };
int GPU(map)(int op, float factor, const void *x, int tx, void *y, int ty, int64_t n, gpu_stream s);
int GPU(add)(const void *a, const void *b, void *y, int type, int64_t n, gpu_stream s);

/* Row r of y, `width` bytes at y + r * y_pitch, is row r * step + index[r] of x, at that times
 * x_pitch. index: device, of index_bytes 4 or 8 each, or NULL (zeros). Sizes in bytes, even. */
typedef struct gpu_move {
    const void *x;
    void *y;
    int64_t rows, step, width, x_pitch, y_pitch;
    const void *index;
    int index_bytes;
} gpu_move;
int GPU(move_rows)(const gpu_move *a, gpu_stream s);

/* y[i, :] = table[ids[i], :] + pos[i % period, :]. An id out of range raises bad_id, its row of y
 * becomes zeros. */
typedef struct gpu_embedding {
    const void *table;
    int table_type; /* or a block format, as in blocks.cuh */
    int64_t vocabulary, c;
    const void *pos; /* or NULL */
    int pos_type;
    const int32_t *ids;
    int64_t tokens, period;
    void *y;
    int y_type;
    gpu_flags *flags;
} gpu_embedding;
int GPU(embedding)(const gpu_embedding *a, gpu_stream s);

/* t: device [rows]; y [rows, dim] */
int GPU(timestep_embedding)(const float *t, bool flip, float shift, float scale, void *y, int type,
                            int64_t rows, int64_t dim, gpu_stream s);

/* y[r, :] = scale * x of row r */
typedef struct gpu_latent {
    const float *x;
    float scale;
} gpu_latent;
int GPU(latent_in)(const gpu_latent *row, int64_t rows, int64_t count, void *y, int type,
                   gpu_stream s);

/* nan: counts, device, or NULL */
int GPU(image_out)(const void *x, int type, uint8_t *y, int64_t n, unsigned long long *nan,
                   gpu_stream s);
int GPU(image_in)(const uint8_t *x, void *y, int type, int64_t n, gpu_stream s);

/* y [rows, pixels, c] of x [rows, pixels, c1] and, where c1 < c, x2 [rows, pixels, c - c1] beside
 * it; cat, if not NULL, gets the two as they are. Where groups are small (threads is not 0), a
 * block of so many threads takes one in one launch. Else a row is looked at in `chunks` chunks of
 * `chunk` pixels, and there are two: x's moments are taken (and cat made), then y is made of cat or
 * of x. */
typedef struct gpu_group_norm {
    const void *x, *x2;
    void *y, *cat;
    int type;
    int64_t rows, pixels, chunk;
    int c, c1, groups, chunks, threads;
    const float *gamma, *beta;
    float eps;
    bool silu;
    double *partials;  /* scratch [rows, chunks, groups, 2], if threads is 0 */
    float *params;     /* scratch [rows, 3, c], the same */
    unsigned *arrived; /* the lane's [GPU_ARRIVALS], the same */
    int64_t first;     /* the launcher's: the row of the grid's first */
} gpu_group_norm;
int GPU(group_norm)(const gpu_group_norm *a, gpu_stream s);

/* x, y [rows, c]; rms: no mean is taken away and beta is NULL */
typedef struct gpu_row_norm {
    const void *x;
    void *y;
    int type;
    int64_t rows;
    int c;
    const float *gamma, *beta; /* beta may be NULL */
    float eps;
    bool rms;
} gpu_row_norm;
int GPU(row_norm)(const gpu_row_norm *a, gpu_stream s);

/* What the whole of a row must be seen for. */
typedef struct gpu_step_facts {
    double rescale; /* factor of the guided prediction */
    float top;      /* dynamic threshold */
} gpu_step_facts;
/* As an_step_row. */
typedef struct gpu_step_row {
    an_step step;
    int64_t count;
    int branches;
    const float *pred[GPU_BRANCHES];
    float weight[GPU_BRANCHES], rescale;
    float *x, *saved, *d[AN_HISTORY];
    const float *noise;
} gpu_step_row;
/* rows, facts: device [n]; most: the largest count; look: whether any row needs facts. */
int GPU(sampler_step)(const gpu_step_row *rows, gpu_step_facts *facts, int n, int64_t most,
                      bool look, gpu_stream s);

/* ---------------------------------------------------------------- gemm.cu, conv.cu: products */

/* A packed weight, [n][pitch] elements of dtype, pitch a multiple of 128 bytes. A row of a matrix
 * has its k values, then zeros; a row of a convolution has (ky, kx, channel), channels padded with
 * zeros to 16 bytes.
 *
 * FP8 (e4m3, no convolutions): a row is multiplied by scale[row] after it was summed; a code of NaN
 * is one that never comes out, since its row's scale is NaN. The pitch is a multiple of 64 bytes.
 * 16 values of k lie as an mma wants them: byte 4t + i of 16 is value GPU_E4M3_PLACE(t, i). */
typedef struct gpu_matrix {
    const void *w;
    int dtype; /* GPU_F32: plain FMA; GPU_BF16, GPU_E4M3: tensor cores */
    int n;
    int pitch;          /* elements */
    const float *scale; /* of GPU_E4M3: [n] */
} gpu_matrix;
#define GPU_E4M3_PLACE(t, i) (2 * (t) + ((i)&1 ? 0 : 8) + ((i) >> 1))

/* What becomes of the sums, y[m, j] = act(sum + bias[j] + row_bias[m / row_pixels, j]) +
 * residual[m, j]. For the gated activations y has n/2 columns, j and n/2 + j of the weight. */
typedef struct gpu_out {
    const float *bias;    /* [n], zeros for none */
    const void *row_bias; /* [., n], row_bias_ld elements between rows, or NULL */
    int row_bias_dtype, row_bias_ld, row_pixels;
    const void *residual; /* as y, or NULL; may be y */
    void *y;
    int y_dtype;
    int ld;  /* elements between rows of y and of residual */
    int act; /* an_act */
} gpu_out;

/* Which tile a launcher takes; 0: it chooses. A tile changes no bit, only the speed: tests force
 * each. F32 has the two in the middle. */
enum { GPU_TILE_AUTO, GPU_TILE_16x32, GPU_TILE_64x32, GPU_TILE_64x64, GPU_TILE_128x128 };

/* Rows of x times a matrix. With `range` (device, two ints) only rows range[0] .. range[1] - 1 are
 * there; `rows` is then the most there can be. With `index` (device) row m of the product is row
 * index[m] of x, else row m. */
typedef struct gpu_gemm {
    gpu_matrix w;
    const void *x; /* [., k] */
    int x_dtype;   /* another than the weight's is converted on the way, slowly */
    int rows, k;
    const int32_t *range, *index;
    gpu_out out;
    int tile;
} gpu_gemm;
int GPU(gemm)(const gpu_gemm *a, gpu_stream stream);
/* gemm90.cu: the same for weights in bf16, by wgmma, on compute capability 9.0 alone (see
 * GPU(wgmma_check)). Other bits than mma.sync's may come out, so a layer takes the one or the other
 * always. Of the tiles it has GPU_TILE_64x64 and GPU_TILE_128x128, by rows; columns are the
 * layer's.
 */
int GPU(gemm90)(const gpu_gemm *a, gpu_stream stream);

/* NHWC pictures x [pictures, h, w, c], resized to up_h x up_w first (nearest; h and w if not), with
 * a kh x kw filter. Output pixels are the rows of the product. */
typedef struct gpu_conv {
    gpu_matrix w;
    const void *x;
    int x_dtype;
    int pictures, h, width, c, up_h, up_w, oh, ow;
    int kh, kw, stride, pad_top, pad_left;
    gpu_out out;
    int tile;
} gpu_conv;
int GPU(conv)(const gpu_conv *a, gpu_stream stream);
int GPU(conv90)(const gpu_conv *a, gpu_stream stream); /* as gemm90 */

/* ---------------------------------------------------------------- quant.cu: weights in blocks */

/* A matrix [n, k] of one of GGUF's formats, its numbers moved so that a thread finds what it needs
 * of four blocks of 32 (a group) in one 16-byte read. A panel is 8 rows; p is a panel, g a group, r
 * a row of the panel, t = 0..3; values of k are counted from a block's first.
 *   low    [p][g][r][t][4 blocks] words: low halves of bytes are values 4t + 0..3, high halves
 *          16 + 4t + 0..3; with 8 bits: values 4t + 0..3
 *   high   5 bits: [p][g][r][t][4 blocks] bytes, bit i is the fifth of value 4t + i (i < 4) or of
 *          16 + 4t + i - 4; 6 bits: the same as pairs of bits in 16-bit units; 8 bits: words of
 *          values 16 + 4t + 0..3
 *   scale  [p][g][r][4 blocks]: f16 d, f16 m; or, if there is `super`, signed bytes: scales of the
 *          two halves of the block, then factors of m
 *   super  [p][pair of groups][r]: f16 d, f16 m of 256 values
 * A block is worth: d * (sum over its halves of scale * (number - offset) * x) + m * (sum over its
 * halves of factor * x). Past n and k everything is zero. */
typedef struct gpu_blocks {
    const uint32_t *low, *high, *scale, *super;
    int bits;     /* 4, 5, 6, 8 */
    bool halves;  /* the two scales differ */
    bool minimum; /* there is an m */
    int offset;
    int n, groups;
} gpu_blocks;

/* Activations rounded to 8 bits, 32 values of k at a time (an_q8_round): a record a row and group,
 * [rows][groups]. Past k everything is zero. */
typedef struct gpu_record {
    int8_t q[128];
    float scale[4];
    int16_t sum[4][2]; /* of q, by halves of a block */
} gpu_record;
int GPU(round)(const void *x, int dtype, int rows, int k, gpu_record *to, gpu_stream stream);

/* y = act(x w^T + bias) + residual, as gpu_gemm. */
typedef struct gpu_quant {
    gpu_blocks w;
    const gpu_record *x;
    int rows;
    const int32_t *range, *index;
    gpu_out out;
    int tile; /* GPU_TILE_16x32, GPU_TILE_64x64 or GPU_TILE_AUTO */
} gpu_quant;
int GPU(quant)(const gpu_quant *a, gpu_stream stream);

/* The gated activations where value and gate were computed apart: sums [rows, n], bias in them. */
int GPU(gate)(const float *sums, int n, int rows, const int32_t *range, const gpu_out *out,
              gpu_stream stream);

/* rows.cu: y[i, :] = row ids[i] of a packed weight [n, k]: of `blocks` where blocks.low is not
 * NULL, else of `plain`. An id out of range raises bad_id, its row of y becomes zeros. */
typedef struct gpu_weight_rows {
    gpu_matrix plain;
    gpu_blocks blocks;
    const int32_t *ids;
    int tokens, k;
    void *y;
    int y_dtype;
    gpu_flags *flags;
} gpu_weight_rows;
int GPU(weight_rows)(const gpu_weight_rows *a, gpu_stream stream);

/* ---------------------------------------------------------------- moe.cu: mixtures of experts
 * Choice i of token t is number t * top_k + i; choices are grouped by expert, those of one expert
 * in the order of their tokens. */

/* expert, weight [tokens, top_k]: the largest of logits [tokens, experts] in order, ties to the
 * lower expert; a softmax over all experts, or over the chosen. A NaN is the least. */
int GPU(moe_choose)(const float *logits, int tokens, int experts, int top_k, bool over_all,
                    int32_t *expert, float *weight, gpu_stream stream);
/* place [choices]: a choice's grouped row; token [choices]: a grouped row's token; range
 * [experts][2]: an expert's grouped rows, first and end. */
int GPU(moe_group)(const int32_t *expert, int choices, int experts, int top_k, int32_t *place,
                   int32_t *token, int32_t *range, gpu_stream stream);
/* y[t] = sum over i of weight[t, i] * rows[place[t, i]] in order, + residual[t]; rows [choices, c].
 */
int GPU(moe_combine)(const float *rows, const int32_t *place, const float *weight, int tokens,
                     int top_k, int c, const void *residual, void *y, int y_dtype,
                     gpu_stream stream);

/* ---------------------------------------------------------------- attention
 * attention.cu, paged.cu, rope.cu; host side: attention.c. */

/* softmax(scale q k^T) v as an_attention_args describes it; pointers are of the device. */
typedef struct gpu_attention {
    const void *q, *k, *v;
    void *y;                              /* [rows, q_len, heads * head_dim] */
    int64_t q_stride, k_stride, v_stride; /* elements from token to token */
    const int64_t *kv_start, *kv_lens; /* [rows]; or NULL: row r has kv_len keys from r * kv_len */
    int64_t kv_len;
    int rows, q_len, heads, head_dim;
    int dtype; /* of q, k, v and y: GPU_F32 or GPU_BF16 */
    float scale;
    bool causal;
    size_t shared_bytes; /* most dynamic shared memory of a block: wide heads take smaller steps
                            where that is 99 KB, as in GPUs for desktops */
} gpu_attention;
int GPU(attention)(const gpu_attention *a, gpu_stream s);

/* paged.cu: keys and values k, v [blocks, kv_heads, GPU_KV_BLOCK, head_dim]. */
#define GPU_KV_BLOCK 16 /* AN_KV_BLOCK */
typedef struct gpu_kv_pool {
    void *k, *v;
    int dtype, kv_heads, head_dim;
} gpu_kv_pool;

/* Token `token` of k and v goes to place `at` of a block. */
typedef struct gpu_kv_place {
    int32_t token, block, at;
} gpu_kv_place;
typedef struct gpu_kv_write {
    gpu_kv_pool pool;
    const gpu_kv_place *place; /* device [places] */
    int places;
    const void *k, *v; /* [tokens, kv_heads * head_dim] with strides */
    int64_t k_stride, v_stride;
    int dtype;
} gpu_kv_write;
int GPU(kv_write)(const gpu_kv_write *a, gpu_stream s);

/* Keys are taken in segments of so many, counted from position 0; each gives a state (outputs,
 * largest score, sum), states are merged in order: what a query's bytes are made of, wherever the
 * states were computed. */
#define GPU_PAGED_SEGMENT 256
#define GPU_PAGED_SMALL   16 /* queries of a small tile */
static inline int GPU(paged_large)(int head_dim)
{
    return head_dim <= 256 ? 64 : 32;
}

/* Some queries of a row. A kv head meets the `group` heads that share it, so for it a row has
 * q_len * group queries, token by token: query i is head i % group of token i / group. */
typedef struct gpu_paged_tile {
    int32_t token;   /* the row's first, in q and y */
    int32_t pos;     /* its position */
    int32_t queries; /* of the row */
    int32_t first;   /* query of the tile */
    int32_t table;   /* where the row's blocks begin in `tables` */
} gpu_paged_tile;

typedef struct gpu_paged {
    gpu_kv_pool pool;
    const gpu_paged_tile *tile; /* device [tiles] */
    int tiles;
    bool small_tiles;      /* else large ones; both in f32 and mixed types: small ones only */
    const int32_t *tables; /* device: blocks of rows, position p in entry p / GPU_KV_BLOCK */
    const void *q;
    int64_t q_stride;
    void *y; /* [tokens, heads * head_dim] */
    int heads, group;
    int dtype; /* of q and y */
    float scale, softcap;
    int window;          /* 0 = all */
    size_t shared_bytes; /* as in gpu_attention */
    /* wide == 0: a block does all of a tile's segments. Else segments round * wide .. of every
     * tile, counted from its first, are blocks of their own, whose states are then merged into
     * totals; where a tile's last is among them, y is written. */
    int wide, round;
    float *states; /* [tiles][kv_heads][wide][queries of a tile][head_dim + 2] */
    float *totals; /* [tiles][kv_heads][queries of a tile][head_dim + 2] */
} gpu_paged;
int GPU(paged)(const gpu_paged *a, gpu_stream s);
/* Dynamic shared memory that a block takes unless queries, keys and values are all bf16. */
size_t GPU(paged_shared)(int head_dim);

/* rope.cu; fields as in an_rope_args, pos on the device. */
typedef struct gpu_rope {
    void *x;
    int64_t tokens, stride;
    int dtype, heads, head_dim, rot_dim;
    bool interleaved;
    const int32_t *pos;
    float mscale;
    float inv_freq[256]; /* [rot_dim / 2]: few enough to come along with the launch */
} gpu_rope;
int GPU(rope)(const gpu_rope *a, gpu_stream s);

/* sample.cu; fields as in an_logit_edit and an_sample_row. */
typedef struct gpu_logit_edit {
    int32_t id, repeated;
    double add, less;
} gpu_logit_edit;
#define GPU_SAMPLE_NO_NUMBER (-1) /* AN_SAMPLE_NO_NUMBER */
#define GPU_SAMPLE_NO_TOKEN  (-2)
typedef struct gpu_sample_row {
    float *logits;
    const gpu_logit_edit *edit; /* device */
    const uint32_t *mask;       /* device, or NULL */
    int n_edit, top_k;
    double repetition, heat_inverse, typical_p, top_p, min_p_log;
    unsigned long long uniform;
    unsigned long long best; /* 0 before; key << 32 | ~id of the largest logit, 0 if none is in */
    int bad;                 /* 0 before */
} gpu_sample_row;
typedef struct gpu_sample {
    gpu_sample_row *rows; /* device [n] */
    int n, vocab, most_edits;
    int32_t *ids; /* device [n] */
} gpu_sample;
int GPU(sample)(const gpu_sample *a, gpu_stream s);

#ifdef __cplusplus
}
#endif
#endif
