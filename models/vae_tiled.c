/* vae_tiled.c: decoding in tiles, so that memory does not grow with the picture. As diffusers'
 * AutoencoderKL.tiled_decode: tiles of `tile` latents start three quarters of a tile apart; where
 * two overlap the later one fades in, downwards first and then to the right.
 *
 * Blending touches a thin border of each tile, so it is done on the host, a few kilobytes at a
 * time, rather than by an op of its own. */
#include "vae.h"

/* One decoded tile: F32 [h, w, 3]. */
typedef struct tile_picture {
    an_tensor t;
    int64_t h, w;
} tile_picture;

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* b = a * (1 - k) + b * k over `count` floats on the device; k is of the step-th group of `group`
 * floats in `steps`, or constant when group is 0. */
static void fade(an_lane *l, an_tensor a, int64_t a_at, an_tensor b, int64_t b_at, int64_t count,
                 int64_t step, int64_t group, int64_t steps)
{
    enum { CHUNK = 1536 };
    float from[CHUNK] = {0}, to[CHUNK] = {0};
    for (int64_t done = 0; done < count; done += CHUNK) {
        int64_t n = min64(CHUNK, count - done);
        an_download(l, from, an_view_of(a, a_at + done, n).data, (size_t)n * sizeof *from);
        an_download(l, to, an_view_of(b, b_at + done, n).data, (size_t)n * sizeof *to);
        for (int64_t i = 0; i < n; i++) {
            int64_t s = group ? (done + i) / group : step;
            double k = (double)s / (double)steps;
            to[i] = from[i] * (float)(1 - k) + to[i] * (float)k;
        }
        an_upload(l, an_view_of(b, b_at + done, n).data, to, (size_t)n * sizeof *to);
    }
}

/* The top of b fades in from the bottom of a, which lies above it. */
static void blend_down(an_lane *l, const tile_picture *a, const tile_picture *b, int64_t overlap)
{
    int64_t extent = min64(overlap, min64(a->h, b->h)), row = b->w * 3;
    for (int64_t y = 0; y < extent; y++)
        fade(l, a->t, (a->h - extent + y) * row, b->t, y * row, row, y, 0, extent);
}

/* The left of b fades in from the right of a. */
static void blend_right(an_lane *l, const tile_picture *a, const tile_picture *b, int64_t overlap)
{
    int64_t extent = min64(overlap, min64(a->w, b->w));
    for (int64_t y = 0; y < b->h; y++)
        fade(l, a->t, (y * a->w + a->w - extent) * 3, b->t, y * b->w * 3, extent * 3, 0, 3, extent);
}

/* Decodes latents [y0.., x0..] into p, whose size is set. latent [h, w, c] */
static void decode_tile(const an_vae *v, an_lane *l, an_dtype dtype, const float *latent, int64_t w,
                        int64_t y0, int64_t x0, const tile_picture *p)
{
    int64_t c = v->config.latent_channels, f = v->config.factor;
    int64_t th = p->h / f, tw = p->w / f;
    size_t mark = an_lane_mark(l);
    an_tensor z = an_lane_tensor(l, AN_F32, th, tw, c);
    an_tensor all = an_tensor_1d((void *)(uintptr_t)latent, AN_F32, 1);
    for (int64_t y = 0; y < th; y++)
        an_copy(l, an_view_of(all, ((y0 + y) * w + x0) * c, tw * c),
                an_view_of(z, y * tw * c, tw * c));
    const float *row[1] = {z.data};
    an_vae_decode(v, l, dtype, row, th, tw, an_view_of(p->t, 0, 1, p->h, p->w, 3));
    an_lane_release(l, mark);
}

void an_vae_decode_tiled(const an_vae *v, an_lane *l, an_dtype dtype, const float *latent,
                         int64_t h, int64_t w, int tile, an_tensor picture_u8, int64_t *n_nan)
{
    enum { MAX_TILES = 256 };
    tile_picture band[2][MAX_TILES]; /* this row of tiles and the one above */
    int64_t f = v->config.factor, step = tile * 3 / 4, overlap = (tile - step) * f;
    int64_t columns = (w + step - 1) / step, edge = tile * f;
    bool blend = !an_lane_counting(l);
    size_t mark = an_lane_mark(l);
    *n_nan = 0;
    if (columns > MAX_TILES) {
        an_lane_fail(l, AN_INVALID, "%lld latents across are over %d tiles of %d", (long long)w,
                     MAX_TILES, tile);
        return;
    }
    for (int b = 0; b < 2; b++)
        for (int64_t j = 0; j < columns; j++)
            band[b][j].t = an_lane_tensor(l, AN_F32, edge, edge, 3);
    an_tensor strip = an_lane_tensor(l, AN_F32, step * f, w * f, 3);

    for (int64_t y0 = 0, i = 0; y0 < h; y0 += step, i ^= 1) {
        tile_picture *now = band[i], *above = band[!i];
        int64_t rows = min64(step, h - y0) * f; /* of the picture that this band decides */
        for (int64_t j = 0; j < columns; j++) {
            int64_t x0 = j * step, kept = min64(step, w - x0) * f;
            now[j].h = min64(tile, h - y0) * f;
            now[j].w = min64(tile, w - x0) * f;
            decode_tile(v, l, dtype, latent, w, y0, x0, &now[j]);
            if (blend && y0) blend_down(l, &above[j], &now[j], overlap);
            if (blend && x0) blend_right(l, &now[j - 1], &now[j], overlap);
            for (int64_t y = 0; blend && y < rows; y++)
                an_copy(l, an_view_of(now[j].t, y * now[j].w * 3, kept * 3),
                        an_view_of(strip, (y * w + x0) * f * 3, kept * 3));
        }
        int64_t nan = 0;
        an_image_out(l, an_view_of(strip, 0, 1, rows, w * f, 3),
                     an_view_of(picture_u8, y0 * f * w * f * 3, 1, rows, w * f, 3), &nan);
        an_lane_sync(l); /* nan is the device's until then */
        *n_nan += nan;
    }
    an_lane_release(l, mark);
}
