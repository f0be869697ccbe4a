/* Any bytes through the demo tokenizer: encode, decode, the weighted prompt. What must hold: ids
 * are of the vocabulary, chunks are whole, an error leaves nothing behind. */
#include "anneal/text.h"

#include <stdlib.h>

#define CHUNK 32

#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) abort();                                                                      \
    } while (0)

static an_tokenizer *tokenizer(void)
{
    static an_tokenizer *t;
    an_error e;
    if (!t) MUST(an_tokenizer_open(AN_DEMO "/emoji/tokenizer", NULL, &t, &e) == AN_OK);
    return t;
}

static void check_prompt(const an_tokenizer *t, const char *text, size_t size, int max_chunks)
{
    an_prompt p;
    an_error e;
    an_status s = an_prompt_weighted(t, text, size, CHUNK, max_chunks, &p, &e);
    if (s != AN_OK) {
        MUST(s == AN_INVALID && !p.ids && !p.weights);
        return;
    }
    MUST(p.n_chunks >= 1 && p.n_chunks <= max_chunks && p.chunk_len == CHUNK);
    for (int c = 0; c < p.n_chunks; c++) MUST(p.ids[c * CHUNK] == an_tokenizer_bos(t));
    for (int i = 0; i < p.n_chunks * CHUNK; i++) {
        MUST(p.ids[i] >= 0 && p.ids[i] < an_tokenizer_vocab_size(t));
        MUST(p.weights[i] >= -1.1e6f && p.weights[i] <= 1.1e6f);
    }
    MUST(an_prompt_pad_chunks(t, &p, p.n_chunks + 1, &e) == AN_OK);
    an_prompt_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const an_tokenizer *t = tokenizer();
    const char *text = (const char *)data;
    int32_t *ids;
    size_t n;
    an_error e;
    if (an_tokenizer_encode(t, text, size, &ids, &n, &e) == AN_OK) {
        an_buf b;
        an_buf_init(&b, size * 16 + 4096);
        MUST(an_utf8_valid(text, size));
        MUST(an_tokenizer_decode(t, ids, n, &b, &e) == AN_OK);
        an_buf_free(&b);
        free(ids);
    } else {
        MUST(!an_utf8_valid(text, size) && !ids);
    }
    check_prompt(t, text, size, 100);
    check_prompt(t, text, size, 1);
    return 0;
}
