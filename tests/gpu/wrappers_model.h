/* wrappers_model.h: the cases of wrappers.c: what goes in, and what NVIDIA's manuals say must come
 * out, in plain C that shares nothing with the emulator. */
#ifndef ANNEAL_TESTS_WRAPPERS_MODEL_H
#define ANNEAL_TESTS_WRAPPERS_MODEL_H

#include "wrappers.h"

#include <stdbool.h>

typedef struct wrapper_case {
    const char *name; /* "mma_bf16/random": wrapper and kind of data */
    int which;
    void (*inputs)(uint32_t *in, int threads, int n, uint64_t seed);
    void (*model)(const uint32_t *in, uint32_t *out);
    /* 0: every bit must agree. Else words are floats, |got - want| <= tol * (|want| + scale). */
    double tol, scale;
} wrapper_case;

extern const wrapper_case wrapper_cases[];
extern const int n_wrapper_cases;
extern const wrapper_case hopper_cases[]; /* wrappers_hopper_model.c */
extern const int n_hopper_cases;

typedef struct wrapper_shape {
    int threads, in, out; /* words of a thread */
} wrapper_shape;
extern const wrapper_shape wrapper_shapes[N_WRAPPERS];

float bits_float(uint32_t bits);
uint32_t float_bits(float f);

#endif
