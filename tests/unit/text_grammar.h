/* text_grammar.h: a vocabulary of bytes and a few longer tokens, and walks with it, for the tests
 * of grammars. */
#ifndef ANNEAL_TESTS_TEXT_GRAMMAR_H
#define ANNEAL_TESTS_TEXT_GRAMMAR_H

#include "anneal/grammar.h"

#include <jansson.h>
#include <stdio.h>

#define TINY_EXTRA 24 /* longer tokens, after the 256 bytes */
#define TINY_END   (256 + TINY_EXTRA)
#define TINY_SIZE  (TINY_END + 2) /* the end token, and a special one without text */

/* GPT-2's letter for a byte, as UTF-8. */
static void byte_letter(unsigned byte, char out[4])
{
    bool shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    unsigned c = byte;
    if (!shown) {
        c = 256;
        for (unsigned b = 0; b < byte; b++)
            c += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
    }
    memset(out, 0, 4);
    if (c < 0x80) {
        out[0] = (char)c;
    } else {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
    }
}

/* Token b is the byte b. */
static an_vocab *tiny_vocab(void)
{
    static const char *const extra[TINY_EXTRA] = {
        "{\"",   "\":",   "\",",  "\"}",  "},",   "[]",       "{}",    "true",
        "false", "null",  "\n  ", "ab",   "name", "\xe6\x97", "\xa5x", "12",
        "0.",    "\"a\"", "1e",   "\\u0", "\\\"", "  ",       "日本",  "-1"};
    json_t *tokens = json_array(), *types = json_array();
    an_vocab *v = NULL;
    an_error e;
    for (unsigned i = 0; i < 256 + TINY_EXTRA; i++) {
        char text[64] = "";
        const char *bytes = i < 256 ? NULL : extra[i - 256];
        size_t n = 0;
        for (size_t k = 0; i < 256 ? k < 1 : bytes[k] != '\0'; k++) {
            byte_letter(i < 256 ? i : (unsigned char)bytes[k], text + n);
            n = strlen(text);
        }
        json_array_append_new(tokens, json_string(text));
        json_array_append_new(types, json_integer(1));
    }
    json_array_append_new(tokens, json_string("<|end|>"));
    json_array_append_new(types, json_integer(3));
    json_array_append_new(tokens, json_string("<|special|>"));
    json_array_append_new(types, json_integer(3));
    json_t *meta =
        json_pack("{s:s, s:s, s:o, s:o, s:[], s:i, s:i}", "tokenizer.ggml.model", "gpt2",
                  "tokenizer.ggml.pre", "smollm", "tokenizer.ggml.tokens", tokens,
                  "tokenizer.ggml.token_type", types, "tokenizer.ggml.merges",
                  "tokenizer.ggml.bos_token_id", TINY_END, "tokenizer.ggml.eos_token_id", TINY_END);
    if (an_vocab_open_gguf(meta, &v, &e) != AN_OK) printf("  %s\n", e.message);
    json_decref(meta);
    return v;
}

#endif
