/* amx_tile.h: the AMX operations used here, as an_tile_*, on tiles of 16 rows of 64 bytes, or of
 * shapes that a file chooses (an_tile_shapes, an_tile_begin_as, AN_TILES_AS). With
 * AN_AMX_EMULATE they are plain C on an ordinary struct, so that code written for AMX is tested on
 * machines without it; otherwise they are the intrinsics, and tile numbers are compile-time
 * constants. A function that uses tiles begins with AN_TILES; a thread's task begins with
 * an_tile_begin and ends with an_tile_end (a released tile file makes context switches cheap). */
#ifndef ANNEAL_CPU_AMX_TILE_H
#define ANNEAL_CPU_AMX_TILE_H

#include "anneal/base.h"

/* Of the eight tiles: rows (to 16) and bytes of a row (to 64, a multiple of 4). */
typedef struct an_tile_shapes {
    uint8_t rows[8];
    uint16_t bytes[8];
} an_tile_shapes;
#define AN_TILE_WHOLE                                                                              \
    {                                                                                              \
        {16, 16, 16, 16, 16, 16, 16, 16},                                                          \
        {                                                                                          \
            64, 64, 64, 64, 64, 64, 64, 64                                                         \
        }                                                                                          \
    }

#ifdef AN_AMX_EMULATE

typedef struct an_tiles {
    union {
        float f[16][16];
        uint16_t h[16][32];
        uint8_t b[16][64];
        int32_t i[16][16];
    } t[8];
    an_tile_shapes shape;
} an_tiles;

static inline void an_tile_begin_as(const an_tile_shapes *s)
{
    (void)s;
}
static inline void an_tile_begin(void) {}
static inline void an_tile_end(void) {}

static inline void an_emulate_load(an_tiles *x, int t, const void *p, int64_t stride)
{
    memset(&x->t[t], 0, sizeof x->t[t]);
    for (int r = 0; r < x->shape.rows[t]; r++)
        memcpy(x->t[t].b[r], (const char *)p + r * stride, x->shape.bytes[t]);
}

static inline void an_emulate_store(const an_tiles *x, int t, void *p, int64_t stride)
{
    for (int r = 0; r < x->shape.rows[t]; r++)
        memcpy((char *)p + r * stride, x->t[t].b[r], x->shape.bytes[t]);
}

/* c[rows][columns] += a[rows][k] . b[k / 4][columns][4], signed by unsigned bytes, exactly. */
static inline void an_emulate_bytes(an_tiles *x, int c, int a, int b)
{
    for (int m = 0; m < x->shape.rows[c]; m++)
        for (int k = 0; k < x->shape.bytes[a]; k++)
            for (int n = 0; n < x->shape.bytes[c] / 4; n++)
                x->t[c].i[m][n] += (int8_t)x->t[a].b[m][k] * x->t[b].b[k / 4][4 * n + k % 4];
}

/* c[16][16] += a[16][32] . b[16][16][2]: as the hardware, pair by pair in order (its rounding of a
 * pair's two products differs in the last bit: it flushes denormals and rounds the sum once). */
static inline void an_emulate_dp(an_tiles *x, int c, int a, int b)
{
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 16; n++)
                x->t[c].f[m][n] +=
                    an_bf16_to_f32(x->t[a].h[m][2 * k]) * an_bf16_to_f32(x->t[b].h[k][2 * n]) +
                    an_bf16_to_f32(x->t[a].h[m][2 * k + 1]) *
                        an_bf16_to_f32(x->t[b].h[k][2 * n + 1]);
}

#define AN_TILES an_tiles an_tiles_ = {.shape = AN_TILE_WHOLE}
#define AN_TILES_AS(shapes)                                                                        \
    an_tiles an_tiles_;                                                                            \
    an_tiles_.shape = (shapes)
#define an_tile_fence()             ((void)0)
#define an_tile_dpbsud(c, a, b)     an_emulate_bytes(&an_tiles_, (c), (a), (b))
#define an_tile_zero(i)             memset(&an_tiles_.t[i], 0, sizeof an_tiles_.t[i])
#define an_tile_load(i, p, stride)  an_emulate_load(&an_tiles_, (i), (p), (stride))
#define an_tile_store(i, p, stride) an_emulate_store(&an_tiles_, (i), (p), (stride))
#define an_tile_dpbf16(c, a, b)     an_emulate_dp(&an_tiles_, (c), (a), (b))

#else

#include <immintrin.h>

static inline void an_tile_begin_as(const an_tile_shapes *s)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = s->bytes[i];
        config.rows[i] = s->rows[i];
    }
    /* The compiler is told that 8 bytes of it are read; 64 are. */
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
}
static inline void an_tile_begin(void)
{
    static const an_tile_shapes whole = AN_TILE_WHOLE;
    an_tile_begin_as(&whole);
}
static inline void an_tile_end(void)
{
    _tile_release();
}

/* The tile loads do not tell the compiler what they read: what was stored before must be there. */
#define an_tile_fence()             __asm__ volatile("" ::: "memory")
#define AN_TILES                    an_tile_fence()
#define AN_TILES_AS(shapes)         an_tile_fence()
#define an_tile_dpbsud(c, a, b)     _tile_dpbsud(c, a, b)
#define an_tile_zero(t)             _tile_zero(t)
/* No parentheses: the compiler's macros paste the tile's number into the instruction. */
#define an_tile_load(t, p, stride)  _tile_loadd(t, (p), (size_t)(stride))
#define an_tile_store(t, p, stride) _tile_stored(t, (p), (size_t)(stride))
#define an_tile_dpbf16(c, a, b)     _tile_dpbf16ps(c, a, b)

#endif
#endif
