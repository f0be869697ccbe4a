/* Vocabulary files that lie: each is refused with a message that names what is wrong, or read as
 * the tokenizers package and llama.cpp read it. None may crash, hang or leak. */
#include "anneal/text.h"
#include "test.h"
#include <jansson.h>
#include <unistd.h>

static char dir[] = "/tmp/anneal-vocab-XXXXXX";

static void path_of(const char *name, char path[128])
{
    snprintf(path, 128, "%s/%s", dir, name);
}

static void write_file(const char *name, const char *text)
{
    char path[128];
    path_of(name, path);
    FILE *f = fopen(path, "wb");
    if (f) {
        fputs(text, f);
        fclose(f);
    }
}

static void remove_files(void)
{
    static const char *const names[] = {"tokenizer.json",    "vocab.json",
                                        "merges.txt",        "tokenizer_config.json",
                                        "added_tokens.json", "special_tokens_map.json"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        path_of(names[i], path);
        unlink(path);
    }
}

static an_vocab *open_json(const char *json)
{
    an_vocab *v;
    an_error e;
    remove_files();
    write_file("tokenizer.json", json);
    an_status s = an_vocab_open_dir(dir, &v, &e);
    CHECK_MSG(s == AN_OK, "%.200s: %s", json, e.message);
    return v;
}

static void check_refused(const char *json, const char *word)
{
    an_vocab *v;
    an_error e;
    remove_files();
    write_file("tokenizer.json", json);
    an_status s = an_vocab_open_dir(dir, &v, &e);
    CHECK_MSG(s == AN_INVALID && !v, "%.200s: status %d", json, (int)s);
    if (s == AN_OK) an_vocab_free(v);
    CHECK_MSG(s == AN_OK || strstr(e.message, word), "'%s' does not say '%s'", e.message, word);
}

/* A tokenizer.json with the model given and one more member. */
#define BPE(vocab, merges, more)                                                                   \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}" more "}"
#define SMALL(more) BPE("{\"a\":0,\"b\":1,\"ab\":2}", "[\"a b\"]", more)

/* ids ends with -1 */
static void check_encodes(const an_vocab *v, const char *text, int flags, const int32_t *want)
{
    int32_t *ids;
    size_t n, n_want = 0;
    an_error e;
    while (want[n_want] >= 0) n_want++;
    an_status s = an_vocab_encode(v, text, strlen(text), flags, &ids, &n, &e);
    CHECK_MSG(s == AN_OK, "'%.40s': %s", text, e.message);
    if (s != AN_OK) return;
    CHECK_MSG(n == n_want && memcmp(ids, want, n * sizeof *ids) == 0, "'%.40s': %zu ids, first %d",
              text, n, n ? ids[0] : -1);
    free(ids);
}

TEST(models_that_lie)
{
    check_refused("", "JSON");
    check_refused("[]", "model");
    check_refused("{}", "model");
    check_refused("{\"model\":{\"type\":\"Magic\"}}", "Magic");
    check_refused(BPE("{\"a\":0,\"b\":0}", "[]", ""), "same id");
    check_refused(BPE("{\"a\":0,\"a\":1}", "[]", ""), "duplicate");
    check_refused(BPE("{\"a\":-1}", "[]", ""), "-1");
    check_refused(BPE("{\"a\":4294967296}", "[]", ""), "4294967296");
    check_refused(BPE("{\"a\":1048576}", "[]", ""), "1048576");
    check_refused(BPE("{\"a\":1.5}", "[]", ""), "integer");
    check_refused(BPE("{\"a\":null}", "[]", ""), "integer");
    check_refused(BPE("[]", "[]", ""), "object");
    check_refused(BPE("{\"a\":0}", "{}", ""), "merges");
    check_refused(BPE("{\"a\":0}", "[\"a\"]", ""), "merge 1");
    check_refused(BPE("{\"a\":0}", "[\"a a a\"]", ""), "merge 1");
    check_refused(BPE("{\"a\":0}", "[[\"a\"]]", ""), "merge 1");
    check_refused(BPE("{\"a\":0}", "[[\"a\",3]]", ""), "merge 1");
    check_refused(BPE("{\"a\":0}", "[\"a b\"]", ""), "'b'");
    check_refused(BPE("{\"a\":0,\"b\":1}", "[\"a b\"]", ""), "'ab'");
    check_refused("{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{},\"merges\":[]}}",
                  "dropout");
    check_refused("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":1}}",
                  "unk_id");
    check_refused("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", "entry 0");
    check_refused("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[null,0]]}}", "entry 0");
    check_refused(
        "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0},\"unk_token\":\"[UNK]\"}}",
        "[UNK]");
}

TEST(a_sparse_vocabulary_is_read)
{
    an_vocab *v = open_json(BPE("{\"a\":7,\"b\":1000000}", "[]", ""));
    REQUIRE(v);
    CHECK(an_vocab_size(v) == 1000001);
    check_encodes(v, "ab", 0, (int32_t[]){7, 1000000, -1});
    int32_t hole = 500, past = 1000001;
    an_buf b;
    an_error e;
    an_buf_init(&b, 10);
    CHECK(an_vocab_decode(v, &hole, 1, true, &b, &e) == AN_OK && b.len == 0);
    CHECK(an_vocab_decode(v, &past, 1, true, &b, &e) == AN_INVALID);
    past = -1;
    CHECK(an_vocab_decode(v, &past, 1, true, &b, &e) == AN_INVALID);
    an_buf_free(&b);
    an_vocab_free(v);
}

TEST(an_empty_vocabulary_encodes_to_nothing)
{
    an_vocab *v = open_json(BPE("{}", "[]", ""));
    REQUIRE(v);
    check_encodes(v, "anything", AN_ADD_SPECIAL | AN_PARSE_SPECIAL, (int32_t[]){-1});
    CHECK(an_vocab_find(v, "", 0) == -1 && an_vocab_find(v, "a", 1) == -1);
    an_vocab_free(v);
}

TEST(parts_that_lie)
{
    check_refused(SMALL(",\"normalizer\":{\"type\":\"Magic\"}"), "Magic");
    check_refused(SMALL(",\"pre_tokenizer\":{\"type\":\"Magic\"}"), "Magic");
    check_refused(SMALL(",\"decoder\":{\"type\":\"Magic\"}"), "Magic");
    check_refused(SMALL(",\"post_processor\":{\"type\":\"Magic\"}"), "Magic");
    check_refused(SMALL(",\"normalizer\":{\"type\":\"Sequence\"}"), "normalizers");
    check_refused(SMALL(",\"normalizer\":{\"type\":\"Replace\",\"content\":\"x\"}"), "pattern");
    check_refused(SMALL(",\"normalizer\":{\"type\":\"Prepend\"}"), "prepend");
    check_refused(
        SMALL(",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"}"),
        "charsmap");
    check_refused(
        SMALL(",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"!\"}"),
        "base64");
    check_refused(SMALL(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},"
                        "\"behavior\":\"Sometimes\"}"),
                  "Sometimes");
    check_refused(SMALL(",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"xx\"}"),
                  "one character");
    check_refused(SMALL(",\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":0}"), "length");
    check_refused(SMALL(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[],"
                        "\"special_tokens\":{}}"),
                  "text");
    check_refused(SMALL(",\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"a\",0],"
                        "\"cls\":[\"x\",99]}"),
                  "99");
    check_refused(SMALL(",\"added_tokens\":[{\"id\":5}]"), "content");
    check_refused(SMALL(",\"added_tokens\":[{\"content\":\"x\"}]"), "id");
    check_refused(SMALL(",\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]"), "same id");
    check_refused(SMALL(",\"added_tokens\":[{\"id\":99999999,\"content\":\"x\"}]"), "99999999");
}

TEST(sequences_without_end)
{
    an_buf b;
    an_buf_init(&b, 1 << 20);
    an_buf_str(&b, "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},\"normalizer\":");
    for (int i = 0; i < 20; i++) an_buf_str(&b, "{\"type\":\"Sequence\",\"normalizers\":[");
    an_buf_str(&b, "{\"type\":\"NFC\"}");
    for (int i = 0; i < 20; i++) an_buf_str(&b, "]}");
    an_buf_str(&b, "}");
    check_refused(b.data, "nested");
    b.len = 0;
    an_buf_str(&b, "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},"
                   "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 100; i++) an_buf_str(&b, "{\"type\":\"NFC\"},");
    an_buf_str(&b, "{\"type\":\"NFC\"}]}}");
    check_refused(b.data, "64 steps");
    an_buf_free(&b);
}

#define REGEX(pattern)                                                                             \
    SMALL(                                                                                         \
        ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":" \
        "\"" pattern "\"}}")

TEST(patterns_that_do_not_compile)
{
    check_refused(REGEX("(a"), "(a");
    check_refused(REGEX("[a"), "closing bracket");
    check_refused(REGEX("a\\\\"), "backslash");
    check_refused(REGEX("\\\\p{Nope}"), "Nope");
    check_refused(REGEX("\\\\p{L"), "brace");
    check_refused(REGEX("(?<=a*)b"), "lookbehind");
    check_refused(REGEX("*a"), "*a");
    check_refused(REGEX("\\\\C"), "\\C");
    check_refused(REGEX("[^a[^b]]"), "class");
}

/* (a+)+$ takes exponential time on a row of letters that does not end there. */
TEST(patterns_that_run_away)
{
    an_vocab *v = open_json(REGEX("(?:a|a)+\\\\z|(a+)+c"));
    char text[3001];
    int32_t *ids;
    size_t n;
    an_error e;
    REQUIRE(v);
    memset(text, 'a', 3000);
    text[2999] = 'b';
    double start = an_now_s();
    an_status s = an_vocab_encode(v, text, 3000, 0, &ids, &n, &e);
    CHECK_MSG(s == AN_INVALID && !ids, "status %d", (int)s);
    CHECK_MSG(an_now_s() - start < 20, "%.1f s", an_now_s() - start);
    check_encodes(v, "ab", 0, (int32_t[]){2, -1});
    an_vocab_free(v);
}

TEST(patterns_that_match_nothing)
{
    an_vocab *v = open_json(REGEX("(?=b)|x*"));
    REQUIRE(v);
    check_encodes(v, "abab", 0, (int32_t[]){0, 1, 0, 1, -1});
    an_vocab_free(v);
}

/* Long words need no stack: a group repeated half a million times. */
TEST(patterns_on_long_words)
{
    an_vocab *v = open_json(REGEX("(?:a|b)+|(?:[ab] ?)+"));
    size_t len = 500000, n;
    char *text = malloc(len);
    int32_t *ids;
    an_error e;
    REQUIRE(v && text);
    memset(text, 'b', len);
    an_status s = an_vocab_encode(v, text, len, 0, &ids, &n, &e);
    CHECK_MSG(s == AN_OK || s == AN_INVALID, "%s", e.message);
    if (s == AN_OK) free(ids);
    free(text);
    an_vocab_free(v);
}

/* Each step writes sixty-four letters for one. */
TEST(texts_that_grow)
{
    char many[65];
    an_buf b;
    memset(many, 'a', 64);
    many[64] = '\0';
    an_buf_init(&b, 1 << 20);
    an_buf_str(&b,
               "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},\"normalizer\":{\"type\":"
               "\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 20; i++)
        an_buf_printf(&b,
                      "%s{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"%s\"}",
                      i ? "," : "", many);
    an_buf_str(&b, "]}}");
    an_vocab *v = open_json(b.data);
    int32_t *ids;
    size_t n;
    an_error e;
    REQUIRE(v);
    CHECK(an_vocab_encode(v, "a", 1, 0, &ids, &n, &e) == AN_TOO_LARGE && !ids);
    an_vocab_free(v);
    an_buf_free(&b);
}

TEST(added_tokens_that_hold_each_other)
{
    an_vocab *v = open_json(SMALL(
        ",\"added_tokens\":[{\"id\":3,\"content\":\"xy\"},{\"id\":4,\"content\":\"xyxy\"},"
        "{\"id\":5,\"content\":\"y\",\"lstrip\":true,\"rstrip\":true},{\"id\":6,\"content\":\"\"},"
        "{\"id\":2,\"content\":\"ab\",\"special\":true},{\"id\":3,\"content\":\"xy\"}]"));
    REQUIRE(v);
    check_encodes(v, "xyxyxy  y  ab", AN_PARSE_SPECIAL, (int32_t[]){4, 3, 5, 2, -1});
    /* "ab" is special now: as text it stays two letters, though a merge would join them */
    check_encodes(v, "ab", 0, (int32_t[]){0, 1, -1});
    an_vocab_free(v);
}

TEST(bad_texts)
{
    an_vocab *v = open_json(SMALL(""));
    int32_t *ids = (int32_t *)&ids;
    size_t n;
    an_error e;
    REQUIRE(v);
    CHECK(an_vocab_encode(v, "\xff", 1, 0, &ids, &n, &e) == AN_INVALID && !ids && n == 0);
    CHECK(an_vocab_encode(v, "\xed\xa0\x80", 3, 0, &ids, &n, NULL) == AN_INVALID);
    CHECK(an_vocab_encode(v, "x", (size_t)1 << 40, 0, &ids, &n, &e) == AN_TOO_LARGE);
    CHECK(an_vocab_encode(v, NULL, 0, 0, &ids, &n, &e) == AN_OK && ids && n == 0);
    free(ids);
    CHECK(an_vocab_encode(v, "a\0b", 3, 0, &ids, &n, &e) == AN_OK && n == 1); /* NUL falls away */
    free(ids);
    an_vocab_free(v);
    an_vocab_free(NULL);
}

/* ---------------------------------------------------------------- folders */

TEST(folders)
{
    an_vocab *v;
    an_error e;
    remove_files();
    CHECK(an_vocab_open_dir(dir, &v, &e) == AN_NOT_FOUND && !v);
    CHECK(strstr(e.message, "tokenizer.json") && strstr(e.message, "tokenizer.model"));
    write_file("vocab.json", "{\"a\":0,\"b\":1,\"ab\":2,\"<end>\":3}");
    write_file("merges.txt", "#version: 0.2\na b\n\n");
    write_file("tokenizer_config.json",
               "{\"eos_token\":{\"content\":\"<end>\"},\"model_max_length\":1e30}");
    REQUIRE(an_vocab_open_dir(dir, &v, &e) == AN_OK);
    CHECK(an_vocab_eos(v) == 3 && an_vocab_is_end(v, 3) && an_vocab_bos(v) == -1);
    check_encodes(v, "ab<end>", AN_PARSE_SPECIAL, (int32_t[]){2, 3, -1});
    check_encodes(v, "ab", AN_ADD_SPECIAL, (int32_t[]){2, -1});
    an_vocab_free(v);
    write_file("tokenizer_config.json", "{\"eos_token\":\"<end>\",\"add_eos_token\":true}");
    REQUIRE(an_vocab_open_dir(dir, &v, &e) == AN_OK);
    CHECK(an_vocab_adds_eos(v) && !an_vocab_adds_bos(v));
    check_encodes(v, "ab", AN_ADD_SPECIAL, (int32_t[]){2, 3, -1});
    check_encodes(v, "ab", 0, (int32_t[]){2, -1});
    an_vocab_free(v);
    remove_files();
    write_file("tokenizer.json", SMALL(",\"added_tokens\":[{\"id\":9,\"content\":\"<end>\"}]"));
    write_file("tokenizer_config.json", "{\"eos_token\":\"<end>\"}"); /* makes it special */
    REQUIRE(an_vocab_open_dir(dir, &v, &e) == AN_OK);
    CHECK(an_vocab_eos(v) == 9 && an_vocab_is_special(v, 9));
    check_encodes(v, "ab<end>", AN_PARSE_SPECIAL, (int32_t[]){2, 9, -1});
    check_encodes(v, "ab<end>", 0, (int32_t[]){2, -1});
    an_vocab_free(v);
    remove_files();
    write_file("vocab.json", "{\"a\":0}");
    write_file("merges.txt", "a b c\n");
    CHECK(an_vocab_open_dir(dir, &v, &e) == AN_INVALID && strstr(e.message, "merges.txt"));
    write_file("tokenizer_config.json", "[]");
    CHECK(an_vocab_open_dir(dir, &v, &e) == AN_INVALID && strstr(e.message, "tokenizer_config"));
}

/* ---------------------------------------------------------------- GGUF */

static void check_gguf_refused(json_t *metadata, const char *word)
{
    an_vocab *v;
    an_error e;
    an_status s = an_vocab_open_gguf(metadata, &v, &e);
    CHECK_MSG(s == AN_INVALID && !v, "'%s': status %d", word, (int)s);
    CHECK_MSG(s == AN_OK || strstr(e.message, word), "'%s' does not say '%s'", e.message, word);
    if (s == AN_OK) an_vocab_free(v);
    json_decref(metadata);
}

#define KEY "tokenizer.ggml."

TEST(gguf_metadata_that_lies)
{
    check_gguf_refused(json_object(), "tokens");
    check_gguf_refused(json_array(), "object");
    check_gguf_refused(json_pack("{s:s,s:s}", KEY "model", "gpt2", KEY "tokens", "x"), "tokens");
    check_gguf_refused(json_pack("{s:s,s:[s,i]}", KEY "model", "gpt2", KEY "tokens", "x", 3),
                       "tokens[1]");
    check_gguf_refused(json_pack("{s:s,s:[s,n]}", KEY "model", "gpt2", KEY "tokens", "x"),
                       "tokens[1]");
    check_gguf_refused(json_pack("{s:[s]}", KEY "tokens", "x"), "model");
    check_gguf_refused(json_pack("{s:s,s:[s]}", KEY "model", "rwkv", KEY "tokens", "x"), "rwkv");
    check_gguf_refused(json_pack("{s:s,s:[s]}", KEY "model", "gpt2", KEY "tokens", "x"), "merges");
    check_gguf_refused(json_pack("{s:s,s:[s,s]}", KEY "model", "llama", KEY "tokens", "x", "x"),
                       "two ids");
    check_gguf_refused(json_pack("{s:s,s:[s,s],s:[i]}", KEY "model", "llama", KEY "tokens", "x",
                                 "y", KEY "token_type", 1),
                       "token_type");
    check_gguf_refused(json_pack("{s:s,s:[s,s],s:[f]}", KEY "model", "llama", KEY "tokens", "x",
                                 "y", KEY "scores", 1.0),
                       "scores");
    check_gguf_refused(json_pack("{s:s,s:[s],s:[i,i,i,i,i]}", KEY "model", "t5", KEY "tokens", "x",
                                 KEY "precompiled_charsmap", 255, 255, 255, 255, 0),
                       "charsmap");
}

/* Ids out of range, merges of unknown tokens, empty tokens, types no one knows: read, not used. */
TEST(gguf_metadata_that_is_odd)
{
    json_t *m =
        json_pack("{s:s,s:s,s:[s,s,s,s],s:[i,i,i,i],s:[s,s,s,s,i],s:i,s:i,s:i}", KEY "model",
                  "gpt2", KEY "pre", "gpt-2", KEY "tokens", "a", "b", "ab", "", KEY "token_type", 1,
                  1, 99, -3, KEY "merges", "a b", "a zz", "nospace", "", 5, KEY "bos_token_id", 77,
                  KEY "eos_token_id", -1, KEY "unknown_token_id", 3);
    an_vocab *v;
    an_error e;
    REQUIRE(an_vocab_open_gguf(m, &v, &e) == AN_OK);
    CHECK(an_vocab_bos(v) == -1 && an_vocab_eos(v) == -1);
    check_encodes(v, "abba", AN_ADD_SPECIAL, (int32_t[]){2, 1, 0, -1});
    an_vocab_free(v);
    json_decref(m);
    /* SentencePiece with no bytes and no unknown token: what it lacks falls away */
    m = json_pack("{s:s,s:[s,s],s:[f,f],s:i}", KEY "model", "llama", KEY "tokens", "\xe2\x96\x81",
                  "a", KEY "scores", -1.0, -2.0, KEY "unknown_token_id", 9);
    REQUIRE(an_vocab_open_gguf(m, &v, &e) == AN_OK);
    check_encodes(v, "aza", 0, (int32_t[]){0, 1, 0, 1, -1});
    an_vocab_free(v);
    json_decref(m);
}

int main(int argc, char **argv)
{
    if (!mkdtemp(dir)) return 1;
    int rc = test_main(argc, argv);
    remove_files();
    rmdir(dir);
    return rc;
}
