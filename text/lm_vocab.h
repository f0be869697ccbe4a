/* lm_vocab.h: what a language model's vocabulary is once read. vocab_json.c and vocab_gguf.c fill
 * it from files, vocab_table.c indexes it, the other vocab_*.c only read it: after open nothing
 * changes (but for the trie of grammars, which comes later and stays), so any number of threads may
 * share one. Private to the room.
 *
 * A text becomes ids in this order, the one of the tokenizers package:
 *   added tokens cut out of the raw text -> normalizers -> added tokens cut out of that ->
 *   pre-tokenizers (words) -> the model (BPE, SentencePiece, Unigram, WordPiece) -> BOS, EOS. */
#ifndef ANNEAL_TEXT_LM_VOCAB_H
#define ANNEAL_TEXT_LM_VOCAB_H

#include "bpe.h"
#include "tokenizer.h"

#include <stdatomic.h>

struct json_t;

#define LM_MAX_TOKEN_BYTES 65535
#define LM_MAX_ADDED_BYTES 1024 /* an added token; the search for them walks this far per byte */
#define LM_MAX_STEPS       64   /* normalizers, pre-tokenizers or decoders of one file */
#define LM_MAX_TEXT        ((size_t)16 << 20)
#define LM_MAX_NORMALIZED  ((size_t)64 << 20) /* what normalizers may make of it */

typedef enum lm_kind { LM_BPE, LM_SPM, LM_UNIGRAM, LM_WORDPIECE, LM_WORDLEVEL } lm_kind;

enum {
    LM_EXISTS = 1,      /* the id is in use */
    LM_MODEL = 2,       /* of the model's own vocabulary, not only an added token */
    LM_SPECIAL = 4,     /* a control token: no text of its own */
    LM_PLAIN = 8,       /* the model may make it of plain text */
    LM_BYTE = 16,       /* stands for one byte: <0x0A> */
    LM_RAW = 32,        /* decoded as it is written, past the decoders */
    LM_END = 64,        /* ends an answer */
    LM_FREE_SCORE = 128 /* Unigram: found at no cost (user-defined tokens of a GGUF file) */
};

typedef struct lm_token {
    uint32_t at, len;             /* text, in pool */
    uint32_t piece_at, piece_len; /* what it decodes to inside a text, in pieces */
    uint32_t flags;
    int32_t rank; /* SentencePiece: the place of its score, best first */
    double score;
} lm_token;

typedef struct lm_merge {
    int32_t left, right, rank, result;
} lm_merge;

/* A token that is looked for in the text before any model sees it. */
typedef struct lm_added {
    char *match; /* what is looked for; owned */
    size_t len;
    int32_t id;
    bool special, single_word, lstrip, rstrip;
} lm_added;

typedef struct lm_added_set {
    lm_added *items; /* sorted by match */
    size_t n;
    bool starts[256];
} lm_added_set;

/* One normalizer, pre-tokenizer or decoder. Which fields mean something depends on `what`. */
typedef enum lm_what {
    /* normalizers */
    LM_NFC,
    LM_NFD,
    LM_NFKC,
    LM_NFKD,
    LM_LOWERCASE,
    LM_STRIP_ACCENTS,
    LM_NMT,
    LM_STRIP_ENDS, /* flag[0] left, flag[1] right */
    LM_PREPEND,    /* to */
    LM_REPLACE,    /* regex or from -> to; a decoder too */
    LM_BERT_TEXT,  /* flag: clean, Chinese characters, strip accents, lower case */
    LM_CHARSMAP,   /* from: SentencePiece's compiled map */
    LM_UGM_TEXT,   /* the same as llama.cpp walks it, then white space; flag: prefix, merge */
    /* pre-tokenizers */
    LM_SPLIT,       /* regex or from; number: behaviour; flag[0]: invert */
    LM_BYTE_LEVEL,  /* flag[0] a space before, flag[1] GPT-2's words; a normalizer, decoder too */
    LM_DIGITS,      /* flag[0] one by one */
    LM_PUNCTUATION, /* number: behaviour */
    LM_WHITESPACE,  /* flag[0]: words and punctuation, else only cut at white space */
    LM_BERT_WORDS,
    LM_METASPACE,    /* from: the replacement; number: lm_prepend; flag[0] split; a decoder too */
    LM_DELIMITER,    /* from */
    LM_FIXED_LENGTH, /* number of characters */
    /* decoders */
    LM_BYTE_FALLBACK,
    LM_FUSE,
    LM_STRIP_TOKEN,    /* from: the character; number, number2: at most so many */
    LM_WORDPIECE_TEXT, /* from: prefix; flag[0] clean up */
    LM_BPE_TEXT,       /* from: suffix */
    LM_JOIN_SPACE      /* a file without decoder: tokens with spaces between */
} lm_what;

typedef enum lm_prepend { LM_FIRST, LM_NEVER, LM_ALWAYS } lm_prepend;
typedef enum lm_behaviour {
    LM_REMOVED,
    LM_ISOLATED,
    LM_WITH_PREVIOUS,
    LM_WITH_NEXT,
    LM_CONTIGUOUS
} lm_behaviour;

typedef struct lm_step {
    lm_what what;
    pcre2_code *regex; /* owned, as are from and to */
    char *from, *to;
    size_t from_len, to_len;
    int number, number2;
    bool flag[4];
} lm_step;

typedef struct lm_steps {
    lm_step step[LM_MAX_STEPS];
    int n;
} lm_steps;

struct an_vocab {
    lm_kind kind;
    an_buf pool;      /* tokens' texts, NUL-terminated, one after the other */
    an_buf pieces;    /* what they decode to */
    lm_token *tokens; /* [cap_ids] */
    int32_t n_ids, cap_ids;
    int32_t n_model; /* tokens of the model itself */
    int32_t *slots;  /* [n_slots] ids by hash of their text, -1 empty; n_slots is a power of two */
    size_t n_slots;
    uint64_t seed;
    size_t longest;  /* bytes of the longest plain token */
    int32_t *sorted; /* [n_sorted] plain tokens by text: Unigram's trie */
    int32_t n_sorted;
    lm_merge *merges; /* [n_merges] by left, right */
    int32_t n_merges;
    int32_t *first;       /* [n_ids + 1] merges of left id i are first[i] .. first[i + 1] - 1 */
    int32_t byte_id[256]; /* <0x00> ..; -1 where missing */
    bool fallback;        /* they are used for what the vocabulary lacks */
    bool fuse_unknown, ignore_merges;
    bool gguf; /* added tokens as llama.cpp cuts them: special ones unseen unless asked for */
    char *word_prefix, *subword_prefix, *word_suffix; /* "" where the model has none */
    size_t max_word_chars;
    double unknown_score;
    lm_added_set raw, normalized;
    lm_steps normalizers, splitters, decoders;
    int32_t *before, *after; /* ids that AN_ADD_SPECIAL puts around a text */
    size_t n_before, n_after;
    int32_t unknown; /* what the model puts for what it lacks; -1: nothing */
    int32_t bos, eos, unk, pad, fim[3];
    _Atomic(struct g_trie *) trie; /* for grammars (grammar_trie.c), NULL until one needs it */
};
void g_trie_free(struct g_trie *t); /* NULL is fine */

/* ---- vocab_table.c: tokens and merges ---- */

/* Adds a token. AN_INVALID when the id is out of range or taken, or the text is too long. An empty
 * text is a token that nothing encodes to. */
an_status an_lm_token_add(an_vocab *v, const char *text, size_t len, int64_t id, uint32_t flags,
                          an_error *err);
/* Makes `id` the one found under its text. false: another id has the text (left as it is). */
bool an_lm_token_index(an_vocab *v, int32_t id, int32_t *other);
/* Room for n tokens in the index; before the first an_lm_token_index. */
an_status an_lm_index_reserve(an_vocab *v, size_t n, an_error *err);
int32_t an_lm_find(const an_vocab *v, const char *text, size_t len); /* -1: none */
/* The same, of tokens that plain text may become. */
int32_t an_lm_find_plain(const an_vocab *v, const char *text, size_t len);
static inline const char *an_lm_text(const an_vocab *v, int32_t id)
{
    return v->pool.data + v->tokens[id].at;
}
static inline bool an_lm_exists(const an_vocab *v, int32_t id)
{
    return id >= 0 && id < v->n_ids && (v->tokens[id].flags & LM_EXISTS);
}
/* The next merge. Unknown parts: AN_INVALID when strict, else passed over. */
an_status an_lm_merge_add(an_vocab *v, const char *left, size_t left_len, const char *right,
                          size_t right_len, int32_t rank, bool strict, an_error *err);
const lm_merge *an_lm_merge_find(const an_vocab *v, int32_t left, int32_t right);
/* After all tokens and merges: which tokens plain text may become, sorted tables, ranks of scores,
 * bytes, pieces. */
an_status an_lm_finish(an_vocab *v, an_error *err);

/* ---- vocab_added.c ---- */

/* match: what is looked for, the normalised text of a token marked so. */
an_status an_lm_added_add(lm_added_set *set, const char *match, size_t len, lm_added like,
                          an_error *err);
void an_lm_added_sort(lm_added_set *set);
/* The longest added token that starts at text[at], NULL if none does. */
const lm_added *an_lm_added_at(const lm_added_set *set, const char *text, size_t len, size_t at,
                               bool with_special);

/* ---- vocab_regex.c ---- */

/* Compiles a pattern of tokenizer.json (Oniguruma, Ruby syntax) for PCRE2. */
an_status an_lm_regex(const char *pattern, size_t len, pcre2_code **out, an_error *err);
/* What matching needs besides the pattern; one per encoding. */
typedef struct lm_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
} lm_matcher;
an_status an_lm_matcher_open(lm_matcher *m, size_t text_len, an_error *err);
void an_lm_matcher_close(lm_matcher *m);
/* The next match at or after *from, as Oniguruma's find_iter: *from moves on, an empty match right
 * behind the last one is passed over (*last_end is SIZE_MAX before the first). 1 found, 0 no more,
 * -1 failed (err filled). */
int an_lm_regex_next(lm_matcher *m, const pcre2_code *re, const char *text, size_t len,
                     size_t *from, size_t *last_end, size_t *start, size_t *end, an_error *err);

/* ---- vocab_chars.c: classes of characters, as Rust and Oniguruma have them ---- */

size_t an_lm_char(const char *text, size_t len, uint32_t *c); /* bytes of the valid UTF-8 char */
size_t an_lm_char_len(char lead);
bool an_lm_is_space(uint32_t c);
bool an_lm_is_word(uint32_t c);
bool an_lm_is_punctuation(uint32_t c);
bool an_lm_is_numeric(uint32_t c);
/* Where `what` first lies in text, NULL if nowhere (or if it is empty). */
const char *an_lm_search(const char *text, size_t len, const char *what, size_t what_len);

/* ---- vocab_normalize.c, vocab_charsmap.c, vocab_split.c ---- */

/* Text through the normalizers, into out (emptied first). */
an_status an_lm_normalize(const an_vocab *v, lm_matcher *m, const char *text, size_t len,
                          an_buf *out, an_error *err);
an_status an_lm_charsmap_check(const char *map, size_t len, an_error *err);
void an_lm_charsmap(const lm_step *s, const char *text, size_t len, an_buf *out);
void an_lm_ugm_text(const an_vocab *v, const lm_step *s, const char *text, size_t len, an_buf *out);

typedef struct lm_span {
    size_t start, end;
} lm_span;
typedef struct lm_words {
    an_buf text;
    lm_span *spans; /* [n] none is empty */
    size_t n, cap;
} lm_words;
void an_lm_words_init(lm_words *w);
void an_lm_words_free(lm_words *w);
/* Cuts text into words by the pre-tokenizers. at_start: text begins the whole text. */
an_status an_lm_split(const an_vocab *v, lm_matcher *m, const char *text, size_t len, bool at_start,
                      lm_words *out, an_error *err);
void an_lm_put_bytes_as_chars(const char *text, size_t len, an_buf *out);

/* ---- vocab_bpe.c, vocab_unigram.c, vocab_wordpiece.c ---- */

typedef struct lm_symbol {
    int32_t id, prev, next; /* -1 at the ends; id -1: only bytes so far */
    uint32_t at, len;       /* of the word; len 0: merged away */
} lm_symbol;
typedef struct lm_best {
    double score;
    uint32_t from;
    int32_t id;
} lm_best;

typedef struct lm_encoder {
    const an_vocab *v;
    an_error *err;
    lm_matcher matcher;
    lm_words words;
    bool parse_special;
    an_ids ids;
    lm_symbol *symbols; /* [n_symbols of cap_symbols] */
    size_t n_symbols, cap_symbols;
    an_pair *heap; /* [3 * cap_symbols] */
    size_t n_heap;
    lm_best *best; /* [cap_best] */
    size_t cap_best;
} lm_encoder;

static inline an_status an_lm_push(lm_encoder *e, int32_t id)
{
    return an_ids_add(&e->ids, id, e->err);
}
an_status an_lm_push_unknown(lm_encoder *e, const char *text, size_t len);
an_status an_lm_bpe(lm_encoder *e, const char *word, size_t len);
an_status an_lm_unigram(lm_encoder *e, const char *word, size_t len);
an_status an_lm_wordpiece(lm_encoder *e, const char *word, size_t len);

/* ---- vocab_decode.c ---- */

/* The bytes that the token decodes to, appended. first, last: of the whole text. */
void an_lm_decode_token(const an_vocab *v, int32_t id, bool first, bool last, an_buf *out);

/* ---- vocab_steps.c: the parts of tokenizer.json ---- */

void an_lm_steps_free(lm_steps *s);
an_status an_lm_step_new(lm_steps *s, lm_what what, lm_step **out, an_error *err);
an_status an_lm_step_text(lm_step *s, const char *from, size_t from_len, const char *to,
                          size_t to_len, an_error *err);
an_status an_lm_read_normalizer(an_vocab *v, const struct json_t *j, int depth, an_error *err);
an_status an_lm_read_splitter(an_vocab *v, const struct json_t *j, int depth, an_error *err);
an_status an_lm_read_decoder(an_vocab *v, const struct json_t *j, int depth, an_error *err);
an_status an_lm_read_template(an_vocab *v, const struct json_t *j, int depth, an_error *err);

/* ---- vocab_names.c: tokens known by their text ---- */

/* Marks tokens that end an answer, fills fim[] where a file does not say. */
void an_lm_know_tokens(an_vocab *v);

#endif
