/* wrappers_hopper_model.c: inputs and expected answers of kernels/cuda/hopper.cuh. The layout of a
 * tile: CUDA driver API, CU_TENSOR_MAP_SWIZZLE_128B; of sums: PTX ISA 8, "Asynchronous warpgroup
 * level matrix instructions", fragment of D. */
#include "wrappers_model.h"

#include <string.h>

/* ---------------------------------------------------------------- mbarriers, tiles */

static void m_mbarrier(const uint32_t *in, uint32_t *out)
{
    for (int t = 0; t < 128; t++)
        for (int r = 0; r < 5; r++)
            out[t * 5 + r] =
                t < 32 ? in[t * 5 + r] + 1 : in[(t * 7 + r) % 32 * 5 + r] ^ in[t * 5 + r];
}

/* Element (row, col) of the matrix [60, 100], 128 elements from row to row; 0 elsewhere. */
static uint32_t tile_element(const uint32_t *in, int row, int col)
{
    if (row < 0 || row >= 60 || col < 0 || col >= 100) return 0;
    return in[row * 64 + col / 2] >> (16 * (col % 2)) & 0xffff;
}

static void m_tma_tile(const uint32_t *in, uint32_t *out)
{
    static const int x[2] = {70, -7}, y[2] = {-5, 20};
    for (int tile = 0; tile < 2; tile++)
        for (int r = 0; r < 64; r++)
            for (int c = 0; c < 64; c += 2) {
                const int piece = c / 8 ^ r % 8;
                const uint32_t low = tile_element(in, y[tile] + r, x[tile] + c);
                const uint32_t high = tile_element(in, y[tile] + r, x[tile] + c + 1);
                out[tile * 2048 + r * 32 + piece * 4 + c % 8 / 2] = low | high << 16;
            }
}

/* ---------------------------------------------------------------- products */

static float element(const uint32_t *matrix, int row, int k)
{
    return bits_float((matrix[row * 32 + k / 2] >> (16 * (k % 2)) & 0xffff) << 16);
}

/* d + a b^T; a [64, 64], b [n, 64], then d as threads hold it, or none. */
static void wgmma(const uint32_t *in, uint32_t *out, int n, bool has_d)
{
    const uint32_t *b = in + 2048, *d = b + n * 32;
    for (int t = 0; t < 128; t++)
        for (int i = 0; i < n / 2; i++) {
            const int row = t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8;
            const int col = i / 4 * 8 + t % 4 * 2 + i % 2;
            double sum = has_d ? (double)bits_float(d[t * (n / 2) + i]) : 0;
            for (int k = 0; k < 64; k++)
                sum += (double)element(in, row, k) * (double)element(b, col, k);
            out[t * (n / 2) + i] = float_bits((float)sum);
        }
}
static void m_wgmma_64(const uint32_t *in, uint32_t *out)
{
    wgmma(in, out, 64, true);
}
static void m_wgmma_128(const uint32_t *in, uint32_t *out)
{
    wgmma(in, out, 128, true);
}
static void m_proxy_fence(const uint32_t *in, uint32_t *out)
{
    wgmma(in, out, 64, false);
}

/* ---------------------------------------------------------------- inputs */

static uint32_t next(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 32);
}

static void bits(uint32_t *in, int threads, int n, uint64_t seed)
{
    for (int i = 0; i < threads * n; i++) in[i] = next(&seed);
}

/* Pairs of bf16, then (where the case has them) sums in f32: whole numbers, whose products are
 * exact, or 8 significant bits of any size near 1. */
static void operands(uint32_t *in, int threads, int n, uint64_t seed, bool whole)
{
    const int sums = n == 64 ? 32 : n == 112 ? 64 : 0;
    for (int i = 0; i < threads * n; i++) {
        float v[2];
        for (int h = 0; h < 2; h++) {
            const int x = (int)(next(&seed) % 255) - 127;
            v[h] = whole ? (float)x : (float)x / 128 * (float)(1 << next(&seed) % 4);
        }
        in[i] = i >= threads * (n - sums)
                    ? float_bits(v[0])
                    : float_bits(v[0]) >> 16 | (float_bits(v[1]) & 0xffff0000);
    }
}
static void whole(uint32_t *in, int threads, int n, uint64_t seed)
{
    operands(in, threads, n, seed, true);
}
static void random(uint32_t *in, int threads, int n, uint64_t seed)
{
    operands(in, threads, n, seed, false);
}

/* The sums of 64 products up to 64, one tensor core's rounding each 16. */
#define CASE(what, data, tol, scale)                                                               \
    {                                                                                              \
#what "/" #data, WRAP_##what, data, m_##what, tol, scale                                   \
    }

const wrapper_case hopper_cases[] = {
    CASE(mbarrier, bits, 0, 0),         CASE(tma_tile, bits, 0, 0),
    CASE(wgmma_64, whole, 0, 0),        CASE(wgmma_128, whole, 0, 0),
    CASE(proxy_fence, whole, 0, 0),     CASE(wgmma_64, random, 1e-6, 256),
    CASE(wgmma_128, random, 1e-6, 256),
};
const int n_hopper_cases = (int)(sizeof hopper_cases / sizeof *hopper_cases);
