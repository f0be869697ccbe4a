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

#endif
