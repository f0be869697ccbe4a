/* Language models against logits that transformers computed (tests/golden/make/llm.py,
 * llm_more.py): to 1e-4 in f32 on the reference and the CPU, and the greedy continuation, token by
 * token. Then what must hold of any: a row's logits are the same bytes however its tokens were cut,
 * whoever shares the tick and wherever its blocks lie; and a tick needs exactly the memory that the
 * counting run said.
 */
#include "models_lm_fixture.h"

static const char *const names[] = {
    /* llm.py */ "llama",
    "llama3-rope",
    "mistral-window",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "mixtral",
    "qwen3-moe",
    /* llm_more.py */ "gemma",
    "qwen2-moe",
    "qwen2-moe-stacked",
    "yarn",
    "linear-bias",
    "longrope",
    "qwen2-window"};
enum { NAMES = sizeof names / sizeof *names };
static const struct {
    const char *device;
    an_dtype dtype;
    double bound; /* of the logits, absolute */
} runs[] = {{"ref", AN_F32, 1e-4}, {"cpu", AN_F32, 1e-4}, {"cpu", AN_BF16, 2}};

/* The device of a run, NULL where another device than the CPU is tested and needs no reference. */
static const char *device_of(size_t run)
{
    if (strcmp(test_device(), "cpu") == 0) return runs[run].device;
    return strcmp(runs[run].device, "ref") == 0 ? NULL : test_device();
}

/* ---------------------------------------------------------------- goldens */

static double greatest_difference(const float *a, const float *b, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most)) most = d; /* NaN stays */
    }
    return most;
}

static void check_golden(const char *name, const char *device, an_dtype dtype, double bound)
{
    lm f;
    an_tensor ids, want, greedy, margin;
    if (lm_open(&f, name, device, dtype) && opened_tensor(&f.open, "input_ids", &ids) &&
        opened_tensor(&f.open, "logits", &want) && opened_tensor(&f.open, "greedy_ids", &greedy) &&
        opened_tensor(&f.open, "greedy_margin", &margin)) {
        int n = (int)ids.dim[1], vocab = (int)want.dim[2];
        float *logits = malloc((size_t)n * (size_t)vocab * sizeof *logits);
        sequence s = sequence_of(&f, ids.data, n);
        lm_feed(&f, &s, n, n, logits);
        double e = greatest_difference(logits, want.data, (int64_t)n * vocab);
        CHECK_MSG(e <= bound, "%s: logits differ by %.3g, allowed %.3g", f.name, e, bound);
        printf("  %s: logits differ by %.3g\n", f.name, e);
        /* teacher-forced on transformers' answer; bf16 may turn a near tie */
        int given = 20, all = (int)greedy.dim[1], wrong = 0;
        const int32_t *answer = greedy.data;
        sequence g = sequence_of(&f, answer, all);
        lm_feed(&f, &g, given, 1, logits);
        for (int i = given; i < all; i++) {
            double m = (double)((const float *)margin.data)[i - given];
            wrong += greatest(logits, vocab) != answer[i] && m > (dtype == AN_F32 ? 1e-4 : 0.5);
            lm_feed(&f, &g, 1, 1, logits);
        }
        CHECK_MSG(wrong == 0, "%s: %d of %d greedy tokens differ", f.name, wrong, all - given);
        free(logits);
    }
    lm_close(&f);
}

TEST(goldens)
{
    for (size_t r = 0; r < sizeof runs / sizeof *runs; r++)
        for (int i = 0; i < NAMES && device_of(r); i++)
            check_golden(names[i], device_of(r), runs[r].dtype, runs[r].bound);
}

/* ---------------------------------------------------------------- batch invariance */

enum { LENGTH = 61 };

/* Logits of every token of a prompt, fed in pieces of `piece`. */
static void in_pieces(lm *f, const int32_t *ids, int piece, float *out)
{
    sequence s = sequence_of(f, ids, LENGTH);
    for (int at = 0; at < LENGTH; at += piece) {
        int n = LENGTH - at < piece ? LENGTH - at : piece;
        lm_feed(f, &s, n, n, out + (size_t)at * (size_t)f->vocab);
    }
}

/* The same prompt as one of several rows of different lengths, first to last in the tick. */
static void in_company(lm *f, const int32_t *ids, int others, int place, float *out)
{
    enum { MOST = 8 };
    sequence s[MOST + 1];
    an_lm_row row[MOST + 1];
    int32_t other[MOST][LENGTH];
    uint32_t seed = 7;
    for (int r = 0, o = 0; r <= others; r++) {
        int n = r == place ? LENGTH : 1 + o * 7;
        const int32_t *mine = ids;
        if (r != place) {
            for (int i = 0; i < n; i++) other[o][i] = (int32_t)(lm_random(&seed) % 500) + 3;
            mine = other[o++];
        }
        s[r] = sequence_of(f, mine, n);
        row[r] = sequence_row(f, &s[r], n, n);
    }
    lm_tick(f, row, others + 1);
    lm_read(f, &row[place], out);
}

static void check_invariance(const char *name, const char *device, an_dtype dtype)
{
    static const int pieces[] = {1, 3, 16, 17};
    lm f;
    int32_t ids[LENGTH];
    uint32_t seed = 3;
    for (int i = 0; i < LENGTH; i++) ids[i] = (int32_t)(lm_random(&seed) % 500) + 3;
    if (lm_open(&f, name, device, dtype)) {
        size_t count = (size_t)LENGTH * (size_t)f.vocab, bytes = count * sizeof(float);
        float *whole = malloc(bytes), *cut = malloc(bytes);
        in_pieces(&f, ids, LENGTH, whole);
        for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
            in_pieces(&f, ids, pieces[p], cut);
            CHECK_MSG(memcmp(whole, cut, bytes) == 0, "%s: other bytes in pieces of %d", f.name,
                      pieces[p]);
        }
        for (int place = 0; place <= 5; place += 5) {
            in_company(&f, ids, 5, place, cut);
            CHECK_MSG(memcmp(whole, cut, bytes) == 0, "%s: other bytes as row %d of 6", f.name,
                      place);
        }
        free(whole);
        free(cut);
    }
    lm_close(&f);
}

TEST(batch_invariance)
{
    for (size_t r = 0; r < sizeof runs / sizeof *runs; r++)
        for (int i = 0; i < NAMES && device_of(r); i++)
            check_invariance(names[i], device_of(r), runs[r].dtype);
}

/* ---------------------------------------------------------------- cost */

static void check_cost(const char *name, an_dtype dtype, int rows, int tokens, int want,
                       int context)
{
    enum { ROWS = 8 };
    lm f;
    an_cost cost;
    an_lm_row row[ROWS];
    sequence s[ROWS];
    int32_t ids[LENGTH] = {0};
    if (lm_open(&f, name, test_device(), dtype) &&
        opened_ok(&f.open, an_lm_cost(f.model, rows, tokens, want, context, &cost, &f.err),
                  "cost")) {
        for (int r = 0, left = want; r < rows; r++) {
            int n = tokens / rows + (r < tokens % rows), w = left < n ? left : n;
            s[r] = sequence_of(&f, ids, n);
            s[r].pos = context - n;
            row[r] = sequence_row(&f, &s[r], n, w);
            row[r].ids = ids;
            left -= w;
        }
        lm_fill(&f, 0);
        an_lane *l;
        CHECK(an_lane_open(f.device, cost.scratch_bytes, &l, &f.err) == AN_OK);
        opened_ok(&f.open, an_lm_forward(f.model, l, f.kv, row, rows, &f.err), "forward");
        CHECK_MSG(an_lane_peak(l) == cost.scratch_bytes, "%s: %d tokens: peak %zu, counted %zu",
                  f.name, tokens, an_lane_peak(l), cost.scratch_bytes);
        CHECK(cost.flops > 0 && an_lane_flops(l) == cost.flops);
        an_lane_close(l);
    }
    lm_close(&f);
}

TEST(cost_is_what_a_tick_takes)
{
    for (int i = 0; i < NAMES; i++) {
        check_cost(names[i], AN_F32, 1, 1, 1, 40);
        check_cost(names[i], AN_F32, 5, 60, 5, 100);
        check_cost(names[i], AN_BF16, 8, 8, 8, 33);
        check_cost(names[i], AN_BF16, 1, 61, 0, 61);
    }
}

/* ---------------------------------------------------------------- refusals */

static void refuse(lm *f, an_lm_row row, const char *says)
{
    an_status s = an_lm_forward(f->model, f->lane, f->kv, &row, 1, &f->err);
    CHECK_MSG(s == AN_INVALID && strstr(f->err.message, says), "%s, expected '%s'", f->err.message,
              says);
}

TEST(bad_ticks)
{
    lm f;
    float logits[1];
    int32_t ids[] = {5, 6, 7, 8}, blocks[64] = {0};
    if (lm_open(&f, "llama", "cpu", AN_F32)) {
        an_lm_row good = {.ids = ids, .n = 4, .blocks = blocks}, r = good;
        r.n = 0;
        refuse(&f, r, "row 0: 0 tokens");
        r = good, r.want = 5;
        refuse(&f, r, "5 logits wanted");
        r = good, r.want = 1;
        refuse(&f, r, "logits is NULL");
        r = good, r.pos = -1;
        refuse(&f, r, "positions -1");
        r = good, r.pos = 509;
        refuse(&f, r, "positions 509 to 512, but the context has 512");
        r = good, r.pos = INT32_MAX;
        refuse(&f, r, "the context has 512");
        ids[2] = 512;
        refuse(&f, good, "token 2 is 512, expected 0 to 511");
        ids[2] = -1;
        refuse(&f, good, "token 2 is -1");
        ids[2] = 7;
        blocks[0] = (int32_t)f.kv->blocks;
        refuse(&f, good, "block 0 is");
        CHECK(an_lm_forward(f.model, f.lane, f.kv, &good, 0, &f.err) == AN_INVALID);
        blocks[0] = 0;
        CHECK(an_lm_forward(f.model, f.lane, f.kv, &good, 1, &f.err) == AN_OK);
        an_row row = {0};
        CHECK(an_model_step(f.model, f.lane, AN_STAGE_FORWARD, &row, 1, &f.err) == AN_INVALID);
        CHECK(strstr(f.err.message, "an_lm_forward") != NULL);
        an_cost cost;
        CHECK(an_lm_cost(f.model, 2, 1, 1, 40, &cost, &f.err) == AN_INVALID);
        CHECK(an_lm_cost(f.model, 1, 50, 1, 40, &cost, &f.err) == AN_INVALID);
        CHECK(an_lm_cost(f.model, 1, 1, 1, 513, &cost, &f.err) == AN_INVALID);
        CHECK(an_model_cost(f.model, AN_STAGE_DENOISE, 1, 8, 8, 8, &cost, &f.err) == AN_INVALID);
        an_kv *kv;
        CHECK(an_kv_open(f.model, 0, &kv, &f.err) == AN_INVALID && !kv);
        CHECK(an_kv_open(f.model, INT64_MAX, &kv, &f.err) == AN_INVALID && !kv);
        (void)logits;
    }
    lm_close(&f);
}

int main(int argc, char **argv)
{
    return test_main(argc, argv);
}
