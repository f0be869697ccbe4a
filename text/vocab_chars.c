/* vocab_chars.c: classes of characters as Rust's standard library and Oniguruma have them; Unicode
 * comes from libunistring. */
#include "lm_vocab.h"

#include <unictype.h>

size_t an_lm_char_len(char lead)
{
    unsigned char b = (unsigned char)lead;
    return b < 0xc0 ? 1 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : 4;
}

size_t an_lm_char(const char *text, size_t len, uint32_t *c)
{
    size_t n = an_lm_char_len(*text);
    if (n > len) n = 1;
    static const unsigned char mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    *c = (unsigned char)text[0] & mask[n];
    for (size_t i = 1; i < n; i++) *c = *c << 6 | ((unsigned char)text[i] & 0x3f);
    return n;
}

bool an_lm_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* \w of the regex crate: Alphabetic, marks, decimal digits, connectors, the two joiners. */
bool an_lm_is_word(uint32_t c)
{
    if (c < 0x80) return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_';
    return uc_is_property_alphabetic(c) || c == 0x200c || c == 0x200d ||
           uc_is_general_category_withtable(c, UC_CATEGORY_MASK_M | UC_CATEGORY_MASK_Nd |
                                                   UC_CATEGORY_MASK_Pc);
}

bool an_lm_is_punctuation(uint32_t c)
{
    if (c < 0x80)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
               (c >= 123 && c <= 126);
    return uc_is_general_category_withtable(c, UC_CATEGORY_MASK_P);
}

bool an_lm_is_numeric(uint32_t c)
{
    if (c < 0x80) return c >= '0' && c <= '9';
    return uc_is_general_category_withtable(c, UC_CATEGORY_MASK_N);
}

/* Not memmem: what is looked for is short and found often, and the address sanitizer reads the
 * whole text at every call of it. */
const char *an_lm_search(const char *text, size_t len, const char *what, size_t what_len)
{
    while (what_len > 0 && what_len <= len) {
        const char *p = memchr(text, what[0], len - what_len + 1);
        if (!p || memcmp(p, what, what_len) == 0) return p;
        len -= (size_t)(p + 1 - text);
        text = p + 1;
    }
    return NULL;
}
