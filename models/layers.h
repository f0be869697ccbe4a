/* layers.h: what UNet and VAE are both made of: ResnetBlock2D, Downsample2D, Upsample2D, and the
 * forms of convolution and norm that they use. Names and order follow diffusers
 * (models/resnet.py, downsampling.py, upsampling.py). Private to models/. */
#ifndef ANNEAL_MODELS_LAYERS_H
#define ANNEAL_MODELS_LAYERS_H

#include "load.h"

#define AN_LABEL_MAX 64

/* ResnetBlock2D (He et al. 2016 with GroupNorm and SiLU in front of the convolutions):
 *   h = conv1(silu(norm1(x))) + time(silu(temb));  y = conv2(silu(norm2(h))) + shortcut(x) */
typedef struct an_resnet {
    char label[AN_LABEL_MAX];
    int64_t in, out; /* channels */
    an_norm norm1, norm2;
    an_weight *conv1, *conv2;
    int64_t time;        /* first of its outputs among all projections of the time embedding */
    bool timed;          /* not in a VAE */
    an_weight *shortcut; /* 1x1, NULL if in == out */
} an_resnet;

/* times: gets its projection of the time embedding; NULL: it has none. component: "unet", "vae",
 * for labels. */
void an_resnet_load(an_loader *ld, an_resnet *r, const char *component, const char *prefix,
                    int64_t in, int64_t out, an_stack *times, int groups, float eps);
/* x [n, h, w, in]; times F32 [n, all projections of the time embedding], or NULL; y [n, h, w, out].
 * y may be x if in == out. spend_x: nobody needs x afterwards, its memory may be used. */
void an_resnet_forward(an_lane *l, const an_resnet *r, an_tensor x, const an_tensor *times,
                       bool spend_x, an_tensor y);
/* The same of x and skip side by side: their channels are `in` together. y may be x's memory. */
void an_resnet_joined(an_lane *l, const an_resnet *r, an_tensor x, an_tensor skip,
                      const an_tensor *times, an_tensor y);

/* y = conv(x) with stride 1 and the size kept; residual may be NULL, or y. */
void an_conv_same(an_lane *l, an_tensor x, const an_weight *w, const an_tensor *residual,
                  an_tensor y);
/* Downsample2D: 3x3, stride 2. padding 1 on every side, or (padding 0) one row and column of zeros
 * at the bottom and right only, as VAE encoders have it. */
void an_downsample(an_lane *l, an_tensor x, const an_weight *w, int padding, an_tensor y);
int64_t an_downsampled(int64_t size, int padding);
/* Upsample2D: nearest-neighbour to y's size, then 3x3. */
void an_upsample(an_lane *l, an_tensor x, const an_weight *w, an_tensor y);

/* y = act(x w^T + bias) + residual; residual may be NULL, or y. */
void an_linear(an_lane *l, an_tensor x, const an_weight *w, an_act act, const an_tensor *residual,
               an_tensor y);
void an_norm_group(an_lane *l, const an_norm *n, an_tensor x, bool silu, an_tensor y);
void an_norm_layer(an_lane *l, const an_norm *n, an_tensor x, an_tensor y);

/* A view of t starting `elements` further on. */
an_tensor an_view(an_tensor t, int64_t elements, int ndim, const int64_t *dim);
#define an_view_of(t, elements, ...)                                                               \
    an_view((t), (elements), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),            \
            (const int64_t[]){__VA_ARGS__})
/* Row r of [n, ...], without its first dimension kept: [1, ...]. */
an_tensor an_row_view(an_tensor t, int64_t r);

/* Two buffers that a network's activation hops between where a layer cannot work in place. Each has
 * the size of the largest tensor that ever lies in it. */
typedef struct an_hop {
    an_tensor buf[2]; /* [elements] */
    int64_t need[2];  /* elements */
    int now;
} an_hop;
/* Planning: the activation becomes this big, in the other buffer (hop) or where it is. */
void an_hop_plan(an_hop *p, bool hop, int64_t elements);
/* After planning: allocates, and starts again at buffer 0. */
void an_hop_alloc(an_hop *p, an_lane *l, an_dtype dtype);
an_tensor an_hop_to(an_hop *p, bool hop, int64_t n, int64_t h, int64_t w, int64_t c);

#endif
