/* image_jpeg.c: JPEG through libjpeg(-turbo), in memory. Errors come by longjmp; see image_png.c.
 */
#include "image_codecs.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <jpeglib.h>

typedef struct jpeg_fault {
    struct jpeg_error_mgr base; /* first: libjpeg hands back a pointer to it */
    jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
} jpeg_fault;

static void on_error(j_common_ptr c)
{
    jpeg_fault *f = (jpeg_fault *)(void *)c->err;
    c->err->format_message(c, f->message);
    longjmp(f->jump, 1);
}

static void on_message(j_common_ptr c, int level)
{
    (void)c;
    (void)level;
}

static void fault_init(jpeg_fault *f)
{
    jpeg_std_error(&f->base);
    f->base.error_exit = on_error;
    f->base.emit_message = on_message;
    f->message[0] = '\0';
}

typedef struct encoder {
    struct jpeg_compress_struct c;
    jpeg_fault fault;
    unsigned char *bytes;
    unsigned long len;
} encoder;

static bool encode(encoder *e, const uint8_t *pixels, int w, int h, int quality, const an_buf *exif)
{
    if (setjmp(e->fault.jump)) return false;
    jpeg_create_compress(&e->c);
    jpeg_mem_dest(&e->c, &e->bytes, &e->len);
    e->c.image_width = (JDIMENSION)w;
    e->c.image_height = (JDIMENSION)h;
    e->c.input_components = 3;
    e->c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&e->c);
    jpeg_set_quality(&e->c, quality < 1 ? 1 : quality, TRUE);
    jpeg_start_compress(&e->c, TRUE);
    if (exif && exif->len && exif->len < 65000)
        jpeg_write_marker(&e->c, JPEG_APP0 + 1, (const JOCTET *)exif->data,
                          (unsigned int)exif->len);
    while (e->c.next_scanline < e->c.image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(pixels + (size_t)e->c.next_scanline * (size_t)w * 3);
        jpeg_write_scanlines(&e->c, &row, 1);
    }
    jpeg_finish_compress(&e->c);
    return true;
}

an_status an_jpeg_encode(const uint8_t *pixels, int w, int h, int quality, const an_buf *exif,
                         an_buf *out, an_error *err)
{
    encoder *e = calloc(1, sizeof *e);
    if (!e) return an_fail(err, AN_NO_MEMORY, "JPEG: out of memory");
    fault_init(&e->fault);
    e->c.err = &e->fault.base;
    an_status s = AN_OK;
    if (!encode(e, pixels, w, h, quality, exif))
        s = an_fail(err, AN_INTERNAL, "JPEG: %s", e->fault.message);
    else if (!an_buf_add(out, e->bytes, e->len))
        s = an_fail(err, AN_TOO_LARGE, "JPEG: larger than its limit");
    jpeg_destroy_compress(&e->c);
    free(e->bytes);
    free(e);
    return s;
}

typedef struct decoder {
    struct jpeg_decompress_struct d;
    jpeg_fault fault;
    uint8_t *pixels;
    int w, h;
    bool too_large;
} decoder;

static bool decode(decoder *x, const void *data, size_t len, int64_t max_pixels)
{
    if (setjmp(x->fault.jump)) return false;
    jpeg_create_decompress(&x->d);
    jpeg_mem_src(&x->d, data, (unsigned long)len);
    jpeg_read_header(&x->d, TRUE);
    x->w = (int)x->d.image_width;
    x->h = (int)x->d.image_height;
    x->too_large = (int64_t)x->w * x->h > max_pixels;
    if (x->too_large) return false;
    x->d.out_color_space = JCS_RGB;
    jpeg_start_decompress(&x->d);
    x->pixels = malloc((size_t)x->w * (size_t)x->h * 3);
    if (!x->pixels || x->d.output_components != 3) return false;
    while (x->d.output_scanline < x->d.output_height) {
        JSAMPROW row = x->pixels + (size_t)x->d.output_scanline * (size_t)x->w * 3;
        jpeg_read_scanlines(&x->d, &row, 1);
    }
    jpeg_finish_decompress(&x->d);
    return true;
}

an_status an_jpeg_decode(const void *data, size_t len, int64_t max_pixels, an_picture *out,
                         an_error *err)
{
    decoder *x = calloc(1, sizeof *x);
    if (!x) return an_fail(err, AN_NO_MEMORY, "JPEG: out of memory");
    fault_init(&x->fault);
    x->d.err = &x->fault.base;
    an_status s = AN_OK;
    if (decode(x, data, len, max_pixels)) {
        *out = (an_picture){x->pixels, x->w, x->h};
    } else {
        free(x->pixels);
        s = x->too_large ? an_fail(err, AN_TOO_LARGE, "JPEG: %dx%d pixels, at most %lld in all",
                                   x->w, x->h, (long long)max_pixels)
                         : an_fail(err, AN_INVALID, "JPEG: %s",
                                   *x->fault.message ? x->fault.message : "cannot be shown as RGB");
    }
    jpeg_destroy_decompress(&x->d);
    free(x);
    return s;
}

bool an_jpeg_exif(const uint8_t *data, size_t len, const uint8_t **tiff, size_t *tiff_len)
{
    size_t i = 2;
    while (i + 4 <= len && data[i] == 0xff && data[i + 1] != 0xda) {
        size_t size = (size_t)data[i + 2] << 8 | data[i + 3];
        if (size < 2 || size > len - i - 2) return false;
        if (data[i + 1] == 0xe1 && size >= 8 && memcmp(data + i + 4, "Exif\0\0", 6) == 0) {
            *tiff = data + i + 10;
            *tiff_len = size - 8;
            return true;
        }
        i += 2 + size;
    }
    return false;
}
