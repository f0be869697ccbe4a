/* vocab_wordpiece.c: WordPiece, the longest token first (Wu et al. 2016, as BERT has it), and
 * WordLevel, which knows whole words only. */
#include "lm_vocab.h"

#include <stdlib.h>

static size_t count_chars(const char *word, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((unsigned char)word[i] & 0xc0) != 0x80;
    return n;
}

/* The longest token that text[at ..] begins with, its length in *used; -1 if there is none. Inside
 * a word tokens carry the model's prefix ("##"). */
static int32_t longest_at(const an_vocab *v, an_buf *scratch, const char *text, size_t len,
                          size_t at, size_t *used)
{
    const char *prefix = at > 0 ? v->subword_prefix : "";
    size_t np = strlen(prefix), n = len - at;
    if (np > v->longest) return -1;
    if (n > v->longest - np) n = v->longest - np;
    scratch->len = 0;
    an_buf_str(scratch, prefix);
    if (!an_buf_add(scratch, text + at, n)) return -1;
    for (; n > 0; n--) {
        if (at + n < len && ((unsigned char)text[at + n] & 0xc0) == 0x80) continue;
        int32_t id = an_lm_find_plain(v, scratch->data, np + n);
        if (id >= 0) {
            *used = n;
            return id;
        }
    }
    return -1;
}

static an_status encode(lm_encoder *e, const char *word, size_t len)
{
    const an_vocab *v = e->v;
    if (v->kind == LM_WORDLEVEL) {
        int32_t id = an_lm_find_plain(v, word, len);
        return id >= 0 ? an_lm_push(e, id) : an_lm_push_unknown(e, word, len);
    }
    if (count_chars(word, len) > v->max_word_chars) return an_lm_push_unknown(e, word, len);
    size_t before = e->ids.n, used = 0;
    an_buf scratch;
    an_buf_init(&scratch, 2 * LM_MAX_TOKEN_BYTES + 1);
    an_status s = AN_OK;
    for (size_t at = 0; at < len && s == AN_OK; at += used) {
        int32_t id = longest_at(v, &scratch, word, len, at, &used);
        if (id < 0) { /* one part unknown, all of it unknown */
            e->ids.n = before;
            s = an_lm_push_unknown(e, word, len);
            break;
        }
        s = an_lm_push(e, id);
    }
    an_buf_free(&scratch);
    return s;
}

an_status an_lm_wordpiece(lm_encoder *e, const char *word, size_t len)
{
    if (!*e->v->word_prefix) return encode(e, word, len);
    /* GGUF files mark the beginnings of words, not their insides. */
    an_buf b;
    an_buf_init(&b, LM_MAX_NORMALIZED);
    an_buf_str(&b, e->v->word_prefix);
    an_status s = AN_NO_MEMORY;
    if (an_buf_add(&b, word, len))
        s = encode(e, b.data, b.len);
    else
        an_fail(e->err, s, "out of memory for a word of %zu bytes", len);
    an_buf_free(&b);
    return s;
}
