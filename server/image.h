/* image.h: pictures as files: PNG with A1111's infotext, WebP and JPEG; and back (PNG, WebP, JPEG
 * by their first bytes) with limits, since uploaded files are hostile. Pixels are u8 [h, w, 3]. */
#ifndef ANNEAL_IMAGE_H
#define ANNEAL_IMAGE_H

#include "anneal/base.h"

typedef enum { AN_PNG = 0, AN_JPEG, AN_WEBP } an_image_format;
bool an_image_format_parse(const char *name,
                           an_image_format *out); /* "png", "jpeg"/"jpg", "webp" */
const char *an_image_format_name(an_image_format f);
const char *an_image_mime(an_image_format f);

/* compression: OpenAI's output_compression, 0..100: quality for JPEG and WebP (100 = best), ignored
 * for PNG. infotext (may be NULL): PNG text chunk `parameters`; EXIF UserComment elsewhere. The
 * same input gives the same bytes. */
an_status an_image_encode(an_image_format f, const uint8_t *pixels, int w, int h, int compression,
                          const char *infotext, an_buf *out, an_error *err);

typedef struct an_picture {
    uint8_t *pixels; /* [h, w, 3], owned: free() */
    int w, h;
} an_picture;
/* AN_TOO_LARGE past max_pixels, AN_INVALID for anything broken or of another kind. Alpha is put on
 * black, as PIL's convert("RGB") drops it. */
an_status an_image_decode(const void *data, size_t len, int64_t max_pixels, an_picture *out,
                          an_error *err);

/* The PNG text of `key` (tEXt as Latin-1, zTXt, iTXt as UTF-8), converted to UTF-8; *out is the
 * caller's, NULL if absent. Also reads the EXIF UserComment of JPEG and WebP for "parameters". */
an_status an_image_text(const void *data, size_t len, const char *key, char **out, an_error *err);

/* base64, with or without a data: URL prefix; white space is skipped. */
an_status an_base64_decode(const char *text, size_t len, size_t max, an_buf *out, an_error *err);
bool an_base64_encode(const void *data, size_t len, an_buf *out);

#endif
