/* quant.cu: products with weights in GGUF's blocks, read as packed (gpu_blocks), and activations
 * rounded to 8 bits. A block of 32 values of k is one mma of bytes, whose sum is an exact integer.
 *
 * Why bytes do not depend on the batch: the blocks of a layer are cut into four parts of whole
 * groups; each part is one chain over its blocks in order, each block adding d * scale_x * (an
 * exact integer), then m * scale_x * (another); the parts are added in order. With few rows a
 * block's four warps take a part each, with many a warp takes the parts one after the other: the
 * same sums. */
#include "tile.cuh"


/* ---------------------------------------------------------------- activations */

/* A warp rounds a group of 128 values of k of a row; lane i has value i of each block.
 * Registers: 32. */
__global__ void __launch_bounds__(128)
    round_kernel(const void *x, int dtype, int64_t count, int k, int groups, gpu_record *to)
{
    const int64_t at = (int64_t)blockIdx.x * 4 + (threadIdx.x >> 5);
    const int lane = (int)threadIdx.x & 31;
    if (at >= count) return; /* the whole warp */
    gpu_record *const r = to + at;
    const int first = (int)(at % groups) * 128;
    const size_t row = (size_t)(at / groups) * (size_t)k;
    for (int b = 0; b < 4; b++) {
        const int i = first + b * 32 + lane;
        const float v = i < k ? float_at(x, dtype, row + (size_t)i) : 0.0f;
        float most = fabsf(v);
        const bool broken = __any_sync(WHOLE_WARP, !(most <= 3.402823466e38f));
#pragma unroll
        for (int d = 16; d > 0; d >>= 1) most = fmaxf(most, __shfl_xor_sync(WHOLE_WARP, most, d));
        const bool none = broken || most < 1e-30f; /* AN_Q8_LEAST */
        const int q = none ? 0 : (int)rintf(v * (127.0f / most));
        int sum = q;
#pragma unroll
        for (int d = 8; d > 0; d >>= 1) sum += __shfl_xor_sync(WHOLE_WARP, sum, d);
        r->q[b * 32 + lane] = (int8_t)q;
        if ((lane & 15) == 0) r->sum[b][lane >> 4] = (int16_t)sum;
        if (lane == 0) r->scale[b] = broken ? NAN : none ? 0.0f : most / 127.0f;
    }
}

int GPU(round)(const void *x, int dtype, int rows, int k, gpu_record *to, gpu_stream stream)
{
    const int groups = (k + 127) / 128;
    const int64_t count = (int64_t)rows * groups;
    KLAUNCH(round_kernel, dim3((unsigned)((count + 3) / 4)), 128, 0, stream)
    (x, dtype, count, k, groups, to);
    return (int)cudaGetLastError();
}

/* ---------------------------------------------------------------- weights */

/* What a thread needs of a panel's group: numbers of its row g = lane / 4, scales of the two rows
 * whose sums it gets from mma. */
template <int BITS> struct quant_group {
    uint4 low, high;
    uint4 scale[2];
    uint32_t super[2];
};

/* Where in the planes a row begins: in units of a lane's 4 blocks, and of a row's 4 blocks. */
struct quant_place {
    int numbers, scale[2], super[2];
};

PRIM quant_place quant_find(const gpu_blocks &w, int column, bool gated)
{
    const int lane = (int)threadIdx.x & 31;
    quant_place p;
    int c = column + (lane >> 2);
    int row = c < w.n ? weight_row(c, w.n, gated) : 0;
    p.numbers = (row >> 3) * w.groups * 32 + (row & 7) * 4 + (lane & 3);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        c = column + (lane & 3) * 2 + e;
        row = c < w.n ? weight_row(c, w.n, gated) : 0;
        p.scale[e] = (row >> 3) * w.groups * 8 + (row & 7);
        p.super[e] = (row >> 3) * ((w.groups + 1) >> 1) * 8 + (row & 7);
    }
    return p;
}

template <int BITS>
PRIM void quant_fetch(quant_group<BITS> &to, const gpu_blocks &w, const quant_place &p, int group)
{
    const size_t at = (size_t)p.numbers + (size_t)group * 32;
    to.low = ((const uint4 *)w.low)[at];
    if (BITS == 5) to.high.x = w.high[at];
    if (BITS == 6) {
        const uint2 v = ((const uint2 *)w.high)[at];
        to.high.x = v.x, to.high.y = v.y;
    }
    if (BITS == 8) to.high = ((const uint4 *)w.high)[at];
#pragma unroll
    for (int e = 0; e < 2; e++) {
        to.scale[e] = ((const uint4 *)w.scale)[(size_t)p.scale[e] + (size_t)group * 8];
        if (w.super) to.super[e] = w.super[(size_t)p.super[e] + (size_t)(group >> 1) * 8];
    }
}

PRIM uint32_t word_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* Block b's numbers as mma takes them. */
template <int BITS> PRIM void quant_numbers(uint32_t (&n)[2], const quant_group<BITS> &w, int b)
{
    const uint32_t low = word_of(w.low, b);
    if (BITS == 8) {
        n[0] = low;
        n[1] = word_of(w.high, b);
        return;
    }
    n[0] = low & 0x0f0f0f0fu;
    n[1] = low >> 4 & 0x0f0f0f0fu;
    if constexpr (BITS == 5 || BITS == 6) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t v;
            if (BITS == 5) { /* four bits to the lowest of four bytes */
                v = (w.high.x >> (b * 8 + h * 4) & 15u) * 0x00204081u & 0x01010101u;
            } else { /* four pairs */
                v = (b < 2 ? w.high.x : w.high.y) >> (b % 2 * 16 + h * 8) & 0xffu;
                v = (v | v << 12) & 0x000f000fu;
                v = (v | v << 6) & 0x03030303u;
            }
            n[h] |= v << 4;
        }
    }
}

/* What a block's sum is multiplied with, for one output. */
struct quant_scale {
    float d, m;
    int s[2], f[2];
};

PRIM float half_of(uint32_t bits)
{
    return __half2float(__ushort_as_half((unsigned short)(bits & 0xffffu)));
}

PRIM quant_scale quant_scale_of(uint32_t word, uint32_t super, bool small)
{
    quant_scale s;
    const uint32_t dm = small ? super : word;
    s.d = half_of(dm);
    s.m = half_of(dm >> 16);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        s.s[h] = small ? (int8_t)(word >> h * 8) : 1;
        s.f[h] = small ? (int8_t)(word >> (16 + h * 8)) : 1;
    }
    return s;
}

/* ---------------------------------------------------------------- products */

/* Of one row of x and one block. */
struct quant_x {
    float scale;
    int sum[2];
};

/* to += what a row of x and a block are worth: p, the products' sums of its halves (or of both). */
template <bool HALVES>
PRIM void quant_add(float &to, int p0, int p1, const quant_x &x, const quant_scale &s,
                    const gpu_blocks &w)
{
    int total;
    if (HALVES)
        total = s.s[0] * (p0 - w.offset * x.sum[0]) + s.s[1] * (p1 - w.offset * x.sum[1]);
    else
        total = s.s[0] * (p0 - w.offset * (x.sum[0] + x.sum[1]));
    to = fmaf(s.d * x.scale, (float)total, to);
    if (w.minimum) to = fmaf(s.m * x.scale, (float)(s.f[0] * x.sum[0] + s.f[1] * x.sum[1]), to);
}

/* acc += block b of 16 * MF rows of x times a panel. a: the rows' fragments; x(i): what belongs to
 * row g + 8 i. */
template <int BITS, bool HALVES, int MF, class X>
PRIM void quant_block(float (&acc)[MF][4], const uint32_t (&a)[MF][4], const X &x,
                      const quant_group<BITS> &w, int b, const gpu_blocks &m)
{
    constexpr int P = HALVES ? 2 : 1;
    uint32_t n[2], fb[P][2];
    int sum[MF][P][4];
    quant_numbers(n, w, b);
    fb[0][0] = n[0], fb[0][1] = HALVES ? 0 : n[1];
    if (HALVES) fb[P - 1][0] = 0, fb[P - 1][1] = n[1];
#pragma unroll
    for (int i = 0; i < MF * P * 4; i++) sum[i / 4 / P][i / 4 % P][i % 4] = 0;
    mma_s8_tile(sum, a, fb);
    const bool small = m.super != NULL;
    quant_scale s[2];
#pragma unroll
    for (int e = 0; e < 2; e++)
        s[e] = quant_scale_of(word_of(w.scale[e], b), small ? w.super[e] : 0, small);
#pragma unroll
    for (int i = 0; i < 2 * MF; i++) {
        const quant_x r = x(i);
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int at = i % 2 * 2 + e;
            quant_add<HALVES>(acc[i / 2][at], sum[i / 2][0][at], sum[i / 2][P - 1][at], r, s[e], m);
        }
    }
}

PRIM int quant_part(int groups, int part)
{
    const int each = (groups + 3) >> 2;
    return part * each < groups ? part * each : groups;
}

struct few_x {
    quant_x row[2];
    __device__ quant_x operator()(int i) const { return row[i]; }
};

/* Up to 16 rows, 16 columns a block; warp w has part w of k. x is read in place: few rows are few
 * bytes. Registers: 128. */
template <int BITS, bool HALVES>
__global__ void __launch_bounds__(128, 4) quant_few(const __grid_constant__ gpu_quant a)
{
    __shared__ float parts[4][2][4][32];
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    const int first = a.range ? a.range[0] : 0, end = a.range ? a.range[1] : a.rows;
    const int m0 = first + (int)blockIdx.x * 16, c0 = (int)blockIdx.y * 16;
    if (m0 >= end) return;
    const bool gated = a.out.act >= GPU_ACT_GEGLU;
    const gpu_record *x[2];
    quant_place place[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int m = m0 + h * 8 + (lane >> 2);
        const int row = m >= end ? -1 : a.index ? a.index[m] : m;
        x[h] = row < 0 ? NULL : a.x + (size_t)row * (size_t)a.w.groups;
        place[h] = quant_find(a.w, c0 + h * 8, gated);
    }
    float acc[2][1][4] = {};
    const int last = quant_part(a.w.groups, warp + 1);
    for (int g = quant_part(a.w.groups, warp); g < last; g++) {
        quant_group<BITS> w[2];
        quant_fetch(w[0], a.w, place[0], g);
        quant_fetch(w[1], a.w, place[1], g);
#pragma unroll
        for (int b = 0; b < 4; b++) {
            uint32_t fa[1][4] = {};
            few_x r = {};
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (!x[h]) continue;
                const uint32_t *q = (const uint32_t *)x[h][g].q + b * 8 + (lane & 3);
                fa[0][h] = q[0], fa[0][h + 2] = q[4];
                r.row[h].scale = x[h][g].scale[b];
                r.row[h].sum[0] = x[h][g].sum[b][0], r.row[h].sum[1] = x[h][g].sum[b][1];
            }
            quant_block<BITS, HALVES, 1>(acc[0], fa, r, w[0], b, a.w);
            quant_block<BITS, HALVES, 1>(acc[1], fa, r, w[1], b, a.w);
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) parts[warp][i / 4][i % 4][lane] = acc[i / 4][0][i % 4];
    __syncthreads();
    if (warp > 1) return;
    float sum[4]; /* warp 0 the first 8 columns, warp 1 the others */
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum[i] = parts[0][warp][i][lane];
#pragma unroll
        for (int p = 1; p < 4; p++) sum[i] += parts[p][warp][i][lane];
    }
    const int m = m0 + (lane >> 2), c = c0 + warp * 8 + (lane & 3) * 2;
    if (c >= a.w.n) return;
    if (m < end) finish_pair(a.out, a.w.n, m, c, sum[0], sum[1]);
    if (m + 8 < end) finish_pair(a.out, a.w.n, m + 8, c, sum[2], sum[3]);
}

/* A stage of quant_many: 64 rows of a group. */
#define MANY_ROWS   64
#define MANY_STAGES 3
#define MANY_STAGE  (MANY_ROWS * 160)

/* This thread's pieces of the rows' records: numbers as tile.cuh has them, then scales and sums. */
PRIM void many_load(const gpu_quant &a, int m0, int end, int group, char *stage)
{
#pragma unroll
    for (int i = 0; i < 5; i++) {
        const int at = (int)threadIdx.x + i * 128, r = at / 10, piece = at % 10, m = m0 + r;
        const int row = m >= end ? -1 : a.index ? a.index[m] : m;
        const gpu_record *from =
            a.x + (row < 0 ? 0 : (size_t)row * (size_t)a.w.groups + (size_t)group);
        char *to = piece < 8 ? tile_at(stage, r, piece)
                             : stage + MANY_ROWS * 128 + r * 32 + (piece - 8) * 16;
        cp_async16(to, (const char *)from + piece * 16, row >= 0);
    }
}

struct many_x {
    const char *tail; /* of row g in a stage */
    int b;
    __device__ quant_x operator()(int i) const
    {
        const short2 sums = ((const short2 *)(tail + i * 256 + 16))[b];
        return {((const float *)(tail + i * 256))[b], {sums.x, sums.y}};
    }
};

/* 64 rows and 64 columns a block, 16 of them a warp. Finished parts wait in shared memory: with them
 * in registers as well the compiler spilled. Registers: 168. */
template <int BITS, bool HALVES>
__global__ void __launch_bounds__(128, 3) quant_many(const __grid_constant__ gpu_quant a)
{
    __shared__ __align__(128) char ring[MANY_STAGES * MANY_STAGE];
    __shared__ float total[32][128];
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31, groups = a.w.groups;
    const int first = a.range ? a.range[0] : 0, end = a.range ? a.range[1] : a.rows;
    const int m0 = first + (int)blockIdx.x * MANY_ROWS, c0 = (int)blockIdx.y * 64 + warp * 16;
    if (m0 >= end) return;
    const bool gated = a.out.act >= GPU_ACT_GEGLU;
    const quant_place place[2] = {quant_find(a.w, c0, gated), quant_find(a.w, c0 + 8, gated)};
    float acc[2][4][4] = {};
#pragma unroll
    for (int i = 0; i < 32; i++) total[i][threadIdx.x] = 0.0f;
    for (int s = 0; s < MANY_STAGES - 1; s++) {
        if (s < groups) many_load(a, m0, end, s, ring + s * MANY_STAGE);
        cp_async_commit();
    }
    for (int g = 0; g < groups; g++) {
        cp_async_wait<MANY_STAGES - 2>();
        __syncthreads();
        const int ahead = g + MANY_STAGES - 1;
        if (ahead < groups) many_load(a, m0, end, ahead, ring + ahead % MANY_STAGES * MANY_STAGE);
        cp_async_commit();
        char *const stage = ring + g % MANY_STAGES * MANY_STAGE;
        quant_group<BITS> w[2];
        quant_fetch(w[0], a.w, place[0], g);
        quant_fetch(w[1], a.w, place[1], g);
#pragma unroll 1
        for (int b = 0; b < 4; b++) {
            const void *from[4];
            uint32_t fa[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                from[i] = tile_at(stage, i * 16 + (lane & 15), b * 2 + (lane >> 4));
            ldmatrix_x4_n(fa, from);
            const many_x x = {stage + MANY_ROWS * 128 + (lane >> 2) * 32, b};
            quant_block<BITS, HALVES, 4>(acc[0], fa, x, w[0], b, a.w);
            quant_block<BITS, HALVES, 4>(acc[1], fa, x, w[1], b, a.w);
        }
        if ((g + 1) % ((groups + 3) >> 2) == 0 || g + 1 == groups) { /* the end of a part */
#pragma unroll
            for (int i = 0; i < 32; i++) {
                total[i][threadIdx.x] += acc[i / 16][i / 4 % 4][i % 4];
                acc[i / 16][i / 4 % 4][i % 4] = 0.0f;
            }
        }
    }
    cp_async_wait<0>();
#pragma unroll
    for (int i = 0; i < 16; i++) { /* rows g + 8 (i % 8) of panel i / 8 */
        const int m = m0 + i % 8 * 8 + (lane >> 2), c = c0 + i / 8 * 8 + (lane & 3) * 2;
        if (m < end && c < a.w.n)
            finish_pair(a.out, a.w.n, m, c, total[i * 2][threadIdx.x],
                        total[i * 2 + 1][threadIdx.x]);
    }
}

/* Kernels as templates of two parameters do not go through a macro. */
template <int BITS, bool HALVES> static void quant_launch(const gpu_quant &a, gpu_stream stream)
{
    const unsigned rows = (unsigned)a.rows, n = (unsigned)a.w.n;
    if (a.tile == GPU_TILE_16x32 || (a.tile == GPU_TILE_AUTO && a.rows <= 16)) {
        KLAUNCH((quant_few<BITS, HALVES>), dim3((rows + 15) / 16, (n + 15) / 16), 128, 0, stream)
        (a);
    } else {
        KLAUNCH((quant_many<BITS, HALVES>), dim3((rows + 63) / 64, (n + 63) / 64), 128, 0, stream)
        (a);
    }
}

int GPU(quant)(const gpu_quant *a, gpu_stream stream)
{
    if (a->w.bits == 8)
        quant_launch<8, false>(*a, stream);
    else if (a->w.bits == 6)
        quant_launch<6, true>(*a, stream);
    else if (a->w.bits == 5)
        quant_launch<5, false>(*a, stream);
    else if (a->w.halves)
        quant_launch<4, true>(*a, stream);
    else
        quant_launch<4, false>(*a, stream);
    return (int)cudaGetLastError();
}

/* ---------------------------------------------------------------- gates */

/* Registers: 40. */
__global__ void __launch_bounds__(256)
    gate_kernel(const float *sums, int n, int rows, const int32_t *range, gpu_out o)
{
    const int first = range ? range[0] : 0, end = range ? range[1] : rows;
    const int m = first + (int)blockIdx.x, half = n >> 1;
    if (m >= end) return;
    const float *v = sums + (size_t)m * (size_t)n;
    for (int j = (int)threadIdx.x; j < half; j += 256) {
        const size_t at = (size_t)m * (size_t)o.ld + (size_t)j;
        float y = act_gated(o.act, v[j], v[half + j]);
        if (o.residual) y = __fadd_rn(y, float_at(o.residual, o.y_dtype, at));
        put_at(o.y, o.y_dtype, at, y);
    }
}

int GPU(gate)(const float *sums, int n, int rows, const int32_t *range, const gpu_out *out,
              gpu_stream stream)
{
    KLAUNCH(gate_kernel, dim3((unsigned)rows), 256, 0, stream)(sums, n, rows, range, *out);
    return (int)cudaGetLastError();
}
