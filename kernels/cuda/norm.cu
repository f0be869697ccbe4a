/* norm.cu: group norm (with SiLU), layer norm and RMS norm. What is added to what, and in which
 * order, follows from the shape of a row alone. Variances are taken around an approximate mean that
 * a first look gives (the second look finds the data in the cache): nothing is lost however far
 * from zero they lie. */
#include "act.cuh"
#include "values.cuh"

#define THREADS 256
#define LANES   8 /* lanes of a group in params_kernel */

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

/* Sums of every channel over the pixels of a chunk, `down` partial ones of each, into sum[down][c]
 * and (if `around` is there: x minus that) of the squares into square[down][c]. */
template <class T>
PRIM void gn_sums(const gpu_group_norm &a, const gn_share &w, const T *x, int pixels, bool whole,
                  const float *around, float *sum, float *square)
{
    const int ty = threadIdx.x / w.across, tx = threadIdx.x % w.across, width = a.c / a.groups;
    if (ty >= w.down) return;
    for (int j = tx; j < w.eights; j += w.across) {
        float s[8] = {0}, q[8] = {0}, v[8], m[8];
        const int n = min(8, a.c - 8 * j);
#pragma unroll
        for (int k = 0; k < 8; k++) m[k] = around && k < n ? around[(8 * j + k) / width] : 0.0f;
        for (int p = ty; p < pixels; p += w.down) {
            load8(v, x + (int64_t)p * a.c + 8 * j, n, whole);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                const float d = v[k] - m[k];
                s[k] += d;
                q[k] = fmaf(d, d, q[k]);
            }
        }
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (k < n) {
                sum[ty * a.c + 8 * j + k] = s[k];
                if (square) square[ty * a.c + 8 * j + k] = q[k];
            }
    }
}

/* Block x: chunk, y: row. Mean and sum of squared deviations of each group in the chunk.
 * Registers: 64. */
template <class T>
__global__ void __launch_bounds__(THREADS) moments_kernel(const gpu_group_norm a, const bool whole)
{
    DYN_SHARED(shared);
    const gn_share w(a.c);
    float *sum = (float *)shared, *square = sum + w.down * a.c, *mean = square + w.down * a.c;
    const int64_t first = (int64_t)blockIdx.x * a.chunk;
    const int pixels = (int)min(a.chunk, a.pixels - first), width = a.c / a.groups;
    const T *x = (const T *)a.x + ((int64_t)blockIdx.y * a.pixels + first) * a.c;
    gn_sums(a, w, x, pixels, whole, (const float *)nullptr, sum, (float *)nullptr);
    __syncthreads();
    const float count = (float)pixels * (float)width;
    for (int g = threadIdx.x; g < a.groups; g += THREADS) {
        float s = 0;
        for (int i = 0; i < w.down; i++)
            for (int k = g * width; k < (g + 1) * width; k++) s += sum[i * a.c + k];
        mean[g] = s / count;
    }
    __syncthreads();
    gn_sums(a, w, x, pixels, whole, mean, sum, square);
    __syncthreads();
    double *out = a.partials + ((int64_t)blockIdx.y * a.chunks + blockIdx.x) * a.groups * 2;
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
}

/* Block: a row. The chunks' moments, added around the first chunk's mean (Chan, Golub and LeVeque
 * 1983), become y = (x - m) a + b per channel; m is the mean in f32, b carries what that lost.
 * LANES lanes of a group add every LANES-th chunk, then the lanes are added in order.
 * Registers: 48. */
__global__ void __launch_bounds__(THREADS) params_kernel(const gpu_group_norm a)
{
    __shared__ double t1[THREADS], t2[THREADS];
    const int per = THREADS / LANES, lane = threadIdx.x % LANES, width = a.c / a.groups;
    const double *row = a.partials + (int64_t)blockIdx.x * a.chunks * a.groups * 2;
    const double n = (double)a.pixels * width;
    float *m = a.params + (int64_t)blockIdx.x * 3 * a.c;
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

/* Block x: chunk, y: row. Registers: 48. */
template <class T>
__global__ void __launch_bounds__(THREADS) apply_kernel(const gpu_group_norm a, const bool whole)
{
    const int64_t first = (int64_t)blockIdx.x * a.chunk;
    const int pixels = (int)min(a.chunk, a.pixels - first), eights = (a.c + 7) / 8;
    const int64_t at = ((int64_t)blockIdx.y * a.pixels + first) * a.c;
    const float *m = a.params + (int64_t)blockIdx.y * 3 * a.c;
    const bool even = a.c % 8 == 0; /* so that channels of f32 parameters lie on 16 bytes */
    for (int i = threadIdx.x; i < pixels * eights; i += THREADS) {
        const int p = i / eights, j = i % eights * 8, n = min(8, a.c - j);
        const int64_t e = at + (int64_t)p * a.c + j;
        float v[8], mean[8], f[8], b[8];
        load8(v, (const T *)a.x + e, n, whole);
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

template <class T> static int group_norm_as(const gpu_group_norm *a, gpu_stream s)
{
    const gn_share w(a->c);
    const dim3 grid((unsigned)a->chunks, (unsigned)a->rows);
    const size_t shared = (2 * (size_t)w.down * (size_t)a->c + (size_t)a->groups) * sizeof(float);
    const bool whole = aligned16(a->x) && aligned16(a->y) && a->c % 8 == 0;
    static shared_limit limit;
    const int e = shared_allow(limit, moments_kernel<T>, (int)shared);
    if (e) return e;
    KLAUNCH(moments_kernel<T>, grid, THREADS, shared, s)(*a, whole);
    KLAUNCH(params_kernel, (unsigned)a->rows, THREADS, 0, s)(*a);
    KLAUNCH(apply_kernel<T>, grid, THREADS, 0, s)(*a, whole);
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
