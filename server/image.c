/* image.c: chooses the codec. */
#include "image_codecs.h"

#include <strings.h>

static const struct {
    const char *name, *mime;
} formats[] = {[AN_PNG] = {"png", "image/png"},
               [AN_JPEG] = {"jpeg", "image/jpeg"},
               [AN_WEBP] = {"webp", "image/webp"}};

bool an_image_format_parse(const char *name, an_image_format *out)
{
    for (int i = 0; i < 3; i++) {
        if (strcasecmp(name, formats[i].name) == 0) {
            *out = (an_image_format)i;
            return true;
        }
    }
    *out = AN_JPEG;
    return strcasecmp(name, "jpg") == 0;
}

const char *an_image_format_name(an_image_format f)
{
    return formats[f].name;
}
const char *an_image_mime(an_image_format f)
{
    return formats[f].mime;
}

an_status an_image_encode(an_image_format f, const uint8_t *pixels, int w, int h, int compression,
                          const char *infotext, an_buf *out, an_error *err)
{
    if (f == AN_PNG) return an_png_encode(pixels, w, h, infotext, out, err);
    an_buf exif;
    an_buf_init(&exif, 65000);
    if (infotext) {
        if (f == AN_JPEG) an_buf_add(&exif, "Exif\0\0", 6);
        if (!an_exif_write(infotext, &exif)) an_buf_free(&exif); /* too long: leave it out */
    }
    an_status s = f == AN_JPEG ? an_jpeg_encode(pixels, w, h, compression, &exif, out, err)
                               : an_webp_encode(pixels, w, h, compression, &exif, out, err);
    an_buf_free(&exif);
    return s;
}

/* Which codec, by the first bytes. */
static bool sniff(const uint8_t *p, size_t len, an_image_format *f)
{
    if (len >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0)
        *f = AN_PNG;
    else if (len >= 3 && memcmp(p, "\xff\xd8\xff", 3) == 0)
        *f = AN_JPEG;
    else if (len >= 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0)
        *f = AN_WEBP;
    else
        return false;
    return true;
}

an_status an_image_decode(const void *data, size_t len, int64_t max_pixels, an_picture *out,
                          an_error *err)
{
    an_image_format f;
    *out = (an_picture){0};
    if (!sniff(data, len, &f))
        return an_fail(err, AN_INVALID, "the picture is neither PNG, JPEG nor WebP");
    if (f == AN_PNG) return an_png_decode(data, len, max_pixels, out, err);
    if (f == AN_JPEG) return an_jpeg_decode(data, len, max_pixels, out, err);
    return an_webp_decode(data, len, max_pixels, out, err);
}

an_status an_image_text(const void *data, size_t len, const char *key, char **out, an_error *err)
{
    an_image_format f;
    const uint8_t *tiff;
    size_t tiff_len;
    *out = NULL;
    if (!sniff(data, len, &f))
        return an_fail(err, AN_INVALID, "the picture is neither PNG, JPEG nor WebP");
    if (f == AN_PNG) return an_png_text(data, len, key, out, err);
    if (strcmp(key, "parameters") == 0 &&
        (f == AN_JPEG ? an_jpeg_exif(data, len, &tiff, &tiff_len)
                      : an_webp_exif(data, len, &tiff, &tiff_len)))
        *out = an_exif_comment(tiff, tiff_len);
    return AN_OK;
}
