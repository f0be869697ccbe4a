/* planted_hopper.cuh: kernels with one bug each in what compute capability 9.0 has, and one
 * without: y [64,64] = x [64,k] * w [64,k]^T, 64 of k a step, through a ring of two stages. The
 * first warp of four more brings tiles by TMA; four warps multiply. */
#include "hopper.cuh"

enum Hopper {
    HOPPER_RIGHT,
    NO_EMPTY_WAIT, /* a stage is written while it is read */
    NO_FULL_WAIT,  /* and read before it is there */
    TX_TOO_FEW,
    TX_TOO_MANY,
    WRONG_PARITY,
    NO_INIT,
    NO_INIT_FENCE,
    ONE_DOES_NOT_ARRIVE,
    TILE_MISALIGNED,
    DESCRIPTOR_MISALIGNED,
    OPERANDS_APART,
    NO_WGMMA_FENCE,
    READS_BEFORE_WAIT, /* the sums */
    FREES_BEFORE_WAIT, /* the stage */
    WAITS_FOR_TOO_FEW,
    EXITS_BEFORE_WAIT,
    LEAVES_COPIES,
};

enum { H_STAGE = 2 * 64 * 128, H_BARS = 2 * H_STAGE, H_SHARED = H_BARS + 64, H_THREADS = 160 };

template <int BUG>
PRIM void hopper_produce(const CUtensorMap *x, const CUtensorMap *w, int k, unsigned char *ring,
                         uint64_t *full, uint64_t *empty)
{
    const int more = BUG == LEAVES_COPIES ? 1 : 0;
    for (int j = 0; j < k / 64 + more; j++) {
        const int s = j & 1, phase = j >> 1 & 1;
        if (BUG != NO_EMPTY_WAIT)
            mbar_wait(&empty[s], (uint32_t)phase ^ (BUG == WRONG_PARITY ? 0 : 1));
        const int wrong = BUG == TX_TOO_FEW ? -16 : BUG == TX_TOO_MANY ? 16 : 0;
        mbar_arrive_tx(&full[s], (uint32_t)(H_STAGE + wrong));
        unsigned char *const tile = ring + s * H_STAGE + (BUG == TILE_MISALIGNED ? 512 : 0);
        tma_load_2d(tile, x, j * 64, 0, &full[s]);
        tma_load_2d(ring + s * H_STAGE + H_STAGE / 2, w, j * 64, 0, &full[s]);
    }
}

template <int BUG>
PRIM void hopper_multiply(float (&d)[32], int k, unsigned char *ring, uint64_t *full,
                          uint64_t *empty)
{
    for (int j = 0; j < k / 64; j++) {
        const int s = j & 1, phase = j >> 1 & 1;
        if (BUG != NO_FULL_WAIT) mbar_wait(&full[s], (uint32_t)phase);
        const int odd = BUG == DESCRIPTOR_MISALIGNED ? 128 : 0;
        const uint64_t a = wgmma_tile(ring + s * H_STAGE + odd);
        const uint64_t b = wgmma_tile(ring + s * H_STAGE + H_STAGE / 2) +
                           (BUG == OPERANDS_APART && threadIdx.x == 77 ? 2 : 0);
        if (BUG != NO_WGMMA_FENCE) wgmma_fence();
        for (int i = 0; i < 4; i++) wgmma_bf16(d, a + wgmma_step(i), b + wgmma_step(i), true);
        wgmma_commit();
        if (BUG == FREES_BEFORE_WAIT) mbar_arrive(&empty[s]);
        if (BUG == WAITS_FOR_TOO_FEW) wgmma_wait<1>(d);
        if (BUG != READS_BEFORE_WAIT && BUG != WAITS_FOR_TOO_FEW && BUG != EXITS_BEFORE_WAIT)
            wgmma_wait<0>(d);
        if (BUG != FREES_BEFORE_WAIT && (BUG != ONE_DOES_NOT_ARRIVE || threadIdx.x != 77))
            mbar_arrive(&empty[s]);
    }
}

template <int BUG>
__global__ void hopper(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w,
                       float *y, int k)
{
    DYN_SHARED(ring);
    uint64_t *const full = (uint64_t *)(ring + H_BARS), *const empty = full + 2;
    if (threadIdx.x == 128 && BUG != NO_INIT) {
        for (int s = 0; s < 2; s++) {
            mbar_init(&full[s], 1);
            mbar_init(&empty[s], 128);
        }
        if (BUG != NO_INIT_FENCE) mbar_fence_init();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        if (threadIdx.x == 128) hopper_produce<BUG>(&x, &w, k, ring, full, empty);
        return;
    }
    float d[32] = {};
    hopper_multiply<BUG>(d, k, ring, full, empty);
    float sums[32];
    for (int i = 0; i < 32; i++) sums[i] = d[i];
    if (BUG == READS_BEFORE_WAIT || BUG == WAITS_FOR_TOO_FEW) wgmma_wait<0>(d);
    const int row = (int)threadIdx.x / 32 * 16 + (int)(threadIdx.x & 31) / 4;
    for (int i = 0; i < 32; i++)
        y[(row + i % 4 / 2 * 8) * 64 + i / 4 * 8 + (int)(threadIdx.x & 3) * 2 + i % 2] = sums[i];
}

/* Tiles written by the threads, which pass them on, or do not. */
enum Passed { PASSED, COPIES_NOT_PASSED, STORES_NOT_PASSED, PASSED_TOO_EARLY };

template <int BUG> __global__ void proxies(const bf16 *x, const bf16 *w, float *y)
{
    DYN_SHARED(ring);
    float d[32] = {};
    for (int i = (int)threadIdx.x; i < 512; i += 128) {
        const int row = i / 8, at = row * 128 + ((i % 8 ^ (row & 7)) << 4);
        cp_async16(ring + at, x + i * 8);
        if (BUG == COPIES_NOT_PASSED && i == 300) proxy_fence(); /* one thread alone */
    }
    cp_async_commit();
    if (BUG == PASSED_TOO_EARLY) proxy_fence();
    cp_async_wait<0>();
    if (BUG == PASSED || BUG == STORES_NOT_PASSED) proxy_fence();
    for (int i = (int)threadIdx.x; i < 512; i += 128) {
        const int row = i / 8, at = row * 128 + ((i % 8 ^ (row & 7)) << 4);
        store_piece(ring + 8192 + at, *(const uint4 *)(w + i * 8));
    }
    if (BUG == PASSED) proxy_fence();
    __syncthreads();
    wgmma_fence();
    for (int i = 0; i < 4; i++)
        wgmma_bf16(d, wgmma_tile(ring) + wgmma_step(i), wgmma_tile(ring + 8192) + wgmma_step(i),
                   true);
    wgmma_commit();
    wgmma_wait<0>(d);
    const int row = (int)threadIdx.x / 32 * 16 + (int)(threadIdx.x & 31) / 4;
    for (int i = 0; i < 32; i++)
        y[(row + i % 4 / 2 * 8) * 64 + i / 4 * 8 + (int)(threadIdx.x & 3) * 2 + i % 2] = d[i];
}
