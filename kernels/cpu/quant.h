/* quant.h: products with weights that stay in GGUF's blocks. Private to kernels/cpu.
 *
 *     quant.c         what to run: activations to 8 bits, the grid of tasks, the epilogue
 *     quant_pack.c    weights from a file's blocks into panels, once at load
 *     quant_ISA.c     a panel against a few rows, for an instruction set; quant_generic.c in plain
 *                     C; quant_512.h what vnni and amx share
 *     quant_check.c   the self-test
 *
 * A panel is 8 rows of the matrix (8 outputs), all of k, in the order in which they are read: for
 * each 32 values of k a head (scales) and a body (numbers). In the body the 32 bits of lane r
 * belong to output r, and hold 4 values of k (a group): so one broadcast of 4 activations meets 8
 * outputs, and the product of bytes leaves 8 sums, one an output, with no sum across lanes.
 *
 *     nibbles    vector v (0..3), byte 4 r + i: values 4 v + i (low half) and 16 + 4 v + i
 *     fifth bit  byte 4 r + i: bit g is of value 4 g + i
 *     bit pairs  vector v (0..1), byte 4 r + i: bits 2 j, 2 j + 1 are of value 16 v + 4 j + i
 *     bytes      vector g (0..7), byte 4 r + i: value 4 g + i
 *
 * Why bytes do not depend on the batch: an output element is one chain over the blocks of 32 in
 * order, each adding scale_w * scale_x * (an exact integer), and then, for formats with a minimum,
 * minimum * (scale_x * sum of x). Integers do not care for order; the chain is the same whatever
 * rows share a tile. Activations are rounded row by row (an_q8_round). */
#ifndef ANNEAL_CPU_QUANT_H
#define ANNEAL_CPU_QUANT_H

#include "gemm.h"

#define AN_QUANT_LANES 8 /* outputs of a panel */
#define AN_QUANT_ROWS  8 /* most activation rows of a tile */
#define AN_QUANT_MANY  4 /* most tiles at a time */

/* Where things are in a panel of a format. */
typedef struct an_quant_layout {
    int16_t
        super; /* bytes in front of every 256 values of k: f16 scales of scales [8], minima [8] */
    int16_t head; /* of every 32: f16 d [8], then m [8]; or small scales, then minima */
    int16_t body;
} an_quant_layout;
static inline an_quant_layout an_quant_layout_of(an_dtype format)
{
    switch (format) {
    case AN_Q4_1:
        return (an_quant_layout){0, 32, 128};
    case AN_Q5_0:
        return (an_quant_layout){0, 16, 160};
    case AN_Q5_1:
        return (an_quant_layout){0, 32, 160};
    case AN_Q8_0:
        return (an_quant_layout){0, 16, 256};
    case AN_Q2_K:
        return (an_quant_layout){32, 32, 64};
    case AN_Q3_K:
        return (an_quant_layout){16, 16, 96};
    case AN_Q4_K:
        return (an_quant_layout){32, 16, 128};
    case AN_Q5_K:
        return (an_quant_layout){32, 16, 160};
    case AN_Q6_K:
        return (an_quant_layout){16, 16, 192};
    case AN_IQ4_XS:
        return (an_quant_layout){16, 8, 128};
    default: /* Q4_0, IQ4_NL */
        return (an_quant_layout){0, 16, 128};
    }
}
/* Bytes of a panel over k values. */
static inline int64_t an_quant_panel_bytes(an_dtype format, int64_t k)
{
    const an_quant_layout l = an_quant_layout_of(format);
    return k / 32 * (l.head + l.body) + k / 256 * l.super;
}

/* What kernels that take two panels fetch ahead, of both: the next two, or further on in long ones.
 * The hardware's own guesses are for one run of addresses, not for two that take turns. */
static inline int64_t an_quant_ahead(int64_t stride)
{
    return 2 * stride < 12288 ? 2 * stride : 2048;
}
static inline void an_quant_fetch(const uint8_t *p, const uint8_t *q, int bytes)
{
    for (int i = 0; i < bytes; i += 64) {
        __builtin_prefetch(p + i);
        __builtin_prefetch(q + i);
    }
}

/* Activations of `rows` rows of a tile, 8 bits: for each block of 32, one after the other
 *     int8 q[rows][32], float scale[rows], float scale * sum[rows], int16 sums of halves[rows][2]
 */
#define AN_QUANT_X 44 /* bytes a row and block */
/* The tile that row m of `rows` is in: 8 rows, then what is left as 4, 2 and 1. */
typedef struct an_quant_tile {
    int64_t first;
    int rows;
} an_quant_tile;
static inline an_quant_tile an_quant_tile_at(int64_t rows, int64_t m)
{
    const int64_t whole = rows / AN_QUANT_ROWS * AN_QUANT_ROWS;
    if (m < whole) return (an_quant_tile){m / AN_QUANT_ROWS * AN_QUANT_ROWS, AN_QUANT_ROWS};
    int64_t first = whole;
    int size = AN_QUANT_ROWS / 2;
    for (;; size /= 2) {
        if (!((rows - whole) & size)) continue;
        if (m < first + size) break;
        first += size;
    }
    return (an_quant_tile){first, size};
}

/* One instruction set. */
typedef struct an_quant_kernel {
    const char *name;
    int panels; /* neighbours that it takes at a time: 1 or 2 */
    /* Row r of a tile of `rows` rows: k values (F32 or BF16) into the tile. */
    void (*round)(const void *x, an_dtype dtype, int64_t k, int rows, int r, void *tile);
    /* out[r][8 * panels] = the panels, `stride` bytes apart, times the tile's rows 0..rows-1 (1, 2,
     * 4 or 8), k / 32 blocks. */
    void (*panel)(an_dtype format, int rows, const void *panel, int64_t stride, int64_t blocks,
                  const void *tile, float *out);
    /* NULL, or the same for n whole tiles, which follow each other: out[8 * tile + row]. To the bit
     * what `panel` gives, so that how many rows there are may decide who computes them. */
    void (*tiles)(an_dtype format, int n, const void *panel, int64_t stride, int64_t blocks,
                  const void *x, float *out);
} an_quant_kernel;
extern const an_quant_kernel an_quant_generic, an_quant_avx2, an_quant_vnni, an_quant_amx;
const an_quant_kernel *an_quant_kernel_of(an_isa isa);

/* A run of outputs with one format. */
typedef struct an_quant_part {
    an_dtype format;
    int64_t first, n;      /* outputs */
    int64_t stride;        /* bytes of a panel */
    uint8_t *data;         /* panels [ceil(n / 8)], NULL for a floating part */
    an_gemm_weight *plain; /* a floating part, for activations as they are */
    int64_t plain_at;      /* its first column among all floating ones */
} an_quant_part;

typedef struct an_quant_weight {
    const an_quant_kernel *kernel;
    int parts;
    int64_t plain_columns; /* of all floating parts */
    an_quant_part part[];
} an_quant_weight;

/* parts as an_gemm_pack's, at least one of them in blocks. */
an_status an_quant_pack(const an_gemm_kernel *plain, const an_quant_kernel *kernel, an_pool *pool,
                        int n_parts, const an_tensor *const *w, const an_tensor *const *bias,
                        an_gemm_weight **out, an_error *err);
void an_quant_weight_free(an_quant_weight *w);
/* The GEMM of a weight whose quant is not NULL. */
an_status an_quant_gemm(an_lane *l, const an_gemm_args *a);

/* Whether a kernel computes what the plain one does, for every format. */
bool an_quant_check_kernel(const an_quant_kernel *kernel);

#endif
