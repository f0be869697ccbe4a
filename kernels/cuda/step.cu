/* step.cu: the sampler step of a batch of mixed rows: guidance, conversion, clipping, history,
 * update. In double and in the order of the oracle, so that a trajectory agrees with it to the bit;
 * a latent is small. One launch, and one before it if a row asks for guidance rescale or a dynamic
 * threshold, which need to have seen all of it. */
#include "gpu.cuh"

#define THREADS 256
#define BINS    2048

/* acc + k * v, both operations rounded: an FMA would be another number. */
PRIM double add_product(double acc, double k, double v)
{
#ifdef __CUDACC__
    return __dadd_rn(acc, __dmul_rn(k, v));
#else
    return acc + k * v;
#endif
}

PRIM double guided(const gpu_step_row &r, int64_t i)
{
    double m = 0;
    for (int j = 0; j < r.branches; j++)
        m = add_product(m, (double)r.weight[j], (double)r.pred[j][i]);
    return m;
}

/* The converted prediction, clipped; not the threshold. */
PRIM float converted(const gpu_step_row &r, int64_t i, double m)
{
    const an_step &s = r.step;
    float d = (float)add_product(add_product(0.0, (double)s.dx, (double)r.x[i]), (double)s.dm, m);
    if (s.clip > 0) d = d < -s.clip ? -s.clip : d > s.clip ? s.clip : d;
    return d;
}

/* ---------------------------------------------------------------- what the whole row says */

/* The sum over the block, in an order of its own; the same in all threads. */
PRIM double block_sum(double v, double *shared)
{
    __syncthreads(); /* the last one has been read */
    shared[threadIdx.x] = v;
    __syncthreads();
    for (int n = THREADS / 2; n; n /= 2) {
        if ((int)threadIdx.x < n) shared[threadIdx.x] += shared[threadIdx.x + n];
        __syncthreads();
    }
    return shared[0];
}

/* Unbiased variance of branch 0 (cond) or of the guided prediction, around the first element. */
PRIM double variance(const gpu_step_row &r, bool cond, double *shared)
{
    const double around = cond ? (double)r.pred[0][0] : guided(r, 0), n = (double)r.count;
    double s = 0, q = 0;
    for (int64_t i = threadIdx.x; i < r.count; i += THREADS) {
        const double d = (cond ? (double)r.pred[0][i] : guided(r, i)) - around;
        s += d;
        q += d * d;
    }
    s = block_sum(s, shared);
    q = block_sum(q, shared);
    const double var = (q - s * s / n) / (n - 1);
    return var < 0 ? 0 : var;
}

/* The magnitudes' bits are ordered like the magnitudes: the k-th smallest is found digit by digit
 * (11, 11 and 10 bits), one histogram a pass. */
PRIM uint32_t select_bits(const gpu_step_row &r, double rescale, int64_t k, unsigned *bin,
                          int64_t *found)
{
    uint32_t prefix = 0, mask = 0;
    for (int pass = 0; pass < 3; pass++) {
        const int shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;
        const uint32_t digits = pass == 2 ? 1023 : 2047;
        __syncthreads();
        for (int i = threadIdx.x; i < BINS; i += THREADS) bin[i] = 0;
        __syncthreads();
        for (int64_t i = threadIdx.x; i < r.count; i += THREADS) {
            const uint32_t u =
                __float_as_uint(converted(r, i, rescale * guided(r, i))) & 0x7fffffffu;
            if ((u & mask) == prefix) atomicAdd(&bin[u >> shift & digits], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            uint32_t digit = 0;
            while (digit < digits && k >= bin[digit]) k -= bin[digit++];
            found[0] = digit;
            found[1] = k;
        }
        __syncthreads();
        prefix |= (uint32_t)found[0] << shift;
        mask |= digits << shift;
        k = found[1];
    }
    return prefix;
}

/* As diffusers' _threshold_sample: torch.quantile of |d|, linear between neighbours, the rank in
 * f32, kept in 1..threshold_max. */
PRIM float threshold_of(const gpu_step_row &r, double rescale, unsigned *bin, int64_t *found)
{
    const float rank = r.step.threshold * (float)(r.count - 1);
    const int64_t last = r.count - 1, below = min((int64_t)rank, last);
    const float lo = __uint_as_float(select_bits(r, rescale, below, bin, found));
    const float hi =
        below < last ? __uint_as_float(select_bits(r, rescale, below + 1, bin, found)) : lo;
    const float w = rank - (float)below;
    float top = w < 0.5f ? lo + w * (hi - lo) : hi - (hi - lo) * (1 - w);
    if (top < 1) top = 1;
    return top > r.step.threshold_max ? r.step.threshold_max : top;
}

/* Block: a row. Registers: 48. */
__global__ void __launch_bounds__(THREADS)
    facts_kernel(const gpu_step_row *rows, gpu_step_facts *facts)
{
    __shared__ double sums[THREADS];
    __shared__ unsigned bin[BINS];
    __shared__ int64_t found[2];
    const gpu_step_row &r = rows[blockIdx.x];
    gpu_step_facts f = {1, 0};
    if (r.rescale > 0) {
        const double m = variance(r, false, sums), cond = variance(r, true, sums);
        if (m > 0) f.rescale = (double)r.rescale * sqrt(cond / m) + (1 - (double)r.rescale);
    }
    if (r.step.threshold > 0) f.top = threshold_of(r, f.rescale, bin, found);
    if (threadIdx.x == 0) facts[blockIdx.x] = f;
}

/* ---------------------------------------------------------------- the update */

/* Terms without a factor are not touched: they may be NULL, or hold anything. */
PRIM double combined(const gpu_step_row &r, const float *k, double m, float d, int64_t i)
{
    double v = 0;
    if (k[AN_TERM_X] != 0) v = add_product(v, (double)k[AN_TERM_X], (double)r.x[i]);
    if (k[AN_TERM_M] != 0) v = add_product(v, (double)k[AN_TERM_M], m);
    if (k[AN_TERM_SAVED] != 0) v = add_product(v, (double)k[AN_TERM_SAVED], (double)r.saved[i]);
    if (k[AN_TERM_NOISE] != 0) v = add_product(v, (double)k[AN_TERM_NOISE], (double)r.noise[i]);
    if (k[AN_TERM_D0] != 0) v = add_product(v, (double)k[AN_TERM_D0], (double)d);
    for (int h = 1; h < AN_HISTORY; h++)
        if (k[AN_TERM_D0 + h] != 0)
            v = add_product(v, (double)k[AN_TERM_D0 + h], (double)r.d[h][i]);
    return v;
}

/* Block x: elements, y: row. Registers: 48. */
__global__ void __launch_bounds__(THREADS)
    step_kernel(const gpu_step_row *rows, const gpu_step_facts *facts, bool look)
{
    const gpu_step_row &r = rows[blockIdx.y];
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= r.count) return;
    double m = guided(r, i);
    if (r.rescale > 0 && look) m *= facts[blockIdx.y].rescale;
    float d = converted(r, i, m);
    if (r.step.threshold > 0 && look) {
        const float top = facts[blockIdx.y].top;
        d = (d < -top ? -top : d > top ? top : d) / top;
    }
    const double x = combined(r, r.step.out, m, d, i);
    if (r.step.save) r.saved[i] = (float)combined(r, r.step.keep, m, d, i);
    r.x[i] = (float)x;
    if (r.d[0]) r.d[0][i] = d;
}

extern "C" int GPU(sampler_step)(const gpu_step_row *rows, gpu_step_facts *facts, int n,
                                 int64_t most, bool look, gpu_stream s)
{
    const dim3 grid((unsigned)((most + THREADS - 1) / THREADS), (unsigned)n);
    if (look) KLAUNCH(facts_kernel, (unsigned)n, THREADS, 0, s)(rows, facts);
    KLAUNCH(step_kernel, grid, THREADS, 0, s)(rows, facts, look);
    return cudaGetLastError();
}
