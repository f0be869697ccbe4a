/* attention.cu: softmax(scale q k^T) v for rows whose keys have lengths and places of their own,
 * never storing the scores: bf16 on tensor cores (flash.cuh), f32 by multiply-adds (plain.cuh). */
#include "flash.cuh"
#include "plain.cuh"

/* The tokens of one head, `count` of them. */
template <class T> struct tokens {
    const T *head;
    int64_t stride;
    int count;
    __device__ const T *row(int r) const { return head + (r < count ? r : 0) * stride; }
    __device__ bool has(int r) const { return r < count; }
};

/* Where a block's queries, keys and values lie: queries q0 .. of row blockIdx.z, head blockIdx.y.
 */
template <class T> struct place {
    tokens<T> q, k, v;
    int64_t y; /* elements from a.y to the first query's output */
    int seen;  /* keys that any of `queries` queries from q0 on sees */
    __device__ place(const gpu_attention &a, int q0, int queries)
    {
        const int row = (int)blockIdx.z;
        const int64_t head = (int64_t)blockIdx.y * a.head_dim, token = (int64_t)row * a.q_len + q0;
        const int64_t start = a.kv_lens ? a.kv_start[row] : row * a.kv_len;
        const int keys = (int)(a.kv_lens ? a.kv_lens[row] : a.kv_len);
        q = {(const T *)a.q + token * a.q_stride + head, a.q_stride, a.q_len - q0};
        k = {(const T *)a.k + start * a.k_stride + head, a.k_stride, keys};
        v = {(const T *)a.v + start * a.v_stride + head, a.v_stride, keys};
        y = token * a.heads * a.head_dim + head;
        seen = a.causal ? min(keys, q0 + queries) : keys;
    }
};

/* Block x: a tile of queries and a slice of the output; y: head; z: row. Causal tiles begin with
 * the last, which has most to do. Registers by DK: 128 up to
 * 64, 168 up to 96, 255 above. */
template <class T>
__global__ void __launch_bounds__(T::THREADS, T::BLOCKS)
    attention_bf16(const gpu_attention a, const flash_score f, const bool aligned, const int slices)
{
    DYN_SHARED(shared);
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31, d = a.head_dim;
    const int tiles = (int)gridDim.x / slices, tile = (int)blockIdx.x / slices;
    const int e0 = (int)blockIdx.x % slices * T::DV;
    const int q0 = (a.causal ? tiles - 1 - tile : tile) * T::ROWS;
    const place<bf16> at(a, q0, T::ROWS);
    const int steps = (at.seen + T::KEYS - 1) / T::KEYS;
    const int mine = warp * 16 + (lane >> 2); /* and 8 after: this thread's queries of the tile */
    const int last = at.k.count - 1, lo[2] = {0, 0};
    const int hi[2] = {a.causal ? min(q0 + mine, last) : last,
                       a.causal ? min(q0 + mine + 8, last) : last};

    flash_load<T::ROWS, T::DK, T::THREADS>((bf16 *)shared, at.q, 0, 0, d, aligned);
    flash_load_step<T>(shared, at.k, at.v, 0, e0, d, aligned);
    cp_async_commit();
    const bf16 *rows = (const bf16 *)shared + warp * 16 * T::KP;
    uint32_t qf[T::Q_FRAGMENTS][4];
    flash_state<T> st;
    flash_clear(st);
    for (int j = 0; j < steps; j++) {
        if (j + 1 < steps) flash_load_step<T>(shared, at.k, at.v, j + 1, e0, d, aligned);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (j == 0 && T::Q_STAYS)
#pragma unroll
            for (int kk = 0; kk < T::Q_FRAGMENTS; kk++) flash_q<T>(qf[kk], rows, kk, lane);
        float s[1][T::KEYS / 8][4];
        flash_scores<T>(s, qf, rows, flash_k<T>(shared, j & 1), lane);
        flash_mask<T>(s, f, j * T::KEYS, lo, hi, lane);
        flash_softmax<T>(st, s);
        flash_values<T>(st, s, flash_v<T>(shared, j & 1), lane);
        __syncthreads();
    }
    cp_async_wait<0>();

    flash_sum<T>(st);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (!at.q.has(mine + 8 * h)) continue;
        const float by = 1.f / st.sum[h];
        bf16 *y = (bf16 *)a.y + at.y + (int64_t)(mine + 8 * h) * a.heads * d;
#pragma unroll
        for (int n = 0; n < T::DV / 8; n++)
            flash_put2(y, e0 + n * 8 + (lane & 3) * 2, d, st.o(n, 2 * h) * by,
                       st.o(n, 2 * h + 1) * by);
    }
}

/* Block x: 16 queries; y: head; z: row. Registers: 64. */
__global__ void __launch_bounds__(PLAIN_THREADS)
    attention_f32(const gpu_attention a, const flash_score f)
{
    DYN_SHARED(shared);
    const int q0 = (int)blockIdx.x * PLAIN_ROWS, d = a.head_dim;
    const place<float> at(a, q0, PLAIN_ROWS);
    const plain_memory m((float *)shared, d);
    const int mine = (int)threadIdx.x / PLAIN_BY, last = at.k.count - 1;
    const int hi = a.causal ? min(q0 + mine, last) : last;
    plain_queries(m, at.q, d);
    for (int j = 0; j * PLAIN_KEYS < at.seen; j++)
        plain_step(m, at.k, at.v, j * PLAIN_KEYS, 0, hi, d, f);
    for (int i = (int)threadIdx.x; i < PLAIN_ROWS * d; i += PLAIN_THREADS) {
        const int r = i / d, e = i % d;
        if (at.q.has(r))
            ((float *)a.y)[at.y + (int64_t)r * a.heads * d + e] = m.o[i] * (1.f / m.sum[r]);
    }
}

/* ---------------------------------------------------------------- launching */

template <class T>
static cudaError_t launch_tile(const gpu_attention &a, bool aligned, cudaStream_t stream)
{
    const int slices = T::DK / T::DV, tiles = (a.q_len + T::ROWS - 1) / T::ROWS;
    const dim3 grid((unsigned)(tiles * slices), (unsigned)a.heads, (unsigned)a.rows);
    static shared_limit limit;
    const cudaError_t e = shared_allow(limit, attention_bf16<T>, T::BYTES);
    if (e != cudaSuccess) return e;
    KLAUNCH(attention_bf16<T>, grid, T::THREADS, T::BYTES, stream)
    (a, flash_score_of(a.scale, 0), aligned, slices);
    return cudaGetLastError();
}

/* A width whose tile has room in a block of any GPU. */
template <int D, int KEYS>
static cudaError_t launch_bf16(const gpu_attention &a, bool aligned, cudaStream_t stream)
{
    static_assert(flash_tile<D, D, KEYS, 4>::BYTES <= 99 << 10, "fits");
    return launch_tile<flash_tile<D, D, KEYS, 4>>(a, aligned, stream);
}

static bool at16(const void *p, int64_t stride)
{
    return (uintptr_t)p % 16 == 0 && stride % 8 == 0;
}

static cudaError_t attend_bf16(const gpu_attention &a, cudaStream_t s)
{
    const int d = a.head_dim;
    const bool aligned =
        d % 8 == 0 && at16(a.q, a.q_stride) && at16(a.k, a.k_stride) && at16(a.v, a.v_stride);
    if (d <= 32) return launch_bf16<32, 64>(a, aligned, s);
    if (d <= 48) return launch_bf16<48, 64>(a, aligned, s);
    if (d <= 64) return launch_bf16<64, 64>(a, aligned, s);
    if (d <= 80) return launch_bf16<80, 64>(a, aligned, s);
    if (d <= 96) return launch_bf16<96, 64>(a, aligned, s);
    if (d <= 128) return launch_bf16<128, 64>(a, aligned, s);
    if (d <= 160) return launch_bf16<160, 32>(a, aligned, s);
    if (d <= 256) return launch_bf16<256, 32>(a, aligned, s);
    typedef flash_tile<512, 256, 32, 4> wide; /* O of 512 would not fit the registers */
    if (a.shared_bytes >= wide::BYTES) return launch_tile<wide>(a, aligned, s);
    return launch_tile<flash_tile<512, 256, 16, 2>>(a, aligned, s);
}

static cudaError_t attend_f32(const gpu_attention &a, cudaStream_t stream)
{
    const int bytes = plain_bytes(a.head_dim);
    const dim3 grid((unsigned)((a.q_len + PLAIN_ROWS - 1) / PLAIN_ROWS), (unsigned)a.heads,
                    (unsigned)a.rows);
    static shared_limit limit;
    const cudaError_t e = shared_allow(limit, attention_f32, bytes);
    if (e != cudaSuccess) return e;
    KLAUNCH(attention_f32, grid, PLAIN_THREADS, bytes, stream)(a, flash_score_of(a.scale, 0));
    return cudaGetLastError();
}

extern "C" int GPU(attention)(const gpu_attention *a, gpu_stream s)
{
    return (int)(a->dtype == GPU_BF16 ? attend_bf16(*a, s) : attend_f32(*a, s));
}
