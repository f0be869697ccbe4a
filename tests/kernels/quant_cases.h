/* quant_cases.h: matrices in GGUF's block formats for tests: random numbers everywhere, and scales
 * that a quantiser could have written. */
#ifndef ANNEAL_KERNELS_QUANT_CASES_H
#define ANNEAL_KERNELS_QUANT_CASES_H

#include "harness.h"
#include "kernels/cpu/quant.h"

static const an_dtype qc_formats[] = {AN_Q4_0, AN_Q4_1, AN_Q5_0, AN_Q5_1,   AN_Q8_0,   AN_Q2_K,
                                      AN_Q3_K, AN_Q4_K, AN_Q5_K, AN_IQ4_NL, AN_IQ4_XS, AN_Q6_K};
#define QC_FORMATS 12

/* Where the f16 scales of a block are; -1: it has one only. */
static inline void qc_scales_at(an_dtype format, int *d, int *m)
{
    *d = format == AN_Q2_K ? 80 : format == AN_Q3_K ? 108 : format == AN_Q6_K ? 208 : 0;
    *m = -1;
    if (format == AN_Q2_K) *m = 82;
    if (format == AN_Q4_1 || format == AN_Q5_1 || format == AN_Q4_K || format == AN_Q5_K) *m = 2;
}

/* n x k values of a format, k in whole blocks; free the data. Block formats' numbers have a size of
 * about 10 * scale. */
static inline an_tensor qc_matrix(an_dtype format, int64_t n, int64_t k, uint64_t seed)
{
    an_tensor t = an_tensor_2d(NULL, format, n, k);
    const size_t bytes = an_tensor_bytes(&t), size = an_dtype_block_bytes(format);
    uint8_t *b = malloc(bytes);
    t.data = b;
    if (!an_dtype_is_quant(format)) {
        float *v = malloc((size_t)(n * k) * sizeof *v);
        h_values(v, n * k, seed, 1, 0);
        for (int64_t i = 0; format == AN_F16 && i < n * k; i++)
            ((uint16_t *)t.data)[i] = an_f32_to_f16(v[i]);
        if (format != AN_F16) an_convert(b, format, v, AN_F32, n * k);
        free(v);
        return t;
    }
    uint64_t s = seed * 77 + 5;
    for (size_t i = 0; i < bytes; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        b[i] = (uint8_t)(s >> 56);
    }
    int d, m;
    qc_scales_at(format, &d, &m);
    const bool small = an_dtype_block(format) == 256; /* scales of scales */
    for (size_t i = 0; i < bytes; i += size) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        const float f = (float)(1 + (s >> 40) % 1000) / 8000 / (small ? 16 : 1);
        const uint16_t hd = an_f32_to_f16((s >> 33 & 1) ? f : -f), hm = an_f32_to_f16(f * 3);
        memcpy(b + i + d, &hd, 2);
        if (m >= 0) memcpy(b + i + m, &hm, 2);
    }
    return t;
}

/* A kernel of two panels gives the bits of the AVX2 one, which this machine has. */
static inline void qc_bits_of_avx2(const an_quant_kernel *kernel)
{
    enum { K = 512, N = 16 };
    for (int f = 0; f < QC_FORMATS; f++) {
        an_tensor t = qc_matrix(qc_formats[f], N, K, 7);
        const an_tensor *pt = &t;
        an_gemm_weight *w;
        const an_gemm_kernel *plain = an_gemm_kernel_of(AN_ISA_GENERIC, AN_F32);
        REQUIRE(an_quant_pack(plain, kernel, NULL, 1, &pt, NULL, &w, NULL) == AN_OK);
        const an_quant_part *p = &w->quant->part[0];
        float x[K];
        char tile[AN_QUANT_X * 8 * (K / 32)];
        for (int rows = 1; rows <= 8; rows *= 2) {
            float got[8 * N], want[8 * N];
            for (int r = 0; r < rows; r++) {
                h_values(x, K, (uint64_t)r, 1, 0);
                kernel->round(x, AN_F32, K, rows, r, tile);
            }
            kernel->panel(p->format, rows, p->data, p->stride, K / 32, tile, got);
            an_quant_avx2.panel(p->format, rows, p->data, p->stride, K / 32, tile, want);
            for (int i = 0; i < rows * N; i++)
                CHECK_MSG(got[i] == want[i], "%s %d: %.9g, not %.9g", an_dtype_name(p->format), i,
                          (double)got[i], (double)want[i]);
        }
        an_gemm_weight_free(w);
        free(t.data);
    }
}

#endif
