/* vocab_open.h: what the readers of vocabulary files share. Private to the room. */
#ifndef ANNEAL_TEXT_VOCAB_OPEN_H
#define ANNEAL_TEXT_VOCAB_OPEN_H

#include "lm_vocab.h"

#define LM_MAX_FILE  ((size_t)128 << 20)
#define LM_MAX_ADDED (1 << 17)

/* An empty vocabulary; NULL with err when there is no memory. */
an_vocab *an_lm_new(an_error *err);

/* ---- vocab_json.c ---- */

/* The whole of a tokenizer.json but for an_lm_finish. */
an_status an_lm_read_json(an_vocab *v, const char *path, an_error *err);
/* {"token": id, ..}; room in the index for `more` tokens that are added later. */
an_status an_lm_read_vocab(an_vocab *v, const struct json_t *vocab, size_t more, an_error *err);
/* "left right" */
an_status an_lm_read_merge(an_vocab *v, const char *line, size_t len, int32_t rank, an_error *err);
/* The text of a token as these files write it: "text", or an object with "content". */
const struct json_t *an_lm_content(const struct json_t *token);
/* An added token. id < 0: the file does not say, the next free one. The vocabulary's id wins over
 * the file's. special: where the token itself does not say. */
an_status an_lm_add_token(an_vocab *v, const struct json_t *token, int64_t id, bool special,
                          lm_matcher *m, an_error *err);

/* ---- vocab_gguf_pre.c: how the BPE of a GGUF file cuts words, by the name the file gives ---- */

#define LM_PRE_PATTERNS 8

typedef struct lm_pre {
    const char *names; /* "|llama3|llama-bpe|" */
    bool ignore_merges, add_bos;
    bool spaces; /* SentencePiece's U+2581 and byte tokens instead of GPT-2's alphabet */
    const char *pattern[LM_PRE_PATTERNS]; /* each cuts what the one before left; NULL ends */
} lm_pre;

/* NULL or "": llama.cpp's default, with a warning. AN_INVALID for a name that is not known. */
an_status an_lm_pre_find(const char *name, const lm_pre **out, an_error *err);
#endif
