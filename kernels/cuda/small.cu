/* small.cu: rows moved, embeddings, latents gathered: a few launches a step, bound by memory. */
#include "blocks.cuh"
#include "values.cuh"

#define THREADS 128

/* ---------------------------------------------------------------- rows */

/* Block x, y: row, piece of 128 units of it. A unit is the widest that everything lies on.
 * Registers: 32. */
template <class Unit> __global__ void __launch_bounds__(THREADS) move_kernel(const gpu_move a)
{
    const int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x, r = blockIdx.x;
    if (i * (int64_t)sizeof(Unit) >= a.width) return;
    int64_t from = r * a.step;
    if (a.index)
        from += a.index_bytes == 8 ? ((const int64_t *)a.index)[r] : ((const int32_t *)a.index)[r];
    ((Unit *)((char *)a.y + r * a.y_pitch))[i] =
        ((const Unit *)((const char *)a.x + from * a.x_pitch))[i];
}

template <class Unit> static int move_as(const gpu_move *a, gpu_stream s)
{
    const int64_t units = a->width / (int64_t)sizeof(Unit);
    const dim3 grid((unsigned)a->rows, (unsigned)((units + THREADS - 1) / THREADS));
    KLAUNCH(move_kernel<Unit>, grid, THREADS, 0, s)(*a);
    return cudaGetLastError();
}

extern "C" int GPU(move_rows)(const gpu_move *a, gpu_stream s)
{
    const uintptr_t all = (uintptr_t)a->x | (uintptr_t)a->y | (uintptr_t)a->width |
                          (uintptr_t)a->x_pitch | (uintptr_t)a->y_pitch;
    if (all % 16 == 0) return move_as<uint4>(a, s);
    return all % 4 == 0 ? move_as<uint32_t>(a, s) : move_as<uint16_t>(a, s);
}

/* ---------------------------------------------------------------- embeddings */

PRIM float table_value(const gpu_embedding &a, int64_t id, int64_t e)
{
    if (a.table_type == GPU_F32) return ((const float *)a.table)[id * a.c + e];
    if (a.table_type == GPU_BF16) return value_of(((const bf16 *)a.table)[id * a.c + e]);
    const int64_t row = a.c / block_elements(a.table_type) * block_bytes(a.table_type);
    return block_value(a.table_type, (const uint8_t *)a.table + id * row, e);
}

/* Block: a token. Registers: 40. */
template <class T>
__global__ void __launch_bounds__(THREADS) embedding_kernel(const gpu_embedding a)
{
    const int64_t i = blockIdx.x, at = i % a.period * a.c;
    const int32_t id = a.ids[i];
    const bool known = id >= 0 && id < a.vocabulary;
    if (!known && threadIdx.x == 0)
        atomicMax(&a.flags->bad_id, ~((unsigned long long)i << 32 | (uint32_t)id));
    for (int64_t e = threadIdx.x; e < a.c; e += THREADS) {
        float v = known ? table_value(a, id, e) : 0.0f;
        if (a.pos)
            v += a.pos_type == GPU_BF16 ? value_of(((const bf16 *)a.pos)[at + e])
                                        : ((const float *)a.pos)[at + e];
        put((T *)a.y + i * a.c + e, v);
    }
}

template <class T> static int embedding_as(const gpu_embedding *a, gpu_stream s)
{
    KLAUNCH(embedding_kernel<T>, (unsigned)a->tokens, THREADS, 0, s)(*a);
    return cudaGetLastError();
}

extern "C" int GPU(embedding)(const gpu_embedding *a, gpu_stream s)
{
    return a->y_type == GPU_BF16 ? embedding_as<bf16>(a, s) : embedding_as<float>(a, s);
}

/* In f32 operation by operation as diffusers has it, with exp, sin and cos in double: at t near
 * 1000 the f32 angle is off by 1e-5, and the model was trained with exactly that. Block: a row.
 * Registers: 40. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    timestep_kernel(const float *t, bool flip, float shift, float scale, T *y, int64_t dim)
{
    const float log_period = 9.210340371976184f; /* ln 10000 */
    const int64_t half = dim / 2, r = blockIdx.x;
    for (int64_t i = threadIdx.x; i < half; i += THREADS) {
        const float exponent = -log_period * (float)i / ((float)half - shift);
        const float frequency = (float)exp((double)exponent);
        const double angle = (double)(scale * (t[r] * frequency));
        const float si = (float)sin(angle), co = (float)cos(angle);
        put(y + r * dim + i, flip ? co : si);
        put(y + r * dim + half + i, flip ? si : co);
    }
    if (dim % 2 && threadIdx.x == 0) put(y + r * dim + dim - 1, 0.0f);
}

template <class T>
static int timestep_as(const float *t, bool flip, float shift, float scale, T *y, int64_t rows,
                       int64_t dim, gpu_stream s)
{
    KLAUNCH(timestep_kernel<T>, (unsigned)rows, THREADS, 0, s)(t, flip, shift, scale, y, dim);
    return cudaGetLastError();
}

extern "C" int GPU(timestep_embedding)(const float *t, bool flip, float shift, float scale, void *y,
                                       int type, int64_t rows, int64_t dim, gpu_stream s)
{
    return type == GPU_BF16 ? timestep_as(t, flip, shift, scale, (bf16 *)y, rows, dim, s)
                            : timestep_as(t, flip, shift, scale, (float *)y, rows, dim, s);
}
