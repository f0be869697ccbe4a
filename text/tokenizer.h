/* tokenizer.h: what a tokenizer is once read. open.c fills it from files, vocab.c indexes it,
 * clip_bpe.c and prompt.c only read it: after an_tokenizer_open nothing changes, so any number of
 * threads may share one. Private to the room. */
#ifndef ANNEAL_TEXT_TOKENIZER_H
#define ANNEAL_TEXT_TOKENIZER_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include "anneal/text.h"
#include <pcre2.h>

/* Ids a file may use. The largest vocabularies known have a quarter of this; every table of the
 * tokenizer is sized by it, so a file cannot ask for more memory than it brings itself. */
#define MAX_TOKENS   (1 << 20)
#define MAX_ADDED    4096
#define MAX_TEXT     ((size_t)16 << 20) /* bytes of one text */
#define WORD_END     "</w>"
#define WORD_END_LEN 4

/* What the pair (left, right) becomes, and how early: the lowest rank merges first. */
typedef struct merge {
    int32_t left, right, rank, result;
} merge;

/* A token found in the text as it stands, before any splitting: <|endoftext|>, "<cat-toy>". */
typedef struct added_token {
    char *text;  /* as the file has it; owned */
    char *match; /* what is looked for: text, or text normalised; owned */
    size_t match_len;
    int32_t id;
    bool normalized; /* looked for in the normalised text (lower case), not in the raw one */
    bool single_word;
} added_token;

struct an_tokenizer {
    an_buf pool;      /* every token's text, NUL-terminated, one after the other */
    uint32_t *offset; /* [n_ids] into pool; NO_TOKEN where the file leaves a hole */
    uint32_t *length; /* [n_ids] bytes */
    int32_t n_ids;    /* largest id + 1, added tokens included */
    int32_t cap_ids;
    int32_t *sorted; /* [n_sorted] ids of the vocabulary by text */
    int32_t n_sorted;
    merge *merges; /* [n_merges] by left, right */
    int32_t n_merges;
    int32_t *first; /* [n_ids + 1] merges of left id i are first[i] .. first[i + 1] - 1 */
    int32_t byte_id[256], byte_end_id[256]; /* a byte inside a word, and as its last */
    added_token *added;
    int n_added;
    int32_t bos, eos, pad, unk, comma, max_length;
    pcre2_code *split;
    pcre2_match_context *match_context;
};

#define NO_TOKEN UINT32_MAX

/* ---- vocab.c ---- */

/* The character that stands for a byte in the vocabulary (GPT-2's bytes_to_unicode): printable
 * Latin-1 stands for itself, the 68 other bytes for U+0100 and up. Back: -1 if c stands for none.
 */
uint32_t an_byte_to_char(unsigned byte);
int an_char_to_byte(uint32_t c);
/* UTF-8 of c into out (4 bytes at least), returns its length. */
size_t an_put_utf8(uint32_t c, char *out);

/* Adds one token. AN_INVALID when the id is out of range or taken. */
an_status an_clip_vocab_add(an_tokenizer *t, const char *text, size_t len, int64_t id, an_error *err);
/* Sorts by text; needed once before find. AN_INVALID when two ids have one text. */
an_status an_clip_vocab_index(an_tokenizer *t, an_error *err);
/* Id of a token of the vocabulary, -1 if there is none. */
int32_t an_clip_vocab_find(const an_tokenizer *t, const char *text, size_t len);
/* Id of an added token or a token of the vocabulary, -1 if there is none. */
int32_t an_token_find(const an_tokenizer *t, const char *text);
/* The merge of rank n_merges: both parts and their sum must be in the vocabulary. */
an_status an_merge_add(an_tokenizer *t, const char *left, size_t left_len, const char *right,
                       size_t right_len, an_error *err);
an_status an_merges_index(an_tokenizer *t, an_error *err);
const merge *an_merge_find(const an_tokenizer *t, int32_t left, int32_t right);

/* ---- clip_bpe.c ---- */

/* Compiles the word pattern and fills byte_id, byte_end_id and comma; after vocab and merges. */
an_status an_clip_prepare(an_tokenizer *t, an_error *err);
/* NFC, white space to one space, lower case. *out is the caller's, NUL-terminated. */
an_status an_clip_normalize(const char *text, size_t len, char **out, size_t *out_len,
                            an_error *err);
/* Adds a token found in the text as it stands. id < 0: the token must be in the vocabulary. A
 * second token of the same text is ignored, as transformers ignores it. */
an_status an_added_add(an_tokenizer *t, const char *text, int64_t id, bool normalized,
                       bool single_word, an_error *err);

#endif
