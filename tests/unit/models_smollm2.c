/* A real model: SmolLM2-135M-Instruct as a Q4_1 GGUF file, against what llama.cpp answers to 201
 * prompts (tests/golden/make/smollm2.py). Teacher-forced on its answers: our greedy choice must be
 * its choice wherever its two best logits are further apart than its own numbers move when only its
 * batch size or KV type changes. And our prompts, from the file's template and vocabulary, are its
 * prompts.
 * ./run fetches the file; $ANNEAL_SMOLLM2 names another place. */
#include "anneal/template.h"
#include "models_lm_fixture.h"

#include <jansson.h>

enum { TOGETHER = 4, ARENA = 96 << 20 };

/* Of the prompts, every so-manieth is looked at; ANNEAL_TEST_ALL=1 asks for all of them. */
static int step_of_prompts(void)
{
    if (getenv("ANNEAL_TEST_ALL")) return 1;
#if defined(AN_SANITIZE_address) || defined(AN_SANITIZE_thread)
    return 20;
#else
    return 4;
#endif
}

static const char *model_path(char *buf, size_t size)
{
    const char *own = getenv("ANNEAL_SMOLLM2"), *home = getenv("HOME");
    if (own && *own) return own;
    snprintf(buf, size, "%s/.cache/anneal/models/smollm2-135m-instruct.gguf", home ? home : "");
    return buf;
}

/* What llama.cpp said. */
typedef struct golden {
    an_weights *file;
    const int32_t *ids, *len,
        *answers;         /* [sum of len], [prompts], [prompts, tokens]: -1 past its end */
    const float *margins; /* [prompts, tokens] */
    float moved;          /* the most that one of them moves with batch size or KV type */
    int prompts, tokens;
} golden;

static bool golden_open(golden *g)
{
    static const char *const name[] = {"prompt_ids", "prompt_len", "answers", "margins"};
    static const char *const moved[] = {"moved_alone", "moved_batch8", "moved_kv_bf16",
                                        "moved_kv_q8"};
    an_tensor t[4], m;
    an_error err = {.message = ""};
    an_status s = an_weights_open(AN_GOLDEN "/smollm2/llamacpp.safetensors", &g->file, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    if (s) return false;
    for (int i = 0; i < 4; i++) {
        bool there = an_weights_find(g->file, name[i], &t[i]);
        CHECK_MSG(there, "no %s", name[i]);
        if (!there) return false;
    }
    g->ids = t[0].data;
    g->len = t[1].data;
    g->answers = t[2].data;
    g->margins = t[3].data;
    g->prompts = (int)t[2].dim[0];
    g->tokens = (int)t[2].dim[1];
    for (int k = 0; k < 4; k++) {
        if (!an_weights_find(g->file, moved[k], &m)) continue;
        for (int64_t i = 0; i < an_tensor_count(&m); i++)
            if (((const float *)m.data)[i] > g->moved) g->moved = ((const float *)m.data)[i];
    }
    CHECK_MSG(g->moved > 0, "no measure of how far llama.cpp's own numbers move");
    return true;
}

/* Ids of prompt p. */
static const int32_t *prompt_ids(const golden *g, int p)
{
    const int32_t *ids = g->ids;
    for (int i = 0; i < p; i++) ids += g->len[i];
    return ids;
}

/* ---------------------------------------------------------------- choices */

typedef struct tally {
    int positions, agreed, sure, sure_agreed;
} tally;

/* Token t of prompt p was chosen by us as `ours`. */
static void count(const golden *g, tally *y, int p, int t, int32_t ours)
{
    int at = p * g->tokens + t;
    bool same = ours == g->answers[at], sure = g->margins[at] > g->moved;
    y->positions++;
    y->agreed += same;
    y->sure += sure;
    y->sure_agreed += sure && same;
    if (sure && !same)
        printf("  prompt %d, token %d: %d, llama.cpp %d by %.3f\n", p, t, ours, g->answers[at],
               (double)g->margins[at]);
}

/* Some prompts with their answers behind them, in one tick. */
static void check_prompts(lm *f, const golden *g, const int *which, int n, tally *y)
{
    sequence s[TOGETHER];
    an_lm_row row[TOGETHER];
    int32_t ids[TOGETHER][LM_CONTEXT];
    float *logits = malloc((size_t)g->tokens * (size_t)f->vocab * sizeof *logits);
    for (int r = 0; r < n; r++) {
        int p = which[r], len = g->len[p], given = 0;
        memcpy(ids[r], prompt_ids(g, p), (size_t)len * sizeof **ids);
        while (given < g->tokens && g->answers[p * g->tokens + given] >= 0) given++;
        memcpy(ids[r] + len, g->answers + p * g->tokens, (size_t)given * sizeof **ids);
        s[r] = sequence_of(f, ids[r], len + given - 1);
        row[r] = sequence_row(f, &s[r], len + given - 1, given);
    }
    lm_tick(f, row, n);
    for (int r = 0; r < n; r++) {
        lm_read(f, &row[r], logits);
        for (int t = 0; t < row[r].want; t++)
            count(g, y, which[r], t, greatest(logits + (size_t)t * (size_t)f->vocab, f->vocab));
    }
    for (int r = 0; r < n; r++) an_device_free(f->device, f->logits[--f->n_logits]);
    free(logits);
}

static void check_choices(const char *path, an_dtype dtype)
{
    lm f = {.name = "SmolLM2"};
    golden g = {0};
    tally y = {0};
    int which[TOGETHER], n = 0;
    bool open = golden_open(&g) && lm_open_path(&f, path, test_device(), dtype, LM_BLOCKS, ARENA);
    for (int p = 0; open && p < g.prompts; p += step_of_prompts()) {
        /* an answer that begins with a character of several tokens was not recorded */
        if (g.answers[p * g.tokens] >= 0) which[n++] = p;
        bool last = p + step_of_prompts() >= g.prompts;
        if (n < TOGETHER && !last) continue;
        if (n) check_prompts(&f, &g, which, n, &y);
        n = 0;
    }
    if (open) {
        printf(
            "  %s: %.2f %% of %d choices are llama.cpp's; %d of %d where it is sure by more than "
            "%.3f; %.1f MB of weights\n",
            an_dtype_name(dtype), 100.0 * y.agreed / y.positions, y.positions, y.sure_agreed,
            y.sure, (double)g.moved, (double)an_model_weight_bytes(f.model) / 1e6);
        CHECK(y.sure > y.positions / 2 && y.sure_agreed == y.sure);
        CHECK((double)y.agreed / y.positions > 0.95);
    }
    lm_close(&f);
    an_weights_close(g.file);
}

TEST(choices_are_those_of_llama_cpp)
{
    char buf[4096];
    const char *path = model_path(buf, sizeof buf);
    if (!an_is_file(path)) SKIP("no %s: ./run fetches it", path);
    check_choices(path, AN_F32);
    check_choices(path, AN_BF16);
}

/* ---------------------------------------------------------------- prompts */

static void check_prompt(const an_template *t, const an_vocab *v, const golden *g, int p,
                         const char *text, const char *bos, const char *eos)
{
    an_buf out;
    an_error err = {.message = ""};
    int32_t *ids = NULL;
    size_t n = 0;
    an_buf_init(&out, 1 << 16);
    json_t *vars = json_pack("{s:[{s:s,s:s}],s:b,s:s,s:s}", "messages", "role", "user", "content",
                             text, "add_generation_prompt", 1, "bos_token", bos, "eos_token", eos);
    an_status s = an_template_render(t, vars, 0, &out, &err);
    if (!s) s = an_vocab_encode(v, out.data, out.len, AN_PARSE_SPECIAL, &ids, &n, &err);
    CHECK_MSG(s == AN_OK, "prompt %d: %s", p, err.message);
    if (!s)
        CHECK_MSG((int)n == g->len[p] && memcmp(ids, prompt_ids(g, p), n * sizeof *ids) == 0,
                  "prompt %d: other ids than llama.cpp's: %s", p, out.data);
    free(ids);
    json_decref(vars);
    an_buf_free(&out);
}

static void check_all_prompts(const golden *g, an_checkpoint *c, const an_vocab *v)
{
    an_error err = {.message = ""};
    char *source, *bos, *eos, *text;
    an_template *t = NULL;
    an_status s = an_model_chat_template(c, &source, &bos, &eos, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    if (s) return;
    CHECK_STR(bos, "<|im_start|>");
    CHECK_STR(eos, "<|im_end|>");
    s = an_template_parse(source, strlen(source), NULL, &t, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    if (!s) s = an_read_file(AN_GOLDEN "/smollm2/prompts.txt", 1 << 20, &text, NULL, &err);
    int p = 0;
    if (!s) {
        char *rest = text;
        for (char *line; (line = strsep(&rest, "\n")) && *line && p < g->prompts; p++)
            check_prompt(t, v, g, p, line, bos, eos);
        free(text);
    }
    CHECK(p == g->prompts);
    an_template_free(t);
    free(source);
    free(bos);
    free(eos);
}

TEST(prompts_are_those_of_llama_cpp)
{
    char buf[4096];
    const char *path = model_path(buf, sizeof buf);
    if (!an_is_file(path)) SKIP("no %s: ./run fetches it", path);
    an_error err = {.message = ""};
    an_checkpoint *c = NULL;
    an_vocab *v = NULL;
    golden g = {0};
    CHECK(an_checkpoint_open(path, &c, &err) == AN_OK);
    an_status s = an_model_vocab(c, &v, &err);
    CHECK_MSG(s == AN_OK, "%s", err.message);
    if (!s && golden_open(&g)) check_all_prompts(&g, c, v);
    an_weights_close(g.file);
    an_vocab_free(v);
    an_checkpoint_close(c);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
