/* image_codecs.h: one set of functions a format; image.c chooses. Private to the picture codecs. */
#ifndef ANNEAL_IMAGE_CODECS_H
#define ANNEAL_IMAGE_CODECS_H

#include "image.h"

an_status an_png_encode(const uint8_t *pixels, int w, int h, const char *infotext, an_buf *out,
                        an_error *err);
an_status an_png_decode(const void *data, size_t len, int64_t max_pixels, an_picture *out,
                        an_error *err);
an_status an_png_text(const void *data, size_t len, const char *key, char **out, an_error *err);

/* exif (may be empty): a whole EXIF block, "Exif\0\0" + TIFF. */
an_status an_jpeg_encode(const uint8_t *pixels, int w, int h, int quality, const an_buf *exif,
                         an_buf *out, an_error *err);
an_status an_jpeg_decode(const void *data, size_t len, int64_t max_pixels, an_picture *out,
                         an_error *err);
/* Where the TIFF part of the EXIF block lies in the file; false if there is none. */
bool an_jpeg_exif(const uint8_t *data, size_t len, const uint8_t **tiff, size_t *tiff_len);

an_status an_webp_encode(const uint8_t *pixels, int w, int h, int quality, const an_buf *exif,
                         an_buf *out, an_error *err);
an_status an_webp_decode(const void *data, size_t len, int64_t max_pixels, an_picture *out,
                         an_error *err);
bool an_webp_exif(const uint8_t *data, size_t len, const uint8_t **tiff, size_t *tiff_len);

/* TIFF with one UserComment (UNICODE, big-endian UTF-16 as piexif writes it), and back to UTF-8. */
bool an_exif_write(const char *comment, an_buf *tiff);
char *an_exif_comment(const uint8_t *tiff, size_t len); /* free(); NULL if there is none */

#endif
