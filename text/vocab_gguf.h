/* vocab_gguf.h: how the byte-level BPE of a GGUF file cuts words, by the name the file gives.
 * Private to the room. */
#ifndef ANNEAL_TEXT_VOCAB_GGUF_H
#define ANNEAL_TEXT_VOCAB_GGUF_H

#include "lm_vocab.h"

#define LM_PRE_PATTERNS 8

typedef struct lm_pre {
    const char *names; /* "|llama3|llama-bpe|" */
    bool ignore_merges, add_bos;
    bool spaces; /* SentencePiece's U+2581 and byte tokens instead of GPT-2's alphabet */
    const char *pattern[LM_PRE_PATTERNS]; /* each cuts what the one before left; NULL ends */
} lm_pre;

/* NULL or "": llama.cpp's default, with a warning. AN_INVALID for a name that is not known. */
an_status an_lm_pre_find(const char *name, const lm_pre **out, an_error *err);
/* An empty vocabulary; NULL with err when there is no memory. */
an_vocab *an_lm_new(an_error *err);

#endif
