/* hopper.h: the instructions behind the wrappers of kernels/cuda/hopper.cuh, those of compute
 * capability 9.0: mbarriers, copies of tiles by the tensor copy engine (TMA), products of four
 * warps out of shared memory (wgmma). PTX ISA 8, "mbarrier", "cp.async.bulk.tensor",
 * "Asynchronous warpgroup level matrix instructions".
 *
 * What is asynchronous happens as late as it may: a tile lands when somebody waits for an mbarrier,
 * a product is made when its group is waited for. Until then the destination holds NaN. */
#ifndef SIMT_HOPPER_H
#define SIMT_HOPPER_H

#include "include/cuda.h"
#include "simt.h"

namespace simt
{

/* The place of p in the block's dynamic shared memory. */
uint32_t shared_offset(const void *p, Where at);

/* ---- hopper.cc ---- */
void mbar_init(uint64_t *bar, uint32_t count, Where at);
void mbar_fence_init(void);
/* Expects `bytes` more of copies in this phase, then arrives. */
void mbar_arrive(uint64_t *bar, uint32_t bytes, Where at);
void mbar_wait(uint64_t *bar, uint32_t parity, Where at);
void tma_load_2d(void *dst, const CUtensorMap *map, int x, int y, uint64_t *bar, Where at);

/* Ordinary writes reach wgmma through a fence of the thread that made them. The emulator knows of
 * those that it is told of: cp.async, and shared_wrote. */
void shared_wrote(const void *p, uint32_t bytes);
void proxy_fence(void);
/* Fails if bytes from p on are written and not fenced. */
void check_fenced(const void *p, uint32_t bytes, Where at);

/* A block begins; it has ended. */
void hopper_begin(void);
void hopper_end(void);
void hopper_free(void);

/* ---- wgmma.cc ---- */
void wgmma_fence(void);
/* d [n / 2] of this thread += a [64, 16] b [n, 16]^T, both bf16, given by their descriptors. */
void wgmma_bf16(float *d, int n, uint64_t a, uint64_t b, bool add, Where at);
void wgmma_commit(void);
void wgmma_wait(uint32_t keep, Where at);
/* A thread begins; it ends. */
void wgmma_begin(Thread *t);
void wgmma_exit_check(const Thread *t);

} // namespace simt

#endif
