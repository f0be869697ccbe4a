/* fp8.h: matrices in FP8 (e4m3) between file and device. Private to models/. */
#ifndef ANNEAL_MODELS_FP8_H
#define ANNEAL_MODELS_FP8_H

#include "config.h"
#include "load.h"

/* A matrix as an_weight_scaled takes it. */
typedef struct an_fp8 {
    an_tensor w;  /* [n, k]; F8_E4M3, or what it was */
    float *scale; /* [n], or NULL */
    void *made;   /* w's memory, where it is not the file's */
} an_fp8;

/* w [n, k] of the file, with its scales if it is FP8, or rounded to FP8 with a scale a row if the
 * loader is told to and not `keep`. weight: its name, "x.weight", NULL where no scales can lie
 * beside it. Errors latch; an_fp8_free in any case. */
void an_fp8_make(an_loader *ld, const char *weight, an_tensor w, bool keep, an_fp8 *m);
void an_fp8_free(an_fp8 *m);
/* Refuses a "quantization_config" unless it says that matrices are e4m3, with scales that are read
 * here. */
void an_fp8_config(an_config *c);
/* Whether scales lie beside "x.weight". */
bool an_fp8_scaled(const an_loader *ld, const char *weight);

#endif
