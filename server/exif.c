/* exif.c: the one EXIF field A1111 uses: UserComment, in a minimal big-endian TIFF: IFD0 with a
 * pointer to the Exif IFD, which holds the comment as "UNICODE\0" + UTF-16. */
#include "image_codecs.h"

#include <stdlib.h>

#define TAG_EXIF_IFD     0x8769
#define TAG_USER_COMMENT 0x9286

static void put16(an_buf *b, uint32_t v)
{
    char c[2] = {(char)(v >> 8 & 255), (char)(v & 255)};
    an_buf_add(b, c, 2);
}

static void put32(an_buf *b, uint32_t v)
{
    put16(b, v >> 16);
    put16(b, v & 0xffff);
}

static void put_entry(an_buf *b, uint32_t tag, uint32_t type, uint32_t count, uint32_t value)
{
    put16(b, tag);
    put16(b, type);
    put32(b, count);
    put32(b, value);
}

static uint32_t next_code_point(const char **s)
{
    const unsigned char *p = (const unsigned char *)*s;
    int more = *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : *p >= 0xc0 ? 1 : 0;
    uint32_t cp = more ? *p & (uint32_t)(0x3f >> more) : *p;
    for (int i = 0; i < more && p[1]; i++) cp = cp << 6 | (*++p & 0x3fu);
    *s = (const char *)p + 1;
    return cp;
}

bool an_exif_write(const char *comment, an_buf *out)
{
    an_buf text;
    an_buf_init(&text, 60000);
    an_buf_add(&text, "UNICODE\0", 8);
    for (const char *p = comment; *p;) {
        uint32_t cp = next_code_point(&p);
        if (cp >= 0x10000) {
            put16(&text, 0xd800 + ((cp - 0x10000) >> 10));
            put16(&text, 0xdc00 + ((cp - 0x10000) & 0x3ff));
        } else {
            put16(&text, cp);
        }
    }
    an_buf_add(out, "MM\0*", 4);
    put32(out, 8); /* IFD0 here: 2 + 12 + 4 bytes */
    put16(out, 1);
    put_entry(out, TAG_EXIF_IFD, 4, 1, 26);
    put32(out, 0);
    put16(out, 1); /* Exif IFD at 26; its value follows at 44 */
    put_entry(out, TAG_USER_COMMENT, 7, (uint32_t)text.len, 44);
    put32(out, 0);
    if (!text.failed) an_buf_add(out, text.data, text.len);
    bool ok = !text.failed && !out->failed;
    an_buf_free(&text);
    return ok;
}

typedef struct tiff_view {
    const uint8_t *p;
    size_t len;
    bool big;
} tiff_view;

static uint32_t get(const tiff_view *t, size_t at, int bytes)
{
    uint32_t v = 0;
    if (at > t->len || (size_t)bytes > t->len - at) return 0;
    for (int i = 0; i < bytes; i++) {
        uint32_t byte = t->p[at + (size_t)i];
        v |= byte << (8 * (t->big ? bytes - 1 - i : i));
    }
    return v;
}

/* Finds `tag` in the IFD at offset `ifd`: its count and value (or offset). */
static bool find_tag(const tiff_view *t, size_t ifd, uint32_t tag, uint32_t *count, uint32_t *value)
{
    uint32_t n = get(t, ifd, 2);
    for (uint32_t i = 0; i < n; i++) {
        size_t at = ifd + 2 + 12 * (size_t)i;
        if (at + 12 > t->len) return false;
        if (get(t, at, 2) != tag) continue;
        *count = get(t, at + 4, 4);
        *value = get(t, at + 8, 4);
        return true;
    }
    return false;
}

static void put_utf8(an_buf *b, uint32_t cp)
{
    char c[4];
    size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; cp >>= 6) c[i] = (char)(0x80 | (cp & 63));
    c[0] = (char)(lead[n] | cp);
    an_buf_add(b, c, n);
}

char *an_exif_comment(const uint8_t *data, size_t len)
{
    tiff_view t = {data, len, len >= 2 && data[0] == 'M'};
    uint32_t count, value;
    if (len < 8 || get(&t, 2, 2) != 42) return NULL;
    if (!find_tag(&t, get(&t, 4, 4), TAG_EXIF_IFD, &count, &value)) return NULL;
    if (!find_tag(&t, value, TAG_USER_COMMENT, &count, &value)) return NULL;
    if (count < 8 || value > len || count > len - value) return NULL;
    an_buf b;
    an_buf_init(&b, 4 * (size_t)count + 4);
    if (memcmp(data + value, "UNICODE", 7) != 0) {
        an_buf_add(&b, data + value + 8, count - 8);
        if (!b.data || !an_utf8_valid(b.data, b.len)) an_buf_free(&b);
        return an_buf_take(&b);
    }
    for (uint32_t i = 8; i + 1 < count; i += 2) {
        uint32_t cp = get(&t, value + i, 2);
        if (cp >= 0xd800 && cp < 0xdc00 && i + 3 < count) {
            uint32_t low = get(&t, value + i + 2, 2);
            if (low >= 0xdc00 && low < 0xe000) {
                cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
                i += 2;
            }
        }
        put_utf8(&b, cp >= 0xd800 && cp < 0xe000 ? 0xfffd : cp);
    }
    return an_buf_take(&b);
}
