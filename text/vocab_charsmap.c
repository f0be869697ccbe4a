/* vocab_charsmap.c: SentencePiece's compiled character map (precompiled_charsmap): a double array
 * of 32-bit units (Yata et al. 2007, as darts-clone writes it) whose leaves are places in a list of
 * NUL-terminated replacements. The tokenizers package and llama.cpp walk it differently, so both
 * ways are here. Units come from a file: every index is checked. */
#include "lm_vocab.h"

#include <unigbrk.h>

static uint32_t little32(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    return (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

an_status an_lm_charsmap_check(const char *map, size_t len, an_error *err)
{
    size_t units = len < 4 ? 0 : little32(map);
    if (len < 8 || units % 4 != 0 || units == 0 || units > len - 4 - 1 || map[len - 1] != '\0')
        return an_fail(err, AN_INVALID,
                       "precompiled_charsmap: %zu bytes with a trie of %zu do not fit together",
                       len, units);
    return AN_OK;
}

/* The replacement of the shortest (or longest) entry that text begins with; NULL if none. */
static const char *look_up(const lm_step *s, const char *text, size_t len, bool longest,
                           size_t *used)
{
    const char *units = s->from + 4;
    size_t n_units = little32(s->from) / 4, texts = s->from_len - 4 - n_units * 4;
    const char *found = NULL;
    uint32_t unit = little32(units), node = 0;
    node ^= (unit >> 10) << ((unit & 0x200) >> 6);
    for (size_t i = 0; i < len && text[i]; i++) {
        unsigned char c = (unsigned char)text[i];
        node ^= c;
        if (node >= n_units) break;
        unit = little32(units + (size_t)node * 4);
        if ((unit & 0x800000ffu) != c) break;
        node ^= (unit >> 10) << ((unit & 0x200) >> 6);
        if (!(unit >> 8 & 1)) continue;
        if (node >= n_units) break;
        uint32_t at = little32(units + (size_t)node * 4) & 0x7fffffffu;
        if (at >= texts) break;
        found = units + n_units * 4 + at; /* the list ends with NUL, checked at opening */
        *used = i + 1;
        if (!longest) break;
    }
    return found;
}

/* As the tokenizers package: whole graphemes of less than six bytes, else their characters; the
 * shortest entry counts and stands for all of it. */
void an_lm_charsmap(const lm_step *s, const char *text, size_t len, an_buf *out)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + len;
    size_t used;
    while (p < end) {
        const uint8_t *next = u8_grapheme_next(p, end);
        if (!next) next = end;
        size_t n = (size_t)(next - p);
        const char *to = n < 6 ? look_up(s, (const char *)p, n, false, &used) : NULL;
        if (to) {
            an_buf_str(out, to);
            p = next;
            continue;
        }
        while (p < next) {
            uint32_t c;
            n = an_lm_char((const char *)p, (size_t)(next - p), &c);
            to = look_up(s, (const char *)p, n, false, &used);
            if (to)
                an_buf_str(out, to);
            else
                an_buf_add(out, p, n);
            p += n;
        }
    }
}

/* As llama.cpp: the longest entry at every place, user-defined tokens left alone; then runs of
 * spaces become one (or not), each written as U+2581. flag: 0 a space in front, 1 merge spaces. */
void an_lm_ugm_text(const an_vocab *v, const lm_step *s, const char *text, size_t len, an_buf *out)
{
    static const char space[] = "\xe2\x96\x81";
    bool prepended = false, in_word = false;
    for (size_t at = 0, used; at < len; at += used) {
        const lm_added *own = an_lm_added_at(&v->raw, text, len, at, false);
        const char *piece = text + at;
        size_t n = own ? own->len : an_lm_char_len(*piece);
        used = n;
        if (!own && s->from_len > 0) {
            const char *to = look_up(s, text + at, len - at, true, &used);
            if (to) {
                piece = to;
                n = strlen(to);
            } else {
                used = n;
            }
        }
        for (size_t i = 0; i < n; i++) {
            if (piece[i] == ' ') {
                in_word = false;
                if (!s->flag[1]) an_buf_str(out, space);
                continue;
            }
            if (!in_word && ((s->flag[0] && !prepended) || s->flag[1])) {
                an_buf_str(out, space);
                prepended = true;
            }
            in_word = true;
            an_buf_add(out, piece + i, 1);
        }
    }
}
