/* clip_bpe.c: CLIP's byte-level BPE, as the tokenizers library runs it for transformers'
 * CLIPTokenizer (Radford et al. 2021; merging after Sennrich et al. 2016). One text goes through
 * five steps:
 *
 *   1. added tokens (<|endoftext|>) are cut out of the raw text;
 *   2. the rest is normalised: NFC, white space to one space, lower case;
 *   3. added tokens marked "normalized" are cut out of that;
 *   4. the rest is split into words: contractions, runs of letters, single digits, runs of others;
 *   5. a word's bytes, the last with </w>, are merged pair by pair, lowest rank first.
 *
 * Unicode comes from libunistring (NFC, lower case) and PCRE2 (letters, numbers). Theirs and the
 * tokenizers library's tables are of different years: over every code point alone only some fifty
 * capitals that Unicode 14 does not know differ, and the order of marks younger than Unicode 10. */
#include "bpe.h"
#include "tokenizer.h"

#include <stdlib.h>
#include <unicase.h>
#include <unictype.h>
#include <uninorm.h>
#include <unistr.h>

/* ---------------------------------------------------------------- normalising */

/* White space as Unicode defines it and as Oniguruma's \s matches it. PCRE2's \s differs (it takes
 * U+180E), hence the list, here and in the pattern below. */
#define SPACES                                                                                     \
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"                 \
    "\\x{202f}\\x{205f}\\x{3000}"

static bool is_space(ucs4_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

static bool is_ascii(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)s[i] >= 0x80) return false;
    return true;
}

/* Lower case is taken character by character, as Rust's char::to_lowercase: no final sigma, and
 * the dotted capital I is the one character that becomes two. */
static size_t put_lower(ucs4_t c, char *out)
{
    if (c == 0x130) return memcpy(out, "i\xcc\x87", 3), 3;
    return an_put_utf8(uc_tolower(c), out);
}

an_status an_clip_normalize(const char *text, size_t len, char **out, size_t *out_len,
                            an_error *err)
{
    uint8_t *composed = NULL;
    const uint8_t *p = (const uint8_t *)text;
    size_t n = len;
    *out = NULL;
    if (!is_ascii(text, len)) {
        p = composed = u8_normalize(UNINORM_NFC, p, len, NULL, &n);
        if (!composed)
            return an_fail(err, AN_NO_MEMORY, "out of memory for %zu bytes of text", len);
    }
    /* Lower case takes at most half as many bytes again (U+0130, U+023A: two bytes to three). */
    char *o = malloc(n * 2 + 1);
    if (!o) {
        free(composed);
        return an_fail(err, AN_NO_MEMORY, "out of memory for %zu bytes of text", len);
    }
    size_t at = 0;
    bool in_space = false;
    for (size_t i = 0; i < n;) {
        ucs4_t c;
        i += (size_t)u8_mbtouc_unsafe(&c, p + i, n - i);
        bool space = is_space(c);
        if (!space)
            at += put_lower(c, o + at);
        else if (!in_space)
            o[at++] = ' ';
        in_space = space;
    }
    o[at] = '\0';
    free(composed);
    *out = o;
    *out_len = at;
    return AN_OK;
}

/* ---------------------------------------------------------------- merging */

typedef struct symbol {
    int32_t id;
    int32_t prev, next; /* -1 at the ends */
    bool gone;
} symbol;

typedef struct encoder {
    const an_tokenizer *t;
    pcre2_match_data *match;
    an_ids ids;
    symbol *symbols; /* [word_cap] */
    an_pair *heap;   /* [3 * word_cap]: a pair each at first, at most two more for each merge */
    size_t n_heap, word_cap;
    an_error *err;
} encoder;

static void propose(encoder *e, int32_t at)
{
    if (at < 0 || e->symbols[at].next < 0) return;
    const merge *m = an_merge_find(e->t, e->symbols[at].id, e->symbols[e->symbols[at].next].id);
    if (m) an_pair_push(e->heap, &e->n_heap, (an_pair){m->rank, at, m->result, 0});
}

static an_status reserve_word(encoder *e, size_t len)
{
    if (len <= e->word_cap) return AN_OK;
    size_t cap = len < 64 ? 64 : len * 2;
    symbol *symbols = realloc(e->symbols, cap * sizeof *symbols);
    if (symbols) e->symbols = symbols;
    an_pair *heap = realloc(e->heap, cap * 3 * sizeof *heap);
    if (heap) e->heap = heap;
    if (!symbols || !heap)
        return an_fail(e->err, AN_NO_MEMORY, "out of memory for a word of %zu bytes", len);
    e->word_cap = cap;
    return AN_OK;
}

/* One word: its bytes as symbols in a linked list, candidates in a heap, so that a word of n bytes
 * costs n log n (a pasted base64 block is one word). */
static an_status encode_word(encoder *e, const char *word, size_t len)
{
    const an_tokenizer *t = e->t;
    an_status s = reserve_word(e, len);
    if (s != AN_OK) return s;
    int32_t n = (int32_t)len;
    for (int32_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)word[i];
        bool last = i + 1 == n;
        e->symbols[i] =
            (symbol){last ? t->byte_end_id[b] : t->byte_id[b], i - 1, last ? -1 : i + 1, false};
    }
    e->n_heap = 0;
    for (int32_t i = 0; i + 1 < n; i++) propose(e, i);
    while (e->n_heap > 0) {
        an_pair c = an_pair_pop(e->heap, &e->n_heap);
        symbol *left = &e->symbols[c.at];
        if (left->gone || left->next < 0) continue;
        symbol *right = &e->symbols[left->next];
        const merge *m = an_merge_find(t, left->id, right->id);
        if (!m || m->result != c.result) continue; /* an older merge changed one side */
        left->id = c.result;
        left->next = right->next;
        right->gone = true;
        if (left->next >= 0) e->symbols[left->next].prev = c.at;
        propose(e, left->prev);
        propose(e, c.at);
    }
    for (int32_t i = 0; i >= 0 && s == AN_OK; i = e->symbols[i].next)
        s = an_ids_add(&e->ids, e->symbols[i].id, e->err);
    return s;
}

/* ---------------------------------------------------------------- words */

/* The first two alternatives are CLIP's own: the spelling of a special token is a word, even where
 * step 1 did not take it (<|ENDOFTEXT|> after lower-casing). */
#define WORD_PATTERN                                                                               \
    "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|\\p{L}++|\\p{N}|[^" SPACES      \
    "\\p{L}\\p{N}]++"

/* The tokenizers library splits twice, the second time with GPT-2's pattern, which only ever cuts
 * the spelling of a special token, at its letters. */
static an_status encode_piece(encoder *e, const char *piece, size_t len)
{
    bool spelled = len > 4 && memcmp(piece, "<|", 2) == 0 && (piece[2] == 's' || piece[2] == 'e');
    if (!spelled) return encode_word(e, piece, len);
    an_status s = encode_word(e, piece, 2);
    if (s == AN_OK) s = encode_word(e, piece + 2, len - 4);
    if (s == AN_OK) s = encode_word(e, piece + len - 2, 2);
    return s;
}

static an_status encode_words(encoder *e, const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        int rc = pcre2_match(e->t->split, (PCRE2_SPTR)text, len, at, PCRE2_NO_UTF_CHECK, e->match,
                             e->t->match_context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_HEAPLIMIT)
            return an_fail(e->err, AN_NO_MEMORY, "out of memory splitting %zu bytes of text", len);
        if (rc < 0) return an_fail(e->err, AN_INTERNAL, "splitting the text: PCRE2 error %d", rc);
        const size_t *span = pcre2_get_ovector_pointer(e->match);
        an_status s = encode_piece(e, text + span[0], span[1] - span[0]);
        if (s != AN_OK) return s;
        at = span[1];
    }
    return AN_OK;
}

/* ---------------------------------------------------------------- added tokens */

/* \w of Oniguruma, near enough: letters, marks, decimal digits, connector punctuation. */
static bool is_word_char(ucs4_t c)
{
    return uc_is_property_alphabetic(c) ||
           uc_is_general_category_withtable(c, UC_CATEGORY_MASK_M | UC_CATEGORY_MASK_Nd |
                                                   UC_CATEGORY_MASK_Pc);
}

static bool stands_alone(const char *text, size_t len, size_t begin, size_t end)
{
    ucs4_t c;
    if (begin > 0 && u8_prev(&c, (const uint8_t *)text + begin, (const uint8_t *)text) &&
        is_word_char(c))
        return false;
    if (end < len) {
        u8_mbtouc_unsafe(&c, (const uint8_t *)text + end, len - end);
        if (is_word_char(c)) return false;
    }
    return true;
}

/* The longest added token at text[at]; NULL if none starts there. */
static const added_token *added_at(const an_tokenizer *t, const char *text, size_t len, size_t at,
                                   bool normalized)
{
    const added_token *best = NULL;
    for (int i = 0; i < t->n_added; i++) {
        const added_token *a = &t->added[i];
        if (a->normalized == normalized && a->match[0] == text[at] && a->match_len <= len - at &&
            memcmp(text + at, a->match, a->match_len) == 0 &&
            (!best || a->match_len > best->match_len))
            best = a;
    }
    return best;
}

static bool may_start_added(const an_tokenizer *t, bool normalized, bool starts[256])
{
    bool any = false;
    memset(starts, 0, 256 * sizeof *starts);
    for (int i = 0; i < t->n_added; i++)
        if (t->added[i].normalized == normalized)
            any = starts[(unsigned char)t->added[i].match[0]] = true;
    return any;
}

static an_status encode_normalized(encoder *e, const char *text, size_t len);

static an_status encode_raw(encoder *e, const char *text, size_t len)
{
    char *normal;
    size_t normal_len;
    if (len == 0) return AN_OK;
    an_status s = an_clip_normalize(text, len, &normal, &normal_len, e->err);
    if (s == AN_OK) s = encode_normalized(e, normal, normal_len);
    free(normal);
    return s;
}

/* Cuts added tokens out of text; what lies between them goes on to `rest`. */
static an_status cut_added(encoder *e, const char *text, size_t len, bool normalized,
                           an_status (*rest)(encoder *, const char *, size_t))
{
    bool starts[256];
    size_t done = 0, at = may_start_added(e->t, normalized, starts) ? 0 : len;
    while (at < len) {
        const added_token *a =
            starts[(unsigned char)text[at]] ? added_at(e->t, text, len, at, normalized) : NULL;
        size_t end = at + (a ? a->match_len : 1);
        if (a && (!a->single_word || stands_alone(text, len, at, end))) {
            an_status s = rest(e, text + done, at - done);
            if (s == AN_OK) s = an_ids_add(&e->ids, a->id, e->err);
            if (s != AN_OK) return s;
            done = end;
        }
        at = end;
    }
    return rest(e, text + done, len - done);
}

static an_status encode_normalized(encoder *e, const char *text, size_t len)
{
    return cut_added(e, text, len, true, encode_words);
}

static bool owns_text(const an_tokenizer *t, const char *text)
{
    for (int i = 0; i < t->n_added; i++)
        if (strcmp(t->added[i].text, text) == 0) return true;
    return false;
}

an_status an_added_add(an_tokenizer *t, const char *text, int64_t id, bool normalized,
                       bool single_word, an_error *err)
{
    size_t len = strlen(text);
    if (len == 0 || owns_text(t, text)) return AN_OK;
    if (t->n_added >= MAX_ADDED)
        return an_fail(err, AN_INVALID, "more than %d added tokens", MAX_ADDED);
    int32_t known = an_clip_vocab_find(t, text, len);
    if (known < 0 && id < 0)
        return an_fail(err, AN_INVALID, "the special token '%.60s' is not in the vocabulary", text);
    if (known >= 0 && id >= 0 && id != known)
        return an_fail(err, AN_INVALID,
                       "the added token '%.60s' has the id %lld, the vocabulary gives it %d", text,
                       (long long)id, known);
    if (known < 0) {
        an_status s = an_clip_vocab_add(t, text, len, id, err);
        if (s != AN_OK) return s;
        known = (int32_t)id;
    }
    added_token a = {an_strdup(text), NULL, len, known, normalized, single_word};
    an_status s = AN_OK;
    if (normalized)
        s = an_clip_normalize(text, len, &a.match, &a.match_len, err);
    else
        a.match = an_strdup(text);
    added_token *grown = realloc(t->added, ((size_t)t->n_added + 1) * sizeof *grown);
    if (grown) t->added = grown;
    if (!grown || !a.text || !a.match) {
        free(a.text);
        free(a.match);
        return s != AN_OK ? s : an_fail(err, AN_NO_MEMORY, "out of memory for added tokens");
    }
    t->added[t->n_added++] = a;
    return AN_OK;
}

/* ---------------------------------------------------------------- the public side */

an_status an_clip_prepare(an_tokenizer *t, an_error *err)
{
    int code;
    size_t at;
    t->split = pcre2_compile((PCRE2_SPTR)WORD_PATTERN, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                             &code, &at, NULL);
    t->match_context = pcre2_match_context_create(NULL);
    if (!t->split || !t->match_context)
        return an_fail(err, AN_INTERNAL, "the word pattern: PCRE2 error %d at %zu", code, at);
    /* Possessive runs never backtrack, so these limits are far away; they stay as a net. Without
     * JIT (hardened kernels forbid it) pcre2_match interprets: slower, the same words. */
    pcre2_set_match_limit(t->match_context, 1000000);
    pcre2_set_heap_limit(t->match_context, 1 << 14);
    pcre2_jit_compile(t->split, PCRE2_JIT_COMPLETE);
    for (unsigned b = 0; b < 256; b++) {
        char s[4 + WORD_END_LEN];
        size_t n = an_put_utf8(an_byte_to_char(b), s);
        memcpy(s + n, WORD_END, WORD_END_LEN);
        t->byte_id[b] = an_clip_vocab_find(t, s, n);
        t->byte_end_id[b] = an_clip_vocab_find(t, s, n + WORD_END_LEN);
        if (t->byte_id[b] < 0) t->byte_id[b] = t->unk;
        if (t->byte_end_id[b] < 0) t->byte_end_id[b] = t->unk;
    }
    t->comma = an_clip_vocab_find(t, "," WORD_END, 1 + WORD_END_LEN);
    return AN_OK;
}

an_status an_tokenizer_encode(const an_tokenizer *t, const char *text, size_t len, int32_t **ids,
                              size_t *count, an_error *err)
{
    *ids = NULL;
    *count = 0;
    if (len > MAX_TEXT)
        return an_fail(err, AN_TOO_LARGE, "the text has %zu bytes, at most %zu are read", len,
                       MAX_TEXT);
    if (len == 0) text = ""; /* NULL is allowed then */
    if (!an_utf8_valid(text, len)) return an_fail(err, AN_INVALID, "the text is not valid UTF-8");
    encoder e = {.t = t, .err = err, .match = pcre2_match_data_create(1, NULL)};
    an_status s = e.match ? AN_OK : an_fail(err, AN_NO_MEMORY, "out of memory for a text");
    if (s == AN_OK) s = cut_added(&e, text, len, false, encode_raw);
    if (s == AN_OK) s = an_ids_give(&e.ids, ids, count, err);
    pcre2_match_data_free(e.match);
    free(e.symbols);
    free(e.heap);
    if (s != AN_OK) free(e.ids.id);
    return s;
}

/* A token of the vocabulary back to bytes; </w> becomes a space. */
static void decode_token(const char *token, size_t len, an_buf *out)
{
    bool ends =
        len > WORD_END_LEN && memcmp(token + len - WORD_END_LEN, WORD_END, WORD_END_LEN) == 0;
    if (ends) len -= WORD_END_LEN;
    for (size_t i = 0; i < len;) {
        ucs4_t c;
        int n = u8_mbtouc(&c, (const uint8_t *)token + i, len - i);
        int byte = an_char_to_byte(c);
        char b = (char)byte;
        if (byte >= 0)
            an_buf_add(out, &b, 1);
        else
            an_buf_add(out, token + i, (size_t)n);
        i += (size_t)n;
    }
    if (ends) an_buf_add(out, " ", 1);
}

an_status an_tokenizer_decode(const an_tokenizer *t, const int32_t *ids, size_t count, an_buf *out,
                              an_error *err)
{
    for (size_t i = 0; i < count; i++) {
        int32_t id = ids[i];
        if (id < 0 || id >= t->n_ids || t->offset[id] == NO_TOKEN)
            return an_fail(err, AN_INVALID, "token %d is not in the vocabulary (0 to %d)", id,
                           t->n_ids - 1);
        const added_token *added = NULL;
        for (int k = 0; k < t->n_added && !added; k++)
            if (t->added[k].id == id) added = &t->added[k];
        if (added)
            an_buf_str(out, added->text);
        else
            decode_token(t->pool.data + t->offset[id], t->length[id], out);
    }
    if (out->failed) return an_fail(err, AN_TOO_LARGE, "the text of %zu ids is too long", count);
    return AN_OK;
}
