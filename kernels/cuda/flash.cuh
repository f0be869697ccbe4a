/* flash.cuh: attention on tensor cores, the part that attention.cu (keys beside each other) and
 * paged.cu (keys in blocks of a pool) share: a block of queries walks over its keys in steps,
 * keeping per query the largest score, the sum of 2^(score - largest) and the weighted sum of
 * values (FlashAttention-2, Dao 2023), with mma.sync m16n8k16: 16 queries a warp.
 *
 * Fragments. Of the 16 x 8 results of an mma, a thread holds rows g and g + 8 (g = lane / 4) at
 * columns 2t and 2t + 1 (t = lane % 4). So does it hold scores (columns: keys) and outputs
 * (columns: elements of the head); and the scores of 16 keys are, rounded to bf16, the A operand of
 * the second product as they lie.
 *
 * Why a query's bytes depend on nothing but itself and its keys: its row of every product is made
 * of its own row of A; steps begin at multiples of KEYS and follow each other; a step of which it
 * sees no key leaves its state as it was, to the bit (2^0 = 1, and zeros are added). Products that
 * meet a sum are spelled __fmul_rn or fmaf: what a compiler contracts in one kernel, it might not
 * contract in another. */
#ifndef ANNEAL_FLASH_CUH
#define ANNEAL_FLASH_CUH

#include "gpu.cuh"

/* DK elements of a head meet in q k^T; DV of them are this block's slice of the output. Multiples
 * of 16, zeros beyond head_dim. */
template <int DK_, int DV_, int KEYS_, int WARPS_> struct flash_tile {
    static constexpr int DK = DK_, DV = DV_, KEYS = KEYS_, WARPS = WARPS_;
    static constexpr int ROWS = 16 * WARPS, THREADS = 32 * WARPS;
    /* Elements from row to row in shared memory: an odd number of 16-byte units, so that the 8 rows
     * that ldmatrix reads at one column lie in 8 different groups of banks. */
    static constexpr int KP = DK + 8, VP = DV + 8;
    static constexpr bool Q_STAYS = DK <= 128; /* in registers; else it is read in every step */
    static constexpr int Q_FRAGMENTS = Q_STAYS ? DK / 16 : 1;
    /* Fragments of v loaded at a time, of 16 columns each: as many as divide DV, at most 5. */
    static constexpr int F = DV / 16;
    static constexpr int AT_ONCE = F % 5 == 0 ? 5 : F % 4 == 0 ? 4 : F % 3 == 0 ? 3 : 2;
    /* Blocks a multiprocessor should hold, which is the budget of registers: of four warps 128, 168
     * or 255. Shared memory has room for about as many. */
    static constexpr int BLOCKS = (DK <= 64 ? 4 : DK <= 96 ? 3 : 2) * 4 / WARPS;
    static constexpr int Q_SIZE = ROWS * KP, K_SIZE = KEYS * KP, V_SIZE = KEYS * VP;
    static constexpr int BYTES = 2 * (Q_SIZE + 2 * K_SIZE + 2 * V_SIZE);
};

/* Shared memory: [ROWS][KP] queries, then twice [KEYS][KP] keys and twice [KEYS][VP] values: one is
 * read while the other fills. */
template <class T> PRIM bf16 *flash_k(unsigned char *shared, int buffer)
{
    return (bf16 *)shared + T::Q_SIZE + buffer * T::K_SIZE;
}
template <class T> PRIM bf16 *flash_v(unsigned char *shared, int buffer)
{
    return (bf16 *)shared + T::Q_SIZE + 2 * T::K_SIZE + buffer * T::V_SIZE;
}

/* Of rows g and g + 8 of the warp: the output so far, the largest score, and this thread's part of
 * the sum (its own columns). */
template <class T> struct flash_state {
    float parts[T::F / T::AT_ONCE][1][2 * T::AT_ONCE][4], most[2], sum[2];
    /* element e of the fragment of columns 8n .. 8n + 7 */
    __device__ __forceinline__ float &o(int n, int e)
    {
        return parts[n / (2 * T::AT_ONCE)][0][n % (2 * T::AT_ONCE)][e];
    }
};

/* How a product becomes a score, in powers of 2: s * scale, or cap_out * tanh(s * cap_in). */
struct flash_score {
    float scale, cap_in, cap_out;
    bool capped;
};

static inline flash_score flash_score_of(float scale, float cap)
{
    const float log2e = 1.4426950408889634f;
    flash_score f = {scale * log2e, 0, 0, cap > 0};
    if (f.capped) {
        f.cap_in = scale / cap;
        f.cap_out = cap * log2e;
    }
    return f;
}

PRIM float flash_scored(float product, const flash_score &f)
{
    if (f.capped) return __fmul_rn(tanhf(__fmul_rn(product, f.cap_in)), f.cap_out);
    return __fmul_rn(product, f.scale);
}

/* ---------------------------------------------------------------- loading */

/* tile [ROWS][D + 8] = elements e0 .. e0 + D - 1 of rows first .. first + ROWS - 1 of a source:
 * source.row(r) is where a row begins, or any memory where source.has(r) is false. Zeros there and
 * beyond head_dim. aligned: rows begin at multiples of 16 bytes and head_dim is one of 8 elements;
 * then the copy is asynchronous. */
template <int ROWS, int D, int THREADS, class S>
PRIM void flash_load(bf16 *tile, const S &source, int first, int e0, int head_dim, bool aligned)
{
    constexpr int UNITS = D / 8;
    for (int i = (int)threadIdx.x; i < ROWS * UNITS; i += THREADS) {
        const int r = i / UNITS, e = i % UNITS * 8;
        const bf16 *from = source.row(first + r);
        const bool has = source.has(first + r);
        bf16 *to = tile + r * (D + 8) + e;
        if (aligned) {
            const bool any = has && e0 + e < head_dim;
            cp_async16(to, any ? from + e0 + e : from, any);
        } else {
            for (int j = 0; j < 8; j++)
                to[j] = has && e0 + e + j < head_dim ? from[e0 + e + j] : __float2bfloat16(0.f);
        }
    }
}

/* Keys and values of step j into buffer j % 2. */
template <class T, class K, class V>
PRIM void flash_load_step(unsigned char *shared, const K &k, const V &v, int j, int e0,
                          int head_dim, bool aligned)
{
    flash_load<T::KEYS, T::DK, T::THREADS>(flash_k<T>(shared, j & 1), k, j * T::KEYS, 0, head_dim,
                                           aligned);
    flash_load<T::KEYS, T::DV, T::THREADS>(flash_v<T>(shared, j & 1), v, j * T::KEYS, e0, head_dim,
                                           aligned);
}

/* ---------------------------------------------------------------- a step */

template <class T> PRIM void flash_clear(flash_state<T> &st)
{
#pragma unroll
    for (int n = 0; n < T::DV / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) st.o(n, e) = 0.f;
    st.most[0] = st.most[1] = -INFINITY;
    st.sum[0] = st.sum[1] = 0.f;
}

/* A operand: the warp's 16 rows, elements 16 kk .. 16 kk + 15. */
template <class T> PRIM void flash_q(uint32_t (&a)[4], const bf16 *rows, int kk, int lane)
{
    ldmatrix_x4(a, rows + (lane & 15) * T::KP + kk * 16 + (lane >> 4) * 8);
}

/* s = q k^T, over the elements of a head in order. */
template <class T>
PRIM void flash_scores(float (&s)[1][T::KEYS / 8][4], const uint32_t (&qf)[T::Q_FRAGMENTS][4],
                       const bf16 *rows, const bf16 *k, int lane)
{
    constexpr int N = T::KEYS / 16;
#pragma unroll
    for (int n = 0; n < 2 * N; n++) s[0][n][0] = s[0][n][1] = s[0][n][2] = s[0][n][3] = 0.f;
    const bf16 *mine = k + ((lane & 7) + (lane >> 4) * 8) * T::KP + ((lane >> 3) & 1) * 8;
#pragma unroll
    for (int kk = 0; kk < T::DK / 16; kk++) {
        uint32_t a[1][4], b[N][4], column[2 * N][2];
        if (T::Q_STAYS) {
#pragma unroll
            for (int i = 0; i < 4; i++) a[0][i] = qf[T::Q_STAYS ? kk : 0][i];
        } else {
            flash_q<T>(a[0], rows, kk, lane);
        }
        const void *at[N];
#pragma unroll
        for (int n = 0; n < N; n++) at[n] = mine + n * 16 * T::KP + kk * 16;
        ldmatrix_x4_n(b, at);
#pragma unroll
        for (int n = 0; n < 4 * N; n++) column[n / 2][n % 2] = b[n / 4][n % 4];
        mma_bf16_tile(s, a, column);
    }
}

/* Products become scores; those of keys that a row does not see (outside lo .. hi) become -inf.
 * first: the key of column 0. */
template <class T>
PRIM void flash_mask(float (&s)[1][T::KEYS / 8][4], const flash_score &f, int first,
                     const int (&lo)[2], const int (&hi)[2], int lane)
{
#pragma unroll
    for (int n = 0; n < T::KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[0][n][e] = flash_scored(s[0][n][e], f);
    if (first >= max(lo[0], lo[1]) && first + T::KEYS - 1 <= min(hi[0], hi[1])) return;
#pragma unroll
    for (int n = 0; n < T::KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int key = first + n * 8 + (lane & 3) * 2 + (e & 1);
            if (key < lo[e >> 1] || key > hi[e >> 1]) s[0][n][e] = -INFINITY;
        }
}

/* Scores become weights 2^(score - most), and what was summed before is brought to the new most. */
template <class T> PRIM void flash_softmax(flash_state<T> &st, float (&s)[1][T::KEYS / 8][4])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = st.most[h], sum = 0.f;
#pragma unroll
        for (int n = 0; n < T::KEYS / 8; n++)
            most = fmaxf(most, fmaxf(s[0][n][2 * h], s[0][n][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(WHOLE_WARP, most, 1));
        most = fmaxf(most, __shfl_xor_sync(WHOLE_WARP, most, 2));
        const float base = most == -INFINITY ? 0.f : most; /* nothing seen yet: weights are 0 */
        const float keep = fast_exp2(st.most[h] - base);
#pragma unroll
        for (int n = 0; n < T::KEYS / 8; n++)
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; e++) {
                s[0][n][e] = fast_exp2(s[0][n][e] - base);
                sum += s[0][n][e];
            }
        st.most[h] = most;
        st.sum[h] = fmaf(st.sum[h], keep, sum);
#pragma unroll
        for (int n = 0; n < T::DV / 8; n++) {
            st.o(n, 2 * h) = __fmul_rn(st.o(n, 2 * h), keep);
            st.o(n, 2 * h + 1) = __fmul_rn(st.o(n, 2 * h + 1), keep);
        }
    }
}

/* o += weights v, 16 keys after the other. */
template <class T>
PRIM void flash_values(flash_state<T> &st, const float (&s)[1][T::KEYS / 8][4], const bf16 *v,
                       int lane)
{
    constexpr int N = T::AT_ONCE;
    const bf16 *mine = v + (lane & 15) * T::VP + (lane >> 4) * 8;
#pragma unroll
    for (int kk = 0; kk < T::KEYS / 16; kk++) {
        const float(&x)[4] = s[0][2 * kk], (&y)[4] = s[0][2 * kk + 1];
        const uint32_t a[1][4] = {{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]),
                                   pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3])}};
#pragma unroll
        for (int part = 0; part < T::F / N; part++) {
            const void *at[N];
            uint32_t b[N][4], column[2 * N][2];
#pragma unroll
            for (int n = 0; n < N; n++) at[n] = mine + kk * 16 * T::VP + (part * N + n) * 16;
            ldmatrix_x4_trans_n(b, at);
#pragma unroll
            for (int n = 0; n < 4 * N; n++) column[n / 2][n % 2] = b[n / 4][n % 4];
            mma_bf16_tile(st.parts[part], a, column);
        }
    }
}

/* The threads' parts of the sums, added: the same number in the four threads of a row. */
template <class T> PRIM void flash_sum(flash_state<T> &st)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        st.sum[h] += __shfl_xor_sync(WHOLE_WARP, st.sum[h], 1);
        st.sum[h] += __shfl_xor_sync(WHOLE_WARP, st.sum[h], 2);
    }
}

/* Elements e and e + 1 of a head; `to` is its first. */
PRIM void flash_put2(bf16 *to, int e, int head_dim, float x, float y)
{
    if (head_dim % 2 == 0) {
        if (e < head_dim) *(uint32_t *)(to + e) = pack_bf16(x, y);
    } else {
        if (e < head_dim) to[e] = __float2bfloat16(x);
        if (e + 1 < head_dim) to[e + 1] = __float2bfloat16(y);
    }
}

#endif
