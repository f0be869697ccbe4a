/* matrix.h: a packed weight of the GPU, and what a product needs. Private to kernels/cuda:
 * weights.c makes them, matrix.c runs products. */
#ifndef ANNEAL_CUDA_MATRIX_H
#define ANNEAL_CUDA_MATRIX_H

#include "cuda/gpu_host.h"

/* Neighbouring outputs that are kept in one way: floating, or one block format. */
typedef struct gpu_part {
    int first, n;
    bool blocks;
    gpu_matrix plain; /* if not */
    gpu_blocks quant; /* if so */
    void *memory;
} gpu_part;

/* an_weight.impl */
typedef struct gpu_weight {
    float *bias; /* device [n], zeros without one */
    int parts;
    gpu_part part[];
} gpu_weight;

#endif
