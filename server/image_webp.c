/* image_webp.c: WebP through libwebp, EXIF through libwebpmux. */
#include "image_codecs.h"

#include <stdlib.h>
#include <webp/decode.h>
#include <webp/encode.h>
#include <webp/mux.h>

an_status an_webp_encode(const uint8_t *pixels, int w, int h, int quality, const an_buf *exif,
                         an_buf *out, an_error *err)
{
    uint8_t *bytes = NULL;
    /* 100 is lossless, as people expect of the best quality */
    size_t n = quality >= 100 ? WebPEncodeLosslessRGB(pixels, w, h, w * 3, &bytes)
                              : WebPEncodeRGB(pixels, w, h, w * 3, (float)quality, &bytes);
    if (!n) return an_fail(err, AN_INVALID, "WebP: %dx%d could not be encoded", w, h);
    an_status s = AN_OK;
    if (!exif || !exif->len) {
        if (!an_buf_add(out, bytes, n))
            s = an_fail(err, AN_TOO_LARGE, "WebP: larger than its limit");
        WebPFree(bytes);
        return s;
    }
    WebPData picture = {bytes, n}, chunk = {(const uint8_t *)exif->data, exif->len}, whole = {0};
    WebPMux *mux = WebPMuxNew();
    if (!mux || WebPMuxSetImage(mux, &picture, 0) != WEBP_MUX_OK ||
        WebPMuxSetChunk(mux, "EXIF", &chunk, 0) != WEBP_MUX_OK ||
        WebPMuxAssemble(mux, &whole) != WEBP_MUX_OK)
        s = an_fail(err, AN_INTERNAL, "WebP: metadata could not be added");
    else if (!an_buf_add(out, whole.bytes, whole.size))
        s = an_fail(err, AN_TOO_LARGE, "WebP: larger than its limit");
    WebPDataClear(&whole);
    WebPMuxDelete(mux);
    WebPFree(bytes);
    return s;
}

an_status an_webp_decode(const void *data, size_t len, int64_t max_pixels, an_picture *out,
                         an_error *err)
{
    int w = 0, h = 0;
    if (!WebPGetInfo(data, len, &w, &h)) return an_fail(err, AN_INVALID, "WebP: broken header");
    if ((int64_t)w * h > max_pixels)
        return an_fail(err, AN_TOO_LARGE, "WebP: %dx%d pixels, at most %lld in all", w, h,
                       (long long)max_pixels);
    size_t bytes = (size_t)w * (size_t)h * 3;
    uint8_t *pixels = malloc(bytes);
    if (!pixels) return an_fail(err, AN_NO_MEMORY, "WebP: out of memory");
    if (!WebPDecodeRGBInto(data, len, pixels, bytes, w * 3)) {
        free(pixels);
        return an_fail(err, AN_INVALID, "WebP: the picture is broken or cut off");
    }
    *out = (an_picture){pixels, w, h};
    return AN_OK;
}

bool an_webp_exif(const uint8_t *data, size_t len, const uint8_t **tiff, size_t *tiff_len)
{
    size_t i = 12; /* "RIFF" size "WEBP", then chunks: four letters, size, padded to even */
    while (i + 8 <= len) {
        size_t size = (size_t)data[i + 4] | (size_t)data[i + 5] << 8 | (size_t)data[i + 6] << 16 |
                      (size_t)data[i + 7] << 24;
        if (size > len - i - 8) return false;
        if (memcmp(data + i, "EXIF", 4) == 0) {
            *tiff = data + i + 8;
            *tiff_len = size;
            if (size >= 6 && memcmp(*tiff, "Exif\0\0", 6) == 0) {
                *tiff += 6;
                *tiff_len -= 6;
            }
            return true;
        }
        i += 8 + size + (size & 1);
    }
    return false;
}
