/* text_help.h: small language models for the engine's tests: those of tests/golden/llm, which have
 * no tokenizer, and one of them again with a byte-level tokenizer written here: ids 0 <pad>, 1 <s>,
 * 2 </s>, 3 + byte for each byte, and above them pairs of letters. */
#ifndef TESTS_TEXT_HELP_H
#define TESTS_TEXT_HELP_H

#include "engine_help.h"

#include <sys/stat.h>

#define BYTE_ID(c) (3 + (int32_t)(unsigned char)(c))

/* GPT-2's printable stand-in of a byte, as UTF-8 in JSON. */
static inline void text_byte(FILE *f, int byte)
{
    bool plain = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    int code = byte;
    if (!plain) {
        code = 256;
        for (int b = 0; b < byte; b++)
            code += !((b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE);
    }
    fprintf(f, "\\u%04x", code);
}

/* Of `ids` tokens: 512 are what the models have logits for. */
static inline bool text_write_tokenizer(const char *path, int ids)
{
    FILE *f = fopen(path, "w");
    if (!f) return false;
    fprintf(f, "{\"version\":\"1.0\",\"added_tokens\":[");
    static const char *const special[] = {"<pad>", "<s>", "</s>"};
    for (int i = 0; i < 3; i++)
        fprintf(f,
                "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":"
                "false,\"normalized\":false,\"special\":true}",
                i ? "," : "", i, special[i]);
    fprintf(f,
            "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":"
            "false,\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,\"decoder\":{"
            "\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":"
            "true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
            "\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{");
    for (int i = 0; i < 3; i++) fprintf(f, "%s\"%s\":%d", i ? "," : "", special[i], i);
    for (int b = 0; b < 256; b++) {
        fprintf(f, ",\"");
        text_byte(f, b);
        fprintf(f, "\":%d", 3 + b);
    }
    for (int i = 259; i < ids; i++)
        fprintf(f, ",\"%c%c\":%d", 'a' + (i - 259) / 26, 'a' + (i - 259) % 26, i);
    fprintf(f, "},\"merges\":[");
    for (int i = 259; i < ids; i++)
        fprintf(f, "%s\"%c %c\"", i > 259 ? "," : "", 'a' + (i - 259) / 26, 'a' + (i - 259) % 26);
    fprintf(f, "]}}");
    return fclose(f) == 0;
}

static const char *const TEXT_MODELS[] = {"llama", "gemma2", "qwen3-moe"};

/* The llama of the goldens with a tokenizer, as dir/name. */
static inline bool text_make_speaker(const char *dir, const char *name, int ids)
{
    char from[1200], to[1200];
    snprintf(to, sizeof to, "%s/%s", dir, name);
    bool ok = mkdir(to, 0755) == 0;
    static const char *const file[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        snprintf(from, sizeof from, "%s/llm/llama/model/%s", AN_GOLDEN, file[i]);
        snprintf(to, sizeof to, "%s/%s/%s", dir, name, file[i]);
        ok = symlink(from, to) == 0 && ok;
    }
    snprintf(to, sizeof to, "%s/%s/tokenizer.json", dir, name);
    return text_write_tokenizer(to, ids) && ok;
}

static inline void text_unmake_speaker(const char *dir, const char *name)
{
    static const char *const file[] = {"/config.json", "/model.safetensors", "/tokenizer.json", ""};
    char path[1200];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s%s", dir, name, file[i]);
        remove(path);
    }
}

static inline bool text_link_models(char *dir, size_t size)
{
    char from[1200], to[1200];
    snprintf(dir, size, "%s/anneal-text-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(dir)) return false;
    bool ok = true;
    for (int i = 0; i < 3; i++) {
        snprintf(from, sizeof from, "%s/llm/%s/model", AN_GOLDEN, TEXT_MODELS[i]);
        snprintf(to, sizeof to, "%s/%s", dir, TEXT_MODELS[i]);
        ok = symlink(from, to) == 0 && ok;
    }
    ok = text_make_speaker(dir, "babble", 512) && ok;
    snprintf(from, sizeof from, "%s/sd1/model", AN_GOLDEN);
    snprintf(to, sizeof to, "%s/sd1", dir);
    return symlink(from, to) == 0 && ok;
}

static inline void text_unlink_models(const char *dir)
{
    static const char *const name[] = {"llama", "gemma2", "qwen3-moe", "sd1"};
    char path[1200];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, name[i]);
        unlink(path);
    }
    text_unmake_speaker(dir, "babble");
    rmdir(dir);
}

/* Nothing runs and every block is free. */
static inline bool text_all_free(an_engine *e)
{
    an_engine_stats s;
    for (int i = 0; i < 60000; i++) { /* a minute: a device thread may be kept waiting */
        an_engine_get_stats(e, &s);
        if (s.queued + s.running + s.running_rows == 0 && s.kv_blocks_used == 0 &&
            s.seqs_running == 0 && s.seqs_waiting == 0)
            return true;
        usleep(1000);
    }
    printf("  %d queued, %d running, %d rows, %lld blocks used, %d + %d sequences\n", s.queued,
           s.running, s.running_rows, (long long)s.kv_blocks_used, s.seqs_running, s.seqs_waiting);
    return false;
}

#endif
