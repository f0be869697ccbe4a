/* block.c: reading GGUF's blocks. Their layouts are described in base/quant.c. */
#include "block.h"

#include <string.h>

const int8_t an_block_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                    1,    13,   25,  38,  53,  69,  89,  113};

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void read_nibbles(const uint8_t *qs, an_block *v)
{
    for (int i = 0; i < 16; i++) {
        v->q[i] = qs[i] & 15;
        v->q[i + 16] = qs[i] >> 4;
    }
}

static void read_fifth(const uint8_t *high, an_block *v)
{
    for (int i = 0; i < 32; i++) v->q[i] |= (uint8_t)((high[i / 8] >> (i % 8) & 1) << 4);
}

/* Scale and minimum of part j of Q4_K and Q5_K. */
static void read_k4_scales(const uint8_t *s, int j, an_block *v)
{
    v->small[0] = s[j] & 63;
    v->min[0] = s[(j + 4) % 12] & 63;
    if (j >= 4) {
        v->small[0] = (uint8_t)((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        v->min[0] = (uint8_t)(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
}

static uint8_t q3_scale(const uint8_t *s, int part)
{
    const int low = part < 8 ? s[part] & 15 : s[part - 8] >> 4;
    return (uint8_t)((low | (s[8 + part % 4] >> (part / 4 * 2) & 3) << 4) - 32);
}

/* Values 32 part .. of a block of 256. */
static void read_k(an_dtype format, const uint8_t *b, int part, an_block *v)
{
    const int half = part / 4;
    switch (format) {
    case AN_Q2_K:
        v->d = u16_at(b + 80), v->m = u16_at(b + 82);
        for (int i = 0; i < 32; i++) v->q[i] = b[16 + half * 32 + i] >> (part % 4 * 2) & 3;
        for (int i = 0; i < 2; i++) {
            v->small[i] = b[2 * part + i] & 15;
            v->min[i] = b[2 * part + i] >> 4;
        }
        break;
    case AN_Q3_K:
        v->d = u16_at(b + 108);
        for (int i = 0; i < 32; i++)
            v->q[i] =
                (uint8_t)((b[32 + half * 32 + i] >> (part % 4 * 2) & 3) | (b[i] >> part & 1) << 2);
        for (int i = 0; i < 2; i++) v->small[i] = q3_scale(b + 96, 2 * part + i);
        break;
    case AN_Q4_K:
    case AN_Q5_K: {
        const uint8_t *qs = b + (format == AN_Q5_K ? 48 : 16) + part / 2 * 32;
        v->d = u16_at(b), v->m = u16_at(b + 2);
        read_k4_scales(b + 4, part, v);
        for (int i = 0; i < 32; i++) {
            v->q[i] = qs[i] >> (part % 2 * 4) & 15;
            if (format == AN_Q5_K) v->q[i] |= (uint8_t)((b[16 + i] >> part & 1) << 4);
        }
        break;
    }
    case AN_Q6_K:
        v->d = u16_at(b + 208);
        for (int i = 0; i < 32; i++) {
            const int k = part % 4 * 32 + i;
            v->q[i] = (uint8_t)((b[half * 64 + k % 64] >> (k / 64 * 4) & 15) |
                                (b[128 + half * 32 + i] >> (part % 4 * 2) & 3) << 4);
        }
        for (int i = 0; i < 2; i++) v->small[i] = b[192 + 2 * part + i];
        break;
    default: /* IQ4_XS */
        v->d = u16_at(b);
        v->small[0] = (uint8_t)((b[4 + part / 2] >> (part % 2 * 4) & 15) |
                                (u16_at(b + 2) >> (2 * part) & 3) << 4);
        v->small[0] = (uint8_t)(v->small[0] - 32);
        read_nibbles(b + 8 + part * 16, v);
        break;
    }
}

void an_block_read(an_dtype format, const uint8_t *row, int64_t block, an_block *v)
{
    const int64_t size = (int64_t)an_dtype_block_bytes(format);
    memset(v, 0, sizeof *v);
    if (an_dtype_block(format) == 256) {
        read_k(format, row + block / 8 * size, (int)(block % 8), v);
        return;
    }
    const uint8_t *b = row + block * size;
    v->d = u16_at(b);
    b += 2;
    if (format == AN_Q4_1 || format == AN_Q5_1) {
        v->m = u16_at(b);
        b += 2;
    }
    if (format == AN_Q8_0) {
        memcpy(v->q, b, 32);
        return;
    }
    const bool five = format == AN_Q5_0 || format == AN_Q5_1;
    read_nibbles(b + (five ? 4 : 0), v);
    if (five) read_fifth(b, v);
}
