/* Grammars: what they accept and refuse character by character, that masks say what accepting says,
 * and what a hostile grammar is refused with. Schemas are in text_schema.c. */
#include "test.h"

#include "text_grammar.h"

#include <pthread.h>

typedef enum verdict { REFUSED, PREFIX, COMPLETE } verdict;

/* Feeds text a byte at a time; each mask must say of every token what accepting it says. */
static verdict feed(an_grammar *g, const an_vocab *v, const char *text, size_t len, bool masks)
{
    an_matcher *m;
    an_error e;
    uint8_t mask[TINY_SIZE];
    verdict out = PREFIX;
    if (an_matcher_new(g, v, &m, &e) != AN_OK) return REFUSED;
    for (size_t i = 0; i < len && out != REFUSED; i++) {
        int32_t token = (unsigned char)text[i];
        bool any = !masks || an_matcher_mask(m, mask, sizeof mask);
        for (int32_t t = 0; masks && any && t < TINY_SIZE; t++) {
            an_matcher *c = an_matcher_clone(m);
            CHECK_MSG(an_matcher_accept(c, t) == (mask[t] == 1), "token %d after '%.*s'", t, (int)i,
                      text);
            an_matcher_free(c);
        }
        bool taken = an_matcher_accept(m, token);
        if (masks && any) CHECK(taken == (mask[token] == 1));
        if (!taken) out = REFUSED;
    }
    if (out != REFUSED && an_matcher_complete(m)) out = COMPLETE;
    an_matcher_free(m);
    return out;
}

static an_grammar *gbnf(const char *text)
{
    an_grammar *g;
    an_error e;
    if (an_grammar_gbnf(text, strlen(text), NULL, &g, &e) == AN_OK) return g;
    printf("  %s\n", e.message);
    return NULL;
}

TEST(accepts)
{
    static const struct {
        const char *grammar;
        const char *complete[6], *prefix[4], *refused[6];
    } cases[] = {
        {"root ::= \"yes\" | \"no\"", {"yes", "no"}, {"", "y", "n"}, {"yesno", "x", "nn"}},
        {"root ::= [a-c]+", {"a", "abcabc"}, {""}, {"d", "ad", "A"}},
        {"root ::= [^a-c]*", {"", "xyz", "日本", "\n"}, {"\xe6"}, {"a", "xb"}},
        {"root ::= \"a\"? \"b\"* \"c\"+", {"c", "abcc", "bbc"}, {"", "a", "ab"}, {"aa", "cb"}},
        {"root ::= \"a\"{2}", {"aa"}, {"a"}, {"aaa"}},
        {"root ::= \"ab\"{1,3}", {"ab", "abab", "ababab"}, {"", "a", "aba"}, {"b", "abababa"}},
        {"root ::= \"a\"{2,}", {"aa", "aaaaaa"}, {"a"}, {"b"}},
        {"root ::= \"a\"{0,2} \"b\"", {"b", "ab", "aab"}, {"aa"}, {"aaa"}},
        {"root ::= \"a\"{0} \"b\"", {"b"}, {""}, {"a"}},
        {"root ::= (\"a\" | \"b\" (\"c\" | \"d\"))+",
         {"a", "bc", "abdbc"},
         {"b", "ab"},
         {"c", "bb"}},
        {"root ::= .",
         {"x", "é", "😀", "\n"},
         {"", "\xf0\x9f", "\xc3"},
         {"xx", "\xff", "\x80", "\xc0\x80"}},
        {"root ::= [あ-ん]{2}", {"あい", "んあ"}, {"あ", "あ\xe3"}, {"a", "ア", "\xe4"}},
        {"root ::= \"\\x41\\u00e9\\U0001F600\\t\\\"\\\\\"", {"Aé😀\t\"\\"}, {"A"}, {"a"}},
        {"root ::= [\\]\\[\\\\^-]+", {"]", "[", "\\", "^", "-"}, {""}, {"a"}},
        {"root ::= [a-]", {"a", "-"}, {""}, {"b"}},
        {"# comment\nroot ::= # why\n  x |\n  y # end\nx ::= \"x\"\ny ::=\n\"y\"\n\n",
         {"x", "y"},
         {""},
         {"z"}},
        {"root ::= (\n \"a\"\n | \"b\"\n)\n", {"a", "b"}, {""}, {"c"}},
        {"root ::= \"(\" root \")\" | \"\"", {"", "()", "(())"}, {"("}, {")", "())"}},
        {"root ::= a a\na ::= \"x\" |", {"", "x", "xx"}, {""}, {"xxx"}},
        {"root ::= (\"a\"?)* \"b\"", {"b", "aaab"}, {"aa"}, {"c"}},
        {"root ::= ((\"a\"*)*)* \"b\"", {"b", "aab"}, {"aa"}, {"c"}},
        {"root ::= \"a\" | \"a\" \"b\" | [a] \"bc\"", {"a", "ab", "abc"}, {""}, {"b", "ac"}},
        {"root ::= \"a\" dead | \"b\"\ndead ::= \"x\" dead", {"b"}, {""}, {"a"}},
        {"root ::= s \"c\"\ns ::= \"a\" s \"b\" | \"\"",
         {"c", "abc", "aabbc"},
         {"aab"},
         {"aac", "ba"}},
        {"root::=\"a\"|\"b\"", {"a", "b"}, {""}, {"ab"}},
        {"root ::= a-b_1\na-b_1 ::= \"x\"", {"x"}, {""}, {"a"}},
        {"root ::= \"\"", {""}, {""}, {"a"}},
        {"root ::= [^\\x00-\\x7f]", {"é", "😀"}, {"\xc3"}, {"a", "\xed\xa0\x80", "\xf4\x90"}},
        {"root ::= [\\U00010000-\\U0010FFFF]",
         {"😀"},
         {"\xf0", "\xf4\x8f"},
         {"é", "\xe6", "\xf0\x8f"}},
    };
    an_vocab *v = tiny_vocab();
    REQUIRE(v && an_vocab_size(v) == TINY_SIZE && an_vocab_is_end(v, TINY_END));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        an_grammar *g = gbnf(cases[i].grammar);
        CHECK_MSG(g != NULL, "%s", cases[i].grammar);
        if (!g) continue;
        for (int k = 0; k < 6; k++) {
            const char *c = cases[i].complete[k], *r = cases[i].refused[k];
            const char *p = k < 4 ? cases[i].prefix[k] : NULL;
            if (c)
                CHECK_MSG(feed(g, v, c, strlen(c), true) == COMPLETE, "%s: '%s'", cases[i].grammar,
                          c);
            if (r)
                CHECK_MSG(feed(g, v, r, strlen(r), true) == REFUSED, "%s: '%s'", cases[i].grammar,
                          r);
            if (p)
                CHECK_MSG(feed(g, v, p, strlen(p), true) != REFUSED, "%s: '%s'", cases[i].grammar,
                          p);
        }
        an_grammar_unref(g);
    }
    an_vocab_free(v);
}

TEST(end_tokens)
{
    an_vocab *v = tiny_vocab();
    an_grammar *g = gbnf("root ::= \"a\" \"b\"?");
    an_matcher *m;
    an_error e;
    uint8_t mask[TINY_SIZE];
    REQUIRE(v && g && an_matcher_new(g, v, &m, &e) == AN_OK);
    CHECK(an_matcher_mask(m, mask, sizeof mask) && !mask[TINY_END] && mask['a'] && !mask['b']);
    CHECK(!an_matcher_accept(m, TINY_END) && !an_matcher_complete(m) && !an_matcher_only_end(m));
    CHECK(an_matcher_accept(m, 'a') && an_matcher_complete(m) && !an_matcher_only_end(m));
    CHECK(an_matcher_mask(m, mask, sizeof mask) && mask[TINY_END] && mask['b'] && !mask['a']);
    CHECK(!mask[TINY_END + 1]); /* special tokens never come */
    CHECK(!an_matcher_accept(m, TINY_END + 1) && !an_matcher_accept(m, -1) &&
          !an_matcher_accept(m, TINY_SIZE));
    an_matcher *c = an_matcher_clone(m);
    CHECK(an_matcher_accept(c, 'b') && an_matcher_only_end(c) && an_matcher_complete(c));
    CHECK(an_matcher_mask(c, mask, sizeof mask) && mask[TINY_END] && !mask['b']);
    CHECK(an_matcher_accept(c, TINY_END) && !an_matcher_accept(c, 'b') && an_matcher_complete(c));
    CHECK(an_matcher_accept(m, TINY_END));
    an_matcher_free(c);
    an_matcher_free(m);
    an_matcher_free(NULL);
    an_grammar_unref(g);
    an_grammar_unref(NULL);
    an_vocab_free(v);
}

TEST(tokens_across_characters)
{
    an_vocab *v = tiny_vocab();
    an_grammar *g = gbnf("root ::= [日] \"x\" | \"日本\"");
    an_matcher *m;
    an_error e;
    uint8_t mask[TINY_SIZE];
    int32_t half = an_vocab_find(v, "æĹ", strlen("æĹ")), rest = -1, whole = -1;
    for (int32_t t = 256; t < TINY_END; t++) {
        size_t n;
        const char *p = an_vocab_piece(v, t, false, &n);
        if (n == 2 && memcmp(p, "\xe6\x97", 2) == 0) half = t;
        if (n == 2 && memcmp(p, "\xa5x", 2) == 0) rest = t;
        if (n == 6 && memcmp(p, "日本", 6) == 0) whole = t;
    }
    REQUIRE(g && half > 0 && rest > 0 && whole > 0);
    REQUIRE(an_matcher_new(g, v, &m, &e) == AN_OK);
    CHECK(an_matcher_mask(m, mask, sizeof mask) && mask[half] && mask[whole] && mask[0xe6] &&
          !mask[rest]);
    CHECK(an_matcher_accept(m, half) && !an_matcher_complete(m) && !an_matcher_only_end(m));
    CHECK(an_matcher_mask(m, mask, sizeof mask) && mask[rest] && mask[0xa5] && !mask[0xa6] &&
          !mask[TINY_END]);
    CHECK(an_matcher_accept(m, rest) && an_matcher_only_end(m));
    an_matcher_free(m);
    an_grammar_unref(g);
    an_vocab_free(v);
}

TEST(syntax_errors)
{
    static const struct {
        const char *grammar, *word;
    } cases[] = {
        {"", "root"},
        {"x ::= \"a\"", "root"},
        {"root ::= \"a", "line 1, column 10"},
        {"root ::= [a", "']'"},
        {"root ::= (\"a\"", "')'"},
        {"root ::= \"a\")", "column 13"},
        {"root = \"a\"", "::="},
        {"root ::= x", "line 1, column 10"},
        {"root ::= \"a\"\nx ::= missing", "line 2, column 7"},
        {"root ::= \"a\"{2", "'}'"},
        {"root ::= \"a\"{3,2}", "m not above n"},
        {"root ::= \"a\"{x}", "number"},
        {"root ::= \"\\q\"", "escape"},
        {"root ::= \"\\xZZ\"", "hexadecimal"},
        {"root ::= \"\\U00110000\"", "Unicode"},
        {"root ::= \"\\uD800\"", "Unicode"},
        {"root ::= [z-a]", "low to high"},
        {"root ::= \"a\"\nroot ::= \"b\"", "once"},
        {"root ::= *", "expected"},
        {"root ::= \"a\" $", "expected"},
        {"::= \"a\"", "name"},
        {"root ::= \"\xff\"", "UTF-8"},
        {"root ::= root \"a\" | \"b\"", "left recursion: 'root'"},
        {"root ::= a\na ::= b \"x\" | \"y\"\nb ::= c\nc ::= a", "left recursion"},
        {"root ::= (\"x\"? root) \"y\" | \"z\"", "left recursion"},
        {"root ::= root", "never end"},
        {"root ::= root | \"a\"", "left recursion"},
        {"root ::= (root)* \"a\"", "left recursion"},
        {"root ::= \"a\" root", "never end"},
        {"root ::= x\nx ::= \"a\" y\ny ::= \"b\" x", "never end"},
        {"root ::= [^\\x00-\\U0010FFFF]", "never end"},
        {"root ::= []", "never end"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        an_grammar *g = (an_grammar *)&cases;
        an_error e = {0};
        an_status s = an_grammar_gbnf(cases[i].grammar, strlen(cases[i].grammar), NULL, &g, &e);
        CHECK_MSG(s == AN_INVALID && !g, "%s: %s", cases[i].grammar, e.message);
        CHECK_MSG(strstr(e.message, cases[i].word) != NULL, "'%s' is not in '%s'", cases[i].word,
                  e.message);
    }
}

/* ---------------------------------------------------------------- hostile */

static char *repeated(const char *head, const char *part, int n, const char *tail)
{
    an_buf b;
    an_buf_init(&b, (size_t)64 << 20);
    an_buf_str(&b, head);
    for (int i = 0; i < n; i++) an_buf_printf(&b, part, i, i + 1);
    an_buf_str(&b, tail);
    return an_buf_take(&b);
}

static void too_large(char *grammar, const char *word)
{
    an_grammar *g;
    an_error e = {0};
    double before = an_now_s();
    an_status s = an_grammar_gbnf(grammar, strlen(grammar), NULL, &g, &e);
    CHECK_MSG(s == AN_TOO_LARGE, "%s: %s (%.60s)", an_status_name(s), e.message, grammar);
    CHECK_MSG(strstr(e.message, word) != NULL, "'%s' is not in '%s'", word, e.message);
    CHECK(an_now_s() - before < 10);
    an_grammar_unref(g);
    free(grammar);
}

#pragma GCC diagnostic ignored "-Wformat-nonliteral"
TEST(hostile)
{
    too_large(strdup("root ::= \"a\"{3000}"), "2000");
    too_large(strdup("root ::= \"a\"{99999999999999}"), "2000");
    too_large(repeated("root ::= ", "(", 5000, "\"a\""), "1000");
    too_large(repeated("root ::= r0\n", "r%d ::= \"a\" r%d | \"b\"\n", 30000, ""), "");
    too_large(repeated("root ::= ", "[a-z] ", 60000, ""), "262144");
    too_large(repeated("root ::= \"z\"", " | \"%d\"", 6000, "\n"), "4096");
    too_large(repeated("root ::= \"z\"", " | [\\U%08x]", 16000, "\n"), "");
    /* Repetitions of repetitions stay small. */
    char *nested = repeated("root ::= ", "(", 12, "\"a\" \"b\"");
    char *whole = repeated(nested, "){1000,1100}", 12, "");
    an_grammar *g;
    an_error e;
    double before = an_now_s();
    CHECK(an_grammar_gbnf(whole, strlen(whole), NULL, &g, &e) == AN_OK);
    CHECK(an_now_s() - before < 5);
    an_grammar_unref(g);
    free(nested);
    free(whole);
}

/* Ambiguity without end: every way of cutting a run of letters. It must stay small or be refused.
 */
TEST(ambiguity)
{
    static const char *const grammars[] = {
        "root ::= (\"a\" | \"aa\" | \"aaa\")*", "root ::= s\ns ::= \"a\" s \"a\"? | \"a\"",
        "root ::= a*\na ::= b* \"x\"\nb ::= c*\nc ::= \"a\" | \"a\" \"a\"",
        "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"a\" root | \"a\""};
    an_vocab *v = tiny_vocab();
    for (size_t i = 0; i < sizeof grammars / sizeof *grammars; i++) {
        an_grammar *g = gbnf(grammars[i]);
        an_matcher *m;
        an_error e;
        uint8_t mask[TINY_SIZE];
        double before = an_now_s();
        REQUIRE(g && an_matcher_new(g, v, &m, &e) == AN_OK);
        int n = 0;
        while (n < 3000 && an_matcher_mask(m, mask, sizeof mask) && mask['a'] &&
               an_matcher_accept(m, 'a'))
            n++;
        /* The last one's stacks double with each letter: at the limit it must close what is open.
         */
        CHECK_MSG(n > (i < 3 ? 2000 : 5), "%d letters of %s", n, grammars[i]);
        CHECK(an_matcher_mask(m, mask, sizeof mask));
        CHECK_MSG(an_now_s() - before < 120, "%.1f s", an_now_s() - before);
        an_matcher_free(m);
        an_grammar_unref(g);
    }
    an_vocab_free(v);
}

/* Nesting stops at the limit: then only what needs no deeper nesting is allowed. */
TEST(nesting)
{
    an_vocab *v = tiny_vocab();
    an_grammar *g;
    an_matcher *m;
    an_error e;
    uint8_t mask[TINY_SIZE];
    int n = 0;
    REQUIRE(an_grammar_schema(NULL, NULL, &g, &e) == AN_OK);
    REQUIRE(an_matcher_new(g, v, &m, &e) == AN_OK);
    for (const char *p = "{\"a\":"; *p; p++) CHECK(an_matcher_accept(m, (unsigned char)*p));
    while (n < 5000 && an_matcher_accept(m, '[')) n++;
    CHECK_MSG(n > 100 && n < 1100, "%d brackets", n);
    CHECK(an_matcher_mask(m, mask, sizeof mask) && mask[']']);
    for (; n > 0; n--) CHECK(an_matcher_accept(m, ']'));
    CHECK(an_matcher_accept(m, '}') && an_matcher_only_end(m));
    an_matcher_free(m);
    an_grammar_unref(g);
    an_vocab_free(v);
}

/* Takes the character U+4E00 n times, as its bytes. */
static int advance(an_matcher *m, int n)
{
    for (int i = 0; i < n; i++)
        if (!an_matcher_accept(m, 0xe4) || !an_matcher_accept(m, 0xb8) ||
            !an_matcher_accept(m, 0x80))
            return i;
    return n;
}

/* So many large states that they are dropped on the way: matchers that stand behind must not
 * notice. */
TEST(forgotten_states)
{
    an_buf b;
    an_error e;
    an_grammar *g;
    an_matcher *ahead, *behind;
    an_vocab *v = tiny_vocab();
    an_buf_init(&b, 1 << 20);
    an_buf_str(&b, "root ::= s{1000} s{1000}\ns ::= \"\\u4E00\"");
    for (int i = 1; i < 400; i++) an_buf_printf(&b, " | \"\\u%04X\"", 0x4e00 + i);
    REQUIRE(an_grammar_gbnf(b.data, b.len, NULL, &g, &e) == AN_OK);
    REQUIRE(an_matcher_new(g, v, &ahead, &e) == AN_OK);
    REQUIRE(an_matcher_new(g, v, &behind, &e) == AN_OK);
    CHECK(advance(behind, 100) == 100);
    CHECK(advance(ahead, 1999) == 1999 && !an_matcher_complete(ahead));
    CHECK(advance(behind, 1899) == 1899 && !an_matcher_complete(behind));
    CHECK(advance(ahead, 2) == 1 && an_matcher_only_end(ahead));
    CHECK(advance(behind, 2) == 1 && an_matcher_only_end(behind));
    an_matcher_free(ahead);
    an_matcher_free(behind);
    an_grammar_unref(g);
    an_vocab_free(v);
    an_buf_free(&b);
}

/* ---------------------------------------------------------------- threads */

typedef struct shared {
    an_grammar *g;
    const an_vocab *v;
    int failed;
} shared;

static void *walk(void *arg)
{
    static const char text[] = "{\"key\": [1, 2.5, \"日本\", {\"a\": null}], \"b\": true}";
    shared *s = arg;
    uint8_t mask[TINY_SIZE];
    for (int round = 0; round < 20; round++) {
        an_matcher *m;
        an_error e;
        if (an_matcher_new(s->g, s->v, &m, &e) != AN_OK) {
            s->failed++;
            return NULL;
        }
        for (const char *p = text; *p; p++) {
            unsigned char c = (unsigned char)*p;
            if (!an_matcher_mask(m, mask, sizeof mask) || !mask[c] || !an_matcher_accept(m, c))
                s->failed++;
        }
        if (!an_matcher_only_end(m)) s->failed++;
        an_matcher_free(m);
    }
    return NULL;
}

/* n words of letters, shortest first, then an end token. */
static an_vocab *word_vocab(int n)
{
    json_t *tokens = json_array(), *types = json_array();
    an_vocab *v = NULL;
    for (int i = 0; i < n; i++) {
        char word[16] = "", *p = word + sizeof word - 1;
        int k = i;
        do {
            *--p = (char)('a' + k % 26);
            k = k / 26 - 1;
        } while (k >= 0);
        json_array_append_new(tokens, json_string(p));
        json_array_append_new(types, json_integer(1));
    }
    json_array_append_new(tokens, json_string("<|end|>"));
    json_array_append_new(types, json_integer(3));
    json_t *meta = json_pack("{s:s, s:s, s:o, s:o, s:[], s:i}", "tokenizer.ggml.model", "gpt2",
                             "tokenizer.ggml.pre", "smollm", "tokenizer.ggml.tokens", tokens,
                             "tokenizer.ggml.token_type", types, "tokenizer.ggml.merges",
                             "tokenizer.ggml.eos_token_id", n);
    an_vocab_open_gguf(meta, &v, NULL);
    json_decref(meta);
    return v;
}

/* Only the first matcher of a vocabulary waits for it to be taken apart, or nobody where it was
 * prepared; and a grammar keeps the masks of two vocabularies apart. */
TEST(a_vocabulary_is_prepared_once)
{
    an_vocab *v[2] = {word_vocab(30000), word_vocab(400)};
    an_grammar *g = NULL;
    an_error e;
    REQUIRE(v[0] && v[1]);
    static const char text[] = "root ::= \"ab\" | \"b\"";
    REQUIRE(an_grammar_gbnf(text, sizeof text - 1, NULL, &g, &e) == AN_OK);
    double start = an_now_s();
    REQUIRE(an_grammar_prepare(v[0], &e) == AN_OK);
    double prepare = an_now_s() - start, later = 0;
    uint8_t *mask = malloc(30001);
    REQUIRE(mask);
    for (int i = 0; i < 20; i++) { /* no matcher lives meanwhile */
        an_matcher *m = NULL;
        int allowed = 0;
        start = an_now_s();
        REQUIRE(an_matcher_new(g, v[i % 2], &m, &e) == AN_OK);
        if (i % 2 == 0) later += an_now_s() - start;
        REQUIRE(an_matcher_mask(m, mask, 30001));
        for (int id = 0; id <= 30000; id++) allowed += mask[id]; /* 0 beyond the smaller one */
        CHECK(allowed == 3 && mask[0] && mask[1] && mask[27]);   /* a, b, ab */
        an_matcher_free(m);
    }
    printf("  prepared in %.2f ms, then 10 matchers in %.3f ms\n", 1e3 * prepare, 1e3 * later);
    CHECK(later < prepare);
    free(mask);
    an_grammar_unref(g);
    an_vocab_free(v[0]);
    an_vocab_free(v[1]);
}

/* A model may have fewer logits than its tokenizer has tokens, an end token among the missing ones,
 * or more: a mask keeps to its room, fresh, remembered or after the end. */
TEST(a_mask_keeps_to_its_room)
{
    static const size_t rooms[] = {0, 1, 'b', 'b' + 1, 256, TINY_END, TINY_SIZE, TINY_SIZE + 40};
    an_vocab *v = tiny_vocab();
    REQUIRE(v);
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        an_grammar *g = gbnf("root ::= [a-z]*");
        an_matcher *m;
        an_error e;
        uint8_t whole[TINY_SIZE], mask[TINY_SIZE + 48];
        REQUIRE(g && an_matcher_new(g, v, &m, &e) == AN_OK);
        for (int round = 0; round < 3; round++) {
            size_t room = rooms[i];
            memset(mask, 7, sizeof mask);
            if (round == 2) CHECK(an_matcher_accept(m, TINY_END));
            CHECK(an_matcher_mask(m, mask, room));
            CHECK(an_matcher_mask(m, whole, sizeof whole));
            CHECK(whole[TINY_END] && whole['a'] == (round < 2));
            for (size_t k = 0; k < sizeof mask; k++)
                CHECK_MSG(mask[k] == (k >= room       ? 7
                                      : k < TINY_SIZE ? whole[k]
                                                      : 0),
                          "room %zu, round %d: byte %zu is %d", room, round, k, mask[k]);
        }
        an_matcher_free(m);
        an_grammar_unref(g);
    }
    an_vocab_free(v);
}

TEST(threads)
{
    an_vocab *v = tiny_vocab();
    shared s[4];
    pthread_t t[4];
    an_grammar *g;
    an_error e;
    REQUIRE(an_grammar_schema(NULL, NULL, &g, &e) == AN_OK);
    for (int i = 0; i < 4; i++) {
        s[i] = (shared){an_grammar_ref(g), v, 0};
        pthread_create(&t[i], NULL, walk, &s[i]);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        CHECK(s[i].failed == 0);
        an_grammar_unref(g);
    }
    an_grammar_unref(g);
    an_vocab_free(v);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
