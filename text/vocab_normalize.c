/* vocab_normalize.c: normalizers, which rewrite a text before it is cut into words. Each reads the
 * whole text and writes a new one. */
#include "lm_vocab.h"

#include <stdlib.h>
#include <unicase.h>
#include <unictype.h>
#include <uninorm.h>

static void put_char(uint32_t c, an_buf *out)
{
    char s[4];
    an_buf_add(out, s, an_put_utf8(c, s));
}

static bool is_ascii(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] >= 0x80) return false;
    return true;
}

static void put_form(uninorm_t form, const char *text, size_t len, an_buf *out)
{
    size_t n;
    if (is_ascii(text, len)) {
        an_buf_add(out, text, len);
        return;
    }
    uint8_t *p = u8_normalize(form, (const uint8_t *)text, len, NULL, &n);
    if (!p)
        out->failed = true;
    else
        an_buf_add(out, p, n);
    free(p);
}

/* ---------------------------------------------------------------- character by character */

/* Rust's char::to_lowercase: no final sigma, and one character that becomes two. */
static void put_lower(uint32_t c, an_buf *out)
{
    if (c == 0x130)
        an_buf_str(out, "i\xcc\x87");
    else
        put_char(uc_tolower(c), out);
}

static bool is_chinese(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

/* BERT's cleaning: control characters go, white space becomes a space. Form feed and U+0085 are
 * both; as control characters they go. */
static void put_clean(uint32_t c, an_buf *out)
{
    uint32_t other = UC_CATEGORY_MASK_Cc | UC_CATEGORY_MASK_Cf | UC_CATEGORY_MASK_Co;
    bool line = c == '\t' || c == '\n' || c == '\r';
    if (!line && (c == 0xfffd || uc_is_general_category_withtable(c, other))) return;
    put_char(line || an_lm_is_space(c) ? ' ' : c, out);
}

static void put_chinese_apart(uint32_t c, an_buf *out)
{
    bool apart = is_chinese(c);
    if (apart) put_char(' ', out);
    put_char(c, out);
    if (apart) put_char(' ', out);
}

/* SentencePiece's "nmt" rules. */
static void put_nmt(uint32_t c, an_buf *out)
{
    if ((c >= 1 && c <= 8) || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f || c == 0x8f ||
        c == 0x9f)
        return;
    bool space = c == 9 || c == 10 || c == 12 || c == 13 || c == 0x1680 ||
                 (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                 c == 0xfeff || c == 0xfffd;
    put_char(space ? ' ' : c, out);
}

static void put_unless_nonspacing(uint32_t c, an_buf *out)
{
    if (!uc_is_general_category_withtable(c, UC_CATEGORY_MASK_Mn)) put_char(c, out);
}

static void put_unless_mark(uint32_t c, an_buf *out)
{
    if (!uc_is_general_category_withtable(c, UC_CATEGORY_MASK_M)) put_char(c, out);
}

typedef void char_writer(uint32_t c, an_buf *out);

static void each_char(char_writer *put, const char *text, size_t len, an_buf *out)
{
    for (size_t at = 0; at < len;) {
        uint32_t c;
        at += an_lm_char(text + at, len - at, &c);
        put(c, out);
    }
}

/* ---------------------------------------------------------------- whole texts */

static void put_stripped(const lm_step *s, const char *text, size_t len, an_buf *out)
{
    uint32_t c;
    for (size_t n; s->flag[0] && len > 0; text += n, len -= n) {
        n = an_lm_char(text, len, &c);
        if (!an_lm_is_space(c)) break;
    }
    while (s->flag[1] && len > 0) {
        size_t at = len - 1;
        while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80) at--;
        an_lm_char(text + at, len - at, &c);
        if (!an_lm_is_space(c)) break;
        len = at;
    }
    an_buf_add(out, text, len);
}

static an_status put_replaced(const lm_step *s, lm_matcher *m, const char *text, size_t len,
                              an_buf *out, an_error *err)
{
    size_t gap = 0, from = 0, last = SIZE_MAX, start, end;
    int found = 0;
    if (s->regex) {
        while ((found = an_lm_regex_next(m, s->regex, text, len, &from, &last, &start, &end, err)) >
               0) {
            an_buf_add(out, text + gap, start - gap);
            an_buf_add(out, s->to, s->to_len);
            gap = end;
        }
    } else {
        const char *hit;
        while (gap < len && (hit = an_lm_search(text + gap, len - gap, s->from, s->from_len))) {
            an_buf_add(out, text + gap, (size_t)(hit - text) - gap);
            an_buf_add(out, s->to, s->to_len);
            gap = (size_t)(hit - text) + s->from_len;
        }
    }
    an_buf_add(out, text + gap, len - gap);
    return found < 0 ? err ? err->status : AN_INVALID : AN_OK;
}

/* BertNormalizer: four passes, each switched by its flag. */
static void put_bert(const lm_step *s, const char *text, size_t len, an_buf *out)
{
    an_buf a, b;
    an_buf_init(&a, LM_MAX_NORMALIZED);
    an_buf_init(&b, LM_MAX_NORMALIZED);
    an_buf_add(&a, text, len);
    for (int pass = 0; pass < 4; pass++) {
        if (!s->flag[pass]) continue;
        static char_writer *const writer[] = {put_clean, put_chinese_apart, put_unless_nonspacing,
                                              put_lower};
        if (pass == 2) {
            b.len = 0;
            put_form(UNINORM_NFD, a.data ? a.data : "", a.len, &b);
            an_buf swap = a;
            a = b;
            b = swap;
        }
        b.len = 0;
        each_char(writer[pass], a.data ? a.data : "", a.len, &b);
        an_buf swap = a;
        a = b;
        b = swap;
    }
    an_buf_add(out, a.data ? a.data : "", a.len);
    out->failed = out->failed || a.failed || b.failed;
    an_buf_free(&a);
    an_buf_free(&b);
}

static an_status run_step(const an_vocab *v, const lm_step *s, lm_matcher *m, const char *text,
                          size_t len, an_buf *out, an_error *err)
{
    switch (s->what) {
    case LM_NFC:
        put_form(UNINORM_NFC, text, len, out);
        break;
    case LM_NFD:
        put_form(UNINORM_NFD, text, len, out);
        break;
    case LM_NFKC:
        put_form(UNINORM_NFKC, text, len, out);
        break;
    case LM_NFKD:
        put_form(UNINORM_NFKD, text, len, out);
        break;
    case LM_LOWERCASE:
        each_char(put_lower, text, len, out);
        break;
    case LM_STRIP_ACCENTS:
        each_char(put_unless_mark, text, len, out);
        break;
    case LM_NMT:
        each_char(put_nmt, text, len, out);
        break;
    case LM_STRIP_ENDS:
        put_stripped(s, text, len, out);
        break;
    case LM_PREPEND:
        if (len > 0) an_buf_add(out, s->to, s->to_len);
        an_buf_add(out, text, len);
        break;
    case LM_REPLACE:
        return put_replaced(s, m, text, len, out, err);
    case LM_BERT_TEXT:
        put_bert(s, text, len, out);
        break;
    case LM_CHARSMAP:
        an_lm_charsmap(s, text, len, out);
        break;
    case LM_UGM_TEXT:
        an_lm_ugm_text(v, s, text, len, out);
        break;
    case LM_BYTE_LEVEL:
        an_lm_put_bytes_as_chars(text, len, out);
        break;
    default:
        an_buf_add(out, text, len);
    }
    return AN_OK;
}

an_status an_lm_normalize(const an_vocab *v, lm_matcher *m, const char *text, size_t len,
                          an_buf *out, an_error *err)
{
    an_buf other;
    an_status s = AN_OK;
    out->len = 0;
    an_buf_add(out, text, len);
    an_buf_init(&other, LM_MAX_NORMALIZED);
    for (int i = 0; i < v->normalizers.n && s == AN_OK; i++) {
        other.len = 0;
        an_buf_add(&other, "", 0);
        s = run_step(v, &v->normalizers.step[i], m, out->data ? out->data : "", out->len, &other,
                     err);
        an_buf swap = *out;
        *out = other;
        other = swap;
        if (s == AN_OK && out->failed)
            s = an_fail(err, AN_TOO_LARGE, "the text grows past %zu bytes or what fits in memory",
                        LM_MAX_NORMALIZED);
    }
    an_buf_free(&other);
    return s;
}
