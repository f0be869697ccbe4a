/* rng.c: noise as torch draws it, so that the same seed gives the same picture. The CPU generator
 * is a Mersenne Twister with torch's two ways of making normals (aten/src/ATen/native/cpu/
 * DistributionTemplates.h and ATen/core/DistributionsHelper.h); the GPU one is Philox 4x32-10
 * (Salmon et al. 2011), laid out as torch's CUDA randn. Logarithms and sines are taken in double:
 * the same on every machine, and closer to torch than its own fast paths are to each other. */
#include "anneal/solver.h"
#include "sampling.h"

#include <math.h>

/* ---------------------------------------------------------------- MT19937 */

enum { MT_N = 624, MT_M = 397 };

static void mt_seed(an_rng *r, uint32_t seed)
{
    r->mt[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++)
        r->mt[i] = 1812433253u * (r->mt[i - 1] ^ (r->mt[i - 1] >> 30)) + i;
    r->mt_next = MT_N;
}

static void mt_refill(an_rng *r)
{
    for (int i = 0; i < MT_N; i++) {
        uint32_t y = (r->mt[i] & 0x80000000u) | (r->mt[(i + 1) % MT_N] & 0x7fffffffu);
        r->mt[i] = r->mt[(i + MT_M) % MT_N] ^ (y >> 1) ^ (y & 1u ? 0x9908b0dfu : 0u);
    }
    r->mt_next = 0;
}

static uint32_t mt_random(an_rng *r)
{
    if (r->mt_next >= MT_N) mt_refill(r);
    uint32_t y = r->mt[r->mt_next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static double mt_uniform_double(an_rng *r)
{
    uint64_t high = mt_random(r);
    uint64_t bits = high << 32 | mt_random(r);
    return (double)(bits & ((1ull << 53) - 1u)) * 0x1p-53;
}

/* Fewer than 16 values: Box-Muller in double, one at a time, the second kept for the next draw. */
static void cpu_few(an_rng *r, float *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (r->mt_has_cached) {
            r->mt_has_cached = false;
            out[i] = r->mt_cached;
            continue;
        }
        double u1 = mt_uniform_double(r), u2 = mt_uniform_double(r);
        double radius = sqrt(-2.0 * log1p(-u2)), theta = 2.0 * M_PI * u1;
        out[i] = (float)(radius * cos(theta));
        r->mt_cached = (float)(radius * sin(theta));
        r->mt_has_cached = true;
    }
}

/* 16 uniforms become 16 normals: 8 radii from the first half, 8 angles from the second. */
static void cpu_block(float *v)
{
    for (int j = 0; j < 8; j++) {
        float u1 = 1.0f - v[j];
        double radius = sqrt(-2.0 * log((double)u1));
        double theta = 2.0 * M_PI * (double)v[j + 8];
        v[j] = (float)(radius * cos(theta));
        v[j + 8] = (float)(radius * sin(theta));
    }
}

static void cpu_uniforms(an_rng *r, float *out, size_t count)
{
    for (size_t i = 0; i < count; i++) out[i] = (float)(mt_random(r) & 0xffffffu) * 0x1p-24f;
}

/* 16 values or more. A ragged end is drawn anew as a whole block, over values already made. */
static void cpu_many(an_rng *r, float *out, size_t count)
{
    cpu_uniforms(r, out, count);
    for (size_t i = 0; i + 16 <= count; i += 16) cpu_block(out + i);
    if (count % 16 == 0) return;
    cpu_uniforms(r, out + count - 16, 16);
    cpu_block(out + count - 16);
}

/* ---------------------------------------------------------------- Philox 4x32-10 */

static void philox(uint64_t seed, const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)c0 * 0xD2511F53u, p1 = (uint64_t)c2 * 0xCD9E8D57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Element i of draw number `offset`: counter (offset, 0, i, 0), Box-Muller of the first two words.
 */
static void gpu_draw(an_rng *r, float *out, size_t count)
{
    const float two_pi = 6.2831855f;
    for (size_t i = 0; i < count; i++) {
        uint32_t counter[4] = {(uint32_t)r->offset, (uint32_t)(r->offset >> 32), (uint32_t)i,
                               (uint32_t)((uint64_t)i >> 32)};
        uint32_t word[4];
        philox(r->seed, counter, word);
        float u = (float)word[0] * 0x1p-32f + 0x1p-33f;
        float v = (float)word[1] * (0x1p-32f * two_pi) + 0x1p-33f * two_pi;
        out[i] = (float)(sqrt(-2.0 * log((double)u)) * sin((double)v));
    }
    r->offset++;
}

/* For tokens: no torch to follow. Counter (index, 0, 1): pictures have 0 last. */
double an_rng_uniform(uint64_t seed, uint64_t index)
{
    uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), 0, 1}, word[4];
    philox(seed, counter, word);
    uint64_t bits = (uint64_t)word[0] << 32 | word[1];
    return (double)(bits >> 11) * 0x1p-53;
}

/* ---------------------------------------------------------------- both */

void an_rng_init(an_rng *r, an_rng_kind kind, uint64_t seed)
{
    memset(r, 0, sizeof *r);
    r->kind = kind;
    r->seed = seed;
    if (kind == AN_RNG_CPU) mt_seed(r, (uint32_t)seed); /* torch uses the low 32 bits */
}

void an_rng_normal(an_rng *r, float *out, size_t count)
{
    if (r->kind == AN_RNG_GPU)
        gpu_draw(r, out, count);
    else if (count < 16)
        cpu_few(r, out, count);
    else
        cpu_many(r, out, count);
}
