/* hopper.cuh: the instructions of compute capability 9.0, after gpu.cuh: mbarriers, copies of tiles
 * by the tensor copy engine (TMA), products of four warps out of shared memory (wgmma). Under nvcc
 * a file that uses them is compiled for sm_90a and nothing else.
 *
 * A tile is rows of 128 bytes (64 bf16 of k), eight pieces of 16 bytes each, piece p of row r at
 * p ^ (r & 7): CU_TENSOR_MAP_SWIZZLE_128B, which is also how tile.cuh lays its tiles. It begins at
 * a multiple of 1024 bytes. TMA writes it so, wgmma reads it so.
 *
 * Order. wgmma and TMA go to shared memory by a way of their own (the async proxy). What TMA
 * brought may be read once its mbarrier's phase is over. What threads wrote (stores, cp.async) must
 * be passed on by proxy_fence() of the thread that wrote it, and only then by a barrier. */
#ifndef ANNEAL_HOPPER_CUH
#define ANNEAL_HOPPER_CUH

#include "gpu.cuh"
#include <cuda.h>

#ifdef __CUDACC__

/* ---------------------------------------------------------------- mbarriers */

/* 64 bits of shared memory, by one thread; then mbar_fence_init() and a barrier of the block. */
PRIM void mbar_init(uint64_t *bar, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_u32(bar)), "r"(arrivals)
                 : "memory");
}

PRIM void mbar_fence_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

PRIM void mbar_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_u32(bar)) : "memory");
}

/* The same, and the phase is not over before copies have brought so many bytes more. */
PRIM void mbar_arrive_tx(uint64_t *bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_u32(bar)),
                 "r"(bytes)
                 : "memory");
}

/* Until the phase of this parity is over: 0 for the first, 1 for the second... Of a new mbarrier
 * the phase before the first, parity 1, is over. */
PRIM void mbar_wait(uint64_t *bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@!p bra again;\n}" ::"r"(smem_u32(bar)),
                 "r"(parity)
                 : "memory");
}

/* ---------------------------------------------------------------- copies of tiles */

/* A tile of the matrix, from column x and row y on; zeros where the matrix is not. One thread,
 * once; the map is a __grid_constant__ parameter. */
PRIM void tma_load_2d(void *dst, const CUtensorMap *map, int x, int y, uint64_t *bar)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(smem_u32(dst)),
                 "l"(map), "r"(smem_u32(bar)), "r"(x), "r"(y)
                 : "memory");
}

/* What this thread wrote to shared memory is there for TMA and wgmma; see above. */
PRIM void proxy_fence()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---------------------------------------------------------------- wgmma */

PRIM uint32_t shared_place(const void *p)
{
    return smem_u32(p);
}

/* Before the first of a series of products: d is theirs from here on. */
PRIM void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* Products so far are a group. */
PRIM void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most Keep groups are not done. d, their sums, may be read once Keep is 0. */
template <int Keep, int R> PRIM void wgmma_wait(float (&d)[R])
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Keep) : "memory");
#pragma unroll
    for (int i = 0; i < R; i++) asm volatile("" : "+f"(d[i])::"memory"); /* not read before */
}

/* d [64, N] = a [64, 16] b [N, 16]^T, plus d if add: bf16, sums in f32, N twice the size of d. By
 * four warps, the first a multiple of four, all with the same operands (wgmma_tile). Of warp w and
 * eight columns 8j.. a thread has what mma_bf16_16816 would give it: d[4j .. 4j+3], rows 16w... */
PRIM void wgmma_bf16(float (&d)[32], uint64_t a, uint64_t b, bool add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
                 "%32, %33, p, 1, 1, 0, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                   "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
                   "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31])
                 : "l"(a), "l"(b), "r"((int)add));
}

PRIM void wgmma_bf16(float (&d)[64], uint64_t a, uint64_t b, bool add)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
                 "%64, %65, p, 1, 1, 0, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                   "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
                   "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
                   "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
                   "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                   "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),
                   "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
                   "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "l"(a), "l"(b), "r"((int)add));
}

#else

PRIM void mbar_init(uint64_t *bar, uint32_t arrivals, SIMT_WHERE)
{
    simt::mbar_init(bar, arrivals, SIMT_AT);
}
PRIM void mbar_fence_init()
{
    simt::mbar_fence_init();
}
PRIM void mbar_arrive(uint64_t *bar, SIMT_WHERE)
{
    simt::mbar_arrive(bar, 0, SIMT_AT);
}
PRIM void mbar_arrive_tx(uint64_t *bar, uint32_t bytes, SIMT_WHERE)
{
    simt::mbar_arrive(bar, bytes, SIMT_AT);
}
PRIM void mbar_wait(uint64_t *bar, uint32_t parity, SIMT_WHERE)
{
    simt::mbar_wait(bar, parity, SIMT_AT);
}
PRIM void tma_load_2d(void *dst, const CUtensorMap *map, int x, int y, uint64_t *bar, SIMT_WHERE)
{
    simt::tma_load_2d(dst, map, x, y, bar, SIMT_AT);
}
PRIM void proxy_fence()
{
    simt::proxy_fence();
}
PRIM uint32_t shared_place(const void *p, SIMT_WHERE)
{
    return simt::shared_offset(p, SIMT_AT);
}
PRIM void wgmma_fence()
{
    simt::wgmma_fence();
}
PRIM void wgmma_commit()
{
    simt::wgmma_commit();
}
template <int Keep, int R> PRIM void wgmma_wait(float (&)[R], SIMT_WHERE)
{
    simt::wgmma_wait(Keep, SIMT_AT);
}
template <int R> PRIM void wgmma_bf16(float (&d)[R], uint64_t a, uint64_t b, bool add, SIMT_WHERE)
{
    simt::wgmma_bf16(d, 2 * R, a, b, add, SIMT_AT);
}

#endif

/* A tile as wgmma's operand, 16 of k from 0 on; + wgmma_step(i): from 16 i on. Fields of 16 bytes
 * each: the tile's place (bits 0..13), 1 (16..29, not used where rows are of 128 bytes), from eight
 * rows to the next (32..45); bits 62, 63: 128-byte swizzle. */
PRIM uint64_t wgmma_tile(const void *tile)
{
    return (uint64_t)(shared_place(tile) >> 4 & 0x3fff) | 1ull << 16 | (uint64_t)(1024 >> 4) << 32 |
           1ull << 62;
}
PRIM uint64_t wgmma_step(int i)
{
    return (uint64_t)i * (16 * sizeof(bf16) >> 4);
}

/* ---------------------------------------------------------------- the host's side */

/* The driver's cuTensorMapEncodeTiled, asked for by name: libcuda is not linked, so that the
 * program starts where there is none. */
typedef CUresult tensor_map_encode(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                   const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                   const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                   CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* Tiles of 64 columns and `tile_rows` rows (at most 256) of a bf16 matrix [rows, cols] at a
 * multiple of 16 bytes, `pitch` elements from row to row, a multiple of 8. */
static inline cudaError_t tensor_map_of(CUtensorMap *map, const void *base, int rows, int cols,
                                        int pitch, int tile_rows)
{
    static tensor_map_encode *known; /* the same whoever writes it */
    tensor_map_encode *encode = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!encode) {
        void *fn = nullptr;
        enum cudaDriverEntryPointQueryResult found;
        const cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000,
                                                               cudaEnableDefault, &found);
        if (e != cudaSuccess) return e;
        if (!fn || found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
        encode = (tensor_map_encode *)fn;
        __atomic_store_n(&known, encode, __ATOMIC_RELAXED);
    }
    const cuuint64_t dim[2] = {(cuuint64_t)cols, (cuuint64_t)rows};
    const cuuint64_t stride[1] = {(cuuint64_t)pitch * sizeof(bf16)};
    const cuuint32_t box[2] = {64, (cuuint32_t)tile_rows}, step[2] = {1, 1};
    const CUresult r =
        encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)base, dim, stride, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

#endif
