/* norm.cu: group norm (with SiLU), layer norm and RMS norm. What is added to what, and in which
 * order, follows from the shape of a row alone. Variances are taken around an approximate mean that
 * a first look gives (the second look finds the data in the cache): nothing is lost however far
 * from zero they lie. */
#include "act.cuh"
#include "values.cuh"

#define THREADS 256

/* ---------------------------------------------------------------- group norm */

/* How the threads of a block share a chunk: `across` of them take eight channels each, `down` rows
 * of them take every down-th pixel. */
struct gn_share {
    int eights, across, down;
    __host__ __device__ explicit gn_share(int c)
    {
        eights = (c + 7) / 8;
        across = eights < THREADS ? eights : THREADS;
        down = THREADS / across;
    }
};

/* Channels j .. j + n - 1 (eight at most) of a pixel, counted over all rows. */
template <class T>
PRIM void gn_load(const gpu_group_norm &a, float (&v)[8], int64_t pixel, int j, int n, bool whole)
{
    const int c2 = a.c - a.c1;
    const T *x = (const T *)a.x + pixel * a.c1, *x2 = (const T *)a.x2 + pixel * c2;
    if (j + n <= a.c1) {
        load8(v, x + j, n, whole);
    } else if (j >= a.c1) {
        load8(v, x2 + (j - a.c1), n, whole);
    } else {
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = k < n ? value_of(j + k < a.c1 ? x[j + k] : x2[j + k - a.c1]) : 0.0f;
    }
}

/* Sums of every channel over the pixels of a chunk, `down` partial ones of each. The first look
 * puts x and x2 side by side, and has them in sum[down][c]; the second has those of x minus
 * around[group] there, and of its squares in square[down][c]. */
template <class T, bool SECOND>
PRIM void gn_sums(const gpu_group_norm &a, const gn_share &w, int64_t first, int pixels, bool whole,
                  const float *around, float *sum, float *square)
{
    const int ty = threadIdx.x / w.across, tx = threadIdx.x % w.across, width = a.c / a.groups;
    const T *made = (const T *)(a.cat ? a.cat : a.x); /* by the first look of this very thread */
    if (ty >= w.down) return;
    for (int j = tx; j < w.eights; j += w.across) {
        float s[8] = {0}, q[8] = {0}, v[8], m[8];
        const int n = min(8, a.c - 8 * j);
#pragma unroll
        for (int k = 0; k < 8; k++) m[k] = SECOND && k < n ? around[(8 * j + k) / width] : 0.0f;
        for (int p = ty; p < pixels; p += w.down) {
            const int64_t at = (first + p) * a.c + 8 * j;
            if (SECOND)
                load8(v, made + at, n, whole);
            else
                gn_load<T>(a, v, first + p, 8 * j, n, whole);
            if (!SECOND && a.cat) store8((T *)a.cat + at, v, n, whole);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float d = v[k] - m[k];
                s[k] += d;
                if (SECOND) q[k] = fmaf(d, d, q[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (k < n) {
                sum[ty * a.c + 8 * j + k] = s[k];
                if (SECOND) square[ty * a.c + 8 * j + k] = q[k];
            }
    }
}

#define LANES 8 /* of a group in gn_params */

/* By the threads of a block, for a row. The chunks' moments, added around the first chunk's mean
 * (Chan, Golub and LeVeque 1983), become y = (x - m) a + b per channel; m is the mean in f32, b
 * carries what that lost. LANES lanes of a group add every LANES-th chunk, then the lanes are added
 * in order. t1: [2 * THREADS] */
PRIM void gn_params(const gpu_group_norm &a, int64_t at, double *t1)
{
    double *t2 = t1 + THREADS;
    const int per = THREADS / LANES, lane = threadIdx.x % LANES, width = a.c / a.groups;
    const double *row = a.partials + at * a.chunks * a.groups * 2;
    const double n = (double)a.pixels * width;
    float *m = a.params + at * 3 * a.c;
    for (int g0 = 0; g0 < a.groups; g0 += per) {
        const int g = g0 + (int)threadIdx.x / LANES;
        double s = 0, q = 0;
        for (int k = lane; g < a.groups && k < a.chunks; k += LANES) {
            const double *part = row + ((int64_t)k * a.groups + g) * 2, d = part[0] - row[2 * g];
            const double e = (double)min(a.chunk, a.pixels - k * a.chunk) * width;
            s += e * d;
            q += part[1] + e * d * d;
        }
        t1[threadIdx.x] = s;
        t2[threadIdx.x] = q;
        __syncthreads();
        if (lane == 0 && g < a.groups) {
            s = q = 0;
            for (int k = 0; k < LANES; k++) {
                s += t1[threadIdx.x + k];
                q += t2[threadIdx.x + k];
            }
            const double d = s / n, mean = row[2 * g] + d, var = q / n - d * d;
            const double inv = 1 / sqrt((var < 0 ? 0 : var) + (double)a.eps);
            for (int j = g * width; j < (g + 1) * width; j++) {
                m[j] = (float)mean;
                m[a.c + j] = (float)(inv * a.gamma[j]);
                m[2 * a.c + j] =
                    (float)((double)a.beta[j] - (mean - (double)(float)mean) * inv * a.gamma[j]);
            }
        }
        __syncthreads();
    }
}

/* Block x: chunk, y: row. Mean and sum of squared deviations of each group in the chunk; of a row
 * the block that is done last goes on to what they are together. Registers: 64. */
template <class T>
__global__ void __launch_bounds__(THREADS) moments_kernel(const gpu_group_norm a, const bool whole)
{
    DYN_SHARED(shared); /* all of it: shared_allow does not count what is static */
    bool *last = (bool *)(shared + 2 * THREADS * sizeof(double));
    const gn_share w(a.c);
    float *sum = (float *)shared, *square = sum + w.down * a.c, *mean = square + w.down * a.c;
    const int64_t row = a.first + blockIdx.y, at = (int64_t)blockIdx.x * a.chunk;
    const int64_t first = row * a.pixels + at;
    const int pixels = (int)min(a.chunk, a.pixels - at), width = a.c / a.groups;
    gn_sums<T, false>(a, w, first, pixels, whole, nullptr, sum, nullptr);
    __syncthreads();
    const float count = (float)pixels * (float)width;
    for (int g = threadIdx.x; g < a.groups; g += THREADS) {
        float s = 0;
        for (int i = 0; i < w.down; i++)
            for (int k = g * width; k < (g + 1) * width; k++) s += sum[i * a.c + k];
        mean[g] = s / count;
    }
    __syncthreads();
    gn_sums<T, true>(a, w, first, pixels, whole, mean, sum, square);
    __syncthreads();
    double *out = a.partials + (row * a.chunks + blockIdx.x) * a.groups * 2;
    for (int g = threadIdx.x; g < a.groups; g += THREADS) {
        double s = 0, q = 0;
        for (int i = 0; i < w.down; i++)
            for (int k = g * width; k < (g + 1) * width; k++) {
                s += (double)sum[i * a.c + k];
                q += (double)square[i * a.c + k];
            }
        out[2 * g] = (double)mean[g] + s / (double)count;
        out[2 * g + 1] = q - s * s / (double)count;
    }
    __syncthreads();
    if (threadIdx.x == 0) *last = arrive_last(a.arrived + blockIdx.y, (unsigned)a.chunks);
    __syncthreads();
    if (*last) gn_params(a, row, (double *)shared);
}

/* Block x: chunk, y: row. Registers: 48. */
template <class T>
__global__ void __launch_bounds__(THREADS) apply_kernel(const gpu_group_norm a, const bool whole)
{
    const int64_t first = (int64_t)blockIdx.x * a.chunk, row = a.first + blockIdx.y;
    const int pixels = (int)min(a.chunk, a.pixels - first), eights = (a.c + 7) / 8;
    const int64_t at = (row * a.pixels + first) * a.c;
    const float *m = a.params + row * 3 * a.c;
    const T *x = (const T *)(a.cat ? a.cat : a.x);
    const bool even = a.c % 8 == 0; /* so that channels of f32 parameters lie on 16 bytes */
    for (int i = threadIdx.x; i < pixels * eights; i += THREADS) {
        const int p = i / eights, j = i % eights * 8, n = min(8, a.c - j);
        const int64_t e = at + (int64_t)p * a.c + j;
        float v[8], mean[8], f[8], b[8];
        load8(v, x + e, n, whole);
        load8(mean, m + j, n, even);
        load8(f, m + a.c + j, n, even);
        load8(b, m + 2 * a.c + j, n, even);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            v[k] = fmaf(v[k] - mean[k], f[k], b[k]);
            if (a.silu) v[k] = act_silu(v[k]);
        }
        store8((T *)a.y + e, v, n, whole);
    }
}

/* ---------------------------------------------------------------- the same in one launch */

/* V channels of a pixel, in one access where they lie on their size. */
template <class T, int V> struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) gn_unit {
    T e[V];
};

/* A group's units, every blockDim.x-th from the thread's own on, pixel after pixel. */
template <class T, int V> struct gn_walk {
    const gpu_group_norm &a;
    int64_t row;                    /* its first pixel */
    int first, units, across, down; /* channel of the group; units of a pixel; a step in both */
    int unit, pixel;
    bool whole;
    __device__ gn_walk(const gpu_group_norm &args, bool aligned, int steps) : a(args)
    {
        const int width = a.c / a.groups, step = steps * (int)blockDim.x;
        row = (int64_t)blockIdx.y * a.pixels;
        first = (int)blockIdx.x * width;
        units = width / V;
        across = step % units;
        down = step / units;
        unit = (int)threadIdx.x % units;
        pixel = (int)threadIdx.x / units;
        whole = aligned;
    }
    __device__ bool more() const { return pixel < a.pixels; }
    __device__ void next()
    {
        unit += across;
        pixel += down;
        if (unit >= units) unit -= units, pixel++;
    }
    __device__ int channel() const { return first + unit * V; }
    __device__ int64_t place() const /* in y */ { return (row + pixel) * a.c + channel(); }
    __device__ gn_unit<T, V> load() const
    {
        const int j = channel(), c2 = a.c - a.c1;
        const T *p = j < a.c1 ? (const T *)a.x + (row + pixel) * a.c1 + j
                              : (const T *)a.x2 + (row + pixel) * c2 + (j - a.c1);
        if (whole) return *(const gn_unit<T, V> *)p;
        gn_unit<T, V> u;
#pragma unroll
        for (int k = 0; k < V; k++) u.e[k] = p[k];
        return u;
    }
    __device__ void store(void *to, int64_t at, const gn_unit<T, V> &u) const
    {
        T *p = (T *)to + at;
        if (whole) {
            *(gn_unit<T, V> *)p = u;
            return;
        }
#pragma unroll
        for (int k = 0; k < V; k++) p[k] = u.e[k];
    }
};

/* The sums of s and q over the block, in thread 0 to 31 of it. room: [2 * threads] */
PRIM void gn_block_sum(float s, float q, float *room, double &sum, double &square)
{
    const int n = blockDim.x, t = threadIdx.x;
    room[t] = s;
    room[n + t] = q;
    __syncthreads();
    if (t >= 32) return;
    sum = (double)s;
    square = (double)q;
    for (int i = t + 32; i < n; i += 32) {
        sum += (double)room[i];
        square += (double)room[n + i];
    }
    for (int d = 16; d; d >>= 1) {
        sum += __shfl_xor_sync(WHOLE_WARP, sum, d);
        square += __shfl_xor_sync(WHOLE_WARP, square, d);
    }
}

/* About the mean of the block's group: that of every LOOKth unit. Deviations from it lose little:
 * what is seen is a LOOKth of all at least, so its mean is at most sqrt(LOOK) standard deviations
 * off.
 */
#define LOOK 16
template <class T, int V>
PRIM float gn_about(const gpu_group_norm &a, bool whole, float *room, float *found)
{
    float s = 0;
    double sum = 0, square = 0;
    for (gn_walk<T, V> w(a, whole, LOOK); w.more(); w.next()) {
        const gn_unit<T, V> u = w.load();
#pragma unroll
        for (int k = 0; k < V; k++) s += value_of(u.e[k]);
    }
    gn_block_sum(s, 0, room, sum, square);
    if (threadIdx.x == 0) {
        const int n = blockDim.x, all = (int)a.pixels * (a.c / a.groups / V);
        *found = (float)(sum / (double)((all / (LOOK * n) * n + min(all % (LOOK * n), n)) * V));
    }
    __syncthreads();
    return *found;
}

/* Block x: a group, y: row. y = (x - m) f + b by channel, as in gn_params; what V and the
 * number of threads are follows from the layer. Registers: 64. */
template <class T, int V>
__global__ void __launch_bounds__(512) whole_kernel(const gpu_group_norm a, const bool whole)
{
    DYN_SHARED(shared);
    __shared__ float about, mean, lost, inverse;
    const int n = blockDim.x, width = a.c / a.groups, batch = V < 4 ? 8 : 16 / V;
    float *room = (float *)shared, *f = room + 4 * n, *b = f + width;
    const float m = gn_about<T, V>(a, whole, room, &about);
    float s[V] = {0}, q[V] = {0};
#pragma unroll 4
    for (gn_walk<T, V> w(a, whole, 1); w.more(); w.next()) {
        const gn_unit<T, V> u = w.load();
#pragma unroll
        for (int k = 0; k < V; k++) {
            const float d = value_of(u.e[k]) - m;
            s[k] += d;
            q[k] = fmaf(d, d, q[k]);
        }
    }
#pragma unroll
    for (int k = 1; k < V; k++) s[0] += s[k], q[0] += q[k];
    double sum = 0, square = 0;
    gn_block_sum(s[0], q[0], room + 2 * n, sum, square);
    if (threadIdx.x == 0) {
        const double count = (double)a.pixels * width, d = sum / count,
                     var = square / count - d * d;
        mean = (float)((double)m + d);
        lost = (float)((double)m + d - (double)mean);
        inverse = (float)(1 / sqrt((var < 0 ? 0 : var) + (double)a.eps));
    }
    __syncthreads();
    for (int k = threadIdx.x; k < width; k += n) {
        const int j = (int)blockIdx.x * width + k;
        f[k] = inverse * a.gamma[j];
        b[k] = a.beta[j] - lost * f[k];
    }
    __syncthreads();
    gn_walk<T, V> w(a, whole, 1);
    while (w.more()) {
        gn_walk<T, V> ahead = w;
        gn_unit<T, V> u[batch];
#pragma unroll
        for (int i = 0; i < batch; i++) {
            if (ahead.more()) u[i] = ahead.load();
            ahead.next();
        }
#pragma unroll
        for (int i = 0; i < batch; i++, w.next()) {
            if (!w.more()) continue;
            if (a.cat) w.store(a.cat, w.place(), u[i]);
            const int j = w.unit * V;
#pragma unroll
            for (int k = 0; k < V; k++) {
                const float v = fmaf(value_of(u[i].e[k]) - mean, f[j + k], b[j + k]);
                put(&u[i].e[k], a.silu ? act_silu(v) : v);
            }
            w.store(a.y, w.place(), u[i]);
        }
    }
}

template <class T, int V> static int whole_by(const gpu_group_norm *a, gpu_stream s)
{
    const dim3 grid((unsigned)a->groups, (unsigned)a->rows);
    const size_t shared = (4 * (size_t)a->threads + 2 * (size_t)(a->c / a->groups)) * sizeof(float);
    const uintptr_t all = (uintptr_t)a->x | (uintptr_t)a->x2 | (uintptr_t)a->y | (uintptr_t)a->cat;
    const bool whole = all % alignof(gn_unit<T, V>) == 0;
    KLAUNCH((whole_kernel<T, V>), grid, (unsigned)a->threads, shared, s)(*a, whole);
    return cudaGetLastError();
}

template <class T> static int whole_as(const gpu_group_norm *a, gpu_stream s)
{
    const int both = a->c / a->groups | a->c1;
    if (both % 8 == 0) return whole_by<T, 8>(a, s);
    if (both % 4 == 0) return whole_by<T, 4>(a, s);
    return both % 2 == 0 ? whole_by<T, 2>(a, s) : whole_by<T, 1>(a, s);
}

/* ---------------------------------------------------------------- which of the two */

template <class T> static int group_norm_as(const gpu_group_norm *all, gpu_stream s)
{
    if (all->threads) return whole_as<T>(all, s);
    gpu_group_norm a = *all;
    const gn_share w(a.c);
    const size_t sums = (2 * (size_t)w.down * (size_t)a.c + (size_t)a.groups) * sizeof(float);
    const size_t after = 2 * THREADS * sizeof(double) + sizeof(bool); /* in the place of the sums */
    const size_t shared = sums > after ? sums : after;
    const bool even = a.c % 8 == 0 && a.c1 % 8 == 0;
    const bool whole = even && aligned16(a.x) && aligned16(a.x2) && aligned16(a.cat);
    const bool alike = a.c % 8 == 0 && aligned16(a.cat ? a.cat : a.x) && aligned16(a.y);
    static shared_limit limit;
    const int e = shared_allow(limit, moments_kernel<T>, (int)shared);
    if (e) return e;
    for (; a.first < a.rows; a.first += GPU_ARRIVALS) {
        const int64_t left = a.rows - a.first;
        const dim3 grid((unsigned)a.chunks, (unsigned)(left < GPU_ARRIVALS ? left : GPU_ARRIVALS));
        KLAUNCH(moments_kernel<T>, grid, THREADS, shared, s)(a, whole);
        KLAUNCH(apply_kernel<T>, grid, THREADS, 0, s)(a, alike);
    }
    return cudaGetLastError();
}

extern "C" int GPU(group_norm)(const gpu_group_norm *a, gpu_stream s)
{
    return a->type == GPU_BF16 ? group_norm_as<bf16>(a, s) : group_norm_as<float>(a, s);
}

/* ---------------------------------------------------------------- layer norm, RMS norm */

/* The sum over the W warps that share a row; the same in all of their threads. */
template <int W> PRIM float row_sum(float v, float *shared)
{
#pragma unroll
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    if (W == 1) return v;
    __syncthreads(); /* the last sum has been read */
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < W; i++) v += shared[i];
    return v;
}

/* W warps take a row: thread i elements 8 i .. 8 i + 7, then those 256 W further on. With one warp
 * a row a block has four rows. Registers: 40. */
template <class T, int W>
__global__ void __launch_bounds__(W == 1 ? 128 : 32 * W)
    row_norm_kernel(const gpu_row_norm a, const bool whole)
{
    __shared__ float shared[W];
    const int64_t row = W == 1 ? (int64_t)blockIdx.x * 4 + threadIdx.x / 32 : (int64_t)blockIdx.x;
    const int first = 8 * (W == 1 ? threadIdx.x % 32 : threadIdx.x), step = 256 * W;
    if (row >= a.rows) return;
    const T *x = (const T *)a.x + row * a.c;
    T *y = (T *)a.y + row * a.c;
    const float n = (float)a.c;
    float v[8], s = 0, q = 0, m = 0;
    if (!a.rms) {
        for (int j = first; j < a.c; j += step) {
            load8(v, x + j, a.c - j, whole);
#pragma unroll
            for (int k = 0; k < 8; k++) s += v[k];
        }
        m = row_sum<W>(s, shared) / n;
        s = 0;
    }
    for (int j = first; j < a.c; j += step) {
        load8(v, x + j, a.c - j, whole);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const float d = j + k < a.c ? v[k] - m : 0.0f;
            s += d;
            q = fmaf(d, d, q);
        }
    }
    q = row_sum<W>(q, shared);
    if (!a.rms) {
        s = row_sum<W>(s, shared);
        m += s / n;
        q -= s * (s / n);
    }
    const float inv = 1.0f / sqrtf(fmaxf(q / n, 0.0f) + a.eps);
    for (int j = first; j < a.c; j += step) {
        float g[8], b[8];
        load8(v, x + j, a.c - j, whole);
        load8(g, a.gamma + j, a.c - j, whole);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = (v[k] - m) * inv * g[k];
        if (a.beta) {
            load8(b, a.beta + j, a.c - j, whole);
#pragma unroll
            for (int k = 0; k < 8; k++) v[k] += b[k];
        }
        store8(y + j, v, a.c - j, whole);
    }
}

template <class T, int W>
static int row_norm_by(const gpu_row_norm *a, unsigned blocks, gpu_stream s)
{
    const bool whole = aligned16(a->x) && aligned16(a->y) && aligned16(a->gamma) &&
                       aligned16(a->beta) && a->c % 8 == 0;
    KLAUNCH((row_norm_kernel<T, W>), blocks, W == 1 ? 128 : 32 * W, 0, s)(*a, whole);
    return cudaGetLastError();
}

template <class T> static int row_norm_as(const gpu_row_norm *a, gpu_stream s)
{
    return a->c <= 1024 ? row_norm_by<T, 1>(a, (unsigned)((a->rows + 3) / 4), s)
                        : row_norm_by<T, 8>(a, (unsigned)a->rows, s);
}

extern "C" int GPU(row_norm)(const gpu_row_norm *a, gpu_stream s)
{
    return a->type == GPU_BF16 ? row_norm_as<bf16>(a, s) : row_norm_as<float>(a, s);
}
