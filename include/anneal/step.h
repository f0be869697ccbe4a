/* step.h: the one update that every diffusion sampler is made of. engine/solver computes the
 * coefficients on the host, kernels apply them to a batch whose rows may use different samplers. */
#ifndef ANNEAL_STEP_H
#define ANNEAL_STEP_H

#include <stdbool.h>

#define AN_HISTORY 5
/* Slots of the linear update, in the order of the coefficients. */
enum {
    AN_TERM_X = 0,  /* the sample before the step */
    AN_TERM_M,      /* the guided network output, raw */
    AN_TERM_SAVED,  /* the saved sample */
    AN_TERM_NOISE,  /* this call's noise */
    AN_TERM_D0,     /* histories; D0 is the value converted from this call's output */
    AN_TERMS = AN_TERM_D0 + AN_HISTORY
};

/* One call's update of one row:
 *   d        = dx * x + dm * m           (x0, eps or derivative; by prediction type)
 *   d        = clip(d, -clip, clip)      if clip > 0;  dynamic thresholding if threshold > 0
 *   history  : if push: d4<-d3<-...<-d1<-d0<-d; else d0 <- d and the rest stay
 *   x'       = sum out[k] * term[k]
 *   saved'   = sum keep[k] * term[k]     if save, else unchanged
 * All terms are the values before the step (except D0, which is the new d). */
typedef struct an_step {
    float in_scale;  /* network input = in_scale * x (scale_model_input) */
    float timestep;  /* what the network is told */
    float dx, dm;
    float clip;      /* 0 = none */
    float threshold; /* dynamic_thresholding_ratio, 0 = none */
    float threshold_max; /* sample_max_value */
    bool push, save, noise; /* noise: this call draws one noise tensor (even if its factor is 0) */
    float out[AN_TERMS], keep[AN_TERMS];
    double sigma_next; /* noise level after the call, for previews and eta; informative */
    float x0_x, x0_m;  /* denoised estimate = x0_x * x + x0_m * m, for previews */
} an_step;

#endif
