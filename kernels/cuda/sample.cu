/* sample.cu: a token from a row of logits: the very one that engine/sampling.c draws on the host.
 *
 * Keys are the bits of floats, put so that larger ones come first; with the id below them no two
 * tokens are alike, and what a filter keeps is all from one place of that order on. Weights are
 * whole numbers: blocks and warps may add them as they come. Double arithmetic is written out, an
 * FMA would be another number. */
#include "gpu.cuh"

#define THREADS 1024
#define WARPS   (THREADS / 32)
#define BINS    2048
#define FEW     THREADS /* tokens that are compared with one another, a thread each */
#define CHUNK   4096    /* logits of a block that looks for the largest */

typedef unsigned long long u64;

/* ---------------------------------------------------------------- numbers */

/* As exp4 of sampling_vec.h, for -28 < x <= 0. */
PRIM double exp_of(double x)
{
    const double c[12] = {
        1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
        1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1,          1};
    const double shift = 6755399441055744.0; /* 1.5 * 2^52 */
    const double t = __dadd_rn(__dmul_rn(x, 1.4426950408889634), shift), k = __dadd_rn(t, -shift);
    const double r = __dadd_rn(__dadd_rn(x, -__dmul_rn(k, 6.93147180369123816490e-01)),
                               -__dmul_rn(k, 1.90821492927058770002e-10));
    double p = c[0];
#pragma unroll
    for (int i = 1; i < 12; i++) p = __dadd_rn(__dmul_rn(p, r), c[i]);
    return __longlong_as_double(
        (long long)((u64)__double_as_longlong(p) + ((u64)__double_as_longlong(t) << 52)));
}

/* The nearest whole number of a double from 0 to 2^51. */
PRIM u64 whole(double v)
{
    return (u64)__double_as_longlong(__dadd_rn(v, 4503599627370496.0)) & 0xfffffffffffffull;
}

/* The weight of a logit that lies so far below the largest. Below e^-28 it rounds to nothing. */
PRIM u64 weight_of(double below, double heat_inverse)
{
    const double x = -__dmul_rn(below, heat_inverse);
    return x > -28 ? whole(__dmul_rn(exp_of(x), 549755813888.0)) : 0;
}

/* Larger floats have larger keys; -0 is 0. */
PRIM uint32_t key_of(float v)
{
    const uint32_t u = __float_as_uint(__fadd_rn(v, 0.0f));
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}
PRIM float float_of(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

PRIM u64 place_of(uint32_t key, int id)
{
    return (u64)key << 32 | (uint32_t)~id;
}
#define LEAST_PLACE ((u64)0x00800000u << 32) /* before all that is more than -infinity */

/* ---------------------------------------------------------------- the whole block */

PRIM u64 warp_sum(u64 v)
{
    for (int n = 16; n; n /= 2) v += __shfl_xor_sync(WHOLE_WARP, v, n);
    return v;
}

PRIM u64 warp_most(u64 v)
{
    for (int n = 16; n; n /= 2) v = max(v, __shfl_xor_sync(WHOLE_WARP, v, n));
    return v;
}

/* The sum before this thread's warp and, in *total, over the block; sums: [WARPS] shared. */
PRIM u64 sum_before(u64 of_warp, u64 *sums, u64 *total)
{
    const int warp = (int)threadIdx.x / 32;
    __syncthreads(); /* the last ones have been read */
    if (threadIdx.x % 32 == 0) sums[warp] = of_warp;
    __syncthreads();
    u64 before = 0, all = 0;
    for (int i = 0; i < WARPS; i++) {
        if (i < warp) before += sums[i];
        all += sums[i];
    }
    *total = all;
    return before;
}

PRIM u64 block_sum(u64 v, u64 *sums)
{
    u64 total;
    sum_before(warp_sum(v), sums, &total);
    return total;
}

PRIM u64 block_most(u64 v, u64 *sums)
{
    v = warp_most(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = v;
    __syncthreads();
    u64 most = 0;
    for (int i = 0; i < WARPS; i++) most = max(most, sums[i]);
    return most;
}

/* ---------------------------------------------------------------- edits, mask, the largest */

PRIM bool is_number(float v)
{
    return v < __int_as_float(0x7f800000);
}

/* Block y: row. A token's logit is read and written by one thread. Registers: 32. */
__global__ void __launch_bounds__(256) logit_edit_kernel(gpu_sample_row *rows)
{
    gpu_sample_row &row = rows[blockIdx.y];
    const int i = (int)blockIdx.x * 256 + (int)threadIdx.x;
    if (i >= row.n_edit) return;
    const gpu_logit_edit e = row.edit[i];
    const float l = row.logits[e.id], infinite = __int_as_float(0x7f800000);
    if (!is_number(l)) atomicOr(&row.bad, 1); /* a ban must not hide it */
    double v = __dadd_rn((double)l, e.add);
    if (e.repeated) v = v > 0 ? __ddiv_rn(v, row.repetition) : __dmul_rn(v, row.repetition);
    v = __dadd_rn(v, -e.less);
    const double most = 3.4028234663852886e38;
    const double in = v > most ? most : v < -most ? -most : v;
    row.logits[e.id] = v > -(double)infinite ? (float)in : -infinite;
}

/* Block x: CHUNK logits, y: row. Registers: 32. */
__global__ void __launch_bounds__(256) largest_kernel(gpu_sample_row *rows, int vocab)
{
    __shared__ u64 most[8];
    gpu_sample_row &row = rows[blockIdx.y];
    const int from = (int)blockIdx.x * CHUNK, to = min(from + CHUNK, vocab);
    u64 best = 0;
    bool bad = false;
    for (int i = from + (int)threadIdx.x; i < to; i += 256) {
        const float l = row.logits[i];
        const bool out = row.mask && !(row.mask[i >> 5] >> (i & 31) & 1);
        bad |= !is_number(l);
        if (out) row.logits[i] = __int_as_float((int)0xff800000);
        const u64 place = place_of(key_of(l), i);
        if (!out && place >= LEAST_PLACE) best = max(best, place);
    }
    if (__any_sync(WHOLE_WARP, bad) && threadIdx.x % 32 == 0) atomicOr(&row.bad, 1);
    best = warp_most(best);
    if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 1; i < 8; i++) best = max(best, most[i]);
    if (best) atomicMax(&row.best, best);
}

/* ---------------------------------------------------------------- what is still in */

typedef struct kept {
    const float *logits;
    int vocab;
    float most;   /* the largest logit that is in */
    u64 cut;      /* in: places of logits from here on, */
    double least; /* logits from here on, */
    bool typical; /* and then places of typicality from here on: */
    u64 typical_cut;
    float typical_most; /* the largest logit of those that were in before that, */
    double mean;        /* and how far they lie below it */
} kept;

PRIM double below(float most, float l)
{
    return __dadd_rn((double)most, -(double)l);
}

/* How far from the mean: less comes first. */
PRIM float oddness(const kept &k, float l)
{
    return (float)fabs(__dadd_rn(below(k.typical_most, l), -k.mean));
}

PRIM u64 typical_place(const kept &k, float l, int i)
{
    return place_of(~__float_as_uint(oddness(k, l)), i);
}

PRIM bool is_in(const kept &k, float l, int i)
{
    return place_of(key_of(l), i) >= k.cut && (double)l >= k.least &&
           (!k.typical || typical_place(k, l, i) >= k.typical_cut);
}

/* ---------------------------------------------------------------- the shortest beginning
 * Of the tokens in the order of their places, the last one that is needed to reach a sum. They are
 * dealt out to bins by how far they lie behind the first, since a float's upper bits tell them
 * apart so badly that every atomic would meet the same bin; within the bin that it falls into, by
 * digits of the place, until few are left. */

enum { BY_COUNT, BY_TYPICALITY, BY_LIKELIHOOD };

typedef struct chosen {
    uint32_t low[BINS], high[BINS]; /* a bin's sum, 64 bits in two: the carry goes along */
    u64 sums[WARPS], place[FEW], weight[FEW];
    u64 before, cut; /* the sum before the bin, the last place that is needed */
    int bin, found;
} chosen;

typedef struct search {
    int by, bin;      /* the first bin; -1 = none yet */
    u64 prefix, mask; /* and digits of the place that are known */
    u64 want, before;
} search;

PRIM int far_bin(const kept &k, int by, float l)
{
    const float far = by == BY_TYPICALITY ? oddness(k, l) : (float)below(k.most, l);
    return (int)fminf(__fmul_rn(far, 64.0f), (float)(BINS - 1));
}

PRIM u64 place_by(const kept &k, int by, float l, int i)
{
    return by == BY_TYPICALITY ? typical_place(k, l, i) : place_of(key_of(l), i);
}

/* A token's weight if it is where is searched, else 0; tokens without weight decide nothing. */
PRIM u64 weight_there(const kept &k, const search &s, float l, int i)
{
    if (!is_in(k, l, i)) return 0;
    if (s.bin >= 0 && far_bin(k, s.by, l) != s.bin) return 0;
    if (s.mask && (place_by(k, s.by, l, i) & s.mask) != s.prefix) return 0;
    return s.by == BY_COUNT ? 1 : weight_of(below(k.most, l), 1);
}

/* The sums of all bins; the sum of these comes back. shift < 0: bins by distance. */
PRIM u64 fill_bins(const kept &k, const search &s, int shift, chosen *c)
{
    __syncthreads();
    for (int b = (int)threadIdx.x; b < BINS; b += THREADS) c->low[b] = c->high[b] = 0;
    __syncthreads();
    u64 sum = 0;
    for (int i = (int)threadIdx.x; i < k.vocab; i += THREADS) {
        const float l = k.logits[i];
        const u64 w = weight_there(k, s, l, i);
        if (!w) continue;
        sum += w;
        int b;
        if (shift < 0)
            b = far_bin(k, s.by, l);
        else
            b = BINS - 1 - (int)(place_by(k, s.by, l, i) >> shift & (BINS - 1));
        const uint32_t old = atomicAdd(&c->low[b], (uint32_t)w);
        atomicAdd(&c->high[b], (uint32_t)(w >> 32) + (old + (uint32_t)w < old));
    }
    return block_sum(sum, c->sums);
}

/* Finds the bin with which s->want is reached; s->before becomes the sum before it. */
PRIM int find_bin(search *s, chosen *c)
{
    const int at = (int)threadIdx.x * (BINS / THREADS);
    u64 own[BINS / THREADS], all = 0, total;
    for (int j = 0; j < BINS / THREADS; j++) {
        own[j] = (u64)c->high[at + j] << 32 | c->low[at + j];
        all += own[j];
    }
    u64 upto = all; /* over the warp's lanes up to this one */
    for (int n = 1; n < 32; n *= 2) {
        const u64 other = __shfl_up_sync(WHOLE_WARP, upto, n);
        if ((int)threadIdx.x % 32 >= n) upto += other;
    }
    const u64 of_warp = __shfl_sync(WHOLE_WARP, upto, 31);
    u64 before = s->before + sum_before(of_warp, c->sums, &total) + upto - all;
    for (int j = 0; j < BINS / THREADS; j++) {
        if (before < s->want && s->want <= before + own[j]) {
            c->bin = at + j;
            c->before = before;
        }
        before += own[j];
    }
    __syncthreads();
    s->before = c->before;
    return c->bin;
}

/* If few are left: the last of them that is needed. */
PRIM bool choose_of_few(const kept &k, const search &s, chosen *c)
{
    if (threadIdx.x == 0) c->found = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < k.vocab; i += THREADS) {
        const float l = k.logits[i];
        const u64 w = weight_there(k, s, l, i);
        if (!w) continue;
        const int at = atomicAdd(&c->found, 1);
        if (at >= FEW) continue;
        c->place[at] = place_by(k, s.by, l, i);
        c->weight[at] = w;
    }
    __syncthreads();
    const int found = c->found;
    if (found <= FEW && (int)threadIdx.x < found) {
        const u64 place = c->place[threadIdx.x];
        u64 before = s.before;
        for (int j = 0; j < found; j++)
            if (c->place[j] > place) before += c->weight[j];
        if (before < s.want && s.want <= before + c->weight[threadIdx.x]) c->cut = place;
    }
    __syncthreads();
    return found <= FEW;
}

/* From the last place that is needed on, tokens stay in. part: of the weights' sum, or a count. */
PRIM u64 shortest(const kept &k, int by, double part, int count, chosen *c)
{
    search s = {by, -1, 0, 0, 0, 0};
    const u64 sum = fill_bins(k, s, -1, c);
    if (by == BY_COUNT) {
        s.want = (u64)count;
        if (s.want >= sum) return k.cut;
    } else {
        const double all = __ull2double_rn(sum), least = ceil(__dmul_rn(part, all));
        s.want = least < all ? (u64)least : sum;
        if (s.want < 1) s.want = 1;
    }
    s.bin = find_bin(&s, c);
    for (int shift = 53; !choose_of_few(k, s, c); shift = shift > 11 ? shift - 11 : 0) {
        fill_bins(k, s, shift, c);
        const u64 digit = (u64)(BINS - 1 - find_bin(&s, c));
        s.prefix = (s.prefix & ~((u64)(BINS - 1) << shift)) | digit << shift;
        s.mask |= (u64)(BINS - 1) << shift;
    }
    return c->cut;
}

/* ---------------------------------------------------------------- filters and the draw */

PRIM float largest_kept(const kept &k, u64 *sums)
{
    u64 most = 0;
    for (int i = (int)threadIdx.x; i < k.vocab; i += THREADS) {
        const float l = k.logits[i];
        if (is_in(k, l, i)) most = max(most, place_of(key_of(l), i));
    }
    return float_of((uint32_t)(block_most(most, sums) >> 32));
}

/* The mean distance to the largest, by weight. */
PRIM double mean_below(const kept &k, u64 *sums)
{
    u64 sum = 0, far = 0;
    for (int i = (int)threadIdx.x; i < k.vocab; i += THREADS) {
        const float l = k.logits[i];
        if (!is_in(k, l, i)) continue;
        const u64 w = weight_of(below(k.most, l), 1);
        sum += w;
        far += whole(__dmul_rn(__ull2double_rn(w), below(k.most, l)));
    }
    sum = block_sum(sum, sums);
    far = block_sum(far, sums);
    return __ddiv_rn(__ull2double_rn(far), __ull2double_rn(sum));
}

/* Of the tokens from `from` on, `len` to each warp, the sum of the warp's. */
PRIM u64 warp_weights(const kept &k, double heat_inverse, int from, int len, int end)
{
    u64 sum = 0;
    const int first = from + (int)threadIdx.x / 32 * len;
    for (int i = first + (int)threadIdx.x % 32; i < min(first + len, end); i += 32) {
        const float l = k.logits[i];
        if (is_in(k, l, i)) sum += weight_of(below(k.most, l), heat_inverse);
    }
    return warp_sum(sum);
}

/* The first token with which the sum exceeds a uniform part of the whole: which warp's range it is
 * in, then which warp's range of that, then which token. */
PRIM void draw(const kept &k, double heat_inverse, u64 uniform, chosen *c, int32_t *id)
{
    int from = 0, len = k.vocab, end = k.vocab;
    u64 want = 0;
    for (int level = 0; level < 2; level++) {
        len = (len + THREADS - 1) / THREADS * 32;
        u64 total;
        const u64 own = warp_weights(k, heat_inverse, from, len, end);
        const u64 before = sum_before(own, c->sums, &total);
        if (level == 0) want = __umul64hi(uniform, total);
        if (threadIdx.x % 32 == 0 && before <= want && want < before + own) {
            c->bin = (int)threadIdx.x / 32;
            c->before = before;
        }
        __syncthreads();
        from += c->bin * len;
        end = min(from + len, end);
        want -= c->before;
    }
    if (threadIdx.x >= 32) return;
    for (int i = from + (int)threadIdx.x; i - (int)threadIdx.x < end; i += 32) {
        u64 own = 0;
        if (i < end) {
            const float l = k.logits[i];
            if (is_in(k, l, i)) own = weight_of(below(k.most, l), heat_inverse);
        }
        u64 upto = own;
        for (int n = 1; n < 32; n *= 2) {
            const u64 other = __shfl_up_sync(WHOLE_WARP, upto, n);
            if ((int)threadIdx.x >= n) upto += other;
        }
        if (want < upto && upto - own <= want) *id = i;
        const u64 all = __shfl_sync(WHOLE_WARP, upto, 31);
        if (want < all) return;
        want -= all;
    }
}

/* Block: a row. Registers: 64. */
__global__ void __launch_bounds__(THREADS)
    sample_kernel(const gpu_sample_row *rows, int vocab, int32_t *ids)
{
    __shared__ chosen c;
    const gpu_sample_row &row = rows[blockIdx.x];
    if (row.bad || !row.best || row.heat_inverse == 0) {
        const int32_t best = (int32_t) ~(uint32_t)row.best;
        if (threadIdx.x == 0)
            ids[blockIdx.x] = row.bad    ? GPU_SAMPLE_NO_NUMBER
                              : row.best ? best
                                         : GPU_SAMPLE_NO_TOKEN;
        return;
    }
    const float most = float_of((uint32_t)(row.best >> 32));
    kept k = {row.logits, vocab, most, LEAST_PLACE, -(double)__int_as_float(0x7f800000), false,
              0,          most,  0};
    for (int by = BY_COUNT; by <= BY_LIKELIHOOD; by++) {
        const double part = by == BY_TYPICALITY ? row.typical_p : row.top_p;
        if (by == BY_COUNT ? row.top_k <= 0 : part >= 1) continue;
        if (by == BY_TYPICALITY) k.mean = mean_below(k, c.sums);
        const u64 cut = shortest(k, by, part, row.top_k, &c);
        k.cut = by == BY_TYPICALITY ? k.cut : cut;
        if (by != BY_TYPICALITY) continue;
        k.typical_cut = cut;
        k.typical = true;
        k.most = largest_kept(k, c.sums);
    }
    k.least = __dadd_rn((double)k.most, row.min_p_log);
    draw(k, row.heat_inverse, row.uniform, &c, &ids[blockIdx.x]);
}

extern "C" int GPU(sample)(const gpu_sample *a, gpu_stream s)
{
    const dim3 edits((unsigned)((a->most_edits + 255) / 256), (unsigned)a->n);
    const dim3 chunks((unsigned)((a->vocab + CHUNK - 1) / CHUNK), (unsigned)a->n);
    if (a->most_edits) KLAUNCH(logit_edit_kernel, edits, 256, 0, s)(a->rows);
    KLAUNCH(largest_kernel, chunks, 256, 0, s)(a->rows, a->vocab);
    KLAUNCH(sample_kernel, (unsigned)a->n, THREADS, 0, s)(a->rows, a->vocab, a->ids);
    return (int)cudaGetLastError();
}
