/* act.cuh: the activations of ops.h, in f32, as the reference defines them. Sums are __fadd_rn,
 * which nvcc never fuses with a product: wherever these are inlined, the bits are the same. */
#ifndef ANNEAL_ACT_CUH
#define ANNEAL_ACT_CUH

#include "gpu.cuh"

PRIM float act_silu(float v)
{
    return v / __fadd_rn(1.0f, expf(-v));
}
PRIM float act_gelu(float v)
{
    return 0.5f * v * __fadd_rn(1.0f, erff(v * 0.70710678f));
}
PRIM float act_gelu_tanh(float v)
{
    return 0.5f * v * __fadd_rn(1.0f, tanhf(0.79788456f * fmaf(0.044715f * v * v, v, v)));
}

/* The ones that take one value. A NaN stays one. */
PRIM float act_one(int act, float v)
{
    switch (act) {
    case GPU_ACT_SILU:
        return act_silu(v);
    case GPU_ACT_GELU:
        return act_gelu(v);
    case GPU_ACT_GELU_TANH:
        return act_gelu_tanh(v);
    case GPU_ACT_QUICK_GELU:
        return v / __fadd_rn(1.0f, expf(-1.702f * v));
    case GPU_ACT_RELU:
        return v < 0.0f ? 0.0f : v;
    default:
        return v;
    }
}

/* The gated ones: v of the first half of the columns, w of the second. */
PRIM float act_gated(int act, float v, float w)
{
    if (act == GPU_ACT_GEGLU) return v * act_gelu(w);
    return (act == GPU_ACT_SWIGLU ? act_silu(v) : act_gelu_tanh(v)) * w;
}

#endif
