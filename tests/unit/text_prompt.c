/* Prompts as chunks of ids: diffusers' cut, and A1111's weights, BREAK and comma look-back. */
#include "anneal/text.h"
#include "test.h"
#include "text/prompt_parse.h"
#include <jansson.h>

#define DEMO  AN_DEMO "/emoji/tokenizer"
#define CHUNK 32
#define BOS   2528
#define EOS   2529

static an_tokenizer *demo(void)
{
    an_tokenizer *t = NULL;
    an_error e;
    if (an_tokenizer_open(DEMO, NULL, &t, &e) != AN_OK) printf("  %s\n", e.message);
    return t;
}

/* "apple apple ..." is one token a word in the demo's vocabulary, and so is a comma. */
static void repeat(char *out, const char *word, int n)
{
    for (int i = 0; i < n; i++) out = stpcpy(out, word);
}

/* ---------------------------------------------------------------- plain */

TEST(plain_is_cut_as_diffusers_cuts)
{
    an_tokenizer *t = demo();
    an_error e;
    an_prompt p;
    char text[1024] = "";
    REQUIRE(t != NULL);
    for (int words = 0; words <= 60; words++) {
        repeat(text, " apple", words);
        REQUIRE(an_prompt_plain(t, text, strlen(text), CHUNK, &p, &e) == AN_OK);
        int kept = words < CHUNK - 2 ? words : CHUNK - 2;
        CHECK(p.n_chunks == 1 && p.chunk_len == CHUNK && p.n_tokens == (size_t)words);
        CHECK(p.truncated == (words > CHUNK - 2) && !p.weighted);
        CHECK(p.ids[0] == BOS && p.ids[kept + 1] == EOS);
        for (int i = 1; i <= kept; i++) CHECK(p.ids[i] == p.ids[1] && p.ids[i] < BOS);
        for (int i = kept + 1; i < CHUNK; i++) CHECK(p.ids[i] == EOS);
        for (int i = 0; i < CHUNK; i++) CHECK(p.weights[i] == 1.0f);
        an_prompt_free(&p);
        CHECK(!p.ids && !p.weights && !p.n_chunks);
    }
    /* Brackets are text here, and the padding follows the tokenizer. */
    CHECK(an_tokenizer_set_pad(t, "!", &e) == AN_OK);
    REQUIRE(an_prompt_plain(t, "(a:1.5)", 7, CHUNK, &p, &e) == AN_OK);
    CHECK(p.n_tokens > 4 && !p.weighted && p.ids[p.n_tokens + 1] == EOS);
    for (int i = (int)p.n_tokens + 2; i < CHUNK; i++) CHECK(p.ids[i] == 0);
    an_prompt_free(&p);
    an_tokenizer_free(t);
}

TEST(bad_arguments)
{
    an_tokenizer *t = demo();
    an_error e;
    an_prompt p;
    REQUIRE(t != NULL);
    CHECK(an_prompt_plain(t, "a", 1, 2, &p, &e) == AN_INVALID && !p.ids);
    CHECK(an_prompt_plain(t, "\xff", 1, CHUNK, &p, &e) == AN_INVALID && !p.ids);
    CHECK(an_prompt_plain(t, "a", 1, 1 << 30, &p, &e) == AN_INVALID && !p.ids);
    CHECK(an_prompt_weighted(t, "a", 1, 2, 8, &p, &e) == AN_INVALID && !p.ids);
    CHECK(an_prompt_weighted(t, "a", 1, CHUNK, 0, &p, &e) == AN_INVALID && !p.ids);
    CHECK(an_prompt_weighted(t, "a\xc3", 2, CHUNK, 8, &p, &e) == AN_INVALID && !p.ids);
    CHECK(an_prompt_weighted(t, NULL, 0, CHUNK, 8, &p, &e) == AN_OK && p.n_chunks == 1);
    CHECK(an_prompt_pad_chunks(t, &p, 1 << 30, &e) == AN_INVALID);
    an_prompt_free(&p);
    an_prompt_free(&p);
    CHECK(an_prompt_plain(t, NULL, 0, 3, &p, &e) == AN_OK && p.ids[0] == BOS && p.ids[2] == EOS);
    an_prompt_free(&p);
    an_tokenizer_free(t);
}

/* ---------------------------------------------------------------- the syntax */

/* Pieces as "text|weight" joined by spaces; expected values from the web UI's own documentation and
 * from running it. */
TEST(attention_syntax)
{
    static const struct {
        const char *text, *pieces;
    } cases[] = {
        {"", "<|1>"},
        {"normal text", "<normal text|1>"},
        {"an (important) word", "<an |1><important|1.1>< word|1>"},
        {"(unbalanced", "<unbalanced|1.1>"},
        {"\\(literal\\]", "<(literal]|1>"},
        {"(unnecessary)(parens)", "<unnecessaryparens|1.1>"},
        {"a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
         "<a |1><house|1.5730000000000004>< |1.1><on|1>< a |1.1><hill|0.55>"
         "<, sun, |1.1><sky|1.4641000000000006><.|1.1>"},
        {"[a]", "<a|0.90909090909090906>"},
        {"(a: 1.5 )", "<a|1.5>"},
        {"(a:+2)b", "<a|2><b|1>"},
        {"(a:-2)", "<a|-2>"},
        {"a:1.5)", "<a:1.5)|1>"},
        {"(a:b)", "<a:b|1.1>"},
        {"(a:\xd9\xa3)", "<a|3>"}, /* Arabic-Indic three */
        {"\\", "<|1>"},
        {"\\\\ \\a", "<\\ a|1>"},
        {"a BREAK b", "<a|1><BREAK|-1><b|1>"},
        {"BREAK", "<|1><BREAK|-1><|1>"},
        {"xBREAK BREAKx BREAK_ 1BREAK", "<xBREAK BREAKx BREAK_ 1BREAK|1>"},
        {"a\xe2\x80\x83"
         "BREAK\x1f"
         "b",
         "<a|1><BREAK|-1><b|1>"},
        {"(a BREAK b)", "<a|1.1><BREAK|-1.1><b|1.1>"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prompt_pieces p;
        an_error e = {0};
        an_buf b;
        an_buf_init(&b, 4096);
        an_status s = an_prompt_parse(cases[i].text, strlen(cases[i].text), &p, &e);
        CHECK_MSG(s == AN_OK, "'%s': %s", cases[i].text, e.message);
        for (size_t k = 0; s == AN_OK && k < p.n; k++) {
            char w[32]; /* as Python prints it, near enough */
            snprintf(w, sizeof w, "%.15g", p.pieces[k].weight);
            if (strtod(w, NULL) != p.pieces[k].weight)
                snprintf(w, sizeof w, "%.17g", p.pieces[k].weight);
            an_buf_printf(&b, "<%.*s|%s>", (int)p.pieces[k].len,
                          p.text.data ? p.text.data + p.pieces[k].at : "", w);
        }
        CHECK_STR(b.data, cases[i].pieces);
        an_buf_free(&b);
        an_prompt_pieces_free(&p);
    }
}

TEST(weights_that_are_refused)
{
    an_tokenizer *t = demo();
    REQUIRE(t != NULL);
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"(a:1.2.3)", "'1.2.3' is not a number"},
        {"(a:.)", "'.' is not a number"},
        {"(a:2000000)", "2e+06"},
        {"(((a:999999):999999):999999)", "at most 1e+06"},
        {"(a:1111111111111111111111111111111111111111111111111111111111111111111111)",
         "is not a number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        an_prompt p;
        an_error e;
        CHECK(an_prompt_weighted(t, cases[i].text, strlen(cases[i].text), CHUNK, 8, &p, &e) ==
              AN_INVALID);
        CHECK_MSG(strstr(e.message, cases[i].says), "'%s'", e.message);
    }
    char deep[400];
    an_prompt p;
    an_error e;
    memset(deep, '(', sizeof deep);
    CHECK(an_prompt_weighted(t, deep, 256, CHUNK, 8, &p, &e) == AN_OK);
    an_prompt_free(&p);
    CHECK(an_prompt_weighted(t, deep, 257, CHUNK, 8, &p, &e) == AN_INVALID);
    CHECK(strstr(e.message, "256 brackets") != NULL);
    an_tokenizer_free(t);
}

/* ---------------------------------------------------------------- chunks */

/* pad: the padding token where it is not the end token, else -1. */
static void check_chunks(const json_t *row, const an_prompt *p, int pad)
{
    const json_t *chunks = json_object_get(row, "chunks");
    const char *text = json_string_value(json_object_get(row, "text"));
    bool weighted = false;
    CHECK_MSG(p->n_chunks == (int)json_array_size(chunks), "'%s': %d chunks, expected %zu", text,
              p->n_chunks, json_array_size(chunks));
    for (int c = 0; c < p->n_chunks && c < (int)json_array_size(chunks); c++) {
        const json_t *ids = json_object_get(json_array_get(chunks, (size_t)c), "ids");
        const json_t *weights = json_object_get(json_array_get(chunks, (size_t)c), "weights");
        bool ended = false;
        for (size_t i = 0; i < CHUNK; i++) {
            size_t at = (size_t)c * CHUNK + i;
            bool given = i < json_array_size(ids);
            int id = given ? (int)json_integer_value(json_array_get(ids, i)) : EOS;
            double w = given ? json_number_value(json_array_get(weights, i)) : 1.0;
            if (ended && pad >= 0) id = pad;
            if (id == EOS) ended = true;
            if (w != 1.0) weighted = true;
            CHECK_MSG(p->ids[at] == id && p->weights[at] == (float)w,
                      "'%s' chunk %d token %zu: id %d weight %.9g, expected %d and %.9g", text, c,
                      i, p->ids[at], (double)p->weights[at], id, w);
        }
    }
    CHECK(p->weighted == weighted && !p->truncated);
}

TEST(weighted_as_the_web_ui)
{
    an_tokenizer *t = demo();
    json_t *rows;
    an_error e = {0};
    REQUIRE(t != NULL);
    REQUIRE(an_json_read_file(AN_GOLDEN "/tokenizers/prompt-cases.json", 16 << 20, &rows, &e) ==
            AN_OK);
    CHECK(json_array_size(rows) > 100);
    for (int pad = -1; pad <= 0; pad++) {
        if (pad == 0) CHECK(an_tokenizer_set_pad(t, "!", &e) == AN_OK);
        for (size_t i = 0; i < json_array_size(rows); i++) {
            const json_t *row = json_array_get(rows, i), *text = json_object_get(row, "text");
            an_prompt p;
            an_status s = an_prompt_weighted(t, json_string_value(text), json_string_length(text),
                                             CHUNK, 100, &p, &e);
            CHECK_MSG(s == AN_OK, "'%s': %s", json_string_value(text), e.message);
            if (s == AN_OK) check_chunks(row, &p, pad);
            an_prompt_free(&p);
        }
    }
    json_decref(rows);
    an_tokenizer_free(t);
}

TEST(too_many_chunks_are_cut)
{
    an_tokenizer *t = demo();
    an_error e;
    an_prompt p;
    char text[4096] = "";
    REQUIRE(t != NULL);
    static const struct {
        int words, max_chunks, chunks;
        bool truncated;
    } cases[] = {{60, 2, 2, false}, {61, 2, 2, true}, {61, 3, 3, false},
                 {30, 1, 1, false}, {31, 1, 1, true}, {400, 3, 3, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        repeat(text, " apple", cases[i].words);
        REQUIRE(an_prompt_weighted(t, text, strlen(text), CHUNK, cases[i].max_chunks, &p, &e) ==
                AN_OK);
        CHECK(p.n_chunks == cases[i].chunks && p.truncated == cases[i].truncated);
        CHECK(p.n_tokens == (size_t)cases[i].words);
        an_prompt_free(&p);
    }
    /* Breaks alone lose no text; text behind the last chunk does. */
    const char *breaks = "apple BREAK sun BREAK BREAK", *lost = "apple BREAK sun BREAK cat";
    REQUIRE(an_prompt_weighted(t, breaks, strlen(breaks), CHUNK, 2, &p, &e) == AN_OK);
    CHECK(p.n_chunks == 2 && !p.truncated);
    an_prompt_free(&p);
    REQUIRE(an_prompt_weighted(t, lost, strlen(lost), CHUNK, 2, &p, &e) == AN_OK);
    CHECK(p.n_chunks == 2 && p.truncated && p.n_tokens >= 3);
    an_prompt_free(&p);
    an_tokenizer_free(t);
}

TEST(empty_chunks_are_appended)
{
    an_tokenizer *t = demo();
    an_error e;
    an_prompt p;
    REQUIRE(t != NULL);
    REQUIRE(an_prompt_weighted(t, "(apple:1.5)", 11, CHUNK, 8, &p, &e) == AN_OK);
    CHECK(an_prompt_pad_chunks(t, &p, 1, &e) == AN_OK && p.n_chunks == 1);
    CHECK(an_prompt_pad_chunks(t, &p, 3, &e) == AN_OK && p.n_chunks == 3 && p.weighted);
    CHECK(p.weights[1] == 1.5f && p.weights[0] == 1.0f);
    for (int c = 1; c < 3; c++)
        for (int i = 0; i < CHUNK; i++) {
            CHECK(p.ids[c * CHUNK + i] == (i == 0 ? BOS : EOS));
            CHECK(p.weights[c * CHUNK + i] == 1.0f);
        }
    an_prompt_free(&p);
    an_tokenizer_free(t);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
