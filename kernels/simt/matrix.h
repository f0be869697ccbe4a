/* matrix.h: the instructions behind the wrappers of kernels/cuda/gpu.cuh: asynchronous copies into
 * shared memory, ldmatrix, mma. Layouts of fragments: PTX ISA, "Warp-Level Matrix Instructions". */
#ifndef SIMT_MATRIX_H
#define SIMT_MATRIX_H

#include "simt.h"

namespace simt
{

/* cp.async: the destination holds NaN from here until the thread waits for the copy's group. */
void cp_async(void *dst, const void *src, uint32_t bytes, uint32_t src_bytes, Where at);
void cp_async_commit(void);
void cp_async_wait(uint32_t keep);

/* d += a * b, each element one chain over k from 0 to 15. */
void multiply_16x8(float (*d)[8], const float (*a)[16], const float (*b)[8]);

/* n of ldmatrix.x4 in one go: r is [n][4], row[i] this lane's address for the i-th. */
void ldmatrix_x4(uint32_t *r, const void *const *row, int n, bool transposed, Where at);
void ldmatrix_x2(uint32_t *r, const void *row, bool transposed, Where at);

/* d[i][j] += a[i] * b[j] for m x n tiles in one go: d is [m][n][4], a [m][4], b [n][2]. */
void mma_bf16(float *d, const uint32_t *a, const uint32_t *b, int m, int n, Where at);
void mma_f16(float *d, const uint32_t *a, const uint32_t *b, int m, int n, Where at);
void mma_s8(int *d, const uint32_t *a, const uint32_t *b, int m, int n, Where at);

} // namespace simt

#endif
