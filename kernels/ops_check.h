/* ops_check.h: what the op table's front (ops.c, ops_lm.c) checks arguments with. A wrong shape
 * latches AN_INTERNAL with the op's name and the shapes. Private to kernels/. */
#ifndef ANNEAL_OPS_CHECK_H
#define ANNEAL_OPS_CHECK_H

#include "backend.h"

#include <stdio.h>

/* Nothing more is done on a lane with an error. */
static inline bool live(const an_lane *l)
{
    return l->error.status == AN_OK;
}

static inline bool bad(an_lane *l, const char *op, const char *what, const an_tensor *a,
                       const an_tensor *b)
{
    char sa[128], sb[128] = "";
    an_shape_str(a->ndim, a->dim, sa, sizeof sa);
    if (b) an_shape_str(b->ndim, b->dim, sb, sizeof sb);
    an_lane_fail(l, AN_INTERNAL, "%s: %s: %s %s%s%s%s%s", op, what, an_dtype_name(a->dtype), sa,
                 b ? " and " : "", b ? an_dtype_name(b->dtype) : "", b ? " " : "", sb);
    return false;
}

static inline bool active_dtype(an_dtype t)
{
    return t == AN_F32 || t == AN_BF16;
}

/* A tensor that exists, of an activation dtype, with every dim positive. */
static inline bool sound(an_lane *l, const char *op, const char *name, const an_tensor *t)
{
    char what[64];
    bool ok = t->ndim >= 1 && t->ndim <= AN_MAX_DIMS;
    for (int i = 0; ok && i < t->ndim; i++) ok = t->dim[i] > 0;
    if (!ok) {
        snprintf(what, sizeof what, "%s has an empty shape", name);
        an_tensor shown = *t;
        if (t->ndim < 0 || t->ndim > AN_MAX_DIMS) shown.ndim = 0;
        return bad(l, op, what, &shown, NULL);
    }
    if (!t->data && !l->counting) {
        snprintf(what, sizeof what, "%s has no memory", name);
        return bad(l, op, what, t, NULL);
    }
    return true;
}

static inline bool active(an_lane *l, const char *op, const char *name, const an_tensor *t)
{
    if (!sound(l, op, name, t)) return false;
    if (active_dtype(t->dtype)) return true;
    char what[64];
    snprintf(what, sizeof what, "%s must be F32 or BF16", name);
    return bad(l, op, what, t, NULL);
}

static inline int64_t last(const an_tensor *t)
{
    return t->dim[t->ndim - 1];
}

static inline int64_t leading(const an_tensor *t)
{
    return an_tensor_count(t) / last(t);
}

static inline bool same(an_lane *l, const char *op, const char *what, const an_tensor *a,
                        const an_tensor *b)
{
    if (a->dtype == b->dtype && an_tensor_same_shape(a, b)) return true;
    return bad(l, op, what, a, b);
}

/* A vector of F32 parameters, as long as the channels of x. */
static inline bool params(an_lane *l, const char *op, const char *name, const an_tensor *p,
                          const an_tensor *x)
{
    char what[64];
    if (p && p->dtype == AN_F32 && p->ndim == 1 && p->dim[0] == last(x) && (p->data || l->counting))
        return true;
    snprintf(what, sizeof what, "%s must be F32 with the channels of x", name);
    an_tensor none = {NULL, AN_F32, 0, {0}};
    return bad(l, op, what, p ? p : &none, x);
}

/* An op reads or writes these. */
static inline void moves(an_lane *l, const an_tensor *t)
{
    if (t) l->bytes += (double)an_tensor_bytes(t);
}

/* Runs after every op: scratch back, a failure latched. */
static inline void finish(an_lane *l, size_t mark, an_status s, const char *op)
{
    an_lane_release(l, mark);
    if (l->watch) an_lane_tell(l, op);
    if (s) an_lane_fail(l, s, "%s failed (%s)", op, an_status_name(s));
}

/* A process may have several GPUs, a thread works on one of them at a time. */
static inline an_status enter(an_lane *l)
{
    const an_backend *b = l->device->backend;
    return b->enter && !l->counting ? b->enter(l->device, &l->error) : AN_OK;
}

#define CALL(l, fn, ...)                                                                           \
    do {                                                                                           \
        size_t mark_ = an_lane_mark(l);                                                            \
        an_status s_ = enter(l);                                                                   \
        if (!s_) s_ = (l)->device->backend->fn((l), __VA_ARGS__);                                  \
        finish((l), mark_, s_, #fn);                                                               \
    } while (0)

static inline bool known_act(an_lane *l, const char *op, an_act act, bool allow_gated)
{
    if (act >= AN_ACT_NONE && act <= AN_ACT_RELU) return true;
    if (an_act_gated(act) && allow_gated) return true;
    an_lane_fail(l, AN_INTERNAL, "%s: activation %d is not one it has", op, (int)act);
    return false;
}

/* y and its residual: y in x's dtype or F32, the residual exactly like y. */
static inline bool output(an_lane *l, const char *op, const an_tensor *x, const an_tensor *y,
                          const an_tensor *residual)
{
    if (!active(l, op, "y", y)) return false;
    if (y->dtype != x->dtype && y->dtype != AN_F32)
        return bad(l, op, "y must have x's dtype or F32", x, y);
    if (!residual) return true;
    if (!active(l, op, "residual", residual)) return false;
    if (residual->dtype != y->dtype || last(residual) != last(y) ||
        an_tensor_count(residual) != an_tensor_count(y))
        return bad(l, op, "residual and y must be alike", residual, y);
    return true;
}

#endif
