/* rows.cu: rows of a packed weight as numbers again, where a tied head is the table of embeddings:
 * to the bit what an_embedding reads from the tensor that was packed. */
#include "tile.cuh"

/* Value e of a row, in gpu_blocks' planes; sums and products as base/quant.c writes them. */
PRIM float block_number(const gpu_blocks &w, int row, int e)
{
    const int block = e >> 5, half = e >> 4 & 1, t = e >> 2 & 3, i = e & 3;
    const size_t group = (size_t)(row >> 3) * (size_t)w.groups + (size_t)(block >> 2);
    const size_t at = (group * 32 + (size_t)((row & 7) * 4 + t)) * 4 + (size_t)(block & 3);
    int q;
    if (w.bits == 8) {
        q = (int8_t)((half ? w.high : w.low)[at] >> 8 * i);
    } else {
        q = (int)(w.low[at] >> (8 * i + 4 * half) & 15u);
        if (w.bits == 5) q |= (((const uint8_t *)w.high)[at] >> (4 * half + i) & 1) << 4;
        if (w.bits == 6) q |= (((const uint16_t *)w.high)[at] >> (8 * half + 2 * i) & 3) << 4;
    }
    const uint32_t scale = w.scale[(group * 8 + (size_t)(row & 7)) * 4 + (size_t)(block & 3)];
    uint32_t dm = scale;
    float s = 1.0f, f = 1.0f;
    if (w.super) {
        const size_t pairs = (size_t)(row >> 3) * (size_t)((w.groups + 1) >> 1);
        dm = w.super[(pairs + (size_t)(block >> 3)) * 8 + (size_t)(row & 7)];
        s = (float)(int8_t)(scale >> 8 * half);
        f = (float)(int8_t)(scale >> (16 + 8 * half));
    }
    const float d = __half2float(__ushort_as_half((unsigned short)(dm & 0xffffu)));
    const float v = __fmul_rn(__fmul_rn(d, s), (float)(q - w.offset));
    if (!w.minimum) return v;
    const float m = __half2float(__ushort_as_half((unsigned short)(dm >> 16)));
    return __fadd_rn(v, __fmul_rn(m, f));
}

/* A block a token. Registers: 40. */
__global__ void __launch_bounds__(128) weight_rows_kernel(const __grid_constant__ gpu_weight_rows a)
{
    const int i = (int)blockIdx.x, n = a.blocks.low ? a.blocks.n : a.plain.n, id = a.ids[i];
    const bool known = id >= 0 && id < n;
    if (!known && threadIdx.x == 0)
        atomicMax(&a.flags->bad_id, ~((unsigned long long)i << 32 | (uint32_t)id));
    for (int e = (int)threadIdx.x; e < a.k; e += 128) {
        float v = 0.0f;
        if (known && a.blocks.low)
            v = block_number(a.blocks, id, e);
        else if (known)
            v = float_at(a.plain.w, a.plain.dtype, (size_t)id * (size_t)a.plain.pitch + (size_t)e);
        put_at(a.y, a.y_dtype, (size_t)i * (size_t)a.k + (size_t)e, v);
    }
}

int GPU(weight_rows)(const gpu_weight_rows *a, gpu_stream stream)
{
    KLAUNCH(weight_rows_kernel, dim3((unsigned)a->tokens), 128, 0, stream)(*a);
    return (int)cudaGetLastError();
}
