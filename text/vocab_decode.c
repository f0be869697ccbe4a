/* vocab_decode.c: ids back to text, all at once or one by one. A token decodes to bytes, bytes
 * become characters as they complete; what never can becomes U+FFFD, one for each longest
 * beginning of a character, as Python and Rust replace. */
#include "lm_vocab.h"

#include <stdlib.h>

#define MAX_TEXT_OUT ((size_t)1 << 30)
#define REPLACEMENT  "\xef\xbf\xbd"

/* ---------------------------------------------------------------- one token */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of "<0x0A>", -1 for any other text. */
static int byte_of(const char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static void put_replacing(const char *text, size_t len, const char *from, size_t from_len,
                          const char *to, size_t to_len, an_buf *out)
{
    const char *hit;
    while (from_len > 0 && len > 0 && (hit = an_lm_search(text, len, from, from_len))) {
        an_buf_add(out, text, (size_t)(hit - text));
        an_buf_add(out, to, to_len);
        len -= (size_t)(hit - text) + from_len;
        text = hit + from_len;
    }
    an_buf_add(out, text, len);
}

/* Characters of GPT-2's alphabet back to bytes; a token with any other stays as it is. */
static void put_bytes(const char *text, size_t len, an_buf *out)
{
    size_t start = out->len;
    for (size_t at = 0; at < len;) {
        uint32_t c;
        at += an_lm_char(text + at, len - at, &c);
        int byte = an_char_to_byte(c);
        if (byte < 0) {
            if (!out->failed) out->len = start;
            an_buf_add(out, text, len);
            return;
        }
        char b = (char)byte;
        an_buf_add(out, &b, 1);
    }
}

/* BERT's detokenisation: no space before what clings to the word in front. */
static void put_clean(const char *text, size_t len, an_buf *out)
{
    static const char *const rule[][2] = {{" .", "."},     {" ?", "?"},           {" !", "!"},
                                          {" ,", ","},     {" ' ", "'"},          {" n't", "n't"},
                                          {" 'm", "'m"},   {" do not", " don't"}, {" 's", "'s"},
                                          {" 've", "'ve"}, {" 're", "'re"}};
    an_buf a, b;
    an_buf_init(&a, MAX_TEXT_OUT);
    an_buf_init(&b, MAX_TEXT_OUT);
    an_buf_add(&a, text, len);
    for (size_t i = 0; i < sizeof rule / sizeof *rule; i++) {
        b.len = 0;
        put_replacing(a.data ? a.data : "", a.len, rule[i][0], strlen(rule[i][0]), rule[i][1],
                      strlen(rule[i][1]), &b);
        an_buf swap = a;
        a = b;
        b = swap;
    }
    an_buf_add(out, a.data ? a.data : "", a.len);
    out->failed = out->failed || a.failed;
    an_buf_free(&a);
    an_buf_free(&b);
}

static void strip_token(const lm_step *s, const char *text, size_t len, an_buf *out)
{
    size_t n = s->from_len;
    for (int i = 0; i < s->number && len >= n && memcmp(text, s->from, n) == 0; i++) {
        text += n;
        len -= n;
    }
    for (int i = 0; i < s->number2 && len >= n && memcmp(text + len - n, s->from, n) == 0; i++)
        len -= n;
    an_buf_add(out, text, len);
}

static void replace_by_regex(const lm_step *s, const char *text, size_t len, an_buf *out)
{
    lm_matcher m;
    size_t gap = 0, from = 0, last = SIZE_MAX, start, end;
    if (an_lm_matcher_open(&m, len, NULL) != AN_OK) {
        out->failed = true;
        return;
    }
    while (an_lm_regex_next(&m, s->regex, text, len, &from, &last, &start, &end, NULL) > 0) {
        an_buf_add(out, text + gap, start - gap);
        an_buf_add(out, s->to, s->to_len);
        gap = end;
    }
    an_buf_add(out, text + gap, len - gap);
    an_lm_matcher_close(&m);
}

static void run_step(const lm_step *s, const char *text, size_t len, bool first, bool last,
                     an_buf *out)
{
    switch (s->what) {
    case LM_REPLACE:
        if (s->regex)
            replace_by_regex(s, text, len, out);
        else
            put_replacing(text, len, s->from, s->from_len, s->to, s->to_len, out);
        break;
    case LM_METASPACE: {
        bool drop = first && s->number != LM_NEVER;
        put_replacing(text, len, s->from, s->from_len, " ", drop ? 0 : 1, out);
        break;
    }
    case LM_BYTE_LEVEL:
        put_bytes(text, len, out);
        break;
    case LM_STRIP_TOKEN:
        strip_token(s, text, len, out);
        break;
    case LM_WORDPIECE_TEXT: {
        an_buf b;
        an_buf_init(&b, MAX_TEXT_OUT);
        bool inside = len >= s->from_len && memcmp(text, s->from, s->from_len) == 0;
        if (!first && !inside) an_buf_str(&b, " ");
        size_t cut = !first && inside ? s->from_len : 0;
        an_buf_add(&b, text + cut, len - cut);
        if (s->flag[0])
            put_clean(b.data, b.len, out);
        else
            an_buf_add(out, b.data, b.len);
        an_buf_free(&b);
        break;
    }
    case LM_BPE_TEXT:
        put_replacing(text, len, s->from, s->from_len, " ", last ? 0 : 1, out);
        break;
    case LM_JOIN_SPACE:
        if (!first) an_buf_str(out, " ");
        an_buf_add(out, text, len);
        break;
    default:
        an_buf_add(out, text, len);
    }
}

/* A byte token where the decoders have a place for such; -1 for others. */
static int fallback_byte(const an_vocab *v, int32_t id)
{
    const lm_token *t = &v->tokens[id];
    bool has = false;
    for (int i = 0; i < v->decoders.n && !has; i++)
        has = v->decoders.step[i].what == LM_BYTE_FALLBACK;
    if (!has || (t->flags & LM_RAW) || (v->gguf && !(t->flags & LM_BYTE))) return -1;
    return byte_of(an_lm_text(v, id), t->len);
}

void an_lm_decode_token(const an_vocab *v, int32_t id, bool first, bool last, an_buf *out)
{
    const lm_token *t = &v->tokens[id];
    int byte = fallback_byte(v, id);
    if (byte >= 0) {
        char b = (char)byte;
        an_buf_add(out, &b, 1);
        return;
    }
    if ((t->flags & LM_RAW) || v->decoders.n == 0) {
        an_buf_add(out, an_lm_text(v, id), t->len);
        return;
    }
    an_buf a, b;
    an_buf_init(&a, MAX_TEXT_OUT);
    an_buf_init(&b, MAX_TEXT_OUT);
    an_buf_add(&a, an_lm_text(v, id), t->len);
    bool fused = false;
    for (int i = 0; i < v->decoders.n; i++) {
        const lm_step *s = &v->decoders.step[i];
        fused = fused || s->what == LM_FUSE;
        if (s->what == LM_STRIP_TOKEN && fused) continue; /* of the whole text, not of a token */
        b.len = 0;
        an_buf_add(&b, "", 0);
        run_step(s, a.data ? a.data : "", a.len, first, last, &b);
        an_buf swap = a;
        a = b;
        b = swap;
    }
    an_buf_add(out, a.data ? a.data : "", a.len);
    out->failed = out->failed || a.failed || b.failed;
    an_buf_free(&a);
    an_buf_free(&b);
}

/* The stripping of the whole text, NULL if there is none. */
static const lm_step *whole_strip(const an_vocab *v)
{
    bool fused = false;
    for (int i = 0; i < v->decoders.n; i++) {
        const lm_step *s = &v->decoders.step[i];
        fused = fused || s->what == LM_FUSE;
        if (fused && s->what == LM_STRIP_TOKEN) return s;
    }
    return NULL;
}

const char *an_vocab_piece(const an_vocab *v, int32_t id, bool special, size_t *len)
{
    *len = 0;
    if (!an_lm_exists(v, id)) return "";
    const lm_token *t = &v->tokens[id];
    if ((t->flags & LM_SPECIAL) && !special) return "";
    *len = t->piece_len;
    return v->pieces.data + t->piece_at;
}

/* ---------------------------------------------------------------- bytes to characters */

/* Can b follow the n bytes in held? The ranges keep out long forms, surrogates and what lies past
 * U+10FFFF. */
static bool continues(const unsigned char *held, int n, unsigned char b)
{
    unsigned char low = 0x80, high = 0xbf;
    if (n == 1) {
        if (held[0] == 0xe0) low = 0xa0;
        if (held[0] == 0xed) high = 0x9f;
        if (held[0] == 0xf0) low = 0x90;
        if (held[0] == 0xf4) high = 0x8f;
    }
    return b >= low && b <= high;
}

static void feed(an_detok *d, unsigned char b, an_buf *out)
{
    if (d->n_held > 0 && continues(d->held, d->n_held, b)) {
        d->held[d->n_held++] = b;
        if ((size_t)d->n_held < an_lm_char_len((char)d->held[0])) return;
        an_buf_add(out, d->held, (size_t)d->n_held);
        d->n_held = 0;
        return;
    }
    if (d->n_held > 0) an_buf_str(out, REPLACEMENT);
    d->n_held = 0;
    if (b < 0x80)
        an_buf_add(out, &b, 1);
    else if (b >= 0xc2 && b <= 0xf4)
        d->held[d->n_held++] = b;
    else
        an_buf_str(out, REPLACEMENT);
}

void an_detok_start(an_detok *d, const an_vocab *v, bool special)
{
    *d = (an_detok){.v = v, .special = special, .first = true};
}

bool an_detok_add(an_detok *d, int32_t id, an_buf *out)
{
    const an_vocab *v = d->v;
    if (!an_lm_exists(v, id)) return !out->failed;
    if ((v->tokens[id].flags & LM_SPECIAL) && !d->special) return !out->failed;
    size_t len;
    const char *piece = an_vocab_piece(v, id, d->special, &len);
    an_buf own;
    an_buf_init(&own, MAX_TEXT_OUT);
    if (d->first) {
        an_lm_decode_token(v, id, true, false, &own);
        if (own.failed) out->failed = true;
        piece = own.data ? own.data : "";
        len = own.len;
        const lm_step *strip = whole_strip(v);
        d->first = strip && len == 0;
        for (int i = 0; strip && i < strip->number && len >= strip->from_len &&
                        memcmp(piece, strip->from, strip->from_len) == 0;
             i++) {
            piece += strip->from_len;
            len -= strip->from_len;
        }
    }
    for (size_t i = 0; i < len; i++) feed(d, (unsigned char)piece[i], out);
    an_buf_free(&own);
    return !out->failed;
}

bool an_detok_finish(an_detok *d, an_buf *out)
{
    if (d->n_held > 0) an_buf_str(out, REPLACEMENT);
    d->n_held = 0;
    return !out->failed;
}

/* ---------------------------------------------------------------- all at once */

/* Bytes that fell back, in a row: text if all of them together are, else U+FFFD for each. The
 * tokenizers package decides for the whole row; llama.cpp joins bytes as they are. */
static void put_byte_row(const an_vocab *v, an_buf *row, an_buf *bytes)
{
    if (v->gguf || an_utf8_valid(row->data ? row->data : "", row->len)) {
        an_buf_add(bytes, row->data ? row->data : "", row->len);
    } else {
        for (size_t i = 0; i < row->len; i++) an_buf_str(bytes, REPLACEMENT);
    }
    row->len = 0;
}

static bool is_shown(const an_vocab *v, int32_t id, bool special)
{
    uint32_t flags = v->tokens[id].flags;
    return (flags & LM_EXISTS) && (special || !(flags & LM_SPECIAL));
}

static void put_all(const an_vocab *v, const int32_t *ids, size_t count, bool special,
                    an_buf *bytes)
{
    an_buf row;
    an_buf_init(&row, MAX_TEXT_OUT);
    bool first = true;
    while (count > 0 && !is_shown(v, ids[count - 1], special)) count--;
    for (size_t i = 0; i < count; i++) {
        if (!is_shown(v, ids[i], special)) continue;
        int byte = fallback_byte(v, ids[i]);
        char b = (char)byte;
        if (byte >= 0) {
            an_buf_add(&row, &b, 1);
        } else {
            if (row.len > 0) put_byte_row(v, &row, bytes);
            size_t len;
            const char *piece = an_vocab_piece(v, ids[i], special, &len);
            if (first || i + 1 == count)
                an_lm_decode_token(v, ids[i], first, i + 1 == count, bytes);
            else
                an_buf_add(bytes, piece, len);
        }
        first = false;
    }
    if (row.len > 0) put_byte_row(v, &row, bytes);
    if (row.failed) bytes->failed = true;
    an_buf_free(&row);
}

an_status an_vocab_decode(const an_vocab *v, const int32_t *ids, size_t count, bool special,
                          an_buf *out, an_error *err)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= v->n_ids)
            return an_fail(err, AN_INVALID, "token %d is not in the vocabulary (0 to %d)", ids[i],
                           v->n_ids - 1);
    an_buf bytes, whole;
    an_buf_init(&bytes, MAX_TEXT_OUT);
    an_buf_init(&whole, MAX_TEXT_OUT);
    put_all(v, ids, count, special, &bytes);
    const lm_step *strip = whole_strip(v);
    if (strip) strip_token(strip, bytes.data ? bytes.data : "", bytes.len, &whole);
    const an_buf *b = strip ? &whole : &bytes;
    an_detok d = {.v = v};
    for (size_t i = 0; i < b->len; i++) feed(&d, (unsigned char)b->data[i], out);
    an_detok_finish(&d, out);
    bool failed = bytes.failed || whole.failed || out->failed;
    an_buf_free(&bytes);
    an_buf_free(&whole);
    if (failed) return an_fail(err, AN_TOO_LARGE, "the text of %zu ids is too long", count);
    return AN_OK;
}
