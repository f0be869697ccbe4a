/* Any bytes as the vocabulary of a language model: the first byte says whether as tokenizer.json,
 * as the metadata of a GGUF file, or as text for vocabularies that are sound. What opens must also
 * encode, give ids of its own, and decode them to valid UTF-8, one by one as well. */
#include "anneal/text.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) abort();                                                                      \
    } while (0)

static char dir[] = "/tmp/anneal-fuzz-XXXXXX";
static char path[64];

static void remove_dir(void)
{
    unlink(path);
    rmdir(dir);
}

/* sound: the file is known, so plain text gives no control token. */
static void check(const an_vocab *v, const char *text, size_t len, int flags, bool sound)
{
    int32_t *ids;
    size_t n;
    an_error e;
    an_buf whole, step;
    an_detok d;
    an_status s = an_vocab_encode(v, text, len, flags, &ids, &n, &e);
    if (s != AN_OK) {
        MUST(!ids && n == 0 && e.message[0]);
        return;
    }
    an_buf_init(&whole, (size_t)1 << 28);
    an_buf_init(&step, (size_t)1 << 28);
    an_detok_start(&d, v, flags & AN_PARSE_SPECIAL);
    for (size_t i = 0; i < n; i++) {
        MUST(ids[i] >= 0 && ids[i] < an_vocab_size(v));
        MUST(!sound || flags || !an_vocab_is_special(v, ids[i]) || ids[i] == an_vocab_unk(v));
        if (an_detok_add(&d, ids[i], &step))
            MUST(an_utf8_valid(step.data ? step.data : "", step.len));
    }
    if (an_vocab_decode(v, ids, n, flags & AN_PARSE_SPECIAL, &whole, &e) == AN_OK)
        MUST(an_utf8_valid(whole.data ? whole.data : "", whole.len));
    an_detok_finish(&d, &step);
    an_buf_free(&whole);
    an_buf_free(&step);
    free(ids);
}

static void check_all(const an_vocab *v)
{
    static const char text[] =
        "ab <|im_end|> \xc3\x89 \xe6\x97\xa5\xe6\x9c\xac  12 it's<s></s>\n\t x";
    for (int flags = 0; flags < 4; flags++) check(v, text, sizeof text - 1, flags, false);
    check(v, "", 0, 3, false);
    size_t len;
    for (int32_t id = -1; id < 300; id++) an_vocab_piece(v, id, true, &len);
}

static void as_folder(const uint8_t *data, size_t size)
{
    an_vocab *v;
    an_error e;
    FILE *f = fopen(path, "wb");
    MUST(f);
    fwrite(data, 1, size, f);
    fclose(f);
    if (an_vocab_open_dir(dir, &v, &e) != AN_OK) {
        MUST(!v && e.message[0]);
        return;
    }
    check_all(v);
    an_vocab_free(v);
}

static void as_metadata(const uint8_t *data, size_t size)
{
    an_vocab *v;
    an_error e;
    json_t *j;
    if (an_json_parse((const char *)data, size, &j, &e) != AN_OK) return;
    if (an_vocab_open_gguf(j, &v, &e) == AN_OK) {
        check_all(v);
        an_vocab_free(v);
    } else {
        MUST(!v && e.message[0]);
    }
    json_decref(j);
}

static void as_text(const uint8_t *data, size_t size, unsigned which)
{
    static const char *const names[] = {"gpt2",    "llama3", "qwen2", "llama2",  "gemma",
                                        "unigram", "t5",     "bert",  "roberta", "suffix"};
    static an_vocab *v[10];
    unsigned k = which % 10;
    char folder[512];
    an_error e;
    if (!v[k]) {
        snprintf(folder, sizeof folder, "%s/tokenizers/%s", AN_GOLDEN, names[k]);
        MUST(an_vocab_open_dir(folder, &v[k], &e) == AN_OK);
    }
    for (int flags = 0; flags < 4; flags++) check(v[k], (const char *)data, size, flags, true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool ready;
    if (!ready) {
        an_log_set_level(AN_LOG_ERROR);
        MUST(mkdtemp(dir));
        snprintf(path, sizeof path, "%s/tokenizer.json", dir);
        MUST(!atexit(remove_dir));
        ready = true;
    }
    if (size == 0) return 0;
    if (data[0] == '{')
        as_folder(data, size);
    else if (data[0] % 2)
        as_metadata(data + 1, size - 1);
    else
        as_text(data + 1, size - 1, data[0] / 2);
    return 0;
}
