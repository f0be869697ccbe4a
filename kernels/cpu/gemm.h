/* gemm.h: matrix products and convolutions on the CPU. Private to kernels/cpu.
 *
 * One blocked driver serves both. A convolution is a GEMM whose rows are output pixels, whose
 * columns are output channels and whose depth is (ky, kx, channel); a GEMM is a 1x1 convolution of
 * a picture one pixel high. Rows of A are gathered block by block from the plain NHWC tensor (never
 * a whole im2col), the weights lie in panels of `nr` columns packed at load:
 *
 *     gemm.c        what to run: weights' packing, the grid of tasks, the GEMM and convolution ops
 *     gemm_block.h  how one task runs: K blocks, gather, tiles, epilogue; compiled per instruction
 * set gemm_ISA.c    an instruction set: tile sizes and the few vector operations of a tile
 *
 * Why bytes do not depend on the batch: an output element is one chain of multiply-adds over k in
 * order, begun at zero, in f32. Blocks of K carry the chain on (the partial sum is stored and
 * loaded, which rounds nothing), and lanes of a vector do not see each other. So neither the block
 * sizes nor the tile an element falls into, nor the thread that computes it, can change a bit. The
 * products of bf16 pairs (AVX512_BF16) and the AMX tiles have their own order inside 2 and 32
 * values of k, which is again the same for every tile. */
#ifndef ANNEAL_CPU_GEMM_H
#define ANNEAL_CPU_GEMM_H

#include "../backend.h" /* relative: tests include this header too */

/* The backend's functions; contracts in backend.h. */
an_status an_cpu_weight_linear(an_device *d, an_dtype dtype, int n_parts, const an_tensor *const *w,
                               const float *const *scale, const an_tensor *const *bias,
                               an_weight *out, an_error *err);
an_status an_cpu_weight_conv(an_device *d, an_dtype dtype, const an_tensor *w,
                             const an_tensor *bias, an_weight *out, an_error *err);
void an_cpu_weight_free(an_weight *w);
an_status an_cpu_gemm(an_lane *l, const an_gemm_args *a);
an_status an_cpu_conv2d(an_lane *l, const an_conv_args *a);
an_status an_cpu_weight_rows(an_lane *l, const an_weight *w, const an_tensor *ids,
                             const an_tensor *y); /* rows.c */

/* Runs the tiles of an instruction set on small problems with integer values, where every order of
 * addition is exact, against plain loops. A device that fails it uses the next lower set. */
bool an_cpu_self_test(an_isa isa);

/* ---------------------------------------------------------------- inside */

typedef struct an_gemm_job an_gemm_job;

/* One instruction set and storage dtype. */
typedef struct an_gemm_kernel {
    const char *name;
    an_dtype dtype; /* of the panels: weights rounded to it, activations are of it or converted */
    int mr, nr;     /* rows and columns of a tile; a panel is nr columns wide */
    int pair;       /* consecutive k interleaved per column in a panel: 1, or 2 (pairs of bf16) */
    int kstep;      /* k is padded with zeros to a multiple of this */
    int mc, nc;     /* most rows and columns (with slack) of a task */
    size_t scratch; /* bytes a thread needs for a task */
    /* Rows m0..m1 and output columns j0..j1 (j0 a multiple of nr), from A to y. */
    void (*block)(const an_gemm_job *j, int64_t m0, int64_t m1, int64_t j0, int64_t j1,
                  void *scratch);
    /* The epilogue of row m's columns j0..j1: v their sums, gate those of the other half or NULL.
     * Both are read past their end, up to a vector. */
    void (*finish)(const an_gemm_job *j, int64_t m, int64_t j0, int64_t j1, const float *v,
                   const float *gate);
} an_gemm_kernel;

/* NULL if this build has none (another processor): ask for a lower isa. */
const an_gemm_kernel *an_gemm_kernel_of(an_isa isa, an_dtype dtype);
extern const an_gemm_kernel an_gemm_generic[2], an_gemm_avx2[2], an_gemm_avx512[2], an_gemm_bf16[1],
    an_gemm_amx[1];

/* A packed weight: panels [ceil(n/nr)][k padded / pair][nr][pair], zeros beyond n and k. */
typedef struct an_gemm_weight {
    const an_gemm_kernel *kernel;
    int64_t n, k;                  /* k = kh * kw * channels, in this order */
    int64_t panel;                 /* elements of one panel */
    void *data;                    /* 64-byte aligned */
    float *bias;                   /* [n rounded up to nr], zeros without bias */
    struct an_quant_weight *quant; /* weights in blocks (quant.h): then there are no panels here */
    size_t bytes;
} an_gemm_weight;

/* w: parts [n_i, k] or one [n, c, kh, kw]; pool may be NULL. */
an_status an_gemm_pack(const an_gemm_kernel *kernel, an_pool *pool, int n_parts,
                       const an_tensor *const *w, const float *const *scale,
                       const an_tensor *const *bias, an_gemm_weight **out, an_error *err);
void an_gemm_weight_free(an_gemm_weight *w);

/* Everything a task reads; y[m, j] = act(A[m, :] . B[:, j] + bias[j] + row_bias) + residual. */
struct an_gemm_job {
    const an_gemm_weight *w;
    int64_t m;     /* rows: pictures * oh * ow */
    int64_t n_out; /* columns of y: n, or n/2 for the gated activations */
    /* A: pictures x [., h, w, c]; flat: x is simply [m, k] */
    bool flat;
    const void *x;
    an_dtype x_dtype;
    int64_t h, width, c;
    int64_t up_h, up_w; /* size it is resized to first; h and width if not */
    int64_t oh, ow;
    int kh, kw, stride, pad_top, pad_left;
    /* epilogue */
    an_act act;
    const void *row_bias, *residual; /* [pictures, n_out], [m, n_out] or NULL */
    int64_t row_bias_stride;         /* elements between rows of row_bias */
    an_dtype row_bias_dtype, residual_dtype, y_dtype;
    void *y; /* [m, n_out] */
};

/* The self-test of one kernel. */
bool an_gemm_check_kernel(const an_gemm_kernel *kernel);

/* Splits a job into tasks and runs them. scratch: threads * kernel->scratch bytes. */
void an_gemm_run(const an_gemm_job *j, an_pool *pool, void *scratch);
an_gemm_job an_gemm_job_linear(const an_gemm_args *a, const an_gemm_weight *w);
an_gemm_job an_gemm_job_conv(const an_conv_args *a, const an_gemm_weight *w);

#endif
