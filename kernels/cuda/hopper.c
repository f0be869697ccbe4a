/* hopper.c: whether products may go through wgmma (gemm90.cu, conv90.cu) on a GPU: only if they
 * answer there what mma.sync answers, on whole numbers, of which both are exact. What an
 * instruction does with descriptors and tiles is easily misunderstood, and a wrong picture says
 * nothing. */
#include "cuda/gpu_host.h"

#include <cuda_runtime_api.h>

#include <stdio.h>
#include <stdlib.h>

/* K: twelve steps, so that every stage of the ring comes round more than once. */
enum { M = 72, N = 136, K = 712, PITCH = 768, CHANNELS = 100 };

/* Everything that the check needs, on the host, and so on the GPU. */
typedef struct samples {
    uint16_t x[M * K], w[N * PITCH];
    int32_t index[M];
    float bias[N], y[2][M * N];
} samples;

static uint16_t whole(int v) /* as bf16 */
{
    const float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (uint16_t)(bits >> 16);
}

static void fill(samples *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < M * K; i++) s->x[i] = whole(i * 7 % 23 - 11);
    for (int n = 0; n < N; n++)
        for (int k = 0; k < PITCH; k++) /* past K, zeros */
            if (k < K) s->w[n * PITCH + k] = whole((n * 5 + k * 3) % 19 - 9);
    for (int i = 0; i < M; i++) s->index[i] = i * 37 % M;
    for (int i = 0; i < N; i++) s->bias[i] = (float)i;
}

/* Product `which` of 0 .. PRODUCTS - 1 by mma.sync into y[0], by wgmma into y[1]; `at` on the GPU.
 * 64 and 128 columns wide, one warpgroup and two of each, tiles by TMA and by threads, gated; and
 * a picture. */
enum { PICTURE = 6, PRODUCTS };
static int run(samples *at, int which)
{
    static const int rows[] = {M, 40, M, M, 40, M}, n[] = {72, 128, 128, 136, 72, 128};
    for (int i = 0; i < 2; i++) {
        gpu_gemm g = {.w = {at->w, GPU_BF16, which < PICTURE ? n[which] : 48, PITCH, NULL},
                      .x = at->x,
                      .x_dtype = GPU_BF16,
                      .rows = which < PICTURE ? rows[which] : 0,
                      .k = K,
                      .index = which == 2 ? at->index : NULL,
                      .out = {.bias = at->bias, .y = at->y[i], .ld = N}};
        if (which == 3 || which == 5) g.out.act = GPU_ACT_SWIGLU;
        const gpu_conv c = {
            .w = g.w, /* 6 places in the filter, of 104 channels each in the weight */
            .x = at->x,
            .x_dtype = GPU_BF16,
            .pictures = 2,
            .h = 4,
            .width = 9,
            .c = CHANNELS,
            .up_h = 4,
            .up_w = 9,
            .oh = 4,
            .ow = 9,
            .kh = 3,
            .kw = 2,
            .stride = 1,
            .pad_top = 1,
            .pad_left = 1,
            .out = g.out};
        const int e = which < PICTURE ? i ? GPU(gemm90)(&g, NULL) : GPU(gemm)(&g, NULL)
                      : i ? GPU(conv90)(&c, NULL)
                                      : GPU(conv)(&c, NULL);
        if (e) return e;
    }
    return 0;
}

/* A CUDA error, or 0 and how many of the products differ. */
static cudaError_t compare(samples *host, samples *at, int *differ)
{
    cudaError_t e = cudaMemcpy(at, host, sizeof *at, cudaMemcpyHostToDevice);
    for (int which = 0; which < PRODUCTS && !e; which++) {
        e = (cudaError_t)run(at, which);
        if (!e) e = cudaMemcpy(host->y, at->y, sizeof host->y, cudaMemcpyDeviceToHost);
        if (!e) *differ += memcmp(host->y[0], host->y[1], sizeof host->y[0]) != 0;
    }
    return e;
}

bool GPU(wgmma_check)(char *why, size_t size)
{
    samples *host = malloc(sizeof *host), *at = NULL;
    int differ = 0;
    cudaError_t e = host ? cudaMalloc((void **)&at, sizeof *at) : cudaErrorMemoryAllocation;
    if (!e) {
        fill(host);
        e = compare(host, at, &differ);
    }
    if (at) cudaFree(at);
    free(host);
    if (e) {
        cudaGetLastError();
        snprintf(why, size, "%s", cudaGetErrorString(e));
    } else if (differ) {
        snprintf(why, size, "%d of %d products differ from mma.sync's", differ, (int)PRODUCTS);
    }
    return !e && !differ;
}
