/* text.h: text to token ids. On one side UTF-8, on the other ids and per-token weights; no tensors,
 * no models. Today: CLIP's byte-level BPE (lower-cased, `</w>` word ends). */
#ifndef ANNEAL_TEXT_H
#define ANNEAL_TEXT_H

#include "anneal/base.h"

typedef struct an_tokenizer an_tokenizer;

/* dir: a tokenizer folder with tokenizer.json, or vocab.json + merges.txt (both accepted; special
 * tokens, pad token and model_max_length from tokenizer_config.json / special_tokens_map.json).
 * NULL dir: the built-in CLIP vocabulary (from merges_path, a merges.txt; ids as OpenAI's). */
an_status an_tokenizer_open(const char *dir, const char *merges_path, an_tokenizer **out,
                            an_error *err);
void an_tokenizer_free(an_tokenizer *t);
int32_t an_tokenizer_vocab_size(const an_tokenizer *t);
int32_t an_tokenizer_bos(const an_tokenizer *t);
int32_t an_tokenizer_eos(const an_tokenizer *t);
int32_t an_tokenizer_pad(const an_tokenizer *t);
int32_t an_tokenizer_max_length(const an_tokenizer *t); /* 77 for CLIP; 0 if the files do not say */
/* Pads with this token of the vocabulary: "!" for the tokenizers of SD2 and SDXL's second encoder in
 * single files, which bring no tokenizer files. As in transformers it is a special token from then
 * on: a "!" in a text becomes its id too. Before the tokenizer is shared between threads. */
an_status an_tokenizer_set_pad(an_tokenizer *t, const char *token, an_error *err);

/* Ids of the text alone: no BOS, no EOS, no padding, never cut. Exactly as transformers'
 * CLIPTokenizer, special tokens in the text included. *ids is the caller's (free()).
 * AN_INVALID on bad UTF-8. */
an_status an_tokenizer_encode(const an_tokenizer *t, const char *text, size_t len, int32_t **ids,
                              size_t *count, an_error *err);
/* Text of ids, for tests and messages (best effort; `</w>` becomes a space). */
an_status an_tokenizer_decode(const an_tokenizer *t, const int32_t *ids, size_t count, an_buf *out,
                              an_error *err);

/* A prompt ready for the encoder: n_chunks x chunk_len ids (BOS text EOS padding) and one weight
 * per id (1 = plain; A1111's (word:1.2) only through an_prompt_weighted). */
typedef struct an_prompt {
    int32_t *ids;      /* [n_chunks, chunk_len] */
    float *weights;    /* [n_chunks, chunk_len] */
    int n_chunks;
    int chunk_len;     /* the model's max length (77, the demo's 32) */
    bool weighted;     /* some weight differs from 1 */
    bool truncated;    /* the text was longer than the model takes */
    size_t n_tokens;   /* tokens of the whole text, without BOS/EOS */
} an_prompt;

/* One chunk, cut to chunk_len as diffusers does (EOS kept last); truncated says so. */
an_status an_prompt_plain(const an_tokenizer *t, const char *text, size_t len, int chunk_len,
                          an_prompt *out, an_error *err);
/* A1111's way: (a), (a:1.3), [a], nesting, \( escapes, BREAK, chunks of chunk_len-2 tokens with the
 * comma look-back of 20 tokens; at most max_chunks, then cut with truncated set. */
an_status an_prompt_weighted(const an_tokenizer *t, const char *text, size_t len, int chunk_len,
                             int max_chunks, an_prompt *out, an_error *err);
/* Appends empty chunks (BOS EOS padding) until there are n (cond and uncond need the same length
 * in A1111's scheme). */
an_status an_prompt_pad_chunks(const an_tokenizer *t, an_prompt *p, int n, an_error *err);
void an_prompt_free(an_prompt *p); /* clears; safe on a zeroed struct */

/* ---------------------------------------------------------------- vocabularies of language models
 * Byte-level BPE with each model's pre-tokenizer, SentencePiece BPE with byte fallback, Unigram and
 * WordPiece, exactly as the `tokenizers` package (tokenizer.json) or llama.cpp (GGUF) has them. Read
 * only after open: any number of threads. */
typedef struct an_vocab an_vocab;

struct json_t;
/* A Hugging Face folder: tokenizer.json, or tokenizer_config.json with vocab.json + merges.txt. */
an_status an_vocab_open_dir(const char *dir, an_vocab **out, an_error *err);
/* The metadata of a GGUF file as one object: {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre":
 * "smollm", "tokenizer.ggml.tokens": [...], ...} (an_checkpoint_config(c, "gguf")). */
an_status an_vocab_open_gguf(const struct json_t *metadata, an_vocab **out, an_error *err);
void an_vocab_free(an_vocab *v); /* NULL is fine */
int32_t an_vocab_size(const an_vocab *v);
int32_t an_vocab_bos(const an_vocab *v);   /* -1 = none; likewise below */
int32_t an_vocab_eos(const an_vocab *v);
int32_t an_vocab_unk(const an_vocab *v);
int32_t an_vocab_pad(const an_vocab *v);
bool an_vocab_adds_bos(const an_vocab *v);
bool an_vocab_adds_eos(const an_vocab *v);
/* Fill-in-the-middle tokens: "prefix", "suffix", "middle"; -1 where the model has none. */
int32_t an_vocab_fim(const an_vocab *v, const char *part);
/* Id of a token by its exact text (also special ones), -1 if there is none. */
int32_t an_vocab_find(const an_vocab *v, const char *token, size_t len);
bool an_vocab_is_special(const an_vocab *v, int32_t id); /* control tokens: no text of their own */
bool an_vocab_is_end(const an_vocab *v, int32_t id);     /* eos, eot, eom and the like */

enum {
    AN_ADD_SPECIAL = 1,  /* BOS and EOS as the tokenizer adds them */
    AN_PARSE_SPECIAL = 2 /* texts of special tokens become those tokens; else they are plain text */
};
/* *ids is the caller's (free()). AN_INVALID on bad UTF-8. Time is linear in len but for a logarithm,
 * whatever the text (a megabyte of one letter). */
an_status an_vocab_encode(const an_vocab *v, const char *text, size_t len, int flags, int32_t **ids,
                          size_t *count, an_error *err);
/* The bytes that token `id` stands for in the middle of a text (a space of SentencePiece's included);
 * special tokens give nothing unless `special`. Borrowed. Not always whole UTF-8 characters. */
const char *an_vocab_piece(const an_vocab *v, int32_t id, bool special, size_t *len);
/* The text of ids as the tokenizer decodes it (SentencePiece drops the first space). Valid UTF-8,
 * appended to out. AN_INVALID for an id outside the vocabulary; a hole in it decodes to nothing. */
an_status an_vocab_decode(const an_vocab *v, const int32_t *ids, size_t count, bool special,
                          an_buf *out, an_error *err);

/* Ids one by one to text that is whole UTF-8 at every moment: bytes of an unfinished character wait;
 * what can never become one turns to U+FFFD. */
typedef struct an_detok {
    const an_vocab *v;
    bool special;
    bool first; /* the next token begins the text; false where it goes on from a prompt */
    unsigned char held[8];
    int n_held;
} an_detok;
void an_detok_start(an_detok *d, const an_vocab *v, bool special);
bool an_detok_add(an_detok *d, int32_t id, an_buf *out);
bool an_detok_finish(an_detok *d, an_buf *out); /* flushes what is held as U+FFFD */

#endif
