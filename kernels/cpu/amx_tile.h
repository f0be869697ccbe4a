/* amx_tile.h: the six AMX operations used here, as an_tile_*, on tiles of 16 rows of 64 bytes. With
 * AN_AMX_EMULATE they are plain C on an ordinary struct, so that code written for AMX is tested on
 * machines without it; otherwise they are the intrinsics, and tile numbers are compile-time
 * constants. A function that uses tiles begins with AN_TILES; a thread's task begins with
 * an_tile_begin and ends with an_tile_end (a released tile file makes context switches cheap). */
#ifndef ANNEAL_CPU_AMX_TILE_H
#define ANNEAL_CPU_AMX_TILE_H

#include "anneal/base.h"

#ifdef AN_AMX_EMULATE

typedef struct an_tiles {
    union {
        float f[16][16];
        uint16_t h[16][32];
    } t[8];
} an_tiles;

static inline void an_tile_begin(void) {}
static inline void an_tile_end(void) {}

static inline void an_emulate_load(an_tiles *x, int t, const void *p, int64_t stride)
{
    for (int r = 0; r < 16; r++) memcpy(x->t[t].h[r], (const char *)p + r * stride, 64);
}

static inline void an_emulate_store(const an_tiles *x, int t, void *p, int64_t stride)
{
    for (int r = 0; r < 16; r++) memcpy((char *)p + r * stride, x->t[t].h[r], 64);
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

#define AN_TILES                    an_tiles an_tiles_
#define an_tile_zero(i)             memset(&an_tiles_.t[i], 0, sizeof an_tiles_.t[i])
#define an_tile_load(i, p, stride)  an_emulate_load(&an_tiles_, (i), (p), (stride))
#define an_tile_store(i, p, stride) an_emulate_store(&an_tiles_, (i), (p), (stride))
#define an_tile_dpbf16(c, a, b)     an_emulate_dp(&an_tiles_, (c), (a), (b))

#else

#include <immintrin.h>

/* Palette 1: all eight tiles 16 rows of 64 bytes. */
static inline void an_tile_begin(void)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = 64;
        config.rows[i] = 16;
    }
    /* The compiler is told that 8 bytes of it are read; 64 are. */
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
}
static inline void an_tile_end(void)
{
    _tile_release();
}

/* The tile loads do not tell the compiler what they read: what was stored before must be there. */
#define AN_TILES                    __asm__ volatile("" ::: "memory")
#define an_tile_zero(t)             _tile_zero(t)
/* No parentheses: the compiler's macros paste the tile's number into the instruction. */
#define an_tile_load(t, p, stride)  _tile_loadd(t, (p), (size_t)(stride))
#define an_tile_store(t, p, stride) _tile_stored(t, (p), (size_t)(stride))
#define an_tile_dpbf16(c, a, b)     _tile_dpbf16ps(c, a, b)

#endif
#endif
