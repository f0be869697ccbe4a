/* quant_check.c: the self-test of a kernel, run when a device opens: every format on random bytes,
 * with the largest numbers among them, against plain C: rounded activations to the bit, products to
 * f32's rounding, which no wrong integer would pass. */
#include "quant.h"

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

static bool agree(const an_quant_kernel *kernel, an_dtype format, int rows)
{
    static const an_dtype dtypes[2] = {AN_F32, AN_BF16};
    uint8_t panel[BYTES + 64];
    char tile[2][AN_QUANT_X * AN_QUANT_ROWS * BLOCKS];
    float x[32 * BLOCKS], out[2][AN_QUANT_ROWS * AN_QUANT_LANES];
    uint32_t s = (uint32_t)format * 8 + (uint32_t)rows;
    memset(panel, 0, sizeof panel);
    memset(tile, 0, sizeof tile);
    make_panel(format, panel, &s);
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < 32 * BLOCKS; i++) {
            const int v = (int)(next(&s) % 255) - 127;
            x[i] = (float)(i % 32 == 0 ? 127 : i / 32 % 4 == 1 ? (i % 2 ? 127 : -127) : v) / 64;
            if (i / 32 % 4 == 2) x[i] = 127;
        }
        uint16_t half[32 * BLOCKS];
        an_convert(half, AN_BF16, x, AN_F32, 32 * BLOCKS);
        const void *from = r % 2 ? (const void *)half : (const void *)x;
        an_quant_generic.round(from, dtypes[r % 2], 32 * BLOCKS, rows, r, tile[0]);
        kernel->round(from, dtypes[r % 2], 32 * BLOCKS, rows, r, tile[1]);
    }
    const size_t used = (size_t)(AN_QUANT_X * rows * BLOCKS);
    if (memcmp(tile[0], tile[1], used)) return false;
    an_quant_generic.panel(format, rows, panel, BLOCKS, tile[0], out[0]);
    kernel->panel(format, rows, panel, BLOCKS, tile[1], out[1]);
    for (int i = 0; i < rows * AN_QUANT_LANES; i++) {
        const float d = out[0][i] - out[1][i], a = out[0][i] < 0 ? -out[0][i] : out[0][i];
        if (!(d <= 1e-3f + 1e-5f * a && -d <= 1e-3f + 1e-5f * a)) return false;
    }
    return true;
}

bool an_quant_check_kernel(const an_quant_kernel *kernel)
{
    for (an_dtype f = AN_Q4_0; f < AN_DTYPE_COUNT; f++)
        for (int rows = 1; rows <= AN_QUANT_ROWS; rows *= 2)
            if (!agree(kernel, f, rows)) return false;
    return true;
}
