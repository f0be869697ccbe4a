/* layers.c: see layers.h. */
#include "layers.h"

#include <stdio.h>

/* ---------------------------------------------------------------- ops in the forms used here */

void an_linear(an_lane *l, an_tensor x, const an_weight *w, an_act act, const an_tensor *residual,
               an_tensor y)
{
    an_gemm(l, &(an_gemm_args){.x = x, .w = w, .residual = residual, .act = act, .y = y});
}

static an_conv_args same_size(an_tensor x, const an_weight *w, const an_tensor *residual,
                              an_tensor y)
{
    int pad = w ? w->kh / 2 : 0;
    return (an_conv_args){.x = x,
                          .w = w,
                          .stride = 1,
                          .pad_top = pad,
                          .pad_left = pad,
                          .pad_bottom = pad,
                          .pad_right = pad,
                          .residual = residual,
                          .y = y};
}

void an_conv_same(an_lane *l, an_tensor x, const an_weight *w, const an_tensor *residual,
                  an_tensor y)
{
    an_conv_args a = same_size(x, w, residual, y);
    an_conv2d(l, &a);
}

void an_downsample(an_lane *l, an_tensor x, const an_weight *w, int padding, an_tensor y)
{
    an_conv2d(l, &(an_conv_args){.x = x,
                                 .w = w,
                                 .stride = 2,
                                 .pad_top = padding,
                                 .pad_left = padding,
                                 .pad_bottom = 1,
                                 .pad_right = 1,
                                 .y = y});
}

int64_t an_downsampled(int64_t size, int padding)
{
    int64_t room = size + padding + 1 - 3;
    return room < 0 ? 0 : room / 2 + 1;
}

void an_upsample(an_lane *l, an_tensor x, const an_weight *w, an_tensor y)
{
    an_conv2d(l, &(an_conv_args){.x = x,
                                 .w = w,
                                 .stride = 1,
                                 .pad_top = 1,
                                 .pad_left = 1,
                                 .pad_bottom = 1,
                                 .pad_right = 1,
                                 .up_h = y.dim[1],
                                 .up_w = y.dim[2],
                                 .y = y});
}

void an_norm_group(an_lane *l, const an_norm *n, an_tensor x, bool silu, an_tensor y)
{
    an_group_norm(l, x, &n->gamma, &n->beta, n->groups, n->eps, silu, y);
}

void an_norm_layer(an_lane *l, const an_norm *n, an_tensor x, an_tensor y)
{
    an_layer_norm(l, x, &n->gamma, &n->beta, n->eps, y);
}

/* ---------------------------------------------------------------- views */

an_tensor an_view(an_tensor t, int64_t elements, int ndim, const int64_t *dim)
{
    /* through an integer: on a counting lane there is no memory, and NULL + n is undefined */
    uintptr_t at = (uintptr_t)t.data;
    if (t.data) at += (uintptr_t)elements * an_dtype_size(t.dtype);
    an_tensor v = {(void *)at, t.dtype, ndim, {1, 1, 1, 1, 1}};
    for (int i = 0; i < ndim; i++) v.dim[i] = dim[i];
    return v;
}

an_tensor an_row_view(an_tensor t, int64_t r)
{
    int64_t n = t.dim[0] ? an_tensor_count(&t) / t.dim[0] : 0;
    an_tensor v = an_view(t, r * n, t.ndim, t.dim);
    v.dim[0] = 1;
    return v;
}

void an_hop_plan(an_hop *p, bool hop, int64_t elements)
{
    p->now ^= hop;
    if (elements > p->need[p->now]) p->need[p->now] = elements;
}

void an_hop_alloc(an_hop *p, an_lane *l, an_dtype dtype)
{
    for (int i = 0; i < 2; i++) p->buf[i] = an_lane_tensor(l, dtype, p->need[i]);
    p->now = 0;
}

an_tensor an_hop_to(an_hop *p, bool hop, int64_t n, int64_t h, int64_t w, int64_t c)
{
    p->now ^= hop;
    return an_view_of(p->buf[p->now], 0, n, h, w, c);
}

/* ---------------------------------------------------------------- ResnetBlock2D */

void an_resnet_load(an_loader *ld, an_resnet *r, const char *component, const char *prefix,
                    int64_t in, int64_t out, an_stack *times, int groups, float eps)
{
    char name[AN_NAME_MAX];
    snprintf(r->label, sizeof r->label, "%s/%s", component, prefix);
    r->in = in;
    r->out = out;
    r->norm1 = an_load_norm(ld, an_load_name(ld, name, "%s.norm1", prefix), in, groups, eps);
    r->conv1 = an_load_conv(ld, an_load_name(ld, name, "%s.conv1", prefix), out, in, 3, AN_BIAS);
    r->timed = times != NULL;
    if (times)
        r->time = an_stack_add(ld, times, an_load_name(ld, name, "%s.time_emb_proj", prefix), out);
    r->norm2 = an_load_norm(ld, an_load_name(ld, name, "%s.norm2", prefix), out, groups, eps);
    r->conv2 = an_load_conv(ld, an_load_name(ld, name, "%s.conv2", prefix), out, out, 3, AN_BIAS);
    if (in != out)
        r->shortcut = an_load_linear(ld, an_load_name(ld, name, "%s.conv_shortcut", prefix), out,
                                     in, AN_BIAS);
}

/* y = conv2(silu(norm2(conv1(normed) + time))) + residual. mid [n, h, w, out]: scratch. */
static void convolutions(an_lane *l, const an_resnet *r, an_tensor normed, const an_tensor *times,
                         an_tensor mid, const an_tensor *residual, an_tensor y)
{
    an_conv_args first = same_size(normed, r->conv1, NULL, mid);
    an_tensor time;
    if (r->timed) {
        time = an_view_of(*times, r->time, y.dim[0], r->out);
        first.row_bias = &time;
        first.row_bias_stride = times->dim[1];
    }
    an_conv2d(l, &first);
    an_norm_group(l, &r->norm2, mid, true, mid);
    an_conv_same(l, mid, r->conv2, residual, y);
}

void an_resnet_forward(an_lane *l, const an_resnet *r, an_tensor x, const an_tensor *times,
                       bool spend_x, an_tensor y)
{
    int64_t n = x.dim[0], h = x.dim[1], w = x.dim[2];
    size_t mark = an_lane_mark(l);
    an_lane_label(l, r->label);
    an_tensor mid = an_lane_tensor(l, x.dtype, n, h, w, r->out);
    an_tensor normed = x; /* once the shortcut has been taken, x may go */
    if (r->shortcut) an_linear(l, x, r->shortcut, AN_ACT_NONE, NULL, y);
    if (!spend_x || !r->shortcut) normed = an_lane_tensor(l, x.dtype, n, h, w, r->in);
    an_norm_group(l, &r->norm1, x, true, normed);
    convolutions(l, r, normed, times, mid, r->shortcut ? &y : &x, y);
    an_lane_release(l, mark);
}

void an_resnet_joined(an_lane *l, const an_resnet *r, an_tensor x, an_tensor skip,
                      const an_tensor *times, an_tensor y)
{
    int64_t n = x.dim[0], h = x.dim[1], w = x.dim[2];
    size_t mark = an_lane_mark(l);
    an_lane_label(l, r->label);
    an_tensor both = an_lane_tensor(l, x.dtype, n, h, w, r->in);
    an_tensor normed = an_lane_tensor(l, x.dtype, n, h, w, r->in), mid;
    an_concat_group_norm(l, x, skip, both, &r->norm1.gamma, &r->norm1.beta, r->norm1.groups,
                         r->norm1.eps, true, normed);
    if (r->shortcut) an_linear(l, both, r->shortcut, AN_ACT_NONE, NULL, y);
    /* behind the shortcut nobody reads `both`, and its memory serves again where it is enough */
    if (r->shortcut && r->out <= r->in)
        mid = an_view_of(both, 0, n, h, w, r->out);
    else
        mid = an_lane_tensor(l, x.dtype, n, h, w, r->out);
    convolutions(l, r, normed, times, mid, r->shortcut ? &y : &both, y);
    an_lane_release(l, mark);
}
