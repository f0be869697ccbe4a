/* paged.cu: causal attention over keys and values in blocks of a pool, for prompts and single
 * tokens alike. Whether one block walks over all of a query's segments, or each segment has a block
 * and paged_merge adds up their states, the same operations meet the same numbers in the same
 * order: a tile's width, the split and the neighbours change no bit (flash.cuh says why a segment's
 * state is the query's own). */
#include "flash.cuh"
#include "plain.cuh"

/* ---------------------------------------------------------------- where things lie */

/* Keys that some of a tile's queries see: from .. end - 1; and the segments they are in. */
struct paged_span {
    int from, end, first, last;
};
PRIM int paged_from(const gpu_paged &a, int pos)
{
    return a.window && pos >= a.window ? pos - a.window + 1 : 0;
}
PRIM paged_span paged_span_of(const gpu_paged &a, const gpu_paged_tile &t, int rows)
{
    const int last = min(t.first + rows, t.queries) - 1;
    const int from = paged_from(a, t.pos + t.first / a.group), end = t.pos + last / a.group + 1;
    return {from, end, from / GPU_PAGED_SEGMENT, (end - 1) / GPU_PAGED_SEGMENT};
}

/* The tile's queries of a kv head. */
template <class T> struct paged_queries {
    const T *q; /* of the row's first token, the kv head's first head */
    int64_t stride;
    int first, count, group, d;
    __device__ paged_queries(const gpu_paged &a, const gpu_paged_tile &t, int kv_head)
        : q((const T *)a.q + t.token * a.q_stride + (int64_t)kv_head * a.group * a.pool.head_dim),
          stride(a.q_stride), first(t.first), count(t.queries), group(a.group), d(a.pool.head_dim)
    {
    }
    __device__ const T *row(int r) const
    {
        const int i = has(r) ? first + r : 0;
        return q + i / group * stride + i % group * d;
    }
    __device__ bool has(int r) const { return first + r < count; }
};

/* A row's keys, or values, of a kv head: row(j) is that of position j. */
template <class T> struct paged_keys {
    const T *pool;
    const int32_t *table;
    int kv_heads, kv_head, d, from, end;
    __device__ const T *row(int j) const
    {
        if (!has(j)) return pool;
        const int64_t block = (int64_t)table[j / GPU_KV_BLOCK] * kv_heads + kv_head;
        return pool + (block * GPU_KV_BLOCK + j % GPU_KV_BLOCK) * d;
    }
    __device__ bool has(int j) const { return j >= from && j < end; }
};
template <class T>
PRIM paged_keys<T> paged_keys_of(const gpu_paged &a, const void *pool, const gpu_paged_tile &t,
                                 int kv_head, const paged_span &span)
{
    return {(const T *)pool, a.tables + t.table, a.pool.kv_heads, kv_head,
            a.pool.head_dim, span.from,          span.end};
}

/* A query's output, and its state of segment `part` (of this round). */
PRIM int64_t paged_y(const gpu_paged &a, const gpu_paged_tile &t, int kv_head, int r)
{
    const int i = t.first + r, head = kv_head * a.group + i % a.group;
    return ((int64_t)(t.token + i / a.group) * a.heads + head) * a.pool.head_dim;
}
PRIM float *paged_state(const gpu_paged &a, float *states, int parts, int tile, int kv_head,
                        int part, int rows, int r)
{
    const int64_t at = ((int64_t)tile * a.pool.kv_heads + kv_head) * parts + part;
    return states + (at * rows + r) * (a.pool.head_dim + 2);
}

/* ---------------------------------------------------------------- merging */

/* A total and the state that follows it are multiplied by these, and added. */
struct paged_weights {
    float most, total, state;
};
PRIM paged_weights paged_weigh(float total_most, float most)
{
    const float both = fmaxf(total_most, most), base = both == -INFINITY ? 0.f : both;
    return {both, fast_exp2(total_most - base), fast_exp2(most - base)};
}
PRIM float paged_add(float total, float state, const paged_weights &w)
{
    return fmaf(state, w.state, __fmul_rn(total, w.total));
}

PRIM void paged_put(void *y, int dtype, int64_t at, float x)
{
    if (dtype == GPU_BF16)
        ((bf16 *)y)[at] = __float2bfloat16(x);
    else
        ((float *)y)[at] = x;
}

/* Block x: a query of a tile of a kv head. Registers: 40. */
__global__ void __launch_bounds__(128) paged_merge(const gpu_paged a, const int rows)
{
    constexpr int EACH = 512 / 128;
    const int r = (int)blockIdx.x % rows, pair = (int)blockIdx.x / rows, d = a.pool.head_dim;
    const int kv_head = pair % a.pool.kv_heads, tile = pair / a.pool.kv_heads;
    const gpu_paged_tile t = a.tile[tile];
    const paged_span span = paged_span_of(a, t, rows);
    const int first = span.first + a.round * a.wide, n = min(a.wide, span.last - first + 1);
    if (t.first + r >= t.queries || n < 1) return;

    float *total = paged_state(a, a.totals, 1, tile, kv_head, 0, rows, r);
    const float *state = paged_state(a, a.states, a.wide, tile, kv_head, 0, rows, r);
    float o[EACH], most = -INFINITY, sum = 0.f;
    if (a.round) {
        most = total[d];
        sum = total[d + 1];
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int e = (int)threadIdx.x + i * 128;
        o[i] = a.round && e < d ? total[e] : 0.f;
    }
    for (int j = 0; j < n; j++, state += (int64_t)rows * (d + 2)) {
        const paged_weights w = paged_weigh(most, state[d]);
        most = w.most;
        sum = paged_add(sum, state[d + 1], w);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int e = (int)threadIdx.x + i * 128;
            if (e < d) o[i] = paged_add(o[i], state[e], w);
        }
    }
    __syncthreads(); /* everybody has read the old total */
    const bool done = first + n > span.last;
    const int64_t y = paged_y(a, t, kv_head, r);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int e = (int)threadIdx.x + i * 128;
        if (e >= d) continue;
        if (done)
            paged_put(a.y, a.dtype, y + e, o[i] * (1.f / sum));
        else
            total[e] = o[i];
    }
    if (!done && threadIdx.x == 0) {
        total[d] = most;
        total[d + 1] = sum;
    }
}

/* ---------------------------------------------------------------- bf16, on tensor cores */

/* A thread's outputs merged so far wait in shared memory, where nobody else looks. */
template <class T> PRIM float *paged_total(unsigned char *shared, int n, int e)
{
    return (float *)(shared + T::BYTES) + (n * 4 + e) * T::THREADS + threadIdx.x;
}
template <class T> static constexpr int paged_bytes = T::BYTES + T::DV / 2 * T::THREADS * 4;

/* The segment's state is added to the total, and begins anew. */
template <class T>
PRIM void paged_fold(unsigned char *shared, flash_state<T> &st, float (&most)[2], float (&sum)[2])
{
    flash_sum<T>(st);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const paged_weights w = paged_weigh(most[h], st.most[h]);
        most[h] = w.most;
        sum[h] = paged_add(sum[h], st.sum[h], w);
#pragma unroll
        for (int n = 0; n < T::DV / 8; n++)
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; e++) {
                float *total = paged_total<T>(shared, n, e);
                *total = paged_add(*total, st.o(n, e), w);
            }
    }
    flash_clear(st);
}

/* The state of one segment, for paged_merge. */
template <class T>
PRIM void paged_leave(const gpu_paged &a, flash_state<T> &st, int tile, int kv_head, int part,
                      int mine, int e0, int lane)
{
    const int d = a.pool.head_dim;
    flash_sum<T>(st);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float *to = paged_state(a, a.states, a.wide, tile, kv_head, part, T::ROWS, mine + 8 * h);
#pragma unroll
        for (int n = 0; n < T::DV / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int e = e0 + n * 8 + (lane & 3) * 2 + i;
                if (e < d) to[e] = st.o(n, 2 * h + i);
            }
        if (e0 == 0 && (lane & 3) == 0) {
            to[d] = st.most[h];
            to[d + 1] = st.sum[h];
        }
    }
}

/* Block x: a tile, or a segment of one; y: kv head; z: a slice of the output. Registers by DK: 128
 * up to 64, 168 up to 96, 255 above. */
template <class T>
__global__ void __launch_bounds__(T::THREADS, T::BLOCKS)
    paged_bf16(const gpu_paged a, const flash_score f, const bool aligned)
{
    static_assert(GPU_PAGED_SEGMENT % T::KEYS == 0, "segments are whole steps");
    constexpr int STEPS = GPU_PAGED_SEGMENT / T::KEYS;
    DYN_SHARED(shared);
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31, d = a.pool.head_dim;
    const int parts = max(a.wide, 1), tile = (int)blockIdx.x / parts;
    const int part = (int)blockIdx.x % parts, kv_head = (int)blockIdx.y;
    const int e0 = (int)blockIdx.z * T::DV, mine = warp * 16 + (lane >> 2);
    const gpu_paged_tile t = a.tile[tile];
    const paged_span span = paged_span_of(a, t, T::ROWS);
    int j = span.from / T::KEYS, end = (span.end - 1) / T::KEYS + 1;
    if (a.wide) {
        const int segment = span.first + a.round * a.wide + part;
        j = max(j, segment * STEPS);
        end = min(end, (segment + 1) * STEPS);
        if (j >= end) return;
    }
    int lo[2], hi[2]; /* keys that rows g and g + 8 see */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        hi[h] = t.pos + (t.first + mine + 8 * h) / a.group;
        lo[h] = paged_from(a, hi[h]);
    }
    const paged_queries<bf16> q(a, t, kv_head);
    const paged_keys<bf16> k = paged_keys_of<bf16>(a, a.pool.k, t, kv_head, span);
    const paged_keys<bf16> v = paged_keys_of<bf16>(a, a.pool.v, t, kv_head, span);

    flash_load<T::ROWS, T::DK, T::THREADS>((bf16 *)shared, q, 0, 0, d, aligned);
    flash_load_step<T>(shared, k, v, j, e0, d, aligned);
    cp_async_commit();
    const bf16 *rows = (const bf16 *)shared + warp * 16 * T::KP;
    uint32_t qf[T::Q_FRAGMENTS][4];
    bool fresh = true;
    flash_state<T> st;
    flash_clear(st);
    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
    if (!a.wide)
#pragma unroll
        for (int i = 0; i < T::DV / 2; i++) *paged_total<T>(shared, 0, i) = 0.f;
    for (; j < end; j++) {
        if (j + 1 < end) flash_load_step<T>(shared, k, v, j + 1, e0, d, aligned);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (fresh && T::Q_STAYS)
#pragma unroll
            for (int kk = 0; kk < T::Q_FRAGMENTS; kk++) flash_q<T>(qf[kk], rows, kk, lane);
        fresh = false;
        float s[1][T::KEYS / 8][4];
        flash_scores<T>(s, qf, rows, flash_k<T>(shared, j & 1), lane);
        flash_mask<T>(s, f, j * T::KEYS, lo, hi, lane);
        flash_softmax<T>(st, s);
        flash_values<T>(st, s, flash_v<T>(shared, j & 1), lane);
        if (!a.wide && ((j + 1) % STEPS == 0 || j + 1 == end)) paged_fold<T>(shared, st, most, sum);
        __syncthreads();
    }
    cp_async_wait<0>();
    if (a.wide) {
        paged_leave<T>(a, st, tile, kv_head, part, mine, e0, lane);
        return;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (!q.has(mine + 8 * h)) continue;
        const float by = 1.f / sum[h];
        bf16 *y = (bf16 *)a.y + paged_y(a, t, kv_head, mine + 8 * h);
#pragma unroll
        for (int n = 0; n < T::DV / 8; n++)
            flash_put2(y, e0 + n * 8 + (lane & 3) * 2, d, *paged_total<T>(shared, n, 2 * h) * by,
                       *paged_total<T>(shared, n, 2 * h + 1) * by);
    }
}

/* ---------------------------------------------------------------- f32, and mixed types */

/* Block x: a tile of 16 queries, or a segment of one; y: kv head. Registers: 64. */
template <class Q, class K>
__global__ void __launch_bounds__(PLAIN_THREADS) paged_plain(const gpu_paged a, const flash_score f)
{
    constexpr int STEPS = GPU_PAGED_SEGMENT / PLAIN_KEYS;
    DYN_SHARED(shared);
    const int parts = max(a.wide, 1), tile = (int)blockIdx.x / parts, d = a.pool.head_dim;
    const int part = (int)blockIdx.x % parts, kv_head = (int)blockIdx.y;
    const gpu_paged_tile t = a.tile[tile];
    const paged_span span = paged_span_of(a, t, PLAIN_ROWS);
    int j = span.from / PLAIN_KEYS, end = (span.end - 1) / PLAIN_KEYS + 1;
    if (a.wide) {
        const int segment = span.first + a.round * a.wide + part;
        j = max(j, segment * STEPS);
        end = min(end, (segment + 1) * STEPS);
        if (j >= end) return;
    }
    const int hi = t.pos + (t.first + (int)threadIdx.x / PLAIN_BY) / a.group;
    const int lo = paged_from(a, hi);
    const paged_queries<Q> q(a, t, kv_head);
    const paged_keys<K> k = paged_keys_of<K>(a, a.pool.k, t, kv_head, span);
    const paged_keys<K> v = paged_keys_of<K>(a, a.pool.v, t, kv_head, span);
    const plain_memory m((float *)shared, d);
    float *total = m.keep + PLAIN_ROWS; /* [ROWS][d], a thread's own elements */
    float most = -INFINITY, sum = 0.f;  /* of query threadIdx.x % ROWS */
    const int row = (int)threadIdx.x % PLAIN_ROWS;

    plain_queries(m, q, d);
    for (int i = (int)threadIdx.x; i < PLAIN_ROWS * d; i += PLAIN_THREADS) total[i] = 0.f;
    for (; j < end; j++) {
        plain_step(m, k, v, j * PLAIN_KEYS, lo, hi, d, f);
        if (a.wide || ((j + 1) % STEPS && j + 1 < end)) continue;
        /* a segment's end: elements e of query `row`, by the threads of that query */
        const paged_weights w = paged_weigh(most, m.most[row]);
        most = w.most;
        sum = paged_add(sum, m.sum[row], w);
        for (int e = (int)threadIdx.x / PLAIN_ROWS; e < d; e += PLAIN_BY)
            total[row * d + e] = paged_add(total[row * d + e], m.o[row * d + e], w);
        __syncthreads();
        plain_clear(m, d);
    }
    float *state = paged_state(a, a.states, parts, tile, kv_head, part, PLAIN_ROWS, row);
    for (int e = (int)threadIdx.x / PLAIN_ROWS; e < d; e += PLAIN_BY) {
        if (a.wide)
            state[e] = m.o[row * d + e];
        else if (q.has(row))
            paged_put(a.y, a.dtype, paged_y(a, t, kv_head, row) + e,
                      total[row * d + e] * (1.f / sum));
    }
    if (a.wide && threadIdx.x < PLAIN_ROWS) {
        state[d] = m.most[row];
        state[d + 1] = m.sum[row];
    }
}

/* ---------------------------------------------------------------- writing keys and values */

PRIM float paged_get(const void *p, int dtype, int64_t at)
{
    return dtype == GPU_BF16 ? __bfloat162float(((const bf16 *)p)[at]) : ((const float *)p)[at];
}

/* Block x: a token. Registers: 32. */
__global__ void __launch_bounds__(256) kv_write(const gpu_kv_write a)
{
    const gpu_kv_place p = a.place[blockIdx.x];
    const int d = a.pool.head_dim, width = a.pool.kv_heads * d;
    for (int i = (int)threadIdx.x; i < width; i += (int)blockDim.x) {
        const int64_t head = (int64_t)p.block * a.pool.kv_heads + i / d;
        const int64_t to = (head * GPU_KV_BLOCK + p.at) * d + i % d;
        paged_put(a.pool.k, a.pool.dtype, to, paged_get(a.k, a.dtype, p.token * a.k_stride + i));
        paged_put(a.pool.v, a.pool.dtype, to, paged_get(a.v, a.dtype, p.token * a.v_stride + i));
    }
}

extern "C" int GPU(kv_write)(const gpu_kv_write *a, gpu_stream s)
{
    KLAUNCH(kv_write, dim3((unsigned)a->places), 256, 0, s)(*a);
    return (int)cudaGetLastError();
}

/* ---------------------------------------------------------------- launching */

static cudaError_t merge(const gpu_paged &a, int rows, cudaStream_t s)
{
    const unsigned queries = (unsigned)(a.tiles * a.pool.kv_heads * rows);
    KLAUNCH(paged_merge, dim3(queries), 128, 0, s)(a, rows);
    return cudaGetLastError();
}

static dim3 grid_of(const gpu_paged &a, int slices)
{
    return dim3((unsigned)(a.tiles * (a.wide ? a.wide : 1)), (unsigned)a.pool.kv_heads,
                (unsigned)slices);
}

template <class T> static cudaError_t launch_bf16(const gpu_paged &a, cudaStream_t s)
{
    const int d = a.pool.head_dim;
    const bool aligned = d % 8 == 0 && a.q_stride % 8 == 0 &&
                         ((uintptr_t)a.q | (uintptr_t)a.pool.k | (uintptr_t)a.pool.v) % 16 == 0;
    static shared_limit limit;
    cudaError_t e = shared_allow(limit, paged_bf16<T>, paged_bytes<T>);
    if (e != cudaSuccess) return e;
    KLAUNCH(paged_bf16<T>, grid_of(a, T::DK / T::DV), T::THREADS, paged_bytes<T>, s)
    (a, flash_score_of(a.scale, a.softcap), aligned);
    e = cudaGetLastError();
    return e == cudaSuccess && a.wide ? merge(a, T::ROWS, s) : e;
}

template <int DK, int DV, int KEYS, int WARPS>
static cudaError_t either_bf16(const gpu_paged &a, cudaStream_t s)
{
    if (a.small_tiles) return launch_bf16<flash_tile<DK, DV, KEYS, 1>>(a, s);
    return launch_bf16<flash_tile<DK, DV, KEYS, WARPS>>(a, s);
}

/* Small tiles are read by one warp, so that many are under way in a multiprocessor; steps of 32
 * keys leave room for that. */
static cudaError_t attend_bf16(const gpu_paged &a, cudaStream_t s)
{
    const int d = a.pool.head_dim;
    if (d <= 64) return either_bf16<64, 64, 32, 4>(a, s);
    if (d <= 96) return either_bf16<96, 96, 32, 4>(a, s);
    if (d <= 128) return either_bf16<128, 128, 32, 4>(a, s);
    if (a.shared_bytes < paged_bytes<flash_tile<256, 256, 32, 4>>)
        return d <= 256 ? either_bf16<256, 128, 16, 4>(a, s) : either_bf16<512, 128, 16, 2>(a, s);
    return d <= 256 ? either_bf16<256, 256, 32, 4>(a, s) : either_bf16<512, 256, 32, 2>(a, s);
}

extern "C" size_t GPU(paged_shared)(int head_dim)
{
    return (size_t)(plain_bytes(head_dim) + PLAIN_ROWS * head_dim * (int)sizeof(float));
}

template <class Q, class K> static cudaError_t attend_plain(const gpu_paged &a, cudaStream_t s)
{
    static shared_limit limit;
    const int bytes = (int)GPU(paged_shared)(a.pool.head_dim);
    cudaError_t e = shared_allow(limit, paged_plain<Q, K>, bytes);
    if (e != cudaSuccess) return e;
    KLAUNCH((paged_plain<Q, K>), grid_of(a, 1), PLAIN_THREADS, bytes, s)
    (a, flash_score_of(a.scale, a.softcap));
    e = cudaGetLastError();
    return e == cudaSuccess && a.wide ? merge(a, PLAIN_ROWS, s) : e;
}

extern "C" int GPU(paged)(const gpu_paged *a, gpu_stream s)
{
    const bool q16 = a->dtype == GPU_BF16, k16 = a->pool.dtype == GPU_BF16;
    if (q16 && k16) return (int)attend_bf16(*a, s);
    if (q16) return (int)attend_plain<bf16, float>(*a, s);
    return (int)(k16 ? attend_plain<float, bf16>(*a, s) : attend_plain<float, float>(*a, s));
}
