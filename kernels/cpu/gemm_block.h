/* gemm_block.h: how one task of a GEMM or convolution runs, compiled once for each instruction set.
 * The including file has defined
 *     elem          what A and the panels hold when they reach a tile: float, or uint16_t for bf16
 *     A_BF16        which of the two
 *     MR NR         the tile
 *     MC NC KC      most rows and columns of a task, and the K block
 *     A_STEP        k of one row lie together in runs of this length inside a packed tile of A
 *     HALF_ROWS     and tile_half: see gemm_tile.h (not where A_BF16)
 *     static void tile(int rows, int64_t k, const elem *a, int64_t lda, const elem *b, float *c,
 *                      int64_t ldc, bool first): c[rows][NR] (+)= a . b for one K block
 * Everything is static: the same lines with other constants and other vector instructions. */
#include "gemm.h"
#include "vmath.h"

/* A block, C block, an expanded panel; each begins on a cache line. */
#define BLOCK_A       ((size_t)MC * KC * sizeof(elem))
#define BLOCK_C       (((size_t)MC * (NC + 16) + 64) * sizeof(float))
#define BLOCK_B       ((size_t)KC * NR * sizeof(elem))
#define BLOCK_SCRATCH (BLOCK_A + BLOCK_C + BLOCK_B)
_Static_assert(BLOCK_A % 64 == 0 && BLOCK_C % 64 == 0 && BLOCK_B % 64 == 0 && MC % MR == 0,
               "tiles load whole vectors");

static inline int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t clamp64(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* ---------------------------------------------------------------- gathering A */

#if !A_BF16
static inline void bf16_to_f32(float *restrict dst, const uint16_t *restrict src, int64_t n)
{
    int64_t i = 0;
    for (; i + AN_VL <= n; i += AN_VL) v_store(dst + i, v_load_bf16(src + i));
    for (; i < n; i++) dst[i] = an_bf16_to_f32(src[i]);
}
#else
static inline void f32_to_bf16(uint16_t *restrict dst, const float *restrict src, int64_t n)
{
    int64_t i = 0;
    for (; i + AN_VL <= n; i += AN_VL) v_store_bf16(dst + i, v_load(src + i));
    for (; i < n; i++) dst[i] = an_f32_to_bf16(src[i]);
}
#endif

/* Where the next value of a row goes: value k of the K block, in the packed tile whose row begins
 * at `row`. */
typedef struct cursor {
    elem *row;
    int64_t k;
} cursor;

/* Room for *n values, or as many of them as lie together. */
static inline elem *next_room(cursor *to, int64_t *n)
{
#if A_STEP == KC
    elem *p = to->row + to->k;
#else
    elem *p = to->row + to->k / A_STEP * (MR * A_STEP) + to->k % A_STEP;
    *n = min64(*n, A_STEP - to->k % A_STEP);
#endif
    to->k += *n;
    return p;
}

/* n values of x from element `at` on. */
static inline void put(cursor *to, const an_gemm_job *j, int64_t at, int64_t n)
{
    for (int64_t some; n > 0; at += some, n -= some) {
        some = n;
        elem *p = next_room(to, &some);
#if A_BF16
        const uint16_t *x = (const uint16_t *)j->x + at;
        if (j->x_dtype != AN_BF16)
            f32_to_bf16(p, (const float *)j->x + at, some);
        else if (some == A_STEP) /* a cache line, which the compiler copies as one */
            memcpy(p, x, A_STEP * sizeof *p);
        else
            memcpy(p, x, (size_t)some * sizeof *p);
#else
        if (j->x_dtype == AN_F32)
            memcpy(p, (const float *)j->x + at, (size_t)some * sizeof *p);
        else
            bf16_to_f32(p, (const uint16_t *)j->x + at, some);
#endif
    }
}

static inline void put_zeros(cursor *to, int64_t n)
{
    for (int64_t some; n > 0; n -= some) {
        some = n;
        elem *p = next_room(to, &some);
        memset(p, 0, (size_t)some * sizeof *p);
    }
}

/* One output pixel's inputs k0..k1 of (ky, kx, channel). Without a resize, the pixels under a row
 * of the filter are neighbours in memory too: one run, cut at the picture's left and right edge. */
static void gather_runs(cursor *to, const an_gemm_job *j, int64_t picture, int64_t oy, int64_t ox,
                        int64_t k0, int64_t k1)
{
    const int64_t run = j->kw * j->c, ix = ox * j->stride - j->pad_left;
    for (int64_t ky = k0 / run; k0 < k1; ky++) {
        int64_t from = k0 - ky * run, end = min64(k1 - ky * run, run);
        int64_t iy = oy * j->stride + ky - j->pad_top;
        k0 += end - from;
        if (iy < 0 || iy >= j->h) {
            put_zeros(to, end - from);
            continue;
        }
        int64_t lo = clamp64(-ix * j->c, from, end), hi = clamp64((j->width - ix) * j->c, lo, end);
        put_zeros(to, lo - from);
        put(to, j, ((picture * j->h + iy) * j->width + ix) * j->c + lo, hi - lo);
        put_zeros(to, end - hi);
    }
}

/* The same with a nearest-neighbour resize in between: every filter tap is a run of its own. */
static void gather_resized(cursor *to, const an_gemm_job *j, int64_t picture, int64_t oy,
                           int64_t ox, int64_t k0, int64_t k1)
{
    for (int64_t tap = k0 / j->c; k0 < k1; tap++) {
        int64_t from = k0 - tap * j->c, end = min64(k1 - tap * j->c, j->c);
        int64_t uy = oy * j->stride + tap / j->kw - j->pad_top;
        int64_t ux = ox * j->stride + tap % j->kw - j->pad_left;
        k0 += end - from;
        if (uy < 0 || uy >= j->up_h || ux < 0 || ux >= j->up_w) {
            put_zeros(to, end - from);
            continue;
        }
        int64_t iy = uy * j->h / j->up_h, ix = ux * j->width / j->up_w;
        put(to, j, ((picture * j->h + iy) * j->width + ix) * j->c + from, end - from);
    }
}

static void gather_row(cursor *to, const an_gemm_job *j, int64_t m, int64_t k0, int64_t k1)
{
    if (j->flat) {
        put(to, j, m * j->c + k0, k1 - k0);
        return;
    }
    int64_t picture = m / (j->oh * j->ow), pixel = m % (j->oh * j->ow);
    int64_t oy = pixel / j->ow, ox = pixel % j->ow;
    if (j->up_h != j->h || j->up_w != j->width)
        gather_resized(to, j, picture, oy, ox, k0, k1);
    else
        gather_runs(to, j, picture, oy, ox, k0, k1);
}

/* Rows m..m+rows, k0..k0+k of A as a packed tile: [k / A_STEP][MR][A_STEP], k padded with zeros to
 * A_STEP. With A_STEP == KC that is simply MR rows of KC values. */
static void gather(elem *a, const an_gemm_job *j, int64_t m, int64_t rows, int64_t k0, int64_t k)
{
    const int64_t padded = (k + A_STEP - 1) / A_STEP * A_STEP;
    for (int64_t r = 0; r < rows; r++) {
        cursor to = {a + r * A_STEP, 0};
        gather_row(&to, j, m + r, k0, k0 + k);
        if (A_STEP < KC) put_zeros(&to, padded - k);
    }
}

/* How a tile finds its rows of A: row r begins at a + r * lda, and its values over k lie in runs:
 * `first` of them, then, each time after a gap, `run` more. */
typedef struct a_view {
    const elem *a;
    int64_t lda, first, run, gap;
} a_view;

#define IN_PLACE_COLUMNS 128 /* with more, packing pays: it is done once, read for every panel */
#define SHORTEST_RUN     64  /* a run costs a load and a store of the tile of C */

#if !A_BF16
/* Rows m..m+rows where they are in x, if they are f32 there and look like a view: neighbours in one
 * row of output pixels, away from the padding. The same values as gathered: the same bits. */
static bool in_place(a_view *v, const an_gemm_job *j, int64_t m, int64_t rows, int64_t k0,
                     int64_t k)
{
    if (j->x_dtype != AN_F32 || j->w->n > IN_PLACE_COLUMNS) return false;
    if (j->flat) {
        /* rows a multiple of the page apart push each other out of the cache */
        if (j->c % 512 == 0) return false;
        *v = (a_view){(const float *)j->x + m * j->c + k0, j->c, k, 0, 0};
        return true;
    }
    if (j->up_h != j->h || j->up_w != j->width) return false;
    const int64_t run = j->kw * j->c, ky = k0 / run, last = (k0 + k - 1) / run;
    int64_t pixel = m % (j->oh * j->ow), picture = m / (j->oh * j->ow);
    int64_t iy = pixel / j->ow * j->stride - j->pad_top, ox = pixel % j->ow;
    int64_t ix = ox * j->stride - j->pad_left;
    if (ox + rows > j->ow || ix < 0 || ix + (rows - 1) * j->stride + j->kw > j->width ||
        iy + ky < 0 || iy + last >= j->h)
        return false;
    if (run < SHORTEST_RUN) return false;
    const int64_t skip = k0 - ky * run;
    const float *a = (const float *)j->x + ((picture * j->h + iy + ky) * j->width + ix) * j->c;
    *v = (a_view){a + skip, j->stride * j->c, run - skip, run, j->width * j->c - run};
    return true;
}
#endif

/* A tile's rows of A: where they are, or packed into room. */
static a_view view_of(const an_gemm_job *j, int64_t m, int64_t rows, int64_t k0, int64_t k,
                      elem *room)
{
    a_view v = {room, KC, k, 0, 0};
#if !A_BF16
    if (in_place(&v, j, m, rows, k0, k)) return v;
#endif
    gather(room, j, m, rows, k0, k);
    return v;
}

/* ---------------------------------------------------------------- epilogue */

/* The vector at p[at], or its first n elements. */
static inline an_vf load_any(const void *p, an_dtype dtype, int64_t at, int64_t n)
{
    if (dtype == AN_F32) {
        const float *f = (const float *)p + at;
        return n >= AN_VL ? v_load(f) : v_load_n(f, n);
    }
    const uint16_t *h = (const uint16_t *)p + at;
    return n >= AN_VL ? v_load_bf16(h) : v_load_bf16_n(h, n);
}

static inline void store_any(void *p, an_dtype dtype, int64_t at, an_vf v, int64_t n)
{
    if (dtype == AN_F32) {
        float *f = (float *)p + at;
        n >= AN_VL ? v_store(f, v) : v_store_n(f, v, n);
    } else {
        uint16_t *h = (uint16_t *)p + at;
        n >= AN_VL ? v_store_bf16(h, v) : v_store_bf16_n(h, v, n);
    }
}

/* What the loop below would otherwise ask of the job at every vector. */
typedef struct epilogue {
    an_act act;
    an_dtype y, residual;
    bool has_residual, has_row_bias;
} epilogue;

static inline __attribute__((always_inline)) void finish_as(const epilogue e, const an_gemm_job *j,
                                                            int64_t m, int64_t j0, int64_t j1,
                                                            const float *v, const float *gate)
{
    const float *bias = j->w->bias;
    const int64_t row = m * j->n_out;
    const int64_t row_of_bias = e.has_row_bias ? m / (j->oh * j->ow) * j->row_bias_stride : 0;
    for (int64_t i = j0; i < j1; i += AN_VL, v += AN_VL) {
        const int64_t n = j1 - i;
        an_vf x = v_load(v) + load_any(bias, AN_F32, i, n);
        if (e.has_row_bias) x += load_any(j->row_bias, j->row_bias_dtype, row_of_bias + i, n);
        if (gate) {
            an_vf g = v_load(gate + (i - j0)) + load_any(bias, AN_F32, j->n_out + i, n);
            x = e.act == AN_ACT_GEGLU    ? x * v_gelu(g)
                : e.act == AN_ACT_SWIGLU ? v_silu(x) * g
                                         : v_gelu_tanh(x) * g;
        } else if (e.act != AN_ACT_NONE) {
            x = v_act(e.act, x);
        }
        if (e.has_residual) x += load_any(j->residual, e.residual, row + i, n);
        store_any(j->y, e.y, row + i, x, n);
    }
}

/* One row's columns j0..j1: v holds the sums, gate those of the other half or NULL. Both may be
 * read past their end, up to a vector. What language models ask for has loops of its own. */
static void finish_row(const an_gemm_job *j, int64_t m, int64_t j0, int64_t j1, const float *v,
                       const float *gate)
{
    const epilogue e = {j->act, j->y_dtype, j->residual_dtype, j->residual != NULL,
                        j->row_bias != NULL};
    const bool f32 = e.y == AN_F32 && !e.has_row_bias;
    if (f32 && !gate && e.act == AN_ACT_NONE && !e.has_residual)
        finish_as((epilogue){.act = AN_ACT_NONE, .y = AN_F32}, j, m, j0, j1, v, NULL);
    else if (f32 && !gate && e.act == AN_ACT_NONE && e.residual == AN_F32)
        finish_as((epilogue){AN_ACT_NONE, AN_F32, AN_F32, true, false}, j, m, j0, j1, v, NULL);
    else if (f32 && gate && e.act == AN_ACT_SWIGLU && !e.has_residual)
        finish_as((epilogue){.act = AN_ACT_SWIGLU, .y = AN_F32}, j, m, j0, j1, v, gate);
    else
        finish_as(e, j, m, j0, j1, v, gate);
}

/* ---------------------------------------------------------------- one task */

/* Neighbouring panels, and the column of the C block where they begin. */
typedef struct panel_span {
    int64_t first, count, column;
} panel_span;

static panel_span span_of(int64_t from, int64_t to, int64_t column)
{
    int64_t first = from / NR;
    return (panel_span){first, (to + NR - 1) / NR - first, column};
}

/* Rows k0..k0+k of a panel: in place, or expanded into bx. */
static inline const void *panel_rows(const an_gemm_weight *w, int64_t p, int64_t k0, int64_t k,
                                     bool expand, bool half, elem *bx)
{
    int64_t at = p * w->panel + k0 * NR;
#if !A_BF16
    if (half) return (const uint16_t *)w->data + at;
    if (expand) {
        bf16_to_f32(bx, (const uint16_t *)w->data + at, k * NR);
        return bx;
    }
#endif
    (void)expand, (void)half, (void)bx, (void)k;
    return (const elem *)w->data + at;
}

static int64_t panel_of(const panel_span *span, int64_t p)
{
    return p < span[0].count ? span[0].first + p : span[1].first + p - span[0].count;
}

/* The next panel comes from far away while the present one is worked on: a share with every tile.
 */
typedef struct ahead {
    const char *at;
    int64_t bytes, step; /* left; a tile's share */
} ahead;

static ahead ahead_of(const an_gemm_weight *w, int64_t p, int64_t k0)
{
    const int64_t size = w->kernel->dtype == AN_BF16 ? 2 : 4;
    int64_t bytes = min64(w->panel - k0 * NR, KC * NR) * size;
    return (ahead){(const char *)w->data + (p * w->panel + k0 * NR) * size, bytes > 0 ? bytes : 0,
                   0};
}

static inline void prefetch(ahead *a)
{
    int64_t n = min64(a->step, a->bytes);
    for (int64_t i = 0; i < n; i += 64) __builtin_prefetch(a->at + i, 0, 2);
    a->at += n;
    a->bytes -= n;
}

/* A tile over one K block, run by run; the chain goes on from run to run. */
static inline void tile_runs(int rows, int64_t k, a_view v, const void *panel, bool half, float *c,
                             int64_t ldc, bool first)
{
    const elem *b = panel;
#if !A_BF16
    const uint16_t *h = panel;
#endif
    for (int64_t run = min64(v.first, k);; run = min64(v.run, k)) {
#if !A_BF16
        if (half)
            tile_half(rows, run, v.a, v.lda, h, c, ldc, first);
        else
            tile(rows, run, v.a, v.lda, b, c, ldc, first);
        h += half ? run * NR : 0;
#else
        tile(rows, run, v.a, v.lda, b, c, ldc, first);
#endif
        k -= run;
        if (k <= 0) return;
        b += half ? 0 : run * NR;
        v.a += run + v.gap;
        first = false;
    }
}

static inline __attribute__((always_inline)) void run_block(const an_gemm_job *j, int64_t m0,
                                                            int64_t m1, int64_t j0, int64_t j1,
                                                            void *scratch, bool expand)
{
    const an_gemm_weight *w = j->w;
    elem *a = scratch, *bx = (elem *)((char *)scratch + BLOCK_A + BLOCK_C);
    float *c = (float *)((char *)scratch + BLOCK_A);
    const bool gated = w->n != j->n_out;
#if A_BF16
    const bool half = false;
#else
    const bool half = expand && m1 - m0 <= HALF_ROWS;
#endif
    panel_span span[2] = {span_of(j0, j1, 0), {0, 0, 0}};
    if (gated) span[1] = span_of(j->n_out + j0, j->n_out + j1, span[0].count * NR);
    /* An odd number of cache lines a row: rows of C must not all fall into the same sets. */
    int64_t ldc = (span[0].count + span[1].count) * NR;
    if (ldc / 16 % 2 == 0) ldc += 16;

    const int64_t panels = span[0].count + span[1].count;
    a_view view[MC / MR];
    for (int64_t k0 = 0; k0 < w->k; k0 += KC) {
        int64_t k = min64(w->k - k0, KC);
        for (int64_t m = m0; m < m1; m += MR)
            view[(m - m0) / MR] = view_of(j, m, min64(m1 - m, MR), k0, k, a + (m - m0) * KC);
        for (int64_t p = 0; p < panels; p++) {
            const void *b = panel_rows(w, panel_of(span, p), k0, k, expand, half, bx);
            ahead next = p + 1 < panels ? ahead_of(w, panel_of(span, p + 1), k0)
                                        : ahead_of(w, panel_of(span, 0), k0 + KC);
            /* With few tiles the panel is not what they wait for, or they wait for nothing else. */
            next.step = m1 - m0 < 4 * MR ? 0 : next.bytes * MR / (m1 - m0) + 64;
            for (int64_t m = 0; m < m1 - m0; m += MR) {
                prefetch(&next);
                tile_runs((int)min64(m1 - m0 - m, MR), k, view[m / MR], b, half,
                          c + m * ldc + p * NR, ldc, k0 == 0);
            }
        }
    }
    for (int64_t m = m0; m < m1; m++) {
        const float *v = c + (m - m0) * ldc;
        const float *gate =
            gated ? v + span[1].column + (j->n_out + j0 - span[1].first * NR) : NULL;
        finish_row(j, m, j0, j1, v, gate);
    }
}
