/* Any bytes as a tokenizer's file. The first byte says which: tokenizer.json, vocab.json or
 * merges.txt beside good ones, tokenizer_config.json. What opens must also encode. */
#include "anneal/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define VOCAB                                                                                      \
    "{\"a\":0,\"b\":1,\"a</w>\":2,\"b</w>\":3,\"ab</w>\":4,\"<|startoftext|>\":5,"                 \
    "\"<|endoftext|>\":6}"
#define MERGES "#version: 0.2\na b</w>\n"

static const char *const names[] = {
    "vocab.json",        "merges.txt",    "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.json"};
#define N_NAMES 6

static char dir[] = "/tmp/anneal-fuzz-XXXXXX";

static void path_of(int i, char path[128])
{
    snprintf(path, 128, "%s/%s", dir, names[i]);
}

static void write_file(int i, const void *data, size_t size)
{
    char path[128];
    path_of(i, path);
    FILE *f = fopen(path, "wb");
    if (!f) abort();
    fwrite(data, 1, size, f);
    fclose(f);
}

static void remove_all(void)
{
    char path[128];
    for (int i = 0; i < N_NAMES; i++) {
        path_of(i, path);
        unlink(path);
    }
}

static void remove_dir(void)
{
    remove_all();
    rmdir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool ready;
    if (!ready && (!mkdtemp(dir) || atexit(remove_dir))) abort();
    ready = true;
    if (size == 0) return 0;
    remove_all();
    write_file(0, VOCAB, sizeof VOCAB - 1);
    write_file(1, MERGES, sizeof MERGES - 1);
    write_file(data[0] % N_NAMES, data + 1, size - 1);
    an_tokenizer *t;
    an_error e;
    if (an_tokenizer_open(dir, NULL, &t, &e) != AN_OK) {
        if (t || !e.message[0]) abort();
        return 0;
    }
    static const char text[] = "ab <|endoftext|> \xc3\x89(b:1.2) <c>";
    int32_t *ids;
    size_t n;
    if (an_tokenizer_encode(t, text, sizeof text - 1, &ids, &n, &e) != AN_OK) abort();
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= an_tokenizer_vocab_size(t)) abort();
    free(ids);
    an_tokenizer_free(t);
    return 0;
}
