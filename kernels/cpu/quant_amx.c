/* quant_amx.c: two panels against many rows with AMX: one instruction multiplies 8 rows of 32 bytes
 * of activations with 32 values of 16 outputs. A block's numbers are unpacked once for up to 32
 * rows, as the VNNI kernel unpacks them, and its integer sums, exact in both, go through the same
 * scales in the same order: so the bits are the VNNI kernel's, which does what is left of the rows
 * and all ticks of few. AN_AMX_EMULATE with AN_VNNI_EMULATE builds the same from plain C. */
#include "quant.h"

#if defined(AN_AMX_EMULATE) || (defined(__AVX512VNNI__) && defined(__AMX_INT8__)) ||               \
    (defined(__AVX512VNNI__) && defined(__AMXINT8__))
#include "amx_tile.h"
#include "quant_512.h"

/* Tiles 0 to 3: sums of 8 rows and 16 outputs. 4: a block's numbers [8 groups][16 outputs][4], 5:
 * its activations [8 rows][32]. 6 and 7: likewise of half a block. */
static const an_tile_shapes shapes = {{8, 8, 8, 8, 8, 8, 4, 8}, {64, 64, 64, 64, 64, 32, 64, 16}};

typedef struct amx_block {
    vbytes number[8];
    vints sum[2][AN_QUANT_MANY][AN_QUANT_ROWS]; /* of the halves; of the whole in [0] */
} amx_block;

/* Sums of a block for n tiles of rows, `apart` bytes from each other; a half: b, a = 6, 7. */
#define DOT(tile, b, a, at, sums)                                                                  \
    if (tile < n) {                                                                                \
        an_tile_zero(tile);                                                                        \
        an_tile_load(a, x + tile * apart + (at), 32);                                              \
        an_tile_dpbsud(tile, a, b);                                                                \
        an_tile_store(tile, (sums)[tile], 64);                                                     \
    }
#define DOTS(b, a, number, at, sums)                                                               \
    an_tile_load(b, number, 64);                                                                   \
    DOT(0, b, a, at, sums)                                                                         \
    DOT(1, b, a, at, sums)                                                                         \
    DOT(2, b, a, at, sums)                                                                         \
    DOT(3, b, a, at, sums)

static __attribute__((noinline)) void dot_whole(amx_block *k, int n, const char *x, int64_t apart)
{
    AN_TILES_AS(shapes);
    DOTS(4, 5, k->number, 0, k->sum[0])
    an_tile_fence();
}
static __attribute__((noinline)) void dot_halves(amx_block *k, int n, const char *x, int64_t apart)
{
    AN_TILES_AS(shapes);
    DOTS(6, 7, k->number, 0, k->sum[0])
    DOTS(6, 7, k->number + 4, 16, k->sum[1])
    an_tile_fence();
}

INLINE void tiles_of(const an_dtype f, int n, const uint8_t *p, int64_t stride, int64_t blocks,
                     const char *x, float *out)
{
    const an_quant_layout l = an_quant_layout_of(f);
    const int64_t apart = blocks * AN_QUANT_X * AN_QUANT_ROWS;
    vfloats super_d = {0}, super_m = {0}, acc[AN_QUANT_MANY * AN_QUANT_ROWS];
    amx_block k;
    memset(acc, 0, sizeof acc);
    memset(&k, 0, sizeof k);
    for (int64_t i = 0; i < blocks; i++, p += l.head + l.body, x += AN_QUANT_X * AN_QUANT_ROWS) {
        if (l.super && i % 8 == 0) p = super_of(l, p, stride, &super_d, &super_m);
        scales s;
        scales_of(f, &super_d, &super_m, p, p + stride, &s);
#define UNPACK(g) k.number[g] = numbers(f, p + l.head, p + l.head + stride, g);
        GROUPS(UNPACK)
#undef UNPACK
        if (of_16(f))
            dot_halves(&k, n, x, apart);
        else
            dot_whole(&k, n, x, apart);
        for (int t = 0; t < n; t++)
            for (int m = 0; m < AN_QUANT_ROWS; m++)
                add_block(f, AN_QUANT_ROWS, m, &s, &k.sum[0][t][m], &k.sum[1][t][m], x + t * apart,
                          &acc[t * AN_QUANT_ROWS + m]);
    }
    memcpy(out, acc, (size_t)n * AN_QUANT_ROWS * sizeof acc[0]);
}

#define TILES_OF(f)                                                                                \
    static void tiles_##f(int n, const uint8_t *p, int64_t stride, int64_t blocks, const char *x,  \
                          float *out)                                                              \
    {                                                                                              \
        tiles_of(AN_##f, n, p, stride, blocks, x, out);                                            \
    }
EACH_FORMAT(TILES_OF)

static void run_tiles(an_dtype format, int n, const void *panel, int64_t stride, int64_t blocks,
                      const void *x, float *out)
{
    static void (*const fns[])(int, const uint8_t *, int64_t, int64_t, const char *, float *) = {
#define TILES_ENTRY(f) [AN_##f] = tiles_##f,
        EACH_FORMAT(TILES_ENTRY)};
    an_tile_begin_as(&shapes);
    fns[format](n, panel, stride, blocks, x, out);
    an_tile_end();
}

/* Few rows are VNNI's. */
static void amx_round(const void *x, an_dtype dtype, int64_t k, int rows, int r, void *tile)
{
    an_quant_vnni.round(x, dtype, k, rows, r, tile);
}
static void amx_panel(an_dtype format, int rows, const void *panel, int64_t stride, int64_t blocks,
                      const void *tile, float *out)
{
    an_quant_vnni.panel(format, rows, panel, stride, blocks, tile, out);
}

const an_quant_kernel an_quant_amx = {"amx int8", 2, amx_round, amx_panel, run_tiles};
#else
const an_quant_kernel an_quant_amx; /* another processor */
#endif
