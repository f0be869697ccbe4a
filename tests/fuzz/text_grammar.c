/* Any bytes as a grammar: a schema when they are JSON, else GBNF; then a walk along its masks
 * chosen by the last bytes. What must hold: mask and accept agree, an error says something, nothing
 * leaks, nothing takes long. */
#include "../unit/text_grammar.h"

#include <stdio.h>
#include <stdlib.h>

#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) abort();                                                                      \
    } while (0)

static const an_vocab *vocab(void)
{
    static an_vocab *v;
    if (!v) v = tiny_vocab();
    MUST(v != NULL);
    return v;
}

static void walk(an_grammar *g, const uint8_t *data, size_t size)
{
    an_matcher *m;
    an_error e;
    uint8_t mask[TINY_SIZE];
    if (an_matcher_new(g, vocab(), &m, &e) != AN_OK) return;
    for (size_t i = 0; i < size && i < 64; i++) {
        if (!an_matcher_mask(m, mask, sizeof mask)) break;
        bool complete = an_matcher_complete(m);
        MUST(mask[TINY_END] == complete && !mask[TINY_END + 1]);
        int32_t refused = (int32_t)(data[i] * 7u % TINY_SIZE), t = data[i];
        MUST(mask[refused] || !an_matcher_accept(m, refused));
        while (!mask[t]) t = (t + 1) % TINY_SIZE;
        if (an_matcher_only_end(m)) MUST(t == TINY_END);
        MUST(an_matcher_accept(m, t));
        if (t == TINY_END) break;
    }
    an_matcher_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    an_error e = {0};
    an_grammar *g;
    an_grammar_limits l;
    an_grammar_limits_default(&l);
    l.max_rules = 3000;
    l.max_repeat = 200;
    l.max_stacks = 300;
    l.max_depth = 60;
    json_t *schema = json_loadb((const char *)data, size, JSON_DECODE_ANY, NULL);
    an_status s = schema ? an_grammar_schema(schema, &l, &g, &e)
                         : an_grammar_gbnf((const char *)data, size, &l, &g, &e);
    json_decref(schema);
    if (s != AN_OK) {
        MUST(!g && e.message[0] && (s == AN_INVALID || s == AN_TOO_LARGE));
        MUST(an_utf8_valid(e.message, strlen(e.message)));
        return 0;
    }
    size_t tail = size < 48 ? size : 48;
    walk(g, data + size - tail, tail);
    an_grammar_unref(g);
    return 0;
}
