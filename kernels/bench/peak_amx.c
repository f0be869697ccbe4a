/* peak_amx.c: the peak of AMX bf16: four accumulators, as GEMM has them. */
#include "peak.h"

#if defined(__AMX_BF16__) || defined(__AMXBF16__)
#include "../cpu/amx_tile.h"

double an_peak_amx(int64_t rounds)
{
    static const uint16_t zeros[512];
    an_tile_begin();
    AN_TILES;
    an_tile_zero(0);
    an_tile_zero(1);
    an_tile_zero(2);
    an_tile_zero(3);
    an_tile_load(4, zeros, 64);
    an_tile_load(5, zeros, 64);
    an_tile_load(6, zeros, 64);
    an_tile_load(7, zeros, 64);
    for (int64_t i = 0; i < rounds; i++) {
        an_tile_dpbf16(0, 4, 6);
        an_tile_dpbf16(1, 4, 7);
        an_tile_dpbf16(2, 5, 6);
        an_tile_dpbf16(3, 5, 7);
    }
    an_tile_end();
    return (double)rounds * 4 * 16 * 16 * 32 * 2;
}
#else
double an_peak_amx(int64_t rounds)
{
    return 0 * (double)rounds;
}
#endif
