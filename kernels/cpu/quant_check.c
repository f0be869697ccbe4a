/* quant_check.c: the self-test of a kernel, run when a device opens: every format on random bytes,
 * with the largest numbers among them, against plain C: rounded activations to the bit, products to
 * f32's rounding. */
#include "quant.h"

#include <stdlib.h>

#define BLOCKS 16 /* of 32: two of 256 */
#define BYTES  ((8 * (256 + 16) + 48) * BLOCKS)

static uint32_t next(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 8;
}

/* f16 powers of two: 2^-1 .. 2^2. */
static void put_scales(uint8_t *to, int n, uint32_t *s)
{
    for (int i = 0; i < n; i += 2) {
        to[i] = 0;
        to[i + 1] = (uint8_t)(0x38 + next(s) % 4 * 4);
    }
}

static void make_panel(an_dtype format, uint8_t *p, uint32_t *s)
{
    const an_quant_layout l = an_quant_layout_of(format);
    for (int b = 0; b < BLOCKS; b++) {
        if (l.super && b % 8 == 0) {
            put_scales(p, l.super, s);
            p += l.super;
        }
        const int kind = b % 4; /* of every other block: all bits set, or none */
        for (int i = 0; i < l.head + l.body; i++)
            p[i] = kind == 1 ? 0xff : kind == 3 ? 0 : (uint8_t)next(s);
        if (!l.super) put_scales(p, l.head, s);
        /* small scales within what a file can say */
        for (int i = 0; l.super && i < l.head; i++)
            p[i] = format == AN_Q6_K                          ? p[i]
                   : format == AN_Q3_K || format == AN_IQ4_XS ? (uint8_t)(p[i] % 64 - 32)
                   : format == AN_Q2_K                        ? p[i] & 15
                                                              : p[i] & 63;
        p += l.head + l.body;
    }
}

typedef struct check {
    uint8_t panel[2][BYTES];
    char slack[64]; /* read, not used */
    char tile[2][AN_QUANT_X * AN_QUANT_ROWS * BLOCKS];
    float x[32 * BLOCKS], want[2][AN_QUANT_ROWS * AN_QUANT_LANES];
    float out[AN_QUANT_ROWS * AN_QUANT_LANES * 2];
} check;

static bool same_tiles(check *c, const an_quant_kernel *kernel, int rows, uint32_t *s)
{
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < 32 * BLOCKS; i++) {
            const int v = (int)(next(s) % 255) - 127;
            c->x[i] = (float)(i % 32 == 0 ? 127 : i / 32 % 4 == 1 ? (i % 2 ? 127 : -127) : v) / 64;
            if (i / 32 % 4 == 2) c->x[i] = 127;
        }
        uint16_t half[32 * BLOCKS];
        an_convert(half, AN_BF16, c->x, AN_F32, 32 * BLOCKS);
        const void *from = r % 2 ? (const void *)half : (const void *)c->x;
        const an_dtype t = r % 2 ? AN_BF16 : AN_F32;
        an_quant_generic.round(from, t, 32 * BLOCKS, rows, r, c->tile[0]);
        kernel->round(from, t, 32 * BLOCKS, rows, r, c->tile[1]);
    }
    return !memcmp(c->tile[0], c->tile[1], (size_t)(AN_QUANT_X * rows * BLOCKS));
}

static bool agree(check *c, const an_quant_kernel *kernel, an_dtype format, int rows)
{
    uint32_t s = (uint32_t)format * 8 + (uint32_t)rows;
    memset(c, 0, sizeof *c);
    if (!same_tiles(c, kernel, rows, &s)) return false;
    for (int i = 0; i < 2; i++) {
        make_panel(format, c->panel[i], &s);
        an_quant_generic.panel(format, rows, c->panel[i], 0, BLOCKS, c->tile[0], c->want[i]);
    }
    const int lanes = AN_QUANT_LANES * kernel->panels;
    kernel->panel(format, rows, c->panel[0], BYTES, BLOCKS, c->tile[1], c->out);
    for (int i = 0; i < rows * lanes; i++) {
        const int at = i / lanes * AN_QUANT_LANES + i % AN_QUANT_LANES;
        const float want = c->want[i % lanes / AN_QUANT_LANES][at];
        const float d = want - c->out[i], a = want < 0 ? -want : want;
        if (!(d <= 1e-3f + 1e-5f * a && -d <= 1e-3f + 1e-5f * a)) return false;
    }
    return true;
}

/* Many tiles at a time: to the bit what the same kernel gives one by one. */
static bool agree_many(const an_quant_kernel *kernel, an_dtype format, int n)
{
    enum { LANES = AN_QUANT_LANES * 2, TILE = AN_QUANT_X * AN_QUANT_ROWS * BLOCKS };
    struct many {
        check c;
        char x[AN_QUANT_MANY][TILE];
        float one[AN_QUANT_MANY][AN_QUANT_ROWS * LANES], all[AN_QUANT_MANY][AN_QUANT_ROWS * LANES];
    } *d = calloc(1, sizeof *d);
    if (!d) return false;
    uint32_t s = (uint32_t)format * 8 + (uint32_t)n;
    bool ok = true;
    for (int i = 0; i < 2; i++) make_panel(format, d->c.panel[i], &s);
    for (int t = 0; t < n && ok; t++) {
        ok = same_tiles(&d->c, kernel, AN_QUANT_ROWS, &s);
        memcpy(d->x[t], d->c.tile[1], TILE);
        kernel->panel(format, AN_QUANT_ROWS, d->c.panel[0], BYTES, BLOCKS, d->x[t], d->one[t]);
    }
    kernel->tiles(format, n, d->c.panel[0], BYTES, BLOCKS, d->x, d->all[0]);
    ok = ok && !memcmp(d->one, d->all, (size_t)n * sizeof d->one[0]);
    free(d);
    return ok;
}

bool an_quant_check_kernel(const an_quant_kernel *kernel)
{
    check *c = malloc(sizeof *c);
    bool ok = c != NULL;
    for (an_dtype f = AN_Q4_0; f < AN_DTYPE_COUNT; f++)
        for (int rows = 1; ok && rows <= AN_QUANT_ROWS; rows *= 2) ok = agree(c, kernel, f, rows);
    for (an_dtype f = AN_Q4_0; f < AN_DTYPE_COUNT && kernel->tiles; f++)
        for (int n = 1; ok && n <= AN_QUANT_MANY; n++) ok = agree_many(kernel, f, n);
    free(c);
    return ok;
}
