/* block.h: the integers in a block of GGUF's formats, 32 values at a time, for those who put them
 * elsewhere: the CPU's panels, the GPU's planes. Private to kernels/. */
#ifndef ANNEAL_BLOCK_H
#define ANNEAL_BLOCK_H

#include "anneal/tensor.h"

/* 32 values of one output. Formats with an f16 scale a block have d and m; those with small scales
 * have them in `small` (two of them: of each 16), minima in `min`, and d and m of the 256. */
typedef struct an_block {
    uint8_t q[32]; /* numbers, without what the kernels subtract; signed bytes for Q8_0 */
    uint16_t d, m;
    uint8_t small[2], min[2];
} an_block;

/* Values 32 block .. 32 block + 31 of a row of blocks. */
void an_block_read(an_dtype format, const uint8_t *row, int64_t block, an_block *v);

/* The 16 levels of IQ4_NL and IQ4_XS, whose numbers are places in it. */
extern const int8_t an_block_levels[16];

#endif
