/* image_png.c: PNG through libpng, in memory, with its text chunks. libpng reports errors by
 * longjmp: everything that must survive one lives in a struct outside the jumping function. */
#include "image_codecs.h"

#include <png.h>
#include <stdlib.h>

#define MAX_TEXT_BYTES ((size_t)1 << 20)
#define MAX_CHUNKS     256

typedef struct png_job {
    png_structp png;
    png_infop info;
    char message[128];
    const uint8_t *in; /* reading */
    size_t in_len, in_pos;
    an_buf *out; /* writing */
    uint8_t *pixels;
    png_bytep *rows;
} png_job;

static void on_error(png_structp png, png_const_charp text)
{
    png_job *j = png_get_error_ptr(png);
    snprintf(j->message, sizeof j->message, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static void write_bytes(png_structp png, png_bytep data, size_t len)
{
    png_job *j = png_get_io_ptr(png);
    if (!an_buf_add(j->out, data, len)) png_error(png, "the picture is larger than its limit");
}

static void flush_nothing(png_structp png)
{
    (void)png;
}

static void read_bytes(png_structp png, png_bytep data, size_t len)
{
    png_job *j = png_get_io_ptr(png);
    if (len > j->in_len - j->in_pos) png_error(png, "the file ends early");
    memcpy(data, j->in + j->in_pos, len);
    j->in_pos += len;
}

/* A1111 reads tEXt and iTXt; plain ASCII goes into tEXt, anything else as UTF-8 into iTXt. */
static void set_text(png_job *j, const char *infotext)
{
    bool ascii = true;
    for (const char *p = infotext; *p; p++) ascii = ascii && (unsigned char)*p < 128;
    char key[] = "parameters", lang[] = "";
    png_text text = {.compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
                     .key = key,
                     .text = (char *)(uintptr_t)infotext};
    if (ascii) {
        text.text_length = strlen(infotext);
    } else {
        text.itxt_length = strlen(infotext);
        text.lang = lang;
        text.lang_key = key;
    }
    png_set_text(j->png, j->info, &text, 1);
}

static bool encode(png_job *j, const uint8_t *pixels, int w, int h, const char *infotext)
{
    if (setjmp(png_jmpbuf(j->png))) return false;
    png_set_write_fn(j->png, j, write_bytes, flush_nothing);
    png_set_IHDR(j->png, j->info, (png_uint_32)w, (png_uint_32)h, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(j->png, 6);
    if (infotext) set_text(j, infotext);
    png_write_info(j->png, j->info);
    for (int y = 0; y < h; y++) png_write_row(j->png, pixels + (size_t)y * (size_t)w * 3);
    png_write_end(j->png, j->info);
    return true;
}

an_status an_png_encode(const uint8_t *pixels, int w, int h, const char *infotext, an_buf *out,
                        an_error *err)
{
    png_job j = {.out = out};
    j.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &j, on_error, on_warning);
    j.info = j.png ? png_create_info_struct(j.png) : NULL;
    bool ok = j.info && encode(&j, pixels, w, h, infotext);
    png_destroy_write_struct(&j.png, &j.info);
    if (ok) return AN_OK;
    return an_fail(err, AN_INTERNAL, "PNG: %s", *j.message ? j.message : "out of memory");
}

/* Reads the header and transforms anything to RGB8; false on longjmp. */
static bool read_header(png_job *j, int64_t max_pixels, int *w, int *h)
{
    if (setjmp(png_jmpbuf(j->png))) return false;
    png_set_read_fn(j->png, j, read_bytes);
    png_set_chunk_malloc_max(j->png, MAX_TEXT_BYTES);
    png_set_chunk_cache_max(j->png, MAX_CHUNKS);
    png_set_user_limits(j->png, 65535, 65535);
    png_read_info(j->png, j->info);
    *w = (int)png_get_image_width(j->png, j->info);
    *h = (int)png_get_image_height(j->png, j->info);
    if ((int64_t)*w * *h > max_pixels) png_error(j->png, "more pixels than the limit");
    png_set_expand(j->png);
    png_set_scale_16(j->png);
    png_set_strip_alpha(j->png);
    png_set_gray_to_rgb(j->png);
    png_set_interlace_handling(j->png);
    png_read_update_info(j->png, j->info);
    return true;
}

static bool read_pixels(png_job *j, int w, int h)
{
    if (setjmp(png_jmpbuf(j->png))) return false;
    if (png_get_rowbytes(j->png, j->info) != (size_t)w * 3) png_error(j->png, "not RGB");
    for (int y = 0; y < h; y++) j->rows[y] = j->pixels + (size_t)y * (size_t)w * 3;
    png_read_image(j->png, j->rows);
    return true;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* libpng only warns of a chunk past png_set_chunk_malloc_max and then allocates what its length
 * says: 300 bytes of file made it take 1.5 GB. So every chunk must be there before libpng sees any;
 * pixels may be cut off, they are read piece by piece. */
static bool chunks_are_there(png_job *j)
{
    for (size_t at = 8; at + 12 <= j->in_len;) {
        size_t size = be32(j->in + at), left = j->in_len - at - 12;
        if (size > left) {
            if (memcmp(j->in + at + 4, "IDAT", 4) == 0) return true;
            snprintf(j->message, sizeof j->message,
                     "a chunk of %zu bytes at %zu, where the file has %zu", size, at, left);
            return false;
        }
        at += size + 12;
    }
    return true;
}

static bool open_reader(png_job *j)
{
    if (!chunks_are_there(j)) return false;
    j->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, j, on_error, on_warning);
    j->info = j->png ? png_create_info_struct(j->png) : NULL;
    return j->info != NULL;
}

an_status an_png_decode(const void *data, size_t len, int64_t max_pixels, an_picture *out,
                        an_error *err)
{
    png_job j = {.in = data, .in_len = len};
    int w = 0, h = 0;
    bool ok = open_reader(&j) && read_header(&j, max_pixels, &w, &h);
    if (ok) {
        j.pixels = malloc((size_t)w * (size_t)h * 3);
        j.rows = malloc((size_t)h * sizeof *j.rows);
        ok = j.pixels && j.rows && read_pixels(&j, w, h);
    }
    png_destroy_read_struct(&j.png, &j.info, NULL);
    free(j.rows);
    if (ok) {
        *out = (an_picture){j.pixels, w, h};
        return AN_OK;
    }
    free(j.pixels);
    if ((int64_t)w * h > max_pixels)
        return an_fail(err, AN_TOO_LARGE, "PNG: %dx%d pixels, at most %lld in all", w, h,
                       (long long)max_pixels);
    return an_fail(err, AN_INVALID, "PNG: %s", *j.message ? j.message : "out of memory");
}

/* The text chunks before the pixels, where everybody writes them. */
static bool read_all_text(png_job *j)
{
    if (setjmp(png_jmpbuf(j->png))) return false;
    png_set_read_fn(j->png, j, read_bytes);
    png_set_chunk_malloc_max(j->png, MAX_TEXT_BYTES);
    png_set_chunk_cache_max(j->png, MAX_CHUNKS);
    png_set_user_limits(j->png, 65535, 65535);
    png_read_info(j->png, j->info);
    return true;
}

static char *latin1_to_utf8(const char *s, size_t len)
{
    an_buf b;
    an_buf_init(&b, 2 * len + 1);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        char two[2] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 63))};
        an_buf_add(&b, c < 128 ? s + i : two, c < 128 ? 1 : 2);
    }
    if (!b.data) an_buf_str(&b, "");
    return an_buf_take(&b);
}

an_status an_png_text(const void *data, size_t len, const char *key, char **out, an_error *err)
{
    png_job j = {.in = data, .in_len = len};
    *out = NULL;
    bool ok = open_reader(&j) && read_all_text(&j);
    if (ok) {
        png_textp text = NULL;
        int n = 0;
        png_get_text(j.png, j.info, &text, &n);
        for (int i = 0; i < n && !*out; i++) {
            if (strcmp(text[i].key, key) != 0 || !text[i].text) continue;
            bool itxt = text[i].compression >= PNG_ITXT_COMPRESSION_NONE;
            size_t size = itxt ? text[i].itxt_length : text[i].text_length;
            if (itxt && an_utf8_valid(text[i].text, size))
                *out = strndup(text[i].text, size);
            else
                *out = latin1_to_utf8(text[i].text, size);
        }
    }
    png_destroy_read_struct(&j.png, &j.info, NULL);
    if (ok) return AN_OK;
    return an_fail(err, AN_INVALID, "PNG: %s", *j.message ? j.message : "out of memory");
}
