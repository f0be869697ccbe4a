/* quant_vnni.c: two panels against a few rows with AVX-512 VNNI: one instruction multiplies 64
 * bytes with 4 broadcast activations and adds to 16 outputs' 32-bit sums. It wants unsigned
 * numbers: signed ones are taken 128 higher, and 128 times the sum of x goes off again, exactly.
 * The bits are those of the AVX2 kernel. */
#include "quant.h"

#if defined(AN_VNNI_EMULATE) || defined(__AVX512VNNI__)
#include "quant_512.h"

INLINE void run_panel_of(const an_dtype f, const int M, const uint8_t *p, int64_t stride,
                         int64_t blocks, const char *x, float *out)
{
    const an_quant_layout l = an_quant_layout_of(f);
    const int64_t ahead = an_quant_ahead(stride);
    vfloats super_d = {0}, super_m = {0};
#define BEGIN(m) vfloats acc##m = {0};
    ROWS(BEGIN)
    for (int64_t i = 0; i < blocks; i++, p += l.head + l.body, x += AN_QUANT_X * M) {
        if (l.super && i % 8 == 0) p = super_of(l, p, stride, &super_d, &super_m);
        an_quant_fetch(p + ahead, p + stride + ahead, l.head + l.body);
        scales s;
        scales_of(f, &super_d, &super_m, p, p + stride, &s);
        const uint8_t *body = p + l.head;
#define NO_SUM(m) vints low##m = {0}, high##m = {0};
        ROWS(NO_SUM)
#define STEP(m)                                                                                    \
    if (m < M) dot4(g < 4 ? &low##m : &high##m, &w, int_at(x + 32 * m + 4 * g));
#define GROUP(number)                                                                              \
    {                                                                                              \
        const int g = number;                                                                      \
        const vbytes w = numbers(f, body, body + stride, g);                                       \
        ROWS(STEP)                                                                                 \
    }
        GROUPS(GROUP)
#define END(m)                                                                                     \
    if (m < M) add_block(f, M, m, &s, &low##m, &high##m, x, &acc##m);
        ROWS(END)
    }
#define STORE(m)                                                                                   \
    if (m < M) memcpy(out + 16 * m, &acc##m, sizeof acc##m);
    ROWS(STORE)
#undef BEGIN
#undef NO_SUM
#undef STEP
#undef GROUP
#undef END
#undef STORE
}

#define PANEL_OF(f)                                                                                \
    static void panel_##f(int rows, const uint8_t *p, int64_t stride, int64_t blocks,              \
                          const char *x, float *out)                                               \
    {                                                                                              \
        switch (rows) {                                                                            \
        case 1:                                                                                    \
            run_panel_of(AN_##f, 1, p, stride, blocks, x, out);                                    \
            break;                                                                                 \
        case 2:                                                                                    \
            run_panel_of(AN_##f, 2, p, stride, blocks, x, out);                                    \
            break;                                                                                 \
        case 4:                                                                                    \
            run_panel_of(AN_##f, 4, p, stride, blocks, x, out);                                    \
            break;                                                                                 \
        default:                                                                                   \
            run_panel_of(AN_##f, 8, p, stride, blocks, x, out);                                    \
            break;                                                                                 \
        }                                                                                          \
    }
EACH_FORMAT(PANEL_OF)

static void run_panel(an_dtype format, int rows, const void *panel, int64_t stride, int64_t blocks,
                      const void *tile, float *out)
{
    static void (*const fns[])(int, const uint8_t *, int64_t, int64_t, const char *, float *) = {
#define ENTRY(f) [AN_##f] = panel_##f,
        EACH_FORMAT(ENTRY)};
    fns[format](rows, panel, stride, blocks, tile, out);
}

/* Activations are rounded as AVX2 does it. */
static void round_row(const void *x, an_dtype dtype, int64_t k, int rows, int r, void *tile)
{
    (an_quant_avx2.round ? an_quant_avx2.round : an_quant_generic.round)(x, dtype, k, rows, r,
                                                                         tile);
}

const an_quant_kernel an_quant_vnni = {"avx512 vnni", 2, round_row, run_panel, NULL};
#else
const an_quant_kernel an_quant_vnni; /* another processor */
#endif
