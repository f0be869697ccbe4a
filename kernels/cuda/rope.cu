/* rope.cu: rotary position embedding (Su et al. 2021), in place. The angle is an f32 product, as
 * transformers has it. */
#include "values.cuh"

/* Block x: a token; a thread: a pair of a head. Registers: 32. */
template <class T> __global__ void __launch_bounds__(128) rope(const gpu_rope a)
{
    const int half = a.rot_dim / 2, at = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (at >= a.heads * half) return;
    const int head = at / half, i = at % half;
    const float angle = __fmul_rn((float)a.pos[blockIdx.x], a.inv_freq[i]);
    const float c = cosf(angle) * a.mscale, s = sinf(angle) * a.mscale;
    T *x = (T *)a.x + blockIdx.x * a.stride + (int64_t)head * a.head_dim;
    T *p = x + (a.interleaved ? 2 * i : i), *q = a.interleaved ? p + 1 : p + half;
    const float u = value_of(*p), v = value_of(*q);
    put(p, fmaf(u, c, -__fmul_rn(v, s)));
    put(q, fmaf(v, c, __fmul_rn(u, s)));
}

extern "C" int GPU(rope)(const gpu_rope *a, gpu_stream stream)
{
    const int pairs = a->heads * (a->rot_dim / 2);
    const dim3 grid((unsigned)a->tokens, (unsigned)((pairs + 127) / 128));
    if (a->dtype == GPU_BF16)
        KLAUNCH(rope<bf16>, grid, 128, 0, stream)(*a);
    else
        KLAUNCH(rope<float>, grid, 128, 0, stream)(*a);
    return (int)cudaGetLastError();
}
