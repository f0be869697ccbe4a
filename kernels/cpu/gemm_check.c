/* gemm_check.c: the self-test of an instruction set, run when a device opens. The values are small
 * integers, so that every product and sum is exact in f32 in any order and a right tile gives
 * exactly what plain loops give. It catches a compiler or an emulator that gets an instruction
 * wrong, before a picture does. */
#include "quant.h"

#include <stdlib.h>

/* More than one tile each way, ragged; k crosses the K block of every kernel. */
#define M 37
#define N 45
#define K 1100

static float value(int64_t i, int64_t range)
{
    return (float)((i * 2654435761 >> 7) % (2 * range + 1) - range);
}

typedef struct check {
    float x[M * K], w[N * K], bias[N], y[M * N];
} check;

static bool right(const check *c)
{
    for (int64_t m = 0; m < M; m++) {
        for (int64_t n = 0; n < N; n++) {
            float sum = c->bias[n];
            for (int64_t k = 0; k < K; k++) sum += c->x[m * K + k] * c->w[n * K + k];
            if (sum != c->y[m * N + n]) return false;
        }
    }
    return true;
}

static bool check_kernel(const an_gemm_kernel *kernel, check *c)
{
    an_tensor w = an_tensor_2d(c->w, AN_F32, N, K), bias = an_tensor_1d(c->bias, AN_F32, N);
    const an_tensor *ws = &w, *biases = &bias;
    an_gemm_weight *packed;
    if (an_gemm_pack(kernel, NULL, 1, &ws, NULL, &biases, &packed, NULL)) return false;
    void *scratch = aligned_alloc(64, (kernel->scratch + 63) / 64 * 64);
    an_gemm_args a = {.x = an_tensor_2d(c->x, AN_F32, M, K), .y = an_tensor_2d(c->y, AN_F32, M, N)};
    if (scratch) {
        memset(c->y, 0, sizeof c->y);
        an_gemm_job j = an_gemm_job_linear(&a, packed);
        an_gemm_run(&j, NULL, scratch);
    }
    bool ok = scratch && right(c);
    free(scratch);
    an_gemm_weight_free(packed);
    return ok;
}

bool an_gemm_check_kernel(const an_gemm_kernel *kernel)
{
    check *c = malloc(sizeof *c);
    if (!c) return false;
    for (int64_t i = 0; i < M * K; i++) c->x[i] = value(i, 4);
    for (int64_t i = 0; i < N * K; i++) c->w[i] = value(i + 77, 4);
    for (int64_t i = 0; i < N; i++) c->bias[i] = value(i + 7, 100);
    bool ok = check_kernel(kernel, c);
    free(c);
    return ok;
}

bool an_cpu_self_test(an_isa isa)
{
    static const an_dtype dtypes[2] = {AN_F32, AN_BF16};
    for (int i = 0; i < 2; i++) {
        const an_gemm_kernel *kernel = an_gemm_kernel_of(isa, dtypes[i]);
        if (!kernel || !an_gemm_check_kernel(kernel)) return false;
    }
    return an_quant_check_kernel(an_quant_kernel_of(isa));
}
