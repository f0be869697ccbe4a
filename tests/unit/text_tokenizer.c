/* CLIP's tokenizer against transformers, and against files that lie. */
#include "anneal/text.h"
#include "test.h"
#include <jansson.h>
#include <unistd.h>

#define MERGES AN_SOURCE_DIR "/weights/clip/merges.txt"
#define DEMO   AN_DEMO "/emoji/tokenizer"

/* ---------------------------------------------------------------- ids and folders */

static bool same_ids(const int32_t *ids, size_t n, const int32_t *want, size_t n_want)
{
    return n == n_want && (n == 0 || memcmp(ids, want, n * sizeof *ids) == 0);
}

/* Ids of text; want ends with -1. */
static bool encodes_to(const an_tokenizer *t, const char *text, const int32_t *want)
{
    int32_t *ids;
    size_t n, n_want = 0;
    an_error e;
    while (want[n_want] >= 0) n_want++;
    if (an_tokenizer_encode(t, text, strlen(text), &ids, &n, &e) != AN_OK) return false;
    bool same = same_ids(ids, n, want, n_want);
    if (!same) {
        printf("  '%s':", text);
        for (size_t i = 0; i < n; i++) printf(" %d", ids[i]);
        printf("\n");
    }
    free(ids);
    return same;
}

static void check_golden(const an_tokenizer *t, const char *path)
{
    json_t *rows;
    an_error e;
    REQUIRE(an_json_read_file(path, 16 << 20, &rows, &e) == AN_OK);
    CHECK(json_array_size(rows) > 100);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const json_t *text = json_object_get(row, "text"), *want = json_object_get(row, "ids");
        size_t n, n_want = json_array_size(want) - 2; /* without BOS and EOS */
        int32_t *ids;
        an_status s =
            an_tokenizer_encode(t, json_string_value(text), json_string_length(text), &ids, &n, &e);
        CHECK_MSG(s == AN_OK, "case %zu: %s", i, e.message);
        if (s != AN_OK) continue;
        size_t wrong = 0;
        while (wrong < n && wrong < n_want &&
               ids[wrong] == json_integer_value(json_array_get(want, wrong + 1)))
            wrong++;
        CHECK_MSG(n == n_want && wrong == n,
                  "case %zu '%s': %zu ids, expected %zu, first wrong %zu", i,
                  json_string_value(text), n, n_want, wrong);
        free(ids);
    }
    json_decref(rows);
}

/* A folder of small files, gone at the end. */
typedef struct temp_dir {
    char path[64];
    int n;
    char *files[8];
} temp_dir;

static bool temp_open(temp_dir *d)
{
    memset(d, 0, sizeof *d);
    strcpy(d->path, "/tmp/anneal-text-XXXXXX");
    return mkdtemp(d->path) != NULL;
}

static void temp_write(temp_dir *d, const char *name, const char *text)
{
    char *file = an_asprintf("%s/%s", d->path, name);
    FILE *f = file ? fopen(file, "wb") : NULL;
    d->files[d->n++] = file;
    REQUIRE(f != NULL);
    fputs(text, f);
    fclose(f);
}

static void temp_close(temp_dir *d)
{
    for (int i = 0; i < d->n; i++) {
        unlink(d->files[i]);
        free(d->files[i]);
    }
    rmdir(d->path);
}

/* Opens a folder of these files; whole and merges may be NULL. */
static an_status open_files(const char *whole, const char *vocab, const char *merges,
                            const char *config, const char *map, an_tokenizer **t, an_error *e)
{
    temp_dir d;
    *t = NULL;
    memset(e, 0, sizeof *e);
    if (!temp_open(&d)) return AN_IO;
    if (whole) temp_write(&d, "tokenizer.json", whole);
    if (vocab) temp_write(&d, "vocab.json", vocab);
    if (merges) temp_write(&d, "merges.txt", merges);
    if (config) temp_write(&d, "tokenizer_config.json", config);
    if (map) temp_write(&d, "special_tokens_map.json", map);
    an_status s = an_tokenizer_open(d.path, NULL, t, e);
    temp_close(&d);
    return s;
}

/* vocab.json of OpenAI's CLIP, from the tokenizer that derived it: ids are dense. */
static char *vocab_json_of(const an_tokenizer *t, const char *merges_path)
{
    json_t *vocab = json_object();
    char *text = NULL, *line, *rest;
    size_t len;
    an_error e;
    static const char *const stages[] = {"", "</w>"};
    int id = 0;
    for (int end = 0; end < 2; end++)
        for (int pass = 0; pass < 2; pass++) /* printable Latin-1 first, then the other bytes */
            for (int b = 0, other = 256; b < 256; b++) {
                bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
                int c = plain ? b : other++;
                char s[16];
                if (plain == (pass != 0)) continue;
                if (c < 128)
                    snprintf(s, sizeof s, "%c%s", c, stages[end]);
                else
                    snprintf(s, sizeof s, "%c%c%s", 0xc0 | c >> 6, 0x80 | (c & 63), stages[end]);
                json_object_set_new(vocab, s, json_integer(id++));
            }
    if (an_read_file(merges_path, 16 << 20, &text, &len, &e) != AN_OK) text = an_strdup("");
    strtok_r(text, "\n", &rest); /* the version */
    while ((line = strtok_r(NULL, "\n", &rest)) != NULL) {
        char *space = strchr(line, ' ');
        memmove(space, space + 1, strlen(space));
        json_object_set_new(vocab, line, json_integer(id++));
    }
    json_object_set_new(vocab, "<|startoftext|>", json_integer(id++));
    json_object_set_new(vocab, "<|endoftext|>", json_integer(id++));
    CHECK(id == an_tokenizer_vocab_size(t));
    char *json = json_dumps(vocab, JSON_COMPACT);
    json_decref(vocab);
    free(text);
    return json;
}

/* ---------------------------------------------------------------- the two vocabularies */

TEST(openai_vocabulary_from_merges)
{
    an_tokenizer *t;
    an_error e = {0};
    an_status s = an_tokenizer_open(NULL, MERGES, &t, &e);
    CHECK_MSG(s == AN_OK, "%s", e.message);
    if (s != AN_OK) return;
    CHECK(an_tokenizer_vocab_size(t) == 49408);
    CHECK(an_tokenizer_bos(t) == 49406 && an_tokenizer_eos(t) == 49407);
    CHECK(an_tokenizer_pad(t) == 49407 && an_tokenizer_max_length(t) == 77);
    check_golden(t, AN_GOLDEN "/tokenizers/clip-cases.json");
    an_tokenizer_free(t);
}

TEST(demo_tokenizer_json)
{
    an_tokenizer *t;
    an_error e = {0};
    an_status s = an_tokenizer_open(DEMO, NULL, &t, &e);
    CHECK_MSG(s == AN_OK, "%s", e.message);
    if (s != AN_OK) return;
    CHECK(an_tokenizer_vocab_size(t) == 2530);
    CHECK(an_tokenizer_bos(t) == 2528 && an_tokenizer_eos(t) == 2529);
    CHECK(an_tokenizer_pad(t) == 2529 && an_tokenizer_max_length(t) == 32);
    check_golden(t, AN_GOLDEN "/tokenizers/emoji-clip-cases.json");
    an_tokenizer_free(t);
}

/* Ids below from transformers 5.23, CLIPTokenizer.from_pretrained of the same folder. */
TEST(vocab_json_and_merges_with_sd2_padding)
{
    an_tokenizer *builtin, *t;
    an_error e = {0};
    char *merges;
    size_t len;
    REQUIRE(an_tokenizer_open(NULL, MERGES, &builtin, &e) == AN_OK);
    REQUIRE(an_read_file(MERGES, 16 << 20, &merges, &len, &e) == AN_OK);
    char *vocab = vocab_json_of(builtin, MERGES);
    an_status s = open_files(NULL, vocab, merges,
                             "{\"model_max_length\":1000000000000000019884624838656,"
                             "\"pad_token\":\"<|endoftext|>\"}",
                             "{\"pad_token\":\"!\",\"bos_token\":{\"content\":\"<|startoftext|>\","
                             "\"normalized\":true}}",
                             &t, &e);
    CHECK_MSG(s == AN_OK, "%s", e.message);
    if (s == AN_OK) {
        CHECK(an_tokenizer_pad(t) == 0 && an_tokenizer_bos(t) == 49406);
        CHECK(an_tokenizer_max_length(t) == 0);
        CHECK(encodes_to(t, "hello world!", (int32_t[]){3306, 1002, 0, -1}));
        CHECK(encodes_to(
            t, "A<|STARTOFTEXT|>b <|startoftext|> <|ENDOFTEXT|>!! <|endoftext|>",
            (int32_t[]){320, 49406, 321, 49406, 27, 347, 40786, 4160, 91, 285, 0, 0, 49407, -1}));
        check_golden(builtin, AN_GOLDEN "/tokenizers/clip-cases.json");
        CHECK(encodes_to(
            builtin, "<||>\xe2\x83\xbf <|EndOfText|>! !<|EndOfText|>! \xce\x91\xce\xa3 <|",
            (int32_t[]){27,  91,    91,   29, 2805, 379, 27,  347, 40786, 4160, 91, 285, 256, 0, 27,
                        347, 40786, 4160, 91, 29,   256, 138, 109, 139,   481,  27, 347, -1}));
        CHECK(an_tokenizer_set_pad(builtin, "!", &e) == AN_OK && an_tokenizer_pad(builtin) == 0);
        CHECK(encodes_to(builtin, "hello world!", (int32_t[]){3306, 1002, 0, -1}));
        CHECK(an_tokenizer_set_pad(builtin, "[PAD]", &e) == AN_INVALID);
    }
    an_tokenizer_free(t);
    an_tokenizer_free(builtin);
    free(vocab);
    free(merges);
}

TEST(decode_gives_the_text_back)
{
    an_tokenizer *t;
    an_error e;
    int32_t *ids, bad = 2530;
    size_t n;
    REQUIRE(an_tokenizer_open(DEMO, NULL, &t, &e) == AN_OK);
    const char *text = "na\xc3\xafve <|endoftext|>\xf0\x9f\x98\x80 apple";
    REQUIRE(an_tokenizer_encode(t, text, strlen(text), &ids, &n, &e) == AN_OK);
    an_buf b;
    an_buf_init(&b, 1000);
    CHECK(an_tokenizer_decode(t, ids, n, &b, &e) == AN_OK);
    CHECK_STR(b.data, "na\xc3\xafve <|endoftext|>\xf0\x9f\x98\x80 apple ");
    CHECK(an_tokenizer_decode(t, &bad, 1, &b, &e) == AN_INVALID);
    bad = -1;
    CHECK(an_tokenizer_decode(t, &bad, 1, &b, &e) == AN_INVALID);
    an_buf_free(&b);
    free(ids);
    an_tokenizer_free(t);
}

TEST(bad_utf8_and_long_words)
{
    an_tokenizer *t;
    an_error e;
    int32_t *ids;
    size_t n;
    REQUIRE(an_tokenizer_open(DEMO, NULL, &t, &e) == AN_OK);
    static const char *const bad[] = {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80",
                                      "\xf5\x80\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(an_tokenizer_encode(t, bad[i], strlen(bad[i]), &ids, &n, &e) == AN_INVALID && !ids);
    CHECK(an_tokenizer_encode(t, "a\0b", 3, &ids, &n, &e) == AN_OK && n == 3);
    free(ids);
    /* One word of 100 KB, one of 100 KB of marks that NFC has to sort. */
    const size_t size = 100000;
    char *word = malloc(size);
    REQUIRE(word != NULL);
    for (size_t i = 0; i < size; i++) word[i] = "abcdefgh"[i * i % 7];
    double start = an_now_s();
    CHECK(an_tokenizer_encode(t, word, size, &ids, &n, &e) == AN_OK && n > 1000);
    free(ids);
    for (size_t i = 0; i < size; i += 4) memcpy(word + i, "\xcc\x81\xcc\xa3", 4);
    CHECK(an_tokenizer_encode(t, word, size, &ids, &n, &e) == AN_OK && n > 1000);
    free(ids);
    double took = an_now_s() - start;
    printf("  two words of 100 KB: %.1f ms\n", took * 1e3);
    CHECK_MSG(took < 2, "%.1f s: quadratic?", took);
    free(word);
    an_tokenizer_free(t);
}

TEST(three_hundred_characters_in_well_under_a_millisecond)
{
    an_tokenizer *t;
    an_error e;
    REQUIRE(an_tokenizer_open(NULL, MERGES, &t, &e) == AN_OK);
    const char *text =
        "(masterpiece:1.2), best quality, ((ultra-detailed)), a photo of an astronaut riding a "
        "horse on mars, dramatic lighting, volumetric fog, in the style of a renaissance painter, "
        "intricate ornaments, na\xc3\xafve caf\xc3\xa9, 8k wallpaper, trending, sharp focus, "
        "[blurry], "
        "rim light, octane render, bokeh, 35mm";
    double start = an_now_s();
    const int rounds = 100;
    for (int i = 0; i < rounds; i++) {
        an_prompt p;
        CHECK(an_prompt_weighted(t, text, strlen(text), 77, 8, &p, &e) == AN_OK);
        an_prompt_free(&p);
    }
    double each = (an_now_s() - start) / rounds;
    printf("  %zu characters: %.1f us\n", strlen(text), each * 1e6);
    CHECK_MSG(each < 10e-3, "%.3f ms", each * 1e3); /* generous: sanitizers, busy machines */
    an_tokenizer_free(t);
}

/* ---------------------------------------------------------------- small and hostile files */

#define SMALL                                                                                      \
    "\"a\":0,\"b\":1,\"a</w>\":2,\"b</w>\":3,\"ab</"                                               \
    "w>\":4,\"<|startoftext|>\":5,\"<|endoftext|>\":6"
#define MODEL(vocab, merges)                                                                       \
    "{\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\",\"vocab\":{" vocab               \
    "},\"merges\":" merges "}"

TEST(small_vocabularies)
{
    an_tokenizer *t;
    an_error e;
    /* A byte the vocabulary lacks is the unknown token, one for each byte. */
    REQUIRE(open_files(MODEL(SMALL, "[\"a b</w>\"]") "}", NULL, NULL, NULL, NULL, &t, &e) == AN_OK);
    CHECK(encodes_to(t, "ab AB a xa \xc3\xa9", (int32_t[]){4, 4, 2, 6, 2, 6, 6, -1}));
    CHECK(an_tokenizer_max_length(t) == 0 && an_tokenizer_vocab_size(t) == 7);
    an_tokenizer_free(t);
    /* Merges as pairs; added tokens, of the raw and of the normalised text. */
    REQUIRE(
        open_files(
            MODEL(SMALL,
                  "[[\"a\",\"b</w>\"]]") ",\"added_tokens\":["
                                         "{\"id\":7,\"content\":\"<B>\",\"normalized\":false,"
                                         "\"special\":false},"
                                         "{\"id\":8,\"content\":\"<B>b\",\"normalized\":false},"
                                         "{\"id\":10,\"content\":\"A  <B\",\"normalized\":true},"
                                         "{\"id\":9,\"content\":\"aa\",\"normalized\":true,"
                                         "\"single_word\":true}]}",
            NULL, NULL, NULL, NULL, &t, &e) == AN_OK);
    CHECK(an_tokenizer_vocab_size(t) == 11);
    CHECK(encodes_to(t, "ab<B>ab", (int32_t[]){4, 7, 4, -1}));
    CHECK(encodes_to(t, "ab<B>b<b>", (int32_t[]){4, 8, 6, 3, 6, -1}));
    CHECK(encodes_to(t, "a <b", (int32_t[]){10, -1}));
    CHECK(encodes_to(t,
                     "AA aab \xc3\xa9"
                     "aa aa",
                     (int32_t[]){9, 0, 4, 6, 6, 0, 2, 9, -1}));
    an_tokenizer_free(t);
    /* vocab.json with CRLF merges and a duplicate merge: the last rank counts. */
    REQUIRE(open_files(NULL, "{" SMALL "}", "#version: 0.2\r\na b</w>\r\n\r\na b</w>\r\n", NULL,
                       NULL, &t, &e) == AN_OK);
    CHECK(encodes_to(t, "ab", (int32_t[]){4, -1}));
    an_tokenizer_free(t);
    /* A config with added_tokens_decoder counts before the special tokens map. */
    REQUIRE(open_files(NULL, "{" SMALL "}", "a b</w>\n",
                       "{\"pad_token\":\"a\",\"model_max_length\":77,\"added_tokens_decoder\":"
                       "{\"7\":{\"content\":\"<c>\"}}}",
                       "{\"pad_token\":\"b\"}", &t, &e) == AN_OK);
    CHECK(an_tokenizer_pad(t) == 0 && an_tokenizer_max_length(t) == 77);
    CHECK(encodes_to(t, "<C>", (int32_t[]){7, -1}));
    an_tokenizer_free(t);
}

TEST(hostile_files_get_clear_errors)
{
    static const struct {
        const char *whole, *vocab, *merges, *config, *map, *says;
    } cases[] = {
        {NULL, NULL, NULL, NULL, NULL, "neither tokenizer.json nor vocab.json"},
        {NULL, "{\"a\":0}", NULL, NULL, NULL, "neither tokenizer.json nor vocab.json"},
        {"{", NULL, NULL, NULL, NULL, "not valid JSON"},
        {"[]", NULL, NULL, NULL, NULL, "no \"model\" object"},
        {"{\"model\":{\"type\":\"Unigram\"}}", NULL, NULL, NULL, NULL, "'Unigram'"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", NULL, NULL, NULL, NULL,
         "end_of_word_suffix"},
        {MODEL("", "[]") "}", NULL, NULL, NULL, NULL, "vocabulary is empty"},
        {MODEL("\"a\":-1", "[]") "}", NULL, NULL, NULL, NULL, "has the id -1"},
        {MODEL("\"a\":99999999999", "[]") "}", NULL, NULL, NULL, NULL, "has the id 99999999999"},
        {MODEL("\"a\":1.5", "[]") "}", NULL, NULL, NULL, NULL, "not an integer"},
        {MODEL("\"a\":\"1\"", "[]") "}", NULL, NULL, NULL, NULL, "not an integer"},
        {MODEL("\"a\":3,\"b\":3", "[]") "}", NULL, NULL, NULL, NULL, "have the same id 3"},
        {MODEL("\"a\":3,\"a\":4", "[]") "}", NULL, NULL, NULL, NULL, "not valid JSON"},
        {MODEL("\"\":3", "[]") "}", NULL, NULL, NULL, NULL, "has 0 bytes"},
        {MODEL(SMALL, "{}") "}", NULL, NULL, NULL, NULL, "merges are not an array"},
        {MODEL(SMALL, "[3]") "}", NULL, NULL, NULL, NULL, "merge 1 is neither"},
        {MODEL(SMALL, "[[\"a\"]]") "}", NULL, NULL, NULL, NULL, "merge 1 is neither"},
        {MODEL(SMALL, "[\"ab\"]") "}", NULL, NULL, NULL, NULL, "merge 1 ('ab')"},
        {MODEL(SMALL, "[\"a b c\"]") "}", NULL, NULL, NULL, NULL, "merge 1 ('a b c')"},
        {MODEL(SMALL, "[\" a\"]") "}", NULL, NULL, NULL, NULL, "merge 1"},
        {MODEL(SMALL, "[\"a b</w>\",\"a z\"]") "}", NULL, NULL, NULL, NULL, "token 'z'"},
        {MODEL(SMALL, "[\"b a\"]") "}", NULL, NULL, NULL, NULL, "token 'ba'"},
        {MODEL(SMALL, "[]") ",\"added_tokens\":[{\"content\":\"x\"}]}", NULL, NULL, NULL, NULL,
         "no \"id\""},
        {MODEL(SMALL, "[]") ",\"added_tokens\":[{\"id\":9}]}", NULL, NULL, NULL, NULL, "no text"},
        {MODEL(SMALL, "[]") ",\"added_tokens\":[{\"id\":3,\"content\":\"x\"}]}", NULL, NULL, NULL,
         NULL, "same id 3"},
        {MODEL(SMALL, "[]") ",\"added_tokens\":[{\"id\":3,\"content\":\"a\"}]}", NULL, NULL, NULL,
         NULL, "the vocabulary gives it 0"},
        {MODEL("\"a\":0", "[]") "}", NULL, NULL, NULL, NULL, "bos_token"},
        {MODEL(SMALL, "[]") "}", NULL, NULL, "{\"pad_token\":7}", NULL, "pad_token"},
        {MODEL(SMALL, "[]") "}", NULL, NULL, "{\"pad_token\":\"\"}", NULL, "pad_token"},
        {MODEL(SMALL, "[]") "}", NULL, NULL, NULL, "{\"eos_token\":\"<no>\"}",
         "eos_token: the special"},
        {MODEL(SMALL, "[]") "}", NULL, NULL, "{\"added_tokens_decoder\":{\"x\":\"y\"}}", NULL,
         "'x' is not an id"},
        {MODEL(SMALL, "[]") "}", NULL, NULL, "[]", NULL, "not a JSON object"},
        {NULL, "[]", "a b\n", NULL, NULL, "not an object of token: id"},
        {NULL, "{" SMALL "}", "a b</w>\nbroken\n", NULL, NULL, "merge 2 ('broken')"},
        {NULL, "{" SMALL "}", "a \xff\n", NULL, NULL, "not UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        an_tokenizer *t;
        an_error e;
        an_status s = open_files(cases[i].whole, cases[i].vocab, cases[i].merges, cases[i].config,
                                 cases[i].map, &t, &e);
        CHECK_MSG(s != AN_OK && !t, "case %zu was accepted", i);
        CHECK_MSG(strstr(e.message, cases[i].says), "case %zu: '%s' lacks '%s'", i, e.message,
                  cases[i].says);
        an_tokenizer_free(t);
    }
    an_tokenizer *t;
    an_error e;
    CHECK(an_tokenizer_open(NULL, NULL, &t, &e) == AN_INVALID);
    CHECK(an_tokenizer_open("/nonexistent", NULL, &t, &e) == AN_NOT_FOUND);
    CHECK(an_tokenizer_open(NULL, "/nonexistent", &t, &e) == AN_NOT_FOUND);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
