/* moe.cu: which experts a token goes to, rows grouped by expert, and their results added up.
 * Nothing here is read back by the host; the products in between take an expert's rows from
 * `range`. */
#include "tile.cuh"

/* A warp a token. Round i takes the largest logit below that of round i - 1, or the next expert
 * with the same. Registers: 40. */
__global__ void __launch_bounds__(128)
    choose_kernel(const float *logits, int tokens, int experts, int top_k, bool over_all,
                  int32_t *expert, float *weight)
{
    const int t = (int)blockIdx.x * 4 + (int)(threadIdx.x >> 5), lane = (int)threadIdx.x & 31;
    if (t >= tokens) return; /* the whole warp */
    const float *v = logits + (size_t)t * (size_t)experts;
    int32_t *const chosen = expert + (size_t)t * (size_t)top_k;
    float *const w = weight + (size_t)t * (size_t)top_k;
    float last = INFINITY, top = 0, by = 0;
    int last_at = -1;
    for (int i = 0; i < top_k; i++) {
        float best = -INFINITY;
        int at = experts;
        for (int e = lane; e < experts; e += 32) {
            const float x = v[e] == v[e] ? v[e] : -INFINITY;
            const bool left = x < last || (x == last && e > last_at);
            if (left && (at == experts || x > best)) best = x, at = e;
        }
#pragma unroll
        for (int d = 16; d > 0; d >>= 1) {
            const float x = __shfl_xor_sync(WHOLE_WARP, best, d);
            const int e = __shfl_xor_sync(WHOLE_WARP, at, d);
            if (e < experts && (at == experts || x > best || (x == best && e < at)))
                best = x, at = e;
        }
        last = best, last_at = at;
        if (i == 0) top = v[at];
        const float part = expf(v[at] - top);
        by += part;
        if (lane == 0) chosen[i] = at, w[i] = part;
    }
    if (over_all) {
        by = 0;
        for (int e = lane; e < experts; e += 32) by += expf(v[e] - top);
#pragma unroll
        for (int d = 16; d > 0; d >>= 1) by += __shfl_xor_sync(WHOLE_WARP, by, d);
    }
    __syncwarp();
    for (int i = lane; i < top_k; i += 32) w[i] = w[i] / by;
}

int GPU(moe_choose)(const float *logits, int tokens, int experts, int top_k, bool over_all,
                    int32_t *expert, float *weight, gpu_stream stream)
{
    KLAUNCH(choose_kernel, dim3((unsigned)(tokens + 3) / 4), 128, 0, stream)
    (logits, tokens, experts, top_k, over_all, expert, weight);
    return (int)cudaGetLastError();
}

/* A warp an expert: it counts the choices of those before it, then numbers its own.
 * Registers: 48. */
__global__ void __launch_bounds__(32) group_kernel(const int32_t *expert, int choices, int top_k,
                                                   int32_t *place, int32_t *token, int32_t *range)
{
    const int me = (int)blockIdx.x, lane = (int)threadIdx.x;
    int before = 0, mine = 0;
    for (int i = lane; i < choices; i += 32) {
        before += expert[i] < me;
        mine += expert[i] == me;
    }
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
        before += __shfl_xor_sync(WHOLE_WARP, before, d);
        mine += __shfl_xor_sync(WHOLE_WARP, mine, d);
    }
    if (lane == 0) range[2 * me] = before, range[2 * me + 1] = before + mine;
    for (int first = 0; first < choices; first += 32) {
        const int i = first + lane;
        const bool is = i < choices && expert[i] == me;
        const uint32_t all = __ballot_sync(WHOLE_WARP, is);
        if (is) {
            const int row = before + __popc(all & ((1u << lane) - 1));
            place[i] = row;
            token[row] = i / top_k;
        }
        before += __popc(all);
    }
}

int GPU(moe_group)(const int32_t *expert, int choices, int experts, int top_k, int32_t *place,
                   int32_t *token, int32_t *range, gpu_stream stream)
{
    KLAUNCH(group_kernel, dim3((unsigned)experts), 32, 0, stream)
    (expert, choices, top_k, place, token, range);
    return (int)cudaGetLastError();
}

/* A block a token. Registers: 32. */
__global__ void __launch_bounds__(256)
    combine_kernel(const float *rows, const int32_t *place, const float *weight, int top_k, int c,
                   const void *residual, void *y, int y_dtype)
{
    const size_t t = blockIdx.x;
    for (int e = (int)threadIdx.x; e < c; e += 256) {
        float sum = 0.0f;
        for (int i = 0; i < top_k; i++) {
            const size_t choice = t * (size_t)top_k + (size_t)i;
            sum = fmaf(weight[choice], rows[(size_t)place[choice] * (size_t)c + (size_t)e], sum);
        }
        const size_t at = t * (size_t)c + (size_t)e;
        if (residual) sum += float_at(residual, y_dtype, at);
        put_at(y, y_dtype, at, sum);
    }
}

int GPU(moe_combine)(const float *rows, const int32_t *place, const float *weight, int tokens,
                     int top_k, int c, const void *residual, void *y, int y_dtype,
                     gpu_stream stream)
{
    KLAUNCH(combine_kernel, dim3((unsigned)tokens), 256, 0, stream)
    (rows, place, weight, top_k, c, residual, y, y_dtype);
    return (int)cudaGetLastError();
}
